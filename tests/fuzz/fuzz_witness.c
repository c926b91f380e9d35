/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Fuzz target: witness. What etcd answers, what stands on a witness's disk, and what --witness says, are refused with a
 * sentence or understood within bounds. First byte: 0: a disk's block; 1: the option; else the answer, with HTTP status
 * 200 when it is odd.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/witness_disk.h"
#include "cluster/witness_internal.h"
#include "fuzz.h"

static void disk(const uint8_t *p, size_t n)
{
	static const struct witness_record want = { .generation = UINT32_MAX };
	uint8_t raw[DISK_USED] = { 0 }, again[DISK_USED];
	struct disk_block d;
	struct paxos x;
	enum paxos_step s;
	int rc;

	memcpy(raw, p, n < sizeof(raw) ? n : sizeof(raw));
	rc = disk_block_decode(raw, &d);
	MUST(!rc || rc == -EBADMSG);
	if (rc || !d.used)
		return;
	disk_block_encode(again, &d);
	MUST(!disk_block_decode(again, &d));
	MUST(d.p.mbal <= PAXOS_MAX && d.p.inst <= PAXOS_MAX && d.slot < 2);
	/* Whatever the other one's block says, a claim comes to an end, or waits for it. */
	s = paxos_begin(&x, !d.slot, &(struct paxos_block){ 0 }, d.p.chosen.generation < UINT32_MAX ? d.p.chosen.generation : 0, &want);
	for (int i = 0; i < 20 && s < PAXOS_WAIT; i++)
		s = paxos_next(&x, s == PAXOS_READ ? &d.p : NULL);
	MUST(s >= PAXOS_WAIT);
}

static void option(const uint8_t *p, size_t n)
{
	char *text = malloc(n + 1);
	struct witness_spec s;
	struct err e = { 0 };
	int rc;

	if (!text)
		return;
	memcpy(text, p, n);
	text[n] = 0;
	rc = witness_spec_parse(text, &s, &e);
	MUST(!rc || (rc == -EINVAL && e.msg[0]));
	MUST(rc || s.kind != WITNESS_ETCD || (s.endpoints && s.endpoints <= WITNESS_ENDPOINTS_MAX && s.prefix[0] == '/' &&
	     s.prefix[strlen(s.prefix) - 1] == '/'));
	MUST(rc || s.kind != WITNESS_DISK || (s.path[0] == '/' && s.node <= 2));
	free(text);
}

static void answer(long status, const uint8_t *p, size_t n)
{
	struct etcd_answer a;
	struct err e = { 0 };
	char body[ETCD_BODY_MAX];
	int rc = etcd_read(status, (const char *)p, n, &a, &e);

	MUST(!rc || (rc < 0 && e.msg[0]));
	if (rc)
		return;
	MUST(status == 200 && a.kv.len <= ETCD_VALUE_MAX && a.kv.found == (a.kv.record.generation > 0));
	MUST(!etcd_ask_cas(body, "/k", &a.kv, &a.kv.record));
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	if (!size)
		return 0;
	if (bytes[0] > 1)
		answer(bytes[0] % 2 ? 200 : 400, bytes + 1, size - 1);
	else if (bytes[0])
		option(bytes + 1, size - 1);
	else
		disk(bytes + 1, size - 1);
	return 0;
}
