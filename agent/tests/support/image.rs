//! Container images made from nothing: layers of files, a configuration, a manifest.

use std::io::Write;
use std::process::{Command, Stdio};

use holdfast_core::digest::Digest;
use serde_json::{Value, json};

use super::tools::missing;

/// The type of a manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// A file of a layer: path, mode, content.
pub type File<'a> = (&'a str, u32, &'a [u8]);

/// A layer as registries hold it.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Packed.
    pub bytes: Vec<u8>,
    /// Of the tar inside.
    pub diff_id: Digest,
}

/// An image in the making.
#[derive(Clone, Debug)]
pub struct Image {
    layers: Vec<Layer>,
    architecture: String,
    run: Value,
    is_docker: bool,
}

impl Image {
    /// An image for this machine, without any file.
    pub fn new() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Image { layers: Vec::new(), architecture: architecture.to_owned(), run: json!({}), is_docker: false }
    }

    /// Puts a layer with these files on top.
    pub fn layer(mut self, files: &[File<'_>]) -> Self {
        let tar = tar(files);
        self.layers.push(Layer { bytes: gzip(&tar), diff_id: Digest::of(&tar) });
        self
    }

    /// Puts a layer on top that has `size` bytes of nothing that could be packed: for counting, not for running.
    pub fn noise(mut self, size: usize, seed: u64) -> Self {
        let mut state = seed | 1;
        let mut next = || {
            // xorshift64
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        };
        let bytes: Vec<u8> = (0..size).map(|_| next()).collect();
        self.layers.push(Layer { diff_id: Digest::of(&bytes), bytes });
        self
    }

    /// What it is made for, such as `arm64`.
    pub fn architecture(mut self, architecture: &str) -> Self {
        self.architecture = architecture.to_owned();
        self
    }

    /// The program that runs.
    pub fn entrypoint(mut self, words: &[&str]) -> Self {
        self.run["Entrypoint"] = json!(words);
        self
    }

    /// Its environment, as `NAME=value`.
    pub fn env(mut self, variables: &[&str]) -> Self {
        self.run["Env"] = json!(variables);
        self
    }

    /// In Docker's types instead of OCI's.
    pub fn docker(mut self) -> Self {
        self.is_docker = true;
        self
    }

    /// The layers, the lowest first.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// The configuration.
    pub fn config(&self) -> Vec<u8> {
        let diff_ids: Vec<String> = self.layers.iter().map(|layer| layer.diff_id.to_string()).collect();
        let config = json!({
            "architecture": self.architecture,
            "os": "linux",
            "config": self.run,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        config.to_string().into_bytes()
    }

    /// The manifest's own type.
    pub fn media_type(&self) -> &'static str {
        if self.is_docker { DOCKER_MANIFEST } else { OCI_MANIFEST }
    }

    /// The manifest.
    pub fn manifest(&self) -> Vec<u8> {
        let (config, layer) =
            if self.is_docker { (DOCKER_CONFIG, DOCKER_LAYER) } else { (OCI_CONFIG, OCI_LAYER) };
        let layers: Vec<Value> = self.layers.iter().map(|it| descriptor(layer, &it.bytes)).collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": self.media_type(),
            "config": descriptor(config, &self.config()),
            "layers": layers,
        });
        manifest.to_string().into_bytes()
    }

    /// The manifest's digest.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.manifest())
    }
}

/// What names a blob.
pub fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": Digest::of(bytes).to_string(), "size": bytes.len() })
}

/// An archive in POSIX's ustar format. A content that begins with `-> ` is a link's target.
fn tar(files: &[File<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    for (path, mode, content) in files {
        let link = content.strip_prefix(b"-> ");
        let content: &[u8] = if link.is_some() { &[] } else { content };
        let mut header = [0; 512];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, path.as_bytes());
        put(100, format!("{mode:07o}").as_bytes());
        put(108, b"0000000");
        put(116, b"0000000");
        put(124, format!("{:011o}", content.len()).as_bytes());
        put(136, b"00000000000");
        put(148, b"        ");
        put(156, if link.is_some() { b"2" } else { b"0" });
        put(157, link.unwrap_or_default());
        put(257, b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        out.extend(header);
        out.extend(content);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut child = Command::new("gzip")
        .args(["-n", "-c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{} ({error})", missing("gzip")));
    let mut input = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || input.write_all(bytes).unwrap());
        child.wait_with_output().unwrap().stdout
    })
}
