/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * lockstep capture: write what passes at points of the proxy into a file.
 *
 * The node is handed one end of a socket pair and writes pcapng into it; this end is relayed to the file, which the
 * user who called has opened, whole blocks only, so that the file can be read whenever and however it ends. To ask
 * for the end the sending side of the socket is closed; the node answers with what it had buffered, the statistics,
 * and a close.
 */
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/pcapng.h"
#include "cli/vm_args.h"
#include "proxy/capture.h"

#define BUFFER		(4 * PCAPNG_MAX_BLOCK)
#define LAST_WORDS	(5 * NS_PER_S)	/* from asking for the end to its coming */
#define MAX_DURATION	(365u * 24 * 3600)

enum { OPT_POINT = VM_OPT_OWN, OPT_WRITE, OPT_COUNT, OPT_DURATION, OPT_SNAPLEN };

static const struct cli_opt opts[] = {
	{ "point", OPT_POINT, "LIST", "client, pvm, svm, released; or all (default client,released)" },
	{ "write", OPT_WRITE, "FILE", "where to; - is standard output", 'w' },
	{ "count", OPT_COUNT, "N", "end after N frames" },
	{ "duration", OPT_DURATION, "SECONDS", "end after this time" },
	{ "snaplen", OPT_SNAPLEN, "BYTES", "most bytes of a frame (default all)" },
	VM_OPTS_COMMON,
	{ NULL },
};

struct wishes {
	struct capture_cfg cfg;
	const char *file;
	nstime duration;	/* NS_NEVER: until somebody ends it */
};

/* Bytes on their way from the node to the file. */
struct relay {
	int sock, sig, out;
	size_t chunk;		/* bytes that one write() takes without waiting, once poll() has said so */
	uint8_t *buf;
	size_t n, ready;	/* bytes there; of these in whole blocks */
	bool asked, eof, stats, closed;	/* asked for the end; it has come; with statistics; nobody reads the file */
	nstime deadline;	/* until when it runs; when asked, until when the end must have come */
	const char *why;	/* it ended */
	uint64_t frames, dropped, bytes;
};

static int parse_points(const char *text, uint32_t *points, struct err *e)
{
	while (*text) {
		size_t n = strcspn(text, ",");
		unsigned int k = 0;

		while (k < CAPTURE_POINTS &&
		       (strlen(capture_point_name(k)) != n || memcmp(capture_point_name(k), text, n)))
			k++;
		if (k < CAPTURE_POINTS)
			*points |= 1u << k;
		else if (n == 3 && !memcmp(text, "all", 3))
			*points |= (1u << CAPTURE_POINTS) - 1;
		else
			return err_set(e, -EINVAL,
				       "--point: '%.*s' is no point: client, pvm, svm, released and all are",
				       (int)(n < 60 ? n : 60), text);
		text += n + (text[n] == ',');
	}
	if (!*points)
		return err_set(e, -EINVAL, "--point needs the name of a point: client, pvm, svm, released or all");
	return 0;
}

static int parse_wishes(const struct vm_args *a, struct wishes *w, struct err *e)
{
	*w = (struct wishes){ .duration = NS_NEVER };
	for (int i = 0; i < a->n_own; i++) {
		const char *value = a->own[i].value;
		uint64_t v = 0;
		int rc = 0;

		if (a->own[i].id == OPT_POINT) {
			rc = parse_points(value, &w->cfg.points, e);
		} else if (a->own[i].id == OPT_WRITE) {
			w->file = value;
		} else if (a->own[i].id == OPT_COUNT) {
			rc = cli_number("--count", value, "frames", 1, UINT32_MAX, &v, e);
			w->cfg.count = v;
		} else if (a->own[i].id == OPT_DURATION) {
			rc = cli_number("--duration", value, "seconds", 1, MAX_DURATION, &v, e);
			w->duration = v * NS_PER_S;
		} else {
			rc = cli_number("--snaplen", value, "bytes", 1, CAPTURE_SNAPLEN, &v, e);
			w->cfg.snaplen = (uint32_t)v;
		}
		if (rc)
			return rc;
	}
	if (!w->cfg.points)
		w->cfg.points = 1u << CAPTURE_CLIENT | 1u << CAPTURE_RELEASED;
	if (!w->file)
		return err_set(e, -EINVAL, "where to? -w FILE says it, -w - is standard output");
	if (!strcmp(w->file, "-") && isatty(STDOUT_FILENO))
		return err_set(e, -EINVAL, "standard output is a terminal, and a capture is no text");
	return 0;
}

static struct json_object *request(const struct wishes *w)
{
	struct json_object *o = json_object_new_object(), *points = json_object_new_array();

	for (unsigned int k = 0; k < CAPTURE_POINTS; k++)
		if (w->cfg.points & 1u << k)
			json_object_array_add(points, json_object_new_string(capture_point_name(k)));
	json_object_object_add(o, "points", points);
	if (w->cfg.snaplen)
		json_object_object_add(o, "snaplen", json_object_new_int64(w->cfg.snaplen));
	if (w->cfg.count)
		json_object_object_add(o, "count", json_object_new_uint64(w->cfg.count));
	return o;
}

static void ask_end(struct relay *r, const char *why)
{
	if (r->asked)
		return;
	r->asked = true;
	r->why = why;
	r->deadline = clock_ns() + LAST_WORDS;
	shutdown(r->sock, SHUT_WR);
}

/* Nobody reads the file any more; the node is still asked for its numbers. */
static void reader_gone(struct relay *r)
{
	r->closed = true;
	ask_end(r, "reader");
}

static int take_in(struct relay *r, const char *name, struct err *e)
{
	ssize_t k = recv(r->sock, r->buf + r->n, BUFFER - r->n, MSG_DONTWAIT);
	struct pcapng_block b;
	long size;

	if (k < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	/* However it ends, what is incomplete is not for the file. */
	if (k <= 0) {
		r->eof = true;
		return 0;
	}
	r->n += (size_t)k;
	while ((size = pcapng_next(r->buf + r->ready, r->n - r->ready, &b)) > 0) {
		r->ready += (size_t)size;
		r->frames += b.type == PCAPNG_PACKET;
		r->dropped += b.dropped;
		r->stats = r->stats || b.type == PCAPNG_STATS;
	}
	return size < 0 ? err_set(e, -EPROTO, "lockstep of %s sends what is no capture", name) : 0;
}

static int give_out(struct relay *r, const char *file, struct err *e)
{
	size_t n = r->ready < r->chunk ? r->ready : r->chunk;
	ssize_t k = r->closed ? (ssize_t)n : write(r->out, r->buf, n);

	if (k < 0 && errno == EINTR)
		return 0;
	if (k < 0 && errno != EPIPE)
		return err_set(e, -errno, "cannot write to %s: %s", file, strerror(errno));
	if (k < 0) {
		reader_gone(r);
		return 0;
	}
	r->bytes += r->closed ? 0 : (uint64_t)k;
	memmove(r->buf, r->buf + k, r->n - (size_t)k);
	r->n -= (size_t)k;
	r->ready -= (size_t)k;
	return 0;
}

/* Until the node has closed and everything is written. */
static int relay(struct relay *r, const struct wishes *w, const char *name, struct err *e)
{
	struct signalfd_siginfo si;
	int rc = 0;

	while (!rc && (!r->eof || r->ready)) {
		struct pollfd p[] = {
			{ .fd = r->sig, .events = POLLIN },
			{ .fd = r->eof || BUFFER - r->n < PCAPNG_MAX_BLOCK ? -1 : r->sock, .events = POLLIN },
			{ .fd = r->ready || !r->closed ? r->out : -1, .events = r->ready ? POLLOUT : 0 },
		};
		nstime now = clock_ns(), left = r->deadline > now ? r->deadline - now : 0;
		int ms = left / NS_PER_MS < 3600000 ? (int)(left / NS_PER_MS) + 1 : 3600000;

		if (!left && r->asked)
			return 0;
		if (!left)
			ask_end(r, "duration");
		else if (poll(p, 3, ms) < 0 && errno != EINTR)
			return err_set(e, -errno, "cannot wait for frames: %s", strerror(errno));
		if (p[0].revents && read(r->sig, &si, sizeof(si)) == sizeof(si)) {
			/* The second time it is meant: whoever reads the file may never do it. */
			if (r->asked)
				return 0;
			ask_end(r, "signal");
		}
		if (p[1].revents)
			rc = take_in(r, name, e);
		if (!rc && p[2].revents && r->ready)
			rc = give_out(r, w->file, e);
		else if (!rc && p[2].revents & (POLLERR | POLLHUP))
			reader_gone(r);
	}
	if (!rc && !r->why)
		r->why = w->cfg.count && r->frames == w->cfg.count ? "count" : "node";
	return rc;
}

static void tell(const struct relay *r, const char *name, bool json)
{
	struct json_object *o;

	if (!json) {
		if (!strcmp(r->why, "node"))
			fprintf(stderr, "lockstep capture: %s has ended\n", name);
		fprintf(stderr, "lockstep capture: %llu frames written, ", (unsigned long long)r->frames);
		if (r->stats)
			fprintf(stderr, "%llu dropped%s\n", (unsigned long long)r->dropped,
				r->dropped ? " because they were not written fast enough" : "");
		else
			fprintf(stderr, "how many were dropped is not known\n");
		return;
	}
	o = json_object_new_object();
	json_object_object_add(o, "frames", json_object_new_uint64(r->frames));
	json_object_object_add(o, "dropped", r->stats ? json_object_new_uint64(r->dropped) : NULL);
	json_object_object_add(o, "bytes", json_object_new_uint64(r->bytes));
	json_object_object_add(o, "ended", json_object_new_string(r->why));
	fprintf(r->out == STDOUT_FILENO ? stderr : stdout, "%s\n",
		json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN));
	json_object_put(o);
}

static int open_file(struct relay *r, const char *file, struct err *e)
{
	struct stat st;

	/* What is in it stays until the node has agreed. */
	r->out = strcmp(file, "-") ? open(file, O_WRONLY | O_CREAT | O_CLOEXEC, 0600) : STDOUT_FILENO;
	if (r->out < 0 || fstat(r->out, &st) < 0)
		return err_set(e, errno == ENOENT ? -EIO : -errno, "cannot open %s: %s", file, strerror(errno));
	r->chunk = S_ISREG(st.st_mode) ? BUFFER : PIPE_BUF;
	return 0;
}

static int watch_signals(struct relay *r, struct err *e)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGPIPE);	/* never read below: write() says it */
	sigprocmask(SIG_BLOCK, &set, NULL);
	sigdelset(&set, SIGPIPE);
	r->sig = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return r->sig < 0 ? err_set(e, -errno, "cannot watch for signals: %s", strerror(errno)) : 0;
}

static int capture(struct vm_client *c, const struct wishes *w, bool json, struct err *e)
{
	struct relay r = { .sock = -1, .sig = -1, .out = -1, .buf = malloc(BUFFER) };
	int pair[2] = { -1, -1 }, rc;
	sigset_t before;

	sigprocmask(SIG_BLOCK, NULL, &before);
	rc = r.buf ? open_file(&r, w->file, e) : err_set(e, -ENOMEM, "no memory for a capture");
	if (!rc && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		rc = err_set(e, -errno, "cannot make a socket: %s", strerror(errno));
	r.sock = pair[0];
	if (!rc)
		rc = client_call_fd(c, "__lockstep_capture", request(w), pair[1], CLIENT_TIMEOUT, NULL, e);
	/* The node's end must be the only one, or its close would not be seen. */
	if (pair[1] >= 0)
		close(pair[1]);
	/* Until here a signal may end the command as it ends any other. */
	if (!rc)
		rc = watch_signals(&r, e);
	if (!rc) {
		if (r.out != STDOUT_FILENO && ftruncate(r.out, 0) < 0) {
			/* Not a regular file. */
		}
		r.deadline = w->duration == NS_NEVER ? NS_NEVER : clock_ns() + w->duration;
		rc = relay(&r, w, c->name, e);
		if (!rc)
			tell(&r, c->name, json);
	}
	if (r.out >= 0 && r.out != STDOUT_FILENO && close(r.out) < 0 && !rc)
		rc = err_set(e, -errno, "cannot write to %s: %s", w->file, strerror(errno));
	if (r.sock >= 0)
		close(r.sock);
	if (r.sig >= 0)
		close(r.sig);
	sigprocmask(SIG_SETMASK, &before, NULL);
	free(r.buf);
	return rc;
}

static int capture_fn(int argc, char **argv)
{
	struct vm_client c = { .fd = -1 };
	struct wishes w;
	struct vm_args a;
	struct err e = { 0 };
	int rc = vm_args_parse(&cmd_capture, argc, argv, false, &a, &e);

	if (rc == VM_DONE)
		return CLI_OK;
	if (rc || (a.name && rundir_name_check(a.name, &e)) || parse_wishes(&a, &w, &e))
		return cli_fail(&cmd_capture, CLI_USAGE, &e);
	rc = client_open(&c, a.run_dir, a.name, &e);
	if (!rc)
		rc = capture(&c, &w, a.json, &e);
	return vm_end(&cmd_capture, &c, rc, &e);
}

const struct cli_cmd cmd_capture = {
	.name = "capture",
	.args = "[NAME] -w FILE",
	.summary = "write what passes at points of the proxy into a file",
	.more = "The file is pcapng: tshark, tcpdump and wireshark read it. Ctrl-C ends the capture.\n"
		"\n"
		"Points, on this node:\n"
		"  client     frames from the external network\n"
		"  pvm        frames of the copy that serves\n"
		"  svm        frames of the copy that stands by, as far as this node sees them\n"
		"  released   frames that were let out to the external network\n",
	.opts = opts,
	.fn = capture_fn,
};
