//! From the raw body of a device state to one row of the schema.
//!
//! A [`Plan`] is a schema compiled to a trie of keys; it reads a body into a [`Row`], and rows fill
//! [`Columns`], which become an Arrow batch. A row is complete before any column is touched, so a
//! body that turns out to be no row leaves nothing behind.
//!
//! A value goes into its column only where it fits exactly. Whatever else the body held (a value of
//! another type, a key that the schema does not know) is kept verbatim in the `unmapped` column.
//! Nothing is rescaled, guessed or dropped, and no column is known here by name.

mod columns;
mod number;
mod row;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use crate::clock;
use crate::json::{self, Fault, JsonError, Reader};
use crate::schema::{Column, Kind, Schema, Shape};

pub use columns::Columns;
pub use row::{Cell, Row};

/// A schema compiled for reading bodies.
#[derive(Debug)]
pub struct Plan {
    schema: Arc<Schema>,
    groups: Vec<Group>,
    /// For each column, the keys of its structs as they stand in most bodies: in quotes, with the colon.
    members: Vec<Vec<String>>,
}

/// Why a body is no row.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FlattenError {
    /// It is not text.
    #[error("not UTF-8 from byte {0} on")]
    Encoding(usize),
    /// It is not JSON.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// It is JSON, but not an object.
    #[error("not an object")]
    Kind,
    /// It lacks what makes a row one.
    #[error("no {path:?} in it")]
    Missing {
        /// Where a value has to stand.
        path: String,
    },
    /// Whose state it is, or of when, stands in it more than once.
    #[error("its device or its time stands twice in it")]
    Twice,
}

/// The keys of one object in a body.
#[derive(Debug, Default)]
struct Group {
    path: String,
    entries: Vec<Entry>,
    /// Where among the entries a key is.
    keys: HashMap<String, usize>,
    /// Every column at or below this object.
    columns: Vec<usize>,
}

/// One key of an object.
#[derive(Debug)]
struct Entry {
    /// As it stands in most bodies: in quotes, with the colon.
    quoted: String,
    target: Target,
}

/// Where a key leads.
#[derive(Debug, Clone, Copy)]
enum Target {
    Column(usize),
    Group(usize),
}

impl Plan {
    /// Compiles a schema.
    #[must_use]
    pub fn new(schema: Arc<Schema>) -> Self {
        let mut groups = vec![Group::default()];
        for (at, column) in schema.columns.iter().enumerate() {
            if let Some(path) = &column.path {
                insert(&mut groups, path, at);
            }
        }
        let members =
            |column: &Column| column.fields.iter().map(|member| format!("{}:", quoted(&member.name))).collect();
        Self { members: schema.columns.iter().map(members).collect(), schema, groups }
    }

    /// The schema that was compiled.
    #[must_use]
    pub fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    /// Reads a body into `row`, in place of what the row held. Of a key that stands twice in an
    /// object the last counts, as most readers of JSON have it.
    ///
    /// # Errors
    /// Where the body is no row of the dataset; the row's content is then void.
    pub fn flatten(&self, body: &[u8], row: &mut Row) -> Result<(), FlattenError> {
        let text = simdutf8::compat::from_utf8(body).map_err(|error| FlattenError::Encoding(error.valid_up_to()))?;
        self.begin(text, row);
        json::read(text, |reader| match reader.peek() {
            Some(b'{') => self.read_group(0, reader, row),
            _ => reader.value().map(drop),
        })?;
        if !text.trim_start().starts_with('{') {
            return Err(FlattenError::Kind);
        }
        self.require(row)?;
        if let Some(at) = self.schema.unmapped() {
            row.close_unmapped(at);
        }
        row.end();
        Ok(())
    }

    fn begin(&self, text: &str, row: &mut Row) {
        row.begin(&self.schema, text, self.groups.iter().map(|group| group.entries.len()));
    }

    /// The text in one column of a body, and the time in another in microseconds since the Unix epoch. Reading stops as
    /// soon as both are found; none where they do not stand at the top as plain values. What follows may be no JSON, and
    /// a key may stand twice: the row, once it is flattened, says whether it is so.
    #[must_use]
    pub fn glance<'a>(&self, body: &'a [u8], text: usize, time: usize) -> Option<(Cow<'a, str>, i64)> {
        let quoted = |column: usize| {
            let is_it = |entry: &&Entry| matches!(entry.target, Target::Column(at) if at == column);
            self.groups[0].entries.iter().find(is_it).map(|entry| entry.quoted.as_str())
        };
        let (text_key, time_key) = (quoted(text), quoted(time));
        let within = |most: usize| {
            let (mut found_text, mut found_time) = (None, None);
            // A fault ends the reading, as does having seen enough.
            json::glance(json::beginning(body, most), |reader| {
                reader.object(&mut |reader| {
                    let is_text = text_key.is_some_and(|key| reader.key_is(key));
                    let is_time = !is_text && time_key.is_some_and(|key| reader.key_is(key));
                    if !is_text && !is_time {
                        reader.key()?;
                    }
                    let raw = reader.value()?;
                    // A number that ends where the text was cut may go on.
                    reader.peek().ok_or(reader.fault())?;
                    if is_text {
                        found_text = json::string(raw);
                    } else if is_time {
                        found_time = parse_time(raw);
                    }
                    if found_text.is_some() && found_time.is_some() { Err(reader.fault()) } else { Ok(()) }
                })
            });
            found_text.zip(found_time)
        };
        within(json::BEGINNING).or_else(|| within(body.len()))
    }

    /// Reads the `unmapped` object of an earlier row into `row`, in place of what the row held: what has a column by now,
    /// and is free there, goes into it, the rest is kept aside as before. Returns how many values have found a column.
    ///
    /// # Errors
    /// Where it is no object of JSON; the row is then without values.
    pub fn refill(&self, unmapped: &str, is_free: &dyn Fn(usize) -> bool, row: &mut Row) -> Result<u64, FlattenError> {
        self.begin(unmapped, row);
        if !unmapped.trim_start().starts_with('{') {
            return Err(FlattenError::Kind);
        }
        let read = json::read(unmapped, |reader| {
            reader.object(&mut |reader| {
                let path = reader.key()?;
                match self.target_of(&path) {
                    Some(Target::Column(at)) if is_free(at) => self.read_column(at, reader, row),
                    Some(Target::Group(at)) if self.groups[at].columns.iter().all(|&at| is_free(at)) => {
                        self.read_inner(at, reader, row)
                    }
                    _ => {
                        let raw = reader.value()?;
                        row.keep(path.into_owned(), raw);
                        Ok(())
                    }
                }
            })
        });
        if let Err(error) = read {
            self.begin("", row);
            return Err(error.into());
        }
        let found = (0..self.schema.columns.len()).filter(|&at| row.cell(at) != Cell::Null).count() as u64;
        if let Some(at) = self.schema.unmapped() {
            row.close_unmapped(at);
        }
        Ok(found)
    }

    /// What stands at a path of `unmapped`.
    fn target_of(&self, path: &str) -> Option<Target> {
        let group = (1..self.groups.len()).find(|&at| self.groups[at].path == path).map(Target::Group);
        let is_there = |column: &Column| column.path.is_some() && Place::Column(column).path() == path;
        group.or_else(|| self.schema.columns.iter().position(is_there).map(Target::Column))
    }

    fn require(&self, row: &Row) -> Result<(), FlattenError> {
        let missing = |at: usize| matches!(row.cell(at), Cell::Null) || row.text(at) == Some("");
        let columns = self.schema.columns.iter().enumerate();
        match columns.into_iter().find(|(at, column)| column.required && missing(*at)) {
            Some((_, column)) => Err(FlattenError::Missing { path: Place::Column(column).path() }),
            None => Ok(()),
        }
    }

    fn read_group(&self, at: usize, reader: &mut Reader, row: &mut Row) -> Result<(), Fault> {
        let group = &self.groups[at];
        let place = Place::Group(&group.path);
        // The entry that was met last; at first, the place behind all of them.
        let mut last = group.entries.len();
        reader.object(&mut |reader| {
            // Keys stand in the same order in one body as in the one before.
            let next = row.follower(at, last);
            let met = match group.entries.get(next) {
                Some(entry) if reader.key_is(&entry.quoted) => next,
                _ => {
                    let key = reader.key()?;
                    let Some(&met) = group.keys.get(&*key) else {
                        let raw = reader.value()?;
                        row.keep(place.key(&key).path(), raw);
                        return Ok(());
                    };
                    row.follow(at, last, met);
                    met
                }
            };
            last = met;
            match group.entries[met].target {
                Target::Column(column) => self.read_column(column, reader, row),
                Target::Group(inner) => self.read_inner(inner, reader, row),
            }
        })
    }

    fn read_column(&self, at: usize, reader: &mut Reader, row: &mut Row) -> Result<(), Fault> {
        let column = &self.schema.columns[at];
        let path = || Place::Column(column).path();
        if row.meet_column(at) {
            row.forget(at);
            row.forget_below(&path());
        }
        if column.kind == Kind::List && reader.peek() == Some(b'[') {
            return self.read_list(at, reader, row);
        }
        let start = reader.place();
        if row.value_before(at).is_some_and(|raw| reader.value_is(raw)) {
            row.take_value(at, start);
            return Ok(());
        }
        let raw = reader.value()?;
        match scalar(column.kind, raw, start, row) {
            Some(cell) => row.set_value(at, cell, start..reader.place()),
            None => row.keep(path(), raw),
        }
        Ok(())
    }

    /// Reads a list of structs; where the column accepts it, also a list of such lists.
    fn read_list(&self, at: usize, reader: &mut Reader, row: &mut Row) -> Result<(), Fault> {
        let place = Place::Column(&self.schema.columns[at]);
        let nested = self.schema.columns[at].accept.contains(&Shape::Nested);
        row.open_list(at);
        let mut index = 0;
        reader.array(&mut |reader| {
            let place = place.item(index);
            index += 1;
            match reader.peek() {
                Some(b'[') if nested => {
                    let mut index = 0;
                    reader.array(&mut |reader| {
                        index += 1;
                        self.read_element(at, place.item(index - 1), reader, row)
                    })
                }
                _ => self.read_element(at, place, reader, row),
            }
        })?;
        row.close_list(at);
        Ok(())
    }

    /// Reads one struct of a list. What is no object takes its place as a null and is kept aside.
    fn read_element(&self, at: usize, place: Place, reader: &mut Reader, row: &mut Row) -> Result<(), Fault> {
        let (fields, quoted) = (&self.schema.columns[at].fields, &self.members[at]);
        if reader.peek() != Some(b'{') {
            let raw = reader.value()?;
            row.push_null_element();
            if raw != "null" {
                row.keep(place.path(), raw);
            }
            return Ok(());
        }
        let element = row.push_element(fields.len());
        let mut next = 0;
        reader.object(&mut |reader| {
            // Members mostly stand in the order of the table.
            let key = match quoted.get(next) {
                Some(key) if reader.key_is(key) => Cow::Borrowed(fields[next].name.as_str()),
                _ => {
                    let key = reader.key()?;
                    next = fields.iter().position(|member| *member.name == *key).unwrap_or(fields.len());
                    key
                }
            };
            let start = reader.place();
            let raw = reader.value()?;
            let place = place.key(&key);
            let Some(member) = fields.get(next) else {
                row.keep(place.path(), raw);
                return Ok(());
            };
            if row.has_unmapped() {
                row.forget_below(&place.path());
            }
            let cell = scalar(member.kind, raw, start, row);
            row.set_member(element, next, cell.unwrap_or(Cell::Null));
            if cell.is_none() {
                row.keep(place.path(), raw);
            }
            next += 1;
            Ok(())
        })
    }

    fn read_inner(&self, inner: usize, reader: &mut Reader, row: &mut Row) -> Result<(), Fault> {
        let group = &self.groups[inner];
        if row.meet_group(inner) {
            group.columns.iter().for_each(|&at| row.forget(at));
            row.forget_objects();
            row.forget_below(&group.path);
        }
        let start = reader.place();
        if row.object_before(inner).is_some_and(|object| reader.value_is(object)) {
            row.take_object(inner, &group.columns, start);
            return Ok(());
        }
        if reader.peek() == Some(b'{') {
            self.read_group(inner, reader, row)?;
            if group.columns.iter().all(|&at| self.schema.columns[at].kind != Kind::List) {
                row.note_object(inner, start..reader.place());
            }
            return Ok(());
        }
        match reader.value()? {
            "null" => (),
            other => row.keep(group.path.clone(), other),
        }
        Ok(())
    }
}

fn insert(groups: &mut Vec<Group>, path: &[String], at: usize) {
    let (leaf, outer) = path.split_last().expect("a path of the table has at least one key");
    let mut here = 0;
    for key in outer {
        groups[here].columns.push(at);
        here = match groups[here].target(key) {
            Some(Target::Group(inner)) => inner,
            _ => {
                let path = join(&groups[here].path, key);
                groups.push(Group { path, ..Group::default() });
                let inner = groups.len() - 1;
                groups[here].add(key, Target::Group(inner));
                inner
            }
        };
    }
    groups[here].columns.push(at);
    groups[here].add(leaf, Target::Column(at));
}

impl Group {
    fn target(&self, key: &str) -> Option<Target> {
        self.keys.get(key).map(|&at| self.entries[at].target)
    }

    fn add(&mut self, key: &str, target: Target) {
        self.keys.insert(key.to_owned(), self.entries.len());
        self.entries.push(Entry { quoted: format!("{}:", quoted(key)), target });
    }
}

/// Whether a value has a place in a column of this kind, and is not kept aside. Of a list, it is the
/// elements that do.
#[must_use]
pub fn fits(kind: Kind, raw: &str) -> bool {
    scalar(kind, raw, 0, &mut Row::default()).is_some()
}

/// The cell that a value of the row's body, which stands at `start`, fits exactly; `None` where it fits none of this kind.
fn scalar(kind: Kind, raw: &str, start: usize, row: &mut Row) -> Option<Cell> {
    if raw == "null" {
        return Some(Cell::Null);
    }
    match kind {
        Kind::String => match json::string(raw)? {
            Cow::Borrowed(text) => Some(Cell::String { start: start + 1, end: start + 1 + text.len() }),
            Cow::Owned(text) => Some(row.write(&text)),
        },
        Kind::Boolean => raw.parse().ok().map(Cell::Boolean),
        Kind::Int64 => number::int64(raw).map(Cell::Int64),
        Kind::Float64 => number::float64(raw).map(Cell::Float64),
        Kind::Timestamp => parse_time(raw).map(Cell::Timestamp),
        Kind::List => None,
    }
}

/// Microseconds since the Unix epoch.
fn parse_time(raw: &str) -> Option<i64> {
    let at = match json::string(raw) {
        Some(text) => clock::parse_timestamp(&text),
        None => number::int64(raw).and_then(clock::from_epoch),
    };
    at.map(|at| at.timestamp_micros())
}

/// Where a value stands. Its path is made only where it is wanted, which is seldom.
#[derive(Debug, Clone, Copy)]
enum Place<'a> {
    Group(&'a str),
    Column(&'a Column),
    Key(&'a Place<'a>, &'a str),
    Item(&'a Place<'a>, usize),
}

impl<'a> Place<'a> {
    fn key(&'a self, key: &'a str) -> Self {
        Self::Key(self, key)
    }

    fn item(&'a self, index: usize) -> Self {
        Self::Item(self, index)
    }

    fn path(&self) -> String {
        match self {
            Self::Group(path) => (*path).to_owned(),
            Self::Column(column) => {
                column.path.as_deref().unwrap_or_default().iter().fold(String::new(), |outer, key| join(&outer, key))
            }
            Self::Key(outer, key) => join(&outer.path(), key),
            Self::Item(outer, index) => format!("{}[{index}]", outer.path()),
        }
    }
}

/// The path of a key within the object at `outer`. A key of other letters than names have stands in
/// brackets, so that no two places share a path.
fn join(outer: &str, key: &str) -> String {
    let plain = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    match (outer, plain) {
        ("", true) => key.to_owned(),
        (_, true) => format!("{outer}.{key}"),
        (_, false) => format!("{outer}[{}]", quoted(key)),
    }
}

/// A JSON string.
fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a string always has a form in JSON")
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    #[test]
    fn a_glance_finds_device_and_time_wherever_the_beginning_of_a_body_ends() {
        let schema = Schema::device_state();
        let at = |name| schema.index_of(name).expect("a column");
        let (device, time) = (at("device_id"), at("timestamp"));
        let plan = Plan::new(Arc::clone(&schema));
        for length in 0..json::BEGINNING + 20 {
            let body = format!(r#"{{"x":"{}","deviceId":"d","timestamp":1764000000000}}"#, "x".repeat(length));
            let found = plan.glance(body.as_bytes(), device, time).expect("both are there");
            assert_eq!((&*found.0, found.1), ("d", 1_764_000_000_000_000), "after {length} letters");
        }
        assert_eq!(plan.glance(br#"{"deviceId":"d"}"#, device, time), None);
    }

    fn check(body: &str, expect: &Expect) {
        let plan = Plan::new(Schema::device_state());
        let mut row = Row::default();
        let said = match plan.flatten(body.as_bytes(), &mut row) {
            Ok(()) => row.describe(plan.schema()),
            Err(error) => format!("error: {error}"),
        };
        expect.assert_eq(&said);
    }

    #[test]
    fn a_value_goes_where_it_fits_exactly() {
        check(
            r#"{"deviceId":"d","cpuPct":12,"batteryCycles":12.0,"diskReadBps":1.5e1,"alwaysOn":true,
                "timestamp":"2023-10-11 00:00:00.5+00","deviceIpv4":{"location":{"city":"Z\u00fcrich"}}}"#,
            &expect![[r#"
                device_id = "d"
                timestamp = 1696982400500000
                always_on = true
                cpu_pct = 12.0
                disk_read_bps = 15
                battery_cycles = 12
                device_ipv4_location_city = "Zürich"
            "#]],
        );
    }

    #[test]
    fn what_does_not_fit_is_kept_verbatim() {
        check(
            r#"{"deviceId":"d","cpuPct":"12","batteryCycles":1.50,"alwaysOn":1,"colo":7,"new":{"a": [1]},"x.y":null,
                "deviceIpv4":{"version":"4","location":[ ],"ttl":3},"rtt":5,"timestamp":"soon"}"#,
            &expect![[r#"
                device_id = "d"
                unmapped = "{\"[\\\"x.y\\\"]\":null,\"alwaysOn\":1,\"batteryCycles\":1.50,\"colo\":7,\"cpuPct\":\"12\",\"deviceIpv4.location\":[ ],\"deviceIpv4.ttl\":3,\"deviceIpv4.version\":\"4\",\"new\":{\"a\": [1]},\"rtt\":5,\"timestamp\":\"soon\"}"
            "#]],
        );
    }

    #[test]
    fn lists_are_read_flat_and_nested() {
        check(
            r#"{"deviceId":"d","cpuPctByApp":[[{"cpu_pct":1,"name":"a"}],[],[{"name":"b","pid":7}]],
                "ramUsedPctByApp":[{"name":"c","ram_used_pct":"1"},null,9]}"#,
            &expect![[r#"
                device_id = "d"
                cpu_pct_by_app = [{name: "a", cpu_pct: 1.0}, {name: "b", cpu_pct: null}]
                ram_used_pct_by_app = [{name: "c", ram_used_pct: null}, null, null]
                unmapped = "{\"cpuPctByApp[2][0].pid\":7,\"ramUsedPctByApp[0].ram_used_pct\":\"1\",\"ramUsedPctByApp[2]\":9}"
            "#]],
        );
    }

    #[test]
    fn of_a_key_that_stands_twice_the_last_counts() {
        check(
            r#"{"deviceId":"c","deviceId":"d","rtt":{"rttUs":{"upstream":1,"downstream":2},"odd":1},"cpuPct":"x","cpuPct":2,
                "rtt":{"rttUs":{"upstream":3}},"ramUsedPctByApp":[{"name":"a"}],"ramUsedPctByApp":[],"new":1,"new":2}"#,
            &expect![[r#"
                device_id = "d"
                cpu_pct = 2.0
                rtt_rtt_us_upstream = 3
                ram_used_pct_by_app = []
                unmapped = "{\"new\":2}"
            "#]],
        );
    }

    #[test]
    fn a_body_says_the_same_whatever_was_read_before_it() {
        let inner = [
            r#"{"address":"10.0.0.1","location":{"city":"Bern","zip":"3000"},"version":1}"#,
            r#"{"address":"10.0.0.1","location":{"city":"Bern","zip":"3000"},"version":12}"#,
            r#"{"address":"10.0.0.1","location":{"city":"B\u00e4rn","zip":"3000"},"version":1}"#,
            r#"{"address":"10.0.0.1","location":{"zip":"3000"},"location":null,"version":1}"#,
            r#"{"address":"10.0.0.1","location":null,"version":1.5}"#,
            r#"{"odd":1}"#,
            "null",
            "7",
            "{}",
        ];
        let mut bodies: Vec<String> = Vec::new();
        for object in inner {
            for rest in [
                r#""cpuPct":1"#,
                r#""cpuPct":12,"colo":"S\u004a""#,
                r#""cpuPct":1,"cpuPct":null,"colo":"SJ""#,
                r#""new":0"#,
            ] {
                bodies.push(format!(r#"{{"deviceId":"d","deviceIpv4":{object},{rest}}}"#));
                bodies.push(format!(r#"{{"deviceId":"d",{rest},"deviceIpv4":{object}, "gatewayIpv4" : {object} }}"#));
            }
            let first = inner[0];
            bodies.push(format!(r#"{{"deviceId":"d","deviceIpv4":{first},"deviceIpv4":{object}}}"#));
            bodies.push(format!(r#"{{"deviceId":"d","deviceIpv4":{object},"deviceIpv4":{first}}}"#));
        }
        bodies.push(r#"{"deviceId":"d","deviceIpv4":{"address":"10.0.0.1""#.to_owned());
        let plan = Plan::new(Schema::device_state());
        let read = |body: &str, row: &mut Row| match plan.flatten(body.as_bytes(), row) {
            Ok(()) => row.describe(plan.schema()),
            Err(error) => error.to_string(),
        };
        let alone: Vec<String> = bodies.iter().map(|body| read(body, &mut Row::default())).collect();
        for before in &bodies {
            for (body, alone) in bodies.iter().zip(&alone) {
                let mut row = Row::default();
                read(before, &mut row);
                assert_eq!(&read(body, &mut row), alone, "{body} after {before}");
                assert_eq!(&read(body, &mut row), alone, "{body} after itself");
            }
        }
        let batch = |one: Option<&mut Row>| {
            let (mut columns, mut one) = (Columns::new(Arc::clone(plan.schema())), one);
            for (at, body) in bodies.iter().enumerate() {
                let mut other = Row::default();
                let row = one.as_deref_mut().unwrap_or(&mut other);
                // Some are read and not pushed.
                if plan.flatten(body.as_bytes(), row).is_ok() && at % 3 > 0 {
                    columns.push(row);
                }
            }
            columns.finish()
        };
        assert!(batch(None) == batch(Some(&mut Row::default())), "rows are the same, whatever was pushed before them");
    }

    #[test]
    fn says_why_a_body_is_no_row() {
        check("17", &expect!["error: not an object"]);
        check("{\"colo\":\"SJC\"}", &expect![[r#"error: no "deviceId" in it"#]]);
        check("{\"deviceId\":null}", &expect![[r#"error: no "deviceId" in it"#]]);
        check("{\"deviceId\":\"\"}", &expect![[r#"error: no "deviceId" in it"#]]);
        check("{\"deviceId\":5}", &expect![[r#"error: no "deviceId" in it"#]]);
        check("{\"deviceId\":", &expect!["error: not JSON: it ends too early at line 1 column 12"]);
        // Half a surrogate pair is no text; as a key it has no place to be kept at.
        let half_a_pair = r#"{"deviceId":"d","cpuPctByApp":[{"\ud800":1}]}"#;
        check(half_a_pair, &expect!["error: not JSON: it cannot be read at line 1 column 33"]);
        check("<html>", &expect!["error: not JSON: it cannot be read at line 1 column 1"]);
    }

    #[test]
    fn a_row_forgets_the_body_before() {
        let plan = Plan::new(Schema::device_state());
        let mut row = Row::default();
        plan.flatten(br#"{"deviceId":"d","colo":"SJC","new":1,"cpuPctByApp":[{"name":"a"}]}"#, &mut row)
            .expect("a row");
        plan.flatten(br#"{"deviceId":"e"}"#, &mut row).expect("a row");
        assert_eq!(row.describe(plan.schema()), "device_id = \"e\"\n");
    }
}
