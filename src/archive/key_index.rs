//! Where in a row group the rows of each device begin.
//!
//! Rows stand in the order of the schema's key, so those that share a value of its first column, the device, follow
//! each other. For each such value an index says where they begin:
//!
//! ```text
//! the first 16 bytes of the value's SHA-256 | its first row in the row group, 4 bytes, little-endian
//! ```
//!
//! one entry after the other, in the order of the rows (null, which comes first, has 16 zeros). A question about a
//! few devices finds its rows by it, and neither reads the column nor looks at bounds of its pages: that two values
//! share 16 bytes of SHA-256 is not to be expected of anybody. Where the rows of a device are few, as in a single
//! sweep, there is no index: it would be as long as the column.
//!
//! Where an index lies in a part, and whether it is as it was written, the outline says.

use std::ops::Range;
use std::sync::Arc;

use arrow_array::builder::StringBuilder;
use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch};
use bytes::Bytes;
use parquet::arrow::arrow_reader::RowSelection;
use ring::digest::{SHA256, digest};

/// What stands for a value: the beginning of its hash.
type Mark = u128;

/// Bytes of an entry.
const ENTRY: usize = size_of::<Mark>() + size_of::<u32>();

/// The rows that a value has at least, on average, where an index is worth its bytes.
const FEWEST_ROWS: usize = 16;

/// The index of a row group.
#[derive(Debug)]
pub(super) struct KeyIndex {
    bytes: Bytes,
    rows: usize,
}

/// Rows that follow each other and have one of the values that were asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) rows: Range<usize>,
    pub(super) value: Arc<str>,
}

/// The rows of each value in a selection, in their order, of which some have been read.
#[derive(Debug)]
pub(super) struct KnownColumn {
    runs: std::vec::IntoIter<(Arc<str>, usize)>,
    /// Of the run that was read last, what is left.
    left: Option<(Arc<str>, usize)>,
}

/// Makes the indexes of the row groups of a part, as its rows are written.
#[derive(Debug)]
pub(super) struct KeyIndexes {
    /// Where the first column of the key stands. Unless it holds texts, there are no indexes.
    column: usize,
    group_rows: usize,
    rows: usize,
    last: Option<Mark>,
    entries: Vec<u8>,
    done: Vec<(usize, Vec<u8>)>,
}

impl KeyIndexes {
    /// For a part whose row groups have so many rows, and whose rows are told apart by this column first.
    pub(super) fn new(column: usize, group_rows: usize) -> Self {
        Self { column, group_rows, rows: 0, last: None, entries: Vec::new(), done: Vec::new() }
    }

    /// Takes in rows that are written.
    pub(super) fn add(&mut self, batch: &RecordBatch) {
        let Some(values) = batch.column(self.column).as_string_opt::<i32>() else { return };
        let mut before = None;
        for row in 0..values.len() {
            if self.rows == self.group_rows {
                self.end_group();
                before = None;
            }
            let value = values.is_valid(row).then(|| values.value(row));
            // Within a batch, the hash of a value is made once; and none where it is too many of them already.
            if before != Some(value) && !is_long(&self.entries, self.group_rows) {
                self.begin(value.map_or(0, mark));
                before = Some(value);
            }
            self.rows += 1;
        }
    }

    /// The rows of each row group, and its index; an empty one where there is none.
    pub(super) fn finish(mut self) -> Vec<(usize, Vec<u8>)> {
        if self.rows > 0 {
            self.end_group();
        }
        self.done
    }

    fn begin(&mut self, mark: Mark) {
        if self.last == Some(mark) {
            return;
        }
        self.last = Some(mark);
        self.entries.extend(mark.to_le_bytes());
        self.entries.extend(u32::try_from(self.rows).expect("a row group has fewer rows than u32").to_le_bytes());
    }

    fn end_group(&mut self) {
        let (rows, mut entries) = (std::mem::take(&mut self.rows), std::mem::take(&mut self.entries));
        if is_long(&entries, rows) {
            entries.clear();
        }
        self.done.push((rows, entries));
        self.last = None;
    }
}

impl KeyIndex {
    /// The index of a row group with so many rows; none where the bytes are no such thing.
    pub(super) fn new(bytes: Bytes, rows: usize) -> Option<Self> {
        let (entries, rest) = bytes.as_chunks::<ENTRY>();
        let firsts = entries.iter().map(|entry| split(entry).1).chain([rows]);
        let is_ordered = entries.first().map(|entry| split(entry).1) == Some(0) && firsts.is_sorted_by(|a, b| a < b);
        (rest.is_empty() && is_ordered).then_some(Self { bytes, rows })
    }

    /// The rows that have one of these values.
    pub(super) fn runs(&self, values: &[String]) -> Vec<Run> {
        let mut wanted: Vec<(Mark, &String)> = values.iter().map(|value| (mark(value), value)).collect();
        wanted.sort_unstable();
        let (entries, _) = self.bytes.as_chunks::<ENTRY>();
        let mut runs = Vec::new();
        for (at, entry) in entries.iter().enumerate() {
            let (mark, first) = split(entry);
            if let Ok(found) = wanted.binary_search_by_key(&mark, |(wanted, _)| *wanted) {
                let end = entries.get(at + 1).map_or(self.rows, |next| split(next).1);
                runs.push(Run { rows: first..end, value: wanted[found].1.as_str().into() });
            }
        }
        runs
    }
}

impl KnownColumn {
    /// What is known of the rows that are selected, all of which are in one of the runs.
    pub(super) fn of(runs: &[Run], selection: &RowSelection) -> Self {
        let mut known = Vec::new();
        let (mut at, mut run) = (0, 0);
        for selector in selection.iter() {
            let end = at + selector.row_count;
            while !selector.skip && run < runs.len() && runs[run].rows.start < end {
                let rows = runs[run].rows.start.max(at)..runs[run].rows.end.min(end);
                if !rows.is_empty() {
                    known.push((Arc::clone(&runs[run].value), rows.len()));
                }
                if runs[run].rows.end > end {
                    break;
                }
                run += 1;
            }
            at = end;
        }
        Self { runs: known.into_iter(), left: None }
    }

    /// The values of the next rows.
    pub(super) fn next(&mut self, rows: usize) -> ArrayRef {
        let mut values: Vec<(Arc<str>, usize)> = Vec::new();
        let mut missing = rows;
        while missing > 0 {
            let Some((value, has)) = self.left.take().or_else(|| self.runs.next()) else { break };
            let taken = has.min(missing);
            missing -= taken;
            self.left = (has > taken).then(|| (Arc::clone(&value), has - taken));
            values.push((value, taken));
        }
        let bytes = values.iter().map(|(value, count)| value.len() * count).sum();
        let mut column = StringBuilder::with_capacity(rows, bytes);
        for (value, count) in values {
            column.append_value_n(&value, count);
        }
        Arc::new(column.finish())
    }
}

/// The rows of some runs, of so many.
pub(super) fn selection(runs: &[Run], rows: usize) -> RowSelection {
    RowSelection::from_consecutive_ranges(runs.iter().map(|run| run.rows.clone()), rows)
}

/// Whether there are too many entries for so many rows.
fn is_long(entries: &[u8], rows: usize) -> bool {
    entries.len() / ENTRY * FEWEST_ROWS > rows
}

/// An entry's value and first row.
fn split(entry: &[u8; ENTRY]) -> (Mark, usize) {
    let [mark @ .., a, b, c, d] = *entry;
    (u128::from_le_bytes(mark), u32::from_le_bytes([a, b, c, d]) as usize)
}

fn mark(value: impl AsRef<str>) -> Mark {
    let hash = digest(&SHA256, value.as_ref().as_bytes());
    Mark::from_le_bytes(*hash.as_ref().first_chunk().expect("SHA-256 has 32 bytes"))
}

#[cfg(test)]
mod tests {
    use arrow_array::StringArray;
    use arrow_array::cast::AsArray;
    use proptest::prelude::*;

    use super::*;

    /// The indexes of rows that are written in batches of so many, in row groups of so many.
    fn indexes(values: &[Option<String>], batch_rows: usize, group_rows: usize) -> Vec<(usize, Vec<u8>)> {
        let mut indexes = KeyIndexes::new(0, group_rows);
        for values in values.chunks(batch_rows) {
            let column: ArrayRef = Arc::new(StringArray::from_iter(values));
            indexes.add(&RecordBatch::try_from_iter_with_nullable([("id", column, true)]).expect("a batch"));
        }
        indexes.finish()
    }

    /// Rows in order: of each value, so many.
    fn rows(counts: &[usize]) -> Vec<Option<String>> {
        let value = |at: usize| (at > 0).then(|| format!("d{at:03}"));
        counts.iter().enumerate().flat_map(|(at, &count)| std::iter::repeat_n(value(at), count)).collect()
    }

    proptest! {
        #[test]
        fn of_each_value_the_rows_are_found_and_no_others(
            counts in proptest::collection::vec(0..200_usize, 1..12),
            batch_rows in 1..300_usize,
            group_rows in 100..900_usize,
            wanted in proptest::collection::btree_set(1..14_usize, 0..6),
            within in (0..900_usize, 0..900_usize),
            step in 1..250_usize,
        ) {
            let values = rows(&counts);
            let wanted: Vec<String> = wanted.iter().map(|at| format!("d{at:03}")).collect();
            let indexes = indexes(&values, batch_rows, group_rows);
            let groups: Vec<_> = values.chunks(group_rows).collect();
            prop_assert_eq!(indexes.iter().map(|(rows, _)| *rows).collect::<Vec<_>>(),
                groups.iter().map(|group| group.len()).collect::<Vec<_>>());
            for ((rows, bytes), group) in indexes.into_iter().zip(groups) {
                let mut distinct = group.to_vec();
                distinct.dedup();
                prop_assert_eq!(bytes.is_empty(), distinct.len() * FEWEST_ROWS > rows);
                let Some(index) = KeyIndex::new(bytes.into(), rows) else { continue };
                let runs = index.runs(&wanted);
                let is_wanted = |row: &usize| group[*row].as_ref().is_some_and(|value| wanted.contains(value));
                let expected: Vec<usize> = (0..rows).filter(is_wanted).collect();
                prop_assert_eq!(runs.iter().flat_map(|run| run.rows.clone()).collect::<Vec<_>>(), &expected[..]);
                // Of these rows, some are read, in batches.
                let (from, to) = (within.0.min(within.1).min(rows), within.0.max(within.1).min(rows));
                let within = RowSelection::from_consecutive_ranges(std::iter::once(from..to), rows);
                let mut known = KnownColumn::of(&runs, &selection(&runs, rows).intersection(&within));
                let expected: Vec<&str> = expected.iter().filter(|row| (from..to).contains(*row))
                    .filter_map(|row| group[*row].as_deref()).collect();
                for expected in expected.chunks(step) {
                    let read = known.next(expected.len());
                    prop_assert_eq!(read.as_string::<i32>().iter().flatten().collect::<Vec<_>>(), expected);
                }
                prop_assert_eq!(known.next(1).len(), 0);
            }
        }
    }

    #[test]
    fn a_column_that_holds_no_texts_has_no_index() {
        let column: ArrayRef = Arc::new(arrow_array::Int64Array::from(vec![1; 100]));
        let mut indexes = KeyIndexes::new(0, 1_000);
        indexes.add(&RecordBatch::try_from_iter([("at", column)]).expect("a batch"));
        assert_eq!(indexes.finish(), []);
    }

    #[test]
    fn what_is_no_index_is_none() {
        let index = |firsts: &[u32]| {
            let entry = |first: &u32| [[7; 16].as_slice(), &first.to_le_bytes()].concat();
            KeyIndex::new(firsts.iter().flat_map(entry).collect::<Vec<_>>().into(), 100)
        };
        assert!(index(&[0, 20, 99]).is_some());
        for firsts in [&[][..], &[1, 20], &[0, 20, 20], &[0, 30, 20], &[0, 100], &[0, u32::MAX]] {
            assert!(index(firsts).is_none(), "{firsts:?}");
        }
        assert!(KeyIndex::new(Bytes::from_static(&[0; 21]), 100).is_none());
    }
}
