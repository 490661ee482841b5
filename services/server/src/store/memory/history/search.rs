//! Finding series by matchers.

use std::sync::Arc;

use golectra_promql::{METRIC_NAME, MatchOp, Matcher};
use golectra_protocol::{IdParts, MetricId, Source};

use super::super::table::{IdHasher, labelled_name};
use super::series::{SERIES_A_BLOCK, SeriesBlock, SeriesRef, SeriesTable, place};
use crate::history::labels::{SOURCE_LABEL, TYPE_LABEL, instance_of};

/// What a list of matchers asks for, prepared for many series.
pub(super) struct Search<'a> {
    matchers: &'a [Matcher],
    /// Which names can match: these, or those that the matchers on names match.
    names: Names<'a>,
    /// A part of the id of every series that matches: it is quicker to look for than to take ids apart.
    needle: Option<String>,
}

enum Names<'a> {
    Exact(Vec<&'a str>),
    Matching,
    Any,
}

/// Series of a source that may match, shared with the store.
pub(super) struct Candidates {
    /// In order.
    numbers: Numbers,
    blocks: Vec<(u32, Arc<SeriesBlock>)>,
}

enum Numbers {
    /// All of the blocks.
    All,
    These(Vec<u32>),
    /// These, and those whose id is their name.
    TheseAndUnlabelled(Vec<u32>),
}

impl<'a> Search<'a> {
    pub(super) fn new(matchers: &'a [Matcher]) -> Self {
        Self { matchers, names: Names::of(matchers), needle: needle(matchers) }
    }

    /// Whether the source can have matching series, as far as its name tells.
    fn may_match_source(&self, source: &str, has_instance: bool) -> bool {
        has_instance || self.on(SOURCE_LABEL).all(|matcher| matcher.matches(instance_of(source)))
    }

    fn on(&self, label: &str) -> impl Iterator<Item = &'a Matcher> {
        self.matchers.iter().filter(move |matcher| matcher.name() == label)
    }

    /// The series of a source that may match; none where there are none. To be called under the lock of its shard.
    pub(super) fn candidates(&self, source: &Source, series: &SeriesTable, hasher: &IdHasher) -> Option<Candidates> {
        if series.is_empty() || !self.may_match_source(source.as_str(), series.has_instance()) {
            return None;
        }
        let mut numbers: Vec<u32> = match &self.names {
            Names::Any => return Some(Candidates { numbers: Numbers::All, blocks: share(series, series.blocks().keys().copied()) }),
            Names::Exact(names) => names.iter().flat_map(|name| series.named(hasher, name)).collect(),
            Names::Matching => {
                let matches = |name: &str| self.on(METRIC_NAME).all(|matcher| matcher.matches(name));
                let mut labelled: Vec<u32> =
                    series.labelled().filter(|(name, _)| matches(name)).flat_map(|(_, numbers)| numbers.iter().copied()).collect();
                labelled.sort_unstable();
                let blocks = share(series, series.blocks().keys().copied());
                return Some(Candidates { numbers: Numbers::TheseAndUnlabelled(labelled), blocks });
            }
        };
        if numbers.is_empty() {
            return None;
        }
        numbers.sort_unstable();
        // A pattern may have an alternative twice.
        numbers.dedup();
        let mut blocks: Vec<u32> = numbers.iter().map(|number| place(*number).0).collect();
        blocks.dedup();
        Some(Candidates { blocks: share(series, blocks.into_iter()), numbers: Numbers::These(numbers) })
    }

    /// Whether a series of this source matches.
    pub(super) fn matches(&self, source: &str, series: SeriesRef<'_>) -> bool {
        if self.needle.as_ref().is_some_and(|needle| !series.id.contains(needle)) {
            return false;
        }
        if self.matchers.is_empty() {
            return true;
        }
        let parts = IdParts::of(series.id);
        self.matchers.iter().all(|matcher| {
            let of_id = || parts.label(matcher.name());
            let value = match matcher.name() {
                METRIC_NAME => &*parts.name,
                SOURCE_LABEL => of_id().unwrap_or(instance_of(source)),
                TYPE_LABEL => of_id().unwrap_or(if series.beside_gauge { "counter" } else { "" }),
                _ => of_id().unwrap_or(""),
            };
            matcher.matches(value)
        })
    }
}

fn share(series: &SeriesTable, blocks: impl Iterator<Item = u32>) -> Vec<(u32, Arc<SeriesBlock>)> {
    blocks.filter_map(|block| Some((block, Arc::clone(series.blocks().get(&block)?)))).collect()
}

impl Candidates {
    /// Each with its number, in order.
    pub(super) fn iter(&self) -> Box<dyn Iterator<Item = (u32, SeriesRef<'_>)> + Send + '_> {
        let all = || self.blocks.iter().flat_map(|(block, series)| (block * SERIES_A_BLOCK..).zip(series.iter()));
        match &self.numbers {
            Numbers::All => Box::new(all()),
            Numbers::TheseAndUnlabelled(numbers) => {
                Box::new(all().filter(|(number, series)| numbers.binary_search(number).is_ok() || labelled_name(series.id).is_none()))
            }
            Numbers::These(numbers) => {
                let mut blocks = self.blocks.iter().peekable();
                Box::new(numbers.iter().filter_map(move |number| {
                    let (block, slot) = place(*number);
                    while blocks.next_if(|(other, _)| *other < block).is_some() {}
                    let (_, series) = blocks.peek().filter(|(other, _)| *other == block)?;
                    Some((*number, series.get(slot)?))
                }))
            }
        }
    }
}

impl<'a> Names<'a> {
    fn of(matchers: &'a [Matcher]) -> Self {
        let mut on_names = matchers.iter().filter(|matcher| matcher.name() == METRIC_NAME).peekable();
        if on_names.peek().is_none() {
            return Self::Any;
        }
        on_names.find_map(values).map_or(Self::Matching, Self::Exact)
    }
}

/// The values that a matcher asks for, where it asks for one of some.
fn values(matcher: &Matcher) -> Option<Vec<&str>> {
    let values = match matcher.op() {
        MatchOp::Equal => vec![matcher.value()],
        MatchOp::Match => matcher.alternatives()?.iter().map(String::as_str).collect(),
        MatchOp::NotEqual | MatchOp::NotMatch => return None,
    };
    Some(values).filter(|values| !values.contains(&""))
}

/// A part of the id of every series that the matchers match, where one of them tells.
fn needle(matchers: &[Matcher]) -> Option<String> {
    matchers.iter().filter(|matcher| ![METRIC_NAME, SOURCE_LABEL, TYPE_LABEL].contains(&matcher.name())).find_map(|matcher| {
        let values = values(matcher)?;
        let [value] = values.as_slice() else { return None };
        let id = MetricId::from_parts("x", [(matcher.name(), *value)]).ok()?;
        id.as_str().strip_prefix("x{")?.strip_suffix('}').map(str::to_owned)
    })
}
