//! The segment that is being written.

use std::io::{self, Write};
use std::path::Path;

use crate::disk::{Disk, DiskError, DiskFile};
use crate::snapshot::Answer;

use super::{JOURNAL_FORMAT, JournalError, MAGIC, SEGMENT_HEADER, frame, segment_name};

/// An open segment. Dropping it closes the file; what was not synced is then up to the system.
#[derive(Debug)]
pub struct Writer {
    file: DiskFile,
    unsynced: bool,
    buffer: Vec<u8>,
}

impl Writer {
    /// Makes a new segment in `dir`, durable with its name.
    ///
    /// # Errors
    /// Where the file system says no, or there is a segment of this number.
    pub fn create(disk: &Disk, dir: &Path, sequence: u64) -> Result<Self, JournalError> {
        let path = dir.join(segment_name(sequence));
        let file = disk.create(&path)?;
        let begun = Self { file, unsynced: false, buffer: Vec::new() }.begin(disk, dir);
        if begun.is_err() {
            // One for each try would be left on a full disk.
            let _ = disk.remove(&path);
        }
        begun
    }

    fn begin(mut self, disk: &Disk, dir: &Path) -> Result<Self, JournalError> {
        let header = [MAGIC.as_slice(), &JOURNAL_FORMAT.to_le_bytes()].concat();
        self.file.write_all(&header).map_err(DiskError::of("write", self.file.path()))?;
        self.file.sync()?;
        disk.sync_dir(dir)?;
        Ok(self)
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
        let end = self.file.position();
        if let Err(error) = encoded.and_then(|()| self.file.write_all(&self.buffer)) {
            // Where the part of the frame that was written stays, the reader finds a gap.
            let _ = self.file.cut(end);
            return Err(DiskError::new("write", self.file.path(), error).into());
        }
        self.unsynced = true;
        Ok(())
    }

    /// Makes what was written durable.
    ///
    /// # Errors
    /// Where the file system says no.
    pub fn sync(&mut self) -> Result<(), JournalError> {
        if self.unsynced {
            self.file.sync()?;
            self.unsynced = false;
        }
        Ok(())
    }

    /// Whether no answer was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.file.position() <= SEGMENT_HEADER as u64
    }

    /// The segment's file.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.file.path()
    }
}
