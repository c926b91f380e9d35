# SPDX-License-Identifier: BSD-2-Clause
"""
Under KVM: the demo, memory that is equal after each checkpoint, and the guest's clock. The suite kvm runs in a machine
that has /dev/kvm: tests/kvm/run.py makes one anywhere. The clock is looked at under TCG too.
"""

import os
import re
import subprocess
import sys
import time

from bed import BUILD, CLIENT_IP, GUEST_IP, PATIENCE, SERVICE_PORT, Machine, Skip, until
from harness import case, must, note, same, say
from load import Ask, Count, Incr, Load, Mixed, Random, ms

CHECKPOINTS = 20
CLOCK_OFF_MS = 100  # that the guest's clock may be off after all of them and a failover
CLOCK_PORTS = (40000, 40009)
QUESTIONS = (20, 60)    # to the clock at least, and at most when the machine is so busy that
PRECISE_MS = 15         # no answer is as precise as this
RATE_MS = 4000      # time in which the rate of a clock is found out
# The clock is different on the two copies. What asks for it is not compared, so that no answer waits for a checkpoint.
CLOCK_RULE = ["--rule", "bypass,proto=tcp,client-port=%d-%d" % CLOCK_PORTS]


def kvm(append=""):
    if not os.path.exists("/dev/kvm"):
        raise Skip("no /dev/kvm")
    return Machine(mem=160, accel="kvm", append=append)


@case("kvm", bed=False, timeout=120)
def kvm_demo():
    kvm()
    logs = os.path.join(os.environ.get("LOCKSTEP_LOGS", os.path.join(BUILD, "e2e-logs")), "kvm_demo")
    demo = os.path.join(os.path.dirname(os.path.abspath(__file__)), "demo.py")
    r = subprocess.run([sys.executable, demo, "--accel", "kvm", "--mem", "160", "--gap-limit", str(PATIENCE), "--logs",
                        logs], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                       check=False)
    say("%s", r.stdout)
    last = (r.stdout.strip().splitlines() or ["nothing"])[-1]
    must(r.returncode == 0, "the demo: %s", last)
    note("%s", last.partition(": ")[2])


def start(bed, machine, options=(), env=None):
    """A protected pair. The secondary joins when the guest has booted, so that only one copy has to."""
    bed.a.start("primary", machine, options, env)
    bed.wait_ready(bed.a)
    bed.b.start("secondary", machine, options, env)
    bed.wait_protected()
    pages = figures(bed.a, "pages")[0]
    say("the first pause took %d pages", pages)
    must(pages < machine.mem * 256 / 2, "the first pause took %d pages, though the guest does nothing", pages)


def checks(node):
    """How often the secondary has found its memory equal to the primary's, and how often not."""
    return [len(re.findall("memcheck: memory " + word, node.said())) for word in ("equal", "differs")]


def memory_equal(bed, machine, n):
    """
    After each of n checkpoints under load, memory as the SVM's QEMU sees it has the hash of the PVM's; and the guest
    that goes on after the failover finds each page of its own as it left it.
    """
    env = {"LOCKSTEP_MEMCHECK": "1"}
    start(bed, machine, env=env)
    with Load(bed, [Incr("a", depth=4), Mixed("m"), Count(), Random(interval=2)]) as load, Ask(bed) as ask:
        same(ask("dirty 500 16"), "ok", "dirty")
        for i in range(n):
            load.wait_answers(3, 20)
            c = bed.a.checkpoint()
            say("checkpoint %d: %s", i + 1, c)
        until(lambda: sum(checks(bed.b)) >= n, 20, lambda: "%d comparisons of memory (%s)" % (n, checks(bed.b)))
        load.check()
        equal, differs = checks(bed.b)
        must(not differs, "memory differed after %d of %d checkpoints", differs, equal + differs)
        pause = until(bed.a.status, 10, "an answer of node a")["checkpoints"]["pause_ms"]["p50"]
        bed.kill(bed.a)
        bed.wait_alone(bed.b)
        load.wait_answers(5, 30)
        same(ask("dirty 0 0"), "ok", "dirty 0 0")
        same(ask("check"), "ok %d" % (16 * 256), "the guest's own pages")
        note("memory equal %d times, pause p50 %.1f ms, gap %s", equal, pause, ms(load.gap()))
        load.finish()


@case("kvm", timeout=120)
def kvm_memory_equal(bed):
    memory_equal(bed, kvm(), 6)


class Clock:
    """The guest's clocks beside ours; asked on connections that nobody compares. All in milliseconds."""

    def __init__(self, bed):
        self.bed, self.port = bed, CLOCK_PORTS[0]
        self.rate = 1.0
        self.start = self.ask()

    def ask(self):
        """
        {"source": name, "uptime": (guest's, ours), "time": (guest's, ours), "error": e}, by the fastest of some
        questions, and of many where none is answered fast. The answer was true at some moment between question and
        answer; error is half of that.
        """
        best = None
        with self.bed.socket() as s:
            s.settimeout(20 * PATIENCE)
            s.bind((CLIENT_IP, self.port))
            self.port += 1
            s.connect((GUEST_IP, SERVICE_PORT))
            with s.makefile("rb") as f:
                for n in range(QUESTIONS[1]):
                    if n >= QUESTIONS[0] and best["error"] < PRECISE_MS:
                        break
                    asked = time.monotonic() * 1000
                    s.sendall(b"clock\n")
                    source, uptime, wall = f.readline().decode().split()
                    took = time.monotonic() * 1000 - asked
                    if not best or took / 2 < best["error"]:
                        ours = asked + took / 2
                        best = {"source": source, "uptime": (int(uptime), ours), "time": (int(wall), ours),
                                "error": took / 2}
        say("the guest's clocks: %s", best)
        return best

    def off(self):
        """How much further the guest's clocks have gone since the start than ours: [monotonic, wall]"""
        now = self.ask()
        must(now["error"] + self.start["error"] < CLOCK_OFF_MS / 2, "the clock cannot be asked precisely enough")
        return [(now[k][0] - self.start[k][0]) / self.rate - (now[k][1] - self.start[k][1]) for k in ("uptime", "time")]

    def find_rate(self):
        """
        A guest whose kernel has measured its tick counter by itself, while the machine was busy, has a clock that goes
        too fast or too slow from its boot on. That rate is nothing to do with checkpoints; from now on it is 1.
        """
        until(lambda: time.monotonic() * 1000 - self.start["uptime"][1] > RATE_MS, 30, "some seconds")
        now = self.ask()
        self.rate = (now["uptime"][0] - self.start["uptime"][0]) / (now["uptime"][1] - self.start["uptime"][1])
        self.start = now


def figures(node, key):
    """A figure of each checkpoint so far, from the primary's log."""
    return [float(x) for x in re.findall(r" checkpoint epoch=.* %s=([0-9.]+)" % key, node.said())]


def clock(bed, machine, source):
    """
    After checkpoints and a failover the guest's clock has gone as far as ours. Under TCG it stands while the VM does:
    then it may be late by the pauses, and for the last checkpoint by the time until the second copy ran; by no more,
    and never early.
    """
    start(bed, machine, CLOCK_RULE)
    guest = Clock(bed)
    same(guest.start["source"], source, "the guest's clock source")
    if machine.accel == "tcg":
        guest.find_rate()
    skip, begun = len(figures(bed.a, "pause_ms")), time.monotonic()
    with Load(bed, [Incr("a", depth=4), Count()]) as load:
        for i in range(CHECKPOINTS):
            load.wait_answers(3, 20)
            say("checkpoint %d: %s", i + 1, bed.a.checkpoint())
            if i % 5 == 4:
                say("off by %.1f ms, %.1f ms (wall clock)", *guest.off())
        served = guest.off()
        bed.kill(bed.a)
        bed.wait_alone(bed.b)
        load.wait_answers(3, 30)
        serves = guest.off()
        load.finish()
    pauses = figures(bed.a, "pause_ms")[skip:]
    late = 0.0
    if machine.accel == "tcg":
        late = sum(pauses) + figures(bed.a, "staged_ms")[-1] + figures(bed.a, "loaded_ms")[-1]
    note("%s, %.0f s: off by %.1f ms (wall clock %.1f) after %d checkpoints, %.1f (%.1f) after the failover, "
         "+- %.1f; the pauses were %.1f ms, the rate of the clock %.4f", source, time.monotonic() - begun, *served[:2],
         len(pauses), *serves, guest.start["error"], sum(pauses), guest.rate)
    for value, limit in [(x, late) for x in serves] + [(x, sum(pauses) if late else 0.0) for x in served]:
        must(-limit - CLOCK_OFF_MS <= value <= CLOCK_OFF_MS, "the guest's clock is off by %.1f ms", value)


@case("kvm", timeout=120)
def kvm_clock_kvmclock(bed):
    clock(bed, kvm(), "kvm-clock")


@case("kvm", timeout=120)
def kvm_clock_tsc(bed):
    clock(bed, kvm("clocksource=tsc"), "tsc")


@case("liveness")
def clock_after_failover(bed):
    clock(bed, Machine(mem=256), "tsc")
