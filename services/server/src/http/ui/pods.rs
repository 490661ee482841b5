//! GET /pods: the pods by namespace and node, with their use against requests and limits.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use golectra_promql::{Labels, METRIC_NAME};

use super::ask::{self, Sample};
use super::format::{bytes, grouped, quantity, three_digits};
use super::node::Fact;
use super::panels::{Unit, quoted};
use super::problems::{CRASH_LOOP, CRITICAL_FROM, WARN_FROM};
use super::rows::Meter;
use super::shell::{MAX_SHOWN, Parameters, Shell, encode, page, parameters};
use crate::clock::rfc3339;
use crate::history::labels::SOURCE_LABEL;
use crate::history::query::QueryError;
use crate::http::error::TextError;
use crate::http::{App, AppState};

/// `$of` stands for matchers, see [`matching`]. Of a pod whose containers the runtime does not tell one by one there are series without a container; other
/// programs have such series of every pod, one of the whole pod and one of its pause container.
const CPU: &str = r#"sum by (instance, namespace, pod) (rate(container_cpu_usage_seconds_total{pod!="",container!="",$of}[2m])) or max by (instance, namespace, pod) (rate(container_cpu_usage_seconds_total{pod!="",container="",$of}[2m]))"#;
const MEMORY: &str = r#"sum by (instance, namespace, pod) (container_memory_working_set_bytes{pod!="",container!="",$of}) or max by (instance, namespace, pod) (container_memory_working_set_bytes{pod!="",container="",$of})"#;
/// What several programs report of a container counts once.
const RESOURCES: &str = r#"sum by (__name__, namespace, pod, resource) (max by (__name__, namespace, pod, container, resource) ({__name__=~"kube_pod_container_resource_(requests|limits)",resource=~"cpu|memory",$of}))"#;
/// Sidecars that Kubernetes knows as such are init containers.
const RESTARTS: &str = "sum by (namespace, pod) (max by (namespace, pod, container) (kube_pod_container_status_restarts_total{$of}) or max by (namespace, pod, container) (kube_pod_init_container_status_restarts_total{$of}))";
const RECENT_RESTARTS: &str = "sum by (namespace, pod) (max by (namespace, pod, container) (increase(kube_pod_container_status_restarts_total{$of}[1h])) or max by (namespace, pod, container) (increase(kube_pod_init_container_status_restarts_total{$of}[1h])))";
/// Without what is told of former pods of the same name: those whose uid is not the one that was reported last.
const INFO: &str = r#"{__name__=~"kube_pod_info|kube_pod_status_phase|kube_pod_container_status_last_terminated_reason|kube_pod_init_container_status_last_terminated_reason",$of} > 0 unless on (namespace, pod, uid) (kube_pod_info{uid!="",$of} unless on (namespace, pod, uid) topk by (namespace, pod) (1, timestamp(kube_pod_info{uid!="",$of})))"#;

const COLUMNS: [(&str, &str); 7] = [
    ("pod", "Pod"),
    ("node", "Node"),
    ("phase", "State"),
    ("cpu", "CPU, cores"),
    ("memory", "Memory"),
    ("restarts", "Restarts"),
    ("recent", "1 h"),
];

#[derive(Template)]
#[template(path = "pods.html")]
struct PodsPage {
    shell: Shell,
    columns: Vec<Column>,
    rows: Vec<Row>,
    found: usize,
    all: usize,
    namespaces: Vec<Choice>,
    nodes: Vec<Choice>,
    find: String,
    sort: String,
    missing: Vec<String>,
    hint: Option<&'static str>,
    now: String,
}

struct Column {
    name: &'static str,
    title: &'static str,
    link: String,
    sorted: &'static str,
}

struct Choice {
    name: String,
    chosen: bool,
}

struct Row {
    namespace: String,
    name: String,
    link: String,
    node: String,
    node_link: String,
    /// The class of its dot, and that in words.
    state: &'static str,
    state_text: &'static str,
    phase: String,
    reason: String,
    cpu: String,
    cpu_share: Option<Meter>,
    memory: String,
    memory_share: Option<Meter>,
    restarts: String,
    recent: String,
}

/// What is known of a pod.
#[derive(Debug, Default)]
struct Pod {
    node: String,
    phase: String,
    reason: String,
    cpu: Option<f64>,
    memory: Option<f64>,
    /// Requests and limits, of CPU and of memory.
    cpu_request: Option<f64>,
    cpu_limit: Option<f64>,
    memory_request: Option<f64>,
    memory_limit: Option<f64>,
    restarts: Option<f64>,
    recent: f64,
}

impl Pod {
    /// Its use against its limit, or its request where it has no limit.
    fn share(used: Option<f64>, limit: Option<f64>, request: Option<f64>) -> Option<f64> {
        Some(used? / limit.or(request).filter(|bound| *bound > 0.0)?)
    }

    /// Worst first.
    fn state(&self) -> u8 {
        let memory = Self::share(self.memory, self.memory_limit, None).unwrap_or_default();
        match self.phase.as_str() {
            "Failed" | "Unknown" => 0,
            _ if self.recent >= CRASH_LOOP || memory >= CRITICAL_FROM => 0,
            "Pending" => 1,
            _ if self.recent >= 1.0 || memory >= WARN_FROM => 1,
            _ => 2,
        }
    }
}

type Pods = BTreeMap<(String, String), Pod>;

/// GET /pods?namespace=&node=&find=&sort=.
pub async fn pods(State(state): State<AppState>, query: Parameters) -> Result<Response, TextError> {
    let query = parameters(query)?;
    let given = |name: &str| query.get(name).cloned().unwrap_or_default();
    let (pods, missing) = read(&state, "").await;
    let (namespace, node, find, sort) = (given("namespace"), given("node"), given("find"), given("sort"));
    let namespaces: BTreeSet<_> = pods.keys().map(|(namespace, _)| namespace.clone()).collect();
    let nodes: BTreeSet<_> = pods.values().map(|pod| pod.node.clone()).filter(|node| !node.is_empty()).collect();
    let text = find.to_lowercase();
    let mut found: Vec<_> = pods
        .iter()
        .filter(|((of, name), pod)| {
            (namespace.is_empty() || *of == namespace)
                && (node.is_empty() || pod.node == node)
                && format!("{of}/{name}").to_lowercase().contains(&text)
        })
        .collect();
    let (column, descending) = sort.strip_prefix('-').map_or((sort.as_str(), false), |column| (column, true));
    found.sort_by(|a, b| {
        let order = compare(column, a.1, b.1).then_with(|| a.0.cmp(b.0));
        if descending { order.reverse() } else { order }
    });
    let knows_states = pods.values().any(|pod| !pod.phase.is_empty() || pod.restarts.is_some());
    let hint = (!pods.is_empty() && !knows_states).then_some(
        "States, restarts, requests and limits are not visible: the agents may not read them. The chart's value agent.pods.details=true shows them.",
    );
    let choices = |names: BTreeSet<String>, chosen: &str| names.into_iter().map(|name| Choice { chosen: name == chosen, name }).collect();
    let now = u64::try_from(state.process.now_ms()).unwrap_or_default();
    page(&PodsPage {
        shell: Shell::new(&state, "Pods", "pods"),
        columns: columns(&query, column, descending),
        rows: found.iter().take(MAX_SHOWN).map(|((namespace, name), pod)| Row::new(namespace, name, pod)).collect(),
        found: found.len(),
        all: pods.len(),
        namespaces: choices(namespaces, &namespace),
        nodes: choices(nodes, &node),
        find,
        sort: sort.clone(),
        missing,
        hint,
        now: rfc3339(now),
    })
}

fn compare(column: &str, a: &Pod, b: &Pod) -> Ordering {
    let number = |key: fn(&Pod) -> Option<f64>| key(a).unwrap_or(-1.0).total_cmp(&key(b).unwrap_or(-1.0));
    match column {
        "pod" => Ordering::Equal,
        "node" => a.node.cmp(&b.node),
        "phase" => a.phase.cmp(&b.phase),
        "cpu" => number(|pod| pod.cpu),
        "memory" => number(|pod| pod.memory),
        "restarts" => number(|pod| pod.restarts),
        "recent" => a.recent.total_cmp(&b.recent),
        _ => a.state().cmp(&b.state()).then_with(|| b.cpu.unwrap_or(-1.0).total_cmp(&a.cpu.unwrap_or(-1.0))),
    }
}

fn columns(query: &HashMap<String, String>, current: &str, descending: bool) -> Vec<Column> {
    let rest: String = ["namespace", "node", "find"]
        .iter()
        .filter_map(|name| query.get(*name).filter(|value| !value.is_empty()).map(|value| format!("&{name}={}", encode(value))))
        .collect();
    let column = |&(name, title): &(&'static str, &'static str)| {
        let is_current = name == current;
        let turns = if is_current { !descending } else { !matches!(name, "pod" | "node" | "phase") };
        let sorted = match (is_current, descending) {
            (true, true) => " aria-sort=\"descending\"",
            (true, false) => " aria-sort=\"ascending\"",
            _ => "",
        };
        Column { name, title, link: format!("/pods?sort={}{name}{rest}", if turns { "-" } else { "" }), sorted }
    };
    COLUMNS.iter().map(column).collect()
}

/// What there is to say about one pod: its node, and a title, a value and what belongs to it.
pub async fn facts(app: &App, namespace: &str, name: &str) -> (String, Vec<Fact>, Vec<String>) {
    let (mut pods, missing) = read(app, &format!("namespace={},pod={}", quoted(namespace), quoted(name))).await;
    let Some(pod) = pods.remove(&(namespace.to_owned(), name.to_owned())) else { return (String::new(), Vec::new(), missing) };
    let row = Row::new(namespace, name, &pod);
    let share = |meter: Option<Meter>| meter.map_or_else(String::new, |meter| meter.title);
    let mut facts = Vec::new();
    if !pod.phase.is_empty() {
        facts.push(("State", row.phase, if row.reason.is_empty() { String::new() } else { format!("ended before: {}", row.reason) }));
    }
    if let Some(cpu) = pod.cpu {
        facts.push(("CPU", quantity(cpu, Unit::Cores), share(row.cpu_share)));
    }
    if pod.memory.is_some() {
        facts.push(("Memory", row.memory, share(row.memory_share)));
    }
    if pod.restarts.is_some() {
        let recent = if row.recent.is_empty() { "none".to_owned() } else { row.recent };
        facts.push(("Restarts", row.restarts, format!("{recent} in the last hour")));
    }
    (pod.node, facts, missing)
}

async fn ask_of(app: &App, expr: &str, of: &str) -> Result<Vec<Sample>, QueryError> {
    ask::instant(app, &matching(expr, of)).await
}

/// The expression of the series with these labels. A kube-state-metrics or cAdvisor that is scraped with the labels of its own pod tells the pods that it is about
/// in `exported_pod`: its series are left out, since their label `pod` is its own.
fn matching(expr: &str, of: &str) -> String {
    expr.replace("$of", &format!(r#"exported_pod="",{of}"#))
}

/// Asks for everything of the pods with these labels, with a sentence for what can't be had.
async fn read(app: &App, of: &str) -> (Pods, Vec<String>) {
    let (info, cpu, memory, resources, restarts, recent) = tokio::join!(
        ask_of(app, INFO, of),
        ask_of(app, CPU, of),
        ask_of(app, MEMORY, of),
        ask_of(app, RESOURCES, of),
        ask_of(app, RESTARTS, of),
        ask_of(app, RECENT_RESTARTS, of)
    );
    filled(Answers { info, cpu, memory, resources, restarts, recent })
}

type Answer = Result<Vec<Sample>, QueryError>;

/// What the expressions gave.
struct Answers {
    info: Answer,
    cpu: Answer,
    memory: Answer,
    resources: Answer,
    restarts: Answer,
    recent: Answer,
}

fn filled(answers: Answers) -> (Pods, Vec<String>) {
    let (mut pods, mut missing) = (Pods::new(), Vec::new());
    let mut each = |what: &str, answer: Answer, fill: &dyn Fn(&mut Pod, &Labels, f64)| match answer {
        Ok(samples) => {
            for sample in samples {
                let (namespace, name) = (sample.labels.value("namespace"), sample.labels.value("pod"));
                if !name.is_empty() {
                    let pod = pods.entry((namespace.to_owned(), name.to_owned())).or_default();
                    fill(pod, &sample.labels, sample.value);
                }
            }
        }
        Err(error) => missing.push(ask::sentence(what, &error)),
    };
    // Two nodes may report a pod while it moves: that of its own node counts.
    let set = |slot: &mut Option<f64>, node: &mut String, labels: &Labels, value: f64| {
        let instance = labels.value(SOURCE_LABEL);
        if slot.is_none() || instance == *node {
            *slot = Some(value);
        }
        if node.is_empty() {
            instance.clone_into(node);
        }
    };
    each("States", answers.info, &|pod, labels, _| match labels.metric_name() {
        "kube_pod_info" => labels.value("node").clone_into(&mut pod.node),
        "kube_pod_status_phase" => labels.value("phase").clone_into(&mut pod.phase),
        // Why an init container ended counts where no other container did.
        "kube_pod_init_container_status_last_terminated_reason" if !pod.reason.is_empty() => {}
        _ => labels.value("reason").clone_into(&mut pod.reason),
    });
    each("CPU", answers.cpu, &|pod, labels, value| set(&mut pod.cpu, &mut pod.node, labels, value));
    each("Memory", answers.memory, &|pod, labels, value| set(&mut pod.memory, &mut pod.node, labels, value));
    each("Requests and limits", answers.resources, &|pod, labels, value| {
        let is_limit = labels.value(METRIC_NAME).ends_with("limits");
        let slot = match (labels.value("resource"), is_limit) {
            ("cpu", false) => &mut pod.cpu_request,
            ("cpu", true) => &mut pod.cpu_limit,
            (_, false) => &mut pod.memory_request,
            (_, true) => &mut pod.memory_limit,
        };
        *slot = Some(value);
    });
    each("Restarts", answers.restarts, &|pod, _, value| pod.restarts = Some(value));
    each("Restarts of the last hour", answers.recent, &|pod, _, value| pod.recent = value.round());
    (pods, missing)
}

impl Row {
    fn new(namespace: &str, name: &str, pod: &Pod) -> Self {
        let dash = || "–".to_owned();
        let against = |what: fn(f64) -> String, request: Option<f64>, limit: Option<f64>| {
            let part =
                |name: &str, value: Option<f64>| value.map_or_else(|| format!("no {name}"), |value| format!("{name} {}", what(value)));
            format!("{}, {}", part("request", request), part("limit", limit))
        };
        let meter = |share: Option<f64>, title: String, bounded: bool| {
            share.map(|share| {
                let mut meter = Meter::new(share, title);
                // Only a limit is something to stay below.
                if !bounded {
                    meter.class = "";
                }
                if share >= 10.0 {
                    meter.text = format!("×{share:.0}");
                }
                meter
            })
        };
        let cpu = Pod::share(pod.cpu, pod.cpu_limit, pod.cpu_request);
        let memory = Pod::share(pod.memory, pod.memory_limit, pod.memory_request);
        let (state, state_text) = match pod.state() {
            // Nothing is said of a pod of which nothing is known any more.
            _ if pod.phase.is_empty() && pod.cpu.is_none() && pod.memory.is_none() => ("", "nothing is known"),
            0 => ("crit", "critical"),
            1 => ("warn", "warning"),
            _ => ("ok", "no problem"),
        };
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            link: format!("/pod?namespace={}&name={}", encode(namespace), encode(name)),
            node: pod.node.clone(),
            node_link: format!("/node?name={}", encode(&pod.node)),
            state,
            state_text,
            phase: if pod.phase.is_empty() { dash() } else { pod.phase.clone() },
            reason: pod.reason.clone(),
            cpu: pod.cpu.map_or_else(dash, three_digits),
            cpu_share: meter(cpu, against(three_digits, pod.cpu_request, pod.cpu_limit), false),
            memory: pod.memory.map_or_else(dash, bytes),
            memory_share: meter(memory, against(bytes, pod.memory_request, pod.memory_limit), pod.memory_limit.is_some()),
            restarts: pod.restarts.map_or_else(dash, |restarts| grouped(format_args!("{restarts:.0}"))),
            recent: if pod.recent >= 1.0 { grouped(format_args!("{:.0}", pod.recent)) } else { String::new() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Fixture, NOW};
    use super::*;

    /// What is known of each pod of these series, with and without matchers.
    fn known(fixture: &Fixture) -> Pods {
        let of = |of: &str| {
            let answer = |expr: &str| Ok(fixture.now(&matching(expr, of)));
            filled(Answers {
                info: answer(INFO),
                cpu: answer(CPU),
                memory: answer(MEMORY),
                resources: answer(RESOURCES),
                restarts: answer(RESTARTS),
                recent: answer(RECENT_RESTARTS),
            })
        };
        let (pods, missing) = of("");
        assert_eq!(missing, [] as [String; 0]);
        assert_eq!(format!("{:?}", of(r#"namespace="shop""#).0), format!("{pods:?}"));
        pods
    }

    fn pod<'a>(pods: &'a Pods, name: &str) -> &'a Pod {
        &pods[&("shop".to_owned(), name.to_owned())]
    }

    #[test]
    fn a_pod_has_the_use_of_its_containers_or_else_its_own() {
        let mut fixture = Fixture::default();
        let mut add = |labels: &str, cores: f64, memory: f64| {
            let of = format!(r#"instance="n1",namespace="shop",{labels}"#);
            fixture.add(&format!("container_cpu_usage_seconds_total{{{of}}}"), 0..=NOW, |second| 1e3 + second * cores);
            fixture.add(&format!("container_memory_working_set_bytes{{{of}}}"), 0..=NOW, |_| memory);
        };
        add(r#"pod="cart",container="app""#, 0.5, 100.0);
        add(r#"pod="cart",container="side""#, 0.25, 10.0);
        // As cAdvisor has it beside the containers: the pod as a whole, and its pause container.
        add(r#"pod="cart",id="/pod""#, 4.0, 900.0);
        add(r#"pod="cart",id="/pod/pause""#, 0.001, 1.0);
        add(r#"pod="kata""#, 2.0, 500.0);
        add(r#"pod="gvisor",id="/pod""#, 1.0, 300.0);
        add(r#"pod="gvisor",id="/pod/pause""#, 0.001, 1.0);
        let pods = known(&fixture);
        for (name, cpu, memory) in [("cart", "0.750", "110"), ("kata", "2.000", "500"), ("gvisor", "1.000", "300")] {
            let pod = pod(&pods, name);
            let shown = (format!("{:.3}", pod.cpu.unwrap()), format!("{:.0}", pod.memory.unwrap()));
            assert_eq!((shown.0.as_str(), shown.1.as_str()), (cpu, memory), "{name}");
            assert_eq!(pod.node, "n1");
        }
    }

    #[test]
    fn a_pod_that_two_programs_report_counts_once() {
        let mut fixture = Fixture::default();
        for program in [r#"instance="n1",job="agent""#, r#"instance="ksm:8080",job="kube-state-metrics""#] {
            let of = format!(r#"{program},namespace="shop",pod="cart""#);
            for (container, cores) in [("app", 2.0), ("side", 1.0)] {
                let of = format!(r#"{of},container="{container}""#);
                fixture.add(&format!(r#"kube_pod_container_resource_limits{{{of},resource="cpu"}}"#), 0..=NOW, |_| cores);
                fixture.add(&format!(r#"kube_pod_container_resource_requests{{{of},resource="memory"}}"#), 0..=NOW, |_| 50.0);
                let restarts = format!("kube_pod_container_status_restarts_total{{{of}}}");
                fixture.add(&restarts, 0..=NOW, |second| if second < 300.0 { 0.0 } else { 2.0 });
            }
        }
        let pods = known(&fixture);
        let cart = pod(&pods, "cart");
        assert_eq!((cart.cpu_limit, cart.cpu_request), (Some(3.0), None));
        assert_eq!((cart.memory_limit, cart.memory_request), (None, Some(100.0)));
        assert_eq!((cart.restarts, Some(cart.recent)), (Some(4.0), Some(4.0)));
    }

    #[test]
    fn restarts_of_sidecars_count() {
        let mut fixture = Fixture::default();
        let mut add = |init: &str, labels: &str, reason: &str| {
            let of = format!(r#"instance="n1",{labels}"#);
            let restarts = format!("kube_pod_{init}container_status_restarts_total{{{of}}}");
            fixture.add(&restarts, 0..=NOW, |second| if second < 300.0 { 0.0 } else { 2.0 });
            let ended = format!(r#"kube_pod_{init}container_status_last_terminated_reason{{{of},reason="{reason}"}}"#);
            fixture.add(&ended, 0..=NOW, |_| 1.0);
        };
        // The sidecar comes after the other container by name, and before it.
        add("", r#"namespace="shop",pod="cart",container="app""#, "Error");
        add("init_", r#"namespace="shop",pod="cart",container="proxy""#, "OOMKilled");
        add("", r#"namespace="shop",pod="web",container="web""#, "Error");
        add("init_", r#"namespace="shop",pod="web",container="proxy""#, "OOMKilled");
        add("init_", r#"namespace="shop",pod="lone",container="proxy""#, "OOMKilled");
        // A kube-state-metrics that is scraped with the labels of its own pod.
        add("", r#"namespace="shop",pod="ksm",container="app",exported_namespace="shop",exported_pod="cart""#, "Error");
        let pods = known(&fixture);
        let shown = |name: &str| (pod(&pods, name).restarts, Some(pod(&pods, name).recent), pod(&pods, name).reason.as_str());
        assert_eq!(shown("cart"), (Some(4.0), Some(4.0), "Error"));
        assert_eq!(shown("web"), (Some(4.0), Some(4.0), "Error"));
        assert_eq!(shown("lone"), (Some(2.0), Some(2.0), "OOMKilled"));
        assert_eq!(pods.len(), 3, "{:?}", pods.keys());
    }

    #[test]
    fn of_a_pod_that_was_made_again_the_newer_one_counts() {
        let mut fixture = Fixture::default();
        let memory = r#"container_memory_working_set_bytes{namespace="shop",pod="db-0",container="app""#;
        // The newer one has the uid and the node that come first by name.
        for (uid, node, phase, seconds, used) in [("b", "n9", "Failed", 0..=NOW - 60, 900.0), ("a", "n1", "Running", NOW - 45..=NOW, 100.0)]
        {
            let of = format!(r#"instance="{node}",namespace="shop",pod="db-0",uid="{uid}""#);
            fixture.add(&format!(r#"kube_pod_info{{{of},node="{node}"}}"#), seconds.clone(), |_| 1.0);
            for known in ["Failed", "Running"] {
                let value = f64::from(u8::from(phase == known));
                fixture.add(&format!(r#"kube_pod_status_phase{{{of},phase="{known}"}}"#), seconds.clone(), |_| value);
            }
            fixture.add(&format!(r#"{memory},instance="{node}"}}"#), seconds, |_| used);
        }
        // Programs that tell no uid, or no more than a state.
        fixture.add(r#"kube_pod_info{namespace="shop",pod="web",node="n2"}"#, 0..=NOW, |_| 1.0);
        fixture.add(r#"kube_pod_status_phase{namespace="shop",pod="web",phase="Running"}"#, 0..=NOW, |_| 1.0);
        fixture.add(r#"kube_pod_status_phase{namespace="shop",pod="lone",phase="Pending",uid="c"}"#, 0..=NOW, |_| 1.0);
        let pods = known(&fixture);
        let shown = |name: &str| (pod(&pods, name).node.as_str(), pod(&pods, name).phase.as_str());
        assert_eq!([shown("db-0"), shown("web"), shown("lone")], [("n1", "Running"), ("n2", "Running"), ("", "Pending")]);
        assert_eq!(pod(&pods, "db-0").memory, Some(100.0));
    }

    #[test]
    fn a_chosen_name_is_sent_as_it_is() {
        let choice = |name: &str| Choice { name: name.to_owned(), chosen: true };
        let page = PodsPage {
            shell: Shell::bare("t", "pods"),
            columns: Vec::new(),
            rows: Vec::new(),
            found: 0,
            all: 0,
            namespaces: vec![choice("a  b")],
            nodes: vec![choice(" c")],
            find: String::new(),
            sort: String::new(),
            missing: Vec::new(),
            hint: None,
            now: rfc3339(0),
        };
        let html = page.render().unwrap();
        // Without its value an option stands for its text with single spaces.
        for option in [r#"<option value="a  b" selected>a  b</option>"#, r#"<option value=" c" selected> c</option>"#] {
            assert!(html.contains(option), "{html}");
        }
    }

    #[test]
    fn every_expression_is_valid_with_and_without_matchers() {
        use golectra_promql::Query;
        use golectra_promql::parse::ParseLimits;
        for expr in [CPU, MEMORY, RESOURCES, RESTARTS, RECENT_RESTARTS, INFO] {
            for of in ["", r#"namespace="a",pod="b""#] {
                let query = matching(expr, of);
                Query::parse(&query, &ParseLimits::default()).unwrap_or_else(|error| panic!("{query}: {error}"));
                assert!(expr.contains("$of"), "{expr}");
            }
        }
    }

    #[test]
    fn pods_that_restart_or_do_not_run_come_first() {
        let pod = |phase: &str, recent, memory| Pod {
            phase: phase.into(),
            recent,
            memory: Some(memory),
            memory_limit: Some(100.0),
            ..Pod::default()
        };
        for (pod, state) in [
            (pod("Running", 0.0, 50.0), 2),
            (pod("Running", 1.0, 50.0), 1),
            (pod("Running", 3.0, 50.0), 0),
            (pod("Running", 0.0, 97.0), 0),
            (pod("Pending", 0.0, 50.0), 1),
            (pod("Failed", 0.0, 50.0), 0),
            (pod("Succeeded", 0.0, 50.0), 2),
        ] {
            assert_eq!(pod.state(), state, "{pod:?}");
        }
    }

    #[test]
    fn use_is_held_against_the_limit_or_else_the_request() {
        assert_eq!(Pod::share(Some(1.0), Some(4.0), Some(2.0)), Some(0.25));
        assert_eq!(Pod::share(Some(1.0), None, Some(2.0)), Some(0.5));
        assert_eq!(Pod::share(Some(1.0), None, None), None);
        assert_eq!(Pod::share(Some(1.0), Some(0.0), None), None);
        let row = Row::new("a", "b", &Pod { cpu: Some(3.0), cpu_request: Some(1.0), ..Pod::default() });
        let meter = row.cpu_share.unwrap();
        assert_eq!((meter.text.as_str(), meter.class, meter.title.as_str()), ("300 %", "", "request 1, no limit"));
    }
}
