/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CLI_CONF_H
#define CLI_CONF_H

#include <stddef.h>

#include "base/err.h"

/*
 * The configuration file of a VM: the long options of `lockstep run`, one a line, and the QEMU command.
 *
 *	# a comment
 *	peer = 192.0.2.2:9998
 *	rule bypass,proto=udp,port=123
 *	insecure
 *
 *	[qemu]
 *	qemu-system-x86_64 -M pc -m 512
 *	-netdev tap,id=n0,ifname=tap0,script=no,downscript=no
 *
 * Which options there are is not known here.
 */
#define CONF_MAX_BYTES	(256 * 1024)	/* of a file */
#define CONF_MAX_OPTS	256
#define CONF_MAX_WORDS	4096		/* of the QEMU command */

struct conf_opt {
	const char *name;	/* as written, without dashes */
	const char *value;	/* NULL: none */
	unsigned int line;
};

struct conf {
	struct conf_opt opt[CONF_MAX_OPTS];
	unsigned int n_opts;
	char **qemu;		/* ends with NULL; NULL when there is no [qemu] */
	int n_qemu;
	char *file;		/* the name, for sentences */
	char *mem;		/* what the texts lie in */
};

/*
 * conf_parse() - understand a text; any bytes
 * @file: its name, for sentences
 *
 * Return: the parsed file, for conf_free(); NULL with a sentence that names file and line
 */
struct conf *conf_parse(const char *file, const char *text, size_t len, struct err *e);

/* conf_read() - the same from a file */
struct conf *conf_read(const char *path, struct err *e);
void conf_free(struct conf *c);	/* NULL is fine */

#endif
