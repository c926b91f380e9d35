/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * QEMU's way of writing options. Two dialects exist in QEMU itself (one knows "key" for "key=on", the newer one does
 * not; both know the bare first value and ",,"); reading them as one is harmless, because an option that Lockstep
 * does not change is handed on as the user wrote it, and QEMU judges it then.
 * Runs before anything else, in the main thread; no state.
 */
#include "engine/args.h"

#include <ctype.h>
#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int kvlist_add(struct kvlist *l, const char *key, size_t klen, const char *val, size_t vlen)
{
	struct kv *v;

	if (l->n >= KV_MAX)
		return -E2BIG;
	v = realloc(l->v, (l->n + 1) * sizeof(*v));
	if (!v)
		return -ENOMEM;
	l->v = v;
	v += l->n;
	v->key = strndup(key, klen);
	v->val = strndup(val, vlen);
	if (!v->key || !v->val) {
		free(v->key);
		free(v->val);
		return -ENOMEM;
	}
	l->n++;
	return 0;
}

void kvlist_free(struct kvlist *l)
{
	for (unsigned int i = 0; i < l->n; i++) {
		free(l->v[i].key);
		free(l->v[i].val);
	}
	free(l->v);
	if (l->json)
		json_object_put(l->json);
	memset(l, 0, sizeof(*l));
}

/* One scalar, or the members of one container, under the dotted name @key. */
static int flatten(struct kvlist *l, const char *key, struct json_object *o, int depth)
{
	char name[256];
	const char *val;
	int rc = 0;

	if (depth > KV_JSON_DEPTH)
		return -E2BIG;
	if (json_object_is_type(o, json_type_object)) {
		json_object_object_foreach(o, k, member) {
			if (snprintf(name, sizeof(name), "%s%s%s", key, *key ? "." : "", k) >= (int)sizeof(name))
				return -E2BIG;
			rc = flatten(l, name, member, depth + 1);
			if (rc)
				return rc;
		}
		return 0;
	}
	if (json_object_is_type(o, json_type_array)) {
		for (size_t i = 0; i < json_object_array_length(o) && !rc; i++) {
			if (snprintf(name, sizeof(name), "%s.%zu", key, i) >= (int)sizeof(name))
				return -E2BIG;
			rc = flatten(l, name, json_object_array_get_idx(o, i), depth + 1);
		}
		return rc;
	}
	if (json_object_is_type(o, json_type_boolean))
		val = json_object_get_boolean(o) ? "on" : "off";
	else if (!o)
		val = "";
	else
		val = json_object_get_string(o);
	return kvlist_add(l, key, strlen(key), val, strlen(val));
}

static int parse_json(struct kvlist *l, const char *text, size_t len, struct err *e)
{
	struct json_tokener *tok = json_tokener_new_ex(KV_JSON_DEPTH);
	enum json_tokener_error why;
	size_t end;
	int rc;

	if (!tok)
		return err_set(e, -ENOMEM, "no memory for an option");
	l->json = json_tokener_parse_ex(tok, text, (int)len);
	why = json_tokener_get_error(tok);
	end = json_tokener_get_parse_end(tok);
	json_tokener_free(tok);
	while (end < len && isspace((unsigned char)text[end]))
		end++;
	if (why != json_tokener_success || end != len || !json_object_is_type(l->json, json_type_object))
		rc = err_set(e, -EINVAL, "this is not a JSON object (%s)",
			     why == json_tokener_success ? "more text after it" :
			     why == json_tokener_continue ? "it is cut short" : json_tokener_error_desc(why));
	else
		rc = flatten(l, "", l->json, 0);
	return rc;
}

/* The value that starts at @p, with ",," taken for one comma; the end of it goes to @next. */
static int plain_value(const char *p, char *buf, const char **next, size_t *len)
{
	size_t n = 0;

	for (; *p; p++) {
		if (*p == ',') {
			if (p[1] != ',')
				break;
			p++;
		}
		buf[n++] = *p;
	}
	*next = p;
	*len = n;
	return 0;
}

static int parse_plain(struct kvlist *l, const char *text, const char *implied, char *buf)
{
	const char *p = text;
	bool first = true;
	int rc = 0;

	while (*p && !rc) {
		size_t klen = strcspn(p, "=,");
		const char *key = p;
		size_t vlen;

		if (p[klen] == '=') {
			plain_value(p + klen + 1, buf, &p, &vlen);
			rc = kvlist_add(l, key, klen, buf, vlen);
		} else if (first && implied) {
			plain_value(p, buf, &p, &vlen);
			rc = kvlist_add(l, implied, strlen(implied), buf, vlen);
		} else {
			bool off = klen > 2 && !strncmp(key, "no", 2);

			p += klen;
			if (klen)
				rc = kvlist_add(l, off ? key + 2 : key, off ? klen - 2 : klen, off ? "off" : "on",
						off ? 3 : 2);
		}
		first = false;
		if (*p == ',')
			p++;
	}
	return rc;
}

int kvlist_parse(struct kvlist *l, const char *text, const char *implied, struct err *e)
{
	size_t len = strnlen(text, KV_TEXT_MAX + 1);
	char *buf;
	int rc;

	memset(l, 0, sizeof(*l));
	if (len > KV_TEXT_MAX)
		return err_set(e, -E2BIG, "an option longer than %d bytes", KV_TEXT_MAX);
	if (e)
		e->code = 0;
	if (text[0] == '{') {
		rc = parse_json(l, text, len, e);
	} else {
		buf = malloc(len + 1);
		rc = buf ? parse_plain(l, text, implied, buf) : -ENOMEM;
		free(buf);
	}
	if (!rc)
		return 0;
	kvlist_free(l);
	if (rc == -E2BIG)
		return err_set(e, rc, "an option with more than %d keys, or nested too deeply", KV_MAX);
	if (rc == -ENOMEM)
		return err_set(e, rc, "no memory for an option");
	return rc;
}

const char *kvlist_get(const struct kvlist *l, const char *key)
{
	for (unsigned int i = l->n; i-- > 0;)
		if (!strcmp(l->v[i].key, key))
			return l->v[i].val;
	return NULL;
}

int kvlist_bool(const struct kvlist *l, const char *key, int dflt)
{
	static const char *const yes[] = { "on", "yes", "true", "y" }, *const no[] = { "off", "no", "false", "n" };
	const char *val = kvlist_get(l, key);

	if (!val)
		return dflt;
	for (unsigned int i = 0; i < 4; i++) {
		if (!strcmp(val, yes[i]))
			return 1;
		if (!strcmp(val, no[i]))
			return 0;
	}
	return -EINVAL;
}

void kvlist_del(struct kvlist *l, const char *key)
{
	unsigned int to = 0;

	for (unsigned int i = 0; i < l->n; i++) {
		if (strcmp(l->v[i].key, key)) {
			l->v[to++] = l->v[i];
			continue;
		}
		free(l->v[i].key);
		free(l->v[i].val);
	}
	l->n = to;
	if (l->json)
		json_object_object_del(l->json, key);
}

int kvlist_set(struct kvlist *l, const char *key, const char *val)
{
	struct json_object *s;
	char *copy = strdup(val);	/* it may be a value of this very list */
	int rc;

	if (!copy)
		return -ENOMEM;
	kvlist_del(l, key);
	rc = kvlist_add(l, key, strlen(key), copy, strlen(copy));
	if (!rc && l->json) {
		s = json_object_new_string(copy);
		if (!s || json_object_object_add(l->json, key, s))
			rc = -ENOMEM;
	}
	free(copy);
	return rc;
}

int kvlist_merge(struct kvlist *to, const struct kvlist *from)
{
	int rc = 0;

	for (unsigned int i = 0; i < from->n && !rc; i++)
		rc = kvlist_set(to, from->v[i].key, from->v[i].val);
	return rc;
}

static void put_escaped(FILE *f, const char *val)
{
	for (; *val; val++) {
		if (*val == ',')
			fputc(',', f);
		fputc(*val, f);
	}
}

char *kvlist_format(const struct kvlist *l, const char *implied)
{
	const char *first = implied ? kvlist_get(l, implied) : NULL;
	char *text = NULL;
	size_t len;
	FILE *f;

	if (l->json) {
		const char *s = json_object_to_json_string_ext(l->json, JSON_C_TO_STRING_PLAIN |
							       JSON_C_TO_STRING_NOSLASHESCAPE);

		return s ? strdup(s) : NULL;
	}
	f = open_memstream(&text, &len);
	if (!f)
		return NULL;
	if (first)
		put_escaped(f, first);
	for (unsigned int i = 0; i < l->n; i++) {
		if (implied && !strcmp(l->v[i].key, implied))
			continue;
		fprintf(f, "%s%s=", ftell(f) > 0 ? "," : "", l->v[i].key);
		put_escaped(f, l->v[i].val);
	}
	if (fclose(f)) {
		free(text);
		return NULL;
	}
	return text;
}

int args_size(const char *text, uint64_t unit, uint64_t *bytes)
{
	static const char suffix[] = "bkmgt";
	bool hex = text[0] == '0' && (text[1] == 'x' || text[1] == 'X');
	long double val;
	const char *at;
	char *end;

	/* Neither a sign nor "inf" nor an exponent is a size. */
	if (!isdigit((unsigned char)text[0]) || (!hex && strpbrk(text, "eEpPxX")))
		return -EINVAL;
	errno = 0;
	val = hex ? (long double)strtoull(text, &end, 16) : strtold(text, &end);
	if (errno)
		return -ERANGE;
	if (*end) {
		at = strchr(suffix, tolower((unsigned char)*end));
		if (!at || end[1])
			return -EINVAL;
		unit = 1ull << (10 * (at - suffix));
	}
	val *= (long double)unit;
	if (val > (long double)INT64_MAX)
		return -ERANGE;
	*bytes = (uint64_t)val;
	return 0;
}

int args_uint(const char *text, unsigned int max, unsigned int *val)
{
	unsigned long n;
	char *end;

	if (!isdigit((unsigned char)text[0]))
		return -EINVAL;
	errno = 0;
	n = strtoul(text, &end, 10);
	if (errno || *end || n > max)
		return -EINVAL;
	*val = (unsigned int)n;
	return 0;
}

int args_mac(const char *text, char out[18])
{
	unsigned int b[6];
	int end = 0;

	/* The width of two keeps each part to a byte; %n tells that all of the text was used. */
	if (strspn(text, "0123456789abcdefABCDEF:-") != strlen(text))
		return -EINVAL;
	if ((sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%n", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5], &end) != 6 &&
	     sscanf(text, "%2x-%2x-%2x-%2x-%2x-%2x%n", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5], &end) != 6) ||
	    text[end])
		return -EINVAL;
	for (int i = 0; i < 6; i++)
		if (b[i] > 0xff)	/* "-1" is a number to scanf */
			return -EINVAL;
	if (b[0] & 1)
		return -EINVAL;
	snprintf(out, 18, "%02x:%02x:%02x:%02x:%02x:%02x", b[0] & 0xff, b[1] & 0xff, b[2] & 0xff, b[3] & 0xff,
		 b[4] & 0xff, b[5] & 0xff);
	return 0;
}
