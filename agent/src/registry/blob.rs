//! Downloading one blob from one server (distribution-spec, "Pulling blobs"; RFC 9110, section 14).

use holdfast_core::oci::Descriptor;
use holdfast_store::StoreError;
use holdfast_store::content::Partial;
use ureq::Body;
use ureq::http::{Response, header};

use super::connection::Connection;
use super::error::Reason;
use super::pull::Stop;

/// How much is read at once.
const CHUNK: usize = 64 << 10;
/// A connection that brought this much before it broke is worth another one at once.
const PROGRESS: u64 = 1 << 20;

/// Gets what `partial` lacks of `wanted`, proves it, and pins it.
pub(super) fn download(
    connection: &mut Connection<'_>,
    repository: &str,
    wanted: &Descriptor,
    partial: &mut Partial<'_>,
) -> Result<(), Stop> {
    let url = format!("/v2/{repository}/blobs/{}", wanted.digest);
    // What came from elsewhere, or long ago, may be at fault if the whole is wrong.
    let mut mixed = partial.length() > 0;
    loop {
        let before = partial.length();
        match transfer(connection, &url, wanted, partial) {
            Err(Stop::Server(reason)) if reason.may_pass() && partial.length() >= before + PROGRESS => {
                tracing::debug!(%reason, blob = %wanted.digest, at = partial.length(), "resuming a download where it broke off");
                continue;
            }
            other => other?,
        }
        match partial.commit() {
            Ok(()) => return Ok(()),
            Err(StoreError::DigestMismatch { .. }) if mixed => mixed = false,
            Err(StoreError::DigestMismatch { expected, got }) => {
                return Err(Reason::WrongDigest { expected, got }.into());
            }
            Err(error) => return Err(Stop::Disk(error)),
        }
    }
}

/// One request for what is missing.
fn transfer(
    connection: &mut Connection<'_>,
    url: &str,
    wanted: &Descriptor,
    partial: &mut Partial<'_>,
) -> Result<(), Stop> {
    if connection.is_without_ranges {
        partial.restart().map_err(Stop::Disk)?;
    }
    if partial.is_complete() {
        return Ok(());
    }
    let from = partial.length();
    // Packed on the way, the bytes would be others.
    let mut headers = vec![("accept-encoding".to_owned(), "identity".to_owned())];
    if from > 0 {
        headers.push(("range".to_owned(), format!("bytes={from}-")));
    }
    let response = connection.get(url, &headers, &[200, 206, 416])?;
    match response.status().as_u16() {
        200 => partial.restart().map_err(Stop::Disk)?,
        206 if is_range(&response, from, wanted.size) => {}
        status if from > 0 => {
            tracing::debug!(status, blob = %wanted.digest, "the server can't resume a download: starting from the beginning");
            connection.is_without_ranges = true;
            return transfer(connection, url, wanted, partial);
        }
        status => return Err(protocol(format!("HTTP status {status} to a request without a range")).into()),
    }
    check_length(&response, wanted.size - partial.length())?;
    receive(connection, response, partial)
}

/// Whether an answer is exactly the rest that was asked for.
fn is_range(response: &Response<Body>, from: u64, size: u64) -> bool {
    let value = response.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let parsed = value.and_then(parse_range);
    parsed.is_some_and(|(first, last, all)| {
        first == from && last.checked_add(1) == Some(size) && all.is_none_or(|all| all == size)
    })
}

/// `bytes 5-9/10` or `bytes 5-9/*`.
fn parse_range(value: &str) -> Option<(u64, u64, Option<u64>)> {
    let (range, all) = value.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let all = if all == "*" { None } else { Some(all.parse().ok()?) };
    Some((first.parse().ok()?, last.parse().ok()?, all))
}

/// A server that has something else needn't be listened to.
fn check_length(response: &Response<Body>, expected: u64) -> Result<(), Reason> {
    let value = response.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    match value.and_then(|value| value.parse::<u64>().ok()) {
        Some(length) if length != expected => {
            Err(Reason::WrongSize { why: format!("{length} bytes, but {expected} are expected") })
        }
        _ => Ok(()),
    }
}

fn receive(
    connection: &Connection<'_>,
    response: Response<Body>,
    partial: &mut Partial<'_>,
) -> Result<(), Stop> {
    let mut incoming = connection.incoming(response);
    let mut chunk = vec![0; CHUNK];
    loop {
        let count = incoming.read(&mut chunk)?;
        if count == 0 {
            break;
        }
        match partial.append(&chunk[..count]) {
            Ok(()) => {}
            Err(StoreError::ContentTooLarge { limit, .. }) => {
                partial.restart().map_err(Stop::Disk)?;
                return Err(Reason::WrongSize { why: format!("more than the expected {limit} bytes") }.into());
            }
            Err(error) => return Err(Stop::Disk(error)),
        }
    }
    match partial.is_complete() {
        true => Ok(()),
        false => {
            let why = format!("the connection ended after {} bytes", partial.length());
            Err(Reason::Unreachable { why }.into())
        }
    }
}

fn protocol(why: String) -> Reason {
    Reason::Protocol { why }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_the_rfc_has_them() {
        assert_eq!(parse_range("bytes 5-9/10"), Some((5, 9, Some(10))));
        assert_eq!(parse_range(" bytes 5-9/*"), Some((5, 9, None)));
        for bad in ["", "bytes */10", "5-9/10", "bytes 5-9", "bytes -5-9/10", "bytes 5-x/10", "lines 1-2/3"] {
            assert_eq!(parse_range(bad), None, "{bad}");
        }
    }
}
