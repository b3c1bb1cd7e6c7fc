# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sandboxes on networks: they find each other by name, by real traffic of real services, and go without a trace."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess

import drive
import layers
import pytest
from test_sandbox import inside, main_pid, started, until
from wires import Call, Server, ask

TYPES = ["net", "uts", "ipc", "mnt", "pid", "cgroup"]
LAB = {"name": "lab", "subnets": ["10.42.0.0/24", "fd00:42::/64"]}
LISTEN = "use IO::Socket::IP; my $s = IO::Socket::IP->new(LocalHost => '::', LocalPort => 7000, V6Only => 0, Listen => 9, ReuseAddr => 1) or die;"
# Says who it is and who asks, then repeats what it hears.
ECHO = {"name": "echo", "health": {"tcp": 7000}, "command": ["/usr/bin/perl", "-e", LISTEN + """
$SIG{CHLD} = 'IGNORE';
while (1) {
    my $c = $s->accept or next;
    if (!fork) { my $p = $c->peerhost; $p =~ s/::ffff://; syswrite $c, `hostname` . $p . "\\n"; my $b; syswrite $c, $b while sysread $c, $b, 100; exit }
    close $c;
}"""]}
# Says by which address it knows whoever is named by a line.
FIND = {"name": "find", "health": {"tcp": 7000}, "command": ["/usr/bin/perl", "-e", LISTEN + """
$SIG{PIPE} = 'IGNORE';
while (1) {
    my $c = $s->accept or next;
    chomp(my $n = <$c> // '');
    my ($e, $a) = Socket::getaddrinfo($n, '', {socktype => 1});
    print $c $e ? "nobody\\n" : (Socket::getnameinfo($a->{addr}, 1))[1] . "\\n";
    close $c;
}"""]}
ASK = "use IO::Socket::IP; my $c = IO::Socket::IP->new(PeerHost => $ARGV[0], PeerPort => 7000, Timeout => 3) or die qq{$@\\n}; print <$c> . <$c>"


@pytest.fixture(scope="session")
def base():
    return layers.directory() + "/base"


@pytest.fixture
def declare(base):
    """declare(names…): the options of a task that declares these sandboxes, all on the network lab."""

    def act(*names, services=(ECHO,), types=tuple(TYPES), **more):
        policy = {key: more.pop(key) for key in ("on_mismatch", "purge") if key in more}
        one = dict({"cgroup": {"pids_max": 64}, "overlay": {"lower": [base]}, "network": "lab"}, **more)
        spaces = {"types": list(types)}
        return dict({"sandboxes": [dict(copy.deepcopy(one), name=name, services=copy.deepcopy(list(services)),
                                        namespaces=dict(spaces, hostname=name) if "uts" in types else spaces) for name in names]}, **policy)

    return act


@pytest.fixture(autouse=True)
def all_gone(leaves_nothing):
    """After each test all is taken away, and then nothing of it is left: no link, rule or file."""
    yield
    answer = drive.converge("sandbox", {"sandboxes": [], "purge": True, "remove_data": True, "kill": True})
    assert "error" not in answer, answer["error"]
    for name in drive.new_host().records.names("network"):
        answer = drive.converge("network", {"name": name, "state": "absent"})
        assert "error" not in answer, answer["error"]
    assert subprocess.run(["nft", "list", "ruleset"], capture_output=True, check=True).stdout == b""
    assert links() == ["lo"]
    host = drive.new_host()
    from module_utils._supervisor import entry, scan

    scan.shutdown(host)
    entry.clear(host)


@pytest.fixture
def lab(converge):
    return converge("network", **LAB)


def links():
    return sorted(os.listdir("/sys/class/net"))


def within(name, *command):
    """The same, also in a sandbox of the types net and mnt alone."""
    argv = ["nsenter", "--mount=/run/bulkhead/ns/%s/mnt" % name, "--net=/run/netns/" + name, "--"] + list(command)
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


def address(name, family=4):
    """The address of eth0, as ip(8) shows it."""
    shown = json.loads(subprocess.run(["ip", "-n", name, "-json", "-%d" % family, "address", "show", "dev", "eth0", "scope", "global"],
                                      check=True, capture_output=True, text=True).stdout)
    return shown[0]["addr_info"][0]["local"]


def text(name, file="hosts"):
    with open("/etc/netns/%s/%s" % (name, file), encoding="utf-8") as stream:
        return stream.read()


def test_every_state_is_predicted_made_and_kept(full_cycle, lab, declare):
    gone = {"sandboxes": [{"name": name, "state": "absent"} for name in ("cache", "web")]}
    full_cycle("sandbox", declare("cache", "web"), gone)
    assert not os.path.exists("/etc/netns/web") and links() == ["bh-lab", "lo"]


@pytest.mark.proves("network")
def test_they_talk_by_name_in_both_families(converge, lab, declare):
    options = declare("cache", "web")
    options["sandboxes"][0]["network"] = {"name": "lab", "aliases": ["redis"]}
    converge("sandbox", **options)
    for name in ("cache", "redis", address("cache"), address("cache", 6)):
        who, seen = inside("web", "perl", "-e", ASK, name).splitlines()
        assert who == "cache" and seen in (address("web"), address("web", 6))
    assert inside("web", "getent", "hosts", "web").split()[1] == "web"
    assert {line.split()[0] for line in inside("cache", "getent", "ahosts", "web").splitlines()} == {address("web"), address("web", 6)}
    assert subprocess.run(["ip", "netns", "exec", "web", "cat", "/etc/hosts"], check=True, capture_output=True, text=True).stdout == text("web")
    shown = drive.info("sandbox", names=["web"])["sandboxes"][0]["interfaces"]
    assert [each["name"] for each in shown] == ["eth0"] and address("web") in json.dumps(shown)


def test_of_two_networks_they_do_not(converge, lab, declare):
    converge("network", name="other", subnets=["10.43.0.0/24"])
    options = declare("cache", "web")
    options["sandboxes"][0]["network"] = "other"
    converge("sandbox", **options)
    assert "cache" not in text("web") and "web" not in text("cache")
    assert ask("web", ("tcp", address("cache"), 7000)) == [None]
    converge("network", name="lab", reaches=["other"])
    assert inside("web", "perl", "-e", ASK, "cache").splitlines() == ["cache", address("web")]
    assert ask("cache", ("tcp", address("web"), 7000)) == [None]
    converge("network", name="lab", reaches=[])


def test_a_running_service_sees_who_comes_and_goes(converge, lab, declare):
    converge("network", name="lab", internal=True)  # nobody outside is asked for names that are not known
    converge("sandbox", **declare("web", services=[FIND]))
    pid = main_pid("web", "find")
    born = started(pid)

    def known(name):
        return inside("web", "perl", "-e", "use IO::Socket::IP; my $c = IO::Socket::IP->new('127.0.0.1:7000') or die; print $c qq{%s\\n}; print <$c>" % name)

    assert known("late") == "nobody"
    done = converge("sandbox", **declare("late"))
    assert not [action for action in done["actions"] if "web" in action]
    assert known("late") in (address("late"), address("late", 6))
    assert not converge("sandbox", **declare("web", services=[FIND]))["changed"]
    converge("sandbox", sandboxes=[{"name": "late", "state": "absent"}], remove_data=True)
    assert known("late") == "nobody"
    assert (main_pid("web", "find"), started(pid)) == (pid, born)


@pytest.mark.proves("network")
def test_a_published_port_leads_there_and_changes_under_open_connections(converge, lab, declare):
    options = declare("web")
    options["sandboxes"][0]["network"] = {"name": "lab", "publish": ["8080:7000"]}
    converge("sandbox", **options)
    assert [answer.split()[0] for answer in ask(None, ("tcp", "127.0.0.1", 8080), ("tcp", "10.42.0.1", 8080))] == ["web", "web"]
    call, pid = Call(None, "127.0.0.1", 8080), main_pid("web", "echo")
    try:
        assert call.greeting.startswith("web")
        options["sandboxes"][0]["network"]["publish"] = ["8081:7000"]
        predicted = converge("sandbox", check=True, **options)
        assert converge("sandbox", **options)["actions"] == predicted["actions"]
        assert call.echo("still there") == "still there"
    finally:
        call.end()
    answers = ask(None, ("tcp", "127.0.0.1", 8080), ("tcp", "127.0.0.1", 8081))
    assert (answers[0] or "error").startswith("error") and answers[1].startswith("web")
    assert main_pid("web", "echo") == pid and not converge("sandbox", **options)["changed"]


def test_a_limit_is_set_and_changed_in_place(converge, lab, declare):
    options = declare("web")
    for rate, shown in (("8mbit", 8e6), ("16mbit", 16e6)):
        options["sandboxes"][0]["network"] = {"name": "lab", "bandwidth": {"transmit": rate}}
        assert converge("sandbox", **options)["changed"] and not converge("sandbox", **options)["changed"]
        found = json.loads(subprocess.run(["tc", "-n", "web", "-json", "qdisc", "show", "dev", "eth0"], check=True, capture_output=True).stdout)
        assert [(each["kind"], each["options"]["rate"] * 8) for each in found if each["kind"] == "tbf"] == [("tbf", shown)]
    options["sandboxes"][0]["network"] = "lab"
    assert converge("sandbox", **options)["changed"] and not converge("sandbox", **options)["changed"]
    assert b"tbf" not in subprocess.run(["tc", "-n", "web", "qdisc", "show"], check=True, capture_output=True).stdout


def test_a_network_is_taken_away_again_and_the_image_s_own_files_come_back(converge, lab, declare):
    without = declare("web", network=None)
    converge("sandbox", **without)
    own, pid = inside("web", "sh", "-c", "cat /etc/hosts; ls /etc/resolv.conf || :"), main_pid("web", "echo")
    predicted = converge("sandbox", check=True, **declare("web"))
    assert converge("sandbox", **declare("web"))["actions"] == predicted["actions"]
    assert inside("web", "cat", "/etc/hosts") == text("web").strip() and "10.42.0." in text("web")
    predicted = converge("sandbox", check=True, **without)
    assert converge("sandbox", **without)["actions"] == predicted["actions"] and not converge("sandbox", **without)["changed"]
    assert inside("web", "sh", "-c", "cat /etc/hosts; ls /etc/resolv.conf || :") == own or own == ""
    assert main_pid("web", "echo") == pid and not os.path.exists("/etc/netns/web") and links() == ["bh-lab", "lo"]


def test_in_a_user_namespace_names_are_read_alike(converge, lab, declare):
    options = declare("cache", "web", types=["user"] + TYPES)
    for one in options["sandboxes"]:
        one["namespaces"].update(uid_map=["0 100000 65536"], gid_map=["0 100000 65536"])
    converge("sandbox", **options)
    argv = ["nsenter", "--user=/run/bulkhead/ns/web/user", "--mount=/run/bulkhead/ns/web/mnt", "--net=/run/netns/web", "--setuid=33", "--",
            "perl", "-e", ASK, "cache"]
    assert subprocess.run(argv, check=True, capture_output=True, text=True).stdout.split()[0] == "cache"
    assert not converge("sandbox", **options)["changed"]


def test_what_the_administrator_put_there_is_kept(refuse, lab, declare):
    os.makedirs("/etc/netns/web")
    with open("/etc/netns/web/resolv.conf", "w", encoding="utf-8") as stream:
        stream.write("nameserver 203.0.113.1\n")
    try:
        assert refuse("sandbox", **declare("web")).startswith("Cannot write /etc/netns/web/resolv.conf: it was not made by Bulkhead.")
        assert os.listdir("/etc/netns/web") == ["resolv.conf"] and links() == ["bh-lab", "lo"]
    finally:
        os.unlink("/etc/netns/web/resolv.conf")
        os.rmdir("/etc/netns/web")


def test_one_that_fails_leaves_neither_link_nor_rule_nor_name(lab, declare):
    options = declare("cache", "web")
    options["sandboxes"][1]["services"] = [{"name": "x", "command": ["/bin/no-such-command"]}]
    options["sandboxes"][1]["network"] = {"name": "lab", "publish": ["8080:80"]}
    answer = drive.converge("sandbox", options)
    assert answer["keys"]["web"]["not_undone"] == [], answer
    assert not os.path.exists("/etc/netns/web") and "web" not in text("cache") and len(links()) == 3
    rules = subprocess.run(["nft", "list", "table", "inet", "bulkhead"], check=True, capture_output=True, text=True).stdout
    assert "web/eth0" not in rules and "cache/eth0" in rules
    assert not drive.converge("sandbox", declare("cache"))["changed"]


@pytest.mark.parametrize("damage", [
    "rm /etc/netns/web/hosts", "echo 10.0.0.1 bank >> /etc/netns/web/hosts", "rm -r /run/bulkhead/made/names /run/bulkhead/made/interface",
    "ip -n web link delete eth0", "ip -n web address flush dev eth0 scope global", "ip -n web route delete default", "umount -l /run/netns/web",
    "ip link set dev $(ls /sys/class/net | grep -v -e ^lo -e ^bh-) nomaster", "nft delete table inet bulkhead",
    "nsenter --mount=/run/bulkhead/mntns/web --pid=/run/bulkhead/ns/web/pid umount -l /etc/hosts",
])
def test_damage_from_outside_is_mended(converge, lab, declare, damage):
    options = declare("web", on_mismatch="recreate")
    options["sandboxes"][0]["network"] = {"name": "lab", "publish": ["8080:7000"]}
    converge("sandbox", **options)
    before = address("web")
    subprocess.run(["sh", "-c", damage + "; rm -rf /run/mount"], check=True)
    predicted = converge("sandbox", check=True, **options)
    done = converge("sandbox", **options)
    assert done["changed"] and predicted["actions"] == done["actions"]
    assert not converge("sandbox", **options)["changed"]
    assert address("web") == before and inside("web", "cat", "/etc/hosts") == text("web").strip() and "bank" not in text("web")
    until(lambda: (ask(None, ("tcp", "127.0.0.1", 8080))[0] or "").startswith("web"))
    if "delete table" in damage:
        converge("network", **LAB)


def test_a_dead_keeper_and_a_new_namespace_get_a_new_link(converge, lab, declare):
    options = declare("cache", "web")
    converge("sandbox", **options)
    before = address("web")
    keeper = drive.info("sandbox", names=["web"])["sandboxes"][0]["namespaces"]["keeper"]
    os.kill(keeper, signal.SIGKILL)
    os.waitpid(keeper, 0)
    predicted = converge("sandbox", check=True, **options)
    assert converge("sandbox", **options)["actions"] == predicted["actions"]
    assert inside("web", "perl", "-e", ASK, "cache").splitlines()[0] == "cache" and address("web") == before
    assert not converge("sandbox", **options)["changed"]


@pytest.mark.proves("network after a reboot")
def test_after_a_reboot_all_have_the_addresses_that_they_had(converge, lab, declare):
    from module_utils._program import host as whole_host, whole
    from module_utils._engine.engine import converge as act

    options = declare("cache", "web")
    converge("sandbox", **options)
    before = [address(name, family) for name in ("cache", "web") for family in (4, 6)]
    act(drive.new_host(), whole_host, {"state": "absent", "clear": True})
    assert links() == ["lo"] and subprocess.run(["nft", "list", "ruleset"], capture_output=True, check=True).stdout == b""
    done, failed = whole.restore(drive.new_host())
    assert not failed, failed
    assert [address(name, family) for name in ("cache", "web") for family in (4, 6)] == before
    until(lambda: inside("web", "perl", "-e", ASK, "cache").splitlines()[0] == "cache")
    assert whole.restore(drive.new_host()) == ([], [])
    assert not converge("sandbox", **options)["changed"] and not converge("network", **LAB)["changed"]


def test_fifty_are_one_task(converge, lab, declare):
    names = ["box%02d" % number for number in range(50)]
    options = declare(*names, services=(), types=("net", "mnt"))
    predicted = converge("sandbox", check=True, **options)
    done = converge("sandbox", **options)
    assert done["actions"] == predicted["actions"] and not converge("sandbox", **options)["changed"]
    assert len({address(name) for name in names}) == 50 and len(links()) == 52
    server = Server("box49", 7000)
    try:
        known = within("box00", "getent", "ahostsv4", "box49").split()[0]
        assert known == address("box49") and ask("box00", ("tcp", known, 7000)) == ["box49 " + address("box00")]
    finally:
        server.end()
    assert all(text(name).count(" box") == 100 for name in names)
    gone = {"sandboxes": [{"name": name, "state": "absent"} for name in names], "remove_data": True}
    assert converge("sandbox", check=True, **gone)["actions"] == converge("sandbox", **gone)["actions"]
    assert links() == ["bh-lab", "lo"] and not os.path.isdir("/etc/netns/box00")


def test_what_is_wrong_is_refused_before_anything_is_touched(refuse, lab, declare):
    for network, why in (
            ({"name": "lab", "addresses": ["10.99.0.5/24"]}, "10.99.0.5"), ("nowhere", "nowhere"),
            ({"name": "lab", "addresses": ["10.42.0.1/24"]}, "10.42.0.1"),
            ({"name": "lab", "publish": ["8080:80", "8080:81"]}, "network.publish[1]")):
        assert why in refuse("sandbox", **declare("web", network=network))
        assert links() == ["bh-lab", "lo"] and not os.path.exists("/etc/netns/web") and not os.path.exists("/run/netns/web")
