//! Alerts: rules are evaluated, their state is kept, and receivers are told of what changes.
//!
//! - `rules` says which rules there are: those built in, and those of RULES_DIR.
//! - `evaluator` evaluates them on one server at a time; `advance` is one step of one rule, `planner` decides whom to tell.
//! - `store` keeps the state and what waits for receivers, where all servers find it.
//! - `receivers` delivers.

mod advance;
#[cfg(test)]
mod built_in_tests;
mod evaluator;
mod heartbeat;
mod links;
mod notification;
mod planner;
mod receivers;
mod rules;
mod series;
mod silences;
mod state;
pub mod store;
mod template;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use golectra_process::Shutdown;
use prometheus::Registry;
use tokio::sync::{Mutex, Notify, watch};
use tokio::task::JoinHandle;
use uuid::Uuid;

use self::evaluator::Evaluator;
use self::heartbeat::Heartbeat;
use self::links::Links;
use self::notification::NotifiedAlert;
use self::receivers::{Deliveries, Sender};
use self::rules::{RULES_DIR, RuleBook};
use self::series::SeriesWriter;
use self::store::AlertStore;
use crate::clock::Clock;
use crate::config::Settings;
use crate::folder::FileError;
use crate::history::query::Queries;
use crate::metrics::alerts::AlertMetrics;
use crate::store::{Store, StoreError};

pub use self::evaluator::count;
pub use self::notification::Notification;
pub use self::receivers::{DeliveryError, RawQuietHours, Receiver, ReceiverBook, ReceiversError, Severity, held_up_to};
pub use self::rules::{Rule, RuleGroup, RuleKind, RuleSet};
pub use self::state::{AlertState, GroupState, Phase, RuleState, Silence, SilenceMatcher, Stored, Texts};
pub use self::store::Waiting;
pub use self::template::Template;

/// The rule that fires for nodes that were stopped.
pub const STOPPED_RULE: &str = "NodeGone";

/// Whether an alert of this name and severity is a problem. The watchdog is none: it always fires and shows that alerts arrive. Nor is a node that was
/// stopped, as long as its rule is an info: the table of nodes shows it.
pub fn is_problem(name: &str, severity: &str) -> bool {
    severity != "none" && (name != STOPPED_RULE || Severity::of_label(severity) > Severity::Info)
}

/// An alert that is pending or firing, as pages show it.
#[derive(Debug, Clone, PartialEq)]
pub struct ActiveAlert {
    /// The rule's name.
    pub name: String,
    /// Its label `severity`: `critical`, `warning`, `info`, `none`, or what a rule says; empty where it says none.
    pub severity: String,
    /// Pending or firing.
    pub phase: Phase,
    /// Since when its expression gives a result, in unix milliseconds.
    pub since_ms: i64,
    /// All of its labels, by name.
    pub labels: Texts,
    /// One sentence.
    pub summary: String,
    /// What is known of it.
    pub description: String,
    /// Where it is said what to do; empty where that is not said.
    pub runbook_url: String,
    /// The value of its expression.
    pub value: f64,
    /// Whether a silence holds it.
    pub silenced: bool,
}

/// What is shown of the state: read by everybody, set by the evaluation or, on other servers, read from the store.
#[derive(Clone, Default)]
pub struct View {
    stored: Arc<RwLock<Arc<Stored>>>,
    /// How many alerts are pending and how many fire.
    counts: watch::Sender<(usize, usize)>,
}

impl View {
    fn get(&self) -> Arc<Stored> {
        Arc::clone(&self.stored.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn set(&self, stored: Stored) {
        let counts = (count(&stored, Phase::Pending), count(&stored, Phase::Firing));
        *self.stored.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(stored);
        self.counts.send_if_modified(|before| std::mem::replace(before, counts) != counts);
    }

    /// Reads it from the store; when that does not answer, what was there before stays.
    async fn refresh(&self, states: &dyn AlertStore) {
        if let Ok(stored) = states.load().await {
            self.set(stored);
        }
    }
}

/// What alerts need of the rest of the server.
pub struct Parts {
    /// Where series are written and sources are known.
    pub store: Arc<dyn Store>,
    /// Where the state is.
    pub states: Arc<dyn AlertStore>,
    /// How expressions are evaluated.
    pub queries: Queries,
    /// The server's metrics, of which rules watch some.
    pub registry: Registry,
    /// What this server is called.
    pub instance: String,
    /// Tells the time of signatures.
    pub clock: Clock,
}

/// The alerts of this server. Clones share them.
#[derive(Clone)]
pub struct Alerts(Arc<Inner>);

struct Inner {
    book: RuleBook,
    receivers: ReceiverBook,
    states: Arc<dyn AlertStore>,
    view: View,
    interval: Duration,
    evaluator: Arc<Evaluator>,
    deliveries: Deliveries,
    heartbeat: Option<Arc<Heartbeat>>,
    links: Links,
    clock: Clock,
}

/// Why alerts can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum AlertsError {
    /// The receivers can't be used.
    #[error(transparent)]
    Receivers(#[from] ReceiversError),
    /// The heartbeat can't be sent.
    #[error("HEARTBEAT_URL: {0}")]
    Heartbeat(String),
    /// The metrics can't be registered.
    #[error("the metrics of alerts can't be registered: {0}")]
    Metrics(#[from] prometheus::Error),
}

impl Alerts {
    /// Reads rules and receivers. Nothing is evaluated before [`Self::start`].
    pub fn open(settings: &Settings, parts: Parts) -> Result<Self, AlertsError> {
        let Parts { store, states, queries, registry, instance, clock } = parts;
        let metrics = AlertMetrics::register(&registry)?;
        let book = RuleBook::open(settings.rules_dir.as_deref(), settings.built_in_rules_disabled.names());
        let receivers = ReceiverBook::open(settings.receivers_file.as_deref())?;
        let (view, wake, interval) = (View::default(), Arc::new(Notify::new()), settings.evaluation_interval.duration());
        let links = Links::new(settings.external_url.clone());
        let evaluated = watch::Sender::new(None);
        let heartbeat = Heartbeat::new(settings, metrics.clone(), evaluated.clone()).map_err(AlertsError::Heartbeat)?;
        // Whoever is told of alerts is told of golectra's own, which need these series.
        let always = settings.rules_dir.is_some() || settings.receivers_file.is_some();
        let evaluator = Arc::new(Evaluator {
            book: book.clone(),
            receivers: receivers.clone(),
            states: Arc::clone(&states),
            queries,
            series: SeriesWriter { store, registry, instance, always, enabled: AtomicBool::new(always), own: Mutex::default() },
            interval,
            metrics: metrics.clone(),
            view: view.clone(),
            wake: Arc::clone(&wake),
            recorded: Mutex::default(),
            waited_after_ms: AtomicI64::new(i64::MIN),
            fails: AtomicBool::new(false),
            evaluated,
            links: links.clone(),
        });
        let (clock_of_signatures, to) = (clock.clone(), receivers.clone());
        let deliveries = Deliveries { states: Arc::clone(&states), receivers: to, metrics, wake, clock: clock_of_signatures };
        Ok(Self(Arc::new(Inner {
            book,
            receivers,
            states,
            view,
            interval,
            evaluator,
            deliveries,
            heartbeat: heartbeat.map(Arc::new),
            links,
            clock,
        })))
    }

    /// Evaluates and delivers until the shutdown begins. With an interval of 0 nothing is evaluated. What this returns ends with the deliveries that are under
    /// way then.
    pub fn start(&self, shutdown: &Shutdown) -> JoinHandle<()> {
        let spawn = |task: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
            shutdown.spawn(shutdown.token().run_until_cancelled_owned(task));
        };
        if !self.0.interval.is_zero() {
            spawn(Box::pin(self.0.book.clone().watch()));
            let evaluator = Arc::clone(&self.0.evaluator);
            spawn(Box::pin(async move { evaluator.run().await }));
            if let Some(heartbeat) = self.0.heartbeat.clone() {
                spawn(Box::pin(async move { heartbeat.run().await }));
            }
        }
        spawn(Box::pin(self.0.receivers.clone().watch()));
        shutdown.spawn(self.0.deliveries.clone().run(shutdown.token()))
    }

    /// The alerts that are pending or firing as of the last look: firing ones first, the worst first, then those that are there for longest.
    pub fn active(&self) -> Vec<ActiveAlert> {
        let stored = self.0.view.get();
        let silences = silences::Silences::at(&stored.silences, self.0.states.now_ms());
        let alerts = stored.groups.iter().flat_map(|group| &group.rules).flat_map(|rule| &rule.alerts);
        let mut active: Vec<ActiveAlert> = alerts
            .filter(|alert| alert.phase != Phase::Inactive)
            .map(|alert| {
                let annotation = |name: &str| alert.annotations.get(name).cloned().unwrap_or_default();
                ActiveAlert {
                    name: alert.label(advance::ALERT_NAME).to_owned(),
                    severity: alert.label("severity").to_owned(),
                    phase: alert.phase,
                    since_ms: alert.active_ms,
                    labels: alert.labels.clone(),
                    summary: annotation("summary"),
                    description: annotation("description"),
                    runbook_url: annotation("runbook_url"),
                    value: alert.value,
                    silenced: silences.silence(alert),
                }
            })
            .collect();
        let rank = |alert: &ActiveAlert| {
            (std::cmp::Reverse(alert.phase), std::cmp::Reverse(receivers::Severity::of_label(&alert.severity)), alert.since_ms)
        };
        active.sort_by(|a, b| rank(a).cmp(&rank(b)).then_with(|| a.labels.cmp(&b.labels)));
        active
    }

    /// How many alerts fire as of the last look that are problems and that nobody has silenced.
    pub fn firing(&self) -> usize {
        let stored = self.0.view.get();
        let silences = silences::Silences::at(&stored.silences, self.0.states.now_ms());
        let alerts = stored.groups.iter().flat_map(|group| &group.rules).flat_map(|rule| &rule.alerts);
        let is_problem = |alert: &AlertState| is_problem(alert.label(advance::ALERT_NAME), alert.label("severity"));
        alerts.filter(|alert| alert.phase == Phase::Firing && is_problem(alert) && !silences.silence(alert)).count()
    }

    /// Changes when alerts begin or end, as far as that is seen here.
    pub fn changes(&self) -> watch::Receiver<(usize, usize)> {
        self.0.view.counts.subscribe()
    }

    /// The rules as this server knows them.
    pub fn rules(&self) -> Arc<RuleSet> {
        self.0.book.current()
    }

    /// How often rules are evaluated.
    pub fn interval(&self) -> Duration {
        self.0.interval
    }

    /// The state as the store has it.
    pub async fn stored(&self) -> Result<Arc<Stored>, StoreError> {
        let stored = self.0.states.load().await?;
        self.0.view.set(stored);
        Ok(self.0.view.get())
    }

    /// The time by which rules are evaluated, in unix milliseconds.
    pub fn now_ms(&self) -> i64 {
        self.0.states.now_ms()
    }

    /// The alerts of whose beginning or end quiet hours keep this receiver from being told, as of the last look.
    pub fn held(&self, receiver: &Receiver) -> Vec<AlertState> {
        let stored = self.0.view.get();
        planner::held(&stored.groups, &stored.silences, receiver, self.now_ms()).into_iter().cloned().collect()
    }

    /// The receivers.
    pub fn receivers(&self) -> Arc<[Receiver]> {
        self.0.receivers.current()
    }

    /// Sentences about what of RULES_DIR and RECEIVERS_FILE is refused.
    pub fn refused_files(&self) -> Vec<String> {
        let rules = self.rules();
        let sentence = |error: &FileError| match error.file.as_str() {
            RULES_DIR => format!("{RULES_DIR} is refused as a whole: {}.", error.problem),
            _ => format!("A file of {RULES_DIR} is refused: {error}."),
        };
        let mut sentences: Vec<_> = rules.refused.iter().map(sentence).collect();
        if let Some(problem) = self.0.receivers.problem() {
            let meanwhile = if self.receivers().is_empty() {
                "no receiver is told of alerts until the file is mended"
            } else {
                "the receivers that were read before go on being used"
            };
            sentences.push(format!("{problem}: {meanwhile}."));
        }
        sentences
    }

    /// Sends a notification that says it is a test; none if there is no such receiver.
    pub async fn test_receiver(&self, name: &str) -> Option<Result<(), DeliveryError>> {
        let receivers = self.0.receivers.current();
        let receiver = receivers.iter().find(|receiver| receiver.name == name)?;
        let now_ms = self.now_ms();
        let text = |pairs: &[(&str, &str)]| pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<Texts>();
        let alert = NotifiedAlert {
            labels: text(&[("alertname", "ReceiverTest"), ("severity", "info"), ("receiver", name)]),
            annotations: text(&[
                ("summary", "This is a test of this receiver."),
                ("description", "Nothing is wrong, and nothing is to be done."),
            ]),
            firing: true,
            starts_ms: now_ms,
            ends_ms: now_ms + 60_000,
            value: "1".to_owned(),
            generator_url: self.0.links.explore("vector(1)"),
        };
        let notification = Notification {
            id: Uuid::now_v7(),
            receiver: name.to_owned(),
            created_ms: now_ms,
            expires_ms: now_ms + 60_000,
            group: text(&[("alertname", "ReceiverTest")]),
            alerts: vec![alert],
            others_firing: 0,
            external_url: self.0.links.root().to_owned(),
        };
        let sender = Sender::new(receiver.clone(), self.0.clock.clone());
        Some(match sender {
            Ok(sender) => sender.send(&notification).await,
            Err(reason) => Err(DeliveryError::Failed { reason, retry_after: None }),
        })
    }

    /// Keeps a silence under a new id. The error says what is wrong with it.
    pub async fn add_silence(&self, mut silence: Silence) -> Result<Result<Uuid, String>, StoreError> {
        silence.id = Uuid::now_v7();
        if let Err(problem) = silences::check(&silence) {
            return Ok(Err(problem));
        }
        let id = silence.id;
        let added = self.0.states.add_silence(silence).await?;
        Ok(if added { Ok(id) } else { Err(format!("there are {} silences, which is the most", store::MAX_SILENCES)) })
    }

    /// Ends a silence now; false if there is none that could be ended.
    pub async fn end_silence(&self, id: Uuid) -> Result<bool, StoreError> {
        self.0.states.end_silence(id, self.now_ms()).await
    }

    /// Where the memory store's state of alerts stands beside its snapshot.
    pub fn file_beside(snapshot: &std::path::Path) -> PathBuf {
        let mut path = snapshot.as_os_str().to_owned();
        path.push(".alerts");
        PathBuf::from(path)
    }
}
