//! Series are selected by their labels.

use super::{Lab, LatestFilter, Made, Setup, counter, gauge};
use crate::store::matcher::{MatchOp, Matcher};

/// The sources and ids of the series that match, in order.
async fn selected(lab: &Lab, matchers: &[(&str, MatchOp, &str)]) -> Vec<String> {
    let matchers = matchers.iter().map(|(label, op, value)| Matcher::new(*label, *op, *value).unwrap());
    let series = lab.latest(LatestFilter { matchers: matchers.collect(), ..LatestFilter::default() }).await;
    series.into_iter().map(|one| format!("{} {}", one.source, one.id)).collect()
}

pub(crate) async fn matchers_select_series(make: &impl AsyncFn(Setup) -> Option<Made>) {
    use MatchOp::{Equal, NotEqual, NotRegex, Regex};
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
        selected(&lab, &[("__name__", Equal, "mem"), ("pod", Regex, "web-.*"), ("instance", Equal, "n2")]).await,
        mem("n2", &["web-1", "web-2"])
    );
    assert_eq!(
        selected(&lab, &[("__name__", Equal, "mem"), ("pod", Regex, "db-1|web-2"), ("instance", NotEqual, "n2")]).await,
        mem("n1", &["db-1", "web-2"])
    );
    assert_eq!(
        selected(&lab, &[("__name__", Equal, "mem"), ("pod", NotEqual, ""), ("pod", NotRegex, "web.*"), ("instance", Regex, "n1")]).await,
        mem("n1", &["db-1"])
    );
    assert_eq!(selected(&lab, &[("__name__", Equal, "mem"), ("pod", Equal, "")]).await, ["n1 mem", "n2 mem"]);
    assert_eq!(selected(&lab, &[("__name__", Regex, "mem.+"), ("instance", Equal, "n1")]).await, ["n1 memory{pod=\"web-1\"}"]);
    assert_eq!(selected(&lab, &[("ns", Equal, "b")]).await, ["n1 load{ns=\"b\"}", "n2 load{ns=\"b\"}"]);
    assert_eq!(
        selected(&lab, &[("ns", Regex, "a|c"), ("__name__", NotEqual, "mem"), ("instance", Equal, "n1"), ("pod", Regex, "w.*1")]).await,
        ["n1 oom{ns=\"a\",pod=\"web-1\"}"]
    );
    assert_eq!(selected(&lab, &[("ns", NotEqual, "a"), ("pod", NotRegex, "web.*")]).await.len(), 4);
    assert_eq!(selected(&lab, &[]).await.len(), 18);
}

pub(crate) async fn a_matcher_that_nothing_has_selects_nothing(make: &impl AsyncFn(Setup) -> Option<Made>) {
    let Some(lab) = Lab::new(make).await else { return };
    lab.put("a", vec![gauge("m{l=\"v\"}", 1.0)]).await.unwrap();
    for (label, op, value) in [
        ("__name__", MatchOp::Equal, "other"),
        ("l", MatchOp::Equal, "other"),
        ("l", MatchOp::Regex, "o.*"),
        ("other", MatchOp::Regex, ".+"),
        ("instance", MatchOp::Equal, "b"),
        ("l", MatchOp::Equal, ""),
        ("l", MatchOp::Equal, "\0"),
    ] {
        assert_eq!(selected(&lab, &[("__name__", MatchOp::Equal, "m"), (label, op, value)]).await, [""; 0], "{label} {op:?} {value}");
    }
}
