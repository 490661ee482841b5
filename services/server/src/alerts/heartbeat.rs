//! The heartbeat: a request to a service outside, every minute, as long as rules are evaluated here. The service tells people when it stops, which nothing
//! inside could.

use std::time::Duration;

use golectra_process::LogLimiter;
use reqwest::{Client, Url};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::receivers::{checked, http_client};
use crate::config::Settings;
use crate::http::client_error::describe;
use crate::metrics::alerts::AlertMetrics;

/// How often; a random part of up to a tenth is added or left out.
const EVERY: Duration = Duration::from_mins(1);
/// How long after two intervals an evaluation may be late, as one that takes long is.
const GRACE: Duration = Duration::from_secs(30);

/// Log lines about it.
static LOG: LogLimiter<&'static str> = LogLimiter::new();

/// When rules were evaluated here last; nothing while another server does it.
pub type Evaluated = watch::Sender<Option<Instant>>;

/// See the module's documentation. The address is a secret: whoever knows it can pretend that all is well.
pub struct Heartbeat {
    url: Url,
    client: Client,
    metrics: AlertMetrics,
    interval: Duration,
    evaluated: Evaluated,
}

impl Heartbeat {
    /// None without HEARTBEAT_URL. The error says what is wrong with it, without it.
    pub fn new(settings: &Settings, metrics: AlertMetrics, evaluated: Evaluated) -> Result<Option<Self>, String> {
        let Some(url) = &settings.heartbeat_url else { return Ok(None) };
        let url = checked(url.expose()).and_then(|url| Url::parse(url).map_err(|error| error.to_string()))?;
        let interval = settings.evaluation_interval.duration();
        Ok(Some(Self { url, client: http_client()?, metrics, interval, evaluated }))
    }

    /// Never returns.
    pub async fn run(&self) {
        let mut evaluated = self.evaluated.subscribe();
        while is_due(&mut evaluated, self.interval * 2 + GRACE).await {
            self.send().await;
            pause().await;
        }
    }

    async fn send(&self) {
        match self.request().await {
            Ok(()) => self.metrics.heartbeats.inc(),
            Err(reason) => {
                self.metrics.heartbeats_failed.inc();
                LOG.log("failed", move |count| tracing::warn!(count, reason, "a heartbeat was not taken, trying again in a minute"));
            }
        }
    }

    /// Sends one. The error says why it was not taken, without the address.
    async fn request(&self) -> Result<(), String> {
        let answer = self.client.get(self.url.clone()).send().await.map_err(describe)?;
        let status = answer.status();
        // Redirects are not followed, so one is no success either.
        if status.is_success() { Ok(()) } else { Err(format!("the service answered {status}")) }
    }
}

/// Waits until the last evaluation here is not too old; false when there will be none.
async fn is_due(evaluated: &mut watch::Receiver<Option<Instant>>, max_age: Duration) -> bool {
    let is_current = |last: &Option<Instant>| last.is_some_and(|last| last.elapsed() <= max_age);
    let last = *evaluated.borrow();
    if last.is_some() && !is_current(&last) {
        LOG.log("stopped", |count| {
            tracing::warn!(count, "no heartbeat is sent: the last evaluation of rules that succeeded is too long ago");
        });
    }
    evaluated.wait_for(is_current).await.is_ok()
}

async fn pause() {
    sleep(EVERY.mul_f64(0.9 + fastrand::f64() / 5.0)).await;
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use prometheus::Registry;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// Answers one request.
    async fn answer(listener: &TcpListener, status: &str) {
        let (mut connection, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        assert!(connection.read(&mut request).await.unwrap() > 0);
        let answer = format!("HTTP/1.1 {status}\r\nlocation: /elsewhere\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        connection.write_all(answer.as_bytes()).await.unwrap();
    }

    #[tokio::test]
    async fn any_answer_but_2xx_is_a_failure() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let heartbeat = Heartbeat {
            url: Url::parse(&format!("http://{}/secret", listener.local_addr().unwrap())).unwrap(),
            client: http_client().unwrap(),
            metrics: AlertMetrics::register(&Registry::new()).unwrap(),
            interval: Duration::from_secs(15),
            evaluated: Evaluated::new(None),
        };
        let ((), taken) = tokio::join!(answer(&listener, "301 Moved Permanently"), heartbeat.request());
        let reason = taken.unwrap_err();
        assert!(reason.contains("301") && !reason.contains("secret"), "{reason}");
        for (status, taken, failed) in [("200 OK", 1, 0), ("301 Moved Permanently", 1, 1), ("404 Not Found", 1, 2)] {
            tokio::join!(answer(&listener, status), heartbeat.send());
            assert_eq!((heartbeat.metrics.heartbeats.get(), heartbeat.metrics.heartbeats_failed.get()), (taken, failed), "{status}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_beats_every_minute_while_rules_are_evaluated() {
        let (evaluated, mut receiver) = watch::channel(None);
        let beats = AtomicUsize::new(0);
        let beating = async {
            while is_due(&mut receiver, Duration::from_mins(1)).await {
                beats.fetch_add(1, Ordering::Relaxed);
                pause().await;
            }
        };
        let minutes = async |minutes: u32, succeeds: bool| {
            let before = beats.load(Ordering::Relaxed);
            for _ in 0..minutes * 4 {
                if succeeds {
                    evaluated.send_replace(Some(Instant::now()));
                }
                sleep(Duration::from_secs(15)).await;
            }
            beats.load(Ordering::Relaxed) - before
        };
        let script = async {
            assert_eq!(minutes(10, false).await, 0, "nothing was evaluated yet");
            let beats = minutes(30, true).await;
            assert!((27..=34).contains(&beats), "{beats} in 30 minutes");
            assert!(minutes(3, false).await <= 2, "what was evaluated last counts for a minute");
            assert_eq!(minutes(10, false).await, 0);
            assert!((9..=12).contains(&minutes(10, true).await));
            evaluated.send_replace(None);
            assert_eq!(minutes(10, false).await, 0, "another server evaluates");
        };
        tokio::select! {
            () = beating => panic!("it ended"),
            () = script => {}
        }
    }
}
