//! How long to wait before a request is sent again: decorrelated jitter, so that clients which failed
//! together do not come back together.

use std::time::Duration;

use rand::{Rng, RngExt};

/// No wait is longer.
const LONGEST: Duration = Duration::from_secs(30);

/// The waits of one request.
#[derive(Debug)]
pub(super) struct Backoff {
    base: Duration,
    last: Duration,
}

impl Backoff {
    pub(super) fn new(base: Duration) -> Self {
        let base = base.min(LONGEST);
        Self { base, last: base }
    }

    /// The next wait: random between the base and three times the wait before.
    pub(super) fn next(&mut self, random: &mut impl Rng) -> Duration {
        let highest = (self.last * 3).min(LONGEST);
        self.last = random.random_range(self.base..=highest.max(self.base));
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    #[test]
    fn waits_stay_between_the_base_and_three_times_the_last() {
        let base = Duration::from_millis(500);
        let mut random = StdRng::seed_from_u64(7);
        let (mut backoff, mut last) = (Backoff::new(base), base);
        for _ in 0..1_000 {
            let wait = backoff.next(&mut random);
            assert!(wait >= base && wait <= (last * 3).min(LONGEST), "{wait:?} after {last:?}");
            last = wait;
        }
    }

    #[test]
    fn two_clients_do_not_wait_alike() {
        let waits = |seed| {
            let (mut backoff, mut random) = (Backoff::new(Duration::from_secs(1)), StdRng::seed_from_u64(seed));
            (0..5).map(|_| backoff.next(&mut random)).collect::<Vec<_>>()
        };
        assert_ne!(waits(1), waits(2));
        assert_eq!(waits(1), waits(1));
    }

    #[test]
    fn no_wait_at_all_is_a_wait_too() {
        assert_eq!(Backoff::new(Duration::ZERO).next(&mut StdRng::seed_from_u64(1)), Duration::ZERO);
    }
}
