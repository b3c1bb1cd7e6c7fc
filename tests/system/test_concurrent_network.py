# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sixteen runs at once on one network: each address is given once, one run makes an object, none fails, and no rule is lost."""

from __future__ import annotations

import json
import subprocess

import drive
import pytest

MANY = 16
LAB = ("network", dict(name="lab", subnets=["10.42.0.0/24"]))
NO_LAB = ("network", dict(name="lab", state="absent"))


def changed(answers):
    failures = [answer["error"] for answer in answers if "error" in answer]
    assert not failures, failures
    return sum(answer["changed"] for answer in answers)


def interface(*namespaces, **more):
    return "interface", dict(interfaces=[dict(namespace=name, name="eth0", **(more or {"network": "lab"})) for name in namespaces])


def elements(name):
    """The elements of a set of ours."""
    listed = subprocess.run(["nft", "-j", "list", "set", "inet", "bulkhead", name], capture_output=True, text=True, check=True).stdout
    return [elem for each in json.loads(listed)["nftables"] if "set" in each for elem in each["set"].get("elem", ())]


@pytest.fixture
def spaces():
    """The network, and net namespaces without interfaces."""
    names = ["web%d" % number for number in range(MANY)]
    for task in [LAB] + [("namespace", dict(name=name, types=["net"])) for name in names]:
        changed([drive.converge(*task)])
    yield names
    changed([drive.converge(*interface(*names, state="absent"))])
    for task in [("namespace", dict(name=name, state="absent")) for name in names] + [NO_LAB]:
        changed([drive.converge(*task)])


def test_the_same_network():
    assert changed(drive.at_once([LAB] * MANY)) == 1
    assert changed(drive.at_once([NO_LAB] * MANY)) == 1
    changed(drive.at_once([LAB, NO_LAB] * (MANY // 2)))
    changed([drive.apart(*NO_LAB)])
    assert changed([drive.apart(*NO_LAB)]) == 0


def test_the_same_interface(spaces):
    assert changed(drive.at_once([interface(spaces[0])] * MANY)) == 1
    assert changed(drive.at_once([interface(spaces[0], state="absent")] * MANY)) == 1
    changed(drive.at_once([interface(spaces[0]), interface(spaces[0], state="absent")] * (MANY // 2)))


def test_each_gets_an_address_of_its_own(spaces):
    assert changed(drive.at_once([interface(name) for name in spaces])) == MANY
    members = elements("members4")
    addresses = [each["elem"]["val"]["concat"][1] for each in members]
    assert len(members) == MANY and len(set(addresses)) == MANY, members
    assert changed(drive.at_once([interface(name) for name in spaces])) == 0
    assert changed(drive.at_once([interface(name, state="absent") for name in spaces])) == MANY
    assert elements("members4") == []


def test_one_address_for_two_is_given_to_one(spaces):
    answers = drive.at_once([interface(name, network="lab", addresses=["10.42.0.77/24"]) for name in spaces])
    assert sum(answer["changed"] for answer in answers) == 1
    refusals = [answer["error"] for answer in answers if "error" in answer]
    assert len(refusals) == MANY - 1 and all("10.42.0.77" in text for text in refusals), refusals
