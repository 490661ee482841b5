use proptest::prelude::*;

use super::*;

fn rows(file: &str) -> Result<Vec<SnapshotRow>, String> {
    let mut rows = Vec::new();
    let read = read(file.as_bytes(), |row| {
        rows.push(row);
        Ok(())
    });
    read.map(|()| rows).map_err(|error| error.to_string())
}

fn row(source: &str, id: &str, value: Value, at_millis: Option<u64>) -> SnapshotRow {
    let metric = Metric { id: MetricId::parse(id).unwrap(), value };
    SnapshotRow { source: Source::from_stored(source).unwrap(), metric, at_millis, retired: false }
}

fn written(rows: &[SnapshotRow]) -> String {
    let mut out = SnapshotWriter::new(Vec::new());
    for row in rows {
        out.row(&row.source, row.metric.id.as_str(), row.metric.value, row.at_millis.unwrap_or(0)).unwrap();
    }
    String::from_utf8(out.finish().unwrap()).unwrap()
}

#[test]
fn golden_bytes() {
    let all = [row("", "Alloc", Value::Gauge(-0.0), Some(5)), row("node-1", "t{room=\"a\"}", Value::Counter(7), Some(1_700_000_000_123))];
    let golden = "[\n{\"id\":\"Alloc\",\"type\":\"gauge\",\"value\":-0.0,\"at\":5},\n\
        {\"id\":\"t{room=\\\"a\\\"}\",\"type\":\"counter\",\"delta\":7,\"source\":\"node-1\",\"at\":1700000000123}\n]\n";
    assert_eq!(written(&all), golden);
    assert_eq!(rows(golden).unwrap(), all);
    assert_eq!(written(&[]), "[]\n");
}

#[test]
fn the_originals_files_are_read() {
    let file = r#"[{"ID":"Alloc","Type":"gauge","Value":1.5},{"id":"PollCount","type":"counter","delta":5,"value":null,"more":[{}]}]"#;
    assert_eq!(rows(file).unwrap(), [row("", "Alloc", Value::Gauge(1.5), None), row("", "PollCount", Value::Counter(5), None)]);
    assert_eq!(rows("null\n").unwrap(), []);
    assert_eq!(rows(" [] ").unwrap(), []);
}

#[test]
fn what_is_no_snapshot_is_refused_and_the_item_named() {
    for (file, words) in [
        ("", "EOF"),
        ("{}", "expected an array of metric objects"),
        ("[", "EOF"),
        (r#"[{"id":"a","type":"gauge","value":1}"#, "EOF"),
        (r#"[{"id":"a","type":"gauge","value":1}]]"#, "trailing"),
        (r#"[{"id":"a","type":"gauge","value":1},{"id":"b","type":"gauge"}]"#, "item 1: a gauge needs"),
        (r#"[{"id":"a","type":"counter","delta":-1}]"#, "item 0: "),
        (r#"[{"id":"a","type":"counter","delta":1,"source":"a b"}]"#, "item 0: a source is"),
        (r#"[{"id":"","type":"counter","delta":1}]"#, "item 0: a metric's id"),
        ("\0\0\0\0", "expected"),
    ] {
        let error = rows(file).unwrap_err();
        assert!(error.contains(words), "{file}: {error}");
    }
}

#[test]
fn what_was_written_may_be_edited_anywhere() {
    let all: Vec<_> = (0..4).map(|i| row("a", &format!("m{i}"), Value::Counter(i), Some(5))).collect();
    let file = written(&all);
    for (from, to) in [
        ("{\"id\":\"m2\",", "{ \"id\" : \"m2\",\n  "),
        ("},\n", "}\n,\n"),
        ("},\n", "},"),
        ("[\n", "["),
        ("\n]\n", "]"),
        ("\"id\":\"m1\"", "\"\\u0069d\":\"\\u006d1\""),
    ] {
        assert!(file.contains(from), "{from}");
        assert_eq!(rows(&file.replace(from, to)).unwrap(), all, "{from:?} to {to:?}");
        assert_eq!(rows(&file.replacen(from, to, 1)).unwrap(), all, "the first {from:?} to {to:?}");
    }
    for (from, to, words) in [
        ("}\n]", "},\n]", "item 4: there is none behind the comma"),
        ("},\n{\"id\":\"m3\"", "}{\"id\":\"m3\"", "expected"),
        ("\"delta\":1,", "\"delta\":-1,", "item 1: "),
        ("\"delta\":3,", "\"delta\":-1,", "item 3: "),
        ("\"at\":5},\n{\"id\":\"m3\"", "\"at\":\"5\"},\n{\"id\":\"m3\"", "at line 4 column"),
        ("\"delta\":3", "\"delta\":x", "at line 5 column"),
    ] {
        assert!(file.contains(from), "{from}");
        let error = rows(&file.replace(from, to)).unwrap_err();
        assert!(error.contains(words), "{to:?}: {error}");
    }
}

prop_compose! {
    fn any_row()(
        source in "[a-zA-Z0-9._-]{0,12}", id in "[^\\p{Cc}]{1,60}", bits in any::<u64>(), total in 0..=i64::MAX,
        counts in any::<bool>(), at_millis in any::<u64>(),
    ) -> SnapshotRow {
        let value = f64::from_bits(bits);
        row(&source, &id, if counts || !value.is_finite() { Value::Counter(total) } else { Value::Gauge(value) }, Some(at_millis))
    }
}

proptest! {
    #[test]
    fn every_row_comes_back_bit_for_bit(all in proptest::collection::vec(any_row(), 0..20)) {
        let back = rows(&written(&all)).unwrap();
        for (sent, read) in all.iter().zip(&back) {
            if let (Value::Gauge(a), Value::Gauge(b)) = (sent.metric.value, read.metric.value) {
                prop_assert_eq!(a.to_bits(), b.to_bits());
            }
        }
        prop_assert_eq!(back, all);
    }

    #[test]
    fn no_cut_goes_unnoticed(all in proptest::collection::vec(any_row(), 1..5), at in any::<prop::sample::Index>()) {
        let file = written(&all);
        let mut cut = at.index(file.trim_end().len());
        while !file.is_char_boundary(cut) { cut -= 1; }
        prop_assert!(rows(&file[..cut]).is_err());
    }
}
