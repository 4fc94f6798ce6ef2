//! Whether a request is sent again: a pure function of what came of the attempt.

use std::time::Duration;

use crate::snapshot::Endpoint;

use super::attempt::{Attempt, DENIED, NO_ROUTE, Trouble};

/// What to do after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Retry {
    /// It is settled, for good or bad.
    Never,
    /// Pause everything for so long, then send it again: the limit was overrun.
    After(Duration),
    /// Send it again after a wait of its own.
    Backoff,
}

/// How long Cloudflare blocks all API calls of a client that overran the limit: nothing is paused longer for want of budget.
pub(super) const BLOCK: Duration = Duration::from_mins(5);

/// Codes of "too many requests", which may come with any status.
const THROTTLED: [i64; 2] = [971, 10100];

/// Classifies an attempt to read an endpoint.
pub(super) fn classify(endpoint: Endpoint, attempt: &Attempt) -> Retry {
    let code = attempt.code().unwrap_or(0);
    let refused = attempt.refusal().is_some();
    match (attempt.status, &attempt.said) {
        _ if attempt.status == Some(429) || THROTTLED.contains(&code) => Retry::After(pause(attempt)),
        (_, Err(Trouble::TooLarge)) => Retry::Never,
        (None | Some(408 | 409 | 425 | 500..), _) | (Some(200..=299), Err(_)) => Retry::Backoff,
        (Some(200..=299), Ok(_)) if refused && !is_settled(code) => Retry::Backoff,
        (Some(200..=299), Ok(_)) if !refused && !attempt.is_readable(endpoint) => Retry::Backoff,
        _ => Retry::Never,
    }
}

fn is_settled(code: i64) -> bool {
    DENIED.contains(&code) || NO_ROUTE.contains(&code)
}

/// For how long nothing is sent: as long as the answer says; else the whole block, or what is left of
/// the window where the answer says that.
fn pause(attempt: &Attempt) -> Duration {
    let left = attempt.limits.states.iter().map(|state| state.reset).max();
    attempt.limits.retry_after.unwrap_or_else(|| left.unwrap_or(BLOCK).min(BLOCK))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::attempt::Said;
    use crate::api::limits::{Limits, State};

    fn answer(status: u16, body: &str) -> Attempt {
        Attempt { status: Some(status), said: Ok(Said::read(body)), ..Attempt::default() }
    }

    fn refused(code: i64) -> String {
        format!(r#"{{"success":false,"errors":[{{"code":{code},"message":"no"}}],"result":null}}"#)
    }

    #[test]
    fn what_may_pass_is_tried_again() {
        for status in [408, 409, 425, 500, 502, 503, 504, 520, 522, 524, 599] {
            assert_eq!(classify(Endpoint::Live, &answer(status, "<html>")), Retry::Backoff, "{status}");
        }
        for trouble in [Trouble::Connect("refused".into()), Trouble::Timeout, Trouble::Broken("cut".into())] {
            let attempt = Attempt { said: Err(trouble.clone()), ..Attempt::default() };
            assert_eq!(classify(Endpoint::Live, &attempt), Retry::Backoff, "{trouble:?}");
        }
        let cut = Attempt { status: Some(200), said: Err(Trouble::Broken("cut".into())), ..Attempt::default() };
        assert_eq!(classify(Endpoint::Live, &cut), Retry::Backoff);
        assert_eq!(classify(Endpoint::Live, &answer(200, "<html>hello</html>")), Retry::Backoff);
        assert_eq!(classify(Endpoint::Live, &answer(200, "{\"success\":true,\"resu")), Retry::Backoff);
        assert_eq!(classify(Endpoint::Live, &answer(200, &refused(10001))), Retry::Backoff);
        assert_eq!(classify(Endpoint::Live, &answer(200, "{\"success\":false}")), Retry::Backoff);
        for no_list in ["null", "{}", "{\"success\":true,\"result\":null}"] {
            assert_eq!(classify(Endpoint::List, &answer(200, no_list)), Retry::Backoff, "{no_list}");
        }
    }

    #[test]
    fn what_is_settled_is_not() {
        for status in [301, 302, 400, 401, 403, 404, 405, 410, 422] {
            assert_eq!(classify(Endpoint::Live, &answer(status, "")), Retry::Never, "{status}");
            assert_eq!(classify(Endpoint::Live, &answer(status, &refused(10001))), Retry::Never, "{status}");
        }
        for body in ["{\"deviceId\":\"d\"}", "null", "{}", "[]", "17"] {
            assert_eq!(classify(Endpoint::Live, &answer(200, body)), Retry::Never, "{body}");
        }
        for code in [10000, 9109, 9103, 6003, 6111, 7000, 7003] {
            assert_eq!(classify(Endpoint::Live, &answer(200, &refused(code))), Retry::Never, "{code}");
        }
        assert_eq!(classify(Endpoint::Live, &answer(204, "")), Retry::Never);
        assert_eq!(classify(Endpoint::List, &answer(200, "{\"result\":[]}")), Retry::Never);
        let large = Attempt { status: Some(200), said: Err(Trouble::TooLarge), ..Attempt::default() };
        assert_eq!(classify(Endpoint::Live, &large), Retry::Never);
    }

    #[test]
    fn an_overrun_limit_pauses_everything() {
        let limits = |retry_after, reset| Limits {
            retry_after: Option::map(retry_after, Duration::from_secs),
            states: Option::map(reset, |reset| State { remaining: 0, reset: Duration::from_secs(reset) })
                .into_iter()
                .collect(),
            ..Limits::default()
        };
        for (retry_after, reset, expect) in [
            (Some(7), Some(99), 7),
            (None, Some(99), 99),
            (None, Some(900), 300),
            (None, None, 300),
            (Some(900), None, 900),
        ] {
            let attempt = Attempt { limits: limits(retry_after, reset), ..answer(429, "") };
            assert_eq!(classify(Endpoint::Live, &attempt), Retry::After(Duration::from_secs(expect)));
        }
        for code in THROTTLED {
            assert_eq!(classify(Endpoint::Live, &answer(200, &refused(code))), Retry::After(BLOCK), "{code}");
        }
    }
}
