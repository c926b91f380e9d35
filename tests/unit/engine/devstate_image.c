/* SPDX-License-Identifier: BSD-2-Clause */
/* The image that carries device state, judged by qemu-img where there is one, and the checks of what QEMU wrote. */
#include "mem_rnd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/devstate.h"

static uint8_t state_buf[DEVSTATE_MAX + 1];

/* make_state() - @len bytes that look like a state and are filled with noise */
static void make_state(size_t len)
{
	static const uint8_t head[] = { 'Q', 'E', 'V', 'M', 0, 0, 0, 3, 4 };

	for (size_t i = 0; i < len; i++)
		state_buf[i] = (uint8_t)rnd();
	memcpy(state_buf, head, sizeof(head));
	state_buf[len - 1] = 0;
}

static void write_save(struct devstate *ds, size_t len)
{
	int fds[2];

	devstate_fds(ds, fds);
	assert_int_equal(ftruncate(fds[0], 0), 0);
	assert_int_equal(pwrite(fds[0], state_buf, len, 0), len);
}

static void texts(void **state)
{
	struct devstate *ds = devstate_new(11, 12, NULL);
	char buf[256];

	assert_non_null(ds);
	assert_string_equal(devstate_save_cmd(ds), "{\"execute\":\"xen-save-devices-state\",\"arguments\":"
			    "{\"filename\":\"/proc/self/fd/11\",\"live\":false}}");
	assert_int_equal(devstate_args(ds, buf, sizeof(buf)), 0);
	assert_non_null(strstr(buf, "file.filename=/proc/self/fd/12,"));
	assert_int_equal(devstate_args(ds, buf, 20), -ENAMETOOLONG);
	assert_non_null(strstr(devstate_load_cmd(ds), "\"snapshot-load\""));
	devstate_free(ds);
}

static void saved(void **state)
{
	struct devstate *ds = devstate_new(11, 12, NULL);
	const size_t len[] = { 100, 60705, 213364, 9, 5000 };
	const void *ptr;
	struct err e;
	size_t n;

	for (unsigned int i = 0; i < sizeof(len) / sizeof(len[0]); i++) {
		make_state(len[i] < 10 ? 10 : len[i]);
		write_save(ds, len[i] < 10 ? 10 : len[i]);
		assert_int_equal(devstate_saved(ds, &ptr, &n, &e), 0);
		assert_int_equal(n, len[i] < 10 ? 10 : len[i]);
		assert_memory_equal(ptr, state_buf, n);
	}
	/* Nothing, half of it, another format, with a configuration, too much. */
	write_save(ds, 0);
	assert_int_equal(devstate_saved(ds, &ptr, &n, &e), -EPROTO);
	make_state(1000);
	state_buf[998] = 7;
	write_save(ds, 999);
	assert_int_equal(devstate_saved(ds, &ptr, &n, &e), -EPROTO);
	assert_non_null(strstr(e.msg, "not complete"));
	make_state(1000);
	state_buf[7] = 4;
	write_save(ds, 1000);
	assert_int_equal(devstate_saved(ds, &ptr, &n, &e), -EPROTO);
	make_state(1000);
	state_buf[8] = 7;
	write_save(ds, 1000);
	assert_int_equal(devstate_saved(ds, &ptr, &n, &e), -EPROTO);
	assert_non_null(strstr(e.msg, "send-configuration"));
	make_state(1000);
	write_save(ds, 8);
	assert_int_equal(devstate_saved(ds, &ptr, &n, &e), -EPROTO);
	make_state(DEVSTATE_MAX + 1);
	write_save(ds, DEVSTATE_MAX + 1);
	assert_int_equal(devstate_saved(ds, &ptr, &n, &e), -EFBIG);
	assert_int_equal(devstate_put(ds, state_buf, DEVSTATE_MAX + 1, &e), -EFBIG);
	make_state(DEVSTATE_MAX);
	write_save(ds, DEVSTATE_MAX);
	assert_int_equal(devstate_saved(ds, &ptr, &n, &e), 0);
	assert_int_equal(devstate_put(ds, ptr, n, &e), 0);
	assert_int_equal(devstate_put(ds, "garbage", 7, &e), -EPROTO);
	devstate_free(ds);
}

/* image() - states of changing size: metadata untouched, the newest state whole, nothing of the older one behind it */
static void image(void **state)
{
	struct devstate *ds = devstate_new(11, 12, NULL);
	static uint8_t meta[7 << 18], now[7 << 18], back[1 << 20];
	const off_t data = sizeof(meta);
	struct stat st;
	struct err e;
	int fds[2];

	devstate_fds(ds, fds);
	assert_int_equal(pread(fds[1], meta, sizeof(meta), 0), sizeof(meta));
	for (unsigned int i = 0; i < 100; i++) {
		size_t len = 10 + rnd() % (i % 3 ? 600000 : 900);

		make_state(len);
		assert_int_equal(devstate_put(ds, state_buf, len, &e), 0);
		assert_int_equal(pread(fds[1], now, sizeof(now), 0), sizeof(now));
		assert_memory_equal(now, meta, sizeof(meta));
		assert_int_equal(pread(fds[1], back, sizeof(back), data), sizeof(back));
		assert_memory_equal(back, state_buf, len);
		for (size_t k = len; k < sizeof(back); k++)
			assert_int_equal(back[k], 0);
	}
	assert_int_equal(fstat(fds[1], &st), 0);
	/* Sparse: it takes what the states took. */
	assert_true((size_t)st.st_blocks * 512 < 4 << 20);
	devstate_free(ds);
}

static void judged_by_qemu_img(void **state)
{
	struct devstate *ds = devstate_new(11, 12, NULL);
	char cmd[512], line[512];
	int fds[2], found = 0;
	FILE *f;

	if (system("qemu-img --version >/dev/null 2>&1") != 0)
		skip();
	devstate_fds(ds, fds);
	make_state(60000);
	assert_int_equal(devstate_put(ds, state_buf, 60000, NULL), 0);
	snprintf(cmd, sizeof(cmd), "qemu-img check -q -f qcow2 /proc/%d/fd/%d >&2", getpid(), fds[1]);
	assert_int_equal(system(cmd), 0);
	snprintf(cmd, sizeof(cmd), "qemu-img snapshot -l /proc/%d/fd/%d", getpid(), fds[1]);
	f = popen(cmd, "r");
	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		found += strstr(line, "lockstep") != NULL;
	assert_int_equal(pclose(f), 0);
	assert_int_equal(found, 1);
	devstate_free(ds);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(texts),
		cmocka_unit_test(saved),
		cmocka_unit_test(image),
		cmocka_unit_test(judged_by_qemu_img),
	};

	rnd_seed();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
