//! Series are selected by their labels.

use golectra_promql::{MatchOp, Matcher};

use super::{Lab, LatestFilter, Made, Setup, counter, gauge};

/// The sources and ids of the series that match, in order.
async fn selected(lab: &Lab, matchers: &[(&str, MatchOp, &str)]) -> Vec<String> {
    let matchers = matchers.iter().map(|(label, op, value)| Matcher::new(*op, label, value).unwrap());
    let series = lab.latest(LatestFilter { matchers: matchers.collect(), ..LatestFilter::default() }).await;
    series.into_iter().map(|one| format!("{} {}", one.source, one.id)).collect()
}

pub(crate) async fn matchers_select_series(make: &impl AsyncFn(Setup) -> Option<Made>) {
    use MatchOp::{Equal, Match, NotEqual, NotMatch};
    let Some(lab) = Lab::new(make).await else { return };
    for source in ["n1", "n2"] {
        let pods = ["web-1", "web-2", "db-1"]
            .into_iter()
            .flat_map(|pod| [gauge(&format!("mem{{ns=\"a\",pod=\"{pod}\"}}"), 1.0), counter(&format!("oom{{ns=\"a\",pod=\"{pod}\"}}"), 1)]);
        lab.put(source, pods.chain([gauge("mem", 1.0), gauge("load{ns=\"b\"}", 1.0), gauge("memory{pod=\"web-1\"}", 1.0)]).collect())
            .await
            .unwrap();
    }
    let mem = |source: &str, pods: &[&str]| pods.iter().map(|pod| format!("{source} mem{{ns=\"a\",pod=\"{pod}\"}}")).collect::<Vec<_>>();
    assert_eq!(
        selected(&lab, &[("__name__", Equal, "mem"), ("pod", Equal, "web-1")]).await,
        [mem("n1", &["web-1"]), mem("n2", &["web-1"])].concat()
    );
    assert_eq!(
        selected(&lab, &[("__name__", Equal, "mem"), ("pod", Match, "web-.*"), ("instance", Equal, "n2")]).await,
        mem("n2", &["web-1", "web-2"])
    );
    assert_eq!(
        selected(&lab, &[("__name__", Equal, "mem"), ("pod", Match, "db-1|web-2"), ("instance", NotEqual, "n2")]).await,
        mem("n1", &["db-1", "web-2"])
    );
    assert_eq!(
        selected(&lab, &[("__name__", Equal, "mem"), ("pod", NotEqual, ""), ("pod", NotMatch, "web.*"), ("instance", Match, "n1")]).await,
        mem("n1", &["db-1"])
    );
    assert_eq!(selected(&lab, &[("__name__", Equal, "mem"), ("pod", Equal, "")]).await, ["n1 mem", "n2 mem"]);
    assert_eq!(selected(&lab, &[("__name__", Match, "mem.+"), ("instance", Equal, "n1")]).await, ["n1 memory{pod=\"web-1\"}"]);
    assert_eq!(selected(&lab, &[("ns", Equal, "b")]).await, ["n1 load{ns=\"b\"}", "n2 load{ns=\"b\"}"]);
    assert_eq!(
        selected(&lab, &[("ns", Match, "a|c"), ("__name__", NotEqual, "mem"), ("instance", Equal, "n1"), ("pod", Match, "w.*1")]).await,
        ["n1 oom{ns=\"a\",pod=\"web-1\"}"]
    );
    assert_eq!(selected(&lab, &[("ns", NotEqual, "a"), ("pod", NotMatch, "web.*")]).await.len(), 4);
    assert_eq!(selected(&lab, &[]).await.len(), 18);
}

pub(crate) async fn a_matcher_that_nothing_has_selects_nothing(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    lab.put("a", vec![gauge("m{l=\"v\"}", 1.0)]).await.unwrap();
    for (label, op, value) in [
        ("__name__", MatchOp::Equal, "other"),
        ("l", MatchOp::Equal, "other"),
        ("l", MatchOp::Match, "o.*"),
        ("other", MatchOp::Match, ".+"),
        ("instance", MatchOp::Equal, "b"),
        ("l", MatchOp::Equal, ""),
        ("l", MatchOp::Equal, "\0"),
    ] {
        assert_eq!(selected(&lab, &[("__name__", MatchOp::Equal, "m"), (label, op, value)]).await, [""; 0], "{label} {op:?} {value}");
    }
}

pub(crate) async fn names_of_every_kind_are_matched(make: &impl AsyncFn(Setup) -> Option<Made>) {
    use MatchOp::{Equal, Match, NotEqual, NotMatch};
    let Some(lab) = Lab::new(make).await else { return };
    let ids = ["a", "a{l=\"1\"}", "a{b}", "a{", "ab{l=\"1\"}", "{\"a.b\",l=\"1\"}", "a.b", "{\"a{l=\\\"1\\\"}\"}", "b:c{\"k.l\"=\"1\"}"];
    lab.put("n", ids.map(|id| gauge(id, 1.0)).into()).await.unwrap();
    lab.put("n", vec![counter("a", 1), counter("a{l=\"1\"}", 1)]).await.unwrap();
    let named = async |op, value| selected(&lab, &[("__name__", op, value)]).await;
    let of = |ids: &[&str]| ids.iter().map(|id| format!("n {id}")).collect::<Vec<_>>();
    let plain = of(&["a", "a", "a{l=\"1\"}", "a{l=\"1\"}"]);
    assert_eq!(named(Equal, "a").await, plain, "gauges and counters");
    assert_eq!(named(Match, "a").await, plain);
    assert_eq!(named(Match, "a|a|none").await, plain, "each once");
    assert_eq!(named(Equal, "a{b}").await, of(&["a{b}"]), "an id that does not parse is its name");
    assert_eq!(named(Match, "a\\{b?\\}?").await, of(&["a{", "a{b}"]));
    assert_eq!(named(Equal, "a.b").await, of(&["a.b", "{\"a.b\",l=\"1\"}"]));
    assert_eq!(named(Match, "a.b").await, of(&["a.b", "{\"a.b\",l=\"1\"}"]));
    assert_eq!(named(Equal, "a{l=\"1\"}").await, of(&["{\"a{l=\\\"1\\\"}\"}"]), "a name that looks like one with labels");
    assert_eq!(named(Match, "a.+").await.len(), 6);
    assert_eq!(named(NotMatch, "a.*").await, of(&["b:c{\"k.l\"=\"1\"}"]));
    assert_eq!(named(NotEqual, "a").await.len(), 7);
    assert_eq!(named(Equal, "").await, [""; 0]);
    assert_eq!(selected(&lab, &[("k.l", Equal, "1")]).await, of(&["b:c{\"k.l\"=\"1\"}"]));
    assert_eq!(selected(&lab, &[("__name__", Match, "a|ab"), ("l", Equal, "1"), ("__name__", NotEqual, "a")]).await, of(&["ab{l=\"1\"}"]));
}

pub(crate) async fn an_instance_of_its_own_comes_before_the_source(make: &impl AsyncFn(Setup) -> Option<Made>) {
    use MatchOp::{Equal, Match, NotEqual};
    let Some(lab) = Lab::new(make).await else { return };
    lab.put("n1", vec![gauge("up{instance=\"n2\"}", 1.0), gauge("up", 1.0)]).await.unwrap();
    lab.put("n2", vec![gauge("up", 1.0)]).await.unwrap();
    lab.put("", vec![gauge("up", 1.0), gauge("up{instance=\"n3\"}", 1.0)]).await.unwrap();
    assert_eq!(selected(&lab, &[("instance", Equal, "n2")]).await, ["n1 up{instance=\"n2\"}", "n2 up"]);
    assert_eq!(selected(&lab, &[("instance", Equal, "n1")]).await, ["n1 up"]);
    assert_eq!(selected(&lab, &[("instance", Equal, "")]).await, [" up"]);
    assert_eq!(selected(&lab, &[("instance", Match, "n3|n1"), ("__name__", Equal, "up")]).await, [" up{instance=\"n3\"}", "n1 up"]);
    assert_eq!(selected(&lab, &[("instance", NotEqual, "n2")]).await, [" up", " up{instance=\"n3\"}", "n1 up"]);
}

pub(crate) async fn values_with_escapes_are_matched(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    let values = ["a\"b", "a\\b", "a\nb", "a,b=\"c\"", "é", "1"];
    for value in values {
        let id = golectra_protocol::MetricId::from_parts("m", [("l", value), ("z", "1")]).unwrap();
        lab.put("a", vec![gauge(id.as_str(), 1.0)]).await.unwrap();
    }
    for value in values {
        assert_eq!(selected(&lab, &[("l", MatchOp::Equal, value)]).await.len(), 1, "{value:?}");
        assert_eq!(selected(&lab, &[("__name__", MatchOp::Equal, "m"), ("l", MatchOp::NotEqual, value)]).await.len(), 5, "{value:?}");
    }
    assert_eq!(selected(&lab, &[("l", MatchOp::Match, "a.b")]).await.len(), 3);
}
