/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Devices, objects and drives on QEMU's command line: which of them a second machine cannot continue. QEMU itself
 * is asked too (-only-migratable), but it does not know our reasons: the SVM maps the checkpoint image privately, so
 * nothing may free parts of guest memory or give it to others, and what lives outside of QEMU is not in the state.
 * Runs before anything else, in the main thread.
 */
#include "engine/hwopt.h"

#include <errno.h>
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

#include "engine/driveopt.h"

struct rule {
	const char *pattern, *why;	/* shell pattern of the type's name */
};

#define FREES_MEMORY	"it frees guest memory at run time, which the other copy would not see"
#define ADDS_MEMORY	"memory that is plugged in is not replicated; give all of it with -m"
#define PASSED_THROUGH	"a device of the host's has its state in hardware, which no other host can continue"
#define OTHER_PROCESS	"its state lives in another process, which is not replicated"
#define SHARED_MEMORY	"it shares memory with other processes, which are not replicated"
#define RESET_WRITES	"it writes into the guest's memory or a processor again at each reset, also at the one that " \
			"loading a checkpoint begins with"
#define OTHER_NETWORK	"its packets would bypass Lockstep"

static const struct rule devices[] = {
	{ "virtio-balloon*", FREES_MEMORY },
	{ "hv-balloon", FREES_MEMORY },
	{ "virtio-mem*", ADDS_MEMORY },
	{ "pc-dimm", ADDS_MEMORY },
	{ "nvdimm", ADDS_MEMORY },
	{ "virtio-pmem*", "it is backed by a file of the host's, which is not replicated" },
	{ "cxl-*", ADDS_MEMORY },
	{ "vfio-*", PASSED_THROUGH },
	{ "*-assign", PASSED_THROUGH },
	{ "usb-host", PASSED_THROUGH },
	{ "usb-redir", PASSED_THROUGH },
	{ "u2f-passthru", PASSED_THROUGH },
	{ "scsi-block", PASSED_THROUGH },
	{ "scsi-generic", PASSED_THROUGH },
	{ "virtio-input-host*", PASSED_THROUGH },
	{ "ccid-card-*", PASSED_THROUGH },
	{ "vhost-*", OTHER_PROCESS },
	{ "tpm-*", OTHER_PROCESS },
	{ "x-pci-proxy-dev", OTHER_PROCESS },
	{ "ivshmem*", SHARED_MEMORY },
	{ "virtio-9p*", "it gives the guest a directory of the host's, which is not replicated" },
	{ "usb-mtp", "it gives the guest a directory of the host's, which is not replicated" },
	{ "rocker", OTHER_NETWORK },
	{ "xen*", "Xen is not supported" },
	{ "sgx-epc", "encrypted memory cannot be replicated" },
	{ "virtio-gpu-gl*", "its state lives in the host's graphics driver" },
	{ "virtio-vga-gl*", "its state lives in the host's graphics driver" },
	{ "virtio-gpu-rutabaga*", "its state lives in the host's graphics driver" },
	{ "loader", RESET_WRITES },
	{ "guest-loader", RESET_WRITES },
	{ "floppy", "floppy disks are not supported" },
	{ "sd-card", "SD cards are not supported" },
};

static const struct rule objects[] = {
	{ "memory-backend-*", "Lockstep provides the guest's memory itself; leave it out and say -m" },
	{ "filter-*", "Lockstep is the filter: it stands between QEMU and the network itself" },
	{ "colo-compare", "Lockstep compares by itself; this belongs to QEMU's own COLO" },
	{ "*-guest", "encrypted memory cannot be replicated" },
	{ "cryptodev-vhost-user", OTHER_PROCESS },
	{ "x-remote-object", OTHER_PROCESS },
	{ "x-vfio-user-server", OTHER_PROCESS },
	{ "vfio-user-server", OTHER_PROCESS },
	{ "iommufd", PASSED_THROUGH },
	{ "input-linux", "input of the host's would reach one copy of the VM only" },
	{ "input-barrier", "input of the host's would reach one copy of the VM only" },
	{ "can-host-*", OTHER_NETWORK },
	{ "pr-manager-helper", PASSED_THROUGH },
};

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

static const char *why_not(const struct rule *rules, size_t n, const char *type)
{
	for (size_t i = 0; i < n; i++)
		if (!fnmatch(rules[i].pattern, type, 0))
			return rules[i].why;
	return NULL;
}

/* Hand a read option on, unless @rc or its id says no; @kv is taken over in any case. */
static int keep_list(struct cmdline *c, const char *name, const char *arg, struct kvlist *kv, int rc, struct err *e)
{
	static const char *const ids[] = { "id", "node-name" };

	for (unsigned int i = 0; i < ARRAY_LEN(ids) && !rc; i++) {
		const char *id = kvlist_get(kv, ids[i]);

		if (id && !strncmp(id, CMDLINE_OWN_ID, strlen(CMDLINE_OWN_ID)))
			rc = err_set(e, -EINVAL, "ids that begin with " CMDLINE_OWN_ID " are Lockstep's own");
	}
	if (rc)
		kvlist_free(kv);
	else
		rc = cmdline_keep(c, name, arg, CMDOPT_LIST, kv, e);
	if (rc)
		err_prefix(e, "-%s %.100s", name, arg);
	return rc;
}

int hwopt_device(struct cmdline *c, const char *arg, struct err *e)
{
	const char *driver, *why, *guid;
	struct kvlist kv;
	int rc;

	rc = kvlist_parse(&kv, arg, "driver", e);
	if (rc)
		return keep_list(c, "device", arg, &kv, rc, e);
	driver = kvlist_get(&kv, "driver");
	if (!driver || !driver[0]) {
		rc = err_set(e, -EINVAL, "which device? It begins with the device's name");
		return keep_list(c, "device", arg, &kv, rc, e);
	}
	why = why_not(devices, ARRAY_LEN(devices), driver);
	guid = kvlist_get(&kv, "guid");
	if (why)
		rc = err_set(e, -ENOTSUP, "%s", why);
	else if (!strcmp(driver, "vmgenid") && guid && !strcmp(guid, "auto"))
		rc = err_set(e, -ENOTSUP, "guid=auto would be a different one on each node; write one out");
	else if (!strncmp(driver, "uefi-vars", strlen("uefi-vars")) && kvlist_get(&kv, "jsonfile"))
		rc = err_set(e, -ENOTSUP, "jsonfile=: the variables would be kept in a file of the host's, which is not "
			     "replicated; without it they are part of the state");
	return keep_list(c, "device", arg, &kv, rc, e);
}

int hwopt_object(struct cmdline *c, const char *arg, struct err *e)
{
	const char *type, *why;
	struct kvlist kv;
	int rc;

	rc = kvlist_parse(&kv, arg, "qom-type", e);
	if (!rc) {
		type = kvlist_get(&kv, "qom-type");
		why = type ? why_not(objects, ARRAY_LEN(objects), type) : NULL;
		if (why)
			rc = err_set(e, -ENOTSUP, "%s", why);
	}
	return keep_list(c, "object", arg, &kv, rc, e);
}

bool hwopt_is_flash(const struct kvlist *kv)
{
	const char *bus = kvlist_get(kv, "if");

	return bus && !strcmp(bus, "pflash") && kvlist_bool(kv, "readonly", 0) != 1 &&
	       kvlist_bool(kv, "read-only", 0) != 1;
}

int hwopt_drive(struct cmdline *c, const char *arg, struct err *e)
{
	const char *bus, *media;
	struct kvlist kv;
	bool read_only;
	int rc;

	rc = kvlist_parse(&kv, arg, "file", e);
	if (rc)
		return keep_list(c, "drive", arg, &kv, rc, e);
	bus = kvlist_get(&kv, "if");
	media = kvlist_get(&kv, "media");
	read_only = kvlist_bool(&kv, "readonly", 0) == 1 || kvlist_bool(&kv, "read-only", 0) == 1 ||
		    (media && !strcmp(media, "cdrom"));
	if (bus && (!strcmp(bus, "floppy") || !strcmp(bus, "sd") || !strcmp(bus, "mtd")))
		rc = err_set(e, -ENOTSUP, "if=%s is not supported", bus);
	else if (kvlist_bool(&kv, "snapshot", 0))
		rc = err_set(e, -ENOTSUP, "snapshot=on: a drive whose writes are thrown away is a writable one");
	else if (!read_only && !hwopt_is_flash(&kv))
		return driveopt_drive(c, arg, &kv, e);
	return keep_list(c, "drive", arg, &kv, rc, e);
}

int hwopt_blockdev(struct cmdline *c, const char *arg, struct err *e)
{
	struct kvlist kv;
	int rc;

	rc = kvlist_parse(&kv, arg, "driver", e);
	/* Which of them make a drive is seen when all have been read: driveopt_finish(). */
	return keep_list(c, "blockdev", arg, &kv, rc, e);
}

int hwopt_chardev(struct cmdline *c, const char *arg, struct err *e)
{
	struct kvlist kv;
	int rc;

	/* Its other end is this host's own; only the id must not be ours. */
	rc = kvlist_parse(&kv, arg, "backend", e);
	rc = keep_list(c, "chardev", arg, &kv, rc, e);
	if (!rc)
		c->opts[c->n_opts - 1].kind = CMDOPT_HOST;
	return rc;
}

int hwopt_global(struct cmdline *c, const char *arg, struct err *e)
{
	const char *driver, *prefix = "migration.";
	struct kvlist kv;
	int rc;

	rc = kvlist_parse(&kv, arg, NULL, e);
	if (!rc) {
		driver = kvlist_get(&kv, "driver");
		if (!strncmp(arg, prefix, strlen(prefix)) || (driver && !strcmp(driver, "migration")))
			rc = err_set(e, -ENOTSUP, "how QEMU writes its state is Lockstep's business");
	}
	return keep_list(c, "global", arg, &kv, rc, e);
}
