/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The command line of `lockstep run`, up to the "--"; what comes after it is QEMU's and belongs to engine/.
 *
 * Which node listens, and over how many paths the two see each other, is found out in run_paths.c. Who has the VM is
 * settled between them by what each of them is; only the very first start must say which node begins it, with --primary.
 * Without it a node becomes the other one's secondary.
 */
#include "cli/run_args.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/tls.h"
#include "cli/conf.h"
#include "cli/run_paths.h"
#include "engine/workers.h"
#include "monitor/rundir.h"
#include "monitor/settings.h"

#define RUN_SPILL_DIR		"/var/tmp"
#define RUN_MIN_BEATS		3	/* heartbeats that a timeout must span */
#define RUN_HEARTBEAT_MS	50
#define RUN_TIMEOUT_MS		500
#define RUN_DELAY_MS		20000
#define RUN_COMPARE_MS		3000
#define RUN_SCAN_MS		50
#define RUN_QUEUE		1024
#define RUN_QEMU_MS		3000
#define RUN_FENCE_MS		30000

enum {
	OPT_NAME = 1, OPT_LISTEN, OPT_PEER, OPT_PRIMARY, OPT_INSECURE, OPT_HEARTBEAT, OPT_TIMEOUT, OPT_DELAY,
	OPT_COMPARE, OPT_SCAN, OPT_QUEUE, OPT_NIC, OPT_RULE, OPT_NO_HYBRID, OPT_COMPRESS, OPT_WORKERS, OPT_NO_PRECOPY, OPT_QEMU_TIMEOUT,
	OPT_RUN_DIR, OPT_SPILL_DIR, OPT_LOG_LEVEL, OPT_PRIVATE_LIMIT, OPT_STAGED_LIMIT, OPT_DISK_DIR, OPT_DISCARD,
	OPT_RESYNC_RATE, OPT_SHARED_DISK, OPT_FENCE, OPT_FENCE_TIMEOUT, OPT_CONFIG = 300,
	OPT_PSK_FILE, OPT_PSK_USER, OPT_TLS_DIR, OPT_USER, OPT_NO_SANDBOX, OPT_WITNESS, OPT_NO_WITNESS, OPT_FORCE_PRIMARY,
	OPT_STRICT_DEATH, OPT_STATE_DIR, OPT_LAST,
};

const struct cli_opt run_opts_table[] = {
	{ "config", OPT_CONFIG, "FILE", "read options and the QEMU command from here; what is given beside it wins" },
	{ "name", OPT_NAME, "NAME", "name of the VM, the same on both nodes (needed)" },
	{ "listen", OPT_LISTEN, "ADDRESS[:PORT]", "accept the link with the other node here (port 9998); up to 4 times" },
	{ "peer", OPT_PEER, "ADDRESS[:PORT]", "where the other node is; up to 4 times, the first carries the link" },
	{ "primary", OPT_PRIMARY, NULL, "begin the VM here; without it this node is the other one's secondary" },
	{ "psk-file", OPT_PSK_FILE, "FILE", "encrypt the link with a key in FILE, the same on both nodes, as psktool writes it" },
	{ "psk-user", OPT_PSK_USER, "NAME", "whose key that is, the same on both nodes (default " TLS_DEF_USER ")" },
	{ "tls-dir", OPT_TLS_DIR, "DIR", "encrypt the link by certificates: ca-cert.pem, server-cert.pem, client-cert.pem, ..." },
	{ "witness", OPT_WITNESS, "WHO", "who decides when the link is lost: etcd:URL[,...], disk:PATH, or command:CMD" },
	{ "no-witness", OPT_NO_WITNESS, NULL, "a lost link counts as a dead peer, so that both nodes may come to serve" },
	{ "strict-death", OPT_STRICT_DEATH, NULL, "do not take closed connections for the death of the peer" },
	{ "force-primary", OPT_FORCE_PRIMARY, NULL, "begin the VM here, whatever the state and the witness say" },
	{ "state-dir", OPT_STATE_DIR, "DIR", "for what is remembered of the VM (default: run-dir, if given, or /var/lib/lockstep)" },
	{ "insecure", OPT_INSECURE, NULL, "allow a link beyond this host, though it is not encrypted" },
	{ "heartbeat", OPT_HEARTBEAT, "MS", "time between two heartbeats (default 50)" },
	{ "timeout", OPT_TIMEOUT, "MS", "silence that counts as the peer's death (default 500)" },
	{ "checkpoint-delay", OPT_DELAY, "MS", "longest time without a checkpoint (default 20000)" },
	{ "x-checkpoint-delay", OPT_DELAY, "MS", NULL },
	{ "compare-timeout", OPT_COMPARE, "MS", "age of a held packet that starts a checkpoint (default 3000)" },
	{ "compare_timeout", OPT_COMPARE, "MS", NULL },
	{ "expired-scan-cycle", OPT_SCAN, "MS", "time between two looks at the ages of held packets (default 50)" },
	{ "expired_scan_cycle", OPT_SCAN, "MS", NULL },
	{ "max-queue-size", OPT_QUEUE, "N", "held packets of one flow that start a checkpoint (default 1024)" },
	{ "max_queue_size", OPT_QUEUE, "N", NULL },
	{ "nic", OPT_NIC, "ID,SETTING=VALUE[,...]", "the last three for one NIC; may be given for each" },
	{ "rule", OPT_RULE, "RULE", "what is compared, let through, or held; may be given often" },
	{ "no-hybrid", OPT_NO_HYBRID, NULL, "go on comparing, however often the copies differ" },
	{ "compress", OPT_COMPRESS, NULL, "pack guest memory for the link (LZ4)" },
	{ "copy-workers", OPT_WORKERS, "N", "threads that copy guest memory (default: one a CPU, at most 4)" },
	{ "no-precopy", OPT_NO_PRECOPY, NULL, "copy guest memory in the pause of a checkpoint only" },
	{ "qemu-timeout", OPT_QEMU_TIMEOUT, "MS", "silence of QEMU that counts as its death (default 3000)" },
	{ "run-dir", OPT_RUN_DIR, "DIR", "directory of the control socket" },
	{ "private-limit", OPT_PRIVATE_LIMIT, "MB", "memory that the secondary's copy may write between checkpoints" },
	{ "staged-limit", OPT_STAGED_LIMIT, "MB", "pages of a checkpoint to come that may wait at the secondary" },
	{ "spill-dir", OPT_SPILL_DIR, "DIR", "for what does not fit into memory (default " RUN_SPILL_DIR ")" },
	{ "disk-dir", OPT_DISK_DIR, "DIR", "for what is known of the disks' images (default: beside them)" },
	{ "discard-disks", OPT_DISCARD, NULL, "secondary: what its images have that the primary's have not is to be lost" },
	{ "resync-rate", OPT_RESYNC_RATE, "MB", "limit for bringing the peer's disks up to date, per second (default: none)" },
	{ "shared-disk", OPT_SHARED_DISK, NULL, "both nodes have the same images, which nobody else uses (raw only)" },
	{ "fence-command", OPT_FENCE, "COMMAND", "shared disks: sees to it that the peer is off, before this node takes over" },
	{ "fence-timeout", OPT_FENCE_TIMEOUT, "MS", "time that the fence command may take (default 30000)" },
	{ "user", OPT_USER, "NAME[:GROUP]", "QEMU runs as this user" },
	{ "no-sandbox", OPT_NO_SANDBOX, NULL, "keep all rights after the start, for debugging" },
	{ "log-level", OPT_LOG_LEVEL, "LEVEL", "error, warn, note, info, debug or trace (default info)" },
	{ NULL },
};

#define EXAMPLE "e.g. lockstep run --name web --listen 127.0.0.1:9998 -- qemu-system-x86_64 -m 512 ..."

static int run_ms(const char *opt, const char *text, uint64_t min, nstime *out, struct err *e)
{
	uint64_t ms;
	int rc = cli_number(opt, text, "milliseconds", min, UINT32_MAX, &ms, e);

	if (!rc)
		*out = ms * NS_PER_MS;
	return rc;
}

static int run_mb(const char *opt, const char *text, uint64_t *out, struct err *e)
{
	uint64_t mb;
	int rc = cli_number(opt, text, "MiB", 1, UINT32_MAX, &mb, e);

	if (!rc)
		*out = mb << 20;
	return rc;
}

/* One of the settings that QEMU's colo-compare has. */
static int run_setting(const char *opt, enum setting s, const char *text, struct run_opts *o, struct err *e)
{
	struct net_nic_cfg cfg = { 0 };
	uint64_t v;
	int rc = setting_value(opt, s, text, &v, e);

	if (rc)
		return rc;
	setting_put(&cfg, s, v);
	if (s == SETTING_COMPARE_TIMEOUT)
		o->compare_timeout = cfg.compare_timeout;
	else if (s == SETTING_EXPIRED_SCAN_CYCLE)
		o->expired_scan_cycle = cfg.expired_scan_cycle;
	else
		o->max_queue_size = cfg.max_queue_size;
	return 0;
}

/* Kept as it is: what it says is understood when the NICs are known. */
static int run_text(const char *opt, const char *text, const char **list, unsigned int *n, unsigned int max,
		    struct err *e)
{
	if (!*text)
		return err_set(e, -EINVAL, "%s: it is empty", opt);
	if (*n == max)
		return err_set(e, -EINVAL, "%s was given more than %u times", opt, max);
	list[(*n)++] = text;
	return 0;
}

static int run_once(const char *opt, const char *text, const char **out, struct err *e)
{
	unsigned int n = !!*out;

	return run_text(opt, text, out, &n, 1, e);
}

static int run_path(const char *opt, const char *text, char *out, struct err *e)
{
	if (!*text)
		return err_set(e, -EINVAL, "%s: the directory's name is empty", opt);
	if (snprintf(out, PATH_MAX, "%s", text) >= PATH_MAX)
		return err_set(e, -EINVAL, "%s: the directory's name is too long", opt);
	return 0;
}

static int run_addr(const char *opt, const char *text, struct run_opts *o, struct err *e)
{
	struct run_given *g = &o->given[o->n_given];
	int n;

	if (o->n_given == 2 * RUN_MAX_PATHS)
		return err_set(e, -EINVAL, "%s: more than %d addresses for at most %d paths", opt, 2 * RUN_MAX_PATHS,
			       RUN_MAX_PATHS);
	if (strlen(text) >= sizeof(g->addr.text))
		return err_set(e, -EINVAL, "%s: the address is longer than %zu characters", opt, sizeof(g->addr.text) - 1);
	g->peer = !strcmp(opt, "--peer");
	n = addr_resolve(text, !g->peer, g->addr.addr, e);
	if (n < 0) {
		err_prefix(e, "%s", opt);
		return -EINVAL;
	}
	snprintf(g->addr.text, sizeof(g->addr.text), "%s", text);
	g->addr.n = n;
	o->n_given++;
	return 0;
}

static int run_option(int id, const char *arg, struct run_opts *o, struct err *e)
{
	uint64_t n = 0;
	int level, rc;

	switch (id) {
	case OPT_NAME:
		rc = rundir_name_check(arg, e);
		if (rc) {
			err_prefix(e, "--name");
			return rc;
		}
		snprintf(o->name, sizeof(o->name), "%s", arg);
		return 0;
	case OPT_LISTEN:
		return run_addr("--listen", arg, o, e);
	case OPT_PEER:
		return run_addr("--peer", arg, o, e);
	case OPT_PRIMARY:
		o->role = RUN_PRIMARY;
		return 0;
	case OPT_PSK_FILE:
		return run_once("--psk-file", arg, &o->psk_file, e);
	case OPT_PSK_USER:
		return run_once("--psk-user", arg, &o->psk_user, e);
	case OPT_TLS_DIR:
		return run_once("--tls-dir", arg, &o->tls_dir, e);
	case OPT_WITNESS:
		if (o->witness_said)
			return err_set(e, -EINVAL, "--witness: there can be one only, or none");
		rc = witness_spec_parse(arg, &o->witness, e);
		if (rc)
			err_prefix(e, "--witness");
		o->witness_said = true;
		return rc;
	case OPT_NO_WITNESS:
		if (o->witness_said)
			return err_set(e, -EINVAL, "--no-witness: there can be one only, or none");
		o->witness_said = true;
		return 0;
	case OPT_STRICT_DEATH:
		o->strict_death = true;
		return 0;
	case OPT_FORCE_PRIMARY:
		o->force_primary = true;
		o->role = RUN_PRIMARY;
		return 0;
	case OPT_STATE_DIR:
		return run_path("--state-dir", arg, o->state_dir, e);
	case OPT_INSECURE:
		o->insecure = true;
		return 0;
	case OPT_HEARTBEAT:
		return run_ms("--heartbeat", arg, 1, &o->heartbeat, e);
	case OPT_TIMEOUT:
		return run_ms("--timeout", arg, 1, &o->timeout, e);
	case OPT_DELAY:
		return run_ms("--checkpoint-delay", arg, 1, &o->checkpoint_delay, e);
	case OPT_COMPARE:
		return run_setting("--compare-timeout", SETTING_COMPARE_TIMEOUT, arg, o, e);
	case OPT_SCAN:
		return run_setting("--expired-scan-cycle", SETTING_EXPIRED_SCAN_CYCLE, arg, o, e);
	case OPT_QUEUE:
		return run_setting("--max-queue-size", SETTING_MAX_QUEUE_SIZE, arg, o, e);
	case OPT_NIC:
		return run_text("--nic", arg, o->nics, &o->n_nics, RUN_MAX_NICS, e);
	case OPT_RULE:
		return run_text("--rule", arg, o->rules, &o->n_rules, RULES_MAX, e);
	case OPT_NO_HYBRID:
		o->no_hybrid = true;
		return 0;
	case OPT_COMPRESS:
		o->compress = true;
		return 0;
	case OPT_WORKERS:
		rc = cli_number("--copy-workers", arg, "threads", 1, WORKERS_MAX, &n, e);
		o->workers = (unsigned int)n;
		return rc;
	case OPT_NO_PRECOPY:
		o->no_precopy = true;
		return 0;
	case OPT_QEMU_TIMEOUT:
		return run_ms("--qemu-timeout", arg, 100, &o->qemu_timeout, e);
	case OPT_RUN_DIR:
		return run_path("--run-dir", arg, o->run_dir, e);
	case OPT_PRIVATE_LIMIT:
		return run_mb("--private-limit", arg, &o->private_limit, e);
	case OPT_STAGED_LIMIT:
		return run_mb("--staged-limit", arg, &o->staged_limit, e);
	case OPT_DISK_DIR:
		return run_path("--disk-dir", arg, o->disk_dir, e);
	case OPT_DISCARD:
		o->discard_disks = true;
		return 0;
	case OPT_RESYNC_RATE:
		return run_mb("--resync-rate", arg, &o->resync_rate, e);
	case OPT_SHARED_DISK:
		o->shared_disk = true;
		return 0;
	case OPT_FENCE:
		if (!*arg)
			return err_set(e, -EINVAL, "--fence-command: it is empty");
		o->fence_command = arg;
		return 0;
	case OPT_FENCE_TIMEOUT:
		return run_ms("--fence-timeout", arg, 100, &o->fence_timeout, e);
	case OPT_USER:
		rc = account_parse(arg, &o->user, e);
		if (rc)
			err_prefix(e, "--user");
		return rc;
	case OPT_NO_SANDBOX:
		o->no_sandbox = true;
		return 0;
	case OPT_SPILL_DIR:
		return run_path("--spill-dir", arg, o->spill_dir, e);
	case OPT_LOG_LEVEL:
		level = log_level_parse(arg);
		if (level < 0)
			return err_set(e, -EINVAL, "--log-level: '%.40s' is none of error, warn, note, info, debug, "
				       "trace", arg);
		o->log_level = (enum log_level)level;
		return 0;
	}
	return err_set(e, -EINVAL, "option %d is in no table", id);
}

/* Who begins as what, and whether the link may be open. */
static int run_check_role(struct run_opts *o, struct err *e)
{
	int rc = run_paths(o, addr_is_ours, e);

	if (rc)
		return rc;
	if (o->role == RUN_PRIMARY && !o->paths[0].other.n)
		return err_set(e, -EINVAL, "--primary needs --peer with the other node's address, not this node's alone: "
			       "where the VM begins the other one is asked first");
	for (unsigned int i = 0; i < o->n_paths && !o->insecure && !run_encrypted(o); i++) {
		const struct run_addr *a = o->paths[i].own.n ? &o->paths[i].own : &o->paths[i].other;

		if (!a->loopback)
			return err_set(e, -EINVAL, "%s %.80s: the link is not encrypted and not authenticated, so whoever "
				       "reaches this address could read and change the VM; give both nodes a key (--psk-file) "
				       "or certificates (--tls-dir), or say --insecure if the network between them is yours "
				       "alone", o->paths[i].own.n ? "--listen" : "--peer", a->text);
	}
	return 0;
}

static int run_check_witness(struct run_opts *o, struct err *e)
{
	for (unsigned int i = 0; i < o->n_paths && !o->witness_said; i++) {
		const struct run_addr *a = o->paths[i].own.n ? &o->paths[i].own : &o->paths[i].other;

		if (!a->loopback)
			return err_set(e, -EINVAL, "when the link is lost, who decides which node goes on? Give both nodes a witness "
				       "(--witness etcd:URL,..., disk:PATH or command:CMD), or say --no-witness: then both may come to "
				       "serve the VM at the same time");
	}
	return 0;
}

/* Where the state is when nobody says: it outlives a restart of the host, unless the run directory was chosen, too. */
static int run_state_dir(struct run_opts *o, bool chosen, struct err *e)
{
	const char *own = getenv("LOCKSTEP_STATE_DIR"), *home = getenv("HOME"), *xdg = getenv("XDG_STATE_HOME");
	int n;

	if (*o->state_dir)
		return 0;
	if (own && *own)
		return run_path("LOCKSTEP_STATE_DIR", own, o->state_dir, e);
	if (chosen)
		return run_path("--run-dir", o->run_dir, o->state_dir, e);
	if (!geteuid())
		n = snprintf(o->state_dir, sizeof(o->state_dir), "/var/lib/lockstep");
	else if (xdg && *xdg)
		n = snprintf(o->state_dir, sizeof(o->state_dir), "%s/lockstep", xdg);
	else if (home && *home)
		n = snprintf(o->state_dir, sizeof(o->state_dir), "%s/.local/state/lockstep", home);
	else
		return err_set(e, -EINVAL, "where is the state of the VM to be kept? Give --state-dir DIR");
	return n < (int)sizeof(o->state_dir) ? 0 : err_set(e, -EINVAL, "--state-dir: the directory's name is too long");
}

static int run_check_tls(struct run_opts *o, struct err *e)
{
	if (o->psk_file && o->tls_dir)
		return err_set(e, -EINVAL, "--psk-file and --tls-dir exclude each other");
	if (o->psk_user && !o->psk_file)
		return err_set(e, -EINVAL, "--psk-user goes with --psk-file");
	if (!o->psk_user)
		o->psk_user = TLS_DEF_USER;
	return 0;
}

static int run_check(struct run_opts *o, struct err *e)
{
	struct stat st;
	char path[PATH_MAX];
	bool chosen;
	int rc;

	if (!*o->name)
		return err_set(e, -EINVAL, "the VM needs a name, the same on both nodes: --name NAME");
	rc = run_check_tls(o, e);
	if (!rc)
		rc = run_check_role(o, e);
	if (!rc)
		rc = run_check_witness(o, e);
	if (rc)
		return rc;
	chosen = *o->run_dir || (getenv(RUNDIR_ENV) && *getenv(RUNDIR_ENV));
	if (o->timeout < RUN_MIN_BEATS * o->heartbeat)
		return err_set(e, -EINVAL, "--timeout %llu is too short: with a heartbeat every %llu ms it must be at "
			       "least %llu, or one late heartbeat would be taken for a death", o->timeout / NS_PER_MS,
			       o->heartbeat / NS_PER_MS, RUN_MIN_BEATS * o->heartbeat / NS_PER_MS);
	if (*o->fence_command && !o->shared_disk)
		return err_set(e, -EINVAL, "--fence-command is for --shared-disk: without shared disks nothing is fenced yet");
	if (o->shared_disk && o->discard_disks)
		return err_set(e, -EINVAL, "--discard-disks makes no sense with --shared-disk: there is one copy of each disk");
	if (stat(o->spill_dir, &st) < 0)
		return err_set(e, -EINVAL, "--spill-dir %.200s: %s", o->spill_dir, strerror(errno));
	if (!S_ISDIR(st.st_mode))
		return err_set(e, -EINVAL, "--spill-dir %.200s is not a directory", o->spill_dir);
	if (!*o->run_dir) {
		rc = rundir_default(o->run_dir, sizeof(o->run_dir), e);
		if (rc)
			return rc;
	}
	rc = run_state_dir(o, chosen, e);
	return rc ? rc : rundir_socket(o->run_dir, o->name, path, sizeof(path), e);
}

static const struct cli_opt *find_option(const char *name)
{
	for (const struct cli_opt *o = run_opts_table; o->name; o++)
		if (!strcmp(o->name, name))
			return o;
	return NULL;
}

/* One line of the configuration file. @given: options that the command line has */
static int config_option(const struct conf_opt *c, const bool *given, struct run_opts *o, struct err *e)
{
	const struct cli_opt *opt = find_option(c->name);
	bool yes;

	if (!opt)
		return err_set(e, -EINVAL, "there is no option '%.60s' of lockstep run", c->name);
	if (opt->id == OPT_CONFIG)
		return err_set(e, -EINVAL, "one configuration file cannot name another one");
	if (given[opt->id])
		return 0;
	if (opt->arg)
		return c->value ? run_option(opt->id, c->value, o, e) :
		       err_set(e, -EINVAL, "the option %s needs a value", c->name);
	yes = !c->value || !strcmp(c->value, "yes") || !strcmp(c->value, "on") || !strcmp(c->value, "true");
	if (!yes && strcmp(c->value, "no") && strcmp(c->value, "off") && strcmp(c->value, "false"))
		return err_set(e, -EINVAL, "the option %s takes no value but yes or no", c->name);
	/* A file is read at each start, also at those after this node has served, or has lost the VM to the other one. */
	if (yes && (opt->id == OPT_DISCARD || opt->id == OPT_FORCE_PRIMARY))
		return err_set(e, -EINVAL, "%s decides once: it is given on the command line, for the one start that it is meant for",
			       c->name);
	return yes ? run_option(opt->id, NULL, o, e) : 0;
}

/* Without a name in it, web.conf is the file of web. */
static void config_name(const char *path, struct run_opts *o)
{
	const char *base = strrchr(path, '/');
	struct err e;
	size_t n;

	base = base ? base + 1 : path;
	n = strlen(base);
	if (n <= 5 || strcmp(base + n - 5, ".conf") || n - 5 >= sizeof(o->name))
		return;
	snprintf(o->name, sizeof(o->name), "%.*s", (int)(n - 5), base);
	if (rundir_name_check(o->name, &e))
		o->name[0] = '\0';
}

/* @o has what the command line says. */
static int run_config(const char *path, const bool *given, struct run_opts *o, struct err *e)
{
	int rc;

	o->conf = conf_read(path, e);
	if (!o->conf) {
		err_prefix(e, "--config");
		return -EINVAL;
	}
	for (unsigned int i = 0; i < o->conf->n_opts; i++) {
		rc = config_option(&o->conf->opt[i], given, o, e);
		if (rc) {
			err_prefix(e, "%s:%u", path, o->conf->opt[i].line);
			return rc;
		}
	}
	if (!*o->name)
		config_name(path, o);
	return 0;
}

void run_args_free(struct run_opts *o)
{
	conf_free(o->conf);
	o->conf = NULL;
}

int run_args_parse(int argc, char **argv, struct run_opts *o, struct err *e)
{
	struct cli_args a = { .cmd = &cmd_run, .argc = argc, .argv = argv,
			      .stray = "; options of QEMU come after the --, behind the QEMU command" };
	bool given[OPT_LAST] = { 0 };
	const char *config = NULL;
	int id, rc;

	*o = (struct run_opts){
		.role = RUN_SECONDARY,
		.heartbeat = RUN_HEARTBEAT_MS * NS_PER_MS,
		.timeout = RUN_TIMEOUT_MS * NS_PER_MS,
		.checkpoint_delay = RUN_DELAY_MS * NS_PER_MS,
		.compare_timeout = RUN_COMPARE_MS * NS_PER_MS,
		.expired_scan_cycle = RUN_SCAN_MS * NS_PER_MS,
		.max_queue_size = RUN_QUEUE,
		.qemu_timeout = RUN_QEMU_MS * NS_PER_MS,
		.spill_dir = RUN_SPILL_DIR,
		.fence_command = "",
		.fence_timeout = RUN_FENCE_MS * NS_PER_MS,
		.log_level = LOG_INFO,
	};
	while ((id = cli_next(&a, e)) > 0) {
		if (id == CLI_HELP)
			return RUN_HELP;
		if (id == OPT_CONFIG && config)
			return err_set(e, -EINVAL, "--config was given twice");
		given[id] = true;
		if (id == OPT_CONFIG)
			config = a.arg;
		rc = id == OPT_CONFIG ? 0 : run_option(id, a.arg, o, e);
		if (rc)
			return rc;
	}
	if (id < 0)
		return id;
	if (config) {
		rc = run_config(config, given, o, e);
		if (rc)
			return rc;
	}
	if (!a.dashes && a.rest < argc)
		return err_set(e, -EINVAL, "unexpected word '%.60s': the QEMU command comes after --, " EXAMPLE,
			       argv[a.rest]);
	if (a.rest == argc && o->conf && o->conf->qemu) {
		argc = o->conf->n_qemu;
		argv = o->conf->qemu;
		a.rest = 0;
	}
	if (a.rest == argc && config)
		return err_set(e, -EINVAL, "the QEMU command is missing: there is no [qemu] in %.200s", config);
	if (a.rest == argc)
		return err_set(e, -EINVAL, "the QEMU command is missing%s, " EXAMPLE,
			       a.dashes ? " after the --" : ": it comes after --");
	if (!*argv[a.rest] || *argv[a.rest] == '-')
		return err_set(e, -EINVAL, "the QEMU command must begin with the program, not with '%.60s', " EXAMPLE,
			       argv[a.rest]);
	o->qemu_argc = argc - a.rest;
	o->qemu_argv = argv + a.rest;
	return run_check(o, e);
}
