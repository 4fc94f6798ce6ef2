//! The archive against a naive model of it, and against what a crash or somebody else may leave.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use arrow_schema::ArrowError;
use bytes::Bytes;
use chrono::NaiveDate;
use parquet::file::metadata::page_index::PageIndexProvider;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaDataReader};
use proptest::prelude::*;

use super::interleave::{Batches, Interleaved};
use super::*;
use crate::bucket::Bucket;
use crate::clock;
use crate::flatten::{Columns, Plan, Row};

const TABLE: &str = r#"
format = 1
dataset = "t"
description = "Rows of a test."
partition_by = ["at", "seen"]
key = ["id", "at", "twin"]
newest_by = "seen"

[[column]]
name = "id"
path = "id"
type = "string"
role = "identity"
description = "Who."

[[column]]
name = "at"
path = "at"
type = "timestamp"
role = "time"
description = "When."

[[column]]
name = "twin"
path = "twin"
type = "int64"
role = "identity"
description = "Which of two."

[[column]]
name = "seen"
path = "seen"
type = "timestamp"
role = "provenance"
description = "When it was seen."

[[column]]
name = "value"
path = "value"
type = "float64"
role = "gauge"
description = "What."

[[column]]
name = "apps"
path = "apps"
type = "list"
role = "label"
description = "A list."

[[column.field]]
name = "name"
type = "string"
description = "Name."
"#;

/// One row of the test: (id, at or none, twin or none, seen, value).
type Tuple = (u32, Option<u32>, Option<u32>, u32, u32);

struct Bench {
    dir: tempfile::TempDir,
    archive: Archive,
    schema: Arc<Schema>,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let schema = Arc::new(Schema::parse(TABLE).expect("a schema"));
        let mut archive =
            Archive::open_or_create(&dir.path().join("a"), 1, epoch(), Disk::default()).expect("an archive");
        // What was live goes at once, so that tests see what is left for good; one test is about the wait.
        archive.linger = Duration::ZERO;
        Self { dir, archive, schema }
    }

    /// The same in a bucket.
    fn in_bucket() -> Self {
        Self::in_this(&Bucket::in_memory())
    }

    fn in_this(bucket: &Bucket) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let schema = Arc::new(Schema::parse(TABLE).expect("a schema"));
        let place = Place::in_bucket(bucket.clone(), &dir.path().join("state"));
        let archive = Archive::open_or_create(place, 1, epoch(), Disk::default()).expect("an archive");
        Self { dir, archive, schema }
    }

    /// Publishes rows; returns which were new.
    fn publish(&self, rows: &[Tuple]) -> Vec<bool> {
        let batch = batch(&self.schema, rows);
        let lock = self.archive.lock(0, "test").expect("the lock");
        let mut fresh = vec![false; rows.len()];
        for (date, positions) in partitions_of(&self.schema, &batch) {
            let staged = self
                .archive
                .stage(&lock, &self.schema, date, Incoming::new(&self.schema, &batch, &positions))
                .expect("room on the disk");
            positions.iter().zip(&staged.fresh).for_each(|(&at, &new)| fresh[at as usize] = new);
            staged.publish().expect("room on the disk");
        }
        fresh
    }

    /// Every row of the archive, a line each, in the order of the files.
    fn rows(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for partition in self.archive.partitions(&self.schema).expect("a folder") {
            for (_, path) in self.archive.parts(&partition).expect("a folder") {
                let part = self.archive.hold(&path).and_then(|file| file.part(&self.schema)).expect("a part");
                for batch in part.batches(None) {
                    let batch = batch.expect("a batch");
                    lines.extend((0..batch.num_rows()).map(|row| line(partition.date, &batch.slice(row, 1))));
                }
            }
        }
        lines
    }
}

/// What a row is known by: id, at, twin, and all of it where it has no time.
type Key = (u32, Option<u32>, Option<u32>, Option<Tuple>);

/// A naive model: what an archive has to hold.
#[derive(Default)]
struct Model(BTreeMap<Key, Tuple>);

impl Model {
    fn publish(&mut self, rows: &[Tuple]) -> Vec<bool> {
        let known: Vec<_> = self.0.keys().copied().collect();
        let mut fresh = vec![false; rows.len()];
        for (row, new) in rows.iter().zip(&mut fresh) {
            let key = (row.0, row.1, row.2, row.1.is_none().then_some(*row));
            *new = !known.contains(&key) && !self.0.contains_key(&key);
            match self.0.get(&key) {
                Some(old) if old.3 > row.3 => (),
                _ => drop(self.0.insert(key, *row)),
            }
        }
        fresh
    }

    /// Sorted by day, then as a part is.
    fn rows(&self, schema: &Arc<Schema>) -> Vec<String> {
        let mut rows: Vec<&Tuple> = self.0.values().collect();
        let day = |row: &Tuple| date(row.1.unwrap_or(row.3));
        // Without a time, what the rows say orders them: the list says nothing that the value does not.
        let untimed = |row: &Tuple| row.1.is_none().then_some((row.3, row.4));
        rows.sort_by_key(|row| (day(row), row.0, row.1, row.2, untimed(row)));
        rows.iter().map(|row| line(day(row), &batch(schema, &[**row]))).collect()
    }
}

fn line(day: NaiveDate, row: &arrow_array::RecordBatch) -> String {
    format!("{day} {:?}", row.columns()).replace(char::is_whitespace, "")
}

/// Shows the first difference only.
fn assert_same(left: &[String], right: &[String]) {
    let differ = left.iter().zip(right).find(|(left, right)| left != right);
    assert_eq!((left.len(), differ), (right.len(), None));
}

fn batch(schema: &Arc<Schema>, rows: &[Tuple]) -> arrow_array::RecordBatch {
    let plan = Plan::new(Arc::clone(schema));
    let (mut columns, mut row) = (Columns::new(Arc::clone(schema)), Row::default());
    for (id, at, twin, seen, value) in rows {
        let at = at.map_or("null".to_owned(), |at| format!("{:?}", clock::format_timestamp(hour(at))));
        let twin = twin.map_or("null".to_owned(), |twin| twin.to_string());
        let seen = clock::format_timestamp(hour(*seen));
        let apps = if value % 3 == 0 { "null".to_owned() } else { format!("[{{\"name\":\"n{value}\"}},null]") };
        let body =
            format!(r#"{{"id":"d{id:03}","at":{at},"twin":{twin},"seen":"{seen}","value":{value},"apps":{apps}}}"#);
        plan.flatten(body.as_bytes(), &mut row).expect("a row");
        columns.push(&row);
    }
    columns.finish()
}

fn hour(at: u32) -> Timestamp {
    clock::from_micros(i64::from(at) * 3_600_000_000).expect("a timestamp")
}

fn epoch() -> Timestamp {
    hour(0)
}

fn date(hours: u32) -> NaiveDate {
    hour(hours).date_naive()
}

fn rows() -> impl Strategy<Value = Vec<Tuple>> {
    let row = (0..6_u32, prop::option::weighted(0.9, 0..60_u32), prop::option::of(0..2_u32), 0..60_u32, 0..1_000_u32);
    prop::collection::vec(row, 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_publishes_leave_what_the_model_holds(publishes in prop::collection::vec(rows(), 1..6)) {
        compare_with_model(&publishes);
    }

    #[test]
    fn parts_of_a_day_become_one_in_order(rows in rows(), parts in 1..5_u32, at_once in 1..5_usize) {
        interleave(&rows, parts, at_once);
    }
}

/// Brings rows that stand in several parts, each in order, into one, so many rows of a part at once.
fn interleave(rows: &[Tuple], parts: u32, at_once: usize) {
    let (bench, mut model) = (Bench::new(), Model::default());
    model.publish(rows);
    let mut all: Vec<Tuple> = model.0.into_values().collect();
    all.sort_unstable_by_key(|row| (row.0, row.1, row.2, row.1.is_none().then_some((row.3, row.4))));
    let of_part = |part| all.iter().filter(|row| row.4 % parts == part).copied().collect();
    let divided: Vec<Vec<Tuple>> = (0..parts).map(of_part).collect();
    let batches = divided
        .iter()
        .map(|rows| -> Batches<'_> { Box::new(rows.chunks(at_once).map(|rows| Ok(batch(&bench.schema, rows)))) });
    let failed = |error: ArrowError| ArchiveError::Incoming(error.to_string().into());
    let one = Interleaved::new(&bench.schema, batches, &failed);
    let path = bench.dir.path().join("one.parquet");
    let writer = write::PartWriter::create(&Disk::default(), &path, &bench.schema, all.len()).expect("room");
    merge::Merge::new(&bench.schema, Box::new(one), writer).finish().expect("room");
    let part = Part::open(&path, &bench.schema).expect("a part");
    let batches = part.batches(None).map(|batch| batch.expect("rows"));
    let found: Vec<String> = batches
        .flat_map(|batch| (0..batch.num_rows()).map(|at| line(date(0), &batch.slice(at, 1))).collect::<Vec<_>>())
        .collect();
    let expected: Vec<String> = all.iter().map(|row| line(date(0), &batch(&bench.schema, &[*row]))).collect();
    assert_same(&found, &expected);
}

fn compare_with_model(publishes: &[Vec<Tuple>]) {
    for bench in [Bench::new(), Bench::in_bucket()] {
        let mut model = Model::default();
        for rows in publishes {
            assert_eq!(bench.publish(rows), model.publish(rows), "which rows are new");
            assert_same(&bench.rows(), &model.rows(&bench.schema));
        }
    }
}

#[test]
fn of_two_who_write_a_day_of_a_bucket_at_once_nobody_loses_a_row() {
    let (bench, mut model) = (Bench::in_bucket(), Model::default());
    let lock = bench.archive.lock(0, "test").expect("the lock");
    // With and without a part that is there already.
    for round in 0..2 {
        let rows = |id: u32| [(id, Some(1), None, 1, round), (id + 1, Some(1), None, 2 + id, round)];
        let stage = |id: u32| {
            let batch = batch(&bench.schema, &rows(id));
            let elsewhere = bench.dir.path().join(format!("other-{id}"));
            let place = Archive { own: elsewhere, ..bench.archive.clone() };
            place.stage(&lock, &bench.schema, date(0), Incoming::new(&bench.schema, &batch, &[0, 1]))
        };
        let staged: Vec<Staged> = (0..3).map(|id| stage(10 * round + id).expect("room on the disk")).collect();
        for (id, staged) in (0..).zip(staged) {
            staged.publish().expect("a bucket");
            model.publish(&rows(10 * round + id));
        }
        assert_same(&bench.rows(), &model.rows(&bench.schema));
    }
}

#[test]
fn a_part_of_a_bucket_that_is_replaced_while_it_is_read_is_told() {
    let bench = Bench::in_bucket();
    let many: Vec<Tuple> = (0..40_000_u32).map(|n| (n % 200, Some(n / 10_000), Some(n), 1, n)).collect();
    bench.publish(&many);
    let day = bench.archive.partitions(&bench.schema).expect("a folder").remove(0);
    let (_, path) = bench.archive.parts(&day).expect("a folder").remove(0);
    let part = bench.archive.look(&path, &bench.schema).expect("a part");
    let scan = Scan { columns: [0, 1, 4].into(), any_of: Some((0, vec!["d017".to_owned()])), within: None };
    let local = Bench::new();
    local.publish(&many);
    let (_, same) = local.archive.parts(&day).expect("a folder").remove(0);
    let same = local.archive.look(&same, &local.schema).expect("a part");
    assert_eq!(scanned(&part, &scan).0, scanned(&same, &scan).0, "read by range as from a file");
    bench.publish(&[(500, Some(1), None, 1, 1)]);
    let read: Result<Vec<_>, _> = part.batches(Some(&scan)).collect();
    assert!(read.expect_err("another part is there").is_replaced());
}

#[test]
fn a_state_folder_serves_one_archive() {
    let bench = Bench::in_bucket();
    let lock = || bench.archive.lock_shards(Shards::All, "test").map(drop);
    lock().expect("room on the disk");
    let claim = bench.archive.state_dir().join("archive-url");
    assert_eq!(fs::read_to_string(&claim).expect("a file"), "memory://test\n");
    lock().expect("it is its own");
    put(&claim, b"s3://another/archive\n");
    let said = lock().expect_err("another's").to_string();
    assert!(
        said.ends_with("is the state of s3://another/archive: name another --state-dir for this archive"),
        "{said}"
    );
}

#[test]
fn a_part_longer_than_a_batch_is_merged_in_order() {
    let many = |from: u32| (0..20_000_u32).map(move |n| (n % 200, Some(20), Some(n / 200), from, n));
    let (bench, mut model) = (Bench::new(), Model::default());
    let publishes: [Vec<Tuple>; 2] = [many(1).step_by(2).collect(), many(2).step_by(3).collect()];
    for rows in &publishes {
        assert_eq!(bench.publish(rows), model.publish(rows));
    }
    assert_same(&bench.rows(), &model.rows(&bench.schema));
}

#[test]
fn a_publish_gives_a_new_name_and_leaves_one_part() {
    let bench = Bench::new();
    bench.publish(&[(1, Some(1), None, 1, 1)]);
    let day = bench.archive.partitions(&bench.schema).expect("a folder").remove(0);
    let names = |bench: &Bench| paths::names(&day.dir(bench.archive.root())).expect("a folder");
    assert_eq!(names(&bench), ["part-0-000001.parquet"]);
    bench.publish(&[(2, Some(2), None, 1, 1)]);
    assert_eq!(names(&bench), ["part-0-000002.parquet"]);
    assert_eq!(paths::names(&paths::staging(bench.archive.state_dir(), 0)).expect("a folder"), Vec::<String>::new());
}

#[test]
fn a_folder_that_a_reader_has_open_still_lists_its_part() {
    let mut bench = Bench::new();
    bench.archive.linger = staging::LINGER;
    bench.publish(&[(1, Some(1), None, 1, 1)]);
    let day = bench.archive.partitions(&bench.schema).expect("a folder").remove(0).dir(bench.archive.root());
    let open = fs::read_dir(&day).expect("a folder");
    bench.publish(&[(2, Some(2), None, 1, 1)]);
    bench.publish(&[(3, Some(3), None, 1, 1)]);
    let listed: Vec<_> = open.map(|entry| entry.expect("an entry").file_name()).collect();
    assert_eq!(listed, ["part-0-000001.parquet"]);
    let staging = paths::staging(bench.archive.state_dir(), 0);
    let left = || paths::names(&staging).expect("a folder").len();
    assert_eq!(left(), 2, "both former versions linger");
    drop(bench.archive.lock(0, "the next writer").expect("the lock"));
    bench.archive.clear_staging(0).expect("room on the disk");
    assert_eq!(left(), 2, "also when a writer starts right after");
    bench.archive.linger = Duration::ZERO;
    bench.publish(&[(4, Some(4), None, 1, 1)]);
    assert_eq!(left(), 0, "and then they go");
}

#[test]
fn without_exchange_the_new_part_comes_and_the_old_one_goes() {
    let (mut bench, mut model) = (Bench::new(), Model::default());
    bench.archive.store = Arc::new(folder::Folder::without_exchange(bench.archive.root()));
    for rows in [[(1, Some(1), None, 1, 1)], [(2, Some(2), None, 1, 1)], [(1, Some(1), None, 3, 9)]] {
        bench.publish(&rows);
        model.publish(&rows);
        assert_same(&bench.rows(), &model.rows(&bench.schema));
    }
    let day = bench.archive.partitions(&bench.schema).expect("a folder").remove(0);
    assert_eq!(paths::names(&day.dir(bench.archive.root())).expect("a folder"), ["part-0-000003.parquet"]);
}

#[test]
fn other_shards_and_other_peoples_files_stay() {
    let bench = Bench::new();
    bench.publish(&[(1, Some(1), None, 1, 1)]);
    let day = bench.archive.partitions(&bench.schema).expect("a folder").remove(0).dir(bench.archive.root());
    for name in ["part-1-000007.parquet", "notes.txt"] {
        fs::copy(day.join("part-0-000001.parquet"), day.join(name)).expect("room on the disk");
    }
    fs::create_dir(day.join("odd")).expect("room on the disk");
    bench.publish(&[(2, Some(2), None, 1, 1)]);
    let mut names = paths::names(&day).expect("a folder");
    names.sort();
    assert_eq!(names, ["notes.txt", "part-0-000002.parquet", "part-1-000007.parquet"]);
    let kept = bench.archive.quarantine_dir().join("t.date=1970-01-01.0/odd");
    assert!(kept.is_dir(), "a folder of somebody else's is kept aside");
}

#[test]
fn what_is_staged_and_dropped_changes_nothing() {
    let (bench, mut model) = (Bench::new(), Model::default());
    let rows = [(1, Some(1), None, 1, 1)];
    bench.publish(&rows);
    model.publish(&rows);
    let lost = batch(&bench.schema, &[(2, Some(2), None, 2, 2)]);
    {
        let lock = bench.archive.lock(0, "test").expect("the lock");
        drop(
            bench
                .archive
                .stage(&lock, &bench.schema, date(0), Incoming::new(&bench.schema, &lost, &[0]))
                .expect("room on the disk"),
        );
    }
    assert_same(&bench.rows(), &model.rows(&bench.schema));
    bench.archive.clear_staging(0).expect("room on the disk");
    bench.publish(&rows);
    assert_same(&bench.rows(), &model.rows(&bench.schema));
}

/// A day of 40 ids with 2,500 rows each: four row groups, and pages of less than an id.
fn large_day() -> (Bench, PathBuf) {
    let bench = Bench::new();
    let rows = (0..100_000_u32).map(|n| (n / 2_500, Some(1 + n % 2_500 / 125), Some(n % 125), 0, n));
    bench.publish(&rows.collect::<Vec<_>>());
    let partition = bench.archive.partitions(&bench.schema).expect("a folder").remove(0);
    let (_, path) = bench.archive.parts(&partition).expect("a folder").remove(0);
    (bench, path)
}

/// The rows that a scan asks for, of those that it reads; and how many it reads.
fn scanned(part: &Part, scan: &Scan) -> (Vec<String>, usize) {
    let mut read = 0;
    let batches = part.batches(Some(scan)).map(|batch| batch.expect("a batch"));
    let rows: Vec<String> = batches
        .flat_map(|batch| {
            read += batch.num_rows();
            rows_of(&batch, scan)
        })
        .collect();
    (rows, read)
}

fn rows_of(batch: &arrow_array::RecordBatch, scan: &Scan) -> Vec<String> {
    wanted(batch, scan).into_iter().map(|row| line(NaiveDate::default(), &batch.slice(row, 1))).collect()
}

fn wanted(batch: &arrow_array::RecordBatch, scan: &Scan) -> Vec<usize> {
    use arrow_array::cast::AsArray;
    let ids = batch.column(0).as_string::<i32>();
    let times = batch.column(1).as_primitive::<arrow_array::types::TimestampMicrosecondType>();
    let is_wanted = |row: &usize| {
        scan.any_of.as_ref().is_none_or(|(_, any)| any.iter().any(|id| id == ids.value(*row)))
            && scan.within.as_ref().is_none_or(|(_, within)| within.contains(&times.value(*row)))
    };
    (0..batch.num_rows()).filter(is_wanted).collect()
}

#[test]
fn only_what_can_hold_a_value_is_read_by_the_outline_as_by_the_footer() {
    let (bench, path) = large_day();
    let (footer, outline) = (Part::open(&path, &bench.schema), bench.archive.look(&path, &bench.schema));
    let (footer, outline) = (footer.expect("a part"), outline.expect("a part"));
    assert_eq!((footer.groups(), footer.rows()), (4, 100_000), "even row groups");
    assert_eq!((outline.groups(), outline.rows()), (4, 100_000));
    assert_eq!(outline.provenance(), None, "it was opened without its footer");
    let hour = hour(1).timestamp_micros();
    let ids = |ids: &[&str]| Some((0, ids.iter().map(ToString::to_string).collect()));
    let cases = [
        (None, None, 100_000, 100_000, 4),
        (ids(&["d017"]), None, 2_500, 2_500, 1),
        (ids(&["d000", "d039"]), None, 5_000, 5_000, 2),
        (ids(&["d017", "none"]), Some((1, 3 * hour..4 * hour)), 125, 2 * 2_048, 1),
        (None, Some((1, 3 * hour..4 * hour)), 5_000, 100_000, 4),
        (ids(&["d"]), None, 0, 0, 0),
        (ids(&["e"]), None, 0, 0, 0),
        (None, Some((1, 30 * hour..31 * hour)), 0, 0, 0),
    ];
    for (any_of, within, rows, most_read, groups) in cases {
        let scan = Scan { columns: [0, 1, 2, 4, 5].into(), any_of, within };
        let (by_footer, _) = scanned(&footer, &scan);
        let (by_outline, read) = scanned(&outline, &scan);
        assert_same(&by_footer, &by_outline);
        assert_eq!(by_outline.len(), rows, "{scan:?}");
        assert_eq!((outline.pieces_of(&scan, 1).len(), footer.pieces_of(&scan, 1).len()), (groups, groups), "{scan:?}");
        assert!((rows..=most_read).contains(&read), "{read} rows read for {scan:?}");
        let all = Scan { columns: scan.columns.clone(), ..Scan::default() };
        let batches = footer.batches(Some(&all)).map(|batch| batch.expect("a batch"));
        assert_eq!(batches.map(|batch| wanted(&batch, &scan).len()).sum::<usize>(), rows);
    }
}

#[test]
fn pieces_have_every_row_once_and_in_order() {
    let (bench, path) = large_day();
    let (footer, outline) = (Part::open(&path, &bench.schema), bench.archive.look(&path, &bench.schema));
    let (footer, outline) = (footer.expect("a part"), outline.expect("a part"));
    let all = Scan { columns: (0..6).collect(), ..Scan::default() };
    let hour = hour(1).timestamp_micros();
    // A device of which rows are in two pieces, one of which pieces have all, and none.
    let ids = ["d001", "d017", "d018", "none"].map(str::to_owned).to_vec();
    let narrow = Scan { any_of: Some((0, ids)), within: Some((1, 3 * hour..9 * hour)), ..all.clone() };
    let scans = [&all, &narrow].map(|scan| (scan, scanned(&footer, scan).0));
    for part in [&footer, &outline] {
        for (most, pieces) in [(1, 4), (2, 8), (3, 12), (100, 20)] {
            let pieces_of = part.pieces_of(&all, most);
            assert_eq!(pieces_of.len(), pieces, "up to {most} of each of 4");
            for (scan, expected) in &scans {
                let read = |piece| part.piece(piece, Some(scan)).expect("a piece").map(|batch| batch.expect("a batch"));
                let batches: Vec<_> = pieces_of.iter().flat_map(read).collect();
                let found: Vec<_> = batches.iter().flat_map(|batch| rows_of(batch, scan)).collect();
                assert_same(&found, expected);
            }
        }
        assert_eq!(part.pieces_of(&narrow, 100).len(), 2, "of a few devices there is nothing to cut");
    }
}

#[test]
fn pieces_are_read_without_a_page_index_that_makes_no_sense() {
    let (bench, path) = large_day();
    let bytes = fs::read(&path).expect("a part");
    let (start, length) = {
        let footer = ParquetMetaDataReader::new().parse_and_finish(&Bytes::from(bytes.clone())).expect("a footer");
        let chunk = footer.row_group(1).column(4);
        let (start, length) = chunk.offset_index_offset().zip(chunk.offset_index_length()).expect("an index");
        (usize::try_from(start).expect("a place"), usize::try_from(length).expect("a length"))
    };
    // Pages that do not begin one after the other, by one bit; and what is no index at all.
    let with_bit = |bit: usize| {
        let mut bent = bytes.clone();
        bent[start + bit / 8] ^= 1 << (bit % 8);
        bent
    };
    let is_disorder = |bent: &Vec<u8>| first_rows(bent).is_some_and(|rows| !rows.is_sorted_by(|a, b| a < b));
    let mut bent: Vec<Vec<u8>> = (0..length * 8).map(with_bit).filter(is_disorder).take(3).collect();
    assert_eq!(bent.len(), 3);
    bent.push([&bytes[..start], &vec![0xff; length], &bytes[start + length..]].concat());
    let all = Scan { columns: (0..6).collect(), ..Scan::default() };
    let expected = scanned(&Part::open(&path, &bench.schema).expect("a part"), &all).0;
    for bent in bent {
        put(&path, &bent);
        let part = bench.archive.look(&path, &bench.schema).expect("a part");
        let pieces = part.pieces_of(&all, 2);
        let batches = pieces.iter().flat_map(|piece| part.piece(piece, Some(&all)).expect("a piece"));
        let found: Vec<String> = batches.flat_map(|batch| rows_of(&batch.expect("a batch"), &all)).collect();
        assert_same(&found, &expected);
    }
}

/// At which rows the pages begin of which the test above bends the places.
fn first_rows(part: &[u8]) -> Option<Vec<i64>> {
    let part = Bytes::copy_from_slice(part);
    let metadata = ParquetMetaDataReader::new().parse_and_finish(&part).ok()?;
    let reader = ParquetMetaDataReader::new_with_metadata(metadata);
    let (_, places) =
        reader.with_offset_index_policy(PageIndexPolicy::Required).read_page_index_and_finish(&part).ok()?;
    Some(places?.page_locations(1, 4)?.iter().map(|place| place.first_row_index).collect())
}

#[test]
fn rows_of_a_device_are_found_in_each_row_group_that_has_some() {
    let bench = Bench::new();
    // Row groups of 25,000 rows, and devices of 3,500, but for the last.
    let rows = |n: u32| (n / 3_500, Some(1 + n % 3_500 / 175), Some(n % 175), 0, n);
    bench.publish(&(0..100_000).map(rows).collect::<Vec<_>>());
    let partition = bench.archive.partitions(&bench.schema).expect("a folder").remove(0);
    let (_, path) = bench.archive.parts(&partition).expect("a folder").remove(0);
    let (footer, outline) = (Part::open(&path, &bench.schema), bench.archive.look(&path, &bench.schema));
    let (footer, outline) = (footer.expect("a part"), outline.expect("a part"));
    for ids in [vec!["d007"], vec!["d000", "d007", "d028", "none"], vec!["d004", "d005", "d006", "d007"]] {
        let any_of = Some((0, ids.iter().map(ToString::to_string).collect()));
        for columns in [[0, 1, 4], [0, 1, 5], [1, 2, 4]] {
            let scan = Scan { columns: columns.into(), any_of: any_of.clone(), within: None };
            let all = |part: &Part| part.batches(Some(&scan)).map(|batch| batch.expect("a batch")).collect::<Vec<_>>();
            let (by_index, by_pages) = (all(&outline), all(&footer));
            let ids_of = Scan { columns: (0..6).collect(), ..scan.clone() };
            let expected = scanned(&footer, &ids_of).0.len();
            assert_eq!(by_index.iter().map(arrow_array::RecordBatch::num_rows).sum::<usize>(), expected, "{scan:?}");
            assert!(by_pages.iter().map(arrow_array::RecordBatch::num_rows).sum::<usize>() > expected);
            if columns[0] == 0 {
                assert_same(&scanned(&outline, &scan).0, &scanned(&footer, &scan).0);
            }
        }
        // The column that is known, and no other.
        let scan = Scan { columns: [0].into(), any_of, within: None };
        let rows = outline.batches(Some(&scan)).map(|batch| batch.expect("a batch").num_rows()).sum::<usize>();
        let of = |id: &&str| match *id {
            "none" => 0,
            "d028" => 2_000,
            _ => 3_500,
        };
        assert_eq!(rows, ids.iter().map(of).sum::<usize>());
    }
}

#[test]
fn rows_get_no_others_id_where_the_footer_is_bent() {
    let (bench, path) = large_day();
    let mut bytes = fs::read(&path).expect("a part");
    // `RowGroup.num_rows` of the last of four: a field of type i64, the next after another, 25,000 as a zigzag varint.
    let rows = bytes.windows(4).rposition(|window| window == [0x16, 0xd0, 0x86, 0x03]).expect("a row group");
    bytes[rows + 1] ^= 1;
    let path = bench.dir.path().join("bent.parquet");
    put(&path, &bytes);
    let most = (31..40).map(|id| format!("d{id:03}")).collect();
    let scan = Scan { columns: [0, 4].into(), any_of: Some((0, most)), within: None };
    let part = bench.archive.look(&path, &bench.schema).expect("a part");
    assert!(
        part.batches(Some(&scan)).next().expect("an error").is_err(),
        "it is damaged, and that is seen before a row is read"
    );
}

#[test]
fn a_part_that_was_replaced_meanwhile_is_found_by_its_successor() {
    let bench = Bench::new();
    bench.publish(&[(1, Some(1), None, 1, 1)]);
    let (path, _) = bench.only_part();
    bench.publish(&[(2, Some(1), None, 1, 2)]);
    assert!(!path.exists());
    assert_eq!(bench.archive.look(&path, &bench.schema).expect("a part").rows(), 2);
    let strange = path.with_file_name("part-1-000001.parquet");
    let said = bench.archive.look(&strange, &bench.schema).expect_err("no part of that shard").to_string();
    assert!(said.contains("part-1-000001.parquet"), "{said}");
}

#[test]
fn an_outline_that_is_bent_or_gone_is_not_believed() {
    let (bench, path) = large_day();
    let bytes = fs::read(&path).expect("a part");
    let start = bytes.windows(11).rposition(|window| window == b"{\"schema\":\"").expect("an outline");
    let end = bytes.windows(4).rposition(|window| window == b"DXO1").expect("its end") + 4;
    let scan = Scan { columns: [0, 1].into(), any_of: Some((0, vec!["d017".to_owned()])), within: None };
    let opens_by_footer = |bytes: &[u8]| {
        let path = bench.dir.path().join("bent.parquet");
        put(&path, bytes);
        let part = bench.archive.look(&path, &bench.schema).expect("a part");
        assert_ne!(part.provenance(), None, "it was opened by its footer");
        assert_eq!(scanned(&part, &scan).0.len(), 2_500);
    };
    for place in (start..end).step_by(7).chain(end - 16..end) {
        let mut bent = bytes.clone();
        bent[place] ^= 1;
        opens_by_footer(&bent);
    }
    opens_by_footer(&[&bytes[..start], &bytes[end..]].concat());
    // The indexes of keys stand in front of it: where one is bent, pages are looked for by their bounds.
    let (path, first) = (bench.dir.path().join("bent.parquet"), start - 4 * 10 * 20);
    for (place, bent) in [(first - 1, false), (first, true), (start - 1, true)] {
        let mut bytes = bytes.clone();
        bytes[place] ^= 1;
        put(&path, &bytes);
        for (id, is_bent) in [("d003", bent && place == first), ("d037", bent && place > first)] {
            let scan = Scan { any_of: Some((0, vec![id.to_owned()])), ..scan.clone() };
            let (rows, read) = scanned(&bench.archive.look(&path, &bench.schema).expect("a part"), &scan);
            assert_eq!((rows.len(), read > 2_500), (2_500, is_bent), "{id} where {place} is bent");
        }
    }
}

#[test]
fn a_column_that_came_later_is_null_in_older_parts() {
    let bench = Bench::new();
    bench.publish(&[(1, Some(1), None, 1, 1)]);
    let more =
        "\n[[column]]\nname = \"extra\"\ntype = \"string\"\nrole = \"label\"\nsince = 2\ndescription = \"New.\"\n";
    let newer = Schema::parse(&format!("{TABLE}{more}")).expect("a schema");
    let day = bench.archive.partitions(&newer).expect("a folder").remove(0);
    let (_, path) = bench.archive.parts(&day).expect("a folder").remove(0);
    let batch = Part::open(&path, &newer).expect("a part").batches(None).next().expect("a batch");
    let batch = batch.expect("a batch");
    assert_eq!(batch.column_by_name("extra").expect("a column").null_count(), 1);
    let scan = Scan { columns: [0, 6].into(), ..Scan::default() };
    let part = bench.archive.look(&path, &newer).expect("a part");
    let looked = part.batches(Some(&scan)).next().expect("a batch").expect("a batch");
    assert_eq!(looked.column_by_name("extra").expect("a column").null_count(), 1);
    let older = Schema::parse(&TABLE.replace("value", "other")).expect("a schema");
    let said = Part::open(&path, &older).expect_err("an error").to_string();
    assert!(
        said.contains("has a column \"value\" that is not as in this version's schema: use a newer dex-archive"),
        "{said}"
    );
}

#[test]
fn says_what_is_wrong_with_a_path() {
    let bench = Bench::new();
    let said = |path: &Path| Archive::open(path).expect_err("an error").to_string();
    let root = bench.dir.path();
    assert!(said(&root.join("none")).ends_with("none is no archive: `collect` or `import` makes one there"));
    let file = root.join("file");
    fs::File::create(&file).expect("room on the disk");
    assert!(said(&file).ends_with("file is a file: an archive is a folder"));
    assert!(said(root).ends_with("is not empty and no archive: name an empty or a new folder"));
    let description = paths::description(bench.archive.root());
    for (text, expect) in [
        ("{\"format\":2,\"odd\":1}", "has format 2, this version reads 1: use the newer dex-archive"),
        (
            "{\"format\":1}",
            "is damaged: not the JSON it was written as, at line 1 column 12; restore it, or write {\"format\":1,\"shards\":1} into it",
        ),
        (
            "",
            "is damaged: not the JSON it was written as, at line 1 column 0; restore it, or write {\"format\":1,\"shards\":1} into it",
        ),
    ] {
        bench.archive.write_durably(0, &description, text.as_bytes()).expect("room on the disk");
        assert!(said(bench.archive.root()).ends_with(expect), "{}", said(bench.archive.root()));
    }
}

fn checksum(path: &Path) -> Checksum {
    PartFile::open(path).and_then(|file| file.checksum()).expect("a file")
}

#[test]
fn a_part_carries_a_checksum_over_all_of_it() {
    let bench = Bench::new();
    bench.publish(&[(1, Some(1), None, 1, 1), (2, Some(2), None, 1, 7)]);
    let (path, bytes) = bench.only_part();
    assert_eq!(checksum(&path), Checksum::Right);
    for at in 0..bytes.len() {
        let mut bent = bytes.clone();
        bent[at] ^= 1 << (at % 8);
        put(&path, &bent);
        assert_ne!(checksum(&path), Checksum::Right, "flipped at {at}");
    }
    put(&path, &bytes[..bytes.len() - 1]);
    assert_eq!(checksum(&path), Checksum::Missing);
}

#[test]
fn of_a_bent_part_what_can_be_read_stays_and_the_part_is_kept_aside() {
    // The decoder's panics on what makes no sense are caught; here they need not be seen.
    std::panic::set_hook(Box::new(|_| ()));
    let rows: Vec<Tuple> = (0..40).map(|n| (n % 7, Some(n / 7), None, 1, n)).collect();
    let (mut kept_all, mut lost_some) = (0, 0);
    for at in (0..).step_by(97) {
        let bench = Bench::new();
        bench.publish(&rows);
        let (path, mut bytes) = bench.only_part();
        if at >= bytes.len() {
            break;
        }
        bytes[at] ^= 1 << (at % 8);
        put(&path, &bytes);
        bench.publish(&[(9, Some(1), None, 1, 9)]);
        let quarantine = bench.archive.quarantine_dir();
        let kept = quarantine.join("t.1970-01-01.part-0-000001.parquet.0");
        assert_eq!(fs::read(kept).expect("the bent part is kept"), bytes, "flipped at {at}");
        let report = quarantine.join("t.1970-01-01.part-0-000001.parquet.0.report.json");
        assert!(fs::read_to_string(report).expect("a report").contains("\"cause\""));
        let (path, _) = bench.only_part();
        assert_eq!(checksum(&path), Checksum::Right);
        match bench.rows().len() {
            41 => kept_all += 1,
            // A bent time may lie in another day: then that row alone is not where it belongs.
            1..=40 => lost_some += 1,
            other => panic!("flipped at {at}: {other} rows"),
        }
    }
    drop(std::panic::take_hook());
    assert!(kept_all > 5 && lost_some > 5, "{kept_all} {lost_some}");
}

#[test]
fn a_bent_part_is_read_or_refused_and_never_ends_the_program() {
    std::panic::set_hook(Box::new(|_| ()));
    let bench = Bench::new();
    // As many of each device as an index of keys is written for.
    bench.publish(&(0..140).map(|n| (n % 7, Some(n / 7), None, 1, n)).collect::<Vec<_>>());
    let (path, bytes) = bench.only_part();
    let footer = bytes.windows(4).rposition(|window| window == b"DXO1").expect("an outline");
    let mut refused = 0;
    for bit in 0..bytes.len() * 8 {
        let mut bent = bytes.clone();
        bent[bit / 8] ^= 1 << (bit % 8);
        put(&path, &bent);
        let read = Part::open(&path, &bench.schema).and_then(|part| part.batches(None).collect::<Result<Vec<_>, _>>());
        refused += usize::from(read.is_err());
        // No hash is over the footer itself.
        if bit % 5 > 0 && bit / 8 < footer {
            continue;
        }
        let scan = Scan { columns: [0, 4].into(), any_of: Some((0, vec!["d003".to_owned()])), within: None };
        let looked = bench.archive.look(&path, &bench.schema).map(|part| part.batches(Some(&scan)).count());
        assert!(looked.unwrap_or(0) <= 1_000, "bit {bit}");
    }
    drop(std::panic::take_hook());
    assert!(refused * 4 > bytes.len(), "{refused} of {}", bytes.len() * 8);
}

#[test]
fn what_stands_behind_a_bent_place_is_carried_over() {
    // In the dictionary of the first column, every page of the row group needs it.
    carried_over(23_334, |_| 40);
    // In a page, it is the rows that are read at once.
    carried_over(8_192, |part| {
        let metadata = ParquetMetaDataReader::new().parse_and_finish(part).expect("a footer");
        let reader = ParquetMetaDataReader::new_with_metadata(metadata);
        let reader = reader.with_offset_index_policy(PageIndexPolicy::Required);
        let (_, places) = reader.read_page_index_and_finish(part).expect("the places of pages");
        let of_values = places.expect("the places of pages").page_locations(1, 4).expect("a column").clone();
        usize::try_from(of_values[6].offset).expect("a small file")
    });
}

#[test]
fn a_part_beside_the_newest_goes_only_where_it_has_nothing_better() {
    for (seen, stays) in [(1, false), (2, false), (3, true)] {
        let (bench, other) = (Bench::new(), Bench::new());
        bench.publish(&[(1, Some(1), None, 2, 1), (2, Some(1), None, 2, 1)]);
        other.publish(&[(1, Some(1), None, seen, 7)]);
        let beside = bench.only_part().0.with_file_name("part-0-000000.parquet");
        put(&beside, &other.only_part().1);
        bench.publish(&[(3, Some(1), None, 2, 1)]);
        assert_eq!(beside.exists(), stays, "collected at {seen}");
    }
}

#[test]
fn places_of_pages_that_make_no_sense_cost_no_row() {
    let bench = Bench::new();
    let rows: Vec<Tuple> = (0..70_000).map(|n| (n / 100, Some(1), Some(n % 100), 1, n * 7_919 % 65_537)).collect();
    bench.publish(&rows);
    let (path, mut bytes) = bench.only_part();
    let metadata = ParquetMetaDataReader::new().parse_and_finish(&bytes::Bytes::from(bytes.clone())).expect("a footer");
    for column in metadata.row_group(0).columns() {
        let place = usize::try_from(column.offset_index_offset().expect("an index")).expect("a small file");
        bytes[place..place + 4].fill(0xff);
    }
    put(&path, &bytes);
    let lock = bench.archive.lock(0, "test").expect("the lock");
    let staged = bench.archive.stage_anew(&lock, &bench.schema, date(0)).expect("room on the disk");
    let said = staged.damage().expect("damage");
    assert!(said.contains("all of its rows were carried over"), "{said}");
    staged.publish().expect("room on the disk");
    assert_eq!(bench.rows().len(), 70_000);
}

/// Bends the byte at a place of a day of 70,000 rows, and merges one more row into it.
fn carried_over(lost: usize, place: impl Fn(&bytes::Bytes) -> usize) {
    let bench = Bench::new();
    let rows: Vec<Tuple> = (0..70_000).map(|n| (n / 100, Some(1), Some(n % 100), 1, n * 7_919 % 65_537)).collect();
    bench.publish(&rows);
    let (path, mut bytes) = bench.only_part();
    let place = place(&bytes.clone().into());
    bytes[place] ^= 0xff;
    put(&path, &bytes);
    let staged = {
        let lock = bench.archive.lock(0, "test").expect("the lock");
        let late = batch(&bench.schema, &[(0, Some(1), Some(0), 2, 1)]);
        bench
            .archive
            .stage(&lock, &bench.schema, date(0), Incoming::new(&bench.schema, &late, &[0]))
            .expect("room on the disk")
    };
    let said = staged.damage().expect("damage");
    let expect = format!("{lost} of its rows could not be carried over (`backfill");
    assert!(said.contains(&expect), "{said}");
    staged.publish().expect("room on the disk");
    // The row that comes in takes the place of one, unless that is lost.
    assert_eq!(bench.rows().len(), 70_000 - lost + usize::from(lost == 23_334));
}

#[test]
fn a_part_that_is_written_while_it_is_read_is_read_again() {
    let bucket = Bucket::in_memory();
    let (bench, other) = (Bench::in_this(&bucket), Bench::in_this(&bucket));
    let rows: Vec<Tuple> = (0..3_000).map(|n| (n, Some(1), None, 1, n * 7_919 % 65_537)).collect();
    bench.publish(&rows);
    let day = bench.archive.partitions(&bench.schema).expect("a bucket").remove(0);
    let (_, path) = bench.archive.parts(&day).expect("a bucket").remove(0);
    let (archive, schema) = (other.archive.clone(), Arc::clone(&other.schema));
    let (is_done, done) = std::sync::mpsc::channel::<()>();
    let reader = std::thread::spawn(move || {
        // Until the writer has ended, however it did.
        while done.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            let held = archive.hold(&path).expect("however often it is written");
            assert!(held.part(&schema).expect("a part").rows() >= 3_000);
        }
    });
    (0..40).for_each(|n| drop(bench.publish(&[(n, Some(1), None, 2, n)])));
    drop(is_done);
    reader.join().expect("no panic");
}

#[test]
fn rows_that_stand_out_of_order_are_sorted_in_again() {
    let bench = Bench::new();
    let rows: Vec<Tuple> = (0..30_000).map(|n| (n / 100, Some(1), Some(n % 100), 1, n)).collect();
    bench.publish(&rows);
    let (before, (path, _)) = (bench.rows(), bench.only_part());
    let orders: [fn(&mut Vec<Tuple>); 3] = [
        // As another tool may write them.
        |rows| rows.sort_by_key(|row| (row.4 * 7_919) % 30_011),
        // A key that is bent upwards, behind which all others seem to be out of order.
        |rows| rows.swap(10, 29_999),
        |rows| rows.insert(15_000, rows[14_999]),
    ];
    for order in orders {
        let mut rows = rows.clone();
        order(&mut rows);
        put(&path, &to_parquet(&batch(&bench.schema, &rows)).expect("Parquet"));
        let lock = bench.archive.lock(0, "test").expect("the lock");
        // What a salvage left that found no room.
        let left =
            bench.archive.unfinished_path(&paths::staging(&bench.archive.own, 0), "t.1970-01-01").expect("a path");
        drop(bench.archive.disk().create(&left).expect("room on the disk"));
        let staged = bench.archive.stage_anew(&lock, &bench.schema, date(0)).expect("room on the disk");
        let said = staged.damage().expect("damage");
        assert!(said.contains("all of its rows were carried over"), "{said}");
        staged.publish().expect("room on the disk");
        let (after, (newest, _)) = (bench.rows(), bench.only_part());
        assert!(after == before, "{} rows of {}", after.len(), before.len());
        bench.archive.disk().rename(&newest, &path).expect("our own folder");
        assert_eq!(bench.archive.staging_entries(0).expect("a folder"), Vec::<PathBuf>::new(), "nothing is left of it");
    }
}

#[test]
fn columns_that_another_tool_added_or_bent_cost_no_row() {
    let bench = Bench::new();
    bench.publish(&[(1, Some(1), None, 1, 1), (2, Some(1), None, 1, 1)]);
    let (path, _) = bench.only_part();
    let rows = batch(&bench.schema, &[(1, Some(1), None, 1, 1), (2, Some(1), None, 1, 1)]);
    let (schema, mut columns, _) = rows.into_parts();
    let mut fields: Vec<arrow_schema::Field> = schema.fields().iter().map(|field| (**field).clone()).collect();
    for (at, name) in [(fields.len(), "date"), (4, "value")] {
        let column: arrow_array::ArrayRef = Arc::new(arrow_array::StringArray::from(vec!["x", "y"]));
        let field = arrow_schema::Field::new(name, column.data_type().clone(), true);
        fields.splice(at..(at + 1).min(fields.len()), [field]);
        columns.splice(at..(at + 1).min(columns.len()), [column]);
    }
    let foreign = arrow_array::RecordBatch::try_new(Arc::new(arrow_schema::Schema::new(fields)), columns);
    put(&path, &to_parquet(&foreign.expect("a batch")).expect("Parquet"));
    let lock = bench.archive.lock(0, "test").expect("the lock");
    let late = batch(&bench.schema, &[(3, Some(1), None, 1, 1)]);
    let staged = bench.archive.stage(&lock, &bench.schema, date(0), Incoming::new(&bench.schema, &late, &[0]));
    let staged = staged.expect("room on the disk");
    let said = staged.damage().expect("what is passed over is told, and the part kept");
    assert!(said.contains(r#"its columns "value", "date" are not as ours"#), "{said}");
    staged.publish().expect("room on the disk");
    assert_eq!(bench.rows().len(), 3, "{:?}", bench.rows());
    let (path, _) = bench.only_part();
    assert_eq!(Part::open(&path, &bench.schema).expect("a part").groups(), 1);
}

#[test]
fn what_is_said_of_list_members_may_change() {
    let bench = Bench::new();
    bench.publish(&[(1, Some(1), None, 1, 1)]);
    let newer = Schema::parse(&TABLE.replace("\"Name.\"", "\"Name of the app.\"")).expect("a schema");
    let (path, _) = bench.only_part();
    let batch = Part::open(&path, &newer).expect("a part").batches(None).next().expect("a batch");
    assert_eq!(batch.expect("a batch").schema_ref(), newer.arrow());
}

#[test]
fn a_day_that_is_a_link_to_elsewhere_is_published_all_the_same() {
    let bench = Bench::new();
    bench.publish(&[(1, Some(1), None, 1, 1)]);
    let (path, bytes) = bench.only_part();
    let (day, elsewhere) = (path.parent().expect("a folder"), bench.dir.path().join("elsewhere"));
    bench.archive.disk.rename(day, &elsewhere).expect("a folder");
    std::os::unix::fs::symlink(&elsewhere, day).expect("a link");
    bench.publish(&[(2, Some(1), None, 1, 1)]);
    bench.publish(&[(3, Some(1), None, 1, 1)]);
    assert_eq!(bench.rows().len(), 3);
    let there = elsewhere.join("part-0-000001.parquet");
    assert_eq!(fs::read(there).expect("what the link led to stays"), bytes);
}

#[test]
fn a_publish_that_fails_gives_back_its_room() {
    let (mut bench, refused) = (Bench::new(), Arc::new(RefuseSync));
    bench.publish(&[(1, Some(1), None, 1, 1)]);
    bench.archive = bench.archive.clone().on(Disk::default().watched(refused));
    let lock = bench.archive.lock(0, "test").expect("the lock");
    let late = batch(&bench.schema, &[(2, Some(2), None, 2, 2)]);
    let said = bench
        .archive
        .stage(&lock, &bench.schema, date(0), Incoming::new(&bench.schema, &late, &[0]))
        .expect_err("refused")
        .to_string();
    assert!(said.starts_with("cannot sync ") && said.ends_with("free there"), "{said}");
    let staging = paths::staging(bench.archive.state_dir(), 0);
    assert_eq!(paths::names(&staging).expect("a folder"), Vec::<String>::new());
}

/// A disk that has no room left for what should become durable.
#[derive(Debug)]
struct RefuseSync;

impl crate::disk::Watch for RefuseSync {
    fn before(&self, change: &crate::disk::Change<'_>) -> io::Result<()> {
        match change {
            crate::disk::Change::Sync(_) => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }
}

impl Bench {
    /// The only part there is, and what it holds.
    fn only_part(&self) -> (PathBuf, Vec<u8>) {
        let day = self.archive.partitions(&self.schema).expect("a folder").remove(0);
        let (_, path) = self.archive.parts(&day).expect("a folder").remove(0);
        let bytes = fs::read(&path).expect("a file");
        (path, bytes)
    }
}

#[expect(clippy::disallowed_methods, reason = "a test bends a file")]
fn put(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).expect("a file");
}
