/*
 * Starting nnmem-record from inside a program that must not notice.
 *
 * What the program could notice, and why it does not:
 * - wait() and SIGCHLD: nothing that we make is a child with an exit signal while it is the program's child.  The recorder
 *   itself gets one by execve(), so it must be somebody else's by then: its maker ends at once and it goes to init.  Where
 *   orphans come back to the program (it is PID 1 of a container, or a child subreaper), the maker stays instead, as a
 *   process without exit signal that sleeps until the recorder or the program ends.
 * - Memory: the makers share the program's memory (a copy would double it by copy on write) and work on stacks of their own.
 * - Signals: all are blocked from before the first clone() until the makers are done; what they make starts with none
 *   blocked and no handler.
 * - Files: the makers have their own table of descriptors; the recorder keeps none but /dev/null on 0 to 2.
 */
#ifndef NNMEM_HOOK_LAUNCH_H
#define NNMEM_HOOK_LAUNCH_H

/*
 * Start @program with @argv.  Environment: ours, without LD_PRELOAD and LD_AUDIT altogether.  What else the user preloads is
 * meant for the program: in the recorder another profiler or allocator would only be one more thing that can fail.
 * Returns 0 once the recorder runs, or a negative errno.  At most one at a time.  Thread: any.  Keeps errno.
 */
int launch_recorder(const char *program, char *const argv[]);

#endif
