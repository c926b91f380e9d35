# SPDX-License-Identifier: BSD-2-Clause
"""
What is plotted: pause against the guest's size and against the rate at which it dirties memory, latency against the
number of connections. Points that need a guest of the same size share one boot. One pass, no rounds.
"""

from comparison.figures import ASK_EVERY_MS, PAIRS, SHORT_MS, Figure, load, pause
from comparison.rounds import BOOT_COST, SYSTEMS, Booted, Setup, run_figure, say, scaled

SIZE_RATE = 50  # MB/s, at every size
SIZES, QUICK_SIZES = (512, 2048, 8192), (512,)
RATES, QUICK_RATES = (0, 10, 25, 50, 75, 100), (0, 50)
CONNS, QUICK_CONNS = (1, 10, 50, 100, 200, 400), (1, 50)
MEM_COST = 6  # s that a boot takes longer for each 2 GB, in a pair


class Curve:
    """name, what a plot of it says, and points: (x, the guest's MB or None for the run's own, figure)."""

    def __init__(self, name, title, xlabel, ylabel, where, lines, points, xlog=False, ylog=False):
        self.name, self.title, self.xlabel, self.ylabel = name, title, xlabel, ylabel
        self.where, self.lines, self.points = where, lines, points  # lines: (cell, what it is called, dashed)
        self.xlog, self.ylog = xlog, ylog


def curves(quick):
    sizes, rates, conns = (QUICK_SIZES, QUICK_RATES, QUICK_CONNS) if quick else (SIZES, RATES, CONNS)
    pairs = PAIRS if not quick else ("lockstep",)
    median = [("pause_p50_ms", "p50", False)]
    return [
        Curve("size", "Pause against the guest's memory, %d MB/s dirtied, a checkpoint each %d ms" % (
            SIZE_RATE, SHORT_MS), "guest memory, MB", "pause, ms", pairs, median,
              [(mb, mb, Figure("size_%d" % mb, pause(SIZE_RATE, SHORT_MS), cost=7)) for mb in sizes], True, True),
        Curve("rate", "Pause against dirtying, a checkpoint each %d ms" % SHORT_MS, "MB/s dirtied",
              "pause, ms", pairs, median,
              [(r, None, Figure("rate_%d" % r, pause(r, SHORT_MS), cost=7)) for r in rates], False, True),
        Curve("connections", "Latency against connections, each asking every %d ms" % ASK_EVERY_MS, "connections",
              "latency, ms", ("plain",) + pairs if not quick else pairs,
              [("p50_ms", "p50", False), ("p99_ms", "p99", True)],
              [(n, None, Figure("connections_%d" % n, load("echo", "rate", "p50_ms", "p99_ms", conns=n,
                                                           interval=ASK_EVERY_MS))) for n in conns], True, True),
    ]


def boots(wanted, name, mem):
    """{MB: [(curve, x, figure)]} of one system; mem: the run's own guest."""
    out = {}
    for c in wanted:
        for x, mb, figure in c.points if name in c.where else ():
            out.setdefault(mb or mem, []).append((c, x, figure))
    return out


def cost(wanted, names, mem, seconds):
    total = 0.0
    for n in names:
        for mb, points in boots(wanted, n, mem).items():
            total += BOOT_COST[n] + MEM_COST * mb / 2048 + sum(scaled(f, seconds) for _, _, f in points)
    return total


def run(wanted, setup, names, seconds, progress, out):
    """Into out: {curve: {system: [{x, cells or error}]}}"""
    out.update({c.name: {} for c in wanted})
    for name in names:
        for mb, points in boots(wanted, name, setup.mem).items():
            booted = Booted(SYSTEMS[name], Setup(setup.machine, setup.nic, mb, setup.accel), False, {"boots_s": []})
            progress.step(BOOT_COST[name] + MEM_COST * mb / 2048, "curves, %s: boot with %d MB" % (name, mb))
            try:
                for c, x, figure in points:
                    progress.step(scaled(figure, seconds), "curves, %s: %s" % (name, figure.name))
                    got = run_figure(figure, booted, seconds)
                    say(figure, got)
                    out[c.name].setdefault(name, []).append(dict(got, x=x))
            finally:
                booted.drop()
