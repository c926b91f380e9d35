/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the helper is told of a child, as bytes. Whoever has taken Lockstep over can send it anything, so it is read with
 * bounds; and that a part of it is as it was allowed is a comparison of bytes, which leaves nothing to interpret.
 */
#include "base/spawn_internal.h"

#include <errno.h>
#include <string.h>

enum { FLAG_SESSION = 1, FLAG_DIES = 2, FLAG_USER = 4, FLAG_REPORT = 8, FLAG_ALL = 15 };

static void put_string(struct wcursor *w, const char *s, size_t len)
{
	wcursor_u32(w, (uint32_t)len);
	wcursor_bytes(w, s, len);
	wcursor_u8(w, 0);
}

static void put_list(struct wcursor *w, const char *const *list, bool names)
{
	uint32_t n = 0;

	while (list && list[n])
		n++;
	wcursor_u32(w, n);
	for (uint32_t i = 0; i < n; i++)
		put_string(w, list[i], names ? strcspn(list[i], "=") + 1 : strlen(list[i]));
}

static void put_account(struct wcursor *w, const struct account *a)
{
	wcursor_u32(w, a->uid);
	wcursor_u32(w, a->gid);
	wcursor_u32(w, a->n_groups);
	for (unsigned int i = 0; i < a->n_groups; i++)
		wcursor_u32(w, a->groups[i]);
}

int spawn_write(const struct spawn_spec *s, enum spawn_op op, uint8_t *buf, size_t cap)
{
	struct wcursor w = wcursor_of(buf + SPAWN_HEAD, cap - SPAWN_HEAD), head = wcursor_of(buf, SPAWN_HEAD);
	size_t fixed = 0;

	if (s) {
		wcursor_u32(&w, (s->session ? FLAG_SESSION : 0) | (s->dies ? FLAG_DIES : 0) | (s->as ? FLAG_USER : 0) |
			    (s->report >= 0 ? FLAG_REPORT : 0));
		put_string(&w, s->path, strlen(s->path));
		put_list(&w, (const char *const *)s->argv, false);
		put_list(&w, s->env, false);
		put_list(&w, s->vars, true);
		wcursor_u32(&w, s->n_fds);
		for (unsigned int i = 0; i < s->n_fds; i++) {
			wcursor_u32(&w, (uint32_t)s->fds[i].to);
			wcursor_u32(&w, (uint32_t)s->fds[i].sndbuf);
		}
		if (s->as)
			put_account(&w, s->as);
		fixed = w.done;
		for (const char *const *v = s->vars; v && *v; v++) {
			size_t at = strcspn(*v, "=") + 1;

			put_string(&w, *v + at, strlen(*v) < at ? 0 : strlen(*v + at));
		}
	}
	wcursor_u32(&head, SPAWN_MAGIC);
	wcursor_u32(&head, op);
	wcursor_u32(&head, (uint32_t)fixed);
	return w.bad ? -E2BIG : (int)(SPAWN_HEAD + w.done);
}

/* A string with its 0, in the message; NULL when there is none. */
static char *get_string(struct cursor *c)
{
	uint32_t len = cursor_u32(c);
	const uint8_t *p;

	if (len >= SPAWN_MSG)
		c->bad = true;
	if (c->bad)
		return NULL;
	p = cursor_get(c, len);
	if (cursor_u8(c) || c->bad || memchr(p, 0, len)) {
		c->bad = true;
		return NULL;
	}
	return (char *)p;
}

/* Return: how many; @list has room for @max and a NULL */
static uint32_t get_list(struct cursor *c, char **list, uint32_t max)
{
	uint32_t n = cursor_u32(c);

	if (n > max)
		c->bad = true;
	for (uint32_t i = 0; i < n && !c->bad; i++)
		list[i] = get_string(c);
	if (c->bad)
		return 0;
	list[n] = NULL;
	return n;
}

static void get_account(struct cursor *c, struct account *a)
{
	*a = (struct account){ .uid = cursor_u32(c), .gid = cursor_u32(c) };
	a->n_groups = cursor_u32(c);
	if (a->n_groups > ACCOUNT_GROUPS)
		c->bad = true;
	for (unsigned int i = 0; i < a->n_groups && !c->bad; i++)
		a->groups[i] = cursor_u32(c);
}

static bool plain(const char *s)
{
	static const char good[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.:%[]_-/, ";

	return strlen(s) <= SPAWN_VALUE && strspn(s, good) == strlen(s);
}

int spawn_read(struct spawn_read *r, const uint8_t *fixed, size_t n, const uint8_t *values, size_t n_values)
{
	struct cursor c = cursor_of(fixed, n), v = cursor_of(values, n_values);
	char *list[SPAWN_VARS + 1];
	uint32_t flags = cursor_u32(&c), n_env, n_vars;

	r->s = (struct spawn_spec){ .path = get_string(&c), .argv = r->argv, .env = r->env, .vars = r->vars, .fds = r->fds,
				    .report = -1 };
	if (!get_list(&c, r->argv, SPAWN_WORDS))
		return -EPROTO;
	n_env = get_list(&c, list, SPAWN_VARS);
	for (uint32_t i = 0; i < n_env; i++)
		r->env[i] = list[i];
	r->env[n_env] = NULL;
	n_vars = get_list(&c, list, SPAWN_VARS);
	for (uint32_t i = 0; i < n_vars; i++)
		r->names[i] = list[i];
	r->s.n_fds = cursor_u32(&c);
	if (r->s.n_fds >= SPAWN_FDS)
		return -EPROTO;
	for (unsigned int i = 0; i < r->s.n_fds; i++) {
		r->fds[i].from = -1;
		r->fds[i].to = (int)cursor_u32(&c);
		r->fds[i].sndbuf = (int)cursor_u32(&c);
	}
	if (flags & FLAG_USER) {
		get_account(&c, &r->as);
		r->s.as = &r->as;
	}
	r->s.session = flags & FLAG_SESSION;
	r->s.dies = flags & FLAG_DIES;
	r->report = flags & FLAG_REPORT;
	for (uint32_t i = 0; i < n_vars && !c.bad; i++) {
		const char *value = get_string(&v);

		if (!value || !plain(value) || strlen(r->names[i]) + strlen(value) >= sizeof(r->text[i]))
			return -EPROTO;
		strcpy(r->text[i], r->names[i]);
		strcat(r->text[i], value);
		r->vars[i] = r->text[i];
	}
	r->vars[c.bad ? 0 : n_vars] = NULL;
	return c.bad || c.left || v.left || flags & ~(uint32_t)FLAG_ALL || spawn_check(&r->s, NULL) ? -EPROTO : 0;
}
