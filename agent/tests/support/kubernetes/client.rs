//! A plain HTTP client of the API server, for the test's own view: it shares no code with the driver.

use std::time::Duration;

use serde_json::Value;
use ureq::http::{HeaderMap, Method, Request};
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};

use super::certificates::{Certificates, Pair};

/// More than any call takes on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the API server answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// As 200.
    pub status: u16,
    /// Its headers.
    pub headers: HeaderMap,
    /// JSON; a text where it is none.
    pub body: Value,
}

/// Asks as the administrator.
#[derive(Debug)]
pub(super) struct Client {
    agent: ureq::Agent,
    base: String,
}

impl Client {
    pub(super) fn new(base: &str, certificates: &Certificates, pair: &Pair) -> Self {
        let chain = std::fs::read(&pair.certificate).unwrap();
        let leaf = Certificate::from_pem(&chain).unwrap();
        let key = PrivateKey::from_pem(&std::fs::read(&pair.key).unwrap()).unwrap();
        let authority = std::fs::read(certificates.file("server-ca.pem")).unwrap();
        let roots = RootCerts::new_with_certs(&[Certificate::from_pem(&authority).unwrap()]);
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let tls = TlsConfig::builder()
            .root_certs(roots)
            .client_cert(Some(ClientCert::new_with_certs(&[leaf], key)))
            .unversioned_rustls_crypto_provider(provider)
            .build();
        let config = ureq::Agent::config_builder()
            .proxy(None)
            .tls_config(tls)
            .timeout_global(Some(PATIENCE))
            .http_status_as_error(false)
            // An API server that was started again closed what is kept.
            .max_idle_connections(0)
            .build();
        Client { agent: ureq::Agent::new_with_config(config), base: base.to_owned() }
    }

    /// One request; an error in words when there is no answer.
    pub(super) fn ask(
        &self,
        method: Method,
        path: &str,
        kind: Option<&str>,
        body: &[u8],
    ) -> Result<Answer, String> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        if let Some(kind) = kind {
            request = request.header("content-type", kind);
        }
        let request = request.body(body.to_vec()).unwrap();
        let answer = self.agent.run(request).map_err(|error| error.to_string())?;
        let (parts, mut body) = answer.into_parts();
        let text = body.with_config().limit(1 << 30).read_to_string().map_err(|error| error.to_string())?;
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body })
    }
}
