//! How the API server is reached: the kubeconfig, which may appear after the agent has started and change while it
//! runs, and the client made from it.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use holdfast_core::release::ServiceAccount;
use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue, Request};
use hyper_rustls::{FixedServerNameResolver, HttpsConnectorBuilder};
use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::rt::TokioExecutor;
use kube::Client;
use kube::client::Body;
use kube::client::middleware::BaseUriLayer;
use kube::client::retry::RetryPolicy;
use tokio::sync::watch;
use tower::retry::RetryLayer;
use tower::{BoxError, ServiceBuilder};

use super::api::ApiError;
use super::kubeconfig::{self, Access};

/// How long a connection may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// The way to the API server.
pub(super) struct Connection {
    kubeconfig: PathBuf,
    context: Option<String>,
    live: Mutex<Option<Live>>,
    /// One more with each kubeconfig that is another.
    generation: watch::Sender<u64>,
}

/// Longer than a server lets a watch be silent: a connection that says nothing for so long is dead.
const READ_LIMIT: Duration = Duration::from_secs(320);

/// A client, and what it was made of.
#[derive(Clone)]
struct Live {
    client: Client,
    server: String,
    written: Written,
}

/// What tells that a file is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Written(Option<SystemTime>, u64);

impl Connection {
    /// By the kubeconfig at this path, which needn't be there yet.
    pub(super) fn new(kubeconfig: PathBuf, context: Option<String>) -> Self {
        Connection { kubeconfig, context, live: Mutex::default(), generation: watch::Sender::new(0) }
    }

    /// Tells when the kubeconfig is another one: what was seen by the one before counts no more.
    pub(super) fn generations(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// Has the kubeconfig read anew: certificates that it names may be others by now.
    pub(super) fn forget(&self) {
        *self.live.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// A client that acts as an account in whatever it asks for.
    pub(super) async fn client_as(&self, account: &ServiceAccount) -> Result<Client, ApiError> {
        Ok(client_of(&self.access()?, Some(account)))
    }

    /// A client for the API server.
    pub(super) async fn client(&self) -> Result<Client, ApiError> {
        let metadata = std::fs::metadata(&self.kubeconfig).map_err(|error| self.unusable(&error))?;
        if metadata.len() > kubeconfig::LIMIT as u64 {
            return Err(self.unusable(&format!("it has {} bytes", metadata.len())));
        }
        let written = Written(metadata.modified().ok(), metadata.len());
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(live) = live.filter(|live| live.written == written) {
            return Ok(live.client);
        }
        let access = self.access()?;
        let client = client_of(&access, None);
        let live = Live { client: client.clone(), server: access.server.to_string(), written };
        let before = self.live.lock().unwrap_or_else(PoisonError::into_inner).replace(live);
        if before.is_none_or(|before| before.written != written) {
            self.generation.send_modify(|generation| *generation += 1);
        }
        Ok(client)
    }

    fn access(&self) -> Result<Access, ApiError> {
        let text = std::fs::read(&self.kubeconfig).map_err(|error| self.unusable(&error))?;
        let access = kubeconfig::read(&self.kubeconfig, &text, self.context.as_deref());
        access.map_err(|why| self.unusable(&why))
    }

    /// Where the API server is, for people.
    pub(super) fn server(&self) -> String {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.as_ref().map_or_else(|| self.kubeconfig.display().to_string(), |live| live.server.clone())
    }

    fn unusable(&self, why: &dyn std::fmt::Display) -> ApiError {
        ApiError::NoClient(format!(
            "{} can't be used to reach the Kubernetes API: {why}; check that Kubernetes has started, or set \
             drivers.kubernetes.kubeconfig to its kubeconfig",
            self.kubeconfig.display()
        ))
    }
}

/// A client: TLS, limits of time, and another try where the server asks for one.
fn client_of(access: &Access, account: Option<&ServiceAccount>) -> Client {
    let https = HttpsConnectorBuilder::new().with_tls_config(access.tls.clone()).https_or_http();
    let https = match &access.server_name {
        Some(name) => https.with_server_name_resolver(FixedServerNameResolver::new(name.clone())),
        None => https,
    };
    let mut connector = TimeoutConnector::new(https.enable_http1().build());
    connector.set_connect_timeout(Some(CONNECT_LIMIT));
    connector.set_read_timeout(Some(READ_LIMIT));
    connector.set_reset_reader_on_write(true);
    let http: HttpClient<_, Body> = HttpClient::builder(TokioExecutor::new()).build(connector);
    let acting = account.and_then(|account| HeaderValue::from_str(&user_of(account)).ok());
    let (server, authorization) = (access.server.clone(), access.authorization.clone());
    let headed = move |mut request: Request<Body>| {
        for (name, value) in [(AUTHORIZATION, &authorization), (IMPERSONATE, &acting)] {
            if let Some(value) = value {
                request.headers_mut().insert(name, value.clone());
            }
        }
        request
    };
    let service = ServiceBuilder::new()
        .layer(BaseUriLayer::new(server))
        .layer(RetryLayer::new(RetryPolicy::server_retry()))
        .map_request(headed)
        .map_err(BoxError::from)
        .service(http);
    Client::new(service, "default")
}

/// As whom a request is made.
pub(super) const IMPERSONATE: HeaderName = HeaderName::from_static("impersonate-user");

/// What an account is called as a user. The server adds the groups of accounts by itself.
pub(super) fn user_of(account: &ServiceAccount) -> String {
    format!("system:serviceaccount:{}:{}", account.namespace, account.name)
}
