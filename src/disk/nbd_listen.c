/* SPDX-License-Identifier: BSD-2-Clause */
/* The NBD server's listeners: unix sockets and TCP ports, and who may be listened to without TLS. */
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"
#include "disk/nbd_internal.h"

#define BACKLOG		32
#define ACCEPTS		16	/* in a turn of the loop */
#define PAUSE		NS_PER_S	/* before the next attempt when there are no descriptors left */

static void listener_resume(struct loop_timer *t)
{
	struct nbd_listener *n = t->arg;

	loop_fd_mod(n->s->loop, &n->watch, EPOLLIN);
}

static void listener_ready(struct loop_fd *w, uint32_t events)
{
	struct nbd_listener *n = w->arg;
	int one = 1;

	(void)events;
	for (int i = 0; i < ACCEPTS; i++) {
		int fd = accept4(w->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd < 0 && (errno == EINTR || errno == ECONNABORTED))
			continue;
		if (fd < 0 && errno != EAGAIN) {
			/* Level-triggered: without a pause this would be asked over and over. */
			log_warn("NBD: no connection can be accepted: %s", strerror(errno));
			loop_fd_mod(n->s->loop, w, 0);
			loop_timer_set(n->s->loop, &n->pause, loop_now(n->s->loop) + PAUSE);
		}
		if (fd < 0)
			return;
		if (n->conns >= NBD_MAX_CONNS) {
			n->s->stats.refused++;
			close(fd);
			continue;
		}
		if (!n->unix_path) {
			setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
			setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
		}
		nbd_conn_new(n->s, n, fd);
	}
}

/* Takes away a socket that is left from a process which has ended. */
static int stale_socket(const struct sockaddr_un *sa, struct err *e)
{
	struct stat st;
	int fd, rc;

	if (lstat(sa->sun_path, &st) < 0)
		return errno == ENOENT ? 0 : err_set(e, -errno, "%s: %s", sa->sun_path, strerror(errno));
	if (!S_ISSOCK(st.st_mode))
		return err_set(e, -EEXIST, "%s exists and is no socket", sa->sun_path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return err_set(e, -errno, "no socket can be made: %s", strerror(errno));
	rc = connect(fd, (const struct sockaddr *)sa, sizeof(*sa)) < 0 ? errno : 0;
	close(fd);
	if (rc != ECONNREFUSED)
		return err_set(e, -EADDRINUSE, "another process listens at %s", sa->sun_path);
	if (unlink(sa->sun_path) < 0)
		return err_set(e, -errno, "%s, which is left over, cannot be removed: %s", sa->sun_path, strerror(errno));
	return 0;
}

static int open_unix(struct nbd_listener *n, const char *path, struct err *e)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	struct stat st;
	int rc;

	if (!*path || strlen(path) >= sizeof(sa.sun_path))
		return err_set(e, -ENAMETOOLONG, "the path of a unix socket has from 1 to %zu bytes: '%.120s'",
			       sizeof(sa.sun_path) - 1, path);
	strcpy(sa.sun_path, path);
	rc = stale_socket(&sa, e);
	if (rc)
		return rc;
	n->watch.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (n->watch.fd < 0)
		return err_set(e, -errno, "no socket can be made: %s", strerror(errno));
	/* Linux takes the mode of the socket for the file that bind() makes: never open to others, not for a moment. */
	if (fchmod(n->watch.fd, 0600) < 0 || bind(n->watch.fd, (struct sockaddr *)&sa, sizeof(sa)) < 0)
		return err_set(e, -errno, "%s cannot be made: %s", path, strerror(errno));
	n->unix_path = strdup(path);
	if (!n->unix_path)
		return err_set(e, -ENOMEM, "no memory");
	if (!lstat(path, &st)) {
		n->dev = st.st_dev;
		n->ino = st.st_ino;
	}
	return 0;
}

static bool is_loopback(const struct sockaddr *sa)
{
	if (sa->sa_family == AF_INET)
		return ntohl(((const struct sockaddr_in *)sa)->sin_addr.s_addr) >> 24 == 127;
	return sa->sa_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)sa)->sin6_addr);
}

static int open_tcp(struct nbd_listener *n, const char *host, uint16_t port, struct err *e)
{
	struct addrinfo hints = { .ai_flags = AI_NUMERICHOST | AI_PASSIVE, .ai_socktype = SOCK_STREAM }, *ai;
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);
	char service[8];
	int one = 1, rc = 0;

	snprintf(service, sizeof(service), "%u", port);
	if (getaddrinfo(host, service, &hints, &ai))
		return err_set(e, -EINVAL, "'%.100s' is no IPv4 or IPv6 address", host);
	if (!n->tls && !is_loopback(ai->ai_addr))
		rc = err_set(e, -EPERM, "without TLS the NBD server listens at loopback addresses only, and %s is none: "
			     "anybody who reaches it could read and write the disk", host);
	if (!rc) {
		n->watch.fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		if (n->watch.fd < 0)
			rc = err_set(e, -errno, "no socket can be made: %s", strerror(errno));
	}
	if (!rc) {
		setsockopt(n->watch.fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
		if (ai->ai_family == AF_INET6)
			setsockopt(n->watch.fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
		if (bind(n->watch.fd, ai->ai_addr, ai->ai_addrlen) < 0)
			rc = err_set(e, -errno, "%s port %u cannot be listened at: %s", host, port, strerror(errno));
	}
	freeaddrinfo(ai);
	if (rc)
		return rc;
	if (getsockname(n->watch.fd, (struct sockaddr *)&ss, &len) < 0)
		return err_set(e, -errno, "the port cannot be found out: %s", strerror(errno));
	n->port = ntohs(ss.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&ss)->sin6_port :
						   ((struct sockaddr_in *)&ss)->sin_port);
	return 0;
}

int nbd_listen_open(struct nbd_listener *n, const struct nbd_listen *where, struct err *e)
{
	int rc;

	if (!where->unix_path == !where->host)
		return err_set(e, -EINVAL, "the NBD server listens at either a unix socket or an address");
	rc = where->unix_path ? open_unix(n, where->unix_path, e) : open_tcp(n, where->host, where->port, e);
	if (rc)
		return rc;
	n->watch.fn = listener_ready;
	n->watch.arg = n;
	n->pause = (struct loop_timer){ .fn = listener_resume, .arg = n };
	if (listen(n->watch.fd, BACKLOG) < 0)
		return err_set(e, -errno, "%s cannot be listened at: %s", where->unix_path ? where->unix_path : where->host,
			       strerror(errno));
	rc = loop_fd_add(n->s->loop, &n->watch, EPOLLIN);
	return rc ? err_set(e, rc, "a socket cannot be watched: %s", strerror(-rc)) : 0;
}

void nbd_listen_close(struct nbd_listener *n)
{
	struct stat st;

	if (n->watch.fd < 0)
		return;
	loop_timer_del(n->s->loop, &n->pause);
	loop_fd_del(n->s->loop, &n->watch);
	/* Somebody may have put another socket there meanwhile. */
	if (n->unix_path && !lstat(n->unix_path, &st) && st.st_dev == n->dev && st.st_ino == n->ino)
		unlink(n->unix_path);
	close(n->watch.fd);
	n->watch.fd = -1;
}
