"""What the agent writes to flash: bytes that reach the block layer, and syncs, for a commit that changes nothing here, one
that changes one app, and a first converge of many apps."""

import os
import re
import signal
import statistics
import subprocess
import time
from collections import Counter
from pathlib import Path

import fleets
from process import wait_until, written
from table import Row

# Whatever makes the disk write now. sync_file_range doesn't flush the disk's cache, and is what sled begins with.
SYNCS = ("fsync", "fdatasync", "sync_file_range", "syncfs", "sync", "msync")
COMMITS = 10


class Trace:
    """Counts the syncs of a process, by strace."""

    def __init__(self, box):
        self.file = box.dir / "syncs"
        command = ["strace", "-f", "-y", "-qq", "-e", f"trace={','.join(SYNCS)}", "-o", self.file, "-p", str(box.pid)]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL)
        traced = lambda: "TracerPid:\t0" not in open(f"/proc/{box.pid}/status", encoding="utf-8").read()
        wait_until("strace", traced)
        time.sleep(0.5)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGINT)
        self.process.wait()

    def calls(self):
        """What was synced so far: the call and the file."""
        found = []
        for line in self.file.read_text().splitlines():
            call = re.match(r"\d+ +(\w+)\((?:\d+<([^>]*)>)?", line)
            if call and "resumed" not in line.split("(")[0]:
                found.append((call[1], call[2] or ""))
        return found


def on_a_journal(box):
    """What it logs is the service manager's to write, not the agent's."""
    box.log = Path("/dev/shm") / f"{box.dir.name}.log"
    return box


def named(box, calls):
    """What was synced, without what tells one file of its kind from the next."""
    return [f"{call} of {re.sub('[0-9a-f]{40,}|[0-9]+-[0-9]+', '*', os.path.relpath(path, box.dir))}" for call, path in calls]


def of_commits(box, change, number, label):
    """Bytes and syncs of so many commits, each after the one before it has come to rest."""
    nbytes, syncs, kinds = [], [], Counter()
    with Trace(box) as trace:
        for each in range(number):
            change(each)
            commit = box.commit(f"{label} {each}")
            time.sleep(0.3)
            before, calls, began = written(box.pid)["bytes"], len(trace.calls()), box.poll_now()
            box.events.wait("revision.applied", commit, after=began)
            time.sleep(1.5)
            nbytes.append(written(box.pid)["bytes"] - before)
            new = trace.calls()[calls:]
            syncs.append(len(new))
            kinds.update(named(box, new))
    parts = "; ".join(f"{count / number:.1f} {what}" for what, count in kinds.most_common(12))
    return statistics.median(nbytes), statistics.median(syncs), parts


def flash(binary, options):
    """A fleet of a few apps, all good, and commits."""
    count = min(options.apps, 100)
    box = on_a_journal(fleets.many(binary, count))
    with box:
        first = box.commit("All of them")
        box.start()
        box.events.wait("revision.applied", first)
        time.sleep(3)

        elsewhere = lambda number: box.put("elsewhere/file.txt", f"for somebody else: {number}\n")
        size, syncs, parts = of_commits(box, elsewhere, COMMITS, "For others")
        label = "flash, a commit that changes nothing here:"
        yield Row(f"{label} bytes", f"{size / 1024:.0f} KiB", target="≤ 64 KiB", met=size <= 64 << 10,
                  notes=f"/proc/PID/io, median of {COMMITS}; without the file system's own journal")
        yield Row(f"{label} syncs", f"{syncs:.0f}", target="≤ 4", met=syncs <= 4, notes=parts)

        one = lambda number: fleets.change(box, count // 2, f"text {number}")
        size, syncs, parts = of_commits(box, one, COMMITS, "For one app")
        label = "flash, a commit that changes one app:"
        yield Row(f"{label} bytes", f"{size / 1024:.0f} KiB", notes=f"to Good; median of {COMMITS}")
        yield Row(f"{label} syncs", f"{syncs:.0f}", notes=parts)
    yield from first_converge(binary, options.apps)


def first_converge(binary, count):
    """Many apps at once, on a box that had none."""
    box = on_a_journal(fleets.many(binary, count))
    with box:
        apps, later = box.repository / "apps", box.dir / "later"
        apps.rename(later)
        nothing = box.commit("Nothing yet")
        box.start()
        box.events.wait("revision.applied", nothing)
        later.rename(apps)
        commit = box.commit("All of them")
        with Trace(box) as trace:
            before, calls, began = written(box.pid)["bytes"], len(trace.calls()), box.poll_now()
            box.events.wait("revision.applied", commit, timeout=1200)
            time.sleep(1.5)
            size, new = written(box.pid)["bytes"] - before, trace.calls()[calls:]
    kinds = Counter(named(box, new))
    parts = "; ".join(f"{times} {what}" for what, times in kinds.most_common(8))
    label = f"flash, first converge of {count:,} apps:"
    yield Row(f"{label} bytes an app", f"{size / count / 1024:.1f} KiB")
    yield Row(f"{label} syncs an app", f"{len(new) / count:.2f}", target="≤ 4", met=len(new) <= 4 * count, notes=parts)
