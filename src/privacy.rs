//! What personal data the archive may hold, decided before anything is written.
//!
//! A [`Policy`] is what the config's `[privacy]` says, compiled for a schema. It rewrites an [`Answer`]
//! before that is journalled: values at the paths of the table are dropped or replaced by a pseudonym,
//! and all else stays byte for byte. Whoever journals goes through the ingest, which holds the policy, so
//! nothing gets around it.
//!
//! A pseudonym is a keyed hash of the value alone. The same value has the same pseudonym in every column
//! and at all times, so rows still join; without the key nobody can tell which value it stands for, nor
//! try out values.
//!
//! # Treated, and how far
//!
//! * What counts as a key, and which of two values counts, is the business of [`flatten`](crate::flatten): every value
//!   that it could file in a treated column, or keep aside from there, is treated. A key that stands
//!   twice is treated twice, however its letters are written.
//! * A value that is no text has no pseudonym. At such a place it becomes `null`, as does whatever
//!   stands where an object with treated columns should be.
//! * With `unknown = "drop"` nothing is left that would be kept aside: `unmapped` stays empty.
//! * A body that is no device state has no paths to go by. It is replaced by a sentence with its length.
//! * Why a request failed is cut to our own words: those of the API may name anybody.
//!
//! # Deliberately not done
//!
//! What was journalled or published before a rule was set stays as it was written. Nothing is guessed
//! from what a value looks like. Neither the account nor the name of an imported file is hidden. No key
//! is made or kept: with another key, the same value has another pseudonym. That a key has changed is told by its
//! [mark](Policy::key_mark), which the archive notes.

mod compile;
mod key;
mod rewrite;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;

use crate::schema::{Kind, Schema};
use crate::snapshot::{Answer, Body, Poll};

use compile::Tree;

pub use key::{Key, KeyError, is_pseudonym};

/// What is done to the values of an answer. A clone shares what was compiled.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    key: Option<Key>,
    /// Whether there are rules, if only that nothing changes.
    is_said: bool,
    /// None where no rule changes anything.
    active: Option<Arc<Active>>,
}

/// `[privacy]`: what is done to which columns.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// A file that holds the key of the pseudonyms; whoever reads the config reads it.
    pub key_file: Option<PathBuf>,
    /// What is done to values that no column holds.
    #[serde(default)]
    pub unknown: Unknown,
    /// What is done to the columns of a class of personal data.
    #[serde(default)]
    pub classes: BTreeMap<String, Action>,
    /// What is done to single columns; beats the class.
    #[serde(default)]
    pub columns: BTreeMap<String, Action>,
}

/// What is done to a value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It stays.
    #[default]
    Keep,
    /// It goes, with its key.
    Drop,
    /// A pseudonym takes its place.
    Pseudonym,
}

/// What is done to values that no column holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unknown {
    /// They stay, in `unmapped`.
    #[default]
    Keep,
    /// They go: they may be personal.
    Drop,
}

/// Why rules make no policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrivacyError {
    /// No column has the class.
    #[error("[privacy.classes] {name:?} is no class of personal data{}: there are {}", meant(.near.as_deref()), .classes.join(", "))]
    Class {
        /// What was written.
        name: String,
        /// What may have been meant.
        near: Option<String>,
        /// All there are.
        classes: Vec<&'static str>,
    },
    /// There is no such column.
    #[error("[privacy.columns] {name:?} is no column{}: `dex-archive schema` lists them", meant(.near.as_deref()))]
    Column {
        /// What was written.
        name: String,
        /// What may have been meant.
        near: Option<String>,
    },
    /// The archive itself writes the column.
    #[error("[privacy] {column:?} is written by the archive itself: it can only be kept")]
    Own {
        /// The column.
        column: String,
    },
    /// Without the column rows cannot be told apart.
    #[error("[privacy] {column:?} is part of what a row is known by: it can be kept{}, not dropped", if *.is_text { " or be a pseudonym" } else { "" })]
    Needed {
        /// The column.
        column: String,
        /// Whether it could be a pseudonym.
        is_text: bool,
    },
    /// The column is no text.
    #[error("[privacy] {column:?} is of type {}: only text can be a pseudonym, this can be kept or dropped", .kind.name())]
    NoText {
        /// The column, or a member of its structs.
        column: String,
        /// What it is instead.
        kind: Kind,
    },
    /// There is no key.
    #[error(
        "[privacy] {column:?} is to be a pseudonym, but there is no key: name it with key_file, or set DEX_ARCHIVE_PRIVACY_KEY"
    )]
    NoKey {
        /// A column that wants one.
        column: String,
    },
}

/// Rules that change something.
#[derive(Debug)]
struct Active {
    tree: Tree,
    unknown: Unknown,
    key: Option<Key>,
    /// Name and action of each column that does not stay as it is.
    treated: Vec<(String, Action)>,
    /// What is done to the device of a request.
    device: Action,
}

impl Rules {
    /// Whether there are none.
    fn change_nothing(&self) -> bool {
        self.unknown == Unknown::Keep && self.classes.is_empty() && self.columns.is_empty()
    }
}

impl Policy {
    /// Compiles rules for the states of a schema.
    ///
    /// # Errors
    /// Says which rule cannot be kept to, and why.
    pub fn new(states: &Schema, rules: &Rules, key: Option<Key>) -> Result<Self, PrivacyError> {
        if rules.change_nothing() {
            return Ok(Self { key, is_said: true, active: None });
        }
        let (tree, treated) = compile::compile(states, rules)?;
        if let (None, Some((column, _))) = (&key, treated.iter().find(|(_, action)| *action == Action::Pseudonym)) {
            return Err(PrivacyError::NoKey { column: column.clone() });
        }
        let is_active = rules.unknown == Unknown::Drop || !treated.is_empty();
        let device = states.device().map(|at| &states.columns[at].name);
        let device = treated.iter().find(|(name, _)| Some(name) == device).map_or(Action::Keep, |(_, action)| *action);
        let active = Active { tree, unknown: rules.unknown, key: key.clone(), treated, device };
        Ok(Self { key, is_said: true, active: is_active.then(|| Arc::new(active)) })
    }

    /// What holds where nobody said anything: everything is kept. A key serves to find pseudonyms that are there.
    #[must_use]
    pub fn unsaid(key: Option<Key>) -> Self {
        Self { key, ..Self::default() }
    }

    /// Whether anybody said what may be written.
    #[must_use]
    pub fn is_said(&self) -> bool {
        self.is_said
    }

    /// What tells the key from another; `None` where no pseudonyms are made.
    #[must_use]
    pub fn key_mark(&self) -> Option<String> {
        let is_used = self.treated_columns().any(|(_, action)| action == Action::Pseudonym);
        self.key.as_ref().filter(|_| is_used).map(Key::mark)
    }

    /// Whether it changes anything.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.active.is_some()
    }

    /// The answer as it may be written. Without rules it is handed back untouched.
    #[must_use]
    pub fn apply(&self, answer: Answer) -> Answer {
        let Some(active) = &self.active else { return answer };
        let bodies = answer.bodies.into_iter().map(|body| active.treat(body)).collect();
        let poll = answer.poll.map(|poll| active.treat_poll(poll));
        Answer { bodies, poll, ..answer }
    }

    /// Whether the archive has pseudonyms where the ids of devices are.
    #[must_use]
    pub fn hides_devices(&self) -> bool {
        self.active.as_ref().is_some_and(|active| active.device == Action::Pseudonym)
    }

    /// The device's id as it stands in the archive.
    #[must_use]
    pub fn stored_device(&self, id: &str) -> String {
        let key = self.key.as_ref().filter(|_| self.hides_devices());
        key.map_or_else(|| id.to_owned(), |key| key.pseudonym(id))
    }

    /// The poll as it may be written, for those who tell of a request elsewhere.
    #[must_use]
    pub fn apply_poll(&self, poll: Poll) -> Poll {
        match &self.active {
            Some(active) => active.treat_poll(poll),
            None => poll,
        }
    }

    /// The pseudonym that stands for a value wherever one does; `None` without a key. Whether one stands
    /// in a column, [`Policy::treated_columns`] says.
    #[must_use]
    pub fn pseudonym(&self, value: &str) -> Option<String> {
        self.key.as_ref().map(|key| key.pseudonym(value))
    }

    /// The columns that are dropped or pseudonyms, in the order of the schema. A member of the structs
    /// in a list stands as `column.member`.
    pub fn treated_columns(&self) -> impl Iterator<Item = (&str, Action)> {
        let treated = self.active.iter().flat_map(|active| &active.treated);
        treated.map(|(name, action)| (name.as_str(), *action))
    }

    /// What is done to values that no column holds.
    #[must_use]
    pub fn unknown(&self) -> Unknown {
        self.active.as_ref().map_or(Unknown::Keep, |active| active.unknown)
    }
}

impl Active {
    fn treat(&self, body: Body) -> Body {
        let text = std::str::from_utf8(&body.bytes).ok();
        let bytes = match text.map(|text| rewrite::rewrite(self, text)) {
            Some(Ok(None)) => return body,
            Some(Ok(Some(text))) => text,
            Some(Err(_)) | None => rewrite::stand_in(body.bytes.len()),
        };
        Body { bytes: bytes.into_bytes().into(), ..body }
    }

    fn treat_poll(&self, mut poll: Poll) -> Poll {
        if let (Action::Pseudonym, Some(key)) = (self.device, &self.key) {
            poll.device_id = poll.device_id.map(|id| key.pseudonym(&id));
        }
        // What follows the first colon is a detail, often in foreign words; status and code have columns
        // of their own.
        if let Some((ours, _)) = poll.error.as_deref().and_then(|error| error.split_once(':')) {
            poll.error = Some(ours.to_owned());
        }
        poll
    }
}

fn meant(near: Option<&str>) -> String {
    near.map_or_else(String::new, |near| format!(" (did you mean {near:?}?)"))
}
