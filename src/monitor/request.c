/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Requests of the control socket, in the shape of QMP: {"execute": "__lockstep_status", "arguments": {}, "id": 1}
 * is answered by {"return": {...}, "id": 1} or {"error": {"class": "GenericError", "desc": "..."}, "id": 1}.
 *
 * One line is one request. Each command has a table of its arguments; an argument that is not in it, or is of
 * another type or out of range, is refused by name, so that what reaches the commands needs no second look.
 */
#include "monitor/request.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define REQUEST_SHOW 40		/* bytes of the user's text that an error repeats */

static const struct command {
	const char *name;
	enum request_type type;
	enum monitor_cmd_type cmd;
} commands[] = {
	{ "__lockstep_status", REQUEST_STATUS, 0 },
	{ "__lockstep_events", REQUEST_EVENTS, 0 },
	{ "__lockstep_checkpoint", REQUEST_COMMAND, MONITOR_CHECKPOINT },
	{ "__lockstep_failover", REQUEST_COMMAND, MONITOR_FAILOVER },
	{ "__lockstep_switch", REQUEST_COMMAND, MONITOR_SWITCH },
	{ "__lockstep_set", REQUEST_COMMAND, MONITOR_SET },
	{ "__lockstep_rules", REQUEST_COMMAND, MONITOR_RULES },
	{ "__lockstep_quit", REQUEST_COMMAND, MONITOR_QUIT },
	{ "__lockstep_blackbox", REQUEST_COMMAND, MONITOR_BLACKBOX },
	{ "__lockstep_capture", REQUEST_COMMAND, MONITOR_CAPTURE },
	/* As QEMU has them, with the pair for the VM. */
	{ "stop", REQUEST_COMMAND, MONITOR_STOP },
	{ "cont", REQUEST_COMMAND, MONITOR_CONT },
	{ "system_powerdown", REQUEST_COMMAND, MONITOR_POWERDOWN },
	{ "system_reset", REQUEST_COMMAND, MONITOR_RESET },
};

/* The user's text as an error repeats it: not too long, and not cut inside a character. */
static const char *request_show(const char *s, char out[REQUEST_SHOW + 4])
{
	size_t n = strlen(s);

	if (n <= REQUEST_SHOW)
		return s;
	for (n = REQUEST_SHOW; n && ((unsigned char)s[n] & 0xc0) == 0x80;)
		n--;
	snprintf(out, REQUEST_SHOW + 4, "%.*s...", (int)n, s);
	return out;
}

static int request_delay(struct json_object *v, struct request *r, struct err *e)
{
	int64_t ms = json_object_get_int64(v);

	if (!json_object_is_type(v, json_type_int) || ms < 1 || ms > (int64_t)UINT32_MAX)
		return err_set(e, -EINVAL, "checkpoint-delay must be a whole number of milliseconds from 1 to %u",
			       UINT32_MAX);
	r->cmd.checkpoint_delay = (nstime)ms * NS_PER_MS;
	return 0;
}

#define SETTABLE "checkpoint-delay, " SETTING_LIST ", or one of the last three for one NIC, as n0.compare-timeout"

/* Where a setting of comparing goes: to all NICs, or to one, which gets an entry of its own. NULL: no room */
static struct net_nic_cfg *request_nic(const char *nic, struct monitor_cmd *cmd)
{
	if (!*nic)
		return &cmd->all;
	for (unsigned int i = 0; i < cmd->n_nics; i++)
		if (!strcmp(cmd->nics[i].nic, nic))
			return &cmd->nics[i].cfg;
	if (cmd->n_nics == NET_MAX_NICS)
		return NULL;
	memcpy(cmd->nics[cmd->n_nics].nic, nic, strlen(nic) + 1);
	return &cmd->nics[cmd->n_nics++].cfg;
}

static int request_set(const char *key, struct json_object *v, struct request *r, struct err *e)
{
	char show[REQUEST_SHOW + 4], nic[SETTING_NIC_MAX + 1];
	int64_t n = json_object_get_int64(v);
	struct net_nic_cfg *cfg;
	int s;

	if (!strcmp(key, "checkpoint-delay") || !strcmp(key, "x-checkpoint-delay"))
		return request_delay(v, r, e);
	s = setting_name(key, nic);
	if (s < 0)
		return err_set(e, -EINVAL, "__lockstep_set has no argument '%s': what can be set is " SETTABLE,
			       request_show(key, show));
	if (!json_object_is_type(v, json_type_int) || n < (int64_t)setting_infos[s].min ||
	    n > (int64_t)setting_infos[s].max)
		return err_set(e, -EINVAL, "%s must be a whole number of %s from %llu to %llu", request_show(key, show),
			       setting_infos[s].unit, (unsigned long long)setting_infos[s].min,
			       (unsigned long long)setting_infos[s].max);
	cfg = request_nic(nic, &r->cmd);
	if (!cfg)
		return err_set(e, -EINVAL, "settings for more than %d NICs", NET_MAX_NICS);
	setting_put(cfg, (enum setting)s, (uint64_t)n);
	return 0;
}

/* Places are counted from 1 by people, from 0 inside. */
static int request_place(const char *key, struct json_object *v, uint32_t *at, struct err *e)
{
	int64_t n = json_object_get_int64(v);

	if (!json_object_is_type(v, json_type_int) || n < 1 || n > RULES_MAX)
		return err_set(e, -EINVAL, "%s must be the number of a rule, from 1 to %d", key, RULES_MAX);
	*at = (uint32_t)n - 1;
	return 0;
}

static int request_rule_text(const char *key, struct json_object *v, struct request *r, struct err *e)
{
	const char *text = json_object_get_string(v);
	size_t len;

	if (!json_object_is_type(v, json_type_string))
		return err_set(e, -EINVAL, "%s must be a rule, as text", key);
	len = (size_t)json_object_get_string_len(v);
	if (len >= sizeof(r->cmd.rule.text))
		return err_set(e, -EINVAL, "%s: a rule is at most %zu bytes long", key, sizeof(r->cmd.rule.text) - 1);
	/* What is refused is shown again, on a terminal. */
	for (size_t i = 0; i < len; i++)
		if (text[i] <= 0x20 || text[i] >= 0x7f)
			return err_set(e, -EINVAL, "%s: a rule has only letters, digits and signs, no blanks", key);
	memcpy(r->cmd.rule.text, text, len + 1);
	return 0;
}

/* {"add": RULE}, {"insert": N, "rule": RULE}, {"delete": N}, {"clear": true}, or nothing: only show them. */
static int request_rules(struct json_object *args, struct request *r, struct err *e)
{
	struct json_object *add = NULL, *insert = NULL, *rule = NULL, *del = NULL, *clear = NULL;
	char show[REQUEST_SHOW + 4];
	unsigned int n = 0;
	int rc;

	json_object_object_foreach(args, key, v) {
		if (!strcmp(key, "add"))
			add = v;
		else if (!strcmp(key, "insert"))
			insert = v;
		else if (!strcmp(key, "rule"))
			rule = v;
		else if (!strcmp(key, "delete"))
			del = v;
		else if (!strcmp(key, "clear"))
			clear = v;
		else
			return err_set(e, -EINVAL, "__lockstep_rules has no argument '%s': there are add, insert with "
				       "rule, delete, clear", request_show(key, show));
		if (!v)
			return err_set(e, -EINVAL, "__lockstep_rules: %s must not be null", key);
		n += strcmp(key, "rule") != 0;
	}
	if (n > 1)
		return err_set(e, -EINVAL, "__lockstep_rules does one thing at a time: add, insert, delete or clear");
	if (!insert != !rule)
		return err_set(e, -EINVAL, "insert and rule go together: the place, from 1, and the rule as text");
	if (add || insert) {
		r->cmd.rule.op = MONITOR_RULE_INSERT;
		r->cmd.rule.at = MONITOR_RULE_END;
		rc = request_rule_text(add ? "add" : "rule", add ? add : rule, r, e);
		return rc || add ? rc : request_place("insert", insert, &r->cmd.rule.at, e);
	}
	if (del) {
		r->cmd.rule.op = MONITOR_RULE_DELETE;
		return request_place("delete", del, &r->cmd.rule.at, e);
	}
	if (clear && (!json_object_is_type(clear, json_type_boolean) || !json_object_get_boolean(clear)))
		return err_set(e, -EINVAL, "clear must be true");
	r->cmd.rule.op = clear ? MONITOR_RULE_CLEAR : MONITOR_RULE_LIST;
	return 0;
}

static int request_points(struct json_object *v, struct request *r, struct err *e)
{
	char show[REQUEST_SHOW + 4];

	if (!json_object_is_type(v, json_type_array))
		return err_set(e, -EINVAL, "points must be an array of names");
	for (size_t i = 0; i < json_object_array_length(v); i++) {
		struct json_object *s = json_object_array_get_idx(v, i);
		unsigned int k = 0;

		if (!json_object_is_type(s, json_type_string))
			return err_set(e, -EINVAL, "points must be an array of names");
		while (k < CAPTURE_POINTS && strcmp(capture_point_name(k), json_object_get_string(s)))
			k++;
		if (k == CAPTURE_POINTS)
			return err_set(e, -EINVAL, "'%s' is no point: client, pvm, svm and released are",
				       request_show(json_object_get_string(s), show));
		r->cmd.capture.points |= 1u << k;
	}
	return 0;
}

static int request_capture(const char *key, struct json_object *v, struct request *r, struct err *e)
{
	int64_t n = json_object_is_type(v, json_type_int) ? json_object_get_int64(v) : 0;
	char show[REQUEST_SHOW + 4];

	if (!strcmp(key, "points"))
		return request_points(v, r, e);
	if (!strcmp(key, "snaplen")) {
		if (n < 1 || n > CAPTURE_SNAPLEN)
			return err_set(e, -EINVAL, "snaplen must be a whole number of bytes from 1 to %d",
				       CAPTURE_SNAPLEN);
		r->cmd.capture.snaplen = (uint32_t)n;
		return 0;
	}
	if (!strcmp(key, "count")) {
		if (n < 1)
			return err_set(e, -EINVAL, "count must be a whole number of frames, 1 or more");
		r->cmd.capture.count = (uint64_t)n;
		return 0;
	}
	return err_set(e, -EINVAL, "__lockstep_capture has no argument '%s': points, snaplen and count are",
		       request_show(key, show));
}

static int request_arguments(const struct command *c, struct json_object *args, struct request *r, struct err *e)
{
	bool set = c->type == REQUEST_COMMAND && c->cmd == MONITOR_SET;
	bool rules = c->type == REQUEST_COMMAND && c->cmd == MONITOR_RULES;
	char show[REQUEST_SHOW + 4];
	int rc = 0, n = 0;

	r->cmd = (struct monitor_cmd){ .type = c->cmd, .checkpoint_delay = NS_NEVER, .fd = -1 };
	if (args && !json_object_is_type(args, json_type_object))
		return err_set(e, -EINVAL, "arguments must be an object");
	if (rules && args)
		return request_rules(args, r, e);
	if (args) {
		json_object_object_foreach(args, key, v) {
			n++;
			if (set)
				rc = request_set(key, v, r, e);
			else if (c->type == REQUEST_COMMAND && c->cmd == MONITOR_CAPTURE)
				rc = request_capture(key, v, r, e);
			else
				rc = err_set(e, -EINVAL, "%s has no argument '%s'", c->name, request_show(key, show));
			if (rc)
				return rc;
		}
	}
	if (set && !n)
		return err_set(e, -EINVAL, "%s needs an argument: what can be set is " SETTABLE, c->name);
	if (c->type == REQUEST_COMMAND && c->cmd == MONITOR_CAPTURE && !r->cmd.capture.points)
		return err_set(e, -EINVAL, "%s needs the argument points: client, pvm, svm, released", c->name);
	return 0;
}

static int request_object(struct json_object *o, struct request *r, struct err *e)
{
	struct json_object *execute = NULL, *args = NULL, *id;
	char show[REQUEST_SHOW + 4];
	const char *name;

	if (!json_object_is_type(o, json_type_object))
		return err_set(e, -EINVAL, "a request must be an object");
	if (json_object_object_get_ex(o, "id", &id))
		r->id = json_object_get(id);
	json_object_object_foreach(o, key, v) {
		if (!strcmp(key, "execute"))
			execute = v;
		else if (!strcmp(key, "arguments"))
			args = v;
		else if (strcmp(key, "id"))
			return err_set(e, -EINVAL, "a request has no member '%s'", request_show(key, show));
	}
	if (!json_object_is_type(execute, json_type_string))
		return err_set(e, -EINVAL, "a request needs the member execute, a string");
	name = json_object_get_string(execute);
	for (size_t i = 0; i < sizeof(commands) / sizeof(*commands); i++) {
		/* The length too: a JSON string may hold a NUL. */
		if (!strcmp(commands[i].name, name) &&
		    strlen(name) == (size_t)json_object_get_string_len(execute)) {
			r->type = commands[i].type;
			return request_arguments(&commands[i], args, r, e);
		}
	}
	return err_set(e, -ENOSYS, "the command %s is not known", request_show(name, show));
}

int request_parse(const char *line, size_t len, struct request *r, struct err *e)
{
	struct json_tokener *tok = json_tokener_new_ex(MONITOR_MAX_DEPTH);
	struct json_object *o;
	int rc;

	memset(r, 0, sizeof(*r));
	if (!tok)
		return err_set(e, -EINVAL, "no memory to read the request");
	/* Strict also means that nothing but blanks may follow the object. */
	json_tokener_set_flags(tok, JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
	o = json_tokener_parse_ex(tok, line, (int)len);
	if (!o && json_tokener_get_error(tok) == json_tokener_continue)
		rc = err_set(e, -EINVAL, "the request is not complete at the end of the line");
	else if (!o && json_tokener_get_error(tok) != json_tokener_success)
		rc = err_set(e, -EINVAL, "the request is not JSON: %s at byte %zu",
			     json_tokener_error_desc(json_tokener_get_error(tok)), json_tokener_get_parse_end(tok) + 1);
	else
		rc = request_object(o, r, e);
	json_object_put(o);
	json_tokener_free(tok);
	return rc;
}

struct json_object *reply_ok(struct json_object *id, struct json_object *result)
{
	struct json_object *o = json_object_new_object();

	if (!o) {
		json_object_put(result);
		return NULL;
	}
	json_object_object_add(o, "return", result ? result : json_object_new_object());
	if (id)
		json_object_object_add(o, "id", json_object_get(id));
	return o;
}

struct json_object *reply_error(struct json_object *id, const struct err *e)
{
	struct json_object *o = json_object_new_object(), *err = json_object_new_object();

	if (!o || !err) {
		json_object_put(o);
		json_object_put(err);
		return NULL;
	}
	json_object_object_add(err, "class", json_object_new_string(e->code == -ENOSYS ? "CommandNotFound" :
								     "GenericError"));
	json_object_object_add(err, "desc", json_object_new_string(e->msg));
	json_object_object_add(o, "error", err);
	if (id)
		json_object_object_add(o, "id", json_object_get(id));
	return o;
}

struct json_object *event_make(const char *name, struct json_object *data)
{
	struct json_object *o = json_object_new_object(), *at = json_object_new_object();
	struct timespec ts;
	char event[64];

	if (!o || !at) {
		json_object_put(o);
		json_object_put(at);
		json_object_put(data);
		return NULL;
	}
	clock_gettime(CLOCK_REALTIME, &ts);
	snprintf(event, sizeof(event), "__LOCKSTEP_%s", name);
	json_object_object_add(o, "event", json_object_new_string(event));
	json_object_object_add(o, "data", data ? data : json_object_new_object());
	json_object_object_add(at, "seconds", json_object_new_int64(ts.tv_sec));
	json_object_object_add(at, "microseconds", json_object_new_int64(ts.tv_nsec / 1000));
	json_object_object_add(o, "timestamp", at);
	return o;
}
