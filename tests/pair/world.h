/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef TESTS_PAIR_WORLD_H
#define TESTS_PAIR_WORLD_H

#include <stdbool.h>
#include <sys/types.h>

/* The three hosts: network namespaces with a TAP each, whose other ends this process reads. */
enum host { HOST_CLIENT, HOST_P, HOST_S, HOSTS };

#define SERVER_IP4	"192.0.2.10"
#define SERVER_IP6	"2001:db8::10"
#define TCP_PORT	7000
#define UDP_PORT	7001

struct world {
	int ns[HOSTS];
	int tap[HOSTS];
};

/* world_new() - Return: 0, -1 with a reason on stderr, or -2 when this machine or user cannot have namespaces */
int world_new(struct world *w);
/* world_fork() - a child inside a host, dead when we are. Return: as fork() */
pid_t world_fork(struct world *w, enum host h);
void world_free(struct world *w);

/* service_run() - the servers of one host; does not return */
void service_run(void);

/* The stream that both ends know: byte @i of one that begins with @seed. Mostly zero, see rec.h. */
unsigned char stream_byte(unsigned int seed, unsigned long i);
unsigned long stream_hash(unsigned long h, const unsigned char *p, unsigned long n);
#define STREAM_HASH_INIT 14695981039346656037ul

/* client_run() - one of the client's scenarios. Return: 0, or 1 with a reason on stderr */
int client_run(const char *what, bool ip6);

#endif
