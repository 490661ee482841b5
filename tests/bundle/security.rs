//! PodSecurity `restricted`, checked as the admission plugin does, and more.

use serde_json::{Value, json};

use crate::render::{ALL_APIS, ci_values, have_helm, name, rendered, text};

fn pod_spec(object: &Value) -> Option<&Value> {
    match text(object, "/kind") {
        "Pod" => object.get("spec"),
        "Deployment" | "DaemonSet" | "StatefulSet" | "Job" => object.pointer("/spec/template/spec"),
        _ => None,
    }
}

/// Why the pod does not satisfy `restricted`.
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
fn every_pod_is_restricted_unless_the_node_is_mounted() {
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
        // Reading statistics of the own node's kubelet is all that anything is allowed.
        for rights in objects.iter().filter(|object| text(object, "/kind").contains("Role")) {
            assert!(text(rights, "/metadata/name").contains("-agent-"), "{file}: {}", name(rights));
        }
    }
}

/// A secret appears in Secrets only.
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

/// OpenShift assigns the ids itself and refuses pods that name others.
#[test]
fn user_and_group_ids_can_be_changed_and_unset() {
    if !have_helm() {
        return;
    }
    let contexts = |values: &Value| {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), values.to_string()).expect("JSON is YAML");
        let objects = rendered(&ALL_APIS, &["--values", file.path().to_str().expect("text")]);
        let pods: Vec<_> = objects.iter().filter_map(pod_spec).map(|pod| pod["securityContext"].clone()).collect();
        assert_eq!(pods.len(), 4, "the server, the agent, the sink and the self-check");
        pods
    };
    let restricted = json!({"runAsNonRoot": true, "fsGroupChangePolicy": "OnRootMismatch", "seccompProfile": {"type": "RuntimeDefault"}});
    let with = |ids: &Value| {
        let mut context = restricted.clone();
        context.as_object_mut().expect("an object").extend(ids.as_object().expect("an object").clone());
        context
    };

    // Helm ignores a null in a parent chart's values.yaml, so an empty string does the same.
    for nothing in [json!(null), json!("")] {
        let unset = json!({"runAsUser": nothing, "runAsGroup": nothing, "fsGroup": nothing});
        for context in contexts(&json!({"podSecurityContext": unset})) {
            assert_eq!(context, restricted, "{nothing:?}");
        }
    }
    // As large as OpenShift's ids are: not to be written 1.00068e+09.
    let large = json!({"runAsUser": 1_000_680_000, "runAsGroup": 0, "fsGroup": 1_000_680_000});
    for context in contexts(&json!({"podSecurityContext": large})) {
        assert_eq!(context, with(&large));
    }
    let more = json!({"supplementalGroups": [5], "fsGroupChangePolicy": "Always"});
    for context in contexts(&json!({"podSecurityContext": more})) {
        assert_eq!(
            context,
            with(
                &json!({"runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532, "supplementalGroups": [5], "fsGroupChangePolicy": "Always"})
            )
        );
    }
}

/// What agents may ask a kubelet, and everything that goes with it, follows the values.
#[test]
fn agents_read_from_kubelets_what_the_values_say_and_nothing_else() {
    if !have_helm() {
        return;
    }
    let read_only = |resources: Value| json!([{"apiGroups": [""], "resources": resources, "verbs": ["get"]}]);
    for (set, resources) in [
        ("agent.enabled=true", Some(json!(["nodes/stats"]))),
        ("agent.pods.details=true", Some(json!(["nodes/stats", "nodes/metrics", "nodes/pods"]))),
        ("agent.scrape.pods=true", Some(json!(["nodes/stats", "nodes/pods"]))),
        ("agent.pods.enabled=false", None),
        ("agent.pods.enabled=false,agent.pods.details=true", None),
        ("agent.enabled=false", None),
    ] {
        let objects = rendered(&ALL_APIS, &["--set", set, "--namespace", "metrics"]);
        let of_kind = |kind: &str| objects.iter().filter(|object| text(object, "/kind") == kind).collect::<Vec<_>>();
        let (roles, bindings) = (of_kind("ClusterRole"), of_kind("ClusterRoleBinding"));
        assert_eq!((roles.len(), bindings.len()), (usize::from(resources.is_some()), usize::from(resources.is_some())), "--set {set}");
        assert!(of_kind("Role").is_empty() && of_kind("RoleBinding").is_empty(), "--set {set}");
        let agents = objects.iter().filter(|object| text(object, "/kind") == "DaemonSet");
        let egress =
            objects.iter().find(|object| name(object) == "NetworkPolicy/golectra-agent").map(|policy| policy["spec"]["egress"].to_string());
        for agent in agents {
            let everything = agent.to_string();
            for word in ["KUBELET", "HOST_IP", "PODS_DETAILS", "serviceAccountToken", "kube-root-ca.crt"] {
                let expected = resources.is_some() && (word != "PODS_DETAILS" || set.contains("details"));
                assert_eq!(everything.contains(word), expected, "--set {set}: {word}");
            }
            assert_eq!(egress.as_ref().is_some_and(|rules| rules.contains("10250")), resources.is_some(), "--set {set}");
        }
        let Some(resources) = resources else { continue };
        assert_eq!(roles[0]["rules"], read_only(resources), "--set {set}");
        assert_eq!(text(bindings[0], "/roleRef/name"), text(roles[0], "/metadata/name"));
        let subject = json!([{"kind": "ServiceAccount", "name": "golectra-agent", "namespace": "metrics"}]);
        assert_eq!(bindings[0]["subjects"], subject, "--set {set}");
    }
}

#[test]
fn the_kubelets_address_and_authority_can_be_changed() {
    if !have_helm() {
        return;
    }
    let set = "agent.kubelet.port=10260,agent.kubelet.tls=verify,agent.kubelet.caConfigMap.name=kubelet-ca,agent.kubelet.caConfigMap.key=bundle.pem,\
        networkPolicy.kubelet.cidrs[0]=10.0.0.0/8,agent.pods.maxSeries=5000,agent.pods.namespaces={shop,web-*},agent.pods.excludeNamespaces={kube-system}";
    let objects = rendered(&ALL_APIS, &["--set", set]);
    let agent = &crate::render::find(&objects, "DaemonSet/golectra-agent")["spec"]["template"]["spec"];
    let value = |name: &str| {
        let variables = agent["containers"][0]["env"].as_array().expect("variables");
        let place = variables.iter().position(|variable| text(variable, "/name") == name).unwrap_or_else(|| panic!("{name} is not set"));
        (place, text(&variables[place], "/value").to_owned())
    };
    let (url, own) = (value("KUBELET_URL"), value("HOST_IP"));
    assert_eq!(url.1, "https://$(HOST_IP):10260");
    assert!(own.0 < url.0, "Kubernetes puts a variable into those that follow it only");
    assert_eq!((value("KUBELET_TLS").1.as_str(), value("PODS_MAX_SERIES").1.as_str()), ("verify", "5000"));
    assert_eq!((value("PODS_NAMESPACES").1.as_str(), value("PODS_EXCLUDE_NAMESPACES").1.as_str()), ("shop,web-*", "kube-system"));
    let authority = agent.pointer("/volumes/1/projected/sources/1/configMap").expect("a ConfigMap");
    assert_eq!(*authority, json!({"name": "kubelet-ca", "items": [{"key": "bundle.pem", "path": "ca.crt"}]}));
    let rule = json!({"ports": [{"port": 10260}], "to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]});
    let egress = &crate::render::find(&objects, "NetworkPolicy/golectra-agent")["spec"]["egress"];
    assert!(egress.as_array().expect("rules").contains(&rule), "{egress}");
    let error = crate::render::helm_template(&ALL_APIS, &["--set", "agent.kubelet.tls=off"]).expect_err("it is refused");
    assert!(error.contains("/agent/kubelet/tls"), "{error}");
}
