//! The volumes of claims: they outlive pods and releases, and go over from app to app. podman can't change a volume's
//! labels, so who has it now stands beside its data, in a file of the volume's own folder: no container can write there,
//! and the file goes with the volume.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use holdfast_core::digest::ReleaseId;
use holdfast_core::name::{AppName, DeviceName, ObjectKey};
use holdfast_core::observe::Observed;
use serde::{Deserialize, Serialize};

use super::{CLAIM, PodmanDriver, api, marks};
use crate::DriverError;
use crate::durable_file::publish;

/// The file beside the data.
const OWNER_FILE: &str = "holdfast-owner.json";
/// Where podman's own kind of volume has its data, in the volume's folder.
const DATA: &str = "_data";

/// Who has a volume, where that isn't who made it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct OwnerRecord {
    device: DeviceName,
    app: AppName,
}

/// A claim's volume that an app has.
pub(super) struct HeldClaim {
    pub(super) key: ObjectKey,
    /// The release that it was made for.
    pub(super) release: Option<ReleaseId>,
}

impl PodmanDriver {
    /// A claim's volume, which is made if it isn't there.
    pub(super) async fn ensure_claim(
        &self,
        app: &AppName,
        claim: &ObjectKey,
        release: ReleaseId,
    ) -> Result<api::Volume, DriverError> {
        let name = marks::claim_name(claim);
        if let Some(found) = self.api.volume(&name).await? {
            self.may_use(app, claim, &found).await?;
            return Ok(found);
        }
        Ok(self.api.create_volume(&name, &marks::labels(&self.owner, app, claim, release)).await?)
    }

    /// An error if a claim's volume isn't this app's, or if a container of another app still runs on it: two programs on
    /// the same data would harm it. Whoever planned this may not have known.
    async fn may_use(
        &self,
        app: &AppName,
        claim: &ObjectKey,
        volume: &api::Volume,
    ) -> Result<(), DriverError> {
        if self.owner_of(volume).await? != Some(app.clone()) {
            return Err(DriverError::Runtime(format!("{claim} can't be used: it isn't this app's now")));
        }
        let users = self.api.running_on(&volume.name).await?;
        let theirs = users.iter().filter_map(|one| marks::part(&self.owner, &one.labels, one.names.first()?));
        match theirs.map(|part| part.app).find(|other| other != app) {
            None => Ok(()),
            Some(other) => Err(DriverError::Runtime(format!(
                "{claim} can't be used yet: a container of the app {other} still runs on it"
            ))),
        }
    }

    /// Removes a claim's volume with the data in it, if it is ours and no container uses it.
    pub(super) async fn purge_claim(&self, app: &AppName, claim: &ObjectKey) -> Result<(), DriverError> {
        match self.observe_claim(app, claim).await? {
            Observed::Same => Ok(self.api.delete_volume(&marks::claim_name(claim)).await?),
            Observed::Foreign { owner } => {
                Err(DriverError::Runtime(format!("{claim} was not removed: it belongs to {owner}")))
            }
            Observed::Another { app, .. } => {
                Err(DriverError::Runtime(format!("{claim} was not removed: it belongs to the app {app}")))
            }
            _ => Ok(()),
        }
    }

    pub(super) async fn observe_claim(
        &self,
        app: &AppName,
        key: &ObjectKey,
    ) -> Result<Observed, DriverError> {
        let Some(volume) = self.api.volume(&marks::claim_name(key)).await? else {
            return Ok(Observed::Absent);
        };
        Ok(match self.owner_of(&volume).await? {
            Some(owner) if owner == *app => Observed::Same,
            Some(owner) => Observed::Another { app: owner, immutable: None },
            None => {
                let theirs =
                    volume.labels.get(marks::APP).map(|app| format!("the app {app} of another device"));
                Observed::Foreign { owner: theirs.unwrap_or_else(|| "somebody else".to_owned()) }
            }
        })
    }

    /// Notes that a claim's volume is `app`'s from now on. What is in it stays as it is.
    pub(super) async fn take_claim(&self, app: &AppName, key: &ObjectKey) -> Result<(), DriverError> {
        let Some(volume) = self.api.volume(&marks::claim_name(key)).await? else { return Ok(()) };
        let name = &volume.name;
        let folder = folder_of(&volume).ok_or_else(|| {
            DriverError::Release(format!(
                "{key} can't be handed over: the volume {name} is of a kind that only a plug-in of podman knows; move the \
                 data by hand"
            ))
        })?;
        let record = OwnerRecord { device: self.owner.device.clone(), app: app.clone() };
        let path = folder.join(OWNER_FILE);
        let written = tokio::task::spawn_blocking(move || write_owner(&folder, &record)).await;
        written.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(|error| {
            DriverError::Runtime(format!(
                "{key} can't be handed over: cannot write {}: {error}",
                path.display()
            ))
        })
    }

    /// The claims' volumes that an app has. One of which it can't be told is left out: it is nobody's to act on.
    pub(super) async fn claims_of(&self, app: &AppName) -> Result<Vec<HeldClaim>, DriverError> {
        let device = self.owner.device.to_string();
        let mut held = Vec::new();
        for volume in self.api.volumes(&[(marks::DEVICE, &device)]).await? {
            let Some(key) = claim_of(&volume) else { continue };
            match self.owner_of(&volume).await {
                Ok(owner) if owner.as_ref() == Some(app) => {
                    let release = volume.labels.get(marks::RELEASE).and_then(|id| id.parse().ok());
                    held.push(HeldClaim { key, release: release.map(ReleaseId) });
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(%app, volume = volume.name, %error, "a volume is left alone"),
            }
        }
        Ok(held)
    }

    /// The apps that have a claim's volume among these.
    pub(super) async fn owners_of(&self, volumes: &[api::Volume]) -> Result<Vec<AppName>, DriverError> {
        let mut owners = Vec::new();
        for volume in volumes.iter().filter(|volume| is_claim(volume)) {
            owners.extend(self.owner_of(volume).await?);
        }
        Ok(owners)
    }

    /// The app of this device that has a volume; none if it is somebody else's.
    async fn owner_of(&self, volume: &api::Volume) -> Result<Option<AppName>, DriverError> {
        let label = |label: &str| volume.labels.get(label).map(String::as_str);
        if label(marks::DEVICE) != Some(self.owner.device.as_str()) {
            return Ok(None);
        }
        let noted = match folder_of(volume) {
            Some(folder) => {
                let read = tokio::task::spawn_blocking(move || read_owner(&folder)).await;
                read.map_err(|error| DriverError::Runtime(error.to_string()))??
            }
            None => None,
        };
        Ok(match noted.filter(|noted| noted.device == self.owner.device) {
            Some(noted) => Some(noted.app),
            None => label(marks::APP).and_then(|app| app.parse().ok()),
        })
    }
}

/// The claim that a volume is for; none of a scratch volume, which goes with its pod.
fn claim_of(volume: &api::Volume) -> Option<ObjectKey> {
    marks::claim(&volume.labels, &volume.name).filter(|key| key.kind == CLAIM)
}

pub(super) fn is_claim(volume: &api::Volume) -> bool {
    claim_of(volume).is_some()
}

/// The folder that podman has for a volume, whose data is in a folder below it.
fn folder_of(volume: &api::Volume) -> Option<PathBuf> {
    let data = Path::new(&volume.mountpoint);
    data.ends_with(DATA).then(|| data.parent().map(Path::to_owned)).flatten()
}

/// Who has it by the file; none where there is no file. One that can't be read is no word for anybody.
fn read_owner(folder: &Path) -> Result<Option<OwnerRecord>, DriverError> {
    let path = folder.join(OWNER_FILE);
    let text = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text,
    };
    text.and_then(|text| Ok(serde_json::from_slice(&text)?)).map_err(|error| {
        DriverError::Runtime(format!(
            "cannot tell whose volume this is: {}: {error}; if the file is damaged, remove it: the volume's labels count \
             then",
            path.display()
        ))
    })
}

/// Whole or not at all, also if the power fails.
fn write_owner(folder: &Path, record: &OwnerRecord) -> io::Result<()> {
    let new = folder.join(format!("{OWNER_FILE}.new"));
    let mut file = File::create(&new)?;
    file.write_all(&serde_json::to_vec(record)?)?;
    publish(&file, &new, &folder.join(OWNER_FILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(mountpoint: &Path) -> api::Volume {
        let mountpoint = mountpoint.display().to_string();
        serde_json::from_value(serde_json::json!({ "Name": "shop.data", "Mountpoint": mountpoint })).unwrap()
    }

    #[test]
    fn who_has_a_volume_stands_beside_its_data_and_the_newest_word_counts() {
        let dir = tempfile::tempdir().unwrap();
        let folder = folder_of(&volume(&dir.path().join(DATA))).unwrap();
        assert_eq!(folder, dir.path());
        assert_eq!(read_owner(&folder).unwrap(), None);
        for app in ["till", "pos"] {
            let record = OwnerRecord { device: "emea/till-1".parse().unwrap(), app: app.parse().unwrap() };
            write_owner(&folder, &record).unwrap();
            assert_eq!(read_owner(&folder).unwrap(), Some(record));
        }
        fs::write(folder.join(OWNER_FILE), "{").unwrap();
        let why = read_owner(&folder).unwrap_err().to_string();
        assert!(why.contains("holdfast-owner.json") && why.contains("remove it"), "{why}");
    }

    #[test]
    fn a_volume_whose_data_is_elsewhere_has_no_folder_to_write_to() {
        assert_eq!(folder_of(&volume(Path::new("/mnt/nfs/data"))), None);
        assert_eq!(folder_of(&volume(Path::new(""))), None);
    }
}
