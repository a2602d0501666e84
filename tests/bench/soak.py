#!/usr/bin/env python3
"""A stream of commits, half of them bad, at one agent for as long as is asked for: what memory, file descriptors,
threads and the state folder do meanwhile. Prints a table with a slope for each.

Run by scripts/soak.sh. Needs Linux, git and ssh-keygen; as root also podman, with an app on it."""

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

sys.dont_write_bytecode = True

import bench
import fleets
import scenarios
from box import API, GIT, Box, document, run
from podman import Podman, Registry, web_server
from pods import manifest
from process import memory, now, wait_until, with_arguments

# The simulated apps, each depends on the ones before it.
CHAIN = ("db", "pos", "menu")
# What a signed good commit is to what there is else; every other commit is one of the rest.
BAD = ("ill", "crash", "broken", "unsigned")
# So long without a commit, in seconds, and the agent is at rest and has given back what it can.
REST = 6.0
# So many samples make the first and the last figure: their median.
ENDS = 12
HEALTH = "health: { startup: 1s, deadline: 10s, soak: 300ms }"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("binary", type=Path)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--every", type=float, default=3.0, help="seconds from a commit to the next one")
    parser.add_argument("--sample", type=float, default=2.0, help="seconds from a sample to the next one")
    parser.add_argument("--seed", type=int, default=1, help="the same seed is the same stream of commits")
    parser.add_argument("--series", type=Path, help="a file for every sample: JSON, a line each")
    parser.add_argument("--no-podman", action="store_true")
    return parser.parse_args()


class Simulated:
    """Two objects in the simulated runtime, and those it depends on."""

    def __init__(self, box, name, after):
        self.box, self.name, self.after = box, name, after

    def put(self, version, kind):
        health = HEALTH.replace("soak", "soaked") if kind == "broken" else HEALTH
        spec = (f"spec:\n  placement: {{}}\n  dependsOn: [{', '.join(self.after)}]\n"
                f"  container: {{ driver: simulated }}\n  {health}\n")
        script = {"ill": "health: unhealthy", "crash": "apply: fail"}.get(kind, "health: healthy")
        marks = f'annotations: {{ version: "{version}", simulated.holdfast.dev/{script} }}'
        objects = [("ConfigMap", f"{self.name}-{version}", "data: { made: once }"),
                   ("Service", self.name, "spec: { ports: [ { port: 80 } ] }")]
        self.box.put(f"apps/{self.name}/app.yaml", document("App", self.name, spec))
        self.box.put(f"apps/{self.name}/manifests/all.yaml", "---\n".join(
            f"apiVersion: v1\nkind: {what}\nmetadata:\n  name: {name}\n  {marks}\n{rest}\n" for what, name, rest in objects))


class Wasm:
    """A service in WebAssembly."""

    name = "hello"

    def __init__(self, box):
        self.box, self.port = box, fleets.free_port()

    def put(self, version, kind):
        text = fleets.COMPONENT.replace(fleets.BODY + "\\n", f"{version}\\n")
        if kind == "ill":
            text = text.replace("(global $health i32 (i32.const 200))", "(global $health i32 (i32.const 503))")
        elif kind == "crash":
            # Either what doesn't even compile, or a trap in each request.
            first = "(local.set $response (call $response"
            text = f"(component {version}" if version % 16 < 8 else text.replace(first, f"unreachable {first}")
        service = fleets.service(self.port)
        self.box.put("apps/hello/app.yaml", document("App", "hello",
                                                     service.replace("soak", "soaked") if kind == "broken" else service))
        self.box.put("apps/hello/files/hello.wat", text)

    def answers(self, version):
        return scenarios.answer(self.port) == str(version)


class Pod:
    """A Deployment on podman, on the box's own network."""

    name = "web"

    def __init__(self, box, registry, program):
        self.box, self.registry, self.program, self.port = box, registry, program, fleets.free_port()

    def put(self, version, kind):
        image = self.registry.push("web", str(version), self.program)
        text = manifest("web", image, self.port, 1)
        if kind == "ill":
            text = text.replace("env: [", 'env: [ { name: HEALTH, value: "503" },')
        elif kind == "crash":
            text = text.replace("          env:", '          args: [exit, "1"]\n          env:')
        health = HEALTH.replace("soak", "soaked") if kind == "broken" else HEALTH
        spec = f"spec:\n  placement: {{}}\n  container: {{ driver: podman }}\n  {health}\n"
        self.box.put("apps/web/app.yaml", document("App", "web", spec))
        self.box.put("apps/web/manifests/all.yaml", text)

    def answers(self, version):
        return scenarios.answer(self.port) == str(version)


class Stream:
    """Commits one change after the other, every other one bad."""

    def __init__(self, box, apps, seed):
        self.box, self.apps, self.random, self.version, self.told = box, apps, random.Random(seed), 0, Counter()

    def all_good(self):
        """A good version of every app; gives the commit and the version."""
        self.version += 1
        for app in self.apps:
            app.put(self.version, "good")
        return self.box.commit(f"Version {self.version} of all"), self.version

    def one(self):
        self.version += 1
        app = self.random.choice(self.apps)
        kind = BAD[self.version // 2 % len(BAD)] if self.version % 2 else "good"
        app.put(self.version, kind)
        self.told[kind] += 1
        if kind == "unsigned":
            run("git", "-C", str(self.box.repository), "add", "-A", env=GIT)
            run("git", "-C", str(self.box.repository), "commit", "-q", "--no-gpg-sign", "-m", "From a stranger", env=GIT)
        else:
            self.box.commit(f"Version {self.version} of {app.name}: {kind}")
        self.box.poll_now()


def sample(box):
    """What there is now. What is removed while it is counted doesn't count."""
    of = memory(box.pid)
    sizes = Counter()
    files = 0
    for folder, _, names in os.walk(box.dir / "state"):
        part = (Path(folder).relative_to(box.dir / "state").parts or (".",))[0]
        for name in names:
            try:
                sizes[part] += os.lstat(os.path.join(folder, name)).st_blocks * 512
                files += 1
            except FileNotFoundError:
                pass
    return {"pss": of["pss"], "anonymous": of["anonymous"], "fds": len(os.listdir(f"/proc/{box.pid}/fd")),
            "threads": of["threads"], "state": sum(sizes.values()), "files": files, "parts": sizes}


def at_rest(box):
    """What there is when nothing was done for a while, after a poll that found nothing new, as between any two."""
    time.sleep(REST)
    box.poll_now()
    time.sleep(REST)
    return sample(box)


def descriptors(pid):
    """What the file descriptors are, by kind."""
    found = Counter()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            to = os.readlink(f"/proc/{pid}/fd/{fd}")
        except FileNotFoundError:
            continue
        found[to.partition(":")[0] if not to.startswith("/") else os.path.basename(to)] += 1
    return found


def slope(points):
    """Least squares: how much the second grows with the first."""
    x, y = statistics.fmean(p[0] for p in points), statistics.fmean(p[1] for p in points)
    below = sum((p[0] - x) ** 2 for p in points)
    return sum((p[0] - x) * (p[1] - y) for p in points) / below if below else 0.0


def bytes_of(size):
    sign, size = ("-" if size < 0 else ""), abs(size)
    return f"{sign}{size / 1e6:.2f} MB" if size >= 1e6 else f"{sign}{size / 1e3:.1f} kB"


ROWS = (("PSS of the agent", "pss", bytes_of), ("of that, anonymous", "anonymous", bytes_of),
        ("file descriptors", "fds", lambda n: f"{n:.4g}"), ("threads", "threads", lambda n: f"{n:.4g}"),
        ("state folder on disk", "state", bytes_of), ("files in it", "files", lambda n: f"{n:.4g}"))


def ends(samples, key):
    count = max(1, min(ENDS, len(samples) // 3))
    return (statistics.median(each[key] for _, each in samples[:count]),
            statistics.median(each[key] for _, each in samples[-count:]))


def table(samples):
    yield "| what | first | last | least and most | slope an hour |\n|---|---|---|---|---|"
    for what, key, written in ROWS:
        first, last = ends(samples, key)
        values = [each[key] for _, each in samples]
        by_hour = slope([(at / 3600, each[key]) for at, each in samples])
        yield f"| {what} | {written(first)} | {written(last)} | {written(min(values))} to {written(max(values))} | {written(by_hour)} |"


def complaints(samples, before, after):
    """What must not grow, whatever the machine. Times are nobody's promise here."""
    first, last = ends(samples, "fds")
    if last > first + 4:
        yield f"file descriptors went from {first} to {last}"
    first, last = ends(samples, "threads")
    if last > first + 4:
        yield f"threads went from {first} to {last}"
    first, last = ends(samples, "state")
    if last > 2 * first + 32e6:
        yield f"the state folder went from {bytes_of(first)} to {bytes_of(last)}"
    # Not PSS: pages of the program come and go with what is done, tens of megabytes of them in a dev build.
    first, last = ends(samples, "anonymous")
    if last > first + 16e6:
        yield f"anonymous memory went from {bytes_of(first)} to {bytes_of(last)}"
    # What sled keeps of a full log is 5 MB.
    if after["anonymous"] > before["anonymous"] + 8e6:
        yield f"at rest, anonymous memory went from {bytes_of(before['anonymous'])} to {bytes_of(after['anonymous'])}"


def soak(box, apps, options):
    """The stream, with samples; gives them from the end of the warm-up on, what was committed, and what there was at
    rest before."""
    stream = Stream(box, apps, options.seed)
    commit, _ = stream.all_good()
    box.start()
    box.events.wait("revision.applied", commit)
    rest = at_rest(box)
    length = options.minutes * 60
    warm, began = min(180.0, length / 4), now()
    due, look, samples, kinds = began, began, [], []
    while now() - began < length:
        if now() >= due:
            stream.one()
            due += options.every
        if now() >= look:
            if box.process.poll() is not None:
                raise RuntimeError(f"the agent ended: {(box.dir / 'agent.log').read_text()[-2000:]}")
            elapsed = now() - began
            if elapsed >= warm:
                samples.append((elapsed, sample(box)))
                if options.series:
                    with open(options.series, "a", encoding="utf-8") as series:
                        series.write(json.dumps({"at": elapsed, **samples[-1][1]}) + "\n")
                kinds = kinds or [descriptors(box.pid)]
            look += options.sample
        time.sleep(max(0.0, min(due, look) - now()))
    kinds.append(descriptors(box.pid))
    return stream, warm, samples, kinds, rest


def settle(box, stream, apps):
    """Whatever was before: a good version of all is applied, answers, and nothing is left beside it."""
    commit, version = stream.all_good()
    box.poll_now()
    box.events.wait("revision.applied", commit, timeout=120)
    for app in apps:
        if hasattr(app, "answers"):
            wait_until(f"version {version} of {app.name}", lambda: app.answers(version))
    left = with_arguments("wasm-run", f"{box.dir}/run/")
    if len(left) != sum(isinstance(app, Wasm) for app in apps):
        raise RuntimeError(f"these processes run WebAssembly at the end: {left}")


def play(binary, options, podman, registry, program):
    more = ""
    if podman:
        more = f"""[drivers.podman]
socket = "{podman.socket}"
run_dir = "{{dir}}/podman"
[registries."{registry.host}"]
plain_http = true
"""
    with Box(binary, device="lab/box", wasm=fleets.runs_wasm(binary), more=more) as box:
        box.put("holdfast.yaml", document("Fleet", "lab"))
        box.put("devices/lab/box.yaml", document("Device", "lab/box"))
        apps = [Simulated(box, name, CHAIN[:index]) for index, name in enumerate(CHAIN)]
        apps += [Wasm(box)] if fleets.runs_wasm(binary) else []
        apps += [Pod(box, registry, program)] if podman else []
        stream, warm, samples, kinds, before = soak(box, apps, options)
        settle(box, stream, apps)
        after = at_rest(box)
        if podman and len(podman.containers()) != 1:
            raise RuntimeError(f"containers at the end: {podman.containers()}")
        log = (box.dir / "agent.log").read_text()
        events = Counter(event["kind"] for _, event in box.events.seen)
        report(stream, warm, samples, kinds, events, apps)
        print("\nat rest, before the stream and after it: " + ", ".join(
            f"{what} {written(before[key])} and {written(after[key])}" for what, key, written in ROWS), flush=True)
        if keep := os.environ.get("HOLDFAST_KEEP"):
            shutil.copytree(box.dir, keep, dirs_exist_ok=True, ignore_dangling_symlinks=True,
                            ignore=lambda *_: {"api.sock", "run", "podman"})
        if "panicked" in log:
            raise RuntimeError("the agent's log tells of a panic")
        return samples, before, after


def report(stream, warm, samples, kinds, events, apps):
    told = ", ".join(f"{count} {kind}" for kind, count in sorted(stream.told.items()))
    print(f"- {sum(stream.told.values())} commits ({told}) of one change each to {', '.join(app.name for app in apps)}")
    print(f"- what came of them: " + ", ".join(f"{kind} {count}" for kind, count in sorted(events.items())))
    print(f"- {len(samples)} samples after {warm:.0f} s; first and last are medians of {min(ENDS, len(samples) // 3)}; the "
          f"slope is that of least squares\n")
    print("\n".join(table(samples)))
    parts = sorted({part for _, each in samples for part in each["parts"]})
    print("\nstate folder, first and last sample: " + ", ".join(
        f"{part} {bytes_of(samples[0][1]['parts'][part])} and {bytes_of(samples[-1][1]['parts'][part])}" for part in parts))
    grown = {kind: (kinds[0][kind], kinds[-1][kind]) for kind in kinds[0] | kinds[-1] if kinds[0][kind] != kinds[-1][kind]}
    print(f"file descriptors that differ between the first and the last sample: {grown or 'none'}", flush=True)


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options = arguments()
    binary = options.binary.resolve()
    about = bench.machine(binary)
    about[-1] = f"- `scripts/soak.sh {options.minutes:g}`"
    tools = ("podman", "runc", "setpriv", "iptables", "docker-registry", "rustc")
    with_podman = os.geteuid() == 0 and all(map(shutil.which, tools)) and not options.no_podman
    with_podman = with_podman and "podman" in fleets.version(binary)
    print("\n".join(about))
    if with_podman:
        program = web_server()
        # Apart from the tests' podman: on the box's own network nothing of it is the whole machine's.
        with Registry(fleets.free_port()) as registry, Podman(alone=False) as podman:
            seen = play(binary, options, podman, registry, program)
    else:
        scenarios.say("without podman")
        seen = play(binary, options, None, None, None)
    grown = list(complaints(*seen))
    for complaint in grown:
        print(f"GROWN: {complaint}", file=sys.stderr)
    return 2 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
