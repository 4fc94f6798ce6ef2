//! Rows on their way into a day: sorted as a part is, one for each key. Where they come from is not known here.

use std::cmp::Ordering;
use std::sync::Arc;
use std::{fmt, iter};

use arrow_array::{ArrayRef, RecordBatch, UInt32Array};
use arrow_select::take::{take, take_record_batch};

use crate::schema::Schema;

use super::ArchiveError;
use super::order::{Keys, Spot, replaces, spots_of};

/// Rows that come into a day, stretch by stretch: no row of a later stretch has the key of one before it, or a smaller
/// one.
pub trait Supply: fmt::Debug + Send + Sync {
    /// How many rows there are at most.
    fn expected(&self) -> usize;

    /// All of them, from the first on. Called once more where a merge is repeated, since another was faster. The iterator
    /// is not asked for more after its end.
    fn in_order(&self) -> Stretches<'_>;
}

/// Rows on their way into a day.
pub type Stretches<'a> = Box<dyn Iterator<Item = Result<Incoming, ArchiveError>> + 'a>;

/// Some of the rows that come into a day: sorted, one for each key.
#[derive(Debug, Clone)]
pub struct Incoming {
    pub(super) batch: RecordBatch,
    /// For each row of the batch, the first of the rows merged that has its key.
    first: Vec<usize>,
    /// For each of the rows merged: whether its key is new.
    pub(super) fresh: Vec<bool>,
}

/// Which rows of a batch stay, in their order, and the first of the rows that has the key of each.
struct Sorted {
    stay: UInt32Array,
    first: Vec<usize>,
}

impl Supply for Incoming {
    fn expected(&self) -> usize {
        self.batch.num_rows()
    }

    fn in_order(&self) -> Stretches<'_> {
        Box::new(iter::once(Ok(self.clone())))
    }
}

impl Incoming {
    /// Takes rows out of a batch: positions, in the order in which they were collected.
    ///
    /// # Panics
    /// Where the batch is not of the schema, or has no such rows.
    #[must_use]
    pub fn new(schema: &Schema, batch: &RecordBatch, rows: &[u32]) -> Self {
        let Sorted { stay, first } = Sorted::new(schema, batch, rows);
        let stands = stay.len() == batch.num_rows() && (0..).zip(stay.values()).all(|(at, &row)| at == row);
        if stands {
            return Self { batch: batch.clone(), first, fresh: vec![false; rows.len()] };
        }
        let sorted = take_record_batch(batch, &stay).expect("every position lies in the batch");
        Self { batch: sorted, first, fresh: vec![false; rows.len()] }
    }

    /// Takes all rows of a batch.
    ///
    /// # Panics
    /// As for [`Incoming::new`], and where it has more than 2^32 rows.
    #[must_use]
    pub fn of_all(schema: &Schema, batch: &RecordBatch) -> Self {
        let rows = u32::try_from(batch.num_rows()).expect("a batch's rows fit into memory, which has fewer");
        Self::new(schema, batch, &(0..rows).collect::<Vec<_>>())
    }

    /// The rows of a batch by the day and the shard they belong to; those that are of no device
    /// fall into the shard `otherwise`. The batch goes column by column, so that it and the sorted rows are never both
    /// there.
    ///
    /// # Panics
    /// Where the batch is not of the schema.
    #[must_use]
    pub fn by_part(schema: &Schema, batch: RecordBatch, shards: u32, otherwise: u32) -> Vec<(Spot, Self)> {
        let days = spots_of(schema, &batch, shards, otherwise).into_iter();
        let days: Vec<_> = days.map(|(spot, rows)| (spot, Sorted::new(schema, &batch, &rows), rows)).collect();
        let (_, columns, _) = batch.into_parts();
        let mut taken: Vec<Vec<ArrayRef>> = days.iter().map(|_| Vec::new()).collect();
        for column in columns {
            for ((_, sorted, _), taken) in days.iter().zip(&mut taken) {
                taken.push(take(&column, &sorted.stay, None).expect("every position lies in the batch"));
            }
        }
        let days = days.into_iter().zip(taken).map(|((spot, sorted, rows), columns)| {
            let batch = RecordBatch::try_new(Arc::clone(schema.arrow()), columns).expect("they were of the schema");
            (spot, Self { batch, first: sorted.first, fresh: vec![false; rows.len()] })
        });
        days.collect()
    }

    /// Notes that the key of a row of the batch is new.
    pub(super) fn mark_fresh(&mut self, row: usize) {
        self.fresh[self.first[row]] = true;
    }
}

impl Sorted {
    fn new(schema: &Schema, batch: &RecordBatch, rows: &[u32]) -> Self {
        let keys = Keys::new(schema, batch);
        let row = |position: usize| rows[position] as usize;
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.sort_by(|&a, &b| keys.compare(row(a), &keys, row(b)));
        let mut first = Vec::new();
        let mut stay: Vec<u32> = Vec::new();
        for equal in order.chunk_by(|&a, &b| keys.compare(row(a), &keys, row(b)) == Ordering::Equal) {
            let newer =
                |best: usize, next: usize| if replaces(&keys, row(next), &keys, row(best)) { next } else { best };
            let best = equal[1..].iter().fold(equal[0], |best, &next| newer(best, next));
            first.push(equal[0]);
            stay.push(rows[best]);
        }
        Self { stay: stay.into(), first }
    }
}
