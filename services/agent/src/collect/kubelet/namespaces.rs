//! Which namespaces' pods are reported.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Names of namespaces, written with commas between them. A `*` at the end of a name stands for any rest.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct NamespaceList(Arc<[String]>);

impl NamespaceList {
    /// Whether a namespace is on the list.
    fn has(&self, namespace: &str) -> bool {
        self.0.iter().any(|name| name.strip_suffix('*').map_or(name == namespace, |start| namespace.starts_with(start)))
    }
}

impl FromStr for NamespaceList {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()))
    }
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
}
