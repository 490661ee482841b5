//! Writing the times of a block.

use std::cmp::Reverse;

use super::presence::{self, Presence};
use super::{MAX_SETS, VERSION};
use crate::bytes::{CHECKSUM_BYTES, put_checksum, put_varint};
use crate::integers;

/// The coded times, and which of its sets each column has.
pub(crate) struct EncodedTimes {
    pub(crate) bytes: Vec<u8>,
    pub(crate) checksum: u32,
    /// By column; of no meaning for columns without samples.
    pub(crate) set_of_column: Vec<usize>,
}

/// Writes the times of columns, of which each has its own, strictly increasing.
pub(crate) fn encode(columns: &[&[i64]]) -> EncodedTimes {
    let (sets, set_of_column) = distinct(columns);
    let (groups, group_of_set) = group(&sets);
    let mut bytes = vec![0; CHECKSUM_BYTES];
    bytes.push(VERSION);
    put_varint(&mut bytes, groups.len() as u64);
    for group in &groups {
        put_varint(&mut bytes, group.len() as u64);
        integers::put_part(&mut group.clone(), &mut bytes);
    }
    put_varint(&mut bytes, sets.len() as u64);
    for (set, &group) in sets.iter().zip(&group_of_set) {
        let presence = Presence::of(set, &groups[group]);
        bytes.push(u8::try_from(group << presence::FORM_BITS).expect("there are at most 64 groups") | presence.form());
        presence.write_body(set.len(), &mut bytes);
    }
    let checksum = put_checksum(&mut bytes, 0);
    EncodedTimes { bytes, checksum, set_of_column }
}

/// The distinct sets, the one of most columns first.
fn distinct<'a>(columns: &[&'a [i64]]) -> (Vec<&'a [i64]>, Vec<usize>) {
    let mut sets: Vec<(&[i64], usize)> = Vec::new();
    let set_of_column = columns.iter().map(|column| {
        if column.is_empty() {
            return 0;
        }
        let known = sets.iter().position(|(set, _)| set == column);
        let index = known.unwrap_or_else(|| {
            sets.push((column, 0));
            sets.len() - 1
        });
        sets[index].1 += 1;
        index
    });
    let set_of_column: Vec<usize> = set_of_column.collect();
    debug_assert!(sets.len() <= MAX_SETS);
    let mut order: Vec<usize> = (0..sets.len()).collect();
    order.sort_by_key(|index| Reverse(sets[*index].1));
    let mut rank = vec![0; sets.len().max(1)];
    for (position, &index) in order.iter().enumerate() {
        rank[index] = position;
    }
    (order.iter().map(|index| sets[*index].0).collect(), set_of_column.iter().map(|index| rank[*index]).collect())
}

/// The times of each group, and the group of each set.
fn group(sets: &[&[i64]]) -> (Vec<Vec<i64>>, Vec<usize>) {
    let mut order: Vec<usize> = (0..sets.len()).collect();
    order.sort_by_key(|index| Reverse(sets[*index].len()));
    let mut groups: Vec<Vec<i64>> = Vec::new();
    let mut group_of_set = vec![0; sets.len()];
    for index in order {
        let set = sets[index];
        group_of_set[index] = if let Some(group) = groups.iter().position(|group| mostly_in(set, group)) {
            add(&mut groups[group], set);
            group
        } else {
            groups.push(set.to_vec());
            groups.len() - 1
        };
    }
    (groups, group_of_set)
}

/// How many times of a set stand for all of them.
const PROBES: usize = 16;

/// Whether at least half of some times of the set are in the group.
fn mostly_in(set: &[i64], group: &[i64]) -> bool {
    let probes = set.len().min(PROBES);
    let found = (0..probes).filter(|probe| group.binary_search(&set[probe * set.len() / probes]).is_ok()).count();
    2 * found >= probes
}

fn add(group: &mut Vec<i64>, set: &[i64]) {
    let known = group.len();
    let mut rest = &group[..];
    let mut missing = Vec::new();
    for &time in set {
        let smaller = rest.iter().take_while(|other| **other < time).count();
        rest = &rest[smaller..];
        if rest.first() != Some(&time) {
            missing.push(time);
        }
    }
    group.append(&mut missing);
    if group.len() > known {
        group.sort_unstable();
    }
}
