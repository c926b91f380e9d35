/* SPDX-License-Identifier: BSD-2-Clause */
/* Writable drives: what QEMU is told instead, what Lockstep learns, and with which words others are refused. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/cmdbuild.h"
#include "engine/cmdline.h"
#include "engine/shape.h"

#define WORDS_MAX 128

static int parse(const char *options, struct cmdline *c, struct err *e)
{
	char *copy = NULL, *words[WORDS_MAX] = { "qemu-system-x86_64", "-nic", "none" };
	int n = 3, rc;

	assert_true(asprintf(&copy, "%s", options) >= 0);
	for (char *w = strtok(copy, " "); w && n < WORDS_MAX; w = strtok(NULL, " "))
		words[n++] = w;
	rc = cmdline_parse(n, words, c, e);
	free(copy);
	return rc;
}

/* The user's part of what QEMU is started with. */
static char *rewritten(const struct cmdline *c, const char *socket)
{
	struct cmdline_env env = { .machine = "pc-i440fx-7.2", .qmp_fd = 4, .ram_fd = 5, .disk_socket = socket };
	struct err e = { 0 };
	char **argv, *text;
	bool on = false;
	size_t len;
	FILE *f;

	if (cmdline_build(c, &env, &argv, &e))
		return strdup(e.msg);
	f = open_memstream(&text, &len);
	for (char **a = argv; *a; a++) {
		if (!strcmp(*a, "-rtc"))
			on = false;
		if (on)
			fprintf(f, "%s%s", ftell(f) ? " " : "", *a);
		if (!strcmp(*a, "none") && !strcmp(a[-1], "-nic"))
			on = true;
	}
	fclose(f);
	cmdline_argv_free(argv);
	return text;
}

#define D(opts, id)	"-drive driver=nbd," opts ",server.type=unix,server.path=/s,export=" id
#define B(opts, id)	"-blockdev driver=nbd,node-name=" id opts ",server.type=unix,server.path=/s,export=" id
#define R		"werror=report"

/* @disks: id:path:format:flags of each, flags of d(irect), t(hrough), u(nmap), n(ode), v: a device is on it */
static const struct {
	const char *line, *want, *disks;
} accepted[] = {
	{ "-drive file=/a,format=raw", D(R, "ide0-hd0"), "ide0-hd0:/a:raw:" },
	{ "-drive file=/a,format=raw,if=virtio", D("if=virtio," R, "virtio0"), "virtio0:/a:raw:" },
	{ "-drive file=/a,format=qcow2,if=none,id=d0 -device virtio-blk-pci,drive=d0,serial=S1",
	  D("if=none,id=d0," R, "d0") " -device virtio-blk-pci,drive=d0,serial=S1", "d0:/a:qcow2:v" },
	/* The device before its drive; what the device says of errors is the user's. */
	{ "-device ide-hd,drive=d0,werror=ignore -drive file=/a,driver=vmdk,if=none,id=d0,rerror=ignore",
	  "-device ide-hd,drive=d0,werror=ignore " D("if=none,id=d0,rerror=ignore," R, "d0"), "d0:/a:vmdk:v" },
	{ "-drive file=file:/a,format=raw,if=none,id=d0,node-name=n0 -device virtio-blk-pci,drive=n0",
	  D("if=none,id=d0,node-name=n0," R, "d0") " -device virtio-blk-pci,drive=n0", "d0:/a:raw:v" },
	{ "-drive file=./a:b,,c,format=raw,if=none,id=d0", D("if=none,id=d0," R, "d0"), "d0:./a:b,c:raw:" },
	{ "-drive file.driver=file,file.filename=/a,driver=qcow2,file.aio=native,file.locking=off,if=virtio",
	  D("if=virtio," R, "virtio0"), "virtio0:/a:qcow2:" },
	/* Cache modes. */
	{ "-drive file=/a,format=raw,cache=none,aio=native", D(R, "ide0-hd0"), "ide0-hd0:/a:raw:d" },
	{ "-drive file=/a,format=raw,cache=writeback,cache.direct=on", D(R, "ide0-hd0"), "ide0-hd0:/a:raw:d" },
	{ "-drive file=/a,format=raw,cache=writethrough", D("cache.writeback=off," R, "ide0-hd0"),
	  "ide0-hd0:/a:raw:t" },
	{ "-drive file=/a,format=raw,cache=directsync", D("cache.writeback=off," R, "ide0-hd0"), "ide0-hd0:/a:raw:dt" },
	{ "-drive file=/a,format=raw,cache=unsafe", D(R, "ide0-hd0"), "ide0-hd0:/a:raw:" },
	{ "-drive file=/a,format=raw,cache=directsync,cache.writeback=on", D(R, "ide0-hd0"), "ide0-hd0:/a:raw:d" },
	/* What QEMU's block layer does above the disk. */
	{ "-drive file=/a,format=raw,discard=on,detect-zeroes=unmap",
	  D("discard=unmap,detect-zeroes=unmap," R, "ide0-hd0"),
	  "ide0-hd0:/a:raw:u" },
	{ "-drive file=/a,format=raw,discard=ignore,copy-on-read=off", D("discard=ignore," R, "ide0-hd0"),
	  "ide0-hd0:/a:raw:" },
	{ "-drive file=/a,format=raw,throttling.iops-total=100,bps_rd=5,iops=7,werror=report",
	  D("throttling.iops-total=100,bps_rd=5,iops=7," R, "ide0-hd0"), "ide0-hd0:/a:raw:" },
	/* Ids as QEMU makes them, among others. */
	{ "-hda /a -hdb /b -hdd /c", D("index=0,media=disk," R, "ide0-hd0") " "
	  D("index=1,media=disk," R, "ide0-hd1") " "
	  D("index=3,media=disk," R, "ide1-hd1"), "ide0-hd0:/a:raw: ide0-hd1:/b:raw: ide1-hd1:/c:raw:" },
	{ "-M q35 -hda /a -hdb /b", D("index=0,media=disk," R, "ide0-hd0") " " D("index=1,media=disk," R, "ide1-hd0"),
	  "ide0-hd0:/a:raw: ide1-hd0:/b:raw:" },
	{ "disk.img", D("index=0,media=disk," R, "ide0-hd0"), "ide0-hd0:disk.img:raw:" },
	{ "-cdrom /i -drive file=/a,format=raw -drive file=/b,format=raw -drive file=/c,format=raw",
	  "-cdrom /i " D(R, "ide0-hd0") " " D(R, "ide0-hd1") " " D(R, "ide1-hd1"),
	  "ide0-hd0:/a:raw: ide0-hd1:/b:raw: ide1-hd1:/c:raw:" },
	{ "-drive file=/i,media=cdrom -drive file=/a,format=raw -drive file=/b,format=raw,bus=1,unit=1",
	  "-drive file=/i,media=cdrom " D(R, "ide0-hd1") " " D("bus=1,unit=1," R, "ide1-hd1"),
	  "ide0-hd1:/a:raw: ide1-hd1:/b:raw:" },
	{ "-drive file=/a,format=raw,if=virtio,id=x -drive file=/b,format=raw,if=virtio -drive "
	  "file=/c,format=raw,if=none",
	  D("if=virtio,id=x," R, "x") " " D("if=virtio," R, "virtio1") " " D("if=none," R, "none0"),
	  "x:/a:raw: virtio1:/b:raw: none0:/c:raw:" },
	/* Nodes: a file alone, format over file in either order, in one option, as JSON. */
	{ "-blockdev file,filename=/a,node-name=n -device virtio-blk-pci,drive=n",
	  B("", "n") " -device virtio-blk-pci,drive=n,werror=report", "n:/a:raw:nv" },
	{ "-blockdev driver=file,filename=/a,node-name=f -blockdev driver=qcow2,file=f,node-name=n -device "
	  "ide-hd,drive=n",
	  B("", "n") " -device ide-hd,drive=n,werror=report", "n:/a:qcow2:nv" },
	{ "-device virtio-blk-pci,drive=n,werror=ignore -blockdev raw,file=f,node-name=n -blockdev "
	  "host_device,filename=/a,aio=io_uring,node-name=f,cache.direct=on",
	  "-device virtio-blk-pci,drive=n,werror=ignore " B("", "n"), "n:/a:raw:dnv" },
	{ "-blockdev raw,node-name=n,file.driver=file,file.filename=/a,file.locking=on,file.node-name=x", B("", "n"),
	  "n:/a:raw:n" },
	{ "-blockdev {\"driver\":\"qcow2\",\"node-name\":\"n\",\"read-only\":false,\"discard\":\"unmap\",\"file\":"
	  "{\"driver\":\"file\",\"filename\":\"/a,b\",\"cache\":{\"direct\":true}}} -device "
	  "{\"driver\":\"virtio-blk-pci\",\"drive\":\"n\",\"write-cache\":\"off\"}",
	  B(",discard=unmap", "n") " -device "
	  "{\"driver\":\"virtio-blk-pci\",\"drive\":\"n\",\"write-cache\":\"off\",\"werror\":\"report\"}",
	  "n:/a,b:qcow2:dunv" },
	{ "-blockdev {\"driver\":\"raw\",\"node-name\":\"n\",\"file\":\"f\"} -blockdev "
	  "{\"driver\":\"file\",\"node-name\":\"f\",\"filename\":\"/a\"}", B("", "n"), "n:/a:raw:n" },
	/* Discarding reaches a raw image only when each layer lets it; a format frees its own clusters. */
	{ "-blockdev raw,node-name=n,discard=unmap,file=f -blockdev file,filename=/a,node-name=f", B("", "n"),
	  "n:/a:raw:n" },
	{ "-blockdev raw,node-name=n,discard=unmap,file=f,detect-zeroes=unmap -blockdev "
	  "file,filename=/a,node-name=f,discard=unmap", B(",discard=unmap,detect-zeroes=unmap", "n"), "n:/a:raw:un" },
	{ "-blockdev qcow2,node-name=n,discard=unmap,file=f -blockdev file,filename=/a,node-name=f",
	  B(",discard=unmap", "n"), "n:/a:qcow2:un" },
	{ "-blockdev raw,node-name=n,file=q -blockdev qcow2,node-name=q,file=f -blockdev file,filename=/a,node-name=f",
	  B("", "n"), "n:/a:qcow2:n" },
	/* A filter stays, above the disk. */
	{ "-object throttle-group,id=g -blockdev throttle,node-name=t,throttle-group=g,file=n -blockdev "
	  "raw,node-name=n,file=f -blockdev file,filename=/a,node-name=f -device virtio-blk-pci,drive=t",
	  "-object throttle-group,id=g -blockdev throttle,node-name=t,throttle-group=g,file=n " B("", "n")
	  " -device virtio-blk-pci,drive=t,werror=report", "n:/a:raw:nv" },
	/* Two, beside a read-only one of three layers. */
	{ "-blockdev file,filename=/r,node-name=rf,read-only=on -blockdev raw,file=rf,node-name=r,read-only=on "
	  "-blockdev file,filename=/a,node-name=a -blockdev file,filename=/b,node-name=b",
	  "-blockdev file,filename=/r,node-name=rf,read-only=on -blockdev raw,file=rf,node-name=r,read-only=on "
	  B("", "a") " " B("", "b"), "a:/a:raw:n b:/b:raw:n" },
};

static const struct {
	const char *line;
	int rc;
	const char *why;
} refused[] = {
	{ "-drive if=virtio,format=raw", -ENOTSUP, "without an image" },
	{ "-drive file=,format=raw", -EINVAL, "path is empty" },
	{ "-drive file=/a,format=raw,if=scsi", -ENOTSUP, "if=scsi is not supported" },
	{ "-drive file=/a,format=raw,if=xen", -ENOTSUP, "if=xen is not supported" },
	{ "-drive file=/a,format=raw,if=floppy", -ENOTSUP, "if=floppy" },
	{ "-drive file=/a,format=raw,if=sd", -ENOTSUP, "if=sd" },
	{ "-drive file=/a,format=raw,media=tape", -EINVAL, "media=tape" },
	{ "-drive file=/a,format=raw,snapshot=on", -ENOTSUP, "thrown away" },
	{ "-hda /a -snapshot", -ENOTSUP, "thrown away" },
	{ "-drive file=nbd://h/x,format=raw", -ENOTSUP, "not a protocol" },
	{ "-drive file=json:{},format=raw", -ENOTSUP, "not a protocol" },
	{ "-drive file=fat:rw:/tmp,format=raw", -ENOTSUP, "written ./fat:rw:/tmp" },
	{ "-drive file.driver=nbd,file.host=h,format=raw", -ENOTSUP, "file.driver=nbd" },
	{ "-drive file=/dev/null,format=raw", -ENOTSUP, "character device" },
	{ "-drive file=/a,format=luks", -ENOTSUP, "needs a key" },
	{ "-drive file=/a,format=dmg", -ENOTSUP, "can only be read" },
	{ "-drive file=/a,format=xyz", -ENOTSUP, "format=xyz: this format is not supported" },
	{ "-drive file=/a,format=raw,driver=raw", -EINVAL, "are the same" },
	{ "-drive file=/a,format=qcow2,backing.file.filename=/b", -ENOTSUP, "backing.file.filename=/b: what an image "
	  "stands" },
	{ "-drive file=/a,format=qcow2,encrypt.key-secret=s", -ENOTSUP, "encrypt inside the guest" },
	{ "-drive file=/a,format=raw,offset=512", -ENOTSUP, "a part of an image" },
	{ "-drive file=/a,format=raw,copy-on-read=on", -ENOTSUP, "copy-on-read=on" },
	{ "-drive file=/a,format=raw,force-share=on", -ENOTSUP, "others write" },
	{ "-drive file=/a,format=raw,serial=x", -ENOTSUP, "at the -device only" },
	{ "-drive file=/a,format=raw,what=ever", -ENOTSUP, "what=: a writable drive with this option" },
	{ "-drive file=/a,format=raw,file.pr-manager=p", -ENOTSUP, "reservations" },
	{ "-drive file=/a,format=raw,cache=fast", -EINVAL, "cache=fast" },
	{ "-drive file=/a,format=raw,cache.writeback=x", -EINVAL, "neither on nor off" },
	{ "-drive file=/a,format=raw,readonly=auto", -EINVAL, "neither on nor off" },
	{ "-drive file=/a,format=raw,discard=x", -EINVAL, "discard=x" },
	{ "-drive file=/a,format=raw,detect-zeroes=x", -EINVAL, "detect-zeroes=x" },
	{ "-drive file=/a,format=raw,detect-zeroes=unmap", -EINVAL, "needs discard=unmap" },
	{ "-drive file=/a,format=raw,werror=stop", -ENOTSUP, "nobody could continue it" },
	{ "-drive file=/a,format=raw,rerror=stop", -ENOTSUP, "rerror=report" },
	{ "-drive file=/a,format=raw,index=x", -EINVAL, "index=x" },
	{ "-drive file=/a,format=raw,id=lockstep-x", -EINVAL, "Lockstep's own" },
	{ "-drive file=/a,format=raw,id=a=b", -EINVAL, "an id begins with a letter" },
	{ "-drive {\"file\":\"/a\"}", -EINVAL, "not written as JSON" },
	{ "-drive file=/a,format=raw -drive file=/a,format=raw", -EINVAL, "given twice" },
	{ "-hda /dev/null", -ENOTSUP, "-hda /dev/null: /dev/null: a writable drive must be a file" },
	{ "/dev/null", -ENOTSUP, "/dev/null: /dev/null: a writable drive" },
	{ "-hda /etc/passwd -hdb /etc/../etc/passwd", -EINVAL, "-hdb /etc/../etc/passwd: /etc/../etc/passwd: this "
	  "image is given twice" },
	{ "-hda /a -cdrom /a", -EINVAL, "the image of a writable drive too" },
	{ "-drive file=/etc/passwd,readonly=on -hdb /etc/../etc/passwd", -EINVAL, "the image of a writable drive too" },
	{ "-drive file=/a,format=raw,id=x -drive file=/b,format=raw,id=x", -EINVAL, "two drives have the id x" },
	{ "-drive file=/a,format=raw,if=none,id=x -device ide-cd,drive=x", -ENOTSUP, "readonly=on at the drive of a "
	  "CD-ROM" },
	{ "-drive file=/a,format=raw,if=none,id=x -device nvme,drive=x,serial=1", -ENOTSUP, "QEMU cannot migrate" },
	{ "-drive file=/a,format=raw,if=none,id=x -device lsi53c895a -device scsi-hd,drive=x", -ENOTSUP, "has not been "
	  "tried" },
	{ "-drive file=/a,format=raw,if=none,id=x -device virtio-scsi-pci -device qemu-xhci -device usb-uas -device "
	  "scsi-hd,drive=x", -ENOTSUP, "has not been tried" },
	{ "-drive file=/a,format=raw,if=none,id=x -device floppy,drive=x", -ENOTSUP, "floppy" },
	{ "-drive file=/a,format=raw,if=none,id=x -device ide-hd,drive=x -device ide-hd,drive=x", -EINVAL,
	  "another device is on it" },
	{ "-drive file=/a,format=raw,if=none,id=x -device ide-hd,drive=x,werror=stop", -ENOTSUP, "nobody could "
	  "continue" },
	/* Nodes. */
	{ "-blockdev node-name=x,filename=/a", -EINVAL, "which driver" },
	{ "-blockdev file,filename=/a", -EINVAL, "node-name= is missing" },
	{ "-blockdev file,filename=/a,node-name=0", -EINVAL, "begins with a letter" },
	{ "-blockdev file,node-name=x", -EINVAL, "filename= is missing" },
	{ "-blockdev file,filename=/a,node-name=lockstep-a", -EINVAL, "Lockstep's own" },
	{ "-blockdev file,filename=/a,node-name=a -blockdev file,filename=/b,node-name=a", -EINVAL, "two nodes" },
	{ "-blockdev file,filename=/a,node-name=a -blockdev file,filename=/a,node-name=b", -EINVAL, "given twice" },
	{ "-blockdev file,filename=/a,node-name=a,read-only=maybe", -EINVAL, "neither on nor off" },
	{ "-blockdev raw,node-name=a", -EINVAL, "file= is missing" },
	{ "-blockdev raw,node-name=a,file=b", -EINVAL, "no such -blockdev" },
	{ "-blockdev raw,node-name=a,file=a", -EINVAL, "stands on itself" },
	{ "-blockdev raw,node-name=a,file=b -blockdev raw,node-name=b,file=a", -EINVAL, "stands on itself" },
	{ "-blockdev raw,node-name=a,file=f -blockdev raw,node-name=b,file=f -blockdev file,filename=/a,node-name=f",
	  -EINVAL,
	  "another node stands on it" },
	{ "-blockdev qcow2,node-name=a,file=b -blockdev qcow2,node-name=b,file=f -blockdev "
	  "file,filename=/a,node-name=f",
	  -ENOTSUP, "a format in a format" },
	{ "-blockdev raw,node-name=a,file.driver=file", -EINVAL, "file.filename= is missing" },
	{ "-blockdev raw,node-name=a,file.driver=raw,file.file.driver=file", -ENOTSUP, "of their own" },
	{ "-blockdev raw,node-name=a,file.driver=file,file.filename=/a,file.what=x", -ENOTSUP, "file.what=" },
	{ "-blockdev raw,node-name=a,file=f -blockdev file,filename=/a,node-name=f,read-only=on", -EINVAL, "this is "
	  "read-only" },
	{ "-blockdev raw,node-name=a,file.driver=file,file.filename=/a,file.read-only=on", -EINVAL,
	  "file.read-only=on" },
	{ "-blockdev raw,node-name=a,file=f,read-only=on -blockdev file,filename=/a,node-name=f", -ENOTSUP,
	  "at each of its layers" },
	{ "-blockdev file,filename=d,node-name=d,pr-manager=p", -ENOTSUP, "reservations" },
	{ "-blockdev qcow2,node-name=a,backing=b,file=f -blockdev file,filename=/a,node-name=f", -ENOTSUP,
	  "backing=b" },
	{ "-blockdev raw,node-name=a,file=f,size=1M -blockdev file,filename=/a,node-name=f", -ENOTSUP, "size=1M" },
	{ "-blockdev luks,node-name=a,file=f -blockdev file,filename=/a,node-name=f", -ENOTSUP, "driver=luks" },
	{ "-blockdev quorum,node-name=q,children.0=a,children.1=b,vote-threshold=1 -blockdev "
	  "file,filename=/a,node-name=a -blockdev file,filename=/b,node-name=b", -ENOTSUP, "driver=quorum" },
	{ "-blockdev copy-on-read,node-name=q,file=a -blockdev file,filename=/a,node-name=a", -ENOTSUP,
	  "driver=copy-on-read" },
	{ "-blockdev nbd,node-name=q,server.type=unix,server.path=/x", -ENOTSUP, "driver=nbd" },
	{ "-blockdev null-co,node-name=q", -ENOTSUP, "driver=null-co" },
	{ "-blockdev throttle,node-name=t,throttle-group=g,file.driver=file,file.filename=/a", -ENOTSUP, "file=NAME" },
	{ "-blockdev throttle,node-name=t,throttle-group=g,file=x", -EINVAL, "no such -blockdev" },
	{ "-blockdev throttle,node-name=t,throttle-group=g,file=a -blockdev "
	  "throttle,node-name=u,throttle-group=g,file=a -blockdev file,filename=/a,node-name=a", -EINVAL, "another "
	  "node stands on it" },
	{ "-blockdev file,filename=/a,node-name=a,discard=x", -EINVAL, "discard=x" },
	{ "-blockdev file,filename=/a,node-name=a,detect-zeroes=unmap", -EINVAL, "needs discard=unmap" },
	{ "-machine pc,pflash1=v -blockdev file,filename=/a,node-name=v", -ENOTSUP, "if=pflash,unit=1" },
	{ "-blockdev file,filename=/a,node-name=n -device usb-storage,drive=n", -ENOTSUP, "has not been tried" },
	{ "-blockdev file,filename=/a,node-name=n -blockdev throttle,node-name=t,throttle-group=g,file=n -device "
	  "ide-hd,drive=t -device ide-hd,drive=n", -EINVAL, "another device is on it" },
};

static void test_accepted(void **state)
{
	for (size_t i = 0; i < sizeof(accepted) / sizeof(accepted[0]); i++) {
		struct cmdline c;
		struct err e = { 0 };
		char *got, *disks;
		size_t len;
		FILE *f;

		if (parse(accepted[i].line, &c, &e))
			fail_msg("%s: %s", accepted[i].line, e.msg);
		got = rewritten(&c, "/s");
		if (strcmp(got, accepted[i].want))
			fail_msg("%s\ngot  %s\nwant %s", accepted[i].line, got, accepted[i].want);
		free(got);
		f = open_memstream(&disks, &len);
		for (unsigned int k = 0; k < c.n_disks; k++)
			fprintf(f, "%s%s:%s:%s:%s%s%s%s%s", k ? " " : "", c.disks[k].id, c.disks[k].path,
				c.disks[k].format,
				c.disks[k].direct ? "d" : "", c.disks[k].writethrough ? "t" : "",
				c.disks[k].discard ? "u" : "", c.disks[k].node ? "n" : "",
				c.disks[k].dev >= 0 ? "v" : "");
		fclose(f);
		if (strcmp(disks, accepted[i].disks))
			fail_msg("%s\ngot  %s\nwant %s", accepted[i].line, disks, accepted[i].disks);
		free(disks);
		cmdline_free(&c);
	}
}

static void test_refused(void **state)
{
	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
		struct cmdline c;
		struct err e = { 0 };
		int rc = parse(refused[i].line, &c, &e);

		if (rc != refused[i].rc || !strstr(e.msg, refused[i].why))
			fail_msg("%s: %d %s", refused[i].line, rc, e.msg);
		cmdline_free(&c);
	}
}

static void put(const char *path, unsigned int off, const void *bytes, size_t len)
{
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	assert_int_equal(ftruncate(fileno(f), 1 << 20), 0);
	assert_int_equal(fseek(f, off, SEEK_SET), 0);
	assert_int_equal(fwrite(bytes, 1, len, f), len);
	assert_int_equal(fclose(f), 0);
}

/* What an image begins with decides nothing; it has to be said. */
static void test_without_format(void **state)
{
	static const struct {
		unsigned int off;
		const char *magic;
		size_t len;
		const char *format;
	} t[] = {
		{ 0, "QFI\xfb\0\0\0\3", 8, "qcow2" }, { 0, "QED\0", 4, "qed" }, { 0, "KDMV", 4, "vmdk" },
		{ 0, "# Disk DescriptorFile", 21, "vmdk" },
		{ 64, "\x7f\x10\xda\xbe", 4, "vdi" }, { 0, "vhdxfile", 8, "vhdx" },
		{ 0, "conectix", 8, "vpc" }, { 0, "LUKS\xba\xbe", 6, "luks" },
	};
	char path[] = "/tmp/lockstep-drive-XXXXXX", line[128], want[128];
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	close(fd);
	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		struct cmdline c;
		struct err e = { 0 };

		put(path, t[i].off, t[i].magic, t[i].len);
		for (unsigned int k = 0; k < 3; k++) {
			static const char *const how[] = { "-drive file=%s,if=virtio", "-hdb %s", "%s" };
			static const char *const to_do[] = {
				"write format=%s ", "write -drive index=1,media=disk,format=%s,file=/tmp/lockstep-drive-",
				"write -drive index=0,media=disk,format=%s,file=/tmp/lockstep-drive-",
			};

			snprintf(line, sizeof(line), how[k], path);
			snprintf(want, sizeof(want), strcmp(t[i].format, "luks") ? to_do[k] : "%s format: an encrypted image",
				 t[i].format);
			assert_int_equal(parse(line, &c, &e), -ENOTSUP);
			if (!strstr(e.msg, want))
				fail_msg("%s: %s", t[i].format, e.msg);
			cmdline_free(&c);
		}
		snprintf(line, sizeof(line), "-drive file=%s,format=raw", path);
		assert_int_equal(parse(line, &c, &e), 0);
		assert_int_equal(c.n_notes, 0);
		cmdline_free(&c);
	}
	/* A magic one byte off is none. */
	put(path, 1, "QFI\xfb", 4);
	snprintf(line, sizeof(line), "-hda %s", path);
	{
		struct cmdline c;
		struct err e = { 0 };

		assert_int_equal(parse(line, &c, &e), 0);
		assert_string_equal(c.disks[0].format, "raw");
		assert_int_equal(c.n_notes, 1);
		assert_non_null(strstr(c.notes[0], "write format=raw"));
		cmdline_free(&c);
	}
	unlink(path);
}

static void test_notes(void **state)
{
	struct cmdline c;
	struct err e = { 0 };

	assert_int_equal(parse("-drive file=/a,format=qcow2,cache=unsafe,aio=native,l2-cache-size=1M", &c, &e), 0);
	assert_int_equal(c.n_notes, 3);
	assert_string_equal(c.notes[0], "aio=native was left out: Lockstep reads and writes the image itself");
	assert_string_equal(c.notes[1], "l2-cache-size=1M was left out: Lockstep reads and writes the image itself");
	assert_string_equal(c.notes[2], "/a: what the guest flushes is flushed, although its cache mode is unsafe");
	cmdline_free(&c);
}

static void test_socket(void **state)
{
	char path[CMDLINE_SOCKET_MAX + 2], *got;
	struct cmdline c;
	struct err e = { 0 };

	memset(path, 'x', sizeof(path));
	path[0] = '/';
	path[CMDLINE_SOCKET_MAX] = 0;
	assert_int_equal(parse("-hda /a", &c, &e), 0);
	got = rewritten(&c, path);
	assert_non_null(strstr(got, "server.path=/xxx"));
	free(got);
	path[CMDLINE_SOCKET_MAX] = 'x';
	path[CMDLINE_SOCKET_MAX + 1] = 0;
	got = rewritten(&c, path);
	assert_non_null(strstr(got, "would have a path of 108 bytes, and a socket's may have 107"));
	free(got);
	got = rewritten(&c, NULL);
	assert_non_null(strstr(got, "without a socket for its disks"));
	free(got);
	got = rewritten(&c, "/a,b");
	assert_non_null(strstr(got, "server.path=/a,,b,"));
	free(got);
	cmdline_free(&c);
}

static void test_too_many(void **state)
{
	char line[4096] = "";
	struct cmdline c;
	struct err e = { 0 };

	for (int i = 0; i < CMDLINE_DISKS_MAX; i++)
		sprintf(line + strlen(line), " -drive file=/%d,format=raw,if=virtio", i);
	assert_int_equal(parse(line, &c, &e), 0);
	assert_int_equal(c.n_disks, CMDLINE_DISKS_MAX);
	assert_string_equal(c.disks[CMDLINE_DISKS_MAX - 1].id, "virtio31");
	cmdline_free(&c);
	strcat(line, " -hda /one-more");
	assert_int_equal(parse(line, &c, &e), -E2BIG);
	assert_non_null(strstr(e.msg, "more than 32 writable drives"));
	cmdline_free(&c);
}

/* Two lines and whether they can be a pair: NULL, or words of the sentence. */
static const struct {
	const char *a, *b, *because;
} pairs[] = {
	{ "-drive file=/a,format=raw,if=virtio,cache=none", "-drive "
	  "file=/b,format=qcow2,if=virtio,aio=native,discard=unmap",
	  NULL },
	{ "-blockdev raw,node-name=n,file=f -blockdev file,filename=/a,node-name=f",
	  "-blockdev qcow2,node-name=n,file.driver=file,file.filename=/b", NULL },
	{ "-hda /a", "-drive file=/b,format=raw,index=0,media=disk", NULL },
	{ "-drive file=/a,format=raw,cache=writethrough", "-drive file=/a,format=raw",
	  "an option (number 0) is -drive cache.writeback=off here and -drive  at the peer" },
	{ "-drive file=/a,format=raw,if=virtio", "-drive file=/a,format=raw", "an option (number 0)" },
	{ "-hda /a", "", "an option (number 0) is given only here: -drive index=0,media=disk" },
	{ "-blockdev file,filename=/a,node-name=n", "-blockdev file,filename=/a,node-name=m",
	  "an option (number 0) is -blockdev node-name=n here" },
};

static char *shape_of(const char *line, struct cmdline *c)
{
	static const struct probe probe = { .version = "7.2.0", .machines = { "pc-i440fx-7.2" }, .n_machines = 1,
					    .alias_pc = "pc-i440fx-7.2", .dflt = "pc-i440fx-7.2" };
	struct err e = { 0 };
	char *text;

	assert_int_equal(parse(line, c, &e), 0);
	if (cmdline_shape(c, &probe, &text, &e))
		fail_msg("%s: %s", line, e.msg);
	return text;
}

static void test_pairs(void **state)
{
	for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
		struct cmdline a, b;
		struct err e = { 0 };
		char *sa = shape_of(pairs[i].a, &a), *sb = shape_of(pairs[i].b, &b);
		int rc = shape_compare(sa, sb, strlen(sb), &e);

		if (rc != (pairs[i].because ? -EXDEV : 0) || (rc && !strstr(e.msg, pairs[i].because)))
			fail_msg("%s | %s: %d %s\n%s", pairs[i].a, pairs[i].b, rc, e.msg, sa);
		if (strstr(sa, "/a") || strstr(sa, "raw"))
			fail_msg("a path or a format is compared: %s", sa);
		free(sa);
		free(sb);
		cmdline_free(&a);
		cmdline_free(&b);
	}
}

static void test_sizes(void **state)
{
	static const uint64_t one[] = { 1 << 30, 4096 }, two[] = { 1 << 30, 8192 };
	char *text[2];
	struct cmdline c;
	struct err e = { 0 };

	assert_int_equal(parse("-hda /a -drive file=/b,format=raw,if=virtio", &c, &e), 0);
	for (int i = 0; i < 2; i++) {
		size_t len;
		FILE *f = open_memstream(&text[i], &len);

		cmdline_shape_sizes(&c, i ? two : one, f);
		fclose(f);
	}
	assert_string_equal(text[0], "size.ide0-hd0=1073741824 bytes\nsize.virtio0=4096 bytes\n");
	assert_int_equal(shape_compare(text[0], text[1], strlen(text[1]), &e), -EXDEV);
	assert_string_equal(e.msg, "the two machines differ: the size of the image of disk virtio0 is 4096 bytes here "
			    "and 8192 bytes at the peer");
	free(text[0]);
	free(text[1]);
	cmdline_free(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_accepted), cmocka_unit_test(test_refused), cmocka_unit_test(test_without_format),
		cmocka_unit_test(test_notes), cmocka_unit_test(test_socket), cmocka_unit_test(test_too_many),
		cmocka_unit_test(test_pairs), cmocka_unit_test(test_sizes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
