//! What PostgreSQL's errors become. Texts name what failed, never the DSN or a password.

use super::StoreError;

/// The store can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The DSN can't be read. It is not quoted: it may hold a password.
    #[error("DATABASE_DSN is no PostgreSQL address, expected postgres://USER:PASSWORD@HOST:PORT/DATABASE")]
    Dsn,
}

/// The failure of a call, for the log.
pub(super) fn unavailable(error: &sqlx::Error) -> StoreError {
    StoreError::Unavailable(describe(error))
}

/// What went wrong in a few words.
pub(super) fn describe(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(cause) => match cause.code() {
            Some(code) => format!("{} (SQLSTATE {code})", cause.message()),
            None => cause.message().to_owned(),
        },
        sqlx::Error::Io(cause) => format!("the connection failed: {cause}"),
        sqlx::Error::PoolTimedOut => "no connection to the database could be had in time".into(),
        sqlx::Error::PoolClosed => "the store is closed".into(),
        // Its text could quote parts of the DSN.
        sqlx::Error::Configuration(_) => "the connection's settings are not usable".into(),
        other => other.to_string(),
    }
}

/// Whether the error carries this SQLSTATE.
pub(super) fn has_code(error: &sqlx::Error, code: &str) -> bool {
    error.as_database_error().and_then(sqlx::error::DatabaseError::code).is_some_and(|found| found == code)
}
