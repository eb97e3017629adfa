// Does not compile: the first step fails, the second never runs.
int main(void) {
	return missing;
}
