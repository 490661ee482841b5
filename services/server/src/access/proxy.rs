//! People whom a proxy in front of the server has signed in: it names them in a header, which counts from trusted addresses alone.

use std::str::FromStr;
use std::sync::Arc;

use axum::http::{HeaderMap, HeaderName, header};

use super::{Caller, Scope, Verdict};

/// The longest name of a user, in bytes.
const MAX_USER_BYTES: usize = 256;

/// Headers that have another meaning, so that every request would name a user, or one that the client chose.
const NO_USER: [HeaderName; 6] =
    [header::AUTHORIZATION, header::COOKIE, header::HOST, header::ORIGIN, header::USER_AGENT, header::CONTENT_TYPE];

/// The header that names the user.
#[derive(Debug, Clone)]
pub struct AuthHeader(HeaderName);

/// What the name should have been.
#[derive(Debug, thiserror::Error)]
#[error("expected the name of a header that the proxy sets, such as X-Forwarded-User or Remote-User")]
pub struct AuthHeaderError;

impl FromStr for AuthHeader {
    type Err = AuthHeaderError;

    fn from_str(text: &str) -> Result<Self, AuthHeaderError> {
        text.parse().ok().filter(|name| !NO_USER.contains(name)).map(Self).ok_or(AuthHeaderError)
    }
}

/// What users may do whom the proxy has signed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuthRole(Scope);

/// What the role should have been.
#[derive(Debug, thiserror::Error)]
#[error("expected read or admin")]
pub struct AuthRoleError;

impl FromStr for AuthRole {
    type Err = AuthRoleError;

    /// A person who can write but not read has no use for pages: there is no role `write`.
    fn from_str(text: &str) -> Result<Self, AuthRoleError> {
        match text {
            "read" => Ok(Self(Scope::Read)),
            "admin" => Ok(Self(Scope::Admin)),
            _ => Err(AuthRoleError),
        }
    }
}

/// How a proxy names the users whom it has signed in.
#[derive(Debug, Clone)]
pub struct ProxyAuth {
    header: HeaderName,
    role: Scope,
}

impl ProxyAuth {
    /// Users that this header names have this role.
    pub fn new(header: AuthHeader, role: AuthRole) -> Self {
        Self { header: header.0, role: role.0 }
    }

    /// What the user may do whom the request of a trusted proxy names. None where it names nobody: a header that is given twice is ambiguous, since one of
    /// the two may be the client's.
    pub fn check(&self, headers: &HeaderMap, needed: Scope) -> Option<Verdict> {
        let mut values = headers.get_all(&self.header).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return None };
        let user = std::str::from_utf8(value.as_bytes()).ok()?.trim();
        if user.is_empty() || user.len() > MAX_USER_BYTES || user.chars().any(char::is_control) {
            return None;
        }
        let caller = Caller::User(Arc::from(user));
        Some(if self.role.covers(needed) { Verdict::Allowed(caller) } else { Verdict::WrongScope(caller) })
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn a_user_is_named_once_in_the_header() {
        let proxy = ProxyAuth::new("X-Forwarded-User".parse().unwrap(), "read".parse().unwrap());
        let user = |values: &[&[u8]]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("x-forwarded-user", HeaderValue::from_bytes(value).unwrap());
            }
            match proxy.check(&headers, Scope::Read) {
                Some(Verdict::Allowed(Caller::User(user))) => Some(user.to_string()),
                None => None,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(user(&[b"ada@example.com"]).as_deref(), Some("ada@example.com"));
        assert_eq!(user(&["Zoë".as_bytes()]).as_deref(), Some("Zoë"));
        let long = [b'a'; MAX_USER_BYTES + 1];
        let cases: [&[&[u8]]; 7] = [&[], &[b""], &[b"  "], &[b"\xff"], &[b"a\tb"], &[b"ada", b"eve"], &[&long]];
        for none in cases {
            assert_eq!(user(none), None, "{none:?}");
        }
    }

    #[test]
    fn a_role_allows_what_its_scope_does() {
        let headers = HeaderMap::from_iter([(HeaderName::from_static("remote-user"), HeaderValue::from_static("ada"))]);
        for (role, needed, allowed) in
            [("read", Scope::Read, true), ("read", Scope::Write, false), ("admin", Scope::Read, true), ("admin", Scope::Write, true)]
        {
            let proxy = ProxyAuth::new("Remote-User".parse().unwrap(), role.parse().unwrap());
            assert_eq!(matches!(proxy.check(&headers, needed), Some(Verdict::Allowed(_))), allowed, "{role} {needed:?}");
        }
        assert!("write".parse::<AuthRole>().is_err());
        for none in ["Authorization", "cookie", "a b", ""] {
            assert!(none.parse::<AuthHeader>().is_err(), "{none}");
        }
    }
}
