//! ureq's failures, in words that help.

use std::error::Error as _;
use std::io;

use ureq::Timeout;

use super::allowance::UsedUp;
use super::send::Waits;

/// Why there is no answer, or only a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// There is no way to the server, or the connection broke.
    Unreachable(String),
    /// It was too slow.
    TimedOut(String),
    /// Its certificate isn't trusted.
    Untrusted(String),
    /// What it says is not HTTP or not TLS.
    Protocol(String),
    /// The box itself stopped: nothing is left of its budget.
    UsedUp(UsedUp),
}

/// What a failure of ureq means.
pub(crate) fn explain(error: &ureq::Error, waits: &Waits) -> Failure {
    match error {
        // The server was never asked.
        ureq::Error::Timeout(Timeout::Resolve) => {
            Failure::Unreachable(format!("the name was not resolved within {:?}", waits.patience))
        }
        ureq::Error::Timeout(Timeout::Connect) => {
            Failure::Unreachable(format!("no connection within {:?}", waits.patience))
        }
        ureq::Error::Timeout(step) => {
            let patience = waits.patience;
            Failure::TimedOut(match step {
                Timeout::Global => format!("it took longer than {:?} in all", waits.total),
                Timeout::RecvResponse => format!("no answer within {patience:?}"),
                step => format!("no data was transferred for {:?} ({step})", patience.min(waits.total)),
            })
        }
        ureq::Error::HostNotFound => Failure::Unreachable("the name is unknown to DNS".to_owned()),
        ureq::Error::ConnectProxyFailed(why) => Failure::Unreachable(format!("the proxy refuses: {why}")),
        ureq::Error::Io(error) => explain_io(error),
        ureq::Error::Rustls(error) => explain_tls(error),
        ureq::Error::Protocol(why) => Failure::Protocol(why.to_string()),
        ureq::Error::LargeResponseHeader(..) => {
            Failure::Protocol("the head of its answer is too large".to_owned())
        }
        other => Failure::Unreachable(other.to_string()),
    }
}

/// What a failure while a body is read means. ureq hands its own errors through as `io::Error`.
pub(crate) fn explain_body(error: &io::Error, waits: &Waits) -> Failure {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<ureq::Error>()) {
        Some(inner) => explain(inner, waits),
        None => explain_io(error),
    }
}

fn explain_io(error: &io::Error) -> Failure {
    if let Some(used_up) = error.get_ref().and_then(|inner| inner.downcast_ref::<UsedUp>()) {
        return Failure::UsedUp(used_up.clone());
    }
    // ureq's connectors wrap each other's errors.
    if let Some(inner) = error.get_ref().and_then(|inner| inner.downcast_ref::<io::Error>()) {
        return explain_io(inner);
    }
    if let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        return explain_tls(tls);
    }
    if error.kind() == io::ErrorKind::TimedOut || error.kind() == io::ErrorKind::WouldBlock {
        return Failure::TimedOut(error.to_string());
    }
    Failure::Unreachable(match error.source() {
        Some(source) => format!("{error} ({source})"),
        None => error.to_string(),
    })
}

fn explain_tls(error: &rustls::Error) -> Failure {
    match error {
        rustls::Error::InvalidCertificate(_)
        | rustls::Error::NoCertificatesPresented
        | rustls::Error::UnsupportedNameType => Failure::Untrusted(error.to_string()),
        _ => Failure::Protocol(format!("TLS failed: {error}")),
    }
}
