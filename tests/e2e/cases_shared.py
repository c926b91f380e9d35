# SPDX-License-Identifier: BSD-2-Clause
"""Disks that both nodes share: one image, and a fence before it is taken over."""

import os
import subprocess

from bed import VM_NAME, LOCKSTEP, Machine, until
from cases_disk import sha
from cases_pair import mixed_load, pause
from harness import case, must, note, same, say
from load import Ask, ms

SHARED = "--shared-disk"


def machine(bed, mb=64, fmt="raw"):
    """A VM whose disk lies in a directory that both nodes see."""
    common = bed.dir + "/common"
    os.makedirs(common, exist_ok=True)
    with open(common + "/disk.img", "wb") as f:
        f.write(os.urandom(4 << 20))
        f.truncate(mb << 20)
    return Machine("pc", "virtio-net-pci",
                   extra=["-drive", "file=@DIR@/../common/disk.img,format=%s,if=virtio,id=d" % fmt])


def fence(bed, command):
    return [SHARED, "--fence-command", command.replace("@DIR@", bed.dir), "--fence-timeout", "20000"]


def image(bed):
    return bed.dir + "/common/disk.img"


def begin_writing(ask):
    """A load that can be verified, and a log of lines that were told to be flushed."""
    same(ask("disk vda log 1048576 8388608"), "ok", "the log")
    same(ask("disk vda load 200 16777216 1048576 77"), "ok", "the load")


def append(ask, lines):
    for i in range(lines):
        n = ask("disk vda append line")
        must(n.isdigit(), "append: %s", n)
    return int(n)


def checked(ask, lines):
    """Everything that was told to be on the disk is there, once."""
    same(ask("disk vda verify"), "ok", "the load's records")
    same(int(ask("disk vda appended").split()[0]), lines, "lines in the log")


@case("disk", timeout=300)
def shared_failover(bed):
    """The primary dies in the middle of an epoch: what it has overwritten is put back, and the VM's disk is whole."""
    bed.start_pair(machine(bed), fence(bed, 'echo "$LOCKSTEP_VM $LOCKSTEP_PEER" >> @DIR@/fenced'))
    with Ask(bed) as ask, mixed_load(bed) as load:
        begin_writing(ask)
        lines = append(ask, 20)
        for _ in range(3):
            load.wait_answers(5, 60)
            bed.a.call("checkpoint", VM_NAME, timeout=30)
            lines = append(ask, 5)
        p50 = pause(bed.a)
        load.wait_answers(5, 60)
        say("a: %s", bed.a.status()["disk"])
        say("b: %s", bed.b.status()["disk"])
        must(bed.a.status()["disk"]["kept"] > 0, "no old content was kept")
        same(bed.b.status()["disk"]["written_back"], 0, "bytes that the standing-by node has written")
        bed.kill(bed.a, "both")
        bed.wait_alone(bed.b, 30)
        load.wait_answers(10, 60)
        with open(bed.dir + "/fenced", encoding="utf-8") as f:
            same(f.read().split()[0], VM_NAME, "what the fence command was told")
        lines = append(ask, 5)
        checked(ask, lines)
        until(lambda: not bed.b.status()["disk"]["merging"], 30, "the merge")
        say("b: %s", bed.b.status()["disk"])
        lines = append(ask, 5)
        checked(ask, lines)
        note("gap %s, checkpoint pause p50 %.1f ms", ms(load.gap()), p50)
        load.finish()


@case("disk", timeout=240)
def shared_unfenced(bed):
    """A fence that fails: the VM stands, nothing is written; it goes on when the fence has succeeded."""
    bed.start_pair(machine(bed), fence(bed, "test -e @DIR@/off"))
    with Ask(bed) as ask:
        begin_writing(ask)
        lines = append(ask, 10)
        bed.a.call("checkpoint", VM_NAME, timeout=30)
        bed.kill(bed.a, "both")
        until(lambda: (bed.b.status() or {}).get("phase") == "unfenced", 30, "node b without a fence")
        s = bed.b.status()
        same(s["state"], "standby", "node b's state")
        must(any("was not fenced" in w for w in s["warnings"]), "status does not say it: %s", s["warnings"])
        must("the fence command has failed with exit status 1" in bed.b.said(), "the log does not say it")
        before = sha(image(bed))
        until(lambda: bed.b.said().count("fencing the peer") > 1, 30, "another try")
        same(sha(image(bed)), before, "the image")
        with open(bed.dir + "/off", "w", encoding="utf-8"):
            pass
        bed.b.call("failover", VM_NAME, timeout=30)
        bed.wait_alone(bed.b, 30)
        checked(ask, lines)
        checked(ask, append(ask, 5))


@case("disk", timeout=240)
def shared_no_fence(bed):
    """Without a fence command a node does not take over, and says so."""
    bed.start_pair(machine(bed), [SHARED])
    must("there is no --fence-command" in bed.b.said(), "the log does not say it at the start")
    bed.kill(bed.a, "both")
    until(lambda: (bed.b.status() or {}).get("phase") == "unfenced", 30, "node b without a fence")
    must("no fence command is configured" in bed.b.said(), "the log does not say why")


@case("disk", timeout=240)
def shared_cut(bed):
    """The link is cut and both live: one of them goes on, mostly the one that served, and the other one ends."""
    bed.start_pair(machine(bed), fence(bed, "touch @DIR@/fenced"))
    with Ask(bed) as ask:
        begin_writing(ask)
        lines = append(ask, 10)
        bed.cut_link()
        until(lambda: bed.a.proc.ended() or bed.b.proc.ended(), 40, "the end of a node")
        left, gone = (bed.a, bed.b) if bed.b.proc.ended() else (bed.b, bed.a)
        say("node %s goes on", left.name)
        bed.wait_alone(left, 30)
        same(gone.proc.wait(5, "the other node"), 3, "the other node's exit status")
        must("has claimed the shared images" in gone.said(), "it does not say why it ends")
        same(os.path.exists(bed.dir + "/fenced"), left is bed.b, "whether the fence command was run")
        lines = append(ask, 10)
        checked(ask, lines)


@case("disk", timeout=300)
def shared_again(bed):
    """The node that died comes back and stands by, and takes over when the other one dies."""
    m, options = machine(bed), fence(bed, "true")
    bed.start_pair(m, options)
    with Ask(bed) as ask:
        begin_writing(ask)
        append(ask, 5)
        bed.kill(bed.a, "both")
        bed.wait_alone(bed.b, 30)
        lines = append(ask, 5)
        bed.a.proc.wait(15, "node a")
        bed.a.start("joiner", m, options)
        bed.wait_protected(90, server=bed.b)
        lines = append(ask, 5)
        must(bed.b.status()["disk"]["kept"] > 0, "no old content was kept")
        bed.kill(bed.b, "both")
        bed.wait_alone(bed.a, 30)
        checked(ask, lines)
        checked(ask, append(ask, 5))


@case("disk", timeout=240)
def shared_handover(bed):
    """A primary that is told to end has written everything when it says so: no fence is needed."""
    bed.start_pair(machine(bed), fence(bed, "false"))
    with Ask(bed) as ask:
        begin_writing(ask)
        lines = append(ask, 10)
        bed.a.quit(30)
        bed.wait_alone(bed.b, 30)
        checked(ask, append(ask, 5))
        must("fencing" not in bed.b.said(), "node a was fenced")


def refused(bed, sentence, argv):
    r = subprocess.run(["ip", "netns", "exec", bed.ns("b")] + argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, text=True, timeout=60, check=False)
    must(r.returncode and sentence in r.stdout, "not refused with '%s' but (%d): %s", sentence, r.returncode, r.stdout)


@case("disk", timeout=120)
def shared_refusals(bed):
    """What cannot be shared, and who may not share it."""
    m = machine(bed)
    argv = bed.b.lockstep_argv("secondary", m, [SHARED])
    refused(bed, "only a raw image can be shared", [a.replace("format=raw", "format=qcow2") for a in argv])
    refused(bed, "--fence-command is for --shared-disk", bed.b.lockstep_argv("secondary", m, ["--fence-command", "true"]))
    bed.b.start("secondary", m, [SHARED])
    until(lambda: bed.b.must_live() or bed.b.status(), 30, "node b's control socket")
    refused(bed, "as the node that stands by already",
            bed.b.lockstep_argv("secondary", m, [SHARED], name="third"))
    refused(bed, "the image is in use by", [LOCKSTEP, "nbd", "--socket", bed.dir + "/nbd", image(bed)])
    # A node that does not share its disk.
    with open(bed.a.dir + "/own.img", "wb") as f:
        f.truncate(64 << 20)
    bed.a.start("primary", Machine("pc", "virtio-net-pci",
                                   extra=["-drive", "file=@DIR@/own.img,format=raw,if=virtio,id=d"]))
    until(lambda: "shared-disk" in bed.a.said() + bed.b.said(), 40, "the difference, in a log")
