# SPDX-License-Identifier: BSD-2-Clause
"""The guest's life, and what people do to it: it stands and runs again, panics, is reset, goes off."""

import json
import re
import socket
import time

from bed import VM_NAME, Machine, until
from cases_again import rejoin
from cases_disk import drive, image, img, sha
from harness import case, must, same, say
from load import Ask, Count, Incr, Load, Random

PVPANIC = ("-device", "pvpanic")


def conns():
    return [Incr("a", depth=4), Incr("b"), Count(interval=0.02), Random(interval=0.05)]


def qmp(node, execute):
    """A request in QMP's shape on the node's control socket; the answer."""
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(30)
        s.connect("%s/%s.sock" % (node.run_dir, VM_NAME))
        s.sendall(json.dumps({"execute": execute, "id": 7}).encode() + b"\n")
        return json.loads(s.makefile().readline())


def stands(node):
    s = node.status()
    # A copy that has never run yet is what QEMU calls prelaunch.
    return bool(s) and s["paused"] and s["qemu"]["state"] in ("paused", "guest-panicked", "prelaunch")


def silence(load, seconds=1.0):
    """Nothing is answered any more: what was under way has its time, then the count stands."""
    until(lambda: quiet(load, 0.3), 10, "an end of the answers")
    before = load.answers()
    time.sleep(seconds)
    same(load.answers(), before, "answers while the VM stands")


def quiet(load, span):
    before = load.answers()
    time.sleep(span)
    return load.answers() == before


def both_end(bed, status, qemus):
    same([n.proc.wait(40, "node " + n.name) for n in (bed.a, bed.b)], [status, status], "exit statuses")
    until(lambda: all(q.ended() for q in qemus), 5, "the end of both QEMUs")
    must(not re.search(r"promot|took over", bed.b.said().split("standby")[-1]),
         "node b took it for a death: %s", bed.b.tail())


@case(timeout=150)
def life_pause(bed):
    """`stop` makes both copies stand, from either host and more than once; no checkpoint is made; `cont` goes on."""
    bed.start_pair()
    with Load(bed, conns()) as load:
        load.wait_answers(20, 20)
        bed.a.cli("set", VM_NAME, "checkpoint-delay=300")
        same(qmp(bed.a, "stop"), {"return": {}, "id": 7}, "the answer to stop")
        same(qmp(bed.b, "stop"), {"return": {}, "id": 7}, "the answer to stop on the other host")
        until(lambda: stands(bed.a) and stands(bed.b), 5, "both to stand")
        must("paused" in bed.a.cli("status", VM_NAME).stdout, "status does not say so")
        silence(load)
        before = bed.a.checkpoints()
        silence(load, 2)
        must(bed.a.checkpoints() - before <= 1, "%d checkpoints of a VM that stands", bed.a.checkpoints() - before)
        same((bed.a.state(), bed.b.state()), ("protected", "standby"), "states")
        bed.a.checkpoint()
        must(stands(bed.a) and stands(bed.b), "a checkpoint has the VM run on")
        silence(load, 0.5)
        bed.b.call("cont", VM_NAME)
        load.wait_answers(20, 30)
        same((bed.a.status()["paused"], bed.b.status()["paused"]), (False, False), "paused")
        same(qmp(bed.a, "cont"), {"return": {}, "id": 7}, "cont of a VM that runs")
        load.wait_answers(20, 30)
        load.finish()


@case(timeout=150)
def life_panic(bed):
    """A guest that panics ends both nodes, as QEMU's default -action says; the status and the log say what it was."""
    bed.start_pair(Machine(extra=PVPANIC))
    q = [bed.a.qemu_process(), bed.b.qemu_process()]
    with Ask(bed) as ask:
        ask.sock.sendall(b"panic\n")
        both_end(bed, 5, q)
    for n in (bed.a, bed.b):
        must("guest panicked" in n.said(), "node %s does not say why: %s", n.name, n.tail())


@case("life", timeout=300)
def life_pause_failover(bed):
    """Who survives a pair that stands has a VM that stands, on either side; a secondary that joins it stands as well."""
    machine = Machine(mem=256)
    bed.start_pair(machine)
    with Load(bed, conns()) as load:
        load.wait_answers(20, 20)
        bed.a.call("stop", VM_NAME)
        bed.kill(bed.a, "both")
        bed.wait_alone(bed.b, 20)
        until(lambda: stands(bed.b), 5, "the survivor to stand")
        silence(load)
        bed.a.proc.wait(15, "node a")
        rejoin(bed, bed.a, machine)
        until(lambda: stands(bed.a) and stands(bed.b), 5, "both to stand")
        silence(load)
        bed.b.call("cont", VM_NAME)
        load.wait_answers(20, 60)
        bed.b.call("stop", VM_NAME)
        bed.kill(bed.a, "lockstep")
        bed.wait_alone(bed.b, 20)
        until(lambda: stands(bed.b), 5, "the survivor to stand")
        bed.b.call("stop", VM_NAME)
        silence(load)
        bed.b.call("cont", VM_NAME)
        load.wait_answers(20, 60)
        load.finish()


@case("life", timeout=300)
def life_pause_anywhere(bed):
    """Stops and runs at any moment of many checkpoints: connections live, memory stays equal."""
    env = {"LOCKSTEP_MEMCHECK": "1"}
    bed.start_pair(Machine(mem=256), a_env=env, b_env=env)
    with Load(bed, conns()) as load:
        load.wait_answers(5, 60)
        bed.a.cli("set", VM_NAME, "checkpoint-delay=100")
        for i in range(20):
            node = bed.a if i % 3 else bed.b
            node.call("stop", VM_NAME)
            must(bed.a.status()["paused"], "it does not stand")
            node.call("cont", VM_NAME)
            time.sleep(0.037 * (i % 7))
        load.wait_answers(20, 60)
        load.finish()
    for node in (bed.a, bed.b):
        must("memory differs" not in node.said(), "node %s: memory differs", node.name)
    same((bed.a.state(), bed.b.state()), ("protected", "standby"), "states")


@case("life", timeout=200)
def life_panic_pause(bed):
    """-action panic=pause: both copies stand in state guest-panicked, and `cont` has them run on, as QEMU would."""
    bed.start_pair(Machine(extra=PVPANIC + ("-action", "panic=pause")))
    with Ask(bed) as ask:
        ask.sock.sendall(b"panic\n")
        until(lambda: stands(bed.a) and stands(bed.b), 20, "both to stand")
        until(lambda: bed.a.status()["qemu"]["state"] == "guest-panicked", 10, "guest-panicked")
        bed.a.checkpoint()
        must(stands(bed.a) and stands(bed.b), "a checkpoint has the VM run on")
        bed.a.call("cont", VM_NAME)
        same(ask.file.readline(), b"ok\n", "the guest's answer")
        same(ask("echo x"), "x", "echo")
    bed.wait_protected()


@case("life", timeout=200)
def life_panic_none(bed):
    """-action panic=none: nobody minds."""
    bed.start_pair(Machine(extra=PVPANIC + ("-action", "panic=none")))
    with Ask(bed) as ask:
        same(ask("panic"), "ok", "panic")
        same(ask("echo x"), "x", "echo")
        bed.wait_protected()
        must(not bed.a.status()["paused"], "it stands")
        bed.kill(bed.a)
        same(ask("echo y"), "y", "echo on node b")


def ready(bed, times):
    until(lambda: len(re.findall(r"^lockstep-guest: ready\r?$", bed.a.console_said(), re.M)) >= times, 90, "ready no %d" % times)
    until(lambda: bed.reaches(7000), 20, "the service")
    bed.wait_protected()


@case("life", timeout=400)
def life_reboots(bed):
    """Reboots stay protected: triple faults, which are this kernel's way to reset, `lockstep reset`; then a failover."""
    bed.start_pair(Machine(append="reboot=t"))
    for i in range(2):
        with Ask(bed) as ask:
            same(ask("reboot"), "ok", "reboot")
        ready(bed, 2 + i)
    with Ask(bed) as ask:
        # At once, without a word to anybody.
        ask.sock.sendall(b"put /proc/sysrq-trigger b\n")
        ready(bed, 4)
    bed.a.call("reset", VM_NAME, timeout=60)
    ready(bed, 5)
    must(bed.a.status()["checkpoints"]["by_cause"]["reset"] >= 4, "the resets cost no checkpoints")
    with Load(bed, conns()) as load:
        load.wait_answers(20, 20)
        bed.kill(bed.a)
        load.wait_answers(20, 20)
        load.finish()


@case("life", timeout=200)
def life_no_reboot(bed):
    """-no-reboot makes a reset the end, of both nodes."""
    bed.start_pair(Machine(extra=("-no-reboot",)))
    q = [bed.a.qemu_process(), bed.b.qemu_process()]
    with Ask(bed) as ask:
        same(ask("reboot"), "ok", "reboot")
    both_end(bed, 0, q)


@case("life", timeout=200)
def life_action_reboot(bed):
    """-action reboot=shutdown is the same in other words."""
    bed.start_pair(Machine(extra=("-action", "reboot=shutdown")))
    q = [bed.a.qemu_process(), bed.b.qemu_process()]
    with Ask(bed) as ask:
        same(ask("reboot"), "ok", "reboot")
    both_end(bed, 0, q)


@case("life", timeout=200)
def life_powerdown(bed):
    """The power button, pressed on the primary's host: both copies have got it; the other host says where to press."""
    bed.start_pair()
    with Load(bed, conns()) as load:
        load.wait_answers(20, 20)
        before = bed.a.checkpoints()
        same(qmp(bed.a, "system_powerdown"), {"return": {}, "id": 7}, "the answer to system_powerdown")
        must(bed.a.checkpoints() > before, "the other copy has not got it")
        r = bed.b.cli("powerdown", VM_NAME)
        must(r.returncode == 1 and "serves the VM" in r.stderr, "on node b: %d %s", r.returncode, r.stderr)
        load.wait_answers(20, 20)
        load.finish()


@case("life", timeout=300)
def life_poweroff_disks(bed):
    """After a poweroff both images are the same and ended in order: the next start has nothing to send."""
    for node in (bed.a, bed.b):
        image(node, mb=16)
    machine = Machine(mem=256, append="lockstep.disks=1", extra=drive())
    bed.start_pair(machine)
    q = [bed.a.qemu_process(), bed.b.qemu_process()]
    with Ask(bed) as ask:
        same(ask("disk vda write 0 4194304 5"), "ok", "write")
        same(ask("poweroff"), "ok", "poweroff")
    both_end(bed, 0, q)
    same(sha(img(bed.a)), sha(img(bed.b)), "the images")
    bed.b.start("secondary", machine)
    until(lambda: bed.b.must_live() or bed.b.status(), 15, "node b's control socket")
    bed.a.start("primary", machine)
    bed.wait_protected()
    disk = bed.a.status()["disk"]
    say("disk %s", json.dumps(disk))
    # None: there was nothing to compare either.
    same((disk["resync"] or {"sent_bytes": 0})["sent_bytes"], 0, "bytes that the next start had to send")
