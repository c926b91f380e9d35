/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The witnesses that keep no record. A command sees to it that the peer is off (a STONITH agent), and only the exit
 * status 0 says that it is: then there is nobody whom a record would have to hold back. None grants all there is.
 */
#include <errno.h>
#include <stdio.h>

#include "base/spawn.h"
#include "cluster/shell.h"
#include "cluster/witness_internal.h"

static int no_look(void *b, const struct witness_ask *q, struct witness_record *r, struct err *e)
{
	const struct witness_cfg *cfg = b;

	return err_set(e, -EOPNOTSUPP, "a witness of the kind %s keeps no record", witness_kind_name(cfg->spec.kind));
}

static void nothing(void *b)
{
}

int witness_command_allow(const struct witness_spec *spec, struct err *e)
{
	static const char *const names[] = { "LOCKSTEP_NAME=", "LOCKSTEP_VM=", "LOCKSTEP_GENERATION=", "LOCKSTEP_REASON=",
					     "LOCKSTEP_PEER=", NULL };

	return spawn_shell_allow(spec->command, names, e);
}

static int command_claim(void *b, const struct witness_ask *q, struct witness_record *r, struct err *e)
{
	const struct witness_cfg *cfg = b;
	char name[96], vm[96], generation[48], reason[96], peer[160];
	const char *env[] = { name, vm, generation, reason, peer, NULL };
	struct shell s = { .what = "the witness command", .command = cfg->spec.command, .env = env, .until = q->until,
			   .limit = q->limit, .stop = q->stop };
	int rc;

	snprintf(name, sizeof(name), "LOCKSTEP_NAME=%s", cfg->name);
	snprintf(vm, sizeof(vm), "LOCKSTEP_VM=%s", cfg->name);	/* as --fence-command has it */
	snprintf(generation, sizeof(generation), "LOCKSTEP_GENERATION=%u", q->c.next);
	snprintf(reason, sizeof(reason), "LOCKSTEP_REASON=%s", q->c.reason);
	snprintf(peer, sizeof(peer), "LOCKSTEP_PEER=%s", q->c.peer);
	rc = shell_run(&s, e);
	return rc ? rc : (int)WITNESS_GRANTED;
}

static int none_claim(void *b, const struct witness_ask *q, struct witness_record *r, struct err *e)
{
	return WITNESS_GRANTED;
}

const struct witness_ops witness_command_ops = { no_look, command_claim, nothing };
const struct witness_ops witness_none_ops = { no_look, none_claim, nothing };
