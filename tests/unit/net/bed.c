/* SPDX-License-Identifier: BSD-2-Clause */
/* One machine of core/net for tests. Every frame that comes out is checked by the oracle's checksums. */
#include "bed.h"

const struct seg_ip bed_road[BED_ROADS] = {
	{ .v6 = false },
	{ .v6 = true },
	{ .v6 = true, .n_ext = 2, .ext = { 0, 60 } },
	{ .n_tags = 1, .tag = { 0x6007 } },
	{ .v6 = true, .n_tags = 2, .tag = { 100, 0xa00b }, .n_ext = 1, .ext = { 43 } },
};

void bed_cfg(struct net_cfg *cfg)
{
	net_cfg_default(cfg, 1, 1500);
	cfg->n_frames = 256;
	cfg->n_flows = 32;
	cfg->n_log = 64;
	cfg->n_reasm = 8;
	cfg->other_delay = 10 * NS_PER_MS;
	memcpy(cfg->mac[0], seg_guest_mac, 6);
}

struct bed *bed_new(const struct net_cfg *cfg)
{
	struct bed *b = calloc(1, sizeof(*b));
	struct net_cfg own;

	assert_non_null(b);
	bed_cfg(&own);
	b->net = net_new(cfg ? cfg : &own);
	assert_non_null(b->net);
	b->now = NS_PER_S;
	b->c0 = 1000;
	b->g0 = 5000;
	b->ws = 7;
	return b;
}

void step(struct bed *b, const struct net_ev *ev)
{
	b->n = net_step(b->net, b->now, ev, ev ? 1 : 0, b->out, BED_OUT);
	assert_true(b->n < BED_OUT);
	for (size_t i = 0; i < b->n; i++) {
		uint32_t h = b->out[i].frame, len;

		memset(&b->p[i], 0, sizeof(b->p[i]));
		if (h == NET_NONE)
			continue;
		len = net_frame_len(b->net, h);
		assert_true(len <= SEG_MAX);
		memcpy(b->bytes[i], net_frame_data(b->net, h), len);
		if (b->out[i].type == NA_MSG && b->out[i].msg.type == NM_RULES)
			continue;
		if (!b->raw && !seg_sums_ok(b->bytes[i], len))
			fail_msg("a frame came out with a wrong length or checksum, action %d", (int)b->out[i].type);
		packet_parse(b->bytes[i], len, &b->p[i]);
	}
}

void tick(struct bed *b, nstime by)
{
	b->now += by;
	step(b, NULL);
}

bool until(struct bed *b, enum ckpt_cause c, nstime most)
{
	for (nstime end = b->now + most; b->now < end; ) {
		tick(b, NS_PER_MS);
		if (wanted(b, c))
			return true;
	}
	return false;
}

void ctl(struct bed *b, enum net_ev_type type, uint64_t n, uint32_t arg)
{
	struct net_ev ev = { .type = type, .n = n, .arg = arg, .frame = NET_NONE };

	step(b, &ev);
}

void told(struct bed *b, struct net_msg m)
{
	struct net_ev ev = { .type = NEV_MSG, .frame = NET_NONE, .msg = m };

	step(b, &ev);
}

static uint32_t frame(struct bed *b, const uint8_t *d, uint32_t len)
{
	uint32_t h = net_frame_alloc(b->net, false);

	assert_int_not_equal(h, NET_NONE);
	memcpy(net_frame_data(b->net, h), d, len);
	net_frame_set_len(b->net, h, len);
	return h;
}

void bytes_in(struct bed *b, enum net_ev_type type, const uint8_t *d, uint32_t len)
{
	struct net_ev ev = { .type = type, .nic = b->nic, .frame = frame(b, d, len) };

	step(b, &ev);
}

static void msg_bytes(struct bed *b, enum net_msg_type type, uint64_t epoch, uint64_t seq, const uint8_t *d,
		      uint32_t len)
{
	struct net_ev ev = { .type = NEV_MSG, .nic = b->nic,
			     .msg = { .type = (uint8_t)type, .nic = b->nic, .epoch = epoch, .seq = seq } };

	ev.frame = frame(b, d, len);
	step(b, &ev);
}

void svm_bytes(struct bed *b, uint64_t epoch, const uint8_t *d, uint32_t len)
{
	msg_bytes(b, NM_OUTPUT, epoch, 0, d, len);
}

void input_bytes(struct bed *b, uint64_t epoch, uint64_t seq, const uint8_t *d, uint32_t len)
{
	msg_bytes(b, NM_INPUT, epoch, seq, d, len);
}

void seg_in(struct bed *b, enum net_ev_type type, struct seg s)
{
	uint8_t d[SEG_MAX];

	s.from_guest = type == NEV_GUEST;
	bytes_in(b, type, d, seg_make_on(d, &b->on, &s));
}

void svm(struct bed *b, uint64_t epoch, struct seg s)
{
	uint8_t d[SEG_MAX];

	s.from_guest = true;
	svm_bytes(b, epoch, d, seg_make_on(d, &b->on, &s));
}

void input(struct bed *b, uint64_t epoch, uint64_t seq, struct seg s)
{
	uint8_t d[SEG_MAX];

	s.from_guest = false;
	input_bytes(b, epoch, seq, d, seg_make_on(d, &b->on, &s));
}

int count(const struct bed *b, enum net_act_type type)
{
	int k = 0;

	for (size_t i = 0; i < b->n; i++)
		k += b->out[i].type == type;
	return k;
}

struct packet *nth(struct bed *b, enum net_act_type type, int k)
{
	for (size_t i = 0; i < b->n; i++)
		if (b->out[i].type == type && !k--)
			return &b->p[i];
	fail_msg("no such action");
	return NULL;
}

struct packet *first(struct bed *b, enum net_act_type type)
{
	return nth(b, type, 0);
}

struct net_act *msg(struct bed *b, enum net_msg_type type)
{
	for (size_t i = 0; i < b->n; i++)
		if (b->out[i].type == NA_MSG && b->out[i].msg.type == type)
			return &b->out[i];
	return NULL;
}

struct packet *msg_packet(struct bed *b, enum net_msg_type type)
{
	struct net_act *a = msg(b, type);

	assert_non_null(a);
	return &b->p[a - b->out];
}

int msgs(const struct bed *b, enum net_msg_type type)
{
	int k = 0;

	for (size_t i = 0; i < b->n; i++)
		k += b->out[i].type == NA_MSG && b->out[i].msg.type == type;
	return k;
}

bool wanted(const struct bed *b, enum ckpt_cause c)
{
	for (size_t i = 0; i < b->n; i++)
		if (b->out[i].type == NA_WANT && b->out[i].arg == c)
			return true;
	return false;
}

bool wanted_any(const struct bed *b)
{
	return count(b, NA_WANT) > 0;
}

struct net_stats stats(const struct bed *b)
{
	struct net_stats st;

	net_stats_get(b->net, &st);
	return st;
}

const char *text(struct bed *b)
{
	static char out[BED_OUT * 64];
	size_t n = 0;
	uint32_t nxt = 0;

	for (size_t i = 0; i < b->n; i++) {
		const struct packet *p = &b->p[i];

		if (b->out[i].type != NA_TAP || p->kind != PK_TCP || !p->len)
			continue;
		assert_true(n + p->len < sizeof(out));
		if (n)
			assert_int_equal(p->seq, nxt);
		nxt = p->seq + p->len;
		memcpy(out + n, p->data + p->payload, p->len);
		n += p->len;
	}
	out[n] = 0;
	return out;
}

void checkpoint(struct bed *b, uint64_t n)
{
	ctl(b, NEV_CLOSE, n, 0);
	if (!count(b, NA_CUT) && n == 1)
		ctl(b, NEV_QUIET, 0, 0);
	if (!count(b, NA_CUT))
		tick(b, 10 * NS_PER_MS);
	/* The first cut of a role waits longer. */
	if (!count(b, NA_CUT))
		ctl(b, NEV_QUIET, 0, 0);
	assert_int_equal(count(b, NA_CUT), 1);
	ctl(b, NEV_STOPPED, n, 0);
	ctl(b, NEV_DRAINED, 0, 0);
	assert_int_equal(count(b, NA_DRAINED), 1);
	ctl(b, NEV_OPEN, n, 0);
}

void full_checkpoint(struct bed *b, uint64_t n)
{
	checkpoint(b, n);
	ctl(b, NEV_STAGED, n, 0);
	ctl(b, NEV_LOADED, n, 0);
}

struct bed *bed_primary(const struct net_cfg *cfg)
{
	struct bed *b = bed_new(cfg);

	ctl(b, NEV_ROLE, 1, NET_PRIMARY);
	/* The secondary's log has room, as it says when it begins. */
	told(b, (struct net_msg){ .type = NM_LOGGED, .seq = 0, .room = 1 << 20 });
	full_checkpoint(b, 1);
	return b;
}

struct bed *bed_secondary(const struct net_cfg *cfg)
{
	struct bed *b = bed_new(cfg);

	ctl(b, NEV_ROLE, 1, NET_SECONDARY);
	told(b, (struct net_msg){ .type = NM_BARRIER, .epoch = 1 });
	assert_int_equal(count(b, NA_BARRIER), 1);
	ctl(b, NEV_LOADED, 1, 0);
	ctl(b, NEV_OPEN, 1, 0);
	return b;
}

void bed_end(struct bed *b)
{
	net_free(b->net);
	free(b);
}

struct seg client_syn(const struct bed *b)
{
	return (struct seg){ .seq = b->c0 - 1, .flags = TCP_SYN, .ws = b->ws, .win = 1000, .has_ts = b->ts,
		.tsval = 7 };
}

struct seg guest_synack(const struct bed *b)
{
	return (struct seg){ .seq = b->g0 - 1, .ack = b->c0, .flags = TCP_SYN | TCP_ACK, .ws = b->ws, .win = 1000,
		.has_ts = b->ts, .tsval = 100, .tsecr = 7 };
}

void flow_ok(struct bed *b)
{
	struct net_act *a = msg(b, NM_FLOW);
	struct net_msg ok;

	assert_non_null(a);
	ok = a->msg;
	ok.type = NM_FLOW_OK;
	told(b, ok);
}

void open_flow(struct bed *b, uint64_t epoch)
{
	struct net_msg ok;

	seg_in(b, NEV_TAP, client_syn(b));
	assert_int_equal(count(b, NA_GUEST), 1);
	seg_in(b, NEV_GUEST, guest_synack(b));
	assert_int_equal(count(b, NA_TAP), 0);
	assert_non_null(msg(b, NM_FLOW));
	ok = msg(b, NM_FLOW)->msg;
	assert_int_equal(ok.isn, b->g0 - 1);
	ok.type = NM_FLOW_OK;
	svm(b, epoch, guest_synack(b));
	assert_int_equal(count(b, NA_TAP), 0);
	told(b, ok);
	assert_int_equal(count(b, NA_TAP), 1);
	seg_in(b, NEV_TAP, (struct seg){ .seq = b->c0, .ack = b->g0, .flags = TCP_ACK, .win = 1000, .has_ts = b->ts,
		.tsval = 8, .tsecr = 100 });
	assert_int_equal(count(b, NA_GUEST), 1);
}

struct flow_key key_of(struct bed *b)
{
	uint8_t d[SEG_MAX];
	struct flow_key k;
	struct packet p;
	struct seg s = ACK(1, 1);

	packet_parse(d, seg_make_on(d, &b->on, &s), &p);
	packet_key(&p, b->nic, false, &k);
	return k;
}

void svm_flow(struct bed *b, uint32_t isn)
{
	struct seg s = guest_synack(b);

	input(b, 2, 1, client_syn(b));
	assert_int_equal(count(b, NA_GUEST), 1);
	s.seq = isn;
	s.tsval = 300;
	seg_in(b, NEV_GUEST, s);
	assert_null(msg(b, NM_OUTPUT));
	told(b, (struct net_msg){ .type = NM_FLOW, .nic = b->nic, .epoch = 2, .key = key_of(b), .isn = b->g0 - 1,
		.has_ts = b->ts, .tsval = 100 });
	assert_non_null(msg(b, NM_FLOW_OK));
	assert_non_null(msg(b, NM_OUTPUT));
	/* LOGGED wakes nobody by itself. */
	assert_int_equal(msg(b, NM_LOGGED)->msg.seq, 1);
	assert_int_equal(msg_packet(b, NM_OUTPUT)->seq, b->g0 - 1);
	if (b->ts)
		assert_int_equal(msg_packet(b, NM_OUTPUT)->tsval, 100);
}
