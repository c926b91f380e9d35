#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""
tagger.py INTERFACE TAP ID - a VLAN's interface for kernels that are built without VLANs

What the kernel sends to TAP goes out of INTERFACE with a tag; what comes in there with this tag goes to TAP without it.
Says "ready" when it works, and works until it is killed. The bed runs it in the client's namespace.
"""

import ctypes
import fcntl
import os
import select
import socket
import struct
import sys

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454ca, 0x0002, 0x1000
ETH_P_ALL, TPID = 0x0003, b"\x81\x00"
SOL_PACKET, PACKET_AUXDATA, PACKET_IGNORE_OUTGOING = 263, 8, 23
SO_ATTACH_FILTER, SO_RCVBUFFORCE = 26, 33
AUXDATA = struct.Struct("=IIIHHHH")  # struct tpacket_auxdata: the tag is the sixth member
# Classic BPF: only what has a tag (the kernel has put it beside the frame), 256 KiB of it.
TAGGED_ONLY = struct.pack("=HBBIHBBIHBBIHBBI",
                          0x20, 0, 0, 0xfffff000 + 48,      # A = whether there is a tag
                          0x15, 1, 0, 0,                    # none?
                          0x06, 0, 0, 0x40000,
                          0x06, 0, 0, 0)


def attach_filter(sock, code):
    """Classic BPF for a socket; the code as bytes."""
    buf = ctypes.create_string_buffer(code, len(code))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("@HP", len(code) // 8, ctypes.addressof(buf)))


def open_tap(name):
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return fd


def open_port(name):
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    attach_filter(s, TAGGED_ONLY)
    s.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 4 << 20)
    s.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
    s.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    s.bind((name, ETH_P_ALL))
    s.setblocking(False)
    return s


def main(interface, tap_name, vid):
    tap, port = open_tap(tap_name), open_port(interface)
    poll = select.poll()
    poll.register(tap, select.POLLIN)
    poll.register(port, select.POLLIN)
    tag = TPID + struct.pack("!H", vid)
    print("ready", flush=True)
    while True:
        for fd, _ in poll.poll():
            try:
                if fd == tap:
                    frame = os.read(tap, 1 << 16)
                    port.send(frame[:12] + tag + frame[12:])
                    continue
                frame, extra, _, _ = port.recvmsg(1 << 16, 256)
                for level, kind, data in extra:
                    if (level, kind) == (SOL_PACKET, PACKET_AUXDATA) and AUXDATA.unpack(data)[5] & 0xfff == vid:
                        os.write(tap, frame)
            except BlockingIOError:
                pass  # no room is loss, as on any wire


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
