/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * pcapng blocks. Each is: type, length of the whole, body, padded to four bytes, the length once more. Options behind
 * the fixed part of a body are: code, length, value, padded likewise; code 0 ends them.
 */
#include "base/pcapng.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "base/cursor.h"

#define MAGIC		0x1a2b3c4du
#define ETHERNET	1
#define BLOCK_FRAME	12	/* type and the two lengths */
#define PACKET_HEAD	20
#define STATS_HEAD	12

enum {
	OPT_END = 0,
	OPT_SHB_APP = 4,
	OPT_IF_NAME = 2, OPT_IF_TSRESOL = 9,
	OPT_EPB_FLAGS = 2,
	OPT_ISB_SEEN = 4, OPT_ISB_DROPPED = 5,
};

static void put_le(struct wcursor *w, uint64_t v, size_t n)
{
	uint8_t *p = wcursor_put(w, n);

	for (size_t i = 0; p && i < n; i++)
		p[i] = (uint8_t)(v >> (8 * i));
}

static uint64_t get_le(struct cursor *c, size_t n)
{
	const uint8_t *p = cursor_get(c, n);
	uint64_t v = 0;

	for (size_t i = 0; p && i < n; i++)
		v |= (uint64_t)p[i] << (8 * i);
	return v;
}

static size_t padding(size_t n)
{
	return -n & 3;
}

static void put_padded(struct wcursor *w, const void *data, size_t n)
{
	wcursor_bytes(w, data, n);
	put_le(w, 0, padding(n));
}

static void put_option(struct wcursor *w, uint16_t code, const void *value, size_t n)
{
	put_le(w, code, 2);
	put_le(w, n, 2);
	put_padded(w, value, n);
}

static void put_option_number(struct wcursor *w, uint16_t code, uint64_t v, size_t n)
{
	put_le(w, code, 2);
	put_le(w, n, 2);
	put_le(w, v, n);
	put_le(w, 0, padding(n));
}

/* Begin a block; its length is filled in by block_end(). */
static struct wcursor block_begin(uint8_t *out, size_t cap, enum pcapng_type type)
{
	struct wcursor w = wcursor_of(out, cap);

	put_le(&w, type, 4);
	put_le(&w, 0, 4);
	return w;
}

static size_t block_end(struct wcursor *w, uint8_t *out)
{
	struct wcursor head;
	size_t size = w->done + 4;

	put_le(w, size, 4);
	if (w->bad)
		return 0;
	head = wcursor_of(out + 4, 4);
	put_le(&head, size, 4);
	return size;
}

static size_t name_len(const char *name)
{
	return strnlen(name, PCAPNG_MAX_NAME);
}

size_t pcapng_put_section(uint8_t *out, size_t cap, const char *app)
{
	struct wcursor w = block_begin(out, cap, PCAPNG_SECTION);

	put_le(&w, MAGIC, 4);
	put_le(&w, 1, 2);		/* version 1.0 */
	put_le(&w, 0, 2);
	put_le(&w, UINT64_MAX, 8);	/* length of the section: not known beforehand */
	put_option(&w, OPT_SHB_APP, app, name_len(app));
	put_option(&w, OPT_END, NULL, 0);
	return block_end(&w, out);
}

size_t pcapng_put_interface(uint8_t *out, size_t cap, const char *name, uint32_t snaplen)
{
	struct wcursor w = block_begin(out, cap, PCAPNG_INTERFACE);

	put_le(&w, ETHERNET, 2);
	put_le(&w, 0, 2);
	put_le(&w, snaplen, 4);
	put_option(&w, OPT_IF_NAME, name, name_len(name));
	put_option_number(&w, OPT_IF_TSRESOL, 9, 1);
	put_option(&w, OPT_END, NULL, 0);
	return block_end(&w, out);
}

size_t pcapng_packet_size(uint32_t caplen)
{
	/* The frame, its flags, the end of the options. */
	return BLOCK_FRAME + PACKET_HEAD + caplen + padding(caplen) + 8 + 4;
}

size_t pcapng_put_packet(uint8_t *out, size_t cap, const struct pcapng_packet *p)
{
	struct wcursor w = block_begin(out, cap, PCAPNG_PACKET);

	put_le(&w, p->iface, 4);
	put_le(&w, p->at >> 32, 4);	/* the upper half comes first whatever the byte order */
	put_le(&w, p->at, 4);
	put_le(&w, p->caplen, 4);
	put_le(&w, p->len, 4);
	put_padded(&w, p->data, p->caplen);
	put_option_number(&w, OPT_EPB_FLAGS, p->dir, 4);
	put_option(&w, OPT_END, NULL, 0);
	return block_end(&w, out);
}

size_t pcapng_put_stats(uint8_t *out, size_t cap, uint32_t iface, uint64_t at, uint64_t seen, uint64_t dropped)
{
	struct wcursor w = block_begin(out, cap, PCAPNG_STATS);

	put_le(&w, iface, 4);
	put_le(&w, at >> 32, 4);
	put_le(&w, at, 4);
	put_option_number(&w, OPT_ISB_SEEN, seen, 8);
	put_option_number(&w, OPT_ISB_DROPPED, dropped, 8);
	put_option(&w, OPT_END, NULL, 0);
	return block_end(&w, out);
}

static void get_stats(struct cursor *c, struct pcapng_block *b)
{
	while (c->left >= 4) {
		uint16_t code = (uint16_t)get_le(c, 2), n = (uint16_t)get_le(c, 2);
		struct cursor v = cursor_of(cursor_get(c, n), n);

		if (c->bad || code == OPT_END)
			return;
		if (code == OPT_ISB_SEEN && n == 8)
			b->seen = get_le(&v, 8);
		else if (code == OPT_ISB_DROPPED && n == 8)
			b->dropped = get_le(&v, 8);
		cursor_get(c, padding(n));
	}
}

long pcapng_next(const uint8_t *p, size_t len, struct pcapng_block *b)
{
	struct cursor c = cursor_of(p, len), end;

	memset(b, 0, sizeof(*b));
	if (len < 8)
		return 0;
	b->type = (uint32_t)get_le(&c, 4);
	b->size = (uint32_t)get_le(&c, 4);
	if (b->size < BLOCK_FRAME || b->size > PCAPNG_MAX_BLOCK || b->size % 4)
		return -EPROTO;
	if (b->size > len)
		return 0;
	end = cursor_of(p + b->size - 4, 4);
	if (get_le(&end, 4) != b->size)
		return -EPROTO;
	c = cursor_of(p + 8, b->size - BLOCK_FRAME);
	if (b->type == PCAPNG_SECTION && get_le(&c, 4) != MAGIC)
		return -EPROTO;
	if (b->type == PCAPNG_PACKET || b->type == PCAPNG_STATS)
		b->iface = (uint32_t)get_le(&c, 4);
	if (b->type == PCAPNG_STATS) {
		cursor_get(&c, STATS_HEAD - 4);
		get_stats(&c, b);
	}
	return c.bad ? -EPROTO : (long)b->size;
}
