/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Starts a program again and again while something changes what it was asked for.
 *
 *   exec_races argv-thread|argv-vm|path-thread|path-vm COUNT GOOD BAD PROGRAM
 *   exec_races symlink|folder COUNT FIRST SECOND PROGRAM
 *
 * argv: PROGRAM with an argument that turns from GOOD to BAD; path: a path that does; symlink: two
 * names FIRST and SECOND change places while FIRST is started; folder: `PROGRAM x` while the
 * working directory is FIRST or SECOND, changed by a process that shares it.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile char *target;
static const char *good, *bad;
static size_t size;
static volatile pid_t partner;
static char text[4096];
static char stack[1 << 16] __attribute__((aligned(16)));

static void turn(void)
{
	for (;;) {
		memcpy((char *)target, bad, size);
		for (volatile int i = 0; i < 400; i++)
			;
		memcpy((char *)target, good, size);
		for (volatile int i = 0; i < 400; i++)
			;
	}
}

static void *turn_thread(void *nothing)
{
	turn();
	return nothing;
}

/* Ends with the one that shares with it, whatever that runs by then. */
static void follow(void)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != partner)
		_exit(0);
}

static int turn_process(void *nothing)
{
	(void)nothing;
	follow();
	turn();
	return 0;
}

static void swap_names(void)
{
	for (;;)
		syscall(SYS_renameat2, AT_FDCWD, good, AT_FDCWD, bad, 2);
}

static int swap_folders(void *nothing)
{
	(void)nothing;
	follow();
	for (;;) {
		if (chdir(good) || chdir(bad))
			_exit(1);
	}
}

int main(int argc, char **argv)
{
	char *arguments[] = { "x", text, NULL };
	const char *mode = argv[1], *path;
	int count, helper = 0;

	if (argc != 6)
		return 2;
	count = atoi(argv[2]);
	good = argv[3];
	bad = argv[4];
	path = argv[5];
	size = strlen(good) > strlen(bad) ? strlen(good) + 1 : strlen(bad) + 1;
	strcpy(text, good);
	target = text;
	if (!strncmp(mode, "path", 4)) {
		path = text;
		arguments[1] = NULL;
	}
	if (!strcmp(mode, "symlink")) {
		path = good;
		arguments[1] = NULL;
		helper = fork();
		if (!helper)
			swap_names();
	}
	if (!strcmp(mode, "folder"))
		strcpy(text, "name");
	for (int i = 0; i < count; i++) {
		int child = fork(), status, other = 0;

		if (!child) {
			pthread_t thread;

			partner = getpid();
			if (strstr(mode, "thread"))
				pthread_create(&thread, NULL, turn_thread, NULL);
			else if (strstr(mode, "vm"))
				other = clone(turn_process, stack + sizeof(stack), CLONE_VM, NULL);
			else if (!strcmp(mode, "folder"))
				other = clone(swap_folders, stack + sizeof(stack), CLONE_FS, NULL);
			for (volatile int spin = 0; spin < 20000 + 997 * (i % 64); spin++)
				;
			execv(path, arguments);
			if (other > 0)
				kill(other, SIGKILL);
			_exit(3);
		}
		waitpid(child, &status, 0);
		if (WIFSIGNALED(status))
			printf("killed\n");
		else if (WEXITSTATUS(status) == 3)
			printf("refused\n");
		fflush(stdout);
	}
	if (helper)
		kill(helper, SIGKILL);
	return 0;
}
