# SPDX-License-Identifier: BSD-2-Clause
"""
Who serves when the nodes cannot ask each other, or the witness, or one of them stands still: after each fault there
is one speaker at most, what clients read and write is the work of one machine, and somebody serves soon where one may
(arena.py has the verdict).
"""

import contextlib
import os
import random
import time

from arena import QEMU_TIMEOUT, TIMEOUT, Arena, small
from bed import SERVICE_PORT, VM_NAME, Machine, ip, until
from cases_disk import Append, begin, drive, image
from faults import Clock, Freeze, process_of
from harness import case, must, note, same, say
from held import grown, holds
from load import Ask, Count, Idle, Incr, Load, SharedIncr, check_shared, ms
import sniff

WITNESS = {"witness": True}
SLOWLY = 1.5        # s after the last lease has ended in which nobody may speak any more, at the latest
NOT_NOTICED = 0.3   # s of standing still that nobody may take for death


def hold(arena, seconds):
    """So long a fault lasts; the clients must not have seen anything wrong meanwhile."""
    begin = time.monotonic()
    until(lambda: arena.check() or time.monotonic() - begin >= seconds, seconds + 10, "the end of a time", every=0.1)


def generation(node):
    return node.status()["generation"]


def as_before(arena, server, before):
    """Nothing has come of a fault: the same node serves, protected, in the same generation."""
    same(arena.states(), {server.name: "protected", arena.other(server).name: "standby"}, "states")
    same(generation(server), before, "the generation")


# -- cables

def parted(arena, wires, detection=TIMEOUT, lasts=4.0, winner=None):
    """These do not let anything through for a time; afterwards the pair is one again. Gives who served in between."""
    fault = time.monotonic()
    arena.cuts.cut(*wires)
    arena.back(fault, detection)
    server = arena.wait_server(20, winner)
    hold(arena, max(0.0, fault + lasts - time.monotonic()))
    server = arena.wait_server(20, server)
    arena.cuts.heal(*wires)
    same(arena.wait_protected(), server, "who serves after the healing")
    arena.registers.wait_answers(50, 30)
    return server


@case("arbitration", timeout=180, bed=WITNESS)
def arb_link_cut(bed):
    """The link is cut both ways. One node is granted the next generation, the other one comes back as its secondary."""
    with Arena(bed) as arena:
        parted(arena, arena.cuts.link())
        arena.verdict(unbroken=True)


@case("arbitration", timeout=300, bed=WITNESS)
def arb_link_cut_again(bed):
    """Again and again, also while the memory is being copied."""
    with Arena(bed) as arena:
        rng = random.Random(arena.seed)
        for _ in range(int(os.environ.get("LOCKSTEP_ROUNDS", "5"))):
            parted(arena, arena.cuts.link(), lasts=rng.uniform(0.7, 5))
        arena.cuts.cut(*arena.cuts.link())
        hold(arena, 2)
        arena.cuts.heal()
        until(lambda: "sync" in arena.states().values(), 60, lambda: "a synchronisation (%s)" % arena.states(),
              every=0.02)
        arena.cuts.cut(*arena.cuts.link())
        hold(arena, 2)
        arena.cuts.heal()
        arena.wait_protected()
        arena.verdict()


def one_way(bed, deaf):
    with Arena(bed) as arena:
        parted(arena, arena.cuts.link(deaf))
        arena.verdict(unbroken=True)


@case("arbitration", timeout=180, bed=WITNESS)
def arb_link_one_way_to_a(bed):
    """The primary hears nothing of the secondary, which hears it."""
    one_way(bed, "a")


@case("arbitration", timeout=180, bed=WITNESS)
def arb_link_one_way_to_b(bed):
    """The secondary hears nothing of the primary, which hears it."""
    one_way(bed, "b")


@case("arbitration", timeout=400, bed=WITNESS)
def arb_link_flaps(bed):
    """The link comes and goes once a second for a minute (LOCKSTEP_SECONDS)."""
    with Arena(bed) as arena:
        with arena.cuts.flapping(arena.cuts.link()):
            end = time.monotonic() + int(os.environ.get("LOCKSTEP_SECONDS", "60"))
            while time.monotonic() < end:
                hold(arena, 1)
                for n in (bed.a, bed.b):
                    if n.proc.ended():
                        arena.again(n)
        arena.wait_protected()
        arena.registers.wait_answers(50, 30)
        arena.verdict()


# -- the witness

def without_witness(bed, nodes):
    """
    The witness is cut from one node or both while the link is healthy: a warning, nothing else. Then nothing is
    decided while it is missing that needs it.
    """
    with Arena(bed) as arena:
        before = generation(bed.a)
        arena.cuts.cut(*arena.cuts.witness(nodes))
        for n in nodes:
            node = getattr(bed, n)
            until(lambda w=node: "witness" in w.cli("status", VM_NAME).stdout and "reach" in w.cli(
                "status", VM_NAME).stdout, 30, "a warning in node %s's status" % n, every=0.5)
        as_before(arena, bed.a, before)
        arena.registers.wait_answers(50, 30)
        arena.cuts.heal()
        arena.calm()
        as_before(arena, bed.a, before)
        same(arena.verdict(unbroken=True).spoke["b"], 0, "what node b has said")


@case("arbitration", timeout=180, bed=WITNESS)
def arb_witness_cut_from_a(bed):
    without_witness(bed, "a")


@case("arbitration", timeout=180, bed=WITNESS)
def arb_witness_cut_from_both(bed):
    without_witness(bed, "ab")


@case("arbitration", timeout=180, bed=WITNESS)
def arb_link_and_witness_cut_from_a(bed):
    """Only the secondary has the witness: it goes on, and the primary is silent."""
    with Arena(bed) as arena:
        parted(arena, arena.cuts.link() + arena.cuts.witness("a"), winner=bed.b)
        same(arena.verdict(unbroken=True).handovers[0][:2], ("a", "b"), "the change")


@case("arbitration", timeout=180, bed=WITNESS)
def arb_link_and_witness_cut_from_b(bed):
    """Only the primary has the witness: it goes on, and the secondary does not begin."""
    with Arena(bed) as arena:
        parted(arena, arena.cuts.link() + arena.cuts.witness("b"), winner=bed.a)
        same(arena.verdict(unbroken=True).spoke["b"], 0, "what node b has said")


def nobody(arena, heal, lasts=3.0):
    """The link is cut and nobody can ask the witness: all is silent. When heal() has put it right, somebody goes on."""
    fault = time.monotonic()
    arena.cuts.cut(*arena.cuts.link())
    arena.silent(fault + TIMEOUT + SLOWLY, lasts)
    must(arena.server() is None, "node %s serves", arena.server() and arena.server().name)
    healed = time.monotonic()
    heal()
    arena.probe.back(healed, 30)
    note("somebody served %s after the healing", ms(arena.probe.back(healed, 30) - healed))


@case("arbitration", timeout=180, bed=WITNESS)
def arb_all_cut(bed):
    """The link, and the witness from both: nobody lets anything out. When the witness is back one of them goes on."""
    with Arena(bed) as arena:
        arena.cuts.cut(*arena.cuts.witness())
        nobody(arena, lambda: arena.cuts.heal(*arena.cuts.witness()))
        arena.wait_server(20)
        arena.cuts.heal()
        arena.wait_protected()
        arena.registers.wait_answers(50, 30)
        arena.verdict()


@case("arbitration", timeout=180, bed=WITNESS)
def arb_no_leader(bed):
    """The witness has no leader: with a healthy link nothing happens, without it all is silent until there is one."""
    with Arena(bed) as arena:
        before = generation(bed.a)
        gone = arena.etcd.no_quorum()
        hold(arena, 10)
        as_before(arena, bed.a, before)
        nobody(arena, lambda: arena.etcd.heal(gone))
        arena.wait_server(20)
        arena.cuts.heal()
        arena.wait_protected()
        arena.verdict()


@case("arbitration", timeout=180, bed=WITNESS)
def arb_leader_killed(bed):
    """The witness's leader dies just when it is needed: the others elect one, and it decides."""
    with Arena(bed) as arena:
        leader = arena.etcd.leader()
        arena.etcd.kill(leader)
        fault = time.monotonic()
        arena.cuts.cut(*arena.cuts.link())
        arena.etcd.wait_leader()
        arena.probe.back(max(fault, time.monotonic()), 30)
        arena.wait_server()
        arena.etcd.start(leader)
        arena.cuts.heal()
        arena.wait_protected()
        arena.verdict()


@case("arbitration", timeout=240, bed=WITNESS)
def arb_killed_without_witness(bed):
    """
    The primary is killed while the secondary cannot ask the witness: it knows that the other one is dead and is heard
    at once, but not for longer than a lease; then it waits, silent, and goes on where it was when it has been granted
    the role.
    """
    with Arena(bed) as arena:
        arena.cuts.cut(*arena.cuts.witness("b"))
        fault = bed.kill(bed.a)
        arena.silent(fault + TIMEOUT + SLOWLY, 3.0)
        same(bed.b.state(), "fenced", "node b")
        healed = time.monotonic()
        arena.cuts.heal()
        arena.probe.back(healed, 30)
        arena.wait_server(20, bed.b)
        arena.wait_protected()
        arena.verdict()


# -- deaths

@case("arbitration", timeout=240, bed=WITNESS)
def arb_killed(bed):
    """kill -9 of who serves, on one side and the other; the dead one is started by the command of its first start."""
    with Arena(bed) as arena:
        server = bed.a
        for _ in range(2):
            fault = bed.kill(server)
            arena.back(fault, 0.0)
            server.proc.wait(15)
            server = arena.wait_server(20, arena.other(server))
            same(arena.wait_protected(), server, "who serves when the other one is back")
            arena.calm()
        v = arena.verdict(unbroken=True)
        same([h[:2] for h in v.handovers], [("a", "b"), ("b", "a")], "changes")


def kill(bed, node, what):
    """As Bed.kill(); "first" is the process that was started, when the one that has the VM is a child of it by now."""
    if what != "first":
        return bed.kill(node, what)
    node.proc.kill()
    return time.monotonic()


@case("arbitration", timeout=1200, bed=WITNESS)
def arb_kill_random(bed):
    """kill -9 of anything at any moment, of one node at a time (LOCKSTEP_ROUNDS); also while the other one joins."""
    with Arena(bed) as arena:
        rng = random.Random(arena.seed)
        for i in range(int(os.environ.get("LOCKSTEP_ROUNDS", "12"))):
            node, what = rng.choice((bed.a, bed.b)), rng.choice(("lockstep", "first", "qemu", "both"))
            wait = rng.uniform(0, 3)
            say("round %d: %s of node %s in %.3f s", i + 1, what, node.name, wait)
            hold(arena, wait)
            fault = kill(bed, node, what)
            arena.back(fault, 0.0)
            node.proc.wait(20)
            arena.registers.wait_answers(20, 30)
            arena.wait_protected()
        arena.verdict(unbroken=True)


@case("arbitration", timeout=400, bed=WITNESS)
def arb_cold_start(bed):
    """
    Both nodes are dead. The one that is behind begins no VM alone, and says what it waits for; the one whose
    generation the witness has begins it, with or without the other one.
    """
    with Arena(bed) as arena:
        fault = bed.kill(bed.a)
        arena.back(fault, 0.0)
        bed.a.proc.wait(15)
        arena.wait_server(20, bed.b)
        arena.registers.stop()
        bed.kill(bed.b)
        bed.b.proc.wait(15)
        turns = arena.owners()
        dead = time.monotonic()
        arena.again(bed.a)
        arena.silent(dead + 0.5, 6.0)
        must(not bed.a.proc.ended(), "node a has ended: %s", bed.a.tail())
        must("not begun yet: the witness" in bed.a.said(), "node a does not say what it waits for")
        begun = time.monotonic()
        arena.again(bed.b)
        arena.probe.back(begun, 60)
        same(arena.wait_protected(restart=False), bed.b, "who serves")
        # Once more, and the owner comes alone.
        for n in (bed.a, bed.b):
            bed.kill(n)
            n.proc.wait(15)
        begun = time.monotonic()
        arena.again(bed.b)
        arena.probe.back(begun, 60)
        same(bed.b.state(), "alone", "node b")
        arena.again(bed.a)
        same(arena.wait_protected(restart=False), bed.b, "who serves")
        frames = arena.sniffer.finish()
        v = sniff.judge(frames, arena.owners())
        note("turns %s, then %s; %s", turns, arena.owners(), v)
        must(not v.complaints, "two nodes let frames out: %s", "; ".join(v.complaints[:5]))


# -- who stands still

def frozen(bed, which, name, seconds):
    """
    A process of one node stands still. Shortly: nothing comes of it. Longer than the timeout that counts: the other
    one goes on, and who stood still learns that it has lost before it lets one frame out, and becomes the other one's
    secondary.
    """
    machine, limit = small(), QEMU_TIMEOUT if which == "qemu" else TIMEOUT
    if which == "qsd":
        machine = Machine(mem=256, append="lockstep.disks=1", extra=drive(fmt="qcow2"))
        for n in (bed.a, bed.b):
            image(n, fmt="qcow2")
    with Arena(bed, machine) as arena, contextlib.ExitStack() as stack:
        node = getattr(bed, name)
        writer = None
        if which == "qsd":
            with Ask(bed) as ask:
                begin(ask, "vda")
            writer = stack.enter_context(Load(bed, [Append(interval=0.05)]))
            writer.wait_answers(5, 30)
        before = generation(bed.a)
        process = process_of(node, which)
        with Freeze(process) as freeze:
            if which != "qsd" and seconds > limit:
                arena.back(freeze.begun, limit)
            hold(arena, max(0.0, freeze.begun + seconds - time.monotonic()))
        arena.thaws += freeze.thaws
        thawed = time.monotonic()
        arena.probe.back(thawed, 30)
        if seconds <= NOT_NOTICED:
            hold(arena, 2)
            as_before(arena, bed.a, before)
        elif which != "qsd" and seconds > limit:
            same(arena.wait_protected(), arena.other(node), "who serves afterwards")
        else:
            arena.wait_protected()
        arena.registers.wait_answers(50, 30)
        if writer:
            writer.wait_answers(5, 60)
            writer.finish(60)
        arena.verdict(unbroken=True)


def freeze_case(which, name, seconds):
    text = "%dms" % (seconds * 1000) if seconds < 1 else "%ds" % seconds

    @case("arbitration", name="arb_freeze_%s_%s_%s" % (which, name, text), timeout=240 + seconds, bed=WITNESS)
    def run(bed):
        frozen(bed, which, name, seconds)
    return run


for _which in ("lockstep", "qemu", "qsd"):
    for _node in "ab":
        for _seconds in (0.1, 0.3, 1, 5, 20, 60):
            freeze_case(_which, _node, _seconds)


@case("arbitration", timeout=300, bed=WITNESS)
def arb_suspended_host(bed):
    """All of node a stands still for ten seconds, then all of node b."""
    with Arena(bed) as arena:
        for node in (bed.a, bed.b):
            server = arena.server()
            with Freeze(node.qemu_process(), process_of(node, "lockstep")) as freeze:
                arena.back(freeze.begun, TIMEOUT)
                hold(arena, max(0.0, freeze.begun + 10 - time.monotonic()))
            arena.thaws += freeze.thaws
            same(arena.wait_protected(), arena.other(node), "who serves")
            note("node %s, which stood still, was %s", node.name, "the server" if node is server else "standby")
        arena.verdict(unbroken=True)


@case("arbitration", timeout=300, bed=WITNESS)
def arb_freeze_often(bed):
    """
    The server stands still at random moments for random times around the timeout (LOCKSTEP_ROUNDS): so it is caught
    between check and write, if ever.
    """
    with Arena(bed) as arena:
        rng = random.Random(arena.seed)
        for i in range(int(os.environ.get("LOCKSTEP_ROUNDS", "10"))):
            node = arena.wait_server()
            seconds = rng.uniform(0.4, 1.5)
            say("round %d: node %s for %.3f s", i + 1, node.name, seconds)
            hold(arena, rng.uniform(0, 1))
            with Freeze(process_of(node, "lockstep")) as freeze:
                time.sleep(seconds)
            arena.thaws += freeze.thaws
            arena.probe.back(time.monotonic(), 30)
            arena.wait_protected()
        arena.verdict(unbroken=True)


# -- clocks

@case("arbitration", timeout=300, bed=WITNESS)
def arb_clock_jumps(bed):
    """
    The wall clock of one node jumps by an hour, forth and back, then the other one's: nothing comes of it. Nor does a
    failover go otherwise while the clocks of the two are two hours apart.
    """
    clocks = {n.name: Clock(n) for n in (bed.a, bed.b)}
    with Arena(bed, env={n: c.env() for n, c in clocks.items()}) as arena:
        before = generation(bed.a)
        for name in "ab":
            for hours in (1, -1, 0):
                clocks[name].jump(3600 * hours)
                jumped = time.monotonic()
                arena.probe.back(jumped, 20)
                hold(arena, 2)
                as_before(arena, bed.a, before)
        clocks["a"].jump(3600)
        clocks["b"].jump(-3600)
        arena.calm()
        as_before(arena, bed.a, before)
        server = parted(arena, arena.cuts.link())
        fault = bed.kill(server)
        arena.back(fault, 0.0)
        server.proc.wait(15)
        arena.wait_protected()
        told = bed.a.said().splitlines()[-1]
        say("node a's log ends with: %s", told)
        arena.verdict(unbroken=True)


# -- many lives

@case("again200", timeout=5 * 3600, bed=WITNESS)
def again_200(bed):
    """
    Fail, rejoin, fail on the other side, rejoin: 200 times (LOCKSTEP_ROUNDS), by kill -9 and by a cut of the link in
    turns, after which the loser goes on as the same process. Connections from the beginning live to the end, counters
    are exact, and nothing is held that was not held at the beginning.
    """
    rounds = int(os.environ.get("LOCKSTEP_ROUNDS", "200"))
    for n in (bed.a, bed.b):
        os.mkdir(os.path.join(n.dir, "spill"))
    shared = [SharedIncr(interval=0.1) for _ in range(2)]
    counters = [Incr("x", interval=0.05), Incr("y", depth=4, interval=0.1), Count(interval=0.1), Idle()]
    rows = {"protected": [], "standby": []}
    with Arena(bed, options=["--spill-dir", "@DIR@/spill"]) as arena, Load(bed, counters + shared) as load:
        load.wait_answers(5, 60)
        server, gaps = bed.a, []
        for i in range(2 * rounds):
            victim = server
            load.forget()
            fault = time.monotonic()
            if i // 2 % 2:
                arena.cuts.cut(*arena.cuts.link())
                arena.probe.back(fault, 60)
                server = arena.wait_server(30)
                arena.cuts.heal()
            else:
                bed.kill(victim)
                arena.probe.back(fault, 60)
                victim.proc.wait(15)
                server = arena.wait_server(30, arena.other(victim))
            gaps.append(load.gap())
            same(arena.wait_protected(), server, "who serves when the pair is one again")
            load.wait_answers(3, 60)
            load.check()
            arena.check()
            for n, state in ((server, "protected"), (arena.other(server), "standby")):
                rows[state].append(holds(n))
                say("life %d: node %s, %s: %s", i + 1, n.name, state, rows[state][-1])
        load.finish(60)
        check_shared(shared)
        note("%d lives, longest gap %s; %s", 2 * rounds, ms(max(gaps)), "; ".join(
            "%s: %s, then %s" % (state, r[len(r) // 4], r[-1]) for state, r in rows.items()))
        for state, r in rows.items():
            must(not grown(r), "who is %s holds more and more: %s", state, "; ".join(grown(r)))
        arena.verdict(unbroken=True)


# -- a little of everything

@case("e2e", timeout=240, bed=WITNESS)
def arb_sample(bed):
    """One pair through a cut of the link, a server that stands still, a cut of everything, and a death."""
    with Arena(bed) as arena:
        server = parted(arena, arena.cuts.link(), lasts=1.0)
        with Freeze(process_of(server, "lockstep")) as freeze:
            arena.back(freeze.begun, TIMEOUT)
        arena.thaws += freeze.thaws
        same(arena.wait_protected(), arena.other(server), "who serves when the server had stood still")
        arena.cuts.cut(*arena.cuts.witness())
        nobody(arena, lambda: arena.cuts.heal(*arena.cuts.witness()), lasts=1.0)
        arena.cuts.heal()
        server = arena.wait_protected()
        arena.back(bed.kill(server), 0.0)
        arena.registers.wait_answers(20, 30)
        arena.verdict(unbroken=True)


# -- the judge

@case("e2e", "arbitration", timeout=120)
def arb_two_speakers_are_noticed(bed):
    """The judge is judged: two plain QEMUs that answer for the same addresses at once are no turns of anybody."""
    sniffer = sniff.Sniffer(bed)
    for n in (bed.a, bed.b):
        n.start_plain(small())
    for n in (bed.a, bed.b):
        until(lambda w=n: bed.booted(w), 120, "the guest's ready on node " + n.name)
    for _ in range(20):     # each time the client asks anew who has the address, and both answer
        ip("neigh", "flush", "dev", "eth0", ns=bed.ns("c"))
        bed.reaches(SERVICE_PORT, timeout=0.5)
    v = sniff.judge(sniffer.finish(), "ab")
    note("%s; %d complaints", v, len(v.complaints))
    must(len(v.complaints) > 5, "hardly anything was noticed: %s", v)
