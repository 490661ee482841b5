//! Several servers on one database share the webhook's outbox.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use golectra_tests::{AuditSink, Database, Receiver, Reply, Server, until};
use serde_json::Value;

use crate::{LIMIT, each_once, lines, write};

#[tokio::test]
async fn two_servers_deliver_each_event_once_and_each_file_has_its_own_writes() {
    let Some(database) = Database::create() else { return };
    let sink = AuditSink::builder().env("AUDIT_KEY", "audit").start();
    let builder = Server::builder().env("AUDIT_URL", sink.url()).env("AUDIT_KEY", "audit").env("AUDIT_FILE", "audit.ndjson");
    let first = builder.database(&database).env("INSTANCE", "first").start();
    let second = first.twin().env("INSTANCE", "second").start();
    let (mut all, mut own) = (Vec::new(), [Vec::new(), Vec::new()]);
    for index in 0..40 {
        let (which, server) = if index % 2 == 0 { (0, &first) } else { (1, &second) };
        let id = format!("event{index}");
        write(&server.client(), &id).await;
        own[which].push(id.clone());
        all.push(id);
    }
    each_once(&all, async || lines(&sink.ndjson().await)).await;
    for (server, own) in [&first, &second].into_iter().zip(&own) {
        each_once(own, async || lines(&std::fs::read_to_string(server.folder().join("audit.ndjson")).unwrap_or_default())).await;
    }
}

#[tokio::test]
async fn what_a_killed_server_left_is_delivered_by_another() {
    let Some(database) = Database::create() else { return };
    let open = Arc::new(AtomicBool::new(false));
    let gate = Arc::clone(&open);
    let receiver = Receiver::start(move |_| Reply::status(if gate.load(Ordering::SeqCst) { 200 } else { 503 })).await;
    let mut doomed = Server::builder().env("AUDIT_URL", receiver.url()).database(&database).start();
    let ids: Vec<String> = (0..10).map(|index| format!("left{index}")).collect();
    for id in &ids {
        write(&doomed.client(), id).await;
    }
    until("the webhook was tried", LIMIT, async || !receiver.requests().is_empty()).await;
    doomed.kill();
    open.store(true, Ordering::SeqCst);
    let before = receiver.requests().len();
    let _heir = doomed.twin().start();
    each_once(&ids, async || {
        let requests = receiver.requests().split_off(before);
        requests.iter().map(|request| serde_json::from_slice::<Value>(&request.body).expect("JSON")).collect()
    })
    .await;
}
