//! Which alerts a silence matches.

use golectra_promql::{MatchOp, Matcher};

use super::state::{AlertState, Silence, SilenceMatcher};

/// The most matchers of a silence.
const MAX_MATCHERS: usize = 100;
/// The longest text of a silence, in bytes.
const MAX_TEXT_BYTES: usize = 4_096;

/// The silences of one moment, ready to be asked.
#[derive(Debug, Default)]
pub struct Silences(Vec<Vec<Matcher>>);

impl Silences {
    /// Those that hold at this time.
    pub fn at(silences: &[Silence], now_ms: i64) -> Self {
        let holding = silences.iter().filter(|silence| silence.starts_ms <= now_ms && now_ms < silence.ends_ms);
        // They were checked when they were made.
        Self(holding.filter_map(|silence| matchers(silence).ok()).collect())
    }

    /// Whether one of them matches.
    pub fn silence(&self, alert: &AlertState) -> bool {
        self.0.iter().any(|matchers| matchers.iter().all(|matcher| matcher.matches(alert.label(matcher.name()))))
    }
}

/// Checks a silence that somebody wants to make; the error says what is wrong.
pub fn check(silence: &Silence) -> Result<(), String> {
    if silence.ends_ms <= silence.starts_ms {
        return Err("endsAt must be after startsAt".to_owned());
    }
    if silence.created_by.trim().is_empty() {
        return Err("createdBy must say who makes the silence".to_owned());
    }
    if silence.comment.trim().is_empty() {
        return Err("comment must say why".to_owned());
    }
    if silence.created_by.len().max(silence.comment.len()) > MAX_TEXT_BYTES {
        return Err(format!("createdBy and comment have at most {MAX_TEXT_BYTES} bytes each"));
    }
    if silence.matchers.is_empty() || silence.matchers.len() > MAX_MATCHERS {
        return Err(format!("a silence has 1 to {MAX_MATCHERS} matchers"));
    }
    let matchers = matchers(silence)?;
    if matchers.iter().all(|matcher| matcher.matches("")) {
        return Err("at least one matcher must not match an empty value: this silence would match every alert".to_owned());
    }
    Ok(())
}

fn matchers(silence: &Silence) -> Result<Vec<Matcher>, String> {
    silence.matchers.iter().map(matcher).collect()
}

fn matcher(asked: &SilenceMatcher) -> Result<Matcher, String> {
    if asked.name.is_empty() || asked.name.len().max(asked.value.len()) > MAX_TEXT_BYTES {
        return Err(format!("a matcher has the name of a label, and a name and a value of at most {MAX_TEXT_BYTES} bytes"));
    }
    let op = match (asked.is_equal, asked.is_regex) {
        (true, false) => MatchOp::Equal,
        (false, false) => MatchOp::NotEqual,
        (true, true) => MatchOp::Match,
        (false, true) => MatchOp::NotMatch,
    };
    Matcher::new(op, &asked.name, &asked.value).map_err(|error| format!("matcher {:?}: {error}", asked.name))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use uuid::Uuid;

    use super::*;
    use crate::alerts::state::{Phase, Texts};

    fn silence(name: &str, value: &str, is_regex: bool, is_equal: bool) -> Silence {
        let matchers = vec![SilenceMatcher { name: name.into(), value: value.into(), is_regex, is_equal }];
        Silence { id: Uuid::nil(), matchers, starts_ms: 1_000, ends_ms: 2_000, created_by: "me".into(), comment: "work".into() }
    }

    fn alert(instance: &str) -> AlertState {
        AlertState {
            labels: Texts::from([("instance".into(), instance.into())]),
            annotations: Texts::new(),
            phase: Phase::Firing,
            active_ms: 0,
            fired_ms: Some(0),
            resolved_ms: None,
            keep_firing_since_ms: None,
            value: 1.0,
            told: BTreeMap::new(),
        }
    }

    #[test]
    fn matchers_and_times_decide() {
        for (value, is_regex, is_equal, n1, n2) in [
            ("n1", false, true, true, false),
            ("n1", false, false, false, true),
            ("n.", true, true, true, true),
            ("n", true, true, false, false),
        ] {
            let silences = Silences::at(&[silence("instance", value, is_regex, is_equal)], 1_000);
            assert_eq!((silences.silence(&alert("n1")), silences.silence(&alert("n2"))), (n1, n2), "{value}");
        }
        let one = [silence("instance", "n1", false, true)];
        for (now_ms, silent) in [(999, false), (1_000, true), (1_999, true), (2_000, false)] {
            assert_eq!(Silences::at(&one, now_ms).silence(&alert("n1")), silent, "{now_ms}");
        }
    }

    #[test]
    fn what_says_too_little_or_matches_all_is_refused() {
        assert_eq!(check(&silence("instance", "n1", false, true)), Ok(()));
        let change = |change: fn(&mut Silence)| {
            let mut silence = silence("instance", "n1", false, true);
            change(&mut silence);
            check(&silence).unwrap_err()
        };
        assert!(change(|silence| silence.ends_ms = 1_000).contains("endsAt"));
        assert!(change(|silence| silence.comment.clear()).contains("comment"));
        assert!(change(|silence| silence.created_by.clear()).contains("createdBy"));
        assert!(change(|silence| silence.matchers.clear()).contains("matchers"));
        assert!(change(|silence| silence.matchers[0].name.clear()).contains("name of a label"));
        assert!(check(&silence("instance", "(", true, true)).unwrap_err().contains("instance"));
        assert!(check(&silence("instance", ".*", true, true)).unwrap_err().contains("every alert"));
    }
}
