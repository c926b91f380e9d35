# SPDX-License-Identifier: BSD-2-Clause
"""
What the guest's disk commands (PROTOCOL.md) must have left in a raw image: the image of a disk that no VM writes to is
judged by itself, from its journal. Needs libxxhash.so.0 (Debian: libxxhash0), as guestclient.py does.
"""

import struct

from guestclient import M64, pattern, xxh64

RECORD, JOURNAL, UNSURE = 4096, 8, 64  # diskload.c says what they are
DATA_MAGIC, JOURNAL_MAGIC = 0x61746164206B636F, 0x6C616E72756F6A20


def word(seed, i):
    """One word of a seed's pattern."""
    return struct.unpack("<Q", pattern(8, (seed + i * 0x9E3779B97F4A7C15) & M64))[0]


def whole(data):
    """(magic, seed, place, number) of a record, or None when it is not as it was written."""
    head = struct.unpack_from("<5Q", data)
    if xxh64(data[:32] + bytes(8) + data[40:]) != "%016x" % head[4]:
        return None
    return head[:4]


class Load:
    """A load's area in an image file."""

    def __init__(self, path, off, length, seed):
        self.path, self.off, self.seed = path, off, seed
        self.blocks = length // RECORD - JOURNAL
        self.factor = word(seed, (1 << 32) - 1) % self.blocks
        while True:
            try:
                self.inverse = pow(self.factor, -1, self.blocks)
                break
            except ValueError:
                self.factor = (self.factor + 1) % self.blocks
        self.shifts = {}

    def shift(self, round_no):
        if round_no not in self.shifts:
            self.shifts[round_no] = word(self.seed, round_no) % self.blocks
        return self.shifts[round_no]

    def place(self, n):
        """Where record n belongs, from 1 on."""
        return ((n - 1) % self.blocks * self.factor + self.shift((n - 1) // self.blocks)) % self.blocks

    def record(self, place, n):
        """Which record a place holds when all up to n are written."""
        round_no, upto = divmod(n, self.blocks)
        i = (place - self.shift(round_no)) * self.inverse % self.blocks
        if i >= upto:
            if not round_no:
                return 0
            round_no -= 1
            i = (place - self.shift(round_no)) * self.inverse % self.blocks
        return round_no * self.blocks + i + 1

    def judge(self, exact=False):
        """
        Returns (records that the journal promises, complaints). exact: nothing was under way when the image was left,
        so that there is nothing behind what the journal says.
        """
        with open(self.path, "rb") as f:
            f.seek(self.off)
            data = f.read((JOURNAL + self.blocks) * RECORD)
        pieces = [data[i:i + RECORD] for i in range(0, len(data), RECORD)]
        entries = [h for h in map(whole, pieces[:JOURNAL]) if h and h[0] == JOURNAL_MAGIC and h[1] == self.seed]
        if not entries:
            return None, ["the journal is empty"]
        upto = max(entries, key=lambda h: h[2])[3]
        unsure = set() if exact else {self.place(n) for n in range(upto + 1, upto + UNSURE + 1)}
        bad = []
        for place, piece in enumerate(pieces[JOURNAL:]):
            if place in unsure:
                continue
            want, got = (DATA_MAGIC, self.seed, place, self.record(place, upto)), whole(piece)
            if got != want:
                bad.append("place %d holds %s, not record %d" % (place, got, want[3]))
        return upto, bad
