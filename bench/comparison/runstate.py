# SPDX-License-Identifier: BSD-2-Clause
"""
When a VM stood still, by QEMU's trace event runstate_set: the same means for every system, from outside of all of them.

QEMU writes it when its virtual CPUs have stopped and their devices know, and again before they go on. So it is shorter
than what Lockstep reports itself, from `stop` sent until `cont` is answered, by what stopping and continuing take.
"""

import glob
import os
import re

LINE = re.compile(r"^\d+@(\d+)\.(\d+):runstate_set current_run_state \d+ \((\S+)\) new_state \d+ \((\S+)\)$")


class Trace:
    """One QEMU's log in the directory dir; options() is what it must be started with."""

    def __init__(self, directory):
        self.dir = directory
        os.makedirs(directory, exist_ok=True)

    def options(self):
        """-D with the process id in the name, since both nodes of a pair get the same options."""
        return ["-msg", "timestamp=on", "-trace", "runstate_set", "-D", os.path.join(self.dir, "trace-%d.log")]

    def pauses(self, pid, since=0.0):
        """(seconds of the epoch, ms) of each pause of QEMU pid that began at since or later and is over."""
        found, begun = [], None
        for path in glob.glob(os.path.join(self.dir, "trace-%d.log" % pid)):
            with open(path, encoding="utf-8", errors="replace") as f:
                for line in f:
                    m = LINE.match(line)
                    if not m:
                        continue
                    at = int(m[1]) + int(m[2]) / 1e6
                    if m[3] == "running":
                        begun = at
                    elif m[4] == "running" and begun is not None:
                        if begun >= since:
                            found.append((begun, (at - begun) * 1000))
                        begun = None
        return found
