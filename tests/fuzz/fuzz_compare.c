/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Fuzz target: the primary's comparer (P1). The input is a sequence of events: frames of the PVM, of the clients, and
 * whatever the peer says; checkpoints in their order; time. What was said by whom is remembered here, and each frame
 * that leaves must have been said by the PVM, and by the SVM too unless the checkpoint of its epoch is STAGED (or it
 * repeats what had left before, or a rule lets it through).
 */
#include <string.h>

#include "core/rule.h"
#include "drive.h"

#define MAX_SAID 512

struct said {
	bool svm;
	uint64_t epoch;
	struct flow_key key, loose;	/* loose: without ports, as a fragment has it */
	struct packet p;
	uint8_t frame[FUZZ_FRAME_MAX];
};

static struct said said[MAX_SAID];
static unsigned int n_said;
static uint64_t staged, first_epoch;
static struct net_msg flow_msg;		/* the last FLOW that was sent */
static struct net_msg oks[MAX_SAID];	/* every FLOW_OK */
static unsigned int n_oks;
static struct drive drive;

static bool holding(void)
{
	return net_role(drive.net) == NET_PRIMARY && net_epoch(drive.net) > first_epoch;
}

static void describe(struct said *s, const uint8_t *frame, uint32_t len, uint8_t nic)
{
	memcpy(s->frame, frame, len);
	packet_parse(s->frame, len, &s->p);
	packet_key(&s->p, nic, true, &s->key);
	s->loose = s->key;
	s->loose.guest_port = s->loose.other_port = 0;
	s->loose.datagram = 0;
}

static void say(bool svm, const uint8_t *frame, uint32_t len, uint8_t nic)
{
	struct said *s = &said[n_said++];

	describe(s, frame, len, nic);
	s->svm = svm;
	s->epoch = net_epoch(drive.net);
}

static bool same_flow(const struct said *a, const struct said *b)
{
	return !memcmp(&a->key, &b->key, sizeof(a->key)) && a->p.kind == b->p.kind;
}

/* What a segment has at the sequence number @pos: SYN, FIN, a byte, or -1 */
static int symbol(const struct packet *p, uint32_t pos)
{
	uint32_t off = pos - p->seq;

	if (p->flags & TCP_SYN && !off--)
		return 256;
	if (off < p->len)
		return p->data[p->payload + off];
	return off == p->len && p->flags & TCP_FIN ? 257 : -1;
}

static bool said_symbol(const struct said *out, bool svm, uint64_t epoch, uint32_t pos)
{
	for (unsigned int i = 0; i < n_said; i++)
		if (said[i].svm == svm && (!epoch || said[i].epoch == epoch) && same_flow(&said[i], out) &&
		    symbol(&said[i].p, pos) == symbol(&out->p, pos))
			return true;
	return false;
}

/* Whether @pos is before a position of its flow that is settled: it left, or the PVM had said it in a STAGED epoch. */
static bool settled(const struct said *out, uint32_t pos)
{
	struct net_stats st;
	bool known = false;

	net_stats_get(drive.net, &st);
	for (unsigned int i = 0; i < n_said; i++) {
		const struct said *s = &said[i];
		bool first = !known || st.flows_evicted || s->p.flags & TCP_SYN;

		if (s->svm || !same_flow(s, out) || s->p.flags & TCP_RST)
			continue;
		known = true;
		/* Where a flow begins, or where it is first met. */
		if (first && seq_lt(pos, s->p.seq))
			return true;
		if ((s->epoch <= staged || s->epoch == first_epoch) && seq_lt(pos, s->p.seq + packet_span(&s->p)))
			return true;
	}
	return false;
}

static struct {
	struct flow_key key;
	uint32_t end, ack;
	bool has_ack;
} left[MAX_SAID * 4];
static unsigned int n_left;

static bool has_left(const struct said *out, uint32_t pos)
{
	for (unsigned int i = 0; i < n_left; i++)
		if (!memcmp(&left[i].key, &out->key, sizeof(out->key)) && seq_lt(pos, left[i].end))
			return true;
	return false;
}

/* Whether the client may hear @out's acknowledgement: the SVM has acknowledged that much too, or it is in its state. */
static bool may_acknowledge(const struct said *out)
{
	for (unsigned int i = 0; i < n_said; i++)
		if (same_flow(&said[i], out) && said[i].p.flags & TCP_ACK && seq_leq(out->p.ack, said[i].p.ack) &&
		    (said[i].svm || said[i].epoch <= staged || said[i].epoch == first_epoch))
			return true;
	for (unsigned int i = 0; i < n_left; i++)
		if (!memcmp(&left[i].key, &out->key, sizeof(out->key)) && left[i].has_ack && seq_leq(out->p.ack, left[i].ack))
			return true;
	return false;
}

static bool flow_confirmed(const struct said *out)
{
	for (unsigned int i = 0; i < n_oks; i++)
		if (oks[i].isn == out->p.seq && !memcmp(&oks[i].key, &out->key, sizeof(out->key)))
			return true;
	return false;
}

/* A reset is an event at a number; text in it (RFC 9293, 3.10.7) is nobody's data. */
static bool said_reset(const struct said *out, bool svm, uint64_t epoch)
{
	for (unsigned int i = 0; i < n_said; i++)
		if (said[i].svm == svm && (!epoch || said[i].epoch == epoch) && same_flow(&said[i], out) &&
		    said[i].p.flags & TCP_RST && said[i].p.seq == out->p.seq)
			return true;
	return false;
}

/* Segments that the PVM had cut into fragments leave as other segments, which are not put together here. */
static bool said_fragments(const struct said *out)
{
	for (unsigned int i = 0; i < n_said; i++)
		if (!said[i].svm && said[i].p.kind == PK_FRAG && !memcmp(&said[i].loose, &out->loose, sizeof(out->loose)))
			return true;
	return false;
}

static void look_tcp(const struct said *out, uint64_t epoch, bool free)
{
	uint32_t span = packet_span(&out->p);

	if (said_fragments(out))
		return;
	if (out->p.flags & TCP_RST) {
		MUST(said_reset(out, false, 0) && (free || said_reset(out, true, epoch)));
		return;
	}
	for (uint32_t i = 0; i < span; i++) {
		uint32_t pos = out->p.seq + i;
		bool again = settled(out, pos) || has_left(out, pos);

		MUST(said_symbol(out, false, 0, pos));
		MUST(free || again || said_symbol(out, true, epoch, pos));
		/* A new connection only once the secondary knows its numbers. */
		MUST(free || again || i || !(out->p.flags & TCP_SYN) || flow_confirmed(out));
	}
	MUST(free || !(out->p.flags & TCP_ACK) || out->p.flags & TCP_SYN || may_acknowledge(out));
	if (n_left == sizeof(left) / sizeof(left[0]))
		return;
	left[n_left].key = out->key;
	left[n_left].has_ack = out->p.flags & TCP_ACK;
	left[n_left].ack = out->p.ack;
	left[n_left++].end = out->p.seq + span;
}

/* The checksum of a datagram follows from the rest and does not count. */
static bool in_sum(const struct packet *p, uint32_t off)
{
	bool icmp = p->proto == PROTO_ICMP || p->proto == PROTO_ICMP6;

	return (icmp && off / 2 == 1) ||
	       ((p->proto == PROTO_UDP || p->proto == PROTO_UDPLITE || p->proto == PROTO_DCCP) && off / 2 == 3);
}

static bool same_content(const struct packet *a, const struct packet *b)
{
	uint32_t from_a = a->family ? a->l4 : 12, from_b = b->family ? b->l4 : 12;
	uint32_t len = a->family ? a->len : a->frame_len - 12;

	if (!a->family && (a->frame_len < 12 || a->frame_len != b->frame_len))
		return a->frame_len == b->frame_len && !memcmp(a->data, b->data, a->frame_len);
	if (a->len != b->len)
		return false;
	for (uint32_t i = 0; i < len; i++)
		if (a->data[from_a + i] != b->data[from_b + i] && !(a->family && in_sum(a, i)))
			return false;
	return true;
}

/* Whether a copy has said the datagram, or frame that is not IP, @out in @epoch (0: any) */
static bool said_datagram(const struct said *out, bool svm, uint64_t epoch)
{
	for (unsigned int i = 0; i < n_said; i++)
		if (said[i].svm == svm && (!epoch || said[i].epoch == epoch) && same_flow(&said[i], out) &&
		    same_content(&said[i].p, &out->p))
			return true;
	return false;
}

/* The byte at @off of a datagram that @out is a piece of, said by that copy whole or in pieces of its own. */
static bool said_piece(const struct said *out, bool svm, uint64_t epoch, uint32_t off)
{
	for (unsigned int i = 0; i < n_said; i++) {
		const struct packet *p = &said[i].p;
		uint32_t from = p->kind == PK_FRAG ? p->frag_off : 0;

		if (said[i].svm == svm && (!epoch || said[i].epoch == epoch) && (p->kind == PK_FRAG || p->kind == PK_DGRAM) &&
		    !memcmp(&said[i].loose, &out->loose, sizeof(out->loose)) && off >= from && off - from < p->len &&
		    (in_sum(p, off) || p->data[p->l4 + off - from] == out->p.data[out->p.l4 + off - out->p.frag_off]))
			return true;
	}
	return false;
}

static void look(struct drive *d, const struct net_act *a)
{
	static struct said out;
	bool free;

	if (a->type == NA_MSG && a->msg.type == NM_FLOW)
		flow_msg = a->msg;
	if (a->type != NA_TAP)
		return;
	describe(&out, net_frame_data(d->net, a->frame), net_frame_len(d->net, a->frame), a->nic);
	free = !holding() || a->n <= staged || rules_match(net_rules(d->net), &out.key) == RULE_BYPASS;
	if (out.p.kind == PK_TCP) {
		look_tcp(&out, a->n, free);
	} else if (out.p.kind == PK_FRAG) {
		for (uint32_t i = 0; i < out.p.len; i++) {
			MUST(said_piece(&out, false, 0, out.p.frag_off + i));
			MUST(free || said_piece(&out, true, a->n, out.p.frag_off + i));
		}
	} else if (out.p.kind != PK_LOCAL) {
		MUST(said_datagram(&out, false, 0));
		MUST(free || said_datagram(&out, true, a->n));
	}
}

static void peer_says(struct net_msg m, const uint8_t *frame, uint32_t len)
{
	struct net_ev ev = { .type = NEV_MSG, .nic = m.nic, .frame = NET_NONE, .msg = m };

	if (m.type == NM_FLOW_OK && n_oks < MAX_SAID)
		oks[n_oks++] = m;
	if (m.type != NM_OUTPUT && m.type != NM_INPUT) {
		drive_event(&drive, ev);
		return;
	}
	/* Output of an epoch proves that the one before is STAGED. */
	if (m.type == NM_OUTPUT && holding() && m.epoch == net_epoch(drive.net)) {
		if (staged < m.epoch - 1)
			staged = m.epoch - 1;
		say(true, frame, len, m.nic);
	}
	drive_frame(&drive, ev, frame, len, false);
}

/* One step further in the checkpoint under way, or the next one begins. */
static void checkpoint(bool stage_first)
{
	struct drive *d = &drive;
	uint64_t n = d->closing;

	switch (d->stage) {
	case DRIVE_IDLE:
		d->closing = net_epoch(d->net);
		drive_event(d, (struct net_ev){ .type = NEV_CLOSE, .n = d->closing });
		d->stage = DRIVE_CLOSED;
		break;
	case DRIVE_CLOSED:
		drive_event(d, (struct net_ev){ .type = NEV_STOPPED, .n = n });
		d->stage = DRIVE_STOPPED;
		break;
	case DRIVE_STOPPED:
		d->stopped = true;
		drive_event(d, (struct net_ev){ .type = NEV_DRAINED });
		d->stage = DRIVE_DRAINED;
		break;
	case DRIVE_DRAINED:
	case DRIVE_OPENED:
		if (d->stopped && !(stage_first && d->stage == DRIVE_DRAINED)) {
			d->stopped = false;
			drive_event(d, (struct net_ev){ .type = NEV_OPEN, .n = n });
			d->stage = d->stage == DRIVE_DRAINED ? DRIVE_OPENED : DRIVE_STAGED;
			break;
		}
		staged = staged > n ? staged : n;
		drive_event(d, (struct net_ev){ .type = NEV_STAGED, .n = n });
		d->stage = d->stopped ? DRIVE_OPENED : DRIVE_STAGED;
		break;
	default:
		drive_event(d, (struct net_ev){ .type = NEV_LOADED, .n = n });
		d->stage = DRIVE_IDLE;
	}
}

static void one(struct fuzz_in *in)
{
	uint8_t op = in_u8(in), frame[FUZZ_FRAME_MAX], nic = op >> 4 & 1;
	struct net_msg m = { .nic = nic, .epoch = net_epoch(drive.net) };
	struct rules rules = { .n = 1 };
	uint32_t len;

	switch (op % 16) {
	case 0: case 1: case 2: case 3: case 4:
		/* One copy says it, or both, one after the other. */
		len = fuzz_frame(in, true, frame);
		m.type = NM_OUTPUT;
		m.epoch -= (op & 0xe0) == 0xe0;
		if (op % 16 == 1 || op % 16 == 4)
			peer_says(m, frame, len);
		if (op % 16 != 1 && !drive.stopped) {
			say(false, frame, len, nic);
			drive_frame(&drive, (struct net_ev){ .type = NEV_GUEST, .nic = nic }, frame, len, false);
		}
		if (op % 16 == 2 || op % 16 == 3)
			peer_says(m, frame, len);
		break;
	case 5: case 6:
		len = fuzz_frame(in, false, frame);
		drive_frame(&drive, (struct net_ev){ .type = NEV_TAP, .nic = nic }, frame, len, true);
		break;
	case 7:
		m.type = NM_LOGGED;
		m.seq = in_u8(in);
		m.room = in_u8(in);
		peer_says(m, NULL, 0);
		break;
	case 8: case 9:
		m = flow_msg;
		m.type = NM_FLOW_OK;
		peer_says(m, NULL, 0);
		break;
	case 10:
		drive_time(&drive, (nstime)in_u8(in) * NS_PER_MS * (op & 16 ? 100 : 1));
		break;
	case 11: case 12: case 13:
		checkpoint(op & 16);
		break;
	case 14:
		drive_event(&drive, op & 16 ? (struct net_ev){ .type = NEV_ROOM, .arg = op >> 5 & 1 } :
			    (struct net_ev){ .type = NEV_QUIET });
		if (op & 64) {
			rules.r[0] = (struct rule){ .action = op >> 5 & 3, .proto = PROTO_UDP, .nic = RULE_ANY_NIC,
						    .port = { 123, op & 128 ? 123 : 65535 } };
			rules.r[0].action %= 3;
			net_set_rules(drive.net, &rules);
		} else if (op & 128) {
			net_set_nic(drive.net, nic, &(struct net_nic_cfg){ .compare_timeout = NS_PER_MS, .max_queue_size = 2 });
		}
		break;
	default:
		drive_msg(&drive, in, &m);
		len = fuzz_frame(in, true, frame);
		peer_says(m, frame, len);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	struct fuzz_in in = { bytes, size };
	const char *faults = getenv("FUZZ_FAULTS");	/* planted ones, in a build that has them */

	drive_begin(&drive, look);
	if (faults) {
		drive.cfg.faults = (uint32_t)strtoul(faults, NULL, 0);
		net_reset(drive.net, &drive.cfg);
	}
	n_said = n_left = n_oks = 0;
	staged = 0;
	first_epoch = 1;
	memset(&flow_msg, 0, sizeof(flow_msg));
	drive_event(&drive, (struct net_ev){ .type = NEV_ROLE, .arg = NET_PRIMARY, .n = first_epoch });
	while (in.n && n_said < MAX_SAID - 2)
		one(&in);
	drive_event(&drive, (struct net_ev){ .type = NEV_ALONE });
	drive_event(&drive, (struct net_ev){ .type = NEV_OPEN, .n = drive.closing });
	drive_end(&drive);
	return 0;
}
