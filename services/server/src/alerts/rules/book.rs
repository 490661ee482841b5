//! Which rules there are: those built in, and those of RULES_DIR, which is read again when it changes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::format::{MAX_FILE_BYTES, RuleFileError, parse};
use super::{Rule, RuleGroup};

/// What the file of the rules that are built in is called.
pub const BUILT_IN_FILE: &str = "built-in.yaml";

/// The rules that are built in.
const BUILT_IN: &str = include_str!("../built-in.yaml");

/// How often the folder is looked at.
const EVERY: Duration = Duration::from_secs(5);
/// The most files of the folder.
const MAX_FILES: usize = 100;
/// The most rules of all files.
const MAX_RULES: usize = 5_000;
/// A folder is read until two reads in a row agree, at most this many times.
const MAX_READS: usize = 6;

/// All rules at one time.
#[derive(Debug, Default)]
pub struct RuleSet {
    /// In the order of files, and in each as they are there.
    pub groups: Vec<Arc<RuleGroup>>,
    /// Whether a file could not be read and no earlier version of it is known: then rules may be missing here that exist.
    pub incomplete: bool,
    /// Files that are refused, and why.
    pub refused: Vec<RuleFileError>,
}

/// The rules, kept up to date. Clones share them.
#[derive(Clone)]
pub struct RuleBook(Arc<Shared>);

struct Shared {
    folder: Option<PathBuf>,
    built_in: Vec<Arc<RuleGroup>>,
    current: RwLock<Arc<RuleSet>>,
    last: Mutex<Last>,
}

/// What the last look found.
#[derive(Default)]
struct Last {
    texts: Option<BTreeMap<String, String>>,
    /// The last version of each file that could be used.
    good: BTreeMap<String, Vec<Arc<RuleGroup>>>,
    problem: Option<String>,
}

impl RuleBook {
    /// The rules that are built in but for those named, and those of the folder. A folder that can't be used is logged and looked at again.
    pub fn open(folder: Option<&Path>, disabled: &BTreeSet<String>) -> Self {
        let mut built_in =
            parse(BUILT_IN_FILE, BUILT_IN).unwrap_or_else(|error| unreachable!("a test reads the rules that are built in: {error}"));
        let left_out = |rule: &Rule| disabled.contains("all") || disabled.contains(&rule.name);
        for group in &mut built_in {
            group.rules.retain(|rule| !left_out(rule));
        }
        let built_in = built_in.into_iter().filter(|group| !group.rules.is_empty()).map(Arc::new).collect();
        let shared = Shared { folder: folder.map(Path::to_path_buf), built_in, current: RwLock::default(), last: Mutex::default() };
        let book = Self(Arc::new(shared));
        book.look();
        book
    }

    /// The rules as they are now.
    pub fn current(&self) -> Arc<RuleSet> {
        Arc::clone(&self.0.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Looks at the folder from time to time. Never returns where there is one.
    pub async fn watch(self) {
        if self.0.folder.is_none() {
            return;
        }
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let book = self.clone();
            // A folder of a slow network must hold up nothing else.
            let _ = tokio::task::spawn_blocking(move || book.look()).await;
        }
    }

    /// Reads the folder, and the files that changed.
    fn look(&self) {
        let mut last = self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
        let texts = match self.0.folder.as_deref().map(read_folder).transpose() {
            Ok(texts) => texts.unwrap_or_default(),
            Err(error) => {
                let folder = self.0.folder.as_deref().unwrap_or(Path::new("")).display();
                let problem = format!("RULES_DIR {folder} can't be read: {error}");
                if last.problem.as_ref() != Some(&problem) {
                    tracing::error!("{problem}: the rules that were read before go on being used");
                }
                if last.texts.is_none() {
                    self.publish(self.0.built_in.clone(), true, Vec::new());
                }
                last.problem = Some(problem);
                return;
            }
        };
        last.problem = None;
        if last.texts.as_ref() == Some(&texts) {
            return;
        }
        let mut refused = Vec::new();
        let (mut groups, mut incomplete) = (self.0.built_in.clone(), false);
        last.good.retain(|file, _| texts.contains_key(file));
        for (file, text) in &texts {
            let unchanged = last.texts.as_ref().is_some_and(|before| before.get(file) == Some(text));
            if !(unchanged && last.good.contains_key(file)) {
                match parse(file, text) {
                    Ok(parsed) => _ = last.good.insert(file.clone(), parsed.into_iter().map(Arc::new).collect()),
                    Err(error) => {
                        let kept =
                            if last.good.contains_key(file) { "its last version goes on being used" } else { "none of its rules is used" };
                        if !unchanged {
                            tracing::error!("a file of RULES_DIR is refused: {error}; {kept}");
                        }
                        incomplete |= !last.good.contains_key(file);
                        refused.push(error);
                    }
                }
            }
            groups.extend(last.good.get(file).into_iter().flatten().cloned());
        }
        if groups.iter().map(|group| group.rules.len()).sum::<usize>() > MAX_RULES {
            let error = RuleFileError {
                file: "RULES_DIR".to_owned(),
                line: 0,
                problem: format!("all files together have at most {MAX_RULES} rules"),
            };
            tracing::error!("the files of RULES_DIR are refused: {error}; the rules that were read before go on being used");
            let current = self.current();
            self.publish(current.groups.clone(), true, vec![error]);
            last.texts = Some(texts);
            return;
        }
        let rules: usize = groups.iter().map(|group| group.rules.len()).sum();
        tracing::info!(groups = groups.len(), rules, refused = refused.len(), "the rules are read");
        self.publish(groups, incomplete, refused);
        last.texts = Some(texts);
    }

    fn publish(&self, groups: Vec<Arc<RuleGroup>>, incomplete: bool, refused: Vec<RuleFileError>) {
        *self.0.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(RuleSet { groups, incomplete, refused });
    }
}

/// The texts of the files by their names. Kubernetes updates a mounted ConfigMap by replacing a symbolic link that all its files lead through; a
/// read during that moment may see files of both versions, so the folder is read again until two reads agree.
fn read_folder(path: &Path) -> io::Result<BTreeMap<String, String>> {
    let mut last = read_once(path)?;
    for _ in 1..MAX_READS {
        let again = read_once(path)?;
        if again == last {
            break;
        }
        last = again;
    }
    Ok(last)
}

fn read_once(path: &Path) -> io::Result<BTreeMap<String, String>> {
    let mut texts = BTreeMap::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_yaml = Path::new(&name).extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
        if name.starts_with('.') || !is_yaml || !fs::metadata(entry.path())?.is_file() {
            continue;
        }
        if texts.len() == MAX_FILES {
            return Err(io::Error::other(format!("it has more than {MAX_FILES} files")));
        }
        let mut content = Vec::new();
        // One byte more than the limit, so that a longer file is refused and not cut.
        File::open(entry.path())?.take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut content)?;
        // What is not UTF-8 is refused by the reader at its place.
        texts.insert(name, String::from_utf8_lossy(&content).into_owned());
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
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
    }
}
