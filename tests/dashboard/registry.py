"""A registry of a few images, slow on demand, and a real registry proxy in front of it."""
import gzip
import hashlib
import http.server
import io
import json
import os
import random
import re
import shutil
import subprocess
import tarfile
import tempfile
import threading
import time
import urllib.request

from harness import BIN, expect, until

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
PIECE = 1 << 16


def digest_of(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Registry(http.server.ThreadingHTTPServer):
    """`rate`: bytes per second of each answer with a blob."""
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), RegistryHandler)
        self.blobs = {}
        self.tags = {}
        self.rate = 1e12
        self.name = f"127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def put(self, data):
        digest = digest_of(data)
        self.blobs[digest] = data
        return {"digest": digest, "size": len(data)}

    def add(self, name, *layers):
        """An image whose layers are of one file each, with these bytes; its manifest's digest."""
        diffs, descriptors = [], []
        for number, data in enumerate(layers):
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w") as tar:
                info = tarfile.TarInfo(f"file-{number}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            diffs.append(digest_of(buffer.getvalue()))
            packed = gzip.compress(buffer.getvalue(), 1, mtime=0)
            descriptors.append(self.put(packed) | {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip"})
        config = self.put(json.dumps({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": diffs}}).encode())
        manifest = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "layers": descriptors,
                               "config": config | {"mediaType": "application/vnd.oci.image.config.v1+json"}}).encode()
        self.tags[f"{name}:1"] = manifest
        self.tags[f"{name}:{digest_of(manifest)}"] = manifest
        return digest_of(manifest)


class RegistryHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        manifest = re.fullmatch(r"/v2/(.+)/manifests/([^/?]+)(\?.*)?", self.path)
        blob = re.fullmatch(r"/v2/.+/blobs/([^/?]+)(\?.*)?", self.path)
        if manifest:
            return self.answer(self.server.tags.get(f"{manifest[1]}:{manifest[2]}"), MANIFEST)
        if blob:
            return self.answer(self.server.blobs.get(blob[1]), "application/octet-stream")
        return self.answer(b"{}" if self.path == "/v2/" else None, "application/json")

    def answer(self, data, kind):
        if data is None:
            data, status, kind = b'{"errors":[]}', 404, "application/json"
        else:
            status = 200
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        body = data
        if wanted and status == 200:
            first = int(wanted[1])
            body = data[first:int(wanted[2] or len(data)) + 1]
            status = 206
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{first + len(body) - 1}/{len(data)}")
        self.send_header("Content-Type", kind)
        self.send_header("Docker-Content-Digest", digest_of(data))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        try:
            for at in range(0, len(body), PIECE):
                self.wfile.write(body[at:at + PIECE])
                if len(body) > PIECE:
                    time.sleep(PIECE / self.server.rate)
        except OSError:
            self.close_connection = True


class Proxy:
    """A registry proxy that mirrors `registry` and converts."""

    def __init__(self, registry):
        self.registry = registry

    def __enter__(self):
        self.directory = tempfile.mkdtemp(prefix="banyan-proxy-")
        self.status = f"unix:{self.directory}/data/status.sock"
        with open(f"{self.directory}/config.toml", "w", encoding="utf-8") as config:
            config.write(f'listen = "127.0.0.1:0"\ndata_root = "{self.directory}/data"\n[mirror]\ndefault_upstream = "{self.registry.name}"\n'
                         f'[upstreams."{self.registry.name}"]\nendpoints = ["http://{self.registry.name}"]\n')
        self.process = None
        self.start()
        return self

    def start(self):
        self.log = open(f"{self.directory}/log", "wb")
        self.process = subprocess.Popen([f"{BIN}/banyan-registry-proxy", "--config", f"{self.directory}/config.toml"], stdout=self.log, stderr=self.log)
        try:
            self.port = until(self._port, "the proxy listens")
        except BaseException:
            self.__exit__()
            raise

    def _port(self):
        text = open(f"{self.directory}/log", encoding="utf-8").read()
        expect(self.process.poll() is None, f"the proxy has ended: {text}")
        found = re.search(r"listening on .*\(port (\d+)\)", text)
        return int(found[1]) if found else None

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()

    def __exit__(self, *_):
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def pull_manifest(self, name):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/v2/{name}/manifests/1", headers={"Accept": MANIFEST})
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.read()


def noise(seed, mebibytes):
    return random.Random(seed).randbytes(int(mebibytes * (1 << 20)))
