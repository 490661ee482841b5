//! Reads DATABASE_DSN: a URL, or the `key=value` words that libpq and the original server's driver take as well.

use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use super::OpenError;

/// What sqlx knows of a URL's query. It logs the values of others, which may be secrets, so they are left out.
const KNOWN: [&str; 19] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
    "statement-cache-capacity",
    "",
];

/// The options of a DSN.
pub(super) fn parse(dsn: &str) -> Result<PgConnectOptions, OpenError> {
    let dsn = dsn.trim();
    let options = if dsn.starts_with("postgres://") || dsn.starts_with("postgresql://") {
        without_unknown(dsn).parse().map_err(|_| OpenError::Dsn)?
    } else {
        from_words(dsn).ok_or(OpenError::Dsn)?
    };
    Ok(options.application_name("golectra-server").disable_statement_logging())
}

/// The URL without the parameters that sqlx does not know.
fn without_unknown(url: &str) -> String {
    let Some((base, query)) = url.split_once('?') else { return url.to_owned() };
    let known = |pair: &&str| {
        let key = pair.split_once('=').map_or(*pair, |(key, _)| key);
        KNOWN.contains(&key) || key.starts_with("options[")
    };
    format!("{base}?{}", query.split('&').filter(known).collect::<Vec<_>>().join("&"))
}

/// `host=db user='a b' …`, with `\` before a quote or another `\`.
fn from_words(text: &str) -> Option<PgConnectOptions> {
    let mut options = PgConnectOptions::new();
    let mut rest = text;
    let mut words = 0;
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=')?;
        let (value, after) = word(after.trim_start())?;
        options = match key.trim_end() {
            "host" | "hostaddr" if value.starts_with('/') => options.socket(value),
            "host" | "hostaddr" => options.host(&value),
            "port" => options.port(value.parse().ok()?),
            "user" => options.username(&value),
            "password" => options.password(&value),
            "dbname" | "database" => options.database(&value),
            "sslmode" => options.ssl_mode(value.parse::<PgSslMode>().ok()?),
            "sslrootcert" => options.ssl_root_cert(value),
            "sslcert" => options.ssl_client_cert(value),
            "sslkey" => options.ssl_client_key(value),
            // Pool sizes and time limits of other drivers.
            key if !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') => options,
            _ => return None,
        };
        words += 1;
        rest = after.trim_start();
    }
    (words > 0).then_some(options)
}

/// A value, which may be quoted, and what follows it.
fn word(text: &str) -> Option<(String, &str)> {
    let quoted = text.starts_with('\'');
    let mut chars = text.char_indices().skip(usize::from(quoted));
    let mut value = String::new();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.push(chars.next()?.1),
            '\'' if quoted => return Some((value, &text[at + 1..])),
            c if !quoted && c.is_whitespace() => return Some((value, &text[at..])),
            c => value.push(c),
        }
    }
    (!quoted).then_some((value, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_and_words_say_the_same() {
        for dsn in [
            "postgres://me:se%20cret@db.example:5433/metrics?sslmode=disable&pool_max_conns=4",
            "postgresql://me:se%20cret@db.example:5433/metrics?sslmode=disable",
            "host=db.example port=5433 user=me password='se cret' dbname=metrics sslmode=disable pool_max_conns=4",
            " host = db.example  port=5433 user=me password=se\\ cret dbname=metrics sslmode=disable",
        ] {
            let options = parse(dsn).unwrap();
            assert_eq!(
                (options.get_host(), options.get_port(), options.get_username(), options.get_database()),
                ("db.example", 5433, "me", Some("metrics")),
                "{dsn}"
            );
            assert!(matches!(options.get_ssl_mode(), PgSslMode::Disable), "{dsn}");
            assert!(options.to_url_lossy().as_str().contains("me:se%20cret@"), "{dsn}");
        }
    }

    #[test]
    fn nonsense_is_refused_without_being_quoted() {
        for dsn in
            ["", "hunter2", "mysql://u:hunter2@h/d", "postgres://u:hunter2@h:port/d", "host=h password='hunter2", "port=hunter2 host=h"]
        {
            let error = parse(dsn).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{dsn}");
        }
    }

    #[test]
    fn unknown_parameters_never_reach_the_log() {
        assert_eq!(without_unknown("postgres://h/d?sslpassword=x&sslmode=require&y"), "postgres://h/d?sslmode=require");
        assert_eq!(without_unknown("postgres://h/d"), "postgres://h/d");
    }
}
