# SPDX-License-Identifier: Apache-2.0
"""ri-exec's own process: asks for a session, forks the child, and stays as its lifeline."""

import _signal  # type: ignore[import-not-found]
import os
import sys

from monitor.launch import options as command_line
from monitor.launch import protocol
from monitor.launch.channel import Channel
from monitor.launch.failure import REFUSED, LaunchError, printable
from monitor.launch.options import Options, UsageError
from monitor.launch.protocol import ProtocolError

# Bytes of files that share a message with other fields.
MAX_PROFILE = 49152
MAX_GRANT = 16384 + 1  # and the end of its line


def main(arguments: list[str]) -> int:
    """Run the command; the exit status."""
    fill_standard()
    try:
        options = command_line.parse(arguments)
        if options.done is not None:
            os.write(1, options.done.encode())
            return 0
        return launch(options)
    except UsageError as error:
        complain(str(error), "ri-exec --help shows the options")
    except LaunchError as error:
        complain(error.reason, error.hint)
        return error.status
    return REFUSED


def fill_standard() -> None:
    """No descriptor of ours may take the place of a standard one that the caller closed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def complain(reason: str, hint: str = "") -> None:
    """On stderr; a person or a model may act on the hint."""
    text = f"ri-exec: {printable(reason)}\n"
    if hint:
        text += f"hint: {printable(hint)}\n"
    try:
        os.write(2, os.fsencode(text))
    except OSError:
        return


def launch(options: Options) -> int:
    """One session from request to end; LaunchError where there is none."""
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        # Ctrl-C while waiting ends the launcher, and the daemon takes down what there is.
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    fields = request(options)
    channel = Channel.connect(command_line.launch_socket())
    try:
        channel.send(protocol.REQUEST, *fields)
    except ProtocolError as error:
        raise LaunchError(f"the request cannot be sent: {error}") from error
    # Read while the daemon works on the request.
    from monitor.launch import kernel
    from monitor.launch.child import Child
    from monitor.launch.lifeline import Lifeline, blocked_signals

    # No other process of this user may look into this one or its child before CMD runs.
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    session, descriptors = channel.receive(protocol.SESSION, protocol.DESCRIPTORS)
    launcher = os.getpid()
    # Python's own handlers would run in the child too.
    mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, blocked_signals())
    report_read, report_write = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        os.close(report_read)
        child = Child(channel, session, descriptors, options.command, launcher)
        child.run(report_write, mask)
    for descriptor in (report_write, *descriptors):
        os.close(descriptor)
    return Lifeline(channel.connection, pid, report_read, options.lease).run()


def request(options: Options) -> list[tuple[str, bytes]]:
    """The fields of `request`."""
    try:
        folder = os.getcwd()
    except OSError as error:
        raise LaunchError("the working directory no longer exists") from error
    values = options.values
    wanted = {
        "agent": options.agent,
        "workspace": os.path.abspath(values.get("workspace", folder)),
        "cwd": folder,
        "argv0": options.command[0],
    }
    for name in ("ttl", "lease", "depth", "purpose", "user"):
        if name in values:
            wanted[name] = values[name]
    if options.observe:
        wanted["observe"] = "1"
    fields = [(name, os.fsencode(value)) for name, value in wanted.items()]
    file = options.profile_file
    if "grant" in values:
        fields.append(("grant", read_file(values["grant"], "grant", MAX_GRANT)))
    elif file is not None:
        fields.append(("profile_text", read_file(file, "profile", MAX_PROFILE)))
        fields.append(("profile_source", os.fsencode(os.path.abspath(file))))
    elif "profile" in values:
        fields.append(("profile", os.fsencode(values["profile"])))
    fields += [("environ", name) for name in os.environb]
    return fields


def read_file(file: str, kind: str, most: int) -> bytes:
    """The text of a profile or grant, read as the person who started us."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as opened:
            text = opened.read(most + 1)
    except OSError as error:
        raise LaunchError(f"cannot read {file}: {os.strerror(error.errno or 0)}") from error
    if len(text) > most:
        raise LaunchError(f"{file} is larger than {most} bytes, which a {kind} may have")
    if b"\0" in text:
        raise LaunchError(f"{file} is no {kind}: it holds a NUL byte")
    return text


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))
