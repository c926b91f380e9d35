/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Three hosts: theory of operation
 *
 * A namespace lives as long as a descriptor of it is open, so nothing has names and nothing is left behind. The two
 * servers have the same addresses, MAC address included, as two copies of one VM have. What a VM would have learnt
 * before its checkpoint is set: their neighbour, the client, is permanent, nobody looks for routers, addresses are not
 * tested for being taken. The client learns its neighbour the usual way. One of the servers gives its timestamps no
 * random offset, so that they differ; initial sequence numbers differ by the time at which the SYN came.
 */
#include "world.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define CLIENT_MAC	"02:00:00:00:00:01"
#define SERVER_MAC	"52:54:00:00:02:10"

static const char *const common =
	"set -e; ip link set lo up; cd /proc/sys/net/ipv6/conf/t0;"
	"echo 0 >accept_dad; echo 0 >router_solicitations; echo 0 >accept_ra; echo 1 >addr_gen_mode;";

static const char *const set_up[HOSTS] = {
	"ip link set t0 address " CLIENT_MAC " up; ip addr add 192.0.2.1/24 dev t0;"
	"ip addr add 2001:db8::1/64 dev t0 nodad",
	"echo 1 >/proc/sys/net/ipv4/tcp_timestamps",
	"echo 2 >/proc/sys/net/ipv4/tcp_timestamps",
};

static const char *const set_up_server =
	";ip link set t0 address " SERVER_MAC " up; ip addr add " SERVER_IP4 "/24 dev t0;"
	"ip addr add " SERVER_IP6 "/64 dev t0 nodad;"
	"ip neigh add 192.0.2.1 lladdr " CLIENT_MAC " dev t0 nud permanent;"
	"ip neigh add 2001:db8::1 lladdr " CLIENT_MAC " dev t0 nud permanent";

static int make_tap(void)
{
	struct ifreq ifr = { .ifr_name = "t0", .ifr_flags = IFF_TAP | IFF_NO_PI };
	int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);

	if (fd >= 0 && (ioctl(fd, TUNSETIFF, &ifr) < 0 || ioctl(fd, TUNSETOFFLOAD, 0) < 0)) {
		close(fd);
		return -1;
	}
	return fd;
}

int world_new(struct world *w)
{
	int home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC), rc = 0;
	char cmd[1024];

	for (int i = 0; i < HOSTS; i++)
		w->ns[i] = w->tap[i] = -1;
	for (int i = 0; i < HOSTS && !rc; i++) {
		if (unshare(CLONE_NEWNET) < 0) {
			fprintf(stderr, "no network namespace: %s\n", strerror(errno));
			rc = -2;
			break;
		}
		w->ns[i] = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
		w->tap[i] = make_tap();
		if (w->ns[i] < 0 || w->tap[i] < 0) {
			fprintf(stderr, "no TAP interface: %s\n", strerror(errno));
			rc = -2;
			break;
		}
		snprintf(cmd, sizeof(cmd), "%s%s%s", common, set_up[i], i == HOST_CLIENT ? "" : set_up_server);
		if (system(cmd)) {
			fprintf(stderr, "host %d cannot be set up\n", i);
			rc = -1;
		}
	}
	if (home < 0 || setns(home, CLONE_NEWNET) < 0)
		rc = rc ? rc : -1;
	if (home >= 0)
		close(home);
	return rc;
}

pid_t world_fork(struct world *w, enum host h)
{
	pid_t parent = getpid(), pid = fork();

	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent || setns(w->ns[h], CLONE_NEWNET) < 0)
		_exit(1);
	return 0;
}

void world_free(struct world *w)
{
	for (int i = 0; i < HOSTS; i++) {
		if (w->ns[i] >= 0)
			close(w->ns[i]);
		if (w->tap[i] >= 0)
			close(w->tap[i]);
	}
}
