# SPDX-License-Identifier: BSD-2-Clause
"""
PostgreSQL in the guest (guest/build-pg): the machine, clients that check it, and looks at its disk from outside.

A Writer is one connection that inserts numbered rows, one transaction each, and notes which were acknowledged;
check_rows() asks the database for all of them. PostgreSQL's protocol is spoken here, as far as that needs it: a message
is a letter, a length that counts itself, and the rest.
"""

import contextlib
import hashlib
import os
import shutil
import socket
import struct
import subprocess
import tempfile

from bed import GUEST_IP, GUEST_OUT, PATIENCE, BedError, Machine, Process, Skip, until
from harness import must, same, say
from load import Conn

PG_PORT, CONTROL_PORT = 5432, 5433
USER, DATABASE = "postgres", "bench"
IMAGE = "pg.img"
BIN = "/usr/lib/postgresql/15/bin"  # on that disk
PG_UID = 70         # of the server in the image (guest/build-pg)
DATA = "/var/lib/postgresql/15/main"
SOCKET = "/tmp/.s.PGSQL.%d" % PG_PORT
MESSAGE_MAX = 1 << 20


class PgMachine(Machine):
    """The test guest with PostgreSQL on a disk; interface: QEMU's if=."""

    def __init__(self, interface="virtio", **kw):
        device = {"virtio": "vda", "ide": "sda"}[interface]
        super().__init__("pc", "virtio-net-pci", append="rdinit=/pgstart lockstep.pg=%s lockstep.disks=1" % device,
                         extra=["-drive", "file=@DIR@/%s,format=raw,if=%s,id=d-pg" % (IMAGE, interface)], **kw)

    def image(self):
        return GUEST_OUT + "/vmlinuz", GUEST_OUT + "/initramfs-pg.cpio.gz"


def needs():
    """Raises Skip with the reason when there is no database to be run."""
    if not os.path.exists(os.path.join(GUEST_OUT, IMAGE)):
        raise Skip("no disk with PostgreSQL: run guest/build-pg")


def tools(bed):
    """
    The disk's files, unpacked once in a bed: programs of the server's own version, to be run by chroot. Nothing of
    PostgreSQL has to be installed here.
    """
    root = os.path.join(bed.dir, "pgroot")
    if not os.path.exists(root):
        os.mkdir(root)
        dump(os.path.join(GUEST_OUT, IMAGE), "/", root)
        must(os.path.exists(root + program("postgres")), "no PostgreSQL in %s", IMAGE)
        os.chmod(root + "/tmp", 0o1777)
    return root


def dump(image, what, where):
    """Unpacks a directory of a file system that is not mounted."""
    r = subprocess.run(["debugfs", "-R", "rdump %s %s" % (what, where), image], stdin=subprocess.DEVNULL,
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    must(r.returncode == 0, "debugfs: %s", r.stdout[-500:])


def program(name):
    return os.path.join(BIN, name)


def put_image(node):
    subprocess.run(["cp", "--sparse=always", os.path.join(GUEST_OUT, IMAGE), os.path.join(node.dir, IMAGE)], check=True)


def image_of(node):
    return os.path.join(node.dir, IMAGE)


# Talking to it

def startup():
    body = struct.pack("!I", 196608) + b"".join(
        w.encode() + b"\0" for w in ("user", USER, "database", DATABASE, "application_name", "e2e")) + b"\0"
    return struct.pack("!I", 4 + len(body)) + body


def query(sql):
    body = sql.encode() + b"\0"
    return b"Q" + struct.pack("!I", 4 + len(body)) + body


def messages(inp):
    """
    The messages of one whole answer, taken off the bytearray inp, as (letter, bytes); None when it is not complete. An
    answer ends with ReadyForQuery.
    """
    got, at = [], 0
    while len(inp) - at >= 5:
        kind, length = inp[at:at + 1], struct.unpack_from("!I", inp, at + 1)[0]
        if not 4 <= length <= MESSAGE_MAX:
            raise BedError("no message of PostgreSQL: %r" % bytes(inp[at:at + 40]))
        if len(inp) - at < 1 + length:
            return None
        got.append((bytes(kind), bytes(inp[at + 5:at + 1 + length])))
        at += 1 + length
        if kind == b"Z":
            del inp[:at]
            return got
    return None


def complaint(got):
    """What an error message among them says, or None."""
    for kind, body in got:
        if kind == b"E":
            fields = [f.decode(errors="replace") for f in body.split(b"\0") if f]
            return "; ".join(f[1:] for f in fields if f[:1] in "SCMD")
    return None


def rows_of(got):
    """The rows among messages, as lists of strings (None: null)."""
    rows = []
    for body in (b for kind, b in got if kind == b"D"):
        n, at, row = struct.unpack_from("!H", body)[0], 2, []
        for _ in range(n):
            size = struct.unpack_from("!i", body, at)[0]
            row.append(None if size < 0 else body[at + 4:at + 4 + size].decode())
            at += 4 + max(size, 0)
        rows.append(row)
    return rows


class Session:
    """One blocking connection for single questions: rows = session("SELECT ...")."""

    def __init__(self, sock, timeout=60.0):
        self.sock, self.inp = sock, bytearray()
        sock.settimeout(timeout * PATIENCE)
        sock.sendall(startup())
        self.answer()

    def answer(self):
        while True:
            got = messages(self.inp)
            if got is not None:
                break
            data = self.sock.recv(1 << 16)
            if not data:
                raise BedError("PostgreSQL closed the connection: %r" % bytes(self.inp[:200]))
            self.inp += data
        must(not complaint(got), "PostgreSQL: %s", complaint(got))
        return rows_of(got)

    def __call__(self, sql):
        self.sock.sendall(query(sql))
        return self.answer()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.sock.close()


def wait_server(bed, seconds=120):
    """Until the server in the guest answers."""
    def good():
        bed.a.must_live()
        try:
            with Session(bed.connect(PG_PORT, timeout=5.0), timeout=10) as ask:
                return ask("SELECT 1")
        except (OSError, BedError):
            return False
    until(good, seconds, "PostgreSQL in the guest", every=0.3)


class Writer(Conn):
    """Rows 1, 2, 3 ... of a client, each acknowledged before the next is sent."""

    port = PG_PORT

    def __init__(self, number, **kw):
        super().__init__(**kw)
        self.number, self.name = number, "writer %d" % number

    def open(self, bed):
        sock = super().open(bed)
        Session(sock)
        return sock

    def next_request(self):
        n = self.asked + 1
        return query("INSERT INTO journal VALUES (%d, %d, '%s')" % (self.number, n, text_of(self.number, n))), n

    def check(self, expected):
        got = messages(self.inp)
        if got is None:
            return False
        if complaint(got) or (b"C", b"INSERT 0 1\0") not in got:
            self.wrong("row %d: %s", expected, complaint(got) or got)
        return True


def text_of(number, n):
    return hashlib.md5(b"%d:%d" % (number, n)).hexdigest()


def acknowledged_now(writers):
    """How many rows of each writer, the first ones, are acknowledged."""
    return {w.number: w.answers for w in writers}


def check_rows(ask, writers, acknowledged=None):
    """
    Every acknowledged row is there exactly once, whole, and no row that was not sent. The writers may go on meanwhile;
    acknowledged: what must be there, if that is not all until now. Returns how many rows there are.
    """
    acknowledged = acknowledged or acknowledged_now(writers)
    rows = {int(r[0]): r[1:] for r in ask(
        "SELECT client, count(*), count(DISTINCT n), min(n), max(n), bool_and(text = md5(client || ':' || n)) "
        "FROM journal GROUP BY client")}
    sent = {w.number: w.asked for w in writers}
    must(set(rows) <= set(sent), "rows of clients that are none of ours: %s", sorted(set(rows) - set(sent)))
    for w, low in acknowledged.items():
        if w not in rows:
            must(not low, "writer %d: none of %d acknowledged rows is there", w, low)
            continue
        count, distinct, least, most = (int(x) for x in rows[w][:4])
        must(count == distinct, "writer %d: %d rows are there twice", w, count - distinct)
        must(least == 1 and count == most, "writer %d: rows are missing: %d of %d to %d", w, count, least, most)
        must(low <= most <= sent[w], "writer %d: rows up to %d, but %d were acknowledged and %d sent", w, most, low,
             sent[w])
        same(rows[w][4], "t", "writer %d: the rows' text is right" % w)
    return sum(int(r[0]) for r in rows.values())


def check_pgbench(ask):
    """pgbench's own books agree: what each transaction has added is in all of its tables. Returns its transactions."""
    got = ask("SELECT (SELECT coalesce(sum(delta), 0) FROM pgbench_history), "
              "(SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers), "
              "(SELECT sum(bbalance) FROM pgbench_branches), (SELECT count(*) FROM pgbench_history)")[0]
    must(len(set(got[:4])) == 1, "pgbench's sums differ: history %s, accounts %s, tellers %s, branches %s", *got[:4])
    return int(got[4])


class Pgbench:
    """pgbench -c 4 from the client, all the time, over the same four connections."""

    def __init__(self, bed, clients=4):
        self.log = os.path.join(bed.logs, "pgbench.log")
        self.proc = bed.popen("c", ["chroot", tools(bed), program("pgbench"), "-h", GUEST_IP, "-U", USER, "-n", "-c",
                                    str(clients), "-T", "1000000", "-P", "5", DATABASE], self.log)

    def said(self):
        with contextlib.suppress(FileNotFoundError):
            with open(self.log, encoding="utf-8", errors="replace") as f:
                return f.read()
        return ""

    def check(self):
        said = self.said()
        bad = [x for x in said.splitlines() if "error" in x or "aborted" in x or "fatal" in x.lower()]
        must(not bad, "pgbench: %s", bad[:3])
        must(not self.proc.ended(), "pgbench has ended: %s", said[-200:])

    def stop(self):
        self.check()
        self.proc.kill()
        self.proc.wait(10, "pgbench")


def amcheck(bed, host, *words):
    """The database's tables and indexes are sound; host: an address, or the directory of a socket in tools()."""
    r = subprocess.run(["ip", "netns", "exec", bed.ns("c"), "chroot", tools(bed), program("pg_amcheck"), "-h", host,
                        "-U", USER, "-d", DATABASE] + list(words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, text=True, timeout=600 * PATIENCE, check=False)
    must(r.returncode == 0 and not r.stdout.strip(), "pg_amcheck: exit status %d: %s", r.returncode, r.stdout[-500:])


class Frozen:
    """While it lasts the guest's file system is whole on its disk, and nothing is written to it."""

    def __init__(self, bed):
        self.sock = bed.connect(CONTROL_PORT, timeout=60.0)
        self.file = self.sock.makefile("rb")

    def say(self, word):
        self.sock.sendall(word.encode() + b"\n")
        got = self.file.readline()
        must(got == b"ok\n", "%s: the guest says %r", word, got)

    def __enter__(self):
        self.say("freeze")
        return self

    def __exit__(self, kind, *_):
        # After a failure nobody may be there to answer.
        if kind is None:
            self.say("thaw")
        self.file.close()
        self.sock.close()


# Looking at the disk

class Copy:
    """A copy of an image as it is now; its path, for as long as it is needed."""

    def __init__(self, path):
        self.where = tempfile.TemporaryDirectory(prefix="lockstep-pg-", dir=os.path.dirname(path))
        self.path = os.path.join(self.where.name, "copy.img")
        subprocess.run(["cp", "--sparse=always", path, self.path], check=True)

    def __enter__(self):
        return self.path

    def __exit__(self, *exc):
        self.where.cleanup()


def fsck(path, *words):
    r = subprocess.run(["e2fsck"] + list(words) + [path], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, text=True, check=False)
    return r.returncode, r.stdout.strip()


def check_clean(path):
    code, said = fsck(path, "-fn")
    must(code == 0, "e2fsck -fn %s: exit status %d: %s", path, code, said[-500:])


def replay(path):
    """What a mount does with the disk of a machine that lost its power: the journal, and files that were deleted."""
    code, said = fsck(path, "-p")
    must(code in (0, 1), "e2fsck -p %s: exit status %d: %s", path, code, said[-500:])


@contextlib.contextmanager
def _served(bed, image):
    """The database on an image, served by its own server on this host: yields a Session. The socket is in tools()."""
    root, log = tools(bed), os.path.join(bed.logs, "copy.log")
    shutil.rmtree(root + "/srv", ignore_errors=True)
    os.mkdir(root + "/srv")
    dump(image, DATA, root + "/srv")
    for name in (SOCKET, SOCKET + ".lock"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(root + name)
    # The namespace's first process stays root's: with a change of user it would no longer end with its parent.
    with open(log, "wb") as out:
        p = subprocess.Popen(["unshare", "--mount", "--pid", "--net", "--ipc", "--fork", "--kill-child", "sh", "-e",
                              "-c", 'mount --rbind /dev "$0/dev"; mount -t proc proc "$0/proc"; '
                              'chroot --userspec=%d:%d "$0" %s -D /srv/main -c listen_addresses=; exit $?' % (
                                  PG_UID, PG_UID, program("postgres")), root],
                             stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def said():
        with open(log, encoding="utf-8", errors="replace") as f:
            return f.read()

    def connected():
        must(p.poll() is None, "the server on a copy of the disk ended: %s", said()[-800:])
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(root + SOCKET)
            return Session(sock)
        except (OSError, BedError):
            sock.close()
            return None
    try:
        with until(connected, 60, "the server on a copy of the disk", every=0.2) as ask:
            yield ask
    finally:
        say("the server on a copy of the disk: %s", said()[-1000:])
        end_namespace(p)


def end_namespace(p):
    """Ends what unshare has started in a PID namespace: it all goes with the namespace's first process."""
    with open("/proc/%d/task/%d/children" % (p.pid, p.pid), encoding="utf-8") as f:
        first = [Process(int(pid)) for pid in f.read().split()]
    p.kill()
    p.wait()
    for process in first:
        process.kill()
        process.wait(20, "the server on a copy of the disk")
        process.close()


def check_copy(bed, copy, writers, acknowledged=None, clean=False):
    """
    A copy of the disk of a VM that was dead or stopped: its file system and all of the database. clean: it needs no
    replay of the journal. The rows that were acknowledged are there.
    """
    if not clean:
        replay(copy)
    check_clean(copy)
    with _served(bed, copy) as ask:
        rows = check_rows(ask, writers, acknowledged)
        done = check_pgbench(ask)
        amcheck(bed, "/tmp", "--heapallindexed", "--parent-check")
    say("a copy of the disk: %d rows, %d transactions of pgbench", rows, done)
