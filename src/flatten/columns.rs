//! The open batch: rows are appended to one builder a column.

use std::sync::Arc;

use arrow_array::builder::{BooleanBuilder, Float64Builder, Int64Builder, StringBuilder, TimestampMicrosecondBuilder};
use arrow_array::{Array, ArrayRef, ListArray, RecordBatch, StructArray};
use arrow_buffer::{NullBufferBuilder, OffsetBuffer};
use arrow_schema::{DataType, FieldRef};

use crate::schema::{Column, Kind, Schema};

use super::{Cell, Row};

/// Rows on their way to an Arrow batch.
#[derive(Debug)]
pub struct Columns {
    schema: Arc<Schema>,
    builders: Vec<Filled>,
    rows: usize,
    /// The body of the last row.
    last: Option<u64>,
}

/// A column as far as it is filled: what is missing is the last value once more.
#[derive(Debug)]
struct Filled {
    builder: Builder,
    rows: usize,
}

impl Columns {
    /// No rows yet.
    #[must_use]
    pub fn new(schema: Arc<Schema>) -> Self {
        let builders = schema.columns.iter().map(|column| Filled { builder: Builder::new(column), rows: 0 }).collect();
        Self { schema, builders, rows: 0, last: None }
    }

    /// Appends a row that was filled for the same schema. What is the same as in the row before costs nothing.
    pub fn push(&mut self, row: &Row) {
        for at in row.changed(self.last) {
            let filled = &mut self.builders[at];
            filled.fill(self.rows);
            filled.builder.push(row, row.cell(at));
            filled.rows += 1;
        }
        self.rows += 1;
        self.last = Some(row.number());
    }

    /// Rows so far.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The rows as a batch; the columns are empty again.
    pub fn finish(&mut self) -> RecordBatch {
        let rows = std::mem::take(&mut self.rows);
        let arrays: Vec<ArrayRef> = self.builders.iter_mut().map(|filled| filled.finish(rows)).collect();
        self.last = None;
        RecordBatch::try_new(Arc::clone(self.schema.arrow()), arrays)
            .expect("every builder was made from its field and got every row")
    }
}

impl Filled {
    /// Appends the last value until there are so many rows.
    fn fill(&mut self, rows: usize) {
        if rows > self.rows {
            self.builder.repeat(rows - self.rows);
            self.rows = rows;
        }
    }

    fn finish(&mut self, rows: usize) -> ArrayRef {
        self.fill(rows);
        self.rows = 0;
        self.builder.finish()
    }
}

/// A column's values, and the last of them.
#[derive(Debug)]
enum Builder {
    String(StringBuilder, Option<String>),
    Boolean(BooleanBuilder, Option<bool>),
    Int64(Int64Builder, Option<i64>),
    Float64(Float64Builder, Option<f64>),
    Timestamp(TimestampMicrosecondBuilder, Option<i64>),
    List(Box<ListBuilder>),
}

/// Arrow's own list builder finds its members by downcast at every row; this one knows them.
#[derive(Debug)]
struct ListBuilder {
    item: FieldRef,
    members: Vec<Builder>,
    lengths: Vec<usize>,
    lists: NullBufferBuilder,
    elements: NullBufferBuilder,
}

impl Builder {
    fn new(column: &Column) -> Self {
        match column.data_type() {
            DataType::List(item) => Self::List(Box::new(ListBuilder {
                item,
                members: column.fields.iter().map(|member| Self::scalar(member.kind)).collect(),
                lengths: Vec::new(),
                lists: NullBufferBuilder::new(0),
                elements: NullBufferBuilder::new(0),
            })),
            _ => Self::scalar(column.kind),
        }
    }

    fn scalar(kind: Kind) -> Self {
        match kind {
            Kind::Boolean => Self::Boolean(BooleanBuilder::new(), None),
            Kind::Int64 => Self::Int64(Int64Builder::new(), None),
            Kind::Float64 => Self::Float64(Float64Builder::new(), None),
            Kind::Timestamp => Self::Timestamp(TimestampMicrosecondBuilder::new().with_timezone("UTC"), None),
            Kind::String | Kind::List => Self::String(StringBuilder::new(), None),
        }
    }

    /// Appends a cell.
    fn push(&mut self, row: &Row, cell: Cell) {
        match self {
            Self::String(builder, last) => match row.resolve(cell) {
                Some(text) => {
                    builder.append_value(text);
                    let kept = last.get_or_insert_default();
                    kept.clear();
                    kept.push_str(text);
                }
                None => {
                    builder.append_null();
                    *last = None;
                }
            },
            Self::List(builder) => builder.push(row, cell),
            Self::Boolean(builder, last) => {
                *last = if let Cell::Boolean(value) = cell { Some(value) } else { None };
                builder.append_option(*last);
            }
            Self::Int64(builder, last) => {
                *last = if let Cell::Int64(value) = cell { Some(value) } else { None };
                builder.append_option(*last);
            }
            Self::Float64(builder, last) => {
                *last = if let Cell::Float64(value) = cell { Some(value) } else { None };
                builder.append_option(*last);
            }
            Self::Timestamp(builder, last) => {
                *last = if let Cell::Timestamp(value) = cell { Some(value) } else { None };
                builder.append_option(*last);
            }
        }
    }

    /// Appends the last value so many times more.
    fn repeat(&mut self, rows: usize) {
        match self {
            Self::String(builder, Some(last)) => builder.append_value_n(last, rows),
            Self::Boolean(builder, Some(last)) => builder.append_n(rows, *last),
            Self::Int64(builder, Some(last)) => builder.append_value_n(*last, rows),
            Self::Float64(builder, Some(last)) => builder.append_value_n(*last, rows),
            Self::Timestamp(builder, Some(last)) => builder.append_value_n(*last, rows),
            Self::String(builder, None) => builder.append_nulls(rows),
            Self::Boolean(builder, None) => builder.append_nulls(rows),
            Self::Int64(builder, None) => builder.append_nulls(rows),
            Self::Float64(builder, None) => builder.append_nulls(rows),
            Self::Timestamp(builder, None) => builder.append_nulls(rows),
            // Only that there is no list is ever the same.
            Self::List(builder) => builder.append_nulls(rows),
        }
    }

    /// The column. The next one has room for as much from the start: growing to it costs more than the room.
    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::String(builder, _) => {
                let texts = builder.finish();
                *builder = StringBuilder::with_capacity(texts.len(), texts.value_data().len());
                Arc::new(texts)
            }
            Self::Boolean(builder, _) => Arc::new(builder.finish()),
            Self::Int64(builder, _) => {
                let numbers = builder.finish();
                *builder = Int64Builder::with_capacity(numbers.len());
                Arc::new(numbers)
            }
            Self::Float64(builder, _) => {
                let numbers = builder.finish();
                *builder = Float64Builder::with_capacity(numbers.len());
                Arc::new(numbers)
            }
            Self::Timestamp(builder, _) => {
                let times = builder.finish();
                *builder = TimestampMicrosecondBuilder::with_capacity(times.len()).with_timezone("UTC");
                Arc::new(times)
            }
            Self::List(builder) => builder.finish(),
        }
    }
}

impl ListBuilder {
    fn push(&mut self, row: &Row, cell: Cell) {
        let Cell::List { start, end } = cell else { return self.append_nulls(1) };
        for element in row.elements(start, end, self.members.len()) {
            self.elements.append(element.is_some());
            for (at, member) in self.members.iter_mut().enumerate() {
                match (member, element.map_or(Cell::Null, |cells| cells[at])) {
                    // No member is ever repeated: of its texts, which are many, none has to be kept.
                    (Builder::String(builder, _), cell) => builder.append_option(row.resolve(cell)),
                    (member, cell) => member.push(row, cell),
                }
            }
        }
        self.lists.append_non_null();
        self.lengths.push(end - start);
    }

    fn append_nulls(&mut self, rows: usize) {
        self.lists.append_n_nulls(rows);
        self.lengths.extend(std::iter::repeat_n(0, rows));
    }

    fn finish(&mut self) -> ArrayRef {
        let DataType::Struct(fields) = self.item.data_type() else { unreachable!("the item of a list is a struct") };
        let members = self.members.iter_mut().map(Builder::finish).collect();
        let elements = self.elements.finish();
        let structs = StructArray::new(fields.clone(), members, elements);
        let offsets = OffsetBuffer::from_lengths(self.lengths.drain(..));
        Arc::new(ListArray::new(Arc::clone(&self.item), offsets, Arc::new(structs), self.lists.finish()))
    }
}
