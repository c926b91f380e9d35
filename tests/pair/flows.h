/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef TESTS_PAIR_FLOWS_H
#define TESTS_PAIR_FLOWS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * What the PVM has said against what was let out, as far as a client can tell: of each TCP connection the stream with
 * its SYN and FIN; of everything else the datagrams, in any order. Written without a look at core/.
 */
enum flows_side {
	FLOWS_PVM,
	FLOWS_SVM,	/* in its own numbers; only the SYNs are of interest */
	FLOWS_OUT,	/* let out */
	FLOWS_TO_SVM,	/* given to the SVM: it must have sent what is acknowledged and echoed */
	FLOWS_SIDES,
};

struct flows {
	struct flows_conn *conn;
	uint32_t n_conn;
	struct flows_gram *gram;
	uint32_t n_gram, cap_gram;
	uint64_t tcp_bytes, datagrams;	/* let out */
	uint32_t translated;		/* connections that the SVM numbers otherwise */
	char why[160];			/* the first thing that was wrong */
};

int flows_init(struct flows *t);
void flows_free(struct flows *t);
void flows_see(struct flows *t, enum flows_side side, const uint8_t *f, uint32_t len);

/*
 * flows_judge() - Return: true, or false with a sentence in @why: something is missing or was let out that was not
 * said, or both servers number alike, so that there was nothing to translate
 */
bool flows_judge(struct flows *t, char *why, size_t cap);

#endif
