/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The shape of a machine: what the handshake compares, because QEMU's own check of a state against the machine that
 * loads it is switched off (send-configuration=off). One line of text for each thing, so that a difference can be
 * named, and so that an older Lockstep can say what a newer one has more.
 *
 * Compared: QEMU's version and package, versioned machine type and its properties, accelerator, CPU model and count,
 * memory, network cards, and each option that shapes what the guest sees, in the user's order (it decides slots).
 * Not compared: what concerns one host (names of TAPs, consoles, displays, paths). With -cpu host or max the host's
 * processor is part of the machine. What QEMU itself says when it is up, its device tree and its ROMs, follows
 * (ident.c).
 * Runs at start; no state.
 */
#include "engine/shape.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/siphash.h"
#include "engine/filehash.h"
#include "engine/hwopt.h"

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

/* @content: what is in it counts; else its size alone, for what differs between two hosts in order */
static int put_file(FILE *f, const char *path, bool content, struct err *e)
{
	char text[FILEHASH_TEXT];
	int rc = content ? filehash(path, text, e) : filehash_size(path, text, e);

	if (!rc)
		fprintf(f, "file of %s", text);
	return rc;
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
static int put_list(FILE *f, const struct kvlist *kv, bool content, struct err *e)
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
			rc = put_file(f, val, content, e);
		else
			put_text(f, val);
	}
	return rc;
}

static int put_option(FILE *f, const struct cmdopt *o, unsigned int index, struct err *e)
{
	int rc = 0;

	if (o->kind == CMDOPT_HOST || o->kind == CMDOPT_GONE)
		return 0;
	fprintf(f, "option.%u=-", index);
	put_text(f, o->name);
	fputc(' ', f);
	if (o->kind == CMDOPT_LIST || o->kind == CMDOPT_DISK)
		rc = put_list(f, &o->kv, !hwopt_is_flash(&o->kv), e);
	else if (o->kind == CMDOPT_FILE || o->kind == CMDOPT_OWN_FILE)
		rc = put_file(f, o->arg, o->kind == CMDOPT_FILE, e);
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
	rc = put_list(f, &c->machine_kv, true, e);
	fprintf(f, "\naccel=%s\ncpu=", c->accel == ACCEL_KVM ? "kvm" : "tcg");
	put_text(f, c->cpu ? c->cpu : "default");
	fprintf(f, "\nmemory=%" PRIu64 "\ncpus=%u\ncpu-topology=", c->mem_bytes, c->smp);
	if (!rc)
		rc = put_list(f, &c->smp_kv, true, e);
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
		rc = put_list(f, &c->rtc_kv, true, e);
	fprintf(f, "\nno-reboot=%s\nno-shutdown=%s\n", c->no_reboot ? "on" : "off", c->no_shutdown ? "on" : "off");
	for (unsigned int i = 0; i < c->n_opts && !rc; i++) {
		rc = put_option(f, &c->opts[i], index, e);
		index += c->opts[i].kind != CMDOPT_HOST && c->opts[i].kind != CMDOPT_GONE;
	}
	/* A guest that can keep a write in a cache must find the same cache at the other node. */
	for (unsigned int i = 0; i < c->n_disks && !rc; i++)
		fprintf(f, "disk.%s=a writable drive, write cache %s\n", c->disks[i].id,
			c->disks[i].writethrough ? "off" : "on");
	return rc;
}

void cmdline_shape_sizes(const struct cmdline *c, const uint64_t *bytes, FILE *f)
{
	for (unsigned int i = 0; i < c->n_disks; i++)
		fprintf(f, "size.%s=%" PRIu64 " bytes\n", c->disks[i].id, bytes[i]);
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
