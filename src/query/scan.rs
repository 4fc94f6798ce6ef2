//! Reading the days of a window: piece by piece, side by side over the cores, each into a partial answer
//! of its own.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::thread;

use arrow_array::cast::AsArray;
use arrow_array::{BooleanArray, RecordBatch};
use arrow_select::filter::filter_record_batch;
use chrono::NaiveDate;

use crate::archive::{Archive, ArchiveError, Part, Partition, Piece, Scan, while_replaced};
use crate::schema::Schema;
use crate::snapshot::AccountId;

use super::side_by_side::side_by_side;
use super::{Window, column};

/// Threads that read at once at most.
const MOST_THREADS: usize = 8;

/// Threads that read at once from an object store: they wait more than they work.
const MOST_WAITING: usize = 16;

/// The days of an archive, as questions are asked of them.
#[derive(Debug)]
pub struct Days<'a> {
    archive: &'a Archive,
    skip_damaged: bool,
    /// Whose rows count; none for all.
    account: Option<AccountId>,
    /// How many read at once.
    threads: usize,
    skipped: Mutex<Vec<PathBuf>>,
    listed: Mutex<BTreeMap<String, Listing>>,
}

/// What was listed of a dataset.
#[derive(Debug)]
struct Listing {
    of: RangeInclusive<NaiveDate>,
    days: BTreeMap<Partition, Vec<PathBuf>>,
}

impl<'a> Days<'a> {
    /// The days of an archive. What is damaged is passed over with a warning if it may be, else it is an error.
    #[must_use]
    pub fn new(archive: &'a Archive, skip_damaged: bool) -> Self {
        let threads = if archive.is_on_disk() { threads() } else { MOST_WAITING };
        Self { archive, skip_damaged, account: None, threads, skipped: Mutex::default(), listed: Mutex::default() }
    }

    /// These days, as if there were no rows but an account's.
    #[must_use]
    pub fn of_account(self, account: Option<AccountId>) -> Self {
        Self { account, ..self }
    }

    /// Whose rows count; none for all.
    #[must_use]
    pub fn account(&self) -> Option<&AccountId> {
        self.account.as_ref()
    }

    /// The damaged parts of which rows were passed over.
    #[must_use]
    pub fn skipped(&self) -> Vec<PathBuf> {
        self.skipped.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Folds the batches of every day of a window that hold what a scan asks for: each piece into an
    /// accumulator of its own, and these, oldest day first and then by device, by `merge`.
    pub(super) fn fold<T: Send>(
        &self,
        schema: &Schema,
        window: Window,
        scan: &Scan,
        start: impl Fn() -> T + Sync,
        add: impl Fn(&mut T, &RecordBatch) + Sync,
        merge: impl FnMut(T),
    ) -> Result<(), ArchiveError> {
        let time = schema.partition_by[0];
        let scan = Scan { within: Some((time, window.micros())), ..scan.clone() };
        self.fold_all(schema, window, &scan, start, add, merge)
    }

    /// Folds all batches of the days of a window, rows of which no time is known included.
    pub(super) fn fold_all<T: Send>(
        &self,
        schema: &Schema,
        window: Window,
        scan: &Scan,
        start: impl Fn() -> T + Sync,
        add: impl Fn(&mut T, &RecordBatch) + Sync,
        mut merge: impl FnMut(T),
    ) -> Result<(), ArchiveError> {
        let read = |part: &Part, piece: &Piece| -> Result<T, ArchiveError> {
            let mut found = start();
            for batch in self.rows(schema, part, piece, scan)? {
                add(&mut found, &batch?);
            }
            Ok(found)
        };
        self.each_piece(&self.by_day(schema, window)?.concat(), schema, scan, read, &mut merge)
    }

    /// The rows of a piece of a part that can be what a scan asks for.
    pub(super) fn rows(
        &self,
        schema: &Schema,
        part: &Part,
        piece: &Piece,
        scan: &Scan,
    ) -> Result<Box<dyn Iterator<Item = Result<RecordBatch, ArchiveError>>>, ArchiveError> {
        let Some(account) = self.account.clone() else { return Ok(Box::new(part.piece(piece, Some(scan))?)) };
        let mut scan = scan.clone();
        let column = column(schema, "account_id");
        let is_wanted = !scan.columns.insert(column);
        let place = scan.columns.range(..column).count();
        Ok(Box::new(part.piece(piece, Some(&scan))?.map(move |batch| {
            let batch = batch?;
            let is_its = batch.column(place).as_string::<i32>().iter().map(|id| id == Some(account.as_str()));
            let is_its = is_its.map(Some).collect::<BooleanArray>();
            let mut rows = filter_record_batch(&batch, &is_its).expect("there is a yes or no for each row");
            if !is_wanted {
                rows.remove_column(place);
            }
            Ok(rows)
        })))
    }

    /// Reads those pieces of parts that can hold what a scan asks for, and hands over what was read, in the order of
    /// the parts and the pieces.
    pub(super) fn each_piece<T: Send>(
        &self,
        paths: &[PathBuf],
        schema: &Schema,
        scan: &Scan,
        read: impl Fn(&Part, &Piece) -> Result<T, ArchiveError> + Sync,
        take: impl FnMut(T),
    ) -> Result<(), ArchiveError> {
        let look = |path: &PathBuf| self.unless_damaged(self.archive.look(path, schema));
        if paths.len() >= 2 * self.threads || !self.archive.is_on_disk() {
            return self.by_part(paths, look, scan, read, take);
        }
        let parts = paths.iter().map(look).collect::<Result<Vec<_>, _>>()?;
        self.by_piece(&parts.into_iter().flatten().collect::<Vec<_>>(), scan, read, take)
    }

    /// There is enough to do for everybody, or parts may be replaced while they are read: each is opened and read in one
    /// go.
    fn by_part<T: Send>(
        &self,
        paths: &[PathBuf],
        look: impl Fn(&PathBuf) -> Result<Option<Part>, ArchiveError> + Sync,
        scan: &Scan,
        read: impl Fn(&Part, &Piece) -> Result<T, ArchiveError> + Sync,
        mut take: impl FnMut(T),
    ) -> Result<(), ArchiveError> {
        let once = |path: &PathBuf| {
            let part = look(path)?;
            let pieces =
                part.iter().flat_map(|part| part.pieces_of(scan, 1).into_iter().map(move |piece| (part, piece)));
            pieces.map(|(part, piece)| self.unless_damaged(read(part, &piece))).collect::<Result<Vec<_>, _>>()
        };
        side_by_side(
            self.threads,
            paths,
            |path| while_replaced(|| once(path)),
            |found| {
                found?.into_iter().flatten().for_each(&mut take);
                Ok(())
            },
        )
    }

    /// A few parts, of which the row groups come in pieces, for everybody has to have something to do. Of a row group of
    /// which a piece is damaged no other counts: what an answer lacks is the same wherever it is asked for.
    fn by_piece<T: Send>(
        &self,
        parts: &[Part],
        scan: &Scan,
        read: impl Fn(&Part, &Piece) -> Result<T, ArchiveError> + Sync,
        mut take: impl FnMut(T),
    ) -> Result<(), ArchiveError> {
        let pieces = parts.iter().enumerate().flat_map(|(at, part)| {
            let pieces = part.pieces_of(scan, self.threads);
            pieces.into_iter().map(move |piece| ((at, piece.group()), part, piece))
        });
        let pieces: Vec<((usize, usize), &Part, Piece)> = pieces.collect();
        // What was read of a row group; none where a piece of it is damaged.
        let (mut group, mut found) = (None, Some(Vec::new()));
        side_by_side(
            self.threads,
            &pieces,
            |(group, part, piece)| (*group, read(part, piece)),
            |(of, piece)| {
                if group.replace(of) != Some(of) {
                    found.replace(Vec::new()).into_iter().flatten().for_each(&mut take);
                }
                if let Some(mut pieces) = found.take() {
                    found = self.unless_damaged(piece)?.map(|piece| {
                        pieces.push(piece);
                        pieces
                    });
                }
                Ok(())
            },
        )?;
        found.into_iter().flatten().for_each(take);
        Ok(())
    }

    /// The parts of each day that a window touches, oldest first. Each day is listed once.
    pub(super) fn by_day(&self, schema: &Schema, window: Window) -> Result<Vec<Vec<PathBuf>>, ArchiveError> {
        let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        let touched = window.days();
        let wider = listed.get(&schema.dataset).map(|listing| {
            let (first, last) = (listing.of.start(), listing.of.end());
            *touched.start().min(first)..=*touched.end().max(last)
        });
        let of = wider.unwrap_or_else(|| touched.clone());
        if listed.get(&schema.dataset).is_none_or(|listing| listing.of != of) {
            let days = self.archive.days(schema, &of)?;
            for (partition, _) in days.iter().filter(|(_, parts)| parts.is_empty()) {
                tracing::warn!("{partition} has no part: its rows are not in this answer; run `dex-archive verify`");
            }
            listed.insert(schema.dataset.clone(), Listing { of, days });
        }
        let days = listed.get(&schema.dataset).into_iter().flat_map(|listing| &listing.days);
        let touched = days.filter(|(partition, _)| touched.contains(&partition.date));
        Ok(touched.map(|(_, parts)| parts.clone()).collect())
    }

    fn unless_damaged<T>(&self, read: Result<T, ArchiveError>) -> Result<Option<T>, ArchiveError> {
        match read {
            Err(ref error @ ArchiveError::Damaged { ref path, .. }) if self.skip_damaged => {
                let mut skipped = self.skipped.lock().unwrap_or_else(PoisonError::into_inner);
                // A report asks for the same part many times.
                if !skipped.contains(path) {
                    tracing::warn!("{error}; rows of it are not in this answer");
                    skipped.push(path.clone());
                }
                Ok(None)
            }
            read => read.map(Some),
        }
    }
}

/// How many can decode at once.
fn threads() -> usize {
    static THREADS: LazyLock<usize> =
        LazyLock::new(|| thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS));
    *THREADS
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::cast::AsArray;
    use arrow_array::types::Float64Type;
    use arrow_array::{ArrayRef, Float64Array, RecordBatch, StringArray, TimestampMicrosecondArray, new_null_array};

    use super::*;
    use crate::archive::{Incoming, Staged, partitions_of};
    use crate::clock;
    use crate::disk::Disk;
    use crate::query::{Agg, GapsOptions, QueryError, TrendOptions, Who, gaps, metrics, trend};

    const ROWS: i32 = 40_000;

    /// An archive of a day of two row groups, and its part.
    fn archive() -> (tempfile::TempDir, Archive, PathBuf) {
        let dir = tempfile::tempdir().expect("a folder");
        let schema = Schema::device_state();
        let now = clock::from_micros(1_000_000_000_000_000).expect("a time");
        let archive = Archive::open_or_create(&dir.path().join("a"), 1, now, Disk::default()).expect("an archive");
        let time = |row: i32| 1_759_276_800_000_000 + i64::from(row % 100) * 600_000_000;
        let columns = schema.arrow().fields().iter().map(|field| -> ArrayRef {
            let rows = 0..ROWS;
            match field.name().as_str() {
                "device_id" | "device_name" => {
                    Arc::new(StringArray::from_iter_values(rows.map(|row| format!("d{:05}", row / 100))))
                }
                "account_id" => Arc::new(StringArray::from_iter_values(rows.map(|_| "a"))),
                "timestamp" | "collected_at" => {
                    Arc::new(TimestampMicrosecondArray::from_iter_values(rows.map(time)).with_timezone("UTC"))
                }
                "cpu_pct" => {
                    Arc::new(Float64Array::from_iter_values(rows.map(|row| f64::from(row * row % 9_973) / 7.0)))
                }
                _ => new_null_array(field.data_type(), ROWS as usize),
            }
        });
        let rows = RecordBatch::try_new(Arc::clone(schema.arrow()), columns.collect()).expect("rows");
        let lock = archive.lock(0, "a test").expect("a lock");
        for (date, positions) in partitions_of(&schema, &rows) {
            let incoming = Incoming::new(&schema, &rows, &positions);
            archive.stage(&lock, &schema, date, incoming).and_then(Staged::publish).expect("a part");
        }
        let day = archive.partitions(&schema).expect("days").remove(0);
        let (_, part) = archive.parts(&day).expect("parts").remove(0);
        (dir, archive, part)
    }

    fn window() -> Window {
        let time = |text| clock::parse_timestamp(text).expect("a time");
        Window { since: time("2025-10-01T00:00:00Z"), until: time("2025-10-02T00:00:00Z") }
    }

    #[test]
    fn an_answer_is_the_same_on_any_number_of_processors() {
        let (_dir, archive, _) = archive();
        let metrics = metrics(&["cpu_pct".to_owned()]).expect("a metric");
        let every = std::time::Duration::from_hours(1);
        let (who, zone) = (Who::Fleet { by: None }, clock::Zone::UTC);
        let options = TrendOptions { who, metrics, window: window(), every, zone, aggs: Agg::ALL.to_vec() };
        let answer = |threads| trend(&Days { threads, ..Days::new(&archive, false) }, &options).expect("an answer");
        let alone = answer(1);
        assert!(alone.rows.len() > 10);
        for threads in [2, 3, 5, 64] {
            assert_eq!(format!("{:?}", answer(threads).rows), format!("{:?}", alone.rows), "{threads} threads");
        }
    }

    #[test]
    fn what_nobody_could_read_is_refused_before_it_is_made() {
        let (_dir, archive, _) = archive();
        let ask = |by: Option<&str>, every: u64, agg| {
            let who = Who::Fleet { by: by.map(str::to_owned) };
            let metrics = metrics(&["cpu_pct".to_owned()]).expect("a metric");
            let every = std::time::Duration::from_secs(every);
            let options =
                TrendOptions { who, metrics, window: window(), every, zone: clock::Zone::UTC, aggs: vec![agg] };
            trend(&Days::new(&archive, false), &options)
        };
        assert_eq!(ask(Some("device_id"), 86_400, Agg::Mean).expect("an answer").rows.len(), 400);
        assert!(matches!(ask(Some("device_id"), 1, Agg::Mean), Err(QueryError::Rows { buckets: 86_400, .. })));
        assert!(matches!(ask(None, 3_600, Agg::Rate), Err(QueryError::NoRate)));
        let wide = |names: &[&str], every: u64| {
            let metrics = metrics(&names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()).expect("metrics");
            let (who, every) = (Who::Fleet { by: Some("device_id".to_owned()) }, std::time::Duration::from_secs(every));
            let zone = clock::Zone::UTC;
            let options = TrendOptions { who, metrics, window: window(), every, zone, aggs: vec![Agg::Mean] };
            trend(&Days::new(&archive, false), &options)
        };
        assert!(matches!(wide(&["cpu_pct", "device_name"], 3_600), Ok(answer) if answer.columns.len() == 404));
        assert!(matches!(wide(&["cpu", "rtt", "battery"], 60), Err(QueryError::Metrics { .. })));
        assert!(matches!(wide(&["device_name"], 60), Err(QueryError::Cells { columns: 403, rows: 576_000 })));
        let missing = |every: u64| {
            let (every, zone, now) = (std::time::Duration::from_secs(every), clock::Zone::UTC, window().until);
            let options = GapsOptions { devices: None, window: window(), every, zone, now, known_until: now };
            gaps(&Days::new(&archive, false), &options)
        };
        assert!(missing(3_600).is_ok());
        assert!(matches!(missing(60), Err(QueryError::Intervals { intervals: 1_440, devices: 70.. })));
    }

    #[expect(clippy::disallowed_methods, reason = "a test bends a part")]
    #[test]
    fn of_a_damaged_row_group_nothing_counts_on_any_number_of_processors() {
        let (_dir, archive, path) = archive();
        let schema = Schema::device_state();
        let cpu = schema.index_of("cpu_pct").expect("a column");
        let bytes = std::fs::read(&path).expect("a part");
        let footer = parquet::file::metadata::ParquetMetaDataReader::new();
        let footer = footer.parse_and_finish(&bytes::Bytes::from(bytes.clone())).expect("a footer");
        // In the middle of the values of the first row group.
        let values = footer.row_group(0).columns().iter().find(|chunk| chunk.column_path().string() == "cpu_pct");
        let (start, length) = values.expect("a column").byte_range();
        let mut bent = bytes;
        let middle = usize::try_from(start + length / 2).expect("a place");
        bent[middle..middle + 2_000].fill(0xff);
        std::fs::write(&path, bent).expect("a file");
        let scan = Scan { columns: [cpu].into(), ..Scan::default() };
        let sum = |batch: &RecordBatch| batch.column(0).as_primitive::<Float64Type>().values().iter().sum::<f64>();
        let read = |threads| {
            let days = Days { threads, ..Days::new(&archive, true) };
            let (mut rows, mut all) = (0, 0.0);
            let add = |found: &mut (usize, f64), batch: &RecordBatch| {
                *found = (found.0 + batch.num_rows(), found.1 + sum(batch));
            };
            let merge = |found: (usize, f64)| (rows, all) = (rows + found.0, all + found.1);
            days.fold(&schema, window(), &scan, || (0, 0.0), add, merge).expect("an answer");
            (rows, all, days.skipped())
        };
        let (rows, _, skipped) = read(1);
        assert_eq!((rows, &skipped), (20_000, &vec![path]), "the other row group");
        for threads in [2, 3, 64] {
            let (again, _, skipped_again) = read(threads);
            assert_eq!((again, skipped_again), (rows, skipped.clone()), "{threads} threads");
        }
    }
}
