/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the kernel says of pages while they are swapped out and in and moved about, against a model: which pages of a
 * private mapping are copies (the SVM), which pages of a shared one were written (the PVM). Pages are pushed out with
 * MADV_PAGEOUT. A page of the first kind must be told exactly; of the second kind none may be missed, and it is said
 * how many came without having been written.
 */
#include "mem_rnd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/memscan.h"
#include "engine/ram.h"
#include "mem_swapfile.h"

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

enum { HUGE = 512, PAGES = 4 * HUGE, OPS = 1500 };

struct bed {
	int fd, pagemap, compact;
	uint8_t *base;			/* QEMU's mapping */
	struct mem_map map;
	bool expect[PAGES];
	uint8_t image[PAGES], seen[PAGES];	/* first byte of each page: in the file, through the mapping */
	uint64_t swapped;
};

static void bed_begin(struct bed *b, int flags, bool huge)
{
	uint8_t *any;

	memset(b, 0, sizeof(*b));
	b->fd = memfd_create("mem_swap", MFD_CLOEXEC);
	b->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	b->compact = open("/proc/sys/vm/compact_memory", O_WRONLY | O_CLOEXEC);
	assert_true(b->fd != -1 && b->pagemap != -1);
	assert_int_equal(ftruncate(b->fd, PAGES * RAM_PAGE), 0);
	assert_int_equal(fallocate(b->fd, 0, 0, PAGES * RAM_PAGE), 0);
	/* At a place where huge pages fit. */
	any = mmap(NULL, (PAGES + HUGE) * RAM_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(any != MAP_FAILED);
	any = (uint8_t *)(((uintptr_t)any + HUGE * RAM_PAGE - 1) / (HUGE * RAM_PAGE) * (HUGE * RAM_PAGE));
	b->base = mmap(any, PAGES * RAM_PAGE, PROT_READ | PROT_WRITE, flags | MAP_FIXED, b->fd, 0);
	assert_true(b->base == any);
	b->map.n = 1;
	b->map.shared = flags == MAP_SHARED;
	b->map.r[0] = (struct mem_range){ .addr = (uint64_t)(uintptr_t)b->base, .count = PAGES };
	if (huge && madvise(b->base, PAGES * RAM_PAGE, MADV_COLLAPSE) == -1)
		printf("  no huge pages here: %s\n", strerror(errno));
}

static void bed_end(struct bed *b)
{
	munmap(b->base, PAGES * RAM_PAGE);
	close(b->fd);
	close(b->pagemap);
	close(b->compact);
	assert_true(b->swapped > PAGES);
}

/* push_out() - and count what has gone */
static void push_out(struct bed *b)
{
	static unsigned char core[PAGES];
	uint64_t first = rnd() % PAGES, count = 1 + rnd() % (PAGES - first);

	madvise(b->base + first * RAM_PAGE, count * RAM_PAGE, MADV_PAGEOUT);
	assert_int_equal(mincore(b->base, PAGES * RAM_PAGE, core), 0);
	for (unsigned int i = 0; i < PAGES; i++)
		b->swapped += !(core[i] & 1);
}

static void compact(const struct bed *b)
{
	/* It may be refused; then it is not tested. */
	if (b->compact != -1 && write(b->compact, "1", 1) == -1)
		return;
}

/* some() - a run of pages, mostly short */
static void some(uint64_t *first, uint64_t *count)
{
	*first = rnd() % PAGES;
	*count = 1 + rnd() % (rnd() % 16 == 0 ? 600 : 8);
	if (*count > PAGES - *first)
		*count = PAGES - *first;
}

static void check_content(const struct bed *b)
{
	for (unsigned int i = 0; i < PAGES; i++)
		assert_int_equal(b->base[i * RAM_PAGE], b->seen[i]);
}

static void check_private(const struct bed *b, struct pageset *set)
{
	for (unsigned int way = 0; way < 2; way++) {
		pageset_clear(set);
		assert_int_equal((way ? memscan_private_old : memscan_private)(b->pagemap, &b->map, set), 0);
		for (unsigned int i = 0; i < PAGES; i++)
			if (pageset_has(set, i) != b->expect[i])
				fail_msg("page %u: %s, in the %s way", i, b->expect[i] ? "a private copy is not reported" :
					 "one that is the file's is taken for a private copy", way ? "old" : "new");
	}
}

/* The secondary: copies are told from the image's pages, wherever both are; dropped, the image's content is back. */
static void private_pages(bool huge)
{
	static struct bed b;
	struct pageset set = { 0 };
	uint8_t byte;

	bed_begin(&b, MAP_PRIVATE, huge);
	assert_int_equal(pageset_init(&set, PAGES), 0);
	for (unsigned int op = 0; op < OPS; op++) {
		uint64_t first, count, what = rnd() % 100;

		some(&first, &count);
		if (what < 40) {
			for (uint64_t i = first; i < first + count; i++) {
				b.expect[i] = true;
				b.base[i * RAM_PAGE] = b.seen[i] = (uint8_t)rnd();
			}
		} else if (what < 60) {
			for (uint64_t i = first; i < first + count; i++)
				assert_int_equal(b.base[i * RAM_PAGE], b.seen[i]);
		} else if (what < 75) {
			/* A checkpoint: copies are dropped, the image is written. */
			for (uint64_t i = first; i < first + count; i++) {
				byte = (uint8_t)rnd();
				b.expect[i] = false;
				assert_int_equal(madvise(b.base + i * RAM_PAGE, RAM_PAGE, MADV_DONTNEED), 0);
				assert_int_equal(pwrite(b.fd, &byte, 1, (off_t)(i * RAM_PAGE)), 1);
				b.image[i] = b.seen[i] = byte;
			}
		} else if (what < 98) {
			push_out(&b);
		} else {
			compact(&b);
		}
		if (rnd() % 4 == 0)
			check_private(&b, &set);
		if (rnd() % 64 == 0)
			check_content(&b);
	}
	check_private(&b, &set);
	assert_int_equal(madvise(b.base, PAGES * RAM_PAGE, MADV_DONTNEED), 0);
	for (unsigned int i = 0; i < PAGES; i++)
		assert_int_equal(b.base[i * RAM_PAGE], b.image[i]);
	pageset_fini(&set);
	bed_end(&b);
}

static int track(const struct bed *b)
{
	struct uffdio_api api = { .api = UFFD_API, .features = 1ull << 12 | 1ull << 13 | 1ull << 15 };
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_WP };
	int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);

	reg.range.start = b->map.r[0].addr;
	reg.range.len = PAGES * RAM_PAGE;
	assert_true(uffd != -1);
	assert_int_equal(ioctl(uffd, UFFDIO_API, &api), 0);
	assert_int_equal(ioctl(uffd, UFFDIO_REGISTER, &reg), 0);
	return uffd;
}

/* The primary: whatever was written since it was last re-armed is reported. */
static void written_pages(bool huge)
{
	uint64_t reported = 0, real = 0;
	struct pageset set = { 0 };
	static struct bed b;
	uint8_t *other;		/* Lockstep's own mapping */
	int uffd;

	bed_begin(&b, MAP_SHARED, huge);
	assert_int_equal(pageset_init(&set, PAGES), 0);
	other = mmap(NULL, PAGES * RAM_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, b.fd, 0);
	assert_true(other != MAP_FAILED);
	uffd = track(&b);
	assert_int_equal(memscan_written(b.pagemap, &b.map, true, &set), 0);
	for (unsigned int op = 0; op < OPS; op++) {
		uint64_t first, count, what = rnd() % 100;

		some(&first, &count);
		if (what < 30) {
			for (uint64_t i = first; i < first + count; i++) {
				b.expect[i] = true;
				b.base[i * RAM_PAGE] = b.seen[i] = (uint8_t)rnd();
			}
		} else if (what < 40) {
			for (uint64_t i = first; i < first + count; i++)
				assert_int_equal(b.base[i * RAM_PAGE], b.seen[i]);
		} else if (what < 50) {
			/* Copied, as a checkpoint does it. */
			for (uint64_t i = first; i < first + count; i++)
				assert_int_equal(other[i * RAM_PAGE], b.seen[i]);
		} else if (what < 78) {
			/* Pages that two processes have mapped are not pushed out by madvise. */
			madvise(other, PAGES * RAM_PAGE, MADV_DONTNEED);
			push_out(&b);
		} else if (what < 80) {
			compact(&b);
		} else {
			bool rearm = what < 95;

			pageset_clear(&set);
			assert_int_equal(memscan_written(b.pagemap, &b.map, rearm, &set), 0);
			for (unsigned int i = 0; i < PAGES; i++) {
				if (b.expect[i] && !pageset_has(&set, i))
					fail_msg("page %u was written and is not reported (op %u)", i, op);
				real += b.expect[i];
				reported += pageset_has(&set, i);
				if (rearm)
					b.expect[i] = false;
			}
		}
		if (rnd() % 64 == 0)
			check_content(&b);
	}
	printf("  %llu pages were written, %llu reported, %llu times one was found outside\n", (unsigned long long)real,
	       (unsigned long long)reported, (unsigned long long)b.swapped);
	munmap(other, PAGES * RAM_PAGE);
	close(uffd);
	pageset_fini(&set);
	bed_end(&b);
}

/* A page of a huge page is written, and all of it is pushed out before anybody looks. */
static void written_then_out(void **state)
{
	struct pageset set = { 0 };
	unsigned char core[HUGE];
	unsigned int out = 0;
	static struct bed b;

	assert_int_equal(pageset_init(&set, PAGES), 0);
	for (unsigned int turn = 0; turn < 16; turn++) {
		uint64_t page = rnd() % HUGE;
		unsigned int in = 0;
		int uffd;

		bed_begin(&b, MAP_SHARED, true);
		uffd = track(&b);
		/* A huge page may also come to be mapped before it is armed, or be there and not mapped. */
		if (turn & 1)
			b.base[(page + 7) % HUGE * RAM_PAGE] = 1;
		if (turn & 2)
			madvise(b.base, PAGES * RAM_PAGE, MADV_DONTNEED);
		assert_int_equal(memscan_written(b.pagemap, &b.map, true, &set), 0);
		b.base[page * RAM_PAGE] = 3;
		for (unsigned int i = 0; i < 2 + turn / 4; i++)
			madvise(b.base, PAGES * RAM_PAGE, MADV_PAGEOUT);
		assert_int_equal(mincore(b.base, HUGE * RAM_PAGE, core), 0);
		/* The page itself may still be on its way. */
		for (unsigned int i = 0; i < HUGE; i++)
			in += core[i] & 1;
		out += in < HUGE / 2;
		pageset_clear(&set);
		assert_int_equal(memscan_written(b.pagemap, &b.map, true, &set), 0);
		if (!pageset_has(&set, page))
			fail_msg("turn %u: a page that was written and pushed out is not reported", turn);
		close(uffd);
		b.swapped = PAGES + 1;
		bed_end(&b);
	}
	printf("  %u of 16 were out\n", out);
	assert_true(out >= 4);
	pageset_fini(&set);
}

static void private_small(void **state)
{
	private_pages(false);
}

static void private_huge(void **state)
{
	private_pages(true);
}

static void written_small(void **state)
{
	written_pages(false);
}

static void written_huge(void **state)
{
	written_pages(true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(private_small),
		cmocka_unit_test(private_huge),
		cmocka_unit_test(written_small),
		cmocka_unit_test(written_huge),
		cmocka_unit_test(written_then_out),
	};
	const char *why = swapfile_new(64ull << 20);
	struct err e;

	if (!why && memscan_probe(&e) < 0)
		why = e.msg;
	if (why) {
		printf("skipped: %s\n", why);
		return 77;
	}
	rnd_seed();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
