/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef ENGINE_FILEHASH_H
#define ENGINE_FILEHASH_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

enum {
	FILEHASH_WHOLE = 64 << 20,	/* bytes of a file up to which all of it is read */
	FILEHASH_PIECE = 1 << 20,	/* of a longer one: so much each at... */
	FILEHASH_PIECES = 64,		/* ...so many places, the begin and the end among them */
	FILEHASH_TEXT = 96,
};

/*
 * filehash() - what a file holds, in words that are equal on two hosts when it is the same
 * @text: filled: "8192 bytes, xxh3 0123...", "... of samples" where only FILEHASH_PIECES pieces were read; "directory"
 *
 * Reads up to 64 MiB; at start only. Block devices are read like files, character devices not at all ("device").
 * Return: 0; -ENOENT and the like with @e filled
 */
int filehash(const char *path, char text[FILEHASH_TEXT], struct err *e);

/* filehash_size() - the same without the content, for files that differ between two hosts in order */
int filehash_size(const char *path, char text[FILEHASH_TEXT], struct err *e);

#endif
