"""A control plane of the bench's own on the loopback: a real API server and its store, the controllers, and a stand-in
for the kubelet.

As in agent/tests/support/kubernetes: the same program, flags and certificates, and the server's own audit log tells what
was asked of it. What it says is in NAME.log in its folder, which goes with it."""

import base64
import hashlib
import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
from collections import Counter
from pathlib import Path

import fleets
from box import FOLDER, run
from process import cpu, now, wait_until

SOURCES = Path(__file__).resolve().parents[1] / "control-plane"
CONTROLLERS = (
    "deployment", "replicaset", "statefulset", "daemonset", "job", "namespace", "garbage-collector", "serviceaccount",
    "endpointslice", "disruption", "persistentvolume-binder", "persistentvolumeclaim-protection",
    "persistentvolume-protection", "clusterrole-aggregation", "ttl-after-finished",
)
# Those whose requests aren't written down: the parts of the plane, and who measures.
OWN = ("controllers", "kubelet", "tester")
# What the machine has for other clusters or other Go programs is of no concern.
FOREIGN = ("KUBECONFIG", "GOGC", "GOMEMLIMIT", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")


def program():
    """Where scripts/setup-tests.sh puts what it builds from these sources."""
    if "HOLDFAST_TEST_PLANE" in os.environ:
        return Path(os.environ["HOLDFAST_TEST_PLANE"])
    names = ["build.sh", "go.mod", "go.sum", *sorted(path.name for path in SOURCES.glob("*.go"))]
    sums = "".join(f"{hashlib.sha256((SOURCES / name).read_bytes()).hexdigest()}  {name}\n" for name in names)
    cache = os.environ.get("HOLDFAST_CACHE", Path.home() / ".cache/holdfast")
    name = hashlib.sha256(sums.encode()).hexdigest()[:16]
    return Path(cache) / "tools/control-plane" / name / "holdfast-test-plane"


class ControlPlane:
    """Closed, nothing of it is left."""

    def __init__(self):
        self.program, self.parts = program(), {}
        self.dir = Path(tempfile.mkdtemp(prefix="holdfast-bench-plane-", dir=FOLDER))
        self.environment = {name: value for name, value in os.environ.items() if name not in FOREIGN}
        self.environment.update(HOME=str(self.dir), TMPDIR=str(self.dir))
        self.port, self.store_port = fleets.free_port(), fleets.free_port()
        try:
            self._certificates()
            self.client = Client(self.port, self.dir)
            self._start()
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        # An API server without its store may hang: the store goes last.
        for process in reversed(self.parts.values()):
            process.kill()
            process.wait()
        shutil.rmtree(self.dir)

    def kubeconfig(self, user):
        """Makes the kubeconfig of an administrator of this name, in the shape of k3s's."""
        path = self.dir / f"{user}.kubeconfig"
        if not path.exists():
            self._leaf(user, "client-ca", f"/O=system:masters/CN={user}", "extendedKeyUsage=clientAuth")
            path.write_text(self._kubeconfig(user))
        return path

    def command(self, user, *arguments):
        """kubectl, as this user."""
        return [str(self.program), "kubectl", f"--kubeconfig={self.kubeconfig(user)}", *map(str, arguments)]

    def spent(self):
        """CPU seconds of the API server up to now."""
        return cpu(self.parts["kube-apiserver"].pid)

    def mark(self):
        """Where the audit log ends now: what is asked from here on."""
        log = self.dir / "audit.log"
        return log.stat().st_size if log.exists() else 0

    def asked(self, user, mark):
        """How often that user asked for what since the mark; a watch is counted where it began, and a write that is only
        rehearsed as such."""
        seen = {}
        with open(self.dir / "audit.log", encoding="utf-8") as log:
            log.seek(mark)
            for line in log:
                event = json.loads(line) if line.endswith("\n") else None
                if event and event["user"].get("username") == user:
                    verb = "rehearsal" if "dryRun=All" in event["requestURI"] else event["verb"]
                    # A watch that ends now began before.
                    if verb != "watch" or event["stage"] == "ResponseStarted":
                        seen[event["auditID"]] = verb
        return Counter(seen.values())

    def _start(self):
        self._run("etcd", f"--data-dir={self.dir}/etcd", f"--listen-client-url=http://127.0.0.1:{self.store_port}",
                  "--listen-peer-url=http://127.0.0.1:0")
        wait_until("etcd", lambda: self._alive() and fleets.listens(self.store_port), every=0.05)
        self._run("kube-apiserver", *self._api_flags())
        wait_until("the API server", lambda: self._alive() and self.client.is_ready(), timeout=180, every=0.1)
        self._run("kube-controller-manager", f"--kubeconfig={self.kubeconfig('controllers')}",
                  f"--service-account-private-key-file={self.dir}/service-account.key",
                  f"--root-ca-file={self.dir}/server-ca.pem",
                  f"--controllers={','.join(f'{name}-controller' for name in CONTROLLERS)},root-ca-certificate-publisher-controller",
                  "--leader-elect=false", "--secure-port=0", "--kube-api-qps=200", "--kube-api-burst=400")
        self._run("kubelet", f"--kubeconfig={self.kubeconfig('kubelet')}", "--node=edge")
        for path in ("/api/v1/nodes/edge", "/api/v1/namespaces/default/serviceaccounts/default"):
            wait_until(path, lambda: self._alive() and self.client.find(path), timeout=180, every=0.1)

    def _run(self, name, *flags):
        with open(self.dir / f"{name}.log", "ab") as log:
            command = ["setpriv", "--pdeathsig", "KILL", "--", str(self.program), name, *flags]
            self.parts[name] = subprocess.Popen(command, cwd=self.dir, env=self.environment, stdin=subprocess.DEVNULL,
                                                stdout=log, stderr=log)

    def _alive(self):
        for name, process in self.parts.items():
            if process.poll() is not None:
                raise RuntimeError(f"{name} ended: {(self.dir / f'{name}.log').read_text()[-2000:]}")
        return True

    def _api_flags(self):
        policy = {
            "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
            "rules": [{"level": "None", "users": [*OWN, "system:apiserver", "system:anonymous"]}, {"level": "Metadata"}],
        }
        (self.dir / "audit-policy.json").write_text(json.dumps(policy))
        files = {
            "tls-cert-file": "server.pem", "tls-private-key-file": "server.key", "client-ca-file": "client-ca.pem",
            "service-account-key-file": "service-account.key", "service-account-signing-key-file": "service-account.key",
            "audit-policy-file": "audit-policy.json", "audit-log-path": "audit.log",
        }
        return [
            f"--etcd-servers=http://127.0.0.1:{self.store_port}", "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1", f"--secure-port={self.port}", "--endpoint-reconciler-type=none",
            "--authorization-mode=Node,RBAC", "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            "--service-cluster-ip-range=10.43.0.0/16", "--profiling=false", "--audit-log-mode=blocking-strict",
            *(f"--{flag}={self.dir / name}" for flag, name in files.items()),
        ]

    def _certificates(self):
        """One authority for the server and one for clients."""
        for name in ("server-ca", "client-ca"):
            self._key(name)
            self._openssl("req", "-x509", "-new", "-days", "30", "-subj", f"/CN=test-{name}", "-key", f"{name}.key",
                          "-out", f"{name}.pem")
        self._key("service-account")
        self._leaf("server", "server-ca", "/CN=kube-apiserver", "subjectAltName=DNS:localhost,IP:127.0.0.1",
                   "extendedKeyUsage=serverAuth")
        self.kubeconfig("tester")

    def _leaf(self, name, authority, subject, *extensions):
        self._key(name)
        added = [word for each in ("basicConstraints=critical,CA:FALSE", *extensions) for word in ("-addext", each)]
        self._openssl("req", "-x509", "-new", "-days", "30", "-subj", subject, "-key", f"{name}.key",
                      "-out", f"{name}.pem", "-CA", f"{authority}.pem", "-CAkey", f"{authority}.key", *added)
        with open(self.dir / f"{name}.pem", "a", encoding="utf-8") as chain:
            chain.write((self.dir / f"{authority}.pem").read_text())

    def _key(self, name):
        self._openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", f"{name}.key")

    def _openssl(self, *arguments):
        run("openssl", *arguments, cwd=self.dir)

    def _kubeconfig(self, user):
        encoded = lambda name: base64.b64encode((self.dir / name).read_bytes()).decode()
        return json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "default",
            "clusters": [{"name": "default", "cluster": {
                "server": f"https://127.0.0.1:{self.port}", "certificate-authority-data": encoded("server-ca.pem")}}],
            "contexts": [{"name": "default", "context": {"cluster": "default", "user": "default"}}],
            "users": [{"name": "default", "user": {
                "client-certificate-data": encoded(f"{user}.pem"), "client-key-data": encoded(f"{user}.key")}}],
        })


class Client:
    """Asks the API server as who measures."""

    def __init__(self, port, folder):
        self.port = port
        self.tls = ssl.create_default_context(cafile=folder / "server-ca.pem")
        self.tls.load_cert_chain(folder / "tester.pem", folder / "tester.key")

    def connect(self, timeout=60):
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=timeout, context=self.tls)

    def ask(self, method, path, body=None):
        """Status and text."""
        connection = self.connect()
        try:
            connection.request(method, path, body and json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def is_ready(self):
        try:
            return self.ask("GET", "/readyz")[0] == 200
        except OSError:
            return False

    def find(self, path):
        """What is there; None if nothing is."""
        status, text = self.ask("GET", path)
        return json.loads(text) if status == 200 else None

    def make_namespace(self, name):
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        status, text = self.ask("POST", "/api/v1/namespaces", body)
        if status != 201:
            raise RuntimeError(f"the namespace {name} was not made: {text[:500]}")

    def remove_namespace(self, name):
        path = f"/api/v1/namespaces/{name}"
        self.ask("DELETE", path)
        wait_until(f"{name} to be gone", lambda: self.find(path) is None, timeout=300, every=0.2)


class ConfigMaps:
    """Follows the ConfigMaps of a namespace, and notes when each was there in which state."""

    def __init__(self, client, namespace):
        self.seen, self.changed = {}, threading.Condition()
        self.connection = client.connect(timeout=None)
        self.connection.request("GET", f"/api/v1/namespaces/{namespace}/configmaps?watch=1")
        self.socket = self.connection.sock
        self.answer = self.connection.getresponse()
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self):
        try:
            while line := self.answer.readline():
                at, event = now(), json.loads(line)
                with self.changed:
                    self.seen[event["object"]["metadata"]["name"]] = (at, event["object"].get("data"))
                    self.changed.notify_all()
        except (OSError, ValueError, AttributeError, http.client.HTTPException):
            pass  # It was closed.

    def wait(self, wanted, timeout=900.0):
        """When the last of these (name: data) was there so."""
        there = lambda: all(name in self.seen and self.seen[name][1] == data for name, data in wanted.items())
        with self.changed:
            if not self.changed.wait_for(there, timeout):
                raise TimeoutError(f"not all of {len(wanted)} ConfigMaps were there within {timeout:.0f} s: {len(self.seen)}")
            return max(self.seen[name][0] for name in wanted)

    def close(self):
        self.socket.shutdown(socket.SHUT_RDWR)
