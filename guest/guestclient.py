# SPDX-License-Identifier: BSD-2-Clause
"""A client for the test guest's service (PROTOCOL.md). Needs nothing but libxxhash.so.0 (Debian: libxxhash0)."""

import ctypes
import itertools
import socket
import struct

M64 = (1 << 64) - 1
_xxh = ctypes.CDLL("libxxhash.so.0")
_xxh.XXH64.restype = ctypes.c_uint64
_xxh.XXH64.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64]


def xxh64(data):
    """The hash that `take` answers, as it is written on the line."""
    return "%016x" % _xxh.XXH64(data, len(data), 0)


def pattern(n, seed):
    """The n bytes that `send n seed` answers (without the newline): splitmix64, little-endian words."""
    words = []
    state = seed
    for _ in range((n + 7) // 8):
        state = (state + 0x9E3779B97F4A7C15) & M64
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & M64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & M64
        words.append(z ^ (z >> 31))
    return struct.pack("<%dQ" % len(words), *words)[:n]


def web_file():
    """What http://guest/numbers.txt holds: the first MiB of the numbers from 1 on, one a line."""
    return b"".join(b"%d\n" % i for i in itertools.islice(itertools.count(1), 200000))[: 1 << 20]


def udp_ask(host, request, port=5300, timeout=3.0, tries=3):
    """The UDP service's answer to a request, from the address and port that were asked; asks again when it is lost."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for left in reversed(range(tries)):
        with socket.socket(family, socket.SOCK_DGRAM) as s:
            s.settimeout(timeout)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            s.connect((host, port))
            s.send(request)
            try:
                return s.recv(65536)
            except TimeoutError:
                if not left:
                    raise
    return None


class Guest:
    """One connection to the service."""

    def __init__(self, host, port=7000, timeout=30.0):
        self.sock = socket.create_connection((host, port), timeout)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.sock.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def close(self):
        self.file.close()
        self.sock.close()

    def say(self, line):
        self.sock.sendall(line.encode() + b"\n")

    def hear(self):
        line = self.file.readline()
        if not line.endswith(b"\n"):
            raise ConnectionError("the guest closed the connection")
        return line[:-1].decode()

    def ask(self, line):
        self.say(line)
        return self.hear()

    def send(self, n, seed):
        """Has the guest send n bytes; returns them without the newline."""
        self.say("send %d %d" % (n, seed))
        data = self.file.read(n + 1)
        if len(data) != n + 1 or data[-1:] != b"\n":
            raise ConnectionError("the guest's stream ended early")
        return data[:-1]

    def take(self, data):
        """Gives the guest data; returns the hash that it answers."""
        self.sock.sendall(b"take %d\n" % len(data) + data)
        return self.hear()
