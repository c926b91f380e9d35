/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * bench/proxy - what a frame costs on its way through input log, mirror, comparison and translation
 *
 *   build/bench/proxy [--quick] [--json] [--seconds S] [--cpu N] [--only NAME] [--flows N] [--no-wire] [--no-mem]
 *
 * One thread, bound to one CPU, holds a client, a primary, a secondary and two guests. frames/s counts what the client
 * sends and gets; it is by CPU time, so that others on this machine do not count. Each shape runs until its connections
 * are open and warm, then five windows, of which the median counts. `script` is what client and guests cost by
 * themselves, measured without machines between. --quick is the test: short windows, each checksum looked at.
 *
 * Shapes: ask-* one request and one answer of the same size (small: 70 bytes, the least that carries timestamps and
 * data; mixed: 70, 576 and 1514 bytes as 7:4:1), bulk a download of full segments, each second one acknowledged.
 */
#include "proxy_bench.h"

#include <errno.h>
#include <getopt.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define RSS_SLACK (1u << 20)	/* of the C library's, and of what a later window touches first */

static double cpu_s(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

uint64_t pb_rss(void)
{
	unsigned long size, rss = 0;
	FILE *f = fopen("/proc/self/statm", "r");

	if (f && fscanf(f, "%lu %lu", &size, &rss) != 2)
		rss = 0;
	if (f)
		fclose(f);
	return (uint64_t)rss * (uint64_t)sysconf(_SC_PAGESIZE);
}

void pb_fail(struct pb_result *r, const char *fmt, ...)
{
	va_list ap;

	if (!r->ok)
		return;
	r->ok = false;
	va_start(ap, fmt);
	vsnprintf(r->why, sizeof(r->why), fmt, ap);
	va_end(ap);
}

static void window_begin(struct pb_meter *m, const struct pb_script *s)
{
	m->frames0 = s->in + s->out;
	m->bytes0 = s->bytes_in + s->bytes_out;
	m->wall0 = clock_ns();
	m->cpu0 = cpu_s();
}

void pb_meter_begin(struct pb_meter *m, const struct pb_script *s, double window_s)
{
	m->n = 0;
	m->window_s = window_s;
	window_begin(m, s);
}

bool pb_meter_look(struct pb_meter *m, const struct pb_script *s)
{
	double cpu = cpu_s() - m->cpu0;

	if (cpu < m->window_s)
		return false;
	m->frames_s[m->n] = (double)(s->in + s->out - m->frames0) / cpu;
	m->gbit_s[m->n] = (double)(s->bytes_in + s->bytes_out - m->bytes0) * 8 / 1e9 / cpu;
	m->wall[m->n] = (double)(s->in + s->out - m->frames0) * 1e9 / (double)(clock_ns() - m->wall0);
	window_begin(m, s);
	return ++m->n == PB_WINDOWS;
}

static int by_size(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static double median(const double *v)
{
	double a[PB_WINDOWS];

	memcpy(a, v, sizeof(a));
	qsort(a, PB_WINDOWS, sizeof(*a), by_size);
	return a[PB_WINDOWS / 2];
}

void pb_meter_result(const struct pb_meter *m, struct pb_result *r)
{
	r->frames_s = median(m->frames_s);
	r->gbit_s = median(m->gbit_s);
	r->wall_frames_s = median(m->wall);
	r->ns_frame = 1e9 / r->frames_s;
	r->low = r->high = m->frames_s[0];
	for (int i = 1; i < PB_WINDOWS; i++) {
		r->low = m->frames_s[i] < r->low ? m->frames_s[i] : r->low;
		r->high = m->frames_s[i] > r->high ? m->frames_s[i] : r->high;
	}
}

static uint64_t lost(const struct net_stats *n)
{
	return n->drop_pool + n->drop_room + n->drop_held + n->drop_old_epoch + n->drop_bad + n->drop_silent + n->drop_syn +
	       n->flows_full;
}

static void lost_text(char *out, size_t cap, const struct net_stats *n)
{
	snprintf(out, cap, "pool %llu, room %llu, held %llu, old epoch %llu, bad %llu, silent %llu, syn %llu, flows %llu",
		 (unsigned long long)n->drop_pool, (unsigned long long)n->drop_room, (unsigned long long)n->drop_held,
		 (unsigned long long)n->drop_old_epoch, (unsigned long long)n->drop_bad, (unsigned long long)n->drop_silent,
		 (unsigned long long)n->drop_syn, (unsigned long long)n->flows_full);
}

void pb_judge(const struct pb_script *s, struct pb_result *r)
{
	/* Each segment of data, and the SYN-ACK of each connection; nothing else of the guests carries anything. */
	uint64_t due = s->data_out + s->shape.flows;

	if (s->wrong)
		pb_fail(r, "%llu things are wrong; first: %s", (unsigned long long)s->wrong, s->what);
	if (lost(&r->p) || lost(&r->s)) {
		char p[160], q[160];

		lost_text(p, sizeof(p), &r->p);
		lost_text(q, sizeof(q), &r->s);
		pb_fail(r, "frames were dropped: by the primary %s; by the secondary %s", p, q);
	}
	if (r->p.released_compared != due)
		pb_fail(r, "%llu frames were released by comparison, not %llu", (unsigned long long)r->p.released_compared,
			(unsigned long long)due);
	if (r->p.released_staged || r->p.mismatches || r->wants)
		pb_fail(r, "%llu differences, %llu checkpoints wanted, %llu frames released by them",
			(unsigned long long)r->p.mismatches, (unsigned long long)r->wants,
			(unsigned long long)r->p.released_staged);
	/* Of the SVM's answers the last one of each connection may lie there, matched, until the next one comes. */
	if (s->under_way || r->p.held || r->p.held_svm > s->shape.flows)
		pb_fail(r, "%u requests have no answer, %u and %u frames are still held", s->under_way, r->p.held, r->p.held_svm);
	if (r->rss_after > r->rss_before + RSS_SLACK)
		pb_fail(r, "memory grows from %llu to %llu bytes", (unsigned long long)r->rss_before,
			(unsigned long long)r->rss_after);
}

static void head(void)
{
	printf("%-22s %6s %11s %8s %9s %7s %8s %8s %8s %10s %6s %6s %6s\n", "shape", "flows", "frames/s", "Gbit/s", "ns/frame",
	       "script", "handled", "rss MB", "grown", "compared", "held", "differ", "wants");
}

static void row(const char *where, const struct pb_shape *sh, const struct pb_result *r)
{
	char name[40];

	snprintf(name, sizeof(name), "%s %s", where, sh->name);
	printf("%-22s %6u %11.0f %8.2f %9.0f %7.0f %8.1f %8.1f %8.2f %10llu %6u %6llu %6llu\n", name, sh->flows, r->frames_s,
	       r->gbit_s, r->ns_frame, r->script_ns, r->frames ? (double)r->handled / (double)r->frames : 0,
	       (double)r->rss_after / 1e6, ((double)r->rss_after - (double)r->rss_before) / 1e6,
	       (unsigned long long)r->p.released_compared, r->p.held, (unsigned long long)r->p.mismatches,
	       (unsigned long long)r->wants);
	if (!r->ok)
		printf("  FAILED: %s\n", r->why);
	fflush(stdout);
}

static void json_row(FILE *f, const char *sep, const char *where, const struct pb_shape *sh, const struct pb_result *r)
{
	fprintf(f, "%s{\"where\": \"%s\", \"shape\": \"%s\", \"flows\": %u, \"frames_s\": %.0f, \"low\": %.0f, \"high\": %.0f, "
		"\"wall_frames_s\": %.0f, \"gbit_s\": %.3f, \"ns_frame\": %.1f, \"script_ns\": %.1f, \"frames\": %llu, "
		"\"handled\": %llu, \"rss_before\": %llu, \"rss_after\": %llu, \"released_compared\": %llu, "
		"\"released_staged\": %llu, \"passed\": %llu, \"held\": %u, \"mismatches\": %llu, \"wants\": %llu, "
		"\"dropped\": %llu, \"ok\": %s}", sep, where, sh->name, sh->flows, r->frames_s, r->low, r->high, r->wall_frames_s,
		r->gbit_s, r->ns_frame, r->script_ns, (unsigned long long)r->frames, (unsigned long long)r->handled,
		(unsigned long long)r->rss_before, (unsigned long long)r->rss_after,
		(unsigned long long)r->p.released_compared, (unsigned long long)r->p.released_staged,
		(unsigned long long)r->p.passed, r->p.held, (unsigned long long)r->p.mismatches, (unsigned long long)r->wants,
		(unsigned long long)(lost(&r->p) + lost(&r->s)), r->ok ? "true" : "false");
}

/* Bind to one CPU: @want, or the last one that this process may use. */
static void bind_cpu(int want)
{
	cpu_set_t may, one;

	if (sched_getaffinity(0, sizeof(may), &may) < 0)
		return;
	for (int i = CPU_SETSIZE - 1; i >= 0 && want < 0; i--)
		if (CPU_ISSET(i, &may))
			want = i;
	CPU_ZERO(&one);
	CPU_SET((unsigned int)want, &one);
	if (sched_setaffinity(0, sizeof(one), &one) < 0)
		fprintf(stderr, "bench/proxy: cannot run on CPU %d alone: %s\n", want, strerror(errno));
}

static const struct {
	const char *name;
	enum pb_traffic traffic;
	bool mixed;
	enum pb_size size;
} kinds[] = {
	{ "ask-small", PB_ASK, false, PB_SMALL },
	{ "ask-1500", PB_ASK, false, PB_LARGE },
	{ "ask-mixed", PB_ASK, true, PB_SMALL },
	{ "bulk-1500", PB_BULK, false, PB_LARGE },
};
#define KINDS (sizeof(kinds) / sizeof(kinds[0]))

static const uint32_t flow_counts[] = { 1, 100, 10000 };

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "quick", no_argument, NULL, 'q' }, { "json", no_argument, NULL, 'j' },
		{ "seconds", required_argument, NULL, 's' }, { "cpu", required_argument, NULL, 'c' },
		{ "only", required_argument, NULL, 'o' }, { "flows", required_argument, NULL, 'f' },
		{ "no-wire", no_argument, NULL, 'w' }, { "no-mem", no_argument, NULL, 'm' }, { NULL, 0, NULL, 0 },
	};
	struct pb_opts o = { .window_s = 0.4 };
	bool json = false, wire = true, mem = true, ok = true, first = true;
	double ns[KINDS][3] = { 0 };
	const char *only = NULL;
	uint32_t flows = 0;
	int c, cpu = -1, runs = 0;
	char *text = NULL;
	size_t text_len;
	FILE *f;

	while ((c = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		switch (c) {
		case 'q':
			o.quick = true;
			o.window_s = 0.03;
			break;
		case 'j':
			json = true;
			break;
		case 's':
			o.window_s = atof(optarg);
			break;
		case 'c':
			cpu = atoi(optarg);
			break;
		case 'o':
			only = optarg;
			break;
		case 'f':
			flows = (uint32_t)atoi(optarg);
			break;
		case 'w':
			wire = false;
			break;
		case 'm':
			mem = false;
			break;
		default:
			fprintf(stderr, "see the head of bench/proxy.c\n");
			return 2;
		}
	}
	if (flows > PB_MAX_FLOWS || o.window_s <= 0) {
		fprintf(stderr, "bench/proxy: at most %u flows, and a window of more than 0 s\n", PB_MAX_FLOWS);
		return 2;
	}
	bind_cpu(cpu);
	f = open_memstream(&text, &text_len);
	if (!f)
		return 1;
	head();
	for (unsigned int k = 0; k < KINDS; k++) {
		for (unsigned int i = 0; i < 3 && mem; i++) {
			struct pb_shape sh = { kinds[k].name, kinds[k].traffic, kinds[k].mixed, kinds[k].size,
					       flows ? flows : flow_counts[i], UINT32_MAX };
			struct pb_result r = { .ok = true };

			if ((only && strcmp(only, sh.name)) || (flows && i))
				continue;
			/* One with many connections is enough for a test. */
			if (o.quick && !only && sh.flows > 100 && !sh.mixed)
				continue;
			pb_mem(&sh, &o, &r);
			r.script_ns = pb_null(&sh, &o);
			ns[k][i] = r.ns_frame;
			row("memory", &sh, &r);
			json_row(f, first ? "" : ",\n", "memory", &sh, &r);
			first = false;
			ok = ok && r.ok;
			runs++;
		}
		for (unsigned int i = 0; i < 1 && wire; i++) {
			struct pb_shape sh = { kinds[k].name, kinds[k].traffic, kinds[k].mixed, kinds[k].size, flows ? flows : 100,
					       100 };
			struct pb_result r = { .ok = true };

			if (only && strcmp(only, sh.name))
				continue;
			pb_wire(&sh, &o, &r);
			row("sockets", &sh, &r);
			json_row(f, first ? "" : ",\n", "sockets", &sh, &r);
			first = false;
			ok = ok && r.ok;
			runs++;
		}
	}
	fclose(f);
	if (mem && !flows) {
		printf("\na frame at 10000 connections costs, against 100:");
		for (unsigned int k = 0; k < KINDS; k++)
			if (ns[k][1] > 0 && ns[k][2] > 0)
				printf(" %s %.2f", kinds[k].name, ns[k][2] / ns[k][1]);
		printf("\n");
	}
	if (json)
		printf("{\"runs\": [%s], \"ok\": %s}\n", text, ok ? "true" : "false");
	free(text);
	if (!runs) {
		fprintf(stderr, "bench/proxy: there is no shape %s\n", only ? only : "");
		return 2;
	}
	return ok ? 0 : 1;
}
