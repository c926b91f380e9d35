/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Fragmented output of the guest: theory of operation (RFC 791, 815, 8200 section 4.5, 5722)
 *
 * Pieces are collected until their datagram is complete; then all of them together are one held datagram, which is
 * compared by what it carries and leaves in the pieces that the PVM made (datagram.c). A TCP segment in pieces becomes
 * whole segments that fit into a frame, so that it can be translated, clamped and let out by bytes as any other; that
 * is done where the guest is, on the secondary too.
 *
 * A guest sends the pieces of a datagram in one go. So an incomplete one of the PVM waits for other_delay only; then,
 * or when pieces overlap (RFC 5722: then the datagram is void), or when there are more than n_reasm incomplete ones,
 * its pieces become frames that are not compared: they leave with the checkpoint that they ask for. Incomplete ones of
 * the SVM are thrown away, at the barrier at the latest; their PVM's counterpart then waits for a checkpoint.
 *
 * Fragments from outside are not put together: both copies get them as they are, and only the first one has a header
 * that can be translated (rewrite.c). Pure; belongs to one struct net.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/net_internal.h"

#define FRAG_MAX	65536	/* bytes of a datagram */

int frag_init(struct net *net)
{
	for (int i = 0; i < SIDES; i++) {
		net->reasm[i] = calloc(net->cfg.n_reasm, sizeof(*net->reasm[i]));
		if (!net->reasm[i])
			return -ENOMEM;
	}
	net->scratch = malloc(FRAG_MAX);
	return net->scratch ? 0 : -ENOMEM;
}

void frag_free(struct net *net)
{
	for (int i = 0; i < SIDES; i++)
		free(net->reasm[i]);
	free(net->scratch);
}

void frag_reset(struct net *net)
{
	for (int side = 0; side < SIDES; side++) {
		for (uint32_t i = 0; i < net->cfg.n_reasm; i++)
			net->reasm[side][i].head = FRAME_NONE;
		net->n_reasm[side] = 0;
	}
}

static void count(struct net *net, enum net_side side, int frames, int bytes)
{
	if (side == SIDE_LOC) {
		net->n_held += (uint32_t)frames;
		net->n_bytes += (uint32_t)bytes;
	} else {
		net->n_held_rem += (uint32_t)frames;
		net->n_bytes_rem += (uint32_t)bytes;
	}
}

static void forget(struct net *net, enum net_side side, struct reasm *r)
{
	r->head = FRAME_NONE;
	net->n_reasm[side]--;
	count(net, side, -(int)r->n, -(int)r->bytes);
}

/* The PVM's pieces leave uncompared with a checkpoint, the SVM's are nothing. */
static void give_up(struct net *net, enum net_side side, struct reasm *r)
{
	uint32_t h = r->head;

	net->st.reasm_dropped++;
	forget(net, side, r);
	if (side == SIDE_REM || net->role == NET_SECONDARY) {
		frame_free_chain(&net->fp, h);
		return;
	}
	while (h != FRAME_NONE) {
		uint32_t next = net->fp.meta[h].piece;

		net->fp.meta[h].piece = FRAME_NONE;
		if (net->role == NET_PRIMARY && net->holding)
			hold_other(net, h);
		else
			release_emit(net, net->fp.meta[h].nic, h);
		h = next;
	}
}

static struct reasm *find(struct net *net, enum net_side side, const struct flow_key *key, uint32_t id)
{
	struct reasm *unused = NULL, *oldest = NULL;

	for (uint32_t i = 0; i < net->cfg.n_reasm; i++) {
		struct reasm *r = &net->reasm[side][i];

		if (r->head == FRAME_NONE)
			unused = r;
		else if (r->id == id && !memcmp(&r->key, key, sizeof(*key)))
			return r;
		else if (!oldest || r->since < oldest->since)
			oldest = r;
	}
	if (!unused) {
		net->st.limit_reasm++;
		give_up(net, side, oldest);
		unused = oldest;
	}
	unused->key = *key;
	unused->id = id;
	unused->have = unused->total = unused->n = unused->bytes = 0;
	unused->since = net->now;
	net->n_reasm[side]++;
	return unused;
}

/* Put a piece into its place. Return: -EEXIST for the same once more, -EINVAL when pieces overlap or contradict */
static int insert(struct net *net, struct reasm *r, uint32_t frame, const struct packet *p)
{
	struct frame_meta *m = net->fp.meta;
	uint32_t *link = &r->head, end = p->frag_off + p->len;

	for (; *link != FRAME_NONE && m[*link].seq < end; link = &m[*link].piece) {
		if (m[*link].seq == p->frag_off && m[*link].end == end)
			return -EEXIST;
		if (m[*link].end > p->frag_off)
			return -EINVAL;
	}
	if ((r->total && end > r->total) || (!p->frag_more && (r->total || *link != FRAME_NONE)))
		return -EINVAL;
	if (!p->frag_more)
		r->total = end;
	m[frame].seq = p->frag_off;
	m[frame].end = end;
	m[frame].piece = *link;
	*link = frame;
	r->have += p->len;
	return 0;
}

static void counts(struct net *net, enum net_side side, struct reasm *r, uint32_t frame)
{
	uint32_t len = net->fp.meta[frame].len;

	r->n++;
	r->bytes += len;
	count(net, side, 1, (int)len);
}

uint32_t frag_take(struct net *net, enum net_side side, uint32_t frame, uint8_t nic, const struct packet *p)
{
	struct flow_key key;
	struct reasm *r;
	uint32_t h;
	int rc;

	if (!hold_piece(net, side)) {
		frame_free(&net->fp, frame);
		return FRAME_NONE;
	}
	packet_key(p, nic, true, &key);
	r = find(net, side, &key, p->frag_id);
	if (r->head == FRAME_NONE)
		r->epoch = net->fp.meta[frame].epoch;
	rc = insert(net, r, frame, p);
	if (rc == -EEXIST) {
		frame_free(&net->fp, frame);
		return FRAME_NONE;
	}
	if (rc) {
		/* It joins those that it does not fit, to share their fate. */
		net->fp.meta[frame].piece = r->head;
		r->head = frame;
		counts(net, side, r, frame);
		give_up(net, side, r);
		return FRAME_NONE;
	}
	counts(net, side, r, frame);
	if (!r->total || r->have != r->total)
		return FRAME_NONE;
	h = r->head;
	if (r->epoch != net->fp.meta[frame].epoch) {
		/* Begun before the barrier: the SVM will only ever say the end of it. */
		give_up(net, side, r);
		return FRAME_NONE;
	}
	forget(net, side, r);
	net->st.reassembled++;
	return h;
}

uint32_t frag_content(const struct net *net, uint32_t head)
{
	while (net->fp.meta[head].piece != FRAME_NONE)
		head = net->fp.meta[head].piece;
	return net->fp.meta[head].end;
}

/* One segment of what is in scratch: IP header without options, TCP header and @n bytes from @at on. */
static bool make_segment(struct net *net, const struct packet *first, uint32_t doff, uint32_t at, uint32_t n, bool last,
			 uint32_t *frame, struct packet *p)
{
	uint8_t head[PACKET_HEAD_MAX], *d;
	uint32_t head_len = packet_head(first, head);

	*frame = frame_alloc(&net->fp, false);
	if (*frame == FRAME_NONE) {
		net->st.drop_pool++;
		return false;
	}
	d = net_data(net, *frame);
	memcpy(d, head, head_len);
	if (first->family == 4) {
		/* Whole now: no offset, no more pieces. */
		d[first->l3 + 6] = d[first->l3 + 7] = 0;
		d[first->l3 + 2] = (uint8_t)((20 + doff + n) >> 8);
		d[first->l3 + 3] = (uint8_t)(20 + doff + n);
	} else {
		d[first->l3 + 4] = (uint8_t)((doff + n) >> 8);
		d[first->l3 + 5] = (uint8_t)(doff + n);
	}
	memcpy(d + head_len, net->scratch, doff);
	memcpy(d + head_len + doff, net->scratch + doff + at, n);
	packet_parse(d, head_len + doff + n, p);
	if (p->kind != PK_TCP) {
		frame_free(&net->fp, *frame);
		return false;
	}
	if (at) {
		p->seq += at + !!(p->flags & TCP_SYN);
		p->flags &= (uint8_t)~TCP_SYN;
		if (p->flags & TCP_URG && p->urg > at)
			p->urg = (uint16_t)(p->urg - at);
		else
			p->flags &= (uint8_t)~TCP_URG;
	}
	if (!last)
		p->flags &= (uint8_t)~(TCP_FIN | TCP_PSH);
	packet_finish_tcp(p);
	net->fp.meta[*frame].len = p->frame_len;
	return true;
}

void frag_tcp(struct net *net, uint32_t head, void (*fn)(struct net *net, uint32_t frame, uint8_t nic, struct packet *p))
{
	struct frame_meta m = net->fp.meta[head];
	uint32_t total = 0, doff, room, frame;
	struct packet first, p;

	packet_parse(net_data(net, head), m.len, &first);
	for (uint32_t h = head; h != FRAME_NONE; h = net->fp.meta[h].piece) {
		packet_parse(net_data(net, h), net->fp.meta[h].len, &p);
		memcpy(net->scratch + p.frag_off, p.data + p.l4, p.len);
		total = p.frag_off + p.len;
	}
	doff = total < 20 ? 0 : (uint32_t)(net->scratch[12] >> 4) * 4;
	room = net->cfg.mtu[m.nic] - (first.family == 4 ? 20 : 40) - doff;
	if (doff < 20 || doff > total || room > net->cfg.frame_size) {
		/* Not TCP at all, or a frame too small for its headers: as it stands, with a checkpoint. */
		if (net->role == NET_SECONDARY)
			svm_pieces(net, head);
		else if (net->role == NET_PRIMARY && net->holding)
			datagram_pvm(net, head, m.nic, &first);
		else
			datagram_emit(net, head);
		return;
	}
	total -= doff;
	for (uint32_t at = 0; at < total || !at; at += room) {
		uint32_t n = total - at < room ? total - at : room;

		if (!make_segment(net, &first, doff, at, n, at + n == total, &frame, &p))
			break;
		net->fp.meta[frame].nic = m.nic;
		net->fp.meta[frame].epoch = m.epoch;
		fn(net, frame, m.nic, &p);
	}
	frame_free_chain(&net->fp, head);
}

void frag_staged(struct net *net, uint64_t n)
{
	for (uint32_t i = 0; i < net->cfg.n_reasm && net->n_reasm[SIDE_LOC]; i++) {
		struct reasm *r = &net->reasm[SIDE_LOC][i];
		uint32_t h = r->head;

		if (h == FRAME_NONE || r->epoch > n)
			continue;
		forget(net, SIDE_LOC, r);
		net->st.released_staged++;
		while (h != FRAME_NONE) {
			uint32_t next = net->fp.meta[h].piece;

			net->fp.meta[h].piece = FRAME_NONE;
			/* What the guest has sent of it since the barrier is in no state yet. */
			if (net->fp.meta[h].epoch <= n)
				release_emit(net, net->fp.meta[h].nic, h);
			else
				hold_other(net, h);
			h = next;
		}
	}
}

void frag_clear(struct net *net, enum net_side side)
{
	for (uint32_t i = 0; i < net->cfg.n_reasm && net->n_reasm[side]; i++) {
		struct reasm *r = &net->reasm[side][i];
		uint32_t h = r->head;

		if (h == FRAME_NONE)
			continue;
		forget(net, side, r);
		frame_free_chain(&net->fp, h);
	}
}

nstime frag_deadline(const struct net *net)
{
	nstime at = NS_NEVER;

	for (uint32_t i = 0; i < net->cfg.n_reasm && net->n_reasm[SIDE_LOC]; i++) {
		const struct reasm *r = &net->reasm[SIDE_LOC][i];

		if (r->head != FRAME_NONE && r->since + net->cfg.other_delay < at)
			at = r->since + net->cfg.other_delay;
	}
	return at;
}

void frag_timers(struct net *net)
{
	for (uint32_t i = 0; i < net->cfg.n_reasm && net->n_reasm[SIDE_LOC]; i++) {
		struct reasm *r = &net->reasm[SIDE_LOC][i];

		if (r->head != FRAME_NONE && net->now >= r->since + net->cfg.other_delay)
			give_up(net, SIDE_LOC, r);
	}
}
