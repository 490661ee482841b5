//! Simulated agents that remember what was acknowledged, and check it afterwards.
//!
//! People use it to find out what a server can take; the fault tests and the benchmarks use it as a library. The steps of a run:
//!
//! 1. A [`Plan`] says who sends what, how fast, over how many connections, and what happens when an answer stays away.
//! 2. [`Run::start`] makes the bodies and starts the agents; [`Run::finish`] gives a [`Report`] and the [`SentBatches`].
//! 3. [`SentBatches::check`] reads the server and says in a [`CheckResult`] whether acknowledged <= stored <= issued holds for every
//!    series of every source.
//!
//! Between a client and its server a [`FaultProxy`] can cut answers, cut requests, reset connections and delay answers.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use golectra_loadgen::{Plan, Run};
//!
//! let plan = Plan { agents: 50, metrics: 60, duration: Duration::from_secs(10), ..Plan::new("localhost:8080".parse()?) };
//! let server = plan.address.clone();
//! let (report, sent) = Run::start(plan)?.finish().await;
//! let result = sent.check(&server, Duration::from_secs(30)).await?;
//! println!("{report}{result}");
//! assert!(result.passed());
//! # Ok(())
//! # }
//! ```
#![deny(missing_docs)]

mod check;
mod faults;
mod latency;
mod ledger;
mod plan;
mod report;
mod request;
mod run;
mod wire;
mod workload;

pub use check::{CheckError, CheckResult, ForgetError, SentBatches, Totals};
pub use faults::{FaultCounts, FaultProxy, Faults};
pub use latency::Latency;
pub use ledger::LedgerError;
pub use plan::{Address, AddressError, Content, Pace, Plan, PlanError, Retry, RetryError, Signing};
pub use report::{Batches, Report};
pub use run::{Progress, Run, RunHandle};
pub use wire::{Answer, Connection, Failure};
pub use workload::Workload;
