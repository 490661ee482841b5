//! Writes the JSON of a listing in pieces.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use golectra_process::LogLimiter;
use golectra_protocol::Value;
use serde::Serialize;
use tokio::time::Instant;

use super::budget::Share;
use super::listing::Listing;
use crate::clock::rfc3339;
use crate::store::{Series, StoreError};

/// The text before the first series; the others follow a comma.
const BEGINNING: &str = "{\"series\":[";

/// A piece ends after the series that brings it to this many bytes.
const PIECE_BYTES: usize = 32 << 10;

/// The time limit of an answer, which holds its share of the memory until it ends.
const LIMIT: Duration = Duration::from_mins(5);

/// Log lines about answers that were cut off.
static CUT_OFF_LOG: LogLimiter = LogLimiter::new();

/// Why an answer is cut off. The connection is closed without the end of the body, so that clients can't mistake a part for the
/// whole.
#[derive(Debug, thiserror::Error)]
pub enum CutOff {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It took longer than [`LIMIT`].
    #[error("the listing took longer than {} s", LIMIT.as_secs())]
    TooSlow,
}

/// The body `{"series":[…],"truncated":false}` of a listing of at most `limit` series.
pub fn pieces(listing: Listing, limit: Option<u64>, share: Share) -> impl Stream<Item = Result<Bytes, CutOff>> + Send + 'static {
    let writer = Writer { listing, left: limit, before: BEGINNING, ended: false, deadline: Instant::now() + LIMIT };
    // The share is dropped with the body: at its end, at an error, or when the client disconnects.
    stream::try_unfold((writer, share), |(mut writer, share)| async move {
        match writer.next_piece().await {
            Ok(piece) => Ok(piece.map(|piece| (piece, (writer, share)))),
            Err(error) => {
                let cause = error.to_string();
                CUT_OFF_LOG.log("cut_off", move |count| tracing::warn!(count, cause, "answers of /api/v1/latest were cut off"));
                Err(error)
            }
        }
    })
}

struct Writer {
    listing: Listing,
    /// The number of series that may still be listed.
    left: Option<u64>,
    /// The text before the next series.
    before: &'static str,
    ended: bool,
    deadline: Instant,
}

impl Writer {
    /// The next piece; None at the end.
    async fn next_piece(&mut self) -> Result<Option<Bytes>, CutOff> {
        if self.ended {
            return Ok(None);
        }
        if Instant::now() >= self.deadline {
            return Err(CutOff::TooSlow);
        }
        let mut piece = Vec::with_capacity(PIECE_BYTES + PIECE_BYTES / 4);
        while piece.len() < PIECE_BYTES && !self.ended {
            match self.listing.next().await? {
                Some(series) if self.left != Some(0) => {
                    piece.extend_from_slice(std::mem::replace(&mut self.before, ",").as_bytes());
                    write(&mut piece, &series);
                    self.left = self.left.map(|left| left - 1);
                }
                beyond => {
                    if self.before == BEGINNING {
                        piece.extend_from_slice(BEGINNING.as_bytes());
                    }
                    let truncated = beyond.is_some();
                    piece.extend_from_slice(format!("],\"truncated\":{truncated}}}").as_bytes());
                    self.ended = true;
                }
            }
        }
        Ok(Some(piece.into()))
    }
}

#[derive(Serialize)]
struct SeriesView<'a> {
    source: &'a str,
    id: &'a str,
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Double>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delta: Option<i64>,
    at: String,
}

/// A double, or a text for the values that JSON has no number for, as in Prometheus's API.
#[derive(Serialize)]
#[serde(untagged)]
enum Double {
    Number(f64),
    Text(&'static str),
}

impl From<f64> for Double {
    fn from(value: f64) -> Self {
        if value.is_nan() {
            Self::Text("NaN")
        } else if value == f64::INFINITY {
            Self::Text("+Inf")
        } else if value == f64::NEG_INFINITY {
            Self::Text("-Inf")
        } else {
            Self::Number(value)
        }
    }
}

fn write(piece: &mut Vec<u8>, series: &Series) {
    let (value, delta) = match series.value {
        Value::Gauge(value) => (Some(value.into()), None),
        Value::Counter(total) => (None, Some(total)),
    };
    let view = SeriesView {
        source: series.source.as_str(),
        id: series.id.as_str(),
        r#type: series.value.kind().as_str(),
        value,
        delta,
        at: rfc3339(series.at_millis),
    };
    serde_json::to_writer(piece, &view).expect("texts and numbers always encode");
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt as _;
    use serde_json::{Value as Json, json};

    use super::super::budget::ListingBudget;
    use super::super::listing::tests::{listing, series};
    use super::*;

    type Pages = Vec<Result<Vec<Series>, StoreError>>;

    async fn pieces_of(pages: Pages, limit: Option<u64>) -> Result<Vec<Bytes>, CutOff> {
        let share = ListingBudget::new().share(1).await.unwrap();
        pieces(listing(vec![pages]), limit, share).try_collect().await
    }

    async fn json_of(pages: Pages, limit: Option<u64>) -> Json {
        serde_json::from_slice(&pieces_of(pages, limit).await.unwrap().concat()).unwrap()
    }

    fn counters(ids: &[&str]) -> Vec<Series> {
        ids.iter().map(|id| series("s", id, Value::Counter(1))).collect()
    }

    #[tokio::test]
    async fn series_are_written_with_their_fields() {
        let page = vec![series("", "m{l=\"é\"}", Value::Gauge(0.1)), series("s", "c", Value::Counter(i64::MAX))];
        assert_eq!(
            json_of(vec![Ok(page)], None).await,
            json!({"series": [
                {"source": "", "id": "m{l=\"é\"}", "type": "gauge", "value": 0.1, "at": "2023-11-14T22:13:20.123Z"},
                {"source": "s", "id": "c", "type": "counter", "delta": i64::MAX, "at": "2023-11-14T22:13:20.123Z"},
            ], "truncated": false})
        );
        assert_eq!(json_of(vec![], None).await, json!({"series": [], "truncated": false}));
    }

    #[tokio::test]
    async fn doubles_keep_their_bits_and_values_without_a_json_number_are_texts() {
        let values = [0.1, -0.0, 5e-324, f64::MAX, 9_007_199_254_740_993.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
        let stale = f64::from_bits(0x7ff0_0000_0000_0002);
        let page = values.into_iter().chain([stale]).enumerate().map(|(n, value)| series("s", &format!("m{n}"), Value::Gauge(value)));
        let json = json_of(vec![Ok(page.collect())], None).await;
        for (listed, value) in json["series"].as_array().unwrap().iter().zip(values) {
            if let Some(number) = listed["value"].as_f64() {
                assert_eq!(number.to_bits(), value.to_bits());
            }
        }
        let texts: Vec<_> = json["series"].as_array().unwrap()[5..].iter().map(|one| one["value"].as_str().unwrap()).collect();
        assert_eq!(texts, ["NaN", "+Inf", "-Inf", "NaN"]);
    }

    #[tokio::test]
    async fn the_answer_says_whether_the_limit_truncated_it() {
        for (limit, listed, truncated) in
            [(None, 3, false), (Some(1), 1, true), (Some(2), 2, true), (Some(3), 3, false), (Some(4), 3, false)]
        {
            let json = json_of(vec![Ok(counters(&["a", "b"])), Ok(counters(&["c"]))], limit).await;
            assert_eq!((json["series"].as_array().unwrap().len(), &json["truncated"]), (listed, &json!(truncated)), "{limit:?}");
        }
    }

    #[tokio::test]
    async fn pieces_are_small_however_long_the_listing_is() {
        let id = |n: usize| format!("m{{n=\"{n:06}\",text=\"{}\"}}", "\u{1}".repeat(4000));
        let page = |page: usize| Ok((0..100).map(|n| series("s", &id(page * 100 + n), Value::Counter(1))).collect());
        let pieces = pieces_of((0..10).map(page).collect(), None).await.unwrap();
        let longest = pieces.iter().map(Bytes::len).max().unwrap();
        assert!(longest < 2 * PIECE_BYTES, "{longest}");
        let json: Json = serde_json::from_slice(&pieces.concat()).unwrap();
        assert_eq!(json["series"].as_array().unwrap().len(), 1000);
    }

    #[tokio::test]
    async fn an_answer_is_not_completed_when_the_store_fails() {
        let share = ListingBudget::new().share(1).await.unwrap();
        let pages: Pages = vec![Ok(counters(&["a"; 1000])), Err(StoreError::Unavailable("gone".into()))];
        let mut body = std::pin::pin!(pieces(listing(vec![pages]), None, share));
        let mut sent = Vec::new();
        let error = loop {
            match body.try_next().await {
                Ok(piece) => sent.extend(piece.expect("an error comes before the end")),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, CutOff::Store(_)), "{error}");
        assert!(serde_json::from_slice::<Json>(&sent).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_listing_that_takes_too_long_is_cut_off() {
        let share = ListingBudget::new().share(1).await.unwrap();
        let pages: Pages = (0..10).map(|_| Ok(counters(&["a"; 1000]))).collect();
        let mut body = std::pin::pin!(pieces(listing(vec![pages]), None, share));
        assert!(body.try_next().await.unwrap().is_some());
        tokio::time::advance(LIMIT).await;
        assert!(matches!(body.try_next().await, Err(CutOff::TooSlow)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_share_is_released_with_the_body() {
        let budget = ListingBudget::new();
        for _ in 0..100 {
            let share = budget.share(8).await.expect("the listings before have ended");
            let mut body = std::pin::pin!(pieces(listing(vec![vec![Ok(counters(&["a"; 1000]))]]), None, share));
            // A client that disconnects drops the body before its end.
            body.try_next().await.unwrap();
        }
    }
}
