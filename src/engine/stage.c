/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Staging: theory of operation
 *
 * Until a checkpoint is STAGED nothing of it may touch the image that the SVM runs from (P3); so its pages wait here.
 * One entry of 32 bits for each guest page says where its content is:
 *
 *	NONE		not staged
 *	ZERO		all zero, no memory behind it
 *	SPILL		in the spill file, at the page's own place: offset page * RAM_PAGE
 *	POOL + i	in slot i of the pool in memory
 *
 * A page that comes again overwrites its slot (the latest wins), or changes its kind: a zero page frees its slot, and
 * a page that was spilled stays spilled until the next clear, so that no page lives in two places. A new page takes a
 * slot of the pool while there is one, and goes to the file after that. The file has the guest's size and is allocated
 * when the VM starts, so there is no moment at which a checkpoint could run out of room; only a disk error can make
 * stage_put() fail.
 *
 * The pool begins small. When it is used up it grows by a chunk, if the host has that much memory to spare, up to its
 * limit. stage_clear() keeps what the last checkpoints have needed: the most recent one's and some, but at least half of
 * what there was, so that checkpoints that are alike find it ready and a rare large one does not hold it for ever. What is
 * certain is the file; the pool is only faster. Of the file, what the kernel has cached is dropped at the clear, since
 * it counts against whoever limits this process's memory.
 *
 * Applying runs in page order and reads runs of spilled pages straight into the image. It changes nothing here, so it
 * can be repeated until stage_clear().
 *
 * Not done: compressing, sharing equal pages, bringing spilled pages back into the pool. The pool is sized for an
 * ordinary checkpoint; the file is there so that an extraordinary one is slow instead of impossible.
 */
#include "engine/stage.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/hostmem.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

#define CHUNK		512u		/* pages that the pool grows by */
#define FLUSH_PAGES	1024u		/* spilled pages after which the kernel is told to begin writing them */

enum { SLOT_NONE = 0, SLOT_ZERO = 1, SLOT_SPILL = 2, SLOT_POOL = 3 };

#define APPLY_PIECE	4096	/* pages that are applied between two reports of progress, at most */

struct stage {
	uint64_t n_pages;
	uint32_t *slot;		/* where each page is, see above */
	struct pageset set;
	uint8_t *pool;
	uint32_t n_pool;	/* slots that there may be */
	uint32_t n_ready;	/* of these, with memory behind them */
	uint32_t n_keep;	/* never fewer than these */
	uint32_t top;		/* slots used since the last clear, all below it */
	uint32_t *free_slot;	/* stack */
	uint32_t n_free;
	bool no_more;		/* the host had nothing to grow by; asked again after the next clear */
	bool cached;		/* the kernel may have some of the file in memory */
	uint32_t unflushed;
	int spill_fd;
	struct stage_stats st;
};

static void *map_anon(uint64_t len, int flags)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

/* open_spill() - a file without a name in @dir, of @len bytes that are really there */
static int open_spill(const char *dir, uint64_t len, struct err *e)
{
	int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600), rc;
	char name[4096];

	if (fd == -1 && (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL)) {
		/* A file system without nameless files. */
		if (snprintf(name, sizeof(name), "%s/lockstep-stage-XXXXXX", dir) >= (int)sizeof(name))
			return err_set(e, -ENAMETOOLONG, "the directory for staging has too long a name");
		fd = mkostemp(name, O_CLOEXEC);
		if (fd != -1)
			unlink(name);
	}
	if (fd == -1)
		return err_set(e, -errno, "the staging file cannot be made in %s: %s", dir, strerror(errno));
	rc = posix_fallocate(fd, 0, (off_t)len);
	if (rc != 0) {
		close(fd);
		return err_set(e, -rc, "no room for staging: %llu MiB in %s: %s", (unsigned long long)(len >> 20), dir,
			       strerror(rc));
	}
	return fd;
}

static void free_all_slots(struct stage *s)
{
	/* The lowest numbers on top, so that little memory is in use when checkpoints are small. */
	for (uint32_t i = 0; i < s->n_ready; i++)
		s->free_slot[i] = s->n_ready - 1 - i;
	s->n_free = s->n_ready;
}

/* touch() - have memory behind slots [@from, @to); false: there is none */
static bool touch(struct stage *s, uint32_t from, uint32_t to)
{
	uint8_t *at = s->pool + (uint64_t)from * RAM_PAGE, *end = s->pool + (uint64_t)to * RAM_PAGE;

	if (madvise(at, (size_t)(end - at), MADV_POPULATE_WRITE) == 0)
		return true;
	if (errno != EINVAL)
		return false;
	/* Linux before 5.14 */
	for (; at < end; at += RAM_PAGE)
		*(volatile uint8_t *)at = 0;
	return true;
}

/* grow() - one chunk more; false: the limit is reached, or the host has nothing to spare */
static bool grow(struct stage *s)
{
	uint32_t to = s->n_pool - s->n_ready < CHUNK ? s->n_pool : s->n_ready + CHUNK;

	if (s->no_more || s->n_ready == s->n_pool)
		return false;
	/* A page fault that finds no memory would end some process, so this is asked before. */
	if (hostmem_available() < RAM_HEADROOM + (uint64_t)CHUNK * RAM_PAGE || !touch(s, s->n_ready, to)) {
		s->no_more = true;
		return false;
	}
	for (uint32_t i = to; i > s->n_ready; i--)
		s->free_slot[s->n_free++] = i - 1;
	s->n_ready = to;
	return true;
}

/* shrink() - keep what is likely to be needed again; no slot is in use */
static void shrink(struct stage *s)
{
	uint32_t want = s->top + s->top / 4, half = s->n_ready / 2;

	want = want < half ? half : want;
	want = want < s->n_keep ? s->n_keep : want;
	want = want > s->n_ready ? s->n_ready : want;
	if (want < s->n_ready)
		madvise(s->pool + (uint64_t)want * RAM_PAGE, (uint64_t)(s->n_ready - want) * RAM_PAGE, MADV_DONTNEED);
	s->n_ready = want;
	s->top = 0;
	s->no_more = false;
}

struct stage *stage_new(uint64_t n_pages, uint64_t pool_bytes, const char *dir, struct err *e)
{
	struct stage *s = calloc(1, sizeof(*s));
	uint64_t pool;

	if (!s) {
		err_set(e, -ENOMEM, "out of memory");
		return NULL;
	}
	s->spill_fd = -1;
	s->n_pages = n_pages;
	if (pool_bytes == 0) {
		pool_bytes = n_pages * RAM_PAGE / 8;
		if (pool_bytes > STAGE_POOL_MAX_DEFAULT)
			pool_bytes = STAGE_POOL_MAX_DEFAULT;
	}
	pool = pool_bytes / RAM_PAGE;
	if (pool > n_pages)
		pool = n_pages;
	if (pool == 0)
		pool = 1;
	if (n_pages == 0 || pool > UINT32_MAX - SLOT_POOL) {
		err_set(e, -EINVAL, "staging for %llu pages with %llu in memory cannot be", (unsigned long long)n_pages,
			(unsigned long long)pool);
		goto fail;
	}
	s->n_pool = (uint32_t)pool;
	s->slot = map_anon(n_pages * sizeof(*s->slot), MAP_NORESERVE);
	s->n_keep = s->n_pool < STAGE_POOL_KEEP / RAM_PAGE ? s->n_pool : (uint32_t)(STAGE_POOL_KEEP / RAM_PAGE);
	s->pool = map_anon(pool * RAM_PAGE, MAP_NORESERVE);
	s->free_slot = calloc(s->n_pool, sizeof(*s->free_slot));
	if (!s->slot || !s->pool || !s->free_slot || !touch(s, 0, s->n_keep) || pageset_init(&s->set, n_pages) < 0) {
		err_set(e, -ENOMEM, "no memory for staging (%llu MiB)", (unsigned long long)(pool_bytes >> 20));
		goto fail;
	}
	s->spill_fd = open_spill(dir, n_pages * RAM_PAGE, e);
	if (s->spill_fd < 0) {
		s->spill_fd = -1;
		goto fail;
	}
	s->st.pool_pages = s->n_pool;
	s->n_ready = s->n_keep;
	free_all_slots(s);
	return s;
fail:
	stage_free(s);
	return NULL;
}

void stage_free(struct stage *s)
{
	if (!s)
		return;
	if (s->slot)
		munmap(s->slot, s->n_pages * sizeof(*s->slot));
	if (s->pool)
		munmap(s->pool, (uint64_t)s->n_pool * RAM_PAGE);
	if (s->spill_fd != -1)
		close(s->spill_fd);
	free(s->free_slot);
	pageset_fini(&s->set);
	free(s);
}

static uint8_t *pool_slot(const struct stage *s, uint32_t slot)
{
	return s->pool + (uint64_t)(slot - SLOT_POOL) * RAM_PAGE;
}

static int spill(struct stage *s, uint64_t page, const uint8_t *data)
{
	size_t done = 0;

	while (done < RAM_PAGE) {
		ssize_t n = pwrite(s->spill_fd, data + done, RAM_PAGE - done, (off_t)(page * RAM_PAGE + done));

		if (n == -1 && errno == EINTR)
			continue;
		if (n <= 0)
			return n == -1 ? -errno : -EIO;
		done += (size_t)n;
	}
	s->st.spills++;
	s->cached = true;
	if (++s->unflushed >= FLUSH_PAGES) {
		/* Only begun, not waited for: what is on the disk already can be dropped from memory at the clear. */
		sync_file_range(s->spill_fd, 0, 0, SYNC_FILE_RANGE_WRITE);
		s->unflushed = 0;
	}
	return 0;
}

int stage_put(struct stage *s, uint64_t page, const void *data)
{
	uint32_t *slot;
	int rc = 0;

	if (page >= s->n_pages)
		return -ERANGE;
	slot = &s->slot[page];
	s->st.puts++;
	if (*slot != SLOT_NONE)
		s->st.replaced++;
	if (!data) {
		if (*slot >= SLOT_POOL)
			s->free_slot[s->n_free++] = *slot - SLOT_POOL;
		s->st.spilled -= *slot == SLOT_SPILL;
		s->st.zero += *slot != SLOT_ZERO;
		*slot = SLOT_ZERO;
		pageset_add(&s->set, page, 1);
		return 0;
	}
	if (*slot == SLOT_ZERO)
		s->st.zero--;
	if (*slot == SLOT_NONE || *slot == SLOT_ZERO) {
		if (s->n_free > 0 || grow(s)) {
			uint32_t i = s->free_slot[--s->n_free];

			*slot = SLOT_POOL + i;
			s->top = i >= s->top ? i + 1 : s->top;
		} else {
			*slot = SLOT_SPILL;
			s->st.spilled++;
		}
	}
	if (*slot == SLOT_SPILL)
		rc = spill(s, page, data);
	else
		memcpy(pool_slot(s, *slot), data, RAM_PAGE);
	pageset_add(&s->set, page, 1);
	return rc;
}

/* unspill() - @count pages from the file, which are neighbours there as in the image */
static int unspill(const struct stage *s, uint64_t page, uint64_t count, uint8_t *to)
{
	size_t len = count * RAM_PAGE, done = 0;

	while (done < len) {
		ssize_t n = pread(s->spill_fd, to + done, len - done, (off_t)(page * RAM_PAGE + done));

		if (n == -1 && errno == EINTR)
			continue;
		if (n <= 0)
			return n == -1 ? -errno : -EIO;
		done += (size_t)n;
	}
	return 0;
}

int stage_get(const struct stage *s, uint64_t page, void *buf)
{
	uint32_t slot = page < s->n_pages ? s->slot[page] : SLOT_NONE;

	if (slot == SLOT_NONE)
		return -ENOENT;
	if (slot == SLOT_SPILL)
		return unspill(s, page, 1, buf);
	if (slot == SLOT_ZERO)
		memset(buf, 0, RAM_PAGE);
	else
		memcpy(buf, pool_slot(s, slot), RAM_PAGE);
	return 0;
}

const struct pageset *stage_pages(const struct stage *s)
{
	return &s->set;
}

/* apply_run() - pages that are all staged */
static int apply_run(const struct stage *s, const struct page_run *run, struct ram *ram)
{
	uint64_t page = run->first, end = run->first + run->count, n;
	int rc;

	for (; page < end; page += n) {
		uint32_t slot = s->slot[page];

		n = 1;
		if (slot == SLOT_SPILL) {
			while (page + n < end && s->slot[page + n] == SLOT_SPILL)
				n++;
			rc = unspill(s, page, n, ram_page(ram, page));
			if (rc < 0)
				return rc;
		} else if (slot == SLOT_ZERO) {
			if (!ram_page_zero(ram_page(ram, page)))
				memset(ram_page(ram, page), 0, RAM_PAGE);
		} else {
			memcpy(ram_page(ram, page), pool_slot(s, slot), RAM_PAGE);
		}
	}
	return 0;
}

int stage_apply(const struct stage *s, struct ram *ram, void (*progress)(void *arg), void *arg)
{
	struct page_run run;
	uint64_t from = 0;
	int rc = 0;

	if (ram->n_pages != s->n_pages)
		return -EINVAL;
	for (; rc == 0 && pageset_next(&s->set, from, 0, &run); from = run.first + run.count) {
		if (run.count > APPLY_PIECE)
			run.count = APPLY_PIECE;
		rc = apply_run(s, &run, ram);
		if (progress)
			progress(arg);
	}
	return rc;
}

void stage_clear(struct stage *s)
{
	struct page_run run;
	uint64_t from = 0;

	for (; pageset_next(&s->set, from, 0, &run); from = run.first + run.count)
		memset(&s->slot[run.first], 0, run.count * sizeof(*s->slot));
	pageset_clear(&s->set);
	shrink(s);
	free_all_slots(s);
	if (s->cached) {
		/* What is still being written stays in memory, until a later clear. */
		posix_fadvise(s->spill_fd, 0, 0, POSIX_FADV_DONTNEED);
		s->cached = s->st.spilled > 0;
	}
	s->st.zero = s->st.spilled = 0;
}

uint64_t stage_count(const struct stage *s)
{
	return s->set.count;
}

void stage_stats(const struct stage *s, struct stage_stats *out)
{
	*out = s->st;
	out->pool_ready = s->n_ready;
	out->pages = s->set.count;
	out->bytes = (s->set.count - s->st.zero) * RAM_PAGE;
}
