/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Fencing: a thread that asks whether this node may (claim()), runs the command, and watches whether the peer is off
 * (alive()) until it is or the time is over. How the command runs: shell.c.
 */
#include "cluster/fence.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/spawn.h"
#include "cluster/shell.h"

#define ALIVE_LOOK_MS	50

struct fence {
	struct fence_cfg cfg;
	pthread_t thread;
	int stop;		/* eventfd */
	int rc;
	struct err e;
};

int fence_allow(const char *command, struct err *e)
{
	return spawn_shell_allow(command, (const char *[]){ "LOCKSTEP_VM=", "LOCKSTEP_PEER=", NULL }, e);
}

static int command(struct fence *f)
{
	char vm[160], peer[200];
	const char *env[] = { vm, peer, NULL };
	struct shell s = { .what = "the fence command", .command = f->cfg.command, .env = env, .limit = f->cfg.timeout,
			   .until = clock_ns() + f->cfg.timeout, .stop = f->stop };

	snprintf(vm, sizeof(vm), "LOCKSTEP_VM=%s", f->cfg.vm);
	snprintf(peer, sizeof(peer), "LOCKSTEP_PEER=%s", f->cfg.peer);
	return shell_run(&s, &f->e);
}

static void finished(void *arg, const void *data, size_t len)
{
	struct fence *f = arg;

	f->cfg.done(f->cfg.arg, f->rc, f->e.msg);
}

static int attempt(struct fence *f)
{
	nstime until;
	int rc;

	rc = f->cfg.claim(f->cfg.arg, &f->e);
	if (rc)
		return rc;
	if (!*f->cfg.command)
		return err_set(&f->e, -EOPNOTSUPP, "no fence command is configured (--fence-command), and nothing else can tell that "
			       "the peer writes no more");
	rc = command(f);
	if (rc)
		return rc;
	/* A process that was killed lets go of its locks when it has ended, which may take a moment. */
	until = clock_ns() + f->cfg.timeout;
	while (f->cfg.alive(f->cfg.arg)) {
		nstime now = clock_ns(), next = now + ALIVE_LOOK_MS * NS_PER_MS;

		if (now >= until)
			return err_set(&f->e, -EBUSY, "the fence command has succeeded, and the peer still has the shared images locked");
		rc = shell_wait(f->stop, -1, next);
		if (rc < 0)
			return err_set(&f->e, rc, "the fence was given up");
	}
	return 0;
}

static void *run(void *arg)
{
	struct fence *f = arg;

	f->rc = attempt(f);
	if (f->rc && f->rc != -ESTALE)
		f->cfg.unclaim(f->cfg.arg);
	loop_post(f->cfg.loop, finished, f, NULL, 0);
	return NULL;
}

struct fence *fence_begin(const struct fence_cfg *cfg, struct err *e)
{
	struct fence *f = calloc(1, sizeof(*f));
	int rc = -ENOMEM;

	if (f) {
		f->cfg = *cfg;
		f->stop = eventfd(0, EFD_CLOEXEC);
		rc = f->stop < 0 ? -errno : -pthread_create(&f->thread, NULL, run, f);
	}
	if (!rc)
		return f;
	err_set(e, rc, "the fence cannot be begun: %s", strerror(-rc));
	if (f && f->stop >= 0)
		close(f->stop);
	free(f);
	return NULL;
}

void fence_end(struct fence *f)
{
	uint64_t one = 1;

	if (!f)
		return;
	if (write(f->stop, &one, sizeof(one)) < 0)
		return;
	pthread_join(f->thread, NULL);
	close(f->stop);
	free(f);
}
