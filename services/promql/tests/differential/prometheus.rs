//! A Prometheus on this machine.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use golectra_promql::{Labels, Steps};
use serde_json::Value;
use tempfile::TempDir;

use crate::data::Data;

/// Series with their samples.
pub type Answer = BTreeMap<Labels, Vec<(i64, f64)>>;

/// That the programs are installed.
pub struct Installed;

/// A running Prometheus.
pub struct Prometheus {
    // Ended before the folder is removed.
    _program: Program,
    port: u16,
    _folder: TempDir,
}

/// A process that is ended when it is dropped.
struct Program(Child);

impl Prometheus {
    pub fn find() -> Option<Installed> {
        let runs = |program: &str| {
            Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
        };
        (runs("prometheus") && runs("promtool")).then_some(Installed)
    }
}

impl Installed {
    /// Loads the data and starts.
    #[expect(clippy::unused_self, reason = "it can be started only where it was found")]
    pub fn start(self, data: &Data) -> Prometheus {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("prometheus.yml"), "global: {}\n").unwrap();
        fs::create_dir(path("data")).unwrap();
        if !data.open_metrics.is_empty() {
            fs::write(path("samples"), format!("{}# EOF\n", data.open_metrics)).unwrap();
            let mut load = Command::new("promtool");
            load.args(["tsdb", "create-blocks-from", "openmetrics"]).arg(path("samples")).arg(path("data")).stdout(Stdio::null());
            assert!(load.status().unwrap().success(), "promtool can't load the samples");
        }
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let child = Command::new("prometheus")
                .arg(format!("--config.file={}", path("prometheus.yml").display()))
                .arg(format!("--storage.tsdb.path={}", path("data").display()))
                .arg(format!("--web.listen-address=127.0.0.1:{port}"))
                .stdout(Stdio::null())
                .stderr(File::create(path("log")).unwrap())
                .spawn()
                .unwrap();
            let mut program = Program(child);
            let deadline = Instant::now() + Duration::from_mins(1);
            while program.0.try_wait().unwrap().is_none() {
                if post(port, "/-/ready", &[]).is_some_and(|(status, _)| status == 200) {
                    return Prometheus { _program: program, port, _folder: folder };
                }
                assert!(Instant::now() < deadline, "Prometheus does not start: {}", fs::read_to_string(path("log")).unwrap());
                std::thread::sleep(Duration::from_millis(50));
            }
            // Another program may take the port between its choice and its use.
            let said = fs::read_to_string(path("log")).unwrap();
            assert!(said.contains("address already in use"), "Prometheus ended: {said}");
        }
        panic!("five ports in a row were taken by others");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Sends a form to a port and returns the status and the body, if there is an answer.
fn post(port: u16, path: &str, form: &[(&str, String)]) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_mins(1))).ok()?;
    let form: Vec<_> = form.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
    let (method, body) = if form.is_empty() { ("GET", String::new()) } else { ("POST", form.join("&")) };
    // Version 1.0 lets the body end with the connection.
    let head =
        format!("{method} {path} HTTP/1.0\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all((head + &body).as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

impl Prometheus {
    fn data(&self, path: &str, form: &[(&str, String)]) -> Result<Value, String> {
        let (_, body) = post(self.port, path, form).expect("Prometheus answers");
        let mut answer: Value = serde_json::from_str(&body).unwrap();
        if answer["status"] == "success" { Ok(answer["data"].take()) } else { Err(answer["error"].to_string()) }
    }

    /// A query, formatted.
    pub fn format(&self, query: &str) -> Result<String, String> {
        Ok(self.data("/api/v1/format_query", &[("query", query.to_owned())])?.as_str().unwrap().to_owned())
    }

    pub fn query(&self, query: &str, steps: Option<Steps>, time_ms: i64) -> Result<Answer, String> {
        let seconds = |ms: i64| format!("{}.{:03}", ms / 1000, ms % 1000);
        let query = ("query", query.to_owned());
        let data = match steps {
            None => self.data("/api/v1/query", &[query, ("time", seconds(time_ms))]),
            Some(steps) => {
                let times = [
                    ("start", seconds(steps.start_ms())),
                    ("end", seconds(steps.until_ms())),
                    ("step", seconds(steps.step_ms().max(1000))),
                ];
                self.data("/api/v1/query_range", &[&[query], &times[..]].concat())
            }
        }?;
        let result = &data["result"];
        Ok(match data["resultType"].as_str().unwrap() {
            "scalar" => BTreeMap::from([(Labels::empty(), vec![sample(result)])]),
            "vector" => series(result, |series| vec![sample(&series["value"])]),
            "matrix" => series(result, |series| series["values"].as_array().unwrap().iter().map(sample).collect()),
            other => return Err(other.to_owned()),
        })
    }
}

fn series(result: &Value, samples: impl Fn(&Value) -> Vec<(i64, f64)>) -> Answer {
    let labels = |series: &Value| {
        Labels::new(series["metric"].as_object().unwrap().iter().map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned())))
    };
    result.as_array().unwrap().iter().map(|series| (labels(series), samples(series))).collect()
}

#[expect(clippy::cast_possible_truncation, reason = "a time in milliseconds")]
fn sample(sample: &Value) -> (i64, f64) {
    ((sample[0].as_f64().unwrap() * 1000.0).round() as i64, sample[1].as_str().unwrap().parse().unwrap())
}

fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}
