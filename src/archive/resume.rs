//! Where the next process goes on with a sweep that an earlier one did not finish: a note for each account, beside the
//! journal. The collector makes and reads it.

use std::fs;

use super::{Archive, ArchiveError, paths};

impl Archive {
    /// Where the next pass over an account goes on, as [`Archive::keep_resume`] noted it; none where it begins anew.
    #[must_use]
    pub fn resume(&self, shard: u32, account: &str) -> Option<String> {
        fs::read_to_string(paths::resume(&self.own, shard, account)).ok()
    }

    /// Notes where the next pass over an account goes on.
    ///
    /// # Errors
    /// Where the file system says no.
    pub fn keep_resume(&self, shard: u32, account: &str, note: Option<&str>) -> Result<(), ArchiveError> {
        let path = paths::resume(&self.own, shard, account);
        match note {
            Some(note) => {
                self.disk.make_dirs(path.parent().unwrap_or(&self.own))?;
                self.write_durably(shard, &path, note.as_bytes())
            }
            None if path.exists() => Ok(self.disk.remove(&path)?),
            None => Ok(()),
        }
    }

    /// Removes what is noted of an account, also for shards that there are no more.
    ///
    /// # Errors
    /// Where the file system says no.
    pub fn forget_resumes(&self, account: &str) -> Result<(), ArchiveError> {
        let dir = paths::resumes(&self.own);
        for name in paths::names(&dir)? {
            if name.strip_prefix(account).is_some_and(|rest| rest.starts_with(".shard-")) {
                self.disk.remove(&dir.join(name))?;
            }
        }
        Ok(())
    }
}
