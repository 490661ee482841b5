//! The server's settings: the only place that reads the environment and the flags.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use golectra_process::settings::BytesError;
use golectra_process::{BodyBytes, Bytes, Interval, KeyId, ListenAddress, PositiveInterval, Retention, Secret, WebhookKey};
use ipnet::IpNet;

use crate::access::{AuthHeader, AuthRole};
use crate::history::export::{Format, Position};
use crate::history::time::parse_time_ms;
use crate::store::Lifetimes;

golectra_process::settings! {
    /// golectra-server takes metrics, keeps them and shows them. Also: golectra-server export, golectra-server selfcheck URL, each with settings of its own (-h).
    pub struct Settings {
        /// Where to listen: host:port, :port or port.
        #[arg(short = 'a', long)]
        pub address: ListenAddress = ":8080",
        /// The snapshot file of the memory store; its journal stands beside it with `.journal` at the end.
        #[arg(short = 'f', long)]
        pub file_storage_path: PathBuf = "metrics-db.json",
        /// The PostgreSQL database, as postgres://user:password@host/name. Without it metrics are kept in memory.
        #[arg(short = 'd', long)]
        pub database_dsn: Option<Secret>,
        /// The key that bodies are hashed with (header HashSHA256), and the signing key `default`. Without it hashes are neither checked nor sent.
        #[arg(short = 'k', long)]
        pub key: Option<Secret>,
        /// A folder of signing keys (header Golectra-Signature): each file's name is a key's id, its content the key. It is read again when it changes.
        pub keys_dir: Option<PathBuf>,
        /// compat: hashes and signatures are checked where a request carries them. required: every request that changes something must carry a valid Golectra-Signature.
        pub signatures: SignatureMode = "compat",
        /// A file of API tokens, a line `name:scope:token` each, with the scopes read, write and admin: at most 1,000 tokens, names of 1 to 64 characters of `[A-Za-z0-9._-]`, comments after `#` at the beginning of a line. With it, the pages, everything that Prometheus's interfaces read, silences, receivers and remote-write need a token (Bearer, or the password of Basic; in a browser, the form that signs in). It is read again when it changes.
        pub api_tokens_file: Option<PathBuf>,
        /// How often the memory store writes its snapshot; 0 has every write on disk before its answer.
        #[arg(short = 'i', long)]
        pub store_interval: Interval = "300s",
        /// Load the snapshot file at start.
        #[arg(short = 'r', long)]
        pub restore: bool = "false",
        /// A file that gets one JSON line for each successful write.
        pub audit_file: Option<PathBuf>,
        /// A webhook that gets one POST for each successful write.
        pub audit_url: Option<Secret>,
        /// The key that webhook requests are signed with (Standard Webhooks): any text, or whsec_ and base64.
        pub audit_key: Option<WebhookKey>,
        /// How many audit events may wait in memory for each sink, where there is no database; more, or more than 128 MiB of them, are dropped and counted. A crash loses those that wait.
        pub audit_queue: NonZeroUsize = "10000",
        /// The space that waiting audit events and dead letters may take in the database, at least 1MiB. Beyond it the oldest dead letters and then the oldest events are dropped and counted. This space comes beside HISTORY_MAX_BYTES.
        pub audit_database_max_bytes: AuditDatabaseBytes = "1GiB",
        /// Where /metrics and /ping of this process are served for Prometheus. Without it they are not.
        pub metrics_address: Option<ListenAddress>,
        /// What this server is called among those that share a database: its audit file gets the events of its own writes. The host's name by default. Set it in containers with AUDIT_FILE: a name that changes leaves events of the old one undelivered.
        pub instance: Option<String>,
        /// How long it is remembered which batches were applied, so that a repeat is recognised; older batches are refused. At least 1h, as the five below.
        pub dedup_window: Retention = "48h",
        /// How long history is kept at full resolution. If it is shorter than DEDUP_WINDOW, reports that are older than it are accepted and their samples are not kept.
        pub retention_raw: Retention = "30d",
        /// How long 5-minute summaries (rollups) are kept: count, sum, minimum, maximum, first and last sample of each 5 minutes. Not shorter than RETENTION_RAW.
        pub retention_5m: Retention = "180d",
        /// The same of each hour. Not shorter than RETENTION_5M.
        pub retention_1h: Retention = "2y",
        /// A series of a named source that is missing from the source's reports for this long is no longer listed or counted. Time in which the source sends nothing does not count.
        pub series_expiry: Retention = "24h",
        /// A named source that sends nothing for this long is no longer listed or counted, and neither are its series.
        pub source_expiry: Retention = "7d",
        /// How long the database keeps reports as rows that SQL can read before they are sealed into chunks, counted from the end of their half hour. From 2m to 48h.
        pub seal_after: SealAfter = "5m",
        /// What history may take; beyond it the oldest is dropped: samples first, then rollups of 5 minutes, then those of an hour. In a database it is what golectra's tables and indexes take, but for those of audit events (AUDIT_DATABASE_MAX_BYTES), without a limit by default, and whole days are dropped. If most of the space belongs to series that no longer report (short-lived pods), the oldest four weeks are dropped together: their samples, their rollups and then those series. In memory it is 256MiB by default, and its files in FILE_STORAGE_PATH.history take up to about twice as much of the disk. 0 is no limit in a database and keeps none in memory.
        pub history_max_bytes: Option<Bytes>,
        /// How many idempotency keys the memory store remembers; when there are more it forgets the oldest and refuses batches as old as those.
        pub max_remembered_keys: usize = "2000000",
        /// How many series may be held in all.
        pub max_series: NonZeroUsize = "1000000",
        /// How many series one source may have.
        pub max_series_per_source: NonZeroUsize = "100000",
        /// The largest body, packed or unpacked; a larger one is answered 413. At least 512 bytes.
        pub max_body_bytes: BodyBytes = "16MiB",
        /// The most metrics in one batch; more are answered 413. golectra's agents send batches of up to 5,000, and drop a batch that is refused.
        pub max_batch_items: NonZeroUsize = "10000",
        /// The memory that all bodies under way may take together; beyond it requests are answered 503 with Retry-After.
        pub max_inflight_bytes: Bytes = "128MiB",
        /// How many connections may be open at once, and at most 3/4 of the limit of open files; more wait.
        pub max_connections: NonZeroUsize = "8192",
        /// How long a request's head may take from its first byte.
        pub header_timeout: PositiveInterval = "10s",
        /// How long a request's body may take.
        pub body_timeout: PositiveInterval = "30s",
        /// How long a connection may stay open between two requests.
        pub idle_timeout: Interval = "75s",
        /// How long stopping may take after SIGINT, SIGTERM or SIGHUP. Requests have half of it, SHUTDOWN_LINGER included; audit events and the store have the rest.
        pub shutdown_timeout: PositiveInterval = "20s",
        /// After SIGTERM the server goes on accepting requests for this long, and closes each connection after its answer. Part of SHUTDOWN_TIMEOUT, at least 1s shorter than half of it. For servers behind a load balancer.
        pub shutdown_linger: Interval = "0s",
        /// How many connections to the database may be open; at least 3 are used.
        pub database_connections: u32 = "10",
        /// How many connections to the database queries of the history may have, beside those; at least 1 is used. There is one more, so that the rules of alerts need not wait for queries.
        pub database_query_connections: u32 = "4",
        /// How many queries may run at once, 1 to 256. Further queries wait in a queue of 32 × QUERY_CONCURRENCY; beyond it they get 503.
        pub query_concurrency: Concurrency = "4",
        /// How long a query may take, its waiting time included. A request may ask for less with the parameter `timeout`.
        pub query_timeout: PositiveInterval = "30s",
        /// How many series one query may select.
        pub query_max_series: NonZeroUsize = "100000",
        /// The memory that all queries under way may take together: what they read, what they compute and their answers.
        pub query_max_bytes: QueryBytes = "128MiB",
        /// The memory for what searches of the index of series found, so that the next query for the same series does not ask the database; 0 remembers nothing. Without effect in memory.
        pub index_cache_bytes: Bytes = "32MiB",
        /// The memory for what queries read of samples, so that a dashboard's next refresh does not read it from the database again: half for chunks (samples that are sealed), half for frames (samples that are not sealed yet); 0 keeps nothing. Without effect in memory.
        pub sample_cache_bytes: Bytes = "64MiB",
        /// Queries that take at least this long are logged with what they took; 0 logs all of them.
        pub query_log_after: Interval = "5s",
        /// A folder of rules in Prometheus's format (*.yaml, *.yml), beside those that are built in. It is read again when it changes.
        pub rules_dir: Option<PathBuf>,
        /// A folder of panels and pages (*.yaml, *.yml), beside those that are built in. It is read again when it changes.
        pub panels_dir: Option<PathBuf>,
        /// Names of built-in rules that are not evaluated, separated by commas; `all` for none of them.
        pub built_in_rules_disabled: Names = "",
        /// How often rules are evaluated, from 1s to 1h; 0 evaluates none. Also the step of subqueries that give none; with 0 that is 1m.
        pub evaluation_interval: EvaluationInterval = "15s",
        /// A file of receivers of alerts (YAML): at most 50 receivers, 50 quiet_hours each, and repeat_interval at least 1m. It is read again when it changes.
        pub receivers_file: Option<PathBuf>,
        /// Where people reach this server, such as https://golectra.example.com: what receivers of alerts are sent links to it. Without a user, a query or a fragment.
        pub external_url: Option<ExternalUrl>,
        /// An address outside that is requested (GET) every minute by the server that evaluates rules, as long as that succeeds.
        pub heartbeat_url: Option<Secret>,
        /// Proxies whose X-Forwarded-For, X-Forwarded-Host and X-Forwarded-Proto are believed, and AUTH_HEADER: addresses or networks such as 10.0.0.0/8, separated by commas.
        pub trusted_proxies: Networks = "",
        /// The header in which a proxy of TRUSTED_PROXIES names the user whom it has signed in, such as X-Forwarded-User. With it, what API_TOKENS_FILE protects needs such a user or a token; from other addresses the header has no effect. The proxy must remove it from what clients send.
        pub auth_header: Option<AuthHeader>,
        /// What these users may do: read (pages and queries) or admin (also silences and tests of receivers).
        pub auth_header_role: AuthRole = "read",
    }
    removed {
        history_retention => [dedup_window, retention_raw],
    }
}

golectra_process::settings! {
    /// golectra-server selfcheck URL writes a batch twice to a running server and sees that it was counted once. A server that cannot be reached or is not ready is waited for, for up to 30 seconds.
    pub struct SelfcheckSettings {
        /// The server's key, as KEY of the server.
        #[arg(short = 'k', long)]
        pub key: Option<Secret>,
        /// The server's folder of keys, as KEYS_DIR of the server.
        pub keys_dir: Option<PathBuf>,
        /// Which key of the folder signs.
        pub signing_key_id: Option<KeyId>,
    }
}

golectra_process::settings! {
    /// golectra-server export writes history at full resolution, as /api/v1/export does, without a server: from the database, or from the files of a memory store that no server uses meanwhile.
    pub struct ExportSettings {
        /// The PostgreSQL database, as DATABASE_DSN of the server. Without it the files of the memory store are read.
        #[arg(short = 'd', long)]
        pub database_dsn: Option<Secret>,
        /// The snapshot file of the memory store, as FILE_STORAGE_PATH of the server.
        #[arg(short = 'f', long)]
        pub file_storage_path: PathBuf = "metrics-db.json",
        /// Which series: PromQL selectors, one a line; a series must match one of them. All by default.
        #[arg(long = "match")]
        pub export_match: Option<String>,
        /// The first time, as unix seconds or RFC 3339. The oldest sample by default.
        #[arg(long = "start")]
        pub export_start: Option<ExportTime>,
        /// The last time, as unix seconds or RFC 3339. The newest sample by default.
        #[arg(long = "end")]
        pub export_end: Option<ExportTime>,
        /// csv or jsonl.
        #[arg(long = "format")]
        pub export_format: Format = "jsonl",
        /// Goes on where an export of the same series and time was cut off: the id and the last time of its last whole line, as ID@UNIX_MILLISECONDS.
        #[arg(long = "after")]
        pub export_after: Option<Position>,
        /// The file to write, which must not exist; with --after it is appended to. Standard output by default.
        #[arg(short = 'o', long = "output")]
        pub export_output: Option<PathBuf>,
        /// How long a read from the database may take.
        pub query_timeout: PositiveInterval = "5m",
    }
}

/// A time in unix milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExportTime(i64);

/// What the time should have been.
#[derive(Debug, thiserror::Error)]
#[error("expected unix seconds or RFC 3339, such as 1795724303 or 2026-11-26T20:58:23Z")]
pub struct ExportTimeError;

impl ExportTime {
    /// In unix milliseconds.
    pub const fn millis(self) -> i64 {
        self.0
    }
}

impl FromStr for ExportTime {
    type Err = ExportTimeError;

    fn from_str(text: &str) -> Result<Self, ExportTimeError> {
        parse_time_ms(text).map(Self).ok_or(ExportTimeError)
    }
}

/// Where people reach the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalUrl(String);

/// What the address should have been.
#[derive(Debug, thiserror::Error)]
#[error("expected an address such as https://golectra.example.com, without a user, a query or a fragment")]
pub struct ExternalUrlError;

impl ExternalUrl {
    /// Without a slash at its end.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ExternalUrl {
    type Err = ExternalUrlError;

    fn from_str(text: &str) -> Result<Self, ExternalUrlError> {
        let url = reqwest::Url::parse(text).map_err(|_| ExternalUrlError)?;
        let is_plain = url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
        if !is_plain || !matches!(url.scheme(), "http" | "https") {
            return Err(ExternalUrlError);
        }
        Ok(Self(url.as_str().trim_end_matches('/').to_owned()))
    }
}

/// How many of something may run at once, each on a thread of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Concurrency(usize);

/// What the number should have been.
#[derive(Debug, thiserror::Error)]
#[error("expected a whole number from 1 to {}", Concurrency::MAX)]
pub struct ConcurrencyError;

impl Concurrency {
    const MAX: usize = 256;

    /// As a number.
    pub const fn get(self) -> usize {
        self.0
    }
}

impl FromStr for Concurrency {
    type Err = ConcurrencyError;

    fn from_str(text: &str) -> Result<Self, ConcurrencyError> {
        text.parse().ok().filter(|number| (1..=Self::MAX).contains(number)).map(Self).ok_or(ConcurrencyError)
    }
}

/// The space for audit events in the database, at least 1 MiB: with less of it, such as 0, every event would be dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditDatabaseBytes(Bytes);

/// Why the space is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuditDatabaseBytesError {
    /// It is not a number of bytes.
    #[error(transparent)]
    Syntax(#[from] BytesError),
    /// Less than [`AuditDatabaseBytes::MIN`].
    #[error("expected at least 1MiB, such as 1GiB")]
    TooFew,
}

impl AuditDatabaseBytes {
    /// The least space.
    pub const MIN: usize = 1 << 20;

    /// The number of bytes.
    pub const fn get(self) -> u64 {
        self.0.get() as u64
    }
}

impl FromStr for AuditDatabaseBytes {
    type Err = AuditDatabaseBytesError;

    fn from_str(text: &str) -> Result<Self, AuditDatabaseBytesError> {
        let bytes: Bytes = text.parse()?;
        if bytes.get() < Self::MIN { Err(AuditDatabaseBytesError::TooFew) } else { Ok(Self(bytes)) }
    }
}

/// The memory of queries: with none of it every query would be refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueryBytes(Bytes);

/// Why the memory is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QueryBytesError {
    /// It is not a number of bytes.
    #[error(transparent)]
    Syntax(#[from] BytesError),
    /// None at all.
    #[error("expected a number of bytes above 0, such as 128MiB")]
    Zero,
}

impl QueryBytes {
    /// The number of bytes.
    pub const fn get(self) -> usize {
        self.0.get()
    }
}

impl FromStr for QueryBytes {
    type Err = QueryBytesError;

    fn from_str(text: &str) -> Result<Self, QueryBytesError> {
        let bytes: Bytes = text.parse()?;
        if bytes.get() == 0 { Err(QueryBytesError::Zero) } else { Ok(Self(bytes)) }
    }
}

/// What requests must carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignatureMode {
    /// What they carry is checked.
    Compat,
    /// A valid signature.
    Required,
}

/// What the mode should have been.
#[derive(Debug, thiserror::Error)]
#[error("expected compat or required")]
pub struct SignatureModeError;

impl FromStr for SignatureMode {
    type Err = SignatureModeError;

    fn from_str(text: &str) -> Result<Self, SignatureModeError> {
        match text {
            "compat" => Ok(Self::Compat),
            "required" => Ok(Self::Required),
            _ => Err(SignatureModeError),
        }
    }
}

/// How long reports stay rows before they are sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealAfter(Duration);

/// The text is no such time.
#[derive(Debug, thiserror::Error)]
#[error("expected a duration from 2m to 48h, such as 5m or 24h")]
pub struct SealAfterError;

impl SealAfter {
    /// The same as the standard library's type.
    pub const fn duration(self) -> Duration {
        self.0
    }
}

impl FromStr for SealAfter {
    type Err = SealAfterError;

    fn from_str(text: &str) -> Result<Self, SealAfterError> {
        let duration = text.parse::<Interval>().map_err(|_| SealAfterError)?.duration();
        let allowed = Lifetimes::MIN_SEAL_AFTER..=Duration::from_hours(48);
        if allowed.contains(&duration) { Ok(Self(duration)) } else { Err(SealAfterError) }
    }
}

/// How often rules are evaluated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EvaluationInterval(Duration);

/// The text is no such interval.
#[derive(Debug, thiserror::Error)]
#[error("expected a duration from 1s to 1h in whole seconds, such as 15s, or 0")]
pub struct EvaluationIntervalError;

impl EvaluationInterval {
    /// The same as the standard library's type; zero where rules are not evaluated.
    pub const fn duration(self) -> Duration {
        self.0
    }

    /// The step of a subquery that gives none, which is this interval in Prometheus too. Where rules are not evaluated it is Prometheus's default.
    pub const fn subquery_step(self) -> Duration {
        if self.0.is_zero() { Duration::from_mins(1) } else { self.0 }
    }
}

impl FromStr for EvaluationInterval {
    type Err = EvaluationIntervalError;

    fn from_str(text: &str) -> Result<Self, EvaluationIntervalError> {
        let duration = text.parse::<Interval>().map_err(|_| EvaluationIntervalError)?.duration();
        let is_whole = duration.subsec_nanos() == 0 && duration <= Duration::from_hours(1);
        if is_whole { Ok(Self(duration)) } else { Err(EvaluationIntervalError) }
    }
}

/// A list of names.
#[derive(Debug, Clone, Default)]
pub struct Names(BTreeSet<String>);

impl Names {
    /// Each once.
    pub const fn names(&self) -> &BTreeSet<String> {
        &self.0
    }
}

impl FromStr for Names {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()))
    }
}

/// A list of networks.
#[derive(Debug, Clone, Default)]
pub struct Networks(Vec<IpNet>);

/// What the list should have looked like.
#[derive(Debug, thiserror::Error)]
#[error("addresses or networks such as 10.0.0.0/8, separated by commas")]
pub struct NetworksError;

impl Networks {
    /// Whether one of the networks has this address.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of the networks has every address of its family.
    pub fn has_everyone(&self) -> bool {
        self.0.iter().any(|network| network.prefix_len() == 0)
    }
}

impl FromStr for Networks {
    type Err = NetworksError;

    fn from_str(text: &str) -> Result<Self, NetworksError> {
        let network = |one: &str| one.parse().or_else(|_| one.parse::<IpAddr>().map(IpNet::from)).map_err(|_| NetworksError);
        text.split(',').map(str::trim).filter(|one| !one.is_empty()).map(network).collect::<Result<_, _>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contracts_flags_and_defaults() {
        let defaults = Settings::parse([] as [&str; 0], [] as [(&str, &str); 0]).unwrap();
        assert_eq!(defaults.address.to_string(), ":8080");
        assert_eq!(defaults.file_storage_path, PathBuf::from("metrics-db.json"));
        assert_eq!(defaults.store_interval.duration().as_secs(), 300);
        assert!(!defaults.restore && defaults.database_dsn.is_none() && defaults.key.is_none());

        let args =
            ["-a=:1", "-f", "x.json", "-d=postgres://h/d", "-k", "secret", "-i=0", "-r", "--audit-file", "a.log", "-audit-url=http://s"];
        let set = Settings::parse(args, [("ADDRESS", "localhost:2"), ("KEY", "")]).unwrap();
        assert_eq!(set.address.to_string(), "localhost:2", "a variable wins over its flag");
        assert_eq!(set.key.unwrap().expose(), "secret", "an empty variable is unset");
        assert!(set.restore && set.store_interval.duration().is_zero());
        assert_eq!(set.audit_file, Some(PathBuf::from("a.log")));
        assert_eq!(set.audit_url.unwrap().expose(), "http://s");
    }

    #[test]
    fn lifetimes_have_a_unit_and_a_minimum() {
        let defaults = Settings::parse([] as [&str; 0], [] as [(&str, &str); 0]).unwrap();
        let hours = |retention: Retention| retention.duration().as_secs() / 3600;
        assert_eq!((hours(defaults.dedup_window), hours(defaults.retention_raw)), (48, 30 * 24));
        assert_eq!(defaults.seal_after.duration(), Duration::from_mins(5));
        for (value, valid) in [("2m", true), ("48h", true), ("119s", false), ("48h1s", false), ("", true), ("x", false)] {
            assert_eq!(Settings::parse([] as [&str; 0], [("SEAL_AFTER", value)]).is_ok(), valid, "{value}");
        }
        assert_eq!((hours(defaults.series_expiry), hours(defaults.source_expiry)), (24, 7 * 24));
        assert_eq!((hours(defaults.retention_5m), hours(defaults.retention_1h)), (180 * 24, 2 * 365 * 24));
        for name in ["DEDUP_WINDOW", "RETENTION_RAW", "RETENTION_5M", "RETENTION_1H", "SERIES_EXPIRY", "SOURCE_EXPIRY"] {
            for value in ["48", "59m", "0h", "1.5d"] {
                let error = Settings::parse([] as [&str; 0], [(name, value)]).unwrap_err().to_string();
                assert!(error.contains(name) && error.contains(value), "{error}");
            }
            assert!(Settings::parse([] as [&str; 0], [(name, "1y2w3d4h")]).is_ok(), "{name}");
        }
        for (arguments, variables) in [(&["--history-retention=48h"][..], &[][..]), (&[], &[("HISTORY_RETENTION", "48h")])] {
            let error = Settings::parse(arguments.iter().copied(), variables.iter().copied()).unwrap_err().to_string().to_lowercase();
            assert!(error.replace('-', "_").contains("dedup_window") && error.replace('-', "_").contains("retention_raw"), "{error}");
        }
    }

    #[test]
    fn limits_that_would_drop_every_audit_event_are_refused() {
        let parse = |name, value| Settings::parse([] as [&str; 0], [(name, value)]);
        for value in ["0", "1023KiB", "1048575"] {
            let error = parse("AUDIT_DATABASE_MAX_BYTES", value).unwrap_err().to_string();
            let expected =
                format!("invalid value \"{value}\" in the variable AUDIT_DATABASE_MAX_BYTES: expected at least 1MiB, such as 1GiB");
            assert_eq!(error, expected);
        }
        assert!(parse("AUDIT_DATABASE_MAX_BYTES", "much").unwrap_err().to_string().contains("expected a number of bytes"));
        assert_eq!(parse("AUDIT_DATABASE_MAX_BYTES", "1MiB").unwrap().audit_database_max_bytes.get(), 1 << 20);
        let error = parse("AUDIT_QUEUE", "0").unwrap_err().to_string();
        assert!(error.contains("AUDIT_QUEUE: expected a whole number above 0"), "{error}");
    }

    #[test]
    fn limits_that_would_refuse_everything_are_refused() {
        let parse = |name, value| Settings::parse([] as [&str; 0], [(name, value)]);
        for (name, expected) in [
            ("MAX_SERIES", "expected a whole number above 0"),
            ("MAX_SERIES_PER_SOURCE", "expected a whole number above 0"),
            ("MAX_BATCH_ITEMS", "expected a whole number above 0"),
            ("MAX_BODY_BYTES", "expected at least 512 bytes, such as 16MiB"),
            ("HEADER_TIMEOUT", "expected a length of time above 0, such as 10s"),
            ("BODY_TIMEOUT", "expected a length of time above 0, such as 10s"),
            ("SHUTDOWN_TIMEOUT", "expected a length of time above 0, such as 10s"),
            ("MAX_CONNECTIONS", "expected a whole number above 0"),
            ("QUERY_TIMEOUT", "expected a length of time above 0, such as 10s"),
            ("QUERY_MAX_SERIES", "expected a whole number above 0"),
            ("QUERY_MAX_BYTES", "expected a number of bytes above 0, such as 128MiB"),
        ] {
            let error = parse(name, "0").unwrap_err().to_string();
            assert_eq!(error, format!("invalid value \"0\" in the variable {name}: {expected}"));
        }
        assert!(ExportSettings::parse([] as [&str; 0], [("QUERY_TIMEOUT", "0s")]).is_err());
        assert_eq!(parse("QUERY_MAX_BYTES", "1KiB").unwrap().query_max_bytes.get(), 1024);
        assert_eq!(parse("MAX_SERIES", "1").unwrap().max_series.get(), 1);
        assert_eq!(parse("MAX_BODY_BYTES", "512").unwrap().max_body_bytes.get(), 512);
    }

    #[test]
    fn the_documentation_has_the_table_of_settings() {
        let table = Settings::markdown();
        let document = include_str!("../../../docs/settings.md");
        assert!(document.contains(table.trim()), "docs/settings.md's table of golectra-server should be:\n{table}");
        for (command, table) in [("export", ExportSettings::markdown()), ("selfcheck", SelfcheckSettings::markdown())] {
            let section = format!("\n## golectra-server {command}\n");
            let (_, section) = document.split_once(&section).unwrap_or_else(|| panic!("docs/settings.md has no section of {command}"));
            let section = section.split("\n## ").next().unwrap_or_default();
            assert!(section.contains(table.trim()), "docs/settings.md's table of golectra-server {command} should be:\n{table}");
        }
    }

    #[test]
    fn an_external_url_has_no_slash_at_its_end() {
        for (text, url) in [
            ("https://golectra.example.com", Some("https://golectra.example.com")),
            ("http://h:8080/prefix/", Some("http://h:8080/prefix")),
            ("golectra.example.com", None),
            ("ftp://h/", None),
            ("https://me:hush@h/", None),
            ("https://h/?a=b", None),
            ("https://h/#a", None),
        ] {
            assert_eq!(text.parse::<ExternalUrl>().ok().as_ref().map(ExternalUrl::as_str), url, "{text}");
        }
    }

    #[test]
    fn subqueries_have_a_step_where_no_rules_are_evaluated_too() {
        for (text, seconds) in [("15s", 15), ("1h", 3_600), ("0", 60), ("0s", 60)] {
            let interval: EvaluationInterval = text.parse().unwrap();
            assert_eq!(interval.subquery_step(), Duration::from_secs(seconds), "{text}");
        }
    }

    #[test]
    fn concurrency_is_a_number_of_threads() {
        for (text, number) in [("1", Some(1)), ("256", Some(256)), ("0", None), ("257", None), ("-1", None), ("many", None)] {
            assert_eq!(text.parse().ok().map(Concurrency::get), number, "{text}");
        }
    }

    #[test]
    fn networks_are_addresses_or_prefixes() {
        let networks: Networks = "10.0.0.0/8, 192.0.2.7,fd00::/8".parse().unwrap();
        for (address, inside) in [("10.1.2.3", true), ("192.0.2.7", true), ("192.0.2.8", false), ("fd00::1", true), ("::1", false)] {
            assert_eq!(networks.contains(address.parse().unwrap()), inside, "{address}");
        }
        assert!("10.0.0.0/33".parse::<Networks>().is_err());
    }
}
