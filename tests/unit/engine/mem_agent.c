/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Dirty tracking, private pages and the agent, with a child in QEMU's place: this program again, with the agent
 * preloaded, which maps the memory as it is told on the command line and writes pages as it is told on a pipe.
 */
#include "mem_rnd.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/agent_proto.h"
#include "engine/agentctl.h"
#include "engine/dirty.h"
#include "engine/memlimit.h"
#include "engine/memwork.h"
#include "engine/svmmem.h"

enum { PAGES = 512, BLOCK_PAGES = 40, NUM_RAM = 100, NUM_AGENT, NUM_IN, NUM_OUT };
static const char *self, *lib;

/* What the child does to a page; each order is answered by a byte. */
struct order {
	char what;		/* 'w' write, 's' write by a system call, 'r' read, 'e' is its environment clean? */
	uint64_t page;
	uint64_t value;
};

static int child(const char *how)
{
	const int rw = PROT_READ | PROT_WRITE, fixed = MAP_PRIVATE | MAP_FIXED;
	uint8_t *m = MAP_FAILED, *half, *other, *block = NULL;
	uint64_t where[1];
	struct order o;
	uint64_t word;
	char answer;
	int fds[2];

	if (pipe(fds) == -1)
		return 1;
	if (strcmp(how, "shared") == 0 || strcmp(how, "private") == 0 || strcmp(how, "twice") == 0) {
		m = mmap(NULL, PAGES * RAM_PAGE, rw, how[0] == 'p' ? MAP_PRIVATE : MAP_SHARED, NUM_RAM, 0);
		if (how[0] == 't')
			mmap(NULL, PAGES * RAM_PAGE, PROT_READ, MAP_SHARED, NUM_RAM, 0);
	} else if (strcmp(how, "pieces") == 0) {
		/* Three mappings, the later half first, so that one area of addresses has them in another order. */
		m = mmap(NULL, PAGES * RAM_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		half = m + PAGES / 2 * RAM_PAGE;
		mmap(m, PAGES / 2 * RAM_PAGE, rw, fixed, NUM_RAM, PAGES / 2 * RAM_PAGE);
		other = half + 100 * RAM_PAGE;
		mmap(half, 100 * RAM_PAGE, rw, fixed, NUM_RAM, 0);
		mmap(other, (PAGES / 2 - 100) * RAM_PAGE, rw, fixed, NUM_RAM, 100 * RAM_PAGE);
		/* Two neighbours of one permission are one for the kernel; keep them apart. */
		mprotect(other, RAM_PAGE, rw | PROT_EXEC);
	} else if (strncmp(how, "block", 5) == 0) {
		/* Main memory, and a block beside it as QEMU allocates one, whose address is told in the first page. */
		m = mmap(NULL, PAGES * RAM_PAGE, rw, how[5] == 's' ? MAP_SHARED : MAP_PRIVATE, NUM_RAM, 0);
		block = mmap(NULL, BLOCK_PAGES * RAM_PAGE, rw, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		for (unsigned int i = 0; i < BLOCK_PAGES; i += 3)
			memset(block + i * RAM_PAGE, (int)i + 1, RAM_PAGE);
		where[0] = (uint64_t)(uintptr_t)block;
		if (pwrite(NUM_RAM, where, sizeof(where), 0) != sizeof(where))
			return 1;
	} else if (strcmp(how, "half") == 0) {
		m = mmap(NULL, PAGES / 2 * RAM_PAGE, rw, MAP_SHARED, NUM_RAM, 0);
	}
	if (write(NUM_OUT, "!", 1) != 1)
		return 1;
	while (read(NUM_IN, &o, sizeof(o)) == sizeof(o)) {
		uint8_t *p = m + (strcmp(how, "pieces") == 0 ? (o.page + PAGES / 2) % PAGES : o.page) * RAM_PAGE;

		if (block && o.page >= PAGES)
			p = block + (o.page - PAGES) * RAM_PAGE;

		answer = 'y';
		if (o.what == 'w')
			memcpy(p, &o.value, sizeof(o.value));
		else if (o.what == 's')
			answer = write(fds[1], &o.value, 8) == 8 && read(fds[0], p, 8) == 8 ? 'y' : 'n';
		else if (o.what == 'r')
			answer = memcpy(&word, p, 8) && word == o.value ? 'y' : 'n';
		else if (o.what == 'e')
			answer = !getenv(AGENT_ENV_FD) && !getenv(AGENT_ENV_RAM_FD) &&
				 (!getenv("LD_PRELOAD") || !strstr(getenv("LD_PRELOAD"), AGENT_LIB_NAME)) &&
				 fcntl(NUM_AGENT, F_GETFD) == FD_CLOEXEC ? 'y' : 'n';
		if (write(NUM_OUT, &answer, 1) != 1)
			return 1;
	}
	return 0;
}

struct kid {
	pid_t pid;
	int in, out;
	struct ram *ram;
	struct agentctl *agent;
};

static nstime soon(void)
{
	return clock_ns() + 10 * NS_PER_S;
}

static void kid_start(struct kid *k, const char *how, bool with_ram)
{
	char env[AGENTCTL_ENV][AGENTCTL_ENV_LEN], go;
	int in[2], out[2];

	k->ram = ram_new(PAGES * RAM_PAGE, NULL);
	k->agent = agentctl_new(NULL);
	assert_true(k->ram && k->agent);
	assert_int_equal(agentctl_env(lib, NUM_AGENT, NUM_RAM, env), 0);
	assert_int_equal(pipe2(in, O_CLOEXEC), 0);
	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	k->pid = fork();
	if (k->pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (with_ram)
			dup2(k->ram->fd, NUM_RAM);
		dup2(k->agent->child_fd, NUM_AGENT);
		dup2(in[0], NUM_IN);
		dup2(out[1], NUM_OUT);
		for (int i = 0; i < AGENTCTL_ENV; i++)
			putenv(env[i]);
		/* A sanitizer's runtime wants to be first in the child, the agent must be allowed before it. */
		setenv("ASAN_OPTIONS", "verify_asan_link_order=0:detect_leaks=0", 1);
		execl(self, self, "child", how, NULL);
		_exit(127);
	}
	close(in[0]);
	close(out[1]);
	k->in = in[1];
	k->out = out[0];
	agentctl_started(k->agent);
	assert_int_equal(read(k->out, &go, 1), 1);
}

static void kid_end(struct kid *k)
{
	close(k->in);
	if (k->pid > 0) {
		kill(k->pid, SIGKILL);
		waitpid(k->pid, NULL, 0);
	}
	close(k->out);
	agentctl_free(k->agent);
	ram_free(k->ram);
}

static char order(struct kid *k, char what, uint64_t page, uint64_t value)
{
	struct order o = { .what = what, .page = page, .value = value };
	char answer = 0;

	assert_int_equal(write(k->in, &o, sizeof(o)), sizeof(o));
	assert_int_equal(read(k->out, &answer, 1), 1);
	return answer;
}

static void probes(void **state)
{
	struct err e = { .msg = "" };
	int kind = dirty_probe(&e), soft = memscan_probe_soft_dirty(&e);

	print_message("tracking by %s; soft-dirty: %s\n", kind == DIRTY_WP_ASYNC ? "userfaultfd" : "other means",
		      soft == 0 ? "yes" : e.msg);
	if (kind != DIRTY_WP_ASYNC)
		skip();
	assert_int_equal(memscan_probe_private(&e), 0);
}

static void track(void **state)
{
	struct pageset set, want;
	struct dirty *d;
	struct kid k;
	struct err e;

	if (dirty_probe(&e) != DIRTY_WP_ASYNC)
		skip();
	kid_start(&k, "shared", true);
	assert_int_equal(order(&k, 'e', 0, 0), 'y');
	/* Pages may be there before, or not. */
	for (unsigned int i = 0; i < 50; i++)
		order(&k, 'w', i * 3, 1);
	assert_int_equal(agentctl_hello(k.agent, k.ram, (uint32_t)k.pid, soon(), &e), 0);
	assert_true(k.agent->map.shared);
	assert_int_equal(k.agent->pid, k.pid);
	assert_int_equal(agentctl_track(k.agent, soon(), &e), 0);
	assert_int_equal(agentctl_track(k.agent, soon(), &e), 0);
	d = dirty_new(DIRTY_WP_ASYNC, &k.agent->map, k.agent->pagemap, -1, &e);
	assert_non_null(d);
	assert_int_equal(dirty_kind(d), DIRTY_WP_ASYNC);
	pageset_init(&set, PAGES);
	pageset_init(&want, PAGES);
	assert_int_equal(dirty_arm(d), 0);
	for (unsigned int round = 0; round < 200; round++) {
		pageset_clear(&set);
		pageset_clear(&want);
		for (uint64_t n = rnd() % 40; n > 0; n--) {
			uint64_t page = rnd() % PAGES;

			assert_int_equal(order(&k, rnd() % 4 ? 'w' : 's', page, rnd()), 'y');
			pageset_add(&want, page, 1);
			/* Our own writing to the file, and reading, are not the guest's. */
			ram_page(k.ram, rnd() % PAGES)[8] ^= 1;
		}
		assert_int_equal(dirty_scan(d, round % 2, &set), 0);
		assert_int_equal(set.count, want.count);
		assert_memory_equal(set.bits, want.bits, PAGES / 8);
	}
	dirty_free(d);
	/* What a shared mapping holds is not dropped. */
	pageset_clear(&set);
	pageset_add(&set, 1, 1);
	assert_int_equal(agentctl_drop(k.agent, &set, soon(), &e), -ERANGE);
	pageset_fini(&set);
	pageset_fini(&want);
	kid_end(&k);
	assert_null(dirty_new(DIRTY_SOFT, &(struct mem_map){ 0 }, 0, -1, &e));
}

/* drop_in() - pages written by the child and given back, @by_hand or by svmmem */
static void drop_in(const char *how, bool by_hand)
{
	uint64_t seen[PAGES], image[PAGES];
	struct pageset set, want;
	struct svmmem *m = NULL;
	struct svmmem_stats st;
	struct kid k;
	struct err e;

	kid_start(&k, how, true);
	for (unsigned int i = 0; i < PAGES; i++) {
		image[i] = seen[i] = rnd();
		memcpy(ram_page(k.ram, i), &image[i], 8);
	}
	assert_int_equal(agentctl_hello(k.agent, k.ram, 0, soon(), &e), 0);
	assert_false(k.agent->map.shared);
	pageset_init(&set, PAGES);
	pageset_init(&want, PAGES);
	if (!by_hand) {
		/* What was written before it began must be found, too. */
		order(&k, 'w', 9, seen[9] = 77);
		m = svmmem_new(k.agent, k.ram, &e);
		assert_non_null(m);
		svmmem_stats(m, &st);
		assert_int_equal(svmmem_revert(m, soon(), &e), 0);
		assert_int_equal(order(&k, 'r', 9, image[9]), 'y');
		memcpy(seen, image, sizeof(seen));
	}
	for (unsigned int round = 0; round < 60; round++) {
		pageset_clear(&want);
		for (uint64_t n = rnd() % 200; n > 0; n--) {
			uint64_t page = rnd() % PAGES;

			if (rnd() % 3 == 0) {
				assert_int_equal(order(&k, 'r', page, seen[page]), 'y');
				continue;
			}
			seen[page] = rnd();
			order(&k, rnd() % 4 ? 'w' : 's', page, seen[page]);
			pageset_add(&want, page, 1);
		}
		pageset_clear(&set);
		if (by_hand) {
			assert_int_equal(memscan_private(k.agent->pagemap, &k.agent->map, &set), 0);
			assert_int_equal(set.count, want.count);
			assert_memory_equal(set.bits, want.bits, PAGES / 8);
			pageset_clear(&set);
			assert_int_equal(memscan_private_old(k.agent->pagemap, &k.agent->map, &set), 0);
			assert_memory_equal(set.bits, want.bits, PAGES / 8);
			assert_int_equal(agentctl_drop(k.agent, &set, soon(), &e), 0);
		} else {
			assert_int_equal(svmmem_private(m), want.count);
			assert_int_equal(svmmem_revert(m, soon(), &e), 0);
			svmmem_stats(m, &st);
			assert_int_equal(st.last_pages, want.count);
			if (rnd() % 2) {
				assert_int_equal(svmmem_revert(m, soon(), &e), 0);
				svmmem_stats(m, &st);
				assert_int_equal(st.last_pages, 0);
			}
		}
		for (uint64_t n = rnd() % 50; n > 0; n--) {
			uint64_t page = rnd() % PAGES;

			image[page] = rnd();
			memcpy(ram_page(k.ram, page), &image[page], 8);
		}
		memcpy(seen, image, sizeof(seen));
		for (unsigned int i = 0; i < PAGES; i++)
			assert_int_equal(order(&k, 'r', i, image[i]), 'y');
		pageset_clear(&set);
		assert_int_equal(memscan_private(k.agent->pagemap, &k.agent->map, &set), 0);
		assert_int_equal(set.count, 0);
	}
	pageset_fini(&set);
	pageset_fini(&want);
	svmmem_free(m);
	kid_end(&k);
}

static void drop(void **state)
{
	if (memscan_probe_private(NULL) < 0)
		skip();
	drop_in("private", true);
}

static void drop_pieces(void **state)
{
	if (memscan_probe_private(NULL) < 0)
		skip();
	drop_in("pieces", true);
}

static void revert(void **state)
{
	if (memscan_probe_private(NULL) < 0)
		skip();
	drop_in("private", false);
}

static void revert_pieces(void **state)
{
	struct kid k;
	struct err e;

	if (memscan_probe_private(NULL) < 0)
		skip();
	drop_in("pieces", false);
	kid_start(&k, "shared", true);
	assert_int_equal(agentctl_hello(k.agent, k.ram, 0, soon(), &e), 0);
	assert_null(svmmem_new(k.agent, k.ram, &e));
	assert_int_equal(e.code, -EINVAL);
	kid_end(&k);
}

/* share_in() - private pages become the image's, step by step, and are followed then */
static void share_in(const char *how)
{
	uint64_t seen[PAGES], from = 0, steps = 0;
	struct page_run all = { .first = 0, .count = PAGES };
	struct pageset set, want;
	struct svmmem *m;
	struct kid k;
	struct err e;

	kid_start(&k, how, true);
	for (unsigned int i = 0; i < PAGES; i++) {
		seen[i] = rnd();
		memcpy(ram_page(k.ram, i), &seen[i], 8);
	}
	assert_int_equal(agentctl_hello(k.agent, k.ram, 0, soon(), &e), 0);
	m = svmmem_new(k.agent, k.ram, &e);
	assert_non_null(m);
	pageset_init(&set, PAGES);
	pageset_init(&want, PAGES);
	for (; from < PAGES; steps++) {
		uint64_t before = from, limit = 1 + rnd() % 10, private, wrote;

		for (uint64_t n = from == 0 ? 200 : rnd() % 200; n > 0; n--) {
			uint64_t page = rnd() % PAGES;

			if (rnd() % 4 == 0)
				order(&k, 'r', page, seen[page]);
			else
				order(&k, rnd() % 4 ? 'w' : 's', page, seen[page] = rnd());
		}
		private = (uint64_t)svmmem_private(m);
		assert_int_equal(svmmem_share(m, &from, limit, &wrote, soon(), &e), 0);
		assert_true(from > before && from <= PAGES && wrote <= limit);
		/* What was shared has left the private pages, and nothing else has. */
		assert_int_equal(svmmem_private(m), private - wrote);
		for (uint64_t i = 0; i < from; i++)
			assert_memory_equal(ram_page(k.ram, i), &seen[i], 8);
		for (uint64_t i = 0; i < PAGES; i++)
			assert_int_equal(order(&k, 'r', i, seen[i]), 'y');
	}
	assert_true(steps > 5);
	assert_int_equal(svmmem_share(m, &from, 1, &steps, soon(), &e), -ERANGE);
	svmmem_free(m);
	assert_int_equal(agentctl_hello(k.agent, k.ram, (uint32_t)k.pid, soon(), &e), 0);
	assert_true(k.agent->map.shared);
	assert_null(svmmem_new(k.agent, k.ram, &e));
	/* A piece that is shared already may come again: the answer was lost. */
	for (unsigned int i = 0; i < k.agent->map.n; i++) {
		struct page_run piece = { k.agent->map.r[i].first, k.agent->map.r[i].count };

		assert_int_equal(agentctl_share(k.agent, &piece, &set, &steps, soon(), &e), 0);
	}
	if (dirty_probe(&e) == DIRTY_WP_ASYNC) {
		struct dirty *d;

		assert_int_equal(agentctl_track(k.agent, soon(), &e), 0);
		assert_int_equal(agentctl_share(k.agent, &all, &set, &steps, soon(), &e), -EBUSY);
		d = dirty_new(DIRTY_WP_ASYNC, &k.agent->map, k.agent->pagemap, -1, &e);
		assert_int_equal(dirty_arm(d), 0);
		for (uint64_t n = 100; n > 0; n--) {
			uint64_t page = rnd() % PAGES;

			order(&k, rnd() % 4 ? 'w' : 's', page, seen[page] = rnd());
			pageset_add(&want, page, 1);
			assert_memory_equal(ram_page(k.ram, page), &seen[page], 8);
		}
		assert_int_equal(dirty_scan(d, true, &set), 0);
		assert_int_equal(set.count, want.count);
		assert_memory_equal(set.bits, want.bits, PAGES / 8);
		dirty_free(d);
	}
	pageset_fini(&set);
	pageset_fini(&want);
	kid_end(&k);
}

static void share(void **state)
{
	struct agent_run run[2] = { { 0, PAGES }, { 0, 1 } };
	struct page_run piece = { 0, PAGES };
	struct pageset set;
	uint64_t wrote;
	struct kid k;
	struct err e;

	if (memscan_probe_private(NULL) < 0)
		skip();
	share_in("private");
	share_in("pieces");
	kid_start(&k, "private", true);
	pageset_init(&set, PAGES + 1);
	assert_int_equal(agentctl_share(k.agent, &piece, &set, &wrote, soon(), &e), -ERANGE);
	assert_int_equal(agentctl_hello(k.agent, k.ram, 0, soon(), &e), 0);
	for (unsigned int i = 0; i < 4; i++) {
		/* a piece too long, one behind the end, an empty one, one that is none */
		piece = (struct page_run){ i == 1 ? PAGES : i == 3 ? UINT64_MAX : 0, i == 0 ? PAGES + 1 : i == 2 ? 0 : 1 };
		assert_int_equal(agentctl_share(k.agent, &piece, &set, &wrote, soon(), &e), -ERANGE);
	}
	run[0] = (struct agent_run){ 1, 4 };
	for (unsigned int i = 0; i < 3; i++) {
		struct { struct agent_msg m; struct agent_run run[2]; } __attribute__((packed)) q = {
			.m = { .magic = AGENT_MAGIC, .version = AGENT_VERSION, .type = AGENT_SHARE,
			       .len = sizeof(q.run) },
		};

		/* private pages outside of the piece */
		run[1] = (struct agent_run){ i == 0 ? 0 : i == 1 ? 4 : 5, i == 1 ? 2 : 1 };
		memcpy(q.run, run, sizeof(run));
		assert_int_equal(send(k.agent->sock, &q, sizeof(q), 0), sizeof(q));
		assert_true(recv(k.agent->sock, &q, sizeof(q), 0) >= (ssize_t)sizeof(q.m));
		assert_int_equal(q.m.rc, -ERANGE);
	}
	assert_int_equal(order(&k, 'w', 5, 1), 'y');
	pageset_fini(&set);
	kid_end(&k);
}

/* place() - a block of QEMU's own becomes part of the guest's memory file, and is followed or dropped as the rest is */
static void place(void **state)
{
	struct ram_region want = { .name = "vga.vram", .count = BLOCK_PAGES };
	struct ramblocks blocks = { .n = 1 };
	struct pageset set;
	struct kid k;
	struct err e;

	pageset_init(&set, PAGES + BLOCK_PAGES);
	for (unsigned int i = 0; i < 3; i++) {
		/* The third is a QEMU that is started anew over an image: what the image holds is what it has to see. */
		bool share = i == 0, copy = i != 2;

		kid_start(&k, share ? "blocks" : "blockp", true);
		assert_int_equal(agentctl_blocks(k.agent, &blocks, soon(), &e), -ENOSYS);
		blocks.n = 1;
		strcpy(blocks.b[0].name, "vga.vram");
		memcpy(&blocks.b[0].addr, ram_page(k.ram, 0), 8);
		blocks.b[0].len = BLOCK_PAGES * RAM_PAGE;
		assert_int_equal(ram_layout(k.ram, &want, 1, &e), 0);
		ram_page(k.ram, PAGES + 3)[100] = 77;
		/* Not while a part is missing, nor over what is there already. */
		assert_int_equal(agentctl_hello(k.agent, k.ram, 0, soon(), &e), -EINVAL);
		blocks.b[0].len -= RAM_PAGE;
		assert_int_equal(agentctl_place(k.agent, k.ram, &blocks, share, copy, soon(), &e), -EXDEV);
		blocks.b[0].len += RAM_PAGE;
		assert_int_equal(agentctl_place(k.agent, k.ram, &blocks, share, copy, soon(), &e), 0);
		assert_int_equal(agentctl_place(k.agent, k.ram, &blocks, share, copy, soon(), &e), -EEXIST);
		assert_int_equal(agentctl_hello(k.agent, k.ram, 0, soon(), &e), 0);
		assert_int_equal(k.agent->map.shared, share);
		/* Pages that were never touched are still holes, so they need not be sent. */
		pageset_clear(&set);
		assert_int_equal(ram_extents(k.ram, &set), 0);
		assert_false(pageset_has(&set, PAGES + 5));
		assert_int_equal(pageset_has(&set, PAGES + 6), copy);
		for (uint64_t p = 0; p < BLOCK_PAGES; p++) {
			uint8_t v = copy && p % 3 == 0 ? (uint8_t)(p + 1) : 0;

			assert_int_equal(ram_page(k.ram, PAGES + p)[100], !copy && p == 3 ? 77 : v);
			if (copy)
				assert_int_equal(order(&k, 'r', PAGES + p, v * 0x0101010101010101ull), 'y');
		}
		order(&k, 'w', PAGES + 2, 1234);
		assert_int_equal(ram_page(k.ram, PAGES + 2)[0], share ? 1234 % 256 : 0);
		pageset_clear(&set);
		if (!share && memscan_probe_private(NULL) == 0) {
			assert_int_equal(memscan_private(k.agent->pagemap, &k.agent->map, &set), 0);
			assert_int_equal(set.count, 1);
			assert_true(pageset_has(&set, PAGES + 2));
			assert_int_equal(agentctl_drop(k.agent, &set, soon(), &e), 0);
			assert_int_equal(order(&k, 'r', PAGES + 2, 0), 'y');
		}
		kid_end(&k);
	}
	pageset_fini(&set);
}

static void refused(void **state)
{
	static const struct { const char *how; bool ram; int rc; const char *text; } row[] = {
		{ "none", true, -ENOENT, "maps no guest memory" },
		{ "half", true, -EINVAL, "in part only" },
		{ "twice", true, -EINVAL, "twice" },
		{ "none", false, -ENOENT, "did not arrive" },
	};
	struct kid k;
	struct err e;

	for (unsigned int i = 0; i < sizeof(row) / sizeof(row[0]); i++) {
		kid_start(&k, row[i].how, row[i].ram);
		assert_int_equal(agentctl_hello(k.agent, k.ram, 0, soon(), &e), row[i].rc);
		assert_non_null(strstr(e.msg, row[i].text));
		kid_end(&k);
	}
	kid_start(&k, "shared", true);
	assert_int_equal(agentctl_hello(k.agent, k.ram, 1, soon(), &e), -EINVAL);
	assert_non_null(strstr(e.msg, "wrapper"));
	/* Nobody is listening. */
	kill(k.pid, SIGSTOP);
	assert_int_equal(waitpid(k.pid, NULL, WUNTRACED), k.pid);
	assert_int_equal(agentctl_hello(k.agent, k.ram, 0, clock_ns() + 20 * NS_PER_MS, &e), -ETIMEDOUT);
	/* The late answer is not taken for the next one's. */
	kill(k.pid, SIGCONT);
	if (dirty_probe(&e) == DIRTY_WP_ASYNC) {
		assert_int_equal(agentctl_track(k.agent, soon(), &e), 0);
		assert_int_not_equal(k.agent->uffd, -1);
	} else {
		/* This kernel has nothing to register for. */
		assert_int_equal(agentctl_track(k.agent, soon(), &e), -EINVAL);
		assert_int_equal(agentctl_hello(k.agent, k.ram, 0, soon(), &e), 0);
	}
	kill(k.pid, SIGKILL);
	assert_int_equal(waitpid(k.pid, NULL, 0), k.pid);
	k.pid = 0;
	assert_int_equal(agentctl_hello(k.agent, k.ram, 0, soon(), &e), -EPIPE);
	kid_end(&k);
}

/* raw() - a request that agentctl would not make; the agent must refuse it and stay */
static int raw(struct kid *k, const void *p, size_t len)
{
	uint8_t buf[1024];
	struct agent_msg m;
	ssize_t n;

	assert_int_equal(send(k->agent->sock, p, len, 0), len);
	n = recv(k->agent->sock, buf, sizeof(buf), 0);
	assert_true(n >= (ssize_t)sizeof(m));
	memcpy(&m, buf, sizeof(m));
	assert_int_equal(m.len, (size_t)n - sizeof(m));
	return m.rc;
}

static void garbage(void **state)
{
	struct { struct agent_msg m; struct agent_run run[4]; } __attribute__((packed)) q = { 0 };
	static uint8_t big[AGENT_MAX_MSG + 100];
	struct kid k;
	struct err e;

	kid_start(&k, "private", true);
	q.m = (struct agent_msg){ .magic = AGENT_MAGIC, .version = AGENT_VERSION, .type = AGENT_DROP,
				  .len = sizeof(q.run) };
	q.run[0] = (struct agent_run){ .first = 0, .count = 1 };
	assert_int_equal(raw(&k, &q, sizeof(q)), -ERANGE);		/* before HELLO nothing is known */
	assert_int_equal(agentctl_hello(k.agent, k.ram, 0, soon(), &e), 0);
	for (unsigned int i = 1; i < 4; i++)
		q.run[i] = (struct agent_run){ .first = i, .count = 1 };
	assert_int_equal(raw(&k, &q, sizeof(q)), 0);
	q.run[3] = (struct agent_run){ .first = PAGES, .count = 1 };
	assert_int_equal(raw(&k, &q, sizeof(q)), -ERANGE);
	q.run[3] = (struct agent_run){ .first = PAGES - 1, .count = 2 };
	assert_int_equal(raw(&k, &q, sizeof(q)), -ERANGE);
	q.run[3] = (struct agent_run){ .first = UINT64_MAX, .count = 2 };
	assert_int_equal(raw(&k, &q, sizeof(q)), -ERANGE);
	q.run[3] = (struct agent_run){ .first = 1, .count = UINT64_MAX };
	assert_int_equal(raw(&k, &q, sizeof(q)), -ERANGE);
	q.run[3] = (struct agent_run){ .first = 1, .count = 0 };
	assert_int_equal(raw(&k, &q, sizeof(q)), -ERANGE);
	q.m.len = 3;
	assert_int_equal(raw(&k, &q, sizeof(q.m) + 3), -EINVAL);
	assert_int_equal(raw(&k, &q, sizeof(q.m) + 4), -EPROTO);
	/* A time is eight bytes. */
	assert_int_equal(agentctl_stopped(k.agent, 1, soon(), &e), 0);
	q.m.type = AGENT_STOPPED;
	q.m.len = 4;
	assert_int_equal(raw(&k, &q, sizeof(q.m) + 4), -EINVAL);
	q.m.type = 99;
	q.m.len = 0;
	assert_int_equal(raw(&k, &q, sizeof(q.m)), -ENOSYS);
	q.m.version = 9;
	assert_int_equal(raw(&k, &q, sizeof(q.m)), -EPROTO);
	assert_int_equal(raw(&k, big, sizeof(big)), -EPROTO);
	/* Too short to be answered. */
	assert_int_equal(send(k.agent->sock, "x", 1, 0), 1);
	for (unsigned int i = 0; i < 200; i++) {
		size_t len = sizeof(struct agent_msg) + rnd() % 200;

		for (size_t j = 0; j < len; j++)
			big[j] = (uint8_t)rnd();
		if (rnd() % 2) {
			q.m = (struct agent_msg){ .magic = AGENT_MAGIC, .version = AGENT_VERSION, .type = AGENT_DROP,
						  .len = (uint32_t)(len - sizeof(q.m)) };
			memcpy(big, &q.m, sizeof(q.m));
		}
		raw(&k, big, len);
	}
	assert_int_equal(order(&k, 'w', 5, 1), 'y');
	assert_int_equal(agentctl_hello(k.agent, k.ram, 0, soon(), &e), 0);
	kid_end(&k);
}

/* liar() - a hostile QEMU on the other end: every answer is refused or harmless, no descriptor leaks */
static void liar(void **state)
{
	struct ram *ram = ram_new(PAGES * RAM_PAGE, NULL);
	int before, after;
	struct err e;

	before = dup(0);
	close(before);
	for (unsigned int round = 0; round < 300; round++) {
		struct agentctl *a = agentctl_new(&e);
		struct { struct agent_msg m; struct agent_hello h; struct agent_range r[3]; } __attribute__((packed)) p;
		union { char buf[CMSG_SPACE(8 * sizeof(int))]; struct cmsghdr align; } control = { 0 };
		struct iovec iov = { &p, sizeof(p) - (rnd() % 4 ? 0 : rnd() % 100) };
		unsigned int n_fds = (unsigned int)(rnd() % 8);
		struct msghdr mh = { .msg_iov = &iov, .msg_iovlen = 1 };
		int rc;

		for (size_t i = 0; i < sizeof(p); i++)
			((uint8_t *)&p)[i] = (uint8_t)rnd();
		p.m = (struct agent_msg){ .magic = AGENT_MAGIC, .version = AGENT_VERSION, .type = AGENT_HELLO, .seq = 1,
					  .len = (uint32_t)(iov.iov_len - sizeof(p.m)) };
		if (rnd() % 8 == 0)
			p.m.rc = (int32_t)rnd();
		p.h.n_ranges = rnd() % 3 ? 3 : (uint32_t)rnd();
		for (unsigned int i = 0; i < 3; i++) {
			if (rnd() % 2)
				p.r[i].offset = rnd() % (PAGES + 1) * RAM_PAGE;
			if (rnd() % 2)
				p.r[i].len = rnd() % (PAGES + 2) * RAM_PAGE;
			if (rnd() % 2)
				p.r[i].addr &= ~(uint64_t)(RAM_PAGE - 1);
		}
		if (n_fds > 0) {
			struct cmsghdr *c;
			int zero[8] = { 0 };

			mh.msg_control = control.buf;
			mh.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
			c = CMSG_FIRSTHDR(&mh);
			c->cmsg_level = SOL_SOCKET;
			c->cmsg_type = SCM_RIGHTS;
			c->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
			memcpy(CMSG_DATA(c), zero, n_fds * sizeof(int));
		}
		assert_true(sendmsg(a->child_fd, &mh, 0) > 0);
		rc = agentctl_hello(a, ram, 0, clock_ns() + NS_PER_S, &e);
		assert_true(rc <= 0);
		if (rc == 0)
			assert_true(a->map.n > 0 && a->pagemap != -1);
		agentctl_free(a);
	}
	after = dup(0);
	close(after);
	assert_int_equal(before, after);
	ram_free(ram);
}

/* A loop in a thread of its own. */
struct spun {
	struct loop *loop;
	pthread_t thread;
	sem_t said;
};

static void *spin(void *arg)
{
	loop_run(arg);
	return NULL;
}

static void spun_start(struct spun *s)
{
	s->loop = loop_new("test", NULL);
	assert_non_null(s->loop);
	assert_int_equal(sem_init(&s->said, 0, 0), 0);
	assert_int_equal(pthread_create(&s->thread, NULL, spin, s->loop), 0);
}

static void spun_stop(struct spun *s)
{
	loop_stop(s->loop);
	pthread_join(s->thread, NULL);
	sem_destroy(&s->said);
}

/* spun_wait() - until somebody has posted said; false: not within so many ms */
static bool spun_wait(struct spun *s, unsigned int ms)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	ts.tv_sec += ms / 1000;
	ts.tv_nsec += (long)(ms % 1000) * 1000000;
	ts.tv_sec += ts.tv_nsec / 1000000000;
	ts.tv_nsec %= 1000000000;
	return sem_timedwait(&s->said, &ts) == 0;
}

/* The memory worker of a node that is promoted. */
struct work {
	struct spun spun;
	struct memwork *w;
	struct memwork_ops ops;
	struct pageset sent;
	int rc;
	uint64_t value;
};

static int work_send_pages(void *arg, uint64_t n, uint64_t first, uint64_t count, const uint8_t *data, uint32_t len,
			   bool packed)
{
	struct work *k = arg;

	pageset_add(&k->sent, first, count);
	return 0;
}

static void work_done(void *arg, enum mem_job job, uint64_t n, int rc, uint64_t value, const char *why)
{
	struct work *k = arg;

	if (rc)
		printf("  job %d: %s\n", job, why);
	k->rc = rc;
	k->value = value;
	sem_post(&k->spun.said);
}

static void work_nothing(void *arg)
{
}

static void work_limit(void *arg, enum memlimit_what what)
{
}

static int work_do(struct work *k, enum mem_job job)
{
	k->rc = 1;
	memwork_job(k->w, job, 1);
	assert_true(spun_wait(&k->spun, 10000));
	return k->rc;
}

/* work_begin() - the worker of a node whose QEMU is @k; @standby: one that was a standby node until now */
static void work_begin(struct work *w, struct kid *k, bool standby)
{
	struct memwork_cfg cfg = { .spill_dir = "/tmp", .standby = standby, .workers = 1 };
	struct err e;

	w->rc = 0;
	w->ops = (struct memwork_ops){ .send_pages = work_send_pages, .done = work_done, .progress = work_nothing,
				       .limit = work_limit, .arg = w };
	assert_int_equal(agentctl_hello(k->agent, k->ram, (uint32_t)k->pid, soon(), &e), 0);
	spun_start(&w->spun);
	assert_int_equal(pageset_init(&w->sent, PAGES), 0);
	w->w = memwork_new(w->spun.loop, k->ram, NULL, &cfg, &w->ops, &e);
	assert_non_null(w->w);
}

static void work_end(struct work *w)
{
	spun_stop(&w->spun);
	memwork_free(w->w);
	loop_free(w->spun.loop);
	pageset_fini(&w->sent);
}

/* After SHARE the node does what one does that has always served: all of memory goes to a peer, then what is written. */
static void worker_shares(void **state)
{
	struct memwork_stats st;
	struct work w;
	struct kid k;
	struct err e;

	if (dirty_probe(&e) != DIRTY_WP_ASYNC)
		skip();
	kid_start(&k, "private", true);
	work_begin(&w, &k, true);
	memwork_qemu(w.w, k.agent, false, false);
	/* Nothing of a serving node's before that. */
	assert_int_equal(work_do(&w, MEM_ROUND), -ENOTSUP);
	order(&k, 'w', 3, 33);
	order(&k, 'w', 400, 44);
	assert_int_equal(work_do(&w, MEM_SHARE), 0);
	assert_int_equal(w.value, 0);
	assert_int_equal(work_do(&w, MEM_SHARE), 0);
	memwork_stats(w.w, &st);
	assert_int_equal(st.shared_pages, 2);
	assert_int_equal(st.pool_bytes, 0);
	assert_int_equal(*(uint64_t *)ram_page(k.ram, 400), 44);
	assert_int_equal(work_do(&w, MEM_SHARE), -ENOTSUP);
	assert_int_equal(work_do(&w, MEM_ROUND), 0);
	assert_true(pageset_has(&w.sent, 3) && pageset_has(&w.sent, 400));
	pageset_clear(&w.sent);
	order(&k, 'w', 17, 5);
	assert_int_equal(*(uint64_t *)ram_page(k.ram, 17), 5);
	assert_int_equal(work_do(&w, MEM_ROUND), 0);
	assert_true(pageset_has(&w.sent, 17) && w.sent.count == 1);
	order(&k, 's', 18, 6);
	assert_int_equal(work_do(&w, MEM_COPY), 0);
	assert_int_equal(w.value, 1);
	work_end(&w);
	kid_end(&k);
}

/* The pause behind the first synchronisation has what was written in its course, not all that was written before. */
static void first_pause(bool soft)
{
	struct work w;
	struct kid k;
	struct err e;

	kid_start(&k, "shared", true);
	work_begin(&w, &k, false);
	if (!soft)
		assert_int_equal(agentctl_track(k.agent, soon(), &e), 0);
	memwork_qemu(w.w, k.agent, true, soft);
	for (unsigned int i = 0; i < 200; i++)
		order(&k, i % 4 ? 'w' : 's', i * 2, i);
	assert_int_equal(work_do(&w, MEM_ROUND), 0);
	for (unsigned int i = 0; i < 200; i++)
		assert_true(pageset_has(&w.sent, i * 2));
	pageset_clear(&w.sent);
	order(&k, 'w', 7, 7);
	order(&k, 's', 8, 8);
	assert_int_equal(work_do(&w, MEM_ROUND), 0);
	assert_true(pageset_has(&w.sent, 7) && pageset_has(&w.sent, 8) && w.sent.count == 2);
	order(&k, 'w', 9, 9);
	assert_int_equal(work_do(&w, MEM_COPY), 0);
	/* Soft-dirty marks stay until the pause. */
	assert_int_equal(w.value, soft ? 3 : 1);
	work_end(&w);
	kid_end(&k);
}

static void worker_first_pause(void **state)
{
	struct err e;

	if (dirty_probe(&e) != DIRTY_WP_ASYNC)
		skip();
	first_pause(false);
}

static void worker_first_pause_soft(void **state)
{
	struct err e;

	if (memscan_probe_soft_dirty(&e) < 0)
		skip();
	first_pause(true);
}

struct told {
	struct spun spun;
	struct memlimit *m;
	struct svmmem *svm;
	int status;
	uint64_t staged;
	_Atomic unsigned int n[3];
};

static void on_told(void *arg, enum memlimit_what what)
{
	struct told *t = arg;

	t->n[what]++;
}

static void told_begin(void *arg, const void *data, size_t len)
{
	struct told *t = arg;

	memlimit_begin(t->m, t->svm, t->status);
	sem_post(&t->spun.said);
}

static void told_end(void *arg, const void *data, size_t len)
{
	struct told *t = arg;

	memlimit_end(t->m);
	sem_post(&t->spun.said);
}

static void told_staged(void *arg, const void *data, size_t len)
{
	struct told *t = arg;

	memlimit_staged(t->m, t->staged);
	sem_post(&t->spun.said);
}

static void told_do(struct told *t, void (*fn)(void *arg, const void *data, size_t len))
{
	loop_post(t->spun.loop, fn, t, NULL, 0);
	assert_true(spun_wait(&t->spun, 10000));
}

static void told_wait(struct told *t, enum memlimit_what what)
{
	nstime until = soon();

	while (t->n[what] == 0 && clock_ns() < until)
		usleep(2000);
	assert_true(t->n[what] > 0);
}

static void told_put(struct told *t, uint64_t pages)
{
	t->staged = pages;
	told_do(t, told_staged);
}

/* The limit of private pages is told when it is reached and not before, and twice the limit as another thing. */
static void limits(void **state)
{
	struct memlimit_cfg cfg = { .private_pages = 100, .staged_pages = 10 };
	struct memlimit_stats st;
	struct told t = { 0 };
	struct kid k;
	struct err e;

	kid_start(&k, "private", true);
	assert_int_equal(agentctl_hello(k.agent, k.ram, (uint32_t)k.pid, soon(), &e), 0);
	spun_start(&t.spun);
	t.status = k.agent->status;
	t.svm = svmmem_new(k.agent, k.ram, &e);
	t.m = memlimit_new(t.spun.loop, &cfg, on_told, &t, &e);
	assert_true(t.svm && t.m);
	for (unsigned int epoch = 1; epoch <= 2; epoch++) {
		uint64_t looks;

		for (int i = 0; i < 3; i++)
			t.n[i] = 0;
		told_do(&t, told_begin);
		for (uint64_t i = 0; i < 90; i++)
			order(&k, 'w', i, i);
		memlimit_stats(t.m, &st);
		for (looks = st.looks; st.looks < looks + 5; memlimit_stats(t.m, &st))
			usleep(2000);
		assert_int_equal(t.n[MEMLIMIT_PRIVATE] + t.n[MEMLIMIT_FULL], 0);
		for (uint64_t i = 90; i < 150; i++)
			order(&k, 'w', i, i);
		told_wait(&t, MEMLIMIT_PRIVATE);
		assert_int_equal(t.n[MEMLIMIT_FULL], 0);
		for (uint64_t i = 150; i < 260; i++)
			order(&k, 'w', i, i);
		told_wait(&t, MEMLIMIT_FULL);
		told_put(&t, 9);
		assert_int_equal(t.n[MEMLIMIT_STAGED], 0);
		told_put(&t, 10);
		told_put(&t, 11);
		assert_int_equal(t.n[MEMLIMIT_STAGED], 1);
		told_do(&t, told_end);
		assert_int_equal(svmmem_revert(t.svm, soon(), &e), 0);
		/* What is told again after a second is no other one. */
		memlimit_stats(t.m, &st);
		assert_int_equal(st.asked_private, epoch);
		assert_int_equal(st.full, epoch);
		assert_int_equal(st.asked_staged, epoch);
	}
	spun_stop(&t.spun);
	memlimit_free(t.m);
	loop_free(t.spun.loop);
	svmmem_free(t.svm);
	kid_end(&k);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(probes),
		cmocka_unit_test(track),
		cmocka_unit_test(drop),
		cmocka_unit_test(drop_pieces),
		cmocka_unit_test(revert),
		cmocka_unit_test(revert_pieces),
		cmocka_unit_test(share),
		cmocka_unit_test(place),
		cmocka_unit_test(worker_shares),
		cmocka_unit_test(worker_first_pause),
		cmocka_unit_test(worker_first_pause_soft),
		cmocka_unit_test(limits),
		cmocka_unit_test(refused),
		cmocka_unit_test(garbage),
		cmocka_unit_test(liar),
	};

	if (argc == 3 && strcmp(argv[1], "child") == 0)
		return child(argv[2]);
	self = "/proc/self/exe";
	lib = getenv("LOCKSTEP_AGENT_LIB");
	if (!lib) {
		fprintf(stderr, "LOCKSTEP_AGENT_LIB must name the agent\n");
		return 1;
	}
	signal(SIGPIPE, SIG_IGN);
	rnd_seed();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
