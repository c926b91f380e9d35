# SPDX-License-Identifier: BSD-2-Clause
"""What bench/compare writes: compare.json with everything, compare.md for people, a plot for each curve."""

import datetime
import hashlib
import json
import os
import platform
import subprocess

from bed import ROOT
from comparison import colo, svg
from comparison.figures import ASK_EVERY_MS, CONNECTIONS, DIRTY_MB, FAILOVER_EVERY_MS
from comparison.rounds import SYSTEMS
from comparison.systems import Lockstep
from comparison.targets import judge

# (figure, cell, what it is called); what is not here stands in the JSON only
ROWS = [
    ("echo", "rate", "64-byte echo, one connection, requests/s"),
    ("echo", "p50_ms", "its p50, ms"),
    ("echo", "p99_ms", "its p99, ms"),
    ("echo_200", "rate", "the same with a checkpoint each 200 ms, requests/s"),
    ("echo_200", "p99_ms", "its p99, ms"),
    ("redis", "rate", "Redis INCR, one connection, requests/s"),
    ("redis_200", "rate", "the same with a checkpoint each 200 ms"),
    ("random", "rate", "answers that always diverge, per second"),
    ("random", "p50_ms", "their p50, ms"),
    ("new", "p50_ms", "new connection and request, p50, ms"),
    ("new", "p99_ms", "its p99, ms"),
    ("udp", "p50_ms", "UDP echo, p50, ms"),
    ("udp", "p99_ms", "its p99, ms"),
    ("udp", "max_ms", "its longest, ms"),
    ("many", "p50_ms", "%d connections, each asking every %d ms, p50, ms" % (CONNECTIONS, ASK_EVERY_MS)),
    ("many", "p99_ms", "their p99, ms"),
    ("download", "mb_per_s", "download 10 MB, MB/s"),
    ("upload", "mb_per_s", "upload 10 MB, MB/s"),
] + [
    ("pause_%d_%d" % (rate, delay), cell, "pause %s, epochs of %s, p50, ms, %s" % (
        "idle" if not rate else "at %d MB/s dirtied" % rate, "1 s" if delay == 1000 else "200 ms", how))
    for rate in (0, 50, 100) for delay in (1000, 200)
    for cell, how in (("traced_p50_ms", "by QEMU's trace"), ("own_p50_ms", "as Lockstep reports it"))
] + [
    ("disk_" + job, cell, "disk, %s" % called) for job, cell, called in (
        ("randread", "mb_per_s", "4k random reads, 16 at once, MB/s"), ("randread", "p99_ms", "their p99, ms"),
        ("read", "mb_per_s", "1M sequential reads, 4 at once, MB/s"),
        ("randwrite", "mb_per_s", "4k random writes, 16 at once, MB/s"), ("randwrite", "p99_ms", "their p99, ms"),
        ("write", "mb_per_s", "1M sequential writes, 4 at once, MB/s"),
        ("sync", "iops", "4k writes, each flushed, one after the other, per second"), ("sync", "p50_ms", "their p50, ms"),
        ("sync", "p99_ms", "their p99, ms"))
] + [
    ("disk_pause_" + job, cell, "disk, pause each second %s, p50, ms, %s" % (called, how))
    for job, called in (("none", "without disk load"), ("paced", "with 500 random writes a second"),
                        ("randwrite", "with as many random writes as go"))
    for cell, how in (("traced_p50_ms", "by QEMU's trace"), ("own_p50_ms", "as Lockstep reports it"),
                      ("stop_p50_ms", "`stop` of it"))
] + [
    ("failover", "gap_ms", "failover gap, IPv4, ms"),
    ("failover_6", "gap_ms", "failover gap, IPv6, ms"),
]

HOW = """\
- All systems have the same guest, kernel, QEMU, accelerator, CPU and NIC model, on one machine that carries both nodes,
  the client and whatever emulates them: read ratios. "Two plain QEMUs" is two VMs that are loaded at once, each by its
  client, and the figure is the mean of the two: more than that no two copies of a VM can give on this machine.
- Rounds are interleaved, with another system first in each. A figure is the median of its rounds, with the least and
  the most in parentheses; a ratio is one of medians, with the least and the most of the rounds' own.
- Without a word on checkpoints there was none in the window, unless answers diverged. "Dirtied" is the guest's `dirty`:
  pages at random over %(dirty)d MB, each with new content.
- The pause by QEMU's trace (runstate_set) is the same means for both pairs; it leaves out stopping and continuing. What
  Lockstep reports is longer: from `stop` sent until `cont` is answered. The targets compare that with COLO's trace.
- The disk: fio in the guest, past its page cache, on %(disk_mb)s of a raw image that was written before; the images are on the
  same file system, for two VMs too, and QEMU's cache mode is its default. Lockstep's secondary runs fio as well.
- Failover: both processes of the primary are killed (COLO: its QEMU, and the document's commands are given at once)
  while a client asks every %(every)d ms; its longest silence counts, and the same connection must go on.
""" % {"dirty": DIRTY_MB, "every": FAILOVER_EVERY_MS, "disk_mb": "256 MB"}


def run_text(*argv):
    try:
        return subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                              text=True, check=False, cwd=ROOT).stdout.strip()
    except OSError:
        return ""


def first(path, key):
    with open(path, encoding="utf-8") as f:
        return next((x.partition(":")[2].strip() for x in f if x.startswith(key)), "unknown")


def file_hash(path):
    h = hashlib.sha256()
    with open(path, "rb") as f:
        for part in iter(lambda: f.read(1 << 20), b""):
            h.update(part)
    return h.hexdigest()[:16]


def environment(setup, args):
    """What a reader must know of where and how this was taken."""
    kernel, initrd = Lockstep(setup, any(f.disk for f in args.figures)).machine().image()
    return {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "cpu": first("/proc/cpuinfo", "model name"), "cpus": os.cpu_count(),
        "memory_mb": int(first("/proc/meminfo", "MemTotal").split()[0]) // 1024,
        "kernel": platform.release(), "qemu": (run_text("qemu-system-x86_64", "--version").splitlines() or ["?"])[0],
        "commit": run_text("git", "rev-parse", "HEAD") or "unknown",
        "changed": bool(run_text("git", "status", "--porcelain", "--untracked-files=no")),
        "guest": {"machine": setup.machine, "nic": setup.nic, "mb": setup.mem, "accel": setup.accel, "cpus": 1,
                  "disk": setup.interface,
                  "kernel_sha256": file_hash(kernel), "initramfs_sha256": file_hash(initrd)},
        "rounds": args.rounds, "seconds": args.seconds, "quick": args.quick,
        "finished": False}


def amount(v):
    return "-" if v is None else "%.0f" % v if abs(v) >= 100 else "%.3g" % v


def spread(low, high):
    return " (%s-%s)" % (amount(low), amount(high)) if amount(low) != amount(high) else ""


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join(["---"] * len(head)) + " |"]
    return lines + ["| " + " | ".join(r) + " |" for r in rows]


def cell(summary, system, figure, name):
    v = summary.values(system, figure, name)
    if v:
        return amount(summary.median(system, figure, name)) + spread(min(v.values()), max(v.values()))
    return "failed" if any("error" in g for _, g in summary.got(system, figure)) and name != "own_p50_ms" else "-"


def ratio(summary, figure, name, base):
    got = summary.ratio(("lockstep", figure, name), (base, figure, name))
    return "-" if not got else amount(got[0]) + spread(*got[1:])


def figures_table(summary, names):
    bases = [n for n in names if n != "lockstep"] if "lockstep" in names else []
    rows = []
    for figure, name, called in ROWS:
        if not any(summary.got(n, figure) for n in names):
            continue
        mine = [cell(summary, n, figure, name) for n in names]
        if any(m != "-" for m in mine):
            rows.append([called] + mine + [ratio(summary, figure, name, b) for b in bases])
    return table(["figure"] + [SYSTEMS[n].title for n in names] + ["Lockstep / " + b for b in bases], rows)


def targets_table(verdicts):
    rows = []
    for v in verdicts:
        if v["reached"] is None:
            rows.append([v["text"], "not measured", "", ""])
            continue
        unit = " " + v["unit"] if v["unit"] else ""
        far = "%s of what is allowed" % amount(1 / v["room"]) if v["op"] != ">=" else "%s of what is wanted" % amount(
            v["room"])
        rows.append([v["text"], amount(v["value"]) + unit + spread(v["min"], v["max"]),
                     "yes" if v["reached"] else "**no**", far])
    return table(["to reach", "measured", "reached", "which is"], rows)


def redis_loss(summary, names):
    """Where the rate goes that frequent checkpoints cost: they themselves, or slower running between them."""
    lines = []
    for n in names:
        got = summary.ratio((n, "redis_200", "rate"), (n, "redis", "rate"))
        standing = summary.median(n, "redis_200", "standing")
        if not got or standing is None:
            continue
        lost = 1 - got[0]
        lines.append("- %s, Redis with a checkpoint each 200 ms: %.0f %% of the rate is lost; for %.0f %% of the time "
                     "a checkpoint kept one of the copies from running, the other %.0f %% is slower running after each "
                     "(under TCG a copy that was loaded translates its code anew)." % (
                         SYSTEMS[n].title, 100 * lost, 100 * standing, 100 * max(0.0, lost - standing)))
    return lines + [""] if lines else []


def curve_table(curve, drawn):
    names = [n for n in curve.where if n in drawn]
    head = [curve.xlabel] + ["%s, %s" % (SYSTEMS[n].title, called) for n in names for _, called, _ in curve.lines]
    rows = []
    for x in sorted({p["x"] for n in names for p in drawn[n]}):
        row = [str(x)]
        for n in names:
            p = next((p for p in drawn[n] if p["x"] == x), {})
            row += [amount(p["cells"].get(c)) if "cells" in p else "failed" if "error" in p else "-"
                    for c, _, _ in curve.lines]
        rows.append(row)
    return table(head, rows)


def draw(curve, drawn):
    """The plot as SVG, or None without any point."""
    series = []
    for n in curve.where:
        for c, called, dashed in curve.lines:
            points = [(p["x"], p["cells"][c]) for p in drawn.get(n, []) if c in p.get("cells", {})]
            series.append((n, SYSTEMS[n].title + (", " + called if len(curve.lines) > 1 else ""), dashed, points))
    return svg.plot(curve.title, curve.xlabel, curve.ylabel, series, curve.xlog, curve.ylog)


def troubles(summary, curves):
    lines = []
    for s, f, r, why in summary.errors():
        lines.append("- %s, %s, round %d: not measured: %s" % (SYSTEMS[s].title, f, r, why))
    for s, f, r, who in summary.panics():
        lines.append("- %s, %s, round %d: the guest's kernel panicked on the %s during it, so the figure is of a "
                     "broken copy" % (SYSTEMS[s].title, f, r, who))
    for s, f, r in summary.partial():
        lines.append("- %s, %s, round %d: the transfer was not at its end in time; the figure is its speed until "
                     "then" % (SYSTEMS[s].title, f, r))
    for s, f, r, n in summary.disturbed():
        lines.append("- %s, %s, round %d: %d checkpoint%s in a window that should have had none" % (
            SYSTEMS[s].title, f, r, n, "s" if n > 1 else ""))
    for name, systems in curves.items():
        for s, points in systems.items():
            for p in points:
                where = "- %s, curve %s at %s: " % (SYSTEMS[s].title, name, p["x"])
                if "error" in p:
                    lines.append(where + "not measured: " + p["error"])
                if "panicked" in p:
                    lines.append(where + "the guest's kernel panicked on the " + " and ".join(p["panicked"]))
    return lines or ["- nothing"]


def markdown(env, summary, verdicts, names, wanted, curves, notes):
    g = env["guest"]
    reached = sum(1 for v in verdicts if v["reached"])
    lines = ["# Lockstep beside plain QEMU and QEMU's COLO", "",
             "Taken by `bench/compare` on %s: %s, %d CPUs, %d MB, Linux %s, %s. Commit %s%s. Guest: %s, %s, %d MB, one "
             "CPU, %s. %d round%s, %g s a figure%s." % (
                 env["date"][:16].replace("T", " "), env["cpu"], env["cpus"], env["memory_mb"], env["kernel"],
                 env["qemu"], env["commit"][:12], " with changes" if env["changed"] else "", g["machine"], g["nic"],
                 g["mb"], g["accel"].upper(), env["rounds"], "s" if env["rounds"] > 1 else "", env["seconds"],
                 ", quick: for trying, not for reading" if env["quick"] else ""), ""]
    if not env["finished"]:
        lines += ["The run was not at its end when this was written.", ""]
    if verdicts:
        lines += ["## What is to be reached", "", "%d of %d reached." % (reached, len(verdicts)), ""]
        lines += targets_table(verdicts) + [""]
    lines += ["## Figures", ""] + figures_table(summary, names) + [""]
    lines += redis_loss(summary, names)
    for c in wanted:
        if curves.get(c.name):
            lines += ["## " + c.title, "", "![%s](%s.svg)" % (c.title, file_of(c)), ""]
            lines += curve_table(c, curves[c.name]) + [""]
    lines += ["## How it was measured", "", HOW.rstrip()] + ["- " + n for n in notes] + [""]
    lines += ["## What went wrong meanwhile", ""] + troubles(summary, curves) + [""]
    return "\n".join(lines)


def file_of(curve):
    return "compare-" + curve.name


def put(path, content):
    with open(path + ".new", "w", encoding="utf-8") as f:
        f.write(content)
    os.rename(path + ".new", path)


def write(out, env, summary, figures, names, wanted, curves):
    """Everything into the directory out; returns the verdicts."""
    os.makedirs(out, exist_ok=True)
    notes = list(colo.NOTES) if "colo" in names else []
    verdicts = judge(summary, curves, figures, names) if "lockstep" in names else []
    put(os.path.join(out, "compare.json"), json.dumps(
        {"environment": env, "notes": notes, "targets": verdicts, "summary": summary.as_data(),
         "rounds": summary.records, "curves": curves}, indent=1) + "\n")
    put(os.path.join(out, "compare.md"), markdown(env, summary, verdicts, names, wanted, curves, notes))
    for c in wanted:
        picture = draw(c, curves.get(c.name, {}))
        if picture:
            put(os.path.join(out, file_of(c) + ".svg"), picture)
    return verdicts
