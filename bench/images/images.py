"""The images that the benchmarks start: of what, with which command, and when a container of it counts as ready.

An image is an image of tests/images (`parent`), a layer with Debian packages, if any, and a layer for each of `layers`
({path: contents}). `command` is what the container runs. `ready` is the first of
    ("output", TEXT)              TEXT in what the command has written, to either stream
    ("http", PORT, PATH)          an answer of 200 to GET PATH
    ("answer", PORT, ASK, TEXT)   TEXT in what comes back on a connection on which ASK was sent
"""
from dataclasses import dataclass

SOURCE_LAYERS = 46


@dataclass(frozen=True)
class Image:
    name: str
    what: str
    command: tuple
    ready: tuple
    parent: str = "base"
    packages: tuple = ()
    layers: tuple = ()


def module(number):
    """A module of a few hundred functions: some 60 kB."""
    return "".join(f"def f{number}_{i}(x):\n    return (x * {i + 1} + {number}) % 1000003\n" for i in range(1000))


APP = """import json, http.client, numpy
matrix = numpy.arange(90000.0).reshape(300, 300)
print("ready", json.dumps({"trace": float(numpy.trace(matrix @ matrix.T))}), flush=True)
"""
PARTS = "import sys\nsys.path.insert(0, '/app')\nsys.dont_write_bytecode = True\ntotal = 0\n" + "".join(
    f"import part{n}; total += part{n}.f{n}_7({n})\n" for n in range(SOURCE_LAYERS)) + 'print("ready", total, flush=True)\n'
TORCH = """import torch
model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 1))
inputs = torch.ones(256, 64)
model(inputs).pow(2).mean().backward()
print("ready", tuple(model[0].weight.grad.shape), flush=True)
"""
COMPILE = 'printf "int puts(const char*); int main(void) { puts(\\"ready\\"); }" >/tmp/a.c && gcc -O2 -o /tmp/a /tmp/a.c && /tmp/a'
POSTGRES = """mkdir -p /var/run/postgresql /srv/db && chown postgres /var/run/postgresql /srv/db
cd /usr/lib/postgresql/*/bin && su postgres -c './initdb -D /srv/db >/dev/null' && exec su postgres -c 'exec ./postgres -D /srv/db' """
NGINX = ("sh", "-c", "mkdir -p /var/log/nginx /var/lib/nginx && exec nginx -g 'daemon off;'")

IMAGES = {image.name: image for image in (
    Image("base", "Debian's minbase, `echo`", ("echo", "ready"), ("output", "ready")),
    Image("numpy", "python3 and numpy, a small program", ("python3", "-B", "/app/main.py"), ("output", "ready"), parent="python",
          layers=({"app/main.py": APP},)),
    Image("nginx", "nginx-light, first answer of 200", NGINX, ("http", 80, "/"), packages=("nginx-light",)),
    Image("layers50", "python3 and a program, 50 layers", ("python3", "-B", "/app/main.py"), ("output", "ready"), parent="python",
          layers=(*({f"app/part{n}.py": module(n)} for n in range(SOURCE_LAYERS)), {"app/main.py": PARTS}, {"app/version": "1\n"})),
    Image("scipy", "python3, numpy, scipy, g++; `import numpy, scipy.linalg`",
          ("python3", "-c", 'import numpy, scipy.linalg; print("ready", scipy.linalg.det(numpy.eye(3)))'), ("output", "ready 1.0"),
          parent="scipy"),
    Image("node", "nodejs, a small program", ("node", "-e", 'console.log("ready", [1, 2, 3].map(x => x * x).join())'), ("output", "ready 1,4,9"),
          parent="node"),
    Image("jre", "openjdk 17, `java -version`", ("sh", "-c", "java -Xshare:auto -version 2>&1"), ("output", "openjdk version"), parent="jre"),
    Image("redis", "redis-server, PING", ("redis-server", "--port", "6379", "--save", ""), ("answer", 6379, "PING\r\n", "+PONG"),
          packages=("redis-server",)),
    Image("gcc", "gcc, compiles and runs a program", ("sh", "-c", COMPILE), ("output", "ready"), packages=("gcc", "libc6-dev")),
    Image("postgres", "PostgreSQL, a new database made and served", ("sh", "-c", POSTGRES), ("output", "ready to accept connections"), packages=("postgresql",)),
    Image("ml", "PyTorch on the image scipy, with torchvision, scikit-learn, pandas and matplotlib: one step of a small network",
          ("python3", "-B", "/app/train.py"), ("output", "ready (128, 64)"), parent="scipy",
          packages=("python3-torch", "python3-torchvision", "python3-sklearn", "python3-pandas", "python3-matplotlib"),
          layers=({"app/train.py": TORCH},)),
)}
