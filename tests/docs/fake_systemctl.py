#!/usr/bin/env python3
"""As much of systemctl as the documents and packages use, for machines without systemd: starts what a unit's ExecStart says and remembers its pid.

  systemctl [--now] enable|disable|start|stop|restart|reload|is-active|status|daemon-reload UNIT…

Honoured: Exec{StartPre,Start,StartPost,Reload}, {State,Runtime}Directory, LoadCredential, Environment. Not: users, sandboxing, restarts by themselves.
FAKE_SYSTEMD is a directory for pid files and logs; units are looked for in /etc/systemd/system and /lib/systemd/system.
"""
import os
import re
import shlex
import signal
import subprocess
import sys
import time

STATE = os.environ.get("FAKE_SYSTEMD", "/run/fake-systemd")


def unit(name):
    name = name if name.endswith(".service") else name + ".service"
    for directory in ("/etc/systemd/system", "/lib/systemd/system"):
        path = f"{directory}/{name}"
        if os.path.exists(path):
            lines = re.sub(r"\\\n", " ", open(path, encoding="utf-8").read()).splitlines()
            return name, [line.split("=", 1) for line in lines if re.match(r"\w+=", line)]
    sys.exit(f"Unit {name} not found.")


def pid_of(name):
    try:
        pid = int(open(f"{STATE}/{name}.pid", encoding="utf-8").read())
        os.kill(pid, 0)
        return pid if open(f"/proc/{pid}/stat", encoding="utf-8").read().rsplit(")", 1)[1].split()[0] != "Z" else None
    except (OSError, ValueError):
        return None


def command(line, environment):
    line = re.sub(r"\$\{?(\w+)\}?", lambda m: environment.get(m[1], ""), line)
    return shlex.split(line.lstrip("-@+!"))


def start(name):
    name, settings = unit(name)
    if pid_of(name):
        return
    environment = dict(os.environ)
    for key, value in settings:
        if key == "Environment":
            environment.update(word.split("=", 1) for word in shlex.split(value))
        elif key == "RuntimeDirectory":
            os.makedirs(f"/run/{value}", mode=0o700, exist_ok=True)
        elif key == "StateDirectory":
            os.makedirs(f"/var/lib/{value}", mode=0o700, exist_ok=True)
        elif key == "LoadCredential":
            ident, path = value.split(":", 1)
            directory = f"/run/credentials/{name}"
            os.makedirs(directory, mode=0o700, exist_ok=True)
            with open(path, "rb") as source, open(f"{directory}/{ident}", "wb") as target:
                target.write(source.read())
    log = open(f"{STATE}/{name}.log", "ab")
    options = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log, "env": environment}
    for key, value in settings:
        if key == "ExecStartPre" and subprocess.call(command(value, environment), **options) != 0 and not value.startswith("-"):
            sys.exit(f"{name}: {value} failed; see {STATE}/{name}.log")
    main = next(value for key, value in settings if key == "ExecStart")
    process = subprocess.Popen(command(main, environment), start_new_session=True, **options)
    with open(f"{STATE}/{name}.pid", "w", encoding="utf-8") as file:
        file.write(str(process.pid))
    environment["MAINPID"] = str(process.pid)
    for key, value in settings:
        if key == "ExecStartPost":
            subprocess.call(command(value, environment), **options)
    time.sleep(1)  # Type=notify is not listened to
    if process.poll() is not None:
        sys.exit(f"{name} ended with {process.returncode}; see {STATE}/{name}.log")


def stop(name):
    name, _ = unit(name)
    pid = pid_of(name)
    if pid:
        os.kill(pid, signal.SIGTERM)
        for _ in range(200):
            if not pid_of(name):
                break
            time.sleep(0.1)
        else:
            os.kill(pid, signal.SIGKILL)
    if os.path.exists(f"{STATE}/{name}.pid"):
        os.unlink(f"{STATE}/{name}.pid")


def main():
    os.makedirs(STATE, exist_ok=True)
    words = [word for word in sys.argv[1:] if not word.startswith("-")]
    now = "--now" in sys.argv
    verb, names = words[0], words[1:]
    for name in names:
        if verb in ("start", "restart") or (verb == "enable" and now):
            if verb == "restart":
                stop(name)
            start(name)
        elif verb == "stop" or (verb == "disable" and now):
            stop(name)
        elif verb == "reload":
            full, settings = unit(name)
            environment = dict(os.environ, MAINPID=str(pid_of(full)))
            for key, value in settings:
                if key == "ExecReload":
                    subprocess.check_call(command(value, environment))
        elif verb == "is-active":
            sys.exit(0 if pid_of(unit(name)[0]) else 3)
        elif verb == "status":
            print(f"{name}: {'active' if pid_of(unit(name)[0]) else 'inactive'}")
        elif verb in ("enable", "disable"):
            unit(name)
        elif verb != "daemon-reload":
            sys.exit(f"systemctl: what is {verb}?")


main()
