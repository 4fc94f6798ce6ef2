//! When sweeps begin, and when they have to end.

use std::time::Duration;

use chrono::TimeDelta;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::clock::{self, Clock, Timestamp};

/// Asks everybody who holds a [`Stop`] to come to an end.
#[derive(Debug)]
pub struct StopSwitch(watch::Sender<bool>);

/// Says whether it is time to come to an end.
#[derive(Debug, Clone)]
pub struct Stop(watch::Receiver<bool>);

/// A switch, and what it switches.
#[must_use]
pub fn stop_pair() -> (StopSwitch, Stop) {
    let (sender, receiver) = watch::channel(false);
    (StopSwitch(sender), Stop(receiver))
}

impl StopSwitch {
    /// Asks for the end. Asking twice changes nothing.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Stop {
    /// Whether the end was asked for.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until the end is asked for; for ever, where nobody is left to ask.
    pub async fn requested(&self) {
        let mut receiver = self.0.clone();
        if receiver.wait_for(|stop| *stop).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits; false where the end was asked for meanwhile.
    pub(super) async fn wait(&self, time: Duration) -> bool {
        tokio::select! {
            () = self.requested() => false,
            () = sleep(time) => true,
        }
    }
}

/// When a sweep has to come to an end: because that was asked for, because its time is up, or because
/// there is no use in going on.
#[derive(Debug)]
pub(super) struct End {
    stop: Stop,
    /// When nothing more is asked, and when no answer is waited for any longer.
    deadline: Option<(Instant, Instant)>,
    halt: StopSwitch,
    halted: Stop,
}

/// Requests that are under way when a sweep has to end get this long.
const DRAIN: Duration = Duration::from_secs(10);

/// A publish gets this long of a sweep's time, where nobody knows how long it takes.
const PUBLISH: Duration = Duration::from_secs(5);

impl End {
    /// The end of a sweep that begins now and may take so long, of which its publish needs some.
    pub(super) fn new(stop: Stop, deadline: Option<Duration>, publish: Duration) -> Self {
        let (halt, halted) = stop_pair();
        let deadline = deadline.map(|time| {
            let now = Instant::now();
            let time = time.saturating_sub(publish.max((time / 10).min(PUBLISH)).min(time / 2));
            (now + time.saturating_sub(DRAIN.min(time / 5)), now + time)
        });
        Self { stop, deadline, halt, halted }
    }

    /// Lets the sweep end: there is no use in going on.
    pub(super) fn halt(&self) {
        self.halt.stop();
    }

    /// Whether nothing more is to be asked.
    pub(super) fn is_reached(&self) -> bool {
        let late = self.deadline.is_some_and(|(asking, _)| asking <= Instant::now());
        self.stop.is_requested() || self.halted.is_requested() || late
    }

    /// Waits until nothing more is to be asked.
    pub(super) async fn reached(&self) {
        tokio::select! {
            () = self.stop.requested() => (),
            () = self.halted.requested() => (),
            () = until(self.deadline.map(|(asking, _)| asking)) => (),
        }
    }

    /// Waits until no answer is waited for any longer.
    pub(super) async fn drained(&self) {
        let asked_for = async {
            tokio::select! {
                () = self.stop.requested() => (),
                () = self.halted.requested() => (),
            }
            sleep(DRAIN).await;
        };
        tokio::select! {
            () = asked_for => (),
            () = until(self.deadline.map(|(_, end)| end)) => (),
        }
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Waits for the next tick: a whole number of intervals since the Unix epoch, so that sweeps of
/// different collectors and after a restart fall together. Ticks that passed are skipped. False where
/// the end was asked for meanwhile.
pub(super) async fn next_tick(clock: &Clock, every: Duration, stop: &Stop) -> bool {
    stop.wait(until_tick(clock.now(), every)).await
}

/// Waits, come what may.
#[expect(clippy::disallowed_methods, reason = "the one wait of the schedule; callers race it against the stop")]
async fn sleep(time: Duration) {
    tokio::time::sleep(time).await;
}

pub(super) fn until_tick(now: Timestamp, every: Duration) -> Duration {
    let last = clock::floor(now, TimeDelta::from_std(every).unwrap_or(TimeDelta::MAX));
    every.saturating_sub((now - last).to_std().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_aligned_and_never_now() {
        let at = |text| clock::parse_timestamp(text).expect("a timestamp");
        let five = Duration::from_mins(5);
        assert_eq!(until_tick(at("2026-11-24T07:42:30Z"), five), Duration::from_secs(150));
        assert_eq!(until_tick(at("2026-11-24T07:40:00Z"), five), five);
        assert_eq!(until_tick(at("1969-12-31T23:59:59Z"), five), Duration::from_secs(1));
        assert_eq!(until_tick(at("2026-11-24T07:40:00Z"), Duration::from_hours(24)), Duration::from_mins(16 * 60 + 20));
    }

    #[tokio::test(start_paused = true)]
    async fn a_sweep_ends_by_its_deadline_or_when_there_is_no_use_in_it() {
        let (_switch, stop) = stop_pair();
        let (end, start) = (End::new(stop.clone(), Some(Duration::from_mins(1)), Duration::ZERO), Instant::now());
        assert!(!end.is_reached());
        end.reached().await;
        assert_eq!((start.elapsed(), end.is_reached()), (Duration::from_secs(45), true));
        end.drained().await;
        assert_eq!(start.elapsed(), Duration::from_secs(55));
        let slow = (End::new(stop.clone(), Some(Duration::from_mins(1)), Duration::from_secs(20)), Instant::now());
        slow.0.drained().await;
        assert_eq!(slow.1.elapsed(), Duration::from_secs(40), "what the last publish took is left for the next");
        let (end, start) = (End::new(stop, None, Duration::ZERO), Instant::now());
        end.halt();
        end.reached().await;
        assert!(end.is_reached());
        end.drained().await;
        assert_eq!(start.elapsed(), DRAIN);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_ends_a_wait() {
        let (switch, stop) = stop_pair();
        assert!(stop.wait(Duration::from_secs(5)).await);
        switch.stop();
        assert!(!stop.wait(Duration::from_hours(1)).await);
        assert!(stop.is_requested());
    }
}
