"""The podman driver's own tests, as they are built on this machine, on the guest's podman. They find what they need where they
were built to find it: by the same paths."""

import subprocess
from pathlib import Path

from machine import Failed, Guest
from services import ROOT, Images, Server

# The guest has no compiler: what the tests have compiled there is brought along.
SCRIPT = """\
set -e
fetch() {{ curl -fsS --retry 60 --retry-delay 1 --retry-all-errors -o "$2" "http://{address}/files/$1"; }}
mkdir -p /opt {sources} {scratch}
fetch tests /opt/on_podman
fetch webapp /opt/webapp
fetch webapp.rs {sources}/webapp.rs
printf '#!/bin/sh\\nwhile [ "$1" != -o ]; do shift; done\\ncp /opt/webapp "$2"\\n' >/opt/rustc
chmod 0755 /opt/*
podman --version
cd /
RUSTC=/opt/rustc TMPDIR=/var/tmp /opt/on_podman --test-threads=1 {filters}
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
        code, said = guest.ask(SCRIPT.format(address=server.address, sources=sources, scratch=Path(scratch),
                                             filters=" ".join(filters or ["conformance::"])), limit=7200)
        print(said)
        return code == 0
    except Failed as error:
        print(error)
        return False
    finally:
        guest.close()
        server.http.shutdown()
