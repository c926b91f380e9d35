# SPDX-License-Identifier: BSD-2-Clause
"""
The suite `traffic`: each kind of traffic by itself and in full, over IPv4 and over IPv6, with a kill of node a's
programs in the middle.
"""

import time

from bed import GUEST_IP, GUEST_IP6
from cases_net import HOME, judge_datagrams, kill_in_the_middle
from clients import Iperf, Party, Pieces, Pinger, Resolver, Web
from harness import case, moment, must, note, seed_from
from load import Called, Count, Download, Incr, Mixed, Typist, Upload, ms, percentile

BULK = 100 << 20
FAMILIES = (("ipv4", GUEST_IP, True), ("ipv6", GUEST_IP6, {"v6": True}))


def one_stream(bed, stream):
    """A transfer of 100 MB whose hash must be right, with the kill after a third of it."""
    bed.start_pair()
    with Party(bed, [Incr("beside", interval=0.05, host=stream.host)]) as beside, Party(bed, [stream]) as party:
        begun = time.monotonic()
        kill_in_the_middle(bed, beside, lambda: party.errors() or stream.progress() > 0.33, streams=[stream])
        party.wait_answers(1, 600)
        note("%d MB in %.1f s, gap of a small request %s", stream.size >> 20, time.monotonic() - begun,
             ms(beside.gap()))
        party.finish()
        beside.finish()


def one_kind(bed, conns, clients, n=20):
    bed.start_pair()
    with Party(bed, conns, clients) as party:
        party.wait_answers(n, 120)
        moment(0.0, 1.0)
        kill_in_the_middle(bed, party, lambda: True, n)
        party.finish()
        judge_datagrams(clients)
        times = [t for c in clients for t in c.latency] + [t for c in conns for t in c.latency]
        note("%d answers, p50 %s, worst %s, asked again %d, lost %d, gap %s", len(times), ms(percentile(times, 50)),
             ms(max(times)), sum(c.retries for c in clients), sum(c.lost for c in clients), ms(party.gap()))


def iperf(bed, host):
    """Both directions as fast as they go; the control connection and both data connections live on."""
    bed.start_pair()
    run = Iperf(bed, host, 12)
    with Party(bed, [Count(interval=0.05, host=host)]) as party:
        moment(4.0, 6.0)
        kill_in_the_middle(bed, party, lambda: True)
        up, down, late = run.finish()
        party.finish()
    note("%.1f Mbit/s up, %.1f Mbit/s down, gap of a small request %s", up / 1e6, down / 1e6, ms(party.gap()))
    must(min(late) > 0, "nothing went through at the end: %s", late)


def bulk_cases(suffix, host, bed):
    def add(name, fn, timeout=300):
        case("traffic", name="%s_%s" % (name, suffix), timeout=timeout, bed=bed)(fn)
    add("download_100_mb", lambda bed: one_stream(bed, Download(BULK, limit=1, host=host)), 900)
    add("upload_100_mb", lambda bed: one_stream(bed, Upload(BULK, seed=seed_from(), limit=1, host=host)), 900)
    add("iperf3", lambda bed: iperf(bed, host))
    add("redis", lambda bed: one_kind(bed, [Incr("a" + host, depth=8, host=host), Mixed("b" + host, host=host)], [],
                                      200))
    add("http", lambda bed: one_kind(bed, [], [Web(bed, host), Web(bed, host)], 5))
    add("udp", lambda bed: one_kind(bed, [], [Resolver(bed, host, seed=i) for i in range(3)], 100))
    add("ping", lambda bed: one_kind(bed, [], [Pinger(bed, host), Pinger(bed, host, size=1200)], 60))
    add("fragments", lambda bed: one_kind(bed, [], [Pieces(bed, host, seed=seed_from()),
                                                  Pinger(bed, host, size=4000, interval=0.1)], 40))
    add("typing", lambda bed: one_kind(bed, [Typist(seed=i, interval=0.1, host=host) for i in range(3)], [], 50))
    add("called_by_the_guest", lambda bed: one_kind(bed, [Called(HOME[host], host=host) for _ in range(4)], [], 100))


for _suffix, _host, _bed in FAMILIES:
    bulk_cases(_suffix, _host, _bed)
