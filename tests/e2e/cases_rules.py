# SPDX-License-Identifier: BSD-2-Clause
"""What is compared, let through, held, and waited for: rules at run time, hybrid mode, settings of one NIC."""

import contextlib
import signal
import time

from bed import GUEST_IP, SERVICE_PORT, UDP_PORT, VM_NAME, until
from cases_capture import Capture
from clients import udp_socket
from harness import case, must, note, same, say
from load import Ask, Count, Load, Random, ms, percentile
from wires import ETH1

RULES = ["bypass,proto=udp,port=%d" % UDP_PORT, "hold,proto=tcp,guest-port=%d" % SERVICE_PORT]
BUSY = 3        # checkpoints that other things may cost meanwhile


def spent(bed, done):
    """What done() costs in checkpoints, by cause; and what the network's counters of node a have grown by."""
    before = bed.a.status()
    done()
    after = bed.a.status()
    causes = {k: n - before["checkpoints"]["by_cause"][k] for k, n in after["checkpoints"]["by_cause"].items()}
    net = {k: n - before["net"][k] for k, n in after["net"].items() if type(n) is int}
    say("checkpoints %s", {k: n for k, n in causes.items() if n})
    return {k: n for k, n in causes.items() if n}, {k: n for k, n in net.items() if n}


def ask_random(bed, n):
    """n questions whose answers the two copies give differently; each is answered once. The answers."""
    answers = []
    with udp_socket(bed, GUEST_IP) as s:
        s.settimeout(15)
        for _ in range(n):
            s.send(b"r")
            answers.append(s.recv(100))
        s.settimeout(0.3)
        with contextlib.suppress(TimeoutError):
            must(False, "%d questions, and one answer more: %r", n, s.recv(100))
    must(len(set(answers)) == n and all(len(a) == 32 for a in answers), "answers: %s", answers)
    return answers


def count(conn, n):
    for _ in range(n):
        want = getattr(conn, "want", 0) + 1
        same(conn("count"), "%d" % want, "count")
        conn.want = want


def rules(node):
    got = node.call("rule", VM_NAME, "list")
    same([r["rule"] for r in node.status()["net"]["rules"]], got["rules"], "status and list of node " + node.name)
    return got["rules"]


@case()
def rules_at_run_time(bed):
    """bypass: the primary's answers, at once and once. hold: each with a checkpoint. Both outlive the primary."""
    n = 20
    bed.start_pair(options=["--no-hybrid"])
    with Ask(bed) as conn:
        causes, _ = spent(bed, lambda: ask_random(bed, n))
        # One that is due anyway serves as well; and the last answer leaves before its checkpoint is over and counted.
        must(sum(causes.values()) >= n - 1, "compared: %d different answers cost %s", n, causes)
        must(causes.get("mismatch", 0) > n / 2, "compared: %d different answers cost %s", n, causes)
        causes, _ = spent(bed, lambda: count(conn, n))
        must(sum(causes.values()) <= BUSY, "compared: %d equal answers cost %s", n, causes)

        for rule in RULES:
            bed.a.call("rule", VM_NAME, "add", rule)
        same(rules(bed.a), RULES, "rules of node a")
        until(lambda: rules(bed.b) == RULES, 10, lambda: "the same rules at node b: %s" % rules(bed.b))
        must(bed.b.cli("rule", VM_NAME, "clear").returncode, "node b has changed its rules")

        pvm, svm = Capture(bed.a, "pvm", "--point", "pvm"), Capture(bed.b, "svm", "--point", "svm")
        answers = []
        causes, net = spent(bed, lambda: answers.extend(ask_random(bed, n)))
        must(sum(causes.values()) <= BUSY, "bypass: %d different answers cost %s", n, causes)
        must(net.get("bypassed", 0) >= n - 1, "bypassed: %s", net)
        seen = []
        for capture in (pvm, svm):
            capture.end()
            with open(capture.path, "rb") as f:
                data = f.read()
            seen.append(sum(a in data for a in answers))
        same(seen, [n, 0], "answers that the PVM has given, and the SVM")

        causes, net = spent(bed, lambda: count(conn, n))
        must(sum(causes.values()) >= n - 1, "hold: %d answers rode on the checkpoints %s", n, causes)
        must(net.get("released_staged", 0) >= n - 1, "hold: released with a checkpoint: %s", net)

        bed.kill(bed.a)
        bed.wait_alone(bed.b)
        same(rules(bed.b), RULES, "rules of node b, alone")
        count(conn, n)
        ask_random(bed, n)
        # It is the one who is asked now.
        bed.b.call("rule", VM_NAME, "delete", "1")
        same(rules(bed.b), RULES[1:], "rules of node b after its own change")


def mode(bed):
    return bed.a.status()["net"]["mode"]


@case("traffic")
def hybrid_mode(bed):
    """Where answers keep differing, checkpoints become periodic by themselves, and stop when answers agree again."""
    bed.start_pair()
    same(mode(bed), "comparing", "mode at first")
    with Load(bed, [Random() for _ in range(8)]) as load:
        begun = time.monotonic()
        until(lambda: load.errors() or mode(bed) == "hybrid", 15, "hybrid mode")
        took = time.monotonic() - begun
        causes, _ = spent(bed, lambda: load.wait_answers(30, 60))
        load.finish()
    must(causes.get("periodic", 0) > sum(causes.values()) / 2, "checkpoints in hybrid mode: %s", causes)
    with Load(bed, [Count(interval=0.01) for _ in range(8)]) as load:
        until(lambda: load.errors() or mode(bed) == "comparing", 40, "comparing once more")
        agreed, _ = spent(bed, lambda: load.wait_answers(50, 60))
        load.finish()
    same(mode(bed), "comparing", "mode at the end")
    note("hybrid after %s; %s; then %s for 400 equal answers", ms(took), causes, agreed or "no checkpoint")
    must(sum(agreed.values()) <= 4, "400 equal answers cost the checkpoints %s", agreed)


def hybrid_case(options, name):
    @case("bench", timeout=200, name=name)
    def run(bed):
        """Answers that differ on every connection, 10 s for each number of connections."""
        bed.start_pair(options=options)
        for n in (1, 20):
            with Load(bed, [Random(ask_last=False) for _ in range(n)]) as load:
                load.wait_answers(10, 60)
                load.forget()
                begun, answers = time.monotonic(), load.answers()
                causes, _ = spent(bed, lambda: time.sleep(10))
                load.check()
                rate = (load.answers() - answers) / (time.monotonic() - begun)
                note("%d connections: %.0f answers/s, p50 %s p99 %s, checkpoints %s, %s", n, rate,
                     ms(percentile(load.latencies(), 50)), ms(percentile(load.latencies(), 99)), causes, mode(bed))
                load.finish()
    return run


hybrid_case([], "divergence_hybrid")
hybrid_case(["--no-hybrid"], "divergence_no_hybrid")


@case("traffic", bed={"nics": 2})
def settings_per_nic(bed):
    """What is held because the SVM stands is timed by the setting of the NIC that it is to leave by."""
    bed.start_pair(options=["--nic", "n0,compare_timeout=60000", "--nic", "n1,compare_timeout=300",
                            "--qemu-timeout", "30000"])
    same([n["compare_timeout_ms"] for n in bed.a.status()["net"]["nics"]], [60000, 300], "settings")
    qemu = bed.b.qemu_process()

    def timeouts(ask):
        """Checkpoints by timeout for one question that the SVM cannot answer for a second."""
        def asked():
            qemu.signal(signal.SIGSTOP)
            try:
                ask.sock.sendall(b"count\n")
                time.sleep(1)
                ask.sock.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    must(False, "answered without the SVM: %r", ask.sock.recv(100))
            finally:
                ask.sock.settimeout(20)
                qemu.signal(signal.SIGCONT)
            must(ask.file.readline().strip().isdigit(), "the answer")
            bed.a.call("checkpoint", VM_NAME, timeout=60)  # one that lets the answer out is counted at its end
        return spent(bed, asked)[0].get("timeout", 0)
    with Ask(bed) as first, Ask(bed, host=ETH1[0]) as second:
        for ask in (first, second):
            same(ask("count"), "1", "count")
        same([timeouts(first), timeouts(second)], [0, 1], "checkpoints by timeout, by NIC")
        r = bed.a.cli("set", VM_NAME, "n0.compare-timeout=300", "n1.compare-timeout=60000")
        same(r.returncode, 0, "exit status of lockstep set (%s)" % r.stderr.strip())
        same([timeouts(first), timeouts(second)], [1, 0], "checkpoints by timeout, the other way round")
