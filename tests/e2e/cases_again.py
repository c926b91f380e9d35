# SPDX-License-Identifier: BSD-2-Clause
"""A pair's further lives: a node that serves alone gets a new secondary, whichever it is, again and again."""

import os

from bed import VM_NAME, Machine, until
from cases_disk import drive, image, sha
from harness import case, must, note, same, say
from load import Count, Download, Echo, Idle, Incr, Load, Mixed, Random, Upload, ms

CHECK = {"LOCKSTEP_MEMCHECK": "1"}


def small():
    return Machine(mem=256)


def conns():
    return [Incr("a", depth=4), Incr("b", interval=0.02), Mixed("m", depth=2), Count(interval=0.02), Random(interval=0.05),
            Echo(interval=0.02), Upload(1 << 17, interval=0.2), Download(1 << 17, interval=0.2)]


def other(bed, node):
    return bed.b if node is bed.a else bed.a


def compared(bed, server):
    """Checkpoints, and the memory of both copies is the same after each."""
    standby = other(bed, server)
    before = standby.said().count("memory equal")
    for _ in range(3):
        server.call("checkpoint", VM_NAME, timeout=30)
    until(lambda: standby.said().count("memory equal") >= before + 3, 20, "three comparisons of memory")
    for node in (bed.a, bed.b):
        must("memory differs" not in node.said(), "node %s: memory differs", node.name)


def roles(bed, server):
    standby = other(bed, server)
    s, t = server.status(), standby.status()
    same((s["role"], s["state"], t["role"], t["state"]), ("primary", "protected", "secondary", "standby"), "roles")
    same(s["generation"], t["generation"], "generations")
    must(s["link"]["connected"] and t["link"]["connected"], "link: %s %s", s["link"], t["link"])
    text = standby.cli("status", VM_NAME).stdout
    must("secondary" in text, "status of the standby node: %s", text)
    return s["generation"]


def dies(bed, node, load, what="both"):
    """A node of the pair dies; the other one serves the same connections."""
    survivor = other(bed, node)
    load.check()
    for c in load.conns:
        c.gap = 0
    bed.kill(node, what)
    bed.wait_alone(survivor, 20)
    load.wait_answers(5, 60)
    node.proc.wait(15, "node " + node.name)
    until(node.qemu_process().ended, 10, "the end of node %s's QEMU" % node.name)
    say("node %s is dead, gap %s", node.name, ms(load.gap()))
    return load.gap()


def rejoin(bed, node, machine, load=None, protected=True):
    """The node that died is started once more, by the command that makes nobody primary."""
    node.start("secondary" if node is bed.b else "joiner", machine, env=CHECK)
    if protected:
        bed.wait_protected(90, server=other(bed, node))
    if load:
        load.wait_answers(5, 60)


def holds(node):
    """Open files, threads and resident megabytes of a node's Lockstep."""
    proc = "/proc/%d/" % node.proc.pid
    with open(proc + "statm", encoding="utf-8") as f:
        resident, shared = (int(x) for x in f.read().split()[1:3])
    return len(os.listdir(proc + "fd")), len(os.listdir(proc + "task")), (resident - shared) >> 8


@case("again", timeout=300)
def again_and_again(bed):
    """Fail, rejoin, fail on the other side, rejoin, and once more; connections from before the first failure live on."""
    machine = small()
    bed.start_pair(machine, a_env=CHECK, b_env=CHECK)
    idle = Idle()
    with Load(bed, conns() + [idle]) as load:
        load.wait_answers(5, 60)
        generation = roles(bed, bed.a)
        server, gaps = bed.a, []
        for _ in range(3):
            victim, server = server, other(bed, server)
            gaps.append(dies(bed, victim, load))
            rejoin(bed, victim, machine, load)
            compared(bed, server)
            got = roles(bed, server)
            same(got, generation + 1, "the generation")
            generation = got
        note("gaps %s; %d answers", ", ".join(ms(g) for g in gaps), load.answers())
        dies(bed, server, load)
        load.finish()


@case("again", timeout=400)
def again_secondary(bed):
    """The secondary dies again and again, also while it is being filled; then the primary, while one is being filled."""
    machine = small()
    bed.start_pair(machine, a_env=CHECK, b_env=CHECK)
    with Load(bed, conns()) as load:
        load.wait_answers(5, 60)
        dies(bed, bed.b, load)
        rejoin(bed, bed.b, machine, load)
        compared(bed, bed.a)
        dies(bed, bed.a, load)
        # The one that comes back dies while it waits, or a little later.
        rejoin(bed, bed.a, machine, load, protected=False)
        until(lambda: bed.a.must_live() or (bed.b.status() or {"link": {}})["link"].get("connected"), 60, "a link",
              every=0.01)
        say("killed where node b's memory is %s", bed.b.status()["memory"]["mapping"])
        bed.kill(bed.a, "lockstep")
        bed.a.proc.wait(15)
        bed.wait_alone(bed.b, 20)
        # It dies in the middle of its filling.
        rejoin(bed, bed.a, machine, load, protected=False)
        until(lambda: bed.a.must_live() or (bed.a.state() == "joining" and bed.b.state() == "sync"), 60,
              lambda: "synchronisation (a: %s, b: %s)" % (bed.a.state(), bed.b.state()), every=0.01)
        bed.kill(bed.a, "lockstep")
        bed.a.proc.wait(15)
        bed.wait_alone(bed.b, 20)
        load.wait_answers(5, 60)
        rejoin(bed, bed.a, machine, load)
        compared(bed, bed.b)
        roles(bed, bed.b)
        dies(bed, bed.b, load)
        load.finish()


@case("again", timeout=150)
def again_refused(bed):
    """A node that is started with --primary though the other one serves the VM by now becomes its secondary."""
    machine = small()
    bed.start_pair(machine)
    with Load(bed, conns()) as load:
        load.wait_answers(5, 60)
        dies(bed, bed.a, load)
        bed.a.start("primary", machine)
        until(lambda: (bed.a.state(), bed.b.state()) == ("standby", "protected"), 60,
              lambda: "node a standing by (a: %s, b: %s)" % (bed.a.tail(), bed.b.tail()))
        must("begins anew, as its secondary" in bed.a.said(), "node a does not say what it does: %s", bed.a.tail())
        same(bed.a.console_said(), "", "what the VM has said on node a, where it must not run")
        load.wait_answers(5, 60)
        load.finish()


@case("e2e", timeout=60)
def again_neither(bed):
    """Two nodes of which none has the VM say so, and none begins it."""
    bed.b.start("secondary", small())
    until(lambda: bed.b.must_live() or bed.b.status(), 15, "node b's control socket")
    bed.a.start("joiner", small())
    until(lambda: "both nodes are secondary" in bed.a.said() and "both nodes are secondary" in bed.b.said(), 30,
          lambda: "a sentence (a: %s, b: %s)" % (bed.a.tail(), bed.b.tail()))
    same((bed.a.state(), bed.b.state()), ("joining", "joining"), "states")


@case("again", timeout=3600)
def again_soak(bed):
    """
    Many lives (LOCKSTEP_LIVES, 6 if it is not said): on one side and the other in turn, then of the secondary alone, while
    the server's process stays the same; it keeps nothing of those that are gone.
    """
    lives = int(os.environ.get("LOCKSTEP_LIVES", "6"))
    machine = small()
    bed.start_pair(machine, a_env=CHECK, b_env=CHECK)
    with Load(bed, conns()) as load:
        load.wait_answers(5, 60)
        server = bed.a
        for _ in range(lives):
            victim, server = server, other(bed, server)
            dies(bed, victim, load)
            rejoin(bed, victim, machine, load)
            compared(bed, server)
        held = []
        for _ in range(lives):
            victim = other(bed, server)
            dies(bed, victim, load)
            rejoin(bed, victim, machine, load)
            held.append(holds(server))
        note("%d lives; files, threads, MB of the server: %s", 2 * lives, " ".join("%d,%d,%d" % h for h in held))
        same(server.status()["generation"], 1 + lives, "the generation")
        for k, (first, last) in enumerate(zip(held[len(held) // 2], held[-1])):
            must(last <= first + (1, 1, 30)[k], "it grows: %s", held)
        load.finish()


@case("e2e", timeout=300)
def again_disk(bed):
    """With a disk: it is brought up to date each time, and is the same on both nodes after a clean end."""
    machine = Machine("pc", "virtio-net-pci", mem=256, extra=drive())
    image(bed.a, content=os.urandom(8 << 20))
    image(bed.b)
    bed.start_pair(machine, a_env=CHECK, b_env=CHECK)
    with Load(bed, conns()) as load:
        load.wait_answers(5, 60)
        server = bed.a
        for _ in range(2):
            victim, server = server, other(bed, server)
            dies(bed, victim, load)
            rejoin(bed, victim, machine, load)
            compared(bed, server)
            roles(bed, server)
        load.finish()
    same(sha(bed.a.dir + "/disk.img"), sha(bed.b.dir + "/disk.img"), "the images")
