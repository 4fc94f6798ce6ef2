//! When the next request may be sent, for the whole account.
//!
//! Requests are spread evenly: each takes the next place in a row of places, one interval apart. So no
//! window of the API's, wherever it begins, sees more than its share. What the API's headers say
//! corrects the interval; an overrun limit pauses everything.
//!
//! The limit is that of who asks, not of the account that is asked for: what one account's answers say of it holds
//! for all that are asked for with the same credential.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::limits::Limits;
use super::retry::BLOCK;
use crate::clock;

/// How much of the API's limit may be used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Budget {
    /// Requests in a window that the API allows; none where it knows no limit.
    pub limit: Option<(u32, Duration)>,
    /// The share of them that is ours, above 0 and up to 1. The limit is shared with the dashboard.
    pub share: f64,
}

/// Why a text is no budget.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BudgetError {
    /// Not `REQUESTS/WINDOW`.
    #[error("{0:?} is no rate limit: 1200/5m is one, and so is none")]
    Limit(String),
    /// Not a percentage above 0 and up to 100.
    #[error("{0:?} is no share of the limit: 80% is one, above 0 and up to 100 %")]
    Share(String),
}

/// Leave to send one request now.
#[derive(Debug)]
#[must_use = "a permit that is not used wastes a part of the budget"]
pub struct Permit(());

/// Hands out the moments at which requests may be sent.
#[derive(Debug)]
pub struct Pacer {
    budget: Budget,
    /// Accounts of the same credential that were there before: its requests lie between theirs.
    before: u32,
    row: Mutex<Row>,
    limit: Arc<Mutex<Limit>>,
}

/// The places of one account's requests.
#[derive(Debug)]
struct Row {
    /// The last place that was taken.
    last: Option<Instant>,
    sent: u64,
}

/// What is known of the limit of one credential.
#[derive(Debug)]
struct Limit {
    /// Accounts that are asked for with it.
    accounts: u32,
    /// Nothing is sent before.
    paused_until: Instant,
    /// The lowest rate that the API's policies allow, in requests a second.
    policy: Option<f64>,
    /// A lower rate for a while, in requests a second: others use the limit too.
    crowded: Option<(f64, Instant)>,
    /// All pauses, also what is still to come of the last one.
    paused: Duration,
}

impl Budget {
    /// Reads a limit (`1200/5m`, or `none`) and a share (`80%`).
    ///
    /// # Errors
    /// Where either is not of its form.
    pub fn parse(limit: &str, share: &str) -> Result<Self, BudgetError> {
        Ok(Self { limit: parse_limit(limit)?, share: parse_share(share)? })
    }

    /// Requests that are ours in a stretch of time; none where there is no limit.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a positive product, cut at the type's end"
    )]
    pub fn requests_in(&self, time: Duration) -> Option<u64> {
        self.rate().map(|rate| (rate * time.as_secs_f64()).floor() as u64)
    }

    /// The time that so many requests take.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    pub fn time_for(&self, requests: u64) -> Duration {
        let time = |rate| Duration::try_from_secs_f64(requests as f64 / rate).unwrap_or(Duration::MAX);
        self.rate().map_or(Duration::ZERO, time)
    }

    fn rate(&self) -> Option<f64> {
        self.limit.map(|(requests, window)| f64::from(requests) / window.as_secs_f64() * self.share)
    }

    /// How far the row of places may lag behind: a late request is made up for, an idle time is not.
    fn slack(&self) -> Duration {
        self.limit.map_or(Duration::ZERO, |(_, window)| window / 100)
    }
}

impl Pacer {
    pub(super) fn new(budget: Budget) -> Self {
        let now = Instant::now();
        let limit = Limit { accounts: 1, paused_until: now, policy: None, crowded: None, paused: Duration::ZERO };
        Self { budget, before: 0, row: Mutex::new(Row { last: None, sent: 0 }), limit: Arc::new(Mutex::new(limit)) }
    }

    /// This pacer, for an account that is asked for with the credential of another one's: they share the limit.
    pub(super) fn beside(self, other: &Self) -> Self {
        let mut limit = other.limit();
        let before = limit.accounts;
        limit.accounts += 1;
        Self { before, limit: Arc::clone(&other.limit), ..self }
    }

    /// The budget that it was made with.
    #[must_use]
    pub fn budget(&self) -> Budget {
        self.budget
    }

    /// For how long the API has kept everything waiting so far.
    #[must_use]
    pub fn paused(&self) -> Duration {
        let limit = self.limit();
        limit.paused.saturating_sub(limit.paused_until.saturating_duration_since(Instant::now()))
    }

    /// Requests sent so far, retries included.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.row().sent
    }

    /// Waits until a request may be sent.
    pub(super) async fn acquire(&self) -> Permit {
        // A timer would round what is due up to its next tick, a millisecond. Who waits has taken nothing yet: he may give
        // up, or be forgotten, and what is learned of the limit meanwhile counts for him too.
        while let Err(look_again) = self.take_place(Instant::now()) {
            sleep_until(look_again).await;
        }
        Permit(())
    }

    /// Waits before a request is sent again.
    pub(super) async fn rest(&self, wait: Duration) {
        sleep_until(Instant::now() + wait).await;
    }

    /// Sends nothing for so long.
    pub(super) fn pause(&self, wait: Duration) {
        self.limit().pause(Instant::now(), wait);
    }

    /// Takes in what an answer said of the limit.
    pub(super) fn observe(&self, limits: &Limits) {
        self.limit().observe(&self.budget, limits, Instant::now());
    }

    /// Takes the next place in the row, if that is due. If not, when it may be: others may be faster, and the limit another
    /// one by then.
    fn take_place(&self, now: Instant) -> Result<(), Instant> {
        let earliest = now.checked_sub(self.budget.slack()).unwrap_or(now);
        let limit = self.limit();
        let interval = limit.interval(&self.budget, now);
        let resumes = limit.paused_until + interval * self.before / limit.accounts;
        let mut row = self.row();
        let next = row.last.map_or(now, |last| last + interval);
        let place = next.max(earliest).max(resumes);
        if place > now {
            let crowded_until = limit.crowded.map(|(_, until)| until).filter(|until| *until > now);
            return Err(crowded_until.map_or(place, |until| until.min(place)));
        }
        row.last = Some(place);
        row.sent += 1;
        Ok(())
    }

    fn row(&self) -> MutexGuard<'_, Row> {
        self.row.lock().expect("no holder of the row panics")
    }

    fn limit(&self) -> MutexGuard<'_, Limit> {
        self.limit.lock().expect("no holder of the limit panics")
    }
}

impl Limit {
    /// From one of an account's requests to the next.
    fn interval(&self, budget: &Budget, now: Instant) -> Duration {
        let crowded = self.crowded.filter(|(_, until)| *until > now).map(|(rate, _)| rate / f64::from(self.accounts));
        let rates = [budget.rate(), self.policy.map(|rate| rate * budget.share), crowded];
        let rate = rates.into_iter().flatten().fold(f64::INFINITY, f64::min);
        Duration::try_from_secs_f64(1.0 / rate).unwrap_or(Duration::MAX).min(LONGEST_INTERVAL)
    }

    fn pause(&mut self, now: Instant, wait: Duration) {
        let until = now + wait;
        if until > self.paused_until {
            self.paused += until - self.paused_until.max(now);
            self.paused_until = until;
        }
    }

    fn observe(&mut self, budget: &Budget, limits: &Limits, now: Instant) {
        let rates = limits.policies.iter().map(|policy| f64::from(policy.quota) / policy.window.as_secs_f64());
        if let Some(rate) = rates.reduce(f64::min) {
            self.policy = Some(rate);
        }
        for state in &limits.states {
            if state.remaining == 0 {
                // An answer that was refused says itself how long to wait.
                self.pause(now, limits.retry_after.unwrap_or(state.reset).min(BLOCK));
            } else if f64::from(state.remaining) < reserve(budget, self.accounts, limits) {
                let rate = f64::from(state.remaining) / state.reset.as_secs_f64().max(1.0);
                self.crowded = Some((rate, now + state.reset));
            }
        }
    }
}

/// However low the limit, a request an hour goes out.
const LONGEST_INTERVAL: Duration = Duration::from_hours(1);

/// What is left of the limit when we keep to our share and nobody else asks is more than this: half of
/// what we leave to others, and never less than a fiftieth of the limit.
fn reserve(budget: &Budget, accounts: u32, limits: &Limits) -> f64 {
    let ours = (budget.share * f64::from(accounts)).min(1.0);
    let quotas = limits.policies.iter().map(|policy| policy.quota).min();
    let quota = quotas.or(budget.limit.map(|(requests, _)| requests)).map_or(0.0, f64::from);
    quota * ((1.0 - ours) / 2.0).max(0.02)
}

fn parse_limit(text: &str) -> Result<Option<(u32, Duration)>, BudgetError> {
    if text == "none" {
        return Ok(None);
    }
    let parsed = text.split_once('/').and_then(|(requests, window)| {
        let (requests, window) = (requests.parse().ok()?, clock::parse_duration(window)?);
        (requests > 0 && !window.is_zero()).then_some((requests, window))
    });
    parsed.map(Some).ok_or_else(|| BudgetError::Limit(text.to_owned()))
}

fn parse_share(text: &str) -> Result<f64, BudgetError> {
    let percent = text.strip_suffix('%').and_then(|percent| percent.trim().parse::<f64>().ok());
    let percent = percent.filter(|percent| *percent > 0.0 && *percent <= 100.0);
    percent.map(|percent| percent / 100.0).ok_or_else(|| BudgetError::Share(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::super::limits::{Policy, State as Left};
    use super::*;

    fn pacer() -> Pacer {
        Pacer::new(Budget::parse("60/5s", "80%").expect("a budget"))
    }

    /// The moments at which the next requests are sent, in seconds.
    async fn times(pacer: &Pacer, count: usize, start: Instant) -> Vec<f64> {
        let mut times = Vec::new();
        for _ in 0..count {
            let _sent = pacer.acquire().await;
            times.push(start.elapsed().as_secs_f64());
        }
        times
    }

    /// The most requests in any window of so many seconds.
    fn most_in(times: &[f64], window: f64) -> usize {
        let within = |from: f64| times.iter().filter(|&&at| at >= from && at < from + window).count();
        times.iter().map(|&from| within(from)).max().unwrap_or(0)
    }

    #[tokio::test(start_paused = true)]
    async fn no_window_sees_more_than_its_share_and_the_share_is_used() {
        let times = times(&pacer(), 480, Instant::now()).await;
        assert!(most_in(&times, 5.0) <= 49, "{}", most_in(&times, 5.0));
        let last = times.last().copied().unwrap_or_default();
        assert!((49.0..50.5).contains(&last), "480 requests took {last} s");
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_time_is_not_made_up_for() {
        let (pacer, start) = (pacer(), Instant::now());
        times(&pacer, 10, start).await;
        pacer.rest(Duration::from_mins(1)).await;
        let times = times(&pacer, 100, start).await;
        assert!(most_in(&times, 5.0) <= 49, "{}", most_in(&times, 5.0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_holds_for_those_who_wait_already() {
        let (pacer, start) = (std::sync::Arc::new(pacer()), Instant::now());
        let waiting: Vec<_> = (0..20)
            .map(|_| {
                let pacer = std::sync::Arc::clone(&pacer);
                tokio::spawn(async move {
                    let _sent = pacer.acquire().await;
                    start.elapsed().as_secs_f64()
                })
            })
            .collect();
        pacer.rest(Duration::from_millis(300)).await;
        pacer.pause(Duration::from_secs(30));
        let mut times = Vec::new();
        for task in waiting {
            times.push(task.await.expect("a task"));
        }
        let before = times.iter().filter(|&&at| at <= 0.3).count();
        assert!((3..=4).contains(&before), "{times:?}");
        assert!(times.iter().all(|&at| at <= 0.3 || at >= 30.3), "{times:?}");
        times.retain(|&at| at > 1.0);
        times.sort_by(f64::total_cmp);
        assert!(most_in(&times, 1.0) <= 10, "no burst after the pause: {times:?}");
        assert_eq!(pacer.paused(), Duration::from_secs(30));
        assert_eq!(pacer.sent(), 20);
    }

    #[tokio::test(start_paused = true)]
    async fn what_one_account_learns_of_the_limit_holds_for_all_of_one_credential() {
        let half = || Pacer::new(Budget::parse("60/5s", "40%").expect("a budget"));
        let (one, start) = (half(), Instant::now());
        let (other, stranger) = (half().beside(&one), half());
        one.pause(Duration::from_secs(30));
        let first = [times(&stranger, 1, start).await[0], times(&other, 1, start).await[0]];
        // Its requests lie between the one's: half an interval after them.
        assert_eq!((first, other.paused()), ([0.0, 30.105], Duration::from_secs(30)));
        // Together they use what they are said to: nobody else is there yet.
        let left = |remaining| {
            let states = vec![Left { remaining, reset: Duration::from_secs(4) }];
            Limits { states, ..Limits::default() }
        };
        other.observe(&left(7));
        let usual = times(&one, 3, start).await;
        assert!((0.2..0.22).contains(&(usual[2] - usual[1])), "{usual:?}");
        // Of four requests in four seconds each has two.
        other.observe(&left(4));
        let crowded = times(&one, 2, start).await;
        assert!((1.9..2.1).contains(&(crowded[1] - crowded[0])), "{crowded:?}");
        assert_eq!((one.sent(), other.sent()), (5, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lower_policy_slows_down_and_a_higher_one_does_not_speed_up() {
        let (pacer, start) = (pacer(), Instant::now());
        let policy =
            |quota| Limits { policies: vec![Policy { quota, window: Duration::from_secs(5) }], ..Limits::default() };
        pacer.observe(&policy(30));
        times(&pacer, 2, start).await;
        let slow = times(&pacer, 48, start).await;
        assert!(most_in(&slow, 5.0) <= 25, "{}", most_in(&slow, 5.0));
        pacer.observe(&policy(6_000));
        times(&pacer, 2, start).await;
        let fast = times(&pacer, 96, start).await;
        assert!((48..=49).contains(&most_in(&fast, 5.0)), "{}", most_in(&fast, 5.0));
    }

    #[tokio::test(start_paused = true)]
    async fn what_others_use_is_left_to_them() {
        let left = |remaining, reset| Limits {
            states: vec![Left { remaining, reset: Duration::from_secs(reset) }],
            ..Limits::default()
        };
        let (pacer, start) = (pacer(), Instant::now());
        pacer.observe(&left(12, 1));
        let usual = times(&pacer, 10, start).await;
        assert!(usual[9] < 1.0, "our own share leaves 12: {usual:?}");
        pacer.observe(&left(4, 4));
        times(&pacer, 1, start).await;
        let crowded = times(&pacer, 3, start).await;
        assert!(crowded[2] - crowded[0] >= 1.9, "{crowded:?}");
        pacer.observe(&left(0, 20));
        let next = times(&pacer, 1, start).await;
        assert!(next[0] - crowded[2] >= 19.0, "{next:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_waiting_has_taken_no_place() {
        let (pacer, start) = (pacer(), Instant::now());
        times(&pacer, 1, start).await;
        pacer.observe(&Limits {
            policies: vec![Policy { quota: 10, window: Duration::from_secs(80) }],
            ..Limits::default()
        });
        // Sweeps that end before a request is due.
        for _ in 0..5 {
            assert!(tokio::time::timeout(Duration::from_secs(1), pacer.acquire()).await.is_err());
        }
        let next = times(&pacer, 1, start).await;
        assert!((10.0..10.1).contains(&next[0]), "{next:?}");
        assert_eq!(pacer.sent(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_and_is_looked_after_no_more_holds_up_nobody() {
        let (pacer, start) = (pacer(), Instant::now());
        times(&pacer, 1, start).await;
        let mut waiting = std::pin::pin!(pacer.acquire());
        assert!(futures_util::poll!(waiting.as_mut()).is_pending());
        let others = times(&pacer, 3, start).await;
        assert!(others[2] < 0.4, "{others:?}");
        assert!(futures_util::poll!(waiting.as_mut()).is_pending(), "nothing is due yet");
        let _sent = waiting.await;
        assert!((0.4..0.5).contains(&start.elapsed().as_secs_f64()), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_shortage_is_over_for_those_too_who_waited_through_it() {
        let (pacer, start) = (pacer(), Instant::now());
        times(&pacer, 1, start).await;
        let states = vec![Left { remaining: 1, reset: Duration::from_secs(30) }];
        pacer.observe(&Limits { states, ..Limits::default() });
        let all = (0..16).map(|_| async {
            let _sent = pacer.acquire().await;
            start.elapsed().as_secs_f64()
        });
        let times = futures_util::future::join_all(all).await;
        assert!(times.iter().all(|at| (30.0..32.0).contains(at)), "{times:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_counts_as_it_passes() {
        let pacer = pacer();
        pacer.pause(Duration::from_hours(1));
        pacer.rest(Duration::from_secs(9)).await;
        assert_eq!(pacer.paused(), Duration::from_secs(9));
        pacer.rest(Duration::from_hours(2)).await;
        assert_eq!(pacer.paused(), Duration::from_hours(1));
    }

    #[test]
    fn budgets_are_read_or_refused_in_a_sentence() {
        let budget = Budget::parse("1200/5m", "80%").expect("a budget");
        assert_eq!(budget.requests_in(Duration::from_mins(5)), Some(960));
        assert_eq!(budget.time_for(960), Duration::from_mins(5));
        assert_eq!(Budget::parse("1/1000000d", "0.001%").expect("a budget").time_for(u64::MAX), Duration::MAX);
        assert_eq!(Budget::parse("none", "80%").expect("a budget").requests_in(Duration::from_mins(5)), None);
        for (limit, share) in [
            ("1200", "80%"),
            ("0/5m", "80%"),
            ("9/0s", "80%"),
            ("9/5m", "0%"),
            ("9/5m", "101%"),
            ("9/5m", "80"),
            ("9/5m", "NaN%"),
        ] {
            assert!(Budget::parse(limit, share).is_err(), "{limit} {share}");
        }
    }
}
