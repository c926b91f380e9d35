/* SPDX-License-Identifier: BSD-2-Clause */
/* What QEMU says of itself, made comparable: the device tree, blocks of memory, hashes of files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/devtree.h"
#include "engine/filehash.h"
#include "engine/ramblock.h"
#include "engine/romlist.h"
#include "engine/shape.h"

static const char tree[] =
	"bus: main-system-bus\r\n"
	"  type System\r\n"
	"  dev: hpet, id \"\"\r\n"
	"    gpio-in \"\" 2\r\n"
	"    timers = 3 (0x3)\r\n"
	"    mmio 00000000fed00000/0000000000000400\r\n"
	"  dev: i440FX-pcihost, id \"\"\r\n"
	"    short_root_bus = 0 (0x0)\r\n"
	"    bus: pci.0\r\n"
	"      type PCI\r\n"
	"      dev: virtio-net-pci, id \"nic\"\r\n"
	"        addr = 03.0\r\n"
	"        romfile = \"/home/me/roms/efi-virtio.rom\"\r\n"
	"        class Ethernet controller, addr 00:03.0, pci id 1af4:1000 (sub 1af4:0001)\r\n"
	"        bar 0: i/o at 0xffffffffffffffff [0x1e]\r\n"
	"        bus: virtio-bus\r\n"
	"          type virtio-pci-bus\r\n"
	"          dev: virtio-net-device, id \"\"\r\n"
	"            mac = \"52:54:00:12:34:56\"\r\n"
	"            netdev = \"#net011\"\r\n"
	"            host_mtu = 0 (0x0)\r\n"
	"      dev: VGA, id \"\"\r\n"
	"        vgamem_mb = 16 (0x10)\r\n"
	"        romfile = \"vga\\x01;.bin\"\r\n"
	"  dev: kvmvapic, id \"\"\r\n";

static char *shape_of(const char *qtree, size_t room, int *rc)
{
	char *text = NULL;
	size_t len;
	FILE *f = open_memstream(&text, &len);
	struct err e;

	*rc = devtree_shape(qtree, room, f, &e);
	fclose(f);
	return text;
}

static void lines(void **state)
{
	int rc, how[3] = { 0 };
	char *text = shape_of(tree, 60000, &rc), more[800];

	assert_int_equal(rc, 0);
	assert_string_equal(text,
		"device.0=hpet \"\" on main-system-bus; timers=3 (0x3)\n"
		"device.1=i440FX-pcihost \"\" on main-system-bus; short_root_bus=0 (0x0)\n"
		"device.2=virtio-net-pci \"nic\" on pci.0; addr=03.0; romfile=\"efi-virtio.rom\"; "
		"class Ethernet controller, addr 00:03.0, pci id 1af4:1000 (sub 1af4:0001)\n"
		"device.3=virtio-net-device \"\" on virtio-bus; mac=\"52:54:00:12:34:56\"; host_mtu=0 (0x0)\n"
		"device.4=VGA \"\" on pci.0; vgamem_mb=16 (0x10); romfile=\"vga\\x01?.bin\"\n"
		"device.5=kvmvapic \"\" on main-system-bus\n");
	free(text);
	/* No room for properties, then no room for devices. */
	snprintf(more, sizeof(more), "bus: b\n  dev: one, id \"\"\n    x = %0300d\n  dev: two, id \"\"\n    y = %0300d\n", 1, 2);
	for (size_t room = 800; room > 20; room -= 10) {
		text = shape_of(more, room, &rc);
		assert_int_equal(rc, 0);
		assert_true(strlen(text) <= room);
		how[(strlen(text) < 300) + (strlen(text) < 30)]++;
		if (room == 300)
			assert_non_null(strstr(text, "device.0=one \"\" on b; properties "));
		if (room == 60)
			assert_int_equal(strncmp(text, "devices=", 8), 0);
		free(text);
	}
	assert_true(how[0] > 5 && how[1] > 5 && how[2] > 2);
	text = shape_of("", 60000, &rc);
	assert_int_equal(rc, -EPROTO);
	free(text);
	text = shape_of("bus: x\n  dev: \n   = \n  dev: ,\n dev: a, id\n  = 3\n      x = ", 60000, &rc);
	free(text);
}

static void limits(void **state)
{
	char *big = malloc(3 << 20), *p = big, *text;
	int rc;

	p += sprintf(p, "bus: b\n");
	for (int i = 0; i < DEVTREE_MAX; i++)
		p += sprintf(p, "  dev: d%d, id \"\"\n", i);
	text = shape_of(big, 60000, &rc);
	assert_int_equal(rc, 0);
	free(text);
	sprintf(p, "  dev: one-more, id \"\"\n");
	text = shape_of(big, 60000, &rc);
	assert_int_equal(rc, -E2BIG);
	free(text);
	/* A line as long as anything is cut, buses in one another end somewhere. */
	p = big + sprintf(big, "bus: b\n  dev: d, id \"\"\n    x = ");
	memset(p, 'y', 2 << 20);
	p[2 << 20] = 0;
	text = shape_of(big, 60000, &rc);
	assert_int_equal(rc, 0);
	assert_true(strlen(text) < DEVTREE_LINE + 100);
	free(text);
	memset(big, ' ', 200);
	strcpy(big + 200, "bus: deep\n");
	text = shape_of(big, 60000, &rc);
	assert_int_equal(rc, -EPROTO);
	free(text);
	free(big);
}

/* named() - what two machines that differ in one thing are told */
static void named(const char *from, const char *to, const char *what)
{
	char other[sizeof(tree) + 256], *a, *b, *at = strstr(tree, from);
	struct err e;
	int rc;

	assert_non_null(at);
	snprintf(other, sizeof(other), "%.*s%s%s", (int)(at - tree), tree, to, at + strlen(from));
	a = shape_of(tree, 60000, &rc);
	b = shape_of(other, 60000, &rc);
	if (!what)
		assert_int_equal(shape_compare(a, b, strlen(b), &e), 0);
	else {
		assert_int_equal(shape_compare(a, b, strlen(b), &e), -EXDEV);
		if (!strstr(e.msg, what))
			fail_msg("%s", e.msg);
	}
	free(a);
	free(b);
}

static void differences(void **state)
{
	named("netdev = \"#net011\"", "netdev = \"other\"", NULL);
	named("/home/me/roms/", "/srv/", NULL);
	named("bar 0: i/o at 0xffffffffffffffff", "bar 0: i/o at 0x1000", NULL);
	named("vgamem_mb = 16 (0x10)", "vgamem_mb = 32 (0x20)",
	      "a device of the device tree (number 4), VGA \"\" on pci.0, has vgamem_mb=16 (0x10) here and vgamem_mb=32 (0x20) at");
	named("dev: VGA", "dev: cirrus-vga", "is VGA \"\" on pci.0 here and cirrus-vga \"\" on pci.0 at the peer");
	named("host_mtu = 0 (0x0)\r\n", "host_mtu = 0 (0x0)\r\n            more = true\r\n", "has more=true only at the peer");
	named("  dev: kvmvapic, id \"\"\r\n", "", "is given only here: kvmvapic");
}

static void blocks(void **state)
{
	static const char text[] =
		"              Block Name    PSize              Offset               Used              Total \r\n"
		"            lockstep-ram    4 KiB  0x0000000000000000 0x0000000010000000 0x0000000010000000 \r\n"
		"   0000:00:02.0/vga.vram    4 KiB  0x0000000010080000 0x0000000001000000 0x0000000001000000 \r\n"
		"    /rom@etc/acpi/tables    4 KiB  0x0000000011100000 0x0000000000020000 0x0000000000200000 \r\n"
		"                 pc.bios    4 KiB  0x0000000010000000 0x0000000000040000 0x0000000000040000 \r\n";
	static const char newer[] =
		"              Block Name    PSize              Offset               Used              Total                HVA  RO\n"
		"   /objects/lockstep-ram    4 KiB  0x0000000000000000 0x0000000010000000 0x0000000010000000 0x00007f0000000000  rw\n"
		"   0000:00:02.0/vga.vram    4 KiB  0x0000000010080000 0x0000000001000000 0x0000000001000000 0x00007f1000000000  rw\n"
		"                 pc.bios    4 KiB  0x0000000010000000 0x0000000000040000 0x0000000000040000 0x00007f2000000000  ro\n";
	struct ramblocks b;
	struct ram_region want[RAM_REGIONS_MAX];
	struct err e;

	assert_int_equal(ramblocks_parse(text, &b, &e), 0);
	assert_int_equal(b.n, 4);
	assert_true(b.b[0].in_file);
	assert_int_equal(b.b[1].len, 16 << 20);
	assert_int_equal(ramblocks_regions(&b, want, &e), -ENOTSUP);
	assert_non_null(strstr(e.msg, "-vga none"));
	/* Without the graphics card nothing is left that would have to be moved. */
	b.b[1].state = false;
	assert_int_equal(ramblocks_regions(&b, want, &e), 0);
	assert_int_equal(ramblocks_parse(newer, &b, &e), 0);
	assert_int_equal(b.n, 3);
	assert_int_equal(b.b[1].addr, 0x7f1000000000);
	assert_int_equal(ramblocks_regions(&b, want, &e), 2);
	assert_string_equal(want[0].name, "0000:00:02.0/vga.vram");
	assert_int_equal(want[0].count, 4096);
	assert_string_equal(want[1].name, "pc.bios");
	assert_ptr_equal(ramblocks_find(&b, "pc.bios"), &b.b[2]);
	assert_null(ramblocks_find(&b, "pc.rom"));
	b.b[2].len = 4097;
	assert_int_equal(ramblocks_regions(&b, want, &e), -EINVAL);
	b.b[2] = b.b[1];
	assert_int_equal(ramblocks_regions(&b, want, &e), -EINVAL);
	assert_int_equal(ramblocks_parse("nonsense\n\n", &b, &e), -EPROTO);
}

/* As QEMU 7.2 prints it: the beginning is the same whatever the kernel, and harmless. */
#define ROMS	"fw=genroms/kvmvapic.bin size=0x002400 name=\"kvmvapic.bin\"\r\n" \
		"addr=00000000fffc0000 size=0x040000 mem=rom name=\"bios-256k.bin\"\r\n" \
		"/rom@etc/acpi/tables size=0x200000 name=\"etc/acpi/tables\"\r\n"

static void roms(void **state)
{
	static const char elf[] = ROMS
		"addr=0000000001000000 size=0x18ea9f0 mem=ram name=\"/boot/vmlinux 6 ELF program header segment 0\"\r\n"
		"addr=0000000002a00000 size=0x644000 mem=ram name=\"/boot/vmlinux 6 ELF program header segment 1\"\r\n";
	static const char loader[] = ROMS
		"addr=0000000000100000 size=0x0004f6 mem=ram name=\"/etc/pass\"word\x1b\"\r\n";
	static const char harmless[] = "addr=00000000fffc0000 size=0x040000 mem=rom name=\"/a mem=ram name=\"x\"\"\n";
	char big[4096] = "addr=0 size=0x1 mem=ram name=\"";
	struct err e;

	assert_int_equal(romlist_check(ROMS, &e), 0);
	assert_int_equal(romlist_check(harmless, &e), 0);
	assert_int_equal(romlist_check(elf, &e), -ENOTSUP);
	assert_non_null(strstr(e.msg, "QEMU writes /boot/vmlinux 6 into the guest's memory again at each reset, "));
	assert_non_null(strstr(e.msg, "bzImage"));
	assert_int_equal(romlist_check(loader, &e), -ENOTSUP);
	assert_non_null(strstr(e.msg, "QEMU writes /etc/pass\"word? into"));
	/* Anything may be cut off anywhere. */
	for (size_t len = 0; len < sizeof(elf); len++) {
		char *part = strndup(elf, len);

		romlist_check(part, &e);
		free(part);
	}
	assert_int_equal(romlist_check("addr=0 size=0x1 mem=ram name=\"", &e), -ENOTSUP);
	/* A long name takes no room from the rest of the sentence. */
	memset(big + strlen(big), 'n', sizeof(big) - strlen(big) - 1);
	big[sizeof(big) - 1] = 0;
	assert_int_equal(romlist_check(big, &e), -ENOTSUP);
	assert_non_null(strstr(e.msg, "instead of an ELF file"));
	assert_int_equal(romlist_check("", &e), -EPROTO);
	assert_int_equal(romlist_check("unknown command: 'info roms'\r\n", &e), -EPROTO);
}

static void layout(void **state)
{
	struct ram_region want[2] = { { .name = "a", .count = 3 }, { .name = "b", .count = 5 } };
	struct ram *r = ram_new(16 * RAM_PAGE, NULL);
	struct err e;

	ram_page(r, 15)[7] = 9;
	assert_int_equal(ram_layout(r, want, 2, &e), 0);
	assert_int_equal(r->n_pages, 24);
	assert_int_equal(r->main_pages, 16);
	assert_int_equal(r->region[0].first, 16);
	assert_int_equal(r->region[1].first, 19);
	assert_int_equal(ram_page(r, 15)[7], 9);
	ram_page(r, 23)[4095] = 1;
	/* Fixed from now on. */
	assert_int_equal(ftruncate(r->fd, 100 * RAM_PAGE), -1);
	assert_int_equal(ftruncate(r->fd, RAM_PAGE), -1);
	assert_int_equal(ram_layout(r, want, 2, &e), 0);
	assert_int_equal(ram_layout(r, want, 1, &e), -EXDEV);
	want[1].count = 6;
	assert_int_equal(ram_layout(r, want, 2, &e), -EXDEV);
	ram_free(r);
	r = ram_new(16 * RAM_PAGE, NULL);
	want[0].count = INT64_MAX / 8;
	assert_int_equal(ram_layout(r, want, 2, &e), -EINVAL);
	want[0].count = 1ull << 36;
	assert_int_equal(ram_layout(r, want, 2, &e), -ENOMEM);
	want[0].count = 1;
	assert_int_equal(ram_layout(r, want, RAM_REGIONS_MAX + 1, &e), -E2BIG);
	assert_int_equal(ram_layout(r, NULL, 0, &e), 0);
	assert_int_equal(r->n_pages, 16);
	ram_free(r);
}

static void files(void **state)
{
	char path[] = "/tmp/filehash.XXXXXX", a[FILEHASH_TEXT], b[FILEHASH_TEXT];
	int fd = mkstemp(path);
	struct err e;

	assert_int_equal(filehash(path, a, &e), 0);
	assert_non_null(strstr(a, "0 bytes"));
	assert_int_equal(pwrite(fd, "hello", 5, 100000), 5);
	assert_int_equal(filehash(path, a, &e), 0);
	assert_int_equal(strncmp(a, "100005 bytes, xxh3 ", 19), 0);
	assert_null(strstr(a, "samples"));
	assert_int_equal(pwrite(fd, "hellp", 5, 100000), 5);
	assert_int_equal(filehash(path, b, &e), 0);
	assert_string_not_equal(a, b);
	assert_int_equal(filehash_size(path, a, &e), 0);
	assert_string_equal(a, "100005 bytes");
	/* Of a long one the begin, the end and places between are looked at. */
	assert_int_equal(ftruncate(fd, (1ll << 30) + 12345), 0);
	assert_int_equal(filehash(path, a, &e), 0);
	assert_non_null(strstr(a, "samples"));
	for (unsigned int i = 0; i < 3; i++) {
		off_t at = i == 0 ? 0 : i == 1 ? (1ll << 30) + 12344 : ((1ll << 30) + 12345 - FILEHASH_PIECE) / 63 * 20;

		assert_int_equal(pwrite(fd, "x", 1, at), 1);
		assert_int_equal(filehash(path, b, &e), 0);
		assert_string_not_equal(a, b);
		strcpy(a, b);
	}
	close(fd);
	unlink(path);
	assert_int_equal(filehash(path, a, &e), -ENOENT);
	assert_int_equal(filehash("/tmp", a, &e), 0);
	assert_string_equal(a, "directory");
	assert_int_equal(filehash("/dev/null", a, &e), 0);
	assert_string_equal(a, "device");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(lines),
		cmocka_unit_test(limits),
		cmocka_unit_test(differences),
		cmocka_unit_test(blocks),
		cmocka_unit_test(roms),
		cmocka_unit_test(layout),
		cmocka_unit_test(files),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
