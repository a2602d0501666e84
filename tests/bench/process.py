"""What /proc says of a process: memory, CPU, wake-ups, bytes written; and the clocks it is measured on."""

import os
import time
from collections import defaultdict


def now():
    """Seconds on the boot clock, the one that the agent's own stamps are on."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _read(pid, name):
    with open(f"/proc/{pid}/{name}", encoding="utf-8", errors="replace") as file:
        return file.read()


def _fields(text):
    """`Name:   value unit` lines as a dict of the first word of each value."""
    found = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        words = value.split()
        if words:
            found[name] = words[0]
    return found


def memory(pid):
    """PSS and its parts, RSS and its peak, in bytes."""
    rollup, status = _fields(_read(pid, "smaps_rollup")), _fields(_read(pid, "status"))
    size = lambda fields, name: int(fields.get(name, 0)) * 1024
    return {
        "pss": size(rollup, "Pss"),
        "anonymous": size(rollup, "Pss_Anon"),
        "file": size(rollup, "Pss_File"),
        "rss": size(status, "VmRSS"),
        "peak": size(status, "VmHWM"),
        "threads": int(status["Threads"]),
    }


def mappings(pid):
    """PSS in bytes by what is mapped; `anonymous` for what has no name."""
    by_name, name = defaultdict(int), "anonymous"
    for line in _read(pid, "smaps").splitlines():
        words = line.split()
        if words and words[0] == "Pss:":
            by_name[name] += int(words[1]) * 1024
        elif words and "-" in words[0] and not words[0].endswith(":"):
            name = os.path.basename(words[5]) if len(words) > 5 else "anonymous"
    return dict(by_name)


def written(pid):
    """Bytes that reached the block layer, bytes handed to write(), and how many such calls."""
    io = _fields(_read(pid, "io"))
    return {"bytes": int(io["write_bytes"]), "handed": int(io["wchar"]), "calls": int(io["syscw"])}


def threads(pid):
    """By thread: its name, seconds on a CPU, and how often it was woken."""
    found = {}
    for task in os.listdir(f"/proc/{pid}/task"):
        try:
            nanoseconds = int(_read(pid, f"task/{task}/schedstat").split()[0])
            status = _fields(_read(pid, f"task/{task}/status"))
            name = _read(pid, f"task/{task}/comm").strip()
        except (FileNotFoundError, ProcessLookupError):
            continue  # It ended meanwhile.
        found[task] = (name, nanoseconds / 1e9, int(status["voluntary_ctxt_switches"]))
    return found


def threads_between(before, after):
    """CPU seconds and wake-ups by thread name, of what ran in between."""
    by_name = defaultdict(lambda: [0.0, 0])
    for task, (name, seconds, woken) in after.items():
        _, seconds_then, woken_then = before.get(task, (name, 0.0, 0))
        by_name[name][0] += seconds - seconds_then
        by_name[name][1] += woken - woken_then
    return {name: tuple(sums) for name, sums in by_name.items()}


def cpu(pid):
    """CPU seconds of all threads, those that ended among them; exact to 10 ms."""
    fields = _read(pid, "stat").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def with_arguments(*wanted):
    """The processes in whose command line each of `wanted` is an argument or the beginning of one."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            arguments = _read(pid, "cmdline").split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if all(any(argument.startswith(text) for argument in arguments) for text in wanted):
            found.append(int(pid))
    return sorted(found)


def children(pid):
    """The processes that `pid` started and that are still its own."""
    found = []
    for other in filter(str.isdigit, os.listdir("/proc")):
        try:
            parent = int(_read(other, "stat").rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == pid:
            found.append(int(other))
    return found


def wait_until(what, check, timeout=60.0, every=0.005):
    """What `check` gives as soon as it is true. The error says what was waited for."""
    end = now() + timeout
    while True:
        found = check()
        if found:
            return found
        if now() > end:
            raise TimeoutError(f"waited {timeout:.0f} s for {what}")
        time.sleep(every)
