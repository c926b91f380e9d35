/* SPDX-License-Identifier: BSD-2-Clause */
/* QEMU command lines: what they become, and with which words they are refused. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/cmdbuild.h"
#include "engine/cmdline.h"

#define WORDS_MAX 256

/* The words of a line; "~" stands for a space inside of a word. */
static int split(char *line, char **words)
{
	int n = 0;

	for (char *w = strtok(line, " "); w && n < WORDS_MAX; w = strtok(NULL, " ")) {
		for (char *u = w; *u; u++)
			if (*u == '~')
				*u = ' ';
		words[n++] = w;
	}
	return n;
}

static int parse(const char *line, struct cmdline *c, struct err *e)
{
	char *copy = strdup(line), *words[WORDS_MAX];
	int rc;

	rc = cmdline_parse(split(copy, words), words, c, e);
	free(copy);
	return rc;
}

static char *join(char **argv)
{
	char *text;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	for (char **a = argv; *a; a++)
		fprintf(f, "%s%s", a == argv ? "" : " ", *a);
	fclose(f);
	return text;
}

#define Q	"qemu-system-x86_64"
#define TAP	" -netdev tap,id=n0,ifname=t0,script=no,downscript=no"
#define CARD	" -device virtio-net-pci,netdev=n0,mac=52:54:00:00:00:01"
#define CARD_OUT CARD ",ctrl_vlan=off"

#define MACH(opts)	Q " -machine pc-i440fx-7.2" opts ",memory-backend=lockstep-ram,suppress-vmdesc=on"
#define PC		MACH("") " -accel tcg"
#define RAM(m, b)	" -m size=" m " -object memory-backend-file,id=lockstep-ram,mem-path=/proc/self/fd/22,size=" b \
			",share=on,merge=off,prealloc=off"
#define R128		RAM("128M", "134217728")
#define MON		" -chardev socket,id=lockstep-qmp,fd=20 -mon chardev=lockstep-qmp,mode=control -monitor none"
#define NET(id)		" -netdev stream,id=" id ",addr.type=fd,addr.str=21"
#define N0		NET("n0")
#define TAIL		" -global migration.send-configuration=off -only-migratable -no-user-config"
#define STOP		" -no-shutdown -S"
#define END		" -rtc clock=vm" TAIL STOP

static const struct {
	const char *line, *want;
} accepted[] = {
	{ Q " -nic none", PC R128 MON " -nic none" END },
	{ Q " -nodefaults", PC R128 MON " -nodefaults" END },
	{ Q TAP CARD, PC R128 MON N0 CARD_OUT END },
	/* Two dashes, and the device before its network. */
	{ Q " --device e1000,netdev=n0,mac=52:54:00:00:00:01" TAP,
	  PC R128 MON N0 " -device e1000,netdev=n0,mac=52:54:00:00:00:01" END },
	/* A card without an address gets one, in QEMU's range. */
	{ Q TAP " -device rtl8139,netdev=n0", PC R128 MON N0 " -device rtl8139,netdev=n0,mac=52:54:00:12:34:56" END },
	{ Q TAP " -device {\"driver\":\"e1000\",\"netdev\":\"n0\",\"bootindex\":1}",
	  PC R128 MON N0 " -device "
	  "{\"driver\":\"e1000\",\"netdev\":\"n0\",\"bootindex\":1,\"mac\":\"52:54:00:12:34:56\"}" END },
	{ Q " -netdev {\"type\":\"tap\",\"id\":\"n0\",\"ifname\":\"t0\",\"script\":\"no\",\"downscript\":\"no\"}" CARD,
	  PC R128 MON N0 CARD_OUT END },
	/* -nic is split, and its card comes before the other devices. */
	{ Q " -device virtio-rng-pci -nic tap,model=virtio,ifname=t0,script=no,downscript=no",
	  PC R128 MON NET("lockstep-nic0") " -device virtio-net-pci,netdev=lockstep-nic0,mac=52:54:00:12:34:56,ctrl_vlan=off"
	  " -device virtio-rng-pci" END },
	{ Q " -nic tap,id=x,mac=52-54-00-AA-BB-CC,ifname=t0,script=no,downscript=no,vhost=off,sndbuf=0,queues=1",
	  PC R128 MON NET("x") " -device e1000,netdev=x,mac=52:54:00:aa:bb:cc" END },
	{ Q " -M q35 -nic tap,id=x,ifname=t0,script=no,downscript=no",
	  PC R128 MON NET("x") " -device e1000e,netdev=x,mac=52:54:00:12:34:56" END },
	{ Q " -netdev tap,id=a,,b,ifname=t0,script=no,downscript=no -device e1000,netdev=a,,b,mac=52:54:00:00:00:01",
	  PC R128 MON NET("a,,b") " -device e1000,netdev=a,,b,mac=52:54:00:00:00:01" END },
	/* Memory. */
	{ Q " -nic none -m 512", PC RAM("512M", "536870912") MON " -nic none" END },
	{ Q " -nic none -m 1G", PC RAM("1024M", "1073741824") MON " -nic none" END },
	{ Q " -nic none -m size=1.5g", PC RAM("1536M", "1610612736") MON " -nic none" END },
	{ Q " -nic none -m 600 -m 700M", PC RAM("700M", "734003200") MON " -nic none" END },
	{ Q " -nic none -m 262145K", PC RAM("262152K", "268443648") MON " -nic none" END },
	{ Q " -nic none -mem-prealloc", PC R128 MON " -nic none" END },
	/* Machine, accelerator, CPU. */
	{ Q " -nic none -machine pc,vmport=off -M hpet=off",
	  MACH(",vmport=off,hpet=off") " -accel tcg" R128 MON " -nic none" END },
	{ Q " -nic none -M pc -M q35 -M type=pc-q35-7.1,accel=kvm",
	  MACH("") " -accel kvm" R128 MON " -nic none" END },
	{ Q " -nic none -machine memory-backend=off,suppress-vmdesc=off,nvdimm=off",
	  Q " -machine pc-i440fx-7.2,nvdimm=off,memory-backend=lockstep-ram,suppress-vmdesc=on -accel tcg" R128 MON
	  " -nic none" END },
	{ Q " -nic none -accel tcg,thread=single", MACH("") " -accel tcg,thread=single" R128 MON " -nic none" END },
	{ Q " -nic none -enable-kvm -accel kvm,kernel-irqchip=split -cpu host,-vmx",
	  MACH("") " -accel kvm,kernel-irqchip=split -cpu host,-vmx" R128 MON " -nic none" END },
	{ Q " -nic none -accel kvm,kernel-irqchip=split -enable-kvm",
	  MACH("") " -accel kvm,kernel-irqchip=split" R128 MON " -nic none" END },
	{ Q " -nic none -smp 2 -cpu max", PC " -cpu max -smp cpus=2" R128 MON " -nic none" END },
	{ Q " -nic none -smp sockets=2,cores=2 -smp threads=2",
	  PC " -smp sockets=2,cores=2,threads=2" R128 MON " -nic none" END },
	/* Clock: merged, and the VM's own. */
	{ Q " -nic none -rtc base=localtime -rtc clock=host,driftfix=slew",
	  PC R128 MON " -nic none -rtc base=localtime,driftfix=slew,clock=vm" TAIL STOP },
	/* Consoles. */
	{ Q " -nic none -nographic", PC R128 MON " -nic none -nographic" END },
	{ Q " -nic none -nographic -serial mon:stdio", PC R128 MON " -nic none -nographic -serial stdio" END },
	{ Q " -nic none -display none -serial file:/tmp/x -monitor none",
	  PC R128 MON " -nic none -display none -serial file:/tmp/x" END },
	{ Q " -nic none -chardev socket,path=/tmp/s,server,nowait,id=c0 -device virtio-serial -device "
				"virtconsole,chardev=c0",
	  PC R128 MON " -nic none -chardev socket,path=/tmp/s,server,nowait,id=c0 -device virtio-serial"
	  " -device virtconsole,chardev=c0" END },
	/* Handed on untouched, in order, arguments and all. */
	{ Q " -nic none -name web,,1 -kernel /boot/k -initrd /i -append -x~--y=z -pidfile /run/p -vga std -usb"
	  " -device usb-tablet -global PIIX4_PM.disable_s3=1 -uuid 1b4e28ba-2fa1-11d2-883f-0016d3cca427",
	  PC R128 MON " -nic none -name web,,1 -kernel /boot/k -initrd /i -append -x --y=z -pidfile /run/p -vga std "
	  "-usb"
	  " -device usb-tablet -global PIIX4_PM.disable_s3=1 -uuid 1b4e28ba-2fa1-11d2-883f-0016d3cca427" END },
	/* An option that nobody knows, with a word behind it or not. */
	{ Q " -nic none -x-new value -x-flag -usb", PC R128 MON " -nic none -x-new value -x-flag -usb" END },
	/* Read-only drives. */
	{ Q " -nic none -cdrom /a.iso", PC R128 MON " -nic none -cdrom /a.iso" END },
	{ Q " -nic none -drive file=/a.iso,media=cdrom -drive if=pflash,format=raw,readonly=on,file=/OVMF",
	  PC R128 MON " -nic none -drive file=/a.iso,media=cdrom -drive "
	  "if=pflash,format=raw,readonly=on,file=/OVMF" END },
	/* Flash memory is written by the guest, and each node has a file for it. */
	{ Q " -nic none -drive if=pflash,format=raw,file=/VARS -pflash /more",
	  PC R128 MON " -nic none -drive if=pflash,format=raw,file=/VARS -pflash /more" END },
	{ Q " -nic none -drive file=/a,format=raw,if=virtio,readonly",
	  PC R128 MON " -nic none -drive file=/a,format=raw,if=virtio,readonly" END },
	{ Q " -nic none -blockdev {\"driver\":\"file\",\"filename\":\"/a\",\"node-name\":\"n\",\"read-only\":true}",
	  PC R128 MON " -nic none -blockdev "
	  "{\"driver\":\"file\",\"filename\":\"/a\",\"node-name\":\"n\",\"read-only\":true}" END },
	{ Q " -nic none -object rng-random,id=r,filename=/dev/urandom -device virtio-rng-pci,rng=r",
	  PC R128 MON " -nic none -object rng-random,id=r,filename=/dev/urandom -device virtio-rng-pci,rng=r" END },
	/* How it ends. */
	{ Q " -nic none -no-reboot -no-shutdown", PC R128 MON " -nic none -rtc clock=vm" TAIL " -no-reboot" STOP },
	{ Q " -nic none -action reboot=shutdown,shutdown=poweroff,watchdog=none",
	  PC R128 MON " -nic none -action watchdog=none -rtc clock=vm" TAIL " -no-reboot" STOP },
	/* What is added anyway is not added twice. */
	{ Q " -nic none -only-migratable -no-user-config", PC R128 MON " -nic none" END },
};

static void test_accepted(void **state)
{
	struct cmdline_env env = { .machine = "pc-i440fx-7.2", .qmp_fd = 20, .nic_fd = { 21 }, .ram_fd = 22,
	  .ram_share = true };

	for (size_t i = 0; i < sizeof(accepted) / sizeof(accepted[0]); i++) {
		struct cmdline c;
		struct err e = { 0 };
		char **argv, *got;

		if (parse(accepted[i].line, &c, &e))
			fail_msg("refused: %s\n  because: %s", accepted[i].line, e.msg);
		assert_int_equal(cmdline_build(&c, &env, &argv, &e), 0);
		got = join(argv);
		if (strcmp(got, accepted[i].want))
			fail_msg("line: %s\n  got:  %s\n  want: %s", accepted[i].line, got, accepted[i].want);
		free(got);
		cmdline_argv_free(argv);
		cmdline_free(&c);
	}
}

static const struct {
	const char *line;
	int code;
	const char *because;
} refused[] = {
	{ "", -EINVAL, "command line is missing" },
	{ "-m 1", -EINVAL, "command line is missing" },
	{ Q, -ENOTSUP, "makes a user-mode network of its own" },
	{ Q " -netdev user,id=n0", -ENOTSUP, "-netdev user,id=n0: user: a user-mode network lives inside QEMU" },
	{ Q " -netdev bridge,id=n0", -ENOTSUP, "helper program" },
	{ Q " -netdev socket,id=n0,listen=:1", -ENOTSUP, "bypass" },
	{ Q " -netdev vhost-user,id=n0,chardev=c", -ENOTSUP, "do not pass through QEMU" },
	{ Q " -netdev l2tpv3,id=n0", -ENOTSUP, "without being compared" },
	{ Q " -netdev weird,id=n0", -ENOTSUP, "not a network that Lockstep knows" },
	{ Q " -nic user", -ENOTSUP, "-nic user: user" },
	{ Q " -nic model=e1000", -ENOTSUP, "user-mode network" },
	{ Q " -net nic -net user", -ENOTSUP, "write -nic tap" },
	{ Q " -netdev tap,ifname=t0,script=no,downscript=no", -EINVAL, "needs an id=" },
	{ Q " -netdev tap,id=n0,script=no,downscript=no", -ENOTSUP, "ifname=" },
	{ Q " -netdev tap,id=n0,ifname=t0", -ENOTSUP, "script=no,downscript=no" },
	{ Q " -netdev tap,id=n0,ifname=t0,script=/x,downscript=no", -ENOTSUP, "runs no script" },
	{ Q " -netdev tap,id=n0,ifname=t0,vhost=on,script=no,downscript=no", -ENOTSUP, "vhost" },
	{ Q " -netdev tap,id=n0,ifname=t0,vhost,script=no,downscript=no", -ENOTSUP, "vhost" },
	{ Q " -netdev tap,id=n0,ifname=t0,queues=2,script=no,downscript=no", -ENOTSUP, "several queues" },
	{ Q " -netdev tap,id=n0,fd=3", -ENOTSUP, "opens the TAP itself" },
	{ Q " -netdev tap,id=n0,br=br0,helper=/x", -ENOTSUP, "opens the TAP itself" },
	{ Q " -netdev tap,id=n0,ifname=t0,vnet_hdr=on,script=no,downscript=no", -ENOTSUP, "offloading" },
	{ Q " -netdev tap,id=n0,ifname=t0,colour=red,script=no,downscript=no", -EINVAL, "colour" },
	{ Q " -netdev tap,id=n0,ifname=abcdefghijklmnop,script=no,downscript=no", -EINVAL, "not the name of" },
	{ Q " -netdev tap,id=n0,ifname=a/b,script=no,downscript=no", -EINVAL, "not the name of" },
	{ Q " -netdev tap,id=lockstep-x,ifname=t0,script=no,downscript=no", -EINVAL, "Lockstep's own" },
	{ Q " -netdev {\"type\":\"tap\"", -EINVAL, "cut short" },
	{ Q " -netdev {\"type\":tap}", -EINVAL, "JSON" },
	{ Q " -netdev {}x", -EINVAL, "more text" },
	{ Q TAP, -EINVAL, "no card is on it" },
	{ Q TAP CARD CARD, -EINVAL, "another card is on it" },
	{ Q " -nic none -device e1000,netdev=n0", -EINVAL, "no such -netdev" },
	{ Q " -nic none -device e1000", -ENOTSUP, "connected to nothing" },
	{ Q TAP " -device e1000,netdev=n0,mac=01:00:5e:00:00:01", -EINVAL, "not the MAC address" },
	{ Q TAP " -device e1000,netdev=n0,mac=52:54:00:00:00", -EINVAL, "not the MAC address" },
	{ Q TAP " -device e1000,netdev=n0,mac=52:54:00:00:00:-1", -EINVAL, "not the MAC address" },
	{ Q TAP " -device virtio-net-pci,netdev=n0,failover=on", -ENOTSUP, "twin" },
	{ Q TAP " -device virtio-net-pci,netdev=n0,host_mtu=65535", -ENOTSUP, "16384" },
	{ Q " -nic tap,model=xen,ifname=t0,script=no,downscript=no", -ENOTSUP, "not a network card" },
	{ Q TAP CARD ",ctrl_vlan=on", -ENOTSUP, "forgets the filter" },
	{ Q TAP TAP CARD, -EINVAL, "two networks have the id" },
	/* Machine. */
	{ Q " -nic none -M microvm", -ENOTSUP, "must be pc or q35" },
	{ Q " -nic none -machine none", -ENOTSUP, "must be pc or q35" },
	{ Q " -nic none -M pc,memory-backend=r", -ENOTSUP, "provides the guest's memory itself" },
	{ Q " -nic none -M pc,nvdimm=on", -ENOTSUP, "plugged in" },
	{ Q " -nic none -M confidential-guest-support=s", -ENOTSUP, "encrypted" },
	{ Q " -nic none -M memory.size=1G", -ENOTSUP, "write -m" },
	{ Q " -nic none -accel xen", -ENOTSUP, "kvm or tcg" },
	{ Q " -nic none -M accel=kvm:tcg", -ENOTSUP, "name one accelerator" },
	{ Q " -nic none -accel kvm -accel tcg", -ENOTSUP, "two accelerators" },
	{ Q " -nic none -M accel=tcg -enable-kvm", -EINVAL, "one of them is enough" },
	{ "/usr/bin/qemu-kvm -nic none", -ENOTSUP, "by itself" },
	/* Memory and CPUs. */
	{ Q " -nic none -m 0", -EINVAL, "not an amount of memory" },
	{ Q " -nic none -m -5", -EINVAL, "not an amount of memory" },
	{ Q " -nic none -m 1X", -EINVAL, "not an amount of memory" },
	{ Q " -nic none -m 1e3", -EINVAL, "not an amount of memory" },
	{ Q " -nic none -m 99999999T", -EINVAL, "not an amount of memory" },
	{ Q " -nic none -m 1G,slots=2,maxmem=4G", -ENOTSUP, "plugged in" },
	{ Q " -nic none -m", -EINVAL, "-m needs a value" },
	{ Q " -nic none -mem-path /dev/hugepages", -ENOTSUP, "provides the guest's memory itself" },
	{ Q " -nic none -object memory-backend-ram,id=m,size=1G", -ENOTSUP, "provides the guest's memory itself" },
	{ Q " -nic none -object {\"qom-type\":\"memory-backend-memfd\",\"id\":\"m\"}", -ENOTSUP, "provides the guest" },
	{ Q " -nic none -numa node", -ENOTSUP, "memory nodes" },
	{ Q " -nic none -overcommit mem-lock=on", -ENOTSUP, "locking" },
	{ Q " -nic none -smp 0", -EINVAL, "not a number of CPUs" },
	{ Q " -nic none -smp 100000", -EINVAL, "not a number of CPUs" },
	{ Q " -nic none -smp sockets=4096,cores=4096", -EINVAL, "not a number of CPUs" },
	/* Devices and objects. */
	{ Q " -nic none -device virtio-balloon", -ENOTSUP, "frees guest memory" },
	{ Q " -nic none -device loader,file=/etc/hostname,addr=0x1000000", -ENOTSUP, "again at each reset" },
	{ Q " -nic none -device loader,addr=0x1000000,data=1,data-len=4", -ENOTSUP, "again at each reset" },
	{ Q " -nic none -device virtio-balloon-pci,free-page-reporting=on", -ENOTSUP, "frees guest memory" },
	{ Q " -nic none -device {\"driver\":\"virtio-mem-pci\"}", -ENOTSUP, "plugged in" },
	{ Q " -nic none -device pc-dimm,memdev=m", -ENOTSUP, "plugged in" },
	{ Q " -nic none -device nvdimm", -ENOTSUP, "plugged in" },
	{ Q " -nic none -device virtio-pmem-pci", -ENOTSUP, "not replicated" },
	{ Q " -nic none -device vfio-pci,host=01:00.0", -ENOTSUP, "state in hardware" },
	{ Q " -nic none -device usb-host,vendorid=1", -ENOTSUP, "state in hardware" },
	{ Q " -nic none -device vhost-vsock-pci,guest-cid=3", -ENOTSUP, "another process" },
	{ Q " -nic none -device vhost-user-fs-pci", -ENOTSUP, "another process" },
	{ Q " -nic none -device ivshmem-plain", -ENOTSUP, "shares memory" },
	{ Q " -nic none -device virtio-9p-pci", -ENOTSUP, "directory" },
	{ Q " -nic none -device tpm-tis,tpmdev=t", -ENOTSUP, "another process" },
	{ Q " -nic none -device vmgenid,guid=auto", -ENOTSUP, "different one on each node" },
	{ Q " -nic none -device uefi-vars-x64,jsonfile=/x", -ENOTSUP, "a file of the host's" },
	{ Q " -nic none -device ,x=y", -EINVAL, "-device" },
	{ Q " -nic none -device e=1", -EINVAL, "which device" },
	{ Q " -nic none -device virtio-rng-pci,id=lockstep-r", -EINVAL, "Lockstep's own" },
	{ Q " -nic none -object filter-mirror,id=f", -ENOTSUP, "is the filter" },
	{ Q " -nic none -object colo-compare,id=f", -ENOTSUP, "compares by itself" },
	{ Q " -nic none -virtfs local,path=/,mount_tag=x", -ENOTSUP, "directory" },
	{ Q " -nic none -tpmdev passthrough,id=t", -ENOTSUP, "TPM" },
	{ Q " -nic none -usbdevice host:1.2", -ENOTSUP, "state in hardware" },
	{ Q " -nic none -global migration.x-colo=on", -ENOTSUP, "Lockstep's business" },
	{ Q " -nic none -set device.x.y=z", -ENOTSUP, "at the option itself" },
	/* Drives; more in drive_parse.c. */
	{ Q " -nic none -drive file=d.img,readonly=on,snapshot=on", -ENOTSUP, "thrown away" },
	{ Q " -nic none -drive if=floppy,readonly=on", -ENOTSUP, "if=floppy" },
	{ Q " -nic none -fda f.img", -ENOTSUP, "floppy" },
	{ Q " -nic none -drive if=pflash,file=f,snapshot=on", -ENOTSUP, "snapshot" },
	{ Q " -nic none -sd f", -ENOTSUP, "SD" },
	{ Q " -nic none -snapshot", -ENOTSUP, "thrown away" },
	/* Monitors and life. */
	{ Q " -nic none -monitor stdio", -ENOTSUP, "behind Lockstep's back" },
	{ Q " -nic none -qmp stdio", -ENOTSUP, "behind Lockstep's back" },
	{ Q " -nic none -mon chardev=c,mode=control", -ENOTSUP, "behind Lockstep's back" },
	{ Q " -nic none -s", -ENOTSUP, "debugger" },
	{ Q " -nic none -daemonize", -ENOTSUP, "background" },
	{ Q " -nic none -S", -ENOTSUP, "starts stopped" },
	{ Q " -nic none -incoming tcp:0:1", -ENOTSUP, "migration" },
	{ Q " -nic none -loadvm x", -ENOTSUP, "snapshot" },
	{ Q " -nic none -runas nobody", -ENOTSUP, "change of user" },
	{ Q " -nic none -readconfig x", -ENOTSUP, "on the command line" },
	{ Q " -nic none -icount shift=1,rr=record,rrfile=x", -ENOTSUP, "replaying" },
	{ Q " -nic none -action panic=exit-failure", -ENOTSUP, "taken for its death" },
	{ Q " -nic none -chardev stdio,id=lockstep-qmp", -EINVAL, "Lockstep's own" },
	{ Q " -nic none -device help", -ENOTSUP, "question" },
	{ Q " -version", -ENOTSUP, "question" },
};

static void test_refused(void **state)
{
	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
		struct cmdline c;
		struct err e = { 0 };
		int rc = parse(refused[i].line, &c, &e);

		if (!rc)
			fail_msg("accepted: %s", refused[i].line);
		if (rc != refused[i].code || e.code != rc || !strstr(e.msg, refused[i].because))
			fail_msg("line: %s\n  got:  %d %s\n  want: %d ...%s...", refused[i].line, rc, e.msg,
				 refused[i].code,
				 refused[i].because);
		cmdline_free(&c);
		/* Nobody need read the sentence. */
		assert_int_equal(parse(refused[i].line, &c, NULL), rc);
		cmdline_free(&c);
	}
}

static void test_fields(void **state)
{
	struct cmdline c;
	struct err e = { 0 };

	assert_int_equal(parse(Q " -m 512 -smp 1,sockets=1 -smp 4 -accel kvm -M q35 -cpu host -no-reboot "
			       "-rtc clock=host -serial mon:stdio -nographic" TAP " -device "
			       "virtio-net-pci,netdev=n0,mac=52:54:00:00:00:AB",
			       &c, &e), 0);
	assert_string_equal(c.binary, Q);
	assert_int_equal(c.mem_bytes, 512 << 20);
	assert_int_equal(c.smp, 4);
	assert_int_equal(c.accel, ACCEL_KVM);
	assert_string_equal(c.machine, "q35");
	assert_string_equal(c.cpu, "host");
	assert_true(c.no_reboot);
	assert_false(c.no_shutdown);
	assert_true(c.nographic);
	assert_int_equal(c.n_nics, 1);
	assert_string_equal(c.nics[0].id, "n0");
	assert_string_equal(c.nics[0].ifname, "t0");
	assert_string_equal(c.nics[0].mac, "52:54:00:00:00:ab");
	assert_string_equal(c.nics[0].model, "virtio-net-pci");
	assert_int_equal(c.n_notes, 2);
	assert_non_null(strstr(c.notes[0], "monitor"));
	assert_non_null(strstr(c.notes[1], "clock=vm"));
	cmdline_free(&c);

	assert_int_equal(parse(Q " -nic none -smp cores=2,threads=2,sockets=2", &c, &e), 0);
	assert_int_equal(c.smp, 8);
	assert_int_equal(c.mem_bytes, 128 << 20);
	assert_null(c.machine);
	cmdline_free(&c);
}

/* The secondary maps the image privately, and extra words come before the user's. */
static void test_secondary(void **state)
{
	static const char *const extra[] = { "-blockdev", "driver=null-co,node-name=lockstep-state", NULL };
	struct cmdline_env env = { .machine = "pc-q35-7.2", .qmp_fd = 4, .nic_fd = { 5 }, .ram_fd = 6, .extra = extra };
	struct cmdline c;
	struct err e = { 0 };
	char **argv, *got;

	assert_int_equal(parse(Q " -M q35" TAP CARD, &c, &e), 0);
	assert_int_equal(cmdline_build(&c, &env, &argv, &e), 0);
	got = join(argv);
	assert_non_null(strstr(got, "-machine pc-q35-7.2,"));
	assert_non_null(strstr(got, "mem-path=/proc/self/fd/6,size=134217728,share=off,"));
	assert_non_null(strstr(got, "addr.str=5 -blockdev driver=null-co,node-name=lockstep-state -device "
			       "virtio-net-pci"));
	free(got);
	cmdline_argv_free(argv);
	cmdline_free(&c);
}

static void test_sizes(void **state)
{
	static const struct {
		const char *text;
		int rc;
		uint64_t bytes;
	} t[] = {
		{ "1", 0, 1 << 20 }, { "1b", 0, 1 }, { "0x10", 0, 16 << 20 }, { "0x10K", 0, 16 << 10 },
		{ "2k", 0, 2048 },
		{ "0.5G", 0, 1 << 29 }, { "4T", 0, 4ull << 40 }, { "1P", -EINVAL, 0 }, { "", -EINVAL, 0 },
		{ "-1", -EINVAL, 0 }, { "1 ", -EINVAL, 0 }, { "1KK", -EINVAL, 0 }, { "inf", -EINVAL, 0 },
		{ "0x", -EINVAL, 0 },
		{ "99999999999999999999", -ERANGE, 0 }, { "0xffffffffffffffffff", -ERANGE, 0 },
	};

	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		uint64_t got = 0;
		int rc = args_size(t[i].text, 1 << 20, &got);

		if (rc != t[i].rc || (!rc && got != t[i].bytes))
			fail_msg("size \"%s\": %d %llu", t[i].text, rc, (unsigned long long)got);
	}
}

static void test_lists(void **state)
{
	struct kvlist l;
	struct err e = { 0 };
	char *s, big[4 * KV_MAX + 64];

	assert_int_equal(kvlist_parse(&l, "tap,id=a,,b,flag,noflag2,k==v,,,k=2", "type", &e), 0);
	assert_string_equal(kvlist_get(&l, "type"), "tap");
	assert_string_equal(kvlist_get(&l, "id"), "a,b");
	assert_int_equal(kvlist_bool(&l, "flag", 0), 1);
	assert_int_equal(kvlist_bool(&l, "flag2", 1), 0);
	assert_int_equal(kvlist_bool(&l, "absent", 7), 7);
	assert_int_equal(kvlist_bool(&l, "id", 0), -EINVAL);
	assert_string_equal(kvlist_get(&l, "k"), "2");
	assert_int_equal(kvlist_set(&l, "id", kvlist_get(&l, "type")), 0);
	assert_string_equal(kvlist_get(&l, "id"), "tap");
	kvlist_free(&l);

	assert_int_equal(kvlist_parse(&l, "{\"a\":{\"b\":[1,{\"c\":true}]},\"d\":null, \"e\":\"x,y\"} ", NULL, &e), 0);
	assert_string_equal(kvlist_get(&l, "a.b.0"), "1");
	assert_string_equal(kvlist_get(&l, "a.b.1.c"), "on");
	assert_string_equal(kvlist_get(&l, "d"), "");
	assert_string_equal(kvlist_get(&l, "e"), "x,y");
	s = kvlist_format(&l, NULL);
	assert_string_equal(s, "{\"a\":{\"b\":[1,{\"c\":true}]},\"d\":null,\"e\":\"x,y\"}");
	free(s);
	kvlist_free(&l);

	/* One key too many, and one bracket too many. */
	big[0] = 0;
	for (int i = 0; i <= KV_MAX; i++)
		strcat(big, "a=b,");
	assert_int_equal(kvlist_parse(&l, big, NULL, &e), -E2BIG);
	strcpy(big, "{\"a\":");
	memset(big + 5, '[', 100);
	big[105] = 0;
	assert_int_equal(kvlist_parse(&l, big, NULL, &e), -EINVAL);
	assert_int_equal(kvlist_parse(&l, "", NULL, &e), 0);
	assert_int_equal(l.n, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_accepted), cmocka_unit_test(test_refused), cmocka_unit_test(test_fields),
		cmocka_unit_test(test_secondary), cmocka_unit_test(test_sizes), cmocka_unit_test(test_lists),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
