/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef ENGINE_ARGS_H
#define ENGINE_ARGS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

struct json_object;

/*
 * The value of one QEMU option as a list of keys: "tap,id=n0,ifname=t0" with ",," for a comma inside a value, or
 * the JSON form {"type": "tap", ...}, whose nested members get dotted names and whose booleans become on and off.
 */
struct kv {
	char *key;
	char *val;
};

struct kvlist {
	struct kv *v;
	unsigned int n;
	struct json_object *json;	/* the object, when the option was written as JSON; else NULL */
};

enum {
	KV_MAX = 256,			/* keys in one option */
	KV_TEXT_MAX = 1 << 20,		/* bytes of one option */
	KV_JSON_DEPTH = 16,
};

/*
 * kvlist_parse() - read an option's value
 * @l:       list to fill; freed and empty again on error
 * @text:    the value as the user wrote it
 * @implied: key of a first value written without one ("type" in -netdev tap,...); NULL: there is none
 *
 * A key without value means on, and "noX" means X off, as QEMU reads them.
 *
 * Return: 0, -EINVAL or -E2BIG or -ENOMEM with @e filled
 */
int kvlist_parse(struct kvlist *l, const char *text, const char *implied, struct err *e);

/* kvlist_free() - free what a list holds; fine on a zeroed list */
void kvlist_free(struct kvlist *l);

/* kvlist_get() - value of a key, the last one wins; NULL when absent; valid until the list changes */
const char *kvlist_get(const struct kvlist *l, const char *key);

/*
 * kvlist_bool() - value of an on/off key
 *
 * Return: 1 or 0, @dflt when absent, -EINVAL when it is neither on/yes/true/y nor off/no/false/n
 */
int kvlist_bool(const struct kvlist *l, const char *key, int dflt);

/* kvlist_set() - replace a key's value, or append it; at the top level of a JSON option too. Return: 0 or -errno */
int kvlist_set(struct kvlist *l, const char *key, const char *val);

/* kvlist_del() - forget a key (a JSON option keeps nested ones) */
void kvlist_del(struct kvlist *l, const char *key);

/* kvlist_merge() - set each key of @from in @to, as QEMU merges a repeated -machine. Return: 0 or -errno */
int kvlist_merge(struct kvlist *to, const struct kvlist *from);

/*
 * kvlist_format() - write a list as QEMU reads it
 * @implied: key whose value is written first and bare; NULL: none
 *
 * Return: allocated text, or NULL without memory
 */
char *kvlist_format(const struct kvlist *l, const char *implied);

/*
 * args_size() - a size as QEMU writes it: digits or 0x..., a fraction, a suffix B, K, M, G or T in either case
 * @unit: bytes that a bare number counts
 *
 * Return: 0, or -EINVAL (not a size) or -ERANGE (more than an int64_t holds)
 */
int args_size(const char *text, uint64_t unit, uint64_t *bytes);

/* args_uint() - a decimal number and nothing else, at most @max. Return: 0 or -EINVAL */
int args_uint(const char *text, unsigned int max, unsigned int *val);

/* args_mac() - a MAC address; @out gets it in lower case with colons. Return: 0, -EINVAL (none, or a group's) */
int args_mac(const char *text, char out[18]);

#endif
