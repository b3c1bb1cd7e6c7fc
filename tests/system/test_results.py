# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What _info modules show has the keys that their documentation tells of, all of them and no others, and of the types that it says."""

from __future__ import annotations

import ast
import os

import boxes
import drive
import pytest
import yaml
from module_utils._model import limits

TYPES = {"str": str, "int": int, "bool": bool, "list": list, "dict": dict, "raw": object}
MAP = ["0 100000 65536"]
SLEEP = {"name": "app", "command": ["/bin/sleep", "1000"]}
# Keys of what others or another host would show: said in `returned`, and looked at where they are there.
WHERE = ("when the driver is systemd", "when the kernel counts it", "on cgroup v2", "with O(", "of type", "of the types", "when it has them", "when there is",
         "when present and the controller is there", "when the controller is there")


def documented(module):
    """RETURN of a module."""
    with open("%s/plugins/modules/%s.py" % (drive.ROOT, module), encoding="utf-8") as source:
        texts = {node.targets[0].id: node.value for node in ast.parse(source.read()).body if isinstance(node, ast.Assign)}
    return yaml.safe_load(ast.literal_eval(texts["RETURN"]))


def differences(contains, shown, path, known=()):
    """What is wrong, in words, with one dictionary that is shown."""
    for key in sorted(set(shown) - set(contains) - set(known)):
        yield "%s.%s is told of nowhere" % (path, key)
    for key, said in contains.items():
        if key not in shown:
            if not said.get("returned", "always").startswith(WHERE):
                yield "%s.%s is not there" % (path, key)
            continue
        value = shown[key]
        if value is not None and not isinstance(value, TYPES[said["type"]]):
            yield "%s.%s is %r, not of type %s" % (path, key, value, said["type"])
        for index, each in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(each, dict) and "contains" in said:
                yield from differences(said["contains"], each, "%s.%s[%d]" % (path, key, index))


@pytest.fixture(name="everything")
def fixture_everything(converge):
    """One of each, and nothing of it afterwards."""
    with boxes.place():
        boxes.made()
        converge("cgroup", name="bulkhead/one", memory_max="64M", pids_max=20)
        converge("network", name="lab", subnets=["10.42.0.0/24"])
        converge("namespace", name="one", types=["net", "uts", "pid", "mnt", "user"], uid_map=MAP, gid_map=MAP)
        converge("interface", interfaces=[{"namespace": "one", "name": "eth0", "network": "lab", "publish": ["8080:80"]},
                                          {"namespace": "one", "name": "far", "type": "vxlan", "vni": 7, "remote": "10.42.0.9"}])
        os.makedirs(boxes.BASE + "/tree")
        converge("overlay", path="/run/bulkhead/mnt/one", lower=[boxes.BASE + "/tree"], upper="/var/lib/bulkhead/uppers/one/upper",
                 work="/var/lib/bulkhead/uppers/one/work")
        converge("sandbox", sandboxes=[boxes.sandbox(services=[dict(SLEEP, health={"command": ["/bin/sleep", "0"]})])])
        converge("snapshot", sandbox="box", name="kept")
        yield
        boxes.take_away(remove_data=True)


@pytest.mark.parametrize("options", [{}, {"changes": True, "storage": True, "verify": True}])
def test_results_are_as_documented(everything, options):
    wrong = []
    for noun, module, known in (("cgroup", "cgroup", tuple(limits.TABLE) + ("hugetlb",)), ("network", "network_info", ()), ("interface", "interface_info", ()),
                                ("namespace", "namespace_info", ()), ("overlay", "overlay_info", ()), ("image", "image_info", ()),
                                ("service", "chroot_service_info", ()), ("sandbox", "sandbox_info", ()), ("snapshot", "snapshot_info", ())):
        said, answer = documented(module), drive.info(noun, **options)
        if module == "cgroup":  # what the one returns, the other lists
            said = {"cgroups": said["cgroup"]}
        assert set(answer) == set(said) and all(answer.values()), answer
        for key, each in said.items():
            for shown in answer[key]:
                wrong += differences(each["contains"], shown, module, known)
    assert not wrong, "\n".join(sorted(set(wrong)))
