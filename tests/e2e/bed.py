# SPDX-License-Identifier: BSD-2-Clause
"""
The end-to-end bed: two nodes, a client and a switch, each in a network namespace of its own.

        a: br0 = tap0 + up0                b: br0 = tap0 + up0
             |          \\ link0 192.0.2.129 == 192.0.2.130 link0 /   |
             +----------------- switch: br0 ------------------------+
                                   |
                        c: eth0 192.0.2.100/25        (the guest is 192.0.2.10/25)

The link between the nodes is a cable of its own, so that it can be cut without touching the clients. No frame is on
the wire that a test did not cause. wires.py makes all of this, and more where a test wants it. Namespaces carry the
pid of the process that made them (ls<pid>-a ...), so that beds do not meet, and sweep() finds what a killed run has
left.

Everything that is started is ended by pid (through a pidfd, so never somebody else's), and everything is taken down at
the end of the process however that comes about, SIGKILL excepted.
"""

import atexit
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

from wires import (CLIENT_IP, CLIENT_IP6, GUEST_IP, GUEST_IP6, NODE_IP, NODE_IP2, PATIENCE,  # noqa: F401 (for tests)
                   SANITIZED, WITNESS_IP, BedError, Plan, Wires, enter, family, ip, sweep)

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
BUILD = os.environ.get("LOCKSTEP_BUILD", os.path.join(ROOT, "build"))
LOCKSTEP = os.path.join(BUILD, "src", "lockstep")
GUEST_OUT = os.path.join(ROOT, "guest", "out")
MORE_OPTIONS = os.environ.get("LOCKSTEP_OPTIONS", "").split()  # for both nodes, e.g. --log-level trace

LINK_PORT = 9998
REDIS_PORT, SERVICE_PORT, HTTP_PORT, UDP_PORT = 6379, 7000, 80, 5300
VM_NAME = "web"

# What makes a small guest boot fast and keeps it quiet; the rest is the guest's own business.
APPEND = "console=ttyS0 loglevel=3 tsc=reliable nowatchdog rcupdate.rcu_cpu_stall_suppress=1 mitigations=off"


class Skip(Exception):
    """This machine cannot run the test; the text says why."""


def until(condition, seconds, what, every=0.02):
    """
    Polls until condition() is true and returns what it gave; after seconds (times PATIENCE) it is an error. A
    machine that needs much patience is not asked as often: it would be busy with nothing else.
    """
    deadline = time.monotonic() + seconds * PATIENCE
    while True:
        asked = time.monotonic()
        got = condition()
        if got:
            return got
        if time.monotonic() > deadline:
            raise BedError("%s: not within %g s" % (what() if callable(what) else what, seconds * PATIENCE))
        time.sleep(every if PATIENCE < 8 else max(every * PATIENCE, min(10, 5 * (time.monotonic() - asked))))


def needs():
    """Raises Skip with the reason when no bed can be made here."""
    if os.geteuid() != 0:
        raise Skip("needs root (network namespaces, TAP)")
    if not os.path.exists("/dev/net/tun"):
        raise Skip("no /dev/net/tun")
    for tool in ("ip", "qemu-system-x86_64"):
        if not shutil.which(tool):
            raise Skip("no %s" % tool)
    probe = subprocess.run(["unshare", "-n", "true"], stderr=subprocess.PIPE, text=True, check=False)
    if probe.returncode:
        raise Skip("no network namespaces: %s" % probe.stderr.strip())


class Process:
    """A process that is known by pidfd, so that a signal never reaches another one that got its number."""

    def __init__(self, pid, popen=None):
        self.pid, self.popen = pid, popen
        self.fd = os.pidfd_open(pid)

    def signal(self, sig):
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.fd, sig)

    def ended(self):
        if self.popen:
            return self.popen.poll() is not None
        try:
            signal.pidfd_send_signal(self.fd, 0)
        except ProcessLookupError:
            return True
        # A zombie still takes signals; its parent may be slow to reap, which is not our business.
        try:
            with open("/proc/%d/stat" % self.pid, encoding="utf-8", errors="replace") as f:
                return f.read().rpartition(")")[2].split()[0] in "ZX"
        except OSError:
            return True

    def wait(self, seconds, what="process"):
        until(self.ended, seconds, "end of %s (pid %d)" % (what, self.pid))
        return self.popen.returncode if self.popen else None

    def kill(self):
        self.signal(signal.SIGKILL)
        self.signal(signal.SIGCONT)

    def close(self):
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Machine:
    """What QEMU is asked to be; the same on both nodes."""

    def __init__(self, machine="pc", nic="virtio-net-pci", mem=512, accel="tcg", append="", extra=(), generic=False):
        self.machine, self.nic, self.mem, self.accel = machine, nic, mem, accel
        self.append, self.extra, self.generic = append, list(extra), generic  # @DIR@ in extra: the node's directory
        self.plan = Plan()  # a node puts its bed's here

    def image(self):
        # Debian's cloud kernel has no drivers for real network cards.
        suffix = "" if self.nic.startswith("virtio") and not self.generic else "-generic"
        return GUEST_OUT + "/vmlinuz" + suffix, GUEST_OUT + "/initramfs%s.cpio.gz" % suffix

    def argv(self, console, where):
        kernel, initrd = self.image()
        for f in (kernel, initrd):
            if not os.path.exists(f):
                raise BedError("%s is not there: run guest/build%s" % (f, " --generic" if "generic" in f else ""))
        return ["qemu-system-x86_64", "-M", self.machine, "-m", str(self.mem), "-accel", self.accel,
                "-kernel", kernel, "-initrd", initrd, "-append",
                " ".join([APPEND, self.plan.append(), self.append]).strip()] + self.plan.argv(self.nic) + [
                    "-nographic", "-serial", "file:" + console] + self.cpu() + [
                        x.replace("@DIR@", where) for x in self.extra]

    def cpu(self):
        """Under KVM the processor that the host has; QEMU's default one has no kvm-clock."""
        return ["-cpu", "host"] if self.accel == "kvm" and "-cpu" not in self.extra else []


class Node:
    """One host of the pair."""

    def __init__(self, bed, name):
        self.bed, self.name = bed, name
        self.ns = bed.ns(name)
        self.dir = os.path.join(bed.dir, name)
        os.mkdir(self.dir)
        self.run_dir = os.path.join(self.dir, "run")
        self.log = os.path.join(bed.logs, name + ".log")
        self.console = os.path.join(bed.logs, name + ".console")
        self.proc = self.qemu = self.child = None
        self.prefix = []  # goes before the command, e.g. to begin in a cgroup

    # -- starting

    def popen(self, argv, log=None, env=None):
        return self.bed.popen(self.name, argv, log or self.log, env, self.prefix)

    def lockstep_argv(self, role, machine, options=(), name=VM_NAME):
        secure = any(o in ("--psk-file", "--tls-dir") for o in MORE_OPTIONS + list(options))
        decided = "--witness" in MORE_OPTIONS + list(options)
        return ([LOCKSTEP, "run", "--name", name, "--run-dir", self.run_dir] + self.where(role) +
                ([] if secure else ["--insecure"]) + ([] if decided else ["--no-witness"]) + MORE_OPTIONS +
                list(options) + ["--"] + self.vm_argv(machine))

    def where(self, role):
        """The words about addresses; see start()."""
        if role in ("same", "first"):
            words = ["--primary"] if role == "first" else []
            for ips in (NODE_IP, NODE_IP2)[:self.bed.plan.links]:
                words += ["--peer", ips["a"], "--peer", ips["b"]]
            return words
        where = {"secondary": ["--listen"], "primary": ["--primary", "--peer"], "joiner": ["--peer"]}[role]
        return where + ["%s:%d" % (NODE_IP["b"], LINK_PORT)]

    def vm_argv(self, machine=None):
        machine = machine or Machine()
        machine.plan = self.bed.plan
        return machine.argv(self.console, self.dir)

    def start(self, role, machine=None, options=(), env=None, name=VM_NAME):
        """
        Starts `lockstep run` here. Node b is the one that listens ("secondary"); node a connects to it, and begins the VM
        ("primary") or not ("joiner"). Or both are given the very same words ("same", and "first" where the VM begins);
        then node a listens, which has the smaller address.
        """
        if not os.path.exists(LOCKSTEP):
            raise BedError("%s is not built" % LOCKSTEP)
        self.bed.used.add(self.name)
        self.proc = self.popen(self.lockstep_argv(role, machine or Machine(), options, name), env=env)
        self.qemu = None
        return self.proc

    def start_plain(self, machine=None):
        """QEMU alone, as it would run without Lockstep; for trying the bed and for comparison."""
        self.qemu = self.proc = self.popen(self.vm_argv(machine))
        return self.proc

    # -- looking

    def cli(self, *words, timeout=15):
        """One lockstep command against this node's run directory."""
        return subprocess.run(["ip", "netns", "exec", self.ns, LOCKSTEP] + list(words),
                              env=dict(os.environ, LOCKSTEP_RUN_DIR=self.run_dir), stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=timeout * PATIENCE,
                              check=False)

    def call(self, *words, timeout=15):
        """As cli(), but it must succeed; the JSON that it printed."""
        r = self.cli(*words, "--json", timeout=timeout)
        if r.returncode:
            raise BedError("node %s: lockstep %s: exit %d: %s" % (self.name, " ".join(words), r.returncode,
                                                                 r.stderr.strip()))
        return json.loads(r.stdout) if r.stdout.strip() else {}

    def status(self):
        """What `lockstep status` says, or None when the node does not answer (yet, or any more)."""
        try:
            r = self.cli("status", VM_NAME, "--json", timeout=5)
        except subprocess.TimeoutExpired:
            return None
        if r.returncode:
            return None
        s = json.loads(r.stdout)
        pid = (s.get("qemu") or {}).get("pid")
        if pid and (not self.qemu or self.qemu.pid != pid):
            with contextlib.suppress(ProcessLookupError):
                self.qemu = Process(pid)
                self.bed.procs.append(self.qemu)
        return s

    def state(self):
        return (self.status() or {}).get("state")

    def lockstep_process(self):
        """
        The process that has the VM. Other than proc, which was started, it changes when the node begins anew: a process
        that has given its rights away begins anew in a child.
        """
        pid = ((self.status() or {}).get("lockstep") or {}).get("pid", self.proc.pid)
        if pid == self.proc.pid:
            return self.proc
        if not self.child or self.child.pid != pid or self.child.ended():
            self.child = Process(pid)
            self.bed.procs.append(self.child)
        return self.child

    def checkpoint(self, seconds=30):
        """Has a checkpoint made and returns when the secondary runs from it; what it was like."""
        return self.call("checkpoint", VM_NAME, "--wait", str(min(3600, seconds * PATIENCE)), timeout=seconds + 5)

    def checkpoints(self):
        s = self.status()
        if not s:
            raise BedError("node %s does not answer" % self.name)
        return s["checkpoints"]["total"]

    def qemu_process(self):
        """QEMU's process; found through status the first time."""
        if not self.qemu:
            until(lambda: self.status() and self.qemu, 5, "QEMU's pid on node %s" % self.name)
        return self.qemu

    def said(self):
        with contextlib.suppress(FileNotFoundError):
            with open(self.log, encoding="utf-8", errors="replace") as f:
                return f.read()
        return ""

    def console_said(self):
        with contextlib.suppress(FileNotFoundError):
            with open(self.console, encoding="utf-8", errors="replace") as f:
                return f.read()
        return ""

    def must_live(self):
        if self.proc and self.proc.ended():
            raise BedError("node %s ended with status %s: %s" % (self.name, self.proc.popen.returncode, self.tail()))

    def tail(self, lines=3):
        return " | ".join(self.said().splitlines()[-lines:])

    # -- ending

    def quit(self, seconds=10):
        """An orderly end, as a user would ask for it."""
        if self.proc:
            self.proc.signal(signal.SIGCONT)
            self.proc.signal(signal.SIGTERM)
            self.proc.wait(seconds, "node " + self.name)


class Bed(Wires):
    """
    Use as a context manager. logs is where the nodes' logs and consoles go; it is made. plan: see wires.Plan.

    A second bed in one process is possible; serial tells its namespaces apart.
    """

    serial = 0

    def __init__(self, logs=None, **plan):
        needs()
        sweep()
        Bed.serial += 1
        super().__init__("ls%d.%d" % (os.getpid(), Bed.serial), Plan(**plan))
        self.dir = tempfile.mkdtemp(prefix="lockstep-bed-")
        self.logs = logs or self.dir
        os.makedirs(self.logs, exist_ok=True)
        self.procs, self.used, self.closed = [], set(), False
        atexit.register(self.close)
        try:
            self.build()
            self.a, self.b = Node(self, "a"), Node(self, "b")
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def build(self):
        super().build()
        if not self.plan.vlan:
            return
        log = os.path.join(self.logs, "tagger.log")
        p = self.popen("c", [sys.executable, os.path.join(HERE, "tagger.py"), "eth0", "eth0.%d" % self.plan.vlan,
                             str(self.plan.vlan)], log)

        def ready():
            if p.ended():
                raise BedError("tagger.py ended: see %s" % log)
            with open(log, encoding="utf-8") as f:
                return "ready" in f.read()
        until(ready, 10, "the VLAN")

    def popen(self, where, argv, log, env=None, prefix=()):
        """A program in one of the namespaces, whose words go to the file log; it ends with the bed."""
        with open(log, "ab") as out:
            p = subprocess.Popen(list(prefix) + ["ip", "netns", "exec", self.ns(where)] + argv,
                                 stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                 env=dict(os.environ, **(env or {})), start_new_session=True)
        proc = Process(p.pid, p)
        self.procs.append(proc)
        return proc

    # -- the pair

    def start_pair(self, machine=None, options=(), a_options=(), b_options=(), a_env=None, b_env=None, protected=True):
        """The secondary on b, the primary on a; returns when the guest answers and the pair is protected."""
        machine = machine or Machine()
        self.b.start("secondary", machine, list(options) + list(b_options), b_env)
        until(lambda: self.b.must_live() or self.b.status(), 15, "node b's control socket")
        self.a.start("primary", machine, list(options) + list(a_options), a_env)
        self.wait_ready(self.a)
        if protected:
            self.wait_protected()

    def wait_ready(self, node, seconds=120):
        """Until the guest on a node has booted and its services can be reached."""
        def ready():
            node.must_live()
            return self.booted(node)
        until(ready, seconds, "the guest's ready")
        until(lambda: self.reaches(SERVICE_PORT) and self.reaches(REDIS_PORT), 20, "the guest's services")

    @staticmethod
    def booted(node):
        """Whether the guest has said on its console that everything in it runs."""
        return re.search(r"^lockstep-guest: ready\r?$", node.console_said(), re.M) is not None

    def reaches(self, port, timeout=3.0):
        try:
            self.connect(port, timeout=timeout).close()
            return True
        except OSError:
            return False

    def wait_protected(self, seconds=60, server=None):
        """Until the pair is protected; server: the node that serves, a if it is not said."""
        server = server or self.a
        other = self.b if server is self.a else self.a

        def good():
            self.a.must_live()
            self.b.must_live()
            return server.state() == "protected" and other.state() == "standby"
        until(good, seconds, lambda: "protection (a: %s, b: %s)" % (self.a.state(), self.b.state()))
        self.a.qemu_process()
        self.b.qemu_process()

    def wait_alone(self, node, seconds=10):
        until(lambda: node.state() == "alone", seconds,
              lambda: "node %s alone (it is %s)" % (node.name, node.state()), every=0.05)

    def kill(self, node, what="both"):
        """kill -9 of a node's "lockstep", "qemu" or "both"; returns when it was sent (monotonic seconds)."""
        victims = []
        if what in ("qemu", "both"):
            victims.append(node.qemu_process())
        if what in ("lockstep", "both"):
            victims.append(node.lockstep_process())
        now = time.monotonic()
        for v in victims:
            v.kill()
        return now

    def cut_link(self, on=False, path=0):
        """Pulls (or puts back) the cable between the nodes."""
        ip("link", "set", "link%d" % path, "up" if on else "down", ns=self.ns("a"))

    # -- the end

    def complaints(self):
        """What no test may leave in a log: a sanitizer's report, an assertion, a crash that nobody ordered."""
        bad = re.compile(r"AddressSanitizer|LeakSanitizer|UndefinedBehavior|runtime error:|Assertion|\bBUG\b")
        found = []
        for node in (self.a, self.b):
            found += ["%s: %s" % (node.name, line) for line in node.said().splitlines() if bad.search(line)]
            code = node.proc.popen.returncode if node.proc and node.proc.popen else None
            if code is not None and code < 0 and -code not in (signal.SIGKILL, signal.SIGTERM):
                found.append("%s: died of signal %d" % (node.name, -code))
            if re.search(r"Kernel panic|Oops|BUG:|segfault", node.console_said()):
                found.append("%s: the guest kernel complains on its console" % node.name)
        return found

    def close(self):
        if self.closed:
            return
        self.closed = True
        for node in (getattr(self, n, None) for n in "ab"):
            if node and node.proc and not node.proc.ended() and SANITIZED:
                # An orderly end lets the leak checker speak.
                with contextlib.suppress(BedError):
                    node.quit(5)
        for p in self.procs:
            p.kill()
        for p in self.procs:
            with contextlib.suppress(BedError):
                p.wait(5)
            p.close()
        self.take_down()
        shutil.rmtree(self.dir, ignore_errors=True)
        atexit.unregister(self.close)


def tidy_signals():
    """Lets SIGTERM and SIGHUP end the process as ctrl-C does, so that beds are taken down."""
    def stop(sig, _frame):
        sys.exit(128 + sig)
    for sig in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(sig, stop)
