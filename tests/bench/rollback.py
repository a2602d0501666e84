"""A bad release: from the failing verdict to HTTP 200 of the good version, by stage, on WebAssembly and on podman.

The reference is what the workload itself needs to stop and start, without an agent, in the same run."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from datetime import datetime

import fleets
import scenarios
from box import Box, document
from podman import Podman, Registry, web_server
from pods import Shop, answers, manifest
from process import now, wait_until
from table import Row, spread

# What it may take beyond the workload's own stop and start, in seconds.
BEYOND = 5.0
GOOD = "the good version"


def rollback(binary, options):
    """Both runtimes."""
    if fleets.runs_wasm(binary):
        yield from of_wasm(binary, options.rollbacks)
    tools = ("podman", "runc", "setpriv", "iptables", "docker-registry", "rustc")
    if os.geteuid() != 0 or not all(map(shutil.which, tools)) or "podman" not in fleets.version(binary):
        scenarios.say("  the part with podman is left out: it needs root, and what scripts/setup-tests.sh installs")
        return
    program = web_server()
    for strategy in ("stop-start", "start-stop"):
        with Registry(fleets.free_port()) as registry, Podman() as podman:
            yield from of_podman(binary, options.rollbacks, strategy, podman, registry, program)


def told(box, since):
    """When the agent wrote down each thing, on the boot clock: its log has milliseconds. The last of each kind since
    then, but for the plan: there it is the first after the verdict."""
    found, offset = {}, time.time() - now()
    for line in (box.dir / "agent.log").read_text().splitlines():
        match = re.match(r"(\S+Z) .*?(?:kind=(app\.\w+)|: (plan) app=)", line)
        if match is None:
            continue
        at = datetime.fromisoformat(match[1]).timestamp() - offset
        name = match[2] or match[3]
        # A line's time is cut to milliseconds.
        if at < since - 0.002 or (name == "plan" and ("app.failed" not in found or "plan" in found)):
            continue
        found[name] = at
    return found


def one(box, app, port, good):
    """A commit whose release is bad is there: polls for it, and gives when each stage of its way back was reached."""
    began = box.poll_now()
    # Nobody is told of the verdict before the way back is done: the port is asked all the time.
    wait_until("the bad version", lambda: scenarios.answer(port) not in (None, good), every=0.001)
    box.events.wait("app.applied", app=app, after=began)
    wait_until("the good version", lambda: scenarios.answer(port) == good, every=0.001)
    answered = now()
    box.events.wait("app.rolledback", app=app, after=began)
    stages = told(box, began)
    return {"verdict": stages["app.failed"], "plan": stages["plan"], "answered": answered,
            "back": stages["app.rolledback"]}


def rows(label, runs, between, reference, what, notes):
    for name, first, last, told_by in between:
        took = [each[last] - each[first] for each in runs if first in each and last in each]
        if took:
            yield Row(f"{label}: {name}", spread(took), notes=told_by)
    whole = [each["answered"] - each["verdict"] for each in runs]
    worst, own = max(whole), max(reference)
    yield Row(f"{label}: failing verdict to HTTP 200 of the good version", spread(whole),
              target=f"< {BEYOND:.0f} s beyond the reference", met=worst < own + BEYOND,
              reference=f"{what}: {spread(reference)}", notes=f"{len(runs)} runs; {notes}; peers promise five minutes")


def of_wasm(binary, count):
    with Box(binary, device="lab/box", wasm=True) as box:
        port = fleets.free_port()
        box.put("holdfast.yaml", document("Fleet", "lab"))
        box.put("devices/lab/box.yaml", document("Device", "lab/box"))
        service = fleets.service(port).replace("startup: 5s", "startup: 300ms")
        box.put("apps/hello/app.yaml", document("App", "hello", service))
        fleets.greet(box, GOOD)
        commit = box.commit("The good version")
        box.start()
        box.events.wait("revision.applied", commit)
        scenarios.say(f"{count} bad releases on WebAssembly")
        runs, reference = [], []
        for number in range(count):
            text = fleets.COMPONENT.replace(fleets.BODY + "\\n", f"bad version {number}\\n")
            text = text.replace("(global $health i32 (i32.const 200))", "(global $health i32 (i32.const 503))")
            box.put("apps/hello/files/hello.wat", text)
            box.commit(f"Bad version {number}")
            time.sleep(0.5)
            runs.append(one(box, "hello", port, GOOD))
            reference.append(plain_start(box, number))
        between = (
            ("look, plan", "verdict", "plan", "from the verdict in the agent's log to its plan there"),
            ("stop the bad, start the good, answer", "plan", "answered", "to the first 200 of the good version"),
        )
        yield from rows("rollback on WASM", runs, between, reference,
                        "the same component's process, stopped and started by hand, to its 200", "code compiled before")


def plain_start(box, number):
    """The reference: one process of the same component stops and the next one starts, with nobody but us to wait for.
    Gives the seconds from the word to stop to the 200."""
    port, folder = fleets.free_port(), box.dir / f"plain-{number}"
    folder.mkdir(mode=0o700)
    mark = json.loads((box.dir / "run/hello/workload.json").read_text())
    code = max((path for path in (box.dir / "state/wasm/compiled").iterdir() if path.stat().st_size > 4096),
               key=lambda path: path.stat().st_mtime)
    order = {
        "mark": {key: mark[key] for key in ("device", "app", "release", "spec")}, "code": str(code),
        "workload": {"component": mark["spec"], "args": [], "env": {}, "http": {"listen": f"127.0.0.1:{port}"}, "dirs": [],
                     "limits": {"memory": 16 << 20, "cpuMillis": 1000}, "restart": "always"},
        "dir": str(folder), "volumes": str(folder), "outcome": str(folder / "outcome"), "user": None,
    }
    first = serve(box, order, port)
    began = now()
    first.send_signal(signal.SIGTERM)
    first.wait()
    second = serve(box, order, port)
    took = now() - began
    second.kill()
    second.wait()
    return took


def serve(box, order, port):
    """A workload's process that answers, as the driver starts one."""
    process = subprocess.Popen([box.binary, "wasm-run", order["dir"]], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    process.stdin.write(json.dumps(order) + "\n")
    process.stdin.flush()
    if "loaded" not in (line := process.stdout.readline()):
        raise RuntimeError(f"the process said {line!r}")
    process.stdin.write("go\n")
    process.stdin.flush()
    wait_until("the plain process", lambda: scenarios.answer(port) is not None, every=0.001)
    return process


def of_podman(binary, count, strategy, podman, registry, program):
    with Shop(binary, podman, registry, program) as shop:
        box, port, other = shop.box, fleets.free_port(), fleets.free_port()
        shop.put("pos", "1", port, strategy=strategy, period=1)
        commit = box.commit("The good version")
        box.start()
        box.events.wait("revision.applied", commit)
        podman.cli("kube", "play", shop.by_hand("1", other))
        wait_until("the version by hand", lambda: answers(other, "1"))
        name = next(each["Names"][0] for each in podman.containers() if "by-hand" in each["Names"][0] and not each["IsInfra"])
        scenarios.say(f"{count} bad releases on podman, {strategy}")
        runs, reference = [], []
        for number in range(count):
            # Ready, so that it takes the place of the good one; what the app's own check asks for isn't there.
            app = (box.repository / "apps/pos/app.yaml").read_text()
            check = f"checks: [ {{ http: {{ url: \"http://127.0.0.1:{port}/healthz\" }} }} ]"
            if "checks:" not in app:
                box.put("apps/pos/app.yaml", app.replace("soak:", f"{check}, soak:", 1))
            bad = manifest("pos", shop.image(f"bad-{number}"), port, 1).replace("path: /healthz", "path: /")
            box.put("apps/pos/manifests/all.yaml", bad.replace("env: [", 'env: [ { name: HEALTH, value: "503" },'))
            box.commit(f"Bad version {number}")
            time.sleep(0.5)
            wall = time.time() - now()
            runs.append({**one(box, "pos", port, "1"), **done(podman, wall, "pos")})
            reference.append(stop_and_start(podman, name, other))
        label = f"rollback on podman, {strategy}"
        between = [("look, plan", "verdict", "plan", "from the verdict in the agent's log to its plan there")]
        if strategy == "stop-start":
            between += [
                ("make the good one anew but for the exec", "plan", "init", "to podman's event: init; the bad one answers"),
                ("stop the bad", "init", "kill", "to podman's event of the signal"),
                ("start the good, answer", "kill", "answered", "to the first 200 of the good version"),
            ]
        else:
            between += [("make the good one anew, beside the bad", "plan", "start", "to podman's event: started"),
                        ("answer", "start", "answered", "to the first 200 of the good version")]
        yield from rows(label, select(runs), between, reference, "podman stop and podman start of such a container, to its 200",
                        "host network, image at hand")


def done(podman, wall, name):
    """podman's events: of each kind, all the times."""
    found = {}
    for at, action, of in podman.events():
        if of.startswith(name):
            found.setdefault(action, []).append(at - wall)
    return found


def select(runs):
    """Of podman's events, the first of each kind after the plan."""
    chosen = []
    for each in runs:
        flat = {key: value for key, value in each.items() if not isinstance(value, list)}
        for kind in ("init", "kill", "start"):
            after = [at for at in each.get(kind, []) if at >= each["plan"] - 0.002]
            if after:
                flat[kind] = min(after)
        chosen.append(flat)
    return chosen


def stop_and_start(podman, name, port):
    began = now()
    podman.cli("stop", "--time", "5", name)
    podman.cli("start", name)
    wait_until("the container by hand", lambda: answers(port, "1"), every=0.001)
    return now() - began
