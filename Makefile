# Everything that is done with gangplank. Needs cargo and make, and nothing else.

CARGO ?= cargo
# Where cargo puts what it builds; the demo takes the binary from there.
TARGET_DIR = $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)

.PHONY: build demo test check bench help

build: ## the release binary (the default)
	$(CARGO) build --release --locked

demo: build ## serve and deploy a sample component, and show what happens
	GANGPLANK='$(TARGET_DIR)/release/gangplank' sh tests/demo.sh

test: ## all tests
	$(CARGO) test --locked

check: ## format, lints and docs, warnings being errors
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --no-deps --locked --document-private-items

bench: ## measure, beside tar (GANGPLANK_BENCH=quick: smaller data)
	$(CARGO) bench --locked --bench bench

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile
