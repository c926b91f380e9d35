# SPDX-License-Identifier: BSD-2-Clause
"""A unittest module's results as meson reads them (TAP): the module ends with tap.main()."""

import sys
import unittest


class Result(unittest.TextTestResult):
    """One line for each test."""

    count = 0

    def _line(self, test, ok):
        Result.count += 1
        print("%s %d %s" % ("ok" if ok else "not ok", Result.count, test.id()))

    def addSuccess(self, test):
        super().addSuccess(test)
        self._line(test, True)

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self._line(test, False)

    def addError(self, test, err):
        super().addError(test, err)
        self._line(test, False)


def main():
    tests = unittest.defaultTestLoader.loadTestsFromModule(sys.modules["__main__"])
    print("1..%d" % tests.countTestCases())
    good = unittest.TextTestRunner(resultclass=Result, verbosity=0).run(tests).wasSuccessful()
    sys.exit(0 if good else 1)
