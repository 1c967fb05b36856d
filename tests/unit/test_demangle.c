/* Names of node classes: store/demangle.c; what is wanted was said by c++filt (binutils 2.40). */
#include "store/demangle.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char *node(const char *name)
{
	static char text[256];

	demangle_node(name, text, sizeof(text));
	return text;
}

static void test_node_when_a_class_of_torch_then_as_torch_says_it(void **state)
{
	assert_string_equal(node("N5torch8autograd14AccumulateGradE"), "torch::autograd::AccumulateGrad");
	assert_string_equal(node("N5torch8autograd9generated20ConvolutionBackward0E"), "ConvolutionBackward0");
	assert_string_equal(node("N5torch8autograd9generated5inner3FooE"), "torch::autograd::generated::inner::Foo");
	assert_string_equal(node("6MyNode"), "MyNode");
}

static void test_node_when_a_template_then_with_its_arguments(void **state)
{
	assert_string_equal(node("N5torch8autograd7CppNodeIN12_GLOBAL__N_15MyFunEEE"),
	                    "torch::autograd::CppNode<(anonymous namespace)::MyFun>");
	assert_string_equal(node("N5torch8autograd7CppNodeI5MyFunEE"), "torch::autograd::CppNode<MyFun>");
	assert_string_equal(node("1AILi3ELin4E1BLb1EE"), "A<3, -4, B, 1>");
}

static void test_node_when_not_understood_then_as_it_is(void **state)
{
	static const char *const names[] = {
	        "",
	        "N",
	        "NE1",
	        "N5torchE4",
	        "5torc",
	        "N5torch8autograd",
	        "N5torchS0_E",
	        "FBackward",
	        "1AILf3EE",
	        "1AILi3",
	        "1AI1B",
	        "1A1B",
	        "999999999999999999999A",
	        "N1A",
	        "0",
	        "NSt6vectorIiEE",
	        "1AIL",
	        "1AILi",
	};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		assert_string_equal(node(names[i]), names[i]);
}

static void test_node_when_deep_or_long_then_bounded(void **state)
{
	char deep[4096] = "", *at = deep, small[8];

	for (int i = 0; i < 1000; i++)
		at = stpcpy(at, "1AI");
	assert_memory_equal(node(deep), deep, 255);
	memset(small, 'x', sizeof(small));
	demangle_class("N5torch8autograd14AccumulateGradE", small, sizeof(small));
	assert_string_equal(small, "torch::");
	demangle_class("N5torch8autograd14AccumulateGradE", small, 1);
	assert_string_equal(small, "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_node_when_a_class_of_torch_then_as_torch_says_it),
	        cmocka_unit_test(test_node_when_a_template_then_with_its_arguments),
	        cmocka_unit_test(test_node_when_not_understood_then_as_it_is),
	        cmocka_unit_test(test_node_when_deep_or_long_then_bounded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
