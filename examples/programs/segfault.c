// Writes where it must not: dies of a signal of its own making.
int main(void) {
	volatile int *nowhere = 0;
	*nowhere = 1;
	return 0;
}
