/*
 * nnmem-report: open a run file, answer one question about it, print the answer.
 *
 * Only this file prints errors: one line on stderr.  Exit status: 0 done (also when the reader of our output went away),
 * 1 a check failed (no view checks anything yet), 2 wrong usage or a file that cannot be read.
 */
#include "report/instant.h"
#include "report/view.h"

#include <argp.h>
#include <errno.h>
#include <inttypes.h>
#include <langinfo.h>
#include <locale.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define EXIT_USAGE 2

/* Where nobody says how wide the terminal is. */
#define WIDTH_DEFAULT 100u

const char *argp_program_version = "nnmem-report " NNMEM_VERSION;

static void complain(const char *message)
{
	char clean[SAFE_TEXT_MAX];

	fprintf(stderr, "nnmem-report: %s\n", text_clean(message, !strcmp(nl_langinfo(CODESET), "UTF-8"), clean, sizeof(clean)));
}

static void look_at_terminal(struct report *report)
{
	const struct arguments *arguments = report->arguments;
	const char *no_colour = getenv("NO_COLOR");
	const char *term = getenv("TERM");
	bool terminal = isatty(fileno(report->final));
	struct winsize size = {0};

	report->utf8 = !strcmp(nl_langinfo(CODESET), "UTF-8");
	/* NO_COLOR counts when it is not empty: no-color.org. */
	report->colour = arguments->colour == COLOUR_ALWAYS || (arguments->colour == COLOUR_AUTO && terminal &&
	                                                        !(no_colour && *no_colour) && !(term && !strcmp(term, "dumb")));
	if (arguments->width)
		report->width = report->table_width = arguments->width;
	else if (terminal && !ioctl(fileno(report->final), TIOCGWINSZ, &size) && size.ws_col >= 40)
		report->width = report->table_width = size.ws_col;
	else
		report->width = WIDTH_DEFAULT;
	if (report->width > 1000)
		report->width = 1000;
}

static int each_device_name(const struct store_device *device, void *arg)
{
	char *names = arg;
	size_t used = strlen(names);

	snprintf(names + used, 256 - used, "%s%s", used ? ", " : "", device->name ? device->name : "?");
	return 0;
}

/* Which device to look at.  Returns 0, or -ENOENT with a sentence in @message. */
static int choose_device(struct report *report, char *message, size_t message_size)
{
	const struct arguments *arguments = report->arguments;
	const struct store_run *run = &report->run;
	const char *name = arguments->device ? arguments->device : run->peak_device;
	char names[256] = "";

	report->has_device = name != NULL;
	if (!name)
		return 0;
	text_clean(name, report->utf8, report->device_name, sizeof(report->device_name));
	report->device = run->peak_device_id;
	if (arguments->device && store_find_device(report->store, arguments->device, &report->device)) {
		store_each_device(report->store, each_device_name, names);
		snprintf(message, message_size, "%s: the run did not use a device '%s'; it used %s", arguments->path,
		         arguments->device, *names ? names : "none");
		return -ENOENT;
	}
	report->device_is_main = run->peak_device && report->device == run->peak_device_id;
	return 0;
}

/* Writing failed because nobody reads any more (`| head`), which is no error of ours. */
static bool reader_is_gone(FILE *out)
{
	struct pollfd poll_out = {.fd = fileno(out), .events = POLLOUT};

	return poll(&poll_out, 1, 0) == 1 && (poll_out.revents & POLLERR);
}

/* Returns the exit status. */
static int show(struct report *report)
{
	const struct arguments *arguments = report->arguments;
	char message[1024] = "";
	int error = store_read_run(report->store, &report->run);

	if (!error)
		error = store_check_filter(report->store, &arguments->filter);

	if (!error) {
		if (choose_device(report, message, sizeof(message))) {
			complain(message);
			return EXIT_USAGE;
		}
		struct instant instant;
		int ended;

		if (arguments->at_option && record_is_cuda(report->device) && instant_find(report, &instant) == -ENOENT) {
			snprintf(message, sizeof(message), "%s: %s", arguments->path, instant.words);
			complain(message);
			return EXIT_USAGE;
		}
		error = report_begin(report);
		if (!error)
			error = arguments->view->show(report);
		ended = report_end(report);
		error = error ? error : ended;
	}
	if (!error && (fflush(report->final) || ferror(report->final)))
		error = errno ? -errno : -EIO;
	if (error && ferror(report->final) && (error == -EPIPE || reader_is_gone(report->final)))
		return EXIT_SUCCESS;
	if (error && ferror(report->final)) {
		snprintf(message, sizeof(message), "cannot write the report: %s", strerror(-error));
		complain(message);
		return EXIT_USAGE;
	}
	if (error) {
		if (*store_message(report->store)) /* It names the file. */
			snprintf(message, sizeof(message), "%s", store_message(report->store));
		else
			snprintf(message, sizeof(message), "%s: %s", arguments->path, strerror(-error));
		complain(message);
		return EXIT_USAGE;
	}
	return EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
	static struct report report; /* too large for a stack */
	static struct arguments arguments;
	struct store_error error = {""};
	int status;

	setlocale(LC_CTYPE, "");
	signal(SIGPIPE, SIG_IGN); /* the write says so, and the store is closed in order */
	if (arguments_parse(argc, argv, 0, &arguments)) {
		complain(arguments.message);
		return EXIT_USAGE;
	}
	report = (struct report){.arguments = &arguments, .out = stdout, .final = stdout};
	look_at_terminal(&report);
	if (store_open(arguments.path, &report.store, &error)) {
		complain(error.message);
		return EXIT_USAGE;
	}
	status = show(&report);
	store_close(report.store);
	return status;
}
