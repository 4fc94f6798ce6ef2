//! A disk that remembers every change, and what of it a power cut would have left.
//!
//! Content is durable once its file was synced, a name once its folder was; everything else may be lost
//! or not. Changes of names are kept in their order, as journalling file systems do: one that is durable
//! brings those before it in the same folders with it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use dex_archive::disk::{Change, Watch};

/// What of the changes that were not synced is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// All of it.
    Everything,
    /// The content; every name is there.
    Content,
    /// Some of the later names, and the end of what was written last, which reads as zeros.
    Some,
    /// Nothing: the process was killed, and the machine runs on.
    Nothing,
}

impl Loss {
    pub(crate) const ALL: [Self; 4] = [Self::Everything, Self::Content, Self::Some, Self::Nothing];
}

/// Sees every change below a folder.
#[derive(Debug)]
pub(crate) struct Recorder {
    root: PathBuf,
    start: State,
    steps: Mutex<Vec<Step>>,
}

/// A change with everything it needs to be made again; paths are below the folder.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    MakeDir(PathBuf),
    Create(PathBuf),
    Write(PathBuf, u64, Vec<u8>),
    Cut(PathBuf, u64),
    Sync(PathBuf),
    SyncDir(PathBuf),
    Rename(PathBuf, PathBuf),
    Exchange(PathBuf, PathBuf),
    Link(PathBuf, PathBuf),
    Remove(PathBuf),
}

impl Recorder {
    /// A recorder of what is yet to come in an empty folder.
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), start: State::default(), steps: Mutex::default() }
    }

    /// A recorder that begins with what a crash left in a folder. Where that was the end of the process
    /// alone, what was not durable is not durable yet.
    pub(crate) fn of(root: &Path, crashed: &Self, count: usize, loss: Loss) -> Self {
        let mut start = State::default();
        if loss == Loss::Nothing {
            start = crashed.start.clone();
            crashed.steps()[..count].iter().for_each(|step| start.make(step));
        } else {
            start.load(root, Path::new(""));
        }
        Self { start, ..Self::new(root) }
    }

    pub(crate) fn steps(&self) -> std::sync::MutexGuard<'_, Vec<Step>> {
        self.steps.lock().expect("no holder panics")
    }

    /// What a crash after so many steps leaves.
    pub(crate) fn after(&self, count: usize, loss: Loss) -> Left {
        let mut state = self.start.clone();
        let steps: Vec<Step> = self.steps()[..count].to_vec();
        steps.iter().for_each(|step| state.make(step));
        state.left(loss, count)
    }

    fn below(&self, path: &Path) -> PathBuf {
        // The folder itself was there before.
        path.strip_prefix(&self.root).unwrap_or(Path::new("")).to_owned()
    }
}

impl Watch for Recorder {
    fn before(&self, change: &Change<'_>) -> io::Result<()> {
        let below = |path: &Path| self.below(path);
        let step = match *change {
            Change::MakeDir(path) => Step::MakeDir(below(path)),
            Change::Create(path) => Step::Create(below(path)),
            Change::Write { path, at, bytes } => Step::Write(below(path), at, bytes.to_vec()),
            Change::Cut(path, length) => Step::Cut(below(path), length),
            Change::Sync(path) => Step::Sync(below(path)),
            Change::SyncDir(path) => Step::SyncDir(below(path)),
            Change::Rename(from, to) => Step::Rename(below(from), below(to)),
            Change::Exchange(a, b) => Step::Exchange(below(a), below(b)),
            Change::Link(from, to) => Step::Link(below(from), below(to)),
            // A folder that is not empty is not removed: then this step changes nothing.
            Change::RemoveDir(path) if fs::read_dir(path)?.next().is_some() => return Ok(()),
            Change::Remove(path) | Change::RemoveDir(path) => Step::Remove(below(path)),
        };
        self.steps().push(step);
        Ok(())
    }
}

type Id = usize;

/// Files and folders by number; folder 0 is the root.
#[derive(Debug, Clone)]
struct State {
    nodes: Vec<Node>,
    /// Changes of names that are not durable yet, oldest first: each sets some names at once.
    pending: Vec<Vec<(Id, String, Option<Id>)>>,
}

#[derive(Debug, Clone)]
enum Node {
    File { content: Vec<u8>, synced: Vec<u8> },
    Folder { names: BTreeMap<String, Id>, durable: BTreeMap<String, Id> },
}

/// What is on the disk after a crash.
#[derive(Debug)]
pub(crate) struct Left {
    files: Vec<(PathBuf, Vec<u8>)>,
    folders: Vec<PathBuf>,
}

impl Default for State {
    fn default() -> Self {
        Self { nodes: vec![Node::folder()], pending: Vec::new() }
    }
}

impl Node {
    fn folder() -> Self {
        Self::Folder { names: BTreeMap::new(), durable: BTreeMap::new() }
    }
}

impl State {
    fn make(&mut self, step: &Step) {
        match step {
            Step::MakeDir(path) => self.add(path, Node::folder()),
            Step::Create(path) => self.add(path, Node::File { content: Vec::new(), synced: Vec::new() }),
            Step::Write(path, at, bytes) => {
                let (content, _) = self.file(path);
                let at = usize::try_from(*at).expect("a small file");
                content.resize(content.len().max(at + bytes.len()), 0);
                content[at..at + bytes.len()].copy_from_slice(bytes);
            }
            Step::Cut(path, length) => self.file(path).0.truncate(usize::try_from(*length).expect("a small file")),
            Step::Sync(path) => {
                let (content, synced) = self.file(path);
                synced.clone_from(content);
            }
            Step::SyncDir(path) => {
                let folder = self.find(path);
                self.make_durable(folder);
            }
            Step::Rename(from, to) => {
                let id = self.find(from);
                self.set(&[(from, None), (to, Some(id))]);
            }
            Step::Exchange(a, b) => {
                let (one, other) = (self.find(a), self.find(b));
                self.set(&[(a, Some(other)), (b, Some(one))]);
            }
            Step::Link(from, to) => {
                let id = self.find(from);
                self.set(&[(to, Some(id))]);
            }
            Step::Remove(path) => self.set(&[(path, None)]),
        }
    }

    fn add(&mut self, path: &Path, node: Node) {
        self.nodes.push(node);
        self.set(&[(path, Some(self.nodes.len() - 1))]);
    }

    /// Sets names in folders, at once.
    fn set(&mut self, names: &[(&Path, Option<Id>)]) {
        let mut group = Vec::new();
        for (path, id) in names {
            let folder = self.find(path.parent().expect("a path below the root"));
            let name = path.file_name().expect("a name").to_str().expect("UTF-8").to_owned();
            let Node::Folder { names, .. } = &mut self.nodes[folder] else { panic!("no folder: {}", path.display()) };
            match id {
                Some(id) => names.insert(name.clone(), *id),
                None => names.remove(&name),
            };
            group.push((folder, name, *id));
        }
        self.pending.push(group);
    }

    /// A folder was synced: the changes of its names are durable, and those that they rest on.
    fn make_durable(&mut self, folder: Id) {
        let mut folders = BTreeSet::from([folder]);
        let mut durable = BTreeSet::new();
        for (at, group) in self.pending.iter().enumerate().rev() {
            if group.iter().any(|(folder, ..)| folders.contains(folder)) {
                folders.extend(group.iter().map(|(folder, ..)| *folder));
                durable.insert(at);
            }
        }
        let pending = std::mem::take(&mut self.pending);
        for (at, group) in pending.into_iter().enumerate() {
            if durable.contains(&at) { self.apply(&group) } else { self.pending.push(group) }
        }
    }

    fn apply(&mut self, group: &[(Id, String, Option<Id>)]) {
        for (folder, name, id) in group {
            let Node::Folder { durable, .. } = &mut self.nodes[*folder] else { panic!("no folder") };
            match id {
                Some(id) => durable.insert(name.clone(), *id),
                None => durable.remove(name),
            };
        }
    }

    fn left(mut self, loss: Loss, seed: usize) -> Left {
        let kept = match loss {
            Loss::Everything => 0,
            Loss::Content | Loss::Nothing => self.pending.len(),
            Loss::Some => seed * 7 % (self.pending.len() + 1),
        };
        for group in self.pending.drain(..kept).collect::<Vec<_>>() {
            self.apply(&group);
        }
        let mut left = Left { files: Vec::new(), folders: Vec::new() };
        self.walk(0, Path::new(""), loss, seed, &mut left);
        left
    }

    fn walk(&self, folder: Id, path: &Path, loss: Loss, seed: usize, left: &mut Left) {
        let Node::Folder { durable, .. } = &self.nodes[folder] else { panic!("no folder") };
        for (name, id) in durable {
            let path = path.join(name);
            match &self.nodes[*id] {
                Node::Folder { .. } => {
                    left.folders.push(path.clone());
                    self.walk(*id, &path, loss, seed, left);
                }
                Node::File { content, synced } => left.files.push((path, survivor(content, synced, loss, seed))),
            }
        }
    }

    fn find(&self, path: &Path) -> Id {
        path.components().fold(0, |folder, name| {
            let Node::Folder { names, .. } = &self.nodes[folder] else {
                panic!("no folder on the way to {}", path.display())
            };
            let name = name.as_os_str().to_str().expect("UTF-8");
            *names.get(name).unwrap_or_else(|| panic!("{} is not there", path.display()))
        })
    }

    fn file(&mut self, path: &Path) -> (&mut Vec<u8>, &mut Vec<u8>) {
        let id = self.find(path);
        match &mut self.nodes[id] {
            Node::File { content, synced } => (content, synced),
            Node::Folder { .. } => panic!("{} is a folder", path.display()),
        }
    }

    /// Takes in what is there already, all of it durable.
    fn load(&mut self, root: &Path, below: &Path) {
        for entry in fs::read_dir(root.join(below)).expect("a folder") {
            let path = below.join(entry.expect("an entry").file_name());
            if root.join(&path).is_dir() {
                self.add(&path, Node::folder());
                self.load(root, &path);
            } else {
                let content = fs::read(root.join(&path)).expect("a file");
                self.add(&path, Node::File { synced: content.clone(), content });
            }
        }
        for group in std::mem::take(&mut self.pending) {
            self.apply(&group);
        }
    }
}

/// What is left of a file's content.
fn survivor(content: &[u8], synced: &[u8], loss: Loss, seed: usize) -> Vec<u8> {
    match loss {
        Loss::Nothing => content.to_vec(),
        Loss::Everything | Loss::Content => synced.to_vec(),
        // The length may be durable before what was written there.
        Loss::Some => {
            let written = content.len().saturating_sub(synced.len());
            let mut left = content.to_vec();
            let (cut, zeros) = (seed * 13 % (written + 1), seed * 5 % (written + 1));
            left.truncate(content.len() - cut);
            let from = left.len().saturating_sub(zeros).max(synced.len()).min(left.len());
            left[from..].fill(0);
            left
        }
    }
}

impl Left {
    /// Makes a disk of it.
    #[expect(clippy::disallowed_methods, reason = "a test makes files")]
    pub(crate) fn write_to(&self, root: &Path) {
        fs::create_dir_all(root).expect("a folder");
        self.folders.iter().for_each(|folder| fs::create_dir(root.join(folder)).expect("a folder"));
        self.files.iter().for_each(|(path, content)| fs::write(root.join(path), content).expect("a file"));
    }
}
