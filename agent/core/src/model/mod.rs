//! The documents of a repository. One declaration makes a record's type, its decoder and its JSON Schema
//! (see `decode`), so that the three can't disagree.

pub mod app;
pub mod check;
pub mod decode;
pub mod document;
pub mod metrics;
pub mod order;
pub mod policy;
pub mod probe_component;
pub mod selector;
#[cfg(test)]
mod tests;
pub mod units;
pub mod wasm;

pub use app::{App, AppSpec, Body, ContainerSpec};
pub use document::{API_VERSION, Device, Fleet, Site, Values};
pub use order::{Purge, Stop};
pub use selector::{HARDWARE_PREFIX, Labels, Selector};
pub use wasm::ArtifactRef;

use serde_json::Value;

/// The kinds of documents there are.
pub const KINDS: [&str; 6] = ["Fleet", "Site", "Device", "App", "Stop", "Purge"];

/// The JSON Schema of a kind of documents, upper or lower case; `None` for other names.
pub fn schema(kind: &str) -> Option<Value> {
    match kind.to_ascii_lowercase().as_str() {
        "fleet" => Some(document::schema_of::<Fleet>()),
        "site" => Some(document::schema_of::<Site>()),
        "device" => Some(document::schema_of::<Device>()),
        "stop" => Some(document::schema_of::<Stop>()),
        "purge" => Some(document::schema_of::<Purge>()),
        "app" => Some(document::schema_of::<App>()),
        _ => None,
    }
}
