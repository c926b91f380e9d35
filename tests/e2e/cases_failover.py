# SPDX-License-Identifier: BSD-2-Clause
"""Deaths of every kind, under load: the same TCP connections go on and nobody's answer is lost or doubled."""

import random

from bed import until
from harness import case, must, note, moment, same, say, seed_from
from load import Ask, Count, Download, Echo, Idle, Incr, Load, LoadError, Mixed, Random, Upload, ms

# The windows of base/crash.h.
PRIMARY_POINTS = ("before_epoch_end", "epoch_end", "saved", "bulk_half", "bulk_sent", "staged_received", "released",
                  "loaded_received")
SECONDARY_POINTS = ("s_epoch_end", "s_before_staged", "staged", "applied", "s_loaded", "loaded")
CRASH_AFTER = 15  # checkpoints; more than come up before the clients do


def conns(extra=()):
    return [Incr("p0", depth=8), Incr("p1", depth=8), Incr("p2", depth=2), Mixed("m", depth=3), Count(),
            Random()] + list(extra)


def primary_dies(bed, what, extra=(), seed=None):
    """The heart of it: load, a random moment, a kill, and the same load goes on."""
    bed.start_pair()
    with Load(bed, conns(extra)) as load:
        load.wait_answers(3, 30)
        moment(0.1, 1.5, seed)
        load.check()
        for c in load.conns:
            c.gap = 0
        bed.kill(bed.a, what)
        bed.wait_alone(bed.b)
        load.wait_answers(10, 40)
        until(bed.a.proc.ended, 15, "the end of node a's Lockstep")
        until(bed.a.qemu_process().ended, 5, "the end of node a's QEMU")
        note("gap %s, %d answers", ms(load.gap()), load.answers())
        load.finish()


@case()
def primary_lockstep_killed(bed):
    primary_dies(bed, "lockstep")


@case()
def primary_qemu_killed(bed):
    primary_dies(bed, "qemu")


@case()
def primary_both_killed_with_streams(bed):
    primary_dies(bed, "both", [Upload(1 << 19), Download(1 << 19)])


def secondary_dies(bed, what):
    bed.start_pair()
    with Load(bed, conns()) as load:
        load.wait_answers(3, 30)
        moment(0.1, 1.0)
        for c in load.conns:
            c.gap = 0
        bed.kill(bed.b, what)
        bed.wait_alone(bed.a)
        load.wait_answers(10, 30)
        until(bed.b.proc.ended, 15, "the end of node b's Lockstep")
        until(bed.b.qemu_process().ended, 5, "the end of node b's QEMU")
        note("gap %s, %d answers", ms(load.gap()), load.answers())
        load.finish()
    must("alone" in bed.a.said(), "node a does not say that it is alone")


@case()
def secondary_lockstep_killed(bed):
    secondary_dies(bed, "lockstep")


@case()
def secondary_qemu_killed(bed):
    secondary_dies(bed, "qemu")


def crash_at(bed, point, extra=(), times=CRASH_AFTER):
    """
    The node dies by itself in the window that the point names. Each pair of a random answer costs a checkpoint, so the
    load brings the moment about.
    """
    on_primary = point in PRIMARY_POINTS
    victim, survivor = (bed.a, bed.b) if on_primary else (bed.b, bed.a)
    env = {"LOCKSTEP_CRASH_AT": "%s:%d" % (point, times)}
    bed.start_pair(a_env=env if on_primary else None, b_env=None if on_primary else env)
    with Load(bed, conns(extra)) as load:
        must(not victim.proc.ended(), "%s came before the load did", point)
        until(lambda: load.errors() or victim.proc.ended(), 60, "the crash at " + point)
        load.check()
        bed.wait_alone(survivor, 15)
        load.wait_answers(10, 40)
        until(victim.qemu_process().ended, 5, "the end of the victim's QEMU")
        note("gap %s, %d answers", ms(load.gap()), load.answers())
        load.finish()


def crash_case(point, suites):
    @case(*suites, name="crash_" + point)
    def run(bed):
        # Half of the windows with an upload under way.
        crash_at(bed, point, [Upload(1 << 19)] if len(point) % 2 else [])
    return run


SAMPLE = ("staged_received",)
for _point in PRIMARY_POINTS + SECONDARY_POINTS:
    crash_case(_point, ("e2e", "crash") if _point in SAMPLE else ("crash",))


@case()
def new_connections_survive(bed):
    """Connections younger than the last checkpoint: the secondary's guest has numbered them by itself (P6)."""
    bed.start_pair()
    young = [Count(interval=0.05) for _ in range(10)] + [Incr("n%d" % i, interval=0.05) for i in range(10)]
    with Load(bed, young) as load:
        before = bed.a.checkpoints()
        load.wait_answers(5, 20)
        younger = bed.a.checkpoints() == before
        bed.kill(bed.a)
        load.wait_answers(20, 30)
        # And those that begin at the new primary, beside the old ones.
        with Load(bed, [Count(), Incr("later"), Echo()]) as later:
            later.wait_answers(20, 20)
            later.finish()
        note("gap %s%s", ms(load.gap()), "" if younger else " (a checkpoint came in between)")
        load.finish()


@case("liveness")
def idle_connection_with_keepalive(bed):
    """A connection that only the kernel's keepalive uses lives through checkpoints and a failover."""
    bed.start_pair(options=["--checkpoint-delay", "500"])
    idle = Idle()
    with Load(bed, [idle]) as load:
        first = bed.a.checkpoints()
        until(lambda: bed.a.checkpoints() >= first + 8, 30, "eight checkpoints", every=0.2)
        load.check()
        idle.paused = False
        load.wait_answers(3, 20)
        idle.paused = True
        bed.kill(bed.a)
        bed.wait_alone(bed.b)
        moment(3.0, 4.0)  # keepalives meet the new primary
        load.check()
        idle.paused = False
        load.wake()
        load.wait_answers(3, 20)
        load.finish()


@case()
def half_way_dead_client(bed):
    """Connections that end around a failover end as they should, and the service does not keep them."""
    bed.start_pair()
    asks = [Ask(bed) for _ in range(4)]
    for a in asks:
        same(a("count"), "1", "count")
    asks[0].close()
    bed.kill(bed.a)
    same(asks[1]("count"), "2", "count after the failover")
    asks[1].sock.shutdown(1)
    same(asks[1].file.read(), b"", "the end of a connection that the client closed")
    same(asks[2]("count"), "2", "count")
    asks[2].sock.sendall(b"quit\n")
    same(asks[2].file.read(), b"", "the end of a connection that the guest closed")
    same(asks[3]("count"), "2", "count")


def soak_plan(n=50):
    """What happens in each of n rounds: every window twice, the rest kills at random moments."""
    plan = [("crash", p) for p in PRIMARY_POINTS + SECONDARY_POINTS] * 2
    whats = ("lockstep", "qemu", "both")
    plan += [("kill", whats[i % 3]) for i in range(n - len(plan))]
    return plan[:n]


def soak_case(number, how, what):
    @case("soak", name="soak_%02d_%s_%s" % (number, how, what), timeout=120)
    def run(bed):
        rng = random.Random(seed_from())
        extra = [Upload(1 << 19, seed=rng.randrange(1 << 30))] if number % 3 == 0 else []
        extra += [Download(1 << 19)] if number % 5 == 0 else []
        say("round %d: %s %s, %d streams", number, how, what, len(extra))
        if how == "crash":
            crash_at(bed, what, extra, CRASH_AFTER + rng.randrange(10))
        else:
            primary_dies(bed, what, extra, rng.randrange(1 << 30))
    return run


for _i, (_how, _what) in enumerate(soak_plan()):
    soak_case(_i + 1, _how, _what)


@case()
def a_lost_answer_is_noticed(bed):
    """The judge is judged: clients whose answers were tampered with, or whose connection was reset, must complain."""
    bed.a.start_plain()
    bed.wait_ready(bed.a)

    def complaint(spoil, *cs):
        with Load(bed, cs) as load:
            load.wait_answers(3, 20)
            spoil(load)
            try:
                load.wait_answers(3, 20)
                load.finish()
            except (LoadError, Exception) as e:  # pylint: disable=broad-except
                return str(e)
        return ""

    def ask(text, port):
        s = bed.connect(port)
        s.sendall(text)
        s.recv(100)
        s.close()

    same(complaint(lambda load: None, Incr("x"), Random()), "", "complaint of a good run")
    must("doubled 1" in complaint(lambda load: ask(b"INCR y\r\n", 6379), Incr("y", interval=0.01)), "doubled")
    must("lost 1" in complaint(lambda load: ask(b"DECR z\r\n", 6379), Incr("z", interval=0.01)), "lost")

    class Forgetful(Random):
        forgets = False

        def check(self, expected):
            if self.forgets and expected == "last":
                self.last = b"00" * 32
            return super().check(expected)

    def forget(load):
        load.conns[0].forgets = True
    must("last bytes" in complaint(forget, Forgetful(interval=0.01)), "last bytes")

    def kill(load):
        bed.a.proc.kill()
    must("not within" in complaint(kill, Incr("w")), "silence")
