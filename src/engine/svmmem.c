/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Giving the SVM's pages back: theory of operation
 *
 * Which pages of the private mapping are copies of QEMU's own? The kernel is asked page by page (memscan_private: it
 * looks at each page that is mapped), before each checkpoint is applied and again after its device state was loaded.
 * It says what is, not what has changed since, so nothing that was missed once can stay missed.
 *
 * Tried and left: registering the mapping with userfaultfd, as the primary's is, so that only written pages are
 * reported. At 256 MB a revert took 0.8 ms instead of 2.4 ms, outside of the pause. But a page has to be armed again
 * after each drop, and whatever is written between a drop and its arming is a private copy that no later scan reports.
 * In a busy run of some hundred checkpoints one load failed on a ring that had not been given back.
 */
#include "engine/svmmem.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/memscan.h"

struct svmmem {
	struct agentctl *a;
	struct workers *workers;
	struct pageset set;
	struct svmmem_stats st;
};

struct svmmem *svmmem_new(struct agentctl *a, const struct ram *ram, struct err *e)
{
	struct svmmem *m;
	int rc;

	if (a->map.n == 0 || a->map.shared) {
		err_set(e, -EINVAL, "the secondary's QEMU does not map guest memory privately");
		return NULL;
	}
	m = calloc(1, sizeof(*m));
	if (!m || pageset_init(&m->set, ram->n_pages) < 0) {
		free(m);
		err_set(e, -ENOMEM, "out of memory");
		return NULL;
	}
	m->a = a;
	rc = memscan_private(a->pagemap, &a->map, &m->set);
	pageset_clear(&m->set);
	if (rc < 0) {
		err_set(e, rc, "the SVM's own pages cannot be told from the image's: %s", strerror(-rc));
		svmmem_free(m);
		return NULL;
	}
	return m;
}

void svmmem_workers(struct svmmem *m, struct workers *w)
{
	m->workers = w;
}

void svmmem_free(struct svmmem *m)
{
	if (!m)
		return;
	pageset_fini(&m->set);
	free(m);
}

int svmmem_revert(struct svmmem *m, nstime deadline, struct err *e)
{
	int rc;

	pageset_clear(&m->set);
	rc = memscan_private_by(m->workers, m->a->pagemap, &m->a->map, &m->set);
	if (rc < 0)
		return err_set(e, rc, "the SVM's pages cannot be scanned: %s", strerror(-rc));
	m->st.reverts++;
	m->st.last_pages = m->set.count;
	if (m->set.count == 0)
		return 0;
	return agentctl_drop(m->a, &m->set, deadline, e);
}

int64_t svmmem_private(struct svmmem *m)
{
	int rc;

	pageset_clear(&m->set);
	rc = memscan_private(m->a->pagemap, &m->a->map, &m->set);
	return rc < 0 ? rc : (int64_t)m->set.count;
}

/* part_of() - of the map the one range that @page lies in, from there on, at most @count pages; false: there is none */
static bool part_of(const struct mem_map *map, uint64_t page, uint64_t count, struct mem_map *part)
{
	for (uint32_t i = 0; i < map->n; i++) {
		const struct mem_range *r = &map->r[i];
		uint64_t skip = page - r->first;

		if (page < r->first || skip >= r->count)
			continue;
		*part = (struct mem_map){ .n = 1 };
		part->r[0] = (struct mem_range){
			.addr = r->addr + skip * RAM_PAGE, .first = page,
			.count = r->count - skip < count ? r->count - skip : count,
		};
		return true;
	}
	return false;
}

int svmmem_share(struct svmmem *m, uint64_t *from, uint64_t limit, uint64_t *wrote, nstime deadline, struct err *e)
{
	struct page_run piece, run;
	uint64_t at = *from, end, left = limit;
	unsigned int runs = 0;
	struct mem_map part;
	int rc;

	*wrote = 0;
	if (limit == 0 || !part_of(&m->a->map, *from, SVMMEM_SHARE_WINDOW, &part))
		return err_set(e, -ERANGE, "no such part of the guest's memory to be shared");
	pageset_clear(&m->set);
	rc = memscan_private(m->a->pagemap, &part, &m->set);
	if (rc < 0)
		return err_set(e, rc, "the VM's private pages cannot be scanned: %s", strerror(-rc));
	end = *from + part.r[0].count;
	for (; pageset_next(&m->set, at, 0, &run); at = run.first + run.count) {
		if (++runs > AGENTCTL_SHARE_RUNS || left == 0) {
			end = run.first;
			break;
		}
		if (run.count > left) {
			end = run.first + left;
			break;
		}
		left -= run.count;
	}
	piece = (struct page_run){ .first = *from, .count = end - *from };
	rc = agentctl_share(m->a, &piece, &m->set, wrote, deadline, e);
	if (rc == 0)
		*from = end;
	return rc;
}

void svmmem_stats(const struct svmmem *m, struct svmmem_stats *out)
{
	*out = m->st;
}
