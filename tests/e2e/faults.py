# SPDX-License-Identifier: BSD-2-Clause
"""
What can go wrong in a bed: cables that swallow, one way or both, all of the time or once a second; processes that
stand still; clocks that jump.
"""

import contextlib
import os
import signal
import struct
import threading
import time

import bed as bedlib
from bed import BUILD, BedError, Skip, until
from harness import say


# -- cables

class Cuts:
    """
    What does not come through. A wire is a pair (namespace, interface) at which nothing comes in any more: "link0" at
    b is the way from a to b. heal() takes everything back.
    """

    def __init__(self, bed):
        self.bed, self.now = bed, set()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        with contextlib.suppress(BedError):
            self.heal()

    def cut(self, *wires):
        for wire in wires:
            if wire not in self.now:
                if not self.bed.block(*wire):
                    raise Skip("tc cannot block an interface here (clsact, cls_bpf)")
                self.now.add(wire)

    def heal(self, *wires):
        for wire in wires or list(self.now):
            if wire in self.now:
                self.bed.block(*wire, on=False)
                self.now.discard(wire)

    @staticmethod
    def link(way="both", link=0):
        """Wires between the nodes: "both", or only what goes to "a" or "b"."""
        return [(n, "link%d" % link) for n in ("ab" if way == "both" else way)]

    @staticmethod
    def witness(nodes="ab"):
        """Wires between nodes and the witness, both ways."""
        return [w for n in nodes for w in ((n, "wit0"), ("e", "wit-" + n))]

    @contextlib.contextmanager
    def flapping(self, wires, hertz=1.0):
        """In between these are cut and healed in turns, so many times a second."""
        over, failed = threading.Event(), []

        def work():
            try:
                while not over.is_set():
                    (self.heal if wires[0] in self.now else self.cut)(*wires)
                    over.wait(0.5 / hertz)
            except Exception as e:  # pylint: disable=broad-except
                failed.append(e)
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(10)
            self.heal(*wires)
        if failed:
            raise failed[0]


# -- processes

def children(pid):
    """Processes that a process has started: [(pid, name)]"""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open("/proc/%s/stat" % name, encoding="utf-8", errors="replace") as f:
                text = f.read()
                if int(text.rpartition(")")[2].split()[1]) == pid:
                    found.append((int(name), text[text.index("(") + 1:text.rindex(")")]))
    return found


def process_of(node, which):
    """A node's "lockstep", "qemu" or "qsd" (qemu-storage-daemon)."""
    if which == "lockstep":
        return node.lockstep_process()
    if which == "qemu":
        return node.qemu_process()
    pids = [pid for pid, name in children(node.lockstep_process().pid) if name.startswith("qemu-storage")]
    if len(pids) != 1:
        raise BedError("node %s has %d storage daemons" % (node.name, len(pids)))
    proc = bedlib.Process(pids[0])
    node.bed.procs.append(proc)
    return proc


class Freeze:
    """
    Processes stand still in between. thaws: when they went on, in seconds of CLOCK_REALTIME, which is what the
    sniffer's frames have; begun: when they were stopped, CLOCK_MONOTONIC.
    """

    def __init__(self, *processes):
        self.processes, self.begun, self.thaws = processes, 0.0, []

    def __enter__(self):
        for p in self.processes:
            p.signal(signal.SIGSTOP)
        self.begun = time.monotonic()
        until(lambda: all(stands(p) for p in self.processes), 10, "processes that stand still", every=0.001)
        say("they stand still: %s", ", ".join(str(p.pid) for p in self.processes))
        return self

    def __exit__(self, *exc):
        self.thaws.append(time.time())
        for p in self.processes:
            p.signal(signal.SIGCONT)
        say("they stood still for %.3f s", time.monotonic() - self.begun)


def stands(process):
    """Whether a process stands still, or is none any more."""
    try:
        with open("/proc/%d/stat" % process.pid, encoding="utf-8", errors="replace") as f:
            return f.read().rpartition(")")[2].split()[0] in "TtZX"
    except OSError:
        return True


# -- clocks

class Clock:
    """
    The wall clock of one node's processes. Namespaces have none of their own, and a test must not touch the
    machine's; so clockjump.so, preloaded, adds to what they are told of it by libc what stands in a file. Lockstep
    and QEMU have no other way to ask (tests/unit/e2e/clocks.py makes sure that Lockstep waits for no time of that
    clock).
    """

    def __init__(self, node):
        self.path = os.path.join(node.dir, "clock")
        self.lib = os.path.join(BUILD, "tests", "e2e", "clockjump.so")
        if not os.path.exists(self.lib):
            raise Skip("%s is not built" % self.lib)
        if bedlib.SANITIZED:
            raise Skip("a sanitizer wants to be preloaded first")
        self.jump(0)

    def jump(self, seconds):
        """The wall clock is that many seconds off from now on."""
        with open(self.path, "r+b" if os.path.exists(self.path) else "wb", buffering=0) as f:
            f.write(struct.pack("=q", seconds * 1000000000))
        os.chmod(self.path, 0o644)

    def env(self):
        return {"LD_PRELOAD": self.lib, "CLOCKJUMP_FILE": self.path}
