//! An answer for people: a table with units in the header, sensible digits and a dash where there is nothing; above
//! it each value's course as a line of small bars.

use comfy_table::presets::{ASCII_MARKDOWN, NOTHING};
use comfy_table::{CellAlignment, Table, TableStyle};

use crate::clock::Zone;
use crate::query::{Answer, AnswerColumn, Cell, ColumnRole, digits};
use crate::report::markdown_text;

use super::super::print;
use super::course::{self, Course};

/// The most courses that are drawn above a table.
const MOST_COURSES: usize = 24;

/// Buckets that a course has at least: of two or three, the table says enough.
const SHORTEST_COURSE: usize = 4;

/// An answer as a table.
pub(in crate::cli) fn table(answer: &Answer, zone: Zone) -> String {
    let courses: Vec<Course> =
        course::courses(answer).into_iter().filter(|course| course.values.len() >= SHORTEST_COURSE).collect();
    let width = courses.iter().map(|course| course.name.chars().count()).max().unwrap_or(0);
    let courses = if courses.len() > MOST_COURSES { &[] } else { &courses[..] };
    let lines = courses.iter().map(|course| {
        let (least, greatest) =
            course.range().map_or(("-".to_owned(), "-".to_owned()), |(a, b)| (digits(a), digits(b)));
        format!("{:width$}  {}  {least} … {greatest} {}\n", course.name, course.sparkline(), course.unit)
    });
    let lines: String = lines.collect();
    let gap = if lines.is_empty() { "" } else { "\n" };
    format!("{}\n{lines}{gap}{}\n", print::safe_word(&answer.title), cells(answer, zone, Look::Terminal))
}

/// An answer as a table of Markdown.
pub(super) fn markdown(answer: &Answer, zone: Zone) -> String {
    format!("{}\n", cells(answer, zone, Look::Markdown))
}

/// Where a table is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    Terminal,
    Markdown,
}

/// The rows of an answer. On a terminal, what is the same in every row stands in the title alone, and each row shows
/// how large its first value is that is not the same in all.
fn cells(answer: &Answer, zone: Zone, look: Look) -> Table {
    let (mut table, with_bar) = (Table::new(), look == Look::Terminal);
    let shown: Vec<usize> = (0..answer.columns.len()).filter(|&at| !with_bar || !is_told(answer, at)).collect();
    let differs = |at: usize| answer.rows.iter().any(|row| row[at] != answer.rows[0][at]);
    let is_telling = |at: &usize| answer.columns[*at].role == ColumnRole::Value && differs(*at);
    let bar_of = (0..answer.columns.len()).find(is_telling).filter(|_| with_bar);
    let highest = bar_of.map(|at| answer.rows.iter().filter_map(|row| row[at].number()).fold(0.0, f64::max));
    // Texts have no length to show.
    let highest = highest.filter(|&highest| highest > 0.0);
    let is_time = |at: usize| answer.rows.iter().any(|row| matches!(row[at], Cell::Time(_)));
    let title = |at: &usize| look.title(&answer.columns[*at], is_time(*at).then_some(zone));
    table.load_style(look.style()).set_header(shown.iter().map(title).chain(highest.map(|_| String::new())));
    for row in &answer.rows {
        let bar = bar_of.zip(highest);
        let bar =
            bar.map(|(at, highest)| row[at].number().map_or(String::new(), |value| bar_of_length(value / highest)));
        table.add_row(shown.iter().map(|&at| look.word(&row[at], zone)).chain(bar));
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
    let is_key = answer.columns[at].role == ColumnRole::Key;
    is_key && answer.rows.len() > 1 && answer.rows.iter().all(|row| row[at] == answer.rows[0][at] && told(&row[at]))
}

impl Look {
    fn style(self) -> TableStyle {
        match self {
            Self::Terminal => NOTHING,
            Self::Markdown => ASCII_MARKDOWN,
        }
    }

    /// Foreign text as it may stand there.
    fn text(self, text: &str) -> String {
        match self {
            Self::Terminal => print::safe_word(text),
            Self::Markdown => markdown_text(text),
        }
    }

    /// In Markdown, a header is one line.
    fn title(self, column: &AnswerColumn, zone: Option<Zone>) -> String {
        let mut name = self.text(&column.name);
        if let Some(zone) = zone {
            name = format!("{name} ({zone})");
        }
        match (column.unit.as_str(), self) {
            ("", _) => name,
            (unit, Self::Terminal) => format!("{name}\n{}", self.text(unit)),
            (unit, Self::Markdown) => format!("{name} ({})", self.text(unit)),
        }
    }

    fn word(self, cell: &Cell, zone: Zone) -> String {
        match cell {
            Cell::Null => "-".to_owned(),
            Cell::Text(text) => self.text(text),
            Cell::Count(count) => count.to_string(),
            Cell::Number(value) => digits(*value),
            Cell::Time(at) => zone.local(*at).format("%Y-%m-%d %H:%M").to_string(),
        }
    }
}

/// A bar of up to 20 blocks.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of 20")]
fn bar_of_length(share: f64) -> String {
    "█".repeat((share.clamp(0.0, 1.0) * 20.0).round() as usize)
}
