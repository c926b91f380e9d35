# SPDX-License-Identifier: BSD-2-Clause
"""What is to be reached, and whether it was."""


class Target:
    """
    One thing to reach: Lockstep's cell of a figure, by itself or in proportion to another system's (against), or to a
    figure of its own (beside). op is "<=", "<" or ">=".
    """

    def __init__(self, text, figure, cell, op, limit, against=None, beside=None, unit=""):
        self.text, self.figure, self.cell, self.op, self.limit = text, figure, cell, op, limit
        self.against, self.beside, self.unit = against, beside, unit

    def measured(self, summary):
        """(value, least, most) or None"""
        mine = ("lockstep", self.figure, self.cell)
        if self.against:
            return summary.ratio(mine, (self.against, self.figure, self.cell))
        if self.beside:
            return summary.ratio(mine, ("lockstep", self.beside, self.cell))
        v = summary.values(*mine)
        return (summary.median(*mine), min(v.values()), max(v.values())) if v else None

    def judge(self, summary):
        got = self.measured(summary)
        out = {"text": self.text, "figure": self.figure, "cell": self.cell, "op": self.op, "limit": self.limit,
               "against": self.against or self.beside, "unit": self.unit}
        if not got:
            return dict(out, value=None, reached=None)
        value, low, high = got
        reached = {"<=": value <= self.limit, "<": value < self.limit, ">=": value >= self.limit}[self.op]
        # How far from the limit, so that more than 1 is better than needed.
        room = value / self.limit if self.op == ">=" else self.limit / value if value else float("inf")
        return dict(out, value=value, min=low, max=high, reached=reached, room=round(room, 3))


def named(rate):
    return "idle" if not rate else "%d MB/s" % rate


DISK = (("randread", "4k random reads", 0.8), ("read", "1M sequential reads", 0.8),
        ("randwrite", "4k random writes", 0.6), ("write", "1M sequential writes", 0.6), ("sync", "4k sync writes", 0.5))

TARGETS = [
    Target("pause, %s, epochs of %s, p50: at most 1/8 of COLO's" % (named(rate), "1 s" if delay == 1000 else "200 ms"),
           "pause_%d_%d" % (rate, delay), "pause_p50_ms", "<=", 0.125, against="colo")
    for rate in (0, 50, 100) for delay in (1000, 200)
] + [
    Target("echo, requests/s: at least 3x COLO's", "echo", "rate", ">=", 3, against="colo"),
    Target("echo, requests/s: at least 0.8 of the two-VM limit", "echo", "rate", ">=", 0.8, against="two"),
    Target("echo, p50: at most 2x plain", "echo", "p50_ms", "<=", 2, against="plain"),
    Target("echo, p99: at most 3x plain", "echo", "p99_ms", "<=", 3, against="plain"),
    Target("echo with a checkpoint each 200 ms, p99: under 40 ms", "echo_200", "p99_ms", "<", 40, unit="ms"),
    Target("Redis INCR with a checkpoint each 200 ms: at least 0.4 of the rate without", "redis_200", "rate", ">=", 0.4,
           beside="redis"),
    Target("answers that always diverge, per second: at least 5x COLO's", "random", "rate", ">=", 5, against="colo"),
    Target("answers that always diverge, p50: under 30 ms", "random", "p50_ms", "<", 30, unit="ms"),
    Target("new connection and request, p50: at most 1.5x plain", "new", "p50_ms", "<=", 1.5, against="plain"),
    Target("UDP echo, p50: at most 2x plain", "udp", "p50_ms", "<=", 2, against="plain"),
    Target("UDP echo, p99: at most 3x plain", "udp", "p99_ms", "<=", 3, against="plain"),
    Target("200 connections, p99: at most 3x plain", "many", "p99_ms", "<=", 3, against="plain"),
    Target("download 10 MB: at least 0.8 of the two-VM limit", "download", "mb_per_s", ">=", 0.8, against="two"),
    Target("upload 10 MB: at least 0.7 of the two-VM limit", "upload", "mb_per_s", ">=", 0.7, against="two"),
    Target("failover gap, IPv4: under 60 ms", "failover", "gap_ms", "<", 60, unit="ms"),
    Target("failover gap, IPv6: under 60 ms", "failover_6", "gap_ms", "<", 60, unit="ms"),
] + [
    Target("disk, %s: at least %g of the two-VM limit" % (called, limit), "disk_" + job, "mb_per_s", ">=", limit,
           against="two")
    for job, called, limit in DISK
] + [
    Target("disk, %s: at least 4x COLO's" % called, "disk_" + job, "mb_per_s", ">=", 4, against="colo")
    for job, called, _ in DISK
] + [
    Target("pause each second with %s, p50: within 1.5x of the same without" % called, "disk_pause_" + job,
           "pause_p50_ms", "<=", 1.5, beside="disk_pause_none")
    for job, called in (("paced", "500 random writes a second"), ("randwrite", "as many random writes as go"))
]


def judge_size(curves):
    """The one target that is seen in a curve: a guest of 8 GB beside one of 512 MB. None when it was not drawn."""
    drawn = curves.get("size", {}).get("lockstep", [])
    points = {p["x"]: p["cells"].get("pause_p50_ms") for p in drawn if "cells" in p}
    small, large = points.get(512), points.get(8192)
    if not small or not large:
        return None
    value = large / small
    return {"text": "pause of an 8 GB guest, p50: within 2x of 512 MB's at the same rate", "figure": "size",
            "cell": "pause_p50_ms", "op": "<=", "limit": 2, "against": "512 MB", "unit": "", "value": value,
            "min": value, "max": value, "reached": value <= 2, "room": round(2 / value, 3)}


def judge(summary, curves, figures, names):
    """One verdict for each target whose figure, and whose system to compare with, were asked for."""
    asked = {f.name for f in figures}
    verdicts = [t.judge(summary) for t in TARGETS if t.figure in asked and (t.beside or t.figure) in asked and
                t.against in names + [None]]
    size = judge_size(curves)
    return verdicts + ([size] if size else [])
