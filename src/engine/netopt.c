/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Network cards on QEMU's command line. A TAP network is taken over: Lockstep opens the TAP itself, and QEMU gets
 * one end of a socketpair (-netdev stream). -nic, which is a netdev and a card in one, is split into its two halves,
 * because its netdev half could not be replaced otherwise. Every other network is refused: its frames would not pass
 * through us, so neither would its answers be compared nor its connections survive.
 * Runs before anything else, in the main thread.
 */
#include "engine/netopt.h"

#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WRITE_TAP "write -netdev tap,id=...,ifname=...,script=no,downscript=no"

/* Networks that are not ours to carry, and why. */
static const struct {
	const char *type, *why;
} refused_nets[] = {
	{ "user", "a user-mode network lives inside QEMU, where its connections die with it" },
	{ "bridge", "its TAP is made by QEMU's helper program, which Lockstep does not ask yet" },
	{ "socket", "it would bypass Lockstep" },
	{ "stream", "it would bypass Lockstep" },
	{ "dgram", "it would bypass Lockstep" },
	{ "hubport", "hubs are not supported" },
	{ "l2tpv3", "its packets would leave without being compared" },
	{ "vde", "its packets would leave without being compared" },
	{ "vhost-user", "its packets do not pass through QEMU, so they cannot be compared" },
	{ "vhost-vdpa", "its packets do not pass through QEMU, so they cannot be compared" },
	{ "netmap", "its packets would leave without being compared" },
	{ "af-xdp", "its packets would leave without being compared" },
	{ "passt", "its connections live in another process, which is not replicated" },
};

/* Options of a TAP network. Lockstep opens the TAP, so each is honoured, or it means nothing, or it is refused. */
enum tap_how { TAP_ID, TAP_IFNAME, TAP_SCRIPT, TAP_MUST_BE_OFF, TAP_QUEUES, TAP_IGNORED, TAP_REFUSED };

static const struct {
	const char *key;
	enum tap_how how;
	const char *why;
} tap_keys[] = {
	{ "type", TAP_ID, NULL },
	{ "id", TAP_ID, NULL },
	{ "ifname", TAP_IFNAME, NULL },
	{ "script", TAP_SCRIPT, NULL },
	{ "downscript", TAP_SCRIPT, NULL },
	{ "vhost", TAP_MUST_BE_OFF, "with vhost the packets do not pass through QEMU, so they cannot be compared" },
	{ "vhostforce", TAP_MUST_BE_OFF, "with vhost the packets do not pass through QEMU, so they cannot be "
					  "compared" },
	{ "vnet_hdr", TAP_MUST_BE_OFF, "offloading to the TAP is not supported: what is compared are whole frames" },
	{ "vhostfd", TAP_REFUSED, "vhost is not supported" },
	{ "vhostfds", TAP_REFUSED, "vhost is not supported" },
	{ "queues", TAP_QUEUES, NULL },
	{ "fd", TAP_REFUSED, "Lockstep opens the TAP itself; say ifname=" },
	{ "fds", TAP_REFUSED, "Lockstep opens the TAP itself, with one queue; say ifname=" },
	{ "helper", TAP_REFUSED, "Lockstep opens the TAP itself; say ifname=" },
	{ "br", TAP_REFUSED, "Lockstep opens the TAP itself; say ifname= and put it into the bridge" },
	{ "sndbuf", TAP_IGNORED, NULL },
	{ "poll-us", TAP_IGNORED, NULL },
};

/* Names of -nic model= that are not the name of a device. */
static const struct {
	const char *alias, *device;
} model_aliases[] = {
	{ "virtio", "virtio-net-pci" },
};

/* Network cards that QEMU has for a PC, so that a card without a network is noticed. */
static const char *const models[] = {
	"virtio-net-pci", "virtio-net-pci-transitional", "virtio-net-pci-non-transitional", "e1000", "e1000-82544gc",
	"e1000-82545em", "e1000e", "igb", "rtl8139", "vmxnet3", "ne2k_pci", "ne2k_isa", "pcnet", "tulip", "i82550",
	"i82551", "i82557a", "i82557b", "i82557c", "i82558a", "i82558b", "i82559a", "i82559b", "i82559c", "i82559er",
	"i82562", "i82801", "usb-net",
};

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

static bool is_model(const char *name)
{
	for (unsigned int i = 0; i < ARRAY_LEN(models); i++)
		if (!strcmp(models[i], name))
			return true;
	return false;
}

static int take_ifname(struct cmdline_nic *nic, const char *val, struct err *e)
{
	size_t len = strlen(val);

	_Static_assert(CMDLINE_IFNAME_MAX + 1 == IFNAMSIZ, "the kernel's limit");
	if (!len || len > CMDLINE_IFNAME_MAX || strpbrk(val, "/ %:\t\n") || !strcmp(val, ".") || !strcmp(val, ".."))
		return err_set(e, -EINVAL, "ifname=%.40s: this is not the name of a network interface", val);
	strcpy(nic->ifname, val);
	return 0;
}

static int take_tap_key(struct cmdline_nic *nic, const struct kvlist *kv, const char *key, struct err *e)
{
	const char *val = kvlist_get(kv, key);
	unsigned int n;

	for (unsigned int i = 0; i < ARRAY_LEN(tap_keys); i++) {
		if (strcmp(tap_keys[i].key, key))
			continue;
		switch (tap_keys[i].how) {
		case TAP_ID:
		case TAP_IGNORED:
			return 0;
		case TAP_IFNAME:
			return take_ifname(nic, val, e);
		case TAP_SCRIPT:
			if (strcmp(val, "no"))
				return err_set(e, -ENOTSUP, "%s=%.60s: Lockstep opens the TAP itself and runs no "
					       "script; set it up beforehand and say script=no,downscript=no",
					       key, val);
			return 0;
		case TAP_MUST_BE_OFF:
			if (kvlist_bool(kv, key, 0))
				return err_set(e, -ENOTSUP, "%s=%.60s: %s; leave it out", key, val, tap_keys[i].why);
			return 0;
		case TAP_QUEUES:
			if (args_uint(val, 1, &n) || n != 1)
				return err_set(e, -ENOTSUP, "queues=%.60s: a card with several queues is not "
					       "supported; leave it out", val);
			return 0;
		case TAP_REFUSED:
			return err_set(e, -ENOTSUP, "%s=: %s", key, tap_keys[i].why);
		}
	}
	return err_set(e, -EINVAL, "%.60s=: not an option of a TAP network that Lockstep knows", key);
}

/* Everything of a TAP network but the card: from -netdev tap and from -nic tap. */
static int take_tap(struct cmdline *c, const struct kvlist *kv, bool with_card, struct cmdline_nic **out,
		    struct err *e)
{
	const char *type = kvlist_get(kv, "type"), *id = kvlist_get(kv, "id");
	struct cmdline_nic *nic = &c->nics[c->n_nics];
	char name[32];
	int rc;

	if (!type)
		type = "user";
	for (unsigned int i = 0; i < ARRAY_LEN(refused_nets); i++)
		if (!strcmp(type, refused_nets[i].type))
			return err_set(e, -ENOTSUP, "%s: %s; " WRITE_TAP, type, refused_nets[i].why);
	if (strcmp(type, "tap"))
		return err_set(e, -ENOTSUP, "%.60s: not a network that Lockstep knows; " WRITE_TAP, type);
	if (c->n_nics >= CMDLINE_NICS_MAX)
		return err_set(e, -E2BIG, "more than %d network cards", CMDLINE_NICS_MAX);
	if (!id && !with_card)
		return err_set(e, -EINVAL, "a -netdev needs an id=");
	if (id && !strncmp(id, CMDLINE_OWN_ID, strlen(CMDLINE_OWN_ID)))
		return err_set(e, -EINVAL, "ids that begin with " CMDLINE_OWN_ID " are Lockstep's own");
	snprintf(name, sizeof(name), CMDLINE_OWN_ID "nic%u", c->n_nics);
	nic->id = strdup(id ? id : name);
	nic->opt = -1;
	c->n_nics++;	/* from here on cmdline_free() frees it */
	if (!nic->id)
		return err_set(e, -ENOMEM, "no memory for a network card");
	for (unsigned int i = 0; i + 1 < c->n_nics; i++)
		if (!strcmp(c->nics[i].id, nic->id))
			return err_set(e, -EINVAL, "two networks have the id %.60s", nic->id);
	for (unsigned int i = 0; i < kv->n; i++) {
		if (with_card && (!strcmp(kv->v[i].key, "mac") || !strcmp(kv->v[i].key, "model")))
			continue;
		rc = take_tap_key(nic, kv, kv->v[i].key, e);
		if (rc)
			return rc;
	}
	if (!nic->ifname[0])
		return err_set(e, -ENOTSUP, "the TAP's name is missing: say ifname=");
	if (!kvlist_get(kv, "script") || !kvlist_get(kv, "downscript"))
		return err_set(e, -ENOTSUP, "without script= and downscript= QEMU would run a script of the host's, "
			       "but Lockstep opens the TAP itself and runs none; set it up beforehand and say "
			       "script=no,downscript=no");
	*out = nic;
	return 0;
}

int netopt_netdev(struct cmdline *c, const char *arg, struct err *e)
{
	struct cmdline_nic *nic;
	struct kvlist kv;
	int rc;

	rc = kvlist_parse(&kv, arg, "type", e);
	if (!rc)
		rc = take_tap(c, &kv, false, &nic, e);
	kvlist_free(&kv);
	if (rc)
		err_prefix(e, "-netdev %.80s", arg);
	return rc;
}

static int take_model(struct cmdline_nic *nic, const char *model, struct err *e)
{
	/* No model: the card that the board has by itself, which is known once all of -machine is read. */
	if (!model)
		return 0;
	for (unsigned int i = 0; i < ARRAY_LEN(model_aliases); i++)
		if (!strcmp(model, model_aliases[i].alias))
			model = model_aliases[i].device;
	if (!is_model(model))
		return err_set(e, -ENOTSUP, "model=%.60s: not a network card that Lockstep knows", model);
	nic->model = strdup(model);
	return nic->model ? 0 : err_set(e, -ENOMEM, "no memory for a network card");
}

int netopt_nic(struct cmdline *c, const char *arg, struct err *e)
{
	struct cmdline_nic *nic;
	struct kvlist kv;
	const char *type, *mac;
	int rc;

	rc = kvlist_parse(&kv, arg, "type", e);
	if (rc) {
		err_prefix(e, "-nic %.80s", arg);
		return rc;
	}
	type = kvlist_get(&kv, "type");
	if (type && !strcmp(type, "none")) {
		kvlist_free(&kv);
		return 0;
	}
	mac = kvlist_get(&kv, "mac");
	rc = take_tap(c, &kv, true, &nic, e);
	if (!rc) {
		nic->make_device = true;
		rc = take_model(nic, kvlist_get(&kv, "model"), e);
	}
	if (!rc && mac && args_mac(mac, nic->mac))
		rc = err_set(e, -EINVAL, "mac=%.40s: this is not the MAC address of a card", mac);
	kvlist_free(&kv);
	if (rc)
		err_prefix(e, "-nic %.80s", arg);
	return rc;
}

/* The card of a -device option: which network it is on, and what it must not ask for. */
static int join_device(struct cmdline *c, int opt, struct err *e)
{
	struct kvlist *kv = &c->opts[opt].kv;
	const char *driver = kvlist_get(kv, "driver"), *net = kvlist_get(kv, "netdev"), *val;
	struct cmdline_nic *nic = NULL;
	unsigned int mtu;

	if (!net) {
		if (is_model(driver) || !strcmp(driver, "virtio-net"))
			return err_set(e, -ENOTSUP, "a network card that is connected to nothing; say netdev= (and "
				       WRITE_TAP ")");
		return 0;
	}
	for (unsigned int i = 0; i < c->n_nics; i++)
		if (!strcmp(c->nics[i].id, net))
			nic = &c->nics[i];
	if (!nic)
		return err_set(e, -EINVAL, "netdev=%.60s: there is no such -netdev", net);
	if (nic->make_device || nic->opt >= 0)
		return err_set(e, -EINVAL, "netdev=%.60s: another card is on it already", net);
	if (kvlist_bool(kv, "failover", 0))
		return err_set(e, -ENOTSUP, "failover=: QEMU would give the card a passed-through twin; leave it out");
	val = kvlist_get(kv, "host_mtu");
	if (val && args_uint(val, NETOPT_MTU_MAX, &mtu))
		return err_set(e, -ENOTSUP, "host_mtu=%.40s: more than %d is not supported", val, NETOPT_MTU_MAX);
	val = kvlist_get(kv, "mac");
	if (val && args_mac(val, nic->mac))
		return err_set(e, -EINVAL, "mac=%.40s: this is not the MAC address of a card", val);
	nic->opt = opt;
	nic->model = strdup(driver);
	return nic->model ? 0 : err_set(e, -ENOMEM, "no memory for a network card");
}

static bool mac_taken(const struct cmdline *c, const char *mac)
{
	for (unsigned int i = 0; i < c->n_nics; i++)
		if (!strcmp(c->nics[i].mac, mac))
			return true;
	return false;
}

/* The next free one of QEMU's own, 52:54:00:12:34:56 and up. */
static void default_mac(const struct cmdline *c, char mac[18])
{
	unsigned int last = 0x56;

	do
		snprintf(mac, 18, "52:54:00:12:34:%02x", last++ & 0xff);
	while (mac_taken(c, mac));
}

/* Set a property of the -device that the user wrote for a card; one that we make gets it in cmdbuild.c. */
static int set_prop(struct cmdline *c, const struct cmdline_nic *nic, const char *key, const char *val, struct err *e)
{
	struct cmdopt *o = nic->opt < 0 ? NULL : &c->opts[nic->opt];
	char *arg;

	if (!o)
		return 0;
	if (kvlist_set(&o->kv, key, val))
		return err_set(e, -ENOMEM, "no memory for a network card");
	arg = kvlist_format(&o->kv, "driver");
	if (!arg)
		return err_set(e, -ENOMEM, "no memory for a network card");
	free(o->arg);
	o->arg = arg;
	return 0;
}

static int set_mac(struct cmdline *c, struct cmdline_nic *nic, struct err *e)
{
	char mac[18];

	if (nic->mac[0])
		return 0;
	default_mac(c, mac);
	strcpy(nic->mac, mac);
	return set_prop(c, nic, "mac", nic->mac, e);
}

bool netopt_vlan_filter(const struct cmdline_nic *nic)
{
	return !strncmp(nic->model, "virtio-net", strlen("virtio-net"));
}

/*
 * QEMU forgets the VLAN filter of a virtio card when it loads a state (seen in 7.2; mended in 2025, which cannot be seen
 * from outside): after a checkpoint the SVM would be given no tagged frame any more. Without the filter the card takes
 * them all, and the guest sorts them out itself.
 */
static int no_vlan_filter(struct cmdline *c, const struct cmdline_nic *nic, struct err *e)
{
	if (!netopt_vlan_filter(nic))
		return 0;
	if (nic->opt >= 0 && kvlist_bool(&c->opts[nic->opt].kv, "ctrl_vlan", 0))
		return err_set(e, -ENOTSUP, "-device %.60s: ctrl_vlan=on: QEMU forgets the filter at a checkpoint, and then the guest "
			       "gets no frame with a VLAN tag; leave it out", nic->model);
	return set_prop(c, nic, "ctrl_vlan", "off", e);
}

int netopt_finish(struct cmdline *c, struct err *e)
{
	bool q35 = c->machine && strstr(c->machine, "q35");
	int rc;

	for (unsigned int i = 0; i < c->n_opts; i++) {
		if (strcmp(c->opts[i].name, "device"))
			continue;
		rc = join_device(c, (int)i, e);
		if (rc) {
			err_prefix(e, "-device %.80s", c->opts[i].arg);
			return rc;
		}
	}
	if (!c->net_given)
		return err_set(e, -ENOTSUP, "no network is given, and then QEMU makes a user-mode network of its "
			       "own, which lives inside QEMU and dies with it; " WRITE_TAP
			       " and a -device for it, or -nic none");
	for (unsigned int i = 0; i < c->n_nics; i++) {
		struct cmdline_nic *nic = &c->nics[i];

		if (!nic->make_device && nic->opt < 0)
			return err_set(e, -EINVAL, "-netdev %.60s: no card is on it; write -device "
				       "virtio-net-pci,netdev=%.60s",
				       nic->id, nic->id);
		if (!nic->model)
			nic->model = strdup(q35 ? "e1000e" : "e1000");
		if (!nic->model)
			return err_set(e, -ENOMEM, "no memory for a network card");
	}
	/* In this order, so that an address is never given to one card that another has been given by the user. */
	for (unsigned int i = 0; i < c->n_nics; i++) {
		for (unsigned int k = i + 1; c->nics[i].mac[0] && k < c->n_nics; k++)
			if (!strcmp(c->nics[i].mac, c->nics[k].mac))
				return err_set(e, -EINVAL, "two network cards have the MAC address %s", c->nics[i].mac);
		rc = set_mac(c, &c->nics[i], e);
		if (!rc)
			rc = no_vlan_filter(c, &c->nics[i], e);
		if (rc)
			return rc;
	}
	return 0;
}
