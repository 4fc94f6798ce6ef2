//! The outline of a part: where in its footer each row group is described, and what keys it holds.
//!
//! A Parquet footer describes every column of every row group. For a day of a large fleet that is more than a
//! megabyte, and a question about one device needs a hundredth of it. So each part has an outline in front of
//! its footer, where readers of Parquet do not look:
//!
//! ```text
//! pages, page indexes | key indexes | outline, JSON | its XXH64, 8 bytes | its length, 4 bytes | DXO1
//!     | footer | length, PAR1
//! ```
//!
//! (Numbers are little-endian.)
//! With it, a footer can be cut down to a single row group and the columns that are asked for, and only that is
//! decoded. A part without an outline is read by one that is made of its whole footer.
//!
//! Of Thrift's compact protocol only the frame is known here: what a row group says, the Parquet crate knows.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData};
use parquet::file::statistics::Statistics;
use serde::{Deserialize, Serialize};

use crate::schema::Schema;

use super::key_index::KeyIndex;
use super::source::Source;

/// How parts are written, counted up when that changes for readers. 0 was: whole numbers of many sizes in
/// `BYTE_STREAM_SPLIT`, which few can read; 1: without an index of keys.
pub(super) const LAYOUT: u32 = 2;

/// Ends an outline.
const MARK: &[u8; 4] = b"DXO1";

/// Length of what follows an outline: its hash, its length and the mark.
const TRAILER: usize = 16;

/// Fields in parquet.thrift: `FileMetaData.schema` and `.row_groups`, `RowGroup.columns`, `SchemaElement.num_children`.
const SCHEMA: i16 = 2;
const ROW_GROUPS: i16 = 4;
const CHUNKS: i16 = 1;
const CHILDREN: i16 = 5;

/// Nesting that a footer does not have: bytes that claim more are not one.
const DEEPEST: usize = 32;

/// Where the row groups are described in a footer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Outline {
    /// Fingerprint of the schema that the part was written by.
    pub(super) schema: String,
    /// How the part's values are written: see [`LAYOUT`].
    #[serde(default)]
    pub(super) layout: u32,
    /// Length of what stands before the list of row groups.
    pub(super) head: usize,
    pub(super) groups: Vec<GroupOutline>,
}

/// One row group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct GroupOutline {
    /// The first byte of its description in the footer, and the one after the last.
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) rows: u64,
    /// Lengths of the descriptions of its column chunks, in order; a text, so that reading the outline costs
    /// little where they are not needed.
    pub(super) chunks: String,
    /// The least and the greatest value of columns that rows are known by, as far as they have one.
    pub(super) bounds: BTreeMap<String, Bounds>,
    /// Where its index of keys is, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) keys: Option<KeysPlace>,
}

/// Where a row group's index of keys is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KeysPlace {
    /// Bytes from its first one to the outline.
    to_outline: u64,
    length: usize,
    hash: u64,
}

/// The least and the greatest value of a column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Bounds {
    /// Of texts, in the order of their bytes; the greatest may be cut, and is then the next after the cut.
    Text(String, String),
    /// Of whole numbers; of times, in microseconds since the Unix epoch.
    Number(i64, i64),
}

impl Outline {
    /// The outline of a footer.
    pub(super) fn of(footer: &[u8], schema: &Schema) -> Result<Self, ParquetError> {
        let metadata = ParquetMetaDataReader::decode_metadata(footer)?;
        let (head, places) = Thrift::row_groups(footer).ok_or_else(|| damaged("the footer has no row groups"))?;
        if places.len() != metadata.num_row_groups() {
            return Err(damaged("the footer's row groups cannot be told apart"));
        }
        let mut groups = groups(&metadata, schema);
        for (group, place) in groups.iter_mut().zip(places) {
            (group.from, group.to) = (place.start, place.end);
            let mut thrift = Thrift { bytes: &footer[place], at: 0 };
            let chunks = thrift.find(CHUNKS).and_then(|()| thrift.list_of_structs());
            let chunks = chunks.ok_or_else(|| damaged("the footer's column chunks cannot be told apart"))?;
            group.chunks = chunks.iter().map(|chunk| chunk.len().to_string()).collect::<Vec<_>>().join(" ");
        }
        Ok(Self { schema: schema.fingerprint().to_owned(), layout: LAYOUT, head, groups })
    }

    /// Takes the indexes of the row groups' keys, each with the rows of its group; none of them where these are not
    /// the groups of the footer. Returns what has to stand in front of the outline.
    pub(super) fn take_keys(&mut self, indexes: &[(usize, Vec<u8>)]) -> Vec<u8> {
        let rows = indexes.iter().map(|(rows, _)| *rows as u64);
        if !rows.eq(self.groups.iter().map(|group| group.rows)) {
            return Vec::new();
        }
        let mut to_outline = indexes.iter().map(|(_, index)| index.len() as u64).sum();
        for (group, (_, index)) in self.groups.iter_mut().zip(indexes) {
            let place = KeysPlace { to_outline, length: index.len(), hash: hash(index) };
            group.keys = (!index.is_empty()).then_some(place);
            to_outline -= index.len() as u64;
        }
        indexes.iter().flat_map(|(_, index)| index).copied().collect()
    }

    /// The outline as it stands in a part.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).expect("an outline is numbers and texts");
        let length = u32::try_from(bytes.len()).expect("an outline is a small part of a footer, which is below 4 GiB");
        bytes.extend(hash(&bytes).to_le_bytes());
        bytes.extend(length.to_le_bytes());
        bytes.extend(MARK);
        bytes
    }

    /// The outline in front of a footer, and where it begins; none where there is none, or one that is not as it was
    /// written.
    pub(super) fn before(source: &Source, footer: &Range<u64>) -> io::Result<Option<(Self, u64)>> {
        let Some(end) = footer.start.checked_sub(TRAILER as u64) else { return Ok(None) };
        let trailer = source.bytes(end, TRAILER)?;
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte));
        let start = end.checked_sub(number(&trailer[8..12])).filter(|_| trailer.ends_with(MARK));
        let Some(start) = start else { return Ok(None) };
        let bytes = source.bytes(start, usize::try_from(end - start).unwrap_or(usize::MAX))?;
        let is_right = hash(&bytes) == number(&trailer[..8]);
        Ok(is_right.then(|| Some((serde_json::from_slice(&bytes).ok()?, start))).flatten())
    }
}

impl GroupOutline {
    /// Its index of keys, in front of the outline; none where there is none, or one that is not as it was written.
    pub(super) fn key_index(&self, source: &Source, outline_start: u64) -> io::Result<Option<KeyIndex>> {
        let Some(place) = self.keys.filter(|place| place.length as u64 <= place.to_outline) else { return Ok(None) };
        let Some(start) = outline_start.checked_sub(place.to_outline) else { return Ok(None) };
        let bytes = source.bytes(start, place.length)?;
        let rows = usize::try_from(self.rows).unwrap_or(usize::MAX);
        Ok(if hash(&bytes) == place.hash { KeyIndex::new(bytes, rows) } else { None })
    }
}

/// What a footer says of each row group, without its place.
pub(super) fn groups(metadata: &ParquetMetaData, schema: &Schema) -> Vec<GroupOutline> {
    let of = |group: &RowGroupMetaData| GroupOutline {
        from: 0,
        to: 0,
        chunks: String::new(),
        rows: u64::try_from(group.num_rows()).unwrap_or(0),
        bounds: key_bounds(group, schema),
        keys: None,
    };
    metadata.row_groups().iter().map(of).collect()
}

/// A footer of one row group and some columns, made of the head of another and the description of the group, in
/// which the column chunks have the `lengths` of the outline. `wanted` says of each column, in order, whether it
/// stays; none where the bytes are no such thing.
pub(super) fn cut_footer(head: &[u8], group: &[u8], lengths: &str, wanted: &[bool]) -> Option<Vec<u8>> {
    let mut thrift = Thrift { bytes: head, at: 0 };
    thrift.find(SCHEMA)?;
    let before_schema = &head[..thrift.at];
    thrift.list()?;
    thrift.skip(Thrift::STRUCT, 0)?;
    let (mut kept, mut elements, mut is_leaf_kept) = (Vec::new(), 1, Vec::with_capacity(wanted.len()));
    for &is_wanted in wanted {
        let start = thrift.at;
        let (length, leaves) = thrift.tree()?;
        is_leaf_kept.extend(std::iter::repeat_n(is_wanted, leaves));
        if is_wanted {
            kept.push(start..thrift.at);
            elements += length;
        }
    }
    let after_schema = &head[thrift.at..];
    let mut thrift = Thrift { bytes: group, at: 0 };
    thrift.find(CHUNKS)?;
    let before_chunks = &group[..thrift.at];
    thrift.list()?;
    let mut chunks = Vec::new();
    for (length, is_kept) in lengths.split(' ').zip(is_leaf_kept) {
        let start = thrift.at;
        thrift.over(length.parse().ok()?)?;
        chunks.extend(is_kept.then_some(start..thrift.at));
    }
    let after_chunks = &group[thrift.at..];

    let mut footer = before_schema.to_vec();
    Thrift::begin_list(elements, &mut footer);
    Thrift::root(wanted.iter().filter(|is_wanted| **is_wanted).count(), &mut footer);
    kept.into_iter().for_each(|column| footer.extend(&head[column]));
    footer.extend(after_schema);
    Thrift::begin_list(1, &mut footer);
    footer.extend(before_chunks);
    Thrift::begin_list(chunks.len(), &mut footer);
    chunks.into_iter().for_each(|chunk| footer.extend(&group[chunk]));
    footer.extend(after_chunks);
    footer.push(Thrift::STOP);
    Some(footer)
}

fn key_bounds(group: &RowGroupMetaData, schema: &Schema) -> BTreeMap<String, Bounds> {
    let names = schema.key.iter().map(|&at| schema.columns[at].name.as_str());
    let leaf = |name: &str| group.columns().iter().find(|chunk| chunk.column_path().parts() == [name]);
    let bounds = names.filter_map(|name| Some((name.to_owned(), bounds(leaf(name)?.statistics()?)?)));
    bounds.collect()
}

fn bounds(statistics: &Statistics) -> Option<Bounds> {
    match statistics {
        Statistics::ByteArray(values) => {
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
            Some(Bounds::Text(text(values.min_opt()?.data())?, text(values.max_opt()?.data())?))
        }
        Statistics::Int64(values) => Some(Bounds::Number(*values.min_opt()?, *values.max_opt()?)),
        _ => None,
    }
}

fn hash(bytes: &[u8]) -> u64 {
    twox_hash::XxHash64::oneshot(0, bytes)
}

fn damaged(problem: &str) -> ParquetError {
    ParquetError::General(problem.to_owned())
}

/// Steps over values of Thrift's compact protocol, and writes frames of them.
struct Thrift<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Thrift<'a> {
    const STOP: u8 = 0;
    const STRUCT: u8 = 12;

    /// In a footer, the length of what stands before the list of row groups, and where each of them is.
    fn row_groups(footer: &'a [u8]) -> Option<(usize, Vec<Range<usize>>)> {
        let mut thrift = Self { bytes: footer, at: 0 };
        thrift.find(ROW_GROUPS)?;
        Some((thrift.at, thrift.list_of_structs()?))
    }

    /// Goes to the value of a field of the struct.
    fn find(&mut self, wanted: i16) -> Option<()> {
        let mut field = 0;
        loop {
            match self.field(&mut field)? {
                Self::STOP => return None,
                _ if field == wanted => return Some(()),
                kind => self.skip(kind, 0)?,
            }
        }
    }

    /// Steps over a list of structs, and says where each is.
    fn list_of_structs(&mut self) -> Option<Vec<Range<usize>>> {
        let (kind, length) = self.list()?;
        // What takes no bytes could be there for ever.
        if kind != Self::STRUCT {
            return None;
        }
        let mut structs = Vec::new();
        for _ in 0..length {
            let start = self.at;
            self.skip(kind, 0)?;
            structs.push(start..self.at);
        }
        Some(structs)
    }

    /// Steps over a schema element with all that is below it: how many elements that are, and how many are leaves.
    fn tree(&mut self) -> Option<(usize, usize)> {
        let (mut open, mut elements, mut leaves) = (1_usize, 0, 0);
        while open > 0 {
            let children = self.schema_element()?;
            open = (open - 1).checked_add(children)?;
            elements += 1;
            leaves += usize::from(children == 0);
        }
        Some((elements, leaves))
    }

    /// Steps over a schema element: the number of children that it says it has.
    fn schema_element(&mut self) -> Option<usize> {
        let (mut field, mut children) = (0, 0);
        loop {
            match self.field(&mut field)? {
                Self::STOP => return Some(children),
                _ if field == CHILDREN => children = usize::try_from(self.varint()? >> 1).ok()?,
                kind => self.skip(kind, 0)?,
            }
        }
    }

    fn begin_list(length: usize, out: &mut Vec<u8>) {
        match u8::try_from(length) {
            Ok(length @ 0..15) => out.push(length << 4 | Self::STRUCT),
            _ => {
                out.push(15 << 4 | Self::STRUCT);
                Self::put_varint(length, out);
            }
        }
    }

    /// A schema's root with so many columns.
    fn root(columns: usize, out: &mut Vec<u8>) {
        // Field 4, a text of one byte: the name; field 5, a number: the children; the end.
        out.extend([4 << 4 | 8, 1, b'r', 1 << 4 | 5]);
        Self::put_varint(columns << 1, out);
        out.push(Self::STOP);
    }

    #[expect(clippy::cast_possible_truncation, reason = "seven bits at a time")]
    fn put_varint(mut value: usize, out: &mut Vec<u8>) {
        while value >= 0x80 {
            out.push(value as u8 | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
    }

    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// The type of the next field, of which the number is set; or the end of the struct.
    fn field(&mut self, number: &mut i16) -> Option<u8> {
        let byte = self.byte()?;
        if byte == Self::STOP {
            return Some(Self::STOP);
        }
        *number = match byte >> 4 {
            0 => {
                let zigzag = self.varint()?;
                i16::try_from((zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed()).ok()?
            }
            delta => number.checked_add(i16::from(delta))?,
        };
        Some(byte & 0x0f)
    }

    /// The type and the number of a list's elements.
    fn list(&mut self) -> Option<(u8, u64)> {
        let byte = self.byte()?;
        let length = if byte >> 4 == 15 { self.varint()? } else { u64::from(byte >> 4) };
        Some((byte & 0x0f, length))
    }

    fn skip(&mut self, kind: u8, depth: usize) -> Option<()> {
        match kind {
            _ if depth > DEEPEST => None,
            // A boolean field says what it is in its type.
            1 | 2 => Some(()),
            3 => self.byte().map(drop),
            4..=6 => self.varint().map(drop),
            7 => self.over(8),
            8 => {
                let length = self.varint()?;
                self.over(usize::try_from(length).ok()?)
            }
            9 | 10 => {
                let (kind, length) = self.list()?;
                // In a list, a boolean is a byte.
                let kind = if matches!(kind, 1 | 2) { 3 } else { kind };
                (0..length).try_for_each(|_| self.skip(kind, depth + 1))
            }
            Self::STRUCT => {
                let mut number = 0;
                loop {
                    match self.field(&mut number)? {
                        Self::STOP => return Some(()),
                        kind => self.skip(kind, depth + 1)?,
                    }
                }
            }
            // Parquet's footer has no maps.
            _ => None,
        }
    }

    fn over(&mut self, length: usize) -> Option<()> {
        self.at = self.at.checked_add(length).filter(|&at| at <= self.bytes.len())?;
        Some(())
    }
}
