//! The schema that holds golectra's tables. It is golectra's own, so that no name can meet another application's.

use std::fmt;

/// The name of a schema, as PostgreSQL stores it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SchemaName(String);

impl Default for SchemaName {
    fn default() -> Self {
        Self("golectra".to_owned())
    }
}

impl SchemaName {
    /// Reads a `search_path` that holds one schema: an identifier, in double quotes where it is not a plain one. None for a list,
    /// for `$user`, and for PostgreSQL's own schemas.
    pub(super) fn parse(search_path: &str) -> Option<Self> {
        let text = search_path.trim();
        let name = if let Some(quoted) = text.strip_prefix('"') {
            let quoted = quoted.strip_suffix('"')?.replace("\"\"", "\u{0}");
            if quoted.contains('"') {
                return None;
            }
            quoted.replace('\u{0}', "\"")
        } else {
            let first = |c: char| c.is_ascii_alphabetic() || c == '_' || !c.is_ascii();
            if !text.starts_with(first) || !text.chars().all(|c| first(c) || c.is_ascii_digit() || c == '$') {
                return None;
            }
            text.to_ascii_lowercase()
        };
        // PostgreSQL would cut a longer name.
        let fits = !name.is_empty() && name.len() <= 63 && !name.starts_with("pg_") && name != "information_schema";
        fits.then_some(Self(name))
    }

    /// As PostgreSQL stores it.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// As it stands in SQL.
impl fmt::Display for SchemaName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.replace('"', "\"\""))
    }
}

#[cfg(test)]
mod tests {
    use super::SchemaName;

    #[test]
    fn one_identifier() {
        for (text, name, quoted) in [
            ("m", "m", "\"m\""),
            (" Golectra_2 ", "golectra_2", "\"golectra_2\""),
            ("\"My schema\"", "My schema", "\"My schema\""),
            ("\"a\"\"b\"", "a\"b", "\"a\"\"b\""),
            ("größe", "größe", "\"größe\""),
        ] {
            let parsed = SchemaName::parse(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!((parsed.as_str(), parsed.to_string()), (name, quoted.to_owned()));
        }
        let long = "x".repeat(64);
        for text in ["", "a,b", "\"a\",b", "$user", "\"a", "a\"b", "1a", "pg_x", "PG_temp", "information_schema", "a b", "\"\"", &long] {
            assert_eq!(SchemaName::parse(text), None, "{text}");
        }
    }
}
