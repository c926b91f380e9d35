/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Fuzz target: the secondary's log and translation (P2, P6), and promotion. The input is a sequence of events: messages
 * of the primary with any content, frames of the SVM, checkpoints loaded, the gate, and at any time promotion, after
 * which the node may be the primary of another. No frame is lost, none leaves a secondary; what the guest is given has
 * right checksums where they were right; after promotion the log is empty.
 */
#include <string.h>

#include "core/rule.h"
#include "drive.h"

static struct drive drive;
static uint64_t barrier;	/* the last that arrived and is not loaded, 0: none */
static uint64_t spoiled[64];	/* marks of the segments that came with wrong checksums */
static unsigned int n_spoiled;

/* A segment's mark: what translation leaves alone. */
static uint64_t mark(const struct packet *p)
{
	uint64_t h = 0xcbf29ce484222325u ^ p->len;

	for (uint32_t i = 0; i < p->len; i++)
		h = (h ^ p->data[p->payload + i]) * 0x100000001b3u;
	for (uint32_t i = 0; i < 8; i++)
		h = (h ^ p->data[p->l4 + i]) * 0x100000001b3u;
	return h ^ p->flags;
}

static bool is_spoiled(uint64_t m)
{
	for (unsigned int i = 0; i < n_spoiled; i++)
		if (spoiled[i] == m)
			return true;
	/* What is not remembered is not looked at. */
	return n_spoiled == sizeof(spoiled) / sizeof(spoiled[0]);
}

static void input(const uint8_t *frame, uint32_t len)
{
	uint8_t copy[FUZZ_FRAME_MAX];
	struct packet p;

	memcpy(copy, frame, len);
	packet_parse(copy, len, &p);
	if (p.kind == PK_TCP && !packet_checksums_ok(&p) && !is_spoiled(mark(&p)))
		spoiled[n_spoiled++] = mark(&p);
}

static void look(struct drive *d, const struct net_act *a)
{
	struct packet p;

	if (a->type == NA_BARRIER)
		barrier = a->n;
	if (a->type == NA_TAP)
		MUST(net_role(d->net) != NET_SECONDARY);
	if (a->type != NA_GUEST)
		return;
	packet_parse(net_frame_data(d->net, a->frame), net_frame_len(d->net, a->frame), &p);
	MUST(p.kind != PK_TCP || packet_checksums_ok(&p) || is_spoiled(mark(&p)));
}

static void message(struct fuzz_in *in, struct net_msg m, uint8_t op)
{
	struct net_ev ev = { .type = NEV_MSG, .nic = m.nic, .frame = NET_NONE, .msg = m };
	uint8_t frame[FUZZ_FRAME_MAX];
	struct rules rules = { .n = 1, .r = { { .action = op >> 4 & 1, .proto = op >> 5, .nic = RULE_ANY_NIC } } };
	uint32_t len;
	int n;

	if (m.type == NM_RULES) {
		n = rules_encode(&rules, frame, sizeof(frame));
		len = n > 0 && op & 128 ? (uint32_t)n : in_u8(in) + 1u;
		if (op & 64)
			frame[in_u8(in) % len] ^= in_u8(in);
	} else if (m.type == NM_INPUT || m.type == NM_OUTPUT) {
		len = fuzz_frame(in, m.type == NM_OUTPUT, frame);
		input(frame, len);
	} else {
		drive_event(&drive, ev);
		return;
	}
	drive_frame(&drive, ev, frame, len, false);
}

static void one(struct fuzz_in *in, uint64_t *seq)
{
	uint8_t op = in_u8(in), frame[FUZZ_FRAME_MAX], nic = op >> 4 & 1;
	struct net_msg m = { .type = NM_INPUT, .nic = nic, .epoch = net_epoch(drive.net), .seq = *seq + 1 };
	uint32_t len;

	switch (op % 16) {
	case 0: case 1: case 2:
		++*seq;
		message(in, m, op);
		break;
	case 3: case 4: case 5:
		len = fuzz_frame(in, true, frame);
		drive_frame(&drive, (struct net_ev){ .type = NEV_GUEST, .nic = nic }, frame, len, false);
		break;
	case 6: case 7: case 8:
		drive_msg(&drive, in, &m);
		message(in, m, op);
		break;
	case 9:
		m.type = NM_BARRIER;
		m.seq = *seq - (op >> 5) % (*seq + 1);
		message(in, m, op);
		break;
	case 10:
		if (net_role(drive.net) == NET_PRIMARY)
			barrier = net_epoch(drive.net);
		drive_event(&drive, (struct net_ev){ .type = NEV_CLOSE, .n = barrier });
		break;
	case 11:
		drive_event(&drive, (struct net_ev){ .type = NEV_STOPPED, .n = barrier });
		drive_event(&drive, (struct net_ev){ .type = NEV_DRAINED });
		break;
	case 12:
		/* The state of a barrier is loaded once. */
		if (barrier)
			drive_event(&drive, (struct net_ev){ .type = NEV_LOADED, .n = barrier });
		barrier = 0;
		break;
	case 13:
		drive_event(&drive, (struct net_ev){ .type = op & 16 ? NEV_QUIET : NEV_OPEN, .n = barrier });
		break;
	case 14:
		drive_time(&drive, (nstime)in_u8(in) * NS_PER_MS * (op & 16 ? 100 : 1));
		break;
	default:
		if (op & 128) {
			drive_event(&drive, (struct net_ev){ .type = NEV_PROMOTE });
			break;
		}
		if (op & 64 && net_role(drive.net) == NET_ALONE) {
			/* Protected again: what it translates now goes to another secondary. */
			drive_event(&drive, (struct net_ev){ .type = NEV_OPEN, .n = barrier });
			drive_event(&drive, (struct net_ev){ .type = NEV_ROLE, .arg = NET_PRIMARY, .n = net_epoch(drive.net) });
			barrier = 0;
			break;
		}
		len = fuzz_frame(in, false, frame);
		input(frame, len);
		drive_frame(&drive, (struct net_ev){ .type = NEV_TAP, .nic = nic }, frame, len, true);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	struct fuzz_in in = { bytes, size };
	struct net_stats st;
	uint64_t seq = 0;

	drive_begin(&drive, look);
	barrier = 0;
	n_spoiled = 0;
	drive_event(&drive, (struct net_ev){ .type = NEV_ROLE, .arg = NET_SECONDARY, .n = 1 });
	while (in.n)
		one(&in, &seq);
	drive_event(&drive, (struct net_ev){ .type = net_role(drive.net) == NET_PRIMARY ? NEV_ALONE : NEV_PROMOTE });
	MUST(net_role(drive.net) == NET_ALONE);
	drive_event(&drive, (struct net_ev){ .type = NEV_OPEN, .n = barrier });
	net_stats_get(drive.net, &st);
	MUST(!st.logged);
	drive_end(&drive);
	return 0;
}
