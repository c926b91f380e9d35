# SPDX-License-Identifier: BSD-2-Clause
"""
The plumbing of the bed: namespaces, bridges, cables and addresses (bed.py has the picture), and the sockets of the
programs in them.

What every bed has: one NIC a node, IPv4, 1500 bytes. What a test may have besides (Plan): IPv6, a second NIC with a
bridge, a switch and a client's port of its own, a VLAN on the first NIC, a longer MTU on the whole path, a second cable
between the nodes (link1), and a namespace e for a witness with a cable to each node (wit0).

A cable can be made to swallow what goes one way (Wires.block), with the interfaces up as before: so a broken switch
looks, or a firewall.

IPv6 is off on every port but the client's, and there only when it is wanted, without autoconfiguration, router
solicitation and duplicate address detection. Neighbours are found out by ARP and ND, nothing is put in by hand.
"""

import contextlib
import ctypes
import ipaddress
import os
import re
import signal
import socket
import subprocess
import time

SANITIZED = os.environ.get("LOCKSTEP_SANITIZED") == "1"
# what every deadline is multiplied by
PATIENCE = int(os.environ.get("LOCKSTEP_PATIENCE", 3 if SANITIZED else 1))

GUEST_IP, CLIENT_IP, NODE_IP = "192.0.2.10", "192.0.2.100", {"a": "192.0.2.129", "b": "192.0.2.130"}
GUEST_IP6, CLIENT_IP6 = "2001:db8::10", "2001:db8::100"
# The second cable between the nodes; the witness's cables: (the node's address, the witness's)
NODE_IP2 = {"a": "192.0.2.133", "b": "192.0.2.134"}
WITNESS_IP = {"a": ("192.0.2.194", "192.0.2.193"), "b": ("192.0.2.198", "192.0.2.197")}
GUEST_MAC = "52:54:00:00:02:10"
# The second NIC and the VLAN: (the guest's address, the client's, prefix length)
ETH1, ETH1_6 = ("192.0.2.161", "192.0.2.174", 28), ("2001:db8:1::10", "2001:db8:1::100", 64)
VLAN_NET, VLAN_NET6 = ("192.0.2.177", "192.0.2.190", 28), ("2001:db8:7::10", "2001:db8:7::100", 64)

CLONE_NEWNET = 0x40000000
DROP_ALL = "1,6 0 0 2"      # classic BPF for tc: return TC_ACT_SHOT
_libc = ctypes.CDLL(None, use_errno=True)


class BedError(Exception):
    """The bed or what runs in it did not do what it should."""


def ip(*words, ns=None, check=True):
    cmd = ["ip"] + (["-n", ns] if ns else []) + list(words)
    r = subprocess.run(cmd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                       check=False)
    if check and r.returncode:
        raise BedError("%s: %s" % (" ".join(cmd), r.stderr.strip()))
    return r.stdout


def tc(*words, ns):
    """What tc complains of, or nothing."""
    r = subprocess.run(["tc", "-n", ns] + list(words), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                       stderr=subprocess.PIPE, text=True, check=False)
    return r.stderr.strip() or "exit %d" % r.returncode if r.returncode else ""


def _alive(pid):
    try:
        os.kill(pid, 0)
        return True
    except ProcessLookupError:
        return False
    except PermissionError:
        return True


def kill_all_in(ns):
    """Ends every process that still lives in one of our namespaces, the bed's own process excepted."""
    for _ in range(50):
        pids = [int(p) for p in ip("netns", "pids", ns, check=False).split() if int(p) != os.getpid()]
        if not pids:
            return
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def sweep(pid=None):
    """Takes away what the dead process pid (default: any dead one) has left behind."""
    for line in ip("netns", "list", check=False).splitlines():
        m = re.match(r"(ls(\d+)(?:\.\d+)?-\w+)", line)
        if m and (int(m[2]) == pid if pid else not _alive(int(m[2]))):
            kill_all_in(m[1])
            ip("netns", "del", m[1], check=False)


def enter(namespace):
    """This thread is in a network namespace from now on, given by name or as an open file."""
    if isinstance(namespace, str):
        with open("/run/netns/" + namespace, encoding="utf-8") as f:
            enter(f)
    elif _libc.setns(namespace.fileno(), CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def family(host):
    return socket.AF_INET6 if ":" in host else socket.AF_INET


class Plan:
    """What a bed has beyond the least."""

    def __init__(self, v6=False, nics=1, vlan=None, mtu=1500, links=1, witness=False):
        self.v6, self.nics, self.vlan, self.mtu, self.links, self.witness = v6, nics, vlan, mtu, links, witness

    def append(self):
        """What the guest must be told of it on its kernel's command line."""
        words = ["lockstep.ip=%s/25" % GUEST_IP, "lockstep.gw=" + CLIENT_IP]
        if self.v6:
            words += ["lockstep.ip6=%s/64" % GUEST_IP6, "lockstep.gw6=" + CLIENT_IP6]
        if self.nics > 1:
            words.append("lockstep.ip.eth1=%s/%d" % (ETH1[0], ETH1[2]))
            if self.v6:
                words.append("lockstep.ip6.eth1=%s/%d" % (ETH1_6[0], ETH1_6[2]))
        if self.vlan:
            words.append("lockstep.vlan=%d:%s/%d" % (self.vlan, VLAN_NET[0], VLAN_NET[2]))
            if self.v6:
                words.append("lockstep.vlan6=%d:%s/%d" % (self.vlan, VLAN_NET6[0], VLAN_NET6[2]))
        if self.mtu != 1500:
            words.append("lockstep.mtu=%d" % self.mtu)
        return " ".join(words)

    def argv(self, nic):
        """QEMU's options for the NICs; nic: the device model."""
        words = []
        for i in range(self.nics):
            mac = GUEST_MAC[:-1] + str(int(GUEST_MAC[-1]) + i)
            words += ["-netdev", "tap,id=n%d,ifname=tap%d,script=no,downscript=no" % (i, i),
                      "-device", "%s,netdev=n%d,mac=%s" % (nic, i, mac)]
        return words

    def client_addresses(self):
        """(interface of the client, its IPv4 address, its IPv6 address or None), each with prefix length"""
        rows = [("eth0", CLIENT_IP + "/25", CLIENT_IP6 + "/64")]
        if self.nics > 1:
            rows.append(("eth1", "%s/%d" % ETH1[1:], "%s/%d" % ETH1_6[1:]))
        if self.vlan:
            rows.append(("eth0.%d" % self.vlan, "%s/%d" % VLAN_NET[1:], "%s/%d" % VLAN_NET6[1:]))
        return [(dev, v4, v6 if self.v6 else None) for dev, v4, v6 in rows]


class Wires:
    """The namespaces of one bed. Names begin with prefix; made lists what take_down() has to take away."""

    def __init__(self, prefix, plan):
        self.prefix, self.plan, self.made = prefix, plan, []

    def ns(self, name):
        return "%s-%s" % (self.prefix, name)

    @contextlib.contextmanager
    def inside(self, name):
        """This thread is in a namespace of the bed meanwhile. A socket stays in the one that it was made in."""
        with open("/proc/thread-self/ns/net", encoding="utf-8") as back:
            enter(self.ns(name))
            try:
                yield
            finally:
                try:
                    enter(back)
                except OSError:
                    os._exit(70)  # a thread in the wrong namespace would do harm

    def socket(self, where="c", kind=socket.SOCK_STREAM, fam=socket.AF_INET, proto=0):
        with self.inside(where):
            return socket.socket(fam, kind, proto)

    def connect(self, port, where="c", host=GUEST_IP, timeout=10.0):
        s = self.socket(where, fam=family(host))
        try:
            s.settimeout(timeout * PATIENCE)
            s.connect((host, port))
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except BaseException:
            s.close()
            raise
        return s

    # -- making and taking down

    def _set(self, name, key, value):
        """A setting of IPv6 in a namespace; no IPv6 in this kernel is no error unless it is wanted."""
        with self.inside(name), contextlib.suppress(*(() if self.plan.v6 else (FileNotFoundError,))):
            with open("/proc/sys/net/ipv6/conf/%s" % key, "w", encoding="utf-8") as f:
                f.write("%s\n" % value)

    def _cable(self, n, far, port, switch):
        """From a port of a switch to the interface far in namespace n."""
        ip("link", "add", port, "type", "veth", "peer", "name", far, "netns", self.ns(n), ns=self.ns("s"))
        ip("link", "set", port, "mtu", str(self.plan.mtu), "master", switch, "up", ns=self.ns("s"))
        ip("link", "set", far, "mtu", str(self.plan.mtu), ns=self.ns(n))

    def _network(self, i):
        """The i-th network: a bridge with TAP and cable on both nodes, the switch, the client's port."""
        bridge, up, tap, mtu = "br%d" % i, "up%d" % i, "tap%d" % i, str(self.plan.mtu)
        for n in "abs":
            ip("link", "add", bridge, "type", "bridge", "stp_state", "0", "forward_delay", "0", "mcast_snooping", "0",
               ns=self.ns(n))
            ip("link", "set", bridge, "mtu", mtu, "up", ns=self.ns(n))
        for n in "ab":
            self._cable(n, up, "port-%s%d" % (n, i), bridge)
            ip("link", "set", up, "master", bridge, "up", ns=self.ns(n))
            ip("tuntap", "add", tap, "mode", "tap", ns=self.ns(n))
            ip("link", "set", tap, "mtu", mtu, "master", bridge, "up", ns=self.ns(n))
        self._cable("c", "eth%d" % i, "port-c%d" % i, bridge)

    def _client(self, dev, v4, v6):
        if "." in dev:  # tagger.py serves it
            ip("tuntap", "add", dev, "mode", "tap", ns=self.ns("c"))
            ip("link", "set", dev, "address", self._mac("eth0"), "mtu", str(self.plan.mtu), ns=self.ns("c"))
        ip("address", "add", v4, "dev", dev, ns=self.ns("c"))
        if not v6:
            ip("link", "set", dev, "up", ns=self.ns("c"))
            return
        for key, value in (("addr_gen_mode", 1), ("accept_ra", 0), ("autoconf", 0), ("router_solicitations", 0),
                           ("accept_dad", 0), ("dad_transmits", 0), ("disable_ipv6", 0)):
            self._set("c", "%s/%s" % (dev, key), value)
        ip("link", "set", dev, "up", ns=self.ns("c"))
        # A host asks its neighbours from its link-local address when it makes sure that they are still there.
        ip("address", "add", "fe80::100/64", "dev", dev, "nodad", ns=self.ns("c"))
        ip("address", "add", v6, "dev", dev, "nodad", ns=self.ns("c"))

    def _mac(self, dev):
        return re.search(r"link/ether (\S+)", ip("link", "show", "dev", dev, ns=self.ns("c")))[1]

    def _direct(self, n, far, near_dev, far_dev, near_ip, far_ip):
        """A cable between two namespaces with an address at each end."""
        ip("link", "add", near_dev, "type", "veth", "peer", "name", far_dev, "netns", self.ns(far), ns=self.ns(n))
        for where, dev, address in ((n, near_dev, near_ip), (far, far_dev, far_ip)):
            ip("address", "add", address + "/30", "dev", dev, ns=self.ns(where))
            ip("link", "set", dev, "up", ns=self.ns(where))

    def build(self):
        for n in "abcse" if self.plan.witness else "abcs":
            ip("netns", "add", self.ns(n))
            self.made.append(self.ns(n))
            for key in ("all", "default"):
                self._set(n, key + "/disable_ipv6", 1)
            ip("link", "set", "lo", "up", ns=self.ns(n))
        if self.plan.v6:
            self._set("c", "all/disable_ipv6", 0)
            self._set("c", "default/disable_ipv6", 1)
        for i in range(self.plan.nics):
            self._network(i)
        for i, address in enumerate((NODE_IP, NODE_IP2)[:self.plan.links]):
            self._direct("a", "b", "link%d" % i, "link%d" % i, address["a"], address["b"])
        for n in "ab" if self.plan.witness else "":
            self._direct(n, "e", "wit0", "wit-" + n, *WITNESS_IP[n])
        for dev, v4, v6 in self.plan.client_addresses():
            self._client(dev, v4, v6)

    def block(self, name, dev, on=True):
        """
        From now on nothing comes in at an interface any more, or everything does again. Who sends notices nothing.
        False: this kernel cannot do it.
        """
        if not on:
            return not tc("qdisc", "del", "dev", dev, "clsact", ns=self.ns(name))
        return not (tc("qdisc", "add", "dev", dev, "clsact", ns=self.ns(name)) or
                    tc("filter", "add", "dev", dev, "ingress", "bpf", "da", "bytecode", DROP_ALL, ns=self.ns(name)))

    def patient(self):
        """
        From now on the client's TCP waits 2 s before it takes something for lost and sends no tail loss probes: where
        two guests are emulated on one busy machine, an answer may be late by more than these timers allow.
        """
        with self.inside("c"), open("/proc/sys/net/ipv4/tcp_early_retrans", "w", encoding="utf-8") as f:
            f.write("0\n")
        for dev, *addresses in self.plan.client_addresses():
            for a in filter(None, addresses):
                net = str(ipaddress.ip_interface(a).network)
                same = ["proto", "kernel", "metric", "256"] if ":" in net else []
                ip("route", "replace", net, "dev", dev, *same, "rto_min", "2s", ns=self.ns("c"))

    def take_down(self):
        for ns in self.made:
            kill_all_in(ns)
            ip("netns", "del", ns, check=False)
