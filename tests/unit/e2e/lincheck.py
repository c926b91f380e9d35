#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""
The checker of the end-to-end tests judged: histories that are known to be good or bad, systems with planted faults, and
random histories against a search that tries every order. LOCKSTEP_SEED=N repeats a random part.
"""

import heapq
import itertools
import math
import os
import random
import sys
import tempfile
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, ".."), os.path.join(HERE, "..", "..", "e2e")]
import tap  # noqa: E402
import lincheck  # noqa: E402
from lincheck import Op, check  # noqa: E402

SEED = int(os.environ.get("LOCKSTEP_SEED", random.SystemRandom().randrange(1 << 30)))


def history(*rows):
    """Of (kind, value, asked, answered), all on one key."""
    return [Op("c%d" % i, "k", kind, value, asked, answered) for i, (kind, value, asked, answered) in enumerate(rows)]


def brute(ops):
    """Whether there is an order, by trying all of them, each unknown operation at every place and nowhere."""
    known = [op for op in ops if op.answered is not None]
    unknown = [op for op in ops if op.answered is None and op.kind == "w"]
    return any(in_order(known + list(chosen)) for n in range(len(unknown) + 1)
               for chosen in itertools.combinations(unknown, n))


def in_order(ops):
    for order in itertools.permutations(ops):
        value, latest, good = None, -math.inf, True
        for op in order:
            latest = max(latest, op.asked)  # the moment of an operation is not before the one of those before it
            if op.answered is not None and op.answered < latest:
                good = False
            elif op.kind == "w":
                value = op.value
            else:
                good = op.value == value
            if not good:
                break
        if good:
            return True
    return False


class World:
    """
    Clients and a store, event by event. Each operation takes effect at a moment of its own between question and answer;
    some get no answer, and those may take effect much later or never. fault plants one: "stale" reads from a copy that
    lags behind, "lost" forgets acknowledged writes at one moment, as a standby node would that did not have them,
    "split" lets half of the clients go on with a copy of their own, "resurrect" repeats an old write.
    """

    def __init__(self, rng, clients=20, ops=40, keys=3, unknown=0.02, fault=None, broken_at=0.5):
        self.rng, self.keys, self.unknown, self.fault = rng, keys, unknown, fault
        self.now, self.ops, self.stores, self.old = 0.0, [], [{}, {}], {}
        self.applied = []       # (key, value) in order
        self.total, self.broken = clients * ops, None
        self.break_at = int(self.total * broken_at)
        events = [(rng.random() * 0.01, i, "ask", "c%d" % i, None) for i in range(clients)]
        self.serial = itertools.count(clients)
        self.left = {"c%d" % i: ops for i in range(clients)}
        heapq.heapify(events)
        while events:
            self.now, _, what, client, op = heapq.heappop(events)
            for when, *rest in getattr(self, what)(client, op):
                heapq.heappush(events, (self.now + when, next(self.serial)) + tuple(rest))

    def store(self, client):
        return self.stores[self.fault == "split" and self.broken is not None and int(client[1:]) % 2]

    def ask(self, client, _op):
        if not self.left[client]:
            return []
        self.left[client] -= 1
        write = self.rng.random() < 0.5
        op = [client, "k%d" % self.rng.randrange(self.keys), "w" if write else "r",
              "%s-%d" % (client, self.left[client]) if write else None, self.now, None]
        self.ops.append(op)
        if self.rng.random() < self.unknown:
            # The client gives up, connects anew, and goes on; what it asked may still come.
            return [(0.05, "ask", client, None)] + [(self.rng.random() * 0.5, "effect", client, op)] * (
                write and self.rng.random() < 0.6)
        return [(self.rng.expovariate(500), "effect", client, op)]

    def effect(self, client, op):
        if self.broken is None and len(self.ops) >= self.break_at:
            self.broken = self.now
            self.break_now()
        store = self.store(client)
        if op[2] == "w":
            store[op[1]] = op[3]
            self.applied.append((op[1], op[3]))
        else:
            op[3] = (self.old if self.fault == "stale" and self.broken is not None else store).get(op[1])
        if self.now > op[4] + 0.05 and self.rng.random() < self.unknown:
            return []
        return [(self.rng.expovariate(500), "answer", client, op)]

    def break_now(self):
        if self.fault == "split":
            self.stores[1] = dict(self.stores[0])
        elif self.fault == "stale":
            self.old = dict(self.stores[0])
        elif self.fault == "lost":
            for key in list(self.stores[0]):
                before = [v for k, v in self.applied if k == key]
                if len(before) > 40:
                    self.stores[0][key] = before[-40]
        elif self.fault == "resurrect":
            for key in list(self.stores[0]):
                self.stores[0][key] = next(v for k, v in self.applied if k == key)
        if self.fault in ("lost", "resurrect"):     # else a write could come before anybody looks
            self.ops += [["observer", key, "r", value, self.now, self.now] for key, value in self.stores[0].items()]

    def answer(self, client, op):
        if op[5] is None and (op[2] == "r" or self.now - op[4] < 0.05):
            op[5] = self.now
            return [(self.rng.expovariate(1000), "ask", client, None)]
        return []

    def history(self):
        return [Op(*op) for op in self.ops]


class Known(unittest.TestCase):
    def good(self, *rows):
        self.assertEqual(check(history(*rows)), [])

    def bad(self, *rows):
        found = check(history(*rows))
        self.assertEqual(len(found), 1)
        return found[0]

    def test_nothing(self):
        self.assertEqual(check([]), [])

    def test_in_turn(self):
        self.good(("r", None, 0, 1), ("w", "1", 2, 3), ("r", "1", 4, 5), ("w", "2", 6, 7), ("r", "2", 8, 9))

    def test_overlap(self):
        self.good(("w", "1", 0, 10), ("r", None, 1, 2), ("r", "1", 3, 4), ("r", "1", 5, 6))
        self.good(("w", "1", 0, 10), ("w", "2", 0, 10), ("r", "2", 1, 2), ("r", "1", 3, 4), ("r", "1", 11, 12))

    def test_moments_may_be_equal(self):
        self.good(("w", "1", 0, 1), ("r", None, 1, 2))
        self.bad(("w", "1", 0, 1), ("r", None, 1.001, 2))

    def test_stale_read(self):
        self.assertIn("read of 1", self.bad(("w", "1", 0, 1), ("w", "2", 2, 3), ("r", "1", 4, 5)))

    def test_back_and_forth(self):
        self.bad(("w", "1", 0, 10), ("w", "2", 0, 10), ("r", "2", 1, 2), ("r", "1", 3, 4), ("r", "2", 5, 6))

    def test_new_then_old(self):
        """A read that overlaps a write has seen it; a later one may not unsee it."""
        self.bad(("w", "1", 0, 1), ("w", "2", 2, 20), ("r", "2", 3, 4), ("r", "1", 5, 6))

    def test_lost_write(self):
        self.bad(("w", "1", 0, 1), ("r", None, 2, 3))
        self.bad(("w", "1", 0, 1), ("w", "2", 2, 3), ("r", "2", 4, 5), ("r", "1", 6, 7))

    def test_from_nowhere(self):
        self.assertIn("nobody has written", self.bad(("r", "7", 0, 1)))

    def test_from_the_future(self):
        self.assertIn("before it was written", self.bad(("r", "1", 0, 1), ("w", "1", 2, 3)))

    def test_split(self):
        self.bad(("w", "1", 0, 1), ("w", "2", 2, 3), ("w", "3", 2, 3), ("r", "2", 4, 5), ("r", "3", 4, 5),
                 ("r", "2", 6, 7), ("r", "3", 6, 7))

    def test_unknown_writes(self):
        self.good(("w", "1", 0, None), ("r", None, 5, 6))                               # never
        self.good(("w", "1", 0, None), ("r", None, 5, 6), ("r", "1", 7, 8))             # late
        self.good(("w", "1", 0, None), ("w", "2", 1, 2), ("r", "2", 3, 4), ("r", "1", 50, 51))
        self.bad(("w", "1", 0, None), ("w", "2", 1, 2), ("r", "1", 3, 4), ("r", "2", 5, 6))
        self.bad(("w", "1", 10, None), ("r", "1", 5, 6))                                # not before it was asked
        self.bad(("w", "1", 0, None), ("r", "1", 1, 2), ("r", None, 3, 4))              # not undone

    def test_unknown_reads(self):
        self.good(("w", "1", 0, 1), ("r", None, 2, None), ("r", "1", 3, 4))

    def test_each_key_for_itself(self):
        ops = [Op("a", "x", "w", "1", 0, 1), Op("b", "y", "w", "1", 0, 1), Op("a", "x", "r", None, 2, 3)]
        self.assertEqual(len(check(ops)), 1)
        self.assertTrue(check(ops)[0].startswith("x: "))

    def test_refused(self):
        for rows in ((("w", "1", 0, 1), ("w", "1", 2, 3)), (("w", None, 0, 1),), (("w", "1", 2, 1),)):
            with self.assertRaises(ValueError):
                check(history(*rows))

    def test_given_up(self):
        with self.assertRaises(lincheck.Undecided):
            lincheck.Key("k", history(*[("w", str(i), 0, 10) for i in range(20)] + [
                ("r", "0", 11, 12), ("r", "1", 13, 14)])).linearizable(limit=100)

    def test_file(self):
        with tempfile.TemporaryDirectory() as where:
            path = os.path.join(where, "history")
            ops = history(("w", "1", 0, 1), ("r", None, 2, 3), ("w", "2", 4, None))
            lincheck.save(path, ops)
            self.assertEqual(lincheck.saved(path), ops)


class RandomOnes(unittest.TestCase):
    def test_against_every_order(self):
        """Small ones, good and bad."""
        rng, bad = random.Random(SEED), 0
        for i in range(3000):
            rows = []
            for j in range(rng.randrange(2, 7)):
                asked = rng.randrange(12)
                answered = None if rng.random() < 0.15 else asked + rng.randrange(6)
                rows.append(("w", str(j), asked, answered) if rng.random() < 0.5 else
                            ("r", rng.choice([None] + [str(n) for n in range(6)]), asked, answered))
            if rng.random() < 0.7:  # what nobody has written makes it too easy
                written = [r[1] for r in rows if r[0] == "w"] + [None]
                rows = [r if r[0] == "w" or r[1] in written else (r[0], rng.choice(written)) + r[2:] for r in rows]
            ops = history(*rows)
            found, right = check(ops), brute(ops)
            self.assertEqual(not found, right, "seed %d, history %d: %s: %s" % (SEED, i, found, ops))
            bad += not right
        self.assertTrue(500 < bad < 2500, "%d of 3000 are bad" % bad)

    def world(self, seed, **kw):
        world = World(random.Random(seed), **kw)
        return world.history()

    def test_good_worlds(self):
        for i in range(30):
            found = check(self.world(SEED + i, clients=20, ops=30))
            self.assertEqual(found, [], "seed %d" % (SEED + i))

    def test_planted(self):
        for fault in ("stale", "lost", "split", "resurrect"):
            for i in range(10):
                found = check(self.world(SEED + i, clients=20, ops=40, unknown=0.005, fault=fault))
                self.assertTrue(found, "%s was not found, seed %d" % (fault, SEED + i))

    def test_many(self):
        """20 clients, 2500 operations each, on four keys: the time for it grows as their number, not faster."""
        spent = []
        for ops in (250, 2500):
            h = self.world(SEED, clients=20, ops=ops, keys=4)
            begun = time.process_time()
            self.assertEqual(check(h), [], "seed %d" % SEED)
            spent.append(time.process_time() - begun)
        sys.stderr.write("# 5000 operations: %.2f s, 50000: %.2f s\n" % tuple(spent))
        self.assertLess(spent[1], 60 * spent[0])

    def test_a_long_one(self):
        """Operations that last for a thousand others are no trap."""
        rng = random.Random(SEED)
        rows = [("w", "long%d" % i, 0, 10000) for i in range(8)]
        for i in range(1000):
            rows += [("w", str(i), 10 * i, 10 * i + 1), ("r", str(i), 10 * i + 2, 10 * i + 3)]
        rows.append(("r", "long%d" % rng.randrange(8), 9999, 10001))
        self.assertEqual(check(history(*rows)), [])
        self.assertEqual(len(check(history(*rows, ("r", "5", 9998, 9999)))), 1)


if __name__ == "__main__":
    print("# seed %d (LOCKSTEP_SEED=%d repeats it)" % (SEED, SEED))
    tap.main()
