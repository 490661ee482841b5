//! Network policies: each part reaches only what it needs, and an empty list of peers means nobody.

use serde_json::{Value, json};

use crate::render::{ALL_APIS, find, have_helm, rendered};

const PARTS: [&str; 4] = ["server", "agent", "audit-sink", "postgres"];

fn policy<'a>(objects: &'a [Value], part: &str) -> &'a Value {
    &find(objects, &format!("NetworkPolicy/golectra-{part}"))["spec"]
}

fn rules<'a>(policy: &'a Value, direction: &str) -> &'a Vec<Value> {
    policy[direction].as_array().unwrap_or_else(|| panic!("{direction} is not a list: {policy}"))
}

/// Whether a rule lets everybody through: Kubernetes reads a missing or empty list of peers as all of them.
fn is_open(rule: &Value, peers: &str) -> bool {
    rule[peers].as_array().is_none_or(Vec::is_empty)
}

fn has_port(rule: &Value, port: &Value) -> bool {
    rule["ports"].as_array().is_some_and(|ports| ports.iter().any(|entry| entry["port"] == *port))
}

#[test]
fn every_pod_has_a_policy() {
    if !have_helm() {
        return;
    }
    let objects = rendered(&ALL_APIS, &[]);
    for part in ["server", "agent", "audit-sink"] {
        assert_eq!(policy(&objects, part)["policyTypes"], json!(["Ingress", "Egress"]), "{part}");
    }
    assert_eq!(policy(&objects, "audit-sink")["egress"], json!([]), "the sink connects to nothing");
    for part in PARTS {
        for rule in rules(policy(&objects, part), "ingress") {
            assert!(!is_open(rule, "from"), "{part} is open to everybody: {rule}");
        }
    }
    let operator =
        rules(policy(&objects, "postgres"), "ingress").iter().find(|rule| has_port(rule, &json!(8000)) && has_port(rule, &json!(5432)));
    assert!(operator.is_some_and(|rule| rule.to_string().contains("cnpg-system")), "the operator reaches the instances");
}

/// An empty list in the values means nobody; as a rule without peers it would mean everybody.
#[test]
fn no_scrapers_means_nobody() {
    if !have_helm() {
        return;
    }
    for set in ["networkPolicy.scrapers=[]", r#"networkPolicy={"scrapers":[],"clients":[],"dnsPorts":[]}"#] {
        let objects = rendered(&ALL_APIS, &["--set-json", set]);
        for part in PARTS {
            let policy = policy(&objects, part);
            for rule in rules(policy, "ingress") {
                assert!(!is_open(rule, "from"), "--set-json {set}: {part} is open to everybody: {rule}");
                for port in [json!("metrics"), json!(9187), json!(9090)] {
                    assert!(!has_port(rule, &port), "--set-json {set}: {part}'s metrics can be read: {rule}");
                }
            }
        }
        assert_eq!(policy(&objects, "agent")["ingress"], json!([]), "nobody reaches an agent");
        assert_eq!(rules(policy(&objects, "server"), "ingress").len(), 1, "agents still reach the server");
    }
}

/// Those that are named reach the server's port as agents do, and nothing else.
#[test]
fn grafana_and_a_prometheus_can_be_let_in() {
    if !have_helm() {
        return;
    }
    let clients = json!([
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}},
         "podSelector": {"matchLabels": {"app.kubernetes.io/name": "grafana"}}},
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}},
         "podSelector": {"matchLabels": {"app.kubernetes.io/name": "prometheus"}}},
    ]);
    let standard = rendered(&ALL_APIS, &[]);
    let objects = rendered(&ALL_APIS, &["--set-json", &format!("networkPolicy.clients={clients}")]);
    let http = |objects: &[Value]| {
        let rule = rules(policy(objects, "server"), "ingress").iter().find(|rule| has_port(rule, &json!("http"))).expect("a rule").clone();
        rule["from"].as_array().expect("peers").clone()
    };
    assert_eq!(http(&objects), [http(&standard), clients.as_array().expect("a list").clone()].concat());
    for part in ["agent", "audit-sink", "postgres"] {
        assert_eq!(policy(&objects, part), policy(&standard, part), "{part}");
    }
    let readme = std::fs::read_to_string(crate::render::chart().join("README.md")).expect("README.md");
    let example =
        readme.split_once("networkPolicy:\n      clients:\n").expect("README.md shows how").1.split("\n\n").next().expect("lines");
    let documented = crate::render::parse(example).remove(0);
    assert_eq!(documented, clients, "the example in README.md");
}

/// What the values say an empty list means, for the two lists where it is not nobody.
#[test]
fn lists_that_are_documented_otherwise_stay_as_documented() {
    if !have_helm() {
        return;
    }
    let http = |arguments: &[&str]| {
        let objects = rendered(&ALL_APIS, arguments);
        let rule = rules(policy(&objects, "server"), "ingress").iter().find(|rule| has_port(rule, &json!("http"))).expect("a rule").clone();
        is_open(&rule, "from")
    };
    let ingress = ["--set", "access.anonymous=true,server.ingress.enabled=true,server.ingress.hosts[0]=a.example.com"];
    assert!(http(&ingress), "an Ingress without clients is for everybody");
    assert!(!http(&[&ingress[..], &["--set-json", r#"networkPolicy.clients=[{"podSelector":{}}]"#]].concat()));
    assert!(!http(&["--set-json", "networkPolicy.clients=[]"]), "without an Ingress, nobody but the agents");

    let database = |cidrs: &str| {
        let external = ["--set", "database.mode=external,database.external.dsn=postgres://h/d", "--set-json", cidrs];
        let objects = rendered(&ALL_APIS, &external);
        let rule = rules(policy(&objects, "server"), "egress").iter().find(|rule| has_port(rule, &json!(5432))).expect("a rule").clone();
        is_open(&rule, "to")
    };
    assert!(database("networkPolicy.externalDatabase.cidrs=[]"), "a database anywhere");
    assert!(!database(r#"networkPolicy.externalDatabase.cidrs=["192.0.2.0/24"]"#));
}

/// The port of the URL is let through, and the one of the values, which is the pod's where the URL leads to a Service with another one.
#[test]
fn the_port_of_an_external_database_is_that_of_its_url() {
    if !have_helm() {
        return;
    }
    let ports = |url: &str, more: &str| {
        let values = format!("database.mode=external,database.external.dsn={url}{more}");
        let objects = rendered(&ALL_APIS, &["--set", &values]);
        let rules = rules(policy(&objects, "server"), "egress");
        let rule =
            rules.iter().find(|rule| rule.get("to").is_none() && !rule["ports"].to_string().contains("UDP")).expect("a rule").clone();
        rule["ports"].as_array().expect("ports").iter().map(|port| port["port"].as_u64().expect("a number")).collect::<Vec<_>>()
    };
    for (url, expected) in [
        ("postgres://h/d", &[5432][..]),
        ("postgres://u:6432@h:5432/d", &[5432]),
        ("postgres://u:p@h:6432/d?sslmode=verify-full", &[5432, 6432]),
        ("postgresql://[::1]:6432", &[5432, 6432]),
        ("postgres://u:p@[::1]/d?application_name=a:7", &[5432]),
        ("postgres://h:6432/d?sslmode=require&port=7432", &[5432, 7432]),
    ] {
        assert_eq!(ports(url, ""), expected, "{url}");
    }
    assert_eq!(ports("postgres://h:6432/d", ",networkPolicy.externalDatabase.port=6432"), [6432]);
}

/// A rule that is passed on unchanged would open everything when one of its lists is empty.
#[test]
fn a_further_egress_rule_with_an_empty_list_allows_nothing() {
    if !have_helm() {
        return;
    }
    for (part, value) in [("server", "extraEgress"), ("agent", "agentExtraEgress")] {
        let egress = |extra: &Value| {
            let set = format!("networkPolicy.{value}={extra}");
            rules(policy(&rendered(&ALL_APIS, &["--set-json", &set]), part), "egress").clone()
        };
        let standard = egress(&json!([]));
        for nothing in
            [json!([{"to": []}]), json!([{"to": [], "ports": [{"port": 4318}]}]), json!([{"to": [{"podSelector": {}}], "ports": []}])]
        {
            assert_eq!(egress(&nothing), standard, "{part}: {nothing}");
        }
        let rule = json!({"to": [{"namespaceSelector": {}}], "ports": [{"port": 4318}]});
        let everywhere = json!({"ports": [{"port": 443}]});
        assert_eq!(egress(&json!([{"to": []}, rule, everywhere]))[standard.len()..], [rule, everywhere], "{part}");
    }
}

/// OpenShift's DNS pods listen on 5353, and policies apply to the pod's port.
#[test]
fn the_ports_of_dns_can_be_changed_and_unset() {
    if !have_helm() {
        return;
    }
    let ports = |set: &str| {
        let objects = rendered(&ALL_APIS, &["--set-json", set]);
        ["server", "agent"].map(|part| {
            let rules = rules(policy(&objects, part), "egress");
            let dns: Vec<_> = rules.iter().filter(|rule| rule["ports"].to_string().contains("UDP")).collect();
            dns.iter()
                .flat_map(|rule| rule["ports"].as_array().expect("ports"))
                .map(|port| port["port"].as_u64().expect("a number"))
                .collect::<Vec<_>>()
        })
    };
    assert_eq!(ports("networkPolicy.enabled=true"), [[53, 53], [53, 53]]);
    assert_eq!(ports("networkPolicy.dnsPorts=[53,5353]"), [[53, 53, 5353, 5353], [53, 53, 5353, 5353]]);
    assert_eq!(ports("networkPolicy.dnsPorts=[]"), [Vec::<u64>::new(), Vec::new()]);

    let alone = ["--set", "database.mode=embedded,auditSink.enabled=false", "--set-json", "networkPolicy.dnsPorts=[]"];
    assert_eq!(policy(&rendered(&[], &alone), "server")["egress"], json!([]), "a server that needs nothing connects to nothing");
}

/// Agents reach the ports of the URLs that they scrape, and pods only if any of them may ask for it.
#[test]
fn agents_reach_what_they_scrape_and_nothing_else() {
    if !have_helm() {
        return;
    }
    let egress = |set: &str| policy(&rendered(&ALL_APIS, &["--set-json", set]), "agent")["egress"].as_array().expect("rules").clone();
    let standard = egress("agent.scrape={}");
    let more = |set: &str| egress(set).into_iter().filter(|rule| !standard.contains(rule)).collect::<Vec<_>>();
    let urls = r#"agent.scrape.urls=["node=http://$(HOST_IP):9100/metrics","https://a.example.org/x:1","http://[::1]:81","http://b?c=:9","http://d:9100"]"#;
    assert_eq!(more(urls), [json!({"ports": [{"port": 9100}, {"port": 443}, {"port": 81}, {"port": 80}]})]);
    assert_eq!(more("agent.scrape.pods=true"), [json!({})], "a pod with hostNetwork has the address of its node, which may be any");

    let nodes = r#"networkPolicy.kubelet.cidrs=["10.10.0.0/16","fd00:10::/64"]"#;
    let with_nodes = |set: &str| {
        let objects = rendered(&ALL_APIS, &["--set-json", nodes, "--set-json", set]);
        policy(&objects, "agent")["egress"].as_array().expect("rules").clone()
    };
    let (first, second) = (json!({"ipBlock": {"cidr": "10.10.0.0/16"}}), json!({"ipBlock": {"cidr": "fd00:10::/64"}}));
    let standard = with_nodes("agent.scrape={}");
    assert!(standard.contains(&json!({"ports": [{"port": 10250}], "to": [first, second]})), "{standard:?}");
    let added: Vec<_> = with_nodes("agent.scrape.pods=true").into_iter().filter(|rule| !standard.contains(rule)).collect();
    assert_eq!(added, [json!({"to": [{"namespaceSelector": {}}, first, second]})]);
}
