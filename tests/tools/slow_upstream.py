#!/usr/bin/env python3
"""An upstream that sends blobs evenly over some seconds: slow_upstream.py DIRECTORY SECONDS PORT-FILE LOG

DIRECTORY holds files named by their SHA-256. Listens on a free loopback port, which it writes to PORT-FILE. A line of LOG is a blob
that was sent to its end: its name, the Range header or None, when its first and last byte went out.
"""
import http.server
import os
import re
import sys
import time

DIRECTORY, SECONDS, PORT_FILE, LOG = sys.argv[1], float(sys.argv[2]), sys.argv[3], sys.argv[4]
PIECES = 64


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        name = re.fullmatch(r"/v2/.+/blobs/sha256:([0-9a-f]{64})", self.path.split("?")[0])
        path = os.path.join(DIRECTORY, name[1]) if name else ""
        if not os.path.isfile(path):
            self.send_response(200 if self.path == "/v2/" else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        with open(path, "rb") as file:
            body = file.read()
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        begin = int(asked[1]) if asked else 0
        end = min(int(asked[2]) + 1, len(body)) if asked and asked[2] else len(body)
        if asked and begin >= len(body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(body)}")
        self.send_header("Content-Length", str(end - begin))
        self.end_headers()
        if self.command == "HEAD":
            return
        began, pace = time.time(), SECONDS / len(body)
        step = len(body) // PIECES + 1
        for at in range(begin, end, step):
            self.wfile.write(body[at:min(at + step, end)])
            time.sleep(max(0.0, began + (at + step - begin) * pace - time.time()))
        with open(LOG, "a") as log:
            log.write(f"{name[1]} {self.headers.get('Range')} {began} {time.time()}\n")

    do_HEAD = do_GET

    def log_message(self, *_):
        pass

    def handle(self):
        try:
            super().handle()
        except ConnectionError:
            pass  # a client that went


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
with open(PORT_FILE + ".new", "w") as out:
    out.write(str(server.server_address[1]))
os.rename(PORT_FILE + ".new", PORT_FILE)
server.serve_forever()
