//! Patches on the Hugging Face Hub. The layout of a repository is in `patches/maker/README.md`.
//!
//! In: a patch and a repository. Out: a commit in it, or the patch in the user's cache, where `edge-run -p hf:` finds
//! it. Refused, before anything is sent: a file that is no patch, a name that is none, and no token. Refused, before
//! anything is written: what is not a patch, or not whole.

mod card;
mod client;

use std::{
    fs,
    path::{Path, PathBuf},
};

use bias_patch::{Digest, Patch, atomic, signature_path};
use edge_bundle::{Hub, HubPatch};
use serde::Deserialize;
use serde_json::{Value, json};

use self::client::{Action, Client, Info, Purpose};
use crate::{Error, Evaluation, Result};

/// The most bytes of a file; edge-serve takes a patch of as many.
const MOST_BYTES: u64 = 64 << 20;

/// The bytes of a file by which the Hub sees what it holds.
const SAMPLE: usize = 512;

const CARD: &str = "README.md";
const TASK: &str = "task.json";
const JSON: &str = "application/json";
const LFS: &str = "application/vnd.git-lfs+json";

/// A patch to put into a repository.
pub struct Push<'a> {
    /// The patch, called NAME.bias. A signature beside it goes with it.
    pub patch: &'a Path,
    /// The message of the commit; if none, one that names the file.
    pub message: Option<&'a str>,
    /// Whether the repository has to be private.
    pub private: bool,
    /// The licence, by the Hub's name for it.
    pub license: Option<&'a str>,
    /// The encoder, by its name on the Hub.
    pub base_model: Option<&'a str>,
    /// What the patch scores.
    pub measured: Option<Measured>,
}

/// The score of a patch on texts.
pub struct Measured {
    /// The name of their file.
    pub data: String,
    /// The scores.
    pub evaluation: Evaluation,
}

/// What was pushed.
pub struct Pushed {
    /// The address of the repository.
    pub address: String,
    /// The commit.
    pub commit: String,
    /// The files in it.
    pub files: Vec<String>,
    /// Why there is no new card, if there is none.
    pub no_card: Option<&'static str>,
}

/// A patch that is on this machine.
pub struct Pulled {
    /// Its file, in the cache of the Hub's libraries.
    pub path: PathBuf,
    /// Why the Hub could not be asked, if this is what was fetched before.
    pub unasked: Option<String>,
}

/// Puts a patch into a repository, which is made if it is not there: one commit with the patch, its signature, and
/// where it is the only patch its task and a card. A card that somebody else wrote stays.
///
/// # Errors
/// When the patch is none, `to` names a file or a revision, there is no token, or the Hub refuses; the message says
/// what the token has to permit.
pub fn push(push: &Push<'_>, to: &HubPatch) -> Result<Pushed> {
    let repository = to.repository.as_str();
    let name = file_name(push.patch)?;
    if to.file.is_some() || to.revision != "main" {
        return Err(setting("repository", "hf:ORG/NAME; a file keeps its name, and goes to main", to));
    }
    let bytes = Patch::read(push.patch)?;
    let patch = Patch::from_bytes(&bytes).map_err(|e| e.in_file(push.patch))?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(setting("patch", format!("at most {MOST_BYTES} bytes"), bytes.len()));
    }
    let beside = signature_path(push.patch);
    let signature =
        beside.exists().then(|| fs::read(&beside).map_err(bias_patch::Error::io(&beside, "read"))).transpose()?;
    let client = Client::new(&Hub::of_user()?);
    if client.token_source().is_none() {
        return Err(setting("token", "one that may write, in HF_TOKEN or by `hf auth login`", "none"));
    }

    let info = open_repository(&client, repository, push.private)?;
    let purpose = Purpose { repository, expected: "a commit", right: "write" };
    let signature_name = format!("{name}.minisig");
    let others = HubPatch::among(info.files()).into_iter().any(|there| there != name);
    let no_card = if others {
        Some("the repository has other patches too")
    } else if info.has(CARD) && !is_ours(&client.file(&info.sha, CARD, MOST_BYTES, purpose)?) {
        Some("somebody else wrote the one that is there")
    } else {
        None
    };
    let mut files = vec![(name.to_owned(), bytes.clone())];
    let mut gone = Vec::new();
    match signature {
        Some(signature) => files.push((signature_name, signature)),
        // It signs what was there before.
        None if info.has(&signature_name) => gone.push(signature_name),
        None => {}
    }
    if !others {
        // A task holds only numbers, strings and lists.
        files.push((TASK.to_owned(), serde_json::to_vec_pretty(patch.task()).unwrap_or_default()));
    } else if info.has(TASK) {
        gone.push(TASK.to_owned());
    }
    if no_card.is_none() {
        files.push((CARD.to_owned(), card::card(push, repository, name, &patch, &bytes).into_bytes()));
    }
    let usual = format!("Add {name}");
    let commit = commit(&client, &info, push.message.unwrap_or(&usual), &files, &gone, purpose)?;
    let files = files.into_iter().map(|(file, _)| file).collect();
    Ok(Pushed { address: client.address(repository), commit, files, no_card })
}

/// Fetches a patch into the cache of the Hub's libraries, if it is not there. As with those, the Hub is asked which
/// commit a branch or a tag is. If it does not answer, what was fetched before is given.
///
/// # Errors
/// When the repository, the revision or the file is not there, several patches are and none is named, the file is no
/// patch, or the Hub refuses.
pub fn pull(wanted: &HubPatch) -> Result<Pulled> {
    let hub = Hub::of_user()?;
    if hub.is_offline() || (wanted.is_commit() && wanted.file.is_some()) {
        match hub.patch(wanted) {
            Ok(path) => return Ok(Pulled { path, unasked: None }),
            Err(_) if !hub.is_offline() => {}
            Err(error) => {
                return Err(Error::Hub {
                    address: wanted.to_string(),
                    expected: "one that was fetched before, because HF_HUB_OFFLINE is set".to_owned(),
                    found: match error {
                        edge_bundle::Error::NotFetched { cache, .. } => format!("none in {}", cache.display()),
                        other => other.to_string(),
                    },
                    remedy: "unset it where there is a network".to_owned(),
                });
            }
        }
    }
    let client = Client::new(&hub);
    let repository = wanted.repository.as_str();
    let purpose = Purpose { repository, expected: "the repository's files", right: "read" };
    let info = match client.info(&wanted.revision, purpose) {
        Ok(info) => info.ok_or_else(|| client.no_repository(repository))?,
        Err(Error::Unreachable { address, reason }) => match hub.patch(wanted) {
            Ok(path) => return Ok(Pulled { path, unasked: Some(format!("{address}: {reason}")) }),
            Err(_) => return Err(Error::Unreachable { address, reason }),
        },
        Err(error) => return Err(error),
    };
    let file = wanted.choose(&HubPatch::among(info.files()))?;
    let place = hub.repository(repository);
    let path = place.join("snapshots").join(&info.sha).join(file);
    let purpose = Purpose { expected: "the file", ..purpose };
    // What another program fetched may be damaged.
    let fetched = match Patch::open(&path) {
        Ok(_) => None,
        Err(_) => {
            let bytes = client.file(&info.sha, file, MOST_BYTES, purpose)?;
            let address = client.address(&format!("{repository}/resolve/{}/{file}", info.sha));
            Patch::from_bytes(&bytes).map_err(|e| e.in_file(Path::new(&address)))?;
            Some(bytes)
        }
    };
    let (signature, beside) = (format!("{file}.minisig"), signature_path(&path));
    if info.has(&signature) && !beside.exists() {
        write(&beside, &client.file(&info.sha, &signature, MOST_BYTES, purpose)?)?;
    }
    // The last, so that a patch that is there has its signature.
    if let Some(bytes) = fetched {
        write(&path, &bytes)?;
    }
    let reference = place.join("refs").join(&wanted.revision);
    // A cache that nobody may write to can be up to date.
    if info.sha != wanted.revision && fs::read(&reference).ok().as_deref() != Some(info.sha.as_bytes()) {
        write(&reference, info.sha.as_bytes())?;
    }
    Ok(Pulled { path, unasked: None })
}

impl Pulled {
    /// Writes the patch to `output` too, and its signature, if there is one, beside that.
    ///
    /// # Errors
    /// When it cannot be read or written, or something else than a patch is there.
    pub fn copy(&self, output: &Path) -> Result<()> {
        let copy = |from: &Path, to: &Path| {
            atomic::write_file(to, &fs::read(from).map_err(bias_patch::Error::io(from, "read"))?)
        };
        Patch::check_output(output)?;
        let signature = signature_path(&self.path);
        if signature.exists() {
            copy(&signature, &signature_path(output))?;
        }
        Ok(copy(&self.path, output)?)
    }
}

/// What the repository has now. It is made if it is not there.
fn open_repository(client: &Client, repository: &str, private: bool) -> Result<Info> {
    let purpose = Purpose { repository, expected: "the repository to be readable", right: "write" };
    let info = match client.info("main", purpose)? {
        Some(info) => info,
        None => {
            let (organization, name) = repository.split_once('/').unwrap_or_default();
            let mut wanted = json!({ "name": name, "organization": organization });
            if private {
                wanted["visibility"] = "private".into();
            }
            let made = Purpose { expected: "the repository to be made", ..purpose };
            let _: Value = client.post("api/repos/create", JSON, wanted.to_string().as_bytes(), made)?;
            client.info("main", purpose)?.ok_or_else(|| client.no_repository(repository))?
        }
    };
    if private && !info.private {
        return Err(Error::Hub {
            address: client.address(repository),
            expected: "a private repository".to_owned(),
            found: "a public one".to_owned(),
            remedy: "nothing was sent; make it private in its settings, or leave --private out".to_owned(),
        });
    }
    Ok(info)
}

/// Commits files, and removes others, on top of what `info` describes. Gives the new commit.
fn commit(
    client: &Client,
    info: &Info,
    message: &str,
    files: &[(String, Vec<u8>)],
    gone: &[String],
    purpose: Purpose<'_>,
) -> Result<String> {
    #[derive(Deserialize)]
    struct Modes {
        files: Vec<Mode>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Mode {
        path: String,
        upload_mode: String,
        #[serde(default)]
        should_ignore: bool,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Made {
        commit_oid: String,
    }

    let asked = files.iter().map(|(path, bytes)| {
        let sample = base64::encode(&bytes[..bytes.len().min(SAMPLE)]);
        json!({ "path": path, "size": bytes.len(), "sample": sample })
    });
    let path = format!("api/models/{}/preupload/main", purpose.repository);
    let asked = json!({ "files": asked.collect::<Vec<_>>() }).to_string();
    let modes: Modes = client.post(&path, JSON, asked.as_bytes(), purpose)?;
    let mode = |path: &str| modes.files.iter().find(|mode| mode.path == path);

    let header = json!({ "summary": message, "description": "", "parentCommit": info.sha });
    let mut lines = vec![json!({ "key": "header", "value": header })];
    let mut large = Vec::new();
    for (path, bytes) in files {
        match mode(path) {
            Some(mode) if !mode.should_ignore && mode.upload_mode == "regular" => {
                let value = json!({ "path": path, "content": base64::encode(bytes), "encoding": "base64" });
                lines.push(json!({ "key": "file", "value": value }));
            }
            Some(mode) if !mode.should_ignore && mode.upload_mode == "lfs" => {
                let (digest, size) = (Digest::of(bytes), bytes.len());
                let value = json!({ "path": path, "algo": "sha256", "oid": digest.to_string(), "size": size });
                lines.push(json!({ "key": "lfsFile", "value": value }));
                large.push((digest, bytes.as_slice()));
            }
            mode => {
                let found = mode.map_or("no answer for it".to_owned(), |mode| match mode.should_ignore {
                    true => "a .gitignore there that leaves it out".to_owned(),
                    false => format!("the mode {:?}", mode.upload_mode),
                });
                return Err(Error::Hub {
                    address: client.address(purpose.repository),
                    expected: format!("to be asked for {path} whole or by Git LFS"),
                    found,
                    remedy: "nothing was sent; change that in the repository, or take another one".to_owned(),
                });
            }
        }
    }
    for (digest, bytes) in large {
        upload(client, digest, bytes, purpose)?;
    }
    lines.extend(gone.iter().map(|path| json!({ "key": "deletedFile", "value": { "path": path } })));
    let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let path = format!("api/models/{}/commit/main", purpose.repository);
    let made: Made = client.post(&path, "application/x-ndjson", body.as_bytes(), purpose)?;
    Ok(made.commit_oid)
}

/// Sends a file by Git LFS, if the Hub does not have it.
fn upload(client: &Client, digest: Digest, bytes: &[u8], purpose: Purpose<'_>) -> Result<()> {
    #[derive(Deserialize)]
    struct Batch {
        objects: Vec<Object>,
    }
    #[derive(Deserialize)]
    struct Object {
        #[serde(default)]
        actions: Option<Actions>,
        #[serde(default)]
        error: Option<Value>,
    }
    #[derive(Deserialize)]
    struct Actions {
        upload: Action,
        #[serde(default)]
        verify: Option<Action>,
    }

    let object = json!({ "oid": digest.to_string(), "size": bytes.len() });
    let asked = json!({ "operation": "upload", "transfers": ["basic"], "hash_algo": "sha256", "objects": [object] });
    let path = format!("{}.git/info/lfs/objects/batch", purpose.repository);
    let batch: Batch = client.post(&path, LFS, asked.to_string().as_bytes(), purpose)?;
    let refused = |found: String| Error::Hub {
        address: client.address(&path),
        expected: "an address to send the file to".to_owned(),
        found,
        remedy: "run the same command again later".to_owned(),
    };
    match batch.objects.into_iter().next() {
        None => Err(refused("none".to_owned())),
        Some(Object { error: Some(error), .. }) => Err(refused(error.to_string())),
        // The Hub has these bytes.
        Some(Object { actions: None, .. }) => Ok(()),
        Some(Object { actions: Some(actions), .. }) => {
            client.put(&actions.upload, bytes, purpose)?;
            match actions.verify {
                Some(verify) => client.post_to(&verify.href, LFS, object.to_string().as_bytes(), purpose).map(|_| ()),
                None => Ok(()),
            }
        }
    }
}

/// The name of a patch's file, which it has in the repository too.
fn file_name(patch: &Path) -> Result<&str> {
    let name = patch.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    // What a name that is read again has to be.
    match format!("hf:org/name/{name}").parse::<HubPatch>() {
        Ok(_) => Ok(name),
        Err(_) => Err(setting("patch", "a file NAME.bias, of letters, digits, `.`, `_` and `-`", patch.display())),
    }
}

fn is_ours(card: &[u8]) -> bool {
    String::from_utf8_lossy(card).contains(card::MARK)
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let parent = path.parent().unwrap_or(path);
    atomic::create_dirs(parent)?;
    Ok(atomic::write_file(path, bytes)?)
}

fn setting(field: &str, expected: impl Into<String>, found: impl ToString) -> Error {
    Error::Recipe { field: field.to_owned(), expected: expected.into(), found: found.to_string() }
}
