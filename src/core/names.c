/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Names of what core/ counts and does, for logs, status and the blackbox. They are an interface: scripts read them.
 */
#include "core/ckpt_primary.h"
#include "core/ckpt_secondary.h"
#include "core/ft.h"

#define NAME(table, i) ((unsigned int)(i) < sizeof(table) / sizeof((table)[0]) && (table)[i] ? (table)[i] : "?")

const char *ft_state_name(enum ft_state s)
{
	static const char *const names[FT_STATE_MAX] = {
		[FT_INIT] = "init", [FT_ALONE] = "alone", [FT_SYNC] = "sync", [FT_PROTECTED] = "protected",
		[FT_JOINING] = "joining", [FT_STANDBY] = "standby", [FT_PROMOTING] = "promoting",
		[FT_FENCED] = "fenced", [FT_ENDED] = "ended",
	};

	return NAME(names, s);
}

const char *ft_memory_name(enum ft_memory m)
{
	static const char *const names[] = {
		[FT_MEM_SHARED] = "shared", [FT_MEM_PRIVATE] = "private", [FT_MEM_SHARING] = "sharing",
		[FT_MEM_STUCK] = "stuck",
	};

	return NAME(names, m);
}

const char *ft_reason_name(enum ft_reason r)
{
	static const char *const names[FT_WHY_MAX] = {
		[FT_WHY_NONE] = "none", [FT_WHY_LINK_CLOSED] = "link closed", [FT_WHY_SILENT] = "peer silent",
		[FT_WHY_PEER_PROMOTE] = "primary gave up", [FT_WHY_PEER_GONE] = "secondary gave up",
		[FT_WHY_PEER_ALONE] = "primary goes on alone", [FT_WHY_PEER_TOOK_OVER] = "secondary took over",
		[FT_WHY_QEMU_DIED] = "qemu died", [FT_WHY_QEMU_HUNG] = "qemu hung",
		[FT_WHY_STEP_FAILED] = "step failed", [FT_WHY_COMMAND] = "command",
		[FT_WHY_GUEST_OFF] = "guest powered off", [FT_WHY_GUEST_PANIC] = "guest panicked", [FT_WHY_QUIT] = "quit", [FT_WHY_DISK] = "disk failed",
		[FT_WHY_UNFENCED] = "peer not fenced", [FT_WHY_LOST] = "peer has the witness",
		[FT_WHY_NO_WITNESS] = "no answer from the witness", [FT_WHY_SWITCH] = "switch",
	};

	return NAME(names, r);
}

const char *ft_step_name(enum ft_step s)
{
	static const char *const names[STEP_MAX] = {
		[STEP_STOP] = "stop", [STEP_CONT] = "cont", [STEP_SAVE] = "save", [STEP_ROUND] = "round",
		[STEP_PRECOPY] = "precopy", [STEP_COPY] = "copy", [STEP_SEND] = "send", [STEP_RESERVE] = "reserve", [STEP_APPLY] = "apply",
		[STEP_LOAD] = "load", [STEP_MEND] = "mend", [STEP_RESTART] = "restart", [STEP_FORGET] = "forget",
		[STEP_SHARE] = "share", [STEP_AGAIN] = "again", [STEP_RESYNC] = "resync", [STEP_DISK] = "disk",
		[STEP_FLIP] = "flip", [STEP_FENCE] = "fence", [STEP_PAUSE] = "pause", [STEP_WITNESS] = "witness",
	};

	return NAME(names, s);
}

const char *ctl_type_name(enum ctl_type t)
{
	static const char *const names[CTL_TYPE_MAX] = {
		[CTL_EPOCH_END] = "EPOCH_END", [CTL_STAGED] = "STAGED", [CTL_LOADED] = "LOADED", [CTL_WANT] = "WANT",
		[CTL_FAILED] = "FAILED", [CTL_PROMOTE] = "PROMOTE", [CTL_GONE] = "GONE", [CTL_ALONE] = "ALONE",
		[CTL_TOOK_OVER] = "TOOK_OVER", [CTL_CLAIM] = "CLAIM", [CTL_GUEST_OFF] = "GUEST_OFF", [CTL_QUIT] = "QUIT",
		[CTL_ABORT] = "ABORT", [CTL_SWITCH] = "SWITCH", [CTL_PAUSE] = "PAUSE",
	};

	return NAME(names, t);
}

const char *ft_ev_name(enum ft_ev_type t)
{
	static const char *const names[FE_TYPE_MAX] = {
		[FE_START] = "start", [FE_LINK_UP] = "link-up", [FE_LINK_DOWN] = "link-down", [FE_SILENT] = "silent",
		[FE_STUCK] = "stuck",
		[FE_BEAT] = "beat", [FE_QEMU_DIED] = "qemu-died", [FE_QEMU_HUNG] = "qemu-hung",
		[FE_GUEST_OFF] = "guest-off", [FE_GUEST_RESET] = "guest-reset", [FE_GUEST_PANIC] = "guest-panic",
		[FE_CTL] = "ctl", [FE_NET] = "net", [FE_BULK_BARRIER] = "bulk-barrier", [FE_PROGRESS] = "progress",
		[FE_WANT] = "want", [FE_FULL] = "full", [FE_DISK_BARRIER] = "disk-barrier", [FE_DISK_FAILED] = "disk-failed",
		[FE_DISK_MOVED] = "disk-moved",
		[FE_DONE] = "done", [FE_FAILOVER] = "failover", [FE_QUIT] = "quit",
		[FE_SET_DELAY] = "set-delay", [FE_SWITCH] = "switch", [FE_PAUSE] = "pause", [FE_WITNESS] = "witness", [FE_TICK] = "tick",
	};

	return NAME(names, t);
}

const char *ft_act_name(enum ft_act_type t)
{
	static const char *const names[FA_TYPE_MAX] = {
		[FA_CTL] = "ctl", [FA_NET] = "net", [FA_DO] = "do", [FA_DROP_LINK] = "drop-link", [FA_MUTE] = "mute",
		[FA_LEASE] = "lease", [FA_KILL_QEMU] = "kill-qemu", [FA_ANNOUNCE] = "announce",
		[FA_CKPT_DONE] = "checkpoint-done", [FA_CKPT_ABORT] = "checkpoint-abort", [FA_HOLD] = "hold", [FA_END] = "end",
	};

	return NAME(names, t);
}

const char *ckpt_cause_name(enum ckpt_cause c)
{
	static const char *const names[CAUSE_MAX] = {
		[CAUSE_NONE] = "none", [CAUSE_FIRST] = "first", [CAUSE_MISMATCH] = "mismatch",
		[CAUSE_TIMEOUT] = "timeout", [CAUSE_OTHER] = "other", [CAUSE_DELAY] = "delay", [CAUSE_HELD] = "held",
		[CAUSE_INLOG] = "inlog", [CAUSE_FLOWS] = "flows", [CAUSE_PRIVATE] = "private",
		[CAUSE_STAGED] = "staged", [CAUSE_DISK] = "disk", [CAUSE_RESET] = "reset", [CAUSE_COMMAND] = "command", [CAUSE_PERIODIC] = "periodic",
	};

	return NAME(names, c);
}

const char *pri_phase_name(enum pri_phase p)
{
	static const char *const names[PRI_PHASE_MAX] = {
		[PRI_OFF] = "idle", [PRI_START] = "start", [PRI_RESYNC] = "resync", [PRI_ROUND] = "precopy", [PRI_IDLE] = "idle",
		[PRI_GATE] = "gate", [PRI_STOP] = "stop", [PRI_COLLECT] = "collect", [PRI_CONT] = "cont",
		[PRI_STAGE] = "staged", [PRI_LOAD] = "loaded", [PRI_ABORT] = "abort", [PRI_UNWIND] = "unwind", [PRI_RESUME] = "resume",
	};

	return NAME(names, p);
}

const char *sec_phase_name(enum sec_phase p)
{
	static const char *const names[SEC_PHASE_MAX] = {
		[SEC_OFF] = "idle", [SEC_FILL] = "fill", [SEC_IDLE] = "idle", [SEC_GATE] = "gate", [SEC_STOP] = "stop",
		[SEC_COLLECT] = "collect", [SEC_APPLY] = "apply", [SEC_LOAD] = "load", [SEC_MEND] = "mend",
		[SEC_CONT] = "cont", [SEC_RESTART] = "restart", [SEC_UNWIND] = "unwind",
	};

	return NAME(names, p);
}
