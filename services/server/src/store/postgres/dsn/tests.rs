use sqlx::postgres::PgSslMode;

use super::*;

fn read(dsn: &str) -> Dsn {
    parse(dsn).unwrap_or_else(|error| panic!("{dsn}: {error}"))
}

fn refused(dsn: &str) -> String {
    parse(dsn).err().unwrap_or_else(|| panic!("{dsn} is taken")).to_string()
}

fn with(parameters: &str) -> String {
    format!("postgres://me:hunter2@db.example/metrics?{parameters}")
}

#[test]
fn urls_and_words_say_the_same() {
    for dsn in [
        "postgres://me:se%20cret@db.example:5433/metrics?sslmode=disable&pool_max_conns=4",
        "postgresql://me:se%20cret@db.example:5433/metrics?sslmode=disable",
        "postgresql://?host=db.example&port=5433&user=me&password=se+cret&dbname=metrics&sslmode=disable",
        "host=db.example port=5433 user=me password='se cret' dbname=metrics sslmode=disable pool_max_conns=4",
        " host = db.example  port=5433 user=me password=se\\ cret database=metrics sslmode=disable",
    ] {
        let options = read(dsn).options;
        assert_eq!(
            (options.get_host(), options.get_port(), options.get_username(), options.get_database()),
            ("db.example", 5433, "me", Some("metrics")),
            "{dsn}"
        );
        assert!(matches!(options.get_ssl_mode(), PgSslMode::Disable), "{dsn}");
        assert!(options.to_url_lossy().as_str().contains("me:se%20cret@"), "{dsn}");
        assert_eq!(options.get_application_name(), Some("golectra-server"));
    }
}

#[test]
fn defaults_are_those_of_sqlx() {
    let default = PgConnectOptions::new_without_pgpass();
    for dsn in ["postgres://", "postgres:///?user=me", "user=me"] {
        let options = read(dsn).options;
        assert_eq!((options.get_host(), options.get_port()), (default.get_host(), default.get_port()), "{dsn}");
    }
    assert_eq!(read("host=/run/pg user=me").options.get_socket().map(std::path::PathBuf::as_path), Some(std::path::Path::new("/run/pg")));
}

#[test]
fn no_error_quotes_a_value() {
    for dsn in [
        "",
        "hunter2",
        "mysql://u:hunter2@h/d",
        "postgres://u:hunter2@h:port/d",
        "host=h password='hunter2",
        "port=hunter2 host=h",
        "postgres://u:12?hunter2/@h/d",
        "postgres://u:12?hunter2",
        "postgres://u:x/hunter2@h/d",
        "postgres://u:hunter2%@h/d",
        "postgres://h/d?hunter2",
        "postgres://h/d?sslmode=hunter2",
        "postgres://h/d?sslrootcert=hunter2&sslmode=verify-full",
        "postgres://h/d?options=hunter2",
        "postgres://h/d?search_path=hunter2,hunter2",
        "postgres://h/d?target_session_attrs=hunter2",
        "postgres://h/d?connect_timeout=hunter2",
        "postgres://h/d?secret=hunter2",
    ] {
        let error = parse(dsn).map(drop).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{dsn}: {error}");
        assert!(error.to_string().starts_with("DATABASE_DSN "), "{error}");
    }
}

#[test]
fn a_password_that_needs_percent_encoding_is_named_as_such() {
    for dsn in ["postgres://me:hunt/er2@db/m", "postgres://me:hunt#er2@db/m", "postgres://me:hunt?er2@db/m", "postgres://me:100%@db/m"] {
        assert!(refused(dsn).contains("must be percent-encoded"), "{dsn}");
    }
}

#[test]
fn several_hosts_are_refused_by_name() {
    for dsn in ["postgres://a,b/m?target_session_attrs=read-write", "host=a,b user=u", "host=a port=1,2", "hostaddr=10.0.0.1,10.0.0.2"] {
        assert!(refused(dsn).contains("several hosts"), "{dsn}");
    }
    assert!(refused("host=a hostaddr=10.0.0.1").contains("both host and hostaddr"));
    assert_eq!(read("hostaddr=10.0.0.1").options.get_host(), "10.0.0.1");
}

#[test]
fn a_parameter_without_effect_is_refused_by_name() {
    for name in ["passfile", "service", "sslpassword", "sslcrl", "requirepeer", "keepalives", "fallback_application_name", "pgbouncer"] {
        assert!(refused(&with(&format!("{name}=1"))).contains(&format!("{name:?}")), "{name}");
    }
    for (parameter, part) in [
        ("target_session_attrs=standby", "target_session_attrs must be read-write, primary or any"),
        ("channel_binding=require", "channel_binding must be prefer or disable"),
        ("gssencmode=require", "gssencmode must be prefer or disable"),
        ("sslnegotiation=direct", "sslnegotiation must be postgres"),
        ("client_encoding=LATIN1", "client_encoding must be UTF8"),
        ("sslmode=yes", "sslmode must be disable, allow, prefer, require, verify-ca or verify-full"),
        ("connect_timeout=0", "connect_timeout must be a number of seconds from 1 to 60"),
        ("options=-c%20statement_timeout%3D0", "sets statement_timeout, which golectra-server sets itself"),
        ("options=--Enable-SeqScan%3Don", "sets enable_seqscan"),
        ("options=-c%20default_transaction_isolation%3Dserializable", "sets default_transaction_isolation"),
        ("options[timezone]=UTC", "sets timezone"),
        ("options=-B%203", "options must be session settings, each as -c NAME=VALUE"),
        ("port=0", "port must be a number from 1 to 65535"),
    ] {
        assert!(refused(&with(parameter)).contains(part), "{parameter}: {}", refused(&with(parameter)));
    }
}

#[test]
fn parameters_that_are_followed() {
    let dsn = read(&with(
        "application_name=mine&connect_timeout=9&target_session_attrs=read-write&channel_binding=prefer\
         &options=-c%20work_mem%3D8MB%20--my-app.x%3Da%5C%20b&options[synchronous_commit]=on&sslmode=",
    ));
    assert_eq!(dsn.options.get_application_name(), Some("mine"));
    assert_eq!(dsn.connect_limit, Duration::from_secs(9));
    let session: Vec<_> = dsn.session.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(session, [("work_mem", "8MB"), ("my_app.x", "a b"), ("synchronous_commit", "on")]);
    let other = read(&with("pool_max_conns=4&statement_cache_mode=describe"));
    assert_eq!(other.ignored, ["pool_max_conns", "statement_cache_mode"]);
}

#[test]
fn a_schema_of_golectras_own() {
    assert_eq!(read(&with("")).schema.as_str(), "golectra");
    for dsn in ["search_path=m", "options=-c%20search_path%3Dm", "options[search_path]=m", "search_path=%22m%22", "search_path=M"] {
        assert_eq!(read(&with(dsn)).schema.as_str(), "m", "{dsn}");
    }
    for value in ["a,b", "$user", "pg_catalog", "information_schema", "a b"] {
        assert!(refused(&with(&format!("search_path={value}"))).contains("search_path must be one schema"), "{value}");
    }
}

#[test]
fn certificates_are_checked_or_refused() {
    let root = tempfile::NamedTempFile::new().unwrap();
    let path = root.path().display();
    for (parameters, mode) in [
        ("sslrootcert=system".to_owned(), PgSslMode::VerifyFull),
        ("sslrootcert=system&sslmode=verify-full".to_owned(), PgSslMode::VerifyFull),
        (format!("sslrootcert={path}&sslmode=verify-full"), PgSslMode::VerifyFull),
        (format!("sslmode=verify-ca&sslrootcert={path}"), PgSslMode::VerifyCa),
        (format!("sslrootcert={path}&sslmode=require"), PgSslMode::VerifyCa),
        ("sslmode=allow".to_owned(), PgSslMode::Prefer),
    ] {
        let url = read(&with(&parameters)).options.to_url_lossy().to_string();
        let found = read(&with(&parameters)).options.get_ssl_mode();
        assert!(std::mem::discriminant(&found) == std::mem::discriminant(&mode), "{parameters}: {found:?}");
        assert_eq!(url.contains("sslrootcert="), parameters.contains(&path.to_string()), "{url}");
    }
    for (parameters, part) in [
        ("sslrootcert=system&sslmode=require".to_owned(), "sslrootcert=system needs sslmode=verify-full"),
        (format!("sslrootcert={path}"), "sslrootcert checks nothing without"),
        (format!("sslrootcert={path}&sslmode=prefer"), "sslrootcert checks nothing without"),
        (format!("sslcert={path}"), "sslcert and sslkey belong together"),
        ("sslrootcert=/nowhere&sslmode=verify-full".to_owned(), "the file that sslrootcert names can't be read: No such file"),
    ] {
        assert!(refused(&with(&parameters)).contains(part), "{parameters}: {}", refused(&with(&parameters)));
    }
}
