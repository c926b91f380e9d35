/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BASE_TLS_INTERNAL_H
#define BASE_TLS_INTERNAL_H

#include <gnutls/gnutls.h>

#include "base/tls.h"

/* What tls.c and tls_session.c share. */

struct tls {
	/* Certificates: of each role that was asked for. */
	gnutls_certificate_credentials_t server, client;
	/* Keys. */
	gnutls_psk_server_credentials_t psk_server;
	gnutls_psk_client_credentials_t psk_client;
	struct tls_key *keys;
	char *psk_path;		/* server of all users of a file: it is read again when a client comes; else NULL */
	gnutls_priority_t priority;
	bool psk;
};

#endif
