#!/usr/bin/env python3
"""Measures a holdfast binary from outside and prints a table beside a reference taken in the same run.

Run by scripts/bench.sh. Needs Linux, git and ssh-keygen; nothing beyond Python's standard library."""

import argparse
import os
import platform
import signal
import sys
import time
from pathlib import Path

sys.dont_write_bytecode = True

import fleets
import kubernetes
import pods
import rollback
import scenarios
from box import FOLDER, run
from table import table

ALL = {**scenarios.ALL, "podman": pods.podman, "rollback": rollback.rollback,
       "kubernetes": kubernetes.kubernetes}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("binary", type=Path)
    parser.add_argument("--only", choices=ALL, action="append", help="this scenario; may be repeated")
    parser.add_argument("--part", choices=[part.__name__ for part in pods.PARTS], action="append",
                        help="this part of podman's; may be repeated")
    parser.add_argument("--apps", type=int, default=1000)
    parser.add_argument("--idle", type=int, default=60, help="seconds")
    parser.add_argument("--starts", type=int, default=20)
    parser.add_argument("--changes", type=int, default=5)
    parser.add_argument("--deploys", type=int, default=10)
    parser.add_argument("--rollbacks", type=int, default=10)
    parser.add_argument("--objects", type=int, default=500, help="of the app on Kubernetes")
    parser.add_argument("--rounds", type=int, default=5, help="of the measurements on Kubernetes")
    return parser.parse_args()


def machine(binary):
    """Where the figures are from."""
    cpus = [line.partition(":")[2].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
    total = next(line.split()[1] for line in open("/proc/meminfo") if line.startswith("MemTotal"))
    load = ", ".join(f"{each:.2f}" for each in os.getloadavg())
    kind = run("stat", "-f", "-c", "%T", FOLDER)
    return [
        f"- {time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC; {fleets.version(binary)}",
        f"- {len(cpus)} × {cpus[0] if cpus else platform.machine()}, {int(total) / 1e6:.1f} GB, Linux {platform.release()}, "
        f"{kind} under {FOLDER}; load average at the start {load}",
        f"- `{' '.join(['scripts/bench.sh', *sys.argv[2:]])}`",
    ]


def main():
    # What was set up is taken down as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options = arguments()
    binary = options.binary.resolve()
    about = machine(binary)
    missed = 0
    rows = []
    for name in options.only or ALL:
        scenarios.say(name)
        for row in ALL[name](binary, options):
            scenarios.say(f"  {row.what}: {row.measured or row.reference}")
            rows.append(row)
            missed += row.met is False
    print("\n".join([*about, "", table(rows)]))
    return 2 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
