#!/usr/bin/env python3
"""compare_trees_test.py PROGRAM: two equal trees are alike, and each kind of difference is found and named."""
import os
import shutil
import stat
import subprocess
import sys
import tempfile

PROGRAM = sys.argv[1]


def build(root):
    os.makedirs(os.fsencode(root) + b"/d/\xff\xfe\n")
    for name, content in ((b"file", b"abc"), (b"other", b"x" * 100_000), (b"empty", b""), (b"one", b"1"), (b"d/in", b"y")):
        with open(os.fsencode(root) + b"/" + name, "wb") as f:
            f.write(content)
    os.link(f"{root}/one", f"{root}/two")
    os.link(f"{root}/one", f"{root}/d/three")
    os.symlink("file", f"{root}/link")
    os.mkfifo(f"{root}/fifo")
    os.mknod(f"{root}/char", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    os.setxattr(f"{root}/file", "user.a", b"1")
    os.setxattr(f"{root}/file", "trusted.b", b"2")
    paths = [os.fsencode(root)]
    for directory, subdirectories, names in os.walk(os.fsencode(root)):
        paths += [directory + b"/" + name for name in subdirectories + names]
    for path in paths:
        os.utime(path, ns=(0, 1_500_000_000_123_456_789), follow_symlinks=False)


def replace_with(path, make):
    times = os.lstat(os.path.dirname(path)).st_mtime_ns
    os.unlink(path)
    make(path)
    os.utime(path, ns=(0, 1_500_000_000_123_456_789), follow_symlinks=False)
    os.utime(os.path.dirname(path), ns=(0, times))


def rewrite(path, offset, data):
    times = os.stat(path).st_mtime_ns
    with open(path, "r+b") as f:
        f.seek(offset)
        f.write(data)
    os.utime(path, ns=(0, times))


def break_link(path):
    """Another file in the place of one link: same content, and the same link count as its new twin has."""
    replace_with(path, lambda p: shutil.copy2(path.replace("two", "one"), p))


def touch(path, nanoseconds):
    os.utime(path, ns=(0, nanoseconds), follow_symlinks=False)


def swap_links(root):
    """one=two=three becomes one=two, three alone and other three's partner: link counts alone would not tell."""
    replace_with(f"{root}/two", lambda p: shutil.copy2(f"{root}/one", p))
    replace_with(f"{root}/d/three", lambda p: os.link(f"{root}/two", p))


# Name, what is done to the second tree, a text that the output must hold.
CASES = [
    ("missing", lambda r: replace_with(f"{r}/empty", lambda p: open(f"{r}/empt\xff", "wb").close() or open(p, "wb").close()),
     "only in the second tree"),
    ("extra", lambda r: os.unlink(f"{r}/empty"), "only in the first tree"),
    ("type", lambda r: replace_with(f"{r}/fifo", lambda p: open(p, "wb").close()), "type: FIFO | file"),
    ("mode", lambda r: os.chmod(f"{r}/file", 0o4644), "mode: 0644 | 4644"),
    ("directory mode", lambda r: os.chmod(os.fsencode(r) + b"/d/\xff\xfe\n", 0o1755), "\\xff\\xfe\\x0a: mode"),
    ("uid", lambda r: os.chown(f"{r}/file", 70000, -1), "uid: 0 | 70000"),
    ("gid of a symlink", lambda r: os.chown(f"{r}/link", -1, 3, follow_symlinks=False), "/link: gid: 0 | 3"),
    ("mtime by a nanosecond", lambda r: touch(f"{r}/file", 1_500_000_000_123_456_788), "mtime: 1500000000.123456789 |"),
    ("mtime of a symlink", lambda r: touch(f"{r}/link", 0), "/link: mtime"),
    ("mtime of the root", lambda r: touch(r, 0), "/: mtime"),
    ("link count", lambda r: break_link(f"{r}/two"), "link count: 3 | 2"),
    ("link identity", swap_links, "is the same inode as: /d/three | /one"),
    ("xattr value", lambda r: os.setxattr(f"{r}/file", "user.a", b"\0"), 'xattr user.a: "1" | "\\x00"'),
    ("xattr gone", lambda r: os.removexattr(f"{r}/file", "trusted.b"), 'xattr trusted.b: "2" | (none)'),
    ("xattr new", lambda r: os.setxattr(f"{r}/d", "user.n", b""), 'xattr user.n: (none) | ""'),
    ("device number", lambda r: replace_with(f"{r}/char", lambda p: os.mknod(p, stat.S_IFCHR | 0o600, os.makedev(1, 5))),
     "device number: 1:3 | 1:5"),
    ("symlink target", lambda r: replace_with(f"{r}/link", lambda p: os.symlink("File", p)), "target: file | File"),
    ("size", lambda r: rewrite(f"{r}/file", 3, b"d"), "size: 3 | 4"),
    ("content", lambda r: rewrite(f"{r}/other", 77_777, b"y"), "/other: content differs at byte 77777"),
]


def run(*arguments):
    return subprocess.run([PROGRAM, *arguments], capture_output=True, check=False)


def main():
    if os.geteuid() != 0:
        print("needs root")
        return 77
    failures = 0
    with tempfile.TemporaryDirectory() as work:
        left, pristine, right = f"{work}/left", f"{work}/pristine", f"{work}/right"
        build(left)
        build(pristine)
        alike = run(left, pristine)
        assert alike.returncode == 0 and b" 0 differences" in alike.stdout, alike
        for name, change, expected in CASES:
            build(right)
            change(right)
            result = run(left, right)
            if result.returncode != 1 or expected.encode() not in result.stdout:
                print(f"{name}: exit {result.returncode}, wanted {expected!r} in:\n{result.stdout.decode()}")
                failures += 1
            shutil.rmtree(os.fsencode(right))

        build(right)
        os.utime(right, ns=(0, 0))
        os.setxattr(f"{right}/file", "user.a", b"9")
        rewrite(f"{right}/other", 5, b"z")
        ignored = run("--ignore-mtime-of-root", "--ignore-xattr", "user.*", "--no-content", left, right)
        assert ignored.returncode == 0, ignored
        limited = run("--print", "1", left, right)
        assert limited.returncode == 1 and b" 3 differences" in limited.stdout, limited
        assert limited.stdout.count(b"\n") == 2, limited
        assert run(left).returncode == 2
        assert run(left, f"{work}/absent").returncode == 1
    print(f"{len(CASES)} kinds of difference, {failures} missed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
