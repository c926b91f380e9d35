#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""
The clients that write and read registers, against servers on the loopback interface that do it right, that break off,
and that have planted faults.
"""

import collections
import contextlib
import os
import random
import socket
import sys
import tempfile
import threading
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, ".."), os.path.join(HERE, "..", "..", "e2e")]
import tap  # noqa: E402
import registers  # noqa: E402
from load import LoadError, xxh64  # noqa: E402

SEED = int(os.environ.get("LOCKSTEP_SEED", random.SystemRandom().randrange(1 << 30)))


class Bed:
    """As much of a bed as the clients need."""

    def __init__(self, logs):
        self.logs = logs

    @staticmethod
    def socket(_where, kind=socket.SOCK_STREAM):
        return socket.socket(socket.AF_INET, kind)


class Store:
    """A store of words on a TCP port; a subclass spoils it."""

    def __init__(self):
        self.values, self.lock, self.count = {}, threading.Lock(), 0
        self.door = socket.socket()
        self.door.bind(("127.0.0.1", 0))
        self.door.listen(64)
        self.address = self.door.getsockname()
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                sock = self.door.accept()[0]
            except OSError:
                return
            threading.Thread(target=self.talk, args=(sock,), daemon=True).start()

    def talk(self, sock):
        with contextlib.suppress(ConnectionError), sock, sock.makefile("rb") as f:
            for line in f:
                words = line.split()
                with self.lock:
                    self.count += 1
                    out = self.work(words)
                if out is None:
                    return
                sock.sendall(out)

    def work(self, words):
        if words[0] == b"SET":
            self.values[words[1]] = words[2]
            return b"+OK\r\n"
        return self.give(self.values.get(words[1]))

    @staticmethod
    def give(value):
        return b"$-1\r\n" if value is None else b"$%d\r\n%s\r\n" % (len(value), value)


class Stale(Store):
    """Now and then it reads what was there before the last write."""

    def __init__(self):
        super().__init__()
        self.before = collections.defaultdict(collections.deque)

    def work(self, words):
        past = self.before[words[1]]
        if words[0] == b"SET":
            past.append(self.values.get(words[1]))
        elif self.count % 20 == 0 and len(past) > 50:
            return self.give(past[-50])
        return super().work(words)


class Deaf(Store):
    """Writes that are answered and forgotten."""

    def work(self, words):
        if words[0] == b"SET" and self.count % 10 == 0:
            return b"+OK\r\n"
        return super().work(words)


class Breaking(Store):
    """Breaks connections off, before or after it has done what was asked."""

    def work(self, words):
        if self.count % 40 == 7:
            return None
        out = super().work(words)
        return None if self.count % 40 == 27 else out


class Silent(Store):
    def work(self, words):
        out = super().work(words)
        return b"" if self.count % 40 == 7 else out


class Rude(Store):
    def work(self, words):
        return b"-ERR no\r\n" if self.count == 100 else super().work(words)


class Clients(unittest.TestCase):
    def setUp(self):
        where = tempfile.TemporaryDirectory()
        self.addCleanup(where.cleanup)
        self.bed = Bed(where.name)

    def drive(self, kind, n=600, **kw):
        store = kind()
        self.addCleanup(store.door.close)
        with registers.Registers(self.bed, SEED, interval=0.005, address=store.address, **kw) as r:
            r.wait_answers(n, 60)
            said = r.finish()
        return r, said

    def test_right(self):
        r, said = self.drive(Store)
        self.assertIn("0 unknown, 0 connections lost", said)
        self.assertGreaterEqual(len({op.client for op in r.ops}), 20)
        self.assertTrue(os.path.getsize(r.file))

    def test_breaks(self):
        r, _ = self.drive(Breaking)
        unknown = [op for op in r.ops if op.answered is None]
        self.assertTrue(unknown)
        self.assertEqual(len(unknown), r.breaks())
        self.assertTrue(all(op.value is None for op in unknown if op.kind == "r"))

    def test_no_answer(self):
        r, _ = self.drive(Silent, n=300, give_up=0.3)
        self.assertTrue([op for op in r.ops if op.answered is None])

    def test_faults(self):
        for kind in (Stale, Deaf):
            with self.assertRaisesRegex(LoadError, "not linearizable"):
                self.drive(kind)

    def test_an_error(self):
        with self.assertRaisesRegex(LoadError, "ERR no"):
            self.drive(Rude)

    def test_nobody(self):
        """Where nobody listens the clients go on trying, and come in when somebody does."""
        with socket.socket() as door:
            door.bind(("127.0.0.1", 0))
            with registers.Registers(self.bed, SEED, address=door.getsockname()) as r:
                time.sleep(0.5)
                self.assertEqual(r.ops, [])
                store = Store.__new__(Store)
                store.values, store.lock, store.count, store.door = {}, threading.Lock(), 0, door
                door.listen(64)
                threading.Thread(target=store.serve, daemon=True).start()
                r.wait_answers(50, 30)
                r.finish()
                door.shutdown(socket.SHUT_RDWR)


class Probes(unittest.TestCase):
    def setUp(self):
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.addCleanup(self.sock.close)
        self.sock.bind(("127.0.0.1", 0))
        self.mute, self.wrong = threading.Event(), False
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                data, who = self.sock.recvfrom(100)
            except OSError:
                return
            if data == b"end":
                return
            if not self.mute.is_set():
                self.sock.sendto(b"h" + data[1:9] + (b"0" * 16 if self.wrong else xxh64(data)), who)

    def tearDown(self):
        self.sock.sendto(b"end", self.sock.getsockname())

    def test_pause(self):
        with registers.Probe(Bed(""), self.sock.getsockname()) as p:
            begin = time.monotonic()
            p.back(begin, 20)
            self.mute.set()
            muted = time.monotonic()
            time.sleep(0.5)
            heard = time.monotonic()
            self.mute.clear()
            back = p.back(muted + 0.1, 20)
            self.assertGreaterEqual(back, heard)
            self.assertGreaterEqual(p.pause(begin, back), 0.4)
            p.check()

    def test_wrong(self):
        self.wrong = True
        with registers.Probe(Bed(""), self.sock.getsockname()) as p:
            with self.assertRaisesRegex(LoadError, "wrong answer"):
                p.back(time.monotonic(), 20)

    def test_since(self):
        rows = collections.deque([(0, 1), (2, 3), (1, 4), (5, 6), (2.5, 7)])
        self.assertEqual(registers.since(rows, 2), (3, 3))
        self.assertEqual(registers.since(rows, 5), (1, 6))
        self.assertEqual(registers.since(rows, 8), (0, None))


if __name__ == "__main__":
    print("# seed %d (LOCKSTEP_SEED=%d repeats it)" % (SEED, SEED))
    tap.main()
