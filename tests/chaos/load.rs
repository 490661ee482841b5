//! Clients that write while something goes wrong: some that keep a batch's key, and a naive one.

use std::time::{Duration, Instant};

use golectra_loadgen::{Address, CheckResult, FaultProxy, Faults, Pace, Plan, Report, Retry, Run, SentBatches, Signing};
use golectra_process::Secret;
use golectra_tests::{runtime, until};

use crate::results::LoadResults;

/// How long a batch is tried: longer than any outage here but the long one.
const RETRY_FOR: Duration = Duration::from_mins(4);

/// How long a condition may take on a busy machine.
pub const LIMIT: Duration = Duration::from_mins(2);

/// The server may take this long until it can be read.
const READ_LIMIT: Duration = Duration::from_mins(1);

/// As long as a run can take; it is stopped before.
const LONG: Duration = Duration::from_hours(1);

/// A little of everything that happens to answers on any network; the naive client over-counts for it.
pub const SOME: Faults = Faults { cut_answers: 0.03, cut_requests: 0.01, resets: 0.01, ..Faults::NONE };

/// Clients at work.
pub struct Load {
    keyed: Run,
    naive: Run,
    proxy: FaultProxy,
    naive_proxy: FaultProxy,
}

/// A plan of clients in a hurry.
fn plan(address: Address, key: Option<&Secret>, agents: u32, retry: Retry) -> Plan {
    Plan {
        agents,
        metrics: 12,
        counters: Some(4),
        series: Some(36),
        pace: Pace::Every(Duration::from_millis(20)),
        duration: LONG,
        signing: key.map(Signing::with_key),
        key: key.cloned(),
        retry,
        retry_for: RETRY_FOR,
        timeout: Duration::from_secs(5),
        ..Plan::new(address)
    }
}

/// Starts a run beside the test, which may block its own thread.
pub fn start(plan: Plan) -> Run {
    let _entered = runtime().enter();
    Run::start(plan).expect("the plan can be carried out")
}

/// Starts a proxy beside the test.
async fn proxy(servers: Vec<Address>, faults: Faults) -> FaultProxy {
    let started = runtime().spawn(FaultProxy::start(servers, faults, 1)).await;
    started.expect("no panic").expect("a port of this machine is free")
}

impl Load {
    /// Starts clients of the servers on these ports, with faults between.
    pub async fn start(ports: &[u16], faults: Faults) -> Self {
        Self::start_at(ports.iter().map(|port| Address::local(*port)).collect(), None, faults).await
    }

    /// Starts clients of these servers that hash with this key, with faults between.
    pub async fn start_at(servers: Vec<Address>, key: Option<&Secret>, faults: Faults) -> Self {
        let (proxy, naive_proxy) = (proxy(servers.clone(), faults).await, proxy(servers, faults).await);
        Self {
            keyed: start(plan(proxy.address(), key, 8, Retry::SameKey)),
            naive: start(plan(naive_proxy.address(), key, 4, Retry::FreshKey)),
            proxy,
            naive_proxy,
        }
    }

    /// Answers cut so far on the way to the clients with keys.
    pub fn cut_answers(&self) -> u64 {
        self.proxy.counts().cut_answers
    }

    /// Tries that failed so far.
    pub fn failed_tries(&self) -> u64 {
        self.keyed.progress().failed_tries
    }

    /// Waits until more of both is acknowledged than now: what was begun after this call has come through.
    pub async fn goes_on(&self) {
        let before = (self.keyed.progress(), self.naive.progress());
        let enough = |run: &Run, before: u64| run.progress().acknowledged >= before + 20;
        until("more is acknowledged", LIMIT, async || {
            enough(&self.keyed, before.0.acknowledged) && enough(&self.naive, before.1.acknowledged)
        })
        .await;
    }

    /// Ends the load and reads the books, without faults.
    pub async fn finish(self) -> LoadResults {
        until("answers to the naive client were cut", LIMIT, async || self.naive_proxy.counts().cut_answers >= 3).await;
        self.keyed.stop();
        self.naive.stop();
        self.proxy.set(Faults::NONE);
        let (keyed, check) = settle(self.keyed, &self.proxy.address()).await;
        let (naive, naive_check) = settle(self.naive, &self.proxy.address()).await;
        LoadResults { keyed, check, naive, naive_check }
    }
}

/// Waits until every batch of a run is settled, and checks the server.
async fn settle(run: Run, server: &Address) -> (Report, CheckResult) {
    let settled = tokio::time::timeout(RETRY_FOR + READ_LIMIT, run.finish()).await;
    let (report, sent): (Report, SentBatches) = settled.expect("a batch is tried no longer than the plan says");
    assert_eq!(report.batches.given_up + report.batches.refused, 0, "{report}");
    let check = sent.check(server, READ_LIMIT).await;
    (report, check.expect("the server can be read"))
}

/// Goes on for a while; only where the time itself is what is tested.
pub async fn pass(time: Duration) {
    let end = Instant::now() + time;
    tokio::time::sleep_until(end.into()).await;
}
