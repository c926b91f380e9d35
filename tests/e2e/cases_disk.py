# SPDX-License-Identifier: BSD-2-Clause
"""Disks: replicated, consistent after failovers, resynced, refused where they must be."""

import hashlib
import os
import subprocess

from bed import VM_NAME, Machine, until
from cases_pair import mixed_load, pause
from harness import case, must, note, same, say
from load import ms


def image(node, name="disk.img", mb=64, content=None):
    """A raw image in the node's directory; content: bytes at its beginning."""
    path = os.path.join(node.dir, name)
    with open(path, "wb") as f:
        f.truncate(mb << 20)
        if content:
            f.write(content)
    return path


def sha(path):
    h = hashlib.sha256()
    with open(path, "rb") as f:
        for piece in iter(lambda: f.read(1 << 20), b""):
            h.update(piece)
    return h.hexdigest()


def drive(name="disk.img", fmt="raw", interface="virtio", more=""):
    return ["-drive", "file=@DIR@/%s,format=%s,if=%s,id=d-%s%s" % (name, fmt, interface, name.split(".")[0], more)]


@case()
def disk_pair(bed):
    """A pair with a disk comes up, the second copy's image is made equal first, and it fails over."""
    image(bed.a, content=os.urandom(8 << 20))
    image(bed.b)
    bed.start_pair(Machine("pc", "virtio-net-pci", extra=drive()))
    same(sha(bed.a.dir + "/disk.img"), sha(bed.b.dir + "/disk.img"), "the images")
    with mixed_load(bed) as load:
        for _ in range(5):
            load.wait_answers(5, 20)
            bed.a.call("checkpoint", VM_NAME, timeout=30)
        p50 = pause(bed.a)
        say("disk: %s", bed.b.status()["disk"])
        bed.kill(bed.a, "both")
        bed.wait_alone(bed.b)
        load.wait_answers(20, 30)
        note("gap %s, checkpoint pause p50 %.1f ms", ms(load.gap()), p50)
        load.finish()
    until(lambda: not bed.b.status()["disk"]["merging"], 20, "the merge")
