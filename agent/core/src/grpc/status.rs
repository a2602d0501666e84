//! The codes by which a server says how it is: HTTP/2's, gRPC's, and those of the health protocol.

/// HTTP/2's error codes (RFC 9113, 7), by their numbers.
const HTTP2: [&str; 14] = [
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
];

/// gRPC's status codes, by their numbers.
const GRPC: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];
const NOT_FOUND: usize = 5;
const UNIMPLEMENTED: usize = 12;

/// `ServingStatus` of grpc.health.v1, by its numbers.
const HEALTH: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];
const SERVING: u64 = 1;

/// What `code`, at the beginning of these bytes, is called.
pub(super) fn of_http2(code: &[u8]) -> String {
    let Some(code) = code.first_chunk::<4>() else { return "it does not say why".to_owned() };
    let code = u32::from_be_bytes(*code);
    match HTTP2.get(code as usize) {
        Some(name) => (*name).to_owned(),
        None => format!("HTTP/2's error {code}"),
    }
}

/// Well if `code`, a grpc-status, is 0; else what it means, with the server's own `message`.
pub(super) fn of_grpc(code: &str, message: &str, service: &str) -> Result<(), String> {
    let number: usize = code.parse().unwrap_or(usize::MAX);
    let why = match number {
        0 => return Ok(()),
        NOT_FOUND => format!("it does not know {}", called(service)),
        UNIMPLEMENTED => "it has no health service (grpc.health.v1.Health)".to_owned(),
        _ => match GRPC.get(number) {
            Some(name) => format!("the health check failed with {name}"),
            None => format!("the health check failed with the status {}", super::headers::short(code)),
        },
    };
    let message = decoded(message);
    if message.is_empty() { Err(why) } else { Err(format!("{why}: {message}")) }
}

/// A grpc-message: its bytes that aren't printable ASCII are written as `%XX`.
fn decoded(message: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = message.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let coded = (*first == b'%').then(|| after.get(..2)).flatten();
        let coded = coded.and_then(|two| std::str::from_utf8(two).ok());
        match coded.and_then(|two| u8::from_str_radix(two, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    let text = String::from_utf8_lossy(&bytes);
    // It goes into messages and logs of one line.
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect::<String>().trim().to_owned()
}

/// Well if the body is a message `HealthCheckResponse { status = 1 }` with `SERVING`.
pub(super) fn of_health(body: &[u8], service: &str) -> Result<(), String> {
    let unreadable = || "its answer is no HealthCheckResponse of grpc.health.v1".to_owned();
    let (prefix, message) = body.split_first_chunk::<5>().ok_or_else(unreadable)?;
    let [is_compressed, a, b, c, d] = *prefix;
    if is_compressed != 0 || u32::from_be_bytes([a, b, c, d]) as usize != message.len() {
        return Err(unreadable());
    }
    match status_of(message).ok_or_else(unreadable)? {
        SERVING => Ok(()),
        other => {
            let name = usize::try_from(other).ok().and_then(|other| HEALTH.get(other));
            let name =
                name.map_or_else(|| format!("in the unknown status {other}"), |name| (*name).to_owned());
            Err(format!("{} is {name}", called(service)))
        }
    }
}

fn called(service: &str) -> String {
    if service.is_empty() { "the server".to_owned() } else { format!("the service {service:?}") }
}

/// The field 1 of a message; 0 where it is left out. None is no message of protobuf.
fn status_of(mut message: &[u8]) -> Option<u64> {
    let mut status = 0;
    while !message.is_empty() {
        let key = varint(&mut message)?;
        match key & 7 {
            0 => {
                let value = varint(&mut message)?;
                if key >> 3 == 1 {
                    status = value;
                }
            }
            1 => message = message.get(8..)?,
            2 => {
                let length = usize::try_from(varint(&mut message)?).ok()?;
                message = message.get(length..)?;
            }
            5 => message = message.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f).checked_shl(shift)?;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
