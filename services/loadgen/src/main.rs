//! golectra-loadgen: settings, a run, a verdict.

mod config;

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use golectra_loadgen::{FaultProxy, Oracle, Report, Run, Struck, Verdict};
use golectra_process::{Shutdown, banner, telemetry};
use serde::Serialize;

use self::config::Settings;

const NAME: &str = "golectra-loadgen";

/// Between two lines that say how far a run has come.
const PROGRESS: Duration = Duration::from_secs(10);

/// What a run came to.
#[derive(Serialize)]
struct Outcome {
    /// Nothing was lost or doubled, as far as that was to be checked.
    ok: bool,
    build: &'static str,
    report: Option<Report>,
    faults: Option<Struck>,
    verdict: Option<Verdict>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let settings = Settings::load(NAME);
    if !settings.json {
        banner::print();
    }
    let telemetry = telemetry::init(NAME);
    let code = match run(&settings).await {
        Ok(outcome) => {
            show(&outcome, settings.json);
            if outcome.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(Wrong::Arguments(sentence)) => {
            say(&sentence);
            ExitCode::from(2)
        }
        Err(Wrong::World(sentence)) => {
            say(&sentence);
            ExitCode::FAILURE
        }
    };
    telemetry.shutdown();
    code
}

/// Why there is no outcome.
enum Wrong {
    /// The plan can't be carried out.
    Arguments(String),
    /// Something failed on the way.
    World(String),
}

async fn run(settings: &Settings) -> Result<Outcome, Wrong> {
    if settings.check {
        let path = settings.ledger.as_deref().ok_or_else(|| Wrong::Arguments("CHECK needs the LEDGER of the run to check".to_owned()))?;
        let oracle = Oracle::from_ledger(path).map_err(|error| Wrong::Arguments(error.to_string()))?;
        let verdict = check(&oracle, settings).await?;
        return Ok(Outcome { ok: verdict.holds(), build: banner::BUILD.version, report: None, faults: None, verdict: Some(verdict) });
    }
    let mut plan = settings.plan().map_err(Wrong::Arguments)?;
    // Said before anything listens or is written.
    plan.shape().map_err(|error| Wrong::Arguments(error.to_string()))?;
    let proxy = match settings.faults() {
        None => None,
        Some(faults) => {
            let proxy = FaultProxy::start(vec![settings.address.clone()], faults, settings.seed.unwrap_or_else(|| fastrand::u64(..))).await;
            Some(proxy.map_err(|error| Wrong::World(format!("the faults need a port of this machine: {error}")))?)
        }
    };
    if let Some(proxy) = &proxy {
        plan.address = proxy.address();
    }
    // A second signal, or this long after the first, ends the program without a verdict.
    let patience = plan.retry_for + plan.timeout + settings.check_for.duration();
    let run = Run::start(plan).map_err(|error| Wrong::Arguments(error.to_string()))?;
    let shutdown = Shutdown::new();
    shutdown.listen_for_signals(patience).map_err(|error| Wrong::World(format!("signals can't be listened for: {error}")))?;
    let (stopper, told) = (run.stopper(), shutdown.token());
    tokio::spawn(async move {
        told.cancelled().await;
        stopper.cancel();
    });
    let watcher = run.watcher();
    let progress = tokio::spawn(async move {
        loop {
            tokio::time::sleep(PROGRESS).await;
            let now = watcher.progress();
            tracing::info!(begun = now.begun, acknowledged = now.acknowledged, failed_tries = now.failed_tries, "under way");
        }
    });
    let (report, oracle) = run.finish().await;
    progress.abort();
    let verdict = if settings.verify { Some(check(&oracle, settings).await?) } else { None };
    Ok(Outcome {
        ok: report.ledger_error.is_none() && report.batches.acknowledged > 0 && verdict.as_ref().is_none_or(Verdict::holds),
        build: banner::BUILD.version,
        report: Some(report),
        faults: proxy.map(|proxy| proxy.struck()),
        verdict,
    })
}

async fn check(oracle: &Oracle, settings: &Settings) -> Result<Verdict, Wrong> {
    oracle.check(&settings.address, settings.check_for.duration()).await.map_err(|error| Wrong::World(error.to_string()))
}

/// Prints what came of it; a closed stdout takes nothing away from the exit code.
fn show(outcome: &Outcome, json: bool) {
    let mut out = io::stdout().lock();
    let _ = if json {
        serde_json::to_writer(&mut out, outcome).map_err(Into::into).and_then(|()| writeln!(out))
    } else {
        text(&mut out, outcome)
    };
}

fn text(out: &mut impl io::Write, outcome: &Outcome) -> io::Result<()> {
    if let Some(report) = &outcome.report {
        write!(out, "{report}")?;
        if report.batches.acknowledged == 0 {
            writeln!(out, "nothing was acknowledged")?;
        }
    }
    if let Some(struck) = &outcome.faults {
        let Struck { requests, cut_answers, cut_requests, resets, delays } = struck;
        writeln!(
            out,
            "faults       {cut_answers} answers cut, {cut_requests} requests cut, {resets} resets, {delays} delays of {requests} requests"
        )?;
    }
    outcome.verdict.as_ref().map_or(Ok(()), |verdict| write!(out, "{verdict}"))
}

/// One sentence on stderr.
fn say(sentence: &str) {
    let _ = writeln!(io::stderr(), "{NAME}: {sentence}");
}
