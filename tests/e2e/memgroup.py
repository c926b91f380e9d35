# SPDX-License-Identifier: BSD-2-Clause
"""
A memory cgroup for a test (version 1 or 2), a swap file for it, and where the bytes of a process are. What is made here
goes at the end of the process, however that comes about; the swap file even after SIGKILL, by a watcher of its own.
"""

import atexit
import contextlib
import ctypes
import errno
import fcntl
import os
import re
import struct
import subprocess
import tempfile

from bed import Skip, until

V1, V2 = "/sys/fs/cgroup/memory", "/sys/fs/cgroup"


def remove_cgroup(path, seconds):
    """Takes a cgroup away; while processes of it are ending that is tried again, for so long."""
    def gone():
        try:
            os.rmdir(path)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True
    with contextlib.suppress(Exception):
        until(gone, seconds, "the end of the cgroup")


class MemGroup:
    """Processes started with prefix() are in it, and so is what they start."""

    count = 0

    def __init__(self, limit=None):
        MemGroup.count += 1
        name = "lockstep-%d-%d" % (os.getpid(), MemGroup.count)
        self.v2 = not os.path.exists(V1 + "/cgroup.procs")
        self.dir = os.path.join(V2 if self.v2 else V1, name)
        try:
            if self.v2:
                with contextlib.suppress(OSError), open(V2 + "/cgroup.subtree_control", "w", encoding="utf-8") as f:
                    f.write("+memory")
            os.mkdir(self.dir)
            atexit.register(self.close)
            self.current()
        except OSError as e:
            raise Skip("no memory cgroup: %s" % e) from e
        if limit:
            self.limit(limit)

    def path(self, v1, v2):
        return os.path.join(self.dir, v2 if self.v2 else v1)

    def limit(self, size):
        """From now on no more than that: what is too much is swapped out."""
        def lowered():
            try:
                with open(self.path("memory.limit_in_bytes", "memory.high"), "w", encoding="utf-8") as f:
                    f.write(str(size))
            except OSError as e:
                # Version 1 gives up after a few rounds; each has brought it nearer.
                if e.errno != errno.EBUSY:
                    raise
                return False
            return True
        until(lowered, 60, lambda: "the limit of memory (%s)" % self.where())

    def prefix(self):
        """What goes before a command so that it is in the group from its first byte on."""
        return ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', self.dir]

    def current(self):
        with open(self.path("memory.usage_in_bytes", "memory.current"), encoding="utf-8") as f:
            return int(f.read())

    def stat(self):
        """memory.stat, with version 2's names for what matters here: anon, file, shmem, swap."""
        with open(os.path.join(self.dir, "memory.stat"), encoding="utf-8") as f:
            s = {k: int(v) for k, v in (line.split() for line in f)}
        if self.v2:
            with contextlib.suppress(OSError), open(self.dir + "/memory.swap.current", encoding="utf-8") as f:
                s["swap"] = int(f.read())
            return s
        return {"anon": s["rss"], "file": s["cache"], "shmem": s.get("shmem", 0), "swap": s.get("swap", 0)}

    def where(self):
        """For a log: where the bytes are."""
        s, total = self.stat(), self.current()
        return "%.0f MB: anonymous %.0f, shared %.0f, other files %.0f, kernel %.0f; swapped %.0f" % (
            total / 1e6, s["anon"] / 1e6, s["shmem"] / 1e6, (s["file"] - s["shmem"]) / 1e6,
            (total - s["anon"] - s["file"]) / 1e6, s.get("swap", 0) / 1e6)

    def close(self):
        remove_cgroup(self.dir, 10)
        atexit.unregister(self.close)


class Swap:
    """A swap file in a directory of its own, there from the constructor to close() or the end of this process."""

    def __init__(self, size):
        self.dir = tempfile.mkdtemp(prefix="lockstep-swap-", dir="/var/tmp")
        # It ends with the pipe, and is in a session of its own, so that killing the test's group spares it.
        script = ('f="$0/swap"; (umask 077; dd if=/dev/zero of="$f" bs=1M count=%d 2>/dev/null) && '
                  'mkswap -q "$f" >/dev/null && swapon "$f" && n=120 && echo on || echo off; cat >/dev/null; '
                  # What is swapped out of a group at its limit cannot come back before its processes have ended.
                  'while [ "${n:-0}" -gt 0 ] && ! swapoff "$f" 2>/dev/null; do n=$((n - 1)); sleep 0.5; done; '
                  'rm -rf "$0"' % (size >> 20))
        self.proc = subprocess.Popen(["sh", "-c", script, self.dir], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                     stderr=subprocess.DEVNULL, start_new_session=True)
        atexit.register(self.close)
        if self.proc.stdout.readline().strip() != b"on":
            self.close()
            raise Skip("no swap file can be used here")

    def close(self):
        """To be called after the end of what was swapped out; else the watcher goes on trying when this returns."""
        if self.proc:
            self.proc.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.proc.wait(5)
            self.proc.stdout.close()
        self.proc = None
        atexit.unregister(self.close)


def guest_ram_resident(pid, size):
    """Bytes of a process's mapping of so many bytes, the guest's memory, that are in memory."""
    with open("/proc/%d/smaps" % pid, encoding="utf-8") as f:
        for block in re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", f.read(), flags=re.M):
            m = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", block)
            if m and int(m[2], 16) - int(m[1], 16) == size:
                return int(re.search(r"^Rss:\s+(\d+) kB", block, re.M)[1]) * 1024
    return 0


def guest_ram(pid, size):
    """
    Where a node's QEMU maps the guest's main memory, the first size bytes of its file (cards' memory lies behind): a list
    of (from, to, shared); together they are size bytes, else it is empty.
    """
    with open("/proc/%d/maps" % pid, encoding="utf-8") as f:
        found = re.findall(r"^([0-9a-f]+)-([0-9a-f]+) ...([sp]) ([0-9a-f]+) .*memfd:lockstep-ram", f.read(), re.M)
    # A mapping that goes over the end of main memory is cut there.
    maps = [(int(a, 16), min(int(b, 16), int(a, 16) + size - int(at, 16)), p == "s") for a, b, p, at in found
            if int(at, 16) < size]
    return maps if sum(b - a for a, b, _ in maps) == size else []


def written_pages(pid, maps):
    """How many pages of these the kernel has for written since they were armed. An error where nothing is registered."""
    vec = (ctypes.c_uint64 * (3 * 65536))()
    count = 0
    with open("/proc/%d/pagemap" % pid, "rb") as f:
        for start, end, _ in maps:
            while start < end:
                # struct pm_scan_arg: size, CHECK_WPASYNC, start, end, walk_end, vec, vec_len, max_pages, categories
                arg = bytearray(struct.pack("<12Q", 96, 2, start, end, 0, ctypes.addressof(vec), 65536, 0, 0, 2, 0, 2))
                n = fcntl.ioctl(f, 0xc0606610, arg, True)
                count += sum((vec[3 * i + 1] - vec[3 * i]) // 4096 for i in range(n))
                start = struct.unpack_from("<Q", arg, 32)[0]
    return count
