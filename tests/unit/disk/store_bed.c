/* SPDX-License-Identifier: BSD-2-Clause */
#include "store_bed.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define SLOTS	24u
#define LONGEST	300000u

static uint64_t next_rnd(uint64_t *s)
{
	uint64_t z = *s += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

uint64_t bed_seed(void)
{
	const char *s = getenv("LOCKSTEP_SEED");
	uint64_t seed = s ? strtoull(s, NULL, 0) : (uint64_t)time(NULL) ^ (uint64_t)getpid() << 32;

	print_message("seed %llu\n", (unsigned long long)seed);
	return seed;
}

bool bed_open(struct bed *b, const struct store_cfg *cfg, struct err *e)
{
	struct store_cfg c = *cfg;

	*b = (struct bed){ 0 };
	b->loop.l = loop_new("disk", e);
	assert_non_null(b->loop.l);
	c.loop = b->loop.l;
	b->store = store_open(&c, e);
	if (!b->store) {
		loop_free(b->loop.l);
		return false;
	}
	b->size = store_blk(b->store)->size;
	b->trim_zeroes = !strcmp(cfg->format, "raw");
	b->shadow = calloc(1, b->size);
	assert_non_null(b->shadow);
	assert_int_equal(pthread_create(&b->loop.thread, NULL, looper_main, b->loop.l), 0);
	return true;
}

void bed_close(struct bed *b)
{
	loop_stop(b->loop.l);
	pthread_join(b->loop.thread, NULL);
	store_close(b->store);
	loop_free(b->loop.l);
	b->store = NULL;
}

void bed_end(struct bed *b)
{
	free(b->shadow);
	b->shadow = NULL;
}

struct one {
	struct bed *b;
	struct blk_req *r;
	uint64_t off, len;
	int rc;
	sem_t done;
};

static void one_done(struct blk_req *r, int rc)
{
	struct one *o = r->arg;

	o->rc = rc;
	sem_post(&o->done);
}

static void one_submit(void *arg, const void *data, size_t len)
{
	struct one *o = arg;

	blk_submit(store_blk(o->b->store), o->r);
}

int bed_do(struct bed *b, struct blk_req *r)
{
	struct one o = { .b = b, .r = r };

	sem_init(&o.done, 0, 0);
	r->done = one_done;
	r->arg = &o;
	loop_post(b->loop.l, one_submit, &o, NULL, 0);
	while (sem_wait(&o.done))
		;
	return o.rc;
}

int bed_call(struct bed *b, enum blk_op op, uint64_t off, uint64_t len, void *buf, uint32_t flags)
{
	struct blk_req r = { .op = op, .off = off, .len = len, .buf = buf, .flags = flags };

	return bed_do(b, &r);
}

static void reserved(void *arg, int rc)
{
	struct one *o = arg;

	o->rc = rc;
	sem_post(&o->done);
}

static void reserve_submit(void *arg, const void *data, size_t len)
{
	struct one *o = arg;

	store_reserve(o->b->store, o->off, o->len, reserved, o);
}

int bed_reserve(struct bed *b, uint64_t off, uint64_t len)
{
	struct one o = { .b = b, .off = off, .len = len };

	sem_init(&o.done, 0, 0);
	loop_post(b->loop.l, reserve_submit, &o, NULL, 0);
	while (sem_wait(&o.done))
		;
	return o.rc;
}

/* Many requests at once, made and judged in the loop. */
struct slot {
	struct drive *d;
	struct blk_req r;
	uint8_t *mem;		/* LONGEST + 4096 bytes, aligned */
	struct blk_extent ext[16];
	bool busy;
	bool adopt;		/* after a TRIM whose result is not said: it is read, and is what was there, or zeroes */
};

struct drive {
	struct bed *b;
	uint64_t rnd;
	unsigned int left, busy, wrong;
	uint64_t last;		/* end of the last request */
	struct slot slot[SLOTS];
	sem_t done;
};

static void fill(struct drive *d);

static void check_status(struct drive *d, const struct blk_req *r)
{
	uint64_t at = r->off;

	for (unsigned int i = 0; i < r->n_ext; i++) {
		if (!r->ext[i].len)
			d->wrong++;
		for (uint64_t k = 0; k < r->ext[i].len && r->ext[i].flags & BLK_ZEROES; k++)
			if (d->b->shadow[at + k]) {
				d->wrong++;
				break;
			}
		at += r->ext[i].len;
	}
	if (!r->n_ext || at > r->off + r->len)
		d->wrong++;
}

static void slot_done(struct blk_req *r, int rc)
{
	struct slot *s = r->arg;
	struct drive *d = s->d;

	if (rc && !(rc == -ENOTSUP && r->flags & BLK_FAST_ZERO)) {
		print_message("op %d at %llu, %llu bytes: %s\n", (int)r->op, (unsigned long long)r->off,
			      (unsigned long long)r->len, strerror(-rc));
		d->wrong++;
	}
	if (!rc && r->op == BLK_TRIM && !d->b->trim_zeroes) {
		s->adopt = true;
		r->op = BLK_READ;
		r->flags = 0;
		blk_submit(store_blk(d->b->store), r);
		return;
	}
	if (!rc && (r->op == BLK_ZERO || r->op == BLK_TRIM))
		memset(d->b->shadow + r->off, 0, r->len);
	for (uint64_t k = 0; s->adopt && k < r->len; k++) {
		if (r->buf[k] && r->buf[k] != d->b->shadow[r->off + k])
			d->wrong++;
		d->b->shadow[r->off + k] = r->buf[k];
	}
	s->adopt = false;
	if (r->op == BLK_STATUS)
		check_status(d, r);
	if (r->op == BLK_READ && memcmp(r->buf, d->b->shadow + r->off, r->len)) {
		uint64_t k = 0, n = 0;

		while (r->buf[k] == d->b->shadow[r->off + k])
			k++;
		while (k + n < r->len && r->buf[k + n] != d->b->shadow[r->off + k + n])
			n++;
		print_message("read at %llu, %llu bytes: wrong at %llu, for %llu bytes: %d is not %d\n", (unsigned long long)r->off,
			      (unsigned long long)r->len, (unsigned long long)(r->off + k), (unsigned long long)n, r->buf[k],
			      d->b->shadow[r->off + k]);
		d->wrong++;
	}
	s->busy = false;
	d->busy--;
	fill(d);
	if (!d->busy && !d->left)
		sem_post(&d->done);
}

static bool overlaps(const struct drive *d, uint64_t off, uint64_t len)
{
	for (unsigned int i = 0; i < SLOTS; i++) {
		const struct slot *s = &d->slot[i];

		if (s->busy && s->r.op != BLK_FLUSH && s->r.off < off + len && off < s->r.off + s->r.len)
			return true;
	}
	return false;
}

static void choose(struct drive *d, struct slot *s)
{
	static const enum blk_op ops[16] = { BLK_READ, BLK_READ, BLK_READ, BLK_READ, BLK_WRITE, BLK_WRITE, BLK_WRITE, BLK_WRITE,
					     BLK_WRITE, BLK_WRITE, BLK_ZERO, BLK_ZERO, BLK_TRIM, BLK_STATUS, BLK_CACHE, BLK_FLUSH };
	static const uint64_t most[8] = { 20, 600, 600, 600, 5000, 20000, 4096, LONGEST };
	uint64_t x = next_rnd(&d->rnd), off, len;
	struct blk_req *r = &s->r;

	*r = (struct blk_req){ .op = ops[x % 16], .done = slot_done, .arg = s };
	x = next_rnd(&d->rnd);
	len = 1 + next_rnd(&d->rnd) % most[x % 8];
	off = next_rnd(&d->rnd) % d->b->size;
	if (x >> 8 & 1)
		off = d->last;			/* a neighbour of the last one */
	if ((x >> 10 & 3) == 3) {
		off &= ~4095ull;
		len = (len + 4095) & ~4095ull;
	} else if ((x >> 10 & 3) == 2) {
		off &= ~511ull;
		len = (len + 511) & ~511ull;
	}
	if (len > LONGEST)
		len = LONGEST & ~4095u;
	if (off >= d->b->size)
		off = 0;
	if (len > d->b->size - off)
		len = d->b->size - off;
	r->off = off;
	r->len = len;
	r->flags = (x >> 16 & 7) == 0 && r->op != BLK_READ ? BLK_FUA : 0;
	if (r->op == BLK_ZERO)
		r->flags |= (x >> 20 & 3) == 0 ? BLK_NO_HOLE : (x >> 20 & 3) == 1 ? BLK_FAST_ZERO : 0;
	r->buf = s->mem + ((x >> 24 & 1) ? x >> 26 & 4095 : 0);
	r->ext = s->ext;
	r->n_ext = 16;
	if (r->op == BLK_FLUSH)
		r->off = r->len = r->flags = 0;
}

static void fill(struct drive *d)
{
	for (unsigned int i = 0; i < SLOTS && d->left; i++) {
		struct slot *s = &d->slot[i];

		if (s->busy)
			continue;
		choose(d, s);
		if (s->r.op != BLK_FLUSH && overlaps(d, s->r.off, s->r.len))
			continue;
		if (s->r.op == BLK_WRITE) {
			for (uint64_t k = 0; k < s->r.len; k++)
				s->r.buf[k] = (uint8_t)(next_rnd(&d->rnd) | 1);
			memcpy(d->b->shadow + s->r.off, s->r.buf, s->r.len);
		}
		d->last = s->r.off + s->r.len;
		d->left--;
		d->busy++;
		s->busy = true;
		blk_submit(store_blk(d->b->store), &s->r);
	}
}

static void drive_start(void *arg, const void *data, size_t len)
{
	fill(arg);
}

void bed_random(struct bed *b, uint64_t seed, unsigned int count)
{
	struct drive *d = calloc(1, sizeof(*d));

	assert_non_null(d);
	d->b = b;
	d->rnd = seed;
	d->left = count;
	sem_init(&d->done, 0, 0);
	for (unsigned int i = 0; i < SLOTS; i++) {
		d->slot[i].d = d;
		d->slot[i].mem = aligned_alloc(4096, (LONGEST + 8191) & ~4095u);
		assert_non_null(d->slot[i].mem);
	}
	loop_post(b->loop.l, drive_start, d, NULL, 0);
	while (sem_wait(&d->done))
		;
	for (unsigned int i = 0; i < SLOTS; i++)
		free(d->slot[i].mem);
	if (d->wrong)
		fail_msg("%u answers were wrong, seed %llu", d->wrong, (unsigned long long)seed);
	free(d);
}

#define PIECES	32u	/* of 128 bytes: eight sectors of 512, one of 4096 */

struct piece {
	struct blk_req r;
	struct bed *b;
	sem_t *done;
	uint8_t buf[128];
	int rc;
};

static void piece_done(struct blk_req *r, int rc)
{
	struct piece *p = r->arg;

	p->rc = rc;
	sem_post(p->done);
}

static void pieces_submit(void *arg, const void *data, size_t len)
{
	struct piece *p = arg;

	for (unsigned int i = 0; i < PIECES; i++)
		blk_submit(store_blk(p[i].b->store), &p[i].r);
}

void bed_neighbours(struct bed *b, unsigned int rounds)
{
	static struct piece p[PIECES];
	sem_t done;

	sem_init(&done, 0, 0);
	for (unsigned int k = 0; k < rounds; k++) {
		uint64_t base = (uint64_t)k * 4096 % (b->size - 4096);

		for (unsigned int i = 0; i < PIECES; i++) {
			bool zero = (i + k) % 7 == 0;

			p[i].b = b;
			p[i].done = &done;
			memset(p[i].buf, (int)(k * PIECES + i) | 1, sizeof(p[i].buf));
			p[i].r = (struct blk_req){ .op = zero ? BLK_ZERO : BLK_WRITE, .off = base + i * 128, .len = 128, .buf = p[i].buf,
						   .done = piece_done, .arg = &p[i] };
			if (zero)
				memset(p[i].buf, 0, sizeof(p[i].buf));
			memcpy(b->shadow + base + i * 128, p[i].buf, 128);
		}
		loop_post(b->loop.l, pieces_submit, p, NULL, 0);
		for (unsigned int i = 0; i < PIECES; i++)
			while (sem_wait(&done))
				;
		for (unsigned int i = 0; i < PIECES; i++)
			assert_int_equal(p[i].rc, 0);
	}
}

void bed_compare_file(struct bed *b, const char *path)
{
	uint8_t *mem = malloc(b->size);
	uint64_t at = 0;
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	assert_true(fd >= 0 && mem);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_size, b->size);
	while (at < b->size) {
		ssize_t n = pread(fd, mem + at, b->size - at, (off_t)at);

		assert_true(n > 0);
		at += (uint64_t)n;
	}
	close(fd);
	for (at = 0; at < b->size && mem[at] == b->shadow[at]; at++)
		;
	if (at < b->size)
		fail_msg("the file differs at %llu", (unsigned long long)at);
	free(mem);
}

bool bed_file_has(const char *path, const char *word)
{
	FILE *f = fopen(path, "re");
	char text[2048];
	size_t n;

	if (!f)
		return false;
	n = fread(text, 1, sizeof(text) - 1, f);
	text[n] = 0;
	fclose(f);
	return strstr(text, word);
}
