/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * main() of a fuzz target that is not built with libFuzzer: runs the files named, those in the directories named, and
 * as many random inputs as FUZZ_RANDOM says (from FUZZ_SEED).
 */
#include <dirent.h>
#include <string.h>

#include "fuzz.h"

static uint8_t buf[1 << 20];

static int run_file(const char *path)
{
	FILE *f = fopen(path, "rb");
	uint8_t *exact;
	size_t n;

	if (!f) {
		perror(path);
		return 1;
	}
	n = fread(buf, 1, sizeof(buf), f);
	fclose(f);
	/* Memory of exactly its size, so that a sanitizer sees what is read beyond. */
	exact = malloc(n ? n : 1);
	if (!exact)
		return 1;
	memcpy(exact, buf, n);
	LLVMFuzzerTestOneInput(exact, n);
	free(exact);
	return 0;
}

static int run_path(const char *path, unsigned int *count)
{
	DIR *d = opendir(path);
	struct dirent *e;
	char name[4096];
	int bad = 0;

	if (!d) {
		++*count;
		return run_file(path);
	}
	while ((e = readdir(d))) {
		if (e->d_name[0] == '.')
			continue;
		snprintf(name, sizeof(name), "%s/%s", path, e->d_name);
		bad |= run_file(name);
		++*count;
	}
	closedir(d);
	return bad;
}

int main(int argc, char **argv)
{
	const char *random = getenv("FUZZ_RANDOM"), *seed = getenv("FUZZ_SEED");
	unsigned int count = 0, rounds = random ? (unsigned int)strtoul(random, NULL, 0) : 0;
	int bad = 0;

	for (int i = 1; i < argc; i++)
		bad |= run_path(argv[i], &count);
	srand(seed ? (unsigned int)strtoul(seed, NULL, 0) : 1);
	for (unsigned int round = 0; round < rounds; round++) {
		size_t n = (size_t)rand() % 512;

		for (size_t i = 0; i < n; i++)
			buf[i] = (uint8_t)(rand() % 4 ? rand() : 0);
		LLVMFuzzerTestOneInput(buf, n);
	}
	printf("%u files, %u random inputs (seed %s)\n", count, rounds, seed ? seed : "1");
	return bad || !(count + rounds);
}
