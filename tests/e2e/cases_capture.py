# SPDX-License-Identifier: BSD-2-Clause
"""`lockstep capture` on both nodes of a running pair: what it writes is what passed, as tshark reads it."""

import collections
import json
import os
import shutil
import signal
import subprocess

from bed import CLIENT_IP, GUEST_IP, LOCKSTEP, REDIS_PORT, VM_NAME, Process, until
from harness import case, must, note, same, say
from load import Incr, Load

REQUESTS = 200
FIELDS = ("frame.interface_name", "frame.packet_flags_direction", "ip.src", "tcp.srcport", "tcp.dstport",
          "tcp.seq_raw", "tcp.len", "tcp.flags.syn", "tcp.payload")
Frame = collections.namedtuple("Frame", "point inbound src sport dport seq len syn payload")


class Capture:
    """A `lockstep capture` that runs until end()."""

    def __init__(self, node, name, *words):
        self.path = os.path.join(node.bed.dir, name + ".pcapng")
        self.out, self.err = self.path + ".out", self.path + ".err"
        with open(self.out, "wb") as out, open(self.err, "wb") as err:
            p = subprocess.Popen(["ip", "netns", "exec", node.ns, LOCKSTEP, "capture", VM_NAME, "--json", "-w",
                                  self.path] + list(words), env=dict(os.environ, LOCKSTEP_RUN_DIR=node.run_dir),
                                 stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        self.process = Process(p.pid, p)
        node.bed.procs.append(self.process)
        # The head of the file is written as soon as the node takes part.
        until(lambda: self.process.ended() or (os.path.exists(self.path) and os.path.getsize(self.path)), 10,
              "the beginning of the capture " + name)

    def end(self, sig=signal.SIGINT):
        """Ctrl-C; the numbers that it printed."""
        if sig:
            self.process.signal(sig)
        self.process.wait(10, "lockstep capture")
        with open(self.err, encoding="utf-8") as f:
            said = f.read()
        same(self.process.popen.returncode, 0, "exit status of the capture (%s)" % said.strip())
        with open(self.out, encoding="utf-8") as f:
            got = json.loads(f.read())
        say("%s: %s", os.path.basename(self.path), got)
        return got

    def frames(self):
        """All frames of the file, as tshark reads them."""
        cmd = ["tshark", "-n", "-o", "tcp.desegment_tcp_streams:FALSE", "-r", self.path, "-T", "fields"]
        for f in FIELDS:
            cmd += ["-e", f]
        r = subprocess.run(cmd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                           timeout=60, check=False)
        same(r.returncode, 0, "tshark's exit status (%s)" % r.stderr.strip()[-200:])
        frames = []
        for line in r.stdout.splitlines():
            name, direction, src, sport, dport, seq, length, syn, payload = line.split("\t")
            must(name.startswith("n0 "), "an interface is called %r", name)
            frames.append(Frame(name[3:], int(direction, 0) == 1, src, int(sport or 0), int(dport or 0), int(seq or 0),
                                int(length or 0), syn in ("1", "True"), bytes.fromhex(payload.replace(":", ""))))
        return frames


def stream(frames, src, port):
    """The bytes of one direction of a connection, put together by their numbers, and how many segments had some."""
    mine = [f for f in frames if f.src == src and port in (f.sport, f.dport) and (f.sport or f.dport)]
    first = next((f.seq for f in mine if f.syn), None)
    must(first is not None, "the capture has no SYN of %s", src)
    data, segments = b"", [f for f in mine if f.payload]
    # In order, as on a bed without loss; what comes twice must say the same again.
    for f in segments:
        at = (f.seq - first - 1) & 0xffffffff
        must(at <= len(data), "%d bytes before %d are missing", at - len(data), at)
        again = data[at:at + len(f.payload)]
        same(f.payload[:len(again)], again, "a retransmission")
        data += f.payload[len(again):]
    return data, len(segments)


@case("traffic")
def capture_points(bed):
    """
    All points of the primary, svm of the secondary, and one capture with a limit, while a client works; then the points
    of the secondary as it becomes the one that serves, and ends.
    """
    bed.start_pair()
    begun = bed.a.status()
    captures = [Capture(bed.a, "all", "--point", "all"), Capture(bed.b, "svm", "--point", "svm"),
                Capture(bed.a, "few", "--point", "released", "--count", "20", "--snaplen", "60")]
    with Load(bed, [Incr("a", limit=REQUESTS)]) as load:
        conn = load.conns[0]
        port = conn.sock.getsockname()[1]
        until(lambda: load.errors() or conn.answers == REQUESTS, 30, lambda: "%d answers" % conn.answers)
        load.check()
        # What settle() asks is behind the capture.
        everything, svm = captures[0].end(), captures[1].end()
        few = captures[2].end(None)
        load.finish()
    ended = bed.a.status()
    same(few["frames"], 20, "frames of the capture with --count")
    same(few["ended"], "count", "why it ended")
    for got in (everything, svm):
        same((got["dropped"], got["ended"]), (0, "signal"), "dropped and ended")
    for node in (bed.a, bed.b):
        must(node.state() in ("protected", "standby"), "node %s is %s", node.name, node.state())
    # A checkpoint makes the SVM go on from the PVM's state: what it had still to say then is never said.
    undisturbed = begun["checkpoints"]["total"] == ended["checkpoints"]["total"]
    if shutil.which("tshark"):
        read(captures, port, everything["frames"], undisturbed, ended["net"]["splits"] - begun["net"]["splits"])
    else:
        note("%d frames; no tshark here to read them", everything["frames"])
    roles(bed)


def roles(bed):
    """A capture goes on through a failover, its points follow the role, and its end with the node is no failure."""
    capture = Capture(bed.b, "through", "--point", "pvm,released")
    bed.kill(bed.a)
    bed.wait_alone(bed.b)
    with Load(bed, [Incr("b", limit=20)]) as load:
        until(lambda: load.errors() or load.conns[0].answers == 20, 20, "20 answers after the failover")
        port = load.conns[0].sock.getsockname()[1]
        load.finish()
    bed.b.quit()
    got = capture.end(None)
    same((got["dropped"], got["ended"]), (0, "node"), "dropped and ended")
    if shutil.which("tshark"):
        frames = capture.frames()
        for point in ("pvm", "released"):
            data, _ = stream([f for f in frames if f.point == point], GUEST_IP, port)
            must(data.startswith(b"".join(b":%d\r\n" % (i + 1) for i in range(20))), "%s: %r", point, data)


def read(captures, port, count, undisturbed, splits):
    """What the files of the pair say."""
    frames = captures[0].frames()
    same(len(frames), count, "frames that tshark reads")
    by = {p: [f for f in frames if f.point == p] for p in ("client", "pvm", "svm", "released")}
    same(sum(len(v) for v in by.values()), len(frames), "frames of known points")
    must(all(f.inbound == (f.point == "client") for f in frames), "a direction is wrong")

    # Exactly what the client has received, and exactly what it has sent.
    answers = b"".join(b":%d\r\n" % (i + 1) for i in range(REQUESTS))
    released, n_released = stream(by["released"], GUEST_IP, port)
    same(released, answers, "bytes released")
    asked, _ = stream(by["client"], CLIENT_IP, port)
    same(asked, b"INCR a\r\n" * REQUESTS, "bytes of the client")
    # The same bytes in both copies: on the primary in client numbers, on the secondary in the SVM's own.
    pvm, n_pvm = stream(by["pvm"], GUEST_IP, port)
    same(pvm, answers, "bytes of the PVM")
    must(n_pvm + splits >= n_released > 0, "%d segments of the PVM, %d released, %d cut", n_pvm, n_released, splits)
    own = captures[1].frames()
    same({f.point for f in own}, {"svm"}, "points on the secondary")
    note(", ".join("%s %d" % (p, len(by[p])) for p in by) + ", svm on the secondary %d frames" % len(own))
    if not undisturbed:
        note("there was a checkpoint: the SVM's streams were not compared")
        return
    same(stream(by["svm"], GUEST_IP, port)[0], answers, "bytes of the SVM as the primary sees them")
    same(stream(own, GUEST_IP, port)[0], answers, "bytes of the SVM as it sends them")
    # Client numbers on the primary, others on the secondary: the two copies have chosen different ones.
    syn = {name: next(f.seq for f in some if f.syn and f.src == GUEST_IP and f.dport == port)
           for name, some in (("pvm", by["pvm"]), ("released", by["released"]), ("svm", by["svm"]), ("own", own))}
    same((syn["pvm"], syn["released"]), (syn["svm"], syn["svm"]), "the number of the SYN on the primary")
    must(syn["own"] != syn["svm"], "the SVM's own SYN has the client's number %d", syn["own"])
    same(REDIS_PORT, next(f.dport for f in by["client"] if f.syn and f.sport == port), "port")
