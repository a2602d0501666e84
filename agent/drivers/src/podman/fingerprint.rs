//! What podman on this box is, and what the driver can do with it.

use std::io::ErrorKind;
use std::path::Path;

use holdfast_core::runtime::{Abilities, DriverName, Fingerprint, Form, Names};
use tokio::net::UnixStream;

use super::api::Api;
use super::client::Client;

/// What podman takes, and what this driver makes it do.
pub(super) const ABILITIES: Abilities = Abilities {
    takes: Form::Pods,
    rank: 1,
    names: Names::OfData,
    start_stop: true,
    exec: true,
    addresses: true,
    holds_data: true,
    accounts: false,
    stages_images: false,
    engine: false,
};

/// What the podman at this socket is.
pub async fn fingerprint(socket: &Path) -> Fingerprint {
    let shown = socket.display();
    if let Err(error) = UnixStream::connect(socket).await {
        let advice = match error.kind() {
            ErrorKind::PermissionDenied => "only root may access its socket: run this with sudo",
            ErrorKind::ConnectionRefused => "nothing listens there: systemctl enable --now podman.socket",
            _ => {
                "install podman and enable its socket (systemctl enable --now podman.socket), or set \
                 drivers.podman.socket to its path"
            }
        };
        return Fingerprint::unusable(DriverName::PODMAN, ABILITIES, format!("{shown}: {error}; {advice}"));
    }
    match Api::new(Client::new(socket)).version().await {
        Ok(version) => Fingerprint {
            driver: DriverName::PODMAN,
            usable: true,
            version: Some(version),
            detail: format!("answers at {shown}"),
            abilities: Some(ABILITIES),
        },
        Err(error) => Fingerprint::unusable(DriverName::PODMAN, ABILITIES, error.to_string()),
    }
}
