# SPDX-License-Identifier: BSD-2-Clause
"""Medians and spread of what the rounds gave, and ratios between systems."""

import statistics


class Summary:
    """Looks into the records that rounds.run() made."""

    def __init__(self, records):
        self.records = records

    def got(self, system, figure):
        """(round, what run_figure() gave) of each round that tried it."""
        return [(r["round"], r["systems"][system]["figures"][figure]) for r in self.records
                if figure in r["systems"].get(system, {}).get("figures", {})]

    def values(self, system, figure, cell):
        """{round: value}"""
        return {n: g["cells"][cell] for n, g in self.got(system, figure) if cell in g.get("cells", {})}

    def median(self, system, figure, cell):
        v = self.values(system, figure, cell)
        return statistics.median(v.values()) if v else None

    def ratio(self, one, other):
        """
        (ratio of the medians, least, most) of two (system, figure, cell); least and most are of the rounds that have
        both. None when either was never measured.
        """
        a, b = self.median(*one), self.median(*other)
        if a is None or not b:
            return None
        first, second = self.values(*one), self.values(*other)
        each = [first[n] / second[n] for n in first if second.get(n)] or [a / b]
        return a / b, min(each), max(each)

    def _all(self):
        """(system, figure, round, what run_figure() gave)"""
        return [(s, f, r["round"], g) for r in self.records for s, rec in r["systems"].items()
                for f, g in rec["figures"].items()]

    def errors(self):
        """(system, figure, round, reason) of what could not be measured."""
        return [(s, f, n, g["error"]) for s, f, n, g in self._all() if "error" in g]

    def panics(self):
        """(system, figure, round, whose) of what was measured while a guest's kernel panicked."""
        return [(s, f, n, " and ".join(g["panicked"])) for s, f, n, g in self._all() if "panicked" in g]

    def disturbed(self):
        """(system, figure, round, how many) of checkpoints where there should have been none."""
        return [(s, f, n, g["disturbed"]) for s, f, n, g in self._all() if "disturbed" in g]

    def partial(self):
        """(system, figure, round) of transfers that were given up."""
        return [(s, f, n) for s, f, n, g in self._all() if g.get("cells", {}).get("partial")]

    def as_data(self):
        """{system: {figure: {cell: {median, min, max, rounds}}}}"""
        out = {}
        for s, f, _, g in self._all():
            for c in g.get("cells", {}):
                v = self.values(s, f, c)
                out.setdefault(s, {}).setdefault(f, {})[c] = {
                    "median": statistics.median(v.values()), "min": min(v.values()), "max": max(v.values()),
                    "rounds": len(v)}
        return out
