/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef LINK_PAIR_H
#define LINK_PAIR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/loop.h"
#include "base/tls.h"
#include "link/addr.h"
#include "link/codec.h"
#include "link/stream.h"

/*
 * Finding the peer: listening or connecting, the handshake, four connections. Control loop only. See pair.c.
 */
struct pair;

enum pair_limit {
	PAIR_MAX_HALF_OPEN = 8,		/* connections whose handshake is under way; the oldest stranger makes room */
	PAIR_BACKLOG = 128,		/* connections that the kernel keeps for us: a full queue costs a peer a second */
};
#define PAIR_DEADLINE		(5 * NS_PER_S)
#define PAIR_BACKOFF_MIN	(100 * NS_PER_MS)
#define PAIR_BACKOFF_MAX	(2 * NS_PER_S)
#define PAIR_TCP_TIMEOUT	(10 * NS_PER_S)

/* A peer that may be paired. The streams are the callback's from now on; the rest is borrowed during the call. */
struct pair_link {
	struct stream *s[WIRE_CHANNELS];
	uint8_t session[LINK_ID_LEN];	/* of these four connections; random */
	uint8_t vm_id[LINK_ID_LEN];
	struct hello peer;		/* generation, role, shape of the other node */
	struct link_addr local, remote;	/* of the control connection; the heartbeat goes the same way */
	bool listener;			/* this node has accepted */
	bool keyed;			/* the connections are encrypted, and there is: */
	uint8_t beat_key[TLS_KEY_LEN];	/* known to the two nodes only, of this session; for the heartbeats */
};

#define PAIR_UNKNOWN	UINT32_MAX

struct pair_cfg {
	struct loop *loop;
	bool listen;			/* wait at addrs[0]; else connect to one of them after the other */
	struct link_addr addrs[LINK_MAX_ADDRS];
	int n_addrs;
	char name[WIRE_MAX_NAME + 1];	/* the VM's, see wire_name_ok() */
	enum ft_role role;
	uint32_t generation;
	uint8_t mode;			/* see struct hello */
	bool begun;
	const char *shape;		/* lines of key=value, each with its newline; copied */
	size_t shape_len;
	struct tls *tls;		/* what the connections are encrypted with, for both roles; outlives the pair. NULL: not */
	char tls_peer[256];		/* X.509, connecting: what the peer's certificate must be for; empty: anything */
	nstime deadline;		/* 0: PAIR_DEADLINE */
	nstime backoff_min, backoff_max; /* 0: PAIR_BACKOFF_* */
	nstime tcp_timeout;		/* 0: PAIR_TCP_TIMEOUT; not below the heartbeat's silence */
	/*
	 * May this VM be paired with @peer? VM name and version are compared before.
	 * Return: 0, or -errno with a sentence that both nodes log
	 */
	int (*check)(void *arg, const struct hello *peer, struct err *e);
	void (*paired)(void *arg, struct pair_link *link);
	/*
	 * A handshake was refused: by us (@by_peer false) or by the peer. Called once per change of the sentence. May be
	 * NULL. Who connects tries again, at the longest interval; the owner may call pair_free() later, not from here.
	 * @generation: of the VM that the peer says runs already, there or where its peer is; 0: it says nothing like that;
	 * PAIR_UNKNOWN: somebody answers there, and nothing that he says can be believed (another key, or none)
	 */
	void (*refused)(void *arg, bool by_peer, uint32_t generation, const char *sentence);
	/* An attempt to connect has failed otherwise; it is tried again. May be NULL */
	void (*missed)(void *arg);
	void *arg;
};

struct pair_stats {
	uint64_t attempts;	/* to connect */
	uint64_t accepted;
	uint64_t refused;	/* handshakes that ended with REFUSE from either side */
	uint64_t evicted;	/* half-open connections that had to make room */
	uint64_t failed;	/* handshakes that ended otherwise: garbage, too slow, closed, no key */
	uint64_t strangers;	/* of these, those that did not get through TLS */
	uint64_t paired;
	uint32_t half_open;	/* now */
};

/*
 * pair_new() - begin to listen or to connect
 * @cfg: copied
 *
 * Return: the pair, or NULL with @e (the address is in use, ...)
 */
struct pair *pair_new(const struct pair_cfg *cfg, struct err *e);
void pair_free(struct pair *p);

/* pair_set() - what this node says of itself from now on; FT_PRIMARY: it serves the VM */
void pair_set(struct pair *p, enum ft_role role, uint32_t generation);

/* pair_set_state() - likewise: the mode of its state file, see struct hello; @begun: it serves now */
void pair_set_state(struct pair *p, uint8_t mode, bool begun);

/* pair_again() - the link that paired() handed out is gone; look for a peer again. Until then others are refused */
void pair_again(struct pair *p);

/* pair_port() - the port that is listened at (cfg port 0: the kernel's choice); 0 when connecting */
unsigned int pair_port(const struct pair *p);

void pair_stats_get(const struct pair *p, struct pair_stats *out);

#endif
