// SPDX-License-Identifier: Apache-2.0
/*
 * A session to revoke: many processes, some open connections, and one that connects all the time.
 *
 *   crew PORT CLOSED-PORT PROCESSES CONNECTIONS FILE SLOT
 *
 * Nobody listens on CLOSED-PORT: a connect that is allowed is refused there, one that is not is
 * EPERM. When the last one was allowed (CLOCK_MONOTONIC ns) stands in FILE, at place SLOT.
 */
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { PAUSE = 10000000, SLOTS = 512 };	/* ns between connects: all crews leave most of the CPU */

static struct sockaddr_in loopback(const char *port)
{
	return (struct sockaddr_in){
		.sin_family = AF_INET,
		.sin_port = htons((uint16_t)atoi(port)),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
}

static int attempt(const struct sockaddr_in *to)
{
	int made = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), failed = 0;

	if (made < 0 || connect(made, (const struct sockaddr *)to, sizeof(*to)))
		failed = errno;
	if (made >= 0)
		close(made);
	return failed;
}

static void probe(const char *port, const char *file, int slot)
{
	struct sockaddr_in to = loopback(port);
	struct timespec pause = { .tv_nsec = PAUSE }, at;
	int opened = open(file, O_RDWR | O_CLOEXEC);
	volatile int64_t *last =
		mmap(NULL, SLOTS * sizeof(*last), PROT_READ | PROT_WRITE, MAP_SHARED, opened, 0);

	if (last == MAP_FAILED || slot >= SLOTS)
		err(1, "%s", file);
	for (;;) {
		if (attempt(&to) == ECONNREFUSED) {
			clock_gettime(CLOCK_MONOTONIC, &at);
			last[slot] = at.tv_sec * 1000000000LL + at.tv_nsec;
		}
		nanosleep(&pause, NULL);
	}
}

int main(int argc, char **argv)
{
	struct sockaddr_in to;

	if (argc != 7)
		errx(1, "PORT CLOSED-PORT PROCESSES CONNECTIONS FILE SLOT");
	to = loopback(argv[1]);
	for (int i = 0; i < atoi(argv[4]); i++) {
		int made = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

		if (made < 0 || connect(made, (struct sockaddr *)&to, sizeof(to)))
			err(1, "connect");
	}
	for (int i = 1; i < atoi(argv[3]); i++) {
		pid_t child = fork();

		if (child < 0)
			err(1, "fork");
		if (child == 0) {
			if (i == 1)
				probe(argv[2], argv[5], atoi(argv[6]));
			for (;;)
				pause();
		}
	}
	puts("up");
	fflush(stdout);
	for (;;)
		pause();
}
