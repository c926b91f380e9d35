/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The ways between the two nodes, of --listen and --peer.
 *
 * A --peer that is an address of this host is this node's own, as if it had been --listen: so both nodes can be given
 * the very same words. The i-th own address and the i-th of the other node are path i. Path 0 has the link and heartbeats,
 * the others have heartbeats only.
 *
 * Who knows only its own addresses listens; who knows only the other node's connects. Where both are known the node
 * whose address and port of path 0 is the smaller one listens: both come to the same conclusion, whoever is started
 * first.
 */
#include "cli/run_paths.h"

#include <errno.h>
#include <string.h>

static void set_loopback(struct run_addr *a)
{
	a->loopback = true;
	for (int i = 0; i < a->n; i++)
		a->loopback &= addr_is_loopback(&a->addr[i]);
}

/* Is one of the addresses that a --peer stands for this host's? Then it is the only one that counts. */
static bool is_own(struct run_given *g, bool (*ours)(const struct link_addr *))
{
	for (int i = 0; i < g->addr.n; i++) {
		if (!ours(&g->addr.addr[i]))
			continue;
		g->addr.addr[0] = g->addr.addr[i];
		g->addr.n = 1;
		return true;
	}
	return false;
}

static int add(struct run_opts *o, struct run_given *g, bool own, unsigned int n[2], struct err *e)
{
	struct run_addr *a;

	if (n[own] == RUN_MAX_PATHS)
		return err_set(e, -EINVAL, "--%s %.80s: there can be %d paths between the nodes, not more",
			       own ? "listen" : "peer", g->addr.text, RUN_MAX_PATHS);
	for (unsigned int i = 0; i < n[own]; i++) {
		a = own ? &o->paths[i].own : &o->paths[i].other;
		if (!addr_cmp(&a->addr[0], &g->addr.addr[0]))
			return err_set(e, -EINVAL, "--%s %.80s was given twice, each path needs addresses of its own",
				       g->peer ? "peer" : "listen", g->addr.text);
	}
	for (int i = 0; i < g->addr.n && !own; i++)
		if (addr_is_any(&g->addr.addr[i]))
			return err_set(e, -EINVAL, "--peer %.80s: this is an address to listen on, not one to connect to",
				       g->addr.text);
	a = own ? &o->paths[n[own]].own : &o->paths[n[own]].other;
	*a = g->addr;
	/* A name to listen at stands for its first address. */
	if (own)
		a->n = 1;
	set_loopback(a);
	n[own]++;
	return 0;
}

/* Both ends of a path are known: can they be told apart, by both nodes alike? */
static int check_ends(struct run_path *p, struct err *e)
{
	int family = p->own.addr[0].ss.ss_family, k = 0;

	if (addr_is_any(&p->own.addr[0]))
		return err_set(e, -EINVAL, "--listen %.80s stands for every address of this host: with --peer it must be one, "
			       "since the smaller of the two addresses listens", p->own.text);
	/* A name with addresses of both families: the one that goes with ours. */
	for (int i = 0; i < p->other.n; i++)
		if (p->other.addr[i].ss.ss_family == family)
			p->other.addr[k++] = p->other.addr[i];
	if (k != 1)
		return err_set(e, -EINVAL, "--peer %.80s stands for %d addresses that go with %.80s: give the one that is meant",
			       p->other.text, k, p->own.text);
	p->other.n = 1;
	set_loopback(&p->other);
	if (p->own.loopback != p->other.loopback)
		return err_set(e, -EINVAL, "%.80s and %.80s cannot reach each other: one of them is of this host only (a host's own "
			       "name often stands for 127.0.1.1: give its address)", p->own.text, p->other.text);
	if (!addr_cmp(&p->own.addr[0], &p->other.addr[0]))
		return err_set(e, -EINVAL, "--listen %.80s and --peer %.80s are the same address", p->own.text, p->other.text);
	return 0;
}

int run_paths(struct run_opts *o, bool (*ours)(const struct link_addr *a), struct err *e)
{
	unsigned int n[2] = { 0, 0 };	/* of the other node, of this one */
	int rc;

	for (unsigned int i = 0; i < o->n_given; i++) {
		struct run_given *g = &o->given[i];

		rc = add(o, g, !g->peer || is_own(g, ours), n, e);
		if (rc)
			return rc;
	}
	if (!o->n_given)
		return err_set(e, -EINVAL, "where is the other node? One of them needs --listen ADDRESS, the other one --peer "
			       "ADDRESS, or both are given both addresses as --peer; with --primary where the VM is to begin");
	if (n[0] && n[1] && n[0] != n[1])
		return err_set(e, -EINVAL, "%u address%s of this node and %u of the other one: each path has two ends, which are "
			       "told apart by the order", n[1], n[1] == 1 ? "" : "es", n[0]);
	o->n_paths = n[0] > n[1] ? n[0] : n[1];
	for (unsigned int i = 0; i < o->n_paths; i++) {
		struct run_path *p = &o->paths[i];

		if (i && n[1] && addr_is_any(&p->own.addr[0]))
			return err_set(e, -EINVAL, "--listen %.80s stands for every address of this host: only the first path can "
				       "have that", p->own.text);
		rc = n[0] && n[1] ? check_ends(p, e) : 0;
		if (rc)
			return rc;
	}
	if (!n[0] || (n[1] && addr_cmp(&o->paths[0].own.addr[0], &o->paths[0].other.addr[0]) < 0))
		o->listen = o->paths[0].own;
	else
		o->peer = o->paths[0].other;
	return 0;
}
