# SPDX-License-Identifier: BSD-2-Clause
"""What the nodes know of each other: several paths, the same words for both, and what is no death."""

import ctypes
import os
import signal
import threading
import time

from bed import PATIENCE, BedError, Machine, until
from harness import case, must, note, say
from load import Count, Incr, Load, Random, ms

PAUSE = 0.3         # s, less than --timeout
PAUSES = 5
TWO = {"links": 2}


def small():
    return Machine("pc", "virtio-net-pci", mem=256)


def paths(node):
    """[up] of each path as the node's status has them; [] without a peer"""
    beat = (node.status() or {}).get("link", {}).get("heartbeat")
    return [p["up"] for p in beat["paths"]] if beat else []


def still_a_pair(bed):
    must((bed.a.state(), bed.b.state()) == ("protected", "standby"), "a: %s, b: %s", bed.a.state(), bed.b.state())
    for node in (bed.a, bed.b):
        must("failover step" not in node.said() and "level=silent" not in node.said(), "node %s: %s", node.name,
             node.tail(6))


def count(node, text):
    return sum(text in line for line in node.said().splitlines())


@case("again", bed=TWO)
def two_paths(bed):
    """One of two paths is cut: a warning, and nothing else, whichever it is; when it is back that is said, too."""
    bed.b.start("same", small())
    bed.a.start("first", small())
    bed.wait_ready(bed.a)
    bed.wait_protected()
    nodes = (bed.a, bed.b)
    until(lambda: all(paths(n) == [True, True] for n in nodes), 10, lambda: "two paths: %s" % [paths(n) for n in nodes])
    with Load(bed, [Incr("a", depth=4), Count(), Random()]) as load:
        load.wait_answers(10, 20)
        # The link's own path stays cut for no longer than its TCP bears, but three times the silence.
        for path, seconds in ((1, 3.0), (0, 1.5)):
            want = [path != 0, path != 1]
            bed.cut_link(path=path)
            begun = time.monotonic()
            try:
                until(lambda: all(paths(n) == want for n in nodes), 10,
                      lambda: "path %d to be lost: %s" % (path, [paths(n) for n in nodes]), every=0.05)
                for n in nodes:
                    must("heartbeats come over 1 of 2 paths only" in str(n.status()["warnings"]), "no warning: %s",
                         n.status()["warnings"])
                    must("LOST" in n.cli("status", "web").stdout, "status: %s", n.cli("status", "web").stdout)
                time.sleep(max(0, seconds - (time.monotonic() - begun)))
            finally:
                bed.cut_link(on=True, path=path)
            until(lambda: all(paths(n) == [True, True] for n in nodes), 10,
                  lambda: "path %d to be back: %s" % (path, [paths(n) for n in nodes]), every=0.05)
            load.wait_answers(20, 30)
            load.check()
            until(lambda: bed.a.state() == "protected", 20, "protection")
            still_a_pair(bed)
            for n in nodes:
                got = count(n, "path %d (" % path)
                must(got == 2, "node %s says %d things of path %d, not that it is lost and back", n.name, got, path)
                must("heartbeats come over" not in str(n.status()["warnings"]), "a warning is left")
        load.finish()
    beat = bed.a.status()["link"]["heartbeat"]
    note("round trips %s, lost %s", [p["rtt_avg_ms"] for p in beat["paths"]], [p["lost"] for p in beat["paths"]])


@case("again")
def the_same_words(bed):
    """Both nodes are given both addresses: whoever is started first the link comes up, and the dead one comes back."""
    bed.b.start("first", small())  # it connects, and nobody is there
    bed.wait_ready(bed.b)
    must(bed.b.state() == "alone", "node b is %s", bed.b.state())
    bed.a.start("same", small())
    bed.wait_protected(server=bed.b)
    with Load(bed, [Incr("a", depth=2), Count()]) as load:
        load.wait_answers(5, 20)
        bed.kill(bed.b)
        bed.wait_alone(bed.a)
        load.wait_answers(5, 20)
        bed.b.start("same", small())
        bed.wait_protected(60, server=bed.a)
        load.wait_answers(5, 20)
        load.finish()
    note("b began, a took over, b came back by the same words")


@case()
def the_same_words_listener_begins(bed):
    """The VM begins on the node that listens: it waits for the other one to say whether it has the VM, then begins."""
    bed.a.start("first", small())
    bed.wait_ready(bed.a)
    bed.b.start("same", small())
    bed.wait_protected()
    bed.kill(bed.a)
    bed.wait_alone(bed.b)
    # And the VM is the other one's by now: the same command as before must not begin a second one.
    bed.a.start("first", small())
    until(lambda: (bed.a.state(), bed.b.state()) == ("standby", "protected"), 60,
          lambda: "node a standing by (a: %s, b: %s)" % (bed.a.tail(), bed.b.tail()))


@case("liveness", timeout=150)
def a_pause_is_no_death(bed):
    """Each process of each node stands still for 300 ms, five times: nobody takes over, at the default timeout."""
    bed.start_pair(small())
    with Load(bed, [Incr("a", depth=4), Count(), Random()]) as load:
        load.wait_answers(10, 20)
        for turn in range(PAUSES):
            for node in (bed.a, bed.b):
                for which, process in (("lockstep", node.proc), ("qemu", node.qemu_process())):
                    say("turn %d: %s of node %s stands still", turn, which, node.name)
                    process.signal(signal.SIGSTOP)
                    try:
                        time.sleep(PAUSE)
                    finally:
                        process.signal(signal.SIGCONT)
                    load.wait_answers(2, 20)
                    load.check()
                    still_a_pair(bed)
        longest = load.gap()
        load.finish()
    beats = [n.status()["link"]["heartbeat"] for n in (bed.a, bed.b)]
    note("%d pauses, longest gap %s, suspected %s times, frozen %s times", 4 * PAUSES, ms(longest),
         [b["suspect"] for b in beats], [b["frozen"] for b in beats])


class Held:
    """One thread of another process stands still; its process does not, and can be killed."""

    SEIZE, INTERRUPT, DETACH = 0x4206, 0x4207, 17
    WALL = 0x40000000

    def __init__(self, tid):
        self.tid, self.libc = tid, ctypes.CDLL(None, use_errno=True)
        self.libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]

    def _ptrace(self, what):
        if self.libc.ptrace(what, self.tid, None, None) < 0:
            raise BedError("ptrace %#x of thread %d: %s" % (what, self.tid, os.strerror(ctypes.get_errno())))

    def __enter__(self):
        self._ptrace(self.SEIZE)
        self._ptrace(self.INTERRUPT)
        # A killed process is gone only when who traces its thread has taken notice.
        threading.Thread(target=self._reap, daemon=True).start()
        return self

    def _reap(self):
        try:
            while os.WIFSTOPPED(os.waitpid(self.tid, self.WALL)[1]):
                pass
        except ChildProcessError:
            pass

    def __exit__(self, *exc):
        try:
            self._ptrace(self.DETACH)
        except BedError:
            pass  # it is gone


def processor_of(pid):
    """The thread of the guest's only processor: the one that has worked most, as the guest is emulated."""
    def worked(tid):
        with open("/proc/%d/task/%s/stat" % (pid, tid), encoding="utf-8", errors="replace") as f:
            words = f.read().rpartition(")")[2].split()
        return int(words[11]) + int(words[12])
    return int(max((t for t in os.listdir("/proc/%d/task" % pid) if t != str(pid)), key=worked))


def processor_stops(bed, name):
    bed.start_pair(small(), options=["--log-level", "debug"])
    victim, other = (bed.a, bed.b) if name == "a" else (bed.b, bed.a)
    with Load(bed, [Incr("a", depth=2), Count()]) as load:
        load.wait_answers(5, 20)
        with Held(processor_of(victim.qemu_process().pid)):
            begun = time.monotonic()
            bed.wait_alone(other, 12)
            took = time.monotonic() - begun
        load.wait_answers(5, 20)
        load.check()
        victim.proc.wait(20, "node " + victim.name)
        note("alone after %.1f s, longest gap %s", took, ms(load.gap()))
        load.finish()
    return took


@case("liveness")
def stopped_processor_a(bed):
    """
    The guest's processor does not run any more on the node that serves, but QEMU's monitor answers: a hang, by
    --qemu-timeout and not by a checkpoint's much longer deadlines.
    """
    took = processor_stops(bed, "a")
    must("processor 0" in bed.a.said() and "has not run" in bed.a.said(), "node a says: %s", bed.a.tail(8))
    must(took < 8 * PATIENCE, "it took %.1f s", took)


@case("liveness")
def stopped_processor_b(bed):
    processor_stops(bed, "b")
