#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""
The demo: two nodes in network namespaces, a client that increments a Redis counter on one TCP connection and checks
every answer, and after ten seconds kill -9 for everything of the primary. scripts/demo builds what is needed first.

Exit status 0 when the connection lived, the gap was under one second (--gap-limit) and the counter is exact; 1 when it was not so;
2 when the demo could not be made.
"""

import argparse
import contextlib
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from bed import CLIENT_IP, GUEST_IP, NODE_IP, PATIENCE, Bed, BedError, Machine, Skip, tidy_signals, until  # noqa: E402
from load import Incr, Load, ms, percentile, tcp_info  # noqa: E402

AFTER = 4        # seconds that the client goes on after the kill
TTY = sys.stdout.isatty()


def line(head, text):
    print("%-14s %s" % (head, text), flush=True)


def bold(text):
    return "\033[1m%s\033[0m" % text if TTY else text


class Progress:
    """One line that changes in place on a terminal, a line now and then elsewhere."""

    def __init__(self, head):
        self.head, self.last, self.at, self.drawn = head, None, 0.0, False

    def show(self, text):
        now = time.monotonic()
        if text == self.last or (not TTY and now - self.at < 1.0):
            return
        self.last, self.at = text, now
        if TTY:
            print("\r\033[K%-14s %s" % (self.head, text), end="", flush=True)
            self.drawn = True
        else:
            line(self.head, text)

    def done(self):
        if self.drawn:
            print("\r\033[K", end="", flush=True)


def bar(percent, width=30):
    n = int(width * percent / 100)
    return "[%s%s] %3.0f %%" % ("#" * n, "." * (width - n), percent)


def come_up(bed, machine, begun):
    """Until the guest has booted and the pair is protected, side by side; shows how the secondary is filled."""
    shown = Progress("synchronising")
    booted = [False]
    synced = [0.0]

    def good():
        bed.a.must_live()
        bed.b.must_live()
        s = bed.a.status() or {}
        if not booted[0] and bed.booted(bed.a):
            booted[0] = True
            shown.done()
            line("guest", "Linux and Redis are up in %d MB, on stock QEMU %s (%s), %.1f s after the start" % (
                machine.mem, s.get("qemu", {}).get("version", ""), machine.accel, time.monotonic() - begun))
        sync = s.get("sync")
        if sync:
            done, left = sync["bytes_done"] / 1e6, sync["bytes_left"] / 1e6
            shown.show("%s   %.0f MB sent, %.0f MB left, round %d" % (bar(sync["percent"] or 0), done, left,
                                                                    sync["round"]))
        elif s.get("state") == "protected" and not synced[0] and bed.b.state() == "standby":
            synced[0] = time.monotonic()
            shown.done()
            c = s["checkpoints"]["last"]
            line("protected", "%.1f s after the start, by a first checkpoint of %.0f MB and a pause of %.1f ms" % (
                synced[0] - begun, c["bytes"] / 1e6, c["pause_ms"]))
        elif not synced[0]:
            shown.show("waiting (%s)" % s.get("state", "starting"))
        return booted[0] and synced[0]
    until(good, 90, lambda: "a booted and protected guest (a: %s, b: %s)" % (bed.a.state(), bed.b.state()), every=0.05)
    shown.done()


HEAD = "%9s %10s %10s %10s %12s %10s   %s" % ("time", "requests", "p50", "p99", "checkpoints", "pause", "state")


def row(second, conn, node, seen):
    """One line of the table: what the last second was like. seen: number of answers shown so far."""
    latest = list(conn.latency)[seen:]
    s = node.status() or {}
    c = s.get("checkpoints") or {}
    pause = (c.get("pause_ms") or {}).get("last")
    print("%7d s %10d %10s %10s %12s %10s   node %s: %s" % (
        second, len(latest), ms(percentile(latest, 50)), ms(percentile(latest, 99)), c.get("total", "-"),
        "-" if pause is None else "%.1f ms" % pause, node.name, s.get("state", "no answer")), flush=True)
    return seen + len(latest)


def run(bed, machine, seconds, gap_limit):
    begun = time.monotonic()
    line("starting", "the secondary on node b, then the primary on node a")
    bed.b.start("secondary", machine)
    until(lambda: bed.b.must_live() or bed.b.status(), 15, "node b's control socket")
    bed.a.start("primary", machine)
    come_up(bed, machine, begun)
    bed.wait_ready(bed.a)
    bed.wait_protected()

    conn = Incr("demo")
    survived, kill_at, gap = False, None, 0.0
    with Load(bed, [conn]) as load:
        load.wait_answers(1, 20)
        info = tcp_info(conn.sock)
        line("client", "Redis INCR on one TCP connection (timestamps %s, SACK %s), each answer checked" % (
            "on" if info["timestamps"] else "OFF", "on" if info["sack"] else "OFF"))
        print("\n" + bold(HEAD), flush=True)
        seen, node = 0, bed.a
        clock = time.monotonic()
        for second in range(1, seconds + AFTER + 1):
            time.sleep(max(0.0, clock + second - time.monotonic()))
            seen = row(second, conn, node, seen)
            if second == seconds and not conn.error:
                pids = bed.a.proc.pid, bed.a.qemu_process().pid
                conn.gap = 0.0
                kill_at = bed.kill(bed.a, "both")
                node = bed.b
                print(bold("%-9s node a: Lockstep (pid %d) and QEMU (pid %d)" % (("  kill -9",) + pids)), flush=True)
        print(flush=True)
        if kill_at:
            # On a slow machine a gap that is still good may be longer than what was shown.
            with contextlib.suppress(BedError):
                until(lambda: conn.error or conn.heard > kill_at, gap_limit / PATIENCE, "an answer after the kill")
        answers_after = conn.heard > kill_at if kill_at else False
        gap = load.gap()
        try:
            load.finish(10)
            survived = answers_after
        except Exception as e:  # pylint: disable=broad-except
            line("client", "complains: %s" % e)
        info = bed.b.status() or {}
        if info.get("failover"):
            f = info["failover"]
            line("failover", "node b took over in %.1f ms (%s)" % (f["took_ms"], f["reason"]))
    good = survived and not conn.lost and not conn.doubled and not conn.resets and gap < gap_limit
    if survived and gap >= gap_limit:
        line("client", "the gap is not under %g s" % gap_limit)
    print("demo: connection %s, gap %.0f ms, requests %d, lost %d, doubled %d, resets %d" % (
        "survived" if survived else "did not survive", gap * 1000, conn.answers, conn.lost, conn.doubled,
        conn.resets), flush=True)
    return 0 if good else 1


def main():
    ap = argparse.ArgumentParser(description="The demo; see scripts/demo.")
    ap.add_argument("--seconds", type=int, default=10, help="seconds until the primary is killed (default 10)")
    ap.add_argument("--machine", default="pc", help="pc or q35 (default pc)")
    ap.add_argument("--nic", default="virtio-net-pci", help="e1000 and others need guest/build --generic")
    ap.add_argument("--mem", type=int, default=512, metavar="MB")
    ap.add_argument("--accel", default="tcg", help="tcg or kvm (default tcg, which runs anywhere)")
    ap.add_argument("--gap-limit", type=float, default=1.0, metavar="S", help="the longest gap that is good (default 1)")
    ap.add_argument("--logs", help="directory to keep the nodes' logs in")
    args = ap.parse_args()
    tidy_signals()
    print(bold("Lockstep: one VM on two nodes, and a client that goes on when one of them dies") + "\n")
    line("node a", "%s, primary     tap0 - br0 --+" % NODE_IP["a"])
    line("node b", "%s, secondary   tap0 - br0 --+-- switch -- client %s" % (NODE_IP["b"], CLIENT_IP))
    line("guest", "%s, the same address wherever it runs\n" % GUEST_IP)
    try:
        with Bed(args.logs) as bed:
            try:
                return run(bed, Machine(args.machine, args.nic, args.mem, args.accel), max(1, args.seconds), args.gap_limit)
            except (BedError, OSError):
                for node in (bed.a, bed.b):
                    for text in node.said().splitlines()[-6:]:
                        line("node %s said" % node.name, text)
                raise
    except Skip as e:
        print("demo: cannot run here: %s" % e, file=sys.stderr)
        return 2
    except (BedError, OSError) as e:
        print("demo: failed: %s" % e, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
