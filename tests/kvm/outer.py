# SPDX-License-Identifier: BSD-2-Clause
"""
The outer machine of the nested bed, made of Debian packages: a kernel, and an initramfs that is its whole system.

Nothing of this host is changed or asked: apt works here with lists, sources and cache of its own, and a status file
that knows of no installed package, so that all dependencies come along. Packages are unpacked, not configured; what
runs in there (Python, iproute2, QEMU) does not need that. Root is not needed.

    DIR/apt/                lists and cached packages
    DIR/root-KEY.cpio       the system
    DIR/kernel-VERSION/     vmlinuz, modules.cpio

An initramfs may be several archives in a row: run.py adds one with the project to these two. KEY is made of the
versions of all packages and of this file; what has another one is thrown away.
"""

import glob
import hashlib
import lzma
import os
import re
import shutil
import subprocess
import time

SUITE = "bookworm"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
MIRROR = os.environ.get("LOCKSTEP_MIRROR", "http://deb.debian.org/debian")
LISTS_AGE = 24 * 3600   # seconds after which the mirror is asked for newer versions

# Lockstep's libraries, what the bed calls, and the engine.
PACKAGES = ["qemu-system-x86", "python3", "iproute2", "util-linux", "coreutils", "libgnutls30", "libjson-c5",
            "liblz4-1", "libmnl0", "libnbd0", "liburing2", "libxxhash0", "libcurl3-gnutls", "libseccomp2"]
# What the outer kernel must have; a driver that is built in, or that this kernel does not know, is passed over.
MODULES = ["kvm-amd", "tun", "veth", "bridge", "9pnet_virtio", "9p", "virtio_pci"]
# What nobody looks at in there, by far the most of it; each is loaded into memory at each boot.
LEAVE_OUT = ["usr/share/[!qs]*", "usr/share/sounds", "usr/share/sgml*", "usr/libexec", "usr/include", "var",
             "usr/bin/qemu-[!s]*", "usr/bin/qemu-storage*", "usr/bin/qemu-system-x86_64-*", "usr/bin/perl*",
             "usr/lib/qemu", "usr/lib/udev", "usr/lib/systemd", "usr/lib/python3*/test", "usr/lib/python3*/idlelib",
             "usr/lib/python3*/pydoc_data", "usr/lib/python3*/lib2to3", "usr/lib/python3*/distutils",
             "usr/lib/x86_64-linux-gnu/perl*", "usr/lib/x86_64-linux-gnu/gconv", "usr/lib/x86_64-linux-gnu/gstreamer*",
             "usr/lib/x86_64-linux-gnu/dri", "usr/share/qemu/*.dtb",
             "usr/share/qemu/openbios*", "usr/share/qemu/skiboot*", "usr/share/qemu/edk2*", "usr/share/qemu/hppa*",
             "usr/share/qemu/opensbi*", "usr/share/qemu/u-boot*", "usr/share/qemu/s390*", "usr/share/qemu/slof*",
             "usr/share/qemu/palcode*", "usr/share/qemu/firmware"]


class OuterError(Exception):
    """The outer machine cannot be made; the text says why."""


def run(cmd, **kw):
    r = subprocess.run(cmd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False, **kw)
    if r.returncode:
        said = (r.stderr.decode(errors="replace").strip() or r.stdout.decode(errors="replace").strip()).splitlines()
        raise OuterError("%s: %s" % (" ".join(cmd[:2]), said[-1] if said else "exit %d" % r.returncode))
    return r.stdout


class Apt:
    """apt with everything of its own below a directory; only how to reach the network is taken from this host."""

    def __init__(self, top):
        self.top = os.path.join(top, "apt")
        self.archives = os.path.join(self.top, "archives")
        for d in ("lists/partial", "archives/partial"):
            os.makedirs(os.path.join(self.top, d), exist_ok=True)
        if not os.path.exists(KEYRING):
            raise OuterError("%s is not there: install debian-archive-keyring" % KEYRING)
        self._write("sources.list", "".join("deb [signed-by=%s] %s %s main\n" % (KEYRING, MIRROR, s)
                                            for s in (SUITE, SUITE + "-backports")))
        self._write("status", "")
        net = [x for x in run(["apt-config", "dump"]).decode().splitlines() if x.startswith("Acquire::")]
        own = {"Dir::Etc::Main": "/dev/null", "Dir::Etc::Parts": "/dev/null", "Dir::Etc::SourceParts": "/dev/null",
               "Dir::Etc::Preferences": "/dev/null", "Dir::Etc::PreferencesParts": "/dev/null",
               "Dir::Etc::SourceList": self.top + "/sources.list", "Dir::State": self.top,
               "Dir::State::Lists": self.top + "/lists", "Dir::State::status": self.top + "/status",
               "Dir::Cache": self.top, "Dir::Cache::Archives": self.archives, "APT::Sandbox::User": "",
               "APT::Install-Recommends": "false", "APT::Architecture": "amd64", "APT::Get::Assume-Yes": "true"}
        self._write("apt.conf", "\n".join(net + ['%s "%s";' % row for row in own.items()]) + "\n")
        # Read before anything else, so that it also says where nothing else is read from.
        self.env = dict(os.environ, APT_CONFIG=self.top + "/apt.conf", LC_ALL="C", DEBIAN_FRONTEND="noninteractive")

    def _write(self, name, text):
        with open(os.path.join(self.top, name), "w", encoding="utf-8") as f:
            f.write(text)

    def call(self, *words, **kw):
        return run(list(words), env=self.env, **kw).decode()

    def refresh(self, force=False):
        """Fetches the lists when they are old; with old ones at hand a mirror that cannot be reached is no error."""
        stamp = os.path.join(self.top, "refreshed")
        if not force and os.path.exists(stamp) and time.time() - os.path.getmtime(stamp) < LISTS_AGE:
            return
        try:
            self.call("apt-get", "update", "-q", "-q", "-o", "APT::Update::Error-Mode=any")
            self._write("refreshed", "")
        except OuterError:
            if not os.path.exists(stamp):
                raise

    def closure(self, names):
        """All packages that these need, themselves included, as file names below archives."""
        rows = re.findall(r"^'[^']*' (\S+) ", self.call("apt-get", "install", "--print-uris", "-q", "-q", *names), re.M)
        have = [os.path.basename(p) for p in glob.glob(self.archives + "/*.deb")]
        # Those that are here already are not named: install says which versions it would take.
        sim = self.call("apt-get", "install", "--simulate", "-q", "-q", *names)
        files = []
        for name, version in re.findall(r"^Inst (\S+) \((\S+) ", sim, re.M):
            start = "%s_%s_" % (name, version.replace(":", "%3a"))
            files += [f for f in set(rows + have) if f.startswith(start)]
        if not files:
            raise OuterError("apt names no packages for %s" % " ".join(names))
        return sorted(set(files))

    def download(self, names):
        self.call("apt-get", "install", "--download-only", "-q", "-q", *names)

    def kernel(self, series):
        """(package, version) of Debian's newest kernel of a series, e.g. "6.12"."""
        found = []
        text = self.call("apt-cache", "show", "linux-image-amd64")
        for block in text.split("\n\n"):
            version = re.search(r"^Version: (\S+)", block, re.M)
            package = re.search(r"^Depends: (linux-image-\S+)", block, re.M)
            if version and package and version[1].startswith(series + "."):
                found.append((package[1], version[1]))
        if not found:
            raise OuterError("%s has no kernel %s" % (MIRROR, series))
        return found[0]

    def deb(self, package, version):
        path = os.path.join(self.archives, "%s_%s_amd64.deb" % (package, version.replace(":", "%3a")))
        if not os.path.exists(path):
            self.call("apt-get", "download", "-q", "-q", "%s=%s" % (package, version), cwd=self.archives)
        return path


def unpack(deb, into, *only):
    """The files of a package, links to directories that are there already left as they are (merged /usr)."""
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE) as p:
        run_tar = subprocess.run(["tar", "-x", "-C", into, "--keep-directory-symlink", "--no-same-owner", "--wildcards",
                                  *only], stdin=p.stdout, stderr=subprocess.PIPE, check=False)
    if run_tar.returncode or p.returncode:
        raise OuterError("%s cannot be unpacked: %s" % (deb, run_tar.stderr.decode(errors="replace").strip()))


def archive(root, path):
    """An initramfs archive of the tree root, without times and owners of this host."""
    names = run(["find", ".", "-print0"], cwd=root)
    with open(path + ".new", "wb") as out:
        r = subprocess.run(["cpio", "-0", "-o", "-H", "newc", "-R", "+0:+0", "--reproducible", "--quiet"], input=names,
                           stdout=out, stderr=subprocess.PIPE, cwd=root, check=False)
    if r.returncode:
        raise OuterError("cpio: %s" % r.stderr.decode(errors="replace").strip())
    os.rename(path + ".new", path)


def compile_python(root, *patterns, system=None):
    """Translates Python's modules once, here, instead of at each boot; by the system's Python, as a package would."""
    system = system or root
    lib = os.path.join(system, "usr/lib/x86_64-linux-gnu")
    run([lib + "/ld-linux-x86-64.so.2", "--library-path", lib, os.path.join(system, "usr/bin/python3"), "-m",
         "compileall", "-q", "-q", "--invalidation-mode", "unchecked-hash"] +
        [p for pattern in patterns for p in glob.glob(os.path.join(root, pattern))],
        env=dict(os.environ, PYTHONHOME=os.path.join(system, "usr")))


def build_root(top, apt, say):
    files = apt.closure(PACKAGES)
    with open(__file__, "rb") as f:
        key = hashlib.sha256(f.read() + "\n".join(files).encode()).hexdigest()[:16]
    path = os.path.join(top, "root-%s.cpio" % key)
    if os.path.exists(path):
        return path
    say("building the outer machine of %d packages", len(files))
    apt.download(PACKAGES)
    for old in glob.glob(top + "/root-*"):
        (shutil.rmtree if os.path.isdir(old) else os.unlink)(old)
    root = os.path.join(top, "root-new")
    for d in ("usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "dev", "proc", "sys", "run", "tmp", "root", "etc"):
        os.makedirs(os.path.join(root, d))
    for d in ("bin", "sbin", "lib", "lib64"):
        os.symlink("usr/" + d, os.path.join(root, d))
    for f in files:
        unpack(os.path.join(apt.archives, f), root)
    for pattern in LEAVE_OUT:
        for p in glob.glob(os.path.join(root, pattern)):
            (shutil.rmtree if os.path.isdir(p) and not os.path.islink(p) else os.unlink)(p)
    os.makedirs(os.path.join(root, "var/tmp"))
    compile_python(root, "usr/lib/python3*")
    archive(root, path)
    shutil.rmtree(root)
    return path


class Modules:
    """The modules of an unpacked kernel package, and what each needs."""

    def __init__(self, tree):
        self.file = {}
        for path in glob.glob(tree + "/**/*.ko*", recursive=True):
            self.file[os.path.basename(path).partition(".ko")[0].replace("-", "_")] = path

    def content(self, name):
        with open(self.file[name], "rb") as f:
            data = f.read()
        return lzma.decompress(data) if self.file[name].endswith(".xz") else data

    def order(self, name, seen):
        """Adds to the dict seen, in the order of loading, this module behind all that it needs: name -> content."""
        name = name.replace("-", "_")
        if name in seen or name not in self.file:
            return
        data = self.content(name)
        m = re.search(rb"\0depends=([^\0]*)\0", data)
        for need in (m[1].decode().split(",") if m and m[1] else []):
            self.order(need, seen)
        seen[name] = data


def build_kernel(top, apt, series, say):
    """(directory, version): vmlinuz and modules.cpio, with /modules/NN-NAME.ko in the order of loading."""
    package, version = apt.kernel(series)
    path = os.path.join(top, "kernel-" + version)
    if os.path.exists(path):
        return path, version
    say("unpacking Debian's kernel %s", version)
    new = os.path.join(top, "kernel-new")
    shutil.rmtree(new, ignore_errors=True)
    os.makedirs(new + "/all")
    os.makedirs(new + "/root/modules")
    unpack(apt.deb(package, version), new + "/all", "./boot/vmlinuz-*", "./lib/modules/*/kernel/*")
    modules, seen = Modules(new + "/all/lib/modules"), {}
    for name in MODULES:
        modules.order(name, seen)
    if "kvm_amd" not in seen:
        raise OuterError("the kernel %s has no kvm-amd" % version)
    for i, (name, data) in enumerate(seen.items()):
        with open("%s/root/modules/%02d-%s.ko" % (new, i, name), "wb") as f:
            f.write(data)
    archive(new + "/root", new + "/modules.cpio")
    shutil.move(glob.glob(new + "/all/boot/vmlinuz-*")[0], new + "/vmlinuz")
    shutil.rmtree(new + "/all")
    shutil.rmtree(new + "/root")
    os.rename(new, path)
    return path, version


def build(top, series, say):
    """
    Makes, or finds made, the outer machine below the directory top for each kernel series.
    Returns (archive of the system, {series: (directory with vmlinuz and modules.cpio, version)}).
    """
    os.makedirs(top, exist_ok=True)
    apt = Apt(top)
    for again in (False, True):
        try:
            apt.refresh(force=again)
            return build_root(top, apt, say), {s: build_kernel(top, apt, s, say) for s in series}
        except OuterError:
            # The mirror may have newer versions than these lists.
            if again:
                raise
            for d in ("root-new", "kernel-new"):
                shutil.rmtree(os.path.join(top, d), ignore_errors=True)
    return None
