/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Writable drives written as -blockdev: nodes that stand on one another, each an option or a part of one.
 *
 *	device -> [throttle ->] [raw ->] format -> file
 *
 * What is above the image (throttle) stays in QEMU, and is not touched. Format and file become one NBD node with the
 * name that the upper one has, since that is what a device or a filter refers to; the lower one's option goes away.
 * Nodes may be written in any order. A node is writable unless it says read-only=on: "auto" decides by the file's
 * permissions, on each host for itself. Read-only nodes are handed on; nothing writable may be below one.
 * Runs before anything else, in the main thread.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/driveopt.h"

struct node {
	unsigned int opt;		/* in opts[] */
	const char *name, *driver;
	const char *below;		/* node that it stands on; NULL: none, or it is a part of this option */
	bool writable;
	bool has_above;			/* another node stands on it */
	bool seen;
	struct kvlist was;		/* the option as it was, once it has become a disk: names point into it */
};

struct graph {
	struct cmdline *c;
	struct node *v;
	unsigned int n;
};

/* What an image is made of, from above. */
struct layers {
	const char *format, *path;
	int discard;			/* 1 unless a layer ignores it */
	const char *zeroes;
	int direct, no_flush;
};

static struct node *find(const struct graph *g, const char *name)
{
	for (unsigned int i = 0; name && i < g->n; i++)
		if (g->v[i].name && !strcmp(g->v[i].name, name))
			return &g->v[i];
	return NULL;
}

static const struct kvlist *kv_of(const struct graph *g, const struct node *n)
{
	return &g->c->opts[n->opt].kv;
}

static bool is_file(const char *driver)
{
	return !strcmp(driver, "file") || !strcmp(driver, "host_device");
}

static int refuse_driver(const char *driver, const char *why, struct err *e)
{
	return err_set(e, -ENOTSUP, "driver=%.40s: a writable drive with this driver is not supported%s%s; what can be "
		       "protected is an image in a file or on a block device, and throttle above it", driver,
		       why ? ": " : "", why ? why : "");
}

/* What each layer says of how it is used; @prefix: "file." for a part of an option */
static int read_layer(const struct kvlist *kv, const char *prefix, bool passes, struct layers *l, struct err *e)
{
	static const char *const names[2][4] = {
		{ "discard", "detect-zeroes", "cache.direct", "cache.no-flush" },
		{ "file.discard", "file.detect-zeroes", "file.cache.direct", "file.cache.no-flush" },
	};
	const char *const *key = names[prefix[0] != 0];
	const char *discard = kvlist_get(kv, key[0]), *zeroes = kvlist_get(kv, key[1]);
	int direct = drive_bool(kv, key[2], l->direct, e), no_flush = drive_bool(kv, key[3], l->no_flush, e);

	if (direct < 0 || no_flush < 0)
		return -EINVAL;
	if (discard && strcmp(discard, "unmap") && strcmp(discard, "ignore"))
		return err_set(e, -EINVAL, "%s=%.40s: it is unmap or ignore", key[0], discard);
	if (zeroes && strcmp(zeroes, "on") && strcmp(zeroes, "off") && strcmp(zeroes, "unmap"))
		return err_set(e, -EINVAL, "%s=%.40s: it is on, off or unmap", key[1], zeroes);
	if (zeroes && !strcmp(zeroes, "unmap") && (!discard || strcmp(discard, "unmap")))
		return err_set(e, -EINVAL, "%s=unmap needs %s=unmap", key[1], key[0]);
	if (passes) {
		l->discard &= discard && !strcmp(discard, "unmap");
		if (!l->zeroes || !strcmp(l->zeroes, "off"))
			l->zeroes = zeroes;
	}
	l->direct |= direct;
	l->no_flush |= no_flush;
	return 0;
}

/* judge_keys() - each key of one layer: those with "file." are of the one below, when that is a part of this option */
static int judge_keys(struct graph *g, const struct kvlist *kv, enum drive_where where, struct err *e)
{
	struct kvlist none = { 0 };
	int rc = 0;

	for (unsigned int i = 0; i < kv->n && !rc; i++) {
		const char *key = kv->v[i].key;

		if (where == IN_NODE && !strncmp(key, "file.", 5))
			rc = drive_key(g->c, IN_FILE, key + 5, key, kv->v[i].val, &none, e);
		else
			rc = drive_key(g->c, where, key, key, kv->v[i].val, &none, e);
	}
	kvlist_free(&none);
	return rc;
}

static void go_away(struct graph *g, const struct node *n)
{
	g->c->opts[n->opt].kind = CMDOPT_GONE;
}

/* An image's file, an option of its own. */
static int read_file(struct graph *g, const struct node *n, bool passes, struct layers *l, struct err *e)
{
	const struct kvlist *kv = kv_of(g, n);
	int rc = judge_keys(g, kv, IN_FILE, e);

	if (!rc)
		rc = read_layer(kv, "", passes, l, e);
	l->path = kvlist_get(kv, "filename");
	if (!rc && !l->path)
		rc = err_set(e, -EINVAL, "filename= is missing");
	return rc;
}

/* may_stand_on() - whether @n, which names one below it, may have @next there; @next: NULL: there is none of that name */
static int may_stand_on(const struct node *n, const struct node *next, struct err *e)
{
	if (!next)
		return err_set(e, -EINVAL, "file=%.60s: there is no such -blockdev", n->below);
	if (!next->writable)
		return err_set(e, -EINVAL, "file=%.60s: this is read-only; say read-only=on above it, too", n->below);
	if (next->seen)
		return err_set(e, -EINVAL, "file=%.60s: another node stands on it already", n->below);
	return 0;
}

/* From a format down to the file. */
static int read_format(struct graph *g, struct node *n, struct layers *l, struct err *e)
{
	bool passes = true;	/* what a layer below says of discarding counts: a raw format hands it down */
	int rc = 0;

	while (!rc) {
		const struct kvlist *kv = kv_of(g, n);
		const char *below = kvlist_get(kv, "file.driver"), *why;
		struct node *next = find(g, n->below);
		bool raw = !strcmp(n->driver, "raw");

		if (!drive_is_format(n->driver, &why))
			return refuse_driver(n->driver, why, e);
		if (below && !is_file(below))
			return err_set(e, -ENOTSUP, "file.driver=%.40s: it is neither file nor host_device; write "
				       "other layers as a -blockdev of their own", below);
		l->format = n->driver;
		rc = judge_keys(g, kv, IN_NODE, e);
		if (!rc)
			rc = read_layer(kv, "", passes, l, e);
		if (rc)
			return rc;
		passes = raw;
		if (below) {
			l->path = kvlist_get(kv, "file.filename");
			if (kvlist_bool(kv, "file.read-only", 0) == 1)
				return err_set(e, -EINVAL, "file.read-only=on: then the image cannot be written; say "
					       "read-only=on above it, too");
			return l->path ? read_layer(kv, "file.", passes, l, e) :
			       err_set(e, -EINVAL, "file.filename= is missing");
		}
		if (!n->below)
			return err_set(e, -EINVAL, "which image? file= is missing");
		rc = may_stand_on(n, next, e);
		if (rc)
			return rc;
		next->seen = true;
		if (is_file(next->driver)) {
			rc = read_file(g, next, passes, l, e);
			go_away(g, next);
			return rc;
		}
		if (!raw)
			return err_set(e, -ENOTSUP, "file=%.60s: a format in a format is not supported", n->below);
		go_away(g, next);
		n = next;
	}
	return rc;
}

static int make_disk(struct graph *g, struct node *top, const struct layers *l, struct err *e)
{
	struct cmdopt *o = &g->c->opts[top->opt];
	struct cmdline_disk *d = NULL;
	struct kvlist out = { 0 };
	int rc;

	rc = drive_add(g->c, top->name, l->path, l->format, &d, e);
	if (!rc && (kvlist_set(&out, "node-name", top->name) || (l->discard && kvlist_set(&out, "discard", "unmap")) ||
		    (l->zeroes && kvlist_set(&out, "detect-zeroes",
					     !strcmp(l->zeroes, "unmap") && !l->discard ? "on" : l->zeroes))))
		rc = err_set(e, -ENOMEM, "no memory for a drive");
	if (rc) {
		kvlist_free(&out);
		return rc;
	}
	if (l->no_flush)
		cmdline_note(g->c, "%.80s: what the guest flushes is flushed, although it says cache.no-flush",
			     l->path);
	d->direct = l->direct;
	d->discard = l->discard;
	d->node = true;
	top->was = o->kv;
	o->kv = out;
	o->kind = CMDOPT_DISK;
	o->disk = g->c->n_disks - 1;
	return 0;
}

/* A node that nothing stands on, or that a filter stands on. */
static int take_root(struct graph *g, struct node *n, struct err *e)
{
	struct layers l = { .discard = 1 };
	int rc;

	n->seen = true;
	if (!strcmp(n->driver, "throttle")) {
		struct node *next = find(g, n->below);

		if (!n->below)
			return err_set(e, -ENOTSUP, "driver=throttle: write what is below it as a -blockdev of its "
				       "own, and its name here: file=NAME");
		rc = may_stand_on(n, next, e);
		return rc ? rc : take_root(g, next, e);
	}
	if (is_file(n->driver)) {
		l.format = "raw";
		rc = read_file(g, n, true, &l, e);
	} else {
		rc = read_format(g, n, &l, e);
	}
	return rc ? rc : make_disk(g, n, &l, e);
}

static int judge_names(const struct graph *g, const struct node *n, struct err *e)
{
	const char *own = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
	static const char rest[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._";
	const struct kvlist *kv = kv_of(g, n);

	if (!n->driver)
		return err_set(e, -EINVAL, "which driver? It begins with driver=");
	if (!n->name)
		return err_set(e, -EINVAL, "node-name= is missing");
	if (!n->name[0] || !strchr(own, n->name[0]) || n->name[strspn(n->name, rest)] || strlen(n->name) > 31)
		return err_set(e, -EINVAL, "node-name=%.60s: a name begins with a letter, has letters, digits, - . and "
			       "_, and at most 31 of them", n->name);
	if (drive_bool(kv, "read-only", 0, e) < 0)
		return -EINVAL;
	if (find(g, n->name) != n)
		return err_set(e, -EINVAL, "node-name=%.60s: two nodes have this name", n->name);
	/* Below a read-only node nothing may be writable. */
	for (unsigned int i = 0; !n->writable && i < kv->n; i++) {
		const struct node *other = find(g, kv->v[i].val);

		if (other && other != n && other->writable && strcmp(kv->v[i].key, "driver"))
			return err_set(e, -ENOTSUP, "%.60s=%.60s: this node can be written, and what is above it not; "
				       "say read-only=on at each of its layers", kv->v[i].key, kv->v[i].val);
	}
	return 0;
}

/* Flash memory as a node: which file is the node's own cannot be seen there. */
static int judge_flash(const struct graph *g, struct err *e)
{
	static const char *const which[] = { "pflash0", "pflash1" };

	for (unsigned int i = 0; i < 2; i++) {
		const struct node *n = find(g, kvlist_get(&g->c->machine_kv, which[i]));

		if (n && n->writable)
			return err_set(e, -ENOTSUP, "-machine %s=%.60s: flash memory that the guest writes is written "
				       "-drive if=pflash,unit=%u,format=raw,file=...", which[i], n->name, i);
	}
	return 0;
}

static int collect(struct graph *g)
{
	g->v = calloc(g->c->n_opts + 1, sizeof(*g->v));
	if (!g->v)
		return -ENOMEM;
	for (unsigned int i = 0; i < g->c->n_opts; i++) {
		const struct kvlist *kv = &g->c->opts[i].kv;

		if (strcmp(g->c->opts[i].name, "blockdev"))
			continue;
		g->v[g->n++] = (struct node){ .opt = i, .name = kvlist_get(kv, "node-name"),
					      .driver = kvlist_get(kv, "driver"), .below = kvlist_get(kv, "file"),
					      .writable = kvlist_bool(kv, "read-only", 0) != 1 };
	}
	for (unsigned int i = 0; i < g->n; i++) {
		struct node *below = find(g, g->v[i].below);

		if (below && g->v[i].writable)
			below->has_above = true;
	}
	return 0;
}

int nodeopt_finish(struct cmdline *c, struct err *e)
{
	struct graph g = { .c = c };
	int rc = collect(&g) ? err_set(e, -ENOMEM, "no memory for drives") : 0;

	for (unsigned int i = 0; i < g.n && !rc; i++) {
		rc = judge_names(&g, &g.v[i], e);
		if (rc)
			err_prefix(e, "-blockdev %.100s", c->opts[g.v[i].opt].arg);
	}
	if (!rc)
		rc = judge_flash(&g, e);
	for (unsigned int i = 0; i < g.n && !rc; i++) {
		if (!g.v[i].writable || g.v[i].has_above)
			continue;
		rc = take_root(&g, &g.v[i], e);
		if (rc)
			err_prefix(e, "-blockdev %.100s", c->opts[g.v[i].opt].arg);
	}
	for (unsigned int i = 0; i < g.n && !rc; i++)
		if (g.v[i].writable && !g.v[i].seen)
			rc = err_set(e, -EINVAL, "-blockdev %.100s: it stands on itself", c->opts[g.v[i].opt].arg);
	for (unsigned int i = 0; i < g.n; i++)
		kvlist_free(&g.v[i].was);
	free(g.v);
	return rc;
}
