//! One Parquet file: how it is laid out, and its writing.
//!
//! What each column costs in each way, `cargo bench --bench encodings` measures; of 274,385 simulated states (in
//! bytes a row) it says:
//!
//! * Row groups are as large as a day of some 1,800 devices. In a large one, dictionaries pay for what repeats
//!   seldom too: the numbers of the applications, with two to five decimals, take 38 in row groups of 32 Ki rows,
//!   28 in such of 128 Ki and 25 in one of the whole day. A row group is also what a footer describes at length.
//! * Whole numbers are written as differences, uncompressed: they are read in no time. What hardly changes has a
//!   dictionary. The schema table says which is which. `BYTE_STREAM_SPLIT` would save a seventh of numbers of many
//!   sizes, such as bytes sent, 5 % of a part, and is not used: Spark before 4.3 and DuckDB before 2.0 cannot read it
//!   where the numbers are whole.
//! * Pages are short where a query wants a single device of many days, and long where what repeats is cheap to
//!   step over, or is seldom asked for. Zstandard finds less in short ones: percentages take 12.5 in pages of
//!   2 Ki rows, 11.6 in such of 4 Ki.
//! * Zstandard's level 9 instead of 3 would save 1 for a fifth more time.
//!
//! Only the columns that rows are known by have bounds for each page: in that order the rows stand, and of the other
//! columns the bounds would say little. Of texts that are personal, the smallest and the largest of a day help nobody,
//! and are not written. Every part carries a checksum over all of it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow_array::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::basic::{self, Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::SortingColumn;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};
use parquet::schema::types::ColumnPath;

use crate::schema::{Column, Encoding, Kind, Schema};

use super::checksum::{Hashing, Refused};
use super::key_index::KeyIndexes;
use super::outline::Outline;
use super::{ArchiveError, provenance};
use crate::disk::{Disk, DiskError};

/// The most rows in a row group. A part's are even. (Tests have days of several row groups, and no time.)
const GROUP_ROWS: usize = if cfg!(test) { 32 } else { 512 } * 1024;

/// Rows in a page of a column that is asked for by device: a day of one, and little more, has to be decoded.
pub(super) const SHORT_PAGE_ROWS: usize = 2 * 1024;

/// Rows in a page of what repeats, or of a list.
const LONG_PAGE_ROWS: usize = 20_000;

/// Bytes of the distinct values of a column of numbers. For texts, the library's own limit of a mebibyte stays.
const NUMBERS_BYTES: usize = 4 << 20;

/// A part that is being written.
pub(super) struct PartWriter {
    path: PathBuf,
    writer: ArrowWriter<Hashing>,
    refused: Refused,
    keys: KeyIndexes,
    rows: u64,
}

impl PartWriter {
    /// Begins a part of so many rows, or fewer. Its row groups are even where there are as many.
    pub(super) fn create(disk: &Disk, path: &Path, schema: &Schema, rows: usize) -> Result<Self, ArchiveError> {
        let file = Hashing::new(disk.create(path)?);
        let refused = file.refused();
        let writer = ArrowWriter::try_new(file, Arc::clone(schema.arrow()), Some(properties(schema, rows)));
        let writer = writer.map_err(|error| failed(path, &refused, error))?;
        let keys = KeyIndexes::new(schema.key[0], group_rows(rows));
        Ok(Self { path: path.to_owned(), writer, refused, keys, rows: 0 })
    }

    /// Appends rows, which follow those before in the schema's order.
    pub(super) fn write(&mut self, batch: &RecordBatch) -> Result<(), ArchiveError> {
        self.rows += batch.num_rows() as u64;
        self.keys.add(batch);
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
        let mut outline = outline.map_err(|error| ArchiveError::Parquet { path: self.path.clone(), error })?;
        let before = [outline.take_keys(&self.keys.finish()), outline.to_bytes()].concat();
        let (file, bytes) = file.seal(&before)?;
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

fn properties(schema: &Schema, rows: usize) -> WriterProperties {
    let mut builder = WriterProperties::builder()
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_max_row_group_row_count(Some(group_rows(rows)))
        .set_created_by(tool())
        .set_sorting_columns(Some(sorting_columns(schema)))
        .set_key_value_metadata(Some(provenance::entries(schema)));
    for column in &schema.columns {
        builder = match &column.fields[..] {
            [] => encoded(builder, ColumnPath::from(column.name.as_str()), column.kind, column.encoding),
            members => members.iter().fold(builder, |builder, member| {
                let path = [&column.name, "list", "element", &member.name].map(str::to_owned).to_vec();
                encoded(builder, ColumnPath::new(path.clone()), member.kind, member.encoding)
                    .set_column_data_page_row_count_limit(path.into(), LONG_PAGE_ROWS)
            }),
        };
    }
    for column in schema.columns.iter().filter(|column| column.kind == Kind::String && column.personal.is_some()) {
        builder =
            builder.set_column_statistics_enabled(ColumnPath::from(column.name.as_str()), EnabledStatistics::None);
    }
    for &at in &schema.key {
        let path = ColumnPath::from(schema.columns[at].name.as_str());
        builder = builder
            .set_column_statistics_enabled(path.clone(), EnabledStatistics::Page)
            .set_column_data_page_row_count_limit(path.clone(), SHORT_PAGE_ROWS)
            .set_column_compression(path, Compression::UNCOMPRESSED);
    }
    builder.build()
}

/// As many row groups as are needed, all of one size.
fn group_rows(rows: usize) -> usize {
    rows.div_ceil(rows.div_ceil(GROUP_ROWS).max(1)).max(1)
}

/// How the values of a Parquet column are written.
fn encoded(
    builder: WriterPropertiesBuilder,
    path: ColumnPath,
    kind: Kind,
    encoding: Option<Encoding>,
) -> WriterPropertiesBuilder {
    let zstd = Compression::ZSTD(ZstdLevel::try_new(3).expect("zstd has a level 3"));
    let usual = match kind {
        Kind::String => Encoding::Dictionary,
        Kind::Int64 | Kind::Timestamp => Encoding::Delta,
        Kind::Float64 | Kind::Boolean | Kind::List => Encoding::Plain,
    };
    let (encoding, compression, page) = match encoding.unwrap_or(usual) {
        Encoding::Plain if kind == Kind::Boolean => (basic::Encoding::PLAIN, zstd, LONG_PAGE_ROWS),
        Encoding::Plain => (basic::Encoding::PLAIN, zstd, SHORT_PAGE_ROWS),
        Encoding::Delta => (basic::Encoding::DELTA_BINARY_PACKED, Compression::UNCOMPRESSED, SHORT_PAGE_ROWS),
        Encoding::Dictionary => {
            let limited = if kind == Kind::String {
                builder
            } else {
                builder.set_column_dictionary_page_size_limit(path.clone(), NUMBERS_BYTES)
            };
            return limited
                .set_column_dictionary_enabled(path.clone(), true)
                .set_column_compression(path.clone(), zstd)
                .set_column_data_page_row_count_limit(path, LONG_PAGE_ROWS);
        }
    };
    builder
        .set_column_encoding(path.clone(), encoding)
        .set_column_compression(path.clone(), compression)
        .set_column_data_page_row_count_limit(path, page)
}

fn sorting_columns(schema: &Schema) -> Vec<SortingColumn> {
    let leaves = |column: &Column| column.fields.len().max(1);
    let before = |at: usize| schema.columns[..at].iter().map(leaves).sum::<usize>();
    let columns = schema.key.iter().map(|&at| SortingColumn {
        column_idx: i32::try_from(before(at)).expect("a schema has fewer columns than i32"),
        descending: false,
        nulls_first: true,
    });
    columns.collect()
}

/// Name and version of what writes.
pub(super) fn tool() -> String {
    format!("dex-archive {}", env!("CARGO_PKG_VERSION"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_encodings_are_used_that_older_readers_know() {
        let known = [None, Some(basic::Encoding::PLAIN), Some(basic::Encoding::DELTA_BINARY_PACKED)];
        for schema in Schema::all() {
            let properties = properties(&schema, 1_000);
            for column in &schema.columns {
                let path = ColumnPath::from(column.name.as_str());
                let encoding = properties.encoding(&path);
                assert!(known.contains(&encoding), "{}: {encoding:?}", column.name);
                let is_number = matches!(column.kind, Kind::Int64 | Kind::Timestamp);
                let is_delta = encoding == Some(basic::Encoding::DELTA_BINARY_PACKED);
                assert!(is_number || !is_delta, "{}: of whole numbers alone", column.name);
            }
        }
    }
}
