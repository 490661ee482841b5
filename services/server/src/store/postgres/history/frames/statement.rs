//! The statement that reads frames.

use std::fmt::Write as _;

use super::FramesPartition;
use crate::store::postgres::partitions::FRAMES;

/// So many series at most are looked for in a frame's own list before it is taken apart: comparing each of them with each of the list takes a fraction of the time
/// then.
const MAX_COMPARED_SERIES: usize = 16;

/// Between which places of a frame's own list the wanted series stand.
const OWN_SPAN: &str = "CROSS JOIN LATERAL (
        SELECT min(own.place) AS first, max(own.place) AS last
        FROM (SELECT unnest(frames.series_ids) AS id, generate_subscripts(frames.series_ids, 1) AS place) AS own WHERE own.id = ANY($5)
    ) AS span";

/// The statement that gives each [`super::Row`] of these many series, whose frames are in these partitions. Each partition is named: what is read of it is not
/// found by its time.
pub(super) fn statement(partitions: &[FramesPartition], series: usize) -> String {
    // Rows of a UNION ALL come part by part, since no parallel workers make them. Frames that are sealed as well are rare: they are dropped soon.
    let mut statement = r#"WITH sealed AS MATERIALIZED (
            SELECT source_id, frames_start, keys FROM sealed_reports WHERE frames_start = ANY($4) AND source_id = ANY($6)
        )
        SELECT source_id, frames_start AS start, NULL::bigint AS piece, NULL::timestamptz[] AS ats, NULL::bigint[] AS arrivals,
            NULL::double precision[] AS "values", NULL::timestamptz[] AS times, NULL::bigint[] AS deltas, NULL::uuid[] AS keys,
            NULL::integer[] AS ids, keys AS sealed_keys, NULL::integer AS last_day
        FROM sealed"#
        .to_owned();
    let some_are_sealed = "(SELECT EXISTS (SELECT FROM sealed))";
    let mut part = 0;
    for partition in partitions {
        let name = FRAMES.partition(partition.slot);
        for which in [
            "AND frames.at >= job.since AND coalesce(frames.newest_at, frames.at) >= job.since AND coalesce(frames.oldest_at, frames.at) <= job.until",
            "AND frames.transaction_id >= job.after",
        ] {
            part += 1;
            let range = format!("[($16::integer[])[{part}]:($17::integer[])[{part}]]");
            let _ = write!(
                statement,
                r#" UNION ALL SELECT job.source_id, NULL, cut.*, NULL, NULL, NULL
                FROM unnest(
                    ($9::integer[]){range}, ($10::integer[]){range}, ($11::integer[]){range}, ($12::timestamptz[]){range},
                    ($13::timestamptz[]){range}, ($14::bigint[]){range}, ($15::boolean[]){range}
                ) AS job (source_id, first, last, since, until, after, is_kept) CROSS JOIN LATERAL (
                    SELECT job.first - 1 + piece.n AS piece, array_agg(frames.at) AS ats, array_agg(frames.arrival) AS arrivals,
                        array_agg(frames."values"[piece.first:piece.last]) AS "values",
                        array_agg(frames.times[piece.first:piece.last]) FILTER (WHERE frames.times IS NOT NULL) AS times,
                        array_agg(frames.deltas[piece.first:piece.last]) FILTER (WHERE frames.deltas IS NOT NULL) AS deltas,
                        array_agg(frames.key) FILTER (WHERE job.is_kept OR {some_are_sealed}) AS keys
                    FROM {name} AS frames JOIN unnest(
                        ($18::integer[])[job.first:job.last], ($19::integer[])[job.first:job.last], ($20::integer[])[job.first:job.last]
                    ) WITH ORDINALITY AS piece (layout_id, first, last, n) ON piece.layout_id = frames.layout_id
                    WHERE frames.source_id = job.source_id {which}
                    GROUP BY piece.n, frames.times IS NULL, frames.deltas IS NULL
                ) AS cut"#
            );
        }
    }
    // Few series are looked for in a frame's own list before it is taken apart, and then only the part is in which they stand.
    let (has_some, span, part) =
        if series <= MAX_COMPARED_SERIES { ("AND frames.series_ids && $5", OWN_SPAN, "[span.first:span.last]") } else { ("", "", "") };
    // These frames have an index of their own. Lists that are taken apart in the target list are not stored on the way, as they would be in FROM.
    let _ = write!(
        statement,
        r#" UNION ALL SELECT frames.source_id, NULL, NULL, ARRAY[frames.at], ARRAY[frames.arrival], cut."values", cut.times, cut.deltas,
            CASE WHEN {some_are_sealed} THEN ARRAY[frames.key] END, cut.ids, NULL, NULL
        FROM frames
        {span}
        CROSS JOIN LATERAL (
            SELECT array_agg(own.id) AS ids, array_agg(own.value) AS "values",
                array_agg(own.at) FILTER (WHERE frames.times IS NOT NULL) AS times,
                array_agg(own.delta) FILTER (WHERE frames.deltas IS NOT NULL) AS deltas
            FROM (
                SELECT unnest(frames.series_ids{part}) AS id, unnest(frames."values"{part}) AS value, unnest(frames.times{part}) AS at,
                    unnest(frames.deltas{part}) AS delta
            ) AS own
            WHERE own.id = ANY($5) AND coalesce(own.at, frames.at) >= $1 AND coalesce(own.at, frames.at) <= $2
        ) AS cut
        WHERE frames.source_id = ANY($3) AND frames.at >= ($4::timestamptz[])[1] AND frames.series_ids IS NOT NULL
            AND coalesce(frames.newest_at, frames.at) >= $1 AND coalesce(frames.oldest_at, frames.at) <= $2 {has_some} AND cut.ids IS NOT NULL
        UNION ALL SELECT source_id, NULL, id, NULL, NULL, NULL, NULL, NULL, NULL, series_ids, NULL, last_day - date '1970-01-01'
        FROM layouts WHERE source_id = ANY($3) AND last_day >= date '1970-01-01' + $7 AND id <> ALL($8)"#
    );
    statement
}
