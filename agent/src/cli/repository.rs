//! A repository that lies in a folder, as a map from path to content, for `validate` and `render`.
//!
//! Only what the agent would read is read: documents and what apps name. Nothing is followed out of the tree.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// A checkout with more than this is no repository of documents.
const MAX_FILES: usize = 1_000_000;
/// What the agent takes of one file, and so what is read of it here: one byte more shows that it is too long.
const MAX_FILE: u64 = 64 << 20;
/// Deeper trees are made to harm.
const MAX_DEPTH: usize = 64;

/// Reads all files below `folder`; `.git` is left out. Paths have `/` between their parts.
pub(super) fn read(folder: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let root = fs::canonicalize(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    if !root.is_dir() {
        bail!("{} is no folder: name the one that holds holdfast.yaml", folder.display());
    }
    let mut files = BTreeMap::new();
    read_folder(&root, &root, "", 0, &mut files)?;
    Ok(files)
}

fn read_folder(
    root: &Path,
    folder: &Path,
    prefix: &str,
    depth: usize,
    files: &mut BTreeMap<String, Vec<u8>>,
) -> Result<()> {
    if depth > MAX_DEPTH {
        bail!("{} is nested deeper than {MAX_DEPTH} folders", folder.display());
    }
    let cannot = || format!("cannot read {}", folder.display());
    for entry in fs::read_dir(folder).with_context(cannot)? {
        let entry = entry.with_context(cannot)?;
        let path = entry.path();
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else {
            bail!("{} has a name that isn't UTF-8: rename it", path.display());
        };
        if name == ".git" {
            continue;
        }
        let below = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        let kind =
            fs::metadata(inside(root, &path)?).with_context(|| format!("cannot read {}", path.display()))?;
        if kind.is_dir() {
            read_folder(root, &path, &below, depth + 1, files)?;
        } else if kind.is_file() {
            if files.len() >= MAX_FILES {
                bail!("{} has more than {MAX_FILES} files", root.display());
            }
            files.insert(below, read_file(&path, kind.len())?);
        }
    }
    Ok(())
}

/// Where `path` really is; an error if that is outside of `root`, as the agent refuses such links too.
fn inside(root: &Path, path: &Path) -> Result<PathBuf> {
    let real = fs::canonicalize(path).with_context(|| format!("cannot read {}", path.display()))?;
    if !real.starts_with(root) {
        bail!("{} is a link that leaves the repository: the agent refuses such links", path.display());
    }
    Ok(real)
}

fn read_file(path: &Path, length: u64) -> Result<Vec<u8>> {
    if length > MAX_FILE {
        bail!("{} has {length} bytes; the agent takes {MAX_FILE} at most of one file", path.display());
    }
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_with_their_paths_and_git_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("apps/pos")).unwrap();
        fs::create_dir_all(folder.path().join(".git")).unwrap();
        for path in ["holdfast.yaml", "apps/pos/app.yaml", ".git/HEAD"] {
            fs::write(folder.path().join(path), path).unwrap();
        }
        let files = read(folder.path()).unwrap();
        assert_eq!(files.keys().collect::<Vec<_>>(), ["apps/pos/app.yaml", "holdfast.yaml"]);
        assert_eq!(files["holdfast.yaml"], b"holdfast.yaml");
    }

    #[test]
    fn a_link_that_leaves_the_tree_or_runs_in_a_circle_is_an_error() {
        for target in ["/etc", "."] {
            let folder = tempfile::tempdir().unwrap();
            std::os::unix::fs::symlink(target, folder.path().join("link")).unwrap();
            assert!(read(folder.path()).is_err(), "{target}");
        }
    }

    #[test]
    fn a_folder_that_is_none_is_said_to_be_none() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(read(file.path()).unwrap_err().to_string().contains("holds holdfast.yaml"));
        assert!(read(Path::new("/nowhere")).is_err());
    }
}
