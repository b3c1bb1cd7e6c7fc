# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """What every module says of itself; a module extends ``attributes`` and then ``attributes.change`` or ``attributes.info``."""

    DOCUMENTATION = r"""
options: {}
requirements:
  - Linux 5.2 or newer, Python 3.9 or newer, and root (C(become)) on the managed host
attributes:
  action_group:
    description: Use C(group/bulkhead.isolation.bulkhead) in C(module_defaults) to set defaults for this module.
    support: full
    membership:
      - bulkhead.isolation.bulkhead
  platform:
    description: The operating systems that the module works on.
    support: full
    platforms: linux
"""

    CHANGE = r"""
options: {}
attributes:
  check_mode:
    description: Can run in C(check_mode) and predict the changes without touching the host.
    support: full
  diff_mode:
    description: Returns in C(diff) what differs between what the kernel shows and what was declared.
    support: full
  idempotent:
    description: A second run with the same options reports C(changed=false) and makes no change.
    support: full
"""

    INFO = r"""
options: {}
attributes:
  check_mode:
    description: Changes nothing on the host, in C(check_mode) or not.
    support: full
  diff_mode:
    description: Changes nothing, so there is no difference to return.
    support: N/A
  idempotent:
    description: Changes nothing on the host.
    support: full
"""
