//! A report as Markdown, for a ticket or a chat: tables, and of each chart the range.

use crate::clock::Zone;
use crate::shown::{digits, is_command};

use super::model::{Chart, Fact, Report, Section, Table};
use super::words;

/// A report as Markdown.
#[must_use]
pub fn to_markdown(report: &Report, zone: Zone) -> String {
    let (since, until) = (words::moment(report.since, zone), words::moment(report.until, zone));
    let mut blocks = vec![
        format!("# {}", markdown_text(&report.title)),
        format!("{since} to {until} ({zone})"),
        facts(&report.facts),
    ];
    for section in report.sections.iter().chain(&report.devices) {
        blocks.push(format!("## {}", markdown_text(&section.title)));
        blocks.push(section.note.clone());
        blocks.push(facts(&section.facts));
        blocks.push(charts(section));
        blocks.extend(section.tables.iter().filter(|table| !table.rows.is_empty()).map(|shown| table(shown, zone)));
    }
    blocks.retain(|block| !block.is_empty());
    blocks.join("\n\n") + "\n"
}

fn facts(facts: &[Fact]) -> String {
    let fact = |fact: &Fact| {
        let mark = if fact.is_poor { " (!)" } else { "" };
        format!("- {}: {}{mark}", markdown_text(&fact.name), markdown_text(&fact.value))
    };
    facts.iter().map(fact).collect::<Vec<_>>().join("\n")
}

fn charts(section: &Section) -> String {
    let lines = section.charts.iter().flat_map(|chart| {
        chart.series.iter().filter_map(move |line| {
            let (least, mean, greatest) = Chart::range(line)?;
            let (divisor, unit) =
                if chart.is_stacked { (0.01, "%".to_owned()) } else { words::scale(greatest, &chart.unit) };
            let numbers = [least, mean, greatest].map(|value| digits(value / divisor));
            let cells = [&chart.title, &line.name, &numbers[0], &numbers[1], &numbers[2], &unit]
                .map(|cell| markdown_text(cell));
            Some(format!("| {} |", cells.join(" | ")))
        })
    });
    let lines: Vec<String> = lines.collect();
    if lines.is_empty() {
        return String::new();
    }
    format!(
        "| Over time | Of | Least | Mean | Most | Unit |\n| --- | --- | ---: | ---: | ---: | --- |\n{}",
        lines.join("\n")
    )
}

fn table(table: &Table, zone: Zone) -> String {
    let line = |cells: Vec<String>| format!("| {} |", cells.join(" | "));
    let is_number = |at: usize| table.rows.iter().any(|row| row.cells[at].number().is_some());
    let head = line(table.columns.iter().map(|name| markdown_text(name)).collect());
    let rule = line((0..table.columns.len()).map(|at| if is_number(at) { "---:" } else { "---" }.to_owned()).collect());
    let rows = table.rows.iter().map(|row| {
        let mark = if row.is_poor { "! " } else { "" };
        let cells = row.cells.iter().enumerate();
        line(
            cells
                .map(|(at, cell)| if at == 0 { mark } else { "" }.to_owned() + &markdown_text(&words::cell(cell, zone)))
                .collect(),
        )
    });
    let rows: Vec<String> = [head, rule].into_iter().chain(rows).collect();
    let more = if table.more > 0 { format!("\n\nand {} more", table.more) } else { String::new() };
    format!("### {}\n\n{}{more}", markdown_text(&table.title), rows.join("\n"))
}

/// Text that is no Markdown, no HTML, and does not turn the direction of what follows.
#[must_use]
pub fn markdown_text(text: &str) -> String {
    let letter = |letter: char| match letter {
        '&' => "&amp;".to_owned(),
        '<' => "&lt;".to_owned(),
        '>' => "&gt;".to_owned(),
        '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '#' | '~' => format!("\\{letter}"),
        _ if is_command(letter) => format!("\\\\u{{{:x}}}", u32::from(letter)),
        _ => letter.to_string(),
    };
    text.chars().map(letter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_is_no_markdown() {
        assert_eq!(markdown_text("a|b\n<img> [x](y) *"), "a\\|b".to_owned() + "\\\\u{a}&lt;img&gt; \\[x\\](y) \\*");
    }
}
