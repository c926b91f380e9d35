#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""
lincheck.py FILE - whether a history of registers is linearizable

A history is a list of operations on keys, each of which is a register: a write of a value that is written to that key
only once, or a read and what it gave (None: nothing has been written yet). Each has a time at which it was asked and
one at which its answer came. It is linearizable when every operation can be given one moment in between at which it
happened as a whole, so that each read gives what the last write before it wrote.

An operation without an answer is *unknown*: a write of this kind may have happened at any moment after it was asked, or
may never happen; a read of this kind says nothing.

Theory of operation

Keys do not meet, so each is judged by itself (Herlihy and Wing: linearizability is local). The search is Wing's and
Gong's, with Lowe's memory of where it has been: a state is the set of operations that have happened and the register's
value; the next one to happen is any that was asked before the first answer among those that have not. What makes it
fast is that a read changes nothing and a value is written once:

- a read that may happen now and gives the present value does so at once; to wait cannot help anybody;
- a write is no way on while a read of the present value has yet to happen; it would never see its value again;
- an unknown write whose value nobody has read is left out: never is always a possible time for it.

So what branches is only the order of writes that overlap, and there are about as many states as operations.

When there is no way, blame() finds out why in another manner (Gibbons and Korach): all that concerns one value, its
write and its reads, must happen in a row. If something of value v ended before something of w began, and something of
w ended before something of v began, they cannot. Two such values exist whenever the search fails; this is what people
get to read.
"""

import collections
import json
import math
import sys

MAX_STATES = 4000000    # of one key; more than any history here needs by far

# kind: "w" or "r"; value: a string, or None (only of a read); asked, answered: seconds, answered None when unknown
Op = collections.namedtuple("Op", "client key kind value asked answered")


class Undecided(Exception):
    """The search had to be given up."""


class Key:
    """The history of one register, made ready for the search."""

    def __init__(self, key, ops):
        self.key, self.wrong = key, None
        writes = {}
        for op in ops:
            if op.kind == "w":
                if op.value is None or op.value in writes:
                    raise ValueError("%s: %r is written twice" % (key, op.value))
                writes[op.value] = op
            if op.answered is not None and op.answered < op.asked:
                raise ValueError("%s was answered before it was asked" % text(op))
        read = {op.value for op in ops if op.kind == "r" and op.answered is not None}
        for op in ops:
            if op.kind == "r" and op.answered is not None and op.value is not None and op.value not in writes:
                self.wrong = "%s, which nobody has written" % text(op)
        self.ops = sorted((op for op in ops if op.answered is not None or (op.kind == "w" and op.value in read)),
                          key=lambda op: op.asked)
        self.asked = [op.asked for op in self.ops]
        self.end = [math.inf if op.answered is None else op.answered for op in self.ops]
        self.readers = collections.defaultdict(list)    # value -> places in ops
        for i, op in enumerate(self.ops):
            if op.kind == "r":
                self.readers[op.value].append(i)

    def next_ones(self, base, done):
        """Places of the operations that may happen next. done: a bit for each place from base on."""
        first, found = math.inf, []
        for i in range(base, len(self.ops)):
            if self.asked[i] > first:
                break
            if not done >> (i - base) & 1:
                first = min(first, self.end[i])
                found.append(i)
        return found

    def settle(self, base, done, value):
        """All reads that may happen happen. Returns (base, done, places of what may happen then)."""
        while True:
            places = self.next_ones(base, done)
            reads = [i for i in places if self.ops[i].kind == "r" and self.ops[i].value == value]
            if not reads:
                return base, done, places
            for i in reads:
                done |= 1 << (i - base)
            base, done = shorten(base, done)

    def unread(self, base, done, value):
        return any(i >= base and not done >> (i - base) & 1 for i in self.readers[value])

    def linearizable(self, limit=MAX_STATES):
        if self.wrong:
            return False
        # Bits of places below base are all set, and not kept.
        stack, seen = [(0, 0, None)], set()
        while stack:
            state = stack.pop()
            if state in seen:
                continue
            seen.add(state)
            if len(seen) > limit:
                raise Undecided("%s: given up after %d states" % (self.key, limit))
            value = state[2]
            base, done, places = self.settle(*state)
            if base == len(self.ops):
                return True
            if self.unread(base, done, value):
                continue
            writes = [i for i in places if self.ops[i].kind == "w"]
            for i in sorted(writes, key=lambda i: -self.end[i]):  # what ended first is tried first
                stack.append(shorten(base, done | 1 << (i - base)) + (self.ops[i].value,))
        return False

    def blame(self):
        """A sentence that says what cannot be, or None."""
        if self.wrong:
            return self.wrong
        groups = collections.defaultdict(list)
        for op, end in zip(self.ops, self.end):
            groups[op.value].append((op, op.asked, end))
        if None in groups:
            groups[None].append((Op("", self.key, "w", None, -math.inf, -math.inf), -math.inf, -math.inf))
        rows = []   # (end of what ended first, begin of what began last, these two, value)
        for value, members in groups.items():
            write = next(m for m in members if m[0].kind == "w")
            early = min(members, key=lambda m: m[2])
            if early[2] < write[1]:
                return "%s, before it was written: %s" % (text(early[0]), text(write[0]))
            late = max(members, key=lambda m: m[1])
            rows.append((early[2], late[1], early[0], late[0]))
        for v in rows:
            if v[0] >= v[1]:
                continue    # two values that both have one moment for all do not hinder each other
            for w in rows:
                if w is not v and v[0] < w[1] and w[0] < v[1]:
                    return "%s came before %s, but %s before %s" % (text(v[2]), text(w[3]), text(w[2]), text(v[3]))
        return None


def shorten(base, done):
    ones = (~done & (done + 1)).bit_length() - 1    # how many bits are set at the lower end
    return base + ones, done >> ones


def text(op):
    if op.asked == -math.inf:
        return "the empty beginning"
    times = "[%.6f, %s]" % (op.asked, "unknown" if op.answered is None else "%.6f" % op.answered)
    what = "write of %s" % op.value if op.kind == "w" else "read of %s" % ("nothing" if op.value is None else op.value)
    return "%s by %s %s" % (what, op.client, times)


def check(ops):
    """What is wrong with a history, a sentence for each key of which something is; nothing: it is linearizable."""
    keys = collections.defaultdict(list)
    for op in ops:
        keys[op.key].append(op)
    found = []
    for name, members in sorted(keys.items()):
        key = Key(name, members)
        if not key.linearizable():
            why = key.blame()
            if not why:
                raise Undecided("%s: no way was found, and nothing that is in the way" % name)
            found.append("%s: %s" % (name, why))
    return found


def save(path, ops):
    with open(path, "w", encoding="utf-8") as f:
        for op in ops:
            f.write(json.dumps(op) + "\n")


def saved(path):
    with open(path, encoding="utf-8") as f:
        return [Op(*json.loads(line)) for line in f if line.strip()]


def main(path):
    ops = saved(path)
    found = check(ops)
    print("\n".join(found) or "linearizable: %d operations, %d of them unknown" % (
        len(ops), sum(op.answered is None for op in ops)))
    return 1 if found else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: lincheck.py FILE")
    sys.exit(main(sys.argv[1]))
