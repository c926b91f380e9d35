# SPDX-License-Identifier: BSD-2-Clause
"""
A flood of SYNs for connections that will never be, beside connections that are.

The rate is more than the emulated guest can answer: it drops packets, and the clients wait for seconds, with plain QEMU
as well. What is judged is the proxy: the connections live, nothing grows, and the limits hold.
"""

import os
import re
import sys
import time

from bed import GUEST_IP, GUEST_IP6, HERE, SERVICE_PORT
from clients import Party
from harness import case, must, note, say, seed_from
from load import Count, Incr, Upload, ms, percentile
from wires import GUEST_MAC

CLOSED_PORT = 4444
GROWTH = 16     # MiB that a node may grow by in the second half of a flood
COUNTERS = ("drop_syn", "drop_pool", "drop_room", "drop_held", "flows_evicted", "flows_embryo_evicted", "flows_full",
            "limit_flow", "limit_held", "limit_bytes", "limit_flows")


def resident(node):
    """MiB of a node's lockstep that are in memory. `ip netns exec` has become the program that it started."""
    with open("/proc/%d/status" % node.proc.pid, encoding="utf-8") as f:
        return int(re.search(r"^VmRSS:\s+(\d+) kB", f.read(), re.M)[1]) / 1024


def flood(bed, count, rate):
    bed.start_pair(options=["--checkpoint-delay", "1000"])
    conns = [Incr("r4", interval=0.02), Incr("r6", interval=0.02, host=GUEST_IP6), Count(interval=0.02),
             Upload(1 << 18, seed=seed_from(), interval=0.2)]
    with Party(bed, conns) as party:
        party.wait_answers(3, 60)
        before, first = [resident(n) for n in (bed.a, bed.b)], bed.a.status()
        log = os.path.join(bed.logs, "flooder.log")
        sender = bed.popen("c", [sys.executable, os.path.join(HERE, "flooder.py"), "eth0", str(count), str(rate),
                                 GUEST_MAC, GUEST_IP, GUEST_IP6, str(SERVICE_PORT), str(CLOSED_PORT)], log)
        begun, flows, half = time.monotonic(), 0, None
        while not sender.ended():
            time.sleep(0.2)
            party.check()
            net = bed.a.status()["net"]
            flows = max(flows, net["flows"])
            if not half and net["tap_in"] - first["net"]["tap_in"] > count / 2:
                half = [resident(n) for n in (bed.a, bed.b)]
            must(net["flows"] < net["limits"]["flows"], "the flow table is full: %s", net)
        with open(log, encoding="utf-8") as f:
            say("%s after %.1f s", f.read().strip(), time.monotonic() - begun)
        party.wait_answers(3, 60)
        end, last = [resident(n) for n in (bed.a, bed.b)], bed.a.status()
        for node in (bed.a, bed.b):
            say("node %s: %s", node.name, {k: n for k, n in node.status()["net"].items() if n})
        counted = {k: last["net"][k] - first["net"][k] for k in COUNTERS if last["net"][k] > first["net"][k]}
        note("%d SYNs in %.0f s, %d checkpoints, at most %d flows, %s, MiB %s then %s then %s, gap %s, redis p50 %s",
             count, time.monotonic() - begun, last["checkpoints"]["total"] - first["checkpoints"]["total"], flows,
             counted, *(" ".join("%.0f" % x for x in m) for m in (before, half or [], end)), ms(party.gap()),
             ms(percentile(conns[0].latency, 50)))
        must(half, "no half of the flood was seen")
        must(max(e - h for e, h in zip(end, half)) < GROWTH, "grown from %s to %s MiB", half, end)
        must(counted.get("flows_embryo_evicted", 0) + counted.get("drop_syn", 0) > 0, "no limit was met: %s", counted)
        party.forget()
        bed.kill(bed.a)
        bed.wait_alone(bed.b)
        party.wait_answers(5, 60)
        note("gap of the failover %s", ms(party.gap()))
        party.finish()


@case(timeout=120, bed={"v6": True})
def syn_flood(bed):
    flood(bed, 40000, 5000)


@case("traffic", timeout=900, bed={"v6": True})
def syn_flood_of_a_million(bed):
    flood(bed, 1000000, 5000)
