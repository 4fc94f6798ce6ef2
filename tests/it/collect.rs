//! Whole sweeps by the program itself, against what the simulated API says it delivered.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use arrow_array::Array;
use arrow_array::cast::AsArray;
use dex_archive::archive::{Archive, Part};
use dex_archive::clock::Clock;
use dex_archive::disk::Disk;
use dex_archive::schema::Schema;
use dex_archive::sim::{FaultKind, Faults, RateLimit, Served, ServerOptions};

use crate::program::{Api, place, run};
use crate::walker::assert_cell_by_cell;

#[test]
fn what_was_delivered_whole_is_in_the_archive_once() {
    let (_dir, archive) = place();
    let api =
        Api::start(200, Duration::from_secs(2), |options| ServerOptions { faults: Faults::every(0.1), ..options });
    let mut collect = api.collect(&archive);
    let (code, said) = run(collect.args(["--source", "live", "--every", "2s", "--deadline", "5m", "--sweeps", "3"]));
    assert_eq!(code, Some(3), "{said}");
    let expected = delivered(&api);
    assert!(expected.len() > 200, "{} states in three sweeps: {said}", expected.len());
    assert_same(&archive, &expected);
    // The check of the address, made once before the archive is, has no poll.
    let asked = api.handle.served().into_iter().filter(|served| served.endpoint != "other");
    let asked = asked.map(|served| (served.device_id, served.page.map(i64::from), 1));
    let polls = rows(&archive, &Schema::poll()).into_iter().map(|(batch, row)| {
        let device = batch.column_by_name("device_id").expect("a column").as_string::<i32>();
        let device = device.is_valid(row).then(|| device.value(row).to_owned());
        (device, integer(&batch, "page", row), integer(&batch, "attempts", row).unwrap_or_default())
    });
    assert_eq!(counted(polls), counted(asked), "every request has its poll");
}

/// Requests by device and page.
fn counted(
    requests: impl Iterator<Item = (Option<String>, Option<i64>, i64)>,
) -> BTreeMap<(Option<String>, Option<i64>), i64> {
    let mut counts = BTreeMap::new();
    requests.for_each(|(device, page, times)| *counts.entry((device, page)).or_default() += times);
    counts
}

#[test]
fn without_faults_nothing_fails() {
    let (_dir, archive) = place();
    let api = Api::start(120, Duration::from_secs(2), |options| options);
    let (code, said) = run(&mut api.collect(&archive));
    assert_eq!(code, Some(0), "{said}");
    assert_same(&archive, &delivered(&api));
    assert!(said.contains(" 0 failed;"), "{said}");
}

#[test]
fn the_budget_is_used_and_the_limit_kept() {
    let (_dir, archive) = place();
    let limit = RateLimit { requests: 60, window: Duration::from_secs(5), block: Duration::from_secs(5) };
    let api = Api::start(110, Duration::from_secs(2), |options| ServerOptions { limit, ..options });
    let summary = archive.with_extension("json");
    let mut paced = api.collect_at(&archive, "60/5s");
    let (code, said) = run(paced.args(["--source", "live", "--summary-json"]).arg(&summary));
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(api.handle.throttled(), 0, "{said}");
    let summary = std::fs::read_to_string(&summary).expect("a summary");
    let summary: serde_json::Value = serde_json::from_str(&summary).expect("JSON");
    let (sent, elapsed) =
        (summary["requests_sent"].as_f64().expect("a number"), summary["elapsed_s"].as_f64().expect("a number"));
    assert!(sent / elapsed >= 0.85 * 9.6, "{sent} requests in {elapsed} s are less than the budget");
}

/// Every state that was delivered is in the archive once, and equal cell by cell to a second reading.
fn assert_same(archive: &Path, delivered: &BTreeMap<String, String>) {
    let archived = archived(archive);
    assert_eq!(archived.keys().collect::<Vec<_>>(), delivered.keys().collect::<Vec<_>>());
    for (key, body) in delivered {
        let [(batch, row)] = &archived[key][..] else { panic!("{key} is there {} times", archived[key].len()) };
        assert_cell_by_cell(batch, *row, body);
    }
}

/// What the API delivered whole, by key; how often it was delivered does not matter.
pub(crate) fn delivered(api: &Api) -> BTreeMap<String, String> {
    states_of(&api.handle.served())
}

/// The keys of the states that were delivered whole.
pub(crate) fn keys_of(served: &[Served]) -> Vec<String> {
    states_of(served).into_keys().collect()
}

fn states_of(served: &[Served]) -> BTreeMap<String, String> {
    let mut keys = BTreeMap::new();
    for served in served.iter().filter(|served| served.whole) {
        for state in &served.states {
            let body = state.clone();
            let state: serde_json::Value = serde_json::from_str(state).expect("JSON");
            let text = |name: &str| state[name].as_str().unwrap_or("-").to_owned();
            let at = dex_archive::clock::parse_timestamp(&text("timestamp")).expect("a timestamp");
            keys.insert(format!("{} {} {}", text("deviceId"), text("registrationId"), at.timestamp_micros()), body);
        }
    }
    keys
}

/// The rows in the archive, by key.
pub(crate) fn archived(root: &Path) -> BTreeMap<String, Vec<(arrow_array::RecordBatch, usize)>> {
    let mut keys: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for (batch, row) in rows(root, &Schema::device_state()) {
        let text = |name: &str| {
            let column = batch.column_by_name(name).expect("a column").as_string::<i32>();
            if column.is_null(row) { "-".to_owned() } else { column.value(row).to_owned() }
        };
        let at = batch.column_by_name("timestamp").expect("a column");
        let at = at.as_primitive::<arrow_array::types::TimestampMicrosecondType>().value(row);
        let key = format!("{} {} {at}", text("device_id"), text("registration_id"));
        keys.entry(key).or_default().push((batch.clone(), row));
    }
    keys
}

fn integer(batch: &arrow_array::RecordBatch, column: &str, row: usize) -> Option<i64> {
    let column = batch.column_by_name(column).expect("a column").as_primitive::<arrow_array::types::Int64Type>();
    column.is_valid(row).then(|| column.value(row))
}

pub(crate) fn rows(root: &Path, schema: &Schema) -> Vec<(arrow_array::RecordBatch, usize)> {
    let archive = Archive::open(root).expect("an archive");
    let mut rows = Vec::new();
    for day in archive.partitions(schema).expect("a folder") {
        for (_, path) in archive.parts(&day).expect("a folder") {
            for batch in Part::open(&path, schema).expect("a part").batches(None) {
                let batch = batch.expect("a batch");
                rows.extend((0..batch.num_rows()).map(|row| (batch.clone(), row)));
            }
        }
    }
    rows
}

#[test]
fn a_limit_that_is_halved_in_mid_sweep_costs_at_most_one_refusal() {
    let (_dir, archive) = place();
    let limit = |requests| RateLimit { requests, window: Duration::from_secs(5), block: Duration::from_secs(5) };
    let api = Api::start(150, Duration::from_secs(2), |options| ServerOptions { limit: limit(60), ..options });
    let handle = api.handle.clone();
    let halve = std::thread::spawn(move || {
        while handle.requests() < 70 {
            std::thread::yield_now();
        }
        handle.set_limit(limit(30));
    });
    let (code, said) = run(api.collect_at(&archive, "60/5s").args(["--source", "live"]));
    halve.join().expect("a thread");
    assert_eq!(code, Some(0), "the sweep completes: {said}");
    assert!(api.handle.throttled() <= 1, "{} refusals: {said}", api.handle.throttled());
}

#[test]
fn a_signal_publishes_what_was_received_and_ends_well() {
    let (_dir, archive) = place();
    let api = Api::start(40, Duration::from_secs(2), |options| ServerOptions {
        latency: Duration::from_millis(20),
        ..options
    });
    let mut collector = api.collect(&archive).args(["--every", "1s", "-q"]).spawn().expect("the program starts");
    while api.handle.requests() < 60 {
        std::thread::yield_now();
    }
    signal(collector.id(), "-TERM");
    assert_eq!(collector.wait().expect("a process").code(), Some(0));
    assert_same(&archive, &delivered(&api));
}

#[test]
fn a_killed_collector_loses_nothing_that_it_journalled() {
    let (_dir, archive) = place();
    let api = Api::start(40, Duration::from_secs(2), |options| ServerOptions {
        latency: Duration::from_millis(20),
        ..options
    });
    for _ in 0..5 {
        let start = api.handle.requests();
        let mut collector = api.collect(&archive).args(["--every", "1s", "-q"]).spawn().expect("the program starts");
        while api.handle.requests() < start + 50 {
            std::thread::yield_now();
        }
        collector.kill().expect("a process");
        collector.wait().expect("a process");
    }
    // Recovers what the last one left, and sweeps once more.
    let (code, said) = run(&mut api.collect(&archive));
    assert_eq!(code, Some(0), "{said}");
    let (archived, delivered) = (archived(&archive), delivered(&api));
    assert!(archived.values().all(|rows| rows.len() == 1), "no state is there twice");
    assert!(archived.keys().all(|key| delivered.contains_key(key)), "no state that was not delivered");
    // Answers that were on their way when the process was killed are all that may be missing.
    let missing = delivered.keys().filter(|key| !archived.contains_key(*key)).count();
    assert!(missing <= 5 * 64, "{missing} of {} states are missing", delivered.len());
    assert!(archived.len() * 2 > delivered.len(), "{} of {}", archived.len(), delivered.len());
}

#[test]
fn what_may_wait_waits_in_the_journal_and_is_told() {
    let (dir, archive) = place();
    let api = Api::start(20, Duration::from_secs(2), |options| options);
    let config = dir.path().join("config.toml");
    let collect = |rule: &str| {
        put(&config, &format!("[archive]\npublish = \"{rule}\"\n"));
        let (code, said) = run(api.collect(&archive).arg("--config").arg(&config));
        assert_eq!(code, Some(0), "{said}");
        said
    };
    let (first, second) = (collect("1h"), collect("1h"));
    assert!(first.contains(" wait in the journal since 2"), "{first}");
    assert!(second.contains("0 rows, 0 B published"), "{second}");
    let since = |said: &str| said.split(" since ").nth(1).map(str::to_owned);
    assert_eq!(since(&first), since(&second), "the first of it is told");
    assert!(archived(&archive).is_empty(), "nothing is published");
    let third = collect("sweep");
    assert!(!third.contains(" wait in the journal"), "{third}");
    let expected: BTreeSet<String> = delivered(&api).into_keys().collect();
    assert_eq!(archived(&archive).into_keys().collect::<BTreeSet<_>>(), expected);
    // A loop that is stopped publishes whatever waits.
    put(&config, "[archive]\npublish = \"1h\"\n");
    let mut collect = api.collect(&archive);
    let mut collector =
        collect.args(["--every", "1s", "-q", "--config"]).arg(&config).spawn().expect("the program starts");
    let before = api.handle.requests();
    while api.handle.requests() < before + 30 {
        std::thread::yield_now();
    }
    // Also where the API is away when it is stopped.
    api.handle.set_faults(Faults::none().with(FaultKind::Server, 1.0));
    let before = api.handle.requests();
    while api.handle.requests() < before + 90 {
        std::thread::yield_now();
    }
    signal(collector.id(), "-TERM");
    assert_eq!(collector.wait().expect("a process").code(), Some(0));
    let expected: BTreeSet<String> = delivered(&api).into_keys().collect();
    assert_eq!(archived(&archive).into_keys().collect::<BTreeSet<_>>(), expected);
}

#[expect(clippy::disallowed_methods, reason = "a test makes a file")]
fn put(path: &Path, text: &str) {
    std::fs::write(path, text).expect("room on the disk");
}

#[test]
fn what_there_was_no_time_for_comes_first_in_the_next_sweep() {
    let (_dir, archive) = place();
    let api = Api::start(60, Duration::from_secs(2), |options| options);
    // 32 requests a sweep, of which two read the list: the third sweep comes round again, or the fourth.
    let mut collect = api.collect_at(&archive, "100/5s");
    collect.args(["--source", "live", "--every", "2s", "--deadline", "2s", "--sweeps", "4"]);
    let (code, said) = run(&mut collect);
    assert!(matches!(code, Some(0 | 3)), "{said}");
    assert!(said.contains(" left to the next sweep)"), "{said}");
    let asked: Vec<String> = api.handle.served().into_iter().filter_map(|served| served.device_id).collect();
    let everybody: BTreeSet<&String> = asked.iter().collect();
    let first: BTreeSet<&String> = asked.iter().take(everybody.len()).collect();
    assert_eq!(first, everybody, "nobody is asked twice before everybody was asked once");
    assert!(everybody.len() > 40 && asked.len() > everybody.len(), "{} requests: {said}", asked.len());
}

#[test]
fn a_single_sweep_goes_on_where_the_last_one_ended() {
    for source in ["list", "live"] {
        let (_dir, archive) = place();
        // Four pages of the list; who is on reports often, so that nobody comes and goes between two sweeps.
        let api = Api::start(160, Duration::from_mins(2), |options| options);
        let sweep = |limit: &str| {
            let mut collect = api.collect_at(&archive, limit);
            run(collect.args(["--source", source, "--budget", "100%", "--deadline", "1s", "--since-minutes", "60"]))
        };
        // What was asked for, in this order: pages of the list, or single devices.
        let asked = || {
            let served = api.handle.served().into_iter();
            let asked = served.filter_map(|served| match source {
                "list" => served.page.map(|page| page.to_string()),
                _ => served.device_id,
            });
            asked.collect::<Vec<_>>()
        };
        let limit = if source == "list" { "4/2s" } else { "130/2s" };
        let (code, said) = sweep(limit);
        assert!(code == Some(3) && said.contains("left to the next sweep)"), "{source}: {said}");
        let first = asked().len();
        // On a machine that is busy, one may come to nothing.
        let more = (0..10).find(|_| {
            sweep(limit);
            asked().len() > first
        });
        let both = asked();
        let distinct: BTreeSet<&String> = both.iter().collect();
        assert!(first > 0 && more.is_some(), "{source}: {both:?}");
        assert_eq!(distinct.len(), both.len(), "{source}: nothing is asked for twice: {both:?}");
        for _ in 0..15 {
            sweep(limit);
        }
        let distinct = asked().into_iter().collect::<BTreeSet<String>>();
        assert_eq!(sweep("none").0, Some(0));
        assert_eq!(asked().into_iter().collect::<BTreeSet<String>>(), distinct, "{source}: by then all was asked for");
    }
}

#[test]
fn a_list_that_is_cut_off_keeps_no_device_from_its_turn() {
    let (_dir, archive) = place();
    let api = Api::start(120, Duration::from_mins(2), |options| options);
    let sweep = || {
        let mut collect = api.collect_at(&archive, "60/2s");
        run(collect.args(["--source", "live", "--budget", "100%", "--deadline", "1s", "--since-minutes", "60"])).1
    };
    let devices = || api.handle.served().into_iter().filter_map(|served| served.device_id).collect::<Vec<_>>();
    let said = sweep();
    let first = devices();
    assert!(said.contains("left to the next sweep)") && !first.is_empty(), "{said}");
    api.handle.set_faults(Faults::none().with(FaultKind::Stalled, 1.0));
    let said = sweep();
    assert!(said.contains("the rest of the list is left to the next sweep") && devices() == first, "{said}");
    api.handle.set_faults(Faults::none());
    // On a machine that is busy, one may come to nothing; and one begins where the list was cut.
    let more = (0..10).find(|_| {
        sweep();
        devices().len() > first.len()
    });
    let all = devices();
    assert!(more.is_some() && !first.contains(&all[first.len()]), "it begins anew: {all:?}");
}

#[test]
fn devices_on_pages_that_there_was_no_time_for_count_as_not_asked() {
    let (dir, archive) = place();
    let api = Api::start(160, Duration::from_secs(2), |options| options);
    let mut collect = api.collect_at(&archive, "4/2s");
    collect.args(["--source", "list", "--budget", "100%", "--deadline", "1s"]);
    // That nobody can read how it went keeps the next sweep from nothing.
    collect.arg("--metrics-file").arg(dir.path().join("none/metrics"));
    let (code, said) = run(&mut collect);
    assert!(code == Some(1) && said.contains("the metrics are not updated"), "{said}");
    assert!(said.contains("the rest of the list is left to the next sweep"), "{said}");
    let is_unasked = |(batch, row): &(arrow_array::RecordBatch, usize)| {
        let outcome = batch.column_by_name("outcome").expect("a column").as_string::<i32>();
        outcome.value(*row) == "failed" && integer(batch, "attempts", *row) == Some(0)
    };
    let polls = rows(&archive, &Schema::poll());
    assert_eq!(polls.iter().filter(|poll| is_unasked(poll)).count(), 1, "{said}");
    // Who asks for one device in between leaves the place where the list was left.
    let noted = || std::fs::read_dir(archive.join("_archive/resume")).map_or(0, Iterator::count);
    assert_eq!(noted(), 1);
    let device = api.handle.served().iter().find_map(|served| {
        let state: serde_json::Value = serde_json::from_str(served.states.first()?).ok()?;
        Some(state["deviceId"].as_str()?.to_owned())
    });
    let (code, said) = run(api.collect(&archive).args(["--device", &device.expect("a device")]));
    assert_eq!((code, noted()), (Some(0), 1), "{said}");
    assert_eq!(run(api.collect(&archive).args(["--source", "list"])).0, Some(0));
    assert_eq!(noted(), 0, "all was read");
}

#[test]
fn a_clock_that_is_wrong_is_told() {
    let (_dir, archive) = place();
    let faults = Faults::none().with(FaultKind::ClockOff, 1.0);
    let api = Api::start(5, Duration::from_secs(2), |options| ServerOptions { faults, ..options });
    let (code, said) = run(&mut api.collect(&archive));
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("warning: this machine's clock is ") && said.contains("set it by NTP"), "{said}");
    assert!(said.contains("  failed: page 1 of the list: this machine's clock was "), "{said}");
}

#[test]
fn who_has_a_lock_need_not_be_written_down() {
    let (_dir, root) = place();
    let archive = Archive::open_or_create(&root, 1, Clock::system().now(), Disk::default()).expect("an archive");
    std::os::unix::fs::symlink("/dev/full", root.join("_archive/shard-0.lock")).expect("room on the disk");
    archive.lock(0, "somebody").expect("a lock");
}

#[test]
fn a_list_that_repeats_itself_is_not_read_for_ever() {
    let (_dir, archive) = place();
    let faults = Faults::none().with(FaultKind::RepeatedPage, 1.0);
    let api = Api::start(180, Duration::from_secs(2), |options| ServerOptions { faults, ..options });
    let (code, said) = run(api.collect(&archive).args(["--source", "list"]));
    // What stands on the other pages nobody knows.
    assert_eq!(code, Some(3), "{said}");
    assert!(api.handle.requests() <= 8, "{} requests: {said}", api.handle.requests());
}

#[test]
fn a_list_of_which_a_page_is_repeated_once_is_read_to_its_end() {
    let (_dir, archive) = place();
    let faults = Faults::none().with(FaultKind::RepeatedPage, 0.2);
    let api = Api::start(600, Duration::from_mins(2), |options| ServerOptions { faults, ..options });
    let whole = {
        let (_dir, archive) = place();
        let api = Api::start(600, Duration::from_mins(2), |options| options);
        run(api.collect(&archive).args(["--source", "list"]));
        rows(&archive, &Schema::device_state()).len()
    };
    let (code, said) = run(api.collect(&archive).args(["--source", "list"]));
    let found = rows(&archive, &Schema::device_state()).len();
    // A page that is repeated at the second try too has failed, and the next ones are read all the same.
    assert!(found == whole || (code == Some(3) && found + 100 >= whole), "{found} of {whole}: {said}");
}

#[test]
fn a_list_with_short_pages_is_read_to_its_end() {
    let seen = |faults: Faults| {
        let (_dir, archive) = place();
        let api = Api::start(180, Duration::from_mins(2), |options| ServerOptions { faults, ..options });
        let (code, said) = run(api.collect(&archive).args(["--source", "list"]));
        assert_eq!(code, Some(0), "{said}");
        let devices = rows(&archive, &Schema::device_state()).into_iter().map(|(batch, row)| {
            batch.column_by_name("device_id").expect("a column").as_string::<i32>().value(row).to_owned()
        });
        devices.collect::<std::collections::BTreeSet<String>>().len()
    };
    let all = seen(Faults::none());
    assert!(all > 100, "{all}");
    // One may have come or gone meanwhile.
    let short = seen(Faults::none().with(FaultKind::ShortPage, 1.0));
    assert!(short.abs_diff(all) <= 2, "{short} of {all}");
}

#[test]
fn a_signal_ends_a_sweep_that_waits_for_the_api() {
    let (_dir, archive) = place();
    // The check of the address uses the limit up: the list is refused for two minutes.
    let limit = RateLimit { requests: 1, window: Duration::from_mins(2), block: Duration::from_mins(2) };
    let api = Api::start(5, Duration::from_secs(2), |options| ServerOptions { limit, ..options });
    let start = std::time::Instant::now();
    let mut collector = api.collect(&archive).args(["--every", "1s", "-q"]).spawn().expect("the program starts");
    while api.handle.throttled() < 1 {
        std::thread::yield_now();
    }
    signal(collector.id(), "-TERM");
    assert!(collector.wait().expect("a process").code().is_some());
    assert!(start.elapsed() < Duration::from_mins(1), "it waited for the API");
}

fn signal(process: u32, name: &str) {
    let sent = std::process::Command::new("kill").args([name, &process.to_string()]).status();
    assert!(sent.expect("the kill program").success());
}
