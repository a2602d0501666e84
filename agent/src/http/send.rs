//! Sending one request under its limits.

use std::time::Duration;

use ureq::http::{Response, header};
use ureq::{Agent, Body};

use super::allowance::Line;

/// Names and values.
pub(crate) type Headers = Vec<(String, String)>;

/// Who sends requests, and what they may use.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(super) agent: Agent,
    pub(super) line: Line,
}

/// For ureq, which doesn't know that we wait on purpose: whoever reads looks at the time.
const UNHURRIED: Duration = Duration::from_secs(30 * 86_400);

/// How long a request may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waits {
    /// What is left of the whole.
    pub(crate) left: Duration,
    /// The whole time that was given, for messages.
    pub(crate) total: Duration,
    /// How long the server may be silent at each step.
    pub(crate) patience: Duration,
}

/// Sends a GET, or a POST if there is a body, and waits for the head of its answer.
pub(crate) fn send(
    client: &Client,
    url: &str,
    headers: &Headers,
    body: Option<&[u8]>,
    waits: &Waits,
) -> Result<Response<Body>, ureq::Error> {
    let Client { agent, line } = client;
    line.wait();
    // Zero would be no limit.
    let left = waits.left.max(Duration::from_millis(1));
    let patience = Some(waits.patience.min(left));
    let left = Some(if line.is_slowed() { left.max(UNHURRIED) } else { left });
    macro_rules! prepared {
        ($request:expr) => {{
            let mut request = $request
                .config()
                .timeout_global(left)
                .timeout_resolve(patience)
                .timeout_connect(patience)
                .timeout_send_request(patience)
                .timeout_recv_response(patience)
                .timeout_per_read(patience)
                .timeout_per_write(patience)
                .build();
            for (name, value) in headers {
                request = request.header(name.as_str(), value.as_str());
            }
            request
        }};
    }
    match body {
        None => prepared!(agent.get(url)).call(),
        Some(body) => prepared!(agent.post(url)).send(body),
    }
}

/// Where an answer leads, if it leads elsewhere.
pub(crate) fn location(response: &Response<Body>) -> Option<String> {
    matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308)
        .then(|| response.headers().get(header::LOCATION)?.to_str().ok().map(str::to_owned))
        .flatten()
}

/// How long the server asks to be left alone. Seconds only: a date would be compared with a clock that may be wrong.
pub(crate) fn retry_after(response: &Response<Body>) -> Option<Duration> {
    let text = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?;
    text.trim().parse().ok().map(|seconds: u32| Duration::from_secs(seconds.into()))
}
