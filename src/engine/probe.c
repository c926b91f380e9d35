/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What QEMU's binary can do: asked, never guessed from its version. One QEMU is started without a machine, on a
 * socketpair, with a loop of its own; all questions are sent at once, and it is killed when they are answered. What is
 * asked and what the answers mean is in probeqmp.c, the kernel's side in kernprobe.c.
 *
 * Main thread, at start; nothing is kept, so that an upgraded QEMU is seen at the next start.
 */
#include "engine/probe.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine/kernprobe.h"
#include "engine/probeqmp.h"
#include "engine/process.h"
#include "engine/qmp.h"

#define PROBE_QMP_FD 3	/* its number in QEMU */

struct ask {
	struct probeqmp found;
	struct loop *loop;
	struct process proc;
	struct qmp *qmp;
	struct loop_timer guard;
	unsigned int asked, answered;	/* questions; QEMU answers in order */
	nstime patience;	/* for all of its answers, and for its end */
	char failed[256];	/* why there is no answer */
};

void probe_row(struct probe *p, const char *what, bool ok, bool needed, const char *fmt, ...)
{
	struct probe_row *r = &p->rows[p->n_rows];
	va_list ap;

	if (p->n_rows >= PROBE_ROWS_MAX)
		return;
	p->n_rows++;
	snprintf(r->what, sizeof(r->what), "%s", what);
	r->ok = ok;
	r->needed = needed;
	va_start(ap, fmt);
	vsnprintf(r->detail, sizeof(r->detail), fmt, ap);
	va_end(ap);
}

static void give_up(struct ask *a, const char *why)
{
	if (!a->failed[0])
		snprintf(a->failed, sizeof(a->failed), "%.255s", why);
	loop_stop(a->loop);
}

static void on_answer(void *arg, int code, struct json_object *ret, const char *desc)
{
	struct ask *a = arg;

	/* When the connection ends, QEMU's own words, which say why, are better; its exit soon brings them. */
	if (code == -ECONNRESET)
		return;
	if (code && code != -EREMOTEIO) {
		give_up(a, desc);
		return;
	}
	/* A refusal is an answer: it does not have what it was asked about. */
	probeqmp_answer(&a->found, a->answered, code ? NULL : ret);
	if (++a->answered == a->asked)
		loop_stop(a->loop);
}

static void on_ready(void *arg, const char *version)
{
	struct ask *a = arg;

	snprintf(a->found.p->version, sizeof(a->found.p->version), "%s", version);
}

static void on_closed(void *arg, const struct err *e)
{
	if (e->code != -ECONNRESET)
		give_up(arg, e->msg);
}

static void on_guard(struct loop_timer *t)
{
	give_up(t->arg, "QEMU did not answer in time");
}

static void on_exited(struct process *proc)
{
	struct ask *a = proc->arg;
	char status[64], why[256];

	if (proc->last_line[0]) {
		give_up(a, proc->last_line);
		return;
	}
	snprintf(why, sizeof(why), "%.150s: %s and said nothing, so it is no QEMU", a->found.p->binary,
		 process_status_text(proc->status, status, sizeof(status)));
	give_up(a, why);
}

static int start_qemu(struct ask *a, const char *binary, int sv[2], struct err *e)
{
	static char *const argv[] = {
		"qemu", "-machine", "none", "-S", "-nodefaults", "-display", "none", "-monitor", "none",
		"-no-user-config", "-chardev", "socket,id=qmp,fd=3", "-mon", "chardev=qmp,mode=control", NULL,
	};
	const struct process_fd fds[] = { { sv[1], PROBE_QMP_FD } };
	const struct process_spec spec = { .file = binary, .argv = argv, .fds = fds, .n_fds = 1 };

	a->proc.exited = on_exited;
	a->proc.arg = a;
	return process_start(&a->proc, a->loop, &spec, e);
}

static int talk(struct ask *a, int fd, struct err *e)
{
	static const struct qmp_ops ops = { .ready = on_ready, .closed = on_closed };
	nstime deadline = clock_ns() + a->patience;
	const char *cmd, *args;
	int rc;

	a->qmp = qmp_new(a->loop, fd, deadline, &ops, a, e);
	if (!a->qmp)
		return e->code;
	while ((cmd = probeqmp_question(a->asked, &args))) {
		rc = qmp_cmd(a->qmp, cmd, args, deadline, on_answer, a);
		/* A QEMU that is gone already is reported by its exit. */
		if (rc == -EPIPE)
			break;
		if (rc)
			return err_set(e, rc, "QEMU could not be asked: %s", strerror(-rc));
		a->asked++;
	}
	a->guard = (struct loop_timer){ .fn = on_guard, .arg = a };
	loop_timer_set(a->loop, &a->guard, deadline);
	return loop_run(a->loop);
}

/* Return: 0 when QEMU answered or a->failed says why not; -errno when it could not be tried */
static int ask_qemu(struct ask *a, const char *binary, struct err *e)
{
	struct err why = { 0 };
	int sv[2], rc;

	a->loop = loop_new("probe", e);
	if (!a->loop)
		return e->code;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv)) {
		rc = err_set(e, -errno, "no socketpair: %s", strerror(errno));
		goto out;
	}
	rc = start_qemu(a, binary, sv, &why);
	close(sv[1]);
	if (rc) {
		close(sv[0]);
		snprintf(a->failed, sizeof(a->failed), "%.255s", why.msg);
		rc = 0;
	} else {
		rc = talk(a, sv[0], e);
	}
	qmp_free(a->qmp);
	process_kill_wait(&a->proc, clock_ns() + a->patience);
out:
	loop_free(a->loop);
	return rc;
}

/*
 * A script in front of QEMU would get what is meant for QEMU alone, above all the agent, and may add options that
 * Lockstep never sees.
 */
static bool is_script(const char *path)
{
	char head[2] = "";
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	bool script = fd >= 0 && read(fd, head, sizeof(head)) == sizeof(head) && head[0] == '#' && head[1] == '!';

	if (fd >= 0)
		close(fd);
	return script;
}

int probe_run(const char *binary, nstime silence, struct probe *p, struct err *e)
{
	struct ask *a;
	struct err local;
	int rc;

	if (!e)
		e = &local;
	memset(p, 0, sizeof(*p));
	a = calloc(1, sizeof(*a));
	if (!a)
		return err_set(e, -ENOMEM, "no memory to look at QEMU");
	a->found.p = p;
	a->patience = silence > PROBE_TIMEOUT_MS * NS_PER_MS ? silence : PROBE_TIMEOUT_MS * NS_PER_MS;
	rc = process_find(binary, p->binary, e);
	if (rc) {
		/* That QEMU is not there is an answer. */
		snprintf(a->failed, sizeof(a->failed), "%.255s", e->msg);
		rc = 0;
	} else if (is_script(p->binary)) {
		snprintf(a->failed, sizeof(a->failed), "%.120s is a script; give the program that it starts, with all "
			 "of its options", p->binary);
	} else {
		rc = ask_qemu(a, p->binary, e);
	}
	if (!rc) {
		if (a->failed[0])
			probe_row(p, "QEMU", false, true, "%.200s", a->failed);
		else
			probeqmp_rows(&a->found);
		kernprobe_run(p);
	}
	free(a);
	return rc;
}

int probe_missing(const struct probe *p, struct err *e)
{
	for (unsigned int i = 0; i < p->n_rows; i++)
		if (p->rows[i].needed && !p->rows[i].ok)
			return err_set(e, -ENOTSUP, "%s: %s", p->rows[i].what, p->rows[i].detail);
	return 0;
}

int probe_machine(const struct probe *p, const char *type, char machine[PROBE_MACHINE_LEN], struct err *e)
{
	const char *name = type ? type : p->dflt;

	if (!strcmp(name, "pc"))
		name = p->alias_pc;
	else if (!strcmp(name, "q35"))
		name = p->alias_q35;
	for (unsigned int i = 0; i < p->n_machines; i++)
		if (!strcmp(p->machines[i], name)) {
			strcpy(machine, p->machines[i]);	/* @type may be @machine */
			return 0;
		}
	return err_set(e, -EINVAL, "-machine %.60s: %.200s does not have it as a pc or q35", type ? type : "(default)",
		       p->binary);
}

static void print_json(FILE *f, const struct probe *p)
{
	struct json_object *o = json_object_new_object(), *rows = json_object_new_array();

	json_object_object_add(o, "qemu", json_object_new_string(p->binary));
	json_object_object_add(o, "version", json_object_new_string(p->version));
	json_object_object_add(o, "package", json_object_new_string(p->package));
	json_object_object_add(o, "ok", json_object_new_boolean(!probe_missing(p, NULL)));
	for (unsigned int i = 0; i < p->n_rows; i++) {
		const struct probe_row *r = &p->rows[i];
		struct json_object *row = json_object_new_object();

		json_object_object_add(row, "what", json_object_new_string(r->what));
		json_object_object_add(row, "ok", json_object_new_boolean(r->ok));
		json_object_object_add(row, "needed", json_object_new_boolean(r->needed));
		json_object_object_add(row, "detail", json_object_new_string(r->detail));
		json_object_array_add(rows, row);
	}
	json_object_object_add(o, "rows", rows);
	fprintf(f, "%s\n", json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
	json_object_put(o);
}

void probe_print(FILE *f, const struct probe *p, bool json)
{
	size_t width = 0;

	if (json) {
		print_json(f, p);
		return;
	}
	for (unsigned int i = 0; i < p->n_rows; i++)
		if (strlen(p->rows[i].what) > width)
			width = strlen(p->rows[i].what);
	for (unsigned int i = 0; i < p->n_rows; i++) {
		const struct probe_row *r = &p->rows[i];

		fprintf(f, "%-8s %-*s  %s\n", r->ok ? "ok" : r->needed ? "MISSING" : "no", (int)width, r->what,
			r->detail);
	}
}
