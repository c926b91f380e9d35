/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A child process that never outlives us: theory of operation
 *
 * Promise (P7): when Lockstep dies, however it dies, its QEMU dies, so that the peer can take over safely. The kernel
 * does it: PR_SET_PDEATHSIG with SIGKILL (base/spawn.c). Three things undo that:
 * - The signal comes when the *thread* that forked ends, not the process. So only the main thread may start a child;
 *   process_start() refuses any other, unless base/spawn_helper.c makes our children, who are then always the main
 *   thread's. The main thread must not end by pthread_exit().
 * - We may die between the fork and prctl(). So the child looks whether its parent is still the one that it had.
 * - The kernel clears it when credentials change: at a change of the user, which comes before the prctl() for that
 *   reason, and when a program is loaded that changes them (set-user-id, set-group-id, file capabilities). Such a binary is
 *   refused. QEMU's own -runas is refused by cmdline.
 *
 * The child is in a session of its own: a Ctrl-C at the terminal reaches Lockstep, which decides, and not QEMU. It
 * has no controlling terminal then, so it may still read and write the one that it inherited as a plain file. QEMU
 * makes a terminal raw and its descriptors non-blocking, and both outlive a killed QEMU, because they belong to the
 * open file and not to the process; so they are saved at the start and put back at the end.
 *
 * Death is learned from a pidfd in the loop, at once, and never by SIGCHLD. Killing is SIGKILL without grace: it is
 * fencing, and the guest's state that counts is the peer's or already ours.
 *
 * Runs in the control loop, which runs in the main thread.
 */
#include "engine/process.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/spawn.h"

#define TASK_EXITING 0x4	/* the kernel's PF_EXITING, in the flags of proc(5)'s stat */


int process_find(const char *file, char *path, struct err *e)
{
	const char *dirs = getenv("PATH"), *end;
	bool seen = false;

	if (strchr(file, '/')) {
		if (access(file, X_OK))
			return err_set(e, -errno, "%.200s: %s", file, strerror(errno));
		if (snprintf(path, PATH_MAX, "%s", file) >= PATH_MAX)
			return err_set(e, -ENAMETOOLONG, "%.200s...: this path is too long", file);
		return 0;
	}
	for (; dirs && *dirs; dirs = *end ? end + 1 : end) {
		end = strchrnul(dirs, ':');
		if (snprintf(path, PATH_MAX, "%.*s/%s", (int)(end - dirs), dirs, file) >= PATH_MAX)
			continue;
		if (!access(path, X_OK))
			return 0;
		seen |= errno == EACCES;
	}
	if (seen)
		return err_set(e, -EACCES, "%.200s: it is in PATH, but may not be executed", file);
	return err_set(e, -ENOENT, "%.200s: there is no such program in PATH", file);
}

/* Refuse what would lose the death signal when it is loaded. */
static int check_binary(const char *path, struct err *e)
{
	struct stat st;
	char cap;

	if (stat(path, &st))
		return err_set(e, -errno, "%.200s: %s", path, strerror(errno));
	if (st.st_mode & (S_ISUID | S_ISGID))
		return err_set(e, -EPERM, "%.200s: a set-user-id program would outlive Lockstep's death", path);
	if (getxattr(path, "security.capability", &cap, 0) > 0)
		return err_set(e, -EPERM, "%.200s: a program with file capabilities would outlive Lockstep's death",
			       path);
	return 0;
}

static void save_stdio(struct process *p)
{
	p->have_tty = !tcgetattr(0, &p->tty);
	for (int fd = 0; fd < 2; fd++)
		p->stdio_flags[fd] = fcntl(fd, F_GETFL);
}

static void restore_stdio(struct process *p)
{
	sigset_t block, old;

	for (int fd = 0; fd < 2; fd++)
		if (p->stdio_flags[fd] >= 0)
			fcntl(fd, F_SETFL, p->stdio_flags[fd]);
	if (!p->have_tty)
		return;
	/* In the background this would stop us. */
	sigemptyset(&block);
	sigaddset(&block, SIGTTOU);
	pthread_sigmask(SIG_BLOCK, &block, &old);
	tcsetattr(0, TCSANOW, &p->tty);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	p->have_tty = false;
}

static void end_line(struct process *p)
{
	if (!p->n_buf)
		return;
	p->buf[p->n_buf] = 0;
	snprintf(p->last_line, sizeof(p->last_line), "%.255s", p->buf);
	p->n_buf = 0;
	if (p->line)
		p->line(p, p->buf);
}

static void stop_errfd(struct process *p)
{
	if (p->errfd.fd < 0)
		return;
	loop_fd_del(p->loop, &p->errfd);
	close(p->errfd.fd);
	p->errfd.fd = -1;
}

/* @rounds: how many times to read at most, so that a chatterer does not hold the loop. */
static void read_err(struct process *p, int rounds)
{
	char buf[4096];
	ssize_t n = 1;

	while (n > 0 && rounds-- > 0) {
		n = read(p->errfd.fd, buf, sizeof(buf));
		for (ssize_t i = 0; i < n; i++) {
			if (buf[i] == '\n')
				end_line(p);
			else if (p->n_buf < sizeof(p->buf) - 1)
				p->buf[p->n_buf++] = buf[i];
		}
	}
	if (!n || (n < 0 && errno != EAGAIN && errno != EINTR)) {
		end_line(p);
		stop_errfd(p);
	}
}

static void on_err(struct loop_fd *w, uint32_t events)
{
	read_err(w->arg, 4);
}

/* Return: whether the child is gone; then everything about it is put away. */
static bool reap(struct process *p)
{
	siginfo_t si = { 0 };
	int status;

	if (waitid(P_PID, (id_t)p->pid, &si, WEXITED | WNOHANG | WNOWAIT) || si.si_pid != p->pid)
		return false;
	/* What it has left behind in its group goes too, while the zombie keeps the number from being anyone else's. */
	kill(-p->pid, SIGKILL);
	if (waitpid(p->pid, &status, WNOHANG) != p->pid)
		return false;
	p->status = status;
	/* Its last words are in the pipe by now; the end of the pipe may come later, with the end of those helpers. */
	if (p->errfd.fd >= 0)
		read_err(p, 64);
	end_line(p);
	stop_errfd(p);
	loop_fd_del(p->loop, &p->pidfd);
	close(p->pidfd.fd);
	p->pidfd.fd = -1;
	p->pid = 0;
	restore_stdio(p);
	return true;
}

static void on_pidfd(struct loop_fd *w, uint32_t events)
{
	struct process *p = w->arg;

	if (reap(p))
		p->exited(p);
}

static int check_spec(const struct process *p, const struct process_spec *spec, struct err *e)
{
	if (p->pid)
		return err_set(e, -EBUSY, "%.200s: it runs already", spec->file);
	if (!spawn_helper_pid() && getpid() != (pid_t)syscall(SYS_gettid))
		return err_set(e, -EINVAL, "%.200s: it must be started by the main thread, "
			       "or it would die with another one",
			       spec->file);
	if (spec->n_fds > PROCESS_FDS_MAX)
		return err_set(e, -E2BIG, "%.200s: more than %d descriptors", spec->file, PROCESS_FDS_MAX);
	for (unsigned int i = 0; i < spec->n_fds; i++)
		if (spec->fds[i].to < 3 || spec->fds[i].to > PROCESS_FD_MAX || spec->fds[i].from < 0)
			return err_set(e, -EINVAL, "%.200s: descriptor %d cannot become %d", spec->file,
				       spec->fds[i].from,
				       spec->fds[i].to);
	return 0;
}

/* Wait until exec has closed the pipe. Return: 0, or why the child did not get there */
static int wait_exec(struct process *p, int report, const char *path, struct err *e)
{
	struct spawn_failure f;
	ssize_t n;

	do
		n = read(report, &f, sizeof(f));
	while (n < 0 && errno == EINTR);
	if (n != sizeof(f))
		return 0;
	waitpid(p->pid, NULL, 0);
	return err_set(e, f.error ? -f.error : -ESRCH, "%.200s: %s (%s)", path, spawn_failure_text(f.stage), strerror(f.error));
}

/* What spawn() is told; @fds has room for SPAWN_FDS. */
static struct spawn_spec spawn_of(const struct process_spec *spec, const char *path, int null, int errfd, int report,
				  struct spawn_fd *fds)
{
	struct spawn_spec s = { .path = path, .argv = spec->argv, .env = spec->env, .fds = fds, .report = report,
				.as = spec->as, .session = true, .dies = true };

	for (int fd = 0; fd < 2; fd++)
		fds[s.n_fds++] = (struct spawn_fd){ .from = spec->own_stdio ? fd : null, .to = fd };
	fds[s.n_fds++] = (struct spawn_fd){ .from = errfd, .to = 2 };
	for (unsigned int i = 0; i < spec->n_fds; i++)
		fds[s.n_fds++] = (struct spawn_fd){ spec->fds[i].from, spec->fds[i].to, spec->fds[i].sndbuf };
	return s;
}

/* Whether @fd is open: who starts a program without standard input has none to hand on. */
static bool is_open(int fd)
{
	return fcntl(fd, F_GETFD) >= 0;
}

int process_start(struct process *p, struct loop *l, const struct process_spec *spec, struct err *e)
{
	int report[2] = { -1, -1 }, errpipe[2] = { -1, -1 }, null = -1, rc;
	struct spawn_fd fds[SPAWN_FDS];
	struct spawn_spec s;
	char path[PATH_MAX];

	rc = check_spec(p, spec, e);
	if (!rc)
		rc = process_find(spec->file, path, e);
	if (!rc)
		rc = check_binary(path, e);
	if (rc)
		return rc;
	p->loop = l;
	p->n_buf = 0;
	p->last_line[0] = 0;
	p->have_tty = false;
	p->stdio_flags[0] = p->stdio_flags[1] = -1;
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (null < 0 || pipe2(report, O_CLOEXEC) || pipe2(errpipe, O_CLOEXEC)) {
		rc = err_set(e, -errno, "%.200s: it cannot be started: %s", path, strerror(errno));
		goto out;
	}
	fcntl(errpipe[0], F_SETFL, O_NONBLOCK);
	if (spec->own_stdio)
		save_stdio(p);
	p->started = clock_ns();
	s = spawn_of(spec, path, null, errpipe[1], report[1], fds);
	for (int fd = 0; fd < 2; fd++)
		if (!is_open(fds[fd].from))
			fds[fd].from = null;
	p->pid = spawn(&s, e);
	if (p->pid < 0) {
		rc = p->pid;
		p->pid = 0;
		goto out;
	}
	close(report[1]);
	report[1] = -1;
	rc = wait_exec(p, report[0], path, e);
	if (rc) {
		p->pid = 0;
		goto out;
	}
	/* Not reaped yet, so the number cannot have passed to another process. */
	p->pidfd = (struct loop_fd){ .fd = (int)syscall(SYS_pidfd_open, p->pid, 0), .fn = on_pidfd, .arg = p };
	p->errfd = (struct loop_fd){ .fd = errpipe[0], .fn = on_err, .arg = p };
	rc = p->pidfd.fd < 0 ? -errno : loop_fd_add(l, &p->pidfd, EPOLLIN);
	if (!rc) {
		rc = loop_fd_add(l, &p->errfd, EPOLLIN);
		if (rc)
			loop_fd_del(l, &p->pidfd);
	}
	if (rc) {
		kill(p->pid, SIGKILL);
		waitpid(p->pid, NULL, 0);
		p->pid = 0;
		if (p->pidfd.fd >= 0)
			close(p->pidfd.fd);
		err_set(e, rc, "%.200s: its end cannot be watched for: %s", path, strerror(-rc));
		goto out;
	}
	errpipe[0] = -1;	/* the loop's now */
out:
	for (int i = 0; i < 2; i++) {
		if (report[i] >= 0)
			close(report[i]);
		if (errpipe[i] >= 0)
			close(errpipe[i]);
	}
	if (null >= 0)
		close(null);
	return rc;
}

int process_allow(const struct process_spec *spec, struct err *e)
{
	struct spawn_fd fds[SPAWN_FDS];
	struct spawn_spec s;
	char path[PATH_MAX];
	int rc = process_find(spec->file, path, e);

	if (rc)
		return rc;
	s = spawn_of(spec, path, -1, -1, 0, fds);
	return spawn_allow(&s, e);
}

void process_kill(struct process *p)
{
	if (!p->pid)
		return;
	/* Its session's group first, for helpers; then itself, should it have left the group. */
	kill(-p->pid, SIGKILL);
	kill(p->pid, SIGKILL);
}

bool process_dying(const struct process *p)
{
	/* proc(5): comm, which may hold anything, ends with the last parenthesis; flags is the 9th field */
	char path[64], text[1024], state;
	unsigned int flags;
	const char *end;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)p->pid);
	fd = p->pid ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	if (fd < 0)
		return true;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (n <= 0)
		return true;
	text[n] = 0;
	end = strrchr(text, ')');
	if (!end || sscanf(end + 1, " %c %*d %*d %*d %*d %*d %u", &state, &flags) != 2)
		return false;
	return state == 'Z' || state == 'X' || flags & TASK_EXITING;
}

int process_kill_wait(struct process *p, nstime deadline)
{
	if (!p->pid)
		return 0;
	process_kill(p);
	while (!reap(p)) {
		struct pollfd pfd = { .fd = p->pidfd.fd, .events = POLLIN };
		nstime now = clock_ns();

		if (now >= deadline)
			return -ETIMEDOUT;
		poll(&pfd, 1, (int)((deadline - now) / NS_PER_MS < 1000 ? (deadline - now) / NS_PER_MS + 1 : 1000));
	}
	return 0;
}

const char *process_status_text(int status, char *buf, size_t len)
{
	if (WIFSIGNALED(status))
		snprintf(buf, len, "was killed by signal %d (%s)%s", WTERMSIG(status), strsignal(WTERMSIG(status)),
			 WCOREDUMP(status) ? ", core dumped" : "");
	else
		snprintf(buf, len, "exited with status %d", WEXITSTATUS(status));
	return buf;
}
