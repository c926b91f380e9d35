# SPDX-License-Identifier: BSD-2-Clause
"""
A capture at the client, and what tshark says of TCP in it.

tshark counts whatever looks like a loss. Not all of it is somebody's mistake: where two guests are emulated on one busy
machine, an answer may be later than a retransmission timer of the sender's allows, and then it rightly sends again.
Such a segment is told by its age: the guest's clock is in its timestamps, so a segment that the guest sent again by
timer is 200 ms or more younger than the first one, whereas one that was let out twice has the same timestamp, and one
that wrong acknowledgements provoked is hardly younger. What is late in this sense is counted by itself, with the
acknowledgement that answers it (D-SACK); everything else is a suspect. So is all data that the client sends again: its
timer is set to two seconds, and a connection that stands still for so long has lost something.
"""

import bisect
import collections
import contextlib
import os
import re
import signal
import socket
import subprocess

import bed as bedlib
from load import LoadError

AGAIN = ("retransmission", "fast_retransmission", "spurious_retransmission", "out_of_order")
BAD_FLAGS = AGAIN + ("duplicate_ack", "lost_segment", "ack_lost_segment")
OTHER_FLAGS = ("zero_window", "zero_window_probe", "zero_window_probe_ack", "keep_alive", "keep_alive_ack",
               "window_full", "window_update", "reused_ports")
FLAGS = BAD_FLAGS + OTHER_FLAGS
FIELDS = ("frame.number", "frame.time_relative", "ip.src", "ipv6.src", "tcp.stream", "tcp.seq", "tcp.len",
          "tcp.flags.syn", "tcp.options.timestamp.tsval", "tcp.options.sack_le") + tuple("tcp.analysis." + f for f in FLAGS)
MARK_TYPE = b"\x88\xb5"   # an EtherType for experiments
LAST_PART = 1 << 20         # bytes at the end of the file, where the mark must be
LATE_MS = (190, 1900)       # Linux waits for 200 ms at least; what stands still for two seconds is not late but lost


class Verdict:
    """counts: {who: {flag: n}}; late: {who: n}; suspects: what must not be, a sentence for each."""

    def __init__(self):
        self.counts = {"client": collections.Counter(), "guest": collections.Counter()}
        self.late = collections.Counter()
        self.suspects = []

    def __str__(self):
        parts = ["%s %s" % (who, " ".join("%s %d" % x for x in sorted(c.items())) or "nothing")
                 for who, c in self.counts.items()]
        return "; ".join(parts + ["sent again by timer: client %d, guest %d" % (self.late["client"],
                                                                               self.late["guest"])])


class Side:
    """What one side of a stream has sent so far."""

    def __init__(self):
        self.ends, self.first = [], []  # of data that was new, in order; (its time, its timestamp), both in ms
        self.late = set()               # where the segments began that were sent again by timer

    def sent(self, seq, end, when):
        if end > (self.ends[-1] if self.ends else seq):
            self.ends.append(end)
            self.first.append(when)

    def first_time(self, seq):
        """When the byte seq was sent for the first time, or None."""
        i = bisect.bisect_right(self.ends, seq)
        return self.first[i] if i < len(self.ends) else None


class Capture:
    """What passes an interface of the client, headers only."""

    def __init__(self, bed, interface="eth0", name="capture"):
        self.file = os.path.join(bed.logs, name + ".pcap")
        self.bed, self.interface, self.log = bed, interface, self.file + ".log"
        self.proc = bed.popen("c", ["dumpcap", "-q", "-i", interface, "-s", "160", "-B", "64", "-P", "-w", self.file],
                              self.log)
        self._mark()

    def _mark(self):
        """Waits until a frame of our own is in the file: all that was on the wire before it is there as well."""
        text = b"lockstep mark " + os.urandom(16)

        def there():
            if self.proc.ended():
                raise LoadError("dumpcap ended")
            s.send(b"\xff" * 6 + s.getsockname()[4] + MARK_TYPE + text)
            with contextlib.suppress(FileNotFoundError), open(self.file, "rb") as f:
                f.seek(max(0, os.path.getsize(self.file) - LAST_PART))
                return text in f.read()
            return False
        with self.bed.socket(kind=socket.SOCK_RAW, fam=socket.AF_PACKET) as s:
            s.bind((self.interface, 0))
            bedlib.until(there, 30, "our own frame in the capture", every=0.1)

    def finish(self):
        """Ends it. Returns (packets, packets that were missed)."""
        self._mark()
        self.proc.signal(signal.SIGINT)
        self.proc.wait(20, "dumpcap")
        with open(self.log, encoding="utf-8", errors="replace") as f:
            said = f.read()
        m = re.search(r"received/dropped on interface '?[^:]*'?: (\d+)/(\d+)", said)
        if not m:
            raise LoadError("dumpcap: %s" % said[-300:])
        return int(m[1]), int(m[2])

    def rows(self):
        argv = ["tshark", "-r", self.file, "-Y", "tcp", "-T", "fields", "-E", "separator=/t", "-E", "occurrence=f"]
        for word in ("gryphon", "http", "data"):  # they would look for meaning in what was cut off
            argv += ["--disable-protocol", word]
        for field in FIELDS:
            argv += ["-e", field]
        r = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                           timeout=300 * bedlib.PATIENCE, check=False)
        if r.returncode:
            raise LoadError("tshark: exit %d: %s" % (r.returncode, r.stderr[-300:]))
        return (row.split("\t") for row in r.stdout.splitlines())

    def judge(self, addresses):
        """A Verdict. addresses: the guest's."""
        v = Verdict()
        sides = collections.defaultdict(Side)
        for frame, time, src4, src6, stream, seq, length, syn, tsval, sack, *flags in self.rows():
            who = "guest" if src4 in addresses or src6 in addresses else "client"
            me, other = sides[stream, who], sides[stream, "client" if who == "guest" else "guest"]
            now = (float(time) * 1000, int(tsval or 0))
            seq, length = int(seq), int(length)
            found = {name for name, cell in zip(FLAGS, flags) if cell}
            v.counts[who].update(found)
            text = "%s: %s, frame %s, stream %s, seq %d, %d bytes" % (who, " ".join(sorted(found)), frame, stream, seq,
                                                                      length)
            if found & set(AGAIN):
                first = me.first_time(seq)
                clock = 1 if who == "guest" else 0
                age = now[clock] - first[clock] if first else None
                # The client waits for so long (patient()) that what it sends again had been lost, but for a SYN.
                if age is not None and LATE_MS[0] <= age < LATE_MS[1] and (who == "guest" or not length):
                    me.late.add(seq)
                    v.late[who] += 1
                else:
                    v.suspects.append(text + (", not seen before" if age is None else ", %d ms after the first" % age))
            elif "duplicate_ack" in found:
                if not sack or int(sack) not in other.late:
                    v.suspects.append(text)
            elif found & set(BAD_FLAGS):
                v.suspects.append(text)
            me.sent(seq, seq + length + (syn in ("1", "True")), now)
        return v
