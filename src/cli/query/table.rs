//! An answer for people: a table with units in the header, sensible digits and a dash where there is nothing; above
//! it each value's course as a line of small bars.

use comfy_table::presets::{ASCII_MARKDOWN, NOTHING};
use comfy_table::{CellAlignment, Table, TableStyle};

use crate::clock::Zone;
use crate::query::{Answer, AnswerColumn, Cell, ColumnRole};
use crate::report::markdown_text;
use crate::shown::digits;

use super::super::print;
use super::course::{self, Course};

/// The most courses that are drawn above a table.
const MOST_COURSES: usize = 24;

/// Letters of a course at most.
const LONGEST_LINE: usize = 60;

/// And at least, however narrow the terminal is.
const SHORTEST_LINE: usize = 8;

/// Buckets that a course has at least: of two or three, the table says enough.
const SHORTEST_COURSE: usize = 4;

/// An answer as a table, no wider than the terminal where that can be had.
pub(in crate::cli) fn table(answer: &Answer, zone: Zone) -> String {
    within(answer, zone, print::width().filter(|_| print::is_terminal()))
}

/// An answer as a table within so many letters: the bars go first, then the names of columns stand in several lines.
fn within(answer: &Answer, zone: Zone, most: Option<usize>) -> String {
    let courses: Vec<Course> =
        course::courses(answer).into_iter().filter(|course| course.values.len() >= SHORTEST_COURSE).collect();
    let width = courses.iter().map(|course| course.name.chars().count()).max().unwrap_or(0);
    let courses = if courses.len() > MOST_COURSES { &[] } else { &courses[..] };
    let lines = courses.iter().map(|course| {
        let (least, greatest) =
            course.range().map_or(("-".to_owned(), "-".to_owned()), |(a, b)| (digits(a), digits(b)));
        let told = format!("{least} … {greatest} {}", course.unit);
        // What is left of the line beside the name and the figures.
        let room = most.map_or(LONGEST_LINE, |most| most.saturating_sub(width + told.chars().count() + 4));
        format!("{:width$}  {}  {told}\n", course.name, course.sparkline(room.clamp(SHORTEST_LINE, LONGEST_LINE)))
    });
    let lines: String = lines.collect();
    let gap = if lines.is_empty() { "" } else { "\n" };
    let fits =
        |table: &Table| most.is_none_or(|most| table.lines().all(|line| line.trim_end().chars().count() <= most));
    let shaped = |with_bar, splits_names| cells(answer, zone, Look::Terminal { with_bar, splits_names });
    let table = Some(shaped(true, false)).filter(fits);
    let table = table.or_else(|| Some(shaped(false, false)).filter(fits)).unwrap_or_else(|| shaped(false, true));
    let none = if answer.rows.is_empty() { "(none)\n" } else { "" };
    format!("{}\n{lines}{gap}{table}\n{none}", print::safe_word(&answer.title))
}

/// An answer as a table of Markdown.
pub(super) fn markdown(answer: &Answer, zone: Zone) -> String {
    format!("{}\n", cells(answer, zone, Look::Markdown))
}

/// Where a table is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    Terminal { with_bar: bool, splits_names: bool },
    Markdown,
}

/// Letters of a line of a name that stands in several.
const NAME_LETTERS: usize = 12;

/// The rows of an answer. On a terminal, what is the same in every row stands in the title alone, and each row shows
/// how large its first value is that is not the same in all.
fn cells(answer: &Answer, zone: Zone, look: Look) -> Table {
    let (mut table, with_bar) = (Table::new(), matches!(look, Look::Terminal { with_bar: true, .. }));
    let shown = (0..answer.columns.len()).filter(|&at| look == Look::Markdown || !is_told(answer, at));
    let shown: Vec<usize> = shown.collect();
    let time_form = time_form(answer, zone);
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
        table.add_row(shown.iter().map(|&at| look.word(&row[at], zone, &time_form)).chain(bar));
    }
    for (place, &at) in shown.iter().enumerate() {
        let is_number = answer.rows.iter().any(|row| row[at].number().is_some());
        let column = table.column_mut(place).filter(|_| is_number);
        column.into_iter().for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    }
    table
}

/// Whether a column says the same in every row, and the title, which is a name with an id behind it, says it.
fn is_told(answer: &Answer, at: usize) -> bool {
    let is_in = |text: &str| {
        answer.title.strip_prefix(text).is_some_and(|rest| rest.starts_with(" ("))
            || answer.title.ends_with(&format!(" ({text})"))
    };
    let told = |cell: &Cell| matches!(cell, Cell::Text(text) if is_in(text));
    let is_key = answer.columns[at].role == ColumnRole::Key;
    is_key && answer.rows.len() > 1 && answer.rows.iter().all(|row| row[at] == answer.rows[0][at] && told(&row[at]))
}

impl Look {
    fn style(self) -> TableStyle {
        match self {
            Self::Terminal { .. } => NOTHING,
            Self::Markdown => ASCII_MARKDOWN,
        }
    }

    /// Foreign text as it may stand there.
    fn text(self, text: &str) -> String {
        match self {
            Self::Terminal { .. } => print::safe_word(text),
            Self::Markdown => markdown_text(text),
        }
    }

    /// In Markdown, a header is one line.
    fn title(self, column: &AnswerColumn, zone: Option<Zone>) -> String {
        let mut name = match self {
            Self::Terminal { splits_names: true, .. } => in_lines(&self.text(&column.name)),
            _ => self.text(&column.name),
        };
        if let Some(zone) = zone {
            name = format!("{name} ({zone})");
        }
        match (column.unit.as_str(), self) {
            ("", _) => name,
            (unit, Self::Terminal { .. }) => format!("{name}\n{}", self.text(unit)),
            (unit, Self::Markdown) => format!("{name} ({})", self.text(unit)),
        }
    }

    fn word(self, cell: &Cell, zone: Zone, time_form: &str) -> String {
        match cell {
            Cell::Null => "-".to_owned(),
            Cell::Text(text) => self.text(text),
            Cell::Flag(flag) => flag.to_string(),
            Cell::Count(count) => count.to_string(),
            Cell::Number(value) => digits(*value),
            Cell::Time(at) => zone.local(*at).format(time_form).to_string(),
        }
    }
}

/// How times are written: with their offset from UTC where that changes, for an hour is there twice then, and as exactly
/// as they are.
fn time_form(answer: &Answer, zone: Zone) -> String {
    let cells = answer.rows.iter().flatten();
    let times = || cells.clone().filter_map(|cell| if let Cell::Time(at) = cell { Some(*at) } else { None });
    let seconds = match times().map(|at| at.timestamp_micros().rem_euclid(60_000_000)).max() {
        Some(1..) if times().any(|at| at.timestamp_micros() % 1_000 != 0) => ":%S%.6f",
        Some(1..) if times().any(|at| at.timestamp_micros() % 1_000_000 != 0) => ":%S%.3f",
        Some(1..) => ":%S",
        _ => "",
    };
    let mut offsets = times().map(|at| zone.local(at).offset().local_minus_utc());
    let first = offsets.next();
    let offset = if offsets.all(|offset| Some(offset) == first) { "" } else { " %:z" };
    format!("%Y-%m-%d %H:%M{seconds}{offset}")
}

/// A name in several lines, of which each but the last ends with an underscore.
fn in_lines(name: &str) -> String {
    let mut lines: Vec<String> = vec![String::new()];
    for word in name.split_inclusive('_') {
        match lines.last_mut() {
            Some(line) if line.is_empty() || line.len() + word.len() <= NAME_LETTERS => line.push_str(word),
            _ => lines.push(word.to_owned()),
        }
    }
    lines.join("\n")
}

/// A bar of up to 20 blocks.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of 20")]
fn bar_of_length(share: f64) -> String {
    "█".repeat((share.clamp(0.0, 1.0) * 20.0).round() as usize)
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::clock;

    fn answer(names: &[&str], rows: usize) -> Answer {
        let mut columns = vec![AnswerColumn::start()];
        columns.extend(names.iter().map(|name| AnswerColumn::value((*name).to_owned(), "us")));
        let first = clock::parse_timestamp("2026-10-24T22:00:00Z").expect("a time");
        let row = |at: usize| {
            let at_time = first + TimeDelta::hours(i64::try_from(at).expect("few"));
            let values = (0..names.len()).map(|name| Cell::Count(i64::try_from(100 * at + name).expect("few")));
            [Cell::Time(at_time)].into_iter().chain(values).collect()
        };
        Answer { title: "the fleet".to_owned(), columns, rows: (0..rows).map(row).collect() }
    }

    #[test]
    fn a_table_keeps_within_the_terminal_where_it_can() {
        let answer = answer(&["rtt_min_rtt_us_downstream_mean", "rtt_rtt_var_us_upstream_mean"], 3);
        let table = |most| within(&answer, Zone::UTC, most);
        let widest = |text: &str| text.lines().map(|line| line.trim_end().chars().count()).max().unwrap_or(0);
        let whole = table(None);
        assert!(whole.contains('█') && whole.contains(" rtt_min_rtt_us_downstream_mean "), "{whole}");
        let without_bars = table(Some(widest(&whole) - 1));
        assert!(
            !without_bars.contains('█') && without_bars.contains("rtt_min_rtt_us_downstream_mean"),
            "{without_bars}"
        );
        let narrow = table(Some(60));
        assert!(widest(&narrow) <= 60 && narrow.contains("downstream_") && narrow.contains("100"), "{narrow}");
        assert_eq!(table(Some(1)), narrow, "there is no narrower one");
    }

    #[test]
    fn an_hour_that_is_there_twice_is_told_apart() {
        let berlin = Zone::parse("Europe/Berlin").expect("a zone");
        let table = within(&answer(&["x"], 4), berlin, None);
        assert!(table.contains("2026-10-25 02:00 +02:00") && table.contains("2026-10-25 02:00 +01:00"), "{table}");
        assert!(!within(&answer(&["x"], 2), berlin, None).contains("+02:00"));
    }

    #[test]
    fn times_are_as_exact_as_they_are() {
        let moved = |micros: i64| {
            let mut answer = answer(&["x"], 2);
            let Cell::Time(at) = &mut answer.rows[1][0] else { panic!("a time") };
            *at += TimeDelta::microseconds(micros);
            within(&answer, Zone::UTC, None)
        };
        assert!(moved(0).contains("2026-10-24 23:00 "), "{}", moved(0));
        assert!(moved(30_000_000).contains("2026-10-24 22:00:00") && moved(30_000_000).contains("23:00:30 "));
        assert!(moved(1_500_000).contains("23:00:01.500 "), "{}", moved(1_500_000));
        assert!(moved(1_500_001).contains("23:00:01.500001"), "{}", moved(1_500_001));
    }

    #[test]
    fn what_the_title_says_stands_in_no_row_and_what_it_does_not_say_does() {
        let shown = |title: &str, name: &str| {
            let columns = vec![AnswerColumn::key("device_name"), AnswerColumn::value("x".to_owned(), "")];
            let rows = (0..2).map(|count| vec![Cell::Text(name.to_owned()), Cell::Count(count)]).collect();
            within(&Answer { title: title.to_owned(), columns, rows }, Zone::UTC, None).contains("device_name")
        };
        assert!(!shown("kiosk (cb49c27f)", "kiosk") && !shown("kiosk (cb49c27f)", "cb49c27f"));
        assert!(shown("2 devices", "2") && shown("2 devices", "device") && shown("2 devices", ""));
    }

    #[test]
    fn courses_keep_within_the_terminal_too() {
        let answer = answer(&["rtt_rtt_us_downstream_mean"], 60);
        for most in [70, 80, 120] {
            let table = within(&answer, Zone::UTC, Some(most));
            assert!(table.lines().all(|line| line.trim_end().chars().count() <= most), "{table}");
        }
    }
}
