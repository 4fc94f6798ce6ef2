//! Whether the collecting goes on as it should.
//!
//! [`Status::read`] reads what the archive says of the last days, [`examine()`] asks the API itself, and looks at what a
//! collector needs on this machine. Both end in [`Check`]s: what was found, how bad it is, and what to do. Nothing here
//! changes anything but that it tries whether a bucket can be written to.

mod collectors;
mod examine;
mod status;

use serde::Serialize;

pub use examine::{examine, examine_place};
pub use status::{SilentShard, Status, StatusOptions, Sweep, known_until};

/// Less free than this is soon used up, in bytes.
const LEAST_ROOM: u64 = 1 << 30;

/// Something that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What.
    pub name: String,
    /// How bad it is.
    pub level: Level,
    /// What was found, for people.
    pub found: String,
    /// What to do about it; empty where nothing is to be done.
    pub remedy: String,
}

/// How bad something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Fine,
    /// Good to know.
    Note,
    /// Somebody should do something.
    Poor,
}

impl Level {
    /// The word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fine => "ok",
            Self::Note => "note",
            Self::Poor => "poor",
        }
    }
}

impl Check {
    /// Something that is as it should be.
    #[must_use]
    pub fn fine(name: &str, found: impl Into<String>) -> Self {
        Self { name: name.to_owned(), level: Level::Fine, found: found.into(), remedy: String::new() }
    }

    fn note(name: &str, found: impl Into<String>, remedy: &str) -> Self {
        Self { level: Level::Note, remedy: remedy.to_owned(), ..Self::fine(name, found) }
    }

    /// Something that has to be mended.
    #[must_use]
    pub fn poor(name: &str, found: impl Into<String>, remedy: &str) -> Self {
        Self { level: Level::Poor, remedy: remedy.to_owned(), ..Self::fine(name, found) }
    }

    /// This check, of one of several accounts.
    #[must_use]
    pub fn of(self, account: &str) -> Self {
        Self { name: format!("{}, {account}", self.name), ..self }
    }
}
