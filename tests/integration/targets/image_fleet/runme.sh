#!/usr/bin/env bash
# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Images of a fleet: made on one host, copied to another, which is this machine in a mount namespace with a store of its own.
set -euo pipefail

top=/run/image-fleet
log=$(mktemp)
three=three
source=builder
mkdir -p $top/base/etc
unshare --mount --propagation private sh -c 'mkdir -p /var/lib/bulkhead /run/bulkhead && mount -t tmpfs other /var/lib/bulkhead &&
    mount -t tmpfs other /run/bulkhead && mount -t tmpfs ready /mnt && exec sleep 1000000' &
other=$!
trap 'rm -rf "$log" $top; kill $other' EXIT
export ANSIBLE_HOME=$top/controller

fail() {
    cat "$log"
    echo "image_fleet: $*" >&2
    exit 1
}

play() {
    ansible-playbook --inventory $top/inventory.yml --limit builder,other play.yml \
        --extra-vars "fleet_top=$top fleet_three=$three fleet_source=$source" "$@" >"$log" 2>&1
}

# As it should be: made or unchanged on both, equal on both, so many layers copied; and nothing is left of that on any of the three.
went() {
    local changed=$1 layers=$2
    [ "$(grep -cE '^(builder|other) .*failed=0 ' "$log")" = 2 ] || fail "a host has failed"
    if [ "$changed" = no ]; then
        [ "$(grep -cE '^(builder|other) .*changed=0 ' "$log")" = 2 ] || fail "it is not unchanged"
    fi
    grep -q "copied $layers layers" "$log" || fail "other than $layers layers were copied"
    [ "$(grep -o 'images sha256:.* copied' "$log" | sort -u | wc -l)" = 1 ] || fail "the two differ"
    clean
}

clean() {
    local left
    left=$(find /var/tmp -name '*bulkhead-*'; find $top/controller -name 'bulkhead-*'
        find /var/lib/bulkhead $there/var/lib/bulkhead -name bundles -o -name archives -o -name '.*')
    [ -z "$left" ] || fail "left behind: $left"
}

refused() {
    ! play "${@:2}" || fail "it was not refused: $1"
    tr -s ' \n' '  ' <"$log" | grep -qF -- "$1" || fail "it was refused with other words than: $1"
    clean
}

there=/proc/$other/root
until grep -q ' /mnt .* ready ' /proc/$other/mountinfo; do sleep 0.05; done
head -c 300000 /dev/urandom >$top/base/data
printf '#!/bin/sh\nexec nsenter --mount --target %s -- %s "$@"\n' $other "$ANSIBLE_TEST_PYTHON_INTERPRETER" >$top/python
chmod 755 $top/python
cat >$top/inventory.yml <<WORDS
all:
  vars: {ansible_connection: local, ansible_pipelining: true}
  hosts:
    builder: {ansible_python_interpreter: "$ANSIBLE_TEST_PYTHON_INTERPRETER"}
    other: {ansible_python_interpreter: $top/python}
    localhost: {ansible_python_interpreter: "$ANSIBLE_TEST_PYTHON_INTERPRETER"}
WORDS

play --check || fail "it cannot be predicted"
grep -qE '^other .*changed=2 .*failed=0 ' "$log" || fail "other is not predicted: its copies, and what stands on them"
[ ! -e $there/var/lib/bulkhead/images ] || fail "a check made something"
play || fail "it is not made"
went yes 4
for check in --check ""; do
    play $check || fail "it is not unchanged"
    went no 0
done

# Three of four layers are there.
three=3
for check in --check ""; do
    play $check || fail "a layer is not changed"
    [ -z "$check" ] || grep -qE '^other .*changed=1 .*failed=0 ' "$log" || fail "a changed layer is not predicted"
done
went yes 1
bytes=$(grep -oE 'copied 1 layers [0-9]+' "$log" | cut -d ' ' -f 4)
((bytes < 10000)) || fail "$bytes bytes were copied for a small layer"

# Damaged there: found when that is asked for, and made again of what is here, which is the one that is known.
digest=$(grep -oE 'images sha256:[0-9a-f]+' "$log" | head -n 1 | cut -d ' ' -f 2)
layer=$(find $there/var/lib/bulkhead/layers -path '*/tree/data' | head -n 1)
echo changed >>"$layer"
play --extra-vars "{\"bulkhead_images\": [{\"name\": \"it-base\", \"from_host\": \"builder\", \"verify\": true, \"digest\": \"$digest\"}]}" || fail "damage is not mended"
went yes 1
cmp "$layer" $top/base/data || fail "damage is still there"

# Refused, and nothing stays.
refused "Cannot copy image it-none from builder: there is none" --extra-vars '{"bulkhead_images": [{"name": "it-none", "from_host": "builder"}]}' --limit other
refused "the inventory has no host nowhere" --extra-vars '{"bulkhead_images": [{"name": "it-none", "from_host": "nowhere"}]}' --limit other
digest=sha256:$(printf '0%.0s' {1..64})
refused "not the one that is declared" --limit other \
    --extra-vars "{\"bulkhead_images\": [{\"name\": \"it-base\", \"from_host\": \"builder\", \"digest\": \"$digest\"}]}"
three=tampered
play --limit builder || fail "a layer is not changed on the builder"
layer=$(grep -rl --include=three tampered /var/lib/bulkhead/layers)
cp -p "$layer" $top/kept
echo with >>"$layer"
refused "is not what its digest says" --limit other
! grep -rq --include=three tampered $there/var/lib/bulkhead/layers || fail "a layer that was tampered with is there"
cp -p $top/kept "$layer"

# Killed while it is copied: the next run uses what is left, and removes it.
play &
pid=$!
until compgen -G "$top/controller/bulkhead-*/*" >/dev/null; do sleep 0.02; done
kill -KILL $pid $(pgrep -P $pid)
wait $pid 2>/dev/null || true
compgen -G "/var/tmp/bulkhead-*" >/dev/null || fail "it was killed too late"
play || fail "it is not made after a run was killed"
went yes 1

# The controller as the source, which is here the builder.
three=last
play --limit builder || fail "it is not made on the controller"
source=localhost
play --limit other || fail "it is not copied from the controller"
grep -q "copied 1 layers" "$log" || fail "other than 1 layer was copied from the controller"
clean

for place in "" "nsenter --mount --target $other --"; do
    for what in "name=it-own state=absent" "name=it-shop state=absent" "name=it-base state=absent prune=true"; do
        $place ansible localhost -m bulkhead.isolation.image -a "$what" >"$log" 2>&1 || fail "$what: it cannot be removed"
    done
done
[ -z "$(find /var/lib/bulkhead/{layers,images} $there/var/lib/bulkhead/{layers,images} -mindepth 1)" ] || fail "layers are left"
