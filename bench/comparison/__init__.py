# SPDX-License-Identifier: BSD-2-Clause
"""
The parts of bench/compare:

systems, colo       the systems under test, each in namespaces of its own (tests/e2e/bed.py)
qmp, runstate       QEMU's monitor, and when it stood still, for those and for Lockstep by the same means
figures             what is measured on one of them; curves: what is plotted
rounds              the order of everything, restarts, progress
summary, targets    medians and ratios; what is to be reached
report, svg         what is written
"""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(HERE)), "tests", "e2e"))
