# SPDX-License-Identifier: BSD-2-Clause
"""The nodes change roles when they are told to; with a witness each takeover is granted by it."""

import os

from bed import VM_NAME, until
from cases_again import CHECK, compared, conns, dies, other, roles, small
from harness import case, must, note, same
from load import Idle, Load, ms


def switched(bed, at, load):
    """Has the VM moved by a command to node @at; the gap."""
    server = bed.a if (bed.a.status() or {}).get("role") == "primary" else bed.b
    pids = bed.a.proc.pid, bed.b.proc.pid
    generation = server.status()["generation"]
    load.forget()
    at.call("switch", VM_NAME, timeout=60)
    load.wait_answers(3, 60)
    gap = load.gap()
    bed.wait_protected(120, server=other(bed, server))
    same((bed.a.proc.pid, bed.b.proc.pid), pids, "the processes")
    same(roles(bed, other(bed, server)), generation + 1, "the generation")
    load.wait_answers(5, 60)
    compared(bed, other(bed, server))
    return gap


@case("again", timeout=400)
def switch_roles(bed):
    """`lockstep switch` on the secondary's host, on the primary's, and back; connections live on, nothing is lost."""
    bed.start_pair(small(), a_env=CHECK, b_env=CHECK)
    with Load(bed, conns() + [Idle()]) as load:
        load.wait_answers(5, 60)
        gaps = [switched(bed, bed.b, load), switched(bed, bed.b, load), switched(bed, bed.a, load)]
        note("gaps %s; %d answers", ", ".join(ms(g) for g in gaps), load.answers())
        load.finish()
    r = bed.b.cli("switch", "nobody")
    must(r.returncode == 3, "switch of a VM that is not there: %d", r.returncode)


@case("again", timeout=400)
def switch_witness(bed):
    """With a file that both nodes see as the witness: begin, take over, come back, switch; the record follows."""
    path = os.path.join(bed.dir, "witness")
    with open(path, "wb") as f:
        f.truncate(1 << 16)
    options = ["--witness", "disk:" + path]
    machine = small()
    bed.start_pair(machine, options=options, a_env=CHECK, b_env=CHECK)
    with Load(bed, conns()) as load:
        load.wait_answers(5, 60)
        same(roles(bed, bed.a), 1, "the first generation")
        gap = dies(bed, bed.a, load)
        until(lambda: (bed.b.status() or {}).get("generation") == 2, 20, "the witness's grant")
        must("has granted generation 2" in bed.b.said(), "node b does not say that it was granted the VM: %s", bed.b.tail())
        # The same command as ever, --primary and all: the state and the peer decide.
        bed.a.start("primary", machine, options, CHECK)
        bed.wait_protected(120, server=bed.b)
        roles(bed, bed.b)
        note("gaps %s, %s", ms(gap), ms(switched(bed, bed.a, load)))
        load.finish()
