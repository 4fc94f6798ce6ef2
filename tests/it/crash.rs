//! The archive's promise, held at every step: whatever was synced is there exactly once after a crash,
//! and no reader sees anything but complete parts.
//!
//! One run is recorded change by change. For every prefix of it the disk is rebuilt as a power cut
//! would leave it, in several ways that file systems allow; then the ordinary start recovers it.

mod disk;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use dex_archive::archive::{Archive, Checksum, Part, PartFile, PartName, Shards};
use dex_archive::clock::{self, Timestamp};
use dex_archive::disk::Disk;
use dex_archive::ingest::{Ingest, Published};
use dex_archive::privacy::Policy;
use dex_archive::schema::Schema;
use dex_archive::snapshot::{AccountId, Answer, Body, Endpoint, Outcome, Poll, Source};

use crate::program::{ACCOUNT, figure, quick_dir};
use disk::{Loss, Recorder};

#[test]
fn a_crash_at_every_step_loses_nothing_and_doubles_nothing() {
    let dir = quick_dir();
    let recorder = Arc::new(Recorder::new(dir.path()));
    let acknowledged = run_over_two_midnights(&dir.path().join("archive"), &recorder);
    let steps = recorder.steps().len();
    assert!(steps > 300, "{steps} steps");
    let next = std::sync::atomic::AtomicUsize::new(1);
    let crashes: usize = std::thread::scope(|scope| {
        let crash = || {
            let mut crashes = 0;
            loop {
                let step = next.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                if step > steps {
                    return crashes;
                }
                for loss in Loss::ALL {
                    crash_and_recover(&recorder, &acknowledged, step, loss);
                    crashes += 1;
                }
            }
        };
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(crash)).collect();
        threads.into_iter().map(|thread| thread.join().expect("every crash is recovered from")).sum()
    });
    figure("crash", &format!("{steps} durable operations over two midnights, {crashes} crashes, each recovered from"));
}

#[test]
fn what_a_killed_process_made_and_did_not_sync_is_synced_by_the_next() {
    let dir = quick_dir();
    let recorder = Arc::new(Recorder::new(dir.path()));
    run_over_two_midnights(&dir.path().join("archive"), &recorder);
    for step in 1..100 {
        let killed = quick_dir();
        recorder.after(step, Loss::Nothing).write_to(killed.path());
        let next = Arc::new(Recorder::of(killed.path(), &recorder, step, Loss::Nothing));
        let disk = Disk::default().watched(Arc::<Recorder>::clone(&next));
        let archive = Archive::open_or_create(&killed.path().join("archive"), 1, at("2026-11-22T22:30:00Z"), disk);
        let (mut ingest, _) =
            Ingest::open(archive.expect("an archive"), Shards::All, "test", Policy::default()).expect("the shard");
        let late = answers_of(9).remove(0);
        ingest.append(late.clone()).expect("room on the disk");
        ingest.sync().expect("a disk");
        let cut = quick_dir();
        let count = next.steps().len();
        next.after(count, Loss::Everything).write_to(cut.path());
        open_and_tell(&cut.path().join("archive"), Disk::default());
        let states = keys_of(&cut.path().join("archive"), &Schema::device_state());
        assert!(
            state_keys(&late).iter().all(|key| states.contains_key(key)),
            "killed after step {step}, then a power cut"
        );
    }
}

/// What is known after each step: the answers that were appended, and those that were synced.
type Acknowledged = Vec<(usize, usize)>;

/// Sweeps from half past ten on one day to the day after the next, published after each; once the process
/// starts anew with a journal that was left. Returns what was known after each step.
fn run_over_two_midnights(root: &Path, recorder: &Arc<Recorder>) -> Acknowledged {
    let mut known: Acknowledged = Vec::new();
    let (mut appended, mut synced) = (0, 0);
    let mut ingest = open(root, Disk::default().watched(Arc::<Recorder>::clone(recorder)));
    let mut note = |appended: usize, synced: usize| known.resize(recorder.steps().len() + 1, (appended, synced));
    for sweep in 0..7 {
        for answer in answers_of(sweep) {
            // What is on its way may get there: a crash in the midst of the append counts as appended.
            appended += 1;
            note(appended, synced);
            ingest.append(answer).expect("room on the disk");
            if appended % 2 == 0 {
                ingest.sync().expect("a disk");
                note(appended, synced);
                synced = appended;
            }
        }
        if sweep == 2 {
            ingest.sync().expect("a disk");
            note(appended, synced);
            synced = appended;
            drop(ingest);
            ingest = open(root, Disk::default().watched(Arc::<Recorder>::clone(recorder)));
        } else {
            clean(&ingest.publish().expect("a journal"));
        }
        note(appended, synced);
        synced = appended;
    }
    note(appended, synced);
    known
}

/// Rebuilds the disk as a crash after a step leaves it, looks at it as a reader does, recovers, and looks
/// again. At some steps the recovery itself is crashed.
fn crash_and_recover(recorder: &Recorder, acknowledged: &Acknowledged, step: usize, loss: Loss) {
    let dir = quick_dir();
    let when = format!("{loss:?} after step {step}");
    recorder.after(step, loss).write_to(dir.path());
    let root = dir.path().join("archive");
    assert_only_whole_parts(&root, &when);
    if step % 7 == loss as usize {
        crash_the_recovery(dir.path(), recorder, step, loss, &when);
    }
    let recovered = open_and_tell(&root, Disk::default());
    assert_eq!(recovered.held, [], "{when}");
    assert_eq!(recovered.damaged, Vec::<String>::new(), "{when}");
    assert_only_whole_parts(&root, &when);
    let (appended, synced) = acknowledged[step];
    let answers: Vec<Answer> = (0..7).flat_map(answers_of).collect();
    let (states, polls) = (keys_of(&root, &Schema::device_state()), keys_of(&root, &Schema::poll()));
    assert_between(&states, &answers[..synced], &answers[..appended], state_keys, &when);
    assert_between(&polls, &answers[..synced], &answers[..appended], poll_keys, &when);
}

/// Recovers on a recorded disk, and leaves the disk as a power cut somewhere in it does.
fn crash_the_recovery(dir: &Path, crashed: &Recorder, step: usize, loss: Loss, when: &str) {
    let recorder = Arc::new(Recorder::of(dir, crashed, step, loss));
    open_and_tell(&dir.join("archive"), Disk::default().watched(Arc::<Recorder>::clone(&recorder)));
    let count = step * 31 % (recorder.steps().len() + 1);
    let loss = if loss == Loss::Nothing { Loss::Everything } else { loss };
    std::fs::remove_dir_all(dir).expect("a folder");
    recorder.after(count, loss).write_to(dir);
    assert_only_whole_parts(&dir.join("archive"), when);
}

/// What a reader may see at any moment: parts that are complete, one for a day.
fn assert_only_whole_parts(root: &Path, when: &str) {
    for schema in [Schema::device_state(), Schema::poll()] {
        let days = std::fs::read_dir(root.join(&schema.dataset)).into_iter().flatten();
        for day in days.map(|day| day.expect("an entry").path()) {
            let parts: Vec<_> =
                std::fs::read_dir(&day).expect("a folder").map(|part| part.expect("an entry")).collect();
            assert_eq!(parts.len(), 1, "{when}: {}", day.display());
            let name = parts[0].file_name();
            assert!(PartName::parse(&name.to_string_lossy()).is_some(), "{when}: {}", name.display());
            let checksum = PartFile::open(&parts[0].path()).and_then(|part| part.checksum()).expect("a file");
            assert_eq!(checksum, Checksum::Right, "{when}: {}", day.display());
            Part::open(&parts[0].path(), &schema).expect("a part");
        }
    }
}

/// Everything that was synced is there once, and nothing that was not appended.
fn assert_between(
    found: &BTreeMap<String, usize>,
    synced: &[Answer],
    appended: &[Answer],
    keys: fn(&Answer) -> Vec<String>,
    when: &str,
) {
    let doubled: Vec<_> = found.iter().filter(|(_, times)| **times > 1).collect();
    assert!(doubled.is_empty(), "{when}: there twice: {doubled:?}");
    let found: BTreeSet<&String> = found.keys().collect();
    let synced: BTreeSet<String> = synced.iter().flat_map(keys).collect();
    let appended: BTreeSet<String> = appended.iter().flat_map(keys).collect();
    let lost: Vec<_> = synced.iter().filter(|key| !found.contains(key)).collect();
    assert!(lost.is_empty(), "{when}: lost: {lost:?}");
    let strange: Vec<_> = found.iter().filter(|key| !appended.contains(**key)).collect();
    assert!(strange.is_empty(), "{when}: never there: {strange:?}");
}

fn open(root: &Path, disk: Disk) -> Ingest {
    let archive = Archive::open_or_create(root, 1, at("2026-11-22T22:30:00Z"), disk).expect("an archive");
    let (ingest, recovered) =
        Ingest::open(archive.lingering(Duration::ZERO), Shards::All, "test", Policy::default()).expect("the shard");
    clean(&recovered);
    ingest
}

fn open_and_tell(root: &Path, disk: Disk) -> Published {
    let archive = Archive::open_or_create(root, 1, at("2026-11-22T22:30:00Z"), disk).expect("an archive");
    Ingest::open(archive.lingering(Duration::ZERO), Shards::All, "test", Policy::default()).expect("the shard").1
}

fn clean(published: &Published) {
    assert_eq!((&published.held, published.has_findings()), (&Vec::new(), false), "{published:?}");
}

/// A sweep's answers: a page of the list, and three devices, one of which is absent at times. They are
/// 8 hours apart, and one in three states is of the day before.
pub(crate) fn answers_of(sweep: usize) -> Vec<Answer> {
    let time = |hours: usize| at("2026-11-22T22:30:00Z") + chrono::TimeDelta::hours(i64::try_from(hours).expect("few"));
    let state = |device: usize| {
        let timestamp = clock::format_timestamp(time(sweep * 8 - (device * 8).min(sweep * 8)));
        let number = device + sweep * 10;
        format!(r#"{{"deviceId":"{}","timestamp":"{timestamp}","status":"connected","cpuPct":{number}}}"#, id(device))
    };
    let page = (Some(1), None, (0..3).map(state).collect());
    let devices = (0..3).map(|device| {
        let absent = (device + sweep).is_multiple_of(4);
        (None, Some(id(device)), if absent { Vec::new() } else { vec![state(device)] })
    });
    let answers = std::iter::once(page).chain(devices);
    answers.map(|(page, device, bodies)| answer(sweep, time(sweep * 8), page, device, &bodies)).collect()
}

fn answer(sweep: usize, at: Timestamp, page: Option<u32>, device_id: Option<String>, bodies: &[String]) -> Answer {
    let account_id = AccountId::parse(ACCOUNT).expect("an account");
    let sweep_id = format!("sweep-{sweep}");
    let poll = Poll {
        sweep_id: sweep_id.clone(),
        account_id: account_id.clone(),
        requested_at: at,
        endpoint: if page.is_some() { Endpoint::List } else { Endpoint::Live },
        device_id,
        page,
        listing: None,
        outcome: if bodies.is_empty() { Outcome::Absent } else { Outcome::State },
        rows: u32::try_from(bodies.len()).expect("few"),
        http_status: Some(200),
        error_code: None,
        error: None,
        attempts: 1,
        latency_ms: Some(12.5),
        cf_ray: None,
        shard: None,
    };
    let source = if page.is_some() { Source::List } else { Source::Live };
    let bodies = bodies.iter().map(|body| Body::new(body)).collect();
    Answer { account_id, sweep_id, source, collected_at: at, bodies, poll: Some(poll) }
}

pub(crate) fn id(device: usize) -> String {
    format!("cb49c27f-7f97-49c5-b6f3-f7c01ead0fd{device}")
}

pub(crate) fn at(text: &str) -> Timestamp {
    clock::parse_timestamp(text).expect("a timestamp")
}

pub(crate) fn state_keys(answer: &Answer) -> Vec<String> {
    let keys = answer.bodies.iter().map(|body| {
        let body: serde_json::Value = serde_json::from_slice(&body.bytes).expect("JSON");
        let time = at(body["timestamp"].as_str().expect("a text"));
        format!("{} {}", body["deviceId"].as_str().expect("a text"), time.timestamp_micros())
    });
    keys.collect()
}

fn poll_keys(answer: &Answer) -> Vec<String> {
    let poll = answer.poll.as_ref().expect("a poll");
    vec![format!("{} {}", poll.device_id.as_deref().unwrap_or("-"), poll.requested_at.timestamp_micros())]
}

/// The rows of a dataset by device and time, and how often each is there.
pub(crate) fn keys_of(root: &Path, schema: &Schema) -> BTreeMap<String, usize> {
    let archive = Archive::open(root).expect("an archive");
    let mut keys = BTreeMap::new();
    for day in archive.partitions(schema).expect("a folder") {
        for (_, path) in archive.parts(&day).expect("a folder") {
            for batch in Part::open(&path, schema).expect("a part").batches(None) {
                let batch = batch.expect("a batch");
                (0..batch.num_rows()).for_each(|row| *keys.entry(key_of(schema, &batch, row)).or_default() += 1);
            }
        }
    }
    keys
}

fn key_of(schema: &Schema, batch: &RecordBatch, row: usize) -> String {
    let device = batch.column_by_name("device_id").expect("a column").as_string::<i32>();
    let time = batch.column(schema.partition_by[0]).as_primitive::<TimestampMicrosecondType>().value(row);
    let device = if arrow_array::Array::is_valid(device, row) { device.value(row) } else { "-" };
    format!("{device} {time}")
}
