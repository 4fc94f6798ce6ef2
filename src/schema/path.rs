//! Paths of values in a body, as the report on drift groups them. `flatten` makes them.

/// A path without the positions in lists: `cpuPctByApp[3].pid` counts as `cpuPctByApp[].pid`.
#[must_use]
pub fn without_positions(path: &str) -> String {
    let mut short = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('[') {
        let behind = after.trim_start_matches(|letter: char| letter.is_ascii_digit());
        short.push_str(before);
        short.push('[');
        // A key may hold a bracket as well.
        rest = if behind.starts_with(']') { behind } else { after };
    }
    short + rest
}

#[cfg(test)]
mod tests {
    #[test]
    fn positions_in_lists_are_left_out_and_nothing_else() {
        for (path, expect) in [
            ("cpuPctByApp[3].pid", "cpuPctByApp[].pid"),
            ("cpuPctByApp[0][12].pid", "cpuPctByApp[][].pid"),
            ("rtt[\"x.y\"]", "rtt[\"x.y\"]"),
            ("x[\"a[1b\"]", "x[\"a[1b\"]"),
            ("new[12x]", "new[12x]"),
            ("new", "new"),
        ] {
            assert_eq!(super::without_positions(path), expect);
        }
    }
}
