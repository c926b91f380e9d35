/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * fiostart.c - fio in the test guest
 *
 * The kernel starts this in place of init (rdinit=/fiostart), and it becomes init, with a child beside it: so the guest has
 * all that it always has, and init needs to know nothing. The child serves TCP port 7100, one connection after the other:
 * a line are fio's arguments, divided by blanks, the answer is what fio prints as JSON, and then the connection ends.
 * fio runs once at a time. Nothing is answered before fio ends, so that the network does not disturb what it measures.
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
	PORT = 7100,
	LINE_MAX_LEN = 2048,
	WORDS_MAX = 64,
	POLL_MS = 20,
};

#define FIO	"/usr/bin/fio"
#define RESULT	"/tmp/fio.json"

static void fail(const char *what)
{
	printf("lockstep-guest: error: fiostart: %s: %s\n", what, strerror(errno));
	fflush(stdout);
	_exit(1);
}

static void nap(void)
{
	struct timespec ts = { .tv_nsec = POLL_MS * 1000000L };

	nanosleep(&ts, NULL);
}

/* Runs fio with the words of the line. Return: its status as wait() has it, -1: it could not be started */
static int run_fio(char *line)
{
	char *words[WORDS_MAX + 4], *save = NULL, *w;
	int n = 0, status;
	pid_t pid;

	words[n++] = FIO;
	for (w = strtok_r(line, " \r\n", &save); w && n < WORDS_MAX; w = strtok_r(NULL, " \r\n", &save))
		words[n++] = w;
	words[n++] = "--eta=never";
	words[n++] = "--output-format=json";
	words[n++] = "--output=" RESULT;
	words[n] = NULL;
	unlink(RESULT);
	pid = fork();
	if (!pid) {
		execv(FIO, words);
		_exit(127);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return -1;
	return status;
}

static void answer(FILE *f, char *line)
{
	int status = run_fio(line);
	FILE *result;
	size_t n;
	char part[4096];

	if (status) {
		fprintf(f, "error: fio ended with status %#x\n", (unsigned int)status);
		return;
	}
	result = fopen(RESULT, "re");
	if (!result) {
		fprintf(f, "error: fio has written nothing\n");
		return;
	}
	while ((n = fread(part, 1, sizeof(part), result)) > 0)
		fwrite(part, 1, n, f);
	fclose(result);
}

static void serve(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(PORT) };
	int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), c, one = 1;
	char line[LINE_MAX_LEN];
	FILE *f;

	setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (s < 0 || bind(s, (struct sockaddr *)&a, sizeof(a)) || listen(s, 8))
		fail("listening");
	for (;;) {
		c = accept4(s, NULL, NULL, SOCK_CLOEXEC);
		f = c < 0 ? NULL : fdopen(c, "r+e");
		if (!f) {
			if (c >= 0)
				close(c);
			nap();
			continue;
		}
		if (fgets(line, sizeof(line), f))
			answer(f, line);
		fclose(f);
	}
}

int main(void)
{
	pid_t pid = fork();

	if (!pid)
		serve();
	if (pid < 0)
		printf("lockstep-guest: error: fiostart: fork: %s\n", strerror(errno));
	fflush(stdout);
	execl("/init", "/init", (char *)NULL);
	fail("/init");
	return 1;
}
