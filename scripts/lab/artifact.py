#!/usr/bin/env python3
"""Prints an image's Banyan artifact as JSON: [{"digest", "size", "mediaType"}, ...], its blobs in the manifest's order.

    artifact.py [--warm] PROXY REGISTRY REPOSITORY TAG

PROXY is host:port of the registry proxy that is asked; --warm pulls every blob through it.
"""
import json
import sys
import urllib.request

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
ARTIFACT = "application/vnd.banyan.image.v1"


def main():
    arguments = sys.argv[1:]
    warm = arguments[0] == "--warm"
    proxy, registry, repository, tag = arguments[warm:]

    def ask(path, accept="*/*"):
        url = f"http://{proxy}/v2/{repository}/{path}?ns={registry}"
        return urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": accept}), timeout=600)

    with ask(f"manifests/{tag}", MANIFEST) as answer:
        subject = answer.headers["Docker-Content-Digest"]
    with ask(f"referrers/{subject}") as answer:
        artifacts = [d for d in json.load(answer)["manifests"] if d.get("artifactType") == ARTIFACT]
    if not artifacts:
        sys.exit(f"{repository}:{tag} has no Banyan artifact")
    with ask(f"manifests/{artifacts[0]['digest']}", MANIFEST) as answer:
        manifest = json.load(answer)
    blobs = [{key: layer[key] for key in ("digest", "size", "mediaType")} for layer in manifest["layers"]]
    for blob in blobs if warm else []:
        with ask(f"blobs/{blob['digest']}") as answer:
            received = 0
            while block := answer.read(1 << 20):
                received += len(block)
        if received != blob["size"]:
            sys.exit(f"{blob['digest']}: {received} bytes, not {blob['size']}")
    json.dump(blobs, sys.stdout)


if __name__ == "__main__":
    main()
