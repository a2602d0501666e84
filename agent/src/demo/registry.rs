//! The demo's registry: as much of OCI's distribution-spec as it takes to fetch an image, on a loopback
//! port, for as long as the demo runs.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use holdfast_core::digest::Digest;
use serde_json::json;

use super::http::{Answer, serve};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// What it has, by digest.
type Blobs = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

/// The registry.
pub(super) struct Registry {
    port: u16,
    blobs: Blobs,
}

impl Registry {
    /// Serves from here on.
    pub(super) fn start() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let (port, blobs) = (listener.local_addr()?.port(), Blobs::default());
        let served = Arc::clone(&blobs);
        serve(listener, move |path| answer(path, &served));
        Ok(Registry { port, blobs })
    }

    /// What `[registries]` calls it.
    pub(super) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Puts an image of these files into it, and gives what a manifest calls the image.
    pub(super) fn push(&self, name: &str, files: &[(&str, &[u8])]) -> Result<String> {
        let layer = archive(files)?;
        let platform = holdfast_core::image::Platform::of_this_program();
        let config = json!({
            "architecture": platform.architecture,
            "os": platform.os,
            "config": {},
            "rootfs": { "type": "layers", "diff_ids": [Digest::of(&layer)] },
        });
        let config = config.to_string().into_bytes();
        let part = |kind: &str, bytes: &[u8]| json!({ "mediaType": kind, "digest": Digest::of(bytes), "size": bytes.len() });
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": part(CONFIG, &config),
            "layers": [part(LAYER, &layer)],
        });
        let manifest = manifest.to_string().into_bytes();
        let digest = Digest::of(&manifest);
        let mut blobs = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
        for bytes in [layer, config, manifest] {
            blobs.insert(Digest::of(&bytes).to_string(), bytes);
        }
        Ok(format!("{}/{name}@{digest}", self.host()))
    }
}

fn archive(files: &[(&str, &[u8])]) -> Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, path, *bytes)?;
    }
    Ok(archive.into_inner()?)
}

fn answer(path: &str, blobs: &Blobs) -> Answer {
    let digest = path.rsplit('/').next().unwrap_or_default();
    let found = blobs.lock().unwrap_or_else(PoisonError::into_inner).get(digest).cloned();
    let (status, kind, body) = match found {
        Some(bytes) if path.contains("/manifests/") => ("200", MANIFEST, bytes),
        Some(bytes) => ("200", "application/octet-stream", bytes),
        None => ("404", "application/json", b"{}".to_vec()),
    };
    Answer { status: status.to_owned(), kind, body }
}
