//! A mail server that records messages.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::runtime;

/// The user whom a mail server that asks for one knows, and the password.
pub const SMTP_LOGIN: (&str, &str) = ("golectra", "pass word");
/// `SMTP_LOGIN` as `AUTH PLAIN` has it.
const PLAIN: &str = "AGdvbGVjdHJhAHBhc3Mgd29yZA==";

/// How a mail server's connections are encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SmtpTls {
    /// From the first byte.
    FromTheStart,
    /// With STARTTLS. Only then are a user and mail taken.
    StartTls,
    /// Never.
    Never,
}

/// A message that a mail server took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    /// The address of MAIL FROM.
    pub from: String,
    /// The addresses of RCPT TO.
    pub to: Vec<String>,
    /// Header and body, as they were sent.
    pub text: String,
}

/// A running mail server; it is stopped when it is dropped, and its connections are closed.
pub struct SmtpServer {
    port: u16,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

struct Shared {
    tls: SmtpTls,
    acceptor: TlsAcceptor,
    /// Whether it takes mail from `SMTP_LOGIN` alone.
    signed_in: bool,
    /// Mail to this address is refused with this answer.
    refused: Option<(&'static str, &'static str)>,
    certificate: String,
    mails: Mutex<Vec<Mail>>,
}

impl SmtpServer {
    /// On loopback. With `signed_in` it takes mail from `SMTP_LOGIN` alone; mail to the address of `refused` it answers with what stands there.
    pub async fn start(tls: SmtpTls, signed_in: bool, refused: Option<(&'static str, &'static str)>) -> Self {
        let key = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate can be made");
        let private = PrivateKeyDer::try_from(key.signing_key.serialize_der()).expect("it is a key");
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has them")
            .with_no_client_auth()
            .with_single_cert(vec![key.cert.der().clone()], private)
            .expect("the certificate is that of the key");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let shared = Arc::new(Shared { tls, acceptor, signed_in, refused, certificate: key.cert.pem(), mails: Mutex::default() });
        let listener = runtime().spawn(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).await.expect("no panic").expect("a port is free");
        let port = listener.local_addr().expect("it is bound").port();
        Self { port, serving: runtime().spawn(accept(listener, Arc::clone(&shared))), shared }
    }

    /// The port on which it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Writes its certificate, which is its own authority.
    pub fn write_certificate(&self, path: &Path) {
        std::fs::write(path, &self.shared.certificate).expect("our own folder");
    }

    /// The messages taken so far, in their order.
    pub fn mails(&self) -> Vec<Mail> {
        self.shared.mails.lock().expect("no holder panics").clone()
    }
}

impl Drop for SmtpServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        // A client that disconnects early is no error here.
        connections.spawn(async move { drop(connection(stream, &shared).await) });
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    if shared.tls == SmtpTls::FromTheStart {
        let mut stream = BufStream::new(shared.acceptor.accept(stream).await?);
        greet(&mut stream).await?;
        return session(&mut stream, shared, true).await.map(drop);
    }
    let mut stream = BufStream::new(stream);
    greet(&mut stream).await?;
    if session(&mut stream, shared, false).await? {
        let mut stream = BufStream::new(shared.acceptor.accept(stream.into_inner()).await?);
        session(&mut stream, shared, true).await?;
    }
    Ok(())
}

async fn greet(stream: &mut (impl AsyncWrite + Unpin)) -> std::io::Result<()> {
    stream.write_all(b"220 test ESMTP\r\n").await?;
    stream.flush().await
}

/// Talks to a client; true when it wants TLS now.
async fn session<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut BufStream<S>, shared: &Shared, encrypted: bool) -> std::io::Result<bool> {
    let mut signed_in = !shared.signed_in;
    let (mut from, mut to) = (String::new(), Vec::new());
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(false);
        }
        let line = line.trim_end();
        let may_encrypt = shared.tls == SmtpTls::StartTls && !encrypted;
        let address = || line.split(['<', '>']).nth(1).unwrap_or_default().to_owned();
        let answer = match line.split([' ', ':']).next().unwrap_or_default() {
            "EHLO" => {
                let mut answer = "250-test".to_owned();
                let _ = write!(answer, "{}", if may_encrypt { "\r\n250-STARTTLS" } else { "" });
                let _ = write!(answer, "{}", if shared.signed_in && !may_encrypt { "\r\n250-AUTH PLAIN" } else { "" });
                answer + "\r\n250 SIZE 1000000"
            }
            "STARTTLS" if may_encrypt => {
                stream.write_all(b"220 go on\r\n").await?;
                stream.flush().await?;
                return Ok(true);
            }
            "AUTH" if line == format!("AUTH PLAIN {PLAIN}") => {
                signed_in = true;
                "235 welcome".to_owned()
            }
            // Some servers repeat what they did not take.
            "AUTH" => format!("535 5.7.8 not taken: {line}"),
            "QUIT" => {
                stream.write_all(b"221 bye\r\n").await?;
                stream.flush().await?;
                return Ok(false);
            }
            _ if may_encrypt || !signed_in => "530 5.7.0 first say who you are".to_owned(),
            "MAIL" => {
                from = address();
                "250 ok".to_owned()
            }
            "RCPT" => {
                let refused = shared.refused.filter(|(refused, _)| *refused == address());
                to.extend(refused.is_none().then(address));
                refused.map_or("250 ok", |(_, answer)| answer).to_owned()
            }
            "DATA" => {
                stream.write_all(b"354 go on\r\n").await?;
                stream.flush().await?;
                let mut text = String::new();
                while !text.ends_with("\r\n.\r\n") {
                    if stream.read_line(&mut text).await? == 0 {
                        return Ok(false);
                    }
                }
                let mail = Mail { from: std::mem::take(&mut from), to: std::mem::take(&mut to), text };
                shared.mails.lock().expect("no holder panics").push(mail);
                "250 taken".to_owned()
            }
            _ => "502 5.5.2 no such command".to_owned(),
        };
        stream.write_all(answer.as_bytes()).await?;
        stream.write_all(b"\r\n").await?;
        stream.flush().await?;
    }
}
