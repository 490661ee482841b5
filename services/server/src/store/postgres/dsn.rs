//! Reads DATABASE_DSN: a URL, or the `key=value` words that libpq and the original server's driver take as well.
//!
//! Every parameter is followed or refused by name. No error quotes a value: it may be a secret, or a part of one.

mod parameter;
mod syntax;

use std::fmt::Write as _;
use std::time::Duration;

use sqlx::ConnectOptions;
use sqlx::postgres::PgConnectOptions;

use self::parameter::Parameter;
use super::schema_name::SchemaName;

/// How long opening a connection may take where the DSN does not say it.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// The longest time for it that a DSN may ask for, in seconds.
const MAX_CONNECT_SECONDS: u64 = 60;

/// What every session is told by [`connect`](super::connect) and sqlx. A DSN that says otherwise would not be followed.
const OWN_SETTINGS: [&str; 17] = [
    "statement_timeout",
    "lock_timeout",
    "idle_in_transaction_session_timeout",
    "default_transaction_isolation",
    "client_connection_check_interval",
    "tcp_keepalives_idle",
    "tcp_keepalives_interval",
    "tcp_keepalives_count",
    "plan_cache_mode",
    "enable_hashjoin",
    "enable_mergejoin",
    "enable_seqscan",
    "jit",
    "client_encoding",
    "datestyle",
    "timezone",
    "extra_float_digits",
];

/// Why a DSN can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DsnError {
    /// It can't be read at all.
    #[error(
        "DATABASE_DSN is not a PostgreSQL address: expected postgres://USER:PASSWORD@HOST:PORT/DATABASE or host=HOST user=USER password='PASSWORD' dbname=DATABASE"
    )]
    Malformed,
    /// A character of a value was taken for one of the URL's own.
    #[error(
        "DATABASE_DSN holds a character that must be percent-encoded: in the user, the password and the database name of a URL write % as %25, / as %2F, ? as %3F, # as %23, @ as %40 and : as %3A"
    )]
    Encoding,
    /// Several hosts.
    #[error(
        "DATABASE_DSN names several hosts, which golectra-server does not support: name one address that always leads to the primary, such as the Service NAME-rw of CloudNativePG or a load balancer"
    )]
    SeveralHosts,
    /// A parameter that is not known here.
    #[error("DATABASE_DSN has the parameter {0:?}, which golectra-server does not support: remove it")]
    Unsupported(String),
    /// A parameter's value can't be used.
    #[error("DATABASE_DSN can't be used: the parameter {name} must be {expected}")]
    Value {
        /// The parameter.
        name: String,
        /// What its value may be.
        expected: String,
    },
    /// Parameters that contradict each other.
    #[error("DATABASE_DSN can't be used: {0}")]
    Conflict(&'static str),
    /// A session setting that the server makes itself.
    #[error("DATABASE_DSN sets {0}, which golectra-server sets itself: remove it")]
    OwnSetting(String),
    /// A file can't be read.
    #[error("DATABASE_DSN can't be used: the file that {name} names can't be read: {reason}")]
    File {
        /// The parameter.
        name: &'static str,
        /// The system's reason.
        reason: String,
    },
}

/// What a DSN says.
#[derive(Clone)]
pub(super) struct Dsn {
    /// The address, the credentials and TLS.
    pub(super) options: PgConnectOptions,
    /// Where golectra's tables are.
    pub(super) schema: SchemaName,
    /// How long opening a connection may take.
    pub(super) connect_limit: Duration,
    /// Session settings that the operator wants.
    pub(super) session: Vec<(String, String)>,
    /// Parameters of other drivers that have no effect here.
    pub(super) ignored: Vec<String>,
}

/// Reads a DSN.
pub(super) fn parse(dsn: &str) -> Result<Dsn, DsnError> {
    let mut reading = Reading::default();
    for (name, value) in syntax::parameters(dsn.trim())? {
        let parameter = Parameter::named(&name).ok_or_else(|| unsupported(&name))?;
        // An empty value is the default, as libpq has it.
        if !value.is_empty() {
            reading.take(&name, parameter, value)?;
        }
    }
    reading.finish()
}

/// What was read so far.
#[derive(Default)]
struct Reading {
    /// What sqlx understands in the same way.
    passed_on: Vec<(&'static str, String)>,
    host: Option<String>,
    host_address: Option<String>,
    ssl_mode: Option<String>,
    ssl_root_cert: Option<String>,
    ssl_cert: Option<String>,
    ssl_key: Option<String>,
    application_name: Option<String>,
    schema: Option<SchemaName>,
    connect_limit: Option<Duration>,
    session: Vec<(String, String)>,
    ignored: Vec<String>,
}

impl Reading {
    fn take(&mut self, name: &str, parameter: Parameter<'_>, value: String) -> Result<(), DsnError> {
        let wrong = |expected: &str| DsnError::Value { name: name.to_owned(), expected: expected.to_owned() };
        match parameter {
            Parameter::Host | Parameter::HostAddress | Parameter::Port if value.contains(',') => return Err(DsnError::SeveralHosts),
            Parameter::Host => self.host = Some(value),
            Parameter::HostAddress if value.parse::<std::net::IpAddr>().is_err() => return Err(wrong("an IP address")),
            Parameter::HostAddress => self.host_address = Some(value),
            Parameter::Port => {
                let port = value.parse::<std::num::NonZeroU16>().map_err(|_| wrong("a number from 1 to 65535"))?;
                self.passed_on.push(("port", port.to_string()));
            }
            Parameter::User => self.passed_on.push(("user", value)),
            Parameter::Password => self.passed_on.push(("password", value)),
            Parameter::Database => self.passed_on.push(("dbname", value)),
            Parameter::SslMode => {
                const MODES: [&str; 6] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];
                if !MODES.contains(&value.as_str()) {
                    return Err(wrong(&one_of(&MODES)));
                }
                self.ssl_mode = Some(value);
            }
            Parameter::SslRootCert => self.ssl_root_cert = Some(value),
            Parameter::SslCert => self.ssl_cert = Some(value),
            Parameter::SslKey => self.ssl_key = Some(value),
            Parameter::ApplicationName => self.application_name = Some(value),
            Parameter::StatementCacheCapacity => {
                let capacity = value.parse::<u16>().map_err(|_| wrong("a number from 0 to 65535"))?;
                self.passed_on.push(("statement-cache-capacity", capacity.to_string()));
            }
            Parameter::ConnectTimeout => {
                let seconds = value.parse().ok().filter(|seconds| (1..=MAX_CONNECT_SECONDS).contains(seconds));
                let seconds = seconds.ok_or_else(|| wrong(&format!("a number of seconds from 1 to {MAX_CONNECT_SECONDS}")))?;
                self.connect_limit = Some(Duration::from_secs(seconds));
            }
            Parameter::SearchPath => self.set("search_path", value)?,
            Parameter::Option(setting) => self.set(setting, value)?,
            Parameter::Options => {
                for (setting, value) in session_settings(&value).ok_or_else(|| wrong("session settings, each as -c NAME=VALUE"))? {
                    self.set(&setting, value)?;
                }
            }
            Parameter::OneOf(values) if values.iter().any(|allowed| allowed.eq_ignore_ascii_case(&value)) => {}
            Parameter::OneOf(values) => return Err(wrong(&one_of(values))),
            Parameter::OtherDriver => self.ignored.push(name.to_owned()),
        }
        Ok(())
    }

    /// A session setting.
    fn set(&mut self, name: &str, value: String) -> Result<(), DsnError> {
        let name = name.to_ascii_lowercase();
        if name == "search_path" {
            let expected = || "one schema of golectra's own, such as golectra".to_owned();
            self.schema = Some(SchemaName::parse(&value).ok_or_else(|| DsnError::Value { name, expected: expected() })?);
        } else if OWN_SETTINGS.contains(&name.as_str()) {
            return Err(DsnError::OwnSetting(name));
        } else {
            self.session.push((name, value));
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Dsn, DsnError> {
        match (self.host.take(), self.host_address.take()) {
            (Some(_), Some(_)) => return Err(DsnError::Conflict("it has both host and hostaddr: leave one of them")),
            (host, address) => self.passed_on.extend(host.or(address).map(|host| ("host", host))),
        }
        self.tls()?;
        self.passed_on.push(("application_name", self.application_name.unwrap_or_else(|| "golectra-server".to_owned())));
        // In the form in which sqlx looks for the password's file only after it knows the host and the user.
        let mut url = "postgres:///?".to_owned();
        for (name, value) in &self.passed_on {
            let _ = write!(url, "{name}={}&", encode(value));
        }
        let options: PgConnectOptions = url.parse().map_err(|_| DsnError::Malformed)?;
        Ok(Dsn {
            options: options.disable_statement_logging(),
            schema: self.schema.unwrap_or_default(),
            connect_limit: self.connect_limit.unwrap_or(CONNECT_LIMIT),
            session: self.session,
            ignored: self.ignored,
        })
    }

    /// As libpq has it, where sqlx would do less than was asked for.
    fn tls(&mut self) -> Result<(), DsnError> {
        let mut mode = self.ssl_mode.take();
        // sqlx would never try TLS; whoever allows it has nothing against it.
        if mode.as_deref() == Some("allow") {
            mode = Some("prefer".to_owned());
        }
        match (self.ssl_root_cert.take(), mode.as_deref()) {
            (None, _) => {}
            (Some(root), None | Some("verify-full")) if root == "system" => mode = Some("verify-full".to_owned()),
            (Some(root), _) if root == "system" => {
                return Err(DsnError::Conflict("sslrootcert=system needs sslmode=verify-full"));
            }
            (Some(root), Some("require" | "verify-ca" | "verify-full")) => {
                self.passed_on.push(("sslrootcert", readable("sslrootcert", root)?));
                if mode.as_deref() == Some("require") {
                    mode = Some("verify-ca".to_owned());
                }
            }
            (Some(_), _) => {
                return Err(DsnError::Conflict("sslrootcert checks nothing without sslmode=verify-full or sslmode=verify-ca"));
            }
        }
        match (self.ssl_cert.take(), self.ssl_key.take()) {
            (Some(cert), Some(key)) => {
                self.passed_on.extend([("sslcert", readable("sslcert", cert)?), ("sslkey", readable("sslkey", key)?)]);
            }
            (None, None) => {}
            _ => return Err(DsnError::Conflict("sslcert and sslkey belong together: give both or neither")),
        }
        self.passed_on.extend(mode.map(|mode| ("sslmode", mode)));
        Ok(())
    }
}

/// A name may be part of a password that was not encoded, unless it looks like a name.
fn unsupported(name: &str) -> DsnError {
    let is_name = name.len() <= 40 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
    if is_name && !name.is_empty() { DsnError::Unsupported(name.to_owned()) } else { DsnError::Malformed }
}

fn one_of(values: &[&str]) -> String {
    match values {
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
        [] => String::new(),
    }
}

fn readable(name: &'static str, path: String) -> Result<String, DsnError> {
    match std::fs::File::open(&path) {
        Ok(_) => Ok(path),
        Err(error) => Err(DsnError::File { name, reason: error.to_string() }),
    }
}

/// The settings in `-c NAME=VALUE --NAME=VALUE …`, where a backslash keeps a space in a value. None where there is anything else.
fn session_settings(options: &str) -> Option<Vec<(String, String)>> {
    let mut words = vec![String::new()];
    let mut chars = options.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => words.last_mut()?.push(chars.next()?),
            c if c.is_ascii_whitespace() => words.push(String::new()),
            c => words.last_mut()?.push(c),
        }
    }
    let mut words = words.into_iter().filter(|word| !word.is_empty());
    let mut found = Vec::new();
    while let Some(word) = words.next() {
        let setting = match (word.strip_prefix("--"), word.strip_prefix("-c")) {
            (None, Some("")) => words.next()?,
            (Some(setting), _) | (None, Some(setting)) => setting.to_owned(),
            (None, None) => return None,
        };
        let (name, value) = setting.split_once('=')?;
        let name = name.replace('-', "_");
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.".contains(&byte)) {
            return None;
        }
        found.push((name, value.to_owned()));
    }
    Some(found)
}

/// Percent-encodes a value for the query of a URL.
fn encode(value: &str) -> String {
    value.bytes().fold(String::new(), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}

#[cfg(test)]
mod tests;
