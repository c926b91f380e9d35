/* SPDX-License-Identifier: BSD-2-Clause */
/* lockstep nbd: serve one disk image to NBD clients, by the server that a node's QEMU is served by. */
#include <ctype.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/log.h"
#include "base/loop.h"
#include "cli/cli.h"
#include "disk/nbd_server.h"
#include "disk/store.h"

#define NBD_PORT	10809
#define GOODBYE		(2 * NS_PER_S)	/* for requests under way when it is to end */
#define GLANCE		(NS_PER_S / 100)

enum { OPT_FORMAT = 1, OPT_SOCKET, OPT_LISTEN, OPT_EXPORT, OPT_READ_ONLY, OPT_TLS_DIR, OPT_PSK_FILE };

static const struct cli_opt opts[] = {
	{ "format", OPT_FORMAT, "FORMAT", "of the image: raw, qcow2, ... (default raw; it is never guessed)" },
	{ "socket", OPT_SOCKET, "PATH", "listen at a unix socket" },
	{ "listen", OPT_LISTEN, "ADDR[:PORT]", "listen at an address (port 10809; 0: any)" },
	{ "export", OPT_EXPORT, "NAME", "what clients call the image (default: nothing)" },
	{ "read-only", OPT_READ_ONLY, NULL, "clients cannot write" },
	{ "tls-dir", OPT_TLS_DIR, "DIR", "TLS with ca-cert.pem, server-cert.pem, server-key.pem there" },
	{ "psk-file", OPT_PSK_FILE, "FILE", "TLS with the keys in FILE, as psktool writes them" },
	{ NULL },
};

struct wishes {
	struct nbd_listen where;
	struct nbd_export export;
	const char *format, *image;
	char host[64];
};

struct serving {
	struct loop *loop;
	struct nbd_server *server;
	struct store *store;
	struct loop_fd signals;
	struct loop_timer glance;
	const char *export;
	char dir[64];		/* for the sockets of a qemu-storage-daemon; "": none made */
	nstime end_by;		/* 0: it goes on */
	bool failed;
};

/* ADDR, ADDR:PORT, [ADDR6]:PORT or a bare IPv6 address */
static int parse_listen(const char *text, struct wishes *w, struct err *e)
{
	const char *port = NULL, *end = text + strlen(text);
	uint64_t v = NBD_PORT;

	if (*text == '[') {
		end = strchr(++text, ']');
		if (!end || (end[1] && end[1] != ':'))
			return err_set(e, -EINVAL, "--listen: '%.60s' is not [ADDRESS] or [ADDRESS]:PORT", text - 1);
		port = end[1] ? end + 2 : NULL;
	} else if (strchr(text, ':') && strchr(text, ':') == strrchr(text, ':')) {
		end = strchr(text, ':');
		port = end + 1;
	}
	if (port && cli_number("--listen", port, "port", 0, UINT16_MAX, &v, NULL))
		return err_set(e, -EINVAL, "--listen: '%.40s' is no port from 0 to %d", port, UINT16_MAX);
	if (end == text || (size_t)(end - text) >= sizeof(w->host))
		return err_set(e, -EINVAL, "--listen: '%.60s' is not ADDRESS or ADDRESS:PORT", text);
	memcpy(w->host, text, (size_t)(end - text));
	w->where.host = w->host;
	w->where.port = (uint16_t)v;
	return 0;
}

/* Return: an exit status, or -1: go on */
static int parse(int argc, char **argv, struct wishes *w)
{
	struct cli_args a = { .cmd = &cmd_nbd, .argc = argc, .argv = argv };
	struct err e;
	int id, rc = 0;

	*w = (struct wishes){ .format = "raw", .export.name = "" };
	while (!rc && (id = cli_next(&a, &e)) != 0) {
		if (id == CLI_HELP) {
			cli_help(&cmd_nbd, stdout);
			return CLI_OK;
		}
		if (id == OPT_FORMAT)
			w->format = a.arg;
		else if (id == OPT_SOCKET)
			w->where.unix_path = a.arg;
		else if (id == OPT_LISTEN)
			rc = parse_listen(a.arg, w, &e);
		else if (id == OPT_EXPORT)
			w->export.name = a.arg;
		else if (id == OPT_READ_ONLY)
			w->export.readonly = true;
		else if (id == OPT_TLS_DIR)
			w->where.tls_dir = a.arg;
		else if (id == OPT_PSK_FILE)
			w->where.psk_file = a.arg;
		else
			rc = id;
	}
	if (!rc && a.rest + 1 != argc)
		rc = a.rest == argc ? err_set(&e, -EINVAL, "which image?") :
				      err_set(&e, -EINVAL, "one image at a time, options before it: '%.60s' is too much",
					      argv[a.rest + 1]);
	if (!rc && !w->where.unix_path == !w->where.host)
		rc = err_set(&e, -EINVAL, "either --socket PATH or --listen ADDR[:PORT] says where clients come to");
	if (!rc && w->where.tls_dir && w->where.psk_file)
		rc = err_set(&e, -EINVAL, "--tls-dir and --psk-file exclude each other");
	if (rc)
		return cli_fail(&cmd_nbd, CLI_USAGE, &e);
	w->image = argv[a.rest];
	return -1;
}

/* Requests that are under way are answered before the end; who does not take the answers is not waited for. */
static void glance(struct loop_timer *t)
{
	struct serving *v = t->arg;
	struct nbd_stats st;

	nbd_server_stats(v->server, &st);
	if (!st.open || loop_now(v->loop) >= v->end_by)
		loop_stop(v->loop);
	else
		loop_timer_set(v->loop, t, loop_now(v->loop) + GLANCE);
}

static void on_signal(struct loop_fd *w, uint32_t events)
{
	struct serving *v = w->arg;
	struct signalfd_siginfo si;

	(void)events;
	if (read(w->fd, &si, sizeof(si)) != sizeof(si))
		return;
	if (v->end_by) {
		loop_stop(v->loop);
		return;
	}
	v->end_by = loop_now(v->loop) + GOODBYE;
	nbd_server_unexport(v->server, v->export);
	loop_timer_set(v->loop, &v->glance, loop_now(v->loop));
}

static void on_failure(void *arg, const char *sentence)
{
	struct serving *v = arg;

	log_error("%s", sentence);
	v->failed = true;
	loop_stop(v->loop);
}

static int watch_signals(struct serving *v, struct err *e)
{
	sigset_t set;

	/* Before there are threads, which inherit it. */
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	v->signals = (struct loop_fd){ .fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK), .fn = on_signal, .arg = v };
	if (v->signals.fd < 0 || loop_fd_add(v->loop, &v->signals, EPOLLIN) < 0)
		return err_set(e, -errno, "cannot watch for signals: %s", strerror(errno));
	return 0;
}

static int open_store(struct serving *v, const struct wishes *w, struct err *e)
{
	struct store_cfg cfg = { .loop = v->loop, .path = w->image, .format = w->format,
				 .readonly = w->export.readonly, .failed = on_failure, .arg = v };

	if (strcmp(w->format, "raw")) {
		const char *tmp = getenv("TMPDIR");
		char dir[sizeof(v->dir)];

		if ((size_t)snprintf(dir, sizeof(dir), "%s/lockstep-nbd-XXXXXX", tmp && *tmp ? tmp : "/tmp") >= sizeof(dir))
			return err_set(e, -ENAMETOOLONG, "TMPDIR is too long a name for sockets: %.100s", tmp);
		if (!mkdtemp(dir))
			return err_set(e, -errno, "%s cannot be made: %s", dir, strerror(errno));
		strcpy(v->dir, dir);
		cfg.dir = v->dir;
	}
	v->store = store_open(&cfg, e);
	return v->store ? 0 : -1;
}

/* Clients take this as it is, and it is a sign that they may come. */
static void print_uri(const struct serving *v, const struct wishes *w, int id)
{
	bool tls = w->where.tls_dir || w->where.psk_file;
	const char *text[] = { w->export.name, w->where.unix_path };

	printf("nbd%s%s://", tls ? "s" : "", w->where.host ? "" : "+unix");
	if (w->where.host)
		printf(strchr(w->host, ':') ? "[%s]:%u" : "%s:%u", w->host, nbd_server_port(v->server, id));
	for (int i = 0; i < 2 && text[i]; i++) {
		printf("%s", i ? "?socket=" : "/");
		for (const char *p = text[i]; *p; p++)
			printf(isalnum((unsigned char)*p) || strchr("-._~/", *p) ? "%c" : "%%%02X", (unsigned char)*p);
	}
	printf("\n");
	fflush(stdout);
}

static int serve(struct serving *v, struct wishes *w, struct err *e)
{
	int rc, id;

	v->loop = loop_new("disk", e);
	if (!v->loop)
		return -1;
	v->glance = (struct loop_timer){ .fn = glance, .arg = v };
	v->export = w->export.name;
	rc = watch_signals(v, e);
	if (rc)
		return rc;
	v->server = nbd_server_new(v->loop, e);
	if (!v->server)
		return -1;
	id = nbd_server_listen(v->server, &w->where, e);
	if (id < 0)
		return id;
	rc = open_store(v, w, e);
	if (rc)
		return rc;
	w->export.description = w->image;
	w->export.blk = store_blk(v->store);
	rc = nbd_server_export(v->server, &w->export, e);
	if (rc)
		return rc;
	print_uri(v, w, id);
	rc = loop_run(v->loop);
	return rc ? err_set(e, rc, "the loop has failed: %s", strerror(-rc)) : 0;
}

static int nbd_fn(int argc, char **argv)
{
	struct serving v = { .signals.fd = -1 };
	struct wishes w;
	struct err e;
	int rc = parse(argc, argv, &w);

	if (rc >= 0)
		return rc;
	log_init("nbd", LOG_NOTE);
	rc = serve(&v, &w, &e);
	/* What is still with the store is answered by its end, so it comes before the server's. */
	store_close(v.store);
	nbd_server_free(v.server);
	if (v.signals.fd >= 0)
		close(v.signals.fd);
	loop_free(v.loop);
	if (*v.dir)
		rmdir(v.dir);
	if (rc)
		return cli_fail(&cmd_nbd, CLI_FAILED, &e);
	return v.failed ? CLI_FAILED : CLI_OK;
}

const struct cli_cmd cmd_nbd = {
	.name = "nbd",
	.args = "IMAGE",
	.summary = "serve a disk image to NBD clients",
	.more = "Until SIGTERM or Ctrl-C. The URI at which clients find it is printed when they may come.\n"
		"Without TLS only loopback addresses are listened at.\n",
	.opts = opts,
	.fn = nbd_fn,
};
