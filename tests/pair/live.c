/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * tests/pair/live - two real Linux stacks behind the frames' machines
 *
 *   build/tests/pair/pair_live [--record DIR [--all]] [--only NAME] [--seed N] [--list]
 *
 * Theory of operation: a client and two servers with the same addresses, each the kernel of a network namespace
 * (world.c). This process reads their TAPs, plays the external network, and drives a primary and a secondary machine
 * with the real time: the servers are its PVM and SVM. They cannot be checkpointed, so there is one formal checkpoint
 * before the first connection, and from then on all that is let out must be released by comparison: these are
 * deterministic servers, so a difference that is found is one that does not matter to the client, and a fault here.
 *
 * "-lossy" has the external network lose, delay and reorder frames in both directions (the kernel may have no netem).
 * A lost frame is lost for both copies, but they retransmit by clocks of their own, so a wish for a checkpoint because
 * a held frame is old is no fault there.
 *
 * "-slow" has each frame to and from the SVM take its time, as an SVM does that has just been loaded: held output waits
 * and acknowledgements are lowered.
 *
 * Left out: multicast listener reports (a real VM sends them at times of its own, long before it is protected).
 *
 * Needs root; exits with 77 where there are no namespaces or TAPs. --record keeps each frame of all three
 * in DIR, of those scenarios that tests/data/pairs has, or of all.
 */
#include <errno.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "duo.h"
#include "flows.h"
#include "rec.h"
#include "world.h"

#define LANE		4096		/* frames under way in the external network */
#define MAX_FRAME	2048
#define QUIET		(150 * NS_PER_MS)	/* nothing has moved for so long, and no connection is open any more */
#define LIMIT		(45 * NS_PER_S)	/* of a scenario; most take less than one */
#define MAX_CLIENTS	4

struct weather {
	unsigned int loss;		/* of a thousand */
	nstime delay, jitter;
	nstime svm;			/* one way between the secondary machine and the SVM */
};

/* What a frame in the lane is on its way to. */
enum way { TO_CLIENT, FROM_CLIENT, TO_SVM, FROM_SVM };

struct scenario {
	const char *name;
	const char *clients;		/* with '+' between: at once */
	bool ip6;
	enum { FINE, SLOW, LOSSY } kind;
	const char *record;		/* file for --record, or NULL */
};

static const struct scenario scenarios[] = {
	{ "ask4", "ask", false, FINE, "tcp4-ask" },
	{ "pipeline4", "pipeline", false, FINE, "tcp4-pipeline" },
	{ "download4", "download", false, FINE, "tcp4-download" },
	{ "upload4", "upload", false, FINE, "tcp4-upload" },
	{ "half4", "half", false, FINE, "tcp4-half-close" },
	{ "short4", "short", false, FINE, "tcp4-short" },
	{ "many4", "many", false, FINE, "tcp4-many" },
	{ "udp4", "udp", false, FINE, "udp4" },
	{ "udp-large4", "udp-large", false, FINE, "udp4-fragments" },
	{ "ping4", "ping+ping-large", false, FINE, "icmp4" },
	{ "ask4-lossy", "ask+pipeline", false, LOSSY, "tcp4-ask-lossy" },
	{ "download4-lossy", "download", false, LOSSY, "tcp4-download-lossy" },
	{ "upload4-lossy", "upload+half", false, LOSSY, "tcp4-upload-lossy" },
	{ "short4-lossy", "short", false, LOSSY, NULL },
	{ "datagrams4-lossy", "udp+udp-large+ping", false, LOSSY, NULL },
	{ "ask6", "ask", true, FINE, "tcp6-ask" },
	{ "pipeline6", "pipeline", true, FINE, NULL },
	{ "download6", "download", true, FINE, NULL },
	{ "upload6", "upload", true, FINE, "tcp6-upload" },
	{ "half6", "half+short", true, FINE, "tcp6-short" },
	{ "many6", "many", true, FINE, NULL },
	{ "udp6", "udp", true, FINE, "udp6" },
	{ "udp-large6", "udp-large", true, FINE, "udp6-fragments" },
	{ "ping6", "ping+ping-large", true, FINE, "icmp6" },
	{ "ask6-lossy", "ask+pipeline", true, LOSSY, NULL },
	{ "download6-lossy", "download+upload", true, LOSSY, "tcp6-lossy" },
	{ "ask4-slow", "ask+pipeline+half", false, SLOW, "tcp4-slow" },
	{ "download4-slow", "download", false, SLOW, NULL },
	{ "upload4-slow", "upload+half+short", false, SLOW, NULL },
	{ "blend6-slow", "many+udp+ping+download", true, SLOW, NULL },
	{ "blend4", "many+udp+ping+download", false, FINE, NULL },
	{ "blend6", "many+udp+ping+upload", true, FINE, NULL },
};
#define SCENARIOS (sizeof(scenarios) / sizeof(scenarios[0]))

struct parcel {
	nstime due;
	uint64_t order;
	enum way way;
	uint32_t len;
	uint8_t data[MAX_FRAME];
};

struct run {
	struct world *w;
	const pid_t *resident;		/* a process in each host */
	struct duo *duo;
	struct rec_out rec;
	struct flows flows;
	struct weather weather;
	struct parcel *lane;
	uint32_t n_lane;
	uint64_t order, lost, random;
	nstime last;			/* when the last frame moved */
	const char *broken;
};

static uint32_t rnd(struct run *r, uint32_t n)
{
	r->random ^= r->random << 13;
	r->random ^= r->random >> 7;
	r->random ^= r->random << 17;
	return (uint32_t)(r->random >> 11) % n;
}

static void to_tap(struct run *r, enum host h, const uint8_t *f, uint32_t len)
{
	if (write(r->w->tap[h], f, len) != (ssize_t)len)
		r->broken = h == HOST_CLIENT ? "the client's TAP takes no frame" : "a server's TAP takes no frame";
}

static void into_machine(struct run *r, enum duo_port from, const uint8_t *f, uint32_t len)
{
	nstime now = clock_ns();

	if (r->rec.f && rec_put(&r->rec, now, from, f, len) < 0)
		r->broken = "the recording cannot be written";
	if (from != DUO_CLIENT)
		flows_see(&r->flows, from == DUO_PVM ? FLOWS_PVM : FLOWS_SVM, f, len);
	duo_frame(r->duo, now, from, f, len);
}

static void send_on(struct run *r, enum way way, const uint8_t *f, uint32_t len)
{
	r->last = clock_ns();
	switch (way) {
	case TO_CLIENT:
		to_tap(r, HOST_CLIENT, f, len);
		break;
	case FROM_CLIENT:
		into_machine(r, DUO_CLIENT, f, len);
		break;
	case TO_SVM:
		to_tap(r, HOST_S, f, len);
		break;
	case FROM_SVM:
		into_machine(r, DUO_SVM, f, len);
		break;
	}
}

static void into_lane(struct run *r, enum way way, const uint8_t *f, uint32_t len)
{
	bool inside = way == TO_SVM || way == FROM_SVM;
	nstime delay = inside ? r->weather.svm : r->weather.delay;
	struct parcel *p;

	if (!inside && r->weather.loss && rnd(r, 1000) < r->weather.loss) {
		r->lost++;
		return;
	}
	if (!delay) {
		send_on(r, way, f, len);
		return;
	}
	if (r->n_lane == LANE) {
		r->broken = "the external network is full";
		return;
	}
	p = &r->lane[r->n_lane++];
	p->due = clock_ns() + delay;
	/* One in twenty is late and comes behind others. */
	if (!inside && !rnd(r, 20))
		p->due += 1 + rnd(r, (uint32_t)r->weather.jitter);
	p->order = r->order++;
	p->way = way;
	p->len = len;
	memcpy(p->data, f, len);
}

/* Return: when the next one is due */
static nstime deliver(struct run *r)
{
	for (;;) {
		nstime next = NS_NEVER;
		uint32_t best = 0;
		struct parcel p;

		for (uint32_t i = 0; i < r->n_lane; i++)
			if (r->lane[i].due < next || (r->lane[i].due == next && r->lane[i].order < r->lane[best].order)) {
				next = r->lane[i].due;
				best = i;
			}
		if (next > clock_ns())
			return next;
		p = r->lane[best];
		r->lane[best] = r->lane[--r->n_lane];
		send_on(r, p.way, p.data, p.len);
	}
}

static void out(void *arg, enum duo_port to, const uint8_t *f, uint32_t len)
{
	struct run *r = arg;

	if (to == DUO_CLIENT) {
		flows_see(&r->flows, FLOWS_OUT, f, len);
		into_lane(r, TO_CLIENT, f, len);
	} else if (to == DUO_SVM) {
		into_lane(r, TO_SVM, f, len);
	} else {
		to_tap(r, HOST_P, f, len);
	}
}

/* Reports of multicast listeners: IPv6 to ff02::16 */
static bool noise(const uint8_t *f, uint32_t len)
{
	return len > 6 && !memcmp(f, "\x33\x33\x00\x00\x00\x16", 6);
}

static void from_tap(struct run *r, enum host h)
{
	uint8_t f[MAX_FRAME];
	ssize_t n;

	while ((n = read(r->w->tap[h], f, sizeof(f))) > 0) {
		r->last = clock_ns();
		if (noise(f, (uint32_t)n))
			continue;
		if (h == HOST_P)
			into_machine(r, DUO_PVM, f, (uint32_t)n);
		else
			into_lane(r, h == HOST_CLIENT ? FROM_CLIENT : FROM_SVM, f, (uint32_t)n);
	}
}

/* Whether some connection could still say something: all but listeners and TIME_WAIT. */
static bool any_open(const char *table, pid_t pid, bool tell)
{
	char path[64], line[512];
	bool open = false;
	unsigned int st;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/net/%s", (int)pid, table);
	f = fopen(path, "r");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, " %*d: %*[0-9A-F]:%*x %*[0-9A-F]:%*x %x", &st) == 1 && st != TCP_LISTEN && st != TCP_TIME_WAIT) {
			open = true;
			if (tell)
				printf("  process %d: %s", (int)pid, line);
		}
	if (f)
		fclose(f);
	return open;
}

static bool settled(const struct run *r, bool tell)
{
	bool open = false;

	for (int i = 0; i < HOSTS; i++) {
		open = any_open("tcp", r->resident[i], tell) || open;
		open = any_open("tcp6", r->resident[i], tell) || open;
	}
	return !open;
}

/* Serve until all of @pid have ended and nothing moves any more. Return: how many have failed, -1: not at the end */
static int serve(struct run *r, pid_t *pid, int n)
{
	nstime begun = clock_ns();
	int failed = 0, left = n;

	for (;;) {
		struct pollfd pf[HOSTS];
		nstime now = clock_ns(), due = deliver(r), at = duo_deadline(r->duo);
		int status;

		if (at <= now)
			duo_tick(r->duo, now);
		due = due < at ? due : at;
		due = due > now + 20 * NS_PER_MS ? now + 20 * NS_PER_MS : due < now ? now : due;
		for (int i = 0; i < HOSTS; i++)
			pf[i] = (struct pollfd){ .fd = r->w->tap[i], .events = POLLIN };
		if (poll(pf, HOSTS, (int)((due - now + NS_PER_MS - 1) / NS_PER_MS)) < 0 && errno != EINTR)
			return -1;
		for (int i = 0; i < HOSTS; i++)
			if (pf[i].revents)
				from_tap(r, (enum host)i);
		for (int i = 0; i < n; i++)
			if (pid[i] > 0 && waitpid(pid[i], &status, WNOHANG) == pid[i]) {
				pid[i] = 0;
				left--;
				failed += status != 0;
			}
		now = clock_ns();
		if (r->broken || now - begun > LIMIT)
			return -1;
		if (!left && !r->n_lane && now - r->last > QUIET) {
			struct net_stats p, s;

			duo_stats(r->duo, &p, &s);
			if (settled(r, false) && (!p.held || now - r->last > 5 * NS_PER_S))
				return failed;
		}
	}
}

static void drain(struct world *w)
{
	uint8_t f[MAX_FRAME];

	for (int i = 0; i < HOSTS; i++)
		while (read(w->tap[i], f, sizeof(f)) > 0)
			;
}

static void forget_neighbours(struct world *w)
{
	pid_t pid = world_fork(w, HOST_CLIENT);

	if (!pid)
		execlp("sh", "sh", "-c", "ip neigh flush dev t0; ip -6 neigh flush dev t0", (char *)NULL);
	waitpid(pid, NULL, 0);
}

static bool judge(struct run *r, const struct scenario *sc, int failed)
{
	struct net_stats p, s;
	char why[200] = "";
	uint32_t wants;

	duo_stats(r->duo, &p, &s);
	wants = duo_wants(r->duo, CAUSE_MAX) - (sc->kind == LOSSY ? duo_wants(r->duo, CAUSE_TIMEOUT) : 0);
	if (r->broken)
		snprintf(why, sizeof(why), "%s", r->broken);
	else if (failed < 0)
		snprintf(why, sizeof(why), "not at its end: %u frames are held%s", p.held,
			 settled(r, true) ? "" : ", connections are open");
	else if (failed)
		snprintf(why, sizeof(why), "%d clients got wrong answers", failed);
	else if (p.mismatches)
		snprintf(why, sizeof(why), "%llu differences", (unsigned long long)p.mismatches);
	else if (p.released_staged)
		snprintf(why, sizeof(why), "%llu frames were not released by comparison",
			 (unsigned long long)p.released_staged);
	else if (flows_judge(&r->flows, why, sizeof(why)) && p.held)
		snprintf(why, sizeof(why), "%u frames are still held", p.held);
	for (int c = 0; c < CAUSE_MAX && wants; c++)
		if (duo_wants(r->duo, c) && (c != CAUSE_TIMEOUT || sc->kind != LOSSY)) {
			size_t at = strlen(why);

			snprintf(why + at, sizeof(why) - at, "%s%u checkpoints wanted because of %s", at ? ", " : "",
				 duo_wants(r->duo, c), ckpt_cause_name(c));
		}
	printf("%-18s %s  in %llu, out %llu, compared %llu, passed %llu, acks lowered %llu, lost %llu, timeouts %u%s%s\n",
	       sc->name, *why ? "FAILED" : "ok", (unsigned long long)p.tap_in, (unsigned long long)p.tap_out,
	       (unsigned long long)p.released_compared, (unsigned long long)p.passed, (unsigned long long)p.acks_lowered,
	       (unsigned long long)r->lost, duo_wants(r->duo, CAUSE_TIMEOUT), *why ? ": " : "", why);
	fflush(stdout);
	return !*why;
}

static int start_clients(struct world *w, const struct scenario *sc, pid_t pid[MAX_CLIENTS])
{
	char names[100], *save = NULL;
	int n = 0;

	snprintf(names, sizeof(names), "%s", sc->clients);
	for (char *t = strtok_r(names, "+", &save); t && n < MAX_CLIENTS; t = strtok_r(NULL, "+", &save)) {
		pid[n] = world_fork(w, HOST_CLIENT);
		if (!pid[n])
			_exit(client_run(t, sc->ip6));
		if (pid[n] > 0)
			n++;
	}
	return n;
}

static bool run(struct world *w, const pid_t *resident, const struct scenario *sc, const char *dir, bool all, uint64_t seed)
{
	struct run r = { .w = w, .resident = resident, .random = seed * 2 + 1, .last = clock_ns() };
	pid_t pid[MAX_CLIENTS];
	char path[512];
	bool ok = false;
	int n, failed;

	if (sc->kind == LOSSY)
		r.weather = (struct weather){ .loss = 30, .delay = 2 * NS_PER_MS, .jitter = 6 * NS_PER_MS };
	else if (sc->kind == SLOW)
		r.weather = (struct weather){ .svm = 2 * NS_PER_MS };
	forget_neighbours(w);
	drain(w);
	r.lane = malloc(LANE * sizeof(*r.lane));
	r.duo = duo_new(clock_ns(), out, &r);
	if (!r.lane || !r.duo || flows_init(&r.flows) < 0) {
		printf("%s: no memory\n", sc->name);
		goto end;
	}
	if (dir && (sc->record || all)) {
		snprintf(path, sizeof(path), "%s/%s.pair", dir, sc->record ? sc->record : sc->name);
		if (rec_begin(&r.rec, path, clock_ns()) < 0) {
			printf("%s: %s\n", path, strerror(errno));
			goto end;
		}
	}
	n = start_clients(w, sc, pid);
	failed = serve(&r, pid, n);
	for (int i = 0; i < n; i++)
		if (pid[i] > 0) {
			kill(pid[i], SIGKILL);
			waitpid(pid[i], NULL, 0);
		}
	ok = judge(&r, sc, failed);
	if (r.rec.f && rec_end(&r.rec) == 0)
		printf("  recorded %s: %llu bytes\n", path, (unsigned long long)r.rec.bytes);
end:
	flows_free(&r.flows);
	duo_free(r.duo);
	free(r.lane);
	return ok;
}

static void hosts_end(struct world *w, const pid_t resident[HOSTS])
{
	for (int i = 0; i < HOSTS; i++)
		if (resident[i] > 0) {
			kill(resident[i], SIGKILL);
			waitpid(resident[i], NULL, 0);
		}
	world_free(w);
}

/* The hosts, and in each a process that stays: the servers, and one that does nothing. Return: as world_new() */
static int hosts_begin(struct world *w, pid_t resident[HOSTS])
{
	int rc = world_new(w);

	for (int i = 0; i < HOSTS; i++)
		resident[i] = 0;
	for (int i = 0; i < HOSTS && !rc; i++) {
		resident[i] = world_fork(w, (enum host)i);
		if (!resident[i]) {
			while (i == HOST_CLIENT)
				pause();
			service_run();
			_exit(1);
		}
	}
	if (rc)
		hosts_end(w, resident);
	return rc;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "record", required_argument, NULL, 'r' }, { "only", required_argument, NULL, 'o' },
		{ "seed", required_argument, NULL, 's' }, { "list", no_argument, NULL, 'l' },
		{ "all", no_argument, NULL, 'a' }, { NULL, 0, NULL, 0 },
	};
	const char *dir = NULL, *only = NULL;
	uint64_t seed = (uint64_t)clock_ns() % 1000000;
	bool all = false;
	pid_t resident[HOSTS] = { 0 };
	int c, rc, passed = 0, failed = 0;
	struct world w;

	while ((c = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		if (c == 'r') {
			dir = optarg;
		} else if (c == 'o') {
			only = optarg;
		} else if (c == 's') {
			seed = strtoull(optarg, NULL, 10);
		} else if (c == 'a') {
			all = true;
		} else if (c == 'l') {
			for (unsigned int i = 0; i < SCENARIOS; i++)
				printf("%s\n", scenarios[i].name);
			return 0;
		} else {
			return 2;
		}
	}
	if (geteuid()) {
		printf("this needs root\n");
		return 77;
	}
	rc = hosts_begin(&w, resident);
	if (rc) {
		printf("%s\n", rc == -2 ? "no network namespaces or TAP interfaces here" : "the three hosts cannot be set up");
		return rc == -2 ? 77 : 1;
	}
	printf("seed %llu\n", (unsigned long long)seed);
	for (unsigned int i = 0; i < SCENARIOS; i++) {
		if (only && strcmp(only, scenarios[i].name))
			continue;
		if (run(&w, resident, &scenarios[i], dir, all, seed + i)) {
			passed++;
			continue;
		}
		failed++;
		/* What it has left open would speak into the next one. */
		hosts_end(&w, resident);
		if (hosts_begin(&w, resident)) {
			printf("the three hosts cannot be set up again\n");
			return 1;
		}
	}
	hosts_end(&w, resident);
	printf("%d passed, %d failed, 0 skipped\n", passed, failed);
	return failed || !passed;
}
