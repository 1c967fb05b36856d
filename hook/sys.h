/*
 * System calls without libc: they touch neither errno nor any other thread-local word.
 *
 * For the processes of launch.c that share the program's memory, and with it the thread-local storage of the thread that
 * made them.  Each returns what the kernel returns: a result, or a negative errno.
 */
#ifndef NNMEM_HOOK_SYS_H
#define NNMEM_HOOK_SYS_H

#include <sys/syscall.h>

/* Numbers that older headers lack; they are the same on all machines (Linux 5.1 and later). */
#ifndef __NR_pidfd_open
#define __NR_pidfd_open 434
#endif
#ifndef __NR_close_range
#define __NR_close_range 436
#endif

static inline long sys_call(long number, long a, long b, long c, long d, long e)
{
#if defined(__x86_64__)
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	long result;

	__asm__ volatile("syscall"
	                 : "=a"(result)
	                 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
	                 : "rcx", "r11", "memory");
	return result;
#elif defined(__aarch64__)
	register long x8 __asm__("x8") = number;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;

	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
	return x0;
#else
#error "how to make a system call is not known for this machine"
#endif
}

#endif
