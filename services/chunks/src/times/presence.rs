//! Which times of its group a set has.

use crate::DecodeError;
use crate::bytes::{Reader, put_varint, varint_bytes};

/// In the byte of a set, how many bits say the form. The others are the index of its group.
pub(super) const FORM_BITS: u32 = 2;

const FULL: u8 = 0;
const RANGE: u8 = 1;
const RUNS: u8 = 2;
const BITMAP: u8 = 3;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Presence {
    /// All of them.
    Full,
    /// Those from `start` on, as many as the set has.
    Range {
        /// The index of the first.
        start: usize,
    },
    /// Those in the runs: how many are missing before each, and how long it is.
    Runs(Vec<(usize, usize)>),
    /// Those whose bit is set, the lowest bit of a byte first.
    Bitmap(Vec<u8>),
}

impl Presence {
    /// The form that takes least space. All times of the set must be in the group.
    pub(super) fn of(set: &[i64], group: &[i64]) -> Self {
        let mut runs: Vec<(usize, usize)> = Vec::new();
        let mut bitmap = vec![0; group.len().div_ceil(8)];
        let mut rest = set.iter().peekable();
        let mut missing = 0;
        for (index, time) in group.iter().enumerate() {
            if rest.next_if_eq(&time).is_none() {
                missing += 1;
                continue;
            }
            bitmap[index / 8] |= 1 << (index % 8);
            match runs.last_mut() {
                Some((_, length)) if missing == 0 => *length += 1,
                _ => runs.push((missing, 1)),
            }
            missing = 0;
        }
        debug_assert!(rest.next().is_none(), "the group has all times of its sets");
        match runs[..] {
            [(0, length)] if length == group.len() => Self::Full,
            [(start, _)] => Self::Range { start },
            _ if runs_bytes(&runs) <= bitmap.len() => Self::Runs(runs),
            _ => Self::Bitmap(bitmap),
        }
    }

    pub(super) fn form(&self) -> u8 {
        match self {
            Self::Full => FULL,
            Self::Range { .. } => RANGE,
            Self::Runs(_) => RUNS,
            Self::Bitmap(_) => BITMAP,
        }
    }

    pub(super) fn write_body(&self, set_count: usize, bytes: &mut Vec<u8>) {
        match self {
            Self::Full => {}
            Self::Range { start } => {
                put_varint(bytes, *start as u64);
                put_varint(bytes, set_count as u64);
            }
            Self::Runs(runs) => {
                put_varint(bytes, runs.len() as u64);
                for (missing, length) in runs {
                    put_varint(bytes, *missing as u64);
                    put_varint(bytes, *length as u64);
                }
            }
            Self::Bitmap(bitmap) => bytes.extend_from_slice(bitmap),
        }
    }

    /// Reads it, and how many times the set has.
    pub(super) fn read(form: u8, reader: &mut Reader<'_>, group_count: usize) -> Result<(Self, usize), DecodeError> {
        match form & ((1 << FORM_BITS) - 1) {
            FULL => Ok((Self::Full, group_count)),
            RANGE => {
                let start = reader.count(group_count)?;
                let count = reader.count(group_count - start)?;
                Ok((Self::Range { start }, count))
            }
            RUNS => {
                // Each takes two bytes at least, so the bytes bound them as well.
                let number = reader.count(group_count.min(reader.rest().len()))?;
                let mut runs = Vec::with_capacity(number);
                let mut left = group_count;
                let mut count = 0;
                for _ in 0..number {
                    let missing = reader.count(left)?;
                    left -= missing;
                    let length = reader.count(left)?;
                    left -= length;
                    count += length;
                    runs.push((missing, length));
                }
                Ok((Self::Runs(runs), count))
            }
            _ => {
                let bitmap = reader.take(group_count.div_ceil(8))?.to_vec();
                let used = group_count % 8;
                if used > 0 && bitmap.last().is_some_and(|last| last >> used != 0) {
                    return Err(DecodeError::Malformed("a set has times that its group has not"));
                }
                let count = bitmap.iter().map(|byte| byte.count_ones() as usize).sum();
                Ok((Self::Bitmap(bitmap), count))
            }
        }
    }

    /// Puts the set's times, `count` of the group's, at the end of the list.
    pub(super) fn select(&self, group: &[i64], count: usize, times: &mut Vec<i64>) {
        match self {
            Self::Full => times.extend_from_slice(group),
            Self::Range { start } => times.extend_from_slice(&group[*start..start + count]),
            Self::Runs(runs) => {
                times.reserve(count);
                let mut rest = group;
                for &(missing, length) in runs {
                    let (run, after) = rest[missing..].split_at(length);
                    times.extend_from_slice(run);
                    rest = after;
                }
            }
            Self::Bitmap(bitmap) => {
                times.reserve(count);
                for (eight, &byte) in group.chunks(8).zip(bitmap) {
                    let mut bits = byte;
                    while bits != 0 {
                        times.push(eight[bits.trailing_zeros() as usize]);
                        bits &= bits - 1;
                    }
                }
            }
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        match self {
            Self::Full | Self::Range { .. } => 0,
            Self::Runs(runs) => runs.len() * size_of::<(usize, usize)>(),
            Self::Bitmap(bitmap) => bitmap.len(),
        }
    }
}

fn runs_bytes(runs: &[(usize, usize)]) -> usize {
    let lengths: usize = runs.iter().map(|(missing, length)| varint_bytes(*missing as u64) + varint_bytes(*length as u64)).sum();
    lengths + varint_bytes(runs.len() as u64)
}
