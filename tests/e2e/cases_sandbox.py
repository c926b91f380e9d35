# SPDX-License-Identifier: BSD-2-Clause
"""
What a node gives away after its start, and QEMU as another user. In each case the nodes are killed by a system call that is
not on the list (LOCKSTEP_SANDBOX=kill), where otherwise it would fail.
"""

import os
import pwd

from bed import VM_NAME, Machine, until
from cases_disk import drive, image
from cases_refuse import LISTEN, QEMU, TAP, refused
from harness import case, must, note, same
from load import Count, Incr, Load, ms

USER = "nobody"
KILL = {"LOCKSTEP_SANDBOX": "kill", "LOCKSTEP_MEMCHECK": "1"}
STRICT = ["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]
CAP_KILL = 1 << 5
PATIENT = ["--timeout", "3000"]  # it is not how long a silence is that is looked at here


def proc_status(pid):
    """/proc/PID/status as a dict."""
    with open("/proc/%d/status" % pid, encoding="utf-8") as f:
        return dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)


def threads(pid):
    return [proc_status(int(tid)) for tid in os.listdir("/proc/%d/task" % pid)]


def closed(node, caps):
    """Every thread of the node has given all but caps away, and takes only the listed system calls."""
    for s in threads(node.proc.pid):
        where = "node %s, thread %s" % (node.name, s["Name"])
        for field in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            must(int(s[field], 16) & ~caps == 0, "%s: %s is %s", where, field, s[field])
        same(int(s["CapEff"], 16), caps, where + ": capabilities")
        same((s["NoNewPrivs"], s["Seccomp"]), ("1", "2"), where + ": no_new_privs, seccomp")
    must("sandbox: closed" in node.said(), "node %s does not say that its sandbox is closed", node.name)


def helper(node):
    """The process that keeps the rights, and makes children."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            s = proc_status(int(pid))
        except OSError:
            continue
        if int(s["PPid"]) == node.proc.pid and s["Name"] == "lockstep-spawn":
            found.append(int(pid))
    same(len(found), 1, "helpers of node " + node.name)
    return found[0]


def as_user(node, pid):
    """A child of the node's runs as USER, can gain nothing, and has none of what is not its."""
    want = pwd.getpwnam(USER)
    s = proc_status(pid)
    same(s["Uid"].split(), [str(want.pw_uid)] * 4, "user ids of %d" % pid)
    same(s["Gid"].split(), [str(want.pw_gid)] * 4, "group ids of %d" % pid)
    must(set(s["Groups"].split()) <= {str(g) for g in os.getgrouplist(USER, want.pw_gid)}, "groups: %s", s["Groups"])
    same((int(s["CapPrm"], 16), int(s["CapEff"], 16), s["NoNewPrivs"]), (0, 0, "1"), "rights of %d" % pid)
    same(int(s["PPid"]), node.proc.pid, "the parent of %d" % pid)
    for fd in os.listdir("/proc/%d/fd" % pid):
        try:
            to = os.readlink("/proc/%d/fd/%s" % (pid, fd))
        except OSError:
            continue
        must(node.run_dir not in to and "/net/tun" not in to and not to.endswith(".img"), "%d has %s open", pid, to)


def open_to(bed, *paths):
    """The user gets as far as the consoles, and to no more of what is the bed's than these."""
    want = pwd.getpwnam(USER)
    for node in (bed.a, bed.b):
        for path in (bed.dir, node.dir, bed.logs):
            os.chmod(path, 0o711)
        with open(node.console, "ab"):
            os.chown(node.console, want.pw_uid, want.pw_gid)
    for path in paths:
        os.chown(path, want.pw_uid, want.pw_gid)


def five_checkpoints(bed, server=None):
    server = server or bed.a
    other = bed.b if server is bed.a else bed.a
    before = other.said().count("memory equal")
    for _ in range(5):
        server.checkpoint()
    until(lambda: other.said().count("memory equal") >= before + 5, 30, "five comparisons of memory")
    for node in (bed.a, bed.b):
        must("memory differs" not in node.said(), "node %s: memory differs", node.name)


def fail_over(bed, load):
    """Lockstep alone dies on a: the kernel ends its QEMU, whoever that runs as; b goes on with the same connections."""
    qemu = bed.a.qemu_process()
    bed.kill(bed.a, "lockstep")
    until(qemu.ended, 10, "the end of node a's QEMU, which belongs to the user")
    bed.wait_alone(bed.b, 20)
    load.wait_answers(20, 60)
    note("gap %s", ms(load.gap()))


def rejoin(bed, machine, options):
    bed.a.start("joiner", machine, PATIENT + list(options), env=KILL)
    bed.wait_protected(90, server=bed.b)


def both_ways(bed, machine, options, caps, load, look=lambda node: None):
    """Checkpoints, a failover, a new secondary, checkpoints the other way, and back."""
    for node in (bed.a, bed.b):
        closed(node, caps)
        look(node)
    five_checkpoints(bed)
    load.wait_answers(5, 60)
    fail_over(bed, load)
    closed(bed.b, caps)
    rejoin(bed, machine, options)
    for node in (bed.a, bed.b):
        look(node)
    five_checkpoints(bed, bed.b)
    load.wait_answers(5, 60)
    closed(bed.a, caps)


def start(bed, machine, options=()):
    bed.start_pair(machine, PATIENT + list(options), a_env=KILL, b_env=KILL)


@case("sandbox", timeout=240)
def sandbox_user(bed):
    """QEMU as another user with a raw image that is root's alone: checkpoints, a failover, a new secondary."""
    for node in (bed.a, bed.b):
        os.chmod(image(node), 0o600)
    open_to(bed)
    m, options = Machine(mem=256, extra=drive()), ["--user", USER]
    start(bed, m, options)

    def look(node):
        as_user(node, node.qemu_process().pid)
        s = proc_status(helper(node))
        same((s["Uid"].split()[0], s["Seccomp"]), ("0", "0"), "the helper")
    with Load(bed, [Incr("a"), Count(interval=0.02)]) as load:
        both_ways(bed, m, options, CAP_KILL, load, look)
        load.finish()


@case(timeout=240)
def sandbox_qemu(bed):
    """-sandbox on, and all that it can refuse, with a raw image: the agent has what it needs from before."""
    for node in (bed.a, bed.b):
        image(node)
    m = Machine(mem=256, extra=drive() + STRICT)
    start(bed, m)
    with Load(bed, [Incr("a"), Count(interval=0.02)]) as load:
        both_ways(bed, m, (), 0, load, lambda node: same(proc_status(node.qemu_process().pid)["Seccomp"], "2",
                                                         "QEMU's filter"))
        load.finish()


@case("disk", timeout=300)
def sandbox_strict_user(bed):
    """Both together, with a qcow2 image: its storage daemon is the user's, too, and the image must be."""
    images = [image(node, fmt="qcow2") for node in (bed.a, bed.b)]
    m = Machine(mem=256, extra=drive(fmt="qcow2") + STRICT)
    open_to(bed)
    p = bed.a.start("secondary", m, ["--user", USER])
    p.wait(20, "node a with an image that is not the user's")
    must("by the user " + USER in bed.a.said(), "the log does not say whose rights are missing: %s", bed.a.tail())
    open_to(bed, *images)
    start(bed, m, ["--user", USER])

    def look(node):
        as_user(node, node.qemu_process().pid)
        daemons = [int(p) for p in filter(str.isdigit, os.listdir("/proc")) if ours(p, node)]
        same(len(daemons), 1, "storage daemons of node " + node.name)
        same(proc_status(daemons[0])["Uid"].split()[1], str(pwd.getpwnam(USER).pw_uid), "the storage daemon's user")

    def ours(pid, node):
        try:
            s = proc_status(int(pid))
        except OSError:
            return False
        return int(s["PPid"]) == node.proc.pid and s["Name"].startswith("qemu-storage-d")
    with Load(bed, [Incr("a"), Count(interval=0.02)]) as load:
        both_ways(bed, m, ["--user", USER], CAP_KILL, load, look)
        load.finish()


@case("sandbox", timeout=150)
def sandbox_off(bed):
    """Without a sandbox nothing is given away; QEMU is the user's all the same."""
    open_to(bed)
    start(bed, Machine(mem=256), ["--no-sandbox", "--user", USER])
    for node in (bed.a, bed.b):
        as_user(node, node.qemu_process().pid)
        s = proc_status(node.proc.pid)
        same((s["NoNewPrivs"], s["Seccomp"]), ("0", "0"), "no_new_privs, seccomp")
        must(int(s["CapEff"], 16) & CAP_KILL, "capabilities: %s", s["CapEff"])
        must("--no-sandbox" in node.said(), "the log does not warn")
    with Load(bed, [Incr("a")]) as load:
        five_checkpoints(bed)
        fail_over(bed, load)
        load.finish()


@case(bed=False)
def sandbox_refused():
    base = ["run"] + LISTEN
    refused(base + ["--user", "root"] + QEMU + TAP, "--user", "root")
    refused(base + ["--user", "no-such-user"] + QEMU + TAP, "--user", "no user 'no-such-user'")
    refused(base + ["--user", USER + ":no-such-group"] + QEMU + TAP, "--user", "no group 'no-such-group'")
    refused(base + ["--user", "x" * 100] + QEMU + TAP, "--user", "63 characters")
    for words in (["-runas", USER], ["-run-with", "user=" + USER]):
        refused(base + QEMU + TAP + words, words[0], "--user NAME")
