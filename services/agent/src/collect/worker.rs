//! The thread of a collector. Nothing that happens on it, not even a panic or a hang, delays a poll longer than the limit.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use golectra_process::LogLimiter;
use tokio::sync::oneshot;
use tokio::time::timeout_at;

use super::collector::{Collector, Readings};
use crate::HELPER_STACK_BYTES;

/// How long a poll waits for a collector.
pub(super) const LIMIT: Duration = Duration::from_secs(1);

/// What took longer than this is not reported, because its values are outdated, as after a sensor that hung for an hour.
const OUTDATED: Duration = Duration::from_mins(1);

static STATE_CHANGES: LogLimiter<(&'static str, bool)> = LogLimiter::new();

/// The result of asking a collector.
pub(super) struct Report {
    pub(super) readings: Readings,
    /// How long it took; while it hangs, how long it has taken so far.
    pub(super) seconds: f64,
    pub(super) success: bool,
}

/// What the thread sends back.
struct Answer {
    readings: Readings,
    took: Duration,
    error: Option<String>,
}

/// One collector. It is asked again only after it has answered, so that one that hangs costs one thread and one question.
pub(super) struct Worker {
    name: &'static str,
    questions: mpsc::SyncSender<oneshot::Sender<Answer>>,
    asked: Option<Asked>,
    /// The answer that came after the poll that asked for it.
    late: Option<Answer>,
    failing: bool,
}

struct Asked {
    at: Instant,
    answer: oneshot::Receiver<Answer>,
    /// The poll that asked did not wait for the answer.
    late: bool,
}

impl Worker {
    pub(super) fn start(mut collector: Box<dyn Collector>) -> io::Result<Self> {
        let name = collector.name();
        let (questions, asked) = mpsc::sync_channel::<oneshot::Sender<Answer>>(1);
        let work = move || {
            for question in asked {
                // A poll that does not wait any more has dropped the receiver.
                let _ = question.send(measure(collector.as_mut()));
            }
        };
        thread::Builder::new().name(format!("collect-{name}")).stack_size(HELPER_STACK_BYTES).spawn(work)?;
        Ok(Self { name, questions, asked: None, late: None, failing: false })
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// Starts a measurement, unless the one before is still in progress.
    pub(super) fn ask(&mut self) {
        if let Some(asked) = &mut self.asked {
            match asked.answer.try_recv() {
                Ok(answer) if answer.took <= OUTDATED => self.late = Some(answer),
                Err(oneshot::error::TryRecvError::Empty) => return,
                Ok(_) | Err(oneshot::error::TryRecvError::Closed) => {}
            }
        }
        let (question, answer) = oneshot::channel();
        let at = Instant::now();
        self.asked = self.questions.try_send(question).is_ok().then_some(Asked { at, answer, late: false });
    }

    /// Waits for the measurement that [`ask`](Self::ask) started. If it is late, the late answer to the question before is reported, if there is one: a
    /// collector that always takes longer than the limit is one poll behind.
    pub(super) async fn answer(&mut self, deadline: tokio::time::Instant) -> Report {
        let late = self.late.take();
        let Some(mut asked) = self.asked.take() else {
            return self.failed(Readings::default(), 0.0, "its thread has ended");
        };
        let in_time = if asked.late { None } else { timeout_at(deadline, &mut asked.answer).await.ok() };
        match in_time {
            Some(Ok(Answer { readings, took, error: Some(error) })) => self.failed(readings, super::seconds(took), &error),
            Some(Ok(Answer { readings, took, error: None })) => self.succeeded(readings, super::seconds(took)),
            Some(Err(_)) => self.failed(Readings::default(), super::seconds(asked.at.elapsed()), "its thread has ended"),
            None => {
                let seconds = super::seconds(asked.at.elapsed());
                asked.late = true;
                self.asked = Some(asked);
                // The log says it once, until the collector is in time again.
                let error = "it takes longer than a second: its values come with a later report";
                let without = self.failed(Readings::default(), seconds, error);
                late.map_or(without, |Answer { readings, took, error }| {
                    let seconds = super::seconds(took);
                    Report { readings, seconds, success: error.is_none() }
                })
            }
        }
    }

    fn succeeded(&mut self, readings: Readings, seconds: f64) -> Report {
        if std::mem::take(&mut self.failing) {
            let collector = self.name;
            STATE_CHANGES.log((collector, true), move |count| tracing::info!(count, collector, "the collector works again"));
        }
        Report { readings, seconds, success: true }
    }

    /// Logs the first failure in a row only, because a collector is asked every few seconds.
    fn failed(&mut self, readings: Readings, seconds: f64, error: &str) -> Report {
        if !std::mem::replace(&mut self.failing, true) {
            let (collector, error) = (self.name, error.to_owned());
            STATE_CHANGES.log((collector, false), move |count| {
                tracing::warn!(count, collector, error, "a collector failed: its metrics are missing, incomplete or late");
            });
        }
        Report { readings, seconds, success: false }
    }
}

fn measure(collector: &mut dyn Collector) -> Answer {
    let start = Instant::now();
    let mut readings = Readings::default();
    // A collector keeps only open files and its last values, so that a panic leaves nothing in an invalid state.
    let result = catch_unwind(AssertUnwindSafe(|| collector.collect(&mut readings)));
    let error = match result {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(panic) => Some(format!("it panicked: {}", panic_text(panic.as_ref()))),
    };
    Answer { readings, took: start.elapsed(), error }
}

pub(super) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
