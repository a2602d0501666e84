//! Health checks and probes over the network: one GET, one connection, or one question by gRPC. Each has one limit
//! for all of it, reads no more than it must, and says in words what it saw.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper::http::uri::{Authority, Uri};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
#[cfg(feature = "podman")]
use tokio_rustls::TlsConnector;

#[cfg(feature = "podman")]
mod grpc;
#[cfg(feature = "podman")]
mod tls;

#[cfg(feature = "podman")]
pub use self::grpc::grpc;
#[cfg(feature = "podman")]
pub use self::tls::unchecked as unchecked_tls;

/// More than any honest head of an answer, in bytes.
const HEAD_LIMIT: usize = 32 << 10;
/// OpenMetrics 2.0 is the only text with native histograms; else what people see with curl.
const PAGES: &str =
    "application/openmetrics-text;version=2.0.0;q=0.9,text/plain;version=0.0.4;q=0.8,*/*;q=0.1";

/// GETs `url`, which must be `http://`, and wants a status of 200 to 399. Redirects are not followed, and the
/// body is not read.
///
/// # Errors
/// What was seen instead, for people.
pub async fn http(url: &str, limit: Duration) -> Result<(), String> {
    let (uri, authority) = parse(url, "http").map_err(|why| format!("GET {url}: {why}"))?;
    let answer = within(limit, async {
        let stream = connect(&address(&authority, 80)).await?;
        get(stream, request(&uri, &authority, &[])?, status_only).await
    });
    answer.await.map_err(|why| format!("GET {url}: {why}"))
}

/// As [`http`], with headers, each a name and a value, and for `https://` with what speaks TLS.
///
/// # Errors
/// What was seen instead, for people.
#[cfg(feature = "podman")]
pub async fn http_with(
    url: &str,
    headers: &[(String, String)],
    tls: Option<TlsConnector>,
    limit: Duration,
) -> Result<(), String> {
    let status = answered_with(url, headers, tls, limit).await?;
    judged(status).map_err(|why| format!("GET {url}: {why}"))
}

/// As [`http_with`], and takes any answer: gives its status.
///
/// # Errors
/// Why there was none, for people.
#[cfg(feature = "podman")]
pub async fn answered_with(
    url: &str,
    headers: &[(String, String)],
    tls: Option<TlsConnector>,
    limit: Duration,
) -> Result<StatusCode, String> {
    let scheme = if tls.is_some() { "https" } else { "http" };
    let (uri, authority) = parse(url, scheme).map_err(|why| format!("GET {url}: {why}"))?;
    let status = async |answer: Response<Incoming>| Ok(answer.status());
    let answer = within(limit, async {
        let request = request(&uri, &authority, headers)?;
        let Some(tls) = tls else {
            return get(connect(&address(&authority, 80)).await?, request, status).await;
        };
        let name = tls::name_of(authority.host())?;
        let stream = connect(&address(&authority, 443)).await?;
        let stream = tls.connect(name, stream).await.map_err(|error| format!("TLS failed: {error}"))?;
        get(stream, request, status).await
    });
    answer.await.map_err(|why| format!("GET {url}: {why}"))
}

/// GETs the text at `url`, of at most so many bytes, and wants a status of 200 to 299. Asks for metrics in the text
/// formats that the agent reads.
///
/// # Errors
/// What was seen instead, for people.
pub async fn page(url: &str, most: usize, limit: Duration) -> Result<String, String> {
    let (uri, authority) = parse(url, "http").map_err(|why| format!("GET {url}: {why}"))?;
    let headers = [("accept".to_owned(), PAGES.to_owned())];
    let text = within(limit, async {
        let stream = connect(&address(&authority, 80)).await?;
        get(stream, request(&uri, &authority, &headers)?, |answer| text_of(answer, most)).await
    });
    text.await.map_err(|why| format!("GET {url}: {why}"))
}

/// Connects to `address` (`host:port`) and hangs up.
///
/// # Errors
/// Why it couldn't, for people.
pub async fn tcp(address: &str, limit: Duration) -> Result<(), String> {
    let connected = within(limit, async { connect(address).await.map(drop) }).await;
    connected.map_err(|why| format!("connect to {address}: {why}"))
}

async fn within<T>(limit: Duration, work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => Err(format!("no answer within {limit:?}")),
    }
}

fn parse(url: &str, scheme: &str) -> Result<(Uri, Authority), String> {
    let uri: Uri = url.parse().map_err(|error| format!("it is not a valid URL: {error}"))?;
    match (uri.scheme_str(), uri.authority()) {
        (Some(found), Some(authority)) if found == scheme && !authority.as_str().contains('@') => {
            let authority = authority.clone();
            Ok((uri, authority))
        }
        _ => Err(format!("a health check needs a URL of the form {scheme}://host:port/path")),
    }
}

fn address(authority: &Authority, usual: u16) -> String {
    format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(usual))
}

async fn connect(address: &str) -> Result<TcpStream, String> {
    TcpStream::connect(address).await.map_err(|error| words(&error))
}

/// The error of the system without its number.
fn words(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused: nothing listens there".to_owned(),
        _ => error.to_string(),
    }
}

/// Asks, and has `read` make something of the answer.
async fn get<T, F: Future<Output = Result<T, String>>>(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Empty<Bytes>>,
    read: impl FnOnce(Response<Incoming>) -> F,
) -> Result<T, String> {
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_LIMIT)
        .handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
        .await
        .map_err(|error| describe(&error))?;
    // The connection is driven here and not by a task: it ends with this call, whatever the server does.
    let mut work = std::pin::pin!(async {
        let answer = sender.send_request(request).await.map_err(|error| describe(&error))?;
        read(answer).await
    });
    tokio::select! {
        done = &mut work => done,
        // It may end in the same moment in which it delivers the answer.
        ended = connection => match ended {
            Ok(()) => work.await,
            Err(error) => Err(describe(&error)),
        },
    }
}

fn request(
    uri: &Uri,
    authority: &Authority,
    headers: &[(String, String)],
) -> Result<Request<Empty<Bytes>>, String> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::get(path)
        .header(HOST, authority.as_str())
        .header(USER_AGENT, concat!("holdfast/", env!("CARGO_PKG_VERSION")))
        .header(CONNECTION, "close");
    // One that the caller gives takes the usual one's place.
    if let Some(all) = request.headers_mut() {
        for (name, value) in headers {
            let named = name.parse::<hyper::header::HeaderName>().ok().zip(value.parse().ok());
            named.and_then(|(name, value)| all.insert(name, value));
        }
    }
    request.body(Empty::new()).map_err(|error| error.to_string())
}

async fn status_only(answer: Response<Incoming>) -> Result<(), String> {
    judged(answer.status())
}

fn judged(status: StatusCode) -> Result<(), String> {
    if (200..=399).contains(&status.as_u16()) { Ok(()) } else { Err(format!("answered {status}")) }
}

async fn text_of(answer: Response<Incoming>, most: usize) -> Result<String, String> {
    if !answer.status().is_success() {
        return Err(format!("answered {}", answer.status()));
    }
    let body = Limited::new(answer.into_body(), most).collect().await.map_err(|error| match error
        .downcast::<hyper::Error>()
    {
        Ok(error) => format!("the response was cut off: {}", describe(&error)),
        Err(_) => format!("the page has more than {most} bytes"),
    })?;
    String::from_utf8(body.to_bytes().into()).map_err(|_| "the page is not text in UTF-8".to_owned())
}

fn describe(error: &hyper::Error) -> String {
    if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        return "the connection was closed without an answer".to_owned();
    }
    if error.is_parse() || error.is_parse_too_large() {
        return format!("the answer is not HTTP/1: {error}");
    }
    match std::error::Error::source(error) {
        Some(source) => source.to_string(),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
