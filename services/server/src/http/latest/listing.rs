//! The series that match at least one of several filters, sorted and without duplicates.

use std::vec::IntoIter;

use crate::store::{LatestFilter, LatestPages, Newest, Series, StoreError};

/// A listing that is read page by page. It holds one page for each filter.
pub struct Listing {
    /// Those filters that have more series.
    sequences: Vec<Sequence>,
}

/// The series of one filter.
struct Sequence {
    pages: Box<dyn LatestPages>,
    page: IntoIter<Series>,
}

impl Listing {
    /// Starts reading.
    pub async fn open<S: Newest + ?Sized>(store: &S, filters: Vec<LatestFilter>) -> Result<Self, StoreError> {
        let mut sequences = Vec::with_capacity(filters.len());
        for filter in filters {
            sequences.push(Sequence { pages: store.latest(filter).await?, page: Vec::new().into_iter() });
        }
        Ok(Self { sequences })
    }

    /// Reads the pages that [`Self::next`] needs.
    pub async fn load(&mut self) -> Result<(), StoreError> {
        let mut place = 0;
        while let Some(sequence) = self.sequences.get_mut(place) {
            if sequence.page.as_slice().is_empty() {
                sequence.page = sequence.pages.next_page().await?.into_iter();
            }
            if sequence.page.as_slice().is_empty() {
                self.sequences.swap_remove(place);
            } else {
                place += 1;
            }
        }
        Ok(())
    }

    /// The next series; None at the end.
    pub async fn next(&mut self) -> Result<Option<Series>, StoreError> {
        self.load().await?;
        let heads = self.sequences.iter().map(|sequence| sequence.page.as_slice().first().map(Series::order));
        let Some((place, _)) = heads.enumerate().min_by_key(|(_, order)| *order) else { return Ok(None) };
        let Some(series) = self.sequences[place].page.next() else { return Ok(None) };
        for sequence in &mut self.sequences {
            if sequence.page.as_slice().first().is_some_and(|same| same.order() == series.order()) {
                sequence.page.next();
            }
        }
        Ok(Some(series))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use async_trait::async_trait;
    use golectra_protocol::{MetricId, Source, Value};

    use super::*;

    /// Pages that are in memory.
    pub(crate) struct Fixed(pub(crate) std::vec::IntoIter<Result<Vec<Series>, StoreError>>);

    #[async_trait]
    impl LatestPages for Fixed {
        async fn next_page(&mut self) -> Result<Vec<Series>, StoreError> {
            self.0.next().unwrap_or(Ok(Vec::new()))
        }
    }

    pub(crate) fn listing(sequences: Vec<Vec<Result<Vec<Series>, StoreError>>>) -> Listing {
        let sequence = |pages: Vec<_>| Sequence { pages: Box::new(Fixed(pages.into_iter())), page: Vec::new().into_iter() };
        Listing { sequences: sequences.into_iter().map(sequence).collect() }
    }

    pub(crate) fn series(source: &str, id: &str, value: Value) -> Series {
        Series { source: Source::from_stored(source).unwrap(), id: MetricId::parse(id).unwrap(), value, at_millis: 1_700_000_000_123 }
    }

    #[tokio::test]
    async fn the_series_of_several_filters_are_one_sorted_list() {
        let one = |source: &str, id: &str| series(source, id, Value::Gauge(1.0));
        let twin = series("b", "x", Value::Counter(1));
        let mut listing = listing(vec![
            vec![Ok(vec![one("a", "x"), one("b", "x")]), Ok(vec![twin.clone(), one("c", "z")])],
            vec![],
            vec![Ok(vec![one("", "x")]), Ok(vec![one("a", "x")]), Ok(vec![one("a", "y"), one("b", "x")]), Ok(vec![one("b", "y")])],
        ]);
        let mut listed = Vec::new();
        while let Some(series) = listing.next().await.unwrap() {
            listed.push(series);
        }
        let expected = [one("", "x"), one("a", "x"), one("a", "y"), one("b", "x"), twin, one("b", "y"), one("c", "z")];
        assert_eq!(listed, expected);
    }

    #[tokio::test]
    async fn a_page_that_cannot_be_read_is_an_error() {
        let failed = || Err(StoreError::Unavailable("gone".into()));
        let mut listing = listing(vec![vec![Ok(vec![series("a", "x", Value::Counter(1))]), failed()]]);
        assert!(listing.next().await.unwrap().is_some());
        assert!(listing.next().await.is_err());
    }
}
