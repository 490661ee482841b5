//! Which panels and pages there are: those built in, and those of PANELS_DIR, which is read again when it changes.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::format::{self, PanelFile};
use super::{Group, Page};
use crate::folder::{self, FileError, Look, Watched};

/// The graphs of a node's page, and of a pod's.
const BUILT_IN: [(&str, &str); 2] =
    [("node.yaml", include_str!("../../../../panels/node.yaml")), ("pod.yaml", include_str!("../../../../panels/pod.yaml"))];

/// The most pages of all files.
const MAX_PAGES: usize = 200;

/// All panels and pages at one time.
#[derive(Debug, Default)]
pub struct PanelSet {
    /// The graphs of a node.
    pub node: Vec<Group>,
    /// The graphs of a pod.
    pub pod: Vec<Group>,
    /// Further pages, in the order of files, and in each as they are there.
    pub pages: Vec<Page>,
    /// What can't be used, and why.
    pub refused: Vec<FileError>,
}

/// The panels, kept up to date. Clones share them.
#[derive(Clone)]
pub struct PanelBook(Arc<Watched<PanelFile, PanelSet>>);

impl PanelBook {
    /// The panels that are built in and those of the folder. A folder that can't be used is logged and looked at again.
    pub fn open(folder: Option<&Path>) -> Self {
        let book = Self(Arc::new(Watched::new("PANELS_DIR", folder, PanelSet::of(&[]))));
        book.look();
        book
    }

    /// The panels as they are now.
    pub fn current(&self) -> Arc<PanelSet> {
        self.0.current()
    }

    /// Looks at the folder from time to time. Never returns where there is one.
    pub async fn watch(self) {
        if self.0.is_set() {
            folder::watch(move || self.look()).await;
        }
    }

    /// Reads the folder, and the files that changed.
    fn look(&self) {
        self.0.look(format::parse, |look| match look {
            Look::Unchanged => None,
            Look::Unreadable { problem } => {
                let current = self.current();
                let refused = vec![FileError { file: "PANELS_DIR".to_owned(), line: 0, problem }];
                Some(PanelSet { node: current.node.clone(), pod: current.pod.clone(), pages: current.pages.clone(), refused })
            }
            Look::Changed(found) => {
                let mut set = PanelSet::of(&found.files);
                set.refused.extend(found.refused);
                if self.0.is_set() {
                    tracing::info!(pages = set.pages.len(), refused = set.refused.len(), "the panels are read");
                }
                Some(set)
            }
        });
    }
}

impl PanelSet {
    /// What is built in, and what these files add.
    fn of(files: &[Arc<PanelFile>]) -> Self {
        let mut set = Self::default();
        for (file, text) in BUILT_IN {
            let parsed =
                format::parse(file, text).unwrap_or_else(|error| unreachable!("a test reads the panels that are built in: {error}"));
            set.add(&parsed);
        }
        for file in files {
            set.add(file);
        }
        set
    }

    fn add(&mut self, file: &PanelFile) {
        add_groups(&mut self.node, &file.node);
        add_groups(&mut self.pod, &file.pod);
        for page in &file.pages {
            let problem = match self.pages.iter().find(|known| known.name == page.name) {
                Some(known) => format!("the page {:?} is not used: {} has one of this name", page.name, known.file),
                None if self.pages.len() == MAX_PAGES => format!("the page {:?} is not used: there are at most {MAX_PAGES}", page.name),
                None => {
                    self.pages.push(page.clone());
                    continue;
                }
            };
            let error = FileError { file: page.file.clone(), line: page.line, problem };
            tracing::error!("PANELS_DIR: {error}");
            self.refused.push(error);
        }
    }

    /// How many files there are of which something can't be used.
    pub fn refused_files(&self) -> usize {
        self.refused.iter().map(|error| &error.file).collect::<BTreeSet<_>>().len()
    }

    /// The page of this name.
    pub fn page(&self, name: &str) -> Option<&Page> {
        self.pages.iter().find(|page| page.name == name)
    }
}

/// Adds groups, each to the one of the same title where there is one.
fn add_groups(known: &mut Vec<Group>, more: &[Group]) {
    for group in more {
        match known.iter_mut().find(|known| known.title == group.title) {
            Some(known) => known.panels.extend(group.panels.iter().cloned()),
            None => known.push(group.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const PAGE: &str =
        "pages:\n- name: games\n  title: Games\n  groups:\n  - title: G\n    panels:\n    - title: P\n      lines:\n      - expr: up\n";

    fn titles(groups: &[Group]) -> Vec<String> {
        groups.iter().flat_map(|group| group.panels.iter().map(|panel| format!("{}/{}", group.title, panel.title))).collect()
    }

    #[test]
    fn files_add_pages_and_panels_and_a_bad_one_keeps_its_last_version() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        let built_in = titles(&PanelBook::open(None).current().node);
        write("a.yaml", PAGE);
        write(
            "b.yaml",
            "node:\n- title: Memory\n  panels: [{title: Mine, lines: [{expr: 'mine{instance=$node}'}]}]\n- title: New\n  panels: [{title: Other, lines: [{expr: up}]}]\n",
        );
        let book = PanelBook::open(Some(folder.path()));
        let set = book.current();
        let added: Vec<_> = titles(&set.node).into_iter().filter(|title| !built_in.contains(title)).collect();
        assert_eq!(added, ["Memory/Mine", "New/Other"]);
        assert_eq!(titles(&set.node).len(), built_in.len() + 2);
        assert_eq!(set.page("games").map(|page| (page.title.as_str(), page.file.as_str())), Some(("Games", "a.yaml")));
        assert!(set.page("other").is_none() && set.refused.is_empty());

        write("a.yaml", &PAGE.replace("expr: up", "expr: sum("));
        write("c.yaml", &PAGE.replace("Games", "Again"));
        book.look();
        let set = book.current();
        assert_eq!(set.pages.iter().map(|page| page.title.as_str()).collect::<Vec<_>>(), ["Games"]);
        let refused: Vec<_> = set.refused.iter().map(|error| (error.file.as_str(), error.line)).collect();
        assert_eq!(refused, [("c.yaml", 2), ("a.yaml", 9)], "{:?}", set.refused);
        assert_eq!(set.refused_files(), 2);

        fs::remove_file(folder.path().join("a.yaml")).unwrap();
        book.look();
        let set = book.current();
        assert_eq!((set.pages[0].title.as_str(), set.refused.len()), ("Again", 0));

        fs::remove_dir_all(folder.path()).unwrap();
        book.look();
        let set = book.current();
        assert_eq!((set.pages.len(), titles(&set.node).len()), (1, built_in.len() + 2), "what was read before stays");
        assert!(set.refused[0].problem.contains("can't be read"));
    }
}
