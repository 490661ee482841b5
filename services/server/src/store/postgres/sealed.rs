//! The memory of which batches were applied whose frames are sealed.
//!
//! Until its frame is sealed, a batch is remembered by the frame's primary key. The transaction that seals a frame adds its key to
//! `sealed_reports`, and a later one drops the frame's partition, under a lock that no writer's open transaction on that partition lets pass, and
//! only when every frame in it is sealed. A late batch may then make the partition again, where nothing conflicts with its frame.
//!
//! So a writer asks [`find`] after it inserted, in a statement of its own. At READ COMMITTED that statement sees all that was committed before it
//! began. Say that a batch was applied before:
//!
//! - Its frame is in the partition that the insert met: the insert conflicts, whether the frame is sealed or not.
//! - It is not there: the partition that it was in was dropped before the insert opened the one it met, since the insert holds a lock on that one
//!   until the writer's transaction ends. The drop came after the commit of the seal, so `sealed_reports` has the key for every statement that begins
//!   after the insert; unless the key was forgotten, and then the same transaction has raised `oldest_accepted`, which [`find`] reads in the
//!   same statement.
//!
//! The other way round, a batch that is applied while its half hour is being sealed is seen by the sealer, or its frame is still there when the
//! sealer has the lock for the drop: then the frames in the partition are more than were sealed, and it is sealed in another round.
//!
//! Only batches whose half hour is over can have been sealed, so others don't ask. The sealer leaves a half hour alone for at least
//! two minutes after its end by the database's clock, which covers transactions under way and servers' estimates of that clock. Where that clock was set
//! back, a half hour counts as over that was over by the latest time that it is known to have shown; a writer's new connection learns of what was sealed.

use std::collections::{BTreeSet, HashSet};

use golectra_protocol::WindowError;
use sha2::{Digest, Sha256};
use sqlx::PgConnection;
use uuid::Uuid;

use super::timestamp::Timestamp;
use crate::store::{Applied, StoreError};

/// How many bytes a batch takes in `sealed_reports`.
pub(super) const MARK_BYTES: usize = 16;

/// A batch as it is remembered: 8 bytes that stand for its key, and 8 of its request's digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    /// The first 8 bytes of SHA-256 of the key.
    pub(super) key: [u8; 8],
    /// The first 8 bytes of the request's digest.
    pub(super) digest: [u8; 8],
}

impl Mark {
    /// Of a batch with this key and digest.
    pub(super) fn of(key: Uuid, digest: &[u8]) -> Self {
        Self { key: key_mark(key), digest: first_eight(digest) }
    }

    /// As it is stored.
    pub(super) fn to_bytes(self) -> [u8; MARK_BYTES] {
        let mut bytes = [0; MARK_BYTES];
        bytes[..8].copy_from_slice(&self.key);
        bytes[8..].copy_from_slice(&self.digest);
        bytes
    }
}

/// What stands for a key.
pub(super) fn key_mark(key: Uuid) -> [u8; 8] {
    first_eight(&Sha256::digest(key.as_bytes()))
}

fn first_eight(bytes: &[u8]) -> [u8; 8] {
    let mut first = [0; 8];
    for (to, from) in first.iter_mut().zip(bytes) {
        *to = *from;
    }
    first
}

/// The batches in a row's `keys`.
pub(super) fn marks(keys: &[u8]) -> impl Iterator<Item = Mark> {
    keys.chunks_exact(MARK_BYTES).map(|bytes| Mark { key: first_eight(bytes), digest: first_eight(&bytes[8..]) })
}

/// The keys of a source's sealed frames, by what stands for them; of the frames whose partition begins at `frames_start`.
pub(super) async fn keys_of(conn: &mut PgConnection, frames_start: Timestamp, source_id: i32) -> Result<HashSet<[u8; 8]>, sqlx::Error> {
    let rows = sqlx::query_scalar!(
        "SELECT keys FROM sealed_reports WHERE frames_start = $1 AND source_id = $2",
        frames_start as Timestamp,
        source_id
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.iter().flat_map(|keys| marks(keys)).map(|mark| mark.key).collect())
}

/// A batch that may have been sealed.
pub(super) struct Asked<'a> {
    /// Its place in its group.
    pub(super) place: usize,
    /// Its time.
    pub(super) at: Timestamp,
    /// When the partition of its frame begins.
    pub(super) frames_start: Timestamp,
    /// The source's row.
    pub(super) source_id: i32,
    /// Its key.
    pub(super) key: Uuid,
    /// SHA-256 of the request.
    pub(super) digest: &'a [u8],
}

/// What is remembered of these batches, by place; nothing of those that were not sealed.
pub(super) async fn find(conn: &mut PgConnection, asked: &[Asked<'_>]) -> Result<Vec<(usize, Result<Applied, StoreError>)>, sqlx::Error> {
    if asked.is_empty() {
        return Ok(Vec::new());
    }
    let parts: BTreeSet<(Timestamp, i32)> = asked.iter().map(|one| (one.frames_start, one.source_id)).collect();
    let (starts, source_ids): (Vec<Timestamp>, Vec<i32>) = parts.into_iter().unzip();
    let rows = sqlx::query!(
        r#"SELECT asked.frames_start AS "frames_start!: Timestamp", asked.source_id AS "source_id!", report.keys AS "keys?",
            oldest.at AS "oldest: Timestamp"
        FROM oldest_accepted AS oldest CROSS JOIN unnest($1::timestamptz[], $2::integer[]) AS asked (frames_start, source_id)
        LEFT JOIN sealed_reports AS report ON report.frames_start = asked.frames_start AND report.source_id = asked.source_id"#,
        &starts as &[Timestamp],
        &source_ids,
    )
    .fetch_all(conn)
    .await?;
    let found = asked.iter().filter_map(|one| {
        if rows.iter().any(|row| one.at < row.oldest) {
            return Some((one.place, Err(StoreError::Window(WindowError::TooOld))));
        }
        let wanted = Mark::of(one.key, one.digest);
        let same_part = rows.iter().filter(|row| row.frames_start == one.frames_start && row.source_id == one.source_id);
        let mark = same_part.flat_map(|row| marks(row.keys.as_deref().unwrap_or_default())).find(|mark| mark.key == wanted.key)?;
        Some((one.place, if mark == wanted { Ok(Applied::Repeat) } else { Err(StoreError::KeyReused) }))
    });
    Ok(found.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_come_back_and_depend_on_the_whole_key() {
        let keys = [Uuid::from_u128(1), Uuid::from_u128(1 << 100), Uuid::from_u128(2)];
        let all: Vec<Mark> = keys.iter().map(|key| Mark::of(*key, &[7; 32])).collect();
        let stored: Vec<u8> = all.iter().flat_map(|mark| mark.to_bytes()).collect();
        assert_eq!(marks(&stored).collect::<Vec<_>>(), all);
        assert_eq!(all.iter().map(|mark| mark.key).collect::<HashSet<_>>().len(), 3);
        assert_ne!(Mark::of(keys[0], &[8; 32]), all[0]);
    }
}
