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
    for field in ["instances", "postgresql", "storage", "resources", "bootstrap"] {
        assert_eq!(spec[field], standard[field], "{field}");
    }
}
