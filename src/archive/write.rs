//! One Parquet file: how it is laid out, and its writing.
//!
//! Row groups of 32 Ki rows: small enough that a query for one device skips most of a day, large
//! enough that zstd and the dictionaries find what repeats. Numbers are not dictionary-encoded: an
//! 8-byte column just below the dictionary's limit would cost two fifths of the file. Only the columns
//! that rows are known by have bounds for each page: in that order the rows stand, and of the other columns
//! the bounds would say little. Every part carries a checksum over all of it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow_array::RecordBatch;
use arrow_schema::{DataType, Field};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::{KeyValue, SortingColumn};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use crate::schema::Schema;

use super::checksum::{self, Hashing, Refused};
use super::outline::Outline;
use super::{ARCHIVE_FORMAT, ArchiveError};
use crate::disk::{Disk, DiskError};

/// Rows in a row group.
pub(super) const GROUP_ROWS: usize = 32 * 1024;

/// Rows in a page of a plain column: a device's day, and little more, is what a query has to decode.
const PAGE_ROWS: usize = 2 * 1024;

/// Rows in a page of a list, which is seldom asked for, and is half of a part: larger pages are smaller files.
const LIST_PAGE_ROWS: usize = 20_000;

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
    pub(super) fn finish(mut self, schema: &Schema) -> Result<(u64, u64), ArchiveError> {
        let ended = self.writer.flush().and_then(|()| {
            self.writer.inner_mut().hold();
            self.writer.into_inner()
        });
        let file = ended.map_err(|error| failed(&self.path, &self.refused, error))?;
        let outline = match file.end() {
            Some((_, footer)) => Outline::of(footer, schema),
            None => Err(ParquetError::General("the footer is not where it should be".to_owned())),
        };
        let outline = outline.map_err(|error| ArchiveError::Parquet { path: self.path.clone(), error })?;
        let (file, bytes) = file.seal(&outline.to_bytes())?;
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
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .set_created_by(tool())
        .set_sorting_columns(Some(sorting_columns(schema)))
        .set_key_value_metadata(Some(metadata(schema)));
    for field in schema.arrow().fields() {
        for (path, data_type) in leaves(field, &[]) {
            let is_in_list = path.len() > 1;
            let path = ColumnPath::new(path);
            builder = match data_type {
                _ if is_in_list => builder.set_column_data_page_row_count_limit(path, LIST_PAGE_ROWS),
                DataType::Utf8 => builder.set_column_dictionary_enabled(path, true),
                DataType::Int64 | DataType::Timestamp(..) => builder
                    .set_column_encoding(path.clone(), Encoding::DELTA_BINARY_PACKED)
                    .set_column_compression(path, Compression::UNCOMPRESSED),
                _ => builder,
            };
        }
    }
    for &at in &schema.key {
        let path = ColumnPath::from(schema.columns[at].name.as_str());
        builder = builder
            .set_column_statistics_enabled(path.clone(), EnabledStatistics::Page)
            .set_column_compression(path, Compression::UNCOMPRESSED);
    }
    builder.build()
}

/// The Parquet columns of a field: their paths and types.
fn leaves(field: &Field, above: &[String]) -> Vec<(Vec<String>, DataType)> {
    let path = [above, &[field.name().clone()]].concat();
    match field.data_type() {
        DataType::List(item) => leaves(item, &[path, vec!["list".to_owned()]].concat()),
        DataType::Struct(members) => members.iter().flat_map(|member| leaves(member, &path)).collect(),
        plain => vec![(path, plain.clone())],
    }
}

fn sorting_columns(schema: &Schema) -> Vec<SortingColumn> {
    let before = |at: usize| schema.arrow().fields()[..at].iter().flat_map(|field| leaves(field, &[])).count();
    let columns = schema.key.iter().map(|&at| SortingColumn {
        column_idx: i32::try_from(before(at)).expect("a schema has fewer columns than i32"),
        descending: false,
        nulls_first: true,
    });
    columns.collect()
}

fn metadata(schema: &Schema) -> Vec<KeyValue> {
    let entry = |key: &str, value: String| KeyValue::new(format!("dex_archive.{key}"), value);
    vec![
        entry("format", ARCHIVE_FORMAT.to_string()),
        entry("dataset", schema.dataset.clone()),
        entry("schema_version", schema.version().to_string()),
        entry("schema_fingerprint", schema.fingerprint().to_owned()),
        entry("tool", tool()),
        KeyValue::new(checksum::KEY.to_owned(), checksum::BLANK.to_owned()),
    ]
}

/// Name and version of what writes.
pub(super) fn tool() -> String {
    format!("dex-archive {}", env!("CARGO_PKG_VERSION"))
}
