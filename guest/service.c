/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * service.c - the test guest's own server on TCP port 7000 (protocol: PROTOCOL.md)
 *
 * Goal: a server whose answers on a connection are a function of that connection's input alone, so that two copies of
 * the VM answer with the same bytes whatever their timing is, and a few commands that break this on purpose.
 *
 * One thread runs an epoll loop over all connections. Each connection has one input buffer and one output buffer, both
 * of fixed size, and at most one "job" under way (sending N bytes of pattern, taking N bytes, waiting for a check, going
 * down). Commands of a connection are carried out strictly in order; while a job runs, or while the output buffer has no
 * room for the longest answer, nothing more is taken from the input buffer, and while that is full nothing is read from
 * the socket: TCP's window is the flow control, and a client that does not read stops only itself. How the bytes are cut
 * into reads and writes depends on timing; which bytes they are does not.
 *
 * The memory that `dirty` writes belongs to the worker thread in dirty.c; `check` is a question to it, answered through
 * an eventfd that stands in the same epoll set; so are the commands about disks, to the threads in disk.c. UDP is
 * answered by a thread of its own, in udp.c.
 *
 * `connect` makes a connection the other way round. Once it is open it is one like the others, whose job is to send back
 * in upper case what it is told.
 */
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/sockios.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/io.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include "dirty.h"
#include "disk.h"
#include "outward.h"
#include "pattern.h"
#include "udp.h"
#include "xxh64.h"

enum {
	SERVICE_PORT = 7000,
	UDP_PORT = 5300,
	CONN_MAX = 512,	/* connections at once, also of `connect`; the next one is told so and closed */
	IN_SIZE = 16384,
	OUT_SIZE = 65536,
	LINE_MAX_LEN = 4096,	/* one command line, without its newline */
	HASH_MAX = 1 << 30,	/* bytes of one `hash` */
	RANDOM_MAX = 4096,	/* bytes of one `random` */
	ANSWER_MAX = 2 * RANDOM_MAX + 64,	/* the longest answer that is not streamed */
	GOODBYE_MS = 3000,	/* how long `poweroff` waits for its answer to be acknowledged */
	POLL_MS = 10,
};

/* Bytes of one `send` or `take`. */
#define STREAM_MAX (UINT64_C(1) << 40)

enum job { JOB_NONE, JOB_SEND, JOB_TAKE, JOB_CHECK, JOB_DISK, JOB_DOWN, JOB_CLOSE, JOB_SHELL, JOB_UPPER };

struct conn {
	int fd;
	enum job job;
	bool eof;		/* the client will send no more */
	bool said_end;		/* JOB_CLOSE: our FIN is sent */
	bool skip;		/* the rest of a line that was too long is thrown away */
	uint32_t events;	/* what epoll was asked for */
	uint64_t count;
	uint64_t left;		/* bytes left of JOB_SEND or JOB_TAKE */
	uint64_t pos, seed;	/* JOB_SEND: position in the pattern */
	struct xxh64 hash;	/* JOB_TAKE */
	uint64_t ticket;	/* JOB_CHECK, JOB_DISK */
	int down_cmd;		/* JOB_DOWN: for reboot(2) */
	int64_t deadline_ms;	/* JOB_DOWN */
	uint32_t in_len, in_pos, out_len, out_pos;
	uint32_t random_len;
	uint8_t random[RANDOM_MAX];
	char in[IN_SIZE];
	char out[OUT_SIZE];
};

static struct conn *conns[CONN_MAX];
static uint32_t conn_count;
static uint64_t gcount;
static uint64_t disk_tickets;
static int epfd, listen_fd, check_fd, disk_fd;

static int64_t clock_ms(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static uint32_t out_room(const struct conn *c)
{
	return OUT_SIZE - c->out_len;
}

static void out_put(struct conn *c, const void *p, uint32_t n)
{
	memcpy(c->out + c->out_len, p, n);
	c->out_len += n;
}

__attribute__((format(printf, 2, 3)))
static void answer(struct conn *c, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(c->out + c->out_len, out_room(c), fmt, ap);
	va_end(ap);
	c->out_len += (uint32_t)n;
}

static void pattern_fill(struct conn *c)
{
	uint64_t w;
	uint32_t off, n;

	while (c->left && out_room(c) > 1) {
		w = pattern_word(c->seed, c->pos / 8);
		off = c->pos % 8;
		n = 8 - off;
		if (n > c->left)
			n = (uint32_t)c->left;
		if (n > out_room(c) - 1)
			n = out_room(c) - 1;
		out_put(c, (const char *)&w + off, n);
		c->pos += n;
		c->left -= n;
	}
	if (!c->left) {
		out_put(c, "\n", 1);
		c->job = JOB_NONE;
	}
}

/* Parses an unsigned decimal word; moves *@s behind it and the blanks that follow. */
static int parse_u64(const char **s, uint64_t max, uint64_t *v)
{
	char *end;

	if (**s < '0' || **s > '9')
		return -EINVAL;
	errno = 0;
	*v = strtoull(*s, &end, 10);
	if (errno || *v > max || (*end && *end != ' '))
		return -EINVAL;
	while (*end == ' ')
		end++;
	*s = end;
	return 0;
}

static void put_random(struct conn *c)
{
	static const char digit[] = "0123456789abcdef";
	uint32_t i;

	for (i = 0; i < c->random_len; i++) {
		c->out[c->out_len++] = digit[c->random[i] >> 4];
		c->out[c->out_len++] = digit[c->random[i] & 15];
	}
	c->out[c->out_len++] = '\n';
}

static void cmd_count(struct conn *c, const char *s)
{
	answer(c, "%" PRIu64 "\n", ++c->count);
}

static void cmd_gcount(struct conn *c, const char *s)
{
	answer(c, "%" PRIu64 "\n", ++gcount);
}

static void cmd_echo(struct conn *c, const char *s)
{
	answer(c, "%s\n", s);
}

static void cmd_send(struct conn *c, const char *s)
{
	uint64_t n, seed;

	if (parse_u64(&s, STREAM_MAX, &n) || parse_u64(&s, UINT64_MAX, &seed) || *s) {
		answer(c, "error: use: send N SEED (N up to 2^40)\n");
		return;
	}
	c->left = n;
	c->seed = seed;
	c->pos = 0;
	c->job = JOB_SEND;
}

static void cmd_take(struct conn *c, const char *s)
{
	uint64_t n;

	if (parse_u64(&s, STREAM_MAX, &n) || *s) {
		answer(c, "error: use: take N (N up to 2^40), then N bytes\n");
		return;
	}
	c->left = n;
	xxh64_init(&c->hash, 0);
	c->job = JOB_TAKE;
}

static void cmd_dirty(struct conn *c, const char *s)
{
	uint64_t rate, mb;

	if (parse_u64(&s, DIRTY_RATE_MAX, &rate) || parse_u64(&s, dirty_mb_max(), &mb) || *s) {
		answer(c, "error: use: dirty PAGES_PER_S MB (up to %d pages a second, %" PRIu64 " MB in this guest)\n",
		       DIRTY_RATE_MAX, dirty_mb_max());
		return;
	}
	dirty_set((uint32_t)rate, (uint32_t)mb);
	answer(c, "ok\n");
}

static void cmd_check(struct conn *c, const char *s)
{
	c->ticket = dirty_check();
	c->job = JOB_CHECK;
}

static void cmd_disk(struct conn *c, const char *s)
{
	char text[DISK_ANSWER_MAX];

	c->ticket = ++disk_tickets;
	if (disk_command(c->ticket, s, text))
		answer(c, "%s\n", text);
	else
		c->job = JOB_DISK;
}

static void cmd_random(struct conn *c, const char *s)
{
	uint64_t n;

	if (parse_u64(&s, RANDOM_MAX, &n) || !n || *s) {
		answer(c, "error: use: random N (N from 1 to %d)\n", RANDOM_MAX);
		return;
	}
	c->random_len = (uint32_t)fresh_random(c->random, n);
	put_random(c);
}

static void cmd_last(struct conn *c, const char *s)
{
	if (c->random_len)
		put_random(c);
	else
		answer(c, "none\n");
}

static void cmd_uptime(struct conn *c, const char *s)
{
	answer(c, "%" PRId64 "\n", clock_ms(CLOCK_MONOTONIC));
}

/* hash FILE N: as it is on the device, past the page cache where that is possible */
static void cmd_hash(struct conn *c, const char *s)
{
	static _Alignas(4096) uint8_t buf[64 << 10];
	char path[128];
	size_t len = strcspn(s, " ");
	const char *rest = s + len + strspn(s + len, " ");
	struct xxh64 h;
	uint64_t n;
	ssize_t got = 0;
	int fd;

	if (len == 0 || len >= sizeof(path) || parse_u64(&rest, HASH_MAX, &n)) {
		answer(c, "error: use: hash FILE N (N up to %d)\n", HASH_MAX);
		return;
	}
	memcpy(path, s, len);
	path[len] = 0;
	fd = open(path, O_RDONLY | O_CLOEXEC | O_DIRECT);
	if (fd < 0 && errno == EINVAL)
		fd = open(path, O_RDONLY | O_CLOEXEC);
	xxh64_init(&h, 0);
	while (fd >= 0 && n > 0 && (got = read(fd, buf, sizeof(buf))) > 0) {
		if ((uint64_t)got > n)
			got = (ssize_t)n;
		xxh64_update(&h, buf, (size_t)got);
		n -= (uint64_t)got;
	}
	if (fd < 0 || got < 0)
		answer(c, "error: %s: %s\n", path, strerror(errno));
	else
		answer(c, "%016" PRIx64 "\n", xxh64_digest(&h));
	if (fd >= 0)
		close(fd);
}

/* put FILE TEXT: a line into a device */
static void cmd_put(struct conn *c, const char *s)
{
	char path[128], line[1024];
	size_t len = strcspn(s, " ");
	int fd, n;

	if (len == 0 || len >= sizeof(path) || s[len] == 0) {
		answer(c, "error: use: put FILE TEXT\n");
		return;
	}
	memcpy(path, s, len);
	path[len] = 0;
	n = snprintf(line, sizeof(line), "%s\n", s + len + 1);
	fd = open(path, O_WRONLY | O_CLOEXEC | O_NOCTTY);
	if (fd < 0 || write(fd, line, (size_t)n < sizeof(line) ? (size_t)n : sizeof(line) - 1) < 0)
		answer(c, "error: %s: %s\n", path, strerror(errno));
	else
		answer(c, "ok\n");
	if (fd >= 0)
		close(fd);
}

static void cmd_time(struct conn *c, const char *s)
{
	answer(c, "%" PRId64 "\n", clock_ms(CLOCK_REALTIME));
}

static void cmd_clock(struct conn *c, const char *s)
{
	char source[64] = "";
	int fd = open("/sys/devices/system/clocksource/clocksource0/current_clocksource", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd == -1 ? 0 : read(fd, source, sizeof(source) - 1);

	if (fd != -1)
		close(fd);
	source[n > 0 ? n : 0] = 0;
	source[strcspn(source, "\n")] = 0;
	answer(c, "%s %" PRId64 " %" PRId64 "\n", source[0] ? source : "unknown", clock_ms(CLOCK_MONOTONIC),
	       clock_ms(CLOCK_REALTIME));
}

static void go_down(struct conn *c, int how)
{
	answer(c, "ok\n");
	c->down_cmd = how;
	c->deadline_ms = clock_ms(CLOCK_MONOTONIC) + GOODBYE_MS;
	c->job = JOB_DOWN;
}

static void cmd_poweroff(struct conn *c, const char *s)
{
	go_down(c, RB_POWER_OFF);
}

static void cmd_reboot(struct conn *c, const char *s)
{
	go_down(c, RB_AUTOBOOT);
}

/* What a kernel in panic says to the machine, where that has QEMU's pvpanic; nothing else of this guest changes. */
static void cmd_panic(struct conn *c, const char *s)
{
	enum { PORT = 0x505, PANICKED = 1 };

	if (ioperm(PORT, 1, 1) || !(inb(PORT) & PANICKED) || inb(PORT) == 0xff) {
		answer(c, "error: there is no pvpanic device\n");
		return;
	}
	outb(PANICKED, PORT);
	answer(c, "ok\n");
}

static void cmd_quit(struct conn *c, const char *s)
{
	c->job = JOB_CLOSE;
}

static void cmd_shell(struct conn *c, const char *s)
{
	answer(c, "> ");
	c->job = JOB_SHELL;
}

/* Makes a connection of @fd, which it owns from now on. Return: it, or NULL when there are too many. */
static struct conn *conn_new(int fd, uint32_t events)
{
	struct epoll_event ev = { .events = events };
	struct conn *c = conn_count < CONN_MAX ? calloc(1, sizeof(*c)) : NULL;
	uint32_t slot;

	if (!c)
		return NULL;
	for (slot = 0; conns[slot]; slot++)
		;
	c->fd = fd;
	c->events = events;
	conns[slot] = c;
	conn_count++;
	ev.data.u32 = slot + 1;
	epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &ev);
	return c;
}

/* Parses "ADDR PORT"; moves *@s behind it and the blanks that follow. */
static int parse_address(const char **s, struct sockaddr_in6 *to)
{
	size_t len = strcspn(*s, " ");
	char text[INET6_ADDRSTRLEN];
	uint64_t port;

	if (!len || len >= sizeof(text) || !(*s)[len])
		return -EINVAL;
	memcpy(text, *s, len);
	text[len] = '\0';
	*s += len + 1;
	if (parse_u64(s, UINT16_MAX, &port) || !port)
		return -EINVAL;
	return outward_address(text, (uint16_t)port, to);
}

static void cmd_connect(struct conn *c, const char *s)
{
	struct sockaddr_in6 to;
	struct conn *call;
	uint64_t from = 0;
	bool chosen;
	int fd;

	if (parse_address(&s, &to) || ((chosen = *s) && parse_u64(&s, UINT16_MAX, &from)) || *s) {
		answer(c, "error: use: connect ADDR PORT [FROM]\n");
		return;
	}
	fd = outward_connect(&to, chosen ? (int)from : -1);
	if (fd < 0) {
		answer(c, "error: connect: %s\n", strerror(-fd));
		return;
	}
	call = conn_new(fd, EPOLLIN | EPOLLOUT);
	if (!call) {
		close(fd);
		answer(c, "error: too many connections\n");
		return;
	}
	call->job = JOB_UPPER;
	answer(call, "hello\n");
	answer(c, "ok\n");
}

static void cmd_udp_to(struct conn *c, const char *s)
{
	struct sockaddr_in6 to;
	uint64_t n;
	int rc;

	if (parse_address(&s, &to) || parse_u64(&s, UDP_TO_MAX, &n)) {
		answer(c, "error: use: udp-to ADDR PORT N TEXT (N up to %d)\n", UDP_TO_MAX);
		return;
	}
	rc = outward_udp(&to, (uint32_t)n, s);
	if (rc)
		answer(c, "error: udp-to: %s\n", strerror(-rc));
	else
		answer(c, "ok\n");
}

static const struct command {
	const char *name;
	bool args;
	void (*run)(struct conn *c, const char *args);
} commands[] = {
	{ "count", false, cmd_count }, { "gcount", false, cmd_gcount }, { "echo", true, cmd_echo },
	{ "send", true, cmd_send }, { "take", true, cmd_take }, { "dirty", true, cmd_dirty },
	{ "check", false, cmd_check }, { "random", true, cmd_random }, { "last", false, cmd_last },
	{ "uptime", false, cmd_uptime }, { "time", false, cmd_time },
	{ "clock", false, cmd_clock }, { "poweroff", false, cmd_poweroff },
	{ "reboot", false, cmd_reboot }, { "panic", false, cmd_panic }, { "quit", false, cmd_quit }, { "shell", false, cmd_shell },
	{ "hash", true, cmd_hash }, { "put", true, cmd_put }, { "connect", true, cmd_connect }, { "udp-to", true, cmd_udp_to },
	{ "disk", true, cmd_disk },
};

static void run_line(struct conn *c, char *line)
{
	size_t len = strcspn(line, " ");
	const char *args = line[len] ? line + len + 1 : line + len;
	const struct command *cmd;

	for (cmd = commands; cmd < commands + sizeof(commands) / sizeof(commands[0]); cmd++) {
		if (strlen(cmd->name) != len || memcmp(cmd->name, line, len))
			continue;
		if (*args && !cmd->args)
			answer(c, "error: %s takes no argument\n", cmd->name);
		else
			cmd->run(c, args);
		return;
	}
	answer(c, "error: unknown command\n");
}

/* Takes one line out of the input buffer. Return: whether something was done. */
static bool take_line(struct conn *c)
{
	char *start = c->in + c->in_pos;
	uint32_t have = c->in_len - c->in_pos;
	char *nl = memchr(start, '\n', have);
	uint32_t len = nl ? (uint32_t)(nl - start) : have;

	if (c->skip) {
		c->in_pos += nl ? len + 1 : len;
		c->skip = !nl;
		return have > 0;
	}
	/* Judged by the line's length alone, not by how much of it has come: the answer must not depend on timing. */
	if (len > LINE_MAX_LEN) {
		c->skip = true;
		answer(c, "error: line longer than %d bytes\n", LINE_MAX_LEN);
		return true;
	}
	if (!nl)
		return false;
	c->in_pos += len + 1;
	if (len && nl[-1] == '\r')
		nl--;
	*nl = '\0';
	if (memchr(start, '\0', (size_t)(nl - start)))
		answer(c, "error: NUL in a command\n");
	else
		run_line(c, start);
	return true;
}

static bool step_take(struct conn *c)
{
	uint32_t n = c->in_len - c->in_pos;

	if (n > c->left)
		n = (uint32_t)c->left;
	xxh64_update(&c->hash, c->in + c->in_pos, n);
	c->in_pos += n;
	c->left -= n;
	if (!c->left) {
		answer(c, "%016" PRIx64 "\n", xxh64_digest(&c->hash));
		c->job = JOB_NONE;
		return true;
	}
	return n > 0;
}

/* While there is room for the longest that a byte becomes: itself and a prompt. Return: whether something was done. */
static bool step_bytes(struct conn *c)
{
	uint32_t before = c->in_pos;
	char b;

	while (c->in_pos < c->in_len && out_room(c) > 2) {
		b = c->in[c->in_pos++];
		if (c->job == JOB_UPPER && b >= 'a' && b <= 'z')
			b = (char)(b - 'a' + 'A');
		out_put(c, &b, 1);
		if (c->job == JOB_SHELL && b == '\n')
			out_put(c, "> ", 2);
	}
	return c->in_pos != before;
}

/* Does what can be done with the buffers as they are. Return: whether something was done. */
static bool conn_step(struct conn *c)
{
	if (out_room(c) < ANSWER_MAX)
		return false;
	switch (c->job) {
	case JOB_NONE:
		return take_line(c);
	case JOB_TAKE:
		return step_take(c);
	case JOB_SEND:
		pattern_fill(c);
		return true;
	case JOB_SHELL:
	case JOB_UPPER:
		return step_bytes(c);
	case JOB_CLOSE:
		/* To close a socket with unread input is to reset it: what still comes is read and thrown away. */
		c->in_pos = c->in_len;
		return false;
	default:
		return false;
	}
}

static void conn_free(struct conn *c, uint32_t slot)
{
	close(c->fd);
	free(c);
	conns[slot] = NULL;
	conn_count--;
}

static int conn_read(struct conn *c)
{
	ssize_t n;

	if (c->in_pos) {
		memmove(c->in, c->in + c->in_pos, c->in_len - c->in_pos);
		c->in_len -= c->in_pos;
		c->in_pos = 0;
	}
	if (c->eof || c->in_len == IN_SIZE)
		return 0;
	n = recv(c->fd, c->in + c->in_len, IN_SIZE - c->in_len, MSG_DONTWAIT);
	if (n > 0)
		c->in_len += (uint32_t)n;
	else if (n == 0)
		c->eof = true;
	else if (errno != EAGAIN && errno != EINTR)
		return -errno;
	return 0;
}

static int conn_write(struct conn *c)
{
	ssize_t n;

	if (c->out_pos < c->out_len) {
		n = send(c->fd, c->out + c->out_pos, c->out_len - c->out_pos, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n > 0)
			c->out_pos += (uint32_t)n;
		else if (errno != EAGAIN && errno != EINTR)
			return -errno;
	}
	if (c->out_pos) {
		memmove(c->out, c->out + c->out_pos, c->out_len - c->out_pos);
		c->out_len -= c->out_pos;
		c->out_pos = 0;
	}
	return 0;
}

/* Whether everything that was said on @c has been acknowledged by the client's TCP. */
static bool all_acknowledged(struct conn *c)
{
	int queued = 0;

	return !c->out_len && (ioctl(c->fd, SIOCOUTQ, &queued) || !queued);
}

/*
 * One turn of one connection: at most one read and one write, so that none starves the others; epoll is level-triggered
 * and comes back. Return: false when the connection has come to its end.
 */
static bool conn_turn(struct conn *c, uint32_t slot, uint32_t ready)
{
	struct epoll_event ev = { .data.u32 = slot + 1 };

	if (ready & (EPOLLIN | EPOLLHUP | EPOLLERR) && conn_read(c) < 0)
		return false;
	while (conn_step(c))
		;
	if (conn_write(c) < 0)
		return false;
	while (conn_step(c))
		;
	if (c->job == JOB_CLOSE && !c->out_len && !c->said_end) {
		shutdown(c->fd, SHUT_WR);
		c->said_end = true;
	}
	if (c->eof && !c->out_len && c->job != JOB_CHECK && c->job != JOB_DISK && c->job != JOB_DOWN)
		return false;
	if (!c->eof && c->job != JOB_DOWN && c->in_len - c->in_pos < IN_SIZE)
		ev.events |= EPOLLIN;
	if (c->out_len)
		ev.events |= EPOLLOUT;
	if (ev.events != c->events) {
		c->events = ev.events;
		epoll_ctl(epfd, EPOLL_CTL_MOD, c->fd, &ev);
	}
	return true;
}

static void run_turn(uint32_t slot, uint32_t ready)
{
	struct conn *c = conns[slot];

	if (c && !conn_turn(c, slot, ready))
		conn_free(c, slot);
}

static void conn_accept(void)
{
	static const char full[] = "error: too many connections\n";
	int one = 1, fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	if (fd < 0)
		return;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (conn_new(fd, EPOLLIN))
		return;
	if (send(fd, full, sizeof(full) - 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		perror("lockstep-guest: service: send");
	close(fd);
}

static void checks_done(void)
{
	struct dirty_result r;
	uint64_t n;
	uint32_t slot;

	if (read(check_fd, &n, sizeof(n)) < 0)
		return;
	if (dirty_result(&r))
		return;
	for (slot = 0; slot < CONN_MAX; slot++) {
		struct conn *c = conns[slot];

		if (!c || c->job != JOB_CHECK || c->ticket > r.upto)
			continue;
		answer(c, "%s %" PRIu64 "\n", r.bad ? "bad" : "ok", r.bad ? r.bad : r.pages);
		c->job = JOB_NONE;
		run_turn(slot, 0);
	}
}

/* An answer whose connection has ended is dropped. */
static void disks_done(void)
{
	char text[DISK_ANSWER_MAX];
	uint64_t ticket;
	uint32_t slot;

	while (disk_answer(&ticket, text)) {
		for (slot = 0; slot < CONN_MAX; slot++) {
			struct conn *c = conns[slot];

			if (!c || c->job != JOB_DISK || c->ticket != ticket)
				continue;
			answer(c, "%s\n", text);
			c->job = JOB_NONE;
			run_turn(slot, 0);
			break;
		}
	}
}

/* Return: whether somebody waits to go down, so that the loop must look again soon. */
static bool going_down(void)
{
	bool waiting = false;
	uint32_t slot;

	for (slot = 0; slot < CONN_MAX; slot++) {
		struct conn *c = conns[slot];

		if (!c || c->job != JOB_DOWN)
			continue;
		waiting = true;
		if (all_acknowledged(c) || clock_ms(CLOCK_MONOTONIC) > c->deadline_ms) {
			sync();
			reboot(c->down_cmd);
		}
	}
	return waiting;
}

static int listen_on(uint16_t port)
{
	struct sockaddr_in6 a6 = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
	struct sockaddr_in a4 = { .sin_family = AF_INET, .sin_port = htons(port) };
	int one = 1, zero = 0, rc, fd = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	bool v6 = fd >= 0;

	if (!v6)
		fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (v6) {
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof(zero));
		rc = bind(fd, (struct sockaddr *)&a6, sizeof(a6));
	} else {
		rc = bind(fd, (struct sockaddr *)&a4, sizeof(a4));
	}
	if (rc || listen(fd, CONN_MAX)) {
		rc = -errno;
		close(fd);
		return rc;
	}
	return fd;
}

int main(int argc, char **argv)
{
	struct epoll_event ev[64], lev = { .events = EPOLLIN, .data.u32 = 0 };
	struct epoll_event cev = { .events = EPOLLIN, .data.u32 = CONN_MAX + 1 };
	struct epoll_event dev = { .events = EPOLLIN, .data.u32 = CONN_MAX + 2 };
	uint16_t port = SERVICE_PORT;
	int i, n, udp, out;

	if (argc > 1)
		port = (uint16_t)atoi(argv[1]);
	signal(SIGPIPE, SIG_IGN);
	listen_fd = listen_on(port);
	check_fd = dirty_start();
	disk_fd = disk_start();
	epfd = epoll_create1(EPOLL_CLOEXEC);
	udp = udp_start(UDP_PORT);
	out = outward_start();
	if (listen_fd < 0 || check_fd < 0 || disk_fd < 0 || epfd < 0 || udp < 0 || out < 0) {
		fprintf(stderr, "lockstep-guest: service: cannot start: listen %d, workers %d and %d, epoll %d, UDP %d and %d\n",
			listen_fd, check_fd, disk_fd, epfd, udp, out);
		return 1;
	}
	epoll_ctl(epfd, EPOLL_CTL_ADD, listen_fd, &lev);
	epoll_ctl(epfd, EPOLL_CTL_ADD, check_fd, &cev);
	epoll_ctl(epfd, EPOLL_CTL_ADD, disk_fd, &dev);
	for (;;) {
		n = epoll_wait(epfd, ev, sizeof(ev) / sizeof(ev[0]), going_down() ? POLL_MS : -1);
		for (i = 0; i < n; i++) {
			if (ev[i].data.u32 == 0)
				conn_accept();
			else if (ev[i].data.u32 == CONN_MAX + 1)
				checks_done();
			else if (ev[i].data.u32 == CONN_MAX + 2)
				disks_done();
			else
				run_turn(ev[i].data.u32 - 1, ev[i].events);
		}
	}
}
