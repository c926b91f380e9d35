#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""
flooder.py INTERFACE COUNT RATE MAC IPV4 IPV6 PORT... - SYNs from addresses and ports that nobody has

COUNT frames, RATE a second, to the MAC and, in turn, to both addresses and all ports; IPV6 may be "-". The source is one
of 192.0.2.192-255 or of 2001:db8:f::/64 and any port, chosen at random, so that nearly every frame begins another flow.
Says "sent N in S s" when it is at its end.
"""

import itertools
import random
import socket
import struct
import sys
import time

BURST = 0.01    # s; what is due in that time goes out at once
SEED = 20481


def fold(total):
    while total >> 16:
        total = (total >> 16) + (total & 0xffff)
    return ~total & 0xffff


def words(data):
    return sum(struct.unpack("!%dH" % (len(data) // 2), data))


def syn(source, target, ports, number):
    """A SYN with the options of a usual one, with its checksum."""
    options = b"\x02\x04\x05\xb4\x04\x02\x08\x0a" + struct.pack("!II", number, 0) + b"\x01\x03\x03\x07"
    head = struct.pack("!HHIIHHHH", *ports, number, 0, 0xa002, 64240, 0, 0) + options
    total = words(source + target) + 6 + len(head) + words(head)
    return head[:16] + struct.pack("!H", fold(total)) + head[18:]


class Path:
    """Frames to one address of the guest."""

    def __init__(self, mac, home, address):
        self.v6 = ":" in address
        self.target = socket.inet_pton(socket.AF_INET6 if self.v6 else socket.AF_INET, address)
        self.ether = mac + home + (b"\x86\xdd" if self.v6 else b"\x08\0")

    def frame(self, rng, port):
        n = rng.getrandbits(64)
        ports, number = (1024 + n % 64512, port), n >> 32
        if self.v6:
            source = socket.inet_pton(socket.AF_INET6, "2001:db8:f::")[:8] + rng.getrandbits(64).to_bytes(8, "big")
            segment = syn(source, self.target, ports, number)
            return self.ether + struct.pack("!IHBB", 6 << 28, len(segment), 6, 64) + source + self.target + segment
        source = b"\xc0\0\x02" + bytes([192 + (n >> 20) % 64])
        segment = syn(source, self.target, ports, number)
        head = struct.pack("!BBHHHBB", 0x45, 0, 20 + len(segment), n >> 32 & 0xffff, 0x4000, 64, 6)
        check = fold(words(head + source + self.target))
        return self.ether + head + struct.pack("!H", check) + source + self.target + segment


def main(interface, count, rate, mac, ipv4, ipv6, *ports):
    count, rate, rng = int(count), float(rate), random.Random(SEED)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as s:
        s.bind((interface, 0))
        mac = bytes.fromhex(mac.replace(":", ""))
        paths = [Path(mac, s.getsockname()[4], a) for a in (ipv4, ipv6) if a != "-"]
        where = itertools.cycle([(p, int(port)) for port in ports for p in paths])
        begun, sent = time.monotonic(), 0
        while sent < count:
            due = min(count, int((time.monotonic() - begun) * rate) + 1)
            for path, port in itertools.islice(where, due - sent):
                s.send(path.frame(rng, port))
            sent = due
            time.sleep(BURST)
    print("sent %d in %.1f s" % (sent, time.monotonic() - begun), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
