#!/usr/bin/env python3
"""Asks the kernel to write all memory of a process to swap: page_out.py PID. Takes root.

Locked memory stays, as the kernel refuses it. See process_madvise(2).
"""

import ctypes
import os
import sys

PROCESS_MADVISE = 440
MADV_PAGEOUT = 21


class Range(ctypes.Structure):
    _fields_ = [("start", ctypes.c_void_p), ("size", ctypes.c_size_t)]


def main(pid):
    libc = ctypes.CDLL(None, use_errno=True)
    process = os.pidfd_open(pid)
    advised = 0
    with open(f"/proc/{pid}/maps") as maps:
        for line in maps:
            addresses, rights = line.split()[:2]
            if "w" not in rights:
                continue
            start, end = (int(address, 16) for address in addresses.split("-"))
            part = Range(start, end - start)
            advised += max(0, libc.syscall(PROCESS_MADVISE, process, ctypes.byref(part), 1, MADV_PAGEOUT, 0))
    print(advised, "bytes")


main(int(sys.argv[1]))
