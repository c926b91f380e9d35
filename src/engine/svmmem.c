/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Giving the SVM's pages back: theory of operation
 *
 * Which pages of the private mapping are copies of QEMU's own? The kernel can be asked page by page (memscan_private:
 * it looks at each page that is mapped, 9 ms per GiB), or guest memory can be registered with userfaultfd, as the
 * primary's is, and then only written pages are reported (1 ms per GiB). The second way is taken where it works.
 *
 * It reports a superset, which costs nothing but a needless drop: a page that is not write-protected counts as
 * written, and dropping a page drops its protection as well. So after each drop a second scan arms the dropped pages
 * anew; what it reports is what was dropped and is of no interest. Were it left out, the set would grow until it is all
 * of memory. The promise that carries the whole: a page has a private copy only if it was written after it was last
 * armed; everything is armed at the start, and a page that is reported by the first scan is always dropped.
 *
 * Pages that QEMU wrote before svmmem_new() (ROMs and tables of its own start) are private too; the first revert finds
 * them because nothing was armed before and the first scan therefore reports every page.
 */
#include "engine/svmmem.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/memscan.h"

struct svmmem {
	struct agentctl *a;
	struct pageset set;
	struct svmmem_stats st;
};

/* find() - add the pages to give back */
static int find(struct svmmem *m)
{
	return m->st.tracked ? memscan_written(m->a->pagemap, &m->a->map, true, &m->set) :
			       memscan_private(m->a->pagemap, &m->a->map, &m->set);
}

struct svmmem *svmmem_new(struct agentctl *a, const struct ram *ram, nstime deadline, struct err *e)
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
	rc = agentctl_track(a, deadline, e);
	if (rc == 0)
		rc = memscan_written(a->pagemap, &a->map, false, &m->set);
	m->st.tracked = rc == 0;
	pageset_clear(&m->set);
	if (!m->st.tracked && rc != -EPIPE && rc != -ETIMEDOUT)
		rc = memscan_private(a->pagemap, &a->map, &m->set);
	pageset_clear(&m->set);
	if (rc < 0) {
		err_prefix(e, "the SVM's own pages cannot be told from the image's");
		svmmem_free(m);
		return NULL;
	}
	return m;
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
	rc = find(m);
	if (rc < 0)
		return err_set(e, rc, "the SVM's pages cannot be scanned: %s", strerror(-rc));
	m->st.reverts++;
	m->st.last_pages = m->set.count;
	if (m->set.count == 0)
		return 0;
	rc = agentctl_drop(m->a, &m->set, deadline, e);
	if (rc < 0)
		return rc;
	if (m->st.tracked) {
		rc = find(m);
		if (rc < 0)
			return err_set(e, rc, "the SVM's pages cannot be armed: %s", strerror(-rc));
	}
	return 0;
}

int64_t svmmem_private(struct svmmem *m)
{
	int rc;

	pageset_clear(&m->set);
	rc = m->st.tracked ? memscan_written(m->a->pagemap, &m->a->map, false, &m->set) :
			     memscan_private(m->a->pagemap, &m->a->map, &m->set);
	return rc < 0 ? rc : (int64_t)m->set.count;
}

void svmmem_stats(const struct svmmem *m, struct svmmem_stats *out)
{
	*out = m->st;
}
