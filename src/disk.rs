//! Every change on the disk: made in one place, with one set of rights, and told in one way when it fails. What else is
//! asked of a file system stands here too: how much room there is, whose a file is, and who may write.
//!
//! The journal and the archive write through a [`Disk`]. Tests put a [`Watch`] between it and the file
//! system, which sees each change to an archive before it is made, and may refuse it. Locks, and files that somebody named
//! for an answer, are made past it.
//!
//! What is changed in which order, and what has to be durable before what, is the callers' business;
//! so is reading.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use serde::Deserialize;

/// Where files are made and changed.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    access: Access,
    watch: Option<Arc<dyn Watch>>,
}

/// Who may read what is made, as far as the process's umask lets them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// The owner alone: 0600 and 0700.
    #[default]
    Owner,
    /// The owner's group too: 0640 and 0750.
    Group,
    /// Everybody: 0644 and 0755.
    All,
}

/// Sees every change before it is made.
pub trait Watch: fmt::Debug + Send + Sync {
    /// Called before a change; an error keeps it from being made, as if the file system had said so.
    ///
    /// # Errors
    /// What the file system is to have said.
    fn before(&self, change: &Change<'_>) -> io::Result<()>;
}

/// A change that is about to be made.
#[derive(Debug, Clone, Copy)]
pub enum Change<'a> {
    /// A folder is made.
    MakeDir(&'a Path),
    /// An empty file is made.
    Create(&'a Path),
    /// Bytes are written into a file at a position.
    Write {
        /// The file.
        path: &'a Path,
        /// The position of the first byte.
        at: u64,
        /// The bytes.
        bytes: &'a [u8],
    },
    /// A file is cut to a length.
    Cut(&'a Path, u64),
    /// A file's content is made durable.
    Sync(&'a Path),
    /// The names in a folder are made durable.
    SyncDir(&'a Path),
    /// A file or folder gets another name.
    Rename(&'a Path, &'a Path),
    /// Two folders take each other's place.
    Exchange(&'a Path, &'a Path),
    /// A file gets a second name.
    Link(&'a Path, &'a Path),
    /// A file is removed.
    Remove(&'a Path),
    /// An empty folder is removed.
    RemoveDir(&'a Path),
}

/// The file system said no.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {error}{}", path.display(), hint(error, *free))]
pub struct DiskError {
    /// What was tried.
    pub action: &'static str,
    /// The file or folder.
    pub path: PathBuf,
    /// What it said.
    pub error: io::Error,
    /// Bytes that are free there, where it said that there is no room.
    pub free: Option<u64>,
}

/// A file that is being written.
#[derive(Debug)]
pub struct DiskFile {
    disk: Disk,
    path: PathBuf,
    file: File,
    at: u64,
}

impl Disk {
    /// A disk on which everything is made with these rights.
    #[must_use]
    pub fn new(access: Access) -> Self {
        Self { access, watch: None }
    }

    /// This disk under watch.
    #[must_use]
    pub fn watched(self, watch: Arc<dyn Watch>) -> Self {
        Self { watch: Some(watch), ..self }
    }

    /// Makes a folder and those above it, durable with their names.
    ///
    /// # Errors
    /// Where the file system says no.
    pub fn make_dirs(&self, dir: &Path) -> Result<(), DiskError> {
        if dir.is_dir() {
            return Ok(());
        }
        let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
        parent.map_or(Ok(()), |parent| self.make_dirs(parent))?;
        let mut builder = DirBuilder::new();
        builder.mode(self.access.modes().1);
        match self.seen(Change::MakeDir(dir)).and_then(|()| builder.create(dir)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(DiskError::new("make", dir, error));
            }
            _ => (),
        }
        // A process that was killed may have made the folder above, and not have made its name durable.
        // Where it is somebody else's, and may not even be read, it was not we who made what is in it.
        let above = parent.and_then(Path::parent).filter(|path| !path.as_os_str().is_empty());
        let _ = self.sync_dir(above.unwrap_or(Path::new(".")));
        self.sync_dir(parent.unwrap_or(Path::new(".")))
    }

    /// Makes the names in a folder durable.
    ///
    /// # Errors
    /// Where the file system says no.
    pub fn sync_dir(&self, dir: &Path) -> Result<(), DiskError> {
        let synced = self.seen(Change::SyncDir(dir)).and_then(|()| File::open(dir)?.sync_all());
        synced.map_err(DiskError::of("sync", dir))
    }

    /// Makes a file that is not there yet.
    ///
    /// # Errors
    /// Where it is there, or the file system says no.
    pub fn create(&self, path: &Path) -> Result<DiskFile, DiskError> {
        let made = self.seen(Change::Create(path)).and_then(|()| self.options().create_new(true).open(path));
        let file = made.map_err(DiskError::of("make", path))?;
        Ok(DiskFile { disk: self.clone(), path: path.to_owned(), file, at: 0 })
    }

    /// Opens a file to lock it; makes it where it is not there.
    ///
    /// # Errors
    /// Where the file system says no.
    pub fn open_lock(&self, path: &Path) -> Result<File, DiskError> {
        self.options().create(true).truncate(false).open(path).map_err(DiskError::of("open", path))
    }

    /// Gives a file or folder another name, in place of what has it. Its callers sync the folders.
    ///
    /// # Errors
    /// Where the file system says no.
    #[expect(clippy::disallowed_methods, reason = "the one place that renames")]
    pub fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        let renamed = self.seen(Change::Rename(from, to)).and_then(|()| fs::rename(from, to));
        renamed.map_err(DiskError::of("rename to", to))
    }

    /// Lets two folders take each other's place at once; false where this file system cannot.
    ///
    /// # Errors
    /// Where it could, and says no.
    pub fn exchange(&self, a: &Path, b: &Path) -> Result<bool, DiskError> {
        let exchanged = self.seen(Change::Exchange(a, b));
        let exchanged = exchanged.and_then(|()| Ok(renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE)?));
        match exchanged {
            Ok(()) => Ok(true),
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => Ok(false),
                _ => Err(DiskError::new("exchange", b, error)),
            },
        }
    }

    /// Gives a file a second name.
    ///
    /// # Errors
    /// Where the file system says no.
    pub fn link(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        let linked = self.seen(Change::Link(from, to)).and_then(|()| fs::hard_link(from, to));
        linked.map_err(DiskError::of("link", from))
    }

    /// Removes a file.
    ///
    /// # Errors
    /// Where the file system says no.
    pub fn remove(&self, path: &Path) -> Result<(), DiskError> {
        let removed = self.seen(Change::Remove(path)).and_then(|()| fs::remove_file(path));
        removed.map_err(DiskError::of("remove", path))
    }

    /// Removes a folder; false where it is not empty.
    ///
    /// # Errors
    /// Where the file system says no.
    pub fn remove_dir(&self, path: &Path) -> Result<bool, DiskError> {
        match self.seen(Change::RemoveDir(path)).and_then(|()| fs::remove_dir(path)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(false),
            Err(error) => Err(DiskError::new("remove", path, error)),
        }
    }

    fn seen(&self, change: Change<'_>) -> io::Result<()> {
        self.watch.as_ref().map_or(Ok(()), |watch| watch.before(&change))
    }

    fn options(&self) -> OpenOptions {
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(self.access.modes().0);
        options
    }
}

impl DiskFile {
    /// The file's name.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes before the place where the next one is written.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.at
    }

    /// Makes the content durable.
    ///
    /// # Errors
    /// Where the file system says no; what was written since the last time may then be lost, and
    /// syncing again would not tell.
    pub fn sync(&self) -> Result<(), DiskError> {
        let synced = self.disk.seen(Change::Sync(&self.path)).and_then(|()| self.file.sync_all());
        synced.map_err(DiskError::of("sync", &self.path))
    }

    /// The open file, for reading.
    #[must_use]
    pub fn into_file(self) -> File {
        self.file
    }

    /// Cuts the file to a length, which is where the next byte is then written.
    ///
    /// # Errors
    /// Where the file system says no.
    pub fn cut(&mut self, length: u64) -> Result<(), DiskError> {
        let cut = self.disk.seen(Change::Cut(&self.path, length)).and_then(|()| self.file.set_len(length));
        cut.and_then(|()| self.seek(length)).map_err(DiskError::of("cut", &self.path))
    }

    /// Writes the next bytes at `position`.
    fn seek(&mut self, position: u64) -> io::Result<()> {
        self.at = self.file.seek(SeekFrom::Start(position))?;
        Ok(())
    }
}

impl Write for DiskFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.disk.seen(Change::Write { path: &self.path, at: self.at, bytes })?;
        let written = self.file.write(bytes)?;
        self.at += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl DiskError {
    /// The error of an action on a file or folder.
    #[must_use]
    pub fn new(action: &'static str, path: &Path, error: io::Error) -> Self {
        let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        let free = full.then(|| free_bytes(path)).flatten();
        Self { action, path: path.to_owned(), error, free }
    }

    /// What makes such an error of one that is still to come.
    pub fn of(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::new(action, path, error)
    }
}

impl Access {
    /// The modes of files and of folders.
    fn modes(self) -> (u32, u32) {
        match self {
            Self::Owner => (0o600, 0o700),
            Self::Group => (0o640, 0o750),
            Self::All => (0o644, 0o755),
        }
    }
}

/// Whether this user may make files in a folder, or the folder itself where it is still to be made.
#[must_use]
pub fn is_writable(dir: &Path) -> bool {
    let existing = existing(dir);
    let wanted = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    existing.is_dir() && rustix::fs::access(existing, wanted).is_ok()
}

/// The user to whom a folder belongs, where this process is root's and that is somebody else, who could not change what
/// root leaves there. None on a volume on which every file belongs to one user, whoever makes it.
#[must_use]
pub fn owner_beside_root(dir: &Path) -> Option<u32> {
    let owner = fs::metadata(dir).ok()?.uid();
    let is_other = owner != 0 && rustix::process::geteuid().is_root();
    (is_other && made_in(dir).is_none_or(|made| made != owner)).then_some(owner)
}

/// To whom a file belongs that is made in a folder.
fn made_in(dir: &Path) -> Option<u32> {
    let probe = dir.join(format!(".owner-{}", std::process::id()));
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&probe).ok()?.metadata().ok();
    let _ = fs::remove_file(&probe);
    Some(made?.uid())
}

/// Whether a file is this user's, and of a group that a new one would have.
#[must_use]
pub fn is_own(file: &fs::Metadata) -> bool {
    file.uid() == rustix::process::geteuid().as_raw() && file.gid() == rustix::process::getegid().as_raw()
}

/// What there is of a path.
fn existing(path: &Path) -> &Path {
    let found = path.ancestors().find(|path| path.exists());
    found.unwrap_or(if path.is_absolute() { Path::new("/") } else { Path::new(".") })
}

/// Bytes that the process may still use on the file system that holds a path.
#[must_use]
pub fn free_bytes(path: &Path) -> Option<u64> {
    let there = rustix::fs::statvfs(existing(path)).ok()?;
    Some(there.f_bavail.saturating_mul(there.f_frsize))
}

fn hint(error: &io::Error, free: Option<u64>) -> String {
    match free {
        Some(bytes) => format!("; {} kB are free there", bytes / 1_000),
        None if error.kind() == io::ErrorKind::CrossesDevices => {
            "; all that is below an archive has to be on one file system: move, or mount, the archive as a whole"
                .to_owned()
        }
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[derive(Debug)]
    struct Full;

    impl Watch for Full {
        fn before(&self, _change: &Change<'_>) -> io::Result<()> {
            Err(io::ErrorKind::StorageFull.into())
        }
    }

    #[test]
    fn what_is_made_is_the_owners_alone_unless_said_otherwise() {
        for (access, file_mode, dir_mode) in [(Access::Owner, 0o600, 0o700), (Access::Group, 0o640, 0o750)] {
            let dir = tempfile::tempdir().expect("a folder");
            let disk = Disk::new(access);
            disk.make_dirs(&dir.path().join("a/b")).expect("a folder");
            disk.create(&dir.path().join("a/b/c")).expect("a file");
            disk.open_lock(&dir.path().join("a/b/lock")).expect("a file");
            let mode = |path: &str| fs::metadata(dir.path().join(path)).expect("there").permissions().mode() & 0o777;
            assert_eq!([mode("a"), mode("a/b")], [dir_mode; 2]);
            assert_eq!([mode("a/b/c"), mode("a/b/lock")], [file_mode; 2]);
        }
    }

    #[test]
    fn a_refused_change_is_not_made_and_says_what_is_free() {
        let dir = tempfile::tempdir().expect("a folder");
        let disk = Disk::default().watched(Arc::new(Full));
        let path = dir.path().join("a");
        let said = disk.create(&path).expect_err("refused").to_string();
        assert!(said.starts_with(&format!("cannot make {}: ", path.display())), "{said}");
        assert!(said.ends_with(" kB are free there"), "{said}");
        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_is_cut_goes_on_there() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("a");
        let mut file = Disk::default().create(&path).expect("a file");
        file.write_all(b"one two").expect("room");
        file.cut(4).expect("a file");
        file.write_all(b"three").expect("room");
        file.sync().expect("a disk");
        assert_eq!(fs::read(&path).expect("a file"), b"one three");
    }
}
