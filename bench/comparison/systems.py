# SPDX-License-Identifier: BSD-2-Clause
"""
The systems under test. All have the same guest, kernel, QEMU, accelerator, CPU and NIC model, the client beside them in
a namespace of its own, and the same client program. colo.py has the fourth.

A system is booted once, measured, and closed. What it cannot do any more it says by Down: it is not what it should be,
and has to be booted anew before anything else is measured.
"""

import contextlib
import json
import os
import signal
import statistics
import subprocess
import time

from bed import BUILD, VM_NAME, Bed, BedError, Machine, until
from load import Ask
from comparison.disk import DiskMachine, put_image
from comparison.events import Events
from comparison.runstate import Trace

CLIENT = os.path.join(BUILD, "bench", "load", "compare-load")
LONG_MS = 20000  # no checkpoint by time within a figure


class Down(BedError):
    """The system is gone, hung, or no longer protected."""


class Running:
    """A load client that runs; result() waits for what it has found."""

    def __init__(self, bed, mode, seconds, patience=10.0, **options):
        words = [CLIENT, mode, "--seconds", str(seconds), "--patience", str(patience)]
        for key, value in options.items():
            words += ["--" + key, str(value)]
        self.limit = seconds + 2 * patience + 20
        self.proc = subprocess.Popen(["ip", "netns", "exec", bed.ns("c")] + words, stdin=subprocess.DEVNULL,
                                     stdout=subprocess.PIPE, text=True)

    def mark(self):
        self.proc.send_signal(signal.SIGUSR1)

    def stop(self):
        self.proc.send_signal(signal.SIGTERM)

    def result(self):
        try:
            out, _ = self.proc.communicate(timeout=self.limit)
        except subprocess.TimeoutExpired as e:
            raise BedError("the client is not at its end after %d s" % self.limit) from e
        finally:
            self.close()
        if self.proc.returncode:
            raise BedError("the client ended with status %d" % self.proc.returncode)
        return json.loads(out)

    def close(self):
        if self.proc.poll() is None:
            self.proc.kill()
            self.proc.wait()


class System:
    """What all have in common; beds: one for each VM that a client talks to."""

    name = title = None
    checkpoints = False  # whether it makes any
    share = 1.0          # of the guest's memory: what it can take of the machine's at most, about

    def __init__(self, setup, disk=False):
        self.setup, self.disk, self.beds = setup, disk, []

    def bed(self, v6=False):
        b = Bed(v6=v6)
        self.beds.append(b)
        if self.disk:
            for node in (b.a, b.b) if self.checkpoints else (b.a,):
                put_image(node, self.setup.disk_mb)
        return b

    def drive(self, _role):
        """The options of the disk for "primary" or "secondary", the same unless the system has its own way."""
        return ["-drive", "file=@DIR@/disk.img,format=raw,if=%s,id=d0" % self.setup.interface]

    def machine(self, extra=(), role="primary"):
        s = self.setup
        if self.disk:
            return DiskMachine(s.machine, s.nic, s.mem, s.accel, extra=list(extra) + self.drive(role))
        return Machine(s.machine, s.nic, s.mem, s.accel, extra=list(extra))

    def fits(self):
        """Raises BedError when the machine has not enough memory left for it; it would take somebody else's."""
        with open("/proc/meminfo", encoding="utf-8") as f:
            free = next(int(x.split()[1]) for x in f if x.startswith("MemAvailable")) // 1024
        need = int(self.share * self.setup.mem) + 512
        if need > free:
            raise BedError("needs %d MB of memory, %d MB are left" % (need, free))

    def start(self, v6=False):
        raise NotImplementedError

    def close(self):
        for b in self.beds:
            b.close()
        self.beds = []

    def check(self):
        """Raises Down when it is not what it should be."""
        for b in self.beds:
            if b.a.proc.ended():
                raise Down("QEMU ended: %s" % b.a.tail())

    def load(self, mode, seconds, **options):
        """
        The client's result; with several VMs the mean of theirs, which were loaded at the same time. Errors that it
        met are raised.
        """
        running = [Running(b, mode, seconds, **options) for b in self.beds]
        try:
            got = [r.result() for r in running]
        finally:
            for r in running:
                r.close()
        for r in got:
            if r["error"] and not r.get("partial"):
                raise BedError(r["error"])
        if len(got) == 1:
            return got[0]
        mean = dict(got[0])
        for key, value in got[0].items():
            if isinstance(value, float):
                mean[key] = sum(r[key] for r in got) / len(got)
        return mean

    # -- checkpoints

    def set_delay(self, ms):
        """The longest time without a checkpoint."""

    def checkpoint(self):
        """Makes one now; returns when it is over."""

    def count(self):
        """How many there have been."""
        return 0

    def standing(self, since):
        """Seconds since that second of the epoch in which a checkpoint kept a copy from running; None: unknown."""
        return None

    def steps(self, _n):
        """{cell: ms} of what the last n pauses were made of, where the system says so."""
        return {}

    # -- what went wrong in the guests

    def panics(self):
        """(the VM's name, how often its kernel has panicked)"""
        return [(name, node.console_said().count("Kernel panic")) for b in self.beds
                for name, node in (("primary", b.a), ("secondary", b.b)) if os.path.exists(node.console)]


class Plain(System):
    """One QEMU at a TAP in a bridge."""

    name, title = "plain", "plain QEMU"

    def start(self, v6=False):
        b = self.bed(v6)
        b.a.start_plain(self.machine())
        b.wait_ready(b.a)


class Two(System):
    """Two of them, each with its client, all at once: what two cores can give to two copies of a VM at most."""

    name, title, share = "two", "two plain QEMUs", 2.0

    def start(self, v6=False):
        for _ in range(2):
            b = self.bed(v6)
            b.a.start_plain(self.machine())
        for b in self.beds:
            b.wait_ready(b.a)


class Lockstep(System):
    """A protected pair. Its pauses are told twice: by itself, and by QEMU's trace as for the others."""

    name, title, checkpoints, share = "lockstep", "Lockstep", True, 2.0

    def start(self, v6=False):
        b = self.bed(v6)
        self.trace = Trace(b.dir)
        b.start_pair(self.machine(self.trace.options()), options=["--checkpoint-delay", str(LONG_MS)])
        # Boot leaves work behind in the guest; the first checkpoint would show it.
        self.events = Events(b.a)
        self.checkpoint()

    def close(self):
        with contextlib.suppress(AttributeError):
            self.events.close()
        super().close()

    def check(self):
        b = self.beds[0]
        for node, role, want in ((b.a, "primary", "protected"), (b.b, "secondary", "standby")):
            if node.proc.ended():
                raise Down("the %s ended: %s" % (role, node.tail()))
            state = node.state()
            if state != want:
                raise Down("the %s is %s: %s" % (role, state, node.tail()))

    def set_delay(self, ms):
        a = self.beds[0].a
        if a.cli("set", VM_NAME, "checkpoint-delay=%d" % ms).returncode:
            raise Down("checkpoint-delay could not be set")

    def checkpoint(self):
        self.beds[0].a.call("checkpoint", VM_NAME, timeout=30)
        until(lambda: self.beds[0].a.status()["state"] == "protected", 10, "the end of the checkpoint")

    def count(self):
        return self.beds[0].a.checkpoints()

    def pauses(self, since):
        """(by trace, reported by itself): ms of each pause since that second of the epoch"""
        own = list(self.events.checkpoints)
        found = [ms for _, ms in self.trace.pauses(self.beds[0].a.qemu_process().pid, since)]
        return found, [c["pause_ms"] for c in own[-len(found):]] if found else []

    def steps(self, n):
        taken = [c["steps_ms"] for c in self.events.checkpoints[-n:]]
        return {k + "_p50_ms": statistics.median(t.get(k) or 0 for t in taken) for k in ("stop", "save", "cont") if taken}

    def standing(self, since):
        n = len(self.trace.pauses(self.beds[0].a.qemu_process().pid, since))
        mine = self.events.checkpoints[-n:] if n else []
        steps = [c["steps_ms"] for c in mine]
        return sum(c["pause_ms"] + sum(s.get(k) or 0 for k in ("gate", "staged", "loaded"))
                   for c, s in zip(mine, steps)) / 1000.0

    def kill_primary(self):
        """Returns when it was sent, as time.monotonic() has it."""
        return self.beds[0].kill(self.beds[0].a, "both")

    def takes_over(self):
        """What is left to do by hand: nothing."""
        self.beds[0].wait_alone(self.beds[0].b)


def ask(system, line, timeout=20.0):
    """One question to the service of each VM; it must be answered by ok."""
    for b in system.beds:
        with Ask(b, timeout=timeout) as a:
            got = a(line)
            if got.split()[0] != "ok":
                raise BedError("%s: %s" % (line, got))


def settle(system, seconds=0.3):
    """Lets what the last figure has left behind come to its end, by asking until answers are quick to come again."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with contextlib.suppress(BedError):
            if system.load("echo", seconds, warm=0, patience=5)["count"]:
                return
    raise Down("no answer for 10 s")
