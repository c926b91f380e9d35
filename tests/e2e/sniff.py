#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""
sniff.py FILE TAG:NAMESPACE:INTERFACE...  - records what each node lets out; until SIGTERM

The promise to prove is that at no time two nodes let frames out for one VM (P5). A node lets a frame out by writing
it to its TAP, so this listens there, on both nodes at once: whatever comes in from a TAP, whoever made it. All
interfaces are of one kernel, which gives each frame its time of one clock as it comes. What is recorded is a pcapng
file in which each interface has its node's tag as its name, for people too (tshark: frame.interface_name).

judge() says whether the frames are such that the nodes spoke in turns. In which order they may is the test's
knowledge, e.g. "ab", or that of the witness, whose records name each owner in order. A frame of a node whose turn is
over is a *late* one: allowed once for each time at which a frozen process went on, just then, since it may have been
frozen between check and write. Every other one is a violation.
"""

import collections
import os
import select
import signal
import socket
import struct
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import bed as bedlib  # noqa: E402
from tagger import (ETH_P_ALL, PACKET_AUXDATA, PACKET_IGNORE_OUTGOING, SO_RCVBUFFORCE, SOL_PACKET,  # noqa: E402
                    attach_filter)

SNAP = 128                      # bytes of each frame that are kept
BUFFER = 256 << 20              # what may wait in the kernel while this process does not run
PACKET_STATISTICS, SO_TIMESTAMPNS = 6, 35
AUXDATA = struct.Struct("=III")     # the beginning of struct tpacket_auxdata: status, length, length here
SHB, IDB, ISB, EPB = 0x0A0D0D0A, 1, 5, 6
LATE = 0.5                      # s after a frozen process went on, in which its frame may come (times PATIENCE)

# when: seconds of CLOCK_REALTIME; tag: the node's; size: the frame's length
Frame = collections.namedtuple("Frame", "when tag size")


# -- the file

def block(kind, body):
    body += b"\0" * (-len(body) % 4)
    size = struct.pack("=I", len(body) + 12)
    return struct.pack("=I", kind) + size + body + size


def option(code, data):
    return struct.pack("=HH", code, len(data)) + data + b"\0" * (-len(data) % 4)


def file_head(tags):
    out = block(SHB, struct.pack("=IHHq", 0x1A2B3C4D, 1, 0, -1))
    for tag in tags:    # 2: its name; 9: times are in 10^-9 s
        out += block(IDB, struct.pack("=HHI", 1, 0, SNAP) + option(2, tag.encode()) + option(9, b"\x09") +
                     option(0, b""))
    return out


def file_frame(i, ns, size, head):
    return block(EPB, struct.pack("=IIIII", i, ns >> 32, ns & 0xffffffff, len(head), size) + head)


def file_end(i, frames, drops):
    return block(ISB, struct.pack("=III", i, 0, 0) + option(4, struct.pack("=Q", frames)) +
                 option(5, struct.pack("=Q", drops)) + option(0, b""))


def options(body):
    at = 0
    while at + 4 <= len(body):
        code, size = struct.unpack_from("=HH", body, at)
        if not code:
            return
        yield code, body[at + 4:at + 4 + size]
        at += 4 + size + -size % 4


def read_file(path):
    """(frames in the order of their times, how many are missing). A file without its end raises ValueError."""
    tags, frames, ended, drops = [], [], 0, 0
    with open(path, "rb") as f:
        data = f.read()
    at = 0
    while at + 12 <= len(data):
        kind, size = struct.unpack_from("=II", data, at)
        if size < 12 or at + size > len(data):
            break
        body = data[at + 8:at + size - 4]
        at += size
        if kind == IDB:
            tags.append(dict(options(body[8:]))[2].decode())
        elif kind == EPB:
            i, high, low, _, length = struct.unpack_from("=IIIII", body)
            frames.append((high << 32 | low, tags[i], length))
        elif kind == ISB:
            ended += 1
            drops += struct.unpack("=Q", dict(options(body[12:]))[5])[0]
    if at != len(data) or not tags or ended != len(tags):
        raise ValueError("%s is not complete" % path)
    return [Frame(ns / 1e9, *rest) for ns, *rest in sorted(frames, key=lambda x: x[0])], drops


# -- the verdict

class Verdict:
    """
    complaints: what must not be, a sentence for each; late: frames that were late and may have been; handovers:
    (from, to, seconds between the last frame and the first one); spoke: how many frames each node let out.
    """

    def __init__(self):
        self.complaints, self.late, self.handovers, self.spoke = [], [], [], collections.Counter()

    def __str__(self):
        return "%s; %s%s" % (
            ", ".join("%s %d" % x for x in sorted(self.spoke.items())) or "no frames",
            ", ".join("%s to %s %.3f s" % x for x in self.handovers) or "no change",
            "; late: %d" % len(self.late) if self.late else "")


def in_runs(frames):
    """Frames of one node in a row: [tag, first place, number]"""
    runs = []
    for i, f in enumerate(frames):
        if runs and runs[-1][0] == f.tag:
            runs[-1][2] += 1
        else:
            runs.append([f.tag, i, 1])
    return runs


def place_runs(runs, turns):
    """
    Gives each run a turn (its place in turns), never an earlier one than the run before has, so that the fewest frames
    are out of their turn. Each node that speaks must have a turn at all; none can be early, only late.
    """
    impossible = float("inf")
    cost, trace = [0] + [impossible] * (len(turns) - 1), []
    for tag, _, n in runs:
        best, came, k = [], [], 0
        for p, turn in enumerate(turns):
            k = p if cost[p] < cost[k] else k   # the cheapest turn up to this one
            came.append(k)
            best.append(cost[k] + (0 if turn == tag else n if tag in turns[:p] else impossible))
        cost = best
        trace.append(came)
    p = min(range(len(turns)), key=lambda x: cost[x])
    places = []
    for came in reversed(trace):
        places.append(p)
        p = came[p]
    return places[::-1]


def judge(frames, turns, thaws=()):
    """
    A Verdict. turns: the tags of the nodes in the order in which they may have spoken (a turn may have been used for
    nothing); thaws: when (seconds of CLOCK_REALTIME) a process that had been frozen went on, for each of which there
    may be one late frame.
    """
    v = Verdict()
    frames = sorted(frames, key=lambda x: x.when)
    v.spoke.update(f.tag for f in frames)
    if not frames:
        return v
    begun, runs = frames[0].when, in_runs(frames)
    for tag in sorted(set(v.spoke) - set(turns)):
        v.complaints.append("node %s let %d frames out, though it had no turn (turns: %s)" % (
            tag, v.spoke[tag], " ".join(turns) or "none"))
    if v.complaints:
        return v
    left, at, last = sorted(thaws), 0, None
    for (tag, first, n), p in zip(runs, place_runs(runs, turns)):
        if turns[p] == tag:
            if p != at and last and last.tag != tag:
                v.handovers.append((last.tag, tag, frames[first].when - last.when))
            at, last = p, frames[first + n - 1]
            continue
        for f in frames[first:first + n]:
            thaw = next((t for t in left if 0 <= f.when - t <= LATE * bedlib.PATIENCE), None)
            if thaw is not None:
                left.remove(thaw)
                v.late.append(f)
            else:
                v.complaints.append("node %s let a frame of %d bytes out at %.6f s, in the turn of node %s%s" % (
                    tag, f.size, f.when - begun, turns[p],
                    ", %.6f s after that one's last" % (f.when - last.when) if last else ""))
    return v


# -- recording

class Sniffer:
    """Records from now on; finish() gives the frames. tags: the nodes, by the letters of their namespaces."""

    def __init__(self, bed, name="sniff", tags="ab", interfaces=("tap0",)):
        self.file = os.path.join(bed.logs, name + ".pcapng")
        self.log = os.path.join(bed.logs, name + ".log")
        self.proc = bed.popen("c", [sys.executable, os.path.abspath(__file__), self.file] + [
            "%s:%s:%s" % (t, bed.ns(t), i) for t in tags for i in interfaces], self.log)
        bedlib.until(self.ready, 20, "the sniffer")

    def ready(self):
        with open(self.log, encoding="utf-8", errors="replace") as f:
            said = f.read()
        if self.proc.ended():
            raise bedlib.BedError("the sniffer ended: %s" % said[-300:])
        return "ready" in said

    def finish(self):
        """All frames, each with its node's tag. One that is missing is an error: what was not seen proves nothing."""
        self.proc.signal(signal.SIGTERM)
        self.proc.wait(60, "the sniffer")
        frames, drops = read_file(self.file)
        if drops:
            raise bedlib.BedError("the sniffer missed %d frames" % drops)
        return frames


def listen(namespace, interface):
    bedlib.enter(namespace)
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    attach_filter(s, struct.pack("=HBBI", 0x06, 0, 0, SNAP))
    s.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
    s.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    s.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    s.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
    s.bind((interface, ETH_P_ALL))
    s.setblocking(False)
    return s


def take(sock, i, out):
    """Everything that has come; how many frames that was."""
    n = 0
    while True:
        try:
            head, extra, _, _ = sock.recvmsg(SNAP, 256)
        except BlockingIOError:
            return n
        ns, size = time.time_ns(), len(head)
        for level, kind, data in extra:
            if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS):
                s, rest = struct.unpack("=qq", data[:16])
                ns = s * 1000000000 + rest
            elif (level, kind) == (SOL_PACKET, PACKET_AUXDATA):
                size = AUXDATA.unpack(data[:12])[1]
        out.write(file_frame(i, ns, size, head))
        n += 1


def main(path, places):
    socks = [listen(*place.split(":")[1:]) for place in places]
    seen = [0] * len(socks)
    over_r, over_w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(over_w)
    signal.signal(signal.SIGTERM, lambda *_: None)
    poll = select.poll()
    for s in socks + [over_r]:
        poll.register(s, select.POLLIN)
    with open(path, "wb") as out:
        out.write(file_head([place.split(":")[0] for place in places]))
        print("ready", flush=True)
        over = False
        while not over:
            # What was let out before the signal has come by now; it is taken before the end.
            over = any(fd == over_r for fd, _ in poll.poll())
            for i, s in enumerate(socks):
                seen[i] += take(s, i, out)
            out.flush()
        for i, s in enumerate(socks):
            drops = struct.unpack("=II", s.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))[1]
            out.write(file_end(i, seen[i], drops))


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("usage: sniff.py FILE TAG:NAMESPACE:INTERFACE...")
    main(sys.argv[1], sys.argv[2:])
