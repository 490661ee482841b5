//! A snapshot file that no save could replace is refused at the start.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command as Program;

use super::super::disk::Op;
use super::conformance::counter as count;
use super::*;

/// Something mounted that is taken away at the end.
pub(super) struct Mounted(PathBuf);

impl Mounted {
    /// `None` where this user may not mount; with CI=true that fails the run.
    pub(super) fn new(arguments: &[&str], at: &Path) -> Option<Self> {
        let mounted = Program::new("mount").args(arguments).arg(at).output();
        if mounted.as_ref().is_ok_and(|out| out.status.success()) {
            return Some(Self(at.to_owned()));
        }
        assert!(std::env::var("CI").as_deref() != Ok("true"), "mount {arguments:?} failed: {mounted:?}");
        println!("skipped: mounting needs root");
        None
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Program::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn refusal(path: &Path, store_interval: Duration, restore: bool) -> String {
    match MemoryStore::open(config(Some(path.into()), store_interval, restore), Clock::at(NOW)) {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(error) => error.to_string(),
    }
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .filter(|name| std::path::Path::new(name).extension().is_none_or(|extension| extension != "lock"))
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_mounted_file_is_refused_with_a_sentence_and_stays() {
    let folder = tempfile::tempdir().unwrap();
    let (path, real) = (folder.path().join("m.json"), folder.path().join("real.json"));
    let content = "[\n{\"id\":\"c\",\"type\":\"counter\",\"delta\":5,\"at\":1}\n]\n";
    std::fs::write(&path, "").unwrap();
    std::fs::write(&real, content).unwrap();
    let Some(mounted) = Mounted::new(&["--bind", real.to_str().unwrap()], &path) else { return };
    for (interval, restore) in [(Duration::ZERO, true), (Duration::from_hours(1), true), (Duration::from_hours(1), false)] {
        let text = refusal(&path, interval, restore);
        assert!(text.contains("m.json") && text.contains("can't be replaced") && text.contains("mount its folder"), "{text}");
        assert_eq!(std::fs::read_to_string(&real).unwrap(), content);
        assert_eq!(names(folder.path()), ["m.json", "real.json"]);
    }
    drop(mounted);
    std::fs::write(&path, content).unwrap();
    assert_eq!(counter(&journaled(&path), "c").await, Some(5));
}

#[tokio::test]
async fn a_mounted_journal_is_refused_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.json");
    let (journal, real) = (folder.path().join("m.json.journal"), folder.path().join("real"));
    std::fs::write(&journal, "").unwrap();
    std::fs::write(&real, "").unwrap();
    let Some(_mounted) = Mounted::new(&["--bind", real.to_str().unwrap()], &journal) else { return };
    let text = refusal(&path, Duration::ZERO, true);
    assert!(text.contains("m.json.journal") && text.contains("can't be replaced"), "{text}");
}

#[tokio::test]
async fn a_read_only_folder_is_refused_with_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let Some(_mounted) = Mounted::new(&["-t", "tmpfs", "tmpfs"], folder.path()) else { return };
    let path = folder.path().join("m.json");
    let store = journaled(&path);
    store.apply(batch("a", IdempotencyKey::at(NOW), vec![count("c", 1)])).await.unwrap();
    store.close().await.unwrap();
    let before = std::fs::read(&path).unwrap();
    assert!(Program::new("mount").args(["-o", "remount,ro"]).arg(folder.path()).status().unwrap().success());
    let text = refusal(&path, Duration::ZERO, true);
    assert!(text.contains("m.json") && text.contains("writable") && text.contains("FILE_STORAGE_PATH"), "{text}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

/// A folder that takes no new names, with a lock that is there already: only the trial finds out.
#[tokio::test]
async fn a_folder_that_takes_no_new_file_is_refused_with_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.json");
    let disk = Disk { hook: Some(Arc::new(|op| if op == Op::Create { Err(io::ErrorKind::PermissionDenied.into()) } else { Ok(()) })) };
    let opened = MemoryStore::open_on(config(Some(path.clone()), Duration::ZERO, true), Clock::at(NOW), disk, FOLD_JOURNAL_AT_BYTES);
    let text = opened.err().unwrap().to_string();
    assert!(text.contains("can't be replaced") && text.contains("make the folder writable"), "{text}");
    // A full disk, or what its user may take of it, may have room again by the time of the first save.
    for kind in [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded] {
        let disk = Disk { hook: Some(Arc::new(move |op| if op == Op::Create { Err(kind.into()) } else { Ok(()) })) };
        let config = config(Some(path.clone()), Duration::from_hours(1), true);
        let opened = MemoryStore::open_on(config, Clock::at(NOW), disk, FOLD_JOURNAL_AT_BYTES);
        opened.unwrap_or_else(|error| panic!("{kind:?} keeps no server down: {error}")).crash();
    }
}

#[tokio::test]
async fn the_trial_leaves_a_file_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.json");
    std::fs::write(&path, "[]\n").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    // What a process left that was killed in the middle of a trial.
    std::fs::write(folder.path().join("m.json.trial"), "left").unwrap();
    let before = std::fs::metadata(&path).unwrap();
    saved(&path).crash();
    let after = std::fs::metadata(&path).unwrap();
    assert_eq!((after.ino(), after.mode(), after.nlink(), after.mtime_nsec()), (before.ino(), before.mode(), 1, before.mtime_nsec()));
    assert_eq!(names(folder.path()), ["m.json"]);
    // Where there are no hard links, a copy takes its place.
    let disk = Disk { hook: Some(Arc::new(|op| if op == Op::Link { Err(io::ErrorKind::PermissionDenied.into()) } else { Ok(()) })) };
    let config = config(Some(path.clone()), Duration::from_hours(1), true);
    MemoryStore::open_on(config, Clock::at(NOW), disk, FOLD_JOURNAL_AT_BYTES).unwrap().crash();
    assert_ne!(std::fs::metadata(&path).unwrap().ino(), before.ino());
    assert_eq!(names(folder.path()), ["m.json"]);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "[]\n");
}
