//! The API server in front of the fleet.
//!
//! It judges nobody: tests compare its record with what the program kept.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::HeaderMap;
use axum::response::Response;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;

use super::SimError;
use super::answer::{Answer, Ending};
use super::dice::{Dice, Topic};
use super::fault::{FaultKind, Faults};
use super::fleet::Fleet;
use super::flow::{Road, closed};
use super::hostile::Scene;
use super::limit::{Meter, RateLimit};
use super::list::{Bend, Orders};
use super::record::{Record, Served, lock};
use super::respond::{Sending, respond};
use super::route::{Ask, Endpoint, authenticate, denied};
use super::weather::{HostileOptions, Script, Strike};
use super::wire::{Lines, Scissors};
use crate::clock::Clock;

/// Where redirects lead unless somebody waits elsewhere: an address that belongs to nobody (RFC 5737).
const NOWHERE: &str = "http://192.0.2.1";

/// How long answers under way are waited for at the end: longer than the slowest takes, but a client
/// that does not read could hold up the server for ever.
const GRACE: Duration = Duration::from_secs(5);

/// How the server behaves.
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Whom it tells of.
    pub fleet: Fleet,
    /// Other accounts that have the same fleet.
    pub accounts: Vec<String>,
    /// The token that is accepted. Without it and `email_key`, any credentials are.
    pub token: Option<String>,
    /// The email and the global key that are accepted.
    pub email_key: Option<(String, String)>,
    /// The rate limit.
    pub limit: RateLimit,
    /// Faults on purpose.
    pub faults: Faults,
    /// Bad weather, from the start of the server on. Where it leaves an answer alone, `faults` may strike.
    pub hostile: Option<HostileOptions>,
    /// What [`FaultKind::Redirect`] puts before the path: scheme and authority. Without it, redirects
    /// lead to an address where nobody is.
    pub redirect_to: Option<String>,
    /// Whether the live endpoint answers without an envelope. [`super::Shape::Mixed`] decides by device.
    pub bare_live: bool,
    /// How long every answer takes.
    pub latency: Duration,
    /// Whether bodies are compressed for clients that accept it.
    pub gzip: bool,
    /// Whether the credentials lack the permission to read the list endpoint.
    pub deny_list: bool,
    /// Whether the credentials lack the permission to read the live endpoint.
    pub deny_live: bool,
    /// Whether [`Handle::served`] has anything to tell. A server that runs for days should not.
    pub keep_served: bool,
}

impl ServerOptions {
    /// A server with the real limit, without faults, open to any credentials, that keeps its record.
    #[must_use]
    pub fn new(fleet: Fleet) -> Self {
        Self {
            fleet,
            token: None,
            email_key: None,
            limit: RateLimit::default(),
            faults: Faults::none(),
            hostile: None,
            redirect_to: None,
            bare_live: false,
            latency: Duration::ZERO,
            gzip: false,
            deny_list: false,
            deny_live: false,
            accounts: Vec::new(),
            keep_served: true,
        }
    }
}

/// A server that listens, and answers once it runs.
pub struct Server {
    lines: Lines,
    addr: SocketAddr,
    core: Arc<Core>,
}

impl Server {
    /// Listens at an address; port 0 takes a free one.
    ///
    /// # Errors
    /// When the address cannot be had.
    pub async fn bind(options: ServerOptions, clock: Clock, addr: SocketAddr) -> Result<Self, SimError> {
        let failed = |error| SimError::Bind { addr, error };
        let listener = TcpListener::bind(addr).await.map_err(failed)?;
        let addr = listener.local_addr().map_err(failed)?;
        Ok(Self { lines: Lines(listener), addr, core: Arc::new(Core::new(options, clock)) })
    }

    /// The address that it listens at.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// What steers and questions the server while it runs.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle(Arc::clone(&self.core))
    }

    /// Answers until `shutdown`, and then finishes the answers under way, within 5 seconds; those without
    /// an end break off.
    ///
    /// # Errors
    /// When the listening socket breaks.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send + 'static) -> Result<(), SimError> {
        let core = Arc::clone(&self.core);
        let shutdown = async move {
            shutdown.await;
            core.closing.send_replace(true);
        };
        let closing = self.core.closing.subscribe();
        let grace = async move {
            closed(closing).await;
            pause(GRACE).await;
        };
        let router = Router::new().fallback(answer).with_state(self.core);
        let service = router.into_make_service_with_connect_info::<Scissors>();
        tokio::select! {
            served = axum::serve(self.lines, service).with_graceful_shutdown(shutdown) => served.map_err(SimError::Serve),
            () = grace => Ok(()),
        }
    }
}

/// Steers and questions a server.
#[derive(Clone)]
pub struct Handle(Arc<Core>);

impl Handle {
    /// Changes the limit; requests that were counted stay counted.
    pub fn set_limit(&self, limit: RateLimit) {
        lock(&self.0.meter).limit = limit;
    }

    /// Changes the faults.
    pub fn set_faults(&self, faults: Faults) {
        *lock(&self.0.faults) = faults;
    }

    /// Changes the weather; its script begins anew.
    pub fn set_hostile(&self, options: Option<HostileOptions>) {
        *lock(&self.0.script) = options.map(begin);
    }

    /// What was answered so far, in the order in which the answers were given.
    #[must_use]
    pub fn served(&self) -> Vec<Served> {
        self.0.record.all()
    }

    /// How many requests arrived.
    #[must_use]
    pub fn requests(&self) -> u64 {
        lock(&self.0.meter).arrivals
    }

    /// How many requests the limit refused; faults that look like it are not among them.
    #[must_use]
    pub fn throttled(&self) -> u64 {
        lock(&self.0.meter).throttled
    }

    /// The most requests, refused ones too, that arrived within one window of the limit.
    #[must_use]
    pub fn max_in_window(&self) -> u32 {
        lock(&self.0.meter).max_in_window
    }
}

/// What all requests share.
struct Core {
    options: ServerOptions,
    clock: Clock,
    meter: Mutex<Meter>,
    faults: Mutex<Faults>,
    /// The bad weather, and since when it is played.
    script: Mutex<Option<(Script, Instant)>>,
    /// Whether bodies without an end must break off.
    closing: watch::Sender<bool>,
    /// How often each device and each page was asked for.
    attempts: Mutex<HashMap<(bool, u32), u64>>,
    orders: Mutex<Orders>,
    record: Record,
}

impl Core {
    fn new(options: ServerOptions, clock: Clock) -> Self {
        Self {
            clock,
            meter: Mutex::new(Meter::new(options.limit)),
            faults: Mutex::new(options.faults),
            script: Mutex::new(options.hostile.map(begin)),
            closing: watch::Sender::new(false),
            attempts: Mutex::default(),
            orders: Mutex::default(),
            record: Record::new(options.keep_served),
            options,
        }
    }

    /// The answer to a request that the limit lets through.
    fn decide(&self, ask: &Ask, headers: &HeaderMap, number: u64) -> (Answer, Option<FaultKind>) {
        match self.genuine(ask, headers) {
            Err(refusal) => (refusal, None),
            Ok(answer) => {
                let strike = self.weather_strike(ask, number).or_else(|| self.fault_strike(ask));
                match strike {
                    Some(strike) => self.spoil(strike, ask, answer),
                    None => (answer, None),
                }
            }
        }
    }

    fn weather_strike(&self, ask: &Ask, number: u64) -> Option<Strike> {
        let script = *lock(&self.script);
        let (script, since) = script?;
        let device = match &ask.endpoint {
            Endpoint::Live { device } => Some(self.options.fleet.index_of(device).unwrap_or(u32::MAX)),
            _ => None,
        };
        script.weather(since.elapsed()).strike(number, device)
    }

    fn fault_strike(&self, ask: &Ask) -> Option<Strike> {
        let dice = self.fault_dice(ask);
        let kind = lock(&self.faults).draw(dice, ask.endpoint != Endpoint::List)?;
        Some(Strike { kind, dice: dice.on(Topic::FaultDetail) })
    }

    /// What a fault makes of an answer; no fault where it makes no difference.
    fn spoil(&self, strike: Strike, ask: &Ask, answer: Answer) -> (Answer, Option<FaultKind>) {
        let Strike { kind, dice } = strike;
        let (options, now, live) = (&self.options, self.clock.now(), ask.endpoint != Endpoint::List);
        if let Some(bend) = Bend::of(kind, dice).filter(|_| !live) {
            let page = lock(&self.orders).bent(&options.fleet, ask, now, bend);
            return page.map_or((answer, None), |page| (page, Some(kind)));
        }
        if kind == FaultKind::Vanished && answer.outcome == "absent" {
            return (answer, None);
        }
        let elsewhere = format!("{}{}", options.redirect_to.as_deref().unwrap_or(NOWHERE), ask.target);
        (kind.spoil(answer, &Scene { dice, live, now, elsewhere }), Some(kind))
    }

    fn fault_dice(&self, ask: &Ask) -> Dice {
        let fleet = &self.options.fleet;
        let key = match &ask.endpoint {
            Endpoint::Live { device } => (true, fleet.index_of(device).unwrap_or(u32::MAX)),
            _ => (false, ask.page().unwrap_or(0)),
        };
        let mut attempts = lock(&self.attempts);
        let attempt = attempts.entry(key).or_default();
        *attempt += 1;
        Dice::new(fleet.options().seed).on(Topic::Fault).with(key.0.into()).with(key.1.into()).with(*attempt)
    }

    /// The answer of a server without faults; an error when the request itself is at fault.
    fn genuine(&self, ask: &Ask, headers: &HeaderMap) -> Result<Answer, Answer> {
        authenticate(headers, &self.options)?;
        let options = &self.options;
        if ask.endpoint == Endpoint::Other {
            return Err(Answer::failure(404, 7003, "No route for the URI"));
        }
        if ask.account != options.fleet.options().account_id && !options.accounts.contains(&ask.account) {
            let path = ask.path.strip_prefix("/client/v4").unwrap_or(&ask.path);
            let text = "perhaps your object identifier is invalid?";
            return Err(Answer::failure(404, 7003, &format!("Could not route to /client/v4{path}, {text}")));
        }
        match &ask.endpoint {
            Endpoint::Live { .. } if options.deny_live => Err(denied()),
            Endpoint::List if options.deny_list => Err(denied()),
            Endpoint::Live { device } => self.live(ask, device),
            _ => lock(&self.orders).page(&options.fleet, ask, self.clock.now()),
        }
    }

    fn live(&self, ask: &Ask, device: &str) -> Result<Answer, Answer> {
        let minutes = ask.number("since_minutes", 1, 60)?;
        let minutes = minutes.ok_or_else(|| Answer::bad_request("since_minutes is required"))?;
        let fleet = &self.options.fleet;
        let unknown = || Answer { outcome: "absent", ..Answer::failure(404, 10_404, "device not found") };
        let Some(index) = fleet.index_of(device) else { return Ok(unknown()) };
        let now_ms = self.clock.now().timestamp_millis();
        let newest = fleet.schedule(index).newest(now_ms - i64::from(minutes) * 60_000, now_ms);
        let seen = |at_ms: &i64| {
            ask.parameter("colo").is_none_or(|colo| fleet.facts(index, *at_ms).attribute("colo") == Some(colo))
        };
        let bare = fleet.form(index).bare(self.options.bare_live);
        Ok(match newest.filter(seen) {
            Some(at_ms) => Answer::state(fleet.text(index, at_ms), bare),
            None => Answer::absent(fleet.dice(index).on(Topic::Absence).below(3)),
        })
    }
}

async fn answer(
    State(core): State<Arc<Core>>,
    ConnectInfo(scissors): ConnectInfo<Scissors>,
    request: Request,
) -> Response {
    let ask = Ask::read(request.method(), request.uri());
    let (number, verdict) = {
        let mut meter = lock(&core.meter);
        let verdict = meter.admit(Instant::now());
        (meter.arrivals, verdict)
    };
    let mut entry = core.record.enter(number, &ask);
    let (answer, fault) = match verdict.retry_after {
        Some(seconds) => (Answer::too_many(seconds), None),
        None => core.decide(&ask, request.headers(), number),
    };
    entry.note_fault(fault);
    pause(core.options.latency + Duration::from_millis(answer.delay_ms)).await;
    entry.note_answer(&answer);
    if answer.ending == Ending::Reset {
        scissors.cut();
    }
    let ray = Dice::new(core.options.fleet.options().seed).on(Topic::Ray).with(number).number();
    let gzip = core.options.gzip && accepts_gzip(request.headers());
    let road = Road { scissors, closing: core.closing.subscribe(), entry };
    respond(answer, &verdict, Sending { now: core.clock.now(), ray, gzip, road })
}

fn begin(options: HostileOptions) -> (Script, Instant) {
    (Script::new(options), Instant::now())
}

fn accepts_gzip(headers: &HeaderMap) -> bool {
    headers.get("accept-encoding").and_then(|v| v.to_str().ok()).is_some_and(|v| v.contains("gzip"))
}

#[expect(clippy::disallowed_methods, reason = "a slow server is slow in tokio's time")]
async fn pause(duration: Duration) {
    if !duration.is_zero() {
        tokio::time::sleep(duration).await;
    }
}
