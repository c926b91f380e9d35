#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""What bench/compare makes of figures: medians, ratios, verdicts, the report, plots. Without root and QEMU."""

import os
import sys
import tempfile
import unittest
import xml.etree.ElementTree

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, ".."), os.path.join(HERE, "..", "..", "..", "bench")]
import tap  # noqa: E402
import comparison  # noqa: E402,F401
from comparison import curves, report, rounds, runstate, svg  # noqa: E402
from comparison.figures import FIGURES  # noqa: E402
from comparison.summary import Summary  # noqa: E402
from comparison.targets import TARGETS, judge  # noqa: E402

NAMES = ["plain", "two", "colo", "lockstep"]


def record(number, **systems):
    """A round: system={"figure": {"cells": ...}}"""
    return {"round": number, "order": list(systems),
            "systems": {s: {"boots_s": [1.0], "figures": f} for s, f in systems.items()}}


def echo(rate, p50=1.0):
    return {"echo": {"cells": {"rate": rate, "p50_ms": p50, "p99_ms": 3 * p50}}}


class Numbers(unittest.TestCase):
    def setUp(self):
        self.summary = Summary([record(1, plain=echo(100), colo=echo(10), lockstep=echo(40)),
                                record(2, plain=echo(110), colo={"echo": {"error": "hung"}}, lockstep=echo(60)),
                                record(3, plain=echo(90), colo=echo(30), lockstep=echo(50))])

    def test_median(self):
        self.assertEqual(self.summary.median("lockstep", "echo", "rate"), 50)
        self.assertEqual(self.summary.values("colo", "echo", "rate"), {1: 10, 3: 30})
        self.assertIsNone(self.summary.median("two", "echo", "rate"))

    def test_ratio_is_of_medians_and_its_spread_of_rounds_that_have_both(self):
        value, low, high = self.summary.ratio(("lockstep", "echo", "rate"), ("colo", "echo", "rate"))
        self.assertEqual((value, high), (2.5, 4))
        self.assertAlmostEqual(low, 50 / 30)

    def test_errors_are_told(self):
        self.assertEqual(self.summary.errors(), [("colo", "echo", 2, "hung")])

    def test_verdicts(self):
        got = {(v["cell"], v["against"]): v for v in judge(self.summary, {}, FIGURES, NAMES) if v["figure"] == "echo"}
        missed, reached = got["rate", "colo"], got["p50_ms", "plain"]
        self.assertEqual((missed["reached"], missed["value"]), (False, 2.5))
        self.assertAlmostEqual(missed["room"], 2.5 / 3, 3)
        self.assertEqual((reached["reached"], reached["room"]), (True, 2))
        self.assertIsNone(got["rate", "two"]["reached"])

    def test_no_verdict_on_what_was_not_asked_for(self):
        some = [f for f in FIGURES if f.name == "echo"]
        self.assertEqual({v["against"] for v in judge(self.summary, {}, some, ["plain", "lockstep"])}, {"plain"})

    def test_loss(self):
        ours = {"redis": {"cells": {"rate": 100}}, "redis_200": {"cells": {"rate": 30, "standing": 0.2}}}
        got = report.redis_loss(Summary([record(1, lockstep=ours)]), NAMES)[0]
        self.assertIn(" 70 % of the rate", got)
        self.assertIn(" 20 % of the time", got)
        self.assertIn("the other 50 %", got)

    def test_size(self):
        drawn = {"size": {"lockstep": [{"x": x, "cells": {"pause_p50_ms": y}} for x, y in ((512, 4.0), (8192, 9.0))]}}
        self.assertEqual([v["reached"] for v in judge(self.summary, drawn, [], NAMES)], [False])

    def test_every_target_has_its_figure(self):
        self.assertFalse({t.figure for t in TARGETS} - {f.name for f in FIGURES})


class Order(unittest.TestCase):
    def test_boots(self):
        groups = rounds.boots(FIGURES, "lockstep")
        self.assertEqual([g[-1].name for g in groups][:2], ["failover", "failover_6"])
        self.assertEqual([{f.disk for f in g} for g in groups], [{False}, {False}, {True}])
        self.assertFalse([f for g in groups for f in g[:-1] if f.last])
        # Without a failover one boot does for both families; a disk has a machine of its own.
        self.assertEqual(len(rounds.boots(FIGURES, "plain")), 2)

    def test_curves_share_boots(self):
        self.assertEqual(sorted(curves.boots(curves.curves(False), "lockstep", 512)), [512, 2048, 8192])


class Trace(unittest.TestCase):
    def test_pauses(self):
        with tempfile.TemporaryDirectory() as where:
            with open(os.path.join(where, "trace-7.log"), "w", encoding="utf-8") as f:
                f.write("7@10.000000:runstate_set current_run_state 6 (prelaunch) new_state 9 (running)\n"
                        "7@11.500000:runstate_set current_run_state 9 (running) new_state 4 (paused)\n"
                        "something else\n"
                        "7@11.504000:runstate_set current_run_state 4 (paused) new_state 9 (running)\n"
                        "7@12.000000:runstate_set current_run_state 9 (running) new_state 15 (colo)\n"
                        "7@12.050000:runstate_set current_run_state 15 (colo) new_state 9 (running)\n"
                        "7@13.000000:runstate_set current_run_state 9 (running) new_state 4 (paused)\n")
            trace = runstate.Trace(where)
            self.assertEqual([round(ms, 3) for _, ms in trace.pauses(7)], [4, 50])
            self.assertEqual([round(ms, 3) for _, ms in trace.pauses(7, 11.9)], [50])
            self.assertEqual(trace.pauses(8), [])


class Plots(unittest.TestCase):
    def test_plot(self):
        text = svg.plot("A & B", "x", "y", [("colo", "one", False, [(1, 5), (10, 50), (100, 0)]),
                                           ("lockstep", "two", True, [(1, 1), (10, 2)])], True, True)
        root = xml.etree.ElementTree.fromstring(text)
        self.assertEqual(len(root.findall("{http://www.w3.org/2000/svg}circle")), 4)  # a log axis has no place for 0
        self.assertIsNone(svg.plot("t", "x", "y", [("colo", "one", False, [])]))

    def test_axes_hold_what_is_drawn(self):
        for log, values in ((False, [0, 3.7, 155]), (True, [0.4, 3100]), (True, [7, 7]), (False, [0, 0])):
            axis = svg.Axis(values, 0, 100, log)
            self.assertGreaterEqual(len(axis.ticks), 2)
            for v in values:
                self.assertTrue(-0.001 <= axis.at(v) <= 100.001, (log, v, axis.at(v)))


class Report(unittest.TestCase):
    ENV = {"date": "2026-01-02T03:04:05+00:00", "cpu": "c", "cpus": 2, "memory_mb": 1, "kernel": "k", "qemu": "q",
           "commit": "0123456789abcdef", "changed": False, "rounds": 1, "seconds": 4, "quick": False, "finished": True,
           "guest": {"machine": "pc", "nic": "rtl8139", "mb": 512, "accel": "tcg"}}

    def test_written(self):
        summary = Summary([record(1, plain=echo(100), two=echo(60), colo=dict(
            echo(10), udp={"error": "no answer", "panicked": ["secondary"]}), lockstep=echo(50))])
        wanted = curves.curves(False)
        drawn = {"rate": {"lockstep": [{"x": 0, "cells": {"pause_p50_ms": 4.0}}, {"x": 50, "error": "hung"}]}}
        with tempfile.TemporaryDirectory() as out:
            report.write(out, self.ENV, summary, FIGURES, NAMES, wanted, drawn)
            self.assertEqual(sorted(os.listdir(out)), ["compare-rate.svg", "compare.json", "compare.md"])
            with open(os.path.join(out, "compare.md"), encoding="utf-8") as f:
                text = f.read()
        for line in ("| 64-byte echo, one connection, requests/s | 100 | 60 | 10 | 50 | 0.5 | 0.833 | 5 |",
                     "| echo, requests/s: at least 3x COLO's | 5 | yes | 1.67 of what is wanted |",
                     "- QEMU's COLO, udp, round 1: not measured: no answer",
                     "- Lockstep, curve rate at 50: not measured: hung"):
            self.assertIn(line + "\n", text)


if __name__ == "__main__":
    tap.main()
