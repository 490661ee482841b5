//! What the fuzz targets call: the parsers of targets' answers, and the series that are kept between scrapes.

use std::sync::Arc;

use golectra_protocol::Source;
use golectra_protocol::exposition::Format;
use tokio::time::Instant;

use super::ScrapeLimits;
use super::client::Answer;
use super::job::ScrapeJob;
use super::pieces::Pieces;
use super::series::SeriesBudget;
use super::target::Target;

/// What two answers of one target give, each as the items of JSON arrays. Without a format they are variables of a Go program.
pub fn scrapes(answers: [&[u8]; 2], format: Option<Format>) -> Vec<String> {
    let path = if format.is_some() { "metrics" } else { "debug/vars" };
    let url = format!("http://localhost:1/{path}").parse().expect("a URL");
    let limits = ScrapeLimits { body_bytes: 1 << 20, samples: 200, labels: 8, label_name_bytes: 64, label_value_bytes: 256 };
    let target = Target::new(url, None, &Source::unnamed());
    let mut job = ScrapeJob::new(target, limits, Arc::default(), Arc::new(SeriesBudget::new(100))).expect("a target has valid labels");
    let pieces = answers.map(|body| job.of_answer(Ok(Answer::of(body.to_vec(), format)), Instant::now()).pieces);
    pieces.into_iter().flat_map(|pieces| Pieces::join([pieces])).map(|piece| piece.items).collect()
}
