# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Between AnsibleModule and the engine. The only file that knows Ansible, and the only one that fails a module."""

from __future__ import annotations

import os

from ansible.module_utils.basic import AnsibleModule

from . import _once  # before all others of ours, whose loading it speeds up
from ._engine import aside
from ._engine.engine import converge
from ._engine.host import Host
from ._model.errors import BulkheadError, reason


_SECRET = ("environment", "env", "content")


def run(resource, argument_spec, **rules):
    """The body of a module that changes: converge, then answer."""
    module = AnsibleModule(argument_spec=argument_spec, supports_check_mode=True, **rules)
    with _Answer(module, resource) as host:
        declared = _declared(module)
        _hide_values(module)
        outcome = converge(host, resource, declared, module.check_mode)
        for text in host.warnings + outcome.joined("warnings"):
            module.warn(text)
        result = dict(changed=outcome.changed, actions=outcome.joined("actions"), restart_required=outcome.joined("restart"))
        result.update(resource.result(host, module.params, outcome))
        if module._diff:
            before, after = outcome.difference()
            result["diff"] = dict(before=before, after=after)
        if outcome.errors:
            failed = [dict(name=plan.key, msg=plan.error.message, **plan.error.keys) for plan in outcome.errors]
            module.fail_json(msg=failed[0]["msg"] if len(failed) == 1 else "Cannot converge %d of %d: %s" % (
                len(failed), len(outcome.plans), " ".join(each["msg"] for each in failed)), failed_items=failed, **result)
        if not module.check_mode:
            _once.keep()
        module.exit_json(**result)


def run_info(resource, argument_spec):
    """The body of an _info module: read, then answer."""
    module = AnsibleModule(argument_spec=argument_spec, supports_check_mode=True)
    with _Answer(module, resource) as host:
        aside.join(host)
        result = resource.info(host, module.params)
        for text in host.warnings:
            module.warn(text)
        module.exit_json(changed=False, **result)


class _Answer:
    """Gives the host to the body, and turns what the engine raises into the module's failure."""

    def __init__(self, module, resource):
        self.module, self.resource = module, resource

    def __enter__(self):
        if os.geteuid() != 0:
            self.module.fail_json(msg="Cannot manage %s: this needs root. Set become: true." % self.resource.NOUN)
        return Host(self._command)

    def _command(self, argv, data, env):
        return self.module.run_command(argv, data=data, environ_update=env, binary_data=isinstance(data, bytes), handle_exceptions=False)

    def __exit__(self, kind, exc, trace):
        if isinstance(exc, BulkheadError):
            self.module.fail_json(msg=exc.message, **exc.keys)
        if isinstance(exc, OSError):
            self.module.fail_json(msg="Cannot manage %s: %s. Mend that on the host and run again." % (self.resource.NOUN, reason(exc)), exception=exc)
        if isinstance(exc, Exception):
            self.module.fail_json(msg="Cannot manage %s: an error of Bulkhead's own, %s: %s. Report it with what -vvv shows." % (
                self.resource.NOUN, kind.__name__, reason(exc)), exception=exc)


def _declared(module):
    """Only what the task named: an option left out is None, and then it is neither compared nor recorded."""
    return {key: value for key, value in module.params.items() if value is not None}


def _hide_values(module):
    """Keep the values of environments and the content of files out of the answer, which may tell the arguments, and take nothing else
    for a secret.

    Options that hold them are declared with no_log, for the system's log; but that would also mask each such value, be it `1`,
    wherever it stands in the answer.
    """
    module.no_log_values.clear()
    module.params = _veiled(module.params)


def _veiled(value, hide=False):
    if isinstance(value, dict):
        return {key: _veiled(each, hide or key in _SECRET) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_veiled(each, hide) for each in value]
    return "VALUE_HIDDEN" if hide and value is not None else value
