//! Lines of Cloudflare's Logpush dataset `dex_device_state_events`, put into the words of the fleet-status API.
//!
//! What stands where is told by `schemas/logpush.toml`. Values are moved as they were written, letter by letter; a
//! percentage of 0 to 1 becomes one of 0 to 100 by its exponent, which rounds nothing. What has no place in the API's
//! body keeps its name, and so ends in the archive's `unmapped`.

use std::collections::HashMap;
use std::fmt::{self, Write};
use std::sync::LazyLock;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::clock;
use crate::snapshot::AccountId;

const TABLE: &str = include_str!("../../schemas/logpush.toml");

static MAPPING: LazyLock<Mapping> =
    LazyLock::new(|| Mapping::parse(TABLE).expect("the table that is built in is of its form: a test reads it"));

/// A line in the API's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Translated {
    /// Whose state it is, where the line says so.
    pub(super) account: Option<AccountId>,
    /// The state, as JSON.
    pub(super) body: String,
}

/// Puts a line into the API's words; none where it is no JSON object, or names two accounts.
pub(super) fn translate(line: &str) -> Option<Translated> {
    MAPPING.translate(line)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    #[expect(dead_code, reason = "there is only one yet")]
    format: u32,
    account: String,
    field: Vec<Field>,
}

/// Where a field goes.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Field {
    from: String,
    to: String,
    #[serde(default)]
    percent: bool,
    #[serde(default)]
    time: bool,
    apps: Option<String>,
}

struct Mapping {
    account: String,
    fields: HashMap<String, Field>,
}

/// The members of an object, in their order. A name that stands twice does so in the body as well: whoever makes a row of
/// it knows what that means.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reading;
        impl<'de> Visitor<'de> for Reading {
            type Value = Members<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Reading)
    }
}

/// What is put together.
enum Node {
    Value(String),
    /// Its members, and where its objects are among them.
    Object(Vec<(String, Node)>, HashMap<String, usize>),
}

impl Mapping {
    fn parse(text: &str) -> Result<Self, toml::de::Error> {
        let table: Table = toml::from_str(text)?;
        let fields = table.field.into_iter().map(|field| (field.from.clone(), field)).collect();
        Ok(Self { account: table.account, fields })
    }

    fn translate(&self, line: &str) -> Option<Translated> {
        let Members(members) = serde_json::from_str(line).ok()?;
        let (mut account, mut body) = (None, Node::new());
        for (name, value) in members {
            let id = || serde_json::from_str::<String>(value.get()).ok().and_then(|id| AccountId::parse(&id).ok());
            match (name == self.account).then(id).flatten() {
                Some(id) if account.as_ref().is_some_and(|other| *other != id) => return None,
                Some(id) => account = Some(id),
                None => self.put(&mut body, &name, value),
            }
        }
        let mut text = String::new();
        body.write(&mut text);
        Some(Translated { account, body: text })
    }

    /// Puts a field where it belongs; members of an object may each have a place of their own.
    fn put(&self, body: &mut Node, name: &str, value: &RawValue) {
        if let Some(field) = self.fields.get(name) {
            return body.put(field.to.split('.'), field.convert(value));
        }
        let begins = |from: &String| from.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'));
        match serde_json::from_str::<Members>(value.get()) {
            Ok(Members(members)) if self.fields.keys().any(begins) => {
                members.into_iter().for_each(|(member, value)| match self.fields.get(&format!("{name}.{member}")) {
                    Some(field) => body.put(field.to.split('.'), field.convert(value)),
                    None => body.put([name, &member].into_iter(), value.get().to_owned()),
                })
            }
            _ => body.put([name].into_iter(), value.get().to_owned()),
        }
    }
}

impl Field {
    fn convert(&self, value: &RawValue) -> String {
        let converted = match &self.apps {
            Some(member) => apps(value, member),
            None if self.percent => hundredfold(value.get()),
            None if self.time => moment(value.get()),
            None => None,
        };
        converted.unwrap_or_else(|| value.get().to_owned())
    }
}

impl Node {
    fn new() -> Self {
        Self::Object(Vec::new(), HashMap::new())
    }

    /// Puts a value at a path, beside what may stand there.
    fn put<'a>(&mut self, path: impl Iterator<Item = &'a str>, value: String) {
        let mut path = path.peekable();
        let mut object = self;
        while let (Self::Object(members, objects), Some(name)) = (object, path.next()) {
            if path.peek().is_none() {
                members.push((name.to_owned(), Self::Value(value)));
                return;
            }
            let at = objects.get(name).copied().unwrap_or_else(|| {
                objects.insert(name.to_owned(), members.len());
                members.push((name.to_owned(), Self::new()));
                members.len() - 1
            });
            object = &mut members[at].1;
        }
    }

    /// Writes it, members by their names. Of several of one name, of which the last counts, that is the one that came last;
    /// what was put together of fields that have their place there counts before a field that happens to be called so.
    fn write(&self, text: &mut String) {
        let mut members: Vec<_> = match self {
            Self::Value(value) => return text.push_str(value),
            Self::Object(members, _) => members.iter().collect(),
        };
        members.sort_by_key(|(name, node)| (name, matches!(node, Self::Object(..))));
        text.push('{');
        for (at, (name, member)) in members.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(text, "{comma}{}:", serde_json::Value::from(name.as_str())).expect("a text takes what is written");
            member.write(text);
        }
        text.push('}');
    }
}

/// A list of applications, with the share of each under the API's name for it.
fn apps(value: &RawValue, member: &str) -> Option<String> {
    let list: Vec<Members> = serde_json::from_str(value.get()).ok()?;
    let app = |members: &Members| {
        let mut app = Node::new();
        for (name, value) in &members.0 {
            let share = (name == "percentage").then(|| hundredfold(value.get())).flatten();
            match share {
                Some(share) => app.put([member].into_iter(), share),
                None => app.put([name.as_str()].into_iter(), value.get().to_owned()),
            }
        }
        let mut text = String::new();
        app.write(&mut text);
        text
    };
    Some(format!("[{}]", list.iter().map(app).collect::<Vec<_>>().join(",")))
}

/// A hundred times a number, exactly: its exponent is raised by two.
fn hundredfold(number: &str) -> Option<String> {
    if !number.starts_with(|first: char| first == '-' || first.is_ascii_digit()) {
        return None;
    }
    match number.split_once(['e', 'E']) {
        None => Some(format!("{number}e2")),
        Some((mantissa, exponent)) => Some(format!("{mantissa}e{}", exponent.parse::<i64>().ok()?.checked_add(2)?)),
    }
}

/// A point in time that is counted since 1970, in a form that the API has; in which unit, its size tells.
fn moment(value: &str) -> Option<String> {
    let count: i64 = value.trim_matches('"').parse().ok()?;
    let micros = match count.unsigned_abs() {
        0..100_000_000_000 => count.checked_mul(1_000_000)?,
        100_000_000_000..100_000_000_000_000 => count.checked_mul(1_000)?,
        100_000_000_000_000..100_000_000_000_000_000 => count,
        _ => count.div_euclid(1_000),
    };
    Some(format!("\"{}\"", clock::format_timestamp(clock::from_micros(micros)?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::Schema;

    #[test]
    fn every_place_in_the_table_is_one_of_the_api() {
        let schema = Schema::device_state();
        let paths: Vec<String> =
            schema.columns.iter().filter_map(|column| column.path.as_ref()).map(|path| path.join(".")).collect();
        assert_eq!(MAPPING.fields.len(), 72);
        for field in MAPPING.fields.values() {
            let column = paths.iter().position(|path| *path == field.to);
            assert!(column.is_some(), "{} → {}", field.from, field.to);
            if let Some(member) = &field.apps {
                let column = schema
                    .columns
                    .iter()
                    .find(|column| column.path.as_ref().map(|p| p.join(".")) == Some(field.to.clone()));
                assert!(
                    column.is_some_and(|column| column.fields.iter().any(|field| field.name == *member)),
                    "{member}"
                );
            }
        }
    }

    #[test]
    fn a_line_is_put_into_the_apis_words() {
        let line = r#"{"AccountID":"01a7362d577a6c3019a474fd6f485823","DeviceID":"d","CPUPercentage":0.55,
            "RAMUsedPercentage":1E-1,"BatteryPercentage":null,"Timestamp":1764028800123456789,
            "CPUPercentageByApp":[{"name":"a","percentage":0.07,"pid":3}],
            "TunnelStatsDownstream":{"rttUs":5,"odd":1},"TunnelStatsUpstream":{"rttUs":6},"AppFirewallEnabled":true}"#;
        let Translated { account, body } = translate(line).expect("a line");
        assert_eq!(account.map(|id| id.to_string()).as_deref(), Some("01a7362d577a6c3019a474fd6f485823"));
        assert_eq!(
            body,
            concat!(
                r#"{"AppFirewallEnabled":true,"TunnelStatsDownstream":{"odd":1},"batteryPct":null,"cpuPct":0.55e2,"#,
                r#""cpuPctByApp":[{"cpu_pct":0.07e2,"name":"a","pid":3}],"deviceId":"d","ramUsedPct":1e1,"#,
                r#""rtt":{"rttUs":{"downstream":5,"upstream":6}},"timestamp":"2025-11-25T00:00:00.123456Z"}"#
            )
        );
        assert_eq!(translate("[1]"), None);
        assert_eq!(translate("{"), None);
    }

    #[test]
    fn what_stands_twice_in_a_line_does_so_in_the_body() {
        let body = |line| translate(line).map(|line| line.body);
        for twice in [r#"{"DeviceID":"a","DeviceID":"b"}"#, r#"{"DeviceID":"a","deviceId":"b"}"#] {
            assert_eq!(body(twice).as_deref(), Some(r#"{"deviceId":"a","deviceId":"b"}"#), "{twice}");
        }
        let line = r#"{"TunnelStatsUpstream":{"rttUs":1},"odd":1,"TunnelStatsUpstream":{"rttUs":2},"odd":0,"rtt":7}"#;
        let expected = r#"{"odd":1,"odd":0,"rtt":7,"rtt":{"rttUs":{"upstream":1,"upstream":2}}}"#;
        assert_eq!(body(line).as_deref(), Some(expected));
        // Of two accounts nobody knows which is meant.
        let accounts =
            |first: &str, second: &str| translate(&format!(r#"{{"AccountID":"{first}","AccountID":"{second}"}}"#));
        let (one, other) = ("01a7362d577a6c3019a474fd6f485823", "11a7362d577a6c3019a474fd6f485823");
        assert_eq!(accounts(one, other), None);
        assert_eq!(accounts(one, one).and_then(|line| line.account).map(|id| id.to_string()).as_deref(), Some(one));
    }

    #[test]
    fn times_are_read_in_each_unit() {
        let second = "\"2025-11-25T00:00:00.000000Z\"";
        for count in ["1764028800", "1764028800000", "1764028800000000", "1764028800000000000", "\"1764028800\""] {
            assert_eq!(moment(count).as_deref(), Some(second), "{count}");
        }
        assert_eq!(moment("\"2025-11-25T00:00:00Z\""), None);
        assert_eq!(hundredfold("\"0.5\""), None);
    }
}
