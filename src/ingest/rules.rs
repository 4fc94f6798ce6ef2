//! Whether the rules of privacy fit what the archive holds.
//!
//! An archive notes which key its pseudonyms are made with. A command that forgot its config would write beside them
//! what they hide, and one with another key would break every join with what is there. The first is refused; the second
//! may be meant, and is told once.

use crate::archive::KeyMark;
use crate::clock::Timestamp;

use super::{Ingest, IngestError};

impl Ingest {
    /// Holds what may be written against what the archive knows of its pseudonyms, and notes a new key: returns the one
    /// before it, where there was another. To be called before the first answer is taken in.
    ///
    /// # Errors
    /// [`IngestError::Unruled`] where there are pseudonyms and nobody said what may be written; or where the archive's
    /// description cannot be read or written.
    pub fn heed_pseudonyms(&self, now: Timestamp) -> Result<Option<KeyMark>, IngestError> {
        let archive = self.archive();
        let Some(mark) = self.policy().key_mark() else {
            let is_plain = self.policy().is_said() || archive.pseudonym_keys()?.is_empty();
            return if is_plain { Ok(None) } else { Err(IngestError::Unruled(archive.root().to_owned())) };
        };
        let shard = self.locks().first().map_or(0, |lock| lock.shard);
        Ok(archive.note_pseudonym_key(shard, &mark, now)?)
    }
}
