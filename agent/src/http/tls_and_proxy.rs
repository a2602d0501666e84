//! ureq's agent, with its roots of trust and its proxy.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{ConnectProxyConnector, Connector as _, RustlsConnector};
use ureq::{Agent, Proxy, ProxyProtocol};

use super::allowance::{Counted, Line};
use super::send::Client;

/// Certificates that servers are checked against.
#[derive(Clone, Debug, Default)]
pub(crate) struct Roots(Vec<CertificateDer<'static>>);

impl Roots {
    /// Those of a PEM file; an error says why not.
    pub(crate) fn of_file(path: &Path) -> Result<Self, String> {
        let pem = std::fs::read(path).map_err(|error| format!("it cannot be read: {error}"))?;
        let found: Vec<_> = CertificateDer::pem_slice_iter(&pem)
            .collect::<Result<_, _>>()
            .map_err(|error| format!("it cannot be read: {error}"))?;
        match found.is_empty() {
            true => Err("it contains no certificate in PEM form".to_owned()),
            false => Ok(Roots(found)),
        }
    }

    /// The system's, which may be none.
    pub(crate) fn of_system() -> Self {
        Roots(rustls_native_certs::load_native_certs().certs)
    }

    /// These and those.
    pub(crate) fn and(mut self, others: Roots) -> Self {
        self.0.extend(others.0);
        self
    }

    /// Whether there are none, so that no server can be trusted.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What is read from a socket at once: at a low rate more would be a burst.
const READ: usize = 32 << 10;

/// A client for `https` if there are roots, else for `http` alone. What it sends and receives is counted by `line`.
pub(crate) fn client(roots: Option<&Roots>, proxy: Option<Proxy>, line: &Line) -> Client {
    let mut builder = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .user_agent(concat!("holdfast/", env!("CARGO_PKG_VERSION")))
        .proxy(proxy)
        .max_idle_connections(1)
        .max_response_header_size(READ)
        .input_buffer_size(READ);
    if let Some(Roots(roots)) = roots {
        let roots: Vec<_> = roots.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
        builder = builder.tls_config(
            TlsConfig::builder()
                .root_certs(RootCerts::Specific(Arc::new(roots)))
                .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .build(),
        );
    }
    // As ureq's own, with sockets that are counted.
    let connector =
        ().chain(ConnectProxyConnector::default())
            .chain(Counted::new(line.clone()))
            .chain(RustlsConnector::default());
    let agent = Agent::with_parts(builder.build(), connector, DefaultResolver::default());
    Client { agent, line: line.clone() }
}

/// The proxy that `https_proxy`, `http_proxy` or `all_proxy` name.
pub(crate) fn proxy_of_environment() -> Option<Proxy> {
    Proxy::try_from_env()
}

/// Refuses a proxy that isn't spoken to in HTTP.
pub(crate) fn require_http_proxy(proxy: Option<Proxy>) -> Result<Option<Proxy>, &'static str> {
    match &proxy {
        Some(proxy) if !matches!(proxy.protocol(), ProxyProtocol::Http | ProxyProtocol::Https) => {
            Err("is a SOCKS proxy; only http:// is supported")
        }
        _ => Ok(proxy),
    }
}
