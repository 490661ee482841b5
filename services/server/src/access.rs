//! Who may read and write: API tokens, and people whom a proxy has signed in.
//!
//! A token is kept as its SHA-256 alone, and compared with all that there are, each in constant time. The file is read again when it changes; one
//! that can't be used leaves the tokens as they were, so that a mistake locks nobody out who was in.

mod file;
mod proxy;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use golectra_protocol::hash;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio::time::{MissedTickBehavior, interval};

pub use self::file::TokensError;
use self::file::{Token, read};
pub use self::proxy::{AuthHeader, AuthRole, ProxyAuth};

/// How often the file is looked at.
const EVERY: Duration = Duration::from_secs(2);

/// What a token allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// To read history.
    Read,
    /// To write samples.
    Write,
    /// Everything.
    Admin,
}

impl Scope {
    /// Whether a token of this scope may do what needs the other.
    fn covers(self, needed: Self) -> bool {
        self == Self::Admin || self == needed
    }

    /// The scope as the file names it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }
}

/// Left on a request that is allowed what it needs: who sends it.
#[derive(Debug, Clone)]
pub enum Caller {
    /// Who has the token of this name, or a session that began with it.
    Token(Arc<str>),
    /// The user of this name, whom a proxy has signed in.
    User(Arc<str>),
}

/// What a token, a session or the name of a user turns out to be.
#[derive(Debug)]
pub enum Verdict {
    /// It allows what is needed.
    Allowed(Caller),
    /// It is known and does not allow that.
    WrongScope(Caller),
    /// It would allow that if the browser said that a page of this server sends the request.
    Foreign,
    /// There is no such token.
    Unknown,
}

/// The tokens. Clones share them.
#[derive(Debug, Clone)]
pub struct Tokens(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    path: Box<Path>,
    known: RwLock<Arc<[Token]>>,
    /// What the last look found.
    last: Mutex<LastLook>,
}

#[derive(Debug)]
struct LastLook {
    /// SHA-256 of the file that was read last.
    digest: [u8; 32],
    /// What is wrong with it, which is said once.
    problem: Option<String>,
}

impl Tokens {
    /// Reads the file, which must be there and valid.
    pub fn open(path: &Path) -> Result<Self, TokensError> {
        let (tokens, digest) = read(path)?;
        if tokens.is_empty() {
            tracing::warn!("API_TOKENS_FILE has no token: reading over Prometheus's interfaces and remote-write are refused");
        }
        warn_of_short(&tokens);
        let last = LastLook { digest, problem: None };
        Ok(Self(Arc::new(Shared { path: path.into(), known: RwLock::new(tokens.into()), last: Mutex::new(last) })))
    }

    /// What this token may do.
    pub fn check(&self, token: &[u8], needed: Scope) -> Verdict {
        let digest: [u8; 32] = Sha256::digest(token).into();
        let known = Arc::clone(&self.0.known.read().unwrap_or_else(PoisonError::into_inner));
        let mut found: Option<&Token> = None;
        for token in known.iter() {
            // All are compared, so that the time does not tell where one was found. Of one token with several scopes the one that suffices counts.
            let same = bool::from(token.digest.ct_eq(&digest));
            if same && found.is_none_or(|found| !found.scope.covers(needed)) {
                found = Some(token);
            }
        }
        match found {
            Some(token) if token.scope.covers(needed) => Verdict::Allowed(Caller::Token(Arc::clone(&token.name))),
            Some(token) => Verdict::WrongScope(Caller::Token(Arc::clone(&token.name))),
            None => Verdict::Unknown,
        }
    }

    /// What a browser may show instead of this token until then, in unix seconds: nothing that the token follows from. None where the token is not
    /// one that reads.
    pub fn session(&self, token: &[u8], until: u64) -> Option<String> {
        let digest: [u8; 32] = Sha256::digest(token).into();
        let known = Arc::clone(&self.0.known.read().unwrap_or_else(PoisonError::into_inner));
        let reads = |token: &&Token| bool::from(token.digest.ct_eq(&digest)) && token.scope.covers(Scope::Read);
        known.iter().rfind(reads).map(|token| format!("{until}.{}", session_code(token, until)))
    }

    /// What a session may do. It ends with its time, and when its token is no longer in the file.
    pub fn check_session(&self, session: &str, needed: Scope, now: u64) -> Verdict {
        let Some((until, code)) = session.split_once('.') else { return Verdict::Unknown };
        let Some(until) = until.parse().ok().filter(|until| *until > now) else { return Verdict::Unknown };
        let known = Arc::clone(&self.0.known.read().unwrap_or_else(PoisonError::into_inner));
        let same = |token: &&Token| bool::from(session_code(token, until).as_bytes().ct_eq(code.as_bytes()));
        match known.iter().rfind(same) {
            Some(token) if token.scope.covers(needed) => Verdict::Allowed(Caller::Token(Arc::clone(&token.name))),
            Some(token) => Verdict::WrongScope(Caller::Token(Arc::clone(&token.name))),
            None => Verdict::Unknown,
        }
    }

    /// Looks at the file every two seconds; never ends.
    pub async fn watch(self) {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let tokens = self.clone();
            // An error here is a runtime that ends.
            let _ = tokio::task::spawn_blocking(move || tokens.look()).await;
        }
    }

    /// Reads the file, and takes its tokens where it changed.
    fn look(&self) {
        let found = read(&self.0.path);
        let mut last = self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
        match found {
            Ok((_, digest)) if digest == last.digest && last.problem.is_none() => {}
            Ok((tokens, digest)) => {
                tracing::info!(tokens = tokens.len(), "the API tokens are read from API_TOKENS_FILE");
                warn_of_short(&tokens);
                *self.0.known.write().unwrap_or_else(PoisonError::into_inner) = tokens.into();
                *last = LastLook { digest, problem: None };
            }
            Err(error) => {
                let problem = error.to_string();
                if last.problem.as_ref() != Some(&problem) {
                    tracing::error!("{problem}: the tokens that were read before go on being used");
                }
                last.problem = Some(problem);
            }
        }
    }
}

/// Names the tokens that may be found by trying.
fn warn_of_short(tokens: &[Token]) {
    let short: Vec<&str> = tokens.iter().filter(|token| token.is_short).map(|token| &*token.name).collect();
    if !short.is_empty() {
        let names = short.join(", ");
        tracing::warn!(names, "API_TOKENS_FILE has tokens of less than 16 characters, which may be guessed: replace them with random ones");
    }
}

/// What proves that someone had the token when the session began. Every server that knows the token finds the same.
fn session_code(token: &Token, until: u64) -> String {
    hash::body_hash(format!("golectra session of {} until {until}", token.scope.as_str()).as_bytes(), &token.digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(content: &str) -> (tempfile::NamedTempFile, Tokens) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        let tokens = Tokens::open(file.path()).unwrap();
        (file, tokens)
    }

    /// What becomes of a token: the name of who is allowed, or why not.
    fn outcome(tokens: &Tokens, token: &str, needed: Scope) -> String {
        match tokens.check(token.as_bytes(), needed) {
            Verdict::Allowed(Caller::Token(name)) => name.to_string(),
            Verdict::WrongScope(Caller::Token(name)) => format!("not {name}"),
            Verdict::Unknown => "unknown".into(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn scopes_allow_what_they_say() {
        let (_file, tokens) = tokens("grafana:read:r1\nprometheus:write:w:1\nroot:admin:a1\nboth:read:b1\nboth:write:b1\n");
        for (token, read, write) in [
            ("r1", "grafana", "not grafana"),
            ("w:1", "not prometheus", "prometheus"),
            ("a1", "root", "root"),
            ("b1", "both", "both"),
            ("r", "unknown", "unknown"),
            ("r11", "unknown", "unknown"),
            ("", "unknown", "unknown"),
        ] {
            assert_eq!(
                (outcome(&tokens, token, Scope::Read), outcome(&tokens, token, Scope::Write)),
                (read.into(), write.into()),
                "{token}"
            );
        }
    }

    #[test]
    fn a_session_stands_for_a_token_that_reads_until_its_time_is_over() {
        let (file, tokens) = tokens("a:read:one\nw:write:two\nroot:admin:three\n");
        let session = tokens.session(b"one", 1_000).unwrap();
        let allows = |session: &str, needed, now| matches!(tokens.check_session(session, needed, now), Verdict::Allowed(_));
        assert!(allows(&session, Scope::Read, 999) && !allows(&session, Scope::Read, 1_000));
        assert!(matches!(tokens.check_session(&session, Scope::Admin, 999), Verdict::WrongScope(_)));
        assert!(allows(&tokens.session(b"three", 1_000).unwrap(), Scope::Admin, 1));
        assert_eq!((tokens.session(b"two", 1_000), tokens.session(b"none", 1_000)), (None, None));
        // Nobody makes a session longer, and none outlives its token.
        assert!(!allows(&session.replace("1000.", "2000."), Scope::Read, 1));
        for wrong in ["", "1000.", "1000", ".", "x.y"] {
            assert!(!allows(wrong, Scope::Read, 1), "{wrong}");
        }
        std::fs::write(file.path(), "b:read:other\n").unwrap();
        tokens.look();
        assert!(!allows(&session, Scope::Read, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn the_file_is_read_again_and_a_bad_one_changes_nothing() {
        let (file, tokens) = tokens("a:read:one\n");
        let watch = tokio::spawn(tokens.clone().watch());
        let becomes = async |token: &str, expected: &str| {
            while outcome(&tokens, token, Scope::Read) != expected {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        std::fs::write(file.path(), "b:read:two\n").unwrap();
        becomes("two", "b").await;
        assert_eq!(outcome(&tokens, "one", Scope::Read), "unknown");
        std::fs::write(file.path(), "c:read\n").unwrap();
        tokens.look();
        assert_eq!(outcome(&tokens, "two", Scope::Read), "b");
        std::fs::write(file.path(), "c:read:three\n").unwrap();
        becomes("three", "c").await;
        watch.abort();
    }

    #[test]
    fn a_token_is_in_no_debug_output() {
        let (_file, tokens) = tokens("a:read:very-secret\n");
        assert!(!format!("{tokens:?}").contains("very-secret"));
    }
}
