# Every target is one line here and a script in scripts/; the workflow runs the same ones.
.DEFAULT_GOAL := help
.PHONY: help run test chaos test-cluster test-cluster-full bench lint build images fmt coverage fuzz sqlx-prepare clean

help: ## list what make can do
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## build and start a server and an agent here, until Ctrl-C
	@scripts/run

test: ## run every test against a private PostgreSQL, ending with the count
	@scripts/test

chaos: ## let everything fail that can, for half an hour, and compare the books
	@scripts/chaos

test-cluster: ## install the chart in the cluster of KUBECONFIG, use it and hurt it
	@GOLECTRA_CLUSTER_TESTS=required scripts/test -p golectra-tests --test cluster

test-cluster-full: ## the same with ten rollouts, a long outage and a Prometheus
	@GOLECTRA_CLUSTER_TESTS=required GOLECTRA_CLUSTER_FULL=1 scripts/test -p golectra-tests --test cluster

bench: ## measure golectra beside others for an hour, ending with the tables
	@scripts/bench

lint: ## check formatting, clippy, documentation, licences, scripts and workflows
	@scripts/lint

build: ## build the release programs into target/release
	@scripts/build

images: ## build the container images and load them into kind, k3d or minikube
	@scripts/images

fmt: ## format the code
	@cargo fmt --all

coverage: ## measure what the tests reach (needs cargo-llvm-cov)
	@scripts/coverage

fuzz: ## feed the decoder random input for a minute (needs nightly and cargo-fuzz)
	@scripts/fuzz

sqlx-prepare: ## write .sqlx anew after a query or a migration changed
	@scripts/sqlx-prepare

clean: ## remove what was built; your data in data/ stays
	@cargo clean
