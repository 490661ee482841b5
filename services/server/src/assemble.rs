//! From settings to the parts that handlers share.

use std::error::Error;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use golectra_process::listen::ConnectionMetrics;
use golectra_process::{Bytes, ConnectionLimits, Keys, Secret};
use prometheus::Registry;
use sqlx::PgConnection;
use tokio::sync::watch;

use crate::access::{ProxyAuth, Tokens};
use crate::alerts::store::AlertStore;
use crate::alerts::store::memory::MemoryAlertStore;
use crate::alerts::{self, Alerts, AlertsError};
use crate::audit::{AuditConfig, AuditError, Backend, Connections, Draft, Hook, Trail};
use crate::clock::Clock;
use crate::config::{Settings, SignatureMode};
use crate::history::query::{Queries, QueryLimits};
use crate::http::api::status::ProcessInfo;
use crate::http::extract::body::BodyLimits;
use crate::http::extract::signature::Signatures;
use crate::http::latest::budget::ListingBudget;
use crate::http::stream::Pulse;
use crate::http::ui::{KeptChanges, KeptClusters, KeptEvents, PanelBook};
use crate::http::{App, AppState};
use crate::ingest::Ingest;
use crate::metrics::history::HistoryMetrics;
use crate::metrics::keys::KeyMetrics;
use crate::metrics::memory::MemoryCollector;
use crate::metrics::panels::PanelMetrics;
use crate::metrics::postgres::{CacheCollector, WriterMetrics};
use crate::metrics::{Borrowed, ServerMetrics};
use crate::store::memory::{AuditHook, MemoryConfig, MemoryStore};
use crate::store::postgres::{CacheConfig, PostgresConfig, PostgresStore, READ_WAIT, TransactionHook, WriteLimits};
use crate::store::timed::Timed;
use crate::store::{Lifetimes, SeriesLimits, Store};

/// The memory that history may take in the memory store, unless HISTORY_MAX_BYTES says otherwise.
const MEMORY_HISTORY_BYTES: usize = 256 * 1024 * 1024;

/// What golectra's agents put into one batch at most: MAX_BATCH_ITEMS of services/agent/src/batch.rs.
const AGENT_BATCH_ITEMS: usize = 5_000;

/// What requests have at least of the time limit of stopping after a linger time.
const MIN_DRAIN: Duration = Duration::from_secs(1);

/// Settings whose values are valid and can't be used, one alone or several together: a sentence that says which and what to do. The exit code is that of a
/// bad value.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Refused(String);

impl Refused {
    /// Refused with the words of an error.
    pub fn because(error: &dyn Error) -> Self {
        Self(error.to_string())
    }
}

/// What a server is made of.
pub struct Parts {
    /// What handlers share.
    pub state: AppState,
    /// The audit trail, where there is a sink.
    pub trail: Option<Trail>,
}

/// Opens the store and the audit trail. An error says what can't be used and what to do; it is [`Refused`] where the settings are to blame. Must be called
/// inside a runtime.
pub fn parts(settings: &Settings, registry: &Registry, connections: &ConnectionMetrics) -> Result<Parts, Box<dyn Error>> {
    let clock = Clock::System;
    // What is refused should be refused before files are opened and the database is asked.
    let lifetimes = lifetimes(settings)?;
    let keys = keys(settings)?;
    let tokens = settings.api_tokens_file.as_deref().map(Tokens::open).transpose().map_err(|error| Refused(error.to_string()))?;
    let proxy = proxy(settings)?;
    let max_batch_items = settings.max_batch_items.get();
    if max_batch_items < AGENT_BATCH_ITEMS {
        tracing::warn!(
            max_batch_items,
            agent_batch_items = AGENT_BATCH_ITEMS,
            "MAX_BATCH_ITEMS is less than golectra's agents put into one batch: they drop reports that are larger"
        );
    }
    let Opened { store, trail, states } = if let Some(dsn) = &settings.database_dsn {
        in_postgres(settings, dsn, lifetimes, registry, &clock)?
    } else {
        in_memory(settings, lifetimes, registry, &clock)?
    };
    let metrics = ServerMetrics::register(registry)?;
    let store: Arc<dyn Store> = Arc::new(Timed::new(store, metrics.clone()));
    Borrowed::register(registry, Arc::clone(&store), connections.clone())?;
    KeyMetrics::register(registry, keys.clone())?;
    let panels = PanelBook::open(settings.panels_dir.as_deref());
    PanelMetrics::register(registry, panels.clone())?;
    let queries = Queries::start(Arc::<dyn Store>::clone(&store), query_limits(settings), store.writer_load(), registry)?;
    let parts = alerts::Parts {
        store: Arc::clone(&store),
        states,
        queries: queries.clone(),
        registry: registry.clone(),
        instance: settings.instance.clone().unwrap_or_else(host_name),
        clock: clock.clone(),
    };
    let state = Arc::new(App {
        alerts: Alerts::open(settings, parts).map_err(of_alerts)?,
        signatures: Arc::new(Signatures::new(keys, settings.signatures, clock.clone(), metrics.clone())),
        ingest: Ingest::new(Arc::clone(&store), trail.clone(), metrics.clone(), clock.clone()),
        queries,
        process: ProcessInfo::new(settings, host_name(), clock),
        store,
        bodies: BodyLimits::new(settings.max_body_bytes.get(), settings.body_timeout.duration(), settings.max_inflight_bytes.get()),
        listings: ListingBudget::new(),
        max_batch_items,
        key: settings.key.clone(),
        tokens,
        proxy,
        trusted_proxies: settings.trusted_proxies.clone(),
        metrics,
        pulse: Pulse::default(),
        clusters: KeptClusters::default(),
        changes: KeptChanges::default(),
        events: KeptEvents::default(),
        panels,
    });
    Ok(Parts { state, trail })
}

/// The signing keys; refused when signatures are required and there is nothing to check them with.
fn keys(settings: &Settings) -> Result<Keys, Refused> {
    let keys = Keys::open(settings.key.as_ref(), settings.keys_dir.as_deref()).map_err(|error| Refused(error.to_string()))?;
    if keys.ids().is_empty() {
        if settings.signatures == SignatureMode::Required {
            return Err(Refused("SIGNATURES=required needs a key: set KEY, or KEYS_DIR to a folder with a key in it".to_owned()));
        }
        if keys.has_folder() {
            tracing::warn!("KEYS_DIR has no key yet: signed requests are refused until it has");
        }
    }
    Ok(keys)
}

/// How proxies name people; refused when anybody could.
fn proxy(settings: &Settings) -> Result<Option<ProxyAuth>, Refused> {
    let Some(header) = settings.auth_header.clone() else { return Ok(None) };
    if settings.trusted_proxies.is_empty() {
        let problem = "AUTH_HEADER needs to know who may send it: set TRUSTED_PROXIES to the addresses of the proxy that signs people in";
        return Err(Refused(problem.to_owned()));
    }
    if settings.trusted_proxies.has_everyone() {
        let problem = "TRUSTED_PROXIES has a network of all addresses, so that everyone could name any user in AUTH_HEADER";
        return Err(Refused(format!("{problem}: set it to the addresses of the proxy that signs people in")));
    }
    Ok(Some(ProxyAuth::new(header, settings.auth_header_role)))
}

/// A store and what goes with it.
struct Opened {
    store: Arc<dyn Store>,
    trail: Option<Trail>,
    /// Of alerts.
    states: Arc<dyn AlertStore>,
}

fn in_postgres(
    settings: &Settings,
    dsn: &Secret,
    lifetimes: Lifetimes,
    registry: &Registry,
    clock: &Clock,
) -> Result<Opened, Box<dyn Error>> {
    let hook = Arc::new(LateHook::default());
    let config = PostgresConfig {
        dsn: dsn.clone(),
        lifetimes,
        limits: series_limits(settings),
        write_limits: WriteLimits::default(),
        read_wait: READ_WAIT,
        connections: settings.database_connections,
        query_connections: settings.database_query_connections,
        query_timeout: settings.query_timeout.duration(),
        hook: Some(Arc::<LateHook>::clone(&hook)),
        metrics: WriterMetrics::register(registry)?,
        history_max_bytes: database_history_bytes(settings.history_max_bytes),
        history: HistoryMetrics::register(registry)?,
        index_cache: CacheConfig {
            max_bytes: settings.index_cache_bytes.get(),
            metrics: CacheCollector::register(registry, "index_cache", "searches for series and lists of names")?,
        },
        chunk_cache: CacheConfig {
            max_bytes: settings.sample_cache_bytes.get() / 2,
            metrics: CacheCollector::register(registry, "chunk_cache", "rows of sealed chunks")?,
        },
        frame_cache: CacheConfig {
            max_bytes: settings.sample_cache_bytes.get() / 2,
            metrics: CacheCollector::register(registry, "frame_cache", "frames that are not sealed")?,
        },
    };
    let store = PostgresStore::open(config, clock.clone()).map_err(|error| Refused(error.to_string()))?;
    let connections = Connections { pool: store.pool().clone(), commits: Arc::clone(store.commits()) };
    let backend = Backend::Postgres { connections, ready: ready(&store) };
    let trail = start_trail(settings, backend, registry, clock)?;
    hook.set(trail.as_ref().and_then(Trail::hook));
    let states = store.alerts();
    Ok(Opened { store, trail, states })
}

fn in_memory(settings: &Settings, lifetimes: Lifetimes, registry: &Registry, clock: &Clock) -> Result<Opened, Box<dyn Error>> {
    let trail = start_trail(settings, Backend::Memory, registry, clock)?;
    let queue = trail.clone().map(|trail| -> AuditHook { Arc::new(move |draft| trail.queue(draft)) });
    let path = Some(settings.file_storage_path.clone()).filter(|path| !path.as_os_str().is_empty());
    let beside = path.as_deref().map(Alerts::file_beside);
    if let Some(path) = &path {
        tracing::info!(file = %path.display(), "metrics are kept in memory and saved in a file");
    } else {
        tracing::info!("metrics are kept in memory and not saved: FILE_STORAGE_PATH is empty");
    }
    let config = MemoryConfig {
        path,
        store_interval: settings.store_interval.duration(),
        restore: settings.restore,
        lifetimes,
        max_keys: settings.max_remembered_keys,
        limits: series_limits(settings),
        history_max_bytes: settings.history_max_bytes.map_or(MEMORY_HISTORY_BYTES, Bytes::get),
        audit: queue,
    };
    // Nothing is served yet that could wait for the files to be read.
    let store = MemoryStore::open(config, clock.clone())?;
    // The store has waited until the previous process released the files: until then that process may have changed the state of alerts.
    let states = MemoryAlertStore::open(beside.clone(), settings.restore, clock.clone()).map_err(|error| {
        format!(
            "the state of alerts in {} can't be read ({error}): fix that, or move the file away, which removes all silences and sends firing alerts again",
            beside.unwrap_or_default().display()
        )
    })?;
    MemoryCollector::register(registry, Arc::clone(&store))?;
    Ok(Opened { store, trail, states: Arc::new(states) })
}

/// Starts the audit trail. The address of a webhook that can't be used is refused.
fn start_trail(settings: &Settings, backend: Backend, registry: &Registry, clock: &Clock) -> Result<Option<Trail>, Box<dyn Error>> {
    Trail::start(audit(settings), backend, registry, clock.clone()).map_err(|error| match error {
        AuditError::Webhook(_) => Refused(error.to_string()).into(),
        AuditError::Metrics(_) => error.into(),
    })
}

/// A file of receivers or an address that can't be used is refused.
fn of_alerts(error: AlertsError) -> Box<dyn Error> {
    match error {
        AlertsError::Receivers(_) | AlertsError::Heartbeat(_) => Refused(error.to_string()).into(),
        AlertsError::Metrics(_) => error.into(),
    }
}

/// What golectra's tables and indexes may take, but for those of audit events. 0 is no limit, as it is in the metric `golectra_history_max_bytes`.
fn database_history_bytes(setting: Option<Bytes>) -> Option<u64> {
    setting.map(|bytes| bytes.get() as u64).filter(|bytes| *bytes > 0)
}

/// Whether reports are accepted whose samples are too old to be kept.
fn keeps_less_than_it_accepts(settings: &Settings) -> bool {
    settings.retention_raw.duration() < settings.dedup_window.duration()
}

/// How long keys, history, series and sources live. What is coarser has to be there before what is finer goes.
fn lifetimes(settings: &Settings) -> Result<Lifetimes, Refused> {
    let (raw, five_minutes, hour) = (settings.retention_raw, settings.retention_5m, settings.retention_1h);
    for ((finer, finer_name), (coarser, coarser_name)) in
        [((raw, "RETENTION_RAW"), (five_minutes, "RETENTION_5M")), ((five_minutes, "RETENTION_5M"), (hour, "RETENTION_1H"))]
    {
        if coarser.duration() < finer.duration() {
            return Err(Refused(format!(
                "{coarser_name}={coarser} is shorter than {finer_name}={finer}: raise {coarser_name} or shorten {finer_name}"
            )));
        }
    }
    if keeps_less_than_it_accepts(settings) {
        tracing::warn!(
            retention_raw = %raw,
            dedup_window = %settings.dedup_window,
            "RETENTION_RAW is shorter than DEDUP_WINDOW: reports that are older than RETENTION_RAW are accepted and their samples are not kept; raise RETENTION_RAW, or shorten DEDUP_WINDOW to have such reports refused"
        );
    }
    Ok(Lifetimes {
        dedup_window: settings.dedup_window.duration(),
        retention_raw: raw.duration(),
        retention_5m: five_minutes.duration(),
        retention_1h: hour.duration(),
        seal_after: settings.seal_after.duration(),
        series_expiry: settings.series_expiry.duration(),
        source_expiry: settings.source_expiry.duration(),
    })
}

/// What queries may cost, and what is said about them.
fn query_limits(settings: &Settings) -> QueryLimits {
    QueryLimits {
        concurrency: settings.query_concurrency.get(),
        timeout: settings.query_timeout.duration(),
        max_series: settings.query_max_series.get(),
        max_bytes: settings.query_max_bytes.get(),
        log_after: settings.query_log_after.duration(),
        subquery_step: settings.evaluation_interval.subquery_step(),
    }
}

fn series_limits(settings: &Settings) -> SeriesLimits {
    SeriesLimits { total: settings.max_series.get(), per_source: settings.max_series_per_source.get() }
}

fn audit(settings: &Settings) -> AuditConfig {
    AuditConfig {
        file: settings.audit_file.clone(),
        url: settings.audit_url.as_ref().map(|url| url.expose().to_owned()),
        key: settings.audit_key.clone(),
        queue: settings.audit_queue.get(),
        database_max_bytes: settings.audit_database_max_bytes.get(),
        instance: settings.instance.clone().unwrap_or_else(host_name),
    }
}

/// Turns true once the database has its schema.
fn ready(store: &Arc<PostgresStore>) -> watch::Receiver<bool> {
    let (sender, receiver) = watch::channel(false);
    let store = Arc::clone(store);
    tokio::spawn(async move {
        store.ready().await;
        // Nobody listens any more where the audit trail could not be started.
        let _ = sender.send(true);
    });
    receiver
}

/// What a connection may cost. Refused is a linger time that leaves requests too little of the time limit of stopping.
pub fn connection_limits(settings: &Settings) -> Result<ConnectionLimits, Refused> {
    let (limit, linger) = (settings.shutdown_timeout, settings.shutdown_linger);
    let drain = drain(limit.duration(), linger.duration()).ok_or_else(|| {
        Refused(format!(
            "SHUTDOWN_LINGER={linger} is too long for SHUTDOWN_TIMEOUT={limit}: it must be at least {MIN_DRAIN:?} shorter than half of it"
        ))
    })?;
    Ok(ConnectionLimits {
        headers: settings.header_timeout.duration(),
        idle: settings.idle_timeout.duration(),
        max_connections: settings.max_connections.get(),
        drain,
        linger: linger.duration(),
        ..ConnectionLimits::default()
    })
}

/// How long requests have after the linger time: the rest of half of the time limit, so that the store has the other half. None if that is too little.
fn drain(limit: Duration, linger: Duration) -> Option<Duration> {
    let rest = (limit / 2).checked_sub(linger)?;
    (linger.is_zero() || rest >= MIN_DRAIN).then_some(rest)
}

/// What the kernel calls this machine or container.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    Some(name.trim()).filter(|name| !name.is_empty()).unwrap_or("localhost").to_owned()
}

/// The store is opened with its hook, the trail with the store's connections: the hook is filled in when both are there.
#[derive(Default)]
struct LateHook(OnceLock<Hook>);

impl LateHook {
    fn set(&self, hook: Option<Hook>) {
        if let Some(hook) = hook {
            let _ = self.0.set(hook);
        }
    }
}

#[async_trait]
impl TransactionHook for LateHook {
    async fn in_transaction(&self, conn: &mut PgConnection, drafts: &[&Draft]) -> Result<(), sqlx::Error> {
        match self.0.get() {
            Some(hook) => hook.in_transaction(conn, drafts).await,
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::path::Path;

    use super::*;
    use crate::alerts::store::Commit;

    fn settings(variables: &[(&str, &str)]) -> Settings {
        Settings::parse([] as [&str; 0], variables.iter().copied()).unwrap()
    }

    #[test]
    fn a_history_of_0_bytes_is_no_limit_in_a_database() {
        for (value, bytes) in [("", None), ("0", None), ("0GiB", None), ("1", Some(1)), ("20GiB", Some(20 << 30))] {
            let settings = settings(&[("HISTORY_MAX_BYTES", value)]);
            assert_eq!(database_history_bytes(settings.history_max_bytes), bytes, "{value}");
        }
    }

    #[test]
    fn requests_have_time_after_lingering_or_it_is_refused() {
        let limits = |limit: &str, linger: &str| connection_limits(&settings(&[("SHUTDOWN_TIMEOUT", limit), ("SHUTDOWN_LINGER", linger)]));
        for (limit, linger, drain_ms) in
            [("", "", 10_000), ("20s", "3s", 7_000), ("20s", "9s", 1_000), ("1m", "20s", 10_000), ("1s", "0s", 500)]
        {
            let limits = limits(limit, linger).unwrap();
            assert_eq!(limits.drain, Duration::from_millis(drain_ms), "{limit} {linger}");
        }
        assert_eq!(limits("20s", "3s").unwrap().linger, Duration::from_secs(3));
        for (limit, linger) in [("20s", "9001ms"), ("20s", "10s"), ("20s", "15s"), ("20s", "20s"), ("20s", "1h"), ("2s", "500ms")] {
            let error = limits(limit, linger).unwrap_err().to_string();
            assert!(error.starts_with("SHUTDOWN_LINGER=") && error.contains(" is too long for SHUTDOWN_TIMEOUT="), "{error}");
        }
    }

    #[test]
    fn late_reports_whose_samples_are_not_kept_are_warned_of() {
        for (raw, window, warned) in [("", "", false), ("1h", "", true), ("48h", "", false), ("47h", "48h", true), ("1h", "1h", false)] {
            let settings = settings(&[("RETENTION_RAW", raw), ("DEDUP_WINDOW", window)]);
            assert_eq!(keeps_less_than_it_accepts(&settings), warned, "{raw} {window}");
            assert!(lifetimes(&settings).is_ok());
        }
    }

    #[test]
    fn a_coarser_rollup_is_kept_for_at_least_as_long_as_a_finer_one() {
        assert!(lifetimes(&settings(&[])).is_ok());
        let error = lifetimes(&settings(&[("RETENTION_5M", "1d")])).unwrap_err().to_string();
        assert!(error.starts_with("RETENTION_5M=1d is shorter than RETENTION_RAW="), "{error}");
    }

    /// When rules were evaluated last, by the state of alerts beside this snapshot file.
    async fn evaluated_ms(snapshot: &Path) -> Result<i64, String> {
        let settings = settings(&[("FILE_STORAGE_PATH", snapshot.to_str().unwrap()), ("RESTORE", "true")]);
        let opened = tokio::task::spawn_blocking(move || {
            in_memory(&settings, lifetimes(&settings).unwrap(), &Registry::new(), &Clock::System).map_err(|error| error.to_string())
        });
        Ok(opened.await.unwrap()?.states.load().await.unwrap().evaluated_ms)
    }

    #[tokio::test]
    async fn the_state_of_alerts_is_read_when_the_process_before_has_let_go_of_the_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.json");
        let before = MemoryAlertStore::open(Some(Alerts::file_beside(&path)), true, Clock::System).unwrap();
        assert!(before.commit(Commit { at_ms: 1, ..Commit::default() }).await.unwrap());
        let lock = File::create(folder.path().join("m.json.lock")).unwrap();
        lock.lock().unwrap();
        let opening = tokio::spawn(async move { evaluated_ms(&path).await });
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(before.commit(Commit { at_ms: 2, ..Commit::default() }).await.unwrap());
        drop(lock);
        assert_eq!(opening.await.unwrap(), Ok(2));
    }

    #[tokio::test]
    async fn a_state_of_alerts_that_can_not_be_read_is_refused_with_a_sentence_and_gives_the_files_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.json");
        let alerts = Alerts::file_beside(&path);
        fs::write(&alerts, "{").unwrap();
        let text = evaluated_ms(&path).await.unwrap_err();
        assert!(text.contains("m.json.alerts") && text.contains("move the file away"), "{text}");
        fs::remove_file(alerts).unwrap();
        assert_eq!(evaluated_ms(&path).await, Ok(0));
    }
}
