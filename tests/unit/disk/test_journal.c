/* SPDX-License-Identifier: BSD-2-Clause */
/* disk/journal: headers, indexes, slots; and what a damaged file is answered by. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "disk/journal.h"

enum { CHUNK = 512, SLOTS = 200, ENTRIES = 100 };

/* A file in memory; jobs are done when step() is called, or at once. */
static uint8_t mem[JOURNAL_AREA + CHUNK * SLOTS];
static int fail_sync, punches;

static int m_pread(void *arg, void *buf, uint64_t len, uint64_t off)
{
	memset(buf, 0, len);
	if (off < sizeof(mem))
		memcpy(buf, mem + off, len < sizeof(mem) - off ? len : sizeof(mem) - off);
	return 0;
}

static int m_pwrite(void *arg, const void *buf, uint64_t len, uint64_t off)
{
	if (off + len > sizeof(mem))
		return -ENOSPC;
	memcpy(mem + off, buf, len);
	return 0;
}

static int m_sync(void *arg)
{
	return fail_sync && !--fail_sync ? -EIO : 0;
}

static int m_punch(void *arg, uint64_t off, uint64_t len)
{
	punches++;
	return 0;
}

static void m_run(void *arg, void *job, void (*work)(void *job), void (*finish)(void *job))
{
	work(job);
	finish(job);
}

static const struct journal_file file = { m_pread, m_pwrite, m_sync, m_punch, m_run, NULL };
static const uint8_t ids[2][16] = { { 1 }, { 2 } };

static struct journal *fresh(void)
{
	struct err e = { 0 };
	struct journal *j = journal_new(NULL, &file, ids, 2, CHUNK, SLOTS, &e);

	if (!j)
		print_message("%s\n", e.msg);
	assert_non_null(j);
	return j;
}

static void on_done(void *arg, int rc)
{
	*(int *)arg = rc;
}

static void on_settled(void *arg, int rc, bool named)
{
	*(int *)arg = rc ? named ? 2 : 1 : 0;
}

static int compare(void *arg, const struct journal_entry *e)
{
	uint32_t *i = arg;

	assert_int_equal(e->disk, *i & 1);
	assert_int_equal(e->kind, 1 + *i % 3);
	assert_int_equal(e->off, *i * 1000ull);
	assert_int_equal(e->len, 1 + *i);
	assert_int_equal(e->at, *i * 77ull);
	(*i)++;
	return 0;
}

static void write_index(struct journal *j, struct journal_index *ix)
{
	struct journal_entry entries[ENTRIES];
	int rc = 1;

	for (uint32_t i = 0; i < ENTRIES; i++)
		entries[i] = (struct journal_entry){ i & 1, 1 + i % 3, i * 1000ull, 1 + i, i * 77ull };
	assert_int_equal(journal_index_write(j, ix, entries, ENTRIES, 7, on_done, &rc), 0);
	assert_int_equal(rc, 0);
}

static void index_and_header(void **state)
{
	struct journal_head h;
	struct journal_index ix;
	struct journal *j;
	struct err e;
	uint32_t i = 0;
	int rc = -1;

	memset(mem, 0, sizeof(mem));
	j = fresh();
	write_index(j, &ix);
	assert_int_equal(journal_slots_used(j), ix.slots);
	journal_settle(j, &ix.layer, 1, 6, true, on_settled, &rc);
	assert_int_equal(rc, 0);
	assert_int_equal(journal_read_head(&file, &h, &e), 0);
	assert_true(h.epoch == 6 && h.layers == 1 && h.layer[0].epoch == 7 && h.disks == 2 && h.ids[1][0] == 2);
	assert_int_equal(journal_read_index(&file, &h, &h.layer[0], compare, &i), 0);
	assert_int_equal(i, ENTRIES);
	/* Who comes back must recover first. */
	assert_null(journal_new(NULL, &file, ids, 2, CHUNK, SLOTS, &e));
	assert_non_null(strstr(e.msg, "recovered"));
	/* Any byte of it that is another one is noticed. */
	for (uint64_t at = ix.layer.first; at < ix.layer.first + 300; at += 7) {
		mem[at] ^= 0x10;
		i = 0;
		assert_int_equal(journal_read_index(&file, &h, &h.layer[0], compare, &i), -EBADMSG);
		mem[at] ^= 0x10;
	}
	journal_settle(j, NULL, 0, 7, false, on_settled, &rc);
	journal_index_free(j, &ix);
	assert_int_equal(journal_slots_used(j), 0);
	journal_free(j);
	/* The newer header is damaged: the one before it counts. */
	assert_int_equal(journal_read_head(&file, &h, &e), 0);
	assert_int_equal(h.epoch, 7);
	mem[(h.seq & 1) * JOURNAL_HEAD + 40] ^= 1;
	assert_int_equal(journal_read_head(&file, &h, &e), 0);
	assert_int_equal(h.epoch, 6);
	/* Both are: that is no new file. */
	mem[(h.seq & 1) * JOURNAL_HEAD + 40] ^= 1;
	assert_int_equal(journal_read_head(&file, &h, &e), -EBADMSG);
	assert_non_null(strstr(e.msg, "damaged"));
}

static void failed_settle(void **state)
{
	struct journal_head h;
	struct journal *j;
	struct err e;
	int rc = -1;

	memset(mem, 0, sizeof(mem));
	j = fresh();
	journal_settle(j, NULL, 0, 1, true, on_settled, &rc);
	assert_int_equal(rc, 0);
	fail_sync = 1;	/* of the data: no header is written */
	journal_settle(j, NULL, 0, 2, true, on_settled, &rc);
	assert_int_equal(rc, 1);
	assert_int_equal(journal_epoch(j), 1);
	fail_sync = 2;	/* of the header: it may be there */
	journal_settle(j, NULL, 0, 3, true, on_settled, &rc);
	assert_int_equal(rc, 2);
	assert_int_equal(journal_epoch(j), 1);
	/* Again, in the same place: the good one has never been touched. */
	journal_settle(j, NULL, 0, 4, true, on_settled, &rc);
	assert_int_equal(rc, 0);
	assert_int_equal(journal_read_head(&file, &h, &e), 0);
	assert_true(h.epoch == 4 && h.seq == 2);
	journal_free(j);
}

static void slots_run_out(void **state)
{
	struct journal_entry entries[ENTRIES] = { 0 };
	struct journal_index ix;
	struct journal *j;
	int rc;

	memset(mem, 0, sizeof(mem));
	j = fresh();
	for (uint32_t i = 0; i < SLOTS - 3; i++)
		assert_int_equal(journal_slot_get(j), i);
	assert_int_equal(journal_index_write(j, &ix, entries, ENTRIES, 1, on_done, &rc), -ENOSPC);
	assert_int_equal(journal_slots_used(j), SLOTS - 3);
	assert_int_equal(journal_slot_get(j), SLOTS - 3);
	journal_slot_put(j, 5);
	assert_int_equal(journal_slot_get(j), 5);
	journal_free(j);
}

static void in_a_file(void **state)
{
	char path[] = "/tmp/test_journal.XXXXXX";
	int fd = mkstemp(path);
	struct journal_file f, g;
	uint8_t buf[600], back[700];
	struct journal_head h;
	struct stat st;
	struct err e;

	assert_true(fd >= 0);
	close(fd);
	unlink(path);
	assert_int_equal(journal_open(&f, path, &e), 0);
	assert_int_equal(journal_open(&g, path, &e), -EBUSY);
	assert_int_equal(stat(path, &st), 0);
	assert_true(st.st_blocks * 512 >= JOURNAL_AREA);
	assert_int_equal(journal_read_head(&f, &h, &e), 0);
	assert_true(!h.seq && !h.layers);
	memset(buf, 0x5a, sizeof(buf));
	assert_int_equal(f.pwrite(f.arg, buf, sizeof(buf), 100000), 0);
	assert_int_equal(f.sync(f.arg), 0);
	assert_int_equal(f.pread(f.arg, back, sizeof(back), 100000), 0);
	assert_memory_equal(back, buf, sizeof(buf));
	assert_true(back[650] == 0);
	journal_close(&f);
	assert_int_equal(journal_open(&f, path, &e), 0);
	journal_close(&f);
	unlink(path);
	assert_int_not_equal(journal_open(&f, "/tmp", &e), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(index_and_header), cmocka_unit_test(failed_settle),
					    cmocka_unit_test(slots_run_out), cmocka_unit_test(in_a_file) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
