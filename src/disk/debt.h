/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef DISK_DEBT_H
#define DISK_DEBT_H

#include <stdatomic.h>
#include <stdbool.h>

/* Private to serve.c: when a flush is answered. See debt.c. */
struct debt_flush {
	unsigned int disk;
	bool early;		/* it was answered before it was done */
	struct debt_flush *next, **prev;
};

struct debt_ops {
	void (*begin)(void *arg, struct debt_flush *f);			/* flush the base, then debt_done() */
	void (*answer)(void *arg, struct debt_flush *f, int rc);	/* the guest; @f may be freed unless f->early */
	void (*open)(void *arg, bool open);
	void (*failed)(void *arg, int rc);
	void *arg;
};

struct debt {
	struct debt_ops ops;
	atomic_bool stopping;
	unsigned int open;	/* flushes that were answered early and are not done */
	struct debt_flush *first, **last;	/* those that wait for that */
	struct debt_flush *under_way;		/* those that were begun and not answered */
	int *owed;		/* for each disk: the error that its next flush answers */
	unsigned long total;
};

int debt_init(struct debt *d, unsigned int disks, const struct debt_ops *ops);
void debt_fini(struct debt *d);

/* debt_flush() - a flush has come in; @f: its disk set, kept until ops.answer(), or until debt_done() when early */
void debt_flush(struct debt *d, struct debt_flush *f);
/* debt_owe() - the VM stands, and QEMU waits for the flushes that came in before: they are answered, and owed */
void debt_owe(struct debt *d);
/* debt_holds() - whether what the VM writes now must wait until the debt is paid */
static inline bool debt_holds(struct debt *d)
{
	return d->open && !atomic_load(&d->stopping);
}
/* debt_done() - the base was flushed; @f is the caller's again */
void debt_done(struct debt *d, struct debt_flush *f, int rc);

#endif
