//! An answer in a form for programs.

use std::borrow::Cow;
use std::io::{self, Write};

use serde::{Serialize, Serializer};
use serde_json::{Number, Value};

use crate::archive::to_parquet;
use crate::clock::{self, Zone};
use crate::query::{Answer, Cell};

use super::super::args::Format;
use super::table;

/// An answer in a form. Times are in a time zone, but in Parquet, where they are points in time.
pub(super) fn write(answer: &Answer, format: Format, zone: Zone) -> anyhow::Result<Vec<u8>> {
    let objects = || answer.rows.iter().map(|row| Object { answer, row, zone });
    Ok(match format {
        Format::Table => table::table(answer, zone).into_bytes(),
        Format::Markdown => table::markdown(answer, zone).into_bytes(),
        Format::Csv => csv(answer, zone),
        Format::Json => [serde_json::to_vec_pretty(&objects().collect::<Vec<_>>())?, vec![b'\n']].concat(),
        Format::Ndjson => ndjson(objects())?,
        Format::Parquet => to_parquet(&answer.to_batch())?,
    })
}

fn ndjson<'a>(objects: impl Iterator<Item = Object<'a>>) -> serde_json::Result<Vec<u8>> {
    let mut text = Vec::new();
    for object in objects {
        serde_json::to_writer(&mut text, &object)?;
        text.push(b'\n');
    }
    Ok(text)
}

fn csv(answer: &Answer, zone: Zone) -> Vec<u8> {
    let names: Vec<Cow<str>> = answer.columns.iter().map(|column| quoted(&column.name)).collect();
    let mut text = (names.join(",") + "\n").into_bytes();
    for row in &answer.rows {
        for (at, cell) in row.iter().enumerate() {
            if at > 0 {
                text.push(b',');
            }
            let written = match cell {
                Cell::Null => Ok(()),
                Cell::Text(word) => text.write_all(quoted(word).as_bytes()),
                Cell::Flag(flag) => write!(text, "{flag}"),
                Cell::Count(count) => write!(text, "{count}"),
                Cell::Number(value) => number(*value, &mut text),
                Cell::Time(at) => text.write_all(clock::format_in(*at, zone).as_bytes()),
            };
            written.expect("a text takes what is written to it");
        }
        text.push(b'\n');
    }
    text
}

/// A number in as many digits as it needs, and no exponent.
fn number(value: f64, text: &mut Vec<u8>) -> io::Result<()> {
    if !(1e-5..1e16).contains(&value.abs()) {
        return write!(text, "{value}");
    }
    // Those of a usual size are written so in half the time.
    serde_json::to_writer(&mut *text, &value)?;
    if text.ends_with(b".0") {
        text.truncate(text.len() - 2);
    }
    Ok(())
}

/// A field of CSV (RFC 4180). An empty text has quotes, which tell it from none.
fn quoted(text: &str) -> Cow<'_, str> {
    if text.is_empty() || text.contains([',', '"', '\n', '\r']) {
        Cow::Owned(format!("\"{}\"", text.replace('"', "\"\"")))
    } else {
        Cow::Borrowed(text)
    }
}

/// A row of an answer as an object, whose members stand in the order in which the columns were asked for.
struct Object<'a> {
    answer: &'a Answer,
    row: &'a [Cell],
    zone: Zone,
}

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let value = |cell: &Cell| match cell {
            Cell::Null => Value::Null,
            Cell::Text(text) => Value::from(text.as_str()),
            Cell::Flag(flag) => Value::from(*flag),
            Cell::Count(count) => Value::from(*count),
            // JSON has no infinities, and no cell is one.
            Cell::Number(value) => Number::from_f64(*value).map_or(Value::Null, Value::Number),
            Cell::Time(at) => Value::from(clock::format_in(*at, self.zone)),
        };
        let members = self.answer.columns.iter().zip(self.row).map(|(column, cell)| (&column.name, value(cell)));
        serializer.collect_map(members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::AnswerColumn;

    #[test]
    fn markdown_has_a_header_of_one_line_and_no_foreign_marks() {
        let columns = vec![AnswerColumn::key("name"), AnswerColumn::value("cpu".to_owned(), "pct")];
        let rows = vec![vec![Cell::Text("a|b<i>\n".to_owned()), Cell::Number(1.5)]];
        let text = write(&Answer { title: "t".to_owned(), columns, rows }, Format::Markdown, Zone::UTC);
        let text = String::from_utf8(text.expect("a form")).expect("a text");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[0].starts_with("| name ") && lines[0].ends_with("| cpu (pct) |"), "{text}");
        assert!(lines[1].chars().all(|letter| "|-".contains(letter)), "{text}");
        assert_eq!(lines[2], "| a\\|b&lt;i&gt;\\\\u{a} |      1.50 |");
    }

    #[test]
    fn forms_for_programs_keep_what_a_cell_is() {
        let columns = vec![AnswerColumn::key("device, name"), AnswerColumn::value("cpu_pct_mean".to_owned(), "pct")];
        let rows = vec![vec![Cell::Text("Bob \"B\"\n".to_owned()), Cell::Number(1.5)], vec![Cell::Null, Cell::Null]];
        let answer = Answer { title: "t".to_owned(), columns, rows };
        let text = |format| String::from_utf8(write(&answer, format, Zone::UTC).expect("a form")).expect("a text");
        assert_eq!(text(Format::Csv), "\"device, name\",cpu_pct_mean\n\"Bob \"\"B\"\"\n\",1.5\n,\n");
        assert_eq!(
            text(Format::Ndjson),
            "{\"device, name\":\"Bob \\\"B\\\"\\n\",\"cpu_pct_mean\":1.5}\n{\"device, name\":null,\"cpu_pct_mean\":null}\n"
        );
        let numbers = [0.0, -0.5, 3.0, 1e15, 1e16, 123_456_789.125, 1e-5, 2.5e-6, -1e300, f64::MAX, f64::MIN_POSITIVE];
        for value in numbers {
            let mut written = Vec::new();
            number(value, &mut written).expect("a text takes what is written to it");
            assert_eq!(String::from_utf8(written).expect("a text"), value.to_string());
        }
        assert!(text(Format::Table).contains("Bob \"B\"\\n"));
    }
}
