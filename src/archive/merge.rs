//! Merging rows into the part they belong to.
//!
//! The old part is read and the new one written batch by batch, and what comes in stretch by stretch, so that memory
//! depends on neither. Rows that stay are copied in runs.
//!
//! An old part is believed where its checksum is right; else its rows come from what can be
//! [salvaged](super::salvage) of it.

use std::cmp::Ordering;
use std::iter;
use std::path::Path;
use std::sync::Arc;

use arrow_array::{Array, BooleanArray, RecordBatch, make_array};
use arrow_data::transform::MutableArrayData;
use arrow_schema::ArrowError;
use arrow_select::filter::filter_record_batch;
use chrono::NaiveDate;

use crate::schema::Schema;

use super::incoming::{Incoming, Stretches, Supply};
use super::interleave::{Batches, Interleaved};
use super::order::{Keys, Spot, replaces, shards_of};
use super::read::{BATCH_ROWS, PartFile};
use super::staging::Staging;
use super::write::PartWriter;
use super::{Archive, ArchiveError, Checksum, Part, PartInfo, PartName, Partition, ShardLock, Staged};

/// Fewer rows are not read at a time, of however many parts.
const LEAST_BATCH_ROWS: usize = 1024;

impl Archive {
    /// Merges rows into the day that all of them belong to, and stages the day's new version.
    ///
    /// # Errors
    /// Where the old part cannot be read or the new one not be written. Nothing live is touched.
    pub fn stage(
        &self,
        lock: &ShardLock,
        schema: &Arc<Schema>,
        date: NaiveDate,
        rows: Incoming,
    ) -> Result<Staged, ArchiveError> {
        self.stage_all(lock, schema, date, Arc::new(rows))
    }

    /// Stages a day with rows that are not in memory.
    ///
    /// # Errors
    /// As for [`Archive::stage`], and where the rows cannot be read.
    pub fn stage_all(
        &self,
        lock: &ShardLock,
        schema: &Arc<Schema>,
        date: NaiveDate,
        rows: Arc<dyn Supply>,
    ) -> Result<Staged, ArchiveError> {
        self.stage_from(lock.shard, &Redo { schema: Arc::clone(schema), date, rows, trusting: true })
    }

    /// Stages what may have been staged before, and has to be staged again because somebody else was faster.
    pub(super) fn stage_from(&self, shard: u32, redo: &Redo) -> Result<Staged, ArchiveError> {
        let Redo { schema, date, rows, trusting } = redo.clone();
        let schema = &*schema;
        let partition = Partition { dataset: schema.dataset.clone(), date };
        let (old, older) = self.parts_of_shard(&partition, shard)?;
        let base = old.as_ref().map(|(name, _)| *name);
        let name = self.store.next_name(shard, base);
        let folder = Staging::make(self, &partition.staging_dir(&self.own, shard))?;
        let old = old.map(|(_, path)| self.hold(&path)).transpose()?;
        let mut bases: Vec<_> =
            base.zip(old.as_ref()).map(|(name, old)| (name, old.version.clone())).into_iter().collect();
        let (part, damage) = match old {
            Some(old) => self.believed(old, schema, Spot { shard, date }, trusting)?,
            None => (None, None),
        };
        if let Some(newest) = &part {
            bases.extend(self.left_over(older, newest, schema)?);
        }
        let rows_before = usize::try_from(part.as_ref().map_or(0, Part::rows)).unwrap_or(usize::MAX);
        let rows_expected = rows_before.saturating_add(rows.expected());
        let path = folder.path().join(name.to_string());
        let writer = PartWriter::create(&self.disk, &path, schema, rows_expected)?;
        let mut merge = Merge::new(schema, rows.in_order(), writer);
        part.iter().try_for_each(|part| merge.pass_all(part))?;
        let (fresh, info) = merge.finish()?;
        let names = vec![name];
        // On a local disk the shard's lock keeps others away.
        let redo = (!self.is_on_disk()).then(|| redo.clone());
        Ok(Staged { partition, folder, shard, names, bases, damage, redo, info, fresh })
    }

    /// Stages a day anew from what can be read of its part and stands where it belongs, whatever the
    /// part's checksum says.
    ///
    /// # Errors
    /// As for [`Archive::stage`].
    pub fn stage_anew(&self, lock: &ShardLock, schema: &Arc<Schema>, date: NaiveDate) -> Result<Staged, ArchiveError> {
        let rows = Incoming::new(schema, &RecordBatch::new_empty(Arc::clone(schema.arrow())), &[]);
        self.stage_from(lock.shard, &Redo { schema: Arc::clone(schema), date, rows: Arc::new(rows), trusting: false })
    }

    /// Stages a day without some of its rows: `keep` says of each row of a batch whether it stays. None
    /// where all of them do, or there is no part.
    ///
    /// # Errors
    /// Where the part is damaged, or cannot be read or written. Nothing live is touched.
    pub fn stage_without(
        &self,
        lock: &ShardLock,
        schema: &Schema,
        date: NaiveDate,
        keep: &dyn Fn(&RecordBatch) -> BooleanArray,
    ) -> Result<Option<Staged>, ArchiveError> {
        let staged = self.stage_mapped(lock, schema, date, &mut |batch| filter_record_batch(batch, &keep(batch)))?;
        Ok(staged.filter(|staged| staged.info.rows < staged.info.rows_before))
    }

    /// Stages a day with other values in its rows, or without some of them: `map` says what is to stand in the place of
    /// a batch, in the same order. None where there is no part.
    ///
    /// # Errors
    /// Where the part is damaged, or cannot be read or written, or `map` fails. Nothing live is touched.
    pub fn stage_mapped(
        &self,
        lock: &ShardLock,
        schema: &Schema,
        date: NaiveDate,
        map: &mut dyn FnMut(&RecordBatch) -> Result<RecordBatch, ArrowError>,
    ) -> Result<Option<Staged>, ArchiveError> {
        let partition = Partition { dataset: schema.dataset.clone(), date };
        let (Some((old, path)), older) = self.parts_of_shard(&partition, lock.shard)? else { return Ok(None) };
        let (held, part) = self.hold_whole(&path, schema)?;
        let mut bases = vec![(old, held.version)];
        bases.extend(self.left_over(older, &part, schema)?);
        let name = self.store.next_name(lock.shard, Some(old));
        let folder = Staging::make(self, &partition.staging_dir(&self.own, lock.shard))?;
        let info = self.write_mapped(&part, schema, &folder.path().join(name.to_string()), map)?;
        Ok(Some(Staged {
            partition,
            folder,
            shard: lock.shard,
            names: vec![name],
            bases,
            damage: None,
            redo: None,
            info,
            fresh: Vec::new(),
        }))
    }

    /// Writes a part's rows to a new file, as [`Archive::stage_mapped`] does.
    pub(super) fn write_mapped(
        &self,
        part: &Part,
        schema: &Schema,
        to: &Path,
        map: &mut dyn FnMut(&RecordBatch) -> Result<RecordBatch, ArrowError>,
    ) -> Result<PartInfo, ArchiveError> {
        let expected = usize::try_from(part.rows()).unwrap_or(usize::MAX);
        let mut writer = PartWriter::create(&self.disk, to, schema, expected)?;
        let mut rows_before = 0;
        for batch in part.batches(None) {
            let batch = batch?;
            rows_before += batch.num_rows() as u64;
            let mapped = map(&batch).map_err(|error| writer.error(error))?;
            writer.write(&mapped)?;
        }
        let (rows, bytes) = writer.finish(schema)?;
        Ok(PartInfo { rows, rows_before, bytes })
    }

    /// Stages a day in parts of so many shards, in place of all those it has. `lock` is that of the first shard; whoever
    /// calls it holds the others' too.
    ///
    /// # Errors
    /// Where a part is damaged, or cannot be read or written. Nothing live is touched.
    pub fn stage_resharded(
        &self,
        lock: &ShardLock,
        schema: &Schema,
        partition: &Partition,
        shards: u32,
    ) -> Result<Staged, ArchiveError> {
        let folder = Staging::make(self, &partition.staging_dir(&self.own, lock.shard))?;
        let (mut bases, mut old) = (Vec::new(), Vec::new());
        let parts = self.parts(partition)?;
        // Of each a batch is held: of many parts, as much as of one.
        let batch_rows = (BATCH_ROWS / parts.len().max(1)).max(LEAST_BATCH_ROWS);
        for (name, path) in parts {
            let (held, part) = self.hold_whole(&path, schema)?;
            bases.push((name, held.version));
            old.push((name.shard, part.in_batches_of(batch_rows)));
        }
        // Names that none of the day's parts has, in a bucket too: until all of them are there, the old ones stay.
        let publish = bases.iter().map(|(name, _)| name.publish).max().unwrap_or(0) + 1;
        let (mut names, mut info) = (Vec::new(), PartInfo::default());
        info.rows_before = old.iter().map(|(_, part)| part.rows()).sum();
        for shard in 0..shards {
            let name = PartName { shard, publish };
            if let Some((rows, bytes)) =
                self.write_shard(&folder.path().join(name.to_string()), schema, &old, (shard, shards))?
            {
                names.push(name);
                (info.rows, info.bytes) = (info.rows + rows, info.bytes + bytes);
            }
        }
        let (partition, shard) = (partition.clone(), lock.shard);
        let (damage, redo, fresh) = (None, None, Vec::new());
        Ok(Staged { partition, folder, shard, names, bases, damage, redo, info, fresh })
    }

    /// Writes those rows of parts that belong to one of so many shards: one part's as they come, with the others'
    /// merged into them. Returns rows and bytes; none where there is no row.
    fn write_shard(
        &self,
        path: &Path,
        schema: &Schema,
        old: &[(u32, Part)],
        (shard, shards): (u32, u32),
    ) -> Result<Option<(u64, u64)>, ArchiveError> {
        let failed = |error: ArrowError| ArchiveError::reading(path, error.into());
        let own = |from: u32, batch: &RecordBatch| {
            let of = shards_of(schema, batch, shards, from % shards);
            let is_own: BooleanArray = of.into_iter().map(|of| Some(of == shard)).collect();
            filter_record_batch(batch, &is_own).map_err(failed)
        };
        let Some((first, others)) = old.split_first() else { return Ok(None) };
        let rest = others
            .iter()
            .map(|(from, part)| -> Batches<'_> { Box::new(part.batches(None).map(move |batch| own(*from, &batch?))) });
        let rest = Interleaved::new(schema, rest, &failed);
        let expected = old.iter().map(|(_, part)| part.rows()).sum::<u64>().div_ceil(shards.into());
        let expected = usize::try_from(expected).unwrap_or(usize::MAX);
        let writer = PartWriter::create(&self.disk, path, schema, expected)?;
        let mut merge = Merge::new(schema, Box::new(rest), writer);
        for batch in first.1.batches(None) {
            let batch = own(first.0, &batch?)?;
            if batch.num_rows() > 0 {
                merge.pass(&batch)?;
            }
        }
        let (_, info) = merge.finish()?;
        if info.rows == 0 {
            self.disk.remove(path)?;
        }
        Ok((info.rows > 0).then_some((info.rows, info.bytes)))
    }

    /// That a part is as it was written.
    ///
    /// # Errors
    /// Where it is not, or cannot be read.
    pub fn check_whole(&self, path: &Path, schema: &Schema) -> Result<(), ArchiveError> {
        self.hold_whole(path, schema).map(drop)
    }

    /// A part that is as it was written.
    fn hold_whole(&self, path: &Path, schema: &Schema) -> Result<(PartFile, Part), ArchiveError> {
        let held = self.hold(path)?;
        if held.checksum()? != Checksum::Right {
            let remedy = if self.is_resharding {
                "move it out of the archive and run this again; then put it back, and `verify --repair` files what can be read of it"
            } else {
                "`verify --repair` writes it anew"
            };
            let problem = format!("its checksum is wrong or missing: {remedy}");
            return Err(ArchiveError::Damaged { path: path.to_owned(), problem });
        }
        let part = held.part(schema)?;
        Ok((held, part))
    }
}

/// What a day was staged of: enough to do it again.
#[derive(Debug, Clone)]
pub(super) struct Redo {
    schema: Arc<Schema>,
    date: NaiveDate,
    rows: Arc<dyn Supply>,
    /// Whether the old part is believed where its checksum is right.
    trusting: bool,
}

/// A merge on its way through the old part.
pub(super) struct Merge<'a> {
    schema: &'a Schema,
    supply: iter::Fuse<Stretches<'a>>,
    /// The stretch that is being written; none once all of them are.
    incoming: Option<Incoming>,
    /// The first row of it that is not written yet.
    next: usize,
    writer: PartWriter,
    rows_before: u64,
    /// For each of the rows merged, in the order of their stretches: whether its key is new.
    fresh: Vec<bool>,
}

/// A stretch of rows of one side.
struct Slice {
    side: usize,
    start: usize,
    end: usize,
}

const OLD: usize = 0;
const NEW: usize = 1;

impl<'a> Merge<'a> {
    pub(super) fn new(schema: &'a Schema, supply: Stretches<'a>, writer: PartWriter) -> Self {
        Self { schema, supply: supply.fuse(), incoming: None, next: 0, writer, rows_before: 0, fresh: Vec::new() }
    }

    /// Writes the rows of an old part, with those that come in at their places among them.
    pub(super) fn pass_all(&mut self, part: &Part) -> Result<(), ArchiveError> {
        part.batches(None).try_for_each(|batch| self.pass(&batch?))
    }

    /// Writes a batch of old rows, with those that come in at their places among them.
    fn pass(&mut self, batch: &RecordBatch) -> Result<(), ArchiveError> {
        self.rows_before += batch.num_rows() as u64;
        let mut at = 0;
        while at < batch.num_rows() {
            self.refill()?;
            let Some(incoming) = &mut self.incoming else {
                return self.writer.write(&batch.slice(at, batch.num_rows() - at));
            };
            let runs = weave(self.schema, (batch, &mut at), (incoming, &mut self.next));
            let written = match runs[..] {
                [Slice { side: OLD, start, end }] => self.writer.write(&batch.slice(start, end - start)),
                _ => {
                    let spliced = splice(batch, &incoming.batch, &runs);
                    self.writer.write(&spliced.map_err(|error| self.writer.error(error))?)
                }
            };
            written?;
        }
        Ok(())
    }

    /// Goes to the next stretch of the rows that come in, once all of the one before is written.
    fn refill(&mut self) -> Result<(), ArchiveError> {
        while self.incoming.as_ref().is_none_or(|incoming| self.next == incoming.batch.num_rows()) {
            self.fresh.extend(self.incoming.take().into_iter().flat_map(|written| written.fresh));
            self.next = 0;
            match self.supply.next() {
                Some(next) => self.incoming = Some(next?),
                None => return Ok(()),
            }
        }
        Ok(())
    }

    /// Writes what comes after every old row, and closes the part.
    pub(super) fn finish(mut self) -> Result<(Vec<bool>, PartInfo), ArchiveError> {
        loop {
            self.refill()?;
            let Some(incoming) = &mut self.incoming else { break };
            let length = BATCH_ROWS.min(incoming.batch.num_rows() - self.next);
            (self.next..self.next + length).for_each(|row| incoming.mark_fresh(row));
            self.writer.write(&incoming.batch.slice(self.next, length))?;
            self.next += length;
        }
        let (rows, bytes) = self.writer.finish(self.schema)?;
        Ok((self.fresh, PartInfo { rows, rows_before: self.rows_before, bytes }))
    }
}

/// The order in which old rows and those that come in are written, until either are used up: each side's rows, and its
/// first that is not written yet.
fn weave(schema: &Schema, old: (&RecordBatch, &mut usize), new: (&mut Incoming, &mut usize)) -> Vec<Slice> {
    let ((old, at), (incoming, next)) = (old, new);
    let (old_keys, new_keys) = (Keys::new(schema, old), Keys::new(schema, &incoming.batch));
    let mut runs = Slices::default();
    let mut fresh = Vec::new();
    while *next < incoming.batch.num_rows() {
        let below = |row: usize| old_keys.compare(row, &new_keys, *next) == Ordering::Less;
        let place = partition_point(*at, old.num_rows(), below);
        runs.add(OLD, *at, place);
        *at = place;
        if place == old.num_rows() {
            break;
        }
        if old_keys.compare(place, &new_keys, *next) == Ordering::Equal {
            let stays = replaces(&new_keys, *next, &old_keys, place);
            let (side, row) = if stays { (NEW, *next) } else { (OLD, place) };
            runs.add(side, row, row + 1);
            *at += 1;
        } else {
            runs.add(NEW, *next, *next + 1);
            fresh.push(*next);
        }
        *next += 1;
    }
    fresh.into_iter().for_each(|row| incoming.mark_fresh(row));
    runs.0
}

#[derive(Default)]
struct Slices(Vec<Slice>);

impl Slices {
    fn add(&mut self, side: usize, start: usize, end: usize) {
        match self.0.last_mut() {
            _ if start == end => (),
            Some(last) if last.side == side && last.end == start => last.end = end,
            _ => self.0.push(Slice { side, start, end }),
        }
    }
}

/// The rows of both sides in the order of the runs.
fn splice(old: &RecordBatch, new: &RecordBatch, runs: &[Slice]) -> Result<RecordBatch, ArrowError> {
    let rows = runs.iter().map(|run| run.end - run.start).sum();
    let columns = old.columns().iter().zip(new.columns()).map(|(old, new)| {
        let (old, new) = (old.to_data(), new.to_data());
        let mut spliced = MutableArrayData::new(vec![&old, &new], false, rows);
        runs.iter().try_for_each(|run| spliced.try_extend(run.side, run.start, run.end))?;
        Ok(make_array(spliced.freeze()))
    });
    RecordBatch::try_new(Arc::clone(new.schema_ref()), columns.collect::<Result<_, ArrowError>>()?)
}

/// The first position from `start` on at which `below` does not hold.
fn partition_point(start: usize, end: usize, below: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (start, end);
    while low < high {
        let middle = low + (high - low) / 2;
        if below(middle) { low = middle + 1 } else { high = middle }
    }
    low
}
