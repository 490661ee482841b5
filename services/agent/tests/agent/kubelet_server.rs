//! A kubelet that answers as a test tells it, over TLS or without.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// What the kubelet does with a request.
#[derive(Clone)]
pub enum Reply {
    /// Answers with this status and body.
    Body(u16, Arc<Vec<u8>>),
    /// Answers 200 with this body after a while.
    Late(Duration, Arc<Vec<u8>>),
    /// Answers 200 and ends within the body.
    Half,
    /// Answers 200 and sends spaces for ever.
    Endless,
    /// Never answers.
    Hang,
    /// Closes the connection.
    Close,
}

impl Reply {
    pub fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self::Body(200, Arc::new(body.into()))
    }
}

/// A request: its path and its Authorization header.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    pub path: String,
    pub authorization: String,
}

/// A certificate with its key and the certificates above it.
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

/// A certificate authority.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for these names that was valid from and until these years.
    pub fn identity(&self, names: &[&str], years: (i32, i32)) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
        params.not_before = rcgen::date_time_ymd(years.0, 1, 1);
        params.not_after = rcgen::date_time_ymd(years.1, 1, 1);
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Identity {
            chain: vec![certificate.der().clone(), self.0.der().clone()],
            key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        }
    }
}

pub struct KubeletServer {
    pub url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl KubeletServer {
    /// A kubelet without TLS.
    pub async fn plain(reply: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        Self::start(None, reply).await
    }

    /// A kubelet with this certificate.
    pub async fn tls(identity: Identity, reply: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(identity.chain, identity.key)
            .unwrap();
        Self::start(Some(TlsAcceptor::from(Arc::new(config))), reply).await
    }

    async fn start(tls: Option<TlsAcceptor>, reply: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}", listener.local_addr().unwrap());
        let asked = Arc::<Mutex<Vec<Asked>>>::default();
        let (reply, log) = (Arc::new(reply), Arc::clone(&asked));
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let (reply, log, tls) = (Arc::clone(&reply), Arc::clone(&log), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        Some(tls) => {
                            if let Ok(connection) = tls.accept(connection).await {
                                serve(connection, reply.as_ref(), &log).await;
                            }
                        }
                        None => serve(connection, reply.as_ref(), &log).await,
                    }
                });
            }
        });
        Self { url, asked }
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

async fn serve(
    mut connection: impl AsyncRead + AsyncWrite + Unpin,
    reply: &(dyn Fn(&Asked) -> Reply + Send + Sync),
    log: &Mutex<Vec<Asked>>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match connection.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let header = |name: &str| {
        let line = head.lines().find(|line| line.to_lowercase().starts_with(&format!("{name}:")));
        line.map_or_else(String::new, |line| line[name.len() + 1..].trim().to_owned())
    };
    let asked = Asked { path: head.split(' ').nth(1).unwrap().to_owned(), authorization: header("authorization") };
    log.lock().unwrap().push(asked.clone());
    let begin = |status: u16, bytes: usize| format!("HTTP/1.1 {status} S\r\nContent-Length: {bytes}\r\nConnection: close\r\n\r\n");
    // The agent may close the connection before the end.
    let _ = match reply(&asked) {
        Reply::Body(status, body) => connection.write_all(&[begin(status, body.len()).as_bytes(), &body].concat()).await,
        Reply::Late(wait, body) => {
            tokio::time::sleep(wait).await;
            connection.write_all(&[begin(200, body.len()).as_bytes(), &body].concat()).await
        }
        Reply::Half => connection.write_all(&[begin(200, 1000).as_bytes(), b"{\"node\":{}"].concat()).await,
        Reply::Endless => endless(&mut connection).await,
        Reply::Hang => {
            std::future::pending::<()>().await;
            Ok(())
        }
        Reply::Close => Ok(()),
    };
    let _ = connection.shutdown().await;
}

async fn endless(connection: &mut (impl AsyncWrite + Unpin)) -> std::io::Result<()> {
    connection.write_all(b"HTTP/1.1 200 S\r\nConnection: close\r\n\r\n{").await?;
    let spaces = vec![b' '; 1 << 16];
    loop {
        connection.write_all(&spaces).await?;
    }
}
