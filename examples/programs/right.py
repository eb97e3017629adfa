# Right: reads numbers from standard input and prints their sum.
print(sum(int(word) for word in input().split()))
