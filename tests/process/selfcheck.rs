//! `golectra-server selfcheck URL`, where the server is not there yet.

use std::time::Duration;

use golectra_tests::{Exit, ProgramBuilder, Server, free_port, until};

const LIMIT: Duration = Duration::from_mins(1);

#[tokio::test]
async fn a_server_that_is_not_there_yet_is_waited_for() {
    let port = free_port();
    let mut check = ProgramBuilder::new("golectra-server").flags(["selfcheck", &format!("http://127.0.0.1:{port}")]).start();
    until("it says that it tries again", LIMIT, async || check.stderr().contains("it is tried again")).await;
    assert!(check.stderr().contains("Connection refused"), "{}", check.tail());
    let _server = Server::builder().key(None).port(port).start();
    assert_eq!(check.wait(LIMIT), Exit::Code(0), "{}", check.tail());
}

#[tokio::test]
async fn a_refusal_is_not_waited_for() {
    let server = Server::builder().key(None).start();
    let mut check = ProgramBuilder::new("golectra-server").flags(["selfcheck", &format!("{}/nowhere", server.url())]).start();
    assert_eq!(check.wait(LIMIT), Exit::Code(1));
    assert!(check.stderr().contains("live: answered 404") && !check.stderr().contains("tried again"), "{}", check.tail());
}
