/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The limits of memory on the secondary: theory of operation
 *
 * The SVM's private pages can be counted exactly only by going through the page table (svmmem_private(): 0.6 to 2.4 ms
 * for 256 MB, under a lock that QEMU's page faults want too), which is too much for many times a second and a large
 * guest. The kernel keeps a sum for the whole process, though: anonymous pages in memory and in swap, in
 * /proc/PID/status, which costs some 30 us whatever the size. What QEMU itself has is in it, so the sum at the moment at
 * which the SVM had no page of its own is subtracted. The difference may be too large (QEMU's heap has grown) or too
 * small (it has shrunk), so it only says when to count: near the limit, and now and then, as often as counting takes a
 * hundredth of the time. Each count mends the sum that is subtracted.
 *
 * At the limit a checkpoint is asked for. At twice the limit the owner is told that the SVM may write no more.
 */
#include "engine/memlimit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"

#define LOOK_NS		(20 * NS_PER_MS)
#define AGAIN_NS	NS_PER_S
#define SCAN_NS		NS_PER_S	/* least time between two counts far from the limit */
#define SCAN_SHARE	100		/* counting takes at most this part of the time */

struct memlimit {
	struct loop *loop;
	struct memlimit_cfg cfg;
	void (*fn)(void *arg, enum memlimit_what what);
	void *arg;
	struct loop_timer timer;
	struct svmmem *svm;		/* NULL: nothing to look at */
	int status_fd;
	int64_t base;			/* anonymous pages of QEMU that are not the guest's */
	nstime scanned_at, scan_took;
	nstime told[3];			/* when, of each enum memlimit_what; 0: not */
	/* read by other threads */
	_Atomic uint64_t private_pages, asked[3], looks, scans;
};

int64_t memlimit_anon(int fd)
{
	static const char *const name[] = { "\nRssAnon:", "\nVmSwap:" };
	char text[4096];
	ssize_t n = pread(fd, text, sizeof(text) - 1, 0);
	int64_t kb = 0;

	if (n <= 0)
		return -1;
	text[n] = 0;
	for (size_t i = 0; i < sizeof(name) / sizeof(*name); i++) {
		const char *p = strstr(text, name[i]);

		if (!p)
			return -1;
		kb += strtoll(p + strlen(name[i]), NULL, 10);
	}
	return kb * 1024 / RAM_PAGE;
}

static void tell(struct memlimit *m, enum memlimit_what what)
{
	nstime now = clock_ns();

	if (m->told[what] && now - m->told[what] < AGAIN_NS)
		return;
	/* What is told again is the same one. */
	m->asked[what] += !m->told[what];
	m->told[what] = now;
	m->fn(m->arg, what);
}

static void scan(struct memlimit *m, int64_t anon)
{
	nstime begun = clock_ns();
	int64_t n = svmmem_private(m->svm);

	m->scanned_at = clock_ns();
	m->scan_took = m->scanned_at - begun;
	m->scans++;
	if (n < 0)
		return;
	m->base = anon - n;
	m->private_pages = (uint64_t)n;
	if ((uint64_t)n >= m->cfg.private_pages)
		tell(m, MEMLIMIT_PRIVATE);
	if ((uint64_t)n >= 2 * m->cfg.private_pages)
		tell(m, MEMLIMIT_FULL);
}

static void on_look(struct loop_timer *t)
{
	struct memlimit *m = t->arg;
	int64_t anon = memlimit_anon(m->status_fd), limit = (int64_t)m->cfg.private_pages;
	nstime since = clock_ns() - m->scanned_at;
	bool near;

	if (!m->svm || anon < 0)
		return;
	m->looks++;
	near = anon - m->base >= limit - limit / 8;
	/* Beyond the limit the next that matters is the hard one; the checkpoint is on its way. */
	if (near && m->told[MEMLIMIT_PRIVATE])
		near = anon - m->base >= 2 * limit - limit / 8 || since >= AGAIN_NS;
	if (anon - m->base > 0)
		m->private_pages = (uint64_t)(anon - m->base);
	if (since >= SCAN_SHARE * m->scan_took && (near || since >= SCAN_NS))
		scan(m, anon);
	loop_timer_set(m->loop, &m->timer, clock_ns() + LOOK_NS);
}

struct memlimit *memlimit_new(struct loop *loop, const struct memlimit_cfg *cfg,
			      void (*fn)(void *arg, enum memlimit_what what), void *arg, struct err *e)
{
	struct memlimit *m = calloc(1, sizeof(*m));

	if (!m) {
		err_set(e, -ENOMEM, "no memory for the limits of memory");
		return NULL;
	}
	m->loop = loop;
	m->cfg = *cfg;
	m->fn = fn;
	m->arg = arg;
	m->status_fd = -1;
	m->timer = (struct loop_timer){ .fn = on_look, .arg = m };
	return m;
}

void memlimit_end(struct memlimit *m)
{
	loop_timer_del(m->loop, &m->timer);
	if (m->status_fd != -1)
		close(m->status_fd);
	m->status_fd = -1;
	m->svm = NULL;
}

void memlimit_free(struct memlimit *m)
{
	if (!m)
		return;
	memlimit_end(m);
	free(m);
}

void memlimit_begin(struct memlimit *m, struct svmmem *svm, int status)
{
	memlimit_end(m);
	m->status_fd = fcntl(status, F_DUPFD_CLOEXEC, 0);
	m->base = memlimit_anon(m->status_fd);
	m->scanned_at = clock_ns();
	m->scan_took = 0;
	m->private_pages = 0;
	memset(m->told, 0, sizeof(m->told));
	if (m->base < 0)
		return;		/* QEMU is gone; somebody else notices */
	m->svm = svm;
	loop_timer_set(m->loop, &m->timer, clock_ns() + LOOK_NS);
}

void memlimit_staged(struct memlimit *m, uint64_t pages)
{
	if (pages >= m->cfg.staged_pages)
		tell(m, MEMLIMIT_STAGED);
}

void memlimit_stats(const struct memlimit *m, struct memlimit_stats *out)
{
	*out = (struct memlimit_stats){
		.private_pages = m->private_pages, .asked_private = m->asked[MEMLIMIT_PRIVATE],
		.asked_staged = m->asked[MEMLIMIT_STAGED], .full = m->asked[MEMLIMIT_FULL],
		.looks = m->looks, .scans = m->scans,
	};
}
