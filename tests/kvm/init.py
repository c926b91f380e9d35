#!/usr/bin/python3
# SPDX-License-Identifier: BSD-2-Clause
"""
The first process of the outer machine (run.py): makes a system out of what the initramfs holds, runs the cases that
/job.json names, and switches off. What is said here goes to the serial console, logs to /logs, which is a directory of
the host's.
"""

import ctypes
import glob
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import traceback

LIBC = ctypes.CDLL(None, use_errno=True)
SYS_FINIT_MODULE = 313
POWER_OFF = 0x4321FEDC
KEEP_S = 30     # between two copies of the logs
PARAMETERS = {"kvm": b"halt_poll_ns=0"}     # an idle guest must not eat the only processor


def must(rc, what):
    if rc:
        raise OSError(ctypes.get_errno(), "%s: %s" % (what, os.strerror(ctypes.get_errno())))


def mount(what, where, kind, options=""):
    os.makedirs(where, exist_ok=True)
    must(LIBC.mount(what.encode(), where.encode(), kind.encode(), 0, options.encode()), "mount " + where)


def load_modules():
    for path in sorted(glob.glob("/modules/*.ko")):
        name = os.path.basename(path)[3:-3]
        fd = os.open(path, os.O_RDONLY)
        rc = LIBC.syscall(SYS_FINIT_MODULE, fd, PARAMETERS.get(name, b""), 0)
        if rc and ctypes.get_errno() != 17:     # built in, or there already
            print("outer: module %s: %s" % (name, os.strerror(ctypes.get_errno())), flush=True)
        os.close(fd)


def work():
    for what, where, kind, options in (("proc", "/proc", "proc", ""), ("sys", "/sys", "sysfs", ""),
                                       ("dev", "/dev", "devtmpfs", ""), ("run", "/run", "tmpfs", "mode=755"),
                                       ("tmp", "/tmp", "tmpfs", "mode=1777"), ("shm", "/dev/shm", "tmpfs", "")):
        mount(what, where, kind, options)
    os.symlink("/proc/self/fd", "/dev/fd")
    load_modules()
    mount("logs", "/logs", "9p", "trans=virtio,version=9p2000.L,msize=131072")
    with open("/job.json", encoding="utf-8") as f:
        job = json.load(f)
    os.environ.update(job["env"], PATH="/usr/sbin:/usr/bin:/sbin:/bin", HOME="/root", LANG="C.UTF-8")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    # The kernel goes on measuring its processor for some time; KVM takes what it has found out when a VM is made.
    with open("/proc/uptime", encoding="utf-8") as f:
        up = float(f.read().split()[0])
    print("outer: up %.1f s, Linux %s, clock %s" % (up, os.uname().release, clocksource()), flush=True)
    time.sleep(max(0.0, 4.0 - up))
    os.makedirs(os.environ["LOCKSTEP_LOGS"])
    done = threading.Event()
    keeper = threading.Thread(target=keep_logs, args=(os.environ["LOCKSTEP_LOGS"], done))
    keeper.start()
    try:
        for cmd in job["commands"]:
            if subprocess.run(cmd, stdin=subprocess.DEVNULL, check=False).returncode:
                print("outer: %s has failed" % " ".join(cmd[:3]), flush=True)
    finally:
        done.set()
        keeper.join()


def keep_logs(where, done):
    """
    Copies the logs to the host now and then, and at the end. They are not written there: each line would keep a node
    waiting until the host has time.
    """
    while True:
        last = done.wait(KEEP_S)
        try:
            shutil.copytree(where, "/logs", dirs_exist_ok=True)
        except (OSError, shutil.Error) as e:
            if last:    # else a case has just begun or ended
                print("outer: logs: %s" % e, flush=True)
        if last:
            return


def clocksource():
    with open("/sys/devices/system/clocksource/clocksource0/current_clocksource", encoding="utf-8") as f:
        return f.read().strip()


def main():
    pid = os.fork()
    if not pid:
        try:
            work()
        except Exception:  # pylint: disable=broad-except
            traceback.print_exc(file=sys.stdout)
        sys.stdout.flush()
        os._exit(0)
    while os.wait()[0] != pid:  # orphans come here
        pass
    print("outer: end", flush=True)
    os.sync()
    LIBC.reboot(POWER_OFF)


if __name__ == "__main__":
    main()
