//! podman's REST API over its unix socket: HTTP/1.1, one connection for each request. Every wait has a limit: a
//! service that hangs takes the connection, and then says nothing.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::unanswered::Unanswered;

/// The oldest API that is spoken; podman 4 and 5 both serve it.
const API: &str = "/v4.0.0/libpod";
/// The most that an answer may have, in bytes.
const ANSWER_LIMIT: usize = 32 << 20;
/// How long podman may take for what it knows by heart.
pub(super) const SOON: Duration = Duration::from_secs(10);
/// How long it may take for what starts programs.
pub(super) const WORK: Duration = Duration::from_secs(45);

/// A body on its way to podman.
pub(super) type Body = BoxBody<Bytes, std::io::Error>;

/// Why podman didn't do something.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum ApiError {
    /// It can't be asked.
    #[error(
        "podman can't be reached at {socket}: {cause}; check that podman.socket is enabled and that podman works"
    )]
    Unreachable {
        /// Its socket.
        socket: String,
        /// Why.
        cause: String,
    },
    /// It took the request, and gave no answer in time.
    #[error("podman did not answer {what} within {} s; if this persists, restart podman's service (containers keep \
             running)", limit.as_secs())]
    Silent {
        /// The request.
        what: String,
        /// How long was waited.
        limit: Duration,
    },
    /// It isn't asked: it hasn't answered what it was asked before.
    #[error("podman is not asked for {what}, as it has not answered {before} for {} s ({count} such requests are open); if \
             this persists, restart podman's service (containers keep running)", since.as_secs())]
    Busy {
        /// The request.
        what: String,
        /// One that it was sent before.
        before: String,
        /// How many such there are.
        count: usize,
        /// How long ago.
        since: Duration,
    },
    /// It refused.
    #[error("podman refused {what}: {message}")]
    Refused {
        /// The request.
        what: String,
        /// The status of HTTP.
        status: u16,
        /// Its words.
        message: String,
    },
}

impl ApiError {
    /// Whether what was asked for isn't there. podman says so by 404, and in some places by 500.
    pub(super) fn is_not_found(&self) -> bool {
        match self {
            ApiError::Refused { status: 404, .. } => true,
            ApiError::Refused { message, .. } => {
                ["no such container", "no such volume", "image not known", "no such image", "no such secret"]
                    .iter()
                    .any(|words| message.to_ascii_lowercase().contains(words))
            }
            _ => false,
        }
    }

    /// Whether the message has these words.
    pub(super) fn says(&self, words: &str) -> bool {
        matches!(self, ApiError::Refused { message, .. } if message.contains(words))
    }
}

/// What is asked.
pub(super) struct Call {
    method: Method,
    path: String,
    query: Vec<(&'static str, String)>,
    content_type: Option<&'static str>,
    body: Option<Bytes>,
    limit: Duration,
    waits_for_a_program: bool,
}

impl Call {
    fn of(method: Method, path: impl Into<String>) -> Self {
        Call {
            method,
            path: path.into(),
            query: Vec::new(),
            content_type: None,
            body: None,
            limit: SOON,
            waits_for_a_program: false,
        }
    }

    pub(super) fn get(path: impl Into<String>) -> Self {
        Call::of(Method::GET, path)
    }

    pub(super) fn post(path: impl Into<String>) -> Self {
        Call::of(Method::POST, path)
    }

    pub(super) fn delete(path: impl Into<String>) -> Self {
        Call::of(Method::DELETE, path)
    }

    pub(super) fn query(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.query.push((key, value.into()));
        self
    }

    pub(super) fn json(mut self, body: &impl Serialize) -> Self {
        // What is sent has string keys only, and so always has a JSON form.
        self.body = Some(Bytes::from(serde_json::to_vec(body).unwrap_or_default()));
        self.content_type = Some("application/json");
        self
    }

    pub(super) fn bytes(mut self, body: Vec<u8>) -> Self {
        self.body = Some(Bytes::from(body));
        self.content_type = Some("application/octet-stream");
        self
    }

    /// Gives podman so long.
    pub(super) fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// It is answered when a program in a container ends, however well podman is.
    pub(super) fn waiting_for_a_program(mut self) -> Self {
        self.waits_for_a_program = true;
        self
    }

    fn words(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    fn uri(&self) -> String {
        let mut uri = format!("{API}{}", self.path);
        for (index, (key, value)) in self.query.iter().enumerate() {
            uri.push(if index == 0 { '?' } else { '&' });
            uri.push_str(key);
            uri.push('=');
            uri.push_str(&escaped(value));
        }
        uri
    }
}

/// `text` as it may stand in a URL (RFC 3986, section 2.3).
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// podman's answer to a request that it took.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Bytes,
}

/// A client. Each request has a connection of its own; between requests only what isn't answered yet is known.
#[derive(Clone, Debug)]
pub(super) struct Client {
    socket: PathBuf,
    unanswered: Unanswered,
}

impl Client {
    pub(super) fn new(socket: &Path) -> Self {
        Client { socket: socket.to_owned(), unanswered: Unanswered::default() }
    }

    /// Asks, and reads the answer as JSON.
    pub(super) async fn json<T: DeserializeOwned>(&self, call: Call) -> Result<T, ApiError> {
        let what = call.words();
        let answer = self.send(call).await?;
        serde_json::from_slice(&answer.body).map_err(|error| ApiError::Refused {
            what,
            status: answer.status,
            message: format!("its answer can't be read: {error}"),
        })
    }

    /// Asks; a status of 2xx or 304 is an answer, others are errors.
    pub(super) async fn send(&self, call: Call) -> Result<Answer, ApiError> {
        let (what, limit, counts) = (call.words(), call.limit, !call.waits_for_a_program);
        // With its body, which may have the name of what is made.
        let mut hasher = DefaultHasher::new();
        call.body.hash(&mut hasher);
        let request = format!("{} {} {:x}", call.method, call.uri(), hasher.finish());
        let body = call.body.clone().map_or_else(empty, full);
        let client = self.clone();
        let work = async move {
            let response = client.open(&call, body).await?;
            let status = response.status().as_u16();
            let body = Limited::new(response.into_body(), ANSWER_LIMIT).collect().await;
            let body = body.map_err(|error| client.unreachable(error))?.to_bytes();
            Ok((status, body))
        };
        let (status, body) = match counts {
            true => self.unanswered.ask((&what, &request), limit, work).await?,
            false => within(limit, &what, work).await?,
        };
        checked(what, status, body)
    }

    /// Sends a body of any length; the limit counts from its end.
    pub(super) async fn upload(&self, call: Call, body: Body) -> Result<Answer, ApiError> {
        let what = call.words();
        let response = within(call.limit, &what, self.open(&call, body)).await?;
        let status = response.status().as_u16();
        let body = within(SOON, &what, async {
            let body = Limited::new(response.into_body(), ANSWER_LIMIT).collect().await;
            body.map(|body| body.to_bytes()).map_err(|error| self.unreachable(error))
        });
        let body = body.await?;
        checked(what, status, body)
    }

    /// Asks for an answer that goes on; only its head has a limit.
    pub(super) async fn stream(&self, call: Call) -> Result<Incoming, ApiError> {
        let what = call.words();
        let body = call.body.clone().map_or_else(empty, full);
        let response = within(call.limit, &what, self.open(&call, body)).await?;
        let status = response.status().as_u16();
        if (200..300).contains(&status) {
            return Ok(response.into_body());
        }
        let body = within(SOON, &what, async {
            let body = Limited::new(response.into_body(), ANSWER_LIMIT).collect().await;
            body.map(|body| body.to_bytes()).map_err(|error| self.unreachable(error))
        });
        checked(what.clone(), status, body.await?)?;
        Err(ApiError::Refused { what, status, message: "an unexpected answer".to_owned() })
    }

    async fn open(&self, call: &Call, body: Body) -> Result<Response<Incoming>, ApiError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.unreachable(error))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.unreachable(error))?;
        // Ends with the connection, which ends with the answer's body.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        let mut request =
            Request::builder().method(call.method.clone()).uri(call.uri()).header(HOST, "podman");
        if let Some(content_type) = call.content_type {
            request = request.header(CONTENT_TYPE, content_type);
        }
        let request = request.body(body).map_err(|error| self.unreachable(error))?;
        sender.send_request(request).await.map_err(|error| self.unreachable(error))
    }

    fn unreachable(&self, error: impl std::fmt::Display) -> ApiError {
        ApiError::Unreachable { socket: self.socket.display().to_string(), cause: error.to_string() }
    }
}

async fn within<T>(
    limit: Duration,
    what: &str,
    work: impl Future<Output = Result<T, ApiError>>,
) -> Result<T, ApiError> {
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => Err(ApiError::Silent { what: what.to_owned(), limit }),
    }
}

fn checked(what: String, status: u16, body: Bytes) -> Result<Answer, ApiError> {
    if (200..300).contains(&status) || status == 304 {
        return Ok(Answer { status, body });
    }
    #[derive(serde::Deserialize)]
    struct Words {
        message: String,
    }
    let message = serde_json::from_slice::<Words>(&body).map(|words| words.message);
    let message = message.unwrap_or_else(|_| String::from_utf8_lossy(&body).chars().take(500).collect());
    Err(ApiError::Refused { what, status, message: message.trim().to_owned() })
}

fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed()
}

fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_escaped() {
        let call = Call::get("/events").query("filters", r#"{"label":["a=b"]}"#).query("stream", "true");
        assert_eq!(
            call.uri(),
            "/v4.0.0/libpod/events?filters=%7B%22label%22%3A%5B%22a%3Db%22%5D%7D&stream=true"
        );
    }

    #[test]
    fn podmans_words_are_told() {
        let body = Bytes::from(r#"{"cause":"x","message":"no such container: web","response":500}"#);
        let error = checked("GET /x".into(), 500, body).err().unwrap();
        assert_eq!(error.to_string(), "podman refused GET /x: no such container: web");
        assert!(error.is_not_found());
    }
}
