//! HTTP over ureq and rustls: what the Git source and the registries' client have in common.
//!
//! No redirect is followed here and no status is an error: whoever asks decides both. Every wait has a limit.

pub mod allowance;
pub(crate) mod base64;
mod failure;
mod pace;
mod send;
mod tls_and_proxy;
pub(crate) mod url;

pub(crate) use self::failure::{Failure, explain, explain_body};
pub(crate) use self::pace::Pace;
pub(crate) use self::send::{Client, Headers, Waits, location, retry_after, send};
pub(crate) use self::tls_and_proxy::{Roots, client, proxy_of_environment, require_http_proxy};
