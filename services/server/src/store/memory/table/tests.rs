use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;

use super::*;

fn metric(id: &str, value: Value) -> MetricRef<'_> {
    MetricRef { id, value }
}

#[test]
fn ids_find_room_up_to_the_last_place() {
    let mut table = Table::default();
    assert!(table.has_room_for(1_000_000, 200_000_000));
    assert!(!table.has_room_for(1_000_000, MAX_TEXT_BYTES));
    assert!(!table.has_room_for(usize::MAX, usize::MAX));
    // Ids of half a chunk and a little more leave the largest gaps.
    let hasher = IdHasher::default();
    let many = 40;
    let room = |table: &Table| table.rows.ids.end();
    for number in 0..many {
        let before = room(&table);
        let id = format!("{number:>0$}", MAX_ID_BYTES - number % 2);
        table.push(&hasher, metric(&id, Value::Counter(1)), Version::default(), 0);
        assert!(room(&table) - before <= 2 * (MAX_ID_BYTES + LENGTH_BYTES));
        assert_eq!(table.find(hash(&hasher, id.as_bytes()), &id, Kind::Counter), Some(u32::try_from(number).unwrap()));
    }
}

/// Looks a batch up as a write does and tells how many of its ids were hashed.
fn hashed(table: &Table, hasher: &IdHasher, ids: &[&str]) -> usize {
    let mut walk = Walk::default();
    let mut times = 0;
    for id in ids {
        let near = [walk.next, walk.aside].iter().any(|slot| table.rows.holds(*slot, id, Kind::Gauge));
        times += usize::from(!near);
        assert_eq!(table.walk(&mut walk, hasher, id, Kind::Gauge), table.find(hash(hasher, id.as_bytes()), id, Kind::Gauge));
    }
    times
}

#[test]
fn ids_in_the_order_of_the_last_time_are_not_hashed() {
    let (mut table, hasher) = (Table::default(), IdHasher::default());
    let ids: Vec<String> = (0..5000).map(|i| format!("id{i}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    for id in &ids[..4990] {
        table.push(&hasher, metric(id, Value::Gauge(1.0)), Version::default(), 0);
    }
    assert_eq!(hashed(&table, &hasher, &ids[..4990]), 0);
    assert_eq!(hashed(&table, &hasher, &ids[1000..2000]), 1, "a part of them costs one look-up");
    let without: Vec<&str> = ids[..4990].iter().enumerate().filter(|(i, _)| i % 10 != 5).map(|(_, id)| *id).collect();
    assert_eq!(hashed(&table, &hasher, &without), 499, "and so does each gap");
    // Ids that came later stand behind the others, but amid them in a batch.
    for id in &ids[4990..] {
        table.push(&hasher, metric(id, Value::Gauge(1.0)), Version::default(), 0);
    }
    let mut amid = ids[..4990].to_vec();
    amid.splice(2000..2000, ids[4990..].iter().copied());
    assert_eq!(hashed(&table, &hasher, &amid), 1);
}

type Model = BTreeMap<(String, bool), (Value, u64)>;

#[derive(Debug, Clone)]
struct Write {
    metrics: Vec<(usize, bool, u8)>,
    at_millis: u64,
    copied: bool,
}

fn any_write() -> impl Strategy<Value = Write> {
    let metrics = proptest::collection::hash_map((0..400_usize, any::<bool>()), any::<u8>(), 1..200);
    (metrics, 0..10_u64, any::<bool>(), any::<bool>()).prop_map(|(metrics, at_millis, copied, sorted)| {
        let mut metrics: Vec<_> = metrics.into_iter().map(|((id, counts), value)| (id, counts, value)).collect();
        if sorted {
            metrics.sort_unstable();
        }
        Write { metrics, at_millis, copied }
    })
}

/// Everything a table holds, by id and whether it is a counter.
fn all(rows: &Rows) -> Model {
    let entry = |row: &Row| ((rows.id(row).to_owned(), row.kind() == Kind::Counter), (row.value(), row.version().at_millis()));
    rows.iter().map(entry).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_table_does_what_a_map_does(writes in proptest::collection::vec(any_write(), 1..30)) {
        let (mut table, hasher) = (Table::default(), IdHasher::default());
        let mut model = Model::new();
        let mut copies: Vec<(Rows, Model)> = Vec::new();
        let ids: HashMap<usize, String> = (0..400).map(|i| (i, format!("{}é{i}", "x".repeat(i % 240)))).collect();
        for (number, write) in writes.iter().enumerate() {
            let version = Version::new(write.at_millis, number as u64);
            let (mut walk, mut changes, mut new, mut scattered) = (Walk::default(), Vec::new(), Vec::new(), Vec::new());
            let before: Vec<Option<u32>> = write.metrics.iter().map(|(id, counts, _)| {
                let kind = if *counts { Kind::Counter } else { Kind::Gauge };
                table.find(hash(&hasher, ids[id].as_bytes()), &ids[id], kind)
            }).collect();
            for (id, counts, value) in &write.metrics {
                let (id, value) = (ids[id].as_str(), if *counts { Value::Counter((*value).into()) } else { Value::Gauge((*value).into()) });
                let slot = table.walk(&mut walk, &hasher, id, value.kind());
                let known = model.get_mut(&(id.to_owned(), *counts));
                prop_assert_eq!(slot.is_some(), known.is_some());
                match known {
                    None => {
                        new.push(metric(id, value));
                        model.insert((id.to_owned(), *counts), (value, write.at_millis));
                    }
                    Some((kept, at)) => {
                        match (kept, value) {
                            (Value::Counter(total), Value::Counter(delta)) => *total += delta,
                            (kept, value) if write.at_millis >= *at => *kept = value,
                            _ => {}
                        }
                        *at = (*at).max(write.at_millis);
                    }
                }
                changes.push((slot.unwrap_or(NEW), value));
                scattered.push(metric(id, value));
            }
            let mut slots = Vec::new();
            scattered.chunks(SCATTERED_AT_ONCE).for_each(|some| table.find_scattered(&hasher, some, |_, slot| slots.push(slot)));
            prop_assert!(slots.iter().zip(&before).all(|(slot, before)| *slot == before.unwrap_or(NEW)));
            prop_assert!(changes.iter().zip(&before).all(|((slot, _), before)| *slot == before.unwrap_or(NEW)));
            table.write(changes.into_iter(), version, u64::MAX, 0);
            if number % 2 == 0 {
                table.reserve(new.len(), new.iter().map(|metric| metric.id.len()).sum(), &hasher);
            }
            for metric in new {
                table.push(&hasher, metric, version, 0);
            }
            prop_assert_eq!(&all(table.rows()), &model);
            prop_assert_eq!(table.len(), model.len());
            if write.copied {
                copies.push((table.rows().clone(), model.clone()));
            }
        }
        for (copy, model) in copies {
            prop_assert_eq!(all(&copy), model);
        }
    }
}
