//! `golectra-agent doctor`: each trouble is a line that says what is wrong, where, and what to do.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::process::agent;
use crate::server::{Act, Server};

/// What a golectra server says to an item without a name.
const INVALID: &str = r#"{"error":"an id is empty","code":"invalid_metric"}"#;

/// The lines of the doctor, and whether it says that nothing is missing.
async fn doctor(variables: &[(&str, &str)]) -> (String, bool) {
    let output = agent(variables).arg("doctor").output().await.unwrap();
    (String::from_utf8(output.stdout).unwrap(), output.status.success())
}

/// A server that answers every report like this, and /ping with 200.
async fn answering(status: u16, body: &'static str) -> Server {
    Server::start(move |_, request| {
        if request.head.starts_with("GET /ping ") {
            Act::Answer(200, "", "ok".to_owned())
        } else {
            Act::Answer(status, "", body.to_owned())
        }
    })
    .await
}

/// The line about a subject, whose columns have a fixed width.
fn line<'a>(lines: &'a str, subject: &str) -> &'a str {
    lines.lines().find(|line| line[8..].starts_with(&format!("{subject} "))).unwrap_or_else(|| panic!("no {subject} in {lines}"))
}

#[tokio::test]
async fn the_server_is_asked_whether_it_takes_the_reports_of_this_agent() {
    let takes = answering(400, INVALID).await;
    let (lines, complete) = doctor(&[("ADDRESS", &takes.address), ("SOURCE", "n1")]).await;
    assert!(complete, "{lines}");
    let expected = format!("ok      server       http://{} takes the reports of this agent", takes.address);
    assert_eq!(line(&lines, "server"), expected);
    assert!(line(&lines, "keys").contains("reports are not signed: KEY is not set"), "{lines}");
    assert_eq!(takes.ledger().requests[0].header("golectra-source"), Some("n1"));

    for (status, body, words) in [
        (400, r#"{"error":"invalid hash","code":"invalid_hash"}"#, ["refuses reports", "check that KEY is the server's"]),
        (
            401,
            r#"{"error":"a signature is required","code":"signature_missing"}"#,
            ["refuses reports", "check KEY, or KEYS_DIR and SIGNING_KEY_ID"],
        ),
        (404, "not found", ["refuses reports", "check that ADDRESS leads to a golectra server"]),
        (503, "<html>", ["refuses reports", "503"]),
        (200, "<html>login</html>", ["refuses reports", "login"]),
        (200, "{}", ["refuses reports", "check that ADDRESS leads to a golectra server"]),
    ] {
        let server = answering(status, body).await;
        let (lines, complete) = doctor(&[("ADDRESS", &server.address), ("KEY", "swordfish")]).await;
        let found = line(&lines, "server");
        assert!(!complete && found.starts_with("MISSING") && words.iter().all(|word| found.contains(word)), "{lines}");
        assert!(!lines.contains("swordfish"), "{lines}");
    }

    // The second one skips what is invalid.
    for (status, body) in [(400, "bad metric"), (200, r#"{"updated":0}"#)] {
        let original = answering(status, body).await;
        let (lines, complete) = doctor(&[("ADDRESS", &original.address)]).await;
        assert!(
            complete && line(&lines, "server").starts_with("note    ") && lines.contains("does not answer as golectra does"),
            "{lines}"
        );
    }

    let nothing = Server::reserve();
    let (lines, complete) = doctor(&[("ADDRESS", &nothing)]).await;
    let found = line(&lines, "server");
    assert!(
        !complete && found.contains("cannot be reached: tcp connect error: Connection refused") && found.contains("check ADDRESS"),
        "{lines}"
    );

    let variables = [("ADDRESS", "https://localhost:1"), ("SSL_CERT_FILE", "/nonexistent"), ("SSL_CERT_DIR", "/nonexistent")];
    let (lines, complete) = doctor(&variables).await;
    let found = line(&lines, "server");
    assert!(!complete && found.contains("No CA certificates") && found.contains("install the package ca-certificates"), "{lines}");
}

#[tokio::test]
async fn keys_that_cannot_be_used_are_named() {
    let server = answering(400, INVALID).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display().to_string();
    let gone = format!("{path}/gone");
    for (variables, words) in [
        (vec![("KEYS_DIR", gone.as_str())], vec![gone.as_str(), "No such file", "unset KEYS_DIR"]),
        (vec![("KEYS_DIR", path.as_str())], vec!["set SIGNING_KEY_ID"]),
        (vec![("KEYS_DIR", path.as_str()), ("SIGNING_KEY_ID", "new")], vec!["no key new", "put a file of that name there"]),
    ] {
        let variables = [variables, vec![("ADDRESS", server.address.as_str())]].concat();
        let (lines, complete) = doctor(&variables).await;
        let found = line(&lines, "keys");
        assert!(!complete && found.starts_with("MISSING") && words.iter().all(|word| found.contains(word)), "{lines}");
        assert!(line(&lines, "server").contains("not known without the key"), "{lines}");
    }
}

#[tokio::test]
async fn its_help_says_what_it_does() {
    let output = agent(&[]).args(["doctor", "-h"]).output().await.unwrap();
    let help = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && help.contains("golectra-agent doctor [FLAGS]"), "{help}");
    assert!(help.contains("says what an agent with them can and cannot read here") && help.contains("[env: SPOOL_DIR]"), "{help}");
}

#[tokio::test]
async fn folders_that_cannot_be_used_are_named() {
    let server = answering(400, INVALID).await;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let [plain_file, new, metrics, gone] = ["file", "new/spool", "metrics", "gone"].map(path);
    fs::write(&plain_file, "").unwrap();
    let address = ("ADDRESS", server.address.as_str());

    let (lines, complete) = doctor(&[address, ("SPOOL_DIR", &new)]).await;
    assert!(complete && line(&lines, "spool").starts_with("ok      ") && lines.contains("can be created"), "{lines}");
    let (lines, complete) = doctor(&[address, ("SPOOL_DIR", &format!("{plain_file}/spool"))]).await;
    assert!(!complete && line(&lines, "spool").contains("is not a folder; set SPOOL_DIR to one"), "{lines}");
    if !rustix::process::geteuid().is_root() {
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o500)).unwrap();
        let (lines, complete) = doctor(&[address, ("SPOOL_DIR", &new)]).await;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
        assert!(!complete && line(&lines, "spool").contains("cannot be written: Permission denied"), "{lines}");
    }

    fs::create_dir(&metrics).unwrap();
    fs::write(format!("{metrics}/broken.prom"), "a b c\n").unwrap();
    let (lines, complete) = doctor(&[address, ("TEXTFILE_DIRS", &metrics)]).await;
    assert!(!complete && lines.contains("broken.prom cannot be read: ") && lines.contains("until the file is right"), "{lines}");
    for (variable, subject, words) in [
        ("TEXTFILE_DIRS", "textfile", "create the folder"),
        ("HOST_PROC", "network", "mount the node's /proc at"),
        ("HOST_ROOT", "filesystems", "mount the node's / at"),
    ] {
        let (lines, complete) = doctor(&[address, (variable, &gone)]).await;
        let found = line(&lines, subject);
        assert!(!complete && found.starts_with("MISSING") && found.contains(&gone) && found.contains(words), "{lines}");
    }
}

#[tokio::test]
async fn settings_that_need_others_name_them() {
    let server = answering(400, INVALID).await;
    for setting in ["PODS_DETAILS", "SCRAPE_PODS"] {
        let (lines, complete) = doctor(&[("ADDRESS", &server.address), (setting, "true")]).await;
        assert!(!complete && lines.contains(&format!("{setting} needs the kubelet, and KUBELET_URL is not set: set it")), "{lines}");
    }
    let nothing = format!("https://{}", Server::reserve());
    let (lines, complete) = doctor(&[("ADDRESS", &server.address), ("KUBELET_URL", &nothing), ("KUBELET_TOKEN_FILE", "/gone/token")]).await;
    assert!(!complete && line(&lines, "kubelet").contains("the token /gone/token cannot be read"), "{lines}");
    assert!(
        line(&lines, "kubelet").contains("KUBELET_TOKEN_FILE has to be") && line(&lines, "authorities").contains("set KUBELET_CA_FILE"),
        "{lines}"
    );
    let (lines, complete) = doctor(&[("ADDRESS", &server.address), ("KUBELET_URL", &nothing), ("PODS_DETAILS", "true")]).await;
    assert!(!complete && line(&lines, "details").starts_with("MISSING"), "{lines}");
    assert_eq!(lines.matches("MISSING").count(), 2, "one cause is not said once for each question: {lines}");
    let (lines, complete) = doctor(&[("ADDRESS", &server.address), ("KUBELET_URL", "http://127.0.0.1:1"), ("KUBELET_TLS", "verify")]).await;
    assert!(!complete && line(&lines, "kubelet").ends_with("KUBELET_TLS is verify: KUBELET_URL has to be https"), "{lines}");
    let target = format!("http://{}/metrics", Server::reserve());
    let (lines, complete) = doctor(&[("ADDRESS", &server.address), ("SCRAPE", &target)]).await;
    let found = line(&lines, "scrape");
    assert!(!complete && found.contains(&target) && found.contains("check that the program runs and listens there"), "{lines}");
}
