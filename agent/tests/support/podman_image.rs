//! Images made from scratch: one layer with the tests' web server, as blobs for a registry or as an archive.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::tools::run;

/// What is to be in an image. The same wishes give the same bytes.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// Content of the file `/version`: another version is another image.
    pub version: String,
    /// Whether there is a busybox as `/bin/sh` and `/bin/busybox`.
    pub shell: bool,
    /// Bytes that don't compress, for a download that takes its time.
    pub padding: usize,
    /// Whether manifest and layer are of docker's types.
    pub docker: bool,
    /// Variables of the image's own environment, `NAME=VALUE`.
    pub env: Vec<String>,
    /// What the web server's program is started with, if it is to be no server.
    pub args: Vec<String>,
}

/// A part of an image.
#[derive(Clone, Debug)]
pub struct Blob {
    /// `sha256:…`
    pub digest: String,
    pub media_type: String,
    pub content: Vec<u8>,
}

/// An image: a config, a layer and a manifest.
#[derive(Clone, Debug)]
pub struct Image {
    manifest: Blob,
    blobs: Vec<Blob>,
}

impl Image {
    /// The web server as `/webapp`, the entrypoint; nothing else.
    pub fn webapp(version: &str) -> Self {
        Self::new(&Wishes { version: version.into(), ..Wishes::default() })
    }

    pub fn new(wishes: &Wishes) -> Self {
        let tar = layer(wishes);
        let diff_id = digest(&tar);
        let layer = gzip(&tar);
        let (manifest_type, config_type, layer_type) = if wishes.docker {
            (
                "application/vnd.docker.distribution.manifest.v2+json",
                "application/vnd.docker.container.image.v1+json",
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
            )
        } else {
            (
                "application/vnd.oci.image.manifest.v1+json",
                "application/vnd.oci.image.config.v1+json",
                "application/vnd.oci.image.layer.v1.tar+gzip",
            )
        };
        let mut env = vec!["PATH=/bin".to_owned()];
        env.extend(wishes.env.iter().cloned());
        let config = json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux",
            "created": "2026-01-01T00:00:00Z",
            "config": { "Entrypoint": ["/webapp"], "Cmd": wishes.args, "Env": env },
            "rootfs": { "type": "layers", "diff_ids": [diff_id] },
            "history": [{ "created": "2026-01-01T00:00:00Z", "created_by": "holdfast's tests" }],
        });
        let blobs = vec![blob(config_type, config.to_string().into_bytes()), blob(layer_type, layer)];
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": manifest_type,
            "config": descriptor(&blobs[0]),
            "layers": [descriptor(&blobs[1])],
        });
        Image { manifest: blob(manifest_type, manifest.to_string().into_bytes()), blobs }
    }

    /// The manifest's digest: `sha256:…`, what a reference by digest names.
    pub fn digest(&self) -> &str {
        &self.manifest.digest
    }

    /// Podman's id of the image: the config's digest in hex.
    pub fn id(&self) -> &str {
        self.blobs[0].digest.strip_prefix("sha256:").unwrap()
    }

    /// The manifest, which a registry gets last.
    pub fn manifest(&self) -> &Blob {
        &self.manifest
    }

    /// The config, then the layer.
    pub fn blobs(&self) -> &[Blob] {
        &self.blobs
    }

    /// A tar for podman's images/load, which gives the image that name: `localhost/pos:1`,
    /// `registry.example/pos@sha256:…`, or none.
    pub fn oci_archive(&self, name: Option<&str>) -> Vec<u8> {
        let mut manifest = descriptor(&self.manifest);
        if let Some(name) = name {
            manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
        }
        let index = json!({ "schemaVersion": 2, "manifests": [manifest] }).to_string();
        let mut tar = Tar::default();
        tar.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644);
        tar.file("index.json", index.as_bytes(), 0o644);
        for blob in self.blobs.iter().chain([&self.manifest]) {
            tar.file(&format!("blobs/{}", blob.digest.replace(':', "/")), &blob.content, 0o644);
        }
        tar.end()
    }
}

/// The web server, compiled at most once for each text of its source.
pub fn webapp() -> PathBuf {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/webapp.rs");
        let mark = digest(&fs::read(source).unwrap());
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let made = folder.join(format!("webapp-{}", &mark[7..19]));
        if !made.exists() {
            let new = tempfile::Builder::new().prefix("webapp-").tempdir_in(&folder).unwrap();
            let file = new.path().join("webapp");
            let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
            rustc.args([
                "--edition",
                "2024",
                "-O",
                "-C",
                "target-feature=+crt-static",
                "-C",
                "strip=symbols",
            ]);
            run(rustc.args(["-C", "panic=abort", "--crate-name", "webapp", "-o"]).arg(&file).arg(source));
            // Other tests may do the same now.
            fs::rename(file, &made).unwrap();
        }
        made
    })
    .clone()
}

/// `sha256:…` of these bytes.
pub fn digest(content: &[u8]) -> String {
    Sha256::digest(content).iter().fold("sha256:".to_owned(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn blob(media_type: &str, content: Vec<u8>) -> Blob {
    Blob { digest: digest(&content), media_type: media_type.to_owned(), content }
}

fn descriptor(blob: &Blob) -> serde_json::Value {
    json!({ "mediaType": blob.media_type, "digest": blob.digest, "size": blob.content.len() })
}

fn layer(wishes: &Wishes) -> Vec<u8> {
    let mut tar = Tar::default();
    for (folder, mode) in [("bin/", 0o755), ("etc/", 0o755), ("tmp/", 0o1777)] {
        tar.entry(folder, &[], mode, b'5');
    }
    tar.file("webapp", &fs::read(webapp()).unwrap(), 0o755);
    tar.file("version", wishes.version.as_bytes(), 0o644);
    tar.file("etc/passwd", b"root:x:0:0::/:/bin/sh\napp:x:1000:1000::/:/bin/sh\n", 0o644);
    if wishes.shell {
        // Debian's busybox-static; each of its commands by `/bin/busybox COMMAND`, or as `COMMAND` in its shell.
        let busybox = fs::read("/bin/busybox").expect("/bin/busybox is missing: run scripts/setup-tests.sh");
        tar.file("bin/busybox", &busybox, 0o755);
        tar.file("bin/sh", &busybox, 0o755);
    }
    if wishes.padding > 0 {
        // xorshift, seeded by the version.
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        for byte in wishes.version.bytes() {
            state = state.wrapping_mul(31).wrapping_add(u64::from(byte)) | 1;
        }
        let mut padding = Vec::with_capacity(wishes.padding + 8);
        while padding.len() < wishes.padding {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            padding.extend_from_slice(&state.to_le_bytes());
        }
        padding.truncate(wishes.padding);
        tar.file("padding", &padding, 0o644);
    }
    tar.end()
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, content).unwrap();
    run(Command::new("gzip").args(["-n", "-c"]).arg(file.path())).stdout
}

/// A tar of the ustar kind: no times, no owners.
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn file(&mut self, name: &str, content: &[u8], mode: u32) {
        self.entry(name, content, mode, b'0');
    }

    fn entry(&mut self, name: &str, content: &[u8], mode: u32, kind: u8) {
        let mut header = [0; 512];
        let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
        assert!(name.len() < 100, "{name} is too long for a tar header");
        put(0, name);
        put(100, &format!("{mode:07o}"));
        put(108, "0000000");
        put(116, "0000000");
        put(124, &format!("{:011o}", content.len()));
        put(136, "00000000000");
        put(148, "        ");
        put(257, "ustar\x0000");
        header[156] = kind;
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&header);
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
    }

    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}
