#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Witnesses for real: two nodes (witness_probe) at a disk, and at an etcd of three members, both shot at.

    witness.py PROBE disk|etcd|hostile|tls [--seed N]

Runs in a network namespace of its own, so that its ports are nobody else's."""

import argparse
import http.client
import http.server
import json
import os
import queue
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

LIMIT = 60      # seconds for whatever must come at last


class Failed(Exception):
    pass


def check(ok, text):
    if not ok:
        raise Failed(text)


def until(what, fn, limit=LIMIT):
    end = time.monotonic() + limit
    while True:
        got = fn()
        if got:
            return got
        check(time.monotonic() < end, "%s: not within %d s" % (what, limit))
        time.sleep(0.02)


class Answer:
    def __init__(self, line):
        word = line.rstrip("\n").split(" ", 4)
        self.what, self.generation, self.owner, self.ms, self.why = word[0], int(word[1]), word[2], int(word[3]), word[4]
        self.text = line.strip()


class Node:
    """One witness_probe. Its answers come in order; what it says of its health stands in .health."""

    all = []

    def __init__(self, probe, witness, ident, *more):
        self.health = []
        self.lines = queue.Queue()
        cmd = [probe, "--witness", witness, "--id", ident] + (["--connects"] if ident == "B" else []) + list(more)
        self.p = subprocess.Popen(cmd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        threading.Thread(target=self.read, daemon=True).start()
        Node.all.append(self)

    def read(self):
        for line in self.p.stdout:
            if line.startswith("health "):
                self.health.append(line.split(" ", 2)[1:])
            elif line.endswith("\n"):
                self.lines.put(Answer(line))
        self.lines.put(None)

    def say(self, text):
        self.p.stdin.write(text + "\n")
        self.p.stdin.flush()

    def answer(self):
        try:
            got = self.lines.get(timeout=LIMIT)
        except queue.Empty:
            raise Failed("no answer") from None
        check(got, "the node has died")
        return got

    def ask(self, text):
        self.say(text)
        return self.answer()

    def expect(self, text, what, generation=None, owner=None):
        got = self.ask(text)
        check(got.what == what and generation in (None, got.generation) and owner in (None, got.owner),
              "%s: %s, expected %s %s %s" % (text, got.text, what, generation, owner))
        return got

    def at_last(self, text, what):
        """Asks until the answer is that: the machine may be busy."""
        return until(text, lambda: (lambda a: a if a.what == what else None)(self.ask(text)))

    def kill(self):
        self.p.kill()
        self.p.wait()

    def end(self):
        self.p.stdin.close()
        check(self.p.wait(LIMIT) == 0, "the node has ended with %s" % self.p.returncode)


def race(make, goal, kills, rng):
    """Both claim the next generation as fast as they can, up to @goal, and are killed @kills times. Each generation may be
    granted to one only, and what is granted must be what the record says afterwards."""
    owner = {}
    node = {x: make(x) for x in "AB"}
    lines = 0
    for n in node.values():
        n.say("race %d" % goal)
    shots = sorted(rng.randrange(1, goal) for _ in range(kills))
    done = set()
    end = time.monotonic() + 2 * LIMIT

    def take(x, block):
        nonlocal lines
        try:
            a = node[x].lines.get(timeout=0.01) if block else node[x].lines.get_nowait()
        except queue.Empty:
            return False
        if a is None:
            return False
        if a.what == "RECORD":
            done.add(x)
            check(a.generation >= goal, "the race ended at generation %d" % a.generation)
            return True
        check(a.what == "GRANTED" and a.owner == x, a.text)
        check(owner.setdefault(a.generation, x) == x, "generation %d was granted to both" % a.generation)
        lines += 1
        return True

    while len(done) < 2:
        check(time.monotonic() < end, "the race has not ended: %d granted" % len(owner))
        for x in "AB":
            if x not in done:
                take(x, True)
        if shots and owner and max(owner) >= shots[0]:
            shots.pop(0)
            x = rng.choice([y for y in "AB" if y not in done] or ["A"])
            if x in done:
                continue
            node[x].kill()
            while take(x, False):
                pass
            if x not in done:
                node[x] = make(x)
                node[x].say("race %d" % goal)
    for n in node.values():
        if n.p.poll() is None:
            n.end()
    both = {x: sum(1 for y in owner.values() if y == x) for x in "AB"}
    print("race to %d: %s granted, %d kills" % (goal, both, kills))
    return owner


def test_disk(probe, tmp, rng):
    path = os.path.join(tmp, "witness")
    spec = "disk:" + path

    def make(x):
        return Node(probe, spec, x, "--timeout", "20000")

    a = make("A")
    got = a.expect("look", "UNKNOWN")
    check("not created" in got.why, got.text)
    with open(path, "wb") as f:
        f.truncate(4096)
    check("needs 8192" in a.expect("look", "UNKNOWN").why, "too short")
    with open(path, "wb") as f:
        f.truncate(8192)
    b = make("B")
    a.expect("look", "RECORD", 0)
    a.expect("claim 0 1", "GRANTED", 1, "A")
    b.expect("look", "RECORD", 1, "A")
    b.expect("claim 0 1", "LOST", 1, "A")
    a.expect("claim 0 1", "GRANTED", 1, "A")
    b.expect("claim 1 2", "GRANTED", 2, "B")
    a.expect("claim 1 2", "LOST", 2, "B")
    check("forgotten" in a.expect("claim 7 8", "UNKNOWN").why, "forgotten")
    # Another process of this host, another node at this block, another VM's block.
    twin = make("A")
    check("another process" in twin.expect("look", "UNKNOWN").why, "the twin")
    twin.end()
    a.end()
    other = make("C")
    check("belongs to another node" in other.expect("claim 2 3", "UNKNOWN").why, "C")
    other.end()
    other = Node(probe, spec + ",replace", "C", "--timeout", "20000")
    other.expect("claim 2 3", "GRANTED", 3, "C")
    other.end()
    b.expect("look", "RECORD", 3, "C")
    b.end()
    with open(path, "r+b") as f:
        f.seek(20)
        f.write(b"x")
    b = make("B")
    check("no witness's block" in b.expect("look", "UNKNOWN").why, "a damaged block")
    b.end()
    os.unlink(path)
    with open(path, "wb") as f:
        f.truncate(8192)
    race(make, 1200, 30, rng)


class Etcd:
    """Some members of one etcd."""

    def __init__(self, tmp, n, *more, scheme="http"):
        self.dir = tempfile.mkdtemp(dir=tmp)
        self.more = list(more)
        self.scheme = scheme
        self.n = n
        self.p = [None] * n
        self.base = random.SystemRandom().randrange(20000, 30000)
        for i in range(n):
            self.start(i)

    def client(self, i):
        return self.base + 2 * i

    def url(self, i):
        return "%s://127.0.0.1:%d" % (self.scheme, self.client(i))

    def urls(self):
        return ",".join(self.url(i) for i in range(self.n))

    def start(self, i):
        old = os.path.exists(os.path.join(self.dir, "m%d" % i))
        cluster = ",".join("m%d=http://127.0.0.1:%d" % (k, self.client(k) + 1) for k in range(self.n))
        cmd = ["etcd", "--name", "m%d" % i, "--data-dir", os.path.join(self.dir, "m%d" % i),
               "--listen-client-urls", self.url(i), "--advertise-client-urls", self.url(i),
               "--listen-peer-urls", "http://127.0.0.1:%d" % (self.client(i) + 1),
               "--initial-advertise-peer-urls", "http://127.0.0.1:%d" % (self.client(i) + 1),
               "--initial-cluster", cluster, "--initial-cluster-state", "existing" if old else "new",
               "--log-level", "error", "--logger", "zap", "--log-outputs", os.path.join(self.dir, "log")] + self.more
        self.p[i] = subprocess.Popen(cmd, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def signal(self, i, sig):
        self.p[i].send_signal(sig)

    def kill(self, i):
        self.p[i].kill()
        self.p[i].wait()
        self.p[i] = None

    def post(self, i, path, body):
        c = http.client.HTTPConnection("127.0.0.1", self.client(i), timeout=5)
        c.request("POST", path, json.dumps(body))
        return json.loads(c.getresponse().read())

    def leader(self):
        """Number of the member that leads."""
        for i in range(self.n):
            if self.p[i]:
                s = self.post(i, "/v3/maintenance/status", {})
                if s.get("leader") and s["leader"] == s["header"]["member_id"]:
                    return i
        return None

    def end(self):
        for i in range(self.n):
            if self.p[i]:
                self.signal(i, signal.SIGCONT)
                self.kill(i)


class Lossy:
    """Stands before an etcd member, passes each transaction on, and keeps the first answer to itself."""

    def __init__(self, port):
        outer = self
        self.lost = 0

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                c = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
                c.request("POST", self.path, body)
                data = c.getresponse().read()
                if self.path.endswith("/txn") and not outer.lost:
                    outer.lost += 1
                    self.close_connection = True
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        self.s = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.s.serve_forever, daemon=True).start()
        self.url = "http://127.0.0.1:%d" % self.s.server_address[1]


def test_etcd(probe, tmp, rng):
    e = Etcd(tmp, 3)
    try:
        def make(x):
            return Node(probe, "etcd:" + e.urls(), x, "--timeout", "10000")

        a, b = make("A"), make("B")
        check(a.at_last("look", "RECORD").generation == 0, "a record in an empty etcd")
        a.expect("claim 0 1", "GRANTED", 1, "A")
        b.expect("look", "RECORD", 1, "A")
        b.expect("claim 0 1", "LOST", 1, "A")
        a.expect("claim 0 1", "GRANTED", 1, "A")
        b.expect("claim 1 2", "GRANTED", 2, "B")
        a.expect("claim 1 2", "LOST", 2, "B")
        check("forgotten" in a.expect("claim 7 8", "UNKNOWN").why, "forgotten")
        text = subprocess.run(["etcdctl", "--endpoints", e.url(0), "get", "--print-value-only", "/lockstep/web/generation"],
                              env=dict(os.environ, ETCDCTL_API="3"), stdout=subprocess.PIPE, check=True, text=True).stdout
        check(json.loads(text) == {"generation": 2, "owner": "42" * 16}, text)

        # An answer that is lost: the claim is granted, and looking shows it.
        lossy = Lossy(e.client(0))
        c = Node(probe, "etcd:" + lossy.url, "B", "--timeout", "10000")
        c.expect("claim 2 3", "GRANTED", 3, "B")
        check(lossy.lost == 1, "no answer was lost")
        c.end()
        a.end()
        b.end()
        race(make, 200, 6, rng)

        # A member that accepts connections and answers nothing; it is the first one to be asked.
        a = make("A")
        e.signal(0, signal.SIGSTOP)
        now = a.at_last("look", "RECORD").generation
        e.signal(0, signal.SIGCONT)
        a.end()

        # The leader dies: the others choose a new one meanwhile.
        a = Node(probe, "etcd:" + e.urls(), "A", "--timeout", "20000")
        dead = until("a leader", e.leader)
        a.expect("look", "RECORD", now)
        e.kill(dead)
        a.expect("claim %d %d" % (now, now + 1), "GRANTED", now + 1, "A")
        a.end()

        # No quorum: nobody knows, and says so in time; it comes back, and the claim is granted.
        a = Node(probe, "etcd:" + e.urls(), "A", "--timeout", "1000", "--probe", "200")
        a.at_last("look", "RECORD")
        second = next(i for i in range(3) if e.p[i])
        e.kill(second)
        got = a.expect("claim %d %d" % (now + 1, now + 2), "UNKNOWN")
        check(got.ms < 5000, "a limit of 1 s, and it took %d ms" % got.ms)
        until("a warning", lambda: a.health and a.health[-1][0] == "down")
        e.start(second)
        a.at_last("claim %d %d" % (now + 1, now + 2), "GRANTED")
        until("no warning", lambda: a.health[-1][0] == "up")
        a.end()
        print("a member stopped, the leader killed, no quorum: as expected (%d ms of 1000 until UNKNOWN)" % got.ms)
    finally:
        e.end()


def test_hostile(probe, tmp, rng):
    """What is no etcd, or lies."""
    replies = [
        (200, b"", "JSON gateway"),
        (200, b"[]", "JSON gateway"),
        (200, b"{\"kvs\":[]}", "JSON gateway"),
        (200, b"{\"header\":{},\"kvs\":[{}]}", "is empty"),
        (200, b"{\"header\":{},\"kvs\":[{\"value\":\"!!!!\"}]}", "no record"),
        (200, b"{\"header\":{},\"kvs\":[{\"value\":\"aGFsbG8=\"}]}", "no record"),
        (200, b"{\"header\":{}" + b" " * 70000 + b"}", "more than 65536"),
        (200, b"{\"header\":" + b"{\"a\":" * 1000, "JSON gateway"),
        (500, b"{\"error\":\"etcdserver: no leader\"}", "no leader"),
        (403, b"{\"error\":\"etcdserver: permission denied\"}", "permission denied"),
        (302, b"", "HTTP status 302"),
    ]
    now = [None]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            status, body, _ = now[0]
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Location", "file:///etc/passwd")
            self.end_headers()
            try:
                self.wfile.write(body)
            except OSError:
                pass

        def log_message(self, *_):
            pass

    s = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=s.serve_forever, daemon=True).start()
    a = Node(probe, "etcd:http://127.0.0.1:%d" % s.server_address[1], "A", "--timeout", "400")
    for r in replies:
        now[0] = r
        # A busy machine may let the time run out before the answer is there; asked again it is told.
        until(r[2], lambda: r[2] in a.expect("claim 1 2", "UNKNOWN").why)
    a.end()
    # A port where nobody is, and one where somebody is and says nothing.
    quiet = socket.create_server(("127.0.0.1", 0))
    for port in (1, quiet.getsockname()[1]):
        a = Node(probe, "etcd:http://127.0.0.1:%d" % port, "A", "--timeout", "200")
        a.expect("look", "UNKNOWN")
        a.end()
    print("%d answers that are none" % len(replies))


def certificates(tmp):
    """An authority, a server's and a client's certificate; and another authority."""
    def certtool(*args, template):
        path = os.path.join(tmp, "template")
        with open(path, "w", encoding="ascii") as f:
            f.write("\n".join(template) + "\nexpiration_days = 2\n")
        subprocess.run(["certtool", "--template", path] + list(args), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)

    def name(x):
        return os.path.join(tmp, x)

    for x in ("ca", "server", "client", "otherca"):
        subprocess.run(["certtool", "--generate-privkey", "--key-type", "ecdsa", "--outfile", name(x + ".key")],
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    for x in ("ca", "otherca"):
        certtool("--generate-self-signed", "--load-privkey", name(x + ".key"), "--outfile", name(x + ".pem"),
                 template=["cn = " + x, "ca", "cert_signing_key"])
    # etcd uses its own certificate as the gateway's client: both purposes, and no name (it would be taken for a user's).
    for x, t in (("server", ["tls_www_server", "tls_www_client", "ip_address = 127.0.0.1"]), ("client", ["tls_www_client"])):
        certtool("--generate-certificate", "--load-privkey", name(x + ".key"), "--load-ca-certificate", name("ca.pem"),
                 "--load-ca-privkey", name("ca.key"), "--outfile", name(x + ".pem"), template=["organization = lockstep"] + t)
    return name


def test_tls(probe, tmp, rng):
    name = certificates(tmp)
    e = Etcd(tmp, 1, "--cert-file", name("server.pem"), "--key-file", name("server.key"), "--trusted-ca-file", name("ca.pem"),
             "--client-cert-auth", "--bcrypt-cost", "4", scheme="https")
    tls = ",cacert=%s,cert=%s,key=%s" % (name("ca.pem"), name("client.pem"), name("client.key"))
    try:
        a = Node(probe, "etcd:" + e.url(0) + tls, "A", "--timeout", "10000")
        a.at_last("look", "RECORD")
        a.expect("claim 0 1", "GRANTED", 1, "A")
        a.end()
        # No authority that knows it, no certificate of our own, another authority, another name than the certificate's.
        for url, more, why in ((e.url(0), "", "certificate"), (e.url(0), ",cacert=" + name("ca.pem"), ""),
                               (e.url(0), tls.replace("/ca.pem", "/otherca.pem"), "certificate"),
                               (e.url(0).replace("127.0.0.1", "localhost"), tls, "certificate")):
            a = Node(probe, "etcd:" + url + more, "A", "--timeout", "500")
            # On a busy machine the time may be over before the certificate has been looked at.
            until(why, lambda: why in a.expect("look", "UNKNOWN").why)
            a.end()

        # With users.
        def ctl(*args):
            subprocess.run(["etcdctl", "--endpoints", e.url(0), "--cacert", name("ca.pem"), "--cert", name("client.pem"),
                            "--key", name("client.key")] + list(args), env=dict(os.environ, ETCDCTL_API="3"),
                           stdout=subprocess.DEVNULL, check=True)

        for u in ("root", "lock"):
            ctl("user", "add", "%s:geheim\"1" % u)
        ctl("role", "add", "lock")
        ctl("role", "grant-permission", "lock", "readwrite", "--prefix=true", "/lockstep/")
        ctl("user", "grant-role", "lock", "lock")
        ctl("user", "grant-role", "root", "root")
        ctl("auth", "enable")
        with open(name("password"), "w", encoding="ascii") as f:
            f.write("geheim\"1\n")
        with open(name("wrong"), "w", encoding="ascii") as f:
            f.write("geheim\n")
        a = Node(probe, "etcd:" + e.url(0) + tls, "A", "--timeout", "2000")
        a.expect("look", "UNKNOWN")
        a.end()
        a = Node(probe, "etcd:" + e.url(0) + tls + ",user=lock,password-file=" + name("wrong"), "A", "--timeout", "2000")
        a.expect("look", "UNKNOWN")
        a.end()
        user = "etcd:" + e.url(0) + tls + ",user=lock,password-file=" + name("password")
        a = Node(probe, user + ",prefix=/elsewhere", "A", "--timeout", "10000")
        check("permission denied" in a.expect("look", "UNKNOWN").why, "a key that is not allowed")
        a.end()
        a = Node(probe, user, "A", "--timeout", "10000")
        a.expect("look", "RECORD", 1)
        a.expect("claim 1 2", "GRANTED", 2)
        # It starts anew and knows the token no more.
        e.kill(0)
        e.start(0)
        a.at_last("look", "RECORD")
        a.expect("claim 2 3", "GRANTED", 3)
        a.end()
        print("certificates, a wrong authority, none, a wrong name; users, a wrong password, a token that is gone")
    finally:
        e.end()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("probe")
    ap.add_argument("what", choices=("disk", "etcd", "hostile", "tls"))
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = ap.parse_args()
    if not args.inside:
        user = [] if os.geteuid() == 0 else ["--map-root-user"]
        os.execvp("unshare", ["unshare", "--net"] + user + ["--", sys.executable] + sys.argv + ["--inside"])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    if args.what in ("etcd", "tls") and not shutil.which("etcd"):
        print("etcd is not installed (scripts/deps)")
        return 77
    seed = args.seed or random.SystemRandom().randrange(1, 1 << 31)
    print("seed %d" % seed, flush=True)
    # etcd's files are synced without end, and what they would survive is not the question here; the disk's must be on one.
    memory = args.what != "disk" and os.access("/dev/shm", os.W_OK)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="lockstep-witness-", dir="/dev/shm" if memory else "/var/tmp") as tmp:
        try:
            globals()["test_" + args.what](args.probe, tmp, random.Random(seed))
        except Failed as e:
            print("FAILED: %s" % e)
            return 1
        finally:
            for n in Node.all:
                if n.p.poll() is None:
                    n.kill()
    print("%.1f s" % (time.monotonic() - begun))
    return 0


if __name__ == "__main__":
    sys.exit(main())
