//! What fills the database: history, or rows of series. Files keep their size when rows are removed from them, so what is in them is estimated.

use sqlx::PgConnection;

use crate::store::Lifetimes;
use crate::store::postgres::maintenance::removable_before;
use crate::store::postgres::partitions::{CHUNKS, PartitionedTable, ROLLUPS_1H, ROLLUPS_5M};
use crate::store::postgres::timestamp::Timestamp;

/// The tables that have rows for series of pods that are gone, or numbers of their label pairs.
const TABLES_OF_SERIES: [&str; 4] = ["series", "label_pairs", "expired_series", "free_terms"];
/// What a row takes beside its columns: its header, its line pointer, and about half of the longest gap by which it is aligned.
const ROW_OVERHEAD: f64 = 24.0 + 4.0 + 4.0;
/// While more of the rows of series than this share are about to leave room for others, it is too early to tell how much room there is. Autovacuum begins
/// at 2 % (see the migration); maintenance removes rows within 10 minutes.
const LEAVING_SHARE: f64 = 0.03;
/// From this share of the series' files on the room in them is enough for new ones. Not less: where history needs the bytes meanwhile, the newest samples
/// would go before the oldest four weeks, which are a third of a history of three months.
const ENOUGH_ROOM: f64 = 0.5;

/// A table with rows of series.
#[derive(sqlx::FromRow)]
struct Table {
    name: String,
    /// Of the table and its indexes.
    bytes: f64,
    /// Of the table alone.
    heap_bytes: f64,
    /// How many rows the last VACUUM or ANALYZE found; below 0 where there was none.
    found_rows: f64,
    /// How many rows were counted since, with dead ones. Lost when the database crashes, as those below.
    counted_rows: f64,
    /// How many of these are dead and wait for VACUUM.
    dead_rows: f64,
    /// What the columns of a row take on average, where ANALYZE said so.
    row_width: Option<f64>,
}

impl Table {
    /// Rows that take room.
    fn rows(&self) -> f64 {
        self.found_rows.max(self.counted_rows).max(0.0)
    }

    /// The bytes of the table and its indexes that new rows may use. An index is taken to be as full as its table.
    fn free_bytes(&self) -> f64 {
        let Some(width) = self.row_width.filter(|_| self.found_rows >= 0.0 && self.heap_bytes > 0.0) else { return 0.0 };
        let used = self.rows() * (width + ROW_OVERHEAD) / self.heap_bytes;
        self.bytes * (1.0 - used.min(1.0))
    }
}

/// What fills the database. Numbers of rows and what they take are estimates.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::store::postgres) struct Fill {
    /// All tables and indexes of the schema that count towards HISTORY_MAX_BYTES.
    bytes: u64,
    /// Chunks and rollups.
    history_bytes: f64,
    /// The tables with rows of series, and their indexes.
    series_bytes: f64,
    /// What of that is room for new rows.
    free_bytes: f64,
    /// What a series takes in all of these tables.
    bytes_of_series: f64,
    /// Series that have a row, dead rows too.
    rows: f64,
    /// Of these, those that are about to leave room: dead rows, and such as nothing needs that maintenance has not come to.
    leaving: f64,
    /// Those of them that maintenance has not come to.
    due: f64,
    /// Series that are no longer reported and kept for their history alone.
    gone: f64,
}

impl Fill {
    /// Estimates it.
    pub(in crate::store::postgres) async fn of(
        conn: &mut PgConnection,
        bytes: u64,
        lifetimes: &Lifetimes,
        now: u64,
    ) -> Result<Self, sqlx::Error> {
        let tables: Vec<Table> = sqlx::query_as(
            "SELECT relname::text AS name, pg_total_relation_size(oid)::double precision AS bytes, pg_relation_size(oid)::double precision AS heap_bytes,
                reltuples::double precision AS found_rows,
                (pg_stat_get_live_tuples(oid) + pg_stat_get_dead_tuples(oid))::double precision AS counted_rows,
                pg_stat_get_dead_tuples(oid)::double precision AS dead_rows,
                (SELECT sum((1 - null_frac) * avg_width) FROM pg_stats WHERE schemaname = current_schema() AND tablename = relname)::double precision
                    AS row_width
            FROM pg_class WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema()) AND relname = ANY($1)",
        )
        .bind(TABLES_OF_SERIES)
        .fetch_all(&mut *conn)
        .await?;
        let (history_bytes, live): (f64, f64) = sqlx::query_as(
            "SELECT coalesce(sum(pg_total_relation_size(inhrelid)), 0)::double precision, (SELECT series::double precision FROM series_total)
            FROM pg_inherits WHERE inhparent IN (SELECT to_regclass(name) FROM unnest($1::text[]) AS parent (name))",
        )
        .bind([CHUNKS.name, ROLLUPS_5M.name, ROLLUPS_1H.name])
        .fetch_one(&mut *conn)
        .await?;
        let removable_before = removable_before(conn, lifetimes, now).await?;
        let due = expired_before(conn, removable_before).await?;
        let series_bytes: f64 = tables.iter().map(|table| table.bytes).sum();
        let free_bytes: f64 = tables.iter().map(Table::free_bytes).sum();
        let (rows, dead) = tables.iter().find(|table| table.name == "series").map_or((0.0, 0.0), |table| (table.rows(), table.dead_rows));
        Ok(Self {
            bytes,
            history_bytes,
            series_bytes,
            free_bytes,
            bytes_of_series: (series_bytes - free_bytes) / rows.max(1.0),
            rows,
            leaving: dead + due,
            due,
            gone: (rows - dead - due - live).max(0.0),
        })
    }

    /// What the files take but for the room in them that new rows may use.
    pub(in crate::store::postgres) fn needed_bytes(&self) -> u64 {
        self.bytes.saturating_sub(whole(self.free_bytes + self.leaving * self.bytes_of_series))
    }

    /// The room in the files that new rows may use by now.
    pub(in crate::store::postgres) fn free_bytes(&self) -> u64 {
        whole(self.free_bytes)
    }

    /// Whether what fills the database is series that are gone: they take more than all history, and there is not much room where others were, and will
    /// not be within minutes.
    pub(super) fn is_of_gone_series(&self) -> bool {
        self.gone * self.bytes_of_series > self.history_bytes
            && self.leaving <= self.rows * LEAVING_SHARE
            && self.free_bytes < self.series_bytes * ENOUGH_ROOM
    }

    /// Whether the series that nothing but these partitions keeps, which end then, take more than the partitions.
    pub(super) async fn is_kept_by(
        &self,
        conn: &mut PgConnection,
        partitions: &[(PartitionedTable, i32)],
        end: u64,
    ) -> Result<bool, sqlx::Error> {
        let names: Vec<String> = partitions.iter().map(|(table, slot)| table.partition(*slot)).collect();
        let statement =
            "SELECT coalesce(sum(pg_total_relation_size(to_regclass(name))), 0)::double precision FROM unnest($1::text[]) AS of (name)";
        let bytes: f64 = sqlx::query_scalar(statement).bind(names).fetch_one(&mut *conn).await?;
        let series = expired_before(conn, end).await? - self.due;
        Ok(series * self.bytes_of_series > bytes)
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float's conversion to an integer ends at its bounds")]
fn whole(bytes: f64) -> u64 {
    bytes as u64
}

/// How many series expired before this, in unix milliseconds.
async fn expired_before(conn: &mut PgConnection, before: u64) -> Result<f64, sqlx::Error> {
    let statement = "SELECT count(*)::double precision FROM expired_series WHERE at < $1";
    sqlx::query_scalar(statement).bind(Timestamp(before)).fetch_one(conn).await
}
