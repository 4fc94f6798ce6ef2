//! Sweeps on a bad day of the API: everything that can go wrong does, in storms, by a seeded script.

use std::io::Read;
use std::net::TcpListener;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dex_archive::sim::{FaultKind, HostileOptions, RateLimit, ServerOptions};

use crate::collect::{archived, delivered};
use crate::program::{Api, figure, place};

/// Seconds that a sweep and its publish may take, and how much later that may be on a busy machine.
const DEADLINE: f64 = 4.0;
const BUSY: f64 = 2.0;

#[test]
fn on_a_bad_day_every_sweep_ends_in_time_within_its_budget_and_keeps_what_it_got() {
    // Pages of the list go wrong in ways of their own: on four of the days nothing else is asked for.
    let lists = [3, 4, 5, 6].map(|seed| (seed, "list", "1s", 40));
    let days = [&[(1, "live", "2s", 16), (2, "auto", "2s", 16), (7, "auto", "1s", 40)], &lists[..]].concat();
    let threads = days.into_iter().map(|(seed, source, every, sweeps)| {
        std::thread::spawn(move || bad_day(seed, &["--source", source, "--every", every], sweeps))
    });
    // All of them at once.
    let threads: Vec<_> = threads.collect();
    let days: Vec<Day> = threads.into_iter().map(|thread| thread.join().expect("a day")).collect();
    let mut kinds: Vec<String> = days.iter().flat_map(|day| day.kinds.clone()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    for kind in FaultKind::HOSTILE {
        assert!(kinds.iter().any(|seen| seen == kind.name()), "{} never struck: {kinds:?}", kind.name());
    }
    let (sweeps, requests) =
        (days.iter().map(|day| day.sweeps).sum::<usize>(), days.iter().map(|day| day.requests).sum::<u64>());
    figure(
        "hostile",
        &format!(
            "{} seeded bad days, {} kinds of faults, {sweeps} sweeps, {requests} requests",
            days.len(),
            kinds.len()
        ),
    );
}

struct Day {
    kinds: Vec<String>,
    sweeps: usize,
    requests: u64,
}

fn bad_day(seed: u64, how: &[&str], count: usize) -> Day {
    let (_dir, archive) = place();
    let (elsewhere, visitors) = elsewhere();
    let limit = RateLimit { requests: 600, window: Duration::from_secs(5), block: Duration::from_secs(5) };
    let hostile = HostileOptions { seed, stretch: Duration::from_millis(1_200) };
    let api = Api::start(120, Duration::from_secs(3), |options| ServerOptions {
        limit,
        hostile: Some(hostile),
        redirect_to: Some(elsewhere),
        ..options
    });
    let mut collect = api.collect_at(&archive, "600/5s");
    collect.args(how).args(["--deadline", "4s", "--sweeps", &count.to_string()]).stderr(Stdio::piped());
    let mut collector = collect.spawn().expect("the program starts");
    let peak = Peak::watch(collector.id());
    let mut said = String::new();
    collector.stderr.take().expect("a pipe").read_to_string(&mut said).expect("UTF-8");
    let ended = collector.wait().expect("a process");
    assert!(matches!(ended.code(), Some(1 | 3)), "{ended}: {said}");
    assert!(peak.megabytes() < 300, "{} MB", peak.megabytes());
    assert_eq!(visitors.load(Ordering::SeqCst), 0, "a redirect was followed");
    assert_eq!(api.handle.throttled(), 0, "the limit was overrun: {said}");
    let sweeps = sweeps(&said);
    assert_eq!(sweeps.len(), count, "{said}");
    for (requests, elapsed) in &sweeps {
        assert!(*elapsed < DEADLINE + BUSY, "a sweep of {elapsed} s: {said}");
        // Late requests may catch up a hundredth of the window; the line rounds.
        assert!(*requests <= 96.0 * elapsed + 12.0, "{requests} requests in {elapsed} s: {said}");
    }
    assert_kept(&archive, &api);
    let kinds = api.handle.served().into_iter().filter_map(|served| served.fault).collect();
    Day { kinds, sweeps: sweeps.len(), requests: api.handle.requests() }
}

/// Everything that was delivered is there, once, but for what was on its way when a sweep had to end.
fn assert_kept(root: &std::path::Path, api: &Api) {
    let (archived, delivered) = (archived(root), delivered(api));
    assert!(archived.values().all(|rows| rows.len() == 1), "no state is there twice");
    assert!(archived.keys().all(|key| delivered.contains_key(key)), "no state that was not delivered");
    let missing = delivered.keys().filter(|key| !archived.contains_key(*key)).count();
    assert!(missing * 50 <= delivered.len(), "{missing} of {} states are missing", delivered.len());
}

/// Requests and seconds of each sweep, as its summary line says them.
fn sweeps(said: &str) -> Vec<(f64, f64)> {
    let lines = said.lines().filter(|line| line.contains(" new states, "));
    let numbers = lines.map(|line| {
        let (before, after) = line.split_once(" requests in ").expect("a summary");
        let requests = before.rsplit(' ').next().expect("a number");
        (requests.parse().expect("a number"), after.split(' ').next().expect("a number").parse().expect("a number"))
    });
    numbers.collect()
}

/// Where redirects lead, and how many went there.
fn elsewhere() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    let visitors = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&visitors);
    std::thread::spawn(move || {
        for _visitor in listener.incoming() {
            seen.fetch_add(1, Ordering::SeqCst);
        }
    });
    (address, visitors)
}

/// The most memory that a process has held so far.
struct Peak(Arc<AtomicUsize>);

impl Peak {
    fn watch(process: u32) -> Self {
        let peak = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&peak);
        // Until it is the program, it has this process's memory, and its peak.
        let ours = std::fs::read_link("/proc/self/exe").expect("a program");
        std::thread::spawn(move || {
            while std::fs::read_link(format!("/proc/{process}/exe")).is_ok_and(|exe| exe == ours) {
                std::thread::yield_now();
            }
            while let Ok(status) = std::fs::read_to_string(format!("/proc/{process}/status")) {
                let Some(line) = status.lines().find(|line| line.starts_with("VmHWM:")) else { break };
                let kilobytes = line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).unwrap_or(0);
                seen.fetch_max(kilobytes, Ordering::SeqCst);
                std::thread::park_timeout(Duration::from_millis(200));
            }
        });
        Self(peak)
    }

    fn megabytes(&self) -> usize {
        self.0.load(Ordering::SeqCst) / 1_000
    }
}
