/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * etcd as the witness: theory of operation
 *
 * One key for each VM, PREFIX/NAME/generation, asked for through the JSON gateway that every etcd since 3.4 has at /v3/.
 * A claim reads the key (a linearizable read, so a member without a leader does not answer it) and, when that is
 * what was expected, puts the new record in a transaction that compares the value with the bytes read, or, when there
 * was no key, its create revision with 0. That is the compare-and-swap on which safety rests, and the only thing.
 *
 * No lease is attached to the key: a generation must not be forgotten because nobody was there for a while, or the node
 * with the older state could serve it. So nothing has to be cleaned up either but the key of a VM that is no more
 * (etcdctl del), and Lockstep uses no leases at all.
 *
 * Several endpoints. The last good one is asked first. When it has not answered after ETCD_HEDGE, the next one is asked
 * the same beside it, and so on; the first answer counts. A member that is cut off, or that has no leader, so costs that
 * long and no more. A transaction may thus arrive twice, and one whose answer was lost may have been applied, or may
 * be later: all that is harmless, because only the first of them finds the value that it compares with. The
 * second finds the record that the first has put, with our id, and witness_judge() calls that granted.
 *
 * When all have been asked and none has answered, they are asked again (a new leader may be just being elected) with
 * twice the time, until the question's time is over: that is UNKNOWN.
 *
 * With user= each request carries a token, which /v3/auth/authenticate gives for the password and which is asked for
 * again when it is refused. (The gateway does not take a client certificate's name for a user.)
 *
 * curl: no redirects, no proxies from the environment, HTTP and HTTPS only; certificate and host name are verified.
 */
#include <curl/curl.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cluster/shell.h"
#include "cluster/witness_internal.h"

#define ETCD_HEDGE	(100 * NS_PER_MS)	/* until the next endpoint is asked beside those before */
#define ETCD_TRY	(400 * NS_PER_MS)	/* that one may take at first; doubled with each round */
#define ETCD_PAUSE	(50 * NS_PER_MS)	/* between two rounds */

struct endpoint {
	const char *url;
	CURL *easy;
	bool active;
	bool huge;			/* the answer was longer than ETCD_REPLY_MAX */
	size_t len;
	char reply[ETCD_REPLY_MAX];
};

struct etcd {
	const struct witness_cfg *cfg;
	CURLM *multi;
	struct curl_slist *headers, *auth_headers;	/* auth: with the token, NULL: there is none */
	char key[ETCD_KEY_MAX + 1];
	char password[ETCD_PASSWORD_MAX];
	unsigned int good;		/* the endpoint that answered last */
	struct endpoint endpoint[];
};

static pthread_once_t curl_once = PTHREAD_ONCE_INIT;

static void curl_begin(void)
{
	curl_global_init(CURL_GLOBAL_DEFAULT);
}

static size_t received(char *data, size_t size, size_t n, void *arg)
{
	struct endpoint *p = arg;

	if (n > sizeof(p->reply) - p->len) {
		p->huge = true;
		return 0;
	}
	memcpy(p->reply + p->len, data, n);
	p->len += n;
	return n;
}

static void etcd_free(void *b)
{
	struct etcd *d = b;

	for (unsigned int i = 0; i < d->cfg->spec.endpoints; i++) {
		if (d->endpoint[i].active)
			curl_multi_remove_handle(d->multi, d->endpoint[i].easy);
		curl_easy_cleanup(d->endpoint[i].easy);
	}
	curl_multi_cleanup(d->multi);
	curl_slist_free_all(d->headers);
	curl_slist_free_all(d->auth_headers);
	explicit_bzero(d->password, sizeof(d->password));
	free(d);
}

static int read_password(struct etcd *d, struct err *e)
{
	const char *path = d->cfg->spec.password_file;
	FILE *f = fopen(path, "re");
	size_t n;

	if (!f)
		return err_set(e, -errno, "--witness: %.300s cannot be read: %s", path, strerror(errno));
	if (!fgets(d->password, sizeof(d->password), f))
		*d->password = 0;
	fclose(f);
	n = strlen(d->password);
	if (n == sizeof(d->password) - 1 && d->password[n - 1] != '\n')
		return err_set(e, -EINVAL, "--witness: the password in %.300s is longer than %d bytes", path, ETCD_PASSWORD_MAX - 2);
	d->password[strcspn(d->password, "\r\n")] = 0;
	return *d->password ? 0 : err_set(e, -EINVAL, "--witness: the first line of %.300s is empty", path);
}

static int set_up(struct endpoint *p, const struct witness_spec *s)
{
	CURL *c = curl_easy_init();

	p->easy = c;
	if (!c)
		return -ENOMEM;
	curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(c, CURLOPT_PROXY, "");
	curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(c, CURLOPT_POST, 1L);
	curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, received);
	curl_easy_setopt(c, CURLOPT_WRITEDATA, p);
	curl_easy_setopt(c, CURLOPT_PRIVATE, p);
	curl_easy_setopt(c, CURLOPT_TCP_NODELAY, 1L);
	if (*s->cacert)
		curl_easy_setopt(c, CURLOPT_CAINFO, s->cacert);
	if (*s->cert) {
		curl_easy_setopt(c, CURLOPT_SSLCERT, s->cert);
		curl_easy_setopt(c, CURLOPT_SSLKEY, s->key);
	}
	return 0;
}

void *witness_etcd_new(const struct witness_cfg *cfg, struct err *e)
{
	const struct witness_spec *s = &cfg->spec;
	const char *const files[] = { s->cacert, s->cert, s->key };
	struct etcd *d;
	int rc = 0;

	for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++) {
		if (*files[i] && access(files[i], R_OK)) {
			err_set(e, -errno, "--witness: %.300s cannot be read: %s", files[i], strerror(errno));
			return NULL;
		}
	}
	pthread_once(&curl_once, curl_begin);
	d = calloc(1, sizeof(*d) + s->endpoints * sizeof(d->endpoint[0]));
	if (!d) {
		err_set(e, -ENOMEM, "no memory for the witness");
		return NULL;
	}
	d->cfg = cfg;
	if (snprintf(d->key, sizeof(d->key), "%s%s/generation", s->prefix, cfg->name) >= (int)sizeof(d->key))
		rc = err_set(e, -EINVAL, "--witness: prefix and name together are longer than %d bytes", ETCD_KEY_MAX - 11);
	if (!rc && *s->user)
		rc = read_password(d, e);
	d->multi = curl_multi_init();
	d->headers = curl_slist_append(NULL, "Content-Type: application/json");
	for (unsigned int i = 0; !rc && i < s->endpoints; i++) {
		d->endpoint[i].url = s->endpoint[i];
		rc = set_up(&d->endpoint[i], s);
	}
	if (!rc && d->multi && d->headers)
		return d;
	if (!rc || rc == -ENOMEM)
		err_set(e, -ENOMEM, "no memory for the witness");
	etcd_free(d);
	return NULL;
}

/* Begin the same request at one more endpoint. */
static int begin(struct etcd *d, struct endpoint *p, const char *path, const char *body, nstime limit)
{
	char url[sizeof(d->cfg->spec.endpoint[0]) + 32];

	snprintf(url, sizeof(url), "%s%s", p->url, path);
	p->len = 0;
	p->huge = false;
	curl_easy_setopt(p->easy, CURLOPT_URL, url);
	curl_easy_setopt(p->easy, CURLOPT_POSTFIELDS, body);
	curl_easy_setopt(p->easy, CURLOPT_HTTPHEADER, d->auth_headers ? d->auth_headers : d->headers);
	curl_easy_setopt(p->easy, CURLOPT_TIMEOUT_MS, (long)(limit / NS_PER_MS) + 1);
	curl_easy_setopt(p->easy, CURLOPT_CONNECTTIMEOUT_MS, (long)(limit / NS_PER_MS) + 1);
	if (curl_multi_add_handle(d->multi, p->easy))
		return -ENOMEM;
	p->active = true;
	return 0;
}

static void end(struct etcd *d, struct endpoint *p)
{
	curl_multi_remove_handle(d->multi, p->easy);
	p->active = false;
}

/* One endpoint has answered, or failed. */
static int ended(struct endpoint *p, CURLcode code, struct etcd_answer *a, struct err *e)
{
	long status = 0;

	if (p->huge)
		return err_set(e, -EPROTO, "%s: the answer has more than %d bytes", p->url, ETCD_REPLY_MAX);
	if (code)
		return err_set(e, -EHOSTUNREACH, "%s: %.300s", p->url, curl_easy_strerror(code));
	curl_easy_getinfo(p->easy, CURLINFO_RESPONSE_CODE, &status);
	if (!etcd_read(status, p->reply, p->len, a, e))
		return 0;
	return err_prefix(e, "%s", p->url);
}

/* Whether another endpoint may answer better. */
static bool elsewhere(int rc)
{
	return rc == -EAGAIN || rc == -EHOSTUNREACH || rc == -EPROTO;
}

/* All endpoints, once. Return: 0 with @a; -errno with @e: none has answered, or one has refused; -ECANCELED */
static int round_of(struct etcd *d, const struct witness_ask *q, const char *path, const char *body, nstime limit,
		    struct etcd_answer *a, struct err *e)
{
	unsigned int n = d->cfg->spec.endpoints, first = d->good, begun = 0, active = 0;
	struct curl_waitfd stop = { .fd = q->stop, .events = CURL_WAIT_POLLIN };
	nstime next = 0;
	int rc = -EAGAIN;

	while (elsewhere(rc) && (begun < n || active)) {
		nstime now = clock_ns(), wait = ETCD_HEDGE;
		CURLMsg *m;
		int left;

		if (now >= q->until) {
			rc = err_set(e, -ETIMEDOUT, "no answer within %llu ms", (unsigned long long)(q->limit / NS_PER_MS));
			break;
		}
		if (begun < n && now >= next) {
			if (!begin(d, &d->endpoint[(first + begun++) % n], path, body, limit < q->until - now ? limit : q->until - now))
				active++;
			next = now + ETCD_HEDGE;
		}
		curl_multi_perform(d->multi, &left);
		while (elsewhere(rc) && (m = curl_multi_info_read(d->multi, &left))) {
			struct endpoint *p;
			char *priv;

			if (m->msg != CURLMSG_DONE)
				continue;
			curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &priv);
			p = (struct endpoint *)priv;
			rc = ended(p, m->data.result, a, e);
			if (!elsewhere(rc))
				d->good = (unsigned int)(p - d->endpoint);
			end(d, p);
			active--;
			next = 0;
		}
		if (!elsewhere(rc) || (!active && begun == n))
			break;
		if (begun < n)
			wait = next > now ? next - now : 0;
		curl_multi_poll(d->multi, &stop, 1, (int)(wait / NS_PER_MS), NULL);
		if (stop.revents)
			rc = err_set(e, -ECANCELED, "given up");
		stop.revents = 0;
	}
	for (unsigned int i = 0; i < n; i++)
		if (d->endpoint[i].active)
			end(d, &d->endpoint[i]);
	return rc;
}

static int rounds(struct etcd *d, const struct witness_ask *q, const char *path, const char *body, struct etcd_answer *a,
		  struct err *e)
{
	for (nstime limit = ETCD_TRY;; limit *= 2) {
		int rc = round_of(d, q, path, body, limit, a, e);

		if (!elsewhere(rc))
			return rc;
		if (clock_ns() + ETCD_PAUSE >= q->until)
			return err_prefix(e, "no answer within %llu ms", (unsigned long long)(q->limit / NS_PER_MS));
		if (shell_wait(q->stop, -1, clock_ns() + ETCD_PAUSE) < 0)
			return err_set(e, -ECANCELED, "given up");
	}
}

static int authenticate(struct etcd *d, const struct witness_ask *q, struct err *e)
{
	char body[ETCD_BODY_MAX], header[ETCD_TOKEN_MAX + 32];
	struct etcd_answer a;
	int rc;

	curl_slist_free_all(d->auth_headers);
	d->auth_headers = NULL;
	rc = etcd_ask_auth(body, d->cfg->spec.user, d->password);
	if (rc)
		return err_set(e, rc, "the password does not fit into a request");
	rc = rounds(d, q, "/v3/auth/authenticate", body, &a, e);
	explicit_bzero(body, sizeof(body));
	if (rc)
		return rc;
	if (!*a.token)
		return err_set(e, -EPROTO, "etcd has given no token for the password");
	snprintf(header, sizeof(header), "Authorization: %s", a.token);
	d->auth_headers = curl_slist_append(NULL, "Content-Type: application/json");
	if (d->auth_headers && !curl_slist_append(d->auth_headers, header)) {
		curl_slist_free_all(d->auth_headers);
		d->auth_headers = NULL;
	}
	return d->auth_headers ? 0 : err_set(e, -ENOMEM, "no memory for a token");
}

static int request(struct etcd *d, const struct witness_ask *q, const char *path, const char *body, struct etcd_answer *a,
		   struct err *e)
{
	bool fresh = false;
	int rc;

	if (*d->cfg->spec.user && !d->auth_headers) {
		rc = authenticate(d, q, e);
		if (rc)
			return rc;
		fresh = true;
	}
	rc = rounds(d, q, path, body, a, e);
	if (rc != -EACCES || fresh || !*d->cfg->spec.user)
		return rc;
	rc = authenticate(d, q, e);
	return rc ? rc : rounds(d, q, path, body, a, e);
}

/* What the key holds, linearizably. */
static int read_key(struct etcd *d, const struct witness_ask *q, struct etcd_kv *kv, struct err *e)
{
	char body[ETCD_BODY_MAX];
	struct etcd_answer a;
	int rc = etcd_ask_range(body, d->key);

	if (rc)
		return err_set(e, rc, "the key is too long");
	rc = request(d, q, "/v3/kv/range", body, &a, e);
	if (!rc && !a.has_kv)
		rc = err_set(e, -EPROTO, "etcd does not say what the key holds");
	*kv = a.kv;
	return rc;
}

static int etcd_look(void *b, const struct witness_ask *q, struct witness_record *r, struct err *e)
{
	struct etcd_kv kv;
	int rc = read_key(b, q, &kv, e);

	if (rc)
		return rc;
	*r = kv.record;
	return WITNESS_RECORD;
}

static int etcd_claim(void *b, const struct witness_ask *q, struct witness_record *r, struct err *e)
{
	struct etcd *d = b;
	struct witness_record want = { .generation = q->c.next };
	char body[ETCD_BODY_MAX];
	struct etcd_answer a;
	struct etcd_kv kv;
	int rc;

	memcpy(want.owner, d->cfg->me, WITNESS_ID_LEN);
	rc = read_key(d, q, &kv, e);
	while (!rc) {
		*r = kv.record;
		rc = witness_judge(r, d->cfg->me, &q->c, e);
		if (rc != WITNESS_RECORD)
			return rc;
		rc = etcd_ask_cas(body, d->key, &kv, &want);
		if (rc)
			return err_set(e, rc, "the record is too long");
		rc = request(d, q, "/v3/kv/txn", body, &a, e);
		if (!rc && a.succeeded)
			return WITNESS_GRANTED;
		if (!rc && !a.has_kv)
			rc = err_set(e, -EPROTO, "etcd does not say what the key holds");
		/* Another one was first, or it was this one, asked elsewhere: the next turn tells. */
		kv = a.kv;
	}
	return rc;
}

const struct witness_ops witness_etcd_ops = { etcd_look, etcd_claim, etcd_free };
