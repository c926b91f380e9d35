/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CLUSTER_WITNESS_INTERNAL_H
#define CLUSTER_WITNESS_INTERNAL_H

#include <json-c/json.h>
#include <stddef.h>

#include "cluster/witness.h"

/* Private to witness*.c: what the thread asks the kinds of witness. */

struct witness_ask {
	uint64_t ticket;
	bool claim;
	struct witness_claim c;
	nstime until;			/* no answer is wanted after this */
	nstime limit;			/* the same as a duration */
	int stop;			/* readable: witness_close() */
};

/*
 * One kind. All calls come from the witness's thread and may block until ask.until (the disk: longer, when it hangs).
 * Both fill @r (a claim that is granted: with what was claimed; no record: generation 0).
 */
struct witness_ops {
	/* Return: WITNESS_RECORD, or -errno with @e */
	int (*look)(void *b, const struct witness_ask *q, struct witness_record *r, struct err *e);
	/* Return: WITNESS_GRANTED, WITNESS_LOST (with @e, a sentence); or -errno with @e: -ESTALE: it answers, and has an
	 * older record than was expected */
	int (*claim)(void *b, const struct witness_ask *q, struct witness_record *r, struct err *e);
	void (*free)(void *b);
};

/* Each returns its state, or NULL with @e. @cfg stays until free(). */
void *witness_etcd_new(const struct witness_cfg *cfg, struct err *e);
void *witness_disk_new(const struct witness_cfg *cfg, struct err *e);
/* witness_command_allow() - as spawn_shell_allow() */
int witness_command_allow(const struct witness_spec *spec, struct err *e);

extern const struct witness_ops witness_etcd_ops, witness_command_ops, witness_disk_ops, witness_none_ops;

/*
 * witness_judge() - is a claim answered by record @r alone?
 * Return: WITNESS_GRANTED, WITNESS_LOST, -ESTALE (with @e), or WITNESS_RECORD: no, it is what was expected
 */
int witness_judge(const struct witness_record *r, const uint8_t me[WITNESS_ID_LEN], const struct witness_claim *c, struct err *e);

/* witness_lost() / witness_old() - fill @e. Return: WITNESS_LOST; -ESTALE */
int witness_lost(const struct witness_record *r, const uint8_t me[WITNESS_ID_LEN], struct err *e);
int witness_old(const struct witness_record *r, const struct witness_claim *c, struct err *e);

/* The texts that go to etcd and come from it; pure (witness_json.c). */

#define ETCD_VALUE_MAX		256	/* bytes of a record as it stands in etcd */
#define ETCD_KEY_MAX		256
#define ETCD_BODY_MAX		4096	/* bytes of a question */
#define ETCD_REPLY_MAX		65536	/* bytes of an answer; one that is longer is not read to its end */
#define ETCD_JSON_DEPTH		16
#define ETCD_TOKEN_MAX		1024	/* bytes of what it gives for a password; a JWT has some hundred */
#define ETCD_PASSWORD_MAX	256

struct etcd_kv {
	bool found;			/* the key is there */
	size_t len;
	char value[ETCD_VALUE_MAX];	/* as it is, to be compared with */
	struct witness_record record;
};

struct etcd_answer {
	bool succeeded;			/* of a transaction */
	bool has_kv;			/* the answer says what the key holds (@kv) */
	struct etcd_kv kv;
	char token[ETCD_TOKEN_MAX];	/* of an authentication */
};

/* Questions, written into @out (ETCD_BODY_MAX bytes, ended by 0). Return: 0 or -EMSGSIZE */
int etcd_ask_range(char *out, const char *key);
/* etcd_ask_cas() - put @r if the key holds @old (not found: if there is none), else say what it holds */
int etcd_ask_cas(char *out, const char *key, const struct etcd_kv *old, const struct witness_record *r);
int etcd_ask_auth(char *out, const char *user, const char *password);

/*
 * etcd_read() - what an answer says
 * @status: HTTP's
 * Return: 0 with @a; -EPROTO: it cannot be understood; -EBADMSG: the key holds something that is no record;
 *         -EACCES: the token is not, or no longer, good; -EPERM: not allowed; -EAGAIN: any other error that etcd reports
 */
int etcd_read(long status, const char *text, size_t len, struct etcd_answer *a, struct err *e);

#endif
