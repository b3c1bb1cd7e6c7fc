# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run the engine as a module does, without Ansible: in this process, or as `python3 drive.py NOUN OPTIONS [check|run …]`,
which prints the answer to each, a line of JSON."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
import types

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
if ROOT + "/plugins" not in sys.path:
    sys.path.insert(0, ROOT + "/plugins")

from module_utils._engine import aside, engine  # noqa: E402
from module_utils._engine.host import Host  # noqa: E402
from module_utils._model.errors import BulkheadError  # noqa: E402


def command(argv, data=None, env=None):
    """The runner that is injected: (exit status, output, errors)."""
    ended = subprocess.run(argv, input=data, env=dict(os.environ, **(env or {})), capture_output=True,
                           text=not isinstance(data, bytes), check=False)
    return ended.returncode, ended.stdout, ended.stderr


def new_host(**roots):
    """A Host as every module call makes it."""
    host = Host(command, **roots)
    aside.join(host)
    return host


def resource(noun):
    return importlib.import_module("module_utils._resources." + noun)


def converge(noun, options, check=False):
    """The answer that a module would give: changed, actions, restart_required, warnings, diff; or error (one line) and keys."""
    host = new_host()
    try:
        outcome = engine.converge(host, resource(noun), dict(options), check)
    except BulkheadError as exc:
        return {"error": exc.message, "keys": exc.keys, "changed": False}
    except OSError as exc:  # as the adapter answers it
        return {"error": "Cannot manage %s: %s." % (noun, exc), "keys": {}, "changed": False}
    before, after = outcome.difference()
    answer = {
        "changed": outcome.changed,
        "actions": outcome.joined("actions"),
        "restart_required": outcome.joined("restart"),
        "warnings": host.warnings + outcome.joined("warnings"),
        "diff": {"before": before, "after": after},
    }
    if outcome.errors:
        answer["error"] = " ".join(plan.error.message for plan in outcome.errors)
        answer["keys"] = {plan.key: plan.error.keys for plan in outcome.errors}
    return answer


def info(noun, **options):
    """The answer of the _info module."""
    return resource(noun).info(new_host(), options)


def broken():
    """The answer of a run that ended in an exception that it should not."""
    return {"error": "traceback: " + traceback.format_exc(), "keys": {}, "changed": False}


def isolated(function, patience=60.0):
    """What function() returns, called in a forked child, as a module call is a process of its own."""
    answer = os.memfd_create("answer")
    pid = os.fork()
    if not pid:
        try:
            os.pwrite(answer, json.dumps(function(), default=str).encode(), 0)
        except BaseException:
            os.pwrite(answer, json.dumps(broken()).encode(), 0)
        finally:
            os._exit(0)
    try:
        if not wait(pid, patience):
            return {"error": "it hangs", "keys": {}, "changed": False}
        text = os.pread(answer, 1 << 24, 0)
        return json.loads(text) if text else {"error": "it died", "keys": {}, "changed": False}
    finally:
        os.close(answer)


def wait(pid, patience):
    """Wait for the end of a child; when it does not come, bring it about and return False."""
    end = time.monotonic() + patience
    pause = 0.0005
    while not os.waitpid(pid, os.WNOHANG)[0]:
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return False
        time.sleep(pause)
        pause = min(pause * 1.5, 0.02)
    return True


def apart(noun, options, check=False):
    """converge() in a process of its own."""
    return isolated(lambda: converge(noun, options, check))


def killed(noun, point, options, times=1):
    """Converge until a function of the engine is called for the so manieth time, and be killed there.

    ``point``: MODULE.FUNCTION of `_resources`, or MODULE.IMPORTED.FUNCTION, such as `_kept.os.mkdir`.
    """
    module, *own, name = point.split(".")
    place = resource(module)
    left = [times]

    def run():
        holder = getattr(place, own[0]) if own else place
        function = getattr(holder, name)

        def die(*args, **more):
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **more)

        if own:  # for this module alone
            setattr(place, own[0], types.SimpleNamespace(**dict(vars(holder), **{name: die})))
        else:
            setattr(place, name, die)
        return converge(noun, options)

    answer = isolated(run)
    assert answer["error"] == "it died", answer


def reap():
    """What runs that were killed had made is ours to wait for."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def at_once(tasks, patience=120.0):
    """The answers of [(noun, options), …], each run in a process of its own, all let go at the same moment."""
    ready, go = os.pipe()
    children = []
    for noun, options in tasks:
        answer = os.memfd_create("answer")
        pid = os.fork()
        if not pid:
            os.close(go)
            os.read(ready, 1)  # until the parent closes the other end
            try:
                os.pwrite(answer, json.dumps(converge(noun, options), default=str).encode(), 0)
            except BaseException:
                os.pwrite(answer, json.dumps(broken()).encode(), 0)
            finally:
                os._exit(0)
        children.append((pid, answer))
    os.close(ready)
    os.close(go)
    answers = []
    for pid, answer in children:
        ended = wait(pid, patience)
        text = os.pread(answer, 1 << 24, 0)
        os.close(answer)
        answers.append(json.loads(text) if text else {"error": "it died" if ended else "it hangs", "changed": False, "keys": {}})
    return answers


if __name__ == "__main__":
    resource(sys.argv[1])  # once for all of them
    for word in sys.argv[3:] or ["run"]:
        print(json.dumps(isolated(lambda check=word == "check": converge(sys.argv[1], json.loads(sys.argv[2]), check), 600), default=str))
