//! The transaction of a group of batches.

use std::collections::BTreeSet;
use std::sync::Arc;

use sqlx::{Connection, PgConnection};

use super::Shared;
use super::fold::Fold;
use super::known::{Known, Layout};
use super::lane::Failure;
use super::ledger::{self, Frame};
use super::queue::{Pending, Verdict};
use super::{Applied, StoreError, blocks, resolve};

/// A group under way; everything is by the batch's place in it.
pub(super) struct Work<'a> {
    pub(super) group: &'a [Pending],
    /// The layouts that are known, by now.
    pub(super) layouts: Vec<Option<Arc<Layout>>>,
    /// What is decided.
    pub(super) verdicts: Vec<Option<Verdict>>,
    /// Those for which a source or a series was made in this transaction.
    pub(super) made: BTreeSet<usize>,
    /// The series that were made in this transaction, in order.
    pub(super) made_series: Vec<i32>,
}

/// Applies a group, whose batches are all different, and answers for each when it is committed. A refused batch of several
/// leaves nothing behind; where it can't be helped that it would, or spoils it for others, the failure says which it is.
pub(super) async fn run(shared: &Shared, conn: &mut PgConnection, known: &mut Known, group: &[Pending]) -> Result<Vec<Verdict>, Failure> {
    for day in group.iter().map(|pending| pending.day).collect::<BTreeSet<_>>() {
        shared.partitions.ensure(conn, day).await?;
    }
    let mut work = Work {
        group,
        layouts: group.iter().map(|pending| known.layout(pending).cloned()).collect(),
        verdicts: group.iter().map(|_| None).collect(),
        made: BTreeSet::new(),
        made_series: Vec::new(),
    };
    let unresolved: Vec<usize> = (0..group.len()).filter(|place| work.layouts[*place].is_none()).collect();

    let mut tx = conn.begin().await?;
    let applied = match apply(shared, &mut tx, &mut work, &unresolved).await {
        Ok(applied) => applied,
        Err(failure) => {
            if matches!(failure, Failure::Refused(_) | Failure::Apart(_)) {
                tx.rollback().await?;
            }
            return Err(failure);
        }
    };
    if applied {
        tx.commit().await.map_err(Failure::Commit)?;
        for place in unresolved {
            if let (Some(layout), Some(Ok(Applied::New))) = (&work.layouts[place], &work.verdicts[place]) {
                known.remember(&group[place], layout);
            }
        }
    } else {
        // Repeats and refusals only: not even the number of a transaction is left.
        tx.rollback().await?;
    }
    work.verdicts.into_iter().collect::<Option<Vec<_>>>().ok_or(Failure::Stale)
}

/// Everything that a group changes. Returns whether it changed anything.
async fn apply(shared: &Shared, conn: &mut PgConnection, work: &mut Work<'_>, unresolved: &[usize]) -> Result<bool, Failure> {
    if !unresolved.is_empty() {
        resolve::layouts(shared, conn, work, unresolved).await?;
    }
    let group = work.group;
    let frames = group.iter().enumerate().filter_map(|(place, pending)| {
        let layout = work.layouts[place].as_deref().filter(|_| work.verdicts[place].is_none())?;
        Some(Frame { place, pending, layout })
    });
    let frames: Vec<Frame<'_>> = frames.collect();
    if frames.is_empty() {
        return Ok(false);
    }
    let inserted = ledger::insert(conn, frames).await?;
    if !inserted.old.is_empty() {
        // Its key came from another server a moment ago: it is to be told apart before anything is made for it.
        let spoiled: BTreeSet<usize> = inserted.old.iter().copied().filter(|place| work.made.contains(place)).collect();
        if !spoiled.is_empty() {
            return Err(if group.len() == 1 { Failure::Stale } else { Failure::Apart(spoiled) });
        }
        let asked = inserted.old.iter().map(|place| {
            let source_id = work.layouts[*place].as_ref().map_or(0, |layout| layout.source_id);
            (*place, &group[*place], source_id)
        });
        for (place, verdict) in ledger::find(conn, asked).await? {
            work.verdicts[place] = Some(verdict);
        }
    }
    if inserted.new.is_empty() {
        return Ok(false);
    }
    let new = inserted.new.iter().filter_map(|place| Some((*place, &group[*place], work.layouts[*place].as_deref()?)));
    let new: Vec<_> = new.collect();
    match Fold::of(&new) {
        Ok(folded) => {
            let full = blocks::write(conn, &folded, inserted.arrival, &work.made_series).await?;
            if !full.is_empty() {
                return Err(overflow(group, &new, &full));
            }
        }
        Err(full) => return Err(overflow(group, &new, &[full])),
    }
    if let Some(hook) = &shared.hook {
        let drafts: Vec<_> = inserted.new.iter().filter_map(|place| group[*place].batch.audit.as_ref()).collect();
        if !drafts.is_empty() {
            hook.in_transaction(conn, &drafts).await?;
        }
    }
    for place in inserted.new {
        work.verdicts[place] = Some(Ok(Applied::New));
    }
    Ok(true)
}

/// These counters have no room for what the group adds: alone, the guilty batch is refused, and the others fit.
fn overflow(group: &[Pending], new: &[(usize, &Pending, &Layout)], full: &[i32]) -> Failure {
    let is_full = |(_, pending, layout): &(usize, &Pending, &Layout)| {
        layout.series_ids.iter().position(|id| full.contains(id)).map(|at| pending.batch.metrics.get(at).to_id())
    };
    match new {
        [only] if group.len() == 1 => match is_full(only) {
            Some(id) => Failure::Refused(StoreError::Overflow { id }),
            None => Failure::Stale,
        },
        _ => Failure::Apart(new.iter().filter(|one| is_full(one).is_some()).map(|(place, ..)| *place).collect()),
    }
}
