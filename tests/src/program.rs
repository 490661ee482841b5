//! One of golectra's programs as a child process.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use crate::process::{Exit, Running};

/// The variables that a program inherits from the test's environment; a service's settings in a developer's shell are not among
/// them.
const INHERITED: [&str; 4] = ["PATH", "TMPDIR", "LLVM_PROFILE_FILE", "RUST_BACKTRACE"];

/// How long a program may take to end when a test is done with it: the contract's limit with a margin.
const EXIT_LIMIT: Duration = Duration::from_secs(25);

/// The path of a program's binary: in the folder GOLECTRA_BIN, or beside the test programs if that is not set.
pub fn binary(name: &str) -> PathBuf {
    if let Some(folder) = std::env::var_os("GOLECTRA_BIN").filter(|folder| !folder.is_empty()) {
        let path = PathBuf::from(folder).join(name);
        assert!(path.is_file(), "GOLECTRA_BIN is set, but there is no {}", path.display());
        return path;
    }
    let test = std::env::current_exe().expect("the test program has a path");
    let beside = test.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|path| path.is_file());
    beside.unwrap_or_else(|| panic!("{name} is not built: run `cargo build --workspace --bins` first, which `make test` does"))
}

/// The configuration of a program.
#[derive(Clone)]
pub struct ProgramBuilder {
    name: &'static str,
    path: Option<PathBuf>,
    variables: BTreeMap<String, String>,
    flags: Vec<String>,
    folder: Option<Arc<TempDir>>,
    closed_output: bool,
}

impl ProgramBuilder {
    /// A program without any setting.
    pub fn new(name: &'static str) -> Self {
        Self { name, path: None, variables: BTreeMap::new(), flags: Vec::new(), folder: None, closed_output: false }
    }

    /// A program that is not golectra's, at this path.
    pub fn foreign(name: &'static str, path: impl Into<PathBuf>) -> Self {
        Self { path: Some(path.into()), ..Self::new(name) }
    }

    /// Sets a variable.
    #[must_use]
    #[expect(clippy::needless_pass_by_value, reason = "callers pass numbers and texts")]
    pub fn env(mut self, name: &str, value: impl ToString) -> Self {
        self.variables.insert(name.to_owned(), value.to_string());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn flags<S: ToString>(mut self, flags: impl IntoIterator<Item = S>) -> Self {
        self.flags.extend(flags.into_iter().map(|flag| flag.to_string()));
        self
    }

    /// Runs the program in a folder that outlives it.
    #[must_use]
    pub fn folder(mut self, folder: &Arc<TempDir>) -> Self {
        self.folder = Some(Arc::clone(folder));
        self
    }

    /// Gives the program pipes for stdout and stderr whose reader has ended.
    #[must_use]
    pub fn closed_output(mut self) -> Self {
        self.closed_output = true;
        self
    }

    /// The value of a variable that was set.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    /// Starts the program.
    pub fn start(&self) -> Program {
        let folder = self.folder.clone().unwrap_or_else(new_folder);
        let mut command = Command::new(self.path.clone().unwrap_or_else(|| binary(self.name)));
        command.env_clear().args(&self.flags).current_dir(folder.path());
        command.envs(INHERITED.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        command.envs(&self.variables);
        let running = if self.closed_output { Running::start_with_closed_output(command) } else { Running::start(command) }
            .unwrap_or_else(|error| panic!("{} does not start: {error}", self.name));
        Program { name: self.name, running, folder }
    }
}

/// A new empty folder, removed with its last reference.
pub(crate) fn new_folder() -> Arc<TempDir> {
    Arc::new(TempDir::with_prefix("golectra-test-").expect("a temporary folder can be made"))
}

/// A running program. When it is dropped it gets SIGTERM, and is killed if it does not end.
pub struct Program {
    name: &'static str,
    running: Running,
    folder: Arc<TempDir>,
}

impl Program {
    /// The process id.
    pub fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// The output on stdout so far.
    pub fn stdout(&self) -> String {
        self.running.stdout()
    }

    /// The output on stderr so far.
    pub fn stderr(&self) -> String {
        self.running.stderr()
    }

    /// The folder in which it runs.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The folder, for starting another program in it.
    pub fn shared_folder(&self) -> Arc<TempDir> {
        Arc::clone(&self.folder)
    }

    /// The resident memory in bytes.
    pub fn rss(&self) -> u64 {
        self.running.rss()
    }

    /// The highest resident memory in bytes since the last `reset_peak`.
    pub fn peak_rss(&self) -> u64 {
        self.running.peak_rss()
    }

    /// Resets the peak to the current value.
    pub fn reset_peak(&self) {
        self.running.reset_peak();
    }

    /// The CPU time of the program, user and system, in seconds.
    pub fn cpu_seconds(&self) -> f64 {
        self.running.cpu_seconds()
    }

    /// The resident memory in bytes without pages of files: heap and stacks.
    pub fn anonymous_rss(&self) -> u64 {
        self.running.anonymous_rss()
    }

    /// Limits the size of its files, like a full disk: a write beyond the limit is cut short, and the next one fails.
    pub fn limit_files(&self, bytes: u64) {
        self.running.limit_files(bytes);
    }

    /// Removes the limit again.
    pub fn unlimit_files(&self) {
        self.running.limit_files(libc::RLIM_INFINITY);
    }

    /// How it ended; None while it runs.
    pub fn exited(&mut self) -> Option<Exit> {
        self.running.exited()
    }

    /// Waits until it ends by itself; panics if it does not within the limit.
    pub fn wait(&mut self, limit: Duration) -> Exit {
        self.running.wait(limit).unwrap_or_else(|| panic!("{} did not end within {limit:?}\n{}", self.name, self.tail()))
    }

    /// Sends a signal.
    pub fn signal(&mut self, signal: i32) {
        self.running.signal(signal);
    }

    /// Sends SIGTERM and waits for the end.
    pub fn stop(&mut self) -> Exit {
        self.signal(libc::SIGTERM);
        self.wait(EXIT_LIMIT)
    }

    /// Sends SIGKILL and waits for the end.
    pub fn kill(&mut self) {
        self.signal(libc::SIGKILL);
        self.wait(EXIT_LIMIT);
    }

    /// The end of its output, to be shown with a failure.
    pub fn tail(&self) -> String {
        let text = format!("--- stdout\n{}\n--- stderr\n{}", self.stdout(), self.stderr());
        let skip = text.chars().count().saturating_sub(4000);
        format!("{} (pid {}) wrote:\n{}", self.name, self.pid(), text.chars().skip(skip).collect::<String>())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.tail());
        }
        self.running.signal(libc::SIGTERM);
        if self.running.wait(EXIT_LIMIT).is_none() {
            eprintln!("{} (pid {}) did not end within {EXIT_LIMIT:?} of SIGTERM and is killed", self.name, self.pid());
            self.running.signal(libc::SIGKILL);
            self.running.wait(EXIT_LIMIT);
        }
    }
}
