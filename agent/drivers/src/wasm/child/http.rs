//! Serves wasi:http: an instance for each request, so that no request sees another's memory, and a guest that
//! traps harms only its own.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderValue, RETRY_AFTER};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;
use wasmtime_wasi_http::{Error, WasiHttpView};

use super::super::guest::{self, ComponentGuest};
use super::instance::Maker;
use super::slow::{PatientBody, PatientStream};

/// Connections at once. More wait in the kernel's queue.
const CONNECTIONS: usize = 1024;
/// Guests at once. More requests wait for [`QUEUE_LIMIT`].
const GUESTS: usize = 64;
/// How long a request waits for its turn.
const QUEUE_LIMIT: Duration = Duration::from_secs(10);
/// How long a client may take for a request's head.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// How long a client that has just connected may take for its first request once the server stops.
const FIRST_REQUEST: Duration = Duration::from_millis(250);
/// How long a guest may take until it has begun to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// How long a guest may go on after its answer has been sent or its client has gone.
const LINGER_LIMIT: Duration = Duration::from_secs(10);
/// The longest body of a request, in bytes. It is passed on as it comes, and never held as a whole.
const LARGEST_BODY: usize = 256 << 20;
/// A request's head, in bytes and in fields.
const LARGEST_HEAD: usize = 64 << 10;
const MOST_FIELDS: usize = 100;

/// A server for one component.
pub(super) struct Server {
    maker: Maker,
    code: ProxyPre<ComponentGuest>,
    guests: Arc<Semaphore>,
}

impl Server {
    pub(super) fn new(maker: Maker, code: ProxyPre<ComponentGuest>) -> Arc<Self> {
        Arc::new(Server { maker, code, guests: Arc::new(Semaphore::new(GUESTS)) })
    }

    /// Serves until `stop` says how long requests in flight may still take, and then for no longer than that.
    pub(super) async fn serve(
        self: Arc<Self>,
        listener: Arc<TcpListener>,
        mut stop: mpsc::Receiver<Duration>,
    ) {
        let (stopping, stopped) = watch::channel(false);
        // Each connection holds a sender: when all are gone, the receiver sees it.
        let (open, mut closed) = mpsc::channel::<Infallible>(1);
        let connections = Arc::new(Semaphore::new(CONNECTIONS));
        let grace = loop {
            let accepted = async {
                let turn = Arc::clone(&connections).acquire_owned().await;
                (turn, listener.accept().await)
            };
            let (turn, stream) = tokio::select! {
                grace = stop.recv() => break grace.unwrap_or_default(),
                (turn, accepted) = accepted => match accepted {
                    Ok((stream, _)) => (turn, stream),
                    Err(_) => {
                        // No file descriptor is left; connections that end give some back.
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                },
            };
            let (server, stopped, open) = (Arc::clone(&self), stopped.clone(), open.clone());
            tokio::spawn(async move {
                server.connection(stream, stopped).await;
                drop((turn, open));
            });
        };
        drop((listener, open));
        // Nobody listens when there is no connection.
        let _ = stopping.send(true);
        let _ = timeout(grace, closed.recv()).await;
    }

    async fn connection(self: Arc<Self>, stream: tokio::net::TcpStream, mut stopped: watch::Receiver<bool>) {
        // Answers are small and go out at once; without it the connection is only slower.
        let _ = stream.set_nodelay(true);
        let (asks, mut asked) = watch::channel(false);
        let service = service_fn(move |request| {
            asks.send_replace(true);
            let server = Arc::clone(&self);
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(HEAD_LIMIT)
            .max_buf_size(LARGEST_HEAD)
            .max_headers(MOST_FIELDS);
        let connection = http.serve_connection(TokioIo::new(PatientStream::new(stream)), service);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            // A client's errors are its own.
            _ = connection.as_mut() => return,
            _ = stopped.wait_for(|stopped| *stopped) => {}
        }
        // hyper closes a connection on which nothing was asked yet, and its request is most likely on its way.
        tokio::select! {
            _ = connection.as_mut() => return,
            _ = timeout(FIRST_REQUEST, asked.wait_for(|asked| *asked)) => {}
        }
        connection.as_mut().graceful_shutdown();
        let _ = connection.await;
    }

    async fn answer(self: Arc<Self>, mut request: Request<Incoming>) -> Response<AnswerBody> {
        let head: usize =
            request.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        if head > LARGEST_HEAD {
            return refuse(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "the request's head is too large");
        }
        let announced =
            request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        if announced.is_some_and(|bytes: u64| bytes > LARGEST_BODY as u64) {
            return refuse(StatusCode::PAYLOAD_TOO_LARGE, "the request's body is too large");
        }
        if request.uri().authority().is_none() && !request.headers().contains_key(HOST) {
            // HTTP/1.0 has no Host, and wasi:http has no request without one.
            request.headers_mut().insert(HOST, HeaderValue::from_static("localhost"));
        }
        let Ok(Ok(turn)) = timeout(QUEUE_LIMIT, Arc::clone(&self.guests).acquire_owned()).await else {
            let mut busy = refuse(StatusCode::SERVICE_UNAVAILABLE, "too many requests at once");
            busy.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("5"));
            return busy;
        };
        let (begun, answer) = oneshot::channel();
        let server = Arc::clone(&self);
        let mut guest = Lease::new(tokio::spawn(async move {
            let cpu = Arc::clone(&server.maker.cpu);
            cpu.admit().await;
            let result = cpu.run(server.run_guest(request, begun)).await;
            drop(turn);
            result
        }));
        match timeout(ANSWER_LIMIT, answer).await {
            Ok(Ok(Ok(response))) => {
                guest.lingers = true;
                response.map(|body| AnswerBody::Guest { body, _guest: guest })
            }
            Ok(Ok(Err(code))) => {
                self.maker.log.note(&format!("a request was answered with the error {code:?}"));
                refuse(StatusCode::BAD_GATEWAY, "the workload answered with an error")
            }
            Ok(Err(_)) => {
                let why = guest.outcome().await;
                self.maker.log.note(&format!("a request had no answer: {why}"));
                refuse(StatusCode::INTERNAL_SERVER_ERROR, "the workload failed")
            }
            Err(_) => {
                self.maker.log.note(&format!("a request had no answer within {} s", ANSWER_LIMIT.as_secs()));
                refuse(StatusCode::GATEWAY_TIMEOUT, "the workload didn't answer in time")
            }
        }
    }

    async fn run_guest(
        &self,
        request: Request<Incoming>,
        begun: oneshot::Sender<Result<Response<HyperOutgoingBody>, ErrorCode>>,
    ) -> wasmtime::Result<()> {
        let mut store = self.maker.component_store()?;
        let request = request.map(|body| {
            let limited = Limited::new(PatientBody::new(body), LARGEST_BODY);
            limited.map_err(|_| Error::HttpRequestBodySize(Some(LARGEST_BODY as u64)))
        });
        let request = store.data_mut().http().new_incoming_request(Scheme::Http, request)?;
        let answer = store.data_mut().http().new_response_outparam(begun)?;
        let proxy = self.code.instantiate_async(&mut store).await?;
        proxy.wasi_http_incoming_handler().call_handle(&mut store, request, answer).await
    }
}

/// A guest at work on a request. It ends with the interest in it: at once while it hasn't answered, else
/// after a while in which it may do what is left to do.
struct Lease {
    guest: Option<JoinHandle<wasmtime::Result<()>>>,
    lingers: bool,
}

impl Lease {
    fn new(guest: JoinHandle<wasmtime::Result<()>>) -> Self {
        Lease { guest: Some(guest), lingers: false }
    }

    /// Why it ended without an answer.
    async fn outcome(&mut self) -> String {
        let Some(guest) = self.guest.as_mut() else { return "it was stopped".into() };
        match timeout(LINGER_LIMIT, guest).await {
            Ok(Ok(Ok(()))) => "the guest returned without sending a response".into(),
            Ok(Ok(Err(e))) => guest::causes(&e),
            Ok(Err(_)) => "the host failed while handling the request".into(),
            Err(_) => "the guest dropped the response and kept running".into(),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(mut guest) = self.guest.take().filter(|guest| !guest.is_finished()) else { return };
        if !self.lingers {
            guest.abort();
            return;
        }
        tokio::spawn(async move {
            if timeout(LINGER_LIMIT, &mut guest).await.is_err() {
                guest.abort();
            }
        });
    }
}

/// The body of an answer.
enum AnswerBody {
    Own(Full<Bytes>),
    Guest { body: HyperOutgoingBody, _guest: Lease },
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match &mut *self {
            AnswerBody::Own(body) => Pin::new(body).poll_frame(context).map_err(|never| match never {}),
            AnswerBody::Guest { body, .. } => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            AnswerBody::Own(body) => body.is_end_stream(),
            AnswerBody::Guest { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            AnswerBody::Own(body) => body.size_hint(),
            AnswerBody::Guest { body, .. } => body.size_hint(),
        }
    }
}

/// An answer of the host's own.
fn refuse(status: StatusCode, why: &'static str) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::Own(Full::from(format!("{why}\n"))));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
