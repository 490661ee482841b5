//! The numbers of names and label pairs are used again, by all servers, and no search is misled by that.

use std::collections::{BTreeSet, HashMap};

use futures_util::future::join_all;
use golectra_promql::Matcher;
use golectra_protocol::{IdParts, IdempotencyKey, Source};
use sqlx::Executor as _;

use super::*;
use crate::store::conformance::{batch, counter, every, gauge, patiently, source};

const DAY: u64 = 24 * 60 * 60 * 1000;

async fn count(conn: &mut PgConnection, of: &str) -> i64 {
    sqlx::query_scalar(&format!("SELECT {of}")).fetch_one(conn).await.unwrap()
}

/// Asserts that each number stands for one name or pair or is free, and that each series has the terms of its id.
async fn assert_consistent(conn: &mut PgConnection) {
    let twice: Vec<i32> = sqlx::query_scalar(
        "SELECT id FROM (SELECT id FROM metric_names UNION ALL SELECT id FROM label_pairs UNION ALL SELECT id FROM free_terms) AS used
        GROUP BY id HAVING count(*) > 1",
    )
    .fetch_all(&mut *conn)
    .await
    .unwrap();
    assert_eq!(twice, Vec::<i32>::new(), "numbers that stand for more than one thing");
    let terms: Vec<(i32, String, String)> =
        sqlx::query_as("SELECT id, '', name FROM metric_names UNION ALL SELECT id, key, value FROM label_pairs")
            .fetch_all(&mut *conn)
            .await
            .unwrap();
    let terms: HashMap<i32, (String, String)> = terms.into_iter().map(|(id, key, value)| (id, (key, value))).collect();
    let series: Vec<(String, Vec<i32>)> = sqlx::query_as("SELECT metric, terms FROM series").fetch_all(conn).await.unwrap();
    for (metric, ids) in series {
        let parts = IdParts::of(&metric);
        let labels = parts.labels.iter().map(|(key, value)| (key.to_string(), value.to_string()));
        let expected: BTreeSet<(String, String)> = labels.chain([(String::new(), parts.name.to_string())]).collect();
        let found: BTreeSet<(String, String)> = ids.iter().filter_map(|id| terms.get(id).cloned()).collect();
        assert_eq!((found, ids.len()), (expected, 1 + parts.labels.len()), "the terms {ids:?} of {metric}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_of_removed_terms_are_used_again() {
    let Some(database) = TestDatabase::create().await else { return };
    let mut now = 20_000 * DAY;
    let clock = Clock::at(now);
    let mut stores = Vec::new();
    for _ in 0..2 {
        let store = PostgresStore::open(config(database.dsn()), clock.clone()).unwrap();
        assert!(ready(&store).await);
        stores.push(store);
    }
    let mut conn = database.connect().await;
    let sources: Vec<Source> = (0..6).map(|n| source(&format!("node-{n}"))).collect();
    for round in 0..3 {
        // Each source makes pairs of its own, and all of them the same others at once.
        let writes = sources.iter().enumerate().map(|(n, source)| {
            let own = (0..8).map(|pod| gauge(&format!("own_{n}{{pod=\"{round}-{n}-{pod}\"}}"), 1.0));
            let shared = (0..8).map(|pod| gauge(&format!("shared_{round}{{node=\"{n}\",pod=\"{round}-{pod}\"}}"), 1.0));
            let one = batch(source.as_str(), IdempotencyKey::at(now), own.chain(shared).collect());
            let store = Arc::clone(&stores[n % 2]);
            tokio::spawn(async move { patiently(&*store, &one).await })
        });
        for written in join_all(writes).await {
            assert_eq!(written.unwrap(), Applied::New);
        }
        assert_consistent(&mut conn).await;
        for pod in [format!("{round}-5-7"), format!("{round}-3")] {
            let filter = LatestFilter { matchers: vec![Matcher::equal("pod", &pod)], ..LatestFilter::default() };
            let expected = if pod.len() > 3 { 1 } else { sources.len() };
            for store in &stores {
                assert_eq!(every(store.latest(filter.clone()).await.unwrap()).await.len(), expected, "{pod}");
            }
        }
        for source in &sources {
            assert!(stores[0].forget_source(source, None).await.unwrap());
        }
        for _ in 0..3 {
            now += 2 * DAY;
            clock.set(now);
            sealer(&stores[0]).round().await.unwrap();
            maintenance(&stores[0]).round().await.unwrap();
        }
        assert_consistent(&mut conn).await;
        let in_use = "(SELECT count(*) FROM series) + (SELECT count(*) FROM metric_names) + (SELECT count(*) FROM label_pairs)";
        assert_eq!(count(&mut conn, in_use).await, 0);
    }

    // One writer alone needs no new number while there are free ones, and one that is refused takes none.
    let (free, highest) = ("(SELECT count(*) FROM free_terms)", "(SELECT last_value FROM terms)");
    let (free_before, highest_before) = (count(&mut conn, free).await, count(&mut conn, highest).await);
    assert!(free_before >= 6 * 9, "{free_before}");
    let id = "counted{pod=\"last\"}";
    stores[1].apply(batch("a", IdempotencyKey::at(now), vec![counter(id, 1)])).await.unwrap();
    assert_eq!((count(&mut conn, free).await, count(&mut conn, highest).await), (free_before - 2, highest_before));
    let too_much = vec![counter(id, i64::MAX), gauge("new{pod=\"never\"}", 1.0)];
    let refused = stores[0].apply(batch("a", IdempotencyKey::at(now), too_much)).await.unwrap_err();
    assert!(matches!(refused, StoreError::Overflow { .. }), "{refused:?}");
    assert_eq!((count(&mut conn, free).await, count(&mut conn, highest).await), (free_before - 2, highest_before));
    assert_consistent(&mut conn).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_search_whose_number_is_given_to_another_pair_finds_nothing_wrong() {
    let Some(database) = TestDatabase::create().await else { return };
    let store = database.store().await;
    let metrics = vec![gauge("g{pod=\"a\"}", 1.0), gauge("g{pod=\"b\"}", 2.0)];
    store.apply(batch("node", IdempotencyKey::at(Clock::System.unix_millis()), metrics)).await.unwrap();
    let mut conn = database.connect().await;
    let mut observer = database.connect().await;
    let filter = |pod: &str| LatestFilter { matchers: vec![Matcher::equal("pod", pod)], ..LatestFilter::default() };

    let number_of_a = select::terms(&mut observer, &filter("a")).await.unwrap();
    let first = select::candidates(&mut observer, &number_of_a, None).await.unwrap();

    // The search has the number of pod="a", and waits before it looks for series.
    conn.execute("BEGIN; LOCK TABLE series IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let (searching, asked) = (Arc::clone(&store), filter("a"));
    let search = tokio::spawn(async move { every(searching.latest(asked).await.unwrap()).await });
    let waits = async {
        while count(&mut observer, "(SELECT count(*) FROM pg_locks WHERE relation = 'series'::regclass AND NOT granted)").await == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waits).await.expect("the search waits for the lock");
    // Meanwhile the series goes with its pair, and pod="b" has that number.
    conn.execute(
        "DELETE FROM series WHERE metric = 'g{pod=\"a\"}';
        WITH gone AS (DELETE FROM label_pairs WHERE value = 'a' RETURNING id), moved AS (SELECT id FROM label_pairs WHERE value = 'b')
        UPDATE series SET terms = array_replace(terms, moved.id, gone.id) FROM gone, moved;
        COMMIT",
    )
    .await
    .unwrap();
    assert_eq!(search.await.unwrap(), []);
    // The number itself leads to the other series now.
    let then = select::candidates(&mut observer, &number_of_a, None).await.unwrap();
    assert_eq!((first.len(), then.len()), (1, 1));
    assert_ne!(first[0].series_id, then[0].series_id);
}
