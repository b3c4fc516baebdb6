"""Stands in for ssh where no machine can be reached by it: forwards a port as `ssh -N -L` does, to this machine.

It refuses the user `nobody` as ssh would, and writes its arguments to the file that SSH_LOG names.
"""

import contextlib
import json
import os
import socket
import sys
import threading


def pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(1 << 16):
            sink.sendall(data)
    except OSError:
        pass
    finally:
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


def main(arguments: list[str]) -> None:
    with open(os.environ["SSH_LOG"], "a") as log:
        log.write(json.dumps(arguments) + "\n")
    if any(word.startswith("nobody@") for word in arguments):
        sys.exit("Warning: Permanently added 'head' to the list.\nnobody@head: Permission denied (publickey).")
    if "-L" not in arguments:
        os.execvp("sh", ["sh", "-c", arguments[-1]])
    _, port, host, there = arguments[arguments.index("-L") + 1].split(":")
    with socket.create_server(("127.0.0.1", int(port))) as listener:
        while True:
            near = listener.accept()[0]
            try:
                far = socket.create_connection((host, int(there)), timeout=5)
            except OSError:
                near.close()
                continue
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=pump, args=(source, sink), daemon=True).start()


if __name__ == "__main__":
    main(sys.argv[1:])
