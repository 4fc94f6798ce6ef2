//! The segment that is being written.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::snapshot::Answer;

use super::{JOURNAL_FORMAT, JournalError, MAGIC, SEGMENT_HEADER, frame, segment_name};

/// An open segment. Dropping it closes the file; what was not synced is then up to the system.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    file: File,
    length: u64,
    unsynced: bool,
    buffer: Vec<u8>,
}

impl Writer {
    /// Makes a new segment in `dir`, durable with its name.
    ///
    /// # Errors
    /// Where the file system says no, or there is a segment of this number.
    pub fn create(dir: &Path, sequence: u64) -> Result<Self, JournalError> {
        let path = dir.join(segment_name(sequence));
        let file = OpenOptions::new().write(true).create_new(true).open(&path);
        let mut file = file.map_err(JournalError::io("create", &path))?;
        let header = [MAGIC.as_slice(), &JOURNAL_FORMAT.to_le_bytes()].concat();
        file.write_all(&header).map_err(JournalError::io("write", &path))?;
        file.sync_all().map_err(JournalError::io("sync", &path))?;
        let folder = File::open(dir).and_then(|folder| folder.sync_all());
        folder.map_err(JournalError::io("sync", dir))?;
        Ok(Self { path, file, length: SEGMENT_HEADER as u64, unsynced: false, buffer: Vec::new() })
    }

    /// Writes an answer. It outlives the process from here on, and the machine from the next
    /// [`Writer::sync`] on.
    ///
    /// # Errors
    /// Where the file system says no; the segment then ends where it did before.
    pub fn append(&mut self, answer: &Answer) -> Result<(), JournalError> {
        self.buffer.clear();
        let too_long = || io::Error::new(io::ErrorKind::FileTooLarge, "an answer of more than 4 GiB");
        let encoded = frame::encode(answer, &mut self.buffer).ok_or_else(too_long);
        if let Err(error) = encoded.and_then(|()| self.file.write_all(&self.buffer)) {
            self.cut();
            return Err(JournalError::io("write", &self.path)(error));
        }
        self.length += self.buffer.len() as u64;
        self.unsynced = true;
        Ok(())
    }

    /// Makes what was written durable.
    ///
    /// # Errors
    /// Where the file system says no.
    pub fn sync(&mut self) -> Result<(), JournalError> {
        if self.unsynced {
            self.file.sync_data().map_err(JournalError::io("sync", &self.path))?;
            self.unsynced = false;
        }
        Ok(())
    }

    /// The segment's file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes back a frame that was written in part. Where that fails too, the reader finds the gap.
    fn cut(&mut self) {
        if self.file.set_len(self.length).is_ok() {
            let _ = self.file.seek(SeekFrom::Start(self.length));
        }
    }
}
