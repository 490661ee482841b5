//! What is listed, in which order, and what of it.

use golectra_protocol::{Kind, Value};

use super::{Lab, LatestFilter, Made, Setup, counter, gauge, name, source};
use crate::clock::Clock;

async fn listed(lab: &Lab, source_name: Option<&str>, id: Option<&str>) -> Vec<(String, String, Kind)> {
    let filter = LatestFilter { source: source_name.map(source), name: id.map(str::to_owned), matchers: Vec::new() };
    let series = lab.latest(filter).await;
    series.iter().map(super::Series::order).map(|(source, id, kind)| (source.to_owned(), id.to_owned(), kind)).collect()
}

fn row(source: &str, id: &str, kind: Kind) -> (String, String, Kind) {
    (source.to_owned(), id.to_owned(), kind)
}

pub(crate) async fn an_empty_store_lists_nothing(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    assert_eq!(lab.series().await, []);
    assert_eq!(lab.store.sources().await.unwrap(), []);
    assert_eq!(lab.store.snapshot().await.unwrap(), super::super::Snapshot::default());
    lab.store.ping().await.unwrap();
}

pub(crate) async fn series_come_in_order(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    lab.put("b", vec![gauge("x", 1.0)]).await.unwrap();
    lab.put("B", vec![counter("é", 1), gauge("z", 1.0), counter("a_b", 1), gauge("aB", 1.0), counter("aB", 1)]).await.unwrap();
    lab.put("", vec![gauge("y", 1.0)]).await.unwrap();
    lab.put("a-1", vec![gauge("y", 1.0)]).await.unwrap();
    // The order is that of bytes, whatever the database's language.
    let expected = [
        row("", "y", Kind::Gauge),
        row("B", "aB", Kind::Gauge),
        row("B", "aB", Kind::Counter),
        row("B", "a_b", Kind::Counter),
        row("B", "z", Kind::Gauge),
        row("B", "é", Kind::Counter),
        row("a-1", "y", Kind::Gauge),
        row("b", "x", Kind::Gauge),
    ];
    assert_eq!(listed(&lab, None, None).await, expected);
    let names: Vec<_> = lab.store.sources().await.unwrap().into_iter().map(|info| info.name.to_string()).collect();
    assert_eq!(names, ["", "B", "a-1", "b"]);
}

pub(crate) async fn series_are_filtered_by_source(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    for name in ["", "a", "ab"] {
        lab.put(name, vec![gauge("g", 1.0)]).await.unwrap();
    }
    for name in ["", "a", "ab"] {
        assert_eq!(listed(&lab, Some(name), None).await, [row(name, "g", Kind::Gauge)]);
    }
    assert_eq!(listed(&lab, Some("unseen"), None).await, []);
}

pub(crate) async fn series_are_filtered_by_name(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    let ids = ["up", "up{a=\"1\"}", "up{a=\"2\"}", "up_", "upper", "up{", "100%", "100_"];
    lab.put("a", ids.map(|id| gauge(id, 1.0)).into()).await.unwrap();
    lab.put("b", vec![counter("up", 1)]).await.unwrap();
    let expected = [
        row("a", "up", Kind::Gauge),
        row("a", "up{a=\"1\"}", Kind::Gauge),
        row("a", "up{a=\"2\"}", Kind::Gauge),
        row("b", "up", Kind::Counter),
    ];
    assert_eq!(listed(&lab, None, Some("up")).await, expected);
    assert_eq!(listed(&lab, Some("b"), Some("up")).await, expected[3..]);
    assert_eq!(listed(&lab, None, Some("up{a=\"2\"}")).await, expected[2..3]);
    assert_eq!(listed(&lab, None, Some("up{")).await, [row("a", "up{", Kind::Gauge)]);
    assert_eq!(listed(&lab, None, Some("100%")).await, [row("a", "100%", Kind::Gauge)], "no pattern");
    assert_eq!(listed(&lab, None, Some("100_")).await, [row("a", "100_", Kind::Gauge)], "no pattern");
    assert_eq!(listed(&lab, None, Some("u")).await, []);
}

pub(crate) async fn a_listing_comes_in_pages(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    for (source, series) in [("c", 2_345), ("a", 1_000), ("b", 3)] {
        let metrics = (0..series).map(|n| gauge(&format!("g{{n=\"{n:04}\"}}"), f64::from(n)));
        lab.put(source, metrics.collect()).await.unwrap();
    }
    lab.put("b", vec![counter("g{n=\"0001\"}", 1)]).await.unwrap();
    let all = lab.series().await;
    assert_eq!(all.len(), 3_349);
    assert!(all.is_sorted_by(|one, next| one.order() < next.order()));
    let mut pages = lab.store.latest(LatestFilter::default()).await.unwrap();
    let first = pages.next_page().await.unwrap();
    assert_eq!(first, all[..first.len()]);
    // What changes while a listing is read is seen or not; what stays is listed once.
    lab.put("a", vec![gauge("new", 1.0)]).await.unwrap();
    let mut rest = Vec::new();
    loop {
        let page = pages.next_page().await.unwrap();
        if page.is_empty() {
            break;
        }
        rest.extend(page);
    }
    rest.retain(|series| series.id.as_str() != "new");
    assert_eq!(rest, all[first.len()..]);
}

pub(crate) async fn the_longest_ids_come_back(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    let longest = golectra_protocol::MAX_ID_BYTES;
    let plain = "x".repeat(longest);
    let tail = "é".repeat((longest - 8) / 2);
    let labelled = format!("m{{k=\"{tail}\"}}");
    let twin = format!("m{{k=\"{}e\"}}", &tail[..tail.len() - 2]);
    for _ in 0..2 {
        lab.put("a", [&plain, &labelled, &twin].map(|id| counter(id, 1)).into()).await.unwrap();
    }
    for id in [&plain, &labelled, &twin] {
        assert_eq!(lab.counter(id).await, Some(2), "{} bytes", id.len());
    }
    let mut sorted = [&plain, &labelled, &twin].map(|id| row("a", name(id).as_str(), Kind::Counter));
    sorted.sort();
    assert_eq!(listed(&lab, None, None).await, sorted);
}

pub(crate) async fn ids_of_every_kind_come_back(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    let longest = "é".repeat(golectra_protocol::MAX_ID_BYTES / 2);
    let ids = [
        "plain",
        "it's \"quoted\" \\ `so`",
        "<script>alert(1)</script>&amp;",
        "100% %s %00 $1 ? :a",
        "'; DROP TABLE series; --",
        "{a,b,NULL}",
        "NULL",
        " ",
        "температура °C 🦀 ﷽",
        "t{room=\"a\\\"b\\\\\",zone=\"ü\"}",
        "a/b?c=d#e",
        "{\"a.b\",\"k.l\"=\"v\"}",
        "m{a=\"\u{1}\t\\n\"}",
        &longest,
    ];
    lab.put("a", ids.iter().map(|id| counter(id, 1)).collect()).await.unwrap();
    lab.put("a", ids.iter().map(|id| counter(id, 1)).collect()).await.unwrap();
    for id in ids {
        assert_eq!(lab.counter(id).await, Some(2), "{id}");
    }
    let mut sorted = ids.map(|id| row("a", name(id).as_str(), Kind::Counter));
    sorted.sort();
    assert_eq!(listed(&lab, None, None).await, sorted);
    assert_eq!(lab.store.snapshot().await.unwrap().counters.len(), ids.len());
}

pub(crate) async fn the_unnamed_source_is_a_source(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    lab.put("", vec![gauge("g", 1.0), gauge("h", 1.0)]).await.unwrap();
    let sources = lab.store.sources().await.unwrap();
    assert_eq!(sources.len(), 1);
    assert!(sources[0].name.is_unnamed());
    assert_eq!(sources[0].series, 2);
}

pub(crate) async fn sources_tell_when_they_were_seen(make: &impl AsyncFn(Setup) -> Option<Made>) {
    // A database may tell arrivals by its own clock, which is near the machine's.
    let Some(lab) = Lab::with(make, Setup { clock: Clock::System, ..Setup::default() }).await else { return };
    let slack = 5_000;
    lab.put_at("a", lab.now - 60_000, vec![gauge("g", 1.0)]).await.unwrap();
    let first = lab.store.sources().await.unwrap().remove(0);
    assert!(first.first_seen_millis.abs_diff(Clock::System.unix_millis()) < slack, "arrival counts, not the batch's time: {first:?}");
    assert!(first.last_seen_millis.abs_diff(first.first_seen_millis) < slack, "{first:?}");
    while Clock::System.unix_millis() <= first.last_seen_millis + 1 {
        tokio::task::yield_now().await;
    }
    lab.put_at("a", lab.now - 120_000, vec![gauge("g", 1.0), gauge("h", 1.0)]).await.unwrap();
    lab.put("b", vec![gauge("g", 1.0)]).await.unwrap();
    let sources = lab.store.sources().await.unwrap();
    assert_eq!(sources[0].first_seen_millis, first.first_seen_millis);
    assert!(sources[0].last_seen_millis > first.last_seen_millis, "{sources:?}");
    assert_eq!((sources[0].series, sources[1].series), (2, 1));
}

pub(crate) async fn series_tell_their_time(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    lab.put_at("a", lab.now - 5_000, vec![gauge("g", 1.5), counter("c", 1)]).await.unwrap();
    lab.put_at("a", lab.now - 3_000, vec![counter("c", 2)]).await.unwrap();
    let series: Vec<_> = lab.series().await.into_iter().map(|one| (one.value, one.at_millis)).collect();
    assert_eq!(series, [(Value::Counter(3), lab.now - 3_000), (Value::Gauge(1.5), lab.now - 5_000)]);
}
