//! Reading the days of a window: side by side over the cores, each by its own partial answer.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use arrow_array::RecordBatch;

use crate::archive::{Archive, ArchiveError, Part, Scan};
use crate::schema::Schema;

use super::Window;

/// Threads that read at once at most.
const MOST_THREADS: usize = 8;

/// Folds the batches of every day of a window that hold what a scan asks for: each day into an accumulator
/// of its own, and these, oldest first, by `merge`.
pub(super) fn fold<T: Send>(
    archive: &Archive,
    schema: &Schema,
    window: Window,
    scan: &Scan,
    start: impl Fn() -> T + Sync,
    add: impl Fn(&mut T, &RecordBatch) + Sync,
    mut merge: impl FnMut(T),
) -> Result<(), ArchiveError> {
    let parts = parts(archive, schema, window)?;
    let read = |path: &PathBuf| -> Result<T, ArchiveError> {
        let mut found = start();
        for batch in Part::open(path, schema)?.batches(Some(scan))? {
            add(&mut found, &batch?);
        }
        Ok(found)
    };
    for found in side_by_side(&parts, read) {
        merge(found?);
    }
    Ok(())
}

/// The parts of the days that a window touches, oldest first.
fn parts(archive: &Archive, schema: &Schema, window: Window) -> Result<Vec<PathBuf>, ArchiveError> {
    let mut found = Vec::new();
    for partition in archive.partitions(schema)?.into_iter().filter(|partition| window.touches(partition.date)) {
        let parts = archive.parts(&partition)?;
        if parts.is_empty() {
            tracing::warn!("{partition} has no part: its rows are not in this answer; run `dex-archive verify`");
        }
        found.extend(parts.into_iter().map(|(_, path)| path));
    }
    Ok(found)
}

/// Does a piece of work for each of a list, on several threads; the results stand in the list's order.
fn side_by_side<T: Sync, R: Send>(list: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let threads = thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS).min(list.len());
    if threads < 2 {
        return list.iter().map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let take = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = list.get(at) else { return done };
            done.push((at, work(item)));
        }
    };
    let mut done: Vec<(usize, R)> = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(take)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("the work returns its errors")).collect()
    });
    done.sort_unstable_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}
