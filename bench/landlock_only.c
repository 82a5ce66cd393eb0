// SPDX-License-Identifier: Apache-2.0
/*
 * Landlock and nothing else: `landlock_only WRITABLE -- COMMAND [ARG ...]`.
 *
 * The yardstick of the file loads: what any Landlock sandbox costs. It grants what the shipped
 * profiles grant: the system readable and executable, WRITABLE and /tmp writable.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ABI 1 (Linux 5.13), which every kernel with Landlock has: all rights that its bits name. */
#define ALL_RIGHTS ((LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1)
#define READ_RIGHTS                                                                                \
	(LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR)

static void grant(int ruleset, const char *path, uint64_t rights)
{
	struct landlock_path_beneath_attr rule = {
		.allowed_access = rights,
		.parent_fd = open(path, O_PATH | O_CLOEXEC),
	};

	if (rule.parent_fd < 0) {
		if (errno == ENOENT)
			return;
		err(1, "%s", path);
	}
	if (syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0))
		err(1, "landlock_add_rule %s", path);
	close(rule.parent_fd);
}

int main(int argc, char **argv)
{
	static const char *const readable[] = { "/usr", "/lib", "/lib64", "/bin",
						"/sbin", "/etc", "/proc", "/opt" };
	struct landlock_ruleset_attr handled = { .handled_access_fs = ALL_RIGHTS };
	int ruleset;

	if (argc < 4 || strcmp(argv[2], "--"))
		errx(2, "usage: landlock_only WRITABLE -- COMMAND [ARG ...]");
	ruleset = (int)syscall(SYS_landlock_create_ruleset, &handled, sizeof(handled), 0);
	if (ruleset < 0)
		err(1, "landlock_create_ruleset");
	for (size_t i = 0; i < sizeof(readable) / sizeof(readable[0]); i++)
		grant(ruleset, readable[i], READ_RIGHTS);
	grant(ruleset, "/dev", READ_RIGHTS | LANDLOCK_ACCESS_FS_WRITE_FILE);
	grant(ruleset, "/tmp", ALL_RIGHTS);
	grant(ruleset, argv[1], ALL_RIGHTS);
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || syscall(SYS_landlock_restrict_self, ruleset, 0))
		err(1, "landlock_restrict_self");
	execvp(argv[3], argv + 3);
	err(127, "%s", argv[3]);
}
