# An exception that nobody catches: Python exits with 1, the traceback is on stderr.
def mean(values):
    return sum(values) / len(values)


mean([])
