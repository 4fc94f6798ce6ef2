//! How near two words are, for who names what may have been meant. Which words there are is the callers' business.

/// Letters to put in, take out or change to make one word of another (Levenshtein).
#[must_use]
pub fn strokes(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (line, letter) in from.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], line + 1);
        for (at, other) in to.iter().enumerate() {
            let changed = diagonal + usize::from(letter != *other);
            diagonal = row[at + 1];
            row[at + 1] = changed.min(diagonal + 1).min(row[at] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_that_differ_are_counted() {
        for (from, to, expect) in
            [("", "", 0), ("colo", "colo", 0), ("", "rtt", 3), ("cpu_pkt", "cpu_pct", 1), ("loco", "colo", 2)]
        {
            assert_eq!((strokes(from, to), strokes(to, from)), (expect, expect), "{from} {to}");
        }
    }
}
