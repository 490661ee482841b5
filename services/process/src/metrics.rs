//! The metrics that every service has, and the listener that serves them.

mod process;

use std::future::Future;
use std::io;
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus::{IntGauge, Opts, Registry, TextEncoder};

use crate::banner::BUILD;
use crate::{ConnectionLimits, ListenAddress, Shutdown, listen};

/// The text format's content type.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Scrapers and probes need only a few connections.
const LIMITS: ConnectionLimits = ConnectionLimits {
    headers: Duration::from_secs(5),
    idle: Duration::from_mins(2),
    write_stall: Duration::from_secs(10),
    slow_write_bytes: None,
    slow_write: Duration::from_secs(30),
    max_connections: 64,
    max_header_bytes: 16 << 10,
    heads_bytes: 1 << 20,
    drain: Duration::from_secs(2),
    linger: Duration::ZERO,
};

/// A registry with the metrics of the build and the process; a service adds its own.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Where the service registers its metrics.
    pub registry: Registry,
}

impl Metrics {
    /// `service` is the `service` label of `golectra_build_info`. The error is the prometheus crate's, for an invalid name.
    pub fn new(service: &str) -> prometheus::Result<Self> {
        let registry = Registry::new();
        let build = Opts::new("golectra_build_info", "Always 1; the labels say which build this is.")
            .const_label("service", service)
            .const_label("version", BUILD.version)
            .const_label("commit", BUILD.commit);
        let build = IntGauge::with_opts(build)?;
        build.set(1);
        registry.register(Box::new(build))?;
        registry.register(Box::new(process::Collector::new()?))?;
        Ok(Self { registry })
    }
}

/// `GET /metrics` in Prometheus's text format, and `GET /ping`: 200 `ok` when `ping` resolves to true, else 503.
pub fn router<F, P>(registry: Registry, ping: F) -> Router
where
    F: Fn() -> P + Clone + Send + Sync + 'static,
    P: Future<Output = bool> + Send,
{
    let metrics = move || {
        let registry = registry.clone();
        async move { render(&registry) }
    };
    let ping = move || {
        let ping = ping.clone();
        async move { if ping().await { (StatusCode::OK, "ok") } else { (StatusCode::SERVICE_UNAVAILABLE, "unavailable") } }
    };
    Router::new().route("/metrics", get(metrics)).route("/ping", get(ping))
}

fn render(registry: &Registry) -> axum::response::Response {
    match TextEncoder::new().encode_to_string(&registry.gather()) {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "the metrics could not be encoded");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// Serves [`router`] on its own address until the shutdown; does nothing without an address.
///
/// Returns once the address is bound. The error names the address and what to do about it.
pub async fn serve_observability<F, P>(address: Option<&ListenAddress>, registry: Registry, ping: F, shutdown: &Shutdown) -> io::Result<()>
where
    F: Fn() -> P + Clone + Send + Sync + 'static,
    P: Future<Output = bool> + Send,
{
    let Some(address) = address else { return Ok(()) };
    let listener = address.bind().await?;
    tracing::info!(address = %listener.local_addr()?, "metrics are at /metrics");
    shutdown.spawn(listen::serve(listener, router(registry, ping), LIMITS, shutdown.token()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use axum::Router;
    use axum::body::Body;
    use http::{Request, StatusCode};
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::{Metrics, router, serve_observability};
    use crate::Shutdown;

    async fn get(app: &Router, path: &str) -> (StatusCode, String, String) {
        let response = app.clone().oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
        let content_type = response.headers()["content-type"].to_str().unwrap().to_owned();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, content_type, String::from_utf8(body.to_vec()).unwrap())
    }

    fn app() -> Router {
        router(Metrics::new("golectra-test").unwrap().registry, || async { true })
    }

    #[tokio::test]
    async fn metrics_of_build_and_process_are_present_and_plausible() {
        let (status, content_type, text) = get(&app(), "/metrics").await;
        assert_eq!((status, content_type.as_str()), (StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8"));
        assert!(text.contains("golectra_build_info{commit=\"") && text.contains("service=\"golectra-test\""), "{text}");
        let value = |name: &str| -> f64 {
            text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap_or_else(|| panic!("{name}")).parse().unwrap()
        };
        assert!(value("process_cpu_seconds_total") >= 0.0);
        assert!(value("process_resident_memory_bytes") > 1e6);
        assert!(value("process_virtual_memory_bytes") >= value("process_resident_memory_bytes"));
        assert!((3.0..1e5).contains(&value("process_open_fds")));
        assert!(value("process_max_fds") >= value("process_open_fds"));
        assert!(value("process_threads") >= 1.0);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        let age = now - value("process_start_time_seconds");
        assert!((-2.0..86_400.0).contains(&age), "{age}");
    }

    /// promtool is in Debian's package prometheus; without it the test fails and says so.
    #[tokio::test]
    async fn promtool_reports_no_problems() {
        let (_, _, text) = get(&app(), "/metrics").await;
        let mut promtool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("promtool runs: install the Debian package prometheus");
        promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let outcome = promtool.wait_with_output().unwrap();
        assert!(outcome.status.success() && outcome.stderr.is_empty(), "{outcome:?}");
    }

    #[tokio::test]
    async fn ping_is_200_when_the_check_succeeds_and_503_when_it_fails() {
        let well = Arc::new(AtomicBool::new(true));
        let asked = Arc::clone(&well);
        let app = router(prometheus::Registry::new(), move || {
            let asked = Arc::clone(&asked);
            async move { asked.load(Ordering::Relaxed) }
        });
        let (status, _, text) = get(&app, "/ping").await;
        assert_eq!((status, text.as_str()), (StatusCode::OK, "ok"));
        well.store(false, Ordering::Relaxed);
        assert_eq!(get(&app, "/ping").await.0, StatusCode::SERVICE_UNAVAILABLE);
    }

    #[tokio::test]
    async fn the_listener_is_optional_and_ends_with_the_service() {
        let shutdown = Shutdown::new();
        let registry = prometheus::Registry::new();
        serve_observability(None, registry.clone(), || async { true }, &shutdown).await.unwrap();
        let address = "127.0.0.1:0".parse().unwrap();
        serve_observability(Some(&address), registry.clone(), || async { true }, &shutdown).await.unwrap();
        let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap().to_string().parse().unwrap();
        let error = serve_observability(Some(&address), registry, || async { true }, &shutdown).await.unwrap_err();
        assert!(error.to_string().contains(&address.to_string()), "{error}");
        shutdown.start();
        assert!(shutdown.wait(std::time::Duration::from_secs(5)).await);
    }
}
