//! A report as one page: no script, nothing from elsewhere, and a policy in the page itself that forbids both.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use ring::digest::{SHA256, digest};

use crate::clock::Zone;
use crate::query::Cell;

use super::chart::{Frame, LARGE, SMALL, svg};
use super::model::{Chart, Fact, Report, Section, Table, TableRow};
use super::words;

/// A table of more columns has no room beside others.
const NARROW: usize = 3;

const STYLE: &str = include_str!("style.css");

/// A report as an HTML page, complete in itself.
#[must_use]
pub fn to_html(report: &Report, zone: Zone) -> String {
    let page = Page { zone, every_s: report.every_s };
    let hash = BASE64_STANDARD.encode(digest(&SHA256, STYLE.as_bytes()));
    let policy = format!("default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'");
    let (since, until) = (words::moment(report.since, zone), words::moment(report.until, zone));
    let every = crate::clock::format_duration(std::time::Duration::from_secs(report.every_s));
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(policy);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="referrer" content="no-referrer";
                title { (report.title) ", " (since) " to " (until) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { bdi { (report.title) } }
                    p { (since) " to " (until) " (" (zone) "), a point of a chart every " (every) }
                    (facts(&report.facts))
                    nav aria-label="Sections" { (contents(report)) }
                }
                main {
                    @for section in &report.sections { (page.section(section, false)) }
                    @for section in &report.devices { (page.section(section, true)) }
                }
                footer { "Made by dex-archive " (env!("CARGO_PKG_VERSION")) " at " (words::moment(report.made_at, zone)) "." }
            }
        }
    }
    .into_string()
    // HTML has no form for control characters, which names may hold; and an override shows another name than it is.
    .replace(|letter: char| letter.is_control() && !matches!(letter, '\n' | '\t') || is_override(letter), "\u{fffd}")
}

/// Whether a letter turns the letters behind it about, whatever they are: no text needs it, as `bdi` is around each.
fn is_override(letter: char) -> bool {
    matches!(letter, '\u{202d}' | '\u{202e}')
}

fn contents(report: &Report) -> Markup {
    html! {
        ul {
            @for section in report.sections.iter().chain(&report.devices) {
                li { a href=(format!("#{}", section.anchor)) { bdi { (section.title) } } }
            }
        }
    }
}

fn facts(facts: &[Fact]) -> Markup {
    html! {
        @if !facts.is_empty() {
            dl {
                @for fact in facts {
                    div { dt { (fact.name) } dd class=[fact.is_poor.then_some("poor")] { bdi { (fact.value) } } }
                }
            }
        }
    }
}

/// Why there is no picture of a chart.
fn no_picture(chart: &Chart) -> &'static str {
    let is_empty = chart.series.iter().all(|line| line.values.iter().all(Option::is_none));
    if is_empty { "No value in this time." } else { "The values are too far apart to be drawn." }
}

/// How times are shown.
struct Page {
    zone: Zone,
    every_s: u64,
}

impl Page {
    fn section(&self, section: &Section, is_device: bool) -> Markup {
        let tables: Vec<&Table> = section.tables.iter().filter(|table| !table.rows.is_empty()).collect();
        html! {
            section id=(section.anchor) class=[is_device.then_some("small")] {
                h2 { bdi { (section.title) } }
                @if !section.note.is_empty() { p { (section.note) } }
                (facts(&section.facts))
                @if !section.charts.is_empty() {
                    div class="charts" { @for chart in &section.charts { (self.chart(chart, if is_device { SMALL } else { LARGE })) } }
                }
                @if !tables.is_empty() {
                    div class="tables" { @for table in tables { (self.table(table)) } }
                }
            }
        }
    }

    fn chart(&self, chart: &Chart, size: (u32, u32)) -> Markup {
        let frame = Frame::of(chart, self.every_s);
        let unit = frame.as_ref().map(|frame| frame.unit.as_str()).unwrap_or_default();
        let heading = if unit.is_empty() { chart.title.clone() } else { format!("{}, {unit}", chart.title) };
        let limit = frame.as_ref().and_then(|frame| frame.limit_words(chart));
        let has_names = chart.series.len() > 1 || chart.is_stacked;
        html! {
            figure {
                figcaption { (heading) }
                @match svg(chart, self.zone, self.every_s, size) {
                    Some(svg) => (PreEscaped(svg)),
                    None => p { (no_picture(chart)) },
                }
                @if has_names || limit.is_some() {
                    ul class="legend" {
                        @for (at, line) in chart.series.iter().enumerate().filter(|_| has_names) {
                            li { i class=(format!("c{}", at % super::chart::SERIES.len())) {} bdi { (line.name) } }
                        }
                        @if let Some(limit) = &limit { li { i class="limit" {} (limit) } }
                    }
                }
            }
        }
    }

    fn table(&self, table: &Table) -> Markup {
        let is_number = |at: usize| table.rows.iter().any(|row| row.cells[at].number().is_some());
        let class = |at: usize| is_number(at).then_some("number");
        html! {
            div class=(if table.columns.len() > NARROW { "table wide" } else { "table" }) {
                table {
                    caption { (table.title) }
                    thead { tr {
                        @for (at, name) in table.columns.iter().enumerate() { th scope="col" class=[class(at)] { (name) } }
                    } }
                    tbody {
                        @for row in &table.rows {
                            tr class=[row.is_poor.then_some("poor")] {
                                @for (at, cell) in row.cells.iter().enumerate() {
                                    td class=[class(at)] { (self.cell(row, at, cell)) }
                                }
                            }
                        }
                    }
                }
                @if table.more > 0 { p class="more" { "and " (table.more) " more" } }
            }
        }
    }

    fn cell(&self, row: &TableRow, at: usize, cell: &Cell) -> Markup {
        let text = words::cell(cell, self.zone);
        match row.anchor.as_ref().filter(|_| at == 0) {
            Some(anchor) => html! { a href=(format!("#{anchor}")) { bdi { (text) } } },
            None => html! { bdi { (text) } },
        }
    }
}
