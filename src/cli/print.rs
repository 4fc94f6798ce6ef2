//! The only place that prints.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;

use crate::clock::{self, Clock};
use crate::disk::{Access, Disk, DiskError};

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

/// Writes a file in the place of one that is there: nobody sees half of it, and where there is no room the old one stays.
/// What is no file, such as a pipe, is written to.
pub(super) fn file(path: &Path, data: impl AsRef<[u8]>) -> anyhow::Result<()> {
    // A link stays one.
    let target = path.canonicalize().unwrap_or_else(|_absent| path.to_owned());
    let is_special = target.metadata().is_ok_and(|found| !found.is_file());
    let written = if is_special { overwrite(&target, data.as_ref()) } else { replace(&target, data.as_ref()) };
    written.with_context(|| format!("cannot write {}", path.display()))
}

/// Writes a new file and puts it into another's place.
fn replace(path: &Path, data: &[u8]) -> io::Result<()> {
    let disk = Disk::new(Access::All);
    let Some(name) = path.file_name() else { return overwrite(path, data) };
    let mut new_name = name.to_owned();
    new_name.push(format!(".{}.tmp", std::process::id()));
    let new = path.with_file_name(new_name);
    let said = |error: DiskError| error.error;
    let mut file = match disk.create(&new) {
        // One that died was of this number.
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
            disk.remove(&new).and_then(|()| disk.create(&new)).map_err(said)?
        }
        // In a folder that is not ours, a file of our own can be written to all the same.
        Err(error) if error.error.kind() == io::ErrorKind::PermissionDenied => return overwrite(path, data),
        file => file.map_err(said)?,
    };
    let written = file.write_all(data).and_then(|()| file.sync().map_err(said)).and_then(|()| {
        // Who may read the one that is there may read this one.
        path.metadata().map_or(Ok(()), |old| std::fs::set_permissions(&new, old.permissions()))
    });
    let replaced = written.and_then(|()| disk.rename(&new, path).map_err(said));
    if replaced.is_err() {
        let _ = disk.remove(&new);
    }
    replaced
}

#[expect(clippy::disallowed_methods, reason = "not a file of the archive, nor one that could be replaced")]
fn overwrite(path: &Path, data: &[u8]) -> io::Result<()> {
    std::fs::write(path, data)
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
    fn a_file_is_there_as_a_whole_or_as_it_was() {
        let dir = tempfile::tempdir().expect("a folder");
        let (path, link) = (dir.path().join("page.html"), dir.path().join("link"));
        let read = || std::fs::read_to_string(&path).expect("a file");
        file(&path, "one").expect("room");
        std::os::unix::fs::symlink(&path, &link).expect("a link");
        let mut rights = path.metadata().expect("a file").permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut rights, 0o640);
        std::fs::set_permissions(&path, rights).expect("ours");
        // Who has it open goes on reading what was there.
        let mut open = std::fs::File::open(&path).expect("a file");
        file(&link, "two").expect("room");
        let mut seen = String::new();
        io::Read::read_to_string(&mut open, &mut seen).expect("a file");
        assert_eq!((seen.as_str(), read().as_str(), link.is_symlink()), ("one", "two", true));
        let mode = std::os::unix::fs::PermissionsExt::mode(&path.metadata().expect("a file").permissions());
        assert_eq!(mode & 0o777, 0o640);
        assert_eq!(std::fs::read_dir(dir.path()).expect("a folder").count(), 2, "nothing else is left");
        let said = file(&dir.path().join("none/page"), "x").expect_err("no folder");
        assert!(
            said.to_string().starts_with("cannot write ") && format!("{said:#}").contains("No such file"),
            "{said:#}"
        );
        let full = file(Path::new("/dev/full"), "x").expect_err("no room");
        assert!(format!("{full:#}").contains("No space left"), "{full:#}");
    }

    #[test]
    fn foreign_text_moves_no_cursor() {
        assert_eq!(safe("a\u{1b}[31mb\u{7}\nc é"), "a\\u{1b}[31mb\\u{7}\nc é");
    }
}
