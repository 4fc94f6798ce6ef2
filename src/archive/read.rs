//! Reading parts: the columns asked for, and only the row groups and the pages that can hold what is looked for.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, ListArray, RecordBatch, RecordBatchOptions, StructArray, new_null_array};
use arrow_schema::{DataType, Field, SchemaRef};
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder, RowSelection,
    RowSelectionPolicy,
};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataBuilder, ParquetMetaDataReader};
use parquet::schema::types::SchemaDescriptor;

use crate::bucket::Version;
use crate::schema::Schema;

use super::checksum::{self, Checksum};
use super::key_index::{self, KnownColumn, Run};
use super::outline::{self, GroupOutline, LAYOUT, Outline};
use super::pages;
use super::scan::Scan;
use super::source::Source;
use super::write::SHORT_PAGE_ROWS;
use super::{ArchiveError, Provenance};

/// Rows that are decoded at once.
pub(super) const BATCH_ROWS: usize = 8 * 1024;

/// Rows of a piece at least, about: of fewer, none is read before another thread has begun. (Tests have fewer.)
const LEAST_PIECE_ROWS: usize = if cfg!(test) { 4 } else { 32 } * 1024;

/// A part that is open for reading. What it holds never changes, even where a newer version of its
/// day takes its place meanwhile.
#[derive(Debug)]
pub struct Part {
    path: PathBuf,
    source: Source,
    schema: SchemaRef,
    /// The column by which rows are sorted before all others.
    first_of_key: usize,
    groups: Vec<GroupOutline>,
    footer: Footer,
    /// Whether it was written by this very schema, as this version writes.
    is_current: bool,
    /// Columns of the file that are passed over: the schema has none of that name and type.
    strange: Vec<String>,
    /// Rows that are read at a time.
    batch_rows: usize,
}

/// The file of a part, or a copy of what it was at one time: for reading from end to end.
#[derive(Debug)]
pub struct PartFile {
    path: PathBuf,
    source: Source,
    pub(super) version: Option<Version>,
}

/// How the row groups are described.
#[derive(Debug)]
enum Footer {
    /// All of them, as far as it was read.
    Whole(ArrowReaderMetadata),
    /// Each where the outline says, behind the same head; and where that outline begins.
    Outlined { start: u64, head: Bytes, outline_start: u64 },
}

/// How a row group is read: by the decoder, and a column, by its name, that is known without. There is no decoder
/// where no row is wanted.
#[derive(Default)]
struct Reading {
    reader: Option<ParquetRecordBatchReader>,
    known: Option<(String, KnownColumn)>,
}

/// Rows of a row group that follow each other, to be read in one go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    group: usize,
    rows: Range<usize>,
}

impl Piece {
    /// The number of its row group in the part.
    #[must_use]
    pub fn group(&self) -> usize {
        self.group
    }
}

impl Part {
    /// Opens a part and reads its footer.
    ///
    /// # Errors
    /// Where it cannot be read, or has columns that the schema has not.
    pub fn open(path: &Path, schema: &Schema) -> Result<Self, ArchiveError> {
        PartFile::open(path)?.part(schema)
    }

    /// With `strict`, a column that the schema has not, or has with another type, is an error; without, only where rows
    /// are told apart by it.
    fn by_footer(path: &Path, source: Source, schema: &Schema, strict: bool) -> Result<Self, ArchiveError> {
        // As what Arrow some writer held the values does not matter: other tools have more types of text than one.
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let load = || ArrowReaderMetadata::load(&source, options);
        let metadata = sheltered(path, load)?;
        let mut strange = Vec::new();
        for field in metadata.schema().fields() {
            let known = schema.index_of(field.name());
            let is_known = known.is_some_and(|at| same_type(schema.arrow().field(at).data_type(), field.data_type()));
            if !is_known {
                strange.push(field.name().clone());
            }
            let by = schema.stand_in.map(|(_, by)| by);
            let is_needed =
                known.is_some_and(|at| schema.key.contains(&at) || schema.partition_by.contains(&at) || by == Some(at));
            if !is_known && (strict || is_needed) {
                return Err(ArchiveError::Schema { path: path.to_owned(), column: field.name().clone() });
            }
        }
        let groups = outline::groups(metadata.metadata(), schema);
        let footer = Footer::Whole(metadata);
        let (schema, first_of_key) = (Arc::clone(schema.arrow()), schema.key[0]);
        let (path, is_current, batch_rows) = (path.to_owned(), false, BATCH_ROWS);
        Ok(Self { path, source, schema, first_of_key, groups, footer, is_current, strange, batch_rows })
    }

    /// Opens a part by its outline, if it has one of this very schema: without reading all of its footer.
    pub(super) fn look(path: &Path, source: Source, schema: &Schema) -> Result<Self, ArchiveError> {
        let outlined = outlined(&source, schema).map_err(|error| ArchiveError::reading(path, error.into()))?;
        let Some((outline, footer)) = outlined else { return Self::by_footer(path, source, schema, true) };
        let is_current = outline.layout == LAYOUT;
        let (schema, first_of_key) = (Arc::clone(schema.arrow()), schema.key[0]);
        let (path, groups, strange, batch_rows) = (path.to_owned(), outline.groups, Vec::new(), BATCH_ROWS);
        Ok(Self { path, source, schema, first_of_key, groups, footer, is_current, strange, batch_rows })
    }

    /// Row groups in the part.
    #[must_use]
    pub fn groups(&self) -> usize {
        self.groups.len()
    }

    /// Rows in a row group.
    #[must_use]
    pub fn group_rows(&self, group: usize) -> usize {
        usize::try_from(self.groups[group].rows).unwrap_or(usize::MAX)
    }

    /// Rows in the part.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.groups.iter().map(|group| group.rows).sum()
    }

    /// Whether a part that was opened by its outline is as this version would write it, with every column.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.is_current
    }

    /// What it was written by; none where it was opened by its outline, without its footer.
    #[must_use]
    pub fn provenance(&self) -> Option<Provenance> {
        let Footer::Whole(metadata) = &self.footer else { return None };
        let entries = metadata.metadata().file_metadata().key_value_metadata();
        Some(entries.map(|entries| Provenance::read(entries)).unwrap_or_default())
    }

    /// Columns of the file that are passed over, as the schema has none of that name and type.
    #[must_use]
    pub fn strange_columns(&self) -> &[String] {
        &self.strange
    }

    /// The part's file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The part, to be read in batches of about so many rows.
    pub(super) fn in_batches_of(self, rows: usize) -> Self {
        Self { batch_rows: rows.max(1), ..self }
    }

    /// The part's rows, in its order: all columns of the schema, or those of a scan. A column that
    /// came after the part was written is null.
    ///
    /// # Errors
    /// While the file is read, in the batches.
    pub fn batches(&self, scan: Option<&Scan>) -> impl Iterator<Item = Result<RecordBatch, ArchiveError>> {
        let all = || (0..self.groups.len()).flat_map(|group| self.cut(group, 1)).collect();
        let pieces = scan.map_or_else(all, |scan| self.pieces_of(scan, 1));
        let mut failed = false;
        let batches = pieces.into_iter().flat_map(move |piece| {
            let (batches, error) = match self.piece(&piece, scan) {
                Ok(batches) => (Some(batches), None),
                Err(error) => (None, Some(Err(error))),
            };
            batches.into_iter().flatten().chain(error)
        });
        // Behind what cannot be read, nothing is in its place.
        batches.take_while(move |batch| !std::mem::replace(&mut failed, batch.is_err()))
    }

    /// The row groups that can hold what a scan asks for, in order; of all devices, each in up to `most` pieces.
    #[must_use]
    pub fn pieces_of(&self, scan: &Scan, most: usize) -> Vec<Piece> {
        let may_hold = |group: &GroupOutline| pages::may_hold(&group.bounds, scan, &self.schema);
        let groups = (0..self.groups.len()).filter(|&group| may_hold(&self.groups[group]));
        // Each piece of an object would be requests of its own; of a few devices there is nothing to cut.
        let most = if scan.any_of.is_none() && !self.source.is_far() { most } else { 1 };
        groups.flat_map(|group| self.cut(group, most)).collect()
    }

    /// The rows of a piece: all columns and rows, or those of a scan.
    ///
    /// # Errors
    /// Where the description of its row group cannot be read; while it is read, in the batches.
    pub fn piece(
        &self,
        piece: &Piece,
        scan: Option<&Scan>,
    ) -> Result<impl Iterator<Item = Result<RecordBatch, ArchiveError>> + use<>, ArchiveError> {
        let wanted: Vec<usize> = match scan {
            Some(scan) => scan.columns.iter().copied().collect(),
            None => (0..self.schema.fields().len()).collect(),
        };
        let reading = sheltered(&self.path, || self.reading(piece, &wanted, scan))?;
        Ok(self.read(reading, &wanted))
    }

    /// A row group in pieces of about one length.
    fn cut(&self, group: usize, most: usize) -> impl Iterator<Item = Piece> + use<> {
        let rows = self.group_rows(group);
        let pieces = most.min(rows / LEAST_PIECE_ROWS).max(1);
        // Where one ends at the end of a short page, that is not read twice; dictionaries and long pages are.
        let step = rows.div_ceil(pieces).next_multiple_of(SHORT_PAGE_ROWS).max(1);
        // One without rows is a piece as well: it is read like any other.
        (0..rows.max(1)).step_by(step).map(move |start| Piece { group, rows: start..rows.min(start + step) })
    }

    /// The rows of one row group from one of them on, with all columns. Pages before it are stepped over, as far
    /// as the part says where its pages are: only for that it need say so rightly.
    ///
    /// # Errors
    /// As for [`Part::piece`].
    pub fn group_from(
        &self,
        group: usize,
        first: usize,
    ) -> Result<impl Iterator<Item = Result<RecordBatch, ArchiveError>> + use<>, ArchiveError> {
        self.piece(&Piece { group, rows: first..self.group_rows(group) }, None)
    }

    fn read(
        &self,
        mut reading: Reading,
        wanted: &[usize],
    ) -> impl Iterator<Item = Result<RecordBatch, ArchiveError>> + use<> {
        let target = Arc::new(self.schema.project(wanted).expect("the wanted columns are the schema's"));
        let path = self.path.clone();
        std::iter::from_fn(move || {
            let next = sheltered(&path, || reading.next(&target)).transpose();
            if !matches!(next, Some(Ok(_))) {
                reading.reader = None;
            }
            next
        })
    }

    fn reading(&self, piece: &Piece, wanted: &[usize], scan: Option<&Scan>) -> Result<Reading, ParquetError> {
        let (group, rows) = (piece.group, self.group_rows(piece.group));
        match self.known_rows(piece, scan)? {
            Some((_, runs)) if runs.is_empty() => Ok(Reading::default()),
            Some((column, runs)) => {
                let others: Vec<usize> = wanted.iter().copied().filter(|&at| at != column).collect();
                let rows = key_index::selection(&runs, rows);
                let rest = scan.map(|scan| Scan { any_of: None, ..scan.clone() });
                let (reader, selection) = self.reader(group, &others, rest.as_ref(), Some(&rows))?;
                let known = KnownColumn::of(&runs, selection.as_ref().unwrap_or(&rows));
                let name = self.schema.field(column).name().clone();
                Ok(Reading { reader: Some(reader), known: Some((name, known)) })
            }
            None => {
                let part = RowSelection::from_consecutive_ranges(std::iter::once(piece.rows.clone()), rows);
                let part = (piece.rows.len() < rows).then_some(&part);
                Ok(Reading { reader: Some(self.reader(group, wanted, scan, part)?.0), known: None })
            }
        }
    }

    /// The rows of a piece that have one of the values of a scan, where an index of its keys says so: then their
    /// column need not be read.
    fn known_rows(&self, piece: &Piece, scan: Option<&Scan>) -> Result<Option<(usize, Vec<Run>)>, ParquetError> {
        let Footer::Outlined { outline_start, .. } = &self.footer else { return Ok(None) };
        let Some((column, values)) = scan.and_then(|scan| scan.any_of.as_ref()) else { return Ok(None) };
        if *column != self.first_of_key {
            return Ok(None);
        }
        let index = self.groups[piece.group].key_index(&self.source, *outline_start)?;
        Ok(index.map(|index| {
            let mut runs = index.runs(values);
            for Run { rows, .. } in &mut runs {
                *rows = rows.start.max(piece.rows.start)..rows.end.min(piece.rows.end);
            }
            runs.retain(|run| !run.rows.is_empty());
            (*column, runs)
        }))
    }

    /// Reads what a scan wants of a row group, of these rows alone if any are given. Returns what was selected; none
    /// for all.
    fn reader(
        &self,
        group: usize,
        wanted: &[usize],
        scan: Option<&Scan>,
        rows: Option<&RowSelection>,
    ) -> Result<(ParquetRecordBatchReader, Option<RowSelection>), ParquetError> {
        let (metadata, schema) = self.described(group, wanted)?;
        let columns = metadata.file_metadata().schema_descr();
        let mask = self.mask(columns, &schema, wanted);
        let leaves: Vec<usize> = (0..columns.num_columns()).filter(|&leaf| mask.leaf_included(leaf)).collect();
        let (metadata, selection) = match scan {
            Some(scan) => {
                let scan = pages::narrowed(&self.groups[group].bounds, scan, &self.schema);
                let selected = pages::select(&self.source, metadata, &scan, &self.schema, &leaves, rows);
                match selected {
                    // Which rows they are is known without the pages' places: those before them are only read too. (An
                    // object that cannot be read may be another one by now.)
                    Err(_) if scan.within.is_none() && scan.any_of.is_none() && !self.source.is_far() => {
                        (self.described(group, wanted)?.0, rows.cloned())
                    }
                    selected => selected?,
                }
            }
            None => match rows {
                Some(rows) => (pages::with_places(&self.source, metadata)?, Some(rows.clone())),
                None => (metadata, None),
            },
        };
        let source = match (scan, &selection) {
            (Some(_), Some(selection)) if self.source.is_far() => {
                self.source.holding(pages::pieces(&metadata, selection, &leaves).into_iter())?
            }
            // All columns of a large row group are much to hold.
            (None, _) | (_, Some(_)) => self.source.clone(),
            (Some(_), None) => {
                self.source.holding(leaves.iter().map(|&leaf| metadata.row_group(0).column(leaf).byte_range()))?
            }
        };
        let options = ArrowReaderOptions::new().with_schema(schema);
        let metadata = ArrowReaderMetadata::try_new(Arc::new(metadata), options)?;
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(source, metadata).with_projection(mask);
        let reader = match &selection {
            Some(selection) => {
                let rows = self.batch_rows.min(selection.row_count()).max(1);
                let builder = builder.with_batch_size(rows).with_row_selection(selection.clone());
                // A mask over many short runs reads pages between them too: each would be a request.
                let builder = if self.source.is_far() {
                    builder.with_row_selection_policy(RowSelectionPolicy::Selectors)
                } else {
                    builder
                };
                builder.build()?
            }
            None => builder.with_batch_size(self.batch_rows).build()?,
        };
        Ok((reader, selection))
    }

    /// The columns of a file that are wanted, and of the type that the schema has.
    fn mask(&self, columns: &SchemaDescriptor, found: &SchemaRef, wanted: &[usize]) -> ProjectionMask {
        let wanted: Vec<&Field> = wanted.iter().map(|&at| self.schema.field(at)).collect();
        let is_wanted = |field: &Field| wanted.iter().any(|wanted| same_field(wanted, field));
        let roots = found.fields().iter().enumerate().filter(|(_, field)| is_wanted(field)).map(|(at, _)| at);
        ProjectionMask::roots(columns, roots.collect::<Vec<_>>())
    }

    /// The description of a row group alone, with these columns or more, and the schema of what is described.
    fn described(&self, group: usize, wanted: &[usize]) -> Result<(ParquetMetaData, SchemaRef), ParquetError> {
        match &self.footer {
            Footer::Whole(whole) => {
                let file = whole.metadata().file_metadata().clone();
                let group = whole.metadata().row_group(group).clone();
                let lone = ParquetMetaDataBuilder::new(file).set_row_groups(vec![group]).build();
                Ok((lone, Arc::clone(whole.schema())))
            }
            Footer::Outlined { start, head, .. } => {
                let place = &self.groups[group];
                let group = self.source.bytes(start + place.from as u64, place.to - place.from)?;
                let is_wanted: Vec<bool> = (0..self.schema.fields().len()).map(|at| wanted.contains(&at)).collect();
                let cut = outline::cut_footer(head, &group, &place.chunks, &is_wanted);
                let cut = cut.ok_or_else(|| ParquetError::General("its footer makes no sense".to_owned()))?;
                let metadata = ParquetMetaDataReader::decode_metadata(&cut)?;
                if u64::try_from(metadata.row_group(0).num_rows()) != Ok(place.rows) {
                    return Err(ParquetError::General("its footer and its outline differ".to_owned()));
                }
                let schema = self.schema.project(wanted).expect("the wanted columns are the schema's");
                Ok((metadata, Arc::new(schema)))
            }
        }
    }
}

impl Reading {
    /// The next rows, with the columns of the target.
    fn next(&mut self, target: &SchemaRef) -> Result<Option<RecordBatch>, ParquetError> {
        let Some(batch) = self.reader.as_mut().and_then(Iterator::next).transpose()? else { return Ok(None) };
        let known = self.known.as_mut().map(|(name, known)| (name.as_str(), known.next(batch.num_rows())));
        if known.as_ref().is_some_and(|(_, values)| values.len() != batch.num_rows()) {
            return Err(ParquetError::General("it has more rows than its index says".to_owned()));
        }
        Ok(Some(complete(&batch, target, known.as_ref())))
    }
}

impl PartFile {
    /// A file on a local disk.
    ///
    /// # Errors
    /// Where it cannot be opened.
    pub fn open(path: &Path) -> Result<Self, ArchiveError> {
        let source = Source::open(path).map_err(ArchiveError::io("open", path))?;
        Ok(Self { path: path.to_owned(), source, version: None })
    }

    /// A copy of a version of an object.
    pub(super) fn held(path: &Path, copy: File, version: Version) -> Result<Self, ArchiveError> {
        let source = Source::new(copy).map_err(ArchiveError::io("read", path))?;
        Ok(Self { path: path.to_owned(), source, version: Some(version) })
    }

    /// Where the part is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its length in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.source.length()
    }

    /// All of its bytes.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn bytes(&self) -> Result<Bytes, ArchiveError> {
        let length = usize::try_from(self.length()).unwrap_or(usize::MAX);
        self.source.bytes(0, length).map_err(ArchiveError::io("read", &self.path))
    }

    /// Reads all of it and says whether it is as it was written.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn checksum(&self) -> Result<Checksum, ArchiveError> {
        checksum::check(&self.source).map_err(ArchiveError::io("read", &self.path))
    }

    /// The part that it is.
    ///
    /// # Errors
    /// Where it cannot be read, or has columns that the schema has not.
    pub fn part(&self, schema: &Schema) -> Result<Part, ArchiveError> {
        Part::by_footer(&self.path, self.source.clone(), schema, true)
    }

    /// The part that it is, whoever wrote it: columns that the schema has not, or not of that type, are passed over.
    ///
    /// # Errors
    /// Where it cannot be read, or a column is not as it should be by which rows are told apart.
    pub(super) fn part_of_anybody(&self, schema: &Schema) -> Result<Part, ArchiveError> {
        Part::by_footer(&self.path, self.source.clone(), schema, false)
    }
}

/// The outline of a part and how its footer is read by it; none where it has none, or one of another schema.
fn outlined(source: &Source, schema: &Schema) -> io::Result<Option<(Outline, Footer)>> {
    let Some(footer) = source.footer()? else { return Ok(None) };
    let outline = Outline::before(source, &footer)?.filter(|(outline, _)| outline.schema == schema.fingerprint());
    let Some((outline, outline_start)) = outline else { return Ok(None) };
    let Ok(head) = source.bytes(footer.start, outline.head) else { return Ok(None) };
    Ok(Some((outline, Footer::Outlined { start: footer.start, head, outline_start })))
}

/// Reads something of a part. On bytes that are not as they were written, the decoder may panic where it
/// should return an error.
fn sheltered<T>(path: &Path, read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ArchiveError> {
    let read = std::panic::catch_unwind(std::panic::AssertUnwindSafe(read));
    let read = read.unwrap_or_else(|_panic| Err(ParquetError::General("its content makes no sense".to_owned())));
    read.map_err(|error| ArchiveError::reading(path, error))
}

/// Whether two types hold the same values under the same names; what is said about them may differ.
fn same_type(a: &DataType, b: &DataType) -> bool {
    match (a, b) {
        (DataType::List(a), DataType::List(b)) => same_type(a.data_type(), b.data_type()),
        (DataType::Struct(a), DataType::Struct(b)) => {
            let same = |(a, b): (&Arc<_>, &Arc<_>)| same_field(a, b);
            a.len() == b.len() && a.iter().zip(b).all(same)
        }
        _ => a == b,
    }
}

fn same_field(a: &Field, b: &Field) -> bool {
    a.name() == b.name() && same_type(a.data_type(), b.data_type())
}

/// The array under another type of the same values: what is said about list members may have changed
/// since the part was written.
fn retyped(array: &ArrayRef, target: &DataType) -> ArrayRef {
    match target {
        _ if array.data_type() == target => Arc::clone(array),
        DataType::List(item) => {
            let (_, offsets, values, nulls) = array.as_list::<i32>().clone().into_parts();
            Arc::new(ListArray::new(Arc::clone(item), offsets, retyped(&values, item.data_type()), nulls))
        }
        DataType::Struct(members) => {
            let (_, columns, nulls) = array.as_struct().clone().into_parts();
            let columns = columns.iter().zip(members).map(|(column, member)| retyped(column, member.data_type()));
            Arc::new(StructArray::new(members.clone(), columns.collect(), nulls))
        }
        _ => Arc::clone(array),
    }
}

/// The batch with the target's columns: one that is known is put in, and those that the part has not are null.
fn complete(batch: &RecordBatch, target: &SchemaRef, known: Option<&(&str, ArrayRef)>) -> RecordBatch {
    let columns = target.fields().iter().map(|field| match (batch.column_by_name(field.name()), known) {
        (_, Some((name, values))) if name == field.name() => Arc::clone(values),
        (Some(column), _) => retyped(column, field.data_type()),
        (None, _) => new_null_array(field.data_type(), batch.num_rows()),
    });
    let columns: Vec<ArrayRef> = columns.collect();
    // A scan of no column is still one of so many rows.
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let whole = RecordBatch::try_new_with_options(Arc::clone(target), columns, &options);
    whole.expect("the columns were checked when the part was opened")
}
