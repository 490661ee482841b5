//! Simulated agents that remember what was acknowledged, and check it afterwards.
//!
//! A person sizes a server with it; the fault tests and the benchmarks drive theirs. The way of a run:
//!
//! 1. A [`Plan`] says who sends what, how fast, over how many connections, and what happens when an answer stays away.
//! 2. [`Run::start`] makes the bodies and starts the agents; [`Run::finish`] gives a [`Report`] and an [`Oracle`].
//! 3. [`Oracle::check`] reads the server and says in a [`Verdict`] whether acknowledged <= stored <= issued holds for every
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
//! let (report, oracle) = Run::start(plan)?.finish().await;
//! let verdict = oracle.check(&server, Duration::from_secs(30)).await?;
//! println!("{report}{verdict}");
//! assert!(verdict.holds());
//! # Ok(())
//! # }
//! ```
#![deny(missing_docs)]

mod faults;
mod latency;
mod ledger;
mod oracle;
mod plan;
mod prepared;
mod report;
mod run;
mod shape;
mod wire;

pub use faults::{FaultProxy, Faults, Struck};
pub use latency::Latency;
pub use ledger::LedgerError;
pub use oracle::{CheckError, Oracle, Span, Verdict};
pub use plan::{Address, AddressError, Content, Pace, Plan, PlanError, Retry, RetryError, Signing};
pub use report::{Batches, Report};
pub use run::{Progress, Run, Watcher};
pub use shape::Shape;
pub use wire::{Answer, Connection, Failure};
