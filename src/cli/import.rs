//! `import`: which files are meant, and how they are opened. How bodies are read out of them, [`crate::import`] knows.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::ops::Range;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::bucket::Bucket;
use crate::clock::{Clock, Zone};
use crate::config::{self, ConfigError};
use crate::import::{Form, ImportError, ImportOptions, ImportStats, PIECE_BYTES, read_file};
use crate::ingest::{BodyFile, Ingest, Published};
use crate::shown::bytes;
use crate::snapshot::Origin;
use crate::snapshot::sweep_id;

use super::args::{Args, ImportArgs, ImportFormat};
use super::{Exit, print, summary, sweep_number, take};

/// A file of so many bytes is not copied into the journal. Smaller ones are: a day is written anew for every few open
/// files, and for a journal of many bodies.
const LASTING_BYTES: u64 = 16 << 20;

/// Takes files into the archive.
pub(super) fn run(args: &Args, command: &ImportArgs) -> anyhow::Result<Exit> {
    let (place, file) = args.config()?;
    let policy = file.policy()?;
    let clock = Clock::system();
    let form = if command.format == ImportFormat::Logpush { Form::Logpush } else { Form::Api };
    let account_id = match file.one_account(command.account.as_deref()) {
        // Lines of Logpush say it themselves.
        Err(ConfigError::NoAccount | ConfigError::WhichAccount(_)) if form == Form::Logpush => None,
        account => Some(account?),
    };
    if let Some(account) = &account_id
        && !file.account.is_empty()
        && !file.known_accounts().contains_key(account.as_str())
    {
        tracing::warn!("the account {account} is none of the config's; `forget --account` takes it out again");
    }
    let now = clock.now();
    let collected_at = match &command.collected_at {
        Some(text) => config::parse_time(text, Zone::UTC, now)?,
        None => now,
    };
    let files = sources(&command.files)?;
    let (mut ingest, recovered) = take::open(&place, &clock, "import", file.archive.readable_by, policy)?;
    let exit = take::note_recovered(&recovered);
    let options = ImportOptions { form, account_id, sweep_id: sweep_id(now, sweep_number(0)), collected_at };
    let (total, read) = match read_all(&mut ingest, files, &options, command.collected_at.is_none()) {
        Ok(read) => read,
        // What was read so far is there for the next start, or in its file still.
        Err(error) => {
            ingest.keep_lasting().unwrap_or_else(|second| tracing::warn!("{second}"));
            return Err(error);
        }
    };
    let published = ingest.publish()?;
    summary::tell_publish(&published.damaged, &published.held);
    if !args.quiet {
        print::note(&format!(
            "{} values, {} bodies: {} new states, {} unchanged, {} quarantined; {} rows, {} published",
            total.values,
            total.bodies,
            published.states_new,
            published.states_known,
            published.quarantined,
            published.rows,
            bytes(published.bytes),
        ));
    }
    let understood = tell_not_understood(&published, args.quiet);
    Ok(exit.or_worse(read).or_worse(Exit::of_publish(&published)).or_worse(understood))
}

/// Says what of the bodies was no state, or is none that a question finds, by the first of each.
fn tell_not_understood(published: &Published, quiet: bool) -> Exit {
    let place = |origin: Option<&Origin>| origin.map_or(String::new(), |origin| format!("{origin}: "));
    if let Some((origin, cause)) = published.first_quarantined.as_ref().filter(|_| !quiet) {
        print::note(&format!(
            "  no device state, the first: {}{cause}; see _archive/quarantine",
            place(origin.as_ref())
        ));
    }
    if published.states_timeless == 0 {
        return Exit::Done;
    }
    let first = published.first_timeless.as_ref().map_or(String::new(), |origin| format!(", the first is {origin}"));
    print::warning(&format_args!(
        "{} states have no time that can be read{first}: they are kept under the day of their import, and no question about a time finds them",
        published.states_timeless
    ));
    Exit::Partly
}

/// What is to be read. Every file that is named is opened before anything is written, so that a wrong name leaves nothing
/// behind.
fn sources(paths: &[PathBuf]) -> anyhow::Result<Vec<Source>> {
    let mut sources = Vec::new();
    for path in paths {
        if let Some(url) = path.to_str().filter(|text| Bucket::is_url(text)) {
            sources.extend(objects(url)?);
            continue;
        }
        // A pipe that is opened and closed again has lost its writer.
        if path != Path::new("-") && !is_pipe(path) {
            File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        }
        let found = below(path, &mut BTreeSet::new()).with_context(|| format!("cannot read {}", path.display()))?;
        sources.extend(found.into_iter().map(Source::File));
    }
    Ok(sources)
}

/// Reads one file after the other: what was read, and how that went. A file that cannot be read keeps no other from
/// being taken in. With `is_later`, states of each file count as collected after those of the files before it.
fn read_all(
    ingest: &mut Ingest,
    sources: Vec<Source>,
    options: &ImportOptions,
    is_later: bool,
) -> anyhow::Result<(ImportStats, Exit)> {
    let (mut total, mut exit, mut options) = (ImportStats::default(), Exit::Done, options.clone());
    for source in sources {
        let name = source.to_string();
        let opened = open(&source);
        if !is_later {
            let is_lasting = matches!(&opened, Ok((_, Some(_)))) && options.form == Form::Api;
            ingest.keep_order(is_lasting)?;
        }
        let (stats, read) = match opened {
            Ok((file, lasting)) => read_file(ingest, file, lasting, &name, &options),
            Err(error) => {
                print::error(&format_args!("cannot read {name}: {error:#}"));
                exit = Exit::Failed;
                continue;
            }
        };
        total.values += stats.values;
        total.bodies += stats.bodies;
        exit = exit.or_worse(unattributed(&name, &stats));
        match read {
            Ok(()) => (),
            Err(error @ ImportError::Read { .. }) => {
                print::error(&error);
                exit = Exit::Failed;
            }
            Err(error) => return Err(error.into()),
        }
        options.collected_at += chrono::TimeDelta::microseconds(i64::from(is_later));
    }
    Ok((total, exit))
}

/// Tells of lines that were passed over.
fn unattributed(name: &str, stats: &ImportStats) -> Exit {
    let Some(first) = stats.first_unattributed else { return Exit::Done };
    print::warning(&format_args!(
        "{name}: {} lines say nothing of whose states they are, the first is line {first}: passed over; name the account with --account to keep them",
        stats.unattributed
    ));
    Exit::Partly
}

/// Whether a path leads to something that can be read once.
fn is_pipe(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.file_type().is_fifo())
}

/// The files that are meant by a path: itself, or those of a folder and what is below it, in the order of their names.
/// Hidden ones are not meant, and what several names lead to is meant once: `known` has what was met, by its device and
/// inode. A folder in it that cannot be read is among them, for whoever opens it to tell.
fn below(path: &Path, known: &mut BTreeSet<(u64, u64)>) -> io::Result<Vec<PathBuf>> {
    if path.metadata().is_ok_and(|metadata| !known.insert((metadata.dev(), metadata.ino()))) {
        return Ok(Vec::new());
    }
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut entries = std::fs::read_dir(path)?
        .map(|entry| entry.map(|entry| (entry.file_name(), entry.path())))
        .collect::<io::Result<Vec<_>>>()?;
    entries.retain(|(name, _)| !name.as_encoded_bytes().starts_with(b"."));
    entries.sort_unstable();
    let mut files = Vec::new();
    for (_, path) in entries {
        files.extend(below(&path, known).unwrap_or_else(|_told_later| vec![path]));
    }
    Ok(files)
}

/// The objects that are meant by an address: that one, or those below it, in the order of their keys.
fn objects(url: &str) -> anyhow::Result<Vec<Source>> {
    let bucket = Bucket::open(url)?;
    // What a console puts there to show a folder is empty.
    let below: Vec<_> = bucket.objects("", &Range::default())?.into_iter().filter(|object| object.bytes > 0).collect();
    if !below.is_empty() {
        return Ok(below.into_iter().map(|object| Source::Object(bucket.clone(), object.key)).collect());
    }
    let (above, key) = url.trim_end_matches('/').rsplit_once('/').unwrap_or_default();
    let above = Bucket::open(above)?;
    above.end(key, 1)?;
    Ok(vec![Source::Object(above, key.to_owned())])
}

/// Where something is read from.
enum Source {
    File(PathBuf),
    Object(Bucket, String),
}

impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(formatter),
            Self::Object(bucket, key) => write!(formatter, "{}/{key}", bucket.url()),
        }
    }
}

/// How what gzip made begins (RFC 1952).
const GZIP: &[u8] = &[0x1f, 0x8b];

/// How what zstd made begins (RFC 8878).
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// Opens something for reading, decompressed, whatever it is called; also for reading once more, where that can be done at
/// any place of it and is worth an open file.
fn open(source: &Source) -> anyhow::Result<(Box<dyn BufRead + Send>, Option<BodyFile>)> {
    let mut lasting = None;
    let (mut file, name): (Box<dyn Read + Send>, &Path) = match source {
        Source::File(path) if path == Path::new("-") => (Box::new(io::stdin()), path),
        Source::File(path) => {
            let file = File::open(path)?;
            let metadata = file.metadata()?;
            if metadata.is_file() && metadata.len() >= LASTING_BYTES {
                lasting = Some(BodyFile::of(file.try_clone()?, path)?);
            }
            if metadata.is_file() && metadata.len() == 0 {
                // Not even the beginning of something compressed.
                return Ok((Box::new(io::empty()), None));
            }
            (Box::new(file), path)
        }
        Source::Object(bucket, key) => (Box::new(bucket.reader(key)?), Path::new(key)),
    };
    let mut head = Vec::new();
    file.by_ref().take(ZSTD.len() as u64).read_to_end(&mut head)?;
    // What is compressed and broken from the beginning is no text either: that it cannot be read says more than its lines.
    let is_text = head.first().is_some_and(|first| b"{[ \t\r\n\xef".contains(first));
    let ends_in = |ending| !is_text && name.extension().is_some_and(|extension| extension == ending);
    let (is_gzip, is_zstd) = match (head.starts_with(GZIP), head.starts_with(ZSTD)) {
        (false, false) => (ends_in("gz"), ends_in("zst")),
        begins => begins,
    };
    let file = io::Cursor::new(head).chain(file);
    Ok(match (is_gzip, is_zstd) {
        (true, _) => (Box::new(BufReader::with_capacity(PIECE_BYTES, flate2::read::MultiGzDecoder::new(file))), None),
        (_, true) => (Box::new(BufReader::with_capacity(PIECE_BYTES, zstd::Decoder::new(file)?)), None),
        _ => (Box::new(BufReader::with_capacity(PIECE_BYTES, file)), lasting),
    })
}
