/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef LINK_WIRE_H
#define LINK_WIRE_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

/*
 * The bytes between two nodes: layouts and limits, nothing else (docs/protocol.md says the same for people).
 * Integers are big-endian. The structs only fix sizes and offsets, codec.c reads and writes through cursors.
 */

#define WIRE_VERSION	5
#define WIRE_MAGIC	0x4c4b5331u	/* "LKS1", also in every later version, so that a difference can be named */

enum wire_channel { WIRE_CONTROL, WIRE_FRAMES, WIRE_BULK, WIRE_DISK, WIRE_CHANNELS };

/* A type belongs to one channel; the numbers are part of the protocol. */
enum wire_type {
	WIRE_HELLO = 1,		/* any channel: first message of who connects */
	WIRE_WELCOME = 2,	/* any channel: the listener's answer */
	WIRE_REFUSE = 3,	/* any channel: a sentence, then the connection ends */
	WIRE_CREDIT = 4,	/* any channel: how far the other side may send */
	WIRE_CTL = 16,		/* control: struct ctl_msg of core/ft.h */
	WIRE_NET = 32,		/* frames: struct net_msg of core/net.h, and the frame of INPUT and OUTPUT, the rules of RULES */
	WIRE_PAGES = 48,	/* bulk: guest pages of one RAM region, in a row */
	WIRE_DEVSTATE = 49,	/* bulk: a piece of the device state */
	WIRE_MARKER = 50,	/* bulk: the barrier, with totals to check what came before */
	WIRE_DISK_WRITE = 64,	/* disk: what was written to a disk */
	WIRE_DISK_ZERO = 65,	/* disk: what was zeroed or trimmed */
	WIRE_DISK_MARKER = 66,	/* disk: the barrier, with totals to check what came before */
	WIRE_DISK_COMMITTED = 67, /* disk: an epoch is in the standby's images, durable */
	WIRE_DISK_SYNC = 68,	/* disk: resync of the images, see disk/resync.h */
	WIRE_DISK_OLD = 69,	/* disk: what a shared image has where it is about to be overwritten */
	WIRE_DISK_KEPT = 70,	/* disk: how many of those the standby has */
};

#define WIRE_PAGE		4096u
#define WIRE_PAGES_ZERO		1u	/* no data follows, the pages are zero */
#define WIRE_DISK_TRIM		1u	/* of ZERO: it was a trim */
#define WIRE_DISK_NO_HOLE	2u	/* of ZERO: the space stays allocated */
#define WIRE_DISK_OLD_ZERO	1u	/* of OLD: no data follows, it is zero */
#define WIRE_PAGES_LZ4		2u	/* one LZ4 block follows, which holds the pages */

enum wire_limit {
	WIRE_MAX_NAME = 63,			/* bytes of a VM's name */
	WIRE_MAX_SHAPE = 65536,			/* bytes of the machine's shape in HELLO and WELCOME */
	WIRE_MAX_SENTENCE = 480,		/* bytes of a refusal */
	WIRE_MAX_FRAME = 65535,			/* bytes of an Ethernet frame */
	WIRE_MAX_PAGES = 256,			/* pages in one PAGES message with data (1 MiB) */
	WIRE_MAX_PACKED_PAGES = 64,		/* pages in one PAGES message that is packed */
	WIRE_MAX_ZERO_PAGES = 1 << 20,		/* pages in one PAGES message without (4 GiB) */
	WIRE_MAX_DEVPIECE = 1 << 20,		/* bytes of device state in one message */
	WIRE_MAX_DISK_DATA = 1 << 20,		/* bytes of one DISK_WRITE */
	WIRE_MAX_DISK_OLD = 256 << 10,		/* bytes that one DISK_OLD is about */
	WIRE_MAX_DISK_SYNC = 64 << 10,		/* bytes of one message of a resync */
	WIRE_MAX_DEVSTATE = 256 << 20,		/* bytes of one device state in all */
	WIRE_MAX_UNITS = 64,			/* RAM regions, NICs or disks of one VM */
};

struct wire_hdr {
	uint8_t magic[4];
	uint8_t type;
	uint8_t channel;
	uint8_t unit[2];	/* NIC, disk or RAM region */
	uint8_t len[4];		/* of the payload */
	uint8_t generation[4];
	uint8_t epoch[8];
	uint8_t vm_id[16];	/* from the VM's name, see wire_vm_id() */
};
#define WIRE_HDR_LEN	40
static_assert(sizeof(struct wire_hdr) == WIRE_HDR_LEN, "header");

/* HELLO and WELCOME: this, then the name, then the shape. */
struct wire_hello {
	uint8_t version[4];	/* stays first in every version */
	uint8_t role;		/* 0 primary, 1 secondary: what it is now */
	uint8_t channel;	/* HELLO: which connection this is to be */
	uint8_t name_len;
	uint8_t state;		/* what the sender's state file says, enum nodestate_mode; WIRE_BEGUN: it serves now */
	uint8_t session[16];	/* HELLO on control: zero; otherwise what WELCOME on control said */
	uint8_t shape_len[4];	/* 0 but on control */
};
#define WIRE_BEGUN	0x80u
#define WIRE_MAX_MODE	15u
#define WIRE_HELLO_LEN	28
static_assert(sizeof(struct wire_hello) == WIRE_HELLO_LEN, "hello");

struct wire_ctl {
	uint8_t type[4];
	uint8_t n[8];
	uint8_t value[8];
};
#define WIRE_CTL_LEN	20
static_assert(sizeof(struct wire_ctl) == WIRE_CTL_LEN, "ctl");

/* Both in total since the connection began, so that a lost or doubled grant could do no harm. */
struct wire_credit {
	uint8_t bytes[8];	/* headers included; CREDIT itself does not count */
	uint8_t msgs[8];
};
#define WIRE_CREDIT_LEN	16
static_assert(sizeof(struct wire_credit) == WIRE_CREDIT_LEN, "credit");

/* Head of every NET message; epoch and NIC are in the header. */
struct wire_net {
	uint8_t type;		/* enum net_msg_type */
	uint8_t has_ts;
	uint8_t zero[2];
	uint8_t room[4];
	uint8_t seq[8];
};
#define WIRE_NET_LEN	16
static_assert(sizeof(struct wire_net) == WIRE_NET_LEN, "net");

/*
 * FLOW, FLOW_OK, TABLE and RELEASED have this after the head; INPUT and OUTPUT have the frame instead, RULES the
 * rules (rules_encode() of core/rule.h).
 */
struct wire_flow {
	uint8_t guest[16];
	uint8_t other[16];
	uint8_t guest_port[2];
	uint8_t other_port[2];
	uint8_t vlan[2];	/* 0x1000 | id of the outer tag, 0: untagged */
	uint8_t vlan_inner[2];	/* of the tag behind it, likewise */
	uint8_t family;
	uint8_t proto;
	uint8_t nic;
	uint8_t zero[5];
	uint8_t isn[4];
	uint8_t seq32[4];
	uint8_t ack32[4];
	uint8_t tsval[4];
	uint8_t age_ms[4];
	uint8_t seq_off[4];
	uint8_t ts_off[4];
};
#define WIRE_FLOW_LEN	76
static_assert(sizeof(struct wire_flow) == WIRE_FLOW_LEN, "flow");

/* PAGES: the region is the header's unit; count * WIRE_PAGE bytes follow, or none, or an LZ4 block, by the flags. */
struct wire_pages {
	uint8_t first[8];	/* number of the first page in its region */
	uint8_t count[4];
	uint8_t flags[4];
};
#define WIRE_PAGES_LEN	16
static_assert(sizeof(struct wire_pages) == WIRE_PAGES_LEN, "pages");

/* DEVSTATE: the piece follows. */
struct wire_devstate {
	uint8_t offset[8];
	uint8_t total[8];
};
#define WIRE_DEVSTATE_LEN 16
static_assert(sizeof(struct wire_devstate) == WIRE_DEVSTATE_LEN, "devstate");

/* MARKER: the header's epoch is n. Totals since the marker before. */
struct wire_marker {
	uint8_t pages[8];
	uint8_t bytes[8];	/* of page data */
	uint8_t devstate[8];	/* bytes of device state */
	uint8_t hash[8];	/* of guest memory at the stop, XXH3-64; 0: not made */
};
#define WIRE_MARKER_LEN	32
static_assert(sizeof(struct wire_marker) == WIRE_MARKER_LEN, "marker");

/* DISK_WRITE: the disk is the header's unit; the data follows. */
struct wire_disk_write {
	uint8_t off[8];
};
#define WIRE_DISK_WRITE_LEN 8
static_assert(sizeof(struct wire_disk_write) == WIRE_DISK_WRITE_LEN, "disk write");

struct wire_disk_zero {
	uint8_t off[8];
	uint8_t len[8];
	uint8_t flags[4];	/* WIRE_DISK_TRIM, WIRE_DISK_NO_HOLE */
};
#define WIRE_DISK_ZERO_LEN 20
static_assert(sizeof(struct wire_disk_zero) == WIRE_DISK_ZERO_LEN, "disk zero");

/* DISK_MARKER: the header's epoch is n. Totals since the marker before, of all disks. */
struct wire_disk_marker {
	uint8_t msgs[8];	/* WRITE and ZERO */
	uint8_t bytes[8];	/* of data */
};
#define WIRE_DISK_MARKER_LEN 16
static_assert(sizeof(struct wire_disk_marker) == WIRE_DISK_MARKER_LEN, "disk marker");

/* DISK_SYNC: the disk is the header's unit; what follows is disk/resync_wire.c's. */
struct wire_disk_sync {
	uint8_t type;
	uint8_t zero[3];
};
#define WIRE_DISK_SYNC_LEN 4
static_assert(sizeof(struct wire_disk_sync) == WIRE_DISK_SYNC_LEN, "disk sync");

/* DISK_OLD: the disk is the header's unit; the data follows, unless it is zero. */
struct wire_disk_old {
	uint8_t off[8];
	uint8_t len[4];
	uint8_t flags[4];	/* WIRE_DISK_OLD_ZERO */
};
#define WIRE_DISK_OLD_LEN 16
static_assert(sizeof(struct wire_disk_old) == WIRE_DISK_OLD_LEN, "disk old");

struct wire_disk_kept {
	uint8_t count[8];	/* of OLD messages, since the connection began */
};
#define WIRE_DISK_KEPT_LEN 8
static_assert(sizeof(struct wire_disk_kept) == WIRE_DISK_KEPT_LEN, "disk kept");

/* The largest payload of each channel, once the handshake is over. */
#define WIRE_MAX_CONTROL_PAYLOAD	64u
#define WIRE_MAX_FRAMES_PAYLOAD		(WIRE_NET_LEN + (unsigned int)WIRE_MAX_FRAME)
#define WIRE_MAX_BULK_PAYLOAD		(WIRE_PAGES_LEN + WIRE_MAX_PAGES * WIRE_PAGE)
#define WIRE_MAX_DISK_PAYLOAD		(WIRE_DISK_WRITE_LEN + (unsigned int)WIRE_MAX_DISK_DATA)
#define WIRE_MAX_HELLO_PAYLOAD		(WIRE_HELLO_LEN + (unsigned int)WIRE_MAX_NAME + WIRE_MAX_SHAPE)

#endif
