# make help: what there is.
SHELL := /bin/bash
GOLANGCI_VERSION := 2.15.0

.DEFAULT_GOAL := help
.PHONY: help demo test test-race cover bench fuzz lint fmt brokers-up brokers-down

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  %-14s %s\n", $$1, $$2 }'

demo: ## Run the AURA360 flow, live
	@go run ./cmd/demo

test: ## Run all tests, on the brokers that are there (TEST_FLAGS=... for go test)
	@scripts/test $(if $(filter yes,$(TEST_RACE)),--race) $(TEST_FLAGS)

test-race: ## The same; fail where the race detector cannot run
	@scripts/test --race $(TEST_FLAGS)

cover: ## Run all tests, report coverage, fail under COVER_MIN (85) percent
	@scripts/test --no-race --cover $(TEST_FLAGS)

bench: ## Run the benchmarks
	@scripts/bench

fuzz: ## Run every fuzz test for FUZZTIME (30s)
	@scripts/fuzz

lint: bin/golangci-lint-$(GOLANGCI_VERSION) ## Check style and formatting
	@$< run

fmt: bin/golangci-lint-$(GOLANGCI_VERSION) ## Format the code
	@$< fmt

brokers-up: ## Start a real Kafka and Redis, installing what is missing
	@scripts/brokers up

brokers-down: ## Stop them and remove their data
	@scripts/brokers down

# An installed one of this very version is used; another version is not.
bin/golangci-lint-$(GOLANGCI_VERSION):
	@mkdir -p bin
	@for p in "$$(command -v golangci-lint)" "$$(go env GOPATH)/bin/golangci-lint"; do \
		if [ -x "$$p" ] && "$$p" version 2>/dev/null | grep -qF ' $(GOLANGCI_VERSION) '; then \
			ln -sf "$$p" $@; exit 0; \
		fi; \
	done; \
	echo "installing golangci-lint $(GOLANGCI_VERSION)"; \
	GOBIN=$(CURDIR)/bin go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v$(GOLANGCI_VERSION) && \
	mv bin/golangci-lint $@
