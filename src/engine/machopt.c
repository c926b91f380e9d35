/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The machine itself on QEMU's command line: type, accelerator, CPUs, memory, clock. These options merge when they
 * are repeated (the later key wins), so they are collected first and judged when all is read. Both nodes must come
 * to the same machine, so what QEMU would choose by itself (accelerator) is written out or refused.
 * Runs before anything else, in the main thread.
 */
#include "engine/machopt.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

static int no_memory(struct err *e)
{
	return err_set(e, -ENOMEM, "no memory for the command line");
}

static int replace(char **to, const char *text, struct err *e)
{
	char *copy = strdup(text);

	if (!copy)
		return no_memory(e);
	free(*to);
	*to = copy;
	return 0;
}

/* Options that QEMU merges when they are repeated are merged here likewise, into one list. */
static int merge(struct kvlist *to, const char *name, const char *arg, const char *implied, struct err *e)
{
	struct kvlist kv;
	int rc;

	rc = kvlist_parse(&kv, arg, implied, e);
	if (!rc && kvlist_merge(to, &kv))
		rc = err_set(e, -E2BIG, "more than %d keys", KV_MAX);
	kvlist_free(&kv);
	if (rc)
		err_prefix(e, "-%s %.80s", name, arg);
	return rc;
}

static int set_accel(struct cmdline *c, const char *name, const char *arg, struct err *e)
{
	enum cmdline_accel accel;

	if (!strcmp(name, "tcg"))
		accel = ACCEL_TCG;
	else if (!strcmp(name, "kvm"))
		accel = ACCEL_KVM;
	else if (strchr(name, ':'))
		return err_set(e, -ENOTSUP, "-accel %.40s: name one accelerator, kvm or tcg; with a choice the two "
			       "nodes could choose differently", name);
	else
		return err_set(e, -ENOTSUP, "-accel %.40s: the accelerator must be kvm or tcg", name);
	if (c->accel_given && accel != c->accel)
		return err_set(e, -ENOTSUP, "two accelerators are given: name one, kvm or tcg; with a choice the two "
			       "nodes could choose differently");
	c->accel_given = true;
	c->accel = accel;
	/* -enable-kvm beside an -accel kvm,... adds nothing to it. */
	return arg && (!c->accel_arg || strchr(arg, ',')) ? replace(&c->accel_arg, arg, e) : 0;
}

static int take_accel(struct cmdline *c, const char *arg, struct err *e)
{
	struct kvlist kv;
	const char *name;
	int rc;

	rc = kvlist_parse(&kv, arg, "accel", e);
	if (rc) {
		err_prefix(e, "-accel %.80s", arg);
		return rc;
	}
	name = kvlist_get(&kv, "accel");
	rc = set_accel(c, name ? name : "", arg, e);
	kvlist_free(&kv);
	return rc;
}

int machopt_take(struct cmdline *c, const char *name, const char *arg, struct err *e)
{
	if (!strcmp(name, "machine") || !strcmp(name, "M"))
		return merge(&c->machine_kv, name, arg, "type", e);
	if (!strcmp(name, "m"))
		return merge(&c->m_kv, name, arg, "size", e);
	if (!strcmp(name, "smp"))
		return merge(&c->smp_kv, name, arg, "cpus", e);
	if (!strcmp(name, "rtc"))
		return merge(&c->rtc_kv, name, arg, NULL, e);
	if (!strcmp(name, "accel"))
		return take_accel(c, arg, e);
	return replace(&c->cpu, arg, e);
}

static const struct {
	const char *key, *why;
} machine_refused[] = {
	{ "memory-backend", "Lockstep provides the guest's memory itself, and the other copy maps it; leave it out" },
	{ "nvdimm", "memory that is plugged in is not replicated" },
	{ "memory-encryption", "encrypted memory cannot be replicated" },
	{ "confidential-guest-support", "encrypted memory cannot be replicated" },
	{ "igd-passthru", "a device of the host's has its state in hardware, which no other host can continue" },
};

static int finish_machine(struct cmdline *c, struct err *e)
{
	struct kvlist *kv = &c->machine_kv;
	const char *type = kvlist_get(kv, "type"), *accel = kvlist_get(kv, "accel"), *val;
	int rc;

	if (type && strcmp(type, "pc") && strcmp(type, "q35") && strncmp(type, "pc-i440fx-", 10) &&
	    strncmp(type, "pc-q35-", 7))
		return err_set(e, -ENOTSUP, "-machine %.60s: the machine must be pc or q35 (or one of their versions, "
			       "pc-i440fx-... or pc-q35-...)", type);
	if (type) {
		rc = replace(&c->machine, type, e);
		if (rc)
			return rc;
		kvlist_del(kv, "type");
	}
	for (size_t i = 0; i < ARRAY_LEN(machine_refused); i++) {
		val = kvlist_get(kv, machine_refused[i].key);
		if (!val || !strcmp(val, "off"))
			continue;
		return err_set(e, -ENOTSUP, "-machine %s=%.60s: %s", machine_refused[i].key, val,
			       machine_refused[i].why);
	}
	for (unsigned int i = 0; i < kv->n; i++)
		if (!strncmp(kv->v[i].key, "memory.", 7) || !strncmp(kv->v[i].key, "sgx-epc", 7) ||
		    !strncmp(kv->v[i].key, "cxl", 3) || !strncmp(kv->v[i].key, "smp.", 4))
			return err_set(e, -ENOTSUP, "-machine %.60s=: not supported there; write -m and -smp",
				       kv->v[i].key);
	/* Written as -machine accel=, it is handed on as -accel: one place for it. */
	if (accel) {
		if (c->accel_given)
			return err_set(e, -EINVAL, "-machine accel=%.40s and -accel are given: one of them is "
				       "enough", accel);
		rc = set_accel(c, accel, accel, e);
		if (rc)
			return rc;
		kvlist_del(kv, "accel");
	}
	return 0;
}

static int finish_accel(struct cmdline *c, struct err *e)
{
	const char *base = strrchr(c->binary, '/');

	if (c->accel_given)
		return 0;
	base = base ? base + 1 : c->binary;
	if (strlen(base) >= 3 && !strcmp(base + strlen(base) - 3, "kvm"))
		return err_set(e, -ENOTSUP, "%.60s chooses between KVM and TCG by itself, so the two nodes could "
			       "choose differently; write -accel kvm or -accel tcg", base);
	return set_accel(c, "tcg", "tcg", e);
}

static int finish_memory(struct cmdline *c, struct err *e)
{
	const char *size = kvlist_get(&c->m_kv, "size"), *val;
	int rc;

	c->mem_bytes = CMDLINE_MEM_DEFAULT;
	if (size) {
		rc = args_size(size, 1 << 20, &c->mem_bytes);
		if (rc || !c->mem_bytes || c->mem_bytes > INT64_MAX - CMDLINE_MEM_ALIGN)
			return err_set(e, -EINVAL, "-m %.60s: not an amount of memory", size);
		c->mem_bytes = (c->mem_bytes + CMDLINE_MEM_ALIGN - 1) / CMDLINE_MEM_ALIGN * CMDLINE_MEM_ALIGN;
	}
	for (unsigned int i = 0; i < c->m_kv.n; i++) {
		const char *key = c->m_kv.v[i].key;

		val = c->m_kv.v[i].val;
		if (!strcmp(key, "slots") || !strcmp(key, "maxmem"))
			return err_set(e, -ENOTSUP, "-m ...,%s=%.40s: memory that is plugged in is not replicated; "
				       "give all of it with -m", key, val);
		if (strcmp(key, "size"))
			return err_set(e, -EINVAL, "-m ...,%.40s=: not an option of -m that Lockstep knows", key);
	}
	return 0;
}

static int finish_smp(struct cmdline *c, struct err *e)
{
	static const char *const levels[] = { "sockets", "dies", "clusters", "cores", "threads" };
	const char *val = kvlist_get(&c->smp_kv, "cpus");
	unsigned int n;

	c->smp = 1;
	if (!val)
		val = kvlist_get(&c->smp_kv, "maxcpus");
	if (val && (args_uint(val, CMDLINE_SMP_MAX, &c->smp) || !c->smp))
		return err_set(e, -EINVAL, "-smp %.40s: not a number of CPUs", val);
	/* Without a total, the levels multiply to it. */
	for (size_t i = 0; i < ARRAY_LEN(levels) && !val; i++) {
		const char *level = kvlist_get(&c->smp_kv, levels[i]);

		if (!level)
			continue;
		if (args_uint(level, CMDLINE_SMP_MAX / c->smp, &n) || !n)
			return err_set(e, -EINVAL, "-smp %s=%.40s: not a number of CPUs", levels[i], level);
		c->smp *= n;
	}
	return 0;
}

static int finish_rtc(struct cmdline *c, struct err *e)
{
	const char *clock = kvlist_get(&c->rtc_kv, "clock");

	if (clock && strcmp(clock, "vm"))
		cmdline_note(c, "-rtc clock=%.20s became clock=vm: the clocks of two hosts differ", clock);
	return kvlist_set(&c->rtc_kv, "clock", "vm") ? no_memory(e) : 0;
}

int machopt_finish(struct cmdline *c, struct err *e)
{
	static int (*const finish[])(struct cmdline *c, struct err *e) = {
		finish_machine, finish_accel, finish_memory, finish_smp, finish_rtc,
	};
	int rc;

	for (size_t i = 0; i < ARRAY_LEN(finish); i++) {
		rc = finish[i](c, e);
		if (rc)
			return rc;
	}
	return 0;
}
