//! The TOML of a schema table and the rules that it keeps.

use serde::Deserialize;

use super::{Column, Encoding, Kind, Member, Personal, Role, Schema, SchemaError, Shape, TABLE_FORMAT, Unit};

/// A table that keeps its rules.
pub(super) struct Checked {
    pub(super) dataset: String,
    pub(super) description: String,
    pub(super) columns: Vec<Column>,
    pub(super) key: Vec<usize>,
    pub(super) stand_in: Option<(usize, usize)>,
    pub(super) partition_by: Vec<usize>,
    pub(super) newest_by: Option<usize>,
    pub(super) yields: Option<(usize, Vec<String>)>,
}

/// Reads a table and holds it against its rules.
pub(super) fn parse(text: &str) -> Result<Schema, SchemaError> {
    toml::from_str(text).map_err(|error| refused(text, error)).and_then(checked)
}

/// Reads the JSON that the build made of a table, and holds it against the rules.
pub(super) fn built_in(json: &str) -> serde_json::Result<Result<Schema, SchemaError>> {
    serde_json::from_str(json).map(checked)
}

fn checked(table: Table) -> Result<Schema, SchemaError> {
    if table.format != TABLE_FORMAT {
        return Err(SchemaError::Format { found: table.format });
    }
    let columns: Vec<Column> = table.column.into_iter().map(Entry::into_column).collect();
    check_columns(&columns)?;
    let key = positions(&columns, &table.key)?;
    let stand_in = table.stand_in.map(|StandIn { column, by }| positions(&columns, &[column, by])).transpose()?;
    let stand_in = stand_in.map(|places| (places[0], places[1]));
    if let Some((_, by)) = stand_in.filter(|(at, by)| !key.contains(at) || key.contains(by) || !orders(&columns[*by])) {
        return Err(broken(&columns[by].name, "stands in for no column of the key, or cannot"));
    }
    let partition_by = positions(&columns, &table.partition_by)?;
    let newest_by = positions(&columns, table.newest_by.as_slice())?.first().copied();
    let yields = match table.yields {
        Some(Yields { column, values }) => {
            positions(&columns, std::slice::from_ref(&column))?.first().map(|&at| (at, values))
        }
        None => None,
    };
    if let Some((at, _)) = yields.as_ref().filter(|(at, _)| columns[*at].kind != Kind::String) {
        return Err(broken(&columns[*at].name, "says at the head which rows yield and is no text"));
    }
    check_times(&columns, partition_by.iter().chain(&newest_by))?;
    check_partition(&columns, &key, &partition_by)?;
    let Table { dataset, description, .. } = table;
    Ok(Schema::new(Checked { dataset, description, columns, key, stand_in, partition_by, newest_by, yields }))
}

/// Why a text is no table of this format.
fn refused(text: &str, error: toml::de::Error) -> SchemaError {
    match toml::from_str::<Format>(text) {
        Ok(Format { format }) if format != TABLE_FORMAT => SchemaError::Format { found: format },
        _ => SchemaError::Toml(Box::new(error)),
    }
}

/// Only the format, so that a table of another one is refused for that and not for a strange key.
#[derive(Deserialize)]
struct Format {
    format: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    format: u32,
    dataset: String,
    description: String,
    partition_by: Vec<String>,
    key: Vec<String>,
    stand_in: Option<StandIn>,
    newest_by: Option<String>,
    yields: Option<Yields>,
    column: Vec<Entry>,
}

/// A column of the key, and what tells rows apart where it is null.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StandIn {
    column: String,
    by: String,
}

/// Rows with one of some values in a column.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Yields {
    column: String,
    values: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    path: Option<String>,
    #[serde(rename = "type")]
    kind: Kind,
    role: Role,
    unit: Option<Unit>,
    personal: Option<Personal>,
    missing: Option<f64>,
    group: Option<String>,
    #[serde(default)]
    required: bool,
    #[serde(default)]
    accept: Vec<Shape>,
    encoding: Option<Encoding>,
    #[serde(default = "first_version")]
    since: u32,
    description: String,
    #[serde(default)]
    field: Vec<Member>,
}

impl Entry {
    fn into_column(self) -> Column {
        Column {
            name: self.name,
            path: self.path.map(|path| path.split('.').map(str::to_owned).collect()),
            kind: self.kind,
            role: self.role,
            unit: self.unit,
            personal: self.personal,
            missing: self.missing,
            group: self.group,
            required: self.required,
            accept: self.accept,
            encoding: self.encoding,
            since: self.since,
            description: self.description,
            fields: self.field,
        }
    }
}

fn first_version() -> u32 {
    1
}

fn check_columns(columns: &[Column]) -> Result<(), SchemaError> {
    let mut newest = 1;
    for column in columns {
        if let Some(problem) = column_problem(column, newest) {
            return Err(broken(&column.name, problem));
        }
        newest = newest.max(column.since);
    }
    check_names(columns)?;
    check_paths(columns)
}

fn check_names(columns: &[Column]) -> Result<(), SchemaError> {
    let mut names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(broken(pair[0], "stands in the table twice")),
        None => Ok(()),
    }
}

/// Paths differ, and none leads on from another. Sorted, those that do follow the other one.
fn check_paths(columns: &[Column]) -> Result<(), SchemaError> {
    let paths = columns.iter().enumerate().filter_map(|(at, column)| Some((column.path.as_ref()?, at)));
    let mut paths: Vec<(&Vec<String>, usize)> = paths.collect();
    paths.sort_unstable();
    for pair in paths.windows(2) {
        let [(outer, first), (inner, second)] = [pair[0], pair[1]];
        if outer == inner {
            return Err(broken(&columns[second].name, "has another's path"));
        }
        if inner.starts_with(outer) {
            return Err(broken(&columns[first].name, "has a path that leads into a group of others"));
        }
    }
    Ok(())
}

/// What is wrong with a column on its own, given the newest `since` before it.
fn column_problem(column: &Column, newest: u32) -> Option<&'static str> {
    let plain = |name: &str| !name.is_empty() && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'));
    let nested = column.accept.contains(&Shape::Nested);
    match column {
        _ if !plain(&column.name) => Some("has a name with other letters than a-z, 0-9 and _"),
        _ if column.description.trim().is_empty() => Some("has no description"),
        _ if column.since < newest => Some("stands after a column of a later version"),
        _ if (column.kind == Kind::List) == column.fields.is_empty() => {
            Some("has fields and no list, or a list without")
        }
        _ if column.fields.iter().any(|field| field.kind == Kind::List) => Some("has a list within a list"),
        _ if column.fields.iter().any(|field| unfit(field.kind, field.encoding)) => {
            Some("has a field that cannot be encoded so")
        }
        _ if unfit(column.kind, column.encoding) => Some("has values that cannot be encoded so"),
        _ if nested && column.kind != Kind::List => Some("accepts nested lists and is none"),
        _ if column.role == Role::Unmapped && column.kind != Kind::String => Some("keeps JSON text and is no string"),
        _ if column.role == Role::Apps && !is_list_of_apps(column) => {
            Some("lists applications and not their names first and a float64 last")
        }
        _ if column.role == Role::Window && (column.kind, column.unit) != (Kind::Int64, Some(Unit::Milliseconds)) => {
            Some("is a length of time and no int64 in ms")
        }
        _ if column.personal == Some(Personal::Person) && column.kind != Kind::String => {
            Some("says who somebody is and is no string")
        }
        _ => None,
    }
}

/// Whether the entries of a list have the name of an application, and as their last what is asked about it.
fn is_list_of_apps(column: &Column) -> bool {
    let kinds = [column.fields.first(), column.fields.last()].map(|field| field.map(|field| field.kind));
    kinds == [Some(Kind::String), Some(Kind::Float64)]
}

/// Whether values cannot be written in an encoding.
fn unfit(kind: Kind, encoding: Option<Encoding>) -> bool {
    match encoding {
        None | Some(Encoding::Plain) => false,
        Some(Encoding::Dictionary) => matches!(kind, Kind::Boolean | Kind::List),
        Some(Encoding::Delta) => !matches!(kind, Kind::Int64 | Kind::Timestamp),
    }
}

fn positions(columns: &[Column], names: &[String]) -> Result<Vec<usize>, SchemaError> {
    let find = |name: &String| columns.iter().position(|column| column.name == *name);
    names
        .iter()
        .map(|name| find(name).ok_or_else(|| broken(name, "is named at the head and is not in the table")))
        .collect()
}

fn check_times<'a>(columns: &[Column], mut times: impl Iterator<Item = &'a usize>) -> Result<(), SchemaError> {
    match times.find(|&&at| columns[at].kind != Kind::Timestamp) {
        Some(&at) => Err(broken(&columns[at].name, "says a time at the head and is no timestamp")),
        None => Ok(()),
    }
}

fn check_partition(columns: &[Column], key: &[usize], partition_by: &[usize]) -> Result<(), SchemaError> {
    if let Some(&other) = key.iter().find(|&&at| !orders(&columns[at])) {
        return Err(broken(&columns[other].name, "is part of the key and no string, int64 or timestamp"));
    }
    match partition_by.first() {
        Some(time) if key.contains(time) => Ok(()),
        Some(&time) => Err(broken(&columns[time].name, "says the partition and is not part of the key")),
        None => Err(broken("partition_by", "names no column")),
    }
}

/// Whether rows can stand in the order of a column.
fn orders(column: &Column) -> bool {
    matches!(column.kind, Kind::String | Kind::Int64 | Kind::Timestamp)
}

fn broken(column: &str, problem: &'static str) -> SchemaError {
    SchemaError::Column { column: column.to_owned(), problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "format = 1\ndataset = \"t\"\ndescription = \"d\"\npartition_by = [\"at\"]\nkey = [\"at\"]\n\
        [[column]]\nname = \"at\"\npath = \"at\"\ntype = \"timestamp\"\nrole = \"time\"\ndescription = \"When.\"\n";

    fn check(more: &str, expect: &str) {
        let said = match Schema::parse(&format!("{HEAD}{more}")) {
            Ok(_) => "fine".to_owned(),
            Err(error) => error.to_string(),
        };
        assert!(said.contains(expect), "{said}");
    }

    #[test]
    fn holds_a_table_against_its_rules() {
        let column = |more: &str| format!("[[column]]\nrole = \"label\"\n{more}");
        check("", "fine");
        let named = |name: &str| column(&format!("name = \"{name}\"\ntype = \"string\"\ndescription = \"x\"\n"));
        check(&[named("b"), named("at"), named("c")].concat(), "\"at\" stands in the table twice");
        check(
            &column("name = \"b\"\npath = \"at\"\ntype = \"string\"\ndescription = \"x\""),
            "\"b\" has another's path",
        );
        check(
            &column("name = \"b\"\npath = \"at.b\"\ntype = \"string\"\ndescription = \"x\""),
            "\"at\" has a path that leads",
        );
        let paths = |paths: &[&str]| {
            let named = paths.iter().enumerate();
            let column = |(at, path): (usize, &&str)| {
                column(&format!("name = \"c{at}\"\npath = \"{path}\"\ntype = \"string\"\ndescription = \"x\"\n"))
            };
            named.map(column).collect::<String>()
        };
        check(&paths(&["a.b.c", "a", "a0", "a.b", "b"]), "\"c1\" has a path that leads");
        check(&paths(&["a.b.c", "a0", "ab.c", "b"]), "fine");
        check(&column("name = \"b\"\ntype = \"string\"\ndescription = \" \""), "\"b\" has no description");
        let head = |column: &str, by: &str| {
            let table = HEAD
                .replace("[[column]]", &format!("stand_in = {{ column = \"{column}\", by = \"{by}\" }}\n[[column]]"));
            Schema::parse(&format!("{table}{}", named("b")))
                .map(|schema| schema.stand_in)
                .map_err(|error| error.to_string())
        };
        assert_eq!(head("at", "b"), Ok(Some((0, 1))));
        for (column, by) in [("b", "at"), ("b", "b"), ("at", "at")] {
            assert!(
                head(column, by).is_err_and(|said| said.contains("stands in for no column of the key")),
                "{column} {by}"
            );
        }
        check(&column("name = \"B\"\ntype = \"string\"\ndescription = \"x\""), "\"B\" has a name with other letters");
        check(&column("name = \"b\"\ntype = \"list\"\ndescription = \"x\""), "\"b\" has fields and no list");
        check(
            &column("name = \"b\"\ntype = \"string\"\nunit = \"furlong\"\ndescription = \"x\""),
            "unknown variant `furlong`",
        );
        check(
            &column("name = \"b\"\ntype = \"string\"\ncolour = \"red\"\ndescription = \"x\""),
            "unknown field `colour`",
        );
        check(
            &column("name = \"b\"\ntype = \"string\"\nencoding = \"delta\"\ndescription = \"x\""),
            "\"b\" has values that cannot be encoded so",
        );
        check(&column("name = \"b\"\ntype = \"string\"\npersonal = \"person\"\ndescription = \"x\""), "fine");
        let of_role = |role: &str, more: &str| {
            format!("[[column]]\nrole = \"{role}\"\nname = \"b\"\ndescription = \"x\"\n{more}")
        };
        let apps = |last: &str| {
            let field = |name: &str, kind: &str| {
                format!("[[column.field]]\nname = \"{name}\"\ntype = \"{kind}\"\ndescription = \"x\"\n")
            };
            of_role("apps", &["type = \"list\"\n".to_owned(), field("n", "string"), field("v", last)].concat())
        };
        check(&apps("float64"), "fine");
        check(&apps("int64"), "\"b\" lists applications and not their names first and a float64 last");
        check(&of_role("window", "type = \"int64\"\nunit = \"ms\""), "fine");
        check(&of_role("window", "type = \"int64\"\nunit = \"us\""), "\"b\" is a length of time and no int64 in ms");
        check(
            &of_role("label", "type = \"int64\"\npersonal = \"person\""),
            "\"b\" says who somebody is and is no string",
        );
        check(
            &[2, 1]
                .map(|v| column(&format!("name = \"b{v}\"\ntype = \"string\"\nsince = {v}\ndescription = \"x\"\n")))
                .concat(),
            "\"b1\" stands after a column of a later version",
        );
    }

    #[test]
    fn refuses_another_format_in_a_sentence() {
        let said = Schema::parse("format = 2\nstrange = true\n").expect_err("an error").to_string();
        assert_eq!(said, "the schema table has format 2, this version reads 1");
    }

    #[test]
    fn wants_the_partition_in_the_key() {
        let said = Schema::parse(&HEAD.replace("key = [\"at\"]", "key = []")).expect_err("an error").to_string();
        assert_eq!(said, "column \"at\" says the partition and is not part of the key");
    }
}
