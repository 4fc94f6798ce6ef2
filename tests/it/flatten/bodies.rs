//! Random bodies of a device state, as text: only text has keys that stand twice and numbers that
//! are written in more than one way.

use std::collections::BTreeMap;

use dex_archive::schema::{Column, Kind, Schema};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// A tree that keeps what a [`serde_json::Value`] loses.
#[derive(Debug, Clone)]
enum Json {
    /// `null`, `true`, `false` or a number, as it is written.
    Bare(String),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

/// Numbers at the edges of what columns hold. Every one of them survives a [`serde_json::Value`].
pub(crate) const NUMBERS: [&str; 32] = [
    "0",
    "-0",
    "-0.0",
    "0e0",
    "1",
    "-1",
    "12.0",
    "-12.000",
    "1.2e1",
    "120E-1",
    "1.5e+1",
    "12.5",
    "0.1",
    "1e-1",
    "2.5E-7",
    "9007199254740991",
    "9007199254740992",
    "9007199254740993",
    "-9007199254740993",
    "9007199254740994",
    "9223372036854775806",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808",
    "18446744073709551614",
    "18446744073709551615",
    "18446744073709551616",
    "1e18",
    "1e19",
    "1e308",
    "-1.7976931348623157e308",
    "5e-324",
];

/// Keys that the API does not send, or not where they end up.
const KEYS: [&str; 24] = [
    "",
    "x.y",
    "[0]",
    "a[0].b",
    "\"",
    "a\"b",
    "a\\b",
    "\\u0041",
    "/",
    "\0",
    "\n",
    " ",
    "é",
    "😀",
    "\u{2028}",
    "new_key-2",
    "-",
    "7",
    "DEVICEID",
    "device_id",
    "name",
    "version",
    "location",
    "rtt",
];

/// The text of a body; nearly always a row.
pub(crate) fn body() -> impl Strategy<Value = String> {
    let schema = Schema::device_state();
    let columns: Vec<&Column> = schema.columns.iter().filter(|column| column.path.is_some()).collect();
    let id = prop_oneof![
        24 => text().prop_filter("an empty id is no row", |id| !id.is_empty()).prop_map(Json::Text),
        1 => Just(Json::Text(String::new())),
        1 => anything(),
    ];
    let known = (group(&columns, 0), id.prop_map(|id| ("deviceId".to_owned(), id)), any::<prop::sample::Index>());
    let with_id = known.prop_map(|(mut entries, id, place)| {
        // Another id may stand before this one, but none after it.
        let after = entries.split_off(place.index(entries.len() + 1));
        entries.push(id);
        entries.extend(after.into_iter().filter(|(key, _)| key != "deviceId"));
        Json::Object(entries)
    });
    (with_id, style()).prop_map(|(tree, style)| write(&tree, style))
}

/// The text of a body that says no more than when: its forms are too many for a few in each body.
pub(crate) fn moment() -> impl Strategy<Value = String> {
    let tree = timestamp().prop_map(|at| {
        let id = Json::Text("d".to_owned());
        Json::Object(vec![("deviceId".to_owned(), id), ("timestamp".to_owned(), at)])
    });
    (tree, style()).prop_map(|(tree, style)| write(&tree, style))
}

/// The entries of an object whose known keys are those of `columns` at `depth`, in any order, some
/// of them twice, among unknown ones.
fn group(columns: &[&Column], depth: usize) -> BoxedStrategy<Vec<(String, Json)>> {
    let mut by_key: BTreeMap<&str, Vec<&Column>> = BTreeMap::new();
    for column in columns {
        by_key.entry(&path(column)[depth]).or_default().push(column);
    }
    let known = by_key.into_iter().map(|(key, columns)| {
        let value = if path(columns[0]).len() == depth + 1 {
            fitting_or_not(fitting(columns[0]))
        } else {
            fitting_or_not(group(&columns, depth + 1).prop_map(Json::Object).boxed())
        };
        let key = key.to_owned();
        repeated(value.prop_map(move |value| (key.clone(), value)))
    });
    let known: Vec<_> = known.map(Strategy::boxed).collect();
    (known, unknown()).prop_map(|(known, unknown)| [known.concat(), unknown].concat()).prop_shuffle().boxed()
}

fn path(column: &Column) -> &[String] {
    column.path.as_ref().expect("only columns that the API fills are asked for")
}

/// Absent now and then, mostly once, sometimes twice or three times.
fn repeated<T: std::fmt::Debug>(value: impl Strategy<Value = T> + Clone) -> impl Strategy<Value = Vec<T>> {
    // What stands first is what a failing body shrinks to.
    prop_oneof![4 => vec(value.clone(), 0), 12 => vec(value.clone(), 1), 2 => vec(value, 2..=3)]
}

fn unknown() -> impl Strategy<Value = Vec<(String, Json)>> {
    vec((key(), anything()), 0..3)
}

fn fitting_or_not(fitting: BoxedStrategy<Json>) -> BoxedStrategy<Json> {
    prop_oneof![8 => fitting, 1 => Just(bare("null")), 1 => anything()].boxed()
}

/// Values that a column of this kind is made for, and their neighbours.
fn fitting(column: &Column) -> BoxedStrategy<Json> {
    match column.kind {
        Kind::List => list(column),
        kind => scalar(kind),
    }
}

fn scalar(kind: Kind) -> BoxedStrategy<Json> {
    match kind {
        Kind::String | Kind::List => text().prop_map(Json::Text).boxed(),
        Kind::Boolean => any::<bool>().prop_map(|value| Json::Bare(value.to_string())).boxed(),
        Kind::Int64 | Kind::Float64 => number().prop_map(Json::Bare).boxed(),
        Kind::Timestamp => timestamp().boxed(),
    }
}

/// Measurements per application: a list of objects, or as it was once, a list of such lists.
fn list(column: &Column) -> BoxedStrategy<Json> {
    let members = column.fields.iter().map(|field| {
        let key = field.name.clone();
        repeated(fitting_or_not(scalar(field.kind)).prop_map(move |value| (key.clone(), value))).boxed()
    });
    let members: Vec<_> = members.collect();
    let element = (members, unknown()).prop_map(|(members, unknown)| [members.concat(), unknown].concat());
    let element = fitting_or_not(element.prop_shuffle().prop_map(Json::Object).boxed());
    let flat = vec(element.clone(), 0..3).prop_map(Json::List).boxed();
    let nested = vec(flat.clone(), 0..3).prop_map(Json::List);
    let mixed = vec(prop_oneof![element, flat.clone()], 0..3).prop_map(Json::List);
    prop_oneof![flat, nested, mixed].boxed()
}

fn bare(text: &str) -> Json {
    Json::Bare(text.to_owned())
}

/// Any value but a deep one, and now and then such a one.
fn anything() -> BoxedStrategy<Json> {
    let word = select(vec!["null", "true", "false"]).prop_map(bare);
    // Numbers in quotes fit no number.
    let quoted = number().prop_map(Json::Text);
    let leaf = prop_oneof![word, number().prop_map(Json::Bare), quoted, text().prop_map(Json::Text), timestamp()];
    let tree = leaf.prop_recursive(3, 8, 3, |inner| {
        let objects = vec((key(), inner.clone()), 0..3).prop_map(Json::Object);
        prop_oneof![vec(inner, 0..3).prop_map(Json::List), objects]
    });
    prop_oneof![20 => tree.clone(), 1 => (tree, 0..90_usize, any::<bool>()).prop_map(|(tree, depth, lists)| {
        let wrap = |inner, _| if lists { Json::List(vec![inner]) } else { Json::Object(vec![("in".to_owned(), inner)]) };
        (0..depth).fold(tree, wrap)
    })]
    .boxed()
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![4 => select(&KEYS[..]).prop_map(str::to_owned), 1 => letters()]
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![select(vec!["", "REDACTED", "4", "null", "{}", "Zürich"]).prop_map(str::to_owned), letters()]
}

fn letters() -> impl Strategy<Value = String> {
    vec(any::<char>(), 0..6).prop_map(String::from_iter)
}

/// Numbers of every form that survive a [`serde_json::Value`]: up to 15 digits (closing zeros are some)
/// with a fraction or an exponent, and whole ones of 64 bits.
fn number() -> impl Strategy<Value = String> {
    let digits = -999_999_999_999_999..=999_999_999_999_999_i64;
    let decimal = (digits, 0..22_u32).prop_map(|(digits, places)| format!("{digits}e-{places}"));
    let fraction = (any::<i32>(), 0..10_000_u32).prop_map(|(whole, fraction)| format!("{whole}.{fraction}"));
    let zeros = (-999_999_999..=999_999_999_i64, 1..6_usize)
        .prop_map(|(whole, zeros)| format!("{whole}.{}", "0".repeat(zeros)));
    prop_oneof![
        4 => select(&NUMBERS[..]).prop_map(str::to_owned),
        1 => any::<i64>().prop_map(|number| number.to_string()),
        1 => any::<u64>().prop_map(|number| number.to_string()),
        1 => any::<i8>().prop_map(|number| number.to_string()),
        1 => decimal,
        1 => fraction,
        1 => zeros,
    ]
}

fn timestamp() -> impl Strategy<Value = Json> {
    let ms = prop_oneof![
        select(vec![-1, 0, 1_696_982_400_123, 253_402_300_799_999, 253_402_300_800_000, i64::MAX]),
        0..253_402_300_799_999_i64,
    ];
    let ms = (ms, any::<bool>()).prop_map(
        |(ms, quoted)| {
            if quoted { Json::Text(ms.to_string()) } else { Json::Bare(ms.to_string()) }
        },
    );
    let odd = select(vec!["", "now", "2023-10-11", "20231011", "99999999999999999999", "1.6969824e12"]);
    prop_oneof![
        6 => (day(), time_of_day(), zone()).prop_map(|(day, time, zone)| Json::Text(day + &time + &zone)),
        2 => ms,
        1 => odd.prop_map(|text| Json::Text(text.to_owned())),
        1 => select(vec!["1.6969824e12", "1696982400123.0", "1696982400123.5"]).prop_map(bare),
    ]
}

/// Days that mostly exist.
fn day() -> impl Strategy<Value = String> {
    let usual = (1970..2100_u32, 1..=12_u32, 1..=28_u32);
    let any = (0..=9999_u32, 0..=13_u32, 0..=32_u32);
    let date = prop_oneof![3 => usual, 1 => any];
    let plain = date.clone().prop_map(|(year, month, day)| format!("{year:04}-{month:02}-{day:02}"));
    let short = date.prop_map(|(year, month, day)| format!("{year}-{month}-{day}"));
    prop_oneof![9 => plain, 1 => short]
}

fn time_of_day() -> impl Strategy<Value = String> {
    let usual = (0..24_u32, 0..60_u32, 0..60_u32);
    let leap = (0..24_u32, 0..60_u32, Just(60_u32));
    let any = (0..26_u32, 0..62_u32, 0..62_u32);
    let separator = prop_oneof![8 => select(vec!["T", " "]), 1 => select(vec!["", "X", "  ", "T "])];
    let digits = vec(0..10_u8, 0..11).prop_map(|digits| digits.iter().map(u8::to_string).collect::<String>());
    let fraction = prop_oneof![1 => Just(String::new()), 2 => digits.prop_map(|digits| format!(".{digits}"))];
    (separator, prop_oneof![8 => usual, 1 => leap, 1 => any], fraction).prop_map(
        |(separator, (hour, minute, second), fraction)| {
            format!("{separator}{hour:02}:{minute:02}:{second:02}{fraction}")
        },
    )
}

fn zone() -> impl Strategy<Value = String> {
    let usual = select(vec!["", "Z", "+00", "+0000", "+00:00", "-00:00"]);
    let odd = select(vec![" Z", "+0", "+000", "*00", "+00:0", "+00:00x", "UTC", "\u{2212}01:00", "+24", "+01:60"]);
    let other = (any::<bool>(), 0..25_u32, 0..61_u32, 0..3_usize).prop_map(|(east, hours, minutes, form)| {
        let sign = if east { '+' } else { '-' };
        match form {
            0 => format!("{sign}{hours:02}"),
            1 => format!("{sign}{hours:02}{minutes:02}"),
            _ => format!("{sign}{hours:02}:{minutes:02}"),
        }
    });
    prop_oneof![4 => usual.prop_map(str::to_owned), 1 => odd.prop_map(str::to_owned), 3 => other]
}

/// What decides between the ways to write one and the same tree: a byte for each choice, over and over.
fn style() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![Just(vec![0]), vec(any::<u8>(), 1..64)]
}

fn write(tree: &Json, style: Vec<u8>) -> String {
    let mut writer = Writer { style: style.into_iter().cycle(), text: String::new() };
    writer.space();
    writer.value(tree);
    writer.space();
    writer.text
}

struct Writer {
    style: std::iter::Cycle<std::vec::IntoIter<u8>>,
    text: String,
}

impl Writer {
    fn value(&mut self, tree: &Json) {
        match tree {
            Json::Bare(text) => self.text.push_str(text),
            Json::Text(text) => self.string(text),
            Json::List(items) => self.between('[', items, ']', Self::value),
            Json::Object(entries) => self.between('{', entries, '}', |writer, (key, value)| {
                writer.string(key);
                writer.space();
                writer.text.push(':');
                writer.space();
                writer.value(value);
            }),
        }
    }

    fn between<T>(&mut self, open: char, items: &[T], close: char, item: impl Fn(&mut Self, &T)) {
        self.text.push(open);
        self.space();
        for (index, one) in items.iter().enumerate() {
            if index > 0 {
                self.text.push(',');
                self.space();
            }
            item(self, one);
            self.space();
        }
        self.text.push(close);
    }

    fn string(&mut self, text: &str) {
        self.text.push('"');
        text.chars().for_each(|letter| self.letter(letter));
        self.text.push('"');
    }

    fn letter(&mut self, letter: char) {
        let short = "\"\"\\\\//\u{8}b\u{c}f\nn\rr\tt".chars().collect::<Vec<_>>();
        let short = short.chunks(2).find(|pair| pair[0] == letter).map(|pair| pair[1]);
        match (self.choice(8), short) {
            (0..=5, _) if letter >= ' ' && letter != '"' && letter != '\\' => self.text.push(letter),
            (0..=6, Some(short)) => self.text.extend(['\\', short]),
            // Beyond 16 bits this makes a surrogate pair.
            (way, _) => letter.encode_utf16(&mut [0; 2]).iter().for_each(|unit| {
                let digits = if way == 7 { format!("{unit:04X}") } else { format!("{unit:04x}") };
                self.text.extend(["\\u", &digits]);
            }),
        }
    }

    fn space(&mut self) {
        let space = ["", "", "", " ", "\n", "\t", "\r\n", "  "][self.choice(8)];
        self.text.push_str(space);
    }

    fn choice(&mut self, of: u8) -> usize {
        usize::from(self.style.next().unwrap_or(0) % of)
    }
}
