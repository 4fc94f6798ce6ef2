//! Writes JSON text straight into a string, as bodies are made by the million.
//!
//! It does not indent, and it trusts its caller to open and close what belongs together.

use super::dice::{real, whole};

/// The text of one body, and what its device gets wrong.
pub(super) struct Text<'a> {
    out: &'a mut String,
    /// Leaves out a key whose value is null.
    pub(super) terse: bool,
    /// A key, and the value of a wrong type that it gets.
    pub(super) wrong: Option<(&'static str, &'static str)>,
}

impl<'a> Text<'a> {
    pub(super) fn new(out: &'a mut String) -> Self {
        Self { out, terse: false, wrong: None }
    }

    pub(super) fn raw(&mut self, text: &str) {
        self.out.push_str(text);
    }

    /// Begins a field. False: its value is written already, and wrong.
    pub(super) fn key(&mut self, key: &str) -> bool {
        if !self.out.ends_with(['{', '[']) {
            self.out.push(',');
        }
        self.out.push('"');
        self.out.push_str(key);
        self.out.push_str("\":");
        match self.wrong {
            Some((wrong, value)) if wrong == key => self.out.push_str(value),
            _ => return true,
        }
        false
    }

    pub(super) fn null(&mut self, key: &str) {
        if !self.terse && self.key(key) {
            self.out.push_str("null");
        }
    }

    pub(super) fn text(&mut self, key: &str, value: Option<&str>) {
        match value {
            None => self.null(key),
            Some(value) if self.key(key) => push_quoted(self.out, value),
            Some(_) => {}
        }
    }

    pub(super) fn int(&mut self, key: &str, value: Option<i64>) {
        match value {
            None => self.null(key),
            Some(value) if self.key(key) => push_int(self.out, value),
            Some(_) => {}
        }
    }

    pub(super) fn decimal(&mut self, key: &str, value: Option<f64>, digits: u32) {
        match value {
            None => self.null(key),
            Some(value) if self.key(key) => push_decimal(self.out, value, digits),
            Some(_) => {}
        }
    }

    pub(super) fn flag(&mut self, key: &str, value: Option<bool>) {
        match value {
            None => self.null(key),
            Some(value) if self.key(key) => self.out.push_str(if value { "true" } else { "false" }),
            Some(_) => {}
        }
    }

    /// The next item of an array.
    pub(super) fn item(&mut self) {
        if !self.out.ends_with('[') {
            self.out.push(',');
        }
    }
}

pub(super) fn push_quoted(out: &mut String, text: &str) {
    out.push('"');
    if text.bytes().all(|b| b >= b' ' && b != b'"' && b != b'\\') {
        out.push_str(text);
    } else {
        text.chars().for_each(|c| push_escaped(out, c));
    }
    out.push('"');
}

fn push_escaped(out: &mut String, c: char) {
    match c {
        '"' | '\\' => out.extend(['\\', c]),
        c if c < ' ' => {
            out.push_str("\\u00");
            out.extend([c as u32 / 16, c as u32 % 16].map(|digit| char::from_digit(digit, 16).unwrap_or('0')));
        }
        c => out.push(c),
    }
}

pub(super) fn push_int(out: &mut String, value: i64) {
    if value < 0 {
        out.push('-');
    }
    push_digits(out, value.unsigned_abs(), 1);
}

/// Digits of a number, with zeros before it up to a width.
pub(super) fn push_digits(out: &mut String, mut value: u64, width: usize) {
    let mut digits = [b'0'; 20];
    let mut first = digits.len();
    while value > 0 {
        first -= 1;
        digits[first] = b'0' + u8::try_from(value % 10).expect("a digit is small");
        value /= 10;
    }
    let first = first.min(digits.len() - width);
    out.push_str(str::from_utf8(&digits[first..]).expect("digits are ASCII"));
}

/// A number cut to some digits after the point, of which one at least is written.
fn push_decimal(out: &mut String, value: f64, digits: u32) {
    let scale = 10_i64.pow(digits);
    let scaled = whole(value * real(scale));
    if scaled < 0 {
        out.push('-');
    }
    let (scaled, scale) = (scaled.unsigned_abs(), scale.unsigned_abs());
    push_digits(out, scaled / scale, 1);
    out.push('.');
    let after_point = out.len();
    push_digits(out, scaled % scale, digits as usize);
    let kept = out[after_point..].trim_end_matches('0').len().max(1);
    out.truncate(after_point + kept);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(write: impl FnOnce(&mut String), expect: &str) {
        let mut out = String::new();
        write(&mut out);
        assert_eq!(out, expect);
    }

    #[test]
    fn writes_numbers_and_strings() {
        check(|out| push_int(out, -1203), "-1203");
        check(|out| push_int(out, 0), "0");
        check(|out| push_digits(out, 7, 3), "007");
        check(|out| push_decimal(out, 12.34009, 4), "12.3401");
        check(|out| push_decimal(out, 5.0, 3), "5.0");
        check(|out| push_decimal(out, -0.05, 2), "-0.05");
        check(|out| push_quoted(out, "a\"b\\c\n</script>é"), "\"a\\\"b\\\\c\\u000a</script>é\"");
    }
}
