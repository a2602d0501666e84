"""The repositories that are measured: the example fleet, and a box with very many apps."""

import re
import shutil
import socket
from pathlib import Path

from box import Box, document, run

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
COMPONENT = (EXAMPLES / "hello/hello.wat").read_text()
BODY = "Hello from Holdfast"
# What a measurement takes off again: it is asked for, not spent.
SOAK = 0.2
HEALTH = "  health: { startup: 1s, deadline: 60s, soak: 200ms }\n"


def retail(binary):
    """A till of examples/retail: two apps of containers in the simulated runtime, and a WebAssembly service
    instead of a command, so that there is something to ask. Gives the box and the service's port; none when the
    binary was built without WebAssembly."""
    box = Box(binary, wasm=runs_wasm(binary))
    shutil.copytree(EXAMPLES / "retail", box.repository, dirs_exist_ok=True)
    for app in ("db", "pos"):
        path = box.repository / f"apps/{app}/app.yaml"
        path.write_text(simulated(path.read_text()))
    shutil.rmtree(box.repository / "apps/hello")
    if not runs_wasm(binary):
        return box, None
    port = free_port()
    box.put("apps/hello/app.yaml", document("App", "hello", service(port)))
    greet(box, BODY)
    return box, port


def version(binary):
    """Its first line names what is built in."""
    return run(binary, "version").splitlines()[0]


def runs_wasm(binary):
    return "wasm" in version(binary).partition("built with")[2]


def simulated(app):
    """The same app in the simulated runtime, which has no ports to ask."""
    app = re.sub(r"^  health:\n(    .*\n)+", HEALTH, app, flags=re.M)
    app = re.sub(r"^    driver: .*\n", "", app, flags=re.M)
    return re.sub(r"^    namespace: .*\n", r"\g<0>    driver: simulated\n", app, flags=re.M)


def service(port):
    return f"""spec:
  placement: {{}}
  wasm:
    component: files/hello.wat
    http: {{ listen: "127.0.0.1:{port}" }}
    limits: {{ memory: 16Mi, cpu: "1" }}
  health:
    startup: 5s
    deadline: 60s
    soak: 200ms
    checks: [ {{ http: {{ url: "http://127.0.0.1:{port}/healthz" }} }} ]
"""


def greet(box, text):
    """Puts a version of the service that answers with `text` into the next commit."""
    box.put("apps/hello/files/hello.wat", COMPONENT.replace(BODY + "\\n", text + "\\n"))


def many(binary, count):
    """A box with `count` apps, each a ConfigMap in the simulated runtime."""
    box = Box(binary, device="lab/box", wasm=False)
    box.put("holdfast.yaml", document("Fleet", "lab"))
    box.put("devices/lab/box.yaml", document("Device", "lab/box"))
    for number in range(count):
        name = app_name(number)
        container = f"  container: {{ namespace: {name}, driver: simulated }}\n"
        box.put(f"apps/{name}/app.yaml", document("App", name, "spec:\n  placement: {}\n" + container + HEALTH))
        change(box, number, "one")
    return box


def app_name(number):
    return f"app-{number:04}"


def change(box, number, value):
    """Puts a version of that app into the next commit."""
    name = app_name(number)
    text = f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: {name} }}\ndata: {{ value: {value} }}\n"
    box.put(f"apps/{name}/manifests/config.yaml", text)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
