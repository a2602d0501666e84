//! How a repository is read: which files count, by which names, and which of them are errors. The agent on a box
//! and `holdfast validate` read by this code alone, so that what the one calls an error the other doesn't pass
//! over.

use std::collections::BTreeMap;

use crate::diagnostic::Diagnostic;
use crate::model::document::Document;
use crate::model::{Purge, Stop};
use crate::name::{AppName, DeviceName};
use crate::select::{self, AppFile, File, Index, Selected};
use crate::tree::{Entry, EntryKind, Kind, Tree, Unread, stem};
use crate::yaml::{DOCUMENT_LIMIT, MANIFEST_LIMIT};

/// How deep folders in `manifests/` may lie in each other. A link may lead into a circle.
const DEPTH_LIMIT: usize = 16;
/// How many files `manifests/` may hold.
const FILE_LIMIT: usize = 4000;

/// What was read of some part of a repository.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Its files.
    pub files: Vec<File>,
    /// What can't be read by any box.
    pub errors: Vec<Diagnostic>,
    /// Something of it is still to come.
    pub is_late: bool,
    /// The box's own copy of it is at fault.
    pub damage: Option<String>,
    /// What can't be read may be an emergency stop.
    pub is_stop_unread: bool,
}

/// The documents that say what runs on a box. What is wrong with them is in [`Index::errors`] or at the app that it
/// belongs to.
///
/// # Errors
/// How the box's own copy is damaged.
pub fn index(tree: &dyn Tree, device: &DeviceName) -> Result<Index, String> {
    let mut reader = Reader::new(tree);
    reader.top();
    let device = reader.document(&format!("devices/{device}"));
    // A device that can't be read is told of by `select`.
    let site = device.as_ref().and_then(|device| select::site_of(device).ok().flatten());
    let site = site.and_then(|site| reader.document(&format!("sites/{site}")));
    let fleet = reader.document("holdfast");
    let stops = reader.orders(select::STOPS);
    let purges = reader.orders(select::PURGES);
    let apps = reader.apps();
    let Part { errors, damage, is_stop_unread, .. } = reader.part;
    match damage {
        Some(damage) => Err(damage),
        None => Ok(Index { fleet, device, site, stops, purges, apps, errors, is_stop_unread }),
    }
}

/// The manifests of each app of containers that runs here.
pub fn manifests(tree: &dyn Tree, selected: &Selected<'_>) -> BTreeMap<AppName, Part> {
    selected.folders().into_iter().map(|(app, folder)| (app, manifests_in(tree, &folder))).collect()
}

/// The manifests in a folder and in those below it.
pub fn manifests_in(tree: &dyn Tree, folder: &str) -> Part {
    let mut reader = Reader::new(tree);
    reader.manifests(folder, 0);
    reader.part
}

/// The files of `stops/` or `purges/`, and what lies there and can't be read.
pub(crate) fn orders(tree: &dyn Tree, folder: &str) -> Part {
    let mut reader = Reader::new(tree);
    let files = reader.orders(folder);
    Part { files, ..reader.part }
}

/// The folders of `apps/` with their documents, and what lies there and can't be read.
pub(crate) fn apps(tree: &dyn Tree) -> (BTreeMap<String, AppFile>, Part) {
    let mut reader = Reader::new(tree);
    let apps = reader.apps();
    (apps, reader.part)
}

/// What lies at the repository's top and can't be read, or is read by nobody.
pub(crate) fn top(tree: &dyn Tree) -> Part {
    let mut reader = Reader::new(tree);
    reader.top();
    reader.part
}

/// The document whose path without its ending is `stem`.
pub(crate) fn document(tree: &dyn Tree, stem: &str) -> Part {
    let mut reader = Reader::new(tree);
    let files = reader.document(stem).into_iter().collect();
    Part { files, ..reader.part }
}

/// Every file below a folder that is no note beside the documents, and what can't be read there.
pub(crate) fn files_below(tree: &dyn Tree, folder: &str) -> (Vec<String>, Part) {
    let mut reader = Reader::new(tree);
    let mut paths = Vec::new();
    let mut open = vec![(folder.to_owned(), 0)];
    while let Some((folder, depth)) = open.pop() {
        for (path, name, kind) in reader.entries(&folder) {
            match kind {
                Kind::Folder if depth < 4 * DEPTH_LIMIT => open.push((path, depth + 1)),
                Kind::Folder => reader.wrong(&path, "the folders are nested too deeply here"),
                Kind::File if is_aside(&name) => {}
                Kind::File => paths.push(path),
            }
        }
    }
    paths.sort();
    (paths, reader.part)
}

/// What people and tools leave in folders.
pub(crate) fn is_aside(name: &str) -> bool {
    name.starts_with('.') || name.ends_with(".md")
}

/// The same in folders whose every file may be an emergency stop: only what can't be one.
fn is_aside_of_orders(name: &str) -> bool {
    const TOOLS: [&str; 8] = [
        ".gitkeep",
        ".keep",
        ".gitignore",
        ".gitattributes",
        ".editorconfig",
        ".DS_Store",
        "README",
        "README.md",
    ];
    TOOLS.contains(&name)
}

/// What an entry at the repository's top was surely meant to be called.
fn meant(name: &str) -> Option<&'static str> {
    let lower = name.to_ascii_lowercase();
    let plain = stem(&lower).unwrap_or(&lower);
    let known = match plain {
        "stop" | "stops" => select::STOPS,
        "purge" | "purges" => select::PURGES,
        "app" | "apps" => "apps",
        _ => return None,
    };
    (name != known).then_some(known)
}

/// The kind of a document that looks like a Stop or a Purge and stands where nobody reads it.
pub(crate) fn misplaced_order(path: &str, bytes: &[u8]) -> Option<(&'static str, Diagnostic)> {
    stem(path)?;
    let text = std::str::from_utf8(bytes).ok().filter(|text| text.contains("holdfast.dev/"))?;
    let is = |kind: &&str| text.lines().any(|line| line.trim_end() == format!("kind: {kind}"));
    let kind = [Stop::KIND, Purge::KIND].into_iter().find(is)?;
    let folder = format!("{}s", kind.to_ascii_lowercase());
    let message = format!("a {kind} in {path} has no effect");
    Some((kind, Diagnostic::of_file(path, message).hint(format!("move it to {folder}/<name>.yaml"))))
}

struct Reader<'t> {
    tree: &'t dyn Tree,
    part: Part,
}

impl<'t> Reader<'t> {
    fn new(tree: &'t dyn Tree) -> Self {
        Reader { tree, part: Part::default() }
    }

    fn wrong(&mut self, path: &str, why: impl Into<String>) {
        self.part.errors.push(Diagnostic::of_file(path, why));
    }

    /// What was read; nothing if it can't be, which is noted.
    fn noted<T: Default>(&mut self, path: &str, read: Result<T, Unread>) -> T {
        match read {
            Ok(read) => return read,
            Err(Unread::Later) => self.part.is_late = true,
            Err(Unread::Refused(why)) => self.wrong(path, why),
            Err(Unread::Damaged(why)) => self.part.damage = Some(why),
        }
        T::default()
    }

    /// The entries of a folder that are files or folders: path, name, kind. Whatever else is there is noted.
    fn entries(&mut self, folder: &str) -> Vec<(String, String, Kind)> {
        let listed = self.tree.list(folder);
        let entries = self.noted(folder, listed);
        let mut found = Vec::new();
        for Entry { name, kind } in entries {
            let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
            let kind = match kind {
                EntryKind::Is(kind) => Some(kind),
                EntryKind::Link => {
                    let followed = self.tree.follow(&path).map(Some);
                    self.noted(&path, followed)
                }
                EntryKind::Unreadable(why) => {
                    self.wrong(&path, why);
                    None
                }
            };
            found.extend(kind.map(|kind| (path, name, kind)));
        }
        found
    }

    fn file(&mut self, path: &str, limit: usize) -> Option<File> {
        let read = self.tree.read(path, limit);
        self.noted(path, read).map(|bytes| File { path: path.to_owned(), bytes })
    }

    fn document(&mut self, stem: &str) -> Option<File> {
        let [first, second] =
            ["yaml", "yml"].map(|ending| self.file(&format!("{stem}.{ending}"), DOCUMENT_LIMIT));
        if let (Some(first), Some(second)) = (&first, &second) {
            let message =
                format!("{} exists as well, so it is ambiguous which of the two applies", first.path);
            let error = Diagnostic::of_file(&second.path, message).hint("remove one of them");
            self.part.errors.push(error);
        }
        first.or(second)
    }

    fn top(&mut self) {
        let listed = self.tree.list("");
        for Entry { name, kind } in self.noted("", listed) {
            if let EntryKind::Unreadable(why) = &kind {
                self.wrong(&name, why.clone());
            } else if let Some(known) = meant(&name) {
                self.part.is_stop_unread |= known == select::STOPS;
                let message = format!("{name} is not read; it was probably meant to be {known}/");
                self.part
                    .errors
                    .push(Diagnostic::of_file(&name, message).hint(format!("move it to {known}/")));
            } else if let Some(plain) = stem(&name)
                && plain != "holdfast"
                && !is_aside(&name)
                && kind == EntryKind::Is(Kind::File)
            {
                // What is too large is no order.
                if let Ok(Some(bytes)) = self.later(&name)
                    && let Some((kind, error)) = misplaced_order(&name, &bytes)
                {
                    self.part.is_stop_unread |= kind == Stop::KIND;
                    self.part.errors.push(error);
                }
            }
        }
    }

    fn later(&mut self, path: &str) -> Result<Option<Vec<u8>>, Unread> {
        let read = self.tree.read(path, DOCUMENT_LIMIT);
        self.part.is_late |= read == Err(Unread::Later);
        read
    }

    /// Whatever lies in a folder of orders is read, or is an error.
    fn orders(&mut self, folder: &str) -> Vec<File> {
        let mut found: BTreeMap<String, File> = BTreeMap::new();
        let before = self.part.errors.len();
        for (path, name, kind) in self.entries(folder) {
            let stem = match (kind, stem(&name)) {
                (Kind::File, _) if is_aside_of_orders(&name) => continue,
                (Kind::File, Some(stem)) => stem.to_owned(),
                (Kind::File, None) => {
                    let error = Diagnostic::of_file(&path, "only *.yaml and *.yml are read here");
                    self.part.errors.push(error.hint("rename or move the file"));
                    continue;
                }
                (Kind::Folder, _) => {
                    let message = format!("folders in {folder}/ aren't read");
                    let hint = format!("move its files to {folder}/");
                    self.part.errors.push(Diagnostic::of_file(&path, message).hint(hint));
                    continue;
                }
            };
            if let Err(error) = stem.parse::<AppName>() {
                let message = error.to_string().replace("a name of an app", "a name of a document");
                self.part.errors.push(Diagnostic::of_file(&path, message).hint("rename the file"));
                continue;
            }
            let Some(file) = self.file(&path, DOCUMENT_LIMIT) else { continue };
            if let Some(other) = found.insert(stem, file) {
                let message =
                    format!("{} exists as well, so it is ambiguous which of the two applies", other.path);
                self.part.errors.push(Diagnostic::of_file(&path, message).hint("remove one of them"));
            }
        }
        self.part.is_stop_unread |= folder == select::STOPS && self.part.errors.len() > before;
        found.into_values().collect()
    }

    fn apps(&mut self) -> BTreeMap<String, AppFile> {
        let mut apps = BTreeMap::new();
        for (path, name, kind) in self.entries("apps") {
            match kind {
                Kind::Folder => {
                    apps.insert(name, self.app(&path));
                }
                Kind::File if is_aside(&name) => {}
                Kind::File => {
                    let message = "files directly in apps/ are not read: each app has its own folder";
                    let hint = "move it to apps/<app>/, or out of apps/";
                    self.part.errors.push(Diagnostic::of_file(&path, message).hint(hint));
                }
            }
        }
        apps
    }

    fn app(&mut self, folder: &str) -> AppFile {
        let mut reader = Reader::new(self.tree);
        let file = reader.document(&format!("{folder}/app"));
        let listed = self.tree.list(folder);
        for Entry { name, kind } in reader.noted(folder, listed) {
            // Files that an app names may be what they like; but a name that is no path may hide a manifest.
            if let EntryKind::Unreadable(why) = kind {
                reader.wrong(&format!("{folder}/{name}"), why);
            }
        }
        let Part { errors, is_late, damage, .. } = reader.part;
        self.part.is_late |= is_late;
        self.part.damage = self.part.damage.take().or(damage);
        if errors.is_empty() { Ok(file) } else { Err(errors) }
    }

    fn manifests(&mut self, folder: &str, depth: usize) {
        for (path, name, kind) in self.entries(folder) {
            if self.part.files.len() >= FILE_LIMIT {
                return self.wrong(folder, format!("an app may have at most {FILE_LIMIT} manifest files"));
            }
            match kind {
                Kind::Folder if depth < DEPTH_LIMIT => self.manifests(&path, depth + 1),
                Kind::Folder => {
                    let why = format!("folders in manifests/ are nested at most {DEPTH_LIMIT} deep");
                    self.wrong(&path, why);
                }
                Kind::File if is_aside(&name) => {}
                Kind::File => {
                    let file = self.file(&path, MANIFEST_LIMIT);
                    self.part.files.extend(file);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostic::to_text;
    use crate::tree::Files;

    fn files(paths: &[&str]) -> Files {
        paths.iter().map(|path| ((*path).to_owned(), b"x: 1\n".to_vec())).collect()
    }

    fn read(paths: &[&str]) -> (Index, String) {
        let index = index(&files(paths), &"till-1".parse().unwrap()).unwrap();
        let errors = to_text(&index.errors);
        (index, errors)
    }

    #[test]
    fn whatever_lies_among_the_stops_is_read_or_an_error() {
        let (index, errors) = read(&["stops/a.yaml", "stops/b.yml", "stops/.gitkeep", "stops/README.md"]);
        assert_eq!((index.stops.len(), errors.as_str()), (2, ""));
        for path in [
            "stops/a/freeze.yaml",
            "stops/.freeze.yaml",
            "stops/freeze",
            "stops/freeze.YAML",
            "stops/freeze.json",
            "stops/Freeze.yaml",
            "stops/notes.md",
            "purges/.x.yaml",
            "purges/a/x.yaml",
            "stop/freeze.yaml",
            "Stops/freeze.yaml",
            "stops.yaml",
        ] {
            let (_, errors) = read(&[path]);
            assert!(!errors.is_empty(), "{path}");
        }
        let (_, errors) = read(&["stops/a.yaml", "stops/a.yml"]);
        assert!(errors.contains("so it is ambiguous which of the two applies"), "{errors}");
    }

    #[test]
    fn whatever_lies_among_the_apps_is_an_app_or_an_error() {
        let (index, errors) = read(&["apps/pos/app.yml", "apps/Bad/app.yaml", "apps/x/y", "apps/README.md"]);
        assert_eq!(errors, "");
        assert_eq!(index.apps.keys().collect::<Vec<_>>(), ["Bad", "pos", "x"]);
        assert_eq!(index.apps["pos"].as_ref().unwrap().as_ref().unwrap().path, "apps/pos/app.yml");
        assert_eq!(index.apps["x"], Ok(None));
        let (index, errors) = read(&["apps/pos.yaml", "apps/z/app.yaml", "apps/z/app.yml"]);
        assert!(errors.contains("apps/pos.yaml:1:1: files directly in apps/ are not read"), "{errors}");
        assert!(index.apps["z"].is_err());
    }

    #[test]
    fn manifests_in_folders_are_read_as_those_beside_them() {
        let part =
            manifests_in(&files(&["m/a.yaml", "m/b/c.yml", "m/b/.hidden.yaml", "m/d.md", "m/e.txt"]), "m");
        let paths: Vec<&str> = part.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["m/a.yaml", "m/b/c.yml", "m/e.txt"], "what a name is worth is for render to say");
    }

    /// A tree in which one name is none, and one link leads round in a circle.
    struct Odd;

    impl Tree for Odd {
        fn list(&self, folder: &str) -> Result<Vec<Entry>, Unread> {
            let entry = |name: &str, kind| Entry { name: name.to_owned(), kind };
            Ok(match folder {
                "" => vec![entry("apps", EntryKind::Is(Kind::Folder))],
                "apps" => vec![entry("pos", EntryKind::Is(Kind::Folder))],
                "apps/pos" => vec![entry("manifests/a.yaml", EntryKind::Unreadable("has a slash".into()))],
                _ => vec![entry("again", EntryKind::Link)],
            })
        }

        fn read(&self, _: &str, _: usize) -> Result<Option<Vec<u8>>, Unread> {
            Ok(None)
        }

        fn follow(&self, _: &str) -> Result<Kind, Unread> {
            Ok(Kind::Folder)
        }
    }

    #[test]
    fn a_name_that_is_no_path_holds_what_it_belongs_to() {
        let index = index(&Odd, &"till-1".parse().unwrap()).unwrap();
        assert_eq!(
            to_text(index.apps["pos"].as_ref().unwrap_err()),
            "apps/pos/manifests/a.yaml:1:1: has a slash"
        );
    }

    #[test]
    fn links_in_a_circle_end_in_an_error() {
        let part = manifests_in(&Odd, "m");
        assert!(to_text(&part.errors).contains("nested at most"), "{:?}", part.errors);
    }
}
