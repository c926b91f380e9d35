# SPDX-License-Identifier: BSD-2-Clause
"""What people and service managers see of a pair: a configuration file, the condition, watching, events, the black box."""

import json
import os
import pty
import select
import shlex
import signal
import socket
import subprocess
import threading
import time

from bed import LOCKSTEP, PATIENCE, ROOT, VM_NAME, Machine, Process, Skip, until
from harness import case, must, note, same, say


class Manager:
    """A service manager's notify socket of one node."""

    def __init__(self, bed, node):
        self.path = os.path.join(bed.dir, node.name + ".notify")
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(self.path)
        self.got = []
        # The kernel keeps ten datagrams; a manager reads them at once.
        threading.Thread(target=self.read, daemon=True).start()

    def env(self):
        return {"NOTIFY_SOCKET": self.path, "WATCHDOG_USEC": "1000000"}

    def read(self):
        while True:
            self.got += self.sock.recv(4096).decode().splitlines()

    def words(self):
        return list(self.got)

    def wait(self, word, seconds):
        until(lambda: any(w.startswith(word) for w in self.words()), seconds, lambda: "%s (%s)" % (word, self.got[-5:]))


def config(node, role, machine):
    """The node's command line as a configuration file."""
    argv = node.lockstep_argv(role, machine)[2:]
    cut = argv.index("--")
    lines, words = ["# made by a test"], argv[:cut]
    while words:
        w = words.pop(0)[2:]
        if words and not words[0].startswith("--"):
            w += " = " + words.pop(0)
        lines.append(w)
    lines += ["", "[qemu]"] + [shlex.quote(w) for w in argv[cut + 1:]]
    path = os.path.join(node.dir, role + ".conf")
    with open(path, "w", encoding="utf-8") as f:
        f.write("\n".join(lines) + "\n")
    return path


def start(bed, node, role, machine, manager):
    node.bed.used.add(node.name)
    node.qemu = None
    node.proc = node.popen([LOCKSTEP, "run", "--config", config(node, role, machine)], env=manager.env())


def follow(node, log, *words):
    """A lockstep command that goes on and on, into a file."""
    path = os.path.join(node.bed.logs, log)
    return node.popen([LOCKSTEP] + list(words) + ["--run-dir", node.run_dir], log=path), path


def read(path):
    with open(path, encoding="utf-8", errors="replace") as f:
        return f.read()


def events(path):
    return [json.loads(line) for line in read(path).splitlines() if line.startswith("{")]


def on_terminal(node):
    """status --watch on a terminal: it redraws in place, and q ends it."""
    pid, fd = pty.fork()
    if not pid:
        os.execv(LOCKSTEP, [LOCKSTEP, "status", VM_NAME, "--watch", "--run-dir", node.run_dir])
    seen, deadline = b"", time.monotonic() + 20 * PATIENCE
    while seen.count(b"\x1b[H") < 4:
        must(time.monotonic() < deadline, "the screen is not redrawn: %r", seen[-500:])
        if select.select([fd], [], [], 0.5)[0]:
            seen += os.read(fd, 65536)
    must(b"web: protected (primary" in seen and b"\x1b[K" in seen and b"\x1b[J" in seen, "the screen: %r", seen[:500])
    os.write(fd, b"q")
    code = until(lambda: ended(pid, fd), 10, "the end of status --watch by q")
    os.close(fd)
    must(code == "0", "status --watch ended by q: %s", code)


def ended(pid, fd):
    """The exit status as text, once there is one; what is written meanwhile is read, or the end would wait for it."""
    if select.select([fd], [], [], 0)[0]:
        try:
            os.read(fd, 65536)
        except OSError:
            pass  # the other side is closed
    done, status = os.waitpid(pid, os.WNOHANG)
    return str(os.waitstatus_to_exitcode(status)) if done else None


def word(node):
    return (node.status() or {}).get("condition")


@case(timeout=240)
def seen(bed):
    machine = Machine(mem=256)
    managers = {n.name: Manager(bed, n) for n in (bed.a, bed.b)}
    watch_a, watched_a = follow(bed.a, "a.watch", "status", VM_NAME, "--watch")
    follow_a, followed_a = follow(bed.a, "a.events", "events", VM_NAME, "--follow")
    until(lambda: "does not run here" in read(watched_a), 10, "a watch of what does not run yet")

    # Each is ready for itself: the one that stands by does not wait for the other.
    start(bed, bed.b, "secondary", machine, managers["b"])
    managers["b"].wait("READY=1", 30)
    until(lambda: word(bed.b) == "unprotected", 10, "node b unprotected")
    follow_b, followed_b = follow(bed.b, "b.events", "events", VM_NAME)
    start(bed, bed.a, "primary", machine, managers["a"])
    managers["a"].wait("READY=1", 30)
    bed.wait_ready(bed.a)
    bed.wait_protected()
    for n in (bed.a, bed.b):
        until(lambda: word(n) == "protected", 20, lambda: "node %s: %s" % (n.name, (n.status() or {}).get("condition_why")))
        managers[n.name].wait("STATUS=protected", 10)
        beats = managers[n.name].words().count("WATCHDOG=1")
        until(lambda: managers[n.name].words().count("WATCHDOG=1") > beats + 2, 10, "the watchdog's beats")
    must("NOTIFY_SOCKET" not in open("/proc/%d/environ" % bed.a.qemu_process().pid, encoding="utf-8",
                                     errors="replace").read(), "QEMU has NOTIFY_SOCKET in its environment")
    same(bed.a.cli("status", VM_NAME, "--short").stdout, "primary protected protected\n", "status --short")
    on_terminal(bed.a)
    r = bed.b.cli("blackbox", VM_NAME)
    must(r.returncode == 0 and r.stdout.startswith("No failover is among"), "blackbox before: %s%s", r.stdout[:300], r.stderr)

    # The primary dies.
    bed.kill(bed.a, "both")
    bed.wait_alone(bed.b)
    s = bed.b.status()
    same(s["condition"], "failed over", "condition")
    same(s["failed_over"]["reason"], "link closed", "reason")
    must(0 < s["failed_over"]["gap_ms"] < 60000 and s["failed_over"]["at"].endswith("Z"), "%s", s["failed_over"])
    must(not s["last_failover"], "last_failover is there already")
    note("gap %.1f ms", s["failed_over"]["gap_ms"])
    managers["b"].wait("STATUS=failed over", 5)
    box = os.path.join(bed.b.run_dir, VM_NAME + ".blackbox")
    until(lambda: os.path.exists(box), 10, "the black box")
    why = bed.b.cli("blackbox", VM_NAME).stdout
    say("%s", why.splitlines()[0])
    must("took over at" in why and "the peer's kernel closed all connections" in why and "ms after the last heartbeat" in why
         and "output was open" in why, "blackbox: %s", why[:500])
    must("\n> " in why and "standby -> " in why, "the steps: %s", why[:2000])
    got = bed.b.call("blackbox", box, "--last", "50")
    same((got["why"]["happened"], len(got["steps"])), ("took over", 50), "blackbox --json of the file")
    must(bed.b.call("blackbox", VM_NAME, "--now")["written"] == "command", "--now")
    names = [(e["event"], e["data"].get("step")) for e in events(followed_b)]
    for want in ("noticed", "promoted", "complete"):
        must(("__LOCKSTEP_FAILOVER", want) in names, "no event of the failover's step %s: %s", want, names)
    for want in ("STATE", "CONDITION", "LINK"):
        must(any(n == "__LOCKSTEP_" + want for n, _ in names), "no event %s", want)

    # And comes back.
    until(lambda: "does not run here" in read(watched_a).splitlines()[-1], 10, "the watch of a dead node")
    start(bed, bed.a, "joiner", machine, managers["a"])
    bed.wait_protected(90, server=bed.b)
    until(lambda: word(bed.b) == "protected", 20, "node b protected")
    s = bed.b.status()
    must(s["last_failover"] and not s["failed_over"], "last_failover: %s, failed_over: %s", s["last_failover"], s["failed_over"])
    until(lambda: "web: protected (secondary" in read(watched_a), 10, "the watch of a node that is back")
    must("web: synchronising (secondary" in read(watched_a), "the watch has not seen the synchronisation: %s", read(watched_a))
    must(watch_a.popen.poll() is None and follow_a.popen.poll() is None, "what watches node a has ended")
    names = [e["event"] for e in events(followed_a)]
    # One more when the node, which was the primary, has begun anew as the secondary.
    must(names.count("__LOCKSTEP_CONNECTED") in (2, 3), "connections of events --follow: %s", names)
    must("__LOCKSTEP_DISCONNECTED" in names and "__LOCKSTEP_CHECKPOINT" in names, "events of node a: %s", set(names))

    # The host that serves goes down: the VM does not.
    r = bed.b.cli("quit", "--hand-over", VM_NAME, timeout=60)
    same(r.returncode, 0, "quit --hand-over: " + r.stderr)
    bed.wait_alone(bed.a, 20)
    bed.b.proc.wait(20, "node b")
    managers["b"].wait("STOPPING=1", 1)
    must(bed.reaches(7000), "the service does not answer")
    follow_b.wait(10, "events of node b")
    watch_a.signal(signal.SIGINT)
    same(watch_a.wait(10, "status --watch"), 0, "status --watch ended by ^C")


OCF_ROOT = "/usr/lib/ocf"


class Agent:
    """The resource agent on one node, called as the cluster manager calls it."""

    def __init__(self, node, config_file):
        self.node, self.config = node, config_file

    def __call__(self, action, want, seconds=60, **env):
        r = subprocess.run(["ip", "netns", "exec", self.node.ns, os.path.join(ROOT, "integration/pacemaker/lockstep"), action],
                           env=dict(os.environ, OCF_ROOT=OCF_ROOT, OCF_RESOURCE_INSTANCE=VM_NAME, OCF_RESKEY_name=VM_NAME,
                                    OCF_RESKEY_config=self.config, OCF_RESKEY_run_dir=self.node.run_dir,
                                    OCF_RESKEY_binary=LOCKSTEP, OCF_RESKEY_log=self.node.log, **env),
                           stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                           timeout=seconds * PATIENCE, check=False)
        must(r.returncode == want, "%s on node %s: %d, wanted %d: %s", action, self.node.name, r.returncode, want, r.stdout)
        # What the agent has started ends with the bed, by its own name in the status.
        pid = ((self.node.status() or {}).get("lockstep") or {}).get("pid")
        if pid and pid != self.node.proc.pid:
            self.node.proc = Process(pid)
            self.node.bed.procs.append(self.node.proc)
            self.node.qemu = None
            self.node.status()


@case("again", timeout=280)
def resource_agent(bed):
    """Pacemaker's actions on a pair: the VM moves as they say, and never stops serving."""
    if not os.path.exists(OCF_ROOT + "/lib/heartbeat/ocf-shellfuncs"):
        raise Skip("resource-agents is not installed")
    machine = Machine(mem=256)
    bed.start_pair(machine)
    a = Agent(bed.a, config(bed.a, "joiner", machine))
    b = Agent(bed.b, config(bed.b, "secondary", machine))
    a("monitor", 8)
    b("monitor", 0)
    a("promote", 0)
    a("start", 0)
    b("demote", 0)
    a("demote", 0)
    until(lambda: bed.b.state() in ("alone", "sync", "protected"), 20, "node b serves")
    bed.wait_protected(90, server=bed.b)
    must(bed.reaches(7000), "the service does not answer on node b")
    a("monitor", 0)
    b("monitor", 8)
    b("monitor", 0, OCF_RESKEY_CRM_meta_role="Unpromoted")
    a("promote", 0, 120)
    must(bed.reaches(7000), "the service does not answer on node a")
    a("monitor", 8)
    b("start", 0)
    bed.wait_protected(90)
    # The standby is stopped, and the VM goes on; then it ends with the last one.
    b("stop", 0)
    b("monitor", 7)
    bed.wait_alone(bed.a, 20)
    must(bed.reaches(7000), "the service does not answer without a standby")
    a("stop", 0)
    a("monitor", 7)
