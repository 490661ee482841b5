//! Which parameters a DSN may have. The names are those of libpq; drivers of other languages have some more.

/// What a parameter means here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parameter<'a> {
    Host,
    HostAddress,
    Port,
    User,
    Password,
    Database,
    SslMode,
    SslRootCert,
    SslCert,
    SslKey,
    ApplicationName,
    StatementCacheCapacity,
    ConnectTimeout,
    SearchPath,
    /// Session settings as libpq takes them, `-c NAME=VALUE …`.
    Options,
    /// One session setting as sqlx takes it, `options[NAME]=VALUE`.
    Option(&'a str),
    /// Only these values describe what golectra-server does.
    OneOf(&'static [&'static str]),
    /// Belongs to another driver's connection pool or statement cache; has no effect here.
    OtherDriver,
}

/// Settings of the pools and caches of pgx, lib/pq and Prisma that are not named `pool_…`.
const OTHER_DRIVERS: [&str; 9] = [
    "statement_cache_capacity",
    "statement_cache_mode",
    "description_cache_capacity",
    "default_query_exec_mode",
    "prefer_simple_protocol",
    "binary_parameters",
    "connection_limit",
    "min_read_buffer_size",
    "disable_prepared_binary_result",
];

impl<'a> Parameter<'a> {
    /// The parameter of this name; none when it is not supported.
    pub(super) fn named(name: &'a str) -> Option<Self> {
        Some(match name {
            "host" => Self::Host,
            "hostaddr" => Self::HostAddress,
            "port" => Self::Port,
            "user" => Self::User,
            "password" => Self::Password,
            "dbname" | "database" => Self::Database,
            "sslmode" | "ssl-mode" => Self::SslMode,
            "sslrootcert" | "ssl-root-cert" | "ssl-ca" => Self::SslRootCert,
            "sslcert" | "ssl-cert" => Self::SslCert,
            "sslkey" | "ssl-key" => Self::SslKey,
            "application_name" => Self::ApplicationName,
            "statement-cache-capacity" => Self::StatementCacheCapacity,
            "connect_timeout" => Self::ConnectTimeout,
            "search_path" => Self::SearchPath,
            "options" => Self::Options,
            // golectra-server writes, so it insists on a primary whatever is asked for.
            "target_session_attrs" => Self::OneOf(&["read-write", "primary", "any"]),
            "client_encoding" => Self::OneOf(&["UTF8", "UTF-8", "auto"]),
            "channel_binding" | "gssencmode" => Self::OneOf(&["prefer", "disable"]),
            "sslnegotiation" => Self::OneOf(&["postgres"]),
            "sslcompression" => Self::OneOf(&["0"]),
            "sslsni" => Self::OneOf(&["1"]),
            "load_balance_hosts" => Self::OneOf(&["disable"]),
            _ if name.starts_with("pool_") || OTHER_DRIVERS.contains(&name) => Self::OtherDriver,
            _ => Self::Option(name.strip_prefix("options[")?.strip_suffix(']')?),
        })
    }
}
