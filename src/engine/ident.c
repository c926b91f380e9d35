/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Who is this QEMU? It is asked while it stands at its start, before its memory is found and before the peer hears of
 * it: for its blocks of memory (by the agent; by the monitor where QEMU exports no functions), for what it writes at a
 * reset and for its device tree. The answers depend on the command line and QEMU's version alone, so two nodes can
 * compare them.
 */
#include "engine/ident.h"

#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "engine/devtree.h"
#include "engine/romlist.h"

static void finish(struct ident *id, int rc, const struct err *e)
{
	void (*done)(void *arg, int rc, const struct err *e) = id->done;

	/* A monitor that goes away answers everything that is still under way. */
	id->done = NULL;
	if (done)
		done(id->arg, rc, e);
}

static const char *text_of(struct json_object *ret)
{
	return json_object_is_type(ret, json_type_string) ? json_object_get_string(ret) : NULL;
}

static void on_qtree(void *arg, int code, struct json_object *ret, const char *desc)
{
	struct ident *id = arg;
	struct err e = { 0 };
	const char *text = code ? NULL : text_of(ret);

	if (!code && text) {
		free(id->qtree);
		id->qtree = strdup(text);
	}
	if (code)
		err_set(&e, code, "QEMU does not show its device tree: %s", desc);
	else if (!id->qtree)
		err_set(&e, -EPROTO, "QEMU does not show its device tree");
	finish(id, e.code, &e);
}

static void on_blocks(void *arg, int code, struct json_object *ret, const char *desc)
{
	struct ident *id = arg;
	struct err e = { 0 };
	const char *text = code ? NULL : text_of(ret);

	if (code)
		err_set(&e, code, "QEMU does not list its blocks of memory: %s", desc);
	else
		ramblocks_parse(text ? text : "", &id->blocks, &e);
	if (e.code)
		finish(id, e.code, &e);
}

static void on_roms(void *arg, int code, struct json_object *ret, const char *desc)
{
	struct ident *id = arg;
	struct err e = { 0 };
	const char *text = code ? NULL : text_of(ret);

	if (code)
		err_set(&e, code, "QEMU does not list its ROMs: %s", desc);
	else
		romlist_check(text ? text : "", &e);
	if (e.code)
		finish(id, e.code, &e);
}

static int hmp(struct qmp *qmp, const char *cmd, nstime deadline, qmp_reply_fn *cb, struct ident *id, struct err *e)
{
	char args[64];
	int rc;

	snprintf(args, sizeof(args), "{\"command-line\":\"%s\"}", cmd);
	rc = qmp_cmd(qmp, "human-monitor-command", args, deadline, cb, id);
	return rc ? err_set(e, rc, "QEMU's monitor takes no commands") : 0;
}

int ident_ask(struct ident *id, struct qmp *qmp, struct agentctl *agent, nstime deadline,
	      void (*done)(void *arg, int rc, const struct err *e), void *arg, struct err *e)
{
	int rc = agentctl_blocks(agent, &id->blocks, deadline, e);

	if (rc < 0 && rc != -ENOSYS)
		return rc;
	id->done = done;
	id->arg = arg;
	/* Answers come in the order of the questions. */
	rc = rc == -ENOSYS ? hmp(qmp, "info ramblock", deadline, on_blocks, id, e) : 0;
	if (!rc)
		rc = hmp(qmp, "info roms", deadline, on_roms, id, e);
	if (!rc)
		rc = hmp(qmp, "info qtree", deadline, on_qtree, id, e);
	if (rc)
		id->done = NULL;
	return rc;
}

void ident_free(struct ident *id)
{
	free(id->qtree);
	id->qtree = NULL;
	id->done = NULL;
}

/* compared() - a flash chip holds a file of this host's: a firmware's variables, which each node keeps for itself */
static bool compared(const char *name)
{
	return strncmp(name, "system.flash", 12) != 0;
}

/* put_hash() - hash of a region's pages that are not zero, with their places */
static int put_hash(const struct ram *ram, const struct ram_region *g, const struct pageset *data, FILE *f)
{
	XXH3_state_t *h = XXH3_createState();
	XXH128_hash_t sum;

	if (!h)
		return -ENOMEM;
	XXH3_128bits_reset(h);
	for (uint64_t i = 0; i < g->count; i++) {
		const uint8_t *p = ram_page(ram, g->first + i);

		if (!pageset_has(data, g->first + i) || ram_page_zero(p))
			continue;
		XXH3_128bits_update(h, &i, sizeof(i));
		XXH3_128bits_update(h, p, RAM_PAGE);
	}
	sum = XXH3_128bits_digest(h);
	XXH3_freeState(h);
	fprintf(f, "content.%s=%016" PRIx64 "%016" PRIx64 "\n", g->name, (uint64_t)sum.high64, (uint64_t)sum.low64);
	return 0;
}

int ident_shape(const struct ident *id, const struct ram *ram, size_t room, FILE *f, struct err *e)
{
	struct pageset data;
	size_t need = 0;
	int rc;

	for (unsigned int i = 0; i < ram->n_regions; i++)
		need += 2 * strlen(ram->region[i].name) + 96;
	/* Devices first: where one is missing its ROM is, too, and the tables that name it. */
	rc = devtree_shape(id->qtree, room > need ? room - need : 0, f, e);
	if (rc)
		return rc;
	/* Holes are left alone: reading one would make it a page that has to be sent. */
	rc = pageset_init(&data, ram->n_pages);
	if (!rc)
		rc = ram_extents(ram, &data);
	for (unsigned int i = 0; !rc && i < ram->n_regions; i++) {
		const struct ram_region *g = &ram->region[i];

		fprintf(f, "block.%s=%" PRIu64 " bytes\n", g->name, g->count * RAM_PAGE);
		if (compared(g->name))
			rc = put_hash(ram, g, &data, f);
	}
	pageset_fini(&data);
	return rc ? err_set(e, rc, "QEMU's ROMs cannot be hashed: %s", strerror(-rc)) : 0;
}
