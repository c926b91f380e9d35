#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""
tests/kvm/run.py - two nodes and a client under KVM, inside a machine that QEMU emulates

  run.py                      all cases of the suite kvm, on each kernel
  run.py --kernel 6.1 NAME... these cases, on this kernel
  run.py --build              only makes the outer machine

  --smp N         processors of the outer machine (default 1)
  --timeout S     seconds for one kernel (default 3600)

The outer machine (outer.py) is emulated, with AMD's virtualization: stock QEMU in it has KVM, whatever the host can do.
It is slow: good for what is right, useless for how long it takes. Logs stay in build/kvm/logs/KERNEL/. The last line is
"N passed, N failed, N skipped", exit status 0 when nothing failed.
"""

import argparse
import ctypes
import json
import mmap
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, HERE)
import outer  # noqa: E402

BUILD = os.environ.get("LOCKSTEP_BUILD", os.path.join(ROOT, "build"))
TOP = os.path.join(ROOT, "build", "kvm")
KERNELS = ("6.12", "6.1")
MEMORY = "6G"
APPEND = ("console=ttyS0 loglevel=7 tsc=reliable mitigations=off nowatchdog rcupdate.rcu_cpu_stall_suppress=1 "
          "random.trust_cpu=on")
# The emulated timers sometimes do not wake a processor that waits in HLT, with this kernel: then all of it stands for good.
APPEND_OF = {"6.1": " idle=poll"}
# Everything takes long in there. What is tested is not how soon a node notices something; and the nodes are not to be
# busy with what no case looks at.
OPTIONS = ("--heartbeat 500 --timeout 30000 --qemu-timeout 180000 --compare-timeout 20000 --checkpoint-delay 600000 "
           "--log-level debug")
PATIENCE = 20
PROJECT = ["src/lockstep", "agent/liblockstep-agent.so"]   # of the build directory, where the program looks for them
GUEST = ["vmlinuz", "initramfs.cpio.gz"]


def say(fmt, *args):
    print(fmt % args if args else fmt, flush=True)


def tick_khz():
    """
    How fast this host's tick counter counts, which is also the outer machine's. Its kernel would measure that against
    emulated timers, which are late on a busy host: its clock, and with it all that waits in there, has been seven times
    too fast.
    """
    code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(bytes.fromhex("0f31" "48c1e220" "4809d0" "c3"))    # rdtsc; shl rdx, 32; or rax, rdx; ret
    ticks = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(ctypes.c_char.from_buffer(code)))

    def both():
        """(ns, ticks) of about the same moment: the best of many pairs."""
        def pair():
            before, t, after = time.monotonic_ns(), ticks(), time.monotonic_ns()
            return after - before, before, t
        return min(pair() for _ in range(1000))[1:]

    begun = both()
    time.sleep(0.5)
    now = both()
    return round((now[1] - begun[1]) * 1000000 / (now[0] - begun[0]))


def copy(src, dst):
    os.makedirs(os.path.dirname(dst), exist_ok=True)
    shutil.copy2(src, dst)


def project_archive(path, cases):
    """What is tried: the built program, the agent, the test guest, the tests; and what is to be done with them."""
    tree = path + ".tree"
    shutil.rmtree(tree, ignore_errors=True)
    for f in PROJECT:
        copy(os.path.join(BUILD, f), os.path.join(tree, "project/build", f))
    for f in GUEST:
        copy(os.path.join(ROOT, "guest/out", f), os.path.join(tree, "project/guest/out", f))
    for f in os.listdir(os.path.join(ROOT, "guest")):
        if f.endswith(".py"):     # what the cases share with the guest's makers
            copy(os.path.join(ROOT, "guest", f), os.path.join(tree, "project/guest", f))
    shutil.copytree(os.path.join(ROOT, "tests/e2e"), os.path.join(tree, "project/tests/e2e"),
                    ignore=shutil.ignore_patterns("__pycache__"))
    copy(os.path.join(HERE, "init.py"), os.path.join(tree, "init"))
    e2e = ["python3", "/project/tests/e2e/run.py", "--keep", "--results", "/logs/results.json"]
    job = {"env": {"LOCKSTEP_PATIENCE": str(PATIENCE), "LOCKSTEP_OPTIONS": OPTIONS, "LOCKSTEP_LOGS": "/run/logs"},
           "commands": [["/project/build/src/lockstep", "doctor"], e2e + (cases or ["--suite", "kvm"])]}
    with open(os.path.join(tree, "job.json"), "w", encoding="utf-8") as f:
        json.dump(job, f)
    outer.archive(tree, path)
    shutil.rmtree(tree)


def initrd(path, parts):
    with open(path, "wb") as out:
        for p in parts:
            with open(p, "rb") as f:
                shutil.copyfileobj(f, out)
            out.write(b"\0" * (-out.tell() % 512))


def boot(series, kernel_dir, initramfs, logs, smp, timeout):
    """Runs the outer machine to its end and shows what it says; returns what went wrong, or None."""
    append = "%s%s tsc_early_khz=%d" % (APPEND, APPEND_OF.get(series, ""), tick_khz())
    cmd = ["qemu-system-x86_64", "-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max,la57=off,svm=on",
           "-smp", str(smp), "-m", MEMORY, "-kernel", os.path.join(kernel_dir, "vmlinuz"), "-initrd", initramfs,
           "-append", append, "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot",
           "-virtfs", "local,path=%s,mount_tag=logs,security_model=none,writeout=immediate" % logs]
    p = subprocess.Popen(cmd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                         errors="replace")
    late = []
    timer = threading.Timer(timeout, lambda: (late.append(1), p.kill()))
    timer.start()
    ended = False
    try:
        with open(os.path.join(logs, "console"), "w", encoding="utf-8") as console:
            for line in p.stdout:
                line = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\r|\x1bc", "", line)
                console.write("%.1f %s" % (time.monotonic(), line))
                console.flush()
                ended = ended or line == "outer: end\n"
                if not ended and not re.match(r"\d+ passed, \d+ failed, \d+ skipped$", line):
                    print("  " + line, end="", flush=True)
    finally:
        timer.cancel()
        p.kill()
        p.wait()
    if late:
        return "not at its end after %d s" % timeout
    return None if ended else "the outer machine has not come to its end"


def run_kernel(series, made, args):
    """Returns (passed, failed, skipped)."""
    root, kernels = made
    kernel_dir, version = kernels[series]
    logs = os.path.join(TOP, "logs", series)
    shutil.rmtree(logs, ignore_errors=True)
    os.makedirs(logs)
    begun = time.monotonic()
    say("-- kernel %s, %d processor(s)", version, args.smp)
    project, whole = os.path.join(TOP, "project-%s.cpio" % series), os.path.join(TOP, "initrd-%s.cpio" % series)
    project_archive(project, args.names)
    initrd(whole, [root, os.path.join(kernel_dir, "modules.cpio"), project])
    try:
        wrong = boot(series, kernel_dir, whole, logs, args.smp, args.timeout)
    finally:
        os.unlink(project)
        os.unlink(whole)
    say("-- kernel %s: %.0f s", version, time.monotonic() - begun)
    try:
        with open(os.path.join(logs, "results.json"), encoding="utf-8") as f:
            r = json.load(f)
    except (OSError, ValueError):
        say("-- kernel %s: no results: %s (%s)", version, wrong or "see the console", logs)
        return 0, 1, 0
    if wrong:
        say("-- kernel %s: %s (%s)", version, wrong, logs)
    return r["passed"], r["failed"] + (1 if wrong else 0), r["skipped"]


def main():
    ap = argparse.ArgumentParser(usage=__doc__)
    ap.add_argument("names", nargs="*")
    ap.add_argument("--kernel", action="append", choices=KERNELS)
    ap.add_argument("--smp", type=int, default=1)
    ap.add_argument("--timeout", type=int, default=3600)
    ap.add_argument("--build", action="store_true")
    args = ap.parse_args()
    signal.signal(signal.SIGTERM, lambda sig, frame: sys.exit(128 + sig))
    if os.environ.get("LOCKSTEP_SANITIZED") == "1":
        say("skipped: what was built with sanitizers needs their libraries, which the outer machine does not have")
        print("0 passed, 0 failed, 1 skipped")
        return 0
    try:
        made = outer.build(TOP, args.kernel or KERNELS, say)
    except outer.OuterError as e:
        say("the outer machine cannot be made: %s", e)
        print("0 passed, 0 failed, 1 skipped" if not args.build else "")
        return 1 if args.build else 0
    if args.build:
        return 0
    total = [0, 0, 0]
    for series in args.kernel or KERNELS:
        total = [a + b for a, b in zip(total, run_kernel(series, made, args))]
    print("%d passed, %d failed, %d skipped" % tuple(total))
    return 1 if total[1] else 0


if __name__ == "__main__":
    sys.exit(main())
