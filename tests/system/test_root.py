# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The prepared root: made with real namespaces, seen from outside and from inside, changed while it lives."""

from __future__ import annotations

import os
import stat
import time

import pytest

import drive

from module_utils._engine import places
from module_utils._engine.plan import Plan, run_plan
from module_utils._kernel import inside, nsfs, overlayfs, syscalls
from module_utils._model.errors import BulkheadError, Problems
from module_utils._model.namespace import NamespaceSpec
from module_utils._model.overlay import OverlaySpec
from module_utils._model.root import MASKED, RootSpec
from module_utils._resources import namespace, root

TYPES = ("net", "uts", "ipc", "mnt", "pid", "cgroup")
NAME = "t-root"


class Sandbox:
    """Namespaces and root, planned and run as the composite does it."""

    def __init__(self, top):
        self.top = str(top)
        syscalls.mount("test", self.top, "tmpfs", 0, "mode=755")
        for path in ("base/etc", "base/bin", "app/srv", "share", "share2"):
            os.makedirs("%s/%s" % (self.top, path))
        for path in ("base/etc/file", "share/one", "share2/two", "file"):
            self.write(path, path)
        self.base = dict(lower=[self.top + "/app", self.top + "/base"], upper=self.top + "/upper", work=self.top + "/work")

    def write(self, path, text):
        with open("%s/%s" % (self.top, path), "w", encoding="utf-8") as stream:
            stream.write(text)

    def run(self, check=False, types=TYPES, base=None, on_mismatch="recreate", named=False, **options):
        host, problems = drive.new_host(), Problems()
        base = base or OverlaySpec.from_options(self.base, "overlay", problems, defaults={"path": "/run/bulkhead/mnt/" + NAME})
        spec = RootSpec.from_options(options, "", problems, name=NAME, base=base, types=types)
        spec.named = named
        wanted = NamespaceSpec.from_options(dict(types=list(types)), "", problems, name=NAME)
        problems.raise_if_any()
        places.ensure(host)
        host.check = check
        wanted.on_mismatch, wanted.kill = on_mismatch, True
        plan, mounts = Plan(), Plan()
        root.prepare(host, spec, plan)
        self.stale = root.plan(host, spec, mounts, fresh=not namespace.found(host, NAME).pins["mnt"].alive)
        wanted.furnish, wanted.root_stale = (lambda host: root.furnish(host, spec)), bool(self.stale)
        spaces = Plan()
        namespace.plan(host, wanted, spaces)
        plan.take(spaces)
        if not any("mnt" in step.name and "create" in step.name for step in spaces.steps):
            plan.take(mounts)
        if not check:
            run_plan(plan)
        return plan.actions

    def remove(self):
        host = drive.new_host()
        gone = NamespaceSpec.from_options({}, "", Problems(), name=NAME)
        gone.state, gone.kill = "absent", True
        plan = Plan()
        namespace.plan(host, gone, plan)
        root.plan_removal(host, NAME, plan)
        run_plan(plan)

    def pin(self):
        return nsfs.pin_path(drive.new_host(), NAME, "mnt")

    def table(self):
        return inside.table(self.pin())

    def keeper(self):
        return nsfs.look(nsfs.pin_path(drive.new_host(), NAME, "pid"), "pid").init

    def inside(self, work):
        """Run work() in a child inside all namespaces; its text."""
        host = drive.new_host()
        paths = {kind: nsfs.pin_path(host, NAME, kind) for kind in TYPES}

        def act():
            try:
                return work()
            except OSError as exc:
                return "error %d" % exc.errno
        return nsfs.child(paths, act)


@pytest.fixture
def box(tmp_path):
    made = Sandbox(tmp_path)
    if not overlayfs.can_detach():
        with pytest.raises(BulkheadError) as refused:
            made.run()
        assert "no detached mounts" in str(refused.value)
        syscalls.umount(made.top)
        pytest.skip("a prepared root needs detached mounts; that it is refused without them was just seen")
    yield made
    made.remove()
    end = time.monotonic() + 5
    while True:
        try:
            syscalls.umount(made.top)
            break
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)


def content(path):
    with open(path, encoding="utf-8") as stream:
        return stream.read()


def test_made_and_unchanged(box):
    predicted = box.run(check=True)
    done = box.run()
    assert predicted == done
    assert box.run() == []
    assert box.run(check=True) == []
    table = box.table()
    targets = [mount.target for mount in table.mounts]
    assert len(targets) == len(set(targets)), targets
    assert table.top("/").fstype == "overlay" and "nodev" in table.top("/").options
    assert {"/proc": "proc", "/sys": "sysfs", "/dev": "tmpfs", "/dev/pts": "devpts", "/dev/shm": "tmpfs", "/dev/mqueue": "mqueue"} == {
        path: table.top(path).fstype for path in ("/proc", "/sys", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue")}
    assert all(mount.propagation == [] for mount in table.mounts)
    assert "ro" in table.top("/sys").options and "ro" in table.top("/proc/sys").options and "ro" in table.top("/sys/fs/cgroup").options
    assert not [mount for mount in drive.new_host().mounts().mounts if mount.fstype == "overlay"]


def test_seen_from_inside(box):
    box.run()
    assert box.inside(lambda: " ".join(sorted(os.listdir("/")))) == "bin dev etc proc srv sys"
    assert box.inside(lambda: " ".join(sorted(os.listdir("/dev")))) == \
        "core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero"
    keeper = "/proc/%d/" % box.keeper()
    assert os.readlink(keeper + "root") == "/" and os.path.exists(keeper + "root/srv") and not os.path.exists(keeper + "root/usr")
    for path in MASKED:
        if os.path.isdir(path):
            assert os.listdir(keeper + "root" + path) == []
        elif os.path.exists(path):
            assert box.inside(lambda path=path: content(path)) == "", path
    # one pid namespace: its init, and the child that looks
    assert box.inside(lambda: content("/proc/1/status").split("\n")[0])
    assert box.inside(lambda: open("/proc/sys/kernel/hostname", "w", encoding="utf-8").close() or "written") == "error 30"
    assert box.inside(lambda: open("/sys/new", "w", encoding="utf-8").close() or "written").startswith("error")
    assert box.inside(lambda: open("/sys/fs/cgroup/new", "w", encoding="utf-8").close() or "written") == "error 30"
    assert box.inside(lambda: str(os.write(os.open("/dev/null", os.O_WRONLY), b"x"))) == "1"
    for name, number in (("null", (1, 3)), ("tty", (5, 0)), ("urandom", (1, 9))):
        found = os.stat(keeper + "root/dev/" + name)
        assert stat.S_ISCHR(found.st_mode) and found.st_rdev == os.makedev(*number) and stat.S_IMODE(found.st_mode) == 0o666
    assert box.inside(lambda: str(len(os.openpty()))) == "2"


def test_binds_tmpfs_devices(box):
    options = dict(bind=[dict(source=box.top + "/share", target="/srv/www", read_only=True), dict(source=box.top + "/file", target="/etc/app/file")],
                   tmpfs=[dict(target="/run", size="16M", mode="0700"), dict(target="/dev/shm", size="1M")],
                   devices=["/dev/fuse", dict(path="/dev/x/null", source="/dev/null", mode="0600")],
                   masked_paths=["/etc/file", "/bin"], read_only_paths=["/srv"])
    box.run(**options)
    assert box.run(**options) == []
    assert box.inside(lambda: content("/srv/www/one")) == "share/one"
    assert box.inside(lambda: content("/etc/app/file")) == "file"
    assert box.inside(lambda: content("/etc/file")) == ""
    assert box.inside(lambda: open("/srv/x", "w", encoding="utf-8").close() or "written") == "error 30"
    assert box.inside(lambda: open("/srv/www/x", "w", encoding="utf-8").close() or "written") == "error 30"
    found = os.stat("/proc/%d/root/dev/x/null" % box.keeper())
    assert found.st_rdev == os.makedev(1, 3) and stat.S_IMODE(found.st_mode) == 0o600
    assert {"nosuid", "nodev", "ro"} <= set(box.table().top("/srv/www").options)
    assert "size=16384k" in box.table().top("/run").super_options and "size=1024k" in box.table().top("/dev/shm").super_options


def test_live_changes(box):
    box.run()
    keeper = box.keeper()
    share, other = ([dict(source=box.top + "/" + name, target="/srv/www")] for name in ("share", "share2"))
    for options in (dict(bind=share), dict(bind=other), dict(bind=[dict(other[0], read_only=True)]), dict(bind=[dict(other[0], noexec=True)]),
                    dict(tmpfs=[dict(target="/run")]), dict(tmpfs=[dict(target="/run", size="1M")]), dict(tmpfs=[dict(target="/run", mode="0711")]),
                    dict(devices=["/dev/fuse"]), dict(devices=[dict(path="/dev/fuse", mode="0640")]), dict(masked_paths=["/bin", "/etc/file"]),
                    dict(read_only_paths=["/srv"]), dict()):
        predicted = box.run(check=True, **options)
        done = box.run(**options)
        assert done and predicted == done and box.stale == [], options
        assert box.run(**options) == [], options
        assert box.keeper() == keeper
        if options.get("bind") == share:
            assert box.inside(lambda: " ".join(os.listdir("/srv/www"))) == "one"
        if options.get("bind") == other:
            assert box.inside(lambda: " ".join(os.listdir("/srv/www"))) == "two"
    assert len(box.table().mounts) == len({mount.target for mount in box.table().mounts})


def test_another_base_is_stale(box):
    box.run()
    box.inside(lambda: open("/etc/kept", "w", encoding="utf-8").close() or "")
    keeper = box.keeper()
    box.base["lower"] = [box.top + "/base"]
    assert box.run(check=True) and box.stale == ["overlay.lower"]
    box.run()
    assert box.keeper() != keeper
    assert not box.run() and box.stale == []
    assert box.inside(lambda: " ".join(sorted(os.listdir("/etc")))) == "file kept"


def test_a_replaced_layer_is_stale(box):
    box.run()
    os.rename(box.top + "/base", box.top + "/old")
    os.makedirs(box.top + "/base/etc")
    assert box.run(check=True) and box.stale == ["overlay.lower"]


def test_directory_as_base(box):
    box.run(base=box.top + "/base")
    assert box.run(base=box.top + "/base") == []
    assert box.inside(lambda: content("/etc/file")) == "base/etc/file"
    assert box.run(check=True, base=box.top + "/app") and box.stale == ["root"]
    assert box.run(check=True) and box.stale == ["overlay"]


def test_read_only_base(box):
    for name in ("proc", "sys", "dev"):
        with pytest.raises(BulkheadError) as refused:
            box.base = dict(lower=[box.top + "/app", box.top + "/base"], read_only=True)
            box.run()
        assert "it is read-only and has no /" + name in str(refused.value)
        os.mkdir(box.top + "/base/" + name)
    box.run()
    assert box.run() == []
    assert box.inside(lambda: open("/x", "w", encoding="utf-8").close() or "written") == "error 30"


def test_damage_inside_is_mended(box):
    options = dict(bind=[dict(source=box.top + "/share", target="/srv/www")], tmpfs=[dict(target="/run")])
    box.run(**options)
    with inside.Inside(box.pin()):
        for path in ("/srv/www", [path for path in MASKED if os.path.exists(path)][0], "/proc/sys", "/run"):
            syscalls.umount(path)
        os.unlink("/dev/null")
    keeper = box.keeper()
    assert len(box.run(**options)) >= 5 and box.run(**options) == [] and box.keeper() == keeper
    with inside.Inside(box.pin()):
        syscalls.umount("/dev/mqueue")
    assert box.run(check=True, **options) and box.stale == ["/dev/mqueue"]
    box.run(**options)
    assert box.keeper() != keeper and box.run(**options) == []


def test_links_in_the_image_lead_nowhere_outside(box):
    os.makedirs(box.top + "/victim")
    os.symlink("../" * 20 + box.top[1:] + "/victim", box.top + "/app/evil")
    os.symlink(box.top + "/victim", box.top + "/app/evil2")
    os.symlink("/evil", box.top + "/app/dev")
    os.symlink("/etc", box.top + "/app/cfg")
    for bad in ("/evil/x", "/evil2/x"):
        with pytest.raises(BulkheadError):
            box.run(tmpfs=[dict(target=bad)])
    os.unlink(box.top + "/app/dev")
    options = dict(tmpfs=[dict(target="/cfg/inner")], masked_paths=["/evil", "/evil2", "/cfg/file"])
    box.run(**options)
    assert box.run(**options) == []
    assert box.table().top("/etc/inner").fstype == "tmpfs" and os.listdir(box.top + "/victim") == []
    assert [mount.target for mount in box.table().mounts if "evil" in mount.target or "victim" in mount.target] == []


@pytest.mark.parametrize(("path", "leads", "options", "kind"), [
    ("dev", "/nowhere", {}, "directory"), ("proc", "proc", {}, "directory"), ("srv/www", "none", dict(bind="share"), "directory"),
    ("srv", "/none", dict(bind="share"), "directory"), ("srv/www", "/none", dict(bind="file"), "file"), ("srv", "none", dict(bind="file"), "directory")])
def test_a_link_of_the_image_that_leads_nowhere(box, path, leads, options, kind):
    os.rmdir(box.top + "/app/srv")
    if "/" in path:
        os.mkdir(box.top + "/app/srv")
    os.symlink(leads, "%s/app/%s" % (box.top, path))
    options = {key: [dict(source="%s/%s" % (box.top, name), target="/srv/www")] for key, name in options.items()}
    with pytest.raises(BulkheadError) as refused:
        box.run(**options)
    assert "/%s is a link that leads nowhere. Make it a %s in a layer." % (path, kind) in str(refused.value)
    os.unlink("%s/app/%s" % (box.top, path))
    box.run(**options)
    assert box.run(**options) == []


def test_a_killed_change_is_not_forgotten(box):
    os.symlink("/etc", box.top + "/app/cfg")
    box.run()
    note = root._live.note

    def killed(*args):
        raise KeyboardInterrupt
    for options in (dict(bind=[dict(source=box.top + "/share", target="/cfg/www")]), dict(tmpfs=[dict(target="/run")]), dict(devices=["/dev/fuse"])):
        root._live.note = killed
        try:
            with pytest.raises(KeyboardInterrupt):
                box.run(**options)
        finally:
            root._live.note = note
        assert box.run(**options) == []
        assert box.run() and box.run() == []
        assert box.table().top("/etc/www") is None and box.table().top("/run") is None
    assert box.inside(lambda: str(os.path.exists("/dev/fuse") or os.path.exists("/run/bulkhead"))) == "False"


def test_upper_of_another_is_refused(box):
    box.run()
    base = OverlaySpec.from_options(box.base, "overlay", Problems(), defaults={"path": "/run/bulkhead/mnt/other"})
    host, problems = drive.new_host(), Problems()
    spec = RootSpec.from_options({}, "", problems, name="other", base=base, types=TYPES)
    with pytest.raises(BulkheadError) as refused:
        root.prepare(host, spec, Plan())
    assert "in use" in str(refused.value)


def test_input_errors():
    problems = Problems()
    RootSpec.from_options(dict(bind=[dict(source="/x", target="/"), dict(source="x", target="/proc/sys"), dict(target="/a/../b"), 3],
                               tmpfs=[dict(target="/sys"), dict(target="/dev"), dict(target="/ok", size="-1"), dict(target="/ok")],
                               devices=["/etc/passwd", "/dev/pts/3", dict(path="/dev/x", mode="9")], masked_paths=["rel"], bogus=1), "sandboxes[1]",
                          problems, name="x", base="/", types=TYPES)
    assert len(problems.errors) >= 11 and all(error.startswith("sandboxes[1].") for error in problems.errors), problems.errors


@pytest.fixture
def names():
    """The files of names of the sandbox: {name: path}."""
    directory = drive.new_host().names + "/" + NAME
    os.makedirs(directory)
    for name in ("hosts", "resolv.conf"):
        with open("%s/%s" % (directory, name), "w", encoding="utf-8") as stream:
            stream.write("# %s\n" % name)
    yield {name: "%s/%s" % (directory, name) for name in os.listdir(directory)}
    for name in os.listdir(directory):
        os.unlink("%s/%s" % (directory, name))
    os.rmdir(directory)


@pytest.mark.parametrize("link", [None, "/run/resolver/stub.conf", "../run/resolver/stub.conf", "../../../../run/x"])
@pytest.mark.parametrize("more", [{}, {"tmpfs": [{"target": "/run"}]}])
def test_names_are_shown_where_the_image_looks_for_them(box, names, link, more):
    """resolv.conf of an image is often a link to what is made in /run at its boot: that is made, inside the root."""
    if link:
        os.symlink(link, box.top + "/base/etc/resolv.conf")
    box.write("base/etc/hosts", "the image's own\n")
    box.run(**more)  # without a network
    before, own = box.keeper(), box.inside(lambda: content("/etc/hosts"))
    predicted = box.run(check=True, named=True, **more)
    assert box.run(named=True, **more) == predicted and box.run(named=True, **more) == []
    assert [box.inside(lambda name=name: content("/etc/" + name)) for name in ("hosts", "resolv.conf")] == ["# hosts\n", "# resolv.conf\n"]
    assert box.inside(lambda: str(os.path.islink("/etc/resolv.conf"))) == str(bool(link))
    with open(names["hosts"], "r+", encoding="utf-8") as stream:  # in place, as they are written
        stream.write("# other\n")
    assert box.inside(lambda: content("/etc/hosts")) == "# other\n"
    os.unlink(names["hosts"])  # and anew, by hand: another file, which is not what is shown
    with open(names["hosts"], "w", encoding="utf-8") as stream:
        stream.write("# anew\n")
    assert len(box.run(named=True, **more)) == 3 and box.inside(lambda: content("/etc/hosts")) == "# anew\n"
    box.run(**more)
    assert box.inside(lambda: content("/etc/hosts")) == own == "the image's own\n" and box.keeper() == before


def test_a_read_only_root_without_the_file_is_refused_unless_it_leads_elsewhere(box, names):
    base = dict(box.base, upper=None, work=None, read_only=True)
    os.unlink(box.top + "/base/etc/file")
    os.symlink("/run/x", box.top + "/base/etc/resolv.conf")
    for directory in ("proc", "sys", "dev", "run"):
        os.mkdir(box.top + "/base/" + directory)
    spec = OverlaySpec.from_options(base, "overlay", Problems(), defaults={"path": "/run/bulkhead/mnt/" + NAME})
    with pytest.raises(BulkheadError, match="it is read-only and has no /etc/hosts to mount on"):
        box.run(base=spec, named=True, tmpfs=[{"target": "/run"}])
    box.write("base/etc/hosts", "")
    box.run(base=spec, named=True, tmpfs=[{"target": "/run"}])
    assert box.inside(lambda: content("/etc/resolv.conf")) == "# resolv.conf\n"
