//! The demo's repository: a bare Git repository with signed commits, written without git.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use gix::objs::tree::{Entry, EntryKind};
use gix::objs::{Commit, Tree, WriteTo};
use gix::{ObjectId, actor};
use ssh_key::private::Ed25519Keypair;
use ssh_key::{HashAlg, LineEnding, PrivateKey};

/// Who commits.
const AUTHOR: &str = "demo@holdfast.example";

/// A repository of which the tip is known.
pub(super) struct Repository {
    repo: gix::Repository,
    dir: PathBuf,
    key: PrivateKey,
    files: BTreeMap<String, Vec<u8>>,
    tip: Option<ObjectId>,
}

impl Repository {
    /// An empty repository in `dir`, with a new key.
    pub(super) fn init(dir: &Path) -> Result<Self> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|error| anyhow!("the system gives no random bytes: {error}"))?;
        let repo = gix::init_bare(dir)
            .with_context(|| format!("cannot create a repository in {}", dir.display()))?;
        let key = PrivateKey::from(Ed25519Keypair::from_seed(&seed));
        Ok(Repository { repo, dir: dir.to_owned(), key, files: BTreeMap::new(), tip: None })
    }

    /// The file of allowed signers that trusts this repository's commits.
    pub(super) fn allowed_signers(&self) -> Result<String> {
        Ok(format!("{AUTHOR} namespaces=\"git\" {}\n", self.key.public_key().to_openssh()?))
    }

    /// Puts a file into the next commit.
    pub(super) fn put(&mut self, path: &str, content: impl Into<Vec<u8>>) {
        self.files.insert(path.to_owned(), content.into());
    }

    /// Changes a word of a file in the next commit.
    pub(super) fn edit(&mut self, path: &str, from: &str, to: &str) {
        if let Some(content) = self.files.get_mut(path) {
            *content = String::from_utf8_lossy(content).replace(from, to).into_bytes();
        }
    }

    /// Takes everything below `prefix` out of the next commit.
    pub(super) fn clear(&mut self, prefix: &str) {
        self.files.retain(|path, _| !path.starts_with(prefix));
    }

    /// Commits all files to the branch main; gives the commit's short id.
    pub(super) fn commit(&mut self, message: &str, signed: bool) -> Result<String> {
        let files: Vec<(&str, &[u8])> =
            self.files.iter().map(|(path, content)| (path.as_str(), content.as_slice())).collect();
        let tree = self.write_tree(&files)?;
        let seconds = jiff::Timestamp::now().as_second();
        let author = actor::Signature {
            name: "Holdfast demo".into(),
            email: AUTHOR.into(),
            time: gix::date::Time::new(seconds, 0),
        };
        let mut commit = Commit {
            tree,
            parents: self.tip.into_iter().collect(),
            author: author.clone(),
            committer: author,
            encoding: None,
            message: format!("{message}\n").into(),
            extra_headers: Vec::new(),
        };
        if signed {
            let mut payload = Vec::new();
            commit.write_to(&mut payload)?;
            let signature = self.key.sign("git", HashAlg::Sha512, &payload)?.to_pem(LineEnding::LF)?;
            commit.extra_headers.push(("gpgsig".into(), signature.trim_end().into()));
        }
        let id = self.repo.write_object(&commit)?.detach();
        self.move_main(id)?;
        self.tip = Some(id);
        Ok(id.to_hex_with_len(8).to_string())
    }

    /// Writes the tree of these files, which are sorted by path.
    fn write_tree(&self, files: &[(&str, &[u8])]) -> Result<ObjectId> {
        let mut folders: BTreeMap<&str, Vec<(&str, &[u8])>> = BTreeMap::new();
        let mut entries = Vec::new();
        for (path, content) in files {
            match path.split_once('/') {
                Some((folder, rest)) => folders.entry(folder).or_default().push((rest, content)),
                None => {
                    let oid = self.repo.write_blob(content)?.detach();
                    entries.push(Entry { mode: EntryKind::Blob.into(), filename: (*path).into(), oid });
                }
            }
        }
        for (folder, files) in folders {
            let oid = self.write_tree(&files)?;
            entries.push(Entry { mode: EntryKind::Tree.into(), filename: folder.into(), oid });
        }
        entries.sort();
        Ok(self.repo.write_object(&Tree { entries })?.detach())
    }

    fn move_main(&self, id: ObjectId) -> Result<()> {
        let main = self.dir.join("refs/heads/main");
        let new = main.with_extension("new");
        fs::create_dir_all(self.dir.join("refs/heads"))?;
        fs::write(&new, format!("{id}\n"))?;
        Ok(fs::rename(new, main)?)
    }
}
