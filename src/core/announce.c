/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Telling the network where the VM is now. The secondary learns the guest's addresses, with their VLANs, from what it
 * sends (not from what is sent to it, which anybody can forge); at promotion they are announced from this node's port, a few times over a second since nobody
 * confirms: RARP for the switches, gratuitous ARP and unsolicited neighbour advertisements for the neighbours. Frames
 * that the guest forwards for others carry its MAC address and their IP address; at most NET_ADDRS are learnt, first
 * come, so a router's own come first. Pure; belongs to one struct net.
 */
#include "core/net_internal.h"

#include <string.h>

/* What nobody else can have as its own address: neither the unspecified nor a multicast one, nor broadcast. */
static bool is_unicast(uint8_t family, const uint8_t *ip)
{
	static const uint8_t none[16];

	if (family == 4)
		return memcmp(ip, none, 4) && ip[0] < 224;
	return memcmp(ip, none, 16) && ip[0] != 0xff;
}

static void learn(struct net *net, uint8_t nic, const struct packet *p, uint8_t family, const uint8_t *ip)
{
	struct net_addr *a;
	size_t len = family == 4 ? 4 : 16;

	if (!is_unicast(family, ip))
		return;
	for (unsigned int i = 0; i < net->n_addr; i++) {
		a = &net->addr[i];
		if (a->nic == nic && a->family == family && !memcmp(a->ip, ip, len) &&
		    !memcmp(a->tags, p->tag, sizeof(a->tags)))
			return;
	}
	if (net->n_addr == NET_ADDRS) {
		net->st.addrs_full++;
		return;
	}
	a = &net->addr[net->n_addr++];
	a->nic = nic;
	a->family = family;
	memcpy(a->ip, ip, len);
	memcpy(a->tags, p->tag, sizeof(a->tags));
}

void announce_learn(struct net *net, uint8_t nic, const struct packet *p)
{
	const uint8_t *mac = net->cfg.mac[nic], *l3 = p->data + p->l3;

	if (p->frame_len < 14 || memcmp(p->data + 6, mac, 6))
		return;
	if (p->family == 4)
		learn(net, nic, p, 4, l3 + 12);
	else if (p->family == 6)
		learn(net, nic, p, 6, l3 + 8);
	else if (p->kind == PK_LOCAL && !memcmp(l3 + 8, mac, 6))
		learn(net, nic, p, 4, l3 + 14);
}

void announce_begin(struct net *net)
{
	net->announce_left = ANNOUNCE_TIMES;
	net->announce_at = net->now;
}

void announce_now(struct net *net)
{
	static const uint16_t untagged[PACKET_MAX_TAGS];
	static const nstime pause[ANNOUNCE_TIMES] = { 0, 50 * NS_PER_MS, 250 * NS_PER_MS, NS_PER_S };
	const struct net_addr *a;
	uint32_t h;

	for (uint8_t nic = 0; nic < net->cfg.n_nics; nic++) {
		h = frame_alloc(&net->fp, false);
		if (h == FRAME_NONE)
			break;
		net->fp.meta[h].len = packet_make_rarp(net_data(net, h), net->cfg.mac[nic], untagged);
		net->fp.meta[h].epoch = net->epoch;
		release_emit(net, nic, h);
	}
	for (unsigned int i = 0; i < net->n_addr; i++) {
		h = frame_alloc(&net->fp, false);
		if (h == FRAME_NONE)
			break;
		a = &net->addr[i];
		net->fp.meta[h].len = a->family == 4 ?
				      packet_make_garp(net_data(net, h), net->cfg.mac[a->nic], a->tags, a->ip) :
				      packet_make_na(net_data(net, h), net->cfg.mac[a->nic], a->tags, a->ip);
		net->fp.meta[h].epoch = net->epoch;
		release_emit(net, a->nic, h);
	}
	net->announce_left--;
	if (net->announce_left)
		net->announce_at = net->now + pause[ANNOUNCE_TIMES - net->announce_left];
}
