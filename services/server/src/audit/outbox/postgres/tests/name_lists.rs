//! Name lists: each is stored once while an event refers to it, and a lost list affects no other event.

use super::*;

impl Database {
    /// The number of days since each list was last used, by the list's text.
    async fn lists(&self) -> Vec<(String, i32)> {
        let sql = "select metrics, (now() at time zone 'UTC')::date - last_day from audit_name_lists order by metrics";
        sqlx::query_as(sql).fetch_all(&self.pool).await.unwrap()
    }
}

fn bodies(claimed: &[Delivery]) -> Vec<String> {
    claimed.iter().map(|delivery| String::from_utf8(delivery.content.json()).unwrap()).collect()
}

#[tokio::test]
async fn a_list_is_stored_once_and_its_day_is_updated() {
    let Some(database) = Database::new().await else { return };
    let drafts: Vec<Draft> = (0..100).map(|n| named(n, if n % 3 == 0 { &["x", "y"] } else { &["z"] })).collect();
    database.put(&drafts, &["webhook"]).await;
    database.put(&drafts, &["webhook"]).await;
    assert_eq!(database.lists().await, [(r#"["x","y"]"#.to_owned(), 0), (r#"["z"]"#.to_owned(), 0)]);
    let claimed = database.outbox("webhook").claim(999).await.unwrap();
    assert_eq!(bodies(&claimed), drafts.iter().chain(&drafts).map(json).collect::<Vec<_>>());

    database.run("update audit_name_lists set last_day = last_day - 3").await;
    database.put(&[named(0, &["z"])], &["webhook"]).await;
    assert_eq!(database.lists().await, [(r#"["x","y"]"#.to_owned(), 3), (r#"["z"]"#.to_owned(), 0)]);
    // A clock that goes back does not lower the day.
    database.run("update audit_name_lists set last_day = last_day + 9").await;
    database.put(&drafts, &["webhook"]).await;
    assert_eq!(database.lists().await, [(r#"["x","y"]"#.to_owned(), -6), (r#"["z"]"#.to_owned(), -9)]);
}

#[tokio::test]
async fn a_list_is_part_of_its_transaction() {
    let Some(database) = Database::new().await else { return };
    let mut transaction = database.pool.begin().await.unwrap();
    insert(&mut transaction, &[&draft(1)], &["webhook".to_owned()], true).await.unwrap();
    transaction.rollback().await.unwrap();
    assert_eq!(database.lists().await, []);
    database.write(2..3, &["webhook"]).await;
    assert_eq!(numbers(&database.outbox("webhook").claim(9).await.unwrap()), [2]);
}

#[tokio::test]
async fn writers_of_the_same_new_lists_do_not_cause_errors() {
    let Some(database) = Database::new().await else { return };
    let names: Vec<String> = (0..50).map(|n| format!("n{n}")).collect();
    let forward: Vec<Draft> = names.iter().map(|name| named(1, &[name])).collect();
    let backward: Vec<Draft> = forward.iter().rev().cloned().collect();
    for _ in 0..10 {
        tokio::join!(database.put(&forward, &["webhook"]), database.put(&backward, &["webhook"]), database.put(&backward, &["webhook"]));
        assert_eq!(database.count("audit_name_lists").await, 50);
        database.run("delete from audit_name_lists").await;
    }
}

#[tokio::test]
async fn an_event_whose_list_was_lost_waits_until_the_list_is_back() {
    let Some(database) = Database::new().await else { return };
    database.put(&[named(0, &["lost"]), named(1, &["kept"]), named(2, &["lost"])], &BOTH).await;
    database.run(r#"delete from audit_name_lists where metrics = '["lost"]'"#).await;
    let outbox = database.outbox("webhook");
    assert_eq!(numbers(&outbox.claim(9).await.unwrap()), [1]);
    // It still waits after the time of a lease, and does not delay others.
    database.run("update deliveries set due_at = due_at - interval '2 minutes'").await;
    assert_eq!(numbers(&outbox.claim(9).await.unwrap()), [1]);
    database.put(&[named(3, &["lost"])], &["webhook"]).await;
    assert_eq!(numbers(&outbox.claim(9).await.unwrap()), [3]);
    database.run("update deliveries set due_at = due_at - interval '15 minutes'").await;
    assert_eq!(numbers(&outbox.claim(9).await.unwrap()), [0, 1, 2, 3]);
}

#[tokio::test]
async fn an_event_whose_list_does_not_come_back_becomes_a_dead_letter() {
    let Some(database) = Database::new().await else { return };
    database.put(&[draft(0), named(1, &["kept"])], &["webhook"]).await;
    database
        .run(r#"delete from audit_name_lists where metrics <> '["kept"]'; update outbox set created_at = now() - interval '49 hours'"#)
        .await;
    assert_eq!(database.sweep(&WIDE).await.given_up, [("webhook".to_owned(), 2)].into());
    let letters: Vec<(String, String)> =
        sqlx::query_as("select body, reason from audit_dead_letters order by event_id").fetch_all(&database.pool).await.unwrap();
    let lost = (r#"{"ts":0,"metrics":null,"ip_address":"::1"}"#, "the list of its metrics was lost");
    let kept = (r#"{"ts":1,"metrics":["kept"],"ip_address":"::1"}"#, "not delivered in time");
    assert_eq!(letters, [lost, kept].map(|(body, reason)| (body.to_owned(), reason.to_owned())));
    assert_eq!(database.count("outbox").await, 0);
}

#[tokio::test]
async fn events_composed_in_sql_equal_those_of_the_server() {
    let Some(database) = Database::new().await else { return };
    let plain = |ids: &[&str]| named(-7, ids);
    let mut drafts = vec![plain(&["a\"b\\c/ä\u{2028}😀", "t{l=\"\\\\\\\"\\n\"}", "<&>"]), plain(&["a"])];
    for address in ["10.0.0.1", "2001:db8::1", "::ffff:1.2.3.4", "fe80::1"] {
        drafts.push(Draft { ip_address: address.parse().unwrap(), ts: i64::MAX, ..plain(&["a"]) });
    }
    database.put(&drafts, &["webhook"]).await;
    let composed: Vec<String> = sqlx::query_scalar("select body from audit_events order by id").fetch_all(&database.pool).await.unwrap();
    let expected: Vec<String> = drafts.iter().map(json).collect();
    assert_eq!(composed, expected);
}

#[tokio::test]
async fn a_list_that_is_not_repeated_is_removed_with_its_event() {
    let Some(database) = Database::new().await else { return };
    let drafts: Vec<Draft> = (0..300).map(|number| first_named(number, &[&format!("metric{number}"), "a\"b"])).collect();
    database.put(&drafts, &["webhook"]).await;
    assert_eq!(database.count("audit_name_lists").await, 0);
    let outbox = database.outbox("webhook");
    let claimed = outbox.claim(999).await.unwrap();
    assert_eq!(bodies(&claimed), drafts.iter().map(json).collect::<Vec<_>>());
    outbox.settle(&all(&claimed[..299], &DeliveryOutcome::Delivered)).await.unwrap();
    outbox.settle(&all(&claimed[299..], &DeliveryOutcome::GivenUp("no".into()))).await.unwrap();
    assert_eq!(database.count("outbox").await, 0, "no rows are left of ten thousand lists a day");
    let letter: String = sqlx::query_scalar("select body from audit_dead_letters").fetch_one(&database.pool).await.unwrap();
    assert_eq!(letter, json(&drafts[299]));
}

#[tokio::test]
async fn without_room_for_lists_events_store_their_names() {
    let Some(database) = Database::new().await else { return };
    let hook = Hook::new(vec!["webhook".to_owned()], vec![Arc::new(Notify::new())]);
    hook.share_name_lists(false);
    let mut transaction = database.pool.begin().await.unwrap();
    hook.in_transaction(&mut transaction, &[&draft(1), &draft(2)]).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(database.count("audit_name_lists").await, 0);
    assert_eq!(bodies(&database.outbox("webhook").claim(9).await.unwrap()), [json(&draft(1)), json(&draft(2))]);
}

#[tokio::test]
async fn an_event_has_either_names_or_a_list() {
    let Some(database) = Database::new().await else { return };
    for (metrics, list) in [("null", "null"), ("'[]'", "'\\x00'::bytea")] {
        let sql = format!(
            "insert into outbox (event_id, ts, ip_address, bytes, metrics, name_list) values (gen_random_uuid(), 1, '', 1, {metrics}, {list})"
        );
        sqlx::raw_sql(&sql).execute(&database.pool).await.expect_err("the constraint refuses it");
    }
}

#[tokio::test]
async fn lists_are_removed_when_nothing_can_refer_to_them() {
    let Some(database) = Database::new().await else { return };
    let names = |lists: Vec<(String, i32)>| lists.into_iter().map(|(names, _)| names).collect::<Vec<_>>();
    database.put(&[named(0, &["new"]), named(1, &["old"]), named(2, &["older"])], &["webhook"]).await;
    database.run(r#"update audit_name_lists set last_day = last_day - 5 where metrics = '["old"]'"#).await;
    database.run(r#"update audit_name_lists set last_day = last_day - 9 where metrics = '["older"]'"#).await;
    // The oldest event is from the last day on which the middle list was used.
    database.run("update outbox set created_at = now() - interval '5 days' where id = (select min(id) from outbox)").await;
    let wide = Bounds { retention: Duration::from_hours(24 * 365), ..WIDE };
    database.sweep(&wide).await;
    assert_eq!(names(database.lists().await), [r#"["new"]"#, r#"["old"]"#]);
    database.run("delete from outbox").await;
    // A list that a writer has locked is skipped, without waiting for the writer.
    let mut writer = database.pool.begin().await.unwrap();
    insert(&mut writer, &[&named(3, &["old"])], &["webhook".to_owned()], true).await.unwrap();
    database.sweep(&wide).await;
    writer.commit().await.unwrap();
    assert_eq!(database.lists().await, [(r#"["new"]"#.to_owned(), 0), (r#"["old"]"#.to_owned(), 0)]);
    database.run("delete from outbox; update audit_name_lists set last_day = last_day - 1").await;
    database.sweep(&wide).await;
    assert_eq!(database.count("audit_name_lists").await, 2, "transactions of yesterday may still be open");
    database.run("update audit_name_lists set last_day = last_day - 1").await;
    database.sweep(&wide).await;
    assert_eq!(database.count("audit_name_lists").await, 0);
}

#[tokio::test]
async fn a_dead_letter_keeps_its_list() {
    let Some(database) = Database::new().await else { return };
    database.put(&[draft(1)], &["webhook"]).await;
    let outbox = database.outbox("webhook");
    outbox.settle(&all(&outbox.claim(9).await.unwrap(), &DeliveryOutcome::GivenUp("no".into()))).await.unwrap();
    database.run("update audit_name_lists set last_day = last_day - 9").await;
    database.sweep(&WIDE).await;
    let letter: String = sqlx::query_scalar("select body from audit_dead_letters").fetch_one(&database.pool).await.unwrap();
    assert_eq!(letter, json(&draft(1)));
    database.run("delete from dead_letters").await;
    database.sweep(&WIDE).await;
    assert_eq!(database.count("audit_name_lists").await, 0);
}
