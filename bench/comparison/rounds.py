# SPDX-License-Identifier: BSD-2-Clause
"""
The order of a run: rounds, in each of which every system is booted once and measured, another one first each time, so
that what changes on the machine meanwhile meets all of them. Figures that end the system come last in a boot; what
needs a disk has a boot of its own, and so has what needs IPv6, since QEMU's COLO does not compare IPv6 and would be disturbed by it elsewhere.

A figure that fails is recorded with its reason. If the system is not what it should be after it, or the secondary's
kernel panicked and the next figure needs it, the system is booted again, at most RESTARTS times for each boot that was
planned.
"""

import subprocess
import time

from bed import BedError
from load import LoadError
from comparison.colo import Colo
from comparison.systems import Down, Lockstep, Plain, Two, settle

SYSTEMS = {c.name: c for c in (Plain, Two, Colo, Lockstep)}
RESTARTS = 8
BOOT_COST = {"plain": 9, "two": 14, "colo": 22, "lockstep": 16}  # s, a guess that the run corrects
FAILURES = (BedError, LoadError, OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError)


class Progress:
    """Says what goes on, and about how long the rest takes."""

    def __init__(self, total):
        self.left = self.total = total
        self.begun, self.done = time.monotonic(), 0.0

    def step(self, cost, text):
        took = time.monotonic() - self.begun
        pace = took / self.done if self.done > 20 else 1.0
        left = max(0.0, self.total - self.done) * pace
        print("%5d s  %-58s about %d:%02d left" % (took, text, left // 60, left % 60), flush=True)
        self.done += cost


class Setup:
    """What all systems of a run have in common."""

    def __init__(self, machine="pc", nic="rtl8139", mem=512, accel="tcg", interface="ide", disk_mb=256):
        self.machine, self.nic, self.mem, self.accel = machine, nic, mem, accel
        self.interface, self.disk_mb = interface, disk_mb  # of the disk, where there is one


def scaled(figure, seconds):
    return 2 + (figure.cost - 2) * seconds / 4.0


def boots(figures, name):
    """The figures of a system, in groups of a boot each: those without IPv6, those with it, those with a disk."""
    mine = [f for f in figures if f.on(name)]
    groups = [[f for f in mine if (f.v6, f.disk) == kind] for kind in ((False, False), (True, False), (False, True))]
    return [sorted(g, key=lambda f: f.last) for g in groups if g]


def cost(figures, names, seconds, rounds):
    return rounds * sum(BOOT_COST[n] + sum(scaled(f, seconds) for f in g) for n in names for g in boots(figures, n))


class Booted:
    """A system that is booted when it is first needed, and again when it is down."""

    def __init__(self, cls, setup, first, record):
        self.cls, self.setup, self.record = cls, setup, record
        self.v6, self.disk = first.v6, first.disk
        self.system, self.starts = None, 0

    def get(self):
        if not self.system:
            if self.starts > RESTARTS:
                raise Down("not started again: it has come down %d times" % self.starts)
            self.starts += 1
            begun = time.monotonic()
            system = self.cls(self.setup, self.disk)
            system.fits()
            try:
                system.start(self.v6)
                settle(system)
            except BaseException:
                system.close()
                raise
            self.system = system
            self.record["boots_s"].append(round(time.monotonic() - begun, 1))
        return self.system

    def ready(self):
        """get(), and it answers at once."""
        if self.system:
            try:
                settle(self.system)
            except FAILURES:
                self.drop()
        return self.get()

    def drop(self):
        if self.system:
            self.system.close()
            self.system = None


def run_figure(figure, booted, seconds):
    """One figure of one boot, as it goes into the record."""
    got = {}
    try:
        system = booted.ready()
        before = dict(system.panics())
        try:
            got["cells"] = figure.function(system, seconds)
        finally:
            panicked = [n for n, k in system.panics() if k > before.get(n, 0)]
            if panicked:
                got["panicked"] = panicked
        if not figure.last:
            system.check()
    except FAILURES as e:
        # What was measured on a system that is down afterwards is no figure of it.
        got.pop("cells", None)
        got["error"] = "%s" % (e if str(e) else type(e).__name__)
        if booted.system and not still_good(booted.system):
            booted.drop()
    if figure.last:
        booted.drop()
    if figure.quiet and got.get("cells", {}).get("checkpoints"):
        got["disturbed"] = got["cells"]["checkpoints"]
    return got


def still_good(system):
    try:
        system.check()
        return True
    except FAILURES:
        return False


def say(figure, got):
    if "error" in got:
        print("         %s: %s" % (figure.name, got["error"]), flush=True)
    else:
        print("         %s: %s%s" % (figure.name, ", ".join("%s %.5g" % kv for kv in got["cells"].items()),
                                     "; panicked: " + ", ".join(got["panicked"]) if "panicked" in got else ""),
              flush=True)


def run(setup, names, figures, seconds, rounds, progress, records):
    """Appends a record for each round to records, and yields when one of them has more in it."""
    for r in range(rounds):
        order = names[r % len(names):] + names[:r % len(names)]
        record = {"round": r + 1, "order": order, "systems": {}}
        records.append(record)
        for name in order:
            mine = record["systems"][name] = {"boots_s": [], "figures": {}}
            for group in boots(figures, name):
                booted, broken = Booted(SYSTEMS[name], setup, group[0], mine), False
                progress.step(BOOT_COST[name], "round %d of %d, %s: boot" % (r + 1, rounds, name))
                try:
                    for f in group:
                        progress.step(scaled(f, seconds), "round %d of %d, %s: %s" % (r + 1, rounds, name, f.name))
                        mine["figures"][f.name] = run_figure(f, booted, seconds)
                        say(f, mine["figures"][f.name])
                        broken = broken or "panicked" in mine["figures"][f.name]
                        if broken and f is not group[-1] and group[group.index(f) + 1].both:
                            booted.drop()
                            broken = False
                finally:
                    booted.drop()
            yield name
