/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Heartbeat: theory of operation
 *
 * A thread with a loop of its own sends a datagram each interval, whatever the other loops do, and says in it how
 * long ago each of them, and QMP, last made progress: beats that go on while the work stands still prove nothing.
 * What it learns is posted into the control loop; it decides nothing itself.
 *
 * Datagrams go the same way as the connections: the listener binds the address and port at which it accepted
 * (UDP), the other side sends from whatever port, and is known by the session id that only these two have. A
 * datagram without it, or older than one already seen, changes nothing.
 *
 * BEAT carries the send time, by our own record, of our newest beat that the peer has echoed: the primary's lease
 * (P5) is counted from it. An echoed number that we did not send is ignored. The time that the peer held it before
 * echoing is taken off the round trip.
 *
 * Frozen. A process that did not run (SIGSTOP, a suspended or starved host) has heard nothing, but it cannot know
 * that the peer was silent. When this thread itself runs more than HB_FREEZE intervals (or half the silence) late, it
 * counts silence anew from now, and the ages of its own loops from now, and says so. What had arrived meanwhile is
 * read first: the loop runs timers last.
 *
 * Progress of a loop is the end of its last turn, and an idle loop has no turns. So a loop that has not turned for
 * an interval is sent an empty message, one at a time. Should a loop hang with its queue full, loop_post() waits, and
 * so do we: then this node is as good as dead, and the peer may hear it (heartbeat_stop() leaves such a thread to
 * itself after a moment). For the same reason no more than a few
 * events wait in the control loop's queue; the newest BEAT stands for all before it.
 *
 * Not done yet: several paths, authentication (both come with TLS).
 */
#include "cluster/heartbeat.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"

enum {
	HB_FREEZE = 5,		/* intervals without running that count as frozen */
	HB_RECORD = 64,		/* own beats whose send time is remembered */
	HB_POSTS = 8,		/* events that may wait in the control loop's queue */
	HB_READ = 64,		/* datagrams read in one turn */
	HB_JOIN_MS = 500,	/* how long heartbeat_stop() waits for the thread */
};

enum hb_life { HB_RUNS, HB_ENDED, HB_ABANDONED };

struct heartbeat {
	struct hb_cfg cfg;
	uint64_t id;
	struct loop *loop;
	pthread_t thread;
	atomic_int life;		/* enum hb_life */
	struct loop_fd watch;
	struct loop_timer tick, quiet;
	_Atomic uint32_t generation;

	nstime due;			/* when the next tick should run */
	nstime thaw;			/* since when we have run without a freeze */
	nstime quiet_from;		/* silence is counted from here */
	nstime sent_at[HB_RECORD];
	uint64_t seq;
	bool known;			/* cfg.remote is the peer's address */

	uint64_t peer_seq;		/* newest heard */
	nstime peer_sent, peer_heard;	/* its send time (peer's clock), when it came (ours) */
	uint64_t echoed;		/* newest of ours that came back */
	nstime ping_at[BEAT_QMP];

	/* What the control loop should know, and what it was told. */
	bool beat_new, silent, told_silent;
	uint32_t stuck, told_stuck;	/* bits: enum beat_source */
	struct hb_event beat;
	nstime last_post;
	int posted;

	pthread_mutex_t lock;		/* guards the statistics */
	struct hb_stats st;
	uint64_t rtt_sum, rtt_n;
};

const char *hb_event_name(enum hb_event_type t)
{
	static const char *const names[] = { "BEAT", "SILENT", "HEARD", "STUCK", "MOVING" };

	return (size_t)t < sizeof(names) / sizeof(*names) ? names[t] : "?";
}

struct hb_post {
	void (*fn)(void *arg, const struct hb_event *ev);
	void *arg;
	struct hb_event ev;
};
_Static_assert(sizeof(struct hb_post) <= LOOP_MSG_DATA, "an event fits into a message");

/* In the control loop. Holds nothing of the instance, which may be gone. */
static void hb_deliver(void *arg, const void *data, size_t len)
{
	struct hb_post p;

	memcpy(&p, data, sizeof(p));
	p.fn(p.arg, &p.ev);
}

static bool hb_may_post(struct heartbeat *hb)
{
	if (loop_progress(hb->cfg.control) > hb->last_post)
		hb->posted = 0;
	return hb->posted < HB_POSTS;
}

static void hb_post(struct heartbeat *hb, const struct hb_event *ev)
{
	struct hb_post p = { .fn = hb->cfg.fn, .arg = hb->cfg.arg, .ev = *ev };

	p.ev.id = hb->id;
	hb->last_post = clock_ns();
	hb->posted++;
	loop_post(hb->cfg.control, hb_deliver, NULL, &p, sizeof(p));
}

/* Tell the control loop what has changed, as far as it takes something. */
static void hb_report(struct heartbeat *hb, nstime now)
{
	/* Before the silence that followed it: the wait of P5 is counted from the last beat. */
	if (hb->beat_new && hb_may_post(hb)) {
		hb_post(hb, &hb->beat);
		hb->beat_new = false;
	}
	if (hb->silent != hb->told_silent && hb_may_post(hb)) {
		struct hb_event ev = { .type = hb->silent ? HB_SILENT : HB_HEARD, .since = hb->quiet_from };

		hb_post(hb, &ev);
		hb->told_silent = hb->silent;
	}
	for (unsigned int i = 0; i < BEAT_SOURCES; i++) {
		uint32_t bit = 1u << i;
		struct hb_event ev = { .which = i, .age = hb->st.peer_age_ms[i] * NS_PER_MS };

		if (!((hb->stuck ^ hb->told_stuck) & bit) || !hb_may_post(hb))
			continue;
		ev.type = hb->stuck & bit ? HB_STUCK : HB_MOVING;
		hb_post(hb, &ev);
		hb->told_stuck ^= bit;
	}
}

/* At the start of each callback: have we been away? */
static void hb_check_frozen(struct heartbeat *hb, nstime now)
{
	nstime late = now > hb->due ? now - hb->due : 0;
	nstime most = HB_FREEZE * hb->cfg.interval;

	/* Well below the silence, or a nap that is no freeze yet would already pass for the peer's death. */
	if (most > hb->cfg.silence / 2)
		most = hb->cfg.silence / 2;
	if (late <= most)
		return;
	hb->due = now;
	hb->thaw = now;
	hb->quiet_from = now;
	pthread_mutex_lock(&hb->lock);
	hb->st.freezes++;
	if (late > hb->st.frozen_max)
		hb->st.frozen_max = late;
	pthread_mutex_unlock(&hb->lock);
	log_msg(late < HB_DEF_INTERVAL ? LOG_DEBUG : LOG_WARN,
		"heartbeat: this node did not run for %llu ms, the peer's silence is counted from now",
		 (unsigned long long)(late / NS_PER_MS));
}

static uint32_t age_ms(const struct heartbeat *hb, nstime now, nstime progress)
{
	nstime from = progress > hb->thaw ? progress : hb->thaw;
	nstime age = now > from ? (now - from) / NS_PER_MS : 0;

	return age < BEAT_AGE_NONE - 1 ? (uint32_t)age : BEAT_AGE_NONE - 1;
}

static void hb_nothing(void *arg, const void *data, size_t len)
{
}

static void hb_ages(struct heartbeat *hb, nstime now, uint32_t *age)
{
	nstime owed;

	for (unsigned int i = 0; i < BEAT_QMP; i++) {
		struct loop *l = hb->cfg.loops[i];
		nstime p;

		age[i] = BEAT_AGE_NONE;
		if (!l)
			continue;
		p = loop_progress(l);
		age[i] = age_ms(hb, now, p);
		if (now - p > hb->cfg.interval / 2 && now > p && p >= hb->ping_at[i]) {
			hb->ping_at[i] = now;
			loop_post(l, hb_nothing, NULL, NULL, 0);
		}
	}
	owed = hb->cfg.qmp ? atomic_load(hb->cfg.qmp) : 0;
	age[BEAT_QMP] = !hb->cfg.qmp ? BEAT_AGE_NONE : !owed ? 0 : age_ms(hb, now, owed);
}

static void hb_send(struct heartbeat *hb, nstime now)
{
	struct beat b = {
		.listener = hb->cfg.listener,
		.generation = atomic_load(&hb->generation),
		.seq = hb->seq + 1,
		.sent = now,
		.echo_seq = hb->peer_seq,
		.echo_sent = hb->peer_sent,
		.echo_held = hb->peer_seq ? now - hb->peer_heard : 0,
	};
	uint8_t buf[BEAT_LEN];
	ssize_t r;

	hb_ages(hb, now, b.age_ms);
	if (!hb->known)
		return;
	memcpy(b.session, hb->cfg.session, BEAT_ID_LEN);
	memcpy(b.vm_id, hb->cfg.vm_id, BEAT_ID_LEN);
	beat_encode(buf, &b);
	hb->seq++;
	hb->sent_at[hb->seq % HB_RECORD] = now;
	r = sendto(hb->watch.fd, buf, sizeof(buf), MSG_DONTWAIT | MSG_NOSIGNAL,
		   hb->cfg.listener ? (struct sockaddr *)&hb->cfg.remote : NULL,
		   hb->cfg.listener ? hb->cfg.remote_len : 0);
	pthread_mutex_lock(&hb->lock);
	if (r == (ssize_t)sizeof(buf))
		hb->st.sent++;
	else
		hb->st.send_errors++;
	pthread_mutex_unlock(&hb->lock);
}

/* One of ours came back. */
static void hb_echo(struct heartbeat *hb, const struct beat *b, nstime now)
{
	nstime sent, rtt;

	if (b->echo_seq <= hb->echoed || b->echo_seq > hb->seq || hb->seq - b->echo_seq >= HB_RECORD)
		return;
	sent = hb->sent_at[b->echo_seq % HB_RECORD];
	if (sent != b->echo_sent || now < sent)
		return;
	rtt = now - sent > b->echo_held ? now - sent - b->echo_held : 0;
	hb->echoed = b->echo_seq;
	hb->beat = (struct hb_event){ .type = HB_BEAT, .sent = sent, .rtt = rtt };
	hb->beat_new = true;
	pthread_mutex_lock(&hb->lock);
	hb->rtt_sum += rtt;
	hb->rtt_n++;
	hb->st.rtt_last = rtt;
	hb->st.rtt_avg = hb->rtt_sum / hb->rtt_n;
	if (hb->rtt_n == 1 || rtt < hb->st.rtt_min)
		hb->st.rtt_min = rtt;
	if (rtt > hb->st.rtt_max)
		hb->st.rtt_max = rtt;
	pthread_mutex_unlock(&hb->lock);
}

static void hb_take(struct heartbeat *hb, const uint8_t *p, size_t len, const struct sockaddr_storage *from,
		    socklen_t from_len)
{
	nstime now = clock_ns();
	struct beat b;
	bool stranger;

	stranger = beat_decode(p, len, &b, NULL) || memcmp(b.session, hb->cfg.session, BEAT_ID_LEN) ||
		   memcmp(b.vm_id, hb->cfg.vm_id, BEAT_ID_LEN) || b.listener == hb->cfg.listener;
	pthread_mutex_lock(&hb->lock);
	if (stranger) {
		hb->st.strangers++;
	} else if (b.seq <= hb->peer_seq) {
		hb->st.late++;
		if (b.seq != hb->peer_seq && hb->st.lost)
			hb->st.lost--;
	} else {
		hb->st.received++;
		hb->st.lost += b.seq - hb->peer_seq - 1;
		hb->st.heard = now;
		hb->st.peer_generation = b.generation;
		memcpy(hb->st.peer_age_ms, b.age_ms, sizeof(b.age_ms));
	}
	pthread_mutex_unlock(&hb->lock);
	if (stranger || b.seq <= hb->peer_seq)
		return;
	hb->peer_seq = b.seq;
	hb->peer_sent = b.sent;
	hb->peer_heard = now;
	hb->quiet_from = now;
	if (hb->silent)
		log_note("heartbeat: the peer is heard again");
	hb->silent = false;
	if (hb->cfg.listener) {
		hb->cfg.remote = *from;
		hb->cfg.remote_len = from_len;
		hb->known = true;
	}
	for (unsigned int i = 0; i < BEAT_SOURCES; i++) {
		bool stuck = b.age_ms[i] != BEAT_AGE_NONE && b.age_ms[i] * NS_PER_MS > hb->cfg.stuck;

		if (stuck && !(hb->stuck & 1u << i))
			log_warn("heartbeat: the peer's %s has made no progress for %u ms", beat_source_name(i),
				 b.age_ms[i]);
		hb->stuck = stuck ? hb->stuck | 1u << i : hb->stuck & ~(1u << i);
	}
	hb_echo(hb, &b, now);
	/* Who answers must know that it does: the secondary counts the wait of P5 from here. */
	if (!hb->beat_new) {
		hb->beat = (struct hb_event){ .type = HB_BEAT };
		hb->beat_new = true;
	}
	hb->beat.heard = now;
}

static void hb_readable(struct loop_fd *w, uint32_t events)
{
	struct heartbeat *hb = w->arg;

	hb_check_frozen(hb, clock_ns());
	for (int i = 0; i < HB_READ; i++) {
		struct sockaddr_storage from = { 0 };
		socklen_t len = sizeof(from);
		uint8_t buf[BEAT_LEN + 1];
		ssize_t r = recvfrom(w->fd, buf, sizeof(buf), MSG_DONTWAIT, (struct sockaddr *)&from, &len);

		/* Errors are what the network said of a beat that we sent (port unreachable); silence tells enough. */
		if (r < 0 && (errno == EAGAIN || errno == EINTR))
			break;
		if (r >= 0)
			hb_take(hb, buf, (size_t)r, &from, len);
	}
	hb_report(hb, clock_ns());
}

static void hb_tick(struct loop_timer *t)
{
	struct heartbeat *hb = t->arg;
	nstime now = clock_ns();

	hb_check_frozen(hb, now);
	hb_send(hb, now);
	hb->due += hb->cfg.interval;
	if (hb->due <= now)
		hb->due = now + hb->cfg.interval;
	loop_timer_set(hb->loop, t, hb->due);
	hb_report(hb, now);
}

static void hb_quiet(struct loop_timer *t)
{
	struct heartbeat *hb = t->arg;
	nstime now = clock_ns();

	hb_check_frozen(hb, now);
	if (now - hb->quiet_from < hb->cfg.silence) {
		loop_timer_set(hb->loop, t, hb->quiet_from + hb->cfg.silence);
		return;
	}
	if (!hb->silent) {
		hb->silent = true;
		pthread_mutex_lock(&hb->lock);
		hb->st.silences++;
		pthread_mutex_unlock(&hb->lock);
		if (hb->peer_seq)
			log_warn("heartbeat: nothing heard of the peer for %llu ms",
				 (unsigned long long)((now - hb->quiet_from) / NS_PER_MS));
		else
			log_warn("heartbeat: nothing heard of the peer since it was connected; does UDP get through?");
		hb_report(hb, now);
	}
	loop_timer_set(hb->loop, t, now + hb->cfg.interval);
}

static void hb_free(struct heartbeat *hb)
{
	if (hb->watch.fd >= 0)
		close(hb->watch.fd);
	loop_free(hb->loop);
	pthread_mutex_destroy(&hb->lock);
	free(hb);
}

static void *hb_thread(void *arg)
{
	struct heartbeat *hb = arg;
	struct sched_param sp = { .sched_priority = 1 };
	int rc;

	pthread_setname_np(pthread_self(), "heartbeat");
	/* A busy host must not look like a dead one. */
	rc = pthread_setschedparam(pthread_self(), SCHED_RR | SCHED_RESET_ON_FORK, &sp);
	if (rc)
		log_debug("heartbeat: no real-time priority: %s", strerror(rc));
	rc = loop_run(hb->loop);
	if (rc < 0)
		log_error("heartbeat: the loop failed: %s", strerror(-rc));
	if (atomic_exchange(&hb->life, HB_ENDED) == HB_ABANDONED)
		hb_free(hb);
	return NULL;
}

static int hb_socket(const struct hb_cfg *cfg, struct err *e)
{
	const struct sockaddr_storage *a = cfg->listener ? &cfg->local : &cfg->remote;
	socklen_t len = cfg->listener ? cfg->local_len : cfg->remote_len;
	int fd = socket(a->ss_family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int rc;

	if (fd < 0)
		return err_set(e, -errno, "cannot make the heartbeat's socket: %s", strerror(errno));
	rc = cfg->listener ? bind(fd, (const struct sockaddr *)a, len) : connect(fd, (const struct sockaddr *)a, len);
	if (rc < 0) {
		rc = err_set(e, -errno, "cannot %s for the heartbeat (UDP, the link's own port): %s",
			     cfg->listener ? "bind" : "reach the peer", strerror(errno));
		close(fd);
		return rc;
	}
	return fd;
}

struct heartbeat *heartbeat_start(const struct hb_cfg *cfg, struct err *e)
{
	static atomic_uint_fast64_t ids;
	struct heartbeat *hb = calloc(1, sizeof(*hb));
	sigset_t all, old;
	int rc;

	if (!hb) {
		err_set(e, -ENOMEM, "no memory for the heartbeat");
		return NULL;
	}
	hb->cfg = *cfg;
	hb->cfg.interval = cfg->interval ? cfg->interval : HB_DEF_INTERVAL;
	hb->cfg.silence = cfg->silence ? cfg->silence : HB_DEF_SILENCE;
	hb->cfg.stuck = cfg->stuck ? cfg->stuck : HB_DEF_STUCK;
	if (hb->cfg.silence < 3 * hb->cfg.interval) {
		err_set(e, -EINVAL, "silence of %llu ms is less than three heartbeats of %llu ms",
			(unsigned long long)(hb->cfg.silence / NS_PER_MS),
			(unsigned long long)(hb->cfg.interval / NS_PER_MS));
		free(hb);
		return NULL;
	}
	hb->id = atomic_fetch_add(&ids, 1) + 1;
	hb->known = !cfg->listener;
	atomic_store(&hb->generation, cfg->generation);
	pthread_mutex_init(&hb->lock, NULL);
	for (unsigned int i = 0; i < BEAT_SOURCES; i++)
		hb->st.peer_age_ms[i] = BEAT_AGE_NONE;
	hb->watch = (struct loop_fd){ .fd = hb_socket(cfg, e), .fn = hb_readable, .arg = hb };
	if (hb->watch.fd < 0)
		goto fail;
	hb->loop = loop_new("heartbeat", e);
	if (!hb->loop)
		goto fail;
	hb->tick = (struct loop_timer){ .fn = hb_tick, .arg = hb };
	hb->quiet = (struct loop_timer){ .fn = hb_quiet, .arg = hb };
	hb->due = hb->thaw = hb->quiet_from = clock_ns();
	rc = loop_fd_add(hb->loop, &hb->watch, EPOLLIN);
	if (!rc)
		rc = loop_timer_set(hb->loop, &hb->tick, hb->due);
	if (!rc)
		rc = loop_timer_set(hb->loop, &hb->quiet, hb->due + hb->cfg.silence);
	if (rc < 0) {
		err_set(e, rc, "cannot set the heartbeat up: %s", strerror(-rc));
		goto fail;
	}
	/* Signals are the main thread's business. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	rc = pthread_create(&hb->thread, NULL, hb_thread, hb);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (!rc)
		return hb;
	err_set(e, -rc, "cannot start the heartbeat's thread: %s", strerror(rc));
fail:
	hb_free(hb);
	return NULL;
}

void heartbeat_stop(struct heartbeat *hb)
{
	struct timespec end;

	if (!hb)
		return;
	loop_stop(hb->loop);
	clock_gettime(CLOCK_MONOTONIC, &end);
	end.tv_nsec += HB_JOIN_MS * (long)NS_PER_MS;
	end.tv_sec += end.tv_nsec / (long)NS_PER_S;
	end.tv_nsec %= (long)NS_PER_S;
	if (pthread_clockjoin_np(hb->thread, NULL, CLOCK_MONOTONIC, &end)) {
		/* It waits for a full queue, perhaps the caller's own: waiting for each other would never end. */
		if (atomic_exchange(&hb->life, HB_ABANDONED) == HB_RUNS) {
			log_warn("heartbeat: its thread hangs behind a loop that takes no messages, left behind");
			pthread_detach(hb->thread);
			return;
		}
		pthread_join(hb->thread, NULL);
	}
	hb_free(hb);
}

uint64_t heartbeat_id(const struct heartbeat *hb)
{
	return hb->id;
}

void heartbeat_set_generation(struct heartbeat *hb, uint32_t generation)
{
	atomic_store(&hb->generation, generation);
}

void heartbeat_stats(struct heartbeat *hb, struct hb_stats *out)
{
	pthread_mutex_lock(&hb->lock);
	*out = hb->st;
	pthread_mutex_unlock(&hb->lock);
}
