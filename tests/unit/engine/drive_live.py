#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""
Writable drives against the installed QEMU: it is started twice, as the user has written its options, and as Lockstep
rewrites them, and must then show the same devices (names, buses, serial numbers, geometry) and the same drives (names,
write cache, limits) both times. The images are served by QEMU's storage daemon, in Lockstep's place.

usage: drive_live.py DRIVE_WORDS
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time

SIZE = 48 << 20
BASE = ["qemu-system-x86_64", "-S", "-display", "none", "-nic", "none", "-m", "64", "-qmp", "stdio"]

# @A@ and @B@ are raw images, @Q@ is one in qcow2 format.
LINES = [
    "-drive file=@A@,format=raw",
    "-drive file=@A@,format=raw,if=virtio",
    "-drive file=@A@,format=raw,cache=none -drive file=@Q@,format=qcow2,cache=writethrough",
    "-hda @A@ -hdd @B@ -cdrom @C@",
    "-M q35 -hda @A@ -hdc @B@",
    "-M q35 -cdrom @C@ -drive file=@A@,format=raw -drive file=@B@,format=raw",
    "-drive file=@A@,format=raw,bus=1,unit=1 -drive file=@B@,format=raw,if=virtio,id=x,cache=directsync",
    "-drive file=@A@,format=raw,if=none,id=d,discard=unmap,detect-zeroes=unmap -device virtio-blk-pci,drive=d,serial=S1",
    "-drive file=@A@,format=raw,if=none,id=d,iops=100,throttling.bps-read=1000000 -device ide-hd,drive=d,serial=S2",
    "-drive file=@Q@,format=qcow2,if=none,id=d,rerror=ignore,node-name=n -device virtio-blk-pci,drive=n,write-cache=off",
    "-device virtio-scsi-pci -drive file=@A@,format=raw,if=none,id=d -device scsi-hd,drive=d,serial=S3,lun=2",
    "-blockdev file,filename=@A@,node-name=f,discard=unmap -blockdev raw,file=f,node-name=n,discard=unmap "
    "-device virtio-blk-pci,drive=n,id=disk0,serial=S4",
    "-blockdev qcow2,node-name=n,file.driver=file,file.filename=@Q@,discard=unmap,detect-zeroes=on "
    "-device ide-hd,drive=n,write-cache=off",
    '-blockdev {"driver":"qcow2","node-name":"n","file":{"driver":"file","filename":"@Q@","cache":{"direct":false}}} '
    '-device {"driver":"virtio-blk-pci","drive":"n","num-queues":1,"logical_block_size":4096,"physical_block_size":4096}',
    "-object throttle-group,id=g,x-iops-total=50 -blockdev file,filename=@A@,node-name=n "
    "-blockdev throttle,node-name=t,throttle-group=g,file=n -device virtio-blk-pci,drive=t",
    "-object iothread,id=io -drive file=@A@,format=raw,if=none,id=d -device virtio-blk-pci,drive=d,iothread=io",
]


def ask(words):
    """What QEMU shows of its devices and drives."""
    questions = [{"execute": "qmp_capabilities"}, {"execute": "query-block"},
                 {"execute": "human-monitor-command", "arguments": {"command-line": "info qtree"}}, {"execute": "quit"}]
    done = subprocess.run(BASE + words, input="".join(json.dumps(q) for q in questions), capture_output=True,
                          text=True, timeout=60, check=False)
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    answers = [a for a in answers if "return" in a or "error" in a]
    if done.returncode or len(answers) != 4 or any("error" in a for a in answers):
        raise SystemExit("%s: %s%s" % (" ".join(words), done.stderr, answers))
    return [drive(b) for b in answers[1]["return"]], tree(answers[2]["return"])


def drive(block):
    """What the guest or the user can see of one drive; names that QEMU has made up itself begin with #."""
    inserted = block.get("inserted")
    seen = {k: block.get(k) for k in ("device", "qdev", "removable", "locked", "type", "tray_open")}
    if inserted:
        seen["inserted"] = {k: v for k, v in inserted.items()
                            if k in ("ro", "detect_zeroes", "encrypted", "group") or re.match("iops|bps", k)}
        seen["write cache"] = inserted["cache"]["writeback"]
        seen["size"] = inserted["image"]["virtual-size"]
        if not inserted["node-name"].startswith("#"):
            seen["node"] = inserted["node-name"]
    return seen


def tree(text):
    """Lines of the device tree, but what becomes of errors, which is always the guest's to know."""
    lines = [re.sub('drive = "#block[0-9]+"', 'drive = "#"', line.strip()) for line in text.splitlines()]
    return [line for line in lines if not line.startswith("werror = ")]


def serve(where, disks):
    """The images, each under its disk's id; ends with its standard input."""
    argv = ["qemu-storage-daemon", "--chardev", "stdio,id=c", "--monitor", "chardev=c",
            "--nbd-server", "addr.type=unix,addr.path=" + where]
    for i, (name, path, form) in enumerate(disks):
        argv += ["--blockdev", "driver=file,node-name=f%d,filename=%s,discard=unmap" % (i, path),
                 "--blockdev", "driver=%s,node-name=n%d,file=f%d,discard=unmap" % (form, i, i),
                 "--export", "nbd,id=e%d,node-name=n%d,name=%s,writable=on" % (i, i, name)]
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def one(words_of, where, line, images):
    for name, path in images.items():
        line = line.replace("@%s@" % name, path)
    words = line.split()
    done = subprocess.run([words_of, where, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit("%s: %s" % (line, done.stderr))
    out = done.stdout.splitlines()
    disks = [w.split()[1:] for w in out if w.startswith("disk ")]
    other = [w for w in out if not w.startswith("disk ")]
    if "q35" in words:
        other = ["-M", "q35"] + other
    for path in images.values():
        if any(path in w for w in other) and path in [d[1] for d in disks]:
            raise SystemExit("%s: QEMU is still given %s" % (line, path))
    drives, devices = ask(words)
    server = serve(where, disks)
    try:
        for _ in range(3000):
            if server.poll() is not None or os.path.exists(where):
                break
            time.sleep(0.01)
        other_drives, other_devices = ask(other)
    finally:
        server.kill()
        server.wait()
        if os.path.exists(where):
            os.unlink(where)
    if drives != other_drives:
        raise SystemExit("%s\n%s\nbecame\n%s" % (line, drives, other_drives))
    if devices != other_devices:
        differ = [(a, b) for a, b in zip(devices, other_devices) if a != b][:3]
        raise SystemExit("%s\nhas another device tree: %s (%d, %d)" % (line, differ, len(devices), len(other_devices)))
    made_up = {d[0] for d in disks} - set(re.split("[=, ]", line.replace('"', " ")))
    if not made_up <= {d["device"] for d in drives}:
        raise SystemExit("%s\nQEMU has no drive of the name %s" % (line, made_up))
    names = sorted(d["device"] or d.get("node", "") for d in drives if "inserted" in d and not d["inserted"]["ro"])
    print("equal: %-110s %s" % (line.replace(os.path.dirname(where), ""), names))
    return len(disks)


def main():
    with tempfile.TemporaryDirectory(prefix="lockstep-drives-") as where:
        images = {n: "%s/%s.img" % (where, n.lower()) for n in "ABCQ"}
        for path in (images["A"], images["B"], images["C"]):
            with open(path, "wb") as f:
                # A partition table, out of which QEMU makes up a geometry.
                f.write(bytes(446) + bytes([0x80, 1, 1, 0, 0x83, 15, 63, 90]) + (63).to_bytes(4, "little") +
                        (91665).to_bytes(4, "little") + bytes(48) + b"\x55\xaa")
                f.truncate(SIZE)
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", images["Q"], str(SIZE)], check=True)
        disks = sum(one(sys.argv[1], where + "/s", line, images) for line in LINES)
        print("%d lines with %d disks" % (len(LINES), disks))


if __name__ == "__main__":
    main()
