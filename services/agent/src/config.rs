//! The agent's settings. Nothing else reads the environment.

mod address;
mod limits;
mod source;

use std::path::PathBuf;

use golectra_process::{Bytes, KeyId, ListenAddress, Secret};
use golectra_protocol::Source;

pub use self::address::{Address, AddressError};
pub use self::limits::{HostSeries, LimitError, Period, QueueBatches, QueueBytes, RateLimit, SpoolAge, SpoolBytes};
pub use self::source::SourceName;
use crate::collect::{Choice, Filter, HostPaths, HostSettings, Pattern};
use crate::spool::Limits;
use crate::spool::disk::DiskLimits;

golectra_process::settings! {
    /// Measures this process and this host, and sends the results to a golectra server.
    pub struct Settings {
        /// The server: a URL (http or https) or host:port.
        #[arg(short = 'a', long)]
        pub address: Address = "http://localhost:8080",
        /// Key shared with the server: reports have a HashSHA256 and a signature made with it, and the server's answers are checked.
        #[arg(short = 'k', long)]
        pub key: Option<Secret>,
        /// A folder of keys to sign reports with (header Golectra-Signature): each file's name is a key's id, its content the key. It is read again before each try.
        pub keys_dir: Option<PathBuf>,
        /// Which key of the folder signs; without it KEY does, whose id is `default`.
        pub signing_key_id: Option<KeyId>,
        /// Time between two reports: whole seconds or a duration such as 1m30s, 100ms to 24h.
        #[arg(short = 'r', long)]
        pub report_interval: Period = "10s",
        /// Time between two polls: whole seconds or a duration such as 500ms, 100ms to 24h.
        #[arg(short = 'p', long)]
        pub poll_interval: Period = "2s",
        /// Reports that are sent at the same time, 1 to 64.
        #[arg(short = 'l', long)]
        pub rate_limit: RateLimit = "1",
        /// The name of this node on the server: letters, digits, '.', '-' and '_'; without it the host's name.
        pub source: Option<SourceName>,
        /// Where to answer /metrics and /ping: host:port or :port; without it nowhere.
        pub metrics_address: Option<ListenAddress>,
        /// How many reports wait in memory while the server does not take them, 1 to 1000000; the oldest are dropped for newer ones.
        pub queue_batches: QueueBatches = "2048",
        /// Memory for these reports, at least 64KiB.
        pub queue_bytes: QueueBytes = "4MiB",
        /// Where the node's /proc is mounted, such as /host/proc in a container; with it the node's network (node_network_*, node_netstat_*, node_sockstat_*) is reported.
        pub host_proc: Option<PathBuf>,
        /// Where the node's / is mounted, such as /host/root in a container; with it the node's filesystems (node_filesystem_*) and its system (node_os_info) are reported.
        pub host_root: Option<PathBuf>,
        /// The most series of the host in a report, 100 to 100000; those over it are counted as skipped.
        pub host_max_series: HostSeries = "10000",
        /// The host's metrics that are reported: a regular expression that has to match a whole name, such as node_memory_.*; without it all.
        pub host_metrics_include: Option<Pattern>,
        /// The host's metrics that are not reported, likewise.
        pub host_metrics_exclude: Option<Pattern>,
        /// The disks and network devices that are reported, by the label `device`, likewise.
        pub host_devices_include: Option<Pattern>,
        /// The disks and network devices that are not reported, likewise.
        pub host_devices_exclude: Option<Pattern>,
        /// The filesystems that are reported, by the label `mountpoint`, likewise.
        pub host_mounts_include: Option<Pattern>,
        /// The filesystems that are not reported, likewise.
        pub host_mounts_exclude: Option<Pattern>,
        /// A folder where reports wait until the server has taken them, so that they survive a restart of the agent; created if need be, one for each agent. Without it they wait in memory only.
        pub spool_dir: Option<PathBuf>,
        /// Disk space for these reports, 1MiB to 16GiB; the oldest are dropped for newer ones.
        pub spool_max_bytes: SpoolBytes = "256MiB",
        /// How long a report may wait, in memory or in SPOOL_DIR, at least 1m. The server refuses reports that are older than its DEDUP_WINDOW, whose default is an hour more.
        pub spool_max_age: SpoolAge = "47h",
    }
}

impl Settings {
    /// The name of this node on the server.
    pub fn source(&self) -> Source {
        self.source.as_ref().map_or_else(source::of_this_host, |name| name.0.clone())
    }

    /// What is measured of the host under node_exporter's names. A process in a container sees the host's root and network only where they are mounted.
    pub fn host(&self, source: &Source) -> HostSettings {
        let is_outside_of_containers = in_first_pid_namespace();
        let paths = HostPaths {
            proc: self.host_proc.clone().unwrap_or_else(|| "/proc".into()),
            sys: "/sys".into(),
            root: self.host_root.clone().or_else(|| is_outside_of_containers.then(|| "/".into())),
            sees_first_process: self.host_proc.is_some() || is_outside_of_containers,
        };
        let choice = |include: &Option<Pattern>, exclude: &Option<Pattern>| Choice { include: include.clone(), exclude: exclude.clone() };
        let filter = Filter {
            metrics: choice(&self.host_metrics_include, &self.host_metrics_exclude),
            devices: choice(&self.host_devices_include, &self.host_devices_exclude),
            mounts: choice(&self.host_mounts_include, &self.host_mounts_exclude),
        };
        HostSettings { paths, node_name: source.as_str().to_owned(), max_series: self.host_max_series.get(), filter: filter.into() }
    }

    /// The bounds of the spool on disk.
    pub fn disk_limits(&self) -> DiskLimits {
        DiskLimits { bytes: self.spool_max_bytes.bytes().get() as u64, age: self.spool_max_age.duration() }
    }

    /// The bounds of the queue in memory.
    pub fn queue_limits(&self) -> Limits {
        let age = self.spool_max_age.duration();
        Limits { batches: self.queue_batches.get(), bytes: Bytes::get(self.queue_bytes.bytes()), age }
    }
}

/// Whether this process is in the first namespace of processes, whose number is the same on every kernel. Containers have others.
fn in_first_pid_namespace() -> bool {
    std::fs::read_link("/proc/self/ns/pid").is_ok_and(|namespace| namespace.as_os_str() == "pid:[4026531836]")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Settings;

    const NOTHING: [(&str, &str); 0] = [];

    fn parse(arguments: &[&str]) -> Settings {
        Settings::parse(arguments, NOTHING).unwrap()
    }

    fn refusal(arguments: &[&str]) -> String {
        Settings::parse(arguments, NOTHING).unwrap_err().to_string()
    }

    #[test]
    fn defaults_are_those_of_the_original() {
        let settings = parse(&[]);
        assert_eq!(settings.address.to_string(), "http://localhost:8080");
        assert_eq!(settings.report_interval.duration(), Duration::from_secs(10));
        assert_eq!(settings.poll_interval.duration(), Duration::from_secs(2));
        assert_eq!(settings.rate_limit.get(), 1);
        assert!(settings.key.is_none() && settings.metrics_address.is_none());
        assert!(!settings.source().is_unnamed());
    }

    #[test]
    fn every_spelling_of_a_flag_in_go_works() {
        for arguments in [
            ["-a=server:9000", "-r=5", "-p=1s", "-l=3", "-k=s3cret"].as_slice(),
            &["-a", "server:9000", "-r", "5s", "-p", "1", "-l", "3", "-k", "s3cret"],
            &["--address=server:9000", "--report-interval", "5", "-poll-interval=1", "-rate-limit", "3", "--key=s3cret"],
        ] {
            let settings = parse(arguments);
            assert_eq!(settings.address.to_string(), "http://server:9000", "{arguments:?}");
            assert_eq!(settings.report_interval.duration(), Duration::from_secs(5));
            assert_eq!(settings.poll_interval.duration(), Duration::from_secs(1));
            assert_eq!(settings.rate_limit.get(), 3);
            assert_eq!(settings.key.as_ref().unwrap().expose(), "s3cret");
            assert!(!format!("{settings:?}").contains("s3cret"));
        }
    }

    #[test]
    fn a_variable_wins_over_a_flag_unless_it_is_empty() {
        let settings = Settings::parse(["-r=5", "-p=1"], [("REPORT_INTERVAL", "20"), ("POLL_INTERVAL", ""), ("SOURCE", "node-1")]).unwrap();
        assert_eq!(settings.report_interval.duration(), Duration::from_secs(20));
        assert_eq!(settings.poll_interval.duration(), Duration::from_secs(1));
        assert_eq!(settings.source().as_str(), "node-1");
    }

    #[test]
    fn a_bad_value_is_one_sentence_that_names_the_flag() {
        for (arguments, expected) in [
            (["-l=0"], "1 to 64"),
            (["-l=65"], "1 to 64"),
            (["-l=x"], "1 to 64"),
            (["-p=0"], "100ms to 24h"),
            (["-r=25h"], "100ms to 24h"),
            (["-r=often"], "duration"),
            (["-a=ftp://server"], "http"),
            (["--source=a/b"], "letters"),
            (["--queue-batches=0"], "1 to 1000000"),
            (["--queue-bytes=1KiB"], "64KiB"),
            (["--host-max-series=99"], "100 to 100000"),
            (["--host-metrics-exclude=("], "regular expression"),
            (["--spool-max-bytes=1KiB"], "1MiB to 16GiB"),
            (["--spool-max-bytes=1TiB"], "1MiB to 16GiB"),
            (["--spool-max-age=30s"], "at least 1m"),
            (["--no-such-flag=1"], "no-such-flag"),
        ] {
            let sentence = refusal(&arguments);
            assert!(sentence.contains(expected) && sentence.trim_end().lines().count() == 1, "{arguments:?}: {sentence}");
        }
    }

    #[test]
    fn the_help_names_every_variable() {
        let help = refusal(&["-h"]);
        for variable in [
            "ADDRESS",
            "KEY",
            "KEYS_DIR",
            "SIGNING_KEY_ID",
            "REPORT_INTERVAL",
            "POLL_INTERVAL",
            "RATE_LIMIT",
            "SOURCE",
            "METRICS_ADDRESS",
            "QUEUE_BATCHES",
            "QUEUE_BYTES",
            "SPOOL_DIR",
            "SPOOL_MAX_BYTES",
            "SPOOL_MAX_AGE",
        ] {
            assert!(help.contains(variable), "{variable} is missing in {help}");
        }
    }

    #[test]
    fn the_documentation_has_the_table_of_settings() {
        let table = Settings::markdown();
        let document = include_str!("../../../docs/settings.md");
        assert!(document.contains(table.trim()), "docs/settings.md's table of golectra-agent should be:\n{table}");
    }
}
