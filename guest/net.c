/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * net.c - the interfaces of the test guest
 *
 * Nothing may leave an interface that nobody asked for (two copies would say it at different times). IPv6 is switched off
 * on each interface that has no IPv6 address, before it is up; on the others there is no router solicitation, no
 * duplicate address detection and no autoconfiguration, and the kernel does not probe neighbours that it has heard of.
 *
 * Parameters on the kernel command line (README.md says what they mean): lockstep.ip, .ip6, .gw, .gw6 and .mtu are
 * eth0's; lockstep.ip.ethN and lockstep.ip6.ethN make a further interface; lockstep.vlan and .vlan6 make eth0.ID. They
 * are read where they are used: there is no list of interfaces to keep.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_vlan.h>
#include <linux/ipv6.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <net/route.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "init.h"

enum {
	NIC_WAIT_MS = 10000,
	VLAN_WAIT_MS = 3000,
	NICS_MAX = 8,		/* eth0 to eth7 */
	NAME_MAX_LEN = 32,	/* of a parameter */
	VALUE_MAX_LEN = 64,
};

static int fd4, fd6;

/* The name of eth@n's parameter @base: lockstep.ip for eth0, lockstep.ip.eth1 for eth1. */
static const char *name_of(char *buf, const char *base, int n)
{
	snprintf(buf, NAME_MAX_LEN, n ? "lockstep.%s.eth%d" : "lockstep.%s", base, n);
	return buf;
}

static bool has(const char *base, int n)
{
	char name[NAME_MAX_LEN];

	return parameter(name_of(name, base, n), NULL, 0);
}

static bool wanted(int n)
{
	return !n || has("ip", n) || has("ip6", n);
}

static void no_ipv6(const char *dev)
{
	char name[64];

	/* With a dot in its name, as eth0.5, the path is still right: only sysctl(8) takes dots for slashes. */
	snprintf(name, sizeof(name), "net/ipv6/conf/%s/disable_ipv6", dev);
	if (!access("/proc/sys/net/ipv6", F_OK))
		set_sysctl(name, "1");
}

static int if_up(const char *dev)
{
	struct ifreq ifr = { 0 };

	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", dev);
	if (ioctl(fd4, SIOCGIFFLAGS, &ifr))
		return -errno;
	ifr.ifr_flags |= IFF_UP;
	return ioctl(fd4, SIOCSIFFLAGS, &ifr) ? -errno : 0;
}

bool network_prepare(void)
{
	bool v6 = has("vlan6", 0);
	int n, rc;

	fd4 = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	fd6 = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	rc = if_up("lo");
	if (rc)
		say("lockstep-guest: error: lo: %s", strerror(-rc));
	set_sysctl("net/core/somaxconn", "4096");
	/* What is heard of a neighbour is believed for good: asking again comes by timer. */
	set_sysctl("net/ipv4/neigh/default/delay_first_probe_time", "1000000");
	for (n = 0; n < NICS_MAX; n++)
		v6 |= has("ip6", n);
	if (access("/proc/sys/net/ipv6", F_OK))
		return false;
	if (!v6) {
		set_sysctl("net/ipv6/conf/default/disable_ipv6", "1");
		return false;
	}
	set_sysctl("net/ipv6/neigh/default/delay_first_probe_time", "1000000");
	/* Each address joins a multicast group, which is told to routers: once, and before this guest is ready. */
	set_sysctl("net/ipv6/mld_qrv", "1");
	set_sysctl("net/ipv6/conf/default/mldv2_unsolicited_report_interval", "1");
	set_sysctl("net/ipv6/conf/default/accept_ra", "0");
	set_sysctl("net/ipv6/conf/default/autoconf", "0");
	set_sysctl("net/ipv6/conf/default/router_solicitations", "0");
	set_sysctl("net/ipv6/conf/default/dad_transmits", "0");
	set_sysctl("net/ipv6/conf/default/accept_dad", "0");
	return true;
}

/* Cuts "ADDR/PREFIX" in two. Return: the prefix length, or @otherwise when there is none. */
static int cut_prefix(char *s, int otherwise)
{
	char *slash = strchr(s, '/');

	if (!slash)
		return otherwise;
	*slash = '\0';
	return atoi(slash + 1);
}

static int set_address(const char *dev, char *value)
{
	struct ifreq ifr = { 0 };
	struct sockaddr_in *sin = (struct sockaddr_in *)&ifr.ifr_addr;
	int prefix = cut_prefix(value, 24);

	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", dev);
	sin->sin_family = AF_INET;
	if (prefix < 1 || prefix > 32 || inet_pton(AF_INET, value, &sin->sin_addr) != 1)
		return -EINVAL;
	if (ioctl(fd4, SIOCSIFADDR, &ifr))
		return -errno;
	sin->sin_addr.s_addr = htonl(UINT32_MAX << (32 - prefix));
	return ioctl(fd4, SIOCSIFNETMASK, &ifr) ? -errno : 0;
}

static int set_gateway(const char *dev, char *value)
{
	struct rtentry rt = { .rt_flags = RTF_UP | RTF_GATEWAY };
	struct sockaddr_in *gw = (struct sockaddr_in *)&rt.rt_gateway;

	gw->sin_family = rt.rt_dst.sa_family = rt.rt_genmask.sa_family = AF_INET;
	if (inet_pton(AF_INET, value, &gw->sin_addr) != 1)
		return -EINVAL;
	return ioctl(fd4, SIOCADDRT, &rt) ? -errno : 0;
}

static int set_address6(const char *dev, char *value)
{
	struct in6_ifreq ifr = { .ifr6_ifindex = (int)if_nametoindex(dev) };
	int prefix = cut_prefix(value, 64);

	if (prefix < 1 || prefix > 128 || inet_pton(AF_INET6, value, &ifr.ifr6_addr) != 1)
		return -EINVAL;
	ifr.ifr6_prefixlen = (uint32_t)prefix;
	return ioctl(fd6, SIOCSIFADDR, &ifr) ? -errno : 0;
}

static int set_gateway6(const char *dev, char *value)
{
	struct in6_rtmsg rt = { .rtmsg_flags = RTF_UP | RTF_GATEWAY, .rtmsg_metric = 1 };

	rt.rtmsg_ifindex = (int)if_nametoindex(dev);
	if (inet_pton(AF_INET6, value, &rt.rtmsg_gateway) != 1)
		return -EINVAL;
	return ioctl(fd6, SIOCADDRT, &rt) ? -errno : 0;
}

static int set_mtu(const char *dev, char *value)
{
	struct ifreq ifr = { .ifr_mtu = atoi(value) };

	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", dev);
	return ioctl(fd4, SIOCSIFMTU, &ifr) ? -errno : 0;
}

/* Whether the file @what of interface @dev in sysfs begins with @word. */
static bool says(const char *dev, const char *what, const char *word)
{
	char path[64], said[16];

	snprintf(path, sizeof(path), "/sys/class/net/%s/%s", dev, what);
	return read_file(path, said, sizeof(said)) > 0 && !strncmp(said, word, strlen(word));
}

/*
 * Whether the link of eth@n is there: a frame sent before would be lost. IPv6 reports its groups once more when the
 * kernel has taken note of the link, which with several interfaces is up to a second later: this is waited for, so that
 * it is over before the guest is ready. A device that cannot tell its link is "unknown" for ever.
 */
static bool link_up(int n)
{
	char dev[IFNAMSIZ];

	snprintf(dev, sizeof(dev), "eth%d", n);
	if (!has("ip6", n) && (n || !has("vlan6", 0)))
		return says(dev, "carrier", "1");
	return says(dev, "operstate", "up") || says(dev, "operstate", "unknown");
}

/* Makes eth0.ID, unless it is there, with an address of family @af. @value: ID:ADDR/PREFIX */
static int set_vlan(int af, char *value)
{
	struct vlan_ioctl_args args = { .cmd = ADD_VLAN_CMD, .device1 = "eth0" };
	char dev[IFNAMSIZ], *colon = strchr(value, ':'), *end;
	unsigned long id;
	int64_t deadline;
	int rc;

	if (!colon)
		return -EINVAL;
	id = strtoul(value, &end, 10);
	if (end != colon || id < 1 || id > 4094)
		return -EINVAL;
	snprintf(dev, sizeof(dev), "eth0.%lu", id);
	if (!if_nametoindex(dev)) {
		load_alias("rtnl-link-vlan");
		args.u.VID = (int)id;
		if (ioctl(fd4, SIOCSIFVLAN, &args))
			return -errno;
		if (!has("vlan6", 0))
			no_ipv6(dev);
		rc = if_up(dev);
		if (rc)
			return rc;
		/* As for link_up(); here it is "unknown" until then. */
		deadline = now_ms() + VLAN_WAIT_MS;
		while (has("vlan6", 0) && !says(dev, "operstate", "up") && now_ms() < deadline)
			nap();
	}
	return af == AF_INET ? set_address(dev, colon + 1) : set_address6(dev, colon + 1);
}

static int set_vlan4(const char *dev, char *value)
{
	return set_vlan(AF_INET, value);
}

static int set_vlan6(const char *dev, char *value)
{
	return set_vlan(AF_INET6, value);
}

/* Carries out the parameter @base of eth@n, if it is there. */
static void setting(const char *base, int n, int (*set)(const char *dev, char *value))
{
	char name[NAME_MAX_LEN], dev[IFNAMSIZ], value[VALUE_MAX_LEN], used[VALUE_MAX_LEN];
	int rc = -ENAMETOOLONG;

	if (!has(base, n))
		return;
	snprintf(dev, sizeof(dev), "eth%d", n);
	if (parameter(name_of(name, base, n), value, sizeof(value))) {
		memcpy(used, value, sizeof(used));
		rc = set(dev, used);
	} else {
		value[0] = '\0';
	}
	if (rc)
		say("lockstep-guest: error: %s=%s: %s", name, value, strerror(-rc));
}

static int wait_for(int n, int64_t deadline)
{
	char dev[IFNAMSIZ];

	snprintf(dev, sizeof(dev), "eth%d", n);
	for (;;) {
		if (!if_nametoindex(dev))
			load_drivers(false);
		if (if_nametoindex(dev))
			return 0;
		if (now_ms() > deadline) {
			say("lockstep-guest: error: no %s", dev);
			return -ENODEV;
		}
		nap();
	}
}

static void bring_up(int n)
{
	char dev[IFNAMSIZ];
	int rc;

	snprintf(dev, sizeof(dev), "eth%d", n);
	if (!has("ip6", n))
		no_ipv6(dev);
	if (!n)
		setting("mtu", 0, set_mtu);
	rc = if_up(dev);
	if (rc)
		say("lockstep-guest: error: %s: %s", dev, strerror(-rc));
}

int network(void)
{
	int64_t deadline = now_ms() + NIC_WAIT_MS;
	int n;

	for (n = 0; n < NICS_MAX; n++) {
		if (!wanted(n))
			continue;
		if (wait_for(n, deadline))
			return -ENODEV;
		bring_up(n);
	}
	for (n = 0; n < NICS_MAX; n++)
		while (wanted(n) && !link_up(n) && now_ms() < deadline)
			nap();
	if (!has("ip", 0))
		say("lockstep-guest: no lockstep.ip=ADDR/PREFIX on the kernel command line: eth0 has no IPv4 address");
	for (n = 0; n < NICS_MAX; n++) {
		setting("ip", n, set_address);
		setting("ip6", n, set_address6);
	}
	setting("vlan", 0, set_vlan4);
	setting("vlan6", 0, set_vlan6);
	setting("gw", 0, set_gateway);
	setting("gw6", 0, set_gateway6);
	close(fd4);
	if (fd6 >= 0)
		close(fd6);
	return 0;
}
