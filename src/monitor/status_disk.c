/* SPDX-License-Identifier: BSD-2-Clause */
/* What status says of the disks: as JSON, and of that as text. */
#include <inttypes.h>
#include <stdio.h>

#include "monitor/status_internal.h"

static struct json_object *resync_json(const struct resync_progress *p)
{
	struct json_object *o = json_object_new_object();

	put_u64(o, "disk", p->disk);
	put_u64(o, "done_bytes", p->done);
	put_u64(o, "total_bytes", p->total);
	put_u64(o, "sent_bytes", p->sent);
	put_u64(o, "read_bytes", p->read);
	put_u64(o, "bytes_per_second", p->rate);
	put(o, "percent", p->total ? json_object_new_double(100.0 * (double)p->done / (double)p->total) : NULL);
	put(o, "left_ms", p->left_ms == UINT64_MAX ? NULL : json_object_new_uint64(p->left_ms));
	put(o, "comparing", json_object_new_boolean(p->comparing));
	return o;
}

struct json_object *status_disks_json(const struct status *s)
{
	struct json_object *o = json_object_new_object(), *list = json_object_new_array();
	const struct disk_stats *d = s->disk;

	for (unsigned int i = 0; i < s->n_disks; i++) {
		struct json_object *one = json_object_new_object();

		put_str(one, "id", s->disk_ids[i]);
		put_u64(one, "bytes", d->disk[i].size);
		put_u64(one, "dirty_bytes", d->disk[i].dirty);
		put_u64(one, "generation", d->disk[i].generation);
		json_object_array_add(list, one);
	}
	put(o, "disks", list);
	put(o, "resync", d->resyncing || d->resync.total ? resync_json(&d->resync) : NULL);
	put(o, "resyncing", json_object_new_boolean(d->resyncing));
	put(o, "merging", json_object_new_boolean(d->merging));
	put(o, "shared", json_object_new_boolean(d->shared));
	if (d->shared) {
		put_u64(o, "kept", d->keep.kept);
		put_u64(o, "kept_bytes", d->keep.kept_bytes);
		put_u64(o, "kept_waits", d->keep.waits);
		put_u64(o, "trims_dropped", d->keep.trims_dropped);
		put(o, "blocked", json_object_new_boolean(d->keep.blocked));
	}
	put(o, "debt", json_object_new_boolean(d->debt));
	put_u64(o, "debt_lost_frames", s->debt_lost);
#define F(of, field) put_u64(o, #field, d->of.field)
	F(serve, written), F(serve, read), F(serve, flushes), F(serve, debts), F(serve, intents), F(serve, conflicts);
	F(serve, uncommitted_bytes), F(serve, errors), F(serve, waits), F(serve, held);
	F(standby, pending_bytes), F(standby, own_bytes), F(standby, committed_bytes), F(standby, spilled_bytes);
	F(standby, written_back), F(standby, flips), F(standby, extents), F(standby, epoch), F(standby, file_bytes);
	F(nbd, connections), F(nbd, refused), F(nbd, open);
#undef F
	put_u64(o, "standby_waits", d->standby.waits);
	put_u64(o, "nbd_errors", d->nbd.errors);
	return o;
}

void status_disks_text(struct json_object *s, FILE *f)
{
	struct json_object *d = text_obj(s, "disk"), *list = NULL, *r;
	char a[32], b[32], c[32], t[32];
	size_t n;

	if (!d || !json_object_object_get_ex(d, "disks", &list) || !json_object_is_type(list, json_type_array))
		return;
	n = json_object_array_length(list);
	for (size_t i = 0; i < n; i++) {
		struct json_object *one = json_object_array_get_idx(list, i);

		text_row(f, "  disk", "%s: %s, %s to be sent to a peer, generation %" PRIu64, text_clean(text_str(one, "id")),
			 text_bytes(text_num(one, "bytes"), a), text_bytes(text_num(one, "dirty_bytes"), b),
			 text_u64(one, "generation"));
	}
	r = text_obj(d, "resync");
	if (r && text_bool(d, "resyncing"))
		text_row(f, "  resync", "%.1f %%: %s of %s %s, %s/s, %s left", text_num(r, "percent"),
			 text_bytes(text_num(r, "done_bytes"), a), text_bytes(text_num(r, "total_bytes"), b),
			 text_bool(r, "comparing") ? "compared" : "sent", text_bytes(text_num(r, "bytes_per_second"), c),
			 text_num(r, "left_ms") >= 0 ? text_ms(text_num(r, "left_ms"), t) : "unknown time");
	if (text_u64(d, "pending_bytes") || text_u64(d, "own_bytes") || text_u64(d, "committed_bytes"))
		text_row(f, "  above images", "pending %s, the SVM's own %s, committed %s",
			 text_bytes(text_num(d, "pending_bytes"), a), text_bytes(text_num(d, "own_bytes"), b),
			 text_bytes(text_num(d, "committed_bytes"), c));
	if (text_bool(d, "shared"))
		text_row(f, "  shared", "%s of old content kept at the peer%s", text_bytes(text_num(d, "kept_bytes"), a),
			 text_bool(d, "blocked") ? "; the VM's writes wait until it is decided who goes on" : "");
	if (text_bool(d, "merging"))
		text_row(f, "  merging", "what the SVM had written goes into the images");
}
