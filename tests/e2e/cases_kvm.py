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

from bed import BUILD, PATIENCE, VM_NAME, Machine, Skip, until
from harness import case, must, note, same, say
from load import Ask, Count, Incr, Load, Mixed, Random, ms

CHECKPOINTS = 20
CLOCK_OFF = 0.1     # s that the guest's clock may be off after all of them and a failover
CLOCK_PORTS = (40000, 40009)
# The clock is different on the two copies. What asks for it is not compared, so that no answer waits for a checkpoint.
CLOCK_RULE = ["--rule", "bypass,proto=tcp,client-port=%d-%d" % CLOCK_PORTS]


def kvm(append=""):
    if not os.path.exists("/dev/kvm"):
        raise Skip("no /dev/kvm")
    return Machine(mem=256, accel="kvm", append=append)


@case("kvm", bed=False, timeout=120)
def kvm_demo():
    kvm()
    logs = os.path.join(os.environ.get("LOCKSTEP_LOGS", os.path.join(BUILD, "e2e-logs")), "kvm_demo")
    demo = os.path.join(os.path.dirname(os.path.abspath(__file__)), "demo.py")
    r = subprocess.run([sys.executable, demo, "--accel", "kvm", "--mem", "256", "--gap-limit", str(PATIENCE), "--logs",
                        logs], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                       check=False)
    say("%s", r.stdout)
    last = (r.stdout.strip().splitlines() or ["nothing"])[-1]
    must(r.returncode == 0, "the demo: %s", last)
    note("%s", last.partition(": ")[2])


def checks(node):
    """How often the secondary has found its memory equal to the primary's, and how often not."""
    return [len(re.findall("memcheck: memory " + word, node.said())) for word in ("equal", "differs")]


def memory_equal(bed, machine, n):
    """
    After each of n checkpoints under load, memory as the SVM's QEMU sees it has the hash of the PVM's; and the guest
    that goes on after the failover finds each page of its own as it left it.
    """
    env = {"LOCKSTEP_MEMCHECK": "1"}
    bed.start_pair(machine, a_env=env, b_env=env)
    tracker = (re.search(r"written pages[^\n]*", bed.a.said()) or [""])[0]
    with Load(bed, [Incr("a", depth=4), Mixed("m"), Count(), Random(interval=0.2)]) as load, Ask(bed) as ask:
        same(ask("dirty 2000 32"), "ok", "dirty")
        for i in range(n):
            load.wait_answers(3, 20)
            c = bed.a.call("checkpoint", VM_NAME, timeout=30)
            say("checkpoint %d: %s", i + 1, c)
        until(lambda: sum(checks(bed.b)) >= n, 20, lambda: "%d comparisons of memory (%s)" % (n, checks(bed.b)))
        load.check()
        equal, differs = checks(bed.b)
        must(not differs, "memory differed after %d of %d checkpoints", differs, equal + differs)
        pause = bed.a.status()["checkpoints"]["pause_ms"]["p50"]
        bed.kill(bed.a)
        bed.wait_alone(bed.b)
        load.wait_answers(5, 30)
        same(ask("dirty 0 0"), "ok", "dirty 0 0")
        same(ask("check"), "ok %d" % (32 * 256), "the guest's own pages")
        note("memory equal %d times, pause p50 %.1f ms, gap %s%s", equal, pause, ms(load.gap()), tracker)
        load.finish()


@case("kvm", timeout=120)
def kvm_memory_equal(bed):
    memory_equal(bed, kvm(), 10)


class Clock:
    """What the guest's clocks are ahead of this process's; each on a connection of its own that nobody compares."""

    def __init__(self, bed):
        self.bed, self.port = bed, CLOCK_PORTS[0]

    def ask(self):
        """
        {"uptime": s, "time": s, "error": s}: the guest's clock minus ours, at the moment of the fastest of some
        questions; the answer was true at some time of that, error is half of it.
        """
        s = self.bed.socket()
        s.settimeout(20 * PATIENCE)
        s.bind((self.bed_ip(), self.port))
        self.port += 1
        s.connect((self.guest_ip(), 7000))
        f, got = s.makefile("rb"), {"error": 0.0}
        for what in ("uptime", "time"):
            best = None
            for _ in range(20):
                t0 = time.monotonic()
                s.sendall(what.encode() + b"\n")
                answer = f.readline()
                t1 = time.monotonic()
                if not best or t1 - t0 < best[0]:
                    best = t1 - t0, int(answer) / 1000 - (t0 + t1) / 2
            got[what] = best[1]
            got["error"] = max(got["error"], best[0] / 2)
        f.close()
        s.close()
        say("the guest's clock: %s", got)
        return got

    @staticmethod
    def bed_ip():
        from bed import CLIENT_IP
        return CLIENT_IP

    @staticmethod
    def guest_ip():
        from bed import GUEST_IP
        return GUEST_IP


def clock(bed, machine, source):
    bed.start_pair(machine, CLOCK_RULE)
    said = re.findall(r"clocksource: Switched to clocksource (\S+)", bed.a.console_said())
    same(said[-1:], [source], "the guest's clock source")
    ask = Clock(bed)
    before, begun = ask.ask(), time.monotonic()
    first = bed.a.status()["checkpoints"]
    with Load(bed, [Incr("a", depth=4), Count()]) as load:
        for i in range(CHECKPOINTS):
            load.wait_answers(3, 20)
            c = bed.a.call("checkpoint", VM_NAME, timeout=30)
            say("checkpoint %d: %s", i + 1, c)
            if i % 5 == 4:
                now = ask.ask()
                say("off by %.1f ms", (now["uptime"] - before["uptime"]) * 1000)
        served = ask.ask()
        bed.kill(bed.a)
        bed.wait_alone(bed.b)
        load.wait_answers(3, 30)
        after = ask.ask()
        load.finish()
    off = [(now[k] - before[k]) * 1000 for now in (served, after) for k in ("uptime", "time")]
    note("%s, %.0f s: off by %.1f ms (wall clock %.1f) after %d checkpoints, %.1f (%.1f) after the failover, "
         "+- %.1f", source, time.monotonic() - begun, off[0], off[1], CHECKPOINTS, off[2], off[3],
         max(before["error"], after["error"]) * 1000)
    must(before["error"] + after["error"] < CLOCK_OFF / 2, "the clock cannot be asked precisely enough")
    for ms_off in off[2:]:
        must(abs(ms_off) <= CLOCK_OFF * 1000, "the guest's clock is off by %.1f ms", ms_off)


@case("kvm", timeout=120)
def kvm_clock_kvmclock(bed):
    clock(bed, kvm("loglevel=7"), "kvm-clock")


@case("kvm", timeout=120)
def kvm_clock_tsc(bed):
    clock(bed, kvm("loglevel=7 clocksource=tsc"), "tsc")


@case()
def clock_after_failover(bed):
    clock(bed, Machine(mem=256, append="loglevel=7"), "tsc")
