"""What the guest's box needs outside of it: a repository with a Git server, and a registry, both on this machine's loopback,
which the guest sees at 10.0.2.2."""

import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HERE = "10.0.2.2"
ROOT = Path(__file__).resolve().parents[2]


def run(*command, **options):
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, text=True, check=True, **options)
    return done.stdout


class Repository:
    """The fleet's repository. Every commit is signed by the one who may."""

    def __init__(self, folder):
        self.path, self.key = folder / "edge.git", folder / "key"
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", self.key)
        run("git", "init", "-q", "-b", "main", self.path)
        self.git("config", "uploadpack.allowFilter", "true")

    def git(self, *words):
        signed = ["-c", "gpg.format=ssh", "-c", f"user.signingkey={self.key}", "-c", "user.name=guest",
                  "-c", "user.email=guest@example.com", "-c", "gc.auto=0", "-c", "commit.gpgsign=true"]
        return run("git", "-C", self.path, *signed, *words).strip()

    def allowed_signers(self):
        return f'guest@example.com namespaces="git" {self.key.with_suffix(".pub").read_text()}'

    def commit(self, files, message="Change"):
        """Writes files, or removes those without content; gives the commit's id."""
        for path, content in files.items():
            path = self.path / path
            if content is None:
                path.unlink()
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content if isinstance(content, bytes) else content.encode())
        self.git("add", "-A")
        self.git("commit", "-q", "-m", message)
        return self.git("rev-parse", "HEAD")


def digest(content):
    return "sha256:" + hashlib.sha256(content).hexdigest()


class Images:
    """Images made from scratch: the tests' web server, a shell, and a version."""

    def __init__(self, cache):
        source = (ROOT / "agent/tests/support/webapp.rs").read_bytes()
        self.webapp = cache / f"webapp-{digest(source)[7:19]}"
        if not self.webapp.exists():
            new = self.webapp.with_suffix(f".{os.getpid()}")
            run("rustc", "--edition", "2024", "-O", "--target", "x86_64-unknown-linux-musl", "-o", new,
                ROOT / "agent/tests/support/webapp.rs")
            new.rename(self.webapp)
        self.blobs, self.manifests = {}, {}

    def make(self, version):
        """Makes an image, and gives the name by which the guest asks for it, without host and port."""
        layer = io.BytesIO()
        with tarfile.open(fileobj=layer, mode="w") as tar:
            def add(name, content, mode=0o755):
                member = tarfile.TarInfo(name)
                member.size, member.mode = len(content), mode
                tar.addfile(member, io.BytesIO(content))
            add("webapp", self.webapp.read_bytes())
            add("bin/busybox", Path("/bin/busybox").read_bytes())
            for name in ("sh", "ls", "ln", "mv", "rm", "cat", "sleep", "touch", "mkdir"):
                link = tarfile.TarInfo(f"bin/{name}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(link)
            add("version", version.encode(), 0o644)
        packed = gzip.compress(layer.getvalue(), mtime=0)
        config = json.dumps({
            "architecture": "amd64", "os": "linux",
            "config": {"Entrypoint": ["/webapp"], "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [digest(layer.getvalue())]},
        }).encode()
        manifest = json.dumps({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(config), "size": len(config)},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest(packed), "size": len(packed)}],
        }).encode()
        self.blobs |= {digest(config): config, digest(packed): packed}
        self.manifests[digest(manifest)] = manifest
        return f"webapp@{digest(manifest)}"


class Server:
    """Serves `/edge.git` as git-http-backend does, `/v2/` as a registry, and `/files/NAME`."""

    def __init__(self, repository, images):
        self.repository, self.images, self.files = repository, images, {}
        # What /gate answers: whether the box is free, says a gate.
        self.gate = 200
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                server.answer(self)

            do_HEAD = do_POST = do_GET

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.address = f"{HERE}:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def answer(self, request):
        path, _, query = request.path.partition("?")
        if path.startswith("/edge.git/"):
            return self.answer_git(request, path, query)
        kind, content = "application/octet-stream", None
        if path == "/v2/":
            content = b"{}"
        elif path == "/gate":
            return self.send(request, self.gate, kind, b"")
        elif path.startswith("/files/"):
            content = self.files.get(path.removeprefix("/files/"))
        elif "/manifests/" in path:
            kind, content = "application/vnd.oci.image.manifest.v1+json", self.images.manifests.get(path.rsplit("/", 1)[1])
        elif "/blobs/" in path:
            content = self.images.blobs.get(path.rsplit("/", 1)[1])
        if content is None:
            return self.send(request, 404, "text/plain", b"not here\n")
        self.send(request, 200, kind, content)

    @staticmethod
    def send(request, status, kind, content):
        request.send_response(status)
        request.send_header("Content-Type", kind)
        request.send_header("Content-Length", str(len(content)))
        if kind.endswith("json") or kind.endswith("stream"):
            request.send_header("Docker-Content-Digest", digest(content))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(content)

    def answer_git(self, request, path, query):
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        if request.headers.get("Transfer-Encoding", "") == "chunked":
            while size := int(request.rfile.readline().split(b";")[0], 16):
                body += request.rfile.read(size)
                request.rfile.readline()
            request.rfile.readline()
        environment = os.environ | {
            "GIT_PROJECT_ROOT": str(self.repository.path.parent), "GIT_HTTP_EXPORT_ALL": "1", "PATH_INFO": path,
            "QUERY_STRING": query, "REQUEST_METHOD": request.command,
            "CONTENT_TYPE": request.headers.get("Content-Type", ""), "CONTENT_LENGTH": str(len(body)),
            "GIT_PROTOCOL": request.headers.get("Git-Protocol", ""), "REMOTE_ADDR": "127.0.0.1",
            "HTTP_CONTENT_ENCODING": request.headers.get("Content-Encoding", ""),
        }
        done = subprocess.run(["git", "http-backend"], input=body, env=environment, stdout=subprocess.PIPE)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().splitlines() if ": " in line)
        status = int(fields.get("Status", "200").split()[0])
        self.send(request, status, fields.get("Content-Type", "text/plain"), content)
