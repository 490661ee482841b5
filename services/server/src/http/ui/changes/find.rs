//! Asks for both windows and ranks what is in them. The work is bounded: so many queries, each with the limits of the query API and of a page, all within a
//! time, and few rankings at once. What was found is kept until the windows move on.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::super::ask::{self, Line};
use super::super::kept::{Keep, Kept};
use super::super::window::Window;
use super::kinds::KINDS;
use super::ranking::{Found, Ranking};
use super::scope::Scope;
use super::windows::Windows;
use crate::http::App;

/// The nodes that were stopped, as in the table of nodes.
const STOPPED: &str = "max by (instance) (golectra_source_stopped{$of})";

/// How long finding may take.
const LIMIT: Duration = Duration::from_secs(15);

type Key = (Scope, Windows);

/// The rankings that were made last.
pub type KeptChanges = Kept<Key, Found>;

/// What moved in a window against the one before it.
pub async fn find(app: &App, scope: &Scope, window: &Window) -> Arc<Found> {
    of(app, (scope.clone(), Windows::of(window))).await
}

async fn of(app: &App, key: Key) -> Arc<Found> {
    let found = app.changes.get(&key, async || ask_all(app, &key).await, |found| Keep::if_complete(&found.missing)).await;
    found.unwrap_or_else(|| {
        let busy = "What changed can't be shown now: others are being answered. Try again in a moment.".to_owned();
        Arc::new(Found { missing: vec![busy], ..Found::default() })
    })
}

/// The same if it is found soon, else an incomplete or slightly older result; None if there is neither. A ranking that was begun goes on.
pub async fn find_soon(app: &Arc<App>, scope: &Scope, window: &Window, limit: Duration) -> Option<Arc<Found>> {
    let windows = Windows::of(window);
    let begun = tokio::spawn({
        let (app, key) = (Arc::clone(app), (scope.clone(), windows));
        async move { of(&app, key).await }
    });
    match timeout(limit, begun).await {
        Ok(Ok(found)) => Some(found),
        _ => app.changes.known(|(about, before)| about == scope && before.are_shortly_before(windows)),
    }
}

async fn ask_all(app: &App, (scope, windows): &Key) -> Found {
    let deadline = Instant::now() + LIMIT;
    let mut ranking = Ranking::new(*windows);
    if matches!(scope, Scope::Cluster | Scope::Node(_)) {
        let expr = STOPPED.replace("$of", &scope.matchers());
        if let Some(lines) = ranking.ask(app, "nodes that were stopped", &expr, deadline).await {
            ranking.were_stopped(lines);
        }
    }
    for kind in KINDS.iter().filter(|kind| scope.has(kind)) {
        let expr = kind.expr.replace("$of", &scope.matchers()).replace("$window", &format!("{}ms", windows.rate_ms()));
        if let Some(lines) = ranking.ask(app, kind.title, &expr, deadline).await {
            ranking.kind(kind, &lines);
        }
    }
    match scope {
        Scope::Cluster => {}
        Scope::Node(_) | Scope::Pod(..) => {
            // Each of its metrics, but for what tells of other things and what a kind has already.
            let expr = format!(r#"{{{},__name__!~"kube_.*|ALERTS.*|golectra_(rule|source)_.*|.*_info"}}"#, scope.matchers());
            if let Some(lines) = ranking.ask(app, "metrics", &expr, deadline).await {
                ranking.every(&lines, None);
            }
        }
        Scope::Query(expr) => {
            let filled = expr.replace("$window", &format!("{}ms", windows.rate_ms()));
            if let Some(lines) = ranking.ask(app, "the expression", &filled, deadline).await {
                ranking.every(&lines, Some(expr));
            }
        }
    }
    ranking.finish()
}

impl Ranking {
    /// The lines of an expression over both windows, or a sentence in their place.
    async fn ask(&mut self, app: &App, what: &str, expr: &str, deadline: Instant) -> Option<Vec<Line>> {
        if Instant::now() >= deadline {
            self.found.missing.push(format!("Changes of {what} can't be shown now: there was no time left to compare them."));
            return None;
        }
        match ask::range_looking_back(app, expr, self.windows.steps(), self.windows.rate_ms()).await {
            Ok(lines) => Some(lines),
            Err(error) => {
                self.found.missing.push(ask::sentence(&format!("Changes of {what}"), &error));
                None
            }
        }
    }
}
