//! A real registry: Debian's docker-registry, with or without TLS and users.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use holdfast_core::digest::Digest;
use serde_json::{Value, json};
use tempfile::TempDir;
use ureq::http::Method;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use super::git_server::make_certificates;
use super::image::{Image, descriptor};
use super::ports::{free_port, listens};
use super::tools::{Daemon, printed};

/// The type of an index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// How the registry is to be.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// With a certificate of a certificate authority of its own.
    pub tls: bool,
    /// User and password that it asks for.
    pub auth: Option<(String, String)>,
}

/// The registry; it ends when this is dropped.
#[derive(Debug)]
pub struct Registry {
    dir: TempDir,
    port: u16,
    options: Options,
    agent: ureq::Agent,
    daemon: Option<Daemon>,
}

impl Registry {
    /// Starts one that everybody may ask, without TLS.
    pub fn start() -> Self {
        Self::with(Options::default())
    }

    /// The same, as `options` say.
    pub fn with(options: Options) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let config = dir.path().join("config.yml");
        if options.tls {
            make_certificates(dir.path());
        }
        if let Some((user, password)) = &options.auth {
            let users = printed(Command::new("htpasswd").args(["-Bbn", user, password]));
            std::fs::write(dir.path().join("users"), users).unwrap();
        }
        std::fs::write(&config, settings(&dir, port, &options).to_string()).unwrap();
        let agent = agent(&dir, &options);
        let mut registry = Registry { dir, port, options, agent, daemon: None };
        registry.come_back();
        registry
    }

    /// Ends it; what it holds stays.
    pub fn go_away(&mut self) {
        self.daemon = None;
    }

    /// Starts it at the same port.
    pub fn come_back(&mut self) {
        let (config, port) = (self.dir.path().join("config.yml"), self.port);
        let mut daemon = Daemon::start("docker-registry", |command| {
            command.arg("serve").arg(&config).stdout(Stdio::null()).stderr(Stdio::null());
        });
        daemon.wait_until("docker-registry", || listens(port));
        self.daemon = Some(daemon);
    }

    /// `host:port`, as images name it.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The port on the loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The file for `ca_file`.
    pub fn ca_file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// Pushes an image under a tag, and gives its digest.
    pub fn push(&self, name: &str, tag: &str, image: &Image) -> Digest {
        self.push_parts(name, image);
        self.put_manifest(name, tag, image.media_type(), &image.manifest())
    }

    /// Pushes images for several platforms (`os/architecture[/variant]`) under one tag, and gives the index's
    /// digest.
    pub fn push_index(&self, name: &str, tag: &str, images: &[(&str, &Image)]) -> Digest {
        let entry = |(platform, image): &(&str, &Image)| {
            self.push_parts(name, image);
            self.put_manifest(name, &image.digest().to_string(), image.media_type(), &image.manifest());
            let parts: Vec<&str> = platform.split('/').collect();
            let mut entry = descriptor(image.media_type(), &image.manifest());
            entry["platform"] = json!({ "os": parts[0], "architecture": parts[1] });
            if let Some(variant) = parts.get(2) {
                entry["platform"]["variant"] = json!(variant);
            }
            entry
        };
        let entries: Vec<Value> = images.iter().map(entry).collect();
        let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries });
        self.put_manifest(name, tag, OCI_INDEX, index.to_string().as_bytes())
    }

    fn push_parts(&self, name: &str, image: &Image) {
        self.put_blob(name, &image.config());
        for layer in image.layers() {
            self.put_blob(name, &layer.bytes);
        }
    }

    /// Pushes one blob.
    pub fn put_blob(&self, name: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let begun = self.ask(Method::POST, &format!("{}/v2/{name}/blobs/uploads/", self.base()), None, &[]);
        let location = begun.headers()["location"].to_str().unwrap().to_owned();
        let separator = if location.contains('?') { '&' } else { '?' };
        let kind = Some("application/octet-stream");
        self.ask(Method::PUT, &format!("{location}{separator}digest={digest}"), kind, bytes);
        digest
    }

    /// Pushes a manifest, whatever is in it, and gives its digest.
    pub fn put_manifest(&self, name: &str, reference: &str, media_type: &str, bytes: &[u8]) -> Digest {
        let url = format!("{}/v2/{name}/manifests/{reference}", self.base());
        self.ask(Method::PUT, &url, Some(media_type), bytes);
        Digest::of(bytes)
    }

    fn base(&self) -> String {
        format!("{}://{}", if self.options.tls { "https" } else { "http" }, self.host())
    }

    fn ask(
        &self,
        method: Method,
        url: &str,
        kind: Option<&str>,
        body: &[u8],
    ) -> ureq::http::Response<ureq::Body> {
        let mut request = ureq::http::Request::builder().method(method).uri(url);
        if let Some(kind) = kind {
            request = request.header("content-type", kind);
        }
        if let Some((user, password)) = &self.options.auth {
            request = request.header("authorization", basic(user, password));
        }
        let answer = self.agent.run(request.body(body.to_vec()).unwrap());
        answer.unwrap_or_else(|error| panic!("{url}: {error}"))
    }
}

/// The header Authorization of a user.
pub fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", base64(&format!("{user}:{password}")))
}

/// Base64, by a tool that isn't ours.
pub fn base64(text: &str) -> String {
    printed(Command::new("sh").arg("-c").arg("printf %s \"$1\" | base64 -w0").arg("sh").arg(text))
}

/// YAML understands JSON.
fn settings(dir: &TempDir, port: u16, options: &Options) -> Value {
    let file = |name: &str| dir.path().join(name).display().to_string();
    let mut settings = json!({
        "version": "0.1",
        "log": { "level": "error" },
        "storage": { "filesystem": { "rootdirectory": file("data") } },
        "http": { "addr": format!("127.0.0.1:{port}"), "secret": "test" },
    });
    if options.tls {
        settings["http"]["tls"] = json!({ "certificate": file("server.pem"), "key": file("server.key") });
    }
    if options.auth.is_some() {
        settings["auth"] = json!({ "htpasswd": { "realm": "test", "path": file("users") } });
    }
    settings
}

fn agent(dir: &TempDir, options: &Options) -> ureq::Agent {
    let mut builder = ureq::Agent::config_builder().proxy(None);
    if options.tls {
        let pem = std::fs::read(dir.path().join("ca.pem")).unwrap();
        let roots = RootCerts::new_with_certs(&[Certificate::from_pem(&pem).unwrap()]);
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let tls = TlsConfig::builder().root_certs(roots).unversioned_rustls_crypto_provider(provider);
        builder = builder.tls_config(tls.build());
    }
    ureq::Agent::new_with_config(builder.build())
}
