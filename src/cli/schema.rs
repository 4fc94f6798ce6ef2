//! `schema`: the columns as a list, as JSON or as DuckDB's views, and what devices sent that is in none.

use std::path::Path;

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde_json::{Value, json};

use crate::clock::Clock;
use crate::config;
use crate::query::{self, Days, Window};
use crate::schema::{Column, Kind, Personal, Schema, Unit};

use super::args::{Args, DriftArgs, SchemaArgs, SchemaFormat, SchemaQuestion};
use super::query::show;
use super::{Exit, print};

/// Shows the columns of both datasets.
pub(super) fn run(args: &Args, command: &SchemaArgs) -> anyhow::Result<Exit> {
    if let Some(SchemaQuestion::Drift(question)) = &command.question {
        return drift(args, question);
    }
    print::data(&match command.format {
        SchemaFormat::Table => tables(),
        SchemaFormat::Json => {
            format!("{:#}\n", Value::Array(Schema::all().iter().map(|schema| to_json(schema)).collect()))
        }
        SchemaFormat::Duckdb => duckdb(&args.config()?.0.absolute()?),
    })?;
    Ok(Exit::Done)
}

/// Shows what states held that is not in the schema.
fn drift(args: &Args, question: &DriftArgs) -> anyhow::Result<Exit> {
    let (archive, _) = args.open_archive()?;
    let (zone, now) = (question.output.tz, Clock::system().now());
    let time = |text: &str| config::parse_time(text, zone, now);
    let window = Window { since: time(&question.since)?, until: time(&question.until)? };
    let days = Days::new(&archive, question.output.skip_damaged);
    show(&query::drift(&days, window)?, &question.output, false)?;
    Ok(Exit::of_work(false, !days.skipped().is_empty()))
}

fn tables() -> String {
    let one = |schema: &Schema| {
        let mut table = Table::new();
        table.load_style(NOTHING).set_header(["column", "type", "unit", "personal", "description"]);
        for column in &schema.columns {
            let unit = column.unit.map_or("", |unit| unit.name());
            let personal = column.personal.map_or("", |class| class.name());
            table.add_row([&column.name, column.kind.name(), unit, personal, &column.description]);
        }
        format!(
            "{}: {} (version {}, fingerprint {})\n{table}\n",
            schema.dataset,
            schema.description,
            schema.version(),
            schema.fingerprint()
        )
    };
    Schema::all().iter().map(|schema| one(schema)).collect::<Vec<_>>().join("\n")
}

fn to_json(schema: &Schema) -> Value {
    let column = |column: &Column| {
        json!({
            "name": column.name,
            "path": column.path.as_ref().map(|path| path.join(".")),
            "type": column.kind.name(),
            "role": column.role.name(),
            "unit": column.unit.map(Unit::name),
            "personal": column.personal.map(Personal::name),
            "since": column.since,
            "description": column.description,
        })
    };
    json!({
        "dataset": schema.dataset,
        "description": schema.description,
        "version": schema.version(),
        "fingerprint": schema.fingerprint(),
        "columns": schema.columns.iter().map(column).collect::<Vec<_>>(),
    })
}

/// Views over the archive for `duckdb -init`: the datasets, and the by-app lists as long tables.
fn duckdb(root: &Path) -> String {
    // A view of files that are not there is an error to DuckDB.
    let views = Schema::all().into_iter().filter(|schema| !root.exists() || root.join(&schema.dataset).exists()).map(
        |schema| {
            let files =
                root.join(&schema.dataset).join("*").join("*.parquet").display().to_string().replace('\'', "''");
            let lists = schema.columns.iter().filter(|column| column.kind == Kind::List);
            format!(
                "CREATE OR REPLACE VIEW {} AS SELECT * FROM \
             read_parquet('{files}', hive_partitioning = true, union_by_name = true);\n{}",
                schema.dataset,
                lists.map(|list| long_view(&schema, list)).collect::<String>()
            )
        },
    );
    format!("SET TimeZone = 'UTC';\n{}", views.collect::<String>())
}

/// A view with a row for each element of a list.
fn long_view(schema: &Schema, list: &Column) -> String {
    let key: Vec<&str> = schema.key.iter().map(|&at| schema.columns[at].name.as_str()).collect();
    let members: Vec<String> = list.fields.iter().map(|member| format!("app.{}", member.name)).collect();
    let (name, dataset, key, members) = (&list.name, &schema.dataset, key.join(", "), members.join(", "));
    format!(
        "CREATE OR REPLACE VIEW {name} AS SELECT {key}, date, {members} \
         FROM (SELECT {key}, date, unnest({name}) AS app FROM {dataset});\n"
    )
}
