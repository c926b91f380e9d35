/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Guest memory in a memfd. It is reserved at the start (fallocate), because tmpfs kills the writer with SIGBUS when
 * it has no page left, and that writer would be QEMU or us, at a moment when a checkpoint cannot fail any more.
 * A memfd's fallocate does not fail when memory runs out but sets the kernel killing, so what is left is asked before.
 * For the same reason no page is ever given back: a page that becomes zero is written with zeroes, not punched out.
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

struct ram *ram_new(uint64_t size, struct err *e)
{
	uint64_t left;
	struct ram *r;
	int rc;

	if (size == 0 || size % RAM_PAGE != 0 || size > INT64_MAX) {
		err_set(e, -EINVAL, "guest memory of %llu bytes is not a whole number of pages",
			(unsigned long long)size);
		return NULL;
	}
	left = hostmem_available();
	if (size > left || left - size < RAM_HEADROOM) {
		err_set(e, -ENOMEM, "cannot reserve %llu MiB of guest memory: %llu MiB are available, %llu of them "
			"to be left alone", (unsigned long long)(size >> 20), (unsigned long long)(left >> 20),
			(unsigned long long)(RAM_HEADROOM >> 20));
		return NULL;
	}
	r = calloc(1, sizeof(*r));
	if (!r) {
		err_set(e, -ENOMEM, "out of memory");
		return NULL;
	}
	r->size = size;
	r->n_pages = size / RAM_PAGE;
	r->fd = memfd_create("lockstep-ram", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (r->fd == -1) {
		err_set(e, -errno, "memfd_create for guest memory: %s", strerror(errno));
		goto fail;
	}
	if (ftruncate(r->fd, (off_t)size) == -1 || fallocate(r->fd, 0, 0, (off_t)size) == -1) {
		rc = errno == ENOSPC ? ENOMEM : errno;
		err_set(e, -rc, "cannot reserve %llu MiB of guest memory: %s", (unsigned long long)(size >> 20),
			strerror(rc));
		goto fail;
	}
	/* A QEMU that its guest has taken over could shrink the file, and so kill whoever has it mapped: us. */
	if (fcntl(r->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == -1) {
		err_set(e, -errno, "cannot seal guest memory: %s", strerror(errno));
		goto fail;
	}
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
