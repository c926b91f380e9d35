/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * From figures to one word. A node that is protected is degraded as soon as one of the things that protection rests on is
 * not there: the witness, a path of heartbeats, a copy of a disk that is up to date, two copies that are compared. What is
 * so by the command line (no witness, no encryption) is a warning and degrades nothing: it would never go away.
 */
#include <json-c/json.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "monitor/condition.h"

const char *condition_name(enum condition c)
{
	static const char *const names[COND_MAX] = {
		[COND_UNPROTECTED] = "unprotected", [COND_SYNCHRONISING] = "synchronising", [COND_PROTECTED] = "protected",
		[COND_DEGRADED] = "degraded", [COND_FAILED_OVER] = "failed over", [COND_FENCED] = "fenced",
	};

	return (unsigned int)c < COND_MAX ? names[c] : "?";
}

__attribute__((format(printf, 2, 3)))
static void add(struct condition_why *w, const char *fmt, ...)
{
	va_list ap;

	if (w->n == CONDITION_WHY_MAX)
		return;
	va_start(ap, fmt);
	vsnprintf(w->text[w->n++], CONDITION_WHY_LEN, fmt, ap);
	va_end(ap);
}

/* What protection rests on. */
static void degraded(const struct status *s, struct condition_why *w)
{
	if (s->witness.kind && s->witness.lost)
		add(w, "the witness (%s) cannot be reached", s->witness.kind);
	for (unsigned int i = 0; i < s->n_paths; i++)
		if (s->paths[i].silent)
			add(w, "no heartbeat comes over %s", s->paths[i].name);
	if (s->hybrid_at && s->now > s->hybrid_at && s->now - s->hybrid_at > CONDITION_HYBRID)
		add(w, "the copies keep differing: output leaves with periodic checkpoints (hybrid)");
	if (s->svm_stuck)
		add(w, "the secondary's copy stands still until the next checkpoint");
	for (unsigned int i = 0; s->disk && i < s->n_disks && s->role == FT_PRIMARY; i++)
		if (s->disk->resyncing && s->disk->disk[i].dirty)
			add(w, "the peer's image of disk %s is not up to date", s->disk_ids[i]);
	for (unsigned int i = 0; i < STATUS_MAX_TROUBLES && s->troubles[i]; i++)
		add(w, "%s", s->troubles[i]);
}

static enum condition serves_alone(const struct status *s, struct condition_why *w)
{
	if (s->failover.at && !s->failover.over && s->failover.took_over) {
		add(w, "this node has taken over: %s", ft_reason_name(s->failover.reason));
	} else if (s->failover.at && !s->failover.over) {
		add(w, "the other node was lost: %s", ft_reason_name(s->failover.reason));
	}
	if (s->memory.mapping == FT_MEM_STUCK)
		add(w, "the VM's memory could not be shared again: it cannot be protected before it was started anew");
	else if (s->memory.mapping == FT_MEM_SHARING)
		add(w, "the VM's memory is being made fit for protection");
	add(w, s->link.peer[0] ? "a peer is connected and is not synchronised yet" : "no other node is connected");
	return s->failover.at && !s->failover.over && s->failover.took_over ? COND_FAILED_OVER : COND_UNPROTECTED;
}

enum condition condition_of(const struct status *s, struct condition_why *w)
{
	w->n = 0;
	switch (s->state) {
	case FT_INIT:
		add(w, s->role == FT_PRIMARY ? "the VM is not begun yet" : "this node has not begun to stand by yet");
		return COND_UNPROTECTED;
	case FT_ALONE:
		return serves_alone(s, w);
	case FT_SYNC:
		add(w, "the secondary is being filled");
		return COND_SYNCHRONISING;
	case FT_JOINING:
		if (s->link.peer[0]) {
			add(w, "this node is being filled and cannot take over yet");
			return COND_SYNCHRONISING;
		}
		add(w, "this node waits for the one that serves the VM");
		return COND_UNPROTECTED;
	case FT_PROTECTED:
		degraded(s, w);
		return w->n ? COND_DEGRADED : COND_PROTECTED;
	case FT_STANDBY:
		if (s->reason == FT_WHY_UNFENCED) {
			add(w, "the peer is gone and was not fenced: the VM stands, since it may be running there");
			return COND_FENCED;
		}
		/* From this there is no way back to standing by. */
		if (s->reason == FT_WHY_NO_WITNESS) {
			add(w, "this node would take over: the copy stands until the witness grants it");
			return COND_FENCED;
		}
		if (!s->link.peer[0])
			add(w, "the link to the peer is gone: it is being decided who serves");
		degraded(s, w);
		return w->n ? COND_DEGRADED : COND_PROTECTED;
	case FT_FENCED:
		add(w, "the VM stands until it is known that no other node has it: %s", ft_reason_name(s->reason));
		return COND_FENCED;
	case FT_PROMOTING:
		add(w, "this node is taking over: %s", ft_reason_name(s->reason));
		return COND_FAILED_OVER;
	default:
		add(w, "this node has ended: %s", ft_reason_name(s->reason));
		return COND_UNPROTECTED;
	}
}

bool condition_same(const struct condition_why *a, const struct condition_why *b)
{
	if (a->n != b->n)
		return false;
	for (unsigned int i = 0; i < a->n; i++)
		if (strcmp(a->text[i], b->text[i]))
			return false;
	return true;
}

void condition_json(struct json_object *o, enum condition c, const struct condition_why *w)
{
	struct json_object *list = json_object_new_array();

	for (unsigned int i = 0; list && i < w->n; i++)
		json_object_array_add(list, json_object_new_string(w->text[i]));
	json_object_object_add(o, "condition", json_object_new_string(condition_name(c)));
	json_object_object_add(o, "condition_why", list);
}
