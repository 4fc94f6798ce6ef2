//! Rows that are no part of an archive, as a Parquet file: what a question is answered with.

use arrow_array::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;

use super::write::tool;

/// A batch as a Parquet file of its own, in memory.
///
/// # Errors
/// Where the batch has a type that Parquet has not.
pub fn to_parquet(batch: &RecordBatch) -> Result<Vec<u8>, ParquetError> {
    let zstd = Compression::ZSTD(ZstdLevel::default());
    let properties = WriterProperties::builder().set_compression(zstd).set_created_by(tool()).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties))?;
    writer.write(batch)?;
    writer.into_inner()
}
