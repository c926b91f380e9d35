/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The NBD server: exports, listeners, connections.
 *
 * All of it belongs to one loop. Nothing here waits: a connection is a state machine over the bytes that have come
 * (nbd_conn.c), and a request is with its device or in the queue of replies. Nothing is freed where it might still be
 * in use further up the stack: a connection that has ended is only marked, and taken away at the end of the turn when
 * its devices have answered (server_reap()).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "disk/nbd_internal.h"

static void export_free(struct nbd_exp *x)
{
	free(x->name);
	free(x->description);
	free(x);
}

void nbd_export_leave(struct nbd_exp *x)
{
	x->conns--;
	if (x->gone && !x->conns)
		export_free(x);
}

static void listener_free(struct nbd_listener *n)
{
	nbd_listen_close(n);
	tls_free(n->tls);
	free(n->unix_path);
	free(n);
}

/* Takes away what has ended: connections, then listeners that are closed and have none. */
static void server_reap(struct loop_timer *t)
{
	struct nbd_server *s = t->arg;

	for (struct nbd_conn **at = &s->conns, *c; (c = *at);) {
		if (c->st != NBD_ST_DEAD || c->n_device) {
			at = &c->next;
			continue;
		}
		*at = c->next;
		nbd_conn_free(c);
	}
	for (struct nbd_listener **at = &s->listeners, *n; (n = *at);) {
		if (n->watch.fd >= 0 || n->conns) {
			at = &n->next;
			continue;
		}
		*at = n->next;
		listener_free(n);
	}
}

struct nbd_server *nbd_server_new(struct loop *l, struct err *e)
{
	struct nbd_server *s = calloc(1, sizeof(*s));

	if (!s) {
		err_set(e, -ENOMEM, "no memory for the NBD server");
		return NULL;
	}
	s->loop = l;
	s->reap = (struct loop_timer){ .fn = server_reap, .arg = s };
	return s;
}

struct nbd_exp *nbd_find_export(struct nbd_server *s, const uint8_t *name, size_t len)
{
	for (struct nbd_exp *x = s->exports; x; x = x->next)
		if (strlen(x->name) == len && !memcmp(x->name, name, len))
			return x;
	return NULL;
}

int nbd_server_export(struct nbd_server *s, const struct nbd_export *x, struct err *e)
{
	const char *description = x->description ? x->description : "";
	struct nbd_exp *new, **at = &s->exports;

	if (strlen(x->name) > NBD_MAX_STRING || strlen(description) > NBD_MAX_STRING)
		return err_set(e, -EINVAL, "an export's name and description have %d bytes at the most", NBD_MAX_STRING);
	if (nbd_find_export(s, (const uint8_t *)x->name, strlen(x->name)))
		return err_set(e, -EEXIST, "there is an export '%.200s' already", x->name);
	if (s->n_exports == NBD_MAX_EXPORTS)
		return err_set(e, -ENOSPC, "there are %d exports already, which is the most", NBD_MAX_EXPORTS);
	new = calloc(1, sizeof(*new));
	if (new) {
		new->name = strdup(x->name);
		new->description = strdup(description);
	}
	if (!new || !new->name || !new->description) {
		if (new)
			export_free(new);
		return err_set(e, -ENOMEM, "no memory for the export '%.200s'", x->name);
	}
	new->blk = x->blk;
	new->readonly = x->readonly || x->blk->readonly;
	new->max_conns = x->max_conns;
	while (*at)
		at = &(*at)->next;
	*at = new;
	s->n_exports++;
	return 0;
}

int nbd_server_unexport(struct nbd_server *s, const char *name)
{
	struct nbd_exp *x = nbd_find_export(s, (const uint8_t *)name, strlen(name));

	if (!x)
		return -ENOENT;
	for (struct nbd_exp **at = &s->exports; *at; at = &(*at)->next) {
		if (*at != x)
			continue;
		*at = x->next;
		break;
	}
	s->n_exports--;
	x->gone = true;
	for (struct nbd_conn *c = s->conns; c; c = c->next)
		if (c->exp == x)
			nbd_conn_close(c);
	if (!x->conns)
		export_free(x);
	return 0;
}

bool nbd_server_in_use(const struct nbd_server *s, const struct blk *b)
{
	for (const struct nbd_conn *c = s->conns; c; c = c->next)
		if (c->n_device && c->exp->blk == b)
			return true;
	return false;
}

int nbd_server_listen(struct nbd_server *s, const struct nbd_listen *where, struct err *e)
{
	struct nbd_listener *n = calloc(1, sizeof(*n));
	int rc = 0;

	if (!n)
		return err_set(e, -ENOMEM, "no memory for a listener");
	n->s = s;
	n->id = ++s->last_id;
	n->watch.fd = -1;
	if (where->tls_dir || where->psk_file) {
		struct tls_cfg cfg = { .role = TLS_SERVER, .dir = where->tls_dir, .psk_file = where->psk_file };

		n->tls = tls_new(&cfg, e);
		rc = n->tls ? 0 : e ? e->code : -EINVAL;
	}
	if (!rc)
		rc = nbd_listen_open(n, where, e);
	if (rc) {
		listener_free(n);
		return rc;
	}
	n->next = s->listeners;
	s->listeners = n;
	return n->id;
}

static struct nbd_listener *listener_of(struct nbd_server *s, int id)
{
	for (struct nbd_listener *n = s->listeners; n; n = n->next)
		if (n->id == id && n->watch.fd >= 0)
			return n;
	return NULL;
}

int nbd_server_unlisten(struct nbd_server *s, int id)
{
	struct nbd_listener *n = listener_of(s, id);

	if (!n)
		return -ENOENT;
	nbd_listen_close(n);
	for (struct nbd_conn *c = s->conns; c; c = c->next)
		if (c->listener == n)
			nbd_conn_close(c);
	loop_timer_set(s->loop, &s->reap, loop_now(s->loop));
	return 0;
}

uint16_t nbd_server_port(struct nbd_server *s, int id)
{
	struct nbd_listener *n = listener_of(s, id);

	return n ? n->port : 0;
}

int nbd_server_adopt(struct nbd_server *s, int fd)
{
	return nbd_conn_new(s, NULL, fd);
}

void nbd_server_stats(struct nbd_server *s, struct nbd_stats *out)
{
	*out = s->stats;
}

void nbd_server_free(struct nbd_server *s)
{
	if (!s)
		return;
	for (struct nbd_listener *n = s->listeners; n; n = n->next)
		nbd_listen_close(n);
	for (struct nbd_conn *c = s->conns, *next; c; c = next) {
		next = c->next;
		nbd_conn_die(c);
		nbd_conn_free(c);
	}
	loop_timer_del(s->loop, &s->reap);
	for (struct nbd_listener *n = s->listeners, *next; n; n = next) {
		next = n->next;
		listener_free(n);
	}
	for (struct nbd_exp *x = s->exports, *next; x; x = next) {
		next = x->next;
		export_free(x);
	}
	free(s);
}
