//! A Prometheus server, as the reference for what it makes of the same text.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::{Program, ProgramBuilder, free_port, skip};

/// Where Debian installs it.
const PATHS: [&str; 2] = ["/usr/bin/prometheus", "/usr/local/bin/prometheus"];

/// How long it may take to answer after its start.
const START_LIMIT: Duration = Duration::from_secs(30);

/// A running Prometheus. It is ended when it is dropped.
pub struct Prometheus {
    port: u16,
    program: Program,
}

impl Prometheus {
    /// Scrapes each of these targets (job, host and port, path) every second. None, with a message, if it is not installed.
    pub fn scraping(targets: &[(String, String, String)]) -> Option<Self> {
        Self::start("1s", targets, "")
    }

    /// Scrapes the target (host and port) twice a second, as the job `sent`, and sends what it gets to this URL by remote-write, in small messages
    /// that are sent again soon where they failed. None, with a message, if it is not installed.
    pub fn sending(target: &str, url: &str) -> Option<Self> {
        let queue = "{min_backoff: 30ms, max_backoff: 300ms, batch_send_deadline: 200ms, max_samples_per_send: 50, max_shards: 4}";
        let remote_write = format!("remote_write: [{{url: {url:?}, remote_timeout: 5s, queue_config: {queue}}}]\n");
        Self::start("500ms", &[("sent".to_owned(), target.to_owned(), "/metrics".to_owned())], &remote_write)
    }

    fn start(interval: &str, targets: &[(String, String, String)], more: &str) -> Option<Self> {
        let Some(path) = PATHS.into_iter().find(|path| Path::new(path).is_file()) else {
            skip("Prometheus is not installed; `make test` installs it where it can");
            return None;
        };
        let mut configuration = format!("global: {{scrape_interval: {interval}, scrape_timeout: {interval}}}\n{more}scrape_configs:\n");
        for (job, address, path) in targets {
            writeln!(
                configuration,
                "- {{job_name: {job:?}, honor_timestamps: false, metrics_path: {path:?}, static_configs: [{{targets: [{address:?}]}}]}}"
            )
            .expect("a text can be written to");
        }
        for _ in 0..5 {
            let port = free_port();
            let folder = crate::program::new_folder();
            std::fs::write(folder.path().join("prometheus.yml"), &configuration).expect("our own folder");
            let flags = ["--config.file=prometheus.yml".to_owned(), "--storage.tsdb.path=data".into(), "--log.level=warn".into()];
            let listen = format!("--web.listen-address=127.0.0.1:{port}");
            let mut program = ProgramBuilder::foreign("prometheus", path).folder(&folder).flags(flags.into_iter().chain([listen])).start();
            let start = Instant::now();
            while program.exited().is_none() {
                if crate::raw::answers(port, "/-/ready") {
                    return Some(Self { port, program });
                }
                assert!(start.elapsed() < START_LIMIT, "Prometheus did not answer in time\n{}", program.tail());
                std::thread::sleep(Duration::from_millis(20));
            }
            assert!(program.stderr().contains("address already in use"), "Prometheus ended\n{}", program.tail());
        }
        panic!("five ports in a row were taken by others");
    }

    /// Its URL without a path.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The end of its log.
    pub fn tail(&self) -> String {
        self.program.tail()
    }
}
