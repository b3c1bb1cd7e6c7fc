# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Names of capabilities and their bits (capabilities(7), include/uapi/linux/capability.h)."""

from __future__ import annotations

# in the order of their bits
NAMES = (
    "chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable net_bind_service net_broadcast "
    "net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot sys_ptrace sys_pacct sys_admin sys_boot sys_nice "
    "sys_resource sys_time sys_tty_config mknod lease audit_write audit_control setfcap mac_override mac_admin syslog wake_alarm "
    "block_suspend audit_read perfmon bpf checkpoint_restore").split()
BITS = {name: bit for bit, name in enumerate(NAMES)}

# Root inside with one of these can reach the host, unless a user namespace makes them its own.
POWERFUL = frozenset(("dac_read_search", "sys_module", "sys_rawio", "sys_ptrace", "sys_admin", "sys_boot", "sys_time", "mknod",
                      "mac_override", "mac_admin", "syslog", "perfmon", "bpf", "checkpoint_restore", "net_admin", "sys_chroot"))


def bit(name):
    """The bit of a capability, or None. `CAP_` and upper case are taken too."""
    if not isinstance(name, str):
        return None
    word = name.lower()
    return BITS.get(word[4:] if word.startswith("cap_") else word)


def names(bits):
    """Sorted names of a list of bits; a bit that is newer than this list shows as its number."""
    return sorted(NAMES[one] if one < len(NAMES) else str(one) for one in bits)


def members(mask):
    """The names of a set as /proc/PID/status shows it: a number with one bit for each."""
    return names([one for one in range(64) if mask >> one & 1])
