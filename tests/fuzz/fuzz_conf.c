/* SPDX-License-Identifier: BSD-2-Clause */
/* Fuzz target: the configuration file. Any bytes give a sentence, or options and words that are not longer than they. */
#include <string.h>

#include "cli/conf.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct err e = { 0 };
	struct conf *c = conf_parse("f", (const char *)p, n, &e);
	size_t total = 0;

	if (!c) {
		MUST(e.code < 0 && !strncmp(e.msg, "f:", 2));
		return 0;
	}
	MUST(c->n_opts <= CONF_MAX_OPTS && c->n_qemu <= CONF_MAX_WORDS);
	for (unsigned int i = 0; i < c->n_opts; i++) {
		MUST(*c->opt[i].name && c->opt[i].line);
		total += strlen(c->opt[i].name) + (c->opt[i].value ? strlen(c->opt[i].value) : 0);
	}
	for (int i = 0; i < c->n_qemu; i++)
		total += strlen(c->qemu[i]);
	MUST(total <= n);
	MUST(!c->qemu || (c->n_qemu && !c->qemu[c->n_qemu]));
	conf_free(c);
	return 0;
}
