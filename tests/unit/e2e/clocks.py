#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""
clocks.py PROGRAM LIBRARY... - nothing in Lockstep waits for a time of the wall clock, nor compares two of them

Somebody may set that clock by an hour at any moment, and the two nodes' clocks need not agree. What is written for
people and into records may have its time; it is listed here, file by file.
"""

import os
import re
import subprocess
import sys
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.abspath(os.path.join(HERE, "..", "..", ".."))
sys.path[:0] = [os.path.join(HERE, "..")]
import tap  # noqa: E402

# Functions of libc that wait until a moment of the wall clock, set it, or ask for it in a way that test_sources() does
# not see.
FORBIDDEN = {"pthread_cond_timedwait", "pthread_mutex_timedlock", "pthread_rwlock_timedrdlock", "pthread_timedjoin_np",
             "pthread_rwlock_timedwrlock", "sem_timedwait", "mq_timedreceive", "mq_timedsend", "gettimeofday",
             "ftime", "timespec_get", "settimeofday", "clock_settime", "adjtimex", "stime"}
# The wall clock is told, never used: lines of the log, events, captured frames, the head of a black box, the screen of
# status --watch. But for certificates, whose validity is in times of that clock.
TELLS = {"src/base/log.c", "src/monitor/request.c", "src/proxy/capture.c", "src/node_health.c", "src/node_status.c",
         "src/cli/watch.c", "src/base/tls.c"}
BUILT = sys.argv[1:]


class Clocks(unittest.TestCase):
    def test_functions(self):
        self.assertTrue(BUILT)
        for path in BUILT:
            text = subprocess.run(["nm", "-D", "--undefined-only", path], stdout=subprocess.PIPE, text=True,
                                  check=True).stdout
            used = {line.split()[-1].partition("@")[0] for line in text.splitlines()}
            self.assertIn("clock_gettime", used, path)
            self.assertEqual(used & FORBIDDEN, set(), path)

    def test_sources(self):
        """Those of TELLS and no others, so that the list does not grow unseen; KVM_CLOCK_REALTIME is the guest's."""
        found = set()
        for top in ("src", "agent"):
            for where, _, names in os.walk(os.path.join(ROOT, top)):
                for name in names:
                    path = os.path.join(where, name)
                    if name.endswith((".c", ".h")):
                        with open(path, encoding="utf-8") as f:
                            if re.search(r"\bCLOCK_(REALTIME|TAI)|\btime\(", f.read()):
                                found.add(os.path.relpath(path, ROOT))
        self.assertEqual(found, TELLS)


if __name__ == "__main__":
    del sys.argv[1:]
    tap.main()
