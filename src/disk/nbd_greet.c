/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The NBD server's side of the fixed newstyle negotiation.
 *
 * An option is looked at when all of it is there: first its whole body is read through a cursor, then it is decided,
 * then it is answered. What is wrong with it is said in a sentence, which clients show. Where TLS is configured nothing
 * but STARTTLS and ABORT is answered before it, and what has been sent behind STARTTLS in the clear ends the connection:
 * it would else be taken for something that was said under TLS.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "disk/nbd_internal.h"

#define META_ID		1u	/* of base:allocation, the only context */

/* A segment of its own with room for @n bytes; NULL: no memory, and the connection is gone. */
static struct nbd_seg *seg_new(struct nbd_conn *c, size_t n, struct wcursor *w)
{
	struct nbd_seg *g = calloc(1, sizeof(*g) + n);

	if (!g) {
		nbd_conn_die(c);
		return NULL;
	}
	g->heap = true;
	g->p = (uint8_t *)(g + 1);
	g->len = n;
	*w = wcursor_of(g + 1, n);
	return g;
}

static void answer(struct nbd_conn *c, uint32_t type, const void *data, size_t n)
{
	struct wcursor w;
	struct nbd_seg *g;

	if (c->st == NBD_ST_DEAD)
		return;
	g = seg_new(c, NBD_OPTION_REPLY_LEN + n, &w);
	if (!g)
		return;
	wcursor_u64(&w, NBD_REP_MAGIC);
	wcursor_u32(&w, c->opt);
	wcursor_u32(&w, type);
	wcursor_u32(&w, (uint32_t)n);
	wcursor_bytes(&w, data, n);
	nbd_conn_send(c, g);
}

static void refuse(struct nbd_conn *c, uint32_t type, const char *sentence)
{
	answer(c, type, sentence, strlen(sentence));
}

static void ack(struct nbd_conn *c)
{
	answer(c, NBD_REP_ACK, NULL, 0);
}

static uint16_t transmission_flags(const struct nbd_conn *c)
{
	uint32_t flags = NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_CAN_MULTI_CONN | NBD_FLAG_SEND_CACHE;

	if (c->exp->readonly)
		flags |= NBD_FLAG_READ_ONLY;
	else
		flags |= NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_SEND_FAST_ZERO;
	if (c->structured)
		flags |= NBD_FLAG_SEND_DF;
	return (uint16_t)flags;
}

/* The export @x becomes the connection's; @why: of the refusal. */
static bool enter(struct nbd_conn *c, struct nbd_exp *x, const char **why)
{
	if (x->max_conns && x->conns >= x->max_conns) {
		*why = "the export has as many connections as it may have";
		return false;
	}
	c->exp = x;
	x->conns++;
	/* Contexts are chosen for one export. */
	if (c->meta_name && strcmp(c->meta_name, x->name))
		c->allocation = false;
	return true;
}

static void begin_transmission(struct nbd_conn *c)
{
	if (nbd_transmission(c))
		nbd_conn_die(c);
}

static void opt_export_name(struct nbd_conn *c, struct cursor *cur)
{
	size_t n = cur->left;
	struct nbd_exp *x = nbd_find_export(c->s, cursor_get(cur, n), n);
	const char *why;
	bool zeroes = !(c->client_flags & NBD_FLAG_NO_ZEROES);
	struct nbd_seg *g;
	struct wcursor w;

	/* This option has no reply that says no. */
	if (!x || !enter(c, x, &why)) {
		c->s->stats.refused++;
		nbd_conn_die(c);
		return;
	}
	g = seg_new(c, NBD_EXPORT_REPLY_LEN + (zeroes ? NBD_EXPORT_ZEROES : 0), &w);
	if (!g)
		return;
	wcursor_u64(&w, x->blk->size);
	wcursor_u16(&w, transmission_flags(c));
	nbd_conn_send(c, g);
	begin_transmission(c);
}

static void opt_list(struct nbd_conn *c)
{
	for (struct nbd_exp *x = c->s->exports; x; x = x->next) {
		uint8_t entry[4 + 2 * NBD_MAX_STRING];
		struct wcursor w = wcursor_of(entry, sizeof(entry));

		wcursor_u32(&w, (uint32_t)strlen(x->name));
		wcursor_bytes(&w, x->name, strlen(x->name));
		wcursor_bytes(&w, x->description, strlen(x->description));
		answer(c, NBD_REP_SERVER, entry, w.done);
	}
	ack(c);
}

static void info_export(struct nbd_conn *c)
{
	uint8_t b[12];
	struct wcursor w = wcursor_of(b, sizeof(b));

	wcursor_u16(&w, NBD_INFO_EXPORT);
	wcursor_u64(&w, c->exp->blk->size);
	wcursor_u16(&w, transmission_flags(c));
	answer(c, NBD_REP_INFO, b, w.done);
}

static void info_text(struct nbd_conn *c, uint16_t kind, const char *text)
{
	uint8_t b[2 + NBD_MAX_STRING];
	struct wcursor w = wcursor_of(b, sizeof(b));

	wcursor_u16(&w, kind);
	wcursor_bytes(&w, text, strlen(text));
	answer(c, NBD_REP_INFO, b, w.done);
}

static void info_block_size(struct nbd_conn *c)
{
	uint32_t pref = c->exp->blk->pref;
	uint8_t b[14];
	struct wcursor w = wcursor_of(b, sizeof(b));

	/* The document wants a power of two from 512 to 32 MiB. */
	if (pref < 512 || pref > NBD_MAX_PAYLOAD || (pref & (pref - 1)))
		pref = 4096;
	wcursor_u16(&w, NBD_INFO_BLOCK_SIZE);
	wcursor_u32(&w, 1);
	wcursor_u32(&w, pref);
	wcursor_u32(&w, NBD_MAX_PAYLOAD);
	answer(c, NBD_REP_INFO, b, w.done);
}

/*
 * named() - the export that an option is about, when all of the option was read
 * @name: @len bytes of it; NULL: too long
 *
 * Return: NULL: the client was told why there is none
 */
static struct nbd_exp *named(struct nbd_conn *c, const struct cursor *cur, const uint8_t *name, uint32_t len)
{
	struct nbd_exp *x;

	if (!name || cur->bad || cur->left) {
		refuse(c, NBD_REP_ERR_INVALID, "the lengths inside the option do not fit its length");
		return NULL;
	}
	x = nbd_find_export(c->s, name, len);
	if (!x)
		refuse(c, NBD_REP_ERR_UNKNOWN, "there is no export of this name");
	return x;
}

/* INFO and GO. */
static void opt_info(struct nbd_conn *c, struct cursor *cur)
{
	uint32_t name_len = cursor_u32(cur);
	const uint8_t *name = name_len <= NBD_MAX_STRING ? cursor_get(cur, name_len) : NULL;
	uint16_t n = cursor_u16(cur);
	bool text = false, description = false, size = false;
	const char *why = NULL;
	struct nbd_exp *x;

	for (uint16_t i = 0; i < n && !cur->bad; i++) {
		uint16_t kind = cursor_u16(cur);

		text |= kind == NBD_INFO_NAME;
		description |= kind == NBD_INFO_DESCRIPTION;
		size |= kind == NBD_INFO_BLOCK_SIZE;
	}
	x = named(c, cur, name, name_len);
	if (!x)
		return;
	if (!enter(c, x, &why)) {
		refuse(c, NBD_REP_ERR_POLICY, why);
		return;
	}
	info_export(c);
	if (text)
		info_text(c, NBD_INFO_NAME, x->name);
	if (description && *x->description)
		info_text(c, NBD_INFO_DESCRIPTION, x->description);
	if (size)
		info_block_size(c);
	ack(c);
	if (c->st == NBD_ST_DEAD)
		return;
	if (c->opt == NBD_OPT_GO) {
		begin_transmission(c);
		return;
	}
	nbd_export_leave(x);
	c->exp = NULL;
}

/* Whether a query asks for base:allocation. A namespace alone lists what is in it, and chooses nothing. */
static bool query_matches(const struct nbd_conn *c, const uint8_t *q, size_t n)
{
	if (n == strlen(NBD_BASE_ALLOCATION) && !memcmp(q, NBD_BASE_ALLOCATION, n))
		return true;
	return c->opt == NBD_OPT_LIST_META_CONTEXT && n == strlen("base:") && !memcmp(q, "base:", n);
}

static void opt_meta(struct nbd_conn *c, struct cursor *cur)
{
	uint32_t name_len = cursor_u32(cur);
	const uint8_t *name = name_len <= NBD_MAX_STRING ? cursor_get(cur, name_len) : NULL;
	uint32_t n = cursor_u32(cur);
	bool set = c->opt == NBD_OPT_SET_META_CONTEXT, match = !n && !set;
	uint8_t b[4 + sizeof(NBD_BASE_ALLOCATION) - 1];
	struct wcursor w = wcursor_of(b, sizeof(b));
	struct nbd_exp *x;

	if (set) {
		/* Whatever comes of it, what was chosen before does not count any more. */
		c->allocation = false;
		free(c->meta_name);
		c->meta_name = NULL;
		if (!c->structured) {
			refuse(c, NBD_REP_ERR_INVALID, "contexts need structured replies, which were not negotiated");
			return;
		}
	}
	for (uint32_t i = 0; i < n && !cur->bad; i++) {
		uint32_t len = cursor_u32(cur);
		const uint8_t *q = cursor_get(cur, len);

		match |= q && query_matches(c, q, len);
	}
	x = named(c, cur, name, name_len);
	if (!x)
		return;
	if (set) {
		c->meta_name = strdup(x->name);
		c->allocation = match && c->meta_name;
	}
	if (match) {
		wcursor_u32(&w, set ? META_ID : 0);
		wcursor_bytes(&w, NBD_BASE_ALLOCATION, strlen(NBD_BASE_ALLOCATION));
		answer(c, NBD_REP_META_CONTEXT, b, w.done);
	}
	ack(c);
}

static void opt_starttls(struct nbd_conn *c)
{
	if (c->in_tls) {
		refuse(c, NBD_REP_ERR_INVALID, "TLS has been negotiated already");
		return;
	}
	if (!c->listener || !c->listener->tls) {
		refuse(c, NBD_REP_ERR_POLICY, "TLS is not configured here");
		return;
	}
	c->tls = c->in_at == c->in_end ? tls_begin(c->listener->tls, c->watch.fd, true, NULL) : NULL;
	if (!c->tls) {
		nbd_conn_die(c);
		return;
	}
	ack(c);
	if (c->st != NBD_ST_DEAD)
		c->st = NBD_ST_TLS;
}

static void option(struct nbd_conn *c, struct cursor cur)
{
	bool tls_wanted = c->listener && c->listener->tls && !c->in_tls;

	c->st = NBD_ST_OPTION;
	if (c->opt == NBD_OPT_ABORT) {
		ack(c);
		nbd_conn_close(c);
		return;
	}
	if (c->opt == NBD_OPT_EXPORT_NAME && tls_wanted) {
		c->s->stats.refused++;
		nbd_conn_die(c);
		return;
	}
	if (tls_wanted && c->opt != NBD_OPT_STARTTLS) {
		refuse(c, NBD_REP_ERR_TLS_REQD, "this server wants TLS first");
		return;
	}
	if (cur.left && (c->opt == NBD_OPT_LIST || c->opt == NBD_OPT_STARTTLS || c->opt == NBD_OPT_STRUCTURED_REPLY)) {
		refuse(c, NBD_REP_ERR_INVALID, "this option has no data");
		return;
	}
	switch (c->opt) {
	case NBD_OPT_EXPORT_NAME:
		opt_export_name(c, &cur);
		break;
	case NBD_OPT_LIST:
		opt_list(c);
		break;
	case NBD_OPT_STARTTLS:
		opt_starttls(c);
		break;
	case NBD_OPT_INFO:
	case NBD_OPT_GO:
		opt_info(c, &cur);
		break;
	case NBD_OPT_STRUCTURED_REPLY:
		c->structured = true;
		ack(c);
		break;
	case NBD_OPT_LIST_META_CONTEXT:
	case NBD_OPT_SET_META_CONTEXT:
		opt_meta(c, &cur);
		break;
	default:
		refuse(c, NBD_REP_ERR_UNSUP, "this option is not known");
	}
}

static bool option_head(struct nbd_conn *c)
{
	struct cursor cur;

	if (!nbd_conn_take(c, NBD_OPTION_LEN, &cur))
		return false;
	if (cursor_u64(&cur) != NBD_OPTION_MAGIC) {
		nbd_conn_die(c);
		return false;
	}
	c->opt = cursor_u32(&cur);
	c->opt_len = cursor_u32(&cur);
	c->got = 0;
	/* A client that does not speak the fixed newstyle understands no reply but that of EXPORT_NAME. */
	if (c->opt_len > NBD_MAX_SKIP || (!(c->client_flags & NBD_FLAG_FIXED_NEWSTYLE) && c->opt != NBD_OPT_EXPORT_NAME)) {
		nbd_conn_die(c);
		return false;
	}
	c->st = c->opt_len > NBD_MAX_OPTION ? NBD_ST_OPTION_SKIP : NBD_ST_OPTION_BODY;
	return true;
}

static bool option_skip(struct nbd_conn *c)
{
	size_t n = c->in_end - c->in_at;

	if (n > c->opt_len - c->got)
		n = c->opt_len - c->got;
	c->in_at += n;
	c->got += n;
	if (c->got < c->opt_len)
		return false;
	c->st = NBD_ST_OPTION;
	if (c->opt == NBD_OPT_EXPORT_NAME)
		nbd_conn_die(c);
	else
		refuse(c, NBD_REP_ERR_TOO_BIG, "the option is too large");
	return true;
}

bool nbd_greet_step(struct nbd_conn *c)
{
	struct cursor cur;

	if (c->out_bytes > NBD_MAX_OUT)
		return false;
	switch (c->st) {
	case NBD_ST_FLAGS:
		if (!nbd_conn_take(c, NBD_CLIENT_FLAGS_LEN, &cur))
			return false;
		c->client_flags = cursor_u32(&cur);
		c->st = NBD_ST_OPTION;
		if (c->client_flags & ~(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES))
			nbd_conn_die(c);
		return true;
	case NBD_ST_OPTION:
		return option_head(c);
	case NBD_ST_OPTION_BODY:
		if (!nbd_conn_take(c, c->opt_len, &cur))
			return false;
		option(c, cur);
		return true;
	case NBD_ST_OPTION_SKIP:
		return option_skip(c);
	default:
		return false;
	}
}

void nbd_greet(struct nbd_conn *c)
{
	struct wcursor w;
	struct nbd_seg *g = seg_new(c, NBD_GREETING_LEN, &w);

	if (!g)
		return;
	wcursor_u64(&w, NBD_MAGIC);
	wcursor_u64(&w, NBD_OPTION_MAGIC);
	wcursor_u16(&w, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
	nbd_conn_send(c, g);
}
