# SPDX-License-Identifier: BSD-2-Clause
"""What memory a secondary takes, and what becomes of pages that are swapped out."""

import time

from bed import SANITIZED, Machine, Skip, until
from harness import case, must, note, say
from load import Ask, Count, Fill, Incr, Load
from memgroup import MemGroup, guest_ram_resident

MB = 1 << 20
FACTOR = 1.3    # of the guest's memory


def redis_load(bed):
    return Load(bed, [Fill("f%d" % i, keys=4000, size=1500, seed=i, depth=4) for i in range(6)] +
                [Incr("i%d" % i, depth=2) for i in range(4)])


def most(bed, group, seconds, look=None):
    """Runs Redis for so long; the most bytes that the group has had, and the answers."""
    top, where = 0, ""
    with redis_load(bed) as load:
        load.wait_answers(3, 30)
        before, end = load.answers(), time.monotonic() + seconds
        while time.monotonic() < end:
            now = group.current()
            if now > top:
                top, where = now, group.where()
            if look:
                look()
            time.sleep(0.02)
            load.check()
        answers = load.answers() - before
        load.finish()
    say("%d answers, at most %s", answers, where)
    return top, answers


def secondary_memory(bed, seconds):
    """
    What the secondary's cgroup holds at most during a Redis run, less what a plain QEMU needs beyond its guest's memory
    in the same run.
    """
    if SANITIZED:
        raise Skip("sanitizers take memory of their own")
    machine = Machine()
    group = MemGroup()
    bed.a.prefix = group.prefix()
    bed.a.start_plain(machine)
    bed.wait_ready(bed.a)
    beyond = [0]

    def look():
        beyond[0] = max(beyond[0], group.current() - guest_ram_resident(bed.a.qemu.pid, machine.mem * MB))
    most(bed, group, seconds / 3, look)
    bed.a.proc.kill()
    bed.a.proc.wait(5)
    bed.a.prefix = []
    bed.a.console += ".2"

    group = MemGroup()
    bed.b.prefix = group.prefix()
    bed.start_pair(machine)
    say("protected, %s", group.where())
    top, answers = most(bed, group, seconds)
    c = bed.a.status()["checkpoints"]
    ratio = (top - beyond[0]) / (machine.mem * MB)
    note("%.2f times the guest's memory: %d MB, less %d MB that a plain QEMU has beyond its guest's %d; %d answers, "
         "%d checkpoints %s", ratio, top / MB, beyond[0] / MB, machine.mem, answers, c["total"],
         {k: v for k, v in c["by_cause"].items() if v})
    must(ratio < FACTOR, "%.2f times the guest's memory", ratio)


@case(timeout=120)
def memory_secondary(bed):
    secondary_memory(bed, 9)


@case("redis60", "memory", timeout=300)
def memory_secondary_60s(bed):
    secondary_memory(bed, 60)


def checked(bed, when):
    """The guest looks at each page that it has dirtied."""
    with Ask(bed, timeout=60) as ask:
        got = ask("check")
        must(got.startswith("ok"), "%s: check gave %r", when, got)


def limited(bed, mb, pages, region, reached):
    """The SVM writes beyond its limit of mb MiB: reached(status of a, of b) in the end, and no page is lost."""
    bed.start_pair(options=["--checkpoint-delay", "60000"], b_options=["--private-limit", str(mb)])
    with Load(bed, [Incr("a", depth=2), Count()]) as load:
        load.wait_answers(3, 30)
        with Ask(bed, timeout=60) as ask:
            must(ask("dirty %d %d" % (pages, region)) == "ok", "dirty")
        until(lambda: load.check() or reached(bed.a.status(), bed.b.status()), 60,
              lambda: "the limit (%s)" % bed.b.status()["memory"])
        a, b = bed.a.status(), bed.b.status()
        must((a["state"], b["state"]) == ("protected", "standby"), "the pair came apart: %s, %s", a["state"], b["state"])
        note("%s; checkpoints %s", {k: v for k, v in b["memory"].items() if "private" in k or k == "limit_full"},
             {k: v for k, v in a["checkpoints"]["by_cause"].items() if v})
        checked(bed, "at the limit")
        load.wait_answers(5, 30)
        bed.kill(bed.a)
        bed.wait_alone(bed.b, 20)
        load.wait_answers(5, 30)
        checked(bed, "after the failover")
        load.finish()


@case()
def private_limit(bed):
    limited(bed, 12, 1500, 48, lambda a, b: a["checkpoints"]["by_cause"]["private"] >= 3 and
            b["memory"]["limit_private"] >= 3)


@case()
def private_limit_hard(bed):
    """So much at once that the SVM has to stand until the checkpoint."""
    limited(bed, 1, 20000, 48, lambda a, b: b["memory"]["limit_full"] >= 3 and
            a["checkpoints"]["by_cause"]["private"] >= 3)
