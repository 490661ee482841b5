//! Which rules there are: those built in, and those of RULES_DIR, which is read again when it changes.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::format::parse;
use super::{Rule, RuleGroup};
use crate::folder::{self, FileError, Look, Watched};

/// What the file of the rules that are built in is called.
pub const BUILT_IN_FILE: &str = "built-in.yaml";

/// The rules that are built in.
const BUILT_IN: &str = include_str!("../built-in.yaml");

/// The setting that names the folder, and what stands for the folder as a whole among refused files.
pub const RULES_DIR: &str = "RULES_DIR";

/// The most rules of all files.
const MAX_RULES: usize = 5_000;

/// All rules at one time.
#[derive(Debug, Default)]
pub struct RuleSet {
    /// In the order of files, and in each as they are there.
    pub groups: Vec<Arc<RuleGroup>>,
    /// Whether a file could not be read and no earlier version of it is known: then rules may be missing here that exist.
    pub incomplete: bool,
    /// Files that are refused, and why.
    pub refused: Vec<FileError>,
}

/// The rules, kept up to date. Clones share them.
#[derive(Clone)]
pub struct RuleBook(Arc<Shared>);

struct Shared {
    built_in: Vec<Arc<RuleGroup>>,
    files: Watched<Vec<Arc<RuleGroup>>, RuleSet>,
}

impl RuleBook {
    /// The rules that are built in but for those named, and those of the folder. A folder that can't be used is logged and looked at again.
    pub fn open(folder: Option<&Path>, disabled: &BTreeSet<String>) -> Self {
        let mut built_in =
            parse(BUILT_IN_FILE, BUILT_IN).unwrap_or_else(|error| unreachable!("a test reads the rules that are built in: {error}"));
        let unknown = unknown(disabled, &built_in);
        if !unknown.is_empty() {
            // No error: a new version may have renamed a rule.
            tracing::warn!(
                names = unknown.join(", "),
                "BUILT_IN_RULES_DISABLED has names of no rule that is built in, which have no effect"
            );
        }
        let left_out = |rule: &Rule| disabled.contains("all") || disabled.contains(&rule.name);
        for group in &mut built_in {
            group.rules.retain(|rule| !left_out(rule));
        }
        let built_in: Vec<_> = built_in.into_iter().filter(|group| !group.rules.is_empty()).map(Arc::new).collect();
        // What counts until the folder can be used: those that are built in have no part in what is wrong with it.
        let first = RuleSet { groups: built_in.clone(), incomplete: true, refused: Vec::new() };
        let book = Self(Arc::new(Shared { built_in, files: Watched::new(RULES_DIR, folder, first) }));
        book.look();
        book
    }

    /// The rules as they are now.
    pub fn current(&self) -> Arc<RuleSet> {
        self.0.files.current()
    }

    /// Looks at the folder from time to time. Never returns where there is one.
    pub async fn watch(self) {
        if self.0.files.is_set() {
            folder::watch(move || self.look()).await;
        }
    }

    /// Reads the folder, and the files that changed.
    pub fn look(&self) {
        let parse = |file: &str, text: &str| {
            // The state of a group is known by its file and its name.
            if file == BUILT_IN_FILE {
                let problem = format!("{BUILT_IN_FILE} is the file of the rules that are built in: rename this one");
                return Err(FileError { file: file.to_owned(), line: 0, problem });
            }
            Ok(parse(file, text)?.into_iter().map(Arc::new).collect())
        };
        self.0.files.look(parse, |look| self.set(look));
    }

    /// The rules after a look at the folder; None where they stay.
    fn set(&self, look: Look<Vec<Arc<RuleGroup>>>) -> Option<RuleSet> {
        let found = match look {
            Look::Unchanged => return None,
            // What was used before stays: at a start those that are built in.
            Look::Unreadable { problem } => return Some(self.refused(problem)),
            Look::Changed(found) => found,
        };
        let groups: Vec<_> = self.0.built_in.iter().chain(found.files.iter().flat_map(|groups| groups.iter())).cloned().collect();
        let rules: usize = groups.iter().map(|group| group.rules.len()).sum();
        if rules > MAX_RULES {
            let problem = format!("all files together have at most {MAX_RULES} rules");
            tracing::error!("the files of RULES_DIR are refused: {problem}; the rules that were used before go on being used");
            return Some(self.refused(problem));
        }
        tracing::info!(groups = groups.len(), rules, refused = found.refused.len(), "the rules are read");
        Some(RuleSet { groups, incomplete: found.incomplete, refused: found.refused })
    }

    /// The rules as they are now, while the folder as a whole is refused.
    fn refused(&self, problem: String) -> RuleSet {
        let error = FileError { file: RULES_DIR.to_owned(), line: 0, problem };
        RuleSet { groups: self.current().groups.clone(), incomplete: true, refused: vec![error] }
    }
}

/// The names of no rule that is built in.
fn unknown<'a>(disabled: &'a BTreeSet<String>, built_in: &[RuleGroup]) -> Vec<&'a str> {
    let is_known = |name: &str| name == "all" || built_in.iter().flat_map(|group| &group.rules).any(|rule| rule.name == name);
    disabled.iter().map(String::as_str).filter(|name| !is_known(name)).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn names(book: &RuleBook) -> Vec<String> {
        book.current()
            .groups
            .iter()
            .filter(|group| group.file != BUILT_IN_FILE)
            .map(|group| format!("{}/{}", group.file, group.name))
            .collect()
    }

    const GOOD: &str = "groups:\n- name: one\n  rules:\n  - alert: A\n    expr: up == 0\n";

    #[test]
    fn a_bad_file_is_refused_and_its_last_version_stays() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write("a.yaml", GOOD);
        write("b.yml", &GOOD.replace("one", "two"));
        write("c.txt", "no rules");
        write(".hidden.yaml", GOOD);
        let book = RuleBook::open(Some(folder.path()), &BTreeSet::new());
        assert_eq!(names(&book), ["a.yaml/one", "b.yml/two"]);

        write("a.yaml", &GOOD.replace("up == 0", "up ==="));
        book.look();
        assert_eq!(names(&book), ["a.yaml/one", "b.yml/two"]);
        let refused = book.current().refused.clone();
        assert_eq!((refused[0].file.as_str(), refused[0].line), ("a.yaml", 5));
        assert!(!book.current().incomplete);

        write("a.yaml", &GOOD.replace("one", "three"));
        fs::remove_file(folder.path().join("b.yml")).unwrap();
        book.look();
        assert_eq!(names(&book), ["a.yaml/three"]);
        assert!(book.current().refused.is_empty());

        write("d.yaml", "groups: 1");
        book.look();
        assert_eq!(names(&book), ["a.yaml/three"]);
        assert!(book.current().incomplete);

        fs::remove_dir_all(folder.path()).unwrap();
        book.look();
        assert_eq!(names(&book), ["a.yaml/three"]);
        let rules = book.current();
        assert_eq!((rules.refused.len(), rules.refused[0].file.as_str(), rules.incomplete), (1, "RULES_DIR", true));
    }

    #[test]
    fn a_file_with_the_name_of_the_rules_that_are_built_in_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(BUILT_IN_FILE), GOOD.replace("one", "golectra-self")).unwrap();
        fs::write(folder.path().join("good.yaml"), GOOD).unwrap();
        let book = RuleBook::open(Some(folder.path()), &BTreeSet::new());
        let rules = book.current();
        let keys: BTreeSet<_> = rules.groups.iter().map(|group| (&group.file, &group.name)).collect();
        assert_eq!(keys.len(), rules.groups.len(), "two groups have one state");
        assert_eq!(names(&book), ["good.yaml/one"]);
        assert_eq!((rules.refused.len(), rules.refused[0].file.as_str()), (1, BUILT_IN_FILE));
        assert!(rules.refused[0].problem.contains("rename this one"), "{:?}", rules.refused);
    }

    #[test]
    fn too_many_rules_at_the_first_look_leave_those_that_are_built_in() {
        let folder = tempfile::tempdir().unwrap();
        let text = format!("groups:\n- name: many\n  rules:\n{}", "  - {record: r, expr: up}\n".repeat(2_000));
        for name in ["a.yaml", "b.yaml", "c.yaml"] {
            fs::write(folder.path().join(name), &text).unwrap();
        }
        let built_in = RuleBook::open(None, &BTreeSet::new()).current().groups.len();
        let book = RuleBook::open(Some(folder.path()), &BTreeSet::new());
        let rules = book.current();
        assert!(built_in > 0 && names(&book).is_empty());
        assert_eq!((rules.groups.len(), rules.incomplete), (built_in, true));
        assert!(rules.refused[0].problem.contains("at most 5000 rules"), "{:?}", rules.refused);

        fs::remove_file(folder.path().join("c.yaml")).unwrap();
        book.look();
        assert_eq!(names(&book), ["a.yaml/many", "b.yaml/many"]);
        assert!(!book.current().incomplete);
    }

    #[test]
    fn names_of_no_rule_are_known_as_such() {
        let built_in = parse(BUILT_IN_FILE, BUILT_IN).unwrap();
        let unknown = |names: &[&str]| {
            let disabled: BTreeSet<_> = names.iter().map(|name| (*name).to_owned()).collect();
            unknown(&disabled, &built_in).join(", ")
        };
        assert_eq!(unknown(&[]), "");
        assert_eq!(unknown(&["all", "Watchdog"]), "");
        assert_eq!(unknown(&["Watchdog", "watchdog", "ALL", "NodeAsleep"]), "ALL, NodeAsleep, watchdog");
    }

    #[test]
    fn rules_that_are_built_in_can_be_left_out() {
        let all = RuleBook::open(None, &BTreeSet::new()).current();
        let rules = |set: &RuleSet| set.groups.iter().flat_map(|group| &group.rules).map(|rule| rule.name.clone()).collect::<Vec<_>>();
        assert!(rules(&all).iter().any(|name| name == "Watchdog"));
        let fewer = RuleBook::open(None, &BTreeSet::from(["Watchdog".to_owned()])).current();
        assert_eq!(rules(&fewer).len(), rules(&all).len() - 1);
        assert!(RuleBook::open(None, &BTreeSet::from(["all".to_owned()])).current().groups.is_empty());
        let missing = RuleBook::open(Some(Path::new("/nonexistent/rules")), &BTreeSet::new()).current();
        assert!(missing.incomplete && missing.groups.len() == all.groups.len());
        assert_eq!(missing.refused.len(), 1, "it is said, and counted: {:?}", missing.refused);
    }
}
