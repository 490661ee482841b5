//! Whom alerts are told: RECEIVERS_FILE, which is read again when it changes.

mod client;
mod deliver;
mod email;
mod file;
mod payload;
mod quiet_hours;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

pub use self::client::{DeliveryError, Sender, http_client};
pub use self::deliver::Deliveries;
use self::email::Email;
pub use self::file::{ReceiversError, checked};
pub use self::quiet_hours::{QuietHours, RawQuietHours, held_up_to};

/// How often the file is looked at.
const EVERY: Duration = Duration::from_secs(5);

/// A receiver of notifications.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receiver {
    /// Its name.
    pub name: String,
    /// What it is and where.
    pub target: Target,
    /// It is told of alerts of at least this severity.
    pub min_severity: Severity,
    /// Alerts that begin or end together are one notification where they have these labels alike.
    pub group_by: Vec<String>,
    /// When it is told again of an alert that goes on firing.
    pub repeat: Repeat,
    /// Whether it is told when alerts end.
    pub send_resolved: bool,
    /// When it is told of nothing but what is critical.
    pub quiet_hours: Vec<QuietHours>,
}

/// What a receiver is. Secrets are read from their files when they are needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// An Alertmanager: `POST /api/v2/alerts`.
    Alertmanager {
        /// Where it is, without that path.
        url: Address,
        /// What it asks for.
        access: Access,
    },
    /// A webhook that gets what Alertmanager's webhooks get.
    Webhook {
        /// Where.
        url: Address,
        /// The key of signatures (Standard Webhooks).
        key_file: Option<PathBuf>,
        /// What it asks for.
        access: Access,
    },
    /// Slack, or what takes the same messages.
    Slack {
        /// Where.
        url: Address,
    },
    /// A topic of ntfy.
    Ntfy {
        /// The topic's address.
        url: Address,
        /// What it asks for.
        access: Access,
    },
    /// Mailboxes, over a mail server.
    Email(Email),
}

impl Target {
    /// What it is, as the file names it.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Alertmanager { .. } => "alertmanager",
            Self::Webhook { .. } => "webhook",
            Self::Slack { .. } => "slack",
            Self::Ntfy { .. } => "ntfy",
            Self::Email(_) => "email",
        }
    }
}

/// An address, or the file that has one which is a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// One that anybody may see.
    Plain(String),
    /// One that is a secret.
    File(PathBuf),
}

/// What a receiver asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// Nothing.
    Open,
    /// A bearer token.
    Token(PathBuf),
    /// A user's name and password.
    Password(String, PathBuf),
}

/// How bad an alert is, by its label `severity`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It is no problem.
    None,
    /// It is good to know.
    Info,
    /// It needs somebody.
    Warning,
    /// It needs somebody now.
    Critical,
}

impl Severity {
    /// The severity that a label stands for. An alert without one is a warning; a word that is not known may mean anything.
    pub fn of_label(label: &str) -> Self {
        match label {
            "none" => Self::None,
            "info" => Self::Info,
            "warning" | "" => Self::Warning,
            _ => Self::Critical,
        }
    }

    /// What files and labels call it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }

    /// Whether an alert with this label is at least as bad.
    pub fn covers(self, label: &str) -> bool {
        Self::of_label(label) >= self
    }
}

/// When a receiver is told again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// Every minute, with the time until which it is to be believed.
    Alertmanager,
    /// After this long.
    After(Duration),
}

/// The receivers, kept up to date. Clones share them.
#[derive(Clone)]
pub struct ReceiverBook(Arc<Shared>);

struct Shared {
    path: Option<PathBuf>,
    current: watch::Sender<Arc<[Receiver]>>,
    last: Mutex<(String, Option<String>)>,
}

impl ReceiverBook {
    /// Reads the file. One that can't be read is an error. While something in it is wrong, nobody is told: a server that did not start for that would take
    /// no reports either.
    pub fn open(path: Option<&Path>) -> Result<Self, ReceiversError> {
        let (receivers, last) = match path.map(file::read).transpose() {
            Ok(found) => found.map(|(receivers, text)| (receivers, (text, None))).unwrap_or_default(),
            Err(error @ ReceiversError::Read(..)) => return Err(error),
            Err(error) => {
                let problem = error.to_string();
                tracing::error!("{problem}: no receiver is told of alerts until the file is mended");
                (Vec::new(), (String::new(), Some(problem)))
            }
        };
        let (current, _) = watch::channel(receivers.into());
        Ok(Self(Arc::new(Shared { path: path.map(Path::to_path_buf), current, last: Mutex::new(last) })))
    }

    /// Whether the file is refused, so that it is not known which receivers there are.
    pub fn is_refused(&self) -> bool {
        self.problem().is_some()
    }

    /// Whether the file is refused and no receiver is known from before, so that nobody is told of alerts.
    pub fn is_unusable(&self) -> bool {
        self.is_refused() && self.current().is_empty()
    }

    /// What is wrong with the file.
    pub fn problem(&self) -> Option<String> {
        self.0.last.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
    }

    /// The receivers as they are now.
    pub fn current(&self) -> Arc<[Receiver]> {
        Arc::clone(&self.0.current.borrow())
    }

    /// Tells of changes.
    pub fn changes(&self) -> watch::Receiver<Arc<[Receiver]>> {
        self.0.current.subscribe()
    }

    /// Looks at the file from time to time. Never returns where there is one.
    pub async fn watch(self) {
        if self.0.path.is_none() {
            return;
        }
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let book = self.clone();
            let _ = tokio::task::spawn_blocking(move || book.look()).await;
        }
    }

    fn look(&self) {
        let Some(path) = &self.0.path else { return };
        let found = file::read(path);
        let mut last = self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
        match found {
            Ok((_, text)) if text == last.0 && last.1.is_none() => {}
            Ok((receivers, text)) => {
                tracing::info!(receivers = receivers.len(), "the receivers of alerts are read from RECEIVERS_FILE");
                self.0.current.send_replace(receivers.into());
                *last = (text, None);
            }
            Err(error) => {
                let problem = error.to_string();
                if last.1.as_ref() != Some(&problem) {
                    tracing::error!("{problem}: the receivers that were read before go on being used");
                }
                last.1 = Some(problem);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn severities_have_an_order() {
        for (label, told) in [("none", Severity::None), ("info", Severity::Info), ("", Severity::Warning), ("warning", Severity::Warning)] {
            assert_eq!(Severity::of_label(label), told);
        }
        assert!(Severity::Warning.covers("critical") && Severity::Warning.covers("page") && !Severity::Warning.covers("info"));
    }

    #[test]
    fn a_server_starts_with_a_bad_file_and_takes_it_when_it_is_mended() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "receivers:\n- name: a\n  webhook: {url: 'http://h/'}\n  min_severity: warn\n").unwrap();
        let book = ReceiverBook::open(Some(file.path())).unwrap();
        book.look();
        assert!(book.is_refused() && book.is_unusable() && book.current().is_empty());
        std::fs::write(file.path(), "receivers:\n- name: a\n  webhook: {url: 'http://h/'}\n").unwrap();
        book.look();
        assert_eq!((book.is_refused(), book.is_unusable(), book.current().len()), (false, false, 1));
    }

    #[test]
    fn a_file_that_becomes_bad_changes_nothing() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let write = |text: &str| std::fs::write(file.path(), text).unwrap();
        write("receivers:\n- name: a\n  webhook: {url: 'http://h/'}\n");
        let book = ReceiverBook::open(Some(file.path())).unwrap();
        let names = || book.current().iter().map(|receiver| receiver.name.clone()).collect::<Vec<_>>();
        write("receivers: 1");
        book.look();
        assert_eq!((names(), book.is_refused(), book.is_unusable()), (vec!["a".to_owned()], true, false));
        write("receivers:\n- name: b\n  webhook: {url: 'http://h/'}\n");
        book.look();
        assert_eq!(names(), ["b"]);
        assert!(!book.is_refused() && ReceiverBook::open(None).unwrap().current().is_empty());
        assert!(ReceiverBook::open(Some(Path::new("/nonexistent"))).is_err());
    }
}
