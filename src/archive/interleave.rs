//! The rows of several parts of a day in one order, some devices at a time: so a day is filed into other shards without
//! being in memory as a whole.
//!
//! Each part is sorted, by device before all else. Of one device, all rows of all parts come in one stretch.

use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch, StringArray};
use arrow_schema::ArrowError;
use arrow_select::concat::concat_batches;

use crate::schema::Schema;

use super::ArchiveError;
use super::incoming::Incoming;

/// The batches of a part, in its order.
pub(super) type Batches<'a> = Box<dyn Iterator<Item = Result<RecordBatch, ArchiveError>> + 'a>;

/// Several parts on their way into one.
pub(super) struct Interleaved<'a> {
    schema: &'a Schema,
    sources: Vec<Input<'a>>,
    /// What an error of Arrow is.
    failed: &'a dyn Fn(ArrowError) -> ArchiveError,
}

/// A part.
struct Input<'a> {
    batches: Batches<'a>,
    /// What was read of it and is still to come.
    rows: RecordBatch,
    /// Whether nothing is left to be read.
    is_over: bool,
}

impl<'a> Interleaved<'a> {
    pub(super) fn new(
        schema: &'a Schema,
        parts: impl Iterator<Item = Batches<'a>>,
        failed: &'a dyn Fn(ArrowError) -> ArchiveError,
    ) -> Self {
        let empty = || RecordBatch::new_empty(schema.arrow().clone());
        let sources = parts.map(|batches| Input { batches, rows: empty(), is_over: false }).collect();
        Self { schema, sources, failed }
    }

    /// The rows of some more devices; none where all have come.
    fn stretch(&mut self) -> Result<Option<Incoming>, ArchiveError> {
        loop {
            for source in self.sources.iter_mut().filter(|source| source.rows.num_rows() == 0) {
                source.read(self.schema, self.failed)?;
            }
            // The last device of what was read may go on in what was not.
            let open = self.sources.iter().filter(|source| !source.is_over);
            let last = open.map(|source| source.last(self.schema)).min();
            let Some(last) = last else { return self.take(|source| source.rows.num_rows()) };
            let taken = self.take(|source| source.rows_before(self.schema, last.as_deref()))?;
            if taken.is_some() {
                return Ok(taken);
            }
            let schema = self.schema;
            for source in self.sources.iter_mut().filter(|source| !source.is_over && source.last(schema) == last) {
                source.read(schema, self.failed)?;
            }
        }
    }

    /// Takes so many rows out of each part; none where that is none.
    fn take(&mut self, rows_of: impl Fn(&Input<'a>) -> usize) -> Result<Option<Incoming>, ArchiveError> {
        let taken = self.sources.iter_mut().map(|source| {
            let (rows, all) = (rows_of(source), source.rows.num_rows());
            let taken = source.rows.slice(0, rows);
            source.rows = source.rows.slice(rows, all - rows);
            taken
        });
        let taken: Vec<RecordBatch> = taken.filter(|taken| taken.num_rows() > 0).collect();
        if taken.is_empty() {
            return Ok(None);
        }
        let taken = concat_batches(self.schema.arrow(), &taken).map_err(self.failed)?;
        Ok(Some(Incoming::of_all(self.schema, &taken)))
    }
}

impl Iterator for Interleaved<'_> {
    type Item = Result<Incoming, ArchiveError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.stretch().transpose()
    }
}

impl Input<'_> {
    /// Reads on, until there are more rows than before.
    fn read(&mut self, schema: &Schema, failed: &dyn Fn(ArrowError) -> ArchiveError) -> Result<(), ArchiveError> {
        let before = self.rows.num_rows();
        while !self.is_over && self.rows.num_rows() == before {
            match self.batches.next().transpose()? {
                Some(batch) if before == 0 => self.rows = batch,
                Some(batch) => self.rows = concat_batches(schema.arrow(), [&self.rows, &batch]).map_err(failed)?,
                None => self.is_over = true,
            }
        }
        Ok(())
    }

    /// The device of the last row that was read; none where it is of none.
    fn last(&self, schema: &Schema) -> Option<String> {
        let devices = devices(schema, &self.rows);
        let at = devices.len().checked_sub(1)?;
        devices.is_valid(at).then(|| devices.value(at).to_owned())
    }

    /// How many rows are of devices before one. Those of none come first.
    fn rows_before(&self, schema: &Schema, device: Option<&str>) -> usize {
        devices(schema, &self.rows).iter().take_while(|other| *other < device).count()
    }
}

/// What rows are sorted by before all else.
fn devices<'a>(schema: &Schema, rows: &'a RecordBatch) -> &'a StringArray {
    rows.column(schema.key[0]).as_string()
}
