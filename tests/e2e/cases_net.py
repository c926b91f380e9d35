# SPDX-License-Identifier: BSD-2-Clause
"""
Every kind of traffic at once, over IPv4 and over IPv6, and both nodes' programs killed in the middle: each TCP
connection goes on, no datagram is answered wrongly or twice. The single kinds, large, are in cases_bulk.py.
"""

import socket
import threading

from bed import CLIENT_IP, CLIENT_IP6, GUEST_IP, GUEST_IP6, UDP_PORT, VM_NAME, Machine, until
from clients import Announcements, Iperf, Party, Pieces, Pinger, Resolver, Web
from harness import case, moment, must, note, same, say, seed_from
from load import Called, Count, Download, Incr, LoadError, Random, Typist, Upload, ms, percentile, tcp_info, xxh64
from wires import ETH1, ETH1_6, VLAN_NET, VLAN_NET6

HOME = {GUEST_IP: CLIENT_IP, GUEST_IP6: CLIENT_IP6}
LOST = 5        # pings that may be lost when a node dies, at 20 a second
RETRIES = 4     # questions that a resolver may have to repeat


def gentle(host, seed=1):
    """TCP connections that ask a little, again and again; the guest has opened one of them."""
    return [Incr("k" + host, depth=2, interval=0.01, host=host), Count(interval=0.02, host=host),
            Random(interval=0.2, host=host), Typist(seed=seed, interval=0.05, host=host),
            Called(HOME[host], interval=0.02, host=host)]


def judge_datagrams(clients):
    for c in clients:
        if isinstance(c, Pinger):
            must(c.lost <= LOST, "%s: %d lost, %d answered", c.name, c.lost, c.answers)
        else:
            must(c.retries <= RETRIES, "%s: %d asked again, %d answered", c.name, c.retries, c.answers)


def kill_in_the_middle(bed, party, middle, n=5, streams=()):
    """The kill when middle() says so, with at least one of the streams under way; then n more answers for everybody."""
    until(lambda: party.errors() or middle(), 120, "the middle of the transfers", every=0.01)
    party.check()
    party.forget()
    bed.kill(bed.a)
    must(not streams or not all(s.answers for s in streams), "the transfers were over before the kill")
    bed.wait_alone(bed.b)
    party.wait_answers(n, 90)


def every_kind(bed, host, size=8 << 20, seconds=6):
    seed = seed_from()
    bed.start_pair()
    up, down = Upload(size, seed=seed, limit=1, host=host), Download(size, limit=1, host=host)
    udp, big = Resolver(bed, host, seed=seed, interval=0.05), Pieces(bed, host, seed=seed, interval=0.2)
    pings = [Pinger(bed, host), Pinger(bed, host, size=4000, interval=0.2)]
    web = Web(bed, host, interval=0.5)
    soft = gentle(host, seed)
    with Party(bed, soft, [web, udp, big] + pings) as quiet:
        quiet.wait_answers(2, 60)
        iperf = Iperf(bed, host, seconds, "10M")
        moment(0.5, 1.5)
        with Party(bed, [up, down]) as streams:
            kill_in_the_middle(bed, quiet, lambda: streams.errors() or (
                min(up.progress(), down.progress()) > 0.2 or max(up.progress(), down.progress()) > 0.6), 2, (up, down))
            streams.wait_answers(1, 120)
            rate = iperf.finish()
            must(min(rate[2]) > 0, "nothing went through iperf3's connections at the end: %s", rate)
            streams.finish()
        quiet.finish()
    typist = next(c for c in soft if isinstance(c, Typist))
    note("gap %s; iperf3 %.1f up, %.1f down Mbit/s; typist p50 %s worst %s; udp p50 %s, %d again; fragments %d, %d "
         "again; pings %d, lost %d", ms(quiet.gap()), rate[0] / 1e6, rate[1] / 1e6,
         ms(percentile(typist.latency, 50)), ms(max(typist.latency)), ms(percentile(udp.latency, 50)), udp.retries,
         big.answers, big.retries, sum(p.answers for p in pings), sum(p.lost for p in pings))
    judge_datagrams([udp, big] + pings)


@case("traffic", timeout=240)
def every_kind_over_ipv4(bed):
    every_kind(bed, GUEST_IP)


@case("traffic", timeout=240, bed={"v6": True})
def every_kind_over_ipv6(bed):
    every_kind(bed, GUEST_IP6)


def several_networks(bed, paths, size, machine=None):
    """Connections through each of the paths, (interface, the guest's address, the client's), a failover, announced."""
    bed.start_pair(machine)
    conns, streams = [], []
    for _, guest, home in paths:
        conns += [Incr("k" + guest, depth=2, interval=0.01, host=guest), Called(home, interval=0.02, host=guest)]
        streams += [Upload(size, limit=1, host=guest), Download(size, limit=1, host=guest)]
    with Party(bed, conns, [Pinger(bed, guest, interval=0.2) for _, guest, _ in paths]) as party, \
         Party(bed, streams) as bulk:
        party.wait_answers(3, 60)
        for c in streams:
            mss = tcp_info(c.sock)["mss"]
            must(bed.plan.mtu - 100 < mss < bed.plan.mtu, "%s: segments of %d bytes", c.name, mss)
        bed.a.call("checkpoint", VM_NAME, timeout=60)  # what the secondary goes on with shall have been loaded
        party.wait_answers(3, 60)
        heard = [Announcements(bed, dev, guest) for dev, guest, _ in paths]
        kill_in_the_middle(bed, party, lambda: bulk.errors() or sum(s.progress() for s in streams) > len(streams) / 4)
        bulk.wait_answers(1, 120)
        for h in heard:
            must(h.wait(5), "nobody announced %s on %s", h.address, h.interface)
        bulk.finish()
        party.finish()
        judge_datagrams(party.clients)
        note("gap %s over %s", ms(party.gap()), " ".join("%s/%s" % p[:2] for p in paths))


ETH0 = [("eth0", GUEST_IP, CLIENT_IP), ("eth0", GUEST_IP6, CLIENT_IP6)]
ETH1_PATHS = [("eth1",) + ETH1[:2], ("eth1",) + ETH1_6[:2]]
VLAN_PATHS = [("eth0.7",) + VLAN_NET[:2], ("eth0.7",) + VLAN_NET6[:2]]


@case("traffic", timeout=240, bed={"v6": True, "nics": 2})
def two_nics(bed):
    """One consistent cut over both."""
    several_networks(bed, ETH0 + ETH1_PATHS, 1 << 20)


@case("traffic", timeout=240, bed={"v6": True, "vlan": 7, "mtu": 9000})
def a_vlan_and_jumbo_frames(bed):
    several_networks(bed, ETH0 + VLAN_PATHS, 4 << 20)


@case("traffic", timeout=240, bed={"v6": True, "nics": 2, "vlan": 7})
def two_nics_and_a_vlan(bed):
    several_networks(bed, ETH0 + ETH1_PATHS + VLAN_PATHS, 4 << 20)


@case("traffic", timeout=240, bed={"v6": True, "nics": 2})
def two_nics_e1000(bed):
    several_networks(bed, ETH0 + ETH1_PATHS, 4 << 20, Machine("q35", "e1000"))


def count_checkpoints(bed, what, done):
    """What done() costs in checkpoints, by cause."""
    before = bed.a.status()["checkpoints"]["by_cause"]
    done()
    after = bed.a.status()["checkpoints"]["by_cause"]
    spent = {k: after[k] - before[k] for k in after if after[k] > before[k]}
    say("%s: %s", what, spent)
    return spent


@case("e2e", "traffic", timeout=200, bed={"v6": True})
def compared_not_checkpointed(bed):
    """Datagrams, pings and TCP over IPv6 that both copies answer alike cost next to no checkpoint."""
    bed.start_pair()
    n, spent, told = 200, {}, []
    for host in (GUEST_IP, GUEST_IP6):
        for kind in (lambda: ([], [Resolver(bed, host)]), lambda: ([], [Pinger(bed, host, interval=0.0)]),
                     lambda: ([], [Pinger(bed, host, size=4000, interval=0.0)]),
                     lambda: ([Count(host=host), Incr("c" + host, host=host)], [])):
            conns, clients = kind()
            with Party(bed, conns, clients) as party:
                party.wait_answers(2, 30)
                name = "+".join(c.name.split()[0] for c in conns + clients) + " " + host
                spent[name] = count_checkpoints(bed, name, lambda: party.wait_answers(n, 60))
                for c in clients:
                    told.append("%s %s" % (name, ms(percentile(c.latency, 50))))
                party.finish()
                must(not any(c.retries or c.lost for c in clients), "%s: asked again without a failover", name)
    note("checkpoints %s; p50 %s", {k: v for k, v in spent.items() if v}, ", ".join(told))
    for name, causes in spent.items():
        must(sum(causes.values()) <= n / 40, "%s: %d answers cost the checkpoints %s", name, n, causes)


class Liar(threading.Thread):
    """Answers a Resolver's questions as how says: "right", "wrong", "twice" or "late" (not before the second try)."""

    def __init__(self, sock, how):
        super().__init__(daemon=True)
        self.sock, self.how, self.n, self.over = sock, how, 0, False

    def run(self):
        self.sock.settimeout(0.1)
        while not self.over:
            try:
                ask, peer = self.sock.recvfrom(2000)
            except (TimeoutError, socket.timeout):
                continue
            self.n += 1
            answer = b"h" + ask[1:9] + (b"0" * 16 if self.how == "wrong" and self.n == 3 else xxh64(ask))
            if self.how == "late" and self.n == 1:
                continue
            for _ in range(2 if self.how == "twice" and self.n == 3 else 1):
                self.sock.sendto(answer, peer)


@case(bed={"v6": True})
def a_wrong_datagram_is_noticed(bed):
    """The judge of datagrams is judged."""
    def complaint(how):
        sock = bed.socket(kind=socket.SOCK_DGRAM, fam=socket.AF_INET6)
        sock.bind((CLIENT_IP6, UDP_PORT))
        with sock:
            liar = Liar(sock, how)
            liar.start()
            client = Resolver(bed, CLIENT_IP6)
            try:
                with Party(bed, (), [client]) as party:
                    party.wait_answers(5, 20)
                    party.finish()
            except LoadError as e:
                return str(e)
            finally:
                liar.over = True
                liar.join(5)
        return "%d again" % client.retries
    same(complaint("right"), "0 again", "right answers")
    same(complaint("late"), "1 again", "the second try is answered")
    must("wrong answer" in complaint("wrong"), "a wrong answer")
    must("answered 2 times" in complaint("twice"), "one answer too many")
