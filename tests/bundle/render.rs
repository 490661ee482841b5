//! Runs helm and kubectl, and parses what they print.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The API groups of a cluster that has everything the chart can use.
pub const ALL_APIS: [&str; 3] = ["postgresql.cnpg.io/v1", "monitoring.coreos.com/v1", "gateway.networking.k8s.io/v1"];

/// The repository's root.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the repository").to_owned()
}

pub fn chart() -> PathBuf {
    root().join("charts/golectra")
}

/// Whether a program is installed. If not, the test reports that it was skipped, or fails with CI=true.
pub fn have(program: &str, argument: &str) -> bool {
    let found = Command::new(program).arg(argument).output().is_ok_and(|output| output.status.success());
    if !found {
        golectra_tests::skip(&format!("{program} is not on PATH"));
    }
    found
}

/// Whether helm is installed.
pub fn have_helm() -> bool {
    have("helm", "version")
}

/// Whether golden files and tables are written instead of compared.
pub fn update() -> bool {
    std::env::var("UPDATE").is_ok_and(|value| value == "1")
}

/// `helm template golectra` with these arguments: what it prints, or its error message.
pub fn helm_template(apis: &[&str], arguments: &[&str]) -> Result<String, String> {
    helm_template_of(&chart(), apis, arguments)
}

/// The same for another chart.
pub fn helm_template_of(chart: &Path, apis: &[&str], arguments: &[&str]) -> Result<String, String> {
    helm_template_as("golectra", chart, apis, arguments)
}

/// The same for a release of this name.
pub fn helm_template_as(release: &str, chart: &Path, apis: &[&str], arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new("helm");
    command.arg("template").arg(release).arg(chart).args(["--namespace", "golectra", "--kube-version", "1.34.0"]);
    for api in apis {
        command.args(["--api-versions", api]);
    }
    let output = command.args(arguments).env_remove("KUBECONFIG").output().expect("helm runs");
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).expect("helm prints UTF-8"))
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// The objects that helm renders.
pub fn rendered(apis: &[&str], arguments: &[&str]) -> Vec<Value> {
    parse(&helm_template(apis, arguments).unwrap_or_else(|error| panic!("helm template {arguments:?}: {error}")))
}

/// The objects that kustomize renders.
pub fn kustomized(folder: &str) -> Vec<Value> {
    let output = Command::new("kubectl").arg("kustomize").arg(root().join("k8s").join(folder)).output().expect("kubectl runs");
    assert!(output.status.success(), "kubectl kustomize k8s/{folder}: {}", String::from_utf8_lossy(&output.stderr));
    parse(&String::from_utf8(output.stdout).expect("kubectl prints UTF-8"))
}

/// The documents of a YAML stream, without empty ones. A key that stands twice in a map is an error, as it is to kustomize.
pub fn parse(text: &str) -> Vec<Value> {
    use serde::Deserialize as _;
    serde_yaml_ng::Deserializer::from_str(text)
        .map(|document| serde_yaml_ng::Value::deserialize(document).unwrap_or_else(|error| panic!("{error} in:\n{text}")))
        .map(|document| serde_json::to_value(document).expect("YAML that JSON can express"))
        .filter(|value| !value.is_null())
        .collect()
}

/// The value files of charts/golectra/ci with their names, in order.
pub fn ci_values() -> Vec<(String, String)> {
    let mut files: Vec<_> = std::fs::read_dir(chart().join("ci"))
        .expect("charts/golectra/ci can be read")
        .map(|entry| entry.expect("its entries too").path())
        .map(|path| {
            let name = path.file_name().expect("a file").to_string_lossy().into_owned();
            (name, path.to_string_lossy().into_owned())
        })
        .collect();
    files.sort();
    assert!(files.len() >= 5, "charts/golectra/ci holds too few files: {files:?}");
    files
}

/// The string at a JSON pointer, or an empty one.
pub fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// `Kind/name`, for messages.
pub fn name(object: &Value) -> String {
    format!("{}/{}", text(object, "/kind"), text(object, "/metadata/name"))
}

/// The object of this kind and name.
pub fn find<'a>(objects: &'a [Value], wanted: &str) -> &'a Value {
    objects.iter().find(|object| name(object) == wanted).unwrap_or_else(|| {
        panic!("there is no {wanted} among {:?}", objects.iter().map(name).collect::<Vec<_>>());
    })
}
