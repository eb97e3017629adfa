// Compile and run: two steps, C.
#include <stdio.h>

int main(void) {
	int found = 0;
	for (int n = 2; n < 20000; n++) {
		int prime = 1;
		for (int d = 2; d * d <= n && prime; d++)
			prime = n % d != 0;
		found += prime;
	}
	printf("%d primes below 20000\n", found);
	return found == 2262 ? 0 : 1;
}
