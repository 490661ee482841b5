//! golectra-loadgen: reads the settings, runs the load, checks the server, prints the result.

mod config;

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use golectra_loadgen::{CheckResult, FaultCounts, FaultProxy, Report, Run, RunHandle, SentBatches, Signing};
use golectra_process::{Shutdown, banner, telemetry};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use self::config::Settings;

const NAME: &str = "golectra-loadgen";

/// Between two lines that say how far a run has come.
const PROGRESS: Duration = Duration::from_secs(10);

/// How long after a signal the program ends at the latest. What is not printed by then is lost.
const SIGNAL_LIMIT: Duration = Duration::from_secs(5);

/// How long after a signal the batches under way are given up.
const ANSWERS_LIMIT: Duration = Duration::from_secs(2);

/// How long after a signal the check that follows the run ends. It leaves some time to print.
const CHECK_LIMIT: Duration = Duration::from_millis(4_500);

/// The result of a run.
#[derive(Serialize)]
struct Outcome {
    /// Nothing was lost or counted twice, as far as that was to be checked.
    ok: bool,
    build: &'static str,
    report: Option<Report>,
    faults: Option<FaultCounts>,
    /// What the check found, as far as it came.
    check: Option<CheckResult>,
    /// Why the check is not complete.
    check_error: Option<String>,
}

/// Why there is no outcome.
enum Failure {
    /// The settings can't be used.
    Settings(String),
    /// The system refused something.
    System(String),
}

fn main() -> ExitCode {
    let settings = Settings::load(NAME);
    if !settings.json {
        banner::print();
    }
    let telemetry = telemetry::init(NAME);
    let outcome = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => {
            let outcome = runtime.block_on(run(&settings));
            // A name that is still being looked up would hold the program.
            runtime.shutdown_background();
            outcome
        }
        Err(error) => Err(Failure::System(format!("the runtime can't be started: {error}"))),
    };
    let code = match outcome {
        Ok(outcome) => {
            print_outcome(&outcome, settings.json);
            if let Some(error) = &outcome.check_error {
                print_error(error);
            }
            if outcome.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(Failure::Settings(sentence)) => {
            print_error(&sentence);
            ExitCode::from(2)
        }
        Err(Failure::System(sentence)) => {
            print_error(&sentence);
            ExitCode::FAILURE
        }
    };
    telemetry.shutdown();
    code
}

async fn run(settings: &Settings) -> Result<Outcome, Failure> {
    if settings.check {
        let path = settings.ledger.as_deref();
        let path = path.ok_or_else(|| Failure::Settings("CHECK needs the LEDGER of the run to check".to_owned()))?;
        let sent = SentBatches::from_ledger(path).map_err(|error| Failure::Settings(error.to_string()))?;
        let signals = Signals::listen(None)?;
        return Ok(Outcome::of(None, None, Some(check(&sent, settings, &signals).await)));
    }
    let mut plan = settings.plan().map_err(Failure::Settings)?;
    // Checked before anything listens or is written.
    plan.workload().map_err(|error| Failure::Settings(error.to_string()))?;
    let proxy = match settings.faults() {
        None => None,
        Some(faults) => {
            let seed = settings.seed.unwrap_or_else(|| fastrand::u64(..));
            let proxy = FaultProxy::start(vec![settings.address.clone()], faults, seed).await;
            Some(proxy.map_err(|error| Failure::System(format!("the faults need a port of this machine: {error}")))?)
        }
    };
    if let Some(proxy) = &proxy {
        plan.address = proxy.address();
    }
    let signing = plan.signing.clone();
    let run = Run::start(plan).map_err(|error| Failure::Settings(error.to_string()))?;
    let handle = run.handle();
    let signals = Signals::listen(Some(handle.clone()))?;
    tracing::info!(server = %settings.address, "sending");
    let progress = tokio::spawn(async move {
        loop {
            tokio::time::sleep(PROGRESS).await;
            let now = handle.progress();
            tracing::info!(begun = now.begun, acknowledged = now.acknowledged, failed_tries = now.failed_tries, "under way");
        }
    });
    let (report, sent) = run.finish().await;
    progress.abort();
    let checked = if settings.verify { Some(check(&sent, settings, &signals).await) } else { None };
    let outcome = Outcome::of(Some(report), proxy.map(|proxy| proxy.counts()), checked);
    // Where something is wrong, what the server has is needed to find out why.
    if outcome.ok && settings.forgets() {
        forget(&sent, signing.as_ref(), settings, &signals).await;
    }
    Ok(outcome)
}

impl Outcome {
    fn of(report: Option<Report>, faults: Option<FaultCounts>, checked: Option<(CheckResult, Option<String>)>) -> Self {
        let sent = report.as_ref().is_none_or(|report| report.ledger_error.is_none() && report.batches.acknowledged > 0);
        let correct = checked.as_ref().is_none_or(|(result, error)| error.is_none() && result.passed());
        let (check, check_error) = checked.map_or((None, None), |(result, error)| (Some(result), error));
        Self { ok: sent && correct, build: banner::BUILD.version, report, faults, check, check_error }
    }
}

/// What SIGINT and SIGTERM do: the first one ends the run and the check in time to print what they know, a second one ends the
/// program at once.
struct Signals {
    /// Cancelled by the first signal.
    first: CancellationToken,
    /// Cancelled when the check has to end that follows a run which a signal stopped.
    check: CancellationToken,
}

impl Signals {
    /// From now on a signal stops the run.
    fn listen(run: Option<RunHandle>) -> Result<Self, Failure> {
        let shutdown = Shutdown::new();
        let listening = shutdown.listen_for_signals(SIGNAL_LIMIT);
        listening.map_err(|error| Failure::System(format!("signals can't be listened for: {error}")))?;
        let signals = Self { first: shutdown.token(), check: CancellationToken::new() };
        let check = signals.check.clone();
        tokio::spawn(async move {
            shutdown.cancelled().await;
            if let Some(run) = run {
                run.stop();
                tokio::time::sleep(ANSWERS_LIMIT).await;
                run.give_up();
                tokio::time::sleep(CHECK_LIMIT.saturating_sub(ANSWERS_LIMIT)).await;
            }
            check.cancel();
        });
        Ok(signals)
    }

    /// What ends that which follows the run.
    fn end(&self) -> &CancellationToken {
        if self.first.is_cancelled() { &self.check } else { &self.first }
    }
}

/// What the check found, and why it is not complete where it is not. A signal during the check ends it at once; after a signal
/// during the run there is some time for it.
async fn check(sent: &SentBatches, settings: &Settings, signals: &Signals) -> (CheckResult, Option<String>) {
    tracing::info!(server = %settings.address, sources = sent.sources(), "checking");
    let mut result = CheckResult::default();
    let end = signals.end();
    let checked = tokio::select! {
        biased;
        checked = sent.check_into(&settings.address, settings.check_for.duration(), &mut result) => checked.map_err(|error| error.to_string()),
        () = end.cancelled() => Err("a signal ended it".to_owned()),
    };
    let total = sent.sources();
    let error = checked.err().map(|reason| format!("only {} of {total} sources were checked: {reason}", result.sources));
    (result, error)
}

/// Makes the server forget the sources, as long as no signal ends it. What it does not forget expires there.
async fn forget(sent: &SentBatches, signing: Option<&Signing>, settings: &Settings, signals: &Signals) {
    let end = signals.end();
    let forgotten = tokio::select! {
        biased;
        forgotten = sent.forget(&settings.address, signing, settings.timeout.duration()) => forgotten.map_err(|error| error.to_string()),
        () = end.cancelled() => Err("a signal ended it".to_owned()),
    };
    if let Err(reason) = forgotten {
        tracing::warn!(reason, "sources of this run stay on the server until its SOURCE_EXPIRY has passed");
    }
}

/// Prints the result; a closed stdout does not change the exit code.
fn print_outcome(outcome: &Outcome, json: bool) {
    let mut out = io::stdout().lock();
    let _ = if json {
        serde_json::to_writer(&mut out, outcome).map_err(Into::into).and_then(|()| writeln!(out))
    } else {
        print_text(&mut out, outcome)
    };
}

fn print_text(out: &mut impl io::Write, outcome: &Outcome) -> io::Result<()> {
    if let Some(report) = &outcome.report {
        write!(out, "{report}")?;
        if report.batches.acknowledged == 0 {
            writeln!(out, "nothing was acknowledged")?;
        }
    }
    if let Some(faults) = &outcome.faults {
        let FaultCounts { requests, cut_answers, cut_requests, resets, delays } = faults;
        writeln!(
            out,
            "faults       {cut_answers} answers cut, {cut_requests} requests cut, {resets} resets, {delays} delays of {requests} requests"
        )?;
    }
    outcome.check.as_ref().map_or(Ok(()), |check| write!(out, "{check}"))
}

/// One sentence on stderr.
fn print_error(sentence: &str) {
    let _ = writeln!(io::stderr(), "{NAME}: {sentence}");
}
