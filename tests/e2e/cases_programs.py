# SPDX-License-Identifier: BSD-2-Clause
"""The programs that people run: the demo and the benchmarks, as processes of their own."""

import json
import os
import re
import subprocess
import sys
import tempfile

from bed import GUEST_OUT, PATIENCE, ROOT
from harness import case, must, note

DEMO_LINE = re.compile(r"demo: connection survived, gap (\d+) ms, requests (\d+), lost 0, doubled 0, resets 0")


def program(*argv, seconds):
    p = subprocess.run([sys.executable] + [os.path.join(ROOT, argv[0])] + list(argv[1:]), stdin=subprocess.DEVNULL,
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds * PATIENCE,
                       check=False)
    print(p.stdout, flush=True)
    return p.returncode, p.stdout.splitlines()


@case(bed=False, timeout=120)
def demo(*_):
    code, lines = program("tests/e2e/demo.py", "--seconds", "4", seconds=100)
    must(code == 0, "exit status %d: %s", code, lines[-1:])
    m = DEMO_LINE.fullmatch(lines[-1])
    must(m, "the last line is %r", lines[-1:])
    must(int(m[2]) > 100, "only %s requests", m[2])
    note("gap %s ms, %s requests", m[1], m[2])


def pause(*words, seconds):
    code, lines = program("bench/pause", "--json", *words, seconds=seconds)
    must(code == 0, "exit status %d: %s", code, lines[-1:])
    r = json.loads(lines[-1])
    must(set(r) == {"guest_mb", "dirty_mbps", "checkpoints", "pause_ms", "steps_ms", "pages", "secondary_mb"},
         "members: %s", sorted(r))
    for key in ("p50", "p99", "max"):
        must(r["pause_ms"][key] > 0, "pause: %s", r["pause_ms"])
    note("pause p50 %.2f p99 %.2f max %.2f ms, pages %d, secondary %.0f MB, %d checkpoints of %d MB, %d MB/s dirtied",
         r["pause_ms"]["p50"], r["pause_ms"]["p99"], r["pause_ms"]["max"], r["pages"]["p50"], r["secondary_mb"],
         r["checkpoints"], r["guest_mb"], r["dirty_mbps"])
    return r


@case("bench", bed=False, timeout=120)
def bench_pause_sample(*_):
    r = pause("--count", "20", "--delay", "100", "--dirty", "10", "--mem", "256", seconds=100)
    must(r["checkpoints"] == 20 and r["guest_mb"] == 256 and r["dirty_mbps"] == 10, "%s", r)


@case("bench", bed=False, timeout=300)
def bench_pause_idle(*_):
    r = pause("--count", "200", seconds=280)
    must(r["pause_ms"]["p50"] < 8, "the median pause of an idle guest is %.2f ms, 8 are allowed", r["pause_ms"]["p50"])


@case("bench", bed=False, timeout=300)
def bench_pause_50(*_):
    pause("--count", "200", "--dirty", "50", seconds=280)


@case("bench", bed=False, timeout=400)
def bench_compare_sample(*_):
    """All four systems, a little of each kind of figure; what cannot be measured of QEMU's COLO is no failure here."""
    only = ("echo", "redis_200", "download", "pause_50_200", "failover", "rate")
    if os.path.exists(os.path.join(GUEST_OUT, "initramfs-fio.cpio.gz")):  # guest/build-fio; scripts/check makes it
        only += ("disk_sync",)
    with tempfile.TemporaryDirectory() as out:
        code, lines = program("bench/compare", "--quick", "--only", ",".join(only), "--out", out, seconds=380)
        must(code == 0, "exit status %d: %s", code, lines[-1:])
        with open(os.path.join(out, "compare.json"), encoding="utf-8") as f:
            got = json.load(f)
        with open(os.path.join(out, "compare.md"), encoding="utf-8") as f:
            text = f.read()
        must(os.path.exists(os.path.join(out, "compare-rate.svg")), "no plot: %s", os.listdir(out))
    must(got["environment"]["qemu"] in text and got["notes"][0] in text, "the report does not say how it was taken")
    ours = got["rounds"][0]["systems"]["lockstep"]["figures"]
    must(not [f for f, g in ours.items() if "error" in g], "Lockstep: %s", ours)
    must("echo" in got["summary"]["plain"] and "echo" in got["summary"]["two"], "%s", got["summary"].keys())
    gap = got["summary"]["lockstep"]["failover"]["gap_ms"]["median"]
    must(gap > 0, "a failover that nobody noticed: %s ms", gap)
    reached = sum(1 for t in got["targets"] if t["reached"])
    note("%d of %d targets reached, gap %.0f ms", reached, len(got["targets"]), gap)
