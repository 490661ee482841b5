//! PodSecurity `restricted`, checked by hand as the admission plugin does it, and what goes beyond it.

use serde_json::{Value, json};

use crate::render::{ALL_APIS, ci_values, have_helm, name, rendered, text};

fn pod_spec(object: &Value) -> Option<&Value> {
    match text(object, "/kind") {
        "Pod" => object.get("spec"),
        "Deployment" | "DaemonSet" | "StatefulSet" | "Job" => object.pointer("/spec/template/spec"),
        _ => None,
    }
}

/// Why the pod is not `restricted`.
fn violations(pod: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for field in ["hostNetwork", "hostPID", "hostIPC"] {
        if pod.get(field).is_some() {
            found.push(format!("{field} is set"));
        }
    }
    let context = &pod["securityContext"];
    if context["runAsNonRoot"] != true || context["runAsUser"] != 65532 {
        found.push("may run as root".into());
    }
    if text(pod, "/securityContext/seccompProfile/type") != "RuntimeDefault" {
        found.push("has no seccomp profile".into());
    }
    if pod["automountServiceAccountToken"] != false {
        found.push("gets a token".into());
    }
    for volume in pod["volumes"].as_array().into_iter().flatten() {
        let allowed = ["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"];
        if !allowed.iter().any(|kind| volume.get(kind).is_some()) {
            found.push(format!("mounts {volume}"));
        }
    }
    for container in pod["containers"].as_array().into_iter().chain(pod["initContainers"].as_array()).flatten() {
        let context = &container["securityContext"];
        let expected = json!({"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}});
        if *context != expected {
            found.push(format!("{} has the security context {context}", text(container, "/name")));
        }
        if container["ports"].as_array().into_iter().flatten().any(|port| port.get("hostPort").is_some()) {
            found.push("takes a port of the node".into());
        }
    }
    found
}

#[test]
fn every_pod_is_restricted_unless_folders_of_the_node_are_asked_for() {
    if !have_helm() {
        return;
    }
    for (file, path) in ci_values() {
        let objects = rendered(&ALL_APIS, &["--values", &path]);
        let mut pods = 0;
        for object in &objects {
            let Some(pod) = pod_spec(object) else { continue };
            pods += 1;
            let found = violations(pod);
            if file == "full-values.yaml" && text(object, "/kind") == "DaemonSet" {
                assert_eq!(found.len(), 3, "the two host mounts, the spool's folder and nothing else: {found:?}");
            } else {
                assert!(found.is_empty(), "{file}: {}: {found:?}", name(object));
            }
        }
        assert!(pods >= 2, "{file} has {pods} pods");
        for account in objects.iter().filter(|object| text(object, "/kind") == "ServiceAccount") {
            assert_eq!(account["automountServiceAccountToken"], false, "{file}: {}", name(account));
        }
        let rights = objects.iter().find(|object| text(object, "/kind").contains("Role"));
        assert!(rights.is_none(), "{file}: no part of golectra talks to the Kubernetes API");
    }
}

/// A secret is in a Secret and nowhere else.
#[test]
fn secrets_stay_in_secrets() {
    if !have_helm() {
        return;
    }
    let set =
        "keys.hash.value=TOPSECRET,keys.audit.value=TOPSECRET,database.mode=external,database.external.dsn=postgres://u:TOPSECRET@h/d";
    for object in rendered(&ALL_APIS, &["--set", set]) {
        if text(&object, "/kind") != "Secret" {
            assert!(!object.to_string().contains("TOPSECRET"), "{}", name(&object));
        }
    }
}

/// Each part talks only to those it has to, and nobody who is not named reaches the server.
#[test]
fn network_policies_cover_every_pod() {
    if !have_helm() {
        return;
    }
    let objects = rendered(&ALL_APIS, &[]);
    let policy = |wanted: &str| {
        let found = objects.iter().find(|object| name(object) == format!("NetworkPolicy/golectra-{wanted}"));
        found.unwrap_or_else(|| panic!("no policy for {wanted}"))
    };
    for component in ["server", "agent", "audit-sink"] {
        assert_eq!(policy(component)["spec"]["policyTypes"], json!(["Ingress", "Egress"]), "{component}");
    }
    assert_eq!(policy("audit-sink")["spec"]["egress"], json!([]), "the sink speaks to nobody");
    for rule in policy("server")["spec"]["ingress"].as_array().expect("rules") {
        assert!(rule["from"].as_array().is_some_and(|peers| !peers.is_empty()), "the server's {} are open to everybody", rule["ports"]);
    }
    let operator = policy("postgres")["spec"]["ingress"].as_array().expect("rules").iter().find(|rule| {
        rule["ports"].as_array().is_some_and(|ports| ports.contains(&json!({"port": 8000})) && ports.contains(&json!({"port": 5432})))
    });
    assert!(operator.is_some_and(|rule| rule.to_string().contains("cnpg-system")), "the operator reaches the instances");
}
