//! Requests that the server refused since it had too much to do: they were not tried, and come again as an agent's would. On a busy machine that
//! is an answer to any write of a test.

use std::time::Duration;

use golectra_protocol::ErrorCode;

/// How often a request is sent.
const TRIES: u32 = 15;

/// The pause that an answer asks for, if it is such a refusal.
pub(crate) fn pause(status: u16, retry_after: Option<&str>, body: &[u8]) -> Option<Duration> {
    let is_overloaded = status == 503 && String::from_utf8_lossy(body).contains(ErrorCode::Overloaded.as_str());
    let seconds = || retry_after.and_then(|seconds| seconds.parse().ok());
    is_overloaded.then(|| Duration::from_secs(seconds().expect("a server that is overloaded says when to come back")))
}

/// Sends until an answer asks for no pause; the last answer if all of them do.
pub async fn resend<A, F: Future<Output = A>>(send: impl Fn() -> F, pause: impl Fn(&A) -> Option<Duration>) -> A {
    for _ in 1..TRIES {
        let answer = send().await;
        let Some(pause) = pause(&answer) else { return answer };
        tokio::time::sleep(pause).await;
    }
    send().await
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn only_a_refusal_that_was_not_tried_asks_for_a_pause() {
        let overloaded = br#"{"error":"the server is overloaded, try again later","code":"overloaded"}"#;
        assert_eq!(pause(503, Some("2"), overloaded), Some(Duration::from_secs(2)));
        assert_eq!(pause(200, Some("2"), overloaded), None);
        assert_eq!(pause(503, Some("2"), br#"{"error":"the store is unavailable","code":"store_unavailable"}"#), None);
    }

    #[tokio::test]
    async fn it_is_sent_until_it_is_taken_or_was_sent_often() {
        let sent = Cell::new(0);
        let answers = |refusals: u32| {
            sent.set(0);
            let sent = &sent;
            resend(
                move || async move {
                    sent.set(sent.get() + 1);
                    sent.get() <= refusals
                },
                |refused| refused.then_some(Duration::ZERO),
            )
        };
        assert!(!answers(2).await);
        assert_eq!(sent.get(), 3);
        assert!(answers(u32::MAX).await);
        assert_eq!(sent.get(), TRIES);
    }
}
