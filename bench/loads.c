// SPDX-License-Identifier: Apache-2.0
/*
 * The loads of the benchmark: each does one thing many times and prints nanoseconds per time.
 *
 *   loads getpid                         loads open-one FILE
 *   loads open-many DIR                  loads fork-exec PROGRAM
 *   loads fork-exec-slow PROGRAM         (the 99th percentile)
 *   loads tcp-connect PORT               loads udp-sendto PORT
 *   loads once COMMAND [ARG ...]         loads open-rate DIR PER-SECOND SECONDS
 *   loads serve PORT                     (the other end of tcp-connect and udp-sendto)
 *
 * DIR is made by bench/corpus.py: DIR/00/000.txt to DIR/NN/MMM.txt.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { BATCHES = 101, FOLDERS = 200, FILES_PER_FOLDER = 100, SINGLE = 2000 };

static double now(void)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	return at.tv_sec * 1e9 + at.tv_nsec;
}

static int by_value(const void *left, const void *right)
{
	double a = *(const double *)left, b = *(const double *)right;

	return (a > b) - (a < b);
}

/* Nanoseconds per repetition of `action`: the median of BATCHES batches, so that an interruption
 * of a few batches does not show. The first batch warms caches and is not counted. */
static double median_of(void (*action)(const void *), const void *argument, int repetitions)
{
	static double taken[BATCHES];

	for (int batch = -1; batch < BATCHES; batch++) {
		double start = now();

		for (int i = 0; i < repetitions; i++)
			action(argument);
		if (batch >= 0)
			taken[batch] = (now() - start) / repetitions;
	}
	qsort(taken, BATCHES, sizeof(taken[0]), by_value);
	return taken[BATCHES / 2];
}

/* The 99th percentile of single times. */
static double slow_of(void (*action)(const void *), const void *argument)
{
	static double taken[SINGLE];

	for (int i = -100; i < SINGLE; i++) {
		double start = now();

		action(argument);
		if (i >= 0)
			taken[i] = now() - start;
	}
	qsort(taken, SINGLE, sizeof(taken[0]), by_value);
	return taken[SINGLE * 99 / 100];
}

static void read_whole(const char *path)
{
	char buffer[4096];
	int file = open(path, O_RDONLY | O_CLOEXEC);

	if (file < 0)
		err(1, "open %s", path);
	if (read(file, buffer, sizeof(buffer)) < 0)
		err(1, "read %s", path);
	close(file);
}

static void do_getpid(const void *unused)
{
	(void)unused;
	syscall(SYS_getpid);
}

static void do_open(const void *path)
{
	read_whole(path);
}

static void do_fork_exec(const void *program)
{
	int status;
	pid_t child = vfork();

	if (child == 0) {
		execl(program, program, (char *)NULL);
		_exit(127);
	}
	if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
		errx(1, "%s did not run", (const char *)program);
}

static struct sockaddr_in loopback(const char *port)
{
	return (struct sockaddr_in){
		.sin_family = AF_INET,
		.sin_port = htons((uint16_t)atoi(port)),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
}

static int socket_of(int type)
{
	int made = socket(AF_INET, type | SOCK_CLOEXEC, 0);

	if (made < 0)
		err(1, "socket");
	return made;
}

static void do_connect(const void *port)
{
	/* Reset instead of TIME_WAIT: the ports would run out. */
	struct linger at_once = { .l_onoff = 1, .l_linger = 0 };
	struct sockaddr_in server = loopback(port);
	int made = socket_of(SOCK_STREAM);

	setsockopt(made, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
	if (connect(made, (struct sockaddr *)&server, sizeof(server)) < 0)
		err(1, "connect 127.0.0.1:%s", (const char *)port);
	close(made);
}

struct sender {
	int socket;
	struct sockaddr_in to;
};

static void do_send(const void *argument)
{
	const struct sender *sender = argument;

	if (sendto(sender->socket, "x", 1, 0, (const struct sockaddr *)&sender->to,
		   sizeof(sender->to)) < 0)
		err(1, "sendto");
}

static void file_name(char *path, size_t size, const char *dir, int number)
{
	snprintf(path, size, "%s/%02x/%03d.txt", dir, number / FILES_PER_FOLDER % FOLDERS,
		 number % FILES_PER_FOLDER);
}

/* One pass only: the first open of each file in a session is what is measured. */
static double open_many(const char *dir)
{
	char path[4096];
	double start = now();

	for (int i = 0; i < FOLDERS * FILES_PER_FOLDER; i++) {
		file_name(path, sizeof(path), dir, i);
		read_whole(path);
	}
	return (now() - start) / (FOLDERS * FILES_PER_FOLDER);
}

static double once(char **command)
{
	int status;
	double start = now();
	pid_t child = vfork();

	if (child == 0) {
		int null = open("/dev/null", O_WRONLY);

		dup2(null, STDOUT_FILENO);
		execvp(command[0], command);
		_exit(127);
	}
	if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
		errx(1, "%s failed", command[0]);
	return now() - start;
}

/* Opens `per_second` files a second, evenly over milliseconds; prints how many it opened. */
static double open_rate(const char *dir, int per_second, int seconds)
{
	char path[4096];
	double start = now();
	long done = 0, all = (long)per_second * seconds;

	while (done < all) {
		long due = (long)((now() - start) / 1e9 * per_second);

		for (; done < due && done < all; done++) {
			file_name(path, sizeof(path), dir,
				  (int)(done % (FOLDERS * FILES_PER_FOLDER)));
			read_whole(path);
		}
		usleep(1000);
	}
	return (double)done;
}

/* Accepts and closes; the datagram socket is bound and never read: its queue stays full, so that
 * every sendto costs the same and wakes nobody. */
static void serve(const char *port)
{
	struct sockaddr_in here = loopback(port);
	int stream = socket_of(SOCK_STREAM), datagram = socket_of(SOCK_DGRAM), yes = 1;

	setsockopt(stream, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
	if (bind(stream, (struct sockaddr *)&here, sizeof(here)) < 0 || listen(stream, 4096) < 0 ||
	    bind(datagram, (struct sockaddr *)&here, sizeof(here)) < 0)
		err(1, "127.0.0.1:%s", port);
	puts("ready");
	fflush(stdout);
	for (;;) {
		int peer = accept(stream, NULL, NULL);

		if (peer >= 0)
			close(peer);
	}
}

int main(int argc, char **argv)
{
	const char *load = argc > 1 ? argv[1] : "", *argument = argc > 2 ? argv[2] : NULL;
	double result;

	if (!strcmp(load, "getpid")) {
		result = median_of(do_getpid, NULL, 20000);
	} else if (!argument) {
		errx(2, "usage: loads LOAD ARGUMENT ... (see the head of loads.c)");
	} else if (!strcmp(load, "open-one")) {
		result = median_of(do_open, argument, 500);
	} else if (!strcmp(load, "open-many")) {
		result = open_many(argument);
	} else if (!strcmp(load, "fork-exec")) {
		result = median_of(do_fork_exec, argument, 4);
	} else if (!strcmp(load, "fork-exec-slow")) {
		result = slow_of(do_fork_exec, argument);
	} else if (!strcmp(load, "tcp-connect")) {
		result = median_of(do_connect, argument, 30);
	} else if (!strcmp(load, "udp-sendto")) {
		struct sender sender = { socket_of(SOCK_DGRAM), loopback(argument) };

		result = median_of(do_send, &sender, 500);
	} else if (!strcmp(load, "once")) {
		result = once(argv + 2);
	} else if (!strcmp(load, "open-rate") && argc > 4) {
		result = open_rate(argument, atoi(argv[3]), atoi(argv[4]));
	} else if (!strcmp(load, "serve")) {
		serve(argument);
		return 0;
	} else {
		errx(2, "no load '%s'", load);
	}
	printf("%.1f\n", result);
	return 0;
}
