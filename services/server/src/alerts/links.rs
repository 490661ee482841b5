//! Addresses of this server's pages, for those who are told of alerts.

use super::rules::RuleSet;
use crate::config::ExternalUrl;

/// See the module's documentation. Without EXTERNAL_URL all of them are empty.
#[derive(Debug, Clone, Default)]
pub struct Links(Option<ExternalUrl>);

impl Links {
    /// Below this address.
    pub const fn new(external_url: Option<ExternalUrl>) -> Self {
        Self(external_url)
    }

    /// Where the server is.
    pub fn root(&self) -> &str {
        self.0.as_ref().map_or("", ExternalUrl::as_str)
    }

    /// The page that shows this expression.
    pub fn explore(&self, expr: &str) -> String {
        if self.0.is_none() {
            return String::new();
        }
        let query: String = form_urlencoded::byte_serialize(expr.as_bytes()).collect();
        format!("{}/explore?query={query}", self.root())
    }

    /// The page of a rule's expression, while there is such a rule.
    pub fn of_rule(&self, rules: &RuleSet, file: &str, group: &str, key: &str) -> String {
        let mut groups = rules.groups.iter().filter(|found| found.file == file && found.name == group);
        let rule = groups.find_map(|group| group.rules.iter().find(|rule| rule.key == key));
        rule.map_or_else(String::new, |rule| self.explore(&rule.expr))
    }
}
