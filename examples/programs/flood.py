# Prints for ever: ended at limits.output, with head and tail of the output kept.
n = 0
while True:
    print("line", n, "of a story without an end")
    n += 1
