//! The two ways to write a DSN, a URL and libpq's words, as one list of parameters. Nothing is said here about what they mean.

use super::DsnError;
use super::parameter::Parameter;

/// Names and values in the order in which they were written.
pub(super) type Parameters = Vec<(String, String)>;

/// The parameters of a DSN.
pub(super) fn parameters(dsn: &str) -> Result<Parameters, DsnError> {
    match dsn.strip_prefix("postgres://").or_else(|| dsn.strip_prefix("postgresql://")) {
        Some(rest) => url(rest),
        None => words(dsn).ok_or(DsnError::Malformed),
    }
}

/// `[USER[:PASSWORD]@][HOST[:PORT]][/DATABASE][?NAME=VALUE&…]`.
fn url(rest: &str) -> Result<Parameters, DsnError> {
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(end);
    let (path, query) = tail.split_once('?').unwrap_or((tail, ""));
    let pairs: Vec<(&str, &str)> = query.split('&').filter(|pair| !pair.is_empty()).map(name_and_value).collect();
    // A password with one of / ? # ends the authority too early, and leaves the @ that should follow it somewhere behind.
    let stray = |(name, value): &(&str, &str)| name.contains('@') || (value.contains('@') && Parameter::named(name).is_none());
    if tail.contains('#') || path.contains('@') || pairs.iter().any(stray) {
        return Err(DsnError::Encoding);
    }

    let mut found = Parameters::new();
    let mut add = |name: &str, value: String| found.push((name.to_owned(), value));
    let host = match authority.rsplit_once('@') {
        Some((credentials, host)) => {
            let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
            add("user", decode(user)?);
            add("password", decode(password)?);
            host
        }
        None => authority,
    };
    let (host, port) = host_and_port(host)?;
    add("host", decode(host)?);
    add("port", port.to_owned());
    add("dbname", decode(path.strip_prefix('/').unwrap_or(path))?);
    if query.split('&').any(|pair| !pair.is_empty() && !pair.contains('=')) {
        return Err(DsnError::Malformed);
    }
    for (name, value) in pairs {
        // Some drivers write a space as a form does.
        add(&decode(name)?, decode(&value.replace('+', " "))?);
    }
    Ok(found)
}

fn name_and_value(pair: &str) -> (&str, &str) {
    pair.split_once('=').unwrap_or((pair, ""))
}

/// An IPv6 address stands in brackets, which are left out.
fn host_and_port(text: &str) -> Result<(&str, &str), DsnError> {
    if text.contains(',') {
        return Err(DsnError::SeveralHosts);
    }
    let (host, rest) = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']').ok_or(DsnError::Malformed)?,
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    match rest.strip_prefix(':') {
        Some(port) => Ok((host, port)),
        None if rest.is_empty() => Ok((host, "")),
        None => Err(DsnError::Malformed),
    }
}

/// What percent-encoded text stands for.
fn decode(text: &str) -> Result<String, DsnError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(if byte == b'%' {
            let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16)).ok_or(DsnError::Encoding);
            let value = digit()? * 16 + digit()?;
            u8::try_from(value).map_err(|_| DsnError::Encoding)?
        } else {
            byte
        });
    }
    let text = String::from_utf8(bytes).map_err(|_| DsnError::Encoding)?;
    if text.contains('\0') { Err(DsnError::Malformed) } else { Ok(text) }
}

/// `host=db user='a b' …`, with `\` before a quote or another `\`.
fn words(text: &str) -> Option<Parameters> {
    let mut found = Parameters::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=')?;
        let name = name.trim();
        let (value, after) = word(after.trim_start())?;
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-[]".contains(&byte)) {
            return None;
        }
        found.push((name.to_owned(), value));
        rest = after.trim_start();
    }
    (!found.is_empty()).then_some(found)
}

/// A value, which may be quoted, and what follows it.
fn word(text: &str) -> Option<(String, &str)> {
    let quoted = text.starts_with('\'');
    let mut chars = text.char_indices().skip(usize::from(quoted));
    let mut value = String::new();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.push(chars.next()?.1),
            '\'' if quoted => return Some((value, &text[at + 1..])),
            c if !quoted && c.is_whitespace() => return Some((value, &text[at..])),
            c => value.push(c),
        }
    }
    (!quoted).then_some((value, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(dsn: &str) -> Vec<(String, String)> {
        let mut found = parameters(dsn).unwrap_or_else(|error| panic!("{dsn}: {error}"));
        found.retain(|(_, value)| !value.is_empty());
        found
    }

    fn pairs<const N: usize>(pairs: [(&str, &str); N]) -> Vec<(String, String)> {
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
    }

    #[test]
    fn urls() {
        assert_eq!(read("postgres://"), []);
        assert_eq!(read("postgres:///m"), pairs([("dbname", "m")]));
        assert_eq!(read("postgres://db"), pairs([("host", "db")]));
        assert_eq!(read("postgresql://[::1]:5433?user=a@b"), pairs([("host", "::1"), ("port", "5433"), ("user", "a@b")]));
        assert_eq!(read("postgres://u@%2Frun%2Fpg/m"), pairs([("user", "u"), ("host", "/run/pg"), ("dbname", "m")]));
        // The last @ ends the password, as it always did here.
        let found = read("postgres://u:p@s%25:%2f@db:5433/m?options=-c+a%3Db&x=y=z");
        let expected =
            [("user", "u"), ("password", "p@s%:/"), ("host", "db"), ("port", "5433"), ("dbname", "m"), ("options", "-c a=b"), ("x", "y=z")];
        assert_eq!(found, pairs(expected));
    }

    #[test]
    fn words_with_quotes() {
        let found = read(" host = db  password='se \\'cr\\\\et'user=a\\ b port=1");
        assert_eq!(found, pairs([("host", "db"), ("password", "se 'cr\\et"), ("user", "a b"), ("port", "1")]));
        for dsn in ["", "db", "host=h password='x", "host=h my password=x", "=h", "host=\\"] {
            assert_eq!(parameters(dsn), Err(DsnError::Malformed), "{dsn}");
        }
    }

    #[test]
    fn what_must_be_percent_encoded_is_named() {
        for password in
            ["a/b", "a?b", "a#b", "1/2", "1?b=c", "a?b", "a%", "a%zz", "a%ff", "a@b/c", "a/b@c", "a?user", "a?b=c", "#", "/", "?"]
        {
            for dsn in [format!("postgres://u:{password}@db:5432/m"), format!("postgres://u:{password}@db/m?sslmode=disable")] {
                assert_eq!(parameters(&dsn), Err(DsnError::Encoding), "{dsn}");
            }
        }
        for dsn in ["postgres://db/m#x", "postgres://u%:p@db/m", "postgres://u:p@db/m%", "postgres://u:p@db/m?user=%"] {
            assert_eq!(parameters(dsn), Err(DsnError::Encoding), "{dsn}");
        }
    }

    #[test]
    fn hosts() {
        for dsn in ["postgres://a,b/m", "postgres://u:p@a:1,b:2/m"] {
            assert_eq!(parameters(dsn), Err(DsnError::SeveralHosts), "{dsn}");
        }
        for dsn in ["postgres://[::1/m", "postgres://[::1]5432/m", "postgres://u%00@db/m"] {
            assert_eq!(parameters(dsn), Err(DsnError::Malformed), "{dsn}");
        }
    }
}
