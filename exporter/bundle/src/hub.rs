//! Patches on the Hugging Face Hub: how one is named, and where it is once it was fetched.
//!
//! In: `hf:ORG/NAME[/FILE.bias][@REVISION]`, and the variables and the cache of the Hub's own library, huggingface_hub.
//! Out: the file of a patch. Nothing here asks the Hub. Refused: other names, patches that were not fetched, and a
//! repository of several patches where none is named.

use std::{
    borrow::Cow,
    env, fs,
    path::{Path, PathBuf},
    str::FromStr,
};

use crate::{Error, Result, store::user_dir};

/// What the names of places on the Hub begin with.
const SCHEME: &str = "hf:";

/// How a patch file's name ends.
const ENDING: &str = ".bias";

/// A patch in a repository on the Hub.
#[derive(Clone, Debug, PartialEq)]
pub struct HubPatch {
    /// The repository: an organization or user, and a name.
    pub repository: String,
    /// The file; none if it is the only patch there.
    pub file: Option<String>,
    /// A branch, a tag or a commit.
    pub revision: String,
}

impl FromStr for HubPatch {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || Error::field("patch", "hf:ORG/NAME, hf:ORG/NAME/FILE.bias, perhaps with @REVISION", text);
        let place = text.strip_prefix(SCHEME).ok_or_else(wrong)?;
        let (place, revision) = place.split_once('@').unwrap_or((place, "main"));
        let mut parts = place.splitn(3, '/');
        let (Some(owner), Some(name), file) = (parts.next(), parts.next(), parts.next()) else { return Err(wrong()) };
        // They become parts of paths and of addresses.
        let plain =
            |part: &str| !part.starts_with('.') && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
        let all = [owner, name].into_iter().chain(file).chain(revision.split('/'));
        if !all.into_iter().all(|part| !part.is_empty() && plain(part)) || file.is_some_and(|f| !f.ends_with(ENDING)) {
            return Err(wrong());
        }
        Ok(HubPatch {
            repository: format!("{owner}/{name}"),
            file: file.map(str::to_owned),
            revision: revision.to_owned(),
        })
    }
}

impl HubPatch {
    /// The patches among the files of a repository, those in directories left out.
    pub fn among<'a>(files: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
        files.into_iter().filter(|file| file.ends_with(ENDING) && !file.contains('/')).collect()
    }

    /// The one that is meant of the patches of a repository.
    ///
    /// # Errors
    /// When it is not there, or several are there and none is named.
    pub fn choose<'a>(&self, patches: &[&'a str]) -> Result<&'a str> {
        let wrong = |expected: &str, found: String| Err(Error::field(self.to_string(), expected, found));
        let found = || if patches.is_empty() { "none".to_owned() } else { patches.join(", ") };
        match (&self.file, patches) {
            (Some(file), _) => match patches.iter().find(|there| *there == file) {
                Some(there) => Ok(there),
                None => wrong(&format!("the patch {file}"), found()),
            },
            (None, [one]) => Ok(one),
            (None, []) => wrong("a patch, a file NAME.bias, in the repository", found()),
            (None, _) => wrong("one patch, or /FILE.bias behind the name of the repository", found()),
        }
    }

    /// Whether the revision is a commit, which never becomes another.
    pub fn is_commit(&self) -> bool {
        self.revision.len() == 40 && self.revision.bytes().all(|b| b.is_ascii_hexdigit())
    }
}

impl std::fmt::Display for HubPatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{SCHEME}{}", self.repository)?;
        if let Some(file) = &self.file {
            write!(f, "/{file}")?;
        }
        if self.revision != "main" { write!(f, "@{}", self.revision) } else { Ok(()) }
    }
}

/// What huggingface_hub keeps on this machine.
#[derive(Clone, Debug)]
pub struct Hub {
    home: PathBuf,
    cache: PathBuf,
}

impl Hub {
    /// The user's: what `HF_HUB_CACHE` and `HF_HOME` name, or else `$XDG_CACHE_HOME/huggingface` or
    /// `~/.cache/huggingface`.
    ///
    /// # Errors
    /// When no variable names a place.
    pub fn of_user() -> Result<Self> {
        let home = set("HF_HOME").map(PathBuf::from);
        let home = home.or_else(|| Some(user_dir("XDG_CACHE_HOME", ".cache")?.join("huggingface")));
        let home = home.ok_or_else(|| {
            let expected =
                "a directory in HF_HOME, or an absolute path in XDG_CACHE_HOME or HOME, to find the Hub's cache";
            Error::field("environment", expected, "none")
        })?;
        let cache = set("HF_HUB_CACHE").map_or_else(|| home.join("hub"), PathBuf::from);
        Ok(Hub { home, cache })
    }

    /// The address of the Hub: `HF_ENDPOINT`, or the public one.
    pub fn endpoint(&self) -> String {
        let endpoint = set("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        endpoint.trim_end_matches('/').to_owned()
    }

    /// A token, and what it was read from: `HF_TOKEN`, or the file that `hf auth login` writes.
    pub fn token(&self) -> Option<(String, String)> {
        let of_file = || {
            let path = set("HF_TOKEN_PATH").map_or_else(|| self.home.join("token"), PathBuf::from);
            let token = fs::read_to_string(&path).ok()?.trim().to_owned();
            (!token.is_empty()).then(|| (token, path.display().to_string()))
        };
        set("HF_TOKEN").map(|token| (token, "HF_TOKEN".to_owned())).or_else(of_file)
    }

    /// Whether `HF_HUB_OFFLINE` or `TRANSFORMERS_OFFLINE` says that nobody is to be asked.
    pub fn is_offline(&self) -> bool {
        let says_yes = |value: String| ["1", "on", "yes", "true"].contains(&value.to_lowercase().as_str());
        ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"].into_iter().filter_map(set).any(says_yes)
    }

    /// The directory of all that was fetched.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// The directory of what was fetched of a repository of models: in `refs` the commit of each revision, in
    /// `snapshots` the files of each commit.
    pub fn repository(&self, name: &str) -> PathBuf {
        self.cache.join(format!("models--{}", name.replace('/', "--")))
    }

    /// The directory of the files that were fetched of a revision.
    pub fn snapshot(&self, name: &str, revision: &str) -> Option<PathBuf> {
        let repository = self.repository(name);
        let commit = fs::read_to_string(repository.join("refs").join(revision));
        let snapshot = repository.join("snapshots").join(commit.as_deref().map_or(revision, str::trim));
        snapshot.is_dir().then_some(snapshot)
    }

    /// The file of a patch that was fetched.
    ///
    /// # Errors
    /// When it was not, or several of its repository were and none is named.
    pub fn patch(&self, patch: &HubPatch) -> Result<PathBuf> {
        let not_fetched = || Error::NotFetched { patch: patch.to_string(), cache: self.cache.clone() };
        let snapshot = self.snapshot(&patch.repository, &patch.revision).ok_or_else(not_fetched)?;
        let entries = fs::read_dir(&snapshot).map_err(Error::io(&snapshot, "read"))?;
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut files: Vec<String> = names.collect();
        files.sort();
        let patches = HubPatch::among(files.iter().map(String::as_str));
        if patch.file.as_deref().map_or(patches.is_empty(), |file| !patches.contains(&file)) {
            return Err(not_fetched());
        }
        Ok(snapshot.join(patch.choose(&patches)?))
    }
}

/// The file of a patch: a path as it is, of a name that begins with `hf:` the file that was fetched.
///
/// # Errors
/// When the name has another form than [`HubPatch`] has, or [`Hub::patch`] refuses it.
pub fn patch_file(patch: &Path) -> Result<Cow<'_, Path>> {
    match patch.to_str().filter(|text| text.starts_with(SCHEME)) {
        Some(text) => Ok(Cow::Owned(Hub::of_user()?.patch(&text.parse()?)?)),
        None => Ok(Cow::Borrowed(patch)),
    }
}

/// A variable. One that is set to nothing is as good as none.
fn set(name: &str) -> Option<String> {
    env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_a_repository_and_perhaps_a_file_and_a_revision() {
        let read = |text: &str| text.parse::<HubPatch>().map(|p| (p.repository, p.file, p.revision)).ok();
        let of = |file: Option<&str>, revision: &str| {
            Some(("org/name".to_owned(), file.map(str::to_owned), revision.to_owned()))
        };
        assert_eq!(read("hf:org/name"), of(None, "main"));
        assert_eq!(read("hf:org/name/a.bias@v1"), of(Some("a.bias"), "v1"));
        assert_eq!(read("hf:org/name@refs/pr/1"), of(None, "refs/pr/1"));
        for wrong in [
            "",
            "org/name",
            "hf:",
            "hf:name",
            "hf:org/",
            "hf:/name",
            "hf:org/name@",
            "hf:org/name/",
            "hf:org/name/a.txt",
            "hf:org/name/dir/a.bias",
            "hf:../name",
            "hf:org/..",
            "hf:org/name/.bias",
            "hf:org/name@../..",
            "hf:org/na me",
            "hf:org/name@/etc",
            "hf:org/name?x",
            "hf:org/name/a%2f.bias",
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        for text in ["hf:org/name", "hf:org/name/a.bias@v1"] {
            assert_eq!(text.parse::<HubPatch>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn the_only_patch_needs_no_name() {
        let choose = |text: &str, files: &[&str]| {
            let patches = HubPatch::among(files.iter().copied());
            text.parse::<HubPatch>().unwrap().choose(&patches).map(str::to_owned).map_err(|e| e.to_string())
        };
        let one = ["README.md", "a.bias", "a.bias.minisig", "old/b.bias"];
        assert_eq!(choose("hf:org/name", &one).unwrap(), "a.bias");
        assert_eq!(choose("hf:org/name/b.bias", &["a.bias", "b.bias"]).unwrap(), "b.bias");
        assert!(choose("hf:org/name", &["a.bias", "b.bias"]).unwrap_err().contains("found a.bias, b.bias"));
        assert!(choose("hf:org/name/b.bias", &one).unwrap_err().contains("expected the patch b.bias, found a.bias"));
        assert!(choose("hf:org/name", &["README.md"]).unwrap_err().contains("found none"));
    }
}
