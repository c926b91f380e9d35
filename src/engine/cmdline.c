/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Reading QEMU's command line. The goal: the user keeps the line they have, Lockstep takes over the few options that
 * are its own business (memory backend, network, monitor, what happens at shutdown), hands the rest on in the user's
 * words and order, and refuses with a sentence what it cannot protect.
 *
 * One table names every option of QEMU 7.2 to 10.0: whether a word follows, and what becomes of it. An option that is
 * not in it (a newer QEMU's) is handed on, with the next word unless that begins with a dash, and QEMU judges it; the
 * two nodes compare it as text. So is one that this QEMU does not have any more.
 *
 * What is not on the line must not matter: -no-user-config is added (cmdbuild.c), -readconfig and -set refused.
 *
 * Runs before anything else, in the main thread. Not done: reading QEMU's own option table from the binary, which
 * says what exists but not what it means for a second copy.
 */
#include "engine/cmdline.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/driveopt.h"
#include "engine/hwopt.h"
#include "engine/machopt.h"
#include "engine/netopt.h"

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

struct option {
	const char *name;
	bool has_arg;
	int (*take)(struct cmdline *c, const struct option *o, const char *arg, struct err *e);
	const char *text;		/* of a refusal: why; of a list: its implied key; of -hda: its index */
};

void cmdline_note(struct cmdline *c, const char *fmt, ...)
{
	va_list ap;

	if (c->n_notes >= CMDLINE_NOTES_MAX)
		return;
	va_start(ap, fmt);
	if (vasprintf(&c->notes[c->n_notes], fmt, ap) >= 0)
		c->n_notes++;
	va_end(ap);
}

static int no_memory(struct err *e)
{
	return err_set(e, -ENOMEM, "no memory for the command line");
}

int cmdline_keep(struct cmdline *c, const char *name, const char *arg, enum cmdopt_kind kind, struct kvlist *kv,
		 struct err *e)
{
	struct cmdopt *o = realloc(c->opts, (c->n_opts + 1) * sizeof(*o));

	if (o) {
		c->opts = o;
		o += c->n_opts++;
		memset(o, 0, sizeof(*o));
		o->kind = kind;
		o->name = strdup(name);
		o->arg = arg ? strdup(arg) : NULL;
		if (kv) {
			o->kv = *kv;
			memset(kv, 0, sizeof(*kv));
		}
		if (o->name && (o->arg || !arg))
			return 0;
	}
	if (kv)
		kvlist_free(kv);
	return no_memory(e);
}

static int replace(char **to, const char *text, struct err *e)
{
	char *copy = strdup(text);

	if (!copy)
		return no_memory(e);
	free(*to);
	*to = copy;
	return 0;
}

/* What becomes of an option: handed on, refused, or taken over. */

static int pass_host(struct cmdline *c, const struct option *o, const char *arg, struct err *e)
{
	return cmdline_keep(c, o->name, arg, CMDOPT_HOST, NULL, e);
}

static int pass_text(struct cmdline *c, const struct option *o, const char *arg, struct err *e)
{
	return cmdline_keep(c, o->name, arg, CMDOPT_TEXT, NULL, e);
}

static int pass_file(struct cmdline *c, const struct option *o, const char *arg, struct err *e)
{
	return cmdline_keep(c, o->name, arg, CMDOPT_FILE, NULL, e);
}

static int pass_own_file(struct cmdline *c, const struct option *o, const char *arg, struct err *e)
{
	return cmdline_keep(c, o->name, arg, CMDOPT_OWN_FILE, NULL, e);
}

static int pass_list(struct cmdline *c, const struct option *o, const char *arg, struct err *e)
{
	struct kvlist kv;
	int rc;

	rc = kvlist_parse(&kv, arg, o->text, e);
	if (rc) {
		err_prefix(e, "-%s %.80s", o->name, arg);
		return rc;
	}
	return cmdline_keep(c, o->name, arg, CMDOPT_LIST, &kv, e);
}

static int refuse(struct cmdline *c, const struct option *o, const char *arg, struct err *e)
{
	return err_set(e, -ENOTSUP, "-%s%s%.80s: %s", o->name, arg ? " " : "", arg ? arg : "", o->text);
}

static int take_machine(struct cmdline *c, const struct option *o, const char *arg, struct err *e)
{
	return machopt_take(c, o->name, arg, e);
}

static int take_enable_kvm(struct cmdline *c, const struct option *o, const char *arg, struct err *e)
{
	return machopt_take(c, "accel", "kvm", e);
}

static int take_netdev(struct cmdline *c, const struct option *o, const char *arg, struct err *e)
{
	c->net_given = true;
	return netopt_netdev(c, arg, e);
}

static int take_nic(struct cmdline *c, const struct option *o, const char *arg, struct err *e)
{
	c->net_given = true;
	return netopt_nic(c, arg, e);
}

static int take_nodefaults(struct cmdline *c, const struct option *o, const char *arg, struct err *e)
{
	c->net_given = true;
	c->nodefaults = true;
	return pass_text(c, o, arg, e);
}

static int take_device(struct cmdline *c, const struct option *o, const char *arg, struct err *e)
{
	return hwopt_device(c, arg, e);
}

static int take_object(struct cmdline *c, const struct option *o, const char *arg, struct err *e)
{
	return hwopt_object(c, arg, e);
}

static int take_drive(struct cmdline *c, const struct option *o, const char *arg, struct err *e)
{
	return hwopt_drive(c, arg, e);
}

static int take_hd(struct cmdline *c, const struct option *o, const char *arg, struct err *e)
{
	return driveopt_hd(c, o->name, o->text, arg, e);
}

static int take_blockdev(struct cmdline *c, const struct option *o, const char *arg, struct err *e)
{
	return hwopt_blockdev(c, arg, e);
}

static int take_chardev(struct cmdline *c, const struct option *o, const char *arg, struct err *e)
{
	return hwopt_chardev(c, arg, e);
}

static int take_global(struct cmdline *c, const struct option *o, const char *arg, struct err *e)
{
	return hwopt_global(c, arg, e);
}

static int take_monitor(struct cmdline *c, const struct option *o, const char *arg, struct err *e)
{
	if (strcmp(arg, "none"))
		return err_set(e, -ENOTSUP, "-monitor %.80s: a monitor would change one copy of the VM behind "
			       "Lockstep's back; leave it out, or write -monitor none", arg);
	return 0;	/* it is added in any case */
}

/* "mon:" puts a monitor onto the same line: the line stays, the monitor goes. */
static int take_serial(struct cmdline *c, const struct option *o, const char *arg, struct err *e)
{
	if (!strncmp(arg, "mon:", 4)) {
		arg += 4;
		cmdline_note(c, "-%s mon:%.60s became -%s %.60s: Lockstep's VM has no monitor of its own", o->name, arg,
			     o->name, arg);
	}
	return cmdline_keep(c, o->name, arg, CMDOPT_HOST, NULL, e);
}

static int take_nographic(struct cmdline *c, const struct option *o, const char *arg, struct err *e)
{
	c->nographic = true;
	return pass_host(c, o, arg, e);
}

/* -no-shutdown is always set, so that a guest's poweroff is no death; what the user wants is remembered. */
static int take_no_shutdown(struct cmdline *c, const struct option *o, const char *arg, struct err *e)
{
	c->no_shutdown = true;
	return 0;
}

static int take_no_reboot(struct cmdline *c, const struct option *o, const char *arg, struct err *e)
{
	c->no_reboot = true;
	return 0;
}

static int take_action(struct cmdline *c, const struct option *o, const char *arg, struct err *e)
{
	const char *panic, *shutdown, *reboot;
	struct kvlist kv;
	char *rest = NULL;
	int rc;

	rc = kvlist_parse(&kv, arg, NULL, e);
	if (rc) {
		err_prefix(e, "-action %.80s", arg);
		return rc;
	}
	panic = kvlist_get(&kv, "panic");
	shutdown = kvlist_get(&kv, "shutdown");
	reboot = kvlist_get(&kv, "reboot");
	if (shutdown)
		c->no_shutdown = !strcmp(shutdown, "pause");
	if (reboot)
		c->no_reboot = !strcmp(reboot, "shutdown");
	if (panic)
		c->panic = !strcmp(panic, "pause") ? PANIC_PAUSE : !strcmp(panic, "none") ? PANIC_NONE : PANIC_SHUTDOWN;
	if (panic && !strcmp(panic, "exit-failure"))
		rc = err_set(e, -ENOTSUP, "-action panic=exit-failure: QEMU's exit would be taken for its death; write "
			     "panic=shutdown");
	kvlist_del(&kv, "shutdown");
	kvlist_del(&kv, "reboot");
	if (!rc && kv.n) {
		rest = kvlist_format(&kv, NULL);
		rc = rest ? cmdline_keep(c, "action", rest, CMDOPT_TEXT, NULL, e) : no_memory(e);
	}
	free(rest);
	kvlist_free(&kv);
	return rc;
}

static int take_usbdevice(struct cmdline *c, const struct option *o, const char *arg, struct err *e)
{
	if (!strncmp(arg, "host", 4))
		return err_set(e, -ENOTSUP, "-usbdevice %.80s: a device of the host's has its state in hardware, "
			       "which no other host can continue", arg);
	return pass_text(c, o, arg, e);
}

static int take_overcommit(struct cmdline *c, const struct option *o, const char *arg, struct err *e)
{
	struct kvlist kv;
	int rc;

	rc = kvlist_parse(&kv, arg, NULL, e);
	if (!rc && kvlist_bool(&kv, "mem-lock", 0))
		rc = err_set(e, -ENOTSUP, "mem-lock=: locking would copy each page that the SVM shares with the "
			     "checkpoint image; leave it out");
	kvlist_free(&kv);
	if (rc) {
		err_prefix(e, "-overcommit %.80s", arg);
		return rc;
	}
	return pass_host(c, o, arg, e);
}

static int take_icount(struct cmdline *c, const struct option *o, const char *arg, struct err *e)
{
	struct kvlist kv;
	const char *rr;
	int rc;

	rc = kvlist_parse(&kv, arg, "shift", e);
	rr = rc ? NULL : kvlist_get(&kv, "rr");
	if (rr && strcmp(rr, "none"))
		rc = err_set(e, -ENOTSUP, "-icount %.80s: recording and replaying is another way to make two runs "
			     "equal, and does not go together with checkpoints", arg);
	kvlist_free(&kv);
	return rc ? rc : pass_text(c, o, arg, e);
}

static int take_mem_prealloc(struct cmdline *c, const struct option *o, const char *arg, struct err *e)
{
	cmdline_note(c, "-mem-prealloc was left out: Lockstep reserves the guest's memory itself");
	return 0;
}

static int drop(struct cmdline *c, const struct option *o, const char *arg, struct err *e)
{
	return 0;	/* it is added in any case */
}

#define NO_MONITOR	"commands from elsewhere would change one copy of the VM behind Lockstep's back; " \
			"QMP for users comes later, leave it out"
#define NO_MEMORY	"Lockstep provides the guest's memory itself, and the other copy maps it; " \
			"leave it out and say -m"
#define NO_XEN		"Xen is not supported"
#define NO_QUESTION	"this is a question for QEMU, not a machine; ask it without lockstep run"
#define NO_CREDS	"a change of user inside QEMU would undo what kills QEMU when Lockstep dies; leave it out, and say " \
			"--user NAME before the --: then Lockstep starts QEMU as that user"
#define NO_HOSTDIR	"it gives the guest a directory of the host's, which is not replicated"

static const struct option options[] = {
	{ "machine", true, take_machine },
	{ "M", true, take_machine },
	{ "m", true, take_machine },
	{ "smp", true, take_machine },
	{ "cpu", true, take_machine },
	{ "accel", true, take_machine },
	{ "enable-kvm", false, take_enable_kvm },
	{ "netdev", true, take_netdev },
	{ "nic", true, take_nic },
	{ "net", true, refuse, "the old way of naming networks; write "
			       "-nic tap,ifname=...,script=no,downscript=no,model=... (or -nic none)" },
	{ "device", true, take_device },
	{ "object", true, take_object },
	{ "global", true, take_global },
	{ "rtc", true, take_machine },
	{ "action", true, take_action },
	{ "no-shutdown", false, take_no_shutdown },
	{ "no-reboot", false, take_no_reboot },
	{ "nodefaults", false, take_nodefaults },
	{ "nographic", false, take_nographic },

	/* Consoles and monitors. */
	{ "serial", true, take_serial },
	{ "parallel", true, take_serial },
	{ "debugcon", true, take_serial },
	{ "chardev", true, take_chardev },
	{ "monitor", true, take_monitor },
	{ "qmp", true, refuse, NO_MONITOR },
	{ "qmp-pretty", true, refuse, NO_MONITOR },
	{ "mon", true, refuse, NO_MONITOR },
	{ "gdb", true, refuse, "a debugger would stop and change one copy of the VM behind Lockstep's back" },
	{ "s", false, refuse, "a debugger would stop and change one copy of the VM behind Lockstep's back" },
	{ "qtest", true, refuse, "a test harness would drive one copy of the VM behind Lockstep's back" },
	{ "qtest-log", true, refuse, "a test harness would drive one copy of the VM behind Lockstep's back" },

	/* Drives. */
	{ "drive", true, take_drive },
	{ "blockdev", true, take_blockdev },
	{ "cdrom", true, pass_file },
	{ "hda", true, take_hd, "0" },
	{ "hdb", true, take_hd, "1" },
	{ "hdc", true, take_hd, "2" },
	{ "hdd", true, take_hd, "3" },
	{ "fda", true, refuse, "floppy disks are not supported" },
	{ "fdb", true, refuse, "floppy disks are not supported" },
	{ "sd", true, refuse, "SD cards are not supported" },
	{ "mtdblock", true, refuse, "flash memory that the guest can write is not protected by this release" },
	{ "pflash", true, pass_own_file },
	{ "snapshot", false, refuse, "a drive whose writes are thrown away cannot be protected; leave it out" },
	{ "fsdev", true, refuse, NO_HOSTDIR },
	{ "virtfs", true, refuse, NO_HOSTDIR },
	{ "iscsi", true, pass_host },

	/* Memory. */
	{ "mem-path", true, refuse, NO_MEMORY },
	{ "mem-prealloc", false, take_mem_prealloc },
	{ "numa", true, refuse, "a machine with several memory nodes is not supported" },
	{ "overcommit", true, take_overcommit },

	/* How the machine starts, lives and ends. */
	{ "S", false, refuse, "a VM that starts stopped is not supported; leave it out" },
	{ "incoming", true, refuse, "the VM's state comes from its peer; a migration into it is not supported" },
	{ "loadvm", true, refuse, "the VM's state comes from its peer; starting from a snapshot is not supported" },
	{ "daemonize", false, refuse, "QEMU must stay Lockstep's child; put lockstep run itself into the background" },
	{ "preconfig", false, refuse, "a machine that is configured over QMP is not supported" },
	{ "readconfig", true, refuse, "options must stand on the command line, where Lockstep sees them" },
	{ "writeconfig", true, refuse, "it is not supported" },
	{ "set", true, refuse, "write it at the option itself, where Lockstep sees it" },
	{ "add-fd", true, refuse, "open files are not handed on to QEMU; give a path" },
	{ "runas", true, refuse, NO_CREDS },
	{ "run-with", true, refuse, NO_CREDS },
	{ "chroot", true, refuse, "QEMU must see the files that Lockstep sees" },
	{ "compat", true, refuse, "it would change the language that Lockstep speaks with QEMU" },
	{ "icount", true, take_icount },
	{ "no-user-config", false, drop },
	{ "only-migratable", false, drop },
	{ "sandbox", true, pass_host },
	{ "async-teardown", false, refuse, "a helper process would keep the memory of a killed QEMU alive" },

	/* Shape of the machine. */
	{ "kernel", true, pass_file },
	{ "initrd", true, pass_file },
	{ "append", true, pass_text },
	{ "dtb", true, pass_file },
	{ "shim", true, pass_file },
	{ "bios", true, pass_file },
	{ "option-rom", true, pass_list, "romfile" },
	{ "acpitable", true, pass_list },
	{ "smbios", true, pass_list },
	{ "fw_cfg", true, pass_list, "name" },
	{ "boot", true, pass_list, "order" },
	{ "uuid", true, pass_text },
	{ "vga", true, pass_text },
	{ "usb", false, pass_text },
	{ "usbdevice", true, take_usbdevice },
	{ "no-acpi", false, pass_text },
	{ "no-hpet", false, pass_text },
	{ "no-fd-bootchk", false, pass_text },
	{ "win2k-hack", false, pass_text },
	{ "g", true, pass_text },
	{ "prom-env", true, pass_text },
	{ "watchdog", true, pass_text },
	{ "watchdog-action", true, pass_text },
	{ "singlestep", false, pass_host },
	{ "semihosting", false, refuse, "it gives the guest files of the host's, which are not replicated" },
	{ "semihosting-config", true, refuse, "it gives the guest files of the host's, which are not replicated" },
	{ "old-param", false, pass_text },
	{ "tpmdev", true, refuse, "the state of a TPM lives outside of QEMU and is not replicated" },
	{ "xen-domid", true, refuse, NO_XEN },
	{ "xen-attach", false, refuse, NO_XEN },
	{ "xen-domid-restrict", false, refuse, NO_XEN },

	/* This host's own. */
	{ "name", true, pass_host },
	{ "pidfile", true, pass_host },
	{ "display", true, pass_host },
	{ "vnc", true, pass_host },
	{ "spice", true, pass_host },
	{ "portrait", false, pass_host },
	{ "rotate", true, pass_host },
	{ "full-screen", false, pass_host },
	{ "k", true, pass_host },
	{ "audio", true, pass_text },
	{ "audiodev", true, pass_host },
	{ "L", true, pass_host },
	{ "D", true, pass_host },
	{ "d", true, pass_host },
	{ "dfilter", true, pass_host },
	{ "seed", true, pass_host },
	{ "trace", true, pass_host },
	{ "plugin", true, pass_host },
	{ "perfmap", false, pass_host },
	{ "jitdump", false, pass_host },
	{ "msg", true, pass_host },
	{ "echr", true, pass_host },
	{ "enable-sync-profile", false, pass_host },

	{ "h", false, refuse, NO_QUESTION },
	{ "help", false, refuse, NO_QUESTION },
	{ "version", false, refuse, NO_QUESTION },
	{ "audio-help", false, refuse, NO_QUESTION },
	{ "dump-vmstate", true, refuse, NO_QUESTION },
};

static const struct option *find_option(const char *name)
{
	for (size_t i = 0; i < ARRAY_LEN(options); i++)
		if (!strcmp(options[i].name, name))
			return &options[i];
	return NULL;
}

/* One option at @argv[i]. Return: words used, or -errno */
static int take_word(struct cmdline *c, int argc, char *const *argv, int i, struct err *e)
{
	const char *name = argv[i], *arg = NULL;
	const struct option *o;
	struct option unknown = { .take = pass_text };
	int rc;

	if (name[0] != '-' || !name[1]) {
		rc = driveopt_hd(c, NULL, "0", name, e);
		return rc ? rc : 1;
	}
	name += name[1] == '-' ? 2 : 1;
	o = find_option(name);
	if (!o) {
		unknown.name = name;
		unknown.has_arg = i + 1 < argc && argv[i + 1][0] != '-';
		o = &unknown;
	}
	if (o->has_arg) {
		if (i + 1 >= argc)
			return err_set(e, -EINVAL, "-%s needs a value", name);
		arg = argv[i + 1];
		if (!strcmp(arg, "help") || !strcmp(arg, "?"))
			return err_set(e, -ENOTSUP, "-%s %s: " NO_QUESTION, name, arg);
	}
	rc = o->take(c, o, arg, e);
	return rc ? rc : 1 + o->has_arg;
}

int cmdline_parse(int argc, char *const *argv, struct cmdline *out, struct err *e)
{
	int rc;

	memset(out, 0, sizeof(*out));
	if (argc < 1 || !argv[0][0] || argv[0][0] == '-')
		return err_set(e, -EINVAL, "QEMU's command line is missing: write -- qemu-system-x86_64 ... at the "
			       "end");
	if (argc > CMDLINE_ARGS_MAX)
		return err_set(e, -E2BIG, "QEMU's command line has more than %d words", CMDLINE_ARGS_MAX);
	rc = replace(&out->binary, argv[0], e);
	for (int i = 1; i < argc && rc >= 0;) {
		rc = take_word(out, argc, argv, i, e);
		i += rc;
	}
	if (rc < 0)
		return rc;
	rc = machopt_finish(out, e);
	if (!rc)
		rc = netopt_finish(out, e);
	if (!rc)
		rc = driveopt_finish(out, e);
	return rc;
}

void cmdline_free(struct cmdline *c)
{
	for (unsigned int i = 0; i < c->n_opts; i++) {
		free(c->opts[i].name);
		free(c->opts[i].arg);
		kvlist_free(&c->opts[i].kv);
	}
	free(c->opts);
	for (unsigned int i = 0; i < c->n_nics; i++) {
		free(c->nics[i].id);
		free(c->nics[i].model);
	}
	for (unsigned int i = 0; i < c->n_disks; i++) {
		free(c->disks[i].id);
		free(c->disks[i].path);
		free(c->disks[i].format);
	}
	for (unsigned int i = 0; i < c->n_notes; i++)
		free(c->notes[i]);
	kvlist_free(&c->machine_kv);
	kvlist_free(&c->smp_kv);
	kvlist_free(&c->rtc_kv);
	kvlist_free(&c->m_kv);
	free(c->binary);
	free(c->accel_arg);
	free(c->machine);
	free(c->cpu);
	memset(c, 0, sizeof(*c));
}
