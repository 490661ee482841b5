//! The file of receivers.

use std::fs::File;
use std::io::Read as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use golectra_promql::parse::parse_duration;
use lettre::message::Mailbox;
use serde::Deserialize;
use serde_saphyr::Spanned;

use super::email::{Email, Login, Tls, User};
use super::quiet_hours::{MAX_ENTRIES, QuietHours, RawQuietHours};
use super::{Access, Address, Receiver, Repeat, Severity, Target};

/// The largest file.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Each has a task and connections of its own.
const MAX_RECEIVERS: usize = 50;
/// The most addresses that mail goes to.
const MAX_RECIPIENTS: usize = 50;
/// The longest name, in bytes.
const MAX_NAME_BYTES: usize = 64;
/// After how long a receiver is told again, if the file says nothing else: as in Alertmanager.
const REPEAT: Duration = Duration::from_hours(4);
/// The shortest time after which a receiver is told again.
const MIN_REPEAT: Duration = Duration::from_mins(1);

/// Why the file can't be used. What may be a secret is not shown.
#[derive(Debug, thiserror::Error)]
pub enum ReceiversError {
    /// It can't be read.
    #[error("RECEIVERS_FILE {0:?} can't be read: {1}")]
    Read(PathBuf, std::io::Error),
    /// It is too large.
    #[error("RECEIVERS_FILE {0:?} is larger than 1 MiB")]
    TooLarge(PathBuf),
    /// Something in it is wrong.
    #[error("RECEIVERS_FILE {path:?}, line {line}: {problem}")]
    Content {
        /// The file.
        path: PathBuf,
        /// The line, from 1; 0 where it is not known.
        line: u64,
        /// What is wrong.
        problem: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    #[serde(default)]
    quiet_hours: Vec<Spanned<RawQuietHours>>,
    #[serde(default)]
    receivers: Vec<RawReceiver>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawReceiver {
    name: Spanned<String>,
    min_severity: Option<Severity>,
    group_by: Option<Vec<String>>,
    repeat_interval: Option<Spanned<String>>,
    send_resolved: Option<bool>,
    quiet_hours: Option<Vec<Spanned<RawQuietHours>>>,
    alertmanager: Option<Spanned<RawTarget>>,
    webhook: Option<Spanned<RawTarget>>,
    slack: Option<Spanned<RawTarget>>,
    ntfy: Option<Spanned<RawTarget>>,
    email: Option<Spanned<RawEmail>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTarget {
    url: Option<Spanned<String>>,
    url_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    token_file: Option<PathBuf>,
    username: Option<String>,
    password_file: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEmail {
    host: String,
    port: Option<u16>,
    tls: Option<Tls>,
    ca_file: Option<PathBuf>,
    from: String,
    to: Vec<String>,
    username: Option<String>,
    username_file: Option<PathBuf>,
    password_file: Option<PathBuf>,
}

/// The receivers, and the file's text.
pub(super) fn read(path: &Path) -> Result<(Vec<Receiver>, String), ReceiversError> {
    let mut content = Vec::new();
    let file = File::open(path).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut content));
    file.map_err(|error| ReceiversError::Read(path.into(), error))?;
    if content.len() as u64 > MAX_FILE_BYTES {
        return Err(ReceiversError::TooLarge(path.into()));
    }
    let text = String::from_utf8_lossy(&content).into_owned();
    let problem = |(line, problem)| ReceiversError::Content { path: path.into(), line, problem };
    Ok((parse(&text).map_err(problem)?, text))
}

type Problem = (u64, String);

fn parse(text: &str) -> Result<Vec<Receiver>, Problem> {
    let options = serde_saphyr::options! { with_snippet: false };
    let raw: RawFile = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let line = error.location().map_or(0, |location| location.line());
        (line, error.to_string())
    })?;
    if raw.receivers.len() > MAX_RECEIVERS {
        return Err((0, format!("there are more than {MAX_RECEIVERS} receivers")));
    }
    let shared = quiet_hours(raw.quiet_hours)?;
    let mut receivers = Vec::<Receiver>::with_capacity(raw.receivers.len());
    for raw in raw.receivers {
        let line = raw.name.referenced.line();
        let receiver = receiver(raw, &shared)?;
        if receivers.iter().any(|other| other.name == receiver.name) {
            return Err((line, format!("the receiver {:?} is there twice", receiver.name)));
        }
        receivers.push(receiver);
    }
    Ok(receivers)
}

fn quiet_hours(raw: Vec<Spanned<RawQuietHours>>) -> Result<Vec<QuietHours>, Problem> {
    if let Some(first) = raw.get(MAX_ENTRIES) {
        return Err((first.referenced.line(), format!("there are more than {MAX_ENTRIES} quiet_hours")));
    }
    let entry = |raw: Spanned<RawQuietHours>| {
        let line = raw.referenced.line();
        QuietHours::new(raw.value).map_err(|problem| (line, format!("quiet_hours: {problem}")))
    };
    raw.into_iter().map(entry).collect()
}

fn receiver(raw: RawReceiver, shared: &[QuietHours]) -> Result<Receiver, Problem> {
    let (name, line) = (raw.name.value, raw.name.referenced.line());
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if !(1..=MAX_NAME_BYTES).contains(&name.len()) || !name.bytes().all(is_plain) {
        return Err((line, "a receiver's name has 1 to 64 letters, digits or . _ -".to_owned()));
    }
    let over_http = [("alertmanager", raw.alertmanager), ("webhook", raw.webhook), ("slack", raw.slack), ("ntfy", raw.ntfy)];
    let over_http = over_http.into_iter().filter_map(|(kind, raw)| raw.map(|raw| (raw.referenced.line(), target(kind, raw.value))));
    let email = raw.email.map(|raw| (raw.referenced.line(), email(raw.value).map(Target::Email)));
    let mut given = over_http.chain(email);
    let (Some((target_line, target)), None) = (given.next(), given.next()) else {
        return Err((line, format!("the receiver {name:?} needs one of alertmanager, webhook, slack, ntfy and email")));
    };
    let target = target.map_err(|problem| (target_line, format!("the receiver {name:?}: {problem}")))?;
    let is_alertmanager = matches!(target, Target::Alertmanager { .. });
    let repeat = match raw.repeat_interval {
        Some(text) if is_alertmanager => {
            return Err((
                text.referenced.line(),
                "an Alertmanager is told every minute and repeats by its own settings: repeat_interval has no meaning here".to_owned(),
            ));
        }
        Some(text) => {
            let interval =
                parse_duration(&text.value).map(|ms| Duration::from_millis(ms.unsigned_abs())).filter(|interval| *interval >= MIN_REPEAT);
            Repeat::After(interval.ok_or_else(|| (text.referenced.line(), format!("{:?} is no duration of at least 1m", text.value)))?)
        }
        None if is_alertmanager => Repeat::Alertmanager,
        None => Repeat::After(REPEAT),
    };
    let quiet_hours = match raw.quiet_hours {
        Some(own) if is_alertmanager => match own.first() {
            Some(first) => {
                let problem = "an Alertmanager takes an alert that it is not told of for one that has ended: use its mute_time_intervals";
                return Err((first.referenced.line(), problem.to_owned()));
            }
            None => Vec::new(),
        },
        Some(own) => self::quiet_hours(own)?,
        None if is_alertmanager => Vec::new(),
        None => shared.to_vec(),
    };
    Ok(Receiver {
        name,
        target,
        min_severity: raw.min_severity.unwrap_or(if is_alertmanager { Severity::None } else { Severity::Warning }),
        // An Alertmanager groups by itself.
        group_by: raw.group_by.unwrap_or_else(|| if is_alertmanager { Vec::new() } else { vec!["alertname".to_owned()] }),
        repeat,
        send_resolved: raw.send_resolved.unwrap_or(true),
        quiet_hours,
    })
}

fn target(kind: &str, raw: RawTarget) -> Result<Target, String> {
    let url = match (raw.url, raw.url_file) {
        (Some(_), None) if kind == "slack" => {
            return Err("the address of slack is a secret: put it into a file and name that as url_file".to_owned());
        }
        (Some(url), None) => {
            let text = checked(&url.value)?;
            if kind == "ntfy" && reqwest::Url::parse(text).is_ok_and(|url| url.path().trim_matches('/').is_empty()) {
                return Err("the url of ntfy must end in a topic, such as https://ntfy.sh/my-topic".to_owned());
            }
            Address::Plain(text.to_owned())
        }
        (None, Some(file)) => Address::File(file),
        _ => return Err("it needs either url or url_file".to_owned()),
    };
    let access = match (raw.token_file, raw.username, raw.password_file) {
        (None, None, None) => Access::Open,
        (Some(token), None, None) => Access::Token(token),
        (None, Some(user), Some(password)) => Access::Password(user, password),
        _ => return Err("it has either token_file, or username and password_file, or none of them".to_owned()),
    };
    if raw.key_file.is_some() && kind != "webhook" {
        return Err("only a webhook has a key_file".to_owned());
    }
    Ok(match kind {
        "alertmanager" => Target::Alertmanager { url, access },
        "webhook" => Target::Webhook { url, key_file: raw.key_file, access },
        "ntfy" => Target::Ntfy { url, access },
        _ if access != Access::Open => return Err("slack asks for nothing but its address".to_owned()),
        _ => Target::Slack { url },
    })
}

fn email(raw: RawEmail) -> Result<Email, String> {
    let tls = raw.tls.unwrap_or(Tls::StartTls);
    let is_plain = |char: char| char.is_ascii_alphanumeric() || ".-_:".contains(char);
    if raw.host.is_empty() || !raw.host.chars().all(is_plain) {
        return Err("the host must be the name or address of a mail server, with its port as port".to_owned());
    }
    if tls == Tls::None && !is_loopback(&raw.host) {
        return Err("with tls: none the host must be localhost or another address of this machine: use starttls or tls".to_owned());
    }
    let mailbox = |text: &str| {
        let parsed = text.parse::<Mailbox>();
        parsed.map_err(|_| format!("{text:?} is no address of mail such as ops@example.com or \"Ops <ops@example.com>\""))
    };
    if !(1..=MAX_RECIPIENTS).contains(&raw.to.len()) {
        return Err(format!("mail goes to 1 to {MAX_RECIPIENTS} addresses: name them as to"));
    }
    let user = match (raw.username, raw.username_file) {
        (Some(name), None) => Some(User::Plain(name)),
        (None, Some(file)) => Some(User::File(file)),
        (None, None) => None,
        (Some(_), Some(_)) => return Err("it has either username or username_file".to_owned()),
    };
    let login = match (user, raw.password_file) {
        (None, None) => None,
        (Some(user), Some(password_file)) => Some(Login { user, password_file }),
        _ => return Err("a user (username or username_file) and a password_file belong together".to_owned()),
    };
    Ok(Email {
        port: raw.port.unwrap_or(tls.port()),
        tls,
        ca_file: raw.ca_file,
        from: mailbox(&raw.from)?,
        to: raw.to.iter().map(|text| mailbox(text)).collect::<Result<_, _>>()?,
        login,
        host: raw.host,
    })
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// An address that can be called and that has no password in it.
pub fn checked(text: &str) -> Result<&str, String> {
    let url = reqwest::Url::parse(text).map_err(|error| format!("the url is no address such as https://example.com/path: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("the url must begin with http:// or https://".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("the url must not have a user or a password: use username and password_file".to_owned());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_whom_to_tell_and_when() {
        let text = "receivers:\n- name: am\n  alertmanager: {url: 'http://alertmanager:9093', token_file: /s/token}\n- name: hook\n  webhook: {url: 'https://h/x', key_file: /s/key, username: me, password_file: /s/p}\n  min_severity: critical\n  group_by: []\n  repeat_interval: 30m\n  send_resolved: false\n- name: chat\n  slack: {url_file: /s/slack}\n- name: phone\n  ntfy: {url: 'https://ntfy.sh/topic'}\n- name: mail\n  email: {host: smtp.example.com, from: 'golectra <g@example.com>', to: [a@example.com], username: me, password_file: /s/p}\n";
        let receivers = parse(text).unwrap();
        assert_eq!(
            receivers[0],
            Receiver {
                name: "am".into(),
                target: Target::Alertmanager {
                    url: Address::Plain("http://alertmanager:9093".into()),
                    access: Access::Token("/s/token".into())
                },
                min_severity: Severity::None,
                group_by: Vec::new(),
                repeat: Repeat::Alertmanager,
                send_resolved: true,
                quiet_hours: Vec::new(),
            }
        );
        let hook = &receivers[1];
        assert_eq!(
            (hook.min_severity, hook.repeat, hook.send_resolved),
            (Severity::Critical, Repeat::After(Duration::from_mins(30)), false)
        );
        assert_eq!(
            (receivers[2].target.kind(), receivers[2].min_severity, receivers[2].repeat),
            ("slack", Severity::Warning, Repeat::After(REPEAT))
        );
        assert_eq!(receivers[3].group_by, ["alertname"]);
        let Target::Email(email) = &receivers[4].target else { panic!("{:?}", receivers[4]) };
        assert_eq!((email.port, email.tls, email.to.len()), (587, Tls::StartTls, 1));
        assert_eq!(email.login, Some(Login { user: User::Plain("me".into()), password_file: "/s/p".into() }));
        let port_of = |tls: &str| {
            let text =
                format!("receivers:\n- name: m\n  email: {{host: localhost, tls: {tls}, from: g@example.com, to: [a@example.com]}}\n");
            let Target::Email(email) = parse(&text).unwrap().remove(0).target else { panic!("{text}") };
            email.port
        };
        assert_eq!((port_of("tls"), port_of("none")), (465, 25));
        assert!(parse("receivers: []").unwrap().is_empty());
    }

    #[test]
    fn quiet_hours_are_those_of_the_file_or_of_the_receiver() {
        let text = "quiet_hours:\n- {from: '22:00', to: '07:00'}\nreceivers:\n- name: shared\n  webhook: {url: 'http://h/'}\n- name: own\n  webhook: {url: 'http://h/'}\n  quiet_hours:\n  - {from: '12:00', to: '13:00'}\n  - {from: '18:00', to: '20:00'}\n- name: none\n  webhook: {url: 'http://h/'}\n  quiet_hours: []\n- name: am\n  alertmanager: {url: 'http://h/'}\n";
        let counts: Vec<usize> = parse(text).unwrap().iter().map(|receiver| receiver.quiet_hours.len()).collect();
        assert_eq!(counts, [1, 2, 0, 0]);
        for (text, line, problem) in [
            ("quiet_hours:\n- {from: '22:00', to: '07:00'}\n- {from: '22:00', to: '22:00'}\n", 3, "differ"),
            (
                "receivers:\n- name: am\n  alertmanager: {url: 'http://h/'}\n  quiet_hours:\n  - {from: '22:00', to: '07:00'}\n",
                5,
                "mute_time_intervals",
            ),
        ] {
            let (found_line, found) = parse(text).unwrap_err();
            assert!(found.contains(problem), "{text}: {found}");
            assert_eq!(found_line, line, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line_and_secrets_are_not_shown() {
        for (line, problem, receiver) in [
            (2, "needs one of", "name: a"),
            (2, "needs one of", "name: a\n  webhook: {url: 'http://h'}\n  ntfy: {url: 'http://h/t'}"),
            (2, "letters, digits", "name: a b\n  webhook: {url: 'http://h'}"),
            (3, "url_file", "name: a\n  slack: {url: 'https://hooks/hush'}"),
            (3, "must not have a user", "name: a\n  webhook: {url: 'http://me:hush@h'}"),
            (3, "must begin with", "name: a\n  webhook: {url: 'ftp://hush'}"),
            (3, "either url or url_file", "name: a\n  webhook: {}"),
            (3, "either token_file", "name: a\n  webhook: {url: 'http://h', username: hush}"),
            (3, "key_file", "name: a\n  ntfy: {url: 'http://h/t', key_file: /k}"),
            (3, "must end in a topic", "name: a\n  ntfy: {url: 'https://hush'}"),
            (3, "must end in a topic", "name: a\n  ntfy: {url: 'https://hush//'}"),
            (4, "at least 1m", "name: a\n  webhook: {url: 'http://h'}\n  repeat_interval: 5s"),
            (4, "no meaning", "name: a\n  alertmanager: {url: 'http://h'}\n  repeat_interval: 5m"),
            (3, "password", "name: a\n  webhook: {url: 'http://h', password: hush}"),
            (3, "password", "name: a\n  email: {host: h, from: g@h.org, to: [a@h.org], username: me, password: hush}"),
            (3, "belong together", "name: a\n  email: {host: h, from: g@h.org, to: [a@h.org], username: hush}"),
            (3, "must be localhost", "name: a\n  email: {host: h, tls: none, from: g@h.org, to: [a@h.org]}"),
            (3, "must be the name", "name: a\n  email: {host: 'h/hush', from: g@h.org, to: [a@h.org]}"),
            (3, "no address of mail", "name: a\n  email: {host: h, from: 'g@h.org, b@h.org', to: [a@h.org]}"),
            (3, "1 to 50 addresses", "name: a\n  email: {host: h, from: g@h.org, to: []}"),
        ] {
            let (found_line, found) = parse(&format!("receivers:\n- {receiver}\n")).unwrap_err();
            assert!(found.contains(problem) && !found.contains("hush"), "{receiver}: {found}");
            assert_eq!(found_line, line, "{receiver}: {found}");
        }
        let twice = "receivers:\n- name: a\n  webhook: {url: 'http://h'}\n- name: a\n  webhook: {url: 'http://h'}\n";
        assert_eq!(parse(twice).unwrap_err(), (4, "the receiver \"a\" is there twice".to_owned()));
    }
}
