/*
 * Names of the kernels that programs register, by the address of their host function.  There are tens of thousands, most of
 * which are never launched: they are put in order when a name is first asked for.
 */
#include "runtime.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

struct kernel {
	const void *host;
	const char *name; /* in the program's library */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of all that follows */
static struct kernel *kernels;
static size_t nr_kernels, max_kernels;
static bool sorted;

void runtime_kernel_add(const void *host, const char *name)
{
	pthread_mutex_lock(&lock);
	if (nr_kernels == max_kernels) {
		max_kernels = max_kernels ? 2 * max_kernels : 1024;
		kernels = realloc(kernels, max_kernels * sizeof(kernels[0]));
		if (!kernels)
			sim_die("no memory for", "the names of kernels");
	}
	kernels[nr_kernels++] = (struct kernel){host, name};
	sorted = false;
	pthread_mutex_unlock(&lock);
}

static int compare(const void *a, const void *b)
{
	uintptr_t left = (uintptr_t)((const struct kernel *)a)->host, right = (uintptr_t)((const struct kernel *)b)->host;

	return (left > right) - (left < right);
}

const char *runtime_kernel_name(const void *host)
{
	const struct kernel wanted = {host, NULL};
	const struct kernel *found;
	const char *name;

	pthread_mutex_lock(&lock);
	if (!sorted)
		qsort(kernels, nr_kernels, sizeof(kernels[0]), compare);
	sorted = true;
	found = bsearch(&wanted, kernels, nr_kernels, sizeof(kernels[0]), compare);
	name = found ? found->name : "unregistered";
	pthread_mutex_unlock(&lock);
	return name;
}
