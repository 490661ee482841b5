//! What an operator may set.

use std::path::PathBuf;

use golectra_process::{Bytes, Interval, ListenAddress, WebhookKey};

golectra_process::settings! {
    /// golectra's audit sink: receives audit events, keeps each once on disk, shows them.
    pub struct Settings {
        /// Where to listen: host:port, :port or port.
        #[arg(short = 'a')]
        pub address: ListenAddress = ":8090",
        /// The key that events must be signed with, the server's AUDIT_KEY; without it they are taken from anyone.
        pub audit_key: Option<WebhookKey>,
        /// The folder of the events, made if need be.
        pub data_dir: PathBuf = "./audit",
        /// A file that would grow beyond this is followed by a new one.
        pub rotate_bytes: Bytes = "64MiB",
        /// How many files of events are kept, the oldest going first; 0 keeps all.
        pub retain_files: usize = "0",
        /// How long an event's id is remembered, so that a repeat of it is dropped.
        pub remember: Interval = "48h",
        /// How many ids are remembered at most.
        pub remember_ids: usize = "1000000",
        /// The longest event that is taken.
        pub max_body_bytes: Bytes = "1MiB",
        /// A request's head must have come within this time.
        pub header_timeout: Interval = "10s",
        /// A request's body must have come within this time.
        pub body_timeout: Interval = "30s",
        /// Connections open at once; more wait.
        pub max_connections: usize = "1024",
        /// How long the end may take after a signal.
        pub shutdown_timeout: Interval = "20s",
        /// Where /metrics is served; without it there is none.
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
