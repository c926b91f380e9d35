/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BASE_ACCOUNT_H
#define BASE_ACCOUNT_H

#include <sys/types.h>

#include "base/err.h"

enum {
	ACCOUNT_NAME = 64,	/* bytes of NAME[:GROUP], its final 0 included */
	ACCOUNT_GROUPS = 64,	/* groups that a user may be in */
};

/* The user that a child is to run as, with all of the groups that the user is in. */
struct account {
	char name[ACCOUNT_NAME];	/* as it was given, for people */
	uid_t uid;
	gid_t gid;
	gid_t groups[ACCOUNT_GROUPS];
	unsigned int n_groups;
};

/*
 * account_parse() - NAME or NAME:GROUP
 * @text: names, as in the host's lists of users and groups
 * @a:    filled
 *
 * Return: 0; -EINVAL with @e: there is no such user or group, it is root, or this process may not become another user
 */
int account_parse(const char *text, struct account *a, struct err *e);

/*
 * account_become() - change this process's credentials for good; a child's, before it becomes another program
 *
 * Only system calls, so that it may be used after a fork. The kernel forgets the parent's death signal. Return: 0, -errno
 */
int account_become(const struct account *a);

/*
 * account_may() - whether that user could use a file; tried in a child that becomes the user
 * @mode: as for access()
 *
 * Return: 0, or -errno with @e, a sentence that names user and file
 */
int account_may(const struct account *a, const char *path, int mode, struct err *e);

#endif
