/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The disks, wired: the disk loop and its connection, messages between bytes and disk/, what disk/ reports as events of
 * the control machine. Callbacks of disk/ and of its connection run in the disk loop and only post.
 */
#include "node_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "engine/shape.h"

static const enum ft_step job_step[DISK_JOBS] = {
	[DISK_RESYNC] = STEP_RESYNC, [DISK_MARK] = STEP_DISK, [DISK_FLIP] = STEP_FLIP,
};

/* Toward the peer */

static int send_write(void *arg, unsigned int disk, uint64_t off, uint32_t len, const uint8_t *data)
{
	struct disk_write_msg m = { .off = off, .data = data, .len = len };
	struct wire_head h = { .type = WIRE_DISK_WRITE, .unit = (uint16_t)disk };
	uint8_t head[WIRE_DISK_WRITE_LEN];

	return node_send(arg, WIRE_DISK, &h, head, codec_disk_write_put(head, sizeof(head), &m), data, len, false);
}

static int send_zero(void *arg, unsigned int disk, uint64_t off, uint64_t len, bool trim, bool no_hole)
{
	struct disk_zero_msg m = { .off = off, .len = len, .trim = trim, .no_hole = no_hole };
	struct wire_head h = { .type = WIRE_DISK_ZERO, .unit = (uint16_t)disk };
	uint8_t head[WIRE_DISK_ZERO_LEN];

	return node_send(arg, WIRE_DISK, &h, head, codec_disk_zero_put(head, sizeof(head), &m), NULL, 0, false);
}

/* The VM stands while it is made, and nothing is under way: it neither waits nor is it lost. */
static int send_marker(void *arg, uint64_t num, uint64_t msgs, uint64_t bytes)
{
	struct disk_marker_msg m = { .msgs = msgs, .bytes = bytes };
	struct wire_head h = { .type = WIRE_DISK_MARKER, .epoch = num };
	uint8_t head[WIRE_DISK_MARKER_LEN];
	struct node *n = arg;
	int rc = node_send(n, WIRE_DISK, &h, head, codec_disk_marker_put(head, sizeof(head), &m), NULL, 0, true);

	if (!rc)
		conn_flush(n->conns[WIRE_DISK].conn);
	return rc;
}

static int send_committed(void *arg, uint64_t num)
{
	struct wire_head h = { .type = WIRE_DISK_COMMITTED, .epoch = num };

	return node_send(arg, WIRE_DISK, &h, (const uint8_t *)"", 0, NULL, 0, true);
}

static int send_sync(void *arg, unsigned int disk, uint8_t type, const uint8_t *payload, uint32_t len)
{
	struct disk_sync_msg m = { .type = type, .data = payload, .len = len };
	struct wire_head h = { .type = WIRE_DISK_SYNC, .unit = (uint16_t)disk };
	uint8_t head[WIRE_DISK_SYNC_LEN];

	return node_send(arg, WIRE_DISK, &h, head, codec_disk_sync_put(head, sizeof(head), &m), payload, len,
		   type >= DISK_SYNC_SHARED);
}

static int send_old(void *arg, unsigned int disk, uint64_t off, uint32_t len, const uint8_t *data)
{
	struct disk_old_msg m = { .off = off, .data = data, .len = len };
	struct wire_head h = { .type = WIRE_DISK_OLD, .unit = (uint16_t)disk };
	uint8_t head[WIRE_DISK_OLD_LEN];

	return node_send(arg, WIRE_DISK, &h, head, codec_disk_old_put(head, sizeof(head), &m), data, data ? len : 0, false);
}

static int send_kept(void *arg, uint64_t count)
{
	struct wire_head h = { .type = WIRE_DISK_KEPT };
	uint8_t head[WIRE_DISK_KEPT_LEN];

	return node_send(arg, WIRE_DISK, &h, head, codec_disk_kept_put(head, sizeof(head), count), NULL, 0, true);
}

static void consumed(void *arg, uint64_t bytes, uint64_t msgs)
{
	struct node *n = arg;

	if (n->conns[WIRE_DISK].conn)
		conn_consumed(n->conns[WIRE_DISK].conn, bytes, msgs);
}

/* What becomes of it */

static void on_done(void *arg, enum disk_job job, uint64_t num, int rc, const char *why)
{
	struct ft_ev ev = { .type = FE_DONE, .step = job_step[job], .n = num, .rc = rc };

	if (rc && rc != -EPIPE)
		log_warn("step failed step=%s epoch=%llu: %s", ft_step_name(ev.step), (unsigned long long)num, why);
	node_post_event(arg, &ev);
}

static void on_barrier(void *arg, uint64_t num, int rc, const char *why)
{
	struct ft_ev ev = { .type = FE_DISK_BARRIER, .n = num, .rc = rc };

	if (rc)
		log_error("epoch %llu of the disks cannot be applied: %s", (unsigned long long)num, why);
	node_post_event(arg, &ev);
}

static void on_want(void *arg)
{
	struct ft_ev ev = { .type = FE_WANT, .cause = CAUSE_DISK };

	node_post_event(arg, &ev);
}

static void on_failed(void *arg, bool images, int rc, const char *why)
{
	struct ft_ev ev = { .type = FE_DISK_FAILED, .rc = rc, .value = images };

	node_post_event(arg, &ev);
}

static void on_progress(void *arg)
{
	struct ft_ev ev = { .type = FE_DISK_MOVED };

	node_post_event(arg, &ev);
}

static void on_debt(void *arg, bool open)
{
	struct node *n = arg;

	if (n->px)
		proxy_debt(n->px, PROXY_DEBT_DISK, open);
}

static const struct disk_ops disk_ops = {
	.send_write = send_write, .send_zero = send_zero, .send_marker = send_marker, .send_committed = send_committed,
	.send_sync = send_sync, .send_old = send_old, .send_kept = send_kept,
	.consumed = consumed, .done = on_done, .barrier = on_barrier, .want = on_want,
	.failed = on_failed, .progress = on_progress, .debt = on_debt,
};

/* Fencing the peer, before its shared disks are taken over: in the fence's thread, but for the last */

static int fence_claim(void *arg, struct err *e)
{
	struct node *n = arg;

	return disk_claim(n->disk, e);
}

static void fence_unclaim(void *arg)
{
	struct node *n = arg;

	disk_unclaim(n->disk);
}

static bool fence_alive(void *arg)
{
	struct node *n = arg;

	return disk_peer_writes(n->disk);
}

static void fence_done(void *arg, int rc, const char *why)
{
	struct node *n = arg;
	struct ft_ev ev = { .type = FE_DONE, .step = STEP_FENCE, .n = n->fence_n, .rc = rc };

	fence_end(n->fence);
	n->fence = NULL;
	if (!rc)
		log_note("the peer is fenced: it writes to the shared disks no more");
	else
		log_error("%s: this node does not take over%s", why, rc == -ESTALE ? "" : ", and the VM stands");
	node_event(n, &ev);
}

void node_disk_fence(struct node *n, uint64_t num)
{
	struct fence_cfg cfg = { .loop = n->control, .command = n->o->fence_command, .timeout = n->o->fence_timeout,
				 .vm = n->o->name, .peer = n->peer_text, .claim = fence_claim, .unclaim = fence_unclaim,
				 .alive = fence_alive, .done = fence_done, .arg = n };
	struct ft_ev ev = { .type = FE_DONE, .step = STEP_FENCE, .n = num, .rc = -EAGAIN };
	struct err e = { 0 };

	n->fence_n = num;
	log_note("fencing the peer %s", n->peer_text);
	n->fence = fence_begin(&cfg, &e);
	if (n->fence)
		return;
	log_error("%s", e.msg);
	node_post_event(n, &ev);
}

/* The disk connection */

int node_disk_message(void *arg, const struct wire_head *h, const uint8_t *payload, struct err *e)
{
	struct node_conn *nc = arg;
	struct disk *d = nc->node->disk;
	struct disk_marker_msg k;
	struct disk_write_msg w;
	struct disk_zero_msg z;
	struct disk_sync_msg y;
	struct disk_old_msg o;
	uint64_t count;
	int rc;

	if (!d)
		return err_set(e, -EPROTO, "a message of type %u about disks, and this VM has none", h->type);
	switch (h->type) {
	case WIRE_DISK_WRITE:
		rc = codec_disk_write_get(payload, h->len, &w, e);
		return rc ? rc : disk_take_write(d, h->unit, w.off, w.len, w.data, e);
	case WIRE_DISK_ZERO:
		rc = codec_disk_zero_get(payload, h->len, &z, e);
		return rc ? rc : disk_take_zero(d, h->unit, z.off, z.len, z.trim, z.no_hole, e);
	case WIRE_DISK_MARKER:
		rc = codec_disk_marker_get(payload, h->len, &k, e);
		return rc ? rc : disk_take_marker(d, h->epoch, k.msgs, k.bytes, e);
	case WIRE_DISK_COMMITTED:
		return disk_take_committed(d, h->epoch, e);
	case WIRE_DISK_SYNC:
		rc = codec_disk_sync_get(payload, h->len, &y, e);
		return rc ? rc : disk_take_sync(d, h->unit, y.type, y.data, y.len, e);
	case WIRE_DISK_OLD:
		rc = codec_disk_old_get(payload, h->len, &o, e);
		return rc ? rc : disk_take_old(d, h->unit, o.off, o.len, o.data, e);
	case WIRE_DISK_KEPT:
		rc = codec_disk_kept_get(payload, h->len, &count, e);
		return rc ? rc : disk_take_kept(d, count, e);
	default:
		return err_set(e, -EPROTO, "a message of type %u on the disk connection", h->type);
	}
}

void node_disk_writable(void *arg)
{
	struct node_conn *nc = arg;

	if (nc->node->disk)
		disk_writable(nc->node->disk);
}

void node_disk_attached(struct node *n, bool up)
{
	if (n->disk)
		disk_peer(n->disk, up);
}

int node_disk_start(struct node *n, struct err *e)
{
	struct disk_cfg cfg = { .loop = n->disk_loop, .n = n->cl.n_disks, .dir = n->o->disk_dir[0] ? n->o->disk_dir : NULL,
				.run_dir = n->o->run_dir, .as = node_user(n), .serves = n->role == RUN_PRIMARY, .discard = n->o->discard_disks,
				.shared = n->o->shared_disk, .resync_rate = n->o->resync_rate,
				.patience = n->o->qemu_timeout / 2, .socket = n->disk_socket };
	struct disk_ops ops = disk_ops;
	int k = snprintf(n->disk_socket, sizeof(n->disk_socket), "%s/%s.nbd", n->o->run_dir, n->o->name);

	ops.arg = n;
	if (k < 0 || (size_t)k >= sizeof(n->disk_socket))
		return err_set(e, -ENAMETOOLONG, "%.200s/%s.nbd is too long for a socket; --run-dir can name a shorter directory",
			       n->o->run_dir, n->o->name);
	if (n->cl.n_disks > DISK_MAX)
		return err_set(e, -ENOTSUP, "the VM has %u disks, at most %u are supported", n->cl.n_disks, DISK_MAX);
	for (unsigned int i = 0; i < n->cl.n_disks; i++)
		cfg.image[i] = (struct disk_image){ .id = n->cl.disks[i].id, .path = n->cl.disks[i].path,
						    .format = n->cl.disks[i].format, .direct = n->cl.disks[i].direct };
	if (cfg.n) {
		n->disk = disk_new(&cfg, &ops, e);
		if (!n->disk)
			return e->code;
	}
	n->disk_up = !pthread_create(&n->disk_thread, NULL, node_run_loop, n->disk_loop);
	if (!n->disk_up)
		return err_set(e, -EAGAIN, "cannot start a thread");
	return n->disk ? disk_start(n->disk, e) : 0;
}

int node_disk_shape(struct node *n, struct err *e)
{
	uint64_t bytes[CMDLINE_DISKS_MAX];
	struct node_shape s;
	int rc;

	if (!n->disk)
		return 0;
	for (unsigned int i = 0; i < n->cl.n_disks; i++)
		bytes[i] = disk_size(n->disk, i);
	rc = node_shape_more(n, &s, e);
	if (rc)
		return rc;
	cmdline_shape_sizes(&n->cl, bytes, s.f);
	fprintf(s.f, "shared-disk=%s\n", n->o->shared_disk ? "yes" : "no");
	return node_shape_done(n, &s, 0, e);
}

void node_disk_end(struct node *n)
{
	fence_end(n->fence);
	n->fence = NULL;
	if (n->disk && n->disk_up && n->started)
		disk_close(n->disk);
	if (n->disk_up) {
		loop_stop(n->disk_loop);
		pthread_join(n->disk_thread, NULL);
	}
	disk_free(n->disk);
}
