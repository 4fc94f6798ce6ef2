//! A body's text, with what is treated cut out of it or replaced in it.
//!
//! The text is walked the way [`flatten`] walks it, and only changes are noted: what
//! no rule is about is never written anew.

use std::borrow::Cow;
use std::ops::Range;

use crate::flatten;
use crate::json::{self, JsonError};
use crate::schema::Kind;

use super::compile::{Group, Leaf, Node};
use super::{Action, Active, Unknown};

/// The body is no device state, so that nothing is known of what stands where.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoState;

/// What the text becomes; `None` where it stays as it is.
pub(super) fn rewrite(active: &Active, text: &str) -> Result<Option<String>, NoState> {
    if !text.trim_start().starts_with('{') {
        return Err(NoState);
    }
    let is_state = !active.tree.requires;
    let mut walk = Walk { active, text, changes: Vec::new(), is_state };
    walk.group(&active.tree.root, text)?;
    if walk.is_state { Ok(walk.finish()) } else { Err(NoState) }
}

/// What is kept of a body that is no device state: a JSON string, which is none either.
pub(super) fn stand_in(bytes: usize) -> String {
    format!("\"{bytes} bytes that were no device state; not kept, since privacy rules are set\"")
}

impl From<JsonError> for NoState {
    fn from(_: JsonError) -> Self {
        Self
    }
}

/// A way through a text.
struct Walk<'a> {
    active: &'a Active,
    text: &'a str,
    changes: Vec<(Range<usize>, Cow<'static, str>)>,
    /// Whether a value was met that makes a body a state.
    is_state: bool,
}

/// What becomes of an entry of an object.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Stays,
    Goes,
}

impl Walk<'_> {
    fn group(&mut self, group: &Group, raw: &str) -> Result<(), JsonError> {
        self.entries(raw, &mut |walk, key, value| match group.keys.get(key) {
            None => Ok(walk.unknown()),
            Some(Node::Leaf(leaf)) => walk.leaf(leaf, value),
            Some(Node::Group(inner)) => walk.inner(inner, value),
        })
    }

    fn inner(&mut self, inner: &Group, raw: &str) -> Result<Fate, JsonError> {
        match raw.as_bytes().first() {
            Some(b'{') => self.group(inner, raw)?,
            // It says that there is no such object, which must not be lost: the last of two counts.
            _ if inner.treated || self.drops_unknown() => self.replace(raw, "null".into()),
            _ => (),
        }
        Ok(Fate::Stays)
    }

    fn leaf(&mut self, leaf: &Leaf, raw: &str) -> Result<Fate, JsonError> {
        if leaf.required && !matches!(raw, "null" | "\"\"") && flatten::fits(leaf.kind, raw) {
            self.is_state = true;
        }
        match leaf.action {
            Action::Keep if leaf.kind == Kind::List && raw.starts_with('[') => self.list(leaf, raw)?,
            Action::Keep if leaf.has_treated_members() => self.replace(raw, "null".into()),
            action => return Ok(self.value(leaf.kind, action, raw)),
        }
        Ok(Fate::Stays)
    }

    /// Treats a scalar, or what stands in place of one.
    fn value(&mut self, kind: Kind, action: Action, raw: &str) -> Fate {
        match action {
            Action::Drop => return Fate::Goes,
            Action::Pseudonym => self.pseudonym(raw),
            Action::Keep if self.drops_unknown() && !flatten::fits(kind, raw) => self.replace(raw, "null".into()),
            Action::Keep => (),
        }
        Fate::Stays
    }

    fn pseudonym(&mut self, raw: &str) {
        match (json::string(raw), &self.active.key) {
            // Nothing stands there that could be hidden, and two of them are not the same thing.
            (Some(text), _) if text.is_empty() => (),
            (Some(text), Some(key)) => self.replace(raw, format!("\"{}\"", key.pseudonym(&text)).into()),
            _ => self.replace(raw, "null".into()),
        }
    }

    fn list(&mut self, leaf: &Leaf, raw: &str) -> Result<(), JsonError> {
        if !leaf.has_treated_members() && !self.drops_unknown() {
            return Ok(());
        }
        each_item(raw, &mut |item| match item.as_bytes().first() {
            Some(b'[') if leaf.nested => each_item(item, &mut |inner| self.element(leaf, inner)),
            _ => self.element(leaf, item),
        })
    }

    fn element(&mut self, leaf: &Leaf, raw: &str) -> Result<(), JsonError> {
        if !raw.starts_with('{') {
            // It keeps its place in the list, as a null.
            self.replace(raw, "null".into());
            return Ok(());
        }
        self.entries(raw, &mut |walk, key, value| {
            Ok(match leaf.members.get(key) {
                Some(&(kind, action)) => walk.value(kind, action, value),
                None => walk.unknown(),
            })
        })
    }

    fn unknown(&self) -> Fate {
        if self.drops_unknown() { Fate::Goes } else { Fate::Stays }
    }

    fn drops_unknown(&self) -> bool {
        self.active.unknown == Unknown::Drop
    }

    /// Asks for the fate of each entry of an object, and cuts out those that go, each with the comma
    /// before it; where none is before, with the one after it.
    fn entries(
        &mut self,
        raw: &str,
        fate: &mut dyn FnMut(&mut Self, &str, &str) -> Result<Fate, JsonError>,
    ) -> Result<(), JsonError> {
        let text = self.text;
        let mut end = self.place(raw).start + raw.find('{').map_or(0, |brace| brace + 1);
        let mut so_far = (false, false);
        let mut read = Ok(());
        json::each_entry(raw, &mut |key, value| {
            let place = self.place(value);
            match read.is_ok().then(|| fate(self, &key, value)) {
                None => return,
                Some(Err(error)) => read = Err(error),
                Some(Ok(Fate::Goes)) => {
                    self.changes.push((end..place.end, "".into()));
                    so_far.1 = true;
                }
                Some(Ok(Fate::Stays)) => {
                    if so_far == (false, true) {
                        let comma = text[end..].find(',').map_or(0, |comma| comma + 1);
                        self.changes.push((end..end + comma, "".into()));
                    }
                    so_far.0 = true;
                }
            }
            end = place.end;
        })?;
        read
    }

    fn replace(&mut self, raw: &str, with: Cow<'static, str>) {
        if raw != with {
            self.changes.push((self.place(raw), with));
        }
    }

    /// Where a part of the text stands in it.
    fn place(&self, part: &str) -> Range<usize> {
        let start = part.as_ptr().addr() - self.text.as_ptr().addr();
        start..start + part.len()
    }

    /// The text with all changes made; `None` where there are none.
    fn finish(mut self) -> Option<String> {
        if self.changes.is_empty() {
            return None;
        }
        // The comma of an entry is cut after its value was looked at.
        self.changes.sort_by_key(|(place, _)| place.start);
        let mut text = String::with_capacity(self.text.len());
        let mut end = 0;
        for (place, with) in &self.changes {
            text.push_str(&self.text[end..place.start]);
            text.push_str(with);
            end = place.end;
        }
        text.push_str(&self.text[end..]);
        Some(text)
    }
}

/// Calls `item` with the text of each element, until one is at fault.
fn each_item(raw: &str, item: &mut dyn FnMut(&str) -> Result<(), JsonError>) -> Result<(), JsonError> {
    let mut read = Ok(());
    json::each_item(raw, &mut |text| {
        if read.is_ok() {
            read = item(text);
        }
    })?;
    read
}
