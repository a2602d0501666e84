//! The kubeconfig (k8s.io/client-go, tools/clientcmd/api/v1): where the API server is, how it is authenticated, and who
//! we are. What starts a program to find that out is refused: nothing is started to reach a server.
//!
//! kube's own loader would do, and brings a YAML parser, regular expressions and JSONPath with it: two megabytes.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use holdfast_core::yaml::{Dialect, parse};
use http::{HeaderValue, Uri};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;
use serde_json::Value;

/// A file that is larger is no kubeconfig, in bytes.
pub(super) const LIMIT: usize = 1 << 20;

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    #[serde(default)]
    clusters: Vec<Named>,
    #[serde(default)]
    users: Vec<Named>,
    #[serde(default)]
    contexts: Vec<Named>,
    #[serde(default)]
    current_context: Option<String>,
}

/// An entry: its name, and its content under the name of its list in the singular.
#[derive(Deserialize)]
struct Named {
    name: String,
    #[serde(alias = "cluster", alias = "user", alias = "context")]
    content: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    #[serde(default)]
    tls_server_name: Option<String>,
    #[serde(default)]
    insecure_skip_tls_verify: bool,
    #[serde(default)]
    certificate_authority: Option<PathBuf>,
    #[serde(default)]
    certificate_authority_data: Option<String>,
    #[serde(default)]
    proxy_url: Option<String>,
}

#[derive(Deserialize)]
struct Context {
    cluster: String,
    user: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    #[serde(default)]
    client_certificate: Option<PathBuf>,
    #[serde(default)]
    client_certificate_data: Option<String>,
    #[serde(default)]
    client_key: Option<PathBuf>,
    #[serde(default)]
    client_key_data: Option<String>,
    #[serde(default)]
    token: Option<String>,
    #[serde(default, rename = "tokenFile")]
    token_file: Option<PathBuf>,
    #[serde(default)]
    exec: Option<Value>,
    #[serde(default)]
    auth_provider: Option<Value>,
}

/// The way to an API server.
#[derive(Clone)]
pub(super) struct Access {
    /// Where it is.
    pub(super) server: Uri,
    /// How it is known, and who we are.
    pub(super) tls: ClientConfig,
    /// As whom it must show itself, if not by its address.
    pub(super) server_name: Option<ServerName<'static>>,
    /// Who we are, if not by a certificate.
    pub(super) authorization: Option<HeaderValue>,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the way to {}", self.server)
    }
}

/// What the kubeconfig in `text` says, which was read at `path`; by the context of that name, or the current one.
pub(super) fn read(path: &Path, text: &[u8], context: Option<&str>) -> Result<Access, String> {
    let documents = parse(&path.display().to_string(), text, Dialect::Kubernetes, LIMIT)
        .map_err(|errors| errors.first().map_or_else(String::new, ToString::to_string))?;
    let whole = documents.first().ok_or("it is empty")?.to_json();
    // What can't be read may be a secret: it is not shown.
    let file: File = serde_json::from_value(whole).map_err(|_| "it is not a kubeconfig")?;
    let name = context.or(file.current_context.as_deref()).filter(|name| !name.is_empty());
    let name = name.ok_or("it has no current-context: name a context in drivers.kubernetes.context")?;
    let context: Context = find(&file.contexts, "context", name)?;
    let cluster: Cluster = find(&file.clusters, "cluster", &context.cluster)?;
    let user: User = find(&file.users, "user", &context.user)?;
    if cluster.proxy_url.is_some() {
        return Err("it names a proxy-url, which this agent doesn't use".to_owned());
    }
    if cluster.insecure_skip_tls_verify {
        return Err("it asks for insecure-skip-tls-verify: name the certificate-authority instead".to_owned());
    }
    if user.exec.is_some() || user.auth_provider.is_some() {
        return Err(
            "its user gets credentials from a program (exec or auth-provider), which this agent does not run: use \
             a certificate or a token"
                .to_owned(),
        );
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    let name = cluster.tls_server_name.clone().map(ServerName::try_from).transpose();
    Ok(Access {
        server: cluster.server.parse().map_err(|error| format!("its server {}: {error}", cluster.server))?,
        tls: tls(folder, &cluster, &user)?,
        server_name: name.map_err(|error| format!("its tls-server-name: {error}"))?,
        authorization: authorization(folder, &user)?,
    })
}

fn tls(folder: &Path, cluster: &Cluster, user: &User) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    match content(
        folder,
        cluster.certificate_authority_data.as_deref(),
        cluster.certificate_authority.as_deref(),
    )? {
        Some(pem) => {
            for certificate in certificates(&pem, "certificate-authority")? {
                roots.add(certificate).map_err(|error| format!("its certificate-authority: {error}"))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|error| error.to_string())?.with_root_certificates(roots);
    let chain = content(folder, user.client_certificate_data.as_deref(), user.client_certificate.as_deref())?;
    let key = content(folder, user.client_key_data.as_deref(), user.client_key.as_deref())?;
    match (chain, key) {
        (None, None) => Ok(config.with_no_client_auth()),
        (Some(chain), Some(key)) => {
            let chain = certificates(&chain, "client-certificate")?;
            let key = PrivateKeyDer::from_pem_slice(&key)
                .map_err(|_| "its client-key is not a private key in PEM form")?;
            config
                .with_client_auth_cert(chain, key)
                .map_err(|error| format!("its client-certificate: {error}"))
        }
        _ => Err("its user has a client-certificate without a client-key, or the other way round".to_owned()),
    }
}

fn authorization(folder: &Path, user: &User) -> Result<Option<HeaderValue>, String> {
    let token = match (&user.token, &user.token_file) {
        (Some(token), _) => token.clone(),
        (None, Some(file)) => String::from_utf8_lossy(&file_in(folder, file)?).trim().to_owned(),
        (None, None) => return Ok(None),
    };
    let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
        .map_err(|_| "its token contains characters that are not allowed in a header")?;
    value.set_sensitive(true);
    Ok(Some(value))
}

fn certificates(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    found.map_err(|error| format!("its {what}: {error}"))
}

/// What is given as data, or else as the name of a file.
fn content(folder: &Path, data: Option<&str>, file: Option<&Path>) -> Result<Option<Vec<u8>>, String> {
    match (data, file) {
        (Some(data), _) => STANDARD
            .decode(data.trim())
            .map(Some)
            .map_err(|_| "one of its *-data fields is not base64".to_owned()),
        (None, Some(file)) => file_in(folder, file).map(Some),
        (None, None) => Ok(None),
    }
}

fn find<T: serde::de::DeserializeOwned>(all: &[Named], what: &str, name: &str) -> Result<T, String> {
    let found = all.iter().find(|named| named.name == name);
    let found = found.ok_or_else(|| format!("it has no {what} {name:?}"))?;
    // What can't be read may be a secret: it is not shown.
    serde_json::from_value(found.content.clone()).map_err(|_| format!("its {what} {name:?} can't be read"))
}

fn file_in(folder: &Path, file: &Path) -> Result<Vec<u8>, String> {
    let path = folder.join(file);
    std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_as(user: &str) -> Result<Access, String> {
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: default\nclusters:\n- name: c\n  cluster: {{ server: \"https://127.0.0.1:6443\" }}\n\
             users:\n- name: u\n  user: {user}\ncontexts:\n- name: default\n  context: {{ cluster: c, user: u }}\n"
        );
        read(Path::new("/etc/k3s.yaml"), text.as_bytes(), None)
    }

    #[test]
    fn a_token_becomes_a_header_that_is_not_shown() {
        let access = read_as("{ token: secret-word }").unwrap();
        assert_eq!(access.server.to_string(), "https://127.0.0.1:6443/");
        let header = access.authorization.clone().unwrap();
        assert_eq!(header, "Bearer secret-word");
        assert!(!format!("{header:?} {access:?}").contains("secret-word"));
    }

    #[test]
    fn files_are_relative_to_the_kubeconfig() {
        let error = read_as("{ client-certificate: no/a.crt, client-key: a.key }").unwrap_err();
        assert!(error.contains("/etc/no/a.crt"), "{error}");
    }

    #[test]
    fn what_would_start_a_program_is_refused() {
        let error = read_as("{ exec: { command: aws } }").unwrap_err();
        assert!(error.contains("which this agent does not run"), "{error}");
    }

    #[test]
    fn a_context_that_is_not_there_is_named() {
        let text = b"contexts: []\n";
        let error = read(Path::new("k"), text, Some("edge")).unwrap_err();
        assert!(error.contains("no context \"edge\""), "{error}");
        assert!(read(Path::new("k"), text, None).unwrap_err().contains("current-context"));
        assert!(read(Path::new("k"), b"", None).is_err());
        assert!(read(Path::new("k"), b"[1", None).is_err());
    }
}
