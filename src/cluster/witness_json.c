/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What goes to etcd's v3 JSON gateway and comes back from it. Pure; any thread. Keys and values travel in base64.
 *
 * A record stands in etcd as {"generation":7,"owner":"32 hexadecimal digits"}, for people with etcdctl too. It is compared as
 * the bytes that were read, never as a text that was made anew. Fields that have the default value are missing in
 * answers ("succeeded":false, "count":"0"), so an answer is known by its header.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/witness_internal.h"

#define B64_LEN(n)	(((n) + 2) / 3 * 4 + 1)

static const char b64_digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static void b64_encode(char *out, const void *data, size_t len)
{
	const unsigned char *p = data;

	for (; len; p += 3, len -= len < 3 ? len : 3) {
		uint32_t v = (uint32_t)p[0] << 16 | (len > 1 ? (uint32_t)p[1] << 8 : 0) | (len > 2 ? p[2] : 0);

		*out++ = b64_digits[v >> 18];
		*out++ = b64_digits[v >> 12 & 63];
		*out++ = len > 1 ? b64_digits[v >> 6 & 63] : '=';
		*out++ = len > 2 ? b64_digits[v & 63] : '=';
	}
	*out = 0;
}

/* Return: bytes in @out, or -EPROTO */
static int b64_decode(char *out, size_t size, const char *p, size_t len)
{
	size_t n = 0, pad = 0;

	if (len % 4)
		return -EPROTO;
	for (; pad < 2 && len && p[len - 1] == '='; pad++)
		len--;
	for (size_t i = 0; i < len; i += 4) {
		uint32_t v = 0;
		size_t digits = len - i < 4 ? len - i : 4;

		for (size_t k = 0; k < 4; k++) {
			const char *d = k < digits ? memchr(b64_digits, p[i + k], 64) : b64_digits;

			if (!d)
				return -EPROTO;
			v = v << 6 | (uint32_t)(d - b64_digits);
		}
		if (digits < 2 || n + digits - 1 > size)
			return -EPROTO;
		for (size_t k = 0; k < digits - 1; k++)
			out[n++] = (char)(v >> (16 - 8 * k));
	}
	return (int)n;
}

static int hex(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static int record_text(char out[ETCD_VALUE_MAX], const struct witness_record *r)
{
	int n = snprintf(out, ETCD_VALUE_MAX, "{\"generation\":%u,\"owner\":\"", r->generation);

	for (int i = 0; i < WITNESS_ID_LEN; i++)
		n += snprintf(out + n, ETCD_VALUE_MAX - (size_t)n, "%02x", r->owner[i]);
	return n + snprintf(out + n, ETCD_VALUE_MAX - (size_t)n, "\"}");
}

static int asked(int n)
{
	return n < 0 || n >= ETCD_BODY_MAX ? -EMSGSIZE : 0;
}

int etcd_ask_range(char *out, const char *key)
{
	char k[B64_LEN(ETCD_KEY_MAX)];

	if (strlen(key) > ETCD_KEY_MAX)
		return -EMSGSIZE;
	b64_encode(k, key, strlen(key));
	return asked(snprintf(out, ETCD_BODY_MAX, "{\"key\":\"%s\"}", k));
}

int etcd_ask_cas(char *out, const char *key, const struct etcd_kv *old, const struct witness_record *r)
{
	char k[B64_LEN(ETCD_KEY_MAX)], v[B64_LEN(ETCD_VALUE_MAX)], text[ETCD_VALUE_MAX], cmp[sizeof(v) + 64];

	if (strlen(key) > ETCD_KEY_MAX)
		return -EMSGSIZE;
	b64_encode(k, key, strlen(key));
	b64_encode(v, old->value, old->len);
	if (old->found)
		snprintf(cmp, sizeof(cmp), "\"target\":\"VALUE\",\"value\":\"%s\"", v);
	else
		snprintf(cmp, sizeof(cmp), "\"target\":\"CREATE\",\"createRevision\":\"0\"");
	b64_encode(v, text, (size_t)record_text(text, r));
	return asked(snprintf(out, ETCD_BODY_MAX,
			      "{\"compare\":[{\"key\":\"%s\",\"result\":\"EQUAL\",%s}],"
			      "\"success\":[{\"requestPut\":{\"key\":\"%s\",\"value\":\"%s\"}}],"
			      "\"failure\":[{\"requestRange\":{\"key\":\"%s\"}}]}", k, cmp, k, v, k));
}

int etcd_ask_auth(char *out, const char *user, const char *password)
{
	struct json_object *o = json_object_new_object();
	int n;

	if (!o)
		return -ENOMEM;
	json_object_object_add(o, "name", json_object_new_string(user));
	json_object_object_add(o, "password", json_object_new_string(password));
	n = snprintf(out, ETCD_BODY_MAX, "%s", json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN));
	json_object_put(o);
	return asked(n);
}

static struct json_object *parse(const char *text, size_t len)
{
	struct json_tokener *tok = json_tokener_new_ex(ETCD_JSON_DEPTH);
	struct json_object *o = NULL;

	if (!tok || len > ETCD_REPLY_MAX)
		goto out;
	o = json_tokener_parse_ex(tok, text, (int)len);
	if (json_tokener_get_error(tok) != json_tokener_success || !json_object_is_type(o, json_type_object)) {
		json_object_put(o);
		o = NULL;
	}
out:
	if (tok)
		json_tokener_free(tok);
	return o;
}

/* Member @a (or @b, as other versions spell it) when it is of type @t, else NULL */
static struct json_object *member(struct json_object *o, const char *a, const char *b, enum json_type t)
{
	struct json_object *v = NULL;

	if (!json_object_object_get_ex(o, a, &v) && b)
		json_object_object_get_ex(o, b, &v);
	return json_object_is_type(v, t) ? v : NULL;
}

static int read_record(struct etcd_kv *kv)
{
	struct json_object *o = parse(kv->value, kv->len), *g, *id;
	const char *text;
	int64_t n;
	int rc = -EBADMSG;

	if (!o)
		return rc;
	g = member(o, "generation", NULL, json_type_int);
	id = member(o, "owner", NULL, json_type_string);
	if (!g || !id || json_object_get_string_len(id) != 2 * WITNESS_ID_LEN)
		goto out;
	n = json_object_get_int64(g);
	if (n < 1 || n > UINT32_MAX)
		goto out;
	kv->record.generation = (uint32_t)n;
	text = json_object_get_string(id);
	for (int i = 0; i < WITNESS_ID_LEN; i++) {
		int a = hex(text[2 * i]), b = hex(text[2 * i + 1]);

		if (a < 0 || b < 0)
			goto out;
		kv->record.owner[i] = (uint8_t)(a << 4 | b);
	}
	rc = 0;
out:
	json_object_put(o);
	return rc;
}

/* What a range says, alone or in a transaction's answer */
static int read_range(struct json_object *o, struct etcd_answer *a, struct err *e)
{
	struct json_object *kvs = member(o, "kvs", NULL, json_type_array), *kv, *v;
	size_t n = kvs ? json_object_array_length(kvs) : 0;
	int rc;

	a->has_kv = true;
	if (!n)
		return 0;
	kv = json_object_array_get_idx(kvs, 0);
	v = n == 1 && json_object_is_type(kv, json_type_object) ? member(kv, "value", NULL, json_type_string) : NULL;
	if (!v)
		return err_set(e, -EBADMSG, "the witness's key is empty");
	rc = b64_decode(a->kv.value, sizeof(a->kv.value), json_object_get_string(v), (size_t)json_object_get_string_len(v));
	if (rc < 0)
		return err_set(e, -EBADMSG, "the witness's key holds something that is no record");
	a->kv.found = true;
	a->kv.len = (size_t)rc;
	if (read_record(&a->kv))
		return err_set(e, -EBADMSG, "the witness's key holds '%.*s', which is no record", (int)(a->kv.len < 60 ? a->kv.len : 60),
			       a->kv.value);
	return 0;
}

static int read_error(long status, struct json_object *o, struct err *e)
{
	struct json_object *m = o ? member(o, "error", "message", json_type_string) : NULL;
	const char *text = m ? json_object_get_string(m) : "";
	int rc = -EAGAIN;

	/* The gateway maps most errors to 400; the token's has a code of its own in some versions only. */
	if (status == 401 || strstr(text, "invalid auth token"))
		rc = -EACCES;
	else if (status == 403 || strstr(text, "permission denied") || strstr(text, "user name is empty") ||
		 strstr(text, "authentication failed"))
		rc = -EPERM;
	return err_set(e, rc, "HTTP status %ld%s%.100s", status, *text ? ": " : "", text);
}

int etcd_read(long status, const char *text, size_t len, struct etcd_answer *a, struct err *e)
{
	struct json_object *o = parse(text, len), *v;
	int rc = 0;

	memset(a, 0, sizeof(*a));
	if (status != 200) {
		rc = read_error(status, o, e);
		goto out;
	}
	if (!o || !member(o, "header", NULL, json_type_object)) {
		rc = err_set(e, -EPROTO, "what answers is not etcd's version 3 JSON gateway");
		goto out;
	}
	v = member(o, "succeeded", NULL, json_type_boolean);
	a->succeeded = v && json_object_get_boolean(v);
	v = member(o, "token", NULL, json_type_string);
	if (v) {
		const char *t = json_object_get_string(v);
		size_t n = strlen(t);

		/* It goes into a header: nothing may end that. */
		if (n >= sizeof(a->token) || strspn(t, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=-_.~") != n)
			rc = err_set(e, -EPROTO, "etcd has given a token that cannot be sent back");
		else
			memcpy(a->token, t, n + 1);
		goto out;
	}
	v = member(o, "responses", NULL, json_type_array);
	if (!v) {
		rc = read_range(o, a, e);
		goto out;
	}
	v = json_object_array_length(v) ? json_object_array_get_idx(v, 0) : NULL;
	v = json_object_is_type(v, json_type_object) ? member(v, "response_range", "responseRange", json_type_object) : NULL;
	if (v)
		rc = read_range(v, a, e);
out:
	json_object_put(o);
	return rc;
}
