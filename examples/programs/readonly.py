# The image is read-only and the program is nobody special; its work directory is its own.
import os
import sys

print("uid", os.getuid(), "in", os.getcwd())
for path in ["/usr/bin/mine", "/etc/mine"]:
    try:
        open(path, "w")
    except OSError as err:
        print(path, "->", err.strerror)
    else:
        sys.exit("could write " + path)
open("mine", "w").close()
