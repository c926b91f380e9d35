# SPDX-License-Identifier: BSD-2-Clause
"""
A real database through failovers: PostgreSQL on a replicated disk, pgbench and writers that note what was acknowledged.

A round: the node that serves is killed at a random moment, and the other one goes on, on the same connections. The dead
one's image, left as it is, must be one that a file system and a database recover from, with every acknowledged row
exactly once; so must the database that goes on. Then the killed node is started again as the new secondary: its image
is brought up to date while the load goes on, and after a checkpoint, both VMs stopped, the two files must be the same,
with a clean file system on them, and a database of which pg_amcheck has nothing to say. The next round kills the other
one.

In the end both nodes are killed at once: what was acknowledged is on the disk of the one that served.

LOCKSTEP_ROUNDS says how many rounds (20 without it).
"""

import os
import random
import time

import pg
from bed import until
from cases_disk import sha, stopped
from harness import case, note, same, say, seed_from
from load import Load, ms

ROUNDS = int(os.environ.get("LOCKSTEP_ROUNDS", "20"))
WRITERS = 3
# This looks at disks and not at times, and stops QEMU to do it: nobody is to be taken for dead because he is slow.
# Under TCG a copy that was just replaced is slow, so that what is held is let out sooner by a checkpoint.
OPTIONS = ["--timeout", "3000", "--qemu-timeout", "300000", "--compare-timeout", "200", "--checkpoint-delay", "500"]


def other(bed, node):
    return bed.b if node is bed.a else bed.a


def written_back(node):
    """All that was committed is in the secondary's image."""
    d = (node.status() or {}).get("disk")
    return d and not d["committed_bytes"] and not d["pending_bytes"]


def check_images(bed, server, writers):
    """After a commit the two files are the same, and what is on them is whole."""
    standby = other(bed, server)
    with pg.Frozen(bed):
        acknowledged = pg.acknowledged_now(writers)
        server.checkpoint(60)
        until(lambda: written_back(standby), 60, lambda: "writing back (%s)" % (standby.status() or {}).get("disk"))
        with stopped(server, standby):
            same(sha(pg.image_of(standby)), sha(pg.image_of(server)), "the images")
            copy = pg.Copy(pg.image_of(standby))
    with copy as path:
        pg.check_copy(bed, path, writers, acknowledged, clean=True)


def fail_over(bed, server, load, bench, rng):
    """
    The node that serves dies, and the other one has the same connections; what the dead one has left is what a power
    loss leaves, with all that was acknowledged. Returns the new server.
    """
    survivor = other(bed, server)
    load.wait_answers(3, 60)
    pause, what = rng.uniform(0, 4), rng.choice(("both", "lockstep", "qemu"))
    say("after %.3f s node %s is killed: %s", pause, server.name, what)
    time.sleep(pause)
    load.check()
    load.forget()
    acknowledged = pg.acknowledged_now(load.conns)
    bed.kill(server, what)
    bed.wait_alone(survivor, 30)
    server.proc.wait(30, "node " + server.name)
    until(server.qemu_process().ended, 20, "the end of QEMU on node " + server.name)
    load.wait_answers(3, 90)
    bench.check()
    say("node %s serves alone, gap %s", survivor.name, ms(load.gap()))
    with pg.Copy(pg.image_of(server)) as path:
        pg.check_copy(bed, path, load.conns, acknowledged)
    return survivor


def rejoin(bed, node, machine):
    """The killed node is the other one's new secondary. Returns what was sent to it, and how long it took."""
    server = other(bed, node)
    begun = time.monotonic()
    node.start("secondary" if node is bed.b else "joiner", machine, OPTIONS)
    bed.wait_protected(240, server=server)
    r = server.status()["disk"]["resync"] or {}
    say("node %s is back after %.1f s: %s", node.name, time.monotonic() - begun, r)
    return r.get("sent_bytes", 0), time.monotonic() - begun


def failovers(bed, interface, rounds):
    pg.needs()
    rng = random.Random(seed_from())
    machine = pg.PgMachine(interface)
    pg.tools(bed)
    for node in (bed.a, bed.b):
        pg.put_image(node)
    bed.start_pair(machine, OPTIONS)
    pg.wait_server(bed)
    bench = pg.Pgbench(bed)
    server, sent, took, gaps = bed.a, [], [], []
    writers = [pg.Writer(i, interval=0.02) for i in range(WRITERS)]
    with Load(bed, writers) as load, pg.Session(bed.connect(pg.PG_PORT), timeout=120) as ask:
        load.wait_answers(3, 60)
        check_images(bed, server, writers)
        for i in range(rounds):
            say("round %d of %d", i + 1, rounds)
            victim, server = server, fail_over(bed, server, load, bench, rng)
            gaps.append(load.gap())
            # In the database that is being used, on one more connection that lives through it all.
            say("%d rows", pg.check_rows(ask, writers))
            moved, seconds = rejoin(bed, victim, machine)
            sent.append(moved / 1e6)
            took.append(seconds)
            load.wait_answers(3, 90)
            check_images(bed, server, writers)
            bench.check()
        # In the guest, beside the load, that takes long: what is in the catalogs was looked at in the copies.
        pg.amcheck(bed, pg.GUEST_IP, "--schema", "public")
        load.wait_answers(3, 90)
        time.sleep(rng.uniform(0, 3))
        load.check()
        acknowledged = pg.acknowledged_now(writers)
        bed.kill(server, "both")
        bed.kill(other(bed, server), "both")
        for n in (bed.a, bed.b):
            n.proc.wait(20, "node " + n.name)
            until(n.qemu_process().ended, 20, "the end of QEMU on node " + n.name)
    with pg.Copy(pg.image_of(server)) as path:
        pg.check_copy(bed, path, writers, acknowledged)
    note("%d rounds, %d rows acknowledged; gap %s at most; resync of %.0f to %.0f MB, protected after %.0f to %.0f s",
         rounds, sum(acknowledged.values()), ms(max(gaps, default=0)), min(sent, default=0), max(sent, default=0),
         min(took, default=0), max(took, default=0))


@case("pg", timeout=300 + 240 * ROUNDS)
def pg_virtio(bed):
    failovers(bed, "virtio", ROUNDS)


@case("pg", timeout=300 + 240 * ROUNDS)
def pg_ide(bed):
    failovers(bed, "ide", ROUNDS)


