//! Shutting down: the first signal asks every part to finish within a limit; a second signal or the limit ends the process at
//! once.
//!
//! SIGHUP is such a first signal: a terminal that is closed sends it. It is never a second one, because the shell and the kernel may each
//! send it. A process that was started with SIGHUP ignored, as nohup does, goes on ignoring it.

use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::log_limiter::write_pending_lines;
use crate::system;

/// The default time limit of a shutdown.
pub const DEFAULT_LIMIT: Duration = Duration::from_secs(20);

/// The exit code of a process that did not finish in time.
const ABORTED: i32 = 1;

/// Tells every part of a service to finish, and tracks the parts that still run.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    token: CancellationToken,
    tasks: TaskTracker,
}

impl Shutdown {
    /// A shutdown that has not started.
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on SIGINT, SIGTERM and SIGHUP start the shutdown instead of killing the process; SIGHUP does not where it was ignored before. A
    /// second SIGINT or SIGTERM, or `limit` passing after the first signal, ends the process with code 1.
    ///
    /// Must be called inside a runtime. The error is the operating system's when a signal handler can't be installed.
    pub fn listen_for_signals(&self, limit: Duration) -> io::Result<()> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        // A handler would undo what nohup has set.
        let hangup = if system::ignores_hangup() { None } else { Some(signal(SignalKind::hangup())?) };
        let token = self.token.clone();
        tokio::spawn(async move {
            let name = first(&mut interrupt, &mut terminate, hangup).await;
            tracing::info!(signal = name, limit_seconds = limit.as_secs_f64(), "stopping: finishing what is under way");
            watch(limit);
            token.cancel();
            let name = next(&mut interrupt, &mut terminate).await;
            tracing::error!(signal = name, "stopped at once by a second signal: unfinished work is aborted");
            write_pending_lines();
            std::process::exit(ABORTED);
        });
        Ok(())
    }

    /// Starts the shutdown without a signal.
    pub fn start(&self) {
        self.token.cancel();
    }

    /// Cancelled when the shutdown starts.
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Resolves when the shutdown starts.
    pub async fn cancelled(&self) {
        self.token.cancelled().await;
    }

    /// Runs a task that [`wait`](Self::wait) waits for.
    pub fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        self.tasks.spawn(task)
    }

    /// Waits at most `limit` until every spawned task has ended; returns whether they all have.
    pub async fn wait(&self, limit: Duration) -> bool {
        self.tasks.close();
        tokio::time::timeout(limit, self.tasks.wait()).await.is_ok()
    }
}

/// The name of the signal that starts the shutdown.
async fn first(interrupt: &mut Signal, terminate: &mut Signal, hangup: Option<Signal>) -> &'static str {
    let hung_up = async {
        match hangup {
            Some(mut hangup) => hangup.recv().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        name = next(interrupt, terminate) => name,
        _ = hung_up => "SIGHUP",
    }
}

/// The name of the next SIGINT or SIGTERM.
async fn next(interrupt: &mut Signal, terminate: &mut Signal) -> &'static str {
    tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
    }
}

/// Ends the process when the limit passes. It runs on a thread of its own, because the runtime may be blocked.
fn watch(limit: Duration) {
    let watchdog = move || {
        std::thread::sleep(limit);
        tracing::error!(limit_seconds = limit.as_secs_f64(), "stopped at the time limit: unfinished work is aborted");
        write_pending_lines();
        std::process::exit(ABORTED);
    };
    if let Err(error) = std::thread::Builder::new().name("shutdown-limit".to_owned()).spawn(watchdog) {
        tracing::warn!(%error, "the time limit of the shutdown could not be set: a second signal still ends the process");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Shutdown;

    #[tokio::test(start_paused = true)]
    async fn waits_for_tasks_but_not_longer_than_the_limit() {
        let shutdown = Shutdown::new();
        let finishing = shutdown.clone();
        shutdown.spawn(async move {
            finishing.cancelled().await;
            tokio::time::sleep(Duration::from_secs(3)).await;
        });
        assert!(!shutdown.wait(Duration::from_mins(1)).await, "the task was not asked to finish");
        shutdown.start();
        assert!(!shutdown.wait(Duration::from_secs(2)).await);
        assert!(shutdown.wait(Duration::from_secs(2)).await);
    }

    #[tokio::test]
    async fn every_clone_and_token_is_cancelled() {
        let shutdown = Shutdown::new();
        let (clone, token) = (shutdown.clone(), shutdown.token());
        shutdown.start();
        clone.cancelled().await;
        assert!(token.is_cancelled());
    }
}
