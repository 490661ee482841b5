//! The CloudNativePG Cluster: how its database is made or restored, and what `extraSpec` may change.

use std::fs;

use serde_json::{Value, json};

use crate::defaults::copy_folder;
use crate::render::{ALL_APIS, chart, find, have_helm, helm_template_of, parse, rendered, text};

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

/// The operator sets some labels itself: it selects by `role` and its own, and never stops changing others of a volume that are inherited too.
#[test]
fn common_labels_and_pull_secrets_reach_the_instances() {
    if !have_helm() {
        return;
    }
    let spec = |values: &[&str]| {
        let arguments: Vec<&str> = values.iter().flat_map(|value| ["--set-json", *value]).collect();
        find(&rendered(&ALL_APIS, &arguments), "Cluster/golectra-postgres")["spec"].clone()
    };
    let standard = spec(&[]);
    assert!(standard.get("imagePullSecrets").is_none() && standard.get("inheritedMetadata").is_none(), "{standard}");
    let secrets = r#"imagePullSecrets=[{"name":"registry"}]"#;
    let labels = json!({
        "team": "a", "app.kubernetes.io/part-of": "b", "role": "c", "cnpg.io/cluster": "d", "alpha.cnpg.io/x": "e",
        "app.kubernetes.io/name": "f", "app.kubernetes.io/instance": "g", "app.kubernetes.io/version": "h",
        "app.kubernetes.io/component": "i", "app.kubernetes.io/managed-by": "j",
    });
    let labels = format!("commonLabels={labels}");
    let common = spec(&[secrets, &labels]);
    assert_eq!(common["imagePullSecrets"], json!([{"name": "registry"}]));
    assert_eq!(common["inheritedMetadata"], json!({"labels": {"team": "a", "app.kubernetes.io/part-of": "b"}}));
    assert!(spec(&[r#"commonLabels={"role":"c"}"#]).get("inheritedMetadata").is_none(), "no label is left");
    let given = json!({"imagePullSecrets": [{"name": "mine"}], "inheritedMetadata": {"annotations": {"a": "b"}}});
    let own = spec(&[secrets, &labels, &format!("database.cnpg.extraSpec={given}")]);
    for field in ["imagePullSecrets", "inheritedMetadata"] {
        assert_eq!(own[field], given[field], "{field}");
    }
}

/// The notes with these values of `database.cnpg`, where `lookup` finds this Cluster, which is written as a template. `helm install` without a cluster doesn't
/// know the operator, so a copy of the chart renders its notes as an object.
fn notes(cnpg: &Value, cluster: &str) -> String {
    const LOOKUP: &str = r#"lookup "postgresql.cnpg.io/v1" "Cluster" .Release.Namespace $postgres"#;
    const OBJECT: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: notes}\ndata:\n  notes: {{ include \"notes\" . | toJson }}\n";
    let folder = tempfile::tempdir().expect("a folder");
    let copy = folder.path().join("golectra");
    copy_folder(&chart(), &copy);
    let template = fs::read_to_string(copy.join("templates/NOTES.txt")).expect("NOTES.txt");
    assert!(template.contains(LOOKUP), "the notes don't look the Cluster up");
    let template = template.replace(LOOKUP, cluster);
    let template = format!("{{{{- define \"notes\" -}}}}\n{template}{{{{- end -}}}}\n{OBJECT}");
    fs::write(copy.join("templates/notes.yaml"), template).expect("our own folder");
    let rendered = helm_template_of(&copy, &ALL_APIS, &["--set-json", &format!("database.cnpg={cnpg}")]);
    let objects = parse(&rendered.unwrap_or_else(|error| panic!("{cnpg}: {error}")));
    text(find(&objects, "ConfigMap/notes"), "/data/notes").to_owned()
}

/// Archived WAL is of no use without a base backup.
#[test]
fn the_notes_say_what_backups_lack() {
    if !have_helm() {
        return;
    }
    let (none, no_base, archived) = ("No backups are configured", "Nothing can be restored without a base backup", "WAL is archived.");
    let said = notes(&json!({}), "dict");
    assert!(said.contains(none) && !said.contains(no_base) && !said.contains("has no effect on it"), "{said}");
    let plugin = json!({"extraSpec": {"plugins": [{"name": "barman-cloud.cloudnative-pg.io", "isWALArchiver": true}]}});
    let store = json!({"backup": {"barmanObjectStore": {"destinationPath": "s3://b/"}}});
    let snapshots = json!({"backup": {"volumeSnapshot": {"className": "c"}}});
    let names = json!({"extraSpec": {"plugins": ["barman-cloud.cloudnative-pg.io"]}});
    let with_backup = |status: &str| {
        let backup = format!(r#"(dict "type" "LastBackupSucceeded" "status" "{status}")"#);
        format!(r#"(dict "status" (dict "conditions" (list (dict "type" "Ready" "status" "True") {backup})))"#)
    };
    let (made, failed) = (with_backup("True"), with_backup("False"));
    let ready = r#"(dict "status" (dict "conditions" (list (dict "type" "Ready" "status" "True"))))"#;
    for (cnpg, archives) in [(plugin, true), (store, true), (snapshots, false), (names, false)] {
        for cluster in ["dict", ready, r#"(dict "kind" "Cluster")"#, failed.as_str()] {
            let said = notes(&cnpg, cluster);
            assert!(!said.contains(none) && said.contains(no_base) && said.contains("Cluster\ngolectra-postgres, as"), "{cnpg}: {said}");
            assert_eq!(said.contains(archived), archives, "{cnpg}: {said}");
        }
        let said = notes(&cnpg, &made);
        assert!(!said.contains(none) && !said.contains(no_base) && !said.contains(archived), "{cnpg}: {said}");
    }
    let restored = json!({"extraSpec": {"bootstrap": {"recovery": {"source": "b"}}}});
    assert!(notes(&restored, &made).contains("has no effect on it") && !notes(&restored, "dict").contains("has no effect on it"));
}

/// The objects and values that README.md shows belong together.
#[test]
fn the_readmes_backup_is_one_of_the_cluster() {
    if !have_helm() {
        return;
    }
    let readme = fs::read_to_string(chart().join("README.md")).expect("README.md");
    let section = readme.split_once("\n## Backups\n").expect("a section on backups").1;
    let section = section.split_once("\n## ").expect("it ends").0;
    let is_yaml = |block: &&str| block.lines().all(|line| line.starts_with("       ")) && !block.contains("kubectl ");
    let shown: Vec<Value> = section.split("\n\n").filter(is_yaml).flat_map(parse).collect();
    let [store, values, schedule] = &shown[..] else { panic!("{shown:?}") };
    let objects = rendered(&ALL_APIS, &["--set-json", &format!("database={}", values["database"])]);
    let cluster = find(&objects, "Cluster/golectra-postgres");
    let plugin = &cluster["spec"]["plugins"][0];
    assert_eq!(plugin["isWALArchiver"], true);
    assert_eq!(plugin["parameters"]["barmanObjectName"], store["metadata"]["name"]);
    assert_eq!(schedule["spec"]["pluginConfiguration"]["name"], plugin["name"]);
    assert_eq!(schedule["spec"]["cluster"]["name"], cluster["metadata"]["name"]);
    assert_eq!(text(schedule, "/spec/schedule").split(' ').count(), 6, "the operator's schedules begin with the seconds");
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
