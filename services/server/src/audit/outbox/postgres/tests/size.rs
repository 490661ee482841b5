//! The audit tables stay within their bound of bytes: the oldest dead letters are removed first, then the oldest events.

use super::*;

impl Database {
    /// The sizes of the audit tables and their indexes on disk, in bytes.
    async fn disk_bytes(&self) -> u64 {
        let sql = "select sum(pg_total_relation_size(name::regclass))::bigint
            from unnest(array['outbox', 'deliveries', 'dead_letters', 'audit_name_lists']) as name";
        let bytes: i64 = sqlx::query_scalar(sql).fetch_one(&self.pool).await.unwrap();
        bytes.unsigned_abs()
    }

    /// Makes dead letters of the oldest events.
    async fn give_up(&self, events: usize) {
        let outbox = self.outbox("webhook");
        let mut left = events;
        while left > 0 {
            let claimed = outbox.claim(left.min(1000)).await.unwrap();
            left -= claimed.len();
            outbox.settle(&all(&claimed, &DeliveryOutcome::GivenUp("it answered 413".into()))).await.unwrap();
        }
    }

    /// Rewrites the tables without the deleted rows. VACUUM would keep those while a transaction that is older than their deletion is open, in
    /// this database or, with VACUUM FULL, in the database of another test.
    async fn compact(&self) {
        let tables = ["outbox", "deliveries", "dead_letters"];
        for table in tables {
            self.run(&format!("create table {table}_copy as table {table}")).await;
        }
        self.run(&format!("truncate {}", tables.join(", "))).await;
        for table in tables {
            self.run(&format!("insert into {table} overriding system value table {table}_copy; drop table {table}_copy")).await;
        }
    }

    async fn kept(&self, sql: &str) -> Vec<i64> {
        sqlx::query_scalar(sql).fetch_all(&self.pool).await.unwrap()
    }
}

fn bounds(max_bytes: u64) -> Bounds {
    Bounds { max_bytes, ..WIDE }
}

#[tokio::test]
async fn the_oldest_dead_letters_are_removed_first() {
    let Some(database) = Database::new().await else { return };
    database.put(&(0..4000).map(draft).collect::<Vec<_>>(), &["webhook"]).await;
    database.give_up(2000).await;
    assert_eq!(database.sweep(&bounds(u64::MAX)).await.dead_letters_dropped, [].into());
    // Dead letters take about 275 bytes each and events about 325: with room for 1.2 MB about 1,000 letters stay.
    let swept = database.sweep(&bounds(1_200_000)).await;
    let dropped = swept.dead_letters_dropped["webhook"];
    assert!((500..1700).contains(&dropped), "{dropped} dropped");
    assert_eq!(swept.dropped, [].into(), "no event is dropped while there are dead letters to remove");
    let letters = database.kept("select ts from dead_letters order by ts").await;
    assert_eq!(letters, (i64::try_from(dropped).unwrap()..2000).collect::<Vec<_>>(), "the newest are kept");
    assert_eq!(database.sweep(&bounds(1_200_000)).await.dead_letters_dropped, [].into(), "a second sweep finds nothing");
    assert!(swept.disk.dead_letters > 100_000 && swept.disk.waiting > 500_000, "{:?}", swept.disk);
}

#[tokio::test]
async fn then_the_oldest_events_are_dropped_from_every_sink_and_counted() {
    let Some(database) = Database::new().await else { return };
    database.put(&(0..2000).map(draft).collect::<Vec<_>>(), &BOTH).await;
    database.give_up(100).await;
    let swept = database.sweep(&bounds(500_000)).await;
    assert_eq!(swept.dead_letters_dropped, [("webhook".to_owned(), 100)].into());
    let dropped = swept.dropped["file:here"];
    assert!((600..1500).contains(&dropped), "{dropped}");
    assert_eq!(swept.dropped["webhook"], dropped - 100, "the given up events waited only for the file");
    let events = database.kept("select ts from outbox order by ts").await;
    assert_eq!(events, (i64::try_from(dropped).unwrap()..2000).collect::<Vec<_>>(), "the newest are kept");
    assert_eq!(database.count("deliveries").await, 2 * i64::try_from(events.len()).unwrap());
    assert_eq!(numbers(&database.outbox("webhook").claim(1).await.unwrap()), [i64::try_from(dropped).unwrap()]);
}

#[tokio::test]
async fn long_lists_of_names_count() {
    let Some(database) = Database::new().await else { return };
    // Random letters, because the database compresses long texts.
    let name = |_| std::iter::repeat_with(fastrand::alphanumeric).take(210).collect::<String>();
    let names = || (0..7).map(name).collect::<Vec<_>>();
    let first = |number| first_named(number, &names().iter().map(String::as_str).collect::<Vec<_>>());
    database.put(&(0..400).map(first).collect::<Vec<_>>(), &["webhook"]).await;
    let swept = database.sweep(&bounds(400_000)).await;
    let dropped = swept.dropped["webhook"];
    assert!((130..270).contains(&dropped), "{dropped} of 400 events of about 1,800 bytes");
    // Repeated lists take up their share of the bound at most.
    assert_eq!(swept.room_for_name_lists, Some(true));
    let repeated = |number| Draft { repeated: true, ..first(number) };
    database.put(&(0..100).map(repeated).collect::<Vec<_>>(), &["webhook"]).await;
    assert_eq!(database.sweep(&bounds(400_000)).await.room_for_name_lists, Some(false));
}

#[tokio::test]
async fn a_bound_that_was_lowered_is_reached_in_one_sweep() {
    let Some(database) = Database::new().await else { return };
    for _ in 0..6 {
        database.put(&(0..5000).map(draft).collect::<Vec<_>>(), &["webhook"]).await;
    }
    let swept = database.sweep(&bounds(200_000)).await;
    assert!(swept.dropped["webhook"] > 28_000, "{swept:?}");
    assert!(database.count("outbox").await > 100);
}

#[tokio::test]
async fn servers_that_sweep_at_the_same_time_remove_the_excess_only_once() {
    let Some(database) = Database::new().await else { return };
    database.put(&(0..4000).map(draft).collect::<Vec<_>>(), &["webhook"]).await;
    let bounds = bounds(800_000);
    let (one, two, three) = tokio::join!(database.sweep(&bounds), database.sweep(&bounds), database.sweep(&bounds));
    let dropped: u64 = [one, two, three].iter().filter_map(|swept| swept.dropped.get("webhook")).sum();
    assert_eq!(dropped, 4000 - database.count("outbox").await.unsigned_abs());
    assert!((1000..2200).contains(&dropped), "{dropped}");
}

#[tokio::test]
async fn the_estimate_is_close_to_the_size_of_the_tables() {
    let Some(database) = Database::new().await else { return };
    database.put(&(0..20_000).map(draft).collect::<Vec<_>>(), &["webhook"]).await;
    let disk = database.disk_bytes().await;
    // No row is removed if the bound is a quarter above the tables' size, and some are if it is a quarter below.
    assert_eq!(database.sweep(&bounds(disk * 5 / 4)).await.dropped, [].into());
    database.give_up(10_000).await;
    database.compact().await;
    let disk = database.disk_bytes().await;
    let swept = database.sweep(&bounds(disk * 3 / 4)).await;
    assert!(swept.dead_letters_dropped["webhook"] > 1000, "{swept:?}");
}
