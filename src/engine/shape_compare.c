/* SPDX-License-Identifier: BSD-2-Clause */
/* Comparing the shapes of two machines, and naming what differs. The peer's is believed in nothing. */
#include "engine/shape.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/cursor.h"

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

/* Names for people of what a key means; an option's key has the option itself in its value. */
static const struct {
	const char *key, *name;
} names[] = {
	{ "qemu", "QEMU's version" }, { "machine", "the machine type" },
	{ "machine-options", "the options of -machine" }, { "accel", "the accelerator" },
	{ "cpu", "the CPU model" }, { "memory", "the memory (bytes)" },
	{ "cpus", "the number of CPUs" }, { "cpu-topology", "-smp" }, { "nics", "the number of network cards" },
	{ "devices", "the device tree (a hash of it)" }, { "rtc", "-rtc" },
	{ "no-reboot", "-no-reboot" }, { "no-shutdown", "-no-shutdown" },
};

static void name_key(const char *key, size_t len, char out[80])
{
	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		if (strlen(names[i].key) == len && !strncmp(names[i].key, key, len)) {
			snprintf(out, 80, "%s", names[i].name);
			return;
		}
	if (len > 4 && !strncmp(key, "nic.", 4))
		snprintf(out, 80, "network card %.*s", (int)(len - 4 < 40 ? len - 4 : 40), key + 4);
	else if (len > 5 && !strncmp(key, "disk.", 5))
		snprintf(out, 80, "the disk %.*s", (int)(len - 5 < 60 ? len - 5 : 60), key + 5);
	else if (len > 5 && !strncmp(key, "size.", 5))
		snprintf(out, 80, "the size of the image of disk %.*s", (int)(len - 5 < 45 ? len - 5 : 45), key + 5);
	else if (len > 7 && !strncmp(key, "option.", 7))
		snprintf(out, 80, "an option (number %.*s)", (int)(len - 7 < 10 ? len - 7 : 10), key + 7);
	else if (len > 8 && !strncmp(key, "host-cpu", 8))
		snprintf(out, 80, "the host's processor");
	else if (len > 8 && !strncmp(key, "content.", 8))
		snprintf(out, 80, "the ROM in %.*s (its hash)", (int)(len - 8 < 50 ? len - 8 : 50), key + 8);
	else if (len > 6 && !strncmp(key, "block.", 6))
		snprintf(out, 80, "the memory of %.*s", (int)(len - 6 < 50 ? len - 6 : 50), key + 6);
	else if (len > 7 && !strncmp(key, "device.", 7))
		snprintf(out, 80, "a device of the device tree (number %.*s)", (int)(len - 7 < 10 ? len - 7 : 10),
			 key + 7);
	else
		snprintf(out, 80, "%.*s", (int)(len < 60 ? len : 60), key);
}

struct line {
	const char *key, *val;
	size_t klen, vlen;
	bool bad;
};

/* The next "key=value\n"; false at the end. */
static bool next_line(struct cursor *c, struct line *l)
{
	const uint8_t *end = c->left ? memchr(c->p, '\n', c->left) : NULL, *eq, *p;
	size_t len;

	*l = (struct line){ .bad = c->left && !end };
	if (!end)
		return false;
	len = (size_t)(end - c->p);
	p = cursor_get(c, len + 1);
	eq = memchr(p, '=', len);
	for (size_t i = 0; i < len; i++)
		l->bad |= !isprint(p[i]);
	l->bad |= !eq || eq == p;
	if (l->bad)
		return false;
	l->key = (const char *)p;
	l->klen = (size_t)(eq - p);
	l->val = (const char *)eq + 1;
	l->vlen = len - l->klen - 1;
	return true;
}

static bool same_key(const struct line *a, const struct line *b)
{
	return a->klen == b->klen && !memcmp(a->key, b->key, a->klen);
}

static bool has_key(const char *text, size_t len, const struct line *want)
{
	struct cursor c = cursor_of(text, len);
	struct line l;

	while (next_line(&c, &l))
		if (same_key(&l, want))
			return true;
	return false;
}

/* Only one side has this line. */
static int differ_missing(const struct line *l, bool here, struct err *e)
{
	char name[80];

	name_key(l->key, l->klen, name);
	return err_set(e, -EXDEV, "the two machines differ: %s is given only %s: %.*s", name,
		       here ? "here" : "at the peer",
		       (int)(l->vlen < 200 ? l->vlen : 200), l->val);
}

/* part() - the piece between two semicolons that holds the byte at @at; its length in @n */
static const char *part(const struct line *l, size_t at, int *n)
{
	size_t begin = at, end = at;

	while (begin > 0 && l->val[begin - 1] != ';')
		begin--;
	while (end < l->vlen && l->val[end] != ';')
		end++;
	if (begin < end && l->val[begin] == ' ')
		begin++;
	*n = (int)(end - begin < 100 ? end - begin : 100);
	return l->val + begin;
}

/* differ_device() - of one device with many properties the first that is another */
static int differ_device(const struct line *here, const struct line *there, const char *name, struct err *e)
{
	const char *head, *a, *b;
	int head_n, a_n, b_n;
	size_t at = 0;

	while (at < here->vlen && at < there->vlen && here->val[at] == there->val[at])
		at++;
	head = part(here, 0, &head_n);
	/* One has ended, and the other goes on with another property. */
	if ((at == here->vlen && there->val[at] == ';') || (at == there->vlen && here->val[at] == ';')) {
		a = part(at == here->vlen ? there : here, at + 1, &a_n);
		return err_set(e, -EXDEV, "the two machines differ: %s, %.*s, has %.*s only %s", name, head_n, head,
			       a_n, a, at == here->vlen ? "at the peer" : "here");
	}
	a = part(here, at, &a_n);
	b = part(there, at, &b_n);
	if (a == head || b == there->val)
		return err_set(e, -EXDEV, "the two machines differ: %s is %.*s here and %.*s at the peer", name, a_n, a,
			       b_n, b);
	return err_set(e, -EXDEV, "the two machines differ: %s, %.*s, has %.*s here and %.*s at the peer", name, head_n,
		       head, a_n, a, b_n, b);
}

int shape_compare(const char *mine, const char *theirs, size_t len, struct err *e)
{
	struct cursor a = cursor_of(mine, strlen(mine)), b = cursor_of(theirs, len);
	char name[80];

	if (len > SHAPE_MAX)
		return err_set(e, -EPROTO, "the peer's description of its machine is too long");
	for (unsigned int i = 0; i < SHAPE_LINES; i++) {
		struct line la, lb;
		bool has_a = next_line(&a, &la), has_b = next_line(&b, &lb);

		if (lb.bad)
			return err_set(e, -EPROTO, "the peer's description of its machine cannot be read");
		if (!has_a && !has_b)
			return 0;
		if (!has_b)
			return differ_missing(&la, true, e);
		if (!has_a || (!same_key(&la, &lb) && !has_key(mine, strlen(mine), &lb)))
			return differ_missing(&lb, false, e);
		if (!same_key(&la, &lb))
			return differ_missing(&la, true, e);
		if (la.vlen == lb.vlen && !memcmp(la.val, lb.val, la.vlen))
			continue;
		name_key(la.key, la.klen, name);
		if (la.klen > 7 && !memcmp(la.key, "device.", 7))
			return differ_device(&la, &lb, name, e);
		return err_set(e, -EXDEV, "the two machines differ: %s is %.*s here and %.*s at the peer", name,
			       (int)(la.vlen < 150 ? la.vlen : 150), la.val, (int)(lb.vlen < 150 ? lb.vlen : 150),
			       lb.val);
	}
	return err_set(e, -EPROTO, "the description of a machine has more than %d lines", SHAPE_LINES);
}
