//! Tells cargo to build again when a migration is added: `sqlx::migrate!` sees only the files that were there the last time.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
    println!("cargo:rerun-if-changed=.sqlx");
}
