//! An answer as text: a table for people, or a form for programs.

use comfy_table::presets::{ASCII_MARKDOWN, NOTHING};
use comfy_table::{CellAlignment, Table, TableStyle};
use serde_json::{Map, Number, Value};

use crate::clock;
use crate::query::{Answer, AnswerColumn, Cell};

use super::super::args::Format;
use super::super::print;

/// An answer in a form.
pub(super) fn write(answer: &Answer, format: Format) -> String {
    match format {
        Format::Table => table(answer),
        Format::Markdown => format!("{}\n", cells(answer, ASCII_MARKDOWN, false)),
        Format::Csv => csv(answer),
        Format::Json => format!("{:#}\n", Value::Array(answer.rows.iter().map(|row| object(answer, row)).collect())),
        Format::Ndjson => answer.rows.iter().map(|row| object(answer, row).to_string() + "\n").collect(),
    }
}

/// An answer for people: units in the header, sensible digits, a dash where there is nothing, a bar of the
/// first value.
pub(in crate::cli) fn table(answer: &Answer) -> String {
    format!("{}\n{}\n", print::safe_word(&answer.title), cells(answer, NOTHING, true))
}

fn cells(answer: &Answer, style: TableStyle, with_bar: bool) -> Table {
    let mut table = Table::new();
    // What is the same in every row stands in the title.
    let shown: Vec<usize> = (0..answer.columns.len()).filter(|&at| !with_bar || !is_told(answer, at)).collect();
    let bar_of = answer.columns.iter().position(|column| column.is_value).filter(|_| with_bar);
    let highest = bar_of.map(|at| answer.rows.iter().filter_map(|row| row[at].number()).fold(0.0, f64::max));
    let title = |at: &usize| title(&answer.columns[*at]);
    table.load_style(style).set_header(shown.iter().map(title).chain(highest.map(|_| String::new())));
    for row in &answer.rows {
        let bar = bar_of
            .zip(highest)
            .map(|(at, highest)| row[at].number().map_or(String::new(), |value| bar(value, highest)));
        table.add_row(shown.iter().map(|&at| word(&row[at])).chain(bar));
    }
    for (place, &at) in shown.iter().enumerate() {
        let is_number = answer.rows.iter().any(|row| row[at].number().is_some());
        let column = table.column_mut(place).filter(|_| is_number);
        column.into_iter().for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    }
    table
}

/// Whether a column says the same in every row, and the title says it.
fn is_told(answer: &Answer, at: usize) -> bool {
    let told = |cell: &Cell| matches!(cell, Cell::Text(text) if answer.title.contains(text.as_str()));
    let is_key = !answer.columns[at].is_value;
    is_key && answer.rows.len() > 1 && answer.rows.iter().all(|row| row[at] == answer.rows[0][at] && told(&row[at]))
}

fn title(column: &AnswerColumn) -> String {
    let name = if column.name == "start" { "start (UTC)" } else { &column.name };
    if column.unit.is_empty() { print::safe_word(name) } else { format!("{}\n{}", print::safe_word(name), column.unit) }
}

fn word(cell: &Cell) -> String {
    match cell {
        Cell::Null => "-".to_owned(),
        Cell::Text(text) => print::safe_word(text),
        Cell::Count(count) => count.to_string(),
        Cell::Number(value) => digits(*value),
        Cell::Time(at) => at.format("%Y-%m-%d %H:%M").to_string(),
    }
}

fn csv(answer: &Answer) -> String {
    let names: Vec<String> = answer.columns.iter().map(|column| quoted(&column.name)).collect();
    let field = |cell: &Cell| match cell {
        Cell::Null => String::new(),
        Cell::Text(text) => quoted(text),
        Cell::Count(count) => count.to_string(),
        Cell::Number(value) => value.to_string(),
        Cell::Time(at) => clock::format_timestamp(*at),
    };
    let lines = answer.rows.iter().map(|row| row.iter().map(field).collect::<Vec<_>>().join(","));
    std::iter::once(names.join(",")).chain(lines).map(|line| line + "\n").collect()
}

/// A field of CSV (RFC 4180).
fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

fn object(answer: &Answer, row: &[Cell]) -> Value {
    let value = |cell: &Cell| match cell {
        Cell::Null => Value::Null,
        Cell::Text(text) => Value::from(text.as_str()),
        Cell::Count(count) => Value::from(*count),
        // JSON has no infinities; no aggregate of finite values is one.
        Cell::Number(value) => Number::from_f64(*value).map_or(Value::Null, Value::Number),
        Cell::Time(at) => Value::from(clock::format_timestamp(*at)),
    };
    let members = answer.columns.iter().zip(row).map(|(column, cell)| (column.name.clone(), value(cell)));
    Value::Object(members.collect::<Map<_, _>>())
}

/// A bar of up to 20 blocks.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of 20")]
fn bar(value: f64, highest: f64) -> String {
    let share = if highest > 0.0 { (value / highest).clamp(0.0, 1.0) } else { 0.0 };
    "█".repeat((share * 20.0).round() as usize)
}

/// Four digits that count.
fn digits(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        1_000.0.. => format!("{value:.0}"),
        100.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_for_programs_keep_what_a_cell_is() {
        let columns = vec![AnswerColumn::key("device, name"), AnswerColumn::value("cpu_pct_mean".to_owned(), "pct")];
        let rows = vec![vec![Cell::Text("Bob \"B\"\n".to_owned()), Cell::Number(1.5)], vec![Cell::Null, Cell::Null]];
        let answer = Answer { title: "t".to_owned(), columns, rows };
        assert_eq!(write(&answer, Format::Csv), "\"device, name\",cpu_pct_mean\n\"Bob \"\"B\"\"\n\",1.5\n,\n");
        assert_eq!(
            write(&answer, Format::Ndjson),
            "{\"cpu_pct_mean\":1.5,\"device, name\":\"Bob \\\"B\\\"\\n\"}\n{\"cpu_pct_mean\":null,\"device, name\":null}\n"
        );
        assert!(write(&answer, Format::Table).contains("Bob \"B\"\\n"));
    }
}
