#!/usr/bin/env bash
# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# The demo as `make demo` and `make demo-clean` play it: made, unchanged, answering over its network, and gone without a trace.
set -euo pipefail

log=$(mktemp)
trap 'rm -f "$log"' EXIT

fail() {
    cat "$log"
    echo "quickstart: $*" >&2
    exit 1
}

# Only below /run, which is a private host's own.
play() {
    ansible-playbook --inventory localhost, --connection local --extra-vars bulkhead_program=/run/quickstart/bulkhead \
        --extra-vars "ansible_python_interpreter=$ANSIBLE_TEST_PYTHON_INTERPRETER" "bulkhead.isolation.$1" "${@:2}" >"$log" 2>&1
}

# What the demo may change of the host's network, but counters and handles.
network() {
    ip -json address
    ip -json route show table all
    ip -json rule
    ip -json neighbour show nud permanent
    tc -json qdisc
    nft list ruleset
    sysctl -a -r '^net\.(ipv4|ipv6)\.(ip_forward|conf\..*\.(forwarding|accept_ra|route_localnet|proxy_arp.*))$' 2>/dev/null
    find /etc/netns
}

before=$(network)

# A host that has the subnet already: refused in plain words, and nothing is made.
ip link add taken type veth peer name other
ip address add 10.213.57.9/24 dev taken
ip link set taken up
if play quickstart; then fail "it takes a subnet that the host has"; fi
grep -q 'Cannot .*10\.213\.57\.0/24.*taken' "$log" || fail "it does not say who has the subnet"
ip link delete taken
[ "$(network)" = "$before" ] || fail "a refused one leaves something: $(diff <(echo "$before") <(network))"

play quickstart --check || fail "check mode fails"
play quickstart || fail "it fails"
grep -Eq 'web \(10\.213\.57\.[0-9]+\) asked cache \(10\.213\.57\.[0-9]+\): this is visit [0-9]+\.' "$log" || fail "web did not reach cache"
grep -Eq '\+-- web +eth0 10\.213\.57\.[0-9]+/24  <-- port 8480 of the host to port 80' "$log" || fail "there is no picture"
grep -Eq 'web finds cache at 10\.213\.57\.' "$log" || fail "names are not shown"
# The base and the step that both images begin with are one directory each.
[ "$(grep -Ec '[0-9][MKB]  cache web +/var/lib/bulkhead/layers/' "$log")" = 2 ] || fail "the images do not share two layers"
grep -Eq 'M  are on the disk, .*: [1-9][0-9.]+M saved' "$log" || fail "it does not say what is saved"
told() {
    grep -Eq '[1-9][0-9]* times  web .*\): this is visit N' "$log" && grep -Eq '[1-9][0-9]* times  web .*\): the new page says that this is visit N' "$log" &&
        grep -Eq ' 0 times  no answer; the longest' "$log"
}
told || fail "the client was not answered by both pages, or not each time"
play quickstart || fail "it fails the second time"
told || fail "the second time the client was not answered by both pages, or not each time"
grep -Eq '^localhost .* changed=0 ' "$log" || fail "a second run changes something"

play teardown || fail "teardown fails"
[ "$(network)" = "$before" ] || fail "it leaves something: $(diff <(echo "$before") <(network))"
if [ -e /run/bulkhead ] || [ -n "$(ls /etc/bulkhead)" ]; then fail "it leaves files"; fi
play teardown || fail "a second teardown fails"
grep -Eq '^localhost .* changed=0 ' "$log" || fail "a second teardown changes something"
