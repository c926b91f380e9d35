/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * prop_core: core/ against a model, by random schedules. See sim.h for the parts.
 *
 *	prop_core [--seed S] [--count N] [--seconds T] [--jobs J] [--trace] [--keep-going] [--faults] [--fault NAME]
 *		[--with FAULT]
 *
 * Without arguments it runs for 45 seconds, or LOCKSTEP_PROP_SECONDS, on two jobs, seeds from 1 on, and says so when
 * that was not enough for WANTED schedules; slowness of the machine is no failure. --count N runs N schedules however
 * long it takes. --faults plants each fault of core/ in turn and must find it: a seed counts only when it passes
 * without the fault and the assertion that it breaks is the one about this fault. Exit status: 0, 1 for violations
 * or faults not found, 2 for wrong usage. A violation is printed with its seed and how to see it again.
 * --with plants a fault by name in an ordinary run.
 */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "sim.h"

enum { MAX_JOBS = 16, MAX_FOUND = 4000, SECONDS = 45, WANTED = 100000, FAULT_SCHEDULES = 5000, ENOUGH = 50000 };

struct found {
	uint64_t seed;
	char promise[16], why[256];
};

struct worker {
	struct stats st;
	struct found found[MAX_FOUND];
	uint64_t n_found, running;
};

struct shared {
	struct worker w[MAX_JOBS];
	volatile int stop;
};

/* @about: in the text of the assertion that is about this fault; what else breaks by it counts nothing. */
struct fault {
	const char *name;
	uint32_t net, ft;
	const char *about;
	uint32_t world;		/* of who carries out what core/ says */
};

static const struct fault faults[] = {
	{ "early-release", NET_FAULT_EARLY_RELEASE, 0, "the state that would take over" },
	{ "old-epoch", NET_FAULT_OLD_EPOCH, 0, "the new state has sent" },
	{ "log-svm-ack", NET_FAULT_LOG_SVM_ACK, 0, "after a load: input" },
	{ "no-replay", NET_FAULT_NO_REPLAY, 0, "nor given to it again" },
	{ "no-translation", NET_FAULT_NO_TRANSLATION, 0, "its stream begins at" },
	{ "whole-segment", NET_FAULT_WHOLE_SEGMENT, 0, "was sent by both copies in epoch" },
	{ "no-reset", NET_FAULT_NO_RESET, 0, "the positions were not set" },
	{ "no-clamp", NET_FAULT_NO_CLAMP, 0, "is acknowledged to client" },
	{ "ts-back", NET_FAULT_TS_BACK, 0, "PAWS would drop" },
	{ "no-flow-ok", NET_FAULT_NO_FLOW_OK, 0, "has not confirmed its numbers" },
	{ "apply-early", 0, FT_FAULT_APPLY_EARLY, "before it is STAGED" },
	{ "staged-early", 0, FT_FAULT_STAGED_EARLY, "is said: the barrier" },
	{ "promote-staged", 0, FT_FAULT_PROMOTE_STAGED, "which it had said to be STAGED" },
	{ "abort-drop-pages", 0, FT_FAULT_ABORT_DROP_PAGES, "the memory is not that of the device state" },
	{ "abort-release", 0, FT_FAULT_ABORT_RELEASE, "the state that would take over" },
	{ "no-flip", 0, FT_FAULT_NO_FLIP, "the disk is not that of the device state" },
	{ "no-fence", 0, FT_FAULT_NO_FENCE, "may still write" },
	{ "disk-late", 0, FT_FAULT_DISK_LATE, "isk" },
	{ "abort-run", 0, FT_FAULT_ABORT_RUN, "the SVM runs on" },
	{ "no-claim", 0, FT_FAULT_NO_CLAIM, "both may be heard" },
	{ "no-deadline", 0, FT_FAULT_NO_DEADLINE, "both may be heard" },
	{ "no-mute", 0, FT_FAULT_NO_MUTE, "both may be heard" },
	{ "not-owner", 0, 0, "both may be heard", WORLD_NOT_OWNER },
};
enum { N_FAULTS = sizeof(faults) / sizeof(faults[0]) };

struct opts {
	uint64_t seed, count;
	double seconds;
	int jobs;
	bool trace, keep_going;
	uint32_t net, ft, world;
	const char *about;
};

static double mono(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void work(struct shared *sh, const struct opts *o, int job, double until)
{
	struct worker *w = &sh->w[job];
	struct sim *s = calloc(1, sizeof(*s));
	uint64_t n = 0;

	if (!s)
		abort();
	s->st = &w->st;
	sim_store_init(s);
	s->trace = o->trace;
	s->net_faults = o->net;
	s->ft_faults = o->ft;
	s->world_faults = o->world;
	for (uint64_t i = (uint64_t)job; i < o->count && !sh->stop; i += (uint64_t)o->jobs) {
		w->running = o->seed + i;
		bool bad = !sim_run(s, o->seed + i);

		/* A planted fault is found by a schedule that is good without it. */
		if (bad && o->about && !strstr(s->why, o->about))
			bad = false;
		if (bad && (o->net || o->ft || o->world) && !o->trace) {
			const char *promise = s->promise;
			char why[sizeof(s->why)];

			memcpy(why, s->why, sizeof(why));
			s->net_faults = s->ft_faults = s->world_faults = 0;
			bad = sim_run(s, o->seed + i);
			s->net_faults = o->net;
			s->ft_faults = o->ft;
			s->world_faults = o->world;
			s->promise = promise;
			memcpy(s->why, why, sizeof(why));
		}
		if (bad) {
			if (w->n_found < MAX_FOUND) {
				struct found *f = &w->found[w->n_found];

				f->seed = o->seed + i;
				snprintf(f->promise, sizeof(f->promise), "%s", s->promise);
				snprintf(f->why, sizeof(f->why), "%.250s", s->why);
			}
			w->n_found++;
			if (!o->keep_going)
				sh->stop = 1;
		}
		if ((++n & 15) == 0 && mono() > until)
			break;
	}
}

/* Return: number of violations; -1 when a worker died */
static long run_all(struct shared *sh, const struct opts *o, double *took)
{
	double t0 = mono();
	pid_t pid[MAX_JOBS];
	long n = 0;
	int st;

	memset(sh, 0, sizeof(*sh));
	fflush(stdout);
	for (int j = 0; j < o->jobs; j++) {
		pid[j] = o->jobs == 1 ? 0 : fork();
		if (pid[j] < 0) {
			perror("fork");
			exit(2);
		}
		if (!pid[j]) {
			work(sh, o, j, t0 + o->seconds);
			if (o->jobs == 1)
				break;
			fflush(stdout);
			_exit(0);
		}
	}
	for (int j = 0; j < o->jobs && o->jobs > 1; j++) {
		waitpid(pid[j], &st, 0);
		if (!WIFEXITED(st) || WEXITSTATUS(st)) {
			printf("a worker died of signal %d in seed %lu\n", WIFSIGNALED(st) ? WTERMSIG(st) : 0,
			       (unsigned long)sh->w[j].running);
			n = -1;
		}
	}
	*took = mono() - t0;
	for (int j = 0; j < o->jobs && n >= 0; j++)
		n += (long)sh->w[j].n_found;
	return n;
}

static void add_up(const struct shared *sh, int jobs, struct stats *sum)
{
	memset(sum, 0, sizeof(*sum));
	for (int j = 0; j < jobs; j++) {
#define X(name) sum->name += sh->w[j].st.name;
		SIM_STATS(X)
#undef X
	}
}

static void print_stats(const struct stats *st)
{
	int n = 0;

#define X(name) \
	if (n > 100) \
		putchar('\n'); \
	printf("%s" #name " %lu", n > 100 || !n ? "    " : ", ", (unsigned long)st->name); \
	n = n > 100 ? 20 : n + 18;
	SIM_STATS(X)
#undef X
	putchar('\n');
}

/* Must have happened in a long run. What only some settings can bring about is not among them. */
static int never_happened(const struct stats *st)
{
	static const struct {
		const char *name;
		size_t at;
	} must[] = {
#define M(name) { #name, offsetof(struct stats, name) }
		M(uploads), M(random_last), M(guest_opened), M(fast_rexmit), M(lost_ext), M(dup_ext), M(ck_mismatch),
		M(ck_timeout), M(ck_other), M(ck_held), M(ck_inlog), M(ck_delay), M(gate_expired), M(rel_compared),
		M(rel_staged), M(splits), M(acks_lowered), M(acks_made), M(acks_swallowed), M(replayed), M(purged), M(vanished),
		M(silent_drops), M(p1_checked), M(switch_checked), M(det_checked), M(p2_checked), M(replay_checked),
		M(staged_checked), M(syn_checked), M(fail_kill), M(fail_power), M(fail_qemu_dies), M(fail_qemu_hangs),
		M(fail_qemu_pauses), M(fail_freeze), M(fail_step), M(fail_command), M(fail_cut),
		M(fail_cut_one), M(fail_cut_data), M(fail_cut_beats), M(fail_switch), M(witnessed), M(granted), M(lost_claims),
		M(unknown_claims), M(fenced), M(early_takeovers), M(cold_starts), M(cold_served), M(switched), M(aborts), M(aborts_first),
		M(aborts_retried), M(aborts_parted), M(fo_in_abort), M(rejoins), M(rejoins_promoted),
		M(third_lives), M(fourth_lives), M(second_failovers),
		M(zero_windows), M(probes), M(scaled), M(wraps), M(tfo_sent), M(tfo_taken), M(tfo_refused), M(tfo_early),
		M(urgent_sent), M(urgent_out), M(sim_closes), M(half_closes), M(guest_half_closes), M(resets_by_client),
		M(resets_by_guest), M(reused), M(v6_conns), M(vlan_conns), M(qinq_conns), M(ext_headers), M(two_nics),
		M(labelled), M(dg_udp), M(dg_icmp), M(dg_other), M(dg_v6), M(dg_random), M(dg_det_answers), M(dg_fragmented),
		M(dg_asked_in_parts), M(dg_part_lost), M(dg_part_late), M(dg_twice_given), M(dg_order_checked),
		M(dg_all_checked), M(storms), M(storm_answers), M(storm_failovers), M(storm_checkpoints), M(survived_alone),
		M(translated_at_failover), M(failovers), M(fo_p_idle), M(fo_p_gate), M(fo_p_stop), M(fo_p_collect), M(fo_p_cont),
		M(fo_p_staged), M(fo_p_loaded), M(fo_p_abort),
		M(fo_s_gate), M(fo_s_stop), M(fo_s_collect), M(fo_s_apply), M(fo_s_load),
		M(fo_s_mend), M(fo_s_cont),
#undef M
	};
	int n = 0;

	for (unsigned int i = 0; i < sizeof(must) / sizeof(must[0]); i++)
		if (!*(const uint64_t *)((const char *)st + must[i].at)) {
			printf("prop_core: %s has never happened\n", must[i].name);
			n++;
		}
	return n;
}

static void print_found(const struct shared *sh, int jobs)
{
	for (int j = 0; j < jobs; j++)
		for (uint64_t i = 0; i < sh->w[j].n_found && i < MAX_FOUND; i++)
			printf("  seed %lu: %s: %s\n    to see it: prop_core --seed %lu --count 1 --trace\n",
			       (unsigned long)sh->w[j].found[i].seed, sh->w[j].found[i].promise, sh->w[j].found[i].why,
			       (unsigned long)sh->w[j].found[i].seed);
}

static int run_faults(struct shared *sh, struct opts o, const char *only)
{
	int missing = 0;
	double took;

	for (int i = 0; i < N_FAULTS; i++) {
		struct stats st;
		long n;

		if (only && strcmp(only, faults[i].name))
			continue;
		o.net = faults[i].net;
		o.ft = faults[i].ft;
		o.world = faults[i].world;
		o.about = faults[i].about;
		n = run_all(sh, &o, &took);
		add_up(sh, o.jobs, &st);
		if (n > 0) {
			for (int j = 0; j < o.jobs; j++)
				if (sh->w[j].n_found) {
					printf("fault %-15s found after %lu schedules, seed %lu: %s: %s\n", faults[i].name,
					       (unsigned long)st.schedules, (unsigned long)sh->w[j].found[0].seed,
					       sh->w[j].found[0].promise, sh->w[j].found[0].why);
					break;
				}
		} else {
			printf("fault %-15s NOT FOUND in %lu schedules\n", faults[i].name, (unsigned long)st.schedules);
			missing++;
		}
		fflush(stdout);
	}
	printf("prop_core: %d planted faults not found\n", missing);
	return missing ? 1 : 0;
}

int main(int argc, char **argv)
{
	static const struct option longs[] = {
		{ "seed", 1, NULL, 's' }, { "count", 1, NULL, 'n' }, { "seconds", 1, NULL, 't' }, { "jobs", 1, NULL, 'j' },
		{ "trace", 0, NULL, 'v' }, { "faults", 0, NULL, 'f' }, { "fault", 1, NULL, 'F' }, { "keep-going", 0, NULL, 'k' },
		{ "with", 1, NULL, 'w' }, { NULL, 0, NULL, 0 } };
	struct opts o = { .seed = 1, .count = UINT64_MAX, .seconds = SECONDS, .jobs = 2 };
	const char *env = getenv("LOCKSTEP_PROP_SECONDS");
	const char *only = NULL;
	bool plant = false, counted = false, timed = false;
	struct shared *sh;
	struct stats st;
	double took;
	long n;
	int c;

	if (env && atof(env) > 0)
		o.seconds = atof(env);
	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		switch (c) {
		case 's': o.seed = strtoull(optarg, NULL, 0); break;
		case 'n': o.count = strtoull(optarg, NULL, 0); counted = true; break;
		case 't': o.seconds = atof(optarg); timed = true; break;
		case 'j': o.jobs = atoi(optarg); break;
		case 'v': o.trace = true; o.jobs = 1; break;
		case 'f': plant = true; break;
		case 'F': plant = true; only = optarg; break;
		case 'k': o.keep_going = true; break;
		case 'w':
			for (int i = 0; i < N_FAULTS; i++)
				if (!strcmp(optarg, faults[i].name)) {
					o.net |= faults[i].net;
					o.ft |= faults[i].ft;
					o.world |= faults[i].world;
				}
			break;
		default:
			fprintf(stderr, "usage: prop_core [--seed S] [--count N] [--seconds T] [--jobs J] [--trace] [--keep-going] "
				"[--faults] [--fault NAME] [--with FAULT]\n");
			return 2;
		}
	}
	if (o.jobs < 1 || o.jobs > MAX_JOBS || !o.count || (only && !plant))
		return 2;
	sh = mmap(NULL, sizeof(*sh), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (sh == MAP_FAILED) {
		perror("mmap");
		return 2;
	}
	if (plant) {
		if (!counted)
			o.count = FAULT_SCHEDULES;
		if (!timed)
			o.seconds = 1e9;
		return run_faults(sh, o, only);
	}
	if (counted && !timed)
		o.seconds = 1e9;
	n = run_all(sh, &o, &took);
	add_up(sh, o.jobs, &st);
	print_found(sh, o.jobs);
	print_stats(&st);
	if (st.schedules >= ENOUGH && !(o.net | o.ft | o.world) && never_happened(&st))
		n += !n;
	if (!counted && !n && st.schedules < WANTED)
		printf("prop_core: fewer than the %d schedules wanted: a slow machine, or LOCKSTEP_PROP_SECONDS\n", WANTED);
	printf("prop_core: base seed %lu, %lu schedules, %lu TCP segments in %.1f s (%.0f schedules a second), "
	       "%ld violations\n", (unsigned long)o.seed, (unsigned long)st.schedules, (unsigned long)st.segments,
	       took, (double)st.schedules / took, n);
	return n ? 1 : 0;
}
