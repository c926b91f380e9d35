# SPDX-License-Identifier: BSD-2-Clause
"""What the proxy does with answers that agree, and with answers that do not."""

import os
import re
import socket
import struct
import time

from bed import GUEST_IP, BedError, Machine, until
from harness import case, must, note, say
from load import (Ask, Count, Download, Incr, Load, Mixed, Random, SharedIncr, Upload, check_shared, ms, percentile)


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
    must(spent.get("mismatch", 0) >= 40, "checkpoints by mismatch: %s", spent)
    must(sum(spent.values()) <= 66, "more than one checkpoint a request: %s", spent)
    must(spent.get("timeout", 0) == 0, "checkpoints by timeout: %s", spent)
    # A ratio, because this machine may be busy: far from the 3 s that a timeout would cost.
    must(median < 0.5, "the median is %s", ms(median))


@case()
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


@case()
def many_short_connections(bed):
    """Connections that come and go: none refused, none left over."""
    bed.start_pair()
    begun = time.monotonic()
    for i in range(100):
        with Ask(bed) as ask:
            must(ask("count") == "1", "connection %d: the answer is not 1", i)
    note("100 connections in %.1f s, %d checkpoints", time.monotonic() - begun, bed.a.checkpoints())


def checksum(data):
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    total = (total >> 16) + (total & 0xffff)
    return ~(total + (total >> 16)) & 0xffff


def ping(sock, seq, payload):
    """One echo request; seconds to the right answer."""
    head = struct.pack("!BBHHH", 8, 0, 0, os.getpid() & 0xffff, seq)
    head = struct.pack("!BBHHH", 8, 0, checksum(head + payload), os.getpid() & 0xffff, seq)
    begun = time.monotonic()
    sock.sendto(head + payload, (GUEST_IP, 0))
    while True:
        data = sock.recv(4096)
        reply = data[(data[0] & 15) * 4:]
        if reply[0] == 0 and reply[4:8] == head[4:8]:
            if reply[8:] != payload:
                raise BedError("the echo's content differs")
            return time.monotonic() - begun


@case()
def ping_is_held_and_answered(bed):
    """A frame that is not TCP rides on a checkpoint that begins at once: slow, and right, also after a failover."""
    bed.start_pair()
    with bed.inside("c"):
        sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    with sock:
        sock.settimeout(10)
        before = bed.a.status()["checkpoints"]["by_cause"]["other"]
        times = [ping(sock, i, os.urandom(56)) for i in range(10)]
        after = bed.a.status()["checkpoints"]["by_cause"]["other"]
        bed.kill(bed.a)
        bed.wait_alone(bed.b)
        later = [ping(sock, 100 + i, os.urandom(56)) for i in range(5)]
    note("median %s, after the failover %s, %d checkpoints", ms(percentile(times, 50)), ms(percentile(later, 50)),
         after - before)
    must(after > before, "no checkpoint for ten pings")
    must(percentile(times, 50) < 1.0, "median %s", ms(percentile(times, 50)))


@case()
def neighbours(bed):
    """ARP is answered by one guest only, without a checkpoint; after a failover the switch has learned the new way."""
    bed.start_pair()
    before = bed.a.checkpoints()
    with bed.inside("c"):
        s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806))
        s.bind(("eth0", 0))
    with s:
        s.settimeout(5)
        mine = s.getsockname()[4]
        ask = (b"\xff" * 6 + mine + b"\x08\x06\x00\x01\x08\x00\x06\x04\x00\x01" + mine +
               socket.inet_aton("192.0.2.100") + b"\0" * 6 + socket.inet_aton(GUEST_IP))
        s.send(ask)
        answers = []
        deadline = time.monotonic() + 1.5
        while time.monotonic() < deadline:
            s.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                data = s.recv(2000)
            except (TimeoutError, socket.timeout):
                break
            if data[20:22] == b"\x00\x02" and data[28:32] == socket.inet_aton(GUEST_IP):
                answers.append(data[22:28].hex(":"))
        must(answers == ["52:54:00:00:02:10"], "answers to one ARP request: %s", answers)
        must(bed.a.checkpoints() == before, "an ARP answer cost a checkpoint")
        bed.kill(bed.a)
        bed.wait_alone(bed.b)
        deadline = time.monotonic() + 5
        announced = False
        while not announced and time.monotonic() < deadline:
            s.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                data = s.recv(2000)
            except (TimeoutError, socket.timeout):
                break
            announced = data[22:28].hex(":") == "52:54:00:00:02:10"
        must(announced, "the new primary did not announce the guest's address")
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
