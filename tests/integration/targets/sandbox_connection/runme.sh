#!/usr/bin/env bash
# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Plays inside a sandbox: modules, facts and files of Ansible's own, and what they must not reach outside.
set -euo pipefail

export top=/run/sandbox-connection
export ANSIBLE_HOME=$top/controller
log=$(mktemp)
trap 'rm -rf "$log" $top' EXIT
sh root.sh $top/root
cat >$top/inventory.yml <<WORDS
all:
  vars: {sandbox_top: $top, bulkhead_program: $top/bulkhead}
  hosts:
    outside: {ansible_connection: local, ansible_python_interpreter: "$ANSIBLE_TEST_PYTHON_INTERPRETER"}
  children:
    inside:
      vars: {ansible_connection: bulkhead.isolation.sandbox_local, ansible_python_interpreter: /usr/bin/python3}
      hosts:
        piped: {bulkhead_sandbox: it-inside, ansible_pipelining: true}
        copied: {bulkhead_sandbox: it-inside, ansible_pipelining: false}
        service: {bulkhead_sandbox: it-inside/idle, bulkhead_sandbox_user: www}
    wrong:
      vars: {ansible_connection: bulkhead.isolation.sandbox_local}
      hosts:
        absent: {bulkhead_sandbox: it-absent}
        named: {bulkhead_sandbox: "it-inside;id"}
        unnamed: {}
        without: {bulkhead_sandbox: it-inside, bulkhead_program: $top/nowhere}
WORDS

ansible-playbook --inventory $top/inventory.yml play.yml "$@"

# Who cannot be entered is unreachable, and is told why.
said() {
    if ansible --inventory $top/inventory.yml "$1" -m ansible.builtin.raw -a "echo was here" >"$log" 2>&1; then
        cat "$log"
        echo "sandbox_connection: $1 was entered" >&2
        exit 1
    fi
    tr -s ' \n' '  ' <"$log" | grep -qF -- "$2" || { cat "$log" && echo "sandbox_connection: $1 was refused with other words" >&2 && exit 1; }
}

ansible --inventory $top/inventory.yml outside -m bulkhead.isolation.host -a "program=$top/bulkhead" >"$log" 2>&1 || { cat "$log" && exit 1; }
said absent "UNREACHABLE"
said absent "Cannot enter it-absent: there is no such sandbox"
said named "it is not the name of a sandbox"
said unnamed "Required config 'sandbox'"
said without "its host does not have $top/nowhere. Run the role bulkhead.isolation.host there"
ansible --inventory $top/inventory.yml outside -m bulkhead.isolation.host -a "program=$top/bulkhead state=absent remove_data=true" >"$log" 2>&1 || { cat "$log" && exit 1; }
