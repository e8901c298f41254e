#!/usr/bin/env -S python3 -B
"""A BitTorrent peer that says it has everything and sends garbage.

    garbage_peer.py ADDRESS TRACKER_URL INFO_HASH BYTES PIECE_BYTES

Announces itself as a seed at ADDRESS every two seconds, also while the tracker is away, and prints a line for each connection
and each 64 blocks sent. Ends with SIGTERM.
"""
import itertools
import os
import socket
import struct
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

address, tracker, info_hash, size, piece_bytes = sys.argv[1], sys.argv[2], bytes.fromhex(sys.argv[3]), *map(int, sys.argv[4:6])
pieces = -(-size // piece_bytes)
names = (b"-GB0001-%012d" % number for number in itertools.count(os.getpid()))
sent = 0


def message(kind, payload=b""):
    return struct.pack(">IB", 1 + len(payload), kind) + payload


def receive(connection, count):
    data = b""
    while len(data) < count:
        more = connection.recv(count - len(data))
        if not more:
            raise ConnectionError
        data += more
    return data


def serve(connection, whom):
    global sent
    try:
        connection.settimeout(120)
        if receive(connection, 68)[28:48] != info_hash:
            return
        print(f"connected: {whom}", flush=True)
        have = bytearray(-(-pieces // 8))
        for piece in range(pieces):
            have[piece // 8] |= 0x80 >> piece % 8
        connection.sendall(b"\x13BitTorrent protocol" + bytes(8) + info_hash + next(names) + message(5, bytes(have)) + message(1))
        while True:
            length, = struct.unpack(">I", receive(connection, 4))
            body = receive(connection, length)
            if not body or body[0] != 6:
                continue
            index, begin, count = struct.unpack(">III", body[1:13])
            connection.sendall(message(7, struct.pack(">II", index, begin) + os.urandom(count)))
            sent += 1
            if sent % 64 == 1:
                print(f"sent: {sent} blocks", flush=True)
    except (OSError, struct.error):
        pass
    finally:
        connection.close()


def announce(port):
    question = urllib.parse.urlencode({"info_hash": info_hash, "peer_id": b"-GB0001-000000000000", "port": port, "uploaded": 0,
                                       "downloaded": 0, "left": 0, "compact": 1}, quote_via=urllib.parse.quote)
    while True:
        try:
            urllib.request.build_opener(Bound).open(f"{tracker}?{question}", timeout=5).read()
        except OSError:
            pass
        time.sleep(2)


class Bound(urllib.request.HTTPHandler):
    """From our address, which is what the tracker goes by."""

    def http_open(self, request):
        import http.client
        return self.do_open(lambda host, **rest: http.client.HTTPConnection(host, source_address=(address, 0), **rest), request)


listener = socket.create_server((address, 0))
threading.Thread(target=announce, args=(listener.getsockname()[1],), daemon=True).start()
while True:
    peer, (ip, _) = listener.accept()
    threading.Thread(target=serve, args=(peer, ip), daemon=True).start()
