/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Guest memory in a memfd. It is reserved at the start (fallocate), because tmpfs kills the writer with SIGBUS when
 * it has no page left, and that writer would be QEMU or us, at a moment when a checkpoint cannot fail any more.
 * A memfd's fallocate does not fail when memory runs out but sets the kernel killing, so what is left is asked before.
 * For the same reason no page is ever given back: a page that becomes zero is written with zeroes, not punched out.
 *
 * Main memory comes first, under the page numbers that it has in QEMU's own block. Behind it lie the other blocks of
 * QEMU's that a guest writes; which these are QEMU says when it is up (ramblock.c), so the file grows once, before the
 * guest runs.
 *
 * fallocate does not clear or touch the pages, and SEEK_DATA still takes such pages for holes, so the first full
 * synchronisation finds what was really written. Any thread; who may write when is the callers' order, not ours.
 */
#include "engine/ram.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

#include "engine/hostmem.h"

static bool room_for(uint64_t size, struct err *e)
{
	uint64_t left = hostmem_available();

	if (size <= left && left - size >= RAM_HEADROOM)
		return true;
	err_set(e, -ENOMEM, "cannot reserve %llu MiB of guest memory: %llu MiB are available, %llu of them to be left "
		"alone", (unsigned long long)(size >> 20), (unsigned long long)(left >> 20),
		(unsigned long long)(RAM_HEADROOM >> 20));
	return false;
}

/* reserve() - let the file have @size bytes, all of them the host's to give already */
static int reserve(struct ram *r, uint64_t size, struct err *e)
{
	int rc;

	if (ftruncate(r->fd, (off_t)size) == 0 &&
	    fallocate(r->fd, 0, (off_t)r->size, (off_t)(size - r->size)) == 0)
		return 0;
	rc = errno == ENOSPC ? ENOMEM : errno;
	return err_set(e, -rc, "cannot reserve %llu MiB of guest memory: %s", (unsigned long long)(size >> 20),
		       strerror(rc));
}

/*
 * seal() - a QEMU that its guest has taken over could shrink the file, and so kill whoever has it mapped: us
 *
 * It may grow until ram_layout(), which comes before the guest.
 */
static int seal(struct ram *r, int what, struct err *e)
{
	return fcntl(r->fd, F_ADD_SEALS, what) == 0 ? 0 :
		err_set(e, -errno, "cannot seal guest memory: %s", strerror(errno));
}

struct ram *ram_new(uint64_t size, struct err *e)
{
	struct ram *r;

	if (size == 0 || size % RAM_PAGE != 0 || size > INT64_MAX) {
		err_set(e, -EINVAL, "guest memory of %llu bytes is not a whole number of pages",
			(unsigned long long)size);
		return NULL;
	}
	if (!room_for(size, e))
		return NULL;
	r = calloc(1, sizeof(*r));
	if (!r) {
		err_set(e, -ENOMEM, "out of memory");
		return NULL;
	}
	r->fd = memfd_create("lockstep-ram", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (r->fd == -1) {
		err_set(e, -errno, "memfd_create for guest memory: %s", strerror(errno));
		goto fail;
	}
	if (reserve(r, size, e) < 0 || seal(r, F_SEAL_SHRINK, e) < 0)
		goto fail;
	r->size = size;
	r->n_pages = r->main_pages = size / RAM_PAGE;
	r->base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, r->fd, 0);
	if (r->base == MAP_FAILED) {
		r->base = NULL;
		err_set(e, -errno, "cannot map guest memory: %s", strerror(errno));
		goto fail;
	}
	return r;
fail:
	ram_free(r);
	return NULL;
}

static int same_layout(const struct ram *r, const struct ram_region *want, unsigned int n, struct err *e)
{
	if (n != r->n_regions)
		return err_set(e, -EXDEV, "QEMU has %u blocks of memory beside main memory, it had %u", n,
			       r->n_regions);
	for (unsigned int i = 0; i < n; i++)
		if (strcmp(want[i].name, r->region[i].name) != 0 || want[i].count != r->region[i].count)
			return err_set(e, -EXDEV, "QEMU's block of memory %s is not as it was", want[i].name);
	return 0;
}

int ram_layout(struct ram *r, const struct ram_region *want, unsigned int n, struct err *e)
{
	uint64_t pages = r->main_pages, size;
	void *base;
	int rc;

	if (r->laid_out)
		return same_layout(r, want, n, e);
	if (n > RAM_REGIONS_MAX)
		return err_set(e, -E2BIG, "QEMU has more than %d blocks of memory", RAM_REGIONS_MAX);
	for (unsigned int i = 0; i < n; i++) {
		if (want[i].count == 0 || want[i].count > INT64_MAX / RAM_PAGE - pages)
			return err_set(e, -EINVAL, "QEMU's block of memory %s has no possible size", want[i].name);
		r->region[i] = want[i];
		r->region[i].first = pages;
		pages += want[i].count;
	}
	size = pages * RAM_PAGE;
	if (size > r->size) {
		if (!room_for(size - r->size, e))
			return -ENOMEM;
		rc = reserve(r, size, e);
		if (rc < 0)
			return rc;
		base = mremap(r->base, r->size, size, MREMAP_MAYMOVE);
		if (base == MAP_FAILED)
			return err_set(e, -errno, "cannot map guest memory: %s", strerror(errno));
		r->base = base;
	}
	r->size = size;
	r->n_pages = pages;
	r->n_regions = n;
	r->laid_out = true;
	return seal(r, F_SEAL_GROW | F_SEAL_SEAL, e);
}

void ram_free(struct ram *r)
{
	if (!r)
		return;
	if (r->base)
		munmap(r->base, r->size);
	if (r->fd != -1)
		close(r->fd);
	free(r);
}

bool ram_page_zero(const void *p)
{
	const uint64_t *w = p;

	/* Nearly every page that is not zero shows it in its first bytes. */
	if ((w[0] | w[1]) != 0)
		return false;
	for (unsigned int i = 2; i < RAM_PAGE / 8; i += 6) {
		uint64_t any = w[i] | w[i + 1] | w[i + 2] | w[i + 3] | w[i + 4] | w[i + 5];

		if (any != 0)
			return false;
	}
	return true;
}
_Static_assert((RAM_PAGE / 8 - 2) % 6 == 0, "ram_page_zero covers the page exactly");

int ram_extents(const struct ram *r, struct pageset *set)
{
	off_t at = 0, data, hole;

	while ((uint64_t)at < r->size) {
		data = lseek(r->fd, at, SEEK_DATA);
		if (data == -1)
			return errno == ENXIO ? 0 : -errno;
		hole = lseek(r->fd, data, SEEK_HOLE);
		if (hole == -1)
			return -errno;
		pageset_add(set, (uint64_t)data / RAM_PAGE, ((uint64_t)(hole - data) + RAM_PAGE - 1) / RAM_PAGE);
		at = hole;
	}
	return 0;
}

uint64_t ram_hash(const struct ram *r)
{
	return XXH3_64bits(r->base, r->size);
}
