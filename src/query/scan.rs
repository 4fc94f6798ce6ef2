//! Reading the days of a window: piece by piece, side by side over the cores, each into a partial answer
//! of its own.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::thread;

use arrow_array::RecordBatch;
use chrono::NaiveDate;

use crate::archive::{Archive, ArchiveError, Part, Partition, Piece, Scan};
use crate::schema::Schema;

use super::Window;
use super::side_by_side::side_by_side;

/// Threads that read at once at most.
const MOST_THREADS: usize = 8;

/// Threads that read at once from an object store: they wait more than they work.
const MOST_WAITING: usize = 16;

/// How often a part is read anew that somebody replaces while it is read.
const MOST_AGAIN: u32 = 10;

/// The days of an archive, as questions are asked of them.
#[derive(Debug)]
pub struct Days<'a> {
    archive: &'a Archive,
    skip_damaged: bool,
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
        Self { archive, skip_damaged, skipped: Mutex::default(), listed: Mutex::default() }
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
        mut merge: impl FnMut(T),
    ) -> Result<(), ArchiveError> {
        let time = schema.partition_by[0];
        let scan = Scan { within: Some((time, window.micros())), ..scan.clone() };
        let read = |part: &Part, piece: &Piece| -> Result<T, ArchiveError> {
            let mut found = start();
            for batch in part.piece(piece, Some(&scan))? {
                add(&mut found, &batch?);
            }
            Ok(found)
        };
        self.each_piece(&self.by_day(schema, window)?.concat(), schema, &scan, read, &mut merge)
    }

    /// Reads those pieces of parts that can hold what a scan asks for, and hands over what was read, in the order of
    /// the parts and the pieces.
    pub(super) fn each_piece<T: Send>(
        &self,
        paths: &[PathBuf],
        schema: &Schema,
        scan: &Scan,
        read: impl Fn(&Part, &Piece) -> Result<T, ArchiveError> + Sync,
        mut take: impl FnMut(T),
    ) -> Result<(), ArchiveError> {
        let look = |path: &PathBuf| self.archive.look(path, schema);
        let threads = self.threads();
        if paths.len() >= 2 * threads || !self.archive.is_on_disk() {
            // Enough to do for everybody, or a part that may be replaced while it is read: each is opened and read in
            // one go.
            let once = |path: &PathBuf| {
                let part = self.unless_damaged(look(path))?;
                let pieces =
                    part.iter().flat_map(|part| part.pieces_of(scan, 1).into_iter().map(move |piece| (part, piece)));
                pieces.map(|(part, piece)| self.unless_damaged(read(part, &piece))).collect::<Result<Vec<_>, _>>()
            };
            let whole = |path: &PathBuf| {
                let mut again = (0..MOST_AGAIN).map(|_| once(path));
                let is_read = |read: &Result<_, ArchiveError>| !matches!(read, Err(error) if error.is_replaced());
                again.find(is_read).unwrap_or_else(|| once(path))
            };
            return side_by_side(threads, paths, whole, |found| {
                found?.into_iter().flatten().for_each(&mut take);
                Ok(())
            });
        }
        let parts = paths.iter().map(|path| self.unless_damaged(look(path))).collect::<Result<Vec<_>, _>>()?;
        let parts = parts.into_iter().flatten();
        let pieces = parts.flat_map(|part| {
            let part = Arc::new(part);
            part.pieces_of(scan, threads).into_iter().map(move |piece| (Arc::clone(&part), piece))
        });
        let pieces: Vec<(Arc<Part>, Piece)> = pieces.collect();
        side_by_side(
            threads,
            &pieces,
            |(part, piece)| read(part, piece),
            |found| {
                self.unless_damaged(found)?.into_iter().for_each(&mut take);
                Ok(())
            },
        )
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

    /// How many can read at once.
    fn threads(&self) -> usize {
        if self.archive.is_on_disk() { threads() } else { MOST_WAITING }
    }

    fn unless_damaged<T>(&self, read: Result<T, ArchiveError>) -> Result<Option<T>, ArchiveError> {
        match read {
            Err(error @ ArchiveError::Damaged { .. }) if self.skip_damaged => {
                tracing::warn!("{error}; rows of it are not in this answer");
                if let ArchiveError::Damaged { path, .. } = error {
                    self.skipped.lock().unwrap_or_else(PoisonError::into_inner).push(path);
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
