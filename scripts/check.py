#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""The second half of scripts/check: everything is installed and built, now run the tests and count them."""

import argparse
import json
import os
import re
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DEFAULT = ("unit", "property", "pair", "guest", "e2e")
MESON_SUITES = ("unit", "property", "pair")     # run by meson test
E2E_SUITES = ("e2e", "soak", "crash", "liveness", "redis60", "memory", "machines", "traffic", "disk", "bench", "pg",
              "again", "tls", "arbitration", "again200", "sandbox", "life")
OTHER_QEMU = {"qemu10": "scripts/qemu10"}       # the suite e2e once more, with another QEMU in place of the installed one
KNOWN = MESON_SUITES + ("guest", "fuzz", "kvm") + E2E_SUITES + tuple(OTHER_QEMU)
TIMEOUT = 20 * 60       # seconds for the guest's own test; the others have limits for each test
SLOWER = 4              # how much longer a test may take with sanitizers


class Tally:
    def __init__(self):
        self.passed = self.failed = self.skipped = 0

    def add(self, passed, failed, skipped):
        self.passed += passed
        self.failed += failed
        self.skipped += skipped

    def text(self):
        return "%d passed, %d failed, %d skipped" % (self.passed, self.failed, self.skipped)


def title(text):
    print("== " + text, flush=True)


def run_meson(build, suites, slower, tally):
    """unit and property; their results stand in a log with one JSON object a line."""
    title("meson test: " + ", ".join(suites))
    log = os.path.join(build, "meson-logs", "testlog.json")
    if os.path.exists(log):
        os.unlink(log)
    cmd = ["meson", "test", "-C", build, "--no-rebuild", "--print-errorlogs", "-t", str(slower)]
    for s in suites:
        cmd += ["--suite", s]
    rc = subprocess.run(cmd, stdin=subprocess.DEVNULL, check=False).returncode
    if not os.path.exists(log):
        if rc:
            print("meson test left no results")
            tally.add(0, 1, 0)
        return
    n = {"OK": 0, "EXPECTEDFAIL": 0, "SKIP": 0}
    bad = 0
    with open(log, encoding="utf-8") as f:
        for line in f:
            t = json.loads(line)
            if t["result"] in n:
                n[t["result"]] += 1
            else:
                bad += 1
            if t["result"] == "SKIP":
                why = [x for x in (t.get("stdout") or "").splitlines() if x.strip()]
                print("skipped %s: %s" % (t["name"], why[-1] if why else "no reason given"))
    tally.add(n["OK"] + n["EXPECTEDFAIL"], bad, n["SKIP"])


def run_counting(cmd, env, tally, timeout=None):
    """A program that ends with "N passed, N failed, N skipped"."""
    p = subprocess.Popen(cmd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                         env=env, errors="replace")
    last = ""
    begun = time.monotonic()
    try:
        for line in p.stdout:
            counted = re.fullmatch(r"(\d+) passed, (\d+) failed, (\d+) skipped\n", line)
            if counted:
                last = counted
            else:
                print(line, end="", flush=True)
            if timeout and time.monotonic() - begun > timeout:
                print("not at its end after %d s" % timeout)
                p.kill()
                break
        p.wait()
    except BaseException:
        p.terminate()
        p.wait()
        raise
    if not last:
        tally.add(0, 1, 0)
        return
    failed = int(last[2])
    tally.add(int(last[1]), failed if failed or not p.returncode else 1, int(last[3]))


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--suite", action="append", default=[])
    ap.add_argument("--test", action="append", default=[])
    ap.add_argument("--sanitize", action="store_true")
    args = ap.parse_args()
    suites = [s for word in args.suite for s in word.split(",")]
    if "all" in suites:
        suites = list(KNOWN)
    for s in suites:
        if s not in KNOWN:
            ap.error("there is no suite %s (known: %s, all)" % (s, " ".join(KNOWN)))
    if not suites:
        suites = [] if args.test else list(DEFAULT)
    build = os.path.join(ROOT, "build-asan" if args.sanitize else "build")
    env = dict(os.environ, LOCKSTEP_BUILD=build)
    if args.sanitize:
        env.update(LOCKSTEP_SANITIZED="1", UBSAN_OPTIONS="halt_on_error=1:print_stacktrace=1")
    tally = Tally()
    begun = time.monotonic()
    # The engine by itself, without the program around it, has its tests in meson too, in these suites.
    meson = [s for s in MESON_SUITES + ("e2e", "machines", "memory") if s in suites]
    if meson:
        run_meson(build, meson, SLOWER if args.sanitize else 1, tally)
    if "guest" in suites:
        title("guest")
        run_counting(["guest/test", "pc-virtio"], env, tally, TIMEOUT)
    if "fuzz" in suites:
        title("fuzz")
        run_counting(["scripts/fuzz"], env, tally, TIMEOUT)
    if "kvm" in suites:
        title("kvm")
        run_counting([sys.executable, "tests/kvm/run.py"], env, tally)
    e2e = [s for s in E2E_SUITES if s in suites]
    if "pg" in suites:
        subprocess.run(["guest/build-pg"], stdin=subprocess.DEVNULL, check=True)
    if "bench" in suites:
        subprocess.run(["guest/build-fio"], stdin=subprocess.DEVNULL, check=True)
    if e2e or args.test:
        title("e2e: " + ", ".join(e2e + args.test))
        cmd = [sys.executable, "tests/e2e/run.py"] + args.test
        for s in e2e:
            cmd += ["--suite", s]
        run_counting(cmd, env, tally)
    for s in OTHER_QEMU:
        if s in suites:
            title("%s: e2e with the QEMU of %s" % (s, OTHER_QEMU[s]))
            cmd = [OTHER_QEMU[s], sys.executable, "scripts/check.py", "--suite", "e2e"]
            run_counting(cmd + ["--sanitize"] * args.sanitize, env, tally)
    print("== %.0f s" % (time.monotonic() - begun), flush=True)
    print(tally.text(), flush=True)
    return 1 if tally.failed else 0


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
