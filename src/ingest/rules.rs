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
        let shard = self.locks().first().map_or(0, |lock| lock.shard);
        let is_known = self.is_key_known()?;
        match self.policy().key_mark() {
            Some(mark) if !is_known => Ok(self.archive().note_pseudonym_key(shard, &mark, now)?),
            _ => Ok(None),
        }
    }

    /// Holds what may be written against what was known of the pseudonyms when the archive was opened: whether they go on
    /// with a key that was noted, or there is none.
    ///
    /// # Errors
    /// [`IngestError::Unruled`] as above.
    pub fn is_key_known(&self) -> Result<bool, IngestError> {
        let (policy, known) = (self.policy(), self.archive().pseudonym_keys());
        match policy.key_mark() {
            Some(mark) => Ok(known.iter().any(|key| key.mark == mark)),
            None if policy.is_said() || known.is_empty() => Ok(true),
            None => Err(IngestError::Unruled(self.archive().root().to_owned())),
        }
    }
}
