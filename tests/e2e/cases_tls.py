# SPDX-License-Identifier: BSD-2-Clause
"""The link by TLS: pairs with a key and with certificates, what a capture shows, and nodes that do not fit."""

import mmap
import os
import signal
import subprocess
import tempfile

from bed import LOCKSTEP, NODE_IP, VM_NAME, Machine, until
from cases_again import conns, dies, roles
from harness import case, must, note, same, say
from load import Load

SECRET = "the-guests-memory-is-nobodys-business"


def run(*argv):
    p = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                       timeout=60, check=False)
    must(not p.returncode, "%s: exit %d: %s", " ".join(argv), p.returncode, p.stdout[-500:])


def key(directory, name="keys.psk", user="qemu"):
    path = os.path.join(directory, name)
    run("psktool", "-u", user, "-p", path)
    return path


class Authority:
    """A CA, which makes a directory for a node, with QEMU's names."""

    def __init__(self, directory):
        self.dir = directory
        os.makedirs(directory)
        self.key, self.cert = self.path("ca-key.pem"), self.path("ca-cert.pem")
        run("certtool", "--generate-privkey", "--key-type=ecdsa", "--outfile", self.key)
        run("certtool", "--generate-self-signed", "--load-privkey", self.key, "--outfile", self.cert,
            "--template", self.template("ca", "ca", "cert_signing_key"))

    def path(self, name):
        return os.path.join(self.dir, name)

    def template(self, name, *lines):
        with open(self.path(name + ".tmpl"), "w", encoding="ascii") as f:
            f.write("\n".join(("cn = \"%s\"" % name, "expiration_days = 3") + lines) + "\n")
        return f.name

    def node(self, name, address):
        d = self.path(name)
        os.mkdir(d)
        with open(self.cert, "rb") as src, open(os.path.join(d, "ca-cert.pem"), "wb") as dst:
            dst.write(src.read())
        for who in ("server", "client"):
            pem = [os.path.join(d, "%s-%s.pem" % (who, what)) for what in ("key", "cert")]
            run("certtool", "--generate-privkey", "--key-type=ecdsa", "--outfile", pem[0])
            run("certtool", "--generate-certificate", "--load-ca-certificate", self.cert, "--load-ca-privkey", self.key,
                "--load-privkey", pem[0], "--outfile", pem[1], "--template",
                self.template("%s-%s" % (name, who), "tls_www_" + who, "signing_key", "ip_address = \"%s\"" % address))
        return d


def small(**more):
    return Machine(mem=256, **more)


def encrypted(bed, by):
    for node in (bed.a, bed.b):
        s = node.status()
        same(s["link"]["encrypted"], by, "what node %s says of its link" % node.name)
        must(not any("not encrypted" in w for w in s["warnings"]), "node %s warns: %s", node.name, s["warnings"])
        must("not encrypted" not in node.said(), "node %s warns in its log", node.name)
        must("encrypted: " + by in node.cli("status", VM_NAME).stdout, "status for people does not say it")


def life(bed, by, a_options, b_options):
    """Load, the primary dies, its connections live on; it comes back and stands by; then the other one dies."""
    options = {"a": a_options, "b": b_options}
    machine = small()
    bed.start_pair(machine, a_options=a_options, b_options=b_options)
    encrypted(bed, by)
    with Load(bed, conns()) as load:
        load.wait_answers(5, 60)
        gaps = [dies(bed, bed.a, load)]
        bed.a.start("joiner", machine, options["a"])
        bed.wait_protected(90, server=bed.b)
        roles(bed, bed.b)
        encrypted(bed, by)
        load.wait_answers(5, 60)
        gaps.append(dies(bed, bed.b, load))
        note("gaps %s; %d answers", ", ".join("%.0f ms" % (1000 * g) for g in gaps), load.answers())
        must("closed by its kernel" in bed.a.said(), "the end of the connections was no death: %s", bed.a.tail())
        load.finish()


@case("e2e", "tls", timeout=240)
def tls_psk(bed):
    """A pair whose nodes have the same key; one of them as a directory, as QEMU takes it."""
    run("psktool", "-u", "joe", "-p", os.path.join(bed.dir, "keys.psk"))
    options = ["--psk-user", "joe", "--psk-file"]
    life(bed, "psk", options + [bed.dir], options + [os.path.join(bed.dir, "keys.psk")])


@case("tls", timeout=240)
def tls_x509(bed):
    """A pair with certificates of one CA, each node its own."""
    ca = Authority(os.path.join(bed.dir, "pki"))
    life(bed, "x509", *(["--tls-dir", ca.node(n, NODE_IP[n])] for n in "ab"))


class Wire:
    """All that passes on the link, in a file."""

    def __init__(self, bed, name):
        self.path = os.path.join(bed.dir, name + ".pcapng")
        self.log = os.path.join(bed.logs, name + ".log")
        self.proc = bed.popen("a", ["dumpcap", "-q", "-i", "link0", "-B", "64", "-w", self.path], self.log)

        def begun():
            must(not self.proc.ended(), "dumpcap has ended")
            return os.path.exists(self.path) and os.path.getsize(self.path) > 0
        until(begun, 20, "the capture")

    def end(self):
        """Bytes that were captured, and how often each of the given words is in them."""
        self.proc.signal(signal.SIGINT)
        self.proc.wait(20, "dumpcap")

    def count(self, *words):
        found = []
        with open(self.path, "rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as m:
            for w in words:
                n, at = 0, m.find(w)
                while at >= 0:
                    n, at = n + 1, m.find(w, at + 1)
                found.append(n)
            return [len(m)] + found


@case("tls", timeout=300)
def tls_capture(bed):
    """What the guest has in its memory is on the wire without TLS, and not with it; nor is anything of the protocol."""
    machine = small(append="secret=" + SECRET)
    secret = SECRET.encode()
    psk = ["--psk-file", key(bed.dir)]
    seen = {}
    for name, options in (("plain", []), ("psk", psk)):
        wire = Wire(bed, name)
        bed.start_pair(machine, options)
        bed.a.checkpoint()
        wire.end()
        seen[name] = wire.count(secret, b"LKS1", VM_NAME.encode() + b"\0")
        say("%s: %s", name, seen[name])
        for node in (bed.a, bed.b):
            node.quit()
        for node in (bed.a, bed.b):
            node.proc.wait(20, "node " + node.name)
            open(node.console, "w").close()
    must(seen["plain"][1] > 0 and seen["plain"][2] > 100, "the capture has not seen what it must: %s", seen)
    must(seen["psk"][0] > seen["plain"][0] / 4, "the capture of the encrypted link is too small: %s", seen)
    same(seen["psk"][1], 0, "how often the secret was on the wire")
    # Four bytes come by chance once in four gigabytes.
    must(seen["psk"][2] < 4, "the link's protocol was on the wire: %s", seen)


def misfit(bed, a_options, b_options, a_says, b_says):
    """Two nodes that are not made for each other; both say it. Who speaks TLS does not begin the VM: the other may have it."""
    machine = small()
    bed.b.start("secondary", machine, b_options)
    until(lambda: bed.b.must_live() or bed.b.status(), 15, "node b's control socket")
    bed.a.start("primary", machine, a_options)
    for node, says in ((bed.a, a_says), (bed.b, b_says)):
        until(lambda n=node, s=says: n.must_live() or s in n.said(), 30, "node %s saying %r" % (node.name, says))
    if a_options:
        until(lambda: "not begun yet: somebody answers" in bed.a.said(), 30, "node a waiting")
        must(bed.a.state() == "init", "node a has begun the VM: %s", bed.a.state())
    else:
        until(lambda: bed.a.state() == "alone", 30, "node a alone")
    must(not bed.a.status()["link"]["connected"], "they are connected")
    must("not connected" in bed.a.said() and "dropped" in bed.b.said(), "logs")
    for node in (bed.a, bed.b):
        node.quit()
        node.proc.wait(20, "node " + node.name)


@case("e2e", "tls", timeout=200)
def tls_misfits(bed):
    """Another key, no TLS on either side, a key against certificates: said on both nodes, and nobody hangs."""
    one, two = (["--psk-file", key(bed.dir, n)] for n in ("one.psk", "two.psk"))
    certs = ["--tls-dir", Authority(os.path.join(bed.dir, "pki")).node("a", NODE_IP["a"])]
    misfit(bed, one, two, "does not accept this side's key", "has another key")
    misfit(bed, one, [], *2 * ("the node that connects speaks TLS and the one that listens does not",))
    misfit(bed, [], one, *2 * ("the node that listens speaks TLS and the one that connects does not",))
    misfit(bed, certs, one, "does not accept this side's certificate", "has another key, or none")


@case("e2e", "tls", bed=False)
def tls_refused():
    """Key files that others can read, and the rest that cannot work, is refused with a sentence."""
    with tempfile.TemporaryDirectory(prefix="lockstep-tls-") as d:
        path = key(d)
        base = [LOCKSTEP, "run", "--name", "web", "--run-dir", d, "--listen", "192.0.2.2:9998", "--no-witness"]
        qemu = ["--", "qemu-system-x86_64", "-m", "64"]

        def refused(options, sentence):
            p = subprocess.run(base + options + qemu, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, timeout=30, check=False)
            must(p.returncode in (1, 2) and sentence in p.stdout, "%s: exit %d: %r does not say %r", options,
                 p.returncode, p.stdout, sentence)

        refused([], "--psk-file")
        refused(["--psk-file", path, "--tls-dir", d], "exclude each other")
        refused(["--psk-user", "joe"], "goes with --psk-file")
        refused(["--psk-file", path, "--psk-user", "joe"], "no key of the user \"joe\"")
        refused(["--tls-dir", d], "ca-cert.pem, which TLS needs, cannot be read")
        refused(["--psk-file", os.path.join(d, "none")], "cannot be read")
        os.chmod(path, 0o640)
        refused(["--psk-file", path], "is open to others (mode 0640)")
        refused(["--psk-file", d], "is open to others (mode 0640)")
