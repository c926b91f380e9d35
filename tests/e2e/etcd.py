# SPDX-License-Identifier: BSD-2-Clause
"""
A cluster of three etcd for a bed with a witness (Bed(witness=True)): Debian's etcd, in namespace e, which has a cable
to each node. The members talk with one another by loopback, so a cable's cut takes the witness from one node and from
nobody else; a member that is ended or stopped is missing for both.

Its gateway for JSON (/v3/...) is what this asks, and what a node asks. Keys and values are base64 there, numbers are
strings.
"""

import base64
import http.client
import json
import os
import shutil
import signal

import bed as bedlib
from bed import Skip, until

MEMBERS = 3
CLIENT_PORT, PEER_PORT, STEP = 2379, 2380, 10
PREFIX = "/lockstep/"
ASK = 5.0       # s until a question has failed (times PATIENCE)


def b64(text):
    return base64.b64encode(text.encode()).decode()


def unb64(text):
    return base64.b64decode(text).decode("utf-8", "replace")


def prefix_end(prefix):
    """The first key behind all those that begin so."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


class Etcd:
    """Started by the constructor; it has a leader when that returns. Its processes end with the bed."""

    def __init__(self, bed):
        if not shutil.which("etcd"):
            raise Skip("no etcd (Debian: etcd-server)")
        self.bed = bed
        self.procs = [None] * MEMBERS
        for i in range(MEMBERS):
            self.start(i)
        self.wait_leader()

    # -- members

    def start(self, i):
        """Starts a member, or starts it again with what it has on disk."""
        peers = ["m%d=http://127.0.0.1:%d" % (k, PEER_PORT + STEP * k) for k in range(MEMBERS)]
        own = peers[i].partition("=")[2]
        client = CLIENT_PORT + STEP * i
        self.procs[i] = self.bed.popen("e", [
            "etcd", "--name", "m%d" % i, "--data-dir", os.path.join(self.bed.dir, "etcd%d" % i),
            "--listen-peer-urls", own, "--initial-advertise-peer-urls", own,
            "--initial-cluster", ",".join(peers), "--initial-cluster-state", "new", "--initial-cluster-token", "bed",
            "--listen-client-urls", "http://0.0.0.0:%d" % client,
            "--advertise-client-urls", "http://127.0.0.1:%d" % client,
            "--logger", "zap", "--log-outputs", "stderr"], os.path.join(self.bed.logs, "etcd%d.log" % i))

    def kill(self, i):
        self.procs[i].kill()
        self.procs[i].wait(10, "etcd m%d" % i)

    def stop(self, i, on=True):
        """A member stands still (it takes connections and does not answer), or goes on."""
        self.procs[i].signal(signal.SIGSTOP if on else signal.SIGCONT)

    def leader(self):
        """The place of the member that leads as most of them say, or None."""
        names = {}
        said = []
        for i in range(MEMBERS):
            got = self.ask(i, "/v3/maintenance/status", {})
            if got:
                names[got["header"]["member_id"]] = i
                said.append(got.get("leader", "0"))
        for who in said:
            if who in names and said.count(who) > MEMBERS // 2:
                return names[who]
        return None

    def wait_leader(self, seconds=30):
        until(lambda: self.leader() is not None, seconds, "a leader of etcd", every=0.1)

    def no_quorum(self):
        """The leader and one more are stopped. Returns who, for heal()."""
        first = self.leader()
        gone = [first, (first + 1) % MEMBERS]
        for i in gone:
            self.stop(i)
        return gone

    def heal(self, gone):
        for i in gone:
            self.stop(i, on=False)
        self.wait_leader()

    # -- what is in it

    def ask(self, i, path, body, timeout=None):
        """One question to one member, from its own namespace; None when it has no good answer."""
        conn = http.client.HTTPConnection("127.0.0.1", CLIENT_PORT + STEP * i)
        try:
            conn.sock = self.bed.connect(CLIENT_PORT + STEP * i, "e", "127.0.0.1",
                                         timeout or (0.5 if self.procs[i].ended() else ASK))
            conn.request("POST", path, json.dumps(body))
            answer = conn.getresponse()
            text = answer.read()
            return json.loads(text) if answer.status == 200 else None
        except (OSError, http.client.HTTPException, ValueError):
            return None
        finally:
            conn.close()

    def call(self, path, body):
        """One question to whoever answers."""
        for i in range(MEMBERS):
            got = self.ask(i, path, body)
            if got is not None:
                return got
        raise bedlib.BedError("no member of etcd answers %s" % path)

    def get(self, prefix=PREFIX, revision=0):
        """{key: (value, revision of its last change)} of the keys that begin so, as they were at a revision."""
        got = self.call("/v3/kv/range", {"key": b64(prefix), "range_end": b64(prefix_end(prefix)),
                                         "revision": str(revision)})
        return {unb64(kv["key"]): (unb64(kv.get("value", "")), int(kv["mod_revision"])) for kv in got.get("kvs", [])}

    def put(self, key, value):
        self.call("/v3/kv/put", {"key": b64(key), "value": b64(value)})

    def history(self, key):
        """All values that a key has had, in order."""
        values, revision = [], 0
        while True:
            got = self.get(key, revision).get(key)
            if not got:
                return values[::-1]
            values.append(got[0])
            revision = got[1] - 1
            if not revision:
                return values[::-1]

    def option(self, node, more=""):
        """What a node is given to use it."""
        urls = ["http://%s:%d" % (bedlib.WITNESS_IP[node.name][1], CLIENT_PORT + STEP * i) for i in range(MEMBERS)]
        return ["--witness", "etcd:" + ",".join(urls) + more]
