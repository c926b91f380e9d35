/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One path of the heartbeat: its socket, the datagrams, what is known of it; theory in heartbeat.c.
 *
 * The first path must work when the heartbeat starts, since the connections have just come that way. Another one may be
 * down then, or later: its socket is made anew now and then, and nothing is said of it but that it is lost.
 */
#include "cluster/heartbeat_internal.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"

static unsigned long long ms(nstime t)
{
	return t / NS_PER_MS;
}

/* One of ours came back over this path: the round trip. */
static void way_echo(struct hb_way *w, const struct beat *b, nstime now)
{
	struct heartbeat *hb = w->hb;
	nstime sent, rtt;

	if (b->echo_seq <= w->echoed || b->echo_seq > hb->seq || hb->seq - b->echo_seq >= HB_RECORD)
		return;
	sent = hb->sent_at[b->echo_seq % HB_RECORD];
	if (sent != b->echo_sent || now < sent)
		return;
	rtt = now - sent > b->echo_held ? now - sent - b->echo_held : 0;
	w->echoed = b->echo_seq;
	pthread_mutex_lock(&hb->lock);
	w->rtt_sum += rtt;
	w->rtt_n++;
	w->st.rtt_last = rtt;
	w->st.rtt_avg = w->rtt_sum / w->rtt_n;
	if (w->rtt_n == 1 || rtt < w->st.rtt_min)
		w->st.rtt_min = rtt;
	if (rtt > w->st.rtt_max)
		w->st.rtt_max = rtt;
	pthread_mutex_unlock(&hb->lock);
}

static bool way_is_ours(const struct hb_way *w, const uint8_t *p, size_t len, struct beat *b)
{
	const struct hb_cfg *cfg = &w->hb->cfg;

	if (cfg->keyed) {
		if (!beat_verify(p, len, cfg->key))
			return false;
		len -= BEAT_MAC_LEN;
	}
	return !beat_decode(p, len, b, NULL) && !memcmp(b->session, cfg->session, BEAT_ID_LEN) &&
	       !memcmp(b->vm_id, cfg->vm_id, BEAT_ID_LEN) && b->listener != cfg->listener && b->path == w->n;
}

static void way_take(struct hb_way *w, const uint8_t *p, size_t len, const struct sockaddr_storage *from,
		     socklen_t from_len)
{
	struct heartbeat *hb = w->hb;
	nstime now = clock_ns();
	bool ours, fresh;
	struct beat b;

	ours = way_is_ours(w, p, len, &b);
	fresh = ours && b.seq > w->peer_seq;
	pthread_mutex_lock(&hb->lock);
	if (!ours) {
		w->st.strangers++;
	} else if (!fresh) {
		w->st.late++;
		if (b.seq != w->peer_seq && w->st.lost)
			w->st.lost--;
	} else {
		w->st.received++;
		w->st.lost += w->peer_seq ? b.seq - w->peer_seq - 1 : 0;
		w->st.heard = now;
		hb->newest = w->n;
	}
	pthread_mutex_unlock(&hb->lock);
	if (!fresh)
		return;
	w->peer_seq = b.seq;
	w->peer_sent = b.sent;
	w->peer_heard = now;
	if (!w->st.up) {
		log_note("heartbeat: path %u (%s) is back after %llu ms", w->n, w->cfg.name, ms(now - w->quiet_from));
		pthread_mutex_lock(&hb->lock);
		w->st.up = true;
		pthread_mutex_unlock(&hb->lock);
	}
	w->quiet_from = now;
	if (hb->cfg.listener) {
		w->cfg.remote = *from;
		w->cfg.remote_len = from_len;
		w->known = true;
	}
	way_echo(w, &b, now);
	hb_heard(hb, &b, now);
}

static void way_readable(struct loop_fd *watch, uint32_t events)
{
	struct hb_way *w = watch->arg;

	hb_check_frozen(w->hb, clock_ns());
	for (int i = 0; i < HB_READ; i++) {
		struct sockaddr_storage from = { 0 };
		socklen_t len = sizeof(from);
		uint8_t buf[BEAT_LEN + BEAT_MAC_LEN + 1];
		ssize_t r = recvfrom(watch->fd, buf, sizeof(buf), MSG_DONTWAIT, (struct sockaddr *)&from, &len);

		/* Errors are what the network said of a beat that we sent (port unreachable); silence tells enough. */
		if (r < 0 && (errno == EAGAIN || errno == EINTR))
			break;
		if (r >= 0)
			way_take(w, buf, (size_t)r, &from, len);
	}
	hb_report(w->hb, clock_ns());
}

static int way_socket(struct hb_way *w, struct err *e)
{
	bool listener = w->hb->cfg.listener;
	const struct hb_path *c = &w->cfg;
	int fd = socket((listener ? c->local : c->remote).ss_family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	bool bound = true;
	int rc;

	if (fd < 0)
		return err_set(e, -errno, "cannot make the heartbeat's socket: %s", strerror(errno));
	if (c->local_len)
		bound = !bind(fd, (const struct sockaddr *)&c->local, c->local_len);
	if (!bound || (!listener && connect(fd, (const struct sockaddr *)&c->remote, c->remote_len) < 0)) {
		rc = err_set(e, -errno, "cannot %s for the heartbeat (UDP, path %u, %s): %s",
			     bound ? "reach the peer" : "bind", w->n, c->name, strerror(errno));
		close(fd);
		return rc;
	}
	return fd;
}

int way_open(struct hb_way *w, struct err *e)
{
	int fd = way_socket(w, e), rc;

	w->opened_at = clock_ns();
	w->broken = false;
	if (fd < 0)
		return fd;
	w->watch = (struct loop_fd){ .fd = fd, .fn = way_readable, .arg = w };
	rc = loop_fd_add(w->hb->loop, &w->watch, EPOLLIN);
	if (rc < 0) {
		close(fd);
		w->watch.fd = -1;
		return err_set(e, rc, "cannot watch the heartbeat's socket: %s", strerror(-rc));
	}
	return 0;
}

void way_close(struct hb_way *w)
{
	if (w->watch.fd < 0)
		return;
	loop_fd_del(w->hb->loop, &w->watch);
	close(w->watch.fd);
	w->watch.fd = -1;
}

/* An address that was gone may be there again, and a connected socket keeps the source address of its beginning. */
static void way_reopen(struct hb_way *w, nstime now)
{
	struct err e = { 0 };

	if ((w->watch.fd >= 0 && !w->broken) || now - w->opened_at < HB_REOPEN)
		return;
	way_close(w);
	if (way_open(w, &e) < 0)
		log_debug("heartbeat: %s", e.msg);
}

void way_send(struct hb_way *w, struct beat *b, nstime now)
{
	const struct hb_cfg *cfg = &w->hb->cfg;
	uint8_t buf[BEAT_LEN + BEAT_MAC_LEN];
	size_t len = BEAT_LEN + (cfg->keyed ? BEAT_MAC_LEN : 0);
	bool sent = false;

	way_reopen(w, now);
	if (!w->known)
		return;
	b->path = (uint8_t)w->n;
	b->echo_seq = w->peer_seq;
	b->echo_sent = w->peer_sent;
	b->echo_held = w->peer_seq ? now - w->peer_heard : 0;
	beat_encode(buf, b);
	if (w->watch.fd >= 0 && (!cfg->keyed || !beat_sign(buf, cfg->key))) {
		sent = sendto(w->watch.fd, buf, len, MSG_DONTWAIT | MSG_NOSIGNAL,
			      cfg->listener ? (struct sockaddr *)&w->cfg.remote : NULL,
			      cfg->listener ? w->cfg.remote_len : 0) == (ssize_t)len;
		/* "Refused" is the answer to the one before: there is nobody yet, and the way is fine. */
		if (!sent && errno != EAGAIN && errno != ECONNREFUSED)
			w->broken = true;
	}
	pthread_mutex_lock(&w->hb->lock);
	if (sent)
		w->st.sent++;
	else
		w->st.send_errors++;
	pthread_mutex_unlock(&w->hb->lock);
}

void way_look(struct hb_way *w, nstime now)
{
	struct heartbeat *hb = w->hb;
	unsigned int left = 0;

	if (!w->st.up || now - w->quiet_from < hb->cfg.silence)
		return;
	pthread_mutex_lock(&hb->lock);
	w->st.up = false;
	w->st.losses++;
	pthread_mutex_unlock(&hb->lock);
	for (unsigned int i = 0; i < hb->cfg.n_paths; i++)
		left += hb->way[i].st.up;
	if (w->peer_seq)
		log_warn("heartbeat: path %u (%s) is lost, nothing heard over it for %llu ms; %u of %u paths left", w->n,
			 w->cfg.name, ms(now - w->quiet_from), left, hb->cfg.n_paths);
	else
		log_warn("heartbeat: path %u (%s): nothing heard over it since the peer was connected; does UDP get through, "
			 "and does the peer have it as its path %u?", w->n, w->cfg.name, w->n);
}
