//! Whether the server takes this agent's reports.

use std::time::Duration;

use golectra_process::keys::FolderError;
use golectra_process::{Keys, install_crypto};

use crate::clock::Clock;
use crate::collect::kubelet::{Finding, State};
use crate::config::Settings;
use crate::sender::{Client, Probe, Signer, with_causes};

/// How long the server may take to answer /ping.
const PING_LIMIT: Duration = Duration::from_secs(5);

/// The keys, and what the server says to a report that is signed with them.
pub(super) async fn findings(settings: &Settings) -> Vec<Finding> {
    install_crypto();
    let keys = keys(settings);
    // Without its key a report cannot be sent, so that only the address is looked at.
    let probe = if keys.state == State::Missing { None } else { probe(settings).await };
    let server = match probe {
        Some(Probe::Refuses(text)) => Finding::new(State::Missing, "server", format!("{} refuses reports: {text}", settings.address)),
        Some(Probe::Unreachable(text)) => unreachable(settings, &text),
        Some(Probe::Unknown(text)) => {
            let address = &settings.address;
            let text = format!("{address} does not answer as golectra does: {text}; whether it takes reports is not known");
            Finding::new(State::Note, "server", text)
        }
        Some(Probe::Takes) => ping(settings, "takes the reports of this agent").await,
        None => ping(settings, "answers; whether it takes reports is not known without the key").await,
    };
    vec![server, keys]
}

async fn probe(settings: &Settings) -> Option<Probe> {
    let signer = Signer::new(settings, Clock::system()).ok()?;
    let client = match Client::new(&settings.address, &settings.source(), settings.key.clone(), signer) {
        Ok(client) => client,
        Err(error) => return Some(Probe::Unreachable(format!("the HTTP client could not be created: {}", with_causes(&error)))),
    };
    Some(client.probe().await)
}

fn unreachable(settings: &Settings, text: &str) -> Finding {
    // What the HTTP client puts before the cause says no more than that a connection failed.
    let text = text.rsplit_once("client error (Connect): ").map_or(text, |(_, cause)| cause);
    let advice = if text.contains("SSL_CERT_FILE") {
        // The text ends with what to do.
        ""
    } else if text.contains("certificate") {
        "; let this machine trust the authority that signed the server's certificate (SSL_CERT_FILE names a file of authorities)"
    } else {
        "; check ADDRESS, that the server runs, and that no network policy or firewall is between"
    };
    Finding::new(State::Missing, "server", format!("{} cannot be reached: {text}{advice}", settings.address))
}

/// Whether the server's store is there: it refuses an invalid report without it.
async fn ping(settings: &Settings, what: &str) -> Finding {
    let mut builder = reqwest::Client::builder().timeout(PING_LIMIT).redirect(reqwest::redirect::Policy::none());
    if !settings.address.is_https() {
        builder = builder.tls_certs_only([]);
    }
    if settings.address.is_loopback() {
        builder = builder.no_proxy();
    }
    let answer = match builder.build() {
        Ok(http) => http.get(settings.address.ping()).send().await,
        Err(error) => Err(error),
    };
    let address = &settings.address;
    match answer {
        Ok(answer) if answer.status().is_success() => Finding::new(State::Works, "server", format!("{address} {what}")),
        Ok(answer) => {
            let advice = if answer.status().is_server_error() {
                "its database or disk is not available: reports wait here until it is; the server's log says more"
            } else {
                "check that ADDRESS leads to a golectra server"
            };
            let text = format!("{address} answers /ping with status {}: {advice}", answer.status().as_u16());
            Finding::new(State::Missing, "server", text)
        }
        Err(error) => unreachable(settings, &with_causes(&error)),
    }
}

fn keys(settings: &Settings) -> Finding {
    let missing = |text: String| Finding::new(State::Missing, "keys", text);
    let keys = match Keys::open(settings.key.as_ref(), settings.keys_dir.as_deref()) {
        Ok(keys) => keys,
        Err(error @ FolderError::Unreadable { .. }) => {
            return missing(format!("{error}; mount the keys there and let this agent's user read them, or unset KEYS_DIR"));
        }
        Err(error @ FolderError::TooMany { .. }) => return missing(error.to_string()),
    };
    match keys.signing_id(settings.signing_key_id.as_ref()) {
        Err(error) => missing(error.to_string()),
        Ok(None) => {
            let text = "reports are not signed: KEY is not set; a server with SIGNATURES=required would refuse them";
            Finding::new(State::Note, "keys", text)
        }
        Ok(Some(id)) if keys.get(id.as_str()).is_none() => {
            missing(format!("KEYS_DIR has no key {id}, which SIGNING_KEY_ID names: put a file of that name there, or name another key"))
        }
        Ok(Some(id)) => Finding::new(State::Works, "keys", format!("reports are signed with the key {id}")),
    }
}
