//! Reading parts: the columns asked for, and only the row groups that can hold what is looked for.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, ListArray, RecordBatch, StructArray, new_null_array};
use arrow_schema::DataType;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::errors::ParquetError;
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::statistics::Statistics;

use crate::schema::Schema;

use super::ArchiveError;
use super::checksum::{self, Checksum};

/// Rows that are decoded at once.
const BATCH_ROWS: usize = 8 * 1024;

/// A part that is open for reading. What it holds never changes, even where a newer version of its
/// day takes its place meanwhile.
#[derive(Debug)]
pub struct Part {
    path: PathBuf,
    file: File,
    metadata: ArrowReaderMetadata,
    schema: arrow_schema::SchemaRef,
}

/// What is wanted of a part.
#[derive(Debug, Clone, Default)]
pub struct Scan {
    /// Positions of the wanted columns in the schema.
    pub columns: BTreeSet<usize>,
    /// A text column and the values of which a row group must be able to hold one. Rows are not
    /// filtered: the caller does that.
    pub any_of: Option<(usize, Vec<String>)>,
}

impl Part {
    /// Opens a part and reads its footer.
    ///
    /// # Errors
    /// Where it cannot be read, or has columns that the schema has not.
    pub fn open(path: &Path, schema: &Schema) -> Result<Self, ArchiveError> {
        let file = File::open(path).map_err(ArchiveError::io("open", path))?;
        let metadata = sheltered(path, || ArrowReaderMetadata::load(&file, ArrowReaderOptions::new()))?;
        for field in metadata.schema().fields() {
            let known = schema.index_of(field.name()).map(|at| schema.arrow().field(at).data_type());
            if known.is_none_or(|known| !same_type(known, field.data_type())) {
                return Err(ArchiveError::Schema { path: path.to_owned(), column: field.name().clone() });
            }
        }
        Ok(Self { path: path.to_owned(), file, metadata, schema: Arc::clone(schema.arrow()) })
    }

    /// Reads the whole file and says whether it is as it was written.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn checksum(path: &Path) -> Result<Checksum, ArchiveError> {
        let checked = File::open(path).and_then(|mut file| checksum::check(&mut file));
        checked.map_err(ArchiveError::io("read", path))
    }

    /// Row groups in the part.
    #[must_use]
    pub fn groups(&self) -> usize {
        self.metadata.metadata().num_row_groups()
    }

    /// What the footer says: rows, and the key-value metadata.
    #[must_use]
    pub fn footer(&self) -> (u64, Vec<(String, String)>) {
        let file = self.metadata.metadata().file_metadata();
        let entries = file.key_value_metadata().into_iter().flatten();
        let entries = entries.map(|entry| (entry.key.clone(), entry.value.clone().unwrap_or_default()));
        (u64::try_from(file.num_rows()).unwrap_or(0), entries.collect())
    }

    /// The part's file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The part's rows, in its order: all columns of the schema, or those of a scan. A column that
    /// came after the part was written is null.
    ///
    /// # Errors
    /// Where the file cannot be read; while it is read, in the batches.
    pub fn batches(
        &self,
        scan: Option<&Scan>,
    ) -> Result<impl Iterator<Item = Result<RecordBatch, ArchiveError>>, ArchiveError> {
        let wanted: Vec<usize> = match scan {
            Some(scan) => scan.columns.iter().copied().collect(),
            None => (0..self.schema.fields().len()).collect(),
        };
        let groups = self.row_groups(scan);
        self.batches_of(groups, &wanted)
    }

    /// The rows of one row group, all columns.
    ///
    /// # Errors
    /// As for [`Part::batches`].
    pub fn group(&self, group: usize) -> Result<impl Iterator<Item = Result<RecordBatch, ArchiveError>>, ArchiveError> {
        self.batches_of(vec![group], &(0..self.schema.fields().len()).collect::<Vec<_>>())
    }

    fn batches_of(
        &self,
        groups: Vec<usize>,
        wanted: &[usize],
    ) -> Result<impl Iterator<Item = Result<RecordBatch, ArchiveError>> + use<>, ArchiveError> {
        let file = self.file.try_clone().map_err(ArchiveError::io("open", &self.path))?;
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, self.metadata.clone());
        let names: Vec<&str> = wanted.iter().map(|&at| self.schema.field(at).name().as_str()).collect();
        let roots = self.metadata.schema().fields().iter().enumerate();
        let roots = roots.filter(|(_, field)| names.contains(&field.name().as_str())).map(|(at, _)| at);
        let mask = ProjectionMask::roots(builder.parquet_schema(), roots.collect::<Vec<_>>());
        let builder = builder.with_batch_size(BATCH_ROWS).with_row_groups(groups).with_projection(mask);
        let mut reader = sheltered(&self.path, || builder.build())?;
        let target = Arc::new(self.schema.project(wanted).expect("the wanted columns are the schema's"));
        let path = self.path.clone();
        let mut ended = false;
        Ok(std::iter::from_fn(move || {
            let next = if ended { None } else { sheltered(&path, || Ok(reader.next().transpose()?)).transpose() };
            ended = !matches!(next, Some(Ok(_)));
            next.map(|batch| batch.map(|batch| complete(&batch, &target)))
        }))
    }

    fn row_groups(&self, scan: Option<&Scan>) -> Vec<usize> {
        let groups = self.metadata.metadata().row_groups();
        let Some((column, values)) = scan.and_then(|scan| scan.any_of.as_ref()) else {
            return (0..groups.len()).collect();
        };
        let name = self.schema.field(*column).name();
        let mut leaves = self.metadata.parquet_schema().columns().iter();
        let leaf = leaves.position(|leaf| leaf.path().parts() == [name.as_str()]);
        let kept = groups.iter().enumerate().filter(|(_, group)| leaf.is_none_or(|leaf| may_hold(group, leaf, values)));
        kept.map(|(at, _)| at).collect()
    }
}

/// Whether a row group's statistics leave room for one of the values.
fn may_hold(group: &RowGroupMetaData, leaf: usize, values: &[String]) -> bool {
    match group.column(leaf).statistics() {
        Some(Statistics::ByteArray(statistics)) => match (statistics.min_opt(), statistics.max_opt()) {
            (Some(min), Some(max)) => values.iter().any(|value| (min.data()..=max.data()).contains(&value.as_bytes())),
            // Without bounds there are only nulls in it, or it was written without them.
            _ => statistics.null_count_opt() != u64::try_from(group.num_rows()).ok(),
        },
        _ => true,
    }
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

fn same_field(a: &arrow_schema::Field, b: &arrow_schema::Field) -> bool {
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

/// The batch with the target's columns: those that the part has not are null.
fn complete(batch: &RecordBatch, target: &arrow_schema::SchemaRef) -> RecordBatch {
    let columns = target.fields().iter().map(|field| match batch.column_by_name(field.name()) {
        Some(column) => retyped(column, field.data_type()),
        None => new_null_array(field.data_type(), batch.num_rows()),
    });
    let columns: Vec<ArrayRef> = columns.collect();
    RecordBatch::try_new(Arc::clone(target), columns).expect("the columns were checked when the part was opened")
}
