/* SPDX-License-Identifier: BSD-2-Clause */
#include "drive.h"

#include <string.h>

#define N_FRAMES 64

void drive_begin(struct drive *d, void (*look)(struct drive *d, const struct net_act *a))
{
	struct net *kept = d->net;
	struct net_cfg *cfg = &d->cfg;

	*d = (struct drive){ .net = kept, .now = NS_PER_S, .look = look };
	net_cfg_default(cfg, 2, FUZZ_FRAME_MAX);
	cfg->n_frames = N_FRAMES;
	cfg->n_flows = 16;
	cfg->n_log = 16;
	cfg->max_held_flow = 8;
	cfg->max_held = 16;
	cfg->max_flow_bytes = 4096;
	cfg->max_bytes = 16384;
	cfg->n_reasm = 3;
	cfg->mac[0][0] = cfg->mac[1][0] = 0x52;
	if (d->net)
		net_reset(d->net, cfg);
	else
		d->net = net_new(cfg);
	MUST(d->net);
}

static void actions(struct drive *d, size_t n, struct net_act *acts, size_t cap)
{
	struct net_stats st;

	for (;;) {
		for (size_t i = 0; i < n; i++) {
			const struct net_act *a = &acts[i];

			if (a->type == NA_TAP || a->type == NA_GUEST || (a->type == NA_MSG && a->frame != NET_NONE)) {
				MUST(a->frame < d->cfg.n_frames && a->nic < d->cfg.n_nics);
				MUST(net_frame_len(d->net, a->frame) <= d->cfg.frame_size);
			}
			if (a->type == NA_MSG)
				MUST(a->msg.type < NM_MAX && a->msg.nic < d->cfg.n_nics);
			if (d->look)
				d->look(d, a);
		}
		if (n < cap)
			break;
		n = net_step(d->net, d->now, NULL, 0, acts, cap);
	}
	net_stats_get(d->net, &st);
	MUST(st.frames_free <= d->cfg.n_frames && st.flows <= d->cfg.n_flows && st.logged <= d->cfg.n_log);
	MUST(st.held <= 2 * d->cfg.max_held + 1 && st.held_svm <= 2 * d->cfg.max_held + 1);
}

void drive_event(struct drive *d, struct net_ev ev)
{
	struct net_act acts[32];

	actions(d, net_step(d->net, d->now, &ev, 1, acts, 32), acts, 32);
}

bool drive_frame(struct drive *d, struct net_ev ev, const uint8_t *frame, uint32_t len, bool input)
{
	ev.frame = net_frame_alloc(d->net, input);
	if (ev.frame == NET_NONE) {
		net_frame_missed(d->net);
		return false;
	}
	memcpy(net_frame_data(d->net, ev.frame), frame, len);
	net_frame_set_len(d->net, ev.frame, len);
	drive_event(d, ev);
	return true;
}

void drive_msg(struct drive *d, struct fuzz_in *in, struct net_msg *m)
{
	uint8_t near = in_u8(in), frame[FUZZ_FRAME_MAX];
	struct packet p;

	m->type = (uint8_t)(in_u8(in) % NM_MAX);
	m->nic = near & 1;
	m->has_ts = near >> 1 & 1;
	m->epoch = net_epoch(d->net) + (near >> 2 & 3) - 1;
	m->seq = in_u8(in);
	m->room = in_u8(in);
	m->isn = 1000u + in_u8(in);
	m->seq32 = 1000u + in_u8(in);
	m->ack32 = 5000u + in_u8(in);
	m->tsval = 100u + in_u8(in);
	m->age_ms = in_u8(in);
	m->seq_off = near & 16 ? 5000u + in_u16(in) : in_u8(in);
	m->ts_off = in_u16(in);
	if (near & 32) {
		m->epoch = (uint64_t)in_u32(in) << 32 | in_u32(in);
		m->seq = (uint64_t)in_u32(in) << 32 | in_u32(in);
		m->age_ms = in_u32(in);
	}
	/* The flow of a frame, so that it meets others. */
	packet_parse(frame, fuzz_frame(in, true, frame), &p);
	packet_key(&p, m->nic, true, &m->key);
}

void drive_time(struct drive *d, nstime by)
{
	nstime until = d->now + by;
	struct net_act acts[32];

	for (int i = 0; i < 100; i++) {
		nstime at = net_deadline(d->net);

		if (at >= until)
			break;
		d->now = at > d->now ? at : d->now;
		actions(d, net_step(d->net, d->now, NULL, 0, acts, 32), acts, 32);
	}
	d->now = until;
	actions(d, net_step(d->net, d->now, NULL, 0, acts, 32), acts, 32);
}

void drive_end(struct drive *d)
{
	struct net_stats st;

	for (int i = 0; i < 8; i++)
		drive_time(d, 10 * NS_PER_S);
	net_stats_get(d->net, &st);
	MUST(!st.held && !st.held_svm && !st.held_bytes && !st.held_svm_bytes && !st.logged && !st.reasm);
	MUST(st.frames_free == d->cfg.n_frames);
}
