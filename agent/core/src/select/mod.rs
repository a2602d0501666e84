//! Selected: which apps run on this box, with the values that they get. Decided before any content is
//! fetched, so that a box fetches only its own part.

mod apps;
mod depends;
mod policy;
#[cfg(test)]
mod tests;
mod values;

use std::collections::BTreeMap;

use semver::Version;

use crate::change::ChangePolicy;
use crate::diagnostic::{Diagnostic, nearest, sorted};
use crate::digest::Revision;
use crate::model::document::{self, Device, Fleet, Site};
use crate::model::{App, HARDWARE_PREFIX, Labels, Values};
use crate::name::{AppName, DeviceName, SiteName};
use crate::verify::Verified;

pub(crate) use apps::misnamed;
pub use depends::{cycle, in_circle};
pub(crate) use policy::purged_objects;

/// A file of the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its path in the repository, with `/` between its parts.
    pub path: String,
    /// What is in it.
    pub bytes: Vec<u8>,
}

/// An app's document: none if its folder has none, or why it can't be read.
pub type AppFile = Result<Option<File>, Vec<Diagnostic>>;

/// The documents that say what runs on a box.
#[derive(Clone, Debug, Default)]
pub struct Index {
    /// `holdfast.yaml`.
    pub fleet: Option<File>,
    /// `devices/<device>.yaml`.
    pub device: Option<File>,
    /// `sites/<site>.yaml` of the site that the device names.
    pub site: Option<File>,
    /// The files of `stops/`.
    pub stops: Vec<File>,
    /// The files of `purges/`.
    pub purges: Vec<File>,
    /// For each folder in `apps/` its `app.yaml`.
    pub apps: BTreeMap<String, AppFile>,
    /// What can't be read and belongs to no single app: it holds the revision.
    pub errors: Vec<Diagnostic>,
    /// One of them may be about an emergency stop.
    pub is_stop_unread: bool,
}

/// Why a revision as a whole is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What is wrong.
    pub errors: Vec<Diagnostic>,
    /// It may well hold an emergency stop for this box, so that nothing else is changed either.
    pub stops: bool,
}

/// An app that runs here.
#[derive(Clone, Debug, PartialEq)]
pub struct PlacedApp {
    /// Its document.
    pub app: App,
    /// Where that stands.
    pub file: String,
    /// Its values, every layer merged.
    pub values: Values,
}

/// What runs on a box, by its documents alone. Only [`select`] makes one, of a revision that was verified; and it is
/// rendered under that proof and no other.
#[derive(Clone, Debug, PartialEq)]
pub struct Selected<'v> {
    /// What it was selected from; none for files that are only looked at.
    verified: Option<&'v Verified>,
    /// The box.
    pub device: DeviceName,
    /// Where it stands.
    pub site: Option<SiteName>,
    /// Its labels: its Site's, then its Device's, then what the hardware is.
    pub labels: Labels,
    /// The apps that run here.
    pub apps: BTreeMap<AppName, PlacedApp>,
    /// Apps whose documents are wrong and that may be placed here: each is held, alone.
    pub faulty: BTreeMap<AppName, Vec<Diagnostic>>,
    /// What is wrong and holds nothing on this box.
    pub warnings: Vec<Diagnostic>,
    /// When and how much may be changed.
    pub policy: ChangePolicy,
}

impl Selected<'_> {
    /// The revision that it was selected from.
    pub fn revision(&self) -> Revision {
        self.verified.map_or_else(|| Revision(String::new()), |verified| verified.revision().clone())
    }

    /// The folders that must be read to render: the manifests of each app of containers. Other files are
    /// read by name, once they are artifacts.
    pub fn folders(&self) -> BTreeMap<AppName, String> {
        self.apps
            .iter()
            .filter(|(_, placed)| matches!(placed.app.spec.workload, crate::model::Body::Container(_)))
            .map(|(name, _)| (name.clone(), manifests_folder(name)))
            .collect()
    }
}

/// Where an app's manifests stand.
pub fn manifests_folder(app: &AppName) -> String {
    format!("apps/{app}/manifests")
}

/// Where the Fleet document stands.
pub const FLEET_PATH: &str = "holdfast.yaml";

/// Where documents stand that order something of boxes: stops and purges.
pub const STOPS: &str = "stops";
/// See [`STOPS`].
pub const PURGES: &str = "purges";

/// Where a device's document stands.
pub fn device_path(device: &DeviceName) -> String {
    format!("devices/{device}.yaml")
}

/// Where a site's document stands.
pub fn site_path(site: &SiteName) -> String {
    format!("sites/{site}.yaml")
}

/// Where an app's document stands. Takes the folder's name, which may be no good name.
pub fn app_path(folder: &str) -> String {
    format!("apps/{folder}/app.yaml")
}

/// The site that a device's document names, so that the caller knows which one to read.
pub fn site_of(device: &File) -> Result<Option<SiteName>, Vec<Diagnostic>> {
    let device: Device = document::read(&device.path, &device.bytes, None)?;
    Ok(device.spec.site.map(|site| site.value))
}

/// Selects what runs on `device`. `facts` are labels under `hw.holdfast.dev/`; others in it are left out.
///
/// An error here holds the whole revision: the Fleet, Site or Device document is missing or wrong, or something can't be
/// read that belongs to no single app.
pub fn select<'v>(
    verified: &'v Verified,
    index: &Index,
    device: &DeviceName,
    facts: &Labels,
    agent_version: &Version,
) -> Result<Selected<'v>, Refused> {
    select_from(Some(verified), index, device, facts, agent_version)
}

/// The same for files that nothing vouches for: to show what a box would get, never to give it that.
pub(crate) fn select_unproven(
    index: &Index,
    device: &DeviceName,
    facts: &Labels,
    agent_version: &Version,
) -> Result<Selected<'static>, Refused> {
    select_from(None, index, device, facts, agent_version)
}

fn select_from<'v>(
    verified: Option<&'v Verified>,
    index: &Index,
    device: &DeviceName,
    facts: &Labels,
    agent_version: &Version,
) -> Result<Selected<'v>, Refused> {
    let refused = |labels: Option<&Labels>, mut errors: Vec<Diagnostic>| {
        errors.extend(index.errors.iter().cloned());
        Refused { errors: sorted(errors), stops: policy::may_stop(index, labels) }
    };
    let ground = Ground::read(index, device).map_err(|errors| refused(None, errors))?;
    let labels = ground.labels(facts);
    let policy = policy::of(&ground, index, &labels);
    let mut errors = ground.unknown_apps(index);
    let policy = match policy {
        Ok(policy) if errors.is_empty() && index.errors.is_empty() => policy,
        Ok(_) => return Err(refused(Some(&labels), errors)),
        Err(found) => {
            errors.extend(found);
            return Err(refused(Some(&labels), errors));
        }
    };
    let mut selected = Selected {
        verified,
        device: device.clone(),
        site: ground.device.spec.site.as_ref().map(|site| site.value.clone()),
        labels,
        apps: BTreeMap::new(),
        faulty: BTreeMap::new(),
        warnings: Vec::new(),
        policy,
    };
    for (folder, file) in &index.apps {
        if let Err(misnamed) = apps::place(&ground, folder, file, agent_version, &mut selected) {
            errors.extend(misnamed);
        }
    }
    if !errors.is_empty() {
        return Err(refused(Some(&selected.labels), errors));
    }
    let known = index.apps.keys().map(String::as_str).collect();
    for (name, diagnostics) in depends::check(&selected, &known) {
        selected.apps.remove(&name);
        selected.faulty.entry(name).or_default().extend(diagnostics);
    }
    for diagnostics in selected.faulty.values_mut() {
        *diagnostics = sorted(std::mem::take(diagnostics));
    }
    Ok(selected)
}

/// The documents that concern every app.
pub(crate) struct Ground {
    pub(crate) fleet: Fleet,
    pub(crate) site: Option<Site>,
    pub(crate) device: Device,
}

impl Ground {
    fn read(index: &Index, device: &DeviceName) -> Result<Ground, Vec<Diagnostic>> {
        let mut errors = Vec::new();
        let fleet = one::<Fleet>(index.fleet.as_ref(), FLEET_PATH, None, "the Fleet document", &mut errors);
        let path = device_path(device);
        let device = one::<Device>(
            index.device.as_ref(),
            &path,
            Some(device.as_str()),
            "this box's document",
            &mut errors,
        );
        let named = device.as_ref().and_then(|device| device.spec.site.as_ref());
        let site = named.map(|name| {
            let path = site_path(&name.value);
            if index.site.is_none() {
                let message = format!("the site {} has no document", name.value);
                let file = index.device.as_ref().map_or_else(String::new, |file| file.path.clone());
                errors.push(Diagnostic::new(file, name.at, message).hint(format!("add {path}")));
                return None;
            }
            one::<Site>(
                index.site.as_ref(),
                &path,
                Some(name.value.as_str()),
                "the site's document",
                &mut errors,
            )
        });
        match (fleet, device, site) {
            (Some(fleet), Some(device), None) if errors.is_empty() => {
                Ok(Ground { fleet, site: None, device })
            }
            (Some(fleet), Some(device), Some(Some(site))) if errors.is_empty() => {
                Ok(Ground { fleet, site: Some(site), device })
            }
            _ => Err(sorted(errors)),
        }
    }

    /// Names in the layers of values that no app has.
    fn unknown_apps(&self, index: &Index) -> Vec<Diagnostic> {
        let path = |file: &Option<File>| file.as_ref().map_or_else(String::new, |file| file.path.clone());
        let fleet = path(&index.fleet);
        let mut layers = vec![(fleet.clone(), &self.fleet.spec.apps)];
        layers.extend(self.fleet.spec.groups.iter().map(|group| (fleet.clone(), &group.apps)));
        layers.extend(self.site.iter().map(|site| (path(&index.site), &site.spec.apps)));
        layers.push((path(&index.device), &self.device.spec.apps));
        let known: Vec<&str> = index.apps.keys().map(String::as_str).collect();
        layers.into_iter().flat_map(|(path, layers)| unknown_apps(&path, layers, &known)).collect()
    }

    /// Later ones win: the Site's, the Device's, the hardware's.
    fn labels(&self, facts: &Labels) -> Labels {
        let mut labels = self.site.as_ref().map(|site| site.metadata.labels.0.clone()).unwrap_or_default();
        labels.extend(self.device.metadata.labels.0.clone());
        let hardware = facts.iter().filter(|(key, _)| key.starts_with(HARDWARE_PREFIX));
        labels.extend(hardware.map(|(key, value)| (key.clone(), value.clone())));
        labels
    }
}

/// The entries of a layer for apps that aren't among `known`, which is sorted.
pub(crate) fn unknown_apps(path: &str, layers: &document::AppLayers, known: &[&str]) -> Vec<Diagnostic> {
    let unknown = layers.0.iter().filter(|(name, _)| known.binary_search(&name.as_str()).is_err());
    unknown
        .map(|(name, entry)| {
            let mut error = Diagnostic::new(path, entry.at, format!("there is no app {name}"));
            let near = nearest(name.as_str(), known.iter().take(2000).copied());
            error.hint = near.map(|near| format!("did you mean {near}?"));
            error
        })
        .collect()
}

fn one<D: document::Document>(
    file: Option<&File>,
    path: &str,
    expected: Option<&str>,
    what: &str,
    errors: &mut Vec<Diagnostic>,
) -> Option<D> {
    let Some(file) = file else {
        let message = format!("{what} is missing");
        errors.push(Diagnostic::of_file(path, message).hint(format!("add {path} with kind: {}", D::KIND)));
        return None;
    };
    document::read(&file.path, &file.bytes, expected).map_err(|mut found| errors.append(&mut found)).ok()
}
