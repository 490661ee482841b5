//! golectra's tables have a schema of their own; if a database can't be used, the log says what to do.

use std::sync::Arc;
use std::time::Duration;

use golectra_tests::{Database, Server, until};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(20);

/// The number of golectra's tables and views in a schema.
fn tables(schema: &str) -> String {
    format!(
        "SELECT count(*) FROM pg_class JOIN pg_namespace AS n ON n.oid = relnamespace
         WHERE nspname = '{schema}' AND relname IN ('sources', 'series', 'frames', 'outbox', '_sqlx_migrations')"
    )
}

#[tokio::test]
async fn tables_of_another_application_do_not_conflict() {
    let Some(database) = Database::create() else { return };
    database
        .execute(
            "CREATE TABLE public._sqlx_migrations (version bigint PRIMARY KEY, description text NOT NULL, installed_on timestamptz DEFAULT now(),
                success boolean NOT NULL, checksum bytea NOT NULL, execution_time bigint NOT NULL);
             INSERT INTO public._sqlx_migrations VALUES (1, 'theirs', now(), true, 'x', 1);
             CREATE TABLE public.outbox (theirs text);
             CREATE TABLE public.sources (theirs text)",
        )
        .await;
    let server = Server::builder().database(&database).env("AUDIT_FILE", "audit.log").start();
    let client = server.client();
    client.updates(&json!([{"id": "a", "type": "counter", "delta": 1}])).await.expect(200);
    assert_eq!(client.counter("a").await, 1);
    let audit = server.folder().join("audit.log");
    until("the event is delivered", LIMIT, async || std::fs::read_to_string(&audit).is_ok_and(|text| text.contains("\"a\""))).await;
    assert_eq!(database.number(&tables("golectra")).await, 5);
    let theirs = "SELECT (SELECT count(*) FROM public._sqlx_migrations) + (SELECT count(*) FROM public.outbox)
        + (SELECT count(*) FROM public.sources) + (SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace)";
    // A row, three tables and the index of one of them.
    assert_eq!(database.number(theirs).await, 1 + 4);
}

#[tokio::test]
async fn the_dsn_names_another_schema() {
    let Some(database) = Database::create() else { return };
    let with = |query: &str| format!("{}?{query}", database.url());
    let servers = ["search_path=%22my%20metrics%22", "options=-c%20search_path%3Dm", ""]
        .map(|query| Server::builder().env("DATABASE_DSN", with(query)).start());
    for (number, server) in (1..).zip(&servers) {
        server.client().updates(&json!([{"id": "a", "type": "counter", "delta": number}])).await.expect(200);
    }
    for (number, server) in (1..).zip(&servers) {
        assert_eq!(server.client().counter("a").await, number, "each has its own");
    }
    for schema in ["m", "my metrics", "golectra"] {
        assert_eq!(database.number(&tables(schema)).await, 5, "{schema}");
    }
    assert_eq!(database.number(&tables("public")).await, 0);
}

/// A server with this DSN does not become ready, and its log says why.
async fn refused(dsn: &str, sentence: &str) -> Server {
    let server = Server::builder().env("DATABASE_DSN", dsn).start_alive();
    until(&format!("the log says: {sentence}"), LIMIT, async || server.stderr().contains(sentence)).await;
    server.client().get("/ping").send().await.expect(503);
    let answer = server.client().updates(&json!([{"id": "a", "type": "counter", "delta": 1}])).await;
    assert!(!answer.text().contains("DATABASE"), "an answer shows no internals: {}", answer.text());
    answer.expect(503);
    server
}

#[tokio::test]
async fn a_database_with_another_encoding_is_refused() {
    let Some(database) = Database::create_with("ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0") else { return };
    refused(database.url(), "the database's encoding is LATIN1, and metrics are UTF-8: create another database").await;
}

#[tokio::test]
async fn tables_of_another_application_in_golectras_schema() {
    let Some(database) = Database::create() else { return };
    database.execute("CREATE SCHEMA golectra; CREATE TABLE golectra.sources (theirs text)").await;
    let server = refused(database.url(), "holds tables of another application").await;
    assert!(server.stderr().contains("search_path=NAME"), "{}", server.tail());
    database.execute("DROP TABLE golectra.sources").await;
    until("the server is ready", LIMIT, async || server.client().get("/ping").send().await.status == 200).await;
}

/// A role that may only log in, dropped with its last user.
struct Role {
    database: Arc<Database>,
    name: String,
}

impl Role {
    async fn create(database: &Arc<Database>) -> Self {
        let name = format!("r{}", uuid::Uuid::now_v7().simple());
        database.execute(&format!("CREATE ROLE {name} LOGIN PASSWORD 'secret'")).await;
        Self { database: Arc::clone(database), name }
    }

    fn url(&self) -> String {
        self.database.url_of(&self.name, "secret")
    }

    async fn drop(self) {
        let name = &self.name;
        self.database.execute(&format!("DROP OWNED BY {name} CASCADE; DROP ROLE {name}")).await;
    }
}

/// The statement that the log advises, from its first word to its semicolon.
fn advice(server: &Server) -> String {
    let said = server.stderr();
    let start = said.rfind("GRANT ").unwrap_or_else(|| panic!("no advice: {said}"));
    // Logs are JSON, where a quote is escaped.
    said[start..].split_inclusive(';').next().unwrap().replace("\\\"", "\"")
}

/// The statement in the log is sufficient.
async fn follow_the_advice(role: Role, sentence: &str) {
    let mut server = refused(&role.url(), sentence).await;
    let statement = advice(&server);
    role.database.execute(&statement).await;
    until(&format!("ready after: {statement}"), LIMIT, async || server.client().get("/ping").send().await.status == 200).await;
    server.client().updates(&json!([{"id": "a", "type": "counter", "delta": 1}])).await.expect(200);
    server.stop();
    drop(server);
    role.drop().await;
}

#[tokio::test]
async fn a_role_that_may_not_create_a_schema() {
    let Some(database) = Database::create() else { return };
    let role = Role::create(&database).await;
    follow_the_advice(role, "may not create golectra's schema: GRANT CREATE ON DATABASE").await;
}

#[tokio::test]
async fn a_role_that_may_not_create_tables() {
    let Some(database) = Database::create() else { return };
    database.execute("CREATE SCHEMA golectra").await;
    let role = Role::create(&database).await;
    follow_the_advice(role, "GRANT USAGE, CREATE ON SCHEMA").await;
}

#[tokio::test]
async fn a_role_that_is_not_the_tables_owner() {
    let Some(database) = Database::create() else { return };
    let owner = Role::create(&database).await;
    database.execute(&format!("CREATE SCHEMA golectra AUTHORIZATION {}", owner.name)).await;
    drop(Server::builder().env("DATABASE_DSN", owner.url()).start());
    let role = Role::create(&database).await;
    database.execute(&format!("GRANT USAGE, CREATE ON SCHEMA golectra TO {}", role.name)).await;
    follow_the_advice(role, &format!("holds tables of the role {}", owner.name)).await;
    owner.drop().await;
}
