#!/bin/sh
# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# root.sh DIRECTORY: a root into which /usr is to be bound. Also used by tests/hosts/test_connection.py.
set -eu

mkdir -p "$1"
cd "$1"
mkdir -p etc root srv tmp usr dev proc sys run home/www
ln -s usr/bin usr/sbin usr/lib .
[ ! -e /lib64 ] || ln -s usr/lib64 .
chmod 1777 tmp
chown 33:33 home/www
printf 'root:x:0:0::/root:/bin/sh\nwww:x:33:33::/home/www:/bin/sh\n' >etc/passwd
printf 'root:x:0:\nwww:x:33:\n' >etc/group
