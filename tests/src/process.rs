//! Child processes that never outlive the test program.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

type Job = Box<dyn FnOnce() + Send>;

/// The thread that starts every child process. The kernel ends a child together with the thread that started it, and a test's
/// thread ends with its test, while a server may be shared by many tests.
static SPAWNER: LazyLock<mpsc::Sender<Job>> = LazyLock::new(|| {
    let (sender, jobs) = mpsc::channel::<Job>();
    let work = move || {
        for job in jobs {
            job();
        }
    };
    thread::Builder::new().name("spawner".to_owned()).spawn(work).expect("a thread starts");
    sender
});

/// The jobs to run when the test program ends.
static AT_EXIT: Mutex<Vec<Job>> = Mutex::new(Vec::new());

/// The time limit of all jobs together.
const EXIT_LIMIT: Duration = Duration::from_secs(30);

/// Runs a job when the test program ends normally. Statics are never dropped, so shared servers are ended here.
pub(crate) fn at_exit(job: impl FnOnce() + Send + 'static) {
    static REGISTERED: LazyLock<()> = LazyLock::new(|| {
        #[expect(unsafe_code, reason = "atexit only takes the address of a function that lives as long as the program")]
        // SAFETY: `run_exit_jobs` is a plain function that does not unwind: its work is done on another thread.
        let code = unsafe { libc::atexit(run_exit_jobs) };
        assert_eq!(code, 0, "atexit has room");
    });
    LazyLock::force(&REGISTERED);
    AT_EXIT.lock().expect("no job panics while the list is held").push(Box::new(job));
}

extern "C" fn run_exit_jobs() {
    static DONE: AtomicBool = AtomicBool::new(false);
    let jobs = AT_EXIT.lock().map(|mut jobs| std::mem::take(&mut *jobs)).unwrap_or_default();
    let all = Box::new(move || {
        for job in jobs {
            job();
        }
        DONE.store(true, Ordering::Release);
    });
    let start = Instant::now();
    let sent = SPAWNER.send(all).is_ok();
    while sent && !DONE.load(Ordering::Acquire) && start.elapsed() < EXIT_LIMIT {
        thread::sleep(Duration::from_millis(2));
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// With an exit code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        status.code().map_or_else(|| Self::Signal(status.signal().unwrap_or_default()), Self::Code)
    }
}

/// A child process and its output so far.
pub(crate) struct Running {
    child: Child,
    stdout: Captured,
    stderr: Captured,
    exit: Option<Exit>,
}

impl Running {
    pub(crate) fn start(command: Command) -> io::Result<Self> {
        Self::start_with(command, Stdio::piped(), Stdio::piped())
    }

    /// Starts a process whose output goes to pipes that nobody reads: writing to them fails.
    pub(crate) fn start_with_closed_output(command: Command) -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        drop(reader);
        Self::start_with(command, writer.try_clone()?.into(), writer.into())
    }

    fn start_with(mut command: Command, stdout: Stdio, stderr: Stdio) -> io::Result<Self> {
        command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        #[expect(unsafe_code, reason = "there is no safe way to have a child end with its parent")]
        // SAFETY: between fork and exec only prctl and signal are called, which are safe to call from a signal handler.
        unsafe {
            command.pre_exec(|| {
                // If this signal is ignored, exceeding a file size limit is a write error, like a full disk.
                libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
                match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                    0 => Ok(()),
                    _ => Err(io::Error::last_os_error()),
                }
            });
        }
        let (sender, started) = mpsc::channel();
        SPAWNER.send(Box::new(move || drop(sender.send(command.spawn())))).expect("the spawner runs");
        let mut child = started.recv().expect("the spawner answers")?;
        let stdout = Captured::of(child.stdout.take());
        let stderr = Captured::of(child.stderr.take());
        Ok(Self { child, stdout, stderr, exit: None })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn stdout(&self) -> String {
        self.stdout.text()
    }

    pub(crate) fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Sends a signal, unless the process has ended.
    pub(crate) fn signal(&mut self, signal: i32) {
        if self.exited().is_none() {
            let pid = libc::pid_t::try_from(self.pid()).expect("a pid fits");
            #[expect(unsafe_code, reason = "the standard library only sends SIGKILL")]
            // SAFETY: the child has not been waited for, so the pid is still its own.
            unsafe {
                libc::kill(pid, signal);
            }
        }
    }

    /// Limits the size of the process's files: a write beyond it is cut short, and the next one fails.
    pub(crate) fn limit_files(&self, bytes: u64) {
        let pid = libc::pid_t::try_from(self.pid()).expect("a pid fits");
        let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
        #[expect(unsafe_code, reason = "the standard library does not set limits of resources")]
        // SAFETY: the limit is only read during the call, and the old one is not requested.
        let code = unsafe { libc::prlimit(pid, libc::RLIMIT_FSIZE, &raw const limit, std::ptr::null_mut()) };
        assert_eq!(code, 0, "prlimit: {}", io::Error::last_os_error());
    }

    /// How it ended; None while it runs.
    pub(crate) fn exited(&mut self) -> Option<Exit> {
        if self.exit.is_none() {
            self.exit = self.child.try_wait().expect("a child can be waited for").map(Exit::from);
        }
        self.exit
    }

    /// Waits for the end of the process, at most this long.
    pub(crate) fn wait(&mut self, limit: Duration) -> Option<Exit> {
        let start = Instant::now();
        while self.exited().is_none() && start.elapsed() < limit {
            thread::sleep(Duration::from_millis(5));
        }
        if self.exit.is_some() {
            self.stdout.finish();
            self.stderr.finish();
        }
        self.exit
    }

    /// Resident memory in bytes.
    pub(crate) fn rss(&self) -> u64 {
        self.status_bytes("VmRSS:")
    }

    /// Resident memory in bytes, without pages of files.
    pub(crate) fn anonymous_rss(&self) -> u64 {
        self.status_bytes("RssAnon:")
    }

    /// See [`cpu_seconds`].
    pub(crate) fn cpu_seconds(&self) -> f64 {
        cpu_seconds(self.pid())
    }

    /// The highest resident memory in bytes since the last `reset_peak`.
    pub(crate) fn peak_rss(&self) -> u64 {
        self.status_bytes("VmHWM:")
    }

    /// Resets the peak to the current value.
    pub(crate) fn reset_peak(&self) {
        let path = format!("/proc/{}/clear_refs", self.pid());
        std::fs::write(&path, "5").unwrap_or_else(|error| panic!("{path}: {error}"));
    }

    fn status_bytes(&self, field: &str) -> u64 {
        let path = format!("/proc/{}/status", self.pid());
        let status = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let kib = status.lines().find_map(|line| line.strip_prefix(field)?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kib.unwrap_or_else(|| panic!("{path} has no {field} any more: the process has ended")) * 1024
    }
}

/// The CPU time of a process in seconds: user and system time of all its threads, including those that have ended.
pub fn cpu_seconds(pid: u32) -> f64 {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    cpu_ticks(&stat).unwrap_or_else(|| panic!("{path} cannot be read: {stat}")) / ticks_per_second()
}

/// The CPU time of a process and its children in seconds: of those that run, and of those that have ended and were waited for.
pub fn family_cpu_seconds(pid: u32) -> f64 {
    let read_own = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let list = || std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let ended_of = |own: &str| cpu_ticks_at(own, 16).unwrap_or(0.0);
    let ticks_of = |child: &str| cpu_ticks(&std::fs::read_to_string(format!("/proc/{child}/stat")).ok()?);
    let (mut own, mut children, mut tries) = (read_own(), list(), 0);
    loop {
        let running: f64 = children.split_whitespace().filter_map(ticks_of).sum();
        let (own_after, children_after) = (read_own(), list());
        // One that ended meanwhile is in neither number, or in both. The list leaves out children that run when another one ends while it is read, also
        // one that took no time.
        let is_settled = ended_of(&own).to_bits() == ended_of(&own_after).to_bits() && children == children_after;
        tries += 1;
        if is_settled || tries == READS_OF_A_FAMILY {
            return (cpu_ticks(&own_after).unwrap_or(0.0) + ended_of(&own_after) + running) / ticks_per_second();
        }
        (own, children) = (own_after, children_after);
    }
}

/// How often a family is read at most until nothing ends or begins meanwhile.
const READS_OF_A_FAMILY: u32 = 100;

/// utime and stime of a line of /proc/PID/stat. The program's name may contain spaces and parentheses.
fn cpu_ticks(stat: &str) -> Option<f64> {
    cpu_ticks_at(stat, 14)
}

/// The sum of two fields of such a line: utime and stime are 14 and 15, those of children that were waited for 16 and 17.
fn cpu_ticks_at(stat: &str, number: usize) -> Option<f64> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |at: usize| fields.get(at - 3)?.parse::<f64>().ok();
    Some(field(number)? + field(number + 1)?)
}

fn ticks_per_second() -> f64 {
    #[expect(unsafe_code, reason = "the standard library has no function for the kernel's clock ticks")]
    // SAFETY: sysconf only reads.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    f64::from(i32::try_from(ticks).expect("a hundred or a thousand"))
}

/// What a process has written to a pipe.
struct Captured {
    output: Option<Arc<Output>>,
    reader: Option<thread::JoinHandle<()>>,
}

impl Captured {
    /// Without a pipe the text stays empty.
    fn of(pipe: Option<impl Into<OwnedFd>>) -> Self {
        let output = pipe.map(|pipe| Arc::new(Output::of(pipe.into())));
        let reader = output.clone().map(|output| thread::spawn(move || output.read_to_its_end()));
        Self { output, reader }
    }

    fn text(&self) -> String {
        self.output.as_ref().map_or_else(String::new, |output| output.text())
    }

    /// Reads the rest of the pipe after the process has ended.
    fn finish(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("a reader does not panic");
        }
    }
}

/// A pipe that never blocks, and what was read from it. A thread reads it, so that the process never waits for room, and so does whoever asks for the text:
/// the text has everything that the process wrote before, whether or not the thread has run since.
struct Output {
    pipe: File,
    read: Mutex<Vec<u8>>,
}

impl Output {
    fn of(pipe: OwnedFd) -> Self {
        #[expect(unsafe_code, reason = "the standard library has no pipes that do not block")]
        // SAFETY: the descriptor is open, and the flag is the only one that matters for reading a pipe.
        let code = unsafe { libc::fcntl(pipe.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
        assert_eq!(code, 0, "fcntl: {}", io::Error::last_os_error());
        Self { pipe: File::from(pipe), read: Mutex::default() }
    }

    /// Reads what is there. False at the end of the pipe.
    fn read(&self, read: &mut Vec<u8>) -> bool {
        match (&self.pipe).read_to_end(read) {
            Ok(_) => false,
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        }
    }

    fn read_to_its_end(&self) {
        let mut wanted = libc::pollfd { fd: self.pipe.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        loop {
            #[expect(unsafe_code, reason = "the standard library can't wait for a pipe that does not block")]
            // SAFETY: the one structure lives during the call.
            unsafe {
                libc::poll(&raw mut wanted, 1, -1);
            }
            if !self.read(&mut self.read.lock().expect("no reader panics")) {
                return;
            }
        }
    }

    fn text(&self) -> String {
        let mut read = self.read.lock().expect("no reader panics");
        self.read(&mut read);
        String::from_utf8_lossy(&read).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write as _};

    use super::{Output, cpu_ticks, ticks_per_second};

    #[test]
    fn all_that_was_written_before_is_in_the_text() {
        // No thread reads this one.
        let (reader, mut writer) = io::pipe().expect("a pipe");
        let output = Output::of(reader.into());
        assert_eq!(output.text(), "");
        writer.write_all(b"one ").expect("there is room");
        assert_eq!(output.text(), "one ");
        writer.write_all(b"two").expect("there is room");
        assert_eq!(output.text(), "one two");
        drop(writer);
        output.read_to_its_end();
        assert_eq!(output.text(), "one two");
    }

    #[test]
    fn cpu_time_is_found_behind_any_name() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 7 0 12345 1048576 300";
        assert_eq!(cpu_ticks(stat), Some(300.0));
        assert_eq!(cpu_ticks("42 (a) S 1"), None);
        assert!(ticks_per_second() >= 1.0);
    }
}
