//! What a command did to a directory, and what a disk may hold of it.
//!
//! In: a command, run under strace. Out: the directory as it may be after any number of the command's calls. Refused: a
//! call that changes files and is not replayed here.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
    process::Command,
};

use system_tests::{assert_succeeded, in_shell};
use tempfile::TempDir;

/// Files by path. The path of a directory ends with a slash.
pub type Tree = BTreeMap<PathBuf, Vec<u8>>;

/// A file or directory, whatever its names are.
type Node = usize;
/// A name in a directory.
type Place = (Node, Vec<u8>);
const ROOT: Node = 0;

/// Calls that may change a file.
const TRACED: &str = "open,openat,creat,lseek,write,writev,pwrite64,pwritev,pwritev2,truncate,ftruncate,fallocate,\
                      copy_file_range,sendfile,splice,rename,renameat,renameat2,link,linkat,symlink,symlinkat,unlink,\
                      unlinkat,rmdir,mkdir,mkdirat,fsync,fdatasync";

enum Call {
    /// At a place, or at the end.
    Write(Node, Option<usize>, Vec<u8>),
    Resize(Node, usize),
    /// Names that now mean another node, or none.
    Name(Vec<(Place, Option<Node>)>),
    Sync(Node),
}

/// What becomes of data that no fsync of its file followed.
#[derive(Clone, Copy, Debug)]
pub enum Unsynced {
    Kept,
    Lost,
    Half,
    Zeros,
}

/// A directory before a command, and the command's calls.
#[derive(Default)]
pub struct Recording {
    /// Of every node, also those that the calls make.
    before: Vec<Vec<u8>>,
    directories: BTreeSet<Node>,
    names: BTreeMap<Place, Node>,
    calls: Vec<Call>,
}

impl Recording {
    /// Runs a command in `home`.
    pub fn of(home: &Path, command: &Command) -> Self {
        let mut recording = Recording::default();
        recording.add(Vec::new(), true);
        recording.load(home, ROOT);
        let log = TempDir::new().unwrap();
        let path = log.path().join("log");
        // With the paths of descriptors, and all bytes of strings in hexadecimal.
        let strace = format!("strace -f --seccomp-bpf -y -xx -s 1000000000 -e trace={TRACED} -o {}", path.display());
        assert_succeeded(&in_shell(command, &format!("set -- {strace} \"$@\"")).output().unwrap());
        let now = recording.names.clone();
        Reader { home, now, open: BTreeMap::new(), recording: &mut recording }.read(&fs::read_to_string(path).unwrap());
        recording
    }

    /// How many calls there are.
    pub fn len(&self) -> usize {
        self.calls.len()
    }

    /// The directory as a disk may hold it after the first `count` calls: with those changes of names for which `kept`
    /// holds, beside those that an fsync of their directories followed.
    pub fn after(&self, count: usize, kept: &dyn Fn(usize) -> bool, unsynced: &dyn Fn(Node) -> Unsynced) -> Tree {
        let mut last_sync = vec![0; self.before.len()];
        let (mut contents, mut synced) = (self.before.clone(), self.before.clone());
        for (at, call) in self.calls[..count].iter().enumerate() {
            match call {
                Call::Write(file, place, bytes) => {
                    let content = &mut contents[*file];
                    let from = place.unwrap_or(content.len());
                    content.resize(content.len().max(from + bytes.len()), 0);
                    content[from..from + bytes.len()].copy_from_slice(bytes);
                }
                Call::Resize(file, len) => contents[*file].resize(*len, 0),
                Call::Name(_) => {}
                Call::Sync(node) => {
                    synced[*node].clone_from(&contents[*node]);
                    last_sync[*node] = at;
                }
            }
        }
        for (node, (content, synced)) in contents.iter_mut().zip(synced).enumerate() {
            let same = content.iter().zip(&synced).take_while(|(a, b)| a == b).count();
            match unsynced(node) {
                Unsynced::Kept => {}
                Unsynced::Lost => *content = synced,
                Unsynced::Half => content.truncate(same.midpoint(content.len())),
                Unsynced::Zeros => content[same..].fill(0),
            }
        }
        let mut names = self.names.clone();
        for (at, call) in self.calls[..count].iter().enumerate() {
            let Call::Name(changes) = call else { continue };
            if kept(at) || changes.iter().all(|((dir, _), _)| last_sync[*dir] > at) {
                changes.iter().for_each(|(place, node)| set(&mut names, place, *node));
            }
        }
        let mut tree = Tree::new();
        self.collect(&names, &mut contents, ROOT, Path::new(""), &mut tree);
        tree
    }

    /// Adds what is in a directory. Nothing is in two places but what was renamed in part, and that is empty in one.
    fn collect(
        &self,
        names: &BTreeMap<Place, Node>,
        contents: &mut [Vec<u8>],
        dir: Node,
        path: &Path,
        tree: &mut Tree,
    ) {
        for ((_, name), node) in names.range((dir, Vec::new())..(dir + 1, Vec::new())) {
            let path = path.join(OsStr::from_bytes(name));
            if self.directories.contains(node) {
                tree.insert(path.join(""), Vec::new());
                self.collect(names, contents, *node, &path, tree);
            } else {
                tree.insert(path, contents[*node].clone());
            }
        }
    }

    fn load(&mut self, dir: &Path, node: Node) {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            let is_dir = entry.file_type().unwrap().is_dir();
            let content = if is_dir { Vec::new() } else { fs::read(entry.path()).unwrap() };
            let child = self.add(content, is_dir);
            self.names.insert((node, entry.file_name().as_bytes().to_vec()), child);
            if is_dir {
                self.load(&entry.path(), child);
            }
        }
    }

    fn add(&mut self, content: Vec<u8>, is_dir: bool) -> Node {
        self.before.push(content);
        let node = self.before.len() - 1;
        if is_dir {
            self.directories.insert(node);
        }
        node
    }
}

/// A descriptor of a file or directory.
#[derive(Clone, Copy)]
struct Open {
    node: Node,
    /// Where it writes; at the end if none.
    at: Option<usize>,
}

/// Reads the log of strace.
struct Reader<'a> {
    home: &'a Path,
    now: BTreeMap<Place, Node>,
    open: BTreeMap<usize, Open>,
    recording: &'a mut Recording,
}

impl Reader<'_> {
    fn read(&mut self, log: &str) {
        let mut begun: BTreeMap<&str, &str> = BTreeMap::new();
        for line in log.lines() {
            let (thread, call) = line.split_once(' ').unwrap();
            // A call during which another thread made one is on two lines.
            if let Some(first) = call.trim_start().strip_suffix(" <unfinished ...>") {
                begun.insert(thread, first);
                continue;
            }
            let whole = match call.split_once(" resumed>") {
                Some((_, rest)) => begun.remove(thread).unwrap().to_owned() + rest,
                None => call.trim_start().to_owned(),
            };
            let Some((call, result)) = whole.rsplit_once(" = ") else { continue };
            // One that failed has changed nothing.
            if let Ok(result) = result.split(['<', ' ']).next().unwrap().parse() {
                self.replay(call.trim_end(), result);
            }
        }
    }

    fn replay(&mut self, call: &str, result: usize) {
        let (name, arguments) = call.strip_suffix(')').unwrap().split_once('(').unwrap();
        let (strings, bases) = (between(arguments, '"', '"'), between(arguments, '<', '>'));
        let home = self.home;
        let is_inside = |base: &Vec<u8>| Path::new(OsStr::from_bytes(base)).starts_with(home);
        // The descriptor that comes first, if it is of a file of the directory.
        let number = arguments.split(['<', ',']).next().unwrap().parse::<usize>().unwrap_or_default();
        let open = bases.first().filter(|base| is_inside(base)).and_then(|_| self.open.get(&number).copied());
        let last = || arguments.rsplit(", ").next().unwrap().parse::<usize>().unwrap();
        let place = |at: usize| {
            let base = bases.get(at).map_or(home, |base| Path::new(OsStr::from_bytes(base)));
            self.place(&base.join(OsStr::from_bytes(&strings[at])))
        };
        match name {
            "openat" => {
                let Some(place) = place(0) else { return };
                let there = if place.1.is_empty() { Some(ROOT) } else { self.now.get(&place).copied() };
                let node = there.unwrap_or_else(|| {
                    let made = self.recording.add(Vec::new(), false);
                    self.name(vec![(place, Some(made))]);
                    made
                });
                if arguments.contains("O_TRUNC") {
                    self.recording.calls.push(Call::Resize(node, 0));
                }
                self.open.insert(result, Open { node, at: (!arguments.contains("O_APPEND")).then_some(0) });
            }
            "write" | "writev" | "pwrite64" => {
                let Some(Open { node, at }) = open else { return };
                let mut bytes = strings.concat();
                bytes.truncate(result);
                match (name, at) {
                    ("pwrite64", _) => return self.recording.calls.push(Call::Write(node, Some(last()), bytes)),
                    (_, Some(at)) => _ = self.open.insert(number, Open { node, at: Some(at + result) }),
                    _ => {}
                }
                self.recording.calls.push(Call::Write(node, at, bytes));
            }
            "lseek" => {
                let Some(Open { node, at: Some(_) }) = open else { return };
                self.open.insert(number, Open { node, at: Some(result) });
            }
            "ftruncate" => self.recording.calls.extend(open.map(|open| Call::Resize(open.node, last()))),
            "fsync" | "fdatasync" => self.recording.calls.extend(open.map(|open| Call::Sync(open.node))),
            "mkdir" | "mkdirat" => {
                let Some(place) = place(0) else { return };
                let made = self.recording.add(Vec::new(), true);
                self.name(vec![(place, Some(made))]);
            }
            "unlink" | "unlinkat" | "rmdir" => {
                let Some(place) = place(0) else { return };
                self.name(vec![(place, None)]);
            }
            "rename" | "renameat" | "renameat2" => {
                let (Some(from), Some(to)) = (place(0), place(1)) else { return };
                let node = self.now[&from];
                self.name(vec![(to, Some(node)), (from, None)]);
            }
            _ => assert!(!bases.iter().any(is_inside) && strings.is_empty(), "{name} is not replayed: {call}"),
        }
    }

    fn name(&mut self, changes: Vec<(Place, Option<Node>)>) {
        changes.iter().for_each(|(place, node)| set(&mut self.now, place, *node));
        self.recording.calls.push(Call::Name(changes));
    }

    /// Where a path of the directory is; the directory itself has no name.
    fn place(&self, path: &Path) -> Option<Place> {
        let mut plain = PathBuf::new();
        for part in path.components() {
            match part {
                Component::ParentDir => _ = plain.pop(),
                Component::CurDir => {}
                other => plain.push(other),
            }
        }
        let inside = plain.strip_prefix(self.home).ok()?;
        let (mut dir, name) = (ROOT, inside.file_name().unwrap_or_default().as_bytes().to_vec());
        for part in inside.parent().into_iter().flat_map(Path::components) {
            dir = self.now[&(dir, part.as_os_str().as_bytes().to_vec())];
        }
        Some((dir, name))
    }
}

fn set(names: &mut BTreeMap<Place, Node>, place: &Place, node: Option<Node>) {
    match node {
        Some(node) => _ = names.insert(place.clone(), node),
        None => _ = names.remove(place),
    }
}

/// What stands between two characters, of which strace writes all bytes in hexadecimal.
fn between(text: &str, from: char, to: char) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((_, begun)) = rest.split_once(from) {
        let (inner, after) = begun.split_once(to).unwrap();
        found.push(inner.split("\\x").skip(1).map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect());
        rest = after;
    }
    found
}
