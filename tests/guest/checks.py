"""What is looked at, in this order: each check may use what those before it left, and runs without them as well. A check
asks from outside only: pages, `holdfast`, podman, systemd, /proc."""

import json

from box import document
from machine import Failed
from services import ROOT

WASM, BRIDGE, HOST, LOGIN, SLOW = 8081, 8082, 8083, 8084, 8085
# Each folder that a unit may hide from its service.
GATES = ["/home/pos", "/root", "/run/user/0", "/tmp", "/var/tmp", "/run/till", "/dev/shm", "/srv/till", "/var/lib/till"]


def must(holds, why):
    if not holds:
        raise Failed(why)


def probe(**how):
    return {"periodSeconds": 3, "failureThreshold": 5, "timeoutSeconds": 10} | how


def webapp(port, **more):
    return {"env": [{"name": "PORT", "value": str(port)}]} | more


# What must be on the box before the apps come.
BEFORE = "mkdir -p /srv/shop /home/pos && echo shop >/srv/shop/name"


def first_commit(box):
    """All apps at once: their downloads and starts take the same minute, and each check finds its own."""
    check = {"exec": {"target": "Deployment/login", "command": ["/webapp", "read", "/login/word"], "timeout": "60s"}}
    return (wasm_app(box) | bridge_app(box) | host_app(box) | places_app(box) | login_app(box, "first", [check])
            | slow_app(box) | thief_app(box))


def the_apps_are_good(box):
    """WASM, podman with a bridge and with the box's network, every kind of probe, volume and hostPath: all good."""
    names = {"hello", "bridge", "host", "places", "login", "slow"}
    box.wait("the apps are good", lambda: names <= {app["name"] for app in box.status()["apps"] if app["phase"] == "Good"})
    for port in (WASM, BRIDGE, HOST, LOGIN, SLOW):
        box.get(f"http://127.0.0.1:{port}/")
    # A check by a program in the container is asked at each look, and keeps an emulated processor busy all the time.
    box.commit(login_app(box, "first"))


def wasm_app(box):
    return {
        "apps/hello/files/hello.wat": (ROOT / "examples/hello/hello.wat").read_bytes(),
        "apps/hello/app.yaml": document("App", "hello", {
            "placement": {},
            "wasm": {"component": "files/hello.wat", "http": {"listen": f"127.0.0.1:{WASM}"},
                     "dirs": [{"guest": "/data", "volume": "data"}], "limits": {"memory": "64Mi", "cpu": "500m"}},
            "health": {"startup": "15m", "deadline": "30m", "soak": "2s",
                       "checks": [{"http": {"url": f"http://127.0.0.1:{WASM}/"}}]},
        }),
    }


def bridge_app(box):
    # A program in a container costs seconds of an emulated processor, so it isn't asked for often.
    container = webapp(8080) | {
        "ports": [{"containerPort": 8080, "hostPort": BRIDGE}],
        "startupProbe": probe(httpGet={"port": 8080, "path": "/healthz"}, failureThreshold=400),
        "readinessProbe": probe(tcpSocket={"port": 8080}),
        "livenessProbe": probe(exec={"command": ["/webapp", "read", "/version"]}, periodSeconds=30),
    }
    return box.pod("bridge", container) | box.app_of("bridge")


def host_app(box):
    container = webapp(HOST) | {
        "startupProbe": probe(exec={"command": ["/webapp", "read", "/version"]}, failureThreshold=400),
        "readinessProbe": probe(httpGet={"port": HOST, "path": "/healthz"}),
        "livenessProbe": probe(tcpSocket={"port": HOST}),
    }
    return box.pod("host", container, hostNetwork=True) | box.app_of("host")


def places_app(box):
    paths = {
        "dir": ("/srv/shop", "Directory"), "made": ("/srv/new/a", "DirectoryOrCreate"),
        "home": ("/home/pos/data", "DirectoryOrCreate"), "any": ("/var/lib/any", ""), "file": ("/etc/hostname", "File"),
        "filemade": ("/opt/counter", "FileOrCreate"), "socket": ("/run/podman/podman.sock", "Socket"),
        "char": ("/dev/null", "CharDevice"), "block": ("/dev/vda", "BlockDevice"),
    }
    volumes = [{"name": name, "hostPath": {"path": path, "type": kind}} for name, (path, kind) in paths.items()]
    volumes += [{"name": "scratch", "emptyDir": {}}, {"name": "claim", "persistentVolumeClaim": {"claimName": "data"}}]
    mounts = [{"name": name, "mountPath": f"/mnt/{name}"} for name in paths]
    mounts += [{"name": "scratch", "mountPath": "/mnt/scratch", "subPath": "deep/in"},
               {"name": "claim", "mountPath": "/mnt/claim", "subPath": "deep/in"}]
    container = {"args": ["sleep"], "volumeMounts": mounts}
    return (box.pod("places", container, volumes) | box.app_of("places")
            | {"apps/places/manifests/data.yaml": json.dumps(claim("data"))})


def login_app(box, word, checks=()):
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "login"}, "stringData": {"word": word}}
    container = webapp(LOGIN) | {
        "ports": [{"containerPort": LOGIN, "hostPort": LOGIN}],
        "readinessProbe": probe(tcpSocket={"port": LOGIN}),
        "volumeMounts": [{"name": "login", "mountPath": "/login"}],
    }
    container["env"].append({"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "login", "key": "word"}}})
    volumes = [{"name": "login", "secret": {"secretName": "login"}}]
    return (box.pod("login", container, volumes) | box.app_of("login", checks)
            | {"apps/login/manifests/secret.yaml": json.dumps(secret)})


def slow_app(box):
    """It heeds no SIGTERM, for longer than any check waits."""
    container = webapp(SLOW) | {
        "ports": [{"containerPort": SLOW, "hostPort": SLOW}], "readinessProbe": probe(tcpSocket={"port": SLOW})}
    container["env"].append({"name": "IGNORE_TERM", "value": "1"})
    return box.pod("slow", container, terminationGracePeriodSeconds=1800) | box.app_of("slow")


def thief_app(box):
    """At its first start it puts a link to / in the place of its subPath, and ends; later it looks where that leads."""
    script = ("if [ -e /part/etc/shadow ]; then touch /all/out; fi; if [ ! -e /all/was ]; then touch /all/was; "
              "rm -rf /all/part; ln -s / /all/part; exit 1; fi; while true; do sleep 1; done")
    container = {"command": ["/bin/sh", "-c", script],
                 "volumeMounts": [{"name": "all", "mountPath": "/all"},
                                  {"name": "all", "mountPath": "/part", "subPath": "part"}]}
    volumes = [{"name": "all", "persistentVolumeClaim": {"claimName": "loot"}}]
    return (box.pod("thief", container, volumes) | box.app_of("thief")
            | {"apps/thief/manifests/loot.yaml": json.dumps(claim("loot"))})


def claim(name):
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}}


def a_place_is_what_was_asked_for(box):
    """Folders and files for hostPath were made wherever they were named, and a subPath of a claim and of an emptyDir too."""
    box.run("test -d /srv/new/a -a -d /home/pos/data -a -d /var/lib/any -a -f /opt/counter")
    box.run("test -s /srv/state/anchor -a -d /srv/state/wasm/volumes/hello/data -a ! -e /var/lib/holdfast/anchor")
    inside = box.run(f"podman exec {container(box, 'places')['Id']} /bin/busybox sh -c "
                     "'touch /mnt/claim/x /mnt/scratch/x /mnt/made/x /mnt/home/x && cat /mnt/dir/name && ls -d /mnt/*'")
    must("shop" in inside and inside.count("/mnt/") == 11, inside)
    box.run("test -f /srv/new/a/x -a -f /home/pos/data/x")


def probes_of_the_boxs_own_network_succeed(box):
    """A hostNetwork pod with liveness by a port is ready, and isn't started again."""
    # Unknown it is as well, for a moment, where podman is too slow to say.
    box.wait("the app is healthy", lambda: box.app("host")["health"] == "Healthy")
    # Five failures in a row, three seconds apart, would end it.
    box.wait("the pod lives for 45 s: its liveness probe succeeds", lambda: age(box, "host") > 45, 90)


def container(box, app):
    """The app's only one, as podman's service tells it: podman's own program takes seconds to start here."""
    filters = json.dumps({"label": [f"dev.holdfast.app={app}"], "status": ["running"]})
    found = json.loads(box.run("curl -fsSG --max-time 100 --unix-socket /run/podman/podman.sock "
                               f"--data-urlencode 'filters={filters}' http://d/v4.0.0/libpod/containers/json"))
    must(len(found) == 1, f"there should be one container of {app}: {found}")
    return found[0]


def started(box, app):
    found = container(box, app)
    return found["Id"], found["StartedAt"], found["Pid"]


def age(box, app):
    """For how many seconds its container runs."""
    return int(box.run("date +%s")) - container(box, app)["StartedAt"]


def no_link_leads_out_of_a_volume(box):
    """A pod that puts a link to / in the place of its subPath doesn't get the box's root."""
    box.wait("the app's start is refused for its link", lambda: "symbolic link" in json.dumps(box.app("thief")))
    data = "/var/lib/containers/storage/volumes/guest.loot/_data"
    box.run(f"test -e {data}/was -a -L {data}/part")
    must(box.guest.ask(f"test -e {data}/out")[0] != 0, "the container saw the root of the box")


def workloads_have_cgroups_with_limits(box):
    """Each WebAssembly process has a cgroup with the limits of its app, in a unit of its own beside the agent's."""
    own = box.run(f"cat /proc/{box.main_pid()}/cgroup").strip()
    must(own == "0::/system.slice/holdfast.service", own)
    group = wasm_cgroup(box)
    must(group.startswith("/system.slice/holdfast-workloads.service/hello."), group)
    limits = box.run(f"cd /sys/fs/cgroup{group}; cat memory.max cpu.max pids.max").split()
    must(limits == [str((64 + 64) << 20), "70000", "100000", "256"], str(limits))


def wasm_pid(box):
    return box.run("pgrep -f '^[^ ]* wasm-run .*/hello$'").strip()


def wasm_cgroup(box):
    return box.run(f"cat /proc/{wasm_pid(box)}/cgroup").strip().removeprefix("0::")


def the_doctor_sees_what_the_unit_sees(box):
    """The doctor finds nothing wrong with the shipped unit, and tells a stranger that it is permission that is missing."""
    findings = json.loads(box.run("holdfast doctor --json"))
    bad = [finding for finding in findings if finding["state"] != "ok" and finding["check"] != "agent"]
    must(not bad, str(bad))
    for check in ("sandbox", "wasm limits"):
        must(any(finding["check"] == check for finding in findings), f"no finding of {check}: {findings}")
    stranger = box.guest.ask("setpriv --reuid=65534 --regid=65534 --clear-groups holdfast doctor")[1]
    must("only root may" in stranger and "install podman" not in stranger, stranger)


def the_journal_names_the_app(box):
    """The journal's lines of an app can be asked for, and name it."""
    lines = box.run("journalctl -u holdfast HOLDFAST_APP=hello -o cat --no-pager").splitlines()
    must(lines and all(line.startswith("hello: ") for line in lines), str(lines))


def the_units_exposure_is_what_the_documents_say(box):
    """docs/operations.md names the level that `systemd-analyze security` says, and whatever it counts against the unit."""
    text = (ROOT / "docs/operations.md").read_text()
    last = box.run("systemd-analyze security holdfast --no-pager | tail -n 1")
    level = last.split(":")[1].split()[0]
    must(f"exposure level {level}" in text, last)
    counted = [line["name"] for line in json.loads(box.run("systemd-analyze security holdfast --json=short")) if line["exposure"]]
    missing = [name for name in counted if f"`{name.split('=')[0]}=" not in text]
    must(counted and not missing, f"not in docs/operations.md: {missing}")


def change(box, gates, number, files=None):
    """Commits another version of the bridge's app, gates, and what else is to change with it."""
    device = document("Device", "lab/box", {"site": "lab", "policy": {"gates": gates}})
    deployment = json.loads((box.repository.path / "apps/bridge/manifests/bridge.yaml").read_text())
    environment = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
    environment[:] = [one for one in environment if one["name"] != "NUMBER"] + [{"name": "NUMBER", "value": str(number)}]
    box.commit({"devices/lab/box.yaml": device, "apps/bridge/manifests/bridge.yaml": json.dumps(deployment)} | (files or {}))


def without(box, files):
    """What takes these files out of the repository, those that are still in it."""
    return {path: None for path in files if (box.repository.path / path).exists()}


def only_what_converges_and_ends_is_here(box):
    """Removes the app that never gets good and the one that doesn't stop, where the checks that do so didn't run."""
    left = without(box, slow_app(box) | thief_app(box))
    if not left:
        return
    slow = container(box, "slow")["Pid"] if without(box, slow_app(box)) else None
    box.commit(left)
    if slow:
        box.wait("the app is being stopped", lambda: (box.app("slow") or {}).get("phase") == "Removing")
        box.run(f"kill -9 {slow}")
    box.converge()


def answers(box, port):
    return box.guest.ask(f"curl -fs --max-time 20 http://127.0.0.1:{port}/")[0] == 0


def number(box):
    """Which of the changes has come to the bridge's app; nothing before the first."""
    return box.guest.ask(f"curl -fs --max-time 20 http://127.0.0.1:{BRIDGE}/env/NUMBER")[1].strip()


def held(box):
    status = box.status()
    all_held = [one["cause"] for one in status["held"]] + [app["held"]["cause"] for app in status["apps"] if app["held"]]
    return "\n".join(all_held)


def a_gate_holds_in_every_folder(box):
    """A gate's file is seen in every folder, by file and by command, and an HTTP answer counts; what they held comes after."""
    files = [f"{folder}/sale" for folder in GATES]
    box.run("mkdir -p " + " ".join(GATES) + " && touch " + " ".join(files))
    gates = [{"name": f"file{index}", "file": {"path": path}, "maxHold": "1h"} for index, path in enumerate(files)]
    gates += [{"name": f"run{index}", "command": {"run": ["/usr/bin/test", "!", "-e", path], "timeout": "60s"}, "maxHold": "1h"}
              for index, path in enumerate(files)]
    gates += [{"name": "web", "http": {"url": f"http://{box.server.address}/gate"}, "maxHold": "1h"}]
    box.server.gate = 503
    change(box, gates, 1, login_app(box, "second") | without(box, thief_app(box)))
    try:
        cause = box.wait("a gate holds the change", lambda: "file0" in held(box) and held(box))
        missing = [gate["name"] for gate in gates if gate["name"] not in cause]
        must(not missing, f"these gates don't hold: {missing}\n{cause}")
        must(number(box) == "", "the box was changed while in use")
        must(words(box) == ["first", "first"], "the box was changed while in use")
    finally:
        box.run("rm " + " ".join(files))
        box.server.gate = 200
    box.converge()
    must(number(box) == "1", "the change didn't come")


def a_secret_that_changes_reaches_its_container(box):
    """A Secret's new value, which came with the change that the gates held, is in the environment and in the file."""
    if words(box) == ["first", "first"]:
        # No gate held anything before this.
        box.commit(login_app(box, "second"))
        box.wait("the container has another value", lambda: answers(box, LOGIN) and words(box) != ["first", "first"])
    must(words(box) == ["second", "second"], f"the container has {words(box)}")


def words(box):
    """What the app that logs in has of its Secret: in the environment, and as a file."""
    return [box.get(f"http://127.0.0.1:{LOGIN}/{path}").strip() for path in ("env/WORD", "file?/login/word")]


def a_gate_whose_folder_is_hidden_holds(box):
    """With ProtectHome= and PrivateTmp= in the unit, a gate there can't be asked, and holds."""
    box.run("mkdir -p /etc/systemd/system/holdfast.service.d; printf '[Service]\\nProtectHome=yes\\nPrivateTmp=yes\\n' "
            ">/etc/systemd/system/holdfast.service.d/test.conf; systemctl daemon-reload; systemctl restart holdfast", 300)
    paths = ["/home/pos/sale", "/root/sale", "/run/user/0/sale", "/tmp/sale"]
    gates = [{"name": f"file{index}", "file": {"path": path}, "maxHold": "1h"} for index, path in enumerate(paths)]
    change(box, gates, 2, without(box, thief_app(box)))
    cause = box.wait("a gate holds the change", lambda: "file0" in held(box) and held(box))
    missing = [gate["name"] for gate in gates if gate["name"] not in cause]
    must(not missing and "can't see" in cause, f"these gates don't hold: {missing}\n{cause}")
    doctor = box.guest.ask("holdfast doctor")[1]
    must("/home" in doctor and "can't see" in doctor, doctor)
    box.run("rm /etc/systemd/system/holdfast.service.d/test.conf; systemctl daemon-reload; systemctl restart holdfast", 300)
    box.converge()


def what_stops_slowly_keeps_nobody_waiting(box):
    """While one app takes its time to stop, another that was killed comes back."""
    slow = container(box, "slow")["Pid"]
    box.commit(without(box, slow_app(box) | thief_app(box)))
    box.wait("the app is being stopped", lambda: (box.app("slow") or {}).get("phase") == "Removing")
    box.run(f"kill -9 {wasm_pid(box)}")
    box.wait("the killed app answers", lambda: answers(box, WASM))
    must(answers(box, SLOW), "the slow one ended before its time, so this showed nothing")
    box.run(f"kill -9 {slow}")
    box.converge()


def workloads_outlive_the_agent(box):
    """A kill, a restart and another binary leave every workload running, in its cgroup and with its limits."""
    only_what_converges_and_ends_is_here(box)
    before = (wasm_pid(box), started(box, "bridge"), started(box, "host"))
    for how in ("systemctl kill -s KILL --kill-whom=main holdfast", "systemctl restart holdfast",
                "cp /usr/bin/holdfast /usr/bin/holdfast.new && mv /usr/bin/holdfast.new /usr/bin/holdfast && systemctl restart holdfast"):
        agent = box.main_pid()
        box.run(how, 300)
        box.wait("another agent answers", lambda: box.main_pid() not in ("0", agent) and box.status()["running"])
        after = (wasm_pid(box), started(box, "bridge"), started(box, "host"))
        must(after == before, f"{how}: {before} became {after}")
        must(wasm_cgroup(box).startswith("/system.slice/holdfast-workloads.service/"), wasm_cgroup(box))
        limit = box.run(f"cat /sys/fs/cgroup{wasm_cgroup(box)}/memory.max").strip()
        must(limit == str((64 + 64) << 20), f"{how}: memory.max is {limit}")
    box.run(f"kill -9 {wasm_pid(box)}")
    box.wait("the killed app is back", lambda: answers(box, WASM))
    must(wasm_cgroup(box).startswith("/system.slice/holdfast-workloads.service/"), wasm_cgroup(box))
    box.converge()


def the_status_says_that_no_agent_runs(box):
    """With the agent stopped, `status` says so first, and the workloads run on."""
    only_what_converges_and_ends_is_here(box)
    box.run("systemctl stop holdfast")
    text = box.guest.ask("holdfast status")[1]
    must("NOT RUNNING" in "\n".join(text.splitlines()[:2]), text)
    must(json.loads(box.guest.ask("holdfast status --json")[1])["running"] is False, "running isn't false")
    box.get(f"http://127.0.0.1:{WASM}/")
    box.run("systemctl start holdfast", 300)
    box.converge()


def without_a_network_a_reboot_brings_all_back(box):
    """After a reboot with the cable out every app answers. The shutdown doesn't wait for the agent until it has to kill it."""
    only_what_converges_and_ends_is_here(box)
    box.guest.link(False)
    box.guest.reboot()
    last = box.run("journalctl --boot=-1 --unit=holdfast --output=cat --no-pager | tail -n 12")
    must("holdfast.service: Deactivated successfully" in last and "timed out" not in last, last)
    for port in (WASM, BRIDGE, HOST):
        box.wait(f"port {port} answers", lambda: answers(box, port))
    box.guest.link(True)
    box.converge()


def a_power_cut_costs_nothing(box):
    """The power goes in the middle of a change: the box comes to the new commit, and its log is whole."""
    only_what_converges_and_ends_is_here(box)
    change(box, [], 3)
    box.run("sleep 4")
    box.guest.cut_power()
    box.guest.boot()
    box.converge()
    must(number(box) == "3", "the change didn't come")
    box.run("holdfast events verify")


ALL = [
    the_apps_are_good, no_link_leads_out_of_a_volume, a_place_is_what_was_asked_for, workloads_have_cgroups_with_limits,
    the_doctor_sees_what_the_unit_sees, the_journal_names_the_app, the_units_exposure_is_what_the_documents_say,
    probes_of_the_boxs_own_network_succeed, a_gate_holds_in_every_folder, a_secret_that_changes_reaches_its_container,
    a_gate_whose_folder_is_hidden_holds, what_stops_slowly_keeps_nobody_waiting, workloads_outlive_the_agent,
    the_status_says_that_no_agent_runs, without_a_network_a_reboot_brings_all_back, a_power_cut_costs_nothing,
]
