//! Folders of YAML files that people write, such as RULES_DIR: looked at again and again, and each file is used as a whole or not at all.

mod yaml;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use golectra_process::mounted::read_settled;
use tokio::time::{MissedTickBehavior, interval};

pub use self::yaml::YamlReader;

/// The largest file, in bytes.
pub const MAX_FILE_BYTES: usize = 1 << 20;
/// The most files of a folder.
const MAX_FILES: usize = 100;
/// How often a folder is looked at.
const EVERY: Duration = Duration::from_secs(5);

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct FileError {
    /// The file.
    pub file: String,
    /// The line, from 1; 0 where the whole file is meant.
    pub line: u64,
    /// What is wrong there.
    pub problem: String,
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file, self.problem),
            line => write!(f, "{}, line {line}: {}", self.file, self.problem),
        }
    }
}

/// What the files of a folder come to, kept up to date.
pub struct Watched<T, S> {
    folder: Mutex<Folder<T>>,
    is_set: bool,
    current: RwLock<Arc<S>>,
}

impl<T, S> Watched<T, S> {
    /// The folder that a setting names, if it names one, and what counts before the first look.
    pub fn new(setting: &'static str, path: Option<&Path>, first: S) -> Self {
        Self { folder: Mutex::new(Folder::new(setting, path)), is_set: path.is_some(), current: RwLock::new(Arc::new(first)) }
    }

    /// Whether the setting names a folder.
    pub fn is_set(&self) -> bool {
        self.is_set
    }

    /// What counts now.
    pub fn current(&self) -> Arc<S> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Looks at the folder. What `make` gives counts from now on; None leaves what there is.
    pub fn look(&self, parse: impl Fn(&str, &str) -> Result<T, FileError>, make: impl FnOnce(Look<T>) -> Option<S>) {
        let mut folder = self.folder.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = make(folder.look(parse)) {
            *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(made);
        }
    }
}

/// The texts of files by their names, or why they can't be read.
type Texts = BTreeMap<String, Result<String, String>>;

/// A folder, and what was found there last.
struct Folder<T> {
    /// The setting that names it.
    setting: &'static str,
    path: Option<PathBuf>,
    texts: Option<Texts>,
    /// The last version of each file that could be used.
    good: BTreeMap<String, Arc<T>>,
    /// Why the present version of a file can't be used.
    refused: BTreeMap<String, FileError>,
    problem: Option<String>,
}

/// What a look at a folder found.
pub enum Look<T> {
    /// What the look before found.
    Unchanged,
    /// It can't be read.
    Unreadable {
        /// Why.
        problem: String,
    },
    /// Something else than before.
    Changed(Contents<T>),
}

/// What is in a folder.
pub struct Contents<T> {
    /// The last version of each file that could be used, in the order of their names.
    pub files: Vec<Arc<T>>,
    /// Files that are refused, and why.
    pub refused: Vec<FileError>,
    /// Whether a file is refused of which no earlier version is known.
    pub incomplete: bool,
}

impl<T> Folder<T> {
    /// The folder that a setting names, if it names one.
    fn new(setting: &'static str, path: Option<&Path>) -> Self {
        Self { setting, path: path.map(Path::to_path_buf), texts: None, good: BTreeMap::new(), refused: BTreeMap::new(), problem: None }
    }

    /// Reads the folder, and parses the files that changed. What can't be used is logged once.
    fn look(&mut self, parse: impl Fn(&str, &str) -> Result<T, FileError>) -> Look<T> {
        let texts = match self.path.as_deref().map(|path| read_settled(|| read_once(path))).transpose() {
            Ok(texts) => texts.unwrap_or_default(),
            Err(error) => {
                let folder = self.path.as_deref().unwrap_or(Path::new("")).display();
                let problem = format!("{folder} can't be read: {error}");
                if self.problem.as_ref() != Some(&problem) {
                    tracing::error!("{} {problem}: what was read before goes on being used", self.setting);
                }
                self.problem = Some(problem.clone());
                return Look::Unreadable { problem };
            }
        };
        let was_unreadable = self.problem.take().is_some();
        if self.texts.as_ref() == Some(&texts) && !was_unreadable {
            return Look::Unchanged;
        }
        self.good.retain(|file, _| texts.contains_key(file));
        self.refused.retain(|file, _| texts.contains_key(file));
        let before = self.texts.take().unwrap_or_default();
        for (file, text) in texts.iter().filter(|(file, text)| before.get(*file) != Some(text)) {
            let parsed = match text {
                Ok(text) => parse(file, text),
                Err(error) => Err(FileError { file: file.clone(), line: 0, problem: format!("it can't be read: {error}") }),
            };
            match parsed {
                Ok(parsed) => {
                    self.good.insert(file.clone(), Arc::new(parsed));
                    self.refused.remove(file);
                }
                Err(error) => {
                    let kept = if self.good.contains_key(file) { "its last version goes on being used" } else { "nothing of it is used" };
                    tracing::error!("a file of {} is refused: {error}; {kept}", self.setting);
                    self.refused.insert(file.clone(), error);
                }
            }
        }
        let contents = Contents {
            files: self.good.values().cloned().collect(),
            refused: self.refused.values().cloned().collect(),
            incomplete: self.refused.keys().any(|file| !self.good.contains_key(file)),
        };
        self.texts = Some(texts);
        Look::Changed(contents)
    }
}

/// Calls `look` from time to time, on a thread that may wait: a folder of a slow network must hold up nothing else. Never returns.
pub async fn watch(look: impl Fn() + Send + Sync + 'static) {
    let look = Arc::new(look);
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let look = Arc::clone(&look);
        let _ = tokio::task::spawn_blocking(move || look()).await;
    }
}

/// The texts of the files. One that can't be read is that file's problem: the others are used.
fn read_once(path: &Path) -> io::Result<Texts> {
    let mut texts = Texts::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_yaml = Path::new(&name).extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
        if name.starts_with('.') || !is_yaml {
            continue;
        }
        let Some(text) = read_file(&entry.path()).transpose() else { continue };
        if texts.len() == MAX_FILES {
            return Err(io::Error::other(format!("it has more than {MAX_FILES} files")));
        }
        texts.insert(name, text.map_err(|error| error.to_string()));
    }
    Ok(texts)
}

/// The text of a file; none of what is no file, such as a folder.
fn read_file(path: &Path) -> io::Result<Option<String>> {
    if !fs::metadata(path)?.is_file() {
        return Ok(None);
    }
    let mut content = Vec::new();
    // One byte more than the limit, so that a longer file is refused and not cut.
    File::open(path)?.take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut content)?;
    // What is not UTF-8 is refused by the reader at its place.
    Ok(Some(String::from_utf8_lossy(&content).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(file: &str, text: &str) -> Result<u32, FileError> {
        let problem = |_| FileError { file: file.to_owned(), line: 1, problem: "no number".to_owned() };
        text.parse().map_err(problem)
    }

    #[test]
    fn the_last_good_version_of_each_file_counts() {
        let place = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(place.path().join(name), text).unwrap();
        write("b.yaml", "2");
        write("a.yml", "1");
        write("c.txt", "3");
        write(".d.yaml", "4");
        let mut folder = Folder::new("SOME_DIR", Some(place.path()));
        let mut look = || match folder.look(number) {
            Look::Unchanged => "unchanged".to_owned(),
            Look::Unreadable { .. } => "unreadable".to_owned(),
            Look::Changed(found) => {
                let files: Vec<_> = found.files.iter().map(|number| **number).collect();
                format!("{files:?} {:?} {}", found.refused.iter().map(ToString::to_string).collect::<Vec<_>>(), found.incomplete)
            }
        };
        assert_eq!(look(), "[1, 2] [] false");
        assert_eq!(look(), "unchanged");
        write("a.yml", "x");
        assert_eq!(look(), r#"[1, 2] ["a.yml, line 1: no number"] false"#);
        write("d.yaml", "y");
        assert_eq!(look(), r#"[1, 2] ["a.yml, line 1: no number", "d.yaml, line 1: no number"] true"#);
        fs::remove_file(place.path().join("a.yml")).unwrap();
        write("d.yaml", "5");
        assert_eq!(look(), "[2, 5] [] false");
        let away = place.path().with_extension("away");
        fs::rename(place.path(), &away).unwrap();
        assert_eq!(look(), "unreadable");
        fs::rename(&away, place.path()).unwrap();
        assert_eq!(look(), "[2, 5] [] false", "what could not be read is told again");
        assert_eq!(look(), "unchanged");
    }

    #[test]
    fn a_file_that_can_not_be_read_is_refused_and_the_others_are_used() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        fs::write(path("a.yaml"), "1").unwrap();
        fs::create_dir(path("folder.yaml")).unwrap();
        std::os::unix::fs::symlink("nowhere", path("z.yaml")).unwrap();
        let mut folder = Folder::new("SOME_DIR", Some(place.path()));
        let mut look = || match folder.look(number) {
            Look::Changed(found) => (found.files.iter().map(|number| **number).collect::<Vec<_>>(), found.refused, found.incomplete),
            Look::Unchanged | Look::Unreadable { .. } => (Vec::new(), Vec::new(), false),
        };
        let (files, refused, incomplete) = look();
        assert_eq!((files, refused.len(), incomplete), (vec![1], 1, true));
        assert_eq!((refused[0].file.as_str(), refused[0].line), ("z.yaml", 0));
        assert!(refused[0].problem.starts_with("it can't be read: "), "{}", refused[0]);
        fs::write(path("nowhere"), "2").unwrap();
        assert_eq!(look(), (vec![1, 2], Vec::new(), false));
        // Its last version stays, as that of a file with a mistake.
        fs::remove_file(path("nowhere")).unwrap();
        let (files, refused, incomplete) = look();
        assert_eq!((files, refused.len(), incomplete), (vec![1, 2], 1, false));
    }

    #[test]
    fn a_folder_that_is_not_there_or_not_set_is_no_error() {
        assert!(matches!(
            Folder::new("SOME_DIR", Some(Path::new("/nonexistent/folder"))).look(number),
            Look::Unreadable { problem } if problem.starts_with("/nonexistent/folder can't be read")
        ));
        let mut unset = Folder::new("SOME_DIR", None);
        assert!(matches!(unset.look(number), Look::Changed(found) if found.files.is_empty()));
        assert!(matches!(unset.look(number), Look::Unchanged));
    }
}
