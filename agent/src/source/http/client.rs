//! The HTTP client: one ureq agent, with its roots of trust and its proxy, kept from poll to poll.

use std::error::Error as _;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Proxy, ProxyProtocol, Timeout};

use super::credentials::Credentials;
use super::meter::Meter;
use crate::source::config::SourceConfig;
use crate::source::error::SourceError;
use crate::source::git::shown_url;

/// What is needed to ask a server.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) agent: Agent,
    pub(crate) credentials: Option<Credentials>,
}

impl Client {
    /// Checks what can be checked of the configuration without asking anyone.
    pub(crate) fn check(config: &SourceConfig) -> Result<(), SourceError> {
        Credentials::of(config)?;
        let rest = config.url.split_once("://").map_or("", |(_, rest)| rest);
        let authority = rest.split('/').next().unwrap_or_default();
        if authority.contains('@') {
            return Err(SourceError::Config(
                "source.url has a user or password in it: use source.username and source.password_file"
                    .to_owned(),
            ));
        }
        if authority.is_empty() || config.url.contains(['?', '#']) {
            return Err(SourceError::Config(format!(
                "source.url {:?} is no address of a repository",
                config.url
            )));
        }
        proxy(config).map(|_| ())
    }

    /// Makes a client. The certificates are read now; after a failure a new client reads them anew.
    pub(crate) fn new(config: &SourceConfig) -> Result<Self, SourceError> {
        let credentials = Credentials::of(config)?;
        let mut builder = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("holdfast/", env!("CARGO_PKG_VERSION")))
            .proxy(proxy(config)?)
            .max_idle_connections(1)
            .max_response_header_size(32 << 10);
        if config.url.starts_with("https://") {
            let roots = roots(config.ca_file.as_deref())?;
            builder = builder.tls_config(
                TlsConfig::builder()
                    .root_certs(RootCerts::Specific(Arc::new(roots)))
                    .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
                    .build(),
            );
        }
        Ok(Client { agent: Agent::new_with_config(builder.build()), credentials })
    }
}

fn proxy(config: &SourceConfig) -> Result<Option<Proxy>, SourceError> {
    let proxy = match &config.proxy {
        // The text may hold a password: it is not repeated.
        Some(text) => Some(Proxy::new(text).map_err(|_| {
            SourceError::Config("source.proxy is no proxy: write http://host:port".to_owned())
        })?),
        None => Proxy::try_from_env(),
    };
    match &proxy {
        Some(proxy) if !matches!(proxy.protocol(), ProxyProtocol::Http | ProxyProtocol::Https) => Err(SourceError::Config(
            "the proxy (source.proxy, https_proxy or all_proxy) is a SOCKS proxy; only http:// is supported"
                .to_owned(),
        )),
        _ => Ok(proxy),
    }
}

/// The certificates to trust: those of the file, else the system's.
fn roots(ca_file: Option<&Path>) -> Result<Vec<Certificate<'static>>, SourceError> {
    let found: Vec<CertificateDer<'static>> = match ca_file {
        Some(path) => {
            let bad = |why: &dyn std::fmt::Display| {
                SourceError::Local(format!(
                    "the certificates of source.ca_file {} cannot be read: {why}",
                    path.display()
                ))
            };
            let pem = std::fs::read(path).map_err(|error| bad(&error))?;
            CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().map_err(|error| bad(&error))?
        }
        None => rustls_native_certs::load_native_certs().certs,
    };
    if found.is_empty() {
        return Err(SourceError::Local(match ca_file {
            Some(path) => {
                format!("source.ca_file {} has no certificate in it (PEM is wanted)", path.display())
            }
            None => "this system has no certificates to check servers with: install its CA bundle \
                     (ca-certificates), or set source.ca_file"
                .to_owned(),
        }));
    }
    Ok(found.iter().map(|der| Certificate::from_der(der).to_owned()).collect())
}

/// What a failure of ureq means.
pub(crate) fn explain(url: &str, meter: &Meter, error: &ureq::Error) -> SourceError {
    let url = shown_url(url);
    let unreachable = |why: String| SourceError::Unreachable { url: url.clone(), why };
    match error {
        ureq::Error::Timeout(step) => {
            let why = match step {
                Timeout::Global => format!("it took longer than {:?} in all", meter.total()),
                Timeout::Resolve => format!("the name was not resolved within {:?}", meter.patience()),
                Timeout::Connect => format!("no connection within {:?}", meter.patience()),
                Timeout::RecvResponse => format!("no answer within {:?}", meter.patience()),
                step => format!("nothing moved for {:?} ({step})", meter.patience().min(meter.total())),
            };
            SourceError::TimedOut { url, why }
        }
        ureq::Error::HostNotFound => unreachable("the name is unknown to DNS".to_owned()),
        ureq::Error::ConnectProxyFailed(why) => unreachable(format!("the proxy refuses: {why}")),
        ureq::Error::Io(error) => explain_io(&url, error),
        ureq::Error::Rustls(error) => explain_tls(&url, error),
        ureq::Error::Protocol(why) => SourceError::Protocol { url, why: why.to_string() },
        ureq::Error::LargeResponseHeader(..) => {
            SourceError::Protocol { url, why: "the head of its answer is too large".to_owned() }
        }
        other => unreachable(other.to_string()),
    }
}

fn explain_io(url: &str, error: &io::Error) -> SourceError {
    let inner = error.get_ref();
    if let Some(tls) = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        return explain_tls(url, tls);
    }
    if error.kind() == io::ErrorKind::TimedOut || error.kind() == io::ErrorKind::WouldBlock {
        return SourceError::TimedOut { url: url.to_owned(), why: error.to_string() };
    }
    let mut why = error.to_string();
    if let Some(source) = error.source() {
        why = format!("{why} ({source})");
    }
    SourceError::Unreachable { url: url.to_owned(), why }
}

fn explain_tls(url: &str, error: &rustls::Error) -> SourceError {
    match error {
        rustls::Error::InvalidCertificate(_)
        | rustls::Error::NoCertificatesPresented
        | rustls::Error::UnsupportedNameType => {
            SourceError::Untrusted { url: url.to_owned(), why: error.to_string() }
        }
        _ => SourceError::Protocol { url: url.to_owned(), why: format!("TLS failed: {error}") },
    }
}

/// What a failure while a body is read means. ureq hands its own errors through as `io::Error`.
pub(crate) fn explain_body(url: &str, meter: &Meter, error: io::Error) -> SourceError {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<ureq::Error>());
    match inner {
        Some(inner) => explain(url, meter, inner),
        None => explain_io(&shown_url(url), &error),
    }
}
