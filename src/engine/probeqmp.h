/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef ENGINE_PROBEQMP_H
#define ENGINE_PROBEQMP_H

#include <json-c/json.h>
#include <stdbool.h>

#include "engine/probe.h"

enum { PROBEQMP_NEEDS_MAX = 32 };

/* What is being learned of one QEMU; zeroed at the start. */
struct probeqmp {
	struct probe *p;			/* is filled in */
	bool have[PROBEQMP_NEEDS_MAX];		/* of what a table in probeqmp.c names */
};

/*
 * probeqmp_question() - what QEMU is to be asked
 * @i: from 0 on
 * @args: the arguments as a JSON object, or NULL
 *
 * Return: the QMP command, or NULL after the last
 */
const char *probeqmp_question(unsigned int i, const char **args);

/*
 * probeqmp_answer() - take in the answer to question @i
 * @ret: what QEMU has returned, borrowed; NULL: it does not know what it was asked for
 *
 * An answer that is not of the expected form is one that says nothing.
 */
void probeqmp_answer(struct probeqmp *q, unsigned int i, struct json_object *ret);

/* probeqmp_rows() - say in rows what the answers came to */
void probeqmp_rows(const struct probeqmp *q);

#endif
