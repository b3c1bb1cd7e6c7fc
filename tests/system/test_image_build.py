# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Images that are built over others by steps: what is run, copied and written, what is built again and what is not, what is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time

import archives
import drive
import jail
import pytest
from archives import directory, entry, symlink, tar


BASE = "/run/builds"
LIB = "/var/lib/bulkhead"


@pytest.fixture(autouse=True)
def place(leaves_nothing):
    os.makedirs(BASE)
    yield
    drive.converge("overlay", dict(path=BASE + "/mnt", state="absent"))
    jail.clear_images()
    shutil.rmtree(BASE)


def parent(converge, *more, name="base", **options):
    """An image with a shell, and hardly anything else."""
    with open("/bin/busybox", "rb") as stream:
        busybox = stream.read()
    applets = [symlink(b"usr/bin/" + word, b"busybox") for word in (
        b"sh", b"cat", b"echo", b"id", b"ls", b"rm", b"mkdir", b"mv", b"env", b"hostname", b"sleep", b"chmod", b"ln", b"touch", b"ps", b"grep", b"mknod")]
    path = archives.write(BASE + "/%s.tar" % name, tar(
        directory(b"./", mode=0o751), directory(b"usr"), directory(b"usr/bin"), entry(b"usr/bin/busybox", busybox, mode=0o755), *applets,
        symlink(b"bin", b"usr/bin"), directory(b"etc", mode=0o711, owner=(3, 4)), entry(b"etc/passwd", b"root:x:0:0::/root:/bin/sh\nweb:x:33:34::/:/bin/sh\n"),
        entry(b"etc/group", b"root:x:0:\nweb:x:34:\n"), directory(b"srv"), directory(b"srv/old"), entry(b"srv/old/file", b"x"), *more))
    converge("image", name=name, tar=path, **options)


def run(line, **more):
    return dict(run=line, **more)


def build(*steps, **more):
    return dict(dict({"from": "base"}, name="web", steps=list(steps)), **more)


def image(name="web"):
    found = drive.info("image", name=name)["images"]
    return found[0] if found else None


def stored():
    return sorted(os.listdir(LIB + "/layers")) if os.path.isdir(LIB + "/layers") else []


def tree(path):
    """The names below a directory of the top layer, or of the image as it is mounted."""
    return sorted(os.path.relpath(os.path.join(where, name), path) for where, names, files in os.walk(path) for name in names + files)


def read(path):
    with open(path, encoding="utf-8") as stream:
        return stream.read()


def test_steps(converge, full_cycle):
    parent(converge)
    archives.write(BASE + "/site/index", b"hello")
    os.chmod(BASE + "/site/index", 0o640)
    os.symlink("index", BASE + "/site/link")
    options = build(
        run("cd srv\nrm -r old\nmkdir -p new/deep; echo built > new/deep/file; mv /etc/group /etc/moved"),
        dict(copy=dict(src=BASE + "/site", dest="/srv/site", owner="web", group="34")),
        dict(write=dict(dest="/etc/web.conf", content="port 80\n", mode="0600", owner=7)),
        run(["/bin/sh", "-c", "cat /srv/site/link /etc/web.conf > /srv/all; id -u > /srv/user"]))
    full_cycle("image", options, dict(name="web", state="absent"))
    assert stored() == [image("base")["layers"][0]["digest"][7:]]
    answer = converge("image", **options)
    assert [action.partition(" of image")[0] for action in answer["actions"]] == ["build step %d" % number for number in (1, 2, 3, 4)] + [
        "make image web from base"]
    layers = [tree(path) for path in reversed(image()["lower"])]
    assert layers[1:] == [["etc", "etc/group", "etc/moved", "srv", "srv/new", "srv/new/deep", "srv/new/deep/file", "srv/old"],
                          ["srv", "srv/site", "srv/site/index", "srv/site/link"], ["etc", "etc/web.conf"], ["etc", "srv", "srv/all", "srv/user"]]
    converge("overlay", path=BASE + "/mnt", lower=image()["lower"])
    top = BASE + "/mnt/"
    assert tree(top + "srv") == ["all", "new", "new/deep", "new/deep/file", "site", "site/index", "site/link", "user"]
    assert read(top + "srv/all") == "helloport 80\n" and read(top + "srv/user") == "0\n"
    for name, mode, owner in (("", 0o751, (0, 0)), ("etc", 0o711, (3, 4)), ("srv/site/index", 0o640, (33, 34)), ("etc/web.conf", 0o600, (7, 0))):
        stat = os.stat(top + name)
        assert (stat.st_mode & 0o7777, (stat.st_uid, stat.st_gid)) == (mode, owner), name
    assert not os.path.exists(top + "proc") and not os.path.exists(top + "etc/group") and image()["source"]["path"] == "base"
    assert not converge("image", name="web", verify=True)["changed"]


def test_what_a_command_sees(converge, refuse):
    """Its own namespaces, the powers of a service, the environment of image and step, and nothing else of the host."""
    parent(converge, config=dict(env={"A": "image", "B": "image"}))
    archives.write(BASE + "/given/file", b"given")
    look = ("{ hostname; echo $A $B $C; grep Cap /proc/self/status; ls /dev /sys/class/net; id -u; id -g; echo $PWD; cat /given/file /etc/one; ps; }"
            " >/srv/seen; if echo x >/etc/one; then exit 8; fi")
    shown = [dict(src=BASE + "/given", dest="/given"), dict(src=BASE + "/given/file", dest="/etc/one")]
    converge("image", **build(run("chmod 777 /srv; mkdir /srv/there"),
                              run(look, env={"B": "step"}, user="web", workdir="/srv/there", network="none", bind=shown)))
    seen = read(image()["lower"][0] + "/srv/seen").split("\n")
    assert seen[:2] == ["build", "image step"] and "/srv/there" in seen and "33" in seen and "34" in seen and "givengiven" in " ".join(seen)
    assert "CapEff:\t0000000000000000" in seen and "lo" in seen and "null" in seen and not any("eth" in line for line in seen)
    assert sum("keeper" in line for line in seen) == 1 and not any("pytest" in line for line in seen)
    assert tree(image()["lower"][0]) == ["etc", "srv", "srv/seen"]
    resolv = build(run("cat /etc/resolv.conf > /srv/seen; ls /etc > /srv/etc"), run("if cat /etc/resolv.conf; then exit 9; fi", network="none"))
    converge("image", **resolv)
    assert read(image()["lower"][1] + "/srv/seen") == read("/etc/resolv.conf") and tree(image()["lower"][1]) == ["etc", "srv", "srv/etc", "srv/seen"]
    for line in ("mknod /srv/null c 1 3", "echo 1 > /proc/sys/kernel/sysrq", "touch /sys/x"):
        assert "ended with status 1" in refuse("image", **build(run(line)))


def test_what_is_built_again(converge, full_cycle):
    parent(converge)
    archives.write(BASE + "/file", b"one")
    first, copy, last = run("echo 1 > /srv/1"), dict(copy=dict(src=BASE + "/file", dest="/srv/file")), run("cat /srv/file > /srv/2")

    def built(*steps, **more):
        return [action.split(" of image")[0] for action in converge("image", True, **build(*steps, **more))["actions"]]

    converge("image", **build(first, copy, last))
    below = [layer["digest"] for layer in image()["layers"]]
    assert built(first, copy, last) == [] and built(first, copy, last, config={"user": "web"}) == ["set config"]
    assert built(first, dict(copy=dict(src=BASE + "/file", dest="/srv/other")), last)[:-1] == ["build step 2", "build step 3"]
    assert built(first, copy, run("cat /srv/file > /srv/2", env={"A": "x"}))[:-1] == ["build step 3"]
    assert built(first, copy, dict(last, timeout=60)) == []
    # Times and the place of a source do not matter, its content and mode do.
    os.utime(BASE + "/file", ns=(0, 0))
    shutil.copy(BASE + "/file", BASE + "/same")
    assert built(first, dict(copy=dict(src=BASE + "/same", dest="/srv/file")), last) == []
    os.chmod(BASE + "/file", 0o600)
    assert built(first, copy, last)[:-1] == ["build step 2", "build step 3"]
    os.chmod(BASE + "/file", 0o644)
    # Another image that begins alike has the same layers, and what is shorter is only a name.
    assert converge("image", **build(first, copy, name="other"))["actions"] == ["make image other from base"]
    assert [layer["digest"] for layer in image("other")["layers"]] == below[:3] and image()["layers"][2]["shared_by"] == ["other"]
    archives.write(BASE + "/file", b"two")
    full_cycle("image", build(first, copy, last), dict(name="other", state="absent"))
    assert [layer["digest"] for layer in image()["layers"]][:2] == below[:2] and read(image()["lower"][0] + "/srv/2") == "two"
    # Another parent of that name: all is built again; its config alone: what is run is, as it sees it.
    converge("image", name="base", config={"user": "web", "labels": {"a": "b"}})
    assert built(first, copy, last) == ["set config"]
    converge("image", **build(first, copy, last))
    assert image()["config"] == {"user": "web", "labels": {"a": "b"}}
    parent(converge, entry(b"srv/more", b"x"))
    full_cycle("image", build(first, copy, last), dict(prune=True))
    assert [os.path.exists(path + "/srv/more") for path in image()["lower"]] == [False] * 3 + [True]
    converge("image", name="web", state="absent")
    assert image("base") and converge("image", **build())["actions"] == ["make image web from base"] and image()["lower"] == image("base")["lower"]


def test_prune_keeps_what_the_build_keeps(converge, full_cycle):
    parent(converge)
    converge("image", **build(run("echo 1 > /srv/1")))
    answer = converge("image", **build(run("echo 1 > /srv/1"), run("echo 2 > /srv/2"), prune=True))
    assert len(answer["actions"]) == 2 and len(stored()) == 3
    full_cycle("image", build(run("echo 1 > /srv/1"), run("echo 3 > /srv/3"), prune=True), dict(name="web", state="absent", prune=True))


def test_a_layer_that_comes_again(converge):
    """A step that gives the tree of an earlier one: the image has that layer once, above what was between."""
    parent(converge)
    archives.write(BASE + "/one", b"one")
    archives.write(BASE + "/two", b"two")
    one, two = (dict(copy=dict(src=BASE + "/" + name, dest="/srv/it")) for name in ("one", "two"))
    for name in ("one", "two"):
        os.utime(BASE + "/" + name, ns=(0, 0))
    converge("image", **build(one, two, one, run("cat /srv/it > /srv/seen")))
    assert len(image()["layers"]) == 4 and [read(path + "/srv/it") for path in image()["lower"][1:3]] == ["one", "two"]
    assert read(image()["lower"][0] + "/srv/seen") == "one" and not converge("image", **build(one, two, one, run("cat /srv/it > /srv/seen")))["changed"]


def test_within_a_cgroup(converge, refuse):
    """What it may use is bounded by a cgroup that is there; that is no part of what the step is known by."""
    parent(converge)
    forks = "for each in 1 2 3 4 5 6 7 8; do sleep 1003 & done"
    refused = refuse("image", **build(run(forks, cgroup="bounds")))
    assert refused == "Cannot build image web: there is no cgroup bounds. Make it first, with the module cgroup."
    assert "The cgroup bounds does not exist yet" in converge("image", check=True, **build(run(forks, cgroup="bounds")))["warnings"][0]
    converge("cgroup", name="bounds", pids_max=5)
    assert "Resource temporarily unavailable" in refuse("image", **build(run(forks, cgroup="bounds"))) and not sleeping()
    converge("image", **build(run("cat /proc/self/cgroup > /srv/seen", cgroup="bounds", network="none")))
    assert "/bounds" in read(image()["lower"][0] + "/srv/seen")
    assert not converge("image", **build(run("cat /proc/self/cgroup > /srv/seen", network="none")))["changed"]
    converge("cgroup", name="bounds", state="absent")


def test_a_step_that_fails(converge, refuse):
    parent(converge)
    before = stored()
    message = refuse("image", **build(run("echo 1 > /srv/1"), run("echo first\necho the reason >&2\nexit 7; echo no"), run("true")))
    assert "Cannot build image web: step 2 (run echo first echo the reason >&2 exit 7; echo no) ended with status 7, and said: first | the reason. " in message
    assert "status 127" in refuse("image", **build(run(["no-such-command"])))
    assert "took longer than its timeout of 1 s" in refuse("image", **build(run("sleep 60 & sleep 60", timeout="1s")))
    assert "there is no user" in refuse("image", **build(run("true", user="nobody")))
    assert "cannot change to its directory /none" in refuse("image", **build(run("true", workdir="/none")))
    assert "is set-user-ID" in refuse("image", **build(run("echo x > /srv/su; chmod 4755 /srv/su")))
    assert "keep for what a layer removes" in refuse("image", **build(run("touch /srv/.wh.x")))
    assert "limits.size" in refuse("image", **build(run("echo 12345678 > /srv/x"), limits={"size": 4}))
    assert stored() == before and image() is None and "timeout" not in str(converge("image", check=True, **build(run("sleep 60", timeout="1s"))))
    # What others have of the steps before stays.
    converge("image", **build(run("echo 1 > /srv/1"), name="other"))
    refuse("image", **build(run("echo 1 > /srv/1"), run("exit 1")))
    assert len(stored()) == 2 and image("other")["layers"][1]["shared_by"] == []
    converge("image", **build(run("echo 1 > /srv/1"), run("echo x > /srv/su; chmod 4755 /srv/su"), allow_setuid=True))
    assert "is set-user-ID" in refuse("image", **build(run("echo 1 > /srv/1"), run("echo x > /srv/su; chmod 4755 /srv/su")))
    converge("image", **build(run("echo 1 > /srv/1"), run("echo x > /srv/su; chmod 4755 /srv/su"), run("echo 2 > /srv/2"), name="third", allow_setuid=True))
    # What an image that was allowed has is no matter of who builds over it.
    assert converge("image", **build(run("echo 3 > /srv/3"), **{"from": "web", "name": "fourth"}))["changed"]


def test_files_and_links(converge, refuse):
    """Nothing is made through a link of the image, whatever it leads to."""
    os.makedirs(BASE + "/outside/etc")
    parent(converge, symlink(b"out", BASE.encode() + b"/outside"), symlink(b"up", b"../../../../run/builds/outside"), symlink(b"srv/loop", b"loop"),
           symlink(b"srv/pass", b"/etc/passwd"), entry(b"srv/file", b"x"))
    archives.write(BASE + "/src/etc/new", b"new")
    archives.write(BASE + "/src/passwd", b"new")

    def write(dest, **more):
        return dict(write=dict(dict(dest=dest, content="x"), **more))

    for dest, name in (("/out/x", "out"), ("/up/x", "up"), ("/out/etc/deep/x", "out"), ("/srv/loop/x", "srv/loop"), ("/bin/x", "bin")):
        assert "its entry '%s' is a symbolic link in the image" % name in refuse("image", **build(write(dest))), dest
    assert "its entry 'out' is a symbolic link" in refuse("image", **build(dict(copy=dict(src=BASE + "/src/etc", dest="/out"))))
    archives.write(BASE + "/tree/out/x", b"x")
    assert "its entry 'out' is a symbolic link" in refuse("image", **build(dict(copy=dict(src=BASE + "/tree", dest="/"))))
    assert "its entry 'srv/file' is no directory" in refuse("image", **build(write("/srv/file/x")))
    assert "its entry 'srv/old' is a directory" in refuse("image", **build(write("/srv/old")))
    assert "its entry 'etc' is a directory" in refuse("image", **build(dict(copy=dict(src=BASE + "/src/passwd", dest="/etc"))))
    # One made by a step is none to follow either, and one that has the name of the file gives way to it.
    assert "its entry 'srv/to'" in refuse("image", **build(run("ln -s /etc /srv/to"), write("/srv/to/x")))
    converge("image", **build(write("/srv/pass"), write("/srv/loop"), dict(copy=dict(src=BASE + "/src", dest="/")), write("/a/b/c")))
    converge("overlay", path=BASE + "/mnt", lower=image()["lower"])
    top = BASE + "/mnt/"
    assert not os.path.islink(top + "srv/pass") and read(top + "etc/passwd").startswith("root:") and read(top + "etc/new") == read(top + "passwd") == "new"
    assert os.stat(top + "etc").st_mode & 0o7777 == 0o711 and os.stat(top + "a/b").st_mode & 0o7777 == 0o755
    assert tree(BASE + "/outside") == ["etc"]
    assert "no user nobody" in refuse("image", **build(write("/srv/x", owner="nobody")))
    os.symlink(BASE + "/outside/passwd", BASE + "/outside/link")
    archives.write(BASE + "/outside/passwd", b"evil:x:5:5::/:/bin/sh\n")
    parent(converge, name="hostile")
    assert "no user evil" in refuse("image", **build(run("rm /etc/passwd; ln -s %s/outside/passwd /etc/passwd" % BASE), write("/srv/x", owner="evil")))


def test_mount_points_do_not_stay(converge, refuse):
    """Also where a link of the image says that its resolv.conf is elsewhere, and where there is none."""
    parent(converge, symlink(b"etc/resolv.conf", b"../run/resolve/conf"))
    converge("image", **build(run("cat /etc/resolv.conf > /srv/seen")))
    assert read(image()["lower"][0] + "/srv/seen") == read("/etc/resolv.conf") and tree(image()["lower"][0]) == ["srv", "srv/seen"]
    parent(converge, symlink(b"etc/resolv.conf", b"/../../run/builds/outside"), name="outside")
    converge("image", **build(run("cat /etc/resolv.conf > /srv/seen"), **{"from": "outside"}))
    assert tree(image()["lower"][0]) == ["srv", "srv/seen"] and not os.path.exists(BASE + "/outside")
    parent(converge, symlink(b"etc/resolv.conf", b"resolv.conf"), name="circle")
    assert "symbolic links (/etc/resolv.conf)" in refuse("image", **build(run("true"), **{"from": "circle"}))
    converge("image", **build(run("rm /etc/resolv.conf", network="none"), run("cat /etc/resolv.conf"), **{"from": "circle"}))
    for lines in ("true", "rm -r /srv/old"):
        converge("image", **build(run("rm /etc/resolv.conf", network="none"), run(lines)))
        assert [tree(path) for path in image()["lower"][:2]] == [["etc"] + ["srv", "srv/old"] * (lines != "true"), ["etc", "etc/resolv.conf"]]


def test_parents(converge, refuse):
    assert "there is no image base. Import that first" in refuse("image", **build())
    answer = converge("image", check=True, **build(run("true"), dict(copy=dict(src=BASE + "/later", dest="/x")), export=BASE + "/out"))
    assert len(answer["actions"]) == 4 and len(answer["warnings"]) == 2
    parent(converge)
    assert "/later cannot be read: No such file" in refuse("image", **build(dict(copy=dict(src=BASE + "/later", dest="/x"))))
    assert "neither a file nor a directory" in refuse("image", **build(dict(copy=dict(src="/dev/null", dest="/x"))))
    converge("image", **build(run("echo 1 > /srv/1")))
    converge("image", **build(run("echo 2 > /srv/2"), **{"from": "web", "name": "third"}))
    assert [layer["shared_by"] for layer in image("third")["layers"]] == [["base", "web"], ["web"], []]
    # A parent may go: who was built over it keeps the layers, but cannot be built again.
    converge("image", name="web", state="absent")
    assert len(image("third")["layers"]) == 3 and not converge("image", name="third", verify=True)["changed"]
    assert "there is no image web" in refuse("image", **build(run("echo 2 > /srv/2"), **{"from": "web", "name": "third"}))


def test_damaged_layers(converge, refuse):
    parent(converge)
    steps = run("echo 1 > /srv/1"), dict(write=dict(dest="/srv/2", content="2")), run("echo 3 > /srv/3")
    converge("image", **build(*steps))
    converge("image", **build(steps[0], name="other"))
    os.chmod(image()["lower"][2] + "/srv/1", 0o777)
    assert "is damaged: ./srv/1 differs in mode" in refuse("image", name="web", verify=True)
    answer = converge("image", **build(*steps, verify=True))
    assert len(answer["actions"]) == 4 and not converge("image", **build(*steps, verify=True))["changed"]
    assert "is damaged" in refuse("image", name="other", verify=True)  # it has the old one, which nobody else takes any more
    assert converge("image", **build(steps[0], name="other", verify=True))["actions"] == ["make image other from base"]
    assert image("other")["lower"] == image()["lower"][2:]
    shutil.rmtree(os.path.dirname(image()["lower"][0]))
    assert converge("image", **build(*steps))["actions"] == ["build step 3 of image web (run echo 3 > /srv/3)", "make image web from base"]
    os.chmod(image("base")["lower"][0] + "/srv", 0o777)
    assert "image base cannot be used" in refuse("image", **build(*steps, verify=True))


def sleeping():
    """How many processes wait as long as the test below tells them to."""
    count = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            count += read("/proc/%s/cmdline" % pid) in ("sleep\x001002\0", "sleep\x001003\0")
        except OSError:  # it has ended meanwhile
            pass
    return count


def test_killed(converge):
    """A build that is killed while a command runs: the command ends with it, and the next run begins with a clean store."""
    parent(converge)
    options = build(run("echo 1 > /srv/1"), run("echo 2 > /srv/2; sleep 1003 & sleep 1002"))

    pid = os.fork()
    if not pid:
        try:
            drive.converge("image", options)
        finally:
            os._exit(0)
    jail.until(lambda: sleeping() == 2)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    jail.until(lambda: not sleeping())
    assert [name for name in stored() if name.startswith(".new-")] and image() is None
    options["steps"][1]["run"] = "echo 2 > /srv/2"
    assert converge("image", **options)["actions"][0] == "remove what a killed run has left in the store"
    assert not [name for name in stored() if name.startswith(".")] and len(image()["layers"]) == 3


def test_killed_at_the_end(converge):
    """Layers that have their names and an image that has not: what is about to be swept away is not built upon."""
    parent(converge)
    options = build(run("echo 1 > /srv/1"), run("echo 2 > /srv/2"))
    converge("image", **options)
    os.rename(LIB + "/images/web.json", LIB + "/images/.web.json.new")
    predicted = converge("image", check=True, **options)
    assert len(predicted["actions"]) == 4 and converge("image", **options)["actions"] == predicted["actions"]
    assert not converge("image", **options)["changed"] and not converge("image", name="web", verify=True)["changed"]


def test_two_at_once(converge):
    parent(converge)
    answers = drive.at_once([("image", build(run("echo 1 > /srv/1"), run("echo 2 > /srv/2")))] * 3)
    assert not [answer["error"] for answer in answers if "error" in answer]
    assert [answer["changed"] for answer in answers].count(True) == 1 and len(stored()) == 3


def test_values_are_not_told(converge, refuse):
    parent(converge)
    steps = run("test -n \"$TOKEN\"", env={"TOKEN": "a-secret-value"}), dict(write=dict(dest="/srv/x", content="other-secret"))
    answer = converge("image", **build(*steps))
    told = json.dumps([answer, drive.info("image")]) + refuse("image", **build(*steps, run("exit 1", env={"TOKEN": "a-secret-value"})))
    assert "a-secret" not in told and "other-secret" not in told
    for where, dummy, names in os.walk(LIB):
        for name in names:
            if name != "x":
                with open(os.path.join(where, name), "rb") as stream:
                    content = stream.read()
                assert b"a-secret-value" not in content and b"other-secret" not in content, name


@pytest.mark.proves("image")
def test_a_sandbox_of_it(converge):
    parent(converge)
    converge("image", **build(run("echo 1 > /srv/1"), config={"command": ["/bin/sleep", "1000"], "workdir": "/srv"}))
    box = dict(sandboxes=[dict(name="box", image="web", namespaces=dict(types=["pid", "mnt"]), services=[dict(name="app")])], remove_data=True, kill=True)
    converge("sandbox", **box)
    assert not converge("sandbox", **box)["changed"]
    begun = time.monotonic()
    converge("sandbox", sandboxes=[dict(name="box", state="absent")], remove_data=True, kill=True)
    assert time.monotonic() - begun < 60
