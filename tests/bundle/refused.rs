//! Values that the chart refuses, each with a message that names the value and says what to do.

use crate::render::{ALL_APIS, chart, have_helm, helm_template, helm_template_as};

fn refusal(apis: &[&str], set: &[&str]) -> String {
    let arguments: Vec<&str> = set.iter().flat_map(|value| ["--set", value]).collect();
    match helm_template(apis, &arguments) {
        Ok(_) => panic!("{set:?} was not refused"),
        Err(error) => error,
    }
}

/// Typos are named with their path, at every level.
#[test]
fn typos_are_named() {
    if !have_helm() {
        return;
    }
    for (set, path, word) in [
        ("servr.replicas=2", "", "servr"),
        ("server.replcas=2", "/server", "replcas"),
        ("server.settings.maxSerie=2", "/server/settings", "maxSerie"),
        ("server.image.tagg=x", "/server/image", "tagg"),
        ("server.resources.limit.cpu=1", "/server/resources", "limit"),
        ("server.resources.limits.mem=1", "/server/resources/limits", "mem"),
        ("server.ingress.host=x", "/server/ingress", "host"),
        ("agent.hostMount=x", "/agent", "hostMount"),
        ("agent.hostMounts.sys=true", "/agent/hostMounts", "sys"),
        ("agent.tolerations[0].operater=Exists", "/agent/tolerations/0", "operater"),
        ("database.cnpg.instance=1", "/database/cnpg", "instance"),
        ("database.cnpg.storage.class=x", "/database/cnpg/storage", "class"),
        ("database.cnpg.synchronous.count=1", "/database/cnpg/synchronous", "count"),
        ("database.external.existingSecret.keyy=x", "/database/external/existingSecret", "keyy"),
        ("keys.hash.vaule=x", "/keys/hash", "vaule"),
        ("access.token=true", "/access", "token"),
        ("signatures.keyID=x", "/signatures", "keyID"),
        ("auditSink.storage.sise=1Gi", "/auditSink/storage", "sise"),
        ("networkPolicy.scraper=x", "/networkPolicy", "scraper"),
        ("networkPolicy.scrapers[0].podSelectors.a=b", "/networkPolicy/scrapers/0", "podSelectors"),
        ("podSecurityContext.runAsUsr=1", "/podSecurityContext", "runAsUsr"),
        ("monitoring.rules.enable=true", "/monitoring/rules", "enable"),
        ("alerts.receiver=x", "/alerts", "receiver"),
    ] {
        let error = refusal(&ALL_APIS, &[set]);
        assert!(error.contains(&format!("'{path}'")) && error.contains(word), "--set {set}: {error}");
    }
}

#[test]
fn values_out_of_range_are_named() {
    if !have_helm() {
        return;
    }
    for (set, path) in [
        ("nameOverride=Metrics", "/nameOverride"),
        ("nameOverride=a.b", "/nameOverride"),
        ("fullnameOverride=my_metrics", "/fullnameOverride"),
        ("fullnameOverride=1metrics", "/fullnameOverride"),
        ("fullnameOverride=metrics-", "/fullnameOverride"),
        ("database.mode=postgres", "/database/mode"),
        ("database.cnpg.instances=0", "/database/cnpg/instances"),
        ("database.cnpg.synchronous.dataDurability=always", "/database/cnpg/synchronous/dataDurability"),
        ("database.cnpg.storage.size=8Gb", "/database/cnpg/storage/size"),
        ("database.cnpg.extraSpec.instances=1", "/database/cnpg/extraSpec/instances"),
        ("database.external.dsn=mysql://x", "/database/external/dsn"),
        ("agent.scrape.urls[0]=localhost:9100", "/agent/scrape/urls/0"),
        ("agent.scrape.urls[0]=http://user@host/metrics", "/agent/scrape/urls/0"),
        ("server.replicas=0", "/server/replicas"),
        ("access.proxy.role=write", "/access/proxy/role"),
        ("access.proxy.header=a b", "/access/proxy/header"),
        ("signatures.mode=strict", "/signatures/mode"),
        ("signatures.keyId=.x", "/signatures/keyId"),
        ("server.service.port=70000", "/server/service/port"),
        ("server.service.type=External", "/server/service/type"),
        ("server.image.digest=abc", "/server/image/digest"),
        ("server.settings.logFormat=xml", "/server/settings/logFormat"),
        ("agent.settings.reportInterval=fast", "/agent/settings/reportInterval"),
        ("agent.hostMounts.proc=yes", "/agent/hostMounts/proc"),
        ("agent.maxUnavailable=0", "/agent/maxUnavailable"),
        ("agent.maxUnavailable=0%", "/agent/maxUnavailable"),
        ("agent.maxUnavailable=101%", "/agent/maxUnavailable"),
        ("agent.spool.sizeMiB=0", "/agent/spool/sizeMiB"),
        ("agent.spool.hostPath=here", "/agent/spool/hostPath"),
        ("agent.textfile.hostPath=here", "/agent/textfile/hostPath"),
        ("image.pullPolicy=Sometimes", "/image/pullPolicy"),
        ("podSecurityContext.runAsUser=nobody", "/podSecurityContext/runAsUser"),
        ("networkPolicy.dnsPorts[0]=dns", "/networkPolicy/dnsPorts/0"),
        ("alerts.evaluationInterval=often", "/alerts/evaluationInterval"),
        ("alerts.receivers[0].name=a b", "/alerts/receivers/0/name"),
        ("alerts.receivers[0].email.tls=maybe", "/alerts/receivers/0/email/tls"),
        ("alerts.externalUrl=golectra.example.com", "/alerts/externalUrl"),
        ("alerts.quietHours[0].from=night", "/alerts/quietHours/0/from"),
        ("alerts.secrets[0]=My_Secret", "/alerts/secrets/0"),
        ("alerts.ruleFiles.a\\.yaml.group=x", "/alerts/ruleFiles/a.yaml"),
        ("panels.a\\.yaml.page=x", "/panels/a.yaml"),
        ("panels.a\\.yaml.pages[0].name=A page", "/panels/a.yaml/pages/0"),
        ("panels.a\\.txt.pages=x", "a.txt"),
        ("alerts.receivers[0].name=a", "/alerts/receivers/0"),
        ("alerts.receivers[0].min_severity=warn", "/alerts/receivers/0/min_severity"),
        ("alerts.receivers[0].webhok.url=http://h/", "/alerts/receivers/0"),
        ("alerts.receivers[0].slack.url=http://h/", "/alerts/receivers/0/slack"),
        ("alerts.receivers[0].webhook.url=h:80", "/alerts/receivers/0/webhook/url"),
        ("alerts.receivers[0].ntfy.key_file=/k", "/alerts/receivers/0/ntfy"),
    ] {
        let error = refusal(&ALL_APIS, &[set]);
        assert!(error.contains(&format!("'{path}'")), "--set {set}: {error}");
    }
}

/// Numbers at which a program would refuse to start, as numbers and as text.
#[test]
fn numbers_have_the_programs_bounds() {
    if !have_helm() {
        return;
    }
    for (value, least, most) in [
        ("agent.settings.rateLimit", 1, 64),
        ("agent.settings.queueBatches", 1, 1_000_000),
        ("agent.pods.maxSeries", 100, 1_000_000),
        ("agent.scrape.maxSeries", 100, 1_000_000),
        ("server.settings.queryConcurrency", 1, 256),
    ] {
        let path = format!("'/{}'", value.replace('.', "/"));
        for set in ["--set", "--set-string"] {
            for number in [least, most] {
                helm_template(&ALL_APIS, &[set, &format!("{value}={number}")])
                    .unwrap_or_else(|error| panic!("{set} {value}={number}: {error}"));
            }
            for number in [least - 1, most + 1] {
                let error = helm_template(&ALL_APIS, &[set, &format!("{value}={number}")]).expect_err("it is refused");
                assert!(error.contains(&path), "{set} {value}={number}: {error}");
            }
        }
    }
}

/// Contradictions that the schema cannot express: one sentence that names the values and what to do.
#[test]
fn releases_whose_services_kubernetes_refuses_are_refused() {
    if !have_helm() {
        return;
    }
    for (release, name) in [("1abc", "1abc-golectra"), ("my.release", "my.release-golectra")] {
        let refusal = helm_template_as(release, &chart(), &ALL_APIS, &[]).expect_err(release);
        assert!(refusal.contains(name) && refusal.contains("set fullnameOverride"), "{refusal}");
        let rendered = helm_template_as(release, &chart(), &ALL_APIS, &["--set", "fullnameOverride=metrics"]);
        assert!(rendered.is_ok(), "{rendered:?}");
    }
}

#[test]
fn contradictions_are_explained_in_a_sentence() {
    if !have_helm() {
        return;
    }
    let cases: [(&[&str], &[&str], &[&str]); 20] = [
        (&[], &[], &["CloudNativePG operator", "database.mode=external", "database.mode=embedded", "--api-versions postgresql.cnpg.io/v1"]),
        (&ALL_APIS[1..], &[], &["CloudNativePG operator"]),
        (&[], &["database.mode=external"], &["database.external.dsn", "database.external.existingSecret.name"]),
        (
            &[],
            &["database.mode=external", "database.external.dsn=postgres://h/d", "database.external.existingSecret.name=x"],
            &["keep one"],
        ),
        (&ALL_APIS, &["database.external.dsn=postgres://h/d"], &["database.mode is cnpg", "database.mode=external"]),
        (&[], &["database.mode=embedded", "server.autoscaling.enabled=true"], &["server.autoscaling.enabled=false"]),
        (&ALL_APIS, &["server.autoscaling.enabled=true", "server.autoscaling.minReplicas=9"], &["minReplicas", "maxReplicas"]),
        (&ALL_APIS, &["keys.hash.value=x", "keys.hash.existingSecret.name=y"], &["keys.hash.value", "keep one"]),
        (&ALL_APIS, &["signatures.keyId=k"], &["signatures.existingSecret.name"]),
        (&ALL_APIS, &["database.cnpg.synchronous.number=3"], &["database.cnpg.instances=3"]),
        (&ALL_APIS, &["server.ingress.enabled=true", "access.tokens=true"], &["server.ingress.hosts"]),
        (&ALL_APIS, &["server.ingress.enabled=true", "server.ingress.hosts[0]=h"], &["access.tokens=true", "access.anonymous=true"]),
        (&ALL_APIS, &["server.httpRoute.enabled=true"], &["access.tokens=true", "access.proxy.header"]),
        (&ALL_APIS, &["server.service.type=LoadBalancer"], &["access.tokens=true", "server.apiTokens.existingSecret.name"]),
        (&ALL_APIS, &["access.proxy.header=X-User"], &["access.proxy.trustedProxies"]),
        (&ALL_APIS, &["access.tokens=true", "server.apiTokens.existingSecret.name=t"], &["keep one"]),
        (&ALL_APIS, &["agent.scrape.pods=true", "agent.pods.enabled=false"], &["agent.pods.enabled=true"]),
        (&ALL_APIS, &["server.settings.historyMaxBytes=7GiB"], &["historyMaxBytes=7GiB", "database.cnpg.storage.size=8Gi", "6553MiB"]),
        (
            &ALL_APIS,
            &["database.cnpg.extraSpec.walStorage.size=1Gi", "server.settings.historyMaxBytes=8GiB"],
            &["database.cnpg.storage.size=8Gi: set at most 7782MiB"],
        ),
        (
            &[],
            &["database.mode=embedded", "server.settings.historyMaxBytes=1000000000"],
            &["historyMaxBytes=1000000000", "database.embedded.storage.size=2Gi", "921MiB"],
        ),
    ];
    for (apis, set, words) in cases {
        let error = refusal(apis, set);
        let sentence = error.split("validate.yaml:1:4): ").nth(1).and_then(|rest| rest.lines().next()).unwrap_or_default();
        assert!(sentence.ends_with('.') && sentence.matches(". ").count() == 0, "--set {set:?}: the message is not one sentence: {error}");
        for word in words {
            assert!(sentence.contains(word), "--set {set:?}: {word:?} is not in {sentence:?}");
        }
        assert!(!sentence.contains("postgres://h"), "an error contains the URL of a database: {sentence}");
    }
}

/// Older charts took a history that does not fit, and `helm upgrade --reuse-values` goes on with it.
#[test]
fn an_upgrade_keeps_a_history_that_an_install_refuses() {
    if !have_helm() {
        return;
    }
    for set in ["server.settings.historyMaxBytes=7GiB", "database.mode=embedded,server.settings.historyMaxBytes=1GiB"] {
        assert!(helm_template(&ALL_APIS, &["--set", set]).is_err(), "--set {set}");
        helm_template(&ALL_APIS, &["--is-upgrade", "--set", set]).unwrap_or_else(|error| panic!("--is-upgrade --set {set}: {error}"));
    }
}

/// Valid values that are close to refused ones.
#[test]
fn valid_values_are_accepted() {
    if !have_helm() {
        return;
    }
    for set in [
        "nameOverride=0-metrics",
        "nameOverride=",
        "fullnameOverride=m",
        "fullnameOverride=my-metrics-2",
        "fullnameOverride=",
        "database.cnpg.instances=1",
        "server.settings.maxSeries=5000000",
        "server.settings.headerTimeout=15",
        "server.preStopSeconds=0",
        "agent.maxUnavailable=1",
        "agent.maxUnavailable=100%",
        "global.anything=x",
        "enabled=true",
        "podSecurityContext.runAsUser=1000",
        "podSecurityContext.seccompProfile.type=Localhost",
        "signatures.mode=required",
        "signatures.existingSecret.name=x",
        "database.cnpg.extraSpec.walStorage.size=1Gi",
        "server.settings.historyMaxBytes=6553MiB",
        "database.cnpg.extraSpec.walStorage.size=1Gi,server.settings.historyMaxBytes=7782MiB",
        "server.settings.historyMaxBytes=0B",
        "database.mode=embedded,server.settings.historyMaxBytes=921MiB",
        "database.mode=external,database.external.dsn=postgres://h/d,server.settings.historyMaxBytes=20TiB",
    ] {
        helm_template(&ALL_APIS, &["--set", set]).unwrap_or_else(|error| panic!("--set {set}: {error}"));
    }
    let large = helm_template(&ALL_APIS, &["--set", "server.settings.maxSeries=5000000"]).expect("it renders");
    assert!(large.contains(r#"value: "5000000""#), "a large number is not written 5e+06");
}
