/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Telling the network where the VM is now. The secondary learns the guest's addresses from what it sends and receives;
 * at promotion they are announced from this node's port, a few times over a second since nobody confirms: RARP for the
 * switches, gratuitous ARP for the neighbours. Pure; belongs to one struct net.
 */
#include "core/net_internal.h"

#include <string.h>

/* Addresses that the guest answers for, to be announced when this node takes over. */
static void learn_addr(struct net *net, uint8_t nic, const uint8_t *ip)
{
	static const uint8_t none[4];

	if (!memcmp(ip, none, 4) || ip[0] >= 224)
		return;
	for (unsigned int i = 0; i < net->n_addr; i++)
		if (net->addr[i].nic == nic && !memcmp(net->addr[i].ip, ip, 4))
			return;
	if (net->n_addr == NET_ADDRS)
		return;
	net->addr[net->n_addr].nic = nic;
	memcpy(net->addr[net->n_addr++].ip, ip, 4);
}

void announce_learn_guest(struct net *net, uint8_t nic, const uint8_t *d, uint32_t len)
{
	if (len >= 42 && d[12] == 8 && d[13] == 6)
		learn_addr(net, nic, d + 28);
	else if (len >= 34 && d[12] == 8 && d[13] == 0)
		learn_addr(net, nic, d + 26);
}

void announce_learn_input(struct net *net, uint8_t nic, const uint8_t *d, uint32_t len)
{
	if (len >= 34 && d[12] == 8 && d[13] == 0 && !memcmp(d, net->cfg.mac[nic], 6))
		learn_addr(net, nic, d + 30);
}

void announce_now(struct net *net)
{
	static const nstime pause[ANNOUNCE_TIMES] = { 0, 50 * NS_PER_MS, 250 * NS_PER_MS, NS_PER_S };
	uint32_t h;

	for (uint8_t nic = 0; nic < net->cfg.n_nics; nic++) {
		h = frame_alloc(&net->fp, false);
		if (h == FRAME_NONE)
			break;
		net->fp.meta[h].len = packet_make_rarp(net_data(net, h), net->cfg.mac[nic]);
		net->fp.meta[h].epoch = net->epoch;
		release_emit(net, nic, h);
	}
	for (unsigned int i = 0; i < net->n_addr; i++) {
		h = frame_alloc(&net->fp, false);
		if (h == FRAME_NONE)
			break;
		net->fp.meta[h].len = packet_make_garp(net_data(net, h), net->cfg.mac[net->addr[i].nic], net->addr[i].ip);
		net->fp.meta[h].epoch = net->epoch;
		release_emit(net, net->addr[i].nic, h);
	}
	net->announce_left--;
	if (net->announce_left)
		net->announce_at = net->now + pause[ANNOUNCE_TIMES - net->announce_left];
}
