//! Reading parts: the columns asked for, and only the row groups that can hold what is looked for.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, new_null_array};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::statistics::Statistics;

use crate::schema::Schema;

use super::ArchiveError;

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
        let metadata = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new());
        let metadata = metadata.map_err(ArchiveError::parquet("read", path))?;
        for field in metadata.schema().fields() {
            let known = schema.index_of(field.name()).map(|at| schema.arrow().field(at).data_type());
            if known.is_none_or(|known| !known.equals_datatype(field.data_type())) {
                return Err(ArchiveError::Schema { path: path.to_owned(), column: field.name().clone() });
            }
        }
        Ok(Self { path: path.to_owned(), file, metadata, schema: Arc::clone(schema.arrow()) })
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
        let file = self.file.try_clone().map_err(ArchiveError::io("open", &self.path))?;
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, self.metadata.clone());
        let names: Vec<&str> = wanted.iter().map(|&at| self.schema.field(at).name().as_str()).collect();
        let roots = self.metadata.schema().fields().iter().enumerate();
        let roots = roots.filter(|(_, field)| names.contains(&field.name().as_str())).map(|(at, _)| at);
        let mask = ProjectionMask::roots(builder.parquet_schema(), roots.collect::<Vec<_>>());
        let reader = builder.with_batch_size(BATCH_ROWS).with_row_groups(self.row_groups(scan)).with_projection(mask);
        let reader = reader.build().map_err(ArchiveError::parquet("read", &self.path))?;
        let target = Arc::new(self.schema.project(&wanted).expect("the wanted columns are the schema's"));
        let damaged = ArchiveError::parquet("read", &self.path);
        Ok(reader.map(move |batch| match batch {
            Ok(batch) => Ok(complete(&batch, &target)),
            Err(error) => Err(damaged(error.into())),
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

/// The batch with the target's columns: those that the part has not are null.
fn complete(batch: &RecordBatch, target: &arrow_schema::SchemaRef) -> RecordBatch {
    let columns = target.fields().iter().map(|field| match batch.column_by_name(field.name()) {
        Some(column) => Arc::clone(column),
        None => new_null_array(field.data_type(), batch.num_rows()),
    });
    let columns: Vec<ArrayRef> = columns.collect();
    RecordBatch::try_new(Arc::clone(target), columns).expect("the columns were checked when the part was opened")
}
