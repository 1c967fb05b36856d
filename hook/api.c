/*
 * Finding the functions that we stand before: see api.h.
 *
 * RTLD_NEXT finds another preload that stands before the same functions, which then comes next.  It does not find
 * PyTorch's own: Python loads PyTorch's libraries locally, so they are in no list that begins behind us.  They are looked
 * for in every loaded object whose file is named libc10* or libtorch*, and, because whoever called us must
 * have found a definition somewhere, in all other objects when that fails.
 */
#define _GNU_SOURCE
#include "hook/api.h"

#include "nnmem/atomic.h"

#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <string.h>

static const char *const symbols[NR_API] = {
#define API_WRAPPED(id, symbol, ret, params) [API_##id] = symbol,
#define API_CALLED(id, symbol, ret, params)  [API_##id] = symbol,
#include "hook/api.def"
#undef API_WRAPPED
#undef API_CALLED
};

static const void *const wrappers[NR_API] = {
#define API_WRAPPED(id, symbol, ret, params) [API_##id] = (const void *)wrap_##id,
#define API_CALLED(id, symbol, ret, params)
#include "hook/api.def"
#undef API_WRAPPED
#undef API_CALLED
};

/* Written once each, with the same value whoever writes it. */
static uint64_t real_functions[NR_API];

/* The loader's list cannot be held while dlopen() is called, so names are first gathered, one per walk. */
struct object_search {
	unsigned wanted; /* the how-manieth object that fits */
	bool only_torch;
	char path[4096];
};

static bool is_torch_library(const char *path)
{
	const char *slash = strrchr(path, '/');
	const char *name = slash ? slash + 1 : path;

	return !strncmp(name, "libc10", 6) || !strncmp(name, "libtorch", 8);
}

static int find_object(struct dl_phdr_info *info, size_t size, void *arg)
{
	struct object_search *search = arg;

	if (!info->dlpi_name[0] || strlen(info->dlpi_name) >= sizeof(search->path))
		return 0;
	if (search->only_torch && !is_torch_library(info->dlpi_name))
		return 0;
	if (search->wanted--)
		return 0;
	strcpy(search->path, info->dlpi_name);
	return 1;
}

static void find_in_objects(enum api first, enum api end, bool only_torch)
{
	struct object_search search;

	for (unsigned i = 0;; i++) {
		void *object;
		bool missing = false;

		search.wanted = i;
		search.only_torch = only_torch;
		if (!dl_iterate_phdr(find_object, &search))
			return;
		/* Never closed: what we point to must stay. */
		object = dlopen(search.path, RTLD_LAZY | RTLD_NOLOAD);
		if (!object)
			continue;
		for (enum api api = first; api < end; api++) {
			void *function;

			if (atomic64_load_acquire(&real_functions[api]))
				continue;
			function = dlsym(object, symbols[api]);
			if (function && function != wrappers[api])
				atomic64_store_release(&real_functions[api], (uint64_t)(uintptr_t)function);
			else
				missing = true;
		}
		if (!missing)
			return;
	}
}

static void find_behind_us(void)
{
	for (enum api api = 0; api < NR_API; api++) {
		void *function = atomic64_load_acquire(&real_functions[api]) ? NULL : dlsym(RTLD_NEXT, symbols[api]);

		if (function)
			atomic64_store_release(&real_functions[api], (uint64_t)(uintptr_t)function);
	}
}

void api_resolve(void)
{
	int saved_errno = errno;

	find_behind_us();
	find_in_objects(0, NR_API, true);
	errno = saved_errno;
}

static void *resolve_one(enum api api)
{
	int saved_errno = errno;

	find_behind_us();
	find_in_objects(0, NR_API, true);
	if (!atomic64_load_acquire(&real_functions[api]))
		find_in_objects(api, api + 1, false);
	errno = saved_errno;
	return (void *)(uintptr_t)atomic64_load_acquire(&real_functions[api]);
}

void *api_real(enum api api)
{
	uint64_t function = atomic64_load_acquire(&real_functions[api]);

	if (__builtin_expect(!function, 0))
		return resolve_one(api);
	return (void *)(uintptr_t)function;
}
