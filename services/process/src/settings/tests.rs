//! Settings from variables, flags and defaults.

use std::path::PathBuf;
use std::time::Duration;

use super::{Bytes, Interval, ListenAddress, Retention, Secret, SettingsError};

crate::settings! {
    /// A service with a setting of each kind,
    /// for tests.
    struct Settings {
        /// Where to listen: host:port, :port or port.
        #[arg(short = 'a', long)]
        address: ListenAddress = ":8080",
        /// Where the snapshot is kept.
        #[arg(short = 'f')]
        file_storage_path: PathBuf = "metrics-db.json",
        /// DSN of the database.
        ///
        /// Without it metrics live in memory | nowhere else.
        #[arg(short = 'd')]
        database_dsn: Option<Secret>,
        /// How often the snapshot is written.
        #[arg(short = 'i', long)]
        store_interval: Interval = "300s",
        /// Whether the snapshot is loaded at the start
        #[arg(short = 'r', long)]
        restore: bool = "false",
        /// Senders at once.
        #[arg(short = 'l', long)]
        rate_limit: u16 = "1",
        /// Largest body.
        max_body: Bytes = "16MiB",
        /// Where events go.
        audit_file: Option<String>,
        /// How long values are kept.
        retention: Retention = "2d",
    }
    removed {
        history => [retention],
        old_limits => [rate_limit, max_body],
    }
}

fn parse(arguments: &[&str], variables: &[(&str, &str)]) -> Result<Settings, String> {
    Settings::parse(arguments.iter().copied(), variables.iter().copied()).map_err(|error| match error {
        SettingsError::Invalid(sentence) => sentence,
        SettingsError::Help(_) => panic!("help was not asked for"),
    })
}

#[test]
fn defaults() {
    let settings = parse(&[], &[]).unwrap();
    assert_eq!(settings.address.to_string(), ":8080");
    assert_eq!(settings.file_storage_path, PathBuf::from("metrics-db.json"));
    assert!(settings.database_dsn.is_none() && settings.audit_file.is_none() && !settings.restore);
    assert_eq!(settings.store_interval.duration(), Duration::from_mins(5));
    assert_eq!((settings.rate_limit, settings.max_body.get()), (1, 16 << 20));
    assert_eq!(settings.retention.duration(), Duration::from_hours(48));
}

#[test]
fn a_variable_wins_over_a_flag_and_an_empty_one_does_not() {
    for (arguments, variables, address) in [
        (&["-a=:1"][..], &[("ADDRESS", ":2")][..], ":2"),
        (&["-a=:1"], &[("ADDRESS", "")], ":1"),
        (&["-a=:1"], &[], ":1"),
        (&[], &[("ADDRESS", ":2")], ":2"),
        (&[], &[("ADDRESS", "")], ":8080"),
        (&[], &[("address", ":2"), ("GOLECTRA_ADDRESS", ":3"), ("SHELL", "sh")], ":8080"),
        (&["--address", "localhost:1"], &[], "localhost:1"),
    ] {
        assert_eq!(parse(arguments, variables).unwrap().address.to_string(), address, "{arguments:?} {variables:?}");
    }
}

#[test]
fn go_forms_reach_every_kind_of_setting() {
    let settings =
        parse(&["-r", "-i", "1m30s", "-d=postgres://u:p@h/db?a=b", "--audit-file", "-x", "-max-body=1GiB", "-l=7", "-f", "x y"], &[])
            .unwrap();
    assert!(settings.restore);
    assert_eq!(settings.store_interval.duration(), Duration::from_secs(90));
    assert_eq!(settings.database_dsn.unwrap().expose(), "postgres://u:p@h/db?a=b");
    assert_eq!((settings.audit_file.as_deref(), settings.max_body.get(), settings.rate_limit), (Some("-x"), 1 << 30, 7));
    assert_eq!(settings.file_storage_path, PathBuf::from("x y"));
    for (text, restore) in [("1", true), ("t", true), ("TRUE", true), ("True", true), ("0", false), ("F", false), ("false", false)] {
        assert_eq!(parse(&[&format!("-r={text}")], &[]).unwrap().restore, restore);
        assert_eq!(parse(&[], &[("RESTORE", text)]).unwrap().restore, restore);
    }
    assert!(!parse(&["-r"], &[("RESTORE", "false")]).unwrap().restore);
}

#[test]
fn a_bad_value_is_one_sentence_that_says_where_and_what_is_expected() {
    for (arguments, variables, parts) in [
        (&[][..], &[("ADDRESS", "nowhere")][..], ["\"nowhere\"", "variable ADDRESS", "host:port"]),
        (&["-a=nowhere"], &[], ["\"nowhere\"", "flag -a, --address", "host:port"]),
        (&["-i", "soon"], &[], ["\"soon\"", "flag -i, --store-interval", "1m30s"]),
        (&["-r=yes"], &[], ["\"yes\"", "flag -r, --restore", "true or false"]),
        (&[], &[("RATE_LIMIT", "many")], ["\"many\"", "variable RATE_LIMIT", "whole number"]),
        (&[], &[("RATE_LIMIT", "65536")], ["65536", "variable RATE_LIMIT", "smaller"]),
        (&["-max-body", "much"], &[], ["\"much\"", "flag --max-body", "16MiB"]),
        (&["-a="], &[], ["\"\"", "flag -a", "host:port"]),
        (&["--nope"], &[], ["unknown flag", "-nope", "-h"]),
        (&[], &[("LOG_FORMAT", "xml")], ["\"xml\"", "variable LOG_FORMAT", "text or json"]),
        (&["-r", "-i=x"], &[("STORE_INTERVAL", "y")], ["\"y\"", "variable STORE_INTERVAL", "seconds"]),
        (&[], &[("RETENTION", "48")], ["\"48\"", "variable RETENTION", "write 48h for hours or 48d for days"]),
        (&["--retention=30m"], &[], ["\"30m\"", "flag --retention", "at least 1h"]),
    ] {
        let error = parse(arguments, variables).unwrap_err();
        assert!(parts.iter().all(|part| error.contains(part)) && !error.contains('\n'), "{error}");
    }
}

#[test]
fn a_secret_is_in_no_error_and_no_debug_text() {
    let settings = parse(&["-d", "swordfish"], &[]).unwrap();
    assert_eq!(settings.database_dsn.as_ref().map(Secret::expose), Some("swordfish"));
    assert!(!format!("{settings:?}").contains("swordfish"));
    for arguments in [&["-d", "swordfish", "-a=x"][..], &["-dswordfish"], &["-d=a", "swordfish"], &["-d=a", "-d=swordfish"]] {
        let error = parse(arguments, &[]).unwrap_err();
        assert!(!error.contains("swordfish"), "{error}");
    }
}

#[cfg(unix)]
#[test]
fn variables_that_are_not_utf8_do_no_harm() {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt as _;
    let bad = || OsString::from_vec(vec![0xff, 0xfe]);
    let other = [(OsString::from("OTHER"), bad()), (bad(), OsString::from("x"))];
    assert!(Settings::parse(Vec::<OsString>::new(), other).is_ok());
    let ours = [(OsString::from("ADDRESS"), bad())];
    let Err(SettingsError::Invalid(error)) = Settings::parse(Vec::<OsString>::new(), ours) else { panic!("it was taken") };
    assert!(error.contains("ADDRESS") && error.contains("UTF-8"), "{error}");
}

#[test]
fn a_removed_setting_is_one_sentence_that_names_its_successors() {
    for (arguments, variables, sentence) in [
        (&[][..], &[("HISTORY", "48h")][..], "the variable HISTORY was removed: set RETENTION instead"),
        (&[], &[("OLD_LIMITS", "x")], "the variable OLD_LIMITS was removed: set RATE_LIMIT and MAX_BODY instead"),
        (&["--history=48h"], &[], "the flag --history was removed: set --retention instead"),
        (&["-old-limits", "x"], &[], "the flag --old-limits was removed: set --rate-limit and --max-body instead"),
    ] {
        assert_eq!(parse(arguments, variables).unwrap_err(), sentence);
    }
    assert!(parse(&[], &[("HISTORY", ""), ("history", "x")]).is_ok(), "an empty variable is unset");
}

#[test]
fn help_names_every_flag_variable_and_default() {
    for help in ["-h", "--help", "-help"] {
        // A removed setting must not prevent its successor from being looked up in the help.
        let variables = [("ADDRESS", ""), ("HISTORY", "48h"), ("LOG_FORMAT", "xml")];
        let Err(SettingsError::Help(text)) = Settings::parse([help], variables) else { panic!("no help") };
        for part in [
            "A service with a setting of each kind, for tests.",
            "golectra-process [FLAGS]",
            "-a, --address",
            "[env: ADDRESS] [default: :8080]",
            "-d, --database-dsn",
            "Without it metrics live in memory",
            "[env: DATABASE_DSN]",
            "--audit-file",
            "[env: AUDIT_FILE]",
            "[env: MAX_BODY] [default: 16MiB]",
            "-r, --restore",
            "at the start. [env: RESTORE] [default: false]",
            "LOG_LEVEL",
            "RUST_LOG",
            "LOG_FORMAT",
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "HISTORY, --history  Removed: set RETENTION instead.",
            "OLD_LIMITS, --old-limits  Removed: set RATE_LIMIT and MAX_BODY instead.",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }
}

#[test]
fn the_table_has_a_row_for_each_setting() {
    let table = Settings::markdown();
    for row in [
        "| `-a`, `--address` | `ADDRESS` | `:8080` | Where to listen: host:port, :port or port. |",
        "| `-d`, `--database-dsn` | `DATABASE_DSN` |  | DSN of the database. Without it metrics live in memory \\| nowhere else. |",
        "| `--audit-file` | `AUDIT_FILE` |  | Where events go. |",
    ] {
        assert!(table.lines().any(|line| line == row), "{row} is not in\n{table}");
    }
    assert!(table.contains("`LOG_FORMAT`"));
}
