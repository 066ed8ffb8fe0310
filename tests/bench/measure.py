#!/usr/bin/env python3
"""measure.py NAME LIMIT_MS LIMIT_MB COMMAND...: processor time, the smallest of five runs, and the most memory of any.

Processor time, because the commands have one thread and it is nearly the same on a busy machine. Status 1 above a limit.
"""
import os
import subprocess
import sys

name, ms_limit, mb_limit, command = sys.argv[1], float(sys.argv[2]), float(sys.argv[3]), sys.argv[4:]
ms, mb = float("inf"), 0.0
for _ in range(5):
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(command[:3])} ...: status {status}")
    ms = min(ms, (usage.ru_utime + usage.ru_stime) * 1e3)
    mb = max(mb, usage.ru_maxrss / 1024)
print(f"{name:<52} {ms:6.0f} ms (limit {ms_limit:.0f}) {mb:6.0f} MB (limit {mb_limit:.0f})")
sys.exit(ms > ms_limit or mb > mb_limit)
