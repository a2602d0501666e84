"""Containers on podman, beside what podman's own command line needs for the same manifest on the same podman.

Each part takes a podman of its own, so that tests that wait for theirs get a turn in between. Needs root, and what
scripts/setup-tests.sh installs."""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import fleets
import scenarios
from box import Box, document
from podman import Podman, Registry, web_server
from process import children, memory, now, threads, threads_between, wait_until
from table import Row, megabytes, milliseconds, spread

APPS = 10
# Requests a second of the steady load, by so many clients.
RATE, CLIENTS = 400, 4
# A known peer from a changed manifest to an answer, in seconds (issue 4 names it).
PEER = (0.3, 0.6)


def podman(binary, options):
    """All of it."""
    tools = ("podman", "runc", "setpriv", "iptables", "docker-registry", "rustc")
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing or os.geteuid() != 0:
        why = f"there is no {', '.join(missing)}: run scripts/setup-tests.sh" if missing else "it needs root"
        scenarios.say(f"  the part with podman is left out: {why}")
        return
    program = web_server()
    for part in PARTS:
        if options.part and part.__name__ not in options.part:
            continue
        scenarios.say(f"podman: {part.__doc__}")
        with Registry(fleets.free_port()) as registry, Podman() as podman:
            yield from part(binary, options, podman, registry, program)


class Shop:
    """A box with podman, and apps of one Deployment each on the box's own network."""

    def __init__(self, binary, podman, registry, program):
        self.podman, self.registry, self.program, self.images = podman, registry, program, {}
        more = f"""[drivers.podman]
socket = "{podman.socket}"
run_dir = "{{dir}}/podman"
[registries."{registry.host}"]
plain_http = true
"""
        self.box = Box(binary, device="lab/box", wasm=fleets.runs_wasm(binary), more=more)
        self.box.put("holdfast.yaml", document("Fleet", "lab"))
        self.box.put("devices/lab/box.yaml", document("Device", "lab/box"))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.box.stop()
        # Its containers go with the podman.
        shutil.rmtree(self.box.dir)

    def image(self, version):
        if version not in self.images:
            self.images[version] = self.registry.push("pos", version, self.program)
        return self.images[version]

    def put(self, name, version, port, strategy="stop-start", period=10):
        """Puts a version of an app into the next commit."""
        self.box.put(f"apps/{name}/app.yaml", document("App", name, f"""spec:
  placement: {{}}
  container: {{ driver: podman }}
  health: {{ startup: 1s, deadline: 60s, soak: {int(fleets.SOAK * 1000)}ms }}
  update: {{ strategy: {strategy} }}
"""))
        self.box.put(f"apps/{name}/manifests/all.yaml", manifest(name, self.image(version), port, period))

    def local(self, version):
        """What that image is called in podman's store since an app ran it."""
        _, _, name = self.images[version].rpartition("/")
        return f"localhost/holdfast/{self.registry.host.replace(':', '-')}/{name.replace('@sha256:', ':')}"

    def by_hand(self, version, port):
        """The manifest for `podman kube play`: the same, with the image by its name in the store."""
        path = self.box.dir / f"by-hand-{version}.yaml"
        path.write_text(manifest("by-hand", self.local(version), port, 10))
        return path


def manifest(name, image, port, period):
    return f"""apiVersion: apps/v1
kind: Deployment
metadata: {{ name: {name} }}
spec:
  selector: {{ matchLabels: {{ app: {name} }} }}
  template:
    metadata: {{ labels: {{ app: {name} }} }}
    spec:
      hostNetwork: true
      terminationGracePeriodSeconds: 5
      containers:
        - name: {name}
          image: {image}
          imagePullPolicy: IfNotPresent
          env: [ {{ name: PORT, value: "{port}" }} ]
          readinessProbe: {{ httpGet: {{ path: /healthz, port: {port} }}, periodSeconds: {period} }}
"""


def answers(port, version):
    return scenarios.answer(port) == version


def ten(shop):
    """Ten apps in the next commit; gives their ports."""
    ports = [fleets.free_port() for _ in range(APPS)]
    for number, port in enumerate(ports):
        shop.put(f"app-{number}", "1", port)
    return ports


def idle(binary, options, podman, registry, program):
    """ten apps, and nobody touches them"""
    with Shop(binary, podman, registry, program) as shop:
        box = shop.box
        ports = ten(shop)
        commit = box.commit("Ten apps")
        box.start()
        box.events.wait("revision.applied", commit)
        for port in ports:
            wait_until("the app", lambda: answers(port, "1"))
        time.sleep(scenarios.SETTLE)
        first = memory(box.pid)["pss"]
        # As it is between any two polls.
        box.poll_now()
        time.sleep(scenarios.SETTLE)
        yield from idle_memory(box, podman, first)
        yield from idle_cpu(box, podman, options.idle)
        for row in scenarios.idle_writes(box):
            row.what = row.what.replace("idle:", "podman, ten apps idle:")
            yield row


def idle_memory(box, podman, first):
    agent = [memory(pid) for pid in [box.pid, *children(box.pid)]]
    total = {key: sum(each[key] for each in agent) for key in agent[0]}
    service = memory(podman.service.pid)
    conmons = [memory(pid)["pss"] for pid in podman.conmons()]
    yield Row("podman, ten apps idle: PSS of the agent and its children", megabytes(total["pss"]), target="≤ 8 MB",
              met=total["pss"] <= 8e6,
              reference=f"podman's own service: {megabytes(service['pss'])}",
              notes=f"processes: {len(agent)}, threads: {total['threads']}; anonymous {megabytes(total['anonymous'])}, "
                    f"peak RSS {megabytes(total['peak'])}; before the second poll {megabytes(first)}; {len(conmons)} conmons {megabytes(sum(conmons))}; a known peer "
                    "needs 13.6 MB for one app")


def idle_cpu(box, podman, length):
    """Between two polls, which are five minutes apart."""
    scenarios.say(f"idle for {length} s")
    pids = (box.pid, podman.service.pid)
    before, began = [threads(pid) for pid in pids], now()
    time.sleep(length)
    spent = [threads_between(then, threads(pid)) for then, pid in zip(before, pids)]
    elapsed = now() - began
    share, service = (sum(each[0] for each in of.values()) / elapsed * 100 for of in spent)
    woken = sum(each[1] for each in spent[0].values()) / elapsed
    busy = "; ".join(f"{name} {ran * 1000:.1f} ms and {count}" for name, (ran, count) in
                     sorted(spent[0].items(), key=lambda item: -item[1][1]) if count or ran)
    yield Row("podman, ten apps idle: share of one core", f"{share:.4f} %", target="< 0.1 %", met=share < 0.1,
              reference=f"podman's own service: {service:.4f} %",
              notes=f"over {elapsed:.0f} s, an http readiness probe of each app every 10 s among it; a known peer needs 3 % "
                    "for one app")
    yield Row("podman, ten apps idle: wake-ups a second", f"{woken:.2f}", notes=f"CPU and wake-ups by thread: {busy}")


def at_hand(shop, ports, by_hand):
    """Has both versions run once, so that their images are in podman's store."""
    for version in ("1", "2"):
        for name, port in ports.items():
            shop.put(name, version, port)
        commit = shop.box.commit(f"Version {version}")
        if shop.box.process is None:
            shop.box.start()
        else:
            shop.box.poll_now()
        shop.box.events.wait("revision.applied", commit)
        shop.podman.cli("kube", "play", "--replace", shop.by_hand(version, by_hand))
        wait_until("the version by hand", lambda: answers(by_hand, version))


def deploy(binary, options, podman, registry, program):
    """from a commit to the answer of the new version"""
    with Shop(binary, podman, registry, program) as shop:
        box, port, other = shop.box, fleets.free_port(), fleets.free_port()
        at_hand(shop, {"pos": port}, other)
        scenarios.say(f"{options.deploys} deploys")
        stages, reference, ended, committed = [], [], [], []
        for number in range(options.deploys):
            version = str(1 + number % 2)
            shop.put("pos", version, port)
            before = now()
            commit = box.commit(version)
            committed.append(now() - before)
            time.sleep(0.5)
            stages.append(one_deploy(box, podman, commit, port, version))
            answered, end = play(podman, shop.by_hand(version, other), other, version)
            reference.append(answered)
            ended.append(end)
            time.sleep(0.5)
        among = deploy_among_ten(shop, podman, port, options.deploys)
    yield from deploy_rows(stages, reference, ended, committed)
    yield Row("podman deploy: the same among ten other apps", spread(among), notes="SIGHUP to first 200 of the new version")


def deploy_among_ten(shop, podman, port, runs):
    """Every pass looks at every app."""
    ten(shop)
    commit = shop.box.commit("Ten more")
    shop.box.poll_now()
    shop.box.events.wait("revision.applied", commit)
    took = []
    for number in range(runs):
        version = str(1 + (runs + number) % 2)
        shop.put("pos", version, port)
        commit = shop.box.commit(version)
        time.sleep(0.5)
        took.append(one_deploy(shop.box, podman, commit, port, version)["answered"])
    return took


def one_deploy(box, podman, commit, port, version):
    wall = time.time() - now()
    began = box.poll_now()
    wait_until(version, lambda: answers(port, version), every=0.001)
    answered = now() - began
    accepted = box.events.wait("revision.accepted", commit) - began
    good = box.events.wait("app.good", app="pos", after=began) - began - fleets.SOAK
    box.events.wait("revision.applied", commit)
    # podman writes down what was done to containers. The first of each kind is the update's.
    told = {}
    for at, action, name in podman.events():
        if at - wall >= began and name.startswith("pos"):
            told.setdefault(action, at - wall - began)
    return {"accepted": accepted, "answered": answered, "good": good, **told}


def deploy_rows(stages, reference, ended, committed):
    between = (
        ("fetch and verify", None, "accepted", "to revision.accepted, as a client hears of it"),
        ("render, resolve, look, prepare", "accepted", "create", "to podman's event: created"),
        ("make all but the exec", "create", "init", "to podman's event: init; the old version answers"),
        ("stop", "init", "kill", "to podman's event of the signal"),
        ("start", "kill", "start", "to podman's event: the old process is gone, the new one started"),
        ("answer", "start", "answered", "to the 200 of the new version"),
    )
    for name, first, last, notes in between:
        took = [each[last] - (each[first] if first else 0.0) for each in stages if last in each and (not first or first in each)]
        if took:
            yield Row(f"podman deploy: {name}", spread(took), notes=notes)
    answered = [each["answered"] for each in stages]
    middle, theirs = statistics.median(answered), statistics.median(reference)
    yield Row("podman deploy: SIGHUP to first 200 of the new version", spread(answered),
              reference=f"podman kube play --replace, to its 200: {spread(reference)}, best {milliseconds(min(reference))}; to its "
                        f"end {spread(ended)}",
              target=f"< {PEER[0]:.1f} s, and the reference", met=middle < min(PEER[0], theirs),
              notes=f"{theirs / middle:.1f} times as fast, {min(reference) / middle:.1f} times as its best; {len(stages)} alternations of two images at hand, host network, "
                    f"stop-start; git commit before it: {spread(committed)}; a known peer needs {PEER[0]} to {PEER[1]} s")
    yield Row("podman deploy: SIGHUP to Good, less the soak", spread([each["good"] for each in stages]))


def play(podman, path, port, version):
    """`podman kube play --replace`: until the new version answers, and until it ends."""
    with open(podman.dir / "play.log", "ab") as log:
        began = now()
        process = subprocess.Popen(podman.command("kube", "play", "--replace", path), env=podman.environment,
                                   stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    wait_until(f"version {version} by hand", lambda: answers(port, version), every=0.001)
    answered = now() - began
    if process.wait() != 0:
        raise RuntimeError(f"podman kube play: {(podman.dir / 'play.log').read_text()[-1000:]}")
    return answered, now() - began


def load(binary, options, podman, registry, program):
    """an update under a steady load"""
    with Shop(binary, podman, registry, program) as shop:
        box = shop.box
        apps = ("stop-start", "start-stop")
        ports = {name: fleets.free_port() for name in (*apps, "by hand")}
        at_hand(shop, {name: ports[name] for name in apps}, ports["by hand"])
        found = {name: [] for name in ports}
        for number in range(options.deploys):
            version = str(1 + number % 2)
            for name in apps:
                shop.put(name, version, ports[name], strategy=name)
                commit = box.commit(f"{name} {version}")
                with Load(ports[name], 4) as asking:
                    time.sleep(0.5)
                    box.poll_now()
                    box.events.wait("revision.applied", commit)
                found[name].append(asking.found(version))
            with Load(ports["by hand"], 6) as asking:
                time.sleep(0.5)
                podman.cli("kube", "play", "--replace", shop.by_hand(version, ports["by hand"]))
            found["by hand"].append(asking.found(version))
        at_rest = []
        for name in apps:
            with Load(ports[name], 4) as asking:
                pass
            at_rest.append(asking.found(None))
    hand = told(found["by hand"])
    for name in apps:
        lost = sum(each["lost"] for each in found[name])
        row = Row(f"podman update under load, {name}", told(found[name]),
                  reference=f"podman kube play --replace: {hand}" if name == apps[0] else "",
                  notes=f"{options.deploys} updates, each under {RATE} requests a second by {CLIENTS} clients, each by a new "
                        f"connection; without an update: {told(at_rest)}")
        if name == "start-stop":
            row.target, row.met, row.notes = "none lost", lost == 0, "host network, the app listens with SO_REUSEPORT"
        yield row


def told(found):
    lost = [each["lost"] for each in found]
    gaps = [each["gap"] for each in found]
    return f"{sum(lost)} of {sum(each['asked'] for each in found)} lost, longest gap {spread(gaps)}"


class Load:
    """Asks a port for so many seconds, from a process of its own."""

    def __init__(self, port, length):
        command = [sys.executable, "-B", Path(__file__).with_name("load.py"), str(port), str(length), str(CLIENTS), str(RATE)]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)

    def __enter__(self):
        self.process.stdout.readline()
        return self

    def __exit__(self, *_):
        self.text = self.process.communicate()[0]

    def found(self, version):
        found = json.loads(self.text)
        if version is not None and version not in found["versions"]:
            raise RuntimeError(f"version {version} never answered: {found}")
        return found


def start(binary, options, podman, registry, program):
    """ten apps from nothing, and after a power cut"""
    runs = max(3, options.starts // 5)
    first, back, by_hand = [], [], []
    for _ in range(runs):
        with Shop(binary, podman, registry, program) as shop:
            box = shop.box
            ports = ten(shop)
            commit = box.commit("Ten apps")
            began = box.start()
            for port in ports:
                wait_until("the app", lambda: answers(port, "1"))
            first.append(now() - began)
            box.events.wait("revision.applied", commit)
            power_cut(box, podman)
            podman.serve()
            began = box.start(follow=False)
            for port in ports:
                wait_until("the app", lambda: answers(port, "1"))
            back.append(now() - began)
            power_cut(box, podman)
            podman.serve()
            names = [container["Names"][0] for container in podman.containers()]
            began = now()
            podman.cli("start", *names)
            for port in ports:
                wait_until("the app", lambda: answers(port, "1"))
            by_hand.append(now() - began)
            podman.cli("rm", "--all", "--force", "--time", "0")
            podman.cli("rmi", "--all", "--force")
    yield Row("podman: first start of ten apps", spread(first),
              notes=f"{runs} runs: the agent's start with nothing on the box to the last 200; one image of "
                    f"{megabytes(len(program))} from the registry on the loopback")
    yield Row("podman: ten apps after a power cut", spread(back),
              reference=f"podman start of the ten containers: {spread(by_hand)}",
              notes="the agent's start to the last 200, podman's service running, the source there")


def power_cut(box, podman):
    """The agent goes as hard as the rest."""
    box.process.kill()
    box.process.wait()
    box.process = box.events = None
    podman.power_cut()


PARTS = (idle, deploy, load, start)
