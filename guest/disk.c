/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * disk.c - reads and writes the guest's disks as it is told
 *
 * Each disk has a thread of its own, made when the disk is named for the first time, so that one that stands still
 * holds up nobody who asks for another. It carries out its commands in the order in which they came, one at a time,
 * and between them the load (diskload.c) and the log: what it answers depends on nothing that is under way. Commands
 * come in through a queue; answers go out through one queue for all, announced by an eventfd.
 *
 * Everything goes past the page cache: what is read has come from the disk, and what is written has gone there.
 */
#include "disk.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "diskload.h"
#include "pattern.h"
#include "xxh64.h"

enum {
	DISKS = 8,			/* disks that can be named */
	WAITING_MAX = 1024,		/* commands of one disk that wait */
	NAME_MAX_LEN = 15,
	PIECE = 1 << 20,		/* bytes read or written at a time; the load uses it, too */
	ALIGN = 4096,
	LOG_RECORD = 4096,
	LOG_TEXT_MAX = 1024,
	ARGS_MAX = 4,
};

#define IO_MAX		(UINT64_C(1) << 40)

struct disk;

struct task {
	struct task *next;
	uint64_t ticket;
	const struct verb *verb;
	uint64_t arg[ARGS_MAX];
	unsigned int args;
	bool sync, fua;
	char other[NAME_MAX_LEN + 1];	/* a second disk, or "" */
	char text[LOG_TEXT_MAX + 1];
	char answer[DISK_ANSWER_MAX];
};

struct verb {
	const char *name, *use;
	unsigned int least, most;	/* numbers that follow it */
	void (*run)(struct disk *d, struct task *t);
};

struct disk {
	char name[NAME_MAX_LEN + 1];
	pthread_cond_t wake;
	struct task *first, **last;	/* under the lock */
	unsigned int waiting;
	/* The thread's own. */
	int fd;				/* -1: not open yet */
	uint8_t *piece;
	struct diskload load;
	uint64_t log_off, log_len, log_n;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct disk disks[DISKS];	/* names and queues under the lock */
static struct task *answers, **answers_last = &answers;
static int event_fd;

__attribute__((format(printf, 2, 3)))
static void say(struct task *t, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(t->answer, sizeof(t->answer), fmt, ap);
	va_end(ap);
}

static void say_rc(struct task *t, const struct disk *d, int rc)
{
	if (rc)
		say(t, "error: %s: %s", d->name, strerror(-rc));
	else
		say(t, "ok");
}

static int disk_open(const char *name)
{
	char path[8 + NAME_MAX_LEN];
	int fd;

	snprintf(path, sizeof(path), "/dev/%s", name);
	fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static void pattern_piece(uint8_t *p, size_t len, uint64_t seed, uint64_t at)
{
	uint64_t w;
	size_t i;

	for (i = 0; i + 8 <= len; i += 8) {
		w = pattern_word(seed, (at + i) / 8);
		memcpy(p + i, &w, sizeof(w));
	}
}

static void run_size(struct disk *d, struct task *t)
{
	uint64_t bytes;
	int sector;

	if (ioctl(d->fd, BLKGETSIZE64, &bytes) || ioctl(d->fd, BLKSSZGET, &sector))
		say_rc(t, d, -errno);
	else
		say(t, "%" PRIu64 " %d", bytes, sector);
}

/* Return: 0 or -errno; what is short has met the end of the disk. */
static int whole(ssize_t n, size_t len)
{
	return n < 0 ? -errno : (size_t)n < len ? -ENOSPC : 0;
}

static void run_write(struct disk *d, struct task *t)
{
	uint64_t off = t->arg[0], len = t->arg[1], at;
	int rc = 0;
	size_t n;

	for (at = 0; !rc && at < len; at += n) {
		struct iovec iov;

		n = len - at < PIECE ? (size_t)(len - at) : PIECE;
		pattern_piece(d->piece, n, t->arg[2], at);
		iov = (struct iovec){ d->piece, n };
		rc = whole(pwritev2(d->fd, &iov, 1, (off_t)(off + at), t->fua ? RWF_DSYNC : 0), n);
	}
	if (!rc && t->sync && fdatasync(d->fd))
		rc = -errno;
	say_rc(t, d, rc);
}

static void run_read_hash(struct disk *d, struct task *t)
{
	uint64_t off = t->arg[0], len = t->arg[1], at;
	struct xxh64 h;
	int rc = 0;
	size_t n;

	xxh64_init(&h, 0);
	for (at = 0; !rc && at < len; at += n) {
		n = len - at < PIECE ? (size_t)(len - at) : PIECE;
		rc = whole(pread(d->fd, d->piece, n, (off_t)(off + at)), n);
		if (!rc)
			xxh64_update(&h, d->piece, n);
	}
	if (rc)
		say_rc(t, d, rc);
	else
		say(t, "%016" PRIx64, xxh64_digest(&h));
}

static void run_zero(struct disk *d, struct task *t)
{
	say_rc(t, d, fallocate(d->fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, (off_t)t->arg[0], (off_t)t->arg[1]) ?
	       -errno : 0);
}

static void run_trim(struct disk *d, struct task *t)
{
	uint64_t range[2] = { t->arg[0], t->arg[1] };

	say_rc(t, d, ioctl(d->fd, BLKDISCARD, range) ? -errno : 0);
}

static void run_flush(struct disk *d, struct task *t)
{
	say_rc(t, d, fdatasync(d->fd) ? -errno : 0);
}

static void close_twin(struct diskload *l)
{
	if (l->disks == 2)
		close(l->fd[1]);
	memset(l, 0, sizeof(*l));
}

static void run_load(struct disk *d, struct task *t)
{
	uint64_t off = t->arg[1], len = t->arg[2];
	struct diskload *l = &d->load;
	int rc = 0;

	if (t->args == 1) {
		if (!l->disks) {
			say(t, "error: %s: there is no load", d->name);
			return;
		}
		l->rate = (uint32_t)t->arg[0];
		l->next_ns = 0;
		say(t, "ok");
		return;
	}
	if (t->args != 4 || off % DISKLOAD_RECORD || len % DISKLOAD_RECORD || len < DISKLOAD_MIN || len > DISKLOAD_MAX) {
		say(t, "error: a load's area is whole records of %d bytes, and %" PRIu64 " to %" PRIu64 " bytes",
		    DISKLOAD_RECORD, DISKLOAD_MIN, DISKLOAD_MAX);
		return;
	}
	close_twin(l);
	l->fd[0] = d->fd;
	l->buf = d->piece;
	l->disks = 1;
	if (t->other[0]) {
		rc = l->fd[1] = disk_open(t->other);
		if (rc >= 0)
			l->disks = 2;
	}
	if (rc >= 0)
		rc = diskload_begin(l, off, len, t->arg[3], (uint32_t)t->arg[0]);
	if (rc)
		close_twin(l);
	say_rc(t, d, rc);
}

static void run_verify(struct disk *d, struct task *t)
{
	const struct diskload *l = &d->load;
	int rc;

	if (!l->disks) {
		say(t, "error: %s: there is no load", d->name);
		return;
	}
	if (l->error) {
		say(t, "error: %s: record %" PRIu64 ": %s", d->name, l->failed_at, strerror(l->error));
		return;
	}
	rc = diskload_verify(l, t->answer, sizeof(t->answer));
	if (rc)
		say_rc(t, d, rc);
}

static void run_records(struct disk *d, struct task *t)
{
	say(t, "%" PRIu64 " %" PRIu64, d->load.written, d->load.flushed);
}

static void run_log(struct disk *d, struct task *t)
{
	if (t->arg[0] % LOG_RECORD || t->arg[1] % LOG_RECORD) {
		say(t, "error: a log is whole records of %d bytes", LOG_RECORD);
		return;
	}
	d->log_off = t->arg[0];
	d->log_len = t->arg[1];
	d->log_n = 0;
	say(t, "ok");
}

static void run_append(struct disk *d, struct task *t)
{
	int n;

	if (d->log_n >= d->log_len / LOG_RECORD) {
		say(t, "error: %s: the log is full", d->name);
		return;
	}
	memset(d->piece, 0, LOG_RECORD);
	n = snprintf((char *)d->piece, LOG_RECORD, "%" PRIu64 " %s\n", d->log_n + 1, t->text);
	n = whole(pwrite(d->fd, d->piece, LOG_RECORD, (off_t)(d->log_off + d->log_n * LOG_RECORD)), LOG_RECORD);
	if (!n && fdatasync(d->fd))
		n = -errno;
	if (n)
		say_rc(t, d, n);
	else
		say(t, "%" PRIu64, ++d->log_n);
}

/* What the disk says, not what is remembered: the lines up to the first record that is none. */
static void run_appended(struct disk *d, struct task *t)
{
	uint64_t n;
	struct xxh64 h;
	int rc = 0;

	xxh64_init(&h, 0);
	for (n = 0; n < d->log_len / LOG_RECORD; n++) {
		size_t len;

		rc = whole(pread(d->fd, d->piece, LOG_RECORD, (off_t)(d->log_off + n * LOG_RECORD)), LOG_RECORD);
		len = strnlen((char *)d->piece, LOG_RECORD);
		if (rc || strtoull((char *)d->piece, NULL, 10) != n + 1 || !len || d->piece[len - 1] != '\n')
			break;
		xxh64_update(&h, d->piece, len);
	}
	if (rc)
		say_rc(t, d, rc);
	else
		say(t, "%" PRIu64 " %016" PRIx64, n, xxh64_digest(&h));
}

static const struct verb verbs[] = {
	{ "size", "", 0, 0, run_size },
	{ "write", "OFF LEN SEED [sync|fua]", 3, 3, run_write },
	{ "read-hash", "OFF LEN", 2, 2, run_read_hash },
	{ "zero", "OFF LEN", 2, 2, run_zero },
	{ "trim", "OFF LEN", 2, 2, run_trim },
	{ "flush", "", 0, 0, run_flush },
	{ "load", "RATE [OFF LEN SEED [DISK]]", 1, 4, run_load },
	{ "verify", "", 0, 0, run_verify },
	{ "records", "", 0, 0, run_records },
	{ "log", "OFF LEN", 2, 2, run_log },
	{ "append", "TEXT", 0, 0, run_append },
	{ "appended", "", 0, 0, run_appended },
};

/* The disk's thread */

static int64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static void answered(struct task *t)
{
	uint64_t one = 1;

	pthread_mutex_lock(&lock);
	t->next = NULL;
	*answers_last = t;
	answers_last = &t->next;
	pthread_mutex_unlock(&lock);
	if (write(event_fd, &one, sizeof(one)) < 0)
		return;
}

/* Waits @ns for a command, for ever when it is negative. Return: it, or NULL. */
static struct task *next_task(struct disk *d, int64_t ns)
{
	int64_t until = now_ns() + ns;
	struct timespec ts = { .tv_sec = until / 1000000000, .tv_nsec = until % 1000000000 };
	struct task *t;

	pthread_mutex_lock(&lock);
	while (!d->first && ns && (ns < 0 ? pthread_cond_wait(&d->wake, &lock) :
					    pthread_cond_timedwait(&d->wake, &lock, &ts)) != ETIMEDOUT)
		;
	t = d->first;
	if (t) {
		d->first = t->next;
		if (!d->first)
			d->last = &d->first;
		d->waiting--;
	}
	pthread_mutex_unlock(&lock);
	return t;
}

static void carry_out(struct disk *d, struct task *t)
{
	int rc = 0;

	if (!d->piece)
		d->piece = aligned_alloc(ALIGN, PIECE);
	if (d->fd < 0) {
		rc = disk_open(d->name);
		if (rc >= 0)
			d->fd = rc;
	}
	if (!d->piece)
		rc = -ENOMEM;
	if (rc < 0)
		say_rc(t, d, rc);
	else
		t->verb->run(d, t);
	answered(t);
}

static void *worker(void *arg)
{
	struct disk *d = arg;
	struct task *t;

	for (;;) {
		t = next_task(d, diskload_turn(&d->load, now_ns()));
		if (t)
			carry_out(d, t);
	}
	return NULL;
}

/* The service's thread */

static struct disk *find_disk(const char *name)
{
	pthread_condattr_t attr;
	struct disk *d;
	pthread_t thread;

	for (d = disks; d < disks + DISKS && d->name[0]; d++)
		if (!strcmp(d->name, name))
			return d;
	if (d == disks + DISKS)
		return NULL;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&d->wake, &attr);
	pthread_condattr_destroy(&attr);
	d->last = &d->first;
	d->fd = -1;
	strcpy(d->name, name);
	if (pthread_create(&thread, NULL, worker, d)) {
		pthread_cond_destroy(&d->wake);
		d->name[0] = '\0';
		return NULL;
	}
	pthread_detach(thread);
	return d;
}

/* Takes a word of letters and digits off @s. Return: 0, or -EINVAL when there is none or it is too long. */
static int take_word(const char **s, char *word)
{
	size_t n = 0;

	while (isalnum((unsigned char)**s) || **s == '-') {
		if (n == NAME_MAX_LEN)
			return -EINVAL;
		word[n++] = *(*s)++;
	}
	word[n] = '\0';
	if (!n || (**s && **s != ' '))
		return -EINVAL;
	while (**s == ' ')
		(*s)++;
	return 0;
}

static int take_args(struct task *t, const char *s)
{
	char word[NAME_MAX_LEN + 1], *end;

	while (*s >= '0' && *s <= '9' && t->args < t->verb->most) {
		errno = 0;
		t->arg[t->args] = strtoull(s, &end, 10);
		if (errno || (*end && *end != ' '))
			return -EINVAL;
		t->args++;
		for (s = end; *s == ' '; s++)
			;
	}
	if (t->args < t->verb->least)
		return -EINVAL;
	if (t->verb->run == run_append) {
		if (!*s || strlen(s) > LOG_TEXT_MAX)
			return -EINVAL;
		strcpy(t->text, s);
		return 0;
	}
	if (t->verb->run == run_load) {
		if (t->arg[0] > DISKLOAD_RATE_MAX || (t->args != 1 && t->args != 4) || (*s && t->args != 4))
			return -EINVAL;
		if (*s && take_word(&s, t->other))
			return -EINVAL;
	} else if (t->args >= 2 && (t->arg[0] > IO_MAX || t->arg[1] > IO_MAX)) {
		return -EINVAL;
	}
	if (t->verb->run == run_write && *s) {
		if (take_word(&s, word))
			return -EINVAL;
		t->sync = !strcmp(word, "sync");
		t->fua = !strcmp(word, "fua");
		if (!t->sync && !t->fua)
			return -EINVAL;
	}
	return *s ? -EINVAL : 0;
}

static int parse(struct task *t, char *name, const char *s, char *answer)
{
	char word[NAME_MAX_LEN + 1];
	size_t i;

	if (take_word(&s, name) || take_word(&s, word)) {
		snprintf(answer, DISK_ANSWER_MAX, "error: use: disk DISK COMMAND ... (DISK is for instance vda)");
		return -EINVAL;
	}
	for (i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++)
		if (!strcmp(verbs[i].name, word))
			t->verb = &verbs[i];
	if (!t->verb) {
		snprintf(answer, DISK_ANSWER_MAX, "error: disk: unknown command");
		return -EINVAL;
	}
	if (take_args(t, s)) {
		snprintf(answer, DISK_ANSWER_MAX, "error: use: disk DISK %s%s%s", t->verb->name, *t->verb->use ? " " : "",
			 t->verb->use);
		return -EINVAL;
	}
	return 0;
}

int disk_command(uint64_t ticket, const char *args, char *answer)
{
	struct task *t = calloc(1, sizeof(*t));
	char name[NAME_MAX_LEN + 1];
	struct disk *d;
	int rc = t ? 0 : -ENOMEM;

	if (rc) {
		snprintf(answer, DISK_ANSWER_MAX, "error: no memory");
		return rc;
	}
	t->ticket = ticket;
	rc = parse(t, name, args, answer);
	if (rc) {
		free(t);
		return rc;
	}
	pthread_mutex_lock(&lock);
	d = find_disk(name);
	if (d && d->waiting < WAITING_MAX) {
		*d->last = t;
		d->last = &t->next;
		d->waiting++;
		pthread_cond_signal(&d->wake);
	} else {
		rc = -EBUSY;
		snprintf(answer, DISK_ANSWER_MAX, d ? "error: too many commands wait for this disk" : "error: too many disks");
		free(t);
	}
	pthread_mutex_unlock(&lock);
	return rc;
}

bool disk_answer(uint64_t *ticket, char *answer)
{
	struct task *t;
	uint64_t n;

	pthread_mutex_lock(&lock);
	t = answers;
	if (t) {
		answers = t->next;
		if (!answers)
			answers_last = &answers;
	} else if (read(event_fd, &n, sizeof(n)) < 0) {
		n = 0;
	}
	pthread_mutex_unlock(&lock);
	if (!t)
		return false;
	*ticket = t->ticket;
	strcpy(answer, t->answer);
	free(t);
	return true;
}

int disk_start(void)
{
	event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	return event_fd < 0 ? -errno : event_fd;
}
