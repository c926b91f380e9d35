# SPDX-License-Identifier: BSD-2-Clause
"""
What the cases about arbitration have in common: a pair with a witness, clients whose history can be judged, a sniffer
at both TAPs, and the verdict on all of it at the end (Arena.verdict):

- at no time two nodes let frames out: they spoke in the order in which the witness knows them as owners (sniff.py)
- what the clients saw is the work of one machine (lincheck.py)
- where there was a rightful survivor it served within the time in which the fault was noticed, and half a second.

That half second is meant for a machine which has time. Here two guests are emulated on what may be a busy machine, so
what a case allows grows by the longest pause that the same clients have seen in the same run while nothing was wrong.
"""

import contextlib
import json
import os
import time

import bed as bedlib
import sniff
from bed import BedError, Machine, until
from etcd import Etcd
from faults import Cuts
from harness import must, note, say, seed_from
from load import ms
from registers import CLIENTS, Probe, Registers

TIMEOUT = 0.5           # s, --timeout's default: silence of the peer that counts as its death, and the lease
QEMU_TIMEOUT = 3.0      # s, --qemu-timeout's default
AGAIN = 0.5             # s from there on until somebody serves
KEY = "/lockstep/%s/generation" % bedlib.VM_NAME
CALM = 3.0              # s in which it is measured what pauses are usual here


def small():
    return Machine(mem=256)


class Arena:
    """
    Use as a context manager; it starts everything, and returns when the clients are served. witness: False is for a
    pair without one (--no-witness), whose order of speaking the case must know. env: {node's name: environment}.
    """

    def __init__(self, bed, machine=None, witness=True, options=(), clients=CLIENTS, env=None):
        self.bed, self.machine, self.witness = bed, machine or small(), witness
        self.options, self.clients, self.env = list(options), clients, env or {}
        self.seed = seed_from()
        self.thaws, self.quiet, self.grace = [], [], 0.0
        self.stack = contextlib.ExitStack()

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            self.sniffer = sniff.Sniffer(self.bed)
            self.etcd = Etcd(self.bed) if self.witness else None
            self.cuts = stack.enter_context(Cuts(self.bed))
            self.bed.start_pair(self.machine, a_options=self.words(self.bed.a), b_options=self.words(self.bed.b),
                                a_env=self.env.get("a"), b_env=self.env.get("b"))
            self.registers = stack.enter_context(Registers(self.bed, self.seed, self.clients))
            self.probe = stack.enter_context(Probe(self.bed))
            self.registers.wait_answers(5 * self.clients, 60)
            self.calm()
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *exc):
        self.stack.close()

    # -- the nodes

    def words(self, node):
        """What a node is given beside what all are given, at each of its starts."""
        words = [x.replace("@DIR@", node.dir) for x in self.options]
        return words + (self.etcd.option(node) if self.witness else [])     # without one the bed says so

    def other(self, node):
        return self.bed.b if node is self.bed.a else self.bed.a

    def again(self, node):
        """A node that has ended is started once more, by the command of its first start."""
        node.start("primary" if node is self.bed.a else "secondary", self.machine, self.words(node),
                   self.env.get(node.name))

    def states(self):
        return {n.name: "ended" if not n.proc or n.proc.ended() else n.state() for n in (self.bed.a, self.bed.b)}

    def server(self):
        """The node that serves, or None when it is none, or not to be seen."""
        for n in (self.bed.a, self.bed.b):
            if n.proc and not n.proc.ended():
                s = n.status()
                if s and s["role"] == "primary" and s["state"] in ("alone", "sync", "protected"):
                    return n
        return None

    def wait_server(self, seconds=20, node=None):
        found = []

        def good():
            found[:] = [self.server()]
            return found[0] and (node is None or found[0] is node)
        until(good, seconds, lambda: "node %s that serves (%s)" % (node.name if node else "", self.states()), every=0.1)
        return found[0]

    def wait_protected(self, seconds=90, restart=True):
        """
        Until the pair is one again, whoever serves; nodes that have ended meanwhile are started again (as an init
        system would). Returns the node that serves.
        """
        def good():
            for n in (self.bed.a, self.bed.b):
                if restart and n.proc.ended():
                    say("node %s has ended (%s) and is started again", n.name, n.proc.popen.returncode)
                    self.again(n)
            return sorted(map(str, self.states().values())) == ["protected", "standby"]
        until(good, seconds, lambda: "protection (%s)" % self.states(), every=0.2)
        self.bed.a.qemu_process()
        self.bed.b.qemu_process()
        return self.server()

    # -- time

    def calm(self):
        """Measures what pauses the clients see while nothing is wrong; of several measurements the worst counts."""
        self.check()
        begin = time.monotonic()
        self.probe.back(begin, 30)
        until(lambda: self.check() or time.monotonic() - begin >= CALM, CALM + 5, "a calm time", every=0.2)
        pause = self.probe.pause(begin, time.monotonic())
        self.grace = max(self.grace, pause)
        say("the longest pause in a calm time is %s", ms(pause))

    def back(self, fault, detection, what="service"):
        """
        Somebody serves again after a fault at that time (CLOCK_MONOTONIC), noticed in detection seconds; how long it
        took.
        """
        took = self.probe.back(fault, 60) - fault
        limit = (detection + AGAIN) * bedlib.PATIENCE + 2 * self.grace
        note("%s back in %s (noticed in %s, calm pause %s)", what, ms(took), ms(detection), ms(self.grace))
        must(took <= limit, "%s was back after %.3f s, wanted %.3f s", what, took, limit)
        return took

    def silent(self, since, seconds=2.0):
        """Nobody answers any question that is asked from then on, for so long; no frame at all leaves (verdict())."""
        until(lambda: self.check() or time.monotonic() - since >= seconds, seconds + 10, "a time of silence")
        n = self.probe.answered_since(since)
        must(not n, "somebody answered %d questions that were asked when nobody may serve", n)
        begin = since + time.time() - time.monotonic()
        self.quiet.append((begin, begin + seconds))

    def check(self):
        self.registers.check()
        self.probe.check()

    # -- the verdict

    def owners(self):
        """The nodes in the order in which the witness knows them as owners, one generation each: "aab"."""
        names, tags = {}, []
        for n in (self.bed.a, self.bed.b):
            names[self.node_id(n)] = n.name
        for value in self.etcd.history(KEY):
            tags.append(names[json.loads(value)["owner"]])
        return "".join(tags)

    @staticmethod
    def node_id(node):
        """What the witness knows a node by; it stands in the node's state file."""
        path = os.path.join(node.run_dir, bedlib.VM_NAME + ".state")
        with open(path, encoding="utf-8") as f:
            for line in f:
                if line.startswith("node "):
                    return line.split()[1]
        raise BedError("%s names no node" % path)

    def verdict(self, turns=None, unbroken=False):
        """
        The end of a case. turns: needed without a witness; unbroken: no client's connection may have been lost. Gives
        the sniffer's verdict.
        """
        self.check()
        said = self.registers.finish()
        frames = self.sniffer.finish()
        turns = turns or self.owners()
        v = sniff.judge(frames, turns, self.thaws)
        note("%s; turns %s; %s", said, turns, v)
        must(not v.complaints, "two nodes let frames out: %s", "; ".join(v.complaints[:5]))
        must(v.spoke, "the sniffer has seen nothing")
        loud = [f for f in frames for begin, end in self.quiet if begin <= f.when <= end]
        must(not loud, "%d frames when nobody may speak, the first of node %s", len(loud), loud and loud[0].tag)
        if unbroken:
            must(not self.registers.breaks(), "%d connections were lost", self.registers.breaks())
        return v
