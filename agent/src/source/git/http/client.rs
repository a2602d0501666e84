//! The HTTP client: one client, with its roots of trust and its proxy, kept from poll to poll.

use std::io;
use std::path::Path;

use ureq::Proxy;

use super::credentials::Credentials;
use super::meter::Meter;
use crate::http::allowance::Line;
use crate::http::url::shown as shown_url;
use crate::http::{self, Failure, Roots};
use crate::source::error::SourceError;
use crate::source::git::config::GitConfig;

/// What is needed to ask a server.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) client: http::Client,
    pub(crate) credentials: Option<Credentials>,
}

impl Client {
    /// Checks what can be checked of the configuration without asking anyone.
    pub(crate) fn check(config: &GitConfig) -> Result<(), SourceError> {
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
                "source.url {:?} is not the address of a repository",
                config.url
            )));
        }
        proxy(config).map(|_| ())
    }

    /// Makes a client. The certificates are read now; after a failure a new client reads them anew.
    pub(crate) fn new(config: &GitConfig, line: &Line) -> Result<Self, SourceError> {
        let credentials = Credentials::of(config)?;
        let roots = match config.url.starts_with("https://") {
            true => Some(roots(config.ca_file.as_deref())?),
            false => None,
        };
        Ok(Client { client: http::client(roots.as_ref(), proxy(config)?, line), credentials })
    }
}

fn proxy(config: &GitConfig) -> Result<Option<Proxy>, SourceError> {
    let proxy = match &config.proxy {
        // The text may hold a password: it is not repeated.
        Some(text) => Some(Proxy::new(text).map_err(|_| {
            SourceError::Config(
                "source.proxy is not a valid proxy address: write http://host:port".to_owned(),
            )
        })?),
        None => http::proxy_of_environment(),
    };
    http::require_http_proxy(proxy).map_err(|why| {
        SourceError::Config(format!("the proxy (source.proxy, https_proxy or all_proxy) {why}"))
    })
}

/// The certificates to trust: those of the file, else the system's.
fn roots(ca_file: Option<&Path>) -> Result<Roots, SourceError> {
    let Some(path) = ca_file else {
        let roots = Roots::of_system();
        return match roots.is_empty() {
            true => Err(SourceError::here(
                "this system has no certificates to check servers with: install its CA bundle \
                 (ca-certificates), or set source.ca_file",
            )),
            false => Ok(roots),
        };
    };
    Roots::of_file(path).map_err(|why| {
        SourceError::here(format!(
            "the certificates of source.ca_file {} cannot be used: {why}",
            path.display()
        ))
    })
}

/// What a failure of ureq means.
pub(crate) fn explain(url: &str, meter: &Meter, error: &ureq::Error) -> SourceError {
    of(url, http::explain(error, &meter.waits()))
}

/// What a failure while a body is read means.
pub(crate) fn explain_body(url: &str, meter: &Meter, error: io::Error) -> SourceError {
    of(url, http::explain_body(&error, &meter.waits()))
}

fn of(url: &str, failure: Failure) -> SourceError {
    let url = shown_url(url);
    match failure {
        Failure::Unreachable(why) => SourceError::Unreachable { url, why },
        Failure::TimedOut(why) => SourceError::TimedOut { url, why },
        Failure::Untrusted(why) => SourceError::Untrusted { url, why },
        Failure::Protocol(why) => SourceError::Protocol { url, why },
        Failure::UsedUp(cause) => SourceError::UsedUp { url, cause },
    }
}
