//! The test's own view of a cluster, and what somebody does to it by hand.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use ureq::http::Method;

use super::super::tools::missing;
use super::certificates::User;
use super::client::{Answer, Client};
use super::plane::ControlPlane;

/// More than anything takes to happen on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(120);

impl ControlPlane {
    /// Makes a namespace that begins with `name` and is nobody else's; its default service account is there.
    pub fn namespace(&self, name: &str) -> String {
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        let name = format!("{name}-{number}");
        let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
        self.create("/api/v1/namespaces", &namespace);
        self.until(&format!("/api/v1/namespaces/{name}/serviceaccounts/default"), |_| true);
        name
    }

    /// A kubeconfig of a user by a client certificate, in these groups; what the user may do is up to roles.
    pub fn kubeconfig_for(&self, user: &str, groups: &[&str]) -> PathBuf {
        let pair = self.certificates.client(user, groups);
        self.write_kubeconfig(&self.url(), &User::Certificate(pair))
    }

    /// A kubeconfig of a service account by a token that holds for an hour. The account must exist.
    pub fn kubeconfig_of_account(&self, namespace: &str, account: &str) -> PathBuf {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": { "expirationSeconds": 3600 },
        });
        let answer = self.create(&path, &request);
        let token = answer["status"]["token"].as_str().expect("a token").to_owned();
        self.write_kubeconfig(&self.url(), &User::Token(token))
    }

    /// The administrator's kubeconfig for another address, as that of a middleman: `https://127.0.0.1:PORT`.
    pub fn kubeconfig_at(&self, url: &str) -> PathBuf {
        let pair = self.certificates.client("admin", &["system:masters"]);
        self.write_kubeconfig(url, &User::Certificate(pair))
    }

    fn write_kubeconfig(&self, url: &str, user: &User) -> PathBuf {
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        let file = self.dir().join(format!("kubeconfig-{number}"));
        std::fs::write(&file, self.certificates.kubeconfig(url, user)).unwrap();
        file
    }

    /// Runs the real kubectl as a person who may do all, with `input` on its standard input, however it ends.
    pub fn kubectl_with(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = Command::new("timeout");
        command.args(["--kill-after=1", "120"]).arg(self.program()).arg("kubectl");
        // Its cache of what the server serves lies in the home folder.
        command.args(arguments).env("KUBECONFIG", self.own_kubeconfig("tester")).env("HOME", self.dir());
        command.env("KUBECTL_APPLYSET", "true");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn();
        let mut child = child.unwrap_or_else(|error| panic!("{} ({error})", missing("timeout (coreutils)")));
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_owned();
        // Whoever doesn't read its input must not stop the test.
        let writer = thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        output
    }

    /// Runs kubectl, wants it to succeed, and gives what it printed.
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        self.successful(arguments, "")
    }

    /// `kubectl apply` of these documents, as a person does it, in a namespace.
    pub fn apply(&self, namespace: &str, documents: &str) -> String {
        self.successful(&["apply", "--namespace", namespace, "--filename", "-"], documents)
    }

    fn successful(&self, arguments: &[&str], input: &str) -> String {
        let output = self.kubectl_with(arguments, input);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {arguments:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// One request of the test's, as `("PATCH", "/api/v1/…", "application/merge-patch+json", …)`.
    pub fn ask(&self, method: &str, path: &str, content_type: &str, body: &[u8]) -> Answer {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let kind = (!body.is_empty()).then_some(content_type);
        let answer = self.client.ask(method.clone(), path, kind, body);
        answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// One request with a body of JSON as another user, in these groups.
    pub fn ask_as(&self, user: &str, groups: &[&str], method: &str, path: &str, body: &[u8]) -> Answer {
        let pair = self.certificates.client(user, groups);
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let kind = (!body.is_empty()).then_some("application/json");
        let answer = Client::new(&self.url(), &self.certificates, &pair).ask(method, path, kind, body);
        answer.unwrap_or_else(|error| panic!("{path} as {user}: {error}"))
    }

    /// What is at that path, which must be there.
    pub fn get(&self, path: &str) -> Value {
        let answer = self.ask("GET", path, "", &[]);
        assert_eq!(answer.status, 200, "GET {path}: {}", answer.body);
        answer.body
    }

    /// What is at that path, or none.
    pub fn find(&self, path: &str) -> Option<Value> {
        let answer = self.ask("GET", path, "", &[]);
        assert!(matches!(answer.status, 200 | 404), "GET {path}: {} {}", answer.status, answer.body);
        (answer.status == 200).then_some(answer.body)
    }

    /// Creates an object in the collection at that path.
    pub fn create(&self, path: &str, object: &Value) -> Value {
        let answer = self.ask("POST", path, "application/json", object.to_string().as_bytes());
        assert!(matches!(answer.status, 200..=202), "POST {path}: {} {}", answer.status, answer.body);
        answer.body
    }

    /// Changes an object by a merge patch, as a person who edits it.
    pub fn patch(&self, path: &str, patch: &Value) -> Value {
        let kind = "application/merge-patch+json";
        let answer = self.ask("PATCH", path, kind, patch.to_string().as_bytes());
        assert_eq!(answer.status, 200, "PATCH {path}: {}", answer.body);
        answer.body
    }

    /// Deletes an object; false if there is none.
    pub fn delete(&self, path: &str) -> bool {
        let answer = self.ask("DELETE", path, "", &[]);
        assert!(matches!(answer.status, 200 | 202 | 404), "DELETE {path}: {} {}", answer.status, answer.body);
        answer.status != 404
    }

    /// Waits until what is at the path is as wanted.
    pub fn until(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let began = Instant::now();
        loop {
            let found = self.find(path);
            if let Some(found) = found.as_ref().filter(|found| wanted(found)) {
                return found.clone();
            }
            assert!(began.elapsed() < PATIENCE, "not as wanted: {path}: {found:?}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until there is nothing at the path.
    pub fn until_gone(&self, path: &str) {
        let began = Instant::now();
        while let Some(found) = self.find(path) {
            assert!(began.elapsed() < PATIENCE, "still there: {path}: {found}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Says what the pods of a namespace pretend that have no annotation: a part of an image's name, or of its digest's
    /// hex digits, to a behaviour. Only characters of a ConfigMap's key may be in the part.
    pub fn script(&self, namespace: &str, behaviours: &[(&str, &str)]) {
        let data: serde_json::Map<String, Value> =
            behaviours.iter().map(|(part, behaviour)| ((*part).to_owned(), json!(behaviour))).collect();
        let script = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "data": data,
            "metadata": { "name": "test-behaviours", "namespace": namespace },
        });
        let path = format!("/api/v1/namespaces/{namespace}/configmaps");
        self.delete(&format!("{path}/test-behaviours"));
        self.create(&path, &script);
    }
}

/// Whether an object has this condition as `True`.
pub fn has_condition(object: &Value, kind: &str) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|one| one["type"] == kind && one["status"] == "True")
}
