#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""
tests/data/qemu/record.py [BINARY] - records what a QEMU answers to the questions of src/engine/probeqmp.c

Writes MAJOR.MINOR.json beside this file, one answer a line. Of the schema only what can be reached from the commands
in KEEP is kept, and what says nothing about names is left out.

  tests/data/qemu/record.py                     the installed one
  scripts/qemu10 tests/data/qemu/record.py      bookworm-backports'
"""

import json
import os
import socket
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
QUESTIONS = [("query-version", None), ("query-machines", None), ("qom-list-types", {"implements": "accel"}),
             ("query-qmp-schema", None)] + [("qom-list-properties", {"typename": t}) for t in
                                            ("machine", "migration", "memory-backend-file")]
KEEP = ("netdev_add", "stop", "cont", "query-status", "system_reset", "xen-save-devices-state", "snapshot-load",
        "query-jobs", "job-dismiss", "qom-list-properties")
ARGV = ("-machine none -S -nodefaults -display none -monitor none -no-user-config -chardev socket,id=qmp,fd=%d "
        "-mon chardev=qmp,mode=control")


def reachable(schema):
    entries = {e["name"]: e for e in schema}
    todo, kept = list(KEEP), set()
    while todo:
        e = entries.get(todo.pop())
        if not e or e["name"] in kept:
            continue
        kept.add(e["name"])
        todo += [e[k] for k in ("arg-type", "element-type") if k in e]
        todo += [m["type"] for k in ("members", "variants") for m in e.get(k, []) if "type" in m]
    return [e for e in schema if e["name"] in kept]


def trimmed(cmd, ret):
    if cmd == "query-qmp-schema":
        return reachable(ret)
    if cmd == "query-machines":
        return [{k: m[k] for k in ("name", "alias", "is-default", "deprecated") if k in m} for m in ret]
    if cmd == "qom-list-properties":
        return [{"name": p["name"], "type": p["type"]} for p in ret]
    return ret


def ask(binary):
    ours, theirs = socket.socketpair()
    with theirs:
        p = subprocess.Popen([binary] + (ARGV % theirs.fileno()).split(), stdin=subprocess.DEVNULL,
                             pass_fds=[theirs.fileno()])
    answers = []
    try:
        with ours, ours.makefile("rw", encoding="utf-8") as f:
            json.loads(f.readline())
            for cmd, args in [("qmp_capabilities", None)] + QUESTIONS:
                q = {"execute": cmd, "arguments": args} if args else {"execute": cmd}
                f.write(json.dumps(q) + "\n")
                f.flush()
                a = json.loads(f.readline())
                if "return" in a:
                    q["return"] = trimmed(cmd, a["return"])
                answers.append(q)
    finally:
        p.kill()
        p.wait()
    return answers[1:]


def main():
    answers = ask(sys.argv[1] if len(sys.argv) > 1 else "qemu-system-x86_64")
    v = answers[0]["return"]["qemu"]
    path = os.path.join(HERE, "%d.%d.json" % (v["major"], v["minor"]))
    with open(path, "w", encoding="utf-8") as f:
        f.write("[\n" + ",\n".join(json.dumps(a, separators=(",", ":")) for a in answers) + "\n]\n")
    print(path)


if __name__ == "__main__":
    main()
