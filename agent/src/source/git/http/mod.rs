//! Git's smart HTTP protocol over ureq and rustls, as gix's transport wants it.
//!
//! Every wait has a limit: connecting, the TLS handshake, the answer's head and each silence in its body, and
//! all of it together. What is received is counted, and a server that is slower than the slowest that is
//! allowed is given up.

mod client;
mod credentials;
mod exchange;
mod meter;
mod redirect;

pub(crate) use self::client::Client;
pub(crate) use self::exchange::{Advertisement, GitHttp, old_protocol};
pub(crate) use self::meter::Meter;
