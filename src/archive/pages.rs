//! Which row groups and pages can hold what a scan asks for, by the least and the greatest value of each.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use arrow_schema::SchemaRef;
use parquet::arrow::arrow_reader::RowSelection;
use parquet::errors::ParquetError;
use parquet::file::metadata::page_index::{PageIndex, PageIndexProvider};
use parquet::file::metadata::{ColumnChunkMask, PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};
use parquet::file::page_index::column_index::ColumnIndexMetaData;

use super::outline::Bounds;
use super::scan::Scan;
use super::source::Source;

/// Whether rows within these bounds can be what a scan asks for.
pub(super) fn may_hold(bounds: &BTreeMap<String, Bounds>, scan: &Scan, schema: &SchemaRef) -> bool {
    let of = |column: usize| bounds.get(schema.field(column).name());
    let texts = scan.any_of.as_ref().is_none_or(|(column, texts)| match of(*column) {
        Some(Bounds::Text(min, max)) => texts.iter().any(|text| min <= text && text <= max),
        _ => true,
    });
    let times = scan.within.as_ref().is_none_or(|(column, times)| match of(*column) {
        Some(Bounds::Number(min, max)) => *min < times.end && *max >= times.start,
        _ => true,
    });
    texts && times
}

/// A scan without what is true of every row within these bounds.
pub(super) fn narrowed(bounds: &BTreeMap<String, Bounds>, scan: &Scan, schema: &SchemaRef) -> Scan {
    let is_certain =
        scan.within.as_ref().is_some_and(|(column, times)| match bounds.get(schema.field(*column).name()) {
            Some(Bounds::Number(min, max)) => times.contains(min) && times.contains(max),
            _ => false,
        });
    Scan { within: scan.within.clone().filter(|_| !is_certain), ..scan.clone() }
}

/// The rows of a lone row group in whose pages there can be what a scan asks for, and of these only such as are
/// `known` to be wanted; with the places of the pages of the wanted columns (`leaves`). None where all rows are, or
/// where the part does not say.
pub(super) fn select(
    source: &Source,
    metadata: ParquetMetaData,
    scan: &Scan,
    schema: &SchemaRef,
    leaves: &[usize],
    known: Option<&RowSelection>,
) -> Result<(ParquetMetaData, Option<RowSelection>), ParquetError> {
    let asked = asked(&metadata, scan, schema);
    let rows = usize::try_from(metadata.row_group(0).num_rows()).unwrap_or(0);
    let known = known.cloned();
    if asked.is_empty() && known.as_ref().is_none_or(|known| known.row_count() == rows) {
        return Ok((metadata, None));
    }
    let indexed =
        if source.is_far() { source.holding_sparse(&indexes(&metadata, &asked, leaves))? } else { source.clone() };
    let source = &indexed;
    // One after the other: in the file, the indexes of all row groups lie between a row group's two.
    let columns = ColumnChunkMask::columns(asked.iter().map(|(leaf, _)| *leaf));
    let reader = ParquetMetaDataReader::new_with_metadata(metadata).with_column_index_mask(columns);
    let reader = reader.with_column_index_policy(PageIndexPolicy::Optional);
    let (metadata, bounds) = reader.read_page_index_and_finish(source)?;
    let needed = || asked.iter().map(|(leaf, _)| *leaf).chain(leaves.iter().copied());
    let places = ColumnChunkMask::columns(needed());
    let reader = ParquetMetaDataReader::new_with_metadata(metadata).with_offset_index_mask(places);
    let reader = reader.with_offset_index_policy(PageIndexPolicy::Optional);
    let (metadata, places) = reader.read_page_index_and_finish(source)?;
    let Some(places) = places else { return Ok((metadata, known)) };
    if needed().any(|leaf| !is_in_order(&places, leaf, rows)) {
        return Err(ParquetError::General("its page index makes no sense".to_owned()));
    }
    let by_pages = bounds.into_iter().flat_map(|bounds| {
        let kept = asked.iter().filter_map(|(leaf, filter)| pages(*leaf, filter, &bounds, &places, rows));
        kept.collect::<Vec<_>>()
    });
    let selection = by_pages.chain(known).reduce(|a, b| a.intersection(&b));
    let selection = selection.filter(|selection| selection.row_count() < rows);
    if selection.is_none() {
        return Ok((metadata, None));
    }
    Ok((metadata.into_builder().set_page_index(Some(Arc::new(places))).build(), selection))
}

/// Whether the pages of a column begin at one row after the other, as they must: by that, rows are stepped over.
fn is_in_order(places: &PageIndex, leaf: usize, rows: usize) -> bool {
    let places = places.page_locations(0, leaf).map(Vec::as_slice).unwrap_or_default();
    places.first().is_none_or(|first| first.first_row_index == 0)
        && places.is_sorted_by(|a, b| a.first_row_index < b.first_row_index)
        && places.last().is_none_or(|last| usize::try_from(last.first_row_index).is_ok_and(|last| last < rows))
}

/// A lone row group with the places of its pages, as far as they are said.
pub(super) fn with_places(source: &Source, metadata: ParquetMetaData) -> Result<ParquetMetaData, ParquetError> {
    let reader = ParquetMetaDataReader::new_with_metadata(metadata).with_offset_index_policy(PageIndexPolicy::Optional);
    let (metadata, places) = reader.read_page_index_and_finish(source)?;
    Ok(metadata.into_builder().set_page_index(places.map(|places| Arc::new(places) as _)).build())
}

/// Where the indexes of a lone row group are that [`select`] reads: of bounds, and of places.
fn indexes(metadata: &ParquetMetaData, asked: &[(usize, Filter)], leaves: &[usize]) -> [Vec<Range<u64>>; 2] {
    let range = |start: Option<i64>, length: Option<i32>| {
        let (start, length) = (u64::try_from(start?).ok()?, u64::try_from(length?).ok()?);
        (length > 0).then(|| start..start.saturating_add(length))
    };
    let chunk = |leaf: usize| metadata.row_group(0).column(leaf);
    let bounds = asked.iter().map(|(leaf, _)| chunk(*leaf));
    let bounds = bounds.filter_map(|chunk| range(chunk.column_index_offset(), chunk.column_index_length()));
    let places: BTreeSet<usize> = asked.iter().map(|(leaf, _)| *leaf).chain(leaves.iter().copied()).collect();
    let places = places.into_iter().map(chunk);
    let places = places.filter_map(|chunk| range(chunk.offset_index_offset(), chunk.offset_index_length()));
    [bounds.collect(), places.collect()]
}

/// Where the pages of a lone row group are that a selection needs, and the dictionaries: position and length.
pub(super) fn pieces(metadata: &ParquetMetaData, selection: &RowSelection, leaves: &[usize]) -> Vec<(u64, u64)> {
    let Some(places) = metadata.page_index() else { return Vec::new() };
    let of_leaf = |&leaf: &usize| {
        let pages = places.page_locations(0, leaf).map(Vec::as_slice).unwrap_or_default();
        let (start, length) = metadata.row_group(0).column(leaf).byte_range();
        let first = pages.first().and_then(|page| u64::try_from(page.offset).ok()).unwrap_or(start + length);
        let dictionary = (first > start).then(|| (start, first - start));
        let pages = selection.scan_ranges(pages).into_iter().map(|range| (range.start, range.end - range.start));
        dictionary.into_iter().chain(pages).collect::<Vec<_>>()
    };
    leaves.iter().flat_map(of_leaf).collect()
}

/// What the values of a page have to leave room for.
enum Filter<'a> {
    Texts(&'a [String]),
    Times(&'a Range<i64>),
}

/// The columns that a scan asks something of, by their position among the Parquet columns.
fn asked<'a>(metadata: &ParquetMetaData, scan: &'a Scan, schema: &SchemaRef) -> Vec<(usize, Filter<'a>)> {
    let columns = metadata.file_metadata().schema_descr().columns();
    let leaf = |column: usize| {
        let name = schema.field(column).name();
        columns.iter().position(|leaf| leaf.path().parts() == [name.as_str()])
    };
    let texts = scan.any_of.iter().filter_map(|(column, texts)| Some((leaf(*column)?, Filter::Texts(texts))));
    let times = scan.within.iter().filter_map(|(column, times)| Some((leaf(*column)?, Filter::Times(times))));
    texts.chain(times).collect()
}

/// The rows of those pages of a column that can hold what is asked of it.
fn pages(leaf: usize, filter: &Filter, bounds: &PageIndex, places: &PageIndex, rows: usize) -> Option<RowSelection> {
    let index = bounds.column_index(0, leaf)?;
    let first_rows = places.page_locations(0, leaf)?.iter().map(|place| usize::try_from(place.first_row_index).ok());
    let first_rows = first_rows.collect::<Option<Vec<usize>>>()?;
    let end = |page: usize| first_rows.get(page + 1).copied().unwrap_or(rows);
    let kept = first_rows.iter().enumerate().filter(|(page, _)| filter.fits(index, *page));
    let ranges = kept.map(|(page, &first)| first..end(page));
    Some(RowSelection::from_consecutive_ranges(ranges, rows))
}

impl Filter<'_> {
    fn fits(&self, index: &ColumnIndexMetaData, page: usize) -> bool {
        match (self, index) {
            _ if index.is_null_page(page) => false,
            (Self::Texts(texts), ColumnIndexMetaData::BYTE_ARRAY(index)) => {
                let bounds = index.min_value(page).zip(index.max_value(page));
                bounds.is_none_or(|(min, max)| texts.iter().any(|text| (min..=max).contains(&text.as_bytes())))
            }
            (Self::Times(times), ColumnIndexMetaData::INT64(index)) => {
                let bounds = index.min_value(page).zip(index.max_value(page));
                bounds.is_none_or(|(min, max)| *min < times.end && *max >= times.start)
            }
            _ => true,
        }
    }
}
