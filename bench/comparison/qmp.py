# SPDX-License-Identifier: BSD-2-Clause
"""QEMU's monitor, for the systems that we drive ourselves. Blocking, with a deadline for each answer."""

import json
import socket

from bed import BedError


class Qmp:
    """One connection to the unix socket at path; seconds: how long an answer may take."""

    def __init__(self, path, seconds=10):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(seconds)
        self.sock.connect(path)
        self.rest = b""
        self.events = []
        self._message()  # the greeting
        self("qmp_capabilities")

    def _message(self):
        while b"\n" not in self.rest:
            more = self.sock.recv(65536)
            if not more:
                raise BedError("QEMU closed its monitor")
            self.rest += more
        line, _, self.rest = self.rest.partition(b"\n")
        return json.loads(line)

    def __call__(self, command, **arguments):
        """
        What the command returns. Names have - for _ except for the command's own. BedError: it was refused, or QEMU
        does not answer.
        """
        ask = {"execute": command}
        if arguments:
            ask["arguments"] = {k.replace("_", "-"): v for k, v in arguments.items()}
        try:
            self.sock.sendall(json.dumps(ask).encode() + b"\n")
            while True:
                got = self._message()
                if "event" in got:
                    self.events.append(got["event"])
                elif "error" in got:
                    raise BedError("%s: %s" % (command, got["error"]["desc"]))
                else:
                    return got["return"]
        except OSError as e:
            raise BedError("%s: QEMU does not answer (%s)" % (command, e)) from e

    def close(self):
        self.sock.close()
