//! The agent's settings. Nothing else reads the environment.

mod address;
mod folders;
mod kubelet;
mod limits;
mod scrape;
mod source;

use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use golectra_process::{Bytes, KeyId, ListenAddress, Secret};
use golectra_protocol::Source;

pub use self::address::{Address, AddressError};
pub use self::folders::FolderList;
pub use self::kubelet::KubeletUrl;
pub use self::limits::{
    Count, HostSeries, LimitError, Period, PodsSeries, QueueBatches, QueueBytes, RateLimit, ScrapeBytes, SpoolAge, SpoolBytes,
};
pub use self::scrape::{ScrapeTargets, ScrapeTargetsError};
pub use self::source::SourceName;
use crate::collect::kubelet::{KubeletAddress, KubeletSettings, NamespaceList, Namespaces, NodeMetrics, TlsMode};
use crate::collect::scrape::{ScrapeLimits, ScrapeSettings};
use crate::collect::{Choice, Filter, HostPaths, HostSettings, Pattern, hides_first_process};
use crate::spool::Limits;
use crate::spool::disk::DiskLimits;

golectra_process::settings! {
    /// golectra-agent measures this process and this host, and sends the results to a golectra server. Also: golectra-agent doctor, with the same settings, says what an agent with them can and cannot read here, and whether the server takes its reports; it changes nothing, and exits with 1 when something is missing.
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
        /// Time between two reports: whole seconds or a duration such as 1m30s, 100ms to 24h. Above 30s the server's rule NodeSilent, which fires a minute after a node's last report, has to be replaced by one with a longer time (docs/alerts.md).
        #[arg(short = 'r', long)]
        pub report_interval: Period = "10s",
        /// Time between two polls: whole seconds or a duration such as 500ms, 100ms to 24h.
        #[arg(short = 'p', long)]
        pub poll_interval: Period = "2s",
        /// Reports that are sent at the same time, 1 to 64.
        #[arg(short = 'l', long)]
        pub rate_limit: RateLimit = "1",
        /// The name of this node on the server: letters, digits, '.', '-' and '_'; without it the host's name. It must be different on each machine: the server takes two agents with one name for one node and mixes their values.
        pub source: Option<SourceName>,
        /// Where to answer /metrics and /ping: host:port or :port; without it nowhere.
        pub metrics_address: Option<ListenAddress>,
        /// How many reports wait in memory while the server does not take them, 1 to 1000000; the oldest are dropped for newer ones.
        pub queue_batches: QueueBatches = "2048",
        /// Memory for these reports, at least 64KiB.
        pub queue_bytes: QueueBytes = "4MiB",
        /// Where the node's /proc is mounted, such as /host/proc in a container; with it the node's network (node_network_*, node_netstat_*, node_sockstat_*) is reported. Mounted with hidepid, it shows that only to root and the group of the option gid.
        pub host_proc: Option<PathBuf>,
        /// Where the node's / is mounted, such as /host/root in a container; with it the node's filesystems (node_filesystem_*) and its system (node_os_info) are reported.
        pub host_root: Option<PathBuf>,
        /// The most series of the host in a report, 100 to 100000; those over it are counted as skipped.
        pub host_max_series: HostSeries = "10000",
        /// The host's metrics that are reported: a regular expression that has to match a whole name, such as node_memory_.*; without it all.
        pub host_metrics_include: Option<Pattern>,
        /// The host's metrics that are not reported, likewise.
        pub host_metrics_exclude: Option<Pattern>,
        /// The disks and network devices that are reported, by the label `device` of node_disk_*, node_network_* and node_arp_*, likewise.
        pub host_devices_include: Option<Pattern>,
        /// The disks and network devices that are not reported, likewise. Filesystems whose label `device` matches are left out as well.
        pub host_devices_exclude: Option<Pattern>,
        /// The filesystems that are reported, by the label `mountpoint`, likewise.
        pub host_mounts_include: Option<Pattern>,
        /// The filesystems that are not reported and not looked at, likewise.
        pub host_mounts_exclude: Option<Pattern>,
        /// Folders, separated by commas, whose files *.prom have metrics that other programs write in Prometheus's text format, as node_exporter's textfile collector reads them.
        pub textfile_dirs: Option<FolderList>,
        /// The kubelet of this node, such as https://10.0.0.1:10250; with it the node's pods, network and filesystems are reported.
        pub kubelet_url: Option<KubeletUrl>,
        /// How often the kubelet is asked: whole seconds or a duration, 100ms to 24h.
        pub kubelet_interval: Period = "30s",
        /// Whether the kubelet's certificate must be verified: `auto` accepts one that no authority of KUBELET_CA_FILE has signed from this node's own address (HOST_IP) alone, `verify` never. With `verify` KUBELET_URL has to be https.
        pub kubelet_tls: TlsMode = "auto",
        /// The authorities (PEM) that may have signed the kubelet's certificate; it is read again when it changes.
        pub kubelet_ca_file: PathBuf = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt",
        /// The token that the kubelet is asked with, over https alone; it is read before each request.
        pub kubelet_token_file: PathBuf = "/var/run/secrets/kubernetes.io/serviceaccount/token",
        /// The address of this node.
        pub host_ip: Option<IpAddr>,
        /// Whether the kubelet is asked for details of pods as well: throttling, OOM kills, restarts, phases, requests and limits. It needs `get` on nodes/metrics and nodes/pods.
        pub pods_details: bool = "false",
        /// Namespaces whose pods are reported, and scraped with SCRAPE_PODS, separated by commas; a `*` at the end of a name stands for any rest. Without it all.
        pub pods_namespaces: Option<NamespaceList>,
        /// Namespaces whose pods are neither reported nor scraped, written in the same way.
        pub pods_exclude_namespaces: Option<NamespaceList>,
        /// How many series of pods and volumes are reported, 100 to 1000000; those beyond it are counted and left out.
        pub pods_max_series: PodsSeries = "20000",
        /// A folder where reports wait until the server has taken them, so that they survive a restart of the agent; created if need be, one for each agent. Without it they wait in memory only.
        pub spool_dir: Option<PathBuf>,
        /// Disk space for these reports, 1MiB to 16GiB; the oldest are dropped for newer ones.
        pub spool_max_bytes: SpoolBytes = "512MiB",
        /// How long a report may wait, in memory or in SPOOL_DIR, at least 1m. The server refuses reports that are older than its DEDUP_WINDOW, whose default is an hour more.
        pub spool_max_age: SpoolAge = "47h",
        /// What to scrape: URLs separated by commas or white space, of Prometheus's text format or OpenMetrics, or of a Go program's expvar if the path is /debug/vars. `JOB=URL` sets the label job, which is otherwise scrape or expvar.
        pub scrape: Option<ScrapeTargets>,
        /// Whether the pods of the node that are annotated with prometheus.io/scrape are scraped as well (prometheus.io/port, path and scheme say where). It needs KUBELET_URL and `get` on nodes/pods.
        pub scrape_pods: bool = "false",
        /// The metrics of targets that are reported: a regular expression that has to match a whole name, such as http_.*; without it all.
        pub scrape_metrics_include: Option<Pattern>,
        /// The metrics of targets that are not reported, likewise.
        pub scrape_metrics_exclude: Option<Pattern>,
        /// The authorities (PEM) that may have signed the certificates of targets with https, in place of the system's; it is read again when it changes.
        pub scrape_ca_file: Option<PathBuf>,
        /// A file with the token that the targets of SCRAPE are asked with (Authorization: Bearer), over http too; it is read before each scrape. Pods are scraped without.
        pub scrape_token_file: Option<PathBuf>,
        /// Time between two scrapes of a target.
        pub scrape_interval: Period = "30s",
        /// How long a scrape may take, at most the interval.
        pub scrape_timeout: Period = "10s",
        /// The longest answer of a target, unpacked, 16KiB to 64MiB; one that is longer fails.
        pub scrape_max_bytes: ScrapeBytes = "4MiB",
        /// The most samples of a target that are reported, 1 to 100000; one that has more fails.
        pub scrape_max_samples: Count<1, 100_000> = "10000",
        /// The most labels of a series, its name and the labels of its target included, 3 to 1000; a target that has more fails.
        pub scrape_max_labels: Count<3, 1_000> = "64",
        /// The longest name of a label, in bytes, 8 to 4096; a target that has a longer one fails.
        pub scrape_max_label_name_bytes: Count<8, 4_096> = "256",
        /// The longest value of a label or name of a metric, in bytes, 16 to 4096; a target that has a longer one fails.
        pub scrape_max_label_value_bytes: Count<16, 4_096> = "2048",
        /// The most series of all targets together, 100 to 1000000, with 512 bytes of text for each on average; those beyond it are counted and left out.
        pub scrape_max_series: Count<100, 1_000_000> = "20000",
    }
}

impl Settings {
    /// The name of this node on the server.
    pub fn source(&self) -> Source {
        self.source.as_ref().map_or_else(source::of_this_host, |name| name.0.clone())
    }

    /// The time between two batches of this node. What the kubelet and the targets of `SCRAPE` answer are batches as well, and each tells the server that the node is there.
    pub fn time_between_batches(&self) -> Duration {
        let kubelet = self.kubelet_url.as_ref().map(|_| self.kubelet_interval.duration());
        let targets = self.scrape.as_ref().map(|_| self.scrape_interval.duration());
        [kubelet, targets].into_iter().flatten().fold(self.report_interval.duration(), Ord::min)
    }

    /// What is scraped, and how. `source` is this node.
    pub fn scrape_settings(&self, source: &Source) -> ScrapeSettings {
        let interval = self.scrape_interval.duration();
        ScrapeSettings {
            targets: self.scrape.as_ref().map_or_else(Vec::new, |targets| targets.of_node(source)),
            pods: self.kubelet().filter(|_| self.scrape_pods).map(|kubelet| kubelet.address),
            namespaces: self.namespaces(),
            interval,
            timeout: self.scrape_timeout.duration().min(interval),
            filter: choice(self.scrape_metrics_include.as_ref(), self.scrape_metrics_exclude.as_ref()).into(),
            ca_file: self.scrape_ca_file.clone(),
            token_file: self.scrape_token_file.clone(),
            limits: ScrapeLimits {
                body_bytes: Bytes::get(self.scrape_max_bytes.bytes()),
                samples: self.scrape_max_samples.get(),
                labels: self.scrape_max_labels.get(),
                label_name_bytes: self.scrape_max_label_name_bytes.get(),
                label_value_bytes: self.scrape_max_label_value_bytes.get(),
            },
        }
    }

    /// The namespaces whose pods are reported and scraped.
    fn namespaces(&self) -> Namespaces {
        Namespaces {
            include: self.pods_namespaces.clone().unwrap_or_default(),
            exclude: self.pods_exclude_namespaces.clone().unwrap_or_default(),
        }
    }

    /// How the kubelet is asked; None if it is not.
    pub fn kubelet(&self) -> Option<KubeletSettings> {
        let url = self.kubelet_url.as_ref()?.url().clone();
        let host = self.host(&self.source());
        Some(KubeletSettings {
            address: KubeletAddress {
                url,
                host_ip: self.host_ip,
                node_name: self.source.as_ref().map(|source| source.0.as_str().to_owned()),
                tls: self.kubelet_tls,
                ca_file: self.kubelet_ca_file.clone(),
                token_file: self.kubelet_token_file.clone(),
            },
            interval: self.kubelet_interval.duration(),
            details: self.pods_details,
            namespaces: self.namespaces(),
            max_series: self.pods_max_series.get(),
            // Where the agent sees them itself it tells more of them.
            node_metrics: NodeMetrics { network: !host.paths.sees_first_process, filesystem: host.paths.root.is_none() },
            filter: host.filter,
        })
    }

    /// Whether the kubelet's certificate must be verified although it is asked without TLS and shows none.
    pub fn verifies_without_tls(&self) -> bool {
        self.kubelet_tls == TlsMode::Verify && self.kubelet_url.as_ref().is_some_and(|url| url.url().scheme() != "https")
    }

    /// The settings about the kubelet's pods that have no effect because KUBELET_URL is not set.
    pub fn without_kubelet(&self) -> Vec<&'static str> {
        let of_pods = [
            ("PODS_DETAILS", self.pods_details),
            ("PODS_NAMESPACES", self.pods_namespaces.is_some()),
            ("PODS_EXCLUDE_NAMESPACES", self.pods_exclude_namespaces.is_some()),
        ];
        of_pods.into_iter().filter(|(_, is_set)| *is_set && self.kubelet_url.is_none()).map(|(setting, _)| setting).collect()
    }

    /// What is measured of the host under node_exporter's names. A process in a container sees the host's root and network only where they are mounted.
    pub fn host(&self, source: &Source) -> HostSettings {
        let root = Path::new("/");
        let is_in_pod = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
        let is_outside_of_containers = is_outside_of_containers(root, is_in_pod);
        let paths = HostPaths {
            proc: self.host_proc.clone().unwrap_or_else(|| "/proc".into()),
            sys: "/sys".into(),
            root: self.host_root.clone().or_else(|| is_outside_of_containers.then(|| "/".into())),
            sees_first_process: is_outside_of_containers
                || (!is_in_pod && is_in_first_pid_namespace(root))
                || self.host_proc.as_deref().is_some_and(|proc| !hides_first_process(proc)),
            // A first process that is hidden shows nothing to compare with.
            shares_network: is_outside_of_containers || shares_network_with_first_process(root),
        };
        let filter = Filter {
            metrics: choice(self.host_metrics_include.as_ref(), self.host_metrics_exclude.as_ref()),
            devices: choice(self.host_devices_include.as_ref(), self.host_devices_exclude.as_ref()),
            mounts: choice(self.host_mounts_include.as_ref(), self.host_mounts_exclude.as_ref()),
        };
        HostSettings {
            paths,
            node_name: source.as_str().to_owned(),
            max_series: self.host_max_series.get(),
            textfile_folders: self.textfile_dirs.as_ref().map_or_else(Vec::new, |list| list.0.clone()),
            filter: filter.into(),
        }
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

fn choice(include: Option<&Pattern>, exclude: Option<&Pattern>) -> Choice {
    Choice { include: include.cloned(), exclude: exclude.cloned() }
}

/// The first namespace of processes, whose number is the same on every kernel. Containers have others, unless they share it.
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";

/// Whether this process is not in a container, whose / and network are not the host's: in the first namespace of processes, with the / of the first process. `root`
/// is where /proc is, and a pod is told by its environment.
fn is_outside_of_containers(root: &Path, is_in_pod: bool) -> bool {
    let has_root_of_host = mount_of_root(root, "self").is_some_and(|own| mount_of_root(root, "1").is_none_or(|first| own == first));
    is_in_first_pid_namespace(root) && !is_in_pod && has_root_of_host
}

/// Whether process 1 is the host's.
fn is_in_first_pid_namespace(root: &Path) -> bool {
    std::fs::read_link(root.join("proc/self/ns/pid")).is_ok_and(|namespace| namespace.as_os_str() == FIRST_PID_NAMESPACE)
}

/// What a process has as /: the device, the folder of the filesystem, and its type. Not the mount's number, which differs for a service with mounts of its own.
fn mount_of_root(root: &Path, process: &str) -> Option<(String, String, String)> {
    let text = std::fs::read_to_string(root.join("proc").join(process).join("mountinfo")).ok()?;
    let of_line = |line: &str| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(2);
        let (device, folder, mount_point) = (fields.next()?, fields.next()?, fields.next()?);
        (mount_point == "/").then(|| (device.to_owned(), folder.to_owned(), filesystem.split(' ').next().unwrap_or_default().to_owned()))
    };
    // Of several the last one lies above the others.
    text.lines().rev().find_map(of_line)
}

/// Whether this process is in the network namespace of the first one that it sees: each namespace has files of its own in /proc. Unlike the namespace itself, everybody
/// may see them.
fn shares_network_with_first_process(root: &Path) -> bool {
    let file = |process: &str| {
        let file = std::fs::metadata(root.join("proc").join(process).join("net/dev")).ok()?;
        Some((file.dev(), file.ino()))
    };
    file("self").is_some_and(|own| file("1") == Some(own))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::time::Duration;

    use super::{FIRST_PID_NAMESPACE, Settings, is_outside_of_containers, shares_network_with_first_process};

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
            (["--textfile-dirs=/a,b"], "absolute paths"),
            (["--spool-max-bytes=1KiB"], "1MiB to 16GiB"),
            (["--spool-max-bytes=1TiB"], "1MiB to 16GiB"),
            (["--spool-max-age=30s"], "at least 1m"),
            (["--scrape=localhost:9100"], "URL"),
            (["--scrape-metrics-include=("], "regular expression"),
            (["--scrape-max-samples=0"], "1 to 100000"),
            (["--scrape-max-bytes=1KiB"], "16KiB to 64MiB"),
            (["--scrape-max-label-value-bytes=5000"], "16 to 4096"),
            (["--pods-namespaces=,"], "names of namespaces"),
            (["--pods-namespaces=team-*-prod"], "`*` only at the end"),
            (["--pods-exclude-namespaces=shop;web"], "names of namespaces"),
            (["--no-such-flag=1"], "no-such-flag"),
        ] {
            let sentence = refusal(&arguments);
            assert!(sentence.contains(expected) && sentence.trim_end().lines().count() == 1, "{arguments:?}: {sentence}");
        }
    }

    #[test]
    fn whatever_is_sent_most_often_tells_the_server_that_the_node_is_there() {
        let kubelet = "--kubelet-url=https://10.0.0.1:10250";
        for (arguments, seconds) in [
            (["-r=60"].as_slice(), 60),
            (&["-r=60", "--scrape-interval=15s"], 60),
            (&["-r=60", kubelet], 30),
            (&["-r=60", kubelet, "--kubelet-interval=2m"], 60),
            (&["-r=60", "--scrape=http://localhost:9100/metrics", "--scrape-interval=15s"], 15),
            (&["-r=10", kubelet], 10),
        ] {
            assert_eq!(parse(arguments).time_between_batches(), Duration::from_secs(seconds), "{arguments:?}");
        }
    }

    #[test]
    fn settings_that_contradict_the_kubelets_address_are_named() {
        let settings = parse(&["--pods-details=true", "--pods-namespaces=shop", "--pods-exclude-namespaces=kube-*"]);
        assert_eq!(settings.without_kubelet(), ["PODS_DETAILS", "PODS_NAMESPACES", "PODS_EXCLUDE_NAMESPACES"]);
        assert!(parse(&["--pods-details=true", "--kubelet-url=https://10.0.0.1:10250"]).without_kubelet().is_empty());
        for (url, mode, refused) in [("http", "verify", true), ("http", "auto", false), ("https", "verify", false)] {
            let settings = parse(&[&format!("--kubelet-url={url}://10.0.0.1:10255"), &format!("--kubelet-tls={mode}")]);
            assert_eq!(settings.verifies_without_tls(), refused, "{url} {mode}");
        }
        assert!(!parse(&["--kubelet-tls=verify"]).verifies_without_tls());
    }

    #[test]
    fn a_container_that_shares_the_hosts_processes_is_not_the_host() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        assert!(!is_outside_of_containers(root, false), "a namespace that cannot be told is a container's");
        let [own, first] = ["self", "1"].map(|process| root.join("proc").join(process).join("ns"));
        for namespaces in [&own, &first] {
            fs::create_dir_all(namespaces).unwrap();
        }
        symlink(FIRST_PID_NAMESPACE, own.join("pid")).unwrap();
        assert!(!is_outside_of_containers(root, false), "nor what it has as /");
        let mounts = |process: &str, text: &str| fs::write(root.join("proc").join(process).join("mountinfo"), text).unwrap();
        let host = "27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n36 27 0:5 / /proc rw - proc proc rw\n";
        mounts("self", host);
        assert!(is_outside_of_containers(root, false), "the first process hides its mounts");
        mounts("1", host);
        assert!(is_outside_of_containers(root, false));
        assert!(!is_outside_of_containers(root, true), "a pod");
        mounts("self", "410 380 254:0 / / rw,relatime - ext4 /dev/vda rw\n");
        assert!(is_outside_of_containers(root, false), "a service with mounts of its own");
        mounts("self", "612 500 0:72 / / rw,relatime - overlay overlay rw,lowerdir=/l\n");
        assert!(!is_outside_of_containers(root, false), "a container");
        mounts("self", "612 500 254:0 /var/lib/containers/a / rw,relatime - ext4 /dev/vda rw\n");
        assert!(!is_outside_of_containers(root, false), "a container in a folder of the same disk");

        let dev = |process: &str| root.join("proc").join(process).join("net/dev");
        for process in ["self", "1"] {
            fs::create_dir(dev(process).parent().unwrap()).unwrap();
        }
        fs::write(dev("self"), "").unwrap();
        assert!(!shares_network_with_first_process(root), "that of the first process cannot be told");
        fs::write(dev("1"), "").unwrap();
        assert!(!shares_network_with_first_process(root), "a container with a network of its own");
        fs::remove_file(dev("1")).unwrap();
        fs::hard_link(dev("self"), dev("1")).unwrap();
        assert!(shares_network_with_first_process(root));
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
            "SCRAPE",
            "SCRAPE_PODS",
            "SCRAPE_MAX_SERIES",
            "SCRAPE_INTERVAL",
            "SCRAPE_TIMEOUT",
            "SCRAPE_MAX_BYTES",
            "SCRAPE_MAX_SAMPLES",
            "SCRAPE_MAX_LABELS",
            "SCRAPE_MAX_LABEL_NAME_BYTES",
            "SCRAPE_MAX_LABEL_VALUE_BYTES",
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
