//! Cheap timers: a connection sets one or two for every request, and very few ever fire.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant as StdInstant};

use hyper::rt;
use tokio::time::{Instant, Sleep, sleep_until};

/// A clock for hyper whose timers never fire.
#[derive(Clone, Copy, Debug)]
pub(super) struct Never;

/// A type without size, so that boxing it allocates nothing.
struct Forever;

impl rt::Timer for Never {
    fn sleep(&self, _: Duration) -> Pin<Box<dyn rt::Sleep>> {
        Box::pin(Forever)
    }

    fn sleep_until(&self, _: StdInstant) -> Pin<Box<dyn rt::Sleep>> {
        Box::pin(Forever)
    }
}

impl rt::Sleep for Forever {}

impl Future for Forever {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

/// A deadline that is moved far more often than it fires. Moving it to a later time does not touch the underlying timer; when
/// that fires too early it is set again. So it is set once in the length of a limit instead of once a request.
#[derive(Debug, Default)]
pub(super) struct Deadline {
    at: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Deadline {
    pub(super) fn set(&mut self, from_now: Duration) {
        self.at = Some(Instant::now() + from_now);
    }

    /// Ready when the deadline has passed; otherwise the task is woken by then.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(at) = self.at else { return Poll::Pending };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(at)));
        if timer.deadline() > at {
            timer.as_mut().reset(at);
        }
        loop {
            ready!(timer.as_mut().poll(cx));
            if timer.deadline() >= at {
                return Poll::Ready(());
            }
            timer.as_mut().reset(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::{Duration, Instant};

    use super::Deadline;

    #[tokio::test(start_paused = true)]
    async fn it_fires_at_the_time_set_last() {
        let start = Instant::now();
        let mut deadline = Deadline::default();
        // A later time, an earlier one, and twice a later one again.
        for (limit, ends) in [(75, 75), (10, 85), (75, 160), (75, 235)] {
            deadline.set(Duration::from_secs(limit));
            poll_fn(|cx| deadline.poll(cx)).await;
            // Timers have a resolution of a millisecond.
            let late = start.elapsed().abs_diff(Duration::from_secs(ends));
            assert!(late < Duration::from_millis(20), "{limit}: {late:?}");
        }
        deadline.set(Duration::from_secs(75));
        tokio::select! {
            () = poll_fn(|cx| deadline.poll(cx)) => unreachable!("it was not due"),
            () = tokio::time::sleep(Duration::from_secs(70)) => {}
        }
        // The underlying timer is still set to an earlier time and fires too early.
        deadline.set(Duration::from_secs(75));
        poll_fn(|cx| deadline.poll(cx)).await;
        let late = start.elapsed().abs_diff(Duration::from_secs(235 + 70 + 75));
        assert!(late < Duration::from_millis(20), "{late:?}");
    }
}
