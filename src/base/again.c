/* SPDX-License-Identifier: BSD-2-Clause */
#include "base/again.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/notify.h"
#include "base/spawn.h"

#define AGAIN_ENV	"LOCKSTEP_AGAIN"	/* in the environment of a process that was begun by this one */
#define AGAIN_STATUS	75			/* it ends in order to begin anew; nothing else ends with it */

/* This process: its program, and its command line as it was given. */
struct self {
	char path[PATH_MAX], text[SPAWN_MSG], *argv[SPAWN_WORDS + 1];
	struct spawn_spec s;
};

static const char *const *once;

void again_once(const char *const *words)
{
	once = words;
}

/* Return: whether @word is to be repeated, perhaps shorter */
static bool repeated(char *word)
{
	size_t n = strlen(word);

	for (const char *const *o = once; o && *o; o++) {
		size_t k = strlen(*o);

		if (!strcmp(word, *o))
			return false;
		if (**o == ',' && n > k && !strcmp(word + n - k, *o))
			word[n - k] = 0;
	}
	return true;
}

static struct self *self_new(struct err *e)
{
	static const char *env[4] = { AGAIN_ENV "=1" };
	struct self *me = calloc(1, sizeof(*me));
	int fd = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
	ssize_t n = me ? readlink("/proc/self/exe", me->path, PATH_MAX - 1) : -1, len = 0, k = 1;
	unsigned int words = 0;
	bool own = true;

	while (me && fd >= 0 && k > 0 && (size_t)len < sizeof(me->text)) {
		k = read(fd, me->text + len, sizeof(me->text) - (size_t)len);
		len += k > 0 ? k : 0;
	}
	if (fd >= 0)
		close(fd);
	for (ssize_t at = 0, next; at < len && words < SPAWN_WORDS; at = next) {
		next = at + (ssize_t)strnlen(me->text + at, (size_t)(len - at)) + 1;
		if (next > len)
			break;
		own = own && strcmp(me->text + at, "--");
		if (!own || repeated(me->text + at))
			me->argv[words++] = me->text + at;
	}
	if (!me || n < 0 || !words || (size_t)len == sizeof(me->text) || words == SPAWN_WORDS) {
		err_set(e, me ? -E2BIG : -ENOMEM, "the own command line cannot be read, or is too long to be repeated");
		free(me);
		return NULL;
	}
	notify_env(env + 1);	/* our variables are gone from the environment */
	me->s = (struct spawn_spec){ .path = me->path, .argv = me->argv, .env = env, .report = -1, .dies = true };
	return me;
}

int again_allow(struct err *e)
{
	struct self *me = self_new(e);
	int rc = me ? spawn_allow(&me->s, e) : e->code;

	free(me);
	return rc;
}

/* Return: as waitpid() has it */
static int wait_for(pid_t pid)
{
	sigset_t set;
	int sig, status;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGCHLD);
	for (;;) {
		/* Its end may have come before the signal was asked for. */
		if (waitpid(pid, &status, WNOHANG) == pid)
			return status;
		sig = sigwaitinfo(&set, NULL);
		if (sig > 0 && sig != SIGCHLD)
			kill(pid, sig);
	}
}

/* Return: the exit status, or -errno with @e */
static int run(struct self *me, struct err *e)
{
	sigset_t set;
	int status;
	pid_t pid;

	sigemptyset(&set);
	if (!spawn_helper_pid()) {
		sigprocmask(SIG_SETMASK, &set, NULL);
		notify_pass_on();
		execv(me->path, me->argv);
		return err_set(e, -errno, "%.200s: %s", me->path, strerror(errno));
	}
	sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_BLOCK, &set, NULL);
	do {
		pid = spawn(&me->s, e);
		if (pid < 0)
			return pid;
		status = wait_for(pid);
	} while (WIFEXITED(status) && WEXITSTATUS(status) == AGAIN_STATUS);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int again_run(struct err *e)
{
	struct self *me;
	int rc;

	if (spawn_helper_pid() && getenv(AGAIN_ENV))
		return AGAIN_STATUS;
	me = self_new(e);
	rc = me ? run(me, e) : e->code;
	free(me);
	return rc;
}
