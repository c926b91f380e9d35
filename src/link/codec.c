/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Wire format of the four connections: encode and decode. Pure; any thread.
 *
 * Each decoder reads the whole payload through a cursor and asks once at the end: too short, too long, a reserved
 * byte that is not zero, a number out of its range are all -EPROTO. Nothing is skipped for the sake of later
 * versions: two nodes of one pair run the same version, the handshake sees to it.
 */
#include "link/codec.h"

#include <errno.h>
#include <string.h>

#include "base/cursor.h"
#include "base/siphash.h"

static const char *const channel_names[] = { "control", "frames", "bulk", "disk" };

/* Largest payload of a type; the handshake's and credit are for every channel. */
static const struct {
	uint8_t type;
	int8_t channel;		/* -1: any */
	uint32_t max;
	const char *name;
} types[] = {
	{ WIRE_HELLO, -1, WIRE_MAX_HELLO_PAYLOAD, "HELLO" },
	{ WIRE_WELCOME, -1, WIRE_MAX_HELLO_PAYLOAD, "WELCOME" },
	{ WIRE_REFUSE, -1, WIRE_MAX_SENTENCE, "REFUSE" },
	{ WIRE_CREDIT, -1, WIRE_CREDIT_LEN, "CREDIT" },
	{ WIRE_CTL, WIRE_CONTROL, WIRE_CTL_LEN, "CTL" },
	{ WIRE_NET, WIRE_FRAMES, WIRE_MAX_FRAMES_PAYLOAD, "NET" },
	{ WIRE_PAGES, WIRE_BULK, WIRE_MAX_BULK_PAYLOAD, "PAGES" },
	{ WIRE_DEVSTATE, WIRE_BULK, WIRE_DEVSTATE_LEN + WIRE_MAX_DEVPIECE, "DEVSTATE" },
	{ WIRE_MARKER, WIRE_BULK, WIRE_MARKER_LEN, "MARKER" },
	{ WIRE_DISK_WRITE, WIRE_DISK, WIRE_MAX_DISK_PAYLOAD, "DISK_WRITE" },
	{ WIRE_DISK_ZERO, WIRE_DISK, WIRE_DISK_ZERO_LEN, "DISK_ZERO" },
	{ WIRE_DISK_MARKER, WIRE_DISK, WIRE_DISK_MARKER_LEN, "DISK_MARKER" },
	{ WIRE_DISK_COMMITTED, WIRE_DISK, 0, "DISK_COMMITTED" },
	{ WIRE_DISK_SYNC, WIRE_DISK, WIRE_DISK_SYNC_LEN + WIRE_MAX_DISK_SYNC, "DISK_SYNC" },
	{ WIRE_DISK_OLD, WIRE_DISK, WIRE_DISK_OLD_LEN + WIRE_MAX_DISK_OLD, "DISK_OLD" },
	{ WIRE_DISK_KEPT, WIRE_DISK, WIRE_DISK_KEPT_LEN, "DISK_KEPT" },
};
static_assert(WIRE_DEVSTATE_LEN + WIRE_MAX_DEVPIECE <= WIRE_MAX_BULK_PAYLOAD, "bulk limit");
static_assert(WIRE_CTL_LEN <= WIRE_MAX_CONTROL_PAYLOAD && WIRE_CREDIT_LEN <= WIRE_MAX_CONTROL_PAYLOAD, "control limit");

bool wire_name_ok(const char *name)
{
	size_t n = strlen(name);

	if (n < 1 || n > WIRE_MAX_NAME || name[0] == '-' || name[0] == '.')
		return false;
	for (size_t i = 0; i < n; i++) {
		char c = name[i];

		if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
		      c == '_' || c == '-'))
			return false;
	}
	return true;
}

void wire_vm_id(uint8_t id[LINK_ID_LEN], const char *name)
{
	static const uint64_t key[2][2] = {
		{ 0x6c6f636b73746570ull, 0x766d2d69642d3100ull }, { 0x6c6f636b73746570ull, 0x766d2d69642d3200ull },
	};
	struct wcursor w = wcursor_of(id, LINK_ID_LEN);

	for (int i = 0; i < 2; i++)
		wcursor_u64(&w, siphash24(key[i], name, strlen(name)));
}

const char *wire_type_name(uint8_t type)
{
	for (size_t i = 0; i < sizeof(types) / sizeof(*types); i++)
		if (types[i].type == type)
			return types[i].name;
	return "?";
}

const char *wire_channel_name(unsigned int channel)
{
	return channel < WIRE_CHANNELS ? channel_names[channel] : "?";
}

void wire_head_encode(uint8_t out[WIRE_HDR_LEN], const struct wire_head *h)
{
	struct wcursor w = wcursor_of(out, WIRE_HDR_LEN);

	wcursor_u32(&w, WIRE_MAGIC);
	wcursor_u8(&w, h->type);
	wcursor_u8(&w, h->channel);
	wcursor_u16(&w, h->unit);
	wcursor_u32(&w, h->len);
	wcursor_u32(&w, h->generation);
	wcursor_u64(&w, h->epoch);
	wcursor_bytes(&w, h->vm_id, LINK_ID_LEN);
}

int wire_head_decode(const uint8_t p[WIRE_HDR_LEN], enum wire_channel ch, struct wire_head *h, struct err *e)
{
	struct cursor c = cursor_of(p, WIRE_HDR_LEN);
	uint32_t magic = cursor_u32(&c);

	h->type = cursor_u8(&c);
	h->channel = cursor_u8(&c);
	h->unit = cursor_u16(&c);
	h->len = cursor_u32(&c);
	h->generation = cursor_u32(&c);
	h->epoch = cursor_u64(&c);
	cursor_copy(&c, h->vm_id, LINK_ID_LEN);
	if (magic != WIRE_MAGIC)
		return err_set(e, -EPROTO, "this is not Lockstep's link protocol (it begins with 0x%08x)", magic);
	if (h->channel != ch)
		return err_set(e, -EPROTO, "a message of channel %u came on the %s connection", h->channel,
			       wire_channel_name(ch));
	for (size_t i = 0; i < sizeof(types) / sizeof(*types); i++) {
		if (types[i].type != h->type || (types[i].channel >= 0 && types[i].channel != (int)ch))
			continue;
		if (h->len > types[i].max)
			return err_set(e, -EPROTO, "a %s message says it has %u bytes, at most %u are allowed",
				       types[i].name, h->len, types[i].max);
		if (h->unit >= WIRE_MAX_UNITS)
			return err_set(e, -EPROTO, "a %s message is for unit %u, there are at most %u", types[i].name,
				       h->unit, WIRE_MAX_UNITS);
		return 0;
	}
	return err_set(e, -EPROTO, "a message of type %u has no business on the %s connection", h->type,
		       wire_channel_name(ch));
}

/* The one exit of each decoder: everything was there, and nothing is left. */
static int codec_end(const struct cursor *c, const char *what, struct err *e)
{
	if (c->bad)
		return err_set(e, -EPROTO, "a %s message is too short", what);
	if (c->left)
		return err_set(e, -EPROTO, "a %s message has %zu bytes too many", what, c->left);
	return 0;
}

static int codec_done(const struct wcursor *w)
{
	return w->bad ? -EMSGSIZE : (int)w->done;
}

int codec_hello_put(uint8_t *out, size_t cap, const struct hello *m)
{
	struct wcursor w = wcursor_of(out, cap);

	if (!wire_name_ok(m->name) || m->mode > WIRE_MAX_MODE || m->shape_len > WIRE_MAX_SHAPE)
		return -EINVAL;
	wcursor_u32(&w, m->version);
	wcursor_u8(&w, (uint8_t)m->role);
	wcursor_u8(&w, (uint8_t)m->channel);
	wcursor_u8(&w, (uint8_t)strlen(m->name));
	wcursor_u8(&w, (uint8_t)(m->mode | (m->begun ? WIRE_BEGUN : 0)));
	wcursor_bytes(&w, m->session, LINK_ID_LEN);
	wcursor_u32(&w, (uint32_t)m->shape_len);
	wcursor_bytes(&w, m->name, strlen(m->name));
	wcursor_bytes(&w, m->shape, m->shape_len);
	return codec_done(&w);
}

static bool shape_ok(const char *s, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		unsigned char c = (unsigned char)s[i];

		if (c != '\n' && c != '\t' && (c < 0x20 || c == 0x7f))
			return false;
	}
	return !n || s[n - 1] == '\n';
}

int codec_hello_get(const struct wire_head *h, const uint8_t *p, size_t len, struct hello *m, struct err *e)
{
	struct cursor c = cursor_of(p, len);
	uint8_t role, channel, name_len, state;
	const uint8_t *shape;

	memset(m, 0, sizeof(*m));
	m->version = cursor_u32(&c);
	if (!c.bad && m->version != WIRE_VERSION)
		return err_set(e, -EPROTO, "the peer speaks link protocol %u, this node speaks %u", m->version,
			       WIRE_VERSION);
	role = cursor_u8(&c);
	channel = cursor_u8(&c);
	name_len = cursor_u8(&c);
	state = cursor_u8(&c);
	cursor_copy(&c, m->session, LINK_ID_LEN);
	m->shape_len = cursor_u32(&c);
	if (name_len > WIRE_MAX_NAME || m->shape_len > WIRE_MAX_SHAPE)
		return err_set(e, -EPROTO, "a hello has a name of %u and a shape of %zu bytes, allowed are %u and %u",
			       name_len, m->shape_len, WIRE_MAX_NAME, WIRE_MAX_SHAPE);
	cursor_copy(&c, m->name, name_len);
	shape = cursor_get(&c, m->shape_len);
	m->shape = (const char *)shape;
	m->generation = h->generation;
	if (codec_end(&c, "hello", e))
		return -EPROTO;
	if (role > FT_SECONDARY || channel >= WIRE_CHANNELS || (state & ~WIRE_BEGUN) > WIRE_MAX_MODE)
		return err_set(e, -EPROTO, "a hello has role %u, channel %u, state %u", role, channel, state);
	m->mode = (uint8_t)(state & ~WIRE_BEGUN);
	m->begun = state & WIRE_BEGUN;
	m->role = role;
	m->channel = channel;
	/* A zero inside the name makes it shorter than it said. */
	if (strlen(m->name) != name_len || !wire_name_ok(m->name))
		return err_set(e, -EPROTO, "a hello has a VM's name that is none");
	if (!shape_ok(m->shape, m->shape_len))
		return err_set(e, -EPROTO, "a hello describes the machine in bytes that are not text");
	return 0;
}

int codec_refuse_put(uint8_t *out, size_t cap, const char *sentence)
{
	struct wcursor w = wcursor_of(out, cap);

	wcursor_bytes(&w, sentence, strnlen(sentence, WIRE_MAX_SENTENCE));
	return codec_done(&w);
}

void codec_refuse_get(const uint8_t *p, size_t len, char text[WIRE_MAX_SENTENCE + 1])
{
	size_t n = len < WIRE_MAX_SENTENCE ? len : WIRE_MAX_SENTENCE;

	for (size_t i = 0; i < n; i++)
		text[i] = p[i] >= 0x20 && p[i] < 0x7f ? (char)p[i] : '?';
	text[n] = 0;
}

int codec_ctl_put(uint8_t *out, size_t cap, struct wire_head *h, const struct ctl_msg *m)
{
	struct wcursor w = wcursor_of(out, cap);

	if ((unsigned int)m->type >= CTL_TYPE_MAX)
		return -EINVAL;
	h->type = WIRE_CTL;
	h->unit = 0;
	h->epoch = m->n;
	h->generation = m->generation;
	wcursor_u32(&w, (uint32_t)m->type);
	wcursor_u64(&w, m->n);
	wcursor_u64(&w, m->value);
	return codec_done(&w);
}

int codec_ctl_get(const struct wire_head *h, const uint8_t *p, size_t len, struct ctl_msg *m, struct err *e)
{
	struct cursor c = cursor_of(p, len);
	uint32_t type = cursor_u32(&c);

	memset(m, 0, sizeof(*m));
	m->n = cursor_u64(&c);
	m->value = cursor_u64(&c);
	m->generation = h->generation;
	if (codec_end(&c, "control", e))
		return -EPROTO;
	if (type >= CTL_TYPE_MAX)
		return err_set(e, -EPROTO, "a control message has the unknown type %u", type);
	m->type = type;
	return 0;
}

int codec_credit_put(uint8_t *out, size_t cap, uint64_t bytes, uint64_t msgs)
{
	struct wcursor w = wcursor_of(out, cap);

	wcursor_u64(&w, bytes);
	wcursor_u64(&w, msgs);
	return codec_done(&w);
}

int codec_credit_get(const uint8_t *p, size_t len, uint64_t *bytes, uint64_t *msgs, struct err *e)
{
	struct cursor c = cursor_of(p, len);

	*bytes = cursor_u64(&c);
	*msgs = cursor_u64(&c);
	return codec_end(&c, "credit", e);
}

#define FLOW_ZERO sizeof(((struct wire_flow *)0)->zero)

bool codec_net_has_frame(unsigned int type)
{
	return type == NM_INPUT || type == NM_OUTPUT || type == NM_RULES;
}

/* A tag as flow_key.h says it: none, or its id with the bit that tells id 0 from none. */
static bool vlan_ok(uint16_t tag)
{
	return !tag || (tag & ~0xfffu) == FLOW_VLAN;
}

static bool net_has_flow(unsigned int type)
{
	return type == NM_FLOW || type == NM_FLOW_OK || type == NM_TABLE || type == NM_RELEASED;
}

int codec_net_put(uint8_t *out, size_t cap, struct wire_head *h, const struct net_msg *m)
{
	struct wcursor w = wcursor_of(out, cap);

	if (m->type >= NM_MAX || m->nic >= NET_MAX_NICS)
		return -EINVAL;
	h->type = WIRE_NET;
	h->unit = m->nic;
	h->epoch = m->epoch;
	wcursor_u8(&w, m->type);
	wcursor_u8(&w, m->has_ts);
	wcursor_u16(&w, 0);
	wcursor_u32(&w, m->room);
	wcursor_u64(&w, m->seq);
	if (!net_has_flow(m->type))
		return codec_done(&w);
	/* The nodes talk about TCP connections only; the rest of the key is sent whole. */
	if (m->key.datagram)
		return -EINVAL;
	wcursor_bytes(&w, m->key.guest, 16);
	wcursor_bytes(&w, m->key.other, 16);
	wcursor_u16(&w, m->key.guest_port);
	wcursor_u16(&w, m->key.other_port);
	wcursor_u16(&w, m->key.vlan);
	wcursor_u16(&w, m->key.vlan_inner);
	wcursor_u8(&w, m->key.family);
	wcursor_u8(&w, m->key.proto);
	wcursor_u8(&w, m->key.nic);
	wcursor_be(&w, 0, FLOW_ZERO);
	wcursor_u32(&w, m->isn);
	wcursor_u32(&w, m->seq32);
	wcursor_u32(&w, m->ack32);
	wcursor_u32(&w, m->tsval);
	wcursor_u32(&w, m->age_ms);
	wcursor_u32(&w, m->seq_off);
	wcursor_u32(&w, m->ts_off);
	return codec_done(&w);
}

int codec_net_get(const struct wire_head *h, const uint8_t *p, size_t len, struct net_msg *m, const uint8_t **frame,
		  size_t *frame_len, struct err *e)
{
	struct cursor c = cursor_of(p, len);
	struct rules rules;
	uint64_t zero;

	memset(m, 0, sizeof(*m));
	*frame = NULL;
	*frame_len = 0;
	m->type = cursor_u8(&c);
	m->has_ts = cursor_u8(&c);
	zero = cursor_u16(&c);
	m->room = cursor_u32(&c);
	m->seq = cursor_u64(&c);
	m->epoch = h->epoch;
	m->nic = (uint8_t)h->unit;
	if (!c.bad && (m->type >= NM_MAX || m->has_ts > 1 || h->unit >= NET_MAX_NICS))
		return err_set(e, -EPROTO, "a frames message has type %u, NIC %u, timestamps %u", m->type, h->unit,
			       m->has_ts);
	if (codec_net_has_frame(m->type)) {
		*frame_len = c.left;
		*frame = cursor_get(&c, c.left);
		if (*frame_len > WIRE_MAX_FRAME || !*frame_len) {
			*frame = NULL;
			return err_set(e, -EPROTO, "a frames message has a frame of %zu bytes", *frame_len);
		}
		if (m->type == NM_RULES && (c.bad || rules_decode(*frame, *frame_len, &rules))) {
			*frame = NULL;
			return err_set(e, -EPROTO, "a frames message has %zu bytes of rules that are none", *frame_len);
		}
	} else if (net_has_flow(m->type)) {
		cursor_copy(&c, m->key.guest, 16);
		cursor_copy(&c, m->key.other, 16);
		m->key.guest_port = cursor_u16(&c);
		m->key.other_port = cursor_u16(&c);
		m->key.vlan = cursor_u16(&c);
		m->key.vlan_inner = cursor_u16(&c);
		m->key.family = cursor_u8(&c);
		m->key.proto = cursor_u8(&c);
		m->key.nic = cursor_u8(&c);
		zero |= cursor_be(&c, FLOW_ZERO);
		m->isn = cursor_u32(&c);
		m->seq32 = cursor_u32(&c);
		m->ack32 = cursor_u32(&c);
		m->tsval = cursor_u32(&c);
		m->age_ms = cursor_u32(&c);
		m->seq_off = cursor_u32(&c);
		m->ts_off = cursor_u32(&c);
		if (!c.bad && ((m->key.family != 4 && m->key.family != 6) || m->key.nic >= NET_MAX_NICS))
			return err_set(e, -EPROTO, "a frames message has a flow of family %u on NIC %u", m->key.family,
				       m->key.nic);
		if (!vlan_ok(m->key.vlan) || !vlan_ok(m->key.vlan_inner) || (m->key.vlan_inner && !m->key.vlan))
			return err_set(e, -EPROTO, "a frames message has a flow with the VLAN tags 0x%04x and 0x%04x",
				       m->key.vlan, m->key.vlan_inner);
	}
	if (zero)
		return err_set(e, -EPROTO, "a frames message has reserved bytes that are not zero");
	return codec_end(&c, "frames", e);
}

static uint32_t pages_limit(const struct pages_msg *m)
{
	return m->zero ? WIRE_MAX_ZERO_PAGES : m->packed ? WIRE_MAX_PACKED_PAGES : WIRE_MAX_PAGES;
}

int codec_pages_put(uint8_t *out, size_t cap, const struct pages_msg *m)
{
	struct wcursor w = wcursor_of(out, cap);

	if (!m->count || m->count > pages_limit(m))
		return -EINVAL;
	wcursor_u64(&w, m->first);
	wcursor_u32(&w, m->count);
	wcursor_u32(&w, m->zero ? WIRE_PAGES_ZERO : m->packed ? WIRE_PAGES_LZ4 : 0);
	return codec_done(&w);
}

int codec_pages_get(const struct wire_head *h, const uint8_t *p, size_t len, struct pages_msg *m, struct err *e)
{
	struct cursor c = cursor_of(p, len);
	uint32_t flags;

	memset(m, 0, sizeof(*m));
	m->first = cursor_u64(&c);
	m->count = cursor_u32(&c);
	flags = cursor_u32(&c);
	m->zero = flags == WIRE_PAGES_ZERO;
	m->packed = flags == WIRE_PAGES_LZ4;
	if (!c.bad && (!m->count || m->count > pages_limit(m) || (flags && !m->zero && !m->packed) ||
		       m->first > UINT64_MAX / WIRE_PAGE - m->count))
		return err_set(e, -EPROTO, "a pages message has %u pages from %llu with flags 0x%x", m->count,
			       (unsigned long long)m->first, flags);
	m->len = m->zero ? 0 : m->count * WIRE_PAGE;
	/* An LZ4 block is the rest of the message; one no smaller than what it holds would not have been packed. */
	if (m->packed && !c.bad && (len == WIRE_PAGES_LEN || len - WIRE_PAGES_LEN >= m->len))
		return err_set(e, -EPROTO, "a pages message has %u pages packed into %zu bytes", m->count,
			       len - WIRE_PAGES_LEN);
	if (m->packed && !c.bad)
		m->len = (uint32_t)(len - WIRE_PAGES_LEN);
	if (!m->zero)
		m->data = cursor_get(&c, m->len);
	return codec_end(&c, "pages", e);
}

int codec_devstate_put(uint8_t *out, size_t cap, const struct devstate_msg *m)
{
	struct wcursor w = wcursor_of(out, cap);

	if (!m->len || m->len > WIRE_MAX_DEVPIECE || m->total > WIRE_MAX_DEVSTATE || m->len > m->total ||
	    m->offset > m->total - m->len)
		return -EINVAL;
	wcursor_u64(&w, m->offset);
	wcursor_u64(&w, m->total);
	return codec_done(&w);
}

int codec_devstate_get(const struct wire_head *h, const uint8_t *p, size_t len, struct devstate_msg *m, struct err *e)
{
	struct cursor c = cursor_of(p, len);

	memset(m, 0, sizeof(*m));
	m->offset = cursor_u64(&c);
	m->total = cursor_u64(&c);
	if (c.bad)
		return codec_end(&c, "device state", e);
	m->len = (uint32_t)c.left;
	m->data = cursor_get(&c, c.left);
	if (!m->len || m->total > WIRE_MAX_DEVSTATE || m->len > m->total || m->offset > m->total - m->len)
		return err_set(e, -EPROTO, "a device state message has %u bytes at %llu of %llu", m->len,
			       (unsigned long long)m->offset, (unsigned long long)m->total);
	return 0;
}

int codec_marker_put(uint8_t *out, size_t cap, const struct marker_msg *m)
{
	struct wcursor w = wcursor_of(out, cap);

	wcursor_u64(&w, m->pages);
	wcursor_u64(&w, m->bytes);
	wcursor_u64(&w, m->devstate);
	wcursor_u64(&w, m->hash);
	return codec_done(&w);
}

int codec_marker_get(const struct wire_head *h, const uint8_t *p, size_t len, struct marker_msg *m, struct err *e)
{
	struct cursor c = cursor_of(p, len);

	m->pages = cursor_u64(&c);
	m->bytes = cursor_u64(&c);
	m->devstate = cursor_u64(&c);
	m->hash = cursor_u64(&c);
	return codec_end(&c, "marker", e);
}

int codec_disk_write_put(uint8_t *out, size_t cap, const struct disk_write_msg *m)
{
	struct wcursor w = wcursor_of(out, cap);

	if (!m->len || m->len > WIRE_MAX_DISK_DATA || m->off + m->len < m->off)
		return -EINVAL;
	wcursor_u64(&w, m->off);
	return codec_done(&w);
}

int codec_disk_write_get(const uint8_t *p, size_t len, struct disk_write_msg *m, struct err *e)
{
	struct cursor c = cursor_of(p, len);

	m->off = cursor_u64(&c);
	if (c.bad || !c.left || c.left > WIRE_MAX_DISK_DATA || m->off + c.left < m->off)
		return err_set(e, -EPROTO, "a DISK_WRITE message of %zu bytes cannot be", len);
	m->len = (uint32_t)c.left;
	m->data = cursor_get(&c, c.left);
	return 0;
}

int codec_disk_zero_put(uint8_t *out, size_t cap, const struct disk_zero_msg *m)
{
	struct wcursor w = wcursor_of(out, cap);

	if (!m->len || m->off + m->len < m->off)
		return -EINVAL;
	wcursor_u64(&w, m->off);
	wcursor_u64(&w, m->len);
	wcursor_u32(&w, (m->trim ? WIRE_DISK_TRIM : 0) | (m->no_hole ? WIRE_DISK_NO_HOLE : 0));
	return codec_done(&w);
}

int codec_disk_zero_get(const uint8_t *p, size_t len, struct disk_zero_msg *m, struct err *e)
{
	struct cursor c = cursor_of(p, len);
	uint32_t flags;

	m->off = cursor_u64(&c);
	m->len = cursor_u64(&c);
	flags = cursor_u32(&c);
	if (codec_end(&c, "DISK_ZERO", e))
		return -EPROTO;
	if (!m->len || m->off + m->len < m->off || flags > (WIRE_DISK_TRIM | WIRE_DISK_NO_HOLE))
		return err_set(e, -EPROTO, "a DISK_ZERO message has offset %llu, length %llu, flags %u",
			       (unsigned long long)m->off, (unsigned long long)m->len, flags);
	m->trim = flags & WIRE_DISK_TRIM;
	m->no_hole = flags & WIRE_DISK_NO_HOLE;
	return 0;
}

int codec_disk_marker_put(uint8_t *out, size_t cap, const struct disk_marker_msg *m)
{
	struct wcursor w = wcursor_of(out, cap);

	wcursor_u64(&w, m->msgs);
	wcursor_u64(&w, m->bytes);
	return codec_done(&w);
}

int codec_disk_marker_get(const uint8_t *p, size_t len, struct disk_marker_msg *m, struct err *e)
{
	struct cursor c = cursor_of(p, len);

	m->msgs = cursor_u64(&c);
	m->bytes = cursor_u64(&c);
	return codec_end(&c, "DISK_MARKER", e);
}

int codec_disk_sync_put(uint8_t *out, size_t cap, const struct disk_sync_msg *m)
{
	struct wcursor w = wcursor_of(out, cap);

	if (m->len > WIRE_MAX_DISK_SYNC)
		return -EINVAL;
	wcursor_u8(&w, m->type);
	wcursor_be(&w, 0, 3);
	return codec_done(&w);
}

int codec_disk_sync_get(const uint8_t *p, size_t len, struct disk_sync_msg *m, struct err *e)
{
	struct cursor c = cursor_of(p, len);
	uint32_t zero;

	m->type = cursor_u8(&c);
	zero = (uint32_t)cursor_be(&c, 3);
	if (c.bad || zero || c.left > WIRE_MAX_DISK_SYNC)
		return err_set(e, -EPROTO, "a DISK_SYNC message of %zu bytes cannot be", len);
	m->len = (uint32_t)c.left;
	m->data = cursor_get(&c, c.left);
	return 0;
}

int codec_disk_old_put(uint8_t *out, size_t cap, const struct disk_old_msg *m)
{
	struct wcursor w = wcursor_of(out, cap);

	if (!m->len || m->len > WIRE_MAX_DISK_OLD || m->off + m->len < m->off)
		return -EINVAL;
	wcursor_u64(&w, m->off);
	wcursor_u32(&w, m->len);
	wcursor_u32(&w, m->data ? 0 : WIRE_DISK_OLD_ZERO);
	return codec_done(&w);
}

int codec_disk_old_get(const uint8_t *p, size_t len, struct disk_old_msg *m, struct err *e)
{
	struct cursor c = cursor_of(p, len);
	uint32_t flags;

	m->off = cursor_u64(&c);
	m->len = cursor_u32(&c);
	flags = cursor_u32(&c);
	if (c.bad || flags > WIRE_DISK_OLD_ZERO || !m->len || m->len > WIRE_MAX_DISK_OLD || m->off + m->len < m->off ||
	    c.left != (flags ? 0 : m->len))
		return err_set(e, -EPROTO, "a DISK_OLD message of %zu bytes cannot be", len);
	m->data = flags ? NULL : cursor_get(&c, c.left);
	return 0;
}

int codec_disk_kept_put(uint8_t *out, size_t cap, uint64_t count)
{
	struct wcursor w = wcursor_of(out, cap);

	wcursor_u64(&w, count);
	return codec_done(&w);
}

int codec_disk_kept_get(const uint8_t *p, size_t len, uint64_t *count, struct err *e)
{
	struct cursor c = cursor_of(p, len);

	*count = cursor_u64(&c);
	return codec_end(&c, "DISK_KEPT", e);
}
