//! Which columns are meant: by name, by the word of their group, or by a pattern.

use strsim::levenshtein;

use crate::schema::{Column, Kind, Role, Schema, Unit};

use super::QueryError;

/// A column that a trend can be made of.
#[derive(Debug, Clone, PartialEq)]
pub struct Metric {
    /// Name of the column.
    pub name: String,
    /// Its unit.
    pub unit: Option<Unit>,
    /// The value that stands for none.
    pub missing: Option<f64>,
    /// What is trended.
    pub kind: MetricKind,
    /// Position in the schema.
    pub(super) column: usize,
}

/// What is trended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// Numbers.
    Number,
    /// Counts within a window of the state's own, of which the length stands in another column.
    PerWindow {
        /// That column's position in the schema.
        window: usize,
    },
    /// Texts: the share of each.
    Share,
}

impl Metric {
    /// The position of the column that says how long each value counts, where there is one.
    pub(super) fn window(&self) -> Option<usize> {
        match self.kind {
            MetricKind::PerWindow { window } => Some(window),
            _ => None,
        }
    }
}

/// The metrics of these names: each a column, the word of a group, or a pattern with `*` and `?`.
///
/// # Errors
/// Says which of the names is no metric's, and which may have been meant.
pub fn metrics(names: &[String]) -> Result<Vec<Metric>, QueryError> {
    let schema = Schema::device_state();
    let mut metrics: Vec<Metric> = Vec::new();
    for name in names.iter().map(|name| name.trim()) {
        let found = select(&schema, name, is_trendable, is_number);
        if found.is_empty() {
            return Err(QueryError::Metric { name: name.to_owned(), near: near(&schema, name, is_trendable) });
        }
        for metric in found.into_iter().map(|at| metric(&schema, at)) {
            if !metrics.contains(&metric) {
                metrics.push(metric);
            }
        }
    }
    Ok(metrics)
}

/// The words for groups of metrics.
#[must_use]
pub fn metric_groups() -> Vec<String> {
    let schema = Schema::device_state();
    let mut groups = Vec::new();
    for group in schema.columns.iter().filter(|column| is_number(column)).filter_map(|column| column.group.as_ref()) {
        if !groups.contains(group) {
            groups.push(group.clone());
        }
    }
    groups
}

/// Whether a name is of a pattern: `*` stands for any letters, `?` for one.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut at, mut in_name, mut star) = (0, 0, None);
    while in_name < name.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, in_name));
                at += 1;
            }
            Some(letter) if *letter == '?' || *letter == name[in_name] => (at, in_name) = (at + 1, in_name + 1),
            _ => match star {
                Some((star_at, from)) => {
                    star = Some((star_at, from + 1));
                    (at, in_name) = (star_at + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|letter| *letter == '*')
}

/// Whether a text is a pattern.
#[must_use]
pub fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?'])
}

/// The columns that are meant by a name: the one that has it, or those of a group, or of a pattern. By its own name
/// another kind of column may be meant than as one of several.
pub(super) fn select(
    schema: &Schema,
    name: &str,
    is_alone: impl Fn(&Column) -> bool,
    is_one_of_several: impl Fn(&Column) -> bool,
) -> Vec<usize> {
    if let Some(at) = schema.index_of(name).filter(|at| is_alone(&schema.columns[*at])) {
        return vec![at];
    }
    let is_named =
        |column: &Column| column.group.as_deref() == Some(name) || is_pattern(name) && matches(name, &column.name);
    let columns = schema.columns.iter().enumerate();
    columns.filter(|(_, column)| is_named(column) && is_one_of_several(column)).map(|(at, _)| at).collect()
}

fn metric(schema: &Schema, at: usize) -> Metric {
    let column = &schema.columns[at];
    let window = schema.columns.iter().position(|column| column.role == Role::Window);
    let kind = match (column.role, window) {
        _ if !is_number(column) => MetricKind::Share,
        (Role::WindowCounter, Some(window)) => MetricKind::PerWindow { window },
        _ => MetricKind::Number,
    };
    Metric { name: column.name.clone(), unit: column.unit, missing: column.missing, kind, column: at }
}

fn is_number(column: &Column) -> bool {
    matches!(column.kind, Kind::Int64 | Kind::Float64) && column.role != Role::Provenance
}

fn is_trendable(column: &Column) -> bool {
    let is_text = matches!(column.kind, Kind::String | Kind::Boolean) && column.role == Role::Label;
    is_number(column) || is_text
}

/// Columns of a kind whose name holds the text or is held by it; else those that are spelled nearly so.
pub(super) fn near(schema: &Schema, text: &str, is_of_kind: impl Fn(&Column) -> bool) -> Vec<String> {
    let text = text.to_lowercase().replace('-', "_");
    let names = || schema.columns.iter().filter(|column| is_of_kind(column)).map(|column| &column.name);
    let holds = |name: &&String| text.len() > 1 && (name.contains(&text) || text.contains(name.as_str()));
    let mut near: Vec<&String> = names().filter(holds).take(5).collect();
    if near.is_empty() {
        let mut close: Vec<_> = names().map(|name| (levenshtein(name, &text), name)).collect();
        close.sort_unstable();
        near = close
            .into_iter()
            .take_while(|(letters, _)| *letters <= 2 + text.len() / 4)
            .take(3)
            .map(|(_, name)| name)
            .collect();
    }
    near.into_iter().cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(asked: &[&str]) -> Vec<String> {
        let asked: Vec<String> = asked.iter().map(ToString::to_string).collect();
        metrics(&asked).expect("metrics").into_iter().map(|metric| metric.name).collect()
    }

    #[test]
    fn a_metric_is_named_by_column_group_or_pattern() {
        assert_eq!(names(&["cpu_pct"]), ["cpu_pct"]);
        assert_eq!(names(&["disk"]).len(), 3);
        let groups = metric_groups();
        assert!(
            groups.iter().all(|group| !names(&[group]).is_empty()) && groups.contains(&"ram".to_owned()),
            "{groups:?}"
        );
        assert!(names(&["rtt"]).iter().all(|name| name.starts_with("rtt_")));
        assert_eq!(names(&["disk_*_bps", "disk_read_bps"]), ["disk_read_bps", "disk_write_bps"]);
        assert_eq!(metrics(&["status".to_owned()]).expect("a metric")[0].kind, MetricKind::Share);
        let bytes = metrics(&["tunnel_stats_bytes_sent_upstream".to_owned()]).expect("a metric");
        assert!(matches!(bytes[0].kind, MetricKind::PerWindow { .. }));
    }

    #[test]
    fn a_wrong_name_is_told_with_the_nearest() {
        let said = |name: &str| metrics(&[name.to_owned()]).expect_err("none").to_string();
        assert!(said("cpu_pkt").contains("did you mean cpu_pct"), "{}", said("cpu_pkt"));
        assert!(said("handshake").contains("did you mean handshake_latency_ms"), "{}", said("handshake"));
        assert!(said("xyzzyxyzzy").starts_with("\"xyzzyxyzzy\" is no metric: "), "{}", said("xyzzyxyzzy"));
    }

    #[test]
    fn patterns_are_matched_from_end_to_end() {
        for (pattern, name, expect) in [
            ("*", "", true),
            ("a*c", "abbc", true),
            ("a*c", "abcd", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*b*b*", "abcb", true),
            ("a", "ab", false),
            ("", "", true),
        ] {
            assert_eq!(matches(pattern, name), expect, "{pattern} {name}");
        }
    }
}
