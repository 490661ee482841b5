//! `make images` with programs in place of docker, podman, buildah, kubectl, kind, k3d and minikube that write down how they were called.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::render::{ALL_APIS, find, have_helm, rendered, root, text};

/// Stands in for each program, which it knows by the name that it was called with.
const FAKE: &str = r#"#!/bin/sh
name=$(basename "$0")
echo "$name $*" >>"$CALLS"
case "$name $*" in
"docker info") exit "${DOCKER_INFO:-0}" ;;
"docker save -o "*) : >"$3" ;;
"podman save "*) : >"$6" ;;
"buildah push "*) archive=${4#docker-archive:}; : >"${archive%%:*}" ;;
"kubectl config current-context") [ -n "$CONTEXT" ] || exit 1; echo "$CONTEXT" ;;
"kubectl config view "*) printf %s "$PROVIDER" ;;
kind*|k3d*|minikube*)
    for argument; do case $argument in *.tar) [ -f "$argument" ] || { echo "no archive $argument" >&2; exit 3; } ;; esac; done
    ;;
esac
"#;

/// What the script itself is made of.
const TOOLS: [&str; 9] = ["bash", "sh", "env", "dirname", "basename", "sed", "mktemp", "rm", "git"];

struct Machine {
    folder: TempDir,
}

struct Run {
    calls: Vec<String>,
    said: String,
    code: Option<i32>,
}

impl Machine {
    /// A machine on which these programs are installed, and no others.
    fn with(programs: &[&str]) -> Self {
        let machine = Self { folder: tempfile::tempdir().expect("a folder") };
        fs::create_dir(machine.bin()).expect("a folder for programs");
        for tool in TOOLS {
            let path =
                std::env::split_paths(&std::env::var_os("PATH").expect("PATH")).map(|folder| folder.join(tool)).find(|path| path.is_file());
            symlink(path.unwrap_or_else(|| panic!("{tool} is not on PATH")), machine.bin().join(tool)).expect("a link");
        }
        for program in programs {
            let path = machine.bin().join(program);
            fs::write(&path, FAKE).expect("a program can be written");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("and made executable");
        }
        machine
    }

    fn bin(&self) -> PathBuf {
        self.folder.path().join("bin")
    }

    fn run(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Run {
        let calls = self.folder.path().join("calls");
        let _ = fs::remove_file(&calls);
        let output = Command::new(root().join("scripts/images"))
            .args(arguments)
            .env_clear()
            .env("PATH", self.bin())
            .env("CALLS", &calls)
            .env("TMPDIR", self.folder.path())
            .envs(variables.iter().copied())
            .output()
            .expect("the script starts");
        let left: Vec<_> = fs::read_dir(self.folder.path()).expect("the folder").map(|entry| entry.expect("entry").file_name()).collect();
        assert!(!left.iter().any(|name| name.to_string_lossy().starts_with("golectra-images")), "an archive is left behind: {left:?}");
        Run {
            calls: fs::read_to_string(&calls).unwrap_or_default().lines().map(str::to_owned).collect(),
            said: String::from_utf8_lossy(&output.stderr).into_owned(),
            code: output.status.code(),
        }
    }
}

impl Run {
    /// The calls of one program, without its name.
    fn calls_of(&self, program: &str) -> Vec<&str> {
        self.calls.iter().filter_map(|call| call.strip_prefix(program)?.strip_prefix(' ')).collect()
    }

    fn assert_ok(&self, what: &str) {
        assert_eq!(self.code, Some(0), "{what}: {}\n{:?}", self.said, self.calls);
    }
}

/// The version in Chart.yaml, which is what the chart's default tag follows from.
fn version() -> String {
    let chart = fs::read_to_string(root().join("charts/golectra/Chart.yaml")).expect("Chart.yaml");
    chart.lines().find_map(|line| line.strip_prefix("appVersion: ")).expect("appVersion").trim_matches('"').to_owned()
}

fn tags() -> [String; 2] {
    ["server", "agent"].map(|program| format!("ghcr.io/golectra/golectra-{program}:{}", version()))
}

const CLUSTERS: [(&str, &str, &str); 3] = [("kind", "kind-dev", ""), ("k3d", "k3d-dev", ""), ("minikube", "dev", "minikube.sigs.k8s.io")];

#[test]
fn each_tool_builds_both_images_and_loads_them_into_each_cluster() {
    for tool in ["docker", "podman", "buildah"] {
        for (cluster, context, provider) in CLUSTERS {
            let what = format!("{tool} and {cluster}");
            let run = Machine::with(&[tool, "kubectl", cluster]).run(&[], &[("CONTEXT", context), ("PROVIDER", provider)]);
            run.assert_ok(&what);
            let builds: Vec<_> = run.calls_of(tool).into_iter().filter(|call| call.starts_with("build ")).collect();
            assert_eq!(builds.len(), 2, "{what}: {:?}", run.calls);
            for (build, (program, tag)) in builds.iter().zip(["server", "agent"].iter().zip(tags())) {
                assert!(build.starts_with(&format!("build -f Dockerfile.{program} -t {tag} ")) && build.ends_with(" ."), "{what}: {build}");
                for argument in ["BUILD_VERSION", "BUILD_COMMIT", "BUILD_DATE"] {
                    assert!(build.contains(&format!("--build-arg {argument}=")), "{what}: {build}");
                }
            }
            let loads = run.calls_of(cluster);
            assert_eq!(loads.len(), 2, "{what}: {:?}", run.calls);
            for load in loads {
                // Without the folder of the archive, which is another one each time.
                let words: Vec<_> = load.split(' ').map(|word| word.rsplit('/').next().expect("a word")).collect();
                let expected: &[&str] = match cluster {
                    "kind" => &["load", "image-archive", "image.tar", "--name", "dev"],
                    "k3d" => &["image", "import", "image.tar", "--cluster", "dev"],
                    _ => &["--profile", "dev", "image", "load", "image.tar"],
                };
                assert_eq!(words, expected, "{what}");
            }
        }
    }
}

/// The images are found by an install with the chart's default values.
#[test]
fn the_names_are_those_that_the_chart_uses_by_default() {
    if !have_helm() {
        return;
    }
    let run = Machine::with(&["buildah"]).run(&[], &[]);
    run.assert_ok("buildah alone");
    let objects = rendered(&ALL_APIS, &[]);
    for (index, workload) in ["Deployment/golectra-server", "DaemonSet/golectra-agent"].into_iter().enumerate() {
        let container = &find(&objects, workload)["spec"]["template"]["spec"]["containers"][0];
        let image = text(container, "/image");
        assert!(run.calls[index].contains(&format!(" -t {image} ")), "{workload} runs {image}: {:?}", run.calls);
        assert_eq!(text(container, "/imagePullPolicy"), "IfNotPresent", "{workload}: an image that is on the node is used");
    }
}

#[test]
fn the_first_tool_that_works_is_used() {
    let run = Machine::with(&["docker", "podman", "buildah"]).run(&[], &[]);
    run.assert_ok("all three");
    assert_eq!((run.calls_of("podman").len(), run.calls_of("buildah").len()), (0, 0), "{:?}", run.calls);

    let run = Machine::with(&["docker", "podman"]).run(&[], &[("DOCKER_INFO", "1")]);
    run.assert_ok("docker without its daemon");
    assert_eq!((run.calls_of("docker"), run.calls_of("podman").len()), (vec!["info"], 2), "{:?}", run.calls);

    let run = Machine::with(&["docker", "buildah"]).run(&[], &[("CONTAINER_TOOL", "buildah")]);
    run.assert_ok("CONTAINER_TOOL");
    assert_eq!((run.calls_of("docker").len(), run.calls_of("buildah").len()), (0, 2), "{:?}", run.calls);
}

#[test]
fn what_is_missing_is_said_before_anything_is_built() {
    for (programs, variables, words) in [
        (&[] as &[&str], &[] as &[(&str, &str)], "none of docker, podman and buildah is installed"),
        (&["docker"], &[("DOCKER_INFO", "1")], "its daemon does not answer"),
        (&["docker"], &[("CONTAINER_TOOL", "nerdctl")], "choose docker, podman or buildah"),
        (&["docker"], &[("CONTAINER_TOOL", "podman")], "CONTAINER_TOOL=podman does not work here"),
        (&["docker", "kubectl"], &[("CONTEXT", "kind-dev")], "kind is not on PATH"),
        (&["docker", "kubectl"], &[("CONTEXT", "work"), ("PROVIDER", "minikube.sigs.k8s.io")], "minikube is not on PATH"),
    ] {
        let run = Machine::with(programs).run(&[], variables);
        assert_eq!(run.code, Some(1), "{words}: {}", run.said);
        assert!(run.said.contains(words), "{words}: {}", run.said);
        assert!(!run.calls.iter().any(|call| call.contains(" build ")), "{words}: {:?}", run.calls);
    }
}

/// The tag stays the same from one build to the next, so that an upgrade replaces no pod: what does is said, with a label that all workloads have.
#[test]
fn how_pods_get_the_new_images_is_said() {
    let restart = "kubectl -n NAMESPACE rollout restart deployment,daemonset -l app.kubernetes.io/part-of=golectra";
    let machine = Machine::with(&["docker", "kubectl", "kind"]);
    let run = machine.run(&[], &[("CONTEXT", "kind-dev")]);
    run.assert_ok("both images");
    assert!(run.said.contains(restart), "{}", run.said);
    let one = machine.run(&["Dockerfile.agent", "localhost/agent:1"], &[("CONTEXT", "kind-dev")]);
    assert!(!one.said.contains("rollout restart"), "{}", one.said);
    for file in ["README.md", "charts/golectra/README.md", "k8s/README.md"] {
        let text = fs::read_to_string(root().join(file)).expect(file);
        assert!(text.contains("rollout restart deployment,daemonset -l app.kubernetes.io/part-of=golectra"), "{file}");
    }
    if !have_helm() {
        return;
    }
    for workload in rendered(&ALL_APIS, &[]).iter().filter(|object| ["Deployment", "DaemonSet"].contains(&text(object, "/kind"))) {
        assert_eq!(text(workload, "/metadata/labels/app.kubernetes.io~1part-of"), "golectra", "{workload}");
    }
}

/// To the bash of macOS an array without entries is a variable that is not set.
#[test]
fn arrays_that_may_be_empty_are_expanded_only_where_they_are_not() {
    let script = fs::read_to_string(root().join("scripts/images")).expect("the script");
    let empty: Vec<_> = script.lines().filter_map(|line| line.trim().strip_suffix("=()")).collect();
    assert_eq!(empty, ["options"]);
    for name in empty {
        let (plain, guarded) = (format!("\"${{{name}[@]}}\""), format!("${{{name}[@]+\"${{{name}[@]}}\"}}"));
        assert_eq!(script.matches(&plain).count(), script.matches(&guarded).count(), "{name}");
        assert!(script.contains(&guarded), "{name}");
    }
}

/// Images are not pushed anywhere: what to do for any other cluster is said.
#[test]
fn other_clusters_get_nothing() {
    let run = Machine::with(&["docker", "kubectl", "kind", "k3d", "minikube"]).run(&[], &[("CONTEXT", "production")]);
    run.assert_ok("another cluster");
    assert!(
        run.said.contains("production is not a kind, k3d or minikube cluster") && run.said.contains("server.image.repository"),
        "{}",
        run.said
    );
    assert!(run.calls.iter().all(|call| call.starts_with("docker ") || call.starts_with("kubectl config ")), "{:?}", run.calls);

    let run = Machine::with(&["docker", "kubectl"]).run(&[], &[]);
    run.assert_ok("no context");
    assert!(run.said.contains("kubectl has no current context"), "{}", run.said);
}

/// As the cluster tests call it.
#[test]
fn one_image_can_be_built_under_another_name() {
    let machine = Machine::with(&["docker", "kubectl", "kind"]);
    let variables = [("CONTEXT", "kind-kind"), ("DEBIAN_IMAGE", "docker.io/library/debian:bookworm")];
    let run = machine.run(&["tests/cluster/prometheus.Dockerfile", "localhost/prometheus:1", "--build-arg", "A=b"], &variables);
    run.assert_ok("one image");
    let build = run.calls_of("docker")[1];
    assert!(build.starts_with("build -f tests/cluster/prometheus.Dockerfile -t localhost/prometheus:1 --build-arg A=b "), "{build}");
    assert!(build.contains("--build-arg DEBIAN_IMAGE=docker.io/library/debian:bookworm"), "{build}");
    assert_eq!(run.calls_of("kind").len(), 1, "{:?}", run.calls);

    let run = machine.run(&["Dockerfile.nothing", "localhost/nothing:1"], &[]);
    assert!(run.code == Some(1) && run.said.contains("there is no Dockerfile Dockerfile.nothing"), "{}", run.said);
}
