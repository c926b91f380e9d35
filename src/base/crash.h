/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BASE_CRASH_H
#define BASE_CRASH_H

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
	X(loaded, "secondary: LOADED sent")

enum crash_point {
#define X(name, text) CRASH_##name,
	CRASH_POINTS(X)
#undef X
	CRASH_MAX
};

#ifdef LOCKSTEP_CRASH_POINTS
/* crash_point() - die here when LOCKSTEP_CRASH_AT names this point; any thread */
void crash_point(enum crash_point p);
#else
static inline void crash_point(enum crash_point p)
{
	(void)p;
}
#endif

/* crash_points_init() - read LOCKSTEP_CRASH_AT; an unknown name is -EINVAL; without the option, -ENOTSUP if set */
int crash_points_init(void);

/* crash_point_text() - name and meaning of a point; NULL past the end, and always without the option */
const char *crash_point_text(unsigned int i, const char **meaning);

#endif
