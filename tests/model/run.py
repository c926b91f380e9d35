#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Checks the model of arbitration (arbitration.pml) with spin: what must hold holds, and each planted fault is found.

run.py [--large] [--jobs N] [--trace] [NAME...]

Without --large the configurations are those that are searched exhaustively in seconds. With NAME only those runs.
--trace prints, for a run with a violation, which step set what.
"""

import argparse
import concurrent.futures
import os
import re
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
MODEL = "arbitration.pml"
STATES = ("DOWN", "COLD", "BEGIN", "ALONE", "SYNC", "MARK", "PROT", "PCLAIM", "JOIN", "STBY", "SCLAIM", "OPT")
DEPTH = 2000000
HOLDS, TWO, STALE, STUCK = "holds", "two may emit", "what was acknowledged is lost", "not served again"


class Run:
    """One search: name, what it must show, and the model's macros."""

    def __init__(self, name, want, *macros, large=False, progress=False, memory=1900):
        self.name, self.want, self.macros, self.large = name, want, macros, large
        self.progress, self.memory = progress, memory

    def defines(self):
        return ["-D" + m for m in self.macros + (("PROGRESS",) if self.progress else ())]


def bounds(crashes, freezes, breaks, maxgen):
    return ("CRASHES=%d" % crashes, "FREEZES=%d" % freezes, "BREAKS=%d" % breaks, "MAXGEN=%d" % maxgen)


FAULTY = bounds(1, 0, 1, 3)
RUNS = [
    Run("holds", HOLDS, *bounds(1, 0, 1, 3)),
    Run("holds_frozen", HOLDS, *bounds(0, 1, 1, 2)),
    Run("holds_drift", HOLDS, "DRIFT", *bounds(0, 0, 1, 3)),
    Run("progress", HOLDS, *bounds(0, 0, 1, 2), progress=True),
    Run("progress_survivor", HOLDS, "SURVIVOR", *bounds(1, 0, 0, 2), progress=True),
    # planted faults
    Run("no_claim", TWO, "F_NO_CLAIM", *FAULTY),
    Run("claim_without_expected_generation", TWO, "F_NO_EXPECTED", *FAULTY),
    Run("emits_after_its_lease", TWO, "F_NO_LEASE", *FAULTY),
    Run("frozen_does_not_check_again", TWO, "F_NO_RECHECK", *bounds(0, 1, 1, 2)),
    Run("answers_heartbeats_while_it_claims", TWO, "F_ANSWERS", *FAULTY),
    Run("reset_taken_for_death", TWO, "F_RESET", *FAULTY),
    Run("no_wait_for_drift", TWO, "DRIFT", "F_NO_DRIFT", *FAULTY),
    Run("cold_start_without_granted", TWO, "F_COLD_NO_GRANT", *FAULTY),
    Run("cold_start_against_the_record", TWO, "F_NO_RECORD", *FAULTY),
    Run("standby_begins_cold", STALE, "F_STANDBY_BEGINS", *bounds(1, 0, 0, 3)),
    Run("joining_competes", STALE, "F_JOIN_COMPETES", *FAULTY),
    Run("state_written_after_first_frame", STALE, "F_WRITE_LATE", *bounds(1, 0, 0, 3)),
    Run("alone_said_before_granted", STUCK, "SURVIVOR", "F_ALONE_EARLY", *bounds(1, 0, 0, 2), progress=True),
    # the other protocol: it emits on proof of death, before the witness has answered
    Run("optimistic_is_one", HOLDS, "OPTIMISTIC", "NO_FRESH", *bounds(1, 0, 0, 2)),
    Run("optimistic_loses", STALE, "OPTIMISTIC", *FAULTY),
    Run("optimistic_without_deadline", TWO, "OPTIMISTIC", "NO_FRESH", "F_NO_DEADLINE", *FAULTY),
    Run("optimistic_deadline_from_receipt", TWO, "OPTIMISTIC", "NO_FRESH", "F_RECEIPT", *FAULTY),
    Run("optimistic_cold_start_without_wait", TWO, "OPTIMISTIC", "NO_FRESH", "F_COLD_NO_WAIT", *FAULTY),
    # more of the same, minutes
    Run("holds_large", HOLDS, *bounds(1, 1, 1, 3), large=True),
    Run("holds_crashes", HOLDS, *bounds(2, 0, 1, 3), large=True),
    Run("holds_drift_large", HOLDS, "DRIFT", *bounds(1, 0, 1, 3), large=True),
    Run("holds_breaks", HOLDS, *bounds(1, 0, 2, 4), large=True, memory=8000),
    Run("progress_large", HOLDS, *bounds(1, 0, 1, 2), large=True, progress=True, memory=8000),
    Run("progress_survivor_large", HOLDS, "SURVIVOR", *bounds(1, 0, 1, 3), large=True, progress=True, memory=8000),
    Run("optimistic_pair_waits", HOLDS, "OPTIMISTIC", "PAIR_WAITS", *bounds(1, 0, 0, 2), large=True),
]


def command(cmd, cwd):
    return subprocess.run(cmd, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, check=False)


def trace(run, cwd):
    """What each step of a violation's trace has set."""
    out = command(["spin"] + run.defines() + ["-t", "-g", "-p", MODEL], cwd).stdout
    values, before, step, lines = {}, {}, "", []
    for line in out.splitlines():
        m = re.match(r"\s*(\d+):\s+proc\s+\d+ \((\w+)[^)]*\) \S+:(\d+) ", line)
        if m:
            new = ["%s=%s" % (k, STATES[int(v)] if k.startswith("st[") else v) for k, v in values.items() if before.get(k) != v]
            if new:
                lines.append("#   %s %s" % (step, " ".join(new)))
            before, step = dict(values), "%s %s, line %s:" % m.groups()
            continue
        m = re.match(r"\s*(?:queue \d+ \((\S+)\): (.*)|(\S+) = (\S+))\s*$", line)
        if m:
            values[m[1] or m[3]] = m[2] or m[4]
    return lines


def search(run, want_trace):
    """Return: (good, one line for people, lines of a trace)"""
    with tempfile.TemporaryDirectory(prefix="lockstep-model-") as d:
        shutil.copy(os.path.join(HERE, MODEL), d)
        p = command(["spin"] + run.defines() + ["-a", MODEL], d)
        if not os.path.exists(os.path.join(d, "pan.c")):
            return False, "spin: " + p.stdout, []
        cc = ["gcc", "-O2" if run.want == HOLDS else "-O1", "-w", "-DCOLLAPSE", "-DMEMLIM=%d" % run.memory, "-o", "pan", "pan.c"]
        cc += ["-DNFAIR=3"] if run.progress else ["-DSAFETY"]
        p = command(cc, d)
        if p.returncode:
            return False, "gcc: " + p.stdout, []
        p = command(["./pan", "-m%d" % DEPTH, "-w22"] + (["-a", "-f"] if run.progress else []), d)
        text = p.stdout
        states = re.search(r"(\d+) states, stored", text)
        seconds = re.search(r"elapsed time (\S+)", text)
        memory = re.search(r"(\S+)\s+total actual memory", text)
        whole = "Search not completed" not in text and "max search depth too small" not in text
        found = None
        if "acceptance cycle" in text and re.search(r"errors: [1-9]", text):
            found = STUCK
        elif "assertion violated" in text:
            found = STALE if "assertion violated fresh[" in text else TWO
        elif states and "errors: 0" in text and whole:
            found = HOLDS
        said = "%s (%s states, %s s, %s MB)" % (found or "no result: " + text[-400:], states and states[1],
                                               seconds and seconds[1], memory and memory[1])
        lines = trace(run, d) if found not in (None, HOLDS) and (want_trace or found != run.want) else []
        return found == run.want, said, lines


def main():
    ap = argparse.ArgumentParser(description="check the model of arbitration with spin")
    ap.add_argument("--large", action="store_true", help="the larger configurations too: minutes, and up to 8 GB")
    ap.add_argument("--jobs", type=int, default=os.cpu_count(), metavar="N", help="searches side by side")
    ap.add_argument("--trace", action="store_true", help="print the trace of each violation")
    ap.add_argument("names", nargs="*", metavar="NAME", help="only these")
    a = ap.parse_args()
    unknown = set(a.names) - {r.name for r in RUNS}
    if unknown:
        ap.error("no such run: %s (there are: %s)" % (", ".join(sorted(unknown)), ", ".join(r.name for r in RUNS)))
    runs = [r for r in RUNS if (r.name in a.names if a.names else a.large or not r.large)]
    print("1..%d" % len(runs), flush=True)
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(max_workers=a.jobs) as pool:
        jobs = [(r, pool.submit(search, r, a.trace)) for r in runs]
        for n, (r, job) in enumerate(jobs, 1):
            good, said, lines = job.result()
            failed += not good
            print("%s %d %s\n# %s: %s" % ("ok" if good else "not ok", n, r.name, r.name, said), flush=True)
            if lines:
                print("\n".join(lines), flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
