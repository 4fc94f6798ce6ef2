//! The DEX API: requests out, answers back. The only user of the HTTP client.
//!
//! [`Client::live`] and [`Client::list`] each make one request, which may take several attempts, and
//! hand back what came of it as an [`Exchange`]: failing is an outcome that is recorded, not an error.
//! Every attempt, retries included, waits for the [`Pacer`], since the limit counts them all.
//!
//! Bodies are not looked into beyond the envelope. The token never leaves this module: not in a log,
//! an error, a file or `Debug`.

mod attempt;
mod backoff;
mod credential;
mod limits;
mod pacer;
mod probe;
mod retry;

use std::sync::Mutex;
use std::time::Duration;

use chrono::TimeDelta;
use rand::SeedableRng;
use rand::rngs::StdRng;
use reqwest::{RequestBuilder, Url};

use crate::clock::{self, Clock, Timestamp};
use crate::snapshot::{AccountId, Answer, DeviceId, Endpoint, Listing, Outcome, PAGE_ROWS, Poll, Source};

use attempt::{Attempt, Said};
use backoff::Backoff;
use retry::Retry;

pub use credential::{Credential, CredentialError, Secret};
pub use pacer::{Budget, BudgetError, Pacer, Permit};
pub use probe::Probe;

/// A clock that is farther from the server's is wrong: an answer takes seconds at most, and the server says whole ones.
pub const MOST_CLOCK_AHEAD: TimeDelta = TimeDelta::seconds(60);

/// How the API is asked.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// Where the API is, up to and without `/accounts`.
    pub base_url: String,
    /// Whose fleet is asked for.
    pub account_id: AccountId,
    /// Who asks.
    pub credential: Credential,
    /// How fast it may be asked.
    pub budget: Budget,
    /// How often a request is sent at most.
    pub attempts: u32,
    /// The first wait before a request is sent again; later ones are longer.
    pub retry_delay: Duration,
    /// The longest time that a connection may take to come about.
    pub connect_timeout: Duration,
    /// The longest time that an answer may take as a whole.
    pub timeout: Duration,
    /// The largest page of the list that is read, in bytes after decompression; the answer for one device
    /// may have a sixteenth of it.
    pub max_body_bytes: usize,
    /// Seed of the random numbers in the waits.
    pub seed: u64,
}

/// One account's client.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    pacer: Pacer,
    clock: Clock,
    options: ClientOptions,
    /// Of the options at first; a loop outlives a token.
    credential: Mutex<Credential>,
    random: Mutex<StdRng>,
    clock_ahead: Mutex<Option<TimeDelta>>,
    /// When the last request was made.
    requested: Mutex<Timestamp>,
}

/// A page of the list.
#[derive(Debug, Clone, Copy)]
pub struct Page<'a> {
    /// What the list is of.
    pub listing: &'a Listing,
    /// Whose states are asked for; everybody's where none is named.
    pub device: Option<&'a DeviceId>,
    /// Counted from 1.
    pub number: u32,
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq)]
pub struct Exchange {
    /// The answer, with its poll.
    pub answer: Answer,
    /// Why there is none, where it failed.
    pub failure: Option<Failure>,
    /// How far our clock is ahead of the server's, where that is more than [`MOST_CLOCK_AHEAD`].
    pub clock_off: Option<TimeDelta>,
}

/// How a request failed for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The API does not know the credentials, or does not let them do this: nothing else will work.
    Denied(String),
    /// HTTP 403, not in the API's own words: somebody on the way may have refused this one request.
    Forbidden(String),
    /// There was no connection at all.
    Unreachable(String),
    /// The sweep ended before the answer came.
    CutOff,
    /// Anything else.
    Other(String),
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// What was given is no address of an API.
    #[error("{url:?} is no address of an API: {problem}")]
    Url {
        /// What was given.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The HTTP client cannot be set up.
    #[error("the HTTP client cannot be set up: {0}")]
    Http(String),
    /// The API cannot be reached.
    #[error("cannot reach {url}: {problem}")]
    Unreachable {
        /// The address.
        url: Url,
        /// Why not.
        problem: String,
    },
}

impl Client {
    /// Sets up a client. Nothing is sent yet.
    ///
    /// # Errors
    /// Where it is no address of an API, or the system's certificates cannot be read.
    pub fn new(options: ClientOptions, clock: Clock) -> Result<Self, ClientError> {
        let base = parse_base(&options.base_url)?;
        // A second client in one process finds the provider installed, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .user_agent(concat!("dex-archive/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(options.connect_timeout)
            .timeout(options.timeout)
            // A redirect could lead the token to somebody else.
            .redirect(reqwest::redirect::Policy::none())
            // What is sent again is paced, counted and told.
            .retry(reqwest::retry::never());
        // Without TLS only this machine is asked, and no proxy has to see the token on the way.
        let http = if base.scheme() == "http" { http.no_proxy() } else { http };
        let http = http.build().map_err(|error| ClientError::Http(attempt::reason(&error)))?;
        Ok(Self {
            http,
            base,
            pacer: Pacer::new(options.budget),
            clock,
            random: Mutex::new(StdRng::seed_from_u64(options.seed)),
            clock_ahead: Mutex::default(),
            requested: Mutex::default(),
            credential: Mutex::new(options.credential.clone()),
            options,
        })
    }

    /// This client, for an account that is asked for beside another one's with the same credential: the API counts their
    /// requests together.
    #[must_use]
    pub fn beside(self, other: &Self) -> Self {
        Self { pacer: self.pacer.beside(&other.pacer), ..self }
    }

    /// Whether the API counts its requests together with another one's.
    #[must_use]
    pub fn shares_limit(&self, other: &Self) -> bool {
        self.options.credential == other.options.credential
    }

    /// Asks with another credential from the next request on.
    pub fn renew(&self, credential: Credential) {
        *self.credential.lock().expect("no holder of it panics") = credential;
    }

    /// Adds the credential to a request.
    fn signed(&self, request: RequestBuilder) -> RequestBuilder {
        self.credential.lock().expect("no holder of it panics").sign(request)
    }

    /// Whose fleet is asked for.
    #[must_use]
    pub fn account(&self) -> &AccountId {
        &self.options.account_id
    }

    /// How fast it may be asked, and how much it was held back.
    #[must_use]
    pub fn pacer(&self) -> &Pacer {
        &self.pacer
    }

    /// How far our clock was ahead of the server's at its last answer, to the second; none where it did not say.
    #[must_use]
    pub fn clock_ahead(&self) -> Option<TimeDelta> {
        *self.clock_ahead.lock().expect("no holder of it panics")
    }

    /// Checks that something answers at the API's address, whatever it says. Made once before an
    /// archive comes into being, so that a wrong address leaves nothing behind.
    ///
    /// # Errors
    /// Where there is no connection, or no trust in it.
    pub async fn reach(&self) -> Result<(), ClientError> {
        let _permit = self.permit().await;
        match self.http.head(self.base.clone()).send().await {
            Err(error) if error.is_connect() || error.is_timeout() => {
                Err(ClientError::Unreachable { url: self.base.clone(), problem: attempt::reason(&error) })
            }
            _ => Ok(()),
        }
    }

    /// Waits until the next request may be sent.
    pub async fn permit(&self) -> Permit {
        self.pacer.acquire().await
    }

    /// Asks for the newest state of one device within the last minutes (1 to 60). Once `end` is there, no
    /// answer is waited for any longer.
    pub async fn live(
        &self,
        permit: Permit,
        sweep_id: &str,
        device: &DeviceId,
        since_minutes: u32,
        end: impl Future<Output = ()>,
    ) -> Exchange {
        let url = self.live_url(device, since_minutes);
        let mut poll = self.poll(sweep_id, Endpoint::Live);
        poll.device_id = Some(device.as_str().to_owned());
        self.exchange(permit, url, Source::Live, poll, end).await
    }

    /// Asks for a page of the list. Once `end` is there, no answer is waited for any longer.
    pub async fn list(
        &self,
        permit: Permit,
        sweep_id: &str,
        page: Page<'_>,
        end: impl Future<Output = ()>,
    ) -> Exchange {
        let poll = self.list_poll(sweep_id, page);
        self.exchange(permit, self.list_url(page), page.listing.source, poll, end).await
    }

    fn live_url(&self, device: &DeviceId, since_minutes: u32) -> Url {
        let path = ["dex", "devices", device.as_str(), "fleet-status", "live"];
        self.url(&path, &[("since_minutes", since_minutes.to_string())])
    }

    fn list_url(&self, Page { listing, device, number }: Page) -> Url {
        let source = match listing.source {
            Source::Raw => "raw",
            Source::Hourly => "hourly",
            _ => "last_seen",
        };
        let mut query = vec![
            ("from", clock::format_timestamp(listing.from)),
            ("to", clock::format_timestamp(listing.to)),
            ("page", number.to_string()),
            ("per_page", PAGE_ROWS.to_string()),
            ("source", source.to_owned()),
            // Rows that compare equal may come in another order at each request: there are to be few of them. By device,
            // a state that is reported while the pages are read moves no other row, either.
            ("sort_by", if listing.source == Source::Raw { "timestamp" } else { "device_id" }.to_owned()),
        ];
        query.extend(device.map(|device| ("device_id", device.as_str().to_owned())));
        self.url(&["dex", "fleet-status", "devices"], &query)
    }

    /// What came of a page of the list that there was no time to ask for.
    #[must_use]
    pub fn unasked_page(&self, sweep_id: &str, page: Page<'_>) -> Exchange {
        self.conclude(Attempt::cut_off(), page.listing.source, self.list_poll(sweep_id, page))
    }

    fn list_poll(&self, sweep_id: &str, Page { listing, device, number }: Page) -> Poll {
        let device_id = device.map(|device| device.as_str().to_owned());
        Poll { device_id, page: Some(number), listing: Some(*listing), ..self.poll(sweep_id, Endpoint::List) }
    }

    fn url(&self, path: &[&str], query: &[(&str, String)]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(["accounts", self.options.account_id.as_str()]).extend(path);
        }
        url.query_pairs_mut().extend_pairs(query);
        url
    }

    fn poll(&self, sweep_id: &str, endpoint: Endpoint) -> Poll {
        Poll {
            sweep_id: sweep_id.to_owned(),
            account_id: self.options.account_id.clone(),
            requested_at: self.request_time(),
            endpoint,
            device_id: None,
            page: None,
            listing: None,
            outcome: Outcome::Failed,
            rows: 0,
            http_status: None,
            error_code: None,
            error: None,
            attempts: 0,
            latency_ms: None,
            cf_ray: None,
            shard: None,
        }
    }

    /// When a request is made: no two at one time, by which they are known, also where the clock stands still.
    fn request_time(&self) -> Timestamp {
        let mut last = self.requested.lock().expect("no holder of it panics");
        let now = self.clock.now();
        let is_past = *last >= now && *last - now < TimeDelta::seconds(1);
        *last = if is_past { *last + TimeDelta::microseconds(1) } else { now };
        *last
    }

    /// Sends a request until it has an answer, or will have none.
    async fn exchange(
        &self,
        mut permit: Permit,
        url: Url,
        source: Source,
        mut poll: Poll,
        end: impl Future<Output = ()>,
    ) -> Exchange {
        let mut end = std::pin::pin!(end);
        let mut backoff = Backoff::new(self.options.retry_delay);
        loop {
            poll.attempts += 1;
            let attempt = tokio::select! {
                attempt = Attempt::send(self, permit, url.clone(), poll.endpoint) => attempt,
                () = &mut end => return self.conclude(Attempt::cut_off(), source, poll),
            };
            if let Some(ahead) = attempt.clock_ahead {
                *self.clock_ahead.lock().expect("no holder of it panics") = Some(ahead);
            }
            let retry = retry::classify(poll.endpoint, &attempt);
            self.pacer.observe(&attempt.limits);
            if matches!(retry, Retry::Never) || poll.attempts >= self.options.attempts {
                self.note_pause(retry);
                return self.conclude(attempt, source, poll);
            }
            permit = tokio::select! {
                permit = self.next_permit(retry, &mut backoff) => permit,
                () = &mut end => return self.conclude(attempt, source, poll),
            };
        }
    }

    /// Waits until a request may be sent again.
    async fn next_permit(&self, retry: Retry, backoff: &mut Backoff) -> Permit {
        self.note_pause(retry);
        if matches!(retry, Retry::Backoff) {
            let wait = backoff.next(&mut self.random.lock().expect("no holder of the random source panics"));
            self.pacer.rest(wait).await;
        }
        self.permit().await
    }

    fn note_pause(&self, retry: Retry) {
        if let Retry::After(pause) = retry {
            self.pacer.pause(pause);
            let pause = clock::format_duration(pause);
            tracing::warn!("the API says that it is asked too often: nothing is sent for {pause}");
        }
    }

    /// What came of the last attempt.
    fn conclude(&self, attempt: Attempt, source: Source, mut poll: Poll) -> Exchange {
        let clock_off = attempt.clock_ahead.filter(|ahead| ahead.abs() > MOST_CLOCK_AHEAD);
        poll.http_status = attempt.status;
        poll.latency_ms = Some(attempt.latency.as_secs_f64() * 1e3);
        poll.error_code = attempt.code();
        let absent = attempt.is_absent(poll.endpoint);
        let went_well = attempt.is_success();
        let has_states = went_well && matches!(attempt.said, Ok(Said::States(_)));
        let failure = (!absent && !has_states).then(|| attempt.failure());
        poll.error = failure.as_ref().map(|failure| failure.reason().to_owned());
        poll.outcome = match failure {
            Some(_) => Outcome::Failed,
            None if absent => Outcome::Absent,
            None => Outcome::State,
        };
        poll.cf_ray = attempt.cf_ray;
        let bodies = match attempt.said {
            Ok(Said::States(states)) if failure.is_none() => states,
            // What can be told apart of it is filed, and the rest kept aside.
            Ok(Said::Unreadable(states)) if went_well => states,
            _ => Vec::new(),
        };
        poll.rows = u32::try_from(bodies.len()).unwrap_or(u32::MAX);
        let answer = Answer {
            account_id: poll.account_id.clone(),
            sweep_id: poll.sweep_id.clone(),
            source,
            collected_at: self.clock.now(),
            bodies,
            poll: Some(poll),
        };
        Exchange { answer, failure, clock_off }
    }
}

impl Exchange {
    /// Has the poll say that it failed where our clock is wrong, and with it what the poll says of the time: of the hour
    /// that it names nobody asked, and no hour may count as read because of it. What the answer brought stays.
    pub fn heed_clock(&mut self) {
        if let (Some(poll), Some(ahead)) = (&mut self.answer.poll, self.clock_off)
            && poll.outcome != Outcome::Failed
        {
            let side = if ahead > TimeDelta::zero() { "ahead of" } else { "behind" };
            poll.outcome = Outcome::Failed;
            poll.error = Some(format!("this machine's clock was {} s {side} the API's", ahead.num_seconds().abs()));
        }
    }

    /// Takes the answer for a failure, and says so in its poll. What it brought stays.
    pub fn distrust(&mut self, reason: &str) -> Failure {
        let failure = Failure::Other(reason.to_owned());
        if let Some(poll) = &mut self.answer.poll {
            (poll.outcome, poll.error) = (Outcome::Failed, Some(reason.to_owned()));
        }
        self.failure = Some(failure.clone());
        failure
    }
}

impl Failure {
    /// Why, in words.
    #[must_use]
    pub fn reason(&self) -> &str {
        match self {
            Self::Denied(reason) | Self::Forbidden(reason) | Self::Unreachable(reason) | Self::Other(reason) => reason,
            Self::CutOff => "the sweep ended before the answer came",
        }
    }
}

fn parse_base(text: &str) -> Result<Url, ClientError> {
    // What stands before an @ may be a password, also where the rest is no address.
    let said = if text.contains('@') { "(hidden)" } else { text };
    let wrong = |problem: &str| ClientError::Url { url: said.to_owned(), problem: problem.to_owned() };
    let url = Url::parse(text).map_err(|error| wrong(&error.to_string()))?;
    match url.scheme() {
        "https" | "http" if !url.username().is_empty() || url.password().is_some() => Err(wrong("it holds a password")),
        "https" => Ok(url),
        "http" if matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]")) => Ok(url),
        "http" => Err(wrong("the token would travel unencrypted: use https")),
        _ => Err(wrong("it does not begin with https://")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_requests_are_of_one_time() {
        let start = clock::parse_timestamp("2026-11-24T07:40:51Z").expect("a time");
        let clock = Clock::simulated(start);
        let client = Client::new(options(), clock.clone()).expect("a client");
        let micros = |at: Timestamp| (at - start).num_microseconds().expect("little");
        let times = [(); 3].map(|()| micros(client.request_time()));
        clock.advance(TimeDelta::seconds(2));
        assert_eq!((times, micros(client.request_time())), ([0, 1, 2], 2_000_000));
        // A clock that is set back is believed.
        clock.advance(TimeDelta::hours(-1));
        assert_eq!(micros(client.request_time()), 2_000_000 - 3_600_000_000);
    }

    fn options() -> ClientOptions {
        ClientOptions {
            base_url: "http://127.0.0.1:9".to_owned(),
            account_id: AccountId::parse("01a7362d577a6c3019a474fd6f485823").expect("an id"),
            credential: Credential::Token(Secret::new("x").expect("a token")),
            budget: Budget { limit: None, share: 1.0 },
            attempts: 1,
            retry_delay: Duration::ZERO,
            connect_timeout: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            max_body_bytes: 1 << 20,
            seed: 1,
        }
    }

    #[test]
    fn of_an_answer_that_is_no_json_the_states_are_kept() {
        let client = Client::new(options(), Clock::system()).expect("a client");
        let answered = |status: u16, text: &str| {
            let attempt = Attempt { status: Some(status), said: Ok(Said::read(text)), ..Attempt::default() };
            let exchange = client.conclude(attempt, Source::List, client.poll("s", Endpoint::List));
            let poll = exchange.answer.poll.expect("there always is one");
            (exchange.answer.bodies.len(), poll.rows, poll.outcome, exchange.failure.is_some())
        };
        let page = r#"{"result":[{"deviceId":"1","cpuPct":NaN},{"deviceId":"2"}]}"#;
        assert_eq!(answered(200, page), (2, 2, Outcome::Failed, true));
        assert_eq!(answered(502, page), (0, 0, Outcome::Failed, true));
        assert_eq!(answered(200, "<html>"), (0, 0, Outcome::Failed, true));
        assert_eq!(answered(200, &page.replace("NaN", "1")), (2, 2, Outcome::State, false));
    }

    #[test]
    fn only_an_address_that_keeps_the_token_secret_will_do() {
        let said = |url: &str| parse_base(url).err().map_or("fine".to_owned(), |error| error.to_string());
        assert_eq!(said("https://api.cloudflare.com/client/v4"), "fine");
        assert_eq!(said("http://127.0.0.1:8080"), "fine");
        assert!(said("http://example.com").ends_with("the token would travel unencrypted: use https"));
        assert!(said("ftp://example.com").ends_with("it does not begin with https://"));
        assert!(said("example.com/client").contains("is no address of an API"));
        for url in ["https://me:secret@example.com", "https://me:secret@exa mple.com", "ftp://me:secret@example.com"] {
            assert!(said(url) != "fine" && !said(url).contains("secret"), "{url}");
        }
    }
}
