/*
 * The traced program as it is seen from outside: alive, dead and how it died, its resident set, its command line.
 *
 * Used by nnmem-record on the program that started it, and by recovery on one that may be long gone; so a program is
 * named by its pid and its start time together.  Nothing here stops, signals or changes it.
 * Thread: one at a time for a struct program.
 */
#ifndef NNMEM_STORE_PROGRAM_H
#define NNMEM_STORE_PROGRAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct program {
	pid_t pid;
	uint64_t start_ticks; /* field 22 of /proc/<pid>/stat */
	int pidfd;            /* -1: the kernel has none (before 5.3), or the program was gone already */
};

/* Look at a program.  Owner: caller, program_close().  One that is gone is no error: program_wait() says so. */
void program_open(struct program *program, uint32_t pid, uint64_t start_ticks);
void program_close(struct program *program);

/* Wait at most @timeout_ms for its end.  True: it has ended (all threads, reaped or not). */
bool program_wait(struct program *program, int timeout_ms);

/*
 * How an ended program ended: "exit N" or "signal N", or "killed" when it cannot be told.  It can be as long as the program
 * is a zombie, and after that from Linux 6.15 on.
 */
void program_describe_end(struct program *program, char *ret, size_t size);

/* Resident set and its high-water mark, bytes.  False: not to be had (it is a zombie, or gone). */
bool program_read_rss(const struct program *program, uint64_t *ret_rss_bytes, uint64_t *ret_peak_rss_bytes);

/*
 * The file that lies in its memory at @address, and where that piece of it lies: from *@ret_start to before *@ret_end.
 * False: no file does, or it is not to be had.
 */
bool program_find_object(const struct program *program, uint64_t address, uint64_t *ret_start, uint64_t *ret_end, char *ret,
                         size_t size);

/* Its command line, joined by blanks, control characters replaced; "" when not to be had. */
void program_read_command(const struct program *program, char *ret, size_t size);

#endif
