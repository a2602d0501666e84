//! Repositories made by real git, with commits signed by real SSH keys.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::tools::{printed, run};

/// A private key on disk, with its public key beside it.
#[derive(Clone, Debug)]
pub struct Key {
    /// The private key's file.
    pub file: PathBuf,
}

impl Key {
    /// Makes a key: `kind` and options are ssh-keygen's, such as `["-t", "rsa", "-b", "2048"]`.
    pub fn make(file: PathBuf, kind: &[&str]) -> Self {
        run(Command::new("ssh-keygen").args(["-q", "-N", "", "-C", "test", "-f"]).arg(&file).args(kind));
        Key { file }
    }

    /// The public key's line.
    pub fn public(&self) -> String {
        std::fs::read_to_string(self.file.with_extension("pub")).unwrap().trim().to_owned()
    }

    /// The fingerprint, as ssh-keygen prints it.
    pub fn fingerprint(&self) -> String {
        let text = printed(Command::new("ssh-keygen").arg("-lf").arg(self.file.with_extension("pub")));
        text.split(' ').nth(1).unwrap().to_owned()
    }
}

/// Who signs a commit.
#[derive(Clone, Copy, Debug)]
pub enum Signer<'a> {
    /// The key that [`SignedRepo::allowed_signers`] lists.
    Ops,
    /// Another key.
    Key(&'a Key),
    /// Nobody.
    Nobody,
}

/// A repository with a work tree, and a key that may sign for it.
#[derive(Debug)]
pub struct SignedRepo {
    dir: TempDir,
    ops: Key,
}

impl SignedRepo {
    /// An empty repository on the branch `main`.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ops = Key::make(dir.path().join("ops"), &["-t", "ed25519"]);
        let repo = SignedRepo { dir, ops };
        std::fs::create_dir(repo.path()).unwrap();
        repo.git(&["init", "-q", "-b", "main"]);
        std::fs::write(repo.allowed_signers(), format!("ops@example {}\n", repo.ops.public())).unwrap();
        repo
    }

    /// The work tree.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("work")
    }

    /// A folder beside the work tree, for keys and other things.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The address for `source.url`.
    pub fn url(&self) -> String {
        format!("file://{}", self.path().display())
    }

    /// A file that lists the key of [`Signer::Ops`].
    pub fn allowed_signers(&self) -> PathBuf {
        self.dir.path().join("allowed_signers")
    }

    /// The key of [`Signer::Ops`].
    pub fn ops(&self) -> &Key {
        &self.ops
    }

    /// Makes another key.
    pub fn key(&self, name: &str, kind: &[&str]) -> Key {
        Key::make(self.dir.path().join(name), kind)
    }

    /// Runs git in the work tree, away from the user's configuration, and gives back what it printed.
    pub fn git(&self, args: &[&str]) -> String {
        printed(&mut self.command(args))
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = git_in(&self.path());
        command.args(args);
        command
    }

    /// Writes files; a content of `""` is an empty file.
    pub fn write(&self, files: &[(&str, &str)]) {
        for (path, content) in files {
            let path = self.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
    }

    /// Writes the files, commits everything in the work tree, and gives back the commit's id.
    pub fn commit(&self, files: &[(&str, &str)], signer: Signer<'_>) -> String {
        self.commit_at(files, signer, None)
    }

    /// The same, with a committer's time such as `2026-01-02T03:04:05Z`.
    pub fn commit_at(&self, files: &[(&str, &str)], signer: Signer<'_>, at: Option<&str>) -> String {
        self.write(files);
        self.git(&["add", "-A"]);
        let mut command = self.command(&[]);
        let key = match signer {
            Signer::Ops => Some(&self.ops),
            Signer::Key(key) => Some(key),
            Signer::Nobody => None,
        };
        if let Some(key) = key {
            command
                .args(["-c", "gpg.format=ssh", "-c"])
                .arg(format!("user.signingkey={}", key.file.display()));
        }
        command.args(["commit", "-q", "--allow-empty", "-m", "a change"]);
        command.arg(if key.is_some() { "-S" } else { "--no-gpg-sign" });
        if let Some(at) = at {
            command.env("GIT_COMMITTER_DATE", at);
        }
        run(&mut command);
        self.head()
    }

    /// The id of the commit that is checked out.
    pub fn head(&self) -> String {
        self.git(&["rev-parse", "HEAD"])
    }

    /// Pushes the branch `main` to a bare repository, by force.
    pub fn push(&self, bare: &Path) {
        self.git(&["push", "-q", "--force", &format!("file://{}", bare.display()), "main:main"]);
    }
}

/// git in a folder, without the configuration and the environment of whoever runs the tests.
pub fn git_in(dir: &Path) -> Command {
    let mut command = Command::new("git");
    command.arg("-C").arg(dir).env("HOME", dir);
    for (name, value) in [
        ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ("GIT_CONFIG_NOSYSTEM", "1"),
        ("GIT_AUTHOR_NAME", "Test"),
        ("GIT_AUTHOR_EMAIL", "test@example"),
        ("GIT_COMMITTER_NAME", "Test"),
        ("GIT_COMMITTER_EMAIL", "test@example"),
    ] {
        command.env(name, value);
    }
    for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY"] {
        command.env_remove(name);
    }
    command
}

/// The ids of all objects in a mirror.
pub fn objects(mirror: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for file in std::fs::read_dir(mirror.join("objects/pack")).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "idx") {
            let index = std::fs::File::open(&path).unwrap();
            let text = printed(Command::new("git").arg("show-index").stdin(Stdio::from(index)));
            found.extend(text.lines().map(|line| line.split(' ').nth(1).unwrap().to_owned()));
        }
    }
    found
}
