# Writes until the disk is full: the program sees ENOSPC and goes on.
import errno
import os

written = 0
try:
    with open("big", "wb", buffering=0) as file:
        while written < 1 << 30:
            written += file.write(bytes(1 << 20))
except OSError as err:
    print("after", written >> 20, "MiB:", errno.errorcode[err.errno])
os.remove("big")
raise SystemExit(0 if written < 1 << 30 else "no limit was seen")
