//! The columns of a dataset: a table in `schemas/`, read at run time.
//!
//! The table is the only list of columns in the project. What reads bodies, writes Parquet, answers
//! queries or prints documentation walks [`Schema::columns`]; nothing here knows a column by name,
//! and nothing here reads a file: the tables are embedded in the binary, as the JSON that `schemas/build.rs` makes of
//! them.

mod path;
mod table;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Arc, LazyLock};

use arrow_schema::{DataType, Field, Fields, Metadata, SchemaRef, TimeUnit};
use serde::Deserialize;

pub use path::without_positions;

/// The format of the tables that this version reads.
pub const TABLE_FORMAT: u32 = 1;

static DEVICE_STATE: LazyLock<Arc<Schema>> =
    LazyLock::new(|| embedded(include_str!(concat!(env!("OUT_DIR"), "/device_state.json"))));
static POLL: LazyLock<Arc<Schema>> = LazyLock::new(|| embedded(include_str!(concat!(env!("OUT_DIR"), "/poll.json"))));

/// The columns of one dataset, with what its files are sorted and partitioned by.
#[derive(Debug)]
pub struct Schema {
    /// Name of the dataset; also its folder in the archive.
    pub dataset: String,
    /// What one row is.
    pub description: String,
    /// The columns, in the order of the files.
    pub columns: Vec<Column>,
    /// Indices of the columns that a row is known by; rows stand in their order.
    pub key: Vec<usize>,
    /// A column of the key, and another one that tells rows of one key apart where that is null.
    pub stand_in: Option<(usize, usize)>,
    /// Indices of the timestamps whose UTC day is the partition: the first that has a value counts.
    pub partition_by: Vec<usize>,
    /// The timestamp by which the later of two rows with one key stays; without, the first does.
    pub newest_by: Option<usize>,
    /// A column and some of its values: a row with one of them gives way to a row of the same key that has another
    /// value, or one that stands later among these.
    pub yields: Option<(usize, Vec<String>)>,
    by_name: HashMap<String, usize>,
    fingerprint: String,
    arrow: SchemaRef,
}

/// One column.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    /// Name in the files.
    pub name: String,
    /// Keys that lead to the value in a body; `None` where the archive itself writes it.
    pub path: Option<Vec<String>>,
    /// Type of the values.
    pub kind: Kind,
    /// What the values are to a reader.
    pub role: Role,
    /// Unit of the values, where they have one.
    pub unit: Option<Unit>,
    /// Class of personal data, where they are such.
    pub personal: Option<Personal>,
    /// The value that stands for none: a query passes over it.
    pub missing: Option<f64>,
    /// The word under which a query finds several metrics at once.
    pub group: Option<String>,
    /// A body without a value here is no row of the dataset.
    pub required: bool,
    /// Older shapes that are read too.
    pub accept: Vec<Shape>,
    /// How the values are written, where that is another way than the usual one of their type.
    pub encoding: Option<Encoding>,
    /// Version of the schema that brought the column.
    pub since: u32,
    /// What the values mean.
    pub description: String,
    /// Members of the structs, where the type is a list.
    pub fields: Vec<Member>,
}

/// One member of the structs in a list column.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Name in the body and in the files.
    pub name: String,
    /// Type of the values; never a list.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// Unit of the values, where they have one.
    pub unit: Option<Unit>,
    /// Class of personal data, where they are such.
    pub personal: Option<Personal>,
    /// How the values are written, where that is another way than the usual one of their type.
    pub encoding: Option<Encoding>,
    /// What the values mean.
    pub description: String,
}

/// Type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// UTF-8 text.
    String,
    /// True or false.
    Boolean,
    /// A whole number of 64 bits.
    Int64,
    /// A double.
    Float64,
    /// Microseconds since the Unix epoch, UTC.
    Timestamp,
    /// A list of structs.
    List,
}

/// What the values of a column are to a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Says which thing the row is about.
    Identity,
    /// When it was so.
    Time,
    /// A property that changes now and then.
    Label,
    /// A measurement.
    Gauge,
    /// A number that only grows.
    Counter,
    /// A count within the row's own window.
    WindowCounter,
    /// The length of that window.
    Window,
    /// Measurements per application.
    Apps,
    /// Written by the archive: where the row came from.
    Provenance,
    /// Written by the archive: what the body held and no column could.
    Unmapped,
}

/// Unit of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Unit {
    /// Per cent, on the scale that the column's description states.
    #[serde(rename = "pct")]
    Percent,
    /// Milliseconds.
    #[serde(rename = "ms")]
    Milliseconds,
    /// Microseconds.
    #[serde(rename = "us")]
    Microseconds,
    /// Bytes.
    #[serde(rename = "bytes")]
    Bytes,
    /// Bytes per second.
    #[serde(rename = "bytes/s")]
    BytesPerSecond,
    /// Kilobytes.
    #[serde(rename = "kB")]
    Kilobytes,
    /// Decibels over one milliwatt.
    #[serde(rename = "dBm")]
    DecibelMilliwatts,
    /// A number of things.
    #[serde(rename = "count")]
    Count,
}

/// Class of personal data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Personal {
    /// Names one device.
    Device,
    /// Names a person.
    Person,
    /// Names a network or an address in it.
    Network,
    /// Says where somebody is.
    Location,
    /// Says what somebody runs.
    Apps,
}

/// How values are written in a part: one of Parquet's encodings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// One after the other.
    Plain,
    /// Each distinct value once, and which of them stands in each row: for what repeats.
    Dictionary,
    /// The differences from one to the next, in few bits: for whole numbers near each other.
    Delta,
}

/// An older shape of a value that is read too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// A list of lists, flattened by one level.
    Nested,
}

/// Why a table is no schema.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// It is not the TOML of such a table.
    #[error("the schema table cannot be read: {0}")]
    Toml(Box<toml::de::Error>),
    /// It is written in a format of another version.
    #[error("the schema table has format {found}, this version reads {TABLE_FORMAT}")]
    Format {
        /// The format it says it has.
        found: u32,
    },
    /// A column contradicts the rules of the table.
    #[error("column {column:?} {problem}")]
    Column {
        /// Name of the column.
        column: String,
        /// What is wrong with it.
        problem: &'static str,
    },
}

impl Schema {
    /// The columns of `device_state`: one row per state that a device reported.
    #[must_use]
    pub fn device_state() -> Arc<Self> {
        Arc::clone(&DEVICE_STATE)
    }

    /// The columns of `poll`: one row per API request.
    #[must_use]
    pub fn poll() -> Arc<Self> {
        Arc::clone(&POLL)
    }

    /// Both datasets of an archive.
    #[must_use]
    pub fn all() -> [Arc<Self>; 2] {
        [Self::device_state(), Self::poll()]
    }

    /// Reads a table.
    ///
    /// # Errors
    /// Says which column breaks which rule.
    pub fn parse(text: &str) -> Result<Self, SchemaError> {
        table::parse(text)
    }

    /// The Arrow schema of the dataset's files, with unit, role and description as field metadata.
    #[must_use]
    pub fn arrow(&self) -> &SchemaRef {
        &self.arrow
    }

    /// The position of a column.
    #[must_use]
    pub fn index_of(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// The position of the column that keeps what fits nowhere else.
    #[must_use]
    pub fn unmapped(&self) -> Option<usize> {
        self.columns.iter().position(|column| column.role == Role::Unmapped)
    }

    /// The position of the column that says which device a row is about.
    #[must_use]
    pub fn device(&self) -> Option<usize> {
        self.index_of("device_id")
    }

    /// The position of the column that says who uses a device.
    #[must_use]
    pub fn person(&self) -> Option<usize> {
        self.columns.iter().position(|column| column.personal == Some(Personal::Person))
    }

    /// The version of the schema: the newest `since` of its columns.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.columns.iter().map(|column| column.since).max().unwrap_or(1)
    }

    /// A hash over names, types and order: a version number can be forgotten, this cannot.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    fn new(table: table::Checked) -> Self {
        let by_name = table.columns.iter().enumerate().map(|(at, column)| (column.name.clone(), at)).collect();
        let fields: Vec<Field> = table.columns.iter().map(Column::to_field).collect();
        Self {
            dataset: table.dataset,
            description: table.description,
            columns: table.columns,
            key: table.key,
            stand_in: table.stand_in,
            partition_by: table.partition_by,
            newest_by: table.newest_by,
            yields: table.yields,
            by_name,
            fingerprint: fingerprint(&fields),
            arrow: Arc::new(arrow_schema::Schema::new(fields)),
        }
    }
}

fn fingerprint(fields: &[Field]) -> String {
    let mut text = String::new();
    for field in fields {
        writeln!(text, "{}:{:?}", field.name(), plain(field.data_type())).expect("a text takes all that is written");
    }
    format!("{:016x}", twox_hash::XxHash64::oneshot(0, text.as_bytes()))
}

impl Column {
    /// The column's field in the Arrow schema.
    #[must_use]
    pub fn to_field(&self) -> Field {
        Field::new(&self.name, self.data_type(), true).with_metadata(self.metadata())
    }

    /// The column's Arrow type.
    #[must_use]
    pub fn data_type(&self) -> DataType {
        match self.kind {
            Kind::List => {
                let members: Fields = self.fields.iter().map(Member::to_field).collect();
                DataType::List(Arc::new(Field::new("element", DataType::Struct(members), true)))
            }
            scalar => scalar.data_type(),
        }
    }

    fn metadata(&self) -> Metadata {
        let unit = self.unit.map(|unit| ("unit", unit.name()));
        let personal = self.personal.map(|class| ("personal", class.name()));
        let others = [("role", self.role.name()), ("description", self.description.as_str())];
        unit.into_iter().chain(personal).chain(others).collect()
    }
}

impl Member {
    fn to_field(&self) -> Field {
        let unit = self.unit.map(|unit| ("unit", unit.name()));
        let metadata: Metadata = unit.into_iter().chain([("description", self.description.as_str())]).collect();
        Field::new(&self.name, self.kind.data_type(), true).with_metadata(metadata)
    }
}

impl Kind {
    /// The Arrow type of a scalar. A list's depends on its members: see [`Column::data_type`].
    fn data_type(self) -> DataType {
        match self {
            Self::String => DataType::Utf8,
            Self::Boolean => DataType::Boolean,
            Self::Int64 => DataType::Int64,
            Self::Float64 => DataType::Float64,
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Self::List => DataType::Null,
        }
    }

    /// The word for it in the table.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Boolean => "boolean",
            Self::Int64 => "int64",
            Self::Float64 => "float64",
            Self::Timestamp => "timestamp",
            Self::List => "list",
        }
    }
}

impl Role {
    /// The word for it in the table.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Time => "time",
            Self::Label => "label",
            Self::Gauge => "gauge",
            Self::Counter => "counter",
            Self::WindowCounter => "window_counter",
            Self::Window => "window",
            Self::Apps => "apps",
            Self::Provenance => "provenance",
            Self::Unmapped => "unmapped",
        }
    }
}

impl Unit {
    /// The word for it in the table.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Percent => "pct",
            Self::Milliseconds => "ms",
            Self::Microseconds => "us",
            Self::Bytes => "bytes",
            Self::BytesPerSecond => "bytes/s",
            Self::Kilobytes => "kB",
            Self::DecibelMilliwatts => "dBm",
            Self::Count => "count",
        }
    }
}

impl Personal {
    /// The word for it in the table.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Person => "person",
            Self::Network => "network",
            Self::Location => "location",
            Self::Apps => "apps",
        }
    }
}

fn embedded(json: &str) -> Arc<Schema> {
    let schema = table::built_in(json).expect("JSON of a table that has every key it needs: a test reads them");
    Arc::new(schema.expect("the embedded tables keep their own rules: a test reads them"))
}

/// The type without metadata, so that a reworded description is no new schema.
fn plain(data_type: &DataType) -> DataType {
    match data_type {
        DataType::List(item) => DataType::List(Arc::new(plain_field(item))),
        DataType::Struct(members) => DataType::Struct(members.iter().map(|member| plain_field(member)).collect()),
        scalar => scalar.clone(),
    }
}

fn plain_field(field: &Field) -> Field {
    Field::new(field.name(), plain(field.data_type()), field.is_nullable())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_adds_its_own_columns() {
        let schema = Schema::device_state();
        let own: Vec<_> =
            schema.columns.iter().filter(|column| column.path.is_none()).map(|c| c.name.as_str()).collect();
        assert_eq!(own, ["account_id", "collected_at", "sweep_id", "source", "unmapped"]);
    }

    #[test]
    fn a_name_is_its_path_in_snake_case() {
        for column in &Schema::device_state().columns {
            if let Some(path) = &column.path {
                assert_eq!(column.name, snake_case(&path.join("_")), "{path:?}");
            }
        }
    }

    #[test]
    fn what_is_built_in_is_what_the_tables_say() {
        let tables = [include_str!("../schemas/device_state.toml"), include_str!("../schemas/poll.toml")];
        for (built_in, table) in Schema::all().into_iter().zip(tables) {
            let table = Schema::parse(table).expect("a table");
            assert_eq!((&built_in.columns, &built_in.description), (&table.columns, &table.description));
            assert_eq!((&built_in.key, &built_in.partition_by), (&table.key, &table.partition_by));
            assert_eq!((&built_in.newest_by, &built_in.yields), (&table.newest_by, &table.yields));
            assert_eq!(built_in.stand_in, table.stand_in);
            assert_eq!(built_in.fingerprint(), table.fingerprint());
        }
    }

    #[test]
    fn a_fingerprint_sees_names_types_and_order_but_not_prose() {
        let table = |columns: &str| {
            format!(
                "format = 1\ndataset = \"t\"\ndescription = \"d\"\npartition_by = [\"a\"]\nkey = [\"a\"]\n\
                 {columns}"
            )
        };
        let column = |name: &str, kind: &str, says: &str| {
            format!("[[column]]\nname = \"{name}\"\ntype = \"{kind}\"\nrole = \"time\"\ndescription = \"{says}\"\n")
        };
        let print =
            |columns: &[String]| Schema::parse(&table(&columns.concat())).expect("a schema").fingerprint().to_owned();
        let a = column("a", "timestamp", "one");
        let base = print(&[a.clone(), column("b", "int64", "two")]);
        assert_eq!(base, print(&[a.clone(), column("b", "int64", "other words")]));
        assert_ne!(base, print(&[a.clone(), column("b", "float64", "two")]));
        assert_ne!(base, print(&[a.clone(), column("c", "int64", "two")]));
        assert_ne!(base, print(&[column("b", "int64", "two"), a]));
    }

    fn snake_case(path: &str) -> String {
        let mut name = String::new();
        for letter in path.chars() {
            if letter.is_ascii_uppercase() {
                name.push('_');
            }
            name.push(letter.to_ascii_lowercase());
        }
        name
    }
}
