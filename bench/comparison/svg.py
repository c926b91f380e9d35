# SPDX-License-Identifier: BSD-2-Clause
"""Line plots as SVG: axes with round numbers, linear or logarithmic, a grid, a legend. Reads well on white."""

import math
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 760, 440
LEFT, RIGHT, TOP, BOTTOM = 74, 176, 48, 58
COLOURS = {"plain": "#5b6770", "two": "#b07d12", "colo": "#c23b22", "lockstep": "#1f5fa8"}
FONT = "font-family=\"DejaVu Sans, Verdana, sans-serif\""


def number(v):
    """A tick's label."""
    return "%d" % v if v == int(v) else "%g" % v


class Axis:
    """Values of one direction, put between two positions."""

    def __init__(self, values, start, end, log):
        self.start, self.end, self.log = start, end, log
        if log:
            self.low, self.high = min(values), max(values)
            if self.low == self.high:
                self.low, self.high = self.low / 2, self.high * 2
        else:
            self.low, self.high = min(0, min(values)), max(values)
            if self.low == self.high:
                self.high = self.low + 1
        self.ticks = self._log_ticks() if log else self._ticks()
        self.low, self.high = min([self.low] + self.ticks), max([self.high] + self.ticks)

    def _ticks(self):
        rough = (self.high - self.low) / 5
        size = 10 ** math.floor(math.log10(rough))
        step = next(m * size for m in (1, 2, 2.5, 5, 10) if m * size >= rough * 0.999)
        first, last = math.floor(self.low / step), math.ceil(self.high / step)
        return [round(i * step, 10) for i in range(first, last + 1)]

    def _log_ticks(self):
        decades = math.log10(self.high / self.low)
        steps = (1, 2, 5) if decades < 4 else (1,)
        ticks = [m * 10.0 ** e for e in range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
                 for m in steps]
        below = [t for t in ticks if t <= self.low * 1.0001]
        above = [t for t in ticks if t >= self.high * 0.9999]
        first = below[-1] if below else ticks[0]
        last = above[0] if above else ticks[-1]
        return [round(t, 10) for t in ticks if first <= t <= last]

    def at(self, v):
        if self.log:
            part = math.log(v / self.low) / math.log(self.high / self.low)
        else:
            part = (v - self.low) / (self.high - self.low)
        return self.start + part * (self.end - self.start)


def text(x, y, s, anchor="middle", size=12, more=""):
    return '<text x="%.1f" y="%.1f" text-anchor="%s" font-size="%d" %s fill="#222"%s>%s</text>' % (
        x, y, anchor, size, FONT, more, escape(s))


def marked(xaxis, xs):
    """Ticks of x: the points' own values where they are few, since these are what was measured."""
    return sorted(set(xs)) if xaxis.log and len(set(xs)) <= 8 else xaxis.ticks


def plot(title, xlabel, ylabel, series, xlog=False, ylog=False):
    """
    series: (system's name, label, dashed, [(x, y)]). Returns the SVG, or None when there is no point. Points that a
    logarithmic axis has no place for (0 or less) are left out.
    """
    kept = []
    for name, label, dashed, points in series:
        good = [(x, y) for x, y in sorted(points) if (x > 0 or not xlog) and (y > 0 or not ylog)]
        if good:
            kept.append((name, label, dashed, good))
    if not kept:
        return None
    xs = [x for s in kept for x, _ in s[3]]
    ys = [y for s in kept for _, y in s[3]]
    ax = Axis(xs, LEFT, WIDTH - RIGHT, xlog)
    ay = Axis(ys, HEIGHT - BOTTOM, TOP, ylog)
    out = ['<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d">' % (
        WIDTH, HEIGHT, WIDTH, HEIGHT), '<rect width="%d" height="%d" fill="#fff"/>' % (WIDTH, HEIGHT),
           text(LEFT, 26, title, "start", 14, ' font-weight="bold"')]
    for v in ay.ticks:
        y = ay.at(v)
        out.append('<line x1="%d" y1="%.1f" x2="%d" y2="%.1f" stroke="#ddd"/>' % (LEFT, y, WIDTH - RIGHT, y))
        out.append(text(LEFT - 8, y + 4, number(v), "end"))
    for v in marked(ax, xs):
        x = ax.at(v)
        out.append('<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="#ddd"/>' % (x, TOP, x, HEIGHT - BOTTOM))
        out.append(text(x, HEIGHT - BOTTOM + 18, number(v)))
    out.append('<path d="M%d %d V%d H%d" fill="none" stroke="#222"/>' % (LEFT, TOP, HEIGHT - BOTTOM, WIDTH - RIGHT))
    out.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 16, xlabel + (" (logarithmic)" if xlog else "")))
    out.append(text(18, (TOP + HEIGHT - BOTTOM) / 2, ylabel + (" (logarithmic)" if ylog else ""), "middle", 12,
                    ' transform="rotate(-90 18 %.1f)"' % ((TOP + HEIGHT - BOTTOM) / 2)))
    for i, (name, label, dashed, points) in enumerate(kept):
        colour = COLOURS.get(name, "#444")
        dash = ' stroke-dasharray="6 4"' if dashed else ""
        out.append('<polyline points="%s" fill="none" stroke="%s" stroke-width="2"%s/>' % (
            " ".join("%.1f,%.1f" % (ax.at(x), ay.at(y)) for x, y in points), colour, dash))
        out += ['<circle cx="%.1f" cy="%.1f" r="3.5" fill="%s"/>' % (ax.at(x), ay.at(y), colour) for x, y in points]
        y = TOP + 10 + 20 * i
        out.append('<line x1="%d" y1="%d" x2="%d" y2="%d" stroke="%s" stroke-width="2"%s/>' % (
            WIDTH - RIGHT + 14, y, WIDTH - RIGHT + 42, y, colour, dash))
        out.append(text(WIDTH - RIGHT + 48, y + 4, label, "start"))
    return "\n".join(out + ["</svg>"]) + "\n"
