use std::fs;
use std::os::unix::fs::symlink;

use tempfile::TempDir;
use tokio::time::{advance, sleep};

use super::*;

fn folder(keys: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (id, key) in keys {
        fs::write(folder.path().join(id), key).unwrap();
    }
    folder
}

fn open(folder: &TempDir) -> Keys {
    Keys::open(None, Some(folder.path())).unwrap()
}

fn text(key: Option<Key>) -> Option<String> {
    key.map(|key| String::from_utf8_lossy(key.expose()).into_owned())
}

fn ids(keys: &Keys) -> String {
    keys.ids().iter().map(KeyId::as_str).collect::<Vec<_>>().join(" ")
}

/// A Secret as the kubelet mounts it: links that lead through another link to a folder of this version.
fn mount(folder: &TempDir, version: &str, keys: &[(&str, &str)]) {
    let path = folder.path();
    let target = format!("..{version}");
    fs::create_dir(path.join(&target)).unwrap();
    for (id, key) in keys {
        fs::write(path.join(&target).join(id), key).unwrap();
    }
    symlink(&target, path.join("..data_tmp")).unwrap();
    fs::rename(path.join("..data_tmp"), path.join("..data")).unwrap();
    for entry in fs::read_dir(path).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if !name.starts_with('.') && !keys.iter().any(|(id, _)| *id == name) {
            fs::remove_file(path.join(name)).unwrap();
        } else if name.starts_with("..2") && name != target {
            fs::remove_dir_all(path.join(name)).unwrap();
        }
    }
    for (id, _) in keys {
        let link = path.join(id);
        if link.symlink_metadata().is_err() {
            symlink(format!("..data/{id}"), link).unwrap();
        }
    }
}

#[tokio::test]
async fn the_last_line_end_of_a_file_is_not_part_of_the_key() {
    let folder = folder(&[("a", "one\n"), ("b.2-c_D", "two\n\n"), ("c", " three "), (".hidden", "x"), ("no id", "x"), ("empty", "\n")]);
    fs::write(folder.path().join("crlf"), "four\r\n").unwrap();
    fs::write(folder.path().join("empty-crlf"), "\r\n").unwrap();
    fs::write(folder.path().join("bytes"), [0, 255, 10, 13]).unwrap();
    fs::write(folder.path().join("long"), vec![b'x'; 4097]).unwrap();
    fs::write(folder.path().join("longest"), [vec![b'x'; 4096], b"\r\n".to_vec()].concat()).unwrap();
    fs::create_dir(folder.path().join("folder")).unwrap();
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let keys = open(&folder);
    assert_eq!(ids(&keys), "a b.2-c_D bytes c crlf longest");
    assert_eq!(text(keys.get("a")).unwrap(), "one");
    assert_eq!(text(keys.get("b.2-c_D")).unwrap(), "two\n");
    assert_eq!(text(keys.get("c")).unwrap(), " three ");
    assert_eq!(text(keys.get("crlf")).unwrap(), "four");
    assert_eq!(keys.get("longest").unwrap().expose().len(), 4096);
    assert_eq!(keys.get("bytes").unwrap().expose(), [0, 255, 10, 13]);
    assert!(!format!("{keys:?}").contains("three"));
}

#[tokio::test]
async fn key_is_the_default_and_a_file_named_default_takes_precedence() {
    let key = Secret::from("swordfish\r\n");
    let keys = Keys::open(Some(&key), None).unwrap();
    assert_eq!((ids(&keys).as_str(), keys.has_folder()), ("default", false));
    assert_eq!(text(keys.find("default").await).unwrap(), "swordfish");
    assert_eq!(keys.find("other").await, None);

    let folder = folder(&[("default", "of the file"), ("k", "1")]);
    let keys = Keys::open(Some(&key), Some(folder.path())).unwrap();
    assert_eq!(text(keys.get("default")).unwrap(), "of the file");
    fs::remove_file(folder.path().join("default")).unwrap();
    sleep(ASKED_EVERY).await;
    assert_eq!(text(keys.fresh("default").await).unwrap(), "swordfish");
    assert_eq!(ids(&keys), "default k");
    assert_eq!(ids(&Keys::open(None, None).unwrap()), "");
}

#[tokio::test]
async fn the_signing_key_is_the_selected_one_or_the_default() {
    let [chosen, later, default] = ["k", "later", DEFAULT_ID].map(|id| id.parse::<KeyId>().unwrap());
    let key = Secret::from("swordfish");
    let folder = folder(&[("k", "1")]);
    let path = Some(folder.path());
    let choose = |key, folder, id| Keys::open(key, folder).unwrap().signing_id(id);
    assert_eq!(choose(None, None, None), Ok(None));
    assert_eq!(choose(Some(&key), None, None), Ok(Some(KeyId::default())));
    assert_eq!(choose(Some(&key), None, Some(&default)), Ok(Some(KeyId::default())));
    assert_eq!(choose(Some(&key), None, Some(&chosen)), Err(SigningKeyError::NoFolder(chosen.clone())));
    assert_eq!(choose(None, path, Some(&chosen)), Ok(Some(chosen.clone())));
    assert_eq!(choose(None, path, Some(&later)), Ok(Some(later.clone())));
    assert_eq!(choose(Some(&key), path, None), Ok(Some(KeyId::default())));
    assert_eq!(choose(None, path, None), Err(SigningKeyError::NotChosen));
}

#[tokio::test]
async fn a_folder_that_cannot_be_read_is_an_error_at_the_start() {
    let folder = folder(&[("a", "1")]);
    let error = Keys::open(None, Some(&folder.path().join("nowhere"))).unwrap_err().to_string();
    assert!(error.starts_with("KEYS_DIR can't be read: ") && error.contains("nowhere"), "{error}");
    Keys::open(None, Some(&folder.path().join("a"))).unwrap_err();
    for number in 0..MAX {
        fs::write(folder.path().join(format!("k{number}")), "x").unwrap();
    }
    assert!(matches!(Keys::open(None, Some(folder.path())).unwrap_err(), FolderError::TooMany { .. }));
}

const MAX: usize = 256;

#[tokio::test]
async fn updates_of_a_mounted_secret_are_picked_up() {
    let folder = folder(&[]);
    mount(&folder, "2026_01", &[("old", "1")]);
    let keys = open(&folder);
    let watching = tokio::spawn(keys.clone().watch());
    assert_eq!(ids(&keys), "old");
    for (version, now, expected) in
        [("2026_02", vec![("old", "1"), ("new", "2")], "new old"), ("2026_03", vec![("new", "2")], "new"), ("2026_04", vec![], "")]
    {
        mount(&folder, version, &now);
        let seen = timeout(Duration::from_secs(20), async {
            while ids(&keys) != expected {
                sleep(Duration::from_millis(20)).await;
            }
        });
        seen.await.unwrap_or_else(|_| panic!("{version}: {:?}", ids(&keys)));
    }
    watching.abort();
}

#[tokio::test(start_paused = true)]
async fn an_unknown_id_makes_the_folder_be_read_at_most_once_a_second() {
    let folder = folder(&[("a", "1")]);
    let keys = open(&folder);
    let start = Instant::now();
    fs::write(folder.path().join("b"), "2").unwrap();
    assert_eq!(text(keys.find("b").await).unwrap(), "2");
    assert_eq!(start.elapsed(), Duration::ZERO, "at once");

    // The folder was just read: all callers now wait for the next read, which they share.
    fs::write(folder.path().join("c"), "3").unwrap();
    let all: Vec<_> = (0..100)
        .map(|number| {
            let keys = keys.clone();
            tokio::spawn(async move { keys.find(if number % 2 == 0 { "c" } else { "unknown" }).await })
        })
        .collect();
    assert_eq!(text(keys.find("a").await).unwrap(), "1");
    assert_eq!(start.elapsed(), Duration::ZERO, "a known key is returned without reading the folder");
    for (number, one) in all.into_iter().enumerate() {
        assert_eq!(text(one.await.unwrap()).as_deref(), (number % 2 == 0).then_some("3"));
    }
    let took = start.elapsed();
    assert!(took >= ASKED_EVERY && took < ASKED_EVERY * 3 / 2, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_signer_gets_the_key_that_is_in_the_folder_now() {
    let folder = folder(&[("a", "1")]);
    let keys = open(&folder);
    fs::write(folder.path().join("a"), "2").unwrap();
    advance(ASKED_EVERY).await;
    assert_eq!(text(keys.get("a")).unwrap(), "1");
    assert_eq!(text(keys.fresh("a").await).unwrap(), "2");
}

#[tokio::test(start_paused = true)]
async fn keys_stay_while_the_folder_is_missing() {
    let parent = folder(&[]);
    let (path, aside) = (parent.path().join("keys"), parent.path().join("aside"));
    fs::create_dir(&path).unwrap();
    fs::write(path.join("a"), "1").unwrap();
    let keys = Keys::open(None, Some(&path)).unwrap();
    fs::rename(&path, &aside).unwrap();
    advance(ASKED_EVERY).await;
    assert_eq!(text(keys.fresh("a").await).unwrap(), "1");
    assert_eq!(keys.failures(), 1);
    fs::rename(&aside, &path).unwrap();
    fs::remove_file(path.join("a")).unwrap();
    advance(ASKED_EVERY).await;
    assert_eq!(keys.fresh("a").await, None, "the key of a removed file is removed");
    assert_eq!(keys.failures(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_key_stays_while_its_file_is_half_written() {
    let folder = folder(&[("a", "1")]);
    let keys = open(&folder);
    for (content, expected) in [("", "1"), ("\n", "1"), ("2\n", "2")] {
        fs::write(folder.path().join("a"), content).unwrap();
        advance(ASKED_EVERY).await;
        assert_eq!(text(keys.fresh("a").await).unwrap(), expected, "{content:?}");
    }
}
