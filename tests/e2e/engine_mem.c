/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The engine's memory path with stock QEMU: two of them, a Linux guest that writes random memory, and checkpoints from
 * one to the other, after each of which all of guest memory is compared byte for byte.
 *
 *	engine_mem --kernel FILE --initrd FILE --init FILE --agent FILE [--module FILE]... [--machine pc]
 *		   [--nic virtio-net-pci] [--mem 256] [--rounds 50] [--delay 100] [--per-ms 2] [--work-mb 64]
 *		   [--loads 0] [--sandbox] [--life] [--again] [--swap] [--quick] [--extra ARG]...
 *
 * Kernel and initrd are guest/build's; --init replaces the guest's first process, modules are added. --loads N loads
 * one state N times; --life has the SVM's guest switch itself off, panic (with pvpanic) and reset before a checkpoint;
 * --again lets the secondary take over, makes its memory fit for protection and protects it with another one;
 * --swap has pages of both swapped out before each checkpoint, where this machine can have a swap file;
 * --quick leaves the comparisons out, for measuring. Exit 0: all held; 77: the kernel of this machine cannot do it.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <xxhash.h>

#include "engine/dirty.h"
#include "engine/pagebuf.h"
#include "engine/stage.h"
#include "engine/svmmem.h"
#include "engine_mem_vm.h"
#include "mem_swapfile.h"

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SYS_process_madvise
#define SYS_process_madvise 440
#endif

enum {
	STEP_STOP, STEP_SAVE, STEP_SCAN, STEP_COPY, STEP_CONT, STEP_S_STOP, STEP_STAGE, STEP_REVERT, STEP_APPLY,
	STEP_PUT, STEP_LOAD, STEP_TOUCHED, STEP_S_CONT, STEP_MAX, ROUNDS_MAX = 10000
};
static const char *const step_name[STEP_MAX] = {
	"P stop", "P save", "P scan", "P copy", "P cont", "S stop", "stage", "S revert", "S apply",
	"S put state", "S load", "S revert again", "S cont",
};
static double step_ms[STEP_MAX][ROUNDS_MAX];
static double count_of[4][ROUNDS_MAX];
static char initrd[64];
static const char *const count_name[4] = { "dirty pages", "reverted pages", "touched by load", "state bytes" };

static struct vm *p, *s;
static struct dirty *dirty;
static struct pageset set, mine;
static struct pagebuf *buf;
static struct stage *stage;
static uint8_t *copy, *seen;
static unsigned int n_rounds;
static struct svmmem *mem;

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static void show(const char *name, double *v, unsigned int n, const char *unit)
{
	qsort(v, n, sizeof(*v), by_value);
	printf("  %-16s p50 %10.3f  p90 %10.3f  max %10.3f %s\n", name, v[n / 2], v[n * 9 / 10], v[n - 1], unit);
}

static nstime mark(unsigned int step, nstime since)
{
	nstime now = clock_ns();

	step_ms[step][n_rounds] = (double)(now - since) / 1e6;
	return now;
}

/* drain() - what the network does in the product: copy buffer to staging */
static void drain(void)
{
	struct pagebuf_piece piece;
	int rc = 0;

	while (pagebuf_next(buf, 64, &piece))
		for (uint64_t i = 0; i < piece.count && rc == 0; i++)
			rc = stage_put(stage, piece.first + i, piece.data ? piece.data + i * RAM_PAGE : NULL);
	pagebuf_reset(buf);
	if (rc < 0)
		die("stage_put: %s", strerror(-rc));
}

/* look() - what @vm's QEMU sees of guest memory into @seen */
static void look(struct vm *vm)
{
	const struct mem_map *m = &vm->agent->map;

	for (uint32_t i = 0; i < m->n; i++) {
		uint64_t done = 0, len = m->r[i].count * RAM_PAGE;

		while (done < len) {
			ssize_t n = pread(vm->mem, seen + m->r[i].first * RAM_PAGE + done, len - done,
					  (off_t)(m->r[i].addr + done));

			if (n <= 0)
				die("the %s's memory cannot be read: %s", vm->name, strerror(errno));
			done += (uint64_t)n;
		}
	}
}

/* compare() - what the SVM sees against what the PVM had */
static void compare(const char *when)
{
	uint64_t bad = 0, first = 0;

	look(s);
	pageset_clear(&mine);
	if (memscan_private(s->agent->pagemap, &s->agent->map, &mine) < 0 || mine.count > 0)
		die("round %u, %s: %" PRIu64 " private pages are left", n_rounds, when, mine.count);
	if (memcmp(seen, copy, p->ram->size) == 0)
		return;
	for (uint64_t i = p->ram->n_pages; i-- > 0;)
		if (memcmp(seen + i * RAM_PAGE, copy + i * RAM_PAGE, RAM_PAGE) != 0) {
			bad++;
			first = i;
		}
	die("round %u, %s: %" PRIu64 " pages differ, the first is %" PRIu64 " (staged this time: %d)", n_rounds, when,
	    bad, first, pageset_has(stage_pages(stage), first));
}

/* push_out() - have pages of a QEMU's guest memory swapped out, half of it, another half each time; how many are out */
static uint64_t push_out(const struct vm *vm, unsigned int turn)
{
	int pidfd = (int)syscall(SYS_pidfd_open, vm->pid, 0);
	unsigned char *core = malloc(vm->ram->n_pages);
	uint64_t out = 0;

	/* Pages that two have mapped are left alone. */
	madvise(vm->ram->base, vm->ram->size, MADV_DONTNEED);
	for (uint32_t i = 0; i < vm->agent->map.n; i++) {
		const struct mem_range *r = &vm->agent->map.r[i];
		uint64_t half = r->count / 2 * RAM_PAGE;
		struct iovec iov = { (void *)(uintptr_t)(r->addr + turn % 2 * half), half };

		if (syscall(SYS_process_madvise, pidfd, &iov, 1, MADV_PAGEOUT, 0u) == -1)
			die("process_madvise: %s", strerror(errno));
	}
	close(pidfd);
	if (!core || mincore(vm->ram->base, vm->ram->size, core) == -1)
		die("mincore");
	for (uint64_t i = 0; i < vm->ram->n_pages; i++)
		out += !(core[i] & 1);
	free(core);
	return out;
}

/* revert() - and see by the kernel's other way of telling that nothing private is left */
static uint64_t revert(void)
{
	struct svmmem_stats st;
	struct err e;

	if (svmmem_revert(mem, clock_ns() + 10 * NS_PER_S, &e) < 0)
		die("%s", e.msg);
	svmmem_stats(mem, &st);
	return st.last_pages;
}

enum { SAID = 64 };
static char *said;	/* gets the run state after the load, when somebody wants it */

static void checkpoint(bool first, bool quick)
{
	nstime t = clock_ns();
	const void *state;
	size_t len;
	struct err e;
	int rc;

	vm_do(p, "{\"execute\":\"stop\"}");
	t = mark(STEP_STOP, t);
	vm_do(p, devstate_save_cmd(p->ds));
	if (devstate_saved(p->ds, &state, &len, &e) < 0)
		die("%s", e.msg);
	t = mark(STEP_SAVE, t);
	rc = dirty_scan(dirty, true, &set);
	if (rc < 0)
		die("dirty_scan: %s", strerror(-rc));
	t = mark(STEP_SCAN, t);
	if (first && ram_extents(p->ram, &set) < 0)
		die("ram_extents");
	count_of[0][n_rounds] = (double)set.count;
	count_of[3][n_rounds] = (double)len;
	while (pagebuf_take(buf, p->ram, &set, 0, NULL) == -ENOSPC)
		drain();
	t = mark(STEP_COPY, t);
	if (!quick)
		memcpy(copy, p->ram->base, p->ram->size);
	t = clock_ns();
	vm_do(p, "{\"execute\":\"cont\"}");
	t = mark(STEP_CONT, t);

	vm_do(s, "{\"execute\":\"stop\"}");
	/* What is switched off refuses cont until it was reset; the reset writes memory, so it comes first. */
	if (strcmp(vm_status(s), "shutdown") == 0)
		vm_reset(s);
	t = mark(STEP_S_STOP, t);
	drain();
	t = mark(STEP_STAGE, t);
	count_of[1][n_rounds] = (double)revert();
	t = mark(STEP_REVERT, t);
	if (stage_apply(stage, s->ram, NULL, NULL) < 0)
		die("stage_apply");
	t = mark(STEP_APPLY, t);
	if (devstate_put(s->ds, state, len, &e) < 0)
		die("%s", e.msg);
	t = mark(STEP_PUT, t);
	if (!vm_load(s))
		die("round %u: load failed: %s", n_rounds, s->answer);
	t = mark(STEP_LOAD, t);
	count_of[2][n_rounds] = (double)revert();
	mark(STEP_TOUCHED, t);
	if (!quick)
		compare("after the load");
	if (said)
		snprintf(said, SAID, "%s", vm_status(s));
	stage_clear(stage);
	t = clock_ns();
	vm_do(s, "{\"execute\":\"cont\"}");
	mark(STEP_S_CONT, t);
	n_rounds++;
}

static void report(void)
{
	for (unsigned int i = 0; i < STEP_MAX; i++)
		show(step_name[i], step_ms[i] + 1, n_rounds - 1, "ms");
	for (unsigned int i = 0; i < 4; i++)
		show(count_name[i], count_of[i] + 1, n_rounds - 1, "");
}

/* life() - what a load needs when the guest of the secondary has ended its life in one way or another */
static void life(bool pvpanic)
{
	static const struct { char order; const char *status; } way[] = {
		{ 'P', "shutdown" }, { 'C', "guest-panicked" }, { 'R', "running" },
	};

	for (unsigned int i = 0; i < 3; i++) {
		char before[SAID], after[SAID];

		/* Without the device a panic is nothing that QEMU hears of. */
		if (way[i].order == 'C' && !pvpanic)
			continue;
		s->order = way[i].order;
		if (i < 2 && !vm_wait_status(s, way[i].status, 30)) {
			printf("  %c: the guest did not get to %s but %s\n", way[i].order, way[i].status, vm_status(s));
			continue;
		}
		if (i == 2)
			vm_sleep_ms(1500);
		snprintf(before, sizeof(before), "%s", vm_status(s));
		said = after;
		checkpoint(false, false);
		said = NULL;
		if (!vm_wait_frames(s, 5, 30) || s->id != p->id)
			die("the secondary's guest is silent or not the primary's");
		printf("  loaded in %s: then %s, after cont %s, and its guest is the primary's\n", before, after,
		       vm_status(s));
	}
}

/* restart() - the secondary's QEMU dies after a checkpoint was applied; another one goes on from image and state */
static void restart(const struct vm_opts *o)
{
	struct err e;
	nstime t;

	checkpoint(false, false);
	t = clock_ns();
	vm_restart(s, o, true);
	svmmem_free(mem);
	mem = svmmem_new(s->agent, s->ram, &e);
	if (!mem)
		die("%s", e.msg);
	revert();
	if (!vm_load(s))
		die("load after a restart: %s", s->answer);
	revert();
	printf("  QEMU started anew and loaded in %.0f ms\n", (double)(clock_ns() - t) / 1e6);
	compare("after a restart");
	vm_do(s, "{\"execute\":\"cont\"}");
	if (!vm_wait_frames(s, 5, 30) || s->id != p->id)
		die("the secondary's guest is silent or not the primary's after a restart");
	checkpoint(false, false);
}

/*
 * reprotect() - the primary is gone; the secondary's memory becomes the image itself, step by step while its guest
 * works, and it is the primary of another pair then
 */
static void reprotect(const struct vm_opts *o, unsigned int rounds)
{
	uint64_t from = 0, wrote, sum = 0, private;
	unsigned int steps = 0;
	double ms = 0, max = 0;
	struct err e;

	vm_end(p);
	vm_sleep_ms(2000);
	private = (uint64_t)svmmem_private(mem);
	for (; from < s->ram->n_pages; steps++) {
		nstime t;
		double d;

		vm_do(s, "{\"execute\":\"stop\"}");
		look(s);
		memcpy(copy, seen, s->ram->size);
		t = clock_ns();
		if (svmmem_share(mem, &from, 1024, &wrote, clock_ns() + 10 * NS_PER_S, &e) < 0)
			die("share: %s", e.msg);
		d = (double)(clock_ns() - t) / 1e6;
		ms += d;
		max = d > max ? d : max;
		sum += wrote;
		look(s);
		if (memcmp(seen, copy, s->ram->size) != 0)
			die("step %u, up to page %" PRIu64 ": the guest sees other memory than before", steps, from);
		if (memcmp(seen, s->ram->base, from * RAM_PAGE) != 0)
			die("step %u, up to page %" PRIu64 ": the image is not the memory", steps, from);
		vm_do(s, "{\"execute\":\"cont\"}");
		if (steps % 8 == 0 && !vm_wait_frames(s, 2, 30))
			die("the guest is silent after step %u", steps);
	}
	svmmem_free(mem);
	printf("  shared again: %u steps, %" PRIu64 " private pages at the begin, %" PRIu64 " written; longest %.2f ms; "
	       "%.1f ms for 100 MB\n", steps, private, sum, max, sum > 0 ? ms / (double)sum * 25600 : 0.0);
	if (agentctl_hello(s->agent, s->ram, (uint32_t)s->pid, clock_ns() + 5 * NS_PER_S, &e) < 0 ||
	    agentctl_track(s->agent, clock_ns() + 5 * NS_PER_S, &e) < 0)
		die("%s", e.msg);
	p = s;
	s = vm_start("next secondary", o, true);
	dirty_free(dirty);
	dirty = dirty_new(DIRTY_WP_ASYNC, &p->agent->map, p->agent->pagemap, p->agent->clear_refs, &e);
	mem = svmmem_new(s->agent, s->ram, &e);
	if (!dirty || !mem || dirty_arm(dirty) < 0)
		die("%s", e.msg);
	for (unsigned int i = 0; i <= rounds; i++) {
		checkpoint(i == 0, false);
		vm_sleep_ms(50);
		if (p->errors > 0 || s->errors > 0)
			die("the guest found wrong pages after it was protected again");
	}
	if (!vm_wait_frames(s, 3, 30) || s->id != p->id)
		die("the next secondary's guest is not the primary's");
	printf("  protected again: %u checkpoints\n", rounds + 1);
}

static void clean(void)
{
	unlink(initrd);
}

int main(int argc, char **argv)
{
	static const struct option opts[] = {
		{ "kernel", 1, NULL, 'k' }, { "initrd", 1, NULL, 'I' }, { "init", 1, NULL, 'i' },
		{ "agent", 1, NULL, 'a' }, { "module", 1, NULL, 'o' }, { "machine", 1, NULL, 'M' },
		{ "nic", 1, NULL, 'n' }, { "mem", 1, NULL, 'm' }, { "rounds", 1, NULL, 'r' },
		{ "delay", 1, NULL, 'd' }, { "per-ms", 1, NULL, 'p' }, { "loads", 1, NULL, 'l' },
		{ "sandbox", 0, NULL, 's' }, { "life", 0, NULL, 'f' }, { "qemu", 1, NULL, 'q' },
		{ "quick", 0, NULL, 'Q' }, { "extra", 1, NULL, 'x' }, { "work-mb", 1, NULL, 'w' },
		{ "again", 0, NULL, 'A' }, { "swap", 0, NULL, 'S' }, { 0 },
	};
	struct vm_opts o = { .qemu = "qemu-system-x86_64", .machine = "pc", .nic = "virtio-net-pci", .mb = 256 };
	unsigned int rounds = 50, delay = 100, per_ms = 2, loads = 0, n_modules = 0, n_extra = 0, work_mb = 64;
	char *module[32] = { 0 }, *extra[32] = { 0 }, append[256];
	const char *init = NULL, *base = NULL, *why;
	uint64_t out_p = 0, out_s = 0;
	bool want_swap = false, want_life = false, again = false, quick = false, pvpanic = false;
	struct err e;
	int c;

	setlinebuf(stdout);
	while ((c = getopt_long(argc, argv, "", opts, NULL)) != -1) {
		switch (c) {
		case 'k': o.kernel = optarg; break;
		case 'i': init = optarg; break;
		case 'I': base = optarg; break;
		case 'a': o.agent = optarg; break;
		case 'o': module[n_modules < 31 ? n_modules++ : 30] = optarg; break;
		case 'M': o.machine = optarg; break;
		case 'n': o.nic = optarg; break;
		case 'm': o.mb = (unsigned int)atoi(optarg); break;
		case 'r': rounds = (unsigned int)atoi(optarg); break;
		case 'd': delay = (unsigned int)atoi(optarg); break;
		case 'p': per_ms = (unsigned int)atoi(optarg); break;
		case 'l': loads = (unsigned int)atoi(optarg); break;
		case 'w': work_mb = (unsigned int)atoi(optarg); break;
		case 's': o.sandbox = true; break;
		case 'f': want_life = true; break;
		case 'q': o.qemu = optarg; break;
		case 'A': again = true; break;
		case 'Q': quick = true; break;
		case 'S': want_swap = true; break;
		case 'x':
			extra[n_extra < 31 ? n_extra++ : 30] = optarg;
			pvpanic = pvpanic || strcmp(optarg, "pvpanic") == 0;
			break;
		default: return 2;
		}
	}
	if (!o.kernel || !init || !base || !o.agent || rounds + 10 > ROUNDS_MAX)
		die("--kernel, --initrd, --init and --agent are needed");
	if (access(o.kernel, R_OK) != 0 || access(base, R_OK) != 0) {
		printf("skipped: guest/build has not been run\n");
		return 77;
	}
	if (dirty_probe(&e) != DIRTY_WP_ASYNC) {
		printf("skipped: %s\n", e.msg);
		return 77;
	}
	signal(SIGPIPE, SIG_IGN);
	snprintf(initrd, sizeof(initrd), "/tmp/engine_mem.%d.cpio", getpid());
	atexit(clean);
	initramfs(initrd, base, init, module);
	snprintf(append, sizeof(append), "console=ttyS0 quiet panic=0 work_mb=%u per_ms=%u", work_mb, per_ms);
	o.append = append;
	o.initrd = initrd;
	o.extra = extra;
	p = vm_start("primary", &o, false);
	s = vm_start("secondary", &o, true);
	printf("%s %s %u MB%s\n", o.machine, o.nic, o.mb, o.sandbox ? " sandbox" : "");
	if (agentctl_track(p->agent, clock_ns() + 5 * NS_PER_S, &e) < 0)
		die("%s", e.msg);
	dirty = dirty_new(DIRTY_WP_ASYNC, &p->agent->map, p->agent->pagemap, p->agent->clear_refs, &e);
	buf = pagebuf_new(4096, &e);
	stage = stage_new(p->ram->n_pages, 0, "/tmp", &e);
	copy = malloc(p->ram->size);
	seen = malloc(p->ram->size);
	mem = svmmem_new(s->agent, s->ram, &e);
	if (!dirty || !buf || !stage || !mem || !copy || !seen || pageset_init(&set, p->ram->n_pages) < 0 ||
	    pageset_init(&mine, p->ram->n_pages) < 0)
		die("%s", e.msg);
	nstime t = clock_ns();
	if (dirty_arm(dirty) < 0)
		die("dirty_arm");
	printf("arm %.2f ms\n", (double)(clock_ns() - t) / 1e6);
	vm_do(p, "{\"execute\":\"cont\"}");
	if (!vm_wait_frames(p, 10, 120))
		die("the guest does not come up");
	printf("guest up after %.1f s\n", (double)(clock_ns() - t) / 1e9);
	checkpoint(true, false);
	why = want_swap ? swapfile_new(1ull << 30) : NULL;
	if (why)
		printf("no swap here: %s\n", why);
	want_swap = want_swap && !why;
	for (unsigned int i = 0; i < rounds; i++) {
		uint64_t want = s->count;

		vm_sleep_ms(delay);
		/* The SVM must be alive before it is replaced, or the comparison compares standing still. */
		if (!quick && i % 10 == 9 && !vm_wait_frames(s, 2, 30))
			die("round %u: the secondary's guest is silent (%" PRIu64 ")", i, want);
		if (want_swap) {
			out_p += push_out(p, i);
			out_s += push_out(s, i / 2);
		}
		checkpoint(false, quick);
		if (p->errors > 0 || s->errors > 0)
			die("round %u: the guest found wrong pages: P %" PRIu64 ", S %" PRIu64, i, p->errors,
			    s->errors);
	}
	if (!vm_wait_frames(s, 3, 30) || s->id != p->id)
		die("the secondary's guest is not the primary's: %" PRIx64 " %" PRIx64, s->id, p->id);
	if (want_swap) {
		printf("  pages of the memory files that were out of memory at a checkpoint: P %" PRIu64 ", S %" PRIu64 "\n",
		       out_p / rounds, out_s / rounds);
		if (out_p < 100 * rounds || out_s < 1000 * rounds)
			die("next to nothing was swapped out");
	}
	report();
	printf("  writes by the guests: P %" PRIu64 ", S %" PRIu64 "; errors %" PRIu64 " %" PRIu64 "\n", p->writes,
	       s->writes, p->errors, s->errors);
	if (loads > 0) {
		int fds[2];
		static uint8_t meta[7 << 18];
		uint64_t before, after;
		double *ms = calloc(loads, sizeof(double));

		checkpoint(false, false);
		vm_do(s, "{\"execute\":\"stop\"}");
		/* Memory of the same moment as the state, or the load is refused by virtio. */
		revert();
		devstate_fds(s->ds, fds);
		before = pread(fds[1], meta, sizeof(meta), 0) > 0 ? XXH3_64bits(meta, sizeof(meta)) : 0;
		for (unsigned int i = 0; i < loads; i++) {
			t = clock_ns();
			if (!vm_load(s))
				die("load %u: %s", i, s->answer);
			ms[i] = (double)(clock_ns() - t) / 1e6;
		}
		after = pread(fds[1], meta, sizeof(meta), 0) > 0 ? XXH3_64bits(meta, sizeof(meta)) : 1;
		show("repeated load", ms, loads, "ms");
		/* A load resets the machine first, and a reset writes the firmware's tables (/rom@...) anew. */
		revert();
		compare("after many loads");
		printf("  metadata of the image after %u loads: %s\n", loads,
		       before == after ? "identical" : "CHANGED");
		if (before != after)
			return 1;
		vm_do(s, "{\"execute\":\"cont\"}");
		if (!vm_wait_frames(s, 3, 30))
			die("the secondary's guest is silent after %u loads", loads);
		free(ms);
	}
	if (want_life) {
		life(pvpanic);
		o.initrd = initrd;
		restart(&o);
	}
	if (again)
		reprotect(&o, 10);
	vm_end(p);
	vm_end(s);
	dirty_free(dirty);
	pagebuf_free(buf);
	stage_free(stage);
	svmmem_free(mem);
	pageset_fini(&set);
	pageset_fini(&mine);
	free(copy);
	free(seen);
	printf("engine_mem: %u checkpoints%s\n", n_rounds, quick ? "" : ", memory identical after each");
	return 0;
}
