/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Memory of QEMU's that a guest writes and that is not its main memory: a graphics card's, a flash chip's, ROMs
 *
 * QEMU allocates such blocks by itself, anonymously. A stock QEMU that can load modules exports its functions, so the
 * list of blocks can be had from QEMU itself; where it exports none, Lockstep gives the addresses. A block is moved by
 * copying what it holds into its place in the guest's memory file and mapping that over it: its address, and with it
 * every pointer that QEMU has into it, stays.
 *
 * QEMU must not run its guest meanwhile.
 */
#include <dlfcn.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "agent.h"

struct ram_block;	/* QEMU's RAMBlock: only ever handed back to it */
typedef int agent_iter_fn(struct ram_block *rb, void *arg);	/* a type of QEMU's */

/* QEMU's functions; unsigned long and size_t as they are there. */
static struct {
	int (*foreach)(agent_iter_fn *fn, void *arg);
	const char *(*name)(struct ram_block *rb);
	void *(*addr)(struct ram_block *rb);
	uint64_t (*max_length)(struct ram_block *rb);
	bool (*migratable)(struct ram_block *rb);
} qemu;

static struct agent_block blocks[AGENT_MAX_BLOCKS];
static unsigned int n_blocks;

void agent_block_init(void)
{
	/* By way of an object pointer, which ISO C does not let become a function by assignment. */
	*(void **)&qemu.foreach = dlsym(RTLD_DEFAULT, "qemu_ram_foreach_block");
	*(void **)&qemu.name = dlsym(RTLD_DEFAULT, "qemu_ram_get_idstr");
	*(void **)&qemu.addr = dlsym(RTLD_DEFAULT, "qemu_ram_get_host_addr");
	*(void **)&qemu.max_length = dlsym(RTLD_DEFAULT, "qemu_ram_get_max_length");
	*(void **)&qemu.migratable = dlsym(RTLD_DEFAULT, "qemu_ram_is_migratable");
}

/* in_file() - whether an address lies in a mapping of the guest's memory file */
static bool in_file(uint64_t addr)
{
	for (unsigned int i = 0; i < ag.n_ranges; i++)
		if (addr >= ag.range[i].addr && addr - ag.range[i].addr < ag.range[i].len)
			return true;
	return false;
}

static int look_at(struct ram_block *rb, void *arg)
{
	const char *name = qemu.name(rb);
	struct agent_block b = {
		.addr = (uint64_t)(uintptr_t)qemu.addr(rb), .len = qemu.max_length(rb),
	};

	if (!name || strlen(name) >= sizeof(b.name))
		return -ENAMETOOLONG;
	if (n_blocks == AGENT_MAX_BLOCKS)
		return -E2BIG;
	strcpy(b.name, name);
	b.flags = (qemu.migratable(rb) ? AGENT_BLOCK_STATE : 0) | (in_file(b.addr) ? AGENT_BLOCK_IN_FILE : 0);
	blocks[n_blocks++] = b;
	return 0;
}

void agent_blocks(const struct agent_msg *req)
{
	struct agent_blocks h = { 0 };
	struct iovec iov[2] = { { &h, sizeof(h) }, { blocks, 0 } };
	int rc;

	if (!qemu.foreach || !qemu.name || !qemu.addr || !qemu.max_length || !qemu.migratable) {
		agent_refuse(req, -ENOSYS, "this QEMU exports no functions by which its memory could be found");
		return;
	}
	rc = agent_find_ranges();
	n_blocks = 0;
	if (rc == 0)
		rc = qemu.foreach(look_at, NULL);
	if (rc < 0) {
		agent_refuse(req, rc, "QEMU's list of memory blocks is too long or cannot be read");
		return;
	}
	h.n = n_blocks;
	iov[1].iov_len = n_blocks * sizeof(blocks[0]);
	agent_reply(req, 0, iov, 2, NULL, 0);
}

static int put(const uint8_t *from, uint64_t len, uint64_t offset)
{
	while (len > 0) {
		ssize_t n = pwrite(ag.ram, from, len, (off_t)offset);

		if (n == -1 && errno == EINTR)
			continue;
		if (n <= 0)
			return n == -1 ? -errno : -EIO;
		from += n;
		len -= (uint64_t)n;
		offset += (uint64_t)n;
	}
	return 0;
}

/* copy() - the pages at @addr that there are (in memory, in swap) into the file; others have never been touched */
static int copy(uint64_t addr, uint64_t len, uint64_t offset, uint64_t *pages)
{
	uint64_t entry[512];

	for (uint64_t done = 0; done < len;) {
		uint64_t want = (len - done) / AGENT_PAGE;
		ssize_t got;

		if (want > sizeof(entry) / sizeof(entry[0]))
			want = sizeof(entry) / sizeof(entry[0]);
		got = pread(ag.pagemap, entry, want * sizeof(entry[0]),
			    (off_t)((addr + done) / AGENT_PAGE * sizeof(entry[0])));
		if (got == -1 && errno == EINTR)
			continue;
		if (got < (ssize_t)sizeof(entry[0]))
			return got == -1 ? -errno : -EIO;
		for (unsigned int i = 0; i < (size_t)got / sizeof(entry[0]); i++, done += AGENT_PAGE) {
			int rc;

			if ((entry[i] >> 62) == 0)
				continue;
			rc = put((const uint8_t *)(uintptr_t)(addr + done), AGENT_PAGE, offset + done);	/* NOLINT */
			if (rc < 0)
				return rc;
			(*pages)++;
		}
	}
	return 0;
}

void agent_place(const struct agent_msg *req)
{
	const int fixed = MAP_FIXED | MAP_NORESERVE;
	struct agent_place p;
	struct agent_placed done;
	struct iovec answer = { &done, sizeof(done) };
	uint64_t pages = 0;
	void *addr;
	int rc;

	if (req->len != sizeof(p) || ag.ram == -1 || ag.pagemap == -1) {
		agent_refuse(req, -EINVAL, "a block cannot be placed so");
		return;
	}
	memcpy(&p, agent_request + sizeof(*req), sizeof(p));
	if (p.addr == 0 || p.len == 0 || p.addr % AGENT_PAGE != 0 || p.len % AGENT_PAGE != 0 ||
	    p.offset % AGENT_PAGE != 0 || p.addr > UINT64_MAX - p.len || ag.uffd != -1) {
		agent_refuse(req, -EINVAL, "a block cannot be placed so");
		return;
	}
	rc = agent_find_ranges();
	for (uint64_t at = p.addr; rc == 0 && at < p.addr + p.len; at += AGENT_PAGE)
		if (in_file(at))
			rc = -EEXIST;
	if (rc < 0) {
		agent_refuse(req, rc, "a block lies in the guest's memory file already");
		return;
	}
	if (p.copy)
		rc = copy(p.addr, p.len, p.offset, &pages);
	if (rc < 0) {
		agent_refuse(req, rc, "a block of QEMU's memory cannot be copied into the guest's memory file");
		return;
	}
	addr = (void *)(uintptr_t)p.addr;	/* NOLINT: an address */
	if (mmap(addr, p.len, PROT_READ | PROT_WRITE, (p.shared ? MAP_SHARED : MAP_PRIVATE) | fixed, ag.ram,
		 (off_t)p.offset) == MAP_FAILED) {
		agent_refuse(req, -errno, "a block of QEMU's memory cannot be mapped anew");
		return;
	}
	madvise(addr, p.len, MADV_DONTFORK);
	done.pages = pages;
	agent_reply(req, 0, &answer, 1, NULL, 0);
}
