//! Raw JSON, read once from front to back: what stands in an object or an array, as the text it was sent in.
//!
//! A value is handed on as text because the archive keeps what does not fit its columns verbatim. Nothing is built
//! and nothing is interpreted; what is stepped over is checked all the same, and its depth costs no stack.
//!
//! Ours, because no library hands out the text of a value and goes into it in the same pass. On simulated bodies of
//! 2.6 kB, one thread, handing out every object's values level by level took 5.1 us a body with `serde_json` and 6.7
//! with sonic-rs; simd-json's tape took 3.5, and `serde_json`'s bare check that it is JSON 2.0. Escapes are left to
//! `serde_json`.

use std::borrow::Cow;

/// The text is not JSON, or not of the kind that was asked for. Says where, never what stands there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not JSON: {kind} at line {line} column {column}")]
pub struct JsonError {
    kind: &'static str,
    line: usize,
    column: usize,
}

/// A place in a text where reading cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    at: usize,
    kind: &'static str,
}

/// A place in a text of JSON, which moves over one value after another.
#[derive(Debug)]
pub struct Reader<'a> {
    text: &'a str,
    at: usize,
    /// How what is open closes, in what is stepped over; kept for its memory.
    open: Vec<u8>,
}

/// Reads the one value that `text` is.
///
/// # Errors
/// Where `content` finds a fault, or leaves something. What was handed over before is void.
pub fn read<'a>(text: &'a str, content: impl FnOnce(&mut Reader<'a>) -> Result<(), Fault>) -> Result<(), JsonError> {
    let mut reader = Reader::new(text);
    reader.skip_space();
    content(&mut reader).and_then(|()| reader.end()).map_err(|fault| JsonError::new(text, fault))
}

/// Reads from the beginning of `text` as far as `content` does. A fault only ends the reading, and is not told: what
/// `content` had seen by then is what is known.
pub fn glance<'a>(text: &'a str, content: impl FnOnce(&mut Reader<'a>) -> Result<(), Fault>) {
    let mut reader = Reader::new(text);
    reader.skip_space();
    // To say where a fault stands would cost more than to find it.
    let _ = content(&mut reader);
}

/// Calls `entry` with each key and the text of its value, in the order of the object.
///
/// A key that stands there twice is handed over twice.
///
/// # Errors
/// Where `text` is not one JSON object. What was handed over before the fault was found is void.
pub fn each_entry<'a>(text: &'a str, entry: &mut dyn FnMut(Cow<'a, str>, &'a str)) -> Result<(), JsonError> {
    let one = &mut |reader: &mut Reader<'a>| {
        let key = reader.key()?;
        entry(key, reader.value()?);
        Ok(())
    };
    read(text, |reader| reader.object(one))
}

/// Calls `item` with the text of each element, in the order of the array.
///
/// # Errors
/// Where `text` is not one JSON array. What was handed over before the fault was found is void.
pub fn each_item<'a>(text: &'a str, item: &mut dyn FnMut(&'a str)) -> Result<(), JsonError> {
    let one = &mut |reader: &mut Reader<'a>| {
        item(reader.value()?);
        Ok(())
    };
    read(text, |reader| reader.array(one))
}

/// Checks that `text` is one JSON value, and hands it back without the white space around it.
///
/// # Errors
/// Where it is not.
pub fn value(text: &str) -> Result<&str, JsonError> {
    let mut value = "";
    read(text, |reader| {
        value = reader.value()?;
        Ok(())
    })?;
    Ok(value)
}

/// So many bytes of a body, and what it is has mostly been said.
pub const BEGINNING: usize = 512;

/// The beginning of a text, as far as it is text and no longer than `most` bytes.
#[must_use]
pub fn beginning(bytes: &[u8], most: usize) -> &str {
    let beginning = bytes.get(..most).unwrap_or(bytes);
    let is_text = |end: usize| simdutf8::compat::from_utf8(&beginning[..end]);
    is_text(beginning.len()).or_else(|error| is_text(error.valid_up_to())).unwrap_or_default()
}

/// The string that a JSON value is; `None` where it is none, or holds half a surrogate pair.
#[must_use]
pub fn string(raw: &str) -> Option<Cow<'_, str>> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') {
        return serde_json::from_str(raw).ok().map(Cow::Owned);
    }
    Some(Cow::Borrowed(inner))
}

impl<'a> Reader<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, at: 0, open: Vec::new() }
    }

    /// Reads the object that stands here: calls `entry` where each key begins. It is to read the key and one value.
    ///
    /// # Errors
    /// Where no object stands here, and those of `entry`.
    pub fn object(&mut self, entry: &mut dyn FnMut(&mut Self) -> Result<(), Fault>) -> Result<(), Fault> {
        self.members(b'{', b'}', entry)
    }

    /// Reads the array that stands here: calls `item` where each element begins. It is to read one value.
    ///
    /// # Errors
    /// Where no array stands here, and those of `item`.
    pub fn array(&mut self, item: &mut dyn FnMut(&mut Self) -> Result<(), Fault>) -> Result<(), Fault> {
        self.members(b'[', b']', item)
    }

    /// The first letter of the value that stands here.
    #[must_use]
    pub fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Steps over a key and its colon if it is this one: in quotes, with the colon, and nothing between.
    pub fn key_is(&mut self, quoted: &str) -> bool {
        let is_it = starts_with(&self.text.as_bytes()[self.at..], quoted.as_bytes());
        if is_it {
            self.at += quoted.len();
            self.skip_space();
        }
        is_it
    }

    /// Steps over a value if its text is this one, of a value that was read before.
    pub fn value_is(&mut self, raw: &str) -> bool {
        let rest = &self.text.as_bytes()[self.at..];
        // Of a number, more digits may follow.
        let ends = |next: Option<&u8>| matches!(next, None | Some(b',' | b'}' | b']' | b' ' | b'\n' | b'\t' | b'\r'));
        let is_it = starts_with(rest, raw.as_bytes()) && ends(rest.get(raw.len()));
        if is_it {
            self.at += raw.len();
        }
        is_it
    }

    /// How many bytes of the text are behind.
    #[must_use]
    pub fn place(&self) -> usize {
        self.at
    }

    /// Reads a key and its colon.
    ///
    /// # Errors
    /// Where none stands here, or one that is no text.
    pub fn key(&mut self) -> Result<Cow<'a, str>, Fault> {
        let start = self.at;
        let key = if self.skip_string()? {
            string(&self.text[start..self.at]).ok_or(Fault { at: start, kind: UNREADABLE })?
        } else {
            Cow::Borrowed(&self.text[start + 1..self.at - 1])
        };
        self.skip_space();
        self.skip(b':')?;
        self.skip_space();
        Ok(key)
    }

    /// Steps over the value that stands here, and hands over its text.
    ///
    /// # Errors
    /// Where it is none.
    #[inline]
    pub fn value(&mut self) -> Result<&'a str, Fault> {
        let start = self.at;
        match self.peek() {
            Some(b'{' | b'[') => self.skip_nested()?,
            _ => self.skip_scalar()?,
        }
        Ok(&self.text[start..self.at])
    }

    /// That reading ends here, whatever stands here.
    #[must_use]
    pub fn fault(&self) -> Fault {
        Fault { at: self.at, kind: UNREADABLE }
    }

    fn members(
        &mut self,
        open: u8,
        close: u8,
        member: &mut dyn FnMut(&mut Self) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        if self.peek() != Some(open) {
            return Err(Fault { at: self.at, kind: OTHER_KIND });
        }
        self.at += 1;
        self.skip_space();
        if self.peek() == Some(close) {
            self.at += 1;
            return Ok(());
        }
        loop {
            member(self)?;
            self.skip_space();
            if self.peek() == Some(close) {
                self.at += 1;
                return Ok(());
            }
            self.skip(b',')?;
            self.skip_space();
        }
    }

    fn end(&mut self) -> Result<(), Fault> {
        self.skip_space();
        if self.at == self.text.len() { Ok(()) } else { Err(self.fault()) }
    }

    #[inline]
    fn skip_space(&mut self) {
        // Mostly there is none.
        if self.peek().is_some_and(|byte| byte > b' ') {
            return;
        }
        while let Some(b' ' | b'\n' | b'\t' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    #[inline]
    fn skip(&mut self, byte: u8) -> Result<(), Fault> {
        if self.peek() == Some(byte) {
            self.at += 1;
            return Ok(());
        }
        Err(self.unexpected())
    }

    /// Steps over an object or an array with all that is in it.
    fn skip_nested(&mut self) -> Result<(), Fault> {
        self.open.clear();
        loop {
            let close = match self.peek() {
                Some(b'{') => Some(b'}'),
                Some(b'[') => Some(b']'),
                _ => None,
            };
            match close {
                Some(close) => {
                    self.at += 1;
                    self.skip_space();
                    if self.peek() == Some(close) {
                        self.at += 1;
                    } else {
                        self.open.push(close);
                        self.skip_key(close)?;
                        continue;
                    }
                }
                None => self.skip_scalar()?,
            }
            // A value ended; so may what it stands in.
            loop {
                let Some(&close) = self.open.last() else { return Ok(()) };
                self.skip_space();
                if self.peek() == Some(close) {
                    self.at += 1;
                    self.open.pop();
                    continue;
                }
                self.skip(b',')?;
                self.skip_space();
                self.skip_key(close)?;
                break;
            }
        }
    }

    /// In an object, steps over a key and its colon.
    fn skip_key(&mut self, close: u8) -> Result<(), Fault> {
        if close == b'}' {
            self.skip_string()?;
            self.skip_space();
            self.skip(b':')?;
            self.skip_space();
        }
        Ok(())
    }

    fn skip_scalar(&mut self) -> Result<(), Fault> {
        match self.peek() {
            Some(b'"') => self.skip_string().map(drop),
            Some(b'-' | b'0'..=b'9') => self.skip_number(),
            Some(b'n') => self.skip_word("null"),
            Some(b't') => self.skip_word("true"),
            Some(b'f') => self.skip_word("false"),
            _ => Err(self.unexpected()),
        }
    }

    fn skip_word(&mut self, word: &str) -> Result<(), Fault> {
        word.bytes().try_for_each(|byte| self.skip(byte))
    }

    fn skip_number(&mut self) -> Result<(), Fault> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            _ => self.skip_digits()?,
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.skip_digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.skip_digits()?;
        }
        Ok(())
    }

    /// At least one digit.
    fn skip_digits(&mut self) -> Result<(), Fault> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        if self.at == start { Err(self.unexpected()) } else { Ok(()) }
    }

    /// Steps over a string, and says whether there are escapes in it.
    #[inline]
    fn skip_string(&mut self) -> Result<bool, Fault> {
        let bytes = self.text.as_bytes();
        // Most have none, and end where their plain letters do.
        if self.peek() == Some(b'"') {
            let end = self.at + 1 + plain_length(&bytes[self.at + 1..]);
            if bytes.get(end) == Some(&b'"') {
                self.at = end + 1;
                return Ok(false);
            }
        }
        self.skip_escaped_string().map(|()| true)
    }

    #[cold]
    fn skip_escaped_string(&mut self) -> Result<(), Fault> {
        self.skip(b'"')?;
        loop {
            self.at += plain_length(&self.text.as_bytes()[self.at..]);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => self.skip_escape()?,
                _ => return Err(self.unexpected()),
            }
        }
    }

    fn skip_escape(&mut self) -> Result<(), Fault> {
        self.at += 1;
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 1,
            Some(b'u') => {
                self.at += 1;
                for _ in 0..4 {
                    if !self.peek().is_some_and(|byte| byte.is_ascii_hexdigit()) {
                        return Err(self.unexpected());
                    }
                    self.at += 1;
                }
            }
            _ => return Err(self.unexpected()),
        }
        Ok(())
    }

    fn unexpected(&self) -> Fault {
        let kind = if self.at >= self.text.len() { TOO_EARLY } else { UNREADABLE };
        Fault { at: self.at, kind }
    }
}

/// Whether bytes begin with others. Most are few, and compared without a call.
#[inline]
fn starts_with(bytes: &[u8], with: &[u8]) -> bool {
    let Some(bytes) = bytes.get(..with.len()) else { return false };
    let same = |a: Option<&[u8; 8]>, b: Option<&[u8; 8]>| {
        a.map(|a| u64::from_ne_bytes(*a)) == b.map(|b| u64::from_ne_bytes(*b))
    };
    let same_half = |a: Option<&[u8; 4]>, b: Option<&[u8; 4]>| {
        a.map(|a| u32::from_ne_bytes(*a)) == b.map(|b| u32::from_ne_bytes(*b))
    };
    match with.len() {
        8..=16 => same(bytes.first_chunk(), with.first_chunk()) && same(bytes.last_chunk(), with.last_chunk()),
        4..8 => same_half(bytes.first_chunk(), with.first_chunk()) && same_half(bytes.last_chunk(), with.last_chunk()),
        _ => bytes == with,
    }
}

const TOO_EARLY: &str = "it ends too early";
const OTHER_KIND: &str = "it is of another kind";
const UNREADABLE: &str = "it cannot be read";

impl JsonError {
    fn new(text: &str, fault: Fault) -> Self {
        let before = &text.as_bytes()[..fault.at];
        let line_start = memchr::memrchr(b'\n', before).map_or(0, |at| at + 1);
        let line = 1 + memchr::memchr_iter(b'\n', before).count();
        // Where a text ends too early, it is its last letter that is the place.
        let column = before.len() - line_start + usize::from(fault.at < text.len());
        Self { kind: fault.kind, line, column }
    }
}

/// How many bytes come before a quotation mark, a backslash or a control character.
#[inline]
fn plain_length(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(word) = bytes[at..].first_chunk() {
        let special = special_bytes(u64::from_le_bytes(*word));
        if special != 0 {
            return at + special.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    let is_plain = |byte: &&u8| **byte >= b' ' && !matches!(byte, b'"' | b'\\');
    at + bytes[at..].iter().take_while(is_plain).count()
}

/// The high bit of each byte of a word that is a quotation mark, a backslash or a control character. Above the
/// first of them, a bit may be set that should not be.
#[inline]
fn special_bytes(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    // A byte below a limit borrows when the limit is taken from it, which sets its high bit; one that had it before is
    // no such byte.
    let control = word.wrapping_sub(ONES * u64::from(b' '));
    let is = |byte: u8| (word ^ (ONES * u64::from(byte))).wrapping_sub(ONES);
    (control | is(b'"') | is(b'\\')) & !word & HIGHS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hands_over_entries_as_they_stand() {
        let mut seen = Vec::new();
        let text = r#" {"a": 1.50, "b\n":{"c" : [ ]}, "a":null} "#;
        each_entry(text, &mut |key, raw| seen.push(format!("{key:?}={raw}"))).expect("an object");
        assert_eq!(seen, [r#""a"=1.50"#, r#""b\n"={"c" : [ ]}"#, r#""a"=null"#]);
    }

    #[test]
    fn says_where_it_is_no_json_but_not_what_stands_there() {
        let said = |text| each_entry(text, &mut |_, _| ()).expect_err("an error").to_string();
        assert_eq!(said(r#"{"secret": tru}"#), "not JSON: it cannot be read at line 1 column 15");
        assert_eq!(said(r#"{"secret": "#), "not JSON: it ends too early at line 1 column 11");
        assert_eq!(said(r#""secret""#), "not JSON: it is of another kind at line 1 column 1");
        assert_eq!(said("{} {}"), "not JSON: it cannot be read at line 1 column 4");
    }

    #[test]
    fn what_is_no_json_is_found_wherever_it_stands() {
        let accepted =
            ["{\"a\":[1,-0.5e+7,{\"b\\u00e9\\n\":[[],{}]}],\"c\":null}", "0", " [ true , false ] ", "\"\u{7f}\""];
        for text in accepted {
            assert_eq!(value(text), Ok(text.trim()), "{text}");
        }
        let refused = [
            "",
            "01",
            "1.",
            ".5",
            "+1",
            "1e",
            "-",
            "1.e5",
            "nul",
            "nulll",
            "True",
            "[1,]",
            "[,1]",
            "[1 2]",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{a:1}",
            "{1:1}",
            "{\"a\":1 \"b\":2}",
            "[1}",
            "{\"a\":[1}]",
            "[",
            "{",
            "]",
            "\"",
            "\"\\\"",
            "\"\\x\"",
            "\"\\u12g4\"",
            "\"\\u123\"",
            "\"a\nb\"",
            "\"12345678\u{1}\"",
            "\"1234567\u{1f}8\"",
            "1 2",
            "[[[[1]]]",
            "\u{a0}1",
            "//\n1",
            "'a'",
            "NaN",
        ];
        for text in refused {
            assert!(value(text).is_err(), "{text}");
            assert!(serde_json::from_str::<&serde_json::value::RawValue>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn strings_of_every_length_end_where_they_do() {
        for length in 0..40 {
            for special in ["\"", "\\", "\u{0}", "\u{1f}", "\n"] {
                let text =
                    format!("{}{special}\"\"", "é~\u{80}\u{7f} ".chars().cycle().take(length).collect::<String>());
                assert_eq!(plain_length(text.as_bytes()), text.len() - special.len() - 2, "{text:?}");
            }
        }
    }

    #[test]
    fn reads_strings() {
        assert_eq!(string(r#""a""#).as_deref(), Some("a"));
        assert_eq!(string(r#""\u00e9\ud83d\ude00""#).as_deref(), Some("é😀"));
        assert_eq!(string(r#""\ud800""#), None);
        assert_eq!(string("5"), None);
        assert_eq!(string("\""), None);
    }

    #[test]
    fn depth_costs_no_stack() {
        let deep = format!("{}{}", "[".repeat(1_000_000), "]".repeat(1_000_000));
        assert_eq!(value(&deep).map(str::len), Ok(2_000_000));
    }
}
