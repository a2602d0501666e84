//! Requests to the API server, each with its own time limit, and what can be wrong with the answers.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use holdfast_core::release::ServiceAccount;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use kube::client::Body;
use serde_json::Value;

use super::connection::{Connection, IMPERSONATE, user_of};
use super::discovery::Kind;
use super::marks::MANAGER;

/// How long a request may take in all, the waits that the server asks for among it.
const LIMIT: Duration = Duration::from_secs(20);
/// The longest answer that is read, in bytes.
const ANSWER_LIMIT: usize = 64 << 20;
/// How many objects are asked for at once.
pub(super) const PAGE: u32 = 100;

const JSON: &str = "application/json";
const APPLY: &str = "application/apply-patch+yaml";
const MERGE: &str = "application/merge-patch+json";
const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
const METADATA_LIST: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";

/// Why the API server did not do what it was asked for.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum ApiError {
    /// There is no way to it.
    #[error("{0}")]
    NoClient(String),
    /// It can't be reached, or hung up.
    #[error("{doing}: the API server at {server} can't be reached: {cause}")]
    Unreachable { doing: String, server: String, cause: String },
    /// It didn't answer in time.
    #[error("{doing}: the API server at {server} did not answer within {limit:?}")]
    Silent { doing: String, server: String, limit: Duration },
    /// It answered, and not with what was asked for.
    #[error("{doing}: {}", said(.status))]
    Refused { doing: String, status: Box<Refusal> },
    /// It answered nonsense.
    #[error("{doing}: the API server's answer can't be read: {cause}")]
    Unreadable { doing: String, cause: String },
}

/// What an answer says that is an error (`metav1.Status`).
#[derive(Clone, Debug, Default)]
pub(super) struct Refusal {
    pub(super) code: u16,
    /// A word such as `NotFound`, if it gives one.
    pub(super) reason: String,
    pub(super) message: String,
    pub(super) causes: Vec<Cause>,
}

/// One cause of a refusal.
#[derive(Clone, Debug, Default)]
pub(super) struct Cause {
    pub(super) reason: String,
    pub(super) message: String,
    pub(super) field: String,
}

impl Refusal {
    /// What was refused, for people. Of a secret not in the server's words: webhooks may quote what is in it.
    pub(super) fn told(&self, secret: bool) -> String {
        if !secret {
            return self.message.clone();
        }
        let fields: Vec<&str> = self.causes.iter().map(|cause| cause.field.as_str()).collect();
        format!("the API server answered {} {} {}", self.code, self.reason, fields.join(", "))
            .trim_end()
            .to_owned()
    }
}

fn said(status: &Refusal) -> String {
    match status.message.is_empty() {
        true => format!("the API server answered {}", status.code),
        false => status.message.clone(),
    }
}

impl ApiError {
    /// What the server said, if it did.
    pub(super) fn refusal(&self) -> Option<&Refusal> {
        match self {
            ApiError::Refused { status, .. } => Some(status),
            _ => None,
        }
    }

    pub(super) fn code(&self) -> Option<u16> {
        self.refusal().map(|status| status.code)
    }

    pub(super) fn is_not_found(&self) -> bool {
        self.code() == Some(404)
    }
}

/// How something is written by server-side apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Apply {
    /// Whatever others own of it is taken over.
    Force,
    /// It is to be made: what others own is a conflict, as they were first.
    Make,
    /// Nothing is written: what would come of it.
    Rehearse,
    /// Nothing is written, and what others own is a conflict.
    Ask,
}

/// The API server.
#[derive(Clone)]
pub(super) struct Api {
    pub(super) connection: Arc<Connection>,
}

/// What is asked for.
struct Call<'a> {
    method: Method,
    path: String,
    account: Option<&'a ServiceAccount>,
    accept: &'static str,
    content: Option<(&'static str, Vec<u8>)>,
    doing: String,
}

impl Api {
    /// Reads an object.
    pub(super) async fn get(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Option<Value>, ApiError> {
        self.read(kind, namespace, name, JSON).await
    }

    /// Reads an object's metadata.
    pub(super) async fn get_metadata(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Option<Value>, ApiError> {
        self.read(kind, namespace, name, METADATA).await
    }

    async fn read(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        name: &str,
        accept: &'static str,
    ) -> Result<Option<Value>, ApiError> {
        let call = Call {
            method: Method::GET,
            path: kind.path(namespace, Some(name)),
            account: None,
            accept,
            content: None,
            doing: format!("read {}", called(kind, namespace, name)),
        };
        match self.json(call).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads all objects of a kind that a label selector finds.
    pub(super) async fn list(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        selector: &str,
    ) -> Result<Vec<Value>, ApiError> {
        let mut items = Vec::new();
        let mut pages = self.pages(kind, namespace, selector);
        while let Some(page) = pages.next().await? {
            items.extend(page);
        }
        Ok(items)
    }

    /// Reads all objects of a kind that a field selector finds.
    pub(super) async fn list_by_field(
        &self,
        kind: &Kind,
        namespace: &str,
        selector: &str,
    ) -> Result<Vec<Value>, ApiError> {
        let mut items = Vec::new();
        let mut pages = self.pages(kind, Some(namespace), "");
        let _ = write!(pages.path, "&fieldSelector={}", escaped(selector));
        while let Some(page) = pages.next().await? {
            items.extend(page);
        }
        Ok(items)
    }

    /// All objects of a kind that a label selector finds, a page at a time.
    pub(super) fn pages(&self, kind: &Kind, namespace: Option<&str>, selector: &str) -> Pages {
        self.pages_of(kind, namespace, selector, JSON)
    }

    /// The metadata of all objects of a kind, a page at a time.
    pub(super) fn metadata_pages(&self, kind: &Kind, namespace: Option<&str>) -> Pages {
        self.pages_of(kind, namespace, "", METADATA_LIST)
    }

    fn pages_of(&self, kind: &Kind, namespace: Option<&str>, selector: &str, accept: &'static str) -> Pages {
        let mut path = format!("{}?limit={PAGE}", kind.path(namespace, None));
        if !selector.is_empty() {
            let _ = write!(path, "&labelSelector={}", escaped(selector));
        }
        Pages { api: self.clone(), kind: kind.clone(), path, accept, next: Some(String::new()) }
    }

    /// Writes an object by server-side apply, or finds out what would come of it.
    pub(super) async fn apply(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        name: &str,
        object: &Value,
        how: Apply,
        account: Option<&ServiceAccount>,
    ) -> Result<Value, ApiError> {
        let mut path = kind.path(namespace, Some(name));
        let _ = write!(
            path,
            "?fieldManager={MANAGER}&fieldValidation=Strict&force={}",
            matches!(how, Apply::Force | Apply::Rehearse)
        );
        if matches!(how, Apply::Rehearse | Apply::Ask) {
            path.push_str("&dryRun=All");
        }
        let doing = format!("apply {}", called(kind, namespace, name));
        // JSON is YAML.
        let content = Some((APPLY, object.to_string().into_bytes()));
        self.json(Call { method: Method::PATCH, path, account, accept: JSON, content, doing }).await
    }

    /// Makes an object; one that is there is an error.
    pub(super) async fn create(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        object: &Value,
    ) -> Result<Value, ApiError> {
        let path = format!("{}?fieldManager={MANAGER}", kind.path(namespace, None));
        let doing = format!("create a {}", kind.resource.kind);
        let content = Some((JSON, object.to_string().into_bytes()));
        self.json(Call { method: Method::POST, path, account: None, accept: JSON, content, doing }).await
    }

    /// Changes some fields of an object, and leaves the others as they are.
    pub(super) async fn merge(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        name: &str,
        fields: &Value,
        account: Option<&ServiceAccount>,
    ) -> Result<(), ApiError> {
        let path = format!("{}?fieldManager={MANAGER}", kind.path(namespace, Some(name)));
        let doing = format!("change {}", called(kind, namespace, name));
        let content = Some((MERGE, fields.to_string().into_bytes()));
        self.json(Call { method: Method::PATCH, path, account, accept: METADATA, content, doing })
            .await
            .map(drop)
    }

    /// Replaces an object, if it is still at the version that it says.
    pub(super) async fn replace(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        name: &str,
        object: &Value,
    ) -> Result<Value, ApiError> {
        let path = format!("{}?fieldManager={MANAGER}", kind.path(namespace, Some(name)));
        let doing = format!("write {}", called(kind, namespace, name));
        let content = Some((JSON, object.to_string().into_bytes()));
        self.json(Call { method: Method::PUT, path, account: None, accept: JSON, content, doing }).await
    }

    /// Removes an object, if it is still the one with this uid and resource version. What isn't there is removed.
    pub(super) async fn delete(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        name: &str,
        of: (&str, &str),
        account: Option<&ServiceAccount>,
    ) -> Result<(), ApiError> {
        let (uid, version) = of;
        let options = serde_json::json!({
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": { "uid": uid, "resourceVersion": version },
            "propagationPolicy": "Background",
        });
        let doing = format!("remove {}", called(kind, namespace, name));
        let path = kind.path(namespace, Some(name));
        let content = Some((JSON, options.to_string().into_bytes()));
        match self.json(Call { method: Method::DELETE, path, account, accept: JSON, content, doing }).await {
            Err(error) if error.is_not_found() => Ok(()),
            other => other.map(drop),
        }
    }

    /// Reads a short text.
    pub(super) async fn text(&self, path: String, doing: String) -> Result<String, ApiError> {
        let call = Call { method: Method::GET, path, account: None, accept: "*/*", content: None, doing };
        let bytes = self.bytes(call).await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Reads the end of a text, such as a log: its last `keep` bytes, from a line's begin, however long it is.
    pub(super) async fn end_of(
        &self,
        path: String,
        doing: String,
        keep: usize,
        limit: Duration,
    ) -> Result<String, ApiError> {
        let silent = ApiError::Silent { doing: doing.clone(), server: self.connection.server(), limit };
        let call = Call { method: Method::GET, path, account: None, accept: "*/*", content: None, doing };
        let end = tokio::time::timeout(limit, self.last_bytes(call, keep)).await;
        let (end, is_whole) = end.map_err(|_| silent)??;
        let text = String::from_utf8_lossy(&end);
        let from = text.find('\n').filter(|_| !is_whole).map_or(0, |at| at + 1);
        Ok(text[from..].to_owned())
    }

    /// The last bytes of an answer, and whether that is all of it.
    async fn last_bytes(&self, call: Call<'_>, keep: usize) -> Result<(Vec<u8>, bool), ApiError> {
        let doing = call.doing.clone();
        let mut body = self.accepted(call).await?.into_body();
        let (mut end, mut is_whole) = (Vec::new(), true);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| self.unreachable(&doing, whole(&error)))?;
            end.extend_from_slice(frame.data_ref().map_or(&[], |data| data.as_ref()));
            if end.len() > keep {
                end.drain(..end.len() - keep);
                is_whole = false;
            }
        }
        Ok((end, is_whole))
    }

    /// Reads what is no object, such as the version.
    pub(super) async fn plain(&self, path: &str, doing: &str) -> Result<Value, ApiError> {
        let (path, doing) = (path.to_owned(), doing.to_owned());
        self.json(Call { method: Method::GET, path, account: None, accept: JSON, content: None, doing }).await
    }

    async fn json(&self, call: Call<'_>) -> Result<Value, ApiError> {
        let doing = call.doing.clone();
        let bytes = self.bytes(call).await?;
        serde_json::from_slice(&bytes)
            .map_err(|error| ApiError::Unreadable { doing, cause: error.to_string() })
    }

    async fn bytes(&self, call: Call<'_>) -> Result<Vec<u8>, ApiError> {
        let doing = call.doing.clone();
        match tokio::time::timeout(LIMIT, self.exchange(call)).await {
            Ok(answer) => answer,
            Err(_) => Err(ApiError::Silent { doing, server: self.connection.server(), limit: LIMIT }),
        }
    }

    async fn exchange(&self, call: Call<'_>) -> Result<Vec<u8>, ApiError> {
        let doing = call.doing.clone();
        let answer = self.accepted(call).await?;
        self.whole_of(answer, &doing).await
    }

    async fn whole_of(&self, answer: Response<Body>, doing: &str) -> Result<Vec<u8>, ApiError> {
        let limited = http_body_util::Limited::new(answer.into_body(), ANSWER_LIMIT);
        let bytes = limited.collect().await.map_err(|error| self.unreachable(doing, whole(&*error)))?;
        Ok(bytes.to_bytes().into())
    }

    /// An answer whose body is still to be read; what isn't a success is read here.
    async fn accepted(&self, call: Call<'_>) -> Result<Response<Body>, ApiError> {
        let Call { method, path, account, accept, content, doing } = call;
        let client = self.connection.client().await?;
        let mut request = Request::builder().method(method).uri(path).header(ACCEPT, accept);
        if let Some(account) = account {
            request = request.header(IMPERSONATE, user_of(account));
        }
        let body = match content {
            Some((kind, bytes)) => {
                request = request.header(CONTENT_TYPE, kind);
                Body::from(bytes)
            }
            None => Body::empty(),
        };
        let request = request.body(body).map_err(|error| self.unreachable(&doing, error.to_string()))?;
        let answer = client.send(request).await.map_err(|error| self.unreachable(&doing, whole(&error)))?;
        let code = answer.status();
        if code.is_success() {
            return Ok(answer);
        }
        let bytes = self.whole_of(answer, &doing).await?;
        if code == http::StatusCode::UNAUTHORIZED {
            self.connection.forget();
        }
        Err(ApiError::Refused { doing, status: Box::new(refusal(code.as_u16(), &bytes)) })
    }

    fn unreachable(&self, doing: &str, cause: String) -> ApiError {
        ApiError::Unreachable { doing: doing.to_owned(), server: self.connection.server(), cause }
    }
}

/// A list that comes page by page.
pub(super) struct Pages {
    api: Api,
    kind: Kind,
    path: String,
    accept: &'static str,
    /// Where the next page begins; nowhere after the last.
    next: Option<String>,
}

impl Pages {
    /// The next page, if there is one.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<Value>>, ApiError> {
        let Some(from) = self.next.take() else { return Ok(None) };
        let mut path = self.path.clone();
        if !from.is_empty() {
            let _ = write!(path, "&continue={}", escaped(&from));
        }
        let doing = format!("list {}", self.kind.resource.plural);
        let call =
            Call { method: Method::GET, path, account: None, accept: self.accept, content: None, doing };
        let mut list = self.api.json(call).await?;
        let token = list.pointer("/metadata/continue").and_then(Value::as_str);
        self.next = token.filter(|token| !token.is_empty()).map(str::to_owned);
        let Some(Value::Array(mut items)) = list.get_mut("items").map(Value::take) else {
            return Ok(Some(Vec::new()));
        };
        for item in &mut items {
            // Items of a list don't say what they are.
            if let Some(fields) = item.as_object_mut() {
                fields.insert("kind".to_owned(), self.kind.resource.kind.clone().into());
                fields.insert("apiVersion".to_owned(), self.kind.resource.api_version.clone().into());
            }
        }
        Ok(Some(items))
    }
}

fn refusal(code: u16, bytes: &[u8]) -> Refusal {
    let Ok(status) = serde_json::from_slice::<Value>(bytes) else {
        // Such as the overload answer, which is plain text.
        let message = String::from_utf8_lossy(bytes).trim().chars().take(500).collect();
        return Refusal { code, message, ..Refusal::default() };
    };
    let text = |value: &Value, field: &str| value[field].as_str().unwrap_or_default().to_owned();
    let causes = status.pointer("/details/causes").and_then(Value::as_array).into_iter().flatten();
    Refusal {
        code,
        reason: text(&status, "reason"),
        message: text(&status, "message"),
        causes: causes
            .map(|cause| Cause {
                reason: text(cause, "reason"),
                message: text(cause, "message"),
                field: text(cause, "field"),
            })
            .collect(),
    }
}

/// An error with its causes: the outermost says only that a request failed.
pub(super) fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            let _ = write!(text, ": {said}");
        }
        next = cause.source();
    }
    text
}

fn called(kind: &Kind, namespace: Option<&str>, name: &str) -> String {
    match namespace {
        Some(namespace) => format!("{}/{namespace}/{name}", kind.resource.kind),
        None => format!("{}/{name}", kind.resource.kind),
    }
}

/// A value in a query (RFC 3986: all but the unreserved characters).
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte.into()),
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_refuses_is_read_as_it_says_it() {
        let conflict = br#"{"kind":"Status","code":409,"reason":"Conflict","message":"conflict with \"kubectl\"","details":{"causes":[{"reason":"FieldManagerConflict","message":"conflict with \"kubectl\"","field":".spec.replicas"}]}}"#;
        let read = refusal(409, conflict);
        assert_eq!(
            (read.reason.as_str(), read.causes[0].reason.as_str()),
            ("Conflict", "FieldManagerConflict")
        );
        let overload = refusal(429, b"Too many requests, please try again later.\n");
        assert_eq!(overload.message, "Too many requests, please try again later.");
    }

    #[test]
    fn what_stands_in_a_query_can_not_end_it() {
        assert_eq!(escaped("a=b,c in (d)&x"), "a%3Db%2Cc%20in%20%28d%29%26x");
    }
}
