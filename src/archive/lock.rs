//! One writer per shard, and one publish at a time: locks of the operating system, which die with
//! their holder.

use std::fs::{File, TryLockError};
use std::io::{Read, Write};
use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::disk;

use super::{Archive, ArchiveError, paths};

/// Whose rows a writer writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shards {
    /// Everybody's.
    All,
    /// Those of the devices that fall into a shard.
    One(u32),
}

/// The right to write to a shard, for as long as it lives.
#[derive(Debug)]
pub struct ShardLock {
    /// Holds the lock; closing the file gives it up.
    _file: File,
    /// The shard.
    pub shard: u32,
}

impl Archive {
    /// Takes the right to write to a shard. `holder` is what another one who tries is told.
    ///
    /// # Errors
    /// [`ArchiveError::Locked`] where somebody has it, and not only [looks](Archive::holder).
    pub fn lock(&self, shard: u32, holder: &str) -> Result<ShardLock, ArchiveError> {
        let path = paths::shard_lock(&self.own, shard);
        let mut file = self.open_lock(&path)?;
        match lock_unless_held(&file) {
            Ok(()) => (),
            Err(TryLockError::WouldBlock) => {
                return Err(ArchiveError::Locked { path: self.root.clone(), holder: read_holder(file) });
            }
            Err(TryLockError::Error(error)) => return Err(ArchiveError::io("lock", &path)(error)),
        }
        // Who has it is for people to know. A full disk keeps nobody from what may make room.
        let _ = file.set_len(0).and_then(|()| file.write_all(holder.as_bytes()));
        Ok(ShardLock { _file: file, shard })
    }

    /// Takes the right to write to shards.
    ///
    /// # Errors
    /// [`ArchiveError::Locked`] where somebody has one of them; [`ArchiveError::NoShard`] where there is none;
    /// [`ArchiveError::NotOwner`] where root would write to what is another user's; [`ArchiveError::Resharded`] or
    /// [`ArchiveError::Resharding`] where the archive has, or gets, other shards than when it was opened.
    pub fn lock_shards(&self, shards: Shards, holder: &str) -> Result<Vec<ShardLock>, ArchiveError> {
        self.check_owner()?;
        let wanted = match shards {
            Shards::All => 0..self.shards,
            Shards::One(shard) if shard < self.shards => shard..shard + 1,
            Shards::One(shard) => {
                return Err(ArchiveError::NoShard { path: self.root.clone(), shard, shards: self.shards });
            }
        };
        self.store.claim(self)?;
        let locks = wanted.map(|shard| self.lock(shard, holder)).collect::<Result<Vec<_>, _>>()?;
        // Whoever had them until now may have filed all days into other shards. In a bucket each publish sees to that.
        match self.is_on_disk().then(|| self.check_shards()) {
            Some(Err(error @ (ArchiveError::Resharded { .. } | ArchiveError::Resharding { .. }))) => Err(error),
            _ => Ok(locks),
        }
    }

    /// Who has the right to write to a shard; none where nobody has. For the moment of the look nobody can take it:
    /// [`Archive::lock`] tries again.
    ///
    /// # Errors
    /// Where the lock cannot be read.
    pub fn holder(&self, shard: u32) -> Result<Option<String>, ArchiveError> {
        let path = paths::shard_lock(&self.own, shard);
        let file = match File::open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(ArchiveError::io("open", &path))?,
        };
        // Others may look at the same time.
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => Ok(Some(read_holder(file))),
            _ => Ok(None),
        }
    }

    /// That whoever has written here can change what is written now. A day is written anew as a whole: to one that root
    /// has written, no collector of another user's could add anything.
    pub(super) fn check_owner(&self) -> Result<(), ArchiveError> {
        let path = if self.is_on_disk() { &self.root } else { &self.own };
        // Of an archive that is still to be made there may be the folder around it.
        let there = if self.own.exists() { &self.own } else { path };
        match disk::owner_beside_root(there) {
            Some(owner) => Err(ArchiveError::NotOwner { path: path.clone(), owner }),
            None => Ok(()),
        }
    }

    /// Waits for the right to publish; given up when the file is dropped.
    pub(super) fn lock_publish(&self) -> Result<File, ArchiveError> {
        let path = paths::publish_lock(&self.own);
        let file = self.open_lock(&path)?;
        file.lock().map_err(ArchiveError::io("lock", &path))?;
        Ok(file)
    }

    fn open_lock(&self, path: &Path) -> Result<File, ArchiveError> {
        self.disk.make_dirs(path.parent().unwrap_or(&self.own))?;
        Ok(self.disk.open_lock(path)?)
    }
}

/// So often a lock is tried, with a pause in between.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(20);

/// Takes a lock, unless it is held for longer than a look takes.
#[expect(clippy::disallowed_methods, reason = "nothing is done yet, and it takes a fifth of a second at most")]
fn lock_unless_held(file: &File) -> Result<(), TryLockError> {
    for _ in 1..TRIES {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => thread::sleep(PAUSE),
            tried => return tried,
        }
    }
    file.try_lock()
}

/// What the holder says of itself: one short line, whatever the file holds.
fn read_holder(file: File) -> String {
    let mut bytes = Vec::new();
    let read = file.take(200).read_to_end(&mut bytes);
    let said: String = String::from_utf8_lossy(&bytes).chars().filter(|letter| !letter.is_control()).collect();
    if read.is_err() || said.is_empty() { "another process".to_owned() } else { said }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::disk::Disk;

    #[test]
    fn the_second_is_told_who_has_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let now = clock::parse_timestamp("2026-11-24T07:40:51Z").expect("a timestamp");
        let archive = Archive::open_or_create(&dir.path().join("a"), 2, now, Disk::default()).expect("an archive");
        let first = archive.lock(0, "collect, process 17").expect("the lock");
        let said = archive.lock(0, "other").expect_err("locked").to_string();
        assert!(said.ends_with("is in use by collect, process 17: wait for it, or stop it"), "{said}");
        archive.lock(1, "other").expect("another shard is free");
        assert_eq!(archive.holder(0).expect("a lock").as_deref(), Some("collect, process 17"));
        assert_eq!(archive.holder(1).expect("a lock"), None);
        drop(first);
        archive.lock(0, "other").expect("the lock is free again");
    }

    #[test]
    fn who_knows_of_other_shards_gets_no_lock() {
        let dir = tempfile::tempdir().expect("a folder");
        let now = clock::parse_timestamp("2026-11-24T07:40:51Z").expect("a timestamp");
        let late = Archive::open_or_create(&dir.path().join("a"), 1, now, Disk::default()).expect("an archive");
        let archive = late.clone();
        let locks = archive.lock_shards(Shards::All, "reshard").expect("the lock");
        let archive = archive.begin_resharding(2, now).expect("room");
        drop(locks);
        assert!(matches!(late.lock_shards(Shards::All, "late"), Err(ArchiveError::Resharding { .. })));
        let archive = archive.end_resharding(now).expect("room");
        assert!(matches!(late.lock_shards(Shards::All, "late"), Err(ArchiveError::Resharded { .. })));
        archive.lock_shards(Shards::All, "another").expect("both locks");
    }

    #[test]
    fn who_only_looks_keeps_nobody_from_writing() {
        let dir = tempfile::tempdir().expect("a folder");
        let now = clock::parse_timestamp("2026-11-24T07:40:51Z").expect("a timestamp");
        let archive = Archive::open_or_create(&dir.path().join("a"), 1, now, Disk::default()).expect("an archive");
        drop(archive.lock(0, "collect, process 17").expect("the lock"));
        // As `holder` does, and for longer.
        let look = File::open(paths::shard_lock(&archive.own, 0)).expect("the lock's file");
        look.try_lock_shared().expect("nobody has it");
        assert_eq!(archive.holder(0).expect("a lock"), None, "another look is no holder");
        let looking = thread::spawn(move || {
            thread::park_timeout(PAUSE);
            drop(look);
        });
        // On a busy machine the look may take longer.
        let taken = (0..10).find_map(|_| archive.lock(0, "other").ok());
        assert!(taken.is_some(), "it is looked at, and not held");
        looking.join().expect("no panic");
    }

    #[test]
    fn root_is_kept_from_what_is_another_users() {
        let dir = tempfile::tempdir().expect("a folder");
        let now = clock::parse_timestamp("2026-11-24T07:40:51Z").expect("a timestamp");
        let root = dir.path().join("a");
        let archive = Archive::open_or_create(&root, 1, now, Disk::default()).expect("an archive");
        // Nobody but root can give a folder away, and nobody but root is kept from anything.
        if std::os::unix::fs::chown(archive.state_dir(), Some(4_242), None).is_err() {
            return;
        }
        let said = archive.lock_shards(Shards::All, "other").expect_err("another's").to_string();
        let expected = format!("{} belongs to user 4242, who could not change what root writes", root.display());
        assert!(said.starts_with(&expected), "{said}");
        std::os::unix::fs::chown(archive.state_dir(), Some(0), None).expect("it is root's");
        archive.lock_shards(Shards::All, "other").expect("the lock");
        // A folder that was made for the collector, and holds no archive yet.
        let empty = dir.path().join("b");
        Disk::default().make_dirs(&empty).expect("a folder");
        std::os::unix::fs::chown(&empty, Some(4_242), None).expect("it is root's");
        let refused = Archive::open_or_create(&empty, 1, now, Disk::default());
        assert!(matches!(refused, Err(ArchiveError::NotOwner { owner: 4_242, .. })), "{refused:?}");
    }
}
