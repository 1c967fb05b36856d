/* A library that test_native.c calls through: built twice, of the same size, with its function in different places. */
int native_lib_call(int (*function)(void *), void *arg);
int native_lib_before(int x);

int native_lib_before(int x)
{
#ifdef NATIVE_LIB_SECOND
	__asm__ volatile(".skip 64, 0x90");
#endif
	return x + 1;
}

int native_lib_call(int (*function)(void *), void *arg)
{
	return function(arg) + 1;
}
