//! The name of this node on a server.

use std::str::FromStr;

use golectra_protocol::{Source, SourceError};

/// The longest name, in bytes.
const MAX_BYTES: usize = 253;

/// A source that an operator has set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceName(pub Source);

impl FromStr for SourceName {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        Source::parse(text).map(Self)
    }
}

/// The name of this host as a source.
pub(super) fn of_this_host() -> Source {
    from_host_name(&sysinfo::System::host_name().unwrap_or_default())
}

/// A host name may have any characters; those that a source may not have become dashes.
fn from_host_name(name: &str) -> Source {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') { c } else { '-' };
    let name: String = name.trim().chars().map(allowed).take(MAX_BYTES).collect();
    Source::parse(&name).unwrap_or_else(|_| Source::parse("unnamed-host").expect("the name is written here"))
}

#[cfg(test)]
mod tests {
    use super::from_host_name;

    #[test]
    fn every_host_name_becomes_a_source() {
        for (host, source) in [
            ("node-1.example.org", "node-1.example.org"),
            ("Anna's laptop\n", "Anna-s-laptop"),
            ("knoten-äöü", "knoten----"),
            ("", "unnamed-host"),
            (" ", "unnamed-host"),
        ] {
            assert_eq!(from_host_name(host).as_str(), source, "{host:?}");
        }
        assert_eq!(from_host_name(&"x".repeat(300)).as_str().len(), 253);
    }
}
