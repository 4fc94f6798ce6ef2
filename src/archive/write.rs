//! One Parquet file: how it is laid out, and its writing.
//!
//! Row groups of 32 Ki rows: small enough that a query for one device skips most of a day, large
//! enough that zstd and the dictionaries find what repeats. Numbers are not dictionary-encoded: an
//! 8-byte column just below the dictionary's limit would cost two fifths of the file. Every part
//! carries a checksum over all of it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow_array::RecordBatch;
use arrow_schema::{DataType, Field};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::{KeyValue, SortingColumn};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use crate::schema::Schema;

use super::checksum::{self, Hashing, Refused};
use super::{ARCHIVE_FORMAT, ArchiveError};
use crate::disk::{Disk, DiskError, DiskFile};

/// Rows in a row group.
pub(super) const GROUP_ROWS: usize = 32 * 1024;

/// A part that is being written.
pub(super) struct PartWriter {
    path: PathBuf,
    writer: ArrowWriter<Hashing>,
    refused: Refused,
    rows: u64,
}

impl PartWriter {
    pub(super) fn create(disk: &Disk, path: &Path, schema: &Schema) -> Result<Self, ArchiveError> {
        let file = Hashing::new(disk.create(path)?);
        let refused = file.refused();
        let writer = ArrowWriter::try_new(file, Arc::clone(schema.arrow()), Some(properties(schema)));
        let writer = writer.map_err(|error| failed(path, &refused, error))?;
        Ok(Self { path: path.to_owned(), writer, refused, rows: 0 })
    }

    /// Appends rows, which follow those before in the schema's order.
    pub(super) fn write(&mut self, batch: &RecordBatch) -> Result<(), ArchiveError> {
        self.rows += batch.num_rows() as u64;
        self.writer.write(batch).map_err(|error| failed(&self.path, &self.refused, error))
    }

    /// An error that keeps rows from being written.
    pub(super) fn error(&self, error: arrow_schema::ArrowError) -> ArchiveError {
        ArchiveError::Parquet { path: self.path.clone(), error: error.into() }
    }

    /// Completes the file and makes its content durable. Returns its rows and bytes.
    pub(super) fn finish(self) -> Result<(u64, u64), ArchiveError> {
        let file = self.writer.into_inner().map_err(|error| failed(&self.path, &self.refused, error))?;
        let bytes = file.length();
        let file: DiskFile = file.seal()?;
        file.sync()?;
        Ok((self.rows, bytes))
    }
}

/// What kept rows from being written: the file system, or what they are.
fn failed(path: &Path, refused: &Refused, error: ParquetError) -> ArchiveError {
    match refused.load(Ordering::Relaxed) {
        0 => ArchiveError::Parquet { path: path.to_owned(), error },
        number => DiskError::new("write", path, io::Error::from_raw_os_error(number)).into(),
    }
}

fn properties(schema: &Schema) -> WriterProperties {
    let level = ZstdLevel::try_new(3).expect("3 is a level of zstd");
    let mut builder = WriterProperties::builder()
        .set_compression(Compression::ZSTD(level))
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .set_created_by(tool())
        .set_sorting_columns(Some(sorting_columns(schema)))
        .set_key_value_metadata(Some(metadata(schema)));
    for field in schema.arrow().fields() {
        for path in text_leaves(field, &[field.name().clone()]) {
            builder = builder.set_column_dictionary_enabled(ColumnPath::new(path), true);
        }
    }
    builder.build()
}

/// The Parquet paths of a field's text: those repeat, and a dictionary pays.
fn text_leaves(field: &Field, path: &[String]) -> Vec<Vec<String>> {
    let below =
        |path: &[String], names: &[&str]| [path, &names.iter().map(ToString::to_string).collect::<Vec<_>>()].concat();
    match field.data_type() {
        DataType::Utf8 => vec![path.to_vec()],
        DataType::List(item) => text_leaves(item, &below(path, &["list", item.name()])),
        DataType::Struct(members) => {
            members.iter().flat_map(|member| text_leaves(member, &below(path, &[member.name()]))).collect()
        }
        _ => Vec::new(),
    }
}

fn sorting_columns(schema: &Schema) -> Vec<SortingColumn> {
    let leaves = |fields: &[Arc<Field>]| fields.iter().map(|field| leaves_of(field.data_type())).sum::<usize>();
    let columns = schema.key.iter().map(|&at| SortingColumn {
        column_idx: i32::try_from(leaves(&schema.arrow().fields()[..at])).expect("a schema has fewer columns than i32"),
        descending: false,
        nulls_first: true,
    });
    columns.collect()
}

/// The number of Parquet columns that an Arrow type takes.
fn leaves_of(data_type: &DataType) -> usize {
    match data_type {
        DataType::List(item) => leaves_of(item.data_type()),
        DataType::Struct(members) => members.iter().map(|member| leaves_of(member.data_type())).sum(),
        _ => 1,
    }
}

fn metadata(schema: &Schema) -> Vec<KeyValue> {
    let entry = |key: &str, value: String| KeyValue::new(format!("dex_archive.{key}"), value);
    vec![
        entry("format", ARCHIVE_FORMAT.to_string()),
        entry("dataset", schema.dataset.clone()),
        entry("schema_version", schema.version().to_string()),
        entry("schema_fingerprint", schema.fingerprint()),
        entry("tool", tool()),
        KeyValue::new(checksum::KEY.to_owned(), checksum::BLANK.to_owned()),
    ]
}

/// Name and version of what writes.
pub(super) fn tool() -> String {
    format!("dex-archive {}", env!("CARGO_PKG_VERSION"))
}
