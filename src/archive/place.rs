//! Where an archive is: a folder, or a place in a bucket and a folder for what has to be on a local disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::folder::Folder;
use super::object::Objects;
use super::store::Store;
use super::{ArchiveError, OWN_FOLDER};
use crate::bucket::Bucket;

/// The folder for journal, staging, quarantine and locks of an archive in a bucket, where nothing else is said.
const DEFAULT_STATE: &str = "./dex-archive-state";

/// Where an archive is, or is to be.
#[derive(Debug, Clone)]
pub struct Place {
    root: PathBuf,
    own: PathBuf,
    bucket: Option<Bucket>,
}

impl Place {
    /// A folder by its path, or a place in a bucket by its address. What of an archive in a bucket has to be on a
    /// local disk is in `state`; a folder has that in itself.
    ///
    /// # Errors
    /// Where it is no such address, the environment does not say how it is reached, or a folder is to have its state
    /// elsewhere.
    pub fn new(root: &Path, state: Option<&Path>) -> Result<Self, ArchiveError> {
        match (root.to_str().filter(|text| Bucket::is_url(text)), state) {
            (Some(url), state) => {
                let bucket = Bucket::open(url)?;
                Ok(Self::in_bucket(bucket, state.unwrap_or(Path::new(DEFAULT_STATE))))
            }
            (None, None) => Ok(root.into()),
            (None, Some(_)) => Err(ArchiveError::StateElsewhere(root.to_owned())),
        }
    }

    /// A place in a bucket.
    #[must_use]
    pub fn in_bucket(bucket: Bucket, state: &Path) -> Self {
        Self { root: bucket.url().into(), own: state.to_owned(), bucket: Some(bucket) }
    }

    /// The folder, or the address.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The root, whatever the working folder is.
    ///
    /// # Errors
    /// Where there is no working folder.
    pub fn absolute(&self) -> std::io::Result<PathBuf> {
        if self.bucket.is_some() { Ok(self.root.clone()) } else { std::path::absolute(&self.root) }
    }

    /// Whether it is in a bucket.
    #[must_use]
    pub fn is_in_bucket(&self) -> bool {
        self.bucket.is_some()
    }

    /// The folder for what is always on a local disk.
    #[must_use]
    pub fn state_dir(&self) -> &Path {
        &self.own
    }

    /// Where the writer's room is: the folder of the archive itself, or that of the state.
    #[must_use]
    pub fn disk(&self) -> &Path {
        if self.bucket.is_some() { &self.own } else { &self.root }
    }

    pub(super) fn store(&self) -> Arc<dyn Store> {
        match &self.bucket {
            Some(bucket) => Arc::new(Objects::new(&self.root, bucket.clone())),
            None => Arc::new(Folder::new(&self.root)),
        }
    }
}

impl From<&Path> for Place {
    /// A folder.
    fn from(root: &Path) -> Self {
        Self { root: root.to_owned(), own: root.join(OWN_FOLDER), bucket: None }
    }
}

impl From<&PathBuf> for Place {
    fn from(root: &PathBuf) -> Self {
        root.as_path().into()
    }
}

impl From<&Self> for Place {
    fn from(place: &Self) -> Self {
        place.clone()
    }
}
