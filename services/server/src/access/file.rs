//! The file of tokens: a line `name:scope:token` each. Empty lines and lines that begin with `#` are comments.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::Scope;

/// A larger file is no file of tokens.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Each request's token is compared with all.
const MAX_TOKENS: usize = 1000;
/// The longest name, in bytes.
const MAX_NAME_BYTES: usize = 64;
/// Who tries tokens on the API is not slowed down, since that would be a way to keep others out: a token must be too long to be found. One of so many random
/// letters and digits has 95 bits.
const LONG_ENOUGH_BYTES: usize = 16;

/// A token by its digest.
#[derive(Debug)]
pub(super) struct Token {
    pub(super) name: Arc<str>,
    pub(super) scope: Scope,
    /// SHA-256 of the token.
    pub(super) digest: [u8; 32],
    /// Whether it may be found by trying.
    pub(super) is_short: bool,
}

/// Why the file can't be used. What stands in it is not told.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    /// It can't be read.
    #[error("API_TOKENS_FILE {0:?} can't be read: {1}")]
    Read(PathBuf, std::io::Error),
    /// It is too large.
    #[error("API_TOKENS_FILE {0:?} is larger than 1 MiB")]
    TooLarge(PathBuf),
    /// There are too many lines.
    #[error("API_TOKENS_FILE {0:?} has more than {MAX_TOKENS} tokens")]
    TooMany(PathBuf),
    /// A line is wrong.
    #[error("API_TOKENS_FILE {path:?}, line {line}: {problem}; a line is name:scope:token, with the scope read, write or admin")]
    Line {
        /// The file.
        path: PathBuf,
        /// The line's number, from 1.
        line: usize,
        /// What is wrong.
        problem: &'static str,
    },
}

/// The tokens, and the digest of the whole file.
pub(super) fn read(path: &Path) -> Result<(Vec<Token>, [u8; 32]), TokensError> {
    let mut content = Vec::new();
    let file = File::open(path).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut content));
    file.map_err(|error| TokensError::Read(path.into(), error))?;
    if content.len() as u64 > MAX_FILE_BYTES {
        return Err(TokensError::TooLarge(path.into()));
    }
    let mut tokens = Vec::new();
    for (number, line) in content.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        if tokens.len() == MAX_TOKENS {
            return Err(TokensError::TooMany(path.into()));
        }
        tokens.push(parse(line).map_err(|problem| TokensError::Line { path: path.into(), line: number + 1, problem })?);
    }
    Ok((tokens, Sha256::digest(&content).into()))
}

fn parse(line: &[u8]) -> Result<Token, &'static str> {
    let mut parts = line.splitn(3, |byte| *byte == b':');
    let (Some(name), Some(scope), Some(token)) = (parts.next(), parts.next(), parts.next()) else {
        return Err("it does not have three parts");
    };
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
    let name =
        std::str::from_utf8(name).ok().filter(|name| (1..=MAX_NAME_BYTES).contains(&name.len()) && name.bytes().all(|b| is_plain(&b)));
    let name = name.ok_or("a name has 1 to 64 letters, digits or . _ -")?;
    let scope = match scope {
        b"read" => Scope::Read,
        b"write" => Scope::Write,
        b"admin" => Scope::Admin,
        _ => return Err("the scope is none"),
    };
    if token.is_empty() || !token.iter().all(u8::is_ascii_graphic) {
        return Err("a token is printable ASCII without spaces");
    }
    Ok(Token { name: name.into(), scope, digest: Sha256::digest(token).into(), is_short: token.len() < LONG_ENOUGH_BYTES })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<Vec<Token>, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        read(file.path()).map(|(tokens, _)| tokens).map_err(|error| error.to_string())
    }

    #[test]
    fn lines_are_tokens_and_comments() {
        let tokens = read_text("# who may read\r\n\ngrafana.1:read:a:b=\r\n  p_2:write:x\nroot:admin:y").unwrap();
        let names: Vec<_> = tokens.iter().map(|token| (&*token.name, token.scope)).collect();
        assert_eq!(names, [("grafana.1", Scope::Read), ("p_2", Scope::Write), ("root", Scope::Admin)]);
        assert!(tokens.iter().all(|token| token.is_short));
        let tokens = read_text("a:read:0123456789abcde\nb:read:0123456789abcdef").unwrap();
        assert_eq!(tokens.iter().map(|token| token.is_short).collect::<Vec<_>>(), [true, false]);
    }

    #[test]
    fn a_token_may_have_colons() {
        let tokens = read_text("grafana:read:a:b=").unwrap();
        assert_eq!(tokens[0].digest, <[u8; 32]>::from(Sha256::digest("a:b=")));
    }

    #[test]
    fn a_wrong_line_is_named_and_not_shown() {
        for (line, problem) in [
            ("secret", "three parts"),
            ("a:read", "three parts"),
            ("a:reader:secret", "the scope is none"),
            (":read:secret", "a name has"),
            ("a b:read:secret", "a name has"),
            ("a:read:", "printable ASCII"),
            ("a:read:sec ret", "printable ASCII"),
        ] {
            let error = read_text(&format!("ok:read:fine\n{line}\n")).unwrap_err();
            assert!(error.contains("line 2") && error.contains(problem) && !error.contains("sec"), "{error}");
        }
        assert!(read_text(&"a:read:b\n".repeat(MAX_TOKENS + 1)).unwrap_err().contains("more than 1000 tokens"));
        assert!(read_text(&"#".repeat(2 << 20)).unwrap_err().contains("larger than 1 MiB"));
        let missing = read(Path::new("/nonexistent/tokens")).map(|_| ()).unwrap_err().to_string();
        assert!(missing.contains("API_TOKENS_FILE") && missing.contains("/nonexistent/tokens"), "{missing}");
    }
}
