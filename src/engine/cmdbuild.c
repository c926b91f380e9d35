/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Writing the command line that QEMU is started with: what Lockstep has taken over, in its own words; then the
 * user's options, in theirs and in their order; then what must have the last word.
 *
 * The order of -device decides which slot a card gets. QEMU's board places a -nic card before any -device, so the
 * cards made out of -nic come first, and the guest finds them where it would have found them without Lockstep.
 *
 * Why each addition is there:
 * - memory-backend-file on a descriptor: the checkpoint image, shared by the PVM, mapped privately by the SVM. Pages
 *   are never merged (merge=off), which would hide which of the SVM's have diverged.
 * - suppress-vmdesc, send-configuration=off: the saved device state must have the form that the load expects.
 * - only-migratable: xen-save-devices-state does not ask whether a device can be migrated; so QEMU asks at start.
 * - no-user-config: what is not on the command line was not judged either.
 * - monitor none: the default one can be reached through a VNC display.
 * - no-shutdown: a guest's poweroff must not look like QEMU's death.
 * Runs before anything else, in the main thread.
 */
#include "engine/cmdbuild.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/netopt.h"

struct words {
	char **v;
	size_t n;
	bool bad;
};

static void add_owned(struct words *w, char *word)
{
	char **v = w->bad || !word ? NULL : realloc(w->v, (w->n + 2) * sizeof(*v));

	if (!v) {
		free(word);
		w->bad = true;
		return;
	}
	w->v = v;
	v[w->n++] = word;
	v[w->n] = NULL;
}

static void add(struct words *w, const char *word)
{
	add_owned(w, strdup(word));
}

/* An option and its value. */
static void addf(struct words *w, const char *option, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static void addf(struct words *w, const char *option, const char *fmt, ...)
{
	char *arg = NULL;
	va_list ap;

	add(w, option);
	va_start(ap, fmt);
	if (vasprintf(&arg, fmt, ap) < 0)
		arg = NULL;
	va_end(ap);
	add_owned(w, arg);
}

static void add_list(struct words *w, const char *option, const struct kvlist *kv)
{
	add(w, option);
	add_owned(w, kvlist_format(kv, NULL));
}

static void add_machine(struct words *w, const struct cmdline *c, const struct cmdline_env *env)
{
	struct kvlist kv = { 0 };
	int rc;

	rc = kvlist_set(&kv, "type", env->machine);
	if (!rc)
		rc = kvlist_merge(&kv, &c->machine_kv);
	if (!rc)
		rc = kvlist_set(&kv, "memory-backend", CMDLINE_RAM_ID);
	if (!rc)
		rc = kvlist_set(&kv, "suppress-vmdesc", "on");
	add(w, "-machine");
	add_owned(w, rc ? NULL : kvlist_format(&kv, "type"));
	kvlist_free(&kv);
	addf(w, "-accel", "%s", c->accel_arg);
	if (c->cpu)
		addf(w, "-cpu", "%s", c->cpu);
	if (c->smp_kv.n)
		add_list(w, "-smp", &c->smp_kv);
}

static void add_memory(struct words *w, const struct cmdline *c, const struct cmdline_env *env)
{
	if (c->mem_bytes % (1 << 20))
		addf(w, "-m", "size=%" PRIu64 "K", c->mem_bytes >> 10);
	else
		addf(w, "-m", "size=%" PRIu64 "M", c->mem_bytes >> 20);
	addf(w, "-object", "memory-backend-file,id=" CMDLINE_RAM_ID ",mem-path=/proc/self/fd/%d,size=%" PRIu64
	     ",share=%s,merge=off,prealloc=off", env->ram_fd, c->mem_bytes, env->ram_share ? "on" : "off");
}

/* A netdev's id may hold a comma. */
static void add_nic(struct words *w, const struct cmdline_nic *nic, int fd)
{
	char num[16];
	struct kvlist net = { 0 }, dev = { 0 };
	int rc;

	snprintf(num, sizeof(num), "%d", fd);
	rc = kvlist_set(&net, "type", "stream");
	if (!rc)
		rc = kvlist_set(&net, "id", nic->id);
	if (!rc)
		rc = kvlist_set(&net, "addr.type", "fd");
	if (!rc)
		rc = kvlist_set(&net, "addr.str", num);
	add(w, "-netdev");
	add_owned(w, rc ? NULL : kvlist_format(&net, "type"));
	if (nic->make_device) {
		rc = kvlist_set(&dev, "driver", nic->model);
		if (!rc)
			rc = kvlist_set(&dev, "netdev", nic->id);
		if (!rc)
			rc = kvlist_set(&dev, "mac", nic->mac);
		if (!rc && netopt_vlan_filter(nic))
			rc = kvlist_set(&dev, "ctrl_vlan", "off");
		add(w, "-device");
		add_owned(w, rc ? NULL : kvlist_format(&dev, "driver"));
	}
	kvlist_free(&net);
	kvlist_free(&dev);
}

/* The user's drive, as a disk of Lockstep's NBD server. */
static void add_disk(struct words *w, const struct cmdopt *o, const struct cmdline_disk *d, const char *path, int fd)
{
	struct kvlist kv = { 0 };
	char num[16];
	int rc;

	rc = kvlist_set(&kv, "driver", "nbd");
	if (!rc)
		rc = kvlist_merge(&kv, &o->kv);
	snprintf(num, sizeof(num), "%d", fd);
	if (!rc)
		rc = kvlist_set(&kv, "server.type", fd ? "fd" : "unix");
	if (!rc)
		rc = fd ? kvlist_set(&kv, "server.str", num) : kvlist_set(&kv, "server.path", path);
	if (!rc)
		rc = kvlist_set(&kv, "export", d->id);
	add_owned(w, rc ? NULL : kvlist_format(&kv, NULL));
	kvlist_free(&kv);
}

static void add_user(struct words *w, const struct cmdline *c, const struct cmdopt *o, const struct cmdline_env *env)
{
	char *name = NULL;

	if (o->kind == CMDOPT_GONE)
		return;
	if (asprintf(&name, "-%s", o->name) < 0)
		name = NULL;
	add_owned(w, name);
	if (o->kind == CMDOPT_DISK)
		add_disk(w, o, &c->disks[o->disk], env->disk_socket, env->disk_fd[o->disk]);
	else if (o->arg)
		add(w, o->arg);
}

int cmdline_build(const struct cmdline *c, const struct cmdline_env *env, char ***argv, struct err *e)
{
	struct words w = { 0 };

	*argv = NULL;
	if (!env->machine || env->qmp_fd < 0 || env->ram_fd < 0)
		return err_set(e, -EINVAL, "QEMU's command line cannot be written without machine, monitor and memory");
	if (c->n_disks && !env->disk_socket)
		return err_set(e, -EINVAL, "QEMU's command line cannot be written without a socket for its disks");
	if (c->n_disks && strlen(env->disk_socket) > CMDLINE_SOCKET_MAX)
		return err_set(e, -ENAMETOOLONG, "%.60s...: the socket for QEMU's disks would have a path of %zu "
			       "bytes, and a socket's may have %d; use a directory with a shorter name",
			       env->disk_socket, strlen(env->disk_socket), CMDLINE_SOCKET_MAX);
	add(&w, c->binary);
	add_machine(&w, c, env);
	add_memory(&w, c, env);
	addf(&w, "-chardev", "socket,id=" CMDLINE_QMP_ID ",fd=%d", env->qmp_fd);
	addf(&w, "-mon", "chardev=" CMDLINE_QMP_ID ",mode=control");
	addf(&w, "-monitor", "none");
	if (!c->n_nics && !c->nodefaults)
		addf(&w, "-nic", "none");
	for (unsigned int i = 0; i < c->n_nics; i++)
		add_nic(&w, &c->nics[i], env->nic_fd[i]);
	for (const char *const *x = env->extra; x && *x; x++)
		add(&w, *x);
	for (unsigned int i = 0; i < c->n_opts; i++)
		add_user(&w, c, &c->opts[i], env);
	add_list(&w, "-rtc", &c->rtc_kv);
	addf(&w, "-global", "migration.send-configuration=off");
	add(&w, "-only-migratable");
	add(&w, "-no-user-config");
	if (c->no_reboot)
		add(&w, "-no-reboot");
	add(&w, "-no-shutdown");
	add(&w, "-S");
	if (w.bad) {
		cmdline_argv_free(w.v);
		return err_set(e, -ENOMEM, "no memory for QEMU's command line");
	}
	*argv = w.v;
	return 0;
}

void cmdline_argv_free(char **argv)
{
	for (char **a = argv; a && *a; a++)
		free(*a);
	free(argv);
}
