"""The podman driver's own tests, as they are built on this machine, on the guest's podman. They find what they need where they
were built to find it: by the same paths."""

import subprocess
import time
from pathlib import Path

from machine import Failed, Guest
from services import ROOT, Images, Server

# The guest has no compiler: what the tests have compiled there is brought along.
INSTALL = """\
set -e
fetch() {{ curl -fsS --retry 60 --retry-delay 1 --retry-all-errors -o "$2" "http://{address}/files/$1"; }}
mkdir -p /opt {sources} {scratch}
fetch tests /opt/on_podman
fetch webapp /opt/webapp
fetch webapp.rs {sources}/webapp.rs
printf '#!/bin/sh\\nwhile [ "$1" != -o ]; do shift; done\\ncp /opt/webapp "$2"\\n' >/opt/rustc
chmod 0755 /opt/*
podman --version
"""

# A service of its own, so that what it says can be asked for while it runs.
START = """\
systemd-run --quiet --unit=tests --service-type=exec --property=RemainAfterExit=yes --working-directory=/ \\
  --property=StandardOutput=file:/var/tmp/said --property=StandardError=file:/var/tmp/said \\
  --setenv=RUSTC=/opt/rustc --setenv=TMPDIR=/var/tmp /opt/on_podman --test-threads=1 {filters}
"""


def run(base, program, scratch, filters, folder):
    """Whether all tests passed that one of the filters names."""
    images = Images(base.parent)
    subprocess.run(["strip", "-o", folder / "tests", program], check=True)
    sources = ROOT / "agent/tests/support"
    server, guest = Server(None, images), Guest(base, folder)
    server.files = {"tests": (folder / "tests").read_bytes(), "webapp": images.webapp.read_bytes(),
                    "webapp.rs": (sources / "webapp.rs").read_bytes()}
    try:
        guest.copy_disk()
        guest.boot()
        print(guest.run(INSTALL.format(address=server.address, sources=sources, scratch=Path(scratch)), limit=300), end="")
        guest.run(START.format(filters=" ".join(filters or ["conformance::"])))
        shown = 0
        while True:
            state = guest.run("systemctl show --property=SubState,ExecMainStatus tests")
            said = guest.run("cat /var/tmp/said")
            print(said[shown:], end="", flush=True)
            shown = len(said)
            if "SubState=running" not in state:
                return "ExecMainStatus=0" in state
            time.sleep(5)
    except Failed as error:
        print(error)
        return False
    finally:
        guest.close()
        server.http.shutdown()
