//! Listings of the newest state, page by page. First it is looked up which series may be listed, 12 bytes each; then each page reads its own.

use std::collections::{HashMap, VecDeque};

use async_trait::async_trait;
use golectra_protocol::{Kind, MetricId, Source, Value};

use super::identity::code_of;
use super::reader::{Reader, damaged, millis, stored_source};
use super::select::{self, Candidate};
use crate::store::newest::{PAGE_ID_BYTES, PAGE_SERIES};
use crate::store::{LatestFilter, LatestPages, Series, StoreError};

/// A listing under way.
pub(super) struct Listing {
    reader: Reader,
    filter: LatestFilter,
    names: HashMap<i32, Source>,
    /// Sources whose series are yet to be looked up.
    sources: VecDeque<i32>,
    /// Series that are yet to be read.
    series: VecDeque<Candidate>,
}

/// Begins a listing.
pub(super) async fn list(reader: &Reader, filter: LatestFilter) -> Result<Box<dyn LatestPages>, StoreError> {
    // PostgreSQL's text holds no NUL, and no id has one either.
    let impossible = filter.name.as_ref().is_some_and(|name| name.contains('\0'));
    let source = filter.source.as_ref().map(Source::as_str);
    let rows = reader
        .read(async |conn| {
            sqlx::query!(
                "SELECT id, name FROM sources WHERE forgotten_at IS NULL AND ($1::text IS NULL OR name = $1) ORDER BY name",
                source
            )
            .fetch_all(conn)
            .await
        })
        .await?;
    let order: Vec<i32> = if impossible { Vec::new() } else { rows.iter().map(|row| row.id).collect() };
    let names = rows.into_iter().map(|row| Ok((row.id, stored_source(&row.name)?)));
    let names: HashMap<i32, Source> = names.collect::<Result<_, StoreError>>()?;
    let only = source.is_some().then(|| order.first().copied()).flatten();
    let asks = filter.name.is_some() || !filter.matchers.is_empty();
    let found = if asks && !order.is_empty() {
        reader
            .read(async |conn| {
                let terms = select::terms(conn, &filter).await?;
                Ok(if terms.narrow() { Some(select::candidates(conn, &terms, only).await?) } else { None })
            })
            .await?
    } else {
        None
    };
    let listing = Listing { reader: reader.clone(), filter, names, sources: VecDeque::new(), series: VecDeque::new() };
    let listing = match found {
        Some(mut found) => {
            let rank: HashMap<i32, usize> = order.iter().enumerate().map(|(rank, id)| (*id, rank)).collect();
            found.retain(|series| rank.contains_key(&series.source_id));
            // Within a source they are in order already.
            found.sort_by_key(|series| rank[&series.source_id]);
            Listing { series: found.into(), ..listing }
        }
        None => Listing { sources: order.into(), ..listing },
    };
    Ok(Box::new(listing))
}

impl Listing {
    /// The series of the next page; of as many sources as it takes to fill it.
    async fn next_candidates(&mut self) -> Result<Vec<i32>, StoreError> {
        while self.series.len() < PAGE_SERIES
            && let Some(source_id) = self.sources.pop_front()
        {
            self.series.extend(self.reader.read(async |conn| select::of_source(conn, source_id).await).await?);
        }
        let (mut page, mut bytes) = (Vec::new(), 0);
        while page.len() < PAGE_SERIES
            && bytes < PAGE_ID_BYTES
            && let Some(series) = self.series.pop_front()
        {
            page.push(series.series_id);
            bytes += usize::try_from(series.id_bytes).unwrap_or(0);
        }
        Ok(page)
    }

    async fn read(&self, ids: &[i32]) -> Result<Vec<Series>, StoreError> {
        let rows = self
            .reader
            .read(async |conn| {
                sqlx::query!(
                    r#"SELECT latest.source_id AS "source_id!", latest.metric AS "metric!", latest.kind AS "kind!", latest.value, latest.total,
                        (extract(epoch FROM latest.at) * 1000)::bigint AS "at!"
                    FROM unnest($1::integer[]) WITH ORDINALITY AS asked (id, n) JOIN latest ON latest.series_id = asked.id ORDER BY asked.n"#,
                    ids,
                )
                .fetch_all(conn)
                .await
            })
            .await?;
        let mut listed = Vec::with_capacity(rows.len());
        for row in rows {
            let Some(source) = self.names.get(&row.source_id) else { continue };
            if !self.filter.matches(source.as_str(), &row.metric) {
                continue;
            }
            let value = if row.kind == code_of(Kind::Gauge) { row.value.map(Value::Gauge) } else { row.total.map(Value::Counter) };
            listed.push(Series {
                source: source.clone(),
                id: MetricId::parse(&row.metric).map_err(|_| damaged("a series", &row.metric))?,
                value: value.ok_or_else(|| damaged("the value of", &row.metric))?,
                at_millis: millis(row.at),
            });
        }
        Ok(listed)
    }
}

#[async_trait]
impl LatestPages for Listing {
    async fn next_page(&mut self) -> Result<Vec<Series>, StoreError> {
        loop {
            let ids = self.next_candidates().await?;
            if ids.is_empty() {
                return Ok(Vec::new());
            }
            // A page whose series all expired meanwhile, or don't match, is not the end.
            let page = self.read(&ids).await?;
            if !page.is_empty() {
                return Ok(page);
            }
        }
    }
}
