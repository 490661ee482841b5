//! Clients that pretend to be others.

use std::time::Duration;

use golectra_tests::{Server, Store, eventually};
use serde_json::{Value, json};

use crate::server;

/// The addresses in the audit file, once it has this many lines.
async fn addresses(server: &Server, count: usize) -> Vec<String> {
    let path = server.folder().join("audit.ndjson");
    eventually("the audit file has its lines", Duration::from_secs(20), async || {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let lines: Vec<String> =
            text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()?["ip_address"].as_str().map(str::to_owned)).collect();
        (lines.len() >= count).then_some(lines)
    })
    .await
}

async fn write(server: &Server, header: &str, value: &str) {
    let batch = json!([{"id": "a", "type": "counter", "delta": 1}]);
    server.client().post("/updates").header(header, value).json(&batch).send().await.expect(200);
}

const FORGED: [(&str, &str); 6] = [
    ("X-Forwarded-For", "203.0.113.9"),
    ("X-Forwarded-For", "203.0.113.9, 198.51.100.1, 127.0.0.1"),
    ("X-Real-IP", "203.0.113.9"),
    ("Forwarded", "for=203.0.113.9"),
    ("True-Client-IP", "203.0.113.9"),
    ("X-Forwarded-For", "'; DROP TABLE sources; --"),
];

#[tokio::test]
async fn a_forged_address_is_not_in_the_audit_trail() {
    for store in [Store::Memory, Store::Postgres] {
        let Some(builder) = server(store) else { continue };
        let server = builder.env("AUDIT_FILE", "audit.ndjson").start();
        for (header, value) in FORGED {
            write(&server, header, value).await;
        }
        assert_eq!(addresses(&server, FORGED.len()).await, ["127.0.0.1"; FORGED.len()]);
    }
}

#[tokio::test]
async fn only_addresses_appended_by_trusted_proxies_are_used() {
    let builder = server(Store::Memory).expect("memory is always there");
    let server = builder.env("AUDIT_FILE", "audit.ndjson").env("TRUSTED_PROXIES", "127.0.0.0/8,10.0.0.0/8").start();
    // Entries to the right of the first untrusted address were added by trusted proxies; entries to the left of it may be
    // forged.
    for value in ["203.0.113.9", "6.6.6.6, 203.0.113.9", "6.6.6.6, 203.0.113.9, 10.1.2.3"] {
        write(&server, "X-Forwarded-For", value).await;
    }
    write(&server, "X-Forwarded-For", "nonsense").await;
    let seen = addresses(&server, 4).await;
    assert_eq!(seen[..3], ["203.0.113.9"; 3]);
    assert_eq!(seen[3], "127.0.0.1", "text that is not an address is ignored");
}

#[tokio::test]
async fn an_address_with_a_port_is_parsed() {
    let builder = server(Store::Memory).expect("memory is always there");
    let server = builder.env("AUDIT_FILE", "audit.ndjson").env("TRUSTED_PROXIES", "127.0.0.0/8,10.0.0.0/8").start();
    let written = [
        ("203.0.113.9:51123", "203.0.113.9"),
        ("6.6.6.6:1, 203.0.113.9:51123 , 10.1.2.3:8080", "203.0.113.9"),
        ("[2001:db8::9]:443", "2001:db8::9"),
        ("[2001:db8::9]", "2001:db8::9"),
        ("2001:db8::9, 10.1.2.3", "2001:db8::9"),
    ];
    for (value, _) in written {
        write(&server, "X-Forwarded-For", value).await;
    }
    assert_eq!(addresses(&server, written.len()).await, written.map(|(_, address)| address));
}
