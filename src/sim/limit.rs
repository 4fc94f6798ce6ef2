//! The rate limit: a sliding log of requests, and the block that follows when it is full.
//!
//! It measures by tokio's monotonic time, never by the wall clock, and it does not answer anybody.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// How many requests are let through in how long, and what happens to those who ask for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Requests that are let through within `window`.
    pub requests: u32,
    /// How long a request counts.
    pub window: Duration,
    /// How long every request is refused once one was over the limit.
    pub block: Duration,
}

impl RateLimit {
    /// No limit that anybody would reach.
    #[must_use]
    pub const fn none() -> Self {
        Self { requests: u32::MAX, window: Duration::from_secs(1), block: Duration::ZERO }
    }
}

impl Default for RateLimit {
    /// The documented limit: 1,200 requests in 5 minutes, or 5 minutes of nothing.
    fn default() -> Self {
        let five_minutes = Duration::from_mins(5);
        Self { requests: 1_200, window: five_minutes, block: five_minutes }
    }
}

/// What the limit says about one request.
pub(super) struct Verdict {
    /// The whole seconds to wait, when the request is refused.
    pub(super) retry_after: Option<u64>,
    pub(super) limit: RateLimit,
    /// Requests left in the window.
    pub(super) left: u32,
    /// Whole seconds until the oldest request leaves the window.
    pub(super) reset: u64,
}

/// Counts requests against a limit.
pub(super) struct Meter {
    pub(super) limit: RateLimit,
    /// Requests that were let through, within the window.
    counted: VecDeque<Instant>,
    /// Every request within the window, refused ones too.
    arrived: VecDeque<Instant>,
    blocked_until: Option<Instant>,
    /// Every request there ever was.
    pub(super) arrivals: u64,
    pub(super) throttled: u64,
    /// The most requests, refused ones too, that ever arrived within one window.
    pub(super) max_in_window: u32,
}

impl Meter {
    pub(super) fn new(limit: RateLimit) -> Self {
        let (counted, arrived) = (VecDeque::new(), VecDeque::new());
        Self { limit, counted, arrived, blocked_until: None, arrivals: 0, throttled: 0, max_in_window: 0 }
    }

    /// Counts a request.
    pub(super) fn admit(&mut self, now: Instant) -> Verdict {
        self.note_arrival(now);
        forget(&mut self.counted, now, self.limit.window);
        if self.blocked_until.is_some_and(|until| until <= now) {
            self.blocked_until = None;
        }
        if self.blocked_until.is_none() {
            if length(&self.counted) >= self.limit.requests {
                self.blocked_until = Some(now + self.limit.block);
            } else {
                self.counted.push_back(now);
            }
        }
        let retry_after = self.blocked_until.map(|until| ceil_secs(until - now));
        self.throttled += u64::from(retry_after.is_some());
        self.verdict(now, retry_after)
    }

    fn note_arrival(&mut self, now: Instant) {
        forget(&mut self.arrived, now, self.limit.window);
        self.arrivals += 1;
        self.arrived.push_back(now);
        self.max_in_window = self.max_in_window.max(length(&self.arrived));
    }

    fn verdict(&self, now: Instant, retry_after: Option<u64>) -> Verdict {
        let leaves = self.counted.front().map_or(now, |oldest| *oldest + self.limit.window);
        Verdict {
            retry_after,
            limit: self.limit,
            left: if retry_after.is_some() { 0 } else { self.limit.requests.saturating_sub(length(&self.counted)) },
            reset: retry_after.unwrap_or_else(|| ceil_secs(leaves - now)),
        }
    }
}

fn forget(log: &mut VecDeque<Instant>, now: Instant, window: Duration) {
    while log.front().is_some_and(|at| now - *at >= window) {
        log.pop_front();
    }
}

fn length(log: &VecDeque<Instant>) -> u32 {
    u32::try_from(log.len()).unwrap_or(u32::MAX)
}

/// Whole seconds, rounded up, and one at the least.
fn ceil_secs(duration: Duration) -> u64 {
    (duration.as_secs() + u64::from(duration.subsec_nanos() > 0)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: RateLimit = RateLimit { requests: 3, window: Duration::from_secs(10), block: Duration::from_secs(20) };

    #[test]
    fn the_window_slides_and_going_over_blocks() {
        let (mut meter, start) = (Meter::new(LIMIT), Instant::now());
        let mut check = |at: f64, retry_after: Option<u64>, left: u32, reset: u64| {
            let verdict = meter.admit(start + Duration::from_secs_f64(at));
            assert_eq!((verdict.retry_after, verdict.left, verdict.reset), (retry_after, left, reset), "at {at}");
        };
        check(0.0, None, 2, 10);
        check(4.0, None, 1, 6);
        check(9.5, None, 0, 1);
        check(10.0, None, 0, 4); // The first has left.
        check(11.0, Some(20), 0, 20);
        check(30.9, Some(1), 0, 1);
        check(31.0, None, 2, 10);
        assert_eq!((meter.throttled, meter.max_in_window), (2, 4));
    }
}
