/*
 * Names for places in compiled code: report/symbols.c against addr2line, for every address of a library that was built for it,
 * with its debug information in it, apart from it, and gone.
 */
#define _GNU_SOURCE
#include "report/symbol_name.h"
#include "report/symbols.h"

#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char folder[] = "/tmp/nnmem-test-symbols-XXXXXX";
static char build_id[128];
static char library[256], stripped[256], gone[256];
static struct symbols *symbols;

/* Run a command of binutils. */
static void run(const char *format, ...)
{
	char command[1024];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(command, sizeof(command), format, arguments);
	va_end(arguments);
	if (system(command) != 0)
		fail_msg("%s", command);
}

static int set_up_group(void **state)
{
	FILE *notes;
	char line[512];

	if (!mkdtemp(folder))
		return -1;
	snprintf(library, sizeof(library), "%s/lib.so", folder);
	snprintf(stripped, sizeof(stripped), "%s/stripped.so", folder);
	snprintf(gone, sizeof(gone), "%s/gone.so", folder);
	run("cp %s %s", SYMBOLS_LIB, library);
	run("strip -o %s %s", stripped, library);
	snprintf(line, sizeof(line), "readelf -n %s", library);
	notes = popen(line, "r");
	while (notes && fgets(line, sizeof(line), notes))
		sscanf(line, " Build ID: %120s", build_id);
	pclose(notes);
	run("mkdir -p %s/debug/.build-id/%.2s %s/empty", folder, build_id, folder);
	run("objcopy --only-keep-debug %s %s/debug/.build-id/%.2s/%s.debug", library, folder, build_id, build_id + 2);
	return strlen(build_id) == 40 ? 0 : -1;
}

static int tear_down_group(void **state)
{
	run("rm -rf %s", folder);
	return 0;
}

static void ask(const char *debug)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/%s", folder, debug);
	assert_int_equal(symbols_new(path, &symbols), 0);
}

static int tear_down(void **state)
{
	symbols_free(symbols);
	symbols = NULL;
	return 0;
}

/* ---- the witness */

struct range {
	uint64_t start, size;
};

static struct range range_of(const char *function)
{
	void *loaded = dlopen(library, RTLD_NOW | RTLD_LOCAL), *symbol = NULL;
	ElfW(Sym) *entry = NULL;
	struct range range;
	Dl_info info;

	assert_non_null(loaded);
	assert_true(dladdr1(dlsym(loaded, function), &info, (void **)&symbol, RTLD_DL_SYMENT));
	entry = symbol;
	range = (struct range){.start = entry->st_value, .size = entry->st_size};
	dlclose(loaded);
	assert_true(range.size > 8);
	return range;
}

/* What addr2line says of @address: the function that it lies in, what was inlined there left out, and the line in that. */
static void witness(uint64_t address, char function[256], char file[256], unsigned *ret_line)
{
	char command[512], line[1024];
	FILE *out;

	snprintf(command, sizeof(command), "addr2line -i -f -e %s 0x%lx", library, (unsigned long)address);
	out = popen(command, "r");
	assert_non_null(out);
	while (fgets(line, sizeof(line), out)) {
		snprintf(function, 256, "%.*s", (int)strcspn(line, "\n"), line);
		assert_non_null(fgets(line, sizeof(line), out));
		assert_int_equal(sscanf(line, "%255[^:]:%u", file, ret_line), 2);
	}
	assert_int_equal(pclose(out), 0);
}

static void assert_as_witness(const char *path, const char *name, const char *said)
{
	struct range range = range_of(name);
	unsigned last = 0, nr_lines = 0;

	for (uint64_t address = range.start; address < range.start + range.size; address++) {
		const struct symbol *symbol = symbols_find(symbols, path, build_id, address);
		char function[256], file[256];
		unsigned line = 0;

		witness(address, function, file, &line);
		assert_string_equal(function, name);
		assert_non_null(symbol->function);
		assert_string_equal(symbol->function, said);
		assert_non_null(symbol->file);
		assert_string_equal(symbol->file, file);
		assert_int_equal(symbol->line, line);
		nr_lines += line != last;
		last = line;
		assert_ptr_equal(symbols_find(symbols, path, build_id, address), symbol);
	}
	assert_true(nr_lines >= 3);
}

#define BETA      "_ZN5alpha12_GLOBAL__N_14betaIiEEiT_c"
#define BETA_SAID "alpha::(anonymous namespace)::beta"

static void assert_all_as_witness(const char *path)
{
	assert_as_witness(path, "symbols_lib_plain", "symbols_lib_plain");
	assert_as_witness(path, "symbols_lib_inlines", "symbols_lib_inlines");
	assert_as_witness(path, BETA, BETA_SAID);
}

/* ---- tests */

static void test_find_when_debug_information_is_there_then_it_is_what_addr2line_says(void **state)
{
	ask("empty");
	assert_all_as_witness(library);
}

static void test_find_when_debug_information_is_apart_then_it_is_found_by_build_id(void **state)
{
	ask("debug");
	assert_all_as_witness(stripped);
}

static void test_find_when_the_object_is_gone_then_its_debug_information_will_do(void **state)
{
	ask("debug");
	assert_all_as_witness(gone);
}

static void test_find_when_stripped_then_functions_that_are_exported_have_names(void **state)
{
	struct range range = range_of(BETA);
	const struct symbol *symbol;

	ask("empty");
	for (uint64_t address = range.start; address < range.start + range.size; address++) {
		symbol = symbols_find(symbols, stripped, build_id, address);
		assert_string_equal(symbol->function, BETA_SAID);
		assert_null(symbol->file);
		assert_int_equal(symbol->line, 0);
	}
	symbol = symbols_find(symbols, stripped, build_id, UINT64_MAX);
	assert_null(symbol->function);
}

static void test_find_when_the_object_is_not_the_recorded_one_then_nothing_is_said_of_it(void **state)
{
	const char *const paths[] = {library,  stripped, gone,       "/dev/zero",   "/proc/self/mem", folder,
	                             "lib.so", "",       "/dev/tty", "/etc/passwd", "/work\n"};
	struct range range = range_of("symbols_lib_plain");
	char fifo[256];

	ask("empty");
	for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
		assert_null(symbols_find(symbols, paths[i], "0123456789abcdef", range.start)->function);
		assert_null(symbols_find(symbols, paths[i], "../../../..", range.start)->function);
		assert_null(symbols_find(symbols, paths[i], NULL, range.start)->function);
	}
	snprintf(fifo, sizeof(fifo), "%s/fifo", folder);
	assert_int_equal(mkfifo(fifo, 0600), 0);
	assert_null(symbols_find(symbols, fifo, build_id, range.start)->function);
}

static void test_find_when_the_object_has_no_build_id_then_it_is_taken_as_it_is(void **state)
{
	struct range range = range_of("symbols_lib_plain");
	char path[256];

	snprintf(path, sizeof(path), "%s/without.so", folder);
	run("objcopy --remove-section .note.gnu.build-id %s %s", library, path);
	ask("empty");
	assert_string_equal(symbols_find(symbols, path, "", range.start)->function, "symbols_lib_plain");
	assert_null(symbols_find(symbols, path, build_id, range.start)->function);
	assert_null(symbols_find(symbols, library, "", range.start)->function);
}

static void test_find_when_there_are_many_then_all_are_kept(void **state)
{
	struct range range = range_of("symbols_lib_plain");
	const struct symbol *first;

	ask("empty");
	first = symbols_find(symbols, library, build_id, range.start);
	for (uint64_t address = 0; address < 20000; address++)
		symbols_find(symbols, stripped, build_id, address);
	assert_ptr_equal(symbols_find(symbols, library, build_id, range.start), first);
	assert_string_equal(first->function, "symbols_lib_plain");
}

static void test_shorten_when_given_what_cxx_says_then_the_name_is_left(void **state)
{
	static const char *const names[][2] = {
	        {"main", "main"},
	        {"at::native::conv2d_symint(at::Tensor const&, std::optional<at::Tensor> const&)", "at::native::conv2d_symint"},
	        {"void ideep::convolution_forward::compute<true, (ideep::mode)1>(ideep::tensor const&)",
	         "ideep::convolution_forward::compute"},
	        {"at::Tensor c10::Dispatcher::call<at::Tensor, at::Tensor const&>(c10::TypedOperatorHandle<at::Tensor "
	         "(at::Tensor "
	         "const&)> const&, at::Tensor const&) const",
	         "c10::Dispatcher::call"},
	        {"at::(anonymous namespace)::structured_mm_out::set_output(long, c10::ArrayRef<long>)",
	         "at::(anonymous namespace)::structured_mm_out::set_output"},
	        {"at::convolution_symint(at::Tensor const&, bool) [clone .isra.0]", "at::convolution_symint"},
	        {"std::_Function_handler<void* (unsigned long), cpu_alloc::{lambda(unsigned long)#1}>::_M_invoke(std::_Any_data "
	         "const&)",
	         "std::_Function_handler::_M_invoke"},
	        {"f(int)::{lambda(char, std::vector<int>)#2}::operator()(char, std::vector<int>) const",
	         "f::{lambda#2}::operator()"},
	        {"A::g() const::{lambda()#1}::operator()() const", "A::g::{lambda#1}::operator()"},
	        {"torch::autograd::Node::operator()(std::vector<at::Tensor>&&)", "torch::autograd::Node::operator()"},
	        {"std::ostream& operator<< <char>(std::ostream&, char)", "operator<<"},
	        {"bool a::operator<(a::B const&, a::B const&)", "a::operator<"},
	        {"a::B::operator->() const", "a::B::operator->"},
	        {"a::B::operator bool() const", "a::B::operator bool"},
	        {"operator new(unsigned long)", "operator new"},
	        {"a::co_operator(int)", "a::co_operator"},
	        {"a::B<(char)62>::c(int)", "a::B::c"},
	        {"vtable for a::B", "a::B"},
	        {"broken<((", "broken"},
	        {"", ""},
	};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		char *name = strdup(names[i][0]);

		symbol_name_shorten(name);
		assert_string_equal(name, names[i][1]);
		free(name);
	}
}

static void test_name_when_mangled_then_in_words(void **state)
{
	static const char *const names[][2] = {
	        {BETA, BETA_SAID},
	        {"symbols_lib_plain", "symbols_lib_plain"},
	        {"_Znot_mangled", "_Znot_mangled"},
	        {"_ZN2at6native13conv2d_symintERKNS_6TensorES3_", "at::native::conv2d_symint"},
	};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		char *name = symbol_name(names[i][0]);

		assert_string_equal(name, names[i][1]);
		free(name);
	}
}

static void test_is_glue_when_a_call_is_only_passed_on_then_true(void **state)
{
	assert_true(symbol_name_is_glue("at::_ops::conv2d::call"));
	assert_true(symbol_name_is_glue("c10::impl::wrap_kernel_functor_unboxed_::call"));
	assert_false(symbol_name_is_glue("at::native::conv2d_symint"));
	assert_false(symbol_name_is_glue("at::detail::empty_cpu"));
	assert_false(symbol_name_is_glue("main"));
}

#define TEST(name) cmocka_unit_test_teardown(name, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        TEST(test_find_when_debug_information_is_there_then_it_is_what_addr2line_says),
	        TEST(test_find_when_debug_information_is_apart_then_it_is_found_by_build_id),
	        TEST(test_find_when_the_object_is_gone_then_its_debug_information_will_do),
	        TEST(test_find_when_stripped_then_functions_that_are_exported_have_names),
	        TEST(test_find_when_the_object_is_not_the_recorded_one_then_nothing_is_said_of_it),
	        TEST(test_find_when_the_object_has_no_build_id_then_it_is_taken_as_it_is),
	        TEST(test_find_when_there_are_many_then_all_are_kept),
	        TEST(test_shorten_when_given_what_cxx_says_then_the_name_is_left),
	        TEST(test_name_when_mangled_then_in_words),
	        TEST(test_is_glue_when_a_call_is_only_passed_on_then_true),
	};

	return cmocka_run_group_tests(tests, set_up_group, tear_down_group);
}
