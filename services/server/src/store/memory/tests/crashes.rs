//! A crash between any two touches of the disk: nothing acknowledged is lost, nothing is doubled.
//!
//! Before each touch the folder is copied as it stands, with the list of what was acknowledged by then. Each copy is
//! what a killed process leaves behind, and each is opened.

use std::collections::HashMap;
use std::fs;

use futures_util::future::join_all;

use super::super::disk::Op;
use super::conformance::{counter as count, gauge};
use super::*;

const WRITERS: usize = 4;
const BATCHES_A_WRITER: usize = 16;

/// What a process killed here leaves behind.
struct Image {
    folder: PathBuf,
    before: Op,
    acknowledged: Vec<usize>,
}

/// Makes the folder's copies, and lets one in `fail_one_in` touches of the disk fail.
struct Witness {
    live: PathBuf,
    images_in: PathBuf,
    images: Mutex<Vec<Image>>,
    acknowledged: Mutex<Vec<usize>>,
    /// Which touches fail: one in so many.
    dice: Mutex<Option<(fastrand::Rng, usize)>>,
}

impl Witness {
    fn before(&self, op: Op) -> io::Result<()> {
        let acknowledged = self.acknowledged.lock().unwrap().clone();
        let mut images = self.images.lock().unwrap();
        let folder = self.images_in.join(images.len().to_string());
        fs::create_dir(&folder)?;
        copy_folder(&self.live, &folder)?;
        images.push(Image { folder, before: op, acknowledged });
        drop(images);
        let fails = self.dice.lock().unwrap().as_mut().is_some_and(|(dice, one_in)| dice.usize(..*one_in) == 0);
        if fails { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    for file in fs::read_dir(from)? {
        let file = file?;
        let copy = to.join(file.file_name());
        if file.file_type()?.is_dir() {
            fs::create_dir(&copy)?;
            copy_folder(&file.path(), &copy)?;
        } else if let Err(error) = fs::copy(file.path(), copy) {
            // A save that runs beside this may have renamed or removed it meanwhile.
            if error.kind() != io::ErrorKind::NotFound {
                return Err(error);
            }
        }
    }
    Ok(())
}

/// The batch with this number: a counter of its own tells how often it was applied.
fn numbered(number: usize, keys: &[IdempotencyKey]) -> Batch {
    let source = format!("s{}", number % 3);
    let one = batch(&source, keys[number], vec![count(&format!("c{number}"), 1), gauge("g", 0.5), count("sum", 1)]);
    // Every fourth came without a key, so that nothing but the files keeps it from being doubled.
    Batch { keyed: !number.is_multiple_of(4), ..one }
}

fn open(folder: &Path, store_interval: Duration, disk: Disk) -> Arc<MemoryStore> {
    let config = config(Some(folder.join("m.json")), store_interval, true);
    MemoryStore::open_on(config, Clock::at(NOW), disk, 400).unwrap()
}

/// How often each batch was applied.
async fn applied(store: &MemoryStore) -> HashMap<usize, i64> {
    let counters = store.snapshot().await.unwrap().counters;
    counters.iter().filter_map(|(id, times)| Some((id.strip_prefix('c')?.parse().ok()?, *times))).collect()
}

/// What history has of the same.
async fn recorded(store: &MemoryStore) -> HashMap<usize, i64> {
    #[expect(clippy::cast_possible_truncation, reason = "a count of batches")]
    let total = |samples: &Vec<(i64, u64)>| f64::from_bits(samples.last().unwrap().1) as i64;
    let all = super::history::read(store, i64::MIN, i64::MAX).await;
    let numbers =
        all.iter().filter_map(|(labels, samples)| Some((labels.strip_prefix('c')?.split('{').next()?.parse().ok()?, total(samples))));
    numbers.collect()
}

async fn trial(fail_one_in: Option<usize>) {
    let home = tempfile::tempdir().unwrap();
    let (live, images_in) = (home.path().join("live"), home.path().join("images"));
    fs::create_dir(&live).unwrap();
    fs::create_dir(&images_in).unwrap();
    let witness = Arc::new(Witness {
        live: live.clone(),
        images_in,
        images: Mutex::default(),
        acknowledged: Mutex::default(),
        dice: Mutex::new(fail_one_in.map(|one_in| (fastrand::Rng::with_seed(one_in as u64), one_in))),
    });
    let seen = witness.clone();
    let store = open(&live, Duration::ZERO, Disk { hook: Some(Arc::new(move |op| seen.before(op))) });
    let keys: Arc<[IdempotencyKey]> = (0..WRITERS * BATCHES_A_WRITER).map(|i| IdempotencyKey::at(NOW - i as u64)).collect();
    let writers = (0..WRITERS).map(|writer| {
        let (store, witness, keys) = (store.clone(), witness.clone(), keys.clone());
        tokio::spawn(async move {
            for number in (0..BATCHES_A_WRITER).map(|i| i * WRITERS + writer) {
                let one = numbered(number, &keys);
                // Whoever has no key can't know whether a failed write was applied, and does not send it again.
                let mut tries = 0;
                loop {
                    match store.apply(one.clone()).await {
                        Ok(_) => break witness.acknowledged.lock().unwrap().push(number),
                        Err(StoreError::Unavailable(_)) if one.keyed => tokio::time::sleep(Duration::from_millis(1)).await,
                        Err(StoreError::Unavailable(_)) => break,
                        Err(error) => panic!("{error:?}"),
                    }
                    tries += 1;
                    assert!(tries < 10_000, "the disk never recovered");
                }
                // Besides the saves of an outgrown journal, which run while writes go on.
                if number.is_multiple_of(5 * WRITERS) {
                    let _ = store.save_now().await;
                }
            }
        })
    });
    for writer in join_all(writers).await {
        writer.unwrap();
    }
    let saves = store.memory_metrics().snapshots_written.load(Ordering::Relaxed);
    assert!(saves >= if fail_one_in.is_some() { 1 } else { 3 }, "{saves} saves");
    store.crash();

    let images = std::mem::take(&mut *witness.images.lock().unwrap());
    assert!(images.iter().filter(|image| image.before == Op::Rename).count() >= 2);
    for image in images {
        let store = open(&image.folder, Duration::ZERO, Disk::default());
        let found = applied(&store).await;
        assert_eq!(recorded(&store).await, found, "history before {:?} in {:?}", image.before, image.folder);
        for number in &image.acknowledged {
            assert_eq!(found.get(number), Some(&1), "batch {number} before {:?} in {:?}", image.before, image.folder);
        }
        assert!(found.values().all(|times| *times == 1), "doubled before {:?} in {:?}: {found:?}", image.before, image.folder);
        // Every client that has a key tries again, and the process dies once more.
        let retries = (0..keys.len())
            .filter(|number| !number.is_multiple_of(4))
            .map(async |number| (number, store.apply(numbered(number, &keys)).await));
        for (number, answer) in join_all(retries).await {
            assert_eq!(answer.unwrap() == Applied::Repeat, found.contains_key(&number), "batch {number} before {:?}", image.before);
        }
        store.crash();
        let store = open(&image.folder, Duration::from_hours(1), Disk::default());
        let found = applied(&store).await;
        assert_eq!(recorded(&store).await, found, "history before {:?} in {:?}", image.before, image.folder);
        assert!((0..keys.len()).filter(|number| !number.is_multiple_of(4)).all(|number| found.get(&number) == Some(&1)));
        assert!(found.values().all(|times| *times == 1), "doubled before {:?}: {found:?}", image.before);
        assert_eq!(counter(&store, "sum").await, Some(i64::try_from(found.len()).unwrap()));
        store.crash();
        fs::remove_dir_all(&image.folder).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_at_any_point_loses_and_doubles_nothing() {
    trial(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_does_one_while_the_disk_fails_now_and_then() {
    for fail_one_in in [10, 20, 50] {
        trial(Some(fail_one_in)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_within_a_save_brings_back_one_snapshot_or_the_other() {
    let home = tempfile::tempdir().unwrap();
    let (live, images_in) = (home.path().join("live"), home.path().join("images"));
    fs::create_dir(&live).unwrap();
    fs::create_dir(&images_in).unwrap();
    let witness = Arc::new(Witness {
        live: live.clone(),
        images_in,
        images: Mutex::default(),
        acknowledged: Mutex::default(),
        dice: Mutex::default(),
    });
    let seen = witness.clone();
    let store = open(&live, Duration::from_hours(1), Disk { hook: Some(Arc::new(move |op| seen.before(op))) });
    let batches: Vec<_> = (0..6).map(|i| batch("a", IdempotencyKey::at(NOW + i), vec![count("c", 1)])).collect();
    for pair in batches.chunks(2) {
        store.apply(pair[0].clone()).await.unwrap();
        store.apply(pair[1].clone()).await.unwrap();
        store.save_now().await.unwrap();
    }
    store.crash();
    let images = std::mem::take(&mut *witness.images.lock().unwrap());
    for image in images {
        let store = open(&image.folder, Duration::from_hours(1), Disk::default());
        let found = counter(&store, "c").await.unwrap_or(0);
        assert_eq!(found % 2, 0, "before {:?}", image.before);
        for (i, one) in batches.iter().enumerate() {
            let expected = if i64::try_from(i).unwrap() < found { Applied::Repeat } else { Applied::New };
            assert_eq!(store.apply(one.clone()).await.unwrap(), expected, "batch {i} of {found} before {:?}", image.before);
        }
        assert_eq!(counter(&store, "c").await, Some(6), "values and keys belong together");
        store.crash();
    }
}
