/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Asking the kernel about QEMU's pages: theory of operation
 *
 * PAGEMAP_SCAN (Linux 6.7) walks page tables and answers with runs of pages of the kind that was asked for; with
 * WP_MATCHING it write-protects them again in the same walk, under the page-table lock, so a guest may go on writing:
 * a write falls before the walk and is reported, or after it and is reported next time. The vector for the answer is
 * small and fixed; when it is full the walk stops, having re-armed exactly what it reported, and is taken up again at
 * walk_end.
 *
 * The same call tells the pages of a private file mapping that are copies of QEMU's own (anonymous, present or in
 * swap) from those that still are the file's.
 *
 * Kernels before 6.7 have only the entries of the page map, which are read for a range and looked at here: bit 55 for
 * soft-dirty, cleared by the owner (dirty.c) through clear_refs, and three bits that tell private pages.
 *
 * The structures of the interface are written down here because Debian 12's headers are older than it. Any thread;
 * calls only block for the walk itself (0.75 ms for 1 GiB). No memory is allocated.
 */
#include "engine/memscan.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <linux/userfaultfd.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/ram.h"

#define SCAN_VEC	1024	/* runs per call; 24 KB of stack */

struct page_region {
	uint64_t start;
	uint64_t end;
	uint64_t categories;
};
static_assert(sizeof(struct page_region) == 24, "page_region");

struct pm_scan_arg {
	uint64_t size;
	uint64_t flags;
	uint64_t start;
	uint64_t end;
	uint64_t walk_end;
	uint64_t vec;
	uint64_t vec_len;
	uint64_t max_pages;
	uint64_t category_inverted;
	uint64_t category_mask;
	uint64_t category_anyof_mask;
	uint64_t return_mask;
};
static_assert(sizeof(struct pm_scan_arg) == 96, "pm_scan_arg");

#define LS_PAGEMAP_SCAN		_IOWR('f', 16, struct pm_scan_arg)
#define LS_PAGE_IS_WRITTEN	(1ull << 1)
#define LS_PAGE_IS_FILE		(1ull << 2)
#define LS_PAGE_IS_PRESENT	(1ull << 3)
#define LS_PAGE_IS_SWAPPED	(1ull << 4)
#define LS_SCAN_WP_MATCHING	(1ull << 0)
#define LS_SCAN_CHECK_WPASYNC	(1ull << 1)
/* bits of an entry of pagemap */
#define LS_ENTRY_SOFT_DIRTY	(1ull << 55)
#define LS_ENTRY_FILE		(1ull << 61)	/* a file's page, or shared anonymous memory */
#define LS_ENTRY_SWAPPED	(1ull << 62)
#define LS_ENTRY_PRESENT	(1ull << 63)
#define LS_FEATURES		(1ull << 12 | 1ull << 13 | 1ull << 15)	/* as the agent asks for */

/* scan() - one range; @arg says what is wanted */
static int scan(int pagemap, const struct mem_range *r, struct pm_scan_arg arg, struct pageset *set)
{
	struct page_region vec[SCAN_VEC];
	uint64_t end = r->addr + r->count * RAM_PAGE;
	int n;

	arg.size = sizeof(arg);
	arg.end = end;
	arg.vec = (uint64_t)(uintptr_t)vec;
	arg.vec_len = SCAN_VEC;
	for (arg.start = r->addr; arg.start < end; arg.start = arg.walk_end) {
		n = ioctl(pagemap, LS_PAGEMAP_SCAN, &arg);
		if (n == -1)
			return -errno;
		for (int i = 0; i < n; i++)
			pageset_add(set, r->first + (vec[i].start - r->addr) / RAM_PAGE,
				    (vec[i].end - vec[i].start) / RAM_PAGE);
		if (arg.walk_end <= arg.start)
			return -EIO;
	}
	return 0;
}

static int scan_all(int pagemap, const struct mem_map *map, const struct pm_scan_arg *arg, struct pageset *set)
{
	int rc = 0;

	for (uint32_t i = 0; i < map->n && rc == 0; i++)
		rc = scan(pagemap, &map->r[i], *arg, set);
	return rc;
}

int memscan_written(int pagemap, const struct mem_map *map, bool rearm, struct pageset *set)
{
	/*
	 * Exactly this and no more: asked so the kernel takes a page that has no entry for written. Of a shared page that
	 * was written and then swapped out nothing else is left; one that was armed and swapped out leaves a mark. Any
	 * further category in the question, and such a page is missed.
	 */
	struct pm_scan_arg arg = {
		.flags = LS_SCAN_CHECK_WPASYNC | (rearm ? LS_SCAN_WP_MATCHING : 0),
		.category_mask = LS_PAGE_IS_WRITTEN,
		.return_mask = LS_PAGE_IS_WRITTEN,
	};

	return scan_all(pagemap, map, &arg, set);
}

int memscan_private(int pagemap, const struct mem_map *map, struct pageset *set)
{
	struct pm_scan_arg arg = {
		.category_inverted = LS_PAGE_IS_FILE,
		.category_mask = LS_PAGE_IS_FILE,
		.category_anyof_mask = LS_PAGE_IS_PRESENT | LS_PAGE_IS_SWAPPED,
		/* One kind in the answer, so that runs are not cut where it changes. */
		.return_mask = LS_PAGE_IS_FILE,
	};

	int rc = scan_all(pagemap, map, &arg, set);

	return rc == -ENOTTY ? memscan_private_old(pagemap, map, set) : rc;
}

/* read_entries() - add the pages whose 64-bit entry of the page map @is says yes to */
static int read_entries(int pagemap, const struct mem_map *map, bool (*is)(uint64_t entry), struct pageset *set)
{
	uint64_t entry[2048];

	for (uint32_t i = 0; i < map->n; i++) {
		const struct mem_range *r = &map->r[i];
		uint64_t done = 0;

		while (done < r->count) {
			uint64_t want = r->count - done;
			ssize_t got;

			if (want > sizeof(entry) / sizeof(entry[0]))
				want = sizeof(entry) / sizeof(entry[0]);
			got = pread(pagemap, entry, want * sizeof(entry[0]),
				    (off_t)((r->addr / RAM_PAGE + done) * sizeof(entry[0])));
			if (got == -1 && errno == EINTR)
				continue;
			if (got < (ssize_t)sizeof(entry[0]))
				return got == -1 ? -errno : -EIO;
			for (uint64_t k = 0; k < (uint64_t)got / sizeof(entry[0]); k++, done++)
				if (is(entry[k]))
					pageset_add(set, r->first + done, 1);
		}
	}
	return 0;
}

static bool is_soft_dirty(uint64_t entry)
{
	return (entry & LS_ENTRY_SOFT_DIRTY) != 0;
}

static bool is_private(uint64_t entry)
{
	return (entry & (LS_ENTRY_PRESENT | LS_ENTRY_SWAPPED)) != 0 && (entry & LS_ENTRY_FILE) == 0;
}

int memscan_soft_dirty(int pagemap, const struct mem_map *map, struct pageset *set)
{
	return read_entries(pagemap, map, is_soft_dirty, set);
}

int memscan_private_old(int pagemap, const struct mem_map *map, struct pageset *set)
{
	return read_entries(pagemap, map, is_private, set);
}

/*
 * A walk costs by the size of the page tables, 0.7 ms for each GiB where only written pages are asked for, whatever it
 * finds. Chunks are whole words of the set, so that workers need no lock for it.
 */
enum { CHUNK_PAGES = 32768, MAX_CHUNKS = 4096 };

struct parallel {
	int pagemap, rc;
	int (*scan)(int pagemap, const struct mem_map *map, struct pageset *set);
	const struct mem_map *map;
	struct pageset *set;
	uint64_t chunk;			/* pages in one */
	pthread_mutex_t lock;		/* guards rc and the set's count */
};

static void scan_chunk(void *arg, unsigned int i)
{
	struct parallel *p = arg;
	struct pageset part = { .bits = p->set->bits, .n_pages = p->set->n_pages };
	uint64_t from = i * p->chunk, to = from + p->chunk;
	struct mem_map map = { 0 };
	int rc;

	for (uint32_t k = 0; k < p->map->n; k++) {
		struct mem_range r = p->map->r[k];
		uint64_t first = r.first > from ? r.first : from, end = r.first + r.count < to ? r.first + r.count : to;

		if (first < end)
			map.r[map.n++] = (struct mem_range){ .addr = r.addr + (first - r.first) * RAM_PAGE,
							     .first = first, .count = end - first };
	}
	rc = p->scan(p->pagemap, &map, &part);
	pthread_mutex_lock(&p->lock);
	/* The part counted only what it has changed. */
	p->set->count += part.count;
	if (rc && !p->rc)
		p->rc = rc;
	pthread_mutex_unlock(&p->lock);
}

static int rearm_written(int pagemap, const struct mem_map *map, struct pageset *set)
{
	return memscan_written(pagemap, map, true, set);
}

static int scan_by(struct workers *w, struct parallel *p)
{
	p->chunk = CHUNK_PAGES;
	if (workers_count(w) < 2 || p->set->n_pages < 2 * p->chunk)
		return p->scan(p->pagemap, p->map, p->set);
	while (p->set->n_pages / p->chunk >= MAX_CHUNKS)
		p->chunk *= 2;
	pthread_mutex_init(&p->lock, NULL);
	workers_run(w, scan_chunk, p, (unsigned int)((p->set->n_pages + p->chunk - 1) / p->chunk));
	pthread_mutex_destroy(&p->lock);
	return p->rc;
}

int memscan_rearm_by(struct workers *w, int pagemap, const struct mem_map *map, struct pageset *set)
{
	struct parallel p = { .scan = rearm_written, .pagemap = pagemap, .map = map, .set = set };

	return scan_by(w, &p);
}

int memscan_soft_dirty_by(struct workers *w, int pagemap, const struct mem_map *map, struct pageset *set)
{
	struct parallel p = { .scan = memscan_soft_dirty, .pagemap = pagemap, .map = map, .set = set };

	return scan_by(w, &p);
}

int memscan_private_by(struct workers *w, int pagemap, const struct mem_map *map, struct pageset *set)
{
	struct parallel p = { .scan = memscan_private, .pagemap = pagemap, .map = map, .set = set };

	return scan_by(w, &p);
}

/* What the probes try things on: a few pages of a memfd. */
enum { PROBE_PAGES = 8 };
struct probe {
	int fd, pagemap;
	uint8_t *base;
	struct mem_map map;
	struct pageset set;
};

static void probe_end(struct probe *p)
{
	if (p->base)
		munmap(p->base, PROBE_PAGES * RAM_PAGE);
	if (p->fd != -1)
		close(p->fd);
	if (p->pagemap != -1)
		close(p->pagemap);
	pageset_fini(&p->set);
}

static int probe_begin(struct probe *p, int flags, struct err *e)
{
	*p = (struct probe){ .pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC) };
	p->fd = memfd_create("lockstep-probe", MFD_CLOEXEC);
	if (p->pagemap == -1 || p->fd == -1 || ftruncate(p->fd, PROBE_PAGES * RAM_PAGE) == -1 ||
	    pageset_init(&p->set, PROBE_PAGES) < 0)
		return err_set(e, -errno, "a page to try the kernel on cannot be had: %s", strerror(errno));
	p->base = mmap(NULL, PROBE_PAGES * RAM_PAGE, PROT_READ | PROT_WRITE, flags, p->fd, 0);
	if (p->base == MAP_FAILED) {
		p->base = NULL;
		return err_set(e, -errno, "a page to try the kernel on cannot be mapped: %s", strerror(errno));
	}
	p->map.n = 1;
	p->map.r[0] = (struct mem_range){ .addr = (uint64_t)(uintptr_t)p->base, .count = PROBE_PAGES };
	return 0;
}

/* expect() - the set must be exactly the pages of @bits */
static int expect(const struct probe *p, uint64_t bits)
{
	return p->set.bits[0] == bits ? 0 : -ENOTSUP;
}

/* probe_track() - the probe proper, on pages that are registered with @uffd's kind of tracking */
static int probe_track(struct probe *p)
{
	uint64_t word = 7;
	int rc = memscan_written(p->pagemap, &p->map, true, &p->set);

	if (rc < 0)
		return rc;
	pageset_clear(&p->set);
	rc = memscan_written(p->pagemap, &p->map, true, &p->set);
	if (rc == 0)
		rc = expect(p, 0);
	if (rc < 0)
		return rc;
	p->base[1 * RAM_PAGE] = 1;
	/* A device's DMA is often a system call of QEMU's into guest memory. */
	if (pwrite(p->fd, &word, sizeof(word), 0) != sizeof(word) ||
	    pread(p->fd, p->base + 4 * RAM_PAGE, sizeof(word), 0) != sizeof(word))
		return -EIO;
	/* Swapped out, a page loses its place in the page table; this is the same without swap. */
	p->base[6 * RAM_PAGE] = 1;
	if (madvise(p->base + 5 * RAM_PAGE, 2 * RAM_PAGE, MADV_DONTNEED) == -1)
		return -errno;
	rc = memscan_written(p->pagemap, &p->map, true, &p->set);
	return rc < 0 ? rc : expect(p, 1u << 1 | 1u << 4 | 1u << 6);
}

int memscan_probe(struct err *e)
{
	struct uffdio_api api = { .api = UFFD_API, .features = LS_FEATURES };
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_WP };
	struct probe p;
	int uffd = -1, rc = probe_begin(&p, MAP_SHARED, e);

	if (rc < 0)
		goto out;
	uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
	if (uffd == -1) {
		rc = err_set(e, -errno, "userfaultfd cannot be had: %s", strerror(errno));
		goto out;
	}
	reg.range.start = p.map.r[0].addr;
	reg.range.len = PROBE_PAGES * RAM_PAGE;
	if (ioctl(uffd, UFFDIO_API, &api) == -1 || ioctl(uffd, UFFDIO_REGISTER, &reg) == -1) {
		rc = err_set(e, -ENOTSUP, "this kernel's userfaultfd has no asynchronous write-protection (6.7 has)");
		goto out;
	}
	rc = probe_track(&p);
	if (rc < 0)
		err_set(e, rc, "this kernel's PAGEMAP_SCAN does not report written pages: %s", strerror(-rc));
out:
	if (uffd != -1)
		close(uffd);
	probe_end(&p);
	return rc;
}

int memscan_probe_soft_dirty(struct err *e)
{
	struct probe p;
	int clear = -1, rc = probe_begin(&p, MAP_SHARED, e);

	if (rc < 0)
		goto out;
	clear = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
	p.base[0] = p.base[1 * RAM_PAGE] = 1;
	if (clear == -1 || write(clear, "4\n", 2) != 2) {
		rc = err_set(e, -ENOTSUP, "soft-dirty cannot be cleared: %s", strerror(errno));
		goto out;
	}
	p.base[1 * RAM_PAGE] = 2;
	rc = memscan_soft_dirty(p.pagemap, &p.map, &p.set);
	if (rc == 0)
		rc = expect(&p, 1u << 1);
	if (rc < 0)
		err_set(e, rc, "this kernel was built without soft-dirty bits");
out:
	if (clear != -1)
		close(clear);
	probe_end(&p);
	return rc;
}

int memscan_probe_private(struct err *e)
{
	struct probe p;
	int rc = probe_begin(&p, MAP_PRIVATE, e);

	if (rc == 0) {
		/* A page that was only read is the file's, one that was written is ours. */
		p.base[1 * RAM_PAGE] = p.base[2 * RAM_PAGE];
		rc = memscan_private(p.pagemap, &p.map, &p.set);
		if (rc == 0)
			rc = expect(&p, 1u << 1);
		if (rc < 0)
			err_set(e, rc, "this kernel does not tell private pages: %s", strerror(-rc));
	}
	probe_end(&p);
	return rc;
}
