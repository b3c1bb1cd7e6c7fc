# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who keeps services running on this host.

A supervisor is a module with this interface (`runit.py`, `systemd.py`; what both do alike is in `common.py`):

    OWN_CGROUP                      is each service born in a cgroup of its own, which the supervisor makes in that of the sandbox?
    require(host, name, pid)        refuse a host that lacks what this service needs; pid: it has a pid namespace
    render(host, unit, dump)        {path: text} of a `common.Unit`; pure, and all that a start is made from
    read(host, name)                the same as it lies there, or None; equal dicts mean that there is nothing to write
    write(host, name, files)        make it so; bears what a killed run left
    remains(host, name)             is something left of a service that read() does not find?
    remove(host, name, timeout, keep_log)   stop it, and take all of that away
    names(host)                     of all services of which something is there
    expect(host, names)             these are going to be asked about: what can be asked at once is
    status(host, name)              {state: started, stopped, finishing; pid; want: started, stopped; since} or None: not watched
    main_pid(host, name, status)    the process of the command itself, None while it is on its way in
    started(host, name)             the text of the entry's spec that the running process was started with, or None
    start(host, name)               start it and wait until its command runs, or raise with its last words
    stop(host, name, timeout)       ask it to end, kill it after that time; returns when it is gone
    forget(host, name)              of a stopped service: have it come up anew also in what only its first start looks at
    directory(host, name)           where spec.json, started.json, options.json and health.json lie
    checking(host, name)            the words that run its health check
    within(host, group, words)      the words that run `words`, an entry, in a cgroup beside the services of the cgroup `group`
    log_directory(host, name), log_file(host, name)     where its log is, None where it is in no file
    last_words(host, name)          the last line that it wrote, or ''
"""

from __future__ import annotations


def pick(host):
    """The supervisor of a host."""
    if host.systemd:
        from . import systemd
        return systemd
    from . import runit
    return runit
