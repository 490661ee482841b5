//! The variables of logs and traces. They have the names that are standard for Rust and OpenTelemetry, and no flags.

use std::env;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// A variable that has no flag, for help texts.
pub(crate) struct Variable {
    pub(crate) name: &'static str,
    pub(crate) default: Option<&'static str>,
    pub(crate) meaning: &'static str,
}

/// Every variable that is read here.
pub(crate) const VARIABLES: &[Variable] = &[
    Variable {
        name: "LOG_LEVEL",
        default: Some("info"),
        meaning: "What is logged: error, warn, info, debug, trace or off, or a filter such as info,golectra_server=debug.",
    },
    Variable { name: "RUST_LOG", default: None, meaning: "The same filter under Rust's usual name; it wins over LOG_LEVEL." },
    Variable { name: "LOG_FORMAT", default: None, meaning: "text or json; without it text on a terminal and JSON otherwise." },
    Variable {
        name: "OTEL_EXPORTER_OTLP_ENDPOINT",
        default: None,
        meaning: "URL of an OpenTelemetry collector (OTLP over HTTP), such as http://localhost:4318; without it no traces.",
    },
    Variable {
        name: "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        default: None,
        meaning: "The same as a full URL for traces alone, such as http://localhost:4318/v1/traces.",
    },
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Text,
    Json,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Options {
    /// None: text on a terminal, JSON otherwise.
    pub(super) format: Option<Format>,
    pub(super) filter: String,
    pub(super) export: bool,
}

impl Options {
    /// The options of this process; an invalid variable is ignored and returned as an error text.
    pub(super) fn from_process() -> (Self, Option<String>) {
        let variables: Vec<_> =
            VARIABLES.iter().filter_map(|variable| Some((variable.name.to_owned(), env::var(variable.name).ok()?))).collect();
        match Self::read(&variables) {
            Ok(options) => (options, None),
            Err(problem) => (Self { format: None, filter: "info".to_owned(), export: false }, Some(problem)),
        }
    }

    fn read(variables: &[(String, String)]) -> Result<Self, String> {
        let get = |name: &str| {
            let found = variables.iter().find(|(known, value)| known == name && !value.is_empty());
            found.map(|(_, value)| value.as_str())
        };
        let format = match get("LOG_FORMAT") {
            None => None,
            Some("text") => Some(Format::Text),
            Some("json") => Some(Format::Json),
            Some(other) => return Err(format!("invalid value {other:?} in the variable LOG_FORMAT: expected text or json")),
        };
        let (name, filter) = match (get("RUST_LOG"), get("LOG_LEVEL")) {
            (Some(filter), _) => ("RUST_LOG", filter),
            (None, Some(filter)) => ("LOG_LEVEL", filter),
            (None, None) => ("LOG_LEVEL", "info"),
        };
        let filter = checked(filter).ok_or_else(|| {
            format!(
                "invalid value {filter:?} in the variable {name}: expected error, warn, info, debug, trace, off or a filter such as info,golectra_server=debug"
            )
        })?;
        let mut export = false;
        for name in ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] {
            let Some(url) = get(name) else { continue };
            let uri: Option<http::Uri> = url.parse().ok();
            if !uri.is_some_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some()) {
                // The URL may carry a password, so it is not repeated.
                return Err(format!("invalid value in the variable {name}: expected a URL such as http://localhost:4318"));
            }
            export = true;
        }
        Ok(Self { format, filter, export })
    }
}

/// A filter without the space around its directives, which `EnvFilter` would take for a part of a target; None if it is none.
fn checked(filter: &str) -> Option<String> {
    let directives: Vec<_> = filter.split(',').map(str::trim).filter(|directive| !directive.is_empty()).collect();
    let filter = directives.join(",");
    let is_good = !directives.is_empty() && directives.into_iter().all(is_meant) && EnvFilter::builder().parse(&filter).is_ok();
    is_good.then_some(filter)
}

/// Libraries with names of one word whose events one may want to see.
const CRATES: [&str; 9] = ["h2", "hyper", "lettre", "mio", "reqwest", "rustls", "sqlx", "tokio", "tower"];

/// Whether a directive is no misspelt level. `EnvFilter` takes any text for a target, all of whose events are logged and nothing else.
fn is_meant(directive: &str) -> bool {
    let Some(target_end) = directive.find(['=', '[']) else {
        let is_crate =
            directive.starts_with("golectra") || directive.contains('_') || directive.contains("::") || CRATES.contains(&directive);
        let is_one_word = !directive.contains(|char: char| char.is_whitespace() || char == '-');
        return directive.parse::<LevelFilter>().is_ok() || (is_crate && is_one_word);
    };
    !directive[..target_end].contains(char::is_whitespace)
}

/// Checks these variables; the error is one sentence.
pub(crate) fn check(variables: &[(String, String)]) -> Result<(), String> {
    Options::read(variables).map(drop)
}

#[cfg(test)]
mod tests {
    use super::{Format, Options};

    fn read(variables: &[(&str, &str)]) -> Result<Options, String> {
        let owned: Vec<_> = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Options::read(&owned)
    }

    #[test]
    fn nothing_set_means_info_and_no_traces() {
        let quiet = Options { format: None, filter: "info".to_owned(), export: false };
        assert_eq!(read(&[]).as_ref(), Ok(&quiet));
        assert_eq!(read(&[("LOG_LEVEL", ""), ("OTEL_EXPORTER_OTLP_ENDPOINT", "")]), Ok(quiet));
    }

    #[test]
    fn each_variable_has_an_effect() {
        assert_eq!(read(&[("LOG_FORMAT", "json")]).unwrap().format, Some(Format::Json));
        assert_eq!(read(&[("LOG_FORMAT", "text")]).unwrap().format, Some(Format::Text));
        assert_eq!(read(&[("LOG_LEVEL", "debug")]).unwrap().filter, "debug");
        assert_eq!(read(&[("LOG_LEVEL", "debug"), ("RUST_LOG", "warn,hyper=off")]).unwrap().filter, "warn,hyper=off");
        assert!(read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318")]).unwrap().export);
        assert!(read(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://collector/v1/traces")]).unwrap().export);
    }

    #[test]
    fn a_filter_has_levels_and_targets() {
        for filter in [
            "OFF",
            "Warn",
            "0",
            "5",
            "golectra",
            "golectra_server",
            "tower_http,info",
            "info,sqlx",
            "hyper::client",
            "hyper=off",
            "[span]",
            "info,golectra_server=debug",
            "warn,[span{field=two words}]=trace",
        ] {
            assert_eq!(read(&[("RUST_LOG", filter)]).unwrap().filter, filter);
        }
        assert_eq!(read(&[("LOG_LEVEL", " info, golectra_server=debug ,")]).unwrap().filter, "info,golectra_server=debug");
        for filter in [
            "warning",
            "inof",
            "err",
            "6",
            "info,warning",
            "info golectra_server=debug",
            "info golectra_server",
            "golectra-server",
            " ",
            ",",
        ] {
            for name in ["LOG_LEVEL", "RUST_LOG"] {
                let error = read(&[(name, filter)]).unwrap_err();
                assert!(error.contains(name) && error.contains("expected error, warn, info, debug, trace, off"), "{filter}: {error}");
            }
        }
    }

    #[test]
    fn bad_values_are_one_sentence() {
        for (name, value) in [
            ("LOG_FORMAT", "xml"),
            ("LOG_LEVEL", "=="),
            ("RUST_LOG", "golectra=loud"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "/v1/traces"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "grpc://collector"),
        ] {
            let error = read(&[(name, value)]).unwrap_err();
            assert!(error.contains(name) && error.contains("expected") && !error.contains('\n'), "{error}");
        }
    }
}
