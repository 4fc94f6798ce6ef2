//! JSON numbers that fit a column exactly, read from their text.

/// The whole number that `raw` is: `12`, `12.0` and `1.2e1` are the same one. `None` for anything
/// else, and beyond 64 bits.
pub(super) fn int64(raw: &str) -> Option<i64> {
    if let Ok(plain) = raw.parse() {
        // JSON knows no plus sign; `raw` is a JSON value, so it has none.
        return Some(plain);
    }
    let (mantissa, exponent) = split_exponent(raw)?;
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let fraction = fraction.trim_end_matches('0');
    let places = i32::try_from(fraction.len()).ok()?;
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    if digits == 0 {
        return Some(0);
    }
    let shift = exponent.checked_sub(places)?;
    let power = 10_i128.checked_pow(shift.unsigned_abs())?;
    let value = match shift {
        0.. => digits.checked_mul(power)?,
        _ if digits % power == 0 => digits / power,
        _ => return None,
    };
    i64::try_from(value).ok()
}

/// The double that `raw` is: for a fraction the nearest, for a whole number only the same. `None`
/// for anything else, and beyond the range of doubles.
pub(super) fn float64(raw: &str) -> Option<f64> {
    if let Some(value) = short(raw) {
        return Some(value);
    }
    let starts = raw.bytes().next().is_some_and(|b| b == b'-' || b.is_ascii_digit());
    let value: f64 = if starts { raw.parse().ok()? } else { return None };
    let whole = raw.bytes().all(|b| b == b'-' || b.is_ascii_digit());
    (value.is_finite() && (!whole || is_same(value, raw))).then_some(value)
}

/// A number of few digits and no exponent, as most are, as the nearest double; `None` for any other.
#[expect(clippy::cast_precision_loss, reason = "so few digits are exact")]
fn short(raw: &str) -> Option<f64> {
    let unsigned = raw.strip_prefix('-');
    let text = unsigned.unwrap_or(raw).as_bytes();
    if text.len() > SHORT_DIGITS || !text.first().is_some_and(u8::is_ascii_digit) {
        return None;
    }
    let (mut digits, mut places, mut behind_point) = (0_i64, 0, 0);
    for byte in text {
        match byte.wrapping_sub(b'0') {
            digit @ 0..=9 => {
                digits = digits * 10 + i64::from(digit);
                places += behind_point;
            }
            _ if *byte == b'.' && behind_point == 0 => behind_point = 1,
            _ => return None,
        }
    }
    // Both are exact, and the nearest to their quotient is what the division gives. Zero has a sign too.
    let value = digits as f64 / POWERS[places];
    Some(if unsigned.is_some() { -value } else { value })
}

/// A whole number of so many digits is always the same as a double.
const SHORT_DIGITS: usize = 15;

/// The powers of ten by which one may have to be divided, each the same as a double.
const POWERS: [f64; SHORT_DIGITS + 1] =
    [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];

/// Splits `1.5e3` into its mantissa and its exponent. `None` where it is no number.
fn split_exponent(raw: &str) -> Option<(&str, i32)> {
    if !raw.bytes().next().is_some_and(|b| b == b'-' || b.is_ascii_digit()) {
        return None;
    }
    match raw.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => Some((mantissa, exponent.parse().ok()?)),
        None => Some((raw, 0)),
    }
}

/// Whether a double is the whole number that `raw` is. Below 16 digits it always is.
fn is_same(value: f64, raw: &str) -> bool {
    raw.len() < 16 || format!("{value:.0}") == raw
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_fit_whatever_their_form() {
        for (raw, value) in [
            ("12", 12),
            ("-12", -12),
            ("12.0", 12),
            ("-12.000", -12),
            ("1.2e1", 12),
            ("120E-1", 12),
            ("1e18", 10_i64.pow(18)),
            ("-0", 0),
            ("0.0", 0),
            ("0e999999999", 0),
            ("9223372036854775807", i64::MAX),
            ("-9223372036854775808", i64::MIN),
            ("9223372036854775807.0", i64::MAX),
            ("9007199254740993.0", 9_007_199_254_740_993),
        ] {
            assert_eq!(int64(raw), Some(value), "{raw}");
        }
    }

    #[test]
    fn other_values_fit_no_whole_number() {
        for raw in [
            "12.5",
            "1e-1",
            "9223372036854775808",
            "-9223372036854775809",
            "1e19",
            "1e999999999",
            "1e-999999999",
            "1e99999999999",
            "\"12\"",
            "true",
            "[1]",
            "{}",
            "1000000000000000000000000000000000000000000.5",
        ] {
            assert_eq!(int64(raw), None, "{raw}");
        }
    }

    #[test]
    fn doubles_fit_to_the_nearest_and_whole_numbers_exactly() {
        for (raw, value) in [
            ("0.1", 0.1),
            ("12", 12.0),
            ("-0", -0.0),
            ("1e-400", 0.0),
            ("1.7976931348623157e308", f64::MAX),
            ("5e-324", 5e-324),
            ("9007199254740992", 9_007_199_254_740_992.0),
            ("100000000000000000000", 1e20),
        ] {
            assert_eq!(float64(raw).map(f64::to_bits), Some(f64::to_bits(value)), "{raw}");
        }
        for raw in ["9007199254740993", "1e309", "-1e309", "\"1\"", "null", "NaN", "true", "[]"] {
            assert_eq!(float64(raw), None, "{raw}");
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config { failure_persistence: None, ..proptest::test_runner::Config::with_cases(20_000) })]

        /// However long a number is, it is what the standard library reads.
        #[test]
        fn numbers_are_the_same_short_or_long(
            sign in "-?", whole in "0|[1-9][0-9]{0,16}", fraction in "(\\.[0-9]{1,17})?"
        ) {
            let raw = format!("{sign}{whole}{fraction}");
            if !fraction.is_empty() || whole.len() < 16 {
                let value: f64 = raw.parse().expect("a number");
                assert_eq!(float64(&raw).map(f64::to_bits), Some(value.to_bits()), "{raw}");
            }
            if fraction.is_empty() {
                assert_eq!(int64(&raw), raw.parse().ok(), "{raw}");
            }
        }
    }
}
