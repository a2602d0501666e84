"""A box in a large fleet: 5,000 devices and 100,000 files on a real Git server (nginx and git-http-backend), beside
git's own clones of the same repository, counted by the same server."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import fleets
from box import AUTHOR, GIT, Box, document, run
from process import memory, wait_until
from table import Row

BACKEND = "/usr/lib/git-core/git-http-backend"
SITES, TILLS, APPS, MANIFESTS = 2500, 2, 500, 9
FILES = 100_000
# Of the apps, those that run on the box that is measured.
OURS = range(100, 110)
SITE, DEVICE = "emea/de/store-0042", "emea/de/store-0042/till-1"
REGIONS = [f"{region}/{country}" for region in ("emea", "amer", "apac") for country in ("de", "fr", "us", "jp", "br")]


def scale(binary, options):
    box = Box(binary, device=DEVICE, wasm=False)
    with box, Server(box) as server:
        first = sign(box, import_fleet(box), None)
        run("git", "-C", box.repository, "repack", "-adq", env=GIT)
        use(box, server)
        path = f"apps/{name(OURS[0])}/manifests/0.yaml"
        begun = server.count()
        box.start()
        took = converge(box, first)
        ours = [measured(box, server, begun, took)]
        clones = [Clone(box, server, []), Clone(box, server, ["--filter=blob:none", "--no-checkout"], own_paths())]
        theirs = [[clone.first() for clone in clones]]
        second = sign(box, import_change(box, path, manifest(name(OURS[0]), 0, "changed")), first)
        peak_from_here(box)
        begun = server.count()
        box.poll_now()
        took = converge(box, second)
        ours.append(measured(box, server, begun, took))
        theirs.append([clone.change() for clone in clones])
        yield from rows(ours, theirs, box)


def rows(ours, theirs, box):
    for what, own, others in zip(("first sync", "a change of one file"), ours, theirs):
        named = list(zip(("clone --depth 1", "with blob:none and a sparse checkout"), others))
        least = max(each["bytes"] for _, each in named)
        yield Row(f"scale: bytes of {what}", kilobytes(own["bytes"]), target="at most git's", met=own["bytes"] <= least,
                  reference="; ".join(f"git {how}: {kilobytes(each['bytes'])}" for how, each in named),
                  notes=f"{own['requests']} requests, git {' and '.join(str(each['requests']) for each in others)}; "
                        f"{own['seconds']:.1f} s to Good with {fleets.SOAK} s soak, "
                        f"git {' and '.join('%.1f s' % each['seconds'] for each in others)}")
        yield Row(f"scale: peak memory of {what}", f"{own['peak'] / 1e6:.1f} MB", target="≤ 40 MB",
                  met=own["peak"] <= 40e6,
                  reference="; ".join(f"git {how}: {each['peak'] / 1e6:.1f} MB" for how, each in named),
                  notes="VmHWM of the agent, of git's largest process")
    mirror = sum(path.stat().st_size for path in (box.dir / "state/mirror").rglob("*") if path.is_file())
    yield Row("scale: the mirror on disk", kilobytes(mirror),
              notes=f"{FILES:,} files, {SITES * TILLS:,} devices, {APPS} apps, {len(OURS)} of them here")


def kilobytes(size):
    return f"{size / 1e6:.2f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"


def converge(box, commit):
    before = time.monotonic()
    box.events.wait("revision.applied", commit, timeout=600)
    return time.monotonic() - before


def measured(box, server, begun, took):
    return {**server.since(begun), "seconds": took, "peak": memory(box.pid)["peak"]}


def peak_from_here(box):
    """Lets VmHWM begin anew (proc(5), clear_refs)."""
    Path(f"/proc/{box.pid}/clear_refs").write_text("5")


def use(box, server):
    config = box.dir / "agent.toml"
    config.write_text(config.read_text().replace(f"file://{box.dir}/edge", server.url))


# The repository: written by git fast-import, as a checkout of 100,000 files takes minutes.


def name(number):
    return f"app-{number:03}"


def manifest(app, number, text):
    return (f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: {app}-{number} }}\n"
            f"data:\n  text: {text}\n  note: {'a line that every manifest has; ' * 8}\n")


def files():
    yield "holdfast.yaml", document("Fleet", "scale")
    for number in range(SITES):
        site = f"{REGIONS[number % len(REGIONS)]}/store-{number:04}"
        if number == 42:
            site = SITE
        yield f"sites/{site}.yaml", document("Site", site)
        for till in range(1, TILLS + 1):
            device = f"{site}/till-{till}"
            tier = "ours" if device == DEVICE else f"tier-{number % 50}"
            text = (f"apiVersion: holdfast.dev/v1alpha1\nkind: Device\n"
                    f"metadata: {{ name: {device}, labels: {{ tier: {tier} }} }}\nspec: {{ site: {site} }}\n")
            yield f"devices/{device}.yaml", text
    rest = FILES - 1 - SITES * (1 + TILLS) - APPS * (1 + MANIFESTS)
    for number in range(APPS):
        app = name(number)
        tier = "ours" if number in OURS else f"tier-{number % 50}"
        spec = (f"spec:\n  placement: {{ matchLabels: {{ tier: {tier} }} }}\n"
                f"  container: {{ namespace: {app}, driver: simulated }}\n")
        yield f"apps/{app}/app.yaml", document("App", app, spec + fleets.HEALTH)
        for each in range(MANIFESTS):
            yield f"apps/{app}/manifests/{each}.yaml", manifest(app, each, os.urandom(40).hex())
        for each in range(rest // APPS + (number < rest % APPS)):
            yield f"apps/{app}/files/part-{each}", os.urandom(400).hex()


def fast_import(box, commands):
    process = subprocess.Popen(["git", "-C", str(box.repository), "fast-import", "--quiet", "--date-format=now", "--force"], env=GIT,
                               stdin=subprocess.PIPE)
    with process.stdin as pipe:
        for command in commands:
            pipe.write(command)
    if process.wait() != 0:
        raise RuntimeError(f"git fast-import ended with {process.returncode}")
    return run("git", "-C", box.repository, "rev-parse", "refs/heads/import^{tree}", env=GIT)


def data(text):
    raw = text.encode()
    return b"data %d\n%s\n" % (len(raw), raw)


def commit_of(parent):
    return f"commit refs/heads/import\ncommitter Bench <{AUTHOR}> now\n".encode() + data("x") + parent


def import_fleet(box):
    def commands():
        yield commit_of(b"")
        for path, text in files():
            yield f"M 100644 inline {path}\n".encode() + data(text)

    return fast_import(box, commands())


def import_change(box, path, text):
    return fast_import(box, [commit_of(b"from refs/heads/main^0\n"), f"M 100644 inline {path}\n".encode(), data(text)])


def sign(box, tree, parent):
    """Makes a signed commit of a tree the tip of `main`; gives its id."""
    git = ["git", "-C", box.repository]
    keys = ["-c", "gpg.format=ssh", "-c", f"user.signingkey={box.dir}/key"]
    parents = ["-p", parent] if parent else []
    commit = run(*git, *keys, "commit-tree", "-S", "-m", "A state of the fleet", *parents, tree, env=GIT)
    run(*git, "update-ref", "refs/heads/main", commit, env=GIT)
    return commit


def own_paths():
    """What the box needs, for git's sparse checkout."""
    own = [f"/apps/{name(number)}/" for number in OURS]
    manifests = [f"{app}manifests/" for app in own]
    return ["/holdfast.yaml", "/apps/*/app.yaml", f"/devices/{DEVICE}.yaml", f"/sites/{SITE}.yaml", *manifests]


class Clone:
    """What git itself takes for the same: a clone, and bringing it up to date."""

    def __init__(self, box, server, options, paths=()):
        self.server, self.options, self.paths = server, options, paths
        self.dir = Path(box.dir / f"clone-{len(options)}")

    def first(self):
        steps = [["clone", "-q", "--depth", "1", *self.options, self.server.url, self.dir]]
        if self.paths:
            steps.append(["-C", self.dir, "sparse-checkout", "set", "--no-cone", *self.paths])
            steps.append(["-C", self.dir, "checkout", "-q", "main"])
        return self.measure(steps)

    def change(self):
        return self.measure([
            ["-C", self.dir, "fetch", "-q", "--depth", "1", "origin", "main"],
            ["-C", self.dir, "reset", "-q", "--hard", "FETCH_HEAD"],
        ])

    def measure(self, steps):
        begun, before, peak = self.server.count(), time.monotonic(), 0
        for step in steps:
            process = subprocess.Popen(["git", *map(str, step)], env=GIT, stdin=subprocess.DEVNULL)
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode != 0:
                raise RuntimeError(f"git {step} ended with {process.returncode}")
            peak = max(peak, used.ru_maxrss * 1024)
        return {**self.server.since(begun), "seconds": time.monotonic() - before, "peak": peak}


class Server:
    """nginx and git-http-backend before the box's repository. Its log counts what goes over the wire."""

    def __init__(self, box):
        for tool in ("nginx", "fcgiwrap", BACKEND):
            if shutil.which(tool) is None:
                raise RuntimeError(f"there is no {tool} on this machine: apt-get install nginx-light fcgiwrap git")
        self.dir, self.port, self.processes = box.dir / "server", fleets.free_port(), []
        self.dir.mkdir()
        (self.dir / "nginx.conf").write_text(nginx(self.dir, self.port, box.dir))
        for key, value in (("uploadpack.allowFilter", "true"), ("gc.auto", "0")):
            run("git", "-C", box.repository, "config", key, value, env=GIT)
        self.url = f"http://127.0.0.1:{self.port}/edge/.git"

    def __enter__(self):
        socket = self.dir / "cgi.sock"
        self._start("fcgiwrap", "-s", f"unix:{socket}", env={**GIT, "HOME": str(self.dir)})
        wait_until("fcgiwrap", socket.exists)
        self._start("nginx", "-p", self.dir, "-c", self.dir / "nginx.conf", "-e", self.dir / "error.log")
        wait_until("nginx", lambda: fleets.listens(self.port))
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.terminate()
            process.wait(60)

    def _start(self, *command, **options):
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.processes.append(subprocess.Popen([str(part) for part in command], **quiet, **options))

    def count(self):
        """How many requests were answered. A line is written after the answer is gone."""
        time.sleep(0.2)
        return len(self._lines())

    def since(self, begun):
        time.sleep(0.2)
        lines = self._lines()[begun:]
        return {"requests": len(lines), "bytes": sum(int(word) for line in lines for word in line.split())}

    def _lines(self):
        log = self.dir / "access.log"
        return log.read_text().splitlines() if log.exists() else []


def nginx(folder, port, root):
    names = ("SCRIPT_FILENAME " + BACKEND, f"GIT_PROJECT_ROOT {root}", 'GIT_HTTP_EXPORT_ALL ""',
             "GIT_CONFIG_NOSYSTEM 1", "GIT_CONFIG_GLOBAL /dev/null", "HTTP_GIT_PROTOCOL $http_git_protocol",
             "PATH_INFO $uri", "QUERY_STRING $query_string", "REQUEST_METHOD $request_method",
             "CONTENT_TYPE $content_type", "CONTENT_LENGTH $content_length",
             "HTTP_CONTENT_ENCODING $http_content_encoding")
    parameters = "\n      ".join(f"fastcgi_param {each};" for each in names)
    temporary = "\n  ".join(f"{kind}_temp_path {folder}/{kind};" for kind in
                            ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    user = "user root;" if os.getuid() == 0 else ""
    return f"""daemon off;
master_process off;
{user}
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
  log_format wire '$request_length $bytes_sent';
  access_log {folder}/access.log wire;
  {temporary}
  client_max_body_size 0;
  server {{
    listen 127.0.0.1:{port};
    location / {{
      fastcgi_pass unix:{folder}/cgi.sock;
      fastcgi_buffering off;
      {parameters}
    }}
  }}
}}
"""
