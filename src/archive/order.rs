//! The order of rows: by which columns they are told apart, and to which day they belong.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow_cmp::make_comparator;
use arrow_schema::{DataType, SortOptions};
use chrono::NaiveDate;

use crate::clock;
use crate::schema::{Role, Schema};

/// The shard of a device: the XXH64 of its id as it stands in the archive (seed 0), modulo the number of shards.
#[must_use]
pub fn shard_of(device_id: &str, shards: u32) -> u32 {
    let hash = twox_hash::XxHash64::oneshot(0, device_id.as_bytes());
    u32::try_from(hash % u64::from(shards.max(1))).expect("a remainder is smaller than what it is of")
}

/// A shard, and how many there are: `3/8`.
#[must_use]
pub fn shard_name(shard: u32, shards: u32) -> String {
    format!("{shard}/{shards}")
}

/// Whether a device, by its id as it stands in the archive, falls into a shard of such a name.
#[must_use]
pub fn is_in_shard(device_id: &str, name: &str) -> bool {
    named(name).is_some_and(|(shard, shards)| shard_of(device_id, shards) == shard)
}

/// How many shards there are, by the name of one of them.
#[must_use]
pub fn shards_by_name(name: &str) -> Option<u32> {
    named(name).map(|(_, shards)| shards)
}

/// The shard of a name, and how many there are.
fn named(name: &str) -> Option<(u32, u32)> {
    let (shard, shards) = name.split_once('/')?;
    shard.parse().ok().zip(shards.parse().ok())
}

/// The shard of each row of a batch; `otherwise` for those that are of no device.
pub(super) fn shards_of(schema: &Schema, batch: &RecordBatch, shards: u32, otherwise: u32) -> Vec<u32> {
    let ids = schema.device().map(|at| batch.column(at).as_string::<i32>());
    let Some(ids) = ids.filter(|_| shards > 1) else { return vec![otherwise; batch.num_rows()] };
    ids.iter().map(|id| id.map_or(otherwise, |id| shard_of(id, shards))).collect()
}

/// Where rows belong: the part of a shard and a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Spot {
    /// The shard.
    pub shard: u32,
    /// The day.
    pub date: NaiveDate,
}

/// Sorts the rows of a batch by where they belong, in an archive of so many shards: the positions of each. Rows of no
/// device belong to the shard `otherwise`.
pub(super) fn spots_of(schema: &Schema, batch: &RecordBatch, shards: u32, otherwise: u32) -> BTreeMap<Spot, Vec<u32>> {
    let of = shards_of(schema, batch, shards, otherwise);
    let mut spots: BTreeMap<Spot, Vec<u32>> = BTreeMap::new();
    for (date, rows) in partitions_of(schema, batch) {
        for row in rows {
            spots.entry(Spot { shard: of[row as usize], date }).or_default().push(row);
        }
    }
    spots
}

/// Sorts the rows of a batch by the day they belong to: the date, and the rows' positions.
///
/// # Panics
/// Where the batch is not of the schema.
#[must_use]
pub fn partitions_of(schema: &Schema, batch: &RecordBatch) -> BTreeMap<NaiveDate, Vec<u32>> {
    let times: Vec<_> = schema.partition_by.iter().map(|&at| times(batch, at)).collect();
    let mut days: BTreeMap<NaiveDate, Vec<u32>> = BTreeMap::new();
    for (index, row) in (0..batch.num_rows()).zip(0_u32..) {
        let micros = times.iter().find(|times| times.is_valid(index)).map_or(0, |times| times.value(index));
        days.entry(day_of(micros)).or_default().push(row);
    }
    days
}

/// The UTC day of a time in microseconds since the Unix epoch.
#[must_use]
pub fn day_of(micros: i64) -> NaiveDate {
    clock::from_micros(micros).unwrap_or_default().date_naive()
}

/// Holds a batch of a part against `last`, the one before it, and against the day and shard that it was found in, in an
/// archive of so many shards: says what is wrong with the order or the place of its rows. Unless they were read in full
/// (`whole`), rows without a time may differ in what was not read, and are not taken for equal.
///
/// # Panics
/// Where a batch is not of the schema.
#[must_use]
pub fn misplaced(
    schema: &Schema,
    last: Option<&RecordBatch>,
    batch: &RecordBatch,
    (spot, shards): (Spot, u32),
    whole: bool,
) -> Option<&'static str> {
    if batch.num_rows() == 0 {
        return None;
    }
    let keys = Keys::new(schema, batch);
    let compare = |before: &Keys, last: usize, row: usize| match before.compare(last, &keys, row) {
        Ordering::Equal if !whole && keys.time.is_null(row) => Ordering::Less,
        order => order,
    };
    let inside = (1..batch.num_rows()).map(|row| compare(&keys, row - 1, row));
    let before = last.filter(|last| last.num_rows() > 0).map(|last| Keys::new(schema, last));
    let across = before.map(|before| compare(&before, before.batch.num_rows() - 1, 0));
    match across.into_iter().chain(inside).max() {
        Some(Ordering::Greater) => Some("its rows are not in order"),
        Some(Ordering::Equal) => Some("it has a key twice"),
        _ => elsewhere(&spots_of(schema, batch, shards, spot.shard), spot),
    }
}

/// What is wrong with the place of rows that belong to these; none where they all belong where they stand.
pub(super) fn elsewhere(spots: &BTreeMap<Spot, Vec<u32>>, own: Spot) -> Option<&'static str> {
    if spots.keys().any(|spot| spot.date != own.date) {
        return Some("it has rows of another day");
    }
    spots.keys().any(|spot| spot.shard != own.shard).then_some("it has rows of another shard")
}

/// Whether any row of a batch belongs to a day and a shard, in an archive of so many shards.
///
/// # Panics
/// Where the batch is not of the schema.
#[must_use]
pub fn is_any_of(schema: &Schema, batch: &RecordBatch, (spot, shards): (Spot, u32)) -> bool {
    spots_of(schema, batch, shards, spot.shard).contains_key(&spot)
}

/// Whether a row takes the place of one with the same key that was there before it.
pub(super) fn replaces(new: &Keys, new_row: usize, old: &Keys, old_row: usize) -> bool {
    match (&new.newest_by, &old.newest_by) {
        _ if new.rank(new_row) != old.rank(old_row) => new.rank(new_row) > old.rank(old_row),
        (Some(new), Some(old)) => new.compare(new_row, old, old_row) != Ordering::Less,
        _ => false,
    }
}

/// The columns by which the rows of a batch are told apart.
pub(super) struct Keys<'a> {
    batch: &'a RecordBatch,
    /// The columns that say something of the device.
    content: Vec<usize>,
    columns: Vec<KeyColumn<'a>>,
    /// A column of them, and what tells rows apart where it is null.
    fallback: Option<(&'a ArrayRef, KeyColumn<'a>)>,
    /// The time, and what stands for it where it is null.
    time: &'a TimestampMicrosecondArray,
    time_fallback: Option<KeyColumn<'a>>,
    newest_by: Option<KeyColumn<'a>>,
    /// What rows have that yield to others of their key.
    yields: Option<(&'a StringArray, &'a [String])>,
}

enum KeyColumn<'a> {
    String(&'a StringArray),
    Int64(&'a Int64Array),
    Timestamp(&'a TimestampMicrosecondArray),
}

impl<'a> Keys<'a> {
    pub(super) fn new(schema: &'a Schema, batch: &'a RecordBatch) -> Self {
        let says = |at: &usize| schema.columns[*at].role != Role::Provenance;
        Self {
            batch,
            content: (0..schema.columns.len()).filter(says).collect(),
            columns: schema.key.iter().map(|&at| KeyColumn::new(batch.column(at))).collect(),
            fallback: schema.stand_in.map(|(at, by)| (batch.column(at), KeyColumn::new(batch.column(by)))),
            time: times(batch, schema.partition_by[0]),
            time_fallback: schema.partition_by.get(1).map(|&at| KeyColumn::new(batch.column(at))),
            newest_by: schema.newest_by.map(|at| KeyColumn::new(batch.column(at))),
            yields: schema.yields.as_ref().map(|(at, values)| (batch.column(*at).as_string(), &values[..])),
        }
    }

    pub(super) fn compare(&self, row: usize, other: &Self, other_row: usize) -> Ordering {
        let columns = self.columns.iter().zip(&other.columns);
        let unequal = columns.map(|(a, b)| a.compare(row, b, other_row)).find(|order| order.is_ne());
        let unequal = unequal.or_else(|| match (&self.fallback, &other.fallback) {
            (Some((column, a)), Some((_, b))) if column.is_null(row) => {
                Some(a.compare(row, b, other_row)).filter(|order| order.is_ne())
            }
            _ => None,
        });
        unequal.unwrap_or_else(|| match (&self.time_fallback, &other.time_fallback) {
            // Without a time, several states may share the rest of the key: what they say tells them apart.
            (Some(a), Some(b)) if self.time.is_null(row) => {
                a.compare(row, b, other_row).then_with(|| self.compare_content(row, other, other_row))
            }
            _ => Ordering::Equal,
        })
    }

    /// By all that rows say, but for where they come from: column by column, in the schema's order.
    fn compare_content(&self, row: usize, other: &Self, other_row: usize) -> Ordering {
        let nulls_first = SortOptions { descending: false, nulls_first: true };
        let mut columns = self.content.iter().map(|&at| {
            let compare = make_comparator(self.batch.column(at), other.batch.column(at), nulls_first);
            compare.expect("both sides are of one schema, whose types have an order")(row, other_row)
        });
        columns.find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
    }

    /// Of two rows with one key, that of the higher rank stays.
    fn rank(&self, row: usize) -> usize {
        let (texts, values) = self.yields.filter(|(texts, _)| texts.is_valid(row)).unzip();
        let place =
            texts.zip(values).and_then(|(texts, values)| values.iter().position(|value| value == texts.value(row)));
        place.unwrap_or(usize::MAX)
    }
}

impl<'a> KeyColumn<'a> {
    fn new(array: &'a ArrayRef) -> Self {
        match array.data_type() {
            DataType::Utf8 => Self::String(array.as_string()),
            DataType::Int64 => Self::Int64(array.as_primitive::<Int64Type>()),
            _ => Self::Timestamp(array.as_primitive::<TimestampMicrosecondType>()),
        }
    }

    /// Nulls come first, as the file's sorting columns say.
    fn compare(&self, row: usize, other: &Self, other_row: usize) -> Ordering {
        fn get<A: Array, V>(array: &A, row: usize, value: impl Fn(usize) -> V) -> Option<V> {
            array.is_valid(row).then(|| value(row))
        }
        match (self, other) {
            (Self::String(a), Self::String(b)) => {
                get(*a, row, |row| a.value(row)).cmp(&get(*b, other_row, |row| b.value(row)))
            }
            (Self::Int64(a), Self::Int64(b)) => {
                get(*a, row, |row| a.value(row)).cmp(&get(*b, other_row, |row| b.value(row)))
            }
            (Self::Timestamp(a), Self::Timestamp(b)) => {
                get(*a, row, |row| a.value(row)).cmp(&get(*b, other_row, |row| b.value(row)))
            }
            _ => unreachable!("both sides are of one schema"),
        }
    }
}

fn times(batch: &RecordBatch, column: usize) -> &TimestampMicrosecondArray {
    batch.column(column).as_primitive::<TimestampMicrosecondType>()
}
