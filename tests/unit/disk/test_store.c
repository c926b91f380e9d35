/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The stores: random requests of any alignment against a plain array, both kinds of I/O, through the page cache and past
 * it; what is refused; locks against ourselves and against QEMU's own tools. Random tests print their seed; LOCKSTEP_SEED=n
 * replays it.
 */
#include "../link/looper.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "disk/store.h"
#include "store_bed.h"

#define ARRAY_LEN(a)	(sizeof(a) / sizeof((a)[0]))

static char dir[64];	/* on a file system with direct I/O, where there is one */

static const char *image(const char *name, uint64_t size)
{
	static char path[128];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	close(fd);
	return path;
}

struct way {
	const char *name;
	enum store_io io;
	enum store_direct direct;
};

static const struct way ways[] = {
	{ "uring", STORE_IO_URING, STORE_DIRECT_OFF },
	{ "uring direct", STORE_IO_URING, STORE_DIRECT_ON },
	{ "threads", STORE_IO_THREADS, STORE_DIRECT_OFF },
	{ "threads direct", STORE_IO_THREADS, STORE_DIRECT_ON },
};

static bool have_uring(void)
{
	struct bed b;
	struct err e = { 0 };
	struct store_cfg cfg = { .path = image("probe", 512), .format = "raw", .io = STORE_IO_URING };
	bool yes = bed_open(&b, &cfg, &e);

	if (yes) {
		bed_close(&b);
		bed_end(&b);
	} else {
		print_message("io_uring is not tested here: %s\n", e.msg);
	}
	return yes;
}

static void random_requests(void **state)
{
	uint64_t seed = bed_seed();
	bool uring = have_uring();

	/* 3 * 512 more: the last 4096 bytes are not all there. */
	for (unsigned int i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
		struct store_cfg cfg = { .format = "raw", .io = ways[i].io, .direct = ways[i].direct };
		uint64_t size = (6u << 20) + 1536;
		struct err e = { 0 };
		struct bed b;

		if (ways[i].io == STORE_IO_URING && !uring)
			continue;
		cfg.path = image("random", size);
		assert_true(bed_open(&b, &cfg, &e));
		print_message("%s: %s, align %u\n", ways[i].name, store_io_name(b.store), store_blk(b.store)->align);
		bed_random(&b, seed + i, 6000);
		bed_close(&b);
		bed_compare_file(&b, cfg.path);
		bed_end(&b);
		unlink(cfg.path);
	}
}

/* Each sector gets bytes by several writes at once, none of which may be lost. */
static void neighbours_in_a_sector(void **state)
{
	for (unsigned int i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
		struct store_cfg cfg = { .path = image("neighbours", 1u << 20), .format = "raw", .direct = ways[i].direct,
					 .io = ways[i].io == STORE_IO_URING ? STORE_IO_AUTO : ways[i].io };
		struct err e = { 0 };
		struct bed b;

		assert_true(bed_open(&b, &cfg, &e));
		bed_neighbours(&b, 40);
		bed_close(&b);
		bed_compare_file(&b, cfg.path);
		bed_end(&b);
	}
}

static uint64_t allocated(const char *path)
{
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

static void sparse_stays_sparse(void **state)
{
	const char *path = image("sparse", 64u << 20);
	struct store_cfg cfg = { .path = path, .format = "raw" };
	struct blk_extent ext[8] = { { 0 } };
	struct blk_req r;
	struct err e = { 0 };
	uint8_t buf[4096];
	struct bed b;

	memset(buf, 5, sizeof(buf));
	assert_true(bed_open(&b, &cfg, &e));
	assert_int_equal(bed_call(&b, BLK_WRITE, 1u << 20, sizeof(buf), buf, 0), 0);
	assert_int_equal(bed_call(&b, BLK_WRITE, 2u << 20, sizeof(buf), buf, BLK_FUA), 0);
	assert_int_equal(bed_call(&b, BLK_ZERO, 8u << 20, 16u << 20, NULL, 0), 0);
	assert_int_equal(bed_call(&b, BLK_FLUSH, 0, 0, NULL, 0), 0);
	assert_true(allocated(path) < 1u << 20);

	r = (struct blk_req){ .op = BLK_STATUS, .off = 0, .len = 64u << 20, .ext = ext, .n_ext = 8 };
	assert_int_equal(bed_do(&b, &r), 0);
	assert_int_equal(r.n_ext, 5);
	assert_int_equal(ext[0].len, 1u << 20);
	assert_int_equal(ext[0].flags, BLK_HOLE | BLK_ZEROES);
	assert_int_equal(ext[1].len, 4096);
	assert_int_equal(ext[1].flags, 0);
	assert_int_equal(ext[4].flags, BLK_HOLE | BLK_ZEROES);

	/* Reserving takes space there and nowhere else, and changes nothing. */
	assert_int_equal(bed_reserve(&b, 4u << 20, 1u << 20), 0);
	assert_true(allocated(path) >= 1u << 20 && allocated(path) < 2u << 20);
	assert_int_equal(bed_reserve(&b, 1u << 20, 4096), 0);
	assert_int_equal(bed_call(&b, BLK_READ, 1u << 20, sizeof(buf), buf, 0), 0);
	assert_int_equal(buf[4095], 5);

	/* No hole: the space is there afterwards. */
	assert_int_equal(bed_call(&b, BLK_ZERO, 32u << 20, 4u << 20, NULL, BLK_NO_HOLE), 0);
	assert_true(allocated(path) >= 5u << 20);
	assert_int_equal(bed_call(&b, BLK_ZERO, 32u << 20, 4u << 20, NULL, BLK_FAST_ZERO), 0);
	assert_int_equal(bed_call(&b, BLK_TRIM, 0, 32u << 20, NULL, BLK_FUA), 0);
	assert_int_equal(bed_call(&b, BLK_CACHE, 0, 1u << 20, NULL, 0), 0);
	assert_true(allocated(path) < 1u << 20);
	bed_close(&b);
	bed_end(&b);
}

static void refused(const char *path, bool readonly, int code, const char *words)
{
	struct store_cfg cfg = { .path = path, .format = "raw", .readonly = readonly };
	struct err e = { 0 };
	struct bed b;

	assert_false(bed_open(&b, &cfg, &e));
	if (!strstr(e.msg, words))
		fail_msg("\"%s\" does not say \"%s\"", e.msg, words);
	assert_int_equal(e.code, code);
}

static void what_is_refused(void **state)
{
	char path[128];

	refused("/nonexistent/image", false, -ENOENT, "there is no such image");
	refused(dir, false, -EISDIR, "is a directory");
	refused("/dev/null", false, -EINVAL, "neither a file nor a block device");
	refused(image("empty", 0), false, -EINVAL, "is empty");
	refused(image("odd", 513), false, -EINVAL, "513 bytes, is no multiple of 512");
	snprintf(path, sizeof(path), "%s", image("locked", 4096));
	if (geteuid()) {
		chmod(path, 0400);
		refused(path, false, -EACCES, "read-only");
		chmod(path, 0);
		refused(path, true, -EACCES, "cannot read");
	}
	setenv("LOCKSTEP_DISK_IO", "smoke", 1);
	refused(image("env", 4096), false, -EINVAL, "it is uring or threads");
	unsetenv("LOCKSTEP_DISK_IO");
}

static void readonly_store(void **state)
{
	struct store_cfg cfg = { .path = image("ro", 1u << 20), .format = "raw", .readonly = true };
	struct bed b, b2;
	struct err e = { 0 };
	uint8_t buf[512];

	assert_true(bed_open(&b, &cfg, &e));
	/* Two that only read do not exclude each other. */
	assert_true(bed_open(&b2, &cfg, &e));
	assert_int_equal(bed_call(&b, BLK_READ, 0, 512, buf, 0), 0);
	assert_int_equal(bed_call(&b, BLK_WRITE, 0, 512, buf, 0), -EROFS);
	assert_int_equal(bed_call(&b, BLK_ZERO, 0, 512, NULL, 0), -EROFS);
	assert_int_equal(bed_call(&b, BLK_TRIM, 0, 512, NULL, 0), -EROFS);
	assert_int_equal(bed_call(&b, BLK_FLUSH, 0, 0, NULL, 0), 0);
	assert_int_equal(bed_reserve(&b, 0, 512), -EROFS);
	bed_close(&b2);
	bed_end(&b2);
	bed_close(&b);
	bed_end(&b);
}

/* Run a command; what it says on both outputs is in @said. */
static int command(const char *cmd, char *said, size_t size)
{
	FILE *p = popen(cmd, "re");
	size_t n;

	assert_non_null(p);
	n = fread(said, 1, size - 1, p);
	said[n] = 0;
	return pclose(p);
}

static void locks_with_qemu(void **state)
{
	char path[128], cmd[512], said[2048];
	struct store_cfg cfg = { .path = path, .format = "raw" };
	struct err e = { 0 };
	struct bed b, b2;
	FILE *io;

	if (access("/usr/bin/qemu-img", X_OK) || access("/usr/bin/qemu-io", X_OK))
		skip();
	snprintf(path, sizeof(path), "%s", image("lock", 1u << 20));
	assert_true(bed_open(&b, &cfg, &e));

	/* Twice in one process, and who has it. */
	assert_false(bed_open(&b2, &cfg, &e));
	assert_int_equal(e.code, -EBUSY);
	assert_non_null(strstr(e.msg, "in use by this process itself"));

	/* QEMU's tools meet us as they meet a QEMU. */
	snprintf(cmd, sizeof(cmd), "qemu-img info -f raw %s 2>&1", path);
	assert_int_equal(command(cmd, said, sizeof(said)), 0);
	snprintf(cmd, sizeof(cmd), "qemu-img resize -f raw %s 2M 2>&1", path);
	assert_int_not_equal(command(cmd, said, sizeof(said)), 0);
	assert_non_null(strstr(said, "lock"));
	snprintf(cmd, sizeof(cmd), "qemu-system-x86_64 -display none -S -drive file=%s,format=raw 2>&1", path);
	assert_int_not_equal(command(cmd, said, sizeof(said)), 0);
	assert_non_null(strstr(said, "lock"));
	snprintf(cmd, sizeof(cmd), "qemu-io -f raw -c 'write 0 512' %s 2>&1", path);
	assert_int_not_equal(command(cmd, said, sizeof(said)), 0);
	assert_non_null(strstr(said, "lock"));
	bed_close(&b);
	bed_end(&b);
	assert_int_equal(command(cmd, said, sizeof(said)), 0);

	/* And we them: a qemu-io that waits for the next command has the image. */
	snprintf(cmd, sizeof(cmd), "exec qemu-io -f raw %s >%s/said 2>&1", path, dir);
	io = popen(cmd, "we");
	assert_non_null(io);
	fprintf(io, "write -P 7 0 512\nflush\n");
	fflush(io);
	snprintf(cmd, sizeof(cmd), "%s/said", dir);
	for (unsigned int i = 0; i < 1000 && (!(stat(cmd, &(struct stat){ 0 }) == 0 && bed_file_has(cmd, "wrote"))); i++)
		usleep(10000);
	assert_false(bed_open(&b, &cfg, &e));
	assert_int_equal(e.code, -EBUSY);
	if (!strstr(e.msg, "(qemu-io)"))
		fail_msg("\"%s\" does not name qemu-io", e.msg);
	cfg.readonly = true;
	assert_false(bed_open(&b, &cfg, &e));
	cfg.readonly = false;
	cfg.shared = true;
	if (bed_open(&b, &cfg, &e)) {
		bed_close(&b);
		bed_end(&b);
	} else {
		assert_int_equal(e.code, -ENOTSUP);
	}
	cfg.shared = false;
	fprintf(io, "quit\n");
	pclose(io);
	assert_true(bed_open(&b, &cfg, &e));
	bed_close(&b);
	bed_end(&b);
}

static void stamp_tells_of_changes(void **state)
{
	char path[128];
	struct store_cfg cfg = { .path = path, .format = "raw" };
	struct err e = { 0 };
	struct bed b;
	uint64_t before;
	uint8_t buf[512] = { 1 };

	snprintf(path, sizeof(path), "%s", image("stamp", 1u << 20));
	assert_true(bed_open(&b, &cfg, &e));
	before = store_file_stamp(b.store);
	assert_int_not_equal(before, 0);
	assert_int_equal(bed_call(&b, BLK_READ, 0, 512, buf, 0), 0);
	assert_int_equal(store_file_stamp(b.store), before);
	/* The clock of the file system may be coarse. */
	for (unsigned int i = 0; i < 200 && store_file_stamp(b.store) == before; i++) {
		assert_int_equal(bed_call(&b, BLK_WRITE, 0, 512, buf, 0), 0);
		usleep(1000);
	}
	assert_int_not_equal(store_file_stamp(b.store), before);
	before = store_file_stamp(b.store);
	bed_close(&b);
	bed_end(&b);
	assert_true(bed_open(&b, &cfg, &e));
	assert_int_equal(store_file_stamp(b.store), before);
	bed_close(&b);
	bed_end(&b);
}

static void tmpfs_has_no_direct(void **state)
{
	char path[128];
	struct store_cfg cfg = { .path = path, .format = "raw", .direct = STORE_DIRECT_ON };
	uint64_t seed = bed_seed();
	struct err e = { 0 };
	struct bed b;
	int fd;

	snprintf(path, sizeof(path), "/dev/shm/lockstep-store-%d", (int)getpid());
	fd = open(path, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
	if (fd < 0)
		skip();
	assert_int_equal(ftruncate(fd, 4u << 20), 0);
	close(fd);
	assert_true(bed_open(&b, &cfg, &e));
	print_message("tmpfs: %s\n", store_is_direct(b.store) ? "direct" : "through the page cache");
	bed_random(&b, seed, 2000);
	bed_close(&b);
	bed_compare_file(&b, path);
	bed_end(&b);
	unlink(path);
}

/* The disk of all images: it fails once, in the next write that has to be durable, or in the next flush. */
static _Atomic int fails;

ssize_t __real_pwritev64v2(int fd, const struct iovec *v, int n, off_t off, int flags);
ssize_t __wrap_pwritev64v2(int fd, const struct iovec *v, int n, off_t off, int flags);
int __real_fdatasync(int fd);
int __wrap_fdatasync(int fd);

static int fault(void)
{
	errno = atomic_exchange(&fails, 0);
	return errno;
}

ssize_t __wrap_pwritev64v2(int fd, const struct iovec *v, int n, off_t off, int flags)
{
	return flags & RWF_DSYNC && fault() ? -1 : __real_pwritev64v2(fd, v, n, off, flags);
}

int __wrap_fdatasync(int fd)
{
	return fault() ? -1 : __real_fdatasync(fd);
}

/* The kernel says once that what was written is lost, to whoever asks first; after that no flush may say that all is well. */
static void what_is_lost_stays_lost(void **state)
{
	static const struct {
		enum blk_op op;
		uint32_t flags;
		int error, then;
	} tries[] = {
		{ BLK_FLUSH, 0, EIO, -EIO }, { BLK_WRITE, BLK_FUA, EIO, -EIO }, { BLK_ZERO, BLK_FUA, EIO, -EIO },
		{ BLK_FLUSH, 0, ENOSPC, -ENOSPC }, { BLK_WRITE, BLK_FUA, ENOSPC, 0 },
	};
	struct store_cfg cfg = { .path = image("lost", 1u << 20), .format = "raw", .io = STORE_IO_THREADS,
				 .direct = STORE_DIRECT_OFF };
	uint8_t buf[4096] = { 1 };
	struct err e = { 0 };
	struct bed b;

	for (unsigned int i = 0; i < ARRAY_LEN(tries); i++) {
		bool flush = tries[i].op == BLK_FLUSH;

		assert_true(bed_open(&b, &cfg, &e));
		assert_int_equal(bed_call(&b, BLK_WRITE, 0, sizeof(buf), buf, 0), 0);
		fails = tries[i].error;
		assert_int_equal(bed_call(&b, tries[i].op, flush ? 0 : 4096, flush ? 0 : 4096, flush ? NULL : buf,
					  tries[i].flags), -tries[i].error);
		assert_int_equal(fails, 0);
		for (unsigned int k = 0; k < 2; k++) {
			assert_int_equal(bed_call(&b, BLK_FLUSH, 0, 0, NULL, 0), tries[i].then);
			assert_int_equal(bed_call(&b, BLK_WRITE, 0, sizeof(buf), buf, BLK_FUA), tries[i].then);
		}
		assert_int_equal(bed_call(&b, BLK_READ, 0, sizeof(buf), buf, 0), 0);
		bed_close(&b);
		bed_end(&b);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_requests), cmocka_unit_test(neighbours_in_a_sector), cmocka_unit_test(sparse_stays_sparse),
		cmocka_unit_test(what_is_refused), cmocka_unit_test(readonly_store), cmocka_unit_test(locks_with_qemu),
		cmocka_unit_test(stamp_tells_of_changes), cmocka_unit_test(tmpfs_has_no_direct),
		cmocka_unit_test(what_is_lost_stays_lost),
	};
	char cmd[128];
	int rc;

	snprintf(dir, sizeof(dir), "/var/tmp/lockstep-store-XXXXXX");
	if (!mkdtemp(dir))
		return 1;
	rc = cmocka_run_group_tests(tests, NULL, NULL);
	snprintf(cmd, sizeof(cmd), "rm -rf %s", dir);
	return system(cmd) || rc;
}
