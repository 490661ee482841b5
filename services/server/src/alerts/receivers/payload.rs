//! What each kind of receiver is sent.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::Severity;
use crate::alerts::notification::{Notification, NotifiedAlert};
use crate::alerts::state::Texts;
use crate::clock::rfc3339;

/// The time that stands for none, as Go writes it.
const NO_TIME: &str = "0001-01-01T00:00:00Z";
/// The most alerts that a message for people names.
const MAX_NAMED: usize = 20;
/// The longest subject of a mail, in characters.
const MAX_SUBJECT_CHARS: usize = 200;

/// A mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    /// One line.
    pub subject: String,
    /// Plain text, its lines separated by `\n`.
    pub body: String,
}

fn time(unix_ms: i64) -> String {
    rfc3339(unix_ms.max(0).unsigned_abs())
}

/// Alertmanager's `POST /api/v2/alerts`.
pub fn alertmanager(notification: &Notification) -> Value {
    let alert = |alert: &NotifiedAlert| {
        json!({
            "labels": alert.labels,
            "annotations": alert.annotations,
            "startsAt": time(alert.starts_ms),
            "endsAt": time(alert.ends_ms),
            "generatorURL": alert.generator_url,
        })
    };
    notification.alerts.iter().map(alert).collect()
}

/// What Alertmanager sends to webhooks, version 4.
pub fn webhook(notification: &Notification) -> Value {
    let alert = |alert: &NotifiedAlert| {
        json!({
            "status": status(alert.firing),
            "labels": alert.labels,
            "annotations": alert.annotations,
            "startsAt": time(alert.starts_ms),
            "endsAt": if alert.firing { NO_TIME.to_owned() } else { time(alert.ends_ms) },
            "generatorURL": alert.generator_url,
            "fingerprint": fingerprint(&alert.labels),
        })
    };
    let group: Vec<String> = notification.group.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
    json!({
        "version": "4",
        "groupKey": format!("{{}}:{{{}}}", group.join(", ")),
        "truncatedAlerts": notification.others_firing,
        "status": status(notification.is_firing()),
        "receiver": notification.receiver,
        "groupLabels": notification.group,
        "commonLabels": notification.common(|alert| &alert.labels),
        "commonAnnotations": notification.common(|alert| &alert.annotations),
        "externalURL": notification.external_url,
        "alerts": notification.alerts.iter().map(alert).collect::<Vec<_>>(),
    })
}

/// A message of Slack's.
pub fn slack(notification: &Notification) -> Value {
    let color = match (notification.is_firing(), worst(notification)) {
        (false, _) => "good",
        (true, Severity::Critical) => "danger",
        (true, _) => "warning",
    };
    // These three have a meaning in Slack's texts.
    let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let (title, lines) = (escape(&title(notification)), escape(&lines(notification)));
    json!({
        "text": title,
        "attachments": [{ "color": color, "fallback": title, "text": lines, "ts": notification.created_ms / 1000 }],
    })
}

/// The longest message of ntfy, in bytes. Its servers make a file of one of 4,096 bytes, or refuse it where they keep none.
const MAX_NTFY_BYTES: usize = 4_000;

/// A message for a topic of ntfy has the time from this age on: what waited for hours would read as if it were so now.
const LATE_MS: i64 = 2 * 60 * 1000;

/// A message for a topic of ntfy.
pub fn ntfy(notification: &Notification, topic: &str, now_ms: i64) -> Value {
    let (priority, tag) = match (notification.is_firing(), worst(notification)) {
        (false, _) => (2, "white_check_mark"),
        (true, Severity::Critical) => (5, "rotating_light"),
        (true, Severity::Warning) => (4, "warning"),
        (true, _) => (3, "information_source"),
    };
    let created_ms = notification.created_ms;
    let as_of = if now_ms - created_ms > LATE_MS { format!("As of {}:\n", time(created_ms)) } else { String::new() };
    let message = format!("{as_of}{}", short_lines(notification, MAX_NTFY_BYTES - as_of.len()));
    json!({ "topic": topic, "title": title(notification), "message": message, "priority": priority, "tags": [tag] })
}

/// A mail: what `ntfy` says, with times and labels.
pub fn mail(notification: &Notification) -> Mail {
    // Labels and annotations may hold anything.
    let clean = |text: &str| text.chars().map(|char| if char.is_control() { ' ' } else { char }).collect::<String>();
    let mut body = String::new();
    for alert in notification.alerts.iter().take(MAX_NAMED) {
        let (state, since) = if alert.firing { ("Firing since", alert.starts_ms) } else { ("Resolved at", alert.ends_ms) };
        let _ = writeln!(body, "{}\n  {state} {}", clean(summary(alert)), time(since));
        for more in [text(&alert.annotations, "description"), text(&alert.annotations, "runbook_url"), &alert.generator_url] {
            for line in more.lines().filter(|line| !line.trim().is_empty()) {
                let _ = writeln!(body, "  {}", clean(line));
            }
        }
        let labels: Vec<String> = alert.labels.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
        let _ = writeln!(body, "  {}\n", clean(&labels.join(", ")));
    }
    if let Some(left) = left_out(notification) {
        let _ = writeln!(body, "and {left} more\n");
    }
    let _ = writeln!(body, "-- \nSent by golectra to its receiver {}.", notification.receiver);
    Mail { subject: clean(&title(notification)).chars().take(MAX_SUBJECT_CHARS).collect(), body }
}

const fn status(firing: bool) -> &'static str {
    if firing { "firing" } else { "resolved" }
}

fn worst(notification: &Notification) -> Severity {
    let severity = |alert: &NotifiedAlert| Severity::of_label(alert.labels.get("severity").map_or("", String::as_str));
    notification.alerts.iter().filter(|alert| alert.firing).map(severity).max().unwrap_or(Severity::None)
}

fn text<'a>(texts: &'a Texts, name: &str) -> &'a str {
    texts.get(name).map_or("", String::as_str)
}

/// A line that says what it is about.
fn title(notification: &Notification) -> String {
    let firing = notification.alerts.iter().filter(|alert| alert.firing).count();
    let resolved = notification.alerts.len() - firing;
    let counts = match (firing, resolved) {
        (1, 0) => "firing".to_owned(),
        (0, 1) => "resolved".to_owned(),
        (_, 0) => format!("{firing} firing"),
        (0, _) => format!("{resolved} resolved"),
        _ => format!("{firing} firing, {resolved} resolved"),
    };
    let common = notification.common(|alert| &alert.labels);
    let name = match text(&common, "alertname") {
        "" => "alerts",
        name => name,
    };
    format!("[{counts}] {name}")
}

/// What an alert is about, in a sentence.
fn summary(alert: &NotifiedAlert) -> &str {
    match text(&alert.annotations, "summary") {
        "" => text(&alert.labels, "alertname"),
        summary => summary,
    }
}

/// How many alerts a message for people does not name, if any.
fn left_out(notification: &Notification) -> Option<usize> {
    notification.alerts.len().checked_sub(MAX_NAMED).filter(|left| *left > 0)
}

/// A line for each alert.
fn lines(notification: &Notification) -> String {
    let mut lines = String::new();
    for alert in notification.alerts.iter().take(MAX_NAMED) {
        let prefix = if alert.firing { "" } else { "Resolved: " };
        let _ = writeln!(lines, "{prefix}{}", summary(alert));
        let more = [text(&alert.annotations, "description"), text(&alert.annotations, "runbook_url")];
        for more in more.into_iter().filter(|more| alert.firing && !more.is_empty()) {
            let _ = writeln!(lines, "  {more}");
        }
    }
    if let Some(left) = left_out(notification) {
        let _ = writeln!(lines, "and {left} more");
    }
    lines.truncate(lines.trim_end().len());
    lines
}

/// A line for each alert of as many as these bytes have room for.
fn short_lines(notification: &Notification, max_bytes: usize) -> String {
    let whole = lines(notification);
    if whole.len() <= max_bytes {
        return whole;
    }
    let more = |named: usize| match notification.alerts.len().saturating_sub(named) {
        0 => String::new(),
        left => format!("\nand {left} more"),
    };
    let first = |named: usize| lines(&Notification { alerts: notification.alerts[..named].to_vec(), ..notification.clone() });
    let most = notification.alerts.len().min(MAX_NAMED);
    let fitting = (1..most).rev().map(|named| first(named) + &more(named)).find(|text| text.len() <= max_bytes);
    fitting.unwrap_or_else(|| {
        let (text, rest) = (first(1), more(1));
        let end = text.floor_char_boundary(max_bytes.saturating_sub(rest.len() + '…'.len_utf8()));
        format!("{}…{rest}", &text[..end])
    })
}

/// The fingerprint of labels as Alertmanager makes it: FNV-1a over names and values.
pub fn fingerprint(labels: &Texts) -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for text in labels.iter().flat_map(|(name, value)| [name, value]) {
        for byte in text.bytes().chain([0xff]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn notification(firing: &[bool]) -> Notification {
        let alert = |(index, firing): (usize, &bool)| NotifiedAlert {
            labels: Texts::from([
                ("alertname".into(), "Down".into()),
                ("instance".into(), format!("n{index}")),
                ("severity".into(), "critical".into()),
            ]),
            annotations: Texts::from([("summary".into(), format!("<n{index}> is down.")), ("description".into(), "For long.".into())]),
            firing: *firing,
            starts_ms: 1_000,
            ends_ms: 2_000,
            value: "1".into(),
            generator_url: "https://golectra.example.com/explore?query=up+%3D%3D+0".into(),
        };
        Notification {
            id: Uuid::nil(),
            receiver: "r".into(),
            created_ms: 5_000,
            expires_ms: 6_000,
            group: Texts::from([("alertname".into(), "Down".into())]),
            alerts: firing.iter().enumerate().map(alert).collect(),
            others_firing: 0,
            external_url: "https://golectra.example.com".into(),
        }
    }

    #[test]
    fn alertmanager_gets_times_of_both_ends() {
        let sent = alertmanager(&notification(&[true]));
        assert_eq!((&sent[0]["startsAt"], &sent[0]["endsAt"]), (&json!("1970-01-01T00:00:01.000Z"), &json!("1970-01-01T00:00:02.000Z")));
        assert_eq!(sent[0]["labels"]["instance"], "n0");
        assert_eq!(sent[0]["generatorURL"], "https://golectra.example.com/explore?query=up+%3D%3D+0");
    }

    #[test]
    fn a_webhook_gets_version_4() {
        let sent = webhook(&notification(&[true, false]));
        assert_eq!(
            (&sent["version"], &sent["status"], &sent["groupKey"]),
            (&json!("4"), &json!("firing"), &json!("{}:{alertname=\"Down\"}"))
        );
        assert_eq!(sent["commonLabels"], json!({"alertname": "Down", "severity": "critical"}));
        assert_eq!(sent["commonAnnotations"], json!({"description": "For long."}));
        assert_eq!((&sent["alerts"][0]["endsAt"], &sent["alerts"][1]["endsAt"]), (&json!(NO_TIME), &json!("1970-01-01T00:00:02.000Z")));
        assert_eq!(webhook(&notification(&[false]))["status"], "resolved");
        let of_many = webhook(&Notification { others_firing: 3, ..notification(&[false]) });
        assert_eq!((&of_many["status"], &of_many["truncatedAlerts"]), (&json!("firing"), &json!(3)), "the group still fires");
        assert_eq!(
            (&sent["externalURL"], &sent["alerts"][0]["generatorURL"]),
            (&json!("https://golectra.example.com"), &json!("https://golectra.example.com/explore?query=up+%3D%3D+0"))
        );
    }

    #[test]
    fn a_message_of_ntfy_is_no_longer_than_its_servers_take() {
        let message = |alerts: usize, description: &str| {
            let mut notification = notification(&vec![true; alerts]);
            for alert in &mut notification.alerts {
                alert.annotations.insert("description".into(), description.into());
            }
            ntfy(&notification, "t", i64::MAX)["message"].as_str().unwrap().to_owned()
        };
        let long = message(20, &"ü".repeat(500));
        assert!(long.len() < 4_096 && long.ends_with("ü\nand 17 more"), "{} {long}", long.len());
        assert_eq!(long.matches("is down.").count(), 3);
        for (alerts, end) in [(1, "ü…"), (2, "ü…\nand 1 more")] {
            let cut = message(alerts, &"ü".repeat(5_000));
            assert!((3_990..4_096).contains(&cut.len()) && cut.ends_with(end), "{} {cut}", cut.len());
        }
        assert!(message(25, "short").ends_with("and 5 more"));
    }

    #[test]
    fn fingerprints_are_those_of_prometheus() {
        // FNV-1a of nothing, and of `a` and `b` each with 0xff behind it.
        assert_eq!(fingerprint(&Texts::new()), "cbf29ce484222325");
        assert_ne!(fingerprint(&Texts::from([("ab".into(), "c".into())])), fingerprint(&Texts::from([("a".into(), "bc".into())])));
    }

    #[test]
    fn people_read_what_is_wrong() {
        let sent = slack(&notification(&[true]));
        assert_eq!((&sent["text"], &sent["attachments"][0]["color"]), (&json!("[firing] Down"), &json!("danger")));
        assert_eq!(sent["attachments"][0]["text"], "&lt;n0&gt; is down.\n  For long.");
        let sent = ntfy(&notification(&[false, false]), "t", 125_000);
        assert_eq!((&sent["topic"], &sent["title"], &sent["priority"]), (&json!("t"), &json!("[2 resolved] Down"), &json!(2)));
        assert_eq!(sent["message"], "Resolved: <n0> is down.\nResolved: <n1> is down.");
        let late = ntfy(&notification(&[false]), "t", 125_001);
        assert_eq!(late["message"], "As of 1970-01-01T00:00:05.000Z:\nResolved: <n0> is down.");
        assert!(lines(&notification(&[true; 25])).ends_with("and 5 more"));
        let sent = mail(&notification(&[true, false]));
        assert_eq!(sent.subject, "[1 firing, 1 resolved] Down");
        let (first, rest) = sent.body.split_once("\n\n").unwrap();
        assert_eq!(
            first,
            "<n0> is down.\n  Firing since 1970-01-01T00:00:01.000Z\n  For long.\n  https://golectra.example.com/explore?query=up+%3D%3D+0\n  alertname=\"Down\", instance=\"n0\", severity=\"critical\""
        );
        assert!(rest.starts_with("<n1> is down.\n  Resolved at 1970-01-01T00:00:02.000Z\n"), "{rest}");
        assert!(mail(&notification(&[true; 25])).body.contains("and 5 more\n"));
    }
}
