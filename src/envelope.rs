//! What an answer's text holds: device states, nothing, or a refusal.
//!
//! The API document says that the per-device endpoint answers with a bare object while its siblings
//! wrap theirs in `{success, errors, messages, result}`; both are read everywhere, so that it does
//! not matter who is right. The states themselves are not looked into.

use crate::json::{self, JsonError};

/// In no state so many objects stand in each other.
const MOST_OPEN: usize = 1_000;

/// What a text holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content<'a> {
    /// The raw text of each device state.
    States(Vec<&'a str>),
    /// `null` or `{}`: there is no state in the window. An empty list is no states.
    Absent,
    /// `success` is false, whatever the HTTP status says.
    Refused(Refusal),
}

/// The first error that a refusing envelope names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refusal {
    /// Cloudflare's error code.
    pub code: Option<i64>,
    /// Cloudflare's words; foreign text, to be escaped where it is shown.
    pub message: Option<String>,
}

/// Reads an answer, bare or in the envelope. Of more than `most` states no more than one beyond is handed over.
///
/// # Errors
/// Where the text is not JSON.
pub fn read(text: &str, most: usize) -> Result<Content<'_>, JsonError> {
    // Some servers put a byte order mark in front.
    let text = text.trim_start_matches('\u{feff}').trim_matches([' ', '\t', '\n', '\r']);
    match text.as_bytes().first() {
        // Reading its entries is what finds out whether it is JSON.
        Some(b'{') => read_object(text, most),
        Some(b'[') => states(text, most),
        _ => states(json::value(text)?, most),
    }
}

fn read_object(text: &str, most: usize) -> Result<Content<'_>, JsonError> {
    match Envelope::find(text)? {
        None => states(text, most),
        Some(Envelope { success: Some("false"), errors, .. }) => Ok(Content::Refused(refusal(errors))),
        Some(Envelope { result: Some(result), .. }) => states(result, most),
        Some(Envelope { result: None, .. }) => Ok(Content::Absent),
    }
}

/// The device states in a text that is no JSON as a whole, as far as their ends can be told: of fifty states on a page, one
/// may hold what JSON has not. That one is among them, and the last may be broken off. Of more than `most`, reading ends
/// with the one beyond.
#[must_use]
pub fn salvage(text: &str, most: usize) -> Vec<&str> {
    /// An object that is not closed yet.
    struct Open {
        start: usize,
        is_state: bool,
    }
    let bytes = text.as_bytes();
    let (mut open, mut found): (Vec<Open>, Vec<std::ops::Range<usize>>) = (Vec::new(), Vec::new());
    // What stands within a state is part of it.
    let mut take = |state: std::ops::Range<usize>| {
        while found.pop_if(|inner| inner.start > state.start).is_some() {}
        found.push(state);
        found.len() > most
    };
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => {
                let start = at;
                at = string_end(bytes, at);
                let is_key = || bytes[at..].trim_ascii_start().starts_with(b":");
                if text.get(start..at) == Some("\"deviceId\"") && is_key() {
                    open.iter_mut().last().into_iter().for_each(|object| object.is_state = true);
                }
                continue;
            }
            b'{' if open.len() == MOST_OPEN => return Vec::new(),
            b'{' => open.push(Open { start: at, is_state: false }),
            b'}' => {
                let closed = open.pop().filter(|object| object.is_state);
                if closed.is_some_and(|object| take(object.start..at + 1)) {
                    open.clear();
                    break;
                }
            }
            _ => (),
        }
        at += 1;
    }
    if let Some(unclosed) = open.iter().find(|object| object.is_state) {
        take(unclosed.start..text.len());
    }
    found.into_iter().filter_map(|state| text.get(state)).collect()
}

/// Where the string ends that begins at a place.
fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// Whether a text, if it is JSON, is a device state and no envelope: whether there is a `deviceId` in it at the top.
/// It is read no further than to that.
#[must_use]
pub fn begins_as_state(text: &[u8]) -> bool {
    let within = |most: usize| {
        let mut found = false;
        // A fault ends the reading, as does having found it.
        json::glance(json::beginning(text, most), |reader| {
            reader.object(&mut |reader| {
                found = reader.key()? == "deviceId";
                if found { Err(reader.fault()) } else { reader.value().map(drop) }
            })
        });
        found
    };
    within(json::BEGINNING) || within(text.len())
}

/// The `deviceId` of a state, where it is a string.
#[must_use]
pub fn device_id(state: &str) -> Option<String> {
    let mut found = None;
    let read = json::each_entry(state, &mut |key, raw| {
        if key == "deviceId" {
            found = json::string(raw).map(std::borrow::Cow::into_owned);
        }
    });
    read.ok().and(found)
}

/// The members of an envelope that say something.
#[derive(Default)]
struct Envelope<'a> {
    success: Option<&'a str>,
    result: Option<&'a str>,
    errors: Option<&'a str>,
}

impl<'a> Envelope<'a> {
    /// The envelope that an object is; `None` where it is a device state itself.
    fn find(text: &'a str) -> Result<Option<Self>, JsonError> {
        let mut found = Self::default();
        let (mut bare, mut more) = (false, false);
        json::each_entry(text, &mut |key, raw| match &*key {
            "success" => found.success = Some(raw),
            "result" => found.result = Some(raw),
            "errors" => found.errors = Some(raw),
            "deviceId" => bare = true,
            "messages" | "result_info" => (),
            _ => more = true,
        })?;
        // Whatever says `success` and then something that no envelope has is not taken for an empty one.
        let enveloped = !bare && (found.result.is_some() || (found.success.is_some() && (!more || found.refuses())));
        Ok(enveloped.then_some(found))
    }

    fn refuses(&self) -> bool {
        self.success == Some("false")
    }
}

fn states(raw: &str, most: usize) -> Result<Content<'_>, JsonError> {
    let mut states = Vec::new();
    match raw.as_bytes().first() {
        Some(b'[') => json::each_item(raw, &mut |item| {
            if states.len() <= most {
                states.push(item);
            }
        })?,
        Some(b'n') => return Ok(Content::Absent),
        Some(b'{') if raw[1..].trim_start().starts_with('}') => return Ok(Content::Absent),
        _ => states.push(raw),
    }
    Ok(Content::States(states))
}

fn refusal(errors: Option<&str>) -> Refusal {
    let mut refusal = Refusal::default();
    let mut first = None;
    // Errors of another form than the documented one say nothing; the refusal stands all the same.
    let _ = json::each_item(errors.unwrap_or("[]"), &mut |item| {
        first.get_or_insert(item);
    });
    let _ = json::each_entry(first.unwrap_or("{}"), &mut |key, raw| match &*key {
        "code" => refusal.code = raw.trim_matches('"').parse().ok(),
        "message" => refusal.message = json::string(raw).map(std::borrow::Cow::into_owned),
        _ => (),
    });
    refusal
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: &Content<'_>) {
        assert_eq!(read(text, 9).as_ref(), Ok(expect), "{text}");
    }

    #[test]
    fn reads_states_bare_and_in_the_envelope() {
        let state = r#"{"deviceId": "d", "colo":"SJC"}"#;
        check(state, &Content::States(vec![state]));
        check(&format!(" {state}\n"), &Content::States(vec![state]));
        check(&format!("\u{feff}{state}"), &Content::States(vec![state]));
        check(
            &format!(r#"{{"success":true,"errors":[],"messages":[],"result":{state}}}"#),
            &Content::States(vec![state]),
        );
        check(
            &format!(r#"{{"result":[{state},{state}],"result_info":{{"page":1}}}}"#),
            &Content::States(vec![state, state]),
        );
        check(&format!("[{state}]"), &Content::States(vec![state]));
        check(r#"{"deviceId":"d","result":1}"#, &Content::States(vec![r#"{"deviceId":"d","result":1}"#]));
    }

    #[test]
    fn reads_every_way_of_saying_nothing() {
        for text in
            ["null", "{}", "{ }", r#"{"success":true}"#, r#"{"success":true,"result":null}"#, r#"{"result":{}}"#]
        {
            check(text, &Content::Absent);
        }
    }

    #[test]
    fn an_empty_list_is_no_states() {
        check("[]", &Content::States(vec![]));
        check(r#"{"success":true,"result":[ ]}"#, &Content::States(vec![]));
    }

    #[test]
    fn a_refusal_stands_whatever_its_errors_look_like() {
        let refused = |code: Option<i64>, message: Option<&str>| {
            Content::Refused(Refusal { code, message: message.map(str::to_owned) })
        };
        let text = r#"{"success":false,"errors":[{"code":971,"message":"Please wait"},{"code":1}],"result":null}"#;
        check(text, &refused(Some(971), Some("Please wait")));
        check(r#"{"success":false,"result":{"deviceId":"d"}}"#, &refused(None, None));
        check(r#"{"success":false,"errors":[{"code":"10404"}]}"#, &refused(Some(10404), None));
        check(r#"{"success":false,"errors":"none"}"#, &refused(None, None));
        check(r#"{"success":false,"errors":[5]}"#, &refused(None, None));
    }

    #[test]
    fn what_is_no_state_is_handed_on_to_be_kept() {
        check("17", &Content::States(vec!["17"]));
        check(r#"{"success":true,"result":"x"}"#, &Content::States(vec![r#""x""#]));
    }

    #[test]
    fn of_a_page_that_is_no_json_the_states_are_salvaged() {
        let check = |text: &str, expect: &[&str]| assert_eq!(salvage(text, 9), expect, "{text}");
        let (one, two) = (r#"{"deviceId":"1","a":{"b":"}\""}}"#, r#"{ "deviceId" : "2","cpuPct":NaN}"#);
        check(&format!(r#"{{"success":true,"result":[{one},{two}],"errors":[]}}"#), &[one, two]);
        check(
            &format!(r#"{{"result":[{one},{{"colo":"A","deviceId":"3","x":[{{"y":1"#),
            &[one, r#"{"colo":"A","deviceId":"3","x":[{"y":1"#],
        );
        check(
            r#"{"deviceId":"1","registration":{"deviceId":"1"},"a":tru"#,
            &[r#"{"deviceId":"1","registration":{"deviceId":"1"},"a":tru"#],
        );
        check(
            r#"{"deviceId":"1","registration":{"deviceId":"1"},"a":tru}"#,
            &[r#"{"deviceId":"1","registration":{"deviceId":"1"},"a":tru}"#],
        );
        check(r#"{"\ud800k":1,"deviceId":"1"}"#, &[r#"{"\ud800k":1,"deviceId":"1"}"#]);
        for nothing in
            ["", "<html>deviceId{}", r#"{"a":"deviceId"#, r#"{"a":["deviceId"]}"#, "}}{", "\"", "{\"deviceId"]
        {
            check(nothing, &[]);
        }
        check(&format!("{}\"deviceId\":1", "{".repeat(2_000)), &[]);
    }

    #[test]
    fn of_more_states_than_an_answer_has_one_beyond_is_read() {
        let many = |text: &str| vec![text; 100].join(",");
        assert_eq!(read(&format!("[{}]", many("1")), 9), Ok(Content::States(vec!["1"; 10])));
        assert!(read(&format!("[{}", many("1")), 9).is_err(), "the rest of it is looked at all the same");
        let state = r#"{"deviceId":"1"}"#;
        assert_eq!(salvage(&many(state), 9), [state; 10]);
    }

    #[test]
    fn says_where_it_is_no_json() {
        for text in ["", "<html>", r#"{"success":true,"result":{"#, "{} {}"] {
            assert!(read(text, 9).is_err(), "{text}");
        }
    }
}
