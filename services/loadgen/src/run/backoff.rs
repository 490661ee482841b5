//! How long a client waits before it tries again.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(2);

/// Waits that double from 50 ms to 2 s, each cut by up to half at random, so that clients which failed together do not come
/// back together.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    tries: u32,
}

impl Backoff {
    /// The next wait: never shorter than the server asked for.
    pub(super) fn next(&mut self, asked: Option<Duration>, random: &mut fastrand::Rng) -> Duration {
        let full = FIRST.saturating_mul(1 << self.tries.min(10)).min(LONGEST);
        self.tries += 1;
        let wait = full.mul_f64(0.5 + random.f64() / 2.0);
        asked.map_or(wait, |asked| asked + full.mul_f64(random.f64()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_limit_and_heed_the_server() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut backoff = Backoff::default();
        let mut full = FIRST;
        for _ in 0..20 {
            let wait = backoff.next(None, &mut random);
            assert!(wait >= full / 2 && wait <= full, "{wait:?} of {full:?}");
            full = (full * 2).min(LONGEST);
        }
        let asked = Duration::from_secs(3);
        let waits: Vec<_> = (0..20).map(|_| backoff.next(Some(asked), &mut random)).collect();
        assert!(waits.iter().all(|wait| *wait >= asked && *wait <= asked + LONGEST));
        assert!(waits.windows(2).any(|pair| pair[0] != pair[1]));
    }
}
