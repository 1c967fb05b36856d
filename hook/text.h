/*
 * Making one line of text without stdio: for notes, the closing line and paths.
 *
 * Understands %d %u %s %zu %lu and %%.   Thread: any.  Signal: safe.
 */
#ifndef NNMEM_HOOK_TEXT_H
#define NNMEM_HOOK_TEXT_H

#include <stdarg.h>
#include <stddef.h>

/* Write at most @size - 1 bytes and a NUL.  Returns the bytes written without the NUL: what does not fit is cut. */
size_t text_format(char *buffer, size_t size, const char *format, ...) __attribute__((format(printf, 3, 4)));
size_t text_vformat(char *buffer, size_t size, const char *format, va_list arguments) __attribute__((format(printf, 3, 0)));

#endif
