# SPDX-License-Identifier: BSD-2-Clause
"""
What is measured on one running system. A figure returns its cells, {name: number}; report.py says what they mean. What
cannot be measured is raised as BedError, with the reason for the report.

A load runs without any checkpoint in its window (the delay is 20 s, and one is made just before) unless its name says
_200: then there is one each 200 ms.
"""

import time

from bed import GUEST_IP, GUEST_IP6, BedError
from load import percentile
from comparison.disk import JOBS, fio, fio_beside
from comparison.systems import LONG_MS, Running, ask

DIRTY_MB, PAGES_PER_MB = 128, 256
SHORT_MS = 200
UDP_PATIENCE = 5.0
WARM = 1.0  # s before counting begins: a copy that has just been loaded translates its code anew (TCG)
CONNECTIONS, ASK_EVERY_MS = 200, 400
FAILOVER_EVERY_MS = 1


class Figure:
    """
    name; function(system, seconds) -> cells; where: names of the systems that have it (None: all); cost: about how
    many seconds it takes when seconds is 4; quiet: there should be no checkpoint in its window; both: it needs a
    secondary that runs; last: it ends the system; v6, disk: it needs IPv6, a disk.
    """

    def __init__(self, name, function, where=None, cost=7, quiet=False, both=True, last=False, v6=False,
                 disk=False):
        self.name, self.function, self.where, self.cost = name, function, where, cost
        self.quiet, self.both, self.last, self.v6, self.disk = quiet, both, last, v6, disk

    def on(self, system_name):
        return self.where is None or system_name in self.where


PAIRS = ("colo", "lockstep")


def cells_of(system, got, before, *names):
    cells = {n: got[n] for n in names if got.get(n) is not None}
    if system.checkpoints:
        cells["checkpoints"] = system.count() - before
    return cells


def load(mode, *names, delay=None, factor=1.0, **options):
    """A figure's function that runs the client once; delay: of checkpoints."""
    def measure(system, seconds):
        if system.checkpoints:
            if delay:
                system.set_delay(delay)
            else:
                system.checkpoint()
        try:
            before, begun = system.count(), time.time()
            got = system.load(mode, seconds * factor, **options)
            took = time.time() - begun
            cells = cells_of(system, got, before, *names)
            if delay and system.checkpoints:
                cells["standing"] = system.standing(begun) / took
            if got.get("partial"):
                cells["partial"] = 1
        finally:
            if delay and system.checkpoints:
                system.set_delay(LONG_MS)
        return cells
    return measure


def pause(mb_per_s, delay):
    """How long the VM stands still, while its guest dirties so much memory."""
    def measure(system, seconds):
        if mb_per_s:
            ask(system, "dirty %d %d" % (mb_per_s * PAGES_PER_MB, min(DIRTY_MB, system.setup.mem // 4)))
        try:
            system.set_delay(delay)
            n = system.count()
            deadline = time.monotonic() + 15
            while system.count() < n + 2:  # those that still show what was before
                if time.monotonic() > deadline:
                    raise BedError("no checkpoint by time")
                time.sleep(0.05)
            begun = time.time()
            time.sleep(max(seconds, 6 * delay / 1000.0))
            traced, own = system.pauses(begun)
        finally:
            # As long as checkpoints come often, no answer is held for long.
            if mb_per_s:
                ask(system, "dirty 0 0")
            system.set_delay(LONG_MS)
        if not traced:
            raise BedError("no checkpoint in %g s" % max(seconds, 6 * delay / 1000.0))
        cells = {"traced_p50_ms": percentile(traced, 50), "traced_max_ms": max(traced), "pauses": len(traced)}
        if own:
            cells.update(own_p50_ms=percentile(own, 50), own_max_ms=max(own))
        cells["pause_p50_ms"] = cells.get("own_p50_ms", cells["traced_p50_ms"])
        return cells
    return measure


def disk(name):
    """One of fio's jobs. Checkpoints come as they come: by what the disk asks for, or after 20 s."""
    def measure(system, seconds):
        system.checkpoint()
        before = system.count()
        return cells_of(system, fio(system, name, seconds), before, *DISK_CELLS)
    return measure


def disk_pause(name):
    """How long the VM stands still, once a second, while fio does one of its jobs; without: while it does nothing."""
    def measure(system, seconds):
        if not name:
            cells = pause(0, 1000)(system, seconds)
            return dict(cells, **system.steps(cells["pauses"]))
        with fio_beside(system, name, max(2 * seconds, 12)) as result:
            cells = pause(0, 1000)(system, seconds)
            cells.update(system.steps(cells["pauses"]))
            cells.update(result())
        return cells
    return measure


def failover(host):
    """
    The primary is killed while a client asks each millisecond: its longest silence from then on. The same connection
    must go on.
    """
    def measure(system, seconds):
        bed = system.beds[0]
        system.checkpoint()
        client = Running(bed, "echo", 60, host=host, interval=FAILOVER_EVERY_MS, patience=20)
        try:
            time.sleep(min(1.0, seconds))
            client.mark()
            killed = system.kill_primary()
            system.takes_over()
            time.sleep(max(0.0, killed + 2.5 - time.monotonic()))
            client.stop()
            got = client.result()
        finally:
            client.close()
        if got["error"]:
            raise BedError(got["error"])
        return {"gap_ms": got["gap_ms"]}
    return measure


DISK_CELLS = ("mb_per_s", "iops", "p50_ms", "p99_ms")
LATENCY = ("rate", "p50_ms", "p99_ms", "max_ms")

# QEMU's COLO loses its secondary to frequent checkpoints, so what has none comes first.
FIGURES = [
    Figure("echo", load("echo", *LATENCY, warm=WARM), quiet=True),
    Figure("redis", load("incr", *LATENCY, warm=WARM), quiet=True),
    Figure("new", load("new", *LATENCY, warm=WARM), quiet=True),
    Figure("udp", load("udp", *LATENCY, "lost", warm=WARM, patience=UDP_PATIENCE), quiet=True),
    Figure("many", load("echo", *LATENCY, factor=1.5, warm=WARM, conns=CONNECTIONS, interval=ASK_EVERY_MS), quiet=True,
           cost=9),
    Figure("download", load("download", "mb_per_s", factor=0.5, warm=0, patience=15), quiet=True, cost=5),
    Figure("upload", load("upload", "mb_per_s", factor=0.5, warm=0, patience=15), quiet=True, cost=5),
    Figure("random", load("random", *LATENCY)),
    Figure("echo_200", load("echo", *LATENCY, delay=SHORT_MS), where=PAIRS),
    Figure("redis_200", load("incr", *LATENCY, delay=SHORT_MS), where=PAIRS),
] + [
    Figure("pause_%d_%d" % (rate, delay), pause(rate, delay), where=PAIRS, both=False, cost=9)
    for rate in (0, 50, 100) for delay in (1000, SHORT_MS)
] + [
    Figure("disk_" + name, disk(name), disk=True, cost=9) for name in JOBS if name != "paced"
] + [
    Figure("disk_pause_" + (name or "none"), disk_pause(name), where=PAIRS, disk=True, both=False, cost=14)
    for name in (None, "paced", "randwrite")
] + [
    Figure("failover", failover(GUEST_IP), where=PAIRS, cost=6, last=True),
    Figure("failover_6", failover(GUEST_IP6), where=PAIRS, cost=6, last=True, v6=True),
]
