/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The guest of engine_mem: process 1 of a Linux that does nothing but write memory, in ways that differ on purpose
 * between two copies of it (it takes random numbers), and check what it has written. Its modules lie in /lib/modules,
 * where guest/build puts them. It says how it is in frames of ethertype 0x88b5, one each 10 ms, and takes orders of
 * one letter in such frames: P power off, C crash, R reboot.
 */
#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/random.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "engine_mem_frame.h"

enum { PAGE = 4096 };
static _Atomic uint64_t errors, writes;
static uint64_t boot_id;
static uint8_t mac[6];
static int ifindex;

static uint64_t rnd(void)
{
	static __thread uint64_t s[32];
	static __thread unsigned int n;

	if (n == 0) {
		getrandom(s, sizeof(s), 0);
		n = 32;
	}
	return s[--n];
}

/* load_modules() - all of them; those whose symbols come from another one are tried again after it */
static void load_modules(void)
{
	for (unsigned int pass = 0; pass < 5; pass++) {
		DIR *d = opendir("/lib/modules");
		struct dirent *de;

		while (d && (de = readdir(d)) != NULL) {
			char path[512];
			int fd;

			snprintf(path, sizeof(path), "/lib/modules/%s", de->d_name);
			fd = strstr(de->d_name, ".ko") ? open(path, O_RDONLY) : -1;
			if (fd == -1)
				continue;
			syscall(SYS_finit_module, fd, "", 0);
			close(fd);
		}
		if (d)
			closedir(d);
	}
}

static int packet_socket(void)
{
	struct ifreq ifr = { .ifr_name = "eth0" };
	struct sockaddr_ll ll = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL) };
	int fd = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL));

	for (int i = 0; i < 100; i++) {
		if (ioctl(fd, SIOCGIFINDEX, &ifr) == 0)
			break;
		usleep(100000);
	}
	ifindex = ll.sll_ifindex = ifr.ifr_ifindex;
	ioctl(fd, SIOCGIFHWADDR, &ifr);
	memcpy(mac, ifr.ifr_hwaddr.sa_data, 6);
	ifr.ifr_flags = IFF_UP | IFF_RUNNING | IFF_PROMISC;
	ioctl(fd, SIOCSIFFLAGS, &ifr);
	bind(fd, (struct sockaddr *)&ll, sizeof(ll));
	return fd;
}

static void *talk(void *arg)
{
	int fd = *(int *)arg;
	struct mem_frame f = { .type = htons(MEM_FRAME_TYPE), .magic = MEM_FRAME_MAGIC };
	uint64_t n = 0;

	memset(f.dst, 0xff, 6);
	memcpy(f.src, mac, 6);
	for (;;) {
		f.id = boot_id;
		f.count = n++;
		f.errors = errors;
		f.writes = writes;
		for (unsigned int i = 0; i < sizeof(f.noise) / 8; i++) {
			uint64_t v = rnd();

			memcpy(f.noise + i * 8, &v, 8);
		}
		if (write(fd, &f, sizeof(f)) == -1)
			usleep(1000);
		usleep(10000);
	}
	return NULL;
}

static void *listen_(void *arg)
{
	int fd = *(int *)arg;
	static uint8_t keep[1 << 20], buf[2048];
	size_t at = 0;

	for (;;) {
		ssize_t n = read(fd, buf, sizeof(buf));

		if (n < 16)
			continue;
		if (at + (size_t)n > sizeof(keep))
			at = 0;
		memcpy(keep + at, buf, (size_t)n);
		at += (size_t)n;
		if (buf[12] != MEM_FRAME_TYPE >> 8 || buf[13] != (MEM_FRAME_TYPE & 255))
			continue;
		if (buf[14] == 'P')
			reboot(RB_POWER_OFF);
		else if (buf[14] == 'R')
			reboot(RB_AUTOBOOT);
		else if (buf[14] == 'C') {
			int t = open("/proc/sysrq-trigger", O_WRONLY);

			if (t != -1 && write(t, "c", 1) == 1)
				close(t);
		}
	}
	return NULL;
}

/* each page: a word, and its complement at the end; anything else is a page of another time */
static void work(uint64_t mb, uint64_t per_ms)
{
	uint64_t pages = mb * 256, credit = 0;
	uint8_t *m = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct timespec last, now;

	clock_gettime(CLOCK_MONOTONIC, &last);
	for (;;) {
		clock_gettime(CLOCK_MONOTONIC, &now);
		credit += per_ms *
			  (uint64_t)((now.tv_sec - last.tv_sec) * 1000000 + (now.tv_nsec - last.tv_nsec) / 1000);
		last = now;
		if (credit > 200000)
			credit = 200000;
		for (; credit >= 1000; credit -= 1000) {
			uint64_t v = rnd(), *w = (uint64_t *)(m + v % pages * PAGE), *z = w + PAGE / 8 - 1;

			if (*w != 0 && *w != ~*z)
				errors++;
			if ((v >> 40) % 16 == 0) {
				memset(w, 0, PAGE);
			} else {
				*w = rnd() | 1;
				w[1 + (v >> 32) % 500] = v;
				*z = ~*w;
			}
			writes++;
		}
		if ((now.tv_nsec >> 20) % 64 == 0) {
			int fd = open("/file", O_CREAT | O_TRUNC | O_WRONLY, 0600);

			if (fd != -1 && write(fd, m, 16 * PAGE) > 0)
				close(fd);
		}
		usleep(1000);
	}
}

int main(void)
{
	static int fd;
	pthread_t t;
	char cmd[2048] = "", *p;
	uint64_t mb = 64, per_ms = 2;
	int c;

	mkdir("/proc", 0755);
	mkdir("/sys", 0755);
	mkdir("/dev", 0755);
	mount("proc", "/proc", "proc", 0, NULL);
	mount("sysfs", "/sys", "sysfs", 0, NULL);
	mount("dev", "/dev", "devtmpfs", 0, NULL);
	load_modules();
	c = open("/proc/cmdline", O_RDONLY);
	if (c != -1 && read(c, cmd, sizeof(cmd) - 1) > 0)
		close(c);
	p = strstr(cmd, "work_mb=");
	if (p)
		mb = strtoull(p + 8, NULL, 10);
	p = strstr(cmd, "per_ms=");
	if (p)
		per_ms = strtoull(p + 7, NULL, 10);
	fd = packet_socket();
	boot_id = rnd() | 1;
	pthread_create(&t, NULL, talk, &fd);
	pthread_create(&t, NULL, listen_, &fd);
	printf("engine_mem: working\n");
	work(mb, per_ms);
	return 0;
}
