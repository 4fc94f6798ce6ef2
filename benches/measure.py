"""Runs a command on the first so many of the processors that this process may use.

    measure.py PROCESSORS COMMAND...

On stdout: seconds of a processor, seconds of wall time, and megabytes at the peak.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time

# A process has as its own peak what its parent held when it began, and this Python holds 14 MB; `time` holds 2.
TIME = "/usr/bin/time"


def pin(processors):
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < processors:
        sys.exit(f"{processors} processors are wanted, and there are {len(allowed)} that may be used")
    os.sched_setaffinity(0, allowed[:processors])


def children():
    return resource.getrusage(resource.RUSAGE_CHILDREN)


def seconds(used):
    return used.ru_utime + used.ru_stime


def main():
    processors, *command = sys.argv[1:]
    pin(int(processors))
    with tempfile.NamedTemporaryFile("r") as told:
        timed = os.path.exists(TIME)
        if timed:
            command = [TIME, "-f", "%M", "-o", told.name, *command]
        # Where `python3` is a script that looks for a Python (pyenv), what it ran counts as children of this one.
        before, began = children(), time.perf_counter()
        if subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
            sys.exit("it did not end well")
        wall, used = time.perf_counter() - began, children()
        kibibytes = int(told.read()) if timed else used.ru_maxrss
    print(seconds(used) - seconds(before), wall, kibibytes * 1024 / 1e6)


main()
