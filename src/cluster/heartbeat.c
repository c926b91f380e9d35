/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Heartbeat: theory of operation
 *
 * A thread with a loop of its own sends a datagram each interval, whatever the other loops do, and says in it how
 * long ago each of them, and QMP, last made progress: beats that go on while the work stands still prove nothing.
 * What it learns is posted into the control loop; it decides nothing itself.
 *
 * Paths. A beat goes over every path at once, with the same number and send time; each path has a socket of its own
 * (hb_path.c), and what is heard, lost and echoed over it is counted by itself. The peer is silent only when it is
 * silent on all of them. On the first path datagrams go the same way as the connections. The listener binds its addresses
 * (UDP); the other side sends from whatever port, and is known by the session id that only these two have.
 *
 * A datagram without it, with another path's number, without the right authentication code where there is a key, or not
 * newer than what was already heard over that path, changes nothing: so a recorded beat never counts a second time, nor
 * on another path, nor when it is sent back to its sender, nor in another session.
 *
 * BEAT carries the send time, by our own record, of our newest beat that the peer has heard over any path: the
 * primary's lease (P5) is counted from it. An echoed number that we did not send is ignored. The time that the peer
 * held it before echoing is taken off the round trip, which is each path's own. The network may keep beats and hand
 * them over late (as a neighbour's queue does while a cable is out): they count as heard when they come, which makes
 * the secondary wait longer, and what they echo is old, so no lease becomes longer by them.
 *
 * Suspicion is graded: late, suspect, silent. Only silent is told to the control loop; the others are for the log and
 * for status, where they show that a timeout is too tight before it strikes.
 *
 * Frozen. A process that did not run (SIGSTOP, a suspended or starved host) has heard nothing, but it cannot know
 * that the peer was silent. When this thread itself runs more than HB_FREEZE intervals (or half the silence) late, it
 * counts silence anew from now, and the ages of its own loops from now, and says so. What had arrived meanwhile is
 * read first: the loop runs timers last.
 *
 * Progress of a loop is the end of its last turn, and an idle loop has no turns. So a loop that has not turned for
 * an interval is sent an empty message, one at a time. Should a loop hang with its queue full, loop_post() waits, and
 * so do we: then this node is as good as dead, and the peer may hear it (heartbeat_stop() leaves such a thread to
 * itself after a moment). For the same reason no more than a few events wait in the control loop's queue; the newest
 * BEAT stands for all before it.
 */
#include "cluster/heartbeat_internal.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/sandbox.h"

const char *hb_event_name(enum hb_event_type t)
{
	static const char *const names[] = { "BEAT", "SILENT", "HEARD", "STUCK", "MOVING" };

	return (size_t)t < sizeof(names) / sizeof(*names) ? names[t] : "?";
}

const char *hb_level_name(enum hb_level l)
{
	static const char *const names[] = { "fine", "late", "suspect", "silent" };

	return (size_t)l < sizeof(names) / sizeof(*names) ? names[l] : "?";
}

static unsigned long long ms(nstime t)
{
	return t / NS_PER_MS;
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

void hb_report(struct heartbeat *hb, nstime now)
{
	bool silent = hb->level == HB_SILENCE;

	/* Before the silence that followed it: the wait of P5 is counted from the last beat. */
	if (hb->beat_new && hb_may_post(hb)) {
		hb_post(hb, &hb->beat);
		hb->beat_new = false;
	}
	if (silent != hb->told_silent && hb_may_post(hb)) {
		struct hb_event ev = { .type = silent ? HB_SILENT : HB_HEARD, .since = hb->quiet_from };

		hb_post(hb, &ev);
		hb->told_silent = silent;
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

void hb_check_frozen(struct heartbeat *hb, nstime now)
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
	for (unsigned int i = 0; i < hb->cfg.n_paths; i++)
		hb->way[i].quiet_from = now;
	pthread_mutex_lock(&hb->lock);
	hb->st.freezes++;
	if (late > hb->st.frozen_max)
		hb->st.frozen_max = late;
	pthread_mutex_unlock(&hb->lock);
	log_msg(late < HB_DEF_INTERVAL ? LOG_DEBUG : LOG_WARN,
		"heartbeat: this node did not run for %llu ms, the peer's silence is counted from now",
		ms(late));
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
		.echo_any = hb->heard_seq,
	};
	bool known = false;

	hb_ages(hb, now, b.age_ms);
	memcpy(b.session, hb->cfg.session, BEAT_ID_LEN);
	memcpy(b.vm_id, hb->cfg.vm_id, BEAT_ID_LEN);
	for (unsigned int i = 0; i < hb->cfg.n_paths; i++)
		known |= hb->way[i].known;
	if (known) {
		hb->seq++;
		hb->sent_at[hb->seq % HB_RECORD] = now;
	}
	for (unsigned int i = 0; i < hb->cfg.n_paths; i++)
		way_send(&hb->way[i], &b, now);
}

/* One of ours was heard, over whatever path: the lease moves. */
static void hb_echo(struct heartbeat *hb, const struct beat *b, nstime now)
{
	nstime sent;

	if (b->echo_any <= hb->echoed || b->echo_any > hb->seq || hb->seq - b->echo_any >= HB_RECORD)
		return;
	sent = hb->sent_at[b->echo_any % HB_RECORD];
	hb->echoed = b->echo_any;
	/* What answers over a path that never had an echo of its own says nothing of a round trip. */
	if (hb->way[b->path].st.rtt_last)
		hb->rtt = hb->way[b->path].st.rtt_last;
	hb->beat = (struct hb_event){ .type = HB_BEAT, .sent = sent, .rtt = hb->rtt };
	hb->beat_new = true;
}

/* What the peer says of its loops; @b is its newest. */
static void hb_progress(struct heartbeat *hb, const struct beat *b)
{
	pthread_mutex_lock(&hb->lock);
	hb->st.peer_generation = b->generation;
	memcpy(hb->st.peer_age_ms, b->age_ms, sizeof(b->age_ms));
	pthread_mutex_unlock(&hb->lock);
	for (unsigned int i = 0; i < BEAT_SOURCES; i++) {
		bool stuck = b->age_ms[i] != BEAT_AGE_NONE && b->age_ms[i] * NS_PER_MS > hb->cfg.stuck;

		if (stuck && !(hb->stuck & 1u << i))
			log_warn("heartbeat: the peer's %s has made no progress for %u ms", beat_source_name(i),
				 b->age_ms[i]);
		hb->stuck = stuck ? hb->stuck | 1u << i : hb->stuck & ~(1u << i);
	}
}

void hb_heard(struct heartbeat *hb, const struct beat *b, nstime now)
{
	if (hb->worst >= HB_SUSPECT)
		log_note("heartbeat: the peer is heard again after %llu ms level=%s", ms(now - hb->quiet_from),
			 hb_level_name(hb->worst));
	if (hb->worst > HB_FINE) {
		pthread_mutex_lock(&hb->lock);
		hb->st.level = HB_FINE;
		pthread_mutex_unlock(&hb->lock);
	}
	hb->level = hb->worst = HB_FINE;
	hb->quiet_from = now;
	if (b->seq > hb->heard_seq) {
		hb->heard_seq = b->seq;
		hb_progress(hb, b);
	}
	hb_echo(hb, b, now);
	/* Who answers must know that it does: the secondary counts the wait of P5 from here. */
	if (!hb->beat_new) {
		hb->beat = (struct hb_event){ .type = HB_BEAT };
		hb->beat_new = true;
	}
	hb->beat.heard = now;
}

/* After so long without a beat the peer is at that level. */
static nstime hb_after(const struct heartbeat *hb, enum hb_level l)
{
	nstime least = 2 * hb->cfg.interval;
	nstime t = l == HB_LATE ? hb->cfg.silence / 4 : hb->cfg.silence / 2;

	return l == HB_SILENCE ? hb->cfg.silence : t > least ? t : least;
}

static void hb_say(struct heartbeat *hb, nstime now)
{
	unsigned long long quiet = ms(now - hb->quiet_from);

	if (hb->level == HB_LATE) {
		bool again = hb->logged_late && now - hb->logged_late < HB_LOG_AGAIN;

		log_msg(again ? LOG_DEBUG : LOG_INFO, "heartbeat: the peer is late, nothing heard for %llu ms level=late",
			quiet);
		if (!again)
			hb->logged_late = now;
	} else if (hb->level == HB_SUSPECT) {
		log_note("heartbeat: nothing heard of the peer for %llu ms level=suspect", quiet);
	} else if (hb->heard_seq) {
		log_warn("heartbeat: nothing heard of the peer for %llu ms level=silent", quiet);
	} else {
		log_warn("heartbeat: nothing heard of the peer since it was connected; does UDP get through? level=silent");
	}
}

static void hb_quiet(struct loop_timer *t)
{
	struct heartbeat *hb = t->arg;
	nstime now = clock_ns();
	enum hb_level l = HB_SILENCE;

	hb_check_frozen(hb, now);
	while (l > HB_FINE && now - hb->quiet_from < hb_after(hb, l))
		l--;
	if (l > hb->level) {
		hb->level = l;
		hb->worst = l;
		pthread_mutex_lock(&hb->lock);
		hb->st.lates += l == HB_LATE;
		hb->st.suspects += l == HB_SUSPECT;
		hb->st.silences += l == HB_SILENCE;
		pthread_mutex_unlock(&hb->lock);
		hb_say(hb, now);
		hb_report(hb, now);
	} else if (l < hb->level && hb->level < HB_SILENCE) {
		/* This node itself did not run: what it thought of the peer meanwhile is void. */
		hb->level = l;
	}
	pthread_mutex_lock(&hb->lock);
	hb->st.level = hb->level;
	pthread_mutex_unlock(&hb->lock);
	loop_timer_set(hb->loop, t, l == HB_SILENCE ? now + hb->cfg.interval : hb->quiet_from + hb_after(hb, l + 1));
}

static void hb_tick(struct loop_timer *t)
{
	struct heartbeat *hb = t->arg;
	nstime now = clock_ns();

	hb_check_frozen(hb, now);
	for (unsigned int i = 0; hb->cfg.n_paths > 1 && i < hb->cfg.n_paths; i++)
		way_look(&hb->way[i], now);
	hb_send(hb, now);
	hb->due += hb->cfg.interval;
	if (hb->due <= now)
		hb->due = now + hb->cfg.interval;
	loop_timer_set(hb->loop, t, hb->due);
	hb_report(hb, now);
}

static void hb_free(struct heartbeat *hb)
{
	for (unsigned int i = 0; i < hb->cfg.n_paths; i++)
		way_close(&hb->way[i]);
	loop_free(hb->loop);
	pthread_mutex_destroy(&hb->lock);
	explicit_bzero(hb->cfg.key, sizeof(hb->cfg.key));
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

/* Only the first path has to work; the others are tried again. */
static int hb_open(struct heartbeat *hb, struct err *e)
{
	for (unsigned int i = 0; i < hb->cfg.n_paths; i++) {
		struct hb_way *w = &hb->way[i];
		int rc = way_open(w, e);

		if (rc < 0 && !i)
			return rc;
		if (rc < 0)
			log_note("heartbeat: %s; trying on", e->msg);
	}
	*e = (struct err){ 0 };
	return 0;
}

static int hb_check(const struct hb_cfg *cfg, struct err *e)
{
	if (!cfg->n_paths || cfg->n_paths > HB_MAX_PATHS)
		return err_set(e, -EINVAL, "%u paths for heartbeats, at most %d can be used", cfg->n_paths, HB_MAX_PATHS);
	if (cfg->silence < 3 * cfg->interval)
		return err_set(e, -EINVAL, "silence of %llu ms is less than three heartbeats of %llu ms", ms(cfg->silence),
			       ms(cfg->interval));
	return 0;
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
	if (hb_check(&hb->cfg, e) < 0) {
		free(hb);
		return NULL;
	}
	hb->id = atomic_fetch_add(&ids, 1) + 1;
	atomic_store(&hb->generation, cfg->generation);
	pthread_mutex_init(&hb->lock, NULL);
	for (unsigned int i = 0; i < BEAT_SOURCES; i++)
		hb->st.peer_age_ms[i] = BEAT_AGE_NONE;
	for (unsigned int i = 0; i < cfg->n_paths; i++)
		hb->way[i] = (struct hb_way){ .hb = hb, .n = i, .cfg = cfg->paths[i], .known = !cfg->listener, .st.up = true,
					      .quiet_from = clock_ns(), .watch.fd = -1 };
	hb->loop = loop_new("heartbeat", e);
	if (!hb->loop || hb_open(hb, e) < 0)
		goto fail;
	hb->tick = (struct loop_timer){ .fn = hb_tick, .arg = hb };
	hb->quiet = (struct loop_timer){ .fn = hb_quiet, .arg = hb };
	hb->due = hb->thaw = hb->quiet_from = clock_ns();
	rc = loop_timer_set(hb->loop, &hb->tick, hb->due);
	if (!rc)
		rc = loop_timer_set(hb->loop, &hb->quiet, hb->due + hb_after(hb, HB_LATE));
	if (rc < 0) {
		err_set(e, rc, "cannot set the heartbeat up: %s", strerror(-rc));
		goto fail;
	}
	/* Signals are the main thread's business. */
	sandbox_block(&all);
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
	out->n_paths = hb->cfg.n_paths;
	out->rtt_last = hb->way[hb->newest].st.rtt_last;
	out->rtt_avg = hb->way[hb->newest].st.rtt_avg;
	for (unsigned int i = 0; i < hb->cfg.n_paths; i++) {
		const struct hb_path_stats *p = &hb->way[i].st;

		out->path[i] = *p;
		memcpy(out->name[i], hb->cfg.paths[i].name, sizeof(out->name[i]));
		out->sent += p->sent;
		out->received += p->received;
		out->lost += p->lost;
		out->late += p->late;
		out->strangers += p->strangers;
		out->send_errors += p->send_errors;
		out->heard = p->heard > out->heard ? p->heard : out->heard;
		out->rtt_max = p->rtt_max > out->rtt_max ? p->rtt_max : out->rtt_max;
		if (p->rtt_min && (!out->rtt_min || p->rtt_min < out->rtt_min))
			out->rtt_min = p->rtt_min;
	}
	pthread_mutex_unlock(&hb->lock);
}
