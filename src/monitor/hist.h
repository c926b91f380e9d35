/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef MONITOR_HIST_H
#define MONITOR_HIST_H

#include <stdint.h>

/*
 * A histogram of fixed size (30 KB) over all of uint64_t: exact below 64, log-linear above (64 buckets for each
 * power of two), so a quantile is off by less than 1 %. For pauses in ns, pages and bytes of checkpoints.
 */
#define HIST_SUB_BITS	6
#define HIST_SUB	(1u << HIST_SUB_BITS)
#define HIST_BUCKETS	((64u - HIST_SUB_BITS + 1) * HIST_SUB)

struct hist {
	uint64_t n;		/* values taken */
	uint64_t last, min, max;
	uint64_t count[HIST_BUCKETS];
};

/* What people are shown of a histogram; all 0 while nothing was taken. */
struct hist_summary {
	uint64_t n;
	uint64_t last, min, p50, p99, max;
};

/* hist_reset() - forget everything; a zeroed struct is ready as well */
void hist_reset(struct hist *h);

/* hist_add() - take one value */
void hist_add(struct hist *h, uint64_t v);

/*
 * hist_quantile() - the least value that at least @permille of 1000 values do not exceed
 * @permille: 0 to 1000; 500 is the median; more is taken as 1000
 *
 * Return: the value, less than 1 % off, never outside of min and max; 0 while nothing was taken
 */
uint64_t hist_quantile(const struct hist *h, unsigned int permille);

/* hist_summary() - the figures that status shows */
void hist_summary(const struct hist *h, struct hist_summary *out);

#endif
