# SPDX-License-Identifier: BSD-2-Clause
"""
The disk of a system under test, and fio in its guest (guest/fiostart.c): jobs, and what they came to.

fio reads and writes past the guest's page cache (direct). It is told how long to run, and the rates are fio's own, by the
guest's clock: of the VM that the client sees. An answer of a pair differs between its copies and so makes a checkpoint,
after the measurement.
"""

import contextlib
import json
import os
import random

from bed import GUEST_OUT, BedError, Machine

FIO_PORT = 7100
RAMP = 1.0  # s before counting begins
PATIENCE = 60  # s beyond that
COMMON = "--name=%s --filename=/dev/%s --direct=1 --size=100%% --time_based --thread --disk_util=0 --randrepeat=1 "
JOBS = {
    "randread": "--rw=randread --bs=4k --ioengine=libaio --iodepth=16",
    "read": "--rw=read --bs=1M --ioengine=libaio --iodepth=4",
    "randwrite": "--rw=randwrite --bs=4k --ioengine=libaio --iodepth=16",
    "write": "--rw=write --bs=1M --ioengine=libaio --iodepth=4",
    "sync": "--rw=randwrite --bs=4k --ioengine=psync --fdatasync=1",
    "paced": "--rw=randwrite --bs=4k --ioengine=libaio --iodepth=16 --rate_iops=500",
}
DEVICES = {"ide": "sda", "virtio": "vda"}
INITRD = os.path.join(GUEST_OUT, "initramfs-fio.cpio.gz")


class DiskMachine(Machine):
    """The guest with fio, and one disk."""

    def __init__(self, *args, **kw):
        super().__init__(*args, append="rdinit=/fiostart lockstep.disks=1", generic=True, **kw)

    def image(self):
        if not os.path.exists(INITRD):
            raise BedError("%s is not there: run guest/build-fio" % INITRD)
        return super().image()[0], INITRD


def put_image(node, mb):
    """A raw image that is all written, so that no system pays for space; the same on each node."""
    piece = random.Random(1).randbytes(1 << 20)
    with open(os.path.join(node.dir, "disk.img"), "wb") as f:
        for _ in range(mb):
            f.write(piece)
        f.flush()
        os.fsync(f.fileno())


class Asked:
    """A job that runs in one bed's guest."""

    def __init__(self, bed, interface, name, seconds):
        self.name = name
        words = COMMON % (name, DEVICES[interface]) + "--runtime=%g --ramp_time=%g " % (seconds, RAMP) + JOBS[name]
        self.sock = bed.connect(FIO_PORT, timeout=10)
        self.sock.settimeout(seconds + RAMP + PATIENCE)
        self.sock.sendall(words.encode() + b"\n")

    def result(self):
        said = b""
        try:
            while True:
                more = self.sock.recv(65536)
                if not more:
                    break
                said += more
        except OSError as e:
            raise BedError("fio %s: no answer (%s)" % (self.name, e)) from e
        finally:
            self.close()
        try:
            job = json.loads(said[said.index(b"{"):])["jobs"][0]
        except (ValueError, LookupError) as e:
            raise BedError("fio %s: %s" % (self.name, said[:200].decode(errors="replace"))) from e
        if job["error"]:
            raise BedError("fio %s: error %d" % (self.name, job["error"]))
        side = job["read" if "read" in self.name else "write"]
        if not side["total_ios"]:
            raise BedError("fio %s: nothing was done" % self.name)
        waits = side["clat_ns"].get("percentile", {})
        if self.name == "sync":  # the wait is for the flush
            waits = job.get("sync", {}).get("lat_ns", {}).get("percentile", waits)
        cells = {"mb_per_s": side["bw_bytes"] / 1e6, "iops": side["iops"]}
        for p, key in (("p50_ms", "50.000000"), ("p99_ms", "99.000000")):
            if key in waits:
                cells[p] = waits[key] / 1e6
        return cells

    def close(self):
        self.sock.close()


def mean(results):
    return {k: sum(r[k] for r in results) / len(results) for k in results[0]}


@contextlib.contextmanager
def fio_beside(system, name, seconds):
    """A job in all guests of a system at once; gives a function that waits for it: the mean of what they came to."""
    running = []
    try:
        for b in system.beds:
            running.append(Asked(b, system.setup.interface, name, seconds))
        yield lambda: mean([r.result() for r in running])
    finally:
        for r in running:
            r.close()


def fio(system, name, seconds):
    with fio_beside(system, name, seconds) as result:
        return result()
