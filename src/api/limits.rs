//! What the answer's headers say of the rate limit.
//!
//! `Ratelimit: "default";r=50;t=30` gives what is left and the seconds until the reset,
//! `Ratelimit-Policy: "default";q=100;w=60` the quota and its window in seconds: structured fields
//! (RFC 9651), lists of named items. The older `x-ratelimit-remaining` and `-reset` are read too. Names
//! and parameters that are not known are passed over, and so is whatever cannot be read.

use std::time::Duration;

use chrono::DateTime;
use reqwest::header::{HeaderMap, HeaderValue};

use crate::clock::Timestamp;

/// What is known of the limit after an answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Limits {
    /// Quotas: so many requests in so long a window.
    pub(super) policies: Vec<Policy>,
    /// What is left of them.
    pub(super) states: Vec<State>,
    /// For how long not to ask at all.
    pub(super) retry_after: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Policy {
    pub(super) quota: u32,
    pub(super) window: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct State {
    pub(super) remaining: u32,
    pub(super) reset: Duration,
}

/// No header is believed beyond this: Cloudflare's own block lasts five minutes.
const LONGEST: u64 = 3_600;

impl Limits {
    /// Reads the headers of an answer that came at `now`. Dates in them are measured by the answer's own
    /// `Date`, where it has one: our clock or the server's may be wrong.
    pub(super) fn read(headers: &HeaderMap, now: Timestamp) -> Self {
        // Seldom asked for, and dear to read.
        let now = || headers.get("date").and_then(date).unwrap_or(now);
        let mut limits = Self { retry_after: retry_after(headers, &now), ..Self::default() };
        for item in items(headers, "ratelimit-policy") {
            if let (Some(quota), Some(window @ 1..)) = (number(item, "q"), number(item, "w")) {
                limits.policies.push(Policy { quota: clamp(quota), window: seconds(window) });
            }
        }
        for item in items(headers, "ratelimit") {
            if let (Some(remaining), Some(reset)) = (number(item, "r"), number(item, "t")) {
                limits.states.push(State { remaining: clamp(remaining), reset: seconds(reset) });
            }
        }
        limits.states.extend(older(headers, &now));
        limits
    }
}

/// What time a `Date` says that it was for the server, to the second.
pub(super) fn date(text: &HeaderValue) -> Option<Timestamp> {
    DateTime::parse_from_rfc2822(text.to_str().ok()?.trim()).ok().map(|date| date.to_utc())
}

/// The items of a list: `"a";q=1, "b";q=2`. A quoted name may hold a comma.
fn items<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| split_outside_quotes(value, ',')).collect()
}

fn split_outside_quotes(text: &str, separator: char) -> Vec<&str> {
    let mut quoted = false;
    text.split(|letter: char| {
        quoted ^= letter == '"';
        letter == separator && !quoted
    })
    .collect()
}

/// The value of a parameter, where it is a whole number.
fn number(item: &str, key: &str) -> Option<u64> {
    let parameters = split_outside_quotes(item, ';').into_iter().skip(1);
    let mut pairs = parameters.filter_map(|parameter| parameter.split_once('='));
    pairs.find(|(name, _)| name.trim() == key).and_then(|(_, value)| value.trim().parse().ok())
}

/// `x-ratelimit-remaining` and `x-ratelimit-reset`, a date or seconds.
fn older(headers: &HeaderMap, now: &dyn Fn() -> Timestamp) -> Option<State> {
    let text = |name| headers.get(name)?.to_str().ok();
    let remaining = text("x-ratelimit-remaining")?.trim().parse().ok()?;
    Some(State { remaining: clamp(remaining), reset: wait(text("x-ratelimit-reset")?, now)? })
}

fn retry_after(headers: &HeaderMap, now: &dyn Fn() -> Timestamp) -> Option<Duration> {
    wait(headers.get("retry-after")?.to_str().ok()?, now)
}

/// Seconds, or a date (RFC 9110).
fn wait(text: &str, now: &dyn Fn() -> Timestamp) -> Option<Duration> {
    let text = text.trim();
    if let Ok(count) = text.parse() {
        return Some(seconds(count));
    }
    let until = DateTime::parse_from_rfc2822(text).ok()?;
    let left = until.signed_duration_since(now()).num_seconds().max(0);
    Some(seconds(u64::try_from(left).ok()?))
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count.min(LONGEST))
}

fn clamp(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use expect_test::{Expect, expect};
    use reqwest::header::HeaderName;

    fn check(lines: &[(&'static str, &str)], expect: &Expect) {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).expect("a header"));
        }
        let now = clock::parse_timestamp("2026-11-24T07:40:00Z").expect("a timestamp");
        let Limits { policies, states, retry_after } = Limits::read(&headers, now);
        let policies = policies.iter().map(|policy| format!("{} in {:?}", policy.quota, policy.window));
        let states = states.iter().map(|state| format!("{} left, reset in {:?}", state.remaining, state.reset));
        let retry = retry_after.map(|wait| format!("retry after {wait:?}"));
        expect.assert_eq(&policies.chain(states).chain(retry).collect::<Vec<_>>().join("; "));
    }

    #[test]
    fn reads_structured_fields() {
        check(
            &[("ratelimit", "\"default\";r=50;t=30"), ("ratelimit-policy", "\"default\";q=100;w=60")],
            &expect!["100 in 60s; 50 left, reset in 30s"],
        );
        check(
            &[
                ("ratelimit-policy", "\"burst, quick\";q=100;w=60;pk=:c2Vj:, \"daily\"; w=3600 ;q=5"),
                ("ratelimit-policy", "x;q=1;w=2"),
            ],
            &expect!["100 in 60s; 5 in 3600s; 1 in 2s"],
        );
    }

    #[test]
    fn reads_the_older_headers() {
        check(
            &[
                ("x-ratelimit-remaining", "7"),
                ("x-ratelimit-reset", "Tue, 24 Nov 2026 07:41:30 GMT"),
                ("x-ratelimit-limit", "9"),
            ],
            &expect!["7 left, reset in 90s"],
        );
        check(&[("x-ratelimit-remaining", "7"), ("x-ratelimit-reset", "12")], &expect!["7 left, reset in 12s"]);
    }

    #[test]
    fn reads_when_to_come_back() {
        check(&[("retry-after", "120")], &expect!["retry after 120s"]);
        check(&[("retry-after", "Tue, 24 Nov 2026 07:45:00 GMT")], &expect!["retry after 300s"]);
        check(&[("retry-after", "Tue, 24 Nov 2026 07:00:00 GMT")], &expect!["retry after 0ns"]);
        // By the server's clock, which is four minutes ahead of ours.
        let date = ("date", "Tue, 24 Nov 2026 07:44:00 GMT");
        check(&[("retry-after", "Tue, 24 Nov 2026 07:45:00 GMT"), date], &expect!["retry after 60s"]);
        check(&[("retry-after", "99999999999999999")], &expect!["retry after 3600s"]);
    }

    #[test]
    fn passes_over_what_it_cannot_read() {
        check(
            &[
                ("ratelimit", "gibberish"),
                ("ratelimit", "\"a\";r=-1;t=5"),
                ("ratelimit", "\"a\";r=1"),
                ("ratelimit-policy", "\"a\";q=1;w=0"),
                ("ratelimit-policy", ";;;,,,\"\"\""),
                ("retry-after", "soon"),
                ("x-ratelimit-remaining", "many"),
            ],
            &expect![""],
        );
    }

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config { failure_persistence: None, ..proptest::test_runner::Config::with_cases(3_000) })]

        /// Whatever the headers hold, they are read or passed over, and no wait is beyond an hour.
        #[test]
        fn any_headers_are_read_or_passed_over(
            values in proptest::collection::vec((0..6_usize, "[ -~\u{80}-\u{ff}]{0,60}|\"default\";(r|q)=[0-9]{0,25};(t|w)=[0-9]{0,25}(, *)?|[0-9]{1,25}"), 0..8)
        ) {
            const NAMES: [&str; 6] =
                ["ratelimit", "ratelimit-policy", "retry-after", "x-ratelimit-remaining", "x-ratelimit-reset", "date"];
            let mut headers = HeaderMap::new();
            for (name, value) in &values {
                if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
                    headers.append(HeaderName::from_static(NAMES[*name]), value);
                }
            }
            let limits = Limits::read(&headers, clock::parse_timestamp("2026-11-24T07:40:00Z").expect("a timestamp"));
            let longest = Duration::from_secs(LONGEST);
            assert!(limits.retry_after.is_none_or(|wait| wait <= longest));
            assert!(limits.states.iter().all(|state| state.reset <= longest));
            assert!(limits.policies.iter().all(|policy| policy.window <= longest && !policy.window.is_zero()));
        }
    }
}
