/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The shape of a machine: what the handshake compares, because QEMU's own check of a state against the machine that
 * loads it is switched off (send-configuration=off). One line of text for each thing, so that a difference can be
 * named, and so that an older Lockstep can say what a newer one has more.
 *
 * Compared: QEMU's version and package, versioned machine type and its properties, accelerator, CPU model and count,
 * memory, network cards, and each option that shapes what the guest sees, in the user's order (it decides slots).
 * Not compared: what concerns one host (names of TAPs, consoles, displays, paths). With -cpu host or max the host's
 * processor is part of the machine. The device tree and hashes of ROMs follow.
 * Runs at start and at the handshake; no state.
 */
#include "engine/shape.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cursor.h"
#include "base/siphash.h"

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

/* Keys of passed options whose value is a path on this host. */
static const char *const path_keys[] = { "file", "filename", "romfile", "path", "data", "splash" };

/* Keys that concern this host only. */
static const char *const host_keys[] = {
	"aio", "cache", "cache.direct", "cache.no-flush", "detect-zeroes", "discard", "werror", "rerror", "force-share",
	"auto-read-only", "passwordid", "password-secret", "logfile", "logappend", "iothread",
};

static bool is_one_of(const char *key, const char *const *keys, size_t n)
{
	const char *last = strrchr(key, '.');

	for (size_t i = 0; i < n; i++)
		if (!strcmp(key, keys[i]) || (last && !strcmp(last + 1, keys[i])))
			return true;
	return false;
}

/* Text of a line's value: the peer and the log read it, so nothing but printable characters. */
static void put_text(FILE *f, const char *text)
{
	for (; *text; text++) {
		if (isprint((unsigned char)*text) && *text != '\\')
			fputc(*text, f);
		else
			fprintf(f, "\\%02x", (unsigned char)*text);
	}
}

static int put_file(FILE *f, const char *path, struct err *e)
{
	struct stat st;

	if (stat(path, &st))
		return err_set(e, -errno, "%.200s: %s", path, strerror(errno));
	if (S_ISREG(st.st_mode))
		fprintf(f, "file of %" PRIu64 " bytes", (uint64_t)st.st_size);
	else
		fputs(S_ISDIR(st.st_mode) ? "directory" : "device", f);
	return 0;
}

static int by_key(const void *a, const void *b)
{
	return strcmp((*(const struct kv *const *)a)->key, (*(const struct kv *const *)b)->key);
}

/* The last one wins, so that a key that is given twice counts once. */
static bool overridden(const struct kvlist *kv, const struct kv *v)
{
	for (const struct kv *later = v + 1; later < kv->v + kv->n; later++)
		if (!strcmp(later->key, v->key))
			return true;
	return false;
}

/* A list in the order of its keys: in which order the user wrote them makes no machine. */
static int put_list(FILE *f, const struct kvlist *kv, struct err *e)
{
	const struct kv *sorted[KV_MAX];
	unsigned int n = 0;
	int rc = 0;

	for (unsigned int i = 0; i < kv->n; i++)
		if (!is_one_of(kv->v[i].key, host_keys, ARRAY_LEN(host_keys)) && !overridden(kv, &kv->v[i]))
			sorted[n++] = &kv->v[i];
	qsort(sorted, n, sizeof(sorted[0]), by_key);
	for (unsigned int i = 0; i < n && !rc; i++) {
		const char *val = sorted[i]->val;

		fputs(i ? "," : "", f);
		put_text(f, sorted[i]->key);
		fputc('=', f);
		/* Some of these keys name no file everywhere (a URL, a name): then the text is what counts. */
		if (is_one_of(sorted[i]->key, path_keys, ARRAY_LEN(path_keys)) && val[0] && !strchr(val, ':') &&
		    strcmp(val, "off"))
			rc = put_file(f, val, e);
		else
			put_text(f, val);
	}
	return rc;
}

static int put_option(FILE *f, const struct cmdopt *o, unsigned int index, struct err *e)
{
	int rc = 0;

	if (o->kind == CMDOPT_HOST)
		return 0;
	fprintf(f, "option.%u=-", index);
	put_text(f, o->name);
	fputc(' ', f);
	if (o->kind == CMDOPT_LIST)
		rc = put_list(f, &o->kv, e);
	else if (o->kind == CMDOPT_FILE)
		rc = put_file(f, o->arg, e);
	else if (o->arg)
		put_text(f, o->arg);
	fputc('\n', f);
	if (rc)
		err_prefix(e, "-%s", o->name);
	return rc;
}

/* The host's processor, where the guest sees it: its model, and its features by a hash. */
static void put_host_cpu(FILE *f)
{
	static const char *const keys[] = { "vendor_id", "cpu family", "model", "stepping", "model name", "flags" };
	static const uint64_t key[2] = { 0x6c6f636b73746570, 0x73686170656370 };
	char line[16384];
	unsigned int seen = 0;
	FILE *in = fopen("/proc/cpuinfo", "re");

	while (in && fgets(line, sizeof(line), in) && line[0] != '\n') {
		char *colon = strchr(line, ':');
		size_t len = strcspn(line, "\t:");

		for (unsigned int i = 0; colon && i < ARRAY_LEN(keys); i++) {
			if (strlen(keys[i]) != len || strncmp(line, keys[i], len) || seen & 1u << i)
				continue;
			seen |= 1u << i;
			fprintf(f, "host-cpu.%u=", i);
			colon[strcspn(colon, "\n")] = 0;
			if (!strcmp(keys[i], "flags"))
				fprintf(f, "features %016" PRIx64, siphash24(key, colon, strlen(colon)));
			else
				put_text(f, colon + strspn(colon, ": "));
			fputc('\n', f);
		}
	}
	if (in)
		fclose(in);
}

static int put_all(FILE *f, const struct cmdline *c, const struct probe *p, struct err *e)
{
	char machine[PROBE_MACHINE_LEN];
	unsigned int index = 0;
	int rc;

	rc = probe_machine(p, c->machine, machine, e);
	if (rc)
		return rc;
	fputs("qemu=", f);
	put_text(f, p->version);
	fputs(" ", f);
	put_text(f, p->package);
	fprintf(f, "\nmachine=%s\nmachine-options=", machine);
	rc = put_list(f, &c->machine_kv, e);
	fprintf(f, "\naccel=%s\ncpu=", c->accel == ACCEL_KVM ? "kvm" : "tcg");
	put_text(f, c->cpu ? c->cpu : "default");
	fprintf(f, "\nmemory=%" PRIu64 "\ncpus=%u\ncpu-topology=", c->mem_bytes, c->smp);
	if (!rc)
		rc = put_list(f, &c->smp_kv, e);
	fputc('\n', f);
	if (c->cpu && c->accel == ACCEL_KVM && (!strncmp(c->cpu, "host", 4) || !strncmp(c->cpu, "max", 3)))
		put_host_cpu(f);
	fprintf(f, "nics=%u\n", c->n_nics);
	for (unsigned int i = 0; i < c->n_nics; i++) {
		fprintf(f, "nic.%u.mac=%s\nnic.%u.model=", i, c->nics[i].mac, i);
		put_text(f, c->nics[i].model);
		fputc('\n', f);
	}
	fputs("rtc=", f);
	if (!rc)
		rc = put_list(f, &c->rtc_kv, e);
	fprintf(f, "\nno-reboot=%s\nno-shutdown=%s\n", c->no_reboot ? "on" : "off", c->no_shutdown ? "on" : "off");
	for (unsigned int i = 0; i < c->n_opts && !rc; i++) {
		rc = put_option(f, &c->opts[i], index, e);
		index += c->opts[i].kind != CMDOPT_HOST;
	}
	return rc;
}

int cmdline_shape(const struct cmdline *c, const struct probe *p, char **text, struct err *e)
{
	char *out = NULL;
	size_t len;
	FILE *f;
	int rc;

	*text = NULL;
	f = open_memstream(&out, &len);
	if (!f)
		return err_set(e, -ENOMEM, "no memory for the machine's shape");
	rc = put_all(f, c, p, e);
	if (fclose(f) && !rc)
		rc = err_set(e, -ENOMEM, "no memory for the machine's shape");
	if (!rc && len > SHAPE_MAX)
		rc = err_set(e, -E2BIG, "the machine's options are longer than %d bytes", SHAPE_MAX);
	if (rc)
		free(out);
	else
		*text = out;
	return rc;
}

/* Names for people of what a key means; an option's key has the option itself in its value. */
static const struct {
	const char *key, *name;
} names[] = {
	{ "qemu", "QEMU's version" }, { "machine", "the machine type" },
	{ "machine-options", "the options of -machine" }, { "accel", "the accelerator" },
	{ "cpu", "the CPU model" }, { "memory", "the memory (bytes)" },
	{ "cpus", "the number of CPUs" }, { "cpu-topology", "-smp" }, { "nics", "the number of network cards" },
	{ "rtc", "-rtc" }, { "no-reboot", "-no-reboot" }, { "no-shutdown", "-no-shutdown" },
};

static void name_key(const char *key, size_t len, char out[80])
{
	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		if (strlen(names[i].key) == len && !strncmp(names[i].key, key, len)) {
			snprintf(out, 80, "%s", names[i].name);
			return;
		}
	if (len > 4 && !strncmp(key, "nic.", 4))
		snprintf(out, 80, "network card %.*s", (int)(len - 4 < 40 ? len - 4 : 40), key + 4);
	else if (len > 7 && !strncmp(key, "option.", 7))
		snprintf(out, 80, "an option (number %.*s)", (int)(len - 7 < 10 ? len - 7 : 10), key + 7);
	else if (len > 8 && !strncmp(key, "host-cpu", 8))
		snprintf(out, 80, "the host's processor");
	else
		snprintf(out, 80, "%.*s", (int)(len < 60 ? len : 60), key);
}

struct line {
	const char *key, *val;
	size_t klen, vlen;
	bool bad;
};

/* The next "key=value\n"; false at the end. */
static bool next_line(struct cursor *c, struct line *l)
{
	const uint8_t *end = c->left ? memchr(c->p, '\n', c->left) : NULL, *eq, *p;
	size_t len;

	*l = (struct line){ .bad = c->left && !end };
	if (!end)
		return false;
	len = (size_t)(end - c->p);
	p = cursor_get(c, len + 1);
	eq = memchr(p, '=', len);
	for (size_t i = 0; i < len; i++)
		l->bad |= !isprint(p[i]);
	l->bad |= !eq || eq == p;
	if (l->bad)
		return false;
	l->key = (const char *)p;
	l->klen = (size_t)(eq - p);
	l->val = (const char *)eq + 1;
	l->vlen = len - l->klen - 1;
	return true;
}

static bool same_key(const struct line *a, const struct line *b)
{
	return a->klen == b->klen && !memcmp(a->key, b->key, a->klen);
}

static bool has_key(const char *text, size_t len, const struct line *want)
{
	struct cursor c = cursor_of(text, len);
	struct line l;

	while (next_line(&c, &l))
		if (same_key(&l, want))
			return true;
	return false;
}

/* Only one side has this line. */
static int differ_missing(const struct line *l, bool here, struct err *e)
{
	char name[80];

	name_key(l->key, l->klen, name);
	return err_set(e, -EXDEV, "the two machines differ: %s is given only %s: %.*s", name,
		       here ? "here" : "at the peer",
		       (int)(l->vlen < 200 ? l->vlen : 200), l->val);
}

int shape_compare(const char *mine, const char *theirs, size_t len, struct err *e)
{
	struct cursor a = cursor_of(mine, strlen(mine)), b = cursor_of(theirs, len);
	char name[80];

	if (len > SHAPE_MAX)
		return err_set(e, -EPROTO, "the peer's description of its machine is too long");
	for (unsigned int i = 0; i < SHAPE_LINES; i++) {
		struct line la, lb;
		bool has_a = next_line(&a, &la), has_b = next_line(&b, &lb);

		if (lb.bad)
			return err_set(e, -EPROTO, "the peer's description of its machine cannot be read");
		if (!has_a && !has_b)
			return 0;
		if (!has_b)
			return differ_missing(&la, true, e);
		if (!has_a || (!same_key(&la, &lb) && !has_key(mine, strlen(mine), &lb)))
			return differ_missing(&lb, false, e);
		if (!same_key(&la, &lb))
			return differ_missing(&la, true, e);
		if (la.vlen == lb.vlen && !memcmp(la.val, lb.val, la.vlen))
			continue;
		name_key(la.key, la.klen, name);
		return err_set(e, -EXDEV, "the two machines differ: %s is %.*s here and %.*s at the peer", name,
			       (int)(la.vlen < 150 ? la.vlen : 150), la.val, (int)(lb.vlen < 150 ? lb.vlen : 150),
			       lb.val);
	}
	return err_set(e, -EPROTO, "the description of a machine has more than %d lines", SHAPE_LINES);
}
