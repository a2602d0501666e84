"""What is measured. Each scenario sets up boxes of its own and adds its rows to the table."""

import http.client
import os
import shutil
import statistics
import subprocess
import sys
import time

import flash
import fleets
import scale
from box import GIT, run
from process import (
    children, cpu, mappings, memory, now, threads, threads_between, wait_until, written,
)
from table import Row, megabytes, milliseconds, spread

# Threads that the last work left behind end by themselves after 10 s.
SETTLE = 12


def say(text):
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def idle(binary, options):
    """The example fleet, converged, and nobody touches it."""
    box, port = fleets.retail(binary)
    with box:
        commit = box.commit("The fleet")
        box.start()
        box.events.wait("revision.applied", commit)
        wait_until("the service", lambda: port is None or answer(port) == fleets.BODY)
        time.sleep(SETTLE)
        yield from idle_memory(box)
        yield from idle_cpu(box, options.idle)
        yield from idle_writes(box)


def idle_memory(box):
    # A workload's process is the agent's child until the agent is started anew.
    agent = [box.pid, *(set(children(box.pid)) - set(box.workloads()))]
    found = [memory(pid) for pid in agent]
    total = {key: sum(each[key] for each in found) for key in found[0]}
    largest = sorted(mappings(box.pid).items(), key=lambda item: -item[1])[:4]
    parts = ", ".join(f"{name} {megabytes(size)}" for name, size in largest)
    python = memory(os.getpid())
    yield Row("idle: PSS of the agent and its children", megabytes(total["pss"]),
              reference=f"this Python: {megabytes(python['pss'])}", target="≤ 10 MB",
              met=total["pss"] <= 10e6,
              notes=f"processes: {len(agent)}; RSS {megabytes(total['rss'])}, peak {megabytes(total['peak'])}; {parts}")
    for pid in box.workloads():
        of = memory(pid)
        yield Row("idle: PSS of the WASM workload's process", megabytes(of["pss"]),
                  notes=f"RSS {megabytes(of['rss'])}, {of['threads']} threads; counts for the workload")
    yield Row("idle: threads of the agent", str(total["threads"]))


def idle_cpu(box, seconds):
    """Between two polls, which are five minutes apart."""
    say(f"idle for {seconds} s")
    before, began = threads(box.pid), now()
    time.sleep(seconds)
    spent = threads_between(before, threads(box.pid))
    elapsed = now() - began
    share = sum(each[0] for each in spent.values()) / elapsed * 100
    woken = sum(each[1] for each in spent.values()) / elapsed
    busy = [f"{name} {ran * 1000:.1f} ms and {count}" for name, (ran, count) in
            sorted(spent.items(), key=lambda item: -item[1][1]) if count or ran]
    yield Row("idle: share of one core", f"{share:.4f} %", target="< 0.1 %", met=share < 0.1,
              notes=f"over {elapsed:.0f} s")
    yield Row("idle: wake-ups a second", f"{woken:.2f}", target="≤ 1", met=woken <= 1,
              notes="CPU and wake-ups by thread: " + ("; ".join(busy) or "none"))


def idle_writes(box, passes=10):
    """SIGHUP is a poll and a pass over everything. Nobody is asked meanwhile: an answer is a write too."""
    before, folder, began = written(box.pid), snapshot(box.dir), cpu(box.pid)
    for _ in range(passes):
        box.poll_now()
        time.sleep(0.5)
    polled = box.status()["source"]["lastPoll"]
    after, spent = written(box.pid), (cpu(box.pid) - began) / passes
    touched = {path for path, _ in snapshot(box.dir).items() ^ folder.items()}
    changed = sorted(str(path.relative_to(box.dir)) for path in touched)
    nbytes = after["bytes"] - before["bytes"]
    yield Row(f"idle: bytes written in {passes} passes", str(nbytes), target="0",
              met=nbytes == 0 and not changed,
              notes=f"files whose time, size or inode changed: {', '.join(changed) or 'none'}; last poll {polled}; "
                    f"write() calls {after['calls'] - before['calls']} with {after['handed'] - before['handed']} bytes "
                    "(wake-ups by eventfd, and the answer to this question)")
    yield Row("idle: CPU of one pass", milliseconds(spent))


def snapshot(folder):
    """Everything in the agent's folders, with what a write would change."""
    found = {}
    for top in ("state", "runtime", "run", "podman", "agent.log"):
        paths = [folder / top, *(folder / top).rglob("*")]
        for path in paths:
            if path.exists():
                stat = path.lstat()
                found[path] = (stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino)
    return found


def start(binary, options):
    """From before the agent is started to the first call of a driver, with the source gone."""
    box, _ = fleets.retail(binary)
    with box:
        yield from starts(box, options.starts, "start: to the first driver call", "≤ 100 ms")
    reference = []
    for _ in range(options.starts):
        before = now()
        subprocess.run(["/bin/true"], check=True)
        reference.append(now() - before)
    yield Row("start: reference", "", reference=f"/bin/true, start to end: {spread(reference)}")


def starts(box, runs, name, target):
    commit = box.commit("The fleet")
    box.start()
    box.events.wait("revision.applied", commit, timeout=600)
    took = restarts(box, runs)
    middle = statistics.median(took)
    yield Row(name, spread(took), target=target, met=middle <= 0.1 if target else None,
              notes=f"{runs} starts, source away, from before fork() to the call")


def restarts(box, runs):
    away = box.dir / "edge.away"
    box.stop()
    box.repository.rename(away)
    took = []
    try:
        for _ in range(runs):
            lines = len(box.driver_log())
            before = box.start(follow=False)
            wait_until("the first driver call", lambda: len(box.driver_log()) > lines)
            first = box.driver_log()[lines]
            if first["pid"] != box.pid:
                raise RuntimeError(f"another process called the driver: {first}")
            took.append(first["uptime"] - before)
            wait_until("the agent's socket", lambda: (box.dir / "api.sock").exists())
            time.sleep(0.2)
            box.stop()
    finally:
        box.stop()
        away.rename(box.repository)
    return took


def thousand(binary, options):
    """Very many apps on one box."""
    count = options.apps
    say(f"{count} apps")
    box = fleets.many(binary, count)
    with box:
        commit = box.commit("All of them")
        began = box.start()
        first = box.events.wait("revision.applied", commit, timeout=1200) - began
        label = f"{count:,} apps:"
        bound = 15 * count / 1000
        yield Row(f"{label} first converge", f"{first:.2f} s", target=f"≤ {bound:g} s", met=first <= bound,
                  reference=f"one fsync of 4 KiB: {spread(syncs(box.dir))}",
                  notes=f"agent's start to all Good, {fleets.SOAK} s soak in it; CPU {cpu(box.pid):.2f} s")
        time.sleep(SETTLE)
        yield from many_passes(box, label)
        yield from many_changes(box, label, count, options.changes)
        of = memory(box.pid)
        yield Row(f"{label} peak memory", megabytes(of["peak"]), notes=f"VmHWM; afterwards PSS {megabytes(of['pss'])}")
        took = restarts(box, max(3, options.starts // 4))
        yield Row(f"{label} start to the first driver call", spread(took), notes="source away")


def syncs(folder, runs=100):
    """The reference for whatever must be on disk before it is done: how long the disk takes for a little."""
    took = []
    with open(folder / "synced", "wb", buffering=0) as file:
        for _ in range(runs):
            file.write(bytes(4096))
            before = now()
            os.fsync(file.fileno())
            took.append(now() - before)
    return took


def many_passes(box, label, passes=10):
    spent, bytes_before = cpu(box.pid), written(box.pid)["bytes"]
    for _ in range(passes):
        box.poll_now()
        time.sleep(1.5)
    spent = (cpu(box.pid) - spent) / passes
    nbytes = written(box.pid)["bytes"] - bytes_before
    took = []
    for _ in range(passes):
        last, began = box.status()["source"]["lastPoll"], box.poll_now()
        wait_until("the poll", lambda: box.status()["source"]["lastPoll"] != last, every=0.01)
        took.append(now() - began)
        time.sleep(1)
    yield Row(f"{label} a pass without a change", spread(took),
              notes=f"SIGHUP to the first answer that tells of it; CPU {milliseconds(spent)} a pass with every look at "
                    f"health; {nbytes} bytes written in {passes}")


def many_changes(box, label, count, runs):
    took, spent = [], []
    for number in range(runs):
        fleets.change(box, count // 2 + number, "two")
        commit = box.commit(f"Change {number}")
        time.sleep(1)
        before, began = cpu(box.pid), box.poll_now()
        took.append(box.events.wait("revision.applied", commit) - began - fleets.SOAK)
        time.sleep(1)
        spent.append(cpu(box.pid) - before)
    yield Row(f"{label} a change of one, to Good", spread(took),
              notes=f"{runs} runs, SIGHUP to revision.applied less the soak; CPU {milliseconds(statistics.median(spent))}")


def deploy(binary, options):
    """From SIGHUP, with the commit there, to the answer of the new version."""
    if not fleets.runs_wasm(binary):
        return
    box, port = fleets.retail(binary)
    stages = {"accepted": [], "applied": [], "first 200 of the new version": [], "Good, less the soak": []}
    reference = []
    with box:
        commit = box.commit("The fleet")
        box.start()
        box.events.wait("revision.applied", commit)
        say(f"{options.deploys} deploys")
        for number in range(options.deploys):
            text = f"Hello, this is version {number}"
            fleets.greet(box, text)
            commit = box.commit(text)
            time.sleep(0.5)
            began = box.poll_now()
            wait_until(text, lambda: answer(port) == text, every=0.001)
            answered = now() - began
            wait = box.events.wait
            stages["accepted"].append(wait("revision.accepted", commit) - began)
            stages["applied"].append(wait("app.applied", app="hello", after=began) - began)
            stages["first 200 of the new version"].append(answered)
            stages["Good, less the soak"].append(wait("app.good", app="hello", after=began) - began - fleets.SOAK)
            reference.append(by_hand(box, text))
    for name, took in stages.items():
        row = Row(f"deploy: SIGHUP to {name}", spread(took))
        if name.startswith("first"):
            row.reference = f"git clone --depth 1 and python3 -m http.server, to its 200: {spread(reference)}"
            row.notes = f"{options.deploys} runs; fetch, verify, render, compile text by Cranelift, start"
        yield row


def by_hand(box, text):
    """The reference: a shallow clone of the same repository, and a plain server that answers from it."""
    clone, port = box.dir / "clone", fleets.free_port()
    began = now()
    run("git", "clone", "-q", "--depth", "1", f"file://{box.repository}", clone, env=GIT)
    command = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "-d", str(clone), str(port)]
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until("the server", lambda: text in (answer(port, "/apps/hello/files/hello.wat") or ""), every=0.001)
        return now() - began
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(clone)


def answer(port, path="/"):
    """What answers with 200 at this port of the loopback; None if nothing does."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read().decode()
        return body.strip() if response.status == 200 else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def sizes(binary, _):
    """The binary, and the one without WebAssembly beside it if somebody built it."""
    plain = binary.with_name(f"{binary.name}-no-wasm")
    for path in (binary, plain):
        if path.exists():
            limit = 27 if fleets.runs_wasm(path) else 15.5
            size = path.stat().st_size
            yield Row(f"size: {path.name}", megabytes(size), target=f"≤ {limit} MB", met=size <= limit * 1e6,
                      reference=f"git: {megabytes(os.stat(shutil.which('git')).st_size)}", notes=fleets.version(path))


ALL = {
    "sizes": sizes, "idle": idle, "start": start, "apps": thousand, "deploy": deploy, "scale": scale.scale,
    "flash": flash.flash,
}
