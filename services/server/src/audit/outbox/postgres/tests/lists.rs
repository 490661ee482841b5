//! Lists of ids: each is kept once, for as long as an event names it, and one that was lost hurts no other event.

use super::*;

const HOUR: Duration = Duration::from_hours(1);
const YEAR: Duration = Duration::from_hours(24 * 365);

impl Database {
    /// How many days ago each list was used last, by its text.
    async fn lists(&self) -> Vec<(String, i32)> {
        let sql = "select ids, (now() at time zone 'UTC')::date - last_day from audit_lists order by ids";
        sqlx::query_as(sql).fetch_all(&self.pool).await.unwrap()
    }
}

fn bodies(claimed: &[Delivery]) -> Vec<&[u8]> {
    claimed.iter().map(|delivery| &*delivery.body).collect()
}

#[tokio::test]
async fn a_list_is_kept_once_and_its_day_is_raised() {
    let Some(database) = Database::new().await else { return };
    let drafts: Vec<Draft> = (0..100).map(|n| of_ids(n, if n % 3 == 0 { &["x", "y"] } else { &["z"] })).collect();
    database.put(&drafts, &["webhook"]).await;
    database.put(&drafts, &["webhook"]).await;
    assert_eq!(database.lists().await, [(r#"["x","y"]"#.to_owned(), 0), (r#"["z"]"#.to_owned(), 0)]);
    let claimed = database.lane("webhook").claim(999).await.unwrap();
    assert_eq!(bodies(&claimed), drafts.iter().chain(&drafts).map(Draft::body).collect::<Vec<_>>());

    database.run("update audit_lists set last_day = last_day - 3").await;
    database.put(&[of_ids(0, &["z"])], &["webhook"]).await;
    assert_eq!(database.lists().await, [(r#"["x","y"]"#.to_owned(), 3), (r#"["z"]"#.to_owned(), 0)]);
    // A clock that went back lowers nothing.
    database.run("update audit_lists set last_day = last_day + 9").await;
    database.put(&drafts, &["webhook"]).await;
    assert_eq!(database.lists().await, [(r#"["x","y"]"#.to_owned(), -6), (r#"["z"]"#.to_owned(), -9)]);
}

#[tokio::test]
async fn a_list_belongs_to_its_transaction() {
    let Some(database) = Database::new().await else { return };
    let mut transaction = database.pool.begin().await.unwrap();
    insert(&mut transaction, &[&draft(1)], &["webhook".to_owned()]).await.unwrap();
    transaction.rollback().await.unwrap();
    assert_eq!(database.lists().await, []);
    database.write(2..3, &["webhook"]).await;
    assert_eq!(numbers(&database.lane("webhook").claim(9).await.unwrap()), [2]);
}

#[tokio::test]
async fn writers_of_the_same_new_lists_do_not_spoil_each_other() {
    let Some(database) = Database::new().await else { return };
    let names: Vec<String> = (0..50).map(|n| format!("n{n}")).collect();
    let forward: Vec<Draft> = names.iter().map(|name| of_ids(1, &[name])).collect();
    let backward: Vec<Draft> = forward.iter().rev().cloned().collect();
    for _ in 0..10 {
        tokio::join!(database.put(&forward, &["webhook"]), database.put(&backward, &["webhook"]), database.put(&backward, &["webhook"]));
        assert_eq!(database.count("audit_lists").await, 50);
        database.run("delete from audit_lists").await;
    }
}

#[tokio::test]
async fn an_event_whose_list_was_lost_rests_and_comes_back_with_it() {
    let Some(database) = Database::new().await else { return };
    database.put(&[of_ids(0, &["lost"]), of_ids(1, &["kept"]), of_ids(2, &["lost"])], &BOTH).await;
    database.run(r#"delete from audit_lists where ids = '["lost"]'"#).await;
    let lane = database.lane("webhook");
    assert_eq!(numbers(&lane.claim(9).await.unwrap()), [1]);
    // When a lease would have ended, it still rests; others are not in its way.
    database.run("update deliveries set due_at = due_at - interval '2 minutes'").await;
    assert_eq!(numbers(&lane.claim(9).await.unwrap()), [1]);
    database.put(&[of_ids(3, &["lost"])], &["webhook"]).await;
    assert_eq!(numbers(&lane.claim(9).await.unwrap()), [3]);
    database.run("update deliveries set due_at = due_at - interval '15 minutes'").await;
    assert_eq!(numbers(&lane.claim(9).await.unwrap()), [0, 1, 2, 3]);
}

#[tokio::test]
async fn an_event_whose_list_is_gone_for_good_ends_as_a_dead_letter() {
    let Some(database) = Database::new().await else { return };
    database.put(&[draft(0), of_ids(1, &["kept"])], &["webhook"]).await;
    database.run(r#"delete from audit_lists where ids <> '["kept"]'; update outbox set created_at = now() - interval '49 hours'"#).await;
    assert_eq!(sweep(&database.pool, HOUR, YEAR).await.unwrap(), [("webhook".to_owned(), 2)].into());
    let letters: Vec<(String, String)> =
        sqlx::query_as("select body, reason from dead_letters order by event_id").fetch_all(&database.pool).await.unwrap();
    let lost = (r#"{"ts":0,"metrics":null,"ip_address":"::1"}"#, "the list of its metrics was lost");
    let kept = (r#"{"ts":1,"metrics":["kept"],"ip_address":"::1"}"#, "not delivered in time");
    assert_eq!(letters, [lost, kept].map(|(body, reason)| (body.to_owned(), reason.to_owned())));
    assert_eq!(database.count("outbox").await, 0);
}

#[tokio::test]
async fn what_sql_composes_is_what_the_server_does() {
    let Some(database) = Database::new().await else { return };
    let plain = |ids: &[&str]| of_ids(-7, ids);
    let mut drafts = vec![plain(&["a\"b\\c/ä\u{2028}😀", "t{l=\"\\\\\\\"\\n\"}", "<&>"]), plain(&["a"])];
    for address in ["10.0.0.1", "2001:db8::1", "::ffff:1.2.3.4", "fe80::1"] {
        drafts.push(Draft { ip_address: address.parse().unwrap(), ts: i64::MAX, ..plain(&["a"]) });
    }
    database.put(&drafts, &["webhook"]).await;
    let composed: Vec<String> = sqlx::query_scalar("select body from audit_events order by id").fetch_all(&database.pool).await.unwrap();
    let expected: Vec<String> = drafts.iter().map(|draft| String::from_utf8(draft.body()).unwrap()).collect();
    assert_eq!(composed, expected);
}

#[tokio::test]
async fn events_of_an_earlier_server_are_delivered_as_they_are() {
    let Some(database) = Database::new().await else { return };
    database
        .run("insert into outbox (event_id, body) select gen_random_uuid(), '{ \"ts\": ' || n || ' }' from generate_series(1, 2) n")
        .await;
    database.run("insert into deliveries (event, sink) select id, 'webhook' from outbox").await;
    database.write(3..4, &["webhook"]).await;
    let lane = database.lane("webhook");
    let claimed = lane.claim(9).await.unwrap();
    assert_eq!(bodies(&claimed), [br#"{ "ts": 1 }"#.to_vec(), br#"{ "ts": 2 }"#.to_vec(), draft(3).body()]);
    lane.settle(&all(&claimed, &Verdict::Dead("no".into()))).await.unwrap();
    let letters: Vec<String> = sqlx::query_scalar("select body from dead_letters order by body").fetch_all(&database.pool).await.unwrap();
    assert_eq!(letters[..2], [r#"{ "ts": 1 }"#, r#"{ "ts": 2 }"#]);
    for nothing in ["default", "'\\x00'::bytea"] {
        let sql = format!("insert into outbox (event_id, list) values (gen_random_uuid(), {nothing})");
        sqlx::raw_sql(&sql).execute(&database.pool).await.expect_err("an event says something");
    }
}

#[tokio::test]
async fn lists_are_dropped_when_no_event_can_name_them() {
    let Some(database) = Database::new().await else { return };
    let names = |lists: Vec<(String, i32)>| lists.into_iter().map(|(ids, _)| ids).collect::<Vec<_>>();
    database.put(&[of_ids(0, &["new"]), of_ids(1, &["old"]), of_ids(2, &["older"])], &["webhook"]).await;
    database.run(r#"update audit_lists set last_day = last_day - 5 where ids = '["old"]'"#).await;
    database.run(r#"update audit_lists set last_day = last_day - 9 where ids = '["older"]'"#).await;
    // The oldest event is from the day on which the middle list was used.
    database.run("update outbox set created_at = now() - interval '5 days' where id = (select min(id) from outbox)").await;
    sweep(&database.pool, YEAR, YEAR).await.unwrap();
    assert_eq!(names(database.lists().await), [r#"["new"]"#, r#"["old"]"#]);
    database.run("delete from outbox").await;
    // What a writer holds just now is left alone, without waiting.
    let mut writer = database.pool.begin().await.unwrap();
    insert(&mut writer, &[&of_ids(3, &["old"])], &["webhook".to_owned()]).await.unwrap();
    sweep(&database.pool, YEAR, YEAR).await.unwrap();
    writer.commit().await.unwrap();
    assert_eq!(database.lists().await, [(r#"["new"]"#.to_owned(), 0), (r#"["old"]"#.to_owned(), 0)]);
    database.run("delete from outbox; update audit_lists set last_day = last_day - 4").await;
    sweep(&database.pool, YEAR, YEAR).await.unwrap();
    assert_eq!(database.count("audit_lists").await, 2, "four days ago is not long enough");
    database.run("update audit_lists set last_day = last_day - 1").await;
    sweep(&database.pool, YEAR, YEAR).await.unwrap();
    assert_eq!(database.count("audit_lists").await, 0);
}
