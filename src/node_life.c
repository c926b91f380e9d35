/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The guest's life, as people and QEMU have a hand in it: it is made to stand and to run again (core/ft_pause.c), its power
 * button is pressed, it is reset, it panics. Control loop only.
 *
 * Power button and reset are given to the VM that serves. Its copy knows of it by a checkpoint, which is asked for at once,
 * so that both have got it at one point of their lives; until then what differs between them is held as ever. The client
 * is answered when the copy has it.
 */
#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>

#include "base/log.h"
#include "node_internal.h"

void node_life_panic(void *arg, enum cmdline_panic what)
{
	static const enum ft_panic how[] = {
		[PANIC_SHUTDOWN] = FT_PANIC_OFF, [PANIC_PAUSE] = FT_PANIC_PAUSE, [PANIC_NONE] = FT_PANIC_RUN,
	};
	struct ft_ev ev = { .type = FE_GUEST_PANIC, .value = how[what] };

	log_warn("the guest has panicked%s", what == PANIC_PAUSE ? ": it stands, as -action says" :
		 what == PANIC_SHUTDOWN ? ": that is its end, as -action says" : "");
	node_event(arg, &ev);
}

void node_life_stopped(void *arg, const char *why)
{
	struct ft_ev ev = { .type = FE_GUEST_PANIC, .value = FT_PANIC_PAUSE };

	log_warn("the VM stands: %s", why);
	node_event(arg, &ev);
}

int node_life_paused(struct node *n, int rc, const char *why)
{
	/* The next process begins stopped. */
	if (n->restarting)
		return 0;
	if (rc && rc != -ECONNRESET)
		snprintf(n->pause_why, sizeof(n->pause_why), "%s", why);
	return rc;
}

static bool is_pause(enum monitor_cmd_type t)
{
	return t == MONITOR_STOP || t == MONITOR_CONT;
}

static bool is_order(enum monitor_cmd_type t)
{
	return t == MONITOR_POWERDOWN || t == MONITOR_RESET;
}

static int may(struct node *n, bool order, struct err *e)
{
	enum ft_state st = ft_state(n->ft);

	switch (st) {
	case FT_STANDBY:
		if (order)
			return err_set(e, -EINVAL, "this node stands by: say it to the one that serves the VM");
		if (!n->linked)
			return err_set(e, -EINVAL, "the link to the node that serves the VM is gone");
		return 0;
	case FT_INIT:
	case FT_JOINING:
	case FT_ENDED:
		return err_set(e, -EINVAL, "there is no VM here to be told: this node is %s", ft_state_name(st));
	case FT_FENCED:
	case FT_PROMOTING:
		if (order)
			return err_set(e, -EINVAL, "it is not decided yet who serves the VM: this node is %s", ft_state_name(st));
		return 0;
	default:
		return 0;
	}
}

int node_life_command(struct node *n, const struct monitor_cmd *cmd, struct err *e)
{
	struct ft_ev ev = { .type = FE_PAUSE, .value = cmd->type == MONITOR_STOP };
	int rc = may(n, is_order(cmd->type), e);

	if (rc)
		return rc;
	if (n->n_waiters == NODE_WAITERS)
		return err_set(e, -EBUSY, "too many clients wait for an answer already");
	/* An order counts from the moment at which a checkpoint can carry it. */
	n->waiters[n->n_waiters++] = (struct node_waiter){ .token = cmd->token, .type = cmd->type,
							   .n = is_order(cmd->type) ? UINT64_MAX : ft_pauses(n->ft) + 1 };
	if (is_order(cmd->type))
		vm_tell(n->vm, cmd->type == MONITOR_RESET ? VM_RESET : VM_POWERDOWN, cmd->token);
	else
		node_event(n, &ev);
	return MONITOR_LATER;
}

/* Return: the place of the one who waits for @token, -1: gone */
static int waiter(const struct node *n, uint64_t token)
{
	for (unsigned int i = 0; i < n->n_waiters; i++)
		if (n->waiters[i].token == token)
			return (int)i;
	return -1;
}

void node_life_told(void *arg, enum vm_order order, uint64_t token, int rc, const char *why)
{
	struct ft_ev ev = { .type = FE_WANT, .cause = order == VM_RESET ? CAUSE_RESET : CAUSE_COMMAND };
	struct node *n = arg;
	int i = waiter(n, token);
	struct err e;

	if (!rc)
		log_note("%s", order == VM_RESET ? "the VM was reset, as somebody wants it" :
			 "the guest's power button was pressed, as somebody wants it");
	if (i >= 0 && rc) {
		err_set(&e, rc, "%s", why);
		node_answer(n, (unsigned int)i, NULL, &e);
	} else if (i >= 0 && ft_state(n->ft) == FT_PROTECTED) {
		n->waiters[i].n = ft_epoch(n->ft);
	} else if (i >= 0) {
		node_answer(n, (unsigned int)i, NULL, NULL);
	}
	if (!rc)
		node_event(n, &ev);
}

void node_life_checkpoint(struct node *n, uint64_t num)
{
	for (unsigned int i = n->n_waiters; i-- > 0;)
		if (is_order(n->waiters[i].type) && num >= n->waiters[i].n)
			node_answer(n, i, NULL, NULL);
}

void node_life_state(struct node *n, bool end)
{
	/* Ended before there was a machine: nobody can have asked for anything, for nobody was listened to. */
	enum ft_state st = n->ft ? ft_state(n->ft) : FT_ENDED;
	enum ft_reason why = n->ft ? ft_reason(n->ft) : FT_WHY_NONE;
	struct err e;

	for (unsigned int i = n->n_waiters; i-- > 0;) {
		bool order = is_order(n->waiters[i].type);

		if (!order && !is_pause(n->waiters[i].type))
			continue;
		err_set(&e, -ECANCELED, "%s", end ? "this node has ended before it was done" :
			"the node that served the VM is gone before it was done");
		/* The VM that was told goes on alone, or has ended by it. */
		if (order && n->waiters[i].n != UINT64_MAX && (st == FT_ALONE || (end && why == FT_WHY_GUEST_OFF)))
			node_answer(n, i, NULL, NULL);
		else if (end || (!order && st == FT_PROMOTING))
			node_answer(n, i, NULL, &e);
	}
}

static void tell_change(struct node *n, bool paused)
{
	struct json_object *o = json_object_new_object();

	n->last_paused = paused;
	log_note(paused ? "the VM stands until 'cont'" : "the VM runs again");
	if (o)
		json_object_object_add(o, "paused", json_object_new_boolean(paused));
	monitor_event(n->monitor, "PAUSE", o);
}

void node_life_tell(struct node *n)
{
	bool paused = ft_paused(n->ft);
	struct err e;

	if (n->ended)
		return;
	if (paused != n->last_paused)
		tell_change(n, paused);
	if (!ft_pause_done(n->ft))
		return;
	for (unsigned int i = n->n_waiters; i-- > 0;) {
		bool stop = n->waiters[i].type == MONITOR_STOP;

		if (!is_pause(n->waiters[i].type) || ft_pauses(n->ft) < n->waiters[i].n)
			continue;
		err_set(&e, -ECANCELED, "%s", !stop && n->pause_why[0] ? n->pause_why : "somebody has ordered otherwise meanwhile");
		node_answer(n, i, NULL, stop == paused ? NULL : &e);
	}
	n->pause_why[0] = 0;
}
