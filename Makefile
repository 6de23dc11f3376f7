# orch's own commands. `make run` and `make test` do all set-up themselves on a Debian with Rust.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
CARGO ?= cargo
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

# What building needs, what nodes need, and what tests need beyond that.
BUILD_PACKAGES := gcc libc6-dev protobuf-compiler libprotobuf-dev
RUN_PACKAGES := containerd runc nftables iproute2 curl procps
TEST_PACKAGES := etcd-server docker-registry kubernetes-client

.PHONY: help run stop test check bench fmt schemas todo packages-build packages-run packages-test kubectl

help:
	@echo 'make run     build, start a one-node cluster with nginx, show that it answers'
	@echo 'make stop    end that cluster with everything it runs'
	@echo 'make test    run every test, real nodes included'
	@echo 'make check   format, lints, tidy, documentation'
	@echo 'make bench   print one table of figures; BENCH="--kubeconfig FILE" measures any Kubernetes'

run: packages-build packages-run
	$(CARGO) build --release --locked
	tests/support/run.sh target/release/orch

stop:
	tests/support/stop.sh

test: packages-build packages-run packages-test
	$(CARGO) test --locked --no-fail-fast --lib --bins --test tidy --test cli --test api --test agent
	$(CARGO) test --locked --test node -- --test-threads=1

check: packages-build
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) test --locked --test tidy
	RUSTDOCFLAGS='-D warnings -A rustdoc::private_intra_doc_links' $(CARGO) doc --locked --no-deps --lib --document-private-items

bench: packages-build packages-run
	$(CARGO) bench --locked --bench figures -- $(BENCH)

fmt:
	$(CARGO) fmt

# Rewrites the table of built-in types from the k8s-openapi crate.
schemas:
	$(CARGO) run --locked --features schema-gen --example gen_schemas

todo:
	@grep -rnoE 'TODO\([a-z]+\)' src tests | sed 's/.*TODO//' | sort | uniq -c || true

# Installs what is missing of the packages named; asks nothing and starts no service.
define install
	@missing=$$(for p in $(1); do dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done); \
	if [ -n "$$missing" ]; then \
	  echo "installing:" $$missing; \
	  $(SUDO) apt-get update -q >/dev/null; \
	  policy=; [ -e /usr/sbin/policy-rc.d ] || policy=/usr/sbin/policy-rc.d; \
	  [ -z "$$policy" ] || { printf '#!/bin/sh\nexit 101\n' | $(SUDO) tee $$policy >/dev/null; $(SUDO) chmod +x $$policy; }; \
	  $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $$missing >/dev/null || status=$$?; \
	  [ -z "$$policy" ] || $(SUDO) rm -f $$policy; exit $${status:-0}; \
	fi
endef

packages-build:
	$(call install,$(BUILD_PACKAGES))

packages-run:
	$(call install,$(RUN_PACKAGES))

packages-test:
	$(call install,$(filter-out $(if $(shell command -v kubectl),kubernetes-client),$(TEST_PACKAGES)))
