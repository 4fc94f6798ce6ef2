//! The only place that prints.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::clock::{self, Clock};

pub(super) use crate::disk::bytes;

/// Writes data to stdout. On a terminal, control characters in it are shown and not obeyed.
pub(super) fn data(data: impl AsRef<[u8]>) -> io::Result<()> {
    let text = std::str::from_utf8(data.as_ref()).ok().filter(|_| is_terminal()).map(safe);
    let mut out = io::stdout().lock();
    out.write_all(text.as_deref().map_or(data.as_ref(), str::as_bytes))?;
    out.flush()
}

/// Whether lines on stderr are JSON, as those of the log then are.
static IS_JSON: AtomicBool = AtomicBool::new(false);

/// From now on, lines on stderr are JSON.
pub(super) fn notes_as_json() {
    IS_JSON.store(true, Ordering::Relaxed);
}

/// Writes a line for people to stderr. Control characters, which foreign text may hold, do nothing.
pub(super) fn note(line: &str) {
    let line = if IS_JSON.load(Ordering::Relaxed) { as_json(line) } else { safe(line) };
    // Where stderr is closed, nobody reads.
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// A line in the form that the log's lines have.
fn as_json(line: &str) -> String {
    let levels = [("error: ", "ERROR"), ("warning: ", "WARN")];
    let found = levels.iter().find_map(|(word, level)| Some((*level, line.strip_prefix(word)?)));
    let (level, message) = found.unwrap_or(("INFO", line.trim_start()));
    let timestamp = clock::format_timestamp(Clock::system().now());
    serde_json::json!({ "timestamp": timestamp, "level": level, "fields": { "message": message } }).to_string()
}

/// Text as it may stand on a terminal: control characters are shown and not obeyed.
pub(super) fn safe(text: &str) -> String {
    let shown = |letter: char| match letter {
        '\n' | '\t' => letter.to_string(),
        _ if letter.is_control() => letter.escape_default().to_string(),
        _ => letter.to_string(),
    };
    text.chars().map(shown).collect()
}

/// The same for a word inside a line: nothing in it ends the line, or turns its direction.
pub(super) fn safe_word(text: &str) -> String {
    let turns =
        |letter: char| matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let shown = |letter: char| match letter {
        _ if letter.is_control() || turns(letter) => letter.escape_default().to_string(),
        _ => letter.to_string(),
    };
    text.chars().map(shown).collect()
}

/// Writes a small file for scripts.
#[expect(clippy::disallowed_methods, reason = "not a file of the archive: a summary that the next run replaces")]
pub(super) fn file(path: &Path, data: impl AsRef<[u8]>) -> anyhow::Result<()> {
    std::fs::write(path, data).map_err(|error| anyhow::anyhow!("cannot write {}: {error}", path.display()))
}

/// Letters of a line of the terminal, or as many as `COLUMNS` says; none where stdout is something else.
pub(super) fn width() -> Option<usize> {
    let said = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    said.or_else(|| terminal_size::terminal_size().map(|(width, _)| usize::from(width.0)))
}

/// Whether stdout is a terminal.
pub(super) fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Whether colours are wanted on stderr.
pub(super) fn is_colourful() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Whether somebody stopped reading, which is no error.
pub(super) fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_moves_no_cursor() {
        assert_eq!(safe("a\u{1b}[31mb\u{7}\nc é"), "a\\u{1b}[31mb\\u{7}\nc é");
    }
}
