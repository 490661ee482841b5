//! How a service behaves as a process: what it prints, how it refuses bad settings, how it ends.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// Longer than anything here should take.
const PATIENCE: Duration = Duration::from_secs(20);

/// The example service, which cargo builds along with the tests.
fn service() -> Command {
    let tests = std::env::current_exe().unwrap();
    let example: PathBuf = tests.parent().and_then(|deps| deps.parent()).unwrap().join("examples/golectra_example");
    let mut command = Command::new(example);
    command.env_clear();
    command
}

/// The example service, started with SIGHUP ignored, as nohup does, or not ignored, however the tests were started.
fn service_with_hangup(ignored: bool) -> Command {
    let mut command = service();
    let action = if ignored { libc::SIG_IGN } else { libc::SIG_DFL };
    #[expect(unsafe_code, reason = "the standard library does not set what a signal does in a child")]
    // SAFETY: between fork and exec only signal is called, which is safe to call from a signal handler.
    unsafe {
        command.pre_exec(move || {
            libc::signal(libc::SIGHUP, action);
            Ok(())
        });
    }
    command
}

fn run(arguments: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } =
        service().args(arguments).envs(variables.iter().copied()).output().expect("the example is built: cargo build --examples");
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// A service that listens; killed when a test ends early.
struct Running {
    child: Child,
    log: mpsc::Receiver<String>,
    address: String,
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    fn start(variables: &[(&str, &str)]) -> Self {
        Self::start_as(service(), variables)
    }

    fn start_as(mut command: Command, variables: &[(&str, &str)]) -> Self {
        let mut child = command
            .env("ADDRESS", "127.0.0.1:0")
            .envs(variables.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the example is built: cargo build --examples");
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (hand_over, log) = mpsc::sync_channel(64);
        // A thread of its own, so that waiting for a line has a limit.
        thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| hand_over.send(line)));
        let mut running = Self { child, log, address: String::new() };
        let line = running.log_line("listening");
        let address = line.split("\"address\":\"").nth(1).and_then(|rest| rest.split('"').next());
        address.expect(&line).clone_into(&mut running.address);
        running
    }

    /// The next log line with this message.
    fn log_line(&self, message: &str) -> String {
        loop {
            let line = self.log.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("the log has no {message:?}"));
            if line.contains(message) {
                return line;
            }
        }
    }

    fn request(&self, head: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(format!("{head}\r\nHost: x\r\n\r\n").as_bytes()).unwrap();
        stream
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("sh").args(["-c", &format!("kill -{name} {}", self.child.id())]).status().unwrap();
        assert!(sent.success());
    }

    fn ended(&mut self) -> ExitStatus {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < until, "the service goes on");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Reads until the answer's last word is there.
fn answered(stream: &mut TcpStream, word: &str) {
    let mut text = Vec::new();
    let mut chunk = [0; 1024];
    while !text.ends_with(word.as_bytes()) {
        let read = stream.read(&mut chunk).unwrap();
        assert!(read > 0, "closed after {:?}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&chunk[..read]);
    }
}

#[test]
fn help_goes_to_stdout_after_the_banner_with_code_0() {
    let (code, stdout, stderr) = run(&["-h"], &[]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    let lines: Vec<_> = stdout.lines().take(3).map(|line| line.split(": ").next().unwrap()).collect();
    assert_eq!(lines, ["Build version", "Build date", "Build commit"]);
    for name in ["ADDRESS", "METRICS_ADDRESS", "KEY", "SHUTDOWN_LIMIT", "LOG_LEVEL", "-a, --address", "golectra-example [FLAGS]"] {
        assert!(stdout.contains(name), "{name} is not in\n{stdout}");
    }
}

#[test]
fn bad_settings_are_one_line_with_code_2() {
    for (arguments, variables) in [
        (&["--nope"][..], &[][..]),
        (&["stray"], &[]),
        (&["-a"], &[]),
        (&["-a=here"], &[]),
        (&[], &[("SHUTDOWN_LIMIT", "-1s")]),
        (&[], &[("LOG_FORMAT", "xml")]),
        (&[], &[("OTEL_EXPORTER_OTLP_ENDPOINT", "nowhere")]),
    ] {
        let (code, _, stderr) = run(arguments, variables);
        assert_eq!((code, stderr.lines().count()), (Some(2), 1), "{stderr}");
        assert!(stderr.starts_with("golectra-example: "), "{stderr}");
    }
}

#[test]
fn a_signal_ends_it_with_code_0_although_a_connection_is_kept() {
    for signal in ["TERM", "INT", "HUP"] {
        let variables = [("KEY", "swordfish"), ("METRICS_ADDRESS", "127.0.0.1:0")];
        let mut running = Running::start_as(service_with_hangup(false), &variables);
        let mut kept = running.request("GET / HTTP/1.1");
        answered(&mut kept, "hello");
        running.signal(signal);
        assert_eq!(running.ended().code(), Some(0));
        let log: String = running.log.iter().collect();
        assert!(log.contains(&format!("\"signal\":\"SIG{signal}\"")) && log.contains("stopped"), "{log}");
        assert!(!log.contains("swordfish"));
    }
}

#[test]
fn a_second_signal_ends_it_at_once_with_code_1() {
    let mut running = Running::start(&[]);
    let _hanging = running.request("GET /hang HTTP/1.1");
    running.log_line("hanging");
    running.signal("TERM");
    running.log_line("stopping");
    running.signal("INT");
    assert_eq!(running.ended().code(), Some(1));
    running.log_line("second signal");
}

#[test]
fn a_second_hangup_does_not_end_it_at_once() {
    let mut running = Running::start_as(service_with_hangup(false), &[("SHUTDOWN_LIMIT", "2s")]);
    let _hanging = running.request("GET /hang HTTP/1.1");
    running.log_line("hanging");
    running.signal("HUP");
    running.log_line("stopping");
    running.signal("HUP");
    assert_eq!(running.ended().code(), Some(1));
    running.log_line("time limit");
}

#[test]
fn a_hangup_that_is_ignored_at_the_start_stays_ignored() {
    let mut running = Running::start_as(service_with_hangup(true), &[]);
    running.signal("HUP");
    answered(&mut running.request("GET / HTTP/1.1"), "hello");
    running.signal("TERM");
    assert_eq!(running.ended().code(), Some(0));
    let log: String = running.log.iter().collect();
    assert!(log.contains("\"signal\":\"SIGTERM\"") && !log.contains("SIGHUP"), "{log}");
}

#[test]
fn the_limit_ends_it_with_code_1() {
    let mut running = Running::start(&[("SHUTDOWN_LIMIT", "300ms")]);
    let _hanging = running.request("GET /hang HTTP/1.1");
    running.log_line("hanging");
    running.signal("TERM");
    assert_eq!(running.ended().code(), Some(1));
    running.log_line("time limit");
}

#[test]
fn a_traced_request_reaches_the_collector_before_the_end() {
    let collector = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", collector.local_addr().unwrap());
    let mut running = Running::start(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)]);
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mut client = running.request(&format!("GET / HTTP/1.1\r\ntraceparent: {traceparent}"));
    answered(&mut client, "hello");
    running.signal("TERM");
    let mut stream = accept(&collector);
    let mut taken = Vec::new();
    let mut chunk = [0; 4096];
    let trace_id = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes();
    while !(holds(&taken, b"greeting") && holds(&taken, &trace_id)) {
        let read = stream.read(&mut chunk).unwrap();
        assert!(read > 0, "closed after {:?}", String::from_utf8_lossy(&taken));
        taken.extend_from_slice(&chunk[..read]);
    }
    assert!(taken.starts_with(b"POST /v1/traces HTTP/1.1\r\n"));
    assert!(holds(&taken, b"golectra-example"));
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
    assert_eq!(running.ended().code(), Some(0));
}

/// The next connection, within the time a test may take.
fn accept(listener: &TcpListener) -> TcpStream {
    listener.set_nonblocking(true).unwrap();
    let until = Instant::now() + PATIENCE;
    loop {
        if let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(false).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            return stream;
        }
        assert!(Instant::now() < until, "nothing connects");
        thread::sleep(Duration::from_millis(5));
    }
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[test]
fn a_collector_that_is_away_changes_neither_answers_nor_the_end() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut running = Running::start(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://{gone}"))]);
    let mut client = running.request("GET / HTTP/1.1");
    answered(&mut client, "hello");
    let since = Instant::now();
    running.signal("TERM");
    assert_eq!(running.ended().code(), Some(0));
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
}
