# SPDX-License-Identifier: BSD-2-Clause
"""Slow, stopped and starved processes: whoever is hung is left behind, and nobody's connection is."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

from bed import SANITIZED, until
from harness import case, must, note, say
from load import Count, Download, Incr, Load, Mixed, Random, Upload, ms
from memgroup import remove_cgroup


NOTICED = 4.0  # s of a stop of 5 s, after which a hung QEMU (--qemu-timeout 3000) must have been noticed


class Throttle:
    """
    A process (all of its threads) gets percent of one CPU: by a cgroup where one can be made, else by stopping and
    continuing it in turns.
    """

    PERIOD = 0.1

    def __init__(self, process, percent):
        self.process, self.percent = process, percent
        self.dir, self.thread, self.end = None, None, threading.Event()

    def __enter__(self):
        name = "lockstep-%d" % os.getpid()
        for base, files in (("/sys/fs/cgroup/cpu", {"cpu.cfs_period_us": "100000",
                                                    "cpu.cfs_quota_us": str(self.percent * 1000)}),
                            ("/sys/fs/cgroup", {"cpu.max": "%d 100000" % (self.percent * 1000)})):
            try:
                if not os.path.exists(base + "/cgroup.procs"):
                    continue
                if "cpu.max" in files:
                    with contextlib.suppress(OSError), open(base + "/cgroup.subtree_control", "w",
                                                            encoding="utf-8") as f:
                        f.write("+cpu")
                self.dir = os.path.join(base, name)
                os.makedirs(self.dir, exist_ok=True)
                for key, value in files.items():
                    with open(os.path.join(self.dir, key), "w", encoding="utf-8") as f:
                        f.write(value)
                with open(os.path.join(base, name, "cgroup.procs"), "w", encoding="utf-8") as f:
                    f.write(str(self.process.pid))
                self.base = base
                say("throttled to %d %% by %s", self.percent, self.dir)
                return self
            except OSError as e:
                say("no cgroup under %s: %s", base, e)
                if self.dir:
                    with contextlib.suppress(OSError):
                        os.rmdir(self.dir)
                self.dir = None
        say("throttled to %d %% by stopping and continuing", self.percent)
        self.thread = threading.Thread(target=self._turns, daemon=True)
        self.thread.start()
        return self

    def _turns(self):
        while not self.end.is_set():
            self.process.signal(signal.SIGSTOP)
            time.sleep(self.PERIOD * (100 - self.percent) / 100)
            self.process.signal(signal.SIGCONT)
            time.sleep(self.PERIOD * self.percent / 100)

    def __exit__(self, *exc):
        if self.thread:
            self.end.set()
            self.thread.join()
        if self.dir:
            with contextlib.suppress(OSError), open(self.base + "/cgroup.procs", "w", encoding="utf-8") as f:
                f.write(str(self.process.pid))
            remove_cgroup(self.dir, 5)


def throttled(bed, seconds):
    """The SVM has 30 % of a CPU: slower, but no stall, and no storm of checkpoints that makes it slower still."""
    bed.start_pair()
    with Load(bed, [Incr("a", depth=2), Mixed("m"), Count(), Incr("slow", interval=0.2)]) as load:
        load.wait_answers(10, 20)
        with Throttle(bed.b.qemu_process(), 30):
            before, answers = bed.a.status()["checkpoints"], load.answers()
            begun = time.monotonic()
            window = 5
            while time.monotonic() - begun < seconds:
                n = [c.answers for c in load.conns]
                time.sleep(window)
                load.check()
                stuck = [c.name for c, m in zip(load.conns, n) if c.answers == m]
                must(not stuck, "no answer in %d s: %s", window, stuck)
            after, answers = bed.a.status()["checkpoints"], load.answers() - answers
            must(bed.a.state() == "protected", "the pair came apart: %s", bed.a.state())
        causes = {k: v - before["by_cause"][k] for k, v in after["by_cause"].items() if v > before["by_cause"][k]}
        note("%d answers in %d s, longest gap %s, checkpoints %s", answers, seconds, ms(load.gap()), causes)
        must(after["total"] - before["total"] <= max(6, seconds // 2), "a storm of checkpoints: %s", causes)
        load.finish()


@case("liveness")
def throttled_secondary(bed):
    throttled(bed, 10)


@case("liveness", timeout=180)
def throttled_secondary_60s(bed):
    throttled(bed, 60)


def stopped(bed, node_name, which):
    """
    One process stands still for 5 s. The connection lives; the other side goes on within its timeout; afterwards one
    node serves, or the pair is as it was, and nothing is wedged.
    """
    bed.start_pair()
    victim = getattr(bed, node_name)
    other = bed.b if victim is bed.a else bed.a
    process = victim.proc if which == "lockstep" else victim.qemu_process()
    with Load(bed, [Incr("a", depth=4), Count(), Random(), Incr("slow", interval=0.1)]) as load:
        load.wait_answers(5, 20)
        for c in load.conns:
            c.gap = 0
        process.signal(signal.SIGSTOP)
        stop = time.monotonic()
        try:
            # The longest of the timeouts that count here is --qemu-timeout: after it somebody must have gone on.
            time.sleep(NOTICED)
            n = load.answers()
            time.sleep(5 - NOTICED)
            during = load.answers() - n
        finally:
            process.signal(signal.SIGCONT)
        until(lambda: load.errors() or settled(bed), 20, lambda: "a settled pair (a: %s, b: %s)" % (
            bed.a.state(), bed.b.state()), every=0.1)
        load.check()
        load.wait_answers(20, 30)
        serving = [n.name for n in (bed.a, bed.b) if not n.proc.ended() and n.state() in ("alone", "protected")]
        must(len(serving) == 1, "who serves: %s", serving)
        note("%d answers before its end, gap %s, settled %.1f s after the stop; a: %s, b: %s", during, ms(load.gap()),
             time.monotonic() - stop, bed.a.state(), bed.b.state())
        must(during > 0, "nobody had gone on %.1f s after %s of node %s began to stand still", NOTICED, which,
             node_name)
        must(other.proc.ended() is False, "node %s ended, it is the other one that stood still", other.name)
        load.finish()


def settled(bed):
    states = tuple("ended" if n.proc.ended() else n.state() for n in (bed.a, bed.b))
    return states in (("protected", "standby"), ("alone", "ended"), ("ended", "alone"))


for _node in "ab":
    for _which in ("qemu", "lockstep"):
        case(*(("e2e", "liveness") if (_node + _which) in ("aqemu", "blockstep") else ("liveness",)),
             name="stopped_%s_%s" % (_which, _node))(
                 lambda bed, n=_node, w=_which: stopped(bed, n, w))


@case()
def heartbeat_stops_but_link_stays(bed):
    """The link goes silent without closing: each node goes on by itself within the timeout, and says so."""
    bed.start_pair(options=["--timeout", "500"])
    bed.cut_link()
    begun = time.monotonic()
    limit = 10 if SANITIZED else 5
    until(lambda: bed.a.state() == "alone" and bed.b.state() == "alone", limit,
          lambda: "both alone (a: %s, b: %s)" % (bed.a.state(), bed.b.state()), every=0.05)
    note("both noticed within %.1f s; this is the split brain that the start warns of", time.monotonic() - begun)
    for node in (bed.a, bed.b):
        must("silent" in node.said(), "node %s does not say why: %s", node.name, node.tail())


@case("liveness", "contention", timeout=180)
def checkpoints_on_a_busy_machine(bed):
    """
    Streams and diverging answers while both CPUs are fought for: every checkpoint must load at the first try, none may
    have caught a device between two states.
    """
    bed.start_pair()
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"], stdin=subprocess.DEVNULL)
               for _ in range(3 * (os.cpu_count() or 1))]
    try:
        with Load(bed, [Incr("a", depth=8), Incr("b", depth=8), Mixed("m", depth=3), Count(), Random(), Upload(1 << 19),
                        Download(1 << 19)]) as load:
            begun = time.monotonic()
            while time.monotonic() - begun < 60:
                time.sleep(0.5)
                load.check()
                must("step failed" not in bed.b.said(), "a checkpoint could not be loaded: %s", bed.b.tail(8))
            must(bed.a.state() == "protected", "node a is %s", bed.a.state())
            note("%d checkpoints, %d answers, longest gap %s", bed.a.checkpoints(), load.answers(), ms(load.gap()))
            for p in burners:
                p.kill()
            load.finish()
    finally:
        for p in burners:
            p.kill()
            p.wait()
