/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef LINK_CODEC_H
#define LINK_CODEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "core/ft.h"
#include "core/net.h"
#include "link/wire.h"

/*
 * Messages between bytes and structs. Pure: no I/O, no memory of its own. Decoding trusts nothing: whatever the
 * bytes are, the answer is a valid struct or -EPROTO with a sentence.
 */

#define LINK_ID_LEN 16

/* A message's header, decoded. */
struct wire_head {
	uint8_t type;			/* enum wire_type */
	uint8_t channel;		/* enum wire_channel */
	uint16_t unit;			/* NIC, disk or RAM region */
	uint32_t len;			/* of the payload */
	uint32_t generation;
	uint64_t epoch;
	uint8_t vm_id[LINK_ID_LEN];
};

/* Who speaks: HELLO and WELCOME. */
struct hello {
	uint32_t version;		/* WIRE_VERSION when the rest is valid */
	enum ft_role role;
	uint32_t generation;
	enum wire_channel channel;
	uint8_t mode;			/* of its state file; up to WIRE_MAX_MODE, what it means is not the link's business */
	bool begun;			/* it serves now */
	char name[WIRE_MAX_NAME + 1];	/* the VM's */
	uint8_t session[LINK_ID_LEN];
	const char *shape;		/* lines of key=value; borrowed; NOT ended by a zero */
	size_t shape_len;
};

/* Guest pages in a row. */
struct pages_msg {
	uint64_t first;			/* page number in the region (the header's unit) */
	uint32_t count;			/* pages of WIRE_PAGE bytes */
	bool zero;			/* data is NULL: all of it is zero */
	bool packed;			/* data is one LZ4 block that holds them */
	const uint8_t *data;		/* @len bytes, inside the payload */
	uint32_t len;			/* count * WIRE_PAGE unless packed or zero; set by get */
};

/* A piece of the device state. */
struct devstate_msg {
	uint64_t offset, total;
	const uint8_t *data;		/* inside the payload */
	uint32_t len;
};

/* The barrier in the bulk connection, with what was sent since the one before. */
struct marker_msg {
	uint64_t pages, bytes, devstate;
	uint64_t hash;			/* of guest memory at the stop, 0: not made (tests) */
};

/* What was written to a disk (the header's unit). */
struct disk_write_msg {
	uint64_t off;
	const uint8_t *data;		/* inside the payload */
	uint32_t len;			/* at least 1 */
};

struct disk_zero_msg {
	uint64_t off, len;		/* len at least 1, off + len does not overflow */
	bool trim, no_hole;
};

/* The barrier in the disk connection, with what was sent since the one before. */
struct disk_marker_msg {
	uint64_t msgs, bytes;
};

/* A message of a resync. */
/* What a shared disk (the header's unit) has where it is about to be overwritten. */
struct disk_old_msg {
	uint64_t off;
	const uint8_t *data;		/* NULL: zeroes */
	uint32_t len;
};

struct disk_sync_msg {
	uint8_t type;
	const uint8_t *data;		/* inside the payload */
	uint32_t len;
};

/* wire_name_ok() - whether @name can be a VM's: 1 to 63 of letters, digits, '.', '_', '-', the first no '-' or '.' */
bool wire_name_ok(const char *name);

/* wire_vm_id() - the id that stands for a VM's name in every message; no secret */
void wire_vm_id(uint8_t id[LINK_ID_LEN], const char *name);

/* wire_type_name() - for logs, "?" when unknown */
const char *wire_type_name(uint8_t type);
const char *wire_channel_name(unsigned int channel);

/*
 * wire_head_encode() - header into @out
 * wire_head_decode() - header from WIRE_HDR_LEN bytes at @p
 * @ch: the channel of this connection; a type of another one, and a length above the type's limit, are errors
 *
 * Return: 0, or -EPROTO with @e
 */
void wire_head_encode(uint8_t out[WIRE_HDR_LEN], const struct wire_head *h);
int wire_head_decode(const uint8_t p[WIRE_HDR_LEN], enum wire_channel ch, struct wire_head *h, struct err *e);

/*
 * codec_*_put() - a payload into @out, @cap bytes
 * Return: its length, or -EMSGSIZE when @cap is too small, -EINVAL when the struct cannot be sent
 *
 * codec_*_get() - a payload of @len bytes; what the struct points to is borrowed from @p
 * @h: its header, already decoded
 * Return: 0, or -EPROTO with @e
 */
int codec_hello_put(uint8_t *out, size_t cap, const struct hello *m);
int codec_hello_get(const struct wire_head *h, const uint8_t *p, size_t len, struct hello *m, struct err *e);

int codec_refuse_put(uint8_t *out, size_t cap, const char *sentence);
/* @text: printable, zero-ended, whatever was sent */
void codec_refuse_get(const uint8_t *p, size_t len, char text[WIRE_MAX_SENTENCE + 1]);

/* fills @h too: type, epoch (n) and generation */
int codec_ctl_put(uint8_t *out, size_t cap, struct wire_head *h, const struct ctl_msg *m);
int codec_ctl_get(const struct wire_head *h, const uint8_t *p, size_t len, struct ctl_msg *m, struct err *e);

int codec_credit_put(uint8_t *out, size_t cap, uint64_t bytes, uint64_t msgs);
int codec_credit_get(const uint8_t *p, size_t len, uint64_t *bytes, uint64_t *msgs, struct err *e);

/* fills @h too: type, epoch and unit (the NIC); the frame, if the message has one, is to follow what is in @out */
int codec_net_put(uint8_t *out, size_t cap, struct wire_head *h, const struct net_msg *m);
/* @frame, @frame_len: the frame, inside the payload; NULL and 0 when the message has none */
int codec_net_get(const struct wire_head *h, const uint8_t *p, size_t len, struct net_msg *m, const uint8_t **frame,
		  size_t *frame_len, struct err *e);
/* codec_net_has_frame() - whether a message of this type carries a frame */
bool codec_net_has_frame(unsigned int net_msg_type);

/* The data is to follow what is in @out. */
int codec_pages_put(uint8_t *out, size_t cap, const struct pages_msg *m);
int codec_pages_get(const struct wire_head *h, const uint8_t *p, size_t len, struct pages_msg *m, struct err *e);

int codec_devstate_put(uint8_t *out, size_t cap, const struct devstate_msg *m);
int codec_devstate_get(const struct wire_head *h, const uint8_t *p, size_t len, struct devstate_msg *m, struct err *e);

/* The data is to follow what is in @out. */
int codec_disk_write_put(uint8_t *out, size_t cap, const struct disk_write_msg *m);
int codec_disk_write_get(const uint8_t *p, size_t len, struct disk_write_msg *m, struct err *e);

int codec_disk_zero_put(uint8_t *out, size_t cap, const struct disk_zero_msg *m);
int codec_disk_zero_get(const uint8_t *p, size_t len, struct disk_zero_msg *m, struct err *e);

int codec_disk_marker_put(uint8_t *out, size_t cap, const struct disk_marker_msg *m);
int codec_disk_marker_get(const uint8_t *p, size_t len, struct disk_marker_msg *m, struct err *e);

/* The data is to follow what is in @out. */
int codec_disk_sync_put(uint8_t *out, size_t cap, const struct disk_sync_msg *m);
int codec_disk_sync_get(const uint8_t *p, size_t len, struct disk_sync_msg *m, struct err *e);

/* codec_disk_old_put() - the head only, the data is sent behind it; _get(): m->data points into @p */
int codec_disk_old_put(uint8_t *out, size_t cap, const struct disk_old_msg *m);
int codec_disk_old_get(const uint8_t *p, size_t len, struct disk_old_msg *m, struct err *e);

int codec_disk_kept_put(uint8_t *out, size_t cap, uint64_t count);
int codec_disk_kept_get(const uint8_t *p, size_t len, uint64_t *count, struct err *e);

int codec_marker_put(uint8_t *out, size_t cap, const struct marker_msg *m);
int codec_marker_get(const struct wire_head *h, const uint8_t *p, size_t len, struct marker_msg *m, struct err *e);

#endif
