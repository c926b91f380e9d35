/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * compare-load - a cheap client that asks a guest and counts; bench/compare runs it in the client's namespace
 *
 * On two cores that emulate one or two guests a client in a scripting language would be what is measured. All
 * systems get the same one. It checks each answer, and prints one JSON object. Exit status 0 also when the guest
 * failed: the object's "error" says so.
 */

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "load.h"

volatile int load_stop, load_mark;

double load_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

int load_fail(struct load_result *r, const char *fmt, ...)
{
	va_list ap;

	if (!r->error[0]) {
		va_start(ap, fmt);
		vsnprintf(r->error, sizeof(r->error), fmt, ap);
		va_end(ap);
	}
	return -1;
}

void load_sample(struct load_result *r, double seconds)
{
	if (r->count < LOAD_SAMPLES_MAX)
		r->samples[r->count++] = seconds;
	else
		r->dropped++;
}

bool load_counts(const struct load_options *o, double begun, double now)
{
	return now >= begun + o->warm && now < begun + o->warm + o->seconds;
}

bool load_over(const struct load_options *o, double begun, double now)
{
	return load_stop || now >= begun + o->warm + o->seconds;
}

int load_wait(int fd, short events, double seconds)
{
	struct pollfd p = { .fd = fd, .events = events };
	struct timespec t;

	if (seconds < 0)
		seconds = 0;
	t.tv_sec = (time_t)seconds;
	t.tv_nsec = (long)((seconds - (double)t.tv_sec) * 1e9);
	return ppoll(&p, 1, &t, NULL) == 1;
}

int load_connect(const struct load_options *o, struct load_result *r, int type, int port)
{
	struct sockaddr_in6 six = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
	struct sockaddr_in four = { .sin_family = AF_INET, .sin_port = htons(port) };
	bool v6 = strchr(o->host, ':') != NULL;
	int on = 1, error = 0, fd;
	socklen_t len = sizeof(error);

	if (inet_pton(v6 ? AF_INET6 : AF_INET, o->host, v6 ? (void *)&six.sin6_addr : &four.sin_addr) != 1)
		return load_fail(r, "%s is no address", o->host);
	fd = socket(v6 ? AF_INET6 : AF_INET, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return load_fail(r, "socket: %s", strerror(errno));
	if (type == SOCK_STREAM)
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	if (connect(fd, v6 ? (struct sockaddr *)&six : (struct sockaddr *)&four, v6 ? sizeof(six) : sizeof(four))) {
		if (errno == EINPROGRESS) {
			double end = load_now() + o->patience;

			while (!load_wait(fd, POLLOUT, end - load_now()) && load_now() < end && !load_stop)
				;
			error = ETIMEDOUT;
			if (load_wait(fd, POLLOUT, 0))
				getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len);
		} else {
			error = errno;
		}
	}
	if (!error)
		return fd;
	close(fd);
	return load_fail(r, "connect: %s", strerror(error));
}

size_t load_words(char *buf, uint64_t n)
{
	static const char fill[] = "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz";

	return (size_t)snprintf(buf, LOAD_TEXT + 8, "echo %010llu %.*s\n", (unsigned long long)n, LOAD_TEXT - 12, fill);
}

static int by_size(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* The value that p percent of the samples do not exceed, in ms. */
static double percentile(const struct load_result *r, double p)
{
	unsigned int i = (unsigned int)(r->count * p / 100);

	return r->samples[i < r->count ? i : r->count - 1] * 1000;
}

static void print_string(const char *s)
{
	putchar('"');
	for (; *s; s++)
		putchar(*s == '"' || *s == '\\' || (unsigned char)*s < ' ' || (unsigned char)*s > '~' ? '?' : *s);
	putchar('"');
}

static void print(const struct load_options *o, const char *mode, struct load_result *r)
{
	static const struct {
		const char *name;
		double p;
	} what[] = { { "p50_ms", 50 }, { "p90_ms", 90 }, { "p99_ms", 99 }, { "max_ms", 100 } };
	size_t i;

	qsort(r->samples, r->count, sizeof(*r->samples), by_size);
	printf("{\"mode\": \"%s\", \"count\": %u, \"answers\": %lu, \"lost\": %lu, \"seconds\": %.3f, \"gap_ms\": %.3f",
	       mode, r->count, r->answers, r->lost, r->seconds, r->gap * 1000);
	printf(", \"rate\": %.3f", r->seconds > 0 ? ((double)r->count + r->dropped) / r->seconds : 0);
	for (i = 0; i < sizeof(what) / sizeof(what[0]); i++) {
		if (r->count)
			printf(", \"%s\": %.4f", what[i].name, percentile(r, what[i].p));
		else
			printf(", \"%s\": null", what[i].name);
	}
	if (!strcmp(mode, "download") || !strcmp(mode, "upload")) {
		double rate = r->count ? (double)o->size / percentile(r, 50) / 1000 : r->partial / 1e6;

		printf(", \"mb_per_s\": %.3f, \"partial\": %s", rate, r->count || !r->partial ? "false" : "true");
	}
	printf(", \"error\": ");
	if (r->error[0])
		print_string(r->error);
	else
		printf("null");
	printf("}\n");
}

static void on_signal(int sig)
{
	if (sig == SIGUSR1)
		load_mark = 1;
	else
		load_stop = 1;
}

static double number(const char *word, double low, double high)
{
	char *end;
	double v = strtod(word, &end);

	if (!*word || *end || !(v >= low && v <= high)) {
		fprintf(stderr, "compare-load: %s is not a number from %g to %g\n", word, low, high);
		exit(2);
	}
	return v;
}

static int run(const struct load_options *o, const char *mode, struct load_result *r)
{
	if (!strcmp(mode, "echo"))
		return load_ask(o, LOAD_ECHO, r);
	if (!strcmp(mode, "incr"))
		return load_ask(o, LOAD_INCR, r);
	if (!strcmp(mode, "random"))
		return load_ask(o, LOAD_RANDOM, r);
	if (!strcmp(mode, "new"))
		return load_new(o, r);
	if (!strcmp(mode, "udp"))
		return load_udp(o, r);
	if (!strcmp(mode, "download"))
		return load_download(o, r);
	if (!strcmp(mode, "upload"))
		return load_upload(o, r);
	fprintf(stderr, "compare-load: there is no mode %s\n", mode);
	exit(2);
}

static const char usage[] =
	"usage: compare-load MODE [OPTION...]\n"
	"  echo, incr, random   questions of a connection, one at a time; --conns of them; --interval apart\n"
	"  new                  a connection for each question\n"
	"  udp                  datagrams, one at a time\n"
	"  download, upload     transfers of --size bytes, one after the other, each by a connection of its own\n"
	"  --host A --seconds S --warm S --patience S --conns N --interval MS --size BYTES\n";

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "host", required_argument, NULL, 'h' }, { "seconds", required_argument, NULL, 's' },
		{ "warm", required_argument, NULL, 'w' }, { "patience", required_argument, NULL, 'p' },
		{ "conns", required_argument, NULL, 'n' }, { "interval", required_argument, NULL, 'i' },
		{ "size", required_argument, NULL, 'z' }, { NULL, 0, NULL, 0 },
	};
	struct load_options o = {
		.host = "192.0.2.10", .seconds = 4, .warm = 0.5, .patience = 10, .conns = 1, .size = 10000000,
	};
	struct load_result r = { 0 };
	struct sigaction act = { .sa_handler = on_signal };	/* without SA_RESTART: waits end */
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case 'h': o.host = optarg; break;
		case 's': o.seconds = number(optarg, 0.01, 86400); break;
		case 'w': o.warm = number(optarg, 0, 86400); break;
		case 'p': o.patience = number(optarg, 0.1, 86400); break;
		case 'n': o.conns = (unsigned int)number(optarg, 1, LOAD_CONNS_MAX); break;
		case 'i': o.interval = number(optarg, 0, 1e6) / 1000; break;
		case 'z': o.size = (size_t)number(optarg, 1, 1u << 30); break;
		default:
			fputs(usage, stderr);
			return 2;
		}
	}
	if (optind != argc - 1) {
		fputs(usage, stderr);
		return 2;
	}
	sigaction(SIGTERM, &act, NULL);
	sigaction(SIGINT, &act, NULL);
	sigaction(SIGUSR1, &act, NULL);
	signal(SIGPIPE, SIG_IGN);
	r.samples = malloc(LOAD_SAMPLES_MAX * sizeof(*r.samples));
	if (!r.samples) {
		fprintf(stderr, "compare-load: no memory\n");
		return 1;
	}
	if (!run(&o, argv[optind], &r) && !r.answers)
		load_fail(&r, "no answer in %g s", o.warm + o.seconds);
	print(&o, argv[optind], &r);
	free(r.samples);
	return 0;
}
