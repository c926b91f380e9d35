# SPDX-License-Identifier: BSD-2-Clause
"""What a VM shows on its display: a VNC client that looks once. And a CD-ROM to be shown to a VM."""

import socket
import struct


class Screen:
    """One picture of the display behind a QEMU's -vnc unix:PATH."""

    def __init__(self, path):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(20)
            s.connect(path)
            self.f = s.makefile("rwb")
            self.hello()
            self.look()
            self.f.close()

    def get(self, n):
        data = self.f.read(n)
        if len(data) != n:
            raise OSError("the display's connection ended")
        return data

    def put(self, data):
        self.f.write(data)
        self.f.flush()

    def hello(self):
        self.get(12)
        self.put(b"RFB 003.008\n")
        kinds = self.get(self.get(1)[0])
        if 1 not in kinds:
            raise OSError("the display wants a password")
        self.put(b"\1")
        if self.get(4) != b"\0\0\0\0":
            raise OSError("the display refuses")
        self.put(b"\1")
        self.width, self.height = struct.unpack(">HH", self.get(4))
        self.get(16)
        self.get(struct.unpack(">I", self.get(4))[0])
        # 32 bits a pixel, red, green, blue a byte each; nothing but raw pixels
        self.put(struct.pack(">BxxxBBBBHHHBBBxxx", 0, 32, 24, 0, 1, 255, 255, 255, 16, 8, 0))
        self.put(struct.pack(">BxHi", 2, 1, 0))

    def look(self):
        self.rows = [bytearray(self.width * 4) for _ in range(self.height)]
        self.put(struct.pack(">BBHHHH", 3, 0, 0, 0, self.width, self.height))
        left = self.width * self.height
        while left > 0:
            kind = self.get(1)[0]
            if kind == 2:
                continue
            if kind != 0:
                raise OSError("the display says %d" % kind)
            for _ in range(struct.unpack(">xH", self.get(3))[0]):
                x, y, w, h, encoding = struct.unpack(">HHHHi", self.get(12))
                if encoding != 0:
                    raise OSError("the display uses encoding %d" % encoding)
                for row in range(y, y + h):
                    self.rows[row][x * 4:(x + w) * 4] = self.get(w * 4)
                left -= w * h

    def lit(self):
        """How many pixels are not black."""
        return sum(1 for row in self.rows for i in range(0, len(row), 4) if any(row[i:i + 3]))

    def same(self, other):
        return (self.width, self.height, self.rows) == (other.width, other.height, other.rows)


def both_ends(n, size):
    return n.to_bytes(size, "little") + n.to_bytes(size, "big")


def iso(name, content):
    """An ISO 9660 image with one file in its root directory."""
    sector = 2048
    blocks = -(-len(content) // sector)

    def entry(where, size, flags, ident):
        body = (b"\0" + both_ends(where, 4) + both_ends(size, 4) + bytes([124, 1, 1, 0, 0, 0, 0, flags, 0, 0]) +
                both_ends(1, 2) + bytes([len(ident)]) + ident)
        body += b"\0" * ((len(body) + 1) % 2)
        return bytes([len(body) + 1]) + body
    root = entry(20, sector, 2, b"\0")
    path = bytes([1, 0]) + (20).to_bytes(4, "little") + b"\1\0\0\0"
    path_big = bytes([1, 0]) + (20).to_bytes(4, "big") + b"\0\1\0\0"
    head = b"\1CD001\1\0" + b" " * 32 + b"LOCKSTEP".ljust(32) + b"\0" * 8 + both_ends(21 + blocks, 4) + b"\0" * 32
    head += both_ends(1, 2) + both_ends(1, 2) + both_ends(sector, 2) + both_ends(len(path), 4)
    head += (18).to_bytes(4, "little") + b"\0" * 4 + (19).to_bytes(4, "big") + b"\0" * 4 + root
    head += b" " * (128 * 4 + 37 * 3) + (b"0" * 16 + b"\0") * 4 + b"\1"
    parts = [head, b"\377CD001\1", path, path_big,
             root + entry(20, sector, 2, b"\1") + entry(21, len(content), 0, name.encode() + b";1"), content]
    return b"\0" * (16 * sector) + b"".join(p.ljust(-(-len(p) // sector) * sector, b"\0") for p in parts)
