/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BASE_CRASH_H
#define BASE_CRASH_H

#include <stdbool.h>

/*
 * Named crash points: places where a test wants the process to die, so that each window of a checkpoint can be
 * hit. LOCKSTEP_CRASH_AT=staged (or staged:3, the third time) makes the process kill its QEMU's group and
 * itself there. Compiled in only with -Dcrash_points=true; lockstep doctor --crash-points lists them.
 */
#define CRASH_POINTS(X)                                                                   \
	X(before_epoch_end, "primary: checkpoint begun, EPOCH_END not yet sent")           \
	X(epoch_end, "primary: EPOCH_END sent, the PVM stops")                             \
	X(saved, "primary: device state saved and pages copied, cont not yet sent")        \
	X(bulk_half, "primary: half of the checkpoint's pages sent")                       \
	X(bulk_sent, "primary: everything sent, STAGED not yet received")                  \
	X(released, "primary: first frame of the epoch released after STAGED")             \
	X(staged_received, "primary: STAGED received, nothing released yet")               \
	X(loaded_received, "primary: LOADED received")                                     \
	X(s_epoch_end, "secondary: EPOCH_END received")                                    \
	X(s_before_staged, "secondary: all barriers there, STAGED not yet sent")           \
	X(staged, "secondary: STAGED sent, nothing applied")                               \
	X(applied, "secondary: pages applied, device state not loaded")                    \
	X(s_loaded, "secondary: device state loaded, LOADED not yet sent")                 \
	X(loaded, "secondary: LOADED sent")                                                \
	X(before_abort, "primary: checkpoint given up, ABORT not yet sent")                \
	X(abort, "primary: ABORT sent, its pages not yet taken back")                      \
	X(s_abort, "secondary: ABORT received")

/*
 * Steps of a checkpoint that a test wants to fail, though they went well: LOCKSTEP_FAIL_AT=save:2 the second time,
 * save:2,send:3 each at its time. As with crash points, only with -Dcrash_points=true.
 */
#define FAIL_POINTS(X)                                                                     \
	X(save, "primary: the device state is saved, and the step fails")                  \
	X(copy, "primary: the pages are copied, and the step fails")                       \
	X(send, "primary: all but the marker is sent, and the step fails")

enum crash_point {
#define X(name, text) CRASH_##name,
	CRASH_POINTS(X)
#undef X
	CRASH_MAX
};

enum fail_point {
#define X(name, text) FAIL_##name,
	FAIL_POINTS(X)
#undef X
	FAIL_MAX
};

#ifdef LOCKSTEP_CRASH_POINTS
/* crash_point() - die here when LOCKSTEP_CRASH_AT names this point; any thread */
void crash_point(enum crash_point p);
/* fail_point() - count this occurrence. Return: true when it is to fail; any thread */
bool fail_point(enum fail_point p);
#else
static inline void crash_point(enum crash_point p)
{
	(void)p;
}

static inline bool fail_point(enum fail_point p)
{
	(void)p;
	return false;
}
#endif

/*
 * crash_points_init() - read LOCKSTEP_CRASH_AT and LOCKSTEP_FAIL_AT; an unknown name, or a count of FAIL_AT that is not
 * from 1 to FAIL_COUNT_MAX, is -EINVAL; without the option, -ENOTSUP if one is set
 * @which: the variable that is wrong, in case of an error
 */
#define FAIL_COUNT_MAX 63
int crash_points_init(const char **which);

/* crash_point_text() - name and meaning of a point; NULL past the end, and always without the option */
const char *crash_point_text(unsigned int i, const char **meaning);
/* fail_point_text() - the same of a step that can be made to fail */
const char *fail_point_text(unsigned int i, const char **meaning);

#endif
