"""The guest test: a Debian guest, the binary under the shipped unit, and what is to be seen of that from outside. Started
by scripts/guest.sh. Ends with 1 if a check fails; each check goes on after another has failed."""

import argparse
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import checks
import podman_tests
from box import Box
from machine import Failed, first_boot


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--first-boot", metavar="BASE")
    parser.add_argument("--base")
    parser.add_argument("--binary")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--podman-tests", nargs=2, metavar=("PROGRAM", "SCRATCH"))
    parser.add_argument("wanted", nargs="*", metavar="CHECK")
    given = parser.parse_args()
    # Whoever ends this ends the guest as well.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    if given.first_boot:
        return first_boot(given.first_boot)
    if given.podman_tests:
        with tempfile.TemporaryDirectory(prefix="holdfast-guest-") as folder:
            program, scratch = given.podman_tests
            sys.exit(0 if podman_tests.run(Path(given.base), program, scratch, given.wanted, Path(folder)) else 1)
    known = checks.ALL
    names = [check.__name__ for check in known]
    if given.list:
        return print("\n".join(f"{check.__name__:40} {check.__doc__.splitlines()[0]}" for check in known))
    if unknown := [want for want in given.wanted if not any(name.startswith(want) for name in names)]:
        sys.exit(f"there is no check {', '.join(unknown)}; there are {', '.join(names)}")
    # Each needs the apps, for which the first one waits.
    wanted = [check for check in known[1:] if not given.wanted or any(map(check.__name__.startswith, given.wanted))]
    wanted = known[:1] + wanted
    folder = Path(tempfile.mkdtemp(prefix="holdfast-guest-"))
    failures, began = [], time.monotonic()
    box = Box(Path(given.base), Path(given.binary), folder)
    try:
        look(box, "boot", lambda: box.set_up(checks.BEFORE, checks.first_commit(box)), failures)
        if not failures:
            for check in wanted:
                look(box, check.__name__, lambda: check(box), failures)
        if failures:
            print(box.tell())
    finally:
        box.close()
        if given.keep:
            print(f"the guest's disk and logs are in {folder}")
        else:
            shutil.rmtree(folder)
    print(f"guest: {len(wanted) + 1 - len(failures)} passed, {len(failures)} failed, in {time.monotonic() - began:.0f} s")
    for name in failures:
        print(f"failed: {name}")
    sys.exit(1 if failures else 0)


def attempt(work, failures, name):
    try:
        work()
        return "ok", ""
    except Failed as error:
        failures.append(name)
        return "FAILED", str(error)
    except Exception:
        failures.append(name)
        return "FAILED", traceback.format_exc()


def look(box, name, work, failures):
    """Looks, and says how long that took: by the clock, and of the guest's processor, which other work on this machine doesn't
    make more."""
    since, spent = time.monotonic(), box.guest.processor_time()
    verdict, why = attempt(work, failures, name)
    print(f"{time.monotonic() - since:5.0f} s, {box.guest.processor_time() - spent:4.0f} s of the processor  {verdict:6}  {name}", flush=True)
    for line in why.splitlines():
        print(f"          {line}", flush=True)


if __name__ == "__main__":
    main()
