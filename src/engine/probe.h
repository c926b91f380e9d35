/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef ENGINE_PROBE_H
#define ENGINE_PROBE_H

#include <limits.h>
#include <stdbool.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/err.h"

enum {
	PROBE_ROWS_MAX = 48,
	PROBE_MACHINES_MAX = 128,
	PROBE_MACHINE_LEN = 48,
	PROBE_TIMEOUT_MS = 60000,	/* QEMU's answers; they take 0.1 s, on a very slow host a hundred times that */
};

struct probe_row {
	char what[48];
	bool ok;
	bool needed;		/* nothing works without it */
	char detail[224];	/* a sentence: what was found, or what to do */
};

/* What this QEMU and this kernel can do. */
struct probe {
	char binary[PATH_MAX];
	char version[32];	/* "7.2.22"; empty: QEMU could not be asked */
	char package[80];
	char machines[PROBE_MACHINES_MAX][PROBE_MACHINE_LEN];	/* versioned pc and q35 types */
	unsigned int n_machines;
	char alias_pc[PROBE_MACHINE_LEN], alias_q35[PROBE_MACHINE_LEN], dflt[PROBE_MACHINE_LEN];
	bool tcg, kvm;		/* QEMU has it and, for KVM, this host lets us use it */
	bool wp_async, soft_dirty;	/* ways to know written pages */
	struct probe_row rows[PROBE_ROWS_MAX];
	unsigned int n_rows;
};

/*
 * probe_run() - ask QEMU and the kernel; one start of QEMU, about 0.1 s
 * @binary:  path, or name to look for in PATH
 * @silence: of QEMU that is none too long, in ns; it has PROBE_TIMEOUT_MS in any case
 *
 * What is missing stands in the rows, a QEMU that cannot be started too. The main thread only (see process.h).
 * Return: 0, or -errno with @e filled when it could not even be tried
 */
int probe_run(const char *binary, nstime silence, struct probe *p, struct err *e);

/*
 * probe_missing() - whether something is missing that nothing works without
 *
 * Return: 0, or -ENOTSUP with @e naming the first
 */
int probe_missing(const struct probe *p, struct err *e);

/*
 * probe_machine() - the versioned machine type behind a name, so that both nodes mean the same
 * @type: as the user gave it; NULL: QEMU's default
 *
 * Return: 0, or -EINVAL with @e filled (this QEMU does not have it, or it is no pc or q35)
 */
int probe_machine(const struct probe *p, const char *type, char machine[PROBE_MACHINE_LEN], struct err *e);

/* probe_row() - add a row (parts of probe only); beyond PROBE_ROWS_MAX it is dropped */
void probe_row(struct probe *p, const char *what, bool ok, bool needed, const char *fmt, ...)
	__attribute__((format(printf, 5, 6)));

/* probe_print() - the rows as a table for people, or as one JSON object on one line */
void probe_print(FILE *f, const struct probe *p, bool json);

#endif
