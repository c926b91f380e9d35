/* SPDX-License-Identifier: BSD-2-Clause */
/* The heartbeat's datagram. Pure; any thread. */
#include "cluster/beat.h"

#include <assert.h>
#include <errno.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <string.h>

#include "base/cursor.h"

/* The layout, for the offsets' sake; read and written through cursors. */
struct beat_wire {
	uint8_t magic[4];
	uint8_t version;
	uint8_t listener;	/* so that a beat that is sent back to its sender is not taken for the peer's */
	uint8_t path;
	uint8_t zero;
	uint8_t session[BEAT_ID_LEN];
	uint8_t vm_id[BEAT_ID_LEN];
	uint8_t generation[4];
	uint8_t zero2[4];
	uint8_t seq[8];
	uint8_t sent[8];
	uint8_t echo_seq[8];
	uint8_t echo_sent[8];
	uint8_t echo_held[8];
	uint8_t age_ms[BEAT_SOURCES][4];
	uint8_t echo_any[8];
};
static_assert(sizeof(struct beat_wire) == BEAT_LEN, "beat");

const char *beat_source_name(unsigned int s)
{
	static const char *const names[] = { "control loop", "frames loop", "bulk loop", "QMP" };

	return s < BEAT_SOURCES ? names[s] : "?";
}

void beat_encode(uint8_t out[BEAT_LEN], const struct beat *b)
{
	struct wcursor w = wcursor_of(out, BEAT_LEN);

	wcursor_u32(&w, BEAT_MAGIC);
	wcursor_u8(&w, BEAT_VERSION);
	wcursor_u8(&w, b->listener);
	wcursor_u8(&w, b->path);
	wcursor_u8(&w, 0);
	wcursor_bytes(&w, b->session, BEAT_ID_LEN);
	wcursor_bytes(&w, b->vm_id, BEAT_ID_LEN);
	wcursor_u32(&w, b->generation);
	wcursor_u32(&w, 0);
	wcursor_u64(&w, b->seq);
	wcursor_u64(&w, b->sent);
	wcursor_u64(&w, b->echo_seq);
	wcursor_u64(&w, b->echo_sent);
	wcursor_u64(&w, b->echo_held);
	for (int i = 0; i < BEAT_SOURCES; i++)
		wcursor_u32(&w, b->age_ms[i]);
	wcursor_u64(&w, b->echo_any);
}

int beat_decode(const uint8_t *p, size_t len, struct beat *b, struct err *e)
{
	struct cursor c = cursor_of(p, len);
	uint32_t magic = cursor_u32(&c);
	uint8_t version = cursor_u8(&c);
	uint8_t listener = cursor_u8(&c);
	uint64_t zero;

	b->path = cursor_u8(&c);
	zero = cursor_u8(&c);
	cursor_copy(&c, b->session, BEAT_ID_LEN);
	cursor_copy(&c, b->vm_id, BEAT_ID_LEN);
	b->generation = cursor_u32(&c);
	zero |= cursor_u32(&c);
	b->seq = cursor_u64(&c);
	b->sent = cursor_u64(&c);
	b->echo_seq = cursor_u64(&c);
	b->echo_sent = cursor_u64(&c);
	b->echo_held = cursor_u64(&c);
	for (int i = 0; i < BEAT_SOURCES; i++)
		b->age_ms[i] = cursor_u32(&c);
	b->echo_any = cursor_u64(&c);
	if (c.bad || c.left || magic != BEAT_MAGIC)
		return err_set(e, -EPROTO, "a datagram of %zu bytes is no heartbeat", len);
	b->listener = listener;
	if (version != BEAT_VERSION || zero || listener > 1 || !b->seq)
		return err_set(e, -EPROTO, "a heartbeat has version %u and number %llu", version,
			       (unsigned long long)b->seq);
	return 0;
}

/* Return: whether there is one; a gnutls that refuses the algorithm (policy) has none. */
static bool mac_of(const uint8_t *p, const uint8_t key[BEAT_KEY_LEN], uint8_t out[BEAT_MAC_LEN])
{
	uint8_t full[32];

	if (gnutls_hmac_fast(GNUTLS_MAC_SHA256, key, BEAT_KEY_LEN, p, BEAT_LEN, full) < 0)
		return false;
	memcpy(out, full, BEAT_MAC_LEN);
	return true;
}

int beat_sign(uint8_t *p, const uint8_t key[BEAT_KEY_LEN])
{
	return mac_of(p, key, p + BEAT_LEN) ? 0 : -EIO;
}

bool beat_verify(const uint8_t *p, size_t len, const uint8_t key[BEAT_KEY_LEN])
{
	uint8_t mac[BEAT_MAC_LEN];

	return len == BEAT_LEN + BEAT_MAC_LEN && mac_of(p, key, mac) && !gnutls_memcmp(mac, p + BEAT_LEN, BEAT_MAC_LEN);
}
