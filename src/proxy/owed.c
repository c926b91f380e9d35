/* SPDX-License-Identifier: BSD-2-Clause */
#include "proxy/owed.h"

#include <stdlib.h>
#include <string.h>

struct owed_frame {
	struct owed_frame *next;
	uint32_t len;
	uint8_t nic;
	uint8_t data[];
};

void owed_init(struct owed *o)
{
	atomic_init(&o->open, 0);
	atomic_init(&o->lost, 0);
	o->first = NULL;
	o->tail = &o->first;
	o->bytes = 0;
}

static void drop_first(struct owed *o)
{
	struct owed_frame *f = o->first;

	o->first = f->next;
	if (!o->first)
		o->tail = &o->first;
	o->bytes -= f->len;
	free(f);
}

void owed_fini(struct owed *o)
{
	while (o->first)
		drop_first(o);
}

bool owed_open(struct owed *o, unsigned int bit, bool open)
{
	if (open)
		atomic_fetch_or(&o->open, bit);
	else
		atomic_fetch_and(&o->open, ~bit);
	return atomic_load(&o->open);
}

bool owed_take(struct owed *o, uint8_t nic, const uint8_t *data, uint32_t len)
{
	struct owed_frame *f;

	/* A frame that may leave must not overtake those that had to wait. */
	if (!atomic_load(&o->open) && !o->first)
		return false;
	f = o->bytes + len <= OWED_MAX ? malloc(sizeof(*f) + len) : NULL;
	if (!f) {
		atomic_fetch_add(&o->lost, 1);
		return true;
	}
	f->next = NULL;
	f->len = len;
	f->nic = nic;
	memcpy(f->data, data, len);
	*o->tail = f;
	o->tail = &f->next;
	o->bytes += len;
	return true;
}

void owed_run(struct owed *o, void (*emit)(void *arg, uint8_t nic, const uint8_t *data, uint32_t len), void *arg)
{
	while (o->first && !atomic_load(&o->open)) {
		emit(arg, o->first->nic, o->first->data, o->first->len);
		drop_first(o);
	}
}
