# SPDX-License-Identifier: BSD-2-Clause
"""
Clients that check every byte. A Load is one thread with an epoll loop over any number of connections; each connection
is a small machine that says what to send next and judges what comes back, in order, exactly once.

A connection must be the same one from beginning to end: a reset or an end of the stream is a failure, never a reason
to connect again. What went wrong is gathered, not raised in the loop; Load.finish() raises it.

Time is measured here with CLOCK_MONOTONIC: a latency is from the send of a request to the last byte of its answer, a
gap is the longest time in which a connection that waited for something got nothing at all.
"""

import array
import collections
import ctypes
import itertools
import os
import random
import select
import socket
import struct
import sys
import threading
import time

import bed as bedlib

SERVICE_PORT, REDIS_PORT = bedlib.SERVICE_PORT, bedlib.REDIS_PORT
READ_SIZE = 1 << 18


class LoadError(Exception):
    """A client saw something that it must not see."""


def percentile(values, p):
    """The value that p percent of the values do not exceed; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * p / 100.0))]


def ms(seconds):
    return "-" if seconds is None else "%.*f ms" % (2 if seconds < 0.01 else 1 if seconds < 0.1 else 0, seconds * 1000)


class Conn:
    """One connection. A subclass gives next_request() and check()."""

    port = SERVICE_PORT
    name = "conn"

    def __init__(self, depth=1, interval=0.0, limit=None, host=bedlib.GUEST_IP):
        self.depth, self.interval, self.limit, self.host = depth, interval, limit, host
        self.sock = None
        self.out = bytearray()
        self.inp = bytearray()
        self.pending = collections.deque()  # (when sent, what is expected)
        self.asked = self.answers = self.lost = self.doubled = self.resets = 0
        self.error = None
        self.latency = array.array("d")
        self.heard = 0.0                    # when the last byte came
        self.gap = self.gap_at = 0.0
        self.next_at = 0.0
        self.paused = False

    # -- for subclasses

    def open(self, bed):
        """The connected socket that is used from now on."""
        return bed.connect(self.port, host=self.host)

    def next_request(self):
        """(bytes to send, what check() is to expect)"""
        raise NotImplementedError

    def check(self, expected):
        """Takes one whole answer off self.inp and judges it; False when it is not complete yet."""
        raise NotImplementedError

    def line(self):
        """The next line without its end, or None."""
        end = self.inp.find(b"\n")
        if end < 0:
            return None
        got = bytes(self.inp[:end]).rstrip(b"\r")
        del self.inp[:end + 1]
        return got

    def wrong(self, text, *args):
        if not self.error:
            self.error = "%s: %s" % (self.name, text % args if args else text)

    # -- for Load

    def fill(self, now):
        """Queues what may be asked now."""
        while (not self.paused and not self.error and len(self.pending) < self.depth and now >= self.next_at and
               (self.limit is None or self.asked < self.limit)):
            data, expected = self.next_request()
            if not self.pending:
                self.heard = now
            self.pending.append((now, expected))
            self.out += data
            self.asked += 1
            self.next_at = now + self.interval

    def took(self, data, now):
        if self.pending and now - self.heard > self.gap:
            self.gap, self.gap_at = now - self.heard, now
        self.heard = now
        self.inp += data
        while self.pending and not self.error:
            sent, expected = self.pending[0]
            if not self.check(expected):
                break
            self.pending.popleft()
            self.answers += 1
            self.latency.append(now - sent)
        if self.inp and not self.pending:
            self.wrong("%d bytes that nobody asked for: %r", len(self.inp), bytes(self.inp[:60]))

    def idle_gap(self, now):
        """The gap that is open right now."""
        return now - self.heard if self.pending else 0.0

    def forget(self):
        """Latencies and the gap begin anew."""
        self.latency = array.array("d")
        self.gap = 0.0
        self.heard = time.monotonic()


class Incr(Conn):
    """Redis INCR of a key of its own: the n-th answer is n, or something was lost or done twice."""

    port = REDIS_PORT

    def __init__(self, key, **kw):
        super().__init__(**kw)
        self.key, self.name, self.want = key, "incr " + key, 0

    def next_request(self):
        return b"INCR %s\r\n" % self.key.encode(), None

    def check(self, expected):
        got = self.line()
        if got is None:
            return False
        self.want += 1
        if got != b":%d" % self.want:
            if not got.startswith(b":") or not got[1:].isdigit():
                self.wrong("answer %d is %r", self.want, got[:60])
                return True
            value = int(got[1:])
            self.doubled += max(0, value - self.want)
            self.lost += max(0, self.want - value)
            self.want = value
        return True

    def settle(self):
        """After the end: the counter itself must agree with the answers. On the same connection."""
        self.sock.setblocking(True)
        self.sock.settimeout(20 * bedlib.PATIENCE)
        self.sock.sendall(b"GET %s\r\n" % self.key.encode())
        f = self.sock.makefile("rb")
        if f.readline() != b"$%d\r\n" % len(str(self.want)) or f.readline() != b"%d\r\n" % self.want:
            self.wrong("the counter is not %d at the end", self.want)


class SharedIncr(Conn):
    """Redis INCR of one key by many connections: values only grow here, and all together are 1..N (check_shared)."""

    port = REDIS_PORT

    def __init__(self, key="shared", **kw):
        super().__init__(**kw)
        self.key, self.name, self.values = key, "shared incr", []

    def next_request(self):
        return b"INCR %s\r\n" % self.key.encode(), None

    def check(self, expected):
        got = self.line()
        if got is None:
            return False
        if not got.startswith(b":") or (self.values and int(got[1:]) <= self.values[-1]):
            self.wrong("%r after %s", got[:60], self.values[-1:])
            return True
        self.values.append(int(got[1:]))
        return True


def check_shared(conns):
    """All values of a shared counter: each once, none left out."""
    values = sorted(itertools.chain.from_iterable(c.values for c in conns))
    if values != list(range(1, len(values) + 1)):
        lost = len(set(range(1, len(values) + 1)) - set(values))
        raise LoadError("shared counter: %d answers are not 1..%d (%d missing)" % (len(values), len(values), lost))


class Mixed(Conn):
    """Redis INCR, SET and GET in turn on keys of its own, checked against a model."""

    port = REDIS_PORT

    def __init__(self, key, **kw):
        super().__init__(**kw)
        self.key, self.name, self.turn, self.count, self.value = key.encode(), "mixed " + key, 0, 0, b""

    def next_request(self):
        self.turn += 1
        if self.turn % 3 == 1:
            self.count += 1
            return b"INCR n%s\r\n" % self.key, b":%d\r\n" % self.count
        if self.turn % 3 == 2:
            self.value = b"%d:" % self.turn + b"v" * (self.turn % 61)
            return b"SET s%s %s\r\n" % (self.key, self.value), b"+OK\r\n"
        return b"GET s%s\r\n" % self.key, b"$%d\r\n%s\r\n" % (len(self.value), self.value)

    def check(self, expected):
        if len(self.inp) < len(expected) and expected.startswith(self.inp):
            return False
        if not self.inp.startswith(expected):
            self.wrong("%r instead of %r", bytes(self.inp[:60]), expected[:60])
            return True
        del self.inp[:len(expected)]
        return True


class Fill(Conn):
    """Redis SET of random values, so that pages are written, and INCR between them."""

    port = REDIS_PORT

    def __init__(self, key, keys=2000, size=1000, seed=1, **kw):
        super().__init__(**kw)
        self.name, self.key, self.keys, self.size = "fill " + key, key.encode(), keys, size
        self.rng, self.turn, self.count = random.Random(seed), 0, 0

    def next_request(self):
        self.turn += 1
        if self.turn % 8 == 0:
            self.count += 1
            return b"INCR n%s\r\n" % self.key, b":%d\r\n" % self.count
        value = self.rng.randbytes(self.size // 2).hex().encode()
        return b"SET %s%d %s\r\n" % (self.key, self.rng.randrange(self.keys), value), b"+OK\r\n"

    check = Mixed.check


class Random(Conn):
    """
    Random bytes, and after each answer: what were the last ones? The second answer proves that the state behind the
    first one still exists, whoever answers now.
    """

    def __init__(self, size=32, ask_last=True, **kw):
        super().__init__(**kw)
        self.size, self.name, self.last, self.ask_last, self.turn = size, "random", None, ask_last, 0
        self.random_latency = array.array("d")

    def next_request(self):
        self.turn += 1
        if self.ask_last and self.turn % 2 == 0:
            return b"last\n", "last"
        return b"random %d\n" % self.size, "random"

    def check(self, expected):
        got = self.line()
        if got is None:
            return False
        if len(got) != 2 * self.size or got.strip(b"0123456789abcdef"):
            self.wrong("%s gave %r", expected, got[:60])
        elif expected == "last" and got != self.last:
            self.wrong("the last bytes were %r, now they are said to have been %r", self.last, got)
        elif expected == "random":
            self.random_latency.append(time.monotonic() - self.pending[0][0])
            self.last = got
        return True

    def settle(self):
        """After the end, on the same connection: still the same bytes?"""
        self.sock.setblocking(True)
        self.sock.settimeout(20 * bedlib.PATIENCE)
        if self.last is None:
            return
        self.sock.sendall(b"last\n")
        got = self.sock.makefile("rb").readline().rstrip(b"\n")
        if got != self.last:
            self.wrong("at the end the last bytes were %r, now they are said to have been %r", self.last, got)


class Count(Conn):
    """The service's counter of this connection."""

    def __init__(self, **kw):
        super().__init__(**kw)
        self.name = "count"

    def next_request(self):
        return b"count\n", b"%d" % (self.asked + 1)

    def check(self, expected):
        got = self.line()
        if got is None:
            return False
        if got != expected:
            self.wrong("%r instead of %r", got[:60], expected)
        return True


class Echo(Conn):
    """Echo of random lines; a typist with an interval."""

    def __init__(self, size=40, seed=1, **kw):
        super().__init__(**kw)
        self.size, self.name, self.rng = size, "echo", random.Random(seed)

    def next_request(self):
        text = b"%x" % self.rng.getrandbits(4 * self.size)
        return b"echo %s\n" % text, text

    check = Count.check


def expect(sock, text):
    """The next bytes of a connection must be these."""
    got = b""
    while len(got) < len(text):
        more = sock.recv(len(text) - len(got))
        if not more:
            break
        got += more
    if got != text:
        raise LoadError("%r instead of %r" % (got, text))


class Typist(Conn):
    """The service's shell, as over ssh: it sends back each byte as it comes, and a prompt for a new line."""

    KEYS = b"abcdefghijklmnopqrstuvwxyz 0123456789\n"

    def __init__(self, seed=1, **kw):
        super().__init__(**kw)
        self.name, self.rng = "typist", random.Random(seed)

    def open(self, bed):
        sock = super().open(bed)
        sock.sendall(b"shell\n")
        expect(sock, b"> ")
        return sock

    def next_request(self):
        i = self.rng.randrange(len(self.KEYS))
        key = self.KEYS[i:i + 1]
        return key, b"\n> " if key == b"\n" else key

    def check(self, expected):
        if len(self.inp) < len(expected) and expected.startswith(self.inp):
            return False
        if not self.inp.startswith(expected):
            self.wrong("key %d gave %r instead of %r", self.answers + 1, bytes(self.inp[:10]), expected)
            return True
        del self.inp[:len(expected)]
        return True


class Called(Echo):
    """A connection that the guest has opened: it says hello, then it sends everything back in upper case."""

    def __init__(self, home=bedlib.CLIENT_IP, **kw):
        super().__init__(**kw)
        self.name, self.home = "called " + home, home

    def open(self, bed):
        with bed.socket(fam=bedlib.family(self.home)) as door:
            door.settimeout(20 * bedlib.PATIENCE)
            door.bind((self.home, 0))
            door.listen(1)
            with Ask(bed, host=self.host) as ask:
                got = ask("connect %s %d" % (self.home, door.getsockname()[1]))
                if got != "ok":
                    raise LoadError("connect: %s" % got)
                sock, _ = door.accept()
        sock.settimeout(20 * bedlib.PATIENCE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        expect(sock, b"hello\n")
        return sock

    def next_request(self):
        ask, text = super().next_request()
        return ask[len(b"echo "):], text.upper()


_xxh = ctypes.CDLL("libxxhash.so.0")
_xxh.XXH64.restype = ctypes.c_uint64
_xxh.XXH64.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64]


def xxh64(data):
    return b"%016x" % _xxh.XXH64(bytes(data), len(data), 0)


class Upload(Conn):
    """`take N` with random bytes, whose hash must come back; again and again."""

    def __init__(self, size=1 << 20, seed=1, **kw):
        super().__init__(**kw)
        self.size, self.name, self.rng = size, "upload", random.Random(seed)

    def next_request(self):
        data = self.rng.randbytes(self.size)
        return b"take %d\n" % self.size + data, xxh64(data)

    check = Count.check

    def progress(self):
        """Which part of a transfer is behind us; all of it when nothing is under way."""
        return 1 - len(self.out) / self.size if self.pending else min(1.0, float(self.asked))


def pattern(n, seed):
    """The n bytes that `send n seed` answers (guest/PROTOCOL.md): splitmix64 from the seed, little-endian words."""
    mask = (1 << 64) - 1
    words = array.array("Q")
    for i in range((n + 7) // 8):
        z = (seed + (i + 1) * 0x9E3779B97F4A7C15) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        words.append(z ^ (z >> 31))
    if sys.byteorder == "big":
        words.byteswap()
    return words.tobytes()[:n]


class Download(Conn):
    """`send N SEED`, each byte checked as it comes; again and again."""

    def __init__(self, size=1 << 20, seed=7, **kw):
        super().__init__(**kw)
        self.size, self.seed, self.name, self.pos = size, seed, "download", 0
        self.data = pattern(size, seed) + b"\n"

    def next_request(self):
        return b"send %d %d\n" % (self.size, self.seed), None

    def check(self, expected):
        n = min(len(self.inp), len(self.data) - self.pos)
        if self.inp[:n] != self.data[self.pos:self.pos + n]:
            self.wrong("byte %d and on differ", self.pos)
            return True
        del self.inp[:n]
        self.pos += n
        if self.pos < len(self.data):
            return False
        self.pos = 0
        return True

    def progress(self):
        """Which part of a transfer is behind us; all of it when nothing is under way."""
        return self.pos / self.size if self.pending else min(1.0, float(self.asked))


class Idle(Conn):
    """A connection that says nothing for long times; the kernel's keepalive must be answered meanwhile."""

    def __init__(self, **kw):
        super().__init__(**kw)
        self.name, self.paused = "idle", True

    next_request = Count.next_request
    check = Count.check

    def opened(self):
        for opt, value in ((socket.TCP_KEEPIDLE, 1), (socket.TCP_KEEPINTVL, 1), (socket.TCP_KEEPCNT, 9)):
            self.sock.setsockopt(socket.IPPROTO_TCP, opt, value)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def tcp_info(sock):
    """A few figures of the kernel's about a connection."""
    raw = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
    options = raw[5]
    return {"state": raw[0], "timestamps": bool(options & 1), "sack": bool(options & 2),
            "mss": struct.unpack_from("I", raw, 16)[0], "retransmits": struct.unpack_from("I", raw, 100)[0],
            "rtt_us": struct.unpack_from("I", raw, 68)[0]}


class Load(threading.Thread):
    """
    Runs connections until finish(). Connects all of them in the constructor, so that a test begins with an
    established load; a failure to connect is raised there.
    """

    def __init__(self, bed, conns):
        super().__init__(daemon=True)
        self.bed, self.conns = bed, list(conns)
        self.ep = select.epoll()
        self.by_fd = {}
        self.stopping = self.dead = False
        self.begun = time.monotonic()
        self.wake_r, self.wake_w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.ep.register(self.wake_r, select.EPOLLIN)
        for c in self.conns:
            c.sock = c.open(bed)
            c.sock.setblocking(False)
            c.heard = time.monotonic()
            if hasattr(c, "opened"):
                c.opened()
            self.by_fd[c.sock.fileno()] = c
            self.ep.register(c.sock.fileno(), select.EPOLLIN)
        self.start()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    # -- the loop

    def run(self):
        try:
            self._loop()
        except Exception as e:  # pylint: disable=broad-except
            self.conns[0].wrong("the load itself failed: %r" % e)
            self.dead = True

    def _loop(self):
        while not self.dead:
            now = time.monotonic()
            wait = 0.1
            for c in self.conns:
                if not self.stopping:
                    c.fill(now)
                if c.out:
                    self._write(c)
                if c.interval and not c.paused and len(c.pending) < c.depth:
                    wait = min(wait, max(0.0, c.next_at - now))
            # With few requests under way this loop spends its time here.
            for fd, events in self.ep.poll(wait):
                if fd == self.wake_r:
                    os.read(self.wake_r, 4096)
                    continue
                c = self.by_fd[fd]
                if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
                    self._read(c)

    def _write(self, c):
        try:
            n = c.sock.send(c.out)
            del c.out[:n]
        except BlockingIOError:
            pass
        except OSError as e:
            self._broken(c, e)
            return
        self.ep.modify(c.sock.fileno(), select.EPOLLIN | (select.EPOLLOUT if c.out else 0))

    def _read(self, c):
        try:
            data = c.sock.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError as e:
            self._broken(c, e)
            return
        if not data:
            self._broken(c, "end of the stream")
            return
        c.took(data, time.monotonic())

    def _broken(self, c, why):
        c.resets += 1
        c.wrong("the connection broke after %d answers: %s", c.answers, why)
        self.ep.unregister(c.sock.fileno())
        c.out.clear()
        c.pending.clear()

    # -- for tests

    def wake(self):
        os.write(self.wake_w, b"x")

    def answers(self):
        return sum(c.answers for c in self.conns)

    def errors(self):
        return [c.error for c in self.conns if c.error] + [
            "%s: lost %d, doubled %d" % (c.name, c.lost, c.doubled) for c in self.conns if c.lost or c.doubled]

    def check(self):
        if self.errors():
            raise LoadError("; ".join(self.errors()[:5]))

    def wait_answers(self, n, seconds, conns=None):
        """Until each connection (that asks at all) has got n more answers."""
        goal = {c: c.answers + n for c in (conns or self.conns) if not c.paused}

        def good():
            self.check()
            return all(c.answers >= g for c, g in goal.items())
        bedlib.until(good, seconds, lambda: "%d answers more (%s)" % (
            n, ", ".join("%s: %d of %d" % (c.name, c.answers, g) for c, g in goal.items() if c.answers < g)))

    def gap(self):
        now = time.monotonic()
        return max(max(c.gap, c.idle_gap(now)) for c in self.conns)

    def latencies(self):
        return list(itertools.chain.from_iterable(c.latency for c in self.conns))

    def forget(self):
        for c in self.conns:
            c.forget()

    def drain(self, seconds=30):
        """Asks nothing more and waits for all answers that are due; then checks everything."""
        self.stopping = True
        self.wake()
        bedlib.until(lambda: self.errors() or not any(c.pending for c in self.conns), seconds,
                     lambda: "the last answers (%s)" % ", ".join("%s: %d due" % (c.name, len(c.pending))
                                                               for c in self.conns if c.pending))
        self.check()

    def finish(self, seconds=30):
        """drain(), then the last questions of each connection. Raises LoadError for whatever was wrong."""
        self.drain(seconds)
        self.dead = True
        self.wake()
        self.join(5)
        for c in self.conns:
            if hasattr(c, "settle"):
                c.settle()
        self.check()
        self.close()

    def close(self):
        self.dead = True
        if self.is_alive():
            self.wake()
            self.join(5)
        for c in self.conns:
            c.sock.close()


class Ask:
    """One blocking connection to the service or to Redis, for single questions."""

    def __init__(self, bed, port=SERVICE_PORT, timeout=20.0, host=bedlib.GUEST_IP):
        self.sock = bed.connect(port, timeout=timeout, host=host)
        self.file = self.sock.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def __call__(self, line):
        self.sock.sendall(line.encode() + b"\n")
        got = self.file.readline()
        if not got.endswith(b"\n"):
            raise LoadError("the guest closed the connection")
        return got.rstrip(b"\r\n").decode()

    def close(self):
        self.file.close()
        self.sock.close()
