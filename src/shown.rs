//! Numbers and foreign text as they are shown to people, wherever that is.

/// A number with four digits that count.
#[must_use]
pub fn digits(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        1e15.. => format!("{value:.3e}"),
        1_000.0.. => format!("{value:.0}"),
        100.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        0.001.. => format!("{value:.4}"),
        _ => format!("{value:.3e}"),
    }
}

/// Bytes in the unit that reads best.
#[expect(clippy::cast_precision_loss, reason = "for people")]
#[must_use]
pub fn bytes(count: u64) -> String {
    let mut value = count as f64;
    let mut units = ["B", "kB", "MB", "GB", "TB"].into_iter();
    let mut unit = units.next().unwrap_or("B");
    while value >= 1_000.0 {
        let Some(next) = units.next() else { break };
        (value, unit) = (value / 1_000.0, next);
    }
    if unit == "B" { format!("{count} B") } else { format!("{value:.1} {unit}") }
}

/// Whether a letter is obeyed and not shown where text stands: control characters, and those that turn the direction of
/// a line (Unicode's bidirectional marks, embeddings and isolates).
#[must_use]
pub fn is_command(letter: char) -> bool {
    letter.is_control() || matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        assert_eq!([bytes(0), bytes(999), bytes(1_500), bytes(16_000_000)], ["0 B", "999 B", "1.5 kB", "16.0 MB"]);
    }
}
