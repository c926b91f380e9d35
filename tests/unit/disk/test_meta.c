/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The file beside an image. The main test cuts the power at random moments of random use: of what was written and not
 * made durable each sector is then there, or not, or broken. The next process must know of every region that may
 * differ, and of every lineage whose saving was answered. LOCKSTEP_SEED=N replays one run.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/log.h"
#include "disk/bitmap.h"
#include "disk/intent.h"
#include "disk/meta.h"

#define SIZE	((4999ull << 20) + 512)		/* so the map takes two sectors, and the last block is short */
#define REGIONS	5000u
#define FILE_MAX (1u << 20)

static uint64_t rnd_state;

static uint32_t rnd(uint32_t n)
{
	rnd_state ^= rnd_state << 13;
	rnd_state ^= rnd_state >> 7;
	rnd_state ^= rnd_state << 17;
	return (uint32_t)((rnd_state >> 16) % n);
}

static bool one_in(uint32_t n)
{
	return rnd(n) == 0;
}

/* The medium: what is durable, and what was written since. */
static struct {
	bool on;
	uint8_t durable[FILE_MAX];
	uint64_t len;
	struct { uint64_t off, len; uint8_t *bytes; } pend[512];
	unsigned int n;
	unsigned int cut_in;	/* writes and syncs until the power goes; 0: it does not */
	bool cut;		/* it has: nothing reaches the medium any more */
	unsigned int fail_in;	/* until one of them fails; 0: none */
	uint64_t syncs, writes;
} medium;

ssize_t __real_pwrite64(int fd, const void *buf, size_t len, off_t off);
int __real_fdatasync(int fd);
int __real_fsync(int fd);
int __real_ftruncate64(int fd, off_t len);
ssize_t __wrap_pwrite64(int fd, const void *buf, size_t len, off_t off);
int __wrap_fdatasync(int fd);
int __wrap_fsync(int fd);
int __wrap_ftruncate64(int fd, off_t len);

/* medium_step() - Return: whether this one fails */
static bool medium_step(void)
{
	if (medium.cut_in && --medium.cut_in == 0)
		medium.cut = true;
	return medium.fail_in && --medium.fail_in == 0;
}

ssize_t __wrap_pwrite64(int fd, const void *buf, size_t len, off_t off)
{
	if (medium.on) {
		bool bad = medium_step();

		medium.writes++;
		if (!medium.cut) {
			assert_true(medium.n < 512 && (uint64_t)off + len <= FILE_MAX);
			medium.pend[medium.n].off = (uint64_t)off;
			medium.pend[medium.n].len = len;
			medium.pend[medium.n].bytes = malloc(len);
			memcpy(medium.pend[medium.n++].bytes, buf, len);
		}
		if (bad) {
			errno = EIO;
			return -1;
		}
	}
	return __real_pwrite64(fd, buf, len, off);
}

static void medium_apply(uint8_t *to, bool all)
{
	for (unsigned int i = 0; i < medium.n; i++) {
		for (uint64_t at = 0; at < medium.pend[i].len; at += 512) {
			uint64_t n = medium.pend[i].len - at < 512 ? medium.pend[i].len - at : 512;
			uint8_t *sector = to + medium.pend[i].off + at;
			uint32_t what = all ? 1 : rnd(5);

			if (what < 3 && what > 0)
				memcpy(sector, medium.pend[i].bytes + at, n);
			else if (what == 3)
				memcpy(sector, medium.pend[i].bytes + at, n / 2);
		}
	}
}

static int medium_sync(void)
{
	if (!medium.on)
		return 0;
	medium.syncs++;
	if (medium_step()) {
		errno = EIO;
		return -1;
	}
	if (medium.cut)
		return 0;
	medium_apply(medium.durable, true);
	while (medium.n)
		free(medium.pend[--medium.n].bytes);
	return 0;
}

int __wrap_fdatasync(int fd)
{
	return medium_sync() ? -1 : __real_fdatasync(fd);
}

int __wrap_fsync(int fd)
{
	struct stat st;

	if (fstat(fd, &st) == 0 && S_ISDIR(st.st_mode))
		return __real_fsync(fd);
	return medium_sync() ? -1 : __real_fsync(fd);
}

int __wrap_ftruncate64(int fd, off_t len)
{
	if (medium.on && !medium.cut && len == 0)
		memset(medium.durable, 0, FILE_MAX);
	return __real_ftruncate64(fd, len);
}

static char dir[64], path[128];

static void write_file(const char *name, const uint8_t *bytes, size_t len)
{
	FILE *f = fopen(name, "w");

	assert_non_null(f);
	assert_int_equal(fwrite(bytes, 1, len, f), len);
	fclose(f);
}

static struct meta *open_it(uint64_t stamp, struct err *e)
{
	struct meta_open o = { .path = path, .size = SIZE, .stamp = stamp };

	return meta_open(&o, e);
}

static struct meta *must_open(uint64_t stamp)
{
	struct err e;
	struct meta *m = open_it(stamp, &e);

	if (!m)
		fail_msg("%s", e.msg);
	return m;
}

static int setup(void **state)
{
	snprintf(dir, sizeof(dir), "%s/lockstep-meta-XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/image.lockstep", dir);
	memset(&medium, 0, sizeof(medium));
	return 0;
}

static int teardown(void **state)
{
	while (medium.n)
		free(medium.pend[--medium.n].bytes);
	medium.on = false;
	unlink(path);
	rmdir(dir);
	return 0;
}

static void paired(struct meta *m)
{
	static const uint8_t id[16] = { 9 };

	lineage_begin(meta_lineage(m), id, 77);
}

/* What is true: the regions of which a next process must know. */
struct truth {
	uint64_t wrote[REGIONS];	/* in which epoch, 0: not */
	bool dirty[REGIONS];		/* its block 5 is */
	bool lost[REGIONS];		/* from a process that was killed */
	uint64_t epoch, acked, tried;	/* of the lineage; its epoch counts the savings */
	uint64_t stamp;
	bool ended;			/* meta_end() was answered, and nothing has been since */
};

static uint64_t block_of(uint32_t r)
{
	/* The last region is 512 bytes. */
	return r == REGIONS - 1 ? (uint64_t)r << 20 : ((uint64_t)r << 20) + 5 * 4096;
}

static bool finds(bool (*next)(const struct meta *, uint64_t, uint64_t *, uint64_t *), const struct meta *m, uint64_t off)
{
	uint64_t at, len;

	return next(m, off, &at, &len) && at == off;
}

/* reopen() - the power has gone: what does the next process find? Takes over as the truth what it must. */
static struct meta *reopen(struct truth *t, uint64_t seed)
{
	static uint8_t image[FILE_MAX];
	struct meta *m;
	const struct lineage *l;
	struct err e;

	memcpy(image, medium.durable, FILE_MAX);
	medium_apply(image, false);
	while (medium.n)
		free(medium.pend[--medium.n].bytes);
	memcpy(medium.durable, image, FILE_MAX);
	medium.on = false;
	write_file(path, image, FILE_MAX);
	medium.cut = false;
	medium.cut_in = medium.fail_in = 0;
	m = open_it(t->stamp, &e);
	if (!m)
		fail_msg("%s; LOCKSTEP_SEED=%llu repeats it", e.msg, (unsigned long long)seed);
	l = meta_lineage(m);
	if (l->epoch < t->acked || l->epoch > t->tried)
		fail_msg("the lineage is at %llu, saved were %llu to %llu; LOCKSTEP_SEED=%llu repeats it",
			 (unsigned long long)l->epoch, (unsigned long long)t->acked, (unsigned long long)t->tried,
			 (unsigned long long)seed);
	if (t->ended && !meta_was_clean(m))
		fail_msg("the clean end is not known; LOCKSTEP_SEED=%llu repeats it", (unsigned long long)seed);
	for (uint32_t r = 0; r < REGIONS; r++) {
		bool found = finds(meta_next_intent, m, block_of(r));

		if (meta_was_clean(m) && t->dirty[r] && finds(meta_next_dirty, m, block_of(r)))
			continue;
		if ((t->wrote[r] || t->dirty[r] || t->lost[r]) && !found)
			fail_msg("region %u may differ%s%s%s and is not found (%s); LOCKSTEP_SEED=%llu repeats it", r,
				 t->wrote[r] ? ", written" : "", t->dirty[r] ? ", dirty" : "", t->lost[r] ? ", from before" : "",
				 meta_was_clean(m) ? "clean" : "not clean", (unsigned long long)seed);
		t->lost[r] |= t->wrote[r] || t->dirty[r];
		t->wrote[r] = 0;
		t->dirty[r] = false;
	}
	for (uint32_t r = 0; r < REGIONS; r++)
		t->wrote[r] = 0;
	t->acked = t->tried = l->epoch;
	t->epoch = 1;
	t->ended = false;
	meta_intent_epoch(m, 1);
	if (lineage_fresh(l)) {
		paired(m);
		t->acked = 0;
	}
	medium.on = true;
	return m;
}

static void power_cuts(uint64_t seed, unsigned int cuts)
{
	static struct truth t;
	static uint32_t wants[64];
	struct meta_job *job = NULL;
	unsigned int n = 0;
	bool ran = false;
	int job_rc = 0;
	struct meta *m;
	struct err e;

	rnd_state = seed * 0x9e3779b97f4a7c15ull + 99;
	memset(&t, 0, sizeof(t));
	memset(&medium, 0, sizeof(medium));
	unlink(path);
	t.stamp = t.epoch = 1;
	m = must_open(1);
	paired(m);
	medium.on = true;
	medium.cut_in = 1 + rnd(30);
	while (cuts) {
		uint32_t r = one_in(3) ? rnd(REGIONS) : rnd(70) * 70;

		switch (rnd(12)) {
		case 0 ... 3:	/* a write is asked for */
			if (n == 64)
				n = 0;		/* they were given up; they stay in the map */
			wants[n++] = r;
			/* fallthrough */
		case 4:		/* those that may begin do */
			for (unsigned int i = 0; i < n;) {
				if (!meta_intent(m, block_of(wants[i]), 512)) {
					i++;
					continue;
				}
				t.ended = false;
				if (one_in(2)) {
					meta_dirty(m, block_of(wants[i]), 512);
					t.dirty[wants[i]] = true;
				} else {
					t.wrote[wants[i]] = t.epoch;
				}
				wants[i] = wants[--n];
			}
			break;
		case 5:
			if (!job) {
				job = meta_job_begin(m, one_in(4));
				assert_non_null(job);
				ran = false;
			} else if (!ran) {
				t.ended = false;
				job_rc = meta_job_run(job, &e);
				ran = true;
			} else {
				meta_job_end(job, medium.cut ? -EIO : job_rc);
				job = NULL;
			}
			break;
		case 6:
			t.ended = false;
			t.tried = ++meta_lineage(m)->epoch;
			if (meta_save(m, &e) == 0 && !medium.cut)
				t.acked = t.tried;
			break;
		case 7:		/* a checkpoint */
			meta_intent_epoch(m, ++t.epoch);
			if (t.epoch > 3) {
				meta_intent_clear(m, t.epoch - 3);
				for (uint32_t i = 0; i < REGIONS; i++) {
					if (t.wrote[i] && t.wrote[i] <= t.epoch - 3)
						t.wrote[i] = 0;
				}
			}
			break;
		case 8:
			if (one_in(6)) {	/* a resync */
				meta_clean(m, 0, SIZE);
				meta_intent_reset(m);
				memset(t.dirty, 0, sizeof(t.dirty));
				memset(t.lost, 0, sizeof(t.lost));
			}
			break;
		case 9:
			if (one_in(5) && !job) {	/* a clean end */
				for (uint32_t i = 0; i < REGIONS; i++) {
					if (!t.wrote[i])
						continue;
					meta_dirty(m, block_of(i), 512);
					t.dirty[i] = true;
					t.wrote[i] = 0;
				}
				t.ended = false;
				t.ended = meta_end(m, ++t.stamp, &e) == 0 && !medium.cut;
				n = 0;
			}
			break;
		case 10:
			if (one_in(60))
				medium.fail_in = 1 + rnd(6);
			break;
		case 11:
			if (one_in(20) && !medium.cut_in && !medium.cut)
				medium.cut_in = 1 + rnd(12);
			break;
		}
		if (medium.cut) {
			/* Nothing may be begun after this, so it is now that we look. */
			if (job)
				meta_job_end(job, -EIO);
			job = NULL;
			n = 0;
			meta_close(m);
			m = reopen(&t, seed);
			cuts--;
		}
	}
	meta_close(m);
	medium.on = false;
}

static void power_cuts_lose_nothing(void **state)
{
	const char *given = getenv("LOCKSTEP_SEED");
	uint64_t seed = given ? strtoull(given, NULL, 0) : (uint64_t)time(NULL) << 8 ^ (uint64_t)getpid();

	print_message("first seed %llu\n", (unsigned long long)seed);
	for (unsigned int i = 0; i < (given ? 1u : 100u); i++)
		power_cuts(seed + i, 20);
	/* The rest of a header that was cut in the middle came to life with the beginning of a later one. */
	if (!given)
		power_cuts(459745176423, 20);
}

static void a_second_process_is_refused(void **state)
{
	struct meta *m = must_open(1);
	struct err e;
	pid_t pid;
	int status;

	paired(m);
	assert_int_equal(meta_save(m, &e), 0);
	assert_null(open_it(1, &e));
	assert_int_equal(e.code, -EBUSY);
	assert_non_null(strstr(e.msg, "in use"));
	pid = fork();
	if (pid == 0)
		_exit(open_it(1, &e) ? 1 : e.code == -EBUSY ? 0 : 2);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	meta_close(m);
	m = must_open(1);
	meta_close(m);
}

static void another_size_is_refused(void **state)
{
	struct meta_open o = { .path = path, .size = 1 << 20, .stamp = 1 };
	struct meta *m = must_open(1);
	struct err e;

	assert_int_equal(meta_save(m, &e), 0);
	meta_close(m);
	assert_null(meta_open(&o, &e));
	assert_int_equal(e.code, -EINVAL);
	assert_non_null(strstr(e.msg, "5241831936"));
	assert_non_null(strstr(e.msg, "1048576"));
	assert_non_null(strstr(e.msg, "remove that file on both nodes"));
}

static void damage_is_found(void **state)
{
	uint8_t junk[8192];
	struct meta *m = must_open(1);
	struct err e;
	uint64_t at, len;
	int fd;

	paired(m);
	assert_int_equal(meta_save(m, &e), 0);
	meta_lineage(m)->epoch = 5;
	assert_int_equal(meta_save(m, &e), 0);
	meta_close(m);

	/* A sector of the map: its regions count as set. */
	fd = open(path, O_RDWR);
	assert_int_equal(pwrite(fd, "x", 1, 8192 + 100), 1);
	close(fd);
	m = must_open(1);
	assert_int_equal(meta_lineage(m)->epoch, 5);
	assert_true(meta_next_intent(m, 0, &at, &len));
	assert_int_equal(at, 0);
	assert_int_equal(len, (62ull * 64) << 20);
	meta_close(m);

	/* One header: the other one counts. Each single bit of them is looked at. */
	for (unsigned int bit = 0; bit < 620 * 8; bit += 37) {
		uint8_t c;

		fd = open(path, O_RDWR);
		for (int slot = 0; slot < 2; slot++) {
			assert_int_equal(pread(fd, &c, 1, slot * 4096 + bit / 8), 1);
			c ^= (uint8_t)(1u << bit % 8);
			assert_int_equal(pwrite(fd, &c, 1, slot * 4096 + bit / 8), 1);
			m = open_it(1, &e);
			if (bit / 8 >= 8 && bit / 8 < 12)
				assert_int_equal(e.code, -EPROTONOSUPPORT);
			else
				assert_non_null(m);
			meta_close(m);
			c ^= (uint8_t)(1u << bit % 8);
			assert_int_equal(pwrite(fd, &c, 1, slot * 4096 + bit / 8), 1);
		}
		close(fd);
	}

	memset(junk, 0x5a, sizeof(junk));
	write_file(path, junk, sizeof(junk));
	assert_null(open_it(1, &e));
	assert_int_equal(e.code, -EBADMSG);
	/* Nothing but zeroes was never complete; a directory is none. */
	memset(junk, 0, sizeof(junk));
	write_file(path, junk, sizeof(junk));
	m = must_open(1);
	assert_true(lineage_fresh(meta_lineage(m)));
	meta_close(m);
}

static void a_touched_image_is_compared(void **state)
{
	struct meta *m = must_open(1);
	struct err e;
	uint64_t at, len;

	paired(m);
	assert_false(meta_intent(m, 7 << 20, 4096));
	assert_int_equal(meta_intent_save(m, &e), 0);
	assert_true(meta_intent(m, 7 << 20, 4096));
	meta_dirty(m, (7 << 20) + 100, 4096);
	assert_int_equal(meta_dirty_bytes(m), 8192);
	meta_dirty(m, SIZE - 1, 1);
	assert_int_equal(meta_dirty_bytes(m), 8192 + 512);
	meta_clean(m, (7 << 20) + 100, 4096);
	assert_int_equal(meta_dirty_bytes(m), 8192 + 512);
	assert_int_equal(meta_end(m, 42, &e), 0);
	meta_close(m);

	m = must_open(42);
	assert_true(meta_was_clean(m));
	assert_false(meta_was_touched(m));
	assert_int_equal(meta_dirty_bytes(m), 8192 + 512);
	assert_false(meta_next_intent(m, 0, &at, &len));
	meta_close(m);

	/* A region that is in the file already: the mark has to go all the same before it is written. */
	m = must_open(42);
	assert_false(meta_intent(m, 9 << 20, 4096));
	assert_int_equal(meta_intent_save(m, &e), 0);
	meta_close(m);
	m = must_open(42);
	assert_false(meta_was_clean(m));
	assert_true(meta_intent(m, 9 << 20, 4096));
	assert_int_equal(meta_end(m, 42, &e), 0);
	meta_close(m);
	m = must_open(42);
	assert_true(meta_was_clean(m));
	assert_false(meta_intent(m, 9 << 20, 4096));
	meta_close(m);

	m = must_open(43);
	assert_false(meta_was_clean(m));
	assert_true(meta_was_touched(m));
	assert_int_equal(meta_dirty_bytes(m), 0);
	assert_true(meta_next_intent(m, 0, &at, &len));
	assert_int_equal(at, 0);
	assert_int_equal(len, SIZE);
	meta_close(m);
}

static void a_busy_region_is_saved_once(void **state)
{
	struct meta *m = must_open(1);
	unsigned int saves = 0;
	struct err e;

	paired(m);
	for (uint64_t n = 1; n <= 200; n++) {
		meta_intent_epoch(m, n);
		for (int i = 0; i < 10; i++) {
			if (!meta_intent(m, (uint64_t)rnd(20) << 20, 4096)) {
				assert_int_equal(meta_intent_save(m, &e), 0);
				saves++;
			}
		}
		if (n > 1)
			meta_intent_clear(m, n - 1);
	}
	assert_true(saves <= 20);
	/* And one that is not busy any more leaves, in the end. */
	for (uint64_t n = 201; n <= 200 + 2 * INTENT_KEEP; n++)
		meta_intent_clear(m, n);
	assert_true(meta_intent_stale(m));
	assert_int_equal(meta_intent_save(m, &e), 0);
	assert_false(meta_intent_stale(m));
	assert_false(meta_intent(m, 3 << 20, 4096));
	meta_close(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(power_cuts_lose_nothing, setup, teardown),
		cmocka_unit_test_setup_teardown(a_second_process_is_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(another_size_is_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(damage_is_found, setup, teardown),
		cmocka_unit_test_setup_teardown(a_touched_image_is_compared, setup, teardown),
		cmocka_unit_test_setup_teardown(a_busy_region_is_saved_once, setup, teardown),
	};

	log_init("test", LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
