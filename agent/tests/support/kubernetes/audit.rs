//! What a user asked the API server, by the server's own audit log.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::plane::ControlPlane;

/// The users of the control plane itself and of the test, whose requests aren't written down.
pub(super) const OWN: [&str; 4] = ["controllers", "kubelet", "scheduler", "tester"];

/// One request.
#[derive(Clone, Debug)]
pub struct Request {
    /// As whom, if by impersonation: `system:serviceaccount:NAMESPACE:NAME`.
    pub acting_as: Option<String>,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub verb: String,
    /// Path and query.
    pub uri: String,
    /// 0 for a watch that goes on, or a request that wasn't answered.
    pub code: u16,
    /// What the client calls itself.
    pub user_agent: String,
}

impl Request {
    /// Whether it was meant to change something: a dry run isn't.
    pub fn writes(&self) -> bool {
        !matches!(self.verb.as_str(), "get" | "list" | "watch") && !self.uri.contains("dryRun=All")
    }
}

impl ControlPlane {
    /// All requests of a user, in the order in which they ended or were begun to be answered. The user of `kubeconfig` is
    /// `admin`, also in other tests: `kubeconfig_for` makes one of this test's own.
    pub fn requests_of(&self, user: &str) -> Vec<Request> {
        let log = fs::read_to_string(log_file(self.dir())).unwrap_or_default();
        let mut requests: Vec<Request> = Vec::new();
        let mut at: HashMap<String, usize> = HashMap::new();
        for line in log.lines() {
            // The last line may be half written.
            let Ok(event) = serde_json::from_str::<Value>(line) else { continue };
            if event["user"]["username"] != user {
                continue;
            }
            let request = request(&event);
            let id = event["auditID"].as_str().unwrap_or_default();
            match at.get(id) {
                Some(&place) => requests[place] = request,
                None => {
                    at.insert(id.to_owned(), requests.len());
                    requests.push(request);
                }
            }
        }
        requests
    }
}

fn request(event: &Value) -> Request {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let ended = event["stage"] == "ResponseComplete";
    let code = event["responseStatus"]["code"].as_u64().filter(|_| ended).unwrap_or(0);
    Request {
        acting_as: event["impersonatedUser"]["username"].as_str().map(str::to_owned),
        verb: text(&event["verb"]),
        uri: text(&event["requestURI"]),
        code: u16::try_from(code).unwrap(),
        user_agent: text(&event["userAgent"]),
    }
}

/// The flags for the API server, and the policy that they name.
pub(super) fn flags(dir: &Path) -> Vec<String> {
    let policy = dir.join("audit-policy.json");
    let content = json!({
        "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
        "rules": [
            { "level": "None", "users": OWN },
            { "level": "None", "users": ["system:apiserver", "system:anonymous"] },
            { "level": "Metadata" },
        ],
    });
    fs::write(&policy, content.to_string()).unwrap();
    vec![
        format!("--audit-policy-file={}", policy.display()),
        format!("--audit-log-path={}", log_file(dir).display()),
        "--audit-log-mode=blocking-strict".into(),
    ]
}

fn log_file(dir: &Path) -> PathBuf {
    dir.join("audit.log")
}
