# SPDX-License-Identifier: BSD-2-Clause
"""What the cases_*.py files are written with: a register of cases, and the small sentences that many of them need."""

import os
import random
import sys
import time

from bed import BedError

CASES = {}  # name -> Case, in the order of definition


class Case:
    def __init__(self, fn, name, suites, timeout, bed):
        self.fn, self.name, self.suites, self.timeout, self.bed = fn, name, suites, timeout, bed


def case(*suites, timeout=90, bed=True, name=None):
    """
    Registers a function as a test case. suites: where it runs, "e2e" is the default suite. The function gets a Bed,
    unless bed is False; bed may be a dict with what that bed shall have beyond the least (wires.Plan). The case passes
    when the function returns. What it prints goes to its log, and its note() into the summary.
    """
    def register(fn):
        n = name or fn.__name__
        if n in CASES:
            raise ValueError("two cases are called " + n)
        CASES[n] = Case(fn, n, suites or ("e2e",), timeout, bed)
        return fn
    return register


def say(fmt, *args):
    print("%.3f %s" % (time.monotonic(), fmt % args if args else fmt), flush=True)


def note(fmt, *args):
    """A figure for the summary line of this case."""
    print("note: " + (fmt % args if args else fmt), flush=True)


def must(condition, fmt, *args):
    if not condition:
        raise BedError(fmt % args if args else fmt)


def same(got, want, what):
    must(got == want, "%s: got %.200r, wanted %.200r", what, got, want)


def moment(low, high, seed=None):
    """Waits for a random time, so that what follows comes at a random moment; the seed is in the log."""
    seed = random.randrange(1 << 30) if seed is None else seed
    t = random.Random(seed).uniform(low, high)
    say("seed %d: waiting for %.3f s", seed, t)
    time.sleep(t)


def seed_from(argv=None):
    """Seed of a case: LOCKSTEP_SEED, so that a failed run can be repeated, else a new one; logged."""
    seed = int(os.environ.get("LOCKSTEP_SEED", random.SystemRandom().randrange(1 << 30)))
    say("seed %d (LOCKSTEP_SEED=%d repeats it)", seed, seed)
    sys.stdout.flush()
    return seed
