//! The listing of series: sorted, page by page, without reading the series of other names.
//!
//! Between two pages a listing holds 4 bytes for each of the series of one source that are left, and nothing else, so that neither many
//! listings nor slow readers cost memory.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use golectra_promql::{METRIC_NAME, Matcher};
use golectra_protocol::{Kind, MetricId, Source};
use tokio::time::timeout;

use super::shards::Shards;
use super::table::{ChainLinks, Row, Rows, Table, labelled_name};
use super::view;
use crate::history::labels::{SOURCE_LABEL, instance_of};
use crate::store::newest::{PAGE_ID_BYTES, PAGE_SERIES};
use crate::store::{LatestFilter, LatestPages, Series, StoreError};

/// How long a page may take.
const PAGE_WAIT: Duration = Duration::from_secs(5);

/// A listing that is being read. Absent after a page took too long.
pub(super) struct Listing(Option<Reader>);

impl Listing {
    pub(super) fn new(shards: Arc<Shards>, filter: LatestFilter) -> Self {
        Self(Some(Reader::new(shards, filter)))
    }
}

#[async_trait]
impl LatestPages for Listing {
    async fn next_page(&mut self) -> Result<Vec<Series>, StoreError> {
        let gone = || StoreError::Unavailable("the listing did not go on within 5 s".into());
        let mut reader = self.0.take().ok_or_else(gone)?;
        // Sorting a large source takes longer than a task should.
        let page = tokio::task::spawn_blocking(move || (reader.next_page(), reader));
        let (page, reader) =
            timeout(PAGE_WAIT, page).await.map_err(|_| gone())?.map_err(|error| StoreError::Unavailable(error.to_string()))?;
        self.0 = Some(reader);
        Ok(page)
    }
}

struct Reader {
    shards: Arc<Shards>,
    filter: LatestFilter,
    names: Names,
    /// A text that the ids of all matching series have.
    needle: Option<String>,
    /// Sources to come.
    sources: VecDeque<Source>,
    current: Option<Cursor>,
}

/// Which names the filter lets through.
enum Names {
    /// All, without a look.
    Any,
    /// These.
    Exact(BTreeSet<String>),
    /// Those that the matchers on `__name__` match.
    Matching,
}

/// A source that is being listed.
struct Cursor {
    source: Source,
    generation: u64,
    /// Slots of its matching series, the next one first.
    slots: VecDeque<u32>,
    /// The series that was listed last.
    last: Option<(MetricId, Kind)>,
}

impl Reader {
    fn new(shards: Arc<Shards>, filter: LatestFilter) -> Self {
        let sources = match &filter.source {
            Some(source) => [source.clone()].into(),
            None => view::sources(&shards).into_iter().map(|info| info.name).collect(),
        };
        Self { shards, names: Names::of(&filter), needle: needle(&filter), filter, sources, current: None }
    }

    fn next_page(&mut self) -> Vec<Series> {
        let (mut page, mut id_bytes) = (Vec::new(), 0);
        while page.len() < PAGE_SERIES && id_bytes < PAGE_ID_BYTES {
            let Some(mut cursor) = self.current.take().or_else(|| self.next_source()) else { break };
            let Some(rows) = self.rows_of(&mut cursor) else { continue };
            while page.len() < PAGE_SERIES && id_bytes < PAGE_ID_BYTES {
                let Some(slot) = cursor.slots.pop_front() else { break };
                let row = rows.row(slot);
                let metric = rows.metric(row);
                id_bytes += metric.id.len();
                let at_millis = row.version().at_millis();
                page.push(Series { source: cursor.source.clone(), id: metric.to_id(), value: metric.value, at_millis });
            }
            if !cursor.slots.is_empty() {
                cursor.last = page.last().map(|series| (series.id.clone(), series.value.kind()));
                self.current = Some(cursor);
            }
        }
        page
    }

    /// The next source that has a matching series.
    fn next_source(&mut self) -> Option<Cursor> {
        while let Some(source) = self.sources.pop_front() {
            if let Some(cursor) = self.collect(&source) {
                return Some(cursor);
            }
        }
        None
    }

    /// The rows that the cursor's slots are of. Where the source's table was replaced since the last page, its slots are looked up again;
    /// none when nothing is left.
    fn rows_of(&self, cursor: &mut Cursor) -> Option<Rows> {
        loop {
            let locked = self.shards.of(&cursor.source);
            let source = locked.source()?;
            if source.generation == cursor.generation {
                return Some(source.table.rows().clone());
            }
            drop(locked);
            let again = self.collect(&cursor.source)?;
            *cursor = Cursor { last: cursor.last.take(), ..again };
            self.skip_listed(cursor);
        }
    }

    fn skip_listed(&self, cursor: &mut Cursor) {
        let locked = self.shards.of(&cursor.source);
        let Some(source) = locked.source().filter(|source| source.generation == cursor.generation) else { return };
        let rows = source.table.rows().clone();
        drop(locked);
        if let Some((id, kind)) = &cursor.last {
            let listed = cursor.slots.partition_point(|slot| order(&rows, *slot) <= (id.as_str(), *kind));
            cursor.slots.drain(..listed);
        }
    }

    /// The matching series of a source, sorted.
    fn collect(&self, name: &Source) -> Option<Cursor> {
        let locked = self.shards.of(name);
        let source = locked.source()?;
        let table = &source.table;
        let matches_source = |matcher: &Matcher| matcher.name() != SOURCE_LABEL || matcher.matches(instance_of(name.as_str()));
        if !table.has_instance() && !self.filter.matchers.iter().all(matches_source) {
            return None;
        }
        let candidates = self.names.candidates(table, self.shards.hasher())?;
        let (generation, rows) = (source.generation, table.rows().clone());
        drop(locked);

        let asked = |slot: &u32| {
            let id = rows.id(rows.row(*slot));
            self.needle.as_ref().is_none_or(|needle| id.contains(needle)) && self.filter.matches(name.as_str(), id)
        };
        let mut slots: Vec<u32> = match &candidates {
            Candidates::All => (0..u32::try_from(rows.len()).unwrap_or(u32::MAX)).filter(asked).collect(),
            Candidates::Some { single, chains, links } => {
                single.iter().copied().chain(chains.iter().flat_map(|last| links.chain(*last))).filter(asked).collect()
            }
            Candidates::OfMatchingNames { unlabelled, labelled, links } => {
                let matches = |name: &str| self.filter.matchers.iter().all(|one| one.name() != METRIC_NAME || one.matches(name));
                let name_matches = |last: &&u32| labelled_name(rows.id(rows.row(**last))).is_some_and(|name| matches(&name));
                let unlabelled = unlabelled.iter().flat_map(|last| links.chain(*last)).filter(|slot| matches(rows.id(rows.row(*slot))));
                let labelled = labelled.iter().filter(name_matches).flat_map(|last| links.chain(*last));
                unlabelled.chain(labelled).filter(asked).collect()
            }
        };
        slots.sort_unstable_by(|one, other| order(&rows, *one).cmp(&order(&rows, *other)));
        Some(Cursor { source: name.clone(), generation, slots: slots.into(), last: None }).filter(|cursor| !cursor.slots.is_empty())
    }
}

/// Which series of a source may match, and what they are found with.
enum Candidates {
    All,
    Some { single: Vec<u32>, chains: Vec<u32>, links: ChainLinks },
    OfMatchingNames { unlabelled: Option<u32>, labelled: Vec<u32>, links: ChainLinks },
}

impl Names {
    fn of(filter: &LatestFilter) -> Self {
        if let Some(name) = &filter.name {
            return Self::Exact([name.clone()].into());
        }
        let mut on_names = filter.matchers.iter().filter(|matcher| matcher.name() == METRIC_NAME).peekable();
        if on_names.peek().is_none() {
            return Self::Any;
        }
        match on_names.find_map(Matcher::only_values) {
            Some(names) => Self::Exact(names.iter().cloned().collect()),
            None => Self::Matching,
        }
    }

    /// The candidates of a source; none where it has none. To be asked under the lock.
    fn candidates(&self, table: &Table, hasher: &super::table::IdHasher) -> Option<Candidates> {
        match self {
            Self::Any => Some(Candidates::All),
            Self::Exact(names) => {
                let (mut single, mut chains) = (Vec::new(), Vec::new());
                for name in names {
                    let (slots, chain) = table.named(hasher, name);
                    single.extend(slots);
                    chains.extend(chain);
                }
                let some = !single.is_empty() || !chains.is_empty();
                some.then(|| Candidates::Some { single, chains, links: table.links().clone() })
            }
            Self::Matching => Some(Candidates::OfMatchingNames {
                unlabelled: table.unlabelled_chain(),
                labelled: table.labelled_chains().collect(),
                links: table.links().clone(),
            }),
        }
    }
}

/// Two series of a source are listed in this order.
fn order(rows: &Rows, slot: u32) -> (&str, Kind) {
    let row: &Row = rows.row(slot);
    (rows.id(row), row.kind())
}

/// A part of the id of every series that matches, where a matcher tells one: it is quicker to look for than to take ids apart.
fn needle(filter: &LatestFilter) -> Option<String> {
    filter.matchers.iter().filter(|matcher| ![METRIC_NAME, SOURCE_LABEL].contains(&matcher.name())).find_map(|matcher| {
        let [value] = matcher.only_values()? else { return None };
        let id = MetricId::from_parts("x", [(matcher.name(), value.as_str())]).ok()?;
        id.as_str().strip_prefix("x{")?.strip_suffix('}').map(str::to_owned)
    })
}
