//! Which namespaces' pods are reported.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The longest name of a namespace, in bytes.
const MAX_NAME_BYTES: usize = 63;

/// Names of namespaces, written with commas between them. A `*` at the end of a name stands for any rest.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct NamespaceList(Arc<[String]>);

impl NamespaceList {
    /// Whether a namespace is on the list.
    fn has(&self, namespace: &str) -> bool {
        self.0.iter().any(|name| name.strip_suffix('*').map_or(name == namespace, |start| namespace.starts_with(start)))
    }
}

/// Why a text is no list of namespaces: a part of it could match none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected names of namespaces with commas between them, a `*` only at the end of one")]
pub struct NamespaceListError;

impl FromStr for NamespaceList {
    type Err = NamespaceListError;

    fn from_str(text: &str) -> Result<Self, NamespaceListError> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let names: Arc<[String]> = text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect();
        if names.is_empty() || !names.iter().all(|name| may_match(name)) { Err(NamespaceListError) } else { Ok(Self(names)) }
    }
}

/// Whether a namespace can have this name, or a name that begins like this where a `*` is at its end.
fn may_match(name: &str) -> bool {
    let start = name.strip_suffix('*').unwrap_or(name);
    start.len() <= MAX_NAME_BYTES && start.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

impl fmt::Debug for NamespaceList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter()).finish()
    }
}

/// What is reported: what is on the first list, or everything if that is empty, without what is on the second.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespaces {
    /// Those that are reported.
    pub include: NamespaceList,
    /// Those that are not.
    pub exclude: NamespaceList,
}

impl Namespaces {
    /// Whether the pods of this namespace are reported and scraped.
    pub(in crate::collect) fn allow(&self, namespace: &str) -> bool {
        (self.include.0.is_empty() || self.include.has(namespace)) && !self.exclude.has(namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_include_and_exclude() {
        let allowed = |include: &str, exclude: &str| {
            let namespaces = Namespaces { include: include.parse().unwrap(), exclude: exclude.parse().unwrap() };
            ["default", "shop", "shop-test", "kube-system"].into_iter().filter(|name| namespaces.allow(name)).collect::<Vec<_>>()
        };
        assert_eq!(allowed("", ""), ["default", "shop", "shop-test", "kube-system"]);
        assert_eq!(allowed("shop, default,", ""), ["default", "shop"]);
        assert_eq!(allowed("shop*", "shop-test"), ["shop"]);
        assert_eq!(allowed("", "kube-*,default"), ["shop", "shop-test"]);
        assert_eq!(allowed("*", "*"), [""; 0]);
    }

    #[test]
    fn what_no_namespace_can_be_called_is_refused() {
        let long = "a".repeat(63);
        for text in ["", " ", "*", "kube-*", "shop, default,", &long, &format!("{long}*")] {
            assert!(text.parse::<NamespaceList>().is_ok(), "{text}");
        }
        for text in [",", " , ", "a b", "shop;web", "team-*-prod", "**", "Shop", "shop,web.prod", &format!("{long}a")] {
            assert_eq!(text.parse::<NamespaceList>(), Err(NamespaceListError), "{text}");
        }
    }
}
