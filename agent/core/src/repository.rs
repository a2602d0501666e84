//! A whole repository at once: what `holdfast validate` and `holdfast render` look at. Every error is told,
//! and nothing is fetched: the files come in as values.

use std::collections::{BTreeMap, BTreeSet};

use semver::Version;

use crate::diagnostic::{Diagnostic, Position, nearest, sorted};
use crate::digest::Revision;
use crate::model::document::{AppLayers, Document, read};
use crate::model::{App, Body, Device, Fleet, Labels, Purge, Site, Stop};
use crate::name::{AppName, DeviceName};
use crate::render::{ArtifactRef, Desired, DesiredApp, Workload, manifests, render};
use crate::select::{
    self, File, Index, app_path, cycle, device_path, in_circle, manifests_folder, select, site_of, site_path,
};

/// The files of a repository by their paths, with `/` between their parts.
pub type Files = BTreeMap<String, Vec<u8>>;

/// Everything that is wrong in a repository, sorted. With `device` it is rendered for that box as well.
pub fn validate(files: &Files, device: Option<&DeviceName>, agent_version: &Version) -> Vec<Diagnostic> {
    let mut look = Look::default();
    for (path, bytes) in files {
        look.file(path, bytes);
    }
    look.apps_without_document(files);
    look.references();
    look.dependencies();
    look.too_large(files);
    look.unfit_for_podman(files);
    let mut errors = look.errors;
    if let Some(device) = device {
        let found = match render_for(files, device, agent_version) {
            Ok(desired) => {
                let mut found = missing_artifacts(files, &desired);
                found.extend(unfit(&desired));
                found.extend(desired.faulty.into_values().flatten());
                found
            }
            Err(found) => found,
        };
        // What is wrong for every box was told already, perhaps in other words.
        let place = |error: &Diagnostic| (error.file.clone(), error.line, error.column);
        let told: BTreeSet<_> = errors.iter().map(place).collect();
        errors.extend(found.into_iter().filter(|error| !told.contains(&place(error))));
    }
    sorted(errors)
}

/// What `device` would get from a repository. An error holds the whole revision; errors of single apps are in
/// `faulty`. Facts of the hardware aren't known here.
pub fn render_for(
    files: &Files,
    device: &DeviceName,
    agent_version: &Version,
) -> Result<Desired, Vec<Diagnostic>> {
    let index = index_of(files, device)?;
    let selected = select(&Revision(String::new()), &index, device, &Labels::new(), agent_version)?;
    let manifests = selected
        .folders()
        .into_iter()
        .map(|(name, folder)| (name, under(files, &format!("{folder}/")).collect()))
        .collect();
    Ok(render(selected, &manifests))
}

fn index_of(files: &Files, device: &DeviceName) -> Result<Index, Vec<Diagnostic>> {
    let device = file(files, &device_path(device));
    let site = match &device {
        // A device that can't be read is told of by `select`, with everything else.
        Some(device) => site_of(device).ok().flatten().and_then(|site| file(files, &site_path(&site))),
        None => None,
    };
    let folders: BTreeSet<&str> = files.keys().filter_map(|path| app_folder(path)).collect();
    Ok(Index {
        fleet: file(files, select::FLEET_PATH),
        device,
        site,
        stops: orders(files, select::STOPS),
        purges: orders(files, select::PURGES),
        apps: folders.into_iter().map(|name| (name.to_owned(), file(files, &app_path(name)))).collect(),
    })
}

fn file(files: &Files, path: &str) -> Option<File> {
    files.get(path).map(|bytes| File { path: path.to_owned(), bytes: bytes.clone() })
}

fn under<'a>(files: &'a Files, folder: &'a str) -> impl Iterator<Item = File> + 'a {
    files
        .range(folder.to_owned()..)
        .take_while(move |(path, _)| path.starts_with(folder))
        .map(|(path, bytes)| File { path: path.clone(), bytes: bytes.clone() })
}

/// The documents right in a folder.
fn orders(files: &Files, folder: &str) -> Vec<File> {
    let folder = format!("{folder}/");
    under(files, &folder).filter(|file| is_document_of(&file.path, &folder)).collect()
}

/// The kind of a document that looks like a Stop or a Purge and stands where nobody reads it.
fn misplaced_order(path: &str, bytes: &[u8]) -> Option<&'static str> {
    if !path.ends_with(".yaml") && !path.ends_with(".yml") {
        return None;
    }
    let text = std::str::from_utf8(bytes).ok().filter(|text| text.contains("holdfast.dev/"))?;
    let kind = |kind: &&str| text.lines().any(|line| line.trim_end() == format!("kind: {kind}"));
    ["Stop", "Purge"].into_iter().find(kind)
}

fn is_document_of(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|name| !name.contains('/') && select::is_order(name))
}

/// The folder in `apps/` that a path lies in.
fn app_folder(path: &str) -> Option<&str> {
    path.strip_prefix("apps/").and_then(|rest| rest.split_once('/')).map(|(folder, _)| folder)
}

/// Files that a box's apps name and the repository doesn't have.
fn missing_artifacts(files: &Files, desired: &Desired) -> Vec<Diagnostic> {
    desired.apps.iter().flat_map(|(name, app)| missing_of_app(files, name, app)).collect()
}

fn missing_of_app(files: &Files, name: &AppName, app: &DesiredApp) -> Vec<Diagnostic> {
    let workload = match &app.workload {
        Workload::Wasm(wasm) => Some(("the component", &wasm.component)),
        _ => None,
    };
    let probes = app.policy.components().map(|component| ("the probe component", component));
    let named = workload.into_iter().chain(probes);
    let missing = named.filter_map(|(what, artifact)| match artifact {
        ArtifactRef::File(path) if !files.contains_key(path) => Some((what, path)),
        _ => None,
    });
    missing
        .map(|(what, path)| {
            let message = format!("{what} {path} isn't in the repository");
            Diagnostic::of_file(app_path(name.as_str()), message)
        })
        .collect()
}

/// What podman can't hold of apps that are to run on any runtime.
fn unfit(desired: &Desired) -> impl Iterator<Item = Diagnostic> + '_ {
    desired.apps.values().flat_map(|app| match &app.workload {
        Workload::Container { driver: None, unfit_for_podman, .. } => unfit_for_podman.clone(),
        _ => Vec::new(),
    })
}

/// What was seen of a repository so far.
#[derive(Default)]
struct Look {
    fleet: Option<Fleet>,
    /// Each site's document, if it could be read.
    sites: BTreeMap<String, Option<Site>>,
    devices: Vec<(String, Device)>,
    /// Each app's document, if it could be read.
    apps: BTreeMap<String, Option<App>>,
    errors: Vec<Diagnostic>,
}

impl Look {
    fn file(&mut self, path: &str, bytes: &[u8]) {
        if path == select::FLEET_PATH {
            self.fleet = self.document(path, bytes, None);
        } else if let Some(rest) = path.strip_prefix("sites/") {
            if let Some(name) = self.name_of(path, rest) {
                let site = self.document(path, bytes, Some(name));
                self.sites.insert(name.to_owned(), site);
            }
        } else if let Some(rest) = path.strip_prefix("devices/") {
            if let Some(name) = self.name_of(path, rest)
                && let Some(device) = self.document(path, bytes, Some(name))
            {
                self.devices.push((path.to_owned(), device));
            }
        } else if let Some(rest) = path.strip_prefix("stops/") {
            if let Some(name) = self.name_of(path, rest) {
                self.document::<Stop>(path, bytes, Some(name));
            }
        } else if let Some(rest) = path.strip_prefix("purges/") {
            if let Some(name) = self.name_of(path, rest)
                && let Some(purge) = self.document::<Purge>(path, bytes, Some(name))
            {
                self.purged_objects(path, &purge);
            }
        } else if let Some(folder) = app_folder(path) {
            self.file_of_app(path, folder, bytes);
        } else if let Some(kind) = misplaced_order(path, bytes) {
            let folder = format!("{}s", kind.to_ascii_lowercase());
            let message = format!("a {kind} in {path} counts for nothing");
            self.errors
                .push(Diagnostic::of_file(path, message).hint(format!("move it to {folder}/<name>.yaml")));
        } else if path == "holdfast.yml" {
            self.errors.push(Diagnostic::of_file(path, "the Fleet document is called holdfast.yaml"));
        }
    }

    fn file_of_app(&mut self, path: &str, folder: &str, bytes: &[u8]) {
        let inside = path.strip_prefix(&format!("apps/{folder}/")).unwrap_or(path);
        if inside == "app.yaml" {
            if let Err(error) = folder.parse::<AppName>() {
                self.errors.push(Diagnostic::of_file(path, error.to_string()).hint("rename the folder"));
            }
            let app = self.document(path, bytes, Some(folder));
            self.apps.insert(folder.to_owned(), app);
        } else if inside.starts_with("manifests/") {
            let file = File { path: path.to_owned(), bytes: bytes.to_vec() };
            self.errors.extend(manifests::check(&file));
        }
    }

    fn purged_objects(&mut self, path: &str, purge: &Purge) {
        for object in purge.spec.objects.iter().filter(|purged| !purged.object.value.holds_data()) {
            let message = format!("{} holds no data: it goes by itself", object.object.value);
            self.errors.push(Diagnostic::new(path, object.object.at, message));
        }
    }

    fn document<D: Document>(&mut self, path: &str, bytes: &[u8], name: Option<&str>) -> Option<D> {
        read(path, bytes, name).map_err(|mut errors| self.errors.append(&mut errors)).ok()
    }

    /// The name that a document has by its path; files of other kinds have none.
    fn name_of<'a>(&mut self, path: &str, rest: &'a str) -> Option<&'a str> {
        let name = rest.rsplit('/').next().unwrap_or(rest);
        if name.starts_with('.') || name.ends_with(".md") {
            return None;
        }
        let stem = rest.strip_suffix(".yaml");
        if stem.is_none() {
            let message = "only *.yaml is read here";
            self.errors.push(Diagnostic::of_file(path, message).hint("rename or move the file"));
        }
        stem
    }

    fn apps_without_document(&mut self, files: &Files) {
        for folder in files.keys().filter_map(|path| app_folder(path)).collect::<BTreeSet<_>>() {
            if !self.apps.contains_key(folder) {
                let message = format!("the folder apps/{folder} has no app.yaml");
                self.errors.push(Diagnostic::of_file(app_path(folder), message));
                self.apps.insert(folder.to_owned(), None);
            }
        }
        for (folder, app) in &self.apps {
            let folder = match (app, folder.parse::<AppName>()) {
                (Some(App { spec, .. }), Ok(name)) if matches!(spec.workload, Body::Container(_)) => {
                    format!("{}/", manifests_folder(&name))
                }
                _ => continue,
            };
            if under(files, &folder).next().is_none() {
                let message = format!("the app is a container, and there is nothing in {folder}");
                self.errors
                    .push(Diagnostic::of_file(app_path(app_folder(&folder).unwrap_or_default()), message));
            }
        }
    }

    /// Objects that are too large for where their app may run.
    fn too_large(&mut self, files: &Files) {
        for (folder, app) in &self.apps {
            let (Some(App { spec, .. }), Ok(name)) = (app, folder.parse::<AppName>()) else { continue };
            let Body::Container(container) = &spec.workload else { continue };
            let manifests: Vec<File> = under(files, &format!("{}/", manifests_folder(&name))).collect();
            self.errors.extend(manifests::check_sizes(&name, container, &manifests));
        }
    }

    /// What podman can't hold of apps that may run there, as far as that shows without a box: where there are
    /// templates, only `--device` tells.
    fn unfit_for_podman(&mut self, files: &Files) {
        let mut errors = Vec::new();
        for (folder, app) in &self.apps {
            let (Some(App { spec, .. }), Ok(name)) = (app, folder.parse::<AppName>()) else { continue };
            let Body::Container(container) = &spec.workload else { continue };
            let manifests: Vec<File> = under(files, &format!("{}/", manifests_folder(&name))).collect();
            if manifests.iter().any(|file| file.path.ends_with(".j2")) {
                continue;
            }
            errors.extend(manifests::unfit_for_podman(&name, container, &manifests, spec.policy.strategy));
        }
        let told: BTreeSet<_> = self.errors.iter().map(|error| (error.file.clone(), error.line)).collect();
        self.errors
            .extend(errors.into_iter().filter(|error| !told.contains(&(error.file.clone(), error.line))));
    }

    /// Names in documents that nothing has.
    fn references(&mut self) {
        let mut errors = Vec::new();
        match &self.fleet {
            Some(fleet) => {
                self.unknown_apps(select::FLEET_PATH, &fleet.spec.apps, &mut errors);
                for group in &fleet.spec.groups {
                    self.unknown_apps(select::FLEET_PATH, &group.apps, &mut errors);
                }
            }
            None if self.errors.iter().any(|error| error.file == select::FLEET_PATH) => {}
            None => errors.push(
                Diagnostic::of_file(select::FLEET_PATH, "the Fleet document is missing")
                    .hint("add holdfast.yaml with kind: Fleet"),
            ),
        }
        for (name, site) in &self.sites {
            if let Some(site) = site {
                self.unknown_apps(&format!("sites/{name}.yaml"), &site.spec.apps, &mut errors);
            }
        }
        for (path, device) in &self.devices {
            self.unknown_apps(path, &device.spec.apps, &mut errors);
            if let Some(site) = &device.spec.site
                && !self.sites.contains_key(site.value.as_str())
            {
                let message = format!("there is no site {}", site.value);
                errors.push(self.not_found(path, site.at, message, site.value.as_str(), self.sites.keys()));
            }
        }
        self.errors.append(&mut errors);
    }

    fn unknown_apps(&self, path: &str, layers: &AppLayers, errors: &mut Vec<Diagnostic>) {
        for (name, entry) in &layers.0 {
            if !self.apps.contains_key(name.as_str()) {
                let message = format!("there is no app {name}");
                errors.push(self.not_found(path, entry.at, message, name.as_str(), self.apps.keys()));
            }
        }
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

    fn dependencies(&mut self) {
        let apps: BTreeMap<AppName, &App> =
            self.apps.iter().filter_map(|(name, app)| Some((name.parse().ok()?, app.as_ref()?))).collect();
        let edges: BTreeMap<&AppName, Vec<&AppName>> = apps
            .iter()
            .map(|(name, app)| (name, app.spec.depends_on.iter().map(|d| &d.value).collect()))
            .collect();
        let mut errors = Vec::new();
        for (name, app) in &apps {
            let path = app_path(name.as_str());
            for dependency in &app.spec.depends_on {
                if !self.apps.contains_key(dependency.value.as_str()) {
                    let message =
                        format!("{name} depends on {0}, which there is no app of", dependency.value);
                    let known = self.apps.keys();
                    errors.push(self.not_found(
                        &path,
                        dependency.at,
                        message,
                        dependency.value.as_str(),
                        known,
                    ));
                }
            }
            if let Some(way) = cycle(name, &edges) {
                errors.push(in_circle(&path, app, &way));
            }
        }
        self.errors.append(&mut errors);
    }
}
