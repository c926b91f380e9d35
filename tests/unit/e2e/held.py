#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""What the end-to-end tests take for growth, with planted leaks."""

import os
import sys
import types
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, ".."), os.path.join(HERE, "..", "..", "e2e")]
import tap  # noqa: E402
import held  # noqa: E402

ROW = (40, 9, 120, 90, 7)


class Grown(unittest.TestCase):
    def test_steady(self):
        rows = [tuple(x + (i * 7 + k) % 2 for k, x in enumerate(ROW)) for i in range(400)]
        self.assertEqual(held.grown(rows), [])
        self.assertEqual(held.grown([ROW]), [])

    def test_leaks(self):
        for k, (what, slack) in enumerate(held.HELD):
            rows = [ROW[:k] + (ROW[k] + i * (slack + 1) // 100,) + ROW[k + 1:] for i in range(400)]
            found = held.grown(rows)
            self.assertEqual(len(found), 1, (what, found))
            self.assertTrue(found[0].startswith(what))

    def test_warm_up(self):
        """What is taken once, early, is no leak."""
        rows = [tuple(x // 2 for x in ROW)] * 20 + [ROW] * 380
        self.assertEqual(held.grown(rows), [])

    def test_holds(self):
        me = types.SimpleNamespace(pid=os.getpid())
        node = types.SimpleNamespace(lockstep_process=lambda: me, qemu_process=lambda: me, dir=HERE)
        first = held.holds(node)
        with open(os.devnull, "rb"):
            self.assertEqual(held.holds(node)[0], first[0] + 1)
        self.assertEqual(len(first), len(held.HELD))
        block = bytearray(os.urandom(8 << 20))
        self.assertGreaterEqual(held.holds(node)[2], first[2] + 7)
        del block


if __name__ == "__main__":
    tap.main()
