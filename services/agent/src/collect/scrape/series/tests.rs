use golectra_protocol::Source;
use golectra_protocol::exposition::{Exposition, Format};

use super::*;

const LIMITS: ScrapeLimits = ScrapeLimits { body_bytes: 1 << 20, samples: 5, labels: 4, label_name_bytes: 12, label_value_bytes: 20 };

struct Fixture {
    cache: SeriesCache,
    target: Target,
    filter: Choice,
}

impl Fixture {
    fn new() -> Self {
        let target = Target::new("http://h:1/metrics".parse().unwrap(), Some("j"), &Source::unnamed());
        Self { cache: SeriesCache::new(Arc::new(SeriesBudget::new(100))), target, filter: Choice::default() }
    }

    fn scrape(&mut self, text: &str) -> Result<Counts, ScrapeError> {
        let mut scrape = self.cache.scrape(&self.target, &LIMITS, &self.filter);
        for sample in Exposition::new(text.as_bytes(), Format::Text).unwrap() {
            let sample = sample.unwrap();
            scrape.add(sample.series.text(), sample.series.plain_name(), sample.value, || sample.series.parts())?;
        }
        let counts = scrape.counts();
        scrape.finish().map(|()| counts)
    }

    fn metrics(&self) -> Vec<(String, f64)> {
        let value = |metric: &Metric| if let Value::Gauge(value) = metric.value { value } else { panic!("a gauge") };
        let id = |metric: &Metric| metric.id.to_string().replace("instance=\"h:1\",job=\"j\"", "T");
        self.cache.metrics().map(|metric| (id(metric), value(metric))).collect()
    }
}

fn pairs<const N: usize>(pairs: [(&str, f64); N]) -> Vec<(String, f64)> {
    pairs.map(|(id, value)| (id.to_owned(), value)).into()
}

#[test]
fn series_are_remembered_as_long_as_they_are_there() {
    let mut target = Fixture::new();
    let counts = target.scrape("b 1\na{k=\"v\"} 2\nc 3\n").unwrap();
    assert_eq!(counts, Counts { samples: 3, labelled: 3, added: 3, ..Counts::default() });
    assert_eq!(target.metrics(), pairs([("a{T,k=\"v\"}", 2.0), ("b{T}", 1.0), ("c{T}", 3.0)]));
    // Another order, and new values.
    let counts = target.scrape("c 6\nb 4\na{k=\"v\"} 5\n").unwrap();
    assert_eq!(counts, Counts { samples: 3, labelled: 3, ..Counts::default() });
    assert_eq!(target.metrics(), pairs([("a{T,k=\"v\"}", 5.0), ("b{T}", 4.0), ("c{T}", 6.0)]));
    // One is gone, one is new.
    let counts = target.scrape("b 7\naa 8\nc 9\n").unwrap();
    assert_eq!(counts, Counts { samples: 3, labelled: 3, added: 1, ..Counts::default() });
    assert_eq!(target.metrics(), pairs([("aa{T}", 8.0), ("b{T}", 7.0), ("c{T}", 9.0)]));
    assert_eq!((target.cache.positions.len(), target.cache.known.len()), (3, 3));
    // Only gone.
    target.scrape("c 1\n").unwrap();
    assert_eq!(target.metrics(), pairs([("c{T}", 1.0)]));
    assert_eq!((target.cache.positions.len(), target.cache.known.len()), (1, 1));
    target.scrape("").unwrap();
    assert_eq!((target.metrics(), target.cache.positions.len()), (vec![], 0));
}

#[test]
fn what_cannot_be_reported_is_left_out_and_counted() {
    let mut target = Fixture::new();
    for _ in 0..2 {
        let counts = target.scrape("a NaN\nb +Inf\n{\"x\\\\\u{7}\"} 1\nc 1\nc 2\n").unwrap();
        let expected = Counts { samples: 5, labelled: 5, duplicates: 1, invalid_ids: 1, not_finite: 2, ..Counts::default() };
        assert_eq!(Counts { added: 0, ..counts }, expected);
        assert_eq!(target.metrics(), pairs([("c{T}", 1.0)]), "the first of two samples counts");
    }
    // A value that becomes finite is reported, and one that does not is not.
    target.scrape("a 5\nb -Inf\nc NaN\n").unwrap();
    assert_eq!(target.metrics(), pairs([("a{T}", 5.0)]));
}

#[test]
fn one_series_written_in_two_ways_is_reported_once() {
    let mut target = Fixture::new();
    for _ in 0..2 {
        target.scrape("a{k=\"1\"} 1\na{  k = \"1\" } 2\nb 3\n").unwrap();
        assert_eq!(target.metrics(), pairs([("a{T,k=\"1\"}", 1.0), ("b{T}", 3.0)]));
    }
    target.scrape("a{  k = \"1\" } 4\n").unwrap();
    assert_eq!(target.metrics(), pairs([("a{T,k=\"1\"}", 4.0)]));
}

#[test]
fn limits_fail_the_scrape_and_say_which() {
    let fails = |text: &str| Fixture::new().scrape(text).unwrap_err().to_string();
    assert!(Fixture::new().scrape("a 1\nb 1\nc 1\nd 1\ne 1\n").is_ok());
    assert!(fails("a 1\nb 1\nc 1\nd 1\ne 1\nf 1\ng 1\n").contains("7 samples, more than 5"));
    // With the name, job and instance.
    assert!(Fixture::new().scrape("a{k=\"v\"} 1").is_ok());
    assert!(fails("a{k=\"v\",l=\"w\"} 1").contains("5 labels, more than 4"));
    assert!(Fixture::new().scrape("a{twelve_bytes=\"twenty bytes of value\"} 1").is_err());
    assert!(Fixture::new().scrape("a{twelve_bytes=\"twenty bytes a value\"} 1").is_ok());
    assert!(fails("a{thirteenbytes=\"v\"} 1").contains("13 bytes, more than 12"));
    assert!(fails("a{k=\"more than twenty bytes\"} 1").contains("22 bytes, more than 20"));
    assert!(fails("a_name_of_twenty_one_ 1").contains("21 bytes, more than 20"));
    assert!(fails("a{k=\"1\",k=\"2\"} 1").contains("two labels have the same name in a{k="));
}

#[test]
fn series_beyond_the_budget_of_all_targets_are_left_out_and_counted() {
    let budget = Arc::new(SeriesBudget::new(3));
    let target = || Fixture { cache: SeriesCache::new(Arc::clone(&budget)), ..Fixture::new() };
    let (mut first, mut second) = (target(), target());
    assert_eq!(first.scrape("a 1\nb 1\n").unwrap().over_budget, 0);
    for _ in 0..2 {
        assert_eq!(second.scrape("c 1\nd 1\ne 1\n").unwrap().over_budget, 2);
        assert_eq!(second.metrics(), pairs([("c{T}", 1.0)]));
    }
    first.scrape("b 2\n").unwrap();
    assert_eq!(second.scrape("c 1\nd 1\ne 1\n").unwrap().over_budget, 1, "what is gone makes room");
    drop(first);
    assert_eq!(second.scrape("c 1\nd 1\ne 1\n").unwrap().over_budget, 0);
    second.cache.clear();
    assert_eq!((budget.series.load(Relaxed), budget.bytes.load(Relaxed)), (3, 3 * SERIES_BYTES));
}

#[test]
fn the_texts_of_series_have_a_limit_whatever_targets_write() {
    let budget = Arc::new(SeriesBudget::new(100));
    let limits = ScrapeLimits { samples: 1000, labels: 5, label_value_bytes: 4000, ..LIMITS };
    let mut target = Fixture { cache: SeriesCache::new(Arc::clone(&budget)), ..Fixture::new() };
    let remembered = |cache: &SeriesCache| -> usize {
        let ids: usize = cache.known.iter().map(|known| known.metric.id.as_str().len()).sum();
        ids + cache.positions.keys().map(|text| text.len()).sum::<usize>()
    };
    let scrape = |target: &mut Fixture, text: &str| {
        let mut scrape = target.cache.scrape(&target.target, &limits, &target.filter);
        for sample in Exposition::new(text.as_bytes(), Format::Text).unwrap() {
            let sample = sample.unwrap();
            scrape.add(sample.series.text(), sample.series.plain_name(), sample.value, || sample.series.parts()).unwrap();
        }
        let counts = scrape.counts();
        scrape.finish().unwrap();
        counts
    };
    // Valid ids of 3 KiB: as many as fit.
    let long: Vec<String> = (0..50).map(|number| format!("a{{k=\"{number}{}\"}} 1\n", "x".repeat(3000))).collect();
    let long = long.concat();
    for _ in 0..2 {
        let counts = scrape(&mut target, &long);
        assert_eq!((counts.over_budget, target.metrics().len()), (42, 8), "{counts:?}");
        assert!(remembered(&target.cache) <= 100 * SERIES_BYTES);
    }
    // Ids that no server accepts are not remembered, however the series is written, and leave room for others.
    let text = format!("a{{k=\"{0}\",l=\"{0}\"}} 1\n", "y".repeat(3000)).repeat(2) + "b 1\n";
    for _ in 0..2 {
        let counts = scrape(&mut target, &text);
        assert_eq!((counts.invalid_ids, counts.duplicates, counts.over_budget), (2, 0, 0));
        assert!(remembered(&target.cache) < 100, "{}", remembered(&target.cache));
    }
    target.cache.clear();
    assert_eq!((budget.series.load(Relaxed), budget.bytes.load(Relaxed)), (100, 100 * SERIES_BYTES));
}

#[test]
fn metrics_that_are_filtered_out_count_as_scraped_and_take_no_room() {
    let pattern = |text: &str| Some(text.parse().unwrap());
    let filter = Choice { include: pattern("http_.*|a\\.b"), exclude: pattern("http_x") };
    let mut target = Fixture { filter, ..Fixture::new() };
    for round in 0..2 {
        // Six are left out, of which one has its name in quotes; the limit of five is for those that are reported.
        let text = "a 1\nhttp_a 2\nhttp_a{k=\"v\"} 3\nhttp_x 4\nhttp_x{k=\"v\"} 5\nmy_http_a 6\n{\"c.d\"} 7\nz 8\n{\"a.b\"} 9\nhttp_b 10\n";
        let counts = target.scrape(text).unwrap();
        assert_eq!(Counts { added: 0, ..counts }, Counts { samples: 10, labelled: 4, ..Counts::default() });
        assert_eq!(counts.added, if round == 0 { 4 } else { 0 });
        let found = target.metrics();
        assert_eq!(found.iter().map(|(_, value)| *value).collect::<Vec<_>>().len(), 4, "{found:?}");
        assert!(found.iter().any(|(id, _)| id.contains("a.b")) && !found.iter().any(|(id, _)| id.contains("http_x")), "{found:?}");
        assert_eq!((target.cache.positions.len(), target.cache.known.len()), (4, 4));
    }
    let error = target.scrape("http_1 1\nhttp_2 1\nhttp_3 1\nhttp_4 1\nhttp_5 1\nhttp_6 1\nz 1\n").unwrap_err().to_string();
    assert!(error.contains("6 samples, more than 5"), "{error}");
}
