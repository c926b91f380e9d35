# SPDX-License-Identifier: BSD-2-Clause
"""What a node's processes hold, and whether it grows from life to life."""

import os
import statistics

from bed import BedError


def holds(node):
    """
    What a node's processes hold: files and threads of Lockstep, its memory of its own and QEMU's in MiB, and the
    entries of the node's directories.
    """
    pid = node.lockstep_process().pid
    entries = sum(len(dirs) + len(files) for _, dirs, files in os.walk(node.dir))
    return (len(os.listdir("/proc/%d/fd" % pid)), len(os.listdir("/proc/%d/task" % pid)), own_mb(pid),
            own_mb(node.qemu_process().pid), entries)


def own_mb(pid):
    """Private memory, without what is mapped of files and of the guest's shared memory."""
    with open("/proc/%d/status" % pid, encoding="utf-8", errors="replace") as f:
        for line in f:
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) >> 10
    raise BedError("no RssAnon of process %d" % pid)


HELD = (("files", 1), ("threads", 1), ("MiB of Lockstep", 24), ("MiB of QEMU", 64), ("directory entries", 1))


def grown(rows):
    """What has grown from the second quarter of the rows to the last one: a sentence for each."""
    quarter = max(1, len(rows) // 4)
    early, late = rows[quarter:2 * quarter] or rows[:1], rows[-quarter:]
    found = []
    for k, (what, slack) in enumerate(HELD):
        first, last = (statistics.median(r[k] for r in part) for part in (early, late))
        if last > first + slack:
            found.append("%s: %g, then %g" % (what, first, last))
    return found
