"""A steady load on one port, as a process of its own: `load.py PORT SECONDS CLIENTS RATE`.

Each client asks at its own beat, whatever became of the request before, by a new connection each time. Prints JSON:
how many were asked, how many got no 200, the longest time without an answer in seconds, and when each version was
first heard."""

import json
import socket
import sys
import threading
import time

REQUEST = b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"


def ask(port):
    """The body of the answer with status 200; None for anything else."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as stream:
            stream.sendall(REQUEST)
            answer = b""
            while part := stream.recv(4096):
                answer += part
    except OSError:
        return None
    head, _, body = answer.partition(b"\r\n\r\n")
    return body if head.startswith(b"HTTP/1.1 200") else None


def client(port, until, pause, heard):
    due = time.monotonic()
    while due < until:
        time.sleep(max(0.0, due - time.monotonic()))
        body = ask(port)
        heard.append((time.monotonic(), body))
        # One that waited long doesn't make up for it.
        due = max(due + pause, time.monotonic() - pause)


def main():
    port, seconds, clients, rate = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    sys.setswitchinterval(0.001)
    began = time.monotonic()
    heard = [[] for _ in range(clients)]
    threads = [
        threading.Thread(target=client, args=(port, began + seconds, clients / rate, each)) for each in heard
    ]
    for thread in threads:
        thread.start()
    print("asking", flush=True)
    for thread in threads:
        thread.join()
    everything = sorted(entry for each in heard for entry in each)
    answered = [at for at, body in everything if body is not None]
    gaps = [after - before for before, after in zip(answered, answered[1:])]
    print(json.dumps({
        "asked": len(everything),
        "lost": len(everything) - len(answered),
        "gap": max(gaps, default=seconds),
        "versions": sorted({body.decode() for _, body in everything if body is not None}),
    }))


if __name__ == "__main__":
    main()
