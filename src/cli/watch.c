/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Watching a VM. One connection, on which the node tells its events; each of them, and twice a second the clock, is an
 * occasion to ask for the status. Without a node the same screen says so, and every half second it is tried again: whoever
 * watches a failover does not want to start anew.
 *
 * Nothing but a few ANSI sequences is used: home, erase to the end of a line, erase to the end of the screen. A screen that
 * is written over, and erased only where it ends, does not flicker. Lines that are too long or too many are cut.
 */
#include "cli/watch.h"

#include <errno.h>
#include <json-c/json.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "cli/vm_args.h"
#include "monitor/status.h"

#define WATCH_EVERY	(500 * NS_PER_MS)	/* between two looks */
#define WATCH_ANSWER	(2 * NS_PER_S)		/* a node that does not answer for so long is shown as one */
#define WATCH_LEAST	(100 * NS_PER_MS)	/* also when events come faster */

static volatile sig_atomic_t ended;

static void on_signal(int sig)
{
	if (sig != SIGWINCH)
		ended = sig;
}

struct watch {
	struct vm_client c;
	const char *dir;
	char name[RUNDIR_NAME_MAX + 1];	/* empty: the only one that runs */
	bool open, json, screen, keys;
	struct termios before;
	char *last;			/* the line that was printed last, without its time */
};

static void terminal_begin(struct watch *w)
{
	struct termios raw;

	w->screen = !w->json && isatty(STDOUT_FILENO) == 1;
	w->keys = isatty(STDIN_FILENO) == 1 && !tcgetattr(STDIN_FILENO, &w->before);
	if (w->keys) {
		raw = w->before;
		raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
		raw.c_cc[VMIN] = 0;
		raw.c_cc[VTIME] = 0;
		tcsetattr(STDIN_FILENO, TCSANOW, &raw);
	}
	if (w->screen)
		fputs("\033[H\033[2J", stdout);
}

static void terminal_end(struct watch *w)
{
	if (w->keys)
		tcsetattr(STDIN_FILENO, TCSANOW, &w->before);
}

static const char *time_text(char b[32])
{
	time_t t = time(NULL);
	struct tm tm;

	gmtime_r(&t, &tm);
	strftime(b, 32, "%Y-%m-%dT%H:%M:%SZ", &tm);
	return b;
}

/* Length of the first @columns characters of UTF-8 text. */
static size_t clip(const char *s, size_t len, size_t columns)
{
	size_t i = 0, seen = 0;

	for (; i < len; i++)
		if (((unsigned char)s[i] & 0xc0) != 0x80 && seen++ == columns)
			break;
	return i;
}

static void draw(const char *text)
{
	struct winsize ws = { 0 };
	size_t rows = 24, columns = 80;
	char t[32];

	if (!ioctl(STDOUT_FILENO, TIOCGWINSZ, &ws) && ws.ws_row && ws.ws_col) {
		rows = ws.ws_row;
		columns = ws.ws_col;
	}
	fputs("\033[H", stdout);
	while (*text && rows > 2) {
		size_t n = strcspn(text, "\n");

		printf("%.*s\033[K\n", (int)clip(text, n, columns), text);
		text += n + (text[n] == '\n');
		rows--;
	}
	printf("\033[K\n%.*s\033[K\033[J", (int)columns, "");
	if (columns > 40)
		printf("%s  (q ends)", time_text(t));
	fflush(stdout);
}

static const char *str_of(struct json_object *o, const char *key)
{
	struct json_object *v;

	return json_object_object_get_ex(o, key, &v) && json_object_is_type(v, json_type_string) ?
	       json_object_get_string(v) : "";
}

/* What makes a line worth printing: none of the figures that always move, and progress by tens of percent. */
static void describe(struct json_object *o, FILE *f)
{
	struct json_object *why, *sync, *part, *p;
	const char *sep = ": ";

	fprintf(f, "%s: %s (%s, state %s)", str_of(o, "name"), str_of(o, "condition"), str_of(o, "role"), str_of(o, "state"));
	if (json_object_object_get_ex(o, "sync", &sync) && json_object_is_type(sync, json_type_object)) {
		const char *phase = str_of(sync, "phase");

		part = json_object_object_get(sync, strcmp(phase, "disks") ? "memory" : "disks");
		p = part ? json_object_object_get(part, "percent") : NULL;
		fprintf(f, "%s%s %d %%", sep, phase, p ? (int)json_object_get_double(p) / 10 * 10 : 0);
		sep = ", ";
	}
	if (!json_object_object_get_ex(o, "condition_why", &why) || !json_object_is_type(why, json_type_array))
		return;
	for (size_t i = 0; i < json_object_array_length(why); i++) {
		const char *s = json_object_get_string(json_object_array_get_idx(why, i));

		fprintf(f, "%s%s", sep, s ? s : "");
		sep = ", ";
	}
}

/* @o: the status; NULL: there is none, and @none says why */
static void show(struct watch *w, struct json_object *o, const char *none)
{
	char *text = NULL, t[32];
	size_t n;
	FILE *f = open_memstream(&text, &n);

	if (!f)
		return;
	if (w->screen && o)
		status_text(o, f);
	else if (o)
		describe(o, f);
	else
		fprintf(f, "%s%s%s", w->name, *w->name ? ": " : "", none);
	fclose(f);
	for (char *p = text; *p; p++)
		if (((unsigned char)*p < 0x20 && *p != '\n') || *p == 0x7f)
			*p = '?';
	if (w->screen) {
		draw(text);
		free(text);
		return;
	}
	if (w->last && !strcmp(w->last, text)) {
		free(text);
		return;
	}
	free(w->last);
	w->last = text;
	if (w->json) {
		struct json_object *line = o ? json_object_get(o) : json_object_new_object();

		if (!o && line) {
			json_object_object_add(line, "name", *w->name ? json_object_new_string(w->name) : NULL);
			json_object_object_add(line, "condition", NULL);
			json_object_object_add(line, "error", json_object_new_string(none));
		}
		vm_print_json(line);
		json_object_put(line);
	} else {
		printf("%s %s\n", time_text(t), text);
	}
	fflush(stdout);
}

/* Ask, connecting first where that is needed. */
static void look(struct watch *w)
{
	struct json_object *o = NULL;
	struct err e = { 0 };
	int rc = 0;

	if (!w->open) {
		rc = client_open(&w->c, w->dir, *w->name ? w->name : NULL, &e);
		if (!rc) {
			w->open = true;
			snprintf(w->name, sizeof(w->name), "%s", w->c.name);
			rc = client_call(&w->c, "__lockstep_events", NULL, WATCH_ANSWER, NULL, &e);
		}
	}
	if (!rc)
		rc = client_call(&w->c, "__lockstep_status", NULL, WATCH_ANSWER, &o, &e);
	if (!ended)
		show(w, o, e.msg);
	json_object_put(o);
	if (rc) {
		client_close(&w->c);
		w->open = false;
	}
}

/* Wait for an event, for a key, or for the time. Return: false when the user has seen enough */
static bool pause_until(struct watch *w, nstime least, nstime until)
{
	const char *line;
	struct err e;
	char key;

	while (!ended) {
		struct pollfd p[2] = { { .fd = w->keys ? STDIN_FILENO : -1, .events = POLLIN },
				       { .fd = w->open ? w->c.fd : -1, .events = POLLIN } };
		nstime now = clock_ns();
		int rc;

		if (now >= until)
			return true;
		rc = poll(p, 2, (int)((until - now) / NS_PER_MS) + 1);
		if (rc < 0)
			return errno == EINTR && !ended;	/* the size of the screen has changed */
		if (p[0].revents) {
			ssize_t n = read(STDIN_FILENO, &key, 1);

			if (n == 1 && (key == 'q' || key == 'Q'))
				return false;
			if (n <= 0)
				w->keys = false;
		}
		if (!p[1].revents)
			continue;
		while (w->open) {
			rc = client_line(&w->c, NS_PER_MS, &line, &e);
			if (rc > 0)
				continue;
			if (rc != -ETIMEDOUT) {
				client_close(&w->c);
				w->open = false;
			}
			break;
		}
		until = least < until ? least : until;
	}
	return false;
}

int watch_status(const char *dir, const char *name, bool json)
{
	static const int sigs[] = { SIGINT, SIGTERM, SIGHUP, SIGWINCH };
	struct watch w = { .c = { .fd = -1 }, .dir = dir, .json = json };
	struct sigaction sa = { .sa_handler = on_signal };
	nstime begun;

	snprintf(w.name, sizeof(w.name), "%s", name ? name : "");
	sigemptyset(&sa.sa_mask);
	for (size_t i = 0; i < sizeof(sigs) / sizeof(*sigs); i++)
		sigaction(sigs[i], &sa, NULL);
	terminal_begin(&w);
	do {
		begun = clock_ns();
		look(&w);
	} while (!ended && pause_until(&w, begun + WATCH_LEAST, begun + WATCH_EVERY));
	terminal_end(&w);
	if (w.screen)
		putchar('\n');
	if (w.open)
		client_close(&w.c);
	free(w.last);
	return CLI_OK;
}
