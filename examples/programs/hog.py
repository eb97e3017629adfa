# Takes memory until there is no more: a verdict of its own, not a time-out.
blocks = []
while True:
    blocks.append(bytearray(4 << 20))
