# SPDX-License-Identifier: BSD-2-Clause
"""
QEMU's own COLO, set up as QEMU's docs/COLO-FT.txt says: mirror and redirectors at the primary's NIC, colo-compare in
an iothread of its own, redirectors and rewriter at the secondary's, migration with x-colo, and the failover commands in
the document's order.

The disk, where there is one: a quorum over the image, and over it in the primary, replication to the NBD server of the
secondary, whose own writes are in an active and a hidden qcow2, as the document has it.

What differs from the document: the nodes' addresses (theirs in the bed), TAPs that exist already, TCG instead of KVM,
no USB tablet; the image is raw, as for all systems, and without `if=ide` under --disk-if virtio. compare-condwait (bench/load/condwait.c) is preloaded
under TCG; without it QEMU stands still for ever after a few checkpoints.
"""

import contextlib
import os
import subprocess
import time

from bed import BUILD, BedError, NODE_IP, until
from comparison.qmp import Qmp
from comparison.runstate import Trace
from comparison.systems import LONG_MS, Down, System

CONDWAIT = os.path.join(BUILD, "bench", "load", "compare-condwait.so")
MIGRATION_PORT, NBD_PORT = 9998, 9999
LOCAL = "127.0.0.1"
NOTES = (
    "QEMU's COLO ran with compare-condwait preloaded (bench/load/condwait.c), under TCG: without it the primary locks "
    "itself up within a few checkpoints under load.",
    "The disk figures have a boot of their own, of all systems; in the others no system has a disk. The document's USB "
    "tablet is left out of all of them.",
)


def socket_chardev(name, host, port, *more):
    return ["-chardev", ",".join(["socket", "id=" + name, "host=" + host, "port=%d" % port] + list(more))]


class Colo(System):
    """One pair of QEMUs."""

    # The secondary has a second copy of all of the memory; guests themselves touch little of theirs.
    name, title, checkpoints, share = "colo", "QEMU's COLO", True, 1.25
    qmps = ()

    def _filters(self, *objects):
        """-object options; virtio's frames carry a header, of which each of them must know."""
        header = ",vnet_hdr_support=on" if self.setup.nic.startswith("virtio") else ""
        words = []
        for o in objects:
            words += ["-object", o + ("" if o.startswith("iothread") else header)]
        return words

    def _primary(self):
        a, server = NODE_IP["a"], ("server=on", "wait=off")
        return (socket_chardev("mirror0", a, 9003, *server) +
                socket_chardev("compare1", a, 9004, "server=on", "wait=on") +
                socket_chardev("compare0", LOCAL, 9001, *server) + socket_chardev("compare0-0", LOCAL, 9001) +
                socket_chardev("compare_out", LOCAL, 9005, *server) + socket_chardev("compare_out0", LOCAL, 9005) +
                self._filters("filter-mirror,id=m0,netdev=n0,queue=tx,outdev=mirror0",
                              "filter-redirector,netdev=n0,id=redire0,queue=rx,indev=compare_out",
                              "filter-redirector,netdev=n0,id=redire1,queue=rx,outdev=compare0",
                              "iothread,id=iothread1",
                              "colo-compare,id=comp0,primary_in=compare0-0,secondary_in=compare1,"
                              "outdev=compare_out0,iothread=iothread1") + ["-S"])

    def _secondary(self):
        a = NODE_IP["a"]
        return (socket_chardev("red0", a, 9003, "reconnect=1") + socket_chardev("red1", a, 9004, "reconnect=1") +
                self._filters("filter-redirector,id=f1,netdev=n0,queue=tx,indev=red0",
                              "filter-redirector,id=f2,netdev=n0,queue=rx,outdev=red1",
                              "filter-rewriter,id=rew0,netdev=n0,queue=all") +
                ["-incoming", "tcp:0.0.0.0:%d" % MIGRATION_PORT])

    def drive(self, role):
        image, interface = "@DIR@/disk.img", self.setup.interface
        quorum = "if=%s,id=colo-disk0,driver=quorum,read-pattern=fifo,vote-threshold=1," % interface
        if role == "primary":
            return ["-drive", quorum + "children.0.file.filename=%s,children.0.driver=raw" % image]
        return ["-drive", "if=none,id=parent0,file.filename=%s,driver=raw" % image,
                "-drive", "if=none,id=childs0,driver=replication,mode=secondary,file.driver=qcow2,top-id=colo-disk0,"
                "file.file.filename=@DIR@/active.qcow2,file.backing.driver=qcow2,"
                "file.backing.file.filename=@DIR@/hidden.qcow2,file.backing.backing=parent0",
                "-drive", quorum + "children.0=childs0"]

    def _replicate(self):
        """The document's commands for the disk, before the migration."""
        a, b = self.qmps
        b("nbd-server-start", addr={"type": "inet", "data": {"host": "0.0.0.0", "port": str(NBD_PORT)}})
        b("nbd-server-add", device="parent0", writable=True)
        said = a("human-monitor-command", command_line="drive_add -n buddy driver=replication,mode=primary,"
                 "file.driver=nbd,file.host=%s,file.port=%d,file.export=parent0,node-name=replication0" % (
                     NODE_IP["b"], NBD_PORT))
        if said.strip():
            raise BedError("drive_add: " + said.strip())
        a("x-blockdev-change", parent="colo-disk0", node="replication0")

    def _qemu(self, node, options):
        path = os.path.join(node.dir, "qmp")
        env = {"LD_PRELOAD": CONDWAIT} if self.setup.accel == "tcg" else None
        extra = self.trace.options() + ["-qmp", "unix:%s,server=on,wait=off" % path] + options
        # `ip netns exec` gets the library as well; it waits for no condition.
        role = "primary" if node is self.beds[0].a else "secondary"
        node.proc = node.qemu = node.popen(node.vm_argv(self.machine(extra, role)), env=env)
        return path

    def start(self, v6=False):
        b = self.bed(v6)
        self.trace = Trace(b.dir)
        for name in ("active", "hidden") if self.disk else ():
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", os.path.join(b.b.dir, name + ".qcow2"),
                            "%dM" % self.setup.disk_mb], check=True)
        paths = [self._qemu(b.a, self._primary()), self._qemu(b.b, self._secondary())]
        self.qmps = []
        for node, path in zip((b.a, b.b), paths):
            until(lambda n=node, p=path: self._connect(n, p), 20, "QEMU's monitor on node %s" % node.name)
        a = self.qmps[0]
        if self.disk:
            self._replicate()
        a("migrate-set-capabilities", capabilities=[{"capability": "x-colo", "state": True}])
        a("migrate", uri="tcp:%s:%d" % (NODE_IP["b"], MIGRATION_PORT))
        until(self._in_colo, 60, "COLO")
        b.wait_ready(b.a)
        self.set_delay(LONG_MS)

    def _connect(self, node, path):
        node.must_live()
        with contextlib.suppress(OSError):
            self.qmps.append(Qmp(path))
            return True
        return False

    def _in_colo(self):
        status = self.qmps[0]("query-migrate").get("status")
        if status == "failed":
            raise BedError("the migration into COLO failed: %s" % self.beds[0].a.tail())
        return status == "colo"

    def close(self):
        for q in self.qmps:
            q.close()
        super().close()

    def check(self):
        b = self.beds[0]
        for node, q, role in zip((b.a, b.b), self.qmps, ("primary", "secondary")):
            if node.proc.ended():
                raise Down("the %s's QEMU ended: %s" % (role, node.tail()))
            try:
                mode = q("query-colo-status")["mode"]
            except BedError as e:
                raise Down("the %s hangs: %s" % (role, e)) from e
            if mode != role:
                raise Down("the %s is in COLO mode %s" % (role, mode))

    def set_delay(self, ms):
        """Makes a checkpoint too, at once: so does QEMU; returns when it is over."""
        n = self.count()
        self.qmps[0]("migrate-set-parameters", x_checkpoint_delay=ms)
        self._wait_for(n + 1)

    def _wait_for(self, n):
        until(lambda: self.count() >= n, 20, "a checkpoint")
        # The SVM loads after the PVM goes on.
        until(lambda: self.qmps[1]("query-status")["status"] == "running", 10, "the secondary's run")

    def checkpoint(self):
        self.set_delay(LONG_MS)

    def count(self):
        return len(self.trace.pauses(self.beds[0].a.proc.pid))

    def pauses(self, since):
        """(by trace, nothing: COLO reports none)"""
        return [ms for _, ms in self.trace.pauses(self.beds[0].a.proc.pid, since)], []

    def standing(self, since):
        """The primary goes on when the secondary has loaded."""
        return sum(self.pauses(since)[0]) / 1000.0

    def kill_primary(self):
        now = time.monotonic()
        self.beds[0].a.proc.kill()
        return now

    def takes_over(self):
        """The document's commands for a secondary whose primary has died, one after the other."""
        b = self.qmps[1]
        b("x-colo-lost-heartbeat")
        for o in ("f2", "f1"):
            b("object-del", id=o)
        for c in ("red1", "red0"):
            b("chardev-remove", id=c)
