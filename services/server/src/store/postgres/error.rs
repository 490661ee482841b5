//! What PostgreSQL's errors become. Texts name what failed, never a password or another value of the DSN.

use super::StoreError;
pub use super::dsn::DsnError;

/// The store can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The DSN can't be used.
    #[error(transparent)]
    Dsn(#[from] DsnError),
}

/// A database that was reached and can't be used as it is: a sentence that says why and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unusable(pub(super) String);

impl From<Unusable> for sqlx::Error {
    fn from(unusable: Unusable) -> Self {
        Self::Configuration(Box::new(unusable))
    }
}

/// The failure of a call, for the log.
pub(super) fn unavailable(error: &sqlx::Error) -> StoreError {
    StoreError::Unavailable(describe(error))
}

/// What went wrong in a few words.
pub fn describe(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(cause) => match cause.code() {
            Some(code) => format!("{} (SQLSTATE {code})", cause.message()),
            None => cause.message().to_owned(),
        },
        sqlx::Error::Io(cause) => format!("the connection failed: {cause}"),
        sqlx::Error::PoolTimedOut => "no connection to the database could be had in time".into(),
        sqlx::Error::PoolClosed => "the store is closed".into(),
        // Others could quote a part of the DSN.
        sqlx::Error::Configuration(cause) => match cause.downcast_ref::<Unusable>() {
            Some(unusable) => unusable.to_string(),
            None => "the connection's settings are not usable".into(),
        },
        other => other.to_string(),
    }
}

/// Whether the error is about one statement, so that the next may well do: the database refused it, or its answer can't be read.
pub(super) fn is_of_statement(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(_) | sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. })
}

/// Whether the error carries this SQLSTATE.
pub(super) fn has_code(error: &sqlx::Error, code: &str) -> bool {
    error.as_database_error().and_then(sqlx::error::DatabaseError::code).is_some_and(|found| found == code)
}
