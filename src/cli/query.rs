//! `query`.

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use serde_json::{Map, Value, json};

use crate::archive::Archive;
use crate::clock::{self, Clock};
use crate::config;
use crate::privacy::{Action, Policy};
use crate::query::{Agg, Point, QueryError, Trend, TrendOptions, Window, metrics, resolve_device, trend};
use crate::snapshot::DeviceId;

use super::args::{AggArg, Args, Format, QueryArgs, Question, TrendArgs};
use super::{Exit, print};

/// Answers a question.
pub(super) fn run(args: &Args, command: &QueryArgs) -> anyhow::Result<Exit> {
    let Question::Trend(question) = &command.question;
    let now = Clock::system().now();
    let point = |text: &str| config::parse_time(text, now);
    let window = Window { since: point(&question.since)?, until: point(&question.until)? };
    let archive = args.open_archive()?;
    let policy = args.config()?.1.policy()?;
    let metrics = metrics(&question.metric)?;
    let options = TrendOptions {
        metrics,
        device_id: device_id(&archive, &policy, &question.device, window)?,
        window,
        every: config::parse_duration(&question.every)?,
        aggs: aggs(question),
    };
    let answer = trend(&archive, &options)?;
    print::data(&match question.format {
        Format::Table => table(&answer),
        Format::Csv => csv(&answer),
        Format::Json => json_text(&answer),
    })?;
    Ok(Exit::Done)
}

/// The id of a device in the archive. Where ids or names are pseudonyms there, what was typed is made one.
fn device_id(archive: &Archive, policy: &Policy, device: &str, window: Window) -> Result<String, QueryError> {
    let is_treated = |column| policy.treated_columns().any(|treated| treated == (column, Action::Pseudonym));
    let id = DeviceId::parse(device).ok().filter(|_| is_treated("device_id"));
    if let Some(pseudonym) = id.and_then(|id| policy.pseudonym(id.as_str())) {
        return Ok(pseudonym);
    }
    let name = policy.pseudonym(device).filter(|_| is_treated("device_name"));
    resolve_device(archive, name.as_deref().unwrap_or(device), window)
}

/// A trend for people: a line a bucket, a dash where there is nothing, a bar of the first value.
pub(super) fn table(trend: &Trend) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING);
    let titles = columns(trend)
        .into_iter()
        .map(|(title, unit)| if unit.is_empty() { title } else { format!("{title}\n{unit}") });
    table.set_header(["start (UTC)".to_owned(), "states".to_owned()].into_iter().chain(titles).chain([String::new()]));
    let highest = first_values(trend).fold(0.0, f64::max);
    for point in &trend.points {
        let start = point.start.format("%Y-%m-%d %H:%M").to_string();
        let values = point.values.iter().map(|value| value.map_or("-".to_owned(), digits));
        let bar = point.values.first().copied().flatten().map_or(String::new(), |value| bar(value, highest));
        table.add_row([start, point.states.to_string()].into_iter().chain(values).chain([bar]));
    }
    for column in 1..=trend.metrics.len() * trend.aggs.len() + 1 {
        table.column_mut(column).into_iter().for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    }
    let name = trend.device_name.as_deref().unwrap_or("(no name)");
    format!("{} ({})\n{table}\n", print::safe_word(name), print::safe_word(&trend.device_id))
}

/// The columns' names and units.
fn columns(trend: &Trend) -> Vec<(String, String)> {
    let of = |agg: Agg| {
        move |metric: &crate::query::Metric| {
            (format!("{}_{}", metric.name, agg.name()), metric.unit.map_or("", |unit| unit.name()).to_owned())
        }
    };
    trend.metrics.iter().flat_map(|metric| trend.aggs.iter().map(move |agg| of(*agg)(metric))).collect()
}

fn csv(trend: &Trend) -> String {
    let titles = columns(trend).into_iter().map(|(title, _)| format!(",{title}"));
    let head = format!("start,device_id,states{}\n", titles.collect::<String>());
    let line = |point: &Point| {
        let values = point.values.iter().map(|value| value.map_or(",".to_owned(), |value| format!(",{value}")));
        let start = clock::format_timestamp(point.start);
        format!("{start},{},{}{}\n", trend.device_id, point.states, values.collect::<String>())
    };
    head + &trend.points.iter().map(line).collect::<String>()
}

fn json_text(trend: &Trend) -> String {
    let columns = columns(trend);
    let points = trend.points.iter().map(|point| {
        let mut object = Map::new();
        object.insert("start".to_owned(), clock::format_timestamp(point.start).into());
        object.insert("states".to_owned(), point.states.into());
        for ((title, _), value) in columns.iter().zip(&point.values) {
            object.insert(title.clone(), value.map_or(Value::Null, Value::from));
        }
        Value::Object(object)
    });
    let answer =
        json!({"device_id": trend.device_id, "device_name": trend.device_name, "points": points.collect::<Vec<_>>()});
    format!("{answer:#}\n")
}

fn first_values(trend: &Trend) -> impl Iterator<Item = f64> {
    trend.points.iter().filter_map(|point| point.values.first().copied().flatten())
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

fn aggs(question: &TrendArgs) -> Vec<Agg> {
    let agg = |agg: &AggArg| match agg {
        AggArg::Mean => Agg::Mean,
        AggArg::Min => Agg::Min,
        AggArg::Max => Agg::Max,
    };
    question.agg.iter().map(agg).collect()
}
