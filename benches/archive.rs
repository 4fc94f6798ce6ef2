//! What the steps between an answer and a query cost: flatten, journal, merge, read.
//!
//! `cargo bench` prints times per step on this machine; nothing is asserted. The bodies are the
//! simulator's: 1,000 devices, one state every 5 minutes.

use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use dex_archive::archive::{Archive, Incoming, Part, ShardLock, partitions_of};
use dex_archive::clock::{self, Timestamp};
use dex_archive::disk::Disk;
use dex_archive::flatten::{Columns, Plan, Row};
use dex_archive::journal::Writer;
use dex_archive::schema::Schema;
use dex_archive::sim::{Fleet, FleetOptions, dump};
use dex_archive::snapshot::{AccountId, Answer, Body, Source};

const DEVICES: u32 = 1_000;

fn start() -> Timestamp {
    clock::parse_timestamp("2026-10-01T00:00:00Z").expect("a timestamp")
}

/// The states of so many ticks, a body each.
fn bodies(first: u32, ticks: u32) -> Vec<String> {
    let fleet = Fleet::new(FleetOptions { devices: DEVICES, ..FleetOptions::default() });
    let mut text = Vec::new();
    let from = start() + chrono::TimeDelta::minutes(i64::from(first) * 5);
    dump(&fleet, from, ticks, std::time::Duration::from_mins(5), &mut text).expect("memory");
    String::from_utf8(text).expect("JSON").lines().map(str::to_owned).collect()
}

fn batch(bodies: &[String]) -> arrow_array::RecordBatch {
    let plan = Plan::new(Schema::device_state());
    let (mut columns, mut row) = (Columns::new(Schema::device_state()), Row::default());
    for body in bodies {
        plan.flatten(body.as_bytes(), &mut row).expect("a row");
        columns.push(&row);
    }
    columns.finish()
}

fn flatten(criterion: &mut Criterion) {
    let bodies = bodies(0, 1);
    let mut group = criterion.benchmark_group("flatten");
    group.throughput(Throughput::Elements(bodies.len() as u64));
    group.bench_function("one sweep of 1,000 devices", |bencher| bencher.iter(|| batch(&bodies)));
    group.finish();
}

fn journal(criterion: &mut Criterion) {
    let bodies: Vec<Body> = bodies(0, 1).iter().take(50).map(|body| Body::new(body)).collect();
    let answer = Answer {
        account_id: AccountId::parse("01a7362d577a6c3019a474fd6f485823").expect("an account"),
        sweep_id: "bench".to_owned(),
        source: Source::List,
        collected_at: start(),
        bodies,
        poll: None,
    };
    let dir = tempfile::tempdir().expect("a folder");
    let mut writer = Writer::create(&Disk::default(), dir.path(), 1).expect("a segment");
    criterion.bench_function("journal: a page of 50, unsynced", |bencher| {
        bencher.iter(|| writer.append(&answer).expect("room on the disk"));
    });
}

/// An archive that holds a day of so many ticks.
fn day(ticks: u32) -> (tempfile::TempDir, Archive, ShardLock) {
    let dir = tempfile::tempdir().expect("a folder");
    let archive = Archive::open_or_create(&dir.path().join("a"), 1, start(), Disk::default()).expect("an archive");
    let lock = archive.lock(0, "bench").expect("the lock");
    merge_in(&archive, &lock, &batch(&bodies(0, ticks)));
    (dir, archive, lock)
}

fn merge_in(archive: &Archive, lock: &ShardLock, rows: &arrow_array::RecordBatch) {
    let schema = Schema::device_state();
    for (date, positions) in partitions_of(&schema, rows) {
        let incoming = Incoming::new(&schema, rows, &positions);
        let staged = archive.stage(lock, &schema, date, incoming).expect("room on the disk");
        staged.publish().expect("room on the disk");
    }
}

fn merge_and_read(criterion: &mut Criterion) {
    let (_dir, archive, lock) = day(287);
    let sweep = Arc::new(batch(&bodies(287, 1)));
    let mut group = criterion.benchmark_group("day of 288,000 rows");
    group.sample_size(10);
    group.bench_function("merge a sweep and publish", |bencher| {
        bencher.iter_batched(|| Arc::clone(&sweep), |sweep| merge_in(&archive, &lock, &sweep), BatchSize::PerIteration);
    });
    group.bench_function("read every row", |bencher| {
        let schema = Schema::device_state();
        bencher.iter(|| {
            let partition = archive.partitions(&schema).expect("a folder").remove(0);
            let (_, path) = archive.parts(&partition).expect("a folder").remove(0);
            let part = Part::open(&path, &schema).expect("a part");
            part.batches(None).map(|batch| batch.expect("a batch").num_rows()).sum::<usize>()
        });
    });
    group.finish();
}

criterion_group!(steps, flatten, journal, merge_and_read);
criterion_main!(steps);
