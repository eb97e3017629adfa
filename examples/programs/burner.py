# Computes for ever: the limit on processor time ends it, long before the wall clock.
n = 0
while True:
    n = (n * 31 + 7) % 1_000_003
