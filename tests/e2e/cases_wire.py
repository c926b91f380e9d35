# SPDX-License-Identifier: BSD-2-Clause
"""
What a client's capture shows of TCP, judged by tshark: without loss nothing is sent twice and nothing is acknowledged
twice, however many checkpoints go on.

What is judged is what is on the wire, not how fast this machine is: see capture.py. Tail loss probes, which follow
twice the usual round trip, are off at both ends, and the client's retransmission timer is long. What the usual timers
make of it is reported beside it in the suite `traffic`, and what they make of plain QEMU.
"""

import shutil
import socket
import time

from bed import GUEST_IP, GUEST_IP6, Machine, Skip, ip
from capture import Capture
from clients import Party, Web
from harness import case, must, note, same, say
from load import Download, Incr, Mixed, Upload, ms


def run(bed, seconds, size, name):
    """The load, in the middle of a capture: what tshark says of it."""
    conns, clients = [], []
    capture = Capture(bed, name=name)
    for host in (GUEST_IP, GUEST_IP6):
        conns += [Incr("i" + host, depth=4, interval=0.002, host=host), Mixed("m" + host, interval=0.005, host=host),
                  Upload(size, host=host), Download(size, host=host)]
        clients.append(Web(bed, host, interval=0.1))
    with Party(bed, conns, clients) as party:
        begun = time.monotonic()
        while time.monotonic() - begun < seconds:
            time.sleep(0.2)
            party.check()
        party.wait_answers(1, 120)
        party.finish(120)
    packets, missed = capture.finish()
    verdict = capture.judge((GUEST_IP, GUEST_IP6))
    say("%s: %d packets, %d missed: %s", name, packets, missed, verdict)
    slow = max(conns, key=lambda c: c.gap)
    note("%s: longest gap %s, of %s", name, ms(slow.gap), slow.name)
    say("gaps %s", ", ".join("%s %s" % (c.name, ms(c.gap)) for c in conns))
    for line in verdict.suspects[:40]:
        say("  %s", line)
    must(packets > 500, "only %d packets", packets)
    return packets, missed, verdict


def extra_segments(bed, seconds, size, baseline):
    if not shutil.which("tshark") or not shutil.which("dumpcap"):
        raise Skip("no tshark")
    if baseline:
        bed.a.start_plain()
        bed.wait_ready(bed.a)
        packets, missed, plain = run(bed, seconds, size, "plain")
        note("plain QEMU, %d packets: %s", packets, plain)
        bed.a.proc.kill()
        bed.a.proc.wait(5)
        bed.a.console += ".2"
    if baseline:
        bed.start_pair(options=["--checkpoint-delay", "200"])
        packets, missed, usual = run(bed, seconds, size, "usual-timers")
        note("protected, usual timers, %d packets: %s", packets, usual)
        for node in (bed.a, bed.b):
            node.proc.kill()
            node.proc.wait(5)
            node.qemu_process().wait(5)
            node.console += ".3"
    bed.patient()
    bed.start_pair(Machine(append="sysctl.net.ipv4.tcp_early_retrans=0"), ["--checkpoint-delay", "200"])
    before = bed.a.checkpoints()
    packets, missed, ours = run(bed, seconds, size, "protected")
    made = bed.a.checkpoints() - before
    for node in (bed.a, bed.b):
        say("node %s: %s", node.name, {k: n for k, n in node.status()["net"].items() if n})
    note("%d packets, %d missed, %d checkpoints: %s", packets, missed, made, ours)
    must(made > seconds, "only %d checkpoints in %d s", made, seconds)
    # A packet that the capture missed would look like one that was lost.
    must(not missed, "the capture missed %d packets", missed)
    must(not ours.suspects, "%d segments too many: %s", len(ours.suspects), "; ".join(ours.suspects[:3]))


@case("traffic", timeout=200, bed={"v6": True})
def no_extra_segments(bed):
    extra_segments(bed, 6, 1 << 20, False)


@case("traffic", timeout=900, bed={"v6": True})
def no_extra_segments_long(bed):
    """The same for longer, beside plain QEMU, whose guest is as slow and may retransmit by itself."""
    extra_segments(bed, 60, 8 << 20, True)


@case()
def a_duplicate_is_noticed(bed):
    """The judge of captures is judged: node b has the guest's address, and one of its frames is sent again."""
    if not shutil.which("tshark"):
        raise Skip("no tshark")
    ip("address", "add", GUEST_IP + "/25", "dev", "br0", ns=bed.ns("b"))
    bed.patient()

    def judged(name, again):
        capture = Capture(bed, name=name)
        with bed.socket("b") as door, bed.socket("b", socket.SOCK_RAW, socket.AF_PACKET) as tap:
            door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            door.bind((GUEST_IP, 7000))
            door.listen(1)
            tap.bind(("up0", 3))
            with bed.connect(7000) as client, door.accept()[0] as server:
                for i in range(10):
                    server.sendall(b"answer %d" % i)
                    same(client.recv(100), b"answer %d" % i, "answer")
                tap.settimeout(5)
                while again:
                    frame, where = tap.recvfrom(2000)
                    if b"answer 5" in frame and where[2] == socket.PACKET_OUTGOING:
                        tap.send(frame)
                        break
                server.sendall(b"end")
                same(client.recv(100), b"end", "end")
        capture.finish()
        return capture.judge((GUEST_IP,)).suspects
    same(judged("good", False), [], "suspects without a duplicate")
    suspects = judged("bad", True)
    must(any(s.startswith("guest: ") and "retransmission" in s for s in suspects), "it was not seen: %s", suspects)
