# SPDX-License-Identifier: BSD-2-Clause
"""What memory a secondary takes, and what becomes of pages that are swapped out."""

import threading
import time

from bed import SANITIZED, VM_NAME, Machine, Skip, until
from harness import case, must, note, say
from load import Ask, Count, Fill, Incr, Load, Random, ms
from memgroup import MemGroup, Swap, guest_ram, guest_ram_resident, written_pages

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


@case("memory", timeout=120)
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


def limited(bed, options, pages, region, reached):
    """Memory is written beyond a limit: reached(status of a, of b) in the end, and no page is lost."""
    bed.start_pair(options=["--checkpoint-delay", "60000"], b_options=options)
    with Load(bed, [Incr("a", depth=2), Count()]) as load:
        load.wait_answers(3, 30)
        with Ask(bed, timeout=60) as ask:
            must(ask("dirty %d %d" % (pages, region)) == "ok", "dirty")
        until(lambda: load.check() or reached(bed.a.status(), bed.b.status()), 60,
              lambda: "the limit (%s)" % bed.b.status()["memory"])
        a, b = bed.a.status(), bed.b.status()
        must((a["state"], b["state"]) == ("protected", "standby"), "the pair came apart: %s, %s", a["state"], b["state"])
        note("%s; checkpoints %s", {k: v for k, v in b["memory"].items() if k == "private_pages" or "limit" in k},
             {k: v for k, v in a["checkpoints"]["by_cause"].items() if v})
        checked(bed, "at the limit")
        load.wait_answers(5, 30)
        bed.kill(bed.a)
        bed.wait_alone(bed.b, 20)
        load.wait_answers(5, 30)
        checked(bed, "after the failover")
        load.finish()


@case("memory")
def private_limit(bed):
    limited(bed, ["--private-limit", "12"], 1500, 48, lambda a, b: a["checkpoints"]["by_cause"]["private"] >= 3 and
            b["memory"]["limit_private"] >= 3)


@case("memory")
def private_limit_hard(bed):
    """So much at once that the SVM has to stand until the checkpoint."""
    limited(bed, ["--private-limit", "1"], 20000, 48, lambda a, b: b["memory"]["limit_full"] >= 3 and
            a["checkpoints"]["by_cause"]["private"] >= 3)


@case("memory")
def staged_limit(bed):
    """What is sent before it is needed waits at the secondary; there it has a limit, too."""
    limited(bed, ["--staged-limit", "6", "--private-limit", "400"], 1500, 48, lambda a, b:
            a["checkpoints"]["by_cause"]["staged"] >= 2 and b["memory"]["limit_staged"] >= 2)


@case()
def shared_after_failover(bed):
    """
    What a promoted VM has in memory becomes one with the image again, in short stops while it serves; then what it
    writes can be followed, as on a node that has always served.
    """
    machine = Machine(mem=256)
    bed.start_pair(machine)
    with Load(bed, [Incr("a", depth=2), Count(), Random(), Incr("b", interval=0.01)]) as load:
        with Ask(bed, timeout=60) as ask:
            must(ask("dirty 1000 32") == "ok", "dirty")
        load.wait_answers(10, 60)
        must(bed.b.status()["memory"]["mapping"] == "private", "a secondary's memory: %s", bed.b.status()["memory"])
        qemu = bed.b.qemu_process().pid
        bed.kill(bed.a)
        bed.wait_alone(bed.b, 20)
        must(bed.b.status()["memory"]["mapping"] in ("sharing", "private"), "%s", bed.b.status()["memory"])
        load.wait_answers(5, 30)
        for c in load.conns:
            c.gap = 0
        until(lambda: bed.b.status()["memory"]["mapping"] == "shared", 60,
              lambda: "shared memory (%s)" % bed.b.status()["memory"])
        load.wait_answers(10, 30)
        gap = load.gap()
        checked(bed, "after sharing")
        m = bed.b.status()["memory"]
        note("%d pages in %d stops, the longest %.1f ms; longest wait of a client meanwhile %s", m["shared_pages"],
             m["share_pieces"], m["share_longest_ms"], ms(gap))
        must(m["shared_pages"] > 0 and m["share_pieces"] > 1, "%s", m)
        maps = guest_ram(qemu, machine.mem << 20)
        must(maps and all(shared for _, _, shared in maps), "the memory in QEMU: %s", maps)
        # Followed: pages are reported as written, and the more the more the guest has written.
        with Ask(bed, timeout=60) as ask:
            must(ask("dirty 0 0") == "ok", "dirty")
            before = written_pages(qemu, maps)
            must(ask("dirty 2000 32") == "ok", "dirty")
            until(lambda: written_pages(qemu, maps) >= min(before + 2000, 6000), 30, lambda: "pages that are written (%d, "
                  "then %d)" % (before, written_pages(qemu, maps)))
        total = machine.mem << 8
        must(before < total * 9 // 10, "%d of %d pages count as written: nothing was armed", before, total)
        load.finish()
    checked(bed, "at the end")
    must("memory shared again" in bed.b.said(), "the log does not tell")


class Compacting(threading.Thread):
    """Has the kernel move pages about, again and again."""

    def __init__(self):
        super().__init__(daemon=True)
        self.end = threading.Event()
        self.count = 0

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exc):
        self.end.set()
        self.join()

    def run(self):
        while not self.end.wait(0.3):
            try:
                with open("/proc/sys/vm/compact_memory", "w", encoding="ascii") as f:
                    f.write("1")
                self.count += 1
            except OSError:
                return


def swapped(bed, victim):
    """
    One node has less memory than it needs, and pages are moved about: after each checkpoint the memories are equal, and
    after a failover every page is right.
    """
    machine, env = Machine(mem=256), {"LOCKSTEP_MEMCHECK": "1"}
    swap = Swap(512 * MB)
    try:
        group = MemGroup()
        node = getattr(bed, victim)
        node.prefix = group.prefix()
        bed.start_pair(machine, options=["--timeout", "5000", "--qemu-timeout", "20000"], a_env=env, b_env=env)
        with Load(bed, [Incr("a"), Fill("f", keys=500)]) as load, Compacting() as compacting:
            with Ask(bed, timeout=60) as ask:
                must(ask("dirty 1000 40") == "ok", "dirty")
            load.wait_answers(3, 60)
            full, most_out = group.current(), 0
            for i in range(6):
                # Tighter each time, and back to the first, so that pages go out and come in.
                group.limit(int(full * (0.9, 0.85, 0.8)[i % 3]))
                load.wait_answers(3, 120)
                most_out = max(most_out, group.stat().get("swap", 0))
                bed.a.call("checkpoint", VM_NAME, timeout=60)
                say("checkpoint %d: %s", i + 1, group.where())
            must(most_out > 20 * MB, "only %d bytes were swapped out", most_out)
            until(lambda: bed.b.said().count("memcheck: memory equal") >= 7, 60, "the last check")
            must("memory differs" not in bed.b.said(), "memory differs after a checkpoint")
            bed.kill(bed.a)
            bed.wait_alone(bed.b, 60)
            load.wait_answers(5, 120)
            checked(bed, "after the failover")
            note("%d checkpoints, memory equal after each; at most %d MB swapped out of %d, compacted %d times",
                 bed.b.said().count("memcheck: memory equal"), most_out / MB, full / MB, compacting.count)
            load.finish(60)
        bed.b.proc.kill()
        bed.b.qemu_process().kill()
        bed.b.proc.wait(10)
        bed.b.qemu_process().wait(10)
    finally:
        swap.close()


@case("memory", timeout=240)
def swap_secondary(bed):
    swapped(bed, "b")


@case("memory", timeout=240)
def swap_primary(bed):
    swapped(bed, "a")
