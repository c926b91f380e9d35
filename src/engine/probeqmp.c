/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What is asked of QEMU, and what its answers mean. Whatever Lockstep uses of QEMU and has not been there always, or
 * may be built without, stands in the table of needs: commands and their arguments and networks are looked for in the
 * QMP schema, options in the properties of the objects that they set. The version decides nothing; it is shown, and
 * compared with the peer's.
 *
 * Pure: JSON in, facts and rows out, so that it is tested with the recorded answers of several versions
 * (tests/data/qemu). probe.c does the asking. Main thread, at start.
 */
#include "engine/probeqmp.h"

#include <stdio.h>
#include <string.h>

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

enum kind { COMMAND, ARGUMENT, NETWORK, PROPERTY };

/* Nothing works without these. */
static const struct need {
	enum kind kind;
	const char *of;		/* command, or the object's type */
	const char *name;	/* argument, network or property */
	const char *why;	/* what it is for */
} needs[] = {
	{ NETWORK, "netdev_add", "stream", "gives Lockstep the frames; QEMU has it since 7.2" },
	{ COMMAND, "stop", NULL, "stops the VM" },
	{ COMMAND, "cont", NULL, "runs it" },
	{ COMMAND, "query-status", NULL, "says whether it runs" },
	{ COMMAND, "system_reset", NULL, "revives a VM that was switched off" },
	{ COMMAND, "xen-save-devices-state", NULL, "reads the devices' state" },
	{ ARGUMENT, "xen-save-devices-state", "live", "leaves the drives in use" },
	{ COMMAND, "snapshot-load", NULL, "loads the devices' state" },
	{ ARGUMENT, "snapshot-load", "vmstate", "says where that is" },
	{ COMMAND, "query-jobs", NULL, "says how the loading went" },
	{ COMMAND, "job-dismiss", NULL, "ends it" },
	{ PROPERTY, "machine", "memory-backend", "memory that both nodes can reach" },
	{ PROPERTY, "machine", "suppress-vmdesc", "a state that can be loaded" },
	{ PROPERTY, "migration", "send-configuration", "a state that can be loaded" },
	{ PROPERTY, "memory-backend-file", "share", "the SVM's private view of memory" },
	{ PROPERTY, "memory-backend-file", "merge", "memory whose pages stay apart" },
	{ PROPERTY, "memory-backend-file", "prealloc", "memory that Lockstep reserves" },
};
_Static_assert(ARRAY_LEN(needs) <= PROBEQMP_NEEDS_MAX, "each need has its place in struct probeqmp");

static const char *get_str(struct json_object *o, const char *key)
{
	struct json_object *v;

	if (!json_object_is_type(o, json_type_object) || !json_object_object_get_ex(o, key, &v) ||
	    !json_object_is_type(v, json_type_string))
		return "";
	return json_object_get_string(v);
}

static bool get_true(struct json_object *o, const char *key)
{
	struct json_object *v;

	return json_object_is_type(o, json_type_object) && json_object_object_get_ex(o, key, &v) &&
	       json_object_is_type(v, json_type_boolean) && json_object_get_boolean(v);
}

static size_t list_len(struct json_object *o)
{
	return json_object_is_type(o, json_type_array) ? json_object_array_length(o) : 0;
}

/* The object of a list that has @key=@val, or NULL */
static struct json_object *find(struct json_object *list, const char *key, const char *val)
{
	for (size_t i = 0; i < list_len(list); i++) {
		struct json_object *o = json_object_array_get_idx(list, i);

		if (!strcmp(get_str(o, key), val))
			return o;
	}
	return NULL;
}

static struct json_object *list_in(struct json_object *o, const char *key)
{
	struct json_object *v = NULL;

	return json_object_is_type(o, json_type_object) && json_object_object_get_ex(o, key, &v) ? v : NULL;
}

static void got_version(struct probeqmp *q, const char *of, struct json_object *ret)
{
	snprintf(q->p->package, sizeof(q->p->package), "%s", get_str(ret, "package"));
}

static void got_machines(struct probeqmp *q, const char *of, struct json_object *ret)
{
	struct probe *p = q->p;

	for (size_t i = 0; i < list_len(ret); i++) {
		struct json_object *m = json_object_array_get_idx(ret, i);
		const char *name = get_str(m, "name"), *alias = get_str(m, "alias");

		if (strncmp(name, "pc-i440fx-", 10) && strncmp(name, "pc-q35-", 7))
			continue;
		if (strlen(name) >= PROBE_MACHINE_LEN || p->n_machines >= PROBE_MACHINES_MAX)
			continue;
		strcpy(p->machines[p->n_machines++], name);
		if (!strcmp(alias, "pc"))
			strcpy(p->alias_pc, name);
		if (!strcmp(alias, "q35"))
			strcpy(p->alias_q35, name);
		if (get_true(m, "is-default"))
			strcpy(p->dflt, name);
	}
}

static void got_accels(struct probeqmp *q, const char *of, struct json_object *ret)
{
	q->p->tcg = find(ret, "name", "tcg-accel");
	q->p->kvm = find(ret, "name", "kvm-accel");
}

/* In the schema a command names the object of its arguments; the types of -netdev are variants of netdev_add's. */
static bool in_schema(struct json_object *schema, const struct need *n)
{
	struct json_object *cmd = find(schema, "name", n->of), *args;

	/* Of a command that is missing no argument is missing as well. */
	if (n->kind == COMMAND || !cmd)
		return cmd || n->kind == ARGUMENT;
	args = find(schema, "name", get_str(cmd, "arg-type"));
	return n->kind == NETWORK ? find(list_in(args, "variants"), "case", n->name) :
				    find(list_in(args, "members"), "name", n->name);
}

static void got_schema(struct probeqmp *q, const char *of, struct json_object *ret)
{
	for (size_t i = 0; i < ARRAY_LEN(needs); i++)
		if (needs[i].kind != PROPERTY)
			q->have[i] = in_schema(ret, &needs[i]);
}

static void got_properties(struct probeqmp *q, const char *of, struct json_object *ret)
{
	for (size_t i = 0; i < ARRAY_LEN(needs); i++)
		if (needs[i].kind == PROPERTY && !strcmp(needs[i].of, of))
			q->have[i] = find(ret, "name", needs[i].name);
}

#define PROPERTIES_OF(type) "qom-list-properties", "{\"typename\":\"" type "\"}", type, got_properties

static const struct {
	const char *cmd, *args, *of;
	void (*got)(struct probeqmp *q, const char *of, struct json_object *ret);
} questions[] = {
	{ "query-version", NULL, NULL, got_version },
	{ "query-machines", NULL, NULL, got_machines },
	{ "qom-list-types", "{\"implements\":\"accel\"}", NULL, got_accels },
	{ "query-qmp-schema", NULL, NULL, got_schema },
	{ PROPERTIES_OF("machine") },
	{ PROPERTIES_OF("migration") },
	{ PROPERTIES_OF("memory-backend-file") },
};

const char *probeqmp_question(unsigned int i, const char **args)
{
	if (i >= ARRAY_LEN(questions))
		return NULL;
	*args = questions[i].args;
	return questions[i].cmd;
}

void probeqmp_answer(struct probeqmp *q, unsigned int i, struct json_object *ret)
{
	questions[i].got(q, questions[i].of, ret);
}

/* A row about the needs of @from up to @to: "missing: this (what it is for), that (...)" */
static void row_of_needs(const struct probeqmp *q, const char *what, enum kind from, enum kind to)
{
	char missing[200] = "";
	size_t n = 0;

	for (size_t i = 0; i < ARRAY_LEN(needs); i++) {
		const struct need *d = &needs[i];

		if (q->have[i] || d->kind < from || d->kind > to || n >= sizeof(missing))
			continue;
		n += (size_t)snprintf(missing + n, sizeof(missing) - n, "%s%s%s%s (%s)", n ? ", " : "",
				      d->kind == NETWORK ? "-netdev" : d->of, d->name ? d->kind == PROPERTY ? "." : " " : "",
				      d->name ? d->name : "", d->why);
	}
	probe_row(q->p, what, !n, true, "%s%s", n ? "missing: " : "all that is needed is there", missing);
}

void probeqmp_rows(const struct probeqmp *q)
{
	struct probe *p = q->p;

	probe_row(p, "QEMU", true, true, "%.60s is version %s %s", p->binary, p->version, p->package);
	probe_row(p, "QEMU: machines", p->alias_pc[0] || p->alias_q35[0], true, "pc is %s, q35 is %s",
		  p->alias_pc[0] ? p->alias_pc : "missing", p->alias_q35[0] ? p->alias_q35 : "missing");
	row_of_needs(q, "QEMU: networks", NETWORK, NETWORK);
	row_of_needs(q, "QEMU: monitor commands", COMMAND, ARGUMENT);
	row_of_needs(q, "QEMU: options", PROPERTY, PROPERTY);
	probe_row(p, "QEMU: accelerators", p->tcg || p->kvm, true, "%s%s%s", p->tcg ? "tcg" : "",
		  p->tcg && p->kvm ? " and " : "", p->kvm ? "kvm" : p->tcg ? "" : "neither tcg nor kvm");
}
