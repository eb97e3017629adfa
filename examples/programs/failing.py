# Fails on purpose: the exit code is the program's own, and so is the blame.
import sys

print("two and two are not five", file=sys.stderr)
sys.exit(3)
