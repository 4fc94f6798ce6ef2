//! Work that is done side by side, by threads that begin at once.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

#[cfg(target_os = "linux")]
use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};

use crate::archive::ArchiveError;

/// Does a piece of work for each of a list, on several threads, and hands over the results in the list's order.
/// The first error ends it.
pub(super) fn side_by_side<T: Sync, R: Send>(
    threads: usize,
    list: &[T],
    work: impl Fn(&T) -> R + Sync,
    mut take: impl FnMut(R) -> Result<(), ArchiveError>,
) -> Result<(), ArchiveError> {
    let threads = threads.min(list.len());
    if threads < 2 {
        return list.iter().try_for_each(|item| take(work(item)));
    }
    let (next, done) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    let work_at = |at: usize| {
        let result = work(&list[at]);
        done.lock().unwrap_or_else(PoisonError::into_inner).insert(at, result);
    };
    let claim = || Some(next.fetch_add(1, Ordering::Relaxed)).filter(|&at| at < list.len());
    let due = |at: usize| done.lock().unwrap_or_else(PoisonError::into_inner).remove(&at);
    let here = Processor::current();
    thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|| {
                here.leave();
                std::iter::from_fn(claim).for_each(work_at);
            });
        }
        // They may have to begin here to get away.
        thread::yield_now();
        // This thread works too; in between it takes in what is due.
        let mut taken = 0;
        for at in std::iter::from_fn(claim) {
            work_at(at);
            while let Some(result) = due(taken) {
                taken += 1;
                take(result).inspect_err(|_| next.store(list.len(), Ordering::Relaxed))?;
            }
        }
        Ok(taken)
    })
    .and_then(|taken| (taken..list.len()).filter_map(due).try_for_each(take))
}

/// A processor that a thread runs on.
///
/// A kernel that cannot tell how processors belong together, as in many a virtual machine, begins a thread on the
/// processor of the one that started it, and moves it at a tick of its clock: up to 4 ms later, in which a question about
/// a device is answered.
#[derive(Clone, Copy)]
struct Processor(#[cfg(target_os = "linux")] usize);

#[cfg(target_os = "linux")]
impl Processor {
    fn current() -> Self {
        Self(sched_getcpu())
    }

    /// Moves the calling thread to another one, if it may use another one; it stays free to come back.
    fn leave(self) {
        let Ok(all) = sched_getaffinity(None) else { return };
        if let Some(others) = self.others(all)
            && sched_setaffinity(None, &others).is_ok()
        {
            // Where that fails it has one processor less, and does its work all the same.
            let _ = sched_setaffinity(None, &all);
        }
    }

    /// Processors without this one, if any are left.
    fn others(self, mut processors: CpuSet) -> Option<CpuSet> {
        (self.0 < CpuSet::MAX_CPU).then(|| processors.unset(self.0))?;
        (processors.count() > 0).then_some(processors)
    }
}

#[cfg(not(target_os = "linux"))]
impl Processor {
    fn current() -> Self {
        Self()
    }

    fn leave(self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn a_thread_that_moved_may_run_where_it_could_before() {
        let may_run = || sched_getaffinity(None).expect("an affinity");
        let (before, here) = (may_run(), Processor::current());
        let after = thread::spawn(move || {
            here.leave();
            may_run()
        });
        assert_eq!(after.join().expect("a thread"), before);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_others_are_all_but_this_one() {
        let set = |numbers: &[usize]| {
            let mut set = CpuSet::new();
            numbers.iter().for_each(|&number| set.set(number));
            set
        };
        assert_eq!(Processor(3).others(set(&[1, 3, 900])), Some(set(&[1, 900])));
        assert_eq!(Processor(3).others(set(&[3])), None, "there is no other");
        assert_eq!(Processor(CpuSet::MAX_CPU).others(set(&[1])), None, "more than can be told apart");
    }

    #[test]
    fn results_come_in_the_order_of_the_list_and_the_first_error_ends_it() {
        let list: Vec<usize> = (0..100).collect();
        for threads in [1, 2, 5, 200] {
            let mut taken = Vec::new();
            let doubled = side_by_side(
                threads,
                &list,
                |at| at * 2,
                |result| {
                    taken.push(result);
                    Ok(())
                },
            );
            doubled.expect("no error");
            assert_eq!(taken, (0..100).map(|at| at * 2).collect::<Vec<_>>());
            let mut before = 0;
            let take = |result: usize| {
                before += 1;
                if result == 30 { Err(ArchiveError::Absent("thirty".into())) } else { Ok(()) }
            };
            side_by_side(threads, &list, |at| *at, take).expect_err("an error");
            assert_eq!(before, 31);
        }
    }
}
