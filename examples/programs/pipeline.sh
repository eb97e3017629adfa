# A shell with the usual small tools.
seq 1 100 | grep 7 | wc -l
