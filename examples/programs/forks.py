# Forks until it may not: the program sees EAGAIN and goes on.
import errno
import os
import signal

children = []
try:
    while len(children) < 1000:
        pid = os.fork()
        if pid == 0:
            signal.pause()
        children.append(pid)
except OSError as err:
    print("after", len(children), "forks:", errno.errorcode[err.errno])
for pid in children:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
raise SystemExit(0 if len(children) < 1000 else "no limit was seen")
