# SPDX-License-Identifier: BSD-2-Clause
"""What is refused: with a sentence, at once, and without harm to what runs."""

import os
import random
import socket
import struct
import subprocess
import time

from bed import LINK_PORT, LOCKSTEP, NODE_IP, VM_NAME, Machine, until
from harness import case, must, note, same, say, seed_from
from load import Count, Incr, Load

QEMU = ["--", "qemu-system-x86_64", "-m", "256"]
TAP = ["-netdev", "tap,id=n0,ifname=tap0,script=no,downscript=no", "-device", "virtio-net-pci,netdev=n0"]
LISTEN = ["--name", "web", "--listen", "127.0.0.1:9998"]


def lockstep(*words, env=None):
    r = subprocess.run([LOCKSTEP] + list(words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                       stderr=subprocess.PIPE, text=True, timeout=30, env=dict(os.environ, **(env or {})), check=False)
    return r.returncode, r.stdout, r.stderr.strip()


def refused(words, *sentence, status=(2,), env=None):
    """The command line is refused within the time limit, with one line that says all the words of sentence."""
    code, _, err = lockstep(*words, env=env)
    must(code in status, "lockstep %s: exit %d: %s", " ".join(words), code, err)
    for part in sentence:
        must(part.lower() in err.lower(), "lockstep %s: %r does not say %r", " ".join(words), err, part)
    must(len(err.splitlines()[-1]) < 600, "a sentence, not a page: %r", err)


@case(bed=False)
def wrong_lockstep_options():
    refused(["run"], "name")
    refused(["run", "--name", "web"] + QEMU, "--listen", "--peer")
    refused(["run", "--name", "a/b", "--listen", "127.0.0.1:1"] + QEMU, "name")
    refused(["run"] + LISTEN, "QEMU")
    refused(["run"] + LISTEN + ["--"], "QEMU")
    refused(["run"] + LISTEN + ["-m", "256"], "--")
    refused(["run", "--name", "web", "--listen", "192.0.2.2:9998"] + QEMU, "--insecure", "not encrypted")
    refused(["run", "--name", "web", "--listen", "127.0.0.1:"] + QEMU, "--listen", "not ADDRESS:PORT")
    refused(["run", "--name", "web", "--listen", "192.0.2.2", "--insecure"] + QEMU, "--witness", "--no-witness")
    refused(["run", "--name", "web", "--listen", "127.0.0.1:99999"] + QEMU, "--listen")
    refused(["run"] + LISTEN + ["--primary"] + QEMU, "--peer")
    refused(["run"] + LISTEN + ["--heartbeat", "400"] + QEMU, "--timeout")
    refused(["run"] + LISTEN + ["--heartbeat", "soon"] + QEMU, "--heartbeat")
    refused(["run"] + LISTEN + ["--spill-dir", "/nonexistent"] + QEMU, "--spill-dir")
    refused(["run"] + LISTEN + ["--frobnicate"] + QEMU, "frobnicate")
    refused(["run"] + LISTEN + QEMU, "crash point", env={"LOCKSTEP_CRASH_AT": "nowhere"})
    refused(["frobnicate"], "frobnicate")
    refused(["status", "nobody", "--run-dir", "/nonexistent"], "nobody", status=(3,))
    refused(["checkpoint", "nobody", "--run-dir", "/nonexistent"], "nobody", status=(3,))


@case(bed=False)
def what_cannot_be_protected():
    """QEMU options that Lockstep cannot keep its promises with are refused, each with its reason."""
    base = ["run"] + LISTEN + QEMU
    for words, part in (
            (["-netdev", "user,id=n0", "-device", "virtio-net-pci,netdev=n0"], "user"),
            (["-nic", "user"], "user"),
            (["-netdev", "tap,id=n0,ifname=tap0,script=no,downscript=no,vhost=on", "-device",
              "virtio-net-pci,netdev=n0"], "vhost"),
            (TAP + ["-drive", "file=/dev/null,format=raw"], "drive"),
            (TAP + ["-hda", "/dev/null"], "hda"),
            (TAP + ["-device", "virtio-balloon-pci"], "balloon"),
            (TAP + ["-device", "loader,addr=0x1000000,data=1,data-len=4"], "reset"),
            (TAP + ["-device", "vfio-pci,host=00:02.0"], "vfio"),
            (TAP + ["-incoming", "tcp:0:4444"], "incoming"),
            (TAP + ["-qmp", "unix:/tmp/x,server=on"], "QMP"),
            (TAP + ["-monitor", "stdio"], "monitor"),
            (TAP + ["-daemonize"], "daemonize"),
            (TAP + ["-loadvm", "x"], "loadvm"),
            (TAP + ["-M", "microvm"], "microvm")):
        refused(base + words, part)
    refused(["run"] + LISTEN + ["--", "/nonexistent/qemu-system-x86_64", "-m", "256"] + TAP, "/nonexistent",
            status=(1, 2))


@case(bed=False)
def doctor():
    code, out, err = lockstep("doctor")
    must(code == 0, "lockstep doctor: exit %d: %s", code, err)
    must("7." in out or "8." in out or "9." in out or "10." in out, "no version of QEMU in:\n%s", out)
    code, out, _ = lockstep("doctor", "--crash-points")
    for point in ("staged", "before_epoch_end", "released"):
        must(code == 0 and point in out, "crash point %s is not listed:\n%s", point, out)
    refused(["doctor", "/bin/true"], "true", status=(1,))
    refused(["doctor", "/usr/bin/ldd"], "script", status=(1,))
    refused(["run"] + LISTEN + ["--", "/usr/bin/ldd", "-m", "256"] + TAP, "script", status=(1, 2))


def wrong_tap(bed, name):
    argv = [w.replace("ifname=tap0", "ifname=" + name) for w in bed.a.lockstep_argv("secondary", Machine())]
    log = bed.b.log + "." + name
    p = bed.b.popen(argv, log=log)
    code = p.wait(15, "lockstep with the TAP " + name)
    with open(log, encoding="utf-8") as f:
        text = f.read()
    must(code in (1, 2), "exit %s: %s", code, text)
    must(name in text, "the TAP is not named: %s", text)


@case()
def no_such_tap(bed):
    """A TAP that is not there is a slip of the user's: no VM without a network comes of it."""
    wrong_tap(bed, "tap7")


@case()
def busy_tap(bed):
    """A TAP that another program has open."""
    bed.b.start_plain()
    bed.wait_ready(bed.b)
    wrong_tap(bed, "tap0")


@case()
def the_same_name_twice(bed):
    bed.b.start("secondary")
    until(bed.b.status, 15, "the first one's control socket")
    second = bed.b.popen(bed.b.lockstep_argv("secondary", Machine()), log=bed.b.log + ".2")
    must(second.wait(15, "the second one") != 0, "a second instance of one name started")
    with open(bed.b.log + ".2", encoding="utf-8") as f:
        text = f.read()
    must(VM_NAME in text and str(bed.b.proc.pid) in text, "it does not say who has the name: %s", text)
    must(not bed.b.proc.ended(), "the first one ended")


def primary_hello(bed):
    """The bytes with which a real primary introduces itself, taken by a listener in its peer's place."""
    with bed.inside("b"):
        server = socket.create_server((NODE_IP["b"], LINK_PORT), reuse_port=False)
    with server:
        server.settimeout(20)
        p = bed.a.start("primary")
        conn, _ = server.accept()
        with conn:
            conn.settimeout(5)
            data = b""
            while len(data) < 40 or len(data) < 40 + struct.unpack_from("!I", data, 8)[0]:
                got = conn.recv(65536)
                must(got, "the primary closed before it had introduced itself")
                data += got
            # And the other way round: a peer that answers nonsense is not believed either.
            conn.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 4)
            with_error = until(lambda: "peer" in bed.a.said().lower() or p.ended(), 10, "the primary's complaint")
            must(with_error, "no complaint about a garbled peer")
    p.kill()
    p.wait(5)
    return data[:40 + struct.unpack_from("!I", data, 8)[0]]


def link_socket(bed):
    """A connection to the secondary's link port, as soon as it listens there."""
    def connect():
        with bed.inside("a"):
            try:
                return socket.create_connection((NODE_IP["b"], LINK_PORT), 10)
            except ConnectionRefusedError:
                bed.b.must_live()
                return None
    return until(connect, 15, "somebody at the link port", every=0.1)


def offer(bed, data, close=True, seconds=10):
    """Sends bytes to the secondary's link port; what it answers until it closes."""
    with link_socket(bed) as s:
        s.settimeout(seconds)
        answer = b""
        try:
            s.sendall(data)
            if close:
                s.shutdown(socket.SHUT_WR)
            while True:
                got = s.recv(65536)
                if not got:
                    return answer
                answer += got
        except (ConnectionResetError, BrokenPipeError):
            return answer


@case("liveness")
def strangers_at_the_link(bed):
    """Garbage, another version, cut and endless messages at the secondary's port; then the real primary comes."""
    hello = primary_hello(bed)
    say("the primary's hello has %d bytes", len(hello))
    bed.b.start("secondary")
    until(lambda: bed.b.must_live() or bed.b.status(), 15, "node b's control socket")
    rng = random.Random(seed_from())

    def complained():
        return len([x for x in bed.b.said().splitlines() if "refused" in x or "peer" in x.lower()])
    version = hello[:40] + struct.pack("!I", 9999) + hello[44:]
    answer = offer(bed, version, close=False)
    must(b"protocol 9999" in answer, "the answer to another version: %r", answer[:200])
    begun = time.monotonic()
    for data in (b"", b"GET / HTTP/1.0\r\n\r\n", b"\0" * 1000, b"\xff" * 1000, rng.randbytes(5000), hello[:39],
                 hello[:60], hello[:4] + rng.randbytes(200), hello[:8] + b"\xff" * 4 + hello[12:],
                 hello[:40] + rng.randbytes(len(hello) - 40)):
        offer(bed, data)
        bed.b.must_live()
    for _ in range(50):
        broken = bytearray(hello)
        for _ in range(rng.randrange(1, 8)):
            broken[rng.randrange(len(broken))] = rng.randrange(256)
        offer(bed, bytes(broken))
        bed.b.must_live()
    must(complained() > 0, "node b did not say a word: %s", bed.b.tail())
    note("61 strangers in %.1f s", time.monotonic() - begun)
    # Half-open strangers that say nothing must not keep the real one out.
    silent = [link_socket(bed) for _ in range(5)]
    bed.a.start("primary")
    bed.wait_ready(bed.a)
    bed.wait_protected()
    for s in silent:
        s.close()
    # And strangers that come while the pair is protected do not disturb it.
    with Load(bed, [Incr("a"), Count()]) as load:
        for _ in range(10):
            offer(bed, rng.randbytes(300))
            offer(bed, hello)
        load.wait_answers(20, 20)
        same((bed.a.state(), bed.b.state()), ("protected", "standby"), "the pair")
        load.finish()


def mismatched(bed, parts, a_machine=None, name=VM_NAME, b_machine=None):
    """A primary that cannot be paired is refused, and the difference is named on both nodes."""
    bed.b.start("secondary", b_machine or Machine(mem=256))
    until(lambda: bed.b.must_live() or bed.b.status(), 15, "node b's control socket")
    bed.a.start("primary", a_machine or Machine(mem=256), name=name)

    def told(node):
        return all(p in node.said() for p in parts)
    until(lambda: told(bed.a) and told(bed.b), 15, lambda: "a sentence with %s (a: %s; b: %s)" % (
        parts, bed.a.tail(), bed.b.tail()))
    bed.b.must_live()
    must(bed.b.state() == "joining", "node b is %s", bed.b.state())


def elf_kernel(path):
    """A kernel that QEMU starts as an ELF file (PVH): one segment, which halts, and the entry note."""
    at, code = 0x1000000, b"\xf4\xeb\xfd"  # hlt, and again
    note_ = struct.pack("<III4sQ", 4, 8, 18, b"Xen\0", at)
    where = 64 + 2 * 56
    loaded = struct.pack("<IIQQQQQQ", 1, 5, 0x1000, at, at, len(code), 0x1000, 0x1000)
    noted = struct.pack("<IIQQQQQQ", 4, 4, where, 0, 0, len(note_), len(note_), 4)
    head = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, 62, 1, at, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    with open(path, "wb") as f:
        f.write((head + loaded + noted + note_).ljust(0x1000, b"\0") + code)
    return path


class ElfKernel(Machine):
    """A machine with another kernel file."""

    def __init__(self, kernel, **more):
        super().__init__(**more)
        self.kernel = kernel

    def image(self):
        return self.kernel, super().image()[1]


@case()
def elf_kernel_is_refused(bed):
    """QEMU would write it into the memory of a loaded checkpoint."""
    kernel = elf_kernel(bed.b.dir + "/elf-kernel")
    for role, node in (("secondary", bed.b), ("primary", bed.a)):
        p = node.start(role, ElfKernel(kernel, mem=256))
        must(p.wait(15, "lockstep with an ELF kernel") in (1, 2), "the %s: exit status: %s", role, node.tail())
        for part in ("QEMU writes %s into the guest's memory again at each reset" % kernel, "bzImage"):
            must(part in node.said(), "the %s does not say %r: %s", role, part, node.tail())


@case()
def another_name(bed):
    mismatched(bed, ["shop"], name="shop")


class Altered(Machine):
    """A machine whose kernel or initial ramdisk is another one, though as long, in the directory where."""

    def __init__(self, where, which, **more):
        super().__init__(**more)
        self.where, self.which = where, which

    def image(self):
        files = list(super().image())
        with open(files[self.which], "rb") as f:
            data = bytearray(f.read())
        data[len(data) // 2] ^= 1
        files[self.which] = os.path.join(self.where, "altered")
        with open(files[self.which], "wb") as f:
            f.write(data)
        return files


@case()
def another_kernel(bed):
    mismatched(bed, ["-kernel file of", "xxh3"], Altered(bed.a.dir, 0, mem=256))


@case()
def another_initrd(bed):
    mismatched(bed, ["-initrd file of", "xxh3"], Altered(bed.a.dir, 1, mem=256))


@case()
def another_rom(bed):
    """QEMU finds its ROMs by itself; what it has loaded is compared."""
    roms = bed.a.dir + "/roms"
    os.mkdir(roms)
    source = next(p for p in ("/usr/share/seabios/vgabios-stdvga.bin", "/usr/share/qemu/vgabios-stdvga.bin")
                  if os.path.exists(p))
    with open(source, "rb") as f:
        data = bytearray(f.read())
    data[-1] ^= 1
    with open(roms + "/vgabios-stdvga.bin", "wb") as f:
        f.write(data)
    mismatched(bed, ["the ROM in 0000:00:02.0/vga.rom"], Machine(mem=256, extra=["-L", roms]))


@case()
def another_device(bed):
    """A device that comes from an option that concerns one host only."""
    mismatched(bed, ["device tree", "isa-serial"], Machine(mem=256, extra=["-serial", "null"]))


@case()
def another_memory_size(bed):
    mismatched(bed, ["mem"], Machine(mem=384))


@case()
def another_machine_type(bed):
    mismatched(bed, ["machine"], Machine("q35", mem=256))


@case()
def another_mac(bed):
    m = Machine(mem=256)
    real = m.argv
    m.argv = lambda *a: [w.replace("52:54:00:00:02:10", "52:54:00:00:02:11") for w in real(*a)]
    mismatched(bed, ["52:54:00:00:02:1"], m)


@case("liveness")
def hostile_control_socket(bed):
    """Nonsense on the control socket is answered with an error and disturbs nothing."""
    bed.start_pair(Machine(mem=256))
    rng = random.Random(seed_from())
    path = os.path.join(bed.a.run_dir, VM_NAME + ".sock")
    with Load(bed, [Incr("a")]) as load:
        for data in (b"{}\n", b"[]\n", b"\n", b"{\"execute\": 1}\n", b"{\"execute\": \"system_reset\"}\n",
                     b"{\"execute\":\"__lockstep_set\",\"arguments\":{\"checkpoint-delay\":-1}}\n",
                     b"x" * 100000 + b"\n",
                     b"[" * 5000 + b"\n", rng.randbytes(4000)):
            with socket.socket(socket.AF_UNIX) as s:
                s.settimeout(5)
                s.connect(path)
                try:
                    s.sendall(data)
                    s.shutdown(socket.SHUT_WR)
                    answer = b""
                    while True:
                        got = s.recv(65536)
                        if not got:
                            break
                        answer += got
                except BrokenPipeError:
                    answer = b"error"
            must(not answer or b"error" in answer, "%r was answered with %r", data[:40], answer[:100])
        load.wait_answers(20, 20)
        load.finish()
    same(bed.a.state(), "protected", "state")
