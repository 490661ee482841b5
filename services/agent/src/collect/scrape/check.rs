//! What `doctor` says of the targets: each is scraped once.

use std::fmt::Write as _;
use std::sync::Arc;

use tokio::task::JoinSet;
use tokio::time::timeout;

use super::client::{Token, read_token};
use super::error::ScrapeError;
use super::job::ScrapeJob;
use super::series::{Counts, SeriesBudget};
use super::target::Target;
use super::{MAX_PODS, PODS_LIMIT, ScrapeSettings, client, roots};
use crate::collect::kubelet::{AnnotatedPods, Finding, PodList, State, authorities, read_small};

/// How many pods that cannot be scraped are named.
const MAX_NAMED_PODS: usize = 10;

/// What can be scraped with these settings, and why not.
pub async fn findings(settings: ScrapeSettings) -> Vec<Finding> {
    if settings.is_empty() {
        return Vec::new();
    }
    let mut findings = files(&settings);
    let token = settings.token_file.as_deref().map(|path| Arc::new(read_token(path)));
    for (target, result) in scrape(&settings, settings.targets.clone(), token).await {
        let url = target.url_for_log();
        findings.push(match result {
            Ok(counts) => Finding::new(State::Works, "scrape", format!("{url} is scraped: {}", said(counts))),
            Err(error) => Finding::new(State::Missing, "scrape", format!("{url} cannot be scraped: {error}")),
        });
    }
    findings.extend(pods(&settings).await);
    findings
}

/// The files that the settings name.
fn files(settings: &ScrapeSettings) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(path) = &settings.ca_file {
        let (shown, advice) = (path.display(), "write the authorities of the targets there, or unset SCRAPE_CA_FILE");
        findings.push(match read_small(path).map(|pem| authorities(&pem).len()) {
            Ok(0) => Finding::new(
                State::Missing,
                "scrape",
                format!("SCRAPE_CA_FILE: {shown} has no certificate of an authority in PEM; {advice}"),
            ),
            Ok(count) => Finding::new(State::Works, "scrape", format!("SCRAPE_CA_FILE: {shown} has {count} authorities")),
            Err(error) => Finding::new(State::Missing, "scrape", format!("SCRAPE_CA_FILE: {shown} cannot be read: {error}; {advice}")),
        });
    }
    if let Some(Err((path, error))) = settings.token_file.as_deref().map(read_token) {
        let text = format!("SCRAPE_TOKEN_FILE: {path} cannot be read: {error}; let this agent's user read it, or unset SCRAPE_TOKEN_FILE");
        findings.push(Finding::new(State::Missing, "scrape", text));
    }
    findings
}

/// The pods that ask to be scraped. One that cannot be is the fault of its annotations or of its network policy, not of the agent.
async fn pods(settings: &ScrapeSettings) -> Vec<Finding> {
    let Some(address) = settings.pods.clone() else { return Vec::new() };
    let missing = |text: String| vec![Finding::new(State::Missing, "scrape", format!("SCRAPE_PODS: {text}"))];
    let PodList { pods, unusable } = match timeout(PODS_LIMIT, AnnotatedPods::new(address).list(&settings.namespaces)).await {
        Ok(Ok(list)) => list,
        Ok(Err(error)) => return missing(error.to_string()),
        Err(_) => return missing(format!("the kubelet did not list its pods within {} s", PODS_LIMIT.as_secs())),
    };
    let targets: Vec<_> = pods.iter().take(MAX_PODS).filter_map(Target::of_pod).collect();
    let results = scrape(settings, targets, None).await;
    let (annotated, scraped) = (pods.len() + unusable.len(), results.iter().filter(|(_, result)| result.is_ok()).count());
    let text = format!("SCRAPE_PODS: {annotated} pods of this node ask to be scraped, {scraped} can be");
    let mut findings = vec![Finding::new(State::Works, "scrape", text)];
    let failed = results.iter().filter_map(|(target, result)| Some((target, result.as_ref().err()?)));
    let named = |(target, error): (&Target, &ScrapeError)| {
        Finding::new(State::Note, "scrape", format!("pod {} at {}: {error}", target.pod(), target.url_for_log()))
    };
    findings.extend(failed.take(MAX_NAMED_PODS).map(named));
    let in_vain = unusable.iter().take(MAX_NAMED_PODS);
    findings.extend(in_vain.map(|pod| Finding::new(State::Note, "scrape", format!("pod {}/{}: {}", pod.namespace, pod.name, pod.reason))));
    findings
}

/// Scrapes each target once, all at the same time; in their order.
async fn scrape(settings: &ScrapeSettings, targets: Vec<Target>, token: Option<Arc<Token>>) -> Vec<(Target, Result<Counts, ScrapeError>)> {
    let client = match client(settings, roots(settings, &targets)) {
        Ok(client) => Arc::new(client),
        Err(error) => {
            let text = error.to_string();
            return targets.into_iter().map(|target| (target, Err(ScrapeError::Client(text.clone())))).collect();
        }
    };
    let budget = Arc::new(SeriesBudget::new(usize::MAX / 1024));
    let mut running = JoinSet::new();
    for (index, target) in targets.into_iter().enumerate() {
        let (client, token, budget, settings) = (Arc::clone(&client), token.clone(), Arc::clone(&budget), settings.clone());
        running.spawn(async move {
            let mut counts = Counts::default();
            let result = match client.get(target.url(), target.kind(), token.as_deref()).await {
                Ok(answer) => match ScrapeJob::new(target.clone(), settings.limits, settings.filter, budget) {
                    Ok(mut job) => job.read(&answer, &mut counts),
                    Err(error) => Err(ScrapeError::Client(error.to_string())),
                },
                Err(error) => Err(error),
            };
            (index, target, result.map(|()| counts))
        });
    }
    let mut results = running.join_all().await;
    results.sort_by_key(|(index, ..)| *index);
    results.into_iter().map(|(_, target, result)| (target, result)).collect()
}

fn said(counts: Counts) -> String {
    let Counts { samples, labelled, duplicates, invalid_ids, not_finite, .. } = counts;
    let mut text = format!("{samples} samples");
    for (count, what) in [
        (samples.saturating_sub(labelled), "are left out by SCRAPE_METRICS_INCLUDE and SCRAPE_METRICS_EXCLUDE"),
        (duplicates, "have a series that came before"),
        (invalid_ids, "have a name or labels that no server accepts"),
        (not_finite, "are NaN or infinite and cannot be reported"),
    ] {
        if count > 0 {
            let _ = write!(text, ", of which {count} {what}");
        }
    }
    text
}
