/* SPDX-License-Identifier: BSD-2-Clause */
/* Workers, the parallel scan, and sending pages in every form, against plain arrays. */
#include "mem_rnd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <linux/userfaultfd.h>

#include "engine/memscan.h"
#include "engine/pagesend.h"
#include "engine/ram.h"
#include "engine/workers.h"

enum { PAGES = 600 };

struct counts {
	atomic_uint n[300];
	atomic_uint all;
};

static void count(void *arg, unsigned int i)
{
	struct counts *c = arg;

	atomic_fetch_add(&c->n[i], 1);
	atomic_fetch_add(&c->all, 1);
}

/* Each chunk once, all of them before workers_run() comes back. */
static void workers(void **state)
{
	struct err e = { 0 };

	assert_null(workers_new(0, &e));
	assert_null(workers_new(WORKERS_MAX + 1, &e));
	assert_true(workers_default() >= 1 && workers_default() <= 4);
	assert_int_equal(workers_count(NULL), 1);
	for (unsigned int n = 0; n <= 5; n++) {
		struct workers *w = n ? workers_new(n, &e) : NULL;

		assert_true(!n || w);
		for (unsigned int round = 0; round < 2000; round++) {
			unsigned int chunks = (unsigned int)(rnd() % (round % 50 ? 9 : 300));
			static struct counts c;

			memset(&c, 0, sizeof(c));
			workers_run(w, count, &c, chunks);
			assert_int_equal(atomic_load(&c.all), chunks);
			for (unsigned int i = 0; i < chunks; i++)
				assert_int_equal(atomic_load(&c.n[i]), 1);
		}
		workers_free(w);
	}
}

/* A receiver whose connection is full now and then. */
struct wire {
	uint8_t page[PAGES][RAM_PAGE];
	bool have[PAGES];
	unsigned int full;		/* out of 10000 */
	uint64_t pages, bytes, zero, plain, packed;
	bool gone;
};

static int take(void *arg, uint64_t first, uint64_t n, const uint8_t *data, uint32_t len, bool packed)
{
	static uint8_t out[PAGESEND_PIECE * RAM_PAGE];
	struct wire *w = arg;

	if (w->gone)
		return -EPIPE;
	if (rnd() % 10000 < w->full)
		return -EAGAIN;
	assert_true(n > 0 && first + n <= PAGES);
	assert_true(data ? n <= PAGESEND_PIECE : n <= PAGESEND_ZEROES && !packed && !len);
	if (data && !packed)
		assert_int_equal(len, n * RAM_PAGE);
	if (packed) {
		assert_true(len < n * RAM_PAGE);
		assert_int_equal(pagesend_unpack(data, len, n, out), 0);
		/* What is not exactly that is refused, and nothing is written beyond. */
		assert_int_equal(pagesend_unpack(data, len - 1, n, out), -EPROTO);
		assert_int_equal(pagesend_unpack(data, len, n + 1, out), -EPROTO);
		assert_int_equal(pagesend_unpack(data, len, n, out), 0);
		data = out;
	}
	for (uint64_t i = 0; i < n; i++) {
		w->have[first + i] = true;
		if (data)
			memcpy(w->page[first + i], data + i * RAM_PAGE, RAM_PAGE);
		else
			memset(w->page[first + i], 0, RAM_PAGE);
	}
	w->pages += n;
	w->bytes += data ? len : 32;
	*(data ? packed ? &w->packed : &w->plain : &w->zero) += n;
	return 0;
}

static void fill(uint8_t *p)
{
	unsigned int kind = (unsigned int)(rnd() % 4);

	memset(p, kind == 0 ? 0 : (int)(rnd() % 255) + 1, RAM_PAGE);
	if (kind == 3)
		for (unsigned int i = 0; i < RAM_PAGE / 8; i++)
			((uint64_t *)(void *)p)[i] = rnd();
}

static void send_all(bool pack, unsigned int n_workers, unsigned int full)
{
	struct ram *ram = ram_new(PAGES * RAM_PAGE, NULL);
	struct pagebuf *b = pagebuf_new(200, NULL);
	struct workers *ws = workers_new(n_workers, NULL);
	static struct wire w;
	struct pagesend *s = pagesend_new(b, ws, pack, take, &w, NULL);
	struct pagesend_stats st;
	uint64_t pages = 0, bytes = 0, due = 0;
	struct pageset set, want;

	assert_true(ram && b && ws && s);
	memset(&w, 0, sizeof(w));
	w.full = full;
	pagebuf_workers(b, ws);
	pageset_init(&set, PAGES);
	pageset_init(&want, PAGES);
	for (unsigned int round = 0; round < 60; round++) {
		memset(w.have, 0, sizeof(w.have));
		pageset_clear(&want);
		for (uint64_t n = 1 + rnd() % 30; n > 0; n--)
			pageset_add(&want, rnd() % PAGES, 1 + rnd() % 40);
		for (unsigned int i = 0; i < PAGES; i++)
			fill(ram_page(ram, i));
		pageset_or(&set, &want);
		due += set.count;
		while (set.count || pagesend_waiting(s)) {
			int rc;

			/* Taking goes on while a part waits to be sent, as when a pause cuts a round short. */
			if (pagebuf_room(b))
				pagebuf_take(b, ram, &set, 1 + rnd() % 100, NULL);
			rc = pagesend_some(s, rnd() % 3 ? 1 + rnd() % 80 : 0, &pages, &bytes);
			assert_true(rc == 0 || (rc == -EAGAIN && full));
		}
		for (unsigned int i = 0; i < PAGES; i++) {
			assert_int_equal(w.have[i], pageset_has(&want, i));
			if (w.have[i])
				assert_memory_equal(w.page[i], ram_page(ram, i), RAM_PAGE);
		}
	}
	assert_int_equal(pages, due);
	assert_int_equal(w.pages, due);
	assert_true(bytes > 0 && bytes == w.bytes);
	pagesend_stats(s, &st);
	assert_true(st.zero == w.zero && st.plain == w.plain && st.packed == w.packed && w.zero && w.plain);
	assert_true(pack ? st.packed > 0 && st.packed_bytes < st.packed * RAM_PAGE : !st.packed);
	/* The connection is gone: said, and what is left can be thrown away. */
	pageset_add(&set, 0, 9);
	pagebuf_take(b, ram, &set, 0, NULL);
	w.gone = true;
	assert_int_equal(pagesend_some(s, 0, &pages, &bytes), -EPIPE);
	assert_int_equal(pagesend_waiting(s), 9);
	pagesend_reset(s);
	assert_int_equal(pagesend_waiting(s), 0);
	assert_int_equal(pagebuf_room(b), 200);
	pageset_fini(&set);
	pageset_fini(&want);
	pagesend_free(s);
	pagebuf_free(b);
	workers_free(ws);
	ram_free(ram);
}

static void plain(void **state)
{
	send_all(false, 1, 0);
	send_all(false, 3, 3000);
}

static void packed(void **state)
{
	send_all(true, 1, 0);
	send_all(true, 3, 3000);
}

/* What does not pack is tried only now and then. */
static void poor(void **state)
{
	struct ram *ram = ram_new(PAGES * RAM_PAGE, NULL);
	struct pagebuf *b = pagebuf_new(PAGES, NULL);
	static struct wire w;
	struct pagesend *s = pagesend_new(b, NULL, true, take, &w, NULL);
	uint64_t pages = 0, bytes = 0;
	struct pageset set;

	memset(&w, 0, sizeof(w));
	pageset_init(&set, PAGES);
	for (unsigned int i = 0; i < PAGES * RAM_PAGE / 8; i++)
		((uint64_t *)(void *)ram->base)[i] = rnd();
	for (unsigned int round = 0; round < 4; round++) {
		pageset_add(&set, 0, PAGES);
		pagebuf_take(b, ram, &set, 0, NULL);
		assert_int_equal(pagesend_some(s, 0, &pages, &bytes), 0);
	}
	assert_int_equal(w.packed, 0);
	/* Now it would pack; that is found out before long, and not at once. */
	memset(ram->base, 7, ram->size);
	for (unsigned int round = 0; round < 60 && !w.packed; round++) {
		pageset_add(&set, 0, PAGES);
		pagebuf_take(b, ram, &set, 0, NULL);
		assert_int_equal(pagesend_some(s, 0, &pages, &bytes), 0);
		assert_true(round > 5 || !w.packed);
	}
	assert_true(w.packed > 0);
	pageset_fini(&set);
	pagesend_free(s);
	pagebuf_free(b);
	ram_free(ram);
}

static void unpack_limits(void **state)
{
	static uint8_t out[PAGESEND_PIECE * RAM_PAGE], garbage[5000];

	assert_int_equal(pagesend_unpack(garbage, sizeof(garbage), 0, out), -EPROTO);
	assert_int_equal(pagesend_unpack(garbage, sizeof(garbage), PAGESEND_PIECE + 1, out), -EPROTO);
	assert_int_equal(pagesend_unpack(garbage, UINT32_MAX, 1, out), -EPROTO);
	for (unsigned int i = 0; i < 20000; i++) {
		uint32_t len = 1 + (uint32_t)(rnd() % 60);

		for (uint32_t k = 0; k < len; k++)
			garbage[k] = (uint8_t)rnd();
		pagesend_unpack(garbage, len, 1 + rnd() % PAGESEND_PIECE, out);
	}
}

/* Memory of our own that is registered as QEMU's is, in two ranges, one of which begins in the middle of a word. */
static void scan(void **state)
{
	enum { TOTAL = 5 * 32768 + 77, SECOND = 3 * 32768 + 13 };
	uint64_t features = 1ull << 12 | 1ull << 13 | 1ull << 15;
	struct workers *w = workers_new(4, NULL);
	int fd = memfd_create("scan", MFD_CLOEXEC), pm = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC), uffd;
	struct uffdio_api api = { .api = UFFD_API, .features = features };
	struct pageset got, want;
	struct mem_map map = { .n = 2, .shared = true };
	uint8_t *base;

	uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | 1);
	if (memscan_probe(NULL) || uffd < 0 || ioctl(uffd, UFFDIO_API, &api))
		skip();
	assert_int_equal(ftruncate(fd, TOTAL * (off_t)RAM_PAGE), 0);
	base = mmap(NULL, TOTAL * (size_t)RAM_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_true(base != MAP_FAILED);
	assert_int_equal(ioctl(uffd, UFFDIO_REGISTER, &(struct uffdio_register){
		.range = { (uintptr_t)base, TOTAL * (uint64_t)RAM_PAGE }, .mode = UFFDIO_REGISTER_MODE_WP }), 0);
	map.r[0] = (struct mem_range){ .addr = (uintptr_t)base, .first = 0, .count = SECOND };
	map.r[1] = (struct mem_range){ .addr = (uintptr_t)base + SECOND * (uint64_t)RAM_PAGE, .first = SECOND,
				       .count = TOTAL - SECOND };
	pageset_init(&got, TOTAL);
	pageset_init(&want, TOTAL);
	assert_int_equal(memscan_rearm_by(w, pm, &map, &got), 0);
	for (unsigned int round = 0; round < 30; round++) {
		pageset_clear(&got);
		pageset_clear(&want);
		for (uint64_t n = rnd() % 200; n > 0; n--) {
			uint64_t page = rnd() % 4 ? rnd() % TOTAL : SECOND - 40 + rnd() % 80;

			base[page * RAM_PAGE + rnd() % RAM_PAGE]++;
			pageset_add(&want, page, 1);
		}
		assert_int_equal(memscan_rearm_by(w, pm, &map, &got), 0);
		assert_int_equal(got.count, want.count);
		for (uint64_t i = 0; i < TOTAL; i++)
			assert_int_equal(pageset_has(&got, i), pageset_has(&want, i));
	}
	pageset_fini(&got);
	pageset_fini(&want);
	workers_free(w);
	munmap(base, TOTAL * (size_t)RAM_PAGE);
	close(uffd);
	close(pm);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(workers), cmocka_unit_test(plain), cmocka_unit_test(packed), cmocka_unit_test(poor),
		cmocka_unit_test(unpack_limits), cmocka_unit_test(scan),
	};

	rnd_seed();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
