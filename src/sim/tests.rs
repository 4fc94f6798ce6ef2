//! The server as a client sees it, over real sockets.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use chrono::TimeDelta;
use serde_json::Value;

use super::{FaultKind, Faults, Fleet, FleetOptions, Handle, RateLimit, Server, ServerOptions, Shape};
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

    async fn live(&self, index: u32) -> Got {
        let path = format!("{ACCOUNT}/devices/{}/fleet-status/live?since_minutes=60", self.fleet.device_id(index));
        self.get(&path, TOKEN).await
    }

    async fn list(&self, query: &str) -> Got {
        self.get(&format!("{ACCOUNT}/fleet-status/devices?{query}"), TOKEN).await
    }

    fn last(&self) -> super::Served {
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

fn check_fault(kind: FaultKind, got: &Got, served: &super::Served) {
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
