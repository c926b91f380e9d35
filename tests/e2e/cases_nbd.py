# SPDX-License-Identifier: BSD-2-Clause
"""The NBD server, by `lockstep nbd`, and clients that others have written: libnbd's, QEMU's, fio. No VM."""

import os
import random
import shutil
import signal
import subprocess
import tempfile
import time

from bed import LOCKSTEP, BedError, until
from harness import case, must, note, same, say, seed_from

MB = 1 << 20
DEBIAN = "/usr/sbin:/usr/bin:/sbin:/bin:"  # nbdsh takes the first python3, which must be the one that has its module
ADDRESS = "192.0.2.1"  # of the namespace's loopback device


def run(*words, ns=None, status=0, timeout=60):
    """A client to its end; its output. status: what it must be, None: anything but 0."""
    cmd = (["nsenter", "-t", str(ns), "-n"] if ns else []) + list(words)
    # nbdinfo shows what is in an image, as file(1) tells it; without that, in any bytes.
    r = subprocess.run(cmd, stdin=subprocess.DEVNULL, text=True, errors="replace", stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                       timeout=timeout, check=False, env=dict(os.environ, PATH=DEBIAN + os.environ["PATH"]))
    must(r.returncode == status if status is not None else r.returncode, "%s: exit %d: %s", " ".join(words),
         r.returncode, r.stdout.strip()[-600:])
    return r.stdout


class Server:
    """`lockstep nbd` in a directory of its own, with the image in it; at a unix socket unless words say where."""

    def __init__(self, *words, size=64 * MB, ns=False):
        self.dir = tempfile.mkdtemp(prefix="lockstep-nbd-")
        self.image, self.sock, self.log = (os.path.join(self.dir, n) for n in ("disk.img", "sock", "log"))
        self.words, self.ns, self.popen, self.uri = words, ns, None, None
        with open(self.image, "wb") as f:
            f.truncate(size)

    def __enter__(self):
        self.start()
        return self

    def start(self):
        cmd = [LOCKSTEP, "nbd"] + list(self.words) + ([] if "--listen" in self.words else ["--socket", self.sock])
        cmd.append(self.image)
        if self.ns:
            inside = 'ip link set lo up && ip addr add %s/32 dev lo && exec "$@"' % ADDRESS
            cmd = ["unshare", "-n", "sh", "-c", inside, "sh"] + cmd
        with open(self.log, "ab") as log:
            self.popen = subprocess.Popen(cmd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True)
        self.uri = self.popen.stdout.readline().strip()
        must(self.uri, "the server has not begun: %s", self.said())

    def pid(self):
        return self.popen.pid

    def said(self):
        with open(self.log, encoding="utf-8") as f:
            return f.read().strip()

    def end(self):
        """SIGTERM; it must go in order."""
        self.popen.send_signal(signal.SIGTERM)
        same(self.popen.wait(10), 0, "exit status of the server (%s)" % self.said())
        self.popen.stdout.close()

    def __exit__(self, *exc):
        if self.popen and self.popen.poll() is None:
            if not exc[0]:
                self.end()
            else:
                say("the server's log: %s", self.said())
                self.popen.kill()
                self.popen.wait(10)
        shutil.rmtree(self.dir)

    def file(self, name):
        return os.path.join(self.dir, name)


def random_file(path, size, rng, holes=True):
    """size bytes, some megabytes of which are holes."""
    with open(path, "wb") as f:
        f.truncate(size)
        for at in range(0, size, MB):
            if not holes or rng.random() < 0.6:
                f.seek(at)
                f.write(rng.randbytes(min(MB, size - at)))


def same_files(a, b):
    run("cmp", a, b)


@case(bed=False)
def nbd_info():
    """What nbdinfo says of an export, the list, and the map."""
    with Server("--export", "a disk") as s:
        with open(s.image, "r+b") as f:
            f.seek(4 * MB)
            f.write(b"x" * MB)
        said = run("nbdinfo", s.uri)
        for word in ("export-size: %d" % (64 * MB), "newstyle-fixed", "structured", "base:allocation",
                     "can_multi_conn: true", "can_fua: true", "can_flush: true", "can_trim: true", "can_zero: true",
                     "can_fast_zero: true", "can_cache: true", "can_df: true", "is_read_only: false",
                     "block_size_minimum: 1"):
            must(word in said, "nbdinfo does not say %r: %s", word, said)
        said = run("nbdinfo", "--list", "nbd+unix:///?socket=" + s.sock)
        must('export="a disk"' in said, "the list lacks the export: %s", said)
        lines = [line.split() for line in run("nbdinfo", "--map", s.uri).splitlines()]
        same([(int(x[0]), int(x[1]), x[3]) for x in lines],
             [(0, 4 * MB, "hole,zero"), (4 * MB, MB, "data"), (5 * MB, 59 * MB, "hole,zero")], "the map")
        run("nbdinfo", "nbd+unix:///other?socket=" + s.sock, status=None)
    with Server("--read-only") as s:
        said = run("nbdinfo", s.uri)
        must("is_read_only: true" in said and "can_trim: false" in said, "a read-only export: %s", said)
        run("qemu-io", "-f", "raw", "-c", "write 0 512", s.uri, status=None)


@case(bed=False)
def nbd_copy():
    """nbdcopy there and back over several connections, with holes; holes stay holes."""
    rng = random.Random(seed_from())
    with Server(size=96 * MB + 512) as s:
        source, back = s.file("source"), s.file("back")
        random_file(source, 96 * MB + 512, rng)
        run("nbdcopy", "--connections=4", "--flush", source, s.uri)
        same_files(source, s.image)
        run("nbdcopy", "--connections=4", "--requests=64", s.uri, back)
        same_files(source, back)
        run("nbdcopy", "--synchronous", s.uri, back)
        same_files(source, back)
        used = [os.stat(f).st_blocks for f in (source, s.image)]
        must(used[1] <= used[0] + 2 * MB // 512, "the copy has %d blocks, the source %d", used[1], used[0])
        run("qemu-img", "compare", "-f", "raw", "-F", "raw", source, s.uri)


ILLEGAL = r"""
import errno
h.set_strict_mode(0)
h.connect_uri(URI)
size = h.get_size()

def refused(what, numbers, fn):
    try:
        fn()
    except nbd.Error as e:
        assert e.errnum in numbers, (what, e.string, e.errnum)
        return
    assert False, what + " was not refused"

IN, SP = (errno.EINVAL,), (errno.ENOSPC, errno.EINVAL)
refused("read beyond the end", IN, lambda: h.pread(512, size))
refused("read across the end", IN, lambda: h.pread(1024, size - 512))
refused("read at 2^63", IN, lambda: h.pread(1, (1 << 63) - 1))
refused("write across the end", SP, lambda: h.pwrite(b"x" * 1024, size - 512))
refused("zero across the end", SP, lambda: h.zero(1024, size - 512))
refused("trim across the end", IN, lambda: h.trim(1024, size - 512))
refused("cache across the end", IN, lambda: h.cache(1024, size - 512))
refused("read of 33 MiB", IN, lambda: h.pread(33 << 20, 0))
refused("status of nothing", IN, lambda: h.block_status(0, 0, lambda *a: 0))
refused("flush with FUA's neighbour", IN, lambda: h.flush(0x8000))
refused("read with an unknown flag", IN, lambda: h.pread(1, 0, flags=0x4000))
refused("write with DF", IN, lambda: h.pwrite(b"x", 0, flags=nbd.CMD_FLAG_DF))
refused("zero with REQ_ONE", IN, lambda: h.zero(1, 0, flags=nbd.CMD_FLAG_REQ_ONE))
# No request has alignment to keep: each of these is right.
h.pwrite(b"misaligned", 4093)
assert h.pread(12, 4092) == b"\0misaligned\0"
h.zero(3, 4095)
assert h.pread(12, 4092) == b"\0mi\0\0\0igned\0"
h.pread(0, 0)
assert h.pread(512, size - 512) == bytearray(512)
print("still there")
"""

OVERSIZED = r"""
h.set_strict_mode(0)
h.connect_uri(URI)
try:
    h.pwrite(bytearray(33 << 20), 0)
    assert False
except nbd.Error as e:
    print("refused", e.string)
"""

RAW = r"""
import socket, struct
def dial():
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(20)
    s.connect(PATH)
    assert s.recv(18, socket.MSG_WAITALL)[:8] == b"NBDMAGIC"
    s.sendall(struct.pack(">I", 3) + b"IHAVEOPT" + struct.pack(">IIIH", 7, 6, 0, 0))
    assert s.recv(20 + 12 + 20, socket.MSG_WAITALL)[-8:] == struct.pack(">II", 1, 0)
    return s

def request(s, command, flags, offset, length):
    s.sendall(struct.pack(">IHHQQI", 0x25609513, flags, command, 7, offset, length))
    magic, error, cookie = struct.unpack(">IIQ", s.recv(16, socket.MSG_WAITALL))
    assert (magic, cookie) == (0x67446698, 7)
    return error

s = dial()
for command in (8, 9, 77, 0xffff):
    assert request(s, command, 0, 0, 0) == 22
assert request(s, 0, 0xffff, 0, 512) == 22
assert request(s, 0, 0, (1 << 64) - 1, 2) == 22
assert request(s, 0, 0, 0, 0xffffffff) == 22
assert request(s, 3, 0, 0, 0) == 0
s.sendall(b"nonsense that is no request....")
assert s.recv(1) == b""
# Gone in the middle of anything.
for n in range(28):
    s = dial()
    s.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 1, 7, 0, 512)[:n])
    s.close()
for n in range(0, 512, 37):
    s = dial()
    s.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 1, 7, 0, 512) + b"z" * n)
    s.close()
print("still there")
"""


@case(bed=False)
def nbd_illegal():
    """Requests that no client should make, by libnbd without its checks, and by bare bytes; then all is as before."""
    with Server() as s:
        said = run("nbdsh", "-c", "URI = %r" % s.uri, "-c", ILLEGAL)
        must("still there" in said, "the session has not come to its end: %s", said)
        must("refused" in run("nbdsh", "-c", "URI = %r" % s.uri, "-c", OVERSIZED), "33 MiB were written")
        said = run("python3", "-c", "PATH = %r\n" % s.sock + RAW)
        must("still there" in said, "bare bytes: %s", said)
        same(run("nbdinfo", "--size", s.uri).strip(), str(64 * MB), "the size afterwards")
        # What was half written is not written.
        with open(s.image, "rb") as f:
            same(f.read(512), bytes(512), "the beginning of the image")


@case(bed=False)
def nbd_unaligned():
    """qemu-io: patterns at any offset and length, over each other, zeroes and discards among them, against an array."""
    rng = random.Random(seed_from())
    size = 4 * MB
    model = bytearray(size)
    with Server(size=size) as s:
        words = []
        for _ in range(300):
            length = rng.choice((rng.randrange(1, 600), rng.randrange(1, 9000), rng.randrange(1, 300000)))
            at = rng.randrange(size - length + 1)
            kind, byte = rng.random(), rng.randrange(1, 256)
            if kind < 0.5:
                words.append("write %s -P %d %d %d" % (rng.choice(("", "-f")), byte, at, length))
                model[at:at + length] = bytes([byte]) * length
            elif kind < 0.7:
                words.append("write -z %s %d %d" % (rng.choice(("", "-u", "-f")), at, length))
                model[at:at + length] = bytes(length)
            elif kind < 0.75:
                words.append("flush")
            else:
                # The longest stretch of one byte from there.
                end = at
                while end < size and end - at < 100000 and model[end] == model[at]:
                    end += 1
                words.append("read -P %d %d %d" % (model[at], at, end - at))
        cmd = ["qemu-io", "-f", "raw"]
        for w in words:
            cmd += ["-c", w]
        said = run(*cmd, s.uri)
        must("failed" not in said, "qemu-io: %s", said[-500:])
        s.end()
        with open(s.image, "rb") as f:
            got = f.read()
        same(next((i for i in range(size) if got[i] != model[i]), None), None, "the first byte that differs")
        s.start()


FIO = """
[global]
ioengine=nbd
uri=%s
size=48m
time_based=0
randrepeat=1
randseed=%d
verify=crc32c
verify_state_save=0
verify_fatal=1
do_verify=1
[small]
rw=randwrite
bsrange=512-64k
bs_unaligned=1
blockalign=512
iodepth=32
fsync=64
[large]
stonewall
rw=write
bs=1m
iodepth=8
"""


@case(bed=False, timeout=180)
def nbd_fio():
    """fio's own NBD client with verification: small random writes in parallel, then large ones."""
    seed = seed_from()
    with Server() as s:
        job = s.file("job.fio")
        with open(job, "w", encoding="utf-8") as f:
            f.write(FIO % (s.uri, seed))
        said = run("fio", job, timeout=150)
        must("err= 0" in said and "verify:" not in said, "fio: %s", said[-800:])


@case(bed=False)
def nbd_parallel():
    """Several clients at once; one stops reading and is not waited for; SIGTERM ends it all in order."""
    with Server() as s:
        deaf = ("import socket, struct, time\n%s\ns = dial()\n"
                "h = struct.pack('>IHHQQI', 0x25609513, 0, 0, 1, 0, 1 << 20)\n"
                "s.setblocking(False)\nn = 0\n"
                "try:\n  while True: n += s.send(h)\nexcept BlockingIOError: pass\n"
                "print('deaf', flush=True)\ntime.sleep(600)\n" % RAW.split("s = dial()\nfor command")[0])
        with subprocess.Popen(["python3", "-c", "PATH = %r\n" % s.sock + deaf], stdout=subprocess.PIPE, text=True) as p:
            try:
                same(p.stdout.readline().strip(), "deaf", "the deaf client")
                source = s.file("source")
                random_file(source, 64 * MB, random.Random(seed_from()), holes=False)
                run("nbdcopy", source, s.uri)
                same_files(source, s.image)
                with open("/proc/%d/status" % s.pid(), encoding="ascii") as f:
                    rss = next(int(line.split()[1]) for line in f if line.startswith("VmHWM"))
                must(rss < 400 << 10, "the server has used %d KiB", rss)
                note("at most %d MiB resident", rss >> 10)
                begun = time.monotonic()
                s.end()
                say("the server ended in %.1f s", time.monotonic() - begun)
            finally:
                p.kill()
        s.start()


def certificates(directory):
    """A CA with a server's and a client's certificate in directory, as QEMU wants them; and another CA's."""
    def template(name, *lines):
        path = os.path.join(directory, name + ".tmpl")
        with open(path, "w", encoding="ascii") as f:
            f.write("\n".join(("cn = \"%s\"" % name,) + lines) + "\n")
        return path

    def key(name):
        path = os.path.join(directory, name)
        run("certtool", "--generate-privkey", "--key-type=ecdsa", "--outfile", path)
        return path

    def authority(prefix):
        run("certtool", "--generate-self-signed", "--load-privkey", key(prefix + "ca-key.pem"),
            "--template", template(prefix + "ca", "ca", "cert_signing_key"),
            "--outfile", os.path.join(directory, prefix + "ca-cert.pem"))

    def signed(prefix, name, *lines):
        ca = [os.path.join(directory, prefix + n) for n in ("ca-cert.pem", "ca-key.pem")]
        run("certtool", "--generate-certificate", "--load-ca-certificate", ca[0], "--load-ca-privkey", ca[1],
            "--load-privkey", key(prefix + name + "-key.pem"), "--template", template(prefix + name, *lines),
            "--outfile", os.path.join(directory, prefix + name + "-cert.pem"))

    authority("")
    signed("", "server", "ip_address = \"%s\"" % ADDRESS, "dns_name = \"localhost\"", "tls_www_server", "signing_key",
           "encryption_key")
    signed("", "client", "tls_www_client", "signing_key", "encryption_key")
    authority("other-")
    signed("other-", "client", "tls_www_client", "signing_key", "encryption_key")


@case(bed=False)
def nbd_tls_x509():
    """TLS with certificates at an address that others reach: libnbd's and QEMU's clients, and who is refused."""
    pki = tempfile.mkdtemp(prefix="lockstep-pki-")
    try:
        certificates(pki)
        with Server("--listen", ADDRESS + ":0", "--tls-dir", pki, ns=True) as s:
            ns, plain = s.pid(), s.uri.replace("nbds:", "nbd:")
            must(s.uri.startswith("nbds://" + ADDRESS), "the URI is %s", s.uri)
            with_pki = s.uri + "?tls-certificates=" + pki
            must("with TLS" in run("nbdinfo", with_pki, ns=ns), "nbdinfo says nothing of TLS")
            said = run("nbdsh", "-u", plain, "-c", "print(h.get_size())", ns=ns, status=None)
            must("requires TLS" in said, "without TLS it is refused as such: %s", said)
            run("nbdinfo", "--list", plain, ns=ns, status=None)
            source, back = s.file("source"), s.file("back")
            random_file(source, 24 * MB, random.Random(seed_from()))
            with open(source, "r+b") as f:
                f.truncate(64 * MB)
            run("nbdcopy", source, with_pki, ns=ns)
            run("nbdcopy", with_pki, back, ns=ns)
            same_files(source, back)
            host, port = s.uri.split("/")[2].rsplit(":", 1)
            creds = "tls-creds-x509,id=t,endpoint=client,dir="
            qemu = "driver=nbd,host=%s,port=%s,tls-creds=t" % (host, port)
            run("qemu-io", "--object", creds + pki, "-c", "write -P 9 1000 3000000", "-c", "read -P 9 1000 3000000",
                "--image-opts", qemu, ns=ns)
            # Without a certificate, and with one of another CA.
            nobody, other = s.file("nobody"), s.file("other")
            for d in (nobody, other):
                os.mkdir(d)
                shutil.copy(os.path.join(pki, "ca-cert.pem"), d)
            for n in ("key", "cert"):
                shutil.copy(os.path.join(pki, "other-client-%s.pem" % n), os.path.join(other, "client-%s.pem" % n))
            for d in (nobody, other):
                run("nbdinfo", s.uri + "?tls-certificates=" + d, ns=ns, status=None)
            until(lambda: "handshake has failed" in s.said(), 10, "the refusal in the log")
            run("nbdinfo", "--size", with_pki, ns=ns)
    finally:
        shutil.rmtree(pki)


# Options that are sent in the clear right behind STARTTLS must not count as said under TLS.
SMUGGLE = r"""
import socket, struct, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 20)
s.recv(18, socket.MSG_WAITALL)
option = lambda n: b"IHAVEOPT" + struct.pack(">II", n, 0)
s.sendall(struct.pack(">I", 3) + option(3))
head = s.recv(20, socket.MSG_WAITALL)
assert head[12:16] == struct.pack(">I", 0x80000005)
s.recv(struct.unpack(">I", head[16:])[0], socket.MSG_WAITALL)
s.sendall(option(5) + option(8) + option(3))
assert s.recv(1000) == b"", "answered"
print("closed")
"""


@case(bed=False)
def nbd_tls_psk():
    """TLS with keys, over TCP and over a unix socket."""
    keys = tempfile.mkdtemp(prefix="lockstep-psk-")
    psk, wrong = os.path.join(keys, "keys.psk"), os.path.join(keys, "wrong.psk")
    try:
        run("psktool", "-u", "alice", "-p", psk)
        with open(wrong, "w", encoding="ascii") as f:
            f.write("alice:%s\nmallory:%s\n" % ("00" * 32, "11" * 32))
        with Server("--listen", ADDRESS + ":0", "--psk-file", psk, ns=True) as s:
            ns, uri = s.pid(), s.uri.replace("nbds://", "nbds://%s@")
            must("with TLS" in run("nbdinfo", uri % "alice" + "?tls-psk-file=" + psk, ns=ns), "no TLS")
            for user in ("alice", "mallory"):
                run("nbdinfo", uri % user + "?tls-psk-file=" + wrong, ns=ns, status=None)
            run("nbdinfo", s.uri.replace("nbds:", "nbd:"), ns=ns, status=None)
            host, port = s.uri.split("/")[2].rsplit(":", 1)
            said = run("python3", "-c", SMUGGLE, host, port, ns=ns)
            must("closed" in said, "what came in the clear was taken for TLS: %s", said)
            run("qemu-io", "--object", "tls-creds-psk,id=t,endpoint=client,username=alice,dir=" + keys,
                "-c", "write -P 9 1000 300000", "-c", "read -P 9 1000 300000",
                "--image-opts", "driver=nbd,host=%s,port=%s,tls-creds=t" % (host, port), ns=ns)
        with Server("--psk-file", psk) as s:
            run("nbdinfo", s.uri.replace("nbds+unix://", "nbds+unix://alice@") + "&tls-psk-file=" + psk)
    finally:
        shutil.rmtree(keys)


@case(bed=False)
def nbd_refused():
    """What `lockstep nbd` does not do, it says."""
    with Server() as s:
        def refused(words, sentence, status):
            said = run(LOCKSTEP, "nbd", *words, status=status)
            must(sentence in said, "lockstep nbd %s: %r does not say %r", " ".join(words), said, sentence)

        sock, listen = ["--socket", s.file("other")], ["--listen", "127.0.0.1:0"]
        refused([], "which image", 2)
        refused([s.image], "--socket PATH or --listen", 2)
        refused(sock + listen + [s.image], "--socket PATH or --listen", 2)
        refused(sock + [s.image, s.image], "one image at a time", 2)
        refused(["--listen", "127.0.0.1:99999", s.image], "99999", 2)
        refused(["--listen", "[::1", s.image], "[::1", 2)
        refused(sock + ["--tls-dir", "/", "--psk-file", "/", s.image], "exclude each other", 2)
        for address in ("0.0.0.0", "192.0.2.1:10809", "[::]:0", "2001:db8::1"):
            refused(["--listen", address, s.image], "without TLS", 1)
        refused(["--listen", "host.example", s.image], "no IPv4 or IPv6 address", 1)
        refused(listen + ["--tls-dir", s.dir, s.image], "ca-cert.pem", 1)
        refused(listen + ["--psk-file", s.file("none"), s.image], "cannot be read", 1)
        refused(listen + ["--psk-file", "/dev/null", s.image], "is no file", 1)
        with open(s.file("empty"), "w", encoding="utf-8"):
            os.chmod(s.file("empty"), 0o600)
        refused(listen + ["--psk-file", s.file("empty"), s.image], "no key", 1)
        refused(["--socket", s.sock, s.image], "another process listens", 1)
        refused(["--socket", s.image, s.image], "no socket", 1)
        refused(sock + [s.image], "in use", 1)
        refused(sock + [s.file("none")], "none", 1)
        must(not os.path.exists(s.file("other")), "a server that did not begin has left its socket")
        # A socket that a killed server has left is replaced.
        s.popen.kill()
        s.popen.wait(10)
        must(os.path.exists(s.sock), "nothing was left over")
        s.start()
        same(run("nbdinfo", "--size", s.uri).strip(), str(64 * MB), "the size")
        if s.popen.poll() is not None:
            raise BedError("the server has ended: %s" % s.said())
