"""kubectl, as a process: what it was asked, what it said, and its errors in one line."""

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any

from nml_ray.config.errors import UserError, nearest_name

PATIENCE = 9  # seconds for an answer
_REQUEST = "--request-timeout=5s"
_NOISE = re.compile(r"^[EWI][0-9]{4} |^Warning: |^\s*$|^See '|^Unable to connect to the server: getting credentials")
_HINTS = (
    (
        r"refused|no such host|timed? ?out|deadline exceeded|unreachable|no route",
        "a cluster that answers: kubectl cluster-info",
    ),
    (
        r"Unauthorized|must be logged in|credentials|Username",
        "kubectl to be logged in: your cluster's login command renews it",
    ),
    (r"forbidden|cannot .* resource", "a role that may do so: ask who runs the cluster"),
    (r"x509|certificate", "the cluster's certificate authority in kubectl's configuration"),
)


class NotThere(UserError):
    """Kubernetes knows nothing of that name."""


class Kubectl:
    """kubectl with a context and a namespace.

    Args:
        context: "" for kubectl's current one.
        namespace: of all that is read and written.
    """

    def __init__(self, context: str, namespace: str) -> None:
        self.context, self.namespace = context, namespace

    def run(self, *arguments: str, text: str | None = None, seconds: float = PATIENCE) -> str:
        """What kubectl prints.

        Args:
            arguments: of kubectl.
            text: its standard input; none when None.
            seconds: after which it is given up.

        Raises:
            NotThere: there is nothing of that name.
            UserError: kubectl is missing, or refuses, or the cluster does not answer in time.
        """
        patience = [_REQUEST] if seconds <= PATIENCE else []
        command = [*self.command(), *patience, *arguments]
        stdin: dict[str, Any] = {"stdin": subprocess.DEVNULL} if text is None else {"input": text}
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, **stdin)
        except subprocess.TimeoutExpired:
            raise self.error(f"no answer within {seconds:g} s: timed out") from None
        if done.returncode:
            raise self.error(done.stderr or done.stdout)
        return done.stdout

    def read(self, *arguments: str) -> Any:
        """What kubectl prints as JSON; see `run`."""
        return json.loads(self.run(*arguments, "-o", "json"))

    def lines(self, *arguments: str) -> Iterator[str]:
        """What kubectl prints, line by line as it comes.

        Raises:
            NotThere, UserError: at its end, where it did not end well; see `run`.
        """
        with tempfile.TemporaryFile("w+") as errors:
            command = [*self.command(), *arguments]
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True, errors="replace"
            )
            assert process.stdout
            try:
                yield from process.stdout
                if process.wait():
                    errors.seek(0)
                    raise self.error(errors.read())
            finally:
                process.kill()  # where the reader went away; nothing where it has ended
                process.stdout.close()
                process.wait()

    def command(self) -> list[str]:
        """How it is called.

        Raises:
            UserError: it is not installed.
        """
        if not (found := shutil.which("kubectl")):
            raise UserError("'kubectl' is not installed", expected="it on PATH, logged in to the cluster")
        context = ["--context", self.context] if self.context else []
        return [found, *context, "--namespace", self.namespace]

    def current_context(self) -> str:
        """The context that is used: the one that was named, or kubectl's current one; "" where there is none.

        Raises:
            UserError: there is no context of that name.
        """
        if self.context:
            names = self.run("config", "get-contexts", "-o", "name").split()
            if self.context not in names:
                raise UserError(
                    f"context = '{self.context}' is not known to kubectl",
                    where="context",
                    expected="one of " + ", ".join(names) if names else "one that `kubectl config get-contexts` shows",
                    nearest=nearest_name(self.context, names),
                )
            return self.context
        try:
            return self.run("config", "current-context").strip()
        except UserError:  # in a pod there is none, and none is needed
            return ""

    def error(self, said: str) -> UserError:
        """What kubectl said on standard error as a mistake with its fix."""
        line = last_line(said)
        where = f"kubectl (context {self.context})" if self.context else "kubectl"
        kind = NotThere if "(NotFound)" in said or "could not find the requested resource" in said else UserError
        hint = next((hint for pattern, hint in _HINTS if re.search(pattern, line, re.I)), "")
        return kind(line, where=where, expected=hint)


def last_line(said: str) -> str:
    """The line of kubectl's that says what is wrong."""
    lines = [line for line in said.splitlines() if not _NOISE.search(line)]
    line = lines[-1] if lines else next(iter(said.splitlines()), "it failed without a word")
    line = re.sub(r"^(error:\s*)+|^Error from server(?= )", "", line, flags=re.I).strip()
    return " ".join(line.split())[:400]
