/* SPDX-License-Identifier: BSD-2-Clause */
/* TAP interfaces (Linux Documentation/networking/tuntap.rst). Called once at start, from the main thread. */
#include "proxy/tap.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"

int tap_open(const char *ifname, uint32_t *mtu, struct err *e)
{
	struct ifreq ifr = { 0 };
	int fd, s, rc;

	if (!*ifname || strlen(ifname) >= sizeof(ifr.ifr_name))
		return err_set(e, -EINVAL, "'%s' cannot be the name of an interface: it may have 1 to 15 characters", ifname);
	/* TUNSETIFF would make one, down and in no bridge: a VM that nobody can reach. */
	if (!if_nametoindex(ifname))
		return err_set(e, -ENODEV, "there is no interface %s; make it with `ip tuntap add %s mode tap` and put it where "
			       "the VM's network is", ifname, ifname);
	fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return err_set(e, -errno, "cannot open /dev/net/tun: %s", strerror(errno));
	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", ifname);
	ifr.ifr_flags = IFF_TAP | IFF_NO_PI;
	if (ioctl(fd, TUNSETIFF, &ifr) < 0) {
		rc = -errno;
		close(fd);
		return err_set(e, rc, "cannot attach to the TAP interface %s: %s%s", ifname, strerror(-rc),
			       rc == -EBUSY ? "; another program has it open" :
			       rc == -EPERM ? "; this needs root, or a TAP made for this user" : "");
	}
	/* A TAP that outlives its users keeps what the last one had asked for. */
	ioctl(fd, TUNSETOFFLOAD, 0);
	s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (s < 0 || ioctl(s, SIOCGIFMTU, &ifr) < 0) {
		rc = -errno;
		if (s >= 0)
			close(s);
		close(fd);
		return err_set(e, rc, "cannot read the MTU of %s: %s", ifname, strerror(-rc));
	}
	*mtu = (uint32_t)ifr.ifr_mtu;
	if (ioctl(s, SIOCGIFFLAGS, &ifr) == 0 && !(ifr.ifr_flags & IFF_UP))
		log_warn("interface %s is down: the guest is not reachable until `ip link set %s up`", ifname, ifname);
	close(s);
	if (*mtu > TAP_MAX_MTU) {
		close(fd);
		return err_set(e, -EINVAL, "the MTU of %s is %u; Lockstep carries frames of at most %d", ifname, *mtu,
			       TAP_MAX_MTU);
	}
	return fd;
}
