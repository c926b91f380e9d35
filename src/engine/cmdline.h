/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef ENGINE_CMDLINE_H
#define ENGINE_CMDLINE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "engine/args.h"

enum {
	CMDLINE_ARGS_MAX = 4096,	/* words of a QEMU command line */
	CMDLINE_NICS_MAX = 8,		/* network cards */
	CMDLINE_DISKS_MAX = 32,		/* writable drives */
	CMDLINE_SOCKET_MAX = 107,	/* bytes of a unix socket's path: sizeof(sun_path) - 1 */
	CMDLINE_NOTES_MAX = 16,		/* things changed that the user may want to know */
	CMDLINE_IFNAME_MAX = 15,	/* the kernel's IFNAMSIZ - 1 */
	CMDLINE_SMP_MAX = 4096,
};

#define CMDLINE_MEM_DEFAULT	(128ull << 20)	/* QEMU's, when there is no -m */
#define CMDLINE_MEM_ALIGN	8192ull		/* QEMU rounds memory up to this */
#define CMDLINE_OWN_ID		"lockstep-"	/* ids that begin so are ours */
#define CMDLINE_RAM_ID		"lockstep-ram"
#define CMDLINE_QMP_ID		"lockstep-qmp"

enum cmdline_accel { ACCEL_TCG, ACCEL_KVM };

/* How the two nodes compare an option that is passed on. */
enum cmdopt_kind {
	CMDOPT_HOST,		/* not at all: it concerns this host only */
	CMDOPT_TEXT,		/* as text */
	CMDOPT_LIST,		/* as a list of keys, host paths by the content of what they name */
	CMDOPT_FILE,		/* a host path: by the content of the file */
	CMDOPT_OWN_FILE,	/* a host path that each node writes for itself: by the size of the file */
	CMDOPT_DISK,		/* as CMDOPT_LIST; a drive of Lockstep's, whose place cmdline_build() adds */
	CMDOPT_GONE,		/* not at all, nor is it handed on: Lockstep does what it said */
};

/* One option of the user's that is handed on to QEMU. */
struct cmdopt {
	char *name;		/* without dashes */
	char *arg;		/* NULL when it has none */
	enum cmdopt_kind kind;
	struct kvlist kv;	/* CMDOPT_LIST, CMDOPT_DISK: @arg, read */
	unsigned int disk;	/* CMDOPT_DISK: which of disks[] */
};

/*
 * A writable drive. QEMU sees it as a disk of an NBD server, whose export has the disk's id as its name, and Lockstep
 * opens the image. Ids are the same on both nodes, paths and formats each node's own.
 */
struct cmdline_disk {
	char *id;		/* -drive: its id, or the one that QEMU makes up; -blockdev: the node's name */
	char *path;		/* of the image: a file or a block device, as the user wrote it */
	char *format;		/* "raw", "qcow2", ...: never NULL */
	bool direct;		/* the user wants the image read and written without the page cache (cache.direct) */
	bool writethrough;	/* QEMU flushes behind each write (cache=writethrough, directsync) */
	bool discard;		/* what the guest discards is to be freed in the image too */
	bool node;		/* from -blockdev */
	int dev;		/* the -device on it, in opts[]; -1: none, or QEMU's own (if=ide, if=virtio) */
};

struct cmdline_nic {
	char *id;		/* the netdev's */
	char ifname[CMDLINE_IFNAME_MAX + 1];
	char mac[18];		/* lower case; never empty after cmdline_parse() */
	char *model;		/* name of QEMU's device, e.g. virtio-net-pci */
	bool make_device;	/* from -nic: the -device is ours to write */
	int opt;		/* else index of the user's -device in opts[] */
};

/*
 * A QEMU command line, understood. What Lockstep takes over stands in fields of its own, the rest in opts[] in the
 * user's order.
 */
/* -action panic=; what QEMU itself is started with never ends it */
enum cmdline_panic { PANIC_SHUTDOWN, PANIC_PAUSE, PANIC_NONE };

struct cmdline {
	char *binary;
	uint64_t mem_bytes;
	unsigned int smp;
	enum cmdline_accel accel;
	char *accel_arg;		/* of -accel; NULL: in the -machine option */
	char *machine;			/* type as given, NULL: QEMU's default */
	struct kvlist machine_kv;	/* its properties without type */
	char *cpu;			/* as given, NULL: QEMU's default */
	struct kvlist smp_kv;
	struct kvlist rtc_kv;
	struct cmdline_nic nics[CMDLINE_NICS_MAX];
	unsigned int n_nics;
	struct cmdline_disk disks[CMDLINE_DISKS_MAX];
	unsigned int n_disks;
	bool nographic;
	bool nodefaults;
	bool no_shutdown;		/* the user wants a guest's poweroff to leave QEMU standing */
	bool no_reboot;			/* ... and a guest's reset to end it */
	enum cmdline_panic panic;	/* what a guest's panic is to lead to */
	struct cmdopt *opts;
	unsigned int n_opts;
	char *notes[CMDLINE_NOTES_MAX];	/* sentences about what was changed */
	unsigned int n_notes;
	/* while parsing */
	struct kvlist m_kv;
	bool net_given;			/* -nic, -netdev or -nodefaults: QEMU makes no network card by itself */
	bool accel_given;
	bool action_given;
};

/* What the command line for QEMU needs to know about this start. Descriptors: numbers in QEMU. */
struct cmdline_env {
	const char *machine;		/* versioned machine type, see probe_machine() */
	int qmp_fd;			/* one end of a socketpair */
	int ram_fd;			/* memfd or file of exactly mem_bytes */
	bool ram_share;			/* true: PVM, maps the image shared; false: SVM, maps it privately */
	int nic_fd[CMDLINE_NICS_MAX];	/* for each NIC one end of a stream socketpair */
	const char *disk_socket;	/* where Lockstep's NBD server listens; may be NULL when there are no disks */
	int disk_fd[CMDLINE_DISKS_MAX];	/* for each disk a connection to it; 0: QEMU connects by itself */
	const char *const *extra;	/* further words, ended by NULL, e.g. "-blockdev", "..."; may be NULL */
};

/*
 * cmdline_parse() - understand an ordinary QEMU command line
 * @argc: words in @argv
 * @argv: argv[0] is QEMU's binary; copied
 * @out:  to fill; free with cmdline_free(), also after an error
 *
 * What Lockstep cannot protect is refused with a sentence that says why and, where there is one, what to write
 * instead.
 *
 * Return: 0, -ENOTSUP (refused), -EINVAL (not understood), -ENOMEM
 */
int cmdline_parse(int argc, char *const *argv, struct cmdline *out, struct err *e);

/* cmdline_free() - free what cmdline_parse() made */
void cmdline_free(struct cmdline *c);

/* cmdline_note() - remember a sentence for the user; beyond CMDLINE_NOTES_MAX it is dropped (parts of cmdline only) */
void cmdline_note(struct cmdline *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/*
 * cmdline_keep() - hand an option on to QEMU (parts of cmdline only)
 * @kv: for CMDOPT_LIST the option read; taken over, also on error; else NULL
 *
 * Return: 0 or -ENOMEM with @e filled
 */
int cmdline_keep(struct cmdline *c, const char *name, const char *arg, enum cmdopt_kind kind, struct kvlist *kv,
		 struct err *e);

#endif
