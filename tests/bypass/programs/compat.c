// SPDX-License-Identifier: Apache-2.0
/*
 * getpid(2) by another system call table: `compat ia32` through int 0x80, `compat x32` by the
 * number with the x32 bit. What a filter says of one table does not hold for another.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define X32_BIT 0x40000000L
#define IA32_GETPID 20

int main(int argc, char **argv)
{
	long result;

	if (argc == 2 && !strcmp(argv[1], "ia32")) {
		__asm__ volatile("int $0x80" : "=a"(result) : "a"(IA32_GETPID) : "memory", "r8", "r9",
				 "r10", "r11");
	} else {
		result = syscall(X32_BIT | SYS_getpid);
		/* A kernel without x32 answers ENOSYS, but it was asked. */
		if (result < 0 && errno == ENOSYS)
			result = 0;
	}
	printf("DONE %ld\n", result);
	return result < 0;
}
