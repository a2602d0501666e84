//! gix's `Http` trait: requests are sent when their answer is first read, as gix writes a body before.

use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::sync::{Arc, Mutex, PoisonError};

use gix::error::ErrorExt as _;
use gix_transport::client::blocking_io::http::{GetResponse, Http, PostBodyDataKind, PostResponse};
use ureq::Body;
use ureq::http::{Response, header};

use super::client::{Client, explain, explain_body};
use super::meter::{Meter, Metered};
use super::redirect;
use crate::http::url::shown as shown_url;
use crate::http::{self, Headers, location};
use crate::source::error::SourceError;

/// What a server said it can do, and where it was found after redirects. Protocol version 2 is stateless, so
/// this may be remembered from poll to poll.
#[derive(Clone, Debug)]
pub(crate) struct Advertisement {
    base: String,
    body: Vec<u8>,
}

/// The largest advertisement of capabilities. (Version 2 lists no references there.)
const MAX_ADVERTISEMENT: u64 = 1 << 20;

/// The way to one server, for one operation.
pub(crate) struct GitHttp {
    client: Client,
    meter: Arc<Meter>,
    remembered: Arc<Mutex<Option<Advertisement>>>,
    base: Option<String>,
}

impl GitHttp {
    pub(crate) fn new(
        client: Client,
        meter: Arc<Meter>,
        remembered: Arc<Mutex<Option<Advertisement>>>,
    ) -> Self {
        GitHttp { client, meter, remembered, base: None }
    }

    fn remembered(&self) -> Option<Advertisement> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks for the advertisement, following redirects.
    fn advertisement(&self, base: &str, tail: &str, headers: &Headers) -> Result<Advertisement, SourceError> {
        let mut base = base.to_owned();
        for _ in 0..=redirect::MAX {
            let url = format!("{base}{tail}");
            let response = send(&self.client, &self.meter, &url, headers, None)?;
            if let Some(location) = location(&response) {
                base = redirect::follow(&base, tail, &location, self.client.credentials.is_some())?;
                continue;
            }
            check_status(&url, &response)?;
            check_type(&url, &response, "application/x-git-upload-pack-advertisement")?;
            let mut body = Vec::new();
            let reader = metered(response, &url, &self.meter);
            reader.take(MAX_ADVERTISEMENT + 1).read_to_end(&mut body).map_err(|error| {
                self.meter.failure().unwrap_or_else(|| explain_body(&url, &self.meter, error))
            })?;
            if body.len() as u64 > MAX_ADVERTISEMENT {
                return Err(old_protocol(&url));
            }
            return Ok(Advertisement { base, body });
        }
        Err(SourceError::Protocol { url: shown_url(&base), why: "it redirects too many times".to_owned() })
    }
}

/// The server spoke an older version of Git's protocol.
pub(crate) fn old_protocol(url: &str) -> SourceError {
    SourceError::Protocol {
        url: shown_url(url),
        why:
            "it does not support version 2 of Git's protocol: it needs Git 2.18 or newer, and a web server in \
             front of it must forward the header Git-Protocol"
                .to_owned(),
    }
}

fn split_headers(headers: impl IntoIterator<Item = impl AsRef<str>>) -> Headers {
    headers
        .into_iter()
        .filter_map(|line| line.as_ref().split_once(':').map(|(k, v)| (k.to_owned(), v.trim().to_owned())))
        // ours is set by the client
        .filter(|(name, _)| !name.eq_ignore_ascii_case("user-agent"))
        .collect()
}

fn send(
    client: &Client,
    meter: &Meter,
    url: &str,
    headers: &Headers,
    body: Option<&[u8]>,
) -> Result<Response<Body>, SourceError> {
    let mut headers = headers.clone();
    if let Some(credentials) = &client.credentials {
        headers.push(("authorization".to_owned(), credentials.header()?));
    }
    http::send(&client.client, url, &headers, body, &meter.waits())
        .map_err(|error| explain(url, meter, &error))
}

fn check_status(url: &str, response: &Response<Body>) -> Result<(), SourceError> {
    let status = response.status();
    let said = || format!("HTTP status {status}");
    let shown = shown_url(url.split("/info/refs").next().unwrap_or(url));
    match status.as_u16() {
        200 => Ok(()),
        401 | 403 => Err(SourceError::Unauthorized { url: shown, why: said() }),
        404 | 410 => Err(SourceError::NotFound { what: format!("a repository at {shown} ({})", said()) }),
        407 => Err(SourceError::Unreachable {
            url: shown,
            why: format!("the proxy requires authentication ({})", said()),
        }),
        408 | 425 | 429 | 500..=599 => {
            Err(SourceError::Busy { url: shown, why: said(), retry_after: http::retry_after(response) })
        }
        _ => Err(SourceError::Protocol { url: shown, why: said() }),
    }
}

fn check_type(url: &str, response: &Response<Body>, wanted: &str) -> Result<(), SourceError> {
    let found = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    match found {
        Some(found) if found.split(';').next().map(str::trim) == Some(wanted) => Ok(()),
        _ => Err(SourceError::Protocol {
            url: shown_url(url),
            why: format!("its answer has the type {:?} instead of {wanted:?}", found.unwrap_or("none")),
        }),
    }
}

fn metered(response: Response<Body>, url: &str, meter: &Arc<Meter>) -> Metered<ureq::BodyReader<'static>> {
    let url = url.to_owned();
    let explain = move |meter: &Meter, error: io::Error| {
        let error = explain_body(&url, meter, error);
        meter.fail(error)
    };
    Metered::new(response.into_body().into_reader(), meter.clone(), Box::new(explain))
}

impl Http for GitHttp {
    type Headers = Cursor<Vec<u8>>;
    type ResponseBody = AnswerBody;
    type PostBody = RequestBody;

    fn get(
        &mut self,
        url: &str,
        base_url: &str,
        headers: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> gix::error::Result<GetResponse<Self::Headers, Self::ResponseBody>> {
        let tail = url.strip_prefix(base_url).unwrap_or_default();
        let found = match self.remembered() {
            Some(found) => found,
            None => {
                let found = self.advertisement(base_url, tail, &split_headers(headers));
                found.map_err(|error| self.meter.fail(error).raise())?
            }
        };
        self.base = Some(found.base.clone());
        *self.remembered.lock().unwrap_or_else(PoisonError::into_inner) = Some(found.clone());
        let headers = Cursor::new(b"content-type: application/x-git-upload-pack-advertisement\n".to_vec());
        Ok(GetResponse { headers, body: AnswerBody::Here(Cursor::new(found.body)) })
    }

    fn post(
        &mut self,
        url: &str,
        _base_url: &str,
        headers: impl IntoIterator<Item = impl AsRef<str>>,
        _body: PostBodyDataKind,
    ) -> gix::error::Result<PostResponse<Self::Headers, Self::ResponseBody, Self::PostBody>> {
        let written = Arc::new(Mutex::new(Vec::new()));
        let request = Request {
            client: self.client.clone(),
            meter: self.meter.clone(),
            url: url.to_owned(),
            headers: split_headers(headers),
            body: written.clone(),
        };
        // The answer's own type is checked when it comes; gix wants to see a head before that.
        let headers = Cursor::new(b"content-type: application/x-git-upload-pack-result\n".to_vec());
        Ok(PostResponse {
            post_body: RequestBody(written),
            headers,
            body: AnswerBody::Waiting(Box::new(request)),
        })
    }

    fn configure(&mut self, _config: &dyn std::any::Any) -> gix::error::Result {
        Ok(())
    }

    fn redirected_base_url(&self) -> Option<String> {
        self.base.clone()
    }
}

/// What gix writes of a request, until it is sent. Requests are small: wants, haves and no more.
pub(crate) struct RequestBody(Arc<Mutex<Vec<u8>>>);

impl io::Write for RequestBody {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A request that was written and not sent yet.
pub(crate) struct Request {
    client: Client,
    meter: Arc<Meter>,
    url: String,
    headers: Headers,
    body: Arc<Mutex<Vec<u8>>>,
}

impl Request {
    fn send(&self) -> io::Result<Metered<ureq::BodyReader<'static>>> {
        let body = std::mem::take(&mut *self.body.lock().unwrap_or_else(PoisonError::into_inner));
        let answer = || {
            let response = send(&self.client, &self.meter, &self.url, &self.headers, Some(&body))?;
            check_status(&self.url, &response)?;
            check_type(&self.url, &response, "application/x-git-upload-pack-result")?;
            Ok(metered(response, &self.url, &self.meter))
        };
        answer().map_err(|error| self.meter.fail(error))
    }
}

/// The body of an answer.
pub(crate) enum AnswerBody {
    /// It is at hand.
    Here(Cursor<Vec<u8>>),
    /// Its request is sent when it is read.
    Waiting(Box<Request>),
    /// It is coming.
    Coming(Box<BufReader<Metered<ureq::BodyReader<'static>>>>),
}

impl Read for AnswerBody {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut at_hand = self.fill_buf()?;
        let bytes = at_hand.read(buffer)?;
        self.consume(bytes);
        Ok(bytes)
    }
}

impl BufRead for AnswerBody {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if let AnswerBody::Waiting(request) = self {
            let reader = BufReader::with_capacity(64 << 10, request.send()?);
            *self = AnswerBody::Coming(Box::new(reader));
        }
        match self {
            AnswerBody::Here(cursor) => cursor.fill_buf(),
            AnswerBody::Coming(reader) => reader.fill_buf(),
            AnswerBody::Waiting(_) => Ok(&[]),
        }
    }

    fn consume(&mut self, bytes: usize) {
        match self {
            AnswerBody::Here(cursor) => cursor.consume(bytes),
            AnswerBody::Coming(reader) => reader.consume(bytes),
            AnswerBody::Waiting(_) => {}
        }
    }
}
