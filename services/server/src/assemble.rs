//! From settings to the parts that handlers share.

use std::error::Error;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use golectra_process::listen::ConnectionMetrics;
use golectra_process::{Bytes, ConnectionLimits, Keys, Secret};
use prometheus::Registry;
use sqlx::PgConnection;
use tokio::sync::watch;

use crate::access::{ProxyAuth, Tokens};
use crate::alerts::store::AlertStore;
use crate::alerts::store::memory::MemoryAlertStore;
use crate::alerts::{self, Alerts};
use crate::audit::{AuditConfig, Backend, Draft, Hook, Trail};
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
use crate::metrics::postgres::{IndexCacheCollector, WriterMetrics};
use crate::metrics::{Borrowed, ServerMetrics};
use crate::store::memory::{AuditHook, MemoryConfig, MemoryStore};
use crate::store::postgres::{PostgresConfig, PostgresStore, READ_WAIT, TransactionHook, WriteLimits};
use crate::store::timed::Timed;
use crate::store::{Lifetimes, SeriesLimits, Store};

/// The memory that history may take in the memory store, unless HISTORY_MAX_BYTES says otherwise.
const MEMORY_HISTORY_BYTES: usize = 256 * 1024 * 1024;

/// What a server is made of.
pub struct Parts {
    /// What handlers share.
    pub state: AppState,
    /// The audit trail, where there is a sink.
    pub trail: Option<Trail>,
}

/// Opens the store and the audit trail. An error says what can't be used and what to do. Must be called inside a runtime.
pub fn parts(settings: &Settings, registry: &Registry, connections: &ConnectionMetrics) -> Result<Parts, Box<dyn Error>> {
    let clock = Clock::System;
    let keys = keys(settings)?;
    let Opened { store, trail, states } = if let Some(dsn) = &settings.database_dsn {
        in_postgres(settings, dsn, registry, &clock)?
    } else {
        in_memory(settings, registry, &clock)?
    };
    let metrics = ServerMetrics::register(registry)?;
    let tokens = settings.api_tokens_file.as_deref().map(Tokens::open).transpose()?;
    let proxy = proxy(settings)?;
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
        alerts: Alerts::open(settings, parts)?,
        signatures: Arc::new(Signatures::new(keys, settings.signatures, clock.clone(), metrics.clone())),
        ingest: Ingest::new(Arc::clone(&store), trail.clone(), metrics.clone(), clock.clone()),
        queries,
        process: ProcessInfo::new(settings, host_name(), clock),
        store,
        bodies: BodyLimits::new(settings.max_body_bytes.get(), settings.body_timeout.duration(), settings.max_inflight_bytes.get()),
        listings: ListingBudget::new(),
        max_batch_items: settings.max_batch_items,
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

/// The signing keys; an error when signatures are required and there is nothing to check them with.
fn keys(settings: &Settings) -> Result<Keys, Box<dyn Error>> {
    let keys = Keys::open(settings.key.as_ref(), settings.keys_dir.as_deref())?;
    if keys.ids().is_empty() {
        if settings.signatures == SignatureMode::Required {
            return Err("SIGNATURES=required needs a key: set KEY, or KEYS_DIR to a folder with a key in it".into());
        }
        if keys.has_folder() {
            tracing::warn!("KEYS_DIR has no key yet: signed requests are refused until it has");
        }
    }
    Ok(keys)
}

/// How proxies name people; an error when anybody could.
fn proxy(settings: &Settings) -> Result<Option<ProxyAuth>, Box<dyn Error>> {
    let Some(header) = settings.auth_header.clone() else { return Ok(None) };
    if settings.trusted_proxies.is_empty() {
        return Err(
            "AUTH_HEADER needs to know who may send it: set TRUSTED_PROXIES to the addresses of the proxy that signs people in".into()
        );
    }
    if settings.trusted_proxies.has_everyone() {
        let problem = "TRUSTED_PROXIES has a network of all addresses, so that everyone could name any user in AUTH_HEADER";
        return Err(format!("{problem}: set it to the addresses of the proxy that signs people in").into());
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

fn in_postgres(settings: &Settings, dsn: &Secret, registry: &Registry, clock: &Clock) -> Result<Opened, Box<dyn Error>> {
    let hook = Arc::new(LateHook::default());
    let config = PostgresConfig {
        dsn: dsn.clone(),
        lifetimes: lifetimes(settings)?,
        limits: series_limits(settings),
        write_limits: WriteLimits::default(),
        read_wait: READ_WAIT,
        connections: settings.database_connections,
        query_connections: settings.database_query_connections,
        query_timeout: settings.query_timeout.duration(),
        hook: Some(Arc::<LateHook>::clone(&hook)),
        metrics: WriterMetrics::register(registry)?,
        history_max_bytes: settings.history_max_bytes.map(|bytes| bytes.get() as u64),
        history: HistoryMetrics::register(registry)?,
        index_cache_bytes: settings.index_cache_bytes.get(),
        index_cache: IndexCacheCollector::register(registry)?,
    };
    let store = PostgresStore::open(config, clock.clone())?;
    let backend = Backend::Postgres { pool: store.pool().clone(), ready: ready(&store) };
    let trail = Trail::start(audit(settings), backend, registry, clock.clone())?;
    hook.set(trail.as_ref().and_then(Trail::hook));
    let states = store.alerts();
    Ok(Opened { store, trail, states })
}

fn in_memory(settings: &Settings, registry: &Registry, clock: &Clock) -> Result<Opened, Box<dyn Error>> {
    let trail = Trail::start(audit(settings), Backend::Memory, registry, clock.clone())?;
    let queue = trail.clone().map(|trail| -> AuditHook { Arc::new(move |draft| trail.queue(draft)) });
    let path = Some(settings.file_storage_path.clone()).filter(|path| !path.as_os_str().is_empty());
    let beside = path.as_deref().map(Alerts::file_beside);
    let states = MemoryAlertStore::open(beside.clone(), settings.restore, clock.clone());
    let states =
        states.map_err(|error| format!("the state of alerts in {} can't be read: {error}", beside.unwrap_or_default().display()))?;
    let config = MemoryConfig {
        path,
        store_interval: settings.store_interval.duration(),
        restore: settings.restore,
        lifetimes: lifetimes(settings)?,
        max_keys: settings.max_remembered_keys,
        limits: series_limits(settings),
        history_max_bytes: settings.history_max_bytes.map_or(MEMORY_HISTORY_BYTES, Bytes::get),
        audit: queue,
    };
    // Nothing is served yet that could wait for the files to be read.
    let store = MemoryStore::open(config, clock.clone())?;
    MemoryCollector::register(registry, Arc::clone(&store))?;
    Ok(Opened { store, trail, states: Arc::new(states) })
}

/// How long keys, history, series and sources live. What is coarser has to be there before what is finer goes.
fn lifetimes(settings: &Settings) -> Result<Lifetimes, Box<dyn Error>> {
    let (raw, five_minutes, hour) = (settings.retention_raw, settings.retention_5m, settings.retention_1h);
    for ((finer, finer_name), (coarser, coarser_name)) in
        [((raw, "RETENTION_RAW"), (five_minutes, "RETENTION_5M")), ((five_minutes, "RETENTION_5M"), (hour, "RETENTION_1H"))]
    {
        if coarser.duration() < finer.duration() {
            return Err(format!(
                "{coarser_name}={coarser} is shorter than {finer_name}={finer}: raise {coarser_name} or shorten {finer_name}"
            )
            .into());
        }
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

/// What queries may cost.
fn query_limits(settings: &Settings) -> QueryLimits {
    QueryLimits {
        concurrency: settings.query_concurrency.get(),
        timeout: settings.query_timeout.duration(),
        max_series: settings.query_max_series,
        max_bytes: settings.query_max_bytes.get(),
        log_after: settings.query_log_after.duration(),
    }
}

fn series_limits(settings: &Settings) -> SeriesLimits {
    SeriesLimits { total: settings.max_series, per_source: settings.max_series_per_source }
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
        // Nobody listens when there is no sink.
        let _ = sender.send(true);
    });
    receiver
}

/// What a connection may cost.
pub fn connection_limits(settings: &Settings) -> ConnectionLimits {
    ConnectionLimits {
        headers: settings.header_timeout.duration(),
        idle: settings.idle_timeout.duration(),
        max_connections: settings.max_connections,
        drain: settings.shutdown_timeout.duration() / 2,
        linger: settings.shutdown_linger.duration(),
        ..ConnectionLimits::default()
    }
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
