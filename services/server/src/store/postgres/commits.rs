//! Commits that the database does not answer.
//!
//! A commit waits until the synchronous standbys have it. While none is there, the database keeps the session after the client has given up and closed the
//! connection, and no timeout ends it. If every try left such a session behind, they would take all of the database's connections. So after a commit that
//! was not answered, whoever wants to commit first makes a test commit, which changes nothing, under a lock that all servers share. Only the holder of the lock
//! may leave a session behind. The others wait for the lock, and such a wait ends when the client closes the connection.
//!
//! Work that commits under a lock of its own makes no test commit: sealing, maintenance, migrations, the evaluation of rules. Its next try waits for that lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sqlx::PgConnection;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::connect::Lock;
use super::error::{Unusable, has_code};

/// How long a test commit may take, waiting for its lock included. Less than a write may, so that a write's error can say what it was.
const LIMIT: Duration = Duration::from_secs(2);

/// What a server knows of its commits.
#[derive(Debug, Default)]
pub struct Commits {
    /// How many were not answered. What fails on the connection before its commit counts as well: nothing more is known of it.
    unanswered: AtomicU64,
    /// How many of these there were when the last test commit that was answered began.
    overcome: AtomicU64,
    /// One task of a server makes the test commit for all of them.
    turn: Mutex<()>,
}

impl Commits {
    /// Runs what may commit.
    pub async fn change<T>(
        &self,
        conn: &mut PgConnection,
        change: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, sqlx::Error> {
        self.confirm(conn).await?;
        self.answer_of(change(conn)).await
    }

    /// Makes sure that the database answers commits, where it did not answer the last one. After an error the connection must be closed.
    pub(super) async fn confirm(&self, conn: &mut PgConnection) -> Result<(), sqlx::Error> {
        if !self.has_unanswered() {
            return Ok(());
        }
        let confirmed = timeout(LIMIT, async {
            let _turn = self.turn.lock().await;
            // Others may have had an answer meanwhile.
            let unanswered = self.unanswered.load(Ordering::Relaxed);
            if self.has_unanswered() {
                commit_nothing(conn, true).await?;
                self.overcome.fetch_max(unanswered, Ordering::Relaxed);
            }
            Ok(())
        });
        match confirmed.await {
            Ok(Err(error)) if !has_code(&error, "55P03") => Err(error),
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => {
                let text = "commits are not answered: the database waits for a synchronous standby that is not there, or for its disk";
                Err(Unusable(text.to_owned()).into())
            }
        }
    }

    fn has_unanswered(&self) -> bool {
        self.unanswered.load(Ordering::Relaxed) > self.overcome.load(Ordering::Relaxed)
    }

    /// Runs a commit. It counts as not answered when the connection fails meanwhile, and when the caller gives up.
    pub(super) async fn answer_of<T>(&self, commit: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
        let mut pending = Pending(Some(&self.unanswered));
        let answer = commit.await;
        if matches!(answer, Ok(_) | Err(sqlx::Error::Database(_))) {
            pending.0 = None;
        }
        answer
    }
}

/// Counts a commit as not answered when it is dropped.
struct Pending<'a>(Option<&'a AtomicU64>);

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if let Some(unanswered) = self.0 {
            unanswered.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Waits until the synchronous standbys have all that was read so far; where there are none, it does nothing.
///
/// A commit that waits for a standby is undone by nothing: when its session is ended meanwhile, or the primary crashes, others see what it wrote, and no
/// standby has it. A repeat that was confirmed by that alone would be lost when a standby takes over. A commit of one's own waits until standbys have
/// everything that is before it in the log.
pub(super) async fn await_standbys(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    commit_nothing(conn, false).await
}

/// Commits something that changes nothing, one session at a time; where there are no synchronous standbys, only if `always`.
async fn commit_nothing(conn: &mut PgConnection, always: bool) -> Result<(), sqlx::Error> {
    let statement = "SELECT pg_advisory_xact_lock($1, $2), pg_logical_emit_message(true, 'golectra', '')
        WHERE $3 OR current_setting('synchronous_standby_names') <> ''";
    sqlx::query(statement).bind(Lock::SPACE).bind(Lock::AwaitCommit as i32).bind(always).execute(conn).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_commit_that_fails_or_is_given_up_is_not_answered() {
        let commits = Commits::default();
        let unanswered = || commits.unanswered.load(Ordering::Relaxed);
        commits.answer_of(async { Ok::<_, sqlx::Error>(()) }).await.unwrap();
        assert_eq!(unanswered(), 0);
        let lost = async { Err::<(), _>(sqlx::Error::from(std::io::Error::from(std::io::ErrorKind::UnexpectedEof))) };
        commits.answer_of(lost).await.unwrap_err();
        assert_eq!(unanswered(), 1);
        timeout(LIMIT, commits.answer_of(pending::<Result<(), sqlx::Error>>())).await.unwrap_err();
        assert_eq!(unanswered(), 2);
    }
}
