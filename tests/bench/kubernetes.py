"""An app of very many ConfigMaps on a real Kubernetes API server, beside what `kubectl apply --server-side` needs for the
same files on the same server; and what the agent needs at rest, with them and with ten small apps.

Needs openssl, and the control plane that scripts/setup-tests.sh builds."""

import contextlib
import os
import shutil
import statistics
import subprocess
import threading
import time

import fleets
import plane
import scenarios
from box import Box, document
from plane import ConfigMaps, ControlPlane
from process import cpu, mappings, memory, now, threads, threads_between, wait_until, written
from scale import peak_from_here
from table import Row, megabytes, milliseconds, spread

APP, NAMESPACE, SMALL = "shelves", "shelves", 10
# What a known peer needs, by the issue that asks for this driver: two controllers, 500 ConfigMaps of 1.5 KB.
PEER = {"rest": "188 MB, two controllers", "peak": "127 to 131 MB in each of two", "first": 5.8, "change": 2.9, "no-op": 3.5}
PEER_ABOUT = "the known peer's figures are the issue's own, from the same kind of machine and API server"
# Patient: a machine that has other things to do gives figures as well.
HEALTH = fleets.HEALTH.replace("deadline: 60s", "deadline: 10m")
# A write that is only rehearsed changes nothing.
READS = {"get", "list", "watch", "rehearsal"}


def kubernetes(binary, options):
    """All of it."""
    missing = [tool for tool in ("openssl", "setpriv") if shutil.which(tool) is None]
    if not plane.program().is_file():
        missing.append(str(plane.program()))
    if missing:
        scenarios.say(f"  the part with Kubernetes is left out: there is no {', '.join(missing)}: run scripts/setup-tests.sh")
        return
    with ControlPlane() as cluster, contextlib.ExitStack() as boxes:
        shop, found = first_rounds(binary, options, cluster, boxes)
        yield from first_rows(found, options)
        yield from change_rows(*changes(shop, options))
        yield from no_op_rows(*no_ops(shop, options), options)
        yield from rest(shop.box, options, f"kubernetes, {options.objects} objects at rest", PEER["rest"])
        yield from starts(shop, options)
        shop.box.stop()
        shop = boxes.enter_context(Shop(binary, cluster, "small", 0))
        yield from ten_small(shop, options)


class Shop:
    """A box with an app of that many ConfigMaps, and who it is to the API server."""

    def __init__(self, binary, cluster, name, objects):
        self.cluster, self.user, self.versions = cluster, f"agent-{name}", dict.fromkeys(range(objects), 1)
        more = f'[drivers.kubernetes]\nkubeconfig = "{cluster.kubeconfig(self.user)}"\n'
        self.box = Box(binary, device=f"lab/{name}", wasm=False, more=more)
        self.box.put("holdfast.yaml", document("Fleet", "lab"))
        self.box.put(f"devices/lab/{name}.yaml", document("Device", f"lab/{name}"))

    def __enter__(self):
        self.commit = self.box.commit("An empty box")
        self.box.start()
        self.box.events.wait("revision.applied", self.commit)
        return self

    def __exit__(self, *_):
        self.box.__exit__()

    def put(self, name, namespace):
        """Puts the app's document into the next commit."""
        spec = f"  placement: {{}}\n  container: {{ namespace: {namespace}, driver: kubernetes }}\n"
        self.box.put(f"apps/{name}/app.yaml", document("App", name, f"spec:\n{spec}{HEALTH}"))

    def put_object(self, number, version):
        """Puts a version of a ConfigMap into the next commit."""
        self.versions[number] = version
        self.box.put(f"apps/{APP}/manifests/{name_of(number)}.yaml", manifest(number, version))

    def push(self, message):
        """Commits, and tells the agent a moment later; gives when."""
        self.commit = self.box.commit(message)
        time.sleep(0.5)
        return self.box.poll_now()

    def applied(self):
        """When the agent said that all of the commit is good."""
        at = self.box.events.wait("revision.applied", self.commit)
        status = self.box.status()
        if not status["converged"] or status["revision"]["applied"] != self.commit:
            raise RuntimeError(f"applied, and the status says: {status}")
        return at

    def asked(self, mark):
        # The log is written before the answer is given.
        return self.cluster.asked(self.user, mark)


def name_of(number):
    return f"shelf-{number:03}"


def data_of(number, version):
    """1.5 KB, with the rest of the object."""
    lines = [f"shelf {number} row {row}: article {number * 31 + row * 7 + version * 1009:08} price {row}.99" for row in range(29)]
    return {"version": str(version), "shelf.txt": "\n".join(lines) + "\n"}


def manifest(number, version):
    data = data_of(number, version)
    text = "".join(f"    {line}\n" for line in data["shelf.txt"].splitlines())
    return (f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: {name_of(number)} }}\n"
            f"data:\n  version: \"{data['version']}\"\n  shelf.txt: |\n{text}")


def wanted(versions):
    return {name_of(number): data_of(number, version) for number, version in versions.items()}


class Peak:
    """The most that an agent had of proportional memory, by many looks; and of resident memory, as the kernel noted it."""

    def __init__(self, box):
        self.box, self.pid, self.pss, self.ended = box, box.pid, 0, threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)

    def _look(self):
        while not self.ended.wait(0.04):
            self.pss = max(self.pss, memory(self.pid)["pss"])

    def __enter__(self):
        peak_from_here(self.box)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()
        self.rss = memory(self.pid)["peak"]


def first_rounds(binary, options, cluster, boxes):
    """The first apply, each time by an agent of its own into an empty namespace; and kubectl's of the same files. What the
    last round made stays."""
    found, reference = [], []
    for number in range(options.rounds):
        scenarios.say(f"kubernetes: first apply, round {number + 1}")
        cluster.client.make_namespace(NAMESPACE)
        shop = boxes.enter_context(Shop(binary, cluster, f"box-{number}", options.objects))
        found.append(first(shop))
        reference.append(by_hand(shop))
        if number + 1 < options.rounds:
            shop.box.stop()
            cluster.client.remove_namespace(NAMESPACE)
    return shop, {"ours": found, "theirs": reference}


def first(shop):
    maps = ConfigMaps(shop.cluster.client, NAMESPACE)
    shop.put(APP, NAMESPACE)
    for number, version in shop.versions.items():
        shop.put_object(number, version)
    time.sleep(scenarios.SETTLE)
    mark, spent, server = shop.cluster.mark(), cpu(shop.box.pid), shop.cluster.spent()
    with Peak(shop.box) as peak:
        began = shop.push("The shelves")
        there = maps.wait(wanted(shop.versions)) - began
        converged = shop.applied() - began
    maps.close()
    return {"accepted": shop.box.events.wait("revision.accepted", shop.commit) - began, "there": there,
            "converged": converged, "asked": shop.asked(mark), "pss": peak.pss, "rss": peak.rss,
            "cpu": cpu(shop.box.pid) - spent, "server": shop.cluster.spent() - server}


def by_hand(shop):
    """kubectl: the first apply, one without a change, and one of a change."""
    cluster, namespace = shop.cluster, f"{NAMESPACE}-by-hand"
    folder = shop.box.dir / "by-hand"
    shutil.copytree(shop.box.repository / f"apps/{APP}/manifests", folder)
    cluster.client.make_namespace(namespace)
    user = f"kubectl-{shop.user}"
    command = cluster.command(user, "apply", "--server-side", f"--namespace={namespace}", f"--filename={folder}")
    found = []
    for what in ("first", "no-op", "change"):
        if what == "change":
            (folder / f"{name_of(1)}.yaml").write_text(manifest(1, 2))
        mark, server, began = cluster.mark(), cluster.spent(), now()
        with open(folder.parent / "by-hand.log", "wb") as log:
            process = subprocess.Popen(command, env=cluster.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            raise RuntimeError(f"kubectl apply: {(folder.parent / 'by-hand.log').read_text()[-1000:]}")
        found.append({"took": now() - began, "asked": cluster.asked(user, mark), "rss": used.ru_maxrss * 1024,
                      "cpu": used.ru_utime + used.ru_stime, "server": cluster.spent() - server})
    cluster.client.remove_namespace(namespace)
    return dict(zip(("first", "no-op", "change"), found))


def calls(asked):
    """How often what was asked, in the most of the runs."""
    texts = [", ".join(f"{verb} {count}" for verb, count in sorted(each.items())) or "none" for each in asked]
    return statistics.mode(texts)


def first_rows(found, options):
    ours, theirs = found["ours"], [each["first"] for each in found["theirs"]]
    column = lambda rows, name: [row[name] for row in rows]
    label = f"kubernetes, first apply of {options.objects} ConfigMaps of 1.5 KB"
    there = column(ours, "there")
    yield Row(f"{label}: SIGHUP to all there", spread(there), target=f"< {PEER['first']} s",
              met=statistics.median(there) < PEER["first"], peer=f"{PEER['first']} s",
              reference=f"kubectl apply --server-side: {spread(column(theirs, 'took'))}",
              notes=f"{len(ours)} rounds, each into an empty namespace; fetch and verify among it: "
                    f"{spread(column(ours, 'accepted'))}; {PEER_ABOUT}")
    yield Row(f"{label}: SIGHUP to converged", spread(column(ours, "converged")),
              notes=f"{fleets.SOAK} s soak in it")
    yield Row(f"{label}: API calls", calls(column(ours, "asked")), reference=f"kubectl: {calls(column(theirs, 'asked'))}",
              notes="by the server's audit log; a rehearsal is a write with dryRun=All")
    yield Row(f"{label}: CPU", spread(column(ours, "cpu")), reference=f"kubectl: {spread(column(theirs, 'cpu'))}",
              notes=f"of the agent, to converged; of the API server meanwhile: {spread(column(ours, 'server'))}, kubectl's "
                    f"{spread(column(theirs, 'server'))}")
    pss, rss = max(column(ours, "pss")), max(column(ours, "rss"))
    yield Row(f"{label}: peak memory", megabytes(pss), target="≤ 40 MB", met=pss <= 40e6,
              peer=PEER["peak"], reference=f"kubectl, RSS: {megabytes(max(column(theirs, 'rss')))}",
              notes=f"the worst of {len(ours)}, PSS by a look each 40 ms; VmHWM, which counts shared pages in full: {megabytes(rss)}")
    for what, name in (("no-op", "without a change"), ("change", "with one changed")):
        rows = [each[what] for each in found["theirs"]]
        yield Row(f"kubernetes, reference: the same {name}", "",
                  reference=f"kubectl apply --server-side: {spread(column(rows, 'took'))}", notes=calls(column(rows, "asked")))


def changes(shop, options):
    """One ConfigMap of them, each time another one."""
    maps = ConfigMaps(shop.cluster.client, NAMESPACE)
    took, converged, asked = [], [], []
    for number in range(options.rounds):
        shop.put_object(number * 7 + 3, 2)
        time.sleep(1.5)
        mark, began = shop.cluster.mark(), shop.push(f"Change {number}")
        took.append(maps.wait(wanted({number * 7 + 3: 2})) - began)
        converged.append(shop.applied() - began)
        asked.append(shop.asked(mark))
    maps.close()
    return took, converged, asked


def change_rows(took, converged, asked):
    yield Row("kubernetes, one of them changed: SIGHUP to the change on the server", spread(took),
              target=f"< {PEER['change']} s", met=statistics.median(took) < PEER["change"], peer=f"{PEER['change']} s",
              notes=f"{len(took)} runs; API calls: {calls(asked)}")
    yield Row("kubernetes, one of them changed: SIGHUP to converged", spread(converged), notes=f"{fleets.SOAK} s soak in it")


def no_ops(shop, options):
    """Commits that change nothing on this box; and then polls without any new commit."""
    took, asked, wrote = [], [], []
    for number in range(options.rounds):
        shop.box.put("README.md", f"The shelves, {number}\n")
        time.sleep(1.5)
        mark, before, began = shop.cluster.mark(), written(shop.box.pid)["bytes"], shop.push(f"Words {number}")
        took.append(shop.applied() - began)
        time.sleep(1)
        asked.append(shop.asked(mark))
        wrote.append(written(shop.box.pid)["bytes"] - before)
    time.sleep(scenarios.SETTLE)
    mark, before, folder = shop.cluster.mark(), written(shop.box.pid)["bytes"], scenarios.snapshot(shop.box.dir)
    for _ in range(options.rounds):
        shop.box.poll_now()
        time.sleep(1)
    quiet = (shop.asked(mark), written(shop.box.pid)["bytes"] - before,
             {path for path, _ in scenarios.snapshot(shop.box.dir).items() ^ folder.items()})
    return took, asked, wrote, quiet


def writes(asked):
    return sum(count for each in asked for verb, count in each.items() if verb not in READS)


def no_op_rows(took, asked, wrote, quiet, options):
    yield Row("kubernetes, a new commit that changes nothing here: SIGHUP to applied", spread(took),
              target=f"< {PEER['no-op']} s", met=statistics.median(took) < PEER["no-op"], peer=f"{PEER['no-op']} s",
              notes=f"{len(took)} runs; bytes written to disk, each: {', '.join(map(str, wrote))} (the commit itself)")
    yield Row("kubernetes, a new commit that changes nothing here: writes to the API", str(writes(asked)), target="0",
              met=writes(asked) == 0, notes=f"API calls: {calls(asked)}")
    calls_of, nbytes, touched = quiet
    yield Row(f"kubernetes, {options.rounds} polls without a new commit: API calls", calls([calls_of]), target="none",
              met=not calls_of)
    yield Row(f"kubernetes, {options.rounds} polls without a new commit: bytes written", str(nbytes), target="0",
              met=nbytes == 0 and not touched,
              notes=f"files whose time, size or inode changed: {', '.join(sorted(path.name for path in touched)) or 'none'}")


def rest(box, options, label, peer=""):
    """Between two polls, nobody touches anything."""
    time.sleep(scenarios.SETTLE)
    first = memory(box.pid)
    scenarios.say(f"idle for {options.idle} s")
    before, began = threads(box.pid), now()
    time.sleep(options.idle)
    spent, elapsed = threads_between(before, threads(box.pid)), now() - began
    share = sum(each[0] for each in spent.values()) / elapsed * 100
    woken = sum(each[1] for each in spent.values()) / elapsed
    of = max(first, memory(box.pid), key=lambda each: each["pss"])
    largest = sorted(mappings(box.pid).items(), key=lambda item: -item[1])[:4]
    parts = ", ".join(f"{name} {megabytes(size)}" for name, size in largest)
    yield Row(f"{label}: PSS", megabytes(of["pss"]), target="≤ 10 MB", met=of["pss"] <= 10e6,
              peer=peer,
              notes=f"{scenarios.SETTLE} s after the last pass {megabytes(first['pss'])}, and this after {elapsed:.0f} s more: "
                    f"anonymous {megabytes(of['anonymous'])}, of files {megabytes(of['file'])}; {parts}; threads: {of['threads']}")
    yield Row(f"{label}: share of one core", f"{share:.4f} %", target="< 0.1 %", met=share < 0.1,
              notes=f"over {elapsed:.0f} s; {woken:.2f} wake-ups a second")


def starts(shop, options):
    """The agent anew, with everything in place."""
    took, asked = [], []
    for _ in range(options.rounds):
        shop.box.stop()
        mark, began = shop.cluster.mark(), shop.box.start(follow=False)
        wait_until("the agent to be converged", lambda: is_converged(shop), timeout=120, every=0.02)
        took.append(now() - began)
        time.sleep(2)
        asked.append(shop.asked(mark))
    yield Row("kubernetes, start with everything in place: to converged", spread(took),
              notes=f"{len(took)} starts, from before fork(), by a look each 20 ms")
    yield Row("kubernetes, start with everything in place: writes to the API", str(writes(asked)), target="0",
              met=writes(asked) == 0, notes=f"API calls: {calls(asked)}")


def is_converged(shop):
    try:
        status = shop.box.status()
    except (OSError, ValueError):
        return False
    return status["converged"] and status["revision"]["applied"] == shop.commit


def ten_small(shop, options):
    """Apps of a Deployment and a ConfigMap each."""
    for number in range(SMALL):
        name = f"small-{number}"
        shop.put(name, name)
        shop.box.put(f"apps/{name}/manifests/all.yaml", small(name))
    with Peak(shop.box) as peak:
        began = shop.push("Ten small apps")
        converged = shop.applied() - began
    yield Row("kubernetes, first apply of ten small apps: SIGHUP to converged", f"{converged:.2f} s",
              notes=f"one run, a Deployment that becomes Available and a ConfigMap each, {fleets.SOAK} s soak in it; peak PSS "
                    f"{megabytes(peak.pss)}, VmHWM {megabytes(peak.rss)}")
    # As it is between any two polls.
    time.sleep(scenarios.SETTLE)
    shop.box.poll_now()
    yield from rest(shop.box, options, "kubernetes, ten small apps at rest")


def small(name):
    return f"""apiVersion: v1
kind: ConfigMap
metadata: {{ name: config }}
data: {{ name: {name} }}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{ name: {name} }}
spec:
  selector: {{ matchLabels: {{ app: {name} }} }}
  template:
    metadata: {{ labels: {{ app: {name} }} }}
    spec:
      containers:
        - {{ name: {name}, image: "registry.example/{name}:1", envFrom: [ {{ configMapRef: {{ name: config }} }} ] }}
"""
