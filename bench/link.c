/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What TLS costs on the link: one connection over loopback, in the clear and by a key, in turns within one run. Bulk
 * messages of 1 MiB one way (MB/s, and CPU of both ends together), and a small message there and back.
 *
 *	build/bench/link [--quick] [--mb N] [--rounds N]
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/loop.h"
#include "base/tls.h"
#include "link/conn.h"

#define PIECE	WIRE_MAX_DEVPIECE
#define MAX_ROUNDS	25
#define PINGS	2000

struct end {
	struct loop *l;
	pthread_t thread;
	struct stream *s;
	struct conn *c;
	enum wire_channel channel;
	bool echoes;		/* sends back what comes */
	uint64_t to_go, got;	/* messages */
	uint64_t want;
	sem_t done;
};

static uint8_t data[PIECE];

static void die(const char *what)
{
	fprintf(stderr, "bench/link: %s\n", what);
	exit(1);
}

static void say(struct end *x)
{
	struct wire_head h = { .type = x->channel == WIRE_BULK ? WIRE_DEVSTATE : WIRE_CTL };
	struct iovec v = { data, x->channel == WIRE_BULK ? PIECE : 20 };

	while (x->to_go && !conn_send(x->c, &h, &v, 1, false))
		x->to_go--;
	if (x->channel == WIRE_CONTROL)
		conn_flush(x->c);
}

static int on_message(void *arg, const struct wire_head *h, const uint8_t *payload, struct err *e)
{
	struct end *x = arg;

	(void)h;
	(void)payload;
	(void)e;
	if (++x->got == x->want)
		sem_post(&x->done);
	else if (x->echoes)
		x->to_go++;
	say(x);
	return 0;
}

static void on_writable(void *arg)
{
	say(arg);
}

static void on_closed(void *arg, enum conn_why why, const char *sentence)
{
	(void)arg;
	(void)why;
	(void)sentence;
}

static void begin(void *arg, const void *unused, size_t len)
{
	struct end *x = arg;
	struct conn_cfg cfg = { .channel = x->channel, .message = on_message, .writable = on_writable, .closed = on_closed,
				.arg = x };
	struct err e = { 0 };

	(void)unused;
	(void)len;
	x->c = conn_new(x->l, x->s, &cfg, &e);
	if (!x->c)
		die(e.msg);
	say(x);
}

static void end(void *arg, const void *unused, size_t len)
{
	struct end *x = arg;

	(void)unused;
	(void)len;
	conn_free(x->c);
	loop_stop(x->l);
}

static void *run(void *arg)
{
	loop_run(((struct end *)arg)->l);
	return NULL;
}

static void tcp_pair(int fd[2])
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(a);
	int s = socket(AF_INET, SOCK_STREAM, 0);

	if (s < 0 || bind(s, (struct sockaddr *)&a, len) || listen(s, 1) || getsockname(s, (struct sockaddr *)&a, &len))
		die("no loopback");
	fd[0] = socket(AF_INET, SOCK_STREAM, 0);
	if (connect(fd[0], (struct sockaddr *)&a, len))
		die("no connection");
	fd[1] = accept(s, NULL, NULL);
	close(s);
	stream_tcp_tune(fd[0], 10 * NS_PER_S);
	stream_tcp_tune(fd[1], 10 * NS_PER_S);
}

static void streams(struct end x[2], struct tls *t)
{
	int fd[2], rc[2] = { 1, 1 };

	tcp_pair(fd);
	for (int i = 0; i < 2; i++) {
		x[i].s = t ? stream_tls(fd[i], t, i, NULL) : stream_tcp(fd[i]);
		if (!x[i].s)
			die("no memory");
	}
	while (t && (rc[0] || rc[1]))
		for (int i = 0; i < 2; i++)
			if (rc[i] && (rc[i] = x[i].s->ops->handshake(x[i].s)) && rc[i] != -EAGAIN)
				die(x[i].s->ops->why(x[i].s));
}

static double cpu(void)
{
	struct rusage r;

	getrusage(RUSAGE_SELF, &r);
	return (double)(r.ru_utime.tv_sec + r.ru_stime.tv_sec) + (double)(r.ru_utime.tv_usec + r.ru_stime.tv_usec) / 1e6;
}

/* Return: seconds. @bulk: messages of a MiB one way, else small ones there and back */
static double once(struct tls *t, bool bulk, uint64_t n, double *used)
{
	struct end x[2] = { { .to_go = bulk ? n : 1, .want = bulk ? 0 : n, .echoes = !bulk },
			    { .want = bulk ? n : 0, .echoes = !bulk } };
	struct err e = { 0 };
	double before;
	nstime t0;

	streams(x, t);
	for (int i = 0; i < 2; i++) {
		x[i].channel = bulk ? WIRE_BULK : WIRE_CONTROL;
		x[i].l = loop_new("bench", &e);
		sem_init(&x[i].done, 0, 0);
		if (!x[i].l || pthread_create(&x[i].thread, NULL, run, &x[i]))
			die("no thread");
	}
	before = cpu();
	t0 = clock_ns();
	for (int i = 1; i >= 0; i--)
		loop_post(x[i].l, begin, &x[i], NULL, 0);
	while (sem_wait(&x[bulk].done))
		;
	t0 = clock_ns() - t0;
	*used = cpu() - before;
	for (int i = 0; i < 2; i++) {
		loop_post(x[i].l, end, &x[i], NULL, 0);
		pthread_join(x[i].thread, NULL);
		loop_free(x[i].l);
		sem_destroy(&x[i].done);
	}
	return (double)t0 / 1e9;
}

static struct tls *make_key(void)
{
	char dir[] = "/tmp/lockstep-bench-XXXXXX", path[64];
	struct tls_cfg cfg = { .role = TLS_BOTH, .psk_file = path, .psk_user = TLS_DEF_USER };
	struct err e = { 0 };
	struct tls *t;
	FILE *f;

	if (!mkdtemp(dir))
		die("no temporary directory");
	snprintf(path, sizeof(path), "%s/keys.psk", dir);
	f = fopen(path, "w");
	if (!f)
		die("no temporary file");
	fprintf(f, "%s:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n", TLS_DEF_USER);
	fchmod(fileno(f), 0600);
	fclose(f);
	t = tls_new(&cfg, &e);
	unlink(path);
	rmdir(dir);
	if (!t)
		die(e.msg);
	return t;
}

static int by_value(const void *a, const void *b)
{
	const double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(double *v, int n)
{
	qsort(v, (size_t)n, sizeof(*v), by_value);
	return v[n / 2];
}

int main(int argc, char **argv)
{
	static double rate[2][MAX_ROUNDS], burnt[2][MAX_ROUNDS], trip[2][MAX_ROUNDS];
	int rounds = 9, mb = 1000;
	struct tls *key;

	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--quick"))
			rounds = 1, mb = 50;
		else if (!strcmp(argv[i], "--mb") && i + 1 < argc)
			mb = atoi(argv[++i]);
		else if (!strcmp(argv[i], "--rounds") && i + 1 < argc)
			rounds = atoi(argv[++i]);
		else
			die("[--quick] [--mb N] [--rounds N]");
	}
	if (mb < 1 || rounds < 1 || rounds > MAX_ROUNDS)
		die("--mb from 1, --rounds from 1 to 25");
	log_init("bench", LOG_WARN);
	memset(data, 0x5a, sizeof(data));
	key = make_key();
	for (int r = 0; r < rounds; r++) {
		for (int k = 0; k < 2; k++) {
			double used, s = once(k ? key : NULL, true, (uint64_t)mb, &used);

			rate[k][r] = mb * 1.048576 / s;
			burnt[k][r] = used / (mb * 1.048576) * 1000;
			trip[k][r] = once(k ? key : NULL, false, PINGS, &used) / PINGS * 1e6;
		}
	}
	printf("%-10s %12s %22s %18s\n", "", "bulk, MB/s", "CPU, s for a GB", "there and back, us");
	for (int k = 0; k < 2; k++)
		printf("%-10s %12.0f %22.2f %18.1f\n", k ? "TLS" : "plain", median(rate[k], rounds), median(burnt[k], rounds),
		       median(trip[k], rounds));
	tls_free(key);
	return 0;
}
