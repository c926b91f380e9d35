/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Another user's credentials. The changes are made by bare system calls: the C library's would change all threads of
 * the process, and in a child of fork() there may be locks that nobody gives back.
 */
#include "base/account.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

int account_parse(const char *text, struct account *a, struct err *e)
{
	const char *colon = strchr(text, ':');
	char name[ACCOUNT_NAME];
	const struct passwd *pw;
	const struct group *gr;
	int n = ACCOUNT_GROUPS;

	*a = (struct account){ 0 };
	if (strlen(text) >= sizeof(a->name))
		return err_set(e, -EINVAL, "'%.40s...' has more than %d characters", text, ACCOUNT_NAME - 1);
	strcpy(a->name, text);
	snprintf(name, sizeof(name), "%.*s", colon ? (int)(colon - text) : ACCOUNT_NAME - 1, text);
	pw = getpwnam(name);
	if (!pw)
		return err_set(e, -EINVAL, "there is no user '%s' on this host", name);
	a->uid = pw->pw_uid;
	a->gid = pw->pw_gid;
	if (!a->uid)
		return err_set(e, -EINVAL, "user %s is root, from whom nothing could be kept", name);
	if (colon) {
		gr = getgrnam(colon + 1);
		if (!gr)
			return err_set(e, -EINVAL, "there is no group '%.60s' on this host", colon + 1);
		a->gid = gr->gr_gid;
	}
	if (getgrouplist(name, a->gid, a->groups, &n) < 0)
		return err_set(e, -EINVAL, "user %s is in more than %d groups", name, ACCOUNT_GROUPS);
	a->n_groups = (unsigned int)n;
	if (geteuid())
		return err_set(e, -EINVAL, "only root may start a program as another user");
	return 0;
}

int account_become(const struct account *a)
{
	if (syscall(SYS_setgroups, (size_t)a->n_groups, a->groups) ||
	    syscall(SYS_setresgid, a->gid, a->gid, a->gid) || syscall(SYS_setresuid, a->uid, a->uid, a->uid))
		return -errno;
	return 0;
}

int account_may(const struct account *a, const char *path, int mode, struct err *e)
{
	pid_t pid = fork();
	int status, rc;

	if (!pid) {
		rc = account_become(a);
		_exit(rc ? -rc : access(path, mode) ? errno : 0);
	}
	if (pid < 0)
		return err_set(e, -errno, "no new process: %s", strerror(errno));
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (WIFEXITED(status) && !WEXITSTATUS(status))
		return 0;
	rc = WIFEXITED(status) ? WEXITSTATUS(status) : EIO;
	return err_set(e, -rc, "the user %s may not %s %.250s (%s)", a->name, mode & X_OK ? "execute" : mode & W_OK ?
		       "write to" : "read", path, strerror(rc));
}
