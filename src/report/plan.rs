//! What a report shows: `schemas/report.toml`, and the limits that somebody set in its place.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, de::Error};

use crate::query::Agg;

const TABLE: &str = include_str!("../../schemas/report.toml");

/// Limits by their names, as the config file sets them: `[report.limits]`.
pub type Limits = BTreeMap<String, f64>;

/// Why a limit cannot be set.
#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    /// There is none of that name.
    #[error("[report.limits] has no {name:?}: {} can be set", .known.join(", "))]
    Name {
        /// What was set.
        name: String,
        /// What can be.
        known: Vec<String>,
    },
    /// No value is beyond it, or it beyond every value.
    #[error("[report.limits] {name} = {value} is no limit: it must be a number")]
    Number {
        /// What was set.
        name: String,
        /// To what.
        value: f64,
    },
}

/// What a report shows.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    pub(super) percent_judged_by: String,
    pub(super) share: Vec<Shown>,
    pub(super) percentiles: Vec<Course>,
    pub(super) count: Vec<Shown>,
    pub(super) limit: Vec<Limit>,
    pub(super) disconnects: Disconnects,
    pub(super) change: Vec<Shown>,
    pub(super) apps: Apps,
    pub(super) fact: Vec<Shown>,
    pub(super) course: Vec<Course>,
}

/// A column, and what it is called.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Shown {
    pub(super) title: String,
    pub(super) column: String,
}

/// A metric, and what it is called.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Course {
    pub(super) title: String,
    pub(super) metric: String,
}

/// When a device is in trouble.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Limit {
    pub(super) name: String,
    pub(super) title: String,
    pub(super) metric: String,
    #[serde(deserialize_with = "agg")]
    pub(super) agg: Agg,
    #[serde(flatten)]
    pub(super) bound: Bound,
}

/// On which side of a number the trouble is.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Bound {
    Above(f64),
    Below(f64),
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Disconnects {
    pub(super) title: String,
    pub(super) column: String,
    pub(super) value: String,
    pub(super) above: f64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Apps {
    pub(super) resources: Vec<String>,
}

/// What disconnects are called among the limits.
const DISCONNECTS: &str = "disconnects";

impl Plan {
    /// What is shown, with these limits in place of the table's.
    ///
    /// # Errors
    /// Where a limit is set that there is none of, or to what is no number.
    pub fn new(limits: &Limits) -> Result<Self, LimitError> {
        let mut plan: Self = toml::from_str(TABLE).expect("the table that is built in is of its form: a test reads it");
        for (name, &value) in limits {
            let number = match plan.limit.iter_mut().find(|limit| limit.name == *name) {
                Some(limit) => limit.bound.number(),
                None if name == DISCONNECTS => &mut plan.disconnects.above,
                None => {
                    let known = plan.limit.iter().map(|limit| limit.name.clone()).chain([DISCONNECTS.to_owned()]);
                    return Err(LimitError::Name { name: name.clone(), known: known.collect() });
                }
            };
            if !value.is_finite() {
                return Err(LimitError::Number { name: name.clone(), value });
            }
            *number = value;
        }
        Ok(plan)
    }
}

impl Bound {
    /// The number itself.
    pub(super) fn value(self) -> f64 {
        let (Self::Above(number) | Self::Below(number)) = self;
        number
    }

    fn number(&mut self) -> &mut f64 {
        let (Self::Above(number) | Self::Below(number)) = self;
        number
    }

    /// It for values that are a hundredth of those that it was written for.
    pub(super) fn hundredth(self) -> Self {
        match self {
            Self::Above(number) => Self::Above(number / 100.0),
            Self::Below(number) => Self::Below(number / 100.0),
        }
    }

    pub(super) fn is_crossed_by(self, value: f64) -> bool {
        match self {
            Self::Above(number) => value > number,
            Self::Below(number) => value < number,
        }
    }

    /// How bad a value is: more is worse.
    pub(super) fn badness(self, value: f64) -> f64 {
        match self {
            Self::Above(_) => value,
            Self::Below(_) => -value,
        }
    }
}

fn agg<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Agg, D::Error> {
    let name = String::deserialize(deserializer)?;
    Agg::parse(&name).ok_or_else(|| D::Error::custom(format!("{name:?} is no aggregate")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::metrics;
    use crate::schema::Schema;

    #[test]
    fn every_name_in_the_table_is_a_column() {
        let plan = Plan::new(&Limits::new()).expect("the plan");
        let courses = plan.percentiles.iter().chain(&plan.course).map(|shown| &shown.metric);
        let numbers = plan.limit.iter().map(|limit| &limit.metric).chain(courses);
        let shares = plan.share.iter().chain(&plan.count).map(|shown| &shown.column);
        for name in numbers.chain(shares).chain([&plan.percent_judged_by]) {
            assert_eq!(metrics(std::slice::from_ref(name)).expect("a metric").len(), 1, "{name}");
        }
        let schema = Schema::device_state();
        for name in plan.change.iter().chain(&plan.fact).map(|shown| &shown.column).chain([&plan.disconnects.column]) {
            assert!(schema.index_of(name).is_some(), "{name}");
        }
    }

    #[test]
    fn a_limit_is_set_by_its_name_or_the_names_are_told() {
        let set = |name: &str| Plan::new(&Limits::from([(name.to_owned(), 7.0)]));
        let plan = set("battery").expect("a limit");
        assert_eq!(plan.limit.iter().find(|limit| limit.name == "battery").map(|l| l.bound), Some(Bound::Below(7.0)));
        assert!((set("disconnects").expect("a limit").disconnects.above - 7.0).abs() < 1e-9);
        let said = set("latency").expect_err("none").to_string();
        assert!(said.starts_with("[report.limits] has no \"latency\": loss, rtt, cpu, "), "{said}");
    }

    #[test]
    fn a_limit_is_a_number() {
        for (name, value) in [("loss", f64::NAN), ("disconnects", f64::INFINITY), ("battery", f64::NEG_INFINITY)] {
            let said = Plan::new(&Limits::from([(name.to_owned(), value)])).expect_err("none").to_string();
            assert_eq!(said, format!("[report.limits] {name} = {value} is no limit: it must be a number"));
        }
    }
}
