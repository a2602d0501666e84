"""A box to measure: a repository with signed commits, an agent.toml, the agent, and what it says of itself."""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from pathlib import Path

from process import now, wait_until, with_arguments

AUTHOR = "bench@holdfast.example"
API = "apiVersion: holdfast.dev/v1alpha1\n"
# A file system on a disk: on a tmpfs nothing ever reaches the block layer, and the bytes written would be nil.
FOLDER = "/var/tmp"
GIT = {
    **os.environ,
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "Bench",
    "GIT_AUTHOR_EMAIL": AUTHOR,
    "GIT_COMMITTER_NAME": "Bench",
    "GIT_COMMITTER_EMAIL": AUTHOR,
}


def run(*command, **options):
    """Runs it to its end and gives what it printed; what it complains about is in the error."""
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, **options)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout.strip()


class UnixConnection(http.client.HTTPConnection):
    """HTTP over the agent's socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=120)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Events:
    """Follows the agent's events, and notes when each arrived."""

    def __init__(self, path):
        self.seen, self.changed = [], threading.Condition()
        self.connection = UnixConnection(path)
        self.connection.request("GET", "/v1/events?follow=1")
        self.connection.timeout = None
        self.connection.sock.settimeout(None)
        self.answer = self.connection.getresponse()
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self):
        try:
            while line := self.answer.readline():
                event = json.loads(line)
                with self.changed:
                    self.seen.append((now(), event))
                    self.changed.notify_all()
        except (OSError, ValueError, AttributeError, http.client.HTTPException):
            pass  # The agent was stopped.

    def wait(self, kind, revision=None, app=None, after=0.0, timeout=300.0):
        """When the first event of this kind arrived, on the boot clock."""
        def found():
            for at, event in self.seen:
                same = revision is None or event.get("revision") == revision
                if at > after and event["kind"] == kind and same and (app is None or event.get("app") == app):
                    return at
            return None

        with self.changed:
            if not self.changed.wait_for(found, timeout):
                told = [f"{e['kind']} {e.get('app') or ''}: {e['message']}" for _, e in self.seen[-5:]]
                raise TimeoutError(f"no {kind} within {timeout:.0f} s; the last events: {told}")
            return found()


class Box:
    """A box in a folder of its own, which goes when it is closed."""

    def __init__(self, binary, device="emea/de/store-0042/till-1", wasm=True, more=""):
        self.binary, self.process, self.events = str(binary), None, None
        self.dir = Path(tempfile.mkdtemp(prefix="holdfast-bench-", dir=FOLDER))
        self.repository = self.dir / "edge"
        self.log = self.dir / "agent.log"
        self.repository.mkdir()
        run("git", "init", "-q", "-b", "main", self.repository, env=GIT)
        key = self.dir / "key"
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", key)
        public = key.with_suffix(".pub").read_text().strip()
        (self.dir / "allowed_signers").write_text(f'{AUTHOR} namespaces="git" {public}\n')
        (self.dir / "agent.toml").write_text(agent_toml(self.dir, device, wasm) + more.format(dir=self.dir))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()
        for pid in with_arguments(f"{self.dir}/"):
            os.kill(pid, signal.SIGKILL)
        self.log.unlink(missing_ok=True)
        shutil.rmtree(self.dir)

    def put(self, path, text):
        """Puts a file into the next commit."""
        file = self.repository / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def commit(self, message):
        """Commits all files, signed by git and ssh-keygen; gives the commit's id."""
        git = ["git", "-C", str(self.repository), "-c", "gpg.format=ssh", "-c", "gc.auto=0"]
        run(*git, "add", "-A", env=GIT)
        run(*git, "-c", f"user.signingkey={self.dir}/key", "commit", "-q", "-S", "-m", message, env=GIT)
        return run(*git, "rev-parse", "HEAD", env=GIT)

    def start(self, follow=True):
        """Starts the agent; gives when, on the boot clock, just before it was started."""
        with open(self.log, "ab") as log:
            command = [self.binary, "run", "--config", str(self.dir / "agent.toml")]
            before = now()
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        if follow:
            self.events = wait_until("the agent's socket", self._follow)
        return before

    def _follow(self):
        if self.process.poll() is not None:
            raise RuntimeError(f"the agent ended: {self.log.read_text()[-2000:]}")
        try:
            return Events(self.dir / "api.sock")
        except (FileNotFoundError, ConnectionError):
            return None

    def stop(self):
        """Ends the agent; its workloads run on."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(60)
        self.process = self.events = None

    @property
    def pid(self):
        return self.process.pid

    def poll_now(self):
        """SIGHUP; gives when."""
        before = now()
        self.process.send_signal(signal.SIGHUP)
        return before

    def status(self):
        connection = UnixConnection(self.dir / "api.sock")
        try:
            connection.request("GET", "/v1/status")
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def workloads(self):
        """The children that run WebAssembly. They are nobody's children: they outlive the agent."""
        return with_arguments("wasm-run", f"{self.dir}/run/")

    def driver_log(self):
        """What the simulated runtime was asked, line by line."""
        text = (self.dir / "runtime/log.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]


def document(kind, name, spec="spec: {}\n"):
    return f"{API}kind: {kind}\nmetadata: {{ name: {name} }}\n{spec}"


def agent_toml(folder, device, wasm):
    return f"""[device]
name = "{device}"
[source]
url = "file://{folder}/edge"
branch = "main"
interval = "5m"
[trust]
mode = "signed"
allowed_signers = "allowed_signers"
[state]
dir = "state"
[api]
socket = "api.sock"
[drivers.simulated]
dir = "runtime"
[drivers.wasm]
enabled = {str(wasm).lower()}
run_dir = "run"
user = ""
"""
