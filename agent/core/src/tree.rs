//! The files of a revision, whoever reads them: from the mirror on a box, from a folder for `validate` and
//! `render`.

use std::collections::BTreeMap;

/// The files of a repository by their paths, with `/` between their parts.
pub type Files = BTreeMap<String, Vec<u8>>;

/// Files by their paths. Symbolic links are followed inside of the repository, by [`Tree::read`] and [`Tree::list`]
/// alike; the empty path is the repository's top.
pub trait Tree {
    /// The entries of a folder, sorted by name; none if there is no such folder.
    ///
    /// # Errors
    /// [`Unread`].
    fn list(&self, folder: &str) -> Result<Vec<Entry>, Unread>;

    /// The content of a file; `None` if there is nothing.
    ///
    /// # Errors
    /// [`Unread`], among others if it has more than `limit` bytes.
    fn read(&self, path: &str, limit: usize) -> Result<Option<Vec<u8>>, Unread>;

    /// What the symbolic link at `path` leads to.
    ///
    /// # Errors
    /// [`Unread`], among others if it leads to nothing.
    fn follow(&self, path: &str) -> Result<Kind, Unread>;
}

/// Why something of a repository can't be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unread {
    /// It was left out when the revision was fetched; whoever gathers brings it, and everything is read again.
    Later,
    /// What the repository has there can't be read on any box, and why.
    Refused(String),
    /// The box's own copy is at fault.
    Damaged(String),
}

/// What a folder can hold that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file.
    File,
    /// A folder.
    Folder,
}

/// What an entry of a folder is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A file or a folder.
    Is(Kind),
    /// A symbolic link, see [`Tree::follow`].
    Link,
    /// Nothing that can be read, and why.
    Unreadable(String),
}

/// An entry of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name; where that is no text, as well as it can be shown.
    pub name: String,
    /// What it is.
    pub kind: EntryKind,
}

/// The name of an entry if it can be one of a file, else why not. Git takes any bytes.
pub fn file_name(bytes: &[u8]) -> Result<&str, String> {
    let no = |why: &str| Err(format!("this is not a valid file name, because it {why}: rename it"));
    let Ok(name) = std::str::from_utf8(bytes) else { return no("isn't UTF-8") };
    match name {
        "" => no("is empty"),
        "." | ".." => no("means another folder"),
        _ if name.contains('/') => no("has a slash in it"),
        _ if name.contains('\0') => no("contains a NUL character"),
        _ => Ok(name),
    }
}

impl Tree for Files {
    fn list(&self, folder: &str) -> Result<Vec<Entry>, Unread> {
        let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        let mut entries = Vec::new();
        let mut from = prefix.clone();
        while let Some((path, _)) =
            self.range(from.clone()..).next().filter(|(path, _)| path.starts_with(&prefix))
        {
            let rest = &path[prefix.len()..];
            match rest.split_once('/') {
                Some((name, _)) => {
                    entries.push(Entry { name: name.to_owned(), kind: EntryKind::Is(Kind::Folder) });
                    // '0' is what comes after '/'.
                    from = format!("{prefix}{name}0");
                }
                None => {
                    entries.push(Entry { name: rest.to_owned(), kind: EntryKind::Is(Kind::File) });
                    from = format!("{path}\0");
                }
            }
        }
        entries.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(entries)
    }

    fn read(&self, path: &str, limit: usize) -> Result<Option<Vec<u8>>, Unread> {
        match self.get(path) {
            Some(bytes) if bytes.len() > limit => Err(Unread::Refused(too_large(bytes.len() as u64, limit))),
            found => Ok(found.cloned()),
        }
    }

    fn follow(&self, path: &str) -> Result<Kind, Unread> {
        Err(Unread::Refused(format!("{path} is not a symbolic link")))
    }
}

/// Why a file of `size` bytes isn't read.
pub fn too_large(size: u64, limit: usize) -> String {
    format!("has {size} bytes, but at most {limit} are read")
}

/// The path of a document without its ending. `.yml` is as good as `.yaml`.
pub fn stem(path: &str) -> Option<&str> {
    path.strip_suffix(".yaml").or_else(|| path.strip_suffix(".yml"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_a_map_has_each_of_its_entries_once() {
        let files: Files = ["a/b/c", "a/b/d", "a/b.yaml", "a/c", "ab"].map(|p| (p.to_owned(), vec![])).into();
        let names =
            |folder: &str| files.list(folder).unwrap().into_iter().map(|e| e.name).collect::<Vec<_>>();
        assert_eq!(names(""), ["a", "ab"]);
        assert_eq!(names("a"), ["b", "b.yaml", "c"]);
        assert_eq!(names("a/b"), ["c", "d"]);
        assert!(names("x").is_empty());
    }

    #[test]
    fn a_name_that_no_file_can_have_is_none() {
        assert_eq!(file_name(b"app.yaml"), Ok("app.yaml"));
        for name in [&b"a/b"[..], b"", b".", b"..", b"\xff", b"a\0b"] {
            assert!(file_name(name).is_err(), "{name:?}");
        }
    }
}
