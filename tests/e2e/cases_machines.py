# SPDX-License-Identifier: BSD-2-Clause
"""
Kinds of machines, each through five checkpoints and a failover. Guest memory is compared at every one of them where
that does not take long, which is why most of these machines are small.
"""

import os
import random
import re
import shutil

from bed import Machine, Skip, until
from cases_pair import five_checkpoints_and_a_failover
from harness import case, must, note, same, seed_from
from load import Ask, xxh64
from screen import Screen, iso

MEMCHECK = {"LOCKSTEP_MEMCHECK": "1"}
OVMF = "/usr/share/OVMF"


def go(bed, machine, before=None, after=None, env=MEMCHECK):
    five_checkpoints_and_a_failover(bed, machine, env, before, after)
    if not env:
        return
    equal, differs = (len(re.findall("memcheck: memory " + w, bed.b.said())) for w in ("equal", "differs"))
    must(equal >= 5 and not differs, "memory was equal %d times and differed %d times", equal, differs)


def ask_guest(bed, line):
    # The guest may have to fill gigabytes before it answers.
    with Ask(bed, timeout=150) as ask:
        return ask(line)


@case("machines", timeout=240)
def vga_screen(bed):
    """The screen of the VM that took over is the primary's last one, pixel by pixel."""
    m = Machine("pc", mem=256, append="console=tty0 console=ttyS0 vt.global_cursor_default=0",
                extra=["-vga", "std", "-vnc", "unix:@DIR@/vnc"])
    seen = {}

    def before():
        # Written after the first synchronisation, and again after the last checkpoint by both copies.
        for i in range(30):
            same(ask_guest(bed, "put /dev/tty0 line %d of a text that a failover must not lose" % i), "ok", "put")
        bed.a.call("checkpoint", "web", timeout=30)
        seen["a"] = Screen(bed.a.dir + "/vnc")

    def after():
        b = Screen(bed.b.dir + "/vnc")
        must(b.lit() > 5000, "the screen shows %d pixels", b.lit())
        must(b.same(seen["a"]), "the screen is another one (%d pixels, %d before)", b.lit(), seen["a"].lit())
        note("%dx%d, %d pixels lit", b.width, b.height, b.lit())
    go(bed, m, before, after)


def cdrom(bed, machine, options):
    rng = random.Random(seed_from())
    image = iso("DATA.BIN", rng.randbytes(600000))
    for node in (bed.a, bed.b):
        with open(node.dir + "/cd.iso", "wb") as f:
            f.write(image)
    want = xxh64(image).decode()
    ask = "hash /dev/sr0 %d" % len(image)

    def look():
        same(ask_guest(bed, ask), want, "what the guest reads from the CD-ROM")
    go(bed, Machine(machine, mem=384, generic=True, append="lockstep.cdroms=1",
                    extra=options), look, look)


@case("machines", timeout=240)
def cdrom_ide(bed):
    cdrom(bed, "pc", ["-cdrom", "@DIR@/cd.iso"])


@case("machines", timeout=240)
def cdrom_ahci(bed):
    cdrom(bed, "q35", ["-drive", "file=@DIR@/cd.iso,format=raw,media=cdrom,readonly=on,if=none,id=cd",
                       "-device", "ide-cd,drive=cd,bus=ide.1"])


@case("machines", timeout=240)
def rng_and_console(bed):
    """virtio-rng gives each copy other bytes; what the guest writes to a virtio console goes to its own host."""
    m = Machine("pc", mem=256, extra=["-device", "virtio-rng-pci", "-device", "virtio-serial-pci", "-chardev",
                                      "file,id=hvc,path=@DIR@/hvc", "-device", "virtconsole,chardev=hvc"])

    def write(word):
        # A console is a terminal: its line ends are its own.
        same(ask_guest(bed, "put /dev/hvc0 " + word), "ok", "put")

    def said(node):
        with open(node.dir + "/hvc", encoding="utf-8") as f:
            return f.read()

    def before():
        must(re.fullmatch("[0-9a-f]{16}", ask_guest(bed, "hash /dev/hwrng 64")), "virtio-rng")
        write("before")
        until(lambda: "before" in said(bed.a), 10, "the console on node a")

    def after():
        must(re.fullmatch("[0-9a-f]{16}", ask_guest(bed, "hash /dev/hwrng 64")), "virtio-rng")
        write("afterwards")
        until(lambda: "afterwards" in said(bed.b), 10, "the console on node b")
        must("afterwards" not in said(bed.a), "the dead primary's console goes on")
    go(bed, m, before, after)


@case("machines", timeout=240)
def usb_tablet(bed):
    go(bed, Machine("pc", mem=384, generic=True, extra=["-device", "piix3-usb-uhci,id=uhci", "-device",
                                                        "usb-tablet,bus=uhci.0"]))


@case("machines", timeout=240)
def cards_of_all_kinds(bed):
    """Graphics cards with memory of other kinds; the guest need not drive them."""
    go(bed, Machine("q35", mem=256, extra=["-vga", "none", "-device", "cirrus-vga", "-device", "bochs-display",
                                           "-device", "secondary-vga", "-device", "qxl", "-device",
                                           "virtio-gpu-pci"]))


@case("machines", timeout=290)
def ovmf(bed):
    """Firmware in flash memory; the variables that the guest writes are carried, and each node keeps a file of them."""
    if not os.path.exists(OVMF + "/OVMF_CODE_4M.fd"):
        raise Skip("the package ovmf is not installed")
    for node in (bed.a, bed.b):
        shutil.copy(OVMF + "/OVMF_VARS_4M.fd", node.dir + "/vars.fd")
    flash = ["-drive", "if=pflash,unit=0,format=raw,readonly=on,file=%s/OVMF_CODE_4M.fd" % OVMF,
             "-drive", "if=pflash,unit=1,format=raw,file=@DIR@/vars.fd"]

    def after():
        stores = []
        for node in (bed.a, bed.b):
            with open(node.dir + "/vars.fd", "rb") as f:
                stores.append(f.read())
        with open(OVMF + "/OVMF_VARS_4M.fd", "rb") as f:
            must(f.read() != stores[0], "the firmware has written no variables")
        must(stores[0] == stores[1], "the two nodes' files of variables differ")
    go(bed, Machine("q35", mem=256, extra=flash), None, after)


@case("machines", timeout=290)
def ovmf_bios(bed):
    """The same firmware in one file, as -bios: its variables live in memory only."""
    if not os.path.exists("/usr/share/ovmf/OVMF.fd"):
        raise Skip("the package ovmf is not installed")
    go(bed, Machine("pc", mem=256, extra=["-bios", "/usr/share/ovmf/OVMF.fd"]))


@case("machines", timeout=240)
def smp4(bed):
    go(bed, Machine("pc", mem=256, extra=["-smp", "4"]))


def above_the_hole(bed, machine, mb):
    """The guest writes so many MB, which do not all fit below the hole, goes through checkpoints, and checks them."""
    def check(when):
        must(ask_guest(bed, "check").startswith("ok"), "the guest's own check of its memory %s", when)

    def before():
        must(ask_guest(bed, "dirty 2000 %d" % mb) == "ok", "dirty")
        check("before")
        for _ in range(5):
            bed.a.call("checkpoint", "web", timeout=60)
        check("after five checkpoints")
    go(bed, machine, before, lambda: check("after the failover"), env=None)


@case("machines", timeout=290)
def memory_4g(bed):
    """Memory on both sides of the hole below 4 GB."""
    above_the_hole(bed, Machine("pc", mem=4096), 1900)


@case("machines", timeout=290)
def memory_8g(bed):
    above_the_hole(bed, Machine("q35", mem=8192), 3000)
