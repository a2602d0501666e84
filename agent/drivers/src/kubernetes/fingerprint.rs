//! What the cluster on this box is, and what the driver can do with it.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use holdfast_core::runtime::{Abilities, DriverName, Fingerprint, Form, Names};
use serde_json::Value;

use super::api::Api;
use super::connection::Connection;

/// What Kubernetes takes, and what this driver makes it do; and whether the box gives it its images.
pub(super) const fn abilities(stages_images: bool) -> Abilities {
    Abilities {
        takes: Form::Manifests,
        rank: 0,
        names: Names::Shared,
        start_stop: false,
        exec: true,
        addresses: true,
        holds_data: true,
        accounts: true,
        stages_images,
        engine: false,
    }
}

/// What the cluster of this kubeconfig is, and whether the box gives it its images.
pub async fn fingerprint(kubeconfig: &Path, context: Option<&str>, stages_images: bool) -> Fingerprint {
    let connection = Connection::new(kubeconfig.to_owned(), context.map(str::to_owned));
    let abilities = abilities(stages_images);
    if let Err(error) = std::fs::File::open(kubeconfig) {
        let advice = match error.kind() {
            ErrorKind::PermissionDenied => "only root may read it: run this with sudo",
            _ => "start k3s, or name its kubeconfig in drivers.kubernetes.kubeconfig",
        };
        let detail = format!("{}: {error}; {advice}", kubeconfig.display());
        return Fingerprint::unusable(DriverName::KUBERNETES, abilities, detail);
    }
    fingerprint_of(&Api { connection: Arc::new(connection) }, abilities).await
}

pub(super) async fn fingerprint_of(api: &Api, abilities: Abilities) -> Fingerprint {
    let driver = DriverName::KUBERNETES;
    match api.plain("/version", "ask for the version").await {
        Ok(version) => Fingerprint {
            driver,
            usable: true,
            version: version.get("gitVersion").and_then(Value::as_str).map(str::to_owned),
            detail: format!("answers at {}", api.connection.server()),
            abilities: Some(abilities),
        },
        Err(error) => Fingerprint::unusable(driver, abilities, error.to_string()),
    }
}
