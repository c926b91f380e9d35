# SPDX-License-Identifier: BSD-2-Clause
"""What the proxy does with answers that agree, and with answers that do not."""

import re
import socket
import time

from bed import CLIENT_IP, CLIENT_IP6, GUEST_IP, GUEST_IP6, Machine, until
from clients import Announcements, checksum
from harness import case, must, note, say
from load import (Ask, Count, Download, Incr, Load, Mixed, Random, SharedIncr, Upload, check_shared, ms, percentile)
from wires import VLAN_NET, VLAN_NET6


def identical(bed, seconds, connections, most):
    """Own keys: both copies answer the same, so next to no checkpoint is needed. Reports a shared counter too."""
    bed.start_pair()
    def span(conns):
        with Load(bed, conns) as load:
            load.wait_answers(3, 30)
            before, answers = bed.a.status()["checkpoints"], load.answers()
            time.sleep(seconds)
            load.check()
            after, answers = bed.a.status()["checkpoints"], load.answers() - answers
            load.finish()
        causes = {k: v - before["by_cause"][k] for k, v in after["by_cause"].items() if v > before["by_cause"][k]}
        say("%d answers, checkpoints %s, p50 %s p99 %s", answers, causes, ms(percentile(load.latencies(), 50)),
            ms(percentile(load.latencies(), 99)))
        return after["total"] - before["total"], answers
    own, answers = span([Mixed("k%d" % i) for i in range(connections)])
    shared_conns = [SharedIncr() for _ in range(connections)]
    shared, shared_answers = span(shared_conns)
    check_shared(shared_conns)
    note("%d checkpoints for %d answers in %d s; with a shared counter %d for %d", own, answers, seconds, shared,
         shared_answers)
    must(own < most, "%d checkpoints in %d s, fewer than %d expected", own, seconds, most)
    must(answers > connections * seconds, "only %d answers in %d s", answers, seconds)


@case()
def identical_answers(bed):
    identical(bed, 10, 20, 6)


@case("redis60", timeout=300)
def identical_answers_60s(bed):
    identical(bed, 60, 20, 33)


@case()
def diverging_answers(bed):
    """Random bytes are right, and each costs one checkpoint, not a timeout."""
    bed.start_pair()
    before = bed.a.status()["checkpoints"]["by_cause"]
    conn = Random(ask_last=False, limit=60)
    with Load(bed, [conn]) as load:
        until(lambda: load.errors() or conn.answers >= 60, 60, "60 random answers")
        load.finish()
    after = bed.a.status()["checkpoints"]["by_cause"]
    spent = {k: after[k] - before[k] for k in after if after[k] > before[k]}
    median = percentile(conn.random_latency, 50)
    note("median %s, checkpoints %s", ms(median), spent)
    # From some on they are periodic: the copies keep differing.
    must(spent.get("mismatch", 0) + spent.get("periodic", 0) >= 40, "checkpoints by mismatch: %s", spent)
    must(sum(spent.values()) <= 66, "more than one checkpoint a request: %s", spent)
    must(spent.get("timeout", 0) == 0, "checkpoints by timeout: %s", spent)
    # A ratio, because this machine may be busy: far from the 3 s that a timeout would cost.
    must(median < 0.5, "the median is %s", ms(median))


@case("traffic")
def diverging_then_last(bed):
    """After every divergence both copies remember the same bytes."""
    bed.start_pair()
    with Load(bed, [Random() for _ in range(4)]) as load:
        load.wait_answers(30, 60)
        load.finish()


@case()
def streams(bed):
    """Up and down at the same time, every byte checked, with checkpoints in between."""
    bed.start_pair(options=["--checkpoint-delay", "1000"])
    with Load(bed, [Upload(1 << 20), Download(1 << 20), Incr("beside", depth=2), Count()]) as load:
        load.wait_answers(3, 60)
        begun, n = time.monotonic(), [c.answers for c in load.conns]
        time.sleep(5)
        rates = [(c.answers - m) / (time.monotonic() - begun) for c, m in zip(load.conns, n)]
        note("up %.1f MB/s, down %.1f MB/s, %.0f + %.0f requests/s beside", *rates)
        load.finish(40)


@case("traffic")
def many_short_connections(bed):
    """Connections that come and go: none refused, none left over."""
    bed.start_pair()
    begun = time.monotonic()
    for i in range(100):
        with Ask(bed) as ask:
            must(ask("count") == "1", "connection %d: the answer is not 1", i)
    note("100 connections in %.1f s, %d checkpoints", time.monotonic() - begun, bed.a.checkpoints())


def neighbour_question(v6, mac):
    """An ARP request or a neighbour solicitation for the guest's first address, from the client."""
    if not v6:
        return (b"\xff" * 6 + mac + b"\x08\x06\x00\x01\x08\x00\x06\x04\x00\x01" + mac + socket.inet_aton(CLIENT_IP) +
                b"\0" * 6 + socket.inet_aton(GUEST_IP))
    target = socket.inet_pton(socket.AF_INET6, GUEST_IP6)
    source, group = socket.inet_pton(socket.AF_INET6, CLIENT_IP6), b"\xff\x02" + b"\0" * 9 + b"\1\xff" + target[-3:]
    def message(check):
        return b"\x87\0" + check.to_bytes(2, "big") + b"\0" * 4 + target + b"\1\1" + mac
    check = checksum(source + group + b"\0\0\0\x20\0\0\0\x3a" + message(0))
    return (b"\x33\x33" + group[-4:] + mac + b"\x86\xdd\x60\0\0\0\0\x20\x3a\xff" + source + group + message(check))


def neighbour_answer(v6, d):
    """The MAC that an answer about the guest's first address tells, or None."""
    if v6:
        good = d[12:14] == b"\x86\xdd" and d[54] == 136 and d[62:78] == socket.inet_pton(socket.AF_INET6, GUEST_IP6)
        return d[80:86].hex(":") if good else None
    good = d[12:14] == b"\x08\x06" and d[20:22] == b"\x00\x02" and d[28:32] == socket.inet_aton(GUEST_IP)
    return d[22:28].hex(":") if good else None


def ask_neighbours(bed, v6, seconds=1.5):
    """All answers to one question."""
    answers = []
    with bed.socket(kind=socket.SOCK_RAW, fam=socket.AF_PACKET) as s:
        s.bind(("eth0", 0x86dd if v6 else 0x0806))
        s.send(neighbour_question(v6, s.getsockname()[4]))
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            s.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                got = neighbour_answer(v6, s.recv(2000))
            except (TimeoutError, socket.timeout):
                break
            answers += [got] if got else []
    return answers


@case("traffic", bed={"v6": True, "vlan": 7})
def neighbours(bed):
    """
    ARP and ND are answered by one guest only, without a checkpoint; after a failover every address is announced, in
    its VLAN.
    """
    bed.start_pair()
    paths = [("eth0", GUEST_IP), ("eth0", GUEST_IP6), ("eth0.7", VLAN_NET[0]), ("eth0.7", VLAN_NET6[0])]
    for _, address in paths:
        with Ask(bed, host=address) as ask:
            must(ask("count") == "1", "count")

    # QEMU has a guest that was loaded announce itself for a second. What is looked for here is what the node does.
    last = [bed.a.checkpoints(), time.monotonic()]

    def quiet():
        n = bed.a.checkpoints()
        if n != last[0]:
            last[:] = [n, time.monotonic()]
        return time.monotonic() - last[1] > 2
    until(quiet, 60, "two seconds without a checkpoint", every=0.1)
    before = bed.a.checkpoints()
    for v6 in (False, True):
        answers = ask_neighbours(bed, v6)
        must(answers == ["52:54:00:00:02:10"], "answers to one question: %s", answers)
    must(bed.a.checkpoints() == before, "an answer about a neighbour cost a checkpoint")
    until(quiet, 60, "two seconds without a checkpoint", every=0.1)
    heard = [Announcements(bed, *p) for p in paths]
    bed.kill(bed.a)
    bed.wait_alone(bed.b)
    missing = [h for h in heard if not h.wait(3)]
    must(not missing, "not announced: %s", ", ".join("%s on %s" % (h.address, h.interface) for h in missing))
    must(bed.reaches(7000), "the guest cannot be reached after the failover")


@case(timeout=150)
def memory_is_equal(bed):
    """
    With both VMs stopped at a checkpoint, guest memory is the same byte for byte, after each of 50 checkpoints under
    load. LOCKSTEP_MEMCHECK=1 has both nodes hash what their QEMU has mapped and compare.
    """
    env = {"LOCKSTEP_MEMCHECK": "1"}
    bed.start_pair(Machine(mem=256), ["--checkpoint-delay", "200"], a_env=env, b_env=env)

    def seen(word):
        return len(re.findall("memcheck: memory " + word, bed.b.said()))
    with Ask(bed) as ask, Load(bed, [Incr("a", depth=4), Random(), Upload(1 << 18)]) as load:
        must(ask("dirty 2000 64") == "ok", "dirty")
        first = seen("equal")
        until(lambda: load.errors() or seen("differs") or seen("equal") >= first + 50, 100, "50 comparisons", every=0.2)
        load.check()
        must(ask("check").startswith("ok"), "the guest's own check of its memory")
        must(ask("dirty 0 0") == "ok", "dirty")
        load.finish()
    must(not seen("differs"), "guest memory differs: %s", bed.b.tail())
    note("%d checkpoints compared", seen("equal"))
