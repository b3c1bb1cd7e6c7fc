# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How a sandbox comes from the image that it runs with to another one."""

from __future__ import annotations

from .._kernel.syscalls import MOUNT_ATTR_RDONLY
from . import values

KEYS = ("upper", "trial", "drain", "retry")
UPPERS = ("keep", "fresh", "refuse")
SUFFIX = ".trial"  # of the name of the sandbox that a new image is tried in, beside the one that runs
BESIDE = (".previous", ".older")  # what comes after the name of what an upgrade keeps beside what is written now
DRAIN = 1000000


class UpgradeSpec:
    """``upper``: what becomes of what was written: keep, fresh, or refuse another image. ``drain``: microseconds that connections have to
    end in. ``back``: to the version before. ``version``: one to run with whatever the image is now (`_resources/_versions.py`), of who
    brings back what was before. ``trial``: first beside the one that runs; None: where `upper` says that images come and go.
    """

    __slots__ = KEYS + ("back", "version")

    @classmethod
    def from_options(cls, options, path, problems):
        """``options``: the value of `upgrade:`, None where nothing is declared."""
        spec, options = cls(), values.mapping(options, path, problems, known=KEYS)

        def each(key, parse, *rest):
            value = options.get(key)
            return None if value is None else parse(value, "%s.%s" % (path, key), problems, *rest)

        spec.upper = each("upper", values.choice, UPPERS) or "refuse"
        spec.trial = each("trial", values.boolean)
        drain = each("drain", values.time_us, 0, 600000000)
        spec.drain = DRAIN if drain is None else drain
        spec.retry = each("retry", values.boolean) or False
        spec.back, spec.version = False, None
        return spec


def of_trial(name):
    """The sandbox that a trial is of; None where the name is of none."""
    return name[:-len(SUFFIX)] if name.endswith(SUFFIX) else None


def declaration(name, options, driver):
    """The declaration of the trial of a sandbox that is declared so.

    It has an address of its own on the same networks and is published nowhere; of other interfaces there cannot be two. It starts at
    no boot, and is written to in a place of its own.
    """
    found = {key: value for key, value in options.items() if key not in ("upgrade", "network", "interfaces", "overlay", "storage")}
    found["name"] = name + SUFFIX
    overlay = {key: value for key, value in (options.get("overlay") or {}).items() if key not in ("upper", "work")}
    if overlay:
        found["overlay"] = overlay
    if options.get("storage") is not None:
        found["storage"] = {"driver": driver}
        if options["storage"].get("pool") is not None:
            found["storage"]["pool"] = options["storage"]["pool"]
    network = options.get("network")
    if network is not None:
        found["network"] = _member(network if isinstance(network, dict) else {"name": network})
    more = [_member(each) for each in options.get("interfaces") or () if each.get("network") is not None]
    if more:
        found["interfaces"] = more
    found["services"] = [dict(each, enabled=False) for each in options.get("services") or ()]
    return found


def _member(options):
    return {key: value for key, value in options.items() if key not in ("addresses", "mac", "publish", "aliases", "routes", "rules")}


def obstacle(spec):
    """Why there cannot be two of a sandbox at once, or None."""
    if spec.namespaces is None or "net" not in (spec.namespaces.types or ()):
        return "both would have the net namespace of the host, and so the same ports"
    if not values.is_name(spec.key + SUFFIX):
        return "the name %s%s is too long" % (spec.key, SUFFIX)
    for want in spec.root.bind if spec.root is not None else ():
        if not want.flags & MOUNT_ATTR_RDONLY:
            return "its bind on %s can be written to, and both would" % want.target
    return None
