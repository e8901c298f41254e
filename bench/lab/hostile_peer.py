#!/usr/bin/env -S python3 -B
"""A peer that lies: a filter before a lab node's agent, for liars.py.

    hostile_peer.py LISTEN-ADDRESS LISTEN-PORT AGENT-PORT BLOBS MODE-FILE LOG-FILE

The node's agent listens on AGENT-PORT and tells the tree-manager LISTEN-PORT, so that its children come here. MODE-FILE holds one word. While it is
`honest`, connections are passed on to the agent; when it changes they are cut. Any other word is how asks are answered:
  flip     the right range, one bit of each 64 KiB inverted
  lengths  in turn: fewer bytes than announced; more than the range; a range that ends within a chunk; another beginning; another blob's length
  slow     the right head, and then right bytes, ten a second, for ever
  other    the bytes of another place of the blob
  miss     404 for all
  waits    "I wait for it myself" (102), for ever
  empty    the right head, and then nothing
BLOBS is where a docker-registry keeps blobs/sha256. LOG-FILE gets a line for each ask that was lied to: time, mode, asking node, Priority.
"""
import itertools
import os
import re
import socket
import sys
import threading
import time

HEAD_LIMIT = 64 << 10


class Hostile:
    def __init__(self, listen, agent, blobs, mode_file, log_file):
        self.listen, self.agent, self.blobs, self.mode_file = listen, agent, blobs, mode_file
        self.log = open(log_file, "a", buffering=1, encoding="utf-8")
        self.lock, self.connections, self.turn = threading.Lock(), set(), itertools.count()
        self.mode = self.read_mode()

    def read_mode(self):
        with open(self.mode_file, encoding="utf-8") as f:
            return f.read().strip()

    def run(self):
        server = socket.create_server(self.listen, backlog=256)
        threading.Thread(target=self.watch_mode, daemon=True).start()
        while True:
            connection, _ = server.accept()
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def watch_mode(self):
        while True:
            time.sleep(0.02)
            mode = self.read_mode()
            if not mode or mode == self.mode:
                continue
            with self.lock:
                self.mode = mode
                for connection in self.connections:
                    close(connection)

    def serve(self, connection):
        with self.lock:
            self.connections.add(connection)
        try:
            self.pass_on(connection) if self.mode == "honest" else self.lie(connection)
        except OSError:
            pass
        finally:
            with self.lock:
                self.connections.discard(connection)
            connection.close()

    def pass_on(self, connection):
        with socket.create_connection(self.agent) as agent:
            with self.lock:
                self.connections.add(agent)
            back = threading.Thread(target=pump, args=(agent, connection), daemon=True)
            back.start()
            pump(connection, agent)
            back.join()
            with self.lock:
                self.connections.discard(agent)

    def lie(self, connection):
        buffer = b""
        while True:
            while b"\r\n\r\n" not in buffer:
                data = connection.recv(HEAD_LIMIT)
                if not data or len(buffer) > HEAD_LIMIT:
                    return
                buffer += data
            head, buffer = buffer.split(b"\r\n\r\n", 1)
            if not self.answer(connection, head.decode("latin-1")):
                return

    def answer(self, connection, head):
        """Returns whether the connection can take another ask."""
        mode = self.mode
        target, headers = parse(head)
        self.log.write(f"{time.monotonic():.3f} {mode} {headers.get('banyan-node', '?')} {headers.get('priority', '')}\n")
        blob = re.search(r"/blobs/sha256:([0-9a-f]{64})$", target)
        path = f"{self.blobs}/{blob[1][:2]}/{blob[1]}/data" if blob else ""
        if mode == "miss" or not os.path.exists(path):
            connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            return True
        if mode == "waits":
            while self.mode == mode:
                connection.sendall(b"HTTP/1.1 102 Processing\r\n\r\n")
                time.sleep(0.3)
            return False
        size = os.path.getsize(path)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("range", ""))
        begin = int(asked[1]) if asked else 0
        end = min(int(asked[2]) + 1, size) if asked and asked[2] else size
        if mode == "lengths":
            return self.lie_about_length(connection, path, begin, end, size, bool(asked))
        connection.sendall(answer_head(bool(asked), begin, end, size, end - begin))
        if mode == "empty":
            while self.mode == mode:
                time.sleep(0.1)
            return False
        if mode == "slow":
            for byte in read(path, begin, end):
                connection.sendall(bytes([byte]))
                time.sleep(0.1)
            return False
        body = read(path, begin, end)
        if mode == "flip":
            for at in range(0, len(body), 64 << 10):
                body[(at + 4711) % len(body)] ^= 0x10
        elif mode == "other":
            body = bytearray(itertools.islice(itertools.cycle(read(path, 0, size)), begin + size // 3, end + size // 3))
        connection.sendall(body)
        return True

    def lie_about_length(self, connection, path, begin, end, size, ranged):
        body, length = read(path, begin, end), end - begin
        match next(self.turn) % 5:
            case 0:
                connection.sendall(answer_head(ranged, begin, end, size, length) + body[:length // 2])
            case 1:
                connection.sendall(answer_head(ranged, begin, end, size, length + 4096) + body + bytes(4096))
            case 2:
                connection.sendall(answer_head(ranged, begin, end - 1, size, length - 1) + body[:-1])
            case 3:
                connection.sendall(answer_head(ranged, begin + 1, end + 1, size, length) + body)
            case 4:
                connection.sendall(answer_head(ranged, begin, end, size * 2, length) + body)
        return False


def answer_head(ranged, begin, end, size, length):
    status = f"206 Partial Content\r\nContent-Range: bytes {begin}-{end - 1}/{size}" if ranged else "200 OK"
    return f"HTTP/1.1 {status}\r\nContent-Type: application/octet-stream\r\nContent-Length: {length}\r\n\r\n".encode()


def parse(head):
    first, *lines = head.split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return (first.split(" ") + ["", ""])[1], headers


def read(path, begin, end):
    with open(path, "rb") as f:
        f.seek(begin)
        return bytearray(f.read(end - begin))


def close(connection):
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


def pump(source, to):
    """All bytes, until either end goes."""
    try:
        while data := source.recv(256 << 10):
            to.sendall(data)
    except OSError:
        pass
    close(to)


if __name__ == "__main__":
    address, port, agent_port, blob_directory, modes, log = sys.argv[1:]
    Hostile((address, int(port)), (address, int(agent_port)), blob_directory, modes, log).run()
