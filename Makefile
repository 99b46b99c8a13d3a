# gangplank: everything that one does with the checkout.

CARGO ?= cargo

.PHONY: build demo test check bench help

build: ## Build the binary: target/release/gangplank
	$(CARGO) build --release --locked

demo: build ## Deploy a sample component to a server of its own, see it run, clean up
	sh tests/demo.sh target/release/gangplank

test: ## Run all tests
	$(CARGO) test --locked

check: ## Formatting, lints and docs, without a warning
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS=-Dwarnings $(CARGO) doc --locked --no-deps --document-private-items

bench: ## Measure against tar pipes; some minutes and 5 GB of disk
	$(CARGO) bench --locked --bench bench

help: ## This list
	@sed -n 's/^\([a-z]*\):.*## /\1	/p' Makefile
