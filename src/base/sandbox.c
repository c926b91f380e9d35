/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Less right after the start: theory of operation
 *
 * Capabilities belong to a thread, and the kernel changes only the caller's. So each thread is sent a signal, whose handler
 * makes the system calls. Then the kernel is asked what each has (/proc/self/task), also those that have come meanwhile,
 * and it is begun anew until all have only what is to be kept; threads that are made later get what their makers have.
 * Which rights are kept is decided here (docs/security.md says why):
 * - CAP_KILL where children run as another user. Not only we kill them: the kernel sends the signal that ends a
 *   child with its parent in the parent's name, and refuses it where the parent may not send it. Without this
 *   right QEMU would outlive Lockstep.
 * - CAP_NET_BIND_SERVICE where a port below 1024 is listened at.
 * - CAP_DAC_OVERRIDE where a directory in which files will be made is not ours to write in.
 * The bounding set goes too. The user stays who it is.
 *
 * Until here nothing of the network, of the peer or of a guest has been read.
 */
#include "base/sandbox.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/spawn.h"

#define PATIENCE	(5 * NS_PER_S)	/* until a thread has got the signal; it may be in a system call that takes long */
#define BIT(cap)	(1ull << (cap))

static uint64_t wanted;		/* set before there are threads, or signals */
static bool planned;

/* System calls only: it is called in a signal handler. */
static void shed(uint64_t keep)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = { 0 };

	/* Where this is not allowed there is nothing to gain from the set either. */
	for (unsigned long cap = 0; cap < 64; cap++)
		if (!(keep & BIT(cap)) && syscall(SYS_prctl, PR_CAPBSET_DROP, cap, 0, 0, 0) && errno == EINVAL)
			break;
	syscall(SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	/* Not more than there was: that would be refused as a whole. */
	syscall(SYS_capget, &head, data);
	for (int i = 0; i < 2; i++) {
		data[i].permitted &= (uint32_t)(keep >> (32 * i));
		data[i].effective &= data[i].permitted;
		data[i].inheritable = 0;
	}
	syscall(SYS_capset, &head, data);
}

static void on_signal(int sig)
{
	int saved = errno;

	shed(wanted);
	errno = saved;
}

/* What a thread's status says behind @name, in hex; UINT64_MAX: nothing */
static uint64_t field(const char *text, const char *name)
{
	const char *p = strstr(text, name);

	return p ? strtoull(p + strlen(name), NULL, 16) : UINT64_MAX;
}

/* Return: whether the thread has what is wanted, or is gone; else @name, 32 bytes, gets what it is called */
static bool look_at(const char *tid, char *name)
{
	char path[64], text[4096];
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/self/task/%.20s/status", tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (fd >= 0)
		close(fd);
	if (n <= 0)
		return true;
	text[n] = 0;
	/* Those of the kernel's own, of io_uring: see sandbox_thread(). */
	if (!((field(text, "\nCapPrm:") | field(text, "\nCapEff:") | field(text, "\nCapInh:")) & ~wanted) ||
	    !strncmp(text, "Name:\tiou-", 10))
		return true;
	if (sscanf(text, "Name:\t%31[^\n]", name) != 1)
		snprintf(name, 32, "%.20s", tid);
	return false;
}

/* One round over all threads. Return: how many still have too much; -errno with @e */
static int round_of_signals(char *name, struct err *e)
{
	DIR *dir = opendir("/proc/self/task");
	struct dirent *d;
	int left = 0;

	if (!dir)
		return err_set(e, -errno, "/proc/self/task: %s", strerror(errno));
	while ((d = readdir(dir))) {
		if (d->d_name[0] < '0' || d->d_name[0] > '9' || look_at(d->d_name, name))
			continue;
		left++;
		syscall(SYS_tgkill, getpid(), atoi(d->d_name), SANDBOX_SIGNAL);
	}
	closedir(dir);
	return left;
}

int sandbox_caps(uint64_t keep, struct err *e)
{
	struct sigaction sa = { .sa_handler = on_signal, .sa_flags = SA_RESTART };
	nstime end = clock_ns() + PATIENCE;
	char name[32] = "";
	int left;

	wanted = keep;
	sigfillset(&sa.sa_mask);
	sigaction(SANDBOX_SIGNAL, &sa, NULL);
	shed(keep);
	/* A thread that has just been made takes no signal for a moment, whatever its maker says. */
	while ((left = round_of_signals(name, e)) > 0) {
		if (clock_ns() >= end)
			return err_set(e, -ETIMEDOUT, "the thread '%s' has not given its rights away (does it block all signals?)", name);
		nanosleep(&(struct timespec){ .tv_nsec = 2000000 }, NULL);
	}
	return left;
}

/* Whether this thread, without its capabilities, may make files in a directory. */
static bool writable(const char *dir)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct have[2], less[2];
	bool yes;

	if (syscall(SYS_capget, &head, have))
		return true;
	memcpy(less, have, sizeof(less));
	less[0].effective = less[1].effective = 0;
	syscall(SYS_capset, &head, less);
	yes = !faccessat(AT_FDCWD, dir, W_OK | X_OK, AT_EACCESS) || (errno != EACCES && errno != EPERM);
	syscall(SYS_capset, &head, have);
	return yes;
}

void sandbox_plan(const struct sandbox_cfg *cfg)
{
	uint64_t keep = (cfg->others ? BIT(CAP_KILL) : 0) | (cfg->low_port ? BIT(CAP_NET_BIND_SERVICE) : 0);

	for (unsigned int i = 0; i < cfg->n_dirs; i++)
		if (!(keep & BIT(CAP_DAC_OVERRIDE)) && !writable(cfg->dirs[i])) {
			log_note("sandbox: %s does not belong to this user, so the right to write everywhere (CAP_DAC_OVERRIDE) is kept",
				 cfg->dirs[i]);
			keep |= BIT(CAP_DAC_OVERRIDE);
		}
	wanted = keep;
	planned = true;
}

void sandbox_thread(void)
{
	if (planned)
		shed(wanted);
}

int sandbox_enter(struct err *e)
{
	int rc = spawn_helper_seal(e);

	if (!rc)
		rc = sandbox_caps(wanted, e);
	if (!rc)
		rc = sandbox_filter(e);
	if (!rc)
		log_info("sandbox: closed capabilities=%llx", (unsigned long long)wanted);
	else
		err_prefix(e, "the sandbox cannot be set up (--no-sandbox does without)");
	return rc;
}
