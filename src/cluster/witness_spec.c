/* SPDX-License-Identifier: BSD-2-Clause */
/* What --witness says. Pure; any thread. */
#include "cluster/witness.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define DISK_BLOCKS	8192	/* bytes of one VM's two blocks, see witness_disk.c */

const char *witness_kind_name(enum witness_kind k)
{
	static const char *const names[] = { "none", "etcd", "command", "disk" };

	return (size_t)k < sizeof(names) / sizeof(*names) ? names[k] : "?";
}

const char *witness_answer_name(enum witness_answer a)
{
	static const char *const names[] = { "GRANTED", "LOST", "UNKNOWN", "RECORD" };

	return (size_t)a < sizeof(names) / sizeof(*names) ? names[a] : "?";
}

bool witness_keeps_record(enum witness_kind k)
{
	return k == WITNESS_ETCD || k == WITNESS_DISK;
}

/* @len bytes of @p into @out. Return: 0 or -EINVAL with @e */
static int take(char *out, size_t size, const char *p, size_t len, const char *what, struct err *e)
{
	if (!len)
		return err_set(e, -EINVAL, "--witness: %s is empty", what);
	if (len >= size)
		return err_set(e, -EINVAL, "--witness: %s has %zu bytes, more than %zu", what, len, size - 1);
	memcpy(out, p, len);
	out[len] = 0;
	return 0;
}

/* The value of "NAME=value" when @p is that. Return: it, or NULL */
static const char *value_of(const char *p, size_t len, const char *name, size_t *vlen)
{
	size_t n = strlen(name);

	if (len <= n || strncmp(p, name, n) || p[n] != '=')
		return NULL;
	*vlen = len - n - 1;
	return p + n + 1;
}

static int number(const char *p, size_t len, const char *what, uint64_t *out, struct err *e)
{
	uint64_t v = 0;

	for (size_t i = 0; i < len; i++) {
		if (p[i] < '0' || p[i] > '9' || v > (UINT64_MAX >> 1) / 10)
			return err_set(e, -EINVAL, "--witness: %s is a number, not '%.*s'", what, (int)len, p);
		v = v * 10 + (uint64_t)(p[i] - '0');
	}
	*out = v;
	return len ? 0 : err_set(e, -EINVAL, "--witness: %s is empty", what);
}

static int endpoint(struct witness_spec *s, const char *p, size_t len, struct err *e)
{
	const char *host = strstr(p, "://") + 3;
	int rc;

	if (s->endpoints == WITNESS_ENDPOINTS_MAX)
		return err_set(e, -EINVAL, "--witness: more than %d endpoints", WITNESS_ENDPOINTS_MAX);
	if (strncmp(p, "http://", 7) && strncmp(p, "https://", 8))
		return err_set(e, -EINVAL, "--witness: an endpoint begins with http:// or https://, not '%.*s'", (int)len, p);
	while (len && p[len - 1] == '/')
		len--;
	if (host >= p + len)
		return err_set(e, -EINVAL, "--witness: an endpoint names no host");
	for (const char *c = host; c < p + len; c++)
		if (*c == '/' || *c == '?' || *c == '#' || *c == '@' || *c <= ' ' || *c == 0x7f)
			return err_set(e, -EINVAL, "--witness: an endpoint is http://HOST:PORT or https://HOST:PORT, not '%.*s'",
				       (int)len, p);
	rc = take(s->endpoint[s->endpoints], sizeof(s->endpoint[0]), p, len, "an endpoint", e);
	if (!rc)
		s->endpoints++;
	return rc;
}

static int prefix(struct witness_spec *s, const char *p, size_t len, struct err *e)
{
	/* Two bytes for the slashes. */
	int rc = take(s->prefix + 1, sizeof(s->prefix) - 2, p, len, "the prefix", e);

	if (rc)
		return rc;
	if (s->prefix[1] == '/')
		memmove(s->prefix, s->prefix + 1, len + 1);
	else
		s->prefix[0] = '/';
	if (s->prefix[strlen(s->prefix) - 1] != '/')
		strcat(s->prefix, "/");
	return 0;
}

static int etcd_word(struct witness_spec *s, const char *p, size_t len, struct err *e)
{
	const struct {
		const char *name;
		char *out;
		size_t size;
	} words[] = {
		{ "cacert", s->cacert, sizeof(s->cacert) },
		{ "cert", s->cert, sizeof(s->cert) },
		{ "key", s->key, sizeof(s->key) },
		{ "user", s->user, sizeof(s->user) },
		{ "password-file", s->password_file, sizeof(s->password_file) },
	};
	const char *colon = memchr(p, ':', len), *v;
	size_t n;

	if (colon && p + len - colon >= 3 && !strncmp(colon, "://", 3) && !memchr(p, '=', (size_t)(colon - p)))
		return endpoint(s, p, len, e);
	for (size_t i = 0; i < sizeof(words) / sizeof(*words); i++) {
		v = value_of(p, len, words[i].name, &n);
		if (v)
			return take(words[i].out, words[i].size, v, n, words[i].name, e);
	}
	v = value_of(p, len, "prefix", &n);
	if (v)
		return prefix(s, v, n, e);
	return err_set(e, -EINVAL, "--witness: '%.*s' is neither an endpoint (http://HOST:PORT) nor cacert=, cert=, key=, user=, "
		       "password-file= or prefix=", (int)len, p);
}

static int disk_word(struct witness_spec *s, const char *p, size_t len, struct err *e)
{
	uint64_t n = 0;
	size_t vlen;
	const char *v;
	int rc;

	if (len == 7 && !strncmp(p, "replace", 7)) {
		s->replace = true;
		return 0;
	}
	v = value_of(p, len, "offset", &vlen);
	if (v) {
		rc = number(v, vlen, "offset", &s->offset, e);
		if (!rc && s->offset % DISK_BLOCKS)
			rc = err_set(e, -EINVAL, "--witness: offset is a multiple of %d (each VM takes that many bytes)", DISK_BLOCKS);
		return rc;
	}
	v = value_of(p, len, "node", &vlen);
	if (v) {
		rc = number(v, vlen, "node", &n, e);
		if (!rc && n != 1 && n != 2)
			rc = err_set(e, -EINVAL, "--witness: node is 1 on one of the two nodes and 2 on the other one");
		s->node = (unsigned int)n;
		return rc;
	}
	return err_set(e, -EINVAL, "--witness: '%.*s' is none of offset=, node= and replace", (int)len, p);
}

/* The words between commas, each to @fn. */
static int words(struct witness_spec *s, const char *p, int (*fn)(struct witness_spec *s, const char *p, size_t len, struct err *e),
		 struct err *e)
{
	for (;;) {
		size_t n = strcspn(p, ",");
		int rc = n ? fn(s, p, n, e) : err_set(e, -EINVAL, "--witness: nothing stands between two commas, or after the last one");

		if (rc || !p[n])
			return rc;
		p += n + 1;
	}
}

static int etcd(struct witness_spec *s, const char *p, struct err *e)
{
	bool tls = false, plain = false;
	int rc;

	strcpy(s->prefix, "/lockstep/");
	rc = words(s, p, etcd_word, e);
	if (rc)
		return rc;
	if (!s->endpoints)
		return err_set(e, -EINVAL, "--witness: etcd needs at least one endpoint (etcd:http://HOST:2379)");
	for (unsigned int i = 0; i < s->endpoints; i++)
		*(strncmp(s->endpoint[i], "https:", 6) ? &plain : &tls) = true;
	if (!*s->cert != !*s->key)
		return err_set(e, -EINVAL, "--witness: cert= and key= are given both or not at all");
	if ((*s->cacert || *s->cert) && plain)
		return err_set(e, -EINVAL, "--witness: cacert= and cert= protect nothing where an endpoint begins with http://");
	if (!*s->user != !*s->password_file)
		return err_set(e, -EINVAL, "--witness: user= and password-file= are given both or not at all");
	if (*s->user && !tls)
		return err_set(e, -EINVAL, "--witness: a password is not sent to an endpoint that begins with http://");
	if (*s->user && plain)
		return err_set(e, -EINVAL, "--witness: with user=, each endpoint begins with https://");
	return 0;
}

static int disk(struct witness_spec *s, const char *p, struct err *e)
{
	size_t n = strcspn(p, ",");
	int rc = take(s->path, sizeof(s->path), p, n, "the path", e);

	if (!rc && *s->path != '/')
		rc = err_set(e, -EINVAL, "--witness: the path of the disk begins with a slash");
	return rc || !p[n] ? rc : words(s, p + n + 1, disk_word, e);
}

int witness_spec_parse(const char *text, struct witness_spec *s, struct err *e)
{
	memset(s, 0, sizeof(*s));
	if (strlen(text) >= WITNESS_TEXT_MAX)
		return err_set(e, -EINVAL, "--witness has more than %d bytes", WITNESS_TEXT_MAX - 1);
	if (!strncmp(text, "etcd:", 5)) {
		s->kind = WITNESS_ETCD;
		return etcd(s, text + 5, e);
	}
	if (!strncmp(text, "command:", 8)) {
		s->kind = WITNESS_COMMAND;
		return take(s->command, sizeof(s->command), text + 8, strlen(text + 8), "the command", e);
	}
	if (!strncmp(text, "disk:", 5)) {
		s->kind = WITNESS_DISK;
		return disk(s, text + 5, e);
	}
	if (!strcmp(text, "none"))
		return 0;
	return err_set(e, -EINVAL, "--witness is etcd:URL[,URL...], command:CMD, disk:PATH or none, not '%.100s'", text);
}
