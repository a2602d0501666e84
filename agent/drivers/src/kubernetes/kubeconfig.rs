//! The kubeconfig (k8s.io/client-go, tools/clientcmd/api/v1): where the API server is, how it is known, and who we are.
//! What starts a program to find that out is refused: nothing is started to reach a server.
//!
//! kube's own loader would do, and brings a YAML parser, regular expressions and JSONPath with it: three megabytes.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use holdfast_core::yaml::{Dialect, parse};
use http::header::AUTHORIZATION;
use http::{HeaderValue, Uri};
use kube::Config;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
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

/// What makes a client of the kubeconfig in `text`, which was read at `path`; by the context of that name, or the
/// current one.
pub(super) fn config(path: &Path, text: &[u8], context: Option<&str>) -> Result<Config, String> {
    let documents = parse(&path.display().to_string(), text, Dialect::Kubernetes, LIMIT)
        .map_err(|errors| errors.first().map_or_else(String::new, ToString::to_string))?;
    let whole = documents.first().ok_or("it is empty")?.to_json();
    let file: File = serde_json::from_value(whole).map_err(said)?;
    let name = context.or(file.current_context.as_deref()).filter(|name| !name.is_empty());
    let name = name.ok_or("it names no current-context: name one in drivers.kubernetes.context")?;
    let context: Context = find(&file.contexts, "context", name)?;
    let cluster: Cluster = find(&file.clusters, "cluster", &context.cluster)?;
    let user: Value = find(&file.users, "user", &context.user)?;
    if cluster.proxy_url.is_some() {
        return Err("it names a proxy-url, which this agent doesn't use".to_owned());
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    let server: Uri =
        cluster.server.parse().map_err(|error| format!("its server {}: {error}", cluster.server))?;
    let mut config = Config::new(server);
    config.accept_invalid_certs = cluster.insecure_skip_tls_verify;
    config.tls_server_name = cluster.tls_server_name;
    let authority = match (&cluster.certificate_authority_data, &cluster.certificate_authority) {
        (Some(data), _) => Some(decoded(data)?),
        (None, Some(file)) => Some(read(&folder.join(file))?),
        (None, None) => None,
    };
    if let Some(authority) = authority {
        let certificates = CertificateDer::pem_slice_iter(&authority);
        let certificates: Result<Vec<_>, _> = certificates.map(|one| one.map(|der| der.to_vec())).collect();
        config.root_cert = Some(certificates.map_err(|error| format!("its certificate-authority: {error}"))?);
    }
    identify(&mut config, folder, user)?;
    Ok(config)
}

/// Who we are: a certificate, a token, or both.
fn identify(config: &mut Config, folder: &Path, mut user: Value) -> Result<(), String> {
    for field in ["exec", "auth-provider"] {
        if user.get(field).is_some_and(|value| !value.is_null()) {
            return Err(format!(
                "its user is found out by {field}, and this agent starts no program: give it a certificate or a token"
            ));
        }
    }
    for field in ["client-certificate", "client-key"] {
        if let Some(file) = user.get(field).and_then(Value::as_str) {
            user[field] = folder.join(file).display().to_string().into();
        }
    }
    let text = |field: &str| user.get(field).and_then(Value::as_str).map(str::to_owned);
    let token = match (text("token"), text("tokenFile")) {
        (Some(token), _) => Some(token),
        (None, Some(file)) => Some(String::from_utf8_lossy(&read(&folder.join(file))?).trim().to_owned()),
        (None, None) => None,
    };
    if let Some(token) = token {
        let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| "its token is none")?;
        value.set_sensitive(true);
        config.headers.push((AUTHORIZATION, value));
    }
    // The certificate and its key are read from there when a connection is made.
    config.auth_info = serde_json::from_value(user).map_err(|_| "its user can't be read")?;
    config.auth_info.token = None;
    config.auth_info.token_file = None;
    Ok(())
}

fn find<T: serde::de::DeserializeOwned>(all: &[Named], what: &str, name: &str) -> Result<T, String> {
    let found = all.iter().find(|named| named.name == name);
    let found = found.ok_or_else(|| format!("it has no {what} {name:?}"))?;
    // What can't be read may be a secret: it is not shown.
    serde_json::from_value(found.content.clone()).map_err(|_| format!("its {what} {name:?} can't be read"))
}

fn decoded(data: &str) -> Result<Vec<u8>, String> {
    STANDARD.decode(data.trim()).map_err(|error| format!("its certificate-authority-data: {error}"))
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn said(error: impl Display) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_as(user: &str) -> Result<Config, String> {
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: default\nclusters:\n- name: c\n  cluster: {{ server: \"https://127.0.0.1:6443\" }}\n\
             users:\n- name: u\n  user: {user}\ncontexts:\n- name: default\n  context: {{ cluster: c, user: u }}\n"
        );
        config(Path::new("/etc/k3s.yaml"), text.as_bytes(), None)
    }

    #[test]
    fn a_token_becomes_a_header_that_is_not_shown() {
        let config = read_as("{ token: secret-word }").unwrap();
        assert_eq!(config.cluster_url.to_string(), "https://127.0.0.1:6443/");
        assert_eq!(config.headers[0].1, "Bearer secret-word");
        assert!(!format!("{:?}", config.headers).contains("secret-word"));
    }

    #[test]
    fn files_are_relative_to_the_kubeconfig() {
        let config = read_as("{ client-certificate: a.crt, client-key: keys/a.key }").unwrap();
        assert_eq!(config.auth_info.client_certificate.as_deref(), Some("/etc/a.crt"));
        assert_eq!(config.auth_info.client_key.as_deref(), Some("/etc/keys/a.key"));
    }

    #[test]
    fn what_would_start_a_program_is_refused() {
        let error = read_as("{ exec: { command: aws } }").unwrap_err();
        assert!(error.contains("starts no program"), "{error}");
    }

    #[test]
    fn a_context_that_is_not_there_is_named() {
        let text = b"contexts: []\n";
        let error = config(Path::new("k"), text, Some("edge")).unwrap_err();
        assert!(error.contains("no context \"edge\""), "{error}");
        assert!(config(Path::new("k"), text, None).unwrap_err().contains("current-context"));
        assert!(config(Path::new("k"), b"", None).is_err());
        assert!(config(Path::new("k"), b"[1", None).is_err());
    }
}
