#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""
tests/e2e/run.py - runs end-to-end tests

  run.py                        the default suite
  run.py --suite soak           another one (--list names them)
  run.py NAME...                these cases, whatever their suite

  --list          show cases and suites
  --keep          keep the logs of passed cases too
  --results FILE  write {"passed": N, "failed": N, "skipped": N, "cases": [...]} there

Each case runs in a process of its own, with a deadline; its bed goes with it, whatever happens. Logs of failed cases
stay in build/e2e-logs/NAME/. Exit status 0 when nothing failed.
"""

import argparse
import glob
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import bed as bedlib  # noqa: E402
import harness  # noqa: E402

SKIPPED = 77
LOGS = os.environ.get("LOCKSTEP_LOGS", os.path.join(bedlib.BUILD, "e2e-logs"))


def load_cases():
    for path in sorted(glob.glob(os.path.join(HERE, "cases_*.py"))):
        importlib.import_module(os.path.basename(path)[:-3])
    return harness.CASES


def run_one(name):
    """The child: one case, here and now."""
    bedlib.tidy_signals()
    c = load_cases()[name]
    try:
        if not c.bed:
            c.fn()
            return 0
        with bedlib.Bed(os.path.join(LOGS, name), **(c.bed if isinstance(c.bed, dict) else {})) as bed:
            c.fn(bed)
            bad = bed.complaints()
        bad = bad or bed.complaints()
        if bad:
            raise bedlib.BedError("; ".join(bad[:5]))
        return 0
    except bedlib.Skip as e:
        print("skipped: %s" % e, flush=True)
        return SKIPPED
    except Exception as e:  # pylint: disable=broad-except
        traceback.print_exc(file=sys.stdout)
        print("failed: %s: %s" % (type(e).__name__, e), flush=True)
        return 1


def spawn(c):
    """The parent: a child for one case. Returns (result, seconds, text for the summary)."""
    logs = os.path.join(LOGS, c.name)
    shutil.rmtree(logs, ignore_errors=True)
    os.makedirs(logs)
    begun = time.monotonic()
    out_path = os.path.join(logs, "case.log")
    with open(out_path, "wb") as out:
        p = subprocess.Popen([sys.executable, os.path.abspath(__file__), "--one", c.name], stdin=subprocess.DEVNULL,
                             stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
        late = False
        try:
            p.wait(c.timeout * bedlib.PATIENCE)
        except subprocess.TimeoutExpired:
            late = True
            p.terminate()
        except BaseException:
            p.terminate()
            p.wait(30)
            raise
        finally:
            try:
                p.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(p.pid, signal.SIGKILL)
                p.wait()
            bedlib.sweep(p.pid)
    with open(out_path, encoding="utf-8", errors="replace") as f:
        lines = f.read().splitlines()
    last = next((x for x in reversed(lines) if x.startswith(("failed: ", "skipped: "))), "")
    notes = "; ".join(x[len("note: "):] for x in lines if x.startswith("note: "))
    result = "passed" if p.returncode == 0 else "skipped" if p.returncode == SKIPPED else "failed"
    if late:
        result, last = "failed", "not at its end after %d s" % (c.timeout * bedlib.PATIENCE)
    text = notes if result == "passed" else last.partition(": ")[2] or last
    return result, time.monotonic() - begun, text


def choose(cases, suites, names):
    for n in names:
        if n not in cases:
            sys.exit("run.py: there is no case %s (--list shows them)" % n)
    known = {s for c in cases.values() for s in c.suites}
    for s in suites:
        if s not in known:
            sys.exit("run.py: there is no suite %s (known: %s)" % (s, " ".join(sorted(known))))
    if names:
        return [cases[n] for n in names]
    return [c for c in cases.values() if set(c.suites) & set(suites or ["e2e"])]


def main():
    ap = argparse.ArgumentParser(usage=__doc__)
    ap.add_argument("names", nargs="*")
    ap.add_argument("--suite", action="append", default=[])
    ap.add_argument("--list", action="store_true")
    ap.add_argument("--keep", action="store_true")
    ap.add_argument("--results")
    ap.add_argument("--one")
    args = ap.parse_args()
    if args.one:
        return run_one(args.one)
    cases = load_cases()
    if args.list:
        for c in cases.values():
            print("%-32s %s" % (c.name, " ".join(c.suites)))
        return 0
    signal.signal(signal.SIGTERM, lambda sig, frame: sys.exit(128 + sig))
    tally = {"passed": 0, "failed": 0, "skipped": 0}
    rows = []
    for c in choose(cases, args.suite, args.names):
        result, seconds, text = spawn(c)
        tally[result] += 1
        rows.append({"name": c.name, "result": result, "seconds": round(seconds, 2), "text": text})
        print("%-7s %-32s %6.1f s%s" % (result, c.name, seconds, "  " + text if text else ""), flush=True)
        if result == "failed":
            print("        logs: %s" % os.path.join(LOGS, c.name), flush=True)
        elif not args.keep:
            shutil.rmtree(os.path.join(LOGS, c.name), ignore_errors=True)
    if args.results:
        with open(args.results, "w", encoding="utf-8") as f:
            json.dump(dict(tally, cases=rows), f)
    print("%(passed)d passed, %(failed)d failed, %(skipped)d skipped" % tally)
    return 1 if tally["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
