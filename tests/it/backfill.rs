//! History that is read later: holes are filled where the API still has the data, and nothing is asked or kept twice.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, TimestampMicrosecondType};
use chrono::{Datelike, TimeDelta};
use dex_archive::api::{Budget, Client, ClientOptions};
use dex_archive::archive::{Archive, Shards, is_in_shard, shard_of};
use dex_archive::clock::{self, Clock, Timestamp, Zone};
use dex_archive::collect::{BackfillPlan, CollectOptions, Collector, SourceChoice, Stop, Stretch, stop_pair};
use dex_archive::disk::Disk;
use dex_archive::health::{Level, Status, StatusOptions};
use dex_archive::ingest::{Ingest, PublishRule};
use dex_archive::privacy::Policy;
use dex_archive::query::{Answer, Cause, Cell, Days, Gaps, GapsOptions, Searched, Window, gaps, holes};
use dex_archive::schema::Schema;
use dex_archive::sim::{FaultKind, Faults, Fleet, FleetOptions, Handle, RateLimit, Server, ServerOptions};
use dex_archive::snapshot::{HISTORY, Source};

use crate::collect::{archived, delivered, rows};
use crate::program::{ACCOUNT, Api, Silent, place, run};
use crate::refuse::client_options;

const EVERY: Duration = Duration::from_mins(15);

/// Six simulated hours: the collector is off in the third and fourth, the API fails in the fifth, and devices are
/// silent whenever they are.
#[test]
fn holes_are_filled_where_the_api_has_the_data_and_gaps_explains_the_rest() {
    let (_dir, root) = place();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let start = clock::parse_timestamp("2026-11-20T08:00:00Z").expect("a time");
    let end = start + TimeDelta::hours(6);
    let clock = Clock::simulated(start);
    runtime.block_on(async {
        let (client, handle) = simulated(&clock).await;
        let (_switch, stop) = stop_pair();
        let mut collector = collector(client, &root, &clock, &stop);
        for step in 0..24_u16 {
            let hour = step / 4;
            handle.set_faults(if hour == 4 { Faults::none().with(FaultKind::Server, 1.0) } else { Faults::none() });
            if !(2..4).contains(&hour) {
                drop(collector.sweep(step).await);
            }
            clock.advance(TimeDelta::minutes(15));
        }
        handle.set_faults(Faults::none());
        clock.advance(TimeDelta::minutes(30));
        let archive = Archive::open(&root).expect("an archive");
        let window = Window { since: start, until: end };
        let before = causes(&archive, window, clock.now());
        assert!(before["not_asked"] > 0.0 && before["failed"] > 0.0 && before["silent"] > 0.0, "{before:?}");
        let plan = plan(&archive, window, clock.now());
        // What came after the last answer before the collector was off is looked for too.
        assert!(
            plan.windows.iter().all(|window| window.from >= start + TimeDelta::minutes(105)),
            "{plan}: {:?}",
            plan.windows
        );
        let (stats, failed) = collector.backfill(&plan, None, 99).await;
        assert!(failed.is_none() && stats.windows_left == 0 && stats.asked.states_new > 0, "{stats:?}");
        let after = causes(&archive, window, clock.now());
        assert_eq!((after["not_asked"], after["failed"]), (0.0, 0.0), "{after:?}");
        assert!(after["present"] > before["present"] && after["silent"] > 0.0, "{before:?} {after:?}");
        // What the API has of that time is what is there now.
        let again = self::plan(&archive, window, clock.now());
        assert!(again.windows.is_empty(), "{again}");
        collector.finish().expect("a disk");
    });
    assert!(archived(&root).values().all(|rows| rows.len() == 1), "no state is there twice");
}

#[test]
fn what_is_asked_under_a_wrong_clock_counts_for_no_hour() {
    let (_dir, root) = place();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let start = clock::parse_timestamp("2026-11-20T08:00:00Z").expect("a time");
    let (theirs, ours) = (Clock::simulated(start), Clock::simulated(start));
    let advance = |by: TimeDelta| [&theirs, &ours].map(|clock| clock.advance(by));
    runtime.block_on(async {
        let fleet = FleetOptions { devices: 30, ..FleetOptions::default() };
        let (base_url, _handle) = served(fleet, &theirs).await;
        let (_switch, stop) = stop_pair();
        let mut collector = collector(client(base_url, &ours), &root, &ours, &stop);
        for step in 0..4 {
            collector.sweep(step).await;
            advance(TimeDelta::minutes(15));
        }
        ours.advance(TimeDelta::hours(3));
        collector.sweep(4).await;
        let archive = Archive::open(&root).expect("an archive");
        let window = |to: Timestamp| Window { since: start + TimeDelta::hours(1), until: to };
        let plan_of = |to: Timestamp| {
            let days = Days::new(&archive, false);
            let left = Searched::read(&days, window(to), &[Source::Raw]).expect("an answer");
            let left = left.left(ACCOUNT, None, &[window(to)]).into_iter();
            let stretches = left.map(|window| Stretch { from: window.since, to: window.until, device: None });
            let budget = Budget { limit: None, share: 1.0 };
            BackfillPlan::new(Source::Raw, stretches.collect(), Some(30), budget, ours.now(), None)
        };
        let (stats, failed) = collector.backfill(&plan_of(ours.now()), None, 98).await;
        assert!(failed.is_none() && stats.windows_done == 0 && stats.asked.has_wrong_clock(), "{stats:?}");
        // Of a week, not much is asked for in vain.
        let stretch = Stretch { from: ours.now() - TimeDelta::days(6), to: ours.now(), device: None };
        let budget = Budget { limit: None, share: 1.0 };
        let week = BackfillPlan::new(Source::Raw, vec![stretch], Some(30), budget, ours.now(), None);
        let (stats, failed) = collector.backfill(&week, None, 97).await;
        assert!(failed.is_some_and(|error| error.to_string().contains("clock is wrong")), "{stats:?}");
        assert!(stats.windows_done == 0 && stats.asked.requests_sent < 20, "{stats:?}");
        // The clock is set right, and four hours are over in which nobody asked.
        theirs.advance(TimeDelta::hours(4));
        ours.advance(TimeDelta::hours(1));
        let end = start + TimeDelta::minutes(270);
        let told = causes(&archive, window(end), ours.now());
        assert!(told["silent"] < told["not_asked"] + told["failed"], "{told:?}");
        let (stats, failed) = collector.backfill(&plan_of(end), None, 99).await;
        assert!(failed.is_none() && stats.windows_left == 0 && stats.asked.states_new > 300, "{stats:?}");
        collector.finish().expect("a disk");
    });
}

#[test]
fn of_an_outage_it_is_told_who_was_missed_also_where_nobody_was_seen() {
    let (_dir, root) = place();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let start = clock::parse_timestamp("2026-11-20T08:00:00Z").expect("a time");
    let clock = Clock::simulated(start);
    runtime.block_on(async {
        let (client, handle) = simulated(&clock).await;
        let (_switch, stop) = stop_pair();
        let mut collector = collector(client, &root, &clock, &stop);
        for step in 0..12 {
            handle.set_faults(if step < 4 { Faults::none() } else { Faults::none().with(FaultKind::Server, 1.0) });
            collector.sweep(step).await;
            clock.advance(TimeDelta::minutes(15));
        }
        collector.finish().expect("a disk");
    });
    let archive = Archive::open(&root).expect("an archive");
    let days = Days::new(&archive, false);
    let window = Window { since: start + TimeDelta::hours(2), until: start + TimeDelta::hours(3) };
    let told = causes(&archive, window, clock.now());
    let seen: BTreeSet<String> = archived(&root).into_keys().map(|key| key[..36].to_owned()).collect();
    let hour = f64::from(u32::try_from(4 * seen.len()).expect("few"));
    assert!(hour >= 80.0, "{told:?}");
    assert_eq!((told["expected"], told["failed"], told["recoverable"]), (hour, hour, hour), "{told:?}");
    let of =
        |id: &str| gaps(&days, &GapsOptions { devices: Some(vec![id.to_owned()]), ..question(window, clock.now()) });
    let one = of(seen.first().expect("a device")).expect("an answer");
    assert_eq!(one.missing(Cause::Failed), 4);
    let unknown = of("00000000-0000-4000-8000-00000000abcd").expect_err("nobody").to_string();
    assert!(unknown.starts_with("no device \"00000000-"), "{unknown}");
}

#[test]
fn a_collector_of_a_shard_asks_for_nobody_elses_devices() {
    let (_dir, root) = place();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let start = clock::parse_timestamp("2026-11-20T08:00:00Z").expect("a time");
    let clock = Clock::simulated(start);
    runtime.block_on(async {
        let (_switch, stop) = stop_pair();
        let (client, _) = simulated(&clock).await;
        let (other, _) = simulated(&clock).await;
        let mut both = [(client, 0), (other, 1)].map(|(client, shard)| {
            let archive = Archive::open_or_create(&root, 2, clock.now(), Disk::default()).expect("an archive");
            let (ingest, _) = Ingest::open(archive, Shards::One(shard), "test", Policy::default()).expect("the shard");
            let options = CollectOptions { source: SourceChoice::List, ..options() };
            Collector::new(client, ingest, &clock, &options, &Silent, &stop)
        });
        for step in 0..12 {
            // The second one ends after an hour.
            for collector in &mut both[..if step < 4 { 2 } else { 1 }] {
                assert!(collector.sweep(step).await.1.is_none());
            }
            clock.advance(TimeDelta::minutes(15));
        }
    });
    let archive = Archive::open(&root).expect("an archive");
    let window = Window { since: start, until: clock.now() };
    let Gaps { all, .. } = gaps(&Days::new(&archive, false), &question(window, clock.now())).expect("an answer");
    for device in &all {
        let is_left = is_in_shard(&device.of.device, "1/2");
        // What came after its last answer nobody saw either.
        assert_eq!(device.missing[Cause::NotAsked as usize], if is_left { 9 } else { 0 }, "{device:?}");
    }
    let of_shard = |shard| all.iter().filter(|device| shard_of(&device.of.device, 2) == shard).count();
    assert!(of_shard(0) > 0 && of_shard(1) > 0, "{all:?}");
    let options = StatusOptions {
        now: clock.now(),
        max_age: Duration::from_hours(1),
        expect: EVERY,
        longest_wait: Duration::from_hours(1),
        accounts: BTreeMap::new(),
    };
    let status = Status::read(&archive, &options).expect("an archive");
    let sweeps = status
        .checks
        .iter()
        .filter(|check| check.name.starts_with("last sweep"))
        .map(|check| (&*check.name, check.level));
    assert_eq!(
        sweeps.collect::<Vec<_>>(),
        [("last sweep, shard 0/2", Level::Fine), ("last sweep, shard 1/2", Level::Poor)]
    );
    assert!(status.missed > 0, "{status:?}");
}

#[test]
fn a_long_outage_is_no_beginning() {
    let (_dir, root) = place();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let clock = Clock::simulated(clock::parse_timestamp("2026-11-02T08:00:00Z").expect("a time"));
    let gap = |root: &Path| {
        let archive = Archive::open(root).expect("an archive");
        let hour = Duration::from_hours(1);
        let (now, accounts) = (clock.now(), BTreeMap::new());
        let options = StatusOptions { now, max_age: hour, expect: hour, longest_wait: hour, accounts };
        let status = Status::read(&archive, &options).expect("a status");
        status.checks.into_iter().find(|check| check.name == "oldest gap").expect("a check").found
    };
    runtime.block_on(async {
        let (client, _handle) = simulated(&clock).await;
        let (_switch, stop) = stop_pair();
        let mut collector = collector(client, &root, &clock, &stop);
        for step in 0..12 {
            collector.sweep(step).await;
            clock.advance(TimeDelta::minutes(15));
        }
        let said = gap(&root);
        assert!(said.starts_with("nothing was missed since the first sweep; Cloudflare has states since"), "{said}");
        clock.advance(TimeDelta::days(18));
        for step in 20..28 {
            collector.sweep(step).await;
            clock.advance(TimeDelta::minutes(15));
        }
        assert!(gap(&root).contains("were missed; Cloudflare has them"), "{}", gap(&root));
        collector.finish().expect("a disk");
    });
}

#[test]
fn a_slip_of_the_server_is_no_end_of_a_window() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let start = clock::parse_timestamp("2026-11-20T08:00:00Z").expect("a time");
    let window = Window { since: start, until: start + TimeDelta::hours(8) };
    let read = |kind: Option<(FaultKind, f64)>| {
        let (_dir, root) = place();
        let clock = Clock::simulated(window.until + TimeDelta::hours(2));
        let left = runtime.block_on(async {
            let (client, handle) = simulated(&clock).await;
            let (_switch, stop) = stop_pair();
            let mut collector = collector(client, &root, &clock, &stop);
            let (mut left, mut windows, mut new) = (Vec::new(), 0, 0);
            // With the fault, and without it what that left.
            for with_fault in [true, false] {
                let faults = kind.filter(|_| with_fault);
                handle.set_faults(faults.map_or(Faults::none(), |(kind, share)| Faults::none().with(kind, share)));
                let archive = Archive::open(&root).expect("an archive");
                let days = Days::new(&archive, false);
                let searched = Searched::read(&days, window, &[Source::Raw]).expect("an answer");
                let wanted = searched.left(ACCOUNT, None, &[window]).into_iter();
                let wanted = wanted.map(|window| Stretch { from: window.since, to: window.until, device: None });
                let budget = Budget { limit: None, share: 1.0 };
                let plan = BackfillPlan::new(Source::Raw, wanted.collect(), Some(30), budget, clock.now(), None);
                let (stats, failed) = collector.backfill(&plan, None, 99).await;
                assert!(failed.is_none(), "{failed:?}");
                left.push(stats.windows_left);
                new = if with_fault { stats.asked.states_new } else { new };
                windows = windows.max(plan.windows.len() as u64);
            }
            collector.finish().expect("a disk");
            ((left, windows), new)
        });
        let (left, new) = left;
        (archived(&root).len(), left, usize::try_from(new).expect("few"))
    };
    let (all, (left, windows), _) = read(None);
    assert_eq!(left, [0, 0]);
    assert!(all > 500, "{all}");
    for kind in [FaultKind::EmptyPage, FaultKind::RepeatedPage] {
        let (found, (left, read), _) = read(Some((kind, 0.05)));
        assert_eq!((found, read), (all, windows), "{kind:?}: asked once more, it has its rows");
        // One that is bent twice over has failed, and is left to the next time.
        assert!(left[0] <= 1 && left[1] == 0, "{kind:?}: {left:?}");
    }
    // One page is enough, be it one that has rows of a kind.
    let (found, (left, _), new) = read(Some((FaultKind::Garbage, 0.03)));
    assert!(left[0] > 0 && left[1] == 0, "{left:?}");
    assert_eq!(found, all, "what is behind something else than states is asked for again");
    // The pages behind it are read at once: they may be gone before it can be read.
    assert!(new + 50 * usize::try_from(3 * left[0]).expect("few") >= all, "{new} of {all}");
    // Where rows come again, others were passed over.
    let (found, (left, _), new) = read(Some((FaultKind::ShiftedPage, 0.1)));
    assert!(left[0] > 0 && left[1] == 0 && new <= all, "{left:?} {new}");
    assert_eq!(found, all, "a list that is in another order at each request is read again");
}

#[test]
fn what_is_forgotten_before_it_is_asked_for_is_not_done() {
    let (_dir, root) = place();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let clock = Clock::simulated(clock::parse_timestamp("2026-11-20T08:00:00Z").expect("a time"));
    runtime.block_on(async {
        let (client, handle) = simulated(&clock).await;
        let (_switch, stop) = stop_pair();
        let mut collector = collector(client, &root, &clock, &stop);
        let now = clock.now();
        let stretch = |days: i64| {
            let from = now - TimeDelta::days(days);
            Stretch { from, to: from + TimeDelta::hours(1), device: None }
        };
        let budget = Budget { limit: None, share: 1.0 };
        let plan = BackfillPlan::new(Source::Raw, vec![stretch(6), stretch(1)], Some(30), budget, now, None);
        clock.advance(TimeDelta::days(2));
        let (stats, failed) = collector.backfill(&plan, None, 1).await;
        assert!(failed.is_none() && handle.requests() > 0, "{stats:?}");
        let forgotten = plan.windows.iter().filter(|window| window.to < now - TimeDelta::days(5)).count() as u64;
        assert_eq!((stats.windows_forgotten, stats.windows_left), (forgotten, 0), "{stats:?}");
        assert_eq!((forgotten > 0, stats.windows_done), (true, plan.windows.len() as u64 - forgotten));
        collector.finish().expect("a disk");
    });
}

#[test]
fn what_begins_to_be_forgotten_while_it_is_read_is_read_again() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let clock = Clock::simulated(clock::parse_timestamp("2026-11-20T08:00:00Z").expect("a time"));
    let (_dir, root) = place();
    let (_other_dir, other) = place();
    runtime.block_on(async {
        let (client, handle) = simulated(&clock).await;
        let (_switch, stop) = stop_pair();
        let mut late = collector(client, &root, &clock, &stop);
        let budget = Budget { limit: None, share: 1.0 };
        let end = clock.now() - HISTORY + TimeDelta::hours(2);
        let plan = || {
            let stretch = Stretch { from: clock.now() - HISTORY, to: end, device: None };
            BackfillPlan::new(Source::Raw, vec![stretch], Some(30), budget, clock.now(), None)
        };
        let first = plan();
        // Half an hour passes behind some pages, of which Cloudflare keeps nothing.
        let passes = async {
            while handle.requests() < 12 {
                tokio::task::yield_now().await;
            }
            clock.advance(TimeDelta::minutes(30));
        };
        let ((stats, failed), ()) = tokio::join!(late.backfill(&first, None, 1), passes);
        assert!(failed.is_none() && stats.windows_done > 0 && stats.windows_left == 0, "{stats:?}");
        late.finish().expect("a disk");
        // What is read of the same without haste was there all the time.
        let (client, _handle) = simulated(&clock).await;
        let mut calm = collector(client, &other, &clock, &stop);
        let (stats, failed) = calm.backfill(&plan(), None, 1).await;
        assert!(failed.is_none() && stats.windows_left == 0, "{stats:?}");
        calm.finish().expect("a disk");
    });
    let (late, calm) = (archived(&root), archived(&other));
    assert!(calm.len() > 150 && late.len() > calm.len(), "{} and {}", late.len(), calm.len());
    let missing = calm.keys().filter(|key| !late.contains_key(*key)).count();
    assert_eq!(missing, 0, "of {} states", calm.len());
}

#[test]
fn what_healing_began_and_did_not_read_to_its_end_is_read_later() {
    let (_dir, archive) = place();
    let api = Api::start(12, Duration::from_mins(10), |options| options);
    let sweep = || run(api.collect(&archive).args(["--self-heal", "--since-minutes", "60", "--source", "list"]));
    api.handle.set_faults(Faults::none().with(FaultKind::Server, 0.5));
    let said = sweep().1;
    assert!(said.contains("left to the next backfill"), "{said}");
    api.handle.set_faults(Faults::none());
    assert_eq!(sweep().0, Some(0));
    // What is younger may still have come in.
    let hour_ago = (Clock::system().now() - TimeDelta::hours(1)).timestamp_micros();
    let at = |key: &String| key.rsplit(' ').next().and_then(|micros| micros.parse::<i64>().ok()).expect("a time");
    let settled = || archived(&archive).keys().filter(|key| at(key) < hour_ago).count();
    let before = settled();
    let (code, said) = run(&mut backfill_since("6d", &api, &archive));
    assert_eq!((code, settled()), (Some(0), before), "{said}");
}

#[test]
fn a_plan_that_takes_longer_than_the_history_lasts_says_so() {
    let now = clock::parse_timestamp("2026-11-20T08:00:00Z").expect("a time");
    let budget = Budget::parse("1200/5m", "80%").expect("a budget");
    let stretch = Stretch { from: now - TimeDelta::days(7), to: now, device: None };
    for (source, devices, is_too_long) in
        [(Source::Raw, 10_000, false), (Source::Raw, 100_000, true), (Source::Hourly, 100_000, false)]
    {
        let plan = BackfillPlan::new(source, vec![stretch.clone()], Some(devices), budget, now, None).to_string();
        assert_eq!(plan.contains("longer than Cloudflare remembers"), is_too_long, "{plan}");
    }
}

/// A collector of an archive that is made if there is none.
fn collector(client: Client, root: &Path, clock: &Clock, stop: &Stop) -> Collector<'static> {
    let archive = Archive::open_or_create(root, 1, clock.now(), Disk::default()).expect("an archive");
    let (ingest, _) = Ingest::open(archive, Shards::All, "test", Policy::default()).expect("the shard");
    Collector::new(client, ingest, clock, &options(), &Silent, stop)
}

async fn simulated(clock: &Clock) -> (Client, Handle) {
    let (base_url, handle) = served(FleetOptions { devices: 30, ..FleetOptions::default() }, clock).await;
    (client(base_url, clock), handle)
}

/// Where an API is, by whose clock devices report, and what it does.
async fn served(fleet: FleetOptions, clock: &Clock) -> (String, Handle) {
    let options = ServerOptions { limit: RateLimit::none(), ..ServerOptions::new(Fleet::new(fleet)) };
    let server = Server::bind(options, clock.clone(), SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await;
    let server = server.expect("a free port");
    let (base_url, handle) = (format!("http://{}", server.local_addr()), server.handle());
    tokio::spawn(server.run(std::future::pending()));
    (base_url, handle)
}

fn client(base_url: String, clock: &Clock) -> Client {
    let options = ClientOptions { attempts: 1, ..client_options(base_url) };
    Client::new(options, clock.clone()).expect("a client")
}

fn options() -> CollectOptions {
    CollectOptions {
        source: SourceChoice::Auto,
        devices: Vec::new(),
        since_minutes: 20,
        interval: EVERY,
        deadline: None,
        publish: PublishRule::Sweep,
    }
}

fn question(window: Window, now: Timestamp) -> GapsOptions {
    GapsOptions { devices: None, window, every: EVERY, zone: Zone::UTC, now, known_until: now }
}

/// Intervals by what became of them, over all devices.
fn causes(archive: &Archive, window: Window, now: Timestamp) -> BTreeMap<String, f64> {
    let gaps = gaps(&Days::new(archive, false), &question(window, now)).expect("an answer");
    let Answer { columns, rows, .. } = gaps.into_answer();
    let sum = |at: usize| rows.iter().filter_map(|row| Cell::number(&row[at])).sum();
    columns.iter().enumerate().map(|(at, column)| (column.name.clone(), sum(at))).collect()
}

/// The holes, as a backfill asks for them.
fn plan(archive: &Archive, window: Window, now: Timestamp) -> BackfillPlan {
    let days = Days::new(archive, false);
    let holes = holes(&days, &question(window, now), ACCOUNT, &[]).expect("an answer");
    let holes: Vec<Window> = holes.into_iter().map(|hole| hole.window).collect();
    let left = Searched::read(&days, window, &[Source::Raw]).expect("an answer").left(ACCOUNT, None, &holes);
    let stretches = left.into_iter().map(|window| Stretch { from: window.since, to: window.until, device: None });
    BackfillPlan::new(Source::Raw, stretches.collect(), Some(30), Budget { limit: None, share: 1.0 }, now, None)
}

#[test]
fn a_backfill_that_is_killed_goes_on_where_it_was() {
    let (_dir, archive) = place();
    let api = Api::start(30, Duration::from_mins(1), |options| ServerOptions {
        latency: Duration::from_millis(10),
        ..options
    });
    let mut first = backfill(&api, &archive);
    let mut first = first.stderr(Stdio::null()).spawn().expect("the program starts");
    while api.handle.requests() < 150 {
        std::thread::yield_now();
    }
    first.kill().expect("a process");
    first.wait().expect("a process");
    let (code, said) = run(&mut backfill(&api, &archive));
    // A kill amid a write leaves a part of a record, which is told.
    let expected = if said.contains(" unreadable=1 ") { 3 } else { 0 };
    assert_eq!(code, Some(expected), "{said}");
    let windows = windows(&archive);
    let done = |asked: &Vec<(i64, i64)>| asked.iter().filter(|(_, rows)| *rows == 0).count();
    let settled = (Clock::system().now() - TimeDelta::minutes(20)).timestamp_micros();
    let finished: Vec<_> = windows.iter().filter(|((_, to), _)| *to < settled).collect();
    assert!(finished.len() > 10, "{said}");
    for (window, asked) in &finished {
        // An empty page behind a full one is asked for once more.
        let mut asked = (*asked).clone();
        asked.dedup_by(|next, last| next == last && next.1 == 0);
        let asked = &asked;
        // What was under way at the kill has no end, and another window took its place.
        assert!(done(asked) <= 1, "no window is read to its end twice: {window:?} {asked:?}");
        let begun: Vec<usize> = (0..asked.len()).filter(|&at| asked[at].0 == 1).collect();
        assert!(begun.len() <= 2, "only what the kill broke off is begun anew: {window:?} {asked:?}");
        let last = &asked[begun.last().copied().unwrap_or_default()..];
        let pages: BTreeSet<i64> = last.iter().map(|(page, _)| *page).collect();
        assert_eq!(pages.len(), last.len(), "no page is asked for twice: {window:?} {asked:?}");
    }
    assert!(finished.iter().any(|(_, asked)| done(asked) == 0), "the kill came while windows were read");
    let (archived, delivered) = (archived(&archive), delivered(&api));
    assert!(archived.values().all(|rows| rows.len() == 1), "no state is there twice");
    assert_eq!(archived.len(), delivered.len());
    // All that is left to ask is the time since.
    let before = api.handle.requests();
    let (code, said) = run(&mut backfill(&api, &archive));
    assert_eq!(code, Some(0), "{said}");
    let after = api.handle.requests();
    assert!(after - before < 25, "{} requests: {said}", after - before);
}

#[test]
fn what_healing_sent_and_published_is_in_the_metrics() {
    let (dir, archive) = place();
    let file = dir.path().join("dex.prom");
    let api = Api::start(5, Duration::from_mins(10), |options| options);
    // The next tick is far enough for all to be healed before it.
    let left = |minutes: i64| minutes * 60 - Clock::system().now().timestamp().rem_euclid(minutes * 60);
    let every =
        [60, 55, 50, 45, 37].into_iter().find(|&minutes| left(minutes) > 300).expect("one of them has just begun");
    let heal = || {
        let mut collect = api.collect(&archive);
        collect.args(["--every", &format!("{every}m"), "--sweeps", "1", "--since-minutes", "60", "--self-heal"]);
        run(collect.arg("--metrics-file").arg(&file))
    };
    let metric = |name: &str| {
        let text = std::fs::read_to_string(&file).expect("the metrics");
        let line = text.lines().find(|line| line.starts_with(&format!("dex_archive_{name}"))).expect("it is told");
        line.split(' ').next_back().and_then(|value| value.parse::<f64>().ok()).expect("a number")
    };
    let (code, said) = heal();
    assert!(code == Some(0) && said.contains("heal: "), "{said}");
    assert_eq!((metric("sweeps_total"), metric("last_sweep_success")), (1.0, 1.0));
    assert!(metric("requests_total") > metric("last_sweep_requests") + 10.0, "{said}");
    assert!(metric("last_publish_states_new") > 2_000.0 && metric("journal_pending_bytes") == 0.0, "{said}");
}

fn backfill(api: &Api, archive: &Path) -> Command {
    backfill_since("10h", api, archive)
}

fn backfill_since(since: &str, api: &Api, archive: &Path) -> Command {
    let mut command = api.collect(archive);
    let typed: Vec<_> =
        command.get_args().map(|arg| if arg == "collect" { "backfill".into() } else { arg.to_owned() }).collect();
    let mut backfill = crate::program::program();
    backfill
        .args(typed)
        .args(["--since", since])
        .env("CLOUDFLARE_API_TOKEN", "Sn3lZJTBX6kkg7OdcBUAxOO963GEIyGQqnFTOFYY");
    command = backfill;
    command
}

/// The pages that were asked for, by window: their numbers, and the rows on them.
fn windows(root: &Path) -> BTreeMap<(i64, i64), Vec<(i64, i64)>> {
    windows_of(root, "raw")
}

fn windows_of(root: &Path, source: &str) -> BTreeMap<(i64, i64), Vec<(i64, i64)>> {
    let mut windows: BTreeMap<(i64, i64), Vec<(i64, i64)>> = BTreeMap::new();
    for (batch, row) in rows(root, &Schema::poll()) {
        let column = |name: &str| batch.column_by_name(name).expect("a column");
        let time = |name: &str| column(name).as_primitive::<TimestampMicrosecondType>().value(row);
        let number = |name: &str| column(name).as_primitive::<Int64Type>().value(row);
        if column("source").as_string::<i32>().value(row) != source {
            continue;
        }
        windows.entry((time("window_from"), time("window_to"))).or_default().push((number("page"), number("rows")));
    }
    windows
}

#[test]
fn a_sweep_heals_the_last_seven_days_and_the_next_asks_nothing_more() {
    let (_dir, archive) = place();
    let api = Api::start(5, Duration::from_mins(10), |options| options);
    // Whoever is on is on the list, at both times.
    let sweep = || run(api.collect(&archive).args(["--self-heal", "--since-minutes", "60"]));
    let (code, said) = sweep();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("heal: ") && said.contains(" windows: "), "{said}");
    let (first, count) = (api.handle.requests(), archived(&archive).len());
    assert!(count > 2_000, "{count} states of seven days: {said}");
    let (code, said) = sweep();
    assert_eq!(code, Some(0), "{said}");
    // A quarter of an hour may have ended meanwhile.
    assert!(api.handle.requests() - first < 25, "{} requests: {said}", api.handle.requests() - first);
    assert!(archived(&archive).values().all(|rows| rows.len() == 1), "no state is there twice");
}

#[test]
fn an_average_neither_takes_the_place_of_a_state_nor_keeps_one_from_being_asked_for() {
    let (dir, archive) = place();
    let api = Api::start(5, Duration::from_mins(10), |options| options);
    let (code, said) = run(backfill(&api, &archive).args(["--resolution", "hourly"]));
    assert_eq!(code, Some(0), "{said}");
    let hours = archived(&archive).len();
    assert!((15..=50).contains(&hours), "{hours} hours of five devices: {said}");
    for ((_, to), _) in windows_of(&archive, "hourly") {
        assert_eq!(to % 3_600_000_000, 0, "an hour that is not over has no average yet");
    }
    // A state of the same moment as an average: an import, collected before the averages were.
    let (batch, row) = rows(&archive, &Schema::device_state()).swap_remove(0);
    let text = |name: &str| batch.column_by_name(name).expect("a column").as_string::<i32>().value(row).to_owned();
    let at = batch.column_by_name("timestamp").expect("a column").as_primitive::<TimestampMicrosecondType>().value(row);
    let at = clock::format_timestamp(clock::from_micros(at).expect("a time"));
    let state = format!(
        r#"{{"deviceId":"{}","registrationId":"{}","timestamp":"{at}","mode":"measured"}}"#,
        text("device_id"),
        text("registration_id"),
    );
    let file = dir.path().join("state.ndjson");
    crate::cli::put(&file, &state);
    let mut import = crate::program::program();
    import.arg("--archive").arg(&archive).args(["import", "--account", ACCOUNT, "--collected-at", "2026-01-01"]);
    let (code, said) = run(import.arg(&file));
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = run(backfill(&api, &archive).args(["--resolution", "hourly", "--again"]));
    assert_eq!(code, Some(0), "{said}");
    let modes = rows(&archive, &Schema::device_state()).into_iter().filter(|(batch, row)| {
        batch.column_by_name("mode").expect("a column").as_string::<i32>().value(*row) == "measured"
    });
    assert_eq!(modes.count(), 1, "what was measured is still there");
    // The states themselves are still asked for.
    let (code, said) = run(&mut backfill(&api, &archive));
    assert_eq!(code, Some(0), "{said}");
    assert!(archived(&archive).len() > hours + 100, "{said}");
}

/// On each side of an outage devices have states in an interval of which the rest is missing.
#[test]
fn healing_reads_all_that_lies_between_the_sweeps_on_both_sides_of_an_outage() {
    let (_dir, archive) = place();
    let (_other_dir, other) = place();
    let api = Api::start(8, Duration::from_mins(5), |options| options);
    // So few are asked for one by one, each for its own holes. On a working day, when most are on.
    let days = (2..5).map(|days| (Clock::system().now() - TimeDelta::days(days)).date_naive());
    let day = days.into_iter().find(|day| day.weekday().number_from_monday() < 6).expect("one of three days");
    let start = day.and_hms_opt(10, 6, 0).expect("a time").and_utc();
    let window = Window { since: start, until: start + TimeDelta::minutes(97) };
    let (root, clock) = (archive.clone(), Clock::simulated(start));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let (_switch, stop) = stop_pair();
        let fleet = FleetOptions { devices: 8, report_every: Duration::from_mins(5), ..FleetOptions::default() };
        let (base_url, _handle) = served(fleet, &clock).await;
        let mut collector = collector(client(base_url, &clock), &root, &clock, &stop);
        assert!(collector.sweep(0).await.0.states_new > 2);
        clock.advance(window.until - start);
        assert!(collector.sweep(1).await.0.states_new > 2);
        collector.finish().expect("a disk");
    });
    let (code, said) = run(api.collect(&archive).args(["--self-heal", "--source", "list"]));
    assert_eq!(code, Some(0), "{said}");
    let [since, until] = [window.since, window.until].map(clock::format_timestamp);
    let (code, said) = run(backfill_since(&since, &api, &other).args(["--until", &until]));
    assert_eq!(code, Some(0), "{said}");
    let (healed, all) = (archived(&archive), archived(&other));
    let missing: Vec<&String> = all.keys().filter(|key| !healed.contains_key(*key)).collect();
    assert!(all.len() > 60 && missing.is_empty(), "of {} states {missing:?}", all.len());
}

/// One sweep by hand, and an hour later those of a service.
#[test]
fn what_was_missed_since_the_first_sweep_begins_no_earlier() {
    let (_dir, root) = place();
    let clock = Clock::simulated(clock::parse_timestamp("2026-11-20T08:02:00Z").expect("a time"));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let (client, _handle) = simulated(&clock).await;
        let (_switch, stop) = stop_pair();
        let mut collector = collector(client, &root, &clock, &stop);
        drop(collector.sweep(0).await);
        clock.advance(TimeDelta::minutes(60));
        for step in 1..4 {
            drop(collector.sweep(step).await);
            clock.advance(TimeDelta::minutes(15));
        }
        collector.finish().expect("a disk");
    });
    let archive = Archive::open(&root).expect("an archive");
    let options = StatusOptions {
        now: clock.now(),
        max_age: EVERY,
        expect: EVERY,
        longest_wait: EVERY,
        accounts: BTreeMap::new(),
    };
    let status = Status::read(&archive, &options).expect("an archive");
    let [oldest, before] = [status.oldest_gap, status.before_first].map(|moment| moment.map(|moment| moment.0));
    assert_eq!(oldest, clock::parse_timestamp("2026-11-20T08:15:00Z"));
    assert!(before.is_some_and(|before| before < clock.now() - TimeDelta::days(6)), "{before:?}");
}

#[test]
fn healing_asks_for_whom_it_is_to_ask_for_alone() {
    let (dir, archive) = place();
    let api = Api::start(20, Duration::from_mins(10), |options| options);
    let fleet = Fleet::new(FleetOptions { devices: 20, ..FleetOptions::default() });
    let device = fleet.device_id(3);
    let (code, said) = run(api.collect(&archive).args(["--source", "live", "--device", &device, "--self-heal"]));
    assert_eq!(code, Some(0), "{said}");
    assert!(archived(&archive).len() > 500, "{said}");
    assert!(archived(&archive).keys().all(|key| key.contains(&device)), "{said}");
    // Who is asked for in vain is not expected from then on.
    let nobody = "cb49c27f-7f97-49c5-b6f3-f7c01ead0fd8";
    let (code, said) = run(backfill(&api, &archive).args(["--device", nobody]));
    assert_eq!(code, Some(0), "{said}");
    let mut gaps = crate::program::program();
    let gaps = gaps.arg("--archive").arg(&archive).args(["query", "gaps", "--since", "1h", "--every", "1s"]);
    let gaps = gaps.args(["--format", "csv"]).output().expect("it starts");
    let gaps = String::from_utf8_lossy(&gaps.stdout);
    assert!(gaps.contains(&device) && !gaps.contains(nobody), "{gaps}");
    // An id that is written in capitals is in the archive as it came; that stops nobody.
    let state = format!(
        r#"{{"deviceId":"CB49C27F-7F97-49C5-B6F3-F7C01EAD0FD7","timestamp":"{}"}}"#,
        clock::format_timestamp(Clock::system().now() - TimeDelta::hours(2))
    );
    let file = dir.path().join("state.ndjson");
    crate::cli::put(&file, &state);
    let mut import = crate::program::program();
    let (code, said) = run(import.arg("--archive").arg(&archive).args(["import", "--account", ACCOUNT]).arg(&file));
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = run(api.collect(&archive).arg("--self-heal"));
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("heal: "), "{said}");
}

#[test]
fn a_window_that_failed_is_left_to_the_next_backfill() {
    let (_dir, archive) = place();
    let api = Api::start(30, Duration::from_mins(1), |options| ServerOptions {
        faults: Faults::none().with(FaultKind::Server, 0.1),
        ..options
    });
    let (code, said) = run(backfill(&api, &archive).args(["--attempts", "1"]));
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("left to the next backfill"), "{said}");
    api.handle.set_faults(Faults::none());
    let (code, said) = run(&mut backfill(&api, &archive));
    assert_eq!(code, Some(0), "{said}");
    let (archived, delivered) = (archived(&archive), delivered(&api));
    assert_eq!(archived.keys().collect::<Vec<_>>(), delivered.keys().collect::<Vec<_>>());
}
