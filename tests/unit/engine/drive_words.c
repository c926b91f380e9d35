/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * drive_words SOCKET OPTION... - for drive_live.py: what QEMU would be told instead of some options, one word a line;
 * and before that, each disk: "disk ID PATH FORMAT".
 */
#include <stdio.h>
#include <string.h>

#include "engine/cmdbuild.h"

enum { WORDS_MAX = 200 };

int main(int argc, char **argv)
{
	struct cmdline_env env = { .machine = "pc", .qmp_fd = 3, .ram_fd = 4, .disk_socket = argv[1] };
	char *words[WORDS_MAX + 3] = { "qemu-system-x86_64", "-nic", "none" }, **built = NULL;
	struct cmdline c;
	struct err e = { 0 };
	bool on = false;
	int rc;

	if (argc < 3 || argc > WORDS_MAX)
		return 2;
	memcpy(words + 3, argv + 2, (size_t)(argc - 2) * sizeof(*words));
	rc = cmdline_parse(argc + 1, words, &c, &e);
	if (!rc)
		rc = cmdline_build(&c, &env, &built, &e);
	if (rc)
		fprintf(stderr, "%s\n", e.msg);
	for (unsigned int i = 0; !rc && i < c.n_disks; i++)
		printf("disk %s %s %s\n", c.disks[i].id, c.disks[i].path, c.disks[i].format);
	/* The user's words stand between the network and what has the last word. */
	for (char **w = built; !rc && *w; w++) {
		on &= strcmp(*w, "-rtc") != 0;
		if (on)
			puts(*w);
		on |= !strcmp(*w, "none") && w > built && !strcmp(w[-1], "-nic");
	}
	cmdline_argv_free(built);
	cmdline_free(&c);
	return rc ? 1 : 0;
}
