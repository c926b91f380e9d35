# SPDX-License-Identifier: BSD-2-Clause
"""
Clients that write and read registers in the guest's Redis and remember when they asked and when they were answered, so
that lincheck.py can judge whether what they saw could be the work of one machine.

Each client has one operation under way at a time, on a key that it chooses at random: SET of a value that is written
once in the life of the test, or GET. An answer that does not come in time, or a connection that breaks, leaves the
operation *unknown*; the client then connects anew and goes on. That is allowed here, other than in a Load: what is
promised of a client's connection is judged there, and here what the machine says to anybody.

One thread with an epoll loop runs all of them. A question's time is taken before it is handed to the kernel, an
answer's after it was read, so that both lie on the safe side: an interval may be longer than it was, never shorter.

Probe asks by datagrams, many times a second, whether anybody serves: a connection that has waited long is slow to
notice that somebody does again, since TCP doubles the times after which it sends again.
"""

import collections
import errno
import os
import random
import select
import socket
import struct
import threading
import time

import bed as bedlib
import lincheck
from load import LoadError, ms, percentile, xxh64

KEYS = 5                # few, so that clients meet
CLIENTS = 24
INTERVAL = 0.05         # s between an answer and the next question
GIVE_UP = 8.0           # s until an operation is unknown (times PATIENCE)
AGAIN = 0.2             # s between two tries to connect
_serial = iter(range(1 << 30))


class Client:
    def __init__(self, name, rng):
        self.name, self.rng = name, rng
        self.sock, self.connected = None, False
        self.inp, self.op = bytearray(), None   # op: [key, kind, value, asked]
        self.next_at = 0.0
        self.writes = self.breaks = 0

    def question(self, keys):
        key = self.rng.choice(keys)
        if self.rng.random() < 0.5:
            self.writes += 1
            value = "%s.%d" % (self.name, self.writes)
            self.op = [key, "w", value, 0.0]
            return b"SET %s %s\r\n" % (key.encode(), value.encode())
        self.op = [key, "r", None, 0.0]
        return b"GET %s\r\n" % key.encode()

    def answer(self):
        """Whether the answer is complete; a read's value is then in op. Raises LoadError for what is none."""
        end = self.inp.find(b"\r\n")
        if end < 0:
            return False
        head = bytes(self.inp[:end])
        size = end + 2
        if self.op is None:
            raise LoadError("%s: %r, which nobody asked for" % (self.name, bytes(self.inp[:60])))
        if self.op[1] == "w":
            if head != b"+OK":
                raise LoadError("%s: SET gave %r" % (self.name, head[:60]))
        elif head != b"$-1":
            if head[:1] != b"$" or not head[1:].isdigit():
                raise LoadError("%s: GET gave %r" % (self.name, head[:60]))
            size += int(head[1:]) + 2
            if len(self.inp) < size:
                return False
            self.op[2] = bytes(self.inp[end + 2:size - 2]).decode("ascii", "backslashreplace")
        del self.inp[:size]
        if self.inp:
            raise LoadError("%s: %r, which nobody asked for" % (self.name, bytes(self.inp[:60])))
        return True


class Registers(threading.Thread):
    """
    Runs from the constructor to finish(). The keys are of this object's own. seed decides who asks what.
    """

    def __init__(self, bed, seed, clients=CLIENTS, keys=KEYS, interval=INTERVAL, give_up=GIVE_UP,
                 address=(bedlib.GUEST_IP, bedlib.REDIS_PORT)):
        super().__init__(daemon=True)
        self.bed, self.interval, self.give_up, self.address = bed, interval, give_up * bedlib.PATIENCE, address
        serial = next(_serial)
        self.keys = ["r%d-%d" % (serial, i) for i in range(keys)]
        self.file = os.path.join(bed.logs, "registers-%d.history" % serial)
        self.clients = [Client("c%d-%d" % (serial, i), random.Random(seed * 1000 + i)) for i in range(clients)]
        self.ops = []               # lincheck.Op of all operations that are over
        self.answered = collections.deque()     # (asked, answered) in the order of the answers
        self.error = None
        self.stopping = False
        self.ep, self.by_fd = select.epoll(), {}
        self.wake_r, self.wake_w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.ep.register(self.wake_r, select.EPOLLIN)
        for c in self.clients:
            self._connect(c)
        self.start()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.stop()

    # -- the loop

    def run(self):
        try:
            while not (self.stopping and not any(c.op for c in self.clients)):
                self._round()
        except Exception as e:  # pylint: disable=broad-except
            self.error = str(e) or repr(e)

    def _round(self):
        now, wait = time.monotonic(), 0.2
        for c in self.clients:
            if c.op and now - c.op[3] > self.give_up:
                self._broken(c)
            if c.sock is None and now >= c.next_at and not self.stopping:
                self._connect(c)
            if c.connected and not c.op and now >= c.next_at and not self.stopping:
                self._ask(c)
            if not c.op:
                wait = min(wait, max(0.001, c.next_at - now))
        for fd, events in self.ep.poll(wait):
            c = self.by_fd.get(fd)
            if fd == self.wake_r:
                os.read(self.wake_r, 4096)
            elif c and not c.connected and events & select.EPOLLOUT:
                self._connection(c)
            elif c:
                self._read(c)

    def _connect(self, c):
        c.sock = self.bed.socket("c")
        c.sock.setblocking(False)
        c.connected, c.inp, c.next_at = False, bytearray(), time.monotonic() + self.give_up
        c.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.by_fd[c.sock.fileno()] = c
        self.ep.register(c.sock.fileno(), select.EPOLLOUT | select.EPOLLIN)
        try:
            c.sock.connect(self.address)
        except BlockingIOError:
            pass
        except OSError:
            self._broken(c)

    def _connection(self, c):
        if c.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._broken(c)
            return
        c.connected, c.next_at = True, 0.0
        self.ep.modify(c.sock.fileno(), select.EPOLLIN)

    def _ask(self, c):
        data = c.question(self.keys)
        c.op[3] = time.monotonic()
        try:
            if c.sock.send(data) != len(data):  # so short a question always has room, or something is very wrong
                raise LoadError("%s: half a question" % c.name)
        except OSError as e:
            if e.errno not in (errno.EPIPE, errno.ECONNRESET, errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH):
                raise
            self._broken(c)

    def _read(self, c):
        try:
            data = c.sock.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._broken(c)
            return
        c.inp += data
        if not c.answer():
            return
        now = time.monotonic()
        self._over(c, now)
        c.next_at = now + self.interval * (0.5 + c.rng.random())

    def _over(self, c, answered):
        key, kind, value, asked = c.op
        self.ops.append(lincheck.Op(c.name, key, kind, value, asked, answered))
        if answered is not None:
            self.answered.append((asked, answered))
        c.op = None

    def _broken(self, c):
        """The connection is of no use any more; what was under way on it is unknown."""
        if c.op:
            c.op[2] = c.op[2] if c.op[1] == "w" else None
            self._over(c, None)
        c.breaks += c.connected
        del self.by_fd[c.sock.fileno()]
        self.ep.unregister(c.sock.fileno())
        c.sock.close()
        c.sock, c.connected, c.next_at = None, False, time.monotonic() + AGAIN

    # -- for tests

    def stop(self):
        self.stopping = True
        if self.is_alive():
            os.write(self.wake_w, b"x")
            self.join(self.give_up + 20)
        for c in self.clients:
            if c.sock:
                c.sock.close()
                c.sock = None

    def breaks(self):
        """Connections that were lost."""
        return sum(c.breaks for c in self.clients)

    def check(self):
        if self.error:
            raise LoadError(self.error)

    def wait_answers(self, n, seconds):
        """Until there are n more answers to questions that were asked from now on."""
        now = time.monotonic()

        def good():
            self.check()
            return self.since(now) >= n
        bedlib.until(good, seconds, lambda: "%d answers (there are %d)" % (n, self.since(now)))

    def since(self, when):
        """How many questions that were asked since then are answered."""
        return since(self.answered, when)[0]

    def finish(self):
        """Asks nothing more, waits for what is due, and judges. Returns a sentence about it; raises LoadError."""
        self.stop()
        if self.is_alive():
            raise LoadError("the clients are not at their end")
        lincheck.save(self.file, self.ops)
        self.check()
        begun = time.monotonic()
        wrong = lincheck.check(self.ops)
        if wrong:
            raise LoadError("not linearizable (%s): %s" % (self.file, "; ".join(wrong)))
        unknown = sum(op.answered is None for op in self.ops)
        return "%d operations of %d clients linearizable, %d unknown, %d connections lost, p50 %s, judged in %s" % (
            len(self.ops), len(self.clients), unknown, self.breaks(),
            ms(percentile([b - a for a, b in self.answered], 50)), ms(time.monotonic() - begun))


def since(answered, when):
    """
    Of (asked, answered) in the order of the answers: how many were asked since then, and when the first of these was
    answered, or None.
    """
    n, first = 0, None
    for asked, at in reversed(answered.copy()):
        if asked >= when:
            n, first = n + 1, at
        elif at < when:
            break   # before it nobody can have been asked later
    return n, first


class Probe(threading.Thread):
    """A datagram every EVERY seconds, answered or not. It runs from the constructor to finish()."""

    EVERY = 0.025

    def __init__(self, bed, address=(bedlib.GUEST_IP, bedlib.UDP_PORT)):
        super().__init__(daemon=True)
        self.sock = bed.socket("c", kind=socket.SOCK_DGRAM)
        self.sock.connect(address)
        self.asked = {}                         # number -> when
        self.answered = collections.deque()     # (asked, answered), in the order of the answers
        self.error = None
        self.stopping = threading.Event()
        self.start()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.stopping.set()
        self.join(10)
        self.sock.close()

    def run(self):
        try:
            number, next_at = 0, time.monotonic()
            while not self.stopping.is_set():
                now = time.monotonic()
                if now >= next_at:
                    number, next_at = number + 1, now + self.EVERY
                    self._ask(number, now)
                self.sock.settimeout(max(0.001, next_at - time.monotonic()))
                self._hear()
        except Exception as e:  # pylint: disable=broad-except
            self.error = "the probe: %s" % (e or repr(e))

    @staticmethod
    def question(number):
        return b"h" + struct.pack("!Q", number) + b"probe"

    def _ask(self, number, now):
        self.asked[number] = now
        try:
            self.sock.send(self.question(number))
        except OSError:
            pass    # then there will be no answer

    def _hear(self):
        try:
            data = self.sock.recv(2000)
        except OSError:     # nothing in time, or what an ICMP message has said
            return
        number = struct.unpack_from("!Q", data, 1)[0] if len(data) >= 9 else 0
        if number not in self.asked or data != b"h" + data[1:9] + xxh64(self.question(number)):
            raise LoadError("a wrong answer: %r" % data[:60])
        self.answered.append((self.asked[number], time.monotonic()))

    def check(self):
        if self.error:
            raise LoadError(self.error)

    def back(self, when, seconds):
        """When somebody answered a question that was asked since then; waits for it. CLOCK_MONOTONIC."""
        bedlib.until(lambda: self.check() or since(self.answered, when)[1], seconds, "an answer to a datagram")
        return since(self.answered, when)[1]

    def answered_since(self, when):
        """How many questions that were asked since then are answered."""
        return since(self.answered, when)[0]

    def pause(self, begin, end):
        """The longest time between two answers in that time, in s; all of it when there are none."""
        times = [begin] + [t for _, t in self.answered.copy() if begin <= t <= end] + [end]
        return max(b - a for a, b in zip(times, times[1:]))
