/* SPDX-License-Identifier: BSD-2-Clause */
/* Log-linear histogram; see hist.h. Plain data, no loop of its own: whoever owns it adds to it and reads it. */
#include "monitor/hist.h"

#include <string.h>

static unsigned int hist_bucket(uint64_t v)
{
	unsigned int e;

	if (v < HIST_SUB)
		return (unsigned int)v;
	e = 63u - (unsigned int)__builtin_clzll(v) - HIST_SUB_BITS;
	return (e + 1) * HIST_SUB + (unsigned int)((v >> e) & (HIST_SUB - 1));
}

/* The middle of a bucket: half a bucket's width is the largest error. */
static uint64_t hist_value(unsigned int b)
{
	unsigned int e;

	if (b < HIST_SUB)
		return b;
	e = b / HIST_SUB - 1;
	return ((uint64_t)(HIST_SUB + b % HIST_SUB) << e) + ((1ull << e) >> 1);
}

void hist_reset(struct hist *h)
{
	memset(h, 0, sizeof(*h));
}

void hist_add(struct hist *h, uint64_t v)
{
	h->count[hist_bucket(v)]++;
	if (!h->n || v < h->min)
		h->min = v;
	if (v > h->max)
		h->max = v;
	h->last = v;
	h->n++;
}

uint64_t hist_quantile(const struct hist *h, unsigned int permille)
{
	uint64_t rank, seen = 0, v = h->max;

	if (permille > 1000)
		permille = 1000;
	/* Rounded up without multiplying n itself, which could overflow. */
	rank = h->n / 1000 * permille + (h->n % 1000 * permille + 999) / 1000;
	if (!rank)
		rank = 1;
	for (unsigned int b = 0; h->n && b < HIST_BUCKETS; b++) {
		seen += h->count[b];
		if (seen >= rank) {
			v = hist_value(b);
			break;
		}
	}
	return v < h->min ? h->min : v > h->max ? h->max : v;
}

void hist_summary(const struct hist *h, struct hist_summary *out)
{
	*out = (struct hist_summary){
		.n = h->n,
		.last = h->last,
		.min = h->min,
		.p50 = hist_quantile(h, 500),
		.p99 = hist_quantile(h, 990),
		.max = h->max,
	};
}
