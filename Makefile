# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# make demo         two real services in two real sandboxes on this host, and a table read from the kernel
# make demo-clean   remove them; the root file system stays in its cache
#                   ARGS="-e bulkhead_port=8081": more arguments of ansible-playbook for the demo
# make test         all stages below that need no long time, with counts
# make STAGE        one stage: sanity lint unit layers pyroute2 integration system fallbacks molecule hosts torture bench
# make hosts        what needs a real host: on virtual machines with Debian 12 and 13 (make test: the core of it, on one)
# make torture      every kill point and every injected error (make test: a sample of them)
# make setup        what all of them stand on: Debian packages and .venv (says nothing when it is there)

SHELL := /bin/bash
STAGES := sanity lint unit layers pyroute2 integration system fallbacks molecule hosts

# Ansible keeps what it writes for itself in build/, and works on this host with the Python of .venv.
export PATH := $(CURDIR)/.venv/bin:/usr/local/sbin:/usr/sbin:/sbin:$(PATH)
export LC_ALL := C.UTF-8
export ANSIBLE_COLLECTIONS_PATH := $(CURDIR)/build
export ANSIBLE_HOME := $(CURDIR)/build/ansible
export ANSIBLE_REMOTE_TMP := $(CURDIR)/build/ansible/tmp
export ANSIBLE_CALLBACK_RESULT_FORMAT := yaml
export ANSIBLE_DISPLAY_SKIPPED_HOSTS := false
export BULKHEAD_HOSTS := $(CURDIR)/build/hosts
export ANSIBLE_PYTHON_INTERPRETER := $(CURDIR)/.venv/bin/python
PLAYBOOK := python scripts/tree.py && ansible-playbook --inventory localhost, --connection local

.PHONY: setup setup-demo demo demo-clean test torture bench $(STAGES)

demo: setup-demo
	@$(PLAYBOOK) bulkhead.isolation.quickstart $(ARGS)

demo-clean: setup-demo
	@$(PLAYBOOK) bulkhead.isolation.teardown

setup:
	@scripts/setup

setup-demo:
	@scripts/setup demo

integration system fallbacks molecule torture bench: layers

test: setup
	@python tests/run.py

$(STAGES) torture bench: setup
	@python tests/run.py $@
