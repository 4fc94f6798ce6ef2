//! One attempt: a request sent once, and what came back.

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use chrono::TimeDelta;
use reqwest::{Response, Url};
use tokio::time::Instant;

use crate::clock::Timestamp;
use crate::envelope::{self, Content, Refusal};
use crate::snapshot::{Body, Endpoint};

use super::limits::{self, Limits};
use super::{Client, Failure, Permit};

/// What came back.
#[derive(Debug, Clone)]
pub(super) struct Attempt {
    /// The status, where there was an answer at all.
    pub(super) status: Option<u16>,
    /// What was said, where all of it came.
    pub(super) said: Result<Said, Trouble>,
    /// What the headers say of the limit.
    pub(super) limits: Limits,
    /// Cloudflare's name for the answer.
    pub(super) cf_ray: Option<String>,
    /// How far our clock is ahead of the server's, where that said what time it is: none of the time that the headers took.
    pub(super) clock_ahead: Option<TimeDelta>,
    /// From the first byte sent to the last received.
    pub(super) latency: Duration,
}

/// What the body holds: read once, whatever is asked of it later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Said {
    /// Device states.
    States(Vec<Body>),
    /// There is none.
    Absent,
    /// The envelope refuses.
    Refused(Refusal),
    /// It is not JSON, or holds more than an answer does. What looks like device states in it, or all of it as one.
    Unreadable(Vec<Body>),
}

/// Why there is no body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// No connection.
    Connect(String),
    /// Not in time.
    Timeout,
    /// The answer broke off.
    Broken(String),
    /// More than is read.
    TooLarge,
    /// Nobody waited for it any longer.
    CutOff,
}

/// Codes of bad credentials, or of credentials that may not do this.
pub(super) const DENIED: [i64; 5] = [10000, 9109, 9103, 6003, 6111];

/// Codes of "no such route": the account's id is wrong, or the API has no such endpoint.
pub(super) const NO_ROUTE: [i64; 2] = [7000, 7003];

/// The answer for one device may have this part of what a page of the list may have.
const PAGE_IN_DEVICES: usize = 16;

/// No answer has so many states: the longest pages that are asked for have 50.
const MOST_STATES: usize = 1_000;

/// The longest `cf-ray` that is believed.
const MAX_RAY: usize = 64;

/// The longest message of the API that is passed on.
const MAX_MESSAGE: usize = 200;

/// Said to those whose connection nobody vouches for: mostly networks that open TLS.
const UNKNOWN_ISSUER: &str = ": where a proxy inspects TLS, name its certificate in SSL_CERT_FILE";

impl Attempt {
    /// Sends a request once, which uses up the permit.
    pub(super) async fn send(client: &Client, _permit: Permit, url: Url, endpoint: Endpoint) -> Self {
        let (start, sent) = (Instant::now(), client.clock.now());
        let mut attempt = match client.signed(client.http.get(url)).send().await {
            Ok(response) => Self::receive(client, response, endpoint, sent).await,
            Err(error) => Self { said: Err(trouble(&error)), ..Self::default() },
        };
        attempt.latency = start.elapsed();
        attempt
    }

    /// An attempt of which the answer was not waited for.
    pub(super) fn cut_off() -> Self {
        Self { said: Err(Trouble::CutOff), ..Self::default() }
    }

    async fn receive(client: &Client, response: Response, endpoint: Endpoint, sent: Timestamp) -> Self {
        let ray = response.headers().get("cf-ray").and_then(|ray| ray.to_str().ok());
        let ray = ray.filter(|ray| ray.len() <= MAX_RAY).map(str::to_owned);
        let came = client.clock.now();
        let limits = Limits::read(response.headers(), came);
        let clock_ahead = response.headers().get("date").and_then(limits::date).map(|date| ahead_of(date, sent, came));
        let status = Some(response.status().as_u16());
        let most = match endpoint {
            Endpoint::List => client.options.max_body_bytes,
            // Many are read at once.
            Endpoint::Live => client.options.max_body_bytes / PAGE_IN_DEVICES,
        };
        let body = read_body(response, most).await;
        let said = body.map(|bytes| match std::str::from_utf8(&bytes) {
            Ok(text) => Said::read(text),
            // One bad letter in one device's name is no reason to lose the fifty states on its page.
            Err(_) => Said::read(&String::from_utf8_lossy(&bytes)),
        });
        Self { status, said, limits, cf_ray: ray, clock_ahead, latency: Duration::ZERO }
    }

    /// Whether the status says that it went well.
    pub(super) fn is_success(&self) -> bool {
        self.status.is_some_and(|status| (200..300).contains(&status))
    }

    /// Whether the body of an answer that went well is of a form that the endpoint has. That of a 204
    /// is empty; a page of the list is a list, if an empty one.
    pub(super) fn is_readable(&self, endpoint: Endpoint) -> bool {
        match &self.said {
            Ok(Said::Absent) => endpoint == Endpoint::Live,
            Ok(Said::Unreadable(_)) => self.status == Some(204) && endpoint == Endpoint::Live,
            Ok(_) => true,
            Err(_) => false,
        }
    }

    /// Whether the API answered that there is nothing. A page of the list is then an empty list; for a
    /// device it may also be `null`, `{}`, no content, or a 404 in the API's own form. The API document
    /// describes no such case for a device; these are the forms seen elsewhere.
    pub(super) fn is_absent(&self, endpoint: Endpoint) -> bool {
        match (self.status, &self.said) {
            (Some(200), Ok(Said::States(states))) => states.is_empty(),
            _ if endpoint == Endpoint::List => false,
            (Some(204), _) | (Some(200), Ok(Said::Absent)) => true,
            (Some(404), Ok(Said::Refused(refusal))) => refusal.code.is_none_or(|code| !NO_ROUTE.contains(&code)),
            _ => false,
        }
    }

    /// The envelope's refusal, if it is one.
    pub(super) fn refusal(&self) -> Option<&Refusal> {
        match &self.said {
            Ok(Said::Refused(refusal)) => Some(refusal),
            _ => None,
        }
    }

    /// Cloudflare's error code, if there is one.
    pub(super) fn code(&self) -> Option<i64> {
        self.refusal().and_then(|refusal| refusal.code)
    }

    /// What the attempt failed of, in words.
    pub(super) fn failure(&self) -> Failure {
        let refusal = self.refusal();
        let denied = self.status == Some(401) || self.code().is_some_and(|code| DENIED.contains(&code));
        match (&self.said, self.status) {
            (_, status) if denied => Failure::Denied(describe(status, refusal)),
            (_, Some(403)) => Failure::Forbidden(describe(Some(403), refusal)),
            (Err(Trouble::Connect(reason)), _) => Failure::Unreachable(reason.clone()),
            (Err(Trouble::Timeout), _) => Failure::Other("no answer in time".to_owned()),
            (Err(Trouble::CutOff), _) => Failure::CutOff,
            (Err(Trouble::TooLarge), _) => Failure::Other("the answer is larger than is read".to_owned()),
            (Err(Trouble::Broken(reason)), _) => Failure::Other(format!("the answer broke off: {reason}")),
            (Ok(_), status) if refusal.is_some() || !self.is_success() => Failure::Other(describe(status, refusal)),
            (Ok(_), _) => Failure::Other("the answer is not JSON, or not of the form it should have".to_owned()),
        }
    }
}

impl Said {
    pub(super) fn read(text: &str) -> Self {
        let bodies = |states: Vec<&str>| states.into_iter().map(Body::new).collect();
        match envelope::read(text, MOST_STATES) {
            Ok(Content::States(states)) if states.len() <= MOST_STATES => Self::States(bodies(states)),
            Ok(Content::Absent) => Self::Absent,
            Ok(Content::Refused(refusal)) => Self::Refused(refusal),
            read => {
                let salvaged = if read.is_err() { envelope::salvage(text, MOST_STATES) } else { vec![text] };
                // Of very many small ones, each would take more memory than it has letters: they are kept as one.
                Self::Unreadable(bodies(if salvaged.len() > MOST_STATES { vec![text] } else { salvaged }))
            }
        }
    }
}

impl Default for Attempt {
    fn default() -> Self {
        let said = Err(Trouble::Broken("nothing was sent".to_owned()));
        let limits = Limits::default();
        Self { status: None, said, limits, cf_ray: None, clock_ahead: None, latency: Duration::ZERO }
    }
}

/// How far our clock is ahead of one by which it is `date`, where the request was sent and the headers came by ours. In
/// between both may be right, however long that took.
fn ahead_of(date: Timestamp, sent: Timestamp, came: Timestamp) -> TimeDelta {
    if date < sent { sent - date } else { (came - date).min(TimeDelta::zero()) }
}

/// Why a request failed, without its address: innermost cause last.
pub(super) fn reason(error: &reqwest::Error) -> String {
    let mut causes = Vec::new();
    let mut cause: Option<&dyn Error> = error.source();
    while let Some(error) = cause {
        causes.push(error.to_string());
        cause = error.source();
    }
    // The outer causes repeat the inner ones in other words; the innermost says what happened.
    let said = causes.pop().unwrap_or_else(|| "the request could not be sent".to_owned());
    if said.contains("UnknownIssuer") { format!("{said}{UNKNOWN_ISSUER}") } else { said }
}

async fn read_body(mut response: Response, max_bytes: usize) -> Result<Bytes, Trouble> {
    gather(async || response.chunk().await.map_err(|error| trouble(&error)), max_bytes).await
}

/// All pieces as one. A small body comes in one, which is not copied. Of several, each is let go at once: a piece of a
/// few bytes holds all of the buffer that it was read into.
async fn gather(
    mut next: impl AsyncFnMut() -> Result<Option<Bytes>, Trouble>,
    max_bytes: usize,
) -> Result<Bytes, Trouble> {
    let first = next().await?.unwrap_or_default();
    if first.len() > max_bytes {
        return Err(Trouble::TooLarge);
    }
    let mut whole: Option<Vec<u8>> = None;
    while let Some(piece) = next().await? {
        let whole = whole.get_or_insert_with(|| first.to_vec());
        if whole.len() + piece.len() > max_bytes {
            return Err(Trouble::TooLarge);
        }
        whole.extend_from_slice(&piece);
    }
    Ok(whole.map_or(first, Bytes::from))
}

fn trouble(error: &reqwest::Error) -> Trouble {
    if error.is_connect() {
        Trouble::Connect(if error.is_timeout() { "no connection in time".to_owned() } else { reason(error) })
    } else if error.is_timeout() {
        Trouble::Timeout
    } else {
        Trouble::Broken(reason(error))
    }
}

/// A refusal in words. The API's message is foreign text: it is cut, and its control characters go.
fn describe(status: Option<u16>, refusal: Option<&Refusal>) -> String {
    let status = status.map_or_else(String::new, |status| format!("HTTP {status}"));
    let code = refusal.and_then(|refusal| refusal.code).map_or_else(String::new, |code| format!(", code {code}"));
    let message = refusal.and_then(|refusal| refusal.message.as_deref()).unwrap_or_default();
    let message: String = message.chars().filter(|c| !c.is_control()).take(MAX_MESSAGE).collect();
    let hint = refusal.and_then(|refusal| refusal.code).filter(|code| NO_ROUTE.contains(code));
    let hint = hint.map_or("", |_| " (check the account's id and the API's address)");
    if message.is_empty() { format!("{status}{code}{hint}") } else { format!("{status}{code}{hint}: {message}") }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A piece of a body, and how many of them are held.
    struct Piece(&'static str, Arc<AtomicUsize>);

    impl AsRef<[u8]> for Piece {
        fn as_ref(&self) -> &[u8] {
            self.0.as_bytes()
        }
    }

    impl Drop for Piece {
        fn drop(&mut self) {
            self.1.fetch_sub(1, Ordering::SeqCst);
        }
    }

    #[tokio::test]
    async fn a_body_is_read_to_its_limit_in_whatever_pieces_it_comes() {
        let held = Arc::new(AtomicUsize::new(0));
        let read = async |pieces: &[&'static str], most: usize| {
            let mut pieces = pieces.iter();
            let next = async || {
                let piece = pieces.next().map(|text| Piece(text, Arc::clone(&held)));
                let before = held.fetch_add(usize::from(piece.is_some()), Ordering::SeqCst);
                assert!(before < 2, "the first piece and the last one are held, and no other");
                Ok(piece.map(Bytes::from_owner))
            };
            gather(next, most).await
        };
        for pieces in [&[][..], &["abc"], &["ab", "c", "d"], &["a", "", "b", "c", "d", "e"]] {
            let whole = pieces.concat();
            assert_eq!(read(pieces, whole.len()).await, Ok(whole.clone().into()));
            if let Some(less) = whole.len().checked_sub(1) {
                assert_eq!(read(pieces, less).await, Err(Trouble::TooLarge), "{pieces:?}");
            }
        }
    }

    fn check(status: u16, body: &str, expect: &Failure) {
        let attempt = Attempt { status: Some(status), said: Ok(Said::read(body)), ..Attempt::default() };
        assert_eq!(attempt.failure(), *expect);
    }

    #[test]
    fn what_passes_while_an_answer_is_on_its_way_makes_no_clock_wrong() {
        let at = |seconds: i64| crate::clock::from_micros(seconds * 1_000_000).expect("a time");
        let ahead = |date: i64| ahead_of(at(date), at(100), at(400)).num_seconds();
        assert_eq!([40, 100, 250, 400, 430].map(ahead), [60, 0, 0, 0, -30]);
    }

    #[test]
    fn a_wrong_account_is_no_absent_device() {
        let absent = |code: i64| {
            let body = format!(r#"{{"success":false,"errors":[{{"code":{code},"message":"no"}}],"result":null}}"#);
            let attempt = Attempt { status: Some(404), said: Ok(Said::read(&body)), ..Attempt::default() };
            attempt.is_absent(Endpoint::Live)
        };
        assert!(absent(10_404));
        let unsaid = Ok(Said::read(r#"{"success":false,"errors":[],"result":null}"#));
        assert!(Attempt { status: Some(404), said: unsaid, ..Attempt::default() }.is_absent(Endpoint::Live));
        assert!(NO_ROUTE.iter().all(|&code| !absent(code)));
    }

    #[test]
    fn an_answer_of_very_many_is_kept_as_one_body_and_counts_as_none() {
        let many = |text: &str, count: usize| vec![text; count].join(",");
        let read = |text: &str| match Said::read(text) {
            Said::States(bodies) => (true, bodies.len()),
            Said::Unreadable(bodies) => (false, bodies.len()),
            said => panic!("{said:?}"),
        };
        let state = r#"{"deviceId":"1"}"#;
        assert_eq!(read(&format!("[{}]", many(state, MOST_STATES))), (true, MOST_STATES));
        assert_eq!(read(&format!("[{}]", many(state, MOST_STATES + 1))), (false, 1));
        assert_eq!(read(&many(state, MOST_STATES)), (false, MOST_STATES));
        assert_eq!(read(&many(state, MOST_STATES + 1)), (false, 1));
    }

    #[test]
    fn says_in_words_what_failed() {
        let denied = r#"{"success":false,"errors":[{"code":10000,"message":"Authentication\u001b[31m error"}]}"#;
        check(403, denied, &Failure::Denied("HTTP 403, code 10000: Authentication[31m error".to_owned()));
        check(200, denied, &Failure::Denied("HTTP 200, code 10000: Authentication[31m error".to_owned()));
        check(401, "<html>", &Failure::Denied("HTTP 401".to_owned()));
        check(403, "<html>", &Failure::Forbidden("HTTP 403".to_owned()));
        check(503, "<html>", &Failure::Other("HTTP 503".to_owned()));
        check(200, "<html>", &Failure::Other("the answer is not JSON, or not of the form it should have".to_owned()));
        check(404, "nothing here", &Failure::Other("HTTP 404".to_owned()));
    }
}
