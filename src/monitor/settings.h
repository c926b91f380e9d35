/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef MONITOR_SETTINGS_H
#define MONITOR_SETTINGS_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "core/net.h"

/*
 * The settings of comparing that there are for all NICs and for each one: QEMU's of colo-compare, spelled with '-' or
 * with '_'. One table for the options of run, for `lockstep set`, for the control socket. Pure.
 */
enum setting { SETTING_COMPARE_TIMEOUT, SETTING_EXPIRED_SCAN_CYCLE, SETTING_MAX_QUEUE_SIZE, SETTINGS };

#define SETTING_LIST	"compare-timeout, expired-scan-cycle, max-queue-size"
#define SETTING_NIC_MAX	63	/* bytes of a netdev's id in a setting's name */

struct setting_info {
	const char *name;	/* with '-' */
	const char *unit;	/* for sentences */
	uint64_t min, max;
};

extern const struct setting_info setting_infos[SETTINGS];

/* setting_find() - by a name of @len bytes. Return: enum setting, or -ENOENT */
int setting_find(const char *name, size_t len);

/*
 * setting_name() - read the name under which a setting is changed: "compare-timeout" for all NICs, "n0.compare-timeout"
 * @nic: the netdev's id, "" for all
 *
 * Return: enum setting, or -EINVAL (nothing is said: the caller knows which other names there are)
 */
int setting_name(const char *text, char nic[SETTING_NIC_MAX + 1]);

/* setting_put() - store a value, which is in its range; the fields of the others stay */
void setting_put(struct net_nic_cfg *cfg, enum setting s, uint64_t v);

/* setting_value() - read a number; 0, or -EINVAL with a sentence that begins with @what */
int setting_value(const char *what, enum setting s, const char *text, uint64_t *v, struct err *e);

/*
 * setting_nic() - read "ID,SETTING=VALUE[,...]", the value of --nic
 * @nics: the netdevs' ids, @n_nics of them; borrowed
 * @cfg:  settings that were not given stay 0
 *
 * Return: index of the NIC, or -EINVAL with a sentence
 */
int setting_nic(const char *text, const char *const *nics, unsigned int n_nics, struct net_nic_cfg *cfg,
		struct err *e);

/*
 * setting_nic_find() - the index of a netdev's id, @len bytes of it
 *
 * Return: index, or -EINVAL with a sentence that says which there are
 */
int setting_nic_find(const char *id, size_t len, const char *const *nics, unsigned int n_nics, struct err *e);

#endif
