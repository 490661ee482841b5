//! The times of a block's samples, each distinct set of them once.
//!
//! Columns with the same times share a set. Sets that overlap, as those of series that come and go, share a group: the
//! group's times, all that occur, are coded once and each set says which of them it has. Sets that have little in common,
//! as those of scrape targets that one sender batches together, get a group each.

mod encode;
mod presence;

use std::ops::Range;
use std::sync::OnceLock;

use crate::bytes::{Reader, check};
use crate::integers;
use crate::{DecodeError, MAX_COLUMNS, MAX_SAMPLES};

pub(crate) use encode::encode;
use presence::Presence;

/// The version of the format of blocks: of their times and of their columns.
const VERSION: u8 = 2;

pub(crate) const MAX_SETS: usize = MAX_COLUMNS;

/// The times of a block, which its columns refer to.
///
/// They are decoded when a column needs them first and then kept, so one value should serve all columns that are read.
#[derive(Debug)]
pub struct Times {
    checksum: u32,
    bytes: Box<[u8]>,
    groups: Vec<Group>,
    sets: Vec<Set>,
}

#[derive(Debug)]
struct Group {
    count: usize,
    coded: Range<usize>,
    decoded: OnceLock<Result<Box<[i64]>, DecodeError>>,
}

#[derive(Debug)]
struct Set {
    group: usize,
    count: usize,
    presence: Presence,
}

impl Times {
    /// Reads what [`crate::encode`] wrote as a block's times.
    pub fn decode(times: &[u8]) -> Result<Self, DecodeError> {
        let (checksum, body) = check(times, 0)?;
        let mut reader = Reader::new(body);
        let position = |reader: &Reader<'_>| body.len() - reader.rest().len();
        let version = reader.byte()?;
        if version != VERSION {
            return Err(DecodeError::Version(version));
        }
        let mut groups = Vec::new();
        for _ in 0..reader.count(MAX_SETS)? {
            let count = reader.count(MAX_SAMPLES)?;
            let start = position(&reader);
            integers::skip_part(&mut reader)?;
            groups.push(Group { count, coded: start..position(&reader), decoded: OnceLock::new() });
        }
        let mut sets = Vec::new();
        for _ in 0..reader.count(MAX_SETS)? {
            let code = reader.byte()?;
            let group = usize::from(code >> presence::FORM_BITS);
            let group_count = groups.get(group).ok_or(DecodeError::Malformed("a set of times has no group"))?.count;
            let (presence, count) = Presence::read(code, &mut reader, group_count)?;
            sets.push(Set { group, count, presence });
        }
        reader.finish()?;
        Ok(Self { checksum, bytes: body.into(), groups, sets })
    }

    /// An upper bound of the memory that it takes, that for decoded times included.
    pub fn memory_bytes(&self) -> usize {
        let presence: usize = self.sets.iter().map(|set| size_of::<Set>() + set.presence.memory_bytes()).sum();
        let groups: usize = self.groups.iter().map(|group| size_of::<Group>() + group.count * size_of::<i64>()).sum();
        size_of::<Self>() + self.bytes.len() + presence + groups
    }

    /// How many samples a column has at most whose times these are.
    pub fn longest(&self) -> usize {
        self.sets.iter().map(|set| set.count).max().unwrap_or(0)
    }

    pub(crate) fn checksum(&self) -> u32 {
        self.checksum
    }

    pub(crate) fn len_of(&self, set: usize) -> Result<usize, DecodeError> {
        self.set(set).map(|set| set.count)
    }

    /// Puts the times of a set at the end of the list.
    pub(crate) fn decode_set(&self, set: usize, timestamps_ms: &mut Vec<i64>) -> Result<(), DecodeError> {
        let set = self.set(set)?;
        let group = self.group_times(&self.groups[set.group])?;
        set.presence.select(group, set.count, timestamps_ms);
        Ok(())
    }

    fn set(&self, set: usize) -> Result<&Set, DecodeError> {
        self.sets.get(set).ok_or(DecodeError::Malformed("a column has no times"))
    }

    fn group_times<'a>(&'a self, group: &'a Group) -> Result<&'a [i64], DecodeError> {
        let decoded = group.decoded.get_or_init(|| {
            let mut times = Vec::new();
            integers::read_part(&mut Reader::new(&self.bytes[group.coded.clone()]), group.count, &mut times)?;
            if times.is_sorted_by(|before, after| before < after) {
                Ok(times.into_boxed_slice())
            } else {
                Err(DecodeError::Malformed("times are not increasing"))
            }
        });
        decoded.as_deref().map_err(|error| *error)
    }
}
