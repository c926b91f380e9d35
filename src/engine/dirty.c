/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Which pages has the guest written? Theory of operation
 *
 * Two ways behind one table of functions. WP_ASYNC: the agent has registered guest memory with userfaultfd inside
 * QEMU; the kernel takes the write-protection away at the first write by anybody (guest code, device emulation,
 * system calls, KVM) and PAGEMAP_SCAN reports and restores it in one walk. It may be used while the VM runs.
 *
 * Soft-dirty, for kernels before 6.7: bit 55 of each page's entry, cleared for the whole process through clear_refs.
 * Reading and clearing are two steps, so what was read is only cleared while the VM is stopped; with nothing to be read
 * (dirty_arm(), before all of memory is sent) it may be done while the VM runs. Stopped vCPUs are not quite
 * all: QEMU's own threads may still write (a network device that fills a buffer), and that is why `stopped` means
 * that the answer to QMP stop has come and the input gate is closed.
 *
 * Both report a page at worst too often (about 3 % measured unchanged), never too rarely. The thread that does
 * checkpoints owns a tracker; no locks.
 */
#include "engine/dirty.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct dirty_ops {
	int (*arm)(struct dirty *d);
	int (*scan)(struct dirty *d, bool stopped, struct pageset *set);
};

struct dirty {
	enum dirty_kind kind;
	const struct dirty_ops *ops;
	struct mem_map map;
	int pagemap;
	int clear_refs;
	struct workers *workers;
	struct pageset sink;	/* takes what arming finds and nobody wants */
};

static int wp_scan(struct dirty *d, bool stopped, struct pageset *set)
{
	return memscan_rearm_by(d->workers, d->pagemap, &d->map, set);
}

static int wp_arm(struct dirty *d)
{
	int rc = wp_scan(d, false, &d->sink);

	pageset_clear(&d->sink);
	return rc;
}

static int soft_arm(struct dirty *d)
{
	static const char all[] = "4\n";
	ssize_t n = pwrite(d->clear_refs, all, sizeof(all) - 1, 0);

	return n == (ssize_t)sizeof(all) - 1 ? 0 : n == -1 ? -errno : -EIO;
}

static int soft_scan(struct dirty *d, bool stopped, struct pageset *set)
{
	int rc = memscan_soft_dirty_by(d->workers, d->pagemap, &d->map, set);

	return rc == 0 && stopped ? soft_arm(d) : rc;
}

static const struct dirty_ops ops[] = {
	[DIRTY_WP_ASYNC] = { wp_arm, wp_scan },
	[DIRTY_SOFT] = { soft_arm, soft_scan },
};

int dirty_probe(struct err *e)
{
	struct err wp, soft;

	if (memscan_probe(&wp) == 0)
		return DIRTY_WP_ASYNC;
	if (memscan_probe_soft_dirty(&soft) == 0)
		return DIRTY_SOFT;
	return err_set(e, -ENOTSUP, "no way to see which pages a guest writes: %s; %s", wp.msg, soft.msg);
}

struct dirty *dirty_new(enum dirty_kind kind, const struct mem_map *map, int pagemap, int clear_refs, struct err *e)
{
	struct dirty *d;
	uint64_t pages = 0;

	for (uint32_t i = 0; i < map->n; i++)
		if (map->r[i].first + map->r[i].count > pages)
			pages = map->r[i].first + map->r[i].count;
	if (pages == 0 || pagemap == -1 || (kind == DIRTY_SOFT && clear_refs == -1)) {
		err_set(e, -EINVAL, "dirty tracking needs QEMU's page map and guest memory mapped in QEMU");
		return NULL;
	}
	d = calloc(1, sizeof(*d));
	if (!d || pageset_init(&d->sink, pages) < 0) {
		free(d);
		err_set(e, -ENOMEM, "out of memory");
		return NULL;
	}
	d->kind = kind;
	d->ops = &ops[kind];
	d->map = *map;
	d->pagemap = pagemap;
	d->clear_refs = clear_refs;
	return d;
}

void dirty_free(struct dirty *d)
{
	if (!d)
		return;
	pageset_fini(&d->sink);
	free(d);
}

void dirty_workers(struct dirty *d, struct workers *w)
{
	d->workers = w;
}

int dirty_arm(struct dirty *d)
{
	return d->ops->arm(d);
}

int dirty_scan(struct dirty *d, bool stopped, struct pageset *set)
{
	return d->ops->scan(d, stopped, set);
}

enum dirty_kind dirty_kind(const struct dirty *d)
{
	return d->kind;
}
