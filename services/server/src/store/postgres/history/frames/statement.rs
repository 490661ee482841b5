//! The statement that reads frames.

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

/// What every statement begins with. Rows of a UNION ALL come part by part, since no parallel workers make them. Frames that are sealed as well are rare: they
/// are dropped soon.
const SEALED_KEYS: &str = r#"WITH sealed AS MATERIALIZED (
        SELECT source_id, frames_start, keys FROM sealed_reports WHERE frames_start = ANY($4) AND source_id = ANY($6)
    )
    SELECT source_id, frames_start AS start, NULL::bigint AS piece, NULL::timestamptz[] AS ats, NULL::bigint[] AS arrivals,
        NULL::double precision[] AS "values", NULL::timestamptz[] AS times, NULL::bigint[] AS deltas, NULL::uuid[] AS keys,
        NULL::integer[] AS ids, keys AS sealed_keys, NULL::integer AS last_day
    FROM sealed"#;
const SOME_ARE_SEALED: &str = "(SELECT EXISTS (SELECT FROM sealed))";
/// And ends with.
const OTHER_LAYOUTS: &str =
    " UNION ALL SELECT source_id, NULL, id, NULL, NULL, NULL, NULL, NULL, NULL, series_ids, NULL, last_day - date '1970-01-01'
    FROM layouts WHERE source_id = ANY($3) AND last_day >= date '1970-01-01' + $7 AND id <> ALL($8)";

/// The statement that gives each [`super::Row`] of these many series, whatever the partitions.
pub(super) fn of_all(series: usize) -> String {
    let frames = of_layouts(
        "unnest($9::integer[], $10::integer[], $11::integer[]) AS job (source_id, first, last) CROSS JOIN unnest($4::timestamptz[]) AS slot (start)",
        "frames",
        SOME_ARE_SEALED,
        &format!(
            "AND frames.at >= greatest(slot.start, $1) AND frames.at < slot.start + interval '{} ms'
            AND coalesce(frames.newest_at, frames.at) >= $1 AND coalesce(frames.oldest_at, frames.at) <= $2",
            FRAMES.span_millis
        ),
    );
    format!("{SEALED_KEYS}{frames}{}{OTHER_LAYOUTS}", of_own_lists("frames", "AND frames.at >= ($4::timestamptz[])[1]", series))
}

/// The same where some frames are known, which are in these partitions. Each partition is named: frames of a transaction are not found by their time.
pub(super) fn with_cache(partitions: &[FramesPartition], series: usize) -> String {
    let mut statement = SEALED_KEYS.to_owned();
    let mut part = 0;
    for partition in partitions {
        let name = FRAMES.partition(partition.slot);
        for which in [
            "AND frames.at >= job.since AND coalesce(frames.newest_at, frames.at) >= job.since AND coalesce(frames.oldest_at, frames.at) <= job.until",
            "AND frames.transaction_id >= job.since_transaction",
        ] {
            part += 1;
            let range = format!("[($19::integer[])[{part}]:($20::integer[])[{part}]]");
            let jobs = format!(
                "unnest(
                    ($9::integer[]){range}, ($10::integer[]){range}, ($11::integer[]){range}, ($15::timestamptz[]){range},
                    ($16::timestamptz[]){range}, ($17::bigint[]){range}, ($18::boolean[]){range}
                ) AS job (source_id, first, last, since, until, since_transaction, is_kept)"
            );
            statement.push_str(&of_layouts(&jobs, &name, &format!("job.is_kept OR {SOME_ARE_SEALED}"), which));
        }
        statement.push_str(&of_own_lists(&name, "", series));
    }
    statement.push_str(OTHER_LAYOUTS);
    statement
}

/// Frames of layouts: those that some jobs ask of a table.
fn of_layouts(jobs: &str, table: &str, with_keys: &str, which: &str) -> String {
    format!(
        r#" UNION ALL SELECT job.source_id, NULL, cut.*, NULL, NULL, NULL
        FROM {jobs} CROSS JOIN LATERAL (
            SELECT job.first - 1 + piece.n AS piece, array_agg(frames.at) AS ats, array_agg(frames.arrival) AS arrivals,
                array_agg(frames."values"[piece.first:piece.last]) AS "values",
                array_agg(frames.times[piece.first:piece.last]) FILTER (WHERE frames.times IS NOT NULL) AS times,
                array_agg(frames.deltas[piece.first:piece.last]) FILTER (WHERE frames.deltas IS NOT NULL) AS deltas,
                array_agg(frames.key) FILTER (WHERE {with_keys}) AS keys
            FROM {table} AS frames JOIN unnest(
                ($12::integer[])[job.first:job.last], ($13::integer[])[job.first:job.last], ($14::integer[])[job.first:job.last]
            ) WITH ORDINALITY AS piece (layout_id, first, last, n) ON piece.layout_id = frames.layout_id
            WHERE frames.source_id = job.source_id {which}
            GROUP BY piece.n, frames.times IS NULL, frames.deltas IS NULL
        ) AS cut"#
    )
}

/// Frames of a table that have lists of their own. They have an index of their own.
fn of_own_lists(table: &str, which: &str, series: usize) -> String {
    // Few series are looked for in a frame's own list before it is taken apart, and then only the part is in which they stand.
    let (has_some, span, part) =
        if series <= MAX_COMPARED_SERIES { ("AND frames.series_ids && $5", OWN_SPAN, "[span.first:span.last]") } else { ("", "", "") };
    // Lists that are taken apart in the target list are not stored on the way, as they would be in FROM.
    format!(
        r#" UNION ALL SELECT frames.source_id, NULL, NULL, ARRAY[frames.at], ARRAY[frames.arrival], cut."values", cut.times, cut.deltas,
            CASE WHEN {SOME_ARE_SEALED} THEN ARRAY[frames.key] END, cut.ids, NULL, NULL
        FROM {table} AS frames
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
        WHERE frames.source_id = ANY($3) AND frames.at >= $1 AND frames.series_ids IS NOT NULL {which}
            AND coalesce(frames.newest_at, frames.at) >= $1 AND coalesce(frames.oldest_at, frames.at) <= $2 {has_some} AND cut.ids IS NOT NULL"#
    )
}
