//! The CloudNativePG Cluster: how its database is made or restored, and what `extraSpec` may change.

use serde_json::{Value, json};

use crate::render::{ALL_APIS, find, have_helm, rendered, text};

fn spec(extra: &Value) -> Value {
    let set = format!("database.cnpg.extraSpec={extra}");
    find(&rendered(&ALL_APIS, &["--set-json", &set]), "Cluster/golectra-postgres")["spec"].clone()
}

/// The operator calls the database of a restored Cluster `app` unless it is told the name, and then the server finds an empty one.
#[test]
fn a_restored_cluster_has_the_database_golectra() {
    if !have_helm() {
        return;
    }
    let named = |given: &Value| {
        let mut named = given.clone();
        named.as_object_mut().expect("an object").extend([("database".into(), "golectra".into()), ("owner".into(), "golectra".into())]);
        named
    };
    assert_eq!(spec(&json!({}))["bootstrap"], json!({"initdb": named(&json!({"dataChecksums": true}))}));
    for (method, given) in [
        ("recovery", json!({"source": "backup", "recoveryTarget": {"targetTime": "2026-01-02 03:04:05+00"}})),
        ("recovery", json!({"backup": {"name": "backup-1"}})),
        ("pg_basebackup", json!({"source": "other"})),
        ("initdb", json!({"encoding": "UTF8", "walSegmentSize": 32})),
        ("initdb", json!({})),
    ] {
        let spec = spec(&json!({"bootstrap": {method: given}, "externalClusters": [{"name": "backup"}]}));
        assert_eq!(spec["bootstrap"], json!({method: named(&given)}));
        assert_eq!(spec["externalClusters"], json!([{"name": "backup"}]), "the rest is passed on");
    }
    // An import of a whole server brings its databases with it, and the operator refuses a name.
    let import = json!({"import": {"type": "monolith", "source": {"externalCluster": "b"}, "databases": ["*"], "roles": ["*"]}});
    assert_eq!(spec(&json!({"bootstrap": {"initdb": import}}))["bootstrap"]["initdb"], import);
    // A name that is given stays, and the owner then is the operator's choice.
    for given in [json!({"source": "b", "database": "metrics", "owner": "me"}), json!({"source": "b", "database": "metrics"})] {
        assert_eq!(spec(&json!({"bootstrap": {"recovery": given}}))["bootstrap"]["recovery"], given);
    }
}

#[test]
fn extra_fields_replace_the_charts() {
    if !have_helm() {
        return;
    }
    let standard = spec(&json!({}));
    let spec = spec(&json!({"description": "mine", "smartShutdownTimeout": 30, "enablePDB": false, "walStorage": {"size": "1Gi"}}));
    assert_eq!(text(&spec, "/description"), "mine");
    assert_eq!(
        (&spec["smartShutdownTimeout"], &spec["enablePDB"], &spec["walStorage"]["size"]),
        (&json!(30), &json!(false), &json!("1Gi"))
    );
    for field in ["instances", "storage", "resources", "bootstrap"] {
        assert_eq!(spec[field], standard[field], "{field}");
    }
    assert_eq!(spec["postgresql"]["synchronous"], standard["postgresql"]["synchronous"]);
}

/// The Cluster's parameters, and what the history may take, with these values of `database.cnpg`.
fn parameters(cnpg: &Value) -> (Value, u64) {
    let objects = rendered(&ALL_APIS, &["--set-json", &format!("database.cnpg={cnpg}")]);
    let variables = find(&objects, "Deployment/golectra-server")["spec"]["template"]["spec"]["containers"][0]["env"].clone();
    let variables = variables.as_array().expect("variables");
    let history = variables.iter().find(|variable| text(variable, "/name") == "HISTORY_MAX_BYTES").expect("a limit");
    let history = text(history, "/value").parse().expect("a number");
    (find(&objects, "Cluster/golectra-postgres")["spec"]["postgresql"]["parameters"].clone(), history)
}

/// The operator makes a replication slot for each standby, and PostgreSQL keeps the log for one that is away without an end unless it is told one.
#[test]
fn the_log_that_waits_for_a_standby_does_not_fill_the_volume() {
    if !have_helm() {
        return;
    }
    let own = |cnpg: &Value| parameters(cnpg).0["max_slot_wal_keep_size"].clone();
    assert_eq!(own(&json!({})), "983MB", "12 % of 8Gi");
    assert_eq!(own(&json!({"storage": {"size": "500G"}})), "57220MB");
    assert_eq!(own(&json!({"parameters": {"max_slot_wal_keep_size": "-1"}})), "-1", "the user's");
    assert_eq!(own(&json!({"extraSpec": {"walStorage": {"size": "10Gi"}}})), "5120MB", "half of the log's own volume");
    for without in [json!({"instances": 1}), json!({"extraSpec": {"walStorage": {"pvcTemplate": {}}}})] {
        assert_eq!(parameters(&without).0, json!({"shared_buffers": "256MB"}), "{without}");
    }
    let given = json!({"storage": {"size": "1Gi"}, "parameters": {"wal_keep_size": "64MB", "min_wal_size": "200MB"}});
    let given = parameters(&given).0;
    assert_eq!((&given["wal_keep_size"], given.get("max_wal_size")), (&json!("64MB"), None), "{given}");
}

/// What is kept for standbys, what is kept always and what is written between two checkpoints, with the defaults of the operator and of PostgreSQL.
#[test]
fn the_history_and_the_log_fit_the_volume() {
    if !have_helm() {
        return;
    }
    for mebibytes in [512, 1024, 2048, 4096, 4300, 4608, 5120, 8192, 102_400] {
        for instances in [1, 3] {
            let volume = json!({"instances": instances, "storage": {"size": format!("{mebibytes}Mi")}});
            let (parameters, history) = parameters(&volume);
            let size = |name: &str, default: u64| {
                let given = parameters[name].as_str().map(|text| text.strip_suffix("MB").expect("megabytes").parse().expect("a number"));
                given.unwrap_or(default)
            };
            let kept = size("max_slot_wal_keep_size", 0).max(size("wal_keep_size", 512));
            let max_wal = size("max_wal_size", 1024);
            assert!(max_wal > 80, "{volume}: the operator refuses what is not above min_wal_size: {parameters}");
            // A checkpoint begins after this much, so that max_wal_size is not passed before it ends.
            let between = max_wal * 10 / 19;
            assert!((history >> 20) + kept + between <= mebibytes, "{volume}: {history} bytes of history, {kept} and {between} MiB of log");
        }
    }
}
