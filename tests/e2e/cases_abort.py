# SPDX-License-Identifier: BSD-2-Clause
"""Checkpoints that fail and are tried again (ABORT): nothing of them is lost, and the SVM waits for the next one."""

import re

from bed import until
from harness import case, must, note, same
from load import Count, Echo, Incr, Load, Mixed, Random, Upload, ms

FAIL_AT = 15  # checkpoints; more than come up before the clients do


def conns():
    return [Incr("a", depth=4), Mixed("m", depth=3), Count(), Random(), Random(), Echo(), Upload(1 << 18)]


def start(bed, fail, a_env=None, b_env=None):
    """A pair whose primary's steps fail as named, and which compares its memory after each checkpoint."""
    env = {"LOCKSTEP_MEMCHECK": "1"}
    bed.start_pair(a_env=dict(env, LOCKSTEP_FAIL_AT=fail, **(a_env or {})), b_env=dict(env, **(b_env or {})))


def compared(bed, word="equal"):
    return len(re.findall("memcheck: memory " + word, bed.b.said()))


def aborted(bed):
    return ((bed.a.status() or {}).get("checkpoints") or {}).get("aborted")


def some_checkpoints(bed, load, more=5):
    """As many again are complete, and memory was the same after each."""
    first = compared(bed)
    until(lambda: load.errors() or compared(bed, "differs") or compared(bed) >= first + more, 40,
          "%d more checkpoints" % more)
    load.check()
    must(not compared(bed, "differs"), "guest memory differs: %s", bed.b.tail())


def fail_over(bed, load):
    load.check()
    for c in load.conns:
        c.gap = 0
    bed.kill(bed.a)
    bed.wait_alone(bed.b)
    load.wait_answers(10, 40)
    note("gap %s, %d answers", ms(load.gap()), load.answers())
    load.finish()


def tried_again(bed, step):
    """The step fails once, under load: the next checkpoint carries all, the pair stays one, and a failover works."""
    start(bed, "%s:%d" % (step, FAIL_AT))
    with Load(bed, conns()) as load:
        must(aborted(bed) == 0, "it came before the load did")
        until(lambda: load.errors() or aborted(bed), 60, "the failed step")
        load.check()
        some_checkpoints(bed, load)
        same((bed.a.state(), bed.b.state()), ("protected", "standby"), "the states")
        same(aborted(bed), 1, "checkpoints that were given up")
        log = bed.a.said()
        lost = re.search(r"checkpoint given up epoch=(\d+) step=" + step, log)
        must(lost, "the log does not say which checkpoint was given up")
        must(re.search(r"step failed step=%s epoch=%s: \S" % (step, lost.group(1)), log), "the log does not say why")
        must(not re.search(r" checkpoint epoch=%s " % lost.group(1), log), "what was given up is complete")
        must(re.search(r" checkpoint epoch=%d " % (int(lost.group(1)) + 1), log), "the next one is not complete")
        fail_over(bed, load)


@case("crash", timeout=150)
def a_failed_save_is_tried_again(bed):
    tried_again(bed, "save")


@case("crash", timeout=150)
def a_failed_copy_is_tried_again(bed):
    tried_again(bed, "copy")


@case("crash", timeout=150)
def a_failed_send_is_tried_again(bed):
    tried_again(bed, "send")


@case("crash", timeout=150)
def the_first_checkpoint_is_tried_again(bed):
    """The first one is no exception: the synchronisation need not begin anew. One after the other, each step fails."""
    start(bed, "save:1,copy:3,send:3")
    must(aborted(bed) >= 1, "the first checkpoint was not given up")
    with Load(bed, conns()) as load:
        until(lambda: load.errors() or aborted(bed) == 3, 60, "three failed steps")
        some_checkpoints(bed, load)
        fail_over(bed, load)


@case("crash", timeout=200)
def two_failures_end_protection(bed):
    """Two in a row: the VM goes on alone and says so, clients see nothing of it. A new secondary makes a pair again."""
    start(bed, "save:%d,copy:%d" % (FAIL_AT, FAIL_AT + 1))
    with Load(bed, conns()) as load:
        must(aborted(bed) == 0, "it came before the load did")
        until(lambda: load.errors() or bed.a.state() == "alone", 60, "the end of protection")
        load.check()
        until(bed.b.proc.ended, 15, "the end of node b's Lockstep")
        load.wait_answers(10, 30)
        same(aborted(bed), 1, "checkpoints that were given up")
        must(re.search(r"goes on alone, without protection reason=step failed step=copy", bed.a.said()),
             "node a does not say why it is alone: %s", bed.a.tail())
        same(bed.a.status()["reason"], "step failed", "the reason")
        bed.b.start("secondary", env={"LOCKSTEP_MEMCHECK": "1"})
        bed.wait_protected()
        some_checkpoints(bed, load)
        fail_over(bed, load)


def dies_in_abort(bed, point):
    """A node dies while a checkpoint is given up, and the other one goes on: from the SVM as it stands, or alone."""
    at = {"LOCKSTEP_CRASH_AT": point}
    on_primary = not point.startswith("s_")
    victim, survivor = (bed.a, bed.b) if on_primary else (bed.b, bed.a)
    start(bed, "save:%d" % FAIL_AT, at if on_primary else None, None if on_primary else at)
    with Load(bed, conns()) as load:
        must(not victim.proc.ended(), "%s came before the load did", point)
        until(lambda: load.errors() or victim.proc.ended(), 60, "the crash at " + point)
        load.check()
        bed.wait_alone(survivor, 15)
        load.wait_answers(10, 40)
        load.finish()


@case("crash", timeout=150)
def crash_abort(bed):
    dies_in_abort(bed, "abort")


@case("crash", timeout=150)
def crash_before_abort(bed):
    dies_in_abort(bed, "before_abort")


@case("crash", timeout=150)
def crash_s_abort(bed):
    dies_in_abort(bed, "s_abort")
