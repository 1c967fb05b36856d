/* Blocks added up: see groups.h. */
#include "report/groups.h"

#include <errno.h>
#include <inttypes.h>
#include <search.h>
#include <stdlib.h>
#include <string.h>

/* One component of a layer's path.  Returns its bytes; *@ret_number is its value where it is one. */
static size_t next_component(const char *path, bool *ret_is_number, uint32_t *ret_number)
{
	size_t length = strcspn(path, ".");

	*ret_is_number = length > 0 && length < 10 && strspn(path, "0123456789") == length && (*path != '0' || length == 1);
	*ret_number = *ret_is_number ? (uint32_t)strtoul(path, NULL, 10) : 0;
	return length;
}

/* Whether a path has a component that is a name: in `0` and `3` of a plain Sequential the number is all that there is. */
static bool has_name(const char *path)
{
	while (*path) {
		bool is_number;
		uint32_t number;
		size_t length = next_component(path, &is_number, &number);

		if (!is_number)
			return true;
		path += length + (path[length] == '.');
	}
	return false;
}

/* Print @path with `#` for its numbers, which go to @ret_numbers.  Returns how many there are. */
static unsigned print_pattern(FILE *out, const char *path, uint32_t ret_numbers[GROUP_NUMBERS])
{
	unsigned nr = 0;
	bool named = path && has_name(path);

	while (path && *path) {
		bool is_number;
		uint32_t number;
		size_t length = next_component(path, &is_number, &number);

		if (is_number && named && nr < GROUP_NUMBERS) {
			ret_numbers[nr++] = number;
			putc('#', out);
		} else {
			fwrite(path, 1, length, out);
		}
		path += length;
		if (*path == '.')
			putc(*path++, out);
	}
	return nr;
}

static const char *or_empty(const char *text)
{
	return text ? text : "";
}

/* The part of a tensor's name that its layer's path does not say. */
static const char *tensor_name(const struct store_allocation *allocation)
{
	const char *name = or_empty(allocation->parameter);
	size_t length = allocation->layer ? strlen(allocation->layer) : 0;

	return length && !strncmp(name, allocation->layer, length) && name[length] == '.' ? name + length + 1 : name;
}

static bool is_of_all_layers(const struct store_allocation *allocation, enum group_by by)
{
	return by == GROUP_LIVES && allocation->category == CATEGORY_OPTIMIZER_STATE;
}

/* What makes blocks equal, as one string; '\x01' is in no text of a file. */
static char *make_key(const struct store_allocation *allocation, enum group_by by, unsigned *ret_nr,
                      uint32_t ret_numbers[GROUP_NUMBERS])
{
	char *key = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&key, &size);

	if (!out)
		return NULL;
	fprintf(out, "%u\x01%u\x01%d\x01%d\x01%d\x01%s\x01%s\x01%s\x01%s\x01", allocation->category, allocation->phase,
	        allocation->provisional, allocation->recompute, allocation->layer != NULL, or_empty(allocation->root),
	        or_empty(allocation->line), or_empty(allocation->operation), or_empty(allocation->state_key));
	if (by == GROUP_EQUAL)
		fprintf(out, "%" PRIu64 "\x01%s\x01%s\x01", allocation->size_bytes, or_empty(allocation->shape),
		        or_empty(allocation->dtype));
	else if (allocation->free_seq)
		fprintf(out, "%u\x01%" PRIu64 "\x01", allocation->free_phase, allocation->free_step - allocation->step);
	*ret_nr = 0;
	if (!is_of_all_layers(allocation, by)) {
		fprintf(out, "%s\x01", tensor_name(allocation));
		*ret_nr = print_pattern(out, allocation->layer, ret_numbers);
	}
	if (fclose(out)) {
		free(key);
		return NULL;
	}
	return key;
}

static int compare_keys(const void *a, const void *b)
{
	return strcmp(((const struct group *)a)->key, ((const struct group *)b)->key);
}

static void release_texts(struct store_allocation *first)
{
	const char *texts[] = {first->root,  first->layer, first->parameter, first->state_key,
	                       first->shape, first->dtype, first->line,      first->operation};

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		free((char *)(uintptr_t)texts[i]);
}

static void group_free(struct group *group)
{
	if (!group)
		return;
	release_texts(&group->first);
	free(group->key);
	free(group);
}

/* Make the texts of @first its own.  On failure those that were not copied are NULL. */
static int own_texts(struct store_allocation *first)
{
	const char **texts[] = {&first->root,  &first->layer, &first->parameter, &first->state_key,
	                        &first->shape, &first->dtype, &first->line,      &first->operation};
	int error = 0;

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		if (!*texts[i])
			continue;
		*texts[i] = error ? NULL : strdup(*texts[i]);
		if (!*texts[i])
			error = -ENOMEM;
	}
	return error;
}

static int keep_group(struct groups *groups, struct group *group)
{
	if (groups->nr == groups->room) {
		size_t room = groups->room ? groups->room * 2 : 64;
		struct group **all = realloc(groups->all, room * sizeof(struct group *));

		if (!all)
			return -ENOMEM;
		groups->all = all;
		groups->room = room;
	}
	groups->all[groups->nr++] = group;
	return 0;
}

/* The group of @key, made of @allocation if there was none.  Takes @key over.  NULL: no memory, or too many groups. */
static struct group *find_group(struct groups *groups, const struct store_allocation *allocation, char *key)
{
	struct group wanted = {.key = key};
	struct group *const *found = tfind(&wanted, &groups->tree, compare_keys);
	struct group *group;

	if (found) {
		free(key);
		return *found;
	}
	group = groups->nr < GROUPS_MAX ? calloc(1, sizeof(*group)) : NULL;
	if (!group) {
		free(key);
		return NULL;
	}
	group->key = key;
	group->first = *allocation;
	if (own_texts(&group->first) || keep_group(groups, group)) {
		group_free(group);
		return NULL;
	}
	/* From here on it is freed with the others. */
	return tsearch(group, &groups->tree, compare_keys) ? group : NULL;
}

int groups_add(struct groups *groups, const struct store_allocation *allocation, enum group_by by, struct group **ret_group)
{
	uint32_t numbers[GROUP_NUMBERS] = {0};
	unsigned nr_numbers = 0;
	char *key = make_key(allocation, by, &nr_numbers, numbers);
	struct group *group = key ? find_group(groups, allocation, key) : NULL;

	*ret_group = group;
	groups->nr_blocks++;
	groups->bytes += allocation->size_bytes;
	if (!group)
		return key && groups->nr == GROUPS_MAX ? 0 : -ENOMEM;
	if (!group->nr_blocks) {
		group->of_all_layers = is_of_all_layers(allocation, by);
		group->nr_numbers = nr_numbers;
		memcpy(group->least, numbers, sizeof(numbers));
		memcpy(group->most, numbers, sizeof(numbers));
		group->first_step = group->last_step = allocation->step;
	}
	for (unsigned i = 0; i < nr_numbers; i++) {
		group->least[i] = numbers[i] < group->least[i] ? numbers[i] : group->least[i];
		group->most[i] = numbers[i] > group->most[i] ? numbers[i] : group->most[i];
	}
	group->first_step = allocation->step < group->first_step ? allocation->step : group->first_step;
	group->last_step = allocation->step > group->last_step ? allocation->step : group->last_step;
	group->nr_blocks++;
	group->bytes += allocation->size_bytes;
	return 0;
}

static int compare_groups(const void *a, const void *b)
{
	const struct group *x = *(const struct group *const *)a, *y = *(const struct group *const *)b;

	if (x->bytes != y->bytes)
		return x->bytes > y->bytes ? -1 : 1;
	return x->first.id < y->first.id ? -1 : x->first.id > y->first.id;
}

static int compare_idle(const void *a, const void *b)
{
	const struct group *x = *(const struct group *const *)a, *y = *(const struct group *const *)b;

	if (x->idle_byte_ns != y->idle_byte_ns)
		return x->idle_byte_ns > y->idle_byte_ns ? -1 : 1;
	return compare_groups(a, b);
}

void groups_sort(struct groups *groups, enum group_by by)
{
	if (groups->nr)
		qsort(groups->all, groups->nr, sizeof(struct group *), by == GROUP_LIVES ? compare_idle : compare_groups);
}

static void ignore_group(void *group)
{
}

void groups_release(struct groups *groups)
{
	tdestroy(groups->tree, ignore_group);
	for (size_t i = 0; i < groups->nr; i++)
		group_free(groups->all[i]);
	free(groups->all);
	*groups = (struct groups){0};
}

/* ---- words */

const char *group_layer(struct report *report, const struct group *group)
{
	const char *path = group->first.layer;
	char joined[SAFE_TEXT_MAX];
	FILE *out;
	unsigned nr = 0;
	bool named = path && has_name(path);

	if (group->of_all_layers)
		return "(all)";
	if (!path || !group->nr_numbers)
		return report_layer(report, group->first.root, path);
	out = fmemopen(joined, sizeof(joined), "w");
	if (!out)
		return report_layer(report, group->first.root, path);
	while (*path) {
		bool is_number;
		uint32_t number;
		size_t length = next_component(path, &is_number, &number);

		if (!is_number || !named || nr >= group->nr_numbers)
			fwrite(path, 1, length, out);
		else if (group->least[nr] == group->most[nr])
			fprintf(out, "%" PRIu32, number);
		else
			fprintf(out, "[%" PRIu32 "-%" PRIu32 "]", group->least[nr], group->most[nr]);
		nr += is_number && named;
		path += length;
		if (*path == '.')
			putc(*path++, out);
	}
	fclose(out);
	joined[sizeof(joined) - 1] = '\0';
	return report_layer(report, group->first.root, joined);
}

const char *group_tensor(struct report *report, const struct store_allocation *allocation)
{
	char joined[SAFE_TEXT_MAX];

	if (!allocation->parameter)
		return "";
	snprintf(joined, sizeof(joined), "%s%s%s", tensor_name(allocation), allocation->state_key ? " " : "",
	         or_empty(allocation->state_key));
	return report_safe(report, joined);
}

const char *short_line(struct report *report, const char *line, bool function)
{
	const char *end = NULL, *slash;
	char words[SAFE_TEXT_MAX];

	if (!line)
		return "";
	/* Files' names may hold " (" too, functions' never do. */
	for (const char *next = strstr(line, " ("); next; next = strstr(next + 1, " ("))
		end = next;
	if (!end)
		end = line + strlen(line);
	slash = memrchr(line, '/', (size_t)(end - line));
	if (slash)
		line = slash + 1;
	snprintf(words, sizeof(words), "%.*s", (int)(function ? strlen(line) : (size_t)(end - line)), line);
	return report_safe(report, words);
}
