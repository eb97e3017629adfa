# Never ends and hardly works: the wall clock ends it.
import time

print("waiting for something that does not come", flush=True)
while True:
    time.sleep(0.05)
