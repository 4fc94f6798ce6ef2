//! The open batch: rows are appended to one builder a column.

use std::sync::Arc;

use arrow_array::builder::{BooleanBuilder, Float64Builder, Int64Builder, StringBuilder, TimestampMicrosecondBuilder};
use arrow_array::{ArrayRef, ListArray, RecordBatch, StructArray};
use arrow_buffer::{NullBufferBuilder, OffsetBuffer};
use arrow_schema::{DataType, FieldRef};

use crate::schema::{Column, Kind, Schema};

use super::{Cell, Row};

/// Rows on their way to an Arrow batch.
#[derive(Debug)]
pub struct Columns {
    schema: Arc<Schema>,
    builders: Vec<Builder>,
    rows: usize,
    text_bytes: usize,
}

impl Columns {
    /// No rows yet.
    #[must_use]
    pub fn new(schema: Arc<Schema>) -> Self {
        let builders = schema.columns.iter().map(Builder::new).collect();
        Self { schema, builders, rows: 0, text_bytes: 0 }
    }

    /// Appends a row that was filled for the same schema.
    pub fn push(&mut self, row: &Row) {
        for (at, builder) in self.builders.iter_mut().enumerate() {
            self.text_bytes += builder.push(row, row.cell(at));
        }
        self.rows += 1;
    }

    /// Rows so far.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes of text so far: what the batch weighs beyond a fixed size per row.
    #[must_use]
    pub fn text_bytes(&self) -> usize {
        self.text_bytes
    }

    /// The rows as a batch; the columns are empty again.
    pub fn finish(&mut self) -> RecordBatch {
        let arrays: Vec<ArrayRef> = self.builders.iter_mut().map(Builder::finish).collect();
        (self.rows, self.text_bytes) = (0, 0);
        RecordBatch::try_new(Arc::clone(self.schema.arrow()), arrays)
            .expect("every builder was made from its field and got every row")
    }
}

#[derive(Debug)]
enum Builder {
    String(StringBuilder),
    Boolean(BooleanBuilder),
    Int64(Int64Builder),
    Float64(Float64Builder),
    Timestamp(TimestampMicrosecondBuilder),
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
            Kind::Boolean => Self::Boolean(BooleanBuilder::new()),
            Kind::Int64 => Self::Int64(Int64Builder::new()),
            Kind::Float64 => Self::Float64(Float64Builder::new()),
            Kind::Timestamp => Self::Timestamp(TimestampMicrosecondBuilder::new().with_timezone("UTC")),
            Kind::String | Kind::List => Self::String(StringBuilder::new()),
        }
    }

    /// Appends a cell; returns the bytes of text in it.
    fn push(&mut self, row: &Row, cell: Cell) -> usize {
        match (self, cell) {
            (Self::String(builder), cell) => {
                let text = row.resolve(cell);
                builder.append_option(text);
                return text.map_or(0, str::len);
            }
            (Self::List(builder), cell) => return builder.push(row, cell),
            (Self::Boolean(builder), Cell::Boolean(value)) => builder.append_value(value),
            (Self::Int64(builder), Cell::Int64(value)) => builder.append_value(value),
            (Self::Float64(builder), Cell::Float64(value)) => builder.append_value(value),
            (Self::Timestamp(builder), Cell::Timestamp(value)) => builder.append_value(value),
            (Self::Boolean(builder), _) => builder.append_null(),
            (Self::Int64(builder), _) => builder.append_null(),
            (Self::Float64(builder), _) => builder.append_null(),
            (Self::Timestamp(builder), _) => builder.append_null(),
        }
        0
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::String(builder) => Arc::new(builder.finish()),
            Self::Boolean(builder) => Arc::new(builder.finish()),
            Self::Int64(builder) => Arc::new(builder.finish()),
            Self::Float64(builder) => Arc::new(builder.finish()),
            Self::Timestamp(builder) => Arc::new(builder.finish()),
            Self::List(builder) => builder.finish(),
        }
    }
}

impl ListBuilder {
    fn push(&mut self, row: &Row, cell: Cell) -> usize {
        let Cell::List { start, end } = cell else {
            self.lists.append_null();
            self.lengths.push(0);
            return 0;
        };
        let mut bytes = 0;
        for element in row.elements(start, end, self.members.len()) {
            self.elements.append(element.is_some());
            for (at, member) in self.members.iter_mut().enumerate() {
                bytes += member.push(row, element.map_or(Cell::Null, |cells| cells[at]));
            }
        }
        self.lists.append_non_null();
        self.lengths.push(end - start);
        // An element weighs something even where its name is empty.
        bytes + (end - start) * size_of::<f64>()
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
