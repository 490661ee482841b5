//! The transaction of a group of batches.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use golectra_protocol::{MAX_AHEAD_MILLIS, WindowError};
use sqlx::{Connection, PgConnection};

use super::blocks::Blocks;
use super::context::WriterContext;
use super::failure::GroupFailure;
use super::fold::{Fold, Placed};
use super::frames::{self, Frame, Inserted};
use super::group::Group;
use super::layouts::{Layout, LayoutCache};
use super::queue::{Outcome, QueuedBatch};
use super::resolve;
use super::samples::{self, SampleOutcome};
use crate::audit::Draft;
use crate::store::postgres::commits::await_standbys;
use crate::store::postgres::partitions::FRAMES;
use crate::store::postgres::sealed;
use crate::store::postgres::timestamp::Timestamp;
use crate::store::{Applied, Batch, StoreError};

/// Applies a group, whose batches are all different, and answers for each when it is committed. A refused batch of several
/// leaves nothing behind; where it can't be helped that it would, or spoils it for others, the failure says which it is.
pub(super) async fn run(
    context: &WriterContext,
    conn: &mut PgConnection,
    cache: &mut LayoutCache,
    batches: &[QueuedBatch],
) -> Result<Vec<Outcome>, GroupFailure> {
    context.commits.confirm(conn).await?;
    let mut group = Group::new(batches, cache);
    for slot in batches.iter().map(|queued| queued.slot).collect::<BTreeSet<_>>() {
        if !context.partitions.ensure(conn, FRAMES, slot).await? {
            for (outcome, _) in group.outcomes.iter_mut().zip(batches).filter(|(_, queued)| queued.slot == slot) {
                *outcome = Some(Err(StoreError::Window(WindowError::TooOld)));
            }
        }
    }
    let unresolved = group.unresolved();

    let mut tx = conn.begin().await?;
    let applied = match apply(context, &mut tx, &mut group, &unresolved).await {
        Ok(applied) => applied,
        Err(failure) => {
            if matches!(failure, GroupFailure::Refused(_) | GroupFailure::Apart(_)) {
                tx.rollback().await?;
            }
            return Err(failure);
        }
    };
    if applied {
        context.commits.answer_of(tx.commit()).await.map_err(GroupFailure::Commit)?;
        let too_old = group.too_old.iter().filter(|place| matches!(group.outcomes[**place], Some(Ok(Applied::New))));
        let too_old: usize = too_old.map(|place| batches[*place].batch.metrics.len()).sum();
        context.too_old_samples.inc_by(too_old as u64);
        for place in unresolved {
            if let (Some(layout), Some(Ok(Applied::New | Applied::Partly(_)))) = (&group.layouts[place], &group.outcomes[place]) {
                cache.remember(&batches[place], layout);
            }
        }
    } else {
        // Repeats and refusals only: nothing is left but the number of a transaction.
        tx.rollback().await?;
        if group.outcomes.iter().any(|outcome| matches!(outcome, Some(Ok(_)))) {
            await_standbys(conn).await.map_err(GroupFailure::Commit)?;
        }
    }
    group.outcomes.into_iter().collect::<Option<Vec<_>>>().ok_or(GroupFailure::Stale)
}

/// Everything that a group changes. Returns whether it changed anything.
async fn apply(
    context: &WriterContext,
    conn: &mut PgConnection,
    group: &mut Group<'_>,
    unresolved: &[usize],
) -> Result<bool, GroupFailure> {
    if !unresolved.is_empty() {
        resolve::layouts(context, conn, group, unresolved).await?;
    }
    let batches = group.batches;
    let oldest_with_values = context.clock.unix_millis().saturating_sub(context.lifetimes.retention_raw_millis());
    let frames = batches.iter().enumerate().filter_map(|(place, queued)| {
        let layout = group.layouts[place].as_deref().filter(|_| group.outcomes[place].is_none() && queued.samples.is_none())?;
        Some(Frame { place, queued, layout, with_values: queued.at.0 >= oldest_with_values, only: None })
    });
    let frames: Vec<Frame<'_>> = frames.collect();
    group.too_old = frames.iter().filter(|frame| !frame.with_values).map(|frame| frame.place).collect();
    let mut inserted = if frames.is_empty() { Inserted::default() } else { frames::insert(conn, frames).await? };
    settle_sealed(context, conn, group, &mut inserted.new).await?;
    if !inserted.old.is_empty() {
        // Its key came from another server a moment ago: it is to be told apart before anything is made for it.
        let spoiled: BTreeSet<usize> = inserted.old.iter().copied().filter(|place| group.made.contains(place)).collect();
        if !spoiled.is_empty() {
            return Err(if batches.len() == 1 { GroupFailure::Stale } else { GroupFailure::Apart(spoiled) });
        }
        let asked = inserted.old.iter().map(|place| {
            let source_id = group.layouts[*place].as_ref().map_or(0, |layout| layout.source_id);
            (*place, &batches[*place], source_id)
        });
        for (place, outcome) in frames::find(conn, asked).await? {
            group.outcomes[place] = Some(outcome);
        }
    }
    let placed = |place: usize| Some((place, &batches[place], group.layouts[place].as_ref()?));
    let new: Vec<Placed<'_>> = inserted.new.iter().filter_map(|place| placed(*place)).collect();
    let of_samples = |place: &usize| batches[*place].samples.is_some() && group.outcomes[*place].is_none();
    let timed: Vec<Placed<'_>> = (0..batches.len()).filter(of_samples).filter_map(placed).collect();
    if new.is_empty() && timed.is_empty() {
        return Ok(false);
    }
    let folded = Fold::of(&new).map_err(|full| overflow(batches, &new, &[full]))?;
    let now = Timestamp(context.clock.unix_millis());
    let mut blocks = Blocks::lock(conn, folded.series().chain(samples::series(&timed)), &group.made_blocks, now).await?;
    let full = blocks.change(&folded, inserted.arrival, &group.made_series)?;
    if !full.is_empty() {
        return Err(overflow(batches, &new, &full));
    }
    // The slot of a series that was brought back does not tell what was stored of it before; none of that is later than this.
    for (series, expired) in &group.back_series {
        blocks.is_ahead(*series, Timestamp(expired.at.0.saturating_add(MAX_AHEAD_MILLIS)));
    }
    for (_, queued, layout) in &new {
        samples::note_ahead(queued, layout, &mut blocks);
    }
    let sample_outcomes = samples::apply(conn, group, &timed, &mut blocks).await?;
    let mut applied = inserted.new;
    applied.extend(sample_outcomes.iter().filter(|one| !one.accepted.is_empty()).map(|one| one.place));
    let narrowed: BTreeMap<usize, Draft> =
        sample_outcomes.iter().filter_map(|one| Some((one.place, event_of_stored(&batches[one.place].batch, one)?))).collect();
    for one in sample_outcomes {
        group.outcomes[one.place] = Some(Ok(Applied::of_samples(one.accepted.len(), one.refused)));
    }
    if applied.is_empty() {
        return Ok(false);
    }
    applied.sort_unstable();
    resolve::expire_again(conn, group, &blocks).await?;
    blocks.write(conn).await?;
    if let Some(hook) = &context.hook {
        let draft = |place: &usize| narrowed.get(place).or(batches[*place].batch.audit.as_ref());
        let drafts: Vec<_> = applied.iter().filter_map(draft).collect();
        if !drafts.is_empty() {
            hook.in_transaction(conn, &drafts).await?;
        }
    }
    for place in applied {
        group.outcomes[place].get_or_insert(Ok(Applied::New));
    }
    Ok(true)
}

/// The event of a batch of which some samples are stored now and others are not: it names the metrics of those that are.
fn event_of_stored(batch: &Batch, outcome: &SampleOutcome) -> Option<Draft> {
    let draft = batch.audit.as_ref()?;
    // Samples that were out of range are in none of the batch's places any more, and count as refused.
    let is_whole = outcome.accepted.len() == batch.metrics.len() && outcome.refused.total() == 0;
    if is_whole || outcome.accepted.is_empty() {
        return None;
    }
    let mut stored = batch.metrics.clone();
    stored.retain(|index| u32::try_from(index).is_ok_and(|index| outcome.accepted.binary_search(&index).is_ok()));
    Some(draft.only(&stored))
}

/// Gives late batches their outcome whose frames were sealed before, or whose keys were forgotten, and takes the frames back that were inserted for
/// them. For why that is enough see [`sealed`].
async fn settle_sealed(
    context: &WriterContext,
    conn: &mut PgConnection,
    group: &mut Group<'_>,
    new: &mut Vec<usize>,
) -> Result<(), GroupFailure> {
    let (batches, latest) = (group.batches, context.clock.latest_unix_millis());
    let source_of = |group: &Group<'_>, place: usize| group.layouts[place].as_ref().map_or(0, |layout| layout.source_id);
    let late: Vec<_> = new.iter().filter_map(|place| batches[*place].asked(*place, source_of(group, *place), latest)).collect();
    let found = sealed::find(conn, &late).await?;
    if found.is_empty() {
        return Ok(());
    }
    let spoiled: BTreeSet<usize> = found.iter().map(|(place, _)| *place).filter(|place| group.made.contains(place)).collect();
    if !spoiled.is_empty() {
        return Err(if batches.len() == 1 { GroupFailure::Stale } else { GroupFailure::Apart(spoiled) });
    }
    let gone: Vec<_> = found.iter().map(|(place, _)| (&batches[*place], source_of(group, *place))).collect();
    frames::remove(conn, &gone).await?;
    new.retain(|place| found.iter().all(|(other, _)| other != place));
    for (place, outcome) in found {
        group.outcomes[place] = Some(outcome);
    }
    Ok(())
}

/// These counters have no room for what the group adds: alone, the batch at fault is refused, and the others fit.
fn overflow(batches: &[QueuedBatch], new: &[(usize, &QueuedBatch, &Arc<Layout>)], full: &[i32]) -> GroupFailure {
    let is_full = |(_, queued, layout): &(usize, &QueuedBatch, &Arc<Layout>)| {
        layout.series_ids.iter().position(|id| full.contains(id)).map(|at| queued.batch.metrics.get(at).to_id())
    };
    match new {
        [only] if batches.len() == 1 => match is_full(only) {
            Some(id) => GroupFailure::Refused(StoreError::Overflow { id }),
            None => GroupFailure::Stale,
        },
        _ => GroupFailure::Apart(new.iter().filter(|one| is_full(one).is_some()).map(|(place, ..)| *place).collect()),
    }
}
