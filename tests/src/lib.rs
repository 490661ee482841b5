//! The harness of the tests that run the real programs.
//!
//! A test starts golectra-server, golectra-agent or golectra-audit-sink like an operator, with variables and flags, on loopback
//! and in a folder of its own, and observes them from outside: over HTTP, and by their output, files and memory. Everything
//! that it starts is ended, even if the test fails or is killed.

mod agent;
mod audit_sink;
mod browser;
mod client;
mod kubelet;
mod matrix;
mod otlp;
mod overload;
mod pgbouncer;
mod ports;
mod postgres;
mod postgres_pair;
mod process;
mod program;
mod prometheus;
mod promtool;
mod proxy;
mod raw;
mod receiver;
pub mod remote_write;
mod server;
mod smtp;
pub mod statistics;
mod wait;

pub use agent::{AGENT_GAUGES, Agent, AgentBuilder};
pub use audit_sink::{AuditSink, AuditSinkBuilder};
pub use browser::Browser;
pub use client::{Answer, Client, RequestBuilder, encode, fresh_key, gunzip, gzip, key_at, unix_millis};
pub use kubelet::{KubeletNode, NODE_REPORT_BYTES, POD_REPORT_BYTES};
pub use matrix::{KEY, Target, run};
pub use otlp::{OtlpReceiver, Span};
pub use overload::resend;
pub use pgbouncer::{PgBouncer, PoolMode};
pub use ports::free_port;
pub use postgres::{Database, PostgresCluster, skip};
pub use postgres_pair::PostgresPair;
pub use process::{Exit, cpu_seconds, family_cpu_seconds};
pub use program::{Program, ProgramBuilder, binary};
pub use prometheus::Prometheus;
pub use promtool::{listed_in_monitoring, promtool};
pub use proxy::{Fault, Proxy};
pub use raw::{Raw, RawAnswer, exchange};
pub use receiver::{Received, Receiver, Reply};
pub use server::{Server, ServerBuilder, Store};
pub use smtp::{Mail, SMTP_LOGIN, SmtpServer, SmtpTls};
pub use wait::{eventually, runtime, until};
