# SPDX-License-Identifier: BSD-2-Clause
"""
Clients beside those of load.py: what is not one TCP connection with questions and answers. Each is a thread that asks,
waits and judges; Party runs them together with a Load.

Datagrams may be lost when a node dies, and only then: a client asks again, as a resolver does, and counts it. A wrong
answer, an answer that nobody asked for, and one more answer than there were questions are failures.
"""

import collections
import itertools
import json
import os
import random
import socket
import struct
import threading
import time

import bed as bedlib
from load import Load, LoadError, pattern, xxh64
from tagger import attach_filter

RETRY = 1.0         # s until a resolver asks again
TRIES = 12          # then it gives up
RECENT = 64         # questions whose late answers are still understood
_identifier = itertools.count(os.getpid())


class Client(threading.Thread):
    """A subclass gives once(): one question and its right answer, or an exception."""

    def __init__(self, bed, name, interval=0.0):
        super().__init__(daemon=True)
        self.bed, self.name, self.interval = bed, name, interval
        self.answers = self.retries = self.lost = 0
        self.error = None
        self.latency = []
        self.worst = 0.0
        self.stopping = threading.Event()

    def once(self):
        raise NotImplementedError

    def done(self):
        """After the last question."""

    def run(self):
        try:
            while not self.stopping.is_set():
                begun = time.monotonic()
                if self.once():
                    self.latency.append(time.monotonic() - begun)
                    self.worst = max(self.worst, self.latency[-1])
                    self.answers += 1
                self.stopping.wait(self.interval)
            self.done()
        except Exception as e:  # pylint: disable=broad-except
            self.error = "%s: after %d answers: %s" % (self.name, self.answers, e or type(e).__name__)

    def finish(self, seconds=60):
        self.stopping.set()
        self.join(seconds * bedlib.PATIENCE)
        if self.is_alive():
            raise LoadError("%s is not at its end" % self.name)
        if self.error:
            raise LoadError(self.error)


def numbers():
    """What the guest has as /numbers.txt."""
    return b"".join(b"%d\n" % i for i in range(1, 200000))[:1 << 20]


class Web(Client):
    """GET /numbers.txt, a connection for each."""

    def __init__(self, bed, host=bedlib.GUEST_IP, **kw):
        super().__init__(bed, "web " + host, **kw)
        self.host, self.want = host, xxh64(numbers())

    def once(self):
        with self.bed.connect(bedlib.HTTP_PORT, host=self.host, timeout=30.0) as s:
            s.sendall(b"GET /numbers.txt HTTP/1.0\r\nHost: web\r\n\r\n")
            with s.makefile("rb") as f:
                got = f.read()
        head, _, body = got.partition(b"\r\n\r\n")
        if b" 200 " not in head.split(b"\r\n")[0]:
            raise LoadError("%r" % head[:80])
        if xxh64(body) != self.want:
            raise LoadError("%d bytes with another hash" % len(body))
        return True


class Datagrams(Client):
    """Questions by datagram: make() gives (key, bytes), key_of() finds the key of an answer, right() judges it."""

    def __init__(self, bed, name, sock, tries=TRIES, **kw):
        super().__init__(bed, name, **kw)
        self.sock, self.tries = sock, tries
        self.sent = collections.OrderedDict()  # key -> [times asked, times answered, what is right]

    def make(self):
        raise NotImplementedError

    def key_of(self, data):
        """The question's key, or None for what is none of ours."""
        raise NotImplementedError

    def take(self, seconds):
        """The key of the next good answer within that time, or None."""
        deadline = time.monotonic() + seconds
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            self.sock.settimeout(left)
            try:
                data = self.sock.recv(1 << 16)
            except (TimeoutError, socket.timeout):
                return None
            key = self.key_of(data)
            if key is None:
                continue
            if key not in self.sent:
                raise LoadError("an answer that nobody asked for: %r" % data[:60])
            entry = self.sent[key]
            entry[1] += 1
            if entry[1] > entry[0]:
                raise LoadError("asked %d times, answered %d times: %r" % (entry[0], entry[1], data[:60]))
            if self.content(data) != entry[2]:
                raise LoadError("wrong answer: %r instead of %r" % (self.content(data)[:60], entry[2][:60]))
            return key

    def content(self, data):
        return data

    def once(self):
        key, ask, answer = self.make()
        entry = self.sent[key] = [0, 0, answer]
        while len(self.sent) > RECENT:
            self.sent.popitem(last=False)
        for _ in range(self.tries):
            entry[0] += 1
            self.sock.send(ask)
            deadline = time.monotonic() + RETRY * bedlib.PATIENCE
            while time.monotonic() < deadline:
                if self.take(deadline - time.monotonic()) == key:
                    return True
            self.retries += 1
        self.lost += 1
        if self.tries > 1:
            raise LoadError("no answer to %d tries" % self.tries)
        return False

    def done(self):
        self.take(0.5)  # one answer too many would be there by now


def udp_socket(bed, host, port=bedlib.UDP_PORT):
    s = bed.socket(kind=socket.SOCK_DGRAM, fam=bedlib.family(host))
    s.connect((host, port))
    return s


class Resolver(Datagrams):
    """Like DNS: a short question with an identifier, a short answer that depends on all of it."""

    def __init__(self, bed, host=bedlib.GUEST_IP, seed=1, **kw):
        super().__init__(bed, "udp " + host, udp_socket(bed, host), **kw)
        self.rng = random.Random(seed)

    def make(self):
        ask = b"h" + self.rng.randbytes(8 + self.rng.randrange(200))
        return ask[1:9], ask, b"h" + ask[1:9] + xxh64(ask)

    def key_of(self, data):
        return data[1:9]


class Pieces(Datagrams):
    """Answers of many fragments. No two of the recent ones have the same length, which is the key."""

    def __init__(self, bed, host=bedlib.GUEST_IP, low=4000, high=30000, seed=1, **kw):
        super().__init__(bed, "fragments " + host, udp_socket(bed, host), **kw)
        self.low, self.high, self.rng = low, high, random.Random(seed)

    def make(self):
        n = self.rng.randrange(self.low, self.high)
        while n in self.sent:
            n = self.rng.randrange(self.low, self.high)
        return n, b"s%d\n" % n, pattern(n, n)

    def key_of(self, data):
        return len(data)


def checksum(data):
    data += b"\0" * (len(data) & 1)
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    total = (total >> 16) + (total & 0xffff)
    return ~(total + (total >> 16)) & 0xffff


class Pinger(Datagrams):
    """Echo requests with random content. A lost one is counted and never asked again, as ping does."""

    def __init__(self, bed, host=bedlib.GUEST_IP, size=56, interval=0.05, **kw):
        self.v6 = bedlib.family(host) == socket.AF_INET6
        proto = socket.IPPROTO_ICMPV6 if self.v6 else socket.IPPROTO_ICMP
        sock = bed.socket(kind=socket.SOCK_RAW, fam=bedlib.family(host), proto=proto)
        sock.connect((host, 0))
        super().__init__(bed, "ping-%d %s" % (size, host), sock, tries=1, interval=interval, **kw)
        self.size, self.seq, self.mark = size, 0, next(_identifier) & 0xffff

    def make(self):
        self.seq = (self.seq + 1) & 0xffff
        key = struct.pack("!HH", self.mark, self.seq)
        payload = os.urandom(self.size)
        head = struct.pack("!BBH", 128 if self.v6 else 8, 0, 0)
        if not self.v6:  # the kernel does ICMPv6's checksum
            head = struct.pack("!BBH", 8, 0, checksum(head + key + payload))
        return key, head + key + payload, payload

    def _icmp(self, data):
        return data if self.v6 else data[(data[0] & 15) * 4:]

    def key_of(self, data):
        icmp = self._icmp(data)
        return icmp[4:8] if icmp[0] == (129 if self.v6 else 0) and icmp[4:6] == struct.pack("!H", self.mark) else None

    def content(self, data):
        return self._icmp(data)[8:]


class Iperf:
    """iperf3 in both directions at once. finish() gives what it measured."""

    def __init__(self, bed, host=bedlib.GUEST_IP, seconds=6, rate=None):
        self.seconds = seconds
        self.log = os.path.join(bed.logs, "iperf-%s.json" % host.replace(":", "_"))
        argv = ["iperf3", "-c", host, "-t", str(seconds), "--bidir", "-J", "-i", "1"] + (["-b", rate] if rate else [])
        self.proc = bed.popen("c", argv, self.log)

    def ended(self):
        return self.proc.ended()

    def finish(self, seconds=60):
        """(bits/s up, bits/s down, bytes up and down of the last two seconds)"""
        code = self.proc.wait(self.seconds + seconds, "iperf3")
        with open(self.log, encoding="utf-8", errors="replace") as f:
            text = f.read()
        got = json.loads(text[text.index("{"):] if "{" in text else "{}")
        if code or "error" in got:
            raise LoadError("iperf3: exit %s: %s" % (code, got.get("error") or text[-200:]))
        end = got["end"]
        late = [[iv.get(key, {}).get("bytes", 0) for iv in got["intervals"][-2:]] for key in (
            "sum", "sum_bidir_reverse")]
        return (end["sum_received"]["bits_per_second"], end["sum_received_bidir_reverse"]["bits_per_second"],
                [sum(x) for x in late])


class Party:
    """A Load and other clients together, with the words that Load has."""

    def __init__(self, bed, conns=(), clients=()):
        self.clients, self.load = list(clients), None
        if conns:
            self.load = Load(bed, conns)
        for c in self.clients:
            c.start()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        for c in self.clients:
            c.stopping.set()
        if self.load:
            self.load.close()

    def forget(self):
        """Gaps begin anew."""
        for c in self.load.conns if self.load else []:
            c.gap = 0.0

    def gap(self):
        return self.load.gap() if self.load else 0.0

    def errors(self):
        return (self.load.errors() if self.load else []) + [c.error for c in self.clients if c.error]

    def check(self):
        if self.errors():
            raise LoadError("; ".join(self.errors()[:5]))

    def wait_answers(self, n, seconds):
        """Until everybody has got n more answers."""
        everybody = (self.load.conns if self.load else []) + self.clients
        goal = {c: min(c.answers + n, getattr(c, "limit", None) or c.answers + n) for c in everybody
                if not getattr(c, "paused", False)}

        def good():
            self.check()
            return all(c.answers >= g for c, g in goal.items())
        bedlib.until(good, seconds, lambda: "%d answers more (%s)" % (
            n, ", ".join("%s: %d of %d" % (c.name, c.answers, g) for c, g in goal.items() if c.answers < g)))

    def finish(self, seconds=60):
        for c in self.clients:
            c.stopping.set()
        for c in self.clients:
            c.finish(seconds)
        if self.load:
            self.load.finish(seconds)


# Classic BPF: neighbour advertisements without extension headers.
NA_ONLY = struct.pack("=HBBIHBBIHBBIHBBIHBBIHBBI", 0x30, 0, 0, 20, 0x15, 0, 3, 58, 0x30, 0, 0, 54, 0x15, 0, 1, 136,
                      0x06, 0, 0, 2000, 0x06, 0, 0, 0)


class Announcements:
    """
    Waits for the announcement of an address of the guest's on an interface of the client, as a node makes it that takes
    over: gratuitous ARP or an unsolicited neighbour advertisement. An interface of a VLAN hears only what is tagged.
    """

    def __init__(self, bed, interface, address):
        self.interface, self.address = interface, address
        self.v6 = bedlib.family(address) == socket.AF_INET6
        self.raw = socket.inet_pton(bedlib.family(address), address)
        self.sock = bed.socket(kind=socket.SOCK_RAW, fam=socket.AF_PACKET)
        if self.v6:  # else what a busy line says would fill the buffer
            attach_filter(self.sock, NA_ONLY)
        self.sock.bind((interface, 0x86dd if self.v6 else 0x0806))

    def is_it(self, d):
        if self.v6:  # NA to all nodes, of this target, with the override flag and without the solicited one
            return (len(d) >= 78 and d[20] == 58 and d[54] == 136 and d[38:54] == socket.inet_pton(
                socket.AF_INET6, "ff02::1") and d[62:78] == self.raw and d[58] & 0x60 == 0x20)
        return len(d) >= 42 and d[28:32] == self.raw and d[38:42] == self.raw

    def wait(self, seconds):
        """Whether it has been heard, or is within that time."""
        deadline = time.monotonic() + seconds * bedlib.PATIENCE
        with self.sock:
            while time.monotonic() < deadline:
                self.sock.settimeout(max(0.01, deadline - time.monotonic()))
                try:
                    if self.is_it(self.sock.recv(2000)):
                        return True
                except (TimeoutError, socket.timeout):
                    break
        return False
