//! The only place that prints. The files that are named for an answer are written here too; what stands in them is made
//! elsewhere.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use tracing::Level;

use crate::clock::{self, Clock};
use crate::disk::{self, Access, Disk};
use crate::shown::is_command;

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
    tell(Level::INFO, line);
}

/// Writes to stderr what went wrong, and may not be what it should be.
pub(super) fn warning(said: &dyn Display) {
    tell(Level::WARN, &said.to_string());
}

/// Writes to stderr what failed.
pub(super) fn error(said: &dyn Display) {
    tell(Level::ERROR, &said.to_string());
}

fn tell(level: Level, line: &str) {
    let line = match level {
        _ if IS_JSON.load(Ordering::Relaxed) => as_json(level, line.trim_start()),
        Level::ERROR => safe(&format!("error: {line}")),
        Level::WARN => safe(&format!("warning: {line}")),
        _ => safe(line),
    };
    // Where stderr is closed, nobody reads.
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// A line in the form that the log's lines have.
fn as_json(level: Level, message: &str) -> String {
    let timestamp = clock::format_timestamp(Clock::system().now());
    serde_json::json!({ "timestamp": timestamp, "level": level.as_str(), "fields": { "message": message } }).to_string()
}

/// Text as it may stand on a terminal: control characters, and what turns a line's direction, are shown and not obeyed.
pub(super) fn safe(text: &str) -> String {
    shown(text, |letter| matches!(letter, '\n' | '\t'))
}

/// Text as it may stand inside a line on a terminal: nothing in it ends the line.
pub(super) fn safe_word(text: &str) -> String {
    shown(text, |_letter| false)
}

fn shown(text: &str, is_obeyed: impl Fn(char) -> bool) -> String {
    let shown = |letter: char| match letter {
        _ if is_command(letter) && !is_obeyed(letter) => letter.escape_default().to_string(),
        _ => letter.to_string(),
    };
    text.chars().map(shown).collect()
}

/// Writes an answer to the file that is named, or to stdout: where none is named, to no terminal if `not_for_terminals`
/// says why. Whether it went into a file.
pub(super) fn answer(path: Option<&Path>, text: &[u8], not_for_terminals: Option<&str>) -> anyhow::Result<bool> {
    match (path.filter(|path| *path != Path::new("-")), not_for_terminals) {
        (Some(path), _) => file(path, text)?,
        (None, Some(why)) if path.is_none() && is_terminal() => anyhow::bail!("{why}"),
        (None, _) => {
            data(text)?;
            return Ok(false);
        }
    }
    Ok(true)
}

/// Writes a file in the place of one that is there: nobody sees half of it, and where there is no room the old one stays.
/// What is no plain file of our own, such as a pipe, a link or what another user owns, is written to.
pub(super) fn file(path: &Path, data: impl AsRef<[u8]>) -> anyhow::Result<()> {
    let data = data.as_ref();
    let written = if is_replaceable(path) { replace(path, data) } else { overwrite(path, data) };
    written.with_context(|| format!("cannot write {}", path.display()))
}

/// Whether a file is a plain one of our own, or none is there yet.
fn is_replaceable(path: &Path) -> bool {
    // Names of what is open, among others what stdout is.
    let is_of_system = ["/dev", "/proc"].iter().any(|of_system| path.starts_with(of_system));
    match path.symlink_metadata() {
        Ok(old) => old.is_file() && old.nlink() == 1 && disk::is_own(&old) && !is_of_system,
        Err(_) => !is_of_system,
    }
}

/// Writes a new file and puts it into another's place. Where that cannot be, as in a folder that may not be written to,
/// the old one is written to.
fn replace(path: &Path, data: &[u8]) -> io::Result<()> {
    let old = path.metadata().ok();
    // Until it has its rights, nobody else reads it.
    let disk = Disk::new(if old.is_some() { Access::Owner } else { Access::All });
    let Some(name) = path.file_name() else { return overwrite(path, data) };
    let mut new_name = name.to_owned();
    new_name.push(format!(".{}.tmp", std::process::id()));
    let new = path.with_file_name(new_name);
    let written = disk.create(&new).map_err(|error| error.error).and_then(|mut file| {
        file.write_all(data)?;
        file.sync().map_err(|error| error.error)?;
        old.map_or(Ok(()), |old| std::fs::set_permissions(&new, old.permissions()))?;
        disk.rename(&new, path).map_err(|error| error.error)
    });
    let Err(error) = written else { return Ok(()) };
    let _ = disk.remove(&new);
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Err(error),
        _ => overwrite(path, data),
    }
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
        let mut rights = path.metadata().expect("a file").permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut rights, 0o640);
        std::fs::set_permissions(&path, rights).expect("ours");
        // Who has it open goes on reading what was there.
        let mut open = std::fs::File::open(&path).expect("a file");
        file(&path, "two").expect("room");
        let mut seen = String::new();
        io::Read::read_to_string(&mut open, &mut seen).expect("a file");
        assert_eq!((seen.as_str(), read().as_str()), ("one", "two"));
        let mode = std::os::unix::fs::PermissionsExt::mode(&path.metadata().expect("a file").permissions());
        assert_eq!(mode & 0o777, 0o640);
        // What is no plain file stays what it is: a link, also one that leads nowhere yet, and what stdout is.
        std::os::unix::fs::symlink("page.html", &link).expect("a link");
        file(&link, "three").expect("room");
        assert_eq!((read().as_str(), link.is_symlink()), ("three", true));
        std::fs::remove_file(&path).expect("a file");
        file(&link, "four").expect("room");
        assert_eq!((read().as_str(), link.is_symlink()), ("four", true));
        assert!(!is_replaceable(Path::new("/dev/stdout")) && !is_replaceable(Path::new("/proc/self/fd/1")));
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
        assert_eq!(safe("a\u{1b}[31mb\u{7}\nc é\u{202e}"), "a\\u{1b}[31mb\\u{7}\nc é\\u{202e}");
        assert_eq!(safe_word("a\nb\u{202e}"), "a\\nb\\u{202e}");
    }
}
