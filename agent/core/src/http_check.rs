//! Where a health check asks by HTTP.

use serde::{Deserialize, Serialize};

use crate::name::ObjectKey;

/// Where an HTTP check asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", untagged)]
pub enum HttpCheck {
    /// A whole `http://` URL.
    Url {
        /// The URL.
        url: String,
    },
    /// An object of the app; the driver says where it is reached.
    #[serde(rename_all = "camelCase")]
    Target {
        /// Such as `Deployment/pos`.
        target: ObjectKey,
        /// The port in the workload.
        port: u16,
        /// The path, with its leading slash.
        path: String,
    },
}
