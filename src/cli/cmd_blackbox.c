/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * lockstep blackbox: why did we fail over? Reads the file that a node has written at its last failover or end, in the run
 * directory or wherever it was copied to; a node that runs and has seen none, or with --now, is asked for its present one.
 */
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/vm_args.h"
#include "monitor/blackbox.h"

enum { OPT_LAST = VM_OPT_OWN, OPT_NOW };

static const struct cli_opt opts[] = {
	VM_OPTS_COMMON,
	{ "last", OPT_LAST, "N", "the newest N steps, heartbeats too (default: those around the failover)" },
	{ "now", OPT_NOW, NULL, "the steps of the running node, not those of its last failover" },
	{ NULL },
};

static void *read_file(const char *path, size_t *len, struct err *e)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	uint8_t *buf = NULL;
	struct stat st;
	ssize_t n = 0;

	*len = 0;
	if (fd < 0 || fstat(fd, &st) < 0) {
		err_set(e, -errno, "cannot open %.300s: %s", path, strerror(errno));
	} else if (!S_ISREG(st.st_mode) || st.st_size > (off_t)BLACKBOX_MAX) {
		err_set(e, -EINVAL, "%.300s is no file of a blackbox: %s", path, S_ISREG(st.st_mode) ? "it is too large" :
			"it is no regular file");
	} else {
		buf = malloc((size_t)st.st_size + 1);
		while (buf && *len < (size_t)st.st_size && (n = read(fd, buf + *len, (size_t)st.st_size - *len)) > 0)
			*len += (size_t)n;
		if (!buf || n < 0)
			err_set(e, -errno, "cannot read %.300s: %s", path, strerror(errno));
		if (n < 0) {
			free(buf);
			buf = NULL;
		}
	}
	if (fd >= 0)
		close(fd);
	return buf;
}

/* Have the running node write its present one. */
static int ask_node(struct vm_args *a, char *path, size_t cap, struct err *e)
{
	struct json_object *o = NULL, *file;
	struct vm_client c;
	int rc = client_open(&c, a->run_dir, a->name, e);

	if (!rc)
		rc = client_call(&c, "__lockstep_blackbox", NULL, CLIENT_TIMEOUT, &o, e);
	if (!rc && (!json_object_object_get_ex(o, "file", &file) ||
		    snprintf(path, cap, "%s", json_object_get_string(file)) >= (int)cap))
		rc = err_set(e, -EPROTO, "%s gives an answer that is not understood", c.name);
	json_object_put(o);
	client_close(&c);
	return rc;
}

/* The file that is meant: named, or written at the last failover, or written now. */
static int find(struct vm_args *a, bool now, char *path, size_t cap, struct err *e)
{
	char dir[PATH_MAX];
	const char *d = a->run_dir;

	if (a->name && strchr(a->name, '/')) {
		if (now)
			return err_set(e, -EINVAL, "--now is for a node that runs, not for a file");
		snprintf(path, cap, "%s", a->name);
		return 0;
	}
	if (a->name && rundir_name_check(a->name, e))
		return -EINVAL;
	if (!d) {
		if (rundir_default(dir, sizeof(dir), e))
			return e->code;
		d = dir;
	}
	if (!now && a->name) {
		snprintf(path, cap, "%s/%s.blackbox", d, a->name);
		if (!access(path, F_OK))
			return 0;
		if (!access(a->name, F_OK)) {
			snprintf(path, cap, "%s", a->name);
			return 0;
		}
	}
	return ask_node(a, path, cap, e);
}

static int blackbox_fn(int argc, char **argv)
{
	char path[2 * PATH_MAX];
	struct blackbox_head h;
	struct err e = { 0 };
	struct ring *r = NULL;
	uint64_t last = 0;
	struct vm_args a;
	bool now = false;
	void *buf = NULL;
	size_t len;
	int rc = vm_args_parse(&cmd_blackbox, argc, argv, false, &a, &e);

	if (rc == VM_DONE)
		return CLI_OK;
	for (int i = 0; !rc && i < a.n_own; i++) {
		if (a.own[i].id == OPT_LAST)
			rc = cli_number("--last", a.own[i].value, "steps", 1, RING_STEPS_MAX, &last, &e);
		now |= a.own[i].id == OPT_NOW;
	}
	if (rc)
		return cli_fail(&cmd_blackbox, CLI_USAGE, &e);
	rc = find(&a, now, path, sizeof(path), &e);
	if (!rc) {
		buf = read_file(path, &len, &e);
		rc = buf ? 0 : e.code;
	}
	if (buf)
		r = blackbox_unpack(buf, len, &h, &e);
	if (buf && !r)
		err_prefix(&e, "%.200s", path);
	free(buf);
	if (!r)
		return cli_fail(&cmd_blackbox, rc == -EINVAL ? CLI_USAGE : rc == -ENOENT ? CLI_NO_VM : CLI_FAILED, &e);
	if (a.json) {
		struct json_object *o = blackbox_json(&h, r, last);

		vm_print_json(o);
		json_object_put(o);
	} else {
		blackbox_text(&h, r, last, stdout);
	}
	ring_free(r);
	return CLI_OK;
}

const struct cli_cmd cmd_blackbox = {
	.name = "blackbox",
	.args = "[NAME|FILE]",
	.summary = "tell why it came to the last failover, step by step",
	.more = "NAME is a VM of which a node runs here, or has run; a FILE has a '/' in its name.\n",
	.opts = opts,
	.fn = blackbox_fn,
};
