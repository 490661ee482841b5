//! What an operator may set.

use std::path::PathBuf;

use golectra_process::{BodyBytes, Bytes, Interval, ListenAddress, PositiveInterval, WebhookKey};

golectra_process::settings! {
    /// golectra's audit sink: receives audit events, keeps each once on disk, shows them.
    pub struct Settings {
        /// Where to listen: host:port, :port or port.
        #[arg(short = 'a')]
        pub address: ListenAddress = ":8090",
        /// The key that events must be signed with, the server's AUDIT_KEY; without it they are accepted from everyone.
        pub audit_key: Option<WebhookKey>,
        /// The folder of the events. It is made where there is none.
        pub data_dir: PathBuf = "./audit",
        /// A file that would grow beyond this, or beyond an eighth of RETAIN_BYTES, is closed and compressed, and a new one is begun.
        pub rotate_bytes: Bytes = "64MiB",
        /// How many files of events are kept; the oldest are removed. 0 keeps all that fit RETAIN_BYTES.
        pub retain_files: usize = "0",
        /// What all files in the folder may take together; the oldest are removed and counted. 0 is no bound.
        pub retain_bytes: Bytes = "4GiB",
        /// How long an event's id is remembered from the last time that it came, so that a repeat of it is dropped.
        pub remember: Interval = "48h",
        /// The most ids that are remembered, each in some 90 bytes. Servers send an event again within two minutes; a node has up to 720 events an hour (one for each report), so the default holds those of 500 nodes for 2.7 hours.
        pub remember_ids: usize = "1000000",
        /// The longest event that is accepted, at least 512 bytes. A server sends events of up to 16 MiB.
        pub max_body_bytes: BodyBytes = "16MiB",
        /// The memory that all events under way may take together; beyond it requests are answered 503 with Retry-After.
        pub max_inflight_bytes: Bytes = "48MiB",
        /// The time limit for a request's head.
        pub header_timeout: PositiveInterval = "10s",
        /// The time limit for a request's body.
        pub body_timeout: PositiveInterval = "30s",
        /// The most connections at the same time; more wait.
        pub max_connections: usize = "1024",
        /// The time limit for stopping after a signal. Requests under way have half of it.
        pub shutdown_timeout: PositiveInterval = "20s",
        /// Where /metrics and /ping are served; without it they are not.
        pub metrics_address: Option<ListenAddress>,
    }
}

#[cfg(test)]
mod tests {
    use super::Settings;

    #[test]
    fn the_documentation_has_the_table_of_settings() {
        let table = Settings::markdown();
        let document = include_str!("../../../docs/settings.md");
        assert!(document.contains(table.trim()), "docs/settings.md's table of golectra-audit-sink should be:\n{table}");
    }
}
