/* SPDX-License-Identifier: BSD-2-Clause */
/* Faults that tests/property/prop_disk.c plants, only in a build with LOCKSTEP_FAULTS: what it must find. */
#ifndef DISK_STANDBY_FAULT_H
#define DISK_STANDBY_FAULT_H

#define STANDBY_FAULT_LIST(X) \
	X(NO_DATA_SYNC)		/* a header is written before what it names is durable */ \
	X(HEADER_PLACE)		/* a header is written over the newer one */ \
	X(SLOTS_EARLY)		/* slots are used again while a durable header names them */ \
	X(NO_BASE_FLUSH)	/* the bases are not made durable before the header says so */ \
	X(BASE_EARLY)		/* the bases are written before the journal is durable */ \
	X(COMMITTED_EARLY)	/* COMMITTED is said when the epoch is in the journal */ \
	X(ONE_DISK)		/* the index leaves out a disk */ \
	X(LAYER_ORDER)		/* a header names its layers in the wrong order */ \
	X(STRAIGHT_EARLY)	/* after a promotion writes go to the base before own writes are in the journal */ \
	X(STRAIGHT_OVER)	/* ... also where a layer has something */ \
	X(FLUSH_EARLY)		/* after a promotion a flush does not wait for the journal */ \
	X(FLUSH_NO_BASE)	/* ... or not for the base */ \
	X(ABORT_DROPS)		/* what was pending for an aborted epoch is not in the next one */ \
	X(ABORT_OLD_WINS)	/* ... or is put over what is newer */ \
	X(OWN_KEPT)		/* a flip does not drop the SVM's own writes */ \
	X(PENDING_KEPT)		/* a promotion makes the pending epoch a part of the disk */ \
	X(SYNC_ORDER)		/* in sync mode overlapping writes are under way at once */ \
	X(SYNC_NOT_WAITED)	/* ... and STAGED is said before they are there */ \
	X(SYNC_NOT_FLUSHED)	/* ... or durable */ \
	X(EDIT_SHARED)		/* bytes in memory that differ from their slot by an edit count as written */ \
	X(NO_PIN)		/* a chunk that is being read may be used again */

/* Those that only shared bases can show: tests/property/prop_shared.c */
#define SHARED_FAULT_LIST(X) \
	X(LOOK_ONCE)		/* the SVM's reads do not look again after the base has answered */ \
	X(OLD_LAST)		/* old content of a byte that is said again in an epoch counts */ \
	X(OLD_ORDER)		/* what the newer epoch has overwritten lies above what the older one has */ \
	X(OLD_KEPT)		/* a flip does not drop what its epoch has overwritten */ \
	X(OLD_LOST)		/* a promotion puts only the older epoch's back */ \
	X(OLD_ABORT)		/* an abort forgets what its epoch has overwritten */ \
	X(BACK_EARLY)		/* what is put back does not wait for reads of before the promotion */ \
	X(KEEP_NO_ACK)		/* the serving node writes before the peer has confirmed */ \
	X(KEEP_ONCE)		/* ... and keeps a block only once, whatever the epochs */ \
	X(KEEP_PART)		/* ... and only the bytes that it overwrites, but takes the block as kept */ \
	X(KEEP_LOST)		/* ... and writes on when the connection has broken, before anything is decided */

#ifdef LOCKSTEP_FAULTS
#define X(name) STANDBY_FAULT_##name,
enum standby_fault { STANDBY_NO_FAULT, STANDBY_FAULT_LIST(X) STANDBY_FAULTS, SHARED_FAULT_LIST(X) SHARED_FAULTS };
#undef X
extern unsigned int standby_fault;	/* the test's */
#define FAULT(name) (standby_fault == STANDBY_FAULT_##name)
#else
#define FAULT(name) 0
#endif

#endif
