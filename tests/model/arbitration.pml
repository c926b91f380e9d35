/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Arbitration and promotion: two nodes and a witness. The protocol is told in docs/arbitration.md; run.py checks this
 * model of it, and each planted fault, with spin.
 *
 * Goal: P5 (never may both nodes let frames out), and that who lets frames out has all that was ever acknowledged. Both
 * are assertions in EMIT, which is enabled whenever a node could let a frame out. With -DPROGRESS there is the claim
 * that the VM is served again when the faults end (ltl progress), with both nodes, or with SURVIVOR by the one that is left.
 *
 * What is left out is what cannot help a node to emit: what a checkpoint is made of, how roles are agreed on (one
 * step, MEET, for which both must be awake; the peer may change the next moment), and authentication.
 *
 * Time is a countdown per deadline that TICK steps; a step of a node may come any number of ticks late, so every delay of
 * a message, of the witness, and of a thread is there. With DRIFT one clock may be a tick ahead of the other. A lease is L
 * ticks. A frozen node takes no step while time and its kernel go on. Suspicion is allowed at any moment, so every
 * timeout is covered. A connection is a queue in order, until it breaks: then all that is in it is lost, and a node hears an
 * error or a reset.
 *
 * Ghosts, which no node knows: fresh[i], node i has everything that was acknowledged (of memory and disk while its VM lives,
 * of its disk after a crash of the node that served); mark_valid, nothing has left since the last checkpoint was taken.
 *
 * Bounds: CRASHES, FREEZES, BREAKS, MAXGEN.
 *
 * OPTIMISTIC is another protocol, kept for comparison: a node that has proof of the peer's death emits before the witness has
 * answered, until a deadline. It keeps P5 and loses what was acknowledged; why is told in docs/arbitration.md.
 */
#ifndef L
#define L	2	/* lease, ticks */
#endif
#ifdef DRIFT
#define D	1	/* what two clocks may differ over a lease */
#else
#define D	0
#endif
#ifdef F_NO_DRIFT
#define WAIT	L
#else
#define WAIT	(L + D)
#endif
#ifndef CRASHES
#define CRASHES	2
#endif
#ifndef FREEZES
#define FREEZES	1
#endif
#ifndef BREAKS
#define BREAKS	1
#endif
#ifndef MAXGEN
#define MAXGEN	3
#endif
#define NEVER	7	/* no limit */
#define NOBODY	2

/* What a node is. */
#define DOWN	0
#define COLD	1	/* started, has no VM: asks its peer and the witness */
#define BEGIN	2	/* a claim to begin the VM from its disk is under way */
#define ALONE	3	/* serves, nobody can take over */
#define SYNC	4	/* serves, a peer is being filled */
#define MARK	5	/* serves, output held: the first checkpoint is on its way, the peer can be able to take over */
#define PROT	6	/* serves, what leaves is covered by the peer; under lease */
#define PCLAIM	7	/* as before, claims to go on alone */
#define JOIN	8	/* secondary, being filled: never competes */
#define STBY	9	/* secondary, can take over */
#define SCLAIM	10	/* secondary, claims; answers no heartbeats */
#define OPT	11	/* OPTIMISTIC: emits until a deadline, claims */

/* The state file's mode. */
#define NEW		0
#define M_ALONE		1
#define M_PAIR		2
#define M_STANDBY	3

/* Messages of the control connection, in order. */
#define MARKER	1
#define STAGED	2
#define SAY_ALONE 3
#define PROMOTE	4
#define GONE	5
#define TOOK	6
#define FIN	7

#define GRANTED	1
#define LOST	2

byte st[2];
bit frozen[2], cov[2];
byte lease[2], since[2];	/* since: ticks from the last answer to a heartbeat, or from the start; at most WAIT */
byte gen[2], mode[2];		/* the state file */
byte from[2], want[2];	/* of the claim under way; COLD: from is the record's generation that was looked at */
bit looked[2], mine[2];
bit req[2];			/* a request to the witness is on its way; outlives who sent it */
byte rexp[2], rnew[2], rep[2];
byte rgen, rowner = NOBODY;	/* the witness's record */
chan q[2] = [4] of { byte };	/* to node i */
bit view[2], broken;		/* has the link open; nothing gets through any more */
byte hb, hage, hbp;		/* heartbeat of hbp: 1 on its way, 2 its answer is; ticks since it was sent */
bit fresh[2], mark_valid;
byte crashes, freezes, breaks;
bit calm;
byte rgot;
#ifdef F_NO_RECHECK
bit stale[2];
#endif
#ifdef DRIFT
bit ahead;
#endif

#ifdef OPTIMISTIC
/*
 * Ages, at most L, of the secondary's last answer: on its way, as the primary knows it, in the primary's next heartbeat, and as the
 * secondary knows that the primary has had it. At the last one's time the primary lived.
 */
byte ans_age = L, had_age = L, echo_age = L, known_age = L;
#endif

#ifdef F_NO_LEASE
#define IN_LEASE(x)	(lease[x] > 0 || st[x] == PROT || st[x] == PCLAIM)
#else
#define IN_LEASE(x)	(lease[x] > 0)
#endif
#define FREE(x)		(st[x] == ALONE || st[x] == SYNC || st[x] == OPT)
#define COVERED(x)	(st[x] == PROT || (st[x] == PCLAIM && cov[x]))
#define MAY(x)		((FREE(x) || COVERED(x)) && IN_LEASE(x))	/* may let a frame out now */
#define CLAIMS(x)	(st[x] == BEGIN || st[x] == PCLAIM || st[x] == SCLAIM || st[x] == OPT)
#define PAIRED		(!broken && view[0] && view[1])
#define HEALTHY		(PAIRED && !CLAIMS(0) && !CLAIMS(1))
#ifdef OPTIMISTIC
#define WAITS(x)	(st[x] == JOIN || st[x] == STBY || st[x] == COLD || st[x] == BEGIN)
#else
#define WAITS(x)	(st[x] == JOIN || st[x] == STBY)
#endif
/* What the planted faults (F_...) change in a guard */
#ifdef F_WRITE_LATE
#define WRITTEN(x)	(mode[x] == M_ALONE)
#else
#define WRITTEN(x)	true
#endif
#ifdef F_JOIN_COMPETES
#define COMPETES(x)	(st[x] == STBY || st[x] == JOIN)
#else
#define COMPETES(x)	(st[x] == STBY)
#endif
#ifdef F_ANSWERS
#define ANSWERS(x)	(st[x] == JOIN || st[x] == STBY || st[x] == SCLAIM)
#else
#define ANSWERS(x)	(st[x] == JOIN || st[x] == STBY)
#endif
#if defined(OPTIMISTIC) && !defined(F_COLD_NO_WAIT)
#define COLD_WAITED(x)	(since[x] >= WAIT)
#else
#define COLD_WAITED(x)	true
#endif
/* PROGRESS: from calm on nothing fails. Either both nodes are there, or (SURVIVOR) one is down for good and the other one rightful. */
#ifdef SURVIVOR
#define STAYS_DOWN	calm
#define RIGHTFUL(x)	(fresh[x] && rgen == gen[x] && st[x] >= ALONE && st[x] <= SCLAIM && st[x] != JOIN)
#define MAY_BE_CALM	((st[0] == DOWN && !req[0] && RIGHTFUL(1)) || (st[1] == DOWN && !req[1] && RIGHTFUL(0)))
#else
#define STAYS_DOWN	false
#define MAY_BE_CALM	true
#endif
#define CAN_CLAIM(g)	(g < MAXGEN + 3 * calm)
#define RUNS(x)		(st[x] != DOWN && !frozen[x])
#ifdef F_NO_RECORD
#define SAYS_ME(x)	true
#else
#define SAYS_ME(x)	(mine[x] && from[x] >= gen[x])
#endif
#ifdef F_STANDBY_BEGINS
#define HAS_VM(x)	(mode[x] != NEW)
#else
#define HAS_VM(x)	(mode[x] == M_ALONE || mode[x] == M_PAIR)
#endif
#ifdef PAIR_WAITS
#define BEGINS(x)	(mode[x] == M_ALONE)
#else
#define BEGINS(x)	HAS_VM(x)
#endif
#ifdef NO_FRESH
#define ALL_ACKED(x)	true
#else
#define ALL_ACKED(x)	fresh[x]
#endif

inline empty_queue(x) {
	do
	:: len(q[x]) > 0 -> q[x] ? _
	:: else -> break
	od;
	skip
}

inline tell(to, m) {
	if
	:: !broken && view[to] -> q[to] ! m
	:: else
	fi
}

inline hang_up(me, peer) {
	if
	:: view[me] -> tell(peer, FIN); view[me] = 0; empty_queue(me)
	:: else
	fi
}

/* The VM, if there is one, is killed, and the node starts anew, as what its state file says. */
inline start_over(me, peer) {
	hang_up(me, peer);
	if
	:: st[me] == STBY || st[me] == SCLAIM || st[me] == JOIN -> fresh[me] = 0
	:: else
	fi;
	st[me] = COLD;
	lease[me] = 0;
	cov[me] = 0;
	since[me] = 0;
	looked[me] = 0;
	mine[me] = 0;
	from[me] = 0;
	want[me] = 0;
	rep[me] = 0
}

inline claim(me, state, g, h) {
	st[me] = state;
	from[me] = g;
	want[me] = h;
	rep[me] = 0;
	looked[me] = 0;
	mine[me] = 0;
	if
	:: st[me] != BEGIN -> since[me] = 0
	:: else
	fi
}

/* Serve without a limit; the state file is written before the first frame. */
inline serve(me, g) {
#ifndef F_WRITE_LATE
	gen[me] = g;
	mode[me] = M_ALONE;
#endif
	st[me] = ALONE;
	lease[me] = NEVER;
	since[me] = 0;
	cov[me] = 0;
	from[me] = 0;
#ifndef F_WRITE_LATE
	want[me] = 0;
#endif
	rep[me] = 0
}

inline pair_up(p, s) {
	empty_queue(p);
	empty_queue(s);
	broken = 0;
	view[p] = 1;
	view[s] = 1;
	hb = 0;
	hage = 0;
	hbp = p;
	st[p] = SYNC;
	st[s] = JOIN;
	gen[s] = gen[p];
#ifndef F_JOIN_KEEPS
	mode[s] = M_STANDBY;
#endif
	fresh[s] = 0;
	since[s] = WAIT;
	looked[s] = 0;
	mine[s] = 0;
	from[s] = 0
#ifdef OPTIMISTIC
	; ans_age = L; had_age = L; echo_age = L; known_age = L
#endif
}

/* The peer is proven to be dead, or has handed over. */
inline proven(me, peer) {
#ifdef OPTIMISTIC
	if
	:: CAN_CLAIM(gen[me]) ->
		tell(peer, TOOK);
		hang_up(me, peer);
		claim(me, OPT, gen[me], gen[me] + 1);
		gen[me] = gen[me] + 1;
		mode[me] = M_ALONE;
#if defined(F_NO_DEADLINE)
		lease[me] = NEVER
#elif defined(F_RECEIPT)
		lease[me] = L - (since[me] > L -> L : since[me])
#else
		lease[me] = L - known_age
#endif
	:: else -> start_over(me, peer)
	fi
#else
	hang_up(me, peer);
	if
	:: CAN_CLAIM(gen[me]) -> claim(me, SCLAIM, gen[me], gen[me] + 1)
	:: else -> start_over(me, peer)
	fi
#endif
}

proctype node(byte i; byte j) {
	byte m;

end:	do
	/* EMIT: in any state; only where it could show something */
	:: d_step { RUNS(i) && !calm && MAY(i) &&
		    (MAY(j) || !ALL_ACKED(i) || (FREE(i) && (fresh[j] || mark_valid))) ->
		assert(!MAY(j));
		assert(ALL_ACKED(i));
		if
		:: FREE(i) -> fresh[j] = 0; mark_valid = 0
		:: else
		fi
	}
#ifdef F_WRITE_LATE
	:: d_step { RUNS(i) && st[i] == ALONE && mode[i] != M_ALONE -> gen[i] = want[i]; mode[i] = M_ALONE }
#endif

	/* COLD: look at the record first, ask the peer then; what was looked at is what the claim expects */
	:: d_step { RUNS(i) && st[i] == COLD && (!looked[i] || from[i] != rgen || mine[i] != (rowner == i)) ->
		looked[i] = 1;
		from[i] = rgen;
		mine[i] = rowner == i
	}
	:: d_step { RUNS(i) && st[i] == COLD && looked[i] && CAN_CLAIM(from[i]) &&
		    ((BEGINS(i) && SAYS_ME(i)) || (mode[i] == NEW && i == 0 && from[i] == 0)) ->
		claim(i, BEGIN, from[i], from[i] + 1)
	}
	/* MEET: both are there and have no VM; i is the one that serves */
	:: d_step { RUNS(i) && RUNS(j) && st[i] == COLD && st[j] == COLD && looked[i] && CAN_CLAIM(from[i]) && CAN_CLAIM(gen[i]) &&
		    ((mode[i] == NEW && mode[j] == NEW && i == 0 && from[i] == 0) ||
		     (HAS_VM(i) && (gen[i] > gen[j] || mode[j] == NEW ||
				    (gen[i] == gen[j] && (mode[j] == M_STANDBY || (mode[i] == M_ALONE && mode[j] == M_PAIR)))))) ->
		claim(i, BEGIN, from[i], from[i] + 1);
		if
		:: want[i] <= gen[i] -> want[i] = gen[i] + 1
		:: else
		fi
	}
	/* MEET: the peer serves and has no link */
	:: d_step { RUNS(i) && RUNS(j) && st[i] == COLD && st[j] == ALONE && !view[i] && !view[j] && WRITTEN(j) ->
		pair_up(j, i)
	}

	/* A claim is sent again until it is answered. */
	:: d_step { RUNS(i) && CLAIMS(i) && !req[i] && !rep[i] ->
		req[i] = 1;
		rexp[i] = from[i];
		rnew[i] = want[i]
	}
	:: d_step { RUNS(i) && CLAIMS(i) && rep[i] == LOST -> start_over(i, j) }
#ifdef F_COLD_NO_GRANT
	:: d_step { RUNS(i) && st[i] == BEGIN -> serve(i, want[i]) }
#endif
	:: d_step { RUNS(i) && st[i] == BEGIN && rep[i] == GRANTED && COLD_WAITED(i) -> serve(i, want[i]) }
#ifdef F_NO_CLAIM
	:: d_step { RUNS(i) && st[i] == PCLAIM && lease[i] == 0 -> serve(i, want[i]) }
	:: d_step { RUNS(i) && st[i] == SCLAIM -> serve(i, want[i]) }
#endif
	:: d_step { RUNS(i) && (st[i] == PCLAIM || st[i] == SCLAIM || st[i] == OPT) && rep[i] == GRANTED ->
		if
		:: st[i] == PCLAIM -> tell(j, SAY_ALONE)
		:: else -> tell(j, TOOK)
		fi;
		hang_up(i, j);
		serve(i, want[i])
	}

	/* SYNC, MARK, PROT: a primary with a peer */
	:: d_step { RUNS(i) && st[i] == SYNC && view[i] && (!calm || PAIRED) ->
		mode[i] = M_PAIR;
		st[i] = MARK;
		lease[i] = 0;
		mark_valid = 1;
		tell(j, MARKER)
	}
	:: d_step { RUNS(i) && st[i] == SYNC && (!calm || !PAIRED) -> hang_up(i, j); st[i] = ALONE }
	:: d_step { RUNS(i) && (st[i] == MARK || st[i] == PROT) && CAN_CLAIM(gen[i]) && (!calm || !HEALTHY) ->
		claim(i, PCLAIM, gen[i], gen[i] + 1)
	}
#ifdef F_ALONE_EARLY
	:: d_step { RUNS(i) && st[i] == PROT && CAN_CLAIM(gen[i]) && !calm ->
		tell(j, SAY_ALONE);
		claim(i, PCLAIM, gen[i], gen[i] + 1)
	}
#endif
	/* switch */
	:: d_step { RUNS(i) && st[i] == PROT && !calm -> tell(j, PROMOTE); start_over(i, j) }
	/* STBY: silence, or the wait after an error; and a secondary that gives up */
	:: d_step { RUNS(i) && COMPETES(i) && since[i] >= WAIT && CAN_CLAIM(gen[i]) && (!calm || !HEALTHY) ->
		claim(i, SCLAIM, gen[i], gen[i] + 1)
	}
	:: d_step { RUNS(i) && (st[i] == STBY || st[i] == JOIN) && !calm -> tell(j, GONE); start_over(i, j) }

	/* The link is down by an error, or by a reset, which proves nothing: the peer's kernel may have given up the connection. */
	:: d_step { RUNS(i) && view[i] && broken ->
		view[i] = 0;
		if
		:: st[i] == JOIN -> start_over(i, j)
#ifdef F_RESET
		:: st[i] == STBY && !view[j] -> proven(i, j)
#endif
		:: else
		fi
	}

	/* A message */
	:: d_step { RUNS(i) && view[i] && len(q[i]) > 0 ->
		q[i] ? m;
		if
		:: m == MARKER && st[i] == JOIN -> st[i] = STBY; fresh[i] = mark_valid; tell(j, STAGED)
		:: m == STAGED && st[i] == MARK -> st[i] = PROT; cov[i] = 1
		:: (m == GONE || m == FIN) && st[i] == SYNC -> hang_up(i, j); st[i] = ALONE
		:: m == GONE && (st[i] == MARK || st[i] == PROT) -> hang_up(i, j); serve(i, gen[i])
		:: m == TOOK && st[i] >= MARK && st[i] <= PCLAIM -> start_over(i, j)
		:: m == FIN && (st[i] == MARK || st[i] == PROT) ->
			view[i] = 0;
			cov[i] = 0;
			if
			:: CAN_CLAIM(gen[i]) -> claim(i, PCLAIM, gen[i], gen[i] + 1)
			:: else -> start_over(i, j)
			fi
		:: (m == GONE || m == FIN) && st[i] == PCLAIM -> hang_up(i, j); cov[i] = 0
		:: (m == SAY_ALONE || m == FIN || m == PROMOTE) && st[i] == JOIN -> start_over(i, j)
		:: m == SAY_ALONE && st[i] == STBY -> start_over(i, j)
		:: (m == FIN || m == PROMOTE) && st[i] == STBY -> proven(i, j)
		:: m == FIN && st[i] >= SCLAIM -> view[i] = 0
		:: else
		fi
	}

	/* Heartbeats */
	:: d_step { RUNS(i) && hbp == i && hb == 0 && st[i] >= SYNC && st[i] <= PCLAIM && (lease[i] < L || st[i] == SYNC) && (!calm || (HEALTHY && st[i] != SYNC)) ->
		hb = 1;
		hage = 0
#ifdef OPTIMISTIC
		; echo_age = had_age
#endif
	}
	:: d_step { RUNS(i) && hbp == j && hb == 1 && ANSWERS(i) ->
		hb = 2;
		since[i] = 0
#ifdef OPTIMISTIC
		; known_age = (echo_age < known_age -> echo_age : known_age);
		ans_age = 0
#endif
	}
	:: d_step { RUNS(i) && hbp == i && hb == 2 ->
		hb = 0;
		if
		:: st[i] >= MARK && st[i] <= PCLAIM && lease[i] < L - hage -> lease[i] = L - hage
		:: else
		fi;
		hage = 0
#ifdef OPTIMISTIC
		; had_age = ans_age
#endif
	}
	od
}

/* One compare-and-swap, and its answer, which may be lost or come to somebody who has stopped asking */
inline decide(x) {
	d_step { req[x] ->
		req[x] = 0;
		if
#ifdef F_NO_EXPECTED
		:: rnew[x] > rgen || !(rgen == rnew[x] && rowner == x) ->
#else
		:: rgen == rexp[x] ->
#endif
			rgen = rnew[x];
			rowner = x;
			rgot = GRANTED
		:: else -> rgot = (rgen == rnew[x] && rowner == x -> GRANTED : LOST)
		fi;
		if
		:: st[x] != DOWN && CLAIMS(x) && from[x] == rexp[x] && want[x] == rnew[x] -> rep[x] = rgot
		:: else
		fi;
		rgot = 0;
		rexp[x] = 0;
		rnew[x] = 0
	}
}

proctype witness() {
end:	do
	:: decide(0)
	:: decide(1)
	/* a request, or an answer, is lost */
	:: d_step { !calm && req[0] -> req[0] = 0; rexp[0] = 0; rnew[0] = 0 }
	:: d_step { !calm && req[1] -> req[1] = 0; rexp[1] = 0; rnew[1] = 0 }
	:: d_step { !calm && rep[0] -> rep[0] = 0 }
	:: d_step { !calm && rep[1] -> rep[1] = 0 }
	od
}

inline tick_node(x) {
	if
	:: lease[x] > 0 && lease[x] != NEVER -> lease[x]--
	:: else
	fi;
	if
	:: since[x] < WAIT && WAITS(x) -> since[x]++
	:: else
	fi;
	if
	:: hb && hbp == x && hage < L -> hage++
	:: else
	fi
#ifdef OPTIMISTIC
	; if
	:: hbp != x ->
		ans_age = (ans_age < L -> ans_age + 1 : L);
		had_age = (had_age < L -> had_age + 1 : L);
		echo_age = (echo_age < L -> echo_age + 1 : L);
		known_age = (known_age < L -> known_age + 1 : L)
	:: else
	fi
#endif
}

#define TIME_MATTERS(x)	((lease[x] > 0 && lease[x] != NEVER) || (since[x] < WAIT && WAITS(x)) || hb)

proctype clock() {
end:	do
#ifdef DRIFT
	:: d_step { !(calm && HEALTHY) && !ahead -> tick_node(0); ahead = 1 }
	:: d_step { !(calm && HEALTHY) && ahead -> tick_node(1); ahead = 0 }
#endif
	:: d_step { !(calm && HEALTHY) && (TIME_MATTERS(0) || TIME_MATTERS(1)) -> tick_node(0); tick_node(1) }
	od
}

inline crash(x, y) {
	d_step { st[x] != DOWN && !calm && crashes < CRASHES ->
		crashes++;
		start_over(x, y);
		st[x] = DOWN;
		frozen[x] = 0
	}
}

inline freeze(x) {
	d_step { RUNS(x) && !calm && freezes < FREEZES ->
		freezes++;
		frozen[x] = 1
#ifdef F_NO_RECHECK
		; stale[x] = MAY(x)
#endif
	}
}

inline thaw(x, y) {
	d_step { frozen[x] ->
		frozen[x] = 0
#ifdef F_NO_RECHECK
		; if
		:: stale[x] -> assert(!MAY(y))
		:: else
		fi
#endif
	}
}

proctype faults() {
end:	do
	:: crash(0, 1)
	:: crash(1, 0)
	:: d_step { st[0] == DOWN && !STAYS_DOWN -> st[0] = COLD }
	:: d_step { st[1] == DOWN && !STAYS_DOWN -> st[1] = COLD }
	:: freeze(0)
	:: freeze(1)
	:: thaw(0, 1)
	:: thaw(1, 0)
	:: d_step { !broken && (view[0] || view[1]) && !calm && breaks < BREAKS ->
		breaks++;
		broken = 1;
		empty_queue(0);
		empty_queue(1)
	}
	/* a heartbeat, or its answer, is lost */
	:: d_step { hb && (!calm || !HEALTHY) -> hb = 0; hage = 0 }
#ifdef PROGRESS
	:: d_step { !calm && !frozen[0] && !frozen[1] && MAY_BE_CALM -> calm = 1 }
#endif
	od
}

init {
	d_step {
		/* a new VM: both disks are what they are */
		fresh[0] = 1;
		fresh[1] = 1;
		st[0] = COLD;
		st[1] = COLD
	}
	atomic {
		run node(0, 1);
		run node(1, 0);
		run witness();
		run clock();
		run faults()
	}
}

#ifdef PROGRESS
ltl progress { [] (calm -> <> (MAY(0) || MAY(1))) }
#endif
