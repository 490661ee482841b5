//! Mail over SMTP: one message a notification, on a connection of its own.

use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use lettre::Message;
use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Mailbox, MessageBuilder};
use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{AsyncSmtpConnection, Certificate, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use tokio::time::timeout;

use super::client::{DeliveryError, failed, secret};
use super::payload;
use crate::alerts::notification::Notification;

/// The time limit of one try, from connecting until the server has taken the message. Mail servers let unknown clients wait for some seconds.
const LIMIT: Duration = Duration::from_secs(30);
/// How long the server may take to say goodbye. The message is delivered by then.
const QUIT_LIMIT: Duration = Duration::from_secs(1);
/// The longest text of a mail server that is shown, in characters.
const MAX_ANSWER_CHARS: usize = 300;
/// Answers that ask for another user or password, which may be mended; others that are permanent refuse the message.
const SIGN_IN_CODES: [u16; 4] = [530, 534, 535, 538];

/// Where mail goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Email {
    /// The mail server.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the connection is encrypted.
    pub tls: Tls,
    /// Certificate authorities that are trusted beside those of the system.
    pub ca_file: Option<PathBuf>,
    /// Whom mail is from.
    pub from: Mailbox,
    /// Whom it is for.
    pub to: Vec<Mailbox>,
    /// Whom to sign in as, where the server asks for that.
    pub login: Option<Login>,
}

/// How a connection to a mail server is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(clippy::enum_variant_names, reason = "the names of the protocols")]
pub enum Tls {
    /// With STARTTLS, before anything else is said. A server that does not offer it gets no mail.
    StartTls,
    /// From its first byte.
    Tls,
    /// Not at all; on loopback only.
    None,
}

impl Tls {
    /// The port that is usual.
    pub const fn port(self) -> u16 {
        match self {
            Self::StartTls => 587,
            Self::Tls => 465,
            Self::None => 25,
        }
    }
}

/// Whom to sign in as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// The user.
    pub user: User,
    /// The file with the password.
    pub password_file: PathBuf,
}

/// A user's name, or the file that has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum User {
    /// A name that anybody may see.
    Plain(String),
    /// The file with it.
    File(PathBuf),
}

/// Tries once.
pub async fn send(email: &Email, notification: &Notification) -> Result<(), DeliveryError> {
    let message = message(email, notification)?;
    let Ok(delivered) = timeout(LIMIT, deliver(email, &message)).await else {
        return Err(failed(format!("the mail server did not take the message within {} s", LIMIT.as_secs())));
    };
    let mut connection = delivered?;
    let _ = timeout(QUIT_LIMIT, connection.quit()).await;
    Ok(())
}

async fn deliver(email: &Email, message: &Message) -> Result<AsyncSmtpConnection, DeliveryError> {
    golectra_process::install_crypto();
    let credentials = email.login.as_ref().map(credentials).transpose()?;
    let tls = if email.tls == Tls::None { None } else { Some(tls_parameters(email)?) };
    let (at_start, later) = if email.tls == Tls::Tls { (tls, None) } else { (None, tls) };
    let hello = ClientId::default();
    let connected = AsyncSmtpConnection::connect_tokio1((email.host.as_str(), email.port), Some(LIMIT), &hello, at_start, None).await;
    let mut connection = connected.map_err(|error| failed(format!("no connection to the mail server: {}", shown(&error))))?;
    if let Some(tls) = later {
        let started = connection.starttls(tls, &hello).await;
        started.map_err(|error| failed(format!("the connection to the mail server can't be encrypted: {}", shown(&error))))?;
    }
    if let Some(credentials) = credentials {
        connection.auth(DEFAULT_MECHANISMS, &credentials).await.map_err(|error| failed(sign_in_problem(&error)))?;
    }
    connection.send(message.envelope(), &message.formatted()).await.map_err(|error| send_error(&error))?;
    Ok(connection)
}

fn credentials(login: &Login) -> Result<Credentials, DeliveryError> {
    let user = match &login.user {
        User::Plain(name) => name.clone(),
        User::File(file) => secret(file)?,
    };
    Ok(Credentials::new(user, secret(&login.password_file)?))
}

fn tls_parameters(email: &Email) -> Result<TlsParameters, DeliveryError> {
    let mut builder = TlsParameters::builder(email.host.clone());
    if let Some(file) = &email.ca_file {
        let pem = std::fs::read(file).map_err(|error| failed(format!("{} can't be read: {error}", file.display())))?;
        let certificates = Certificate::from_pem(&pem).map_err(|_| failed(format!("{} has no certificates in PEM", file.display())))?;
        builder = builder.add_root_certificate(certificates);
    }
    builder.build().map_err(|error| failed(format!("TLS to the mail server can't be set up: {}", shown(&error))))
}

/// The message of a notification: its id and date are the same on every try.
fn message(email: &Email, notification: &Notification) -> Result<Message, DeliveryError> {
    let payload::Mail { subject, body } = payload::mail(notification);
    let created = UNIX_EPOCH + Duration::from_millis(notification.created_ms.max(0).unsigned_abs());
    let id = format!("<{}@{}>", notification.id, email.from.email.domain());
    // Asks answering machines for silence (RFC 3834).
    let automatic = HeaderValue::new(HeaderName::new_from_ascii_str("Auto-Submitted"), "auto-generated".to_owned());
    let head = Message::builder().from(email.from.clone()).date(created).message_id(Some(id)).subject(subject);
    let head = email.to.iter().cloned().fold(head, MessageBuilder::to);
    let whole = head.raw_header(automatic).header(ContentType::TEXT_PLAIN).body(body);
    whole.map_err(|error| failed(format!("the message can't be written: {error}")))
}

/// What a mail server says while it is signed in to is not shown: it may repeat what it was sent.
fn sign_in_problem(error: &Error) -> String {
    match error.status() {
        Some(code) => format!("the mail server did not take the user and password ({code})"),
        None if error.is_client() => "the mail server offers no AUTH PLAIN and no AUTH LOGIN".to_owned(),
        None if error.is_response() => "the mail server's answer to the user and password can't be read".to_owned(),
        None => shown(error),
    }
}

fn send_error(error: &Error) -> DeliveryError {
    let Some(code) = error.status() else { return failed(format!("the message was not sent: {}", shown(error))) };
    let reason = format!("the mail server did not take the message: {}", shown(error));
    let asks_to_sign_in = SIGN_IN_CODES.contains(&u16::from(code));
    if error.is_permanent() && !asks_to_sign_in { DeliveryError::Refused { reason } } else { failed(reason) }
}

/// An error on one line, not too long.
fn shown(error: &Error) -> String {
    let text = error.to_string();
    text.chars().map(|char| if char.is_control() { ' ' } else { char }).take(MAX_ANSWER_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::alerts::notification::NotifiedAlert;
    use crate::alerts::state::Texts;

    fn email(port: u16) -> Email {
        Email {
            host: "127.0.0.1".into(),
            port,
            tls: Tls::None,
            ca_file: None,
            from: "golectra <alerts@example.com>".parse().unwrap(),
            to: vec!["ops@example.com".parse().unwrap(), "Jörg <joerg@example.com>".parse().unwrap()],
            login: None,
        }
    }

    fn notification(summary: &str) -> Notification {
        let alert = NotifiedAlert {
            labels: Texts::from([("alertname".into(), "Down\r\nBcc: x@example.com".into())]),
            annotations: Texts::from([("summary".into(), summary.into())]),
            firing: true,
            starts_ms: 1_000,
            ends_ms: 2_000,
            value: "1".into(),
            generator_url: String::new(),
        };
        let (id, receiver, group) = (Uuid::nil(), "mail".into(), Texts::new());
        Notification {
            id,
            receiver,
            created_ms: 5_000,
            expires_ms: 6_000,
            group,
            alerts: vec![alert],
            others_firing: 0,
            external_url: String::new(),
        }
    }

    fn text(message: &Message) -> String {
        String::from_utf8(message.formatted()).expect("lettre encodes what is not ASCII")
    }

    #[test]
    fn a_message_is_plain_text_and_the_same_on_every_try() {
        let message = message(&email(25), &notification("A disk is full.")).unwrap();
        let sent = text(&message);
        for line in [
            "From: golectra <alerts@example.com>",
            "To: ops@example.com, =?utf-8?b?SsO2cmc=?= <joerg@example.com>",
            "Date: Thu, 01 Jan 1970 00:00:05 +0000",
            "Message-ID: <00000000-0000-0000-0000-000000000000@example.com>",
            "Auto-Submitted: auto-generated",
            "Content-Type: text/plain; charset=utf-8",
        ] {
            assert!(sent.lines().any(|found| found == line), "{line} in\n{sent}");
        }
        assert!(sent.contains("A disk is full."), "{sent}");
        assert_eq!(text(&super::message(&email(25), &notification("A disk is full.")).unwrap()), sent);
    }

    #[test]
    fn texts_of_alerts_add_no_headers_recipients_or_lines_of_smtp() {
        let message = message(&email(25), &notification("ü\r\n.\r\nRCPT TO:<x@example.com>\0")).unwrap();
        let sent = text(&message);
        let (head, _) = sent.split_once("\r\n\r\n").unwrap();
        assert!(!head.lines().any(|line| line.starts_with("Bcc")), "{head}");
        assert_eq!(message.envelope().to().len(), 2);
        assert!(sent.is_ascii() && !sent.contains('\0') && !sent.replace("\r\n", "").contains(['\r', '\n']), "{sent:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_does_not_answer_is_given_up() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let sent = send(&email(listener.local_addr().unwrap().port()), &notification("x")).await;
        assert!(matches!(&sent, Err(DeliveryError::Failed { .. })), "{sent:?}");
    }
}
