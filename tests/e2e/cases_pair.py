# SPDX-License-Identifier: BSD-2-Clause
"""A pair as a user has it: it comes up, is seen, is commanded, ends."""

import json
import re
import signal
import time

from bed import VM_NAME, LOCKSTEP, Machine, until
from harness import case, must, note, same, say
from load import Ask, Count, Incr, Load, Random, ms, percentile, tcp_info
import subprocess


def mixed_load(bed, seed=1):
    return Load(bed, [Incr("a", depth=4), Incr("b", depth=1), Count(), Random()])


def five_checkpoints_and_a_failover(bed, machine, env=None, before=None, after=None):
    """before() is called before the node is killed, after() when the other one serves."""
    bed.start_pair(machine, a_env=env, b_env=env)
    with mixed_load(bed) as load:
        for i in range(5):
            load.wait_answers(5, 20)
            bed.a.call("checkpoint", VM_NAME, timeout=30)
            say("checkpoint %d: %d answers so far", i + 1, load.answers())
        load.wait_answers(5, 20)
        info = tcp_info(load.conns[0].sock)
        must(info["timestamps"] and info["sack"], "timestamps and SACK are not on: %s", info)
        for c in load.conns:
            c.gap = 0
        p50 = pause(bed.a)
        if before:
            before()
        bed.kill(bed.a, "both")
        bed.wait_alone(bed.b)
        load.wait_answers(20, 30)
        if after:
            after()
        note("gap %s, checkpoint pause p50 %.1f ms", ms(load.gap()), p50)
        load.finish()


def pause(node):
    return node.status()["checkpoints"]["pause_ms"]["p50"]


@case()
def pc_virtio(bed):
    five_checkpoints_and_a_failover(bed, Machine("pc", "virtio-net-pci"))


@case()
def q35_e1000(bed):
    five_checkpoints_and_a_failover(bed, Machine("q35", "e1000"))


@case("machines")
def pc_rtl8139(bed):
    five_checkpoints_and_a_failover(bed, Machine("pc", "rtl8139"))


@case("machines")
def smp2(bed):
    five_checkpoints_and_a_failover(bed, Machine("q35", "virtio-net-pci", extra=["-smp", "2"]))


@case()
def status_shows_it(bed):
    """Everything that issue and manual promise of status, on both nodes, as JSON and for people."""
    bed.start_pair()
    with Load(bed, [Incr("a"), Random()]) as load:
        load.wait_answers(10, 20)
        bed.a.call("checkpoint", VM_NAME)
        load.finish()
    a, b = bed.a.status(), bed.b.status()
    same((a["role"], a["state"], b["role"], b["state"]), ("primary", "protected", "secondary", "standby"), "roles")
    c = a["checkpoints"]
    must(c["by_cause"]["first"] == 1 and c["by_cause"]["command"] == 1, "by cause: %s", c["by_cause"])
    must(c["by_cause"]["mismatch"] > 0, "the random bytes cost no checkpoint: %s", c["by_cause"])
    same(c["total"], sum(c["by_cause"].values()), "the sum of the causes")
    for key in ("pause_ms", "pages", "bytes"):
        must(c[key]["last"] is not None and c[key]["p50"] is not None and c[key]["p50"] <= c[key]["max"],
             "%s: %s", key, c[key])
    must(a["epoch"] > 1, "epoch %s", a["epoch"])
    must("held" in a["net"] and a["net"]["released_compared"] > 0, "net: %s", a["net"])
    must(a["link"]["connected"] and b["link"]["connected"], "link: %s %s", a["link"], b["link"])
    for node, s in ((bed.a, a), (bed.b, b)):
        same(s["lockstep"]["pid"], node.proc.pid, "lockstep's pid")
        must(re.match(r"\d+\.\d+", s["qemu"]["version"] or ""), "QEMU's version: %s", s["qemu"])
        with open("/proc/%d/cmdline" % s["qemu"]["pid"], "rb") as f:
            must(b"qemu-system" in f.read(), "pid %d is not QEMU", s["qemu"]["pid"])
        must(any("split brain" in w for w in s["warnings"]), "status does not warn of split brain: %s", s["warnings"])
        must("split brain" in node.said(), "the log does not warn of split brain")
        must("not encrypted" in node.said(), "the log does not warn of the open link")
    text = bed.a.cli("status", VM_NAME).stdout
    for word in ("protected", "primary", "192.0.2.130"):
        must(word in text, "status for people lacks %r:\n%s", word, text)
    say("%s", text)


@case()
def checkpoint_command(bed):
    bed.start_pair()
    before = bed.a.status()["checkpoints"]
    for _ in range(3):
        got = bed.a.call("checkpoint", VM_NAME)
        same(got["cause"], "command", "cause")
        must(got["pause_ms"] > 0 and got["steps_ms"]["save"] > 0, "%s", got)
    after = bed.a.status()["checkpoints"]
    same(after["by_cause"]["command"] - before["by_cause"]["command"], 3, "checkpoints by command")
    must(len(re.findall(r"pages", bed.a.said())) >= 3, "checkpoints are not in the log")
    r = bed.b.cli("checkpoint", VM_NAME)
    must(r.returncode != 0 and r.stderr.strip(), "the secondary made a checkpoint by command")


@case()
def failover_command(bed):
    """On the secondary's host: take over."""
    bed.start_pair()
    with mixed_load(bed) as load:
        load.wait_answers(20, 20)
        bed.b.call("failover", VM_NAME, timeout=20)
        bed.wait_alone(bed.b)
        load.wait_answers(20, 20)
        until(bed.a.proc.ended, 15, "the old primary's end")
        note("gap %s", ms(load.gap()))
        load.finish()


@case("again")
def hand_over_command(bed):
    """On the primary's host: hand over and end."""
    bed.start_pair()
    with mixed_load(bed) as load:
        load.wait_answers(20, 20)
        r = bed.a.cli("failover", VM_NAME, timeout=20)
        must(r.returncode == 0, "lockstep failover: %d %s", r.returncode, r.stderr)
        bed.wait_alone(bed.b)
        load.wait_answers(20, 20)
        until(bed.a.proc.ended, 15, "the old primary's end")
        note("gap %s", ms(load.gap()))
        load.finish()


@case()
def guest_poweroff(bed):
    """A guest that goes off ends both nodes, in order: nobody takes over, nobody complains."""
    bed.start_pair()
    q = [bed.a.qemu_process(), bed.b.qemu_process()]
    with Ask(bed) as ask:
        same(ask("poweroff"), "ok", "poweroff")
    same([n.proc.wait(30, "node " + n.name) for n in (bed.a, bed.b)], [0, 0], "exit statuses")
    until(lambda: all(p.ended() for p in q), 5, "the end of both QEMUs")
    must(not re.search(r"alone|promot|took over", bed.b.said().split("standby")[-1]),
         "node b took the power-off for a death: %s", bed.b.tail())


@case(timeout=180)
def guest_reboot(bed):
    """A guest that resets stays protected: afterwards a failover finds it as it is."""
    bed.start_pair()
    with Ask(bed) as ask:
        same(ask("gcount"), "1", "gcount")
        same(ask("reboot"), "ok", "reboot")
    until(lambda: len(re.findall(r"^lockstep-guest: ready\r?$", bed.a.console_said(), re.M)) == 2, 60, "second ready")
    until(lambda: bed.reaches(7000), 20, "the service")
    bed.wait_protected()
    must(bed.a.status()["checkpoints"]["by_cause"]["reset"] >= 1, "the reset cost no checkpoint")
    with mixed_load(bed) as load:
        load.wait_answers(20, 20)
        bed.kill(bed.a)
        load.wait_answers(20, 20)
        load.finish()


@case("liveness")
def set_checkpoint_delay(bed):
    """An idle VM makes checkpoints as often as it is told to."""
    bed.start_pair()
    bed.a.cli("set", VM_NAME, "checkpoint-delay=200")
    before, begun = bed.a.status()["checkpoints"]["by_cause"]["delay"], time.monotonic()
    until(lambda: bed.a.status()["checkpoints"]["by_cause"]["delay"] >= before + 10, 20, "ten checkpoints")
    note("10 in %.1f s, pause p50 %.1f ms", time.monotonic() - begun, pause(bed.a))
    bed.a.cli("set", VM_NAME, "checkpoint-delay=20000")


@case()
def events_tell(bed):
    """`lockstep events` gives JSON lines, one for each checkpoint, and ends with the node."""
    bed.start_pair()
    p = subprocess.Popen(["ip", "netns", "exec", bed.a.ns, LOCKSTEP, "events", VM_NAME, "--run-dir", bed.a.run_dir],
                         stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    try:
        until(lambda: bed.a.status()["monitor"]["watchers"] >= 1, 10, "the watcher")
        for _ in range(3):
            bed.a.call("checkpoint", VM_NAME)
        bed.a.proc.signal(signal.SIGTERM)
        out, _ = p.communicate(timeout=30)
    finally:
        p.kill()
        p.wait()
    events = [json.loads(line) for line in out.splitlines()]
    done = [e for e in events if e["event"] == "__LOCKSTEP_CHECKPOINT"]
    must(len(done) >= 3, "events: %s", [e["event"] for e in events])
    must(all(e["data"]["pause_ms"] > 0 for e in done), "%s", done[0])


@case()
def orderly_end(bed):
    """SIGTERM to the secondary leaves the primary alone; SIGTERM to that ends the VM. No QEMU stays behind."""
    bed.start_pair()
    q = [bed.a.qemu_process(), bed.b.qemu_process()]
    with Load(bed, [Incr("a"), Count()]) as load:
        load.wait_answers(20, 20)
        bed.b.proc.signal(signal.SIGTERM)
        same(bed.b.proc.wait(15, "node b"), 0, "node b's exit status")
        bed.wait_alone(bed.a)
        load.wait_answers(20, 20)
        load.finish()
    bed.a.proc.signal(signal.SIGTERM)
    same(bed.a.proc.wait(15, "node a"), 0, "node a's exit status")
    until(lambda: all(p.ended() for p in q), 5, "the end of both QEMUs")


@case("bench")
def latency_beside_plain_qemu(bed):
    """No judgement, two figures: what protection costs one client that waits for each answer."""
    def measure():
        with Load(bed, [Incr("lat")]) as load:
            load.wait_answers(200, 20)
            load.forget()
            time.sleep(3)
            values = load.latencies()
            load.finish()
        return values
    bed.a.start_plain()
    bed.wait_ready(bed.a)
    plain = measure()
    bed.a.proc.kill()
    bed.a.proc.wait(5)
    bed.a.console += ".2"
    bed.start_pair()
    ours = measure()
    note("plain p50 %s p99 %s, protected p50 %s p99 %s", ms(percentile(plain, 50)), ms(percentile(plain, 99)),
         ms(percentile(ours, 50)), ms(percentile(ours, 99)))
    must(len(ours) > 50, "only %d answers in 3 s", len(ours))
