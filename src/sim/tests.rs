//! The server as a client sees it, over real sockets.

use std::collections::HashSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use serde_json::Value;

use super::{
    FaultKind, Faults, Fleet, FleetOptions, Handle, HostileOptions, RateLimit, Script, Served, Server, ServerOptions,
    Shape,
};
use crate::clock::{Clock, Timestamp, parse_timestamp};

const ACCOUNT: &str = "/client/v4/accounts/01a7362d577a6c3019a474fd6f485823/dex";
const TOKEN: &str = "authorization: Bearer secret\r\n";

/// A raw answer: what a library would hide is what is tested.
struct Got {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Got {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("the body is JSON")
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

struct Witness {
    addr: SocketAddr,
    handle: Handle,
    fleet: Fleet,
}

impl Witness {
    async fn new(devices: u32, change: impl FnOnce(&mut ServerOptions)) -> Self {
        let fleet = Fleet::new(FleetOptions { devices, ..FleetOptions::default() });
        let mut options = ServerOptions::new(fleet);
        change(&mut options);
        let fleet = options.fleet.clone();
        let addr = "127.0.0.1:0".parse().expect("an address");
        let server = Server::bind(options, Clock::simulated(noon()), addr).await.expect("a port is free");
        let witness = Self { addr: server.local_addr(), handle: server.handle(), fleet };
        tokio::spawn(server.run(std::future::pending()));
        witness
    }

    async fn get(&self, path: &str, headers: &'static str) -> Got {
        let (addr, path) = (self.addr, path.to_owned());
        let exchange = move || {
            let mut stream = TcpStream::connect(addr).expect("the server listens");
            write!(stream, "GET {path} HTTP/1.1\r\nhost: sim\r\nconnection: close\r\n{headers}\r\n").expect("sent");
            let mut bytes = Vec::new();
            // A cut connection may end in an error; what came before it counts.
            let _ = stream.read_to_end(&mut bytes);
            read(&bytes)
        };
        tokio::task::spawn_blocking(exchange).await.expect("the client does not panic")
    }

    /// Reads as much as the closure wants of a live answer, in any way that it wants.
    async fn raw<T: Send + 'static>(&self, index: u32, how: fn(&mut TcpStream) -> T) -> T {
        let (addr, path) = (self.addr, self.live_path(index));
        let exchange = move || {
            let mut stream = TcpStream::connect(addr).expect("the server listens");
            write!(stream, "GET {path} HTTP/1.1\r\nhost: sim\r\n{TOKEN}\r\n").expect("sent");
            how(&mut stream)
        };
        tokio::task::spawn_blocking(exchange).await.expect("the client does not panic")
    }

    fn live_path(&self, index: u32) -> String {
        format!("{ACCOUNT}/devices/{}/fleet-status/live?since_minutes=60", self.fleet.device_id(index))
    }

    async fn live(&self, index: u32) -> Got {
        self.get(&self.live_path(index), TOKEN).await
    }

    /// A server with one kind of fault in every answer, and a device that has a state.
    async fn of(kind: FaultKind) -> (Self, u32) {
        let witness = Self::new(230, |options| options.faults = Faults::none().with(kind, 1.0)).await;
        let online = (0..230).find(|i| witness.fleet.state_at(*i, noon()).is_some()).expect("one is online");
        (witness, online)
    }

    /// The ids on a page of the list, and how many there are said to be in all.
    async fn page(&self, page: u32) -> (Vec<String>, u64) {
        let query = format!("from=2026-11-24T11:00:00Z&to=2026-11-24T12:00:00Z&per_page=50&page={page}");
        let got = self.list(&query).await.json();
        let rows = got["result"].as_array().expect("an array").iter().map(|row| row["deviceId"].to_string());
        (rows.collect(), got["result_info"]["total_count"].as_u64().expect("a number"))
    }

    /// The record, once it has as many entries.
    async fn records(&self, count: usize) -> Vec<Served> {
        let start = Instant::now();
        while self.handle.served().len() < count && start.elapsed() < Duration::from_secs(10) {
            tokio::task::yield_now().await;
        }
        self.handle.served()
    }

    async fn list(&self, query: &str) -> Got {
        self.get(&format!("{ACCOUNT}/fleet-status/devices?{query}"), TOKEN).await
    }

    fn last(&self) -> Served {
        self.handle.served().pop().expect("something was served")
    }
}

fn read(bytes: &[u8]) -> Got {
    let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else {
        return Got { status: 0, head: String::new(), body: bytes.to_vec() };
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status line");
    Got { status, head, body: bytes[end + 4..].to_vec() }
}

fn noon() -> Timestamp {
    parse_timestamp("2026-11-24T12:00:00Z").expect("a timestamp")
}

#[tokio::test(flavor = "multi_thread")]
async fn live_gives_the_newest_state_or_says_that_there_is_none() {
    let witness = Witness::new(60, |_| {}).await;
    let mut ways = HashSet::new();
    for index in 0..60 {
        let (got, served) = (witness.live(index).await, witness.last());
        if let Some(state) = witness.fleet.state_at(index, noon()) {
            assert_eq!(got.json()["result"], serde_json::from_str::<Value>(&state).expect("JSON"));
            assert_eq!((served.outcome, served.states, served.whole), ("state", vec![state], true));
        } else {
            ways.insert(String::from_utf8(got.body).expect("JSON is UTF-8"));
            assert_eq!((served.outcome, served.states), ("absent", vec![]));
        }
    }
    assert!(!ways.is_empty());
    let stranger = format!("{ACCOUNT}/devices/cb49c27f-7f97-49c5-b6f3-f7c01ead0fd7/fleet-status/live");
    assert_eq!(witness.get(&format!("{stranger}?since_minutes=10"), TOKEN).await.status, 404);
    assert_eq!(witness.get(&stranger, TOKEN).await.status, 400);
    assert_eq!(witness.get(&format!("{stranger}?since_minutes=61"), TOKEN).await.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_cover_each_device_once_and_in_order() {
    let witness = Witness::new(230, |_| {}).await;
    let (mut seen, mut times) = (Vec::new(), Vec::new());
    for page in 1.. {
        let query = format!("from=2026-11-24T11:00:00Z&to=2026-11-24T12:00:00Z&per_page=50&page={page}");
        let got = witness.list(&query).await.json();
        let rows = got["result"].as_array().expect("an array").clone();
        if rows.is_empty() {
            break;
        }
        assert_eq!(got["result_info"]["count"], rows.len());
        seen.extend(rows.iter().map(|r| r["deviceId"].to_string()));
        times.extend(rows.iter().map(|r| r["timestamp"].to_string()));
    }
    let expect = (0..230).filter(|i| witness.fleet.state_at(*i, noon() - TimeDelta::milliseconds(1)).is_some());
    assert_eq!(seen.len(), expect.count());
    assert_eq!(seen.iter().collect::<HashSet<_>>().len(), seen.len());
    assert!(times.is_sorted());
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_gives_every_state_and_hourly_one_row_an_hour() {
    let witness = Witness::new(3, |_| {}).await;
    let all = |from: i64| {
        let from = noon() - TimeDelta::minutes(from);
        (0..3).map(|i| witness.fleet.states_between(i, from, noon()).len()).sum::<usize>()
    };
    let raw = witness.list("source=raw&from=2026-11-24T10:00:00Z&to=2026-11-24T12:00:00Z").await.json();
    assert_eq!(raw["result_info"]["total_count"], all(120));
    let hourly = "source=hourly&per_page=50&from=2026-11-24T06:00:00Z&to=2026-11-24T12:00:00Z";
    let hourly = witness.list(hourly).await.json();
    let rows = hourly["result"].as_array().expect("an array");
    assert!((12..=18).contains(&rows.len()), "{}", rows.len());
    assert!(rows.iter().all(|r| r["timestamp"].as_str().is_some_and(|t| t.contains(":00:00"))));
}

#[tokio::test(flavor = "multi_thread")]
async fn list_filters_sorts_and_refuses() {
    let witness = Witness::new(100, |_| {}).await;
    let window = "from=2026-11-24T11:00:00Z&to=1795521600000&per_page=50";
    let macs = witness.list(&format!("{window}&platform=mac")).await.json();
    let rows = macs["result"].as_array().expect("an array");
    assert!(rows.len() > 10 && rows.iter().all(|r| r["platform"] == "mac"));
    let by_id = witness.list(&format!("{window}&sort_by=device_id")).await.json();
    let ids = by_id["result"].as_array().expect("an array").iter().map(|r| r["deviceId"].to_string());
    assert!(ids.collect::<Vec<_>>().is_sorted());
    for bad in [
        "from=2026-11-24T11:00:00Z",
        "from=2026-11-24T10:59:00Z&to=2026-11-24T12:00:00Z",
        "from=2026-11-24T12:00:00Z&to=2026-11-24T11:00:00Z",
        "from=yesterday&to=today",
        "from=2026-11-24T11:00:00Z&to=2026-11-24T12:00:00Z&per_page=51",
        "from=2026-11-24T11:00:00Z&to=2026-11-24T12:00:00Z&page=0",
        "from=2026-11-24T11:00:00Z&to=2026-11-24T12:00:00Z&source=best",
    ] {
        let got = witness.list(bad).await;
        assert_eq!((got.status, &got.json()["success"]), (400, &Value::Bool(false)), "{bad}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_accounts_and_permissions_are_checked() {
    let witness = Witness::new(5, |options| {
        options.token = Some("secret".to_owned());
        options.email_key = Some(("me@example.com".to_owned(), "key".to_owned()));
        options.deny_list = true;
    })
    .await;
    let online = (0..5).find(|i| witness.fleet.state_at(*i, noon()).is_some()).expect("one is online");
    let path = format!("{ACCOUNT}/devices/{}/fleet-status/live?since_minutes=60", witness.fleet.device_id(online));
    for (headers, status, code) in [
        ("", 400, 6003),
        ("authorization: secret\r\n", 400, 6003),
        ("authorization: Bearer wrong\r\n", 403, 10_000),
        ("x-auth-email: me@example.com\r\nx-auth-key: wrong\r\n", 403, 10_000),
    ] {
        let got = witness.get(&path, headers).await;
        assert_eq!((got.status, &got.json()["errors"][0]["code"]), (status, &code.into()), "{headers}");
    }
    let key = "x-auth-email: me@example.com\r\nx-auth-key: key\r\n";
    assert_eq!(witness.get(&path, key).await.json()["success"], true);
    let got = witness.get(&path.replace("01a7", "11a7"), TOKEN).await;
    assert_eq!((got.status, &got.json()["errors"][0]["code"]), (404, &7003.into()));
    assert_eq!(witness.list("from=1&to=2").await.status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_blocks_and_says_so() {
    let hour = Duration::from_hours(1);
    let limit = RateLimit { requests: 2, window: hour, block: hour };
    let witness = Witness::new(5, |options| options.limit = limit).await;
    assert_eq!(witness.live(0).await.header("ratelimit"), Some("\"default\";r=1;t=3600"));
    assert_eq!(witness.live(1).await.header("ratelimit-policy"), Some("\"default\";q=2;w=3600"));
    let got = witness.live(2).await;
    assert_eq!((got.status, got.header("retry-after")), (429, Some("3600")));
    assert_eq!(got.json()["errors"][0]["code"], 971);
    assert_eq!((witness.handle.requests(), witness.handle.throttled(), witness.handle.max_in_window()), (3, 1, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_do_what_they_say_and_are_recorded() {
    let witness = Witness::new(30, |_| {}).await;
    let index = (0..30).find(|i| witness.fleet.state_at(*i, noon()).is_some()).expect("one is online");
    for kind in FaultKind::ALL {
        witness.handle.set_faults(Faults::none().with(kind, 1.0));
        for _ in 0..6 {
            let (got, served) = (witness.live(index).await, witness.last());
            assert_eq!(served.fault.as_deref(), Some(kind.name()));
            assert_eq!(served.status, got.status, "{kind:?}");
            check_fault(kind, &got, &served);
        }
    }
}

fn check_fault(kind: FaultKind, got: &Got, served: &Served) {
    let outcome = match kind {
        FaultKind::TooMany => got.header("retry-after").map_or("?", |_| "failed"),
        FaultKind::Server | FaultKind::NotJson => {
            assert!(got.body.starts_with(b"<!DOCTYPE"));
            "failed"
        }
        FaultKind::Truncated => {
            let length = got.header("content-length").map(|n| n.parse::<usize>().expect("a length"));
            assert!(!got.body.is_empty() && length.is_none_or(|n| n > got.body.len()));
            assert!(length.is_some() || !got.body.ends_with(b"0\r\n\r\n"));
            "failed"
        }
        FaultKind::Reset => "failed",
        FaultKind::Failure => {
            if got.json()["success"] == false {
                "failed"
            } else {
                "?"
            }
        }
        FaultKind::Null => {
            if got.json()["result"].is_null() {
                "absent"
            } else {
                "?"
            }
        }
        FaultKind::Empty => {
            if got.body == b"{}" {
                "absent"
            } else {
                "?"
            }
        }
        FaultKind::Slow => {
            if got.json()["success"] == true {
                "state"
            } else {
                "?"
            }
        }
        FaultKind::Garbage => {
            if got.json().get("deviceId").is_none() {
                "garbage"
            } else {
                "?"
            }
        }
        hostile => panic!("{hostile:?} has a test of its own"),
    };
    assert_eq!(served.outcome, outcome, "{kind:?}");
    assert_eq!(served.whole, !matches!(kind, FaultKind::Truncated | FaultKind::Reset), "{kind:?}");
    assert_eq!(served.states.len(), usize::from(kind == FaultKind::Slow), "{kind:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_requests_meet_the_same_faults() {
    let mut runs = Vec::new();
    for _ in 0..2 {
        let witness = Witness::new(20, |o| o.faults = "429=30%,null=30%".parse().expect("faults")).await;
        for index in (0..20).chain(0..20) {
            witness.live(index).await;
        }
        runs.push(witness.handle.served());
    }
    assert_eq!(runs[0], runs[1]);
    assert!(runs[0].iter().any(|s| s.fault.is_some()) && runs[0].iter().any(|s| s.fault.is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_may_be_bare_and_compressed() {
    let witness = Witness::new(30, |options| (options.bare_live, options.gzip) = (true, true)).await;
    let index = (0..30).find(|i| witness.fleet.state_at(*i, noon()).is_some()).expect("one is online");
    let got = witness.live(index).await;
    assert_eq!(got.json()["deviceId"], witness.fleet.device_id(index));
    let path = format!("{ACCOUNT}/fleet-status/devices?from=2026-11-24T11:00:00Z&to=2026-11-24T12:00:00Z");
    let got = witness.get(&path, "authorization: Bearer t\r\naccept-encoding: gzip\r\n").await;
    assert_eq!(got.header("content-encoding"), Some("gzip"));
    let mut text = String::new();
    flate2::read::GzDecoder::new(got.body.as_slice()).read_to_string(&mut text).expect("gzip");
    assert!(text.contains("\"result_info\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_does_not_wait_for_idle_clients() {
    let fleet = Fleet::new(FleetOptions::default());
    let addr = "127.0.0.1:0".parse().expect("an address");
    let server = Server::bind(ServerOptions::new(fleet), Clock::simulated(noon()), addr).await.expect("a port");
    let addr = server.local_addr();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(server.run(async { stopped.await.unwrap_or(()) }));
    let idle = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(addr).expect("the server listens");
        stream.write_all(b"GET / HTTP/1.1\r\nhost: sim\r\n\r\n").expect("sent");
        assert!(stream.read(&mut [0; 4_096]).expect("an answer") > 0);
        stream
    });
    let _idle = idle.await.expect("the client does not panic");
    stop.send(()).expect("the server runs");
    let done = tokio::time::timeout(Duration::from_secs(10), running).await.expect("the server ends");
    assert!(done.expect("the server does not panic").is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mixed_fleet_answers_bare_or_enveloped() {
    let witness = Witness::new(40, |options| {
        options.fleet = Fleet::new(FleetOptions { devices: 40, shape: Shape::Mixed, ..FleetOptions::default() });
    })
    .await;
    let mut bare = 0;
    for index in 0..40 {
        bare += u32::from(witness.live(index).await.json().get("deviceId").is_some());
    }
    assert!((8..32).contains(&bare), "{bare}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_says_in_three_ways_when_it_ends() {
    let (witness, online) = Witness::of(FaultKind::Storm).await;
    let mut ways = HashSet::new();
    for _ in 0..30 {
        let got = witness.live(online).await;
        assert_eq!((got.status, got.header("ratelimit")), (429, Some("\"default\";r=0;t=1")));
        // By the server's clock, which it tells.
        assert_eq!(got.header("date"), Some("Tue, 24 Nov 2026 12:00:00 GMT"));
        ways.insert(got.header("retry-after").map(str::to_owned));
    }
    let ways: HashSet<Option<&str>> = ways.iter().map(Option::as_deref).collect();
    assert_eq!(ways, HashSet::from([None, Some("1"), Some("Tue, 24 Nov 2026 12:00:02 GMT")]));
    assert!(witness.handle.served().iter().all(|s| s.fault.as_deref() == Some("storm") && s.states.is_empty()));
    assert_eq!(witness.handle.throttled(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_comes_in_the_middle_of_the_body() {
    let (witness, online) = Witness::of(FaultKind::MidReset).await;
    for _ in 0..4 {
        let (bytes, end) = witness.raw(online, read_to_end).await;
        assert_eq!(end, Some(ErrorKind::ConnectionReset));
        let (got, served) = (read(&bytes), witness.last());
        assert!(got.status == 200 && !got.body.is_empty());
        assert_eq!((served.fault.as_deref(), served.whole, served.states), (Some("mid-reset"), false, vec![]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_body_counts_for_those_who_wait_for_its_end() {
    let (witness, online) = Witness::of(FaultKind::Dribble).await;
    let start = Instant::now();
    let got = witness.live(online).await;
    assert!((1..10).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    let state = witness.fleet.state_at(online, noon()).expect("it is online");
    assert!(String::from_utf8_lossy(&got.body).contains(&state[state.len() / 2..]), "the end is there");
    let served = witness.last();
    assert_eq!((served.status, served.whole, served.states, served.outcome), (200, true, vec![state], "state"));
    witness.raw(online, |stream| stream.read(&mut [0; 500]).expect("a beginning")).await;
    let served = witness.records(2).await.pop().expect("it is recorded");
    assert_eq!((served.number, served.fault.as_deref()), (2, Some("dribble")));
    assert_eq!((served.status, served.whole, served.states, served.outcome), (200, false, vec![], "failed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_body_stays_away_until_the_client_leaves() {
    let (witness, online) = Witness::of(FaultKind::Stalled).await;
    let (bytes, end) = witness.raw(online, read_for_a_while).await;
    assert!(matches!(end, Some(ErrorKind::WouldBlock | ErrorKind::TimedOut)), "{end:?}");
    let (got, served) = (read(&bytes), witness.last());
    assert!(got.status == 200 && got.body.len() > 100);
    assert_eq!((served.fault.as_deref(), served.whole, served.states), (Some("stalled"), false, vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_body_begins_as_json_and_goes_on() {
    let (witness, online) = Witness::of(FaultKind::Endless).await;
    let mut fills = HashSet::new();
    for _ in 0..12 {
        let got = read(&witness.raw(online, read_a_megabyte).await);
        assert_eq!((got.status, got.header("transfer-encoding")), (200, Some("chunked")));
        assert!(got.body.len() > 1_000_000);
        // Each chunk has its length before it.
        let begin = String::from_utf8_lossy(&got.body[..100]).into_owned();
        assert!(begin.contains("{\"success\":true,\"errors\":[],"), "{begin}");
        fills.insert(got.body[got.body.len() / 2 / 65_536 * 65_536 + 30_000]);
    }
    assert!(fills.len() > 1, "{fills:?}");
    assert!(witness.handle.served().iter().all(|s| !s.whole && s.states.is_empty() && s.outcome == "failed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bomb_is_sent_to_those_who_never_asked_for_gzip() {
    let (witness, online) = Witness::of(FaultKind::Bomb).await;
    let (got, served) = (witness.live(online).await, witness.last());
    assert_eq!((got.status, got.header("content-encoding")), (200, Some("gzip")));
    assert!((200_000..900_000).contains(&got.body.len()), "{}", got.body.len());
    let mut begin = [0; 4_096];
    flate2::read::GzDecoder::new(got.body.as_slice()).read_exact(&mut begin).expect("gzip");
    assert!(begin.starts_with(b"{\"success\":true,") && begin[4_000] == begin[1_000]);
    assert_eq!((served.fault.as_deref(), served.whole, served.states), (Some("bomb"), false, vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_lead_to_where_they_are_told() {
    let (witness, online) = Witness::of(FaultKind::Redirect).await;
    let nowhere = format!("http://192.0.2.1{}", witness.live_path(online));
    let mut statuses = HashSet::new();
    for _ in 0..30 {
        let got = witness.live(online).await;
        assert_eq!(got.header("location"), Some(nowhere.as_str()));
        assert_eq!((witness.last().status, witness.last().outcome), (got.status, "failed"));
        statuses.insert(got.status);
    }
    assert_eq!(statuses, HashSet::from([301, 302, 307, 308]));
    let witness = Witness::new(5, |options| {
        options.faults = Faults::none().with(FaultKind::Redirect, 1.0);
        options.redirect_to = Some("http://127.0.0.1:9".to_owned());
    })
    .await;
    let got = witness.live(0).await;
    assert_eq!(got.header("location"), Some(format!("http://127.0.0.1:9{}", witness.live_path(0)).as_str()));
}

#[tokio::test(flavor = "multi_thread")]
async fn content_types_may_lie() {
    let (witness, online) = Witness::of(FaultKind::AsHtml).await;
    let (got, served) = (witness.live(online).await, witness.last());
    assert_eq!((got.header("content-type"), &got.json()["success"]), (Some("text/html; charset=UTF-8"), &true.into()));
    // Wrongly labelled, but genuine.
    assert_eq!((served.fault.as_deref(), served.whole, served.states.len()), (Some("as-html"), true, 1));
    let (witness, online) = Witness::of(FaultKind::AsJson).await;
    let (got, served) = (witness.live(online).await, witness.last());
    assert_eq!((got.status, got.header("content-type")), (200, Some("application/json")));
    assert!(got.body.starts_with(b"<!DOCTYPE"));
    assert_eq!((served.fault.as_deref(), served.outcome, served.states), (Some("as-json"), "failed", vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_have_many_reasons() {
    let (witness, online) = Witness::of(FaultKind::Refused).await;
    let (mut codes, mut counts) = (HashSet::new(), HashSet::new());
    for _ in 0..40 {
        let got = witness.live(online).await;
        assert_eq!((got.status, &got.json()["success"]), (200, &false.into()));
        let errors = got.json()["errors"].as_array().expect("an array").clone();
        counts.insert(errors.len());
        codes.extend(errors.iter().map(|error| error["code"].as_u64().expect("a code")));
    }
    assert!(codes.len() > 4 && counts == HashSet::from([1, 2, 3]), "{codes:?} {counts:?}");
    assert!(witness.handle.served().iter().all(|s| s.outcome == "failed" && s.states.is_empty()));
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_empty_repeated_or_shifted() {
    let (witness, online) = Witness::of(FaultKind::EmptyPage).await;
    witness.handle.set_faults(Faults::none());
    let (first, second) = (witness.page(1).await, witness.page(2).await);
    for (kind, expect) in [(FaultKind::EmptyPage, &[] as &[String]), (FaultKind::RepeatedPage, &first.0)] {
        witness.handle.set_faults(Faults::none().with(kind, 1.0));
        assert_eq!(witness.page(1).await, first, "{kind:?}");
        assert_eq!(witness.last().fault, None);
        assert_eq!(witness.page(2).await, (expect.to_vec(), first.1), "{kind:?}");
        assert_eq!(witness.last().fault.as_deref(), Some(kind.name()));
        assert!(witness.last().whole && witness.last().states.len() == expect.len());
        witness.live(online).await;
        assert_eq!((witness.last().fault, witness.last().outcome), (None, "state"));
    }
    witness.handle.set_faults(Faults::none().with(FaultKind::ShiftedPage, 1.0));
    let (mut twice, mut skipped) = (0, 0);
    for _ in 0..8 {
        let (shifted, _) = witness.page(2).await;
        assert_ne!(shifted, second.0);
        twice += usize::from(shifted.iter().any(|id| first.0.contains(id)));
        skipped += usize::from(!shifted.contains(&second.0[0]));
    }
    assert!(twice > 0 && skipped > 0, "{twice} {skipped}");
    // Past the end there is nothing to bend.
    assert!(witness.page(9).await.0.is_empty());
    assert_eq!(witness.last().fault, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_clock_is_wrong_by_hours() {
    let (witness, online) = Witness::of(FaultKind::ClockOff).await;
    let (mut ahead, mut behind, mut refused) = (0, 0, 0);
    for _ in 0..40 {
        let (got, served) = (witness.live(online).await, witness.last());
        let date = |name| got.header(name).and_then(|text| chrono::DateTime::parse_from_rfc2822(text).ok());
        let there = date("date").expect("a date");
        let off = there.signed_duration_since(noon()).num_hours();
        assert!((1..=12).contains(&off.abs()), "{off}");
        *(if off > 0 { &mut ahead } else { &mut behind }) += 1;
        if got.status == 429 {
            refused += 1;
            let until = date("retry-after").expect("a date");
            assert_eq!(until.signed_duration_since(there), TimeDelta::seconds(2));
        }
        assert_eq!(served.states.len(), usize::from(got.status == 200));
        assert_eq!(served.fault.as_deref(), Some("clock-off"));
    }
    assert!(ahead > 5 && behind > 5 && (5..30).contains(&refused), "{ahead} {behind} {refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vanished_device_is_absent_and_a_list_lacks_some() {
    let (witness, online) = Witness::of(FaultKind::Vanished).await;
    witness.live(online).await;
    let served = witness.last();
    assert_eq!((served.fault.as_deref(), served.outcome, served.states), (Some("vanished"), "absent", vec![]));
    let (page, total) = witness.page(1).await;
    assert_eq!(page.len(), 50);
    assert!((110..190).contains(&total), "{total} of about 218");
    assert_eq!((witness.last().fault.as_deref(), witness.last().states.len()), (Some("vanished"), 50));
    let offline = (0..230).find(|i| witness.fleet.state_at(*i, noon()).is_none()).expect("one is offline");
    witness.live(offline).await;
    assert_eq!((witness.last().fault, witness.last().outcome), (None, "absent"), "it was never there");
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_vanish_together_and_come_back() {
    let stretch = Duration::from_secs(2);
    let hostile = that_begins_with(FaultKind::Vanished, stretch);
    let witness = Witness::new(45, |o| (o.hostile, o.limit) = (Some(hostile), RateLimit::none())).await;
    let all = witness.page(1).await.0;
    let left = until(&witness, |ids| ids.len() < all.len()).await;
    assert!((10..40).contains(&left.len()), "{} of {}", left.len(), all.len());
    let mut checked = 0;
    for index in (0..45).cycle().filter(|i| witness.fleet.state_at(*i, noon()).is_some()) {
        witness.live(index).await;
        let outcome = witness.last().outcome;
        // What was asked between two such lists was asked while they were gone.
        if witness.page(1).await.0 != left {
            break;
        }
        let is_left = left.contains(&format!("\"{}\"", witness.fleet.device_id(index)));
        assert_eq!(outcome, if is_left { "state" } else { "absent" });
        checked += 1;
    }
    assert!(checked > 0);
    assert_eq!(until(&witness, |ids| ids.len() > left.len()).await, all);
    witness.handle.set_hostile(None);
    assert_eq!(witness.page(1).await.0, all);
}

/// Weather whose first bad stretch is of one kind only.
fn that_begins_with(kind: FaultKind, stretch: Duration) -> HostileOptions {
    let weather = |options: &HostileOptions| Script::new(*options).weather(stretch.mul_f64(1.99));
    let mut seeds = (0..10_000).map(|seed| HostileOptions { seed, stretch });
    seeds.find(|options| weather(options).kinds().eq([kind])).expect("one begins so")
}

/// Asks for the first page until it is as it should be.
async fn until(witness: &Witness, is_so: impl Fn(&[String]) -> bool) -> Vec<String> {
    let start = Instant::now();
    loop {
        let ids = witness.page(1).await.0;
        if is_so(&ids) {
            return ids;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "the weather does not change");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_weather_strikes_as_its_script_says() {
    let options = HostileOptions { seed: 7, stretch: Duration::from_hours(1) };
    let witness = Witness::new(30, |o| (o.hostile, o.limit) = (Some(options), RateLimit::none())).await;
    for index in 0..30 {
        witness.live(index).await;
    }
    assert!(witness.handle.served().iter().all(|s| s.fault.is_none()), "an hour of calm comes first");
    // A storm that is on within milliseconds, and long enough.
    let stretch = Duration::from_millis(400);
    witness.handle.set_hostile(Some(that_begins_with(FaultKind::Storm, stretch)));
    let start = Instant::now();
    while start.elapsed() < stretch * 2 {
        witness.live(0).await;
    }
    let served = witness.handle.served().split_off(30);
    assert!(served[0].fault.is_none() && served.iter().any(|s| s.fault.as_deref() == Some("storm")));
    let storm: Vec<_> = served.iter().skip_while(|s| s.fault.is_none()).take_while(|s| s.fault.is_some()).collect();
    assert!(storm.len() > 1 && storm.iter().all(|s| s.status == 429), "nobody gets through");
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_breaks_off_what_has_no_end() {
    for (kind, reads) in [(FaultKind::Stalled, true), (FaultKind::Endless, true), (FaultKind::Endless, false)] {
        let mut options = ServerOptions::new(Fleet::new(FleetOptions::default()));
        options.faults = Faults::none().with(kind, 1.0);
        let addr = "127.0.0.1:0".parse().expect("an address");
        let server = Server::bind(options, Clock::simulated(noon()), addr).await.expect("a port");
        let (addr, handle) = (server.local_addr(), server.handle());
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let running = tokio::spawn(server.run(async { stopped.await.unwrap_or(()) }));
        let path = format!("{ACCOUNT}/fleet-status/devices?from=2026-11-24T11:00:00Z&to=2026-11-24T12:00:00Z");
        let client = tokio::task::spawn_blocking(move || {
            let mut stream = TcpStream::connect(addr).expect("the server listens");
            write!(stream, "GET {path} HTTP/1.1\r\nhost: sim\r\n{TOKEN}\r\n").expect("sent");
            if reads {
                drop(std::io::copy(&mut stream, &mut std::io::sink()));
            }
            stream
        });
        while handle.served().is_empty() {
            tokio::task::yield_now().await;
        }
        stop.send(()).expect("the server runs");
        let done = tokio::time::timeout(Duration::from_secs(10), running).await.expect("the server ends");
        assert!(done.expect("the server does not panic").is_ok());
        drop(client.await.expect("the client does not panic"));
    }
}

/// All there is, and the error it ended in.
fn read_to_end(stream: &mut TcpStream) -> (Vec<u8>, Option<ErrorKind>) {
    let mut bytes = Vec::new();
    let end = stream.read_to_end(&mut bytes).err().map(|error| error.kind());
    (bytes, end)
}

fn read_for_a_while(stream: &mut TcpStream) -> (Vec<u8>, Option<ErrorKind>) {
    stream.set_read_timeout(Some(Duration::from_millis(700))).expect("a timeout");
    read_to_end(stream)
}

fn read_a_megabyte(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = vec![0; 1_100_000];
    stream.read_exact(&mut bytes).expect("there is always more");
    bytes
}
