/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BASE_PCAPNG_H
#define BASE_PCAPNG_H

#include <stddef.h>
#include <stdint.h>

/*
 * The pcapng file format, as much of it as a capture of Ethernet frames needs: one section, little-endian, interfaces
 * whose times are nanoseconds since 1970. Pure: bytes into a buffer and out of one.
 *
 * Each pcapng_put_*() writes one whole block and returns its length, or 0 when it does not fit: then nothing that was
 * written counts.
 */
#define PCAPNG_MAX_BLOCK	(128u << 10)	/* bytes of a block that a reader here takes */
#define PCAPNG_MAX_NAME		128		/* bytes of a name; what is longer is cut */

enum pcapng_direction {
	PCAPNG_INBOUND = 1,
	PCAPNG_OUTBOUND = 2,
};

struct pcapng_packet {
	uint32_t iface;			/* number of the interface, from 0 in the order of their blocks */
	uint64_t at;			/* ns since 1970 */
	enum pcapng_direction dir;
	const uint8_t *data;
	uint32_t caplen, len;		/* bytes here; bytes that the frame had */
};

/* pcapng_put_section() - the head of a file; @app: which program writes it */
size_t pcapng_put_section(uint8_t *out, size_t cap, const char *app);

/* pcapng_put_interface() - announce an Ethernet interface; @snaplen: most bytes of a frame, 0: no limit */
size_t pcapng_put_interface(uint8_t *out, size_t cap, const char *name, uint32_t snaplen);

/* pcapng_packet_size() - what pcapng_put_packet() will take for @caplen bytes */
size_t pcapng_packet_size(uint32_t caplen);
size_t pcapng_put_packet(uint8_t *out, size_t cap, const struct pcapng_packet *p);

/*
 * pcapng_put_stats() - how an interface fared; at the end of a file
 * @at: ns since 1970; @seen: frames that came, @dropped: those of them that had no room
 */
size_t pcapng_put_stats(uint8_t *out, size_t cap, uint32_t iface, uint64_t at, uint64_t seen, uint64_t dropped);

enum pcapng_type {
	PCAPNG_SECTION = 0x0a0d0d0a,
	PCAPNG_INTERFACE = 1,
	PCAPNG_STATS = 5,
	PCAPNG_PACKET = 6,
};

struct pcapng_block {
	uint32_t type;			/* enum pcapng_type, or another */
	uint32_t size;			/* of the whole block */
	uint32_t iface;			/* of a packet or statistics */
	uint64_t seen, dropped;		/* statistics; 0 when they do not say */
};

/*
 * pcapng_next() - look at the block at the head of a stream that was written by the above
 *
 * Return: its size; 0 when it is not yet complete; -EPROTO when this is no such block
 */
long pcapng_next(const uint8_t *p, size_t len, struct pcapng_block *b);

#endif
