/* A program whose libraries use CUDA memory: `cuda_program FUNCTION LIBRARY...` calls FUNCTION of each library. */
#include <dlfcn.h>
#include <stdio.h>

int main(int argc, char **argv)
{
	for (int i = 2; i < argc; i++) {
		void *library = dlopen(argv[i], RTLD_NOW | RTLD_LOCAL);
		void (*use)(void) = library ? (void (*)(void))dlsym(library, argv[1]) : NULL;

		if (!use) {
			fprintf(stderr, "%s\n", dlerror());
			return 1;
		}
		use();
	}
	return 0;
}
