//! Why a transaction of a group of batches does not commit.

use std::collections::BTreeSet;

use crate::store::StoreError;
use crate::store::postgres::error::{describe, has_code};

/// Nothing of the group was applied, except where the commit was not answered.
#[derive(Debug, thiserror::Error)]
pub(super) enum GroupFailure {
    /// The only batch of the group is refused.
    #[error(transparent)]
    Refused(#[from] StoreError),
    /// These batches, by their places in the group, would have the others refused: they need a transaction each.
    #[error("some batches need a transaction of their own")]
    Apart(BTreeSet<usize>),
    /// What this process remembered, or read a moment ago, is no longer so: read it again.
    #[error("rows that were there are gone")]
    Stale,
    /// The database failed before the commit.
    #[error("{}", describe(.0))]
    Sql(#[from] sqlx::Error),
    /// The commit was not answered: it is not known what was applied.
    #[error("the commit was not answered: {}", describe(.0))]
    Commit(sqlx::Error),
}

impl GroupFailure {
    /// Whether the data of some batch is at fault, so that the others may pass without it: data, constraints, limits.
    pub(super) fn is_about_data(&self) -> bool {
        let Self::Sql(error) = self else { return false };
        let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
        code.is_some_and(|code| ["22", "23", "54"].iter().any(|class| code.starts_with(class)))
    }

    /// Whether no partition takes a frame (`check_violation`).
    pub(super) fn is_about_a_partition(&self) -> bool {
        matches!(self, Self::Sql(error) if has_code(error, "23514"))
    }

    /// Whether the database itself ended the transaction for a reason that is over soon: a deadlock with somebody else's transaction, a backend that
    /// was told to end, a primary that became a standby.
    pub(super) fn is_passing(&self) -> bool {
        matches!(self, Self::Sql(error) if ["40001", "40P01", "57P01", "25006"].iter().any(|code| has_code(error, code)))
    }
}
