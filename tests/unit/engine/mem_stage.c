/* SPDX-License-Identifier: BSD-2-Clause */
/* Staging and the copy buffer against plain arrays; the pool is tiny, so that most pages go to the spill file. */
#include "mem_rnd.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "engine/pagebuf.h"
#include "engine/ram.h"
#include "engine/stage.h"

enum { PAGES = 96, POOL = 7 };

static void fill(uint8_t *p, bool zero)
{
	memset(p, 0, RAM_PAGE);
	if (zero)
		return;
	for (unsigned int i = 0; i < 8; i++)
		p[rnd() % RAM_PAGE] = (uint8_t)(rnd() | 1);
}

struct model {
	uint8_t page[PAGES][RAM_PAGE];
	bool staged[PAGES];
	uint64_t puts, replaced;
};

static void check_stage(struct stage *s, const struct model *m)
{
	struct stage_stats st;
	uint8_t buf[RAM_PAGE];
	uint64_t staged = 0, zero = 0;

	for (unsigned int i = 0; i < PAGES; i++) {
		int rc = stage_get(s, i, buf);

		assert_int_equal(rc, m->staged[i] ? 0 : -ENOENT);
		assert_int_equal(pageset_has(stage_pages(s), i), m->staged[i]);
		if (!m->staged[i])
			continue;
		assert_memory_equal(buf, m->page[i], RAM_PAGE);
		staged++;
	}
	stage_stats(s, &st);
	for (unsigned int i = 0; i < PAGES; i++)
		zero += m->staged[i] && ram_page_zero(m->page[i]);
	assert_int_equal(stage_count(s), staged);
	assert_int_equal(st.pages, staged);
	assert_int_equal(st.zero, zero);
	assert_int_equal(st.bytes, (staged - zero) * RAM_PAGE);
	assert_int_equal(st.pool_pages, POOL);
	assert_int_equal(st.puts, m->puts);
	assert_int_equal(st.replaced, m->replaced);
	/* What is not in the pool is in the file, and zeroes are in neither. */
	assert_true(staged - zero - st.spilled <= POOL);
}

static void stage_random(void **state)
{
	static struct model m;
	static uint8_t image[PAGES][RAM_PAGE];
	struct ram *ram = ram_new(PAGES * RAM_PAGE, NULL);
	struct stage *s = stage_new(PAGES, POOL * RAM_PAGE, "/tmp", NULL);
	struct stage_stats st;

	assert_non_null(ram);
	assert_non_null(s);
	memset(&m, 0, sizeof(m));
	memset(image, 0, sizeof(image));
	for (unsigned int op = 0; op < 4000; op++) {
		uint64_t what = rnd() % 100;

		if (what < 92) {
			uint64_t page = rnd() % PAGES;
			bool zero = rnd() % 4 == 0;

			fill(m.page[page], zero);
			assert_int_equal(stage_put(s, page, zero ? NULL : m.page[page]), 0);
			m.puts++;
			m.replaced += m.staged[page];
			m.staged[page] = true;
		} else if (what < 97) {
			/* Twice, because it must be repeatable. */
			for (uint64_t n = rnd() % 2; n < 2; n++)
				assert_int_equal(stage_apply(s, ram, NULL, NULL), 0);
			for (unsigned int i = 0; i < PAGES; i++)
				if (m.staged[i])
					memcpy(image[i], m.page[i], RAM_PAGE);
		} else {
			stage_clear(s);
			memset(m.staged, 0, sizeof(m.staged));
		}
		/* Nothing but stage_apply() touches the image. */
		assert_memory_equal(ram->base, image, sizeof(image));
		if (op % 16 == 0 || what >= 92)
			check_stage(s, &m);
	}
	stage_stats(s, &st);
	assert_true(st.spills > 500);
	stage_free(s);
	ram_free(ram);
}

static void stage_borders(void **state)
{
	struct stage *s = stage_new(PAGES, 0, "/tmp", NULL);
	struct ram *other = ram_new((PAGES + 1) * RAM_PAGE, NULL);
	struct stage_stats st;
	struct err e;
	uint8_t buf[RAM_PAGE] = { 1 };

	assert_non_null(s);
	stage_stats(s, &st);
	assert_int_equal(st.pool_pages, PAGES / 8);
	assert_int_equal(stage_put(s, PAGES, buf), -ERANGE);
	assert_int_equal(stage_put(s, UINT64_MAX, NULL), -ERANGE);
	assert_int_equal(stage_count(s), 0);
	assert_int_equal(stage_get(s, PAGES, buf), -ENOENT);
	assert_int_equal(stage_apply(s, other, NULL, NULL), -EINVAL);
	ram_free(other);
	stage_free(s);
	assert_null(stage_new(PAGES, 0, "/nowhere/at/all", &e));
	assert_int_equal(e.code, -ENOENT);
	assert_non_null(strstr(e.msg, "/nowhere/at/all"));
	assert_null(stage_new(0, 0, "/tmp", &e));
}

/* resident() - pages of private memory that this process has */
static uint64_t resident(void)
{
	unsigned long size = 0, all = 0, shared = 0;
	FILE *f = fopen("/proc/self/statm", "r");

	assert_non_null(f);
	assert_int_equal(fscanf(f, "%lu %lu %lu", &size, &all, &shared), 3);
	fclose(f);
	return all - shared;
}

/* The pool takes memory when it needs it, and gives it back when it has not needed it for a while. */
static void stage_grows(void **state)
{
	enum { GUEST = 16384, MANY = 6000, FEW = 10, KEEP = STAGE_POOL_KEEP / RAM_PAGE };
	static uint8_t page[RAM_PAGE], got[RAM_PAGE];
	uint64_t before = resident(), most;
	struct stage *s = stage_new(GUEST, MANY * RAM_PAGE, "/tmp", NULL);
	struct stage_stats st;

	assert_non_null(s);
	stage_stats(s, &st);
	assert_int_equal(st.pool_ready, KEEP);
	for (unsigned int turn = 0; turn < 6; turn++) {
		uint64_t n = turn < 2 ? MANY + 100 : FEW, ready;

		for (uint64_t i = 0; i < n; i++) {
			memset(page, (int)(1 + (i + turn) % 255), sizeof(page));
			assert_int_equal(stage_put(s, GUEST - 1 - 2 * i, page), 0);
		}
		for (uint64_t i = 0; i < n; i++) {
			assert_int_equal(stage_get(s, GUEST - 1 - 2 * i, got), 0);
			assert_int_equal(got[7], 1 + (i + turn) % 255);
		}
		stage_stats(s, &st);
		assert_int_equal(st.spilled, turn < 2 ? 100 : 0);
		ready = st.pool_ready;
		most = resident() - before;
		if (turn < 2)
			assert_int_equal(ready, MANY);
		stage_clear(s);
		stage_stats(s, &st);
		assert_true(turn < 2 ? st.pool_ready == MANY : st.pool_ready < ready || ready == KEEP);
	}
	assert_int_equal(st.pool_ready, KEEP);
#ifndef __SANITIZE_ADDRESS__
	assert_true(most < KEEP + MANY / 2);
	assert_true(resident() - before < KEEP + 400);
#else
	(void)most;
#endif
	stage_free(s);
}

/* stage_no_room() - a spill file that cannot be had is an error at the start, not in a checkpoint */
static void stage_no_room(void **state)
{
	struct rlimit old, small = { .rlim_cur = 20 * RAM_PAGE };
	struct err e;

	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
	small.rlim_max = old.rlim_max;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
	assert_null(stage_new(PAGES, 0, "/tmp", &e));
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
	assert_int_equal(e.code, -EFBIG);
	assert_non_null(strstr(e.msg, "no room for staging"));
}

static void pagebuf_random(void **state)
{
	struct ram *ram = ram_new(PAGES * RAM_PAGE, NULL);
	struct pagebuf *b = pagebuf_new(11, NULL);
	static uint8_t got[PAGES][RAM_PAGE];
	struct pageset set, want, seen;

	assert_non_null(ram);
	assert_non_null(b);
	pageset_init(&set, PAGES);
	pageset_init(&want, PAGES);
	pageset_init(&seen, PAGES);
	for (unsigned int round = 0; round < 500; round++) {
		struct pagebuf_piece piece;
		uint64_t max = 1 + rnd() % 5, last = 0;
		int rc;

		for (unsigned int i = 0; i < PAGES; i++)
			fill(ram_page(ram, i), rnd() % 3 == 0);
		for (uint64_t n = rnd() % 12; n > 0; n--)
			pageset_add(&set, rnd() % PAGES, 1 + rnd() % 10);
		pageset_clear(&want);
		pageset_clear(&seen);
		pageset_or(&want, &set);
		do {
			uint64_t taken = set.count;

			rc = pagebuf_take(b, ram, &set, 0, NULL);
			assert_true(rc == 0 ? set.count == 0 : rc == -ENOSPC && set.count > 0);
			assert_int_equal(pagebuf_pages(b), taken - set.count);
			assert_int_equal(pagebuf_room(b), 11 - pagebuf_pages(b));
			while (pagebuf_next(b, max, &piece)) {
				assert_true(piece.count > 0 && piece.first >= last);
				assert_true(!piece.data || piece.count <= max);
				last = piece.first + piece.count;
				for (uint64_t i = 0; i < piece.count; i++) {
					assert_false(pageset_has(&seen, piece.first + i));
					pageset_add(&seen, piece.first + i, 1);
					if (piece.data)
						memcpy(got[piece.first + i], piece.data + i * RAM_PAGE, RAM_PAGE);
					else
						memset(got[piece.first + i], 0, RAM_PAGE);
				}
			}
			pagebuf_reset(b);
		} while (rc == -ENOSPC);
		assert_int_equal(seen.count, want.count);
		for (unsigned int i = 0; i < PAGES; i++)
			if (pageset_has(&want, i))
				assert_memory_equal(got[i], ram_page(ram, i), RAM_PAGE);
	}
	/* Thrown away is gone. */
	pageset_add(&set, 3, 4);
	assert_int_equal(pagebuf_take(b, ram, &set, 0, NULL), 0);
	pagebuf_reset(b);
	assert_int_equal(pagebuf_pages(b), 0);
	assert_false(pagebuf_next(b, 1, &(struct pagebuf_piece){ 0 }));
	pageset_fini(&set);
	pageset_fini(&want);
	pageset_fini(&seen);
	pagebuf_free(b);
	ram_free(ram);
}

/* A pause takes its pages behind those of a round that was cut short. */
static void pagebuf_behind(void **state)
{
	struct ram *ram = ram_new(PAGES * RAM_PAGE, NULL);
	struct pagebuf *b = pagebuf_new(8, NULL);
	struct pageset set, taken;
	struct pagebuf_piece p;

	pageset_init(&set, PAGES);
	pageset_init(&taken, PAGES);
	for (unsigned int i = 0; i < PAGES; i++)
		memset(ram_page(ram, i), (int)i + 1, RAM_PAGE);
	pageset_add(&set, 10, 5);
	assert_int_equal(pagebuf_take(b, ram, &set, 3, &taken), -ENOSPC);
	assert_int_equal(taken.count, 3);
	assert_int_equal(set.count, 2);
	assert_true(pagebuf_next(b, 2, &p));
	assert_true(p.first == 10 && p.count == 2);
	/* Page 10 is written again and taken a second time: it comes after the first, with the new content. */
	memset(ram_page(ram, 10), 99, RAM_PAGE);
	pageset_add(&set, 10, 1);
	assert_int_equal(pagebuf_take(b, ram, &set, 0, &taken), 0);
	assert_int_equal(pagebuf_pages(b), 4);
	assert_int_equal(pagebuf_room(b), 2);
	assert_int_equal(p.data[0], 11);
	assert_true(pagebuf_next(b, 0, &p));
	assert_true(p.first == 12 && p.count == 1 && p.data[0] == 13);
	assert_true(pagebuf_next(b, 0, &p));
	assert_true(p.first == 10 && p.count == 1 && p.data[0] == 99);
	assert_true(pagebuf_next(b, 0, &p));
	assert_true(p.first == 13 && p.count == 2 && p.data[RAM_PAGE] == 15);
	assert_false(pagebuf_next(b, 0, &p));
	assert_int_equal(pagebuf_room(b), 2);
	pagebuf_reset(b);
	assert_int_equal(pagebuf_room(b), 8);
	pageset_fini(&set);
	pageset_fini(&taken);
	pagebuf_free(b);
	ram_free(ram);
}

static void ram_basics(void **state)
{
	struct ram *ram = ram_new(64 * RAM_PAGE, NULL);
	struct pageset set;
	struct err e;
	uint64_t h;

	assert_non_null(ram);
	assert_int_equal(ram->n_pages, 64);
	pageset_init(&set, 64);
	/* Reserved, but nothing in it. */
	assert_int_equal(ram_extents(ram, &set), 0);
	assert_int_equal(set.count, 0);
	ram_page(ram, 5)[0] = 1;
	ram_page(ram, 6)[RAM_PAGE - 1] = 1;
	ram_page(ram, 63)[77] = 1;
	assert_int_equal(ram_extents(ram, &set), 0);
	assert_int_equal(set.count, 3);
	assert_true(pageset_has(&set, 5) && pageset_has(&set, 6) && pageset_has(&set, 63));
	h = ram_hash(ram);
	assert_int_equal(h, ram_hash(ram));
	ram_page(ram, 6)[100] ^= 1;
	assert_int_not_equal(h, ram_hash(ram));
	for (unsigned int i = 0; i < RAM_PAGE; i++) {
		memset(ram_page(ram, 5), 0, RAM_PAGE);
		assert_true(ram_page_zero(ram_page(ram, 5)));
		ram_page(ram, 5)[i] = 0x40;
		assert_false(ram_page_zero(ram_page(ram, 5)));
	}
	pageset_fini(&set);
	ram_free(ram);
	assert_null(ram_new(RAM_PAGE + 1, &e));
	assert_int_equal(e.code, -EINVAL);
	/* Refused before anything is taken: trying it would be the end of other processes. */
	assert_null(ram_new(1ull << 50, &e));
	assert_int_equal(e.code, -ENOMEM);
	assert_non_null(strstr(e.msg, "available"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ram_basics),
		cmocka_unit_test(stage_random),
		cmocka_unit_test(stage_borders),
		cmocka_unit_test(stage_grows),
		cmocka_unit_test(stage_no_room),
		cmocka_unit_test(pagebuf_random), cmocka_unit_test(pagebuf_behind),
	};
	int fd;

	/* If memory runs out after all, it shall be ours. */
	fd = open("/proc/self/oom_score_adj", O_WRONLY);
	if (fd != -1 && write(fd, "1000", 4) == 4)
		close(fd);
	rnd_seed();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
