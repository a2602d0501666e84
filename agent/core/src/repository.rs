//! A whole repository at once: what `holdfast validate` and `holdfast render` look at. Every error is told,
//! and nothing is fetched: the files come in as values.

use std::collections::{BTreeMap, BTreeSet};

use semver::Version;

use crate::diagnostic::{Diagnostic, Position, nearest, sorted};
use crate::kubernetes::schema::Schema;
use crate::model::app::ContainerDriver;
use crate::model::document::{Document, read};
use crate::model::{App, Body, Device, Fleet, Labels, Purge, Site, Stop};
use crate::name::{AppName, DeviceName};
use crate::reading::{self, Part};
use crate::render::clash::{self, Places};
use crate::render::manifests::Unfit;
use crate::render::{ArtifactRef, Desired, DesiredApp, Workload, manifests, render};
use crate::runtime::DriverName;
use crate::select::AppFile;
use crate::select::{self, File, app_path, cycle, in_circle, select_unproven, unknown_apps};
use crate::tree::stem;
use crate::tree::{EntryKind, Kind, Tree, Unread};
use crate::yaml::{DOCUMENT_LIMIT, Dialect, parse};

pub use crate::tree::Files;

/// Everything that is wrong in a repository, sorted. With `device` it is rendered for that box as well.
pub fn validate(tree: &dyn Tree, device: Option<&DeviceName>, agent_version: &Version) -> Vec<Diagnostic> {
    check(tree, device, agent_version).errors
}

/// What a look at a whole repository finds, sorted.
#[derive(Debug, Default)]
pub struct Checked {
    /// Everything that is wrong.
    pub errors: Vec<Diagnostic>,
    /// What is no error and still worth a look.
    pub warnings: Vec<Diagnostic>,
}

/// The same as [`validate`], with warnings.
pub fn check(tree: &dyn Tree, device: Option<&DeviceName>, agent_version: &Version) -> Checked {
    let mut look = Look::default();
    look.documents(tree);
    look.apps(tree);
    look.references();
    look.dependencies();
    look.clashes();
    let mut errors = look.errors;
    let mut warnings = look.warnings;
    // What is wrong was told already, perhaps in other words.
    let place = |error: &Diagnostic| (error.file.clone(), error.line, error.column);
    let told = |all: &[Diagnostic]| all.iter().map(place).collect::<BTreeSet<_>>();
    if let Some(device) = device {
        let found = match render_for(tree, device, agent_version) {
            Ok(desired) => {
                let before = told(&warnings);
                warnings.extend(unfit(&desired).filter(|warning| !before.contains(&place(warning))));
                let mut found = missing_artifacts(tree, &desired);
                found.extend(refused_by_kubernetes(&desired));
                found.extend(desired.faulty.into_values().flatten());
                found
            }
            Err(found) => found,
        };
        let before = told(&errors);
        errors.extend(found.into_iter().filter(|error| !before.contains(&place(error))));
    }
    // What no box takes is an error, and no warning beside that.
    let before = told(&errors);
    warnings.retain(|warning| !before.contains(&place(warning)));
    Checked { errors: sorted(errors), warnings: sorted(warnings) }
}

/// What `device` would get from a repository. An error holds the whole revision; errors of single apps are in
/// `faulty`. Facts of the hardware aren't known here.
pub fn render_for(
    tree: &dyn Tree,
    device: &DeviceName,
    agent_version: &Version,
) -> Result<Desired, Vec<Diagnostic>> {
    let damaged = |why: String| vec![Diagnostic::of_file("", why)];
    let index = reading::index(tree, device).map_err(damaged)?;
    let selected =
        select_unproven(&index, device, &Labels::new(), agent_version).map_err(|refused| refused.errors)?;
    let manifests = reading::manifests(tree, &selected);
    Ok(render(selected, &manifests))
}

/// Files that a box's apps name and the repository doesn't have.
fn missing_artifacts(tree: &dyn Tree, desired: &Desired) -> Vec<Diagnostic> {
    desired.apps.iter().flat_map(|(name, app)| missing_of_app(tree, name, app)).collect()
}

fn missing_of_app(tree: &dyn Tree, name: &AppName, app: &DesiredApp) -> Vec<Diagnostic> {
    let workload = match &app.workload {
        Workload::Wasm(wasm) => Some(("the component", &wasm.component)),
        _ => None,
    };
    let probes = app.policy.components().map(|component| ("the probe component", component));
    let named = workload.into_iter().chain(probes);
    let unread = named.filter_map(|(what, artifact)| match artifact {
        ArtifactRef::File(path) => match tree.read(path, usize::MAX) {
            Ok(Some(_)) | Err(Unread::Later) => None,
            Ok(None) => Some(format!("{what} {path} isn't in the repository")),
            Err(Unread::Refused(why) | Unread::Damaged(why)) => {
                Some(format!("{what} {path} can't be read: {why}"))
            }
        },
        ArtifactRef::Oci(_) => None,
    });
    unread.map(|message| Diagnostic::of_file(app_path(name.as_str()), message)).collect()
}

/// The name that a document has by its path.
fn name_in<'a>(folder: &str, path: &'a str) -> Option<&'a str> {
    stem(path.strip_prefix(folder)?.strip_prefix('/')?)
}

/// What podman can't hold of apps that are to run on any runtime.
fn unfit(desired: &Desired) -> impl Iterator<Item = Diagnostic> + '_ {
    desired.apps.values().flat_map(|app| match &app.workload {
        Workload::Container { driver: None, unfit_for_podman, .. } => {
            unfit_for_podman.iter().cloned().map(on_podman_boxes).collect()
        }
        _ => Vec::new(),
    })
}

/// What keeps an app from running on podman, told of an app that may run elsewhere: boxes with Kubernetes take it.
fn on_podman_boxes(mut error: Diagnostic) -> Diagnostic {
    error.message = format!("on boxes with podman the app is held: {}", error.message);
    error
}

/// What no supported release of Kubernetes takes of rendered manifests of apps that run nowhere else. A box asks its
/// own server, which may know more.
fn refused_by_kubernetes(desired: &Desired) -> Vec<Diagnostic> {
    let mut errors = Vec::new();
    let mut schema = None;
    for app in desired.apps.values() {
        let Workload::Container { driver: Some(DriverName::KUBERNETES), objects, places, .. } = &app.workload
        else {
            continue;
        };
        // The values of a Secret were taken out.
        for object in objects.iter().filter(|object| object.key.kind != "Secret") {
            // Plain files were looked at before, line by line.
            let place = places.get(&object.key).filter(|(file, _)| file.ends_with(".j2"));
            let Some((file, at)) = place else { continue };
            let text = object.spec.to_string();
            // JSON is YAML, and this was read before.
            let Ok(nodes) = parse(file, text.as_bytes(), Dialect::Kubernetes, text.len()) else { continue };
            let schema = schema.get_or_insert_with(Schema::new);
            let found = nodes.iter().flat_map(|node| schema.check(file, node));
            errors.extend(found.map(|error| Diagnostic { line: at.line, column: at.column, ..error }));
        }
    }
    errors
}

/// What was seen of a repository so far.
#[derive(Default)]
struct Look {
    /// The Fleet document with its path.
    fleet: Option<(String, Fleet)>,
    /// Each site's document with its path, if it could be read.
    sites: BTreeMap<String, Option<(String, Site)>>,
    devices: Vec<(String, Device)>,
    /// Each app's document with its path, if it could be read.
    apps: BTreeMap<String, Option<(String, App)>>,
    /// Where the objects of each app of containers stand, as far as that shows without a box.
    places: BTreeMap<AppName, (Option<DriverName>, Places)>,
    errors: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
}

impl Look {
    /// What could be read of a part; what couldn't is an error.
    fn files(&mut self, part: Part) -> Vec<File> {
        self.errors.extend(part.errors);
        self.errors.extend(part.damage.map(|why| Diagnostic::of_file("", why)));
        part.files
    }

    fn documents(&mut self, tree: &dyn Tree) {
        let errors_before = self.errors.len();
        let top = reading::top(tree);
        self.files(top);
        for file in self.files(reading::document(tree, "holdfast")) {
            self.fleet = self.document(&file, None).map(|fleet| (file.path.clone(), fleet));
        }
        let is_told = self.errors[errors_before..].iter().any(|error| error.file.starts_with("holdfast."));
        if self.fleet.is_none() && !is_told {
            let missing = Diagnostic::of_file(select::FLEET_PATH, "the Fleet document is missing");
            self.errors.push(missing.hint("add holdfast.yaml with kind: Fleet"));
        }
        for (name, file) in self.named(tree, "sites") {
            let site = self.document(&file, Some(&name)).map(|site| (file.path, site));
            self.sites.insert(name, site);
        }
        for (name, file) in self.named(tree, "devices") {
            let device = self.document(&file, Some(&name));
            self.devices.extend(device.map(|device| (file.path, device)));
        }
        for file in self.files(reading::orders(tree, select::STOPS)) {
            self.document::<Stop>(&file, name_in(select::STOPS, &file.path));
        }
        for file in self.files(reading::orders(tree, select::PURGES)) {
            let purge = self.document::<Purge>(&file, name_in(select::PURGES, &file.path));
            self.errors.extend(purge.iter().flat_map(|purge| select::purged_objects(&file.path, purge)));
        }
        self.misplaced_orders(tree);
    }

    /// Stops and purges in folders that no box reads.
    fn misplaced_orders(&mut self, tree: &dyn Tree) {
        const READ: [&str; 5] = ["apps", "sites", "devices", select::STOPS, select::PURGES];
        let top = tree.list("").unwrap_or_default();
        let others = top.into_iter().filter(|entry| !READ.contains(&entry.name.as_str()));
        for folder in others.filter(|entry| entry.kind == EntryKind::Is(Kind::Folder)) {
            // What can't be read there concerns nobody.
            let (paths, _) = reading::files_below(tree, &folder.name);
            for path in paths.into_iter().filter(|path| stem(path).is_some()) {
                if let Ok(Some(bytes)) = tree.read(&path, DOCUMENT_LIMIT) {
                    let misplaced = reading::misplaced_order(&path, &bytes);
                    // No box reads it, and none is kept from anything by it.
                    self.warnings.extend(misplaced.map(|(_, warning)| warning));
                }
            }
        }
    }

    /// The documents below `sites` or `devices`, with the names that they have by their paths.
    fn named(&mut self, tree: &dyn Tree, folder: &str) -> Vec<(String, File)> {
        let (paths, part) = reading::files_below(tree, folder);
        self.files(part);
        let mut seen = BTreeSet::new();
        let mut found = Vec::new();
        for path in paths {
            let Some(name) = name_in(folder, &path).map(str::to_owned) else {
                let error = Diagnostic::of_file(&path, "only *.yaml and *.yml are read here");
                self.errors.push(error.hint("rename or move the file"));
                continue;
            };
            // Both endings are read at once.
            if seen.insert(name.clone()) {
                let files = self.files(reading::document(tree, &format!("{folder}/{name}")));
                found.extend(files.into_iter().map(|file| (name.clone(), file)));
            }
        }
        found
    }

    fn apps(&mut self, tree: &dyn Tree) {
        let (apps, part) = reading::apps(tree);
        self.files(part);
        for (folder, file) in apps {
            let app = self.app(&folder, file);
            self.manifests(tree, &folder, app.as_ref());
            self.apps.insert(folder, app);
        }
    }

    fn app(&mut self, folder: &str, file: AppFile) -> Option<(String, App)> {
        if let Err(error) = folder.parse::<AppName>() {
            self.errors.push(select::misnamed(folder, &file, &error));
        }
        match file {
            Ok(Some(file)) => self.document(&file, Some(folder)).map(|app| (file.path, app)),
            Ok(None) => {
                let message =
                    format!("the folder apps/{folder} has no app.yaml: add it, or remove the folder");
                self.errors.push(Diagnostic::of_file(app_path(folder), message));
                None
            }
            Err(errors) => {
                self.errors.extend(errors);
                None
            }
        }
    }

    /// What is wrong in an app's manifests, as far as that shows without a box.
    fn manifests(&mut self, tree: &dyn Tree, folder: &str, app: Option<&(String, App)>) {
        let container = match app {
            Some((path, app)) => match &app.spec.workload {
                Body::Container(container) => Some((path, container, app.spec.policy.strategy)),
                // Nobody reads them.
                _ => return,
            },
            None => None,
        };
        let manifests = format!("apps/{folder}/manifests");
        let files = self.files(reading::manifests_in(tree, &manifests));
        for file in &files {
            self.errors.extend(manifests::check(file));
            self.warnings.extend(manifests::warnings(file));
        }
        let (Some((path, container, strategy)), Ok(name)) = (container, folder.parse::<AppName>()) else {
            return;
        };
        if files.is_empty() {
            let message =
                format!("the app has a container workload, but there are no manifests in {manifests}/");
            self.errors.push(Diagnostic::of_file(path, message));
        }
        self.errors.extend(manifests::check_objects(&name, container, &files));
        let places = manifests::places(&name, container, &files);
        self.places.insert(name.clone(), (container.driver.name(), places));
        // Where there are templates, only `--device` tells.
        if !files.iter().any(|file| file.path.ends_with(".j2")) {
            let Unfit { anywhere, on_podman } = Unfit::of(&name, container, &files, strategy);
            let place = |error: &Diagnostic| (error.file.clone(), error.line);
            let told: BTreeSet<_> = self.errors.iter().map(place).collect();
            let is_new = |error: &Diagnostic| !told.contains(&place(error));
            self.errors.extend(anywhere.into_iter().filter(is_new));
            let on_podman = on_podman.into_iter().filter(is_new);
            match container.driver {
                ContainerDriver::Any => self.warnings.extend(on_podman.map(on_podman_boxes)),
                _ => self.errors.extend(on_podman),
            }
        }
    }

    fn document<D: Document>(&mut self, file: &File, name: Option<&str>) -> Option<D> {
        read(&file.path, &file.bytes, name).map_err(|mut errors| self.errors.append(&mut errors)).ok()
    }

    /// Names in documents that nothing has.
    fn references(&mut self) {
        let mut errors = Vec::new();
        let known: Vec<&str> = self.apps.keys().map(String::as_str).collect();
        let mut check = |path: &str, layers| errors.extend(unknown_apps(path, layers, &known));
        if let Some((path, fleet)) = &self.fleet {
            check(path, &fleet.spec.apps);
            fleet.spec.groups.iter().for_each(|group| check(path, &group.apps));
        }
        self.sites.values().flatten().for_each(|(path, site)| check(path, &site.spec.apps));
        self.devices.iter().for_each(|(path, device)| check(path, &device.spec.apps));
        for (path, device) in &self.devices {
            if let Some(site) = &device.spec.site
                && !self.sites.contains_key(site.value.as_str())
            {
                let message = format!("there is no site {}", site.value);
                errors.push(self.not_found(path, site.at, message, site.value.as_str(), self.sites.keys()));
            }
        }
        self.errors.append(&mut errors);
    }

    fn not_found<'a>(
        &self,
        path: &str,
        at: Position,
        message: String,
        name: &str,
        known: impl Iterator<Item = &'a String>,
    ) -> Diagnostic {
        let mut diagnostic = Diagnostic::new(path, at, message);
        // Comparing with every one of a large fleet's sites, for every device, would take minutes.
        diagnostic.hint =
            nearest(name, known.take(2000).map(String::as_str)).map(|near| format!("did you mean {near}?"));
        diagnostic
    }

    /// Objects that two apps name that some box has both of.
    fn clashes(&mut self) {
        let named: Vec<_> =
            self.places.iter().map(|(name, (driver, places))| (name, *driver, places)).collect();
        let mut together: BTreeMap<(&AppName, &AppName), bool> = BTreeMap::new();
        for (one, other, _) in clash::pairs(&named) {
            together.entry((one.0, other.0)).or_insert_with(|| self.are_together(one.0, other.0));
        }
        let both = together.into_iter().filter(|(_, together)| *together).map(|(pair, _)| pair);
        let errors: Vec<_> = both
            .flat_map(|(one, other)| {
                let named = named.iter().filter(|(name, ..)| *name == one || *name == other);
                clash::clashes(&named.copied().collect::<Vec<_>>())
                    .into_values()
                    .flatten()
                    .collect::<Vec<_>>()
            })
            .collect();
        self.errors.extend(errors);
    }

    /// Whether both apps are placed on one of the boxes that the repository has. What their hardware is isn't known.
    fn are_together(&self, one: &AppName, other: &AppName) -> bool {
        let placement = |name: &AppName| {
            let (_, app) = self.apps.get(name.as_str())?.as_ref()?;
            Some(&app.spec.placement)
        };
        let (Some(one), Some(other)) = (placement(one), placement(other)) else { return false };
        self.devices.iter().any(|(_, device)| {
            let site = device.spec.site.as_ref().and_then(|site| self.sites.get(site.value.as_str()));
            let mut labels = site.and_then(Option::as_ref).map(|(_, site)| site.metadata.labels.0.clone());
            let labels = labels.get_or_insert_default();
            labels.extend(device.metadata.labels.0.clone());
            one.matches(labels) && other.matches(labels)
        })
    }

    fn dependencies(&mut self) {
        let apps: BTreeMap<AppName, &(String, App)> =
            self.apps.iter().filter_map(|(name, app)| Some((name.parse().ok()?, app.as_ref()?))).collect();
        let edges: BTreeMap<&AppName, Vec<&AppName>> = apps
            .iter()
            .map(|(name, (_, app))| (name, app.spec.depends_on.iter().map(|d| &d.value).collect()))
            .collect();
        let mut errors = Vec::new();
        for (name, (path, app)) in &apps {
            for dependency in &app.spec.depends_on {
                if !self.apps.contains_key(dependency.value.as_str()) {
                    let message =
                        format!("{name} depends on {0}, but there is no such app", dependency.value);
                    let known = self.apps.keys();
                    errors.push(self.not_found(
                        path,
                        dependency.at,
                        message,
                        dependency.value.as_str(),
                        known,
                    ));
                }
            }
            if let Some(way) = cycle(name, &edges) {
                errors.push(in_circle(path, app, &way));
            }
        }
        self.errors.append(&mut errors);
    }
}
