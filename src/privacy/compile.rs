//! Rules and a schema, compiled to a tree of the keys of a body.

use std::collections::{BTreeSet, HashMap};

use strsim::levenshtein;

use crate::schema::{Column, Kind, Personal, Schema, Shape};

use super::{Action, PrivacyError, Rules};

/// The keys of a body, and what is done at each.
#[derive(Debug, Default)]
pub(super) struct Tree {
    pub(super) root: Group,
    /// Whether a body without a value in some column is no state.
    pub(super) requires: bool,
}

/// The keys of one object.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) keys: HashMap<String, Node>,
    /// Whether anything at or below this object does not stay as it is.
    pub(super) treated: bool,
}

/// What stands under a key.
#[derive(Debug)]
pub(super) enum Node {
    Group(Group),
    Leaf(Leaf),
}

/// A column.
#[derive(Debug)]
pub(super) struct Leaf {
    pub(super) kind: Kind,
    pub(super) action: Action,
    pub(super) required: bool,
    /// Whether lists within the list are read too.
    pub(super) nested: bool,
    pub(super) members: HashMap<String, (Kind, Action)>,
}

/// Names and actions of the columns that do not stay as they are.
type Treated = Vec<(String, Action)>;

/// Holds the rules against the schema and compiles them.
pub(super) fn compile(schema: &Schema, rules: &Rules) -> Result<(Tree, Treated), PrivacyError> {
    check_names(schema, rules)?;
    let mut tree = Tree::default();
    let mut treated = Treated::new();
    for (at, column) in schema.columns.iter().enumerate() {
        let action = rules.of(&column.name, column.personal);
        check(schema, at, action)?;
        let leaf = Leaf::new(column, action, rules)?;
        treated.extend(leaf.treated(&column.name));
        tree.requires |= column.required;
        if let Some(path) = &column.path {
            tree.root.insert(path, leaf);
        }
    }
    Ok((tree, treated))
}

impl Rules {
    /// What is done to a column of this name and class.
    fn of(&self, name: &str, class: Option<Personal>) -> Action {
        let class = class.and_then(|class| self.classes.get(class.name()));
        self.columns.get(name).or(class).copied().unwrap_or_default()
    }
}

impl Leaf {
    /// A rule for the column itself is one for its members too.
    fn new(column: &Column, action: Action, rules: &Rules) -> Result<Self, PrivacyError> {
        let mut members = HashMap::new();
        for member in &column.fields {
            let named = rules.columns.contains_key(&column.name);
            let action = if named { Action::Keep } else { rules.of("", member.personal) };
            if action == Action::Pseudonym && member.kind != Kind::String {
                return Err(no_text(&format!("{}.{}", column.name, member.name), member.kind));
            }
            members.insert(member.name.clone(), (member.kind, action));
        }
        let nested = column.accept.contains(&Shape::Nested);
        Ok(Self { kind: column.kind, action, required: column.required, nested, members })
    }

    /// Whether a member of the structs does not stay as it is.
    pub(super) fn has_treated_members(&self) -> bool {
        self.members.values().any(|(_, action)| *action != Action::Keep)
    }

    fn is_treated(&self) -> bool {
        self.action != Action::Keep || self.has_treated_members()
    }

    fn treated(&self, name: &str) -> Treated {
        if self.action != Action::Keep {
            return vec![(name.to_owned(), self.action)];
        }
        let members = self.members.iter().filter(|(_, (_, action))| *action != Action::Keep);
        let mut treated: Treated = members.map(|(member, (_, action))| (format!("{name}.{member}"), *action)).collect();
        treated.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        treated
    }
}

impl Group {
    fn insert(&mut self, path: &[String], leaf: Leaf) {
        self.treated |= leaf.is_treated();
        match path {
            [] => (),
            [key] => drop(self.keys.insert(key.clone(), Node::Leaf(leaf))),
            [key, below @ ..] => {
                let node = self.keys.entry(key.clone()).or_insert_with(|| Node::Group(Self::default()));
                // The table has no path that leads through a column.
                if let Node::Group(group) = node {
                    group.insert(below, leaf);
                }
            }
        }
    }
}

fn check_names(schema: &Schema, rules: &Rules) -> Result<(), PrivacyError> {
    let columns = schema.columns.iter();
    let classes = columns.flat_map(|column| column.fields.iter().map(|field| field.personal).chain([column.personal]));
    let classes: BTreeSet<&str> = classes.flatten().map(Personal::name).collect();
    if let Some(name) = rules.classes.keys().find(|name| !classes.contains(name.as_str())) {
        let near = nearest(classes.iter().copied(), name);
        return Err(PrivacyError::Class { name: name.clone(), near, classes: classes.into_iter().collect() });
    }
    if let Some(name) = rules.columns.keys().find(|name| schema.index_of(name).is_none()) {
        let near = nearest(schema.columns.iter().map(|column| column.name.as_str()), name);
        return Err(PrivacyError::Column { name: name.clone(), near });
    }
    Ok(())
}

/// Whether an action suits a column.
fn check(schema: &Schema, at: usize, action: Action) -> Result<(), PrivacyError> {
    let column = &schema.columns[at];
    let name = || column.name.clone();
    let is_text = column.kind == Kind::String;
    let mut times = schema.partition_by.iter().chain(&schema.newest_by);
    let needed = column.required || schema.key.contains(&at) || times.any(|&time| time == at);
    match action {
        Action::Keep => Ok(()),
        _ if column.path.is_none() => Err(PrivacyError::Own { column: name() }),
        Action::Drop if needed => Err(PrivacyError::Needed { column: name(), is_text }),
        Action::Pseudonym if !is_text => Err(no_text(&column.name, column.kind)),
        Action::Drop | Action::Pseudonym => Ok(()),
    }
}

fn no_text(column: &str, kind: Kind) -> PrivacyError {
    PrivacyError::NoText { column: column.to_owned(), kind }
}

/// The name that shares a word with what was written, and of these, or else of all, the one that is spelled most
/// nearly so.
fn nearest<'a>(names: impl Iterator<Item = &'a str>, written: &str) -> Option<String> {
    let shares_word = |name: &str| name.split('_').any(|word| written.split('_').any(|other| other == word));
    names.min_by_key(|name| (!shares_word(name), levenshtein(written, name))).map(str::to_owned)
}
