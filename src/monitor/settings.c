/* SPDX-License-Identifier: BSD-2-Clause */
/* The settings of comparing: names, ranges, how they are written; see settings.h. */
#include "monitor/settings.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* An hour is more than any client waits; more frames than the pool has could never be held. */
const struct setting_info setting_infos[SETTINGS] = {
	[SETTING_COMPARE_TIMEOUT] = { "compare-timeout", "milliseconds", 1, 3600000 },
	[SETTING_EXPIRED_SCAN_CYCLE] = { "expired-scan-cycle", "milliseconds", 1, 3600000 },
	[SETTING_MAX_QUEUE_SIZE] = { "max-queue-size", "packets", 1, 16384 },
};

int setting_find(const char *name, size_t len)
{
	for (int s = 0; s < SETTINGS; s++) {
		const char *want = setting_infos[s].name;
		size_t i = 0;

		if (strlen(want) != len)
			continue;
		while (i < len && (name[i] == want[i] || (want[i] == '-' && name[i] == '_')))
			i++;
		if (i == len)
			return s;
	}
	return -ENOENT;
}

int setting_name(const char *text, char nic[SETTING_NIC_MAX + 1])
{
	/* An id may have points in it, a setting has none. */
	const char *dot = strrchr(text, '.'), *name = dot ? dot + 1 : text;
	size_t n = dot ? (size_t)(dot - text) : 0;
	int s = setting_find(name, strlen(name));

	if (s < 0 || n > SETTING_NIC_MAX || (dot && !n))
		return -EINVAL;
	/* It is said again in errors; QEMU's ids are of letters, digits and a few signs. */
	for (size_t i = 0; i < n; i++) {
		if (text[i] <= 0x20 || text[i] >= 0x7f)
			return -EINVAL;
		nic[i] = text[i];
	}
	nic[n] = 0;
	return s;
}

void setting_put(struct net_nic_cfg *cfg, enum setting s, uint64_t v)
{
	switch (s) {
	case SETTING_COMPARE_TIMEOUT:
		cfg->compare_timeout = v * NS_PER_MS;
		break;
	case SETTING_EXPIRED_SCAN_CYCLE:
		cfg->expired_scan_cycle = v * NS_PER_MS;
		break;
	case SETTING_MAX_QUEUE_SIZE:
		cfg->max_queue_size = (uint32_t)v;
		break;
	case SETTINGS:
		break;
	}
}

/* Return: the value, 0 when it was not given; no setting can be 0 */
static uint64_t setting_get(const struct net_nic_cfg *cfg, enum setting s)
{
	return s == SETTING_COMPARE_TIMEOUT ? cfg->compare_timeout : s == SETTING_EXPIRED_SCAN_CYCLE ?
	       cfg->expired_scan_cycle : cfg->max_queue_size;
}

int setting_value(const char *what, enum setting s, const char *text, uint64_t *v, struct err *e)
{
	const struct setting_info *i = &setting_infos[s];
	const char *p = text;

	for (*v = 0; *p >= '0' && *p <= '9' && *v <= i->max; p++)
		*v = *v * 10 + (uint64_t)(*p - '0');
	if (*p || p == text || *v < i->min || *v > i->max)
		return err_set(e, -EINVAL, "%s: '%.40s' is not a whole number of %s from %" PRIu64 " to %" PRIu64, what,
			       text, i->unit, i->min, i->max);
	return 0;
}

int setting_nic_find(const char *id, size_t len, const char *const *nics, unsigned int n_nics, struct err *e)
{
	char all[300] = "";
	size_t used = 0;

	for (unsigned int i = 0; i < n_nics; i++) {
		if (strlen(nics[i]) == len && !memcmp(nics[i], id, len))
			return (int)i;
		if (used < sizeof(all))
			used += (size_t)snprintf(all + used, sizeof(all) - used, "%s%.60s", i ? ", " : "", nics[i]);
	}
	if (!n_nics)
		return err_set(e, -EINVAL, "'%.*s' is no NIC: this VM has none", (int)(len < 60 ? len : 60), id);
	return err_set(e, -EINVAL, "'%.*s' is no NIC: the QEMU command has the netdev%s %s", (int)(len < 60 ? len : 60),
		       id, n_nics == 1 ? "" : "s", all);
}

static int nic_word(const char *word, size_t len, struct net_nic_cfg *cfg, struct err *e)
{
	const char *eq = memchr(word, '=', len);
	size_t n = eq ? (size_t)(eq - word) : len;
	int s = setting_find(word, n);
	size_t rest = eq ? len - n - 1 : 0;
	char text[64];
	uint64_t v;
	int rc;

	if (s < 0)
		return err_set(e, -EINVAL, "a NIC has no setting '%.*s': there are " SETTING_LIST,
			       (int)(n < 60 ? n : 60), word);
	if (!eq)
		return err_set(e, -EINVAL, "%s needs a value: %s=...", setting_infos[s].name, setting_infos[s].name);
	if (setting_get(cfg, (enum setting)s))
		return err_set(e, -EINVAL, "%s is given twice", setting_infos[s].name);
	snprintf(text, sizeof(text), "%.*s", (int)(rest < sizeof(text) ? rest : sizeof(text) - 1), eq + 1);
	rc = setting_value(setting_infos[s].name, (enum setting)s, text, &v, e);
	if (!rc)
		setting_put(cfg, (enum setting)s, v);
	return rc;
}

int setting_nic(const char *text, const char *const *nics, unsigned int n_nics, struct net_nic_cfg *cfg, struct err *e)
{
	size_t len = strcspn(text, ",");
	int nic = setting_nic_find(text, len, nics, n_nics, e), rc = 0;

	memset(cfg, 0, sizeof(*cfg));
	if (nic < 0)
		return nic;
	if (!text[len])
		return err_set(e, -EINVAL, "%s alone says nothing: write %s,SETTING=VALUE with one or more of "
			       SETTING_LIST, nics[nic], nics[nic]);
	while (!rc && text[len]) {
		text += len + 1;
		len = strcspn(text, ",");
		rc = nic_word(text, len, cfg, e);
	}
	return rc ? rc : nic;
}
