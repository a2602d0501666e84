"""A guest in QEMU: booted, told what to do by a virtio port, cut off from its network or its power."""

import base64
import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

# A busy machine without hardware virtualisation takes minutes for a boot.
BOOT = 900

# What the emulation does slowly, the guest's programs and its kernel do without: wide vectors (sha256 takes half of the time
# in scalars), copies by a byte each turn, page tables of five levels, and what the kernel switches at each way in and out.
# The box is no other for it, and a boot takes 46 s of a processor instead of 66.
PROCESSOR = "max,-avx,-avx2,-xsave,-erms,-fsrm,-la57,-smap,-smep,-pku,-umip"
KERNEL = "root=/dev/vda rw console=ttyS0 quiet mitigations=off"


class Failed(Exception):
    """What was looked at is not as it must be."""


class Guest:
    """Closed, it is gone, and its folder is whoever's made it."""

    def __init__(self, base, folder):
        self.base, self.folder = Path(base), Path(folder)
        self.disk = self.folder / "disk"
        self.number, self.process, self.commands, self.rest = 0, None, None, b""
        self.spent = 0

    def processor_time(self):
        """How many seconds of a processor it took so far, in all its boots."""
        if not self.process:
            return self.spent
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return self.spent + (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def copy_disk(self):
        run = ["cp", "--sparse=always", "--reflink=auto", self.base / "disk", self.disk]
        subprocess.run(run, check=True)

    def boot(self):
        """Switches it on, and waits until it takes commands."""
        for name in ("commands.sock", "qmp.sock"):
            (self.folder / name).unlink(missing_ok=True)
        accelerator = os.environ.get("HOLDFAST_GUEST_ACCELERATOR", "tcg")
        # cache=writeback: what the guest has flushed outlives a kill of QEMU, as it outlives a power cut; nothing else
        # is written behind the guest's back.
        # One processor: before 8.1, QEMU's emulation of several loses code that one of them changes while another runs it, and
        # the guest's kernel, which does so all the time, ends with "Oops: int3" (qemu deba78709a mended it).
        self.process = subprocess.Popen([
            "qemu-system-x86_64", "-M", "q35", "-accel", accelerator, "-cpu", PROCESSOR, "-smp", "1", "-m", "1024",
            "-nodefaults", "-display", "none", "-kernel", self.base / "vmlinuz", "-initrd", self.base / "initrd",
            "-append", KERNEL,
            "-drive", f"file={self.disk},if=virtio,format=raw,cache=writeback",
            "-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,id=nic",
            "-device", "virtio-serial", "-chardev", "socket,id=commands,path=commands.sock,server=on,wait=off",
            "-device", "virtserialport,chardev=commands,name=holdfast.commands",
            "-serial", "file:console.log", "-qmp", "unix:qmp.sock,server=on,wait=off",
        ], cwd=self.folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=open(self.folder / "qemu.log", "a"))
        self.commands, self.rest = self._connect("commands.sock"), b""
        self.wait_for_commands()

    def _connect(self, name):
        # The path of a socket is short; the folder's may not be.
        for _ in range(300):
            if self.process.poll() is not None:
                raise Failed(f"QEMU ended: {(self.folder / 'qemu.log').read_text()[-500:]}")
            client = socket.socket(socket.AF_UNIX)
            here = os.open(self.folder, os.O_PATH)
            try:
                client.connect(f"/proc/self/fd/{here}/{name}")
                return client
            except (FileNotFoundError, ConnectionRefusedError):
                client.close()
                time.sleep(0.1)
            finally:
                os.close(here)
        raise Failed("QEMU doesn't open its sockets")

    def wait_for_commands(self, past=None):
        """Waits until the guest answers; with the name of a boot, until it is another one."""
        until = time.monotonic() + BOOT
        while time.monotonic() < until:
            answer = self._ask("cat /proc/sys/kernel/random/boot_id", 5, patience=10)
            if answer and answer[0] == 0 and answer[1].strip() != past:
                return answer[1].strip()
            if self.process.poll() is not None:
                raise Failed("QEMU ended while the guest booted")
            time.sleep(1)
        raise Failed(f"the guest took no command within {BOOT} s; its console ends with:\n{self.console()}")

    def console(self):
        return (self.folder / "console.log").read_text(errors="replace")[-3000:]

    def _ask(self, script, limit, patience):
        """Exit code and output, or none where no answer comes."""
        self.number += 1
        script = base64.b64encode(script.encode()).decode()
        until = time.monotonic() + patience
        try:
            self.commands.settimeout(patience)
            self.commands.sendall(f"{self.number} {limit} {script}\n".encode())
            while (left := until - time.monotonic()) > 0:
                line, found, rest = self.rest.partition(b"\n")
                if found:
                    self.rest = rest
                    fields = line.decode(errors="replace").split(" ")
                    # What an earlier boot was asked is answered by nobody, or late.
                    if fields[0] == str(self.number) and len(fields) == 3:
                        return int(fields[1]), base64.b64decode(fields[2]).decode(errors="replace")
                    continue
                self.commands.settimeout(left)
                data = self.commands.recv(1 << 16)
                if not data:
                    return None
                self.rest += data
        except (TimeoutError, OSError):
            pass
        return None

    def ask(self, script, limit=120):
        """Exit code and output of a script."""
        answer = self._ask(script, limit, patience=limit + 60)
        if answer is None:
            raise Failed(f"the guest gave no answer to: {script}\nits console ends with:\n{self.console()}")
        return answer

    def run(self, script, limit=120):
        """The output of a script that must end with 0."""
        code, output = self.ask(script, limit)
        if code != 0:
            raise Failed(f"ended with {code}: {script}\n{output}")
        return output

    def link(self, up):
        """Plugs the network cable in, or out."""
        with self._connect("qmp.sock") as client:
            lines = client.makefile("rw")
            lines.readline()
            for word, arguments in (("qmp_capabilities", {}), ("set_link", {"name": "nic", "up": up})):
                lines.write(json.dumps({"execute": word, "arguments": arguments}) + "\n")
                lines.flush()
                answer = json.loads(lines.readline())
                while "event" in answer:
                    answer = json.loads(lines.readline())
                if "error" in answer:
                    raise Failed(f"QEMU refuses {word}: {answer}")

    def reboot(self):
        """Has the guest itself start again."""
        past = self.run("cat /proc/sys/kernel/random/boot_id").strip()
        self._ask("systemctl reboot", 10, patience=10)
        self.wait_for_commands(past)

    def power_off(self):
        """As its own command does."""
        self._ask("systemctl poweroff", 10, patience=10)
        self.process.wait(timeout=300)
        self.close()

    def cut_power(self):
        """Nothing is told to the guest."""
        self.close()

    def close(self):
        if self.process and self.process.poll() is None:
            self.spent = self.processor_time()
            self.process.kill()
            self.process.wait()
        if self.commands:
            self.commands.close()
        self.process = self.commands = None


def first_boot(base):
    """Boots a base as it is, lets the first boot do what it does once, and writes it back."""
    base = Path(base)
    folder = base / "first"
    folder.mkdir()
    guest = Guest(base, folder)
    try:
        guest.disk = base / "disk"
        guest.boot()
        guest.ask("systemctl is-system-running --wait; sync", 900)
        guest.power_off()
    finally:
        guest.close()
    shutil.rmtree(folder)
