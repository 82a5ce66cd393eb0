// SPDX-License-Identifier: Apache-2.0
/* Installed setuid root by the test: says as whom it runs. */
#include <stdio.h>
#include <unistd.h>

int main(void)
{
	printf("%u\n", (unsigned int)geteuid());
	return 0;
}
