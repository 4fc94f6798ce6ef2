//! What each column costs in each encoding: bytes a row, and microseconds to write and to read it.
//!
//! `cargo bench --bench encodings -- PART [PAGE_ROWS GROUP_ROWS]` writes every column of a part by itself, in every
//! way that its type allows, and prints the ways that are smallest, beside the smallest without compression. The
//! decisions that were made by it stand in `src/archive/write.rs`; nothing is asserted.

#![expect(clippy::print_stdout, reason = "that is what it is for")]

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::num::NonZeroUsize;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use arrow_array::RecordBatch;
use arrow_schema::{DataType, Field, Schema as ArrowSchema};
use bytes::Bytes;
use dex_archive::archive::Part;
use dex_archive::schema::Schema;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};

type Failed = Box<dyn Error>;

const USAGE: &str = "usage: cargo bench --bench encodings -- PART [PAGE_ROWS [GROUP_ROWS]]";

/// Levels of zstd; 0 is none.
const LEVELS: [i32; 4] = [0, 1, 3, 9];

/// Ways that are printed of each column.
const PRINTED: usize = 4;

/// Dictionaries up to so many bytes.
const DICTIONARY_BYTES: usize = 8 << 20;

/// One column in one way.
struct Written {
    way: String,
    bytes: usize,
    write_micros: u128,
    read_micros: u128,
    /// By Parquet column.
    leaves: BTreeMap<String, i64>,
}

#[expect(clippy::print_stderr, reason = "it says how it is called")]
fn main() -> Result<ExitCode, Failed> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let [part, rows @ ..] = &arguments[..] else {
        // A bare `cargo bench` calls it so, with all the others.
        println!("{USAGE}");
        return Ok(ExitCode::SUCCESS);
    };
    let rows: Result<Vec<usize>, _> =
        rows.iter().map(|rows| rows.parse::<NonZeroUsize>().map(NonZeroUsize::get)).collect();
    let Some(rows) = rows.ok().filter(|rows| rows.len() <= 2 && !part.starts_with('-')) else {
        eprintln!("{USAGE}");
        return Ok(ExitCode::from(2));
    };
    let (page, group) = (rows.first().copied().unwrap_or(2_048), rows.get(1).copied().unwrap_or(32_768));
    measure(Path::new(part), page, group)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints what each column of a part costs.
fn measure(part: &Path, page: usize, group: usize) -> Result<(), Failed> {
    let schema = Schema::device_state();
    let batches = Part::open(part, &schema)?.batches(None).collect::<Result<Vec<_>, _>>()?;
    let all = arrow_select::concat::concat_batches(schema.arrow(), &batches)?;
    println!(
        "{} rows, pages of {page}, groups of {group}; bytes a row, microseconds to write and read all",
        all.num_rows()
    );
    let mut smallest = 0;
    for (at, field) in schema.arrow().fields().iter().enumerate() {
        // Its description would be in the file with it.
        let plain = Field::new(field.name(), field.data_type().clone(), true).with_metadata(HashMap::new());
        let column = RecordBatch::try_new(Arc::new(ArrowSchema::new(vec![plain])), vec![Arc::clone(all.column(at))])?;
        let mut written = in_every_way(&column, page, group)?;
        written.sort_by_key(|written| written.bytes);
        smallest += written[0].bytes;
        let uncompressed = written.iter().position(|written| written.way.ends_with("/0")).unwrap_or(0);
        println!("{} ({}, {} null)", field.name(), field.data_type(), column.column(0).null_count());
        for written in written.iter().take(PRINTED).chain(written.get(uncompressed).filter(|_| uncompressed >= PRINTED))
        {
            print(written, all.num_rows());
        }
    }
    println!("each in its smallest way: {:.2} bytes a row", per_row(smallest, all.num_rows()));
    Ok(())
}

fn in_every_way(column: &RecordBatch, page: usize, group: usize) -> Result<Vec<Written>, Failed> {
    let mut written = Vec::new();
    for encoding in encodings(column.schema().field(0).data_type()) {
        for level in LEVELS {
            written.push(write(column, *encoding, level, page, group)?);
        }
    }
    Ok(written)
}

/// The encodings that a type allows; none is a dictionary. Of a list, those of the numbers in it.
fn encodings(data_type: &DataType) -> &'static [Option<Encoding>] {
    match data_type {
        DataType::Int64 | DataType::Timestamp(..) => {
            &[None, Some(Encoding::PLAIN), Some(Encoding::DELTA_BINARY_PACKED), Some(Encoding::BYTE_STREAM_SPLIT)]
        }
        DataType::Float64 | DataType::List(_) => &[None, Some(Encoding::PLAIN), Some(Encoding::BYTE_STREAM_SPLIT)],
        DataType::Utf8 => &[None, Some(Encoding::PLAIN), Some(Encoding::DELTA_BYTE_ARRAY)],
        _ => &[Some(Encoding::PLAIN)],
    }
}

fn write(
    column: &RecordBatch,
    encoding: Option<Encoding>,
    level: i32,
    page: usize,
    group: usize,
) -> Result<Written, Failed> {
    let compression = match level {
        0 => Compression::UNCOMPRESSED,
        level => Compression::ZSTD(ZstdLevel::try_new(level)?),
    };
    let is_list = matches!(column.schema().field(0).data_type(), DataType::List(_));
    let mut properties = WriterProperties::builder()
        .set_compression(compression)
        .set_max_row_group_row_count(Some(group))
        .set_data_page_row_count_limit(page)
        .set_dictionary_page_size_limit(DICTIONARY_BYTES)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_dictionary_enabled(encoding.is_none());
    if let Some(encoding) = encoding.filter(|_| !is_list) {
        properties = properties.set_encoding(encoding);
    }
    if is_list {
        // The texts are better off with a dictionary whatever becomes of the numbers.
        let name = column.schema().field(0).name().clone();
        let texts = ["list", "element", "name"].map(str::to_owned);
        let path = [vec![name.clone()], texts.to_vec()].concat();
        properties = properties.set_column_dictionary_enabled(path.into(), true);
        if let Some(encoding) = encoding {
            for number in ["cpu_pct", "ram_used_pct"] {
                let path = [name.as_str(), "list", "element", number].map(str::to_owned).to_vec();
                properties = properties.set_column_encoding(path.into(), encoding);
            }
        }
    }
    let began = Instant::now();
    let mut writer = ArrowWriter::try_new(Vec::new(), column.schema(), Some(properties.build()))?;
    for start in (0..column.num_rows()).step_by(8_192) {
        writer.write(&column.slice(start, 8_192.min(column.num_rows() - start)))?;
    }
    let file = Bytes::from(writer.into_inner()?);
    let write_micros = began.elapsed().as_micros();
    let began = Instant::now();
    let builder = ParquetRecordBatchReaderBuilder::try_new(file)?;
    let mut leaves: BTreeMap<String, i64> = BTreeMap::new();
    for chunk in builder.metadata().row_groups().iter().flat_map(|group| group.columns().to_vec()) {
        *leaves.entry(chunk.column_path().string()).or_default() += chunk.compressed_size();
    }
    builder.build()?.try_for_each(|batch| batch.map(drop))?;
    let name = encoding.map_or_else(|| "dictionary".to_owned(), |encoding| encoding.to_string().to_lowercase());
    Ok(Written {
        way: format!("{name}/{level}"),
        bytes: usize::try_from(leaves.values().sum::<i64>())?,
        write_micros,
        read_micros: began.elapsed().as_micros(),
        leaves,
    })
}

fn print(written: &Written, rows: usize) {
    let Written { way, bytes, write_micros, read_micros, leaves } = written;
    print!("    {way:<24} {:8.3} {write_micros:>8} {read_micros:>8}", per_row(*bytes, rows));
    if leaves.len() > 1 {
        leaves.iter().for_each(|(leaf, bytes)| {
            let leaf = leaf.rsplit('.').next().unwrap_or(leaf);
            print!("  {leaf} {:.3}", per_row(usize::try_from(*bytes).unwrap_or(0), rows));
        });
    }
    println!();
}

#[expect(clippy::cast_precision_loss, reason = "a part has fewer than 2^53 bytes")]
fn per_row(bytes: usize, rows: usize) -> f64 {
    bytes as f64 / rows as f64
}
