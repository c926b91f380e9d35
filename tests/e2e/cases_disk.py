# SPDX-License-Identifier: BSD-2-Clause
"""Disks: replicated, consistent after failovers, resynced, refused where they must be."""

import contextlib
import hashlib
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import time

from bed import ROOT, VM_NAME, Machine, until
from cases_pair import mixed_load, pause
from cases_refuse import mismatched
from harness import case, moment, must, note, same, say, seed_from
from load import Ask, Count, Incr, Load, ms

sys.path.insert(0, os.path.join(ROOT, "guest"))
import diskimage  # noqa: E402
from guestclient import pattern, xxh64  # noqa: E402

MB = 1 << 20
SIZE = 64 * MB
LOG, LOG_LEN = 48 * MB, 16 * MB         # where the guest's log is on a disk (guest/PROTOCOL.md)
AREA, AREA_LEN, SEED = 8 * MB, 8 * MB, 5    # and where its load is
FREE, FREE_LEN = 32 * MB, 16 * MB       # and where a test writes by itself
TRIMMED = 20 * MB                       # and where it trims
PATIENT = ["--qemu-timeout", "30000"]   # for QEMUs that a test stops


def image(node, name="disk.img", mb=SIZE // MB, content=None, fmt="raw"):
    """An image in the node's directory; content: bytes at its beginning."""
    path = os.path.join(node.dir, name)
    if fmt != "raw":
        subprocess.run(["qemu-img", "create", "-q", "-f", fmt, path, "%dM" % mb], check=True)
        return path
    with open(path, "wb") as f:
        f.truncate(mb * MB)
        if content:
            f.write(content)
    return path


def sha(path):
    h = hashlib.sha256()
    with open(path, "rb") as f:
        for piece in iter(lambda: f.read(1 << 20), b""):
            h.update(piece)
    return h.hexdigest()


def drive_id(name):
    return "d-" + os.path.basename(name).split(".")[0]


def drive(name="disk.img", fmt="raw", interface="virtio", more=""):
    return ["-drive", "file=@DIR@/%s,format=%s,if=%s,id=%s%s" % (name, fmt, interface, drive_id(name), more)]


def machine(*drives, model="pc", first=(), generic=False):
    """A machine whose guest is ready when it has all of these disks. first: what QEMU is told before them."""
    return Machine(model, "virtio-net-pci", append="lockstep.disks=%d" % len(drives),
                   extra=list(first) + [x for d in drives for x in d], generic=generic)


def img(node, name="disk.img"):
    return os.path.join(node.dir, name)


class Append(Count):
    """Lines for the guest's log; each answer says that its line is on the disk."""

    def __init__(self, disk="vda", **kw):
        super().__init__(**kw)
        self.name, self.disk = "append", disk

    def next_request(self):
        n = self.asked + 1
        return b"disk %s append line %d\n" % (self.disk.encode(), n * n), b"%d" % n

    @staticmethod
    def line_of(n):
        return b"%d line %d\n" % (n, n * n)

    def hash(self):
        return xxh64(b"".join(self.line_of(n) for n in range(1, self.answers + 1)))

    def in_image(self, path):
        """All that was answered is in an image."""
        with open(path, "rb") as f:
            for n in range(1, self.answers + 1):
                f.seek(LOG + (n - 1) * 4096)
                want = self.line_of(n)
                same(f.read(4096)[:len(want)], want, "line %d in %s" % (n, path))


class Scribbler:
    """Writes of every kind and alignment to a part of a disk, and a model of what must be read there."""

    def __init__(self, ask, disk, seed, off=FREE, length=FREE_LEN, sector=512):
        self.ask, self.disk, self.rng = ask, disk, random.Random(seed)
        self.off, self.sector = off, sector
        self.model = bytearray(length)

    def one(self):
        n = self.rng.randint(1, 64) * self.sector
        at = self.rng.randrange((len(self.model) - n) // self.sector) * self.sector
        seed = self.rng.getrandbits(32)
        what = self.rng.choice(["write", "write", "sync", "fua", "zero", "trim"])
        where = "%d %d" % (self.off + at, n)
        if what in ("zero", "trim"):
            got = self.ask("disk %s %s %s" % (self.disk, what, where))
        else:
            got = self.ask("disk %s write %s %d %s" % (self.disk, where, seed, "" if what == "write" else what))
        if what == "trim":
            # Zeroes or what was there, of each sector; or a disk that has none of it.
            must(got == "ok" or "not supported" in got, "trim: %s", got)
            if self.ask("disk %s read-hash %s" % (self.disk, where)) == xxh64(bytes(self.model[at:at + n])):
                return
            for i in range(at, at + n, self.sector):
                where = "%d %d" % (self.off + i, self.sector)
                if self.ask("disk %s read-hash %s" % (self.disk, where)) != xxh64(
                        bytes(self.model[i:i + self.sector])):
                    self.model[i:i + self.sector] = bytes(self.sector)
            return
        same(got, "ok", what)
        self.model[at:at + n] = bytes(n) if what == "zero" else pattern(n, seed)

    def some(self, n):
        for _ in range(n):
            self.one()

    def judge(self, why):
        piece = MB
        for at in range(0, len(self.model), piece):
            same(self.ask("disk %s read-hash %d %d" % (self.disk, self.off + at, piece)),
                 xxh64(bytes(self.model[at:at + piece])), "MiB %d of what was written to %s %s" % (
                     (self.off + at) // MB, self.disk, why))


def begin(ask, *disks, rate=200):
    """The guest's load, on one disk or the same on two, and a log on the first."""
    same(ask("disk %s log %d %d" % (disks[0], LOG, LOG_LEN)), "ok", "log")
    same(ask("disk %s load %d %d %d %d %s" % (disks[0], rate, AREA, AREA_LEN, SEED, " ".join(disks[1:]))), "ok", "load")


def rest(ask, disk="vda"):
    """The load stands, and all of it is flushed; returns how many records it has written."""
    same(ask("disk %s load 0" % disk), "ok", "the end of the load")
    same(ask("disk %s verify" % disk), "ok", "verify")
    same(ask("disk %s flush" % disk), "ok", "flush")
    written, flushed = ask("disk %s records" % disk).split()
    same(written, flushed, "records written and flushed")
    return int(written)


def commit(bed, server=None):
    """What the guest has written until now is in both nodes' images."""
    server = server or bed.a
    standby = bed.b if server is bed.a else bed.a
    server.call("checkpoint", VM_NAME, timeout=60)
    until(lambda: server.status()["disk"]["uncommitted_bytes"] == 0 and
          all(standby.status()["disk"][x + "_bytes"] == 0 for x in ("committed", "pending")), 30,
          lambda: "the commit (%s: %s, %s: %s)" % (server.name, server.status()["disk"], standby.name,
                                                  standby.status()["disk"]))


@contextlib.contextmanager
def stopped(*nodes):
    for n in nodes:
        n.qemu_process().signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for n in nodes:
            n.qemu_process().signal(signal.SIGCONT)


def equal_images(bed, *names):
    """Of a guest that writes nothing at the moment."""
    commit(bed)
    with stopped(bed.a, bed.b):
        for name in names or ("disk.img",):
            same(sha(img(bed.a, name)), sha(img(bed.b, name)), "the images %s" % name)


def end(node):
    node.proc.signal(signal.SIGTERM)
    same(node.proc.wait(30, "node " + node.name), 0, "node %s's exit status" % node.name)


def back(bed, m, options=()):
    """The secondary is started once more."""
    bed.b.start("secondary", m, options)
    bed.wait_protected(90)


def judge_image(path, records, exact=True):
    upto, bad = diskimage.Load(path, AREA, AREA_LEN, SEED).judge(exact)
    same(bad[:3], [], "complaints about %s" % path)
    must(upto >= records, "%s has %d records, not %d", path, upto, records)
    return upto


def failover(bed, m, disks, names):
    """Load and log, equal images, a kill at a random moment; then nothing is lost, doubled or from the dead node."""
    bed.start_pair(m, PATIENT)
    with Ask(bed) as ask:
        begin(ask, *disks)
        with Load(bed, [Incr("a", depth=2), Append(disks[0], interval=0.01)]) as load:
            log = load.conns[1]
            load.wait_answers(5, 60)
            log.paused = True
            until(lambda: not log.pending, 20, "the log's answers")
            rest(ask, disks[0])
            equal_images(bed, *names)
            log.paused = False
            load.wake()
            same(ask("disk %s load 200" % disks[0]), "ok", "the load goes on")
            bed.a.call("checkpoint", VM_NAME, timeout=60)
            load.wait_answers(5, 60)
            load.forget()
            moment(0.1, 1.5)
            bed.kill(bed.a, "both")
            bed.wait_alone(bed.b, 30)
            same(ask("disk %s verify" % disks[0]), "ok", "verify after the failover")
            load.wait_answers(5, 60)
            note("gap %s, %d lines", ms(load.gap()), log.answers)
            load.finish()
            same(ask("disk %s appended" % disks[0]), "%d %s" % (log.answers, log.hash()), "the log")
        records = rest(ask, disks[0])
        until(lambda: not bed.b.status()["disk"]["merging"], 30, "the merge")
        with stopped(bed.b):
            for name in names:
                same(judge_image(img(bed.b, name), records), records, "records in " + name)
            log.in_image(img(bed.b, names[0]))


@case(timeout=180)
def disk_failover(bed):
    """The same records to a virtio and an IDE disk: images are equal, and after a failover as the guest says."""
    for node in (bed.a, bed.b):
        image(node)
        image(node, "second.img")
    failover(bed, machine(drive(), drive("second.img", interface="ide")), ["vda", "sda"], ["disk.img", "second.img"])


@case("disk")
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


# What follows is the suite disk.

def every_disk(bed, *interfaces, rounds=60, generic=False, model="pc", first=()):
    """Writes of every kind to each disk, with checkpoints in between; after a failover all of them read as written."""
    seed = seed_from()
    names = ["disk%d.img" % i for i in range(len(interfaces))]
    sizes = {SIZE + i * MB: name for i, name in enumerate(names)}   # by which the guest's disks are told apart
    for node in (bed.a, bed.b):
        for size, name in sizes.items():
            image(node, name, size // MB)
    kinds = {"virtio": "vd"}
    count, drives, disks = {}, [], []
    for name, kind in zip(names, interfaces):
        kind_name = kinds.get(kind, "sd")
        at = count.get(kind_name, 0)
        count[kind_name] = at + 1
        disks.append(kind_name + "abcd"[at])
        if kind in ("virtio", "ide"):
            drives.append(drive(name, interface=kind, more=",discard=unmap"))
        else:
            device = {"scsi": "scsi-hd", "sector4k": "scsi-hd,physical_block_size=4096,"
                      "logical_block_size=4096"}[kind]
            drives.append(drive(name, interface="none", more=",discard=unmap") +
                          ["-device", "%s,drive=%s" % (device, drive_id(name))])
    bed.start_pair(machine(*drives, model=model, first=first, generic=generic), PATIENT)
    with Ask(bed, timeout=60) as ask:
        scribblers, names = [], []
        for disk in disks:
            size, sector = (int(x) for x in ask("disk %s size" % disk).split()[:2])
            scribblers.append(Scribbler(ask, disk, "%d %s" % (seed, disk), sector=sector))
            # A guest may find the disks of one bus in any order.
            names.append(sizes[size])
        for i in range(rounds):
            for s in scribblers:
                s.some(2)
            if i % 10 == 9:
                bed.a.call("checkpoint", VM_NAME, timeout=60)
        for s in scribblers:
            s.judge("before the failover")
        equal_images(bed, *names)
        for s in scribblers:
            s.some(10)
        bed.kill(bed.a, "both")
        bed.wait_alone(bed.b, 30)
        for s in scribblers:
            s.judge("after the failover")
            s.some(20)
            s.judge("at the end")
            same(ask("disk %s flush" % s.disk), "ok", "flush")
        until(lambda: not bed.b.status()["disk"]["merging"], 30, "the merge")
        with stopped(bed.b):
            for s, name in zip(scribblers, names):
                with open(img(bed.b, name), "rb") as f:
                    f.seek(FREE)
                    got = f.read(FREE_LEN)
                off = [at for at in range(0, FREE_LEN, 512) if got[at:at + 512] != s.model[at:at + 512]]
                must(not off, "%s is not what the guest has written: %d sectors, the first at %s", name, len(off),
                     [(at, got[at:at + 8].hex(), bytes(s.model[at:at + 8]).hex()) for at in off[:4]])


@case("disk", timeout=240)
def disk_virtio_and_ide(bed):
    every_disk(bed, "virtio", "ide", "virtio")


@case("disk", timeout=240)
def disk_scsi(bed):
    """With sectors of 512 bytes and of 4096."""
    every_disk(bed, "scsi", "sector4k", first=["-device", "virtio-scsi-pci"])


@case("disk", timeout=300)
def disk_ahci(bed):
    every_disk(bed, "ide", "ide", generic=True, model="q35", first=["-nodefaults"])


@case("disk", timeout=1800)
def disk_rounds(bed):
    """
    Failovers at random moments (LOCKSTEP_ROUNDS, 20), each followed by a resync and a failback: the dead node comes
    back as the secondary, and is the next to serve. Every line and record is there exactly once, in both nodes' images.
    """
    rng = random.Random(seed_from())
    rounds = int(os.environ.get("LOCKSTEP_ROUNDS", 20))
    names = ["disk.img", "second.img"]
    for node in (bed.a, bed.b):
        for name in names:
            image(node, name)
    m, options = machine(drive(), drive("second.img")), PATIENT + ["--checkpoint-delay", "300"]
    bed.start_pair(m, options)
    server, standby, gaps, sent = bed.a, bed.b, [], []
    with Ask(bed, timeout=60) as ask:
        begin(ask, "vda", "vdb", rate=400)
        with Load(bed, [Append(interval=0.1), Incr("a", interval=0.02)]) as load:
            log = load.conns[0]
            for i in range(rounds):
                load.wait_answers(3, 60)
                load.forget()
                moment(0.0, 1.5, rng.getrandbits(30))
                what = rng.choice(("lockstep", "qemu", "both"))
                say("round %d: %s of node %s is killed", i + 1, what, server.name)
                bed.kill(server, what)
                bed.wait_alone(standby, 30)
                same(ask("disk vda verify"), "ok", "verify after the failover")
                load.wait_answers(3, 60)
                gaps.append(load.gap())
                server.proc.wait(20, "node " + server.name)
                until(server.qemu_process().ended, 10, "the end of node %s's QEMU" % server.name)
                server.start("secondary" if server is bed.b else "joiner", m, options)
                server, standby = standby, server
                bed.wait_protected(90, server=server)
                sent.append(server.status()["disk"]["resync"]["sent_bytes"] / MB)
                log.paused = True
                until(lambda: not log.pending, 20, "the log's answers")
                records = rest(ask)
                commit(bed, server)
                with stopped(bed.a, bed.b):
                    for name in names:
                        same(sha(img(bed.a, name)), sha(img(bed.b, name)), "the images " + name)
                    same(judge_image(img(bed.a, name), records), records, "records in " + name)
                log.in_image(img(bed.a))
                log.paused = False
                load.wake()
                same(ask("disk vda load 400"), "ok", "load")
            load.finish()
        same(ask("disk vda appended"), "%d %s" % (log.answers, log.hash()), "the log")
    note("%d rounds, %d lines, %d records, gaps %s to %s, resyncs of %.1f to %.1f MiB", rounds, log.answers, records,
         ms(min(gaps)), ms(max(gaps)), min(sent), max(sent))


def two_formats(bed, a_format, b_format):
    """The nodes keep their copies in different formats."""
    machines = []
    for node, fmt in ((bed.a, a_format), (bed.b, b_format)):
        image(node, "disk." + fmt, fmt=fmt)
        machines.append(machine(["-drive", "file=@DIR@/disk.%s,format=%s,if=virtio,id=d0,discard=unmap" % (
            fmt, fmt)]))
    bed.b.start("secondary", machines[1], PATIENT)
    until(lambda: bed.b.must_live() or bed.b.status(), 15, "node b's control socket")
    bed.a.start("primary", machines[0], PATIENT)
    bed.wait_ready(bed.a)
    bed.wait_protected()
    a, b = (os.path.join(n.dir, "disk." + f) for n, f in ((bed.a, a_format), (bed.b, b_format)))
    with Ask(bed) as ask:
        begin(ask, "vda", rate=50)
        s = Scribbler(ask, "vda", seed_from())
        s.some(40)
        rest(ask)
        same(ask("disk vda write %d %d 9 sync" % (TRIMMED, 2 * MB)), "ok", "write")
        commit(bed)
        used = [os.stat(x).st_blocks * 512 for x in (a, b)]
        # Not of whole clusters at either end.
        same(ask("disk vda trim %d %d" % (TRIMMED + 4096, 2 * MB - 8192)), "ok", "trim")
        same(ask("disk vda read-hash %d %d" % (TRIMMED + 65536, 2 * MB - 2 * 65536)),
             xxh64(bytes(2 * MB - 2 * 65536)), "what was trimmed")
        commit(bed)
        freed = [x - os.stat(path).st_blocks * 512 for x, path in zip(used, (a, b))]
        must(min(freed) > MB, "a trim of 2 MiB has freed %s bytes in %s and %s", freed, a_format, b_format)
        with stopped(bed.a, bed.b):
            r = subprocess.run(["qemu-img", "compare", "-U", "-f", a_format, "-F", b_format, a, b], check=False,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        same(r.returncode, 0, "qemu-img compare: " + r.stdout)
        same(ask("disk vda load 50"), "ok", "load")
        s.some(20)
        bed.kill(bed.a, "both")
        bed.wait_alone(bed.b, 30)
        s.judge("after the failover")
        records = rest(ask)
    until(lambda: not bed.b.status()["disk"]["merging"], 30, "the merge")
    end(bed.b)
    subprocess.run(["qemu-img", "convert", "-f", b_format, "-O", "raw", b, b + ".raw"], check=True)
    same(judge_image(b + ".raw", records), records, "records in " + b)


@case("disk", timeout=240)
def disk_qcow2_beside_raw(bed):
    two_formats(bed, "qcow2", "raw")


@case("disk", timeout=240)
def disk_raw_beside_qcow2(bed):
    two_formats(bed, "raw", "qcow2")


def resync(bed):
    """What status says of the last one, of which a is the source."""
    return bed.a.status()["disk"]["resync"]


@case("disk", timeout=300)
def disk_resync(bed):
    """Only what has changed moves; an interrupted resync goes on where it was; --resync-rate holds."""
    content = os.urandom(16 * MB)
    image(bed.a, content=content)
    image(bed.b, content=content[:8 * MB])
    m, rate = machine(drive()), 8
    bed.start_pair(m, PATIENT, a_options=["--resync-rate", str(rate)])
    first = resync(bed)
    must(7 * MB < first["sent_bytes"] < 9 * MB, "the first: %s", first)
    with Ask(bed, timeout=60) as ask:
        def write(at, mb, seed):
            same(ask("disk vda write %d %d %d sync" % (at * MB, mb * MB, seed)), "ok", "write")
        end(bed.b)
        bed.wait_alone(bed.a)
        write(20, 4, 1)
        back(bed, m, PATIENT)
        clean = resync(bed)
        must(4 * MB <= clean["sent_bytes"] < 5 * MB, "after a clean end: %s", clean)
        equal_images(bed)
        write(20, 1, 2)
        bed.kill(bed.b, "both")
        bed.wait_alone(bed.a, 30)
        write(24, 4, 3)
        back(bed, m, PATIENT)
        killed = resync(bed)
        must(4 * MB <= killed["sent_bytes"] < 6 * MB, "after a kill: %s", killed)
        equal_images(bed)
        end(bed.b)
        bed.wait_alone(bed.a)
        write(16, 32, 4)
        bed.b.start("secondary", m, PATIENT)
        begun = until(lambda: (resync(bed) or {}).get("sent_bytes") and time.monotonic(), 60, "its begin", every=0.01)
        until(lambda: resync(bed)["sent_bytes"] > 16 * MB, 60, "half of it", every=0.01)
        seconds = time.monotonic() - begun
        bed.kill(bed.b, "both")
        bed.wait_alone(bed.a, 30)
        sent = resync(bed)["sent_bytes"]
        must(sent < 32 * MB and sent / seconds < 1.5 * rate * MB, "%d bytes in %.1f s", sent, seconds)
        back(bed, m, PATIENT)
        last = resync(bed)
        note("sent: first %.1f, clean %.1f, killed %.1f, interrupted %.1f and %.1f MiB", *(
            x / MB for x in (first["sent_bytes"], clean["sent_bytes"], killed["sent_bytes"], sent, last["sent_bytes"])))
        must(sent + last["sent_bytes"] < 36 * MB, "interrupted after %d, then %s", sent, last)
        equal_images(bed)


@case("disk", timeout=300)
def disk_both_killed(bed):
    """What the guest was told to be flushed is in the primary's image; from that the pair comes up again, equal."""
    for node in (bed.a, bed.b):
        image(node)
        image(node, "second.img")
    m = machine(drive(), drive("second.img"))
    bed.start_pair(m, PATIENT)
    with Ask(bed) as ask:
        begin(ask, "vda", "vdb")
        with Load(bed, [Append(interval=0.005)]) as load:
            load.wait_answers(10, 60)
            records = int(ask("disk vda records").split()[1])
            moment(0.05, 2.0)
            load.check()
            # The secondary first: between two kills it would take over, and what it serves then is not in a's image.
            for p in (bed.b.proc, bed.a.proc, bed.b.qemu_process(), bed.a.qemu_process()):
                p.kill()
            for node in (bed.a, bed.b):
                node.proc.wait(10)
                node.qemu_process().wait(10)
            log = load.conns[0]
            load.close()
    log.in_image(img(bed.a))
    found = [judge_image(img(bed.a, name), records, exact=False) for name in ("disk.img", "second.img")]
    note("%d lines, %d records told, %s in the images", log.answers, records, found)
    bed.a.console += ".2"
    bed.start_pair(m, PATIENT)
    say("the resync: %s", resync(bed))
    must(resync(bed)["read_bytes"] < SIZE, "everything was compared: %s", resync(bed))
    log.in_image(img(bed.a))
    equal_images(bed, "disk.img", "second.img")
    same([judge_image(img(bed.b, name), records, exact=False) for name in ("disk.img", "second.img")], found,
         "what b's images have")


@case("disk", timeout=400)
def disk_secondary_killed(bed):
    """Time and again in the middle of commits; each time it comes back, and at the end the images are equal."""
    rng = random.Random(seed_from())
    for node in (bed.a, bed.b):
        image(node)
        image(node, "second.img")
    m = machine(drive(), drive("second.img"))
    options = PATIENT + ["--checkpoint-delay", "100"]
    bed.start_pair(m, options)
    sent = []
    with Ask(bed, timeout=60) as ask:
        begin(ask, "vda", "vdb", rate=1000)
        s = Scribbler(ask, "vda", rng.getrandbits(30))
        with Load(bed, [Append(interval=0.01)]) as load:
            for _ in range(6):
                s.some(10)
                moment(0.0, 1.0, rng.getrandbits(30))
                bed.kill(bed.b, rng.choice(("lockstep", "both")))
                bed.wait_alone(bed.a, 30)
                s.some(5)
                load.wait_answers(5, 60)
                until(bed.b.qemu_process().ended, 10, "the end of node b's QEMU")
                back(bed, m, options)
                sent.append(resync(bed)["sent_bytes"] / MB)
            load.finish()
            log = load.conns[0]
        s.judge("at the end")
        records = rest(ask)
        equal_images(bed, "disk.img", "second.img")
        log.in_image(img(bed.b))
        judge_image(img(bed.b, "second.img"), records)
    note("sent: %s MiB", " ".join("%.1f" % x for x in sent))


@contextlib.contextmanager
def small_place(node, name, mb):
    """A file system of so many MiB in a node's directory."""
    path = os.path.join(node.dir, name)
    os.mkdir(path)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=%dm" % mb, "lockstep-test", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def secondary_full(bed, fmt, why, options=()):
    os.mkdir(os.path.join(bed.a.dir, "place"))
    with small_place(bed.b, "place", 24):
        for node in (bed.a, bed.b):
            image(node, "place/disk.img", fmt=fmt)
        bed.start_pair(machine(drive("place/disk.img", fmt=fmt)), PATIENT, b_options=list(options))
        with Ask(bed, timeout=60) as ask, Load(bed, [Incr("a")]) as load:
            begin(ask, "vda")
            for i in range(8):
                same(ask("disk vda write %d %d %d sync" % ((16 + 4 * i) * MB, 4 * MB, i)), "ok", "write")
            bed.wait_alone(bed.a, 60)
            load.wait_answers(20, 30)
            same(ask("disk vda verify"), "ok", "verify")
            for i in range(8):
                same(ask("disk vda read-hash %d %d" % ((16 + 4 * i) * MB, 4 * MB)), xxh64(pattern(4 * MB, i)), "hash")
            load.finish()
        must(re.search("No space left on device.*place/disk.img", bed.b.said()), "node b does not say why: %s",
             bed.b.tail(10))
        must(re.search(why, bed.a.said()), "node a does not say why: %s", bed.a.tail(10))
        must(bed.b.proc.wait(10, "node b") not in (0, None), "node b ended as if nothing were wrong")


@case("disk", timeout=180)
def disk_secondary_full(bed):
    """Where the secondary has no room protection ends, and says so; the VM goes on."""
    secondary_full(bed, "raw", "the secondary cannot (apply epoch|stand by)")


@case("disk", timeout=180)
def disk_secondary_full_qcow2(bed):
    """The same before anything is promised, where the journal has room and the image is of a format."""
    secondary_full(bed, "qcow2", "the secondary cannot apply epoch", ["--disk-dir", os.path.join(bed.b.dir, "known")])


def locked(path):
    with open("/proc/locks", encoding="utf-8") as f:
        return ":%d " % os.stat(path).st_ino in f.read()


def ends_with(node, *parts):
    """A node that must not run ends by itself, with a sentence."""
    code = node.proc.wait(20, "node %s, which must refuse" % node.name)
    said = node.said().strip().splitlines()
    must(code not in (0, None) and code > 0, "exit status %s: %s", code, said[-3:])
    last = [x for x in said if all(p.lower() in x.lower() for p in parts)]
    must(last, "no sentence with %s: %s", parts, said[-3:])
    must(len(last[-1]) < 600, "a sentence, not a page: %s", last[-1])
    say("%s", last[-1])
    return last[-1]


@case()
def disk_refused(bed):
    """A missing, empty, used or read-only image ends either role with a sentence; one of another size makes no pair."""
    def tried(role, node, d, *parts):
        node.start(role, machine(d))
        ends_with(node, *parts)
        os.unlink(node.log)
    for role, node in (("secondary", bed.b), ("primary", bed.a)):
        tried(role, node, drive("none.img"), "none.img", "no such image")
        image(node, "empty.img", mb=0)
        tried(role, node, drive("empty.img"), "empty.img")
        image(node)
        user = bed.popen(node.name, ["qemu-system-x86_64", "-S", "-display", "none", "-monitor", "none", "-drive",
                                     "file=%s,format=raw,if=virtio" % img(node)], node.log + ".user")
        until(lambda: locked(img(node)), 20, "QEMU's locks")
        tried(role, node, drive(), "disk.img", "in use", str(user.pid))
        user.kill()
        user.wait(5)
        with small_place(node, "fixed", 4) as place:
            image(node, "fixed/disk.img", mb=2)
            subprocess.run(["mount", "-o", "remount,ro", place], check=True)
            tried(role, node, drive("fixed/disk.img"), "fixed/disk.img", "read-only")
    os.mkdir(os.path.join(bed.b.dir, "more"))
    image(bed.b, "more/disk.img")
    bed.b.start("secondary", machine(drive(), ["-drive", "file=@DIR@/more/disk.img,format=raw,if=virtio,id=d1"]),
                ["--disk-dir", os.path.join(bed.b.dir, "known")])
    ends_with(bed.b, "/disk.img", "more/disk.img", "the same name", "--disk-dir")
    os.unlink(bed.b.log)
    with open(img(bed.b), "r+b") as f:
        f.truncate(SIZE - MB)
    mismatched(bed, ["size of the image of disk d-disk", str(SIZE), str(SIZE - MB)], machine(drive()), VM_NAME,
               machine(drive()))


@case("disk", timeout=400)
def disk_split_brain(bed):
    """Two nodes that have each served alone do not become a pair, until somebody says whose writes are to be lost."""
    for node in (bed.a, bed.b):
        image(node)
    m = machine(drive())
    bed.start_pair(m, PATIENT)
    with Ask(bed) as ask:
        same(ask("disk vda write %d 4096 1 sync" % FREE), "ok", "write")
        commit(bed)
        bed.kill(bed.a, "both")
        bed.wait_alone(bed.b, 30)
        same(ask("disk vda write %d 4096 2 sync" % (FREE + 4096)), "ok", "write")
    until(lambda: not bed.b.status()["disk"]["merging"], 30, "the merge")
    end(bed.b)
    bed.a.console += ".2"
    bed.a.start("primary", m, PATIENT)
    bed.wait_ready(bed.a)
    with Ask(bed) as ask:
        same(ask("disk vda write %d 4096 3 sync" % (FREE + 8192)), "ok", "write")
        before = sha(img(bed.b))
        bed.b.start("secondary", m, PATIENT)
        for node in (bed.a, bed.b):
            until(lambda n=node: "split brain" in n.said() and "--discard-disks" in n.said(), 30,
                  lambda n=node: "a sentence about the split brain (node %s: %s)" % (n.name, n.tail(5)))
        say("a: %s", bed.a.tail(3))
        say("b: %s", bed.b.tail(3))
        same(ask("disk vda read-hash %d 4096" % (FREE + 8192)), xxh64(pattern(4096, 3)), "the guest's disk meanwhile")
        ends_with(bed.b, "split brain", "--discard-disks")
        same(sha(img(bed.b)), before, "the image of the node that was refused")
        bed.b.start("secondary", m, PATIENT + ["--discard-disks"])
        bed.wait_protected(90)
        equal_images(bed)
        want = (pattern(4096, 1), bytes(4096), pattern(4096, 3))
        for i in range(3):
            same(ask("disk vda read-hash %d 4096" % (FREE + i * 4096)), xxh64(want[i]), "block %d" % i)


@case("disk", timeout=300)
def disk_pause(bed):
    """A checkpoint's pause with the guest's load on the disk against without: a ratio of medians, in turns."""
    for node in (bed.a, bed.b):
        image(node)
    bed.start_pair(machine(drive()), PATIENT + ["--checkpoint-delay", "60000"])
    pauses, steps = {0: [], 500: []}, {0: [], 500: []}
    with Ask(bed, timeout=60) as ask:
        begin(ask, "vda", rate=0)
        for _ in range(8):
            for rate, got in pauses.items():
                same(ask("disk vda load %d" % rate), "ok", "load")
                for _ in range(4):
                    c = bed.a.call("checkpoint", VM_NAME, timeout=60)
                    got.append(c["pause_ms"])
                    steps[rate].append(c["steps_ms"])
        same(ask("disk vda load 0"), "ok", "load")
        same(ask("disk vda verify"), "ok", "verify")
    without, with_ = (statistics.median(x) for x in pauses.values())
    for rate, all_steps in steps.items():
        say("rate %d: %s", rate, {k: round(statistics.median(s.get(k) or 0 for s in all_steps), 2)
                                  for k in all_steps[0]})
    debts = bed.a.status()["disk"]["debts"]
    note("pause p50 with disk load %.2f ms, without %.2f ms: %.2f; %d debts", with_, without, with_ / without, debts)
    must(with_ <= 1.5 * without, "the pause with disk load is %.2f of that without", with_ / without)
