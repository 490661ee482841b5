//! When the agent polls and when it reports.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::collect::Sample;
use crate::metrics::AgentMetrics;
use crate::sealer::Sealer;
use crate::spool::Queue;

/// The first report is made with this poll, or after a report interval if that is earlier: a new node is seen at once, and
/// the second poll is the first that has the load of the processors.
const FIRST_REPORT_POLLS: i64 = 2;

/// A report is made up to this much earlier or later than its time, at most a twentieth of the interval, so that nodes that
/// were started together do not always report together. The times themselves do not drift.
const MAX_JITTER: Duration = Duration::from_secs(1);

/// How often the agent polls and reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Intervals {
    /// Between two polls.
    pub poll: Duration,
    /// Between two reports.
    pub report: Duration,
}

/// What a sample is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occasion {
    /// A poll, of which a report has several.
    Poll,
    /// A report: what is measured once for it. Not a poll, so it does not count in PollCount.
    Report,
}

/// Polls at once and then at each poll interval; reports early once and then at each report interval, or with the next poll if
/// there was none in between. When `stop` is cancelled, polls and reports one last time.
///
/// Ticks that were missed, for example while the host was suspended, are skipped: several polls at one time measure no more
/// than one.
pub async fn run<S>(
    intervals: Intervals,
    mut sample: S,
    sealer: &mut Sealer,
    queue: &Queue,
    metrics: &Arc<AgentMetrics>,
    stop: CancellationToken,
) where
    S: AsyncFnMut(Occasion) -> Sample,
{
    let start = Instant::now();
    let mut polls = interval_at(start, intervals.poll);
    polls.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut report_time = start + intervals.report;
    let mut next_report = report_time;
    let mut is_due = false;
    let mut reported = false;
    loop {
        tokio::select! {
            // A report that is due at the same time contains this poll.
            biased;
            () = stop.cancelled() => break,
            _ = polls.tick() => {
                sealer.add_poll(sample(Occasion::Poll).await.metrics);
                metrics.polled();
            }
            () = sleep_until(next_report) => {}
        }
        // Checked after every poll as well, so that polls that take longer than their interval do not delay reports.
        let now = Instant::now();
        is_due |= now >= next_report || (!reported && sealer.polls() >= FIRST_REPORT_POLLS);
        if is_due && sealer.polls() > 0 {
            report(&mut sample, sealer, queue, metrics).await;
            (is_due, reported) = (false, true);
        }
        while next_report <= now {
            report_time += intervals.report;
            next_report = jittered(report_time, intervals.report);
        }
    }
    metrics.stops();
    sealer.add_poll(sample(Occasion::Poll).await.metrics);
    metrics.polled();
    report(&mut sample, sealer, queue, metrics).await;
}

fn jittered(time: Instant, interval: Duration) -> Instant {
    let jitter = (interval / 20).min(MAX_JITTER);
    time - jitter + (jitter * 2).mul_f64(fastrand::f64())
}

/// The host is measured right before the report is sealed, so that its values belong to the time that the report has.
async fn report<S>(sample: &mut S, sealer: &mut Sealer, queue: &Queue, metrics: &AgentMetrics)
where
    S: AsyncFnMut(Occasion) -> Sample,
{
    let Sample { metrics: own, gauges } = sample(Occasion::Report).await;
    sealer.add_measured(own);
    sealer.set_host(gauges);
    queue.seal(sealer);
    metrics.sealed();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::spool::{Limits, Memory};

    const LIMITS: Limits = Limits { batches: 1000, bytes: 1 << 20, age: Duration::from_hours(1) };

    /// Runs a schedule on paused time; returns when polls were made, and when each report was made with its PollCount. Times are in
    /// milliseconds.
    async fn observe(poll: u64, report: u64, sample_takes: u64, run_for: u64) -> (Vec<u64>, Vec<(u64, i64)>) {
        let start = Instant::now();
        let millis = move || u64::try_from(start.elapsed().as_millis()).unwrap();
        let metrics = Arc::new(AgentMetrics::new(&prometheus::Registry::new(), Duration::from_secs(1)).unwrap());
        let queue = Queue::new(Box::new(Memory::new(LIMITS, Arc::clone(&metrics))), Clock::system());
        let reader = tokio::spawn({
            let queue = queue.clone();
            async move {
                let mut reports = Vec::new();
                while queue.ready().await {
                    let batch = queue.take().unwrap();
                    reports.push((millis(), batch.polls()));
                    queue.acknowledge(&batch);
                }
                reports
            }
        });
        let stop = CancellationToken::new();
        let timer = stop.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(run_for)).await;
            timer.cancel();
        });
        let mut polls = Vec::new();
        let intervals = Intervals { poll: Duration::from_millis(poll), report: Duration::from_millis(report) };
        let sample = async |occasion| {
            if occasion == Occasion::Poll {
                polls.push(millis());
                tokio::time::sleep(Duration::from_millis(sample_takes)).await;
            }
            Sample::default()
        };
        assert_eq!(metrics.stopping().to_string(), "0");
        run(intervals, sample, &mut Sealer::new(None), &queue, &metrics, stop).await;
        assert_eq!(metrics.stopping().to_string(), "1");
        queue.close();
        let reports = reader.await.unwrap();
        assert_eq!(metrics.polls(), polls.len() as u64);
        assert_eq!(
            reports.iter().map(|(_, polls)| polls).sum::<i64>(),
            i64::try_from(polls.len()).unwrap(),
            "no poll is lost or counted twice"
        );
        (polls, reports)
    }

    #[tokio::test(start_paused = true)]
    async fn at_defaults_the_first_report_is_made_with_the_second_poll() {
        let (polls, reports) = observe(2000, 10_000, 0, 21_000).await;
        assert_eq!(polls, [0, 2000, 4000, 6000, 8000, 10_000, 12_000, 14_000, 16_000, 18_000, 20_000, 21_000]);
        assert_eq!(reports[..2], [(2000, 2), (10_000, 4)]);
        // The third is made up to half a second before or after its time, so before or after the poll at that time.
        let (at, polls) = reports[2];
        assert!((19_500..=20_500).contains(&at) && (polls == 5 || at <= 20_000 && polls == 4), "{reports:?}");
        assert_eq!(reports[3..], [(21_000, 6 - polls)]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_report_is_made_within_a_report_interval() {
        let (_, reports) = observe(60_000, 10_000, 0, 130_000).await;
        assert_eq!(reports[0], (10_000, 1));
        // Polls at 0, 60, 120 and 130 s: at most as many reports, and none without a poll.
        assert!(reports.len() <= 4 && reports.iter().all(|(_, polls)| *polls > 0), "{reports:?}");
        let (_, reports) = observe(1000, 1000, 0, 500).await;
        assert_eq!(reports, [(500, 2)]);
        let (_, reports) = observe(1000, 1000, 0, 1500).await;
        assert_eq!(reports[0], (1000, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn each_poll_is_reported_where_polls_are_as_rare_as_reports() {
        let (polls, reports) = observe(10_000, 10_000, 0, 405_000).await;
        assert_eq!((polls.len(), reports[0]), (42, (10_000, 2)));
        assert!(reports[1..].iter().all(|(_, polls)| *polls == 1), "{reports:?}");
        assert!(reports.windows(2).all(|pair| pair[1].0 - pair[0].0 <= 10_500), "{reports:?}");
        // Rarer ones are reported at once.
        let (_, reports) = observe(60_000, 10_000, 0, 190_000).await;
        assert_eq!(reports, [(10_000, 1), (60_000, 1), (120_000, 1), (180_000, 1), (190_000, 1)]);
    }

    #[tokio::test(start_paused = true)]
    async fn reports_have_jitter_and_do_not_drift() {
        let (_, reports) = observe(100, 10_000, 0, 205_000).await;
        let times: Vec<i64> = reports[2..21].iter().map(|(at, _)| i64::try_from(*at).unwrap()).collect();
        let off: Vec<i64> = times.iter().zip(2..).map(|(at, number)| at - number * 10_000).collect();
        assert!(off.iter().all(|off| off.abs() <= 501), "{off:?}");
        assert!(off.iter().any(|off| *off < 0) && off.iter().any(|off| *off > 0), "{off:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn slow_collectors_skip_polls_and_hardly_delay_reports() {
        let (polls, reports) = observe(500, 2000, 1000, 6100).await;
        assert!(polls.windows(2).all(|pair| pair[1] - pair[0] >= 1000 && pair[0].is_multiple_of(500)), "{polls:?}");
        assert!(reports.windows(2).all(|pair| pair[1].0 - pair[0].0 <= 3000), "{reports:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_right_after_the_start_still_reports() {
        let (polls, reports) = observe(2000, 10_000, 0, 0).await;
        assert_eq!(reports.len(), 1, "{polls:?}");
    }
}
