//! The values that become the programs' settings, and those that were removed.

use std::process::Command;

use serde_json::Value;

use crate::render::{ALL_APIS, chart, find, have_helm, helm_template, rendered, text};

fn variable(objects: &[Value], workload: &str, wanted: &str) -> Option<String> {
    let variables = find(objects, workload)["spec"]["template"]["spec"]["containers"][0]["env"].as_array().expect("variables").clone();
    variables.iter().find(|variable| text(variable, "/name") == wanted).map(|variable| text(variable, "/value").to_owned())
}

const SERVER: &str = "Deployment/golectra-server";
const AGENT: &str = "DaemonSet/golectra-agent";

#[test]
fn retentions_reach_the_server_and_have_a_unit() {
    if !have_helm() {
        return;
    }
    let settings = [
        ("dedupWindow", "DEDUP_WINDOW"),
        ("retentionRaw", "RETENTION_RAW"),
        ("retention5m", "RETENTION_5M"),
        ("retention1h", "RETENTION_1H"),
        ("seriesExpiry", "SERIES_EXPIRY"),
        ("sourceExpiry", "SOURCE_EXPIRY"),
    ];
    let standard = rendered(&ALL_APIS, &[]);
    for (value, name) in settings {
        assert_eq!(variable(&standard, SERVER, name), None, "{name}: the server's own default");
        let objects = rendered(&ALL_APIS, &["--set", &format!("server.settings.{value}=1w2d")]);
        assert_eq!(variable(&objects, SERVER, name).as_deref(), Some("1w2d"));
        // 48 would be 48 of some unit: which one must be said.
        for bad in ["48", "2 weeks", "1h2d", "1.5d", "-1h"] {
            for set in ["--set", "--set-string"] {
                let error = helm_template(&ALL_APIS, &[set, &format!("server.settings.{value}={bad}")]).expect_err("it is refused");
                assert!(error.contains(&format!("'/server/settings/{value}'")), "{set} {value}={bad}: {error}");
            }
        }
    }
}

#[test]
fn settings_of_history_and_queries_reach_the_server() {
    if !have_helm() {
        return;
    }
    let standard = rendered(&ALL_APIS, &[]);
    for (value, name, valid, bad) in [
        ("sealAfter", "SEAL_AFTER", "24h", "1d"),
        ("databaseQueryConnections", "DATABASE_QUERY_CONNECTIONS", "8", "0"),
        ("queryConcurrency", "QUERY_CONCURRENCY", "16", "-1"),
        ("queryTimeout", "QUERY_TIMEOUT", "1m30s", "soon"),
        ("queryMaxSeries", "QUERY_MAX_SERIES", "1000000", "1.5"),
        ("queryMaxBytes", "QUERY_MAX_BYTES", "1GiB", "1Gi"),
        ("indexCacheBytes", "INDEX_CACHE_BYTES", "64MiB", "64Mi"),
        ("sampleCacheBytes", "SAMPLE_CACHE_BYTES", "128MiB", "64Mi"),
        ("queryLogAfter", "QUERY_LOG_AFTER", "0s", "1y"),
    ] {
        assert_eq!(variable(&standard, SERVER, name), None, "{name}: the server's own default");
        let objects = rendered(&ALL_APIS, &["--set", &format!("server.settings.{value}={valid}")]);
        assert_eq!(variable(&objects, SERVER, name).as_deref(), Some(valid));
        let error = helm_template(&ALL_APIS, &["--set", &format!("server.settings.{value}={bad}")]).expect_err("it is refused");
        assert!(error.contains(&format!("'/server/settings/{value}'")), "{value}={bad}: {error}");
    }
}

/// Prometheus knows no numbers without a unit and no fractions, and the operator's monitors refuse both.
#[test]
fn the_scrape_interval_is_a_duration_to_prometheus() {
    if !have_helm() {
        return;
    }
    let monitors = [
        ("ServiceMonitor/golectra-server", "/spec/endpoints/0/interval"),
        ("ServiceMonitor/golectra-audit-sink", "/spec/endpoints/0/interval"),
        ("PodMonitor/golectra-agent", "/spec/podMetricsEndpoints/0/interval"),
        ("PodMonitor/golectra-postgres", "/spec/podMetricsEndpoints/0/interval"),
    ];
    for (set, value, expected) in [
        ("--set", "30", Some("30s")),
        ("--set-string", "30", Some("30s")),
        ("--set-json", "1000000", Some("1000000s")),
        ("--set", "30s", Some("30s")),
        ("--set", "1m", Some("1m")),
        ("--set", "1m30s", Some("1m30s")),
        ("--set", "", None),
    ] {
        let objects = rendered(&ALL_APIS, &[set, &format!("monitoring.interval={value}")]);
        for (monitor, pointer) in monitors {
            let interval = find(&objects, monitor).pointer(pointer).map(|interval| interval.as_str().expect("text"));
            assert_eq!(interval, expected, "{set} monitoring.interval={value}: {monitor}");
        }
    }
    for bad in ["1.5m", "1.5", "-30", "1s1m", "soon"] {
        for set in ["--set", "--set-string"] {
            let error = helm_template(&ALL_APIS, &[set, &format!("monitoring.interval={bad}")]).expect_err("it is refused");
            assert!(error.contains("'/monitoring/interval'"), "{set} {bad}: {error}");
        }
    }
}

/// 70 % of PostgreSQL's volume; 256 MiB of memory where there is none; nothing for a database whose size is not known.
#[test]
fn the_limit_of_the_history_follows_the_volume() {
    if !have_helm() {
        return;
    }
    let limit = |set: &str| variable(&rendered(&ALL_APIS, &["--set", set]), SERVER, "HISTORY_MAX_BYTES");
    for (size, expected) in [
        ("8Gi", 8 * (1_u64 << 30) / 10 * 7),
        ("100Gi", (100_u64 << 30) * 7 / 10),
        ("1.5Ti", 1536 * (1_u64 << 30) / 10 * 7),
        ("500G", 350_000_000_000),
        ("20000000000", 14_000_000_000),
    ] {
        let found: u64 = limit(&format!("database.cnpg.storage.size={size}")).expect("a limit").parse().expect("a number");
        assert!(found.abs_diff(expected) <= 10, "{size}: {found}, expected {expected}");
    }
    assert_eq!(limit("database.mode=embedded").as_deref(), Some("256MiB"));
    let external = "database.mode=external,database.external.dsn=postgres://h/d";
    assert_eq!(limit(external), None);
    for mode in ["database.mode=cnpg", "database.mode=embedded", external] {
        let volumes = "database.cnpg.storage.size=100Gi,database.embedded.storage.size=100Gi";
        assert_eq!(limit(&format!("{mode},{volumes},server.settings.historyMaxBytes=20GiB")).as_deref(), Some("20GiB"), "{mode}");
    }
}

/// The file of tokens is the Secret's entry, in a volume that follows the Secret's changes.
#[test]
fn api_tokens_are_mounted_from_a_secret() {
    if !have_helm() {
        return;
    }
    let standard = rendered(&ALL_APIS, &[]);
    assert_eq!(variable(&standard, SERVER, "API_TOKENS_FILE"), None);
    for mode in ["database.mode=cnpg", "database.mode=embedded", "database.mode=external,database.external.dsn=postgres://h/d"] {
        let tokens = "server.apiTokens.existingSecret.name=my-tokens,server.apiTokens.existingSecret.key=api";
        let objects = rendered(&ALL_APIS, &["--set", mode, "--set", tokens]);
        let file = variable(&objects, SERVER, "API_TOKENS_FILE").expect("the file");
        let pod = &find(&objects, SERVER)["spec"]["template"]["spec"];
        let volumes = pod["volumes"].as_array().expect("volumes");
        let volume = volumes.iter().find(|volume| text(volume, "/secret/secretName") == "my-tokens").expect("the volume");
        let mounts = pod["containers"][0]["volumeMounts"].as_array().expect("mounts");
        let mount = mounts.iter().find(|mount| mount["name"] == volume["name"]).expect("the mount");
        assert_eq!(volume["secret"]["items"][0]["key"], "api");
        assert_eq!(file, format!("{}/{}", text(mount, "/mountPath"), text(volume, "/secret/items/0/path")), "{mode}");
        assert!(mount.get("subPath").is_none() && mount["readOnly"] == true, "{mode}: {mount}");
    }
}

/// The folder of the node is mounted read-only where the agent looks for it, beside the other folders and without them.
#[test]
fn files_of_metrics_are_mounted_from_the_node() {
    if !have_helm() {
        return;
    }
    assert_eq!(variable(&rendered(&ALL_APIS, &[]), AGENT, "TEXTFILE_DIRS"), None);
    for beside in ["agent.hostMounts.root=true", "agent.spool.enabled=false,agent.pods.enabled=false"] {
        let objects = rendered(&ALL_APIS, &["--set", "agent.textfile.hostPath=/var/lib/metrics", "--set", beside]);
        let folder = variable(&objects, AGENT, "TEXTFILE_DIRS").expect("the folder");
        let pod = &find(&objects, AGENT)["spec"]["template"]["spec"];
        let mounts = pod["containers"][0]["volumeMounts"].as_array().expect("mounts");
        let mount = mounts.iter().find(|mount| text(mount, "/mountPath") == folder).expect("the mount");
        assert_eq!(mount["readOnly"], true);
        let volume = pod["volumes"].as_array().expect("volumes").iter().find(|volume| volume["name"] == mount["name"]).expect("the volume");
        assert_eq!(text(volume, "/hostPath/path"), "/var/lib/metrics", "{beside}");
    }
}

/// The authority and the token of scrapes are entries of a ConfigMap and of a Secret, in volumes that follow their changes.
#[test]
fn settings_of_scrapes_reach_the_agent() {
    if !have_helm() {
        return;
    }
    let names = ["SCRAPE_METRICS_INCLUDE", "SCRAPE_METRICS_EXCLUDE", "SCRAPE_CA_FILE", "SCRAPE_TOKEN_FILE"];
    let standard = rendered(&ALL_APIS, &[]);
    for name in names {
        assert_eq!(variable(&standard, AGENT, name), None, "{name}: the agent's own default");
    }
    let scrape = r#"agent.scrape={
        "urls": ["https://app.example.org/metrics"], "metricsInclude": "http_.*|go_\\d+", "metricsExclude": "http_x",
        "caConfigMap": {"name": "my-ca", "key": "root.pem"}, "token": {"existingSecret": {"name": "my-token", "key": "t"}}
    }"#;
    for beside in ["agent.hostMounts.root=true", "agent.spool.enabled=false,agent.pods.enabled=false"] {
        let objects = rendered(&ALL_APIS, &["--set", beside, "--set-json", scrape]);
        assert_eq!(variable(&objects, AGENT, "SCRAPE_METRICS_INCLUDE").as_deref(), Some(r"http_.*|go_\d+"));
        assert_eq!(variable(&objects, AGENT, "SCRAPE_METRICS_EXCLUDE").as_deref(), Some("http_x"));
        let pod = &find(&objects, AGENT)["spec"]["template"]["spec"];
        for (name, kind, source, key) in
            [("SCRAPE_CA_FILE", "configMap", "my-ca", "root.pem"), ("SCRAPE_TOKEN_FILE", "secret", "my-token", "t")]
        {
            let file = variable(&objects, AGENT, name).expect("the file");
            let (folder, file) = file.rsplit_once('/').expect("a path");
            let mounts = pod["containers"][0]["volumeMounts"].as_array().expect("mounts");
            let mount = mounts.iter().find(|mount| text(mount, "/mountPath") == folder).expect("the mount");
            assert!(mount.get("subPath").is_none() && mount["readOnly"] == true, "{beside}: {mount}");
            let volumes = pod["volumes"].as_array().expect("volumes");
            let volume = &volumes.iter().find(|volume| volume["name"] == mount["name"]).expect("the volume")[kind];
            assert_eq!(volume.get("name").or(volume.get("secretName")).expect("a name"), source, "{beside}");
            assert_eq!((&volume["items"][0]["key"], text(volume, "/items/0/path")), (&key.into(), file), "{beside}");
        }
    }
}

/// Rules and receivers are in ConfigMaps and secrets in Secrets, in volumes that follow their changes.
#[test]
fn rules_and_receivers_of_alerts_reach_the_server() {
    if !have_helm() {
        return;
    }
    let standard = rendered(&ALL_APIS, &[]);
    for name in ["RULES_DIR", "RECEIVERS_FILE", "BUILT_IN_RULES_DISABLED", "EVALUATION_INTERVAL", "EXTERNAL_URL", "HEARTBEAT_URL"] {
        assert_eq!(variable(&standard, SERVER, name), None, "{name}: the server's own default");
    }
    let alerts = r#"alerts={
        "ruleFiles": {"a.yaml": {"groups": [{"name": "g", "rules": [{"alert": "A", "expr": "up == 0", "annotations": {"summary": "{{ $labels.instance }}"}}]}]}},
        "receivers": [{"name": "hook", "webhook": {"url": "http://h/", "key_file": "/etc/golectra/receiver-secrets/my-hook/key"}}],
        "externalUrl": "https://golectra.example.com", "heartbeat": {"existingSecret": {"name": "my-heartbeat"}},
        "quietHours": [{"from": "22:00", "to": "07:00"}],
        "secrets": ["my-hook"], "disabled": ["Watchdog", "NodeCpuHigh"], "evaluationInterval": "30s",
        "egress": [{"ports": [{"port": 9093}]}]
    }"#;
    for mode in ["database.mode=cnpg", "database.mode=embedded"] {
        let objects = rendered(&ALL_APIS, &["--set", mode, "--set-json", alerts]);
        assert_eq!(variable(&objects, SERVER, "BUILT_IN_RULES_DISABLED").as_deref(), Some("Watchdog,NodeCpuHigh"));
        assert_eq!(variable(&objects, SERVER, "EVALUATION_INTERVAL").as_deref(), Some("30s"));
        assert_eq!(variable(&objects, SERVER, "EXTERNAL_URL").as_deref(), Some("https://golectra.example.com"));
        let variables = find(&objects, SERVER)["spec"]["template"]["spec"]["containers"][0]["env"].as_array().expect("variables").clone();
        let heartbeat = variables.iter().find(|variable| variable["name"] == "HEARTBEAT_URL").expect("the address");
        assert_eq!(heartbeat["valueFrom"]["secretKeyRef"], serde_json::json!({"name": "my-heartbeat", "key": "url"}));
        let pod = &find(&objects, SERVER)["spec"]["template"]["spec"];
        let mounted = |folder: &str| {
            let mounts = pod["containers"][0]["volumeMounts"].as_array().expect("mounts");
            let mount = mounts.iter().find(|mount| text(mount, "/mountPath") == folder).unwrap_or_else(|| panic!("{folder}"));
            assert!(mount.get("subPath").is_none() && mount["readOnly"] == true, "{mode}: {mount}");
            pod["volumes"].as_array().expect("volumes").iter().find(|volume| volume["name"] == mount["name"]).expect("the volume").clone()
        };
        let rules = mounted(&variable(&objects, SERVER, "RULES_DIR").expect("the folder"));
        let rules = &find(&objects, &format!("ConfigMap/{}", text(&rules, "/configMap/name")))["data"];
        assert!(text(rules, "/a.yaml").contains("{{ $labels.instance }}"), "templates are left alone: {rules}");
        let file = variable(&objects, SERVER, "RECEIVERS_FILE").expect("the file");
        let (folder, name) = file.rsplit_once('/').expect("a path");
        let receivers = mounted(folder);
        let receivers = &find(&objects, &format!("ConfigMap/{}", text(&receivers, "/configMap/name")))["data"][name];
        assert!(receivers.as_str().is_some_and(|text| text.contains("\nreceivers:") && text.starts_with("quiet_hours:")), "{receivers}");
        assert_eq!(text(&mounted("/etc/golectra/receiver-secrets/my-hook"), "/secret/secretName"), "my-hook");
        let egress = find(&objects, "NetworkPolicy/golectra-server")["spec"]["egress"].as_array().expect("rules").clone();
        assert!(egress.contains(&serde_json::json!({"ports": [{"port": 9093}]})), "{egress:?}");
    }
    assert!(notes(&[]).contains("set alerts.receivers"));
    let receiver = ["--set", "alerts.receivers[0].name=a,alerts.receivers[0].webhook.url=http://h/"];
    assert!(notes(&receiver).contains("set alerts.egress"));
    assert!(!notes(&[&receiver[..], &["--set", "alerts.egress[0].ports[0].port=443"]].concat()).contains("set alerts.egress"));
}

#[test]
fn the_notes_say_what_the_network_policy_does_not_let_the_server_reach() {
    if !have_helm() {
        return;
    }
    let (closed, heartbeat) = ("network policy does not let it reach", "alerts.heartbeat.existingSecret.name=h");
    assert!(!notes(&[]).contains(closed));
    assert!(!notes(&["--set", "server.audit.url=http://golectra-audit-sink:8090/"]).contains(closed), "the chart's own sink");
    let outside = "server.audit.url=https://audit.example.com/,server.settings.otlpEndpoint=http://collector:4318";
    for (set, expected) in [
        (heartbeat, "the address of the heartbeat: set alerts.egress."),
        ("server.audit.url=https://audit.example.com/", "server.audit.url: set networkPolicy.extraEgress."),
        ("server.audit.url=http://golectra-audit-sink-2:8090/", "server.audit.url: set networkPolicy.extraEgress."),
        (outside, "server.audit.url and server.settings.otlpEndpoint: set networkPolicy.extraEgress."),
    ] {
        let said = notes(&["--set", set]);
        assert!(said.contains(&format!("{closed} {expected}")), "{set}: {said}");
        for open in ["networkPolicy.enabled=false", "networkPolicy.extraEgress[0].ports[0].port=443"] {
            assert!(!notes(&["--set", set, "--set", open]).contains(closed), "{set} {open}");
        }
    }
    let of_alerts = ["--set", "alerts.egress[0].ports[0].port=443", "--set"];
    assert!(!notes(&[&of_alerts[..], &[heartbeat]].concat()).contains(closed));
    assert!(notes(&[&of_alerts[..], &[outside]].concat()).contains("set networkPolicy.extraEgress, unless alerts.egress allows it."));
}

/// Panels are in a ConfigMap, in a volume that follows its changes, and their templates are left alone.
#[test]
fn panels_reach_the_server() {
    if !have_helm() {
        return;
    }
    assert_eq!(variable(&rendered(&ALL_APIS, &[]), SERVER, "PANELS_DIR"), None);
    let panels = r#"panels={"a.yaml": {"pages": [{"name": "p", "groups": [{"title": "G", "panels": [{"title": "P", "lines": [{"expr": "up{x=~$y}", "name": "{x} {{y}}"}]}]}]}]}}"#;
    for mode in ["database.mode=cnpg", "database.mode=embedded", "database.mode=external,database.external.dsn=postgres://h/d"] {
        let objects = rendered(&ALL_APIS, &["--set", mode, "--set-json", panels]);
        let folder = variable(&objects, SERVER, "PANELS_DIR").expect("the folder");
        let pod = &find(&objects, SERVER)["spec"]["template"]["spec"];
        let mounts = pod["containers"][0]["volumeMounts"].as_array().expect("mounts");
        let mount = mounts.iter().find(|mount| text(mount, "/mountPath") == folder).expect("the mount");
        assert!(mount.get("subPath").is_none() && mount["readOnly"] == true, "{mode}: {mount}");
        let volumes = pod["volumes"].as_array().expect("volumes");
        let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]).expect("the volume");
        let data = &find(&objects, &format!("ConfigMap/{}", text(volume, "/configMap/name")))["data"];
        assert!(text(data, "/a.yaml").contains("up{x=~$y}") && text(data, "/a.yaml").contains("{x} {{y}}"), "{mode}: {data}");
    }
}

/// What helm prints after an install.
fn notes(arguments: &[&str]) -> String {
    let mut command = Command::new("helm");
    command.args(["install", "golectra"]).arg(chart()).args(["--dry-run=client", "--set", "database.mode=embedded"]).args(arguments);
    let output = command.env("KUBECONFIG", "/nonexistent").output().expect("helm runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).expect("text");
    printed.split_once("NOTES:").unwrap_or_else(|| panic!("no notes in {printed}")).1.to_owned()
}

#[test]
fn a_removed_value_does_nothing_and_is_named_in_the_notes() {
    if !have_helm() {
        return;
    }
    let keys = ["--set", "keys.hash.value=h,keys.audit.value=a"];
    let standard = helm_template(&ALL_APIS, &keys).expect("it renders");
    for set in ["server.settings.historyRetention=72h", "server.settings.historyRetention=72", "server.settings.historyRetention="] {
        let rendered = helm_template(&ALL_APIS, &[&keys[..], &["--set", set]].concat()).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(rendered, standard, "--set {set}");
    }
    let removed = "The value server.settings.historyRetention was removed and does nothing: set server.settings.dedupWindow and \
                   server.settings.retentionRaw instead.";
    assert!(notes(&["--set", "server.settings.historyRetention=72h"]).contains(removed));
    for arguments in [&[][..], &["--set", "server.settings.historyRetention="]] {
        assert!(!notes(arguments).contains("was removed"), "{arguments:?}");
    }
}

#[test]
fn the_notes_say_who_can_reach_the_server() {
    if !have_helm() {
        return;
    }
    let unauthenticated = "does not authenticate readers";
    assert!(!notes(&[]).contains(unauthenticated));
    let public = ["--set", "access.anonymous=true,server.ingress.enabled=true,server.ingress.hosts[0]=a.example.com"];
    let compat = notes(&public);
    assert!(compat.contains(unauthenticated) && compat.contains("unsigned") && compat.contains("http://a.example.com/"), "{compat}");
    let required = notes(&[&public[..], &["--set", "signatures.mode=required"]].concat());
    assert!(required.contains(unauthenticated) && !required.contains("unsigned"), "{required}");

    let (closed, clients) = ("must be among them", ["--set-json", r#"networkPolicy.clients=[{"podSelector":{}}]"#]);
    let public_to_clients = [&public[..], &clients].concat();
    assert!(notes(&public_to_clients).contains(closed));
    assert!(!compat.contains(closed) && !notes(&clients).contains(closed));
    assert!(!notes(&[&public_to_clients[..], &["--set", "networkPolicy.enabled=false"]].concat()).contains(closed));
}

#[test]
fn the_notes_say_how_grafana_and_prometheus_use_it() {
    if !have_helm() {
        return;
    }
    let (closed, needs_token, of_secret) = ("networkPolicy.clients", "remote_write needs an API token", "API token of the Secret tok");
    let standard = notes(&["--namespace", "metrics"]);
    assert!(standard.contains("  http://golectra-server.metrics:8080\n"), "{standard}");
    assert!(standard.contains("  http://golectra-server.metrics:8080/api/v1/write\n"), "{standard}");
    assert!(standard.contains(closed) && !standard.contains(needs_token) && !standard.contains("API token of"), "{standard}");
    for open in [
        &["--set-json", r#"networkPolicy.clients=[{"namespaceSelector":{}}]"#][..],
        &["--set", "networkPolicy.enabled=false"],
        &["--set", "server.service.type=LoadBalancer,access.anonymous=true"],
    ] {
        assert!(!notes(open).contains(closed), "{open:?}");
    }
    assert!(notes(&["--set", "server.service.port=80"]).contains("http://golectra-server.default:80/api/v1/write"));
    assert!(notes(&["--set", "signatures.mode=required"]).contains(needs_token));
    let tokens = notes(&["--set", "signatures.mode=required,server.apiTokens.existingSecret.name=tok"]);
    assert!(tokens.contains(of_secret) && !tokens.contains(needs_token), "{tokens}");
    let public = notes(&["--set", "server.service.type=LoadBalancer,server.apiTokens.existingSecret.name=tok"]);
    assert!(public.contains("does not authenticate readers, but for queries") && !public.contains("its history"), "{public}");
}

#[test]
fn access_by_tokens_or_a_proxy_reaches_the_server() {
    if !have_helm() {
        return;
    }
    let set = |values: &str| rendered(&ALL_APIS, &["--set", values]);
    let standard = rendered(&ALL_APIS, &[]);
    for name in ["API_TOKENS_FILE", "AUTH_HEADER", "AUTH_HEADER_ROLE", "TRUSTED_PROXIES"] {
        assert_eq!(variable(&standard, SERVER, name), None, "{name}");
    }
    let own = set("access.tokens=true,server.service.type=NodePort");
    assert_eq!(variable(&own, SERVER, "API_TOKENS_FILE").as_deref(), Some("/etc/golectra/api-tokens/tokens"));
    let volumes = find(&own, SERVER)["spec"]["template"]["spec"]["volumes"].as_array().expect("volumes").clone();
    let volume = volumes.iter().find(|volume| text(volume, "/name") == "api-tokens").expect("the tokens' volume");
    assert_eq!(volume["secret"], serde_json::json!({"secretName": "golectra-api-tokens", "items": [{"key": "tokens", "path": "tokens"}]}));
    let tokens = text(find(&own, "Secret/golectra-api-tokens"), "/data/tokens").to_owned();
    assert_ne!(tokens, text(find(&set("access.tokens=true"), "Secret/golectra-api-tokens"), "/data/tokens"), "tokens are random");
    assert!(notes(&["--set", "access.tokens=true"]).contains("get secret golectra-api-tokens"));

    let proxy = "access.proxy.header=X-User,access.proxy.trustedProxies=10.0.0.5";
    let proxied = set(&format!("{proxy},server.service.type=NodePort,access.proxy.role=admin,server.settings.trustedProxies=10.0.0.9"));
    for (name, value) in [("AUTH_HEADER", "X-User"), ("AUTH_HEADER_ROLE", "admin"), ("TRUSTED_PROXIES", "10.0.0.9,10.0.0.5")] {
        assert_eq!(variable(&proxied, SERVER, name).as_deref(), Some(value));
    }
    let said = notes(&["--set", proxy]);
    assert!(said.contains("X-User have the role read") && !said.contains("can name any user"), "{said}");
    assert!(notes(&["--set", proxy, "--set", "networkPolicy.enabled=false"]).contains("can name any user"));
}

#[test]
fn the_notes_say_what_bounds_the_history_and_the_way_to_the_database() {
    if !have_helm() {
        return;
    }
    assert!(notes(&[]).contains("The history may take 256 MiB of memory (server.settings.historyMaxBytes)"));
    assert!(notes(&["--set", "server.settings.historyMaxBytes=536870912"]).contains("may take 512 MiB of memory"));
    assert!(notes(&["--set-string", "server.settings.historyMaxBytes=0"]).contains("No history is kept"));
    let external = |more: &str| notes(&["--set", &format!("database.mode=external,{more}")]);
    let (secret, port) = ("database.external.existingSecret.name=db", "networkPolicy.externalDatabase.port=6432");
    let said = external(secret);
    assert!(
        said.contains("port 5432 alone. If the URL in the Secret db has another port, set\nnetworkPolicy.externalDatabase.port."),
        "{said}"
    );
    assert!(external(&format!("{secret},{port}")).contains("port 6432 alone"));
    let open = format!("{secret},networkPolicy.enabled=false");
    for unneeded in [open.as_str(), "database.external.dsn=postgres://h:6432/d"] {
        assert!(!external(unneeded).contains("has another port"), "{unneeded}");
    }
}

/// `--reuse-values` keeps the limit of an older chart.
#[test]
fn the_notes_name_a_memory_limit_that_is_too_low() {
    if !have_helm() {
        return;
    }
    let too_low = "memory limit (512Mi) is below";
    assert!(notes(&["--set", "server.resources.limits.memory=512Mi"]).contains(too_low));
    for enough in ["server.resources.limits.memory=2Gi", "server.resources.limits.memory=null", "server.settings.queryMaxBytes=4GiB"] {
        assert!(!notes(&["--set", enough]).contains("is below what"), "{enough}");
    }
}
