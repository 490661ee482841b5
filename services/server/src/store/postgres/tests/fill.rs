//! What goes where the database is larger than HISTORY_MAX_BYTES: by what fills it, series that are gone or history.

use golectra_protocol::{IdempotencyKey, Source};
use sqlx::Executor as _;

use super::super::partitions::{CHUNKS, PartitionedTable, ROLLUPS_1H, ROLLUPS_5M};
use super::super::sealer::fill::Fill;
use super::*;
use crate::store::conformance::{batch, gauge, patiently, source};

const HOUR: u64 = 60 * 60 * 1000;
const DAY: u64 = 24 * HOUR;
/// How long a partition of rollups of an hour is.
const PERIOD: u64 = 28 * DAY;
/// The tests' clocks begin here, with a partition of rollups of an hour.
const START: u64 = 715 * PERIOD;
const PERIODS: u64 = 4;
/// How long rows that were written may take to be in PostgreSQL's statistics.
const COUNTED: Duration = Duration::from_mins(1);

fn lifetimes() -> Lifetimes {
    Lifetimes { retention_raw: Duration::from_hours(7 * 24), ..Lifetimes::default() }
}

/// The second one lets pages of indexes be used again that the first found empty.
async fn vacuum(conn: &mut PgConnection) {
    for _ in 0..2 {
        conn.execute("VACUUM (ANALYZE) series, label_pairs, expired_series, free_terms").await.unwrap();
    }
}

/// A store whose pods come and go.
struct Lab {
    store: Arc<PostgresStore>,
    clock: Clock,
    conn: PgConnection,
    /// How many series were made so far.
    made: u32,
    database: TestDatabase,
}

impl Lab {
    async fn new() -> Option<Self> {
        let database = TestDatabase::create().await?;
        let clock = Clock::at(START);
        let store = PostgresStore::open(PostgresConfig { lifetimes: lifetimes(), ..config(database.dsn()) }, clock.clone()).unwrap();
        assert!(ready(&store).await);
        Some(Self { store, clock, conn: database.connect().await, made: 0, database })
    }

    /// Has so many pods report once and go, with their node, and seals what they said.
    async fn pods(&mut self, pods: u32) {
        let node = format!("node-{}", self.clock.unix_millis());
        let name = |n: u32| format!("container_metric{{container=\"app\",namespace=\"n{}\",pod=\"web-{n:07}\"}}", n % 20);
        let metrics = (self.made..self.made + pods).map(|n| gauge(&name(n), f64::from(n))).collect();
        self.made += pods;
        patiently(&*self.store, &batch(&node, IdempotencyKey::at(self.clock.unix_millis()), metrics)).await;
        let node: Source = source(&node);
        assert!(self.store.forget_source(&node, None).await.unwrap());
        self.clock.set(self.clock.unix_millis() + 4 * HOUR);
        assert_eq!(sealer(&self.store).round().await.unwrap().frames, 1);
    }

    /// Pods of several months, and samples of the last three days.
    async fn months(&mut self, pods: u32) {
        for period in 0..PERIODS {
            self.clock.set(START + period * PERIOD);
            // More in the first, so that they leave much room.
            self.pods(if period == 0 { 4 * pods } else { pods }).await;
        }
        for day in 1..3 {
            self.clock.set(START + (PERIODS - 1) * PERIOD + day * DAY);
            self.pods(1).await;
        }
        maintenance(&self.store).round().await.unwrap();
        self.vacuum().await;
        assert_eq!(self.left(ROLLUPS_1H).await, usize::try_from(PERIODS).unwrap());
        assert_eq!(self.left(CHUNKS).await, 3);
    }

    /// What autovacuum does in time.
    async fn vacuum(&mut self) {
        // Sessions count rows that they wrote within seconds, and when they end.
        let ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
        self.conn.execute(ended).await.unwrap();
        let counted = tokio::time::timeout(COUNTED, async {
            let count = "SELECT pg_stat_get_tuples_inserted('series'::regclass)";
            while sqlx::query_scalar::<_, i64>(count).fetch_one(&mut self.conn).await.unwrap() < i64::from(self.made) {
                tokio::task::yield_now().await;
            }
        });
        counted.await.expect("all rows are counted");
        vacuum(&mut self.conn).await;
    }

    /// Has maintenance remove so many series, and waits until their rows are counted as dead or autovacuum has removed them.
    async fn remove(&mut self, series: u32) {
        let autovacuums = "SELECT pg_stat_get_autovacuum_count('series'::regclass)";
        let before: i64 = sqlx::query_scalar(autovacuums).fetch_one(&mut self.conn).await.unwrap();
        assert_eq!(maintenance(&self.store).round().await.unwrap().removed_series, u64::from(series));
        let counted = tokio::time::timeout(COUNTED, async {
            let count = "SELECT pg_stat_get_dead_tuples('series'::regclass)";
            while sqlx::query_scalar::<_, i64>(count).fetch_one(&mut self.conn).await.unwrap() < i64::from(series)
                && sqlx::query_scalar::<_, i64>(autovacuums).fetch_one(&mut self.conn).await.unwrap() == before
            {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        counted.await.expect("the rows are counted as dead");
    }

    /// Seals with HISTORY_MAX_BYTES a bit below what the database takes; says which days of chunks and which rollups went.
    async fn seal_with_less(&mut self, by: u64) -> (usize, Vec<String>) {
        let max_bytes = self.bytes().await - by;
        self.seal_within(Some(max_bytes)).await
    }

    async fn seal_within(&mut self, max_bytes: Option<u64>) -> (usize, Vec<String>) {
        let mut sealer = sealer(&self.store);
        sealer.max_bytes = max_bytes;
        let round = sealer.round().await.unwrap();
        (round.days.len(), round.rollups)
    }

    async fn bytes(&mut self) -> u64 {
        self.sum("pg_total_relation_size(oid)", "^(?!(outbox|deliveries|dead_letters|audit_name_lists)$)").await
    }

    /// What the tables take whose rows maintenance removes with series, without their indexes: pages of these are divided sooner or later, by chance.
    async fn bytes_of_series(&mut self) -> u64 {
        self.sum("pg_relation_size(oid)", "^(series|label_pairs|expired_series)$").await
    }

    async fn sum(&mut self, bytes: &str, names: &str) -> u64 {
        let statement = format!(
            "SELECT sum({bytes})::bigint FROM pg_class WHERE relnamespace = 'golectra'::regnamespace AND relkind = 'r' AND relname ~ $1"
        );
        u64::try_from(sqlx::query_scalar::<_, i64>(&statement).bind(names).fetch_one(&mut self.conn).await.unwrap()).unwrap()
    }

    async fn left(&mut self, table: PartitionedTable) -> usize {
        table.existing(&mut self.conn).await.unwrap().len()
    }

    async fn fill(&mut self) -> Fill {
        let (bytes, now) = (self.bytes().await, self.clock.unix_millis());
        Fill::of(&mut self.conn, bytes, &lifetimes(), now).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_oldest_time_goes_where_series_that_are_gone_fill_the_database() {
    let Some(mut lab) = Lab::new().await else { return };
    lab.months(1_500).await;
    let max_bytes = lab.bytes().await - 8_192;
    let first = ROLLUPS_1H.partition(ROLLUPS_1H.slot_of(START));
    let of_first_period = vec![first.replace("1h", "5m"), first];
    assert_eq!(lab.seal_within(Some(max_bytes)).await, (0, of_first_period), "the oldest time goes, and nothing else");

    // Its series have to go before more of them do.
    let dropped = lab.seal_with_less(8_192).await;
    assert_eq!((dropped.0, lab.left(ROLLUPS_1H).await), (1, 3), "{dropped:?}");
    lab.remove(6_000).await;
    let dropped = lab.seal_with_less(8_192).await;
    assert_eq!((dropped.0, lab.left(ROLLUPS_1H).await), (1, 3), "nor before VACUUM: {dropped:?}");
    lab.vacuum().await;
    // Nor for the room that they leave.
    lab.seal_with_less(200_000).await;
    assert_eq!((lab.left(ROLLUPS_1H).await, lab.left(ROLLUPS_5M).await, lab.left(CHUNKS).await), (3, 1, 1));

    // Others fill it: the files do not grow by what these take, and nothing more goes.
    let (free, bytes_of_series) = (lab.fill().await.free_bytes(), lab.bytes_of_series().await);
    lab.clock.set(lab.clock.unix_millis() + HOUR);
    lab.pods(1_500).await;
    lab.vacuum().await;
    let taken = free - lab.fill().await.free_bytes();
    assert!(taken > 1_500 * 400, "1,500 series took {taken} bytes of the {free} that were free");
    let grown = lab.bytes_of_series().await - bytes_of_series;
    assert!(grown < taken / 10, "files grew by {grown} bytes for series that took {taken}");
    let bytes = lab.bytes().await;
    assert_eq!(lab.seal_within(Some(max_bytes)).await, (0, Vec::new()), "{bytes} bytes of {max_bytes}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_oldest_samples_go_first_where_history_fills_the_database() {
    let Some(mut lab) = Lab::new().await else { return };
    lab.months(20).await;
    assert_eq!(lab.seal_with_less(8_192).await, (1, Vec::new()));
    assert_eq!(lab.seal_with_less(8_192).await, (1, Vec::new()));
    let (days, dropped) = lab.seal_with_less(8_192).await;
    assert_eq!((days, dropped.len()), (0, 1), "{dropped:?}");
    assert!(dropped[0].starts_with("rollups_5m_"), "{dropped:?}");
    // In the end rollups of an hour go too, but for the newest.
    lab.seal_within(Some(1)).await;
    assert_eq!((lab.left(CHUNKS).await, lab.left(ROLLUPS_5M).await, lab.left(ROLLUPS_1H).await), (1, 1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_room_that_removed_series_leave_is_estimated() {
    let Some(mut lab) = Lab::new().await else { return };
    // Numbers of pairs that were removed are used again, those of series are not.
    let pair = "CASE WHEN n BETWEEN 31000 AND 40999 THEN n - 30000 ELSE n END";
    let insert = async |conn: &mut PgConnection, from: i32, to: i32| {
        for statement in [
            format!(
                "INSERT INTO label_pairs SELECT {pair}, md5('p' || n)::uuid, md5('pod')::uuid, 'pod', 'web-' || md5(n::text) FROM generate_series($1, $2 - 1) AS n"
            ),
            format!(
                "INSERT INTO series SELECT n, (SELECT min(id) FROM sources), 0, md5(n::text)::uuid, ARRAY[1, 2, {pair}],
                    'container_metric{{container=\"app\",pod=\"web-' || md5(n::text) || '\"}}' FROM generate_series($1, $2 - 1) AS n"
            ),
            "INSERT INTO expired_series SELECT n, 'epoch'::timestamptz + n * interval '1 s' FROM generate_series($1, $2 - 1) AS n"
                .to_owned(),
        ] {
            sqlx::query(&statement).bind(from).bind(to).execute(&mut *conn).await.unwrap();
        }
    };
    lab.pods(1).await;
    assert_eq!(lab.fill().await.free_bytes(), 0, "nothing is known before VACUUM");
    insert(&mut lab.conn, 1_000, 31_000).await;
    vacuum(&mut lab.conn).await;
    let bytes = |bytes: u64| i64::try_from(bytes).unwrap();
    let full = bytes(lab.bytes().await);
    let free = bytes(lab.fill().await.free_bytes());
    assert!(free < full / 20, "{free} of {full} bytes are free where nothing was removed");
    // The oldest third of the rows.
    lab.conn
        .execute("DELETE FROM series WHERE id BETWEEN 1000 AND 10999; DELETE FROM label_pairs WHERE id BETWEEN 1000 AND 10999")
        .await
        .unwrap();
    vacuum(&mut lab.conn).await;
    let free = bytes(lab.fill().await.free_bytes());
    assert!((full / 4..full * 2 / 5).contains(&free), "{free} of {full} bytes are free where a third was removed");
    // As many rows as were removed make the files hardly larger, and fill the room.
    insert(&mut lab.conn, 31_000, 40_000).await;
    let grown = bytes(lab.bytes().await) - full;
    assert!(grown < free / 3, "{grown} bytes more with rows for {free} bytes of room");
    vacuum(&mut lab.conn).await;
    let left = bytes(lab.fill().await.free_bytes());
    assert!(left < full / 10, "{left} of {full} bytes are free when it is filled");
    insert(&mut lab.conn, 40_000, 50_000).await;
    let grown = bytes(lab.bytes().await) - full;
    assert!(grown > free / 2, "{grown} bytes more when it is more than filled");
    drop(lab.database);
}
