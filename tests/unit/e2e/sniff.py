#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""
What the sniffer of the end-to-end tests makes of frames: with planted violations, and random ones of a known number.
LOCKSTEP_SEED=N repeats them.
"""

import os
import random
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, ".."), os.path.join(HERE, "..", "..", "e2e")]
import tap  # noqa: E402
import sniff  # noqa: E402
from sniff import Frame, judge  # noqa: E402

SEED = int(os.environ.get("LOCKSTEP_SEED", random.SystemRandom().randrange(1 << 30)))
BEGIN = 1700000000.0


def frames(text, step=0.01):
    """A frame every step, "aab": two of a, one of b; a dot is silence."""
    return [Frame(BEGIN + i * step, tag, 60) for i, tag in enumerate(text) if tag != "."]


class Turns(unittest.TestCase):
    def good(self, text, turns, thaws=(), late=0):
        v = judge(frames(text), turns, [BEGIN + t for t in thaws])
        self.assertEqual(v.complaints, [])
        self.assertEqual(len(v.late), late)
        return v

    def bad(self, text, turns, thaws=(), n=1):
        v = judge(frames(text), turns, [BEGIN + t for t in thaws])
        self.assertEqual(len(v.complaints), n, v.complaints)
        return v.complaints[0]

    def test_silence(self):
        self.good("", "a")
        self.assertEqual(str(judge([], "ab")), "no frames; no change")

    def test_one(self):
        self.good("aaaaa", "a")
        self.good("bbb", "ab")      # a had nothing to say

    def test_handover(self):
        v = self.good("aaa..bbb", "ab")
        self.assertEqual([(x, y) for x, y, _ in v.handovers], [("a", "b")])
        self.assertAlmostEqual(v.handovers[0][2], 0.03, 3)
        self.assertEqual(v.spoke, {"a": 3, "b": 3})

    def test_many_turns(self):
        v = self.good("aabbbaab", "abab")
        self.assertEqual(len(v.handovers), 3)
        self.good("aabb", "abababa")
        self.good("aaaab", "aaab")
        self.bad("aabbbaab", "aba")

    def test_nobodys_turn(self):
        self.assertIn("had no turn", self.bad("aab", "a"))
        self.bad("a", "")

    def test_split_brain(self):
        self.bad("aaababab", "ab", n=2)
        self.bad("aaabbbaaa", "ab", n=3)
        self.bad("bbbabab", "bab", n=1)

    def test_one_frame_between(self):
        self.assertIn("in the turn of node b", self.bad("aaabbbabbb", "ab"))

    def test_back_before_its_turn(self):
        """A single frame of b while a serves, which will be b's turn one day."""
        for thaws in ([], [BEGIN + 0.045]):
            self.assertTrue(judge(frames("aaaaabaaaaa....bbb"), "ab", thaws).complaints)

    def test_late_frame(self):
        self.good("aaabbbabbb", "ab", thaws=[0.055], late=1)

    def test_late_frame_of_nobody_frozen(self):
        self.bad("aaabbbabbb", "ab", thaws=[0.065])                     # before it went on
        self.bad("aaabbb" + "b" * 200 + "abbb", "ab", thaws=[0.055])    # long after

    def test_two_late_frames(self):
        self.bad("aaabbbaabbb", "ab", thaws=[0.055])
        self.good("aaabbbaabbb", "ab", thaws=[0.055, 0.056], late=2)

    def test_order_of_the_file_is_none(self):
        self.assertEqual(judge(frames("aaabbb")[::-1], "ab").complaints, [])

    def test_random(self):
        """As many complaints as frames were planted into others' turns."""
        rng = random.Random(SEED)
        for i in range(500):
            turns = [rng.choice("ab")]
            for _ in range(rng.randrange(6)):
                turns.append("b" if turns[-1] == "a" else "a")
            text = "".join(t * rng.randrange(10, 20) for t in turns)
            self.assertEqual(judge(frames(text), turns).complaints, [])
            if len(turns) < 2:
                continue
            # Frames of the one before within the last turn: fewer than what would be cheaper to explain otherwise.
            end = list(turns[-1] * 40)
            places = rng.sample(range(1, 39), rng.randrange(1, 8))
            for k in places:
                end[k] = turns[-2]
            got = judge(frames(text + "".join(end)), turns).complaints
            self.assertEqual(len(got), len(places), "seed %d, case %d" % (SEED, i))


class File(unittest.TestCase):
    def setUp(self):
        self.where = tempfile.TemporaryDirectory()
        self.addCleanup(self.where.cleanup)
        self.path = os.path.join(self.where.name, "x.pcapng")

    def write(self, drops=0, end=True):
        with open(self.path, "wb") as out:
            out.write(sniff.file_head(["a", "b"]))
            out.write(sniff.file_frame(1, 1700000000123456789, 1500, b"12345"))
            out.write(sniff.file_frame(0, 1700000000023456789, 3, b"abc"))
            if end:
                out.write(sniff.file_end(0, 1, drops) + sniff.file_end(1, 1, 0))

    def test_there_and_back(self):
        self.write()
        got, drops = sniff.read_file(self.path)
        self.assertEqual([(f.tag, f.size) for f in got], [("a", 3), ("b", 1500)])
        self.assertAlmostEqual(got[1].when - got[0].when, 0.1, 6)
        self.assertEqual(drops, 0)

    def test_missed(self):
        self.write(drops=7)
        self.assertEqual(sniff.read_file(self.path)[1], 7)

    def test_without_its_end(self):
        self.write(end=False)
        with self.assertRaises(ValueError):
            sniff.read_file(self.path)

    def test_broken_off(self):
        self.write()
        with open(self.path, "r+b") as f:
            f.truncate(os.path.getsize(self.path) - 5)
        with self.assertRaises(ValueError):
            sniff.read_file(self.path)


if __name__ == "__main__":
    print("# seed %d (LOCKSTEP_SEED=%d repeats it)" % (SEED, SEED))
    tap.main()
