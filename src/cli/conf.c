/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The configuration file, line by line. All texts are written into one block as large as the file and a NUL for each line:
 * nothing that is read becomes longer, so nothing needs to be measured twice. A line ends where it ends: no option and no
 * quotation goes on in the next one, so that a mistake is named where it was made.
 */
#include "cli/conf.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct reader {
	struct conf *c;
	const char *p, *end;	/* of the present line */
	unsigned int line;
	char *to;		/* next free byte of c->mem */
	struct err *e;
};

static bool blank(char c)
{
	return c == ' ' || c == '\t';
}

static void skip_blanks(struct reader *r)
{
	while (r->p < r->end && blank(*r->p))
		r->p++;
}

static int refuse(struct reader *r, const char *what)
{
	return err_set(r->e, -EINVAL, "%s:%u: %s", r->c->file, r->line, what);
}

/* A word as a shell would read it, without expansions; Return: it, NULL when there is none or with an error in r->e */
static char *shell_word(struct reader *r, int *rc)
{
	char *start = r->to, quote = 0;

	*rc = 0;
	skip_blanks(r);
	if (r->p == r->end || *r->p == '#')
		return NULL;
	/* As it stands at the end of a line that was taken from a script. */
	if (*r->p == '\\' && r->p + 1 == r->end)
		return NULL;
	for (; r->p < r->end && (quote || !blank(*r->p)); r->p++) {
		char c = *r->p;

		if (quote ? c == quote : c == '"' || c == '\'') {
			quote = quote ? 0 : c;
			continue;
		}
		if (c == '\\' && quote != '\'') {
			if (r->p + 1 == r->end) {
				if (quote)
					break;
				continue;
			}
			/* Inside double quotes it is itself, but before what it can take the meaning of. */
			if (!quote || strchr("\"\\$`", r->p[1]))
				c = *++r->p;
		}
		*r->to++ = c;
	}
	if (quote) {
		*rc = refuse(r, quote == '"' ? "a quotation (\") does not end in its line" :
			     "a quotation (') does not end in its line");
		return NULL;
	}
	*r->to++ = '\0';
	return start;
}

static int qemu_line(struct reader *r)
{
	char *w;
	int rc;

	while ((w = shell_word(r, &rc))) {
		if (r->c->n_qemu == CONF_MAX_WORDS)
			return refuse(r, "the QEMU command has more than 4096 words");
		r->c->qemu[r->c->n_qemu++] = w;
	}
	return rc;
}

static bool name_char(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
}

/* What stands behind an option's name: all of the line, or one quotation. */
static int option_value(struct reader *r, const char **value)
{
	int rc;

	if (*r->p == '"' || *r->p == '\'') {
		*value = shell_word(r, &rc);
		if (rc)
			return rc;
		skip_blanks(r);
		return r->p < r->end && *r->p != '#' ? refuse(r, "something stands behind the quotation") : 0;
	}
	*value = r->to;
	while (r->end > r->p && blank(r->end[-1]))
		r->end--;
	memcpy(r->to, r->p, (size_t)(r->end - r->p));
	r->to += r->end - r->p;
	*r->to++ = '\0';
	return 0;
}

static int option_line(struct reader *r)
{
	struct conf_opt *o = &r->c->opt[r->c->n_opts];
	bool equals = false;

	if (*r->p == '-')
		return refuse(r, "an option is written without the dashes here");
	if (!name_char(*r->p))
		return refuse(r, "this is neither an option, nor a comment (#), nor [qemu]");
	if (r->c->n_opts == CONF_MAX_OPTS)
		return refuse(r, "more than 256 options");
	*o = (struct conf_opt){ .name = r->to, .line = r->line };
	while (r->p < r->end && name_char(*r->p))
		*r->to++ = *r->p++;
	*r->to++ = '\0';
	if (r->p < r->end && !blank(*r->p) && *r->p != '=')
		return refuse(r, "an option's name has only letters, digits and -; behind it stands a blank or =");
	skip_blanks(r);
	if (r->p < r->end && *r->p == '=') {
		equals = true;
		r->p++;
		skip_blanks(r);
	}
	r->c->n_opts++;
	if (r->p == r->end)
		return equals ? refuse(r, "there is no value behind the =") : 0;
	return option_value(r, &o->value);
}

static int section_line(struct reader *r)
{
	size_t n = (size_t)(r->end - r->p);

	while (n && blank(r->p[n - 1]))
		n--;
	if (n != strlen("[qemu]") || memcmp(r->p, "[qemu]", n))
		return refuse(r, "there is no such section: [qemu] is the only one");
	r->c->qemu = calloc(CONF_MAX_WORDS + 1, sizeof(*r->c->qemu));
	return r->c->qemu ? 0 : err_set(r->e, -ENOMEM, "no memory");
}

static int one_line(struct reader *r)
{
	if (memchr(r->p, '\0', (size_t)(r->end - r->p)))
		return refuse(r, "there is a NUL byte in this line: this is no text");
	if (r->end > r->p && r->end[-1] == '\r')
		r->end--;
	if (r->c->qemu)
		return qemu_line(r);
	skip_blanks(r);
	if (r->p == r->end || *r->p == '#')
		return 0;
	return *r->p == '[' ? section_line(r) : option_line(r);
}

struct conf *conf_parse(const char *file, const char *text, size_t len, struct err *e)
{
	struct reader r = { .e = e, .c = calloc(1, sizeof(struct conf)) };
	const char *end = text + len;
	int rc = 0;

	if (len > CONF_MAX_BYTES) {
		free(r.c);
		err_set(e, -EFBIG, "%s: a configuration file has at most %d KiB", file, CONF_MAX_BYTES / 1024);
		return NULL;
	}
	/* A name and its value get a NUL each, and take at least a byte each; a word of the command likewise. */
	if (r.c) {
		r.c->file = strdup(file);
		r.c->mem = malloc(2 * len + 2);
	}
	if (!r.c || !r.c->file || !r.c->mem) {
		conf_free(r.c);
		err_set(e, -ENOMEM, "no memory for %s", file);
		return NULL;
	}
	r.to = r.c->mem;
	for (const char *p = text; !rc && p < end;) {
		const char *nl = memchr(p, '\n', (size_t)(end - p));

		r.line++;
		r.p = p;
		r.end = nl ? nl : end;
		p = nl ? nl + 1 : end;
		rc = one_line(&r);
	}
	if (!rc && r.c->qemu && !r.c->n_qemu)
		rc = err_set(e, -EINVAL, "%s: there is no command behind [qemu]", file);
	if (rc) {
		conf_free(r.c);
		return NULL;
	}
	return r.c;
}

struct conf *conf_read(const char *path, struct err *e)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	struct conf *c = NULL;
	struct stat st;
	size_t len = 0;
	ssize_t n = 1;
	char *text;

	if (fd < 0 || fstat(fd, &st) < 0) {
		err_set(e, -errno, "%.300s: %s", path, strerror(errno));
		if (fd >= 0)
			close(fd);
		return NULL;
	}
	text = malloc(CONF_MAX_BYTES + 1);
	if (S_ISDIR(st.st_mode)) {
		err_set(e, -EISDIR, "%.300s is a directory", path);
		n = -1;
	} else if (!text) {
		err_set(e, -ENOMEM, "no memory for %.300s", path);
		n = -1;
	}
	/* One byte more than may be there tells a file that is too long. */
	while (n > 0 && len <= CONF_MAX_BYTES) {
		n = read(fd, text + len, CONF_MAX_BYTES + 1 - len);
		if (n < 0)
			err_set(e, -errno, "%.300s: %s", path, strerror(errno));
		len += n > 0 ? (size_t)n : 0;
	}
	if (n >= 0)
		c = conf_parse(path, text, len, e);
	free(text);
	close(fd);
	return c;
}

void conf_free(struct conf *c)
{
	if (!c)
		return;
	free(c->qemu);
	free(c->file);
	free(c->mem);
	free(c);
}
