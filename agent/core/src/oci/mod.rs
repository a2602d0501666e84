//! What registries say of images: manifests and indexes (OCI image-spec 1.1, and Docker's older forms of the
//! same). What comes from a registry is foreign: every list and number is bounded here.

use std::fmt;

use serde::Deserialize;

use crate::digest::Digest;
use crate::image::Platform;

/// The largest manifest, index or configuration of an image, in bytes (as the distribution-spec advises).
pub const DOCUMENT_LIMIT: usize = 4 << 20;
/// No runtime stacks more layers than half of this.
const MAX_LAYERS: usize = 256;
/// An index lists platforms, and proofs about them.
const MAX_ENTRIES: usize = 1024;
/// The largest blob, in bytes: sizes are added up, and must not run over.
const MAX_BLOB: u64 = 1 << 40;

/// The types of document that are understood, for the header Accept.
pub const MEDIA_TYPES: [&str; 4] = [OCI_MANIFEST, DOCKER_MANIFEST, OCI_INDEX, DOCKER_LIST];

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// Where a blob is found, and how large it is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What is in it.
    pub media_type: String,
    /// What it is called.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// The manifest of one image: its configuration, and its layers from the lowest to the topmost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The manifest's own type.
    pub media_type: String,
    /// The image's configuration.
    pub config: Descriptor,
    /// The layers; the same one may be there twice.
    pub layers: Vec<Descriptor>,
}

/// The manifests of one image for several platforms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    entries: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    descriptor: Descriptor,
    platform: Option<Platform>,
}

/// What a registry answers when it is asked for a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// One image.
    Manifest(Manifest),
    /// A choice of them.
    Index(Index),
}

/// Why bytes are no manifest that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadManifest {
    /// It's no such document, or one that breaks the rules.
    #[error("it is not an image manifest: {0}")]
    Malformed(String),
    /// Docker's first format, which has no digests of what it names.
    #[error(
        "its manifest has the format of Docker before 2016 (schema 1), which is not supported: push the image \
         again with a current tool"
    )]
    Schema1,
    /// A layer that the registry doesn't have.
    #[error(
        "its layer {0} is foreign (nondistributable): it is not in the registry but at another address, which the \
         agent does not use; push the image with its layers"
    )]
    ForeignLayer(Digest),
    /// A layer that no container runtime unpacks.
    #[error("its layer {digest} has the type {media_type:?}, which is not a container image layer")]
    NoLayer {
        /// Which.
        digest: Digest,
        /// What it says it is.
        media_type: String,
    },
}

/// An image isn't made for this machine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is not built for {wanted}, only for {}", list(.there))]
pub struct NoPlatform {
    /// What was looked for.
    pub wanted: Platform,
    /// What there is.
    pub there: Vec<String>,
}

fn list(there: &[String]) -> String {
    match there {
        [] => "no platform at all".to_owned(),
        there => there.join(", "),
    }
}

/// All forms at once; which one it is shows in what is there.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: u32,
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<RawEntry>>,
    fs_layers: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct RawEntry {
    #[serde(flatten)]
    descriptor: Descriptor,
    platform: Option<RawPlatform>,
}

#[derive(Deserialize)]
struct RawPlatform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

impl Document {
    /// Reads `bytes`, which a server said to be of the type `said`.
    pub fn parse(bytes: &[u8], said: Option<&str>) -> Result<Self, BadManifest> {
        let malformed = |why: String| BadManifest::Malformed(why);
        if bytes.len() > DOCUMENT_LIMIT {
            return Err(malformed(format!("it has more than {DOCUMENT_LIMIT} bytes")));
        }
        if said.is_some_and(|said| said.contains("manifest.v1+") && said.contains("docker")) {
            return Err(BadManifest::Schema1);
        }
        let raw: Raw = serde_json::from_slice(bytes)
            // The error may repeat what was sent.
            .map_err(|error| malformed(error.to_string().chars().take(200).collect()))?;
        if raw.schema_version == 1 || raw.fs_layers.is_some() {
            return Err(BadManifest::Schema1);
        }
        let media_type = type_of(raw.media_type.as_deref(), said)?;
        match (raw.config, raw.layers, raw.manifests) {
            (Some(config), Some(layers), None) => {
                let media_type = media_type.unwrap_or(OCI_MANIFEST);
                must_be(media_type, [OCI_MANIFEST, DOCKER_MANIFEST])?;
                manifest(media_type, config, layers).map(Document::Manifest)
            }
            (None, None, Some(entries)) => {
                must_be(media_type.unwrap_or(OCI_INDEX), [OCI_INDEX, DOCKER_LIST])?;
                index(entries).map(Document::Index)
            }
            // One text that reads as two things is how one of two readers is fooled (CVE-2021-41190).
            _ => Err(malformed("it must have a config and layers, or manifests, and not both".to_owned())),
        }
    }
}

/// The document's own word for its type and the server's must not differ.
fn type_of<'a>(own: Option<&'a str>, said: Option<&'a str>) -> Result<Option<&'a str>, BadManifest> {
    let said = said.filter(|said| MEDIA_TYPES.contains(said));
    match (own, said) {
        (Some(own), Some(said)) if own != said => Err(BadManifest::Malformed(format!(
            "the server sends it as {said}, but it calls itself {}",
            shortened(own)
        ))),
        (own, said) => Ok(own.or(said)),
    }
}

fn must_be(found: &str, wanted: [&str; 2]) -> Result<(), BadManifest> {
    match wanted.contains(&found) {
        true => Ok(()),
        false => Err(BadManifest::Malformed(format!("its type is {}", shortened(found)))),
    }
}

/// What a server says, as far as it goes into a message.
fn shortened(text: &str) -> String {
    format!("{:?}", text.chars().take(100).collect::<String>())
}

fn manifest(media_type: &str, config: Descriptor, layers: Vec<Descriptor>) -> Result<Manifest, BadManifest> {
    let malformed = |why: String| Err(BadManifest::Malformed(why));
    if layers.len() > MAX_LAYERS {
        return malformed(format!("it has {} layers, but at most {MAX_LAYERS} are allowed", layers.len()));
    }
    if config.size > DOCUMENT_LIMIT as u64 {
        return malformed(format!("its configuration has more than {DOCUMENT_LIMIT} bytes"));
    }
    if let Some(layer) = layers.iter().find(|layer| layer.size > MAX_BLOB) {
        return malformed(format!("its layer {} has {} bytes", layer.digest, layer.size));
    }
    Ok(Manifest { media_type: media_type.to_owned(), config, layers })
}

fn index(entries: Vec<RawEntry>) -> Result<Index, BadManifest> {
    if entries.len() > MAX_ENTRIES {
        return Err(BadManifest::Malformed(format!(
            "it lists {} manifests, but at most {MAX_ENTRIES} are allowed",
            entries.len()
        )));
    }
    let entry = |raw: RawEntry| Entry {
        descriptor: raw.descriptor,
        platform: raw.platform.map(|p| Platform {
            os: p.os,
            architecture: p.architecture,
            variant: p.variant,
        }),
    };
    Ok(Index { entries: entries.into_iter().map(entry).collect() })
}

impl Manifest {
    /// Whether this is an image that a container runtime can run, all of it in the registry.
    pub fn check_image(&self) -> Result<(), BadManifest> {
        for layer in &self.layers {
            let kind = layer.media_type.as_str();
            if kind.contains("nondistributable") || kind.contains("rootfs.foreign") {
                return Err(BadManifest::ForeignLayer(layer.digest));
            }
            let docker = kind.starts_with("application/vnd.docker.image.rootfs.diff.tar");
            if !docker && !kind.starts_with("application/vnd.oci.image.layer.v1.tar") {
                let media_type = kind.chars().take(100).collect();
                return Err(BadManifest::NoLayer { digest: layer.digest, media_type });
            }
        }
        Ok(())
    }

    /// The configuration and each layer, each of them once.
    pub fn blobs(&self) -> Vec<&Descriptor> {
        let mut blobs: Vec<&Descriptor> = Vec::new();
        for blob in std::iter::once(&self.config).chain(&self.layers) {
            if blobs.iter().all(|known| known.digest != blob.digest) {
                blobs.push(blob);
            }
        }
        blobs
    }
}

impl Index {
    /// The manifest (or the index) for `wanted`: the same platform, or else the nearest that such a machine
    /// runs too, as containerd has it.
    pub fn choose(&self, wanted: &Platform) -> Result<&Descriptor, NoPlatform> {
        let runs = also_runs(wanted);
        let found = runs.iter().find_map(|platform| {
            self.entries.iter().find(|entry| entry.platform.as_ref().map(normal).as_ref() == Some(platform))
        });
        // An index with a single entry needs no platform in it.
        let only = match self.entries.as_slice() {
            [only] if only.platform.is_none() => Some(only),
            _ => None,
        };
        found
            .or(only)
            .map(|entry| &entry.descriptor)
            .ok_or_else(|| NoPlatform { wanted: wanted.clone(), there: self.platforms() })
    }

    /// What it is made for; entries for nobody (proofs) are left out.
    fn platforms(&self) -> Vec<String> {
        let named = self.entries.iter().filter_map(|entry| entry.platform.as_ref());
        let known = named.filter(|platform| platform.os != "unknown");
        let mut there: Vec<String> =
            known.map(|platform| platform.to_string().chars().take(60).collect()).take(20).collect();
        there.dedup();
        there
    }
}

/// The same platform in its usual words (containerd's platforms, "Normalization").
fn normal(platform: &Platform) -> Platform {
    let variant = platform.variant.as_deref().filter(|variant| !variant.is_empty());
    let (architecture, variant) = match (platform.architecture.as_str(), variant) {
        ("x86_64" | "x86-64" | "amd64", None | Some("v1")) => ("amd64", None),
        ("x86_64" | "x86-64", variant) => ("amd64", variant),
        ("aarch64" | "arm64", None | Some("8" | "v8" | "v8.0")) => ("arm64", None),
        ("aarch64", variant) => ("arm64", variant),
        ("armhf", _) | ("arm", None | Some("7")) => ("arm", Some("v7")),
        ("armel", _) | ("arm", Some("6")) => ("arm", Some("v6")),
        ("arm", Some("5")) => ("arm", Some("v5")),
        ("arm", Some("8")) => ("arm", Some("v8")),
        ("i386" | "386", _) => ("386", None),
        (other, variant) => (other, variant),
    };
    Platform {
        os: platform.os.to_ascii_lowercase(),
        architecture: architecture.to_owned(),
        variant: variant.map(str::to_owned),
    }
}

/// What a machine runs, the best first.
fn also_runs(wanted: &Platform) -> Vec<Platform> {
    let wanted = normal(wanted);
    let other = |architecture: &str, variant: Option<&str>| Platform {
        os: wanted.os.clone(),
        architecture: architecture.to_owned(),
        variant: variant.map(str::to_owned),
    };
    let mut runs = vec![wanted.clone()];
    match (wanted.architecture.as_str(), wanted.variant.as_deref()) {
        ("arm64", variant) => {
            runs.extend(variant.map(|_| other("arm64", None)));
            runs.extend(["v8", "v7", "v6", "v5"].map(|variant| other("arm", Some(variant))));
        }
        ("arm", variant) => {
            let older = ["v7", "v6", "v5"].into_iter().filter(|older| Some(*older) < variant);
            runs.extend(older.map(|older| other("arm", Some(older))));
        }
        ("amd64", variant) => {
            let older = ["v3", "v2"].into_iter().filter(|older| Some(*older) < variant);
            runs.extend(older.map(|older| other("amd64", Some(older))));
            runs.extend([other("amd64", None), other("386", None)]);
        }
        _ => {}
    }
    runs
}

impl fmt::Display for Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes)", self.digest, self.size)
    }
}

#[cfg(test)]
mod tests;
