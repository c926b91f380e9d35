/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Images behind a qemu-storage-daemon: random requests against a plain array, a chain of images, what is refused, the
 * daemon's death, and ours. The random test prints its seed; LOCKSTEP_SEED=n replays it.
 */
#include "../link/looper.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "disk/store.h"
#include "store_bed.h"

#define PATIENCE_MS	20000u

static char dir[64];
static const char *self;

static void run(const char *fmt, ...)
{
	char cmd[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(cmd, sizeof(cmd), fmt, ap);
	va_end(ap);
	if (system(cmd))
		fail_msg("%s failed", cmd);
}

static struct store_cfg config(const char *path)
{
	return (struct store_cfg){ .path = path, .format = "qcow2", .dir = dir };
}

static void random_requests(void **state)
{
	uint64_t seed = bed_seed(), size = (6u << 20) + 1536;
	char path[128], raw[128];
	struct err e = { 0 };
	struct store_cfg cfg = config(path);
	struct bed b;

	snprintf(path, sizeof(path), "%s/random.qcow2", dir);
	snprintf(raw, sizeof(raw), "%s/random.raw", dir);
	run("qemu-img create -q -f qcow2 %s %llu", path, (unsigned long long)size);
	if (!bed_open(&b, &cfg, &e))
		fail_msg("%s", e.msg);
	assert_int_equal(b.size, size);
	assert_string_equal(store_io_name(b.store), "qemu-storage-daemon");
	bed_random(&b, seed, 5000);
	bed_neighbours(&b, 20);
	bed_close(&b);
	run("qemu-img convert -q -f qcow2 -O raw %s %s", path, raw);
	bed_compare_file(&b, raw);
	bed_end(&b);
	run("qemu-img check -q -f qcow2 %s", path);
}

static void chain(void **state)
{
	char base[128], path[128], name[96];
	struct err e = { 0 };
	struct store_cfg cfg = config(path);
	struct blk_extent ext[4] = { { 0 } };
	struct blk_req r = { .op = BLK_STATUS, .len = 3ull << 30, .ext = ext, .n_ext = 4 };
	uint8_t buf[512];
	struct bed b;

	/* A path that JSON has to be told of; larger than one command's length of zeroes. */
	snprintf(name, sizeof(name), "%s/a \"path\"\\", dir);
	assert_int_equal(mkdir(name, 0700), 0);
	snprintf(base, sizeof(base), "%s/base", name);
	snprintf(path, sizeof(path), "%s/top", name);
	run("qemu-img create -q -f raw '%s' 3G && qemu-io -f raw -c 'write -P 9 0 64k' '%s' >/dev/null", base, base);
	run("qemu-img create -q -f qcow2 -b base -F raw '%s'", path);
	if (!bed_open(&b, &cfg, &e))
		fail_msg("%s", e.msg);
	assert_int_equal(bed_call(&b, BLK_READ, 100, 512, buf, 0), 0);
	assert_true(buf[0] == 9 && buf[511] == 9);
	assert_int_equal(bed_do(&b, &r), 0);
	assert_true(r.n_ext >= 1);
	assert_int_equal(ext[0].flags & BLK_ZEROES, 0);
	memset(buf, 3, sizeof(buf));
	assert_int_equal(bed_call(&b, BLK_WRITE, 1000, 512, buf, BLK_FUA), 0);
	assert_int_equal(bed_call(&b, BLK_READ, 999, 512, buf, 0), 0);
	assert_true(buf[0] == 9 && buf[1] == 3);
	assert_int_equal(bed_call(&b, BLK_ZERO, 0, 3ull << 30, NULL, 0), 0);
	assert_int_equal(bed_call(&b, BLK_READ, 999, 512, buf, 0), 0);
	assert_true(!buf[0] && !buf[1]);
	assert_int_equal(bed_call(&b, BLK_TRIM, 0, 3ull << 30, NULL, 0), 0);
	assert_int_equal(bed_call(&b, BLK_CACHE, 0, 100u << 20, NULL, 0), 0);
	assert_int_equal(bed_reserve(&b, 0, 1u << 20), 0);
	bed_close(&b);
	bed_end(&b);
	run("qemu-io -r -f raw -c 'read -P 9 0 64k' '%s' | grep -q 'read 65536/65536'", base);
}

static uint32_t flags_at(struct bed *b, uint64_t off, uint64_t len)
{
	struct blk_extent ext[1] = { { 0 } };
	struct blk_req r = { .op = BLK_STATUS, .off = off, .len = len, .ext = ext, .n_ext = 1 };

	assert_int_equal(bed_do(b, &r), 0);
	assert_int_equal(ext[0].len, len);
	return ext[0].flags;
}

/* Whole clusters are zeroed fast, and give their space back; anything else is refused and stays as it is. */
static void fast_zeroes(void **state)
{
	static const struct {
		const char *how;
		uint64_t size, cluster, off, len;
		int rc;
	} t[] = {
		{ "-f qcow2", 1 << 20, 1 << 16, 1 << 16, 2 << 16, 0 }, { "-f qcow2", 1 << 20, 1 << 16, 4096, 1 << 16, -ENOTSUP },
		{ "-f qcow2", 1 << 20, 1 << 16, 1 << 16, 4096, -ENOTSUP },
		{ "-f qcow2", (1 << 20) + 512, 1 << 16, 1 << 20, 512, 0 },
		{ "-f qcow2 -o cluster_size=2M", 8 << 20, 2 << 20, 1 << 20, 2 << 20, -ENOTSUP },
		{ "-f qcow2 -o cluster_size=2M", 8 << 20, 2 << 20, 2 << 20, 4 << 20, 0 },
		{ "-f qcow2 -o cluster_size=512", 1 << 20, 512, 512, 1024, 0 },
		{ "-f qcow2 -o compat=0.10", 1 << 20, 0, 0, 1 << 20, -ENOTSUP },
		{ "-f vmdk", 1 << 20, 0, 0, 1 << 20, -ENOTSUP },
	};
	uint8_t *buf = malloc(8 << 20);

	for (unsigned int i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		char path[128];
		struct store_cfg cfg = config(path);
		struct err e = { 0 };
		struct bed b;

		snprintf(path, sizeof(path), "%s/fast", dir);
		run("qemu-img create -q %s %s %llu", t[i].how, path, (unsigned long long)t[i].size);
		cfg.format = strstr(t[i].how, "vmdk") ? "vmdk" : "qcow2";
		if (!bed_open(&b, &cfg, &e))
			fail_msg("%s", e.msg);
		assert_false(store_blk(b.store)->fast_zero);
		assert_int_equal(store_blk(b.store)->trim_grain, t[i].cluster);
		memset(buf, 5, t[i].size);
		assert_int_equal(bed_call(&b, BLK_WRITE, 0, t[i].size, buf, 0), 0);
		assert_int_equal(bed_call(&b, BLK_ZERO, t[i].off, t[i].len, NULL, BLK_FAST_ZERO), t[i].rc);
		assert_int_equal(bed_call(&b, BLK_READ, 0, t[i].size, buf, 0), 0);
		for (uint64_t at = 0; at < t[i].size; at += 256)
			assert_int_equal(buf[at], !t[i].rc && at >= t[i].off && at < t[i].off + t[i].len ? 0 : 5);
		if (!t[i].rc)
			assert_int_equal(flags_at(&b, t[i].off, t[i].len), BLK_HOLE | BLK_ZEROES);
		bed_close(&b);
		bed_end(&b);
	}
	free(buf);
}

static _Atomic uint64_t room = UINT64_MAX;	/* of the file system; UINT64_MAX: what it says itself */

int __real_statvfs64(const char *path, struct statvfs *v);
int __wrap_statvfs64(const char *path, struct statvfs *v);

int __wrap_statvfs64(const char *path, struct statvfs *v)
{
	int rc = __real_statvfs64(path, v);

	if (room == UINT64_MAX)
		return rc;
	v->f_frsize = 1;
	v->f_bfree = v->f_bavail = room;
	return rc;
}

/* What would not fit is not promised; what has its place already is, however full it is. */
static void room_for_what_is_to_be_written(void **state)
{
	static uint8_t buf[16 << 20];
	char path[128];
	struct store_cfg cfg = config(path);
	unsigned int tries = 0;
	struct err e = { 0 };
	struct bed b;
	int rc;

	snprintf(path, sizeof(path), "%s/room", dir);
	run("qemu-img create -q -f qcow2 %s 1G", path);
	if (!bed_open(&b, &cfg, &e))
		fail_msg("%s", e.msg);
	memset(buf, 5, sizeof(buf));
	assert_int_equal(bed_call(&b, BLK_WRITE, 0, sizeof(buf), buf, 0), 0);
	assert_int_equal(bed_call(&b, BLK_FLUSH, 0, 0, NULL, 0), 0);
	room = 64 << 20;
	assert_int_equal(bed_reserve(&b, 128 << 20, 100 << 20), -ENOSPC);
	for (unsigned int i = 0; i < 20; i++)
		assert_int_equal(bed_reserve(&b, 0, sizeof(buf)), 0);
	/* Some of it has. */
	assert_int_equal(bed_reserve(&b, 0, 40 << 20), 0);
	assert_int_equal(bed_reserve(&b, 64 << 20, 40 << 20), -ENOSPC);
	/* Small ones too, as soon as there are many: each takes a cluster. */
	for (unsigned int i = 0; i < 100; i++)
		assert_int_equal(bed_reserve(&b, (64 << 20) + i * 100000, 512), 0);
	assert_int_equal(bed_reserve(&b, 256 << 20, 20 << 20), -ENOSPC);
	/* When they were written they take no room twice. */
	assert_int_equal(bed_call(&b, BLK_WRITE, 16 << 20, sizeof(buf), buf, 0), 0);
	assert_int_equal(bed_call(&b, BLK_WRITE, 32 << 20, 8 << 20, buf, 0), 0);
	assert_int_equal(bed_reserve(&b, 256 << 20, 20 << 20), 0);
	assert_int_equal(bed_reserve(&b, 512 << 20, 40 << 20), -ENOSPC);
	/* What was not written until a flush will not be. */
	assert_int_equal(bed_call(&b, BLK_FLUSH, 0, 0, NULL, 0), 0);
	assert_int_equal(bed_reserve(&b, 512 << 20, 40 << 20), 0);
	room = 1 << 20;
	/* A look at it is good for a moment. */
	while (!(rc = bed_reserve(&b, 700 << 20, 1 << 20)))
		assert_true(tries++ < 16);
	assert_int_equal(rc, -ENOSPC);
	assert_int_equal(bed_reserve(&b, 1, (40 << 20) - 1), 0);
	room = UINT64_MAX;
	bed_close(&b);
	bed_end(&b);
}

static void refused(const struct store_cfg *cfg, int code, const char *words)
{
	struct err e = { 0 };
	struct bed b;

	assert_false(bed_open(&b, cfg, &e));
	print_message("%s\n", e.msg);
	if (!strstr(e.msg, words))
		fail_msg("\"%s\" does not say \"%s\"", e.msg, words);
	assert_int_equal(e.code, code);
}

static void what_is_refused(void **state)
{
	char path[128];
	struct store_cfg cfg = config(path);
	struct err e = { 0 };
	struct bed b;

	snprintf(path, sizeof(path), "%s/refused", dir);
	run("truncate -s 1M %s", path);
	refused(&cfg, -EINVAL, "cannot be opened as qcow2: Image is not in qcow2 format");
	cfg.format = "smoke\"";
	refused(&cfg, -EINVAL, "knows no format smoke");
	cfg.format = "qcow2";
	cfg.shared = true;
	refused(&cfg, -EINVAL, "only a raw image can be shared");
	cfg.shared = false;
	cfg.qemu = NULL;
	run("qemu-img create -q -f qcow2 %s 1M", path);
	if (!bed_open(&b, &cfg, &e))
		fail_msg("%s", e.msg);
	refused(&cfg, -EBUSY, "the image is in use by process");
	bed_close(&b);
	bed_end(&b);
	setenv("PATH", "/nonexistent", 1);
	refused(&cfg, -ENOENT, "there is none in PATH");
	cfg.qemu = "/usr/bin/qemu-system-x86_64";
	assert_true(bed_open(&b, &cfg, &e));
	bed_close(&b);
	bed_end(&b);
}

/* The daemon that is this process's child; 0: none */
static pid_t daemon_pid(void)
{
	DIR *d = opendir("/proc");
	struct dirent *x;
	pid_t found = 0;

	assert_non_null(d);
	while (!found && (x = readdir(d))) {
		char path[300], name[64] = "", state;
		int pid, ppid;
		FILE *f;

		snprintf(path, sizeof(path), "/proc/%s/stat", x->d_name);
		f = x->d_name[0] >= '1' && x->d_name[0] <= '9' ? fopen(path, "re") : NULL;
		if (!f)
			continue;
		if (fscanf(f, "%d (%63[^)]) %c %d", &pid, name, &state, &ppid) == 4 && ppid == getpid() && state != 'Z' &&
		    !strncmp(name, "qemu-storage", 12))
			found = pid;
		fclose(f);
	}
	closedir(d);
	return found;
}

static char why[512];
static sem_t has_failed;

static void failed(void *arg, const char *sentence)
{
	snprintf(why, sizeof(why), "%s", sentence);
	sem_post(&has_failed);
}

static struct {
	struct bed *b;
	struct blk_req r[200];
	uint8_t buf[4096];
	unsigned int done, errors, other;
	sem_t all;
} many;

static void one_of_many(struct blk_req *r, int rc)
{
	many.errors += rc == -EIO;
	many.other += rc && rc != -EIO;
	if (++many.done == 200)
		sem_post(&many.all);
}

static void submit_many(void *arg, const void *data, size_t len)
{
	for (unsigned int i = 0; i < 200; i++) {
		many.r[i] = (struct blk_req){ .op = BLK_WRITE, .off = i * 4096, .len = 4096, .buf = many.buf, .done = one_of_many };
		blk_submit(store_blk(many.b->store), &many.r[i]);
	}
}

static bool wait_for(sem_t *s)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	t.tv_sec += PATIENCE_MS / 1000;
	while (sem_timedwait(s, &t))
		if (errno == ETIMEDOUT)
			return false;
	return true;
}

static void daemon_killed(void **state)
{
	char path[128];
	struct store_cfg cfg = config(path);
	struct err e = { 0 };
	uint8_t buf[512];
	struct bed b;
	pid_t pid;

	snprintf(path, sizeof(path), "%s/killed.qcow2", dir);
	run("qemu-img create -q -f qcow2 %s 8M", path);
	sem_init(&has_failed, 0, 0);
	sem_init(&many.all, 0, 0);
	cfg.failed = failed;
	if (!bed_open(&b, &cfg, &e))
		fail_msg("%s", e.msg);
	pid = daemon_pid();
	assert_true(pid > 0);
	/* It is stopped first, so that the requests are under way when it dies; more of them than go at once. */
	kill(pid, SIGSTOP);
	many.b = &b;
	loop_post(b.loop.l, submit_many, NULL, NULL, 0);
	kill(pid, SIGKILL);
	assert_true(wait_for(&many.all));
	print_message("%u failed of %u\n", many.errors, many.done);
	assert_int_equal(many.other, 0);
	assert_true(many.errors > 0);
	assert_true(wait_for(&has_failed));
	assert_non_null(strstr(why, "its qemu-storage-daemon was killed by signal 9"));
	assert_int_equal(bed_call(&b, BLK_READ, 0, 512, buf, 0), -EIO);
	assert_int_equal(bed_call(&b, BLK_FLUSH, 0, 0, NULL, 0), -EIO);
	bed_close(&b);
	bed_end(&b);
	assert_int_equal(daemon_pid(), 0);
	assert_true(bed_open(&b, &cfg, &e));
	bed_close(&b);
	bed_end(&b);
	assert_int_equal(daemon_pid(), 0);
}

/* Run as a program of its own: open the image, say so, and wait to be killed. */
static int hold(const char *path, const char *where)
{
	struct err e = { 0 };
	struct store_cfg cfg = { .path = path, .format = "qcow2", .dir = where, .loop = loop_new("disk", &e) };

	if (!cfg.loop || !store_open(&cfg, &e)) {
		fprintf(stderr, "%s\n", e.msg);
		return 1;
	}
	if (write(1, "x", 1) != 1)
		return 1;
	pause();
	return 0;
}

static void dies_with_us(void **state)
{
	char path[128], x;
	struct store_cfg cfg = config(path);
	struct err e = { 0 };
	bool opened = false;
	struct bed b;
	int p[2];
	pid_t pid;

	snprintf(path, sizeof(path), "%s/held.qcow2", dir);
	run("qemu-img create -q -f qcow2 %s 1M", path);
	assert_int_equal(pipe(p), 0);
	pid = fork();
	if (!pid) {
		dup2(p[1], 1);
		execl(self, self, "--hold", path, dir, NULL);
		_exit(1);
	}
	close(p[1]);
	assert_int_equal(read(p[0], &x, 1), 1);
	assert_false(bed_open(&b, &cfg, &e));
	assert_int_equal(e.code, -EBUSY);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	for (unsigned int i = 0; i < 200 && !opened; i++) {
		opened = bed_open(&b, &cfg, &e);
		if (!opened)
			usleep(PATIENCE_MS * 1000 / 200);
	}
	assert_true(opened);
	bed_close(&b);
	bed_end(&b);
	close(p[0]);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_requests), cmocka_unit_test(chain), cmocka_unit_test(fast_zeroes),
		cmocka_unit_test(room_for_what_is_to_be_written), cmocka_unit_test(daemon_killed),
		cmocka_unit_test(dies_with_us), cmocka_unit_test(what_is_refused),
	};
	char cmd[128];
	int rc;

	self = argv[0];
	if (argc == 4 && !strcmp(argv[1], "--hold"))
		return hold(argv[2], argv[3]);
	if (access("/usr/bin/qemu-storage-daemon", X_OK))
		return 77;
	snprintf(dir, sizeof(dir), "/var/tmp/lockstep-qsd-XXXXXX");
	if (!mkdtemp(dir))
		return 1;
	rc = cmocka_run_group_tests(tests, NULL, NULL);
	snprintf(cmd, sizeof(cmd), "/bin/rm -rf %s", dir);
	return system(cmd) || rc;
}
