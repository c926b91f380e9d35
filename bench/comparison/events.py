# SPDX-License-Identifier: BSD-2-Clause
"""The checkpoints of a node, as `lockstep events` tells of them."""

import json
import subprocess
import threading

from bed import LOCKSTEP, VM_NAME, until


class Events(threading.Thread):
    """Collects them from now on; checkpoints is the list of what was said of each."""

    def __init__(self, node):
        super().__init__(daemon=True)
        self.checkpoints = []
        self.proc = subprocess.Popen(["ip", "netns", "exec", node.ns, LOCKSTEP, "events", VM_NAME, "--run-dir",
                                      node.run_dir], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        self.start()
        until(lambda: node.status()["monitor"]["watchers"] >= 1, 10, "the watcher of events")

    def run(self):
        for line in self.proc.stdout:
            e = json.loads(line)
            if e["event"] == "__LOCKSTEP_CHECKPOINT":
                self.checkpoints.append(e["data"])

    def close(self):
        self.proc.kill()
        self.proc.wait()
        self.join(5)
