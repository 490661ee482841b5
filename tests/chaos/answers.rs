//! Answers that never arrive: the server has done its work, the client can't know.

use std::time::Instant;

use golectra_loadgen::Faults;
use golectra_tests::{Database, Server, until};

use crate::amount;
use crate::load::{LIMIT, Load};

const FAULTS: Faults = Faults { cut_answers: 0.3, cut_requests: 0.05, resets: 0.1, ..Faults::NONE };

async fn cut(scenario: &str, server: Server) {
    let (start, wanted) = (Instant::now(), amount(60, 500));
    let load = Load::start(&[server.port()], FAULTS).await;
    until("enough answers were cut", LIMIT, async || load.cut_answers() >= wanted).await;
    let cut = load.cut_answers();
    load.finish().await.judge(scenario, &format!("{cut} answers cut"), start);
}

#[tokio::test]
async fn answers_cut_memory() {
    cut("answers cut, memory", Server::builder().start()).await;
}

#[tokio::test]
async fn answers_cut_postgres() {
    let Some(database) = Database::create() else { return };
    cut("answers cut, postgres", Server::builder().database(&database).start()).await;
}
