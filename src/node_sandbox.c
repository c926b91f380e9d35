/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a node gives away once it has started (base/sandbox.h), and what it has to know for that: where it will write,
 * whom it will start. docs/security.md has the whole.
 */
#include "node_internal.h"

#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/again.h"
#include "base/log.h"
#include "base/sandbox.h"
#include "base/spawn.h"

#define LOW_PORT 1024	/* below it, a right is needed to bind a port */

const struct account *node_user(const struct node *n)
{
	return *n->o->user.name ? &n->o->user : NULL;
}

static bool low(const struct run_addr *a)
{
	for (int i = 0; i < a->n; i++) {
		const struct sockaddr *sa = (const struct sockaddr *)&a->addr[i].ss;
		uint16_t port = sa->sa_family == AF_INET6 ? ((const struct sockaddr_in6 *)sa)->sin6_port :
							   ((const struct sockaddr_in *)sa)->sin_port;

		if (ntohs(port) < LOW_PORT)
			return true;
	}
	return false;
}

int node_sandbox_helper(struct node *n, struct err *e)
{
	if (!n->o->no_sandbox)
		return spawn_helper_start(e);
	log_warn("--no-sandbox: this node keeps all of its rights");
	return 0;
}

/* What QEMU's own words would leave in the dark. */
static int check_user(struct node *n, struct err *e)
{
	const struct account *as = node_user(n);
	int rc = as ? account_may(as, n->probe.binary, X_OK, e) : 0;

	if (as && !rc)
		rc = account_may(as, n->agent_lib, R_OK, e);
	return rc ? err_prefix(e, "--user") : 0;
}

int node_sandbox_plan(struct node *n, struct err *e)
{
	struct sandbox_cfg cfg = { .others = node_user(n) != NULL, .low_port = low(&n->o->listen) };
	char dir[CMDLINE_DISKS_MAX][PATH_MAX];

	if (n->o->no_sandbox)
		return check_user(n, e);
	for (unsigned int i = 0; i < n->o->n_paths; i++)
		cfg.low_port |= low(&n->o->paths[i].own);
	cfg.dirs[cfg.n_dirs++] = n->o->run_dir;
	cfg.dirs[cfg.n_dirs++] = n->o->spill_dir;
	cfg.dirs[cfg.n_dirs++] = n->o->state_dir;
	if (n->o->disk_dir[0])
		cfg.dirs[cfg.n_dirs++] = n->o->disk_dir;
	for (unsigned int i = 0; i < n->cl.n_disks && !n->o->disk_dir[0] && cfg.n_dirs < SANDBOX_DIRS; i++) {
		snprintf(dir[i], sizeof(dir[i]), "%s", n->cl.disks[i].path);
		cfg.dirs[cfg.n_dirs++] = dirname(dir[i]);
	}
	sandbox_plan(&cfg);
	return check_user(n, e);
}

int node_sandbox_enter(struct node *n, struct err *e)
{
	struct rlimit none = { RLIM_INFINITY, RLIM_INFINITY };
	int rc = 0;

	if (n->o->no_sandbox)
		return 0;
	/* Where soft-dirty bits are used guest memory is locked, which root may, and later this process only as a limit says. */
	if (!n->probe.wp_async)
		setrlimit(RLIMIT_MEMLOCK, &none);
	if (*n->o->fence_command)
		rc = fence_allow(n->o->fence_command, e);
	if (!rc && again_allow(e)) {
		log_warn("%s: should this node lose the VM it will end, and has to be started again", e->msg);
		*e = (struct err){ 0 };
	}
	return rc ? rc : sandbox_enter(e);
}
